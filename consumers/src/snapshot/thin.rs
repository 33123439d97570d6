//! Which snapshots are kept. Pure, and without a clock: the newest one is "now".
//!
//! All of the last day; the last one of each day of the seven before the newest; the last one of each week of the last
//! four; before that the last one of each four weeks, for ever: a log can only be trimmed behind one. Are these still
//! too many or too large, then the one goes whose neighbours are closest to each other, so that no stretch of the past
//! becomes far away; the newest two always stay, and so does what the caller holds.

use std::collections::BTreeSet;

use bus_schema::Timestamp;

const DAY_MS: i64 = 86_400_000;
const WEEK_MS: i64 = 7 * DAY_MS;
/// Weeks of which one snapshot each is kept, and the length of the stretches before them, in weeks.
const WEEKS: i64 = 4;
/// The newest ones that nothing takes away: one may turn out to be damaged.
pub const ALWAYS: usize = 2;

/// How many may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Snapshots.
    pub count_max: usize,
    /// Bytes of all of them.
    pub bytes_max: u64,
}

/// One snapshot that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of which moment it is.
    pub at: Timestamp,
    /// How large it is.
    pub bytes: u64,
    /// Whether a log begins where it ends: nothing else holds what was before.
    pub is_floor: bool,
}

/// The places in `kept`, which is in order of time (and not of sequences, which a log may give out again), of those that
/// are to go.
pub fn superfluous(kept: &[Kept], bounds: Bounds) -> BTreeSet<usize> {
    let Some(newest) = kept.last() else { return BTreeSet::new() };
    let safe = kept.len().saturating_sub(ALWAYS);
    let mut stays: Vec<usize> = (0..kept.len())
        .filter(|at| *at >= safe || kept[*at].is_floor || is_due(kept, *at, newest.at))
        .collect();
    while is_too_much(kept, &stays, bounds)
        && let Some(crowded) = crowded(kept, &stays)
    {
        stays.remove(crowded);
    }
    let stays: BTreeSet<_> = stays.into_iter().collect();
    (0..kept.len()).filter(|at| !stays.contains(at)).collect()
}

/// Whether the days and weeks keep it.
fn is_due(kept: &[Kept], at: usize, newest: Timestamp) -> bool {
    let of = |at: usize| kept[at].at.unix_ms();
    let age = newest.unix_ms() - of(at);
    let is_last_of =
        |span: i64| at + 1 == kept.len() || of(at).div_euclid(span) != of(at + 1).div_euclid(span);
    let span = match age {
        age if age < DAY_MS => return true,
        age if age < WEEK_MS => DAY_MS,
        age if age < WEEKS * WEEK_MS => WEEK_MS,
        _ => WEEKS * WEEK_MS,
    };
    is_last_of(span)
}

fn is_too_much(kept: &[Kept], stays: &[usize], bounds: Bounds) -> bool {
    let bytes = stays.iter().map(|at| kept[*at].bytes).fold(0, u64::saturating_add);
    stays.len() > bounds.count_max || bytes > bounds.bytes_max
}

/// The place in `stays` of the one whose neighbours are closest to each other; none = only those are left that stay.
fn crowded(kept: &[Kept], stays: &[usize]) -> Option<usize> {
    let of = |place: usize| kept[stays[place]].at.unix_ms();
    let movable = stays.len().saturating_sub(ALWAYS);
    let movable = (0..movable).filter(|place| !kept[stays[*place]].is_floor);
    // The oldest one has nothing before it; it is the last that goes.
    movable.min_by_key(|place| if *place == 0 { i64::MAX } else { of(place + 1) - of(place - 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const MANY: Bounds = Bounds { count_max: 1_000, bytes_max: u64::MAX };

    fn at_hours(hours: impl IntoIterator<Item = i64>) -> Vec<Kept> {
        // A Monday, 1970-01-05, so that weeks by the epoch (a Thursday) are not those of the calendar.
        let at = |hour| Timestamp::from_unix_ms(4 * DAY_MS + hour * HOUR_MS);
        hours.into_iter().map(|hour| Kept { at: at(hour), bytes: 10, is_floor: false }).collect()
    }

    /// What is left after one was taken every hour and thinned each time.
    fn lived(hours: i64, bounds: Bounds) -> Vec<Kept> {
        let mut kept: Vec<Kept> = vec![];
        for hour in 0..hours {
            kept.extend(at_hours([hour]));
            let gone = superfluous(&kept, bounds);
            let mut place = 0;
            kept.retain(|_| (!gone.contains(&place), place += 1).0);
        }
        kept
    }

    fn ages_h(kept: &[Kept]) -> Vec<i64> {
        let newest = kept.last().unwrap().at.unix_ms();
        kept.iter().map(|kept| (newest - kept.at.unix_ms()) / HOUR_MS).collect()
    }

    #[test]
    fn all_of_a_day_then_one_a_day_then_one_a_week_then_one_in_four_weeks_are_left() {
        let ages = ages_h(&lived(24 * 7 * 21, MANY));
        let within = |from: i64, to: i64| ages.iter().filter(|age| (from..to).contains(age)).count();
        assert_eq!(within(0, 24), 24, "{ages:?}");
        assert_eq!(within(24, 7 * 24), 6, "{ages:?}");
        assert_eq!(within(7 * 24, 28 * 24), 3, "{ages:?}");
        // Five stretches of four weeks have begun; the last one of the newest is among the weeks.
        assert_eq!(within(28 * 24, i64::MAX), 4, "{ages:?}");
    }

    #[test]
    fn where_a_log_begins_its_snapshot_stays() {
        let mut kept = at_hours([0, 1, 2, 3, 24 * 90, 24 * 90 + 1]);
        kept[1].is_floor = true;
        assert!(!superfluous(&kept, MANY).contains(&1));
        assert_eq!(superfluous(&kept, Bounds { count_max: 0, bytes_max: 0 }), BTreeSet::from([0, 2, 3]));
    }

    #[test]
    fn thinning_what_is_thinned_takes_nothing_more() {
        let kept = lived(24 * 40, MANY);
        assert_eq!(superfluous(&kept, MANY), BTreeSet::new());
    }

    #[test]
    fn what_is_too_many_or_too_large_goes_where_the_past_is_densest() {
        let kept = at_hours([0, 10, 11, 12, 20, 22]);
        let few = Bounds { count_max: 5, ..MANY };
        assert_eq!(superfluous(&kept, few), BTreeSet::from([2]), "10 and 12 are closest to each other");
        let small = Bounds { bytes_max: 39, ..MANY };
        assert_eq!(superfluous(&kept, small).len(), 3);
        assert!(!superfluous(&kept, small).contains(&0), "the oldest goes last");
        for bounds in [few, small, Bounds { count_max: 3, ..MANY }] {
            let left = lived(24 * 40, bounds);
            assert!(!is_too_much(&left, &(0..left.len()).collect::<Vec<_>>(), bounds), "{bounds:?}");
        }
    }

    #[test]
    fn the_newest_two_stay_whatever_the_bounds_are() {
        let none = Bounds { count_max: 0, bytes_max: 0 };
        assert_eq!(superfluous(&at_hours([0, 1, 2]), none), BTreeSet::from([0]));
        assert_eq!(superfluous(&at_hours([0, 24 * 90]), none), BTreeSet::new());
        assert_eq!(superfluous(&[], none), BTreeSet::new());
    }
}
