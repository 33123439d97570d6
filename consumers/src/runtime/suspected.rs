//! What one reading of a log found, as the next one is held against it: a fact stays for ever, so a loss counts when two
//! readings in a row find it. It is the sequences that must agree, not the words: a log that goes on gives lost
//! sequences to new messages, so what was missing is replaced a moment later, and is lost in both. Pure.

use bus_schema::fact::log::{GapFound, LogFact, LossFound};

/// What a reading suspects.
#[derive(Debug, Default)]
pub(super) struct Suspected {
    /// In order of the sequences, as a reading finds them.
    losses: Vec<LossFound>,
    gaps: Vec<GapFound>,
}

impl Suspected {
    /// What a reading found.
    pub(super) fn of(facts: &[LogFact]) -> Self {
        let mut suspected = Self::default();
        for fact in facts {
            match fact {
                LogFact::LossFound(loss) => suspected.losses.push(loss.clone()),
                LogFact::GapFound(gap) => suspected.gaps.push(gap.clone()),
                _ => {}
            }
        }
        suspected
    }

    /// How many losses and gaps there are.
    pub(super) fn count(&self) -> usize {
        self.losses.len() + self.gaps.len()
    }

    /// Whether the next reading found nothing that this one had not found; what states no loss is nothing.
    pub(super) fn has(&self, fact: &LogFact) -> bool {
        match fact {
            LogFact::LossFound(loss) => self.has_lost(loss),
            LogFact::GapFound(gap) => self.gaps.iter().any(|known| known.is_of_the_same(gap)),
            _ => true,
        }
    }

    /// Whether each sequence of a loss is in losses of this reading, and no more of them than these count.
    fn has_lost(&self, loss: &LossFound) -> bool {
        let (mut next, mut messages) = (loss.first_seq, 0);
        for known in &self.losses {
            if known.first_seq <= next && next <= known.last_seq {
                next = known.last_seq + 1;
                messages += known.messages();
            }
        }
        next > loss.last_seq && loss.messages() <= messages
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::{Timestamp, fact::log::Loss};

    use super::*;

    fn loss(first_seq: u64, last_seq: u64, loss: Loss) -> LogFact {
        LogFact::LossFound(LossFound::stretch("S", Timestamp::default(), first_seq..=last_seq, loss))
    }

    fn scattered(first_seq: u64, last_seq: u64, scattered: u64) -> LogFact {
        match loss(first_seq, last_seq, Loss::Missing) {
            LogFact::LossFound(found) => LogFact::LossFound(LossFound { scattered, ..found }),
            other => other,
        }
    }

    #[test]
    fn what_only_one_reading_found_does_not_count_and_what_two_found_does() {
        let suspected = Suspected::of(&[loss(2, 3, Loss::Missing), loss(5, 5, Loss::Missing)]);
        assert!(suspected.has(&loss(2, 3, Loss::Missing)) && suspected.has(&loss(3, 3, Loss::Missing)));
        assert!(!suspected.has(&loss(5, 6, Loss::Missing)), "6 was there");
        assert!(!suspected.has(&loss(2, 5, Loss::Missing)), "4 was there");
        assert!(!suspected.has(&loss(9, 9, Loss::Missing)));
        assert!(!Suspected::default().has(&loss(1, 1, Loss::Replaced)));
    }

    #[test]
    fn lost_sequences_that_are_given_to_new_messages_meanwhile_stay_lost() {
        let suspected = Suspected::of(&[loss(111, 335, Loss::Replaced), loss(336, 1_386, Loss::Missing)]);
        for now in [loss(111, 380, Loss::Replaced), loss(381, 1_386, Loss::Missing)] {
            assert!(suspected.has(&now), "{now:?}");
        }
        assert!(!suspected.has(&loss(381, 1_387, Loss::Missing)));
    }

    #[test]
    fn of_a_log_that_is_lost_all_over_not_more_counts_than_both_readings_found() {
        let suspected = Suspected::of(&[loss(1, 1, Loss::Missing), scattered(3, 900, 400)]);
        assert!(suspected.has(&scattered(3, 900, 400)) && suspected.has(&scattered(3, 890, 399)));
        assert!(!suspected.has(&scattered(3, 900, 401)) && !suspected.has(&scattered(3, 901, 400)));
        assert!(
            !Suspected::of(&[scattered(3, 900, 400)]).has(&loss(3, 900, Loss::Missing)),
            "it has 898 of them"
        );
    }
}
