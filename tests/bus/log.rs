//! Reading: every message once and in order, whatever happens to the server and the connection.

use bus::{BusError, LinkState, Outgoing};

use super::{event, events};
use crate::support::{PATIENCE, log::Log, nats::Nats, nats::site_log, refused, within};

const SITE: &str = "FARSIDE_LOCAL";

#[tokio::test]
async fn a_reader_resumes_over_a_killed_server_without_loss_or_repeat() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let publisher = bus.publisher();
    let mut link = bus.link();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut next = 1;
    for round in 0..3_usize {
        let start = round * 1000;
        publisher
            .publish_batch(SITE, &format!("b{round}"), &events(start..start + 1000), None)
            .await
            .unwrap();
        // Half of them before the kill, the rest behind it.
        while next <= start as u64 + 500 {
            for message in within("a chunk", reader.next_chunk(100)).await.unwrap() {
                assert_eq!(message.seq(), next);
                next += 1;
            }
        }
        nats.kill().await;
        within("the loss is seen", link.wait_for(|state| matches!(state, LinkState::Down { .. })))
            .await
            .unwrap();
        nats.start_again().await;
        let generation = round as u64 + 2;
        within("the link is up", link.wait_for(|state| *state == LinkState::Up { generation }))
            .await
            .unwrap();
    }
    while next <= 3000 {
        for message in within("a chunk", reader.next_chunk(100)).await.unwrap() {
            assert_eq!(message.seq(), next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_reader_with_a_filter_gets_one_entitys_history_from_where_it_asks() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "b", &events(0..70), None).await.unwrap();
    let filter = "far.v1.local.evt.dc1.resource.r3.*";
    let mut reader = bus.read_log(SITE, 8, Some(filter)).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 9 {
        found.push(within("a message", reader.next()).await.unwrap().seq());
    }
    assert_eq!(found, [11, 18, 25, 32, 39, 46, 53, 60, 67]);
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let publisher = bus.publisher();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut next = 1;
    for round in 0..20 {
        // Cancelled at a different point each time: before, while and after the consumer is made.
        for _ in 0..round {
            tokio::select! {
                biased;
                chunk = reader.next_chunk(1) => { assert_eq!(chunk.unwrap()[0].seq(), next); next += 1; }
                () = tokio::task::yield_now() => {}
            }
        }
        publisher.publish(SITE, &event(round), None).await.unwrap();
    }
    while next <= 20 {
        assert_eq!(within("a message", reader.next()).await.unwrap().seq(), next);
        next += 1;
    }
}

#[tokio::test]
async fn a_stream_that_was_made_anew_is_an_error_and_not_a_pause() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "b", &events(0..10), None).await.unwrap();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut read = 0;
    while read < 10 {
        read += within("a chunk", reader.next_chunk(100)).await.unwrap().len();
    }
    let jetstream = async_nats::jetstream::new(nats.client().await);
    jetstream.delete_stream(SITE).await.unwrap();
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "c", &events(0..20), None).await.unwrap();
    let error = refused(within("the change is seen", reader.next_chunk(100)).await);
    assert!(matches!(error, BusError::LogChanged { .. }), "{error}");
    jetstream.delete_stream(SITE).await.unwrap();
    nats.kill().await;
    nats.start_again().await;
    let error = refused(within("the loss is seen", reader.next_chunk(100)).await);
    assert!(matches!(error, BusError::NoStream { .. }), "{error}");
}

#[tokio::test]
async fn a_message_that_breaks_the_client_library_does_not_stop_the_reader() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let publisher = bus.publisher();
    publisher.publish_batch(SITE, "b", &events(0..3), None).await.unwrap();
    publish_raw(&nats, b"NATS/1.0\r\nce-id: \xff\xfe\r\n\r\n", b"poison").await;
    publish_raw(&nats, b"NATS/1.0\r\nno colon\r\n\r\n", b"poison").await;
    publish_raw(&nats, b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b"looks like a remark").await;
    let error = publisher.publish_batch(SITE, "c", &events(3..6), None).await;
    error.unwrap();
    let log = Log::listen();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut bodies = Vec::new();
    while bodies.len() < 9 {
        for message in within("a chunk", reader.next_chunk(100)).await.unwrap() {
            assert_eq!(message.seq(), bodies.len() as u64 + 1);
            bodies.push(String::from_utf8_lossy(message.body()).into_owned());
        }
    }
    assert_eq!(bodies[3..6], ["poison", "poison", "looks like a remark"]);
    let told = log.lines(&["WARN"]).join("\n");
    assert!(told.contains("no message came") && told.contains("seq=4 silent="), "{told}");
    assert!(!told.contains("breaks"), "a suspicion is no finding: {told}");

    let link = *bus.link().borrow();
    let mut another = bus.read_log(SITE, 1, None).await.unwrap();
    let mut read = 0;
    while let Some(messages) = another.next_stored(100, 9).await.unwrap() {
        read += messages.len();
    }
    assert_eq!((read, *bus.link().borrow()), (9, link), "the next one to read does not break the connection");
}

/// Publishes a header block that no client library would send.
async fn publish_raw(nats: &Nats, headers: &[u8], body: &[u8]) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = nats.url().replace("nats://", "");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut text = b"CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_vec();
    let (headers_len, len) = (headers.len(), headers.len() + body.len());
    text.extend(format!("HPUB far.v1.local.evt.dc1.resource.x.changed {headers_len} {len}\r\n").bytes());
    text.extend([headers, body, b"\r\nPING\r\n"].concat());
    socket.write_all(&text).await.unwrap();
    let mut answer = String::new();
    while !answer.contains("PONG") {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "the server closed: {answer}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[tokio::test]
async fn a_moment_is_found_over_a_hole_of_any_length() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let gone =
        |number| Outgoing { subject: "far.v1.local.evt.dc1.resource.gone.changed".into(), ..event(number) };
    for (batch, numbers) in [0..100, 100..1_100, 1_100..2_100, 2_100..2_200].into_iter().enumerate() {
        let is_gone = (100..2_100).contains(&numbers.start);
        let events: Vec<_> =
            numbers.map(|number| if is_gone { gone(number) } else { event(number) }).collect();
        bus.publisher().publish_batch(SITE, &format!("b{batch}"), &events, None).await.unwrap();
    }
    let before = bus.message(SITE, 100).await.unwrap().unwrap().stored_at();
    let log = async_nats::jetstream::new(nats.client().await).get_stream(SITE).await.unwrap();
    log.purge().filter(gone(0).subject).await.unwrap();
    let state = bus.stream_state(SITE).await.unwrap();
    assert_eq!((state.messages, state.last_seq), (200, 2_200));
    assert_eq!(bus.last_stored(&state, |stored_at| stored_at <= before).await.unwrap(), 100);
    assert_eq!(bus.last_stored(&state, |_| true).await.unwrap(), 2_200);
    assert_eq!(bus.last_stored(&state, |_| false).await.unwrap(), 0);
}
