//! Agents and services of this release and of the one before understand each other, over a killed NATS and killed
//! processes. `make releases` builds the other one and names it in `FARSIDE_OTHER_RELEASE`; what they say to each other is
//! also held against stored samples (`contract.rs`).

use std::{collections::BTreeMap, env, fs, io::Write, path::PathBuf};

use crate::support::{
    eventually,
    nats::Nats,
    world::{Releases, World},
};

/// Resources of the source.
const RESOURCES: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_the_release_before_serves_this_service() {
    let Some(agent) = other() else { return };
    let nats = Nats::start().await;
    let service = r#"checkpoint = { events = 10, every = "1s" }"#;
    let world = World::start_of(Releases { agent, ..Releases::default() }, &nats.url(), service);
    let mut pair = Pair { nats, world, truth: BTreeMap::new(), number: 0 };
    pair.is_kept_true().await;
    // What the older agent does not know of does it no harm: it is asked nothing, and its log is looked at as any other.
    eventually("the service acts again, and finds nothing wrong", async || {
        pair.world.ask(&["audit", "scrub"]).await.status.success().then_some(())
    })
    .await;
    eventually("a checkpoint is signed, and the whole verifies", async || {
        let verified = pair.world.ask(&["-o", "json", "audit", "verify"]).await;
        let report: serde_json::Value = serde_json::from_slice(&verified.stdout).ok()?;
        (verified.status.success() && report["key"].is_string()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_this_release_serves_the_service_before() {
    let Some(service) = other() else { return };
    let nats = Nats::start().await;
    let world = World::start_of(Releases { service, ..Releases::default() }, &nats.url(), "");
    Pair { nats, world, truth: BTreeMap::new(), number: 0 }.is_kept_true().await;
}

/// The other release, if it was built.
fn other() -> Option<PathBuf> {
    let other = env::var_os("FARSIDE_OTHER_RELEASE").map(PathBuf::from);
    if other.is_none() {
        let line = "\nSKIPPED the release before: make releases builds and runs it\n";
        // Not `eprintln`, which a test that passes does not show.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    other
}

/// An agent and a service of two releases.
struct Pair {
    nats: Nats,
    world: World,
    truth: BTreeMap<String, u64>,
    number: u64,
}

impl Pair {
    async fn is_kept_true(&mut self) {
        (0..RESOURCES).for_each(|id| self.write(id));
        self.world.agrees_with(&self.truth).await;
        self.changes().await;
        self.world.agent.kill_and_start_again();
        self.changes().await;
        self.world.service.kill_and_start_again();
        self.changes().await;
        self.nats.kill().await;
        self.write(1);
        self.nats.start_again().await;
        self.changes().await;
    }

    /// Some change, one goes; the pool follows, and both digests are equal.
    async fn changes(&mut self) {
        (0..5).for_each(|id| self.write(id));
        let gone = 10 + self.number % 10;
        if self.truth.remove(&format!("Item/n{gone}")).is_some() {
            fs::remove_file(self.world.source().join(format!("item-{gone}.json"))).unwrap();
        }
        self.world.agrees_with(&self.truth).await;
    }

    fn write(&mut self, id: u64) {
        self.number += 1;
        let number = self.number;
        let text =
            format!(r#"{{"kind":"Item","id":"n{id}","revision":"{number}","state":{{"n":{number}}}}}"#);
        let half = self.world.source().join(".half-written");
        fs::write(&half, text).unwrap();
        fs::rename(&half, self.world.source().join(format!("item-{id}.json"))).unwrap();
        self.truth.insert(format!("Item/n{id}"), number);
    }
}
