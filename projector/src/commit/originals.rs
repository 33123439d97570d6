//! The originals of parked messages, as the log stored them: for the copy that somebody asks for years later, and for
//! who wants to look, also when the log is trimmed by then.
//!
//! ```text
//! a message is              its original
//! -----------------------   -----------------------------------------------------------------------
//! parked                    is kept, as long as the originals of its log have room
//! parked, epoch over        is not kept: no copy of it is ever taken in, its source has sent everything since
//! taken in, by its copy     is dropped: the copy in the log is the same to the letter
//! known by its fact alone   is not there: this pool has not read it
//! ```
//! What is kept is decided by the log alone, so a replay, a rebuild and a snapshot keep the same.

use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::{
    pending::DeadMessage,
    tables::{self, Db, read_with_body, write_with_body},
};

/// Most bytes of originals that are kept of one log: a hundred thousand of 2 KiB, and a publisher that sends garbage
/// for ever fills neither the disk nor the snapshots. What comes then is parked all the same, and its original stands
/// in the log as long as that has it, and among the dead letters.
#[cfg(not(test))]
pub const ORIGINALS_BYTES_MAX: u64 = 256 << 20;
/// Small enough to be filled in a test.
#[cfg(test)]
pub const ORIGINALS_BYTES_MAX: u64 = 64 << 10;

/// An original as it stands in the file, before its body.
#[derive(Serialize, Deserialize)]
struct Head {
    subject: String,
    headers: Vec<(String, String)>,
}

/// Keeps the original of what is parked at a place instead of what was kept there, if there is room.
pub(super) fn keep(txn: &WriteTransaction, stream: &str, seq: u64, message: DeadMessage) -> Db<()> {
    let DeadMessage { subject, headers, body } = message;
    let bytes = write_with_body(&Head { subject, headers }, &body)?;
    let room = ORIGINALS_BYTES_MAX.saturating_sub(forget_and_count(txn, stream, seq)?);
    let size = bytes.len() as u64;
    if size > room {
        return Ok(());
    }
    txn.open_table(tables::ORIGINALS)?.insert((stream, seq), bytes.as_slice())?;
    let held = ORIGINALS_BYTES_MAX - room + size;
    txn.open_table(tables::ORIGINALS_BYTES)?.insert(stream, held)?;
    Ok(())
}

/// Drops the original that is kept for a place, if there is one.
pub(super) fn forget(txn: &WriteTransaction, stream: &str, seq: u64) -> Db<()> {
    forget_and_count(txn, stream, seq).map(|_| ())
}

/// Drops it, and answers how many bytes are still kept of that log.
fn forget_and_count(txn: &WriteTransaction, stream: &str, seq: u64) -> Db<u64> {
    let dropped = txn.open_table(tables::ORIGINALS)?.remove((stream, seq))?.map(|kept| kept.value().len());
    let mut table = txn.open_table(tables::ORIGINALS_BYTES)?;
    let held = table.get(stream)?.map_or(0, |held| held.value());
    let Some(dropped) = dropped else { return Ok(held) };
    let held = held.saturating_sub(dropped as u64);
    table.insert(stream, held)?;
    Ok(held)
}

/// Reads an original.
pub(crate) fn read_original(stored: &[u8]) -> Db<DeadMessage> {
    let (Head { subject, headers }, body) = read_with_body("the original of a parked message", stored)?;
    Ok(DeadMessage { subject, headers, body: body.to_vec() })
}
