//! Positions: whether a log still is what a reader remembers of it. Sequences can be used twice after
//! damage, so a position is the stream, its creation time, the sequence and the message's hash.
//!
//! Compared are the ends of the log and the message at the position. Messages that are missing *between* others
//! change neither, and a position remembers no count of them: they are told as a warning at each check, which
//! does not tell old ones from new ones, nor those behind the position from those before it. What an agent sent
//! and the log lost before it was read is found by its chain (`log.gap_found`).
//!
//! A message at the position that cannot be read is believed to be gone only for good reason (`absence.rs`). Then the
//! log counts as another one even though its ends fit: what was read last is the one thing that ties the reader to
//! this log. Read again from its start nothing is taken in twice; gone on with, sequences that were given out anew
//! would be taken for read.

use bus_schema::{Hash32, Timestamp};

use crate::{Bus, BusError, StreamState};

/// What a reader remembers of the last message that it took in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream: String,
    /// When the stream was made.
    pub created: Timestamp,
    /// The sequence of the last message that was taken in; 0 = none yet.
    pub seq: u64,
    /// That message's [`LogMessage::hash`](crate::LogMessage::hash); [`Hash32::ZERO`] for none yet.
    pub hash: Hash32,
}

/// What the log says about a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PositionVerdict {
    /// The log still holds what was read: go on at `seq + 1`.
    Same(StreamState),
    /// It does not.
    Rewound {
        /// What differs, in words.
        reason: String,
        /// What the stream holds now.
        state: StreamState,
    },
}

impl Bus {
    /// Compares a remembered position with the log. Errors: [`BusError::NoStream`], [`BusError::Unsure`], the link.
    pub async fn check_position(&self, position: &Position) -> Result<PositionVerdict, BusError> {
        let state = self.stream_state(&position.stream).await?;
        if state.deleted > 0 {
            let (stream, deleted) = (&position.stream, state.deleted);
            tracing::warn!(
                stream,
                deleted,
                "the log lacks messages between its first and its last one, which nothing of Farside deletes: look \
                 at the disk; 'farside rebuild' shows whether the pool differs from what is left"
            );
        }
        let found = if position.seq == 0 || out_of_range(position, &state).is_some() {
            None
        } else {
            let found = self.message_for_sure(&position.stream, position.seq).await?;
            found.map(|message| message.hash())
        };
        Ok(match mismatch(position, &state, found) {
            None => PositionVerdict::Same(state),
            Some(reason) => PositionVerdict::Rewound { reason, state },
        })
    }
}

fn out_of_range(position: &Position, state: &StreamState) -> Option<String> {
    let Position { created, seq, .. } = position;
    if state.created != *created {
        return Some(format!("the stream was made anew at {}, not at {created}", state.created));
    }
    if state.last_seq < *seq {
        return Some(format!("its last sequence is {}, but {seq} was read already", state.last_seq));
    }
    if state.first_seq > seq + 1 {
        return Some(format!("it starts at sequence {}, so what follows {seq} is gone", state.first_seq));
    }
    None
}

fn mismatch(position: &Position, state: &StreamState, found: Option<Hash32>) -> Option<String> {
    let seq = position.seq;
    if let Some(reason) = out_of_range(position, state) {
        return Some(reason);
    }
    if seq == 0 {
        return None;
    }
    match found {
        Some(hash) if hash == position.hash => None,
        Some(_) => Some(format!("another message stands at sequence {seq}")),
        None => Some(format!("the message at sequence {seq} is gone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(first_seq: u64, last_seq: u64) -> StreamState {
        StreamState {
            stream: "LOG".to_owned(),
            created: Timestamp::from_unix_ms(1),
            first_seq,
            last_seq,
            messages: last_seq,
            deleted: 0,
            bytes: 0,
            bytes_max: None,
        }
    }

    #[test]
    fn every_way_in_which_a_log_can_differ_is_a_mismatch() {
        let hash = Hash32([1; 32]);
        let at = |seq| Position { stream: "LOG".to_owned(), created: Timestamp::from_unix_ms(1), seq, hash };
        assert_eq!(mismatch(&at(0), &state(1, 0), None), None);
        assert_eq!(mismatch(&at(5), &state(1, 9), Some(hash)), None);
        let other = Position { created: Timestamp::from_unix_ms(2), ..at(5) };
        for (position, state, found, why) in [
            (other, state(1, 9), Some(hash), "made anew"),
            (at(5), state(1, 4), None, "last sequence"),
            (at(5), state(7, 9), None, "starts at"),
            (at(5), state(1, 9), None, "gone"),
            (at(5), state(1, 9), Some(Hash32::ZERO), "another message"),
            (at(0), state(2, 9), None, "starts at"),
        ] {
            let reason = mismatch(&position, &state, found).unwrap();
            assert!(reason.contains(why), "{why}: {reason}");
        }
    }
}
