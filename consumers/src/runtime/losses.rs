//! Lost messages, gathered to stretches. Pure.

use bus_schema::{
    Timestamp,
    fact::log::{Loss, LossFound},
};

/// Stretches that are told one by one; of a log that lost more, the rest is told as one that says how many it means.
const STRETCHES_MAX: usize = 1_000;

/// Gathers what a log lost, in order of the sequences.
#[derive(Debug)]
pub(crate) struct Losses {
    stream: String,
    created: Timestamp,
    read_until: Timestamp,
    found: Vec<LossFound>,
}

impl Losses {
    /// Nothing is lost yet of a stream that was made then, of which everything was read that it had stored by then.
    pub(crate) fn of(stream: &str, created: Timestamp, read_until: Timestamp) -> Self {
        Self { stream: stream.to_owned(), created, read_until, found: Vec::new() }
    }

    /// The next message that is lost.
    pub(crate) fn push(&mut self, seq: u64, loss: Loss, covered: bool) {
        let unchained = u64::from(!covered);
        let is_full = self.found.len() >= STRETCHES_MAX;
        match self.found.last_mut() {
            Some(last) if last.last_seq + 1 == seq && last.loss == loss && last.scattered == 0 => {
                last.last_seq = seq;
                last.unchained += unchained;
            }
            Some(last) if is_full => {
                last.scattered = last.messages() + 1;
                last.last_seq = seq;
                last.unchained += unchained;
            }
            _ => {
                let read_until = Some(self.read_until);
                let found = LossFound::stretch(&self.stream, self.created, seq..=seq, loss);
                self.found.push(LossFound { unchained, read_until, ..found });
            }
        }
    }

    /// What is lost, in order.
    pub(crate) fn found(self) -> Vec<LossFound> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_are_one_stretch() {
        let mut losses = Losses::of("S", Timestamp::default(), Timestamp::default());
        for (seq, loss, covered) in [
            (4, Loss::Missing, true),
            (5, Loss::Missing, false),
            (6, Loss::Replaced, true),
            (9, Loss::Replaced, true),
        ] {
            losses.push(seq, loss, covered);
        }
        let found: Vec<_> =
            losses.found().into_iter().map(|loss| (loss.first_seq, loss.last_seq, loss.unchained)).collect();
        assert_eq!(found, [(4, 5, 1), (6, 6, 0), (9, 9, 0)]);
    }

    #[test]
    fn a_log_that_is_lost_all_over_is_told_in_bounded_words() {
        let mut losses = Losses::of("S", Timestamp::default(), Timestamp::default());
        (1..=5_000).for_each(|n| losses.push(n * 2, Loss::Missing, false));
        let found = losses.found();
        assert_eq!(found.len(), STRETCHES_MAX);
        assert_eq!(found.iter().map(LossFound::messages).sum::<u64>(), 5_000, "and not more than is lost");
        let rest = found.last().unwrap();
        assert_eq!((rest.first_seq, rest.last_seq, rest.scattered), (2_000, 10_000, 4_001));
        assert_eq!(found.iter().map(|loss| loss.unchained).sum::<u64>(), 5_000);
    }
}
