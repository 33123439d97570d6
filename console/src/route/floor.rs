//! Where a trimmed log begins: the earliest moment that it tells of.

use bus_schema::{Timestamp, fact::log::LogFact};

use crate::{api::Api, problem::Problem};

/// The earliest moment that a log tells of, if it was trimmed; none = it was not, or cannot be asked. What is stated and not
/// done yet does not count.
pub(super) async fn not_before(api: &Api, stream: &str) -> Result<Option<Timestamp>, Problem> {
    let stated = api.reader().latest_fact("trimmed", stream)?.value.map(|record| record.fact);
    let (Some(LogFact::Trimmed(stated)), None) = (stated, api.down_since()) else { return Ok(None) };
    let bus = &api.parts.bus;
    let Ok(state) = bus.stream_state(stream).await else { return Ok(None) };
    if state.created != stated.created || !state.begins_late() {
        return Ok(None);
    }
    if state.first_seq >= stated.first_seq {
        return Ok(Some(stated.not_before));
    }
    // The one before is in force still.
    let first = bus.message(stream, state.first_seq).await.ok().flatten();
    Ok(first.map(|first| first.stored_at()))
}
