//! The lease: one holder, taken over when it is silent, and a stale one cannot write.

use std::time::Duration;

use bus::{Bus, Lease, LeaseOptions, LeaseToken, LinkState, PublishErrorKind};
use tokio::sync::watch;

use super::fact;
use crate::support::{nats::Nats, nats::name, nats::target_log, refused, within};

const TARGET: &str = "FARSIDE_TGT_LOCAL";
/// Short, so that a takeover is quick; long enough for a busy machine to renew in time.
const TTL: Duration = Duration::from_secs(2);

async fn contend(bus: &Bus, holder: &str) -> Lease {
    let (target, lease, holder) = (name("local"), name("pump"), holder.to_owned());
    Lease::contend(bus, LeaseOptions { target, lease, holder, ttl: TTL }).await.unwrap()
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
    nats.kill();
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
