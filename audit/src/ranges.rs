//! The ranges of a log from one checkpoint's mark to the next: each is checked on its own, from the running hash that is
//! signed before it to the one that is signed behind it, so that damage in one does not hide the others. Memory: one
//! small record per mark.

use std::collections::{BTreeMap, VecDeque};

use bus_schema::{Hash32, proof};

/// What a checkpoint signs of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The checkpoint's number.
    pub number: u64,
    /// How often the log had been read from its start; the running hash begins anew each time.
    pub incarnation: u32,
    /// The last sequence.
    pub seq: u64,
    /// The running hash behind it.
    pub running: Hash32,
}

/// What was found of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log has what was signed.
    Equal,
    /// It has something else.
    Differs,
    /// The log does not begin where the range would have to be read from.
    Unreadable,
}

/// A range that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The checkpoint that signs its end.
    pub number: u64,
    /// Its first sequence.
    pub first_seq: u64,
    /// Its last one.
    pub last_seq: u64,
    /// What was found.
    pub verdict: Verdict,
}

/// The marks of one incarnation that are ahead, and the running hash since the last one.
#[derive(Debug)]
struct Track {
    ahead: VecDeque<Mark>,
    first_seq: u64,
    /// None = the log does not have everything since.
    running: Option<Hash32>,
}

/// A log that is being checked.
#[derive(Debug)]
pub struct Ranges {
    begins_at: u64,
    tracks: Vec<Track>,
}

impl Ranges {
    /// A log of which this sequence and what is behind it is looked at, and its marks in any order.
    pub fn new(begins_at: u64, marks: impl IntoIterator<Item = Mark>) -> Self {
        let mut by_incarnation: BTreeMap<u32, Vec<Mark>> = BTreeMap::new();
        for mark in marks {
            by_incarnation.entry(mark.incarnation).or_default().push(mark);
        }
        let running = (begins_at <= 1).then_some(Hash32::ZERO);
        let tracks = by_incarnation.into_values().map(|mut marks| {
            marks.sort_by_key(|mark| (mark.seq, mark.number));
            Track { ahead: marks.into(), first_seq: 1, running }
        });
        let mut ranges = Self { begins_at, tracks: tracks.collect() };
        // What a trimmed log begins behind is where its first range begins.
        for track in &mut ranges.tracks {
            while let Some(mark) = track.ahead.front().copied().filter(|mark| mark.seq + 1 == begins_at) {
                (track.first_seq, track.running) = (begins_at, Some(mark.running));
                track.ahead.pop_front();
            }
        }
        ranges
    }

    /// Takes in the next message, by its hash ([`bus_schema::envelope::Stored::hash`]); answers the ranges that ended
    /// before it. One before the beginning is passed over: a trimmed log keeps the message of its first mark.
    pub fn push(&mut self, seq: u64, hash: Hash32) -> Vec<Checked> {
        if seq < self.begins_at {
            return Vec::new();
        }
        let ended = self.ended(|mark| mark.seq < seq);
        for track in self.tracks.iter_mut().filter(|track| !track.ahead.is_empty()) {
            track.running = track.running.map(|running| proof::extend(running, hash));
        }
        ended
    }

    /// The log has no more: the ranges that end at its end, or behind it.
    pub fn finish(mut self) -> Vec<Checked> {
        self.ended(|_| true)
    }

    fn ended(&mut self, has_ended: impl Fn(&Mark) -> bool) -> Vec<Checked> {
        let mut checked = Vec::new();
        for track in &mut self.tracks {
            while let Some(mark) = track.ahead.front().copied().filter(&has_ended) {
                track.ahead.pop_front();
                let verdict = match track.running {
                    None => Verdict::Unreadable,
                    Some(running) if running == mark.running => Verdict::Equal,
                    Some(_) => Verdict::Differs,
                };
                let Mark { number, seq: last_seq, .. } = mark;
                checked.push(Checked { number, first_seq: track.first_seq, last_seq, verdict });
                (track.first_seq, track.running) = (last_seq + 1, Some(mark.running));
            }
        }
        checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(seq: u64) -> Hash32 {
        Hash32::of(&seq.to_be_bytes())
    }

    fn running(up_to: u64) -> Hash32 {
        (1..=up_to).fold(Hash32::ZERO, |running, seq| proof::extend(running, hash(seq)))
    }

    fn mark(number: u64, incarnation: u32, seq: u64) -> Mark {
        Mark { number, incarnation, seq, running: running(seq) }
    }

    /// What is found when the log holds these sequences, and those in `altered` are others.
    fn checked(marks: Vec<Mark>, begins_at: u64, seqs: &[u64], altered: &[u64]) -> Vec<(u64, Verdict)> {
        let mut ranges = Ranges::new(begins_at, marks);
        let mut found = vec![];
        for seq in seqs {
            let hash = if altered.contains(seq) { Hash32::of(b"altered") } else { hash(*seq) };
            found.extend(ranges.push(*seq, hash));
        }
        found.extend(ranges.finish());
        found.into_iter().map(|range| (range.number, range.verdict)).collect()
    }

    use Verdict::{Differs, Equal, Unreadable};

    #[test]
    fn damage_in_one_range_does_not_hide_the_others() {
        let marks = || vec![mark(1, 1, 3), mark(2, 1, 6), mark(3, 1, 6), mark(4, 1, 9)];
        let all: Vec<u64> = (1..=12).collect();
        assert_eq!(checked(marks(), 1, &all, &[]), [(1, Equal), (2, Equal), (3, Equal), (4, Equal)]);
        assert_eq!(checked(marks(), 1, &all, &[5]), [(1, Equal), (2, Differs), (3, Equal), (4, Equal)]);
        let without: Vec<u64> = all.iter().copied().filter(|seq| *seq != 3 && *seq != 9).collect();
        assert_eq!(checked(marks(), 1, &without, &[]), [(1, Differs), (2, Equal), (3, Equal), (4, Differs)]);
        assert_eq!(checked(marks(), 1, &all[..4], &[]), [(1, Equal), (2, Differs), (3, Equal), (4, Differs)]);
    }

    #[test]
    fn a_trimmed_log_is_checked_from_the_mark_where_it_begins() {
        let marks = || vec![mark(1, 1, 3), mark(2, 1, 6)];
        assert_eq!(checked(marks(), 4, &[4, 5, 6], &[]), [(2, Equal)]);
        assert_eq!(checked(marks(), 4, &[3, 4, 5, 6], &[]), [(2, Equal)]);
        assert_eq!(checked(marks(), 4, &[3, 5, 6], &[]), [(2, Differs)]);
        assert_eq!(checked(marks(), 3, &[3, 4, 5, 6], &[]), [(1, Unreadable), (2, Equal)]);
    }

    #[test]
    fn each_reading_of_the_log_from_its_start_has_marks_of_its_own() {
        let marks = vec![mark(1, 1, 8), mark(2, 2, 3), mark(3, 2, 8)];
        let all: Vec<u64> = (1..=8).collect();
        assert_eq!(checked(marks, 1, &all, &[]), [(2, Equal), (1, Equal), (3, Equal)]);
    }
}
