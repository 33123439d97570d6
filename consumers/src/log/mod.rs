//! The stem `log`: the logs themselves. What a log lost is found by reading it again ([`crate::runtime::scrub`]), on a
//! timer, when it lacks messages after a new connection, or because a person asks; and asked for again ([`heal`]). What
//! logs and pools are is signed now and then ([`checkpoint`]), and what is too old goes ([`retention`]).
//!
//! Runs on the lease holder only.

pub mod checkpoint;
pub mod heal;
pub mod refused;
pub mod retention;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bus::{Bus, LinkState, StreamState};
use bus_schema::fact::log::Scrubbed;
use projector::Store;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    heal::{Healer, Obstacles},
    refused::{Refused, Unscrubbed},
    retention::Waits,
};
use crate::{
    error::ConsumersError,
    runtime::{
        applied::Progress,
        clock,
        facts::FactPublisher,
        floor::Floor,
        replay::Watcher,
        scrub::{self, Findings, Pace, scrub},
    },
};

/// Scrubs that people ask for and that may wait.
pub(crate) const ASKED_MAX: usize = 8;
/// How often it is looked whether a scrub is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When logs are read again, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Scrubs {
    /// The time between two scrubs of a log; none = only when something asks for it.
    pub every_ms: Option<u64>,
    /// The pace of those that nobody waits for.
    pub pace: Pace,
}

/// How far a scrub is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The stream; empty = no scrub runs.
    pub stream: String,
    /// The last sequence that was compared.
    pub done: u64,
    /// The last sequence that will be.
    pub of: u64,
}

/// A scrub that a person asks for.
pub(crate) struct AskedScrub {
    /// The stream.
    pub stream: String,
    /// Where the result goes, or why there is none.
    pub reply: oneshot::Sender<Result<Scrubbed, String>>,
}

/// What people see of it.
#[derive(Clone)]
pub(crate) struct Shown {
    /// Why gaps are open still.
    pub obstacles: watch::Sender<Obstacles>,
    /// The scrub that runs.
    pub progress: watch::Sender<ScrubProgress>,
    /// What is in the way of trimming.
    pub waits: watch::Sender<Waits>,
    /// Why logs could not be scrubbed for a while.
    pub unscrubbed: watch::Sender<Unscrubbed>,
}

impl Shown {
    /// Both ends, with nothing to see yet.
    pub(crate) fn channel() -> (Self, Seen) {
        let (obstacles, obstacles_seen) = watch::channel(Obstacles::new());
        let (progress, progress_seen) = watch::channel(ScrubProgress::default());
        let (waits, waits_seen) = watch::channel(Waits::new());
        let (unscrubbed, unscrubbed_seen) = watch::channel(Unscrubbed::new());
        let seen = Seen {
            obstacles: obstacles_seen,
            progress: progress_seen,
            waits: waits_seen,
            unscrubbed: unscrubbed_seen,
        };
        (Self { obstacles, progress, waits, unscrubbed }, seen)
    }
}

/// What people see of it, from their end.
#[derive(Clone)]
pub(crate) struct Seen {
    /// Why gaps are open still.
    pub obstacles: watch::Receiver<Obstacles>,
    /// The scrub that runs.
    pub progress: watch::Receiver<ScrubProgress>,
    /// What is in the way of trimming.
    pub waits: watch::Receiver<Waits>,
    /// Why logs could not be scrubbed for a while.
    pub unscrubbed: watch::Receiver<Unscrubbed>,
}

/// The reactions of this stem, as they act under the lease.
pub(crate) struct Acting {
    /// The bus.
    pub bus: Bus,
    /// The pool.
    pub store: Store,
    /// How far it is.
    pub progress: Progress,
    /// States facts.
    pub facts: FactPublisher,
    /// The logs.
    pub streams: Vec<String>,
    /// When they are scrubbed.
    pub scrubs: Scrubs,
    /// What people see.
    pub shown: Shown,
    /// Scrubs that people ask for.
    pub asked: Arc<tokio::sync::Mutex<mpsc::Receiver<AskedScrub>>>,
}

impl Acting {
    /// Starts the tasks; each ends at `stop`.
    pub(crate) fn start(self, tasks: &mut JoinSet<Result<(), ConsumersError>>, stop: &CancellationToken) {
        let healer = Healer {
            bus: self.bus.clone(),
            reader: self.store.reader(),
            progress: self.progress.clone(),
            facts: self.facts.clone(),
            obstacles: self.shown.obstacles.clone(),
        };
        tasks.spawn(healer.run(stop.clone()));
        tasks.spawn(self.scrubbing(stop.clone()));
    }

    async fn scrubbing(self, stop: CancellationToken) -> Result<(), ConsumersError> {
        let asked = Arc::clone(&self.asked);
        let mut asked = asked.lock().await;
        let mut known = Known::default();
        loop {
            let wanted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(asked) = asked.recv() => Some(asked),
                () = tokio::time::sleep(LOOK_EVERY) => None,
            };
            let scrubbed = async {
                match wanted {
                    Some(AskedScrub { stream, reply }) => {
                        let scrubbed = self.scrub(&stream, Pace::FULL).await;
                        if scrubbed.is_ok() {
                            known.refused.forget(&stream);
                        }
                        // Who asked may have gone.
                        let _ = reply.send(scrubbed.map_err(|error| error.to_string()));
                    }
                    None => self.scrub_what_is_due(&mut known).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = scrubbed => {}
            }
        }
    }

    /// An error is logged, and the log looked at again after a rest.
    async fn scrub_what_is_due(&self, known: &mut Known) {
        for stream in &self.streams {
            let (link, began) = (*self.bus.link().borrow(), Instant::now());
            if known.refused.rests(stream, link, began) {
                continue;
            }
            let scrubbed = async {
                let pace = match self.due(stream, known).await? {
                    Some(pace) => pace,
                    None => return Ok(()),
                };
                self.scrub(stream, pace).await.map(drop)
            };
            match scrubbed.await {
                Ok(()) => known.refused.forget(stream),
                Err(error) => {
                    known.forget(stream);
                    let reason = error.to_string();
                    let rest = known.refused.note(stream, reason, link, began.elapsed(), Instant::now());
                    let again_in_s = rest.as_secs();
                    tracing::warn!(%error, stream, again_in_s, "a log could not be scrubbed; it is tried again after a rest, or when NATS was away");
                }
            }
            let told = known.refused.told();
            self.shown.unscrubbed.send_if_modified(|shown| {
                let is_news = *shown != told;
                *shown = told;
                is_news
            });
        }
    }

    /// Whether a log is to be scrubbed now, and how fast.
    async fn due(&self, stream: &str, known: &mut Known) -> Result<Option<Pace>, ConsumersError> {
        let link = *self.bus.link().borrow();
        if let LinkState::Up { generation } = link
            && known.generations.get(stream) != Some(&generation)
        {
            let state = self.bus.stream_state(stream).await?;
            let floor = Floor::of(&self.bus, &self.store.reader(), self.facts.target(), &state).await?;
            let lacks = lacks(&state, Floor::first_seq(floor.as_ref()));
            known.generations.insert(stream.to_owned(), generation);
            let before = known.lacks.insert(stream.to_owned(), lacks);
            // What a server lost over its restart it does not count among what is deleted.
            let server = self.bus.server().id;
            let is_new = known.servers.insert(stream.to_owned(), server.clone()).as_ref() != Some(&server);
            // The pool itself: what its pump has reached is not known before NATS has given it its position.
            let is_read = self.store.position(stream)?.is_some_and(|position| position.seq > 0);
            if is_new && is_read {
                return Ok(Some(self.scrubs.pace));
            }
            if before.unwrap_or_default() != lacks {
                tracing::warn!(
                    stream,
                    ?lacks,
                    "the log lacks messages that it had; it is compared with what was read"
                );
                return Ok(Some(Pace::FULL));
            }
        }
        let Some(every_ms) = self.scrubs.every_ms else { return Ok(None) };
        let last = self.store.reader().latest_fact("scrubbed", stream)?.value;
        let is_due = last.is_none_or(|last| clock::now().ms_since(last.stored_at) >= every_ms);
        let is_empty = self.progress.reached(stream).seq == 0;
        Ok((is_due && !is_empty).then_some(self.scrubs.pace))
    }

    async fn scrub(&self, stream: &str, pace: Pace) -> Result<Scrubbed, ConsumersError> {
        let watcher = Watching(self.shown.progress.clone());
        let findings = scrub(&self.bus, &self.store, self.facts.target(), stream, pace, &watcher).await;
        self.shown.progress.send_replace(ScrubProgress::default());
        let Findings { facts, scrubbed, is_steady } = findings?;
        scrub::state(&self.facts, facts).await?;
        if is_steady { Ok(scrubbed) } else { Err(ConsumersError::Unsteady { stream: stream.to_owned() }) }
    }
}

/// What a log lacks in itself: how far it begins behind its floor, and how many are missing behind that.
type Lacks = (u64, u64);

fn lacks(state: &StreamState, begins_at: u64) -> Lacks {
    (state.first_seq.saturating_sub(begins_at), state.deleted)
}

/// What was seen of the logs, so that each loss is looked at once.
#[derive(Default)]
struct Known {
    generations: BTreeMap<String, u64>,
    lacks: BTreeMap<String, Lacks>,
    /// The server that was asked last.
    servers: BTreeMap<String, String>,
    refused: Refused,
}

impl Known {
    /// The log is to be looked at again.
    fn forget(&mut self, stream: &str) {
        self.generations.remove(stream);
        self.servers.remove(stream);
        self.lacks.remove(stream);
    }
}

/// Shows people how far a scrub is.
struct Watching(watch::Sender<ScrubProgress>);

impl Watcher for Watching {
    fn read(&self, stream: &str, done: u64, of: u64) {
        self.0.send_replace(ScrubProgress { stream: stream.to_owned(), done, of });
    }
}
