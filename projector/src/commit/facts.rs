//! Facts of the target log: syncs, confirmations, tenants, keys, and what was stated about logs.

use bus_schema::{
    Name, TenantId, Timestamp,
    command::resource::SyncReason,
    fact::{
        Fact,
        key::{KeyFact, Revoked},
        log::LogFact,
        resource::{Confirmed, ResourceFact},
        tenant::TenantFact,
    },
};
use redb::{ReadableTable, WriteTransaction};

use super::{Commit, damage, outbox, recall};
use crate::{
    records::{AccessKey, ConfirmationRecord, Grant, KeyOrigin, StoredLogFact, SyncRecord, TenantState},
    seals,
    tables::{self, Db, damaged, read_json, write_json},
};

/// Confirmations that are kept per pool; the rest is in the target log.
const CONFIRMATIONS_MAX: u64 = 10_000;
/// Syncs that are kept per pool.
const SYNCS_MAX: u64 = 1_000;
/// Facts about logs that are kept.
const LOG_FACTS_MAX: u64 = 1_000;

impl Commit<'_, '_> {
    /// Takes in a fact.
    pub(super) fn fact(&mut self, fact: Fact, seq: u64, stored_at: i64) -> Db<()> {
        let stored_at = Timestamp::from_unix_ms(stored_at);
        match fact {
            Fact::Resource(fact) => self.resource_fact(fact, seq, stored_at),
            Fact::Tenant(fact) => tenant_fact(self.txn, fact, stored_at),
            Fact::Key(fact) => key_fact(self.txn, fact, stored_at),
            // Who may come in is the server's own business; the fact is for audit.
            Fact::Agent(_) => Ok(()),
            Fact::Log(fact) => self.log_fact(&fact, seq, stored_at),
        }
    }

    fn resource_fact(&mut self, fact: ResourceFact, seq: u64, at: Timestamp) -> Db<()> {
        match fact {
            ResourceFact::SyncRequested(fact) => {
                let (pool, id, owner) = (fact.pool.to_string(), fact.sync_id.clone(), fact.owner.clone());
                if fact.reason == SyncReason::First {
                    let mut table = self.txn.open_table(tables::FIRST_REQUESTS)?;
                    table.insert((pool.as_str(), owner.as_str()), at.unix_ms())?;
                }
                sync(self.txn, &pool, &id, owner, |record| record.requested = Some((at, fact)))
            }
            ResourceFact::SyncCompleted(fact) => {
                let (pool, id, owner) = (fact.pool.to_string(), fact.sync_id.clone(), fact.owner.clone());
                sync(self.txn, &pool, &id, owner, |record| record.completed = Some((at, fact)))
            }
            ResourceFact::SyncFailed(fact) => {
                let (pool, id, owner) = (fact.pool.to_string(), fact.sync_id.clone(), fact.owner.clone());
                sync(self.txn, &pool, &id, owner, |record| record.failed = Some((at, fact)))
            }
            ResourceFact::Confirmed(confirmed) => self.confirmed(confirmed, seq, at),
            ResourceFact::EmptyConfirmed(confirmed) => self.confirm_empty(&confirmed),
            ResourceFact::SchedulePaused(paused) => {
                let mut table = self.txn.open_table(tables::PAUSED)?;
                let pool = paused.pool.to_string();
                if paused.paused {
                    table.insert(pool.as_str(), ())?;
                } else {
                    table.remove(pool.as_str())?;
                }
                Ok(())
            }
        }
    }

    fn confirmed(&mut self, confirmed: Confirmed, seq: u64, stored_at: Timestamp) -> Db<()> {
        let pool = confirmed.pool.to_string();
        let record = ConfirmationRecord { place: self.place(seq), stored_at, confirmed };
        let mut table = self.txn.open_table(tables::CONFIRMATIONS)?;
        let last = table.range((pool.as_str(), 0)..=(pool.as_str(), u64::MAX))?.next_back().transpose()?;
        let number = last.map_or(1, |(key, _)| key.value().1 + 1);
        table.insert((pool.as_str(), number), write_json(&record)?.as_slice())?;
        if let Some(oldest) = number.checked_sub(CONFIRMATIONS_MAX) {
            table.remove((pool.as_str(), oldest))?;
        }
        Ok(())
    }

    fn log_fact(&mut self, fact: &LogFact, seq: u64, stored_at: Timestamp) -> Db<()> {
        self.outbox.stated(&outbox::name(fact))?;
        if let LogFact::Parked(parked) = fact {
            recall(self.txn, std::slice::from_ref(parked))?;
        }
        let data = fact
            .data()
            .ok()
            .and_then(|data| String::from_utf8(data).ok())
            .ok_or_else(|| damaged("a fact"))?;
        let record = StoredLogFact { place: self.place(seq), stored_at, name: fact.name().to_owned(), data };
        let mut table = self.txn.open_table(tables::LOG_FACTS)?;
        if let LogFact::Checkpoint(checkpoint) = fact {
            let hash = checkpoint.hash().map_err(|_| damaged("a checkpoint"))?;
            self.txn.open_table(tables::CHECKPOINTS)?.insert(checkpoint.number, hash.0)?;
        }
        if let LogFact::Trimmed(trimmed) = fact {
            seals::forget_before(self.txn, trimmed)?;
        }
        if matches!(fact, LogFact::Checkpoint(_) | LogFact::Scrubbed(_) | LogFact::Trimmed(_)) {
            let mut table = self.txn.open_table(tables::LATEST)?;
            table.insert((fact.name(), fact.entity().as_str()), write_json(&record)?.as_slice())?;
            return Ok(());
        }
        damage::note(self.txn, fact, &record.place, stored_at)?;
        let number = table.last()?.map_or(1, |(number, _)| number.value() + 1);
        table.insert(number, write_json(&record)?.as_slice())?;
        if let Some(oldest) = number.checked_sub(LOG_FACTS_MAX) {
            table.remove(oldest)?;
        }
        Ok(())
    }
}

/// Changes the record of a sync; makes it, and forgets the oldest of the pool, when it is new.
fn sync(
    txn: &WriteTransaction,
    pool: &str,
    sync_id: &str,
    owner: String,
    change: impl FnOnce(&mut SyncRecord),
) -> Db<()> {
    let mut syncs = txn.open_table(tables::SYNCS)?;
    let mut ids = txn.open_table(tables::SYNC_IDS)?;
    let known = ids.get((pool, sync_id))?.map(|number| number.value());
    let number = match known {
        Some(number) => number,
        None => {
            let last = syncs.range((pool, 0)..=(pool, u64::MAX))?.next_back().transpose()?;
            last.map_or(1, |(key, _)| key.value().1 + 1)
        }
    };
    let mut record = match syncs.get((pool, number))? {
        Some(record) => read_json("a sync", record.value())?,
        None => {
            SyncRecord { sync_id: sync_id.to_owned(), owner, requested: None, completed: None, failed: None }
        }
    };
    change(&mut record);
    syncs.insert((pool, number), write_json(&record)?.as_slice())?;
    ids.insert((pool, sync_id), number)?;
    let Some(oldest) = number.checked_sub(SYNCS_MAX) else { return Ok(()) };
    if let Some(forgotten) = syncs.remove((pool, oldest))? {
        let forgotten: SyncRecord = read_json("a sync", forgotten.value())?;
        ids.remove((pool, forgotten.sync_id.as_str()))?;
    }
    Ok(())
}

fn tenant_fact(txn: &WriteTransaction, fact: TenantFact, at: Timestamp) -> Db<()> {
    let mut table = txn.open_table(tables::TENANTS)?;
    let tenant = match &fact {
        TenantFact::Created(fact) => fact.tenant.clone(),
        TenantFact::Bound(fact) => fact.tenant.clone(),
        TenantFact::Unbound(fact) => fact.tenant.clone(),
        TenantFact::Granted(fact) => fact.tenant.clone(),
        // Who may come in is the server's own business; the facts are for audit.
        TenantFact::ReaderEnrolled(_) | TenantFact::ReaderRevoked(_) => return Ok(()),
        TenantFact::Removed(fact) => {
            table.remove(fact.tenant.to_string().as_str())?;
            if fact.tenant.level2.is_none() {
                let (from, to) = (format!("{}/", fact.tenant), format!("{}0", fact.tenant));
                // '0' follows '/': the range holds every level-2 tenant below, and nothing else.
                table.retain_in(from.as_str()..to.as_str(), |_, _| false)?;
                txn.open_table(tables::REMOVED)?.insert(fact.tenant.level1.as_str(), at.unix_ms())?;
                end_issued_keys(txn, &fact.tenant, at)?;
            }
            return Ok(());
        }
    };
    if matches!(fact, TenantFact::Created(_)) && tenant.level2.is_none() {
        txn.open_table(tables::REMOVED)?.remove(tenant.level1.as_str())?;
    }
    let name = tenant.to_string();
    let known: Option<TenantState> =
        table.get(name.as_str())?.map(|known| read_json("a tenant", known.value())).transpose()?;
    let bound = tenant.level2.is_none();
    let mut state = known.unwrap_or(TenantState { tenant, bound, grant: None, since: at });
    match fact {
        TenantFact::Bound(_) => state.bound = true,
        TenantFact::Unbound(_) => state.bound = false,
        TenantFact::Granted(fact) => state.grant = Some(Grant { pools: fact.pools, labels: fact.labels }),
        TenantFact::Created(_)
        | TenantFact::ReaderEnrolled(_)
        | TenantFact::ReaderRevoked(_)
        | TenantFact::Removed(_) => {}
    }
    table.insert(name.as_str(), write_json(&state)?.as_slice())?;
    Ok(())
}

fn key_fact(txn: &WriteTransaction, fact: KeyFact, since: Timestamp) -> Db<()> {
    match fact {
        KeyFact::Issued(key) => {
            let (key_id, tenant, salt, hash, not_after) =
                (key.key_id, key.tenant, key.salt, key.hash, key.not_after);
            let (origin, revoked_at) = (KeyOrigin::Target, None);
            put_key(txn, AccessKey { key_id, origin, tenant, salt, hash, not_after, since, revoked_at })
        }
        KeyFact::Rotated(_) => Ok(()),
        KeyFact::Revoked(Revoked { key_id, source: None, .. }) => {
            end_key(txn, &key_id, &KeyOrigin::Target, since)
        }
        KeyFact::Revoked(Revoked { key_id, source: Some(source), .. }) => {
            let mut table = txn.open_table(tables::REVOKED)?;
            table.insert((key_id.as_str(), source.as_str()), since.unix_ms())?;
            Ok(())
        }
    }
}

/// Whoever gets the name of a removed tenant must not get its keys with it.
fn end_issued_keys(txn: &WriteTransaction, tenant: &TenantId, at: Timestamp) -> Db<()> {
    let mut table = txn.open_table(tables::KEYS)?;
    let mut ended = Vec::new();
    for entry in table.iter()? {
        let key: AccessKey = read_json("a key", entry?.1.value())?;
        let is_it = key.origin == KeyOrigin::Target && key.tenant.level1 == tenant.level1;
        if is_it && key.revoked_at.is_none() {
            ended.push(AccessKey { revoked_at: Some(at), ..key });
        }
    }
    for key in ended {
        let origin = origin_text(&key.origin);
        table.insert((key.key_id.as_str(), origin.as_str()), write_json(&key)?.as_slice())?;
    }
    Ok(())
}

/// Makes a key known, or replaces its secret.
pub(super) fn put_key(txn: &WriteTransaction, mut key: AccessKey) -> Db<()> {
    let mut table = txn.open_table(tables::KEYS)?;
    let origin = origin_text(&key.origin);
    let known = table.get((key.key_id.as_str(), origin.as_str()))?;
    let known: Option<AccessKey> = known.map(|known| read_json("a key", known.value())).transpose()?;
    // A secret that was revoked is never issued again: the same one is an old fact that came again.
    if let Some(known) = known.filter(|known| (known.salt, known.hash) == (key.salt, key.hash))
        && key.origin == KeyOrigin::Target
    {
        (key.since, key.revoked_at) = (known.since, known.revoked_at);
    }
    table.insert((key.key_id.as_str(), origin.as_str()), write_json(&key)?.as_slice())?;
    Ok(())
}

/// Notes that a key is no longer good; of one that is not known, only that.
pub(super) fn end_key(txn: &WriteTransaction, key_id: &Name, origin: &KeyOrigin, at: Timestamp) -> Db<()> {
    let mut table = txn.open_table(tables::KEYS)?;
    let origin = origin_text(origin);
    let at_key = (key_id.as_str(), origin.as_str());
    let known: Option<AccessKey> =
        table.get(at_key)?.map(|known| read_json("a key", known.value())).transpose()?;
    match known {
        Some(mut key) => {
            key.revoked_at = Some(at);
            table.insert(at_key, write_json(&key)?.as_slice())?;
        }
        None => {
            txn.open_table(tables::WITHDRAWN)?.insert(at_key, at.unix_ms())?;
        }
    }
    Ok(())
}

/// When something was said last of a key of this origin; none = nothing was.
pub(super) fn key_changed(txn: &WriteTransaction, key_id: &str, origin: &KeyOrigin) -> Db<Option<Timestamp>> {
    let origin = origin_text(origin);
    let at_key = (key_id, origin.as_str());
    let keys = txn.open_table(tables::KEYS)?;
    let known: Option<AccessKey> =
        keys.get(at_key)?.map(|known| read_json("a key", known.value())).transpose()?;
    let withdrawn = txn.open_table(tables::WITHDRAWN)?.get(at_key)?.map(|at| at.value());
    let known = known.map(|known| known.revoked_at.map_or(known.since, |at| at.max(known.since)));
    Ok(known.max(withdrawn.map(Timestamp::from_unix_ms)))
}

fn origin_text(origin: &KeyOrigin) -> String {
    match origin {
        // A pool's name has no blank.
        KeyOrigin::Source { pool, source } => format!("{pool} {source}"),
        KeyOrigin::Target => String::new(),
    }
}
