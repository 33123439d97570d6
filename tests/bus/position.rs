//! Positions: a log that does not hold any more what was read from it is found out at the next connect.

use std::fs;

use bus::{BusError, LinkState, Position, PositionVerdict};
use bus_schema::Hash32;

use super::events;
use crate::support::{nats::Nats, nats::site_log, refused, within};

const SITE: &str = "FARSIDE_LOCAL";

#[tokio::test]
async fn a_position_is_rewound_when_the_tail_was_damaged_and_its_sequences_were_used_again() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    let mut link = bus.link();
    let created = bus.ensure_stream(&site_log()).await.unwrap().created;
    bus.publisher().publish_batch(SITE, "b", &events(0..500), None).await.unwrap();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut last = None;
    while last.as_ref().is_none_or(|(seq, _)| *seq < 500) {
        let chunk = within("a chunk", reader.next_chunk(1000)).await.unwrap();
        last = chunk.last().map(|message| (message.seq(), message.hash()));
    }
    let (seq, hash) = last.unwrap();
    let position = Position { stream: SITE.into(), created, seq, hash };
    assert!(matches!(bus.check_position(&position).await.unwrap(), PositionVerdict::Same(_)));

    nats.kill().await;
    let block = nats.blocks(SITE).pop().unwrap();
    let bytes = fs::metadata(&block).unwrap().len();
    fs::OpenOptions::new().write(true).open(&block).unwrap().set_len(bytes / 2).unwrap();
    nats.start_again().await;
    within("up", link.wait_for(|state| *state == LinkState::Up { generation: 2 })).await.unwrap();
    let PositionVerdict::Rewound { reason, state } = bus.check_position(&position).await.unwrap() else {
        panic!()
    };
    assert!(reason.contains("last sequence") && state.last_seq < 500, "{reason}");

    bus.publisher().publish_batch(SITE, "c", &events(1000..1900), None).await.unwrap();
    let PositionVerdict::Rewound { reason, state } = bus.check_position(&position).await.unwrap() else {
        panic!()
    };
    assert!(reason.contains("another message") && state.last_seq > 500, "{reason}");
    let error = refused(within("the reader sees it too", reader.next_chunk(10)).await);
    assert!(matches!(error, BusError::LogChanged { .. }), "{error}");
}

#[tokio::test]
async fn a_position_is_the_same_over_a_restart_and_rewound_on_another_stream() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    let mut link = bus.link();
    let created = bus.ensure_stream(&site_log()).await.unwrap().created;
    bus.publisher().publish_batch(SITE, "b", &events(0..5), None).await.unwrap();
    let hash = bus.message(SITE, 5).await.unwrap().unwrap().hash();
    let position = Position { stream: SITE.into(), created, seq: 5, hash };
    nats.kill().await;
    nats.start_again().await;
    within("up", link.wait_for(|state| *state == LinkState::Up { generation: 2 })).await.unwrap();
    assert!(matches!(bus.check_position(&position).await.unwrap(), PositionVerdict::Same(_)));
    let nothing = Position { seq: 0, hash: Hash32::ZERO, ..position.clone() };
    assert!(matches!(bus.check_position(&nothing).await.unwrap(), PositionVerdict::Same(_)));

    async_nats::jetstream::new(nats.client().await).delete_stream(SITE).await.unwrap();
    assert!(matches!(refused(bus.check_position(&position).await), BusError::NoStream { .. }));
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "c", &events(0..5), None).await.unwrap();
    let PositionVerdict::Rewound { reason, .. } = bus.check_position(&position).await.unwrap() else {
        panic!()
    };
    assert!(reason.contains("made anew"), "{reason}");
}
