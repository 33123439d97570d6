//! What a batch holds: runs of chains, the changes of each key, and everything else in order.

use std::collections::HashMap;

use bus_schema::{
    Hash32,
    chain::ChainPoint,
    event::{
        agent::AgentEvent,
        image::ImageEvent,
        key::KeyEvent,
        resource::{SyncClosed, SyncOpened},
        volume::WriteFailed,
    },
    fact::{Fact, log::parked::Upcaster},
};

use super::Refusal;
use crate::pending::DeadLetter;

/// Events of one owner that are taken in or refused by one decision at the commit: a stretch of its
/// chain in which every event continues the one before, or its unchained events.
#[derive(Debug)]
pub(crate) struct Run {
    /// Index of the owner in the batch.
    pub(crate) owner: usize,
    /// The chain that the steps are of; none for unchained events.
    pub(crate) chain: Option<RunChain>,
    /// Its unchained events.
    pub(crate) unchained: Vec<Unchained>,
    /// When the log stored the last event.
    pub(crate) last_stored_at: i64,
    /// Its one event is a copy of a message that was parked.
    pub(crate) copy: Option<RedriveCopy>,
}

/// A copy of a message that was parked.
#[derive(Clone, Debug)]
pub(crate) struct RedriveCopy {
    /// The sequence of the original.
    pub(crate) origin_seq: u64,
    /// The sequence of the copy.
    pub(crate) seq: u64,
    pub(crate) subject: Box<str>,
    /// SHA-256 of its body as it came, which is the original's.
    pub(crate) body: Hash32,
    /// The place in the chain that it names.
    pub(crate) at: Option<ChainPoint>,
    pub(crate) actor: Box<str>,
    pub(crate) upcaster: Option<Upcaster>,
}

/// A stretch of a chain.
#[derive(Debug)]
pub(crate) struct RunChain {
    /// Where the first step stands.
    pub(crate) first: ChainPoint,
    /// The hash that the first step names as its predecessor's.
    pub(crate) first_prev: Hash32,
    /// At least one.
    pub(crate) steps: Vec<Step>,
}

impl RunChain {
    /// The chain sequence of the last step.
    pub(crate) fn last_seq(&self) -> u64 {
        self.first.seq.saturating_add(self.steps.len() as u64).saturating_sub(1)
    }
}

/// One event of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) hash: Hash32,
    /// The stream sequence.
    pub(crate) seq: u64,
    pub(crate) stored_at: i64,
    /// Bytes of state, when the event counts as a change since the last sync.
    pub(crate) counted: Option<u64>,
}

/// One event without a place in a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unchained {
    /// The stream sequence.
    pub(crate) seq: u64,
    pub(crate) stored_at: i64,
    /// Bytes of state, when the event counts as a change since the last sync.
    pub(crate) counted: Option<u64>,
}

/// A part of a batch between two events that look at the whole pool.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// By index of the pool, the changes of each key.
    pub(crate) rows: Vec<HashMap<Box<str>, Changes>>,
    /// Everything else, in order. When the last one looks at the whole pool, it comes after the rows.
    pub(crate) items: Vec<Item>,
    /// Whether the last item looks at the whole pool.
    pub(crate) closed: bool,
}

/// One thing that is not a change of a row.
#[derive(Debug)]
pub(crate) struct Item {
    /// The stream sequence.
    pub(crate) seq: u64,
    pub(crate) stored_at: i64,
    /// The run that decides whether it counts; none = it counts.
    pub(crate) run: Option<usize>,
    /// Its place in the run's chain; 0 for an unchained event.
    pub(crate) chain_seq: u64,
    pub(crate) effect: Effect,
}

/// What an item does.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The run of the item begins here: decide what of it is taken in.
    Run,
    Opened(SyncOpened),
    Closed(SyncClosed),
    Agent(AgentEvent),
    Key(KeyEvent),
    Volume(WriteFailed),
    Image(ImageEvent),
    Fact(Fact),
    DeadLetter(DeadLetter),
    /// A copy that cannot be taken in either.
    StillDead(Box<(RedriveCopy, Refusal)>),
}

/// What happened to one key, oldest first; see the head of [`crate::batch`].
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) earlier: Vec<Candidate>,
    pub(crate) last: Candidate,
}

impl Changes {
    /// The memory that they hold beside the last one's own entry.
    pub(super) fn bytes(&self) -> usize {
        let earlier = self.earlier.iter().map(|change| size_of::<Candidate>() + change.change.bytes());
        earlier.sum::<usize>() + self.last.change.bytes()
    }

    /// Adds a change, and forgets those that it makes pointless.
    pub(crate) fn add(&mut self, mut next: Candidate) {
        let run = next.run;
        if let Change::Notice(notice) = &mut next.change {
            if let Change::Notice(known) = &mut self.last.change
                && self.last.run == run
            {
                notice.since = known.since;
                notice.tenant = notice.tenant.take().or(known.tenant.take());
                self.last = next;
                return;
            }
        } else {
            self.earlier.retain(|candidate| candidate.run != run);
            if self.last.run == run {
                self.last = next;
                return;
            }
        }
        self.earlier.push(std::mem::replace(&mut self.last, next));
    }
}

/// A change of one key that may count.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Index of the run that decides whether it counts.
    pub(crate) run: u32,
    /// Its place in the run's chain; 0 for an unchained event.
    pub(crate) chain_seq: u64,
    /// The stream sequence.
    pub(crate) seq: u64,
    pub(crate) stored_at: i64,
    pub(crate) source_time: i64,
    pub(crate) change: Change,
}

/// What happened to a row.
#[derive(Debug)]
pub(crate) enum Change {
    /// It has this state now; a whole tail, see [`crate::cell::Tail`], with the offset of the state.
    Full { tail: Vec<u8>, state_at: u32 },
    /// It has another state now, which was not sent.
    Notice(Box<NoticeChange>),
    /// It is gone.
    Deleted,
}

impl Change {
    /// The memory that it holds elsewhere.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Full { tail, .. } => tail.len(),
            Self::Notice(_) => size_of::<NoticeChange>(),
            Self::Deleted => 0,
        }
    }
}

/// An announced state.
#[derive(Debug)]
pub(crate) struct NoticeChange {
    pub(crate) revision: Box<str>,
    pub(crate) state_hash: Hash32,
    pub(crate) size_bytes: u64,
    pub(crate) tenant: Option<Box<str>>,
    pub(crate) since: i64,
}
