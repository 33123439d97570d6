//! What all questions between two commits share: one read transaction, what it is true as of, and the pools
//! that were asked for, with their tables open. A question about one row then costs the way to that row.
//! Must not know when it is out of date: [`crate::file`] does, and gives it up at the next commit.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bus_schema::PoolId;
use redb::{Database, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, Value};

use crate::{
    cell::Cell,
    commit::PoolState,
    log::{self, LogState},
    reader::AsOf,
    row::Row,
    tables::{self, Db, PoolTables, damaged, read_json},
};

/// The state of the file after one commit, for any number of questions at once.
pub(crate) struct Snapshot {
    logs: Vec<(String, LogState)>,
    as_of: AsOf,
    /// Pools that were asked for: at most those that there are.
    pools: RwLock<HashMap<PoolId, Arc<Pool>>>,
    txn: ReadTransaction,
}

/// A pool in a snapshot, with the tables open that questions about one row need.
pub(crate) struct Pool {
    /// The names of all its tables.
    pub(crate) names: PoolTables,
    /// Resource key → row.
    pub(crate) rows: ReadOnlyTable<&'static str, &'static [u8]>,
    owner_names: ReadOnlyTable<u32, &'static str>,
}

impl Snapshot {
    /// The state that was committed last.
    pub(crate) fn begin(database: &Database) -> Db<Self> {
        let txn = database.begin_read()?;
        let logs = log::all(&txn.open_table(tables::LOGS)?)?;
        let as_of = AsOf {
            logs: logs.iter().map(|(stream, state)| (stream.clone(), state.seq)).collect(),
            time: logs.iter().map(|(_, state)| state.time).max().unwrap_or_default(),
        };
        Ok(Self { logs, as_of, pools: RwLock::default(), txn })
    }

    /// What it is true as of.
    pub(crate) fn as_of(&self) -> &AsOf {
        &self.as_of
    }

    /// Every log, in order of the streams' names.
    pub(crate) fn logs(&self) -> &[(String, LogState)] {
        &self.logs
    }

    /// Opens a table of the file, or one of a pool that is asked for seldom.
    pub(crate) fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Db<ReadOnlyTable<K, V>> {
        Ok(self.txn.open_table(table)?)
    }

    /// A pool; none for an unknown one.
    pub(crate) fn pool(&self, pool: &PoolId) -> Db<Option<Arc<Pool>>> {
        if let Some(open) = self.pools.read().unwrap_or_else(PoisonError::into_inner).get(pool) {
            return Ok(Some(Arc::clone(open)));
        }
        let Some(open) = self.open_pool(pool)?.map(Arc::new) else { return Ok(None) };
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(pool.clone(), Arc::clone(&open));
        Ok(Some(open))
    }

    fn open_pool(&self, pool: &PoolId) -> Db<Option<Pool>> {
        let pools = self.open_table(tables::POOLS)?;
        let Some(record) = pools.get(pool.to_string().as_str())? else { return Ok(None) };
        let names = PoolTables::new(read_json::<PoolState>("a pool", record.value())?.number);
        let (rows, owner_names) = (self.open_table(names.rows())?, self.open_table(names.owner_names())?);
        Ok(Some(Pool { names, rows, owner_names }))
    }

    /// A row of a pool as it is shown, from the bytes that stand in the file.
    pub(crate) fn show(&self, pool: &Pool, key: &str, bytes: &[u8]) -> Db<Row> {
        let cell = Cell::read(bytes)?;
        let owner = pool.owner_names.get(cell.head.owner)?.ok_or_else(|| damaged("an owner's name"))?;
        let log = self.logs.iter().find(|(_, state)| state.number == cell.head.log);
        let (stream, _) = log.ok_or_else(|| damaged("a row"))?;
        cell.show(key, owner.value(), stream).ok_or_else(|| damaged("a row"))
    }
}
