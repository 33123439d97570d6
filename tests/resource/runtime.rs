//! What every reaction stands on, against a real server: the lease's fence, replay and rebuild.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bus::{BusError, LeaseToken};
use bus_schema::{
    Name, Stem,
    command::{
        resource::SyncReason,
        target::{Reply, SyncsStarted},
    },
    fact::{
        Fact,
        log::{LogFact, WindowHeld},
    },
    subject,
};
use consumers::runtime::{
    facts::FactPublisher,
    replay::{Until, Watcher},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    LOG, OWNER, closed, dc1, equal, quiet,
    source::{ScriptedSource, Serving},
    synced,
    target::{Target, export},
};
use crate::support::{
    eventually,
    nats::{Nats, TEST_LOG_BYTES, free_port},
};

/// How many facts of a name the target log holds.
pub(crate) async fn facts_named(target: &Target, name: &str) -> usize {
    let stream = "FARSIDE_TGT_LOCAL";
    let last = target.bus.stream_state(stream).await.unwrap().last_seq;
    let mut count = 0;
    for seq in 1..=last {
        let message = target.bus.message(stream, seq).await.unwrap();
        count += usize::from(message.is_some_and(|message| message.subject().ends_with(&format!(".{name}"))));
    }
    count
}

struct Silent;

impl Watcher for Silent {
    fn read(&self, _: &str, _: u64, _: u64) {}
}

/// The newest acquisition of the lease.
async fn token(target: &Target) -> LeaseToken {
    let (name, lease): (Name, Name) = ("local".parse().unwrap(), "target".parse().unwrap());
    let subject = subject::lease(&name, &lease);
    let look = async || -> Result<Option<u64>, BusError> {
        Ok(target.bus.last_message("FARSIDE_TGT_LOCAL", &subject).await?.map(|message| message.seq()))
    };
    let seq = eventually("the lease is in the log", async || look().await.ok().flatten()).await;
    let log_created = target.bus.stream_state("FARSIDE_TGT_LOCAL").await.unwrap().created;
    LeaseToken { seq, subject, log_created }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_under_an_old_lease_is_refused_by_the_server() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let old = Target::start(&bus, quiet()).await;
    let old_token = token(&old).await;
    old.stop().await;
    let new = Target::start(&bus, quiet()).await;
    assert!(token(&new).await.seq > old_token.seq);
    let (_belief, lease) = watch::channel(Some(old_token));
    let facts = FactPublisher::new(&bus, &"local".parse().unwrap(), lease);
    let held = WindowHeld { owner: "x".to_owned(), sync_id: "s".to_owned(), would_delete: 1, rows: 1 };
    let error = facts.state(&Fact::Log(LogFact::WindowHeld(held)), "late").await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(facts_named(&new, "window_held").await, 0);
}

/// A service in a process of its own, which can be stopped in the middle of whatever it does.
struct Process {
    child: Child,
    _dir: TempDir,
}

impl Process {
    /// One that asks its agents every second.
    fn start(nats: &Nats) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (data, file) = (dir.path().join("data"), dir.path().join("farside.toml"));
        let text = format!(
            "data_dir = {data:?}\n[nats]\nservers = {nats:?}\n[console]\nlisten = \"127.0.0.1:{port}\"\n\
             [service]\nlog_bytes_max = {TEST_LOG_BYTES}\nlease_ttl = \"2s\"\n[service.schedule]\nevery = \"1s\"\n",
            nats = nats.url(),
            port = free_port(),
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_farside"));
        command.arg("serve").arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.stderr(Stdio::null()).spawn().unwrap(), _dir: dir }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_holder_that_was_paused_is_fenced() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let old = Process::start(&nats);
    let log = eventually("the log is there", async || bus.stream_state(LOG).await.ok());
    log.await;
    let source = ScriptedSource::started(&bus, OWNER).await;
    let mut serving = source.serve().await;
    let old_lease = serving.next_sync().await.lease;
    serving.next_sync().await;
    old.signal("-STOP");
    let mut config = quiet();
    config["schedule"] = json!({ "every": "1s" });
    let new = Target::start(&bus, config).await;
    let new_lease = token(&new).await.seq;
    assert!(new_lease > old_lease);
    // What the old holder asked before it was stopped has come by the time that the new one asks.
    while serving.next_sync().await.lease != new_lease {}
    // It wakes up in the middle of its work and still believes in its lease; its next request is long due.
    old.signal("-CONT");
    for _ in 0..4 {
        assert_eq!(serving.next_sync().await.lease, new_lease, "the old holder asked");
    }
    source.change("Pod/a", "1").await;
    equal(&new, &source).await;
    let holders: Vec<u64> = facts_with_fence(&new, "sync_requested", new_lease).await;
    assert!(!holders.is_empty() && holders.iter().all(|fence| *fence == new_lease), "{holders:?}");
}

/// The lease that each fact of a name bears which the target log stored behind a sequence.
async fn facts_with_fence(target: &Target, name: &str, behind: u64) -> Vec<u64> {
    let stream = "FARSIDE_TGT_LOCAL";
    let last = target.bus.stream_state(stream).await.unwrap().last_seq;
    let mut fences = Vec::new();
    for seq in behind + 1..=last {
        let Some(message) = target.bus.message(stream, seq).await.unwrap() else { continue };
        if message.subject().ends_with(&format!(".{name}")) {
            let headers = message.headers();
            let fence = headers.iter().find(|(name, _)| *name == "Nats-Expected-Last-Subject-Sequence");
            fences.push(fence.unwrap().1.parse().unwrap());
        }
    }
    fences
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_share_the_work_and_only_one_acts() {
    let nats = Nats::start().await;
    let (first, source, mut serving) = synced(&nats, quiet()).await;
    let second = Target::standby(&nats.bus().await, quiet()).await;
    source.change("Pod/a", "1").await;
    equal(&first, &source).await;
    let target_log = "FARSIDE_TGT_LOCAL";
    for target in [&first, &second] {
        target.caught_up(LOG).await;
        target.caught_up(target_log).await;
    }
    assert_eq!(first.export(&dc1()), second.export(&dc1()), "both have read everything");
    assert!(first.handle.holds_lease() && !second.handle.holds_lease());
    assert!(second.handle.owners().is_empty(), "it decides nothing");
    second.nothing_for(Duration::from_secs(1)).await;
    assert_eq!(serving.syncs_so_far(), [], "one first request, and it was answered");
    let facts = async |name| facts_named(&first, name).await;
    assert_eq!((facts("sync_requested").await, facts("sync_completed").await), (1, 1));
    first.stop().await;
    second.acting().await;
    source.change("Pod/b", "1").await;
    equal(&second, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_up_to_a_point_is_what_the_pool_said_then() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    for n in 0..50 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    let (then, seq) = (target.export(&dc1()), target.handle.progress().reached(LOG));
    for n in 0..50 {
        source.change(&format!("Pod/{n}"), "2").await;
    }
    target.caught_up(LOG).await;
    assert_ne!(target.export(&dc1()), then);
    for until in [Until::Seq(seq.seq), Until::Time(seq.time)] {
        let replayed = target.handle.replay(&[(LOG.to_owned(), until)], &Silent).await.unwrap();
        assert_eq!(export(&replayed.store.reader(), &dc1()), then, "{until:?}");
    }
    let now = target.handle.replay(&[(LOG.to_owned(), Until::Now)], &Silent).await.unwrap();
    assert_eq!(export(&now.store.reader(), &dc1()), target.export(&dc1()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_pool_is_equal_to_the_live_one() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    for n in 0..50 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    let path = target.path("rebuilt.redb");
    let rebuilt = target.handle.rebuild(&path, &Silent).await.unwrap();
    assert_eq!(rebuilt.differences, []);
    assert!(rebuilt.positions.iter().any(|position| position.stream == LOG && position.seq > 50));
    let again = target.handle.rebuild(&path, &Silent).await.unwrap_err();
    assert!(again.to_string().contains("rebuilt.redb"), "a file that is there is not overwritten: {again}");
}

/// Asks for everything, and waits until it is in the pool.
async fn full_sync(target: &Target, serving: &mut Serving) -> String {
    let command = json!({ "pool": dc1(), "full": true, "actor": "op" });
    // It is refused as long as something else is under way with the source.
    let started = eventually("the full sync is started", async || {
        let reply = target.command::<_, SyncsStarted>(Stem::Resource, "sync", &command).await;
        matches!(reply, Reply::Done { .. }).then_some(())
    });
    started.await;
    let sync = loop {
        let sync = serving.next_sync().await;
        if sync.reason == SyncReason::Manual {
            break sync;
        }
    };
    closed(target, &sync.sync_id).await;
    sync.sync_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_deletion_stays_after_another_full_sync_and_a_rebuild() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    for n in 0..30 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    for n in 0..30 {
        source.drift(&format!("Pod/{n}"), None).await;
    }
    let held = full_sync(&target, &mut serving).await;
    assert_eq!(target.owner(&dc1(), OWNER).unwrap().held_window.unwrap().sync_id, held);
    let confirmed = json!({ "pool": "local/dc1", "owner": OWNER, "sync_id": held, "actor": "operator" });
    target.state(Stem::Resource, "empty_confirmed", confirmed).await.unwrap();
    let let_pass = |reader: &projector::Reader| {
        reader.owner(&dc1(), OWNER).unwrap().value?.held_window.is_none().then_some(())
    };
    target.until("the held window is let pass", let_pass).await;
    full_sync(&target, &mut serving).await;
    assert_eq!(target.owner(&dc1(), OWNER).unwrap().digest.count, 0);
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Silent).await.unwrap();
    assert_eq!(rebuilt.differences, []);
}
