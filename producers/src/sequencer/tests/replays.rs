//! What the sequencer promises of events that the log acknowledged and lost.

use std::collections::BTreeMap;

use bus_schema::{
    Epoch,
    command::agent::{REPLAY_EVENTS_MAX, Replay},
};
use redb::{Database, ReadableDatabase, TableDefinition};

use super::*;
use crate::sequencer::replay::NotKept;

impl Bench {
    fn replay(&mut self, epoch: Epoch, first_seq: u64, last_seq: u64) -> Result<Vec<Parcel>, NotKept> {
        let source = self.seq().source().clone();
        let asked = Replay { source, epoch, first_seq, last_seq, lease: 1, lease_log: None };
        let mut rest = Some(self.seq().kept(&asked).unwrap()?);
        let mut parcels = Vec::new();
        while let Some(run) = rest {
            let shipment = self.seq().ship_again(run, "r1").unwrap()?;
            assert!(shipment.epoch == epoch && !shipment.sent_before);
            assert_eq!(shipment.cut.first, first_seq + parcels.len() as u64, "in order, without a gap");
            assert_eq!(shipment.cut.batch, shipment.parcels.len() >= 5);
            parcels.extend(shipment.parcels);
            rest = run.behind(shipment.cut.last);
        }
        Ok(parcels)
    }

    fn refused(&mut self, epoch: Epoch, first: u64, last: u64, words: &[&str]) -> bool {
        let NotKept { reason, gone } = self.replay(epoch, first, last).unwrap_err();
        words.iter().for_each(|word| assert!(reason.contains(word), "{word}: {reason}"));
        gone
    }

    /// The accounts, against what is there.
    fn audit(&mut self) {
        let (chain, waiting) = (*self.seq().chain(), self.seq().waiting());
        let reading = self.seq().ledger.reading().unwrap();
        let (kept, left) = (0..=chain.acked_row(), chain.acked_row() + 1..=u64::MAX);
        assert_eq!(reading.sum("dc1", kept).unwrap().bytes, chain.kept_bytes);
        assert_eq!(reading.sum("dc1", left).unwrap(), waiting);
        assert_eq!(waiting.events, chain.last_seq - chain.acked_seq);
        assert!(chain.kept_bytes <= self.seq().rules.journal_bytes_max);
    }
}

/// The copies of these events, but for their message ids.
fn copies(events: &[Parcel]) -> Vec<Parcel> {
    let copy = |parcel: &Parcel| {
        let mut copy = parcel.clone();
        copy.head.message_id.push_str("/replay-r1");
        copy
    };
    events.iter().map(copy).collect()
}

#[test]
fn what_the_log_acknowledged_is_kept_to_the_letter_and_sent_again_under_other_message_ids() {
    let mut bench = Bench::new();
    bench.whole(vms(0..2_500));
    let events = bench.parcels();
    bench.drain();
    let (chain, waiting) = (*bench.seq().chain(), bench.seq().waiting());
    assert_eq!(waiting, Waiting::default());
    let epoch = chain.epoch;
    assert_eq!(bench.replay(epoch, 1, 2_500).unwrap(), copies(&events));
    assert_eq!(bench.replay(epoch, 3, 5).unwrap(), copies(&events[2..5]));
    bench.reopen(rules());
    assert_eq!(bench.replay(epoch, 2_500, 2_500).unwrap(), copies(&events[2_499..]));
    assert!(*bench.seq().chain() == chain && bench.drain().is_empty(), "a replay changes nothing");
    assert_eq!(bench.seq().waiting(), waiting);
}

#[test]
fn what_waits_is_not_sent_again_but_by_the_outbox() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    bench.drain();
    bench.whole(vms(0..10));
    let epoch = bench.seq().chain().epoch;
    assert_eq!(bench.replay(epoch, 1, 3).unwrap().len(), 3, "an outbox that is not empty is no reason");
    assert!(!bench.refused(epoch, 1, 4, &["up to 3 only", "by itself"]), "it can be asked for later");
    assert!(bench.refused(epoch, 1, 11, &["behind 3", "restored"]), "there never was an event 11");
    let range = "ask for 1 to 10000";
    for (first, last) in [(0, 1), (2, 1), (1, REPLAY_EVENTS_MAX + 1), (5, u64::MAX)] {
        assert!(!bench.refused(epoch, first, last, &[range]));
    }
}

#[test]
fn events_of_an_epoch_that_is_over_are_kept_as_far_as_the_log_acknowledged_them() {
    let mut bench = Bench::new();
    let old = bench.seq().chain().epoch;
    bench.whole(vms(0..4));
    let events = bench.parcels();
    bench.drain();
    bench.whole(vms(0..7));
    bench.close_epoch();
    let new = bench.seq().chain().epoch;
    assert!(bench.refused(new, 1, 2, &["no log has acknowledged"]));
    bench.drain();
    bench.audit();
    bench.reopen(rules());
    bench.audit();
    assert_eq!(bench.replay(old, 1, 4).unwrap(), copies(&events));
    assert_eq!(bench.replay(new, 1, 1).unwrap().len(), 1);
    assert!(bench.refused(old, 4, 5, &["behind 4", "gave the rest up"]), "5 to 7 were dropped");
    assert!(bench.refused(Epoch(7), 1, 1, &["nothing of epoch", "begins with event 1"]));
}

#[test]
fn beyond_the_limit_the_oldest_go_first_and_a_refusal_says_from_where_on_there_are_events() {
    let mut bench = Bench::new();
    bench.reopen(Rules { journal_bytes_max: 40_000, ..rules() });
    let old = bench.seq().chain().epoch;
    bench.whole(vms(0..10));
    bench.drain();
    bench.close_epoch();
    bench.drain();
    let epoch = bench.seq().chain().epoch;
    assert_eq!(bench.replay(old, 1, 10).unwrap().len(), 10);
    bench.ask("w", SyncScope::Full, None);
    bench.answer("w", vms(0..100));
    bench.audit();
    let last = bench.seq().chain().last_seq;
    let reading = bench.seq().ledger.reading().unwrap();
    let oldest = bench.seq().oldest_kept(&reading).unwrap().unwrap();
    assert!(oldest.epoch == epoch && oldest.seq > 20 && reading.pasts("dc1").unwrap().is_empty());
    let begins = format!("begins with event {} of epoch {epoch}", oldest.seq);
    assert!(bench.refused(old, 1, 10, &["nothing of epoch", &begins, "journal_bytes_max = 40000"]));
    assert!(bench.refused(epoch, oldest.seq - 1, last, &["not keep all", &begins]));
    assert_eq!(bench.replay(epoch, oldest.seq, last).unwrap().len() as u64, last + 1 - oldest.seq);
}

#[test]
fn a_limit_of_nothing_keeps_nothing_and_a_lowered_one_holds_from_the_start_on() {
    let mut bench = Bench::new();
    bench.whole(vms(0..100));
    bench.drain();
    let epoch = bench.seq().chain().epoch;
    bench.reopen(Rules { journal_bytes_max: 20_000, ..rules() });
    bench.audit();
    assert_eq!(bench.replay(epoch, 100, 100).unwrap().len(), 1);
    bench.reopen(Rules { journal_bytes_max: 0, ..rules() });
    bench.audit();
    bench.whole(vms(0..110));
    bench.drain();
    bench.audit();
    assert!(bench.refused(epoch, 110, 110, &["keeps no events", "journal_bytes_max = 0"]));
    let since = ChainPoint { epoch, seq: 100 };
    let incremental = SyncReply::Accepted { scope: SyncScope::Incremental };
    assert_eq!(
        bench.ask("i", SyncScope::Incremental, Some(since)),
        incremental,
        "what changed is known all the same"
    );
}

#[test]
fn an_event_that_made_room_while_it_was_sent_again_is_refused_as_gone() {
    let mut bench = Bench::new();
    bench.reopen(Rules { journal_bytes_max: 20_000, ..rules() });
    bench.whole(vms(0..10));
    bench.drain();
    let (source, epoch) = (bench.seq().source().clone(), bench.seq().chain().epoch);
    let asked = Replay { source, epoch, first_seq: 1, last_seq: 10, lease: 1, lease_log: None };
    let run = bench.seq().kept(&asked).unwrap().unwrap();
    bench.whole(vms(0..60));
    bench.drain();
    let NotKept { reason, gone } = bench.seq().ship_again(run, "r1").unwrap().unwrap_err();
    assert!(gone && reason.contains("was just dropped"), "{reason}");
}

#[test]
fn the_accounts_hold_whatever_happens_and_whenever_the_process_ends() {
    let mut bench = Bench::new();
    let mut random = 7_u64;
    let mut limit = 64_000;
    for round in 0..300 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = random >> 33;
        match dice % 7 {
            0 | 1 => _ = bench.whole((0..dice % 40).map(|n| vm(&n.to_string(), round)).collect()),
            2 | 3 => {
                if let Some(shipment) = bench.seq().ship().unwrap() {
                    bench.seq().landed(shipment.epoch, shipment.cut).unwrap();
                }
            }
            // It was sent, and the process ended before the log's answer.
            4 => _ = bench.seq().ship().unwrap(),
            5 if dice.is_multiple_of(3) => bench.close_epoch(),
            5 => {
                _ = bench.seq().open_sync(
                    &format!("s{round}"),
                    SyncScope::Full,
                    0,
                    Vec::new(),
                    Timestamp::default(),
                )
            }
            _ => limit = [0, 9_000, 64_000, 1 << 30][(dice / 7 % 4) as usize],
        }
        bench.audit();
        bench.reopen(Rules { journal_bytes_max: limit, ..rules() });
        bench.audit();
    }
}

/// Makes of a ledger what the format before would have left behind: its outbox has what waits, its chains know
/// of nothing else.
fn as_format_1(path: &std::path::Path, events: &[Parcel], keep: impl Fn(u64) -> bool) {
    let db = Database::create(path).unwrap();
    let meta: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let chains: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("chains");
    let outbox: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("outbox");
    let mut chain: BTreeMap<String, Value> = {
        let row = db.begin_read().unwrap().open_table(chains).unwrap().get("dc1").unwrap().unwrap();
        serde_json::from_slice(row.value()).unwrap()
    };
    assert!(chain.remove("base").is_some() && chain.remove("kept_bytes").is_some());
    let txn = db.begin_write().unwrap();
    txn.open_table(meta).unwrap().insert("format", &1_u64.to_be_bytes()[..]).unwrap();
    txn.open_table(chains).unwrap().insert("dc1", &*serde_json::to_vec(&chain).unwrap()).unwrap();
    {
        let mut outbox = txn.open_table(outbox).unwrap();
        outbox.retain(|_, _| false).unwrap();
        for (event, seq) in events.iter().zip(1..).filter(|(_, seq)| keep(*seq)) {
            // Format 1: the head's length in four bytes, the head as JSON, the body.
            let head = serde_json::to_vec(&event.head).unwrap();
            let length = u32::try_from(head.len()).unwrap().to_be_bytes();
            outbox.insert(("dc1", seq), &*[&length[..], &head, &event.body].concat()).unwrap();
        }
    }
    txn.commit().unwrap();
}

#[test]
fn a_ledger_of_the_format_before_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.whole(vms(0..40));
    let events = bench.parcels();
    bench.drain();
    bench.whole(vms(0..60));
    let all = [events, bench.parcels()].concat();
    let under_way = bench.seq().ship().unwrap().unwrap();
    let (chain, waiting) = (*bench.seq().chain(), bench.seq().waiting());
    let path = bench.directory.path().join("ledger");
    bench.sequencer = None;
    as_format_1(&path, &all, |seq| seq > 40);
    for _ in 0..2 {
        // A process that ended as soon as it had opened the file.
        bench.reopen(rules());
    }
    assert_eq!(*bench.seq().chain(), Chain { kept_bytes: 0, ..chain });
    assert_eq!((bench.seq().waiting(), bench.parcels()), (waiting, all[40..].to_vec()));
    bench.audit();
    let again = bench.seq().ship().unwrap().unwrap();
    assert!(again.sent_before && again.cut == under_way.cut && again.parcels == under_way.parcels);
    assert!(bench.refused(chain.epoch, 40, 40, &["not keep all"]), "it was gone before");
    assert_eq!(bench.drain().len(), 20);
    bench.audit();
    assert_eq!(bench.replay(chain.epoch, 41, 60).unwrap(), copies(&all[40..]));
    let links: Vec<u64> = hashes(&all).iter().map(|(link, _)| link.at.seq).collect();
    assert_eq!(links, (1..=60).collect::<Vec<_>>());
}
