//! When outstanding changes make the third request due (R6), and when a storm must wait.
//!
//! Pure and of flat cost: the projector counts, this compares. Hysteresis: after a third request the
//! guard rests, so that a storm makes one sync at a time; when the same limits are still crossed after
//! the sync, the source cannot mend it, and the rest doubles instead of asking in a circle.

use bus_schema::Timestamp;

use super::schedule::after;

/// Doublings of the rest after which it grows no more (64 times the first).
const REST_DOUBLINGS_MAX: u32 = 6;

/// The limits of one pool; none = that limit is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Changes since the last sync, full pushes and notices alike.
    pub changes_max: Option<u64>,
    /// Bytes of state since the last sync, pushed or announced.
    pub bytes_max: Option<u64>,
    /// Age of the oldest notice whose state the pool lacks, in milliseconds.
    pub age_ms_max: Option<u64>,
    /// How long the guard rests after a third request, in milliseconds.
    pub rest_ms: u64,
}

/// What happened to an owner since its last synchronisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinceSync {
    /// Changes, full pushes and notices alike.
    pub changes: u64,
    /// Bytes of state, pushed or announced.
    pub bytes: u64,
    /// Notices whose state the pool lacks.
    pub outstanding: u64,
    /// When the log stored the oldest of these notices.
    pub oldest_outstanding: Option<Timestamp>,
}

impl Limits {
    /// Whether the amount of updated data exceeds a limit.
    pub fn crossed(&self, since: &SinceSync, now: Timestamp) -> bool {
        let over = |limit: Option<u64>, value: u64| limit.is_some_and(|limit| value > limit);
        let age_ms = since.oldest_outstanding.map_or(0, |oldest| now.ms_since(oldest));
        over(self.changes_max, since.changes)
            || over(self.bytes_max, since.bytes)
            || over(self.age_ms_max, age_ms)
    }

    /// When the age of the oldest notice will cross its limit, if nothing else happens.
    pub fn crosses_at(&self, since: &SinceSync) -> Option<Timestamp> {
        Some(after(since.oldest_outstanding?, self.age_ms_max?.saturating_add(1)))
    }
}

/// The hysteresis of one owner's third request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    rests_until: Timestamp,
    fruitless: u32,
}

impl Guard {
    /// Whether a third request may go out.
    pub fn is_ready(&self, now: Timestamp) -> bool {
        self.rests_until <= now
    }

    /// When the guard is ready again.
    pub const fn ready_at(&self) -> Timestamp {
        self.rests_until
    }

    /// A third request has ended; `still_crossed` tells whether it changed anything.
    #[must_use]
    pub fn after_request(self, limits: &Limits, still_crossed: bool, now: Timestamp) -> Self {
        let fruitless = if still_crossed { (self.fruitless + 1).min(REST_DOUBLINGS_MAX) } else { 0 };
        Self { rests_until: after(now, limits.rest_ms.saturating_mul(1 << fruitless)), fruitless }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { changes_max: Some(100), bytes_max: Some(1_000), age_ms_max: Some(60_000), rest_ms: 5_000 };

    fn ms(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    #[test]
    fn r6_each_limit_alone_is_enough_and_only_when_exceeded() {
        let crossed = |changes, bytes, oldest: Option<i64>| {
            let oldest_outstanding = oldest.map(ms);
            LIMITS.crossed(&SinceSync { changes, bytes, outstanding: 1, oldest_outstanding }, ms(100_000))
        };
        assert!(!crossed(100, 1_000, Some(40_000)));
        assert!(crossed(101, 0, None) && crossed(0, 1_001, None) && crossed(0, 0, Some(39_999)));
    }

    #[test]
    fn r6_a_limit_that_is_off_is_never_crossed() {
        let off = Limits { changes_max: None, bytes_max: None, age_ms_max: None, rest_ms: 0 };
        let flood =
            SinceSync { changes: u64::MAX, bytes: u64::MAX, outstanding: 9, oldest_outstanding: Some(ms(0)) };
        assert!(!off.crossed(&flood, ms(i64::MAX)));
        assert_eq!(off.crosses_at(&flood), None);
    }

    #[test]
    fn r6_after_a_request_the_guard_rests() {
        let guard = Guard::default();
        assert!(guard.is_ready(ms(0)));
        let guard = guard.after_request(&LIMITS, false, ms(1_000));
        assert!(!guard.is_ready(ms(5_999)) && guard.is_ready(ms(6_000)));
    }

    #[test]
    fn r6_a_request_that_changes_nothing_doubles_the_rest_up_to_a_cap() {
        let mut guard = Guard::default();
        let rest = |guard: Guard| guard.ready_at().ms_since(ms(0));
        let rests: Vec<_> = (0..8)
            .map(|_| {
                guard = guard.after_request(&LIMITS, true, ms(0));
                rest(guard)
            })
            .collect();
        assert_eq!(rests, [10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 320_000, 320_000]);
        assert_eq!(rest(guard.after_request(&LIMITS, false, ms(0))), 5_000);
    }
}
