//! Several logs read as one: what they hold in the order of its times, then what comes as it comes. Reads only when the
//! next message is asked for, so that whoever is slow makes nothing wait here.

use std::collections::VecDeque;

use bus::{Bus, BusError, LogMessage, LogReader, StreamState};
use bus_schema::Timestamp;
use futures_util::future::{BoxFuture, select_all};

/// Messages that are taken from a log at once.
const CHUNK: usize = 64;

/// Which part of the logs is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// From the first message that a log stored then or later; none = what comes from now on if it is followed, else all.
    pub(crate) since: Option<Timestamp>,
    /// Up to the last one that it stored then or before.
    pub(crate) until: Option<Timestamp>,
    /// What comes later too, for ever.
    pub(crate) follow: bool,
}

/// Logs that are being read.
pub(crate) struct Reading {
    logs: Vec<Log>,
    span: Span,
}

/// One of them.
struct Log {
    reader: LogReader,
    /// Read, and not given out.
    ahead: VecDeque<LogMessage>,
    /// The last message that was there when reading began; 0 = none was.
    last_seq: u64,
    /// How far it was read.
    read_seq: u64,
}

impl Reading {
    /// Opens logs, each with its filter of subjects. Errors: [`BusError::NoStream`], the link.
    pub(crate) async fn open(bus: &Bus, wanted: &[(String, String)], span: Span) -> Result<Self, BusError> {
        let mut logs = Vec::new();
        for (stream, subjects) in wanted {
            let state = bus.stream_state(stream).await?;
            let from = first(bus, &state, span).await?;
            let last =
                bus.last_message_unless_unsure(stream, subjects).await?.map_or(0, |message| message.seq());
            let reader = bus.read_log(stream, from, Some(subjects)).await?.in_small_steps();
            logs.push(Log {
                reader,
                ahead: VecDeque::new(),
                last_seq: last,
                read_seq: from.saturating_sub(1),
            });
        }
        Ok(Self { logs, span })
    }

    /// The next message; none = there are no more, and later ones are not wanted. Cancel safe.
    ///
    /// Lost connections and restarted servers are waited out. Errors: a log is not any more what was read of it.
    pub(crate) async fn next(&mut self) -> Result<Option<LogMessage>, BusError> {
        loop {
            for log in self.logs.iter_mut().filter(|log| log.ahead.is_empty() && log.read_seq < log.last_seq)
            {
                log.read_stored().await?;
            }
            let first = self.logs.iter_mut().filter(|log| !log.ahead.is_empty());
            let first = first.min_by_key(|log| log.ahead.front().map(LogMessage::stored_at));
            match first.and_then(|log| log.ahead.pop_front()) {
                Some(message) if self.span.until.is_none_or(|until| message.stored_at() <= until) => {
                    return Ok(Some(message));
                }
                Some(message) => self.logs.retain(|log| !log.reader.is_of(message.stream())),
                None if !self.span.follow || self.logs.is_empty() => return Ok(None),
                None => self.wait().await?,
            }
        }
    }

    /// Waits for any log.
    async fn wait(&mut self) -> Result<(), BusError> {
        let waits = self.logs.iter_mut().map(|log| -> BoxFuture<'_, _> { Box::pin(log.read()) });
        select_all(waits).await.0
    }
}

impl Log {
    /// What was there when reading began; NATS may not be able to read the last of it any more.
    async fn read_stored(&mut self) -> Result<(), BusError> {
        let chunk = self.reader.next_stored(CHUNK, self.last_seq).await?.unwrap_or_default();
        self.read_seq = chunk.last().map_or(self.last_seq, LogMessage::seq);
        self.ahead.extend(chunk);
        Ok(())
    }

    async fn read(&mut self) -> Result<(), BusError> {
        let chunk = self.reader.next_chunk(CHUNK).await?;
        self.read_seq = chunk.last().map_or(self.read_seq, LogMessage::seq);
        self.ahead.extend(chunk);
        Ok(())
    }
}

/// Where reading begins.
async fn first(bus: &Bus, state: &StreamState, span: Span) -> Result<u64, BusError> {
    match span.since {
        Some(since) => Ok(bus.last_stored(state, |stored_at| stored_at < since).await? + 1),
        None if span.follow => Ok(state.last_seq + 1),
        None => Ok(state.first_seq),
    }
}
