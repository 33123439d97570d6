//! Chains: repeats, gaps, forks, epochs, rewinds.

use bus_schema::{
    Epoch,
    chain::ChainPoint,
    event::{
        agent::{AgentEvent, EpochClosed},
        resource::SyncScope,
    },
};

use super::support::{Agent, CREATED, Log, Pool, SITE, at, given, name};
use crate::{Stated, StoreError};

fn log_of(agent: &mut Agent, keys: std::ops::Range<u32>) -> Log {
    let mut log = Log::default();
    keys.for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n}"), "1", "{}");
    });
    log
}

#[test]
fn an_event_that_comes_again_is_dropped_and_counted() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..5);
    let first = log.messages.clone();
    agent.changed(&mut log, "Pod/0", "2", "{}");
    // The same batch, sent again after its answer was lost: in one commit, and across commits.
    first.iter().for_each(|message| {
        log.repeat(message);
    });
    let mut pool = given(&log);
    first.iter().for_each(|message| {
        log.repeat(message);
    });
    agent.changed(&mut log, "Pod/1", "2", "{}");
    pool.read_on(&log);
    let owner = pool.owner(&agent);
    assert_eq!((owner.applied, owner.repeats, owner.refused), (7, 10, 0));
    assert_eq!(owner.since_sync.changes, 7);
    assert_eq!(pool.pending(), []);
    assert_eq!(pool.row("dc1", "Pod/0").unwrap().revision.unwrap().as_str(), "2");
    assert_eq!(pool.row("dc1", "Pod/1").unwrap().revision.unwrap().as_str(), "2");
}

#[test]
fn a_run_that_overlaps_what_is_known_is_taken_in_from_there_on() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..3);
    let mut pool = given(&log);
    let known = log.messages.clone();
    known.iter().for_each(|message| {
        log.repeat(message);
    });
    agent.deleted(&mut log, "Pod/2");
    agent.noticed(&mut log, "Pod/1", "2", "{}");
    pool.read_on(&log);
    let owner = pool.owner(&agent);
    assert_eq!((owner.applied, owner.repeats), (5, 3));
    pool.then("dc1", &[("Pod/0", "1"), ("Pod/1", "1")]);
    assert!(pool.row("dc1", "Pod/1").unwrap().notice.is_some());
}

#[test]
fn a_gap_is_stated_marks_the_owner_and_does_not_stop_it() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    agent.say("resource", "Pod/lost", "changed", b"{}".to_vec());
    agent.changed(&mut log, "Pod/b", "1", "{}");
    let pool = given(&log);
    pool.then("dc1", &[("Pod/a", "1"), ("Pod/b", "1")]);
    assert_eq!(pool.facts(), ["gap_found"]);
    let gap = pool.owner(&agent).gap.unwrap();
    assert_eq!((gap.after.seq, gap.before.seq, gap.place.as_str()), (1, 3, "FARSIDE_LOCAL:2"));
    assert_eq!(gap.stored_at.unix_ms(), CREATED + 2000);
    assert!(!pool.owner(&agent).in_sync());
}

#[test]
fn a_fork_is_stated_once_and_its_branch_is_refused() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..5);
    // Restored from a backup that is two events old.
    let mut restored = agent.clone();
    let mut pool = given(&log);
    restored.at.seq -= 2;
    restored.prev = {
        let mut again = Agent::new("dc1", "inv");
        log_of(&mut again, 0..3);
        again.prev
    };
    restored.branch = 1;
    for n in 0..5 {
        restored.changed(&mut log, &format!("Pod/{n}"), "wrong", "{}");
    }
    pool.read_on(&log);
    assert_eq!(pool.facts(), ["forked"]);
    let owner = pool.owner(&agent);
    let fork = owner.fork.clone().unwrap();
    assert_eq!((fork.at.seq, fork.place.as_str()), (4, "FARSIDE_LOCAL:6"));
    assert_eq!((owner.applied, owner.refused, owner.at.unwrap().seq), (5, 5, 5));
    assert!(pool.rows("dc1").iter().all(|(_, revision)| revision == "1"));

    restored.rebase(2);
    restored.changed(&mut log, "Pod/0", "right", "{}");
    pool.read_on(&log);
    assert_eq!(pool.owner(&agent).fork, None, "a new epoch ends a fork");
    assert_eq!(pool.row("dc1", "Pod/0").unwrap().revision.unwrap().as_str(), "right");
}

#[test]
fn a_fork_in_one_batch_does_not_hide_what_was_taken_in_before_it() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..2);
    let mut branch = agent.clone();
    branch.branch = 1;
    agent.changed(&mut log, "Pod/0", "good", "{}");
    branch.changed(&mut log, "Pod/0", "bad", "{}");
    branch.changed(&mut log, "Pod/1", "bad", "{}");
    agent.changed(&mut log, "Pod/2", "good", "{}");
    let pool = given(&log);
    pool.then("dc1", &[("Pod/0", "good"), ("Pod/1", "1"), ("Pod/2", "good")]);
    assert_eq!(pool.facts(), ["forked"]);
}

#[test]
fn a_new_epoch_supersedes_and_the_old_one_is_refused_for_ever() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..2);
    let mut old = agent.clone();
    agent.rebase(9);
    agent.changed(&mut log, "Pod/0", "new", "{}");
    old.changed(&mut log, "Pod/0", "late", "{}");
    old.changed(&mut log, "Pod/1", "late", "{}");
    let pool = given(&log);
    pool.then("dc1", &[("Pod/0", "new"), ("Pod/1", "1")]);
    let owner = pool.owner(&agent);
    assert_eq!((owner.retired, owner.refused), (vec![ChainPoint { epoch: Epoch(1), seq: 2 }], 2));
    assert_eq!(owner.at, Some(ChainPoint { epoch: Epoch(9), seq: 1 }));
    let reasons = pool.reasons();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].contains("epoch 0000000000000001") && reasons[0].contains("is over"), "{reasons:?}");
    let Stated::DeadLetter(letter) = &pool.pending()[0].what else { panic!() };
    assert_eq!((letter.seq, &letter.message), (4, &None), "the log has the message");
}

#[test]
fn an_epoch_that_begins_in_the_middle_has_a_gap() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.say("resource", "Pod/lost", "changed", b"{}".to_vec());
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let pool = given(&log);
    assert_eq!(pool.facts(), ["gap_found"]);
    assert_eq!(pool.owner(&agent).gap.unwrap().after.seq, 0);
}

#[test]
fn an_epoch_that_was_closed_with_losses_is_not_in_sync() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..2);
    let digest = given(&log).digest(&agent);
    let low = agent.open(&mut log, "s1", SyncScope::Full);
    agent.changed(&mut log, "Pod/0", "1", "{}");
    agent.changed(&mut log, "Pod/1", "1", "{}");
    agent.close(&mut log, "s1", SyncScope::Full, low, digest);
    let mut pool = given(&log);
    assert!(pool.owner(&agent).in_sync());
    agent.rebase(2);
    let closed = EpochClosed {
        agent: name("inv"),
        epoch: Epoch(1),
        reason: "the outbox is full".to_owned(),
        dropped: 3,
    };
    let event = AgentEvent::EpochClosed(closed);
    let message = agent.say("agent", "inv", event.name(), event.data().unwrap());
    log.repeat(&message);
    pool.read_on(&log);
    assert!(!pool.owner(&agent).in_sync());
}

#[test]
fn a_bad_event_keeps_its_place_in_the_chain() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let bad = agent.say("resource", "Pod/bad", "changed", b"{\"kind\":1}".to_vec());
    log.repeat(&bad);
    agent.changed(&mut log, "Pod/b", "1", "{}");
    log.repeat(&bad);
    let pool = given(&log);
    pool.then("dc1", &[("Pod/a", "1"), ("Pod/b", "1")]);
    assert_eq!((pool.facts().len(), pool.reasons().len()), (0, 1), "no gap, and buried once");
    assert_eq!(pool.owner(&agent).repeats, 1);
}

#[test]
fn a_heartbeat_is_compared_only_at_the_place_that_the_pool_is_at() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..3);
    let digest = given(&log).digest(&agent);
    agent.heartbeat(&mut log, Some(digest));
    // In one batch with what comes before and after it.
    agent.changed(&mut log, "Pod/9", "1", "{}");
    let mut pool = given(&log);
    assert_eq!(pool.owner(&agent).last_heartbeat.unwrap().equal, Some(true));
    agent.heartbeat(&mut log, Some(digest));
    pool.read_on(&log);
    assert_eq!(pool.owner(&agent).last_heartbeat.unwrap().equal, Some(false));
    assert!(!pool.owner(&agent).in_sync());
    let mut ahead = agent.clone();
    ahead.at.seq += 1;
    ahead.heartbeat(&mut log, Some(digest));
    agent.heartbeat(&mut log, None);
    pool.read_on(&log);
    assert_eq!(pool.owner(&agent).last_heartbeat.unwrap().equal, None);
}

/// The log lost its tail; the stream was made again from what was left, and is read from its start.
fn rewind(pool: &mut Pool) {
    let created = at(CREATED + 1);
    let again = pool.store.begin_log(SITE, created).unwrap_err();
    assert!(matches!(again, StoreError::OtherLog { .. }), "{again}");
    assert_eq!(pool.store.rewind(SITE, created).unwrap().incarnation, 2);
    pool.read = 0;
}

#[test]
fn a_rewound_log_is_read_again_without_taking_in_anything_twice() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..5);
    let old = agent.clone();
    agent.rebase(2);
    for n in 3..7 {
        agent.changed(&mut log, &format!("Pod/{n}"), "2", "{}");
    }
    agent.unchained(&mut log, "Pod", "p");
    agent.changed(&mut log, "Pod/lost", "1", "{}");
    let mut pool = given(&log);
    let (rows, changes) = (pool.rows("dc1"), pool.owner(&agent).since_sync);
    log.lose(1);
    rewind(&mut pool);
    pool.read_on(&log);
    assert_eq!(pool.rows("dc1"), rows, "what was lost with the log's tail stays in the pool");
    let owner = pool.owner(&agent);
    assert_eq!((owner.applied, owner.unchained, owner.repeats, owner.refused), (10, 1, 10, 0));
    assert_eq!((owner.since_sync, owner.fork, owner.gap), (changes, None, None));
    assert_eq!(pool.store.position(SITE).unwrap().unwrap().seq, 10);
    assert_eq!(pool.pending(), [], "no false dead letter");

    // What is news is told as ever: the agent goes on, a restored one does not.
    agent.changed(&mut log, "Pod/news", "1", "{}");
    let mut old = old;
    old.changed(&mut log, "Pod/0", "late", "{}");
    pool.read_on(&log);
    assert!(pool.row("dc1", "Pod/news").is_some());
    assert_eq!((pool.owner(&agent).refused, pool.reasons().len()), (1, 1));
}

#[test]
fn an_owner_with_ever_new_epochs_has_a_small_record_and_no_epoch_of_it_ever_comes_back() {
    let mut agent = Agent::new("dc1", "cron");
    let mut log = log_of(&mut agent, 0..2);
    let mut first = agent.clone();
    for epoch in 2..200 {
        agent.rebase(epoch);
        agent.changed(&mut log, &format!("Pod/{}", epoch % 5), &format!("r{epoch}"), "{}");
    }
    let mut pool = given(&log);
    let owner = pool.owner(&agent);
    assert!(owner.retired.len() < 20, "every commit reads and writes them: {}", owner.retired.len());
    assert_eq!(owner.retired.last(), Some(&ChainPoint { epoch: Epoch(198), seq: 1 }));
    let rows = pool.rows("dc1");
    rewind(&mut pool);
    pool.read_on(&log);
    assert_eq!((pool.rows("dc1"), pool.pending()), (rows.clone(), vec![]), "all of it are repeats");

    first.changed(&mut log, "Pod/0", "late", "{}");
    pool.read_on(&log);
    assert_eq!(pool.rows("dc1"), rows);
    assert!(pool.reasons().len() == 1 && pool.reasons()[0].contains("is over"), "{:?}", pool.reasons());
    assert!(!pool.owner(&agent).has_retired(Epoch(1)));
    first.heartbeat(&mut log, None);
    pool.read_on(&log);
    assert!(pool.owner(&agent).has_retired(Epoch(1)), "whoever still speaks of it is found out");
}

#[test]
fn an_event_of_a_retired_epoch_that_comes_again_is_a_repeat() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..3);
    let sent = log.messages.clone();
    agent.rebase(2);
    agent.changed(&mut log, "Pod/0", "new", "{}");
    sent.iter().for_each(|message| {
        log.repeat(message);
    });
    let pool = given(&log);
    assert_eq!((pool.owner(&agent).repeats, pool.owner(&agent).refused), (3, 0));
    assert_eq!(
        (pool.pending().len(), pool.row("dc1", "Pod/0").unwrap().revision.unwrap().as_str()),
        (0, "new")
    );
}

#[test]
fn after_a_rewind_older_unchained_events_change_nothing_and_newer_ones_count() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let plain = |log: &mut Log, id: &str, revision: &str| {
        let data = format!(r#"{{"kind":"Pod","id":"{id}","revision":"{revision}","state":{{}}}}"#);
        log.plain("dc1", "Pod", id, "changed", &data);
    };
    plain(&mut log, "a", "old");
    log.append("nonsense", Vec::new(), Vec::new());
    agent.changed(&mut log, "Pod/a", "newer", "{}");
    plain(&mut log, "b", "1");
    plain(&mut log, "lost", "1");
    let mut pool = given(&log);
    let (rows, letters) = (pool.export("dc1"), pool.pending());
    log.lose(1);
    rewind(&mut pool);
    pool.read_on(&log);
    assert_eq!((pool.export("dc1"), pool.pending()), (rows, letters));
    // At the place in the log where `lost` was.
    plain(&mut log, "b", "2");
    log.append("other nonsense", Vec::new(), Vec::new());
    pool.read_on(&log).then("dc1", &[("Pod/a", "newer"), ("Pod/b", "2"), ("Pod/lost", "1")]);
    assert_eq!(pool.reasons().len(), 2);
    let differences = crate::compare::diff(&pool.reader(), &given(&log).reader()).unwrap();
    let what: Vec<_> = differences.iter().map(|found| (found.of, found.what.as_str())).collect();
    let plain = "owner /local/dc1/resource/plain";
    let expected = [(crate::compare::Of::Content, "row Pod/lost"), (crate::compare::Of::Source, plain)];
    assert_eq!(what, expected, "a rebuild names what the log does not hold any more");
}

#[test]
fn two_tiny_events_with_the_largest_numbers_are_dead_letters_and_stop_nothing() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let notice = |id: &str, size: u64| {
        let hash = bus_schema::Hash32::ZERO;
        format!(r#"{{"kind":"Pod","id":"{id}","revision":"1","state_hash":"{hash}","size_bytes":"{size}"}}"#)
    };
    for id in ["a", "b"] {
        log.plain("dc1", "Pod", id, "noticed", &notice(id, u64::MAX));
        log.plain("dc1", "Pod", id, "noticed", &notice(id, 1 << 53));
    }
    let mut far = agent.clone();
    for seq in [u64::MAX - 1, 1 << 53] {
        far.at.seq = seq;
        far.changed(&mut log, "Pod/far", "1", "{}");
    }
    agent.changed(&mut log, "Pod/after", "1", "{}");
    let pool = given(&log);
    let reasons = pool.reasons();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons[0].starts_with("$.size_bytes") && reasons[0].contains("2^53"), "{reasons:?}");
    assert!(reasons[2].starts_with("farseq") && reasons[2].contains("2^53"), "{reasons:?}");
    assert_eq!(pool.reader().counters(&super::support::pool_id("dc1")).unwrap().sum.outstanding, 2);
    assert!(pool.row("dc1", "Pod/after").is_some());
}

#[test]
fn a_batch_that_does_not_follow_the_position_is_refused() {
    let mut agent = Agent::new("dc1", "inv");
    let log = log_of(&mut agent, 0..5);
    let pool = given(&log);
    let error = pool.store.commit(super::support::batch(&log.messages[3..])).unwrap_err();
    assert!(matches!(error, StoreError::NotNext { first: 4, at: 5, .. }), "{error}");
    let unknown = crate::Batch::new("FARSIDE_OTHER");
    assert!(matches!(pool.store.commit(unknown), Err(StoreError::UnknownLog { .. })));
}

#[test]
fn hashes_of_a_thousand_events_tell_a_fork_from_a_repeat() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..1500);
    let mut pool: Pool = given(&log);
    let mut branch = Agent::new("dc1", "inv");
    branch.branch = 1;
    let other = log_of(&mut branch, 0..1500);
    // Older than what is remembered: taken for a repeat. Younger: a fork.
    log.repeat(&other.messages[100]);
    pool.read_on(&log);
    assert_eq!((pool.owner(&agent).repeats, pool.facts().len()), (1, 0));
    log.repeat(&other.messages[500]);
    pool.read_on(&log);
    assert_eq!(pool.facts(), ["forked"]);
}

#[test]
fn after_a_rewind_a_place_in_the_log_means_another_message() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    log.append("nonsense.1", Vec::new(), Vec::new());
    for id in ["kept", "lost"] {
        agent.unchained(&mut log, "Pod", id);
    }
    let mut pool = given(&log);
    let mut again = Log::written_after(&log);
    again.append("nonsense.2", Vec::new(), Vec::new());
    // The log has forgotten both; a full answer has one of them.
    let low = agent.open(&mut again, "s1", SyncScope::Full);
    agent.changed(&mut again, "Pod/kept", "2", "{}");
    agent.close(&mut again, "s1", SyncScope::Full, low, pool.digest(&agent));
    pool.store.rewind(SITE, at(CREATED + 1)).unwrap();
    pool.read = 0;
    pool.read_on(&again).then("dc1", &[("Pod/kept", "2")]);
    let subjects: Vec<_> = pool
        .pending()
        .into_iter()
        .filter_map(|pending| match pending.what {
            Stated::DeadLetter(letter) => letter.message.map(|message| message.subject),
            Stated::Fact(_) => None,
        })
        .collect();
    assert_eq!(subjects, ["nonsense.1", "nonsense.2"]);
}

#[test]
fn trouble_is_dated_from_the_first_heartbeat_that_spoke_of_it() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = log_of(&mut agent, 0..1);
    let mut pool = given(&log);
    let mut since = |trouble| {
        agent.beat(&mut log, None, trouble);
        pool.read_on(&log);
        pool.owner(&agent).last_heartbeat.unwrap().trouble_since
    };
    assert_eq!(since(None), None);
    let first = since(Some("the directory is gone"));
    assert!(first.is_some());
    assert_eq!(since(Some("it is unreadable")), first);
    assert_eq!(since(None), None);
    assert!(since(Some("gone again")) > first);
}
