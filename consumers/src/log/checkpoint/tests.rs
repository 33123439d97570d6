//! When a checkpoint is due, and whom it names.

use bus_schema::{Epoch, digest::Node};
use projector::SinceSync;

use super::*;
use crate::runtime::applied::Reached;

const TARGET_LOG: &str = "FARSIDE_TGT_LOCAL";

fn applied(site: u64, target: u64) -> Applied {
    let reached = |seq| Reached { seq, time: Timestamp::default() };
    [("FARSIDE_LOCAL".to_owned(), reached(site)), (TARGET_LOG.to_owned(), reached(target))].into()
}

/// A checkpoint at this place of the site log.
fn last(site: u64) -> Checkpoint {
    let (stream, created) = ("FARSIDE_LOCAL".to_owned(), Timestamp::default());
    let logs = vec![LogMark { stream, created, incarnation: 1, seq: site, running: Hash32::ZERO }];
    let stand = Stand { logs: vec![], owners: vec![] };
    Checkpoint { logs, ..checkpoint(&"local".parse().unwrap(), 1, Hash32::ZERO, stand) }
}

#[test]
fn a_checkpoint_is_no_news_to_itself() {
    let stated = (7, last(100));
    assert_eq!(news(&applied(0, 5), None, TARGET_LOG), 0, "no source has said anything");
    assert_eq!(news(&applied(3, 5), None, TARGET_LOG), 8);
    assert_eq!(news(&applied(100, 7), Some(&stated), TARGET_LOG), 0);
    assert_eq!(news(&applied(100, 6), Some(&stated), TARGET_LOG), 7, "a log that is read again");
    assert_eq!(news(&applied(105, 9), Some(&stated), TARGET_LOG), 7);
}

#[test]
fn a_pool_behind_the_last_checkpoint_is_told_by_the_logs_that_it_shall_read() {
    let streams = ["FARSIDE_LOCAL".to_owned(), TARGET_LOG.to_owned()];
    let unread = |applied: Applied, streams| {
        let logs = unread(&applied, streams, 7, &last(100), TARGET_LOG).into_iter();
        logs.map(|log| (log.stream, log.covered)).collect::<Vec<_>>()
    };
    let (local, target) = (("FARSIDE_LOCAL".to_owned(), 100), (TARGET_LOG.to_owned(), 7));
    assert_eq!(unread(applied(100, 7), &streams), []);
    assert_eq!(unread(applied(99, 7), &streams), std::slice::from_ref(&local));
    assert_eq!(unread(applied(120, 6), &streams), std::slice::from_ref(&target));
    assert_eq!(unread(Applied::new(), &streams), [local, target], "not begun");
    assert_eq!(unread(applied(0, 7), &streams[1..]), [], "of a site that it does not read any more");
}

#[test]
fn what_is_signed_of_a_log_that_was_made_anew_or_lost_its_end_is_waited_for_by_nobody() {
    let streams = ["FARSIDE_LOCAL".to_owned(), TARGET_LOG.to_owned()];
    let [log, of_target] =
        <[Unread; 2]>::try_from(unread(&applied(9, 6), &streams, 7, &last(100), TARGET_LOG)).unwrap();
    let (signed, anew) = (Timestamp::default(), Timestamp::from_unix_ms(1));
    assert!(!log.is_there(anew, 5_000), "made anew, and larger than it was");
    assert!(!log.is_there(signed, 99), "its end is lost, whatever comes in faster than it is read");
    assert!(log.is_there(signed, 100) && log.is_there(signed, 5_000), "the pool has to read it first");
    assert!(
        of_target.is_there(anew, 7) && !of_target.is_there(anew, 6),
        "the checkpoint itself stands there"
    );
}

#[test]
fn one_is_due_after_so_many_events_or_so_much_time_and_never_without_news() {
    let when = When { events: Some(10), every_ms: Some(1_000) };
    assert!(is_due(when, 1, None) && !is_due(when, 0, None));
    assert!(is_due(when, 10, Some(0)) && !is_due(when, 9, Some(999)));
    assert!(is_due(when, 1, Some(1_000)) && !is_due(when, 0, Some(5_000)));
    let off = When { events: None, every_ms: None };
    assert!(!is_due(off, 99, None) && !is_due(off, 99, Some(99)));
}

fn owner(name: &str, seq: u64) -> Owner {
    Owner {
        pool: "local/dc1".parse().unwrap(),
        source: format!("/local/dc1/resource/{name}"),
        agent: None,
        at: Some(ChainPoint { epoch: Epoch(1), seq }),
        hash: Some(Hash32::ZERO),
        retired: vec![],
        digest: Digest { root: Node(0), count: 0 },
        applied: 0,
        repeats: 0,
        refused: 0,
        unchained: 0,
        last_event_at: Timestamp::default(),
        last_heartbeat: None,
        proof: None,
        gap: None,
        fork: None,
        windows: vec![],
        held_window: None,
        last_sync: None,
        last_full: None,
        last_first: None,
        since_sync: SinceSync::default(),
    }
}

#[test]
fn an_owner_is_named_when_it_changed_and_nobody_waits_for_ever() {
    let owners: Vec<_> = (0..OWNERS_MAX + 2).map(|n| owner(&format!("a{n:04}"), 1)).collect();
    let mut named = BTreeMap::new();
    let mut sign = |number: u64, owners: &[Owner]| {
        let chosen = changed(owners, &named);
        let picked: Vec<_> = owners.iter().zip(&chosen).filter(|(_, chosen)| **chosen).collect();
        let count = picked.len();
        for (owner, _) in picked {
            named.insert(key_of(owner), Named { number, what: what(owner) });
        }
        (count, chosen)
    };
    assert_eq!(sign(1, &owners).0, OWNERS_MAX);
    let moved: Vec<_> = owners.iter().map(|known| Owner { at: owner("x", 2).at, ..known.clone() }).collect();
    let (count, chosen) = sign(2, &moved);
    assert!(
        count == OWNERS_MAX && chosen[OWNERS_MAX] && chosen[OWNERS_MAX + 1],
        "those that were left out come first"
    );
    assert_eq!(sign(3, &moved).0, 2);
    assert_eq!(sign(4, &moved).0, 0);
}
