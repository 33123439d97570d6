//! Sync answers: windows, tombstones, the guard.

use bus_schema::{
    digest::Digest,
    event::resource::SyncScope::{Full, Incremental, Keys},
    fact::{
        Fact,
        resource::{EmptyConfirmed, ResourceFact},
    },
};

use super::support::{Agent, CREATED, Log, Pool, SITE, TARGET, given, key, pool_id};
use crate::compare;

const NOTHING: Digest = Digest { root: bus_schema::digest::Node(0), count: 0 };

fn filled(agent: &mut Agent, count: u32) -> Log {
    let mut log = Log::default();
    (0..count).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n:02}"), "1", "{}");
    });
    log
}

fn confirmed(agent: &Agent, sync_id: &str) -> Fact {
    Fact::Resource(ResourceFact::EmptyConfirmed(EmptyConfirmed {
        pool: pool_id(&agent.cluster),
        owner: agent.source.clone(),
        sync_id: sync_id.to_owned(),
        actor: "operator".to_owned(),
    }))
}

#[test]
fn r2_a_full_answer_deletes_what_it_does_not_have_and_keeps_what_changed_meanwhile() {
    let mut agent = Agent::new("dc1", "inv");
    let mut other = Agent::new("dc1", "other");
    let mut log = filled(&mut agent, 4);
    other.changed(&mut log, "Node/mine", "1", "{}");
    let low = agent.open(&mut log, "s1", Full);
    agent.changed(&mut log, "Pod/00", "1", "{}");
    // A change during the window, with no sync id: it wins.
    agent.sync = None;
    agent.changed(&mut log, "Pod/01", "2", "{}");
    agent.sync = Some("s1".to_owned());
    let before = given(&log);
    let digest = {
        let mut expected = log.clone();
        let mut twin = agent.clone();
        twin.deleted(&mut expected, "Pod/02");
        twin.deleted(&mut expected, "Pod/03");
        given(&expected).digest(&agent)
    };
    let closed = agent.close(&mut log, "s1", Full, low, digest);
    let mut pool = before;
    pool.read_on(&log);
    pool.then("dc1", &[("Node/mine", "1"), ("Pod/00", "1"), ("Pod/01", "2")]);
    let grave = pool.row("dc1", "Pod/02").unwrap();
    assert_eq!(grave.deleted_at.unwrap().unix_ms(), CREATED + 1000 * closed as i64);
    let buried = |at: &str| pool.reader().buried(&pool_id("dc1"), &key(at)).unwrap().value;
    assert_eq!(buried("Pod/02"), [(SITE.to_owned(), closed)], "its own subject does not tell of it");
    assert_eq!(buried("Pod/01"), []);
    let owner = pool.owner(&agent);
    let last = owner.last_sync.clone().unwrap();
    assert_eq!((last.swept, last.broken, last.equal), (2, None, true));
    assert_eq!((owner.since_sync.changes, owner.since_sync.bytes), (0, 0));
    assert!(owner.in_sync() && owner.windows.is_empty());
}

#[test]
fn an_incremental_answer_deletes_nothing_and_an_answer_about_keys_resets_no_counter() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 4);
    let low = agent.open(&mut log, "k1", Keys);
    agent.close(&mut log, "k1", Keys, low, NOTHING);
    let mut pool = given(&log);
    assert_eq!(pool.owner(&agent).since_sync.changes, 4);
    let low = agent.open(&mut log, "s1", Incremental);
    agent.close(&mut log, "s1", Incremental, low, NOTHING);
    pool.read_on(&log);
    assert_eq!(pool.rows("dc1").len(), 4);
    let owner = pool.owner(&agent);
    assert_eq!(owner.since_sync.changes, 0);
    assert!(!owner.last_sync.clone().unwrap().equal && !owner.in_sync());
}

/// The end of an answer as one tells it who is no agent.
fn unchained_close(publisher: &Agent, log: &mut Log) {
    let mut aside = Log::default();
    publisher.clone().close(&mut aside, "s9", Full, publisher.at, NOTHING);
    let message = aside.messages.remove(0);
    let headers = message.headers.into_iter().filter(|(name, _)| !name.starts_with("ce-far")).collect();
    log.append(&message.subject, headers, message.body);
}

#[test]
fn r6_the_end_of_an_agents_answer_resets_what_publishers_without_an_agent_told_before_it() {
    let (mut agent, mut other) = (Agent::new("dc1", "inv"), Agent::new("dc1", "other"));
    let (publisher, elsewhere) = (Agent::new("dc1", "publisher"), Agent::new("dc2", "publisher"));
    let mut log = filled(&mut other, 1);
    let tell = |log: &mut Log| {
        log.plain("dc1", "vm", "1", "changed", r#"{"kind":"vm","id":"1","revision":"1","state":{}}"#);
        publisher.unchained(log, "vm", "2");
        elsewhere.unchained(log, "vm", "1");
    };
    // What came before each end, what came after it, and at which counts the two of dc1 stand then.
    let mut expected = Vec::new();
    for (scope, sync_id, left) in [(Keys, "k1", 2), (Incremental, "s1", 1), (Full, "s2", 1)] {
        let low = agent.open(&mut log, sync_id, scope);
        tell(&mut log);
        agent.close(&mut log, sync_id, scope, low, NOTHING);
        tell(&mut log);
        expected.push((log.messages.len(), left));
    }
    for most in [1, 2, 5, usize::MAX] {
        let mut pool = Pool::new();
        let changes = |pool: &Pool, of: &Agent| pool.owner(of).since_sync.changes;
        for (length, left) in &expected {
            while pool.read < *length {
                pool.read_some(&log, most.min(length - pool.read));
            }
            let plain = pool.reader().owner(&pool_id("dc1"), "/local/dc1/resource/plain").unwrap().value;
            assert_eq!(plain.unwrap().since_sync.changes, *left, "batches of {most}");
            assert_eq!(changes(&pool, &publisher), *left, "batches of {most}");
        }
        assert_eq!(changes(&pool, &other), 1, "another agent is asked for itself");
        assert_eq!(changes(&pool, &elsewhere), 6, "another cluster");
    }

    unchained_close(&publisher, &mut log);
    let pool = given(&log);
    let sum = pool.reader().counters(&pool_id("dc1")).unwrap().value.sum;
    assert_eq!((sum.changes, sum.bytes), (2, 4), "the plain one's and the other agent's: nobody was asked");
}

#[test]
fn an_answer_with_a_hole_or_without_its_opening_deletes_nothing() {
    for hole in ["gap", "dead letter", "no opening"] {
        let mut agent = Agent::new("dc1", "inv");
        let mut log = filled(&mut agent, 3);
        let low = agent.at;
        if hole == "no opening" {
            agent.say("resource", "sync/s1", "sync_opened", b"lost".to_vec());
        } else {
            agent.open(&mut log, "s1", Full);
        }
        match hole {
            "gap" => {
                agent.say("resource", "Pod/00", "changed", b"{}".to_vec());
            }
            _ => {
                let bad = agent.say("resource", "Pod/00", "changed", b"{}".to_vec());
                log.repeat(&bad);
            }
        }
        agent.close(&mut log, "s1", Full, low, NOTHING);
        let pool = given(&log);
        assert_eq!(pool.rows("dc1").len(), 3, "{hole}");
        assert!(pool.owner(&agent).last_sync.unwrap().broken.is_some(), "{hole}");
    }
}

#[test]
fn a_full_answer_after_a_gap_fills_it() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 2);
    agent.say("resource", "Pod/00", "deleted", b"{}".to_vec());
    agent.changed(&mut log, "Pod/02", "1", "{}");
    let low = agent.open(&mut log, "s1", Full);
    agent.changed(&mut log, "Pod/01", "1", "{}");
    agent.changed(&mut log, "Pod/02", "1", "{}");
    agent.close(&mut log, "s1", Full, low, NOTHING);
    let pool = given(&log);
    pool.then("dc1", &[("Pod/01", "1"), ("Pod/02", "1")]);
    assert_eq!(pool.owner(&agent).gap, None);
}

#[test]
fn an_empty_inventory_is_held_until_a_person_confirms_it() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 12);
    let low = agent.open(&mut log, "s1", Full);
    let closed = agent.close(&mut log, "s1", Full, low, NOTHING);
    agent.changed(&mut log, "Pod/05", "later", "{}");
    let mut pool = given(&log);
    assert_eq!(pool.rows("dc1").len(), 12);
    assert_eq!(pool.facts(), ["window_held"]);
    let held = pool.owner(&agent).held_window.unwrap();
    assert_eq!((held.would_delete, held.rows, held.closed_seq), (12, 12, closed));
    assert!(!pool.owner(&agent).in_sync());

    log.fact(&confirmed(&agent, "another"));
    pool.read_on(&log);
    assert_eq!(pool.rows("dc1").len(), 12);
    log.fact(&confirmed(&agent, "s1"));
    pool.read_on(&log).then("dc1", &[("Pod/05", "later")]);
    let owner = pool.owner(&agent);
    assert_eq!((owner.held_window, owner.last_sync.unwrap().swept), (None, 11));
    let grave = pool.row("dc1", "Pod/00").unwrap();
    assert_eq!(grave.place, format!("FARSIDE_LOCAL:{closed}"), "the tombstone is the close's");

    // Read again with the person's word before the log that it speaks of: the same pool.
    let mut swapped = log.clone();
    swapped.messages.sort_by_key(|message| message.stream != super::support::TARGET);
    let again = given(&swapped);
    assert_eq!(again.export("dc1"), pool.export("dc1"));
    assert_eq!(again.facts(), Vec::<&str>::new());
}

#[test]
fn the_guard_needs_more_than_half_and_ten_rows() {
    for (rows, kept, is_held) in [(9, 0, false), (20, 10, false), (20, 9, true), (19, 9, true), (10, 0, true)]
    {
        let mut agent = Agent::new("dc1", "inv");
        let mut log = filled(&mut agent, rows);
        let low = agent.open(&mut log, "s1", Full);
        (0..kept).for_each(|n| {
            agent.changed(&mut log, &format!("Pod/{n:02}"), "1", "{}");
        });
        agent.close(&mut log, "s1", Full, low, NOTHING);
        let pool = given(&log);
        assert_eq!(pool.owner(&agent).held_window.is_some(), is_held, "{kept} of {rows}");
        let left = if is_held { rows } else { kept };
        assert_eq!(pool.rows("dc1").len(), left as usize, "{kept} of {rows}");
    }
}

#[test]
fn a_held_window_waits_for_a_person_across_a_new_epoch() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 12);
    let low = agent.open(&mut log, "s1", Full);
    agent.close(&mut log, "s1", Full, low, NOTHING);
    agent.rebase(2);
    agent.changed(&mut log, "Pod/00", "new", "{}");
    log.fact(&confirmed(&agent, "s1"));
    let pool = given(&log);
    pool.then("dc1", &[("Pod/00", "new")]);
    assert_eq!(pool.owner(&agent).held_window, None);
    in_any_order(&log);
}

/// The pool of this log is the same whichever log is read first.
fn in_any_order(log: &Log) {
    let live = given(log);
    for first in [SITE, TARGET] {
        let mut ordered = log.clone();
        ordered.messages.sort_by_key(|message| message.stream != first);
        let again = given(&ordered);
        assert_eq!(again.export("dc1"), live.export("dc1"), "{first} first");
        assert_eq!(compare::diff(&live.reader(), &again.reader()).unwrap(), [], "{first} first");
    }
}

#[test]
fn a_confirmed_deletion_stays_after_another_answer_in_whatever_order_logs_are_read() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 30);
    let low = agent.open(&mut log, "s1", Full);
    agent.close(&mut log, "s1", Full, low, NOTHING);
    log.fact(&confirmed(&agent, "s1"));
    let low = agent.open(&mut log, "s2", Full);
    agent.close(&mut log, "s2", Full, low, NOTHING);
    given(&log).then("dc1", &[]);
    in_any_order(&log);
}

#[test]
fn a_person_may_confirm_a_held_window_after_another_answer() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 30);
    let low = agent.open(&mut log, "s1", Full);
    let closed = agent.close(&mut log, "s1", Full, low, NOTHING);
    agent.noticed(&mut log, "Pod/07", "2", "{}");
    let low = agent.open(&mut log, "s2", Full);
    agent.changed(&mut log, "Pod/03", "1", "{}");
    agent.close(&mut log, "s2", Full, low, NOTHING);
    let mut pool = given(&log);
    let held = pool.owner(&agent).held_window.unwrap();
    assert_eq!((held.sync_id.as_str(), pool.rows("dc1").len()), ("s1", 29), "s2 lacks what was noticed");
    log.fact(&confirmed(&agent, "s1"));
    pool.read_on(&log).then("dc1", &[("Pod/03", "1")]);
    assert_eq!(pool.owner(&agent).held_window, None);
    assert_eq!(pool.row("dc1", "Pod/29").unwrap().place, format!("FARSIDE_LOCAL:{closed}"));
    in_any_order(&log);
}

#[test]
fn an_answer_that_has_most_of_it_again_settles_a_held_window() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 30);
    let low = agent.open(&mut log, "s1", Full);
    agent.close(&mut log, "s1", Full, low, NOTHING);
    let low = agent.open(&mut log, "s2", Full);
    (0..20).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n:02}"), "1", "{}");
    });
    agent.close(&mut log, "s2", Full, low, NOTHING);
    let pool = given(&log);
    assert_eq!((pool.rows("dc1").len(), pool.owner(&agent).held_window), (20, None));
    log.fact(&confirmed(&agent, "s1"));
    in_any_order(&log);
}

#[test]
fn an_answer_about_keys_inside_a_full_one_leaves_the_full_one_whole() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 20);
    let low = agent.open(&mut log, "s1", Full);
    (0..10).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n:02}"), "1", "{}");
    });
    let keys = agent.open(&mut log, "k1", Keys);
    agent.changed(&mut log, "Pod/00", "1", "{}");
    agent.close(&mut log, "k1", Keys, keys, NOTHING);
    agent.sync = Some("s1".to_owned());
    (10..16).for_each(|n| {
        agent.changed(&mut log, &format!("Pod/{n:02}"), "1", "{}");
    });
    agent.close(&mut log, "s1", Full, low, NOTHING);
    let pool = given(&log);
    let last = pool.owner(&agent).last_sync.unwrap();
    assert_eq!((pool.rows("dc1").len(), last.swept, last.broken), (16, 4, None));
}

#[test]
fn only_a_whole_full_answer_makes_an_owner_in_sync() {
    for (scope, hole, expected) in
        [(Keys, false, false), (Incremental, false, false), (Full, true, false), (Full, false, true)]
    {
        let mut agent = Agent::new("dc1", "inv");
        let mut log = Log::default();
        let low = agent.open(&mut log, "s1", scope);
        if hole {
            let bad = agent.say("resource", "Pod/x", "changed", b"{}".to_vec());
            log.repeat(&bad);
        }
        agent.changed(&mut log, "Pod/00", "1", "{}");
        let digest = given(&log).digest(&agent);
        agent.close(&mut log, "s1", scope, low, digest);
        let pool = given(&log);
        assert_eq!(pool.owner(&agent).in_sync(), expected, "{scope:?} {hole}");
        assert_eq!(pool.owner(&agent).last_full.is_some(), expected, "{scope:?} {hole}");
    }
}

#[test]
fn a_full_answer_of_a_new_epoch_deletes_what_the_old_one_left() {
    let mut agent = Agent::new("dc1", "inv");
    let mut log = filled(&mut agent, 3);
    agent.rebase(2);
    let low = agent.open(&mut log, "s1", Full);
    agent.changed(&mut log, "Pod/01", "new", "{}");
    agent.close(&mut log, "s1", Full, low, NOTHING);
    given(&log).then("dc1", &[("Pod/01", "new")]);
}

#[test]
fn rows_of_unchained_events_are_swept_by_their_place_in_the_log() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.unchained(&mut log, "Pod", "before");
    let low = agent.open(&mut log, "s1", Full);
    agent.unchained(&mut log, "Pod", "inside");
    agent.close(&mut log, "s1", Full, low, NOTHING);
    given(&log).then("dc1", &[("Pod/inside", "1")]);
}
