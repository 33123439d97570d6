//! A nats-server that lacks file handles for a while says of what it cannot open that it is not there: it is not
//! believed, and nothing is lost when it has them again.

use bus::{BusError, Position, PositionVerdict};

use super::rotten::{EVENTS, SITE, fill, read};
use crate::support::{eventually, handles::Handles, nats::Nats, refused, within};

/// A server that has just opened a log of three blocks, and has read none of them.
async fn opened() -> (Nats, Handles) {
    let (mut nats, handles) = Handles::start().await;
    fill(&nats).await;
    nats.stop().await;
    nats.start_again().await;
    (nats, handles)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_loses_nothing_while_the_server_lacks_file_handles() {
    let (nats, handles) = opened().await;
    let bus = nats.bus().await;
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    handles.take_away();
    assert!(bus.message(SITE, 1).await.unwrap().is_none(), "so it says");
    assert_eq!(bus.stream_state(SITE).await.unwrap().messages, EVENTS);
    let error = refused(within("the reader", reader.next_stored(500, EVENTS)).await);
    assert!(matches!(error, BusError::Unsure { .. }), "{error}");
    assert!(error.is_passing() && error.to_string().contains("LimitNOFILE"), "{error}");
    // Who only follows the log is told, too.
    let mut reader = bus.read_log(SITE, 2, None).await.unwrap();
    let error = refused(within("the follower", reader.next_chunk(500)).await);
    assert!(matches!(error, BusError::Unsure { .. }), "{error}");
    handles.give_back();
    eventually("it takes connections", async || async_nats::connect(nats.url()).await.ok()).await;
    assert_eq!(read(&bus, 1, None).await, Vec::from_iter(1..=EVENTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_not_rewound_while_the_server_lacks_file_handles() {
    let (nats, handles) = opened().await;
    let bus = nats.bus().await;
    let (seq, created) = (5, bus.stream_state(SITE).await.unwrap().created);
    let position = async || {
        let hash = bus.message(SITE, seq).await.unwrap().unwrap().hash();
        Position { stream: SITE.into(), created, seq, hash }
    };
    handles.take_away();
    let unknown = Position { stream: SITE.into(), created, seq, hash: bus_schema::Hash32::ZERO };
    let error = refused(within("the verdict", bus.check_position(&unknown)).await);
    assert!(matches!(error, BusError::Unsure { .. }), "{error}");
    handles.give_back();
    let verdict = bus.check_position(&position().await).await.unwrap();
    assert!(matches!(verdict, PositionVerdict::Same(_)), "{verdict:?}");
}

/// What was parked, signed, trimmed is looked for under its subject; who is told that there is none goes on without it.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_one_subject_is_not_told_that_there_is_no_more_while_the_server_lacks_file_handles() {
    let (nats, handles) = opened().await;
    let bus = nats.bus().await;
    handles.take_away();
    for (entity, from) in [("r3", 1), ("r3", 300), ("r4", 690)] {
        let filter = format!("far.v1.local.evt.dc1.resource.{entity}.*");
        let mut reader = bus.read_log(SITE, from, Some(&filter)).await.unwrap();
        let read = within("the reader", reader.next_stored(500, EVENTS)).await;
        let error = refused(read.map(|chunk| chunk.map(|chunk| chunk.len())));
        assert!(matches!(error, BusError::Unsure { .. }), "{error}");
    }
}
