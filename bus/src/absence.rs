//! Absence: when nats-server is believed that it does not have a message. It says "no message found" of a block that is
//! rotten, for ever, and of every block that it cannot open for want of file handles, for as long as it lacks them. It
//! takes no connection then either, for which it needs a handle too. So it is believed only when it says the same
//! again and again and has taken a new connection each time in between; what it does not have while it takes none is
//! nobody's loss yet, but an error that passes.
//!
//! What is asked for the sake of an answer that passes, too often to take seconds for each, is asked twice, with one new
//! connection in between ([`Bus::message_unless_unsure`]).
//!
//! Not told apart: a cluster whose new connections go to another server than the one that answers. Who states a loss
//! looks a second time. Must not know what is made of a message that is not there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Bus, BusError, LogMessage, StreamState};

/// How often the server must say that it does not have a message before it is believed.
const LOOKS: u32 = 3;
/// The time between a new connection and the next look: its handle is given back by then.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

impl Bus {
    /// One message of a stream by its sequence; none when the stream does not have it (any more), and is believed so.
    ///
    /// Takes some 2 s when there is none, unless the sequence is before the first or behind the last one. Errors: [`BusError::Unsure`], [`BusError::NoStream`], the link.
    pub async fn message_for_sure(&self, stream: &str, seq: u64) -> Result<Option<LogMessage>, BusError> {
        let found = self.message(stream, seq).await?;
        if found.is_some() || has_no_place(&self.stream_state(stream).await?, seq) {
            return Ok(found);
        }
        self.looked_for(stream, &json!({ "seq": seq })).await
    }

    /// The same for whoever asks often and states nothing: takes a new connection instead of seconds. Errors: as
    /// [`Bus::message_for_sure`].
    pub async fn message_unless_unsure(
        &self,
        stream: &str,
        seq: u64,
    ) -> Result<Option<LogMessage>, BusError> {
        let request = json!({ "seq": seq });
        self.looked_for_twice(stream, &request, |state| has_no_place(state, seq)).await
    }

    /// The latest message under a subject, in the same way.
    pub async fn last_message_unless_unsure(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<LogMessage>, BusError> {
        let request = json!({ "last_by_subj": subject });
        self.looked_for_twice(stream, &request, |state| state.messages == 0).await
    }

    /// The first message at `seq` or behind it under a subject filter, in the same way.
    pub(crate) async fn next_message_unless_unsure(
        &self,
        stream: &str,
        seq: u64,
        filter: &str,
    ) -> Result<Option<LogMessage>, BusError> {
        let request = json!({ "seq": seq, "next_by_subj": filter });
        self.looked_for_twice(stream, &request, |state| state.last_seq < seq).await
    }

    /// Asks, and behind a new connection once more, unless the stream's state says without a file that it has no place.
    async fn looked_for_twice(
        &self,
        stream: &str,
        request: &Value,
        has_no_place: impl Fn(&StreamState) -> bool + Send,
    ) -> Result<Option<LogMessage>, BusError> {
        let found = self.stored(stream, request).await?;
        if found.is_some() || has_no_place(&self.stream_state(stream).await?) {
            return Ok(found);
        }
        self.has_handles(stream).await?;
        self.stored(stream, request).await
    }

    /// The latest message under a subject (wildcards allowed); none when there is none, and that is believed. As
    /// [`Bus::message_for_sure`].
    pub async fn last_message_for_sure(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<LogMessage>, BusError> {
        self.looked_for(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The first message at `seq` or behind it under a subject filter; none when that is believed. As
    /// [`Bus::message_for_sure`].
    pub(crate) async fn next_message_for_sure(
        &self,
        stream: &str,
        seq: u64,
        filter: &str,
    ) -> Result<Option<LogMessage>, BusError> {
        self.looked_for(stream, &json!({ "seq": seq, "next_by_subj": filter })).await
    }

    async fn looked_for(&self, stream: &str, request: &Value) -> Result<Option<LogMessage>, BusError> {
        for look in 1..=LOOKS {
            let found = self.stored(stream, request).await?;
            if found.is_some() || look == LOOKS || self.stream_state(stream).await?.messages == 0 {
                return Ok(found);
            }
            self.has_handles(stream).await?;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(None)
    }

    /// Whether the server can open files now, as far as that shows: it takes a new connection.
    ///
    /// Errors: [`BusError::Unsure`], when it takes none.
    pub(crate) async fn has_handles(&self, stream: &str) -> Result<(), BusError> {
        let taken = self.takes_connections().await;
        taken.map_err(|source| BusError::Unsure { stream: stream.to_owned(), source })
    }
}

/// Whether a sequence is before the first or behind the last one of a stream, which the server knows without a file.
fn has_no_place(state: &StreamState, seq: u64) -> bool {
    state.messages == 0 || seq < state.first_seq || state.last_seq < seq
}
