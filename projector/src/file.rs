//! The redb file: opened, checked, made smaller, closed and opened again when the disk failed.

use std::{
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use crate::{
    commit::PoolState,
    error::StoreError,
    store::StoreOptions,
    tables::{self, Db, FORMAT, read_json},
};

/// A file that is smaller than this is never made smaller at the opening.
const COMPACT_BYTES_MIN: u64 = 64 << 20;

/// Only the owner may read and write: a pool holds the inventory of every source.
const FILE_MODE: u32 = 0o600;

/// The file behind every clone of a store and its readers.
pub(crate) struct File {
    path: PathBuf,
    options: StoreOptions,
    /// None between a failed write and the next one, which opens the file again.
    database: RwLock<Option<Database>>,
}

/// Why work in a write transaction ended without a commit.
pub(crate) enum Stop {
    /// The tables cannot be used.
    Tables(redb::Error),
    /// The work is not to be done.
    Refused(StoreError),
}

impl<E: Into<redb::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Tables(error.into())
    }
}

impl File {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let empty = std::fs::metadata(path).map_or(true, |found| found.len() == 0);
        let opened = Self::open_file(path, options);
        if empty && matches!(opened, Err(StoreError::Full { .. })) {
            // redb does not open what it could not finish; nothing is in it yet.
            let _ = std::fs::remove_file(path);
        }
        opened
    }

    fn open_file(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let wrong = |error| StoreError::from_redb(path, error);
        let mut database = open_database(path, &options, options.check).map_err(wrong)?;
        match prepare(&database).map_err(wrong)? {
            FORMAT => {}
            found if found < FORMAT => return Err(StoreError::Older { path: path.to_owned(), found }),
            found => return Err(StoreError::Newer { path: path.to_owned(), found }),
        }
        if options.compact && is_half_dead(path, &database).map_err(wrong)? {
            database.compact().map_err(|error| wrong(error.into()))?;
        }
        Ok(Self { path: path.to_owned(), options, database: RwLock::new(Some(database)) })
    }

    /// Runs a question in a read transaction of its own.
    pub(crate) fn read<T>(&self, ask: impl FnOnce(&ReadTransaction) -> Db<T>) -> Result<T, StoreError> {
        let database = self.database()?;
        let answer = database.as_ref().map_or(Err(redb::Error::DatabaseClosed), |database| {
            let txn = database.begin_read()?;
            ask(&txn)
        });
        answer.map_err(|error| self.wrong(error))
    }

    /// Runs work in a durable write transaction. When writing itself failed, the file is closed, so that
    /// the next question or work opens it again as it was committed last.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Stop>,
    ) -> Result<T, StoreError> {
        let database = self.database()?;
        let done = database.as_ref().map_or(Err(Stop::Tables(redb::Error::DatabaseClosed)), |database| {
            let mut txn = database.begin_write()?;
            txn.set_quick_repair(true);
            let answer = work(&txn)?;
            txn.commit()?;
            Ok(answer)
        });
        drop(database);
        done.map_err(|stop| match stop {
            Stop::Refused(error) => error,
            Stop::Tables(error) => {
                if matches!(
                    error,
                    redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::LockPoisoned(_)
                ) {
                    *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
                }
                self.wrong(error)
            }
        })
    }

    fn database(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if database.is_some() {
            return Ok(database);
        }
        drop(database);
        let mut closed = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if closed.is_none() {
            let opened = open_database(&self.path, &self.options, false);
            *closed = Some(opened.map_err(|error| self.wrong(error))?);
        }
        drop(closed);
        Ok(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The size of the file.
    pub(crate) fn file_bytes(&self) -> Result<u64, StoreError> {
        let found = std::fs::metadata(&self.path).map_err(|error| self.wrong(error.into()))?;
        Ok(found.len())
    }

    /// What an error means for this file.
    pub(crate) fn wrong(&self, error: redb::Error) -> StoreError {
        StoreError::from_redb(&self.path, error)
    }
}

fn open_database(path: &Path, options: &StoreOptions, check: bool) -> Db<Database> {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    let is_old = std::fs::metadata(path).is_ok_and(|found| found.len() > 0);
    builder.set_check_integrity_on_open(check && is_old);
    make_private(path)?;
    Ok(builder.create(path)?)
}

/// Makes the file for its owner alone; takes from others what an earlier build let them have.
fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(FILE_MODE))
}

/// Makes the tables of a new file; answers the format of the file.
fn prepare(database: &Database) -> Db<u64> {
    let txn = database.begin_write()?;
    let found = txn.open_table(tables::META)?.get(tables::META_FORMAT)?.map(|found| found.value());
    if let Some(found) = found {
        txn.abort()?;
        return Ok(found);
    }
    txn.open_table(tables::META)?.insert(tables::META_FORMAT, FORMAT)?;
    txn.open_table(tables::LOGS)?;
    txn.open_table(tables::POOLS)?;
    txn.open_table(tables::PENDING)?;
    txn.open_table(tables::PENDING_NAMES)?;
    txn.open_table(tables::STATED)?;
    txn.open_table(tables::KEYS)?;
    txn.open_table(tables::TENANTS)?;
    txn.open_table(tables::PAUSED)?;
    txn.open_table(tables::CONFIRMATIONS)?;
    txn.open_table(tables::SYNCS)?;
    txn.open_table(tables::SYNC_IDS)?;
    txn.open_table(tables::FIRST_REQUESTS)?;
    txn.open_table(tables::LOG_FACTS)?;
    txn.open_table(tables::EMPTY_CONFIRMED)?;
    txn.commit()?;
    Ok(FORMAT)
}

pub(crate) fn live_bytes(pools: &impl ReadableTable<&'static str, &'static [u8]>) -> Db<u64> {
    pools.iter()?.try_fold(0, |sum, entry| {
        let (_, state) = entry?;
        Ok(sum + read_json::<PoolState>("a pool", state.value())?.bytes)
    })
}

/// Whether more than half of a file is dead. Counting pages reads the whole file, so it is done only
/// when the rows are few for the file's size.
fn is_half_dead(path: &Path, database: &Database) -> Db<bool> {
    let file_bytes = std::fs::metadata(path)?.len();
    let live = live_bytes(&database.begin_read()?.open_table(tables::POOLS)?)?;
    if file_bytes < COMPACT_BYTES_MIN || live * 3 > file_bytes {
        return Ok(false);
    }
    let txn = database.begin_write()?;
    let stats = txn.stats()?;
    txn.abort()?;
    Ok(stats.allocated_pages() * (stats.page_size() as u64) < file_bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_its_owners_alone_whatever_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.redb");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(File::open(&path, StoreOptions::default()).unwrap());
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(File::open(&path, StoreOptions::default()).unwrap());
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn a_full_disk_leaves_what_was_committed_and_the_file_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        let paused =
            |file: &File| file.read(|txn| Ok(txn.open_table(tables::PAUSED)?.get("a/b")?.is_some())).unwrap();
        let error = file.write(|txn| -> Result<(), Stop> {
            txn.open_table(tables::PAUSED)?.insert("a/b", ())?;
            Err(Stop::Tables(redb::Error::Io(std::io::ErrorKind::StorageFull.into())))
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("the disk is full") && text.contains("make room"), "{text}");
        assert!(!paused(&file));
        file.write(|txn| Ok(txn.open_table(tables::PAUSED)?.insert("a/b", ()).map(drop)?)).unwrap();
        assert!(paused(&file));
    }
}
