//! What the sequencer promises about epochs that are given up, and about syncs that take long.

use super::*;

#[test]
fn at_the_byte_cap_the_epoch_is_closed_and_a_full_window_follows() {
    let mut bench = Bench::new();
    bench.reopen(Rules { outbox_bytes_max: 20_000, ..rules() });
    let old = bench.seq().chain().epoch;
    let now = bench.now();
    bench.seq().set_preface(preface(&["k"]));
    bench.whole(vms(0..5));
    bench.whole(vms(0..100));
    let chain = *bench.seq().chain();
    assert!(chain.epoch != old && chain.window_due && bench.seq().known() == 100);
    assert_eq!(bench.seq().settled_digest(), None);
    bench.whole(vms(1..100));
    let parcels = bench.parcels();
    assert_eq!(
        hashes(&parcels)[0].0,
        Link { at: ChainPoint { epoch: chain.epoch, seq: 1 }, prev: Hash32::ZERO }
    );
    let closed = AgentEvent::decode("epoch_closed", &parcels[0].body).unwrap();
    let AgentEvent::EpochClosed(closed) = closed else { panic!("{closed:?}") };
    assert_eq!((closed.epoch, closed.dropped), (old, 5));
    let told = ["epoch_closed inv", "announced k", "started inv"];
    assert_eq!(bench.drain(), told, "nothing else until the window");
    bench.reopen(Rules { outbox_bytes_max: 20_000, ..rules() });
    bench.seq().open_sync("window-1", SyncScope::Full, 0, Vec::new(), now).unwrap();
    let told = bench.answer("window-1", vms(1..100));
    assert_eq!((told.len(), told[0].as_str()), (101, "sync_opened sync/window-1 for window-1"));
    assert!(bench.seq().settled_digest().is_some());
}

#[test]
fn r7_a_withdrawal_and_the_start_are_said_again_until_the_log_has_them() {
    let mut bench = Bench::new();
    bench.introduce(&["a", "b"]);
    assert_eq!(bench.drain(), ["announced a", "announced b", "started inv"]);
    bench.reopen(rules());
    bench.introduce(&["a"]);
    bench.close_epoch();
    bench.reopen(rules());
    bench.introduce(&["a"]);
    bench.close_epoch();
    let told = ["epoch_closed inv", "withdrawn b", "announced a", "started inv"];
    assert_eq!(bench.drain(), told, "the log took none of it before");
    bench.close_epoch();
    assert_eq!(bench.drain(), ["epoch_closed inv", "announced a", "started inv"]);
}

#[test]
fn r7_an_epoch_that_is_given_up_at_the_start_begins_with_the_keys_and_says_them_once() {
    let mut bench = Bench::new();
    bench.introduce(&["a"]);
    bench.drain();
    bench.reopen(rules());
    bench.seq().set_preface(preface(&["a", "b"]));
    bench.close_epoch();
    bench.introduce(&["a", "b"]);
    assert_eq!(bench.drain(), ["epoch_closed inv", "announced a", "announced b", "started inv"]);
    bench.reopen(rules());
    bench.introduce(&["a", "b"]);
    assert_eq!(bench.drain(), ["started inv"]);
}

#[test]
fn a_request_whose_answer_was_lost_does_not_give_up_the_epoch_that_it_began() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    bench.drain();
    let old = bench.seq().chain().epoch;
    let full = SyncReply::Accepted { scope: SyncScope::Full };
    assert_eq!(bench.request("r", SyncScope::Full, None, true), full);
    let new = bench.seq().chain().epoch;
    assert_eq!(bench.request("r", SyncScope::Full, None, true), full);
    assert!(new != old && bench.seq().chain().epoch == new);
    bench.answer("r", vms(0..3));
    assert_eq!(bench.request("r", SyncScope::Full, None, true), full);
    assert_eq!(bench.seq().chain().epoch, new);
}

#[test]
fn a_great_loss_in_a_full_sync_is_told_page_by_page_and_within_the_outbox() {
    let mut bench = Bench::new();
    bench.whole(vms(0..5000));
    bench.drain();
    bench.reopen(Rules { outbox_bytes_max: 4_000_000, ..rules() });
    bench.ask("full", SyncScope::Full, None);
    bench.scan(Scan::new(Scope::Everything, Some("full".into()), false), Vec::new());
    let mut told = Vec::new();
    while bench.seq().is_closing("full") {
        let now = bench.now();
        bench.seq().close_more(now).unwrap();
        assert!(bench.seq().waiting().bytes < 3_000_000, "a page beyond the share at most");
        if !bench.seq().close_more(now).unwrap() {
            told.extend(bench.drain());
        }
    }
    told.extend(bench.drain());
    assert_eq!((told.len(), told[5001].as_str()), (5002, "sync_closed sync/full for full"));
    let noticed: HashSet<&String> = told[1..5001].iter().collect();
    assert!(noticed.len() == 5000 && noticed.iter().all(|told| told.starts_with("noticed Vm/")));
}

#[test]
fn a_landing_of_an_old_epoch_changes_nothing() {
    let mut bench = Bench::new();
    bench.whole(vms(0..10));
    let old = bench.seq().ship().unwrap().unwrap();
    let now = bench.now();
    bench.seq().close_epoch("test", now).unwrap();
    bench.seq().landed(old.epoch, old.cut).unwrap();
    assert_eq!(bench.seq().waiting().events, 1);
    assert_eq!(bench.drain(), ["epoch_closed inv"]);
}

#[test]
fn a_full_sync_that_a_crash_cut_off_resumes_where_it_was_with_the_same_id() {
    let mut bench = Bench::new();
    bench.whole(vms(0..10));
    bench.drain();
    bench.ask("full", SyncScope::Full, None);
    let mut scan = Scan::new(Scope::Everything, Some("full".into()), false);
    let now = bench.now();
    bench.seq().absorb(&mut scan, vms(0..6), now).unwrap();
    bench.reopen(rules());
    assert_eq!(bench.drain().len(), 7);
    assert_eq!(bench.seq().syncs_under_way(), [("full".to_owned(), SyncScope::Full)]);
    bench.ask("full", SyncScope::Full, None);
    let told = bench.answer("full", vms(0..10));
    let rest: Vec<String> = (6..10).map(|n| format!("changed Vm/{n} for full")).collect();
    assert_eq!((&told[..4], told[4].as_str()), (&rest[..], "sync_closed sync/full for full"));
}

#[test]
fn a_since_that_the_journal_forgot_becomes_a_full_sync() {
    let mut bench = Bench::new();
    bench.reopen(Rules { journal_events_max: 10, ..rules() });
    bench.whole(vms(0..2));
    let old = bench.seq().chain().at();
    bench.whole(vms(0..1100));
    bench.whole(vms(0..2100));
    let recent = bench.seq().chain().at();
    let full = SyncReply::Accepted { scope: SyncScope::Full };
    assert_eq!(bench.ask("a", SyncScope::Incremental, Some(old)), full);
    assert_eq!(bench.ask("b", SyncScope::Incremental, None), full);
    let other = ChainPoint { epoch: bus_schema::Epoch(1), seq: recent.seq };
    assert_eq!(bench.ask("c", SyncScope::Incremental, Some(other)), full);
    let inc = SyncReply::Accepted { scope: SyncScope::Incremental };
    assert_eq!(bench.ask("d", SyncScope::Incremental, Some(recent)), inc);
    assert!(matches!(bench.ask("e", SyncScope::Full, None), SyncReply::Refused { .. }), "four are enough");
}
