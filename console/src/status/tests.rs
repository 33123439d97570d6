//! When a pool counts as true, and what is said when it does not.

use bus_schema::{
    Epoch, Hash32,
    chain::ChainPoint,
    digest::Digest,
    event::{agent::CheckpointSeen, resource::SyncScope},
    fact::{
        log::{Parked, Rewound, Scrubbed, Stretch},
        resource::{SyncCompleted, SyncFailed},
    },
};
use projector::{AgentState, Gap, HeartbeatSeen, HeldWindow, LastSync, Proof, SinceSync, SyncRecord};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
const AT: ChainPoint = ChainPoint { epoch: Epoch(1), seq: 7 };

fn ago(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(NOW.unix_ms() - ms)
}

fn owner() -> Owner {
    Owner {
        pool: "local/dc1".parse().unwrap(),
        source: "/local/dc1/resource/inv".to_owned(),
        agent: Some(AgentState {
            name: "inv".parse().unwrap(),
            stem: bus_schema::Stem::Resource,
            version: "0.1.0".to_owned(),
            heartbeat_ms: 10_000,
            started_at: ago(100_000),
            stopped_at: None,
        }),
        at: Some(AT),
        hash: Some(Hash32::ZERO),
        retired: vec![],
        digest: Digest { root: bus_schema::digest::Node(1), count: 3 },
        applied: 7,
        repeats: 0,
        refused: 0,
        unchained: 0,
        last_event_at: ago(5_000),
        last_heartbeat: None,
        proof: Some(Proof { at: AT, equal: true, stored_at: ago(5_000) }),
        gap: None,
        fork: None,
        windows: vec![],
        held_window: None,
        last_sync: Some(LastSync {
            sync_id: "s0".to_owned(),
            scope: SyncScope::Full,
            place: "FARSIDE_LOCAL:7".to_owned(),
            closed_at: ago(60_000),
            low: None,
            resources: 3,
            deleted: 0,
            bytes: 900,
            swept: 0,
            broken: None,
            equal: true,
        }),
        last_full: Some(ago(60_000)),
        last_first: None,
        since_sync: SinceSync::default(),
    }
}

fn read(owners: Vec<Owner>) -> PoolRead {
    let summary = PoolSummary {
        pool: "local/dc1".parse().unwrap(),
        resources: 3,
        deleted: 0,
        owners: owners.len() as u64,
        since_sync: SinceSync::default(),
        in_sync: true,
        last_event_at: ago(5_000),
        paused: false,
    };
    PoolRead { summary, owners, syncs: vec![], next_sync_at: None, doing: BTreeMap::new(), house: vec![] }
}

#[track_caller]
fn not_in_sync(owner: Owner, behind_ms: u64, words: &str) {
    let view = pool(&read(vec![owner]), NOW);
    assert_eq!((view.in_sync, view.behind_ms), (InSync::No, behind_ms), "{:?}", view.why);
    assert!(view.why.iter().any(|why| why.contains(words)), "{:?}", view.why);
}

#[test]
fn a_pool_is_in_sync_only_when_every_source_is_proved_and_alive() {
    let view = pool(&read(vec![owner()]), NOW);
    assert_eq!((view.in_sync, view.behind_ms, view.why.len()), (InSync::Yes, 0, 0));
    not_in_sync(Owner { last_full: None, ..owner() }, 0, "first sync");
    not_in_sync(Owner { proof: None, ..owner() }, 0, "not sent a digest");
    let differs = Some(Proof { at: AT, equal: false, stored_at: ago(2_000) });
    not_in_sync(Owner { proof: differs, ..owner() }, 2_000, "differ");
    not_in_sync(Owner { last_event_at: ago(31_000), ..owner() }, 31_000, "silent");
    let beat = HeartbeatSeen {
        at: AT,
        digest: None,
        sent_at: ago(3_000),
        stored_at: ago(3_000),
        outbox_events: 2,
        trouble: None,
        trouble_since: None,
        equal: None,
        checkpoint: None,
    };
    not_in_sync(Owner { last_heartbeat: Some(beat.clone()), ..owner() }, 0, "2 events of");
    let come = ChainPoint { seq: AT.seq + 2, ..AT };
    let owner_after = Owner { last_heartbeat: Some(beat), at: Some(come), ..owner() };
    assert_eq!(pool(&read(vec![owner_after]), NOW).in_sync, InSync::Yes, "they have come");
    let owed = SinceSync { outstanding: 2, oldest_outstanding: Some(ago(9_000)), ..SinceSync::default() };
    not_in_sync(Owner { since_sync: owed, ..owner() }, 9_000, "2 states that have not come");
    let gap = Gap { after: AT, before: AT, place: "FARSIDE_LOCAL:9".to_owned(), stored_at: ago(4_000) };
    not_in_sync(Owner { gap: Some(gap), ..owner() }, 4_000, "FARSIDE_LOCAL:9");
    assert_eq!(pool(&read(vec![]), NOW).in_sync, InSync::No);
}

#[test]
fn r7_a_source_without_a_key_is_named_with_what_to_do() {
    let waiting = Doing::Waiting("waits for an access key".to_owned());
    let doing = [(owner().source, waiting)].into();
    let view = pool(&PoolRead { doing, ..read(vec![owner()]) }, NOW);
    assert_eq!(view.why, ["/local/dc1/resource/inv waits for an access key"]);
    assert_eq!(view.in_sync, InSync::No);
    assert_eq!(view.owners[0].doing.as_deref(), Some("waits for an access key"));
}

fn beat(trouble: Option<&str>) -> HeartbeatSeen {
    HeartbeatSeen {
        at: AT,
        digest: None,
        sent_at: ago(5_000),
        stored_at: ago(5_000),
        outbox_events: 0,
        trouble: trouble.map(str::to_owned),
        trouble_since: trouble.map(|_| ago(65_000)),
        equal: Some(true),
        checkpoint: None,
    }
}

#[test]
fn an_agent_that_does_not_see_its_source_is_not_in_sync_however_equal_the_digests_are() {
    let blind = Owner { last_heartbeat: Some(beat(Some("the directory is gone"))), ..owner() };
    not_in_sync(blind.clone(), 65_000, "the directory is gone");
    let blind = read(vec![blind]);
    let alarms = pool_alarms(&blind, NOW);
    assert_eq!((alarms[0].kind, alarms[0].since), (AlarmKind::SourceTrouble, Some(ago(65_000))));
    assert_eq!(pool(&blind, NOW).owners[0].trouble_since, Some(ago(65_000)));
    let well = Owner { last_heartbeat: Some(beat(None)), ..owner() };
    assert_eq!(pool(&read(vec![well]), NOW).in_sync, InSync::Yes);
}

/// A sync that ended, or has not, some time ago.
fn sync(ended_ms_ago: i64, ended: Option<Result<(), &str>>) -> SyncRecord {
    let (pool, sync_id) = (owner().pool, format!("s{ended_ms_ago}"));
    let mut record = SyncRecord {
        sync_id: sync_id.clone(),
        owner: owner().source,
        requested: None,
        completed: None,
        failed: None,
    };
    match ended {
        Some(Err(reason)) => {
            let failed = SyncFailed {
                pool,
                owner: owner().source,
                sync_id,
                reason: reason.to_owned(),
                retry_at: None,
            };
            record.failed = Some((ago(ended_ms_ago), failed));
        }
        Some(Ok(())) => {
            let (owner, scope) = (owner().source, SyncScope::Full);
            let (resources, bytes, took_ms, equal) = (3, 100, 20, true);
            let completed = SyncCompleted { pool, owner, sync_id, scope, resources, bytes, took_ms, equal };
            record.completed = Some((ago(ended_ms_ago), completed));
        }
        None => {}
    }
    record
}

#[test]
fn a_source_whose_last_sync_failed_is_not_in_sync_since_the_first_failure_in_a_row() {
    let failed = |ms, reason| sync(ms, Some(Err(reason)));
    let with = |syncs| PoolRead { syncs, ..read(vec![owner()]) };
    let failing =
        with(vec![sync(0, None), failed(1_000, "no answer"), failed(9_000, "x"), sync(20_000, Some(Ok(())))]);
    let view = pool(&failing, NOW);
    assert_eq!((view.in_sync, view.behind_ms), (InSync::No, 9_000));
    assert!(view.why[0].contains("no answer"), "{:?}", view.why);
    assert_eq!(pool_alarms(&failing, NOW)[0].kind, AlarmKind::SyncFailed);
    let mended = with(vec![sync(500, Some(Ok(()))), failed(1_000, "no answer")]);
    assert_eq!((pool(&mended, NOW).in_sync, pool_alarms(&mended, NOW).len()), (InSync::Yes, 0));
}

#[test]
fn nothing_is_in_sync_while_the_house_is_hindered() {
    let text = "NATS cannot be reached".to_owned();
    let down = Hindrance { kind: AlarmKind::NatsDown, since: Some(ago(7_000)), text };
    let plain = Owner { agent: None, at: None, proof: None, ..owner() };
    for owner in [owner(), plain] {
        let view = pool(&PoolRead { house: vec![down.clone()], ..read(vec![owner]) }, NOW);
        assert_eq!((view.in_sync, view.behind_ms), (InSync::No, 7_000));
        assert_eq!(view.why[0], down.text);
    }
}

#[test]
fn dead_letters_are_an_alarm_for_a_day() {
    let parked = |ms| {
        let (stream, subject) = ("FARSIDE_LOCAL".to_owned(), "a.b".to_owned());
        let fact = LogFact::Parked(Parked {
            stream,
            seq: 9,
            subject,
            reason: "not JSON".to_owned(),
            path: "$".to_owned(),
            stored_at: None,
            at: None,
            copy_of: None,
        });
        LogFactRecord { place: "FARSIDE_TGT_LOCAL:3".to_owned(), stored_at: ago(ms), fact }
    };
    let alarm = dead_letter_alarm(&[parked(1_000), parked(5_000), parked(90_000_000)], NOW).unwrap();
    assert!(
        alarm.text.starts_with("2 messages") && alarm.text.contains("farside dlq list"),
        "{}",
        alarm.text
    );
    assert_eq!(alarm.since, Some(ago(5_000)));
    assert_eq!(dead_letter_alarm(&[parked(90_000_000)], NOW), None);
}

#[test]
fn originals_of_dead_letters_that_fill_their_room_are_an_alarm() {
    let held = |bytes| originals_alarms(&[("FARSIDE_LOCAL".to_owned(), bytes)].into());
    assert_eq!(held(ORIGINALS_BYTES_MAX / 2), []);
    let alarm = held(ORIGINALS_BYTES_MAX / 10 * 9).remove(0);
    assert!(
        alarm.text.contains("FARSIDE_LOCAL") && alarm.text.contains("farside dlq list"),
        "{}",
        alarm.text
    );
}

#[test]
fn a_publisher_without_digests_is_unproven_not_wrong() {
    let plain = Owner { agent: None, at: None, proof: None, last_event_at: ago(999_999), ..owner() };
    let view = pool(&read(vec![owner(), plain]), NOW);
    assert_eq!((view.in_sync, view.behind_ms), (InSync::Unproven, 0));
    assert!(view.why[0].contains("sends no digest"));
}

#[test]
fn alarms_say_what_to_do() {
    let held = HeldWindow {
        sync_id: "s1".to_owned(),
        low: AT,
        opened_seq: 1,
        would_delete: 90,
        rows: 100,
        closed_seq: 2,
        closed_at: ago(1_000),
    };
    let alarms = pool_alarms(&read(vec![Owner { held_window: Some(held), ..owner() }]), NOW);
    assert_eq!(alarms[0].kind, AlarmKind::HeldWindow);
    assert!(alarms[0].text.contains("--confirm-empty s1"), "{}", alarms[0].text);
    let full = LogView {
        stream: "FARSIDE_LOCAL".to_owned(),
        applied: 1,
        last: Some(1),
        behind_ms: Some(0),
        bytes: Some(1),
        full_percent: Some(80),
        first: Some(1),
        not_before: None,
        trimming: None,
    };
    assert_eq!(log_alarms(&[full], &[], &[])[0].kind, AlarmKind::LogFull);
}

#[test]
fn a_rewind_is_an_alarm_until_every_agent_of_the_site_was_proved_again() {
    let rewound = Rewound {
        stream: "FARSIDE_LOCAL".to_owned(),
        applied_seq: 10,
        applied_hash: Hash32::ZERO,
        log_last_seq: 5,
        reason: "the log ends before it".to_owned(),
    };
    let facts = |at| {
        let fact = LogFact::Rewound(rewound.clone());
        [LogFactRecord { place: "FARSIDE_TGT_LOCAL:3".to_owned(), stored_at: at, fact }]
    };
    let pools = [read(vec![owner()])];
    assert_eq!(log_alarms(&[], &facts(ago(4_000)), &pools)[0].kind, AlarmKind::Rewound);
    assert!(log_alarms(&[], &facts(ago(6_000)), &pools).is_empty(), "proved five seconds ago");
}

#[test]
fn what_the_pool_never_read_is_an_alarm_until_a_scrub_finds_nothing_of_it() {
    let scrubbed = |unread, unread_at| {
        let fact = LogFact::Scrubbed(Scrubbed {
            stream: "FARSIDE_LOCAL".to_owned(),
            first_seq: 1,
            last_seq: 9,
            messages: 9,
            gaps: 0,
            lost: 0,
            unread,
            unread_at,
            took_ms: 1,
        });
        LogFactRecord { place: "FARSIDE_TGT_LOCAL:3".to_owned(), stored_at: ago(1_000), fact }
    };
    let alarms = unread_alarms(&[scrubbed(2, vec![Stretch { first_seq: 4, last_seq: 5 }])]);
    assert_eq!((alarms[0].kind, alarms[0].since), (AlarmKind::Unread, Some(ago(1_000))));
    let text = &alarms[0].text;
    assert!(text.contains("FARSIDE_LOCAL:4-5") && text.contains("farside rebuild --swap"), "{text}");
    assert_eq!(unread_alarms(&[scrubbed(0, vec![])]), []);
}

#[test]
fn a_log_that_cannot_be_scrubbed_is_an_alarm_that_says_why() {
    let unscrubbed = BTreeMap::from([("FARSIDE_LOCAL".to_owned(), "it flickers".to_owned())]);
    let alarms: Vec<_> = unscrubbed_alarms(&unscrubbed).collect();
    assert_eq!((alarms.len(), alarms[0].kind), (1, AlarmKind::Unscrubbed));
    assert!(alarms[0].text.contains("FARSIDE_LOCAL") && alarms[0].text.contains("it flickers"));
    assert_eq!(unscrubbed_alarms(&BTreeMap::new()).count(), 0);
}

#[test]
fn a_log_that_could_not_be_trimmed_for_a_day_is_an_alarm_that_says_since_when_and_why() {
    let waiting = |ms| {
        let wait = Wait { since: ago(ms), why: "the consumer auditor needs it".to_owned() };
        let trimming = BTreeMap::from([("FARSIDE_LOCAL".to_owned(), wait)]);
        untrimmed_alarms(&trimming, NOW).collect::<Vec<_>>()
    };
    let day_ms = 24 * 3_600_000;
    assert_eq!(waiting(day_ms - 1), []);
    let alarms = waiting(day_ms);
    assert_eq!((alarms[0].kind, alarms[0].since), (AlarmKind::Untrimmed, Some(ago(day_ms))));
    assert!(alarms[0].text.contains("FARSIDE_LOCAL") && alarms[0].text.contains("auditor"));
}

#[test]
fn an_agent_that_was_told_another_checkpoint_is_an_alarm_that_says_what_to_do() {
    let seen = CheckpointSeen { target: "local".parse().unwrap(), number: 7, hash: Hash32::ZERO };
    let told = |known, last| Contradiction {
        pool: owner().pool,
        owner: owner().source,
        seen: seen.clone(),
        known,
        last,
    };
    let rewritten = told(Some(Hash32::of(b"x")), 9);
    let alarms = signing_alarms(Some("the disk is full"), &[rewritten, told(None, 5)]);
    let text = |at: usize| alarms[at].text.as_str();
    assert!(
        text(0).contains("was told checkpoint 7") && text(0).contains("history was written anew"),
        "{}",
        text(0)
    );
    assert!(
        text(1).contains("the last one in the target log is 5") && text(1).contains("farside audit verify")
    );
    assert_eq!(
        alarms.iter().map(|alarm| alarm.kind).collect::<Vec<_>>(),
        [AlarmKind::HistoryChanged, AlarmKind::HistoryChanged, AlarmKind::Unsigned]
    );
    assert_eq!(signing_alarms(None, &[]), []);
}
