//! Rows, by key or by page. The narrowest index that fits gives the keys; the rest of the filter is
//! checked on each row.

use std::ops::Bound;

use bus_schema::{PoolId, ResourceKey};
use redb::Range;

use super::{Answer, Filter, Page, Reader};
use crate::{
    commit::OwnerRecord,
    error::StoreError,
    row::Row,
    snapshot::{Pool, Snapshot},
    tables::{Db, PoolTables, damaged, read_json},
};

/// Most rows of one page, so that one question does not hold a read transaction for long.
const ROWS_MAX: usize = 10_000;
/// A page ends with the row that brings it to this size, in bytes as stored: states may have a megabyte each.
const PAGE_BYTES: usize = 8 << 20;

impl Reader {
    /// One row, a tombstone too.
    pub fn row(&self, pool: &PoolId, key: &ResourceKey) -> Result<Answer<Option<Row>>, StoreError> {
        self.ask(|snapshot| {
            let Some(pool) = snapshot.pool(pool)? else { return Ok(None) };
            let stored = pool.rows.get(key.as_str())?;
            stored.map(|row| snapshot.show(&pool, key.as_str(), row.value())).transpose()
        })
    }

    /// The ends of full answers that deleted a resource because they did not have it, `stream` and sequence, oldest
    /// first: what the events on its own subject do not tell. A file of a build that did not keep them has none.
    pub fn buried(&self, pool: &PoolId, key: &ResourceKey) -> Result<Answer<Vec<(String, u64)>>, StoreError> {
        self.ask(|snapshot| {
            let Some(pool) = snapshot.pool(pool)? else { return Ok(Vec::new()) };
            let table = match snapshot.open_table(pool.names.buried()) {
                Err(redb::Error::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let range = (key.as_str(), 0, 0)..=(key.as_str(), u16::MAX, u64::MAX);
            let places = table.range::<(&str, u16, u64)>(range)?.map(|entry| {
                let (at, _) = entry?;
                let (_, log, seq) = at.value();
                let named = snapshot.logs().iter().find(|(_, state)| state.number == log);
                Ok((named.ok_or_else(|| damaged("a deletion"))?.0.clone(), seq))
            });
            places.collect()
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
        let answer = self.ask(|snapshot| {
            let Some(pool) = snapshot.pool(pool)? else { return Ok((Vec::new(), None)) };
            let after = after.map_or("", ResourceKey::as_str);
            page(snapshot, &pool, filter, after, limit.clamp(1, ROWS_MAX))
        })?;
        let Answer { value: (rows, next), as_of } = answer;
        Ok(Page { rows, next, as_of })
    }
}

fn page(
    snapshot: &Snapshot,
    pool: &Pool,
    filter: &Filter,
    after: &str,
    limit: usize,
) -> Db<(Vec<Row>, Option<ResourceKey>)> {
    let mut found: Vec<Row> = Vec::new();
    let mut bytes = 0;
    for key in keys(snapshot, &pool.names, filter, after)? {
        let key = key?;
        let Some(stored) = pool.rows.get(key.as_str())? else { continue };
        let row = snapshot.show(pool, &key, stored.value())?;
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

/// Keys in order.
type Keys = Box<dyn Iterator<Item = Db<String>>>;

/// The keys after `after` that may pass the filter, from the index that promises the fewest.
fn keys(snapshot: &Snapshot, names: &PoolTables, filter: &Filter, after: &str) -> Db<Keys> {
    if filter.stale {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let range = snapshot.open_table(names.stale())?.range::<&str>(from)?;
        return Ok(until_none(range, |key| Some(key.to_owned())));
    }
    if let Some((name, value)) = filter.labels.first_key_value() {
        let (name, value) = (name.clone(), value.clone());
        let from = (Bound::Excluded((name.as_str(), value.as_str(), after)), Bound::Unbounded);
        let range = snapshot.open_table(names.labels())?.range::<(&str, &str, &str)>(from)?;
        return Ok(until_none(range, move |(of, is, key)| {
            (of == name && is == value).then(|| key.to_owned())
        }));
    }
    if let Some(tenant) = filter.tenant.as_ref().map(ToString::to_string) {
        let from = (Bound::Excluded((tenant.as_str(), after)), Bound::Unbounded);
        let range = snapshot.open_table(names.tenant_rows())?.range::<(&str, &str)>(from)?;
        return Ok(until_none(range, move |(of, key)| (of == tenant).then(|| key.to_owned())));
    }
    if let Some(owner) = &filter.owner {
        let Some(number) = owner_number(snapshot, names, owner)? else {
            return Ok(Box::new(std::iter::empty()));
        };
        let from = (Bound::Excluded((number, after)), Bound::Unbounded);
        let range = snapshot.open_table(names.owner_rows())?.range::<(u32, &str)>(from)?;
        return Ok(until_none(range, move |(of, key)| (of == number).then(|| key.to_owned())));
    }
    // A key starts with its kind, so a kind is a range of keys.
    let prefix = filter.kind.as_ref().map(|kind| format!("{kind}/")).unwrap_or_default();
    let from = (Bound::Excluded(after.max(prefix.as_str())), Bound::Unbounded);
    let range = snapshot.open_table(names.rows())?.range::<&str>(from)?;
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

fn owner_number(snapshot: &Snapshot, names: &PoolTables, source: &str) -> Db<Option<u32>> {
    let owners = snapshot.open_table(names.owners())?;
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
