//! A full disk under each of the files that Farside writes: the agent's ledger, the pool, the log's store,
//! and all of them at once. Each time: what is seen says what to do, what still can goes on, and when
//! there is room the pool is equal to the source, with every event applied once.

use std::{collections::BTreeMap, fs, path::Path};

use producers::Agent;
use projector::{Store, StoreOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    disk::Disk,
    eventually,
    farside::{AgentProcess, Up},
    nats::Nats,
    refused,
};

/// Resources that are there before the disk is full.
const BEFORE: u64 = 100;
/// Resources that come while it is; with their states they are larger than any room a file has left.
const MEANWHILE: u64 = 2_000;
/// Bytes of a state: it does not compress.
const STATE_BYTES: usize = 4_000;

/// Where what is kept is kept.
struct Places<'a> {
    data: &'a Path,
    ledger: &'a Path,
    log_bytes_max: u64,
}

/// A source, an agent and a service.
struct World {
    source: TempDir,
    truth: BTreeMap<String, u64>,
    random: u64,
    up: Up,
    agent: Option<AgentProcess>,
}

impl World {
    /// Starts a service and an agent against a NATS, and waits until the pool holds the source.
    async fn start(nats: &Nats, places: &Places<'_>) -> Self {
        let (dir, source) = (home(), tempfile::tempdir().unwrap());
        let nats = format!("[nats]\nservers = {:?}\n", nats.url());
        configure(dir.path(), &nats, source.path(), places);
        let up = Up::start_as("serve", dir);
        let agent = Some(AgentProcess::start(up.dir(), &[]));
        Self::settled(source, up, agent).await
    }

    async fn settled(source: TempDir, up: Up, agent: Option<AgentProcess>) -> Self {
        let mut world = Self { source, truth: BTreeMap::new(), random: 1, up, agent };
        world.grow(BEFORE);
        world.agrees().await;
        world
    }

    /// The source gets so many resources more.
    fn grow(&mut self, count: u64) {
        for _ in 0..count {
            let n = self.truth.len() as u64;
            let text: String = (0..STATE_BYTES / 16).map(|_| self.noise()).collect();
            let file = format!(r#"{{"kind":"Vm","id":"{n}","state":{{"n":{n},"text":"{text}"}}}}"#);
            let draft = self.source.path().join(".draft");
            fs::write(&draft, file).unwrap();
            fs::rename(&draft, self.source.path().join(format!("{n}.json"))).unwrap();
            self.truth.insert(format!("Vm/{n}"), n);
        }
    }

    /// 16 characters of xorshift64 (Marsaglia 2003).
    fn noise(&mut self) -> String {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        format!("{:016x}", self.random)
    }

    fn status(&self) -> Value {
        self.up.verb(&["-o", "json", "status"]).json()
    }

    /// What the status says of the agent's pool, and of its owner.
    fn pool(&self) -> Value {
        self.status()["pools"][0].clone()
    }

    /// Live resources of the pool, each with its number.
    fn rows(&self) -> BTreeMap<String, u64> {
        let export = self.up.verb(&["pool", "export", "dc1"]).out;
        let rows = export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let live = rows.filter(|row| row.get("deleted_at").is_none());
        live.map(|row| (row["key"].as_str().unwrap().to_owned(), row["state"]["n"].as_u64().unwrap()))
            .collect()
    }

    /// Waits until digests and rows are equal, and the service is ready; every event was applied once.
    async fn agrees(&self) {
        eventually("pool and source are equal", async || {
            let equal = self.pool()["in_sync"] == "yes" && self.rows() == self.truth;
            (equal && self.up.get("/readyz", &[]).0 == 200).then_some(())
        })
        .await;
        let owner = self.pool()["owners"][0].clone();
        // The chain is counted from 1 without holes.
        let last = owner["at"].as_str().unwrap().split_once(':').unwrap().1;
        assert_eq!(owner["applied"].to_string(), last, "each event is applied exactly once: {owner}");
        assert_eq!(self.status()["dead_letters"], 0);
    }

    /// Waits until the service says that it is not ready, for a reason that holds all of these.
    async fn not_ready(&self, parts: &[&str]) {
        eventually(&format!("not ready: {parts:?}"), async || {
            let (status, body) = self.up.get("/readyz", &[]);
            (status == 503 && parts.iter().all(|part| body.contains(part))).then_some(())
        })
        .await;
        assert_eq!(self.up.get("/healthz", &[]).0, 200);
    }

    /// Waits until the agent's trouble, as the status has it, holds all of these.
    async fn troubled(&self, parts: &[&str]) {
        eventually(&format!("the agent's trouble: {parts:?}"), async || {
            let owner = self.pool()["owners"][0].clone();
            let trouble = owner["trouble"].as_str()?;
            (owner["alive"] == true && parts.iter().all(|part| trouble.contains(part))).then_some(())
        })
        .await;
    }

    async fn logged(&self, file: &str, text: &str) {
        let path = self.up.dir().join(file);
        eventually(&format!("{file} says: {text}"), async || {
            fs::read_to_string(&path).unwrap_or_default().contains(text).then_some(())
        })
        .await;
    }

    /// Ends the service and starts it again, with another configuration.
    fn service_again(self, configured: impl FnOnce(String) -> String) -> Self {
        let Self { source, truth, random, up, agent } = self;
        let (ended, dir) = up.stop();
        assert!(ended.success(), "{ended}");
        let file = dir.path().join("farside.toml");
        fs::write(&file, configured(fs::read_to_string(&file).unwrap())).unwrap();
        Self { source, truth, random, up: Up::start_as("serve", dir), agent }
    }
}

fn home() -> TempDir {
    tempfile::Builder::new().prefix("fs").tempdir().unwrap()
}

fn configure(dir: &Path, nats: &str, source: &Path, places: &Places<'_>) {
    let Places { data, ledger, log_bytes_max } = places;
    let config = format!(
        "data_dir = {data:?}\n{nats}[service]\nlog_bytes_max = {log_bytes_max}\nlease_ttl = \"1s\"\n\
         [service.schedule]\nevery = \"2s\"\n\
         [[agent.resource]]\nname = \"inv\"\nledger = {ledger:?}\nheartbeat_s = 1\n\
         [[agent.resource.clusters]]\nname = \"dc1\"\n\
         source = {{ adapter = \"directory\", path = {source:?}, every_s = 5 }}\n\
         keys = [{{ id = \"ak\", tenant = \"acme\", salt = \"{salt}\", hash = \"{salt}\" }}]\n",
        salt = "0".repeat(64),
    );
    fs::write(dir.join("farside.toml"), config).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_or_pool_that_a_full_disk_kept_from_being_made_is_made_when_there_is_room() {
    let Some(disk) = Disk::of(16) else { return };
    let (nats, source) = (Nats::start().await, home());
    let (ledger, pool) = (disk.path().join("ledger.redb"), disk.path().join("pool.redb"));
    let bus = nats.bus().await;
    let agent = format!(
        "name = 'inv'\nledger = {ledger:?}\n[[clusters]]\nname = 'dc1'\n\
         source = {{ adapter = 'directory', path = {:?} }}\n",
        source.path()
    );
    let agent = || Agent::build(toml::from_str(&agent).unwrap(), bus.clone()).map(drop);
    let store = || Store::open(&pool, StoreOptions::default()).map(drop);
    disk.fill();
    for error in [refused(agent()).to_string(), refused(store()).to_string()] {
        assert!(error.contains("the disk is full") && error.contains("make room"), "{error}");
    }
    disk.make_room();
    agent().unwrap();
    store().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_full_disk_rests_says_so_and_goes_on_where_it_was() {
    let Some(disk) = Disk::of(48) else { return };
    let (nats, elsewhere) = (Nats::start().await, home());
    let (data, ledger) = (elsewhere.path().join("data"), disk.path().join("ledger.redb"));
    let places = Places { data: &data, ledger: &ledger, log_bytes_max: 1 << 30 };
    let mut world = World::start(&nats, &places).await;
    disk.fill();
    world.grow(MEANWHILE);
    world
        .troubled(&["cannot write the agent's ledger", "ledger.redb", "the disk is full", "make room"])
        .await;
    assert_eq!(world.up.get("/readyz", &[]).0, 200, "the target has what the log has");
    disk.make_room();
    world.agrees().await;
    world.logged("agent.log", "the ledger takes changes again").await;
    assert!(world.agent.take().unwrap().stop().success(), "it is the same process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_on_a_full_disk_answers_is_not_ready_and_goes_on_where_it_was() {
    let Some(disk) = Disk::of(48) else { return };
    let (nats, elsewhere) = (Nats::start().await, home());
    let (data, ledger) = (disk.path().join("data"), elsewhere.path().join("ledger.redb"));
    let places = Places { data: &data, ledger: &ledger, log_bytes_max: 1 << 30 };
    let mut world = World::start(&nats, &places).await;
    let before = world.truth.clone();
    disk.fill();
    world.grow(MEANWHILE);
    let reason =
        ["FARSIDE_LOCAL is not being applied", "cannot write the pool", "the disk is full", "make room"];
    world.not_ready(&reason).await;
    assert!(before.iter().all(|row| world.rows().contains_key(row.0)), "what is there can be read");
    let alarms = world.status()["alarms"].to_string();
    assert!(reason.iter().all(|part| alarms.contains(part)), "{alarms}");
    // A restart does not help, and does no harm.
    let world = world.service_again(|config| config);
    world.not_ready(&reason).await;
    disk.make_room();
    world.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_on_a_full_disk_is_named_and_nothing_is_lost_when_it_is_started_again() {
    let Some(disk) = Disk::of(48) else { return };
    let (mut nats, elsewhere) = (Nats::start_on(&disk.path().join("store")).await, home());
    let (data, ledger) = (elsewhere.path().join("data"), elsewhere.path().join("ledger.redb"));
    let places = Places { data: &data, ledger: &ledger, log_bytes_max: 1 << 30 };
    let mut world = World::start(&nats, &places).await;
    disk.fill();
    world.grow(MEANWHILE);
    let advice = "make room on that disk, then start nats-server again";
    world.logged("agent.log", advice).await;
    world.not_ready(&["NATS acknowledges nothing since", advice]).await;
    assert!(world.status()["alarms"].to_string().contains(advice));
    disk.make_room();
    // Room alone changes nothing for this server; that is why the advice says more.
    nats.kill().await;
    nats.start_again().await;
    world.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_is_told_by_the_agent_and_taken_up_again_with_a_higher_limit() {
    let (nats, elsewhere) = (Nats::start().await, home());
    let (data, ledger) = (elsewhere.path().join("data"), elsewhere.path().join("ledger.redb"));
    let places = Places { data: &data, ledger: &ledger, log_bytes_max: 2 << 20 };
    let mut world = World::start(&nats, &places).await;
    world.grow(MEANWHILE);
    world.troubled(&["maximum bytes exceeded", "service.log_bytes_max"]).await;
    let pool = world.pool();
    assert_eq!(pool["in_sync"], "no", "{pool}");
    assert!(pool["why"].to_string().contains("wait in its outbox"), "{pool}");
    let world =
        world.service_again(|config| config.replace("log_bytes_max = 2097152", "log_bytes_max = 1073741824"));
    world.agrees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn farside_up_on_a_full_disk_lives_and_mends_itself_when_there_is_room() {
    let Some(disk) = Disk::of(128) else { return };
    let (dir, source) = (home(), tempfile::tempdir().unwrap());
    let (data, ledger) = (disk.path().join("data"), disk.path().join("ledger.redb"));
    let places = Places { data: &data, ledger: &ledger, log_bytes_max: 32 << 20 };
    configure(dir.path(), "", source.path(), &places);
    let up = Up::start_under(&disk.inside(), "up", dir);
    let mut world = World::settled(source, up, None).await;
    disk.fill();
    world.grow(MEANWHILE);
    world.logged("up.log", "nats-server cannot write its store; make room on its disk").await;
    world.not_ready(&["make room"]).await;
    disk.make_room();
    world.agrees().await;
    let (ended, _) = world.up.stop();
    assert!(ended.success(), "it is the same process: {ended}");
}
