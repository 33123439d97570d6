//! Retention against a real server: the beginning of a log goes behind a snapshot, and everything that was true of the whole
//! log is true from its floor on.

mod broken;

use std::{fs, path::Path, time::Duration};

use bus_schema::fact::log::{Checkpoint, LogFact, Trimmed};
use consumers::{
    runtime::{
        bounds::Bounds,
        replay::{Until, Unwatched},
        verify::FaultKind,
    },
    snapshot::Label,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    LOG,
    checkpoint::covered,
    dc1, quiet,
    source::ScriptedSource,
    source::Serving,
    synced,
    target::{Target, export},
};
use crate::support::{eventually, kept::KeptLog, nats::Nats};

const TARGET_LOG: &str = "FARSIDE_TGT_LOCAL";
/// An event is older than this when the snapshot behind it is kept.
const SHORT: &str = "1s";
const NEVER: &str = "1000d";

/// A service that signs, takes a snapshot every few events, and keeps what is younger than this.
fn keeping(keys: &TempDir, age: &str) -> Value {
    let mut config = quiet();
    config["checkpoint"] = json!({ "events": 10, "every": "1s" });
    config["signing_key"] = json!(keys.path().join("signing.nk"));
    config["snapshot"] = json!({ "events": 15, "every": "0s" });
    config["retention"] = json!({ "age": age });
    config
}

fn labels(target: &Target) -> Vec<Label> {
    target.handle.shelf().unwrap().labels().unwrap()
}

/// Changes, notices and a heartbeat, more than a snapshot is due after.
async fn live_through(source: &ScriptedSource, round: u64) {
    for n in 0..15 {
        source.change(&format!("Pod/{n}"), &format!("{round}-{n}")).await;
    }
    source.notice(&format!("Pod/announced-{round}"), "1").await;
    source.heartbeat().await;
}

/// Lives on until this is so.
async fn live_until<T>(
    target: &Target,
    source: &ScriptedSource,
    what: &str,
    mut found: impl AsyncFnMut() -> Option<T>,
) -> T {
    for round in 0..20 {
        if let Some(found) = found().await {
            return found;
        }
        live_through(source, round).await;
        covered(target).await;
        target.nothing_for(Duration::from_millis(500)).await;
    }
    panic!("waited in vain: {what}; {:?}", target.handle.waits())
}

async fn first_seq(target: &Target) -> u64 {
    target.bus.stream_state(LOG).await.unwrap().first_seq
}

/// Lives on until the log is trimmed; answers its first sequence.
async fn trimmed(target: &Target, source: &ScriptedSource) -> u64 {
    let first = async || Some(first_seq(target).await).filter(|first| *first > 1);
    live_until(target, source, "the log is trimmed", first).await
}

/// A log that was trimmed, and in a directory of its own a pool that stands where its beginning went since.
async fn trimmed_past_a_pool(nats: &Nats, keys: &TempDir) -> (Target, ScriptedSource, Serving, TempDir) {
    let (target, source, serving) = synced(nats, keeping(keys, NEVER)).await;
    covered(&target).await;
    let directory = target.stop().await;
    let behind = tempfile::tempdir().unwrap();
    fs::copy(directory.path().join("pool.redb"), behind.path().join("pool.redb")).unwrap();
    let target = Target::start_again(&nats.bus().await, keeping(keys, SHORT), directory).await;
    trimmed(&target, &source).await;
    (target, source, serving, behind)
}

/// The facts about trims and the checkpoints, each with its sequence in the target log.
async fn stated(target: &Target) -> (Vec<(u64, Trimmed)>, Vec<(u64, Checkpoint)>) {
    let last = target.bus.stream_state(TARGET_LOG).await.unwrap().last_seq;
    let (mut trims, mut checkpoints) = (vec![], vec![]);
    for seq in 1..=last {
        let message = target.bus.message(TARGET_LOG, seq).await.unwrap().unwrap();
        let event = message.subject().rsplit('.').next().unwrap().to_owned();
        match LogFact::decode(&event, message.body()) {
            Ok(LogFact::Trimmed(trimmed)) => trims.push((seq, trimmed)),
            Ok(LogFact::Checkpoint(checkpoint)) => checkpoints.push((seq, checkpoint)),
            _ => {}
        }
    }
    (trims, checkpoints)
}

/// What a verification of everything finds.
async fn faults(target: &Target) -> Vec<String> {
    let verified = target.handle.verify(Bounds::default(), &Unwatched).await.unwrap();
    assert!(verified.rows.is_some(), "the rows are proved: {verified:?}");
    verified.faults.into_iter().map(|fault| fault.text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_goes_and_what_is_left_proves_as_much_as_before() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    let three = async || (labels(&target).len() >= 3).then_some(());
    live_until(&target, &source, "three snapshots", three).await;
    let last = target.bus.stream_state(LOG).await.unwrap().last_seq;
    let streams = [(TARGET_LOG.into(), Until::Now), (LOG.into(), Until::Seq(last))];
    let whole = target.handle.replay(&streams, &Unwatched).await.unwrap();
    let whole = export(&whole.store.reader(), &dc1());
    let directory = target.stop().await;

    let target = Target::start_again(&nats.bus().await, keeping(&keys, SHORT), directory).await;
    let first =
        eventually("the log is trimmed", async || Some(first_seq(&target).await).filter(|first| *first > 1))
            .await;
    // Stated before it was done, and signed before it was done.
    let (trims, checkpoints) = stated(&target).await;
    let (at, fact) = trims.last().unwrap();
    assert_eq!((fact.stream.as_str(), fact.first_seq), (LOG, first));
    let mark = |checkpoint: &Checkpoint, stream: &str| {
        checkpoint.logs.iter().find(|mark| mark.stream == stream).map_or(0, |mark| mark.seq)
    };
    assert!(checkpoints.iter().any(|(_, checkpoint)| mark(checkpoint, TARGET_LOG) >= *at), "{checkpoints:?}");
    let signed = checkpoints.iter().find(|(_, checkpoint)| checkpoint.number == fact.checkpoint).unwrap();
    assert_eq!(mark(&signed.1, LOG), first, "the log begins where a checkpoint signs it");
    let floor = labels(&target).into_iter().find(|label| label.sha256 == fact.snapshot).unwrap();
    assert_eq!(floor.place(LOG).unwrap().seq, first);

    assert_eq!(faults(&target).await, [""; 0]);
    let scrubbed = target.handle.scrub(LOG).await.unwrap();
    assert_eq!((scrubbed.lost, scrubbed.gaps), (0, 0), "{scrubbed:?}");
    let mut exported = target.handle.export(Bounds::default()).await.unwrap();
    assert_eq!(exported.header.from, first + 1, "behind the first mark");
    while let Some(piece) = exported.pieces.recv().await {
        piece.unwrap();
    }
    let ask = async |until: Until| {
        target.handle.replay(&[(TARGET_LOG.into(), Until::Now), (LOG.into(), until)], &Unwatched).await
    };
    let shown = ask(Until::Seq(last)).await.unwrap();
    assert_eq!(export(&shown.store.reader(), &dc1()), whole, "a moment behind the floor is what it was");
    let error = ask(Until::Seq(first - 1)).await.err().unwrap().to_string();
    assert!(error.contains(&format!("not before {}", fact.not_before)), "{error}");
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Unwatched).await.unwrap();
    assert!(rebuilt.differences.is_empty() && rebuilt.begins_at.is_some(), "{rebuilt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_from_a_trimmed_log_beyond_its_floor_is_a_loss() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, SHORT)).await;
    trimmed(&target, &source).await;
    let directory = target.stop().await;
    let target = Target::start_again(&nats.bus().await, keeping(&keys, NEVER), directory).await;
    // A hand that takes three messages more than was stated.
    let first = first_seq(&target).await;
    let log = async_nats::jetstream::new(nats.client().await).get_stream(LOG).await.unwrap();
    log.purge().sequence(first + 3).await.unwrap();
    let scrubbed = target.handle.scrub(LOG).await.unwrap();
    assert_eq!(scrubbed.lost, 3, "{scrubbed:?}");
    let found = faults(&target).await;
    assert!(
        found.iter().any(|text| text.contains(&format!("{LOG}:{first}-{} is missing", first + 2))),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_that_a_consumer_or_a_mirror_has_not() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let mut config = keeping(&keys, SHORT);
    let mirror = json!({ "domain": "far", "stream": "COPY", "of": LOG });
    config["retention"]["mirrors"] = json!([mirror]);
    let (target, source, _serving) = synced(&nats, config.clone()).await;
    let waits = async |words: &str| {
        let told = async || {
            target.handle.waits().get(LOG).map(|wait| wait.why.clone()).filter(|why| why.contains(words))
        };
        live_until(&target, &source, words, told).await
    };
    // A mirror that nobody can ask.
    waits("COPY").await;
    assert_eq!(first_seq(&target).await, 1);
    let directory = target.stop().await;

    let log = async_nats::jetstream::new(nats.client().await).get_stream(LOG).await.unwrap();
    let durable = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("auditor".to_owned()),
        ack_policy: async_nats::jetstream::consumer::AckPolicy::Explicit,
        ..Default::default()
    };
    log.create_consumer(durable).await.unwrap();
    let target = Target::start_again(&nats.bus().await, keeping(&keys, SHORT), directory).await;
    let told = eventually("it waits for the consumer", async || {
        target.handle.waits().get(LOG).map(|wait| wait.why.clone()).filter(|why| why.contains("auditor"))
    })
    .await;
    assert!(told.contains("the consumer auditor needs it from 1 on"), "{told}");
    assert_eq!(first_seq(&target).await, 1);
    log.delete_consumer("auditor").await.unwrap();
    eventually("the log is trimmed", async || (first_seq(&target).await > 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_damaged_before_the_purge_stops_it_and_a_later_one_takes_its_place() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    let three = async || (labels(&target).len() >= 3).then_some(());
    live_until(&target, &source, "three snapshots", three).await;
    let directory = target.stop().await;
    // Stated and not signed: no checkpoint is due for long.
    let mut slow = keeping(&keys, SHORT);
    slow["checkpoint"] = json!({ "events": 1_000_000, "every": "1h" });
    let target = Target::start_again(&nats.bus().await, slow, directory).await;
    let fact = eventually("it is stated", async || stated(&target).await.0.pop()).await.1;
    eventually("it waits", async || {
        target.handle.waits().get(LOG).map(|wait| wait.why.clone()).filter(|why| why.contains("checkpoint"))
    })
    .await;
    let shelf = target.handle.shelf().unwrap().clone();
    let label = labels(&target).into_iter().find(|label| label.sha256 == fact.snapshot).unwrap();
    let mut bytes = fs::read(shelf.file(&label)).unwrap();
    bytes[1_000] ^= 1;
    fs::write(shelf.file(&label), bytes).unwrap();
    let directory = target.stop().await;

    let target = Target::start_again(&nats.bus().await, keeping(&keys, SHORT), directory).await;
    let first = trimmed(&target, &source).await;
    assert!(first > fact.first_seq, "{first} is not behind {}", fact.first_seq);
    assert_eq!(faults(&target).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_has_not_read_what_went_says_so_and_is_built_again_from_a_snapshot() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, _source, _serving, behind) = trimmed_past_a_pool(&nats, &keys).await;
    target.caught_up(LOG).await;
    let truth = target.export(&dc1());
    let directory = target.stop().await;

    // A standby that was off for too long, with the shelf of the one that acted.
    fs::rename(directory.path().join("snapshots"), behind.path().join("snapshots")).unwrap();
    let lagging = Target::standby_in(&nats.bus().await, keeping(&keys, NEVER), behind).await;
    let trouble = eventually("it says so", async || lagging.handle.troubles().get(LOG).cloned()).await;
    assert!(
        trouble.contains("was trimmed and begins with") && trouble.contains("rebuild --swap"),
        "{trouble}"
    );
    let rebuilt = lagging.handle.rebuild(&lagging.path("rebuilt.redb"), &Unwatched).await.unwrap();
    let store = projector::Store::open(&rebuilt.path, projector::StoreOptions::default()).unwrap();
    assert_eq!(export(&store.reader(), &dc1()), truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_several_sites_are_trimmed_and_one_snapshot_holds_what_went_from_all() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let mut config = keeping(&keys, SHORT);
    config["sites"] = json!(["local", "far"]);
    let (target, near, _serving) = synced(&nats, config.clone()).await;
    let far = ScriptedSource::started(&nats.bus().await, "/far/dc9/resource/inv").await;
    let _answering = far.serve().await;
    let first = async |stream: &str| target.bus.stream_state(stream).await.unwrap().first_seq;
    let both = async || (first(LOG).await > 1 && first("FARSIDE_FAR").await > 1).then_some(());
    live_until(&target, &near, "both logs are trimmed", async || {
        let done = both().await;
        if done.is_none() {
            live_through(&far, 0).await;
        }
        done
    })
    .await;
    assert_eq!(faults(&target).await, [""; 0]);
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Unwatched).await.unwrap();
    assert!(rebuilt.differences.is_empty(), "{rebuilt:?}");
    let pools = [dc1(), far.pool().clone()];
    let truth = pools.each_ref().map(|pool| target.export(pool));
    assert!(truth.iter().all(|rows| rows.lines().count() >= 15), "{truth:?}");
    let directory = target.stop().await;

    // All of it is lost but the snapshots.
    let anew = tempfile::tempdir().unwrap();
    fs::rename(directory.path().join("snapshots"), anew.path().join("snapshots")).unwrap();
    let empty = Target::standby_in(&nats.bus().await, config, anew).await;
    eventually("it does not begin in the middle", async || {
        empty.handle.troubles().get("FARSIDE_FAR").cloned()
    })
    .await;
    let rebuilt = empty.handle.rebuild(&empty.path("rebuilt.redb"), &Unwatched).await.unwrap();
    let store = projector::Store::open(&rebuilt.path, projector::StoreOptions::default()).unwrap();
    assert_eq!(pools.each_ref().map(|pool| export(&store.reader(), pool)), truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_went_is_no_gap_in_its_chain() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, SHORT)).await;
    source.change("Pod/0", "old").await;
    covered(&target).await;
    let last = target.bus.stream_state(LOG).await.unwrap().last_seq;
    let old = target.bus.message(LOG, last).await.unwrap().unwrap();
    let first = async || {
        // What an outbox sends again after it was away for longer than the log looks for duplicates.
        let (headers, body) = (old.headers(), old.body().clone());
        let headers = headers.into_iter().filter(|(name, _)| *name != "Nats-Msg-Id");
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let message_id = format!("again-{}", target.bus.stream_state(LOG).await.unwrap().last_seq);
        let copy = bus::Outgoing { subject: old.subject().to_owned(), headers, body, message_id };
        target.bus.publisher().publish(LOG, &copy, None).await.unwrap();
        Some(first_seq(&target).await).filter(|first| *first > last)
    };
    let floor = live_until(&target, &source, "the log is trimmed behind it", first).await;
    let behind = target.bus.message(LOG, floor + 1).await.unwrap().unwrap();
    let id = |message: &bus::LogMessage| {
        message.headers().into_iter().find(|(name, _)| *name == "ce-id").map(|(_, id)| id.to_owned())
    };
    assert_eq!(id(&behind), id(&old), "the first event behind the floor is a copy of one before it");
    let scrubbed = target.handle.scrub(LOG).await.unwrap();
    assert_eq!((scrubbed.lost, scrubbed.gaps), (0, 0), "{scrubbed:?}");
    assert_eq!(faults(&target).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_behind_a_snapshot_of_what_a_log_was_before_it_went_back() {
    let (mut nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    live_through(&source, 0).await;
    covered(&target).await;
    let kept = KeptLog::of(&mut nats, LOG).await;
    let went_back_to = eventually("the log", async || target.bus.stream_state(LOG).await.ok()).await.last_seq;
    let four = async || (labels(&target).len() >= 4).then_some(());
    live_until(&target, &source, "four snapshots", four).await;
    let newest = labels(&target).last().unwrap().place(LOG).unwrap().seq;
    let directory = target.stop().await;
    kept.put_back(&mut nats).await;

    // Other events at the sequences of those that the snapshots hold.
    let target = Target::start_again(&nats.bus().await, keeping(&keys, SHORT), directory).await;
    let anew = ScriptedSource::started(&nats.bus().await, "/local/dc7/resource/other").await;
    let _answering = anew.serve().await;
    let mut round = 0;
    while target.bus.stream_state(LOG).await.unwrap().last_seq < newest + 20 {
        live_through(&anew, round).await;
        round += 1;
    }
    target.nothing_for(Duration::from_secs(8)).await;
    target.caught_up(LOG).await;
    let truth = target.export(anew.pool());
    assert!(truth.lines().count() >= 15, "{truth}");
    let first = first_seq(&target).await;
    assert!(
        first <= went_back_to || faults_of_rows(&target).await.is_empty(),
        "{first} is behind {went_back_to}"
    );
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Unwatched).await.unwrap();
    let store = projector::Store::open(&rebuilt.path, projector::StoreOptions::default()).unwrap();
    assert_eq!(export(&store.reader(), anew.pool()), truth, "nothing of it went");
}

async fn faults_of_rows(target: &Target) -> Vec<String> {
    let verified = target.handle.verify(Bounds::default(), &Unwatched).await.unwrap();
    verified
        .faults
        .into_iter()
        .filter(|fault| fault.kind == FaultKind::Rows)
        .map(|fault| fault.text)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stated_and_not_purged_yet_is_compared_like_the_rest() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    let three = async || (labels(&target).len() >= 3).then_some(());
    live_until(&target, &source, "three snapshots", three).await;
    let directory = target.stop().await;
    let mut slow = keeping(&keys, SHORT);
    slow["checkpoint"] = json!({ "events": 1_000_000, "every": "1h" });
    let target = Target::start_again(&nats.bus().await, slow, directory).await;
    eventually("it is stated", async || stated(&target).await.0.pop()).await;
    target.caught_up(TARGET_LOG).await;
    let log = async_nats::jetstream::new(nats.client().await).get_stream(LOG).await.unwrap();
    log.purge().sequence(4).await.unwrap();
    let scrubbed = target.handle.scrub(LOG).await.unwrap();
    assert_eq!(scrubbed.lost, 3, "{scrubbed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_added_begins_with_its_log_beside_a_snapshot_that_does_not_know_it() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, SHORT)).await;
    trimmed(&target, &source).await;
    let had = labels(&target).last().unwrap().stated_at;
    let directory = target.stop().await;
    let mut config = keeping(&keys, SHORT);
    config["sites"] = json!(["local", "far"]);
    let target = Target::start_again(&nats.bus().await, config, directory).await;
    let far = ScriptedSource::started(&nats.bus().await, "/far/dc9/resource/inv").await;
    let _answering = far.serve().await;
    live_until(&target, &source, "a snapshot that holds both", async || {
        live_through(&far, 0).await;
        let newest = labels(&target).pop()?;
        (newest.stated_at > had && newest.place("FARSIDE_FAR").is_some()).then_some(())
    })
    .await;
    assert_eq!(faults(&target).await, [""; 0]);
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Unwatched).await.unwrap();
    assert!(rebuilt.differences.is_empty(), "{rebuilt:?}");
}
