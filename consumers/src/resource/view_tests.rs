//! What of a pool's record of an owner is a damage, and which one comes first.

use bus_schema::{Epoch, Hash32, chain::ChainPoint};
use projector::{Fork, Gap, HeartbeatSeen, HeldWindow, LastSync, Proof};

use super::*;
use crate::resource::recording;

const OWNER: &str = "/local/dc1/resource/inv";

fn ms(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn point(seq: u64) -> ChainPoint {
    ChainPoint { epoch: Epoch(7), seq }
}

fn owner() -> Owner {
    Owner { last_full: Some(ms(50)), ..recording::owner(&OWNER.parse().unwrap()) }
}

fn held(closed_at: i64) -> Option<HeldWindow> {
    Some(HeldWindow {
        sync_id: "s".to_owned(),
        low: point(1),
        opened_seq: 1,
        would_delete: 30,
        rows: 30,
        closed_seq: 9,
        closed_at: ms(closed_at),
    })
}

fn gap(stored_at: i64) -> Option<Gap> {
    Some(Gap { after: point(3), before: point(5), place: "L:5".to_owned(), stored_at: ms(stored_at) })
}

fn proof(equal: bool, stored_at: i64) -> Option<Proof> {
    Some(Proof { at: point(10), equal, stored_at: ms(stored_at) })
}

#[test]
fn a_held_window_waits_for_a_person_and_hides_no_newer_damage() {
    let held_only = Owner { held_window: held(100), proof: proof(false, 100), ..owner() };
    assert_eq!(damage(&held_only, None), Damage::Held);
    assert_eq!(damage(&Owner { gap: gap(99), ..held_only.clone() }, None), Damage::Held, "held since");
    assert_eq!(damage(&Owner { gap: gap(101), ..held_only.clone() }, None), Damage::Broken);
    assert_eq!(damage(&held_only, Some(ms(101))), Damage::Broken, "the log was rewound");
    let (applied, refused) = (Hash32::ZERO, Hash32::ZERO);
    let fork = Some(Fork { at: point(4), applied, refused, place: "L:4".to_owned() });
    assert_eq!(damage(&Owner { fork, ..held_only }, None), Damage::Forked);
}

#[test]
fn a_gap_of_which_the_full_answer_is_held_too_is_not_asked_for_in_a_circle() {
    let last_sync = owner().last_sync.map(|last| LastSync { closed_at: ms(120), ..last });
    let again = Owner { held_window: held(100), gap: gap(110), last_sync, ..owner() };
    assert_eq!(damage(&again, None), Damage::Held);
}

#[test]
fn a_held_window_is_settled_when_source_and_pool_are_equal_again() {
    let equal = |at| Owner { held_window: held(100), proof: proof(true, at), ..owner() };
    assert_eq!(damage(&equal(90), None), Damage::Held, "an old proof");
    assert_eq!(damage(&equal(101), None), Damage::Settled);
}

#[test]
fn an_owner_that_speaks_from_an_epoch_that_is_over_is_retired_until_a_sync_of_it_ends() {
    let beat = HeartbeatSeen {
        at: ChainPoint { epoch: Epoch(3), seq: 40 },
        digest: None,
        sent_at: ms(100),
        stored_at: ms(100),
        outbox_events: 0,
        trouble: None,
        trouble_since: None,
        equal: None,
        checkpoint: None,
    };
    let retired = vec![ChainPoint { epoch: Epoch(3), seq: 20 }];
    let past = Owner { last_heartbeat: Some(beat), retired, ..owner() };
    assert_eq!(damage(&past, None), Damage::Retired);
    let last_sync = owner().last_sync.map(|last| LastSync { closed_at: ms(101), ..last });
    assert_eq!(damage(&Owner { last_sync, ..past }, None), Damage::None);
}

#[test]
fn r7_the_key_of_another_source_is_not_this_sources_key() {
    let keys = [recording::key(&OWNER.parse().unwrap())];
    assert!(has_good_key(&keys, OWNER, ms(1)));
    assert!(!has_good_key(&keys, "/local/dc1/resource/other", ms(1)));
}

#[test]
fn r6_the_amount_is_that_of_the_cluster() {
    let told = |owner: Owner, changes| {
        let since_sync = projector::SinceSync { changes, ..projector::SinceSync::default() };
        Owner { since_sync, ..owner }
    };
    let plain = Owner { source: "urn:publisher".to_owned(), ..owner() };
    let amount = amount(&[told(owner(), 3), told(owner(), 4), told(plain, 5)]);
    assert_eq!((amount.agents.changes, amount.others.changes), (7, 5));
}

#[test]
fn r1_a_process_that_just_got_the_lease_remembers_the_last_first_request_however_long_ago() {
    let asked = Owner { last_first: Some(ms(5)), ..owner() };
    assert_eq!(recalled(&asked, &[], ms(1_000_000)).last_first, Some(ms(5)));
}
