//! A flipped bit in a file of JetStream: the server says nothing, and messages are gone that it had acknowledged, in
//! the middle after a clean end, up to the end of the block after `kill -9`; their sequences are given to new messages
//! then. Found at the next connect, healed from the agent, both recorded; with the agent gone it stays visible.
//!
//! `make test` runs a few rounds of each kind, `make flip` twenty (`FARSIDE_FLIP_ROUNDS`). A failure names its seed;
//! `FARSIDE_FLIP_SEED` runs the same places again.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bus::Bus;
use bus_schema::Hash32;
use serde_json::Value;

use crate::support::{
    eventually, eventually_told,
    kept::KeptLog,
    nats::Nats,
    random::{Random, number},
    world::World,
};

/// The site's log.
const LOG: &str = "FARSIDE_LOCAL";
const TARGET_LOG: &str = "FARSIDE_TGT_LOCAL";
/// Rounds of each kind in a plain `make test`.
const ROUNDS_DEFAULT: u64 = 2;
/// Resources of the source.
const RESOURCES: u64 = 40;
/// Resources that change in each round before the bit is flipped.
const CHANGES: u64 = 15;
/// Places that are tried until JetStream has lost something: a bit may be one that nobody reads.
const PLACES_MAX: u64 = 20;

/// How NATS ends before the bit is flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Kill,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_after_a_clean_end_is_found_and_healed() {
    Rounds::run(End::Clean, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_after_a_kill_is_found_and_healed() {
    Rounds::run(End::Kill, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_sequences_that_new_events_were_given_are_found_and_healed() {
    Rounds::run(End::Kill, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_bring_again_stays_visible_until_somebody_knows_of_it() {
    let mut rounds = Rounds::start(End::Kill).await;
    rounds.change().await;
    rounds.world.agent.kill();
    rounds.lose().await;
    let open = rounds.open(1).await;
    let alarm = eventually("the alarm says who is missed", async || {
        let alarm = rounds.alarm().await?;
        alarm["text"].as_str()?.contains("is connected; start it").then_some(alarm)
    })
    .await;
    let damage = open[0]["damage"].as_str().unwrap();
    assert!(alarm["text"].as_str().unwrap().contains("farside audit acknowledge"), "{alarm}");
    let scrubbed = rounds.world.ask(&["audit", "scrub"]).await;
    assert_eq!(scrubbed.status.code(), Some(1), "{scrubbed:?}");
    let refused = rounds.world.ask(&["audit", "acknowledge", damage, "--reason", " "]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for damage in &open {
        let name = damage["damage"].as_str().unwrap();
        let known = rounds.world.ask(&["audit", "acknowledge", name, "--reason", "its machine burnt"]).await;
        assert!(known.status.success(), "{known:?}");
    }
    eventually("the alarm has ended", async || rounds.alarm().await.is_none().then_some(())).await;
    let damages = rounds.damages().await;
    assert!(
        damages
            .iter()
            .any(|damage| damage["acknowledged"].as_str().is_some_and(|text| text.contains("burnt")))
    );
    let scrubbed = rounds.world.ask(&["audit", "scrub"]).await;
    assert!(scrubbed.status.success(), "{scrubbed:?}");
}

/// JetStream's checksum of a message does not cover where its headers end, so it gives out another message in its place.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_headers_end_elsewhere_is_missing_and_healed() {
    let mut rounds = Rounds::start(End::Kill).await;
    rounds.change().await;
    rounds.replace_one_in_the_middle().await;
    for _ in ["by the pool that had read it", "by the one that was built without it"] {
        rounds.rebuilds_to_the_same().await;
    }
}

/// The pool goes back to the start of the log then, and reads again what is not what it was: nobody has said that.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_last_event_is_another_one_is_read_again_and_nobody_is_blamed_for_a_fork() {
    let mut rounds = Rounds::start(End::Kill).await;
    rounds.change().await;
    rounds.replace_one_in_the_middle().await;
    let seq = rounds.ends_with_an_event().await;
    rounds.replace(seq).await;
    assert!(rounds.stated("rewound").await > 0, "else this tests nothing");
    assert_eq!(rounds.stated("forked").await, 0);
    rounds.rebuilds_to_the_same().await;
}

/// Whoever reads the log for the first time knows what others have stated of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_made_anew_passes_by_what_stands_in_place_of_an_event() {
    let mut rounds = Rounds::start(End::Kill).await;
    rounds.change().await;
    rounds.replace_one_in_the_middle().await;
    rounds.has_read_all().await;
    rounds.world.service.kill();
    fs::remove_file(rounds.world.pool_file()).unwrap();
    rounds.world.service.start_again();
    rounds.world.agrees_with(&rounds.truth).await;
    assert_eq!(rounds.stated("forked").await, 0);
    rounds.rebuilds_to_the_same().await;
}

/// Its reader has given nothing out by which it could notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_is_given_again_is_noticed_by_a_service_that_was_just_started() {
    let mut rounds = Rounds::start(End::Clean).await;
    rounds.change().await;
    rounds.world.agent.stand_still();
    rounds.has_read_all().await;
    let kept = KeptLog::of(&mut rounds.nats, LOG).await;
    rounds.publish_plain("lost", 5).await;
    rounds.has_read_all().await;
    rounds.world.service.kill_and_start_again();
    rounds.has_read_all().await;

    rounds.world.service.stand_still();
    kept.put_back(&mut rounds.nats).await;
    rounds.publish_plain("again", 7).await;
    rounds.world.service.go_on();

    eventually("the pool has gone back and has all of them", async || {
        let said = rounds.world.ask(&["pool", "export", "plain"]).await;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        (0..7).all(|n| said.contains(&format!("again-{n}"))).then_some(())
    })
    .await;
    assert!(rounds.stated("rewound").await > 0);
}

/// A world whose log loses messages, again and again.
struct Rounds {
    nats: Nats,
    world: World,
    end: End,
    seed: u64,
    random: Random,
    truth: BTreeMap<String, u64>,
    number: u64,
}

impl Rounds {
    async fn run(end: End, reuse: bool) {
        let mut rounds = Self::start(end).await;
        for round in 0..number("FARSIDE_FLIP_ROUNDS").unwrap_or(ROUNDS_DEFAULT) {
            rounds.change().await;
            let known = rounds.damages().await;
            let lost = if reuse { rounds.lose_and_reuse().await } else { rounds.lose().await };
            let told = format!("seed {}, {end:?}, round {round}, lost {lost:?}", rounds.seed);
            rounds.is_healed(&known, &told).await;
        }
        rounds.rebuilds_to_the_same().await;
    }

    async fn start(end: End) -> Self {
        let seed = number("FARSIDE_FLIP_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        let nats = Nats::start().await;
        let world = World::start(&nats.url());
        let (random, truth) = (Random(seed | 1), BTreeMap::new());
        let mut rounds = Self { nats, world, end, seed, random, truth, number: 0 };
        (0..RESOURCES).for_each(|id| rounds.write(id));
        rounds.world.agrees_with(&rounds.truth).await;
        rounds
    }

    /// Changes the source, and waits until the pool has it and knows that it does.
    async fn change(&mut self) {
        for _ in 0..CHANGES {
            let id = self.random.below(RESOURCES);
            self.write(id);
        }
        self.world.agrees_with(&self.truth).await;
    }

    fn write(&mut self, id: u64) {
        self.number += 1;
        let number = self.number;
        let text = format!(
            r#"{{"kind":"Item","id":"n{id}","revision":"{number}","state":{{"n":{number},"text":"state {number} of {id}"}}}}"#
        );
        let file = self.world.source().join(format!("item-{id}.json"));
        let half = self.world.source().join(".half-written");
        fs::write(&half, text).unwrap();
        fs::rename(&half, file).unwrap();
        self.truth.insert(format!("Item/n{id}"), number);
    }

    /// Ends NATS, flips a bit, starts it again, until it has lost chained events; answers their sequences.
    async fn lose(&mut self) -> Vec<u64> {
        for _ in 0..PLACES_MAX {
            let before = messages(&self.nats.bus().await).await;
            self.end_nats().await;
            self.start_flipped().await;
            let after = messages(&self.nats.bus().await).await;
            let lost: Vec<_> = before
                .iter()
                .filter(|(seq, (hash, chained))| {
                    *chained && after.get(seq).is_none_or(|(now, _)| now != hash)
                })
                .map(|(seq, _)| *seq)
                .collect();
            if !lost.is_empty() {
                return lost;
            }
        }
        panic!("JetStream outlived {PLACES_MAX} flipped bits");
    }

    /// The same, with events that wait for NATS and are given the lost sequences before anybody has looked.
    async fn lose_and_reuse(&mut self) -> Vec<u64> {
        for _ in 0..PLACES_MAX {
            let before = messages(&self.nats.bus().await).await;
            let last = *before.keys().last().unwrap();
            self.world.service.stand_still();
            self.end_nats().await;
            for _ in 0..CHANGES {
                let id = self.random.below(RESOURCES);
                self.write(id);
            }
            self.start_flipped().await;
            let bus = self.nats.bus().await;
            let begins_at = bus.stream_state(LOG).await.unwrap().last_seq;
            // The agent sends what waits in its outbox.
            eventually("the agent goes on", async || {
                (bus.stream_state(LOG).await.unwrap().last_seq > begins_at + CHANGES / 2).then_some(())
            })
            .await;
            self.world.service.go_on();
            let after = messages(&bus).await;
            let lost: Vec<_> = before
                .iter()
                .filter(|(seq, (hash, chained))| {
                    *chained && after.get(seq).is_none_or(|(now, _)| now != hash)
                })
                .map(|(seq, _)| *seq)
                .collect();
            if begins_at < last && !lost.is_empty() {
                return lost;
            }
            self.world.agrees_with(&self.truth).await;
        }
        panic!("no sequence was given twice with {PLACES_MAX} flipped bits");
    }

    async fn replace_one_in_the_middle(&mut self) {
        let messages = messages(&self.nats.bus().await).await;
        let chained: Vec<_> = messages.iter().filter(|(_, (_, chained))| *chained).collect();
        self.replace(*chained[chained.len() / 2].0).await;
    }

    /// Lets another message stand in place of a chained one, and waits until that is found and healed.
    async fn replace(&mut self, seq: u64) {
        let known = self.damages().await;
        self.end_nats().await;
        end_headers_elsewhere(&self.nats.blocks(LOG), seq);
        self.nats.start_again().await;
        self.world.agent.go_on();
        self.is_healed(&known, &format!("{LOG}:{seq}")).await;
        let is_new = |damage: &Value| !known.iter().any(|known| known["damage"] == damage["damage"]);
        let gap = self.damages().await.into_iter().find(|damage| is_gap(damage) && is_new(damage));
        assert!(gap.as_ref().is_some_and(|gap| gap["healed"].is_string()), "what was missing: {gap:?}");
    }

    /// Lets the agent stand still when the last message of the log is a chained event; answers its sequence when the
    /// pool has read it.
    async fn ends_with_an_event(&mut self) -> u64 {
        for _ in 0..PLACES_MAX {
            let number = messages(&self.nats.bus().await).await.len();
            self.write(0);
            let bus = self.nats.bus().await;
            eventually("it is sent", async || (messages(&bus).await.len() > number).then_some(())).await;
            self.world.agent.stand_still();
            let (last, (_, chained)) = messages(&bus).await.pop_last().unwrap();
            if chained {
                self.has_read_all().await;
                return last;
            }
            self.world.agent.go_on();
        }
        panic!("{PLACES_MAX} times another message came behind the event");
    }

    /// Publishes events of a cluster that has no agent, and no chain.
    async fn publish_plain(&self, name: &str, count: u64) {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        for n in 0..count {
            let subject = format!("far.v1.local.evt.plain.resource.Pod=2F{name}-{n}.changed");
            let body = format!(r#"{{"kind":"Pod","id":"{name}-{n}","revision":"1","state":{{}}}}"#);
            jetstream.publish(subject, body.into()).await.unwrap().await.unwrap();
        }
    }

    /// How often the target stated such a fact of the log.
    async fn stated(&self, event: &str) -> usize {
        let bus = self.nats.bus().await;
        let last = bus.stream_state(TARGET_LOG).await.unwrap().last_seq;
        let mut log = bus.read_log(TARGET_LOG, 1, None).await.unwrap();
        let (mut found, ending) = (0, format!(".{event}"));
        while let Some(messages) = log.next_stored(4_096, last).await.unwrap() {
            found += messages.iter().filter(|message| message.subject().ends_with(&ending)).count();
        }
        found
    }

    async fn end_nats(&mut self) {
        match self.end {
            End::Clean => self.nats.stop().await,
            End::Kill => self.nats.kill().await,
        }
    }

    /// Flips a bit and starts NATS on that. nats-server 2.15.1 hung once, in some 900 bits, while it restored the log: then it
    /// is started on the log as it was, which has lost nothing.
    async fn start_flipped(&mut self) {
        let blocks = self.nats.blocks(LOG);
        let block = &blocks[self.random.below(blocks.len() as u64) as usize];
        let as_it_was = fs::read(block).unwrap();
        flip(block, &mut self.random);
        if !self.nats.comes_up_again().await {
            self.nats.kill().await;
            fs::write(block, as_it_was).unwrap();
            self.nats.start_again().await;
        }
    }

    /// The log has everything again, that is recorded, and pool and source agree.
    async fn is_healed(&self, known: &[Value], told: &str) {
        eventually_told(&format!("{told}: found and healed"), async || {
            let damages = self.damages().await;
            let is_known = |new: &Value| known.iter().any(|known| known["damage"] == new["damage"]);
            // An event of which the log has a copy from an earlier round leaves no gap.
            let is_whole =
                |damage: &Value| damage["open"] == false && (damage["healed"].is_string() || !is_gap(damage));
            if damages.iter().all(is_known) {
                return Err("no damage is stated".to_owned());
            }
            if !damages.iter().all(is_whole) {
                let open: Vec<_> = damages.iter().filter(|damage| !is_whole(damage)).collect();
                return Err(format!("open: {open:?}"));
            }
            // What is found is stated one by one: the log itself tells whether that was all.
            let scrubbed = self.world.ask(&["-o", "json", "audit", "scrub"]).await;
            let is_clean =
                serde_json::from_slice::<Value>(&scrubbed.stdout).is_ok_and(|report| report["gaps"] == "0");
            if scrubbed.status.success() && is_clean { Ok(()) } else { Err(format!("{scrubbed:?}")) }
        })
        .await;
        self.world.agrees_with(&self.truth).await;
        assert!(self.alarm().await.is_none(), "{told}");
    }

    /// What is in the log now says what the pool says.
    async fn rebuilds_to_the_same(&self) {
        // A rebuild reads as far as the pool has: the copies are behind that until it has read them too.
        self.has_read_all().await;
        let rebuilt = self.world.ask(&["-o", "json", "rebuild"]).await;
        let report: Value =
            serde_json::from_slice(&rebuilt.stdout).unwrap_or_else(|e| panic!("{e}: {rebuilt:?}"));
        assert_eq!(report["swapped"], true, "{report}");
        self.world.agrees_with(&self.truth).await;
    }

    async fn has_read_all(&self) {
        eventually("the pool has read the whole log", async || {
            let status = self.world.status().await?;
            let log = status["logs"].as_array()?.iter().find(|log| log["stream"] == LOG)?.clone();
            (log["applied"] == log["last"]).then_some(())
        })
        .await;
    }

    async fn damages(&self) -> Vec<Value> {
        let said = self.world.ask(&["-o", "json", "audit", "damage"]).await;
        let Ok(said) = serde_json::from_slice::<Value>(&said.stdout) else { return Vec::new() };
        said["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until so many damages are open, at least.
    async fn open(&self, count: usize) -> Vec<Value> {
        eventually("the damage is found", async || {
            let mut damages = self.damages().await;
            damages.retain(|damage| damage["open"] == true);
            (damages.len() >= count).then_some(damages)
        })
        .await
    }

    async fn alarm(&self) -> Option<Value> {
        let status = self.world.status().await?;
        status["alarms"].as_array()?.iter().find(|alarm| alarm["kind"] == "log-damaged").cloned()
    }
}

/// Whether a damage is a gap in a chain.
fn is_gap(damage: &Value) -> bool {
    damage["text"].as_str().unwrap().starts_with("events ")
}

/// Every message of the log: its hash, and whether it is of a chain.
async fn messages(bus: &Bus) -> BTreeMap<u64, (Hash32, bool)> {
    let state = bus.stream_state(LOG).await.unwrap();
    let mut found = BTreeMap::new();
    let mut log = bus.read_log(LOG, 1, None).await.unwrap();
    while let Some(messages) = log.next_stored(4_096, state.last_seq).await.unwrap() {
        for message in messages {
            let chained = message.headers().iter().any(|(name, _)| *name == "ce-farseq");
            found.insert(message.seq(), (message.hash(), chained));
        }
    }
    found
}

fn flip(block: &Path, random: &mut Random) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(block).unwrap();
    let at = random.below(file.metadata().unwrap().len());
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 1 << random.below(8);
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&byte).unwrap();
    file.sync_all().unwrap();
}

/// Flips the lowest bit of the length of a message's headers. A block of JetStream (filestore.go, `msgFromBuf`) is made of
/// records: length (4 bytes, little endian like all numbers), sequence (8), time (8), length of the subject (2), subject,
/// length of the headers (4), headers and body, checksum.
fn end_headers_elsewhere(blocks: &[PathBuf], seq: u64) {
    for block in blocks {
        let mut bytes = fs::read(block).unwrap();
        if let Some(at) = headers_length_of(&bytes, seq) {
            bytes[at] ^= 1;
            fs::write(block, bytes).unwrap();
            return;
        }
    }
    panic!("no block has {seq}");
}

fn headers_length_of(block: &[u8], seq: u64) -> Option<usize> {
    const HAS_HEADERS: u64 = 1 << 31;
    const LENGTH: u64 = (1 << 30) - 1;
    const SEQUENCE_AT: usize = 4;
    const SUBJECT_LENGTH_AT: usize = 20;
    const SUBJECT_AT: usize = 22;
    let number = |at: usize, len: usize| {
        let bytes = block.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let mut record = 0;
    while number(record + SEQUENCE_AT, 8)? != seq {
        record += (number(record, 4)? & LENGTH) as usize;
    }
    assert!(number(record, 4)? & HAS_HEADERS != 0, "it has headers");
    Some(record + SUBJECT_AT + number(record + SUBJECT_LENGTH_AT, 2)? as usize)
}
