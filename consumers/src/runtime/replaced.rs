//! Messages that stand in a log in place of others: their loss is stated, and they were there when it was. A flipped bit
//! makes them of an event, whose copy stands further behind. Nobody sent them, so whoever projects a log from its
//! start, or follows its chains, passes them by: an event that nobody said would part the chain in two, and all that follows
//! be refused. What was stored later was given a lost sequence, and is as good as any message; so is what the live pool
//! read there. Must not know who projects.

use bus::{Bus, LogMessage};
use bus_schema::{
    Name, Stem, Timestamp,
    fact::log::{LogFact, Loss, LossFound},
    subject,
};
use projector::{DamageRecord, Reader, Store, StoreError};

use super::pump::CHUNK_EVENTS_MAX;
use crate::error::ConsumersError;

/// What is passed by in one log.
#[derive(Default)]
pub(crate) struct Replaced {
    stretches: Vec<Stretch>,
    /// The live pool, which knows what it read; none = nobody does.
    live: Option<Reader>,
}

/// Replaced messages next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    first_seq: u64,
    last_seq: u64,
    /// What stands there and was stored by then stood there when the loss was found.
    read_until: Timestamp,
}

impl Replaced {
    /// By what the live pool knows to be lost of a log that it has read, and what it read there. Errors: its file.
    pub(crate) fn of(live: &Store, stream: &str) -> Result<Self, ConsumersError> {
        let Some(position) = live.position(stream)? else { return Ok(Self::default()) };
        let known = Self::known(&live.reader().damages()?.value, stream, position.created);
        Ok(Self { live: Some(live.reader()), ..known })
    }

    /// By what is known to be lost of a log that was made then.
    pub(crate) fn known(damages: &[DamageRecord], stream: &str, created: Timestamp) -> Self {
        let losses = damages.iter().filter_map(DamageRecord::loss);
        Self::default().and(losses.filter(|loss| loss.stream == stream && loss.created == created))
    }

    /// And by these losses of the same log. Of one that is scattered nobody knows which messages it means.
    pub(crate) fn and<'a>(mut self, losses: impl IntoIterator<Item = &'a LossFound>) -> Self {
        let replaced = losses.into_iter().filter(|loss| loss.loss == Loss::Replaced && loss.scattered == 0);
        self.stretches.extend(replaced.filter_map(|loss| {
            let LossFound { first_seq, last_seq, read_until, .. } = *loss;
            Some(Stretch { first_seq, last_seq, read_until: read_until? })
        }));
        self.stretches.sort_unstable_by_key(|stretch| stretch.first_seq);
        self
    }

    /// Whether a message of this log stands in place of another one. Errors: the live pool's file.
    pub(crate) fn has(&self, message: &LogMessage) -> Result<bool, StoreError> {
        let seq = message.seq();
        let Some(live) = self.live.as_ref().filter(|_| self.states(seq, message.stored_at())) else {
            return Ok(self.states(seq, message.stored_at()));
        };
        let seal = live.seals(message.stream(), seq)?.and_then(|frame| frame.seal(seq));
        // The one that was passed by is passed by again, and so is every other one than the one that was read.
        Ok(seal.is_none_or(|seal| seal.is_passed() == seal.is_of(message.hash())))
    }

    /// Whether it is stated that what stands here since then stands in place of another message.
    pub(crate) fn states(&self, seq: u64, stored_at: Timestamp) -> bool {
        // Stretches may lie over each other: a log may lose the same sequences again.
        let begun = &self.stretches[..self.stretches.partition_point(|stretch| stretch.first_seq <= seq)];
        begun.iter().any(|stretch| seq <= stretch.last_seq && stored_at <= stretch.read_until)
    }
}

/// What is stated to be lost of a log behind the store's own place in the target log: of a store that is new or was away,
/// nobody else tells it before it reads that log. Errors: the bus, the store's file.
pub(crate) async fn stated_behind(
    bus: &Bus,
    store: &Store,
    target: &Name,
    stream: &str,
) -> Result<Vec<LossFound>, ConsumersError> {
    let (log, facts) =
        (subject::target_stream(target), subject::fact(target, Stem::Log, stream, "loss_found"));
    let known = store.position(&log)?.map_or(0, |position| position.seq);
    let last = bus.stream_state(&log).await?.last_seq;
    let mut losses = Vec::new();
    if known < last {
        let mut reader = bus.read_log(&log, known + 1, Some(&facts)).await?;
        while let Some(messages) = reader.next_stored(CHUNK_EVENTS_MAX, last).await? {
            losses.extend(messages.iter().filter_map(|message| {
                match LogFact::decode("loss_found", message.body()) {
                    Ok(LogFact::LossFound(loss)) => Some(loss),
                    _ => None,
                }
            }));
        }
    }
    Ok(losses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn loss(first_seq: u64, last_seq: u64, loss: Loss) -> LossFound {
        LossFound { read_until: Some(at(100)), ..LossFound::stretch("S", at(1), first_seq..=last_seq, loss) }
    }

    #[test]
    fn what_stood_at_a_replaced_place_is_passed_by_and_what_came_there_later_is_not() {
        let losses = [loss(4, 6, Loss::Replaced), loss(6, 9, Loss::Replaced), loss(12, 12, Loss::Missing)];
        let replaced = Replaced::default().and(&losses);
        let passed: Vec<_> = (1..20).filter(|seq| replaced.states(*seq, at(100))).collect();
        assert_eq!(passed, [4, 5, 6, 7, 8, 9]);
        assert!(!replaced.states(5, at(101)), "it was given a lost sequence");
    }

    #[test]
    fn nothing_is_passed_by_for_a_loss_that_does_not_say_when_or_which_messages_it_means() {
        let undated = LossFound { read_until: None, ..loss(4, 6, Loss::Replaced) };
        let scattered = LossFound { scattered: 2, ..loss(4, 6, Loss::Replaced) };
        assert!(!Replaced::default().and([&undated, &scattered]).states(5, at(50)));
    }
}
