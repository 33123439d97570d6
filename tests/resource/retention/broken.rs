//! Retention when something else is wrong as well: a log that went back, a snapshot that is not what it says, a pool that
//! stands still. Nothing more goes than a snapshot holds, nothing is told that is not so, and nothing is stuck for ever.

use std::sync::Arc;

use bus::{Bus, Outgoing};
use bus_schema::{Hash32, Stem, Timestamp, fact::log::Parked, subject};
use consumers::{
    runtime::verify::Fault,
    snapshot::{self, Shelf},
};
use projector::DamageFound;

use super::*;

const FAR_LOG: &str = "FARSIDE_FAR";

/// Keeps all, and takes no snapshot any more.
fn still(keys: &TempDir) -> Value {
    let mut config = keeping(keys, NEVER);
    config["snapshot"] = json!({ "events": 1_000_000, "every": "0s" });
    config
}

/// Trims what is old, and signs nothing any more: what is stated stays undone.
fn unsigned(keys: &TempDir) -> Value {
    let mut config = keeping(keys, SHORT);
    config["checkpoint"] = json!({ "events": 1_000_000, "every": "1h" });
    config
}

async fn three_snapshots(target: &Target, source: &ScriptedSource) {
    let three = async || (labels(target).len() >= 3).then_some(());
    live_until(target, source, "three snapshots", three).await;
}

/// Lets a label say that another message stands at its place in a site log, as after that log lost its end.
fn of_another_log(shelf: &Shelf, label: &Label, log: &str) {
    let path = shelf.label_file(label);
    let mut text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let sites = text["sites"].as_array_mut().unwrap();
    let site = sites.iter_mut().find(|site| site["stream"] == log).unwrap();
    site["hash"] = json!(Hash32::of(b"another"));
    fs::write(&path, serde_json::to_vec(&text).unwrap()).unwrap();
}

fn shelf_in(directory: &Path) -> Shelf {
    Shelf::open(&directory.join("snapshots")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_before_which_the_log_went_back_does_not_hide_its_floor() {
    let (mut nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, SHORT)).await;
    trimmed(&target, &source).await;
    let directory = target.stop().await;
    let kept = KeptLog::of(&mut nats, LOG).await;
    let bus = nats.bus().await;
    let was = eventually("the log", async || bus.stream_state(LOG).await.ok()).await;
    let floor = was.first_seq;

    let target = Target::start_again(&bus, keeping(&keys, NEVER), directory).await;
    let behind = |label: &&Label| label.place(LOG).unwrap().seq > was.last_seq;
    let three = async || (labels(&target).iter().filter(behind).count() >= 3).then_some(());
    live_until(&target, &source, "three more snapshots", three).await;
    let directory = target.stop().await;
    let target = Target::start_again(&bus, unsigned(&keys), directory).await;
    let is_behind = |(_, fact): &(u64, Trimmed)| fact.first_seq > was.last_seq;
    eventually("it is stated", async || stated(&target).await.0.pop().filter(is_behind)).await;
    target.caught_up(TARGET_LOG).await;
    let directory = target.stop().await;
    kept.put_back(&mut nats).await;

    let target = Target::start_again(&nats.bus().await, still(&keys), directory).await;
    target.caught_up(LOG).await;
    assert_eq!(first_seq(&target).await, floor);
    let verified = target.handle.verify(Bounds::default(), &Unwatched).await.unwrap();
    let is_early = |fault: &&Fault| {
        fault.kind == FaultKind::Missing && fault.seqs.is_some_and(|(first, _)| first < floor)
    };
    let early: Vec<_> = verified.faults.iter().filter(is_early).collect();
    assert!(early.is_empty(), "nothing was lost before {floor}: {early:?}");
    let damages = target.reader.damages().unwrap().value.into_iter().map(|record| record.found);
    let is_early = |found: &DamageFound| matches!(found, DamageFound::Loss(loss) if loss.first_seq < floor);
    let early: Vec<_> = damages.filter(is_early).collect();
    assert!(early.is_empty(), "no loss is stated before {floor}: {early:?}");
    let told = format!("{LOG} begins with {floor}");
    assert!(verified.notes.iter().any(|note| note.contains(&told)), "{:?}", verified.notes);
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Unwatched).await.unwrap();
    assert!(rebuilt.begins_at.is_some(), "what went is to be had from a snapshot only: {rebuilt:?}");
    let empty = Target::standby_in(&nats.bus().await, quiet(), tempfile::tempdir().unwrap()).await;
    let trouble =
        eventually("it does not begin in the middle", async || empty.handle.troubles().get(LOG).cloned())
            .await;
    assert!(trouble.contains("was trimmed"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_place_the_log_does_not_bear_out_any_more_gives_way_to_a_later_one() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    three_snapshots(&target, &source).await;
    let directory = target.stop().await;
    let target = Target::start_again(&nats.bus().await, unsigned(&keys), directory).await;
    let fact = eventually("it is stated", async || stated(&target).await.0.pop()).await.1;
    let label = labels(&target).into_iter().find(|label| label.sha256 == fact.snapshot).unwrap();
    of_another_log(target.handle.shelf().unwrap(), &label, LOG);
    let directory = target.stop().await;

    let target = Target::start_again(&nats.bus().await, keeping(&keys, SHORT), directory).await;
    let first = trimmed(&target, &source).await;
    assert!(first > fact.first_seq, "{first} is not behind {}", fact.first_seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_log_does_not_keep_one_that_is_too_large_from_being_trimmed() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    for n in 0..15 {
        source.label(&format!("Pod/{n}"), &"x".repeat(900)).await;
    }
    three_snapshots(&target, &source).await;
    for round in 100..170 {
        live_through(&source, round).await;
    }
    covered(&target).await;
    assert!(target.bus.stream_state(LOG).await.unwrap().bytes > 1 << 20);
    of_another_log(target.handle.shelf().unwrap(), &labels(&target)[0], LOG);
    let directory = target.stop().await;
    let mut config = keeping(&keys, NEVER);
    config["retention"] = json!({ "mib": 1 });
    let target = Target::start_again(&nats.bus().await, config, directory).await;
    trimmed(&target, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_put_aside_also_by_a_reading_of_another_log_than_the_trimmed_one() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let mut config = keeping(&keys, SHORT);
    config["sites"] = json!(["local", "far"]);
    let (target, source, _serving) = synced(&nats, config).await;
    trimmed(&target, &source).await;
    let directory = target.stop().await;
    let mut config = still(&keys);
    config["sites"] = json!(["local", "far"]);
    let target = Target::start_again(&nats.bus().await, config, directory).await;
    let (shelf, newest) = (target.handle.shelf().unwrap(), labels(&target).pop().unwrap());
    let file = shelf.file(&newest);
    let mut bytes = fs::read(&file).unwrap();
    bytes[1_000] ^= 1;
    fs::write(&file, bytes).unwrap();

    let of_far = [(TARGET_LOG.into(), Until::Now), (FAR_LOG.into(), Until::Now)];
    target.handle.replay(&of_far, &Unwatched).await.unwrap();
    assert!(!labels(&target).contains(&newest), "it is not used any more");
    assert!(file.with_extension("redb.damaged").exists(), "it may be the only place of what went from {LOG}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_lacks_what_went_is_begun_no_shelf_with() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (_target, _source, _serving, behind) = trimmed_past_a_pool(&nats, &keys).await;

    let (shelf, pool) = (shelf_in(behind.path()), behind.path().join("pool.redb"));
    let (bus, local) = (nats.bus().await, "local".parse().unwrap());
    let begun = snapshot::adopted(&bus, &shelf, &local, std::slice::from_ref(&local), &pool).await.unwrap();
    assert!(!begun, "nothing can be read on from it");
    assert_eq!(fs::read_dir(shelf.directory()).unwrap().count(), 0, "one would be left at each start");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_that_the_pool_of_the_one_who_trims_has_not_read() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving, behind) = trimmed_past_a_pool(&nats, &keys).await;
    let directory = target.stop().await;
    let target = Target::start_again(&nats.bus().await, keeping(&keys, NEVER), directory).await;
    let had = labels(&target).len();
    let more = async || (labels(&target).len() >= had + 2).then_some(());
    live_until(&target, &source, "more snapshots", more).await;
    let directory = target.stop().await;

    // It takes over with a pool that stands still, and the snapshots of the one that acted.
    fs::rename(directory.path().join("snapshots"), behind.path().join("snapshots")).unwrap();
    let lagging = Target::start_again(&nats.bus().await, keeping(&keys, SHORT), Arc::new(behind)).await;
    let first = first_seq(&lagging).await;
    eventually("it stands still", async || lagging.handle.troubles().get(LOG).cloned()).await;
    let told = eventually("it waits for its pool", async || {
        lagging.handle.waits().get(LOG).map(|wait| wait.why.clone()).filter(|why| why.contains("pool"))
    })
    .await;
    assert!(told.contains("the pool of this farside needs it from"), "{told}");
    assert_eq!(first_seq(&lagging).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_behind_a_snapshot_that_cannot_be_used_because_another_trimmed_log_went_back() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let of_two = |mut config: Value| {
        config["sites"] = json!(["local", "far"]);
        config
    };
    let (target, near, _serving) = synced(&nats, of_two(keeping(&keys, SHORT))).await;
    let far = ScriptedSource::started(&nats.bus().await, "/far/dc9/resource/inv").await;
    let _answering = far.serve().await;
    let first = async |target: &Target, log: &str| target.bus.stream_state(log).await.unwrap().first_seq;
    live_until(&target, &near, "both logs are trimmed", async || {
        live_through(&far, 0).await;
        (first(&target, LOG).await > 1 && first(&target, FAR_LOG).await > 1).then_some(())
    })
    .await;
    let directory = target.stop().await;
    let target = Target::start_again(&nats.bus().await, of_two(keeping(&keys, NEVER)), directory).await;
    let had = labels(&target).len();
    live_until(&target, &near, "more snapshots", async || {
        live_through(&far, 1).await;
        (labels(&target).len() >= had + 2).then_some(())
    })
    .await;
    let directory = target.stop().await;
    let began = nats.bus().await.stream_state(LOG).await.unwrap().first_seq;
    let shelf = shelf_in(directory.path());
    let behind = |label: &Label| label.place(LOG).unwrap().seq > began;
    let later = shelf.labels().unwrap().into_iter().filter(behind);
    later.for_each(|label| of_another_log(&shelf, &label, FAR_LOG));

    let mut config = of_two(still(&keys));
    config["retention"] = json!({ "age": SHORT });
    let target = Target::start_again(&nats.bus().await, config, directory).await;
    let is_told = |why: &String| why.contains("not any more what the snapshot was read from");
    eventually("it waits for another snapshot", async || {
        target.handle.waits().get(LOG).map(|wait| wait.why.clone()).filter(is_told)
    })
    .await;
    assert_eq!(first_seq(&target).await, began);
}

/// Lets the target log say that a message was parked that stood at this place of the site log before that was made anew.
async fn parked_in_an_earlier_life(bus: &Bus, seq: u64) {
    let parked = Parked {
        stream: LOG.to_owned(),
        seq,
        subject: "far.v1.local.evt.dc1.resource.Pod=2Flong-ago.changed".to_owned(),
        reason: "missing field `id`".to_owned(),
        path: "$".to_owned(),
        stored_at: Some(Timestamp::from_unix_ms(1)),
        at: None,
        copy_of: None,
    };
    let key = format!("{LOG}:{seq}");
    let subject = subject::fact(&"local".parse().unwrap(), Stem::Log, &key, "parked");
    let body = LogFact::Parked(parked).data().unwrap().into();
    let headers = vec![("ce-type".to_owned(), "log.parked".to_owned())];
    let fact = Outgoing { subject, headers, body, message_id: String::new() };
    bus.publisher().publish(TARGET_LOG, &fact, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_what_the_log_was_before_it_was_made_anew_holds_nothing() {
    let (nats, keys) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (target, source, _serving) = synced(&nats, keeping(&keys, NEVER)).await;
    let directory = target.stop().await;
    let bus = nats.bus().await;
    parked_in_an_earlier_life(&bus, 2).await;

    let target = Target::start_again(&bus, keeping(&keys, SHORT), directory).await;
    let letter = target.reader.parked_record(LOG, 2).unwrap().value.unwrap();
    assert!(
        letter.is_open() && target.bus.message(LOG, 2).await.unwrap().is_some(),
        "another one stands there"
    );
    assert!(trimmed(&target, &source).await > 2);
}
