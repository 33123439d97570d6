//! When outstanding changes make the third request due (R6), and when a storm must wait.
//!
//! Pure and of flat cost: the projector counts, this compares. Hysteresis: after a third request the
//! guard rests, so that a storm makes one sync at a time; when the same limits are still crossed after
//! the sync, the source cannot mend it, and the rest doubles instead of asking in a circle.
//!
//! The amount is that of the source cluster, over all who publish for it. Only agents can be asked, so each
//! of them is, once; the end of an agent's answer resets what other publishers told, too (in the projector).

use std::collections::BTreeSet;

use bus_schema::{Source, Timestamp};

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

    /// After the clock was set back, no rest is longer than it was made.
    #[must_use]
    fn set_right(self, limits: &Limits, now: Timestamp) -> Self {
        let longest = after(now, limits.rest_ms.saturating_mul(1 << self.fruitless));
        Self { rests_until: self.rests_until.min(longest), ..self }
    }

    /// A third request has ended; `still_crossed` tells whether it changed anything.
    #[must_use]
    pub fn after_request(self, limits: &Limits, still_crossed: bool, now: Timestamp) -> Self {
        let fruitless = if still_crossed { (self.fruitless + 1).min(REST_DOUBLINGS_MAX) } else { 0 };
        Self { rests_until: after(now, limits.rest_ms.saturating_mul(1 << fruitless)), fruitless }
    }
}

impl std::ops::AddAssign for SinceSync {
    fn add_assign(&mut self, other: Self) {
        self.changes = self.changes.saturating_add(other.changes);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.outstanding = self.outstanding.saturating_add(other.outstanding);
        self.oldest_outstanding =
            [self.oldest_outstanding, other.oldest_outstanding].into_iter().flatten().min();
    }
}

/// What happened in a source cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// What its agents told since their last syncs.
    pub agents: SinceSync,
    /// What its other publishers told since the last sync of an agent: nobody can synchronise with them.
    pub others: SinceSync,
}

impl Amount {
    /// What was told since the last synchronisation of the cluster.
    pub fn told(&self) -> SinceSync {
        let Self { agents, others } = self;
        SinceSync {
            changes: agents.changes.saturating_add(others.changes),
            bytes: agents.bytes.saturating_add(others.bytes),
            // A notice of a publisher that nobody can ask stays outstanding whatever is asked.
            ..*agents
        }
    }
}

/// The third requests of one source cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Storm {
    guard: Guard,
    /// The agents that are still to be asked.
    waiting: BTreeSet<Source>,
}

impl Storm {
    /// Looks whether a limit is exceeded; then every agent of `able` is to be asked.
    pub fn look(
        &mut self,
        limits: &Limits,
        amount: &Amount,
        able: impl Iterator<Item = Source>,
        now: Timestamp,
    ) {
        self.guard = self.guard.set_right(limits, now);
        if self.waiting.is_empty() && self.guard.is_ready(now) && limits.crossed(&amount.told(), now) {
            self.waiting = able.collect();
        }
    }

    /// Whether the agent is still to be asked.
    pub fn is_due(&self, agent: &Source) -> bool {
        self.waiting.contains(agent)
    }

    /// The agent's answer is there, or it gave none. After the last one the storm rests.
    pub fn had_its_turn(&mut self, agent: &Source, limits: &Limits, amount: &Amount, now: Timestamp) {
        if self.waiting.remove(agent) && self.waiting.is_empty() {
            let still_crossed = limits.crossed(&amount.told(), now);
            self.guard = self.guard.after_request(limits, still_crossed, now);
        }
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

    fn changes(agents: u64, others: u64) -> Amount {
        let since = |changes| SinceSync { changes, ..SinceSync::default() };
        Amount { agents: since(agents), others: since(others) }
    }

    fn agents() -> [Source; 2] {
        ["/local/dc1/resource/a", "/local/dc1/resource/b"].map(|source| source.parse().unwrap())
    }

    #[test]
    fn r6_the_limit_is_of_the_cluster_and_every_agent_is_asked_once() {
        let (mut storm, [a, b]) = (Storm::default(), agents());
        storm.look(&LIMITS, &changes(60, 40), agents().into_iter(), ms(0));
        assert!(!storm.is_due(&a) && !storm.is_due(&b));
        storm.look(&LIMITS, &changes(60, 41), agents().into_iter(), ms(0));
        assert!(storm.is_due(&a) && storm.is_due(&b));
        storm.had_its_turn(&a, &LIMITS, &changes(0, 0), ms(10));
        storm.look(&LIMITS, &changes(0, 0), agents().into_iter(), ms(10));
        assert!(
            !storm.is_due(&a) && storm.is_due(&b),
            "the other one has its turn although the amount is small now"
        );
        storm.had_its_turn(&b, &LIMITS, &changes(0, 0), ms(20));
        storm.look(&LIMITS, &changes(0, 100), agents().into_iter(), ms(5_020));
        assert!(!storm.is_due(&a));
        storm.look(&LIMITS, &changes(0, 101), agents().into_iter(), ms(5_020));
        assert!(storm.is_due(&a) && storm.is_due(&b));
    }

    #[test]
    fn r6_a_storm_makes_one_third_request_per_rest() {
        let (mut storm, [a, b]) = (Storm::default(), agents());
        storm.look(&LIMITS, &changes(500, 0), agents().into_iter(), ms(0));
        storm.had_its_turn(&a, &LIMITS, &changes(0, 0), ms(1_000));
        storm.had_its_turn(&b, &LIMITS, &changes(0, 0), ms(2_000));
        storm.look(&LIMITS, &changes(500, 0), agents().into_iter(), ms(6_999));
        assert!(!storm.is_due(&a));
        storm.look(&LIMITS, &changes(500, 0), agents().into_iter(), ms(7_000));
        assert!(storm.is_due(&a) && storm.is_due(&b));
    }

    #[test]
    fn r6_a_clock_that_is_set_right_makes_no_rest_longer() {
        let (mut storm, [a, _]) = (Storm::default(), agents());
        let day = 86_400_000;
        storm.look(&LIMITS, &changes(500, 0), [a.clone()].into_iter(), ms(day));
        storm.had_its_turn(&a, &LIMITS, &changes(0, 0), ms(day));
        for (now, is_due) in [(0, false), (4_999, false), (5_000, true)] {
            storm.look(&LIMITS, &changes(500, 0), [a.clone()].into_iter(), ms(now));
            assert_eq!(storm.is_due(&a), is_due, "{now}");
        }
    }

    #[test]
    fn r6_a_notice_that_grows_old_asks_without_any_further_event() {
        let (mut storm, [a, _]) = (Storm::default(), agents());
        let old = SinceSync { outstanding: 1, oldest_outstanding: Some(ms(0)), ..SinceSync::default() };
        storm.look(
            &LIMITS,
            &Amount { others: old, ..Amount::default() },
            [a.clone()].into_iter(),
            ms(60_001),
        );
        assert!(!storm.is_due(&a), "nobody can be asked for the state behind it");
        let amount = Amount { agents: old, ..Amount::default() };
        storm.look(&LIMITS, &amount, [a.clone()].into_iter(), ms(60_000));
        assert!(!storm.is_due(&a));
        storm.look(&LIMITS, &amount, [a.clone()].into_iter(), ms(60_001));
        assert!(storm.is_due(&a));
    }

    #[test]
    fn r6_nobody_is_asked_twice_in_a_circle_for_what_a_sync_leaves_crossed() {
        let (mut storm, [a, _]) = (Storm::default(), agents());
        storm.look(&LIMITS, &changes(500, 0), [a.clone()].into_iter(), ms(0));
        storm.had_its_turn(&a, &LIMITS, &changes(500, 0), ms(0));
        storm.look(&LIMITS, &changes(500, 0), [a.clone()].into_iter(), ms(9_999));
        assert!(!storm.is_due(&a));
        storm.look(&LIMITS, &changes(500, 0), [a.clone()].into_iter(), ms(10_000));
        assert!(storm.is_due(&a));
    }
}
