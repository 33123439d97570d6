//! Who still needs the beginning of a log, and its end: the beginning goes, nothing else.

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
    stream,
};
use bus::{BusError, Holder, RemoteMirror};
use futures_util::StreamExt;

use super::event;
use crate::support::{
    eventually,
    nats::{Nats, site_log},
};

const SITE: &str = "FARSIDE_LOCAL";

/// A log with so many messages.
async fn log_of(nats: &Nats, count: u64) -> bus::Bus {
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    for number in 0..count {
        bus.publisher().publish(SITE, &event(number as usize), None).await.unwrap();
    }
    bus
}

async fn holders(bus: &bus::Bus, mirrors: &[RemoteMirror]) -> Vec<(String, u64)> {
    let state = bus.stream_state(SITE).await.unwrap();
    let holders = bus.holders(&state, mirrors).await.unwrap();
    let mut named: Vec<_> = holders.into_iter().map(|Holder { name, needs_seq }| (name, needs_seq)).collect();
    named.sort();
    named
}

#[tokio::test]
async fn a_consumer_holds_what_it_has_not_acknowledged_and_a_reader_what_it_has_not_read() {
    let nats = Nats::start().await;
    let bus = log_of(&nats, 20).await;
    assert_eq!(holders(&bus, &[]).await, []);
    let log = jetstream::new(nats.client().await).get_stream(SITE).await.unwrap();
    let durable = pull::Config {
        durable_name: Some("auditor".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = log.create_consumer(durable).await.unwrap();
    assert_eq!(holders(&bus, &[]).await, [("the consumer auditor".to_owned(), 1)]);
    let mut batch = consumer.fetch().max_messages(7).messages().await.unwrap();
    while let Some(message) = batch.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    assert_eq!(holders(&bus, &[]).await, [("the consumer auditor".to_owned(), 8)]);
    let mut batch = consumer.fetch().max_messages(20).messages().await.unwrap();
    while let Some(message) = batch.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    assert_eq!(holders(&bus, &[]).await, []);
    // A replay, a verification, an export: whoever reads by Farside's own reader.
    let mut reader = bus.read_log(SITE, 5, None).await.unwrap();
    let read = reader.next_chunk(1).await.unwrap();
    assert_eq!(read[0].seq(), 5);
    drop(reader);
    // One whose filter lets nothing more through has no place near the end, and needs nothing.
    let filtered = pull::Config {
        durable_name: Some("filtered".to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "far.v1.local.evt.dc9.>".to_owned(),
        ..pull::Config::default()
    };
    log.create_consumer(filtered).await.unwrap();
    eventually("nobody needs anything", async || holders(&bus, &[]).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_mirror_holds_what_it_has_not_and_one_that_cannot_be_asked_holds_all() {
    let nats = Nats::start_with("domain: far").await;
    let bus = log_of(&nats, 20).await;
    let api = jetstream::new(nats.client().await);
    let of = |name: &str| stream::Source { name: name.to_owned(), ..stream::Source::default() };
    let mirror = RemoteMirror { domain: "far".into(), stream: "COPY".into(), of: SITE.into() };
    let state = bus.stream_state(SITE).await.unwrap();
    let error = bus.holders(&state, std::slice::from_ref(&mirror)).await.unwrap_err();
    assert!(error.to_string().contains("COPY"), "{error}");
    let copy = stream::Config { name: "COPY".into(), mirror: Some(of(SITE)), ..stream::Config::default() };
    api.create_stream(copy).await.unwrap();
    eventually("the mirror has everything", async || {
        holders(&bus, std::slice::from_ref(&mirror)).await.is_empty().then_some(())
    })
    .await;
    let other = RemoteMirror { domain: "far".into(), stream: SITE.into(), of: SITE.into() };
    let error = bus.holders(&state, &[other]).await.unwrap_err();
    assert!(error.to_string().contains("no mirror of"), "{error}");
    let away = RemoteMirror { domain: "away".into(), ..mirror };
    assert!(bus.holders(&state, &[away]).await.is_err(), "nobody answers for that domain");
    let sourcing =
        stream::Config { name: "SUM".into(), sources: Some(vec![of(SITE)]), ..stream::Config::default() };
    api.create_stream(sourcing).await.unwrap();
    assert_eq!(holders(&bus, &[]).await, [("the stream SUM, which has it as a source".to_owned(), 0)]);
}

#[tokio::test]
async fn the_beginning_goes_and_nothing_else_also_when_the_server_is_killed() {
    let mut nats = Nats::start().await;
    let bus = log_of(&nats, 30).await;
    assert_eq!(bus.trim(SITE, 11).await.unwrap(), 10);
    assert_eq!(bus.trim(SITE, 11).await.unwrap(), 0, "it may be asked for again");
    for _ in 0..2 {
        nats.kill().await;
        nats.start_again().await;
        let state = eventually("the log", async || bus.stream_state(SITE).await.ok()).await;
        assert_eq!((state.first_seq, state.last_seq, state.messages), (11, 30, 20));
    }
    let error = bus.trim("NO_SUCH_LOG", 5).await.unwrap_err();
    assert!(matches!(error, BusError::NoStream { .. }), "{error}");
}
