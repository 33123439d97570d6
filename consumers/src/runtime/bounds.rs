//! Which part of which log somebody means: a sequence or a time at each end.

use bus::{Bus, StreamState};

use super::replay::Until;
use crate::error::ConsumersError;

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
            Some(Until::Time(time)) => bus.last_stored(state, |stored_at| stored_at < time).await? + 1,
        };
        let to = match self.to {
            None | Some(Until::Now) => state.last_seq,
            Some(Until::Seq(seq)) => seq.min(state.last_seq),
            Some(Until::Time(time)) => bus.last_stored(state, |stored_at| stored_at <= time).await?,
        };
        Ok((from, to))
    }
}
