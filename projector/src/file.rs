//! The redb file: opened, checked, made smaller, closed and opened again when the disk failed.

use std::{
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, WriteTransaction};

use crate::{
    commit::PoolState,
    error::StoreError,
    snapshot::Snapshot,
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
    /// Nobody will open the file again.
    thrown_away: AtomicBool,
    /// None between a failed write and the next one, which opens the file again.
    open: RwLock<Option<Open>>,
}

/// An open database, and what its readers share.
struct Open {
    /// The state of the last commit; none until somebody asks. Before the database, so that nothing reads
    /// any more when that is closed.
    snapshot: RwLock<Option<Arc<Snapshot>>>,
    database: Database,
}

impl Open {
    fn new(database: Database) -> Self {
        Self { snapshot: RwLock::default(), database }
    }

    /// The state of the last commit.
    fn snapshot(&self) -> Db<Arc<Snapshot>> {
        if let Some(shared) = &*self.snapshot.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(shared));
        }
        // Its transaction begins under the lock: were there a commit between that and here, it would still
        // be given up by that commit, and nobody would read what was before it.
        let mut shared = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = &*shared {
            return Ok(Arc::clone(shared));
        }
        Ok(Arc::clone(shared.insert(Arc::new(Snapshot::begin(&self.database)?))))
    }

    /// Gives up the snapshot: the next question begins another one.
    fn forget(&self) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Runs work in a write transaction and commits it.
    fn write<T>(
        &self,
        thrown_away: bool,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let mut txn = self.database.begin_write()?;
        match thrown_away {
            true => txn.set_durability(Durability::None).map_err(redb::Error::from)?,
            false => txn.set_quick_repair(true),
        }
        let answer = work(&txn)?;
        // Before the commit, so that it frees the pages that only an idle snapshot would keep; and after it,
        // so that whoever asks from now on reads what was committed.
        self.forget();
        let committed = txn.commit();
        self.forget();
        Ok(committed.map(|()| answer)?)
    }
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
        let found = path.try_exists().map_err(redb::Error::from);
        found
            .and_then(|found| if found { Ok(()) } else { make(path, &options) })
            .map_err(|error| StoreError::from_redb(path, error))?;
        Self::open_file(path, options)
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
        let (path, open) = (path.to_owned(), RwLock::new(Some(Open::new(database))));
        Ok(Self { path, options, thrown_away: AtomicBool::new(false), open })
    }

    /// From now on no commit waits for the disk.
    pub(crate) fn throw_away(&self) {
        self.thrown_away.store(true, Ordering::Relaxed);
    }

    /// Asks a question of the last commit: of no older one than the last whose [`File::write`] had returned.
    pub(crate) fn read<T>(&self, ask: impl FnOnce(&Snapshot) -> Db<T>) -> Result<T, StoreError> {
        let open = self.open_again()?;
        let open = open.as_ref().ok_or(redb::Error::DatabaseClosed);
        open.and_then(|open| ask(&*open.snapshot()?)).map_err(|error| self.wrong(error))
    }

    /// Runs work in a write transaction, durable unless the file is thrown away. When writing itself failed, the
    /// file is closed, so that the next question or work opens it again as it was committed last.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Stop>,
    ) -> Result<T, StoreError> {
        let open = self.open_again()?;
        let thrown_away = self.thrown_away.load(Ordering::Relaxed);
        let closed = Err(redb::Error::DatabaseClosed.into());
        let done = open.as_ref().map_or(closed, |open| open.write(thrown_away, work));
        drop(open);
        done.map_err(|stop| match stop {
            Stop::Refused(error) => error,
            Stop::Tables(error) => {
                if matches!(
                    error,
                    redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::LockPoisoned(_)
                ) {
                    *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
                }
                self.wrong(error)
            }
        })
    }

    /// Runs work in a write transaction that is given up: nothing of it stays.
    pub(crate) fn try_out<T>(&self, work: impl FnOnce(&WriteTransaction) -> Db<T>) -> Result<T, StoreError> {
        let open = self.open_again()?;
        let database = open.as_ref().map(|open| &open.database).ok_or(redb::Error::DatabaseClosed);
        let done = database.and_then(|database| {
            let txn = database.begin_write()?;
            let done = work(&txn)?;
            txn.abort()?;
            Ok(done)
        });
        done.map_err(|error| self.wrong(error))
    }

    /// The open database; opens it when the last write failed.
    fn open_again(&self) -> Result<RwLockReadGuard<'_, Option<Open>>, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return Ok(open);
        }
        drop(open);
        let mut closed = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if closed.is_none() {
            let database = open_database(&self.path, &self.options, false);
            *closed = Some(Open::new(database.map_err(|error| self.wrong(error))?));
        }
        drop(closed);
        Ok(self.open.read().unwrap_or_else(PoisonError::into_inner))
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

/// Makes a new file, whole or not at all: redb opens none whose making was cut off by a kill or a full disk.
fn make(path: &Path, options: &StoreOptions) -> Db<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let draft = tempfile::Builder::new().suffix(".new").tempfile_in(directory.unwrap_or(Path::new(".")))?;
    prepare(&open_database(draft.path(), options, false)?)?;
    match draft.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != io::ErrorKind::AlreadyExists => Err(failed.error.into()),
        // Or another process was faster.
        _ => Ok(()),
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
    txn.open_table(tables::PARKED)?;
    txn.open_table(tables::ORIGINALS)?;
    txn.open_table(tables::ORIGINALS_BYTES)?;
    txn.open_table(tables::KEYS)?;
    txn.open_table(tables::REVOKED)?;
    txn.open_table(tables::REMOVED)?;
    txn.open_table(tables::TENANTS)?;
    txn.open_table(tables::PAUSED)?;
    txn.open_table(tables::CONFIRMATIONS)?;
    txn.open_table(tables::SYNCS)?;
    txn.open_table(tables::SYNC_IDS)?;
    txn.open_table(tables::FIRST_REQUESTS)?;
    txn.open_table(tables::LOG_FACTS)?;
    txn.open_table(tables::LATEST)?;
    txn.open_table(tables::CHECKPOINTS)?;
    txn.open_table(tables::DAMAGES)?;
    txn.open_table(tables::SEALS)?;
    txn.open_table(tables::WITHDRAWN)?;
    txn.open_table(tables::EMPTY_CONFIRMED)?;
    txn.commit()?;
    Ok(FORMAT)
}

/// The bytes of the rows, and of the originals of what is parked.
pub(crate) fn live_bytes(
    pools: &impl ReadableTable<&'static str, &'static [u8]>,
    originals: &impl ReadableTable<&'static str, u64>,
) -> Db<u64> {
    let rows = pools.iter()?.try_fold(0, |sum, entry| -> Db<u64> {
        let (_, state) = entry?;
        Ok(sum + read_json::<PoolState>("a pool", state.value())?.bytes)
    })?;
    originals.iter()?.try_fold(rows, |sum, entry| Ok(sum + entry?.1.value()))
}

/// Whether more than half of a file is dead. Counting pages reads the whole file, so it is done only
/// when the rows are few for the file's size.
fn is_half_dead(path: &Path, database: &Database) -> Db<bool> {
    let file_bytes = std::fs::metadata(path)?.len();
    let txn = database.begin_read()?;
    let live = live_bytes(&txn.open_table(tables::POOLS)?, &txn.open_table(tables::ORIGINALS_BYTES)?)?;
    drop(txn);
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
    use std::{sync::Barrier, thread};

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

    /// A write that fails as on a full disk, after `work`.
    fn fail(file: &File, work: impl FnOnce(&WriteTransaction) -> Result<(), Stop>) -> String {
        let failed = file.write(|txn| -> Result<(), Stop> {
            work(txn)?;
            Err(Stop::Tables(redb::Error::Io(io::ErrorKind::StorageFull.into())))
        });
        failed.unwrap_err().to_string()
    }

    fn pause(txn: &WriteTransaction) -> Result<(), Stop> {
        txn.open_table(tables::PAUSED)?.insert("a/b", ())?;
        Ok(())
    }

    fn is_paused(snapshot: &Snapshot) -> bool {
        snapshot.open_table(tables::PAUSED).unwrap().get("a/b").unwrap().is_some()
    }

    #[test]
    fn a_full_disk_leaves_what_was_committed_and_the_file_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        let paused = || file.read(|snapshot| Ok(is_paused(snapshot))).unwrap();
        assert!(!paused());
        let text = fail(&file, pause);
        assert!(text.contains("the disk is full") && text.contains("make room"), "{text}");
        assert!(!paused());
        file.write(pause).unwrap();
        assert!(paused());
    }

    /// What a crash would leave of it, opened.
    fn crashed(file: &File, to: &Path) -> File {
        std::fs::copy(&file.path, to).unwrap();
        File::open(to, StoreOptions::default()).unwrap()
    }

    #[test]
    fn a_crash_takes_only_what_was_committed_since_the_file_was_thrown_away() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        file.write(pause).unwrap();
        file.throw_away();
        file.write(|txn| Ok(txn.open_table(tables::PAUSED)?.remove("a/b")?.is_some())).unwrap();
        assert!(!file.read(|snapshot| Ok(is_paused(snapshot))).unwrap(), "every reader sees it");
        let left = crashed(&file, &directory.path().join("left.redb"));
        assert!(left.read(|snapshot| Ok(is_paused(snapshot))).unwrap());
    }

    #[test]
    fn a_failed_write_waits_for_questions_and_opens_the_file_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        let (writing, asked) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let answer = scope.spawn(|| {
                file.read(|snapshot| {
                    asked.wait();
                    writing.wait();
                    Ok(is_paused(snapshot))
                })
            });
            asked.wait();
            fail(&file, |txn| {
                writing.wait();
                pause(txn)
            });
            assert!(file.open.read().unwrap().is_none(), "nobody has asked since");
            assert!(!answer.join().unwrap().unwrap(), "the question was not cut off");
        });
        assert!(!file.read(|snapshot| Ok(is_paused(snapshot))).unwrap());
        file.write(pause).unwrap();
        assert!(file.read(|snapshot| Ok(is_paused(snapshot))).unwrap());
    }

    #[test]
    fn a_snapshot_is_shared_until_the_next_commit() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(&directory.path().join("pool.redb"), StoreOptions::default()).unwrap();
        let snapshot = || file.open.read().unwrap().as_ref().unwrap().snapshot().unwrap();
        let before = snapshot();
        assert!(Arc::ptr_eq(&before, &snapshot()));
        let refused = StoreError::UnknownLog { stream: "S".to_owned() };
        file.write(|_| Err::<(), _>(Stop::Refused(refused))).unwrap_err();
        assert!(Arc::ptr_eq(&before, &snapshot()), "nothing was committed");
        file.write(pause).unwrap();
        assert!(!is_paused(&before) && is_paused(&snapshot()));
        assert_eq!(Arc::strong_count(&before), 1, "the file keeps the last commit only");
    }
}
