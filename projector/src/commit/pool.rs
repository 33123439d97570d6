//! The tables of one pool inside a transaction.

use bus_schema::digest::{Address, Node, depth_for};
use redb::{ReadableTable, Table, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::owners::Owners;
use crate::{
    cell::Cell,
    leaves::Leaves,
    tables::{self, Db, PoolTables, read_json, write_json},
};

/// What is kept of a pool itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PoolState {
    /// The number in the names of its tables.
    pub(crate) number: u64,
    /// Tombstones.
    pub(crate) deleted: u64,
    /// Bytes of all rows and their keys.
    pub(crate) bytes: u64,
    /// The number that the next owner gets.
    pub(crate) next_owner: u32,
}

/// A pool that is written to.
pub(crate) struct PoolWriter<'t> {
    txn: &'t WriteTransaction,
    pub(super) name: String,
    pub(super) rows: Table<'t, &'static str, &'static [u8]>,
    pub(super) side: Side<'t>,
    /// Deletions that full answers made.
    pub(super) buried: Table<'t, (&'static str, u16, u64), ()>,
    /// The row at hand, as it will stand in the file.
    pub(super) buffer: Vec<u8>,
}

/// Everything that follows from rows: indexes, digests, counters.
pub(super) struct Side<'t> {
    pub(super) state: PoolState,
    pub(super) labels: Table<'t, (&'static str, &'static str, &'static str), ()>,
    pub(super) tenant_rows: Table<'t, (&'static str, &'static str), ()>,
    pub(super) owner_rows: Table<'t, (u32, &'static str), ()>,
    pub(super) stale: Table<'t, &'static str, (u32, i64)>,
    pub(super) stale_order: Table<'t, (u32, i64, &'static str), ()>,
    pub(super) owners: Owners<'t>,
    pub(super) leaves: Leaves<'t>,
    pub(super) volumes: Table<'t, &'static str, &'static [u8]>,
    pub(super) images: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> PoolWriter<'t> {
    /// Opens a pool; a new one gets its number and its tables.
    pub(super) fn open(txn: &'t WriteTransaction, name: &str) -> Db<Self> {
        let state = match txn.open_table(tables::POOLS)?.get(name)? {
            Some(record) => read_json("a pool", record.value())?,
            None => PoolState { number: next_number(txn)?, ..PoolState::default() },
        };
        let names = PoolTables::new(state.number);
        let owners = Owners::new(
            txn.open_table(names.owners())?,
            txn.open_table(names.owner_names())?,
            txn.open_table(names.recent())?,
            txn.open_table(names.retired())?,
            txn.open_table(names.holes())?,
            state.next_owner,
        );
        let side = Side {
            state,
            labels: txn.open_table(names.labels())?,
            tenant_rows: txn.open_table(names.tenant_rows())?,
            owner_rows: txn.open_table(names.owner_rows())?,
            stale: txn.open_table(names.stale())?,
            stale_order: txn.open_table(names.stale_order())?,
            owners,
            leaves: Leaves::new(txn.open_table(names.leaves())?),
            volumes: txn.open_table(names.volumes())?,
            images: txn.open_table(names.images())?,
        };
        let rows = txn.open_table(names.rows())?;
        let buried = txn.open_table(names.buried())?;
        Ok(Self { txn, name: name.to_owned(), rows, side, buried, buffer: Vec::new() })
    }

    /// Writes what was kept in memory: digests, owners, the pool's own record.
    pub(super) fn flush(&mut self) -> Db<()> {
        for number in self.side.owners.touched() {
            self.grow_digest(number)?;
            let oldest = self.oldest_outstanding(number)?;
            self.side.owners.get(number)?.owner.since_sync.oldest_outstanding = oldest;
        }
        self.side.leaves.flush()?;
        self.side.state.next_owner = self.side.owners.flush()?;
        let record = write_json(&self.side.state)?;
        self.txn.open_table(tables::POOLS)?.insert(self.name.as_str(), record.as_slice())?;
        Ok(())
    }

    /// Makes an owner's trie deeper when its leaves are too full. It never becomes shallower: sums do
    /// not depend on the depth.
    fn grow_digest(&mut self, number: u32) -> Db<()> {
        let record = self.side.owners.get(number)?;
        let depth = depth_for(record.owner.digest.count);
        if depth <= record.depth {
            return Ok(());
        }
        record.depth = depth;
        let items = self.rows.iter()?.filter_map(|entry| item_of(entry, number).transpose());
        self.side.leaves.rebuild(number, depth, items)
    }

    fn oldest_outstanding(&self, number: u32) -> Db<Option<bus_schema::Timestamp>> {
        let mut first = self.side.stale_order.range((number, i64::MIN, "")..(number, i64::MAX, ""))?;
        let Some(entry) = first.next() else { return Ok(None) };
        let (at, _) = entry?;
        Ok(Some(bus_schema::Timestamp::from_unix_ms(at.value().1)))
    }
}

type RowEntry<'a> =
    Result<(redb::AccessGuard<'a, &'static str>, redb::AccessGuard<'a, &'static [u8]>), redb::StorageError>;

/// What stands for a row in the digest of the owner `number`; none for another's row or a tombstone.
fn item_of(entry: RowEntry<'_>, number: u32) -> Db<Option<(Address, Node)>> {
    let (key, row) = entry?;
    let cell = Cell::read(row.value())?;
    let live = cell.head.owner == number && cell.is_live();
    Ok(live.then(|| (Address::of(key.value()), cell.head.item)))
}

fn next_number(txn: &WriteTransaction) -> Db<u64> {
    let mut meta = txn.open_table(tables::META)?;
    let number = meta.get(tables::META_NEXT_POOL)?.map_or(1, |number| number.value());
    meta.insert(tables::META_NEXT_POOL, number + 1)?;
    Ok(number)
}
