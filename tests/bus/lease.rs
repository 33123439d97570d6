//! The lease: one holder, taken over when it is silent, and a stale one cannot write.

use std::time::Duration;

use bus::{Bus, ConnectOptions, Lease, LeaseOptions, LeaseToken, LinkState, PublishErrorKind};
use bus_schema::stream::StreamSpec;
use tokio::sync::watch;

use super::fact;
use crate::support::{
    eventually,
    log::Log,
    nats::{Nats, name, target_log},
    refused, within,
};

const TARGET: &str = "FARSIDE_TGT_LOCAL";
/// Short, so that a takeover is quick; long enough for a busy machine to renew in time.
const TTL: Duration = Duration::from_secs(2);

async fn contend(bus: &Bus, holder: &str) -> Lease {
    contend_with(bus, holder, 1).await
}

async fn contend_with(bus: &Bus, holder: &str, replicas: usize) -> Lease {
    let (target, lease, holder) = (name("local"), name("pump"), holder.to_owned());
    Lease::contend(bus, LeaseOptions { target, lease, holder, ttl: TTL, replicas }).await.unwrap()
}

async fn held(mut token: watch::Receiver<Option<LeaseToken>>) -> LeaseToken {
    within("the lease is held", token.wait_for(Option::is_some)).await.unwrap().clone().unwrap()
}

#[tokio::test]
async fn a_silent_holder_is_taken_over_and_its_writes_are_refused() {
    let nats = Nats::start().await;
    let (first_bus, second_bus) = (nats.bus().await, nats.bus().await);
    first_bus.ensure_stream(&target_log()).await.unwrap();
    let first = contend(&first_bus, "first").await;
    let stale = held(first.token()).await;
    let second = contend(&second_bus, "second").await;
    first_bus.publisher().publish(TARGET, &fact(1), Some(&stale.fence())).await.unwrap();
    assert!(second.token().borrow().is_none(), "there is one holder");

    // Ended without a word, as by kill -9; what it still has is the token.
    drop(first);
    let token = held(second.token()).await;
    assert!(token.seq > stale.seq);
    let error = refused(first_bus.publisher().publish(TARGET, &fact(2), Some(&stale.fence())).await);
    assert_eq!(error.kind, PublishErrorKind::Fenced, "{error}");
    let batch = [fact(3), fact(4)];
    let error = refused(first_bus.publisher().publish_batch(TARGET, "b", &batch, Some(&stale.fence())).await);
    assert_eq!(error.kind, PublishErrorKind::Fenced, "{error}");
    second_bus.publisher().publish_batch(TARGET, "b2", &batch, Some(&token.fence())).await.unwrap();
}

#[tokio::test]
async fn a_released_lease_is_taken_at_once() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&target_log()).await.unwrap();
    let first = contend(&bus, "first").await;
    held(first.token()).await;
    let second = contend(&bus, "second").await;
    first.release().await;
    let asked = tokio::time::Instant::now();
    held(second.token()).await;
    assert!(asked.elapsed() < TTL, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_holder_without_a_link_gives_up_before_it_can_be_taken_over_and_resumes_its_own_token() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&target_log()).await.unwrap();
    let lease = contend(&bus, "first").await;
    let mut token = lease.token();
    let before = held(lease.token()).await;
    nats.kill().await;
    let killed = tokio::time::Instant::now();
    within("it gives up", token.wait_for(Option::is_none)).await.unwrap();
    assert!(killed.elapsed() < TTL, "{:?}", killed.elapsed());
    nats.start_again().await;
    within("up", bus.link().wait_for(|state| matches!(state, LinkState::Up { generation: 2.. })))
        .await
        .unwrap();
    assert_eq!(held(lease.token()).await, before, "nobody took it over, so the token is good");
    bus.publisher().publish(TARGET, &fact(1), Some(&before.fence())).await.unwrap();
}

/// Three servers with a target log of three copies, and a connection that knows them all.
async fn cluster() -> ([Nats; 3], Bus) {
    let cluster = Nats::start_cluster().await;
    let servers = cluster.iter().map(|nats| nats.url()).collect::<Vec<_>>().join(",");
    let bus = Bus::connect(ConnectOptions { servers, ..ConnectOptions::default() }).await.unwrap();
    let log = StreamSpec { replicas: 3, ..target_log() };
    eventually("the cluster has a leader and room", async || bus.ensure_stream(&log).await.ok()).await;
    (cluster, bus)
}

/// The name of the server that leads the renewals, once `copies` of them are up to date.
async fn leader_of_renewals(cluster: &[Nats; 3], copies: usize) -> String {
    let client = cluster[0].client().await;
    eventually("all copies of the renewals are up to date", async || {
        let info = client.request("$JS.API.STREAM.INFO.FARSIDE_LEASE_LOCAL", "".into()).await.ok()?;
        let info: serde_json::Value = serde_json::from_slice(&info.payload).ok()?;
        let followers = info["cluster"]["replicas"].as_array().map_or(&[][..], Vec::as_slice);
        let current = followers.iter().filter(|follower| follower["current"] == true).count() + 1;
        let leader = info["cluster"]["leader"].as_str().map(str::to_owned);
        leader.filter(|_| info["config"]["num_replicas"] == copies && current == copies)
    })
    .await
}

/// Acting goes on: a renewal that was made after now is there, and the holder's writes are taken.
async fn goes_on(bus: &Bus, lease: &Lease) {
    let renewal = async || bus.last_message("FARSIDE_LEASE_LOCAL", "far.v1.local.lease.pump").await.ok()?;
    let before = eventually("the renewals can be read", async || Some(renewal().await?.seq())).await;
    eventually("it is renewed", async || (renewal().await?.seq() > before).then_some(())).await;
    let token = held(lease.token()).await;
    let written = async || bus.publisher().publish(TARGET, &fact(7), Some(&token.fence())).await.ok();
    eventually("the log takes what the holder says", written).await;
}

#[tokio::test]
async fn a_cluster_that_loses_the_node_with_the_renewals_does_not_stop_the_target() {
    let (mut cluster, bus) = cluster().await;
    let lease = contend_with(&bus, "first", 3).await;
    held(lease.token()).await;
    let leader = leader_of_renewals(&cluster, 3).await;
    cluster.iter_mut().find(|nats| nats.name() == leader).unwrap().kill().await;
    goes_on(&bus, &lease).await;
}

#[tokio::test]
async fn renewals_that_an_older_version_made_get_as_many_copies_as_the_logs() {
    let (cluster, bus) = cluster().await;
    let older = contend_with(&bus, "older", 1).await;
    held(older.token()).await;
    older.release().await;
    let lease = contend_with(&bus, "first", 3).await;
    held(lease.token()).await;
    leader_of_renewals(&cluster, 3).await;
    goes_on(&bus, &lease).await;
}

#[tokio::test]
async fn why_the_lease_cannot_be_looked_at_is_told_once_and_not_at_every_look() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&target_log()).await.unwrap();
    let log = Log::listen();
    let lease = contend(&bus, "first").await;
    held(lease.token()).await;
    async_nats::jetstream::new(nats.client().await).delete_stream(TARGET).await.unwrap();
    let looks = |level| log.lines(&["cannot look at the lease", TARGET, level]).len();
    eventually("it looks and looks", async || (looks("DEBUG") > 2).then_some(())).await;
    assert_eq!(looks("WARN"), 1);
}

#[tokio::test]
async fn the_acquisition_is_a_fact_of_the_target_log() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&target_log()).await.unwrap();
    let lease = contend(&bus, "host:1:abc").await;
    let token = held(lease.token()).await;
    let message = bus.message(TARGET, token.seq).await.unwrap().unwrap();
    assert_eq!(message.subject(), "far.v1.local.tgt.log.pump.lease_acquired");
    let fact =
        bus_schema::fact::Fact::decode(bus_schema::Stem::Log, "lease_acquired", message.body()).unwrap();
    let expected = bus_schema::fact::log::LeaseAcquired { lease: name("pump"), holder: "host:1:abc".into() };
    assert_eq!(fact, bus_schema::fact::Fact::Log(bus_schema::fact::log::LogFact::LeaseAcquired(expected)));
}
