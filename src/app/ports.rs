//! What the console needs of the service, done by it: the adapters behind the console's ports.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bus::Bus;
use bus_schema::{Name, fact::log::Scrubbed, subject};
use console::ports::{
    Doing, Health, JobProgress, Moment, Past, PastPools, Pending, PortError, RebuildReport, RebuildSwap,
    Rebuilder, Scrubber, Vitals, Wait,
};
use consumers::{
    ConsumersError,
    log::{ScrubProgress, retention},
    resource::{Shown, state::Activity},
    runtime::replay::{Until, Watcher},
};
use projector::{Position, Size};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    causes,
    files::forget,
    incarnation::{Control, Current, Swap},
};

/// How old the known size of the pool's file may be: to measure it takes a walk through its tables.
const SIZE_AGE_MAX: Duration = Duration::from_secs(10);
/// How often who waits for a scrub is told how far it is.
const SCRUB_TOLD_EVERY: Duration = Duration::from_millis(250);
/// How long a rebuild waits after the swap until this process acts again.
const ACT_WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) struct Ports {
    bus: Bus,
    target: Name,
    control: Control,
    rebuilding: AtomicBool,
    size: Arc<Mutex<Measured>>,
}

/// The size of the pool's file when it was measured last.
#[derive(Default)]
struct Measured {
    size: Option<Size>,
    at: Option<Instant>,
}

impl Ports {
    pub(super) fn new(bus: Bus, target: &Name, control: Control) -> Self {
        let (rebuilding, size) = (AtomicBool::new(false), Arc::default());
        let ports = Self { bus, target: target.clone(), control, rebuilding, size };
        // Measured now, so that the first question finds it.
        ports.size();
        ports
    }

    pub(super) fn current(&self) -> Current {
        self.control.current.borrow().clone()
    }

    /// The size as it was measured last; measures again, aside, when that is long ago.
    fn size(&self) -> Option<Size> {
        let mut measured = self.size.lock().ok()?;
        if measured.at.is_none_or(|at| at.elapsed() >= SIZE_AGE_MAX) {
            measured.at = Some(Instant::now());
            let (store, into) = (self.current().store, self.size.clone());
            tokio::task::spawn_blocking(move || {
                if let (Ok(size), Ok(mut measured)) = (store.size(), into.lock()) {
                    measured.size = Some(size);
                }
            });
        }
        measured.size
    }

    async fn replayed(
        &self,
        stream: &str,
        moment: Moment,
        progress: mpsc::Sender<JobProgress>,
    ) -> Result<Past, PortError> {
        let failed = |e: bus::BusError| match e {
            bus::BusError::Link { .. } => PortError::Unreachable(format!("the log cannot be read: {e}")),
            _ => PortError::Failed(format!("the log cannot be read: {e}")),
        };
        if moment == Moment::Seq(0) {
            let text = "the log begins with sequence 1; name that or a later one".to_owned();
            return Err(PortError::Refused(text));
        }
        let state = self.bus.stream_state(stream).await.map_err(failed)?;
        let (until, facts_until) = match moment {
            Moment::Time(time) => (Until::Time(time), Until::Time(time)),
            Moment::Seq(seq) if seq > state.last_seq => {
                let text =
                    format!("the log ends at {stream}:{}; name a sequence up to there", state.last_seq);
                return Err(PortError::Refused(text));
            }
            Moment::Seq(seq) => {
                // The target's facts have their own numbers: they belong to the same time.
                // One that is lost belongs to the time of what stands behind it.
                let end = state.last_seq + 1;
                let message = self.bus.next_before(stream, ">", seq, end).await.map_err(failed)?;
                let time = message.map(|message| Until::Time(message.stored_at()));
                (Until::Seq(seq), time.unwrap_or(Until::Now))
            }
        };
        let facts = subject::target_stream(&self.target);
        let streams = [(facts, facts_until), (stream.to_owned(), until)];
        let replayed = self.current().handle.replay(&streams, &Told { to: progress }).await;
        let replayed = replayed.map_err(|e| match e {
            ConsumersError::Trimmed { .. } => PortError::Refused(e.to_string()),
            _ => PortError::Failed(format!("the replay failed: {e}")),
        })?;
        Ok(Past { reader: replayed.store.reader(), keep: Box::new(replayed) })
    }

    async fn rebuilt(
        &self,
        progress: mpsc::Sender<JobProgress>,
        swap: RebuildSwap,
    ) -> Result<RebuildReport, PortError> {
        let started = Instant::now();
        let left_over = Leftover(self.control.rebuild_file.clone());
        let told = Told { to: progress };
        let rebuilt = self.current().handle.rebuild(&left_over.0, &told).await;
        let rebuilt = rebuilt.map_err(|e| PortError::Failed(e.to_string()))?;
        let swaps = swap == RebuildSwap::Always || !rebuilt.differs_in_content();
        if swaps {
            let _ = told.to.try_send(JobProgress { phase: "swapping".to_owned(), done: 0, total: 0 });
            self.swap(rebuilt.path).await?;
        }
        let mut differences = Vec::new();
        for found in rebuilt.differences {
            differences.push(causes::with_events(&self.bus, &self.target, found).await);
        }
        Ok(RebuildReport {
            events: self.events(&rebuilt.positions).await,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            differences,
            swapped: swaps,
        })
    }

    /// How many events the logs have up to these places: fewer than their sequences when some were deleted.
    async fn events(&self, positions: &[Position]) -> u64 {
        let mut events = 0;
        for Position { stream, seq, .. } in positions {
            let state = self.bus.stream_state(stream).await;
            events +=
                state.map_or(*seq, |log| log.messages.saturating_sub(log.last_seq.saturating_sub(*seq)));
        }
        events
    }

    /// Puts a rebuilt pool's file in the place of the live one.
    async fn swap(&self, by: PathBuf) -> Result<(), PortError> {
        let acted = self.control.current.borrow().handle.holds_lease();
        let (done, swapped) = oneshot::channel();
        let asked = self.control.swaps.send(Swap { by, done }).await;
        asked.map_err(|_| PortError::Failed("farside is ending; start it, then rebuild again".to_owned()))?;
        match swapped.await {
            Ok(swapped) => swapped.map_err(PortError::Failed)?,
            Err(_) => {
                return Err(PortError::Failed("farside ended during the swap; start it and look".to_owned()));
            }
        }
        if acted {
            // So that whoever asked may go on with commands. Another process may have become the holder.
            let mut lease = self.control.current.borrow().handle.lease();
            let _ = timeout(ACT_WAIT_MAX, lease.wait_for(|held| *held)).await;
        }
        Ok(())
    }
}

impl PastPools for Ports {
    fn at(&self, stream: &str, moment: Moment, progress: mpsc::Sender<JobProgress>) -> Pending<'_, Past> {
        let stream = stream.to_owned();
        Box::pin(async move { self.replayed(&stream, moment, progress).await })
    }
}

impl Rebuilder for Ports {
    fn rebuild(&self, progress: mpsc::Sender<JobProgress>, swap: RebuildSwap) -> Pending<'_, RebuildReport> {
        Box::pin(async move {
            let Some(_running) = Running::begin(&self.rebuilding) else {
                return Err(PortError::Busy("a rebuild is running already; wait for its end".to_owned()));
            };
            self.rebuilt(progress, swap).await
        })
    }
}

impl Scrubber for Ports {
    fn scrub(&self, stream: &str, progress: mpsc::Sender<JobProgress>) -> Pending<'_, Scrubbed> {
        let stream = stream.to_owned();
        Box::pin(async move {
            let handle = self.current().handle;
            let told = Told { to: progress };
            let mut done = std::pin::pin!(handle.scrub(&stream));
            loop {
                match timeout(SCRUB_TOLD_EVERY, &mut done).await {
                    Ok(done) => return done.map_err(PortError::Failed),
                    Err(_) => {
                        let ScrubProgress { stream, done, of } = handle.scrub_progress();
                        told.read(&stream, done, of);
                    }
                }
            }
        })
    }
}

impl Health for Ports {
    fn vitals(&self) -> Vitals {
        let handle = self.current().handle;
        let (mut next_syncs, mut doing) = (BTreeMap::new(), BTreeMap::new());
        for owner in handle.owners() {
            if let Some(now) = activity(&owner) {
                doing.insert(owner.owner.to_string(), now);
            }
            if let Some(next) = owner.next_first {
                let earliest = next_syncs.entry(owner.owner.pool).or_insert(next);
                *earliest = next.min(*earliest);
            }
        }
        let troubles = handle.troubles();
        let trouble =
            troubles.iter().map(|(stream, why)| format!("{stream} is not being applied: {why}")).next();
        let (size, signing) = (self.size(), handle.signing());
        Vitals {
            lease_held: handle.holds_lease(),
            next_syncs,
            doing,
            file_bytes: size.map_or(0, |size| size.file_bytes),
            live_bytes: size.map_or(0, |size| size.live_bytes),
            trouble,
            obstacles: handle.obstacles(),
            unsigned: signing.trouble,
            contradictions: signing.contradictions,
            trimming: handle.waits().into_iter().map(|(stream, wait)| (stream, waiting(wait))).collect(),
            unkept: handle.unkept(),
            unscrubbed: handle.unscrubbed(),
        }
    }

    fn passes<'a>(&'a self, stream: &'a str, seq: u64, wait: Duration) -> Pending<'a, ()> {
        let progress = self.current().handle.progress().clone();
        Box::pin(async move {
            progress.passes(stream, seq, wait).await.map_err(|e| PortError::Failed(e.to_string()))
        })
    }
}

/// The one rebuild that runs; its end makes way for the next, whatever its end is.
struct Running<'a>(&'a AtomicBool);

impl<'a> Running<'a> {
    /// None: one is running.
    fn begin(running: &'a AtomicBool) -> Option<Self> {
        (!running.swap(true, Ordering::AcqRel)).then_some(Self(running))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A rebuilt pool that is not in use: worth nothing when the rebuild ends, and as large as the pool.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        forget(&self.0);
    }
}

/// What trimming a log waits for, in the words of the console.
fn waiting(wait: retention::Wait) -> Wait {
    Wait { since: wait.since, why: wait.why }
}

/// What is under way with an owner, in words; none when nothing is.
fn activity(shown: &Shown) -> Option<Doing> {
    match &shown.activity {
        Activity::Idle => shown.trouble.clone().map(Doing::Waiting),
        Activity::Descending => Some(Doing::Sync("its digest is being compared".to_owned())),
        Activity::Asked(_) => Some(Doing::Sync("it is being asked".to_owned())),
        Activity::Receiving { .. } => Some(Doing::Sync("its answer is coming".to_owned())),
        Activity::Resting { for_key: true, .. } => Some(Doing::Waiting(
            "waits for an access key: it has announced none that is good, so it is not asked; give one to its cluster, in the keys that the configuration of its agent has there"
                .to_owned(),
        )),
        Activity::Resting { until, .. } => Some(Doing::Waiting(format!(
            "could not be synchronised ({} times in a row; 'farside pool syncs' tells why), tried again at {until}",
            shown.failures
        ))),
    }
}

/// Tells a client how far a rebuild is; drops what the client is too slow for.
pub(super) struct Told {
    pub(super) to: mpsc::Sender<JobProgress>,
}

impl Watcher for Told {
    fn read(&self, stream: &str, done: u64, of: u64) {
        let _ = self.to.try_send(JobProgress { phase: format!("reading {stream}"), done, total: of });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_that_panics_makes_way_for_the_next_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let (file, running) = (directory.path().join("pool.rebuilt.redb"), AtomicBool::new(false));
        let panicked = std::panic::catch_unwind(|| {
            let _running = Running::begin(&running).unwrap();
            let _left_over = Leftover(file.clone());
            std::fs::write(&file, "half a pool").unwrap();
            assert!(Running::begin(&running).is_none(), "two run at once");
            panic!("as a defect would");
        });
        assert!(panicked.is_err());
        assert!(Running::begin(&running).is_some() && !file.exists());
    }
}
