//! The pump: one log from NATS into the pool.
//!
//! ```text
//! link up ─► is the log still what was read? ──no──► state log.rewound, read again from the start
//!    ▲                    │ yes
//!    │                    ▼
//!    │        read on at position + 1 ─► parse ─► commit      (pipeline.rs)
//!    │                    │
//!    └── link made anew and the log is not what was read, commit failed: finish what is under way, then from the top
//! ```
//!
//! Exactly once, because the position is in the transaction that holds the data. A bad event never stops
//! it (the projector puts it among the dead letters); an error of the pool (a full disk) does, and the
//! pump says so and tries again: what was not committed is read again.

use std::{sync::Arc, time::Duration};

use bus::{Bus, BusError, LinkState, LogReader, PositionVerdict, StreamState};
use bus_schema::fact::{
    Fact,
    log::{LogFact, LossFound, Rewound},
};
use projector::{Committed, Position, Store};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    applied::{Applied, Reached},
    facts::FactPublisher,
    floor::Floor,
    logs::Logs,
    parked::recall_on,
    pipeline::{Chunk, Gate, Pipeline},
    replaced::{self, Replaced},
    replay::Unwatched,
    scrub::{self, Pace, scrub},
};
use crate::error::ConsumersError;

/// Most messages that are taken from the reader at once.
pub(crate) const CHUNK_EVENTS_MAX: usize = 4_096;
/// The pool is behind when the log holds so many more: 20 ms at 25,000 events a second.
const PENDING_BEHIND: u64 = 512;
/// The first wait after an error; it doubles up to the longest.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest wait after an error: a disk that has room again is noticed within this time.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long a rewound log waits for the lease, so that the fact is stated by the one who may.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(15);

/// Why a pump stands still, by stream; a stream that is not there runs.
pub type Troubles = std::collections::BTreeMap<String, String>;

/// Pumps one log.
#[derive(Clone)]
pub(crate) struct Pump {
    /// The bus.
    pub bus: Bus,
    /// The pool.
    pub store: Store,
    /// The log.
    pub stream: String,
    /// States `log.rewound`.
    pub facts: FactPublisher,
    /// Moved after every commit.
    pub applied: watch::Sender<Applied>,
    /// Called when a commit left something to be stated.
    pub outbox: Arc<Notify>,
    /// Holds commits back while it is locked.
    pub gate: Gate,
    /// Why this pump stands still.
    pub troubles: watch::Sender<Troubles>,
    /// Makes the log again when it is gone.
    pub logs: Logs,
}

/// Over this link the log was seen to have what was read of it up to here.
struct Verified {
    generation: u64,
    position: bus::Position,
}

/// Why a session ended without an error.
enum End {
    Shutdown,
    Again,
}

impl Pump {
    /// Runs until `shutdown`; every error is logged, shown, and tried again.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (mut wait, mut lost) = (RETRY_WAIT_MIN, Vec::new());
        loop {
            match self.session(&mut lost, &shutdown).await {
                Ok(End::Shutdown) => return,
                Ok(End::Again) => wait = RETRY_WAIT_MIN,
                Err(error) => {
                    self.logs.miss(&error);
                    let stream = &self.stream;
                    tracing::error!(%error, stream, wait_ms = wait.as_millis(), "the pump stands still, and tries again");
                    self.troubles
                        .send_modify(|troubles| drop(troubles.insert(stream.clone(), error.to_string())));
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(RETRY_WAIT_MAX);
                }
            }
        }
    }

    /// Reads the log until something changes. What is found lost of it is kept in `lost`: until the fact of it comes back
    /// from the target log, no other session knows it.
    async fn session(
        &self,
        lost: &mut Vec<LossFound>,
        shutdown: &CancellationToken,
    ) -> Result<End, ConsumersError> {
        let Some(generation) = self.linked(shutdown).await else { return Ok(End::Shutdown) };
        recall_on(&self.bus, &self.store, self.facts.target()).await?;
        let (position, state) = self.position(lost).await?;
        self.reach(&position);
        let target = self.facts.target();
        let stated = replaced::stated_behind(&self.bus, &self.store, target, &self.stream).await?;
        lost.retain(|loss| loss.created == position.created);
        let stated = stated.iter().filter(|loss| loss.created == position.created);
        let replaced = Replaced::of(&self.store, &self.stream)?.and(lost.iter().chain(stated));
        let reader = self.bus.read_log(&self.stream, position.seq + 1, None).await?;
        let (applied, outbox, stream) = (self.applied.clone(), self.outbox.clone(), self.stream.clone());
        let troubles = self.troubles.clone();
        let pipeline = Pipeline::start(
            self.store.clone(),
            &self.stream,
            self.gate.clone(),
            replaced,
            move |committed| {
                troubles.send_if_modified(|troubles| troubles.remove(&stream).is_some());
                reach(&applied, &committed.position);
                call(&outbox, &committed);
            },
        );
        self.troubles.send_if_modified(|troubles| {
            position.seq >= state.last_seq && troubles.remove(&self.stream).is_some()
        });
        let Position { stream, created, seq, hash, .. } = position;
        let verified = Verified { generation, position: bus::Position { stream, created, seq, hash } };
        let end = self.read(reader, verified, &pipeline, shutdown).await;
        // The pipeline's error comes first: it is the reason when the reader could not go on.
        pipeline.finish().await?;
        end
    }

    /// Waits for the link; its generation, or none at the shutdown.
    async fn linked(&self, shutdown: &CancellationToken) -> Option<u64> {
        let mut link = self.bus.link();
        let up = link.wait_for(|state| matches!(state, LinkState::Up { .. }));
        let state = tokio::select! {
            () = shutdown.cancelled() => return None,
            state = up => *state.ok()?,
        };
        generation(state)
    }

    async fn read(
        &self,
        mut reader: LogReader,
        mut verified: Verified,
        pipeline: &Pipeline,
        shutdown: &CancellationToken,
    ) -> Result<End, ConsumersError> {
        let link = self.bus.link();
        loop {
            let messages = tokio::select! {
                () = shutdown.cancelled() => return Ok(End::Shutdown),
                messages = reader.next_chunk(CHUNK_EVENTS_MAX) => match messages {
                    Ok(messages) => messages,
                    // The top of the session finds out what changed.
                    Err(BusError::LogChanged { reason, .. }) => {
                        tracing::warn!(stream = self.stream, reason, "the log changed under its reader");
                        return Ok(End::Again);
                    }
                    Err(error) => return Err(error.into()),
                },
            };
            let Some(last) = messages.last() else { continue };
            let before = verified.position.clone();
            (verified.position.seq, verified.position.hash) = (last.seq(), last.hash());
            // What came over a new connection may be of another log.
            if generation(*link.borrow()) != Some(verified.generation) {
                let Some(generation) = self.generation_that_has(&[before, verified.position.clone()]).await?
                else {
                    return Ok(End::Again);
                };
                verified.generation = generation;
            }
            let behind = reader.pending() >= PENDING_BEHIND;
            if pipeline.input.send(Chunk { messages, behind }).await.is_err() {
                return Ok(End::Again);
            }
        }
    }

    /// The generation of the link over which the log was seen to have all of these; none = it was not. Not to look, and
    /// to begin again, would never end where a message breaks the connection each time that it is delivered.
    async fn generation_that_has(&self, positions: &[bus::Position]) -> Result<Option<u64>, ConsumersError> {
        let Some(generation) = generation(*self.bus.link().borrow()) else { return Ok(None) };
        // Of a log of which nothing was read yet, any beginning is the right one.
        for position in positions.iter().filter(|position| position.seq > 0) {
            match self.bus.check_position(position).await {
                Ok(PositionVerdict::Same(_)) => {}
                Ok(PositionVerdict::Rewound { .. }) | Err(BusError::Link { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(generation))
    }

    /// Where to read on, after a look at whether the log still is what was read.
    async fn position(&self, lost: &mut Vec<LossFound>) -> Result<(Position, StreamState), ConsumersError> {
        let Some(position) = self.store.position(&self.stream)? else {
            let state = self.bus.stream_state(&self.stream).await?;
            self.has_all_before(&state, 0).await?;
            return Ok((self.store.begin_log(&self.stream, state.created)?, state));
        };
        let Position { stream, created, seq, hash, incarnation, .. } = position.clone();
        match self.bus.check_position(&bus::Position { stream, created, seq, hash }).await? {
            // What was rewound begins again with what the log has, and knows what was before.
            PositionVerdict::Rewound { state, .. }
                if (seq, state.created) == (0, created) && incarnation > 1 =>
            {
                Ok((position, state))
            }
            PositionVerdict::Rewound { state, .. }
                if state.created == created && self.is_trimmed_behind(&state, seq).await? =>
            {
                Err(self.behind_floor(&state, seq))
            }
            PositionVerdict::Same(state) => Ok((position, state)),
            PositionVerdict::Rewound { reason, state } => {
                tracing::error!(
                    stream = self.stream,
                    seq,
                    reason,
                    "the log does not hold any more what was read from it"
                );
                lost.extend(self.state_rewound(&position, &state, reason).await?);
                let position = self.store.rewind(&self.stream, state.created)?;
                Ok((position, state))
            }
        }
    }

    /// Errors: the log was trimmed behind a place, so that a pool which has read up to there lacks what went.
    async fn has_all_before(&self, state: &StreamState, seq: u64) -> Result<(), ConsumersError> {
        if self.is_trimmed_behind(state, seq).await? {
            return Err(self.behind_floor(state, seq));
        }
        Ok(())
    }

    async fn is_trimmed_behind(&self, state: &StreamState, seq: u64) -> Result<bool, ConsumersError> {
        if state.first_seq <= seq + 1 {
            return Ok(false);
        }
        let floor = Floor::of(&self.bus, &self.store.reader(), self.facts.target(), state).await?;
        Ok(Floor::first_seq(floor.as_ref()) > seq + 1)
    }

    fn behind_floor(&self, state: &StreamState, seq: u64) -> ConsumersError {
        let (stream, first_seq) = (self.stream.clone(), state.first_seq);
        ConsumersError::BehindFloor { stream, seq, first_seq }
    }

    /// Stated before the store goes back: after a crash in between it is found and stated once more. Answers what is
    /// lost.
    async fn state_rewound(
        &self,
        position: &Position,
        state: &StreamState,
        reason: String,
    ) -> Result<Vec<LossFound>, ConsumersError> {
        let mut lease = self.facts.lease();
        let held =
            matches!(tokio::time::timeout(LEASE_WAIT_MAX, lease.wait_for(Option::is_some)).await, Ok(Ok(_)));
        if held {
            self.state_that_it_went_back(position, state, reason).await?;
        } else {
            tracing::warn!(
                stream = self.stream,
                "another process holds the lease; it states the rewound log"
            );
        }
        // What was read of each message is forgotten when the store goes back: compared with the log before that.
        let findings =
            scrub(&self.bus, &self.store, self.facts.target(), &self.stream, Pace::FULL, &Unwatched).await?;
        if !findings.is_steady {
            // The pool shall not stand still for it: what two readings found is stated, and the next scrub finds gaps.
            tracing::error!(
                stream = self.stream,
                "the log reads differently each time; look at the log of nats-server and at its disk"
            );
        }
        let lost = findings.lost();
        if held {
            scrub::state(&self.facts, findings.facts).await?;
        }
        Ok(lost)
    }

    async fn state_that_it_went_back(
        &self,
        position: &Position,
        state: &StreamState,
        reason: String,
    ) -> Result<(), ConsumersError> {
        let fact = Fact::Log(LogFact::Rewound(Rewound {
            stream: self.stream.clone(),
            applied_seq: position.seq,
            applied_hash: position.hash,
            log_last_seq: state.last_seq,
            reason,
        }));
        let id = format!("rewound/{}/{}/{}", self.stream, position.incarnation, position.hash);
        self.facts.state(&fact, &id).await?;
        Ok(())
    }

    fn reach(&self, position: &Position) {
        reach(&self.applied, position);
    }
}

fn generation(link: LinkState) -> Option<u64> {
    match link {
        LinkState::Up { generation } => Some(generation),
        LinkState::Down { .. } => None,
    }
}

fn reach(applied: &watch::Sender<Applied>, position: &Position) {
    let reached = Reached { seq: position.seq, time: position.time };
    applied.send_modify(|applied| {
        applied.insert(position.stream.clone(), reached);
    });
}

fn call(outbox: &Notify, committed: &Committed) {
    if committed.pending > 0 {
        outbox.notify_one();
    }
}
