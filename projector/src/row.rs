//! One resource as the pool has it.

use std::collections::BTreeMap;

use bus_schema::{Hash32, ResourceKey, Revision, TenantId, Timestamp, chain::ChainPoint};
use serde::Serialize;

/// One resource of a pool; a tombstone if `deleted_at` is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `kind/id`.
    pub key: ResourceKey,
    /// The source that wrote it last.
    pub owner: String,
    /// The revision of `state`; absent for a tombstone, and before a state came.
    pub revision: Option<Revision>,
    /// The state's JSON text as it came; absent for a tombstone, and before a state came.
    pub state: Option<String>,
    /// SHA-256 of the state's RFC 8785 text.
    pub state_hash: Option<Hash32>,
    /// The tenant that it belongs to.
    pub tenant: Option<TenantId>,
    /// Labels to search by.
    pub labels: BTreeMap<String, String>,
    /// Where the last event about it stands.
    pub order: Order,
    /// `stream:seq` of that event.
    pub place: String,
    /// The source's time of that event.
    pub source_time: Timestamp,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// When the log stored the event that deleted it.
    pub deleted_at: Option<Timestamp>,
    /// A newer state that was announced and has not come: the row is stale.
    pub notice: Option<Notice>,
}

impl Row {
    /// What the pool believes that the source has: the announced revision and state hash of a stale
    /// row, else those of its state; none for a tombstone.
    pub fn current(&self) -> Option<(&Revision, &Hash32)> {
        match &self.notice {
            Some(notice) => Some((&notice.revision, &notice.state_hash)),
            None => self.revision.as_ref().zip(self.state_hash.as_ref()),
        }
    }
}

/// Where an event stands among the others of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A place in the owner's chain.
    Chained(ChainPoint),
    /// The log's incarnation (counted from 1, one more with every rewind) and stream sequence.
    Unchained {
        /// The log's incarnation.
        incarnation: u32,
        /// The stream sequence.
        seq: u64,
    },
}

/// A state that was announced (`resource.noticed`) and has not come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    /// The announced revision.
    pub revision: Revision,
    /// The announced state hash.
    pub state_hash: Hash32,
    /// The announced size of the state's JSON text, in bytes.
    pub size_bytes: u64,
    /// When the log stored the first notice since the last state.
    pub since: Timestamp,
}
