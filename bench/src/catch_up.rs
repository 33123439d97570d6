//! Catching up: how fast the pool follows a log of a million events, against the fastest that the
//! same machine can read that log at all (an ordered consumer that drops every message).

use std::{path::Path, time::Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use bus::{Bus, managed::ManagedServer};
use consumers::{
    Service, ServiceConfig,
    runtime::replay::{Until, Watcher},
};
use futures_util::StreamExt as _;
use projector::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, Outcome,
    report::{Rounds, Section},
};

/// Share of the raw read rate that projection has to reach.
pub(crate) const SHARE_MIN: f64 = 0.6;

/// Reads, projects and rebuilds the log `stream` of `events` events in turn, `rounds` times.
pub(crate) async fn run(
    server: &ManagedServer,
    bus: &Bus,
    stream: &str,
    events: u64,
    rounds: usize,
    scratch: &Path,
) -> Outcome<Section> {
    let (mut raw, mut projected, mut rebuilt) = (vec![], vec![], vec![]);
    let (mut project_share, mut rebuild_share) = (vec![], vec![]);
    for round in 0..rounds {
        let read = raw_read(server, stream, events).await?;
        let dir = scratch.join(format!("round-{round}"));
        std::fs::create_dir_all(&dir)?;
        let (project, rebuild) = project(bus, stream, events, &dir).await?;
        std::fs::remove_dir_all(&dir)?;
        eprintln!("  round {round}: raw {read:.0}, projected {project:.0}, rebuilt {rebuild:.0} ev/s");
        raw.push(read);
        projected.push(project);
        rebuilt.push(rebuild);
        project_share.push(project / read);
        rebuild_share.push(rebuild / read);
    }
    let how = format!(
        "{events} chained events in binary form over 100,000 resources, {rounds} interleaved rounds. Raw: an ordered \
         consumer of async-nats that drops every message. Projected: the service from an empty pool to the log's end, \
         with fsync. Rebuilt: the same log into a \
         second pool while the first lives on, as `farside rebuild` does before it compares."
    );
    let mut section = Section::new("Catching up", how);
    let rate = |rates: &[f64]| {
        let rounds = Rounds::of(rates);
        (format!("{:.0} ev/s", rounds.median), rounds.spread(0, "ev/s"))
    };
    for (what, rates) in
        [("raw ordered read (the limit)", &raw), ("projected", &projected), ("rebuilt", &rebuilt)]
    {
        let (value, spread) = rate(rates);
        section.add(what, value, spread);
    }
    for (what, shares) in [("projected ÷ raw", &project_share), ("rebuilt ÷ raw", &rebuild_share)] {
        let rounds = Rounds::of(shares);
        let met = rounds.median >= SHARE_MIN;
        section.judge(what, format!("{:.2}", rounds.median), rounds.spread(2, ""), "≥ 0.6 (aim 0.8)", met);
    }
    Ok(section)
}

pub(crate) async fn raw_read(server: &ManagedServer, stream: &str, events: u64) -> Outcome<f64> {
    let client = crate::raw_client(server).await?;
    let stream = async_nats::jetstream::new(client).get_stream(stream).await?;
    let config = OrderedConfig { deliver_policy: DeliverPolicy::All, ..OrderedConfig::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let start = Instant::now();
    for _ in 0..events {
        messages.next().await.ok_or("the log ended early")??;
    }
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

/// The rates of projecting and of rebuilding, in events per second.
async fn project(bus: &Bus, stream: &str, events: u64, dir: &Path) -> Outcome<(f64, f64)> {
    let store = Store::open(&dir.join("pool.redb"), StoreOptions::default())?;
    let service = Service::build(ServiceConfig::default(), bus.clone(), store)?;
    let (handle, shutdown) = (service.handle(), CancellationToken::new());
    let start = Instant::now();
    let running = tokio::spawn(service.run(shutdown.clone()));
    handle.progress().passes(stream, events, DEADLINE).await?;
    let projected = events as f64 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    let replayed = handle.replay(&[(stream.to_owned(), Until::Now)], &Silent).await?;
    let rebuilt = events as f64 / start.elapsed().as_secs_f64();
    drop(replayed);
    shutdown.cancel();
    running.await??;
    Ok((projected, rebuilt))
}

/// Hears nothing.
struct Silent;

impl Watcher for Silent {
    fn read(&self, _: &str, _: u64, _: u64) {}
}
