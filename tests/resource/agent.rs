//! The target and the real source agent together (R9): what one asks, the other answers, and the pool is
//! proved equal to the source.

use std::fs;

use bus_schema::{
    Hash32, Stem,
    command::{
        resource::SyncReason,
        target::{Confirmation, Reply, SyncsStarted},
    },
    fact::{log::LogFact, resource::Verdict},
};
use producers::AgentConfig;
use serde_json::json;
use tempfile::TempDir;

use super::{LOG, OWNER, confirm, dc1, log_fact, quiet, target::Target, to_confirm};
use crate::support::{agent::RunningAgent, eventually, nats::Nats};

/// A source whose inventory is what a command prints, and its agent.
struct Bench {
    nats: Nats,
    home: TempDir,
}

impl Bench {
    async fn new() -> (Self, Target) {
        let bench = Self { nats: Nats::start().await, home: tempfile::tempdir().unwrap() };
        bench.inventory(&[]);
        let target = Target::start(&bench.nats.bus().await, quiet()).await;
        (bench, target)
    }

    /// The server is killed, and knows none of its streams when it comes back.
    async fn lose_the_logs(&mut self) {
        self.nats.kill().await;
        for stream in [LOG, "FARSIDE_TGT_LOCAL", "FARSIDE_DLQ_LOCAL", "FARSIDE_LEASE_LOCAL"] {
            fs::remove_dir_all(self.nats.stream_dir(stream)).unwrap();
        }
        self.nats.start_again().await;
    }

    /// The source has these machines, each with this number in its state.
    fn inventory(&self, machines: &[(&str, u64)]) {
        let line = |(id, n): &(&str, u64)| json!({ "kind": "Vm", "id": id, "state": { "n": n } }).to_string();
        // An empty inventory is not an answer; a source always has itself.
        let lines: Vec<_> = [("self", 0)].iter().chain(machines).map(line).collect();
        fs::write(self.home.path().join("draft"), lines.join("\n")).unwrap();
        fs::rename(self.home.path().join("draft"), self.home.path().join("inventory")).unwrap();
    }

    /// An agent that reads its source by itself so often, in seconds.
    async fn agent(&self, every_s: u32, push: &str) -> RunningAgent {
        self.agent_with("agent", every_s, push).await
    }

    /// The same with a ledger of another name.
    async fn agent_with(&self, ledger: &str, every_s: u32, push: &str) -> RunningAgent {
        let home = self.home.path().display();
        let zero = Hash32::ZERO;
        let text = format!(
            "name = 'inv'\nledger = '{home}/{ledger}.redb'\nheartbeat_s = 1\n\
             [[clusters]]\nname = 'dc1'\n\
             source = {{ adapter = 'exec', command = ['cat', '{home}/inventory'], every_s = {every_s} }}\n{push}\n\
             [[clusters.keys]]\nid = 'ak-src'\ntenant = 'acme'\nsalt = '{zero}'\nhash = '{zero}'\n"
        );
        let config: AgentConfig = toml::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        RunningAgent::start(&self.nats, config).await
    }
}

/// Waits until the pool is proved equal to the source, with so many resources.
async fn equal(target: &Target, count: u64) {
    target
        .until("pool and source are equal", |reader| {
            let owner = reader.owner(&dc1(), OWNER).unwrap().value?;
            (owner.in_sync() && owner.digest.count == count && owner.last_sync.is_some()).then_some(())
        })
        .await;
}

fn reasons(target: &Target) -> Vec<SyncReason> {
    let syncs = target.reader.syncs(&dc1(), 50).unwrap().value;
    syncs.iter().filter_map(|sync| Some(sync.requested.as_ref()?.1.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_first_second_and_manual_requests_are_answered_and_the_pool_is_equal() {
    let (bench, target) = Bench::new().await;
    bench.inventory(&[("a", 1), ("b", 1)]);
    let agent = bench.agent(3_600, "").await;
    equal(&target, 3).await;
    bench.inventory(&[("a", 2)]);
    let confirmation = confirm(&target, &["Vm/a", "Vm/b", "Vm/self"], 20_000).await;
    let verdicts: Vec<_> = confirmation.resources.iter().map(|resource| resource.verdict).collect();
    assert_eq!(verdicts, [Verdict::Updated, Verdict::Missing, Verdict::Confirmed]);
    assert!(target.row(&dc1(), "Vm/a").unwrap().state.unwrap().contains('2'));
    equal(&target, 2).await;
    bench.inventory(&[("a", 3), ("c", 1)]);
    let command = json!({ "pool": dc1(), "full": true, "actor": "op" });
    let reply = target.command::<_, SyncsStarted>(Stem::Resource, "sync", &command).await;
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    equal(&target, 3).await;
    for reason in [SyncReason::First, SyncReason::Second, SyncReason::Manual] {
        assert!(reasons(&target).contains(&reason), "{reason:?}");
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_the_third_request_brings_the_states_behind_the_notices() {
    let (bench, target) = Bench::new().await;
    target.stop().await;
    let mut config = quiet();
    config["threshold"] = json!({ "changes": 20, "bytes": 0, "age": "1h", "rest": "1s" });
    let target = Target::start(&bench.nats.bus().await, config).await;
    let agent = bench.agent(1, "push = { notice_kinds = ['Vm'] }").await;
    equal(&target, 1).await;
    let ids: Vec<String> = (0..100).map(|n| format!("vm-{n}")).collect();
    let machines: Vec<(&str, u64)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    bench.inventory(&machines);
    equal(&target, 101).await;
    assert!(reasons(&target).contains(&SyncReason::Third));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_an_agent_out_of_an_old_backup_is_told_to_send_everything_and_the_pool_is_equal() {
    let (bench, target) = Bench::new().await;
    let (ledger, backup) = (bench.home.path().join("agent.redb"), bench.home.path().join("backup.redb"));
    bench.inventory(&[("a", 1)]);
    let agent = bench.agent(3_600, "").await;
    equal(&target, 2).await;
    agent.stop().await;
    fs::copy(&ledger, &backup).unwrap();
    bench.inventory(&[("a", 2), ("b", 1)]);
    let agent = bench.agent(3_600, "").await;
    equal(&target, 3).await;
    agent.stop().await;
    let before = target.owner(&dc1(), OWNER).unwrap();
    fs::rename(&backup, &ledger).unwrap();
    bench.inventory(&[("a", 3)]);
    let agent = bench.agent(3_600, "").await;
    equal(&target, 2).await;
    let owner = target.owner(&dc1(), OWNER).unwrap();
    assert_ne!(owner.at.unwrap().epoch, before.at.unwrap().epoch);
    assert!(owner.has_retired(before.at.unwrap().epoch));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_an_agent_that_forked_its_chain_while_the_target_was_away_starts_a_new_epoch() {
    let (bench, target) = Bench::new().await;
    let (ledger, backup) = (bench.home.path().join("agent.redb"), bench.home.path().join("backup.redb"));
    let agent = bench.agent(3_600, "").await;
    equal(&target, 1).await;
    agent.stop().await;
    fs::copy(&ledger, &backup).unwrap();
    bench.inventory(&[("a", 1)]);
    let agent = bench.agent(3_600, "").await;
    equal(&target, 2).await;
    agent.stop().await;
    let (bus, directory) = (target.bus.clone(), target.stop().await);
    fs::rename(&backup, &ledger).unwrap();
    bench.inventory(&[("a", 2), ("b", 1)]);
    // Nobody answers its greeting, so it goes on from where the backup was.
    let agent = bench.agent(3_600, "").await;
    let last = bus.stream_state(LOG).await.unwrap().last_seq;
    eventually("it publishes", async || {
        (bus.stream_state(LOG).await.ok()?.last_seq > last + 2).then_some(())
    })
    .await;
    let target = Target::start_again(&bus, quiet(), directory).await;
    log_fact(&target, "the fork is stated", |fact| matches!(fact, LogFact::Forked(_)).then_some(())).await;
    equal(&target, 3).await;
    assert!(target.row(&dc1(), "Vm/a").unwrap().state.unwrap().contains('2'));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_ledger_that_sees_an_empty_source_deletes_nothing_and_its_return_settles_the_hold() {
    let (bench, target) = Bench::new().await;
    let ids: Vec<String> = (0..30).map(|n| format!("vm-{n}")).collect();
    let machines: Vec<(&str, u64)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    bench.inventory(&machines);
    let agent = bench.agent(1, "").await;
    equal(&target, 31).await;
    agent.stop().await;
    fs::remove_file(bench.home.path().join("agent.redb")).unwrap();
    bench.inventory(&[]);
    let agent = bench.agent(1, "").await;
    target
        .until("the close waits for a person", |reader| {
            reader.owner(&dc1(), OWNER).unwrap().value?.held_window.map(drop)
        })
        .await;
    let owner = target.owner(&dc1(), OWNER).unwrap();
    assert!(owner.digest.count == 31 && !owner.in_sync(), "{owner:?}");
    assert!(!reasons(&target).contains(&SyncReason::Second));
    bench.inventory(&machines);
    equal(&target, 31).await;
    assert!(target.owner(&dc1(), OWNER).unwrap().held_window.is_none());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_an_agent_whose_epoch_another_of_its_name_has_ended_heals_while_it_runs() {
    let (bench, target) = Bench::new().await;
    let agent = bench.agent(1, "").await;
    equal(&target, 1).await;
    let first = target.owner(&dc1(), OWNER).unwrap().at.unwrap().epoch;
    let twin = bench.agent_with("twin", 3_600, "").await;
    target
        .until("the other agent has ended the epoch", |reader| {
            reader.owner(&dc1(), OWNER).unwrap().value?.has_retired(first).then_some(())
        })
        .await;
    twin.stop().await;
    bench.inventory(&[("a", 1), ("b", 1)]);
    equal(&target, 3).await;
    assert!(target.row(&dc1(), "Vm/b").is_some());
    agent.stop().await;
}

/// A nats-server that was killed at a bad moment may not know a stream any more.
#[tokio::test(flavor = "multi_thread")]
async fn logs_that_vanish_under_a_running_service_are_made_anew_and_filled_again() {
    let (mut bench, target) = Bench::new().await;
    bench.inventory(&[("a", 1)]);
    let agent = bench.agent(1, "").await;
    equal(&target, 2).await;
    let before = target.bus.stream_state(LOG).await.unwrap().created;
    bench.lose_the_logs().await;
    bench.inventory(&[("a", 1), ("b", 1)]);
    equal(&target, 3).await;
    assert!(target.bus.stream_state(LOG).await.unwrap().created > before);
    let confirmation = eventually("the target acts again", async || {
        let reply = target.try_command(Stem::Resource, "confirm", &to_confirm(&["Vm/b"], 20_000)).await;
        let Ok(Reply::<Confirmation>::Done { answer }) = reply else { return None };
        Some(answer)
    })
    .await;
    assert_eq!(confirmation.resources[0].verdict, Verdict::Confirmed);
    eventually("dead letters have a log again", async || {
        target.bus.stream_state("FARSIDE_DLQ_LOCAL").await.ok()
    })
    .await;
    agent.stop().await;
}

/// Log, facts, lease and pool are made anew while an agent keeps its ledger.
async fn made_anew(agent_runs: bool) {
    let (mut bench, target) = Bench::new().await;
    // Acquired twice, the lease has a token that a new log does not reach at once.
    let (bus, directory) = (target.bus.clone(), target.stop().await);
    let target = Target::start_again(&bus, quiet(), directory).await;
    bench.inventory(&[("a", 1)]);
    let mut agent = Some(bench.agent(3_600, "").await);
    equal(&target, 2).await;
    if !agent_runs {
        agent.take().unwrap().stop().await;
    }
    target.stop().await;
    bench.lose_the_logs().await;
    let target = Target::start(&bus, quiet()).await;
    let agent = match agent {
        Some(agent) => agent,
        None => bench.agent(3_600, "").await,
    };
    equal(&target, 2).await;
    let confirmation = confirm(&target, &["Vm/a"], 20_000).await;
    assert_eq!(confirmation.resources[0].verdict, Verdict::Confirmed);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_rebuilt_target_gets_keys_and_inventory_of_an_agent_that_starts_with_its_ledger() {
    made_anew(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_rebuilt_target_gets_keys_and_inventory_of_an_agent_that_runs() {
    made_anew(true).await;
}
