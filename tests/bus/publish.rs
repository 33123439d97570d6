//! Publishing: what is acknowledged is stored once, in order, and only under its fence.

use bus::{BusError, PublishErrorKind};
use bus_schema::stream::StreamSpec;

use super::{event, events, fact, fence};
use crate::support::{nats::Nats, nats::name, nats::site_log, nats::target_log, refused, within};

const SITE: &str = "FARSIDE_LOCAL";
const TARGET: &str = "FARSIDE_TGT_LOCAL";

#[tokio::test]
async fn what_is_published_is_read_back_in_order_with_headers_and_time() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let publisher = bus.publisher();
    assert_eq!(publisher.publish(SITE, &event(1), None).await.unwrap().seq, 1);
    let batch = publisher.publish_batch(SITE, "b1", &events(2..1002), None).await.unwrap();
    assert_eq!((batch.first_seq, batch.last_seq), (2, 1001));
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    for number in 1..1002 {
        let message = within("a message", reader.next()).await.unwrap();
        let expected = event(number);
        assert_eq!((message.seq(), message.stream()), (number as u64, SITE));
        assert_eq!((message.subject(), message.body()), (&*expected.subject, &expected.body));
        assert!(message.headers().contains(&("ce-id", &*number.to_string())));
        assert!(message.stored_at().unix_ms() > 1_700_000_000_000);
        if number == 500 {
            let fetched = bus.message(SITE, 500).await.unwrap().unwrap();
            assert_eq!((fetched.hash(), fetched.stored_at()), (message.hash(), message.stored_at()));
        }
    }
    assert!(bus.message(SITE, 5_000).await.unwrap().is_none());
}

#[tokio::test]
async fn one_message_id_is_stored_once_plain_and_refuses_the_whole_batch() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let publisher = bus.publisher();
    publisher.publish(SITE, &event(1), None).await.unwrap();
    let again = publisher.publish(SITE, &event(1), None).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (1, true));
    let batch = events(0..5);
    let error = refused(publisher.publish_batch(SITE, "b1", &batch, None).await);
    assert_eq!(error.kind, PublishErrorKind::Duplicate, "{error}");
    assert_eq!(bus.stream_state(SITE).await.unwrap().messages, 1, "all or nothing");
    publisher.publish_batch(SITE, "b2", &events(10..15), None).await.unwrap();
    let error = refused(publisher.publish_batch(SITE, "b3", &events(10..15), None).await);
    assert_eq!(error.kind, PublishErrorKind::Duplicate, "{error}");
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_before_anything_is_sent() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let publisher = bus.publisher();
    let mut large = event(1);
    large.body = vec![b'x'; (1 << 20) + 1].into();
    let mut broken = event(1);
    broken.headers.push(("ce-subject".into(), "a\r\nb".into()));
    let elsewhere = bus::Outgoing { subject: "nobody.listens".into(), ..event(1) };
    let kinds = [
        (
            publisher.publish_batch(SITE, "b", &events(0..1001), None).await.map(|_| ()),
            PublishErrorKind::TooLarge,
        ),
        (
            publisher.publish_batch(SITE, &"b".repeat(65), &events(0..2), None).await.map(|_| ()),
            PublishErrorKind::Invalid,
        ),
        (publisher.publish(SITE, &large, None).await.map(|_| ()), PublishErrorKind::TooLarge),
        (publisher.publish(SITE, &broken, None).await.map(|_| ()), PublishErrorKind::Invalid),
        (publisher.publish("OTHER", &event(1), None).await.map(|_| ()), PublishErrorKind::NoStream),
        (publisher.publish(SITE, &elsewhere, None).await.map(|_| ()), PublishErrorKind::NoStream),
        (
            publisher.publish_batch(SITE, "b", &[elsewhere], None).await.map(|_| ()),
            PublishErrorKind::NoStream,
        ),
    ];
    for (result, kind) in kinds {
        let error = refused(result);
        assert_eq!(error.kind, kind, "{error}");
    }
    assert_eq!(bus.stream_state(SITE).await.unwrap().messages, 0);
}

/// Between its first message and its commit a batch asks for no answers; what was refused there is told all the same.
#[tokio::test]
async fn a_refusal_in_the_middle_of_a_batch_is_told_with_its_reason() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let context = async_nats::jetstream::new(nats.client().await);
    let mut config = context.get_stream(SITE).await.unwrap().cached_info().config.clone();
    config.max_message_size = 2_000;
    context.update_stream(config).await.unwrap();
    let mut large = events(0..10);
    large[4].body = vec![b'x'; 4_000].into();
    let mut astray = events(0..10);
    astray[4].subject = "nobody.listens".into();
    for (batch, kind) in [(large, PublishErrorKind::TooLarge), (astray, PublishErrorKind::NoStream)] {
        let error = refused(bus.publisher().publish_batch(SITE, "b", &batch, None).await);
        assert_eq!(error.kind, kind, "{error}");
    }
    assert_eq!(bus.stream_state(SITE).await.unwrap().messages, 0);
    bus.publisher().publish_batch(SITE, "b", &events(0..10), None).await.unwrap();
    assert_eq!(bus.stream_state(SITE).await.unwrap().messages, 10);
}

/// Only the first message of a batch names the stream; the others follow it or nothing is stored.
#[tokio::test]
async fn a_batch_of_which_a_part_belongs_to_another_stream_is_stored_in_neither() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.ensure_stream(&target_log()).await.unwrap();
    let publisher = bus.publisher();
    let whole = refused(publisher.publish_batch(SITE, "b", &[fact(1), fact(2), fact(3)], None).await);
    assert_eq!(whole.kind, PublishErrorKind::NoStream, "{whole}");
    let mixed: [&[_]; 3] =
        [&[event(1), event(2), fact(3)], &[event(1), fact(2), event(3)], &[fact(1), event(2), event(3)]];
    for batch in mixed {
        let error = refused(publisher.publish_batch(SITE, "b", batch, None).await);
        assert_eq!(error.kind, PublishErrorKind::Unknown, "{error}");
    }
    for stream in [SITE, TARGET] {
        assert_eq!(bus.stream_state(stream).await.unwrap().messages, 0, "{stream}");
    }
    publisher.publish_batch(SITE, "c", &[event(1), event(2), event(3)], None).await.unwrap();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    for named in [true, false, false] {
        let message = within("a message", reader.next()).await.unwrap();
        let names = message.headers().iter().any(|(name, _)| *name == "Nats-Expected-Stream");
        assert_eq!(names, named, "the log keeps every header of every event");
    }
}

#[tokio::test]
async fn a_stale_fence_refuses_a_message_and_a_batch() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&target_log()).await.unwrap();
    let publisher = bus.publisher();
    let lease = bus::Outgoing { subject: fence(0).subject, ..fact(0) };
    let first = publisher.publish(TARGET, &lease, Some(&fence(0))).await.unwrap().seq;
    publisher.publish(TARGET, &fact(1), Some(&fence(first))).await.unwrap();
    let facts = [fact(2), fact(3), fact(4)];
    publisher.publish_batch(TARGET, "b1", &facts, Some(&fence(first))).await.unwrap();

    let again = bus::Outgoing { message_id: "second".into(), ..lease };
    publisher.publish(TARGET, &again, Some(&fence(first))).await.unwrap();
    let stored = bus.stream_state(TARGET).await.unwrap().messages;
    let error = refused(publisher.publish(TARGET, &fact(5), Some(&fence(first))).await);
    assert_eq!(error.kind, PublishErrorKind::Fenced, "{error}");
    let error =
        refused(publisher.publish_batch(TARGET, "b2", &[fact(6), fact(7)], Some(&fence(first))).await);
    assert_eq!(error.kind, PublishErrorKind::Fenced, "{error}");
    assert_eq!(bus.stream_state(TARGET).await.unwrap().messages, stored);
}

#[tokio::test]
async fn a_batch_that_was_staged_under_a_lease_is_refused_when_the_lease_goes_before_its_commit() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&target_log()).await.unwrap();
    let publisher = bus.publisher();
    let lease = bus::Outgoing { subject: fence(0).subject, ..fact(0) };
    let first = publisher.publish(TARGET, &lease, None).await.unwrap().seq;

    // By hand, because the room stages and commits in one go.
    let client = nats.client().await;
    let staged = |sequence: usize, commit: bool| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Batch-Id", "by-hand");
        headers.insert("Nats-Batch-Sequence", sequence.to_string());
        if sequence == 1 {
            headers.insert("Nats-Expected-Last-Subject-Sequence", first.to_string());
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", fence(0).subject);
        }
        if commit {
            headers.insert("Nats-Batch-Commit", "1");
        }
        client.request_with_headers(fact(sequence).subject, headers, fact(sequence).body)
    };
    assert!(staged(1, false).await.unwrap().payload.is_empty(), "staged");
    let again = bus::Outgoing { message_id: "second".into(), ..lease };
    publisher.publish(TARGET, &again, None).await.unwrap();
    let answer = staged(2, true).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("10071"), "{answer:?}");
    assert_eq!(bus.stream_state(TARGET).await.unwrap().messages, 2);
}

#[tokio::test]
async fn a_full_log_refuses_new_events_and_keeps_the_old() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&StreamSpec { bytes_max: 64 << 10, ..site_log() }).await.unwrap();
    let publisher = bus.publisher();
    let mut large = event(1);
    large.body = vec![b'x'; 40 << 10].into();
    publisher.publish(SITE, &large, None).await.unwrap();
    large.message_id = "2".into();
    let error = refused(publisher.publish(SITE, &large, None).await);
    assert_eq!(error.kind, PublishErrorKind::Full, "{error}");
    let error = refused(publisher.publish_batch(SITE, "b", &[large], None).await);
    assert_eq!(error.kind, PublishErrorKind::Full, "{error}");
    let state = bus.stream_state(SITE).await.unwrap();
    assert_eq!((state.messages, state.bytes_max), (1, Some(64 << 10)));
}

#[tokio::test]
async fn a_stream_is_made_once_and_a_weaker_one_is_named_and_left_alone() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let made = bus.ensure_stream(&site_log()).await.unwrap();
    assert_eq!(bus.ensure_stream(&site_log()).await.unwrap(), made);
    let mut weaker = async_nats::jetstream::stream::Config {
        name: "FARSIDE_WEAK".into(),
        subjects: vec!["far.v1.weak.evt.>".into()],
        max_age: std::time::Duration::from_secs(3600),
        ..Default::default()
    };
    let jetstream = async_nats::jetstream::new(nats.client().await);
    jetstream.create_stream(weaker.clone()).await.unwrap();
    let spec = StreamSpec { bytes_max: 1 << 20, ..StreamSpec::site(&name("weak")) };
    let BusError::WeakerStream { differences, .. } = refused(bus.ensure_stream(&spec).await) else {
        panic!()
    };
    for named in ["discards old", "forgets after", "can be deleted", "no size limit", "atomic batches"] {
        assert!(differences.iter().any(|text| text.contains(named)), "{named}: {differences:?}");
    }
    let info = jetstream.get_stream("FARSIDE_WEAK").await.unwrap().get_info().await.unwrap();
    weaker.num_replicas = 1;
    assert_eq!((info.config.max_age, info.config.deny_delete), (weaker.max_age, false), "it is left alone");
}

#[tokio::test]
async fn a_size_limit_that_the_server_has_no_room_for_is_a_clear_error() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let spec = StreamSpec { bytes_max: 2 << 40, ..site_log() };
    let error = refused(bus.ensure_stream(&spec).await);
    assert!(matches!(error, BusError::NoRoom { .. }), "{error:?}");
    assert!(error.to_string().contains("log_bytes_max` under [service]"), "{error}");
}
