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
    /// The running hash over every message of this incarnation.
    pub(crate) running: Hash32,
    /// The largest sequence that was taken in before the last rewind.
    pub(crate) read_seq: u64,
    /// The largest time of a message that was taken in before it.
    pub(crate) read_time: Timestamp,
}

impl LogState {
    /// A log of which nothing was read.
    pub(crate) fn new(number: u16, created: Timestamp) -> Self {
        let (hash, time, read_time) = (Hash32::ZERO, Timestamp::default(), Timestamp::default());
        Self { number, created, seq: 0, hash, time, incarnation: 1, running: hash, read_seq: 0, read_time }
    }

    /// The log once more from its start, as another incarnation.
    pub(crate) fn rewound(self, created: Timestamp) -> Self {
        let (read_seq, read_time) = (self.read_seq.max(self.seq), self.time);
        let incarnation = self.incarnation + 1;
        let (hash, running) = (Hash32::ZERO, Hash32::ZERO);
        Self { created, seq: 0, hash, running, incarnation, read_seq, read_time, ..self }
    }

    /// The log's incarnation, when what stands here now may not be what stood here before.
    pub(crate) fn reused(&self, seq: u64) -> Option<u32> {
        (seq <= self.read_seq).then_some(self.incarnation)
    }

    /// Whether a message that stands here was taken in before the last rewind. What a log got after it lost
    /// its tail may stand at the same places, but it was stored later.
    pub(crate) fn has_read(&self, seq: u64, stored_at: i64) -> bool {
        seq <= self.read_seq && stored_at <= self.read_time.unix_ms()
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
            running: self.running,
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
