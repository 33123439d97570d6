//! What must not be lost when things break: the log, the link, the pool's equality with the source.

use std::time::Duration;

use bus_schema::{
    Stem,
    command::{
        agent::{HelloReply, HelloVerdict},
        resource::SyncReason,
    },
    event::resource::SyncScope,
    fact::log::LogFact,
    subject,
};
use serde_json::json;

use super::{
    LOG, OWNER, closed, dc1, equal, log_fact, quiet, source::ScriptedSource, synced, target::Target,
};
use crate::support::{eventually, kept::KeptLog, nats::Nats};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_differs_is_mended_by_the_differing_keys_only() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    for n in 0..300 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    equal(&target, &source).await;
    source.drift("Pod/7", Some("2")).await;
    source.drift("Pod/8", None).await;
    source.drift("Pod/new", Some("1")).await;
    source.heartbeat().await;
    let repair = serving.next_sync().await;
    assert_eq!((repair.reason, repair.scope), (SyncReason::Repair, SyncScope::Keys));
    assert_eq!((repair.keys.len(), repair.addresses.len()), (2, 1));
    closed(&target, &repair.sync_id).await;
    equal(&target, &source).await;
    assert_eq!(target.row(&dc1(), "Pod/new").unwrap().revision, Some("1".parse().unwrap()));
    assert!(target.row(&dc1(), "Pod/8").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_of_two_agents_is_told_and_makes_no_endless_repairs() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    // The scripted agents' message ids bear the epoch only, so each has its own.
    let other = ScriptedSource::new(&target.bus, "/local/dc1/resource/other", 9);
    let mut other_serving = other.serve().await;
    other.start().await;
    other.announce_key().await;
    other_serving.next_sync().await;
    source.change("Pod/shared", "1").await;
    other.change("Pod/shared", "2").await;
    target.caught_up(LOG).await;
    // What its heartbeats say is that the pool lacks the resource, again and again.
    let told = eventually("people are told", async || {
        source.heartbeat().await;
        let owners = target.handle.owners();
        owners.into_iter().find(|shown| shown.owner.to_string() == OWNER)?.trouble
    });
    let told = told.await;
    assert!(told.contains("Pod/shared (/local/dc1/resource/other)"), "{told}");
    source.heartbeat().await;
    other.heartbeat().await;
    target.nothing_for(Duration::from_secs(1)).await;
    assert_eq!((serving.syncs_so_far(), other_serving.syncs_so_far()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_the_projector_refuses_makes_no_endless_repairs() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    source.label("Pod/refused", &"x".repeat(2_000)).await;
    source.drift("Pod/refused", Some("1")).await;
    source.heartbeat().await;
    let scopes = [serving.next_sync().await.scope, serving.next_sync().await.scope];
    assert_eq!(scopes, [SyncScope::Keys, SyncScope::Full]);
    // The rests are 200 ms, 400 ms, 800 ms, and everything is not sent a second time.
    assert_eq!(serving.next_sync().await.scope, SyncScope::Keys);
    let told = eventually("people are told", async || target.handle.owners().pop()?.trouble).await;
    assert!(told.contains("still differs"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_goes_on_in_an_epoch_that_is_over_is_told_to_start_a_new_one() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    let newer = ScriptedSource::new(&target.bus, OWNER, 8);
    newer.start().await;
    newer.announce_key().await;
    target.caught_up(LOG).await;
    // A ledger from a backup: everything that it says is refused from now on.
    source.change("Pod/a", "1").await;
    source.heartbeat().await;
    let repair = serving.next_sync().await;
    assert!(repair.rebase && repair.reason == SyncReason::Repair, "{repair:?}");
    let told = eventually("people are told", async || target.handle.owners().pop()?.trouble).await;
    assert!(told.contains("epoch that is over"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pump_survives_kill_9_of_nats() {
    let mut nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    let before = target.owner(&dc1(), OWNER).unwrap().applied;
    for round in 0..3 {
        for n in 0..20 {
            source.change(&format!("Pod/{n}"), &format!("{round}-{n}")).await;
        }
        nats.kill().await;
        nats.start_again().await;
    }
    source.change("Pod/last", "1").await;
    equal(&target, &source).await;
    let owner = target.owner(&dc1(), OWNER).unwrap();
    assert_eq!(owner.applied, source.at().await.seq, "each event once");
    assert!(owner.applied >= before + 61);
}

/// Events that a log loses with its tail.
const LOST: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_tail_is_noticed_and_the_pool_is_equal_again() {
    let mut nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    source.change("Pod/early", "1").await;
    target.caught_up(LOG).await;
    let kept = KeptLog::of(&mut nats, LOG).await;
    for n in 0..20 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    kept.put_back(&mut nats).await;
    source.change("Pod/late", "1").await;
    let rewound = log_fact(&target, "the rewound log is stated", |fact| match fact {
        LogFact::Rewound(rewound) if rewound.stream == LOG => Some(rewound.clone()),
        _ => None,
    });
    let rewound = rewound.await;
    assert!(rewound.applied_seq > rewound.log_last_seq || rewound.reason.contains("another"), "{rewound:?}");
    let repair = loop {
        let sync = serving.next_sync().await;
        if sync.reason == SyncReason::Repair {
            break sync;
        }
    };
    assert_eq!(repair.scope, SyncScope::Full);
    closed(&target, &repair.sync_id).await;
    equal(&target, &source).await;
    assert_eq!(super::runtime::facts_named(&target, "parked").await, 0, "no false dead letter");
    let owner = target.owner(&dc1(), OWNER).unwrap();
    assert_eq!((owner.refused, owner.fork), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_is_stated_while_its_sequences_are_given_to_new_events_all_the_time() {
    let mut nats = Nats::start().await;
    let (target, _source, _serving) = synced(&nats, quiet()).await;
    let first_lost = target.bus.stream_state(LOG).await.unwrap().last_seq + 1;
    let kept = KeptLog::of(&mut nats, LOG).await;
    let client = nats.client().await;
    let event = async |n: u64| {
        let body = json!({ "kind": "Pod", "id": "busy", "revision": n.to_string(), "state": {} }).to_string();
        client.publish("far.v1.local.evt.dc1.resource.Pod=2Fbusy.changed", body.into()).await.unwrap();
        client.flush().await.unwrap();
    };
    for n in 0..LOST {
        event(n).await;
    }
    let last_lost = first_lost + LOST - 1;
    eventually("all are stored", async || {
        (target.bus.stream_state(LOG).await.ok()?.last_seq == last_lost).then_some(())
    })
    .await;
    target.caught_up(LOG).await;
    kept.put_back(&mut nats).await;
    let stated = log_fact(&target, "each lost sequence is stated", |fact| match fact {
        LogFact::LossFound(loss) if loss.last_seq == last_lost => Some(()),
        _ => None,
    });
    // A load so slow that it is not done with the lost sequences when the log was read four times.
    let go_on = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        for n in 0.. {
            pace.tick().await;
            event(n).await;
        }
    };
    tokio::select! { () = stated => {}, () = go_on => {} }
    let reached = target.bus.stream_state(LOG).await.unwrap().last_seq;
    assert!((first_lost..last_lost).contains(&reached), "{first_lost} {reached} {last_lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_a_chain_is_stated_and_mended_by_everything() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    source.change("Pod/a", "1").await;
    source.lose("Pod/lost", "1").await;
    source.change("Pod/b", "1").await;
    log_fact(&target, "the gap is stated", |fact| matches!(fact, LogFact::GapFound(_)).then_some(())).await;
    let repair = serving.next_sync().await;
    assert_eq!((repair.reason, repair.scope), (SyncReason::Repair, SyncScope::Full));
    closed(&target, &repair.sync_id).await;
    equal(&target, &source).await;
    assert!(target.row(&dc1(), "Pod/lost").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_published_once_with_its_reason() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    let client = nats.client().await;
    client.publish("far.v1.local.evt.dc1.resource.Pod=2Fx.changed", "{\"kind\":1}".into()).await.unwrap();
    client.flush().await.unwrap();
    let parked = log_fact(&target, "the dead letter is stated", |fact| match fact {
        LogFact::Parked(parked) => Some(parked.clone()),
        _ => None,
    });
    assert!(parked.await.path.contains("kind"));
    source.change("Pod/after", "1").await;
    equal(&target, &source).await;
    let (bus, directory) = (target.bus.clone(), target.stop().await);
    let target = Target::start_again(&bus, quiet(), directory).await;
    target.caught_up(LOG).await;
    let letters = bus.stream_state("FARSIDE_DLQ_LOCAL").await.unwrap();
    assert_eq!(letters.messages, 1);
    let letter = bus.message("FARSIDE_DLQ_LOCAL", letters.last_seq).await.unwrap().unwrap();
    let reason =
        letter.headers().into_iter().find(|(name, _)| *name == "Farside-Reason").map(|(_, value)| value);
    assert!(reason.unwrap().contains("resource.changed"), "{reason:?}");
    assert_eq!(super::runtime::facts_named(&target, "parked").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_from_an_old_backup_is_told_to_start_a_new_epoch() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    let subject = subject::command(&dc1(), Stem::Agent, "hello");
    let hello = async |seq: u64, hash: String| -> HelloReply {
        let at = json!({ "epoch": "0000000000000007", "seq": seq.to_string() });
        let hello = json!({ "source": OWNER, "at": at, "hash": hash });
        target.bus.request(&subject, &hello, Duration::from_secs(10)).await.unwrap()
    };
    let (at, hash) = (source.at().await, source.hash().await);
    assert_eq!(hello(at.seq, hash.to_string()).await.verdict, HelloVerdict::Continue);
    let reply = hello(at.seq - 1, bus_schema::Hash32::ZERO.to_string()).await;
    assert_eq!((reply.verdict, reply.last), (HelloVerdict::Rebase, Some((at, hash))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_goes_on_where_it_was_after_a_restart() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    source.change("Pod/a", "1").await;
    equal(&target, &source).await;
    let (bus, directory) = (target.bus.clone(), target.stop().await);
    source.change("Pod/b", "1").await;
    let target = Target::start_again(&bus, quiet(), directory).await;
    equal(&target, &source).await;
    let owner = target.owner(&dc1(), OWNER).unwrap();
    assert_eq!((owner.applied, owner.repeats), (source.at().await.seq, 0));
    drop::<ScriptedSource>(source);
}
