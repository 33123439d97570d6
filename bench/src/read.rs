//! The read of one resource in process: from a pool of a log, or from one that is made here without a bus;
//! with nothing beside it, and beside a writer that commits all the time.

use std::{
    hint::black_box,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use bus_schema::{PoolId, Timestamp, envelope::Stored, subject};
use projector::{Batch, Reader, Store, StoreOptions};

use crate::{
    Outcome,
    load::Load,
    report::{Rounds, Section, percentile},
    source,
};

/// Reads of one kind: they take microseconds.
pub(crate) const READS: u64 = 200_000;
/// Steps through the resources in an order that no cache foresees: a prime.
pub(crate) const STRIDE: u64 = 479_001_599;
/// The longest that 99 of 100 reads may take, in microseconds.
const P99_US_MAX: f64 = 10.0;
/// The site of the pool that is made here.
const SITE: &str = "read";
/// Events in one commit while the pool is filled.
const FILL: u64 = 5_000;
/// Events in one commit beside the reads: as many as a busy source tells between two syncs of a disk.
const BESIDE: u64 = 100;

/// Makes a pool of so many resources and reads it.
pub(crate) fn run(resources: u64, rounds: usize, scratch: &Path) -> Outcome<Section> {
    let mut section = Section::new(
        "Reading in process",
        format!(
            "A pool of {resources} resources of about 300 bytes, made without a bus. {rounds} interleaved rounds: {READS} \
             reads one after another, keys in no order; as many while a writer commits {BESIDE} events at a time, as \
             fast as the disk syncs."
        ),
    );
    let pool: PoolId = format!("{SITE}/bench").parse()?;
    let path = scratch.join("read.redb");
    let mut writer = Writer::begin(&path, resources)?;
    for _ in 0..resources.div_ceil(FILL) {
        writer.commit(FILL)?;
    }
    let mut writer = writer.reopen(&path)?;
    let reader = writer.store.reader();
    let (mut alone, mut beside, mut commits) = (Taken::default(), Taken::default(), Vec::new());
    for round in 0..rounds {
        let reads = || reads(&reader, &pool, resources, round);
        alone.add(reads()?);
        let (took, rate) = beside_commits(&mut writer, reads)?;
        beside.add(took);
        commits.push(rate);
    }
    alone.judge(&mut section, "one read, p99");
    let (p50, p99, commits) = (Rounds::of(&beside.p50), Rounds::of(&beside.p99), Rounds::of(&commits));
    let note =
        format!("{}; p50 {:.1} µs; {:.0} commits a second", p99.spread(1, "µs"), p50.median, commits.median);
    section.add("one read beside commits, p99", format!("{:.1} µs", p99.median), note);
    Ok(section)
}

/// How long reads took in a pool's file that nobody has open.
pub(crate) fn in_process(path: &Path, pool: &PoolId, resources: u64, rounds: usize) -> Outcome<Taken> {
    let reader = Store::open(path, StoreOptions::default())?.reader();
    let mut taken = Taken::default();
    for round in 0..rounds {
        taken.add(reads(&reader, pool, resources, round)?);
    }
    Ok(taken)
}

/// How long reads took, in µs, round by round.
#[derive(Default)]
pub(crate) struct Taken {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Taken {
    fn add(&mut self, took: Vec<f64>) {
        let (p50, p99) = percentiles(took);
        self.p50.push(p50);
        self.p99.push(p99);
    }

    /// Puts them into a report, with the limit that they have.
    pub(crate) fn judge(&self, section: &mut Section, what: &str) {
        let (p50, p99) = (Rounds::of(&self.p50), Rounds::of(&self.p99));
        let (value, note) =
            (format!("{:.1} µs", p99.median), format!("{}; p50 {:.1} µs", p99.spread(1, "µs"), p50.median));
        section.judge(what, value, note, "≤ 10 µs", p99.median <= P99_US_MAX);
    }
}

/// The median, and what 99 of 100 do not exceed.
pub(crate) fn percentiles(mut took: Vec<f64>) -> (f64, f64) {
    took.sort_by(f64::total_cmp);
    (percentile(&took, 50.0), percentile(&took, 99.0))
}

/// Time since then, in µs.
pub(crate) fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// One round of reads, each of another resource than those of the round before.
fn reads(reader: &Reader, pool: &PoolId, resources: u64, round: usize) -> Outcome<Vec<f64>> {
    let mut took = Vec::with_capacity(READS as usize);
    for read in round as u64 * READS..(round as u64 + 1) * READS {
        let key = source::key(read * STRIDE % resources)?;
        let start = Instant::now();
        let row = reader.row(pool, &key)?.value;
        took.push(micros(start));
        black_box(row.ok_or("a resource is not in the pool")?);
    }
    Ok(took)
}

/// What reads took while the writer committed, and its commits in a second.
fn beside_commits(
    writer: &mut Writer,
    reads: impl FnOnce() -> Outcome<Vec<f64>>,
) -> Outcome<(Vec<f64>, f64)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let commits = scope.spawn(|| -> Outcome<f64> {
            let (start, mut commits) = (Instant::now(), 0);
            while !done.load(Ordering::Acquire) {
                writer.commit(BESIDE)?;
                commits += 1;
            }
            Ok(f64::from(commits) / start.elapsed().as_secs_f64())
        });
        let took = reads();
        done.store(true, Ordering::Release);
        let commits = commits.join().map_err(|_| "the writer panicked")?;
        Ok((took?, commits?))
    })
}

/// Commits the events of a load as if they came from a log.
struct Writer {
    store: Store,
    stream: String,
    load: Load,
    seq: u64,
}

impl Writer {
    fn begin(path: &Path, resources: u64) -> Outcome<Self> {
        let (store, stream) =
            (Store::open(path, StoreOptions::default())?, subject::site_stream(&SITE.parse()?));
        store.begin_log(&stream, Timestamp::default())?;
        Ok(Self { store, stream, load: Load::new(SITE, resources), seq: 0 })
    }

    /// As a service finds the pool that is started: nothing is in the pool's own cache.
    fn reopen(self, path: &Path) -> Outcome<Self> {
        let Self { store, stream, load, seq } = self;
        drop(store);
        Ok(Self { store: Store::open(path, StoreOptions::default())?, stream, load, seq })
    }

    fn commit(&mut self, events: u64) -> Outcome<()> {
        let Self { store, stream, load, seq } = self;
        let mut batch = Batch::new(stream);
        for _ in 0..events {
            let event = load.next_event();
            *seq += 1;
            let headers: Vec<_> =
                event.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let (subject, headers, body) = (event.subject.as_str(), headers.as_slice(), &*event.body);
            let stored_at = Timestamp::from_unix_ms(*seq as i64);
            batch.push(Stored { subject, headers, body, stream, seq: *seq, stored_at });
        }
        let committed = store.commit(batch)?;
        if committed.pending > 0 { Err("an event of the load was refused".into()) } else { Ok(()) }
    }
}
