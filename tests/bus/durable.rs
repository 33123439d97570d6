//! Reactions: a message comes until it is handled, and what never can be handled becomes a dead letter.

use std::{
    sync::{Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use bus::{DurableOptions, Outcome, dead_letter};
use tokio_util::sync::CancellationToken;

use super::events;
use crate::support::{nats::Nats, nats::dead_letters, nats::name, nats::site_log, within};

const SITE: &str = "FARSIDE_LOCAL";
const DLQ: &str = "FARSIDE_DLQ_LOCAL";

fn options(in_flight_max: usize) -> DurableOptions {
    let (consumer, target, stream) = (name("reaction"), name("local"), SITE.to_owned());
    DurableOptions { stream, consumer, filters: Vec::new(), target, in_flight_max }
}

#[tokio::test]
async fn a_message_comes_again_until_it_is_handled_and_a_rejected_one_is_parked_first() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.ensure_stream(&dead_letters()).await.unwrap();
    bus.publisher().publish_batch(SITE, "b", &events(0..4), None).await.unwrap();
    let seen = Mutex::new(Vec::new());
    let done = CancellationToken::new();
    let handler = async |message: bus::LogMessage| {
        let mut seen = seen.lock().unwrap();
        seen.push(message.seq());
        match (message.seq(), seen.iter().filter(|seq| **seq == message.seq()).count()) {
            (2, 1..3) => Outcome::RetryAfter(Duration::from_millis(30)),
            (3, _) => Outcome::Reject { reason: "a field\nis missing".into(), path: "$.number".into() },
            (4, 1) => Outcome::RetryAfter(Duration::from_millis(200)),
            (4, _) => {
                done.cancel();
                Outcome::Ack
            }
            _ => Outcome::Ack,
        }
    };
    let durable = bus.subscribe(options(1)).await.unwrap();
    within("all are settled", durable.run(done.clone(), handler)).await.unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 2, 2, 3, 4, 4]);

    let letter = bus.message(DLQ, 1).await.unwrap().unwrap();
    assert_eq!(letter.subject(), "far.v1.local.dlq.reaction.resource");
    assert_eq!(&**letter.body(), b"{\"number\":2}");
    for header in [
        (dead_letter::REASON, "a field is missing"),
        (dead_letter::PATH, "$.number"),
        (dead_letter::ORIGIN, "FARSIDE_LOCAL:3"),
        (dead_letter::CONSUMER, "reaction"),
        ("ce-id", "2"),
    ] {
        assert!(letter.headers().contains(&header), "{header:?} in {:?}", letter.headers());
    }
    // A log that was made anew has other messages at the same places: the time tells them apart.
    let id = letter.headers().into_iter().find(|(name, _)| *name == "Nats-Msg-Id").unwrap().1.to_owned();
    assert!(id.starts_with("FARSIDE_LOCAL:3/reaction"), "{id}");
    assert_eq!(bus.stream_state(DLQ).await.unwrap().messages, 1);
    let jetstream = async_nats::jetstream::new(nats.client().await);
    let info = jetstream.get_stream(SITE).await.unwrap().consumer_info("reaction").await.unwrap();
    assert_eq!((info.num_ack_pending, info.num_pending, info.ack_floor.stream_sequence), (0, 0, 4));
}

#[tokio::test]
async fn a_message_is_not_given_up_while_its_dead_letter_cannot_be_stored() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "b", &events(0..1), None).await.unwrap();
    let (again, done) = (AtomicBool::new(false), CancellationToken::new());
    let (bus_ref, done_ref) = (&bus, &done);
    let handler = async |_| {
        if again.swap(true, Ordering::SeqCst) {
            // It came again, so it was not given up; now there is a stream for dead letters.
            bus_ref.ensure_stream(&dead_letters()).await.unwrap();
            done_ref.cancel();
        }
        Outcome::Reject { reason: "no".into(), path: "$".into() }
    };
    let durable = bus.subscribe(options(1)).await.unwrap();
    within("parked", durable.run(done.clone(), handler)).await.unwrap();
    assert_eq!(bus.stream_state(DLQ).await.unwrap().messages, 1);
}

#[tokio::test]
async fn a_durable_loop_goes_on_where_it_was_over_a_killed_server() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "b", &events(0..50), None).await.unwrap();
    let (half, done) = (CancellationToken::new(), CancellationToken::new());
    let (last, first_half, all) = (Mutex::new(0), half.clone(), done.clone());
    let handler = move |message: bus::LogMessage| {
        let mut last = last.lock().unwrap();
        // An acknowledgement that the kill swallowed may bring a message again, but never skip one.
        assert!(message.seq() <= *last + 1, "{} behind {last}", message.seq());
        *last = message.seq().max(*last);
        if *last == 25 {
            first_half.cancel();
        }
        if *last == 100 {
            all.cancel();
        }
        std::future::ready(Outcome::Ack)
    };
    let durable = bus.subscribe(options(1)).await.unwrap();
    let running = tokio::spawn(durable.run(done, handler));
    within("half is handled", half.cancelled()).await;
    nats.kill().await;
    nats.start_again().await;
    let mut link = bus.link();
    within("up", link.wait_for(|state| matches!(state, bus::LinkState::Up { generation: 2.. })))
        .await
        .unwrap();
    bus.publisher().publish_batch(SITE, "c", &events(50..100), None).await.unwrap();
    within("all are handled", running).await.unwrap().unwrap();
}
