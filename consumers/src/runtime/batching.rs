//! When a batch is committed. Pure: the age of the batch is an argument.
//!
//! Up to date, what counts is how soon an event is visible: commit as soon as nothing else waits, at the
//! latest after 20 ms. Behind, what counts is the rate, and a commit's cost (fsync, checksums of the touched
//! pages) is shared by all its events: let the batch grow to its limits.

use std::time::Duration;

/// Most messages in one batch: larger ones were no faster in the measurement (0.65 of the raw read rate).
pub const BATCH_EVENTS_MAX: usize = 200_000;
/// Most memory that one batch may hold, in bytes; two of them exist at a time (parse and commit).
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// The oldest that a batch gets while the pool is up to date.
pub const BATCH_AGE_MAX: Duration = Duration::from_millis(20);
/// The oldest that a batch gets while the pool is behind: a slow link must not hide everything for long.
pub const BATCH_AGE_BEHIND_MAX: Duration = Duration::from_secs(1);

/// What is known when the question comes up.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// Messages in the batch.
    pub events: usize,
    /// Its memory, in bytes.
    pub bytes: usize,
    /// The time since its first message came.
    pub age: Duration,
    /// Whether more messages wait to be put into it.
    pub more_waits: bool,
    /// Whether the log is known to hold much more.
    pub behind: bool,
}

/// What to do with the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// There is nothing to commit.
    Empty,
    /// It may grow for so long yet.
    After(Duration),
    /// Commit it as soon as the committer is free; until then it may go on growing.
    Due,
    /// Commit it before anything else is put into it.
    Full,
}

impl Filling {
    /// What to do with the batch.
    pub fn cut(self) -> Cut {
        if self.events == 0 {
            return Cut::Empty;
        }
        if self.events >= BATCH_EVENTS_MAX || self.bytes >= BATCH_BYTES_MAX {
            return Cut::Full;
        }
        let age_max = if self.behind { BATCH_AGE_BEHIND_MAX } else { BATCH_AGE_MAX };
        let idle = !self.behind && !self.more_waits;
        match age_max.checked_sub(self.age) {
            Some(left) if !idle && !left.is_zero() => Cut::After(left),
            _ => Cut::Due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Filling =
        Filling { events: 1, bytes: 100, age: Duration::from_millis(5), more_waits: true, behind: false };

    #[test]
    fn an_idle_log_is_committed_at_once() {
        assert_eq!(Filling { more_waits: false, ..YOUNG }.cut(), Cut::Due);
    }

    #[test]
    fn a_busy_log_is_committed_after_twenty_milliseconds() {
        assert_eq!(YOUNG.cut(), Cut::After(Duration::from_millis(15)));
        assert_eq!(Filling { age: BATCH_AGE_MAX, ..YOUNG }.cut(), Cut::Due);
    }

    #[test]
    fn a_pool_that_is_behind_lets_the_batch_grow_to_its_limits() {
        let behind = Filling { behind: true, more_waits: false, age: Duration::from_millis(900), ..YOUNG };
        assert_eq!(behind.cut(), Cut::After(Duration::from_millis(100)));
        assert_eq!(Filling { age: BATCH_AGE_BEHIND_MAX, ..behind }.cut(), Cut::Due);
        assert_eq!(Filling { events: BATCH_EVENTS_MAX, ..behind }.cut(), Cut::Full);
        assert_eq!(Filling { bytes: BATCH_BYTES_MAX, ..behind }.cut(), Cut::Full);
    }

    #[test]
    fn an_empty_batch_is_never_committed() {
        assert_eq!(Filling { events: 0, more_waits: false, ..YOUNG }.cut(), Cut::Empty);
    }
}
