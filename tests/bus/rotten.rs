//! A block of JetStream that nats-server cannot read any more, and does not know that it cannot: it neither delivers
//! nor skips it. Readers get past it, and lose nothing else.

use std::ops::RangeInclusive;

use bus::{Bus, Outgoing, Position, PositionVerdict};

use super::event;
use crate::support::{
    nats::{Nats, site_log},
    within,
};

pub(super) const SITE: &str = "FARSIDE_LOCAL";
/// In all: three blocks of 8 MiB, of which the server compresses those before the last.
pub(super) const EVENTS: u64 = 700;
/// Of an event.
const BODY_BYTES: usize = 30_000;
/// In a batch.
const BATCH_EVENTS: u64 = 20;

fn large(number: u64) -> Outgoing {
    // Nothing that compresses to nothing.
    let text: String =
        (0..BODY_BYTES).map(|at| char::from(b'a' + ((number as usize * 31 + at * at) % 26) as u8)).collect();
    Outgoing { body: format!(r#"{{"number":{number},"text":"{text}"}}"#).into(), ..event(number as usize) }
}

/// A log, and where its second block may begin and end.
async fn filled() -> (Nats, RangeInclusive<u64>) {
    let nats = Nats::start().await;
    let block = fill(&nats).await;
    (nats, block)
}

/// Fills a log; answers where its second block may begin and end.
pub(super) async fn fill(nats: &Nats) -> RangeInclusive<u64> {
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    let mut begun = vec![];
    for first in (0..EVENTS).step_by(BATCH_EVENTS as usize) {
        let events: Vec<_> = (first..first + BATCH_EVENTS).map(large).collect();
        bus.publisher().publish_batch(SITE, &format!("b{first}"), &events, None).await.unwrap();
        let blocks = nats.blocks(SITE).len();
        begun.resize(blocks, first);
    }
    assert_eq!(begun.len(), 3, "{begun:?}");
    begun[1]..=begun[2] + BATCH_EVENTS
}

/// Ends the server, spoils a block in its middle, starts it again.
async fn rot(nats: &mut Nats, block: usize) {
    nats.stop().await;
    nats.flip(SITE, block);
    nats.start_again().await;
}

pub(super) async fn read(bus: &Bus, from: u64, filter: Option<&str>) -> Vec<u64> {
    let last_seq = bus.stream_state(SITE).await.unwrap().last_seq;
    let mut reader = bus.read_log(SITE, from, filter).await.unwrap();
    let mut found = vec![];
    while let Some(chunk) = within("a chunk", reader.next_stored(500, last_seq)).await.unwrap() {
        found.extend(chunk.iter().map(bus::LogMessage::seq));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_past_a_block_that_nats_cannot_read_and_loses_nothing_else() {
    let (mut nats, block) = filled().await;
    rot(&mut nats, 1).await;
    let bus = nats.bus().await;
    let state = bus.stream_state(SITE).await.unwrap();
    assert_eq!(state.messages, EVENTS, "the server does not know of it");
    let found = read(&bus, 1, None).await;
    let lost: Vec<_> = (1..=EVENTS).filter(|seq| !found.contains(seq)).collect();
    assert!(lost.len() > 200 && lost.iter().all(|seq| block.contains(seq)), "{lost:?} of {block:?}");
    assert_eq!(lost.last().unwrap() - lost[0] + 1, lost.len() as u64, "one stretch");
    assert!(found.is_sorted());
    // From within the block, and one entity's history only.
    let rest: Vec<_> = found.iter().copied().filter(|seq| *seq > lost[0]).collect();
    assert_eq!(read(&bus, lost[0] + 1, None).await, rest);
    let entity = "far.v1.local.evt.dc1.resource.r3.*";
    let history: Vec<_> = found.iter().copied().filter(|seq| (seq - 1) % 7 == 3).collect();
    assert_eq!(read(&bus, 1, Some(entity)).await, history);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_follows_the_log_gets_past_it_too_and_hears_what_comes_new() {
    let (mut nats, _) = filled().await;
    rot(&mut nats, 1).await;
    let bus = nats.bus().await;
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut last = 0;
    while last < EVENTS {
        last = within("a chunk", reader.next_chunk(500)).await.unwrap().last().unwrap().seq();
    }
    bus.publisher().publish(SITE, &large(EVENTS), None).await.unwrap();
    assert_eq!(within("the new one", reader.next()).await.unwrap().seq(), EVENTS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_a_block_that_nats_cannot_read_any_more_is_rewound() {
    let (mut nats, block) = filled().await;
    let bus = nats.bus().await;
    let seq = (block.start() + block.end()) / 2;
    let hash = bus.message(SITE, seq).await.unwrap().unwrap().hash();
    let created = bus.stream_state(SITE).await.unwrap().created;
    drop(bus);
    rot(&mut nats, 1).await;
    let bus = nats.bus().await;
    let position = Position { stream: SITE.into(), created, seq, hash };
    let verdict = within("the verdict", bus.check_position(&position)).await.unwrap();
    assert!(
        matches!(&verdict, PositionVerdict::Rewound { reason, .. } if reason.contains("is gone")),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn what_comes_behind_the_part_that_is_asked_for_is_given_out_next() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish_batch(SITE, "b", &super::events(0..100), None).await.unwrap();
    let mut reader = bus.read_log(SITE, 1, None).await.unwrap();
    let mut found = vec![];
    for last_seq in [0, 30, 30, 77] {
        while let Some(chunk) = within("a chunk", reader.next_stored(500, last_seq)).await.unwrap() {
            found.extend(chunk.iter().map(bus::LogMessage::seq));
        }
        assert_eq!(found.len() as u64, last_seq);
    }
    while found.len() < 100 {
        found
            .extend(within("the rest", reader.next_chunk(7)).await.unwrap().iter().map(bus::LogMessage::seq));
    }
    assert_eq!(found, Vec::from_iter(1..=100));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_ends_where_nats_has_no_more_of_it() {
    let (nats, _) = filled().await;
    let bus = nats.bus().await;
    let mut reader = bus.read_log(SITE, EVENTS - 9, None).await.unwrap();
    let mut count = 0;
    while let Some(chunk) = within("a chunk", reader.next_stored(500, EVENTS - 5)).await.unwrap() {
        count += chunk.len();
    }
    assert_eq!(count, 5);
    // A filter that nothing passes.
    let mut reader = bus.read_log(SITE, 1, Some("far.v1.local.evt.dc9.>")).await.unwrap();
    assert!(within("the end", reader.next_stored(500, EVENTS)).await.unwrap().is_none());
    // More than there is.
    let mut reader = bus.read_log(SITE, EVENTS, None).await.unwrap();
    assert_eq!(within("a chunk", reader.next_stored(500, u64::MAX)).await.unwrap().unwrap().len(), 1);
    assert!(within("the end", reader.next_stored(500, u64::MAX)).await.unwrap().is_none());
}

/// Who verifies up to a moment behind the block is not given what is before it only.
#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_found_over_a_block_that_nats_cannot_read() {
    let (mut nats, block) = filled().await;
    let bus = nats.bus().await;
    let at = async |seq| bus.message(SITE, seq).await.unwrap().unwrap().stored_at();
    let (behind, before) = (at(EVENTS - 1).await, at(block.start() - 1).await);
    rot(&mut nats, 1).await;
    let state = bus.stream_state(SITE).await.unwrap();
    let last = async |time| within("it", bus.last_stored(&state, |at| at <= time)).await.unwrap();
    assert!(last(behind).await >= EVENTS - 1, "not before the block");
    assert_eq!(within("it", bus.last_stored(&state, |_| true)).await.unwrap(), EVENTS);
    let found = last(before).await;
    assert!((block.start() - 1..=*block.end()).contains(&found), "{found} of {block:?}");
}
