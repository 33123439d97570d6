//! Pools and their owners.

use std::sync::Arc;

use bus_schema::{PoolId, Timestamp};
use redb::ReadableTable;

use super::{Answer, PoolCounters, PoolSummary, Reader};
use crate::{
    commit::{OwnerRecord, PoolState},
    error::StoreError,
    owner::{Owner, SinceSync},
    snapshot::{Pool, Snapshot},
    tables::{self, Db, PoolTables, read_json},
};

impl Reader {
    /// Every pool.
    pub fn pools(&self) -> Result<Answer<Vec<PoolSummary>>, StoreError> {
        self.ask(|snapshot| {
            let (pools, paused) = (snapshot.open_table(tables::POOLS)?, snapshot.open_table(tables::PAUSED)?);
            pools
                .iter()?
                .map(|entry| {
                    let (name, record) = entry?;
                    let pool = name.value().parse().map_err(|_| tables::damaged("a pool's name"))?;
                    let is_paused = paused.get(name.value())?.is_some();
                    summary(snapshot, pool, &read_json("a pool", record.value())?, is_paused)
                })
                .collect()
        })
    }

    /// Whether anything was ever taken in for a pool.
    pub fn has_pool(&self, pool: &PoolId) -> Result<bool, StoreError> {
        Ok(self.ask(|snapshot| Ok(snapshot.pool(pool)?.is_some()))?.value)
    }

    /// The owners of a pool; none for an unknown pool.
    pub fn owners(&self, pool: &PoolId) -> Result<Answer<Vec<Owner>>, StoreError> {
        self.ask(|snapshot| Ok(owners(snapshot, pool)?.into_iter().map(|record| record.owner).collect()))
    }

    /// One owner.
    pub fn owner(&self, pool: &PoolId, source: &str) -> Result<Answer<Option<Owner>>, StoreError> {
        self.ask(|snapshot| Ok(owner(snapshot, pool, source)?.map(|(record, _)| record.owner)))
    }

    /// The threshold counters of a pool.
    pub fn counters(&self, pool: &PoolId) -> Result<Answer<PoolCounters>, StoreError> {
        self.ask(|snapshot| {
            let owners: Vec<_> = owners(snapshot, pool)?
                .into_iter()
                .map(|record| (record.owner.source, record.owner.since_sync))
                .collect();
            let sum = sum(owners.iter().map(|(_, since)| since));
            Ok(PoolCounters { owners, sum })
        })
    }

    /// Whether a person paused a pool's schedule.
    pub fn is_paused(&self, pool: &PoolId) -> Result<Answer<bool>, StoreError> {
        self.ask(|snapshot| {
            Ok(snapshot.open_table(tables::PAUSED)?.get(pool.to_string().as_str())?.is_some())
        })
    }
}

/// The record of one owner, with its pool.
pub(super) fn owner(
    snapshot: &Snapshot,
    pool: &PoolId,
    source: &str,
) -> Db<Option<(OwnerRecord, Arc<Pool>)>> {
    let Some(pool) = snapshot.pool(pool)? else { return Ok(None) };
    let table = snapshot.open_table(pool.names.owners())?;
    let Some(record) = table.get(source)? else { return Ok(None) };
    let record = recall(snapshot, read_json("an owner", record.value())?)?;
    Ok(Some((record, pool)))
}

/// The records of a pool's owners.
pub(super) fn owners(snapshot: &Snapshot, pool: &PoolId) -> Db<Vec<OwnerRecord>> {
    match snapshot.pool(pool)? {
        None => Ok(Vec::new()),
        Some(pool) => owners_of(snapshot, &pool.names),
    }
}

fn owners_of(snapshot: &Snapshot, names: &PoolTables) -> Db<Vec<OwnerRecord>> {
    let table = snapshot.open_table(names.owners())?;
    table.iter()?.map(|entry| recall(snapshot, read_json("an owner", entry?.1.value())?)).collect()
}

/// Adds what the target log says of an owner: it may be known before the owner is.
fn recall(snapshot: &Snapshot, mut record: OwnerRecord) -> Db<OwnerRecord> {
    let (owner, table) = (&mut record.owner, snapshot.open_table(tables::FIRST_REQUESTS)?);
    let asked = table.get((owner.pool.to_string().as_str(), owner.source.as_str()))?;
    owner.last_first = asked.map(|asked| Timestamp::from_unix_ms(asked.value()));
    Ok(record)
}

fn summary(snapshot: &Snapshot, pool: PoolId, state: &PoolState, paused: bool) -> Db<PoolSummary> {
    let owners: Vec<Owner> =
        owners_of(snapshot, &PoolTables::new(state.number))?.into_iter().map(|record| record.owner).collect();
    Ok(PoolSummary {
        pool,
        resources: owners.iter().map(|owner| owner.digest.count).sum(),
        deleted: state.deleted,
        owners: owners.len() as u64,
        since_sync: sum(owners.iter().map(|owner| &owner.since_sync)),
        in_sync: are_in_sync(&owners),
        last_event_at: owners.iter().map(|owner| owner.last_event_at).max().unwrap_or_default(),
        paused,
    })
}

/// Whether every owner that has resources, or has told that it has none, is in sync; not if there is none.
fn are_in_sync(owners: &[Owner]) -> bool {
    let mut heard =
        owners.iter().filter(|owner| owner.digest.count > 0 || owner.last_sync.is_some()).peekable();
    heard.peek().is_some() && heard.all(Owner::in_sync)
}

fn sum<'a>(counters: impl Iterator<Item = &'a SinceSync>) -> SinceSync {
    counters.fold(SinceSync::default(), |sum, one| SinceSync {
        changes: sum.changes.saturating_add(one.changes),
        bytes: sum.bytes.saturating_add(one.bytes),
        outstanding: sum.outstanding.saturating_add(one.outstanding),
        oldest_outstanding: [sum.oldest_outstanding, one.oldest_outstanding].into_iter().flatten().min(),
    })
}
