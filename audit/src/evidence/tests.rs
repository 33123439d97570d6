//! Evidence that is good, and every way to tamper with it.

use bus_schema::{
    Epoch,
    chain::{ChainPoint, Link, Sealed},
    envelope::Stored,
    fact::log::LogMark,
    proof,
};
use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::{SigningKey, history::tests::target};

const STREAM: &str = "FARSIDE_LOCAL";
const SOURCE: &str = "/local/dc1/resource/inv";
const SUBJECT: &str = "far.v1.local.evt.dc1.resource.Pod=2Fa.changed";
/// What the file shows.
const FROM: u64 = 4;
const TO: u64 = 12;
/// What the log never had.
const ABSENT: u64 = 7;
/// The marks, one per checkpoint.
const MARKS: [u64; 3] = [3, 6, 10];

/// Sequence, headers and body of a message.
type Kept = (u64, Vec<(String, String)>, Vec<u8>);

/// A log with a chain, its target's checkpoints, and their keys.
struct World {
    first: SigningKey,
    second: SigningKey,
    messages: Vec<Kept>,
    rotations: [Rotated; 2],
    checkpoints: Vec<Checkpoint>,
}

fn at(seq: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_795_321_908_000 + seq as i64)
}

/// The running hash of the log behind a sequence.
fn running(world: &World, seq: u64) -> Hash32 {
    let up_to = world.messages.iter().filter(|message| message.0 <= seq);
    up_to.fold(Hash32::ZERO, |running, message| {
        with_stored(message, |stored| proof::extend(running, stored.hash()))
    })
}

fn with_stored<T>((seq, headers, body): &Kept, with: impl FnOnce(Stored<'_>) -> T) -> T {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let (subject, stream, stored_at) = (SUBJECT, STREAM, at(*seq));
    with(Stored { subject, headers: &headers, body, stream, seq: *seq, stored_at })
}

/// Every fourth message is of plain form, the others are a chain.
fn messages() -> Vec<Kept> {
    let (mut prev, mut place, mut messages) = (Hash32::ZERO, 0, vec![]);
    for seq in (1..=TO).filter(|seq| *seq != ABSENT) {
        let body = format!(r#"{{"kind":"Pod","id":"a","revision":"{seq}","state":{{}}}}"#).into_bytes();
        if seq % 4 == 0 {
            messages.push((seq, vec![], body));
            continue;
        }
        place += 1;
        let (id, time, event_type) = (format!("e{place}"), at(seq).to_string(), "resource.changed");
        let link = Link { at: ChainPoint { epoch: Epoch(7), seq: place }, prev };
        let (id_text, time_text) = (id.as_str(), time.as_str());
        let sealed = Sealed {
            source: SOURCE,
            id: id_text,
            event_type,
            subject: SUBJECT,
            time: time_text,
            link,
            body: &body,
        };
        prev = sealed.hash();
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", &id),
            ("ce-source", SOURCE),
            ("ce-type", event_type),
            ("ce-time", &time),
            ("ce-farepoch", &link.at.epoch.to_string()),
            ("ce-farseq", &link.at.seq.to_string()),
            ("ce-farprev", &link.prev.to_string()),
        ];
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        messages.push((seq, headers.collect(), body));
    }
    messages
}

fn world() -> World {
    let (first, second) = (SigningKey::generate(), SigningKey::generate());
    let rotations =
        [first.first(&target(), "op").unwrap(), first.succeeded_by(&second, &target(), "op").unwrap()];
    let (messages, checkpoints) = (messages(), vec![]);
    let mut world = World { first, second, messages, rotations, checkpoints };
    let mut previous = Hash32::ZERO;
    for (number, seq) in (1..).zip(MARKS) {
        let (stream, created, incarnation) = (STREAM.to_owned(), at(0), 1);
        let logs = vec![LogMark { stream, created, incarnation, seq, running: running(&world, seq) }];
        let (key, signature) = Default::default();
        let (target, stated_at, owners) = (target(), at(seq), vec![]);
        let unsigned = Checkpoint { target, number, previous, stated_at, logs, owners, key, signature };
        let by = if number < 3 { &world.first } else { &world.second };
        let checkpoint = by.sign_checkpoint(unsigned).unwrap();
        previous = checkpoint.hash().unwrap();
        world.checkpoints.push(checkpoint);
    }
    world
}

fn header(world: &World) -> Header {
    Header {
        format: FORMAT.to_owned(),
        target: target(),
        stream: STREAM.to_owned(),
        created: at(0),
        incarnation: 1,
        from: FROM,
        to: TO,
        running: running(world, FROM - 1),
        checkpoint: 1,
    }
}

/// The file, under the target's key.
fn evidence(world: &World) -> Vec<u8> {
    written(world, &world.messages).unwrap()
}

fn written(world: &World, messages: &[Kept]) -> Result<Vec<u8>, EvidenceError> {
    let mut writer = Writer::begin(Vec::new(), header(world))?;
    writer.rotation(&world.rotations[0])?;
    writer.checkpoint(&world.checkpoints[0])?;
    let mut marks = world.checkpoints[1..].iter().peekable();
    for message in messages.iter().filter(|message| message.0 >= FROM) {
        while let Some(checkpoint) = marks.next_if(|next| next.logs[0].seq < message.0) {
            if checkpoint.number == 3 {
                writer.rotation(&world.rotations[1])?;
            }
            writer.checkpoint(checkpoint)?;
        }
        with_stored(message, |stored| writer.message(stored))?;
    }
    writer.end(&world.second)
}

fn examined(file: &[u8], key: &str) -> Examined {
    examine(file, key).unwrap()
}

#[test]
fn good_evidence_is_accepted_under_the_first_key_and_under_its_successor() {
    let world = world();
    let file = evidence(&world);
    for key in [world.first.public(), world.second.public()] {
        let found = examined(&file, &key);
        assert_eq!((&found.faults[..], found.more), (&[][..], 0));
        assert_eq!((found.messages, &found.checkpoints[..], found.signed_seq), (8, &[1, 2, 3][..], 10));
        assert!(
            found.notes[0].contains("3 messages") && found.notes[1].contains("11-12"),
            "{:?}",
            found.notes
        );
    }
}

#[test]
fn a_log_that_is_not_what_was_signed_makes_no_evidence() {
    let world = world();
    let mut altered = world.messages.clone();
    altered[5].2[9] ^= 1;
    let error = written(&world, &altered).unwrap_err().to_string();
    assert!(error.contains("FARSIDE_LOCAL:4-6 is not what checkpoint 2 signs"), "{error}");
    let without: Vec<_> = world.messages.iter().filter(|message| message.0 != 9).cloned().collect();
    let error = written(&world, &without).unwrap_err().to_string();
    assert!(error.contains("FARSIDE_LOCAL:7-10") && error.contains("begins behind 10"), "{error}");
}

/// The lines of a file, which a tampering hand changes.
struct Hand<'w> {
    world: &'w World,
    lines: Vec<Value>,
}

impl<'w> Hand<'w> {
    fn new(world: &'w World) -> Self {
        let file = String::from_utf8(evidence(world)).unwrap();
        Self { world, lines: file.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }

    fn index(&self, is_it: impl Fn(&Value) -> bool) -> usize {
        self.lines.iter().position(is_it).unwrap()
    }

    fn message(&self, seq: u64) -> usize {
        let seq = seq.to_string();
        self.index(|line| line["message"]["seq"] == seq.as_str())
    }

    fn checkpoint(&self, number: u64) -> usize {
        let number = number.to_string();
        self.index(|line| line["checkpoint"]["number"] == number.as_str())
    }

    fn file(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
    }

    /// Makes trailer and hashes right again, and signs with this key.
    fn mended(mut self, key: &SigningKey) -> Self {
        let mut running: Hash32 = self.lines[0]["header"]["running"].as_str().unwrap().parse().unwrap();
        let mut count = 0;
        for line in &mut self.lines {
            let Some(message) = line.get_mut("message") else { continue };
            let read: Message = serde_json::from_value(message.clone()).unwrap();
            let headers: Vec<_> = read.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            let hash = Stored {
                subject: &read.subject,
                headers: &headers,
                body: &BASE64.decode(read.body.as_bytes()).unwrap(),
                stream: STREAM,
                seq: read.seq,
                stored_at: Timestamp::from_unix_ms(read.stored_at_unix_ms),
            }
            .hash();
            message["hash"] = json!(hash);
            running = proof::extend(running, hash);
            count += 1;
        }
        let last = self.lines.len() - 1;
        let Line::Trailer(mut trailer) = serde_json::from_value(self.lines.remove(last)).unwrap() else {
            panic!("the last line is no trailer")
        };
        (trailer.count, trailer.running, trailer.key) = (count, running, key.public());
        trailer.sha256 = Hash32(Sha256::digest(self.file()).into());
        trailer.signature = key.sign(trailer.signed().unwrap().as_bytes()).unwrap();
        self.lines.push(serde_json::to_value(Line::Trailer(trailer)).unwrap());
        self
    }

    #[track_caller]
    fn is_refused(&self, words: &str) {
        let found = examined(&self.file(), &self.world.first.public());
        assert!(found.faults.iter().any(|fault| fault.text.contains(words)), "{words}: {found:#?}");
    }
}

#[test]
fn every_careless_tampering_is_named() {
    let world = world();
    let tampered = |tamper: &dyn Fn(&mut Hand<'_>)| {
        let mut hand = Hand::new(&world);
        tamper(&mut hand);
        hand
    };
    let message = |seq: u64| move |hand: &Hand<'_>| hand.message(seq);
    let (five, nine) = (message(5), message(9));
    tampered(&|hand| {
        let at = five(hand);
        hand.lines[at]["message"]["body"] = json!(BASE64.encode(b"{}"));
    })
    .is_refused("message 5 (FARSIDE_LOCAL:5) is not what its hash says");
    tampered(&|hand| {
        let at = five(hand);
        hand.lines[at]["message"]["headers"][1][1] = json!("e99");
    })
    .is_refused("message 5 (FARSIDE_LOCAL:5) is not what its hash says");
    tampered(&|hand| {
        let at = five(hand);
        hand.lines[at]["message"]["stored_at_unix_ms"] = json!(1);
    })
    .is_refused("message 5 (FARSIDE_LOCAL:5) is not what its hash says");
    tampered(&|hand| drop(hand.lines.remove(nine(hand)))).is_refused("9 is missing");
    tampered(&|hand| {
        let at = five(hand);
        hand.lines.swap(at, at + 1);
    })
    .is_refused("message 5 stands behind 6");
    tampered(&|hand| {
        let at = five(hand);
        hand.lines.insert(at, hand.lines[at].clone());
    })
    .is_refused("message 5 stands behind 5: it is doubled");
    tampered(&|hand| hand.lines.truncate(10)).is_refused("without its trailer: it was cut off");
    let trailer = |field: &'static str, value: Value| {
        let mut hand = Hand::new(&world);
        let last = hand.lines.len() - 1;
        hand.lines[last]["trailer"][field] = value;
        hand
    };
    trailer("count", json!("9")).is_refused("the trailer counts 9 messages, but 8 are there");
    trailer("signature", json!(BASE64.encode(&[7; 64])))
        .is_refused("the trailer: its signature is not one of");
    trailer("to", json!("13")).is_refused("the trailer says that the file ends with 13");
    tampered(&|hand| hand.lines[0]["header"]["to"] = json!("11"))
        .is_refused("the trailer says 4-12, but the header 4-11");
    tampered(&|hand| hand.lines[0]["header"]["from"] = json!("3")).is_refused("3 is missing");
    tampered(&|hand| {
        let at = hand.checkpoint(2);
        hand.lines[at]["checkpoint"]["signature"] = json!(BASE64.encode(&[7; 64]));
    })
    .is_refused("checkpoint 2: its signature is not one of the key");
    tampered(&|hand| {
        let (at, older) = (hand.checkpoint(2), hand.checkpoint(1));
        hand.lines[at] = hand.lines[older].clone();
    })
    .is_refused("checkpoint 1 stands behind checkpoint 1");
    tampered(&|hand| drop(hand.lines.remove(0))).is_refused("does not begin with its header");
    tampered(&|hand| hand.lines.push(json!({ "rotation": world.rotations[0] })))
        .is_refused("stands behind the trailer");
    let cut = evidence(&world);
    let found = examined(&cut[..cut.len() - 20], &world.first.public());
    assert!(found.faults[0].text.contains("cut off"), "{found:?}");
}

#[test]
fn a_tampering_that_mends_the_hashes_is_named_by_what_it_cannot_sign() {
    let world = world();
    let thief = SigningKey::generate();
    let mut hand = Hand::new(&world);
    let at = hand.message(5);
    hand.lines[at]["message"]["body"] = json!(BASE64.encode(b"{}"));
    // Somebody with another key.
    let hand = hand.mended(&thief);
    hand.is_refused("which is neither");
    hand.is_refused("FARSIDE_LOCAL:4-6 is not what checkpoint 2 signs");
    hand.is_refused("does not follow the one before it in its chain");
    // The holder of the target's own key, who has told the checkpoints to others before.
    hand.mended(&world.second).is_refused("FARSIDE_LOCAL:4-6 is not what checkpoint 2 signs");
    let mut hand = Hand::new(&world);
    let at = hand.message(9);
    hand.lines[at] = json!({ "absent": { "first": "9", "last": "9" } });
    hand.mended(&world.second).is_refused("FARSIDE_LOCAL:7-10 is not what checkpoint 3 signs");
    // A key that its holder has introduced as the successor of the target's.
    let mut hand = Hand::new(&world);
    let mut usurped = thief.succeeded_by(&thief, &target(), "x").unwrap();
    usurped.previous = Some(world.first.public());
    let at = hand.index(|line| line["rotation"]["previous"].is_string());
    hand.lines[at] = json!({ "rotation": usurped });
    hand.mended(&thief).is_refused("the rotation to the key");
    // A whole history of the thief's own, which names the target's key as its successor.
    let mut hand = Hand::new(&world);
    let rotations =
        [thief.first(&target(), "x").unwrap(), thief.succeeded_by(&world.first, &target(), "x").unwrap()];
    hand.lines[1] = json!({ "rotation": rotations[0] });
    hand.lines.insert(2, json!({ "rotation": rotations[1] }));
    hand.mended(&thief).is_refused("which is neither");
    assert_eq!(examined(&Hand::new(&world).mended(&world.second).file(), &world.first.public()).faults, []);
}

#[test]
fn what_is_no_evidence_is_refused() {
    for file in ["", "\n", "{}\n", "hello", "{\"header\":{}}\n"] {
        let found = examined(file.as_bytes(), "U");
        assert!(!found.faults.is_empty(), "{file:?}");
    }
}
