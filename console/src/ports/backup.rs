//! The backup of the target, as the console asks for it.

use std::io;

use tokio::sync::mpsc;

use super::Pending;

/// A backup that is being written: its pieces in order. One that is an error is the last, and makes the file worthless.
pub struct Backup {
    /// The pieces.
    pub pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
}

/// Writes backups of the target.
pub trait Backups: Send + Sync {
    /// Everything that the target needs to stand up again elsewhere; `snapshots`: stored pools, too.
    fn backup(&self, snapshots: bool) -> Pending<'_, Backup>;
}
