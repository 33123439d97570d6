//! Questions about what was committed. Each opens its own short read transaction: it never waits for
//! the writer, never sees half a batch, and says as of when it is true.

use std::{collections::BTreeMap, fmt, io::Write, ops::Deref};

use bus_schema::{
    Name, PoolId, ResourceKey, TenantId, Timestamp,
    chain::ChainPoint,
    digest::{Address, Digest, Node},
};

use crate::{
    owner::{Owner, SinceSync},
    records::{
        AccessKey, ConfirmationRecord, ImageEntry, LogFactRecord, SyncRecord, TenantState, VolumeState,
    },
    row::Row,
    store::StoreError,
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
    /// Whether every owner that has resources is in sync, see [`Owner::in_sync`].
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
pub struct Reader {}

impl Reader {
    /// What an answer given now is true as of.
    pub fn as_of(&self) -> Result<AsOf, StoreError> {
        unimplemented!()
    }

    /// Every pool.
    pub fn pools(&self) -> Result<Answer<Vec<PoolSummary>>, StoreError> {
        unimplemented!()
    }

    /// The owners of a pool; none for an unknown pool.
    pub fn owners(&self, _pool: &PoolId) -> Result<Answer<Vec<Owner>>, StoreError> {
        unimplemented!()
    }

    /// One owner.
    pub fn owner(&self, _pool: &PoolId, _source: &str) -> Result<Answer<Option<Owner>>, StoreError> {
        unimplemented!()
    }

    /// One row, a tombstone too.
    pub fn row(&self, _pool: &PoolId, _key: &ResourceKey) -> Result<Answer<Option<Row>>, StoreError> {
        unimplemented!()
    }

    /// At most `limit` rows after a key, in order of their keys.
    pub fn rows(
        &self,
        _pool: &PoolId,
        _filter: &Filter,
        _after: Option<&ResourceKey>,
        _limit: usize,
    ) -> Result<Page, StoreError> {
        unimplemented!()
    }

    /// Writes every row (tombstones too) as one RFC 8785 JSON object per line, sorted by key; answers
    /// how many. Equal pools give equal bytes, whatever way led to them.
    pub fn export(&self, _pool: &PoolId, _to: &mut dyn Write) -> Result<Answer<u64>, StoreError> {
        unimplemented!()
    }

    /// The access keys that sources of a pool announced, withdrawn ones too.
    pub fn keys(&self, _pool: &PoolId) -> Result<Answer<Vec<AccessKey>>, StoreError> {
        unimplemented!()
    }

    /// The access keys that the target issued, revoked ones too.
    pub fn issued_keys(&self) -> Result<Answer<Vec<AccessKey>>, StoreError> {
        unimplemented!()
    }

    /// The access keys of a name, one per origin.
    pub fn key(&self, _key_id: &Name) -> Result<Answer<Vec<AccessKey>>, StoreError> {
        unimplemented!()
    }

    /// One tenant.
    pub fn tenant(&self, _tenant: &TenantId) -> Result<Answer<Option<TenantState>>, StoreError> {
        unimplemented!()
    }

    /// Every tenant.
    pub fn tenants(&self) -> Result<Answer<Vec<TenantState>>, StoreError> {
        unimplemented!()
    }

    /// The last confirmations of a pool, newest first.
    pub fn confirmations(
        &self,
        _pool: &PoolId,
        _limit: usize,
    ) -> Result<Answer<Vec<ConfirmationRecord>>, StoreError> {
        unimplemented!()
    }

    /// The last syncs of a pool, newest first.
    pub fn syncs(&self, _pool: &PoolId, _limit: usize) -> Result<Answer<Vec<SyncRecord>>, StoreError> {
        unimplemented!()
    }

    /// Whether a person paused a pool's schedule.
    pub fn is_paused(&self, _pool: &PoolId) -> Result<Answer<bool>, StoreError> {
        unimplemented!()
    }

    /// The volumes of a pool that have failed extents.
    pub fn volumes(&self, _pool: &PoolId) -> Result<Answer<Vec<VolumeState>>, StoreError> {
        unimplemented!()
    }

    /// The image catalogue of a pool.
    pub fn images(&self, _pool: &PoolId) -> Result<Answer<Vec<ImageEntry>>, StoreError> {
        unimplemented!()
    }

    /// The last facts about logs, newest first.
    pub fn log_facts(&self, _limit: usize) -> Result<Answer<Vec<LogFactRecord>>, StoreError> {
        unimplemented!()
    }

    /// How many messages were parked as dead letters: stated ones, and ones that wait in the outbox.
    pub fn dead_letters(&self) -> Result<Answer<u64>, StoreError> {
        unimplemented!()
    }

    /// The threshold counters of a pool.
    pub fn counters(&self, _pool: &PoolId) -> Result<Answer<PoolCounters>, StoreError> {
        unimplemented!()
    }

    /// Nodes of an owner's digest at `depth`: the descendants of the nodes `below` at depth `above`;
    /// all of the level when `below` is empty. At most [`bus_schema::command::resource::NODES_MAX`].
    pub fn digest_nodes(
        &self,
        _pool: &PoolId,
        _source: &str,
        _depth: u8,
        _above: u8,
        _below: &[u32],
    ) -> Result<Answer<DigestNodes>, StoreError> {
        unimplemented!()
    }

    /// The items below the nodes `below` at depth `above`; all items when `below` is empty.
    pub fn digest_items(
        &self,
        _pool: &PoolId,
        _source: &str,
        _above: u8,
        _below: &[u32],
    ) -> Result<Answer<DigestItems>, StoreError> {
        unimplemented!()
    }
}
