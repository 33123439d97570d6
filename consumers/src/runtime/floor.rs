//! Floors: where a trimmed log begins, as the target log states it. A log that begins behind its stated floor has lost
//! something; one that begins before it was not trimmed yet.

use std::collections::BTreeMap;

use bus::{Bus, StreamState};
use bus_schema::{
    Name, PoolId, Stem,
    fact::log::{LogFact, OwnerMark, Trimmed, checkpoint::OWNERS_MAX},
    subject,
};
use projector::Reader;

use super::signed::SignedFacts;
use crate::error::ConsumersError;

/// Where a log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// What was stated.
    pub trimmed: Trimmed,
    /// The sequence of the statement in the target log; none = the log has it no more, and the pool remembers it.
    pub stated_seq: Option<u64>,
}

impl Floor {
    /// The floor of a log; none = it was never trimmed. Asks the target log and what the pool has read of it, because
    /// either may have lost something. Errors: the bus, the pool's file.
    pub(crate) async fn of(
        bus: &Bus,
        reader: &Reader,
        target: &Name,
        state: &StreamState,
    ) -> Result<Option<Self>, ConsumersError> {
        let facts = subject::fact(target, Stem::Log, &state.stream, "trimmed");
        let stated = bus.last_message(&subject::target_stream(target), &facts).await?;
        let stated = stated.and_then(|message| match LogFact::decode("trimmed", message.body()) {
            Ok(LogFact::Trimmed(trimmed)) => Some(Self { trimmed, stated_seq: Some(message.seq()) }),
            _ => None,
        });
        let known = reader.latest_fact("trimmed", &state.stream)?.value.map(|record| record.fact);
        let known = match known {
            Some(LogFact::Trimmed(trimmed)) => Some(Self { trimmed, stated_seq: None }),
            _ => None,
        };
        let of_log =
            [known, stated].into_iter().flatten().filter(|floor| floor.trimmed.created == state.created);
        // The last one of equals: the target log's own.
        Ok(of_log.max_by_key(|floor| floor.trimmed.first_seq))
    }

    /// The first sequence that a log must have.
    pub(crate) fn first_seq(floor: Option<&Self>) -> u64 {
        floor.map_or(1, |floor| floor.trimmed.first_seq)
    }
}

/// The last event of each owner's chain before the floor of a site log, as checkpoints sign it: what comes behind follows
/// it, or repeats what is before it. Errors: the bus.
pub(crate) async fn heads(bus: &Bus, target: &Name, floor: &Floor) -> Result<Vec<OwnerMark>, ConsumersError> {
    let (stream, last_number) = (&floor.trimmed.stream, floor.trimmed.checkpoint);
    let mut heads: BTreeMap<(PoolId, String), OwnerMark> = BTreeMap::new();
    let mut is_full = false;
    SignedFacts::of(bus, target)
        .checkpoints_behind(0, last_number, |checkpoint| {
            is_full = checkpoint.owners.len() >= OWNERS_MAX;
            let of_log =
                checkpoint.owners.into_iter().filter(|mark| subject::site_stream(&mark.pool.site) == *stream);
            heads.extend(of_log.map(|mark| ((mark.pool.clone(), mark.owner.clone()), mark)));
        })
        .await?;
    // With that many at once, others may have gone on and waited for their turn: an older place would look like a gap.
    Ok(if is_full { vec![] } else { heads.into_values().collect() })
}
