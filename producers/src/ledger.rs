//! The ledger: the agent's one file (redb). It holds, per cluster, the chain's end, the inventory as it
//! was last sequenced, the outbox, the journal and what is under way, and it changes them in
//! ONE write transaction per set of changes: an event is in the outbox exactly when the inventory, the
//! journal and the chain know of it (transactional outbox).
//!
//! An event is written once, into a row that it keeps: when the log acknowledges it, the chain's mark moves over
//! the row, and what was the outbox's is the journal's, until newer events need its room.
//!
//! Must not know: NATS, sources, the clock, or why something changes.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use bus_schema::Hash32;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

pub(crate) mod chain;
pub(crate) mod checkpoint;
pub(crate) mod inventory;
pub(crate) mod journal;
pub(crate) mod marks;
pub(crate) mod outbox;
#[cfg(test)]
mod tests;

/// Memory for cached pages, in bytes: an agent is a guest on its machine.
const CACHE_BYTES: usize = 32 << 20;
/// The layout of this file; a greater number is refused.
const FORMAT: u64 = 2;
/// The layout before: a row was deleted when the log had acknowledged its event. What is in its outbox waits, in
/// rows numbered as the events are, so bringing it over is to say so.
const FORMAT_WITHOUT_KEPT: u64 = 1;
/// Only the agent's user may read and write the file: it holds states, and the salt of what is redacted.
const FILE_MODE: u32 = 0o600;
/// Only that user may enter a directory that is made for it.
const DIRECTORY_MODE: u32 = 0o700;
/// Random bytes of the salt that keys the hashes of redacted values.
const SALT_BYTES: usize = 32;

pub(crate) type Rows<K> = TableDefinition<'static, K, &'static [u8]>;

const META: Rows<&str> = TableDefinition::new("meta");

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be opened.
    #[error(
        "cannot open the agent's ledger {path}: {reason}; only one agent may use it, and its directory must be writable"
    )]
    Open {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The file was written by another version.
    #[error(
        "the agent's ledger {path} has format {found}, this farside knows {FORMAT}: use the farside that wrote it, or move the file away (the agent then starts a new epoch and sends everything)"
    )]
    Format {
        /// The file.
        path: String,
        /// Its format.
        found: u64,
    },
    /// The file system has no room.
    #[error(
        "cannot write the agent's ledger {path}: the disk is full ({reason}); make room: the agent goes on where it was, nothing is lost"
    )]
    Full {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The file could not be read or written.
    #[error(
        "the agent's ledger failed: {0}; check its disk, or move the file away (the agent then starts a new epoch and sends everything)"
    )]
    Storage(#[from] redb::Error),
    /// A row does not read as what it should be.
    #[error(
        "the agent's ledger has a damaged row in {table}; move the file away (the agent then starts a new epoch and sends everything)"
    )]
    Row {
        /// The table.
        table: &'static str,
    },
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers: {0}")]
    Random(getrandom::Error),
}

macro_rules! storage_errors {
    ($($error:ty),+) => { $(impl From<$error> for LedgerError {
        fn from(error: $error) -> Self {
            Self::Storage(error.into())
        }
    })+ };
}
storage_errors!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

impl LedgerError {
    /// A full disk as what it is, with the file's name; anything else as it was.
    fn at(self, path: &str) -> Self {
        match self {
            Self::Storage(redb::Error::Io(error)) if is_full(&error) => {
                Self::Full { path: path.to_owned(), reason: error.to_string() }
            }
            error => error,
        }
    }
}

/// Takes from others what an earlier build let them do with the file.
fn make_private(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(FILE_MODE))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The agent's file. Clones share it.
#[derive(Clone)]
pub(crate) struct Ledger {
    path: Arc<str>,
    db: Arc<Database>,
}

/// A write transaction with every table open.
pub(crate) struct Writing<'t> {
    /// Chains by cluster.
    pub(crate) chains: redb::Table<'t, &'static str, &'static [u8]>,
    /// Inventory by cluster and key.
    pub(crate) inventory: redb::Table<'t, (&'static str, &'static str), &'static [u8]>,
    /// Inventory keys by cluster, path and key.
    pub(crate) places: redb::Table<'t, (&'static str, &'static str, &'static str), &'static [u8]>,
    /// Keys by cluster and sequence.
    pub(crate) journal: redb::Table<'t, (&'static str, u64), &'static [u8]>,
    /// Events by cluster and row.
    pub(crate) outbox: redb::Table<'t, (&'static str, u64), &'static [u8]>,
    /// Small things by name.
    pub(crate) marks: redb::Table<'t, (&'static str, &'static str), &'static [u8]>,
}

/// A read transaction with every table open: one moment of the ledger.
pub(crate) struct Reading {
    /// Chains by cluster.
    pub(crate) chains: redb::ReadOnlyTable<&'static str, &'static [u8]>,
    /// Inventory by cluster and key.
    pub(crate) inventory: redb::ReadOnlyTable<(&'static str, &'static str), &'static [u8]>,
    /// Inventory keys by cluster, path and key.
    pub(crate) places: redb::ReadOnlyTable<(&'static str, &'static str, &'static str), &'static [u8]>,
    /// Keys by cluster and sequence.
    pub(crate) journal: redb::ReadOnlyTable<(&'static str, u64), &'static [u8]>,
    /// Events by cluster and row.
    pub(crate) outbox: redb::ReadOnlyTable<(&'static str, u64), &'static [u8]>,
    /// Small things by name.
    pub(crate) marks: redb::ReadOnlyTable<(&'static str, &'static str), &'static [u8]>,
}

impl Ledger {
    /// Opens or makes the file, mode 0600, whatever mode it had. Errors: it is in use, of another format, or
    /// damaged.
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        let name = path.display().to_string();
        let open = |reason: String| LedgerError::Open { path: name.clone(), reason };
        if let Some(directory) = path.parent() {
            let mut made = fs::DirBuilder::new();
            made.recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(|e| open(e.to_string()))?;
        }
        if !path.try_exists().map_err(|e| open(e.to_string()))? {
            Self::make(path, &name)?;
        }
        make_private(path).map_err(|e| open(e.to_string()))?;
        Self::open_file(path, &name)
    }

    /// Makes a new file, whole or not at all: redb opens none whose making was cut off by a kill or a full disk.
    fn make(path: &Path, name: &str) -> Result<(), LedgerError> {
        let failed = |error: io::Error| LedgerError::Storage(error.into()).at(name);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let draft = tempfile::Builder::new().suffix(".new").tempfile_in(directory.unwrap_or(Path::new(".")));
        let draft = draft.map_err(failed)?;
        drop(Self::open_file(draft.path(), name)?);
        match draft.persist_noclobber(path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error.error)),
            // Or another process was faster.
            _ => Ok(()),
        }
    }

    fn open_file(path: &Path, name: &str) -> Result<Self, LedgerError> {
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|e| match e {
            redb::DatabaseError::Storage(error) => LedgerError::from(error).at(name),
            error => LedgerError::Open { path: name.to_owned(), reason: error.to_string() },
        })?;
        let ledger = Self { path: name.into(), db: Arc::new(db) };
        ledger.begin().map_err(|error| error.at(&ledger.path))?;
        Ok(ledger)
    }

    fn begin(&self) -> Result<(), LedgerError> {
        let txn = self.db.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let found = meta.get("format")?.map(|row| number(row.value(), "meta")).transpose()?;
            match found {
                Some(FORMAT) => {}
                Some(FORMAT_WITHOUT_KEPT) => _ = meta.insert("format", &FORMAT.to_be_bytes()[..])?,
                Some(found) => return Err(LedgerError::Format { path: self.path.to_string(), found }),
                None => {
                    meta.insert("format", &FORMAT.to_be_bytes()[..])?;
                    meta.insert("salt", &random::<SALT_BYTES>()?[..])?;
                }
            }
        }
        drop(Writing::open(&txn)?);
        txn.commit()?;
        Ok(())
    }

    /// The salt that keys the hashes of redacted values; it never leaves this file.
    pub(crate) fn salt(&self) -> Result<Hash32, LedgerError> {
        let meta = self.db.begin_read()?.open_table(META)?;
        let row = meta.get("salt")?.ok_or(LedgerError::Row { table: "meta" })?;
        row.value().try_into().map(Hash32).map_err(|_| LedgerError::Row { table: "meta" })
    }

    /// Reads one moment of the ledger.
    pub(crate) fn reading(&self) -> Result<Reading, LedgerError> {
        let txn = self.db.begin_read()?;
        Ok(Reading {
            chains: txn.open_table(chain::CHAINS)?,
            inventory: txn.open_table(inventory::INVENTORY)?,
            places: txn.open_table(inventory::PLACES)?,
            journal: txn.open_table(journal::JOURNAL)?,
            outbox: txn.open_table(outbox::OUTBOX)?,
            marks: txn.open_table(marks::MARKS)?,
        })
    }

    /// Makes a set of changes: all of them, durable when this returns, or none when it fails. After a
    /// failure of the disk redb takes no more changes until the file is opened again.
    pub(crate) fn change<T>(
        &self,
        changes: impl FnOnce(&mut Writing<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.commit(changes).map_err(|error| error.at(&self.path))
    }

    fn commit<T>(
        &self,
        changes: impl FnOnce(&mut Writing<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut txn = self.db.begin_write()?;
        txn.set_quick_repair(true);
        let done = {
            let mut writing = Writing::open(&txn)?;
            changes(&mut writing)?
        };
        txn.commit()?;
        Ok(done)
    }
}

impl<'t> Writing<'t> {
    fn open(txn: &'t redb::WriteTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            chains: txn.open_table(chain::CHAINS)?,
            inventory: txn.open_table(inventory::INVENTORY)?,
            places: txn.open_table(inventory::PLACES)?,
            journal: txn.open_table(journal::JOURNAL)?,
            outbox: txn.open_table(outbox::OUTBOX)?,
            marks: txn.open_table(marks::MARKS)?,
        })
    }
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], LedgerError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(LedgerError::Random)?;
    Ok(bytes)
}

fn number(bytes: &[u8], table: &'static str) -> Result<u64, LedgerError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| LedgerError::Row { table })
}

/// A row of JSON, for what is small and rarely read.
fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], table: &'static str) -> Result<T, LedgerError> {
    serde_json::from_slice(bytes).map_err(|_| LedgerError::Row { table })
}

fn to_json<T: serde::Serialize>(value: &T, table: &'static str) -> Result<Vec<u8>, LedgerError> {
    serde_json::to_vec(value).map_err(|_| LedgerError::Row { table })
}
