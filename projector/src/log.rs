//! What the store remembers of a log: where it is in it.

use bus_schema::{Hash32, Timestamp};
use redb::{ReadableTable, Table};
use serde::{Deserialize, Serialize};

use crate::{
    store::Position,
    tables::{Db, read_json, write_json},
};

/// A log and the position in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogState {
    /// Short name of the log inside the file.
    pub(crate) number: u16,
    pub(crate) created: Timestamp,
    pub(crate) seq: u64,
    pub(crate) hash: Hash32,
    pub(crate) time: Timestamp,
    pub(crate) incarnation: u32,
}

impl LogState {
    /// A log of which nothing was read.
    pub(crate) fn new(number: u16, created: Timestamp) -> Self {
        Self { number, created, seq: 0, hash: Hash32::ZERO, time: Timestamp::default(), incarnation: 1 }
    }

    /// The position as it is shown.
    pub(crate) fn position(&self, stream: &str) -> Position {
        Position {
            stream: stream.to_owned(),
            created: self.created,
            seq: self.seq,
            hash: self.hash,
            time: self.time,
            incarnation: self.incarnation,
        }
    }
}

/// Reads what is known of a log.
pub(crate) fn read(
    logs: &impl ReadableTable<&'static str, &'static [u8]>,
    stream: &str,
) -> Db<Option<LogState>> {
    logs.get(stream)?.map(|record| read_json("a position", record.value())).transpose()
}

/// Every log.
pub(crate) fn all(logs: &impl ReadableTable<&'static str, &'static [u8]>) -> Db<Vec<(String, LogState)>> {
    logs.iter()?
        .map(|entry| {
            let (stream, record) = entry?;
            Ok((stream.value().to_owned(), read_json("a position", record.value())?))
        })
        .collect()
}

/// Writes what is known of a log.
pub(crate) fn write(
    logs: &mut Table<'_, &'static str, &'static [u8]>,
    stream: &str,
    state: &LogState,
) -> Db<()> {
    logs.insert(stream, write_json(state)?.as_slice())?;
    Ok(())
}
