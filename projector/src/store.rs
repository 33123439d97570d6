//! The store: one redb file with every pool of a target.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bus_schema::{Hash32, PoolId, Timestamp, fact::log::Parked, proof};
use redb::ReadableTable;

use crate::{
    batch::Batch,
    commit::{self, PoolState},
    error::StoreError,
    file::{self, File, Stop},
    log::{self, LogState},
    pending::Pending,
    reader::Reader,
    seals,
    tables::{self, PoolTables, read_json},
};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// redb's cache, in bytes.
    pub cache_bytes: usize,
    /// Whether to make the file smaller at the opening when more than half of it is dead.
    pub compact: bool,
    /// Whether to check every page of the file at the opening (about a second per GiB).
    pub check: bool,
}

impl Default for StoreOptions {
    /// A cache with which a million resources of 300 bytes stay well below 400 MB resident.
    fn default() -> Self {
        Self { cache_bytes: 96 << 20, compact: true, check: true }
    }
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
    /// The running hash over every message of this incarnation ([`bus_schema::proof::extend`]).
    pub running: Hash32,
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
    /// Rows and their keys, and the originals of what is parked, in bytes; indexes and the tree's own pages come on top.
    pub live_bytes: u64,
}

/// The pools of a target in one redb file. Clones share it.
#[derive(Clone)]
pub struct Store {
    file: Arc<File>,
}

impl Store {
    /// Opens the file, or makes it. Errors: newer format, locked by another process, damaged, disk.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let file = File::open(path, options)?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Says that nobody will open the file again: from now on no commit, of any clone, waits for the disk, and a
    /// crash takes what was committed since. For a store that is gone with the question that it answers; the file of
    /// one that is kept must never be told so.
    pub fn throw_away(&self) {
        self.file.throw_away();
    }

    /// Writes a batch and the position it reaches, in one durable transaction (see [`Store::throw_away`]).
    ///
    /// After an error nothing of the batch is written, with one exception: when the disk failed at the
    /// very end of the commit, all of it may be. The store goes on either way; ask [`Store::position`]
    /// and read again from there.
    pub fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let (stream, messages) = (batch.stream().to_owned(), batch.len() as u64);
        self.file.write(|txn| {
            let Some(known) = log::read(&txn.open_table(tables::LOGS)?, &stream)? else {
                return Err(Stop::Refused(StoreError::UnknownLog { stream }));
            };
            if batch.is_empty() {
                return Ok(Committed { position: known.position(&stream), messages, rows: 0, pending: 0 });
            }
            if batch.first_seq <= known.seq {
                let (first, at) = (batch.first_seq, known.seq);
                return Err(Stop::Refused(StoreError::NotNext { stream, first, at }));
            }
            let mut reached = known.clone();
            (reached.seq, reached.hash) = (batch.last_seq, batch.last_hash());
            reached.time = reached.time.max(batch.last_time);
            for message in &batch.seals {
                reached.running = proof::extend(reached.running, message.hash);
            }
            seals::write(&mut txn.open_table(tables::SEALS)?, known.number, &batch.seals)?;
            let written = commit::apply(txn, &known, batch)?;
            log::write(&mut txn.open_table(tables::LOGS)?, &stream, &reached)?;
            let (rows, pending) = (written.rows, written.pending);
            Ok(Committed { position: reached.position(&stream), messages, rows, pending })
        })
    }

    /// What a batch would do if it came next, whatever its sequences: of which parked messages, by their sequences, it has
    /// copies that would change something. Nothing is written; commits wait meanwhile. Errors: the log is not known, the
    /// disk.
    pub fn rehearse(&self, batch: Batch) -> Result<BTreeSet<u64>, StoreError> {
        let stream = batch.stream().to_owned();
        let known = self.file.try_out(|txn| {
            let Some(known) = log::read(&txn.open_table(tables::LOGS)?, &stream)? else { return Ok(None) };
            Ok(Some(commit::apply(txn, &known, batch)?.changed))
        })?;
        known.ok_or(StoreError::UnknownLog { stream })
    }

    /// Where the projector is in a log; none = [`Store::begin_log`] was never called for it.
    pub fn position(&self, stream: &str) -> Result<Option<Position>, StoreError> {
        let known = |(of, state): &(String, LogState)| (of == stream).then(|| state.position(of));
        self.file.read(|snapshot| Ok(snapshot.logs().iter().find_map(known)))
    }

    /// Where the projector is in every log.
    pub fn positions(&self) -> Result<Vec<Position>, StoreError> {
        let position = |(stream, state): &(String, LogState)| state.position(stream);
        self.file.read(|snapshot| Ok(snapshot.logs().iter().map(position).collect()))
    }

    /// Makes a log known, with position 0, and answers its position. Errors: the log is known with another
    /// `created` (the stream was made again): [`Store::rewind`] it.
    pub fn begin_log(&self, stream: &str, created: Timestamp) -> Result<Position, StoreError> {
        match self.position(stream)? {
            None => self.restart_log(stream, created),
            Some(known) if known.created == created => Ok(known),
            Some(known) => {
                let (stream, known) = (stream.to_owned(), known.created);
                Err(StoreError::OtherLog { stream, known, found: created })
            }
        }
    }

    /// The log does not hold any more what was read from it: read it again from its start as a new
    /// incarnation. The pool keeps what it has; of what comes again only that counts which is news, see
    /// `docs/decisions/0004-rewound-logs.md`.
    pub fn rewind(&self, stream: &str, created: Timestamp) -> Result<Position, StoreError> {
        self.restart_log(stream, created)
    }

    fn restart_log(&self, stream: &str, created: Timestamp) -> Result<Position, StoreError> {
        self.file.write(|txn| {
            let mut logs = txn.open_table(tables::LOGS)?;
            let state = match log::read(&logs, stream)? {
                None => LogState::new(log::all(&logs)?.len() as u16, created),
                Some(known) => known.rewound(created),
            };
            log::write(&mut logs, stream, &state)?;
            let frames = (state.number, 0)..=(state.number, u32::MAX);
            txn.open_table(tables::SEALS)?.retain_in(frames, |_, _| false)?;
            Ok(state.position(stream))
        })
    }

    /// Whether what the target log says of parked messages was taken over once: until then, a log is not to be read,
    /// because messages of the past could be taken in that were not then.
    pub fn has_recalled(&self) -> Result<bool, StoreError> {
        self.file
            .read(|snapshot| Ok(snapshot.open_table(tables::META)?.get(tables::META_RECALLED)?.is_some()))
    }

    /// Takes over what the target log says of parked messages, as far as nothing is known of them; `is_all` with the
    /// last of them.
    pub fn recall(&self, parked: &[Parked], is_all: bool) -> Result<(), StoreError> {
        self.file.write(|txn| {
            commit::recall(txn, parked)?;
            if is_all {
                txn.open_table(tables::META)?.insert(tables::META_RECALLED, 1)?;
            }
            Ok(())
        })
    }

    /// The oldest entries of the outbox.
    pub fn pending(&self, limit: usize) -> Result<Vec<Pending>, StoreError> {
        self.file.read(|snapshot| {
            let table = snapshot.open_table(tables::PENDING)?;
            table
                .iter()?
                .take(limit)
                .map(|entry| {
                    let (id, stored) = entry?;
                    commit::read_pending(id.value(), stored.value())
                })
                .collect()
        })
    }

    /// Takes entries out of the outbox after they were stated.
    pub fn settle(&self, ids: &[u64]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.file.write(|txn| {
            let mut pending = txn.open_table(tables::PENDING)?;
            let mut names = txn.open_table(tables::PENDING_NAMES)?;
            for id in ids {
                let Some(stored) = pending.remove(*id)? else { continue };
                let key = commit::pending_key(stored.value())?;
                let is_it = names.get(key.as_str())?.is_some_and(|known| known.value() == *id);
                if is_it {
                    names.remove(key.as_str())?;
                }
            }
            Ok(())
        })
    }

    /// Forgets a pool: its tables are dropped. Events that come later make it anew. Answers whether
    /// there was one.
    pub fn drop_pool(&self, pool: &PoolId) -> Result<bool, StoreError> {
        let name = pool.to_string();
        self.file.write(|txn| {
            let state = txn
                .open_table(tables::POOLS)?
                .remove(name.as_str())?
                .map(|state| read_json::<PoolState>("a pool", state.value()))
                .transpose()?;
            let Some(state) = state else { return Ok(false) };
            for table in PoolTables::new(state.number).names() {
                txn.delete_table(redb::TableDefinition::<&str, &[u8]>::new(table))?;
            }
            let pool = name.as_str();
            txn.open_table(tables::KEYS)?.retain(|(_, origin), _| !tables::is_of_pool(origin, pool))?;
            txn.open_table(tables::WITHDRAWN)?.retain(|(_, origin), _| !tables::is_of_pool(origin, pool))?;
            txn.open_table(tables::FIRST_REQUESTS)?.retain(|(of, _), _| of != pool)?;
            txn.open_table(tables::CONFIRMATIONS)?.retain_in((pool, 0)..=(pool, u64::MAX), |_, _| false)?;
            txn.open_table(tables::SYNCS)?.retain_in((pool, 0)..=(pool, u64::MAX), |_, _| false)?;
            txn.open_table(tables::SYNC_IDS)?.retain(|(of, _), _| of != pool)?;
            txn.open_table(tables::EMPTY_CONFIRMED)?.retain(|(of, _, _), ()| of != pool)?;
            Ok(true)
        })
    }

    /// Answers questions about what was committed.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.file))
    }

    /// The size of the file.
    pub fn size(&self) -> Result<Size, StoreError> {
        let live_bytes = self.file.read(|snapshot| {
            let originals = snapshot.open_table(tables::ORIGINALS_BYTES)?;
            file::live_bytes(&snapshot.open_table(tables::POOLS)?, &originals)
        })?;
        let file_bytes = self.file.file_bytes()?;
        Ok(Size { file_bytes, live_bytes })
    }
}
