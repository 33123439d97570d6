//! Signed checkpoints: what the logs and the pools were at one moment, stated by the target under its signing key.

use serde::{Deserialize, Serialize};

use crate::{
    canonical,
    chain::ChainPoint,
    hash::Hash32,
    id::{Name, PoolId},
    text::decimal,
    time::Timestamp,
};

/// Most owners in one checkpoint, so that it fits one message; the others come with the next ones.
pub const OWNERS_MAX: usize = 1_000;

/// What was true at one moment (`log.checkpoint`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Checkpoint {
    /// The target that states it.
    pub target: Name,
    /// Counted from 1, without a gap.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub number: u64,
    /// The hash of the checkpoint before it ([`Checkpoint::hash`]); zero for the first.
    pub previous: Hash32,
    /// The target's clock.
    pub stated_at: Timestamp,
    /// The logs.
    pub logs: Vec<LogMark>,
    /// The owners that changed since the last checkpoint that names them; at most [`OWNERS_MAX`].
    pub owners: Vec<OwnerMark>,
    /// The public nkey (`U...`, ed25519) whose signature it is.
    pub key: String,
    /// Base64 (RFC 4648) of the ed25519 signature (RFC 8032) over [`Checkpoint::signed`].
    pub signature: String,
}

/// How far a log was read, and the hash over all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LogMark {
    /// The log's stream.
    pub stream: String,
    /// When the stream was made.
    pub created: Timestamp,
    /// How often the log was read from its start, counted from 1: the running hash begins anew each time.
    pub incarnation: u32,
    /// The last sequence.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub seq: u64,
    /// The running hash behind it ([`crate::proof::extend`]).
    pub running: Hash32,
}

/// What the pool has of an owner at the logs' marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OwnerMark {
    /// The pool.
    pub pool: PoolId,
    /// CloudEvents `source`.
    pub owner: String,
    /// The last event of its chain; absent = it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<ChainPoint>,
    /// That event's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash32>,
    /// Resources that it has.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub rows: u64,
    /// SHA-256 over its resources in order of their keys ([`crate::digest::RowsHasher`]).
    pub rows_sha256: Hash32,
}

impl Checkpoint {
    /// The target.
    pub fn entity(&self) -> String {
        self.target.to_string()
    }

    /// What is signed: the RFC 8785 text of the checkpoint without its signature. Errors: none in practice.
    pub fn signed(&self) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(self)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("signature");
        }
        canonical::text(&value)
    }

    /// SHA-256 of [`Checkpoint::signed`]: what the next checkpoint names.
    pub fn hash(&self) -> serde_json::Result<Hash32> {
        Ok(Hash32::of(self.signed()?.as_bytes()))
    }
}
