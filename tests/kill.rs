//! The kill test: nats-server, agent and service are killed (SIGKILL) at random while the source keeps
//! changing. In the end the pool equals the source, proved by digest and by reading the source
//! independently, and every chained event was applied exactly once.
//!
//! `make test` runs a few rounds, `make kill` two hundred (`FARSIDE_KILL_ROUNDS`). The seed is printed;
//! `FARSIDE_KILL_SEED` runs the same schedule of kills again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    eventually,
    nats::Nats,
    random::{Random, number},
    world::World,
};

const LOG: &str = "FARSIDE_LOCAL";
/// Rounds of a plain `make test`.
const ROUNDS_DEFAULT: u64 = 12;
/// Resources that the load changes, makes and deletes.
const RESOURCES: u64 = 400;
/// At most so many changes happen between a start and the next kill.
const CHANGES_BETWEEN_KILLS_MAX: u64 = 60;

/// One of the three that are killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Nats,
    Agent,
    Service,
}

/// Checkpoints, snapshots and trims every few seconds.
const TRIMS: &str = "checkpoint = { events = 50, every = \"1s\" }\nsnapshot = { events = 100, every = \"0s\", keep = 6 }\n\
                     retention = { age = \"2s\" }";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_applied_twice_when_anything_is_killed_at_any_time() {
    killed_at_any_time("", async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_what_a_snapshot_holds_goes_from_a_log_that_is_trimmed_while_anything_is_killed() {
    // The load goes on until then: without an event there is no further snapshot, and the newest one lets nothing go.
    let trimmed = async |nats: &Nats| {
        let bus = nats.bus().await;
        let first = async || Some(bus.stream_state(LOG).await.ok()?.first_seq).filter(|first| *first > 1);
        println!("the log begins with {}", eventually("the log is trimmed", first).await);
    };
    let (_nats, world) = killed_at_any_time(TRIMS, trimmed).await;
    let said = async |arguments: &[&str]| {
        let said = world.ask(&[&["-o", "json"], arguments].concat()).await;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(
            said.status.code(),
            Some(0),
            "{arguments:?}: {text} {}",
            String::from_utf8_lossy(&said.stderr)
        );
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let verified = said(&["audit", "verify"]).await;
    assert!(verified["faults"] == json!([]) && verified["rows_of_checkpoint"].is_u64(), "{verified}");
    let scrubbed = said(&["audit", "scrub"]).await;
    println!("{scrubbed}");
    let rebuilt = said(&["rebuild"]).await;
    assert_eq!(rebuilt["differences"], json!([]), "{rebuilt}");
}

#[allow(clippy::print_stdout, reason = "the seed of a failed run is in its output")]
async fn killed_at_any_time(service: &str, before_the_end: impl AsyncFnOnce(&Nats)) -> (Nats, World) {
    let rounds = number("FARSIDE_KILL_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    let seed = number("FARSIDE_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed | 1);
    let mut nats = Nats::start().await;
    let mut world = World::start_with(&nats.url(), service);
    let load = Load::start(world.source(), seed);
    let mut killed = BTreeMap::new();
    for _ in 0..rounds {
        let changes = random.below(CHANGES_BETWEEN_KILLS_MAX);
        load.goes_on_for(changes).await;
        // Half of the kills hit a system at work, the other half one that may still be starting.
        if random.below(2) == 0 {
            world.moves_on().await;
        }
        let victim = [Victim::Nats, Victim::Agent, Victim::Service][random.below(3) as usize];
        match victim {
            Victim::Nats => {
                nats.kill().await;
                load.goes_on_for(random.below(10)).await;
                nats.start_again().await;
            }
            Victim::Agent => world.agent.kill_and_start_again(),
            Victim::Service => world.service.kill_and_start_again(),
        }
        *killed.entry(format!("{victim:?}")).or_insert(0) += 1;
    }
    before_the_end(&nats).await;
    let truth = load.stop();
    world.agrees_with(&truth).await;
    let owner = world.owner().await;
    let last = owner["at"].as_str().unwrap().split_once(':').unwrap().1.to_owned();
    println!(
        "killed {killed:?}; {} resources, chain at {last}, applied {}, dropped as repeats {}",
        truth.len(),
        owner["applied"],
        owner["repeats"]
    );
    // The chain is counted from 1 without holes, so this is once each.
    assert_eq!(owner["applied"].to_string(), last, "each event is applied exactly once");
    assert_eq!(world.status().await.unwrap()["dead_letters"].to_string(), "0");
    let log = fs::read_to_string(&world.service.log).unwrap();
    assert!(!log.contains("does not hold any more"), "NATS lost what it had acknowledged: {log}");
    (nats, world)
}

/// Changes the source all the time, and knows what it holds.
struct Load {
    truth: Arc<Mutex<BTreeMap<String, u64>>>,
    changes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writer: thread::JoinHandle<()>,
}

impl Load {
    fn start(source: PathBuf, seed: u64) -> Self {
        let (truth, changes, stop) = (Arc::default(), Arc::new(AtomicU64::new(0)), Arc::default());
        let writer = Writer { source, random: Random(seed.rotate_left(17) | 1), number: 0 };
        let writer = thread::spawn({
            let (truth, changes, stop) = (Arc::clone(&truth), Arc::clone(&changes), Arc::clone(&stop));
            move || writer.run(&truth, &changes, &stop)
        });
        Self { truth, changes, stop, writer }
    }

    async fn goes_on_for(&self, changes: u64) {
        let until = self.changes.load(Ordering::Relaxed) + changes;
        eventually("the source changes", async || {
            assert!(!self.writer.is_finished(), "the load broke down");
            (self.changes.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
    }

    fn stop(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
        self.truth.lock().unwrap().clone()
    }
}

/// The hand that changes the source: one file per resource, replaced in one step as good tools do.
struct Writer {
    source: PathBuf,
    random: Random,
    number: u64,
}

impl Writer {
    fn run(mut self, truth: &Mutex<BTreeMap<String, u64>>, changes: &AtomicU64, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let id = self.random.below(RESOURCES);
            let file = self.source.join(format!("item-{id}.json"));
            let key = format!("Item/n{id}");
            let mut truth = truth.lock().unwrap();
            if self.random.below(8) == 0 && truth.remove(&key).is_some() {
                fs::remove_file(&file).unwrap();
            } else {
                self.number += 1;
                self.write(&file, id);
                truth.insert(key, self.number);
            }
            drop(truth);
            changes.fetch_add(1, Ordering::Relaxed);
            // A steady rate: the fsync of the file is the clock.
        }
    }

    fn write(&self, file: &Path, id: u64) {
        let number = self.number;
        let text = format!(
            r#"{{"kind":"Item","id":"n{id}","revision":"{number}","state":{{"n":{number},"text":"state {number} of {id}"}}}}"#
        );
        let half = self.source.join(".half-written");
        fs::write(&half, text).unwrap();
        fs::File::open(&half).unwrap().sync_all().unwrap();
        fs::rename(&half, file).unwrap();
    }
}
