//! Questions beside commits: the state of one commit, and of none older than the last one that returned.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use super::support::{Agent, Log, Pool, SITE, key, pool_id};
use crate::{AsOf, Filter, Reader};

/// Resources that every batch writes anew.
const KEYS: u64 = 20;

/// A log of `rounds` batches, each of which writes all keys with its own number, from 1, as their revision.
fn rounds(rounds: u64) -> Log {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    for round in 1..=rounds {
        for number in 0..KEYS {
            let state = format!(r#"{{"padding":"{}"}}"#, "x".repeat(1000));
            agent.changed(&mut log, &format!("vm/{number}"), &round.to_string(), &state);
        }
    }
    log
}

/// The round that an answer is true as of.
fn round_of(as_of: &AsOf) -> u64 {
    let (_, seq) = as_of.logs.iter().find(|(stream, _)| stream == SITE).unwrap();
    assert_eq!(seq % KEYS, 0, "half a batch");
    seq / KEYS
}

/// The round that a row tells; it must be the one that the answer is true as of.
fn round_of_row(reader: &Reader, number: u64) -> u64 {
    let answer = reader.row(&pool_id("dc1"), &key(&format!("vm/{number}"))).unwrap();
    let round = answer.value.map_or(0, |row| row.revision.unwrap().as_str().parse().unwrap());
    assert_eq!(round, round_of(&answer.as_of));
    round
}

/// The round that all rows tell.
fn round_of_page(reader: &Reader) -> u64 {
    let page = reader.rows(&pool_id("dc1"), &Filter::default(), None, 1000).unwrap();
    let round = round_of(&page.as_of);
    let told: Vec<u64> =
        page.rows.iter().map(|row| row.revision.as_ref().unwrap().as_str().parse().unwrap()).collect();
    assert_eq!(told, vec![round; if round == 0 { 0 } else { KEYS as usize }]);
    round
}

/// Ends the readers whatever becomes of the writer.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn questions_beside_commits_see_every_commit_that_returned_and_never_half_of_one() {
    const ROUNDS: u64 = 100;
    let (log, mut pool) = (rounds(ROUNDS), Pool::new());
    let (committed, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let ask = |page: bool| {
        let reader = pool.reader();
        let (committed, done) = (&committed, &done);
        move || {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let at_least = committed.load(Ordering::Acquire).max(last);
                last = if page { round_of_page(&reader) } else { round_of_row(&reader, last % KEYS) };
                assert!(last >= at_least, "saw round {last} after round {at_least}");
            }
        }
    };
    let readers = [ask(false), ask(false), ask(true)];
    thread::scope(|scope| {
        let _done = Done(&done);
        for reader in readers {
            scope.spawn(reader);
        }
        for round in 1..=ROUNDS {
            pool.read_some(&log, KEYS as usize);
            committed.store(round, Ordering::Release);
            assert_eq!(round_of_row(&pool.reader(), round % KEYS), round, "read your commit");
            assert_eq!(pool.store.position(SITE).unwrap().unwrap().seq, round * KEYS);
        }
    });
}

#[test]
fn a_question_before_each_commit_makes_the_file_no_larger() {
    const ROUNDS: u64 = 60;
    let log = rounds(ROUNDS);
    let size = |asked: bool| {
        let mut pool = Pool::new();
        for round in 0..ROUNDS {
            if asked {
                assert_eq!(round_of_page(&pool.reader()), round);
            }
            pool.read_some(&log, KEYS as usize);
        }
        pool.store.size().unwrap()
    };
    assert_eq!(size(true), size(false));
}

#[test]
fn a_pool_that_was_dropped_and_made_again_is_read_anew() {
    let (log, mut pool) = (rounds(1), Pool::new());
    pool.read_on(&log);
    assert_eq!(round_of_row(&pool.reader(), 0), 1);
    assert!(pool.store.drop_pool(&pool_id("dc1")).unwrap());
    assert_eq!(pool.row("dc1", "vm/0"), None);
    assert!(!pool.reader().has_pool(&pool_id("dc1")).unwrap());

    let mut agent = Agent::new("dc1", "other");
    let mut log = log;
    agent.changed(&mut log, "vm/7", "again", "{}");
    pool.read_on(&log).then("dc1", &[("vm/7", "again")]);
    assert_eq!(pool.row("dc1", "vm/7").unwrap().owner, agent.source);
}
