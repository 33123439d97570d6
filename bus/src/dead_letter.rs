//! What a dead letter looks like on the wire: the original payload and headers, and in headers of its
//! own the reason, the JSON path, and where the original stands.
//!
//! | header | value |
//! |---|---|
//! | `Farside-Reason` | why it could not be taken in, and what to do (one line) |
//! | `Farside-Path` | JSON path or header of the fault |
//! | `Farside-Origin` | `stream:seq` of the original |
//! | `Farside-Origin-Subject` | the subject of the original |
//! | `Farside-Consumer` | who could not take it in |
//! | `Nats-Msg-Id` | `stream:seq/consumer`, so it is stored once |
//!
//! The original's own headers follow as they were, except `Nats-…`, which become `Farside-Nats-…`.

use bus_schema::Name;

use crate::{LogMessage, Outgoing};

/// Why a message cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The target whose dead letters it joins.
    pub target: &'a Name,
    /// Who could not take it in.
    pub consumer: &'a Name,
    /// Why, and what to do.
    pub reason: &'a str,
    /// JSON path or header of the fault.
    pub path: &'a str,
}

impl DeadLetter<'_> {
    /// The dead letter of `original`, to be published to
    /// [`dead_letter_stream`](bus_schema::subject::dead_letter_stream) before the original is given up.
    pub fn of(&self, original: &LogMessage) -> Outgoing {
        let _ = original;
        unimplemented!()
    }
}
