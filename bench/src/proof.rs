//! What proof costs: chains that are checked while the pool follows the log, scrubs, verifications, exports; each against
//! the fastest that the same machine can read the same log at all.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use bus::{Bus, managed::ManagedServer};
use consumers::{
    Handle, Service, ServiceConfig,
    runtime::{bounds::Bounds, replay::Unwatched},
};
use projector::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, Outcome,
    catch_up::raw_read,
    load::Load,
    report::{Rounds, Section},
};

/// Events of each log.
pub(crate) const EVENTS: u64 = 300_000;
/// Resources that they go round.
const KEYS: u64 = 100_000;
/// Most of the projection's speed that the chain may cost.
const CHAIN_SHARE_MIN: f64 = 0.9;
/// Share of the raw read rate that a verification has to reach.
const VERIFY_SHARE_MIN: f64 = 0.5;

/// One log, and what was measured of it; in events per second.
struct Log {
    stream: String,
    raw: Vec<f64>,
    projected: Vec<f64>,
    scrubbed: Vec<f64>,
    verified: Vec<f64>,
}

/// Measures a log of chained events and one of the same events without chains, in turn: one directly after the other, and
/// each as often the first of the two, for a machine that others use changes from one minute to the next.
pub(crate) async fn run(
    server: &ManagedServer,
    bus: &Bus,
    rounds: usize,
    scratch: &Path,
) -> Outcome<Section> {
    let mut chained = Log::store(bus, Load::new("proved", KEYS), "proved").await?;
    let mut bare = Log::store(bus, Load::unchained("bare", KEYS), "bare").await?;
    for round in 0..rounds {
        let mut pair = [&mut chained, &mut bare];
        if round % 2 == 1 {
            pair.reverse();
        }
        for log in &mut pair {
            log.raw.push(raw_read(server, &log.stream, EVENTS).await?);
        }
        for log in &mut pair {
            log.project(bus, scratch).await?;
        }
        chained.prove(bus, scratch).await?;
        for log in [&chained, &bare] {
            fs::remove_dir_all(log.directory(scratch))?;
        }
    }
    Ok(section(&chained, &bare, rounds))
}

fn section(chained: &Log, bare: &Log, rounds: usize) -> Section {
    let how = format!(
        "Two logs of {EVENTS} events over {KEYS} resources, with chains and without, {rounds} interleaved rounds. Raw: an \
         ordered consumer of async-nats that drops every message. Projected: the service from an empty pool to the log's \
         end, with fsync; the running hash over every message and its seal are in both. Scrubbed and verified: by the \
         service that has that pool, of the whole log."
    );
    let mut section = Section::new("Proof", how);
    let ratio =
        |of: &[f64], to: &[f64]| Rounds::of(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>());
    for (what, rates) in [
        ("raw ordered read, chained", &chained.raw),
        ("raw ordered read, no chain", &bare.raw),
        ("projected, chained", &chained.projected),
        ("projected, no chain", &bare.projected),
        ("scrubbed, chained", &chained.scrubbed),
        ("verified, chained", &chained.verified),
    ] {
        let rates = Rounds::of(rates);
        section.add(what, format!("{:.0} ev/s", rates.median), rates.spread(0, "ev/s"));
    }
    let cost = ratio(&chained.projected, &bare.projected);
    let met = cost.median >= CHAIN_SHARE_MIN;
    section.judge(
        "projected, chained ÷ no chain",
        format!("{:.2}", cost.median),
        cost.spread(2, ""),
        "≥ 0.9",
        met,
    );
    let share = ratio(&chained.scrubbed, &chained.raw);
    section.add("scrubbed ÷ raw", format!("{:.2}", share.median), share.spread(2, ""));
    let share = ratio(&chained.verified, &chained.raw);
    let met = share.median >= VERIFY_SHARE_MIN;
    section.judge("verified ÷ raw", format!("{:.2}", share.median), share.spread(2, ""), "≥ 0.5", met);
    section
}

impl Log {
    async fn store(bus: &Bus, mut load: Load, site: &str) -> Outcome<Self> {
        let stream = crate::site_stream(bus, site).await?;
        load.store(bus, &stream, EVENTS).await?;
        Ok(Self { stream, raw: vec![], projected: vec![], scrubbed: vec![], verified: vec![] })
    }

    fn directory(&self, scratch: &Path) -> PathBuf {
        scratch.join(format!("proof-{}", self.stream))
    }

    /// The service over this log, with the pool that is there.
    fn service(&self, bus: &Bus, scratch: &Path) -> Outcome<Service> {
        let directory = self.directory(scratch);
        fs::create_dir_all(&directory)?;
        let site = self.stream.trim_start_matches("FARSIDE_").to_lowercase().parse()?;
        let config = ServiceConfig { sites: vec![site], ..ServiceConfig::default() };
        let store = Store::open(&directory.join("pool.redb"), StoreOptions::default())?;
        Ok(Service::build(config, bus.clone(), store)?)
    }

    async fn project(&mut self, bus: &Bus, scratch: &Path) -> Outcome<()> {
        let service = self.service(bus, scratch)?;
        let (handle, shutdown) = (service.handle(), CancellationToken::new());
        let start = Instant::now();
        let running = tokio::spawn(service.run(shutdown.clone()));
        handle.progress().passes(&self.stream, EVENTS, DEADLINE).await?;
        self.projected.push(EVENTS as f64 / start.elapsed().as_secs_f64());
        shutdown.cancel();
        Ok(running.await??)
    }

    async fn prove(&mut self, bus: &Bus, scratch: &Path) -> Outcome<()> {
        let service = self.service(bus, scratch)?;
        let (handle, shutdown) = (service.handle(), CancellationToken::new());
        let running = tokio::spawn(service.run(shutdown.clone()));
        self.read_again(&handle).await?;
        shutdown.cancel();
        Ok(running.await??)
    }

    async fn read_again(&mut self, handle: &Handle) -> Outcome<()> {
        let mut lease = handle.lease();
        tokio::time::timeout(DEADLINE, lease.wait_for(|held| *held)).await??;
        let start = Instant::now();
        handle.scrub(&self.stream).await?;
        self.scrubbed.push(EVENTS as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        let bounds = Bounds { stream: Some(self.stream.clone()), ..Bounds::default() };
        let verified = handle.verify(bounds, &Unwatched).await?;
        self.verified.push(EVENTS as f64 / start.elapsed().as_secs_f64());
        match verified.faults.first() {
            None => Ok(()),
            Some(fault) => Err(format!("the log does not verify: {}", fault.text).into()),
        }
    }
}
