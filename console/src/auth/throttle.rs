//! Slows down whoever guesses: failures are counted per peer, and per key id and peer, in a table
//! that cannot grow. Pure: the time is an argument.
//!
//! Only a wrong credential is told to wait: a right one is never in doubt (secrets have 256 bits), and
//! whoever shares its holder's address must not be able to lock it out.

use std::{collections::HashMap, net::IpAddr, sync::Mutex};

use bus_schema::Timestamp;

/// Failures of one key id from one peer before it has to wait: a person mistypes.
const KEY_FAILURES_FREE: u32 = 5;
/// Failures of one peer over all key ids before it has to wait: several people may sit behind it.
const PEER_FAILURES_FREE: u32 = 50;
/// The first wait, in milliseconds; each further failure doubles it.
const WAIT_MS_FIRST: u64 = 1_000;
/// The longest wait, in milliseconds: a legitimate caller that was set up wrong recovers in a minute.
const WAIT_MS_MAX: u64 = 60_000;
/// A counter without a failure for this long starts anew, in milliseconds.
const FORGET_AFTER_MS: u64 = 600_000;
/// Most counters: about 1 MiB, whatever a guesser sends.
const COUNTERS_MAX: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Peer(IpAddr),
    Key(IpAddr, Box<str>),
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Timestamp,
}

/// The table of failures.
#[derive(Debug, Default)]
pub struct Throttle {
    counters: Mutex<HashMap<Counted, Failures>>,
}

impl Throttle {
    /// How long whoever sent a wrong credential still has to wait, in milliseconds; 0 = not at all.
    pub fn wait_ms(&self, peer: IpAddr, key: &str, now: Timestamp) -> u64 {
        let Ok(counters) = self.counters.lock() else { return 0 };
        let wait = |counted: &Counted| {
            let failures = counters.get(counted)?;
            let since = now.ms_since(failures.last);
            Some(penalty_ms(counted, failures.count).saturating_sub(since))
        };
        let of_key = wait(&Counted::Key(peer, key.into()));
        of_key.max(wait(&Counted::Peer(peer))).unwrap_or(0)
    }

    /// Counts a failure.
    pub fn failed(&self, peer: IpAddr, key: &str, now: Timestamp) {
        let Ok(mut counters) = self.counters.lock() else { return };
        for counted in [Counted::Peer(peer), Counted::Key(peer, key.into())] {
            if counters.len() >= COUNTERS_MAX && !counters.contains_key(&counted) {
                make_room(&mut counters, now);
            }
            let failures = counters.entry(counted).or_insert(Failures { count: 0, last: now });
            if now.ms_since(failures.last) >= FORGET_AFTER_MS {
                failures.count = 0;
            }
            *failures = Failures { count: failures.count.saturating_add(1), last: now };
        }
    }

    /// A success clears the key's counter, not the peer's: a guesser with one good key stays slow.
    pub fn succeeded(&self, peer: IpAddr, key: &str) {
        if let Ok(mut counters) = self.counters.lock() {
            counters.remove(&Counted::Key(peer, key.into()));
        }
    }
}

fn penalty_ms(counted: &Counted, count: u32) -> u64 {
    let free = match counted {
        Counted::Peer(_) => PEER_FAILURES_FREE,
        Counted::Key(..) => KEY_FAILURES_FREE,
    };
    match count.checked_sub(free) {
        None | Some(0) => 0,
        Some(over) => 2_u64.saturating_pow(over - 1).saturating_mul(WAIT_MS_FIRST).min(WAIT_MS_MAX),
    }
}

fn make_room(counters: &mut HashMap<Counted, Failures>, now: Timestamp) {
    counters.retain(|_, failures| now.ms_since(failures.last) < FORGET_AFTER_MS);
    if counters.len() >= COUNTERS_MAX {
        let oldest = counters.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
        oldest.map(|oldest| counters.remove(&oldest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000 + ms)
    }

    #[test]
    fn a_guesser_waits_longer_with_every_failure_and_a_minute_at_most() {
        let throttle = Throttle::default();
        let waits: Vec<_> = (0..14)
            .map(|_| {
                throttle.failed(PEER, "k1", at(0));
                throttle.wait_ms(PEER, "k1", at(0)) / 1_000
            })
            .collect();
        assert_eq!(throttle.wait_ms(PEER, "k2", at(0)), 0, "another key of the peer goes on");
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        (0..200).for_each(|_| {
            throttle.failed(PEER, "k1", at(0));
            assert_eq!(throttle.wait_ms(PEER, "k1", at(0)), WAIT_MS_MAX, "however many there were");
        });
        assert_eq!(throttle.wait_ms(PEER, "k1", at(60_000)), 0, "the wait passes");
    }

    #[test]
    fn a_success_forgives_a_key_and_time_forgives_all() {
        let throttle = Throttle::default();
        (0..10).for_each(|_| throttle.failed(PEER, "k1", at(0)));
        throttle.succeeded(PEER, "k1");
        assert_eq!(throttle.wait_ms(PEER, "k1", at(0)), 0);
        (0..60).for_each(|n| throttle.failed(PEER, &format!("k{n}"), at(1)));
        assert!(throttle.wait_ms(PEER, "fresh", at(1)) > 0, "the peer itself is slowed down");
        throttle.failed(PEER, "k1", at(700_000));
        assert_eq!(throttle.wait_ms(PEER, "k1", at(700_000)), 0);
    }

    #[test]
    fn the_table_does_not_grow_beyond_its_bound() {
        let throttle = Throttle::default();
        (0..10_000).for_each(|n| throttle.failed(PEER, &n.to_string(), at(n)));
        assert!(throttle.counters.lock().unwrap().len() <= COUNTERS_MAX);
    }
}
