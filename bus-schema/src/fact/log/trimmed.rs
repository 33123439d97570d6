//! Retention: the beginning of a log goes.

use serde::{Deserialize, Serialize};

use crate::{hash::Hash32, text::decimal, time::Timestamp};

/// The beginning of a log goes, behind a snapshot that holds it (`log.trimmed`). Stated before it is done, and done when a
/// signed checkpoint covers the statement: whoever finds less than this in the log has lost something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Trimmed {
    /// The log's stream.
    pub stream: String,
    /// When the stream was made.
    pub created: Timestamp,
    /// The first sequence that the log had to have before.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub before_seq: u64,
    /// The first sequence that stays; a checkpoint's mark, and the place of the snapshot.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub first_seq: u64,
    /// The hash of the message at that sequence: a log that has another one there went back meanwhile, and was never
    /// trimmed.
    pub first_hash: Hash32,
    /// The largest time at which the log had stored a message up to there: no earlier moment can be shown.
    pub not_before: Timestamp,
    /// The number of the checkpoint that signs the place.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub checkpoint: u64,
    /// SHA-256 of the snapshot's file.
    pub snapshot: Hash32,
    /// Why, in words: the age or the size that the configuration allows.
    pub reason: String,
}

impl Trimmed {
    /// The log's stream.
    pub fn entity(&self) -> String {
        self.stream.clone()
    }
}
