//! What is to go. Pure: reads no clock, does no I/O.

use bus_schema::Timestamp;

/// What is kept of a log; with neither, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// At least what is younger than this, in milliseconds.
    pub age_ms: Option<u64>,
    /// No more than this, in bytes, if a snapshot lets the rest go.
    pub bytes: Option<u64>,
}

impl Keep {
    /// Whether what is before a place may go still that was to go: it is old enough, or the log too large. Not younger by a
    /// clock that was put right, or by another configuration than it was stated with.
    pub(crate) fn lets_go(self, bytes: u64, now: Timestamp, time: Timestamp) -> bool {
        self.age_ms.is_some_and(|age_ms| now.ms_since(time) >= age_ms)
            || self.bytes.is_some_and(|limit| bytes > limit)
    }
}

/// A place behind which a log could be trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The number of its snapshot among those that are there.
    pub label: usize,
    /// The first sequence that would stay.
    pub seq: u64,
    /// The largest time at which the log had stored a message up to there.
    pub time: Timestamp,
}

/// What should go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Behind which place.
    pub candidate: Candidate,
    /// Why, in words.
    pub reason: String,
}

/// What is to become of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wished {
    /// Nothing needs to go.
    Nothing,
    /// This should go.
    Goes(Wish),
    /// Something should go, and for this reason nothing can.
    Waits(&'static str),
}

/// What should go of a log of this size, by places in order of their sequences. By age, all that is too old at once; by size,
/// one snapshot at a time, because nobody knows the size of what is behind a place before the rest is gone.
pub(crate) fn wished(keep: Keep, bytes: u64, now: Timestamp, candidates: &[Candidate]) -> Wished {
    let old = keep.age_ms.and_then(|age_ms| {
        let is_old = |candidate: &&Candidate| now.ms_since(candidate.time) >= age_ms;
        let candidate = *candidates.iter().rfind(is_old)?;
        Some(Wish { candidate, reason: format!("older than {}", crate::span::Span::from_ms(age_ms)) })
    });
    let limit = keep.bytes.filter(|limit| bytes > *limit);
    let large = limit.and_then(|limit| {
        let reason = format!("the log has {bytes} bytes, {limit} are allowed");
        Some(Wish { candidate: *candidates.first()?, reason })
    });
    match [old, large].into_iter().flatten().max_by_key(|wish| wish.candidate.seq) {
        Some(wish) => Wished::Goes(wish),
        None if limit.is_some() => Wished::Waits(TOO_LARGE),
        None => Wished::Nothing,
    }
}

/// What is to be said of a size that no snapshot lets be mended.
const TOO_LARGE: &str =
    "it is larger than it should be; it waits for a snapshot behind which it can be trimmed";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    /// Places of these ages in milliseconds, the oldest first.
    fn aged(ages: &[i64]) -> Vec<Candidate> {
        let place = |(at, age): (usize, &i64)| Candidate {
            label: at,
            seq: (at as u64 + 1) * 100,
            time: Timestamp::from_unix_ms(NOW - age),
        };
        ages.iter().enumerate().map(place).collect()
    }

    /// Up to where, if something goes.
    fn goes(keep: Keep, bytes: u64, ages: &[i64]) -> Option<u64> {
        match wished(keep, bytes, Timestamp::from_unix_ms(NOW), &aged(ages)) {
            Wished::Goes(wish) => Some(wish.candidate.seq),
            Wished::Nothing => None,
            Wished::Waits(why) => panic!("{why}"),
        }
    }

    #[test]
    fn all_that_is_too_old_goes_at_once_and_nothing_younger() {
        let keep = Keep { age_ms: Some(500), bytes: None };
        assert_eq!(goes(keep, 9, &[900, 700, 500, 499, 10]), Some(300));
        assert_eq!(goes(keep, 9, &[499, 10]), None);
        assert_eq!(goes(keep, 9, &[]), None);
    }

    #[test]
    fn what_is_too_large_goes_snapshot_by_snapshot_and_is_told_when_it_cannot() {
        let keep = Keep { age_ms: None, bytes: Some(1_000) };
        assert_eq!(goes(keep, 1_001, &[900, 700]), Some(100));
        assert_eq!(goes(keep, 1_000, &[900, 700]), None);
        assert_eq!(wished(keep, 1_001, Timestamp::from_unix_ms(NOW), &[]), Wished::Waits(TOO_LARGE));
    }

    #[test]
    fn what_was_to_go_by_a_clock_that_was_wrong_stays_until_it_is_old_or_large_enough() {
        let (now, place) = (Timestamp::from_unix_ms(NOW), aged(&[10])[0]);
        let keep = Keep { age_ms: Some(500), bytes: Some(1_000) };
        let ahead = Timestamp::from_unix_ms(NOW + 1_000_000);
        assert!(matches!(wished(keep, 9, ahead, &[place]), Wished::Goes(_)), "an hour that was none");
        assert!(!keep.lets_go(9, now, place.time));
        assert!(keep.lets_go(9, Timestamp::from_unix_ms(NOW + 490), place.time));
        assert!(keep.lets_go(1_001, now, place.time));
        assert!(!Keep::default().lets_go(u64::MAX, ahead, place.time));
    }

    #[test]
    fn with_both_bounds_the_one_that_takes_more_counts() {
        let keep = Keep { age_ms: Some(500), bytes: Some(1_000) };
        assert_eq!(goes(keep, 1_001, &[900, 700, 10]), Some(200));
        assert_eq!(goes(keep, 1_001, &[300, 200, 10]), Some(100));
        assert_eq!(goes(Keep::default(), u64::MAX, &[900]), None);
    }
}
