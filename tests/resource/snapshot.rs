//! Snapshots against a real server: taken at checkpoints, held against them, and replayed from as if from the start.

use std::{fs, time::Duration};

use bus_schema::Timestamp;
use consumers::{
    runtime::replay::{Replayed, Until, Unwatched, replay},
    snapshot::Label,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    LOG,
    checkpoint::{covered, flip_state_of},
    dc1, quiet,
    source::ScriptedSource,
    synced,
    target::{Target, export},
};
use crate::support::{
    eventually,
    nats::{Nats, name},
};

const TARGET_LOG: &str = "FARSIDE_TGT_LOCAL";

/// A service that signs and takes a snapshot every few events.
fn keeping(keys: &TempDir) -> Value {
    let mut config = quiet();
    config["checkpoint"] = json!({ "events": 10, "every": "1s" });
    config["signing_key"] = json!(keys.path().join("signing.nk"));
    config["snapshot"] = json!({ "events": 15, "every": "0s" });
    config
}

fn labels(target: &Target) -> Vec<Label> {
    target.handle.shelf().unwrap().labels().unwrap()
}

/// The place of a snapshot in the site log.
fn seq_of(label: &Label) -> u64 {
    label.place(LOG).unwrap().seq
}

/// Changes, deletions, labels and notices, as many as a snapshot is due after.
async fn live_through(source: &ScriptedSource, round: u64) {
    for n in 0..12 {
        source.change(&format!("Pod/{n}"), &format!("{round}-{n}")).await;
    }
    source.lose(&format!("Pod/{}", round % 12), &format!("{round}-lost")).await;
    source.label(&format!("Pod/{}", (round + 1) % 12), &format!("l{round}")).await;
    source.notice(&format!("Pod/announced-{round}"), "1").await;
    source.heartbeat().await;
}

/// Lives on until there are so many snapshots.
async fn with_snapshots(target: &Target, source: &ScriptedSource, count: usize) {
    for round in 0.. {
        if labels(target).len() >= count {
            return;
        }
        live_through(source, round).await;
        let had = labels(target).len();
        eventually("another snapshot is kept", async || (labels(target).len() > had).then_some(())).await;
    }
}

/// The logs up to a moment of the site log, as `--at` reads them: with snapshots, and from the start.
async fn both(target: &Target, until: Until, time: Timestamp) -> (Replayed, Replayed) {
    let streams = [(TARGET_LOG.to_owned(), Until::Time(time)), (LOG.to_owned(), until)];
    let near = target.handle.replay(&streams, &Unwatched).await.unwrap();
    let whole = replay(&target.bus, &name("local"), None, &streams, None, &Unwatched).await.unwrap();
    assert!(whole.started_from.is_none());
    (near, whole)
}

fn assert_equal((near, whole): &(Replayed, Replayed), what: &str) {
    let exported = |replayed: &Replayed| export(&replayed.store.reader(), &dc1());
    assert_eq!(exported(near), exported(whole), "{what}");
    assert_eq!(near.store.positions().unwrap(), whole.store.positions().unwrap(), "{what}");
    let stand =
        |replayed: &Replayed| replayed.store.reader().stand(|owners| vec![true; owners.len()]).unwrap();
    assert_eq!(stand(near), stand(whole), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_from_a_snapshot_is_one_from_the_start_at_every_point() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys)).await;
    with_snapshots(&target, &source, 3).await;
    live_through(&source, 100).await;
    let last = target.bus.stream_state(LOG).await.unwrap().last_seq;
    let labels = labels(&target);
    assert!(labels.iter().all(|label| label.owners == 1 && seq_of(label) > 0), "{labels:?}");
    let points =
        (1..=last).step_by(5).chain(labels.iter().flat_map(|label| [seq_of(label), seq_of(label) + 1]));
    let mut from_snapshots = 0;
    for seq in points.chain([last]).filter(|seq| *seq <= last) {
        let time = target.bus.message(LOG, seq).await.unwrap().unwrap().stored_at();
        for until in [Until::Seq(seq), Until::Time(time)] {
            let both = both(&target, until, time).await;
            assert_equal(&both, &format!("{until:?}"));
            let nearest = labels.iter().rfind(|label| {
                let is_before = match until {
                    Until::Seq(seq) => seq_of(label) <= seq,
                    Until::Time(_) | Until::Now => label.place(LOG).unwrap().time <= time,
                };
                is_before && label.target.time <= time
            });
            assert_eq!(both.0.started_from.as_ref(), nearest, "{until:?}");
            from_snapshots += usize::from(nearest.is_some());
        }
    }
    assert!(from_snapshots > 10, "{from_snapshots}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_taken_away_and_an_older_one_used() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys)).await;
    with_snapshots(&target, &source, 3).await;
    let (shelf, there) = (target.handle.shelf().unwrap(), labels(&target));
    let [.., oldest, older, newest] = &there[..] else { panic!("{there:?}") };
    let mut bytes = fs::read(shelf.file(newest)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(shelf.file(newest), &bytes).unwrap();
    let half = fs::read(shelf.file(older)).unwrap();
    fs::write(shelf.file(older), &half[..half.len() / 2]).unwrap();

    let at = both(&target, Until::Now, newest.target.time).await;
    assert_eq!(at.0.started_from.as_ref(), Some(oldest));
    assert_equal(&at, "from the oldest");
    let left = labels(&target);
    assert!(left.contains(oldest) && !left.contains(older) && !left.contains(newest), "{left:?}");
    fs::write(shelf.label_file(oldest), "{ half a la").unwrap();
    let at = both(&target, Until::Seq(seq_of(newest)), newest.target.time).await;
    assert!(at.0.started_from.is_none());
    assert_equal(&at, "from the start");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_kept_only_if_the_log_gives_the_rows_that_are_signed() {
    let (mut nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let mut config = keeping(&keys);
    config["snapshot"]["events"] = json!(1_000_000);
    let (target, source, _serving) = synced(&nats, config.clone()).await;
    for n in 0..25 {
        source.change(&format!("Pod/{n}"), &format!("1-{n}")).await;
    }
    covered(&target).await;
    nats.stop().await;
    flip_state_of(&nats, "1-7");
    nats.start_again().await;
    let directory = target.stop().await;

    config["snapshot"]["events"] = json!(1);
    let target = Target::start_again(&nats.bus().await, config, directory).await;
    covered(&target).await;
    target.nothing_for(Duration::from_secs(5)).await;
    assert_eq!(labels(&target), [], "the log lacks a row that is signed");
    source.change("Pod/7", "again").await;
    let label = eventually("a snapshot is kept", async || labels(&target).pop()).await;
    assert!(!label.is_whole && label.owners == 1, "what was lost does not matter any more: {label:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_before_the_floor_of_a_trimmed_log_is_refused_with_the_earliest_one() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys)).await;
    with_snapshots(&target, &source, 2).await;
    let there = labels(&target);
    let [.., older, newer] = &there[..] else { panic!("{there:?}") };
    let before = both(&target, Until::Seq(seq_of(newer)), newer.target.time).await;
    // A hand that trims the log, up to the older snapshot's place.
    let api = nats.client().await;
    let body = json!({ "seq": seq_of(older) }).to_string();
    let answer = api.request(format!("$JS.API.STREAM.PURGE.{LOG}"), body.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["success"], true, "{answer}");

    let ask = async |until: Until| {
        let streams = [(TARGET_LOG.to_owned(), Until::Time(newer.target.time)), (LOG.to_owned(), until)];
        target.handle.replay(&streams, &Unwatched).await
    };
    let near = ask(Until::Seq(seq_of(newer))).await.unwrap();
    assert_equal(&(near, before.1), "what a snapshot holds is shown as before");
    let error = ask(Until::Seq(seq_of(older) - 1)).await.err().unwrap().to_string();
    let floor = format!("not before {} ({LOG}:{})", older.place(LOG).unwrap().time, seq_of(older));
    assert!(error.contains(&floor) && error.contains("was trimmed"), "{error}");
    let shelf = target.handle.shelf().unwrap();
    for label in &there {
        fs::remove_file(shelf.label_file(label)).unwrap();
    }
    let error = ask(Until::Now).await.err().unwrap().to_string();
    assert!(error.contains("no moment can be shown"), "{error}");
}
