//! Messages that stand in a log in place of others: its loss is stated, and they are not what the pool read there. A flipped
//! bit makes them of an event, and a copy of that stands further behind. Whoever projects a log anew passes them by, like
//! what is gone: an event that nobody said would part the chain in two, and all that follows be refused. What was given a lost
//! sequence and read there is no such message. Must not know who projects.

use bus::LogMessage;
use bus_schema::fact::log::{Loss, LossFound};
use projector::{DamageFound, Frame, Reader, Store};

use crate::error::ConsumersError;

/// What is passed by in one log.
pub(crate) struct Replaced {
    stream: String,
    /// First and last sequences, in order, apart from each other.
    stretches: Vec<(u64, u64)>,
    /// How far the pool has read the log: of what is behind, it can tell nothing.
    read_seq: u64,
    /// The live pool.
    reader: Reader,
    frame: Option<Frame>,
}

impl Replaced {
    /// By what is stated, and what the live pool read. Errors: its file.
    pub(crate) fn of(live: &Store, stream: &str) -> Result<Self, ConsumersError> {
        let (reader, position) = (live.reader(), live.position(stream)?);
        let damages = if position.is_some() { reader.damages()?.value } else { Vec::new() };
        let is_meant = |loss: &LossFound| {
            let created = position.as_ref().map(|position| position.created);
            loss.loss == Loss::Replaced && loss.stream == stream && Some(loss.created) == created
        };
        let losses = damages.into_iter().filter_map(|record| match record.found {
            DamageFound::Loss(loss) if is_meant(&loss) => Some((loss.first_seq, loss.last_seq)),
            DamageFound::Loss(_) | DamageFound::Gap(_) => None,
        });
        let stretches = joined(losses.collect());
        let read_seq = position.as_ref().map_or(0, |position| position.seq);
        Ok(Self { stream: stream.to_owned(), stretches, read_seq, reader, frame: None })
    }

    /// A part of the log without them. Errors: the live pool's file.
    pub(crate) fn pass_by(&mut self, messages: Vec<LogMessage>) -> Result<Vec<LogMessage>, ConsumersError> {
        if self.stretches.is_empty() {
            return Ok(messages);
        }
        let mut others = Vec::with_capacity(messages.len());
        for message in messages {
            if self.has(&message)? {
                tracing::warn!(
                    stream = self.stream,
                    seq = message.seq(),
                    "passed by: it stands in place of another message, which is stated"
                );
            } else {
                others.push(message);
            }
        }
        Ok(others)
    }

    fn has(&mut self, message: &LogMessage) -> Result<bool, ConsumersError> {
        let seq = message.seq();
        let behind = self.stretches.partition_point(|(first, _)| *first <= seq);
        let is_stated = behind.checked_sub(1).is_some_and(|at| seq <= self.stretches[at].1);
        if seq > self.read_seq || !is_stated {
            return Ok(false);
        }
        if self.frame.as_ref().is_none_or(|frame| !frame.covers(seq)) {
            self.frame = self.reader.seals(&self.stream, seq)?;
        }
        let seal = self.frame.as_ref().and_then(|frame| frame.seal(seq));
        // Without a seal, the live pool passed it by when it was projected anew itself.
        Ok(seal.is_none_or(|seal| !seal.is_of(message.hash())))
    }
}

/// The same sequences in order, each in one stretch: a log may have lost them more than once.
fn joined(mut stretches: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    stretches.sort_unstable();
    stretches.dedup_by(|next, last| {
        let is_joined = next.0 <= last.1.saturating_add(1);
        if is_joined {
            last.1 = last.1.max(next.1);
        }
        is_joined
    });
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_more_than_once_is_one_stretch() {
        assert_eq!(joined(vec![(9, 9), (2, 4), (3, 7), (8, 8), (12, 12)]), [(2, 9), (12, 12)]);
        assert_eq!(joined(vec![]), []);
    }
}
