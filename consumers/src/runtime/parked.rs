//! What the target log says of parked messages, taken over before a log is read: the past stays what it was. A newer
//! build may read what an older one could not; were it taken in at its old place, a replay of that time would show
//! what nobody could know then. It is parked again, for the reason that was stated, until its copy comes.

use bus::{Bus, LogMessage};
use bus_schema::{
    Name,
    fact::log::{LogFact, Parked},
    subject,
};
use projector::{ParkedRecord, Store};

use super::pump::CHUNK_EVENTS_MAX;
use crate::{error::ConsumersError, task::blocking};

/// Takes over all of it: for a store that is new, or was made at another moment. Errors: the bus, the disk.
pub(crate) async fn recall_anew(bus: &Bus, store: &Store, target: &Name) -> Result<(), ConsumersError> {
    recall_from(bus, store, target, 1).await?;
    taken_over(store, vec![], true).await
}

/// Takes it over once in the life of a store, and each time what was stated behind the store's own place in the target log. Before a site's log is
/// read on: while this process was away, another one may have parked what this build would take in. Errors: the bus,
/// the disk.
pub(crate) async fn recall_on(bus: &Bus, store: &Store, target: &Name) -> Result<(), ConsumersError> {
    if !store.has_recalled()? {
        return recall_anew(bus, store, target).await;
    }
    let known = store.position(&subject::target_stream(target))?.map_or(0, |position| position.seq);
    recall_from(bus, store, target, known + 1).await
}

/// The message that is parked, if the log has it still: one that was made anew, or lost its end, has another one at its
/// place. Errors: the bus.
pub(crate) async fn in_log(bus: &Bus, record: &ParkedRecord) -> Result<Option<LogMessage>, ConsumersError> {
    let found = bus.message_unless_unsure(&record.stream, record.seq).await?;
    Ok(found.filter(|found| found.with_stored(|stored| record.stands_at(stored))))
}

async fn recall_from(bus: &Bus, store: &Store, target: &Name, from: u64) -> Result<(), ConsumersError> {
    let (stream, filter) = (subject::target_stream(target), subject::log_facts(target, "parked"));
    // Not the last of these facts: that may be one that NATS cannot read.
    let last = bus.stream_state(&stream).await?.last_seq;
    if last < from {
        return Ok(());
    }
    let mut log = bus.read_log(&stream, from, Some(&filter)).await?;
    while let Some(messages) = log.next_stored(CHUNK_EVENTS_MAX, last).await? {
        taken_over(store, messages.iter().filter_map(parked).collect(), false).await?;
    }
    Ok(())
}

async fn taken_over(store: &Store, parked: Vec<Parked>, is_all: bool) -> Result<(), ConsumersError> {
    let store = store.clone();
    blocking("recall", move || Ok(store.recall(&parked, is_all)?)).await
}

/// What cannot be read is a dead letter of the target log itself.
fn parked(message: &LogMessage) -> Option<Parked> {
    match LogFact::decode("parked", message.body()) {
        Ok(LogFact::Parked(parked)) => Some(parked),
        _ => None,
    }
}
