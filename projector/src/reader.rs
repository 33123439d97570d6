//! Questions about what was committed. Each is answered from the [snapshot](crate::snapshot) of one commit:
//! it never waits for the writer, never sees half a batch nor less than a commit that was done when it was
//! asked, and says as of when it is true.

mod checkpoints;
mod digest;
mod export;
mod parked;
mod pools;
mod records;
mod rows;

pub(crate) use export::line;

pub use checkpoints::{Contradiction, OwnerStand, Stand};
pub use parked::ParkedGroup;

use std::{collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use crate::{error::StoreError, file::File, owner::SinceSync, row::Row, snapshot::Snapshot, tables::Db};
use bus_schema::{
    PoolId, ResourceKey, TenantId, Timestamp,
    chain::ChainPoint,
    digest::{Address, Digest, Node},
};

/// What an answer is true as of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsOf {
    /// For each log, its stream and the last sequence taken in.
    pub logs: Vec<(String, u64)>,
    /// The largest time at which a log stored a message up to there.
    pub time: Timestamp,
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stream, seq) in &self.logs {
            write!(f, "{stream}:{seq} ")?;
        }
        write!(f, "({})", self.time)
    }
}

/// An answer, and what it is true as of.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// What it is true as of.
    pub as_of: AsOf,
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Which rows of a pool are wanted: those that satisfy all that is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<String>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Of exactly this tenant.
    pub tenant: Option<TenantId>,
    /// Written last by this source.
    pub owner: Option<String>,
    /// Tombstones too.
    pub include_deleted: bool,
    /// Only rows whose announced state has not come.
    pub stale: bool,
}

/// Some rows, in order of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// There may be more: ask again with this as `after`.
    pub next: Option<ResourceKey>,
    /// What it is true as of.
    pub as_of: AsOf,
}

/// A pool at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSummary {
    /// The pool.
    pub pool: PoolId,
    /// Live resources.
    pub resources: u64,
    /// Tombstones.
    pub deleted: u64,
    /// Owners.
    pub owners: u64,
    /// Sum over the owners.
    pub since_sync: SinceSync,
    /// Whether every owner that has resources, or has told in a sync that it has none, is in sync; not if
    /// there is no such owner. See [`Owner::in_sync`](crate::Owner::in_sync).
    pub in_sync: bool,
    /// When the log stored its last event.
    pub last_event_at: Timestamp,
    /// Whether a person paused its schedule.
    pub paused: bool,
}

/// The threshold counters of a pool (R6).
#[derive(Clone, Debug, PartialEq)]
pub struct PoolCounters {
    /// Per owner.
    pub owners: Vec<(String, SinceSync)>,
    /// Of all.
    pub sum: SinceSync,
}

/// Nodes of an owner's digest.
#[derive(Clone, Debug, PartialEq)]
pub struct DigestNodes {
    /// The place in the owner's chain; none = it has no chain.
    pub at: Option<ChainPoint>,
    /// Root and count there.
    pub digest: Digest,
    /// The nodes, in order of the question.
    pub nodes: Vec<Node>,
}

/// Items below some nodes of an owner's digest.
#[derive(Clone, Debug, PartialEq)]
pub struct DigestItems {
    /// The place in the owner's chain; none = it has no chain.
    pub at: Option<ChainPoint>,
    /// Root and count there.
    pub digest: Digest,
    /// The items, in order of their addresses.
    pub items: Vec<DigestItem>,
}

/// One live resource as the digest sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DigestItem {
    /// The resource.
    pub key: ResourceKey,
    /// Where it stands in the trie.
    pub address: Address,
    /// What stands there.
    pub item: Node,
}

/// Answers questions; cheap to make and to clone.
#[derive(Clone)]
pub struct Reader {
    file: Arc<File>,
}

impl Reader {
    pub(crate) fn new(file: Arc<File>) -> Self {
        Self { file }
    }

    /// What an answer given now is true as of.
    pub fn as_of(&self) -> Result<AsOf, StoreError> {
        self.file.read(|snapshot| Ok(snapshot.as_of().clone()))
    }

    /// What an error of the tables means for the file that is read.
    pub(crate) fn wrong(&self, error: redb::Error) -> StoreError {
        self.file.wrong(error)
    }

    /// Asks one question of the last commit.
    fn ask<T>(&self, question: impl FnOnce(&Snapshot) -> Db<T>) -> Result<Answer<T>, StoreError> {
        self.file.read(|snapshot| Ok(Answer { value: question(snapshot)?, as_of: snapshot.as_of().clone() }))
    }
}
