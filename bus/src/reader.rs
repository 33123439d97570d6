//! Reading a log in order, without acks: each message once, over reconnects and restarts of the server.

use crate::{BusError, LogMessage};

/// An ordered reader of one log.
#[derive(Debug)]
pub struct LogReader {
    _todo: (),
}

impl LogReader {
    /// The next message; waits for it. Cancel safe. See [`LogReader::next_chunk`] for the errors.
    pub async fn next(&mut self) -> Result<LogMessage, BusError> {
        unimplemented!()
    }

    /// At least one and at most `max` of the next messages; waits for the first only. Cancel safe.
    ///
    /// Lost connections and restarted servers are no errors: it waits and resumes behind the last message.
    /// Errors: [`BusError::LogChanged`] when the stream is another one or is shorter than what was read,
    /// [`BusError::NoStream`]; after an error, check the position and open a new reader.
    pub async fn next_chunk(&mut self, max: usize) -> Result<Vec<LogMessage>, BusError> {
        let _ = max;
        unimplemented!()
    }
}
