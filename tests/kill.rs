//! The kill test: nats-server, agent and service are killed (SIGKILL) at random while the source keeps
//! changing. In the end the pool equals the source, proved by digest and by reading the source
//! independently, and every chained event was applied exactly once.
//!
//! `make test` runs a few rounds, `make kill` two hundred (`FARSIDE_KILL_ROUNDS`). The seed is printed;
//! `FARSIDE_KILL_SEED` runs the same schedule of kills again.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::support::{
    eventually,
    nats::{Nats, free_port},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_applied_twice_when_anything_is_killed_at_any_time() {
    let rounds = number("FARSIDE_KILL_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    let seed = number("FARSIDE_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed | 1);
    let mut nats = Nats::start().await;
    let mut world = World::start(&nats.url());
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
                nats.kill();
                load.goes_on_for(random.below(10)).await;
                nats.start_again().await;
            }
            Victim::Agent => world.agent.kill_and_start_again(),
            Victim::Service => world.service.kill_and_start_again(),
        }
        *killed.entry(format!("{victim:?}")).or_insert(0) += 1;
    }
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
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// A small generator (xorshift64, Marsaglia 2003), so that a seed is a schedule.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A farside process that is started again with the same arguments.
struct Process {
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    fn start(arguments: &[&str], log: PathBuf) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let child = Self::spawn(&arguments, &log);
        Self { arguments, log, child }
    }

    fn spawn(arguments: &[String], log: &Path) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_farside"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        let ended = self.child.wait().unwrap();
        assert_eq!(
            ended.signal(),
            Some(9),
            "it ended by itself before it was killed: {ended}; {}",
            self.tail()
        );
        self.child = Self::spawn(&self.arguments, &self.log);
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(2_000);
        log.get(from..).unwrap_or_default().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of {}:\n{}", self.log.display(), self.tail());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One agent and one service in a directory of their own.
struct World {
    dir: tempfile::TempDir,
    agent: Process,
    service: Process,
}

impl World {
    fn start(nats: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir(dir.path().join("source")).unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "data_dir = {data:?}\n[nats]\nservers = {nats:?}\n[console]\nlisten = {listen:?}\n\
             [service]\nlog_bytes_max = 1073741824\nlease_ttl = \"1s\"\n[service.schedule]\nevery = \"2s\"\n\
             [service.patience]\nstalled = \"3s\"\n\
             [[agent.resource]]\nname = \"inv\"\nledger = {ledger:?}\nheartbeat_s = 1\n\
             [[agent.resource.clusters]]\nname = \"kill\"\n\
             source = {{ adapter = \"directory\", path = {source:?}, every_s = 5 }}\n\
             keys = [{{ id = \"ak\", tenant = \"acme\", salt = \"{salt}\", hash = \"{salt}\" }}]\n",
            data = path("data"),
            ledger = path("ledger.redb"),
            source = path("source"),
            salt = "0".repeat(64),
        );
        let file = path("farside.toml");
        fs::write(&file, config).unwrap();
        let service = Process::start(&["serve", "-c", &file], dir.path().join("service.log"));
        let agent = Process::start(&["agent", "resource", "-c", &file], dir.path().join("agent.log"));
        Self { dir, agent, service }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    async fn ask(&self, arguments: &[&str]) -> Output {
        let config = self.dir.path().join("farside.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_farside"));
        command.arg("-c").arg(config).args(arguments).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.ask(&["status", "-o", "json"]).await.stdout).ok()
    }

    /// Waits until the pool has taken in something that it did not have.
    async fn moves_on(&self) {
        let applied = async || {
            let status = self.status().await?;
            status["pools"].get(0)?["owners"].get(0)?["applied"].as_u64()
        };
        let before = eventually("farside answers", &applied).await;
        eventually("the pool moves on", async || applied().await.filter(|now| *now > before)).await;
    }

    async fn owner(&self) -> Value {
        self.status().await.unwrap()["pools"][0]["owners"][0].clone()
    }

    /// Waits until the digests are equal and the pool holds exactly what the source holds.
    async fn agrees_with(&self, truth: &BTreeMap<String, u64>) {
        eventually("pool and source agree", async || {
            let status = self.status().await?;
            let pool = status["pools"].get(0)?;
            (pool["in_sync"] == "yes" && self.pool().await == *truth).then_some(())
        })
        .await;
    }

    /// What the pool holds: key and number of each live resource.
    async fn pool(&self) -> BTreeMap<String, u64> {
        let export = self.ask(&["pool", "export", "kill"]).await.stdout;
        let lines = export.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let rows = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        let live = rows.filter(|row| row.get("deleted_at").is_none());
        live.map(|row| (row["key"].as_str().unwrap().to_owned(), row["state"]["n"].as_u64().unwrap()))
            .collect()
    }
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
