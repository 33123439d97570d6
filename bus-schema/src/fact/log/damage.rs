//! What a log lost: found, healed, or taken note of by a person.

use serde::{Deserialize, Serialize};

use crate::{chain::ChainPoint, hash::Hash32, text::decimal, time::Timestamp};

/// Events of a chain are missing (`log.gap_found`): they never came, or the log lost them after they were taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GapFound {
    /// The owner of the chain.
    pub owner: String,
    /// The last event before the gap; seq 0 = the epoch's beginning is missing.
    pub after: ChainPoint,
    /// The first place behind the gap.
    pub before: ChainPoint,
    /// `stream:seq` of the event that showed it.
    pub place: String,
    /// The hash of the event before the gap, which a copy of the first missing one must name; absent = unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_hash: Option<Hash32>,
    /// The hash that a copy of the last missing event must have; absent = nothing behind the gap names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_prev: Option<Hash32>,
    /// The pool had taken the events in before the log lost them: the pool is as true as before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
}

impl GapFound {
    /// The owner.
    pub fn entity(&self) -> String {
        self.owner.clone()
    }
}

/// The log has the missing events again (`log.gap_healed`): their owner sent them once more, and their hashes fit
/// the events before and behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GapHealed {
    /// The owner of the chain.
    pub owner: String,
    /// The last event before the gap.
    pub after: ChainPoint,
    /// The first place behind the gap.
    pub before: ChainPoint,
    /// `stream:seq` of the last copy.
    pub place: String,
}

impl GapHealed {
    /// The owner.
    pub fn entity(&self) -> String {
        self.owner.clone()
    }
}

/// How a message is not what was read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// There is none at its sequence any more.
    Missing,
    /// Another one stands there.
    Replaced,
}

/// Messages that were read are not in the log any more (`log.loss_found`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LossFound {
    /// The log's stream.
    pub stream: String,
    /// When the stream was made that they were read from.
    pub created: Timestamp,
    /// The first sequence; every one up to `last_seq` is lost.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The last sequence.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub last_seq: u64,
    /// How many of them nobody can be asked for: they had no place in a chain, and were no heartbeats.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub unchained: u64,
    /// What stands there now.
    pub loss: Loss,
}

impl LossFound {
    /// The log's stream.
    pub fn entity(&self) -> String {
        self.stream.clone()
    }
}

/// What a person takes note of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// A gap in a chain.
    Gap {
        /// The owner of the chain.
        owner: String,
        /// The last event before the gap.
        after: ChainPoint,
        /// The first place behind the gap.
        before: ChainPoint,
    },
    /// Lost messages.
    Loss {
        /// The log's stream.
        stream: String,
        /// When the stream was made.
        created: Timestamp,
        /// The first sequence.
        #[serde(with = "decimal")]
        #[schemars(with = "crate::text::Decimal")]
        first_seq: u64,
        /// The last sequence.
        #[serde(with = "decimal")]
        #[schemars(with = "crate::text::Decimal")]
        last_seq: u64,
    },
}

/// A person knows of a damage that cannot be healed (`log.damage_acknowledged`): it is history, and no alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DamageAcknowledged {
    /// The damage.
    pub damage: Damage,
    /// Who.
    pub actor: String,
    /// Why it may stay, in words.
    pub reason: String,
}

impl DamageAcknowledged {
    /// The owner of the chain, or the log's stream.
    pub fn entity(&self) -> String {
        match &self.damage {
            Damage::Gap { owner, .. } => owner.clone(),
            Damage::Loss { stream, .. } => stream.clone(),
        }
    }
}

/// A log was read again and compared with what was read of it before (`log.scrubbed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Scrubbed {
    /// The log's stream.
    pub stream: String,
    /// The first sequence that it holds.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The last sequence that was compared.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub last_seq: u64,
    /// Messages that were read.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub messages: u64,
    /// Gaps in chains that it has, healed and acknowledged ones left out.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub gaps: u64,
    /// Messages that were read before and are lost, known ones included.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub lost: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Scrubbed {
    /// The log's stream.
    pub fn entity(&self) -> String {
        self.stream.clone()
    }
}
