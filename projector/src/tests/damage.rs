//! Crashes and damage: copied files, flipped bits, truncation, other formats, two processes.

use std::fs;

use redb::Database;

use super::support::{Agent, Log, Pool, SITE, given, open, pool_id};
use crate::{Store, StoreError, StoreOptions, tables};

fn log_of(events: u32) -> Log {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    (0..events).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{}", n % 40), &n.to_string(), "{}");
    });
    log
}

fn opening(pool: &Pool) -> StoreError {
    match Store::open(&pool.path(), StoreOptions::default()) {
        Err(error) => error,
        Ok(_) => panic!("the file was opened"),
    }
}

/// Closes the store and leaves its file.
fn closed(pool: Pool) -> (std::path::PathBuf, tempfile::TempDir) {
    (pool.path(), pool.directory)
}

#[test]
fn a_file_that_was_left_by_a_crash_is_at_the_last_commit_and_goes_on() {
    let log = log_of(120);
    let whole = given(&log).export("dc1");
    let mut pool = Pool::new();
    while pool.read < log.messages.len() {
        pool.read_some(&log, 17);
        // What a crash leaves: the file as it is now, never closed.
        let left = tempfile::tempdir().unwrap();
        fs::copy(pool.path(), left.path().join("pool.redb")).unwrap();
        let store = open(&left.path().join("pool.redb"));
        assert_eq!(store.position(SITE).unwrap().unwrap().seq, pool.read as u64);
        let mut again = Pool { store, directory: left, read: pool.read };
        assert_eq!(again.export("dc1"), pool.export("dc1"));
        assert_eq!(again.read_on(&log).export("dc1"), whole);
    }
}

#[test]
fn a_newer_format_is_refused_with_what_to_do() {
    let (path, directory) = closed(given(&log_of(1)));
    let database = Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(tables::META).unwrap().insert(tables::META_FORMAT, 7).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = Store::open(&path, StoreOptions::default()).err().unwrap().to_string();
    assert!(error.contains("written by format 7, this build reads up to 6"), "{error}");
    let advice = format!("run a newer farside, or move {} aside and start farside again", path.display());
    assert!(error.contains(&advice), "{error}");
    let database = Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(tables::META).unwrap().insert(tables::META_FORMAT, 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = Store::open(&path, StoreOptions::default()).err().unwrap().to_string();
    assert!(error.contains("written by format 1 of an older farside"), "{error}");
    assert!(error.contains(&format!("move {} aside and start farside again", path.display())), "{error}");
    drop(directory);
}

#[test]
fn a_file_that_is_open_already_is_refused() {
    let error = opening(&given(&log_of(1)));
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
}

#[test]
fn what_is_no_pool_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    for content in [&b"not a pool"[..], &[0; 100], &[0; 10_000], &[0xff; 4096]] {
        let path = directory.path().join("pool.redb");
        fs::write(&path, content).unwrap();
        let error = Store::open(&path, StoreOptions::default()).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let advice = format!("move {} aside and start farside again", path.display());
        assert!(error.to_string().contains(&advice), "{error}");
    }
    let missing = directory.path().join("no/such/place/pool.redb");
    let error = Store::open(&missing, StoreOptions::default()).err().unwrap();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[test]
fn a_damaged_file_is_refused_or_whole_but_never_wrong() {
    let pool = given(&log_of(200));
    let expected = pool.export("dc1");
    let (path, directory) = closed(pool);
    let good = fs::read(&path).unwrap();
    let damaged = directory.path().join("damaged.redb");
    let check = |bytes: &[u8], what: String| {
        fs::write(&damaged, bytes).unwrap();
        let Ok(store) = Store::open(&damaged, StoreOptions::default()) else { return 1 };
        let pool = Pool { store, directory: tempfile::tempdir().unwrap(), read: 0 };
        assert_eq!(pool.export("dc1"), expected, "{what}");
        0
    };
    let mut refused = 0;
    let used = good.len() - good.iter().rev().take_while(|byte| **byte == 0).count();
    for at in (0..used).step_by(used / 150) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        refused += check(&bytes, format!("bit of byte {at}"));
    }
    for length in [1, 100, 4096, used / 2, used - 1] {
        refused += check(&good[..length], format!("cut to {length}"));
    }
    assert!(refused > 20, "{refused} of 155 were refused");
}

#[test]
fn a_file_that_is_mostly_dead_is_made_smaller_at_the_opening() {
    let (mut log, mut agent, mut other) =
        (Log::default(), Agent::new("dc1", "inv"), Agent::new("dc2", "inv"));
    let state = format!("\"{}\"", "x".repeat(50_000));
    (0..2_000).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n}"), "1", &state);
    });
    other.changed(&mut log, "Pod/kept", "1", "{}");
    let pool = given(&log);
    let size = pool.store.size().unwrap();
    assert!(size.live_bytes > 100_000_000 && size.file_bytes > size.live_bytes);
    pool.store.drop_pool(&pool_id("dc1")).unwrap();
    let (path, directory) = closed(pool);
    let pool = Pool { store: open(&path), directory, read: 0 };
    assert!(pool.store.size().unwrap().file_bytes < 10_000_000);
    pool.then("dc2", &[("Pod/kept", "1")]);
}
