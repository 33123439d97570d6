//! Facts about messages that could not be taken in, and about their copies that were.

use serde::{Deserialize, Serialize};

use crate::{chain::ChainPoint, hash::Hash32, text::decimal, time::Timestamp};

/// A message is among the dead letters (`log.parked`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Parked {
    /// The log's stream.
    pub stream: String,
    /// The message's sequence in it.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub seq: u64,
    /// The message's subject.
    pub subject: String,
    /// Why it could not be taken in, and what to do.
    pub reason: String,
    /// JSON path or header of the fault.
    pub path: String,
    /// When the log stored the message: a log that was rewound may have another one at its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_at: Option<Timestamp>,
    /// The message's place in its chain; absent when it has none, or it could not be read that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<ChainPoint>,
    /// `stream:seq` of the message that is parked, when this is a copy of it that could not be taken in either: it is no dead
    /// letter of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<String>,
}

impl Parked {
    /// `stream:seq`.
    pub fn entity(&self) -> String {
        format!("{}:{}", self.stream, self.seq)
    }
}

/// A copy of a parked message was taken in (`log.redriven`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Redriven {
    /// The log's stream.
    pub stream: String,
    /// The sequence of the message that was parked.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub seq: u64,
    /// The sequence of its copy.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub copy_seq: u64,
    /// The message's subject.
    pub subject: String,
    /// Who asked for it, as the copy says.
    pub actor: String,
    /// The upcaster that mended it; absent when it was taken in as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upcaster: Option<Upcaster>,
}

impl Redriven {
    /// `stream:seq` of the message that was parked.
    pub fn entity(&self) -> String {
        format!("{}:{}", self.stream, self.seq)
    }
}

/// What an operator had changed in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Upcaster {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: Hash32,
}
