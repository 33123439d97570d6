//! Events of the stem `agent`: the life of a source agent.

use serde::{Deserialize, Serialize};

use crate::{
    chain::ChainPoint,
    digest::Digest,
    event::events,
    hash::Hash32,
    id::{Epoch, Name, Stem},
    text::decimal,
    time::Timestamp,
};

events! {
    /// A fact about an agent's own life.
    Agent AgentEvent {
        /// The agent runs.
        Started(Started) = "started",
        /// The agent lives; sent on a fixed period, and when its trouble changes. Not chained.
        Heartbeat(Heartbeat) = "heartbeat",
        /// The agent gave up the rest of an epoch; a full sync in a new one follows.
        EpochClosed(EpochClosed) = "epoch_closed",
        /// The agent stopped after it had sent everything.
        Stopped(Stopped) = "stopped",
    }
}

/// The agent runs (`agent.started`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Started {
    /// The agent's name.
    pub agent: Name,
    /// The system that it serves.
    pub stem: Stem,
    /// The agent's software version.
    pub version: String,
    /// How often it sends a heartbeat, in milliseconds.
    pub heartbeat_ms: u32,
}

/// The agent lives (`agent.heartbeat`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Heartbeat {
    /// The agent's name.
    pub agent: Name,
    /// The last event of its chain that the log has acknowledged.
    pub at: ChainPoint,
    /// That event's hash; absent = it is the epoch's beginning, or an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash32>,
    /// The last signed checkpoint that it was told of: a target that shows another history under this number has
    /// changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSeen>,
    /// The digest of everything the owner has at that point; absent while its outbox holds
    /// events that the log has not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The source's clock when it was sent.
    pub sent_at: Timestamp,
    /// Events that wait in its outbox.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub outbox_events: u64,
    /// What keeps the agent from its work, in words; absent when all is well: a source that cannot be read, a
    /// log that takes nothing, another agent under its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A signed checkpoint, as whoever was told of it remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckpointSeen {
    /// The target that states it.
    pub target: Name,
    /// Its number.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub number: u64,
    /// Its hash ([`crate::fact::log::Checkpoint::hash`]).
    pub hash: Hash32,
}

/// The agent gave up the rest of an epoch (`agent.epoch_closed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EpochClosed {
    /// The agent's name.
    pub agent: Name,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// Why, in words.
    pub reason: String,
    /// Events that were dropped from the outbox.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub dropped: u64,
}

/// The agent stopped after it had sent everything (`agent.stopped`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stopped {
    /// The agent's name.
    pub agent: Name,
}

macro_rules! entity_is_agent {
    ($($type:ty),+) => { $(impl $type {
        /// The agent's name.
        pub fn entity(&self) -> String {
            self.agent.to_string()
        }
    })+ };
}
entity_is_agent!(Started, Heartbeat, EpochClosed, Stopped);
