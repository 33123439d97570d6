//! A batch: stored messages, parsed and folded to what a commit will write.
//!
//! Every event is folded: into its owner's *run* (a stretch of the chain without a break, whose steps
//! are checked against the pool at the commit), and into the counters. *Rows* are coalesced: of a key,
//! only what can still matter is kept.
//!
//! Why that is exact: a commit takes in either none of a run or the end of it from some place on
//! (what came before is a repeat). So a full state or a deletion makes everything older of the same run
//! about the same key pointless: if the newer one is taken in, it decides; if it is not, the older ones
//! are not either. Older entries of *other* runs stay until the commit knows which runs count.
//!
//! An event that compares or sweeps (`sync_closed`, a heartbeat with a digest, `empty_confirmed`) ends
//! a *segment*, so that it sees the pool as it is at its own place, however the log was cut into batches.

mod check;
mod copies;
mod fold;
mod intake;
mod runs;

use std::collections::HashMap;

use bus_schema::{Hash32, Timestamp, envelope::Stored, redrive::Redrive};

use crate::{
    records::ParkedRecord,
    seals::{Seal, Sealed},
};

pub(crate) use fold::{
    Candidate, Change, Changes, Effect, Item, NoticeChange, RedriveCopy, Run, RunChain, Segment, Step,
};

/// Messages of one log in order. Fill it on any thread, then hand it to [`crate::Store::commit`].
#[derive(Debug)]
pub struct Batch {
    pub(crate) stream: String,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) last_time: Timestamp,
    messages: usize,
    bytes: usize,
    /// Every message, in order.
    pub(crate) seals: Vec<Sealed>,
    pub(crate) pools: Vec<PoolSlot>,
    pub(crate) owners: Vec<OwnerSlot>,
    pub(crate) runs: Vec<Run>,
    pub(crate) segments: Vec<Segment>,
    /// The owner of the last event: most often also of the next.
    recent_owner: usize,
    key: String,
}

/// Why a message is a dead letter, or would be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong and what to do.
    pub reason: String,
    /// The JSON path or header of the fault.
    pub path: String,
}

/// Whether an event would be taken in, as far as it alone tells: what shows only beside the pool (a fork, an
/// epoch that is over) shows at the commit, see [`crate::Reader::parked`]. Errors: why it would be a dead letter.
pub fn check(event: Stored<'_>) -> Result<(), Refusal> {
    // What a batch makes of it is what will be made of it, so nothing can be checked in two ways.
    let mut batch = Batch::new(event.stream);
    batch.push(event);
    let effects = batch.segments.into_iter().flat_map(|segment| segment.items).map(|item| item.effect);
    let refused = effects.filter_map(|effect| match effect {
        Effect::DeadLetter(letter) => Some(Refusal { reason: letter.reason, path: letter.path }),
        Effect::StillDead(dead) => Some(dead.1),
        _ => None,
    });
    refused.map(Err).next().unwrap_or(Ok(()))
}

/// A pool that events of the batch belong to.
#[derive(Debug)]
pub(crate) struct PoolSlot {
    pub(crate) site: Box<str>,
    pub(crate) cluster: Box<str>,
    owners: HashMap<Box<str>, usize>,
}

/// A source that events of the batch come from.
#[derive(Debug)]
pub(crate) struct OwnerSlot {
    pub(crate) pool: usize,
    pub(crate) source: Box<str>,
    /// The run that the next chained event continues, unless it breaks the chain.
    chained: Option<usize>,
    /// The run of its unchained events.
    unchained: Option<usize>,
}

impl Batch {
    /// An empty batch of a stream.
    pub fn new(stream: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            first_seq: 0,
            last_seq: 0,
            last_time: Timestamp::default(),
            messages: 0,
            bytes: 0,
            seals: Vec::new(),
            pools: Vec::new(),
            owners: Vec::new(),
            runs: Vec::new(),
            segments: vec![Segment::default()],
            recent_owner: usize::MAX,
            key: String::new(),
        }
    }

    /// Takes in the next message: parses, checks and folds it. What cannot be read becomes a dead letter
    /// inside the batch.
    pub fn push(&mut self, message: Stored<'_>) {
        self.push_with(message, Self::take_in);
    }

    /// Takes in the next message, which is known to have been parked: it is parked again, whatever this build would
    /// make of it. So the past stays what it was; a copy of it tells when it was taken in.
    pub fn push_parked(&mut self, message: Stored<'_>, known: &ParkedRecord) {
        self.push_with(message, |batch, message, body| match Redrive::read(message.headers) {
            Some(Ok(redrive)) if known.is_copy => {
                batch.leave_dead(message, &redrive, body, known);
                false
            }
            _ => batch.park_again(message, body, known),
        });
    }

    /// Passes the next message by, which stands in the log in place of another one: the pool has read it, and nothing comes of it.
    pub fn push_passed(&mut self, message: Stored<'_>) {
        // Nobody needs to be told if it is lost.
        self.push_with(message, |_, _, _| true);
        if let Some(last) = self.seals.last_mut() {
            last.seal = last.seal.passed();
        }
    }

    fn push_with(
        &mut self,
        message: Stored<'_>,
        take_in: impl FnOnce(&mut Self, Stored<'_>, Hash32) -> bool,
    ) {
        if self.messages == 0 {
            self.first_seq = message.seq;
        }
        self.messages += 1;
        self.last_seq = message.seq;
        self.last_time = self.last_time.max(message.stored_at);
        let body = Hash32::of(message.body);
        let covered = take_in(self, message, body);
        let hash = message.hash_with(body);
        self.seals.push(Sealed { seq: message.seq, hash, seal: Seal::of(hash, covered) });
        self.bytes += size_of::<Sealed>();
    }

    /// The hash of the last message; zero for none.
    pub(crate) fn last_hash(&self) -> Hash32 {
        self.seals.last().map_or(Hash32::ZERO, |message| message.hash)
    }

    /// Messages taken in.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether no message was taken in.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// An estimate of the memory that the batch holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The stream sequence of the last message.
    pub fn last_seq(&self) -> Option<u64> {
        (self.messages > 0).then_some(self.last_seq)
    }

    /// The largest time at which the log stored one of the messages.
    pub fn last_time(&self) -> Option<Timestamp> {
        (self.messages > 0).then_some(self.last_time)
    }

    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}
