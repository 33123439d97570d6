//! Publish to visible: files change a thousand times a second, a real agent puts the changes into its
//! outbox and the log, a real service into the pool, with fsync in all three.
//!
//! An event's latency begins at its own time, which the agent writes just before its outbox commits, and
//! ends when the pool's commit is known: a little more than from commit to commit, never less.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use bus::{Bus, managed::ManagedServer};
use bus_schema::Timestamp;
use consumers::{Service, ServiceConfig, runtime::applied::Progress};
use projector::{Reader, Store, StoreOptions};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, Outcome,
    report::{Rounds, Section, percentile},
    source::{self, Source},
};

const SITE: &str = "latency";
/// Resources, each in a file of its own.
const FILES: u64 = 1_000;
/// Files that change at once …
const FILES_A_TICK: u64 = 10;
/// … and how often.
const TICK: Duration = Duration::from_millis(10);
/// How long one round lasts, in ticks.
const TICKS: u64 = 1_000;
/// The longest that 99 of 100 events may take, in milliseconds.
const P99_MS_MAX: f64 = 50.0;

/// A pool that moved: how far, and when, in milliseconds of the epoch.
type Moves = Vec<(u64, f64)>;

/// Runs `rounds` rounds of ten seconds.
pub(crate) async fn run(
    server: &ManagedServer,
    bus: &Bus,
    rounds: usize,
    scratch: &Path,
) -> Outcome<Section> {
    let dir = scratch.join(SITE);
    let source = Source::write(&dir, SITE, FILES, 1)?;
    let store = Store::open(&dir.join("pool.redb"), StoreOptions::default())?;
    let config = ServiceConfig { sites: vec![SITE.parse()?], ..ServiceConfig::default() };
    let service = Service::build(config, bus.clone(), store.clone())?;
    let (handle, shutdown) = (service.handle(), CancellationToken::new());
    let running = tokio::spawn(service.run(shutdown.clone()));
    let stream = crate::site_stream(bus, SITE).await?;
    let agent = source.agent(server).await?;
    let watched =
        Watched { bus, stream, source: &source, reader: store.reader(), progress: handle.progress() };
    watched.has(FILES - 1, 0).await?;
    let (mut p50, mut p99, mut rates) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let (latencies, rate) = watched.round(round as u64).await?;
        p50.push(percentile(&latencies, 50.0));
        p99.push(percentile(&latencies, 99.0));
        rates.push(rate);
    }
    agent.stop().await?;
    shutdown.cancel();
    running.await??;
    Ok(section(rounds, &p50, &p99, &rates))
}

fn section(rounds: usize, p50: &[f64], p99: &[f64], rates: &[f64]) -> Section {
    let (p50, p99, rates) = (Rounds::of(p50), Rounds::of(p99), Rounds::of(rates));
    let mut section = Section::new(
        "Publish to visible",
        format!(
            "{FILES} files, {FILES_A_TICK} of them rewritten every {} ms for {} s, {rounds} rounds. From the event's time, \
             which the agent takes just before its outbox commits, to the pool's commit; fsync in outbox, log and pool. \
             What the file watcher waits for a file to be quiet comes before and is not in it.",
            TICK.as_millis(),
            TICKS * TICK.as_millis() as u64 / 1_000
        ),
    );
    section.add("events", format!("{:.0} ev/s", rates.median), rates.spread(0, "ev/s"));
    section.add("p50", format!("{:.1} ms", p50.median), p50.spread(1, "ms"));
    let met = p99.median <= P99_MS_MAX;
    section.judge("p99", format!("{:.1} ms", p99.median), p99.spread(1, "ms"), "≤ 50 ms", met);
    section
}

/// Everything that one round looks at.
struct Watched<'a> {
    bus: &'a Bus,
    stream: String,
    source: &'a Source,
    reader: Reader,
    progress: &'a Progress,
}

impl Watched<'_> {
    /// Waits until the pool has a revision of a resource.
    async fn has(&self, number: u64, round: u64) -> Outcome<()> {
        let (pool, key, revision) = (self.source.pool()?, source::key(number)?, round.to_string());
        let there = || {
            let row = self.reader.row(&pool, &key).ok()?.value?;
            (row.revision?.as_str() == revision).then_some(())
        };
        Ok(self.progress.until(DEADLINE, there).await.ok_or("the pool does not follow its source")?)
    }

    /// Sorted latencies in milliseconds, and the rate in events per second.
    async fn round(&self, round: u64) -> Outcome<(Vec<f64>, f64)> {
        let first_seq = self.bus.stream_state(&self.stream).await?.last_seq + 1;
        let stop = CancellationToken::new();
        let recording = tokio::spawn(record(self.progress.clone(), self.stream.clone(), stop.clone()));
        let mut tick = interval(TICK);
        let mut last = (0, 0);
        for step in 0..TICKS {
            tick.tick().await;
            for file in step * FILES_A_TICK..(step + 1) * FILES_A_TICK {
                last = (file % FILES, round * TICKS + step + 1);
                self.source.rewrite(last.0, last.1)?;
            }
        }
        self.has(last.0, last.1).await?;
        stop.cancel();
        let moves = recording.await?;
        self.latencies(first_seq, &moves).await
    }

    async fn latencies(&self, first_seq: u64, moves: &Moves) -> Outcome<(Vec<f64>, f64)> {
        let last_seq = moves.last().ok_or("the pool did not move")?.0;
        let mut reader = self.bus.read_log(&self.stream, first_seq, None).await?;
        let (mut latencies, mut times) = (Vec::new(), Vec::new());
        loop {
            let message = reader.next().await?;
            if message.subject().ends_with(".changed") {
                let at = event_time(&message.headers()).ok_or("an event without a time")?;
                let move_number = moves.partition_point(|(seq, _)| *seq < message.seq());
                if let Some((_, visible)) = moves.get(move_number) {
                    latencies.push(visible - at);
                    times.push(at);
                }
            }
            if message.seq() >= last_seq {
                break;
            }
        }
        latencies.sort_by(f64::total_cmp);
        let span_ms = times.last().copied().unwrap_or(0.0) - times.first().copied().unwrap_or(0.0);
        let rate = times.len() as f64 / span_ms * 1_000.0;
        Ok((latencies, rate))
    }
}

fn event_time(headers: &[(&str, &str)]) -> Option<f64> {
    let (_, text) = headers.iter().find(|(name, _)| *name == "ce-time")?;
    Some(text.parse::<Timestamp>().ok()?.unix_ms() as f64)
}

async fn record(mut progress: Progress, stream: String, stop: CancellationToken) -> Moves {
    let mut moves = Moves::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return moves,
            moved = progress.moved() => if moved.is_none() { return moves },
        }
        moves.push((progress.reached(&stream).seq, now_ms()));
    }
}

fn now_ms() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1_000.0
}
