//! Source agents against a real nats-server: what they put into the log can be verified end to end, and
//! nothing that happens to server, agent or ledger makes a hole in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use bus::{Bus, RequestError};
use bus_schema::{
    Envelope, Hash32, PoolId, Stem,
    chain::{ChainPoint, Link},
    command::{
        agent::{Hello, HelloReply, HelloVerdict},
        resource::{ReadReply, ReadRequest, SyncReason, SyncReply, SyncRequest, UpdateInfo},
    },
    digest::{Digest, Node},
    event::{
        Event,
        agent::{AgentEvent, Heartbeat},
        resource::{ResourceEvent, SyncScope},
    },
    subject,
};
use producers::{Agent, AgentConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    agent::RunningAgent,
    eventually,
    nats::{Nats, site_log},
    within,
};

mod replay;
mod states;

const STREAM: &str = "FARSIDE_LOCAL";
const SECRET: &str = "0123456789abcdef-the-access-key";

/// A server, a source and a place for the ledger.
struct Bench {
    nats: Nats,
    bus: Bus,
    home: TempDir,
}

/// An event of the log.
#[derive(Debug)]
struct Told {
    name: String,
    entity: String,
    link: Option<Link>,
    hash: Option<Hash32>,
    sync: Option<String>,
    body: Value,
}

impl Told {
    fn at(&self) -> ChainPoint {
        self.link.unwrap().at
    }

    fn short(&self) -> String {
        format!("{} {}", self.name, self.entity)
    }
}

impl Bench {
    async fn new() -> Self {
        let nats = Nats::start().await;
        let bus = nats.bus().await;
        bus.ensure_stream(&site_log()).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("source")).unwrap();
        Self { nats, bus, home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file of the source in one step.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("draft"), text).unwrap();
        fs::rename(self.path("draft"), self.path("source").join(name)).unwrap();
    }

    fn vm(&self, id: &str, n: u64) {
        self.write(&format!("{id}.json"), &json!({"kind": "Vm", "id": id, "state": {"n": n}}).to_string());
    }

    fn config(&self, source: &str, more: &str) -> AgentConfig {
        let ledger = self.path("agent.redb");
        let text = format!(
            "name = 'inv'\nledger = '{}'\nheartbeat_s = 1\nhello_wait_ms = 2000\n{more}\n\
             [[clusters]]\nname = 'dc1'\nsource = {source}\n",
            ledger.display()
        );
        toml::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    fn directory(&self, more: &str) -> AgentConfig {
        let root = self.path("source");
        self.config(&format!("{{ adapter = 'directory', path = '{}' }}", root.display()), more)
    }

    /// The configuration with an access key.
    fn with_key(&self, mut config: AgentConfig) -> AgentConfig {
        let secret = self.path("secret");
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let keys = format!("[[keys]]\nid = 'ak1'\ntenant = 'acme'\nsecret_file = '{}'\n", secret.display());
        let keys: BTreeMap<String, Vec<producers::KeyConfig>> = toml::from_str(&keys).unwrap();
        config.clusters[0].keys = keys["keys"].clone();
        config
    }

    async fn run(&self, config: AgentConfig) -> RunningAgent {
        RunningAgent::start(&self.nats, config).await
    }

    /// Everything in the log.
    async fn log(&self) -> Vec<Told> {
        let Ok(state) = self.bus.stream_state(STREAM).await else { return Vec::new() };
        let mut told = Vec::new();
        if state.last_seq == 0 {
            return told;
        }
        let mut reader = self.bus.read_log(STREAM, 1, None).await.unwrap();
        while (told.len() as u64) < state.last_seq {
            let message = within("the log is read", reader.next()).await.unwrap();
            told.push(message.with_stored(|stored| {
                let envelope = Envelope::read(stored).unwrap();
                let event =
                    Event::decode(envelope.subject.stem, envelope.subject.event, &envelope.data).unwrap();
                Told {
                    name: envelope.subject.event.to_owned(),
                    entity: event.entity(),
                    link: envelope.link,
                    hash: envelope.hash,
                    sync: envelope.sync.as_ref().map(ToString::to_string),
                    body: serde_json::from_slice(&envelope.data).unwrap(),
                }
            }));
        }
        told
    }

    /// Waits until the log satisfies something, and gives the log.
    async fn until(&self, what: &str, enough: impl Fn(&[Told]) -> bool) -> Vec<Told> {
        eventually(what, async || {
            let log = self.log().await;
            enough(&log).then_some(log)
        })
        .await
    }

    async fn ask_sync(&self, request: &SyncRequest) -> SyncReply {
        eventually("the agent answers a sync request", async || {
            let reply = self.bus.request(&command("sync"), request, Duration::from_secs(5)).await;
            // Just starting, it says so.
            reply.ok().filter(
                |reply| !matches!(reply, SyncReply::Refused { reason } if reason.contains("starting")),
            )
        })
        .await
    }

    async fn ask_read(&self, agent: &str, keys: &[&str], lease: u64) -> Result<ReadReply, RequestError> {
        let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
        let request = ReadRequest { agent: agent.parse().unwrap(), keys, lease, lease_log: None };
        self.bus.request(&command("read"), &request, Duration::from_secs(5)).await
    }
}

fn command(verb: &str) -> String {
    subject::command(&"local/dc1".parse::<PoolId>().unwrap(), Stem::Resource, verb)
}

fn sync_request(id: &str, scope: SyncScope, since: Option<ChainPoint>) -> SyncRequest {
    let digest = Digest { root: Node::default(), count: 0 };
    SyncRequest {
        agent: "inv".parse().unwrap(),
        sync_id: id.into(),
        reason: SyncReason::First,
        scope,
        update_info: UpdateInfo { since, outstanding: 0, digest },
        keys: Vec::new(),
        addresses: Vec::new(),
        rebase: false,
        lease: 7,
        lease_log: None,
    }
}

/// Checks every chain of the log and gives each epoch's length, in the order of their first events.
fn verify(log: &[Told]) -> Vec<(ChainPoint, Hash32)> {
    let mut ends: Vec<(ChainPoint, Hash32)> = Vec::new();
    let mut seen: BTreeMap<(u64, u64), Hash32> = BTreeMap::new();
    for told in log {
        let (Some(link), Some(hash)) = (told.link, told.hash) else {
            assert_eq!(told.name, "heartbeat", "only heartbeats are unchained");
            continue;
        };
        if let Some(before) = seen.insert((link.at.epoch.0, link.at.seq), hash) {
            assert_eq!(before, hash, "a repeated event is the same event: {told:?}");
            continue;
        }
        let end = ends.iter_mut().find(|(at, _)| at.epoch == link.at.epoch);
        let (seq, prev) = end.as_ref().map_or((0, Hash32::ZERO), |(at, hash)| (at.seq, *hash));
        assert_eq!((link.at.seq, link.prev), (seq + 1, prev), "a hole in the chain before {told:?}");
        match end {
            Some(end) => *end = (link.at, hash),
            None => ends.push((link.at, hash)),
        }
    }
    ends
}

fn count(log: &[Told], name: &str) -> usize {
    log.iter().filter(|told| told.name == name).count()
}

/// A heartbeat.
fn beat(told: &Told) -> Option<Heartbeat> {
    match AgentEvent::decode(&told.name, told.body.to_string().as_bytes()) {
        Ok(AgentEvent::Heartbeat(beat)) => Some(beat),
        _ => None,
    }
}

/// What a pool would hold at the end of the log.
fn pool(log: &[Told]) -> BTreeMap<String, Value> {
    let mut pool = BTreeMap::new();
    for told in log {
        match told.name.as_str() {
            "changed" => _ = pool.insert(told.entity.clone(), told.body["state"].clone()),
            "deleted" => _ = pool.remove(&told.entity),
            _ => {}
        }
    }
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_events_arrive_chained_and_the_access_key_comes_first_without_its_secret() {
    let bench = Bench::new().await;
    bench.vm("a", 1);
    bench.write(
        "s.yaml",
        &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{k: {SECRET}}}\n"),
    );
    let config = bench.with_key(bench.directory(""));
    let agent = bench.run(config.clone()).await;
    bench.until("both resources are in the log", |log| pool(log).len() == 2).await;
    bench.vm("a", 2);
    fs::remove_file(bench.path("source/s.yaml")).unwrap();
    bench
        .until("the changes are in the log", |log| count(log, "deleted") == 1 && count(log, "changed") == 3)
        .await;
    agent.stop().await;
    let again = bench.run(config).await;
    again.stop().await;
    let log = bench.until("it said goodbye twice", |log| count(log, "stopped") == 2).await;
    assert_eq!(verify(&log).len(), 1, "one epoch");
    let chained: Vec<String> = log.iter().filter(|told| told.link.is_some()).map(Told::short).collect();
    assert_eq!(chained[..2], ["announced ak1", "started inv"]);
    assert_eq!(count(&log, "announced"), 1, "a key that did not change is not announced again");
    let all = log.iter().map(|told| told.body.to_string()).collect::<String>();
    assert!(!all.contains(SECRET), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nats_server_in_the_middle_of_a_burst_loses_nothing() {
    let mut bench = Bench::new().await;
    let burst = |n: u64| {
        let line = |id: u64| json!({"kind": "Vm", "id": id.to_string(), "state": {"n": n}}).to_string();
        (0..6_000).map(line).collect::<Vec<_>>().join("\n")
    };
    bench.write("burst.jsonl", &burst(1));
    let agent = bench.run(bench.directory("")).await;
    eventually("the burst has begun", async || {
        bench.bus.stream_state(STREAM).await.ok().filter(|state| state.messages > 300)
    })
    .await;
    bench.nats.kill().await;
    bench.write("burst.jsonl", &burst(2));
    bench.nats.start_again().await;
    let all = |log: &[Told]| {
        let pool = pool(log);
        pool.len() == 6_000 && pool.values().all(|state| state["n"] == 2)
    };
    let log = bench.until("the whole burst is in the log", all).await;
    assert_eq!(verify(&log).len(), 1, "one epoch, no hole");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_died_goes_on_with_its_ledger() {
    let mut bench = Bench::new().await;
    bench.vm("a", 1);
    // Without time to drain, a stop is a death.
    let agent = bench.run(bench.directory("drain_s = 0")).await;
    let one = |told: &Told| beat(told).and_then(|beat| beat.digest).is_some_and(|digest| digest.count == 1);
    bench.until("nothing waits any more", |log| log.iter().any(one)).await;
    bench.nats.kill().await;
    let written = || fs::metadata(bench.path("agent.redb")).unwrap().modified().unwrap();
    let before = written();
    bench.vm("b", 1);
    eventually("the ledger has the change", async || (written() > before).then_some(())).await;
    agent.stop().await;
    // From now on only the outbox knows that there was a `b`.
    fs::remove_file(bench.path("source/b.json")).unwrap();
    bench.vm("c", 1);
    bench.nats.start_again().await;
    let agent = bench.run(bench.directory("drain_s = 0")).await;
    let log = bench.until("what happened meanwhile is in the log", |log| count(log, "deleted") == 1).await;
    let of_b: Vec<&str> = log.iter().filter(|told| told.entity == "Vm/b").map(|told| &*told.name).collect();
    assert_eq!((verify(&log).len(), of_b), (1, vec!["changed", "deleted"]));
    assert_eq!(pool(&log).into_keys().collect::<Vec<_>>(), ["Vm/a", "Vm/c"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_out_of_an_old_backup_begins_a_new_epoch_and_sends_everything() {
    let bench = Bench::new().await;
    bench.vm("a", 1);
    let config = bench.with_key(bench.directory(""));
    let agent = bench.run(config.clone()).await;
    bench.until("the resource is in the log", |log| pool(log).len() == 1).await;
    agent.stop().await;
    fs::copy(bench.path("agent.redb"), bench.path("backup.redb")).unwrap();
    bench.vm("b", 1);
    let agent = bench.run(config.clone()).await;
    bench.until("the second resource is in the log", |log| pool(log).len() == 2).await;
    agent.stop().await;
    let old = verify(&bench.log().await)[0];
    fs::rename(bench.path("backup.redb"), bench.path("agent.redb")).unwrap();
    let mut hellos = bench.bus.serve("far.v1.local.cmd.*.agent.hello").await.unwrap();
    let target = tokio::spawn(async move {
        let request = hellos.next().await.unwrap();
        let hello: Hello = serde_json::from_slice(&request.body).unwrap();
        let behind = hello.at.epoch == old.0.epoch && hello.at.seq < old.0.seq;
        assert!(behind, "{hello:?}");
        let reply = HelloReply { last: Some(old), verdict: HelloVerdict::Rebase, checkpoint: None };
        request.reply(&reply).await.unwrap();
    });
    let agent = bench.run(config).await;
    let log = bench.until("the window is closed", |log| count(log, "sync_closed") == 1).await;
    within("the target was greeted", target).await.unwrap();
    let ends = verify(&log);
    assert_eq!((ends.len(), ends[0]), (2, old), "the old epoch ends where it was");
    let new: Vec<&Told> =
        log.iter().filter(|told| told.link.is_some_and(|l| l.at.epoch != old.0.epoch)).collect();
    let names: Vec<&str> = new.iter().map(|told| told.name.as_str()).collect();
    let first = ["epoch_closed", "announced", "started", "sync_opened"];
    assert_eq!(names, [&first[..], &["changed", "changed", "sync_closed"]].concat());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_r5_r9_the_three_scopes_of_a_sync_are_answered() {
    let bench = Bench::new().await;
    ["a", "b", "c"].into_iter().for_each(|id| bench.vm(id, 1));
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("three resources are in the log", |log| pool(log).len() == 3).await;
    let since = log.iter().rfind(|told| told.link.is_some()).unwrap().at();
    let answer = async |id: &str| {
        let closed = |log: &[Told]| {
            log.iter().any(|told| told.name == "sync_closed" && told.sync.as_deref() == Some(id))
        };
        let log = bench.until("the sync is closed", closed).await;
        let of_sync = log.into_iter().filter(|told| told.sync.as_deref() == Some(id));
        of_sync.map(|told| told.short()).collect::<Vec<_>>()
    };
    let accepted = |scope| SyncReply::Accepted { scope };

    let full = sync_request("full-1", SyncScope::Incremental, None);
    assert_eq!(bench.ask_sync(&full).await, accepted(SyncScope::Full), "without a `since` it is widened");
    let expected = [
        "sync_opened sync/full-1",
        "changed Vm/a",
        "changed Vm/b",
        "changed Vm/c",
        "sync_closed sync/full-1",
    ];
    assert_eq!(answer("full-1").await, expected);
    assert_eq!(bench.ask_sync(&full).await, accepted(SyncScope::Full), "asked again, it is not run again");

    let since_now = bench.log().await.iter().filter_map(|told| told.link).next_back().unwrap().at;
    bench.vm("b", 2);
    fs::remove_file(bench.path("source/c.json")).unwrap();
    bench
        .until("the changes were pushed", |log| count(log, "deleted") == 1 && pool(log)["Vm/b"]["n"] == 2)
        .await;
    let incremental = sync_request("inc-1", SyncScope::Incremental, Some(since_now));
    assert_eq!(bench.ask_sync(&incremental).await, accepted(SyncScope::Incremental));
    let expected = ["sync_opened sync/inc-1", "changed Vm/b", "deleted Vm/c", "sync_closed sync/inc-1"];
    assert_eq!(answer("inc-1").await, expected);

    let mut keys = sync_request("keys-1", SyncScope::Keys, Some(since));
    keys.keys = ["Vm/a", "Vm/c"].map(|key| key.parse().unwrap()).into();
    assert_eq!(bench.ask_sync(&keys).await, accepted(SyncScope::Keys));
    let expected = ["sync_opened sync/keys-1", "changed Vm/a", "deleted Vm/c", "sync_closed sync/keys-1"];
    assert_eq!(answer("keys-1").await, expected);
    verify(&bench.log().await);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_read_sees_the_source_and_not_what_the_agent_remembers() {
    let bench = Bench::new().await;
    bench.vm("a", 1);
    let source = bench.path("source/a.json");
    // A command is read on its timer only, so the agent cannot know of the change.
    let exec =
        format!("{{ adapter = 'exec', command = ['/bin/cat', '{}'], every_s = 86400 }}", source.display());
    let agent = bench.run(bench.config(&exec, "")).await;
    bench.until("the resource is in the log", |log| pool(log).len() == 1).await;
    bench.vm("a", 2);
    let reply = bench.ask_read("inv", &["Vm/a", "Vm/none"], 7).await.unwrap();
    let ReadReply::Read { resources, at } = reply else { panic!("{reply:?}") };
    assert!(resources[0].found.is_some() && resources[1].found.is_none());
    let seen = |log: &[Told]| log.iter().any(|told| told.link.is_some_and(|link| link.at == at));
    let log = bench.until("the log has the point that the answer names", seen).await;
    assert_eq!(pool(&log)["Vm/a"]["n"], 2);

    let refused = bench.ask_read("inv", &["Vm/a"], 6).await.unwrap();
    assert!(matches!(&refused, ReadReply::Refused { reason } if reason.contains("lease")), "{refused:?}");
    fs::remove_file(&source).unwrap();
    let refused = bench.ask_read("inv", &["Vm/a"], 7).await.unwrap();
    assert!(matches!(&refused, ReadReply::Refused { reason } if reason.contains("cat")), "{refused:?}");
    assert_eq!(pool(&bench.log().await).len(), 1, "a source that fails deletes nothing");
    let silent = bench.ask_read("another", &["Vm/a"], 7).await.unwrap_err();
    assert!(matches!(silent, RequestError::TimedOut { .. }), "{silent}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_carry_the_digest_when_all_is_in_the_log_and_the_trouble_when_the_source_is_gone() {
    let bench = Bench::new().await;
    ["a", "b"].into_iter().for_each(|id| bench.vm(id, 1));
    let config = bench.directory("");
    let agent = bench.run(config).await;
    let two = |told: &Told| beat(told).and_then(|beat| beat.digest).is_some_and(|digest| digest.count == 2);
    let log = bench.until("a heartbeat with the digest of two", |log| log.iter().any(two)).await;
    let first = log.iter().find(|told| two(told)).and_then(beat).unwrap();
    let changed = log.iter().rfind(|told| told.name == "changed").unwrap();
    assert_eq!((first.at, first.outbox_events), (changed.at(), 0));
    fs::rename(bench.path("source"), bench.path("elsewhere")).unwrap();
    let troubled =
        |told: &Told| beat(told).and_then(|beat| beat.trouble).is_some_and(|t| t.contains("cannot be read"));
    let log = bench.until("a heartbeat tells of the trouble", |log| log.iter().any(troubled)).await;
    assert_eq!(count(&log, "deleted"), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_sends_the_state_behind_a_notice() {
    let bench = Bench::new().await;
    bench.write("n.json", &json!({"kind": "Blob", "id": "n", "state": {"n": 1}}).to_string());
    bench
        .write("huge.json", &json!({"kind": "Vm", "id": "huge", "state": "x".repeat(2_000_000)}).to_string());
    let mut config = bench.directory("");
    config.clusters[0].push.notice_kinds = BTreeSet::from(["Blob".to_owned()]);
    let agent = bench.run(config).await;
    let log = bench.until("both were noticed", |log| count(log, "noticed") == 2).await;
    let since = log.iter().filter_map(|told| told.link).next_back().unwrap().at;
    bench.ask_sync(&sync_request("s", SyncScope::Incremental, Some(since))).await;
    let log = bench.until("the sync is closed", |log| count(log, "sync_closed") == 1).await;
    assert_eq!(pool(&log).into_keys().collect::<Vec<_>>(), ["Blob/n"], "what is too large never travels");
    let closed = log.iter().find(|told| told.name == "sync_closed").unwrap();
    let closed =
        ResourceEvent::decode("sync_closed", closed.body.to_string().as_bytes()).map(|event| match event {
            ResourceEvent::SyncClosed(closed) => (closed.resources, closed.digest.count),
            other => panic!("{other:?}"),
        });
    assert_eq!(closed.unwrap(), (1, 2));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_at_its_cap_closes_the_epoch_and_a_full_window_mends_the_log() {
    let mut bench = Bench::new().await;
    bench.vm("first", 1);
    bench.vm("second", 1);
    let agent = bench.run(bench.directory("outbox_bytes_max = 100000")).await;
    bench.until("the resources are in the log", |log| pool(log).len() == 2).await;
    bench.nats.kill().await;
    let line = |id: u64| json!({"kind": "Vm", "id": id.to_string(), "state": {"n": 1}}).to_string();
    bench.write("many.jsonl", &(0..500).map(line).collect::<Vec<_>>().join("\n"));
    fs::remove_file(bench.path("source/first.json")).unwrap();
    bench.nats.start_again().await;
    let log = bench.until("a window was closed", |log| count(log, "sync_closed") > 0).await;
    let ends = verify(&log);
    let last = ends.last().unwrap().0.epoch;
    let of_window: BTreeSet<&str> = log
        .iter()
        .filter(|told| told.name == "changed" && told.link.is_some_and(|link| link.at.epoch == last))
        .map(|told| told.entity.as_str())
        .collect();
    assert_eq!((count(&log, "epoch_closed") + 1, of_window.len()), (ends.len(), 501));
    assert!(!of_window.contains("Vm/first"), "what is absent from the window is gone");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_keeps_the_events_at_the_agent_until_there_is_room() {
    let bench = Bench::new().await;
    let client = async_nats::jetstream::new(bench.nats.client().await);
    let mut stream = client.get_stream(STREAM).await.unwrap();
    let mut small = stream.info().await.unwrap().config.clone();
    let room = small.max_bytes;
    small.max_bytes = 20_000;
    client.update_stream(&small).await.unwrap();
    let line = |id: u64| json!({"kind": "Vm", "id": id.to_string(), "state": {"n": 1}}).to_string();
    bench.write("many.jsonl", &(0..200).map(line).collect::<Vec<_>>().join("\n"));
    let agent = bench.run(bench.directory("")).await;
    let told =
        |told: &Told| beat(told).and_then(|beat| beat.trouble).is_some_and(|t| t.contains("size limit"));
    let log = bench.until("the agent tells that the log is full", |log| log.iter().any(told)).await;
    assert_eq!(pool(&log).len(), 0, "a batch that does not fit is not stored in part");
    client.update_stream(async_nats::jetstream::stream::Config { max_bytes: room, ..small }).await.unwrap();
    let log = bench.until("everything is in the log", |log| pool(log).len() == 200).await;
    assert_eq!(verify(&log).len(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_never_quiet_sends_heartbeats_all_the_same() {
    let bench = Bench::new().await;
    bench.vm("a", 0);
    let agent = bench.run(bench.directory("")).await;
    let mut changes = 1;
    loop {
        let log = bench.until("the change is in the log", |log| count(log, "changed") >= changes).await;
        if count(&log, "heartbeat") > 2 {
            break;
        }
        bench.vm("a", changes as u64);
        changes += 1;
        assert!(changes < 500, "no heartbeat");
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_limit_of_a_stream_is_learned_in_a_few_epochs() {
    let bench = Bench::new().await;
    let client = async_nats::jetstream::new(bench.nats.client().await);
    let mut stream = client.get_stream(STREAM).await.unwrap();
    let mut small = stream.info().await.unwrap().config.clone();
    small.max_message_size = 50_000;
    client.update_stream(&small).await.unwrap();
    for n in 1..=30 {
        let vm = json!({"kind": "Vm", "id": n.to_string(), "state": "x".repeat(n * 10_000)});
        bench.write(&format!("{n}.json"), &vm.to_string());
    }
    let mut config = bench.directory("");
    config.clusters[0].push.notice_above_bytes = 1 << 30;
    let agent = bench.run(config).await;
    let log = bench.until("a window is closed", |log| count(log, "sync_closed") > 0).await;
    let epochs = verify(&log);
    assert!(epochs.len() <= 6, "{} epochs", epochs.len());
    let last = epochs.last().unwrap().0.epoch;
    let of_last = |name: &str| log.iter().filter(|told| told.name == name && told.at().epoch == last).count();
    let (changed, noticed) = (of_last("changed"), of_last("noticed"));
    assert!(changed + noticed == 30 && (2..=4).contains(&changed), "{changed} changed, {noticed} noticed");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_under_the_name_of_those_without_one_is_refused() {
    let bench = Bench::new().await;
    let config = AgentConfig { name: "plain".parse().unwrap(), ..bench.directory("") };
    let error = Agent::build(config, bench.bus.clone()).err().unwrap().to_string();
    assert!(error.contains("the name plain is kept"), "{error}");
}
