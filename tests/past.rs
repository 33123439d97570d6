//! The past: what farside says of any moment is what a naive replay of the log says, byte for byte (`past/model.rs`).
//!
//! `make past` looks at 50 moments of a longer history; a failure names its seed, which `FARSIDE_PAST_SEED` runs again.

use std::{
    collections::BTreeMap,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use bus::{Bus, Outgoing};
use serde_json::{Value, json};

use crate::support::{
    eventually,
    farside::{Up, log_of, private, with_files},
    random::{Random, number},
};
use crate::trail::swept;

mod model;

use model::{Model, Raw};

const LOG: &str = "FARSIDE_LOCAL";
/// Moments that are looked at in an ordinary run.
const ROUNDS: u64 = 6;
/// Things that happen in each of the three parts of the world, for each moment that is looked at.
const STEPS: u64 = 5;
/// Resources of the source, and as many of publishers: fewer than a full answer needs to delete for a person to be asked.
const RESOURCES: u64 = 9;

/// A farside with one agent over a directory, of whose resources some are announced first.
fn start() -> Up {
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let config = r#"
        [service.schedule]
        every = "1h"
        [service.threshold]
        age = "1s"
        [[agent.resource]]
        name = "inv"
        ledger = "inv.redb"
        heartbeat_s = 1
        [[agent.resource.clusters]]
        name = "dc1"
        push = { notice_kinds = ["Note"] }
        source = { adapter = "directory", path = "source" }
        keys = [{ id = "ak-dc1", tenant = "acme", secret_file = "ak.secret" }]
    "#;
    let files = [
        ("farside.toml", config),
        ("ak.secret", "correct horse battery staple"),
        ("source/x.json", r#"{"kind":"VM","id":"x","state":0}"#),
    ];
    with_files(dir.path(), &files);
    private(&dir.path().join("ak.secret"));
    Up::start_in(dir)
}

/// Things that happen by chance.
struct World {
    random: Random,
    bus: Bus,
    revision: u64,
    /// What nobody could take in, and how it is mended.
    dead: Vec<Dead>,
}

/// A dead letter that can be mended.
struct Dead {
    seq: u64,
    subject: String,
    body: String,
    patch: Value,
}

impl World {
    /// One thing at the source, from a publisher, or by an operator.
    async fn step(&mut self, up: &Up) {
        let (what, id) = (self.random.below(12), self.random.below(RESOURCES));
        self.revision += 1;
        let file = up.dir().join(format!("source/{id}.json"));
        match what {
            0..=2 => fs::write(file, self.record(id).to_string()).unwrap(),
            3 => drop(fs::remove_file(file)),
            4 | 5 => drop(self.plain("changed", id, |data| data).await),
            6 => drop(self.plain("deleted", id, |data| data).await),
            7 => self.structured(id).await,
            8 => self.poison(id).await,
            9 | 10 => self.redrive().await,
            _ => drop(up.verb(&["sync", "dc1", "--full"])),
        }
    }

    fn record(&self, id: u64) -> Value {
        let kind = if id.is_multiple_of(3) { "Note" } else { "Pod" };
        let (n, tenant) = (self.revision, if id.is_multiple_of(2) { "acme" } else { "acme/web" });
        let state = json!({"n": n, "half": n as f64 / 2.0, "names": ["größe", "\u{1}\"\\"], "€": {"𐀀": null, "ﬀ": -1}});
        json!({"kind": kind, "id": format!("s{id}"), "revision": n.to_string(), "state": state, "tenant": tenant, "labels": {"app": "web"}})
    }

    async fn plain(&mut self, event: &str, id: u64, spoil: impl FnOnce(Value) -> Value) -> Dead {
        let revision = self.revision.to_string();
        let data =
            json!({"kind": "Pod", "id": format!("p.{id}"), "revision": revision, "state": [self.revision]});
        let subject = format!("far.v1.local.evt.dc1.resource.Pod=2Fp=2E{id}.{event}");
        let body = spoil(data.clone()).to_string();
        let seq = self.publish(subject.clone(), body.clone(), vec![]).await;
        let members = data.as_object().unwrap().iter();
        let patch =
            members.map(|(name, value)| json!({"op": "add", "path": format!("/{name}"), "value": value}));
        Dead { seq, subject, body, patch: patch.collect() }
    }

    /// A copy of a dead letter, mended; now and then once more, or of one that nobody can mend.
    async fn redrive(&mut self) {
        if self.dead.is_empty() {
            return;
        }
        let Dead { seq, subject, body, patch } =
            &self.dead[self.random.below(self.dead.len() as u64) as usize];
        let headers = [
            ("Farside-Redrive", format!("{LOG}:{seq}")),
            ("Farside-Redrive-Actor", "operator".to_owned()),
            ("Farside-Redrive-Patch", patch.to_string()),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
        self.publish(subject.clone(), body.clone(), headers).await;
    }

    /// A CloudEvent of another publisher; now and then it only announces.
    async fn structured(&mut self, id: u64) {
        let (event, n) =
            if id.is_multiple_of(2) { ("changed", self.revision) } else { ("noticed", self.revision) };
        let data = json!({
            "kind": "VM", "id": format!("v{id}"), "revision": n.to_string(), "state": {"n": n}, "labels": {"b": "", "a": "ü"},
            "state_hash": "0".repeat(64), "size_bytes": n.to_string(),
        });
        let cloud = json!({
            "specversion": "1.0", "id": format!("e{n}"), "source": "/local/dc1/resource/other", "type": format!("resource.{event}"),
            "time": "2026-11-22T04:31:48.007Z", "fartenant": "acme/db", "data": data,
        });
        let subject = format!("far.v1.local.evt.dc1.resource.VM=2Fv{id}.{event}");
        self.publish(subject, cloud.to_string(), vec![]).await;
    }

    /// What nobody can take in.
    async fn poison(&mut self, id: u64) {
        let subject = |rest: &str| format!("far.v1.local.evt.dc1.resource.Pod=2Fp=2E{id}.{rest}");
        let dead = match self.random.below(6) {
            0 => {
                self.publish(subject("changed"), "{\"kind\":\"Pod\",".to_owned(), vec![]).await;
                return;
            }
            1 => {
                self.publish(subject("melted"), "{}".to_owned(), vec![]).await;
                return;
            }
            2 => self.plain("changed", id, |mut data| (data["id"] = json!("another"), data).1).await,
            3 => {
                let spoil = |data: Value| json!({"kind": data["kind"], "id": data["id"], "state": 1});
                self.plain("changed", id, spoil).await
            }
            4 => self.plain("noticed", id, |data| data).await,
            _ => {
                let key = json!({"key_id": "stolen", "tenant": "acme", "salt": "0".repeat(64), "hash": "0".repeat(64)});
                let subject = "far.v1.local.evt.dc1.key.stolen.announced".to_owned();
                self.publish(subject, key.to_string(), vec![]).await;
                return;
            }
        };
        self.dead.push(dead);
    }

    async fn publish(&self, subject: String, body: String, headers: Vec<(String, String)>) -> u64 {
        let outgoing = Outgoing { subject, headers, body: body.into(), message_id: String::new() };
        self.bus.publisher().publish(LOG, &outgoing, None).await.unwrap().seq
    }
}

/// Waits until the pool has what the source has.
async fn settled(up: &Up) {
    eventually("pool and source agree", async || {
        let status = up.verb(&["-o", "json", "status"]);
        let status: Value = serde_json::from_str(&status.out).ok()?;
        let owners = status["pools"][0]["owners"].as_array()?;
        let inv = owners.iter().find(|owner| owner["source"] == "/local/dc1/resource/inv")?;
        (inv["in_sync"] == "yes").then_some(())
    })
    .await;
}

/// The whole log as it is stored.
async fn log(bus: &Bus) -> Vec<Raw> {
    let state = bus.stream_state(LOG).await.unwrap();
    let last = state.last_seq;
    let (mut reader, mut log) = (bus.read_log(LOG, 1, None).await.unwrap(), Vec::new());
    while log.last().is_none_or(|raw: &Raw| raw.seq < last) {
        let message = reader.next().await.unwrap();
        let headers =
            message.headers().into_iter().map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        log.push(Raw {
            seq: message.seq(),
            stored_at: message.stored_at().to_string(),
            subject: message.subject().to_owned(),
            headers: headers.collect::<BTreeMap<_, _>>(),
            body: message.body().to_vec(),
        });
    }
    assert_eq!(log.len() as u64, state.messages, "nothing is left out by the reader");
    log
}

/// The pool after each of the first messages of a log.
fn naive(log: &[Raw], up_to: u64) -> Model {
    let mut model = Model::default();
    log.iter().take_while(|raw| raw.seq <= up_to).for_each(|raw| model.take(raw, LOG));
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_of_any_past_sequence_is_what_a_naive_replay_of_the_log_says_byte_for_byte() {
    let rounds = number("FARSIDE_PAST_ROUNDS").unwrap_or(ROUNDS);
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = number("FARSIDE_PAST_SEED").unwrap_or_else(by_clock) | 1;
    eprintln!("the past: {rounds} moments, FARSIDE_PAST_SEED={seed}");
    let up = start();
    let mut world = World { random: Random(seed), bus: up.bus().await, revision: 0, dead: vec![] };
    // What is to be among the moments in any case.
    fs::write(up.dir().join("source/0.json"), world.record(0).to_string()).unwrap();
    fs::write(up.dir().join("source/1.json"), world.record(1).to_string()).unwrap();
    settled(&up).await;
    fs::remove_file(up.dir().join("source/0.json")).unwrap();
    for id in 0..RESOURCES {
        world.plain("changed", id, |data| data).await;
        world.poison(id).await;
        world.redrive().await;
    }
    for _ in 0..STEPS * rounds {
        world.step(&up).await;
    }
    settled(&up).await;
    // The agent loses its ledger, and the source one of its resources: only the next full answer tells of that.
    fs::write(up.dir().join("source/1.json"), world.record(1).to_string()).unwrap();
    settled(&up).await;
    let (_, dir) = up.stop();
    fs::remove_file(dir.path().join("inv.redb")).unwrap();
    fs::remove_file(dir.path().join("source/1.json")).unwrap();
    let up = Up::start_in(dir);
    world.bus = up.bus().await;
    eventually("the full answer after the loss is there", async || {
        let row = up.verb(&["-o", "json", "pool", "get", "dc1", "Pod/s1"]);
        serde_json::from_str::<Value>(&row.out).ok()?["deleted_at"].is_string().then_some(())
    })
    .await;
    for _ in 0..STEPS * rounds {
        world.step(&up).await;
    }
    swept(&up, &world.bus).await;
    settled(&up).await;
    compare(&up, &mut world, rounds, seed).await;
}

/// A moment as it is asked for, and the last message of it.
fn by_seq(seq: u64) -> (String, u64) {
    (format!("{LOG}:{seq}"), seq)
}

/// All that the log had stored at this time.
fn by_time(log: &[Raw], time: &str) -> (String, u64) {
    let at = |raw: &Raw| raw.stored_at.parse::<bus_schema::Timestamp>().unwrap();
    let moment = time.parse().unwrap();
    let last = log.iter().take_while(|raw| at(raw) <= moment).last().unwrap();
    (time.to_owned(), last.seq)
}

async fn compare(up: &Up, world: &mut World, rounds: u64, seed: u64) {
    let log = log(&world.bus).await;
    let whole = naive(&log, u64::MAX);
    let last = log.last().unwrap().seq;
    let facts = (whole.parked.len(), whole.redriven.len(), whole.buried, whole.tombstones());
    let has_all = facts.0 >= 9 && facts.1 > 0 && facts.2 > 0 && facts.3 > facts.2;
    assert!(has_all, "seed {seed}: parked, redriven, buried, tombstones {facts:?}");
    let listed = eventually("all dead letters are there", async || {
        let listed = up.json(&["dlq", "list", "--limit", "200"]);
        let mut places =
            listed["items"].as_array()?.iter().map(|letter| letter["place"].clone()).collect::<Vec<_>>();
        places.reverse();
        (places.len() == whole.parked.len().min(200)).then_some(places)
    })
    .await;
    let parked: Vec<_> = whole.parked.keys().map(|seq| json!(format!("{LOG}:{seq}"))).collect();
    assert!(parked.ends_with(&listed), "seed {seed}: {parked:?} {listed:?}");
    // Behind the first rows there always is a pool.
    let first = log.iter().position(|raw| !naive(&log, raw.seq).export().is_empty()).unwrap();
    let a_dead_letter = *whole.parked.keys().nth(3).unwrap();
    let chance: Vec<_> = (0..rounds)
        .map(|round| {
            let raw = &log[first + world.random.below((log.len() - first) as u64) as usize];
            // Every other one by its time, which others of that moment share.
            if round % 2 == 0 { by_seq(raw.seq) } else { by_time(&log, &raw.stored_at) }
        })
        .collect();
    for (place, seq) in chance.into_iter().chain([by_seq(a_dead_letter), by_seq(last)]) {
        let said = up.verb(&["pool", "export", "dc1", "--at", &place]);
        assert_eq!(
            said.code,
            Some(0),
            "FARSIDE_PAST_SEED={seed}, at {place}: {said:?}\n{}",
            log_of(up.dir())
        );
        let expected = naive(&log, seq).export();
        if said.out != expected {
            let differs = said.out.lines().zip(expected.lines()).find(|(found, right)| found != right);
            panic!("FARSIDE_PAST_SEED={seed}: the pool at {place} is not what the log says: {differs:#?}");
        }
    }
    assert_eq!(up.verb(&["pool", "export", "dc1"]).code, Some(0));
}
