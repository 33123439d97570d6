//! Ports that record what was asked and stated, and a pool made of plain values: what the async shell is
//! tested with. What crosses the real bus is tested in the workspace's `tests/resource.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use bus::LeaseToken;
use bus_schema::{
    Hash32, Name, PoolId, ResourceKey, Source, TenantId, Timestamp,
    chain::ChainPoint,
    digest::{Address, Digest, Node},
    fact::Fact,
};
use projector::{
    AccessKey, DigestItem, DigestItems, DigestNodes, KeyOrigin, LastSync, Order, Owner, Row, StoreError,
    SyncRecord, TenantState,
};
use serde_json::Value;
use tokio::sync::watch;

use super::ports::{Pool, Ports, Silence};
use crate::{
    error::ConsumersError,
    runtime::applied::{Applied, Progress, Reached},
};

pub(crate) const STREAM: &str = "FARSIDE_LOCAL";

/// What a scripted agent does when it is asked: it may change the pool, as its events would.
type Script = Box<dyn FnOnce(&RecordingPool, &Value) -> Result<Value, Silence> + Send>;

/// The recording ports.
pub(crate) struct Recording {
    now: Mutex<Timestamp>,
    pub(crate) pool: RecordingPool,
    answers: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<(String, Value)>>,
    stated: Mutex<Vec<Fact>>,
}

/// The plain values.
pub(crate) struct RecordingPool {
    owners: Mutex<BTreeMap<String, Owner>>,
    rows: Mutex<BTreeMap<ResourceKey, Row>>,
    keys: Mutex<Vec<AccessKey>>,
    applied: watch::Sender<Applied>,
    progress: Progress,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Recording {
    /// A pool with one owner that has announced a key and was synchronised once.
    pub(crate) fn with_owner(source: &str) -> Self {
        let (applied, progress) = Progress::channel();
        let source: Source = source.parse().unwrap();
        let pool = RecordingPool {
            owners: Mutex::new(BTreeMap::from([(source.to_string(), owner(&source))])),
            rows: Mutex::default(),
            keys: Mutex::new(vec![key(&source)]),
            applied,
            progress,
        };
        let now = Mutex::new(Timestamp::from_unix_ms(1_000_000));
        let (answers, asked, stated) = Default::default();
        Self { now, pool, answers, asked, stated }
    }

    /// The next question is answered so.
    pub(crate) fn answers(
        &self,
        script: impl FnOnce(&RecordingPool, &Value) -> Result<Value, Silence> + Send + 'static,
    ) -> &Self {
        lock(&self.answers).push_back(Box::new(script));
        self
    }

    /// Every question so far: the verb and the command.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        lock(&self.asked).clone()
    }

    /// Every fact so far.
    pub(crate) fn stated(&self) -> Vec<Fact> {
        lock(&self.stated).clone()
    }

    pub(crate) fn later(&self, ms: i64) {
        let mut now = lock(&self.now);
        *now = Timestamp::from_unix_ms(now.unix_ms() + ms);
    }
}

impl RecordingPool {
    pub(crate) fn change_owner(&self, source: &str, change: impl FnOnce(&mut Owner)) {
        change(lock(&self.owners).get_mut(source).unwrap());
        self.moved();
    }

    /// One more agent of the pool, with a key of its own.
    pub(crate) fn add_owner(&self, source: &str) {
        let source: Source = source.parse().unwrap();
        lock(&self.owners).insert(source.to_string(), owner(&source));
        lock(&self.keys).push(key(&source));
        self.moved();
    }

    pub(crate) fn forget_owners(&self) {
        lock(&self.owners).clear();
    }

    pub(crate) fn forget_keys(&self) {
        lock(&self.keys).clear();
    }

    pub(crate) fn put(&self, owner: &str, key: &str, revision: &str) {
        let key: ResourceKey = key.parse().unwrap();
        lock(&self.rows).insert(key.clone(), row(owner, key, revision));
        self.moved();
    }

    /// The same, at a place in the owner's chain.
    pub(crate) fn put_at(&self, owner: &str, key: &str, revision: &str, seq: u64) {
        let key: ResourceKey = key.parse().unwrap();
        let order = Order::Chained(ChainPoint { epoch: bus_schema::Epoch(7), seq });
        lock(&self.rows).insert(key.clone(), Row { order, ..row(owner, key, revision) });
        self.moved();
    }

    pub(crate) fn delete(&self, key: &str) {
        let key: ResourceKey = key.parse().unwrap();
        if let Some(row) = lock(&self.rows).get_mut(&key) {
            *row = Row {
                deleted_at: Some(Timestamp::default()),
                revision: None,
                state_hash: None,
                ..row.clone()
            };
        }
        self.moved();
    }

    /// As the closing event of a sync does.
    pub(crate) fn close(&self, source: &str, sync_id: &str, seq: u64) {
        self.change_owner(source, |owner| {
            owner.last_sync = Some(last_sync(sync_id));
            owner.at = owner.at.map(|at| ChainPoint { seq, ..at });
        });
    }

    fn moved(&self) {
        self.applied.send_modify(|applied| {
            let reached = applied.entry(STREAM.to_owned()).or_default();
            *reached = Reached { seq: reached.seq + 1, ..*reached };
        });
    }
}

/// The state hash that a revision has in these tests.
pub(crate) fn hash_of(revision: &str) -> Hash32 {
    Hash32::of(revision.as_bytes())
}

fn row(owner: &str, key: ResourceKey, revision: &str) -> Row {
    Row {
        key,
        owner: owner.to_owned(),
        revision: Some(revision.parse().unwrap()),
        state: Some("{}".to_owned()),
        state_hash: Some(hash_of(revision)),
        tenant: None,
        labels: BTreeMap::new(),
        order: Order::Unchained { incarnation: 1, seq: 1 },
        place: "FARSIDE_LOCAL:1".to_owned(),
        source_time: Timestamp::default(),
        stored_at: Timestamp::default(),
        deleted_at: None,
        notice: None,
    }
}

fn last_sync(sync_id: &str) -> LastSync {
    LastSync {
        sync_id: sync_id.to_owned(),
        scope: bus_schema::event::resource::SyncScope::Full,
        place: "FARSIDE_LOCAL:1".to_owned(),
        closed_at: Timestamp::default(),
        low: Some(ChainPoint { epoch: bus_schema::Epoch(7), seq: 12 }),
        resources: 0,
        deleted: 0,
        bytes: 0,
        swept: 0,
        broken: None,
        equal: true,
    }
}

pub(crate) fn owner(source: &Source) -> Owner {
    Owner {
        pool: source.pool.clone(),
        source: source.to_string(),
        agent: None,
        at: Some(ChainPoint { epoch: bus_schema::Epoch(7), seq: 10 }),
        hash: None,
        retired: vec![],
        digest: Digest { root: Node::default(), count: 0 },
        applied: 10,
        repeats: 0,
        refused: 0,
        unchained: 0,
        last_event_at: Timestamp::default(),
        last_heartbeat: None,
        proof: None,
        gap: None,
        fork: None,
        windows: vec![],
        held_window: None,
        last_sync: Some(last_sync("earlier")),
        last_full: Some(Timestamp::default()),
        last_first: None,
        since_sync: projector::SinceSync::default(),
    }
}

pub(crate) fn key(source: &Source) -> AccessKey {
    AccessKey {
        key_id: "ak-1".parse().unwrap(),
        origin: KeyOrigin::Source { pool: source.pool.clone(), source: source.to_string() },
        tenant: "acme".parse::<TenantId>().unwrap(),
        salt: Hash32::ZERO,
        hash: Hash32::ZERO,
        not_after: None,
        since: Timestamp::default(),
        revoked_at: None,
    }
}

impl Ports for Recording {
    type Pool = RecordingPool;

    fn now(&self) -> Timestamp {
        *lock(&self.now)
    }

    fn lease(&self) -> Option<LeaseToken> {
        Some(LeaseToken { seq: 1, subject: String::new(), log_created: Timestamp::default() })
    }

    fn pool(&self) -> &RecordingPool {
        &self.pool
    }

    fn payload_bytes_max(&self) -> usize {
        1 << 20
    }

    async fn ask(
        &self,
        _: &PoolId,
        verb: &'static str,
        command: Value,
        _: Duration,
    ) -> Result<Value, Silence> {
        lock(&self.asked).push((verb.to_owned(), command.clone()));
        let script = lock(&self.answers).pop_front();
        match script {
            Some(script) => script(&self.pool, &command),
            None => Err(Silence("nobody answers".to_owned())),
        }
    }

    async fn state(&self, fact: Fact, _: String) -> Result<u64, ConsumersError> {
        let mut stated = lock(&self.stated);
        stated.push(fact);
        Ok(stated.len() as u64)
    }
}

impl Pool for RecordingPool {
    fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        let pools: BTreeSet<_> = lock(&self.owners).values().map(|owner| owner.pool.clone()).collect();
        Ok(pools.into_iter().collect())
    }

    fn owners(&self, pool: &PoolId) -> Result<Vec<Owner>, StoreError> {
        Ok(lock(&self.owners).values().filter(|owner| owner.pool == *pool).cloned().collect())
    }

    fn owner(&self, _: &PoolId, source: &str) -> Result<Option<Owner>, StoreError> {
        Ok(lock(&self.owners).get(source).cloned())
    }

    fn row(&self, _: &PoolId, key: &ResourceKey) -> Result<Option<Row>, StoreError> {
        Ok(lock(&self.rows).get(key).cloned())
    }

    fn keys(&self, _: &PoolId) -> Result<Vec<AccessKey>, StoreError> {
        Ok(lock(&self.keys).clone())
    }

    fn all_keys(&self) -> Result<Vec<AccessKey>, StoreError> {
        Ok(lock(&self.keys).clone())
    }

    fn tenants(&self) -> Result<Vec<TenantState>, StoreError> {
        Ok(vec![])
    }

    fn removed_tenants(&self) -> Result<Vec<Name>, StoreError> {
        Ok(vec![])
    }

    fn is_paused(&self, _: &PoolId) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn syncs(&self, _: &PoolId, _: usize) -> Result<Vec<SyncRecord>, StoreError> {
        Ok(vec![])
    }

    fn sync(&self, _: &PoolId, _: &str) -> Result<Option<SyncRecord>, StoreError> {
        Ok(None)
    }

    fn rewound_at(&self, _: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    async fn digest_nodes(&self, owner: &Source, _: u8, _: u8, _: &[u32]) -> Result<DigestNodes, String> {
        let digest = self.digest_items(owner, 0, &[]).await?.digest;
        Ok(DigestNodes { at: None, digest, nodes: vec![Node::default(); 256] })
    }

    async fn digest_items(&self, owner: &Source, _: u8, _: &[u32]) -> Result<DigestItems, String> {
        let rows = lock(&self.rows);
        let mine = rows.values().filter(|row| row.owner == owner.to_string());
        let item = |row: &Row| DigestItem {
            key: row.key.clone(),
            address: Address::of(row.key.as_str()),
            item: Node(7),
        };
        let items: Vec<_> = mine.map(item).collect();
        let digest = Digest { root: Node(1), count: items.len() as u64 };
        Ok(DigestItems { at: None, digest, items })
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }
}
