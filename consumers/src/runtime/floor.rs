//! Floors: where a trimmed log begins, as the target log states it. A log that begins behind its floor has lost something.
//! What is stated and not purged yet is no floor: it is there, and compared like the rest.

use std::{cmp::Reverse, collections::BTreeMap};

use bus::{Bus, LogMessage, StreamState};
use bus_schema::{
    Name, PoolId, Stem,
    fact::log::{LogFact, OwnerMark, Trimmed, checkpoint::OWNERS_MAX},
    subject,
};
use projector::Reader;

use super::signed::SignedFacts;
use crate::error::ConsumersError;

/// Most statements that are read at once.
const CHUNK_MESSAGES_MAX: usize = 256;

/// What was stated last of a log's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// The statement.
    pub trimmed: Trimmed,
    /// Its sequence in the target log; none = the log has it no more, and the pool remembers it.
    pub stated_seq: Option<u64>,
    /// Whether it was done.
    pub is_done: bool,
}

impl Floor {
    /// The floor of a log; none = nothing was ever stated of this log. Asks the target log and what the pool has read of it,
    /// because either may have lost something. Errors: the bus, the pool's file.
    pub(crate) async fn of(
        bus: &Bus,
        reader: &Reader,
        target: &Name,
        state: &StreamState,
    ) -> Result<Option<Self>, ConsumersError> {
        let facts = subject::fact(target, Stem::Log, &state.stream, "trimmed");
        let stated = bus.last_message(&subject::target_stream(target), &facts).await?;
        let stated = stated.as_ref().and_then(statement);
        let known = reader.latest_fact("trimmed", &state.stream)?.value.map(|record| record.fact);
        let known = match known {
            Some(LogFact::Trimmed(trimmed)) => Some((trimmed, None)),
            _ => None,
        };
        // The first one of equals: the target log's own.
        let mut last: Vec<Statement> = [stated, known].into_iter().flatten().collect();
        last.sort_by_key(|(trimmed, _)| Reverse(trimmed.first_seq));
        let is_stated = !last.is_empty();
        let found = first_of(bus, state, last).await?;
        if found.is_some() || !is_stated || !state.begins_late() {
            return Ok(found);
        }
        // The log went back before what was stated last. What was stated before that may have been done.
        first_of(bus, state, earlier(bus, target, &facts).await?).await
    }

    /// The first sequence that the log must have.
    pub(crate) fn begins_at(&self) -> u64 {
        if self.is_done { self.trimmed.first_seq } else { self.trimmed.before_seq }
    }

    /// The first sequence that a log must have.
    pub(crate) fn first_seq(floor: Option<&Self>) -> u64 {
        floor.map_or(1, Self::begins_at)
    }
}

/// A statement, and its sequence in the target log.
type Statement = (Trimmed, Option<u64>);

fn statement(message: &LogMessage) -> Option<Statement> {
    match LogFact::decode("trimmed", message.body()) {
        Ok(LogFact::Trimmed(trimmed)) => Some((trimmed, Some(message.seq()))),
        _ => None,
    }
}

/// All that was stated of a log's beginning, the last first.
async fn earlier(bus: &Bus, target: &Name, facts: &str) -> Result<Vec<Statement>, ConsumersError> {
    let stream = subject::target_stream(target);
    let last_seq = bus.stream_state(&stream).await?.last_seq;
    let mut log = bus.read_log(&stream, 1, Some(facts)).await?;
    let mut statements = Vec::new();
    while let Some(messages) = log.next_stored(CHUNK_MESSAGES_MAX, last_seq).await? {
        statements.extend(messages.iter().filter_map(statement));
    }
    statements.reverse();
    Ok(statements)
}

/// The first of these that is of the log as it is.
async fn first_of(
    bus: &Bus,
    state: &StreamState,
    statements: Vec<Statement>,
) -> Result<Option<Floor>, ConsumersError> {
    for (trimmed, stated_seq) in statements {
        if is_of(bus, state, &trimmed).await? {
            let is_done = state.first_seq >= trimmed.first_seq;
            return Ok(Some(Floor { trimmed, stated_seq, is_done }));
        }
    }
    Ok(None)
}

/// Whether a statement is of the log as it is: one that was made anew, or lost its end and gave sequences out again, has
/// another message at the place, or none that far.
async fn is_of(bus: &Bus, state: &StreamState, trimmed: &Trimmed) -> Result<bool, ConsumersError> {
    if state.created != trimmed.created || state.last_seq < trimmed.first_seq {
        return Ok(false);
    }
    let there = bus.message(&state.stream, trimmed.first_seq).await?;
    // One that is lost may have been the one that was meant: what is missing is found by whoever reads the log.
    Ok(there.is_none_or(|message| message.hash() == trimmed.first_hash))
}

/// What is signed of the owners of a site log at its floor.
#[derive(Default)]
pub(crate) struct Heads {
    /// The last event of each owner's chain, or an earlier one: see `are_exact`.
    pub marks: Vec<OwnerMark>,
    /// Whether they are the last ones. Else so many owners had changed that some waited for the next checkpoint.
    pub are_exact: bool,
}

impl Heads {
    /// Where each chain was at the floor: what comes behind follows that, or repeats what is before it. Errors: the bus.
    pub(crate) async fn of(bus: &Bus, target: &Name, floor: Option<&Floor>) -> Result<Self, ConsumersError> {
        let begins_at = Floor::first_seq(floor);
        let Some(Floor { trimmed: Trimmed { stream, created, checkpoint, .. }, .. }) =
            floor.filter(|_| begins_at > 1)
        else {
            return Ok(Self::default());
        };
        let mut heads: BTreeMap<(PoolId, String), OwnerMark> = BTreeMap::new();
        let mut are_exact = true;
        SignedFacts::of(bus, target)
            .checkpoints_behind(0, *checkpoint, |checkpoint| {
                let is_before = checkpoint
                    .logs
                    .iter()
                    .any(|mark| (&mark.stream, mark.created) == (stream, *created) && mark.seq <= begins_at);
                if !is_before {
                    return;
                }
                are_exact = checkpoint.owners.len() < OWNERS_MAX;
                let owners = checkpoint.owners.into_iter();
                let of_log = owners.filter(|mark| subject::site_stream(&mark.pool.site) == *stream);
                heads.extend(of_log.map(|mark| ((mark.pool.clone(), mark.owner.clone()), mark)));
            })
            .await?;
        Ok(Self { marks: heads.into_values().collect(), are_exact })
    }
}
