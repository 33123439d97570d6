//! The originals of parked messages that the pool keeps.

use super::{
    redrive::{MEND, facts_of, parked, plain_poison, poison, record},
    support::{Agent, CREATED, Log, Message, Pool, SITE, at, given},
};
use crate::{
    DeadMessage, ORIGINALS_BYTES_MAX,
    compare::{Cause, Of, diff},
};

/// What the pool keeps of the message that is parked there.
pub(super) fn original(pool: &Pool, seq: u64) -> Option<DeadMessage> {
    pool.reader().original(&record(pool, seq)).unwrap().value
}

/// A message as the log has it, with its headers in the order of their names.
fn kept(message: &Message) -> DeadMessage {
    let (subject, mut headers, body) =
        (message.subject.clone(), message.headers.clone(), message.body.clone());
    headers.sort();
    DeadMessage { subject, headers, body }
}

/// How many bytes of originals the pool keeps.
fn originals_bytes(pool: &Pool) -> u64 {
    pool.reader().originals_bytes().unwrap().value.values().sum()
}

#[test]
fn an_original_is_kept_until_its_copy_is_taken_in() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let seq = poison(&mut agent, &mut log, "a", "1");
    let other = log.plain("dc1", "Pod", "b", "changed", "nonsense");
    let mut pool = given(&log);
    let [first, second] = [seq, other].map(|seq| kept(&log.messages[seq as usize - 1]));
    assert_eq!((original(&pool, seq), original(&pool, other)), (Some(first), Some(second.clone())));
    assert!(original(&pool, seq).unwrap().headers.len() > 3, "the headers too");
    assert!(originals_bytes(&pool) > 0);
    log.redrive(seq, None);
    assert!(original(pool.read_on(&log), seq).is_some(), "a copy that cannot be read either changes nothing");
    log.redrive(seq, Some(MEND));
    log.redrive(other, Some(r#"[{"op":"remove","path":""}]"#));
    pool.read_on(&log).then("dc1", &[("Pod/a", "1")]);
    assert_eq!((original(&pool, seq), original(&pool, other)), (None, Some(second.clone())));
    assert!(originals_bytes(&pool) < (second.body.len() + second.subject.len() + 100) as u64);
}

/// Nobody can have it taken in, and the commit that finds out has the message no more.
#[test]
fn the_original_of_what_no_copy_is_taken_in_of_is_not_kept() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    agent.changed(&mut log, "Pod/a", "1", "{}");
    let mut old = agent.clone();
    agent.rebase(2);
    agent.changed(&mut log, "Pod/a", "2", "{}");
    let seqs = [old.changed(&mut log, "Pod/late", "9", "{}"), poison(&mut old, &mut log, "late", "9")];
    let pool = given(&log);
    for seq in seqs {
        assert!(record(&pool, seq).is_over && original(&pool, seq).is_none(), "{:?}", record(&pool, seq));
    }
    assert_eq!((parked(&pool), originals_bytes(&pool)), (2, 0));
}

/// A fact tells that a message is parked before this pool reads it; or stands for one that the log holds no more.
#[test]
fn what_a_fact_alone_tells_of_has_no_original_until_it_is_read() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let seqs = [poison(&mut agent, &mut log, "a", "1"), poison(&mut agent, &mut log, "b", "2")];
    let facts = facts_of(&given(&log));
    let mut pool = Pool::new();
    pool.store.recall(&facts, true).unwrap();
    assert_eq!(seqs.map(|seq| original(&pool, seq)), [None, None]);
    // The first one is trimmed.
    pool.read = 1;
    pool.read_on(&log);
    assert_eq!(seqs.map(|seq| original(&pool, seq)), [None, Some(kept(&log.messages[1]))]);
    assert_eq!((parked(&pool), record(&pool, seqs[0]).body), (2, None));
    pool.store.recall(&facts, true).unwrap();
    assert!(original(&pool, seqs[1]).is_some(), "what is known already stays");
}

/// What stands at a place of a log that was rewound is another message, and so is its original.
#[test]
fn the_original_of_a_place_is_that_of_what_is_parked_there_now() {
    let mut log = Log::default();
    let seq = plain_poison(&mut log, "a", "1");
    let mut pool = given(&log);
    let before = record(&pool, seq);
    let mut again = Log::default();
    again.messages.push(Message { stored_at: CREATED + 9_000, ..log.messages[0].clone() });
    again.messages[0].body = br#"{"kind":"Pod","name":"other","revision":"1","state":{}}"#.to_vec();
    pool.store.rewind(SITE, at(CREATED + 8_000)).unwrap();
    pool.read = 0;
    pool.read_on(&again);
    assert_eq!(original(&pool, seq), Some(kept(&again.messages[0])));
    assert_eq!(pool.reader().original(&before).unwrap().value, None, "not that of who asks for the old one");
    let mut fact = facts_of(&pool).pop().unwrap();
    (fact.stored_at, fact.subject) = (Some(at(CREATED + 99_000)), "far.v1.local.evt.dc1.x".to_owned());
    pool.store.recall(&[fact], true).unwrap();
    assert_eq!((original(&pool, seq), originals_bytes(&pool)), (None, 0), "a newer one stands there");
}

#[test]
fn garbage_without_end_fills_the_room_for_originals_and_no_more() {
    let mut log = Log::default();
    let garbage = format!(r#"{{"name":"{}"}}"#, "x".repeat(3_000));
    let seqs: Vec<u64> = (0..50).map(|_| log.plain("dc1", "Pod", "a", "changed", &garbage)).collect();
    let mut pool = given(&log);
    let has = |pool: &Pool| seqs.iter().filter(|seq| original(pool, **seq).is_some()).count();
    let (held, kept) = (originals_bytes(&pool), has(&pool));
    assert!(held <= ORIGINALS_BYTES_MAX && held > ORIGINALS_BYTES_MAX - 4_000, "{held}");
    assert!((10..50).contains(&kept) && original(&pool, seqs[0]).is_some(), "{kept}");
    assert_eq!(parked(&pool), 50, "each is parked all the same");
    let whole = r#"[{"op":"add","path":"","value":{"kind":"Pod","id":"a","revision":"1","state":{}}}]"#;
    log.redrive(seqs[0], Some(whole));
    let last = log.plain("dc1", "Pod", "a", "changed", &garbage);
    pool.read_on(&log);
    assert_eq!((has(&pool), parked(&pool)), (kept - 1, 50), "{:?}", record(&pool, seqs[0]));
    assert!(original(&pool, last).is_some(), "where one was, there is room again");
    log.redrive(seqs[49], Some(whole));
    assert_eq!(parked(pool.read_on(&log)), 49, "what was not kept is taken in from the log as ever");
}

/// What a rebuild is compared by: a pool that lacks what another one has of a dead letter is not its equal.
#[test]
fn pools_that_know_or_keep_other_dead_letters_differ_in_what_people_see() {
    let (mut log, mut agent) = (Log::default(), Agent::new("dc1", "inv"));
    let seqs = [poison(&mut agent, &mut log, "a", "1"), poison(&mut agent, &mut log, "b", "2")];
    log.redrive(seqs[0], None);
    let live = given(&log);
    assert_eq!(diff(&live.reader(), &given(&log).reader()).unwrap(), []);
    // The log has lost the second one, of which its fact tells still.
    let mut rebuilt = Pool::new();
    rebuilt.store.recall(&facts_of(&live), true).unwrap();
    let mut damaged = log.clone();
    damaged.messages.retain(|message| message.seq != seqs[1]);
    rebuilt.read_on(&damaged);
    let place = format!("{SITE}:{}", seqs[1]);
    let found = diff(&live.reader(), &rebuilt.reader()).unwrap();
    let found: Vec<_> = found.into_iter().filter(|found| found.of == Of::Content).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&*found[0].pool, &*found[0].what), ("target", &*format!("dead letter {place}")));
    assert_eq!(found[0].left_cause, Some(Cause::Place(place)));
    let kept = |side: &Option<String>| !side.as_ref().unwrap().contains(r#""original":null"#);
    assert_eq!((kept(&found[0].left), kept(&found[0].right)), (true, false), "{found:?}");
    // Nor is one that never heard of it.
    let mut rebuilt = Pool::new();
    let found = diff(&live.reader(), &rebuilt.read_on(&damaged).reader()).unwrap();
    let lacks = |found: &crate::compare::Difference| found.what.ends_with(&format!(":{}", seqs[1]));
    assert!(found.iter().any(|found| lacks(found) && found.right.is_none()), "{found:?}");
}
