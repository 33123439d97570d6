//! What the target log says of parked messages, taken over before a log is read: the past stays what it was. A newer
//! build may read what an older one could not; were it taken in at its old place, a replay of that time would show
//! what nobody could know then. It is parked again, for the reason that was stated, until its copy comes.

use bus::{Bus, LogMessage};
use bus_schema::{
    Name,
    fact::log::{LogFact, Parked},
    subject,
};
use projector::Store;

use super::pump::CHUNK_EVENTS_MAX;
use crate::{error::ConsumersError, task::blocking};

/// Takes it over once in the life of a store. Errors: the bus, the disk.
pub(crate) async fn recall(bus: &Bus, store: &Store, target: &Name) -> Result<(), ConsumersError> {
    if store.has_recalled()? { Ok(()) } else { recall_anew(bus, store, target).await }
}

/// Takes over what was stated since, too: for a store that was made at another moment. Errors: the bus, the disk.
pub(crate) async fn recall_anew(bus: &Bus, store: &Store, target: &Name) -> Result<(), ConsumersError> {
    let (stream, filter) = (subject::target_stream(target), subject::log_facts(target, "parked"));
    let Some(last) = bus.last_message(&stream, &filter).await? else {
        return taken_over(store, vec![], true).await;
    };
    let mut log = bus.read_log(&stream, 1, Some(&filter)).await?;
    while let Some(messages) = log.next_stored(CHUNK_EVENTS_MAX, last.seq()).await? {
        taken_over(store, messages.iter().filter_map(parked).collect(), false).await?;
    }
    taken_over(store, vec![], true).await
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
