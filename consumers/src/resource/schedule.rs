//! When the first request of a pool is due (R1): each source cluster by its own timing policy.
//!
//! Pure: every moment is an argument. Missed runs coalesce into one, because only the next due moment
//! after the last run counts, however long ago it was. The jitter comes from the pool's name, so that a
//! hundred pools with one policy do not ask in the same second, and each asks in the same one for ever.

use bus_schema::{Hash32, PoolId, Timestamp};
use chrono::{DateTime, Datelike, Duration, NaiveDateTime, NaiveTime, TimeZone, Timelike, Utc, Weekday};
use chrono_tz::Tz;
use croner::Cron;

/// Most maintenance windows that are looked through, one behind the other, for the end of the last.
const WINDOWS_CHAINED_MAX: usize = 16;

/// The timing policy of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// When the first request is due.
    pub timing: Timing,
    /// The greatest delay that the pool's name may add, in milliseconds.
    pub jitter_ms_max: u64,
    /// When requests that no person made wait.
    pub maintenance: Vec<Maintenance>,
}

/// When the first request is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Timing {
    /// So long after the last one, in milliseconds.
    Every(u64),
    /// At the moments of a cron pattern, in a time zone.
    Cron(Box<Cron>, Tz),
}

/// A time of day, on some days, during which the source must be left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// The days on which it begins; empty = every day.
    pub days: Vec<Weekday>,
    /// When it begins.
    pub from: NaiveTime,
    /// When it ends; not after `from` = on the next day.
    pub to: NaiveTime,
    /// Whose clock that is.
    pub zone: Tz,
}

impl Schedule {
    /// When the next first request is due, maintenance apart: after the `last` one, or, when there was
    /// none, after the pool was first seen. None: the cron pattern has no further moment.
    pub fn due_at(&self, pool: &PoolId, last: Option<Timestamp>, seen_since: Timestamp) -> Option<Timestamp> {
        let jitter_ms = self.jitter_ms(pool);
        match (&self.timing, last) {
            // The phase of the first run carries the jitter on to all later ones.
            (Timing::Every(period_ms), Some(last)) => Some(after(last, *period_ms)),
            (Timing::Every(_), None) => Some(after(seen_since, jitter_ms)),
            (Timing::Cron(cron, zone), last) => {
                let from = Timestamp::from_unix_ms(last.unwrap_or(seen_since).unix_ms() - signed(jitter_ms));
                let from = DateTime::<Utc>::from(from).with_timezone(zone);
                let next = cron.find_next_occurrence(&from, false).ok()?;
                Some(after(Timestamp::from(next.with_timezone(&Utc)), jitter_ms))
            }
        }
    }

    /// Whether requests that no person made wait at `now`.
    pub fn in_maintenance(&self, now: Timestamp) -> bool {
        self.maintenance.iter().any(|window| window.end_if_within(now).is_some())
    }

    /// `at`, or the end of the maintenance that it falls into: what people are shown as the next time.
    pub fn past_maintenance(&self, at: Timestamp) -> Timestamp {
        let step = |at| self.maintenance.iter().find_map(|window| window.end_if_within(at));
        std::iter::successors(Some(at), |at| step(*at)).take(WINDOWS_CHAINED_MAX).last().unwrap_or(at)
    }

    fn jitter_ms(&self, pool: &PoolId) -> u64 {
        let hash = Hash32::of(pool.to_string().as_bytes());
        let number = hash.0.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        number.checked_rem(self.jitter_ms_max.saturating_add(1)).unwrap_or(0)
    }
}

impl Maintenance {
    /// The end of this window, when `now` is inside it.
    fn end_if_within(&self, now: Timestamp) -> Option<Timestamp> {
        let local = DateTime::<Utc>::from(now).with_timezone(&self.zone).naive_local();
        let overnight = self.to <= self.from;
        // A window over midnight may have begun yesterday.
        [0, 1].into_iter().find_map(|days_ago| {
            let day = local.date() - Duration::days(days_ago);
            let begins = day.and_time(self.from);
            let ends = (day + Duration::days(i64::from(overnight))).and_time(self.to);
            let on_this_day = self.days.is_empty() || self.days.contains(&day.weekday());
            (on_this_day && begins <= local && local < ends).then(|| self.moment(ends))
        })
    }

    /// The moment of a local time; of a time that the clock skips, the moment when it goes on.
    fn moment(&self, local: NaiveDateTime) -> Timestamp {
        let skipped = || self.zone.from_local_datetime(&(local + Duration::hours(1))).earliest();
        let found = self.zone.from_local_datetime(&local).latest().or_else(skipped);
        let utc = found.map_or_else(|| local.and_utc(), |found| found.with_timezone(&Utc));
        Timestamp::from(utc.with_nanosecond(0).unwrap_or(utc))
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// `at` and so many milliseconds.
pub(crate) fn after(at: Timestamp, ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(at.unix_ms().saturating_add(signed(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pool() -> PoolId {
        "local/dc1".parse().unwrap()
    }

    fn schedule(timing: Timing) -> Schedule {
        Schedule { timing, jitter_ms_max: 0, maintenance: vec![] }
    }

    fn cron(pattern: &str, zone: Tz) -> Schedule {
        schedule(Timing::Cron(Box::new(pattern.parse().unwrap()), zone))
    }

    fn night(days: &[Weekday]) -> Maintenance {
        let time = |text: &str| text.parse().unwrap();
        Maintenance {
            days: days.to_vec(),
            from: time("23:00:00"),
            to: time("01:30:00"),
            zone: Tz::Europe__Berlin,
        }
    }

    #[test]
    fn r1_a_period_counts_from_the_last_run_and_the_first_run_is_at_once() {
        let every = schedule(Timing::Every(300_000));
        let seen = at("2026-11-22T05:00:00Z");
        assert_eq!(every.due_at(&pool(), None, seen), Some(seen));
        assert_eq!(
            every.due_at(&pool(), Some(at("2026-11-22T05:01:00Z")), seen),
            Some(at("2026-11-22T05:06:00Z"))
        );
    }

    #[test]
    fn r1_missed_runs_coalesce_into_one() {
        let hourly = cron("0 * * * *", Tz::UTC);
        let (last, now) = (at("2026-11-22T05:00:00Z"), at("2026-11-22T11:30:00Z"));
        assert!(hourly.due_at(&pool(), Some(last), last).unwrap() <= now, "six runs were missed: one is due");
        assert_eq!(hourly.due_at(&pool(), Some(now), last), Some(at("2026-11-22T12:00:00Z")));
    }

    #[test]
    fn r1_cron_follows_the_pools_own_time_zone_across_a_clock_change() {
        let daily = cron("30 8 * * *", Tz::Europe__Berlin);
        let due = |last: &str| daily.due_at(&pool(), Some(at(last)), at(last)).unwrap().to_string();
        assert_eq!(due("2026-03-28T08:00:00Z"), "2026-03-29T06:30:00.000Z", "summer time began that night");
        assert_eq!(due("2026-03-27T08:00:00Z"), "2026-03-28T07:30:00.000Z");
    }

    #[test]
    fn jitter_is_the_same_for_ever_bounded_and_different_between_pools() {
        let spread = Schedule { jitter_ms_max: 10_000, ..schedule(Timing::Every(60_000)) };
        let delay = |name: &str| {
            let due = spread.due_at(&name.parse().unwrap(), None, at("2026-11-22T05:00:00Z")).unwrap();
            due.ms_since(at("2026-11-22T05:00:00Z"))
        };
        assert_eq!(delay("local/dc1"), delay("local/dc1"));
        assert_ne!(delay("local/dc1"), delay("local/dc2"));
        assert!((0..100).all(|n| delay(&format!("local/dc{n}")) <= 10_000));
    }

    #[test]
    fn jitter_never_runs_a_cron_moment_twice() {
        let spread = Schedule { jitter_ms_max: 50_000, ..cron("0 * * * *", Tz::UTC) };
        let first = spread.due_at(&pool(), None, at("2026-11-22T05:30:00Z")).unwrap();
        let second = spread.due_at(&pool(), Some(first), first).unwrap();
        assert_eq!(second.ms_since(first), 3_600_000);
    }

    #[test]
    fn a_request_that_is_due_in_maintenance_waits_for_its_end() {
        let quiet = Schedule { maintenance: vec![night(&[])], ..schedule(Timing::Every(60_000)) };
        for (now, end) in [
            ("2026-11-22T22:30:00Z", "2026-11-23T00:30:00Z"),
            ("2026-11-23T00:10:00Z", "2026-11-23T00:30:00Z"),
        ] {
            assert!(quiet.in_maintenance(at(now)));
            assert_eq!(quiet.past_maintenance(at(now)), at(end));
        }
        assert!(
            !quiet.in_maintenance(at("2026-11-22T21:59:59Z"))
                && !quiet.in_maintenance(at("2026-11-23T00:30:00Z"))
        );
    }

    #[test]
    fn maintenance_on_some_days_belongs_to_the_day_on_which_it_begins() {
        let quiet = Schedule { maintenance: vec![night(&[Weekday::Sun])], ..schedule(Timing::Every(60_000)) };
        assert!(quiet.in_maintenance(at("2026-11-22T22:30:00Z")), "Sunday 23:30 in Berlin");
        assert!(quiet.in_maintenance(at("2026-11-23T00:00:00Z")), "Monday 01:00, began on Sunday");
        assert!(!quiet.in_maintenance(at("2026-11-23T22:30:00Z")), "Monday 23:30");
    }
}
