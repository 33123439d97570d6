//! Rows, by key or by page. The narrowest index that fits gives the keys; the rest of the filter is
//! checked on each row.

use std::{collections::HashMap, ops::Bound};

use bus_schema::{PoolId, ResourceKey};
use redb::{Range, ReadOnlyTable, ReadTransaction};

use super::{Answer, Filter, Page, Reader, as_of, find_pool};
use crate::{
    cell::{Cell, Head},
    commit::OwnerRecord,
    error::StoreError,
    log,
    row::Row,
    tables::{self, Db, PoolTables, damaged, read_json},
};

/// Most rows of one page, so that one question does not hold a read transaction for long.
const ROWS_MAX: usize = 10_000;
/// A page ends with the row that brings it to this size, in bytes as stored: states may have a megabyte each.
const PAGE_BYTES: usize = 8 << 20;

impl Reader {
    /// One row, a tombstone too.
    pub fn row(&self, pool: &PoolId, key: &ResourceKey) -> Result<Answer<Option<Row>>, StoreError> {
        self.ask(|txn| {
            let Some(mut rows) = Rows::open(txn, pool)? else { return Ok(None) };
            match rows.table.get(key.as_str())? {
                None => Ok(None),
                Some(row) => rows.show.row(key.as_str(), row.value()).map(Some),
            }
        })
    }

    /// At most `limit` rows (never more than 10,000, nor many more than 8 MiB) after a key, in order of their
    /// keys. A page that is shorter than `limit` may have a `next` all the same.
    pub fn rows(
        &self,
        pool: &PoolId,
        filter: &Filter,
        after: Option<&ResourceKey>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.file.read(|txn| {
            let as_of = as_of(txn)?;
            let Some(mut rows) = Rows::open(txn, pool)? else {
                return Ok(Page { rows: Vec::new(), next: None, as_of });
            };
            let after = after.map_or("", ResourceKey::as_str);
            let (rows, next) = rows.page(txn, filter, after, limit.clamp(1, ROWS_MAX))?;
            Ok(Page { rows, next, as_of })
        })
    }
}

/// The rows of one pool.
pub(super) struct Rows {
    pub(super) table: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) show: Shower,
    names: PoolTables,
}

/// Turns rows into what is shown: knows the names that short numbers stand for.
pub(super) struct Shower {
    owner_names: ReadOnlyTable<u32, &'static str>,
    owners: HashMap<u32, String>,
    streams: HashMap<u16, String>,
}

impl Shower {
    pub(super) fn row(&mut self, key: &str, bytes: &[u8]) -> Db<Row> {
        let cell = Cell::read(bytes)?;
        let Head { owner, log, .. } = cell.head;
        if !self.owners.contains_key(&owner) {
            let name = self.owner_names.get(owner)?.ok_or_else(|| damaged("an owner's name"))?;
            self.owners.insert(owner, name.value().to_owned());
        }
        let (Some(owner), Some(stream)) = (self.owners.get(&owner), self.streams.get(&log)) else {
            return Err(damaged("a row"));
        };
        cell.show(key, owner, stream).ok_or_else(|| damaged("a row"))
    }
}

impl Rows {
    pub(super) fn open(txn: &ReadTransaction, pool: &PoolId) -> Db<Option<Self>> {
        let Some((_, names)) = find_pool(txn, pool)? else { return Ok(None) };
        let logs = log::all(&txn.open_table(tables::LOGS)?)?;
        let show = Shower {
            owner_names: txn.open_table(names.owner_names())?,
            owners: HashMap::new(),
            streams: logs.into_iter().map(|(stream, state)| (state.number, stream)).collect(),
        };
        Ok(Some(Self { table: txn.open_table(names.rows())?, show, names }))
    }

    fn page(
        &mut self,
        txn: &ReadTransaction,
        filter: &Filter,
        after: &str,
        limit: usize,
    ) -> Db<(Vec<Row>, Option<ResourceKey>)> {
        let mut found: Vec<Row> = Vec::new();
        let mut bytes = 0;
        for key in keys(txn, &self.names, filter, after)? {
            let key = key?;
            let Some(stored) = self.table.get(key.as_str())? else { continue };
            let row = self.show.row(&key, stored.value())?;
            if !passes(&row, filter) {
                continue;
            }
            if found.len() == limit || bytes >= PAGE_BYTES {
                let next = found.last().map(|row| row.key.clone());
                return Ok((found, next));
            }
            bytes += stored.value().len();
            found.push(row);
        }
        Ok((found, None))
    }
}

/// Keys in order.
type Keys = Box<dyn Iterator<Item = Db<String>>>;

/// The keys after `after` that may pass the filter, from the index that promises the fewest.
fn keys(txn: &ReadTransaction, names: &PoolTables, filter: &Filter, after: &str) -> Db<Keys> {
    if filter.stale {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let range = txn.open_table(names.stale())?.range::<&str>(from)?;
        return Ok(until_none(range, |key| Some(key.to_owned())));
    }
    if let Some((name, value)) = filter.labels.first_key_value() {
        let (name, value) = (name.clone(), value.clone());
        let from = (Bound::Excluded((name.as_str(), value.as_str(), after)), Bound::Unbounded);
        let range = txn.open_table(names.labels())?.range::<(&str, &str, &str)>(from)?;
        return Ok(until_none(range, move |(of, is, key)| {
            (of == name && is == value).then(|| key.to_owned())
        }));
    }
    if let Some(tenant) = filter.tenant.as_ref().map(ToString::to_string) {
        let from = (Bound::Excluded((tenant.as_str(), after)), Bound::Unbounded);
        let range = txn.open_table(names.tenant_rows())?.range::<(&str, &str)>(from)?;
        return Ok(until_none(range, move |(of, key)| (of == tenant).then(|| key.to_owned())));
    }
    if let Some(owner) = &filter.owner {
        let Some(number) = owner_number(txn, names, owner)? else { return Ok(Box::new(std::iter::empty())) };
        let from = (Bound::Excluded((number, after)), Bound::Unbounded);
        let range = txn.open_table(names.owner_rows())?.range::<(u32, &str)>(from)?;
        return Ok(until_none(range, move |(of, key)| (of == number).then(|| key.to_owned())));
    }
    // A key starts with its kind, so a kind is a range of keys.
    let prefix = filter.kind.as_ref().map(|kind| format!("{kind}/")).unwrap_or_default();
    let from = (Bound::Excluded(after.max(prefix.as_str())), Bound::Unbounded);
    let range = txn.open_table(names.rows())?.range::<&str>(from)?;
    Ok(until_none(range, move |key| key.starts_with(&prefix).then(|| key.to_owned())))
}

/// The keys that `pick` finds in a range, up to the first entry in which it finds none.
fn until_none<K: redb::Key + 'static, V: redb::Value + 'static>(
    range: Range<'static, K, V>,
    pick: impl Fn(K::SelfType<'_>) -> Option<String> + 'static,
) -> Keys {
    Box::new(range.map_while(move |entry| match entry {
        Ok((at, _)) => pick(at.value()).map(Ok),
        Err(error) => Some(Err(error.into())),
    }))
}

fn owner_number(txn: &ReadTransaction, names: &PoolTables, source: &str) -> Db<Option<u32>> {
    let owners = txn.open_table(names.owners())?;
    let Some(record) = owners.get(source)? else { return Ok(None) };
    Ok(Some(read_json::<OwnerRecord>("an owner", record.value())?.number))
}

fn passes(row: &Row, filter: &Filter) -> bool {
    let Filter { kind, labels, tenant, owner, include_deleted, stale } = filter;
    (*include_deleted || row.deleted_at.is_none())
        && kind.as_ref().is_none_or(|kind| row.key.kind() == kind)
        && labels.iter().all(|(name, value)| row.labels.get(name) == Some(value))
        && tenant.as_ref().is_none_or(|tenant| row.tenant.as_ref() == Some(tenant))
        && owner.as_ref().is_none_or(|owner| row.owner == *owner)
        && (!*stale || row.notice.is_some())
}
