//! What can go wrong with the file, and what to do then.

use std::path::{Path, PathBuf};

use bus_schema::Timestamp;

use crate::tables::FORMAT;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file.
    #[error(
        "cannot open the pool {}: another process has it open; stop that farside first, or ask it instead",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A newer build wrote the file.
    #[error(
        "cannot open the pool {}: written by format {found}, this build reads up to {FORMAT}; run a newer farside, or {}",
        path.display(),
        anew(path)
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// An older build wrote the file.
    #[error(
        "cannot open the pool {}: written by format {found} of an older farside, this build reads format {FORMAT}; {}",
        path.display(),
        anew(path)
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The file is damaged, or no pool at all.
    #[error(
        "the pool {} is damaged, or no pool at all ({reason}); {}",
        path.display(),
        anew(path)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file system has no room.
    #[error(
        "cannot write the pool {}: the disk is full ({reason}); make room: farside goes on where it was, nothing is lost",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Reading or writing the file failed.
    #[error(
        "cannot use the pool {}: {reason}; check the disk and the file's permissions, then start farside again",
        path.display()
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A batch of a log that the store was not told about.
    #[error("the log {stream} is not known to the pool; begin it first")]
    UnknownLog {
        /// The stream.
        stream: String,
    },
    /// The stream was made again.
    #[error("the log {stream} was made at {found}, the pool has read the one made at {known}; rewind it")]
    OtherLog {
        /// The stream.
        stream: String,
        /// When the log was made that the pool has read.
        known: Timestamp,
        /// When this one was made.
        found: Timestamp,
    },
    /// A batch that does not follow the position.
    #[error("the batch begins at {stream}:{first}, the pool is at {stream}:{at} already; read on from there")]
    NotNext {
        /// The stream.
        stream: String,
        /// The first message of the batch.
        first: u64,
        /// The position.
        at: u64,
    },
    /// The writer of an export failed.
    #[error("cannot write the export: {0}; check where it goes")]
    Export(#[source] std::io::Error),
    /// More nodes than one answer may hold.
    #[error("a digest answer of {wanted} nodes is too large; ask for at most {max}")]
    TooManyNodes {
        /// Nodes that the question is about.
        wanted: usize,
        /// Most nodes.
        max: usize,
    },
}

impl StoreError {
    /// What an error of the tables means for the file at `path`.
    pub(crate) fn from_redb(path: &Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Locked { path },
            redb::Error::Io(error) if is_full(&error) => Self::Full { path, reason: error.to_string() },
            redb::Error::Io(error) if is_damage(&error) => Self::Damaged { path, reason: error.to_string() },
            redb::Error::Io(error) => Self::Io { path, reason: error.to_string() },
            redb::Error::Corrupted(reason) => Self::Damaged { path, reason },
            error @ (redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TypeDefinitionChanged { .. }) => Self::Damaged { path, reason: error.to_string() },
            error => Self::Io { path, reason: error.to_string() },
        }
    }
}

/// What makes a pool again that cannot be opened: verbs ask the running farside, which does not start with it.
fn anew(path: &Path) -> String {
    format!(
        "move {} aside and start farside again: it reads the pool again from the log, nothing is lost",
        path.display()
    )
}

/// The file is not what was written: its content is wrong, or its end is missing.
fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
