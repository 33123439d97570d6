//! Which part of which log somebody means: a sequence or a time at each end.

use bus::{Bus, StreamState};
use bus_schema::Timestamp;

use super::replay::Until;
use crate::error::ConsumersError;

/// Sequences behind one that is missing that are looked at for a time.
const NEIGHBOURS_MAX: u64 = 1_000;

/// A part of the logs, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// One log only; none = all of them.
    pub stream: Option<String>,
    /// Where it begins; none = with the log.
    pub from: Option<Until>,
    /// Where it ends; none = with the log.
    pub to: Option<Until>,
}

impl Bounds {
    /// The first and the last sequence in one log. Errors: the bus.
    pub(crate) async fn of(&self, bus: &Bus, state: &StreamState) -> Result<(u64, u64), ConsumersError> {
        let from = match self.from {
            None | Some(Until::Now) => 1,
            Some(Until::Seq(seq)) => seq.max(1),
            Some(Until::Time(time)) => before(bus, state, |stored_at| stored_at < time).await? + 1,
        };
        let to = match self.to {
            None | Some(Until::Now) => state.last_seq,
            Some(Until::Seq(seq)) => seq.min(state.last_seq),
            Some(Until::Time(time)) => before(bus, state, |stored_at| stored_at <= time).await?,
        };
        Ok((from, to))
    }
}

/// The last sequence whose message was stored early enough; 0 = none was.
async fn before(
    bus: &Bus,
    state: &StreamState,
    is_before: impl Fn(Timestamp) -> bool,
) -> Result<u64, ConsumersError> {
    let (mut low, mut high) = (state.first_seq.saturating_sub(1), state.last_seq);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let (seq, stored_at) = first_from(bus, &state.stream, middle, high).await?;
        if stored_at.is_some_and(&is_before) {
            low = seq;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

/// When the first message at a sequence or behind it was stored.
async fn first_from(
    bus: &Bus,
    stream: &str,
    seq: u64,
    last: u64,
) -> Result<(u64, Option<Timestamp>), ConsumersError> {
    for at in seq..=last.min(seq + NEIGHBOURS_MAX) {
        if let Some(message) = bus.message(stream, at).await? {
            return Ok((at, Some(message.stored_at())));
        }
    }
    Ok((last, None))
}
