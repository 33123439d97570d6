//! Time travel: what a moment of the past costs, against the load of the snapshot before it and the events behind that, read at
//! 0.6 of the raw rate.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use audit::KeyFile;
use bus::{Bus, managed::ManagedServer};
use bus_schema::subject;
use consumers::{
    Handle, Service, ServiceConfig,
    runtime::replay::{Until, Unwatched},
    snapshot::{Label, Shelf},
};
use projector::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, Outcome,
    catch_up::{SHARE_MIN, raw_read},
    load::Load,
    report::{Rounds, Section},
};

/// The site, and the target of its own: its checkpoints are signed by a key of their own.
const SITE: &str = "past";
/// Resources that the events go round.
const KEYS: u64 = 100_000;
/// Moments that are travelled to, beside the one right before a snapshot.
const POINTS: u64 = 6;
/// Snapshots that have to be there.
const SNAPSHOTS_MIN: usize = 2;
/// One takes seconds; when none has come for so long, none is being taken.
const SETTLED: Duration = Duration::from_secs(15);
/// The golden section in billionths: its multiples lie all over the log, and are the same in every run.
const SECTION: u64 = 618_033_989;
const BILLION: u64 = 1_000_000_000;

/// The log, the service that took the snapshots, and where they end.
struct Log<'a> {
    bus: &'a Bus,
    handle: Handle,
    stream: String,
    target: String,
    /// The last sequence in each snapshot, in order.
    snapshots: Vec<u64>,
}

/// One moment, and what was measured of it, in seconds.
struct Point {
    seq: u64,
    /// The end of the snapshot that it starts from; 0 = it starts with the log.
    from: u64,
    loads: Vec<f64>,
    limits: Vec<f64>,
    totals: Vec<f64>,
}

/// Stores the log while the service runs, and travels to each point, `rounds` times.
pub(crate) async fn run(
    server: &ManagedServer,
    bus: &Bus,
    events: u64,
    rounds: usize,
    scratch: &Path,
) -> Outcome<Section> {
    let directory = scratch.join(SITE);
    fs::create_dir_all(&directory)?;
    let stream = crate::site_stream(bus, SITE).await?;
    let config = config(events)?;
    let target = subject::target_stream(&config.target);
    let store = Store::open(&directory.join("pool.redb"), StoreOptions::default())?;
    let keys = KeyFile::new(&directory.join("signing.nk"));
    let shelf = Shelf::open(&directory.join("snapshots"))?;
    let service = Service::build(config, bus.clone(), store)?.signing_with(keys).keeping(shelf);
    let (handle, shutdown) = (service.handle(), CancellationToken::new());
    let running = tokio::spawn(service.run(shutdown.clone()));
    Load::new(SITE, KEYS).store(bus, &stream, events).await?;
    handle.progress().passes(&stream, events, DEADLINE).await?;
    let mut log = Log { bus, handle, stream, target, snapshots: Vec::new() };
    log.await_snapshots().await?;
    // Nothing beside what is measured: a replay needs the logs and the shelf, and no service.
    shutdown.cancel();
    running.await??;
    let mut points = log.points(events);
    let mut raw = Vec::new();
    for round in 0..rounds {
        eprintln!("  round {round}, snapshots that end at {:?}", log.snapshots);
        let rate = raw_read(server, &log.stream, events).await?;
        for point in &mut points {
            log.measure(point, rate).await?;
        }
        raw.push(rate);
    }
    fs::remove_dir_all(&directory)?;
    Ok(section(&log, &points, &raw, events, rounds))
}

/// What is built in, for a million events; of fewer, as many snapshots.
fn config(events: u64) -> Outcome<ServiceConfig> {
    let mut config =
        ServiceConfig { target: SITE.parse()?, sites: vec![SITE.parse()?], ..ServiceConfig::default() };
    config.snapshot.events = events / 4;
    config.checkpoint.events = events / 10;
    Ok(config)
}

/// The last sequence of the one site log in a snapshot.
fn end_of(label: &Label) -> u64 {
    label.sites.iter().map(|place| place.seq).sum()
}

impl Log<'_> {
    /// Waits until there are some snapshots, and no further one comes.
    async fn await_snapshots(&mut self) -> Outcome<()> {
        let (start, mut since) = (Instant::now(), Instant::now());
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while start.elapsed() < DEADLINE {
            second.tick().await;
            let labels = self.handle.shelf().ok_or("the service has no shelf")?.labels()?;
            let ends: Vec<u64> = labels.iter().map(end_of).collect();
            if ends != self.snapshots {
                (self.snapshots, since) = (ends, Instant::now());
            }
            if self.snapshots.len() >= SNAPSHOTS_MIN && since.elapsed() > SETTLED {
                return Ok(());
            }
        }
        Err(format!("the snapshots end with {:?}", self.snapshots.last()).into())
    }

    /// Moments all over the log, and the one that is farthest behind a snapshot.
    fn points(&self, events: u64) -> Vec<Point> {
        let worst = self.snapshots.last().map_or(events, |end| end - 1);
        let anywhere = |nth| nth * SECTION % BILLION * events / BILLION + 1;
        let mut seqs: Vec<u64> = (1..=POINTS).map(anywhere).chain([worst]).collect();
        seqs.sort_unstable();
        let from = |seq| self.snapshots.iter().rfind(|end| **end <= seq).copied().unwrap_or(0);
        let point = |seq| Point { seq, from: from(seq), loads: vec![], limits: vec![], totals: vec![] };
        seqs.into_iter().map(point).collect()
    }

    /// Travels to a point as `pool --at` does, and to the end of its snapshot, which is nothing but loading that; where there
    /// is none, to before the first event, which is nothing but making an empty store.
    async fn measure(&self, point: &mut Point, raw_rate: f64) -> Outcome<()> {
        let load =
            if point.from == 0 { 0.0 } else { self.travel(point.from, Until::Now, point.from).await? };
        let message = self.bus.message(&self.stream, point.seq).await?.ok_or("the log has lost a message")?;
        let total = self.travel(point.seq, Until::Time(message.stored_at()), point.from).await?;
        point.loads.push(load);
        point.limits.push(load + (point.seq - point.from) as f64 / (SHARE_MIN * raw_rate));
        point.totals.push(total);
        Ok(())
    }

    /// Seconds until a store holds the log up to a sequence.
    async fn travel(&self, seq: u64, facts_until: Until, from: u64) -> Outcome<f64> {
        let streams = [(self.target.clone(), facts_until), (self.stream.clone(), Until::Seq(seq))];
        let start = Instant::now();
        let replayed = self.handle.replay(&streams, &Unwatched).await?;
        let seconds = start.elapsed().as_secs_f64();
        let started = replayed.started_from.as_ref().map_or(0, end_of);
        let reached = replayed.store.position(&self.stream)?.map_or(0, |position| position.seq);
        if (started, reached) != (from, seq) {
            return Err(
                format!("the travel went from {started} to {reached}, not from {from} to {seq}").into()
            );
        }
        Ok(seconds)
    }
}

fn section(log: &Log<'_>, points: &[Point], raw: &[f64], events: u64, rounds: usize) -> Section {
    let ends = log.snapshots.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let how = format!(
        "A log of {events} chained events over {KEYS} resources, stored while the service ran and took snapshots as it does by \
         itself (they end at {ends}); then a replay to moments all over it and to the one right before the last snapshot, as `--at` does, \
         {rounds} rounds. The load of a snapshot is a replay to its own end (without one, of nothing); the limit is that load and the events after it at \
         0.6 of the raw read of the same round."
    );
    let mut section = Section::new("Time travel", how);
    let rates = Rounds::of(raw);
    section.add("raw ordered read", format!("{:.0} ev/s", rates.median), rates.spread(0, "ev/s"));
    for point in points {
        let Point { seq, from, loads, limits, totals } = point;
        let (load, limit, total) = (Rounds::of(loads), Rounds::of(limits), Rounds::of(totals));
        let shares: Vec<_> = totals.iter().zip(limits).map(|(total, limit)| total / limit).collect();
        let share = Rounds::of(&shares);
        let note =
            format!("{}; load {:.2} s; {:.2} of the limit", total.spread(2, "s"), load.median, share.median);
        let target = format!("≤ {:.2} s", limit.median);
        let what = format!("to {seq}: {} events behind {from}", seq - from);
        section.judge(what, format!("{:.2} s", total.median), note, target, share.median <= 1.0);
    }
    section
}
