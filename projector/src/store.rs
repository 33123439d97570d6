//! The store: one redb file with every pool of a target.

use std::path::{Path, PathBuf};

use bus_schema::{Hash32, PoolId, Timestamp};

use crate::{batch::Batch, pending::Pending, reader::Reader};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// redb's cache, in bytes.
    pub cache_bytes: usize,
    /// Whether to make the file smaller at the opening when more than half of it is dead.
    pub compact: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 96 << 20, compact: true }
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file.
    #[error("cannot open the pool {path}: another process has it open; stop that farside first, or ask it")]
    Locked {
        /// The file.
        path: PathBuf,
    },
}

/// Where the projector is in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream's name.
    pub stream: String,
    /// When the stream was made: another stream of the same name is another log.
    pub created: Timestamp,
    /// The last sequence taken in; 0 = none.
    pub seq: u64,
    /// The hash of that message; zero for none.
    pub hash: Hash32,
    /// The largest time at which the log stored a message up to there.
    pub time: Timestamp,
    /// Counted from 1, one more with every rewind.
    pub incarnation: u32,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The position that it reached.
    pub position: Position,
    /// Messages in the batch.
    pub messages: u64,
    /// Rows written.
    pub rows: u64,
    /// Entries put into the outbox, see [`Store::pending`].
    pub pending: u64,
}

/// The size of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// On disk, in bytes.
    pub file_bytes: u64,
    /// Of it in use, in bytes.
    pub live_bytes: u64,
}

/// The pools of a target in one redb file. Clones share it.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens the file, or makes it. Errors: newer format, locked by another process, corrupt, disk.
    pub fn open(_path: &Path, _options: StoreOptions) -> Result<Self, StoreError> {
        unimplemented!()
    }

    /// Writes a batch and the position it reaches, in one durable transaction. After an error nothing of
    /// the batch is written, the position is unchanged and the store goes on.
    pub fn commit(&self, _batch: Batch) -> Result<Committed, StoreError> {
        unimplemented!()
    }

    /// Where the projector is in a log; none = [`Store::begin_log`] was never called for it.
    pub fn position(&self, _stream: &str) -> Result<Option<Position>, StoreError> {
        unimplemented!()
    }

    /// Where the projector is in every log.
    pub fn positions(&self) -> Result<Vec<Position>, StoreError> {
        unimplemented!()
    }

    /// Makes a log known, with position 0, and answers its position. Errors: the log is known with another
    /// `created` (the stream was made again): [`Store::rewind`] it.
    pub fn begin_log(&self, _stream: &str, _created: Timestamp) -> Result<Position, StoreError> {
        unimplemented!()
    }

    /// The log does not hold any more what was read from it: read it again from its start as a new
    /// incarnation. The pool stays as it is until then.
    pub fn rewind(&self, _stream: &str, _created: Timestamp) -> Result<Position, StoreError> {
        unimplemented!()
    }

    /// The oldest entries of the outbox.
    pub fn pending(&self, _limit: usize) -> Result<Vec<Pending>, StoreError> {
        unimplemented!()
    }

    /// Takes entries out of the outbox after they were stated.
    pub fn settle(&self, _ids: &[u64]) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Forgets a pool: its tables are dropped. Events that come later make it anew.
    pub fn drop_pool(&self, _pool: &PoolId) -> Result<bool, StoreError> {
        unimplemented!()
    }

    /// Answers questions about what was committed.
    pub fn reader(&self) -> Reader {
        unimplemented!()
    }

    /// The size of the file.
    pub fn size(&self) -> Result<Size, StoreError> {
        unimplemented!()
    }
}
