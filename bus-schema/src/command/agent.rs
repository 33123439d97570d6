//! Commands of the stem `agent`: an agent and the target find a common place in the chain, and the target asks for
//! events that the log has lost.

use serde::{Deserialize, Serialize};

use crate::{
    chain::ChainPoint,
    event::agent::CheckpointSeen,
    hash::Hash32,
    id::{Epoch, Source},
    text::decimal,
    time::Timestamp,
};

/// The verb of [`Hello`], sent by an agent to the target.
pub const HELLO: &str = "hello";
/// The verb of [`Replay`], sent by the target to an agent.
pub const REPLAY: &str = "replay";
/// Most events that one [`Replay`] may ask for; the target asks again for the rest.
pub const REPLAY_EVENTS_MAX: u64 = 10_000;

/// "Here I am; what do you have of me?" (`agent.hello`): at start, after every new connection, and now and
/// then, so that neither a target that was rebuilt nor an agent that was refused stays so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Hello {
    /// The agent's source.
    pub source: Source,
    /// The last event that it has made.
    pub at: ChainPoint,
    /// That event's hash.
    pub hash: Hash32,
    /// The last event that a log acknowledged; seq 0 = none of this epoch. A pool that has read its whole log
    /// and has nothing of the epoch stands on another log. Absent = as `at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<ChainPoint>,
}

/// The target's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HelloReply {
    /// The last event of this source that the pool has; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<(ChainPoint, Hash32)>,
    /// What the agent shall do.
    pub verdict: HelloVerdict,
    /// The target's last signed checkpoint, for the agent to remember and to name in its heartbeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSeen>,
}

/// What an agent shall do after [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HelloVerdict {
    /// Go on: what the pool has is a part of the agent's chain, as far as the target can see.
    Continue,
    /// The agent is behind what the pool has, on another branch (a restored backup), in an epoch that is
    /// over, or unknown to a log that was made anew: start a new epoch and send everything.
    Rebase,
}

/// "The log has lost these events of yours; send them once more" (`agent.replay`). The agent publishes what it kept
/// of them, to the letter, under a new message id: a copy has the id, the place in the chain and the hash of the event
/// that was lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Replay {
    /// The agent that is meant.
    pub source: Source,
    /// The epoch of the events.
    pub epoch: Epoch,
    /// The first one's place in the chain.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The last one's place; at most [`REPLAY_EVENTS_MAX`] in all.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub last_seq: u64,
    /// The lease's fencing token.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub lease: u64,
    /// When the log was made whose sequence the token is, see [`crate::command::resource::SyncRequest::lease_log`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_log: Option<Timestamp>,
}

/// The agent's answer to [`Replay`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ReplayReply {
    /// The log has acknowledged the copies.
    Sent {
        /// Copies.
        #[serde(with = "decimal")]
        #[schemars(with = "crate::text::Decimal")]
        events: u64,
    },
    /// It does not have them any more, or cannot send now.
    Refused {
        /// Why, and what to do.
        reason: String,
        /// Asking again is of no use.
        gone: bool,
    },
}
