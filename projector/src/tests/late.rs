//! Copies of lost events, sent again long after what follows them; seals and the running hash.

use bus_schema::{
    Hash32,
    chain::ChainPoint,
    event::resource::SyncScope,
    fact::{
        Fact,
        log::{Damage, DamageAcknowledged, GapFound, GapHealed, LogFact, Loss, LossFound},
    },
    proof,
};

use super::support::{Agent, CREATED, Log, Message, Pool, SITE, at, given};
use crate::Stated;

/// An agent whose second to fourth event the log lost: `Pod/a` and `Pod/gone` change in them, `Pod/old` is deleted.
fn lossy() -> (Log, Agent, Vec<Message>) {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/old", "1", "{}");
    let kept = log.messages.len();
    agent.changed(&mut log, "Pod/a", "2", "{}");
    agent.changed(&mut log, "Pod/gone", "2", "{}");
    agent.deleted(&mut log, "Pod/old");
    let lost = log.lose_between(kept..kept + 3);
    agent.changed(&mut log, "Pod/a", "3", "{}");
    (log, agent, lost)
}

fn gap_found(pool: &Pool) -> GapFound {
    let found = pool.pending().into_iter().find_map(|entry| match entry.what {
        Stated::Fact(Fact::Log(LogFact::GapFound(found))) => Some(found),
        _ => None,
    });
    found.expect("a gap was found")
}

#[test]
fn copies_of_lost_events_fill_the_gap_and_never_overwrite_what_is_newer() {
    let (mut log, agent, lost) = lossy();
    let mut pool = given(&log);
    assert!(pool.owner(&agent).gap.is_some());
    pool.then("dc1", &[("Pod/a", "3"), ("Pod/old", "1")]);
    lost.iter().for_each(|message| {
        log.repeat(message);
    });
    pool.read_on(&log);
    pool.then("dc1", &[("Pod/a", "3"), ("Pod/gone", "2")]);
    let owner = pool.owner(&agent);
    assert_eq!((owner.gap, owner.applied, owner.repeats), (None, 5, 0));
    assert_eq!(owner.at.unwrap().seq, 5);
    lost.iter().for_each(|message| {
        log.repeat(message);
    });
    assert_eq!(pool.read_on(&log).owner(&agent).repeats, 3, "once is enough");
}

#[test]
fn the_stated_gap_names_the_hashes_that_copies_must_have() {
    let (log, agent, lost) = lossy();
    let found = gap_found(&given(&log));
    let hash =
        |message: &Message| message.with_stored(|stored| bus_schema::Envelope::read(stored).unwrap().hash);
    assert_eq!((found.owner.as_str(), found.after.seq, found.before.seq), (agent.source.as_str(), 1, 5));
    assert_eq!((found.after_hash, found.before_prev), (hash(&log.messages[0]), hash(&lost[2])));
}

#[test]
fn copies_of_another_branch_fill_nothing() {
    let (mut log, agent, _) = lossy();
    let mut forger = Agent::new("dc1", "inv");
    forger.branch = 7;
    forger.say("resource", "Pod/old", "changed", b"{}".to_vec());
    for _ in 0..3 {
        forger.changed(&mut log, "Pod/forged", "9", "{}");
    }
    let pool = given(&log);
    pool.then("dc1", &[("Pod/a", "3"), ("Pod/old", "1")]);
    assert!(pool.owner(&agent).gap.is_some());
}

#[test]
fn after_a_full_answer_copies_change_no_row() {
    let (mut log, mut agent, lost) = lossy();
    let low = agent.open(&mut log, "s1", SyncScope::Full);
    agent.changed(&mut log, "Pod/a", "3", "{}");
    let digest = given(&log).digest(&agent);
    agent.close(&mut log, "s1", SyncScope::Full, low, digest);
    let mut pool = given(&log);
    assert_eq!(pool.owner(&agent).gap, None, "everything was sent");
    let before = pool.export("dc1");
    lost.iter().for_each(|message| {
        log.repeat(message);
    });
    assert_eq!(pool.read_on(&log).export("dc1"), before, "what the source had then is what it had");
    assert_eq!(pool.owner(&agent).repeats, 0, "they were not there before");
}

#[test]
fn a_heartbeat_tells_that_the_end_of_the_chain_is_missing() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    agent.changed(&mut log, "Pod/b", "1", "{}");
    let lost = log.lose_between(1..2);
    agent.heartbeat(&mut log, None);
    let mut pool = given(&log);
    let found = gap_found(&pool);
    assert_eq!((found.after.seq, found.before.seq, pool.facts().len()), (1, 3, 1));
    agent.changed(&mut log, "Pod/c", "1", "{}");
    pool.read_on(&log);
    assert_eq!(pool.facts(), ["gap_found"], "the same one");
    log.repeat(&lost[0]);
    pool.read_on(&log).then("dc1", &[("Pod/a", "1"), ("Pod/b", "1"), ("Pod/c", "1")]);
    assert_eq!(pool.owner(&agent).gap, None);
}

#[test]
fn copies_of_an_epoch_that_is_over_are_no_dead_letters_while_they_fill_its_gap() {
    let (mut log, mut agent, lost) = lossy();
    agent.rebase(2);
    agent.changed(&mut log, "Pod/a", "4", "{}");
    lost.iter().for_each(|message| {
        log.repeat(message);
    });
    let pool = given(&log);
    assert_eq!(pool.reasons(), [""; 0]);
    pool.then("dc1", &[("Pod/a", "4"), ("Pod/gone", "2")]);
}

#[test]
fn a_key_that_was_withdrawn_stays_so_when_its_lost_announcement_comes_after_all() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let hash = Hash32::of(b"x");
    let body = format!(r#"{{"key_id":"ak","tenant":"acme","salt":"{hash}","hash":"{hash}"}}"#);
    let announced = agent.say("key", "ak", "announced", body.into_bytes());
    let withdrawn = agent.say("key", "ak", "withdrawn", br#"{"key_id":"ak"}"#.to_vec());
    log.repeat(&withdrawn);
    log.repeat(&announced);
    let pool = given(&log);
    assert_eq!(pool.reasons(), [""; 0]);
    assert_eq!(pool.owner(&agent).gap, None, "it was a copy");
    assert!(pool.reader().key(&"ak".parse().unwrap()).unwrap().value.is_empty());
}

#[test]
fn a_key_whose_announcement_was_lost_comes_back_with_it_although_everything_was_sent_since() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let hash = Hash32::of(b"x");
    let body = format!(r#"{{"key_id":"ak","tenant":"acme","salt":"{hash}","hash":"{hash}"}}"#);
    let announced = agent.say("key", "ak", "announced", body.into_bytes());
    let low = agent.open(&mut log, "s1", SyncScope::Full);
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let digest = given(&log).digest(&agent);
    agent.close(&mut log, "s1", SyncScope::Full, low, digest);
    log.repeat(&announced);
    let pool = given(&log);
    assert_eq!(pool.reader().key(&"ak".parse().unwrap()).unwrap().value.len(), 1, "no answer speaks of keys");
}

#[test]
fn every_message_has_its_seal_and_the_running_hash_covers_all() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    for n in 0..1_200 {
        agent.changed(&mut log, &format!("Pod/{}", n % 7), "1", "{}");
    }
    agent.unchained(&mut log, "Pod", "plain");
    agent.heartbeat(&mut log, None);
    let mut pool = Pool::new();
    while pool.read < log.messages.len() {
        pool.read_some(&log, 77);
    }
    let mut running = Hash32::ZERO;
    for message in &log.messages {
        let hash = message.with_stored(|stored| stored.hash());
        running = proof::extend(running, hash);
        let frame = pool.reader().seals(SITE, message.seq).unwrap().unwrap();
        let seal = frame.seal(message.seq).unwrap();
        assert!(seal.is_of(hash) && !seal.is_of(Hash32::ZERO), "{}", message.seq);
        assert_eq!(seal.is_covered(), message.seq != 1_201, "{}", message.seq);
    }
    let position = pool.store.position(SITE).unwrap().unwrap();
    assert_eq!(position.running, running);
    let behind = pool.reader().seals(SITE, position.seq + 1).unwrap().unwrap();
    assert_eq!(behind.seal(position.seq + 1), None);
    pool.store.rewind(SITE, at(CREATED)).unwrap();
    assert_eq!(pool.reader().seals(SITE, 1).unwrap(), None, "another incarnation begins anew");
    assert_eq!(pool.store.position(SITE).unwrap().unwrap().running, Hash32::ZERO);
}

#[test]
fn a_damage_stays_open_until_it_is_healed_or_somebody_knows_of_it() {
    let mut log = Log::default();
    let point = |seq| ChainPoint { epoch: bus_schema::Epoch(7), seq };
    let (owner, place) = ("/local/dc1/resource/inv".to_owned(), "S:9".to_owned());
    let found = LogFact::GapFound(GapFound {
        owner: owner.clone(),
        after: point(1),
        before: point(5),
        place: place.clone(),
        after_hash: None,
        before_prev: None,
        applied: true,
    });
    let (stream, created) = (SITE.to_owned(), at(CREATED));
    let loss = |first_seq, unchained| {
        let found = LossFound::stretch(&stream, created, first_seq..=first_seq + 2, Loss::Missing);
        LogFact::LossFound(LossFound { unchained, ..found })
    };
    for fact in [found.clone(), loss(4, 0), loss(9, 1)] {
        log.fact(&Fact::Log(fact));
    }
    let mut pool = given(&log);
    let open = |pool: &Pool| {
        let damages = pool.reader().damages().unwrap().value;
        damages.iter().filter(|damage| damage.is_open()).count()
    };
    assert_eq!(open(&pool), 2, "what was chained is a gap of its own");
    let (after, before) = (point(1), point(5));
    log.fact(&Fact::Log(LogFact::GapHealed(GapHealed { owner, after, before, place })));
    assert_eq!(open(pool.read_on(&log)), 1);
    let damage = Damage::Loss { stream, created, first_seq: 9, last_seq: 11 };
    let (actor, reason) = ("kim".to_owned(), "nobody has them".to_owned());
    log.fact(&Fact::Log(LogFact::DamageAcknowledged(DamageAcknowledged { damage, actor, reason })));
    assert_eq!(open(pool.read_on(&log)), 0);
    log.fact(&Fact::Log(found));
    assert_eq!(open(pool.read_on(&log)), 1, "lost again");
}

#[test]
fn a_pool_that_has_read_nothing_answers_every_question_about_the_logs() {
    let reader = Pool::new().reader();
    assert!(reader.damages().unwrap().value.is_empty());
    assert_eq!(reader.seals(SITE, 1).unwrap(), None);
    assert_eq!(reader.latest_fact("checkpoint", "local").unwrap().value, None);
    assert_eq!(reader.checkpoint(1).unwrap().value, None);
}
