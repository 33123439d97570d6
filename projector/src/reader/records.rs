//! Keys, tenants, syncs, confirmations, volumes, images, facts about logs.

use bus_schema::{Hash32, Name, PoolId, TenantId, Timestamp, fact::log::LogFact};
use redb::ReadableTable;

use super::{Answer, Reader};
use crate::{
    error::StoreError,
    records::{
        AccessKey, ConfirmationRecord, DamageRecord, ImageEntry, KeyOrigin, LogFactRecord, StoredLogFact,
        SyncRecord, TenantState, VolumeState,
    },
    seals::{self, Frame},
    snapshot::Snapshot,
    tables::{self, Db, damaged, read_json},
};

impl Reader {
    /// The access keys that sources of a pool announced, withdrawn ones too.
    pub fn keys(&self, pool: &PoolId) -> Result<Answer<Vec<AccessKey>>, StoreError> {
        self.ask(|snapshot| {
            let pool = pool.to_string();
            keys_of(snapshot, |origin| tables::is_of_pool(origin, &pool))
        })
    }

    /// The access keys that the target issued, revoked ones too.
    pub fn issued_keys(&self) -> Result<Answer<Vec<AccessKey>>, StoreError> {
        self.ask(|snapshot| keys_of(snapshot, str::is_empty))
    }

    /// The access keys of a name, one per origin.
    pub fn key(&self, key_id: &Name) -> Result<Answer<Vec<AccessKey>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::KEYS)?;
            let revoked = snapshot.open_table(tables::REVOKED)?;
            let mut found = Vec::new();
            for entry in table.range::<(&str, &str)>((key_id.as_str(), "")..)? {
                let (at, key) = entry?;
                if at.value().0 != key_id.as_str() {
                    break;
                }
                found.push(read_key(&revoked, key.value())?);
            }
            Ok(found)
        })
    }

    /// One tenant.
    pub fn tenant(&self, tenant: &TenantId) -> Result<Answer<Option<TenantState>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::TENANTS)?;
            let known = table.get(tenant.to_string().as_str())?;
            known.map(|known| read_json("a tenant", known.value())).transpose()
        })
    }

    /// Whether a level-1 tenant was removed and not created since. It outweighs what sources announce of it.
    pub fn is_removed(&self, level1: &Name) -> Result<Answer<bool>, StoreError> {
        self.ask(|snapshot| Ok(snapshot.open_table(tables::REMOVED)?.get(level1.as_str())?.is_some()))
    }

    /// Every level-1 tenant that was removed and not created since.
    pub fn removed_tenants(&self) -> Result<Answer<Vec<Name>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::REMOVED)?;
            let name = |name: &str| name.parse().map_err(|_| damaged("a tenant's name"));
            table.iter()?.map(|entry| name(entry?.0.value())).collect()
        })
    }

    /// Every tenant.
    pub fn tenants(&self) -> Result<Answer<Vec<TenantState>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::TENANTS)?;
            table.iter()?.map(|entry| read_json("a tenant", entry?.1.value())).collect()
        })
    }

    /// The last confirmations of a pool, newest first.
    pub fn confirmations(
        &self,
        pool: &PoolId,
        limit: usize,
    ) -> Result<Answer<Vec<ConfirmationRecord>>, StoreError> {
        self.ask(|snapshot| {
            let (table, pool) = (snapshot.open_table(tables::CONFIRMATIONS)?, pool.to_string());
            let range = table.range::<(&str, u64)>((pool.as_str(), 0)..=(pool.as_str(), u64::MAX))?;
            range.rev().take(limit).map(|entry| read_json("a confirmation", entry?.1.value())).collect()
        })
    }

    /// A confirmation of a pool as it was stated first, by its id; a recheck has the id of what it checked.
    pub fn confirmation(
        &self,
        pool: &PoolId,
        confirm_id: &str,
    ) -> Result<Answer<Option<ConfirmationRecord>>, StoreError> {
        self.ask(|snapshot| {
            let (table, pool) = (snapshot.open_table(tables::CONFIRMATIONS)?, pool.to_string());
            for entry in table.range::<(&str, u64)>((pool.as_str(), 0)..=(pool.as_str(), u64::MAX))? {
                let record: ConfirmationRecord = read_json("a confirmation", entry?.1.value())?;
                if record.confirmed.confirm_id == confirm_id {
                    return Ok(Some(record));
                }
            }
            Ok(None)
        })
    }

    /// The last syncs of a pool, newest first.
    pub fn syncs(&self, pool: &PoolId, limit: usize) -> Result<Answer<Vec<SyncRecord>>, StoreError> {
        self.ask(|snapshot| {
            let (table, pool) = (snapshot.open_table(tables::SYNCS)?, pool.to_string());
            let range = table.range::<(&str, u64)>((pool.as_str(), 0)..=(pool.as_str(), u64::MAX))?;
            range.rev().take(limit).map(|entry| read_json("a sync", entry?.1.value())).collect()
        })
    }

    /// One sync, however long ago it was among the last of its pool that are kept.
    pub fn sync(&self, pool: &PoolId, sync_id: &str) -> Result<Answer<Option<SyncRecord>>, StoreError> {
        self.ask(|snapshot| {
            let (ids, pool) = (snapshot.open_table(tables::SYNC_IDS)?, pool.to_string());
            let Some(number) = ids.get((pool.as_str(), sync_id))?.map(|number| number.value()) else {
                return Ok(None);
            };
            let record = snapshot.open_table(tables::SYNCS)?.get((pool.as_str(), number))?;
            record.map(|record| read_json("a sync", record.value())).transpose()
        })
    }

    /// The volumes of a pool that have failed extents.
    pub fn volumes(&self, pool: &PoolId) -> Result<Answer<Vec<VolumeState>>, StoreError> {
        self.ask(|snapshot| {
            let Some(pool) = snapshot.pool(pool)? else { return Ok(Vec::new()) };
            let table = snapshot.open_table(pool.names.volumes())?;
            table.iter()?.map(|entry| read_json("a volume", entry?.1.value())).collect()
        })
    }

    /// The image catalogue of a pool, deleted references too.
    pub fn images(&self, pool: &PoolId) -> Result<Answer<Vec<ImageEntry>>, StoreError> {
        self.ask(|snapshot| {
            let Some(pool) = snapshot.pool(pool)? else { return Ok(Vec::new()) };
            let table = snapshot.open_table(pool.names.images())?;
            table.iter()?.map(|entry| read_json("an image", entry?.1.value())).collect()
        })
    }

    /// The last facts about logs, newest first.
    pub fn log_facts(&self, limit: usize) -> Result<Answer<Vec<LogFactRecord>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::LOG_FACTS)?;
            table.iter()?.rev().take(limit).map(|entry| log_fact(entry?.1.value())).collect()
        })
    }

    /// What logs lost, healed and acknowledged damages too.
    pub fn damages(&self) -> Result<Answer<Vec<DamageRecord>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::DAMAGES)?;
            table.iter()?.map(|entry| read_json("a damage", entry?.1.value())).collect()
        })
    }

    /// The last checkpoint that was stated, or the last scrub of a stream: the last fact of a name about an entity.
    /// Kept of `checkpoint` and `scrubbed` only.
    pub fn latest_fact(&self, name: &str, entity: &str) -> Result<Answer<Option<LogFactRecord>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::LATEST)?;
            table.get((name, entity))?.map(|record| log_fact(record.value())).transpose()
        })
    }

    /// The hash of the checkpoint that has this number in the target log.
    pub fn checkpoint(&self, number: u64) -> Result<Answer<Option<Hash32>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::CHECKPOINTS)?;
            Ok(table.get(number)?.map(|hash| Hash32(hash.value())))
        })
    }

    /// The seals of the stretch of a log that a sequence belongs to; none = nothing of it was read.
    pub fn seals(&self, stream: &str, seq: u64) -> Result<Option<Frame>, StoreError> {
        let frame = self.ask(|snapshot| {
            let known = snapshot.logs().iter().find(|(of, _)| of == stream);
            let Some((_, log)) = known else { return Ok(None) };
            seals::read(&snapshot.open_table(tables::SEALS)?, log.number, seals::number_of(seq))
        })?;
        Ok(frame.value)
    }
}

/// The keys whose origin, as text, is wanted; the others are passed over without being read.
fn keys_of(snapshot: &Snapshot, wanted: impl Fn(&str) -> bool) -> Db<Vec<AccessKey>> {
    let table = snapshot.open_table(tables::KEYS)?;
    let revoked = snapshot.open_table(tables::REVOKED)?;
    let mut found = Vec::new();
    for entry in table.iter()? {
        let (at, key) = entry?;
        if wanted(at.value().1) {
            found.push(read_key(&revoked, key.value())?);
        }
    }
    Ok(found)
}

/// A key, and whether a person revoked it for good.
fn read_key(revoked: &impl ReadableTable<(&'static str, &'static str), i64>, stored: &[u8]) -> Db<AccessKey> {
    let key: AccessKey = read_json("a key", stored)?;
    let KeyOrigin::Source { source, .. } = &key.origin else { return Ok(key) };
    let at = revoked.get((key.key_id.as_str(), source.as_str()))?.map(|at| at.value());
    Ok(AccessKey { revoked_at: at.map(Timestamp::from_unix_ms).or(key.revoked_at), ..key })
}

fn log_fact(stored: &[u8]) -> Db<LogFactRecord> {
    let StoredLogFact { place, stored_at, name, data } = read_json("a fact", stored)?;
    let fact = LogFact::decode(&name, data.as_bytes()).map_err(|_| damaged("a fact"))?;
    Ok(LogFactRecord { place, stored_at, fact })
}
