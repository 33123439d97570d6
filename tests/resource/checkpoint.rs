//! Signed checkpoints against a real server: stated, followed, held against the logs, and against what agents were told.

use std::{fs, path::Path, time::Duration};

use audit::{History, KeyFile};
use bus::Bus;
use bus_schema::{
    Stem,
    command::agent::{HELLO, HelloReply},
    event::agent::CheckpointSeen,
    fact::{
        key::{KeyFact, Rotated},
        log::{Checkpoint, LogFact},
    },
    subject,
};
use consumers::runtime::{
    bounds::Bounds,
    replay::{Until, Watcher},
    verify::{Fault, FaultKind, Verified},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{LOG, OWNER, dc1, quiet, source::ScriptedSource, synced, target::Target};
use crate::support::{eventually, nats::Nats, world::World};

const TARGET_LOG: &str = "FARSIDE_TGT_LOCAL";

/// A service that signs with a key in this directory, every few events and every second.
fn signing(keys: &TempDir) -> Value {
    let mut config = quiet();
    config["checkpoint"] = json!({ "events": 20, "every": "1s" });
    config["signing_key"] = json!(key_file(keys));
    config
}

fn key_file(keys: &TempDir) -> std::path::PathBuf {
    keys.path().join("signing.nk")
}

struct Silent;

impl Watcher for Silent {
    fn read(&self, _: &str, _: u64, _: u64) {}
}

async fn verified(target: &Target) -> Verified {
    target.handle.verify(Bounds::default(), &Silent).await.unwrap()
}

/// The rotations and the checkpoints of the target log, in order.
async fn signed(bus: &Bus) -> (Vec<Rotated>, Vec<Checkpoint>) {
    let last = bus.stream_state(TARGET_LOG).await.unwrap().last_seq;
    let (mut rotations, mut checkpoints) = (vec![], vec![]);
    for seq in 1..=last {
        let Some(message) = bus.message(TARGET_LOG, seq).await.unwrap() else { continue };
        if message.subject().ends_with(".checkpoint") {
            let LogFact::Checkpoint(found) = LogFact::decode("checkpoint", message.body()).unwrap() else {
                panic!("another fact")
            };
            checkpoints.push(found);
        } else if message.subject().ends_with(".rotated") {
            let KeyFact::Rotated(found) = KeyFact::decode("rotated", message.body()).unwrap() else {
                panic!("another fact")
            };
            rotations.push(found);
        }
    }
    (rotations, checkpoints)
}

/// Waits until a checkpoint signs everything that the site log has now; answers its number.
pub(super) async fn covered(target: &Target) -> u64 {
    let last = target.bus.stream_state(LOG).await.unwrap().last_seq;
    target
        .until("a checkpoint signs the whole log", |reader| {
            let fact = reader.latest_fact("checkpoint", "local").unwrap().value?.fact;
            let LogFact::Checkpoint(checkpoint) = fact else { return None };
            let mark = checkpoint.logs.iter().find(|mark| mark.stream == LOG)?;
            (mark.seq >= last).then_some(checkpoint.number)
        })
        .await
}

/// Behind each checkpoint something came, in a site log or in the target's own, before the next one was stated.
async fn each_has_a_reason(bus: &Bus) {
    let mut last: Option<(u64, Checkpoint)> = None;
    for seq in 1..=bus.stream_state(TARGET_LOG).await.unwrap().last_seq {
        let Some(message) = bus.message(TARGET_LOG, seq).await.unwrap() else { continue };
        if !message.subject().ends_with(".checkpoint") {
            continue;
        }
        let LogFact::Checkpoint(now) = LogFact::decode("checkpoint", message.body()).unwrap() else {
            panic!("another fact")
        };
        if let Some((stated_at, before)) = &last {
            let seq_in = |of: &Checkpoint, stream: &str| {
                of.logs.iter().find(|mark| mark.stream == stream).map_or(0, |mark| mark.seq)
            };
            let is_moved = seq_in(&now, LOG) > seq_in(before, LOG) || seq_in(&now, TARGET_LOG) > *stated_at;
            assert!(is_moved, "checkpoint {} has no reason: {now:?} after {before:?}", now.number);
        }
        last = Some((seq, now));
    }
    assert!(last.is_some(), "none was stated");
}

async fn changes(source: &ScriptedSource, round: u64, count: u64) {
    for n in 0..count {
        source.change(&format!("Pod/{n}"), &format!("{round}-{n}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_signed_verify_and_are_stated_only_when_something_changed() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, signing(&keys)).await;
    changes(&source, 1, 60).await;
    source.notice("Pod/announced", "1").await;
    covered(&target).await;
    // Time enough for two more, if they were stated without a reason.
    target.nothing_for(Duration::from_millis(2_500)).await;
    each_has_a_reason(&target.bus).await;
    let (rotations, checkpoints) = signed(&target.bus).await;
    let mut history = History::whole(&"local".parse().unwrap());
    assert_eq!(rotations.len(), 1);
    history.rotate(&rotations[0]).unwrap();
    assert_eq!(rotations[0].key, KeyFile::new(&key_file(&keys)).load().unwrap().unwrap().public());
    for checkpoint in &checkpoints {
        assert_eq!(history.follow(checkpoint), []);
        assert!(checkpoint.logs.iter().any(|mark| mark.stream == TARGET_LOG));
    }
    let owner = checkpoints.iter().rev().find_map(|checkpoint| checkpoint.owners.last()).unwrap();
    let known = target.owner(&dc1(), OWNER).unwrap();
    assert_eq!((owner.at, owner.hash, owner.rows), (known.at, known.hash, known.digest.count));
    let found = verified(&target).await;
    assert_eq!(found.faults, [], "{found:?}");
    assert_eq!(found.checkpoints, checkpoints.len() as u64);
    assert!(
        found.ranges >= found.checkpoints && found.rows.is_some_and(|(owners, _)| owners == 1),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_says_hello_is_told_the_last_checkpoint() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, signing(&keys)).await;
    let number = covered(&target).await;
    let at = source.at().await;
    let hello = json!({ "source": OWNER, "at": at, "hash": source.hash().await });
    let subject = subject::command(&dc1(), Stem::Agent, HELLO);
    let reply: HelloReply = target.bus.request(&subject, &hello, Duration::from_secs(10)).await.unwrap();
    let told = reply.checkpoint.unwrap();
    assert!(told.number >= number);
    let stated = signed(&target.bus).await.1.into_iter().find(|stated| stated.number == told.number).unwrap();
    assert_eq!(told.hash, stated.hash().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_goes_on_with_the_chain_of_checkpoints() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (first, source, _serving) = synced(&nats, signing(&keys)).await;
    let second = Target::standby(&nats.bus().await, signing(&keys)).await;
    changes(&source, 1, 30).await;
    let before = covered(&first).await;
    first.stop().await;
    second.acting().await;
    changes(&source, 2, 30).await;
    assert!(covered(&second).await > before);
    let found = verified(&second).await;
    assert_eq!(found.faults, [], "{found:?}");
    // One that has not the key says so, and does not begin a history of its own.
    second.stop().await;
    let other = tempfile::tempdir().unwrap();
    let third = Target::start(&nats.bus().await, signing(&other)).await;
    let trouble = eventually("the wrong key is named", async || third.handle.signing().trouble).await;
    assert!(trouble.contains("signing.nk is U") && trouble.contains("put the file"), "{trouble}");
    assert_eq!(verified(&third).await.faults, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_goes_on_while_it_is_verified_has_no_fault() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, signing(&keys)).await;
    let goes_on = async {
        for n in 0_u64.. {
            source.change("Pod/busy", &n.to_string()).await;
        }
    };
    let again_and_again = async {
        for _ in 0..20 {
            let found = verified(&target).await;
            assert!(found.faults.is_empty(), "{:?}", found.faults);
        }
    };
    tokio::select! { () = again_and_again => {}, () = goes_on => {} }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_introduced_by_the_old_one_and_all_of_it_verifies() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, signing(&keys)).await;
    changes(&source, 1, 25).await;
    covered(&target).await;
    let file = KeyFile::new(&key_file(&keys));
    let first = file.load().unwrap().unwrap().public();
    let rotated = target.handle.rotate_key("op").await.unwrap();
    assert_eq!(rotated.previous, Some(first));
    assert_eq!(file.load().unwrap().unwrap().public(), rotated.key);
    // One that was stated when its process ended: the file of the successor is still beside the old one.
    let directory = target.stop().await;
    fs::rename(key_file(&keys), key_file(&keys).with_extension("next")).unwrap();
    let target = Target::start_again(&nats.bus().await, signing(&keys), directory).await;
    changes(&source, 2, 25).await;
    covered(&target).await;
    assert_eq!(file.load().unwrap().unwrap().public(), rotated.key);
    let (_, checkpoints) = signed(&target.bus).await;
    assert_eq!(checkpoints.last().unwrap().key, rotated.key);
    let found = verified(&target).await;
    assert_eq!(found.faults, [], "{found:?}");
}

/// Flips a bit in the state of a resource as the log's file has it.
pub(super) fn flip_state_of(nats: &Nats, revision: &str) {
    let wanted = format!(r#""revision":"{revision}""#);
    for block in nats.blocks(LOG) {
        let mut bytes = fs::read(&block).unwrap();
        let found = bytes.windows(wanted.len()).position(|window| window == wanted.as_bytes());
        if let Some(at) = found {
            bytes[at + wanted.len() - 2] ^= 1;
            fs::write(&block, bytes).unwrap();
            return;
        }
    }
    panic!("no block has {revision}");
}

async fn seq_of(bus: &Bus, revision: &str) -> u64 {
    let last = bus.stream_state(LOG).await.unwrap().last_seq;
    for seq in 1..=last {
        let message = bus.message(LOG, seq).await.unwrap();
        let is_it =
            |body: &[u8]| String::from_utf8_lossy(body).contains(&format!(r#""revision":"{revision}""#));
        if message.is_some_and(|message| is_it(message.body())) {
            return seq;
        }
    }
    panic!("no message has {revision}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_log_lost_is_named_by_its_sequence_and_hides_no_other_range() {
    let (mut nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, signing(&keys)).await;
    for round in 1..=3 {
        changes(&source, round, 25).await;
        covered(&target).await;
    }
    let seq = seq_of(&target.bus, "2-7").await;
    nats.stop().await;
    flip_state_of(&nats, "2-7");
    nats.start_again().await;
    eventually("the service is connected", async || target.bus.stream_state(LOG).await.ok()).await;
    let found = verified(&target).await;
    let named: Vec<&Fault> = found
        .faults
        .iter()
        .filter(|fault| matches!(fault.kind, FaultKind::Missing | FaultKind::Altered))
        .collect();
    assert_eq!(named.iter().map(|fault| fault.seqs).collect::<Vec<_>>(), [Some((seq, seq))], "{found:#?}");
    assert!(named[0].text.contains(&format!("{LOG}:{seq} ")), "{}", named[0].text);
    let ranges: Vec<_> = found.faults.iter().filter(|fault| fault.kind == FaultKind::Range).collect();
    let [range] = ranges[..] else { panic!("{found:#?}") };
    let (first, last) = range.seqs.unwrap();
    assert!(first <= seq && seq <= last && range.text.contains("is not what checkpoint"), "{range:?}");
    // What is not of the range that is asked for is not told.
    let bounds = |from, to| Bounds { stream: Some(LOG.to_owned()), from, to };
    let behind = bounds(Some(Until::Seq(last + 1)), None);
    let found = target.handle.verify(behind, &Silent).await.unwrap();
    assert!(found.faults.iter().all(|fault| fault.kind == FaultKind::Rows), "{found:#?}");
    let before = bounds(None, Some(Until::Seq(first - 1)));
    let found = target.handle.verify(before, &Silent).await.unwrap();
    assert_eq!(found.faults, [], "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_log_that_was_written_anew_is_noticed_by_what_the_agents_were_told() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, signing(&keys)).await;
    changes(&source, 1, 30).await;
    covered(&target).await;
    let (_, checkpoints) = signed(&target.bus).await;
    let seen = |checkpoint: &Checkpoint| {
        let hash = checkpoint.hash().unwrap();
        CheckpointSeen { target: checkpoint.target.clone(), number: checkpoint.number, hash }
    };
    source.echo(seen(&checkpoints[0])).await;
    target.caught_up(LOG).await;
    target.stop().await;
    // The holder of the key removes the log, and lets it grow again.
    let client = nats.client().await;
    let removed = format!("$JS.API.STREAM.DELETE.{TARGET_LOG}");
    client.request(removed, "".into()).await.unwrap();
    let target = Target::start(&nats.bus().await, signing(&keys)).await;
    let found =
        eventually("the agent contradicts", async || target.handle.signing().contradictions.pop()).await;
    assert_eq!((found.owner.as_str(), &found.seen), (OWNER, &seen(&checkpoints[0])));
    assert!(found.known.is_some_and(|known| known != found.seen.hash), "{found:?}");
    // And one that it let lose its end.
    let far = CheckpointSeen { number: 1_000_000, ..seen(&checkpoints[0]) };
    source.echo(far).await;
    let found = eventually("the agent knows a later one", async || {
        let found = target.handle.signing().contradictions.pop()?;
        (found.seen.number == 1_000_000).then_some(found)
    })
    .await;
    assert!(found.known.is_none() && found.last < 1_000_000, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_between_two_checkpoints_states_no_number_twice() {
    let nats = Nats::start().await;
    let mut world = World::start_with(&nats.url(), "checkpoint = { events = 1, every = \"1s\" }");
    let bus = nats.bus().await;
    eventually("the logs are there", async || bus.stream_state(TARGET_LOG).await.ok()).await;
    let number = async |behind: usize| {
        eventually("a checkpoint more", async || {
            let stated = signed(&bus).await.1.len();
            (stated > behind).then_some(stated)
        })
        .await
    };
    let mut stated = 0;
    for round in 0..6 {
        write(&world.source(), round);
        stated = number(stated).await;
        world.service.kill_and_start_again();
    }
    number(stated).await;
    let numbers: Vec<_> = signed(&bus).await.1.iter().map(|checkpoint| checkpoint.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let said = eventually("farside verifies", async || {
        let said = world.ask(&["-o", "json", "audit", "verify"]).await;
        (said.status.success() || said.status.code() == Some(1) && !said.stdout.is_empty()).then_some(said)
    })
    .await;
    assert!(said.status.success(), "{said:?}");
}

fn write(source: &Path, round: u64) {
    for n in 0..20 {
        let text = format!(r#"{{"kind":"Item","id":"n{n}","state":{{"n":{round}}}}}"#);
        fs::write(source.join(".draft"), text).unwrap();
        fs::rename(source.join(".draft"), source.join(format!("{n}.json"))).unwrap();
    }
}
