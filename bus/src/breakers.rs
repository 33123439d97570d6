//! Messages that break the connection each time that they are delivered, because the client library cannot read their
//! headers: whoever found one out tells it to all who read the whole log over the same connection, so that it is
//! broken for one reader and not for each. Where sequences are missing before it, a reader that asks for so many messages
//! comes to it all the same. Must not know how a message is read otherwise.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bus_schema::Timestamp;

/// Most that are remembered. Of more the connection is broken again, as if they had not been met.
const REMEMBERED_MAX: usize = 1_000;

/// A log: its stream, and when that was made.
type Log = (String, Timestamp);

/// What was met over one connection.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<BTreeSet<(Log, u64)>>);

impl Breakers {
    /// Remembers one.
    pub(crate) fn note(&self, stream: &str, created: Timestamp, seq: u64) {
        let mut known = self.known();
        if known.len() < REMEMBERED_MAX {
            known.insert(((stream.to_owned(), created), seq));
        }
    }

    /// Forgets one that is not there any more.
    pub(crate) fn forget(&self, stream: &str, created: Timestamp, seq: u64) {
        self.known().remove(&((stream.to_owned(), created), seq));
    }

    /// The first one of a log at this sequence or behind it.
    pub(crate) fn next(&self, stream: &str, created: Timestamp, from_seq: u64) -> Option<u64> {
        let known = self.known();
        if known.is_empty() {
            return None;
        }
        let log = (stream.to_owned(), created);
        let found = known.range((log.clone(), from_seq)..=(log, u64::MAX)).next();
        found.map(|(_, seq)| *seq)
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<(Log, u64)>> {
        // A set is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_of_the_same_log_is_told_and_not_more_are_remembered_than_fit() {
        let (breakers, made) = (Breakers::default(), Timestamp::from_unix_ms);
        breakers.note("S", made(1), 7);
        breakers.note("S", made(2), 5);
        breakers.note("T", made(1), 6);
        let next = |from_seq| breakers.next("S", made(1), from_seq);
        assert_eq!((next(1), next(7), next(8)), (Some(7), Some(7), None));
        breakers.forget("S", made(1), 7);
        assert_eq!((next(1), breakers.next("S", made(2), 1)), (None, Some(5)));
        breakers.known().clear();
        (0..2_000).for_each(|seq| breakers.note("U", made(1), seq));
        assert_eq!(breakers.known().len(), REMEMBERED_MAX);
    }
}
