//! Messages that were parked, and their copies.

use bus_schema::{
    Epoch, Hash32,
    event::resource::SyncScope,
    fact::{
        Fact,
        log::{LogFact, Parked},
    },
    redrive::REDRIVE,
};

use super::{
    originals::original,
    support::{Agent, CREATED, Log, Message, Pool, SITE, at, given, name},
};
use crate::{Batch, Order, ParkedRecord, Stated, Store, StoreOptions, records::kind_of};

/// Moves what was sent as `name` to where it belongs.
pub(super) const MEND: &str = r#"[{"op":"move","from":"/name","path":"/id"}]"#;

/// A change of `Pod/<id>`.
fn change(agent: &mut Agent, log: &mut Log, id_is: &str, id: &str, revision: &str) -> u64 {
    let body =
        format!(r#"{{"kind":"Pod","{id_is}":"{id}","revision":"{revision}","state":{{"n":{revision}}}}}"#);
    let message = agent.say("resource", &format!("Pod/{id}"), "changed", body.into_bytes());
    log.repeat(&message)
}

/// One that cannot be read, because it names the id otherwise.
pub(super) fn poison(agent: &mut Agent, log: &mut Log, id: &str, revision: &str) -> u64 {
    change(agent, log, "name", id, revision)
}

/// A change of `Pod/<id>` without a place in a chain.
fn plain_change(log: &mut Log, id_is: &str, id: &str, revision: &str) -> u64 {
    let body = format!(r#"{{"kind":"Pod","{id_is}":"{id}","revision":"{revision}","state":{{}}}}"#);
    log.plain("dc1", "Pod", id, "changed", &body)
}

pub(super) fn plain_poison(log: &mut Log, id: &str, revision: &str) -> u64 {
    plain_change(log, "name", id, revision)
}

pub(super) fn record(pool: &Pool, seq: u64) -> ParkedRecord {
    pool.reader().parked_record(SITE, seq).unwrap().value.expect("it was parked")
}

pub(super) fn parked(pool: &Pool) -> u64 {
    pool.reader().dead_letters().unwrap().value
}

pub(super) fn facts_of(pool: &Pool) -> Vec<Parked> {
    let fact = |entry: crate::Pending| match entry.what {
        Stated::DeadLetter(letter) => Some(Parked {
            subject: letter.message.map(|message| message.subject).unwrap_or_default(),
            stream: letter.stream,
            seq: letter.seq,
            reason: letter.reason,
            path: letter.path,
            stored_at: Some(letter.stored_at),
            at: letter.at,
            copy_of: None,
        }),
        Stated::Fact(Fact::Log(LogFact::Parked(fact))) => Some(fact),
        Stated::Fact(_) => None,
    };
    pool.pending().into_iter().filter_map(fact).collect()
}

#[test]
fn a_mended_copy_is_taken_in_once_however_often_it_comes() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/b", "1", "{}");
    let seq = poison(&mut agent, &mut log, "a", "2");
    agent.changed(&mut log, "Pod/c", "3", "{}");
    let mut pool = given(&log);
    pool.then("dc1", &[("Pod/b", "1"), ("Pod/c", "3")]);
    assert_eq!((parked(&pool), record(&pool, seq).redriven), (1, None));
    let copy = log.redrive(seq, Some(MEND));
    pool.read_on(&log).then("dc1", &[("Pod/a", "2"), ("Pod/b", "1"), ("Pod/c", "3")]);
    let owner = pool.owner(&agent);
    assert_eq!((parked(&pool), record(&pool, seq).redriven, owner.fork.clone()), (0, Some(copy), None));
    assert_eq!((owner.at, owner.applied, owner.repeats, owner.refused), (Some(agent.at), 3, 0, 0));
    let row = pool.row("dc1", "Pod/a").unwrap();
    let Order::Chained(place) = row.order else { panic!("it has its place in the chain") };
    assert_eq!((place.seq, row.place.as_str()), (2, "FARSIDE_LOCAL:2"), "where the original stands");
    let before = pool.export("dc1");
    log.redrive(seq, Some(MEND));
    log.redrive(seq, None);
    assert_eq!(pool.read_on(&log).export("dc1"), before);
    assert_eq!(pool.owner(&agent).repeats, 1, "of what cannot be read nobody knows whose it is");
    let reasons = pool.reasons();
    assert_eq!(
        (reasons.len(), pool.facts()),
        (1, vec!["redriven"]),
        "one dead letter, one fact: {reasons:?}"
    );
    agent.changed(&mut log, "Pod/d", "4", "{}");
    assert_eq!(pool.read_on(&log).owner(&agent).gap, None, "the chain goes on");
}

#[test]
fn the_fact_of_a_copy_names_who_asked_and_the_upcaster() {
    let mut log = Log::default();
    let seq = plain_poison(&mut log, "a", "1");
    let copy_seq = log.redrive(seq, Some(MEND));
    let fact = given(&log).pending().into_iter().find_map(|entry| match entry.what {
        Stated::Fact(Fact::Log(LogFact::Redriven(fact))) => Some(fact),
        _ => None,
    });
    let fact = fact.expect("it is to be stated");
    assert_eq!((fact.seq, fact.copy_seq, fact.actor.as_str()), (seq, copy_seq, "kim"));
    let upcaster = fact.upcaster.unwrap();
    assert_eq!((upcaster.name.as_str(), upcaster.sha256), ("mend", Hash32::of(b"mend")));
}

#[test]
fn what_is_newer_than_the_original_stays_a_tombstone_too_and_what_is_older_goes() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let keys = ["older", "newer", "gone", "none"];
    for key in &keys[..3] {
        agent.changed(&mut log, &format!("Pod/{key}"), "1", "{}");
    }
    let parked: Vec<u64> = keys.iter().map(|key| poison(&mut agent, &mut log, key, "2")).collect();
    agent.changed(&mut log, "Pod/newer", "3", "{}");
    agent.deleted(&mut log, "Pod/gone");
    let before = given(&log);
    let mut copies = Batch::new(SITE);
    for seq in &parked {
        log.redrive(*seq, Some(MEND));
        log.messages.last().unwrap().with_stored(|stored| copies.push(stored));
    }
    let told = (before.export("dc1"), before.store.rehearse(copies).unwrap());
    assert_eq!(
        told,
        (before.export("dc1"), [parked[0], parked[3]].into()),
        "it is known before, and only told"
    );
    let pool = given(&log);
    pool.then("dc1", &[("Pod/newer", "3"), ("Pod/none", "2"), ("Pod/older", "2")]);
    assert!(pool.row("dc1", "Pod/gone").unwrap().deleted_at.is_some());
    assert_eq!([0, 1, 2, 3].map(|n| record(&pool, parked[n]).changed), [true, false, false, true]);
}

#[test]
fn an_original_without_a_chain_keeps_its_place_in_the_log() {
    let mut log = Log::default();
    let agent = Agent::new("dc1", "inv");
    let first = plain_poison(&mut log, "old", "7");
    agent.unchained(&mut log, "Pod", "old");
    agent.unchained(&mut log, "Pod", "new");
    let second = plain_poison(&mut log, "new", "7");
    log.redrive(first, Some(MEND));
    log.redrive(second, Some(MEND));
    let pool = given(&log);
    pool.then("dc1", &[("Pod/new", "7"), ("Pod/old", "1")]);
    let row = pool.row("dc1", "Pod/new").unwrap();
    assert_eq!(
        (row.order, row.place),
        (Order::Unchained { incarnation: 1, seq: second }, "FARSIDE_LOCAL:4".into())
    );
    let stored_at = at(log.messages[3].stored_at);
    assert_eq!(
        (row.stored_at, row.source_time),
        (stored_at, stored_at),
        "it names no time, so it is its place's"
    );
}

#[test]
fn after_a_full_answer_a_copy_brings_nothing_back() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let seq = poison(&mut agent, &mut log, "a", "1");
    let low = agent.open(&mut log, "s1", SyncScope::Full);
    agent.changed(&mut log, "Pod/b", "1", "{}");
    let digest = given(&log).digest(&agent);
    agent.close(&mut log, "s1", SyncScope::Full, low, digest);
    let mut pool = given(&log);
    let before = pool.export("dc1");
    log.redrive(seq, Some(MEND));
    assert_eq!(pool.read_on(&log).export("dc1"), before, "the source said that it has no Pod/a");
    assert_eq!(parked(&pool), 0, "it was taken in all the same");
    assert!(!record(&pool, seq).changed, "and is known to have changed nothing");
}

#[test]
fn a_copy_that_cannot_be_read_either_leaves_the_original_parked_with_the_new_reason() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let seq = poison(&mut agent, &mut log, "a", "1");
    log.redrive(seq, None);
    log.redrive(seq, Some(r#"[{"op":"remove","path":"/nothing"}]"#));
    let mut pool = given(&log);
    let known = record(&pool, seq);
    assert_eq!((known.attempts, known.redriven, parked(&pool)), (2, None, 1));
    assert!(known.reason.contains("does not fit the body"), "{}", known.reason);
    assert_eq!(pool.reasons().len(), 1, "no second dead letter");
    log.redrive(seq, Some(MEND));
    pool.read_on(&log).then("dc1", &[("Pod/a", "1")]);
    assert_eq!((record(&pool, seq).attempts, parked(&pool)), (2, 0));
}

#[test]
fn what_is_no_copy_of_a_parked_message_changes_nothing() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "2", "{}");
    let seq = poison(&mut agent, &mut log, "b", "1");
    let before = given(&log).export("dc1");
    log.redrive(1, None);
    // The name of another entity under the place of this one.
    let body = br#"{"kind":"Pod","id":"forged","revision":"9","state":{}}"#;
    let headers = vec![(REDRIVE.to_owned(), format!("{SITE}:{seq}"))];
    let subject = "far.v1.local.evt.dc1.resource.Pod=2Fforged.changed";
    log.append(subject, headers, body.to_vec());
    let mut pool = given(&log);
    assert_eq!((pool.export("dc1"), parked(&pool)), (before.clone(), 1));
    for place in ["somewhere", "FARSIDE_LOCAL:99", "FARSIDE_OTHER:1"] {
        log.append(subject, vec![(REDRIVE.to_owned(), place.to_owned())], body.to_vec());
    }
    pool.read_on(&log);
    assert_eq!((pool.export("dc1"), parked(&pool)), (before, 4), "{:?}", pool.reasons());
}

#[test]
fn an_event_of_an_epoch_that_is_over_is_never_taken_in() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let mut old = agent.clone();
    agent.rebase(2);
    agent.changed(&mut log, "Pod/a", "2", "{}");
    let seq = old.changed(&mut log, "Pod/late", "9", "{}");
    log.redrive(seq, None);
    let pool = given(&log);
    pool.then("dc1", &[("Pod/a", "2")]);
    let known = record(&pool, seq);
    assert!(known.is_over && known.redriven.is_none(), "{known:?}");
}

#[test]
fn a_withdrawal_that_was_parked_ends_the_key_and_an_older_announcement_does_not_bring_it_back() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let hash = Hash32::of(b"x");
    let announced =
        |field: &str| format!(r#"{{"{field}":"ak","tenant":"acme","salt":"{hash}","hash":"{hash}"}}"#);
    let mend = r#"[{"op":"move","from":"/name","path":"/key_id"}]"#;
    let mut say = |log: &mut Log, event: &str, body: String| {
        let message = agent.say("key", "ak", event, body.into_bytes());
        log.repeat(&message)
    };
    say(&mut log, "announced", announced("key_id"));
    let again = say(&mut log, "announced", announced("name"));
    let ended = say(&mut log, "withdrawn", r#"{"name":"ak"}"#.to_owned());
    let good = |pool: &Pool| pool.reader().key(&name("ak")).unwrap().value[0].revoked_at.is_none();
    let mut pool = given(&log);
    assert!(good(&pool));
    log.redrive(ended, Some(mend));
    assert!(!good(pool.read_on(&log)));
    log.redrive(again, Some(mend));
    assert!(!good(pool.read_on(&log)));
    assert_eq!(parked(&pool), 0);
}

/// A log with poison, newer and older states, and copies of all that is parked; or one in which nothing was poison.
fn mixed(is_readable: bool) -> Log {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let (id_is, mut dead) = (if is_readable { "id" } else { "name" }, Vec::new());
    for n in 0..40 {
        let (id, revision) = (format!("p{}", n % 7), n.to_string());
        let key = format!("Pod/{id}");
        match n % 5 {
            0 => dead.push(change(&mut agent, &mut log, id_is, &id, &revision)),
            1 => dead.push(plain_change(&mut log, id_is, &id, &revision)),
            2 if n % 3 == 0 => _ = agent.deleted(&mut log, &key),
            _ => _ = agent.changed(&mut log, &key, &revision, "{}"),
        }
    }
    for round in 0..2 {
        for (n, seq) in dead.iter().enumerate() {
            // As many messages, so that what follows has the same place in both.
            _ = match is_readable {
                true => agent.heartbeat(&mut log, None),
                false => log.redrive(*seq, (round == 1 || n % 4 != 0).then_some(MEND)),
            };
        }
        agent.changed(&mut log, "Pod/p3", "99", "{}");
    }
    log
}

#[test]
fn the_pool_is_the_same_however_a_log_with_copies_is_cut() {
    let log = mixed(false);
    let whole = given(&log);
    for most in [1, 2, 3, 7, 50] {
        let mut pool = Pool::new();
        while pool.read < log.messages.len() {
            pool.read_some(&log, most);
        }
        assert_eq!(pool.export("dc1"), whole.export("dc1"), "{most} at a time");
        assert_eq!(pool.digest(&Agent::new("dc1", "inv")), whole.digest(&Agent::new("dc1", "inv")));
        let letters = |pool: &Pool| pool.reader().parked_after(None, 1_000, |_| true).unwrap().value;
        assert_eq!(letters(&pool), letters(&whole));
        let originals = |pool: &Pool| -> Vec<_> {
            letters(pool).iter().map(|letter| original(pool, letter.seq)).collect()
        };
        assert_eq!(originals(&pool), originals(&whole));
    }
}

/// The order in which states of one entity count is that of their originals.
#[test]
fn redriving_everything_gives_the_pool_that_readable_originals_would_have_given() {
    let (redriven, readable) = (given(&mixed(false)), given(&mixed(true)));
    assert_eq!(redriven.export("dc1"), readable.export("dc1"), "places and times too");
    let agent = Agent::new("dc1", "inv");
    assert_eq!(redriven.digest(&agent), readable.digest(&agent));
    assert_eq!(parked(&redriven), 0);
}

/// What a newer build can read was parked once: it is parked again, until its copy comes.
#[test]
fn the_past_stays_as_it_was_for_a_build_that_reads_more() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let seq = poison(&mut agent, &mut log, "b", "2");
    agent.changed(&mut log, "Pod/c", "3", "{}");
    let then = given(&log);
    let facts = facts_of(&then);
    // The newer build: it reads the same bytes as an event. Here, the event stands there from the start.
    let (mut newer, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    for (key, revision) in [("Pod/a", "1"), ("Pod/b", "2"), ("Pod/c", "3")] {
        agent.changed(&mut newer, key, revision, "{}");
    }
    newer.redrive(seq, None);
    let pool = Pool::new();
    assert!(!pool.store.has_recalled().unwrap());
    pool.store.recall(&facts, true).unwrap();
    assert!(pool.store.has_recalled().unwrap());
    let read = |messages: &[Message]| {
        let mut batch = Batch::new(SITE);
        for message in messages {
            let known = pool.reader().parked_between(SITE, message.seq..=message.seq).unwrap().value;
            message.with_stored(|stored| match known.first().filter(|known| known.stands_at(stored)) {
                Some(known) => batch.push_parked(stored, known),
                None => batch.push(stored),
            });
        }
        pool.store.commit(batch).unwrap();
    };
    read(&newer.messages[..3]);
    assert_eq!(pool.export("dc1").lines().count(), then.export("dc1").lines().count());
    pool.then("dc1", &[("Pod/a", "1"), ("Pod/c", "3")]);
    // Of the body only because it is another one here.
    let body = record(&pool, seq).body;
    assert_eq!(record(&pool, seq), ParkedRecord { body, ..record(&then, seq) }, "with the same reason");
    assert_eq!(pool.owner(&agent).gap, None);
    read(&newer.messages[3..]);
    pool.then("dc1", &[("Pod/a", "1"), ("Pod/b", "2"), ("Pod/c", "3")]);
}

/// What a newer build makes of a copy that was not taken in then, it makes of the next one.
#[test]
fn a_copy_that_could_not_be_taken_in_stays_that_for_a_build_that_reads_more() {
    let mut log = Log::default();
    let seq = plain_poison(&mut log, "a", "1");
    log.redrive(seq, None);
    let then = given(&log);
    let facts = facts_of(&then);
    let copy_of = |n: usize| facts[n].copy_of.as_deref();
    assert_eq!((facts.len(), copy_of(0), copy_of(1)), (2, None, Some("FARSIDE_LOCAL:1")), "{facts:?}");
    assert_eq!((then.reasons().len(), parked(&then), record(&then, seq).attempts), (1, 1, 1));
    let listed = |pool: &Pool| pool.reader().parked_after(None, 10, |_| true).unwrap().value;
    assert_eq!((listed(&then).len(), then.reader().parked_record(SITE, 2).unwrap().value), (1, None));
    // The newer build: it reads the copy as an event. Here, a patch makes it one.
    let mut newer = Log::default();
    plain_poison(&mut newer, "a", "1");
    newer.redrive(seq, Some(MEND));
    let pool = Pool::new();
    pool.store.recall(&facts, true).unwrap();
    let read = |messages: &[Message]| {
        let mut batch = Batch::new(SITE);
        for message in messages {
            let known = pool.reader().parked_between(SITE, message.seq..=message.seq).unwrap().value;
            message.with_stored(|stored| match known.first().filter(|known| known.stands_at(stored)) {
                Some(known) => batch.push_parked(stored, known),
                None => batch.push(stored),
            });
        }
        pool.store.commit(batch).unwrap();
    };
    read(&newer.messages);
    assert_eq!((pool.rows("dc1").len(), listed(&pool)), (0, listed(&then)), "the past is as it was");
    newer.redrive(seq, Some(MEND));
    read(&newer.messages[2..]);
    pool.then("dc1", &[("Pod/a", "1")]);
    assert_eq!(parked(&pool), 0);
}

/// It has no originals of what is parked in it.
#[test]
fn a_pool_of_the_format_before_is_refused_with_what_to_do() {
    let pool = Pool::new();
    let (path, _directory) = (pool.path(), pool.directory);
    drop(pool.store);
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(crate::tables::META).unwrap().insert(crate::tables::META_FORMAT, 5).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = Store::open(&path, StoreOptions::default()).err().unwrap().to_string();
    assert!(error.contains("written by format 5 of an older farside"), "{error}");
    assert!(error.contains(&format!("move {} aside", path.display())), "{error}");
}

/// An agent that says what `say` says, and what of it the log lost and gets at its end.
fn late(log: &mut Log, agent: &mut Agent, say: impl FnOnce(&mut Log, &mut Agent)) -> Vec<Message> {
    let kept = log.messages.len();
    say(log, agent);
    log.lose_between(kept..log.messages.len())
}

#[test]
fn a_copy_of_what_came_late_undoes_nothing_newer() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let hash = Hash32::of(b"x");
    let announced =
        |field: &str| format!(r#"{{"{field}":"ak","tenant":"acme","salt":"{hash}","hash":"{hash}"}}"#);
    let key = agent.say("key", "ak", "announced", announced("key_id").into_bytes());
    log.repeat(&key);
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let lost = late(&mut log, &mut agent, |log, agent| {
        for id in ["a", "gone", "new"] {
            poison(agent, log, id, "2");
        }
        let key = agent.say("key", "ak", "announced", announced("name").into_bytes());
        log.repeat(&key);
    });
    let key = agent.say("key", "ak", "withdrawn", br#"{"key_id":"ak"}"#.to_vec());
    log.repeat(&key);
    agent.rebase(2);
    agent.changed(&mut log, "Pod/a", "3", "{}");
    agent.changed(&mut log, "Pod/gone", "3", "{}");
    agent.deleted(&mut log, "Pod/gone");
    let parked_at: Vec<u64> = lost.iter().map(|message| log.repeat(message)).collect();
    let mut pool = given(&log);
    assert_eq!((parked(&pool), record(&pool, parked_at[0]).late), (4, Some(true)), "{:?}", pool.reasons());
    parked_at[..3].iter().for_each(|seq| _ = log.redrive(*seq, Some(MEND)));
    log.redrive(parked_at[3], Some(r#"[{"op":"move","from":"/name","path":"/key_id"}]"#));
    pool.read_on(&log).then("dc1", &[("Pod/a", "3"), ("Pod/new", "2")]);
    assert!(pool.row("dc1", "Pod/gone").unwrap().deleted_at.is_some());
    let key = pool.reader().key(&name("ak")).unwrap().value;
    assert!(key[0].revoked_at.is_some(), "it was withdrawn behind that");
    assert_eq!(parked(&pool), 0, "all of them were taken in");
}

#[test]
fn a_copy_of_what_came_late_after_a_full_answer_writes_no_row() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/b", "1", "{}");
    let lost = late(&mut log, &mut agent, |log, agent| _ = poison(agent, log, "a", "1"));
    let low = agent.open(&mut log, "s1", SyncScope::Full);
    agent.changed(&mut log, "Pod/b", "2", "{}");
    let digest = given(&log).digest(&agent);
    agent.close(&mut log, "s1", SyncScope::Full, low, digest);
    let seq = log.repeat(&lost[0]);
    log.redrive(seq, Some(MEND));
    let pool = given(&log);
    pool.then("dc1", &[("Pod/b", "2")]);
    assert_eq!((record(&pool, seq).late, parked(&pool)), (Some(false), 0));
}

/// Appends a copy of what stands at `seq` after a change.
fn forge(log: &mut Log, seq: u64, change: impl FnOnce(&mut Message)) {
    log.redrive(seq, Some(MEND));
    let mut forged = log.messages.pop().unwrap();
    change(&mut forged);
    log.messages.push(forged);
}

#[test]
fn what_has_another_body_than_the_original_is_no_copy_of_it() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let seq = poison(&mut agent, &mut log, "a", "1");
    let other = |body: &'static [u8]| move |message: &mut Message| message.body = body.to_vec();
    forge(&mut log, seq, other(br#"{"kind":"Pod","name":"a","revision":"9","state":{}}"#));
    forge(&mut log, seq, other(b"nonsense"));
    let mut pool = given(&log);
    let known = record(&pool, seq);
    assert_eq!((parked(&pool), known.attempts, pool.rows("dc1").len()), (1, 0, 0), "{}", known.reason);
    log.redrive(seq, Some(MEND));
    pool.read_on(&log).then("dc1", &[("Pod/a", "1")]);
}

#[test]
fn a_copy_that_names_another_source_or_a_place_that_the_original_had_not_is_none() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let chained = poison(&mut agent, &mut log, "a", "1");
    agent.unchained(&mut log, "Pod", "b");
    // An original that says who it is from, and has no place in a chain.
    let mut plain = log.messages.pop().unwrap();
    plain.body = br#"{"kind":"Pod","name":"b","revision":"1","state":{}}"#.to_vec();
    log.messages.push(plain.clone());
    let header = |message: &mut Message, name: &str, value: &str| {
        message.headers.retain(|(known, _)| known != name);
        message.headers.push((name.to_owned(), value.to_owned()));
    };
    for seq in [chained, plain.seq] {
        forge(&mut log, seq, |copy| header(copy, "ce-source", "/local/dc1/resource/other"));
        forge(&mut log, seq, |copy| {
            header(copy, "ce-farepoch", &Epoch(1).to_string());
            header(copy, "ce-farseq", "99");
            header(copy, "ce-farprev", &Hash32::of(b"x").to_string());
            header(copy, "ce-time", "2026-11-22T04:31:48.123Z");
        });
    }
    let mut pool = given(&log);
    assert_eq!((parked(&pool), pool.rows("dc1").len()), (2, 0), "{:?}", pool.reasons());
    for known in [record(&pool, chained), record(&pool, plain.seq)] {
        assert_eq!(known.attempts, 0, "it could be read: {}", known.reason);
    }
    log.redrive(chained, Some(MEND));
    log.redrive(plain.seq, Some(MEND));
    pool.read_on(&log).then("dc1", &[("Pod/a", "1"), ("Pod/b", "1")]);
}

#[test]
fn a_fact_of_what_stood_at_a_place_before_does_not_replace_what_is_parked_there_now() {
    let mut log = Log::default();
    let seq = plain_poison(&mut log, "a", "1");
    let pool = given(&log);
    let (known, mut fact) = (record(&pool, seq), facts_of(&pool).remove(0));
    (fact.subject, fact.stored_at) = ("far.v1.local.evt.dc1.resource.x.changed".into(), Some(at(CREATED)));
    pool.store.recall(&[fact], true).unwrap();
    assert_eq!(record(&pool, seq), known);
}

#[test]
fn a_reason_that_quotes_a_message_is_no_larger_than_what_a_fact_can_say() {
    let mut log = Log::default();
    let body = format!(
        r#"{{"kind":"Pod","id":"a","revision":"1","state":{{}},"labels":"{}"}}"#,
        "ä".repeat(100_000)
    );
    log.plain("dc1", "Pod", "a", "changed", &body);
    let pool = given(&log);
    assert_eq!(parked(&pool), 1);
    assert!(pool.reasons()[0].len() < 9_000, "{}", pool.reasons()[0].len());
}

#[test]
fn parked_messages_are_told_page_by_page_and_by_kinds_of_reasons() {
    let mut log = Log::default();
    for n in 0..5 {
        plain_poison(&mut log, &format!("a{n}"), "1");
    }
    log.plain("dc1", "Pod", "x", "changed", "nonsense");
    let pool = given(&log);
    let reader = pool.reader();
    let first = reader.parked_after(None, 4, |_| true).unwrap().value;
    let rest = reader.parked_after(Some((SITE, first[3].seq)), 4, |_| true).unwrap().value;
    assert_eq!((first.len(), rest.len(), rest[1].seq), (4, 2, 6));
    let (groups, others) = reader.parked_groups(10).unwrap().value;
    assert_eq!((groups.len(), groups[0].count, groups[0].example.seq, others), (2, 5, 1, 0));
    let stored = groups[0].stored.unwrap();
    assert_eq!((stored.0.unix_ms(), stored.1.unix_ms()), (CREATED + 1_000, CREATED + 5_000));
    let wrong = |n: u32| ParkedRecord {
        reason: format!("the token \"t{n}\" is wrong at line {n}0"),
        ..first[0].clone()
    };
    assert_eq!(kind_of(&wrong(1).reason), "the token \"…\" is wrong at line #");
    assert!(
        wrong(1).is_of_kind(&wrong(23).reason) && wrong(1).is_of_kind("t1") && !wrong(1).is_of_kind("t2")
    );
    assert_eq!(reader.parked_groups(1).unwrap().value.1, 1);
}
