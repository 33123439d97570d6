//! The empty guard: a reading that lost most of what was known is not believed at once. A mount that
//! came up empty, a query with the wrong account, a half-finished restore all look like deletion.
//!
//! A loss of most is believed when several readings agree. A loss of everything is not: no number of readings
//! tells an empty source from one that shows nothing, so the source has to say that it is empty on purpose.

/// Readings in a row that must agree before the loss of most is believed.
pub const READINGS: u32 = 3;
/// A loss of fewer resources than this is everyday work, unless nothing is left.
pub const LOST_MIN: u64 = 10;
/// A loss of more than this share of what was known is held, in percent.
pub const LOST_PERCENT_MAX: u64 = 50;

/// What a reading counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Resources known before.
    pub known: u64,
    /// Those of them that the reading did not find.
    pub lost: u64,
}

impl Count {
    /// Whether the loss is too great to be believed at once.
    pub const fn is_great(self) -> bool {
        let all = self.lost == self.known;
        let most = self.lost >= LOST_MIN && self.lost * 100 > self.known * LOST_PERCENT_MAX;
        self.lost > 0 && (all || most)
    }
}

/// Counts the readings in a row that found a great loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    seen: u32,
}

/// Whether the deletions of a reading are sequenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are.
    Pass,
    /// Not yet; the text says why, and what lets them pass.
    Hold(String),
}

impl Guard {
    /// Judges a reading. `counts`: it was made by the timer; those that somebody asked for are no
    /// independent witnesses.
    pub fn judge(&mut self, count: Count, explicit_empty: bool, counts: bool) -> Verdict {
        if !count.is_great() || (explicit_empty && count.lost == count.known) {
            if counts {
                self.seen = 0;
            }
            return Verdict::Pass;
        }
        let Count { known, lost } = count;
        if lost == known {
            // Nor is it a witness that most is gone, should something come back.
            self.seen = 0;
            return Verdict::Hold(format!(
                "all {known} resources are missing; they are kept until some come back, or the source says that it is \
                 empty on purpose"
            ));
        }
        if counts {
            self.seen += 1;
        }
        if self.seen >= READINGS {
            self.seen = 0;
            return Verdict::Pass;
        }
        Verdict::Hold(format!(
            "{lost} of {known} resources are missing at once; their deletion waits until {READINGS} readings in a row \
             agree ({} so far)",
            self.seen
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Hold(_))
    }

    #[test]
    fn an_empty_inventory_is_never_believed_without_an_explicit_empty() {
        let mut guard = Guard::default();
        let empty = Count { known: 3, lost: 3 };
        assert!((0..=2 * READINGS).all(|_| held(&guard.judge(empty, false, true))));
        assert!(
            held(&guard.judge(Count { known: 30, lost: 20 }, false, true)),
            "what was empty is no witness"
        );
        assert_eq!(guard.judge(empty, true, false), Verdict::Pass);
    }

    #[test]
    fn the_loss_of_most_is_believed_at_the_third_reading_only() {
        let mut guard = Guard::default();
        let most = Count { known: 30, lost: 20 };
        assert!(held(&guard.judge(most, false, true)));
        assert!(held(&guard.judge(most, false, false)), "a requested reading is no witness");
        assert!(held(&guard.judge(most, false, true)));
        assert_eq!(guard.judge(most, false, true), Verdict::Pass);
    }

    #[test]
    fn an_explicit_empty_passes_at_once_and_a_good_reading_starts_the_count_again() {
        let mut guard = Guard::default();
        assert_eq!(guard.judge(Count { known: 3, lost: 3 }, true, true), Verdict::Pass);
        let most = Count { known: 20, lost: 11 };
        assert!(held(&guard.judge(most, true, true)), "most of it is not what was said to be empty");
        assert_eq!(guard.judge(Count { known: 20, lost: 10 }, false, true), Verdict::Pass);
        assert!(held(&guard.judge(most, false, true)) && held(&guard.judge(most, false, true)));
        assert_eq!(guard.judge(most, false, true), Verdict::Pass);
    }

    #[test]
    fn everyday_deletions_pass() {
        for (known, lost) in [(0, 0), (10, 1), (12, 9), (1000, 500)] {
            assert!(!Count { known, lost }.is_great(), "{lost} of {known}");
        }
    }
}
