//! The loop with recording ports: what it asks and states, and that it asks no more than it has to.

use bus_schema::fact::{Fact, resource::ResourceFact};
use serde_json::json;

use super::*;
use crate::resource::{ports::Silence, recording::Recording};

const OWNER: &str = "/local/dc1/resource/inv";

fn reactor(ports: &Arc<Recording>) -> Reactor<Recording> {
    let config =
        serde_json::from_value(json!({ "schedule": { "every": "1h" }, "threshold": { "changes": 10 } }));
    Reactor::new(ports.clone(), Arc::new(config.unwrap()), watch::channel(Vec::new()).0)
}

/// Looks, and lets everything that came out of it be performed.
async fn look(reactor: &mut Reactor<Recording>) {
    reactor.look().unwrap();
    while let Some(done) = reactor.work.join_next().await {
        reactor.worked(done).unwrap();
    }
}

/// The agent has these addresses and nothing else, and the pool knows that it differs.
fn differs(ports: &Recording, addresses: &[u64]) {
    let at = json!({ "epoch": "0000000000000007", "seq": "20" });
    let digest = json!({ "root": "00000000000000000000000000000002", "count": "2" });
    let reply =
        |frame: Vec<u8>| json!({ "at": at, "digest": digest, "frame": data_encoding::BASE64.encode(&frame) });
    let mut nodes = vec![0_u8; 256 * 6];
    nodes[7] = 1;
    let item = |address: &u64| [&address.to_be_bytes()[2..], &[0, 0, 0, 0, 0, 1]].concat();
    let (nodes, items) = (reply(nodes), reply(addresses.iter().flat_map(item).collect()));
    ports.answers(|_, _| Ok(nodes)).answers(|_, _| Ok(items));
    ports.pool.change_owner(OWNER, |owner| {
        let at = owner.at.unwrap();
        owner.proof = Some(projector::Proof { at, equal: false, stored_at: Timestamp::default() });
    });
}

/// The next request of an owner is accepted, and its answer is there at once.
fn answers_at_once(ports: &Recording, owner: &'static str) {
    ports.answers(move |pool, command| {
        pool.close(owner, command["sync_id"].as_str().unwrap(), 20);
        Ok(json!({ "result": "accepted", "scope": "incremental" }))
    });
}

fn stated(ports: &Recording) -> Vec<&'static str> {
    ports.stated().iter().map(Fact::name).collect()
}

#[tokio::test]
async fn r5_the_request_carries_what_the_pool_has() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    ports.pool.change_owner(OWNER, |owner| owner.since_sync.outstanding = 3);
    ports.answers(|_, _| Ok(json!({ "result": "accepted", "scope": "incremental" })));
    look(&mut reactor(&ports)).await;
    let (verb, command) = ports.asked().remove(0);
    assert_eq!((verb.as_str(), &command["reason"]), ("sync", &json!("first")));
    let info = &command["update_info"];
    assert_eq!(info["since"], json!({ "epoch": "0000000000000007", "seq": "10" }));
    assert_eq!((&info["outstanding"], &info["digest"]["count"]), (&json!("3"), &json!("0")));
    let Fact::Resource(ResourceFact::SyncRequested(requested)) = ports.stated().remove(0) else { panic!() };
    assert_eq!(requested.update_info.outstanding, 3, "the fact says the same");
}

#[tokio::test]
async fn r6_the_third_request_is_one_request_and_one_fact() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    let mut reactor = reactor(&ports);
    ports.answers(|pool, command| {
        pool.close(OWNER, command["sync_id"].as_str().unwrap(), 20);
        Ok(json!({ "result": "accepted", "scope": "incremental" }))
    });
    look(&mut reactor).await;
    ports.answers(|_, _| Ok(json!({ "result": "accepted", "scope": "incremental" })));
    for changes in [11, 500, 9_000] {
        ports.pool.change_owner(OWNER, |owner| owner.since_sync.changes = changes);
        look(&mut reactor).await;
    }
    assert_eq!(ports.asked().len(), 2);
    assert_eq!(ports.asked()[1].1["reason"], "third");
    assert_eq!(stated(&ports), ["sync_requested", "sync_requested"]);
}

#[tokio::test]
async fn r7_without_a_key_nothing_is_asked_and_the_failure_is_stated_once() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    ports.pool.forget_keys();
    let mut reactor = reactor(&ports);
    for _ in 0..10 {
        look(&mut reactor).await;
        ports.later(1_000);
    }
    assert_eq!(ports.asked(), []);
    assert_eq!(stated(&ports), ["sync_failed"]);
}

#[tokio::test]
async fn a_silent_agent_is_stated_as_failed_with_its_reason() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    ports.answers(|_, _| Err(Silence("no agent is connected".to_owned())));
    look(&mut reactor(&ports)).await;
    let Fact::Resource(ResourceFact::SyncFailed(failed)) = ports.stated().remove(1) else { panic!() };
    assert_eq!(failed.reason, "no agent is connected");
    assert!(failed.retry_at.unwrap() > ports.now());
}

#[tokio::test]
async fn a_look_that_finds_nothing_due_asks_and_states_nothing() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    let mut reactor = reactor(&ports);
    ports.answers(|pool, command| {
        pool.close(OWNER, command["sync_id"].as_str().unwrap(), 20);
        Ok(json!({ "result": "accepted", "scope": "incremental" }))
    });
    look(&mut reactor).await;
    let before = (ports.asked().len(), ports.stated().len());
    for _ in 0..100 {
        look(&mut reactor).await;
    }
    assert_eq!((ports.asked().len(), ports.stated().len()), before);
}

#[tokio::test]
async fn a_person_gets_the_id_of_the_sync_or_the_reason_why_there_is_none() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    let mut reactor = reactor(&ports);
    let (reply, answer) = oneshot::channel();
    reactor.manual(ManualSync { pool: "local/dc1".parse().unwrap(), full: true, reply }).unwrap();
    assert!(answer.await.unwrap().unwrap()[0].starts_with("manual-"));
    let (reply, answer) = oneshot::channel();
    reactor.manual(ManualSync { pool: "local/none".parse().unwrap(), full: true, reply }).unwrap();
    assert!(answer.await.unwrap().unwrap_err().contains("no agent"));
}

#[tokio::test]
async fn unequal_digests_are_compared_and_only_the_differing_address_is_asked_for() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    let mut reactor = reactor(&ports);
    ports.answers(|pool, command| {
        pool.close(OWNER, command["sync_id"].as_str().unwrap(), 20);
        Ok(json!({ "result": "accepted", "scope": "incremental" }))
    });
    look(&mut reactor).await;
    differs(&ports, &[9]);
    ports.answers(|_, _| Ok(json!({ "result": "accepted", "scope": "keys" })));
    look(&mut reactor).await;
    let asked = ports.asked();
    assert_eq!(
        asked.iter().map(|(verb, _)| verb.as_str()).collect::<Vec<_>>(),
        ["sync", "digest", "digest", "sync"]
    );
    assert_eq!(asked[2].1["below"], json!([1]));
    assert_eq!((&asked[3].1["scope"], &asked[3].1["addresses"]), (&json!("keys"), &json!([9])));
}

#[tokio::test]
async fn an_agent_that_has_lost_nearly_everything_is_asked_for_everything_so_that_the_guard_applies() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    let mut reactor = reactor(&ports);
    answers_at_once(&ports, OWNER);
    look(&mut reactor).await;
    for n in 0..30 {
        ports.pool.put(OWNER, &format!("Pod/{n}"), "1");
    }
    differs(&ports, &[]);
    ports.answers(|_, _| Ok(json!({ "result": "accepted", "scope": "full" })));
    look(&mut reactor).await;
    let repair = &ports.asked()[3].1;
    assert_eq!(
        (&repair["reason"], &repair["scope"], &repair["keys"]),
        (&json!("repair"), &json!("full"), &json!(null))
    );
}

const OTHER: &str = "/local/dc1/resource/other";

#[tokio::test]
async fn no_two_agents_of_one_cluster_are_synchronised_at_once() {
    let ports = Arc::new(Recording::with_owner(OWNER));
    ports.pool.add_owner(OTHER);
    let mut reactor = reactor(&ports);
    ports.answers(|_, _| Ok(json!({ "result": "accepted", "scope": "incremental" })));
    for _ in 0..10 {
        look(&mut reactor).await;
    }
    let agents = |ports: &Recording| -> Vec<String> {
        ports.asked().iter().map(|(_, command)| command["agent"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(agents(&ports), ["inv"], "the other one waits");
    ports.pool.close(OWNER, ports.asked()[0].1["sync_id"].as_str().unwrap(), 20);
    answers_at_once(&ports, OTHER);
    look(&mut reactor).await;
    assert_eq!(agents(&ports), ["inv", "other"]);
}

async fn two_agents_that_were_asked_first() -> (Arc<Recording>, Reactor<Recording>) {
    let ports = Arc::new(Recording::with_owner(OWNER));
    ports.pool.add_owner(OTHER);
    let mut reactor = reactor(&ports);
    [OWNER, OTHER].into_iter().for_each(|owner| answers_at_once(&ports, owner));
    look(&mut reactor).await;
    look(&mut reactor).await;
    (ports, reactor)
}

#[tokio::test]
async fn r6_a_plain_publisher_counts_and_every_agent_of_the_cluster_is_asked() {
    let (ports, mut reactor) = two_agents_that_were_asked_first().await;
    assert_eq!(ports.asked().len(), 2, "the first requests");
    ports.pool.add_owner("/local/dc1/resource/plain");
    for (owner, changes) in [(OWNER, 4), ("/local/dc1/resource/plain", 7)] {
        ports.pool.change_owner(owner, |owner| owner.since_sync.changes = changes);
    }
    // Who was asked last lets the other one go before.
    [OWNER, OTHER].into_iter().for_each(|owner| answers_at_once(&ports, owner));
    look(&mut reactor).await;
    look(&mut reactor).await;
    let thirds = ports.asked().split_off(2);
    assert!(thirds.iter().all(|(_, command)| command["reason"] == "third"), "{thirds:?}");
    let mut agents: Vec<_> = thirds.iter().map(|(_, command)| command["agent"].as_str().unwrap()).collect();
    agents.sort_unstable();
    assert_eq!(agents, ["inv", "other"]);
}

#[tokio::test]
async fn a_key_of_two_agents_is_told_and_not_asked_for_to_and_fro() {
    let (ports, mut reactor) = two_agents_that_were_asked_first().await;
    ports.pool.put(OTHER, "Pod/shared", "1");
    differs(&ports, &[bus_schema::digest::Address::of("Pod/shared").short()]);
    for _ in 0..10 {
        look(&mut reactor).await;
    }
    let verbs: Vec<String> = ports.asked().into_iter().map(|(verb, _)| verb).collect();
    assert_eq!(verbs, ["sync", "sync", "digest", "digest"]);
    let shown = reactor.shown.subscribe().borrow().clone();
    let trouble = shown.iter().find_map(|shown| shown.trouble.clone()).unwrap();
    assert!(trouble.contains("Pod/shared (/local/dc1/resource/other)"), "{trouble}");
}
