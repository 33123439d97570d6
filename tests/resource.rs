//! Claims R1 to R8 against a real nats-server, with a scripted source: what the target asks, when, and
//! what the pool has afterwards. (R9, the source side, is tested where the real agent is.)

use std::time::{Duration, Instant};

use bus_schema::{
    PoolId, Stem,
    command::{
        resource::SyncReason,
        target::{ConfirmCommand, Confirmation, Reply, SyncsStarted},
    },
    event::resource::SyncScope,
    fact::{log::LogFact, resource::Verdict},
    subject,
};
use serde_json::{Value, json};

use crate::support::{eventually, nats::Nats, within};
use source::{ScriptedSource, Serving};
use target::Target;

mod agent;
mod checkpoint;
mod damage;
mod readable;
mod retention;
mod runtime;
mod snapshot;
mod source;
mod target;

pub(crate) const OWNER: &str = "/local/dc1/resource/inv";
pub(crate) const LOG: &str = "FARSIDE_LOCAL";

pub(crate) fn dc1() -> PoolId {
    "local/dc1".parse().unwrap()
}

/// A schedule that does not get into the way of a test.
pub(crate) fn quiet() -> Value {
    json!({
        "schedule": { "every": "1h" },
        "patience": { "answer": "2s", "backoff": "200ms", "stalled": "2s" },
        "lease_ttl": "2s",
    })
}

fn with_threshold(changes: u64) -> Value {
    let mut config = quiet();
    config["threshold"] = json!({ "changes": changes, "bytes": 0, "age": "1h", "rest": "30s" });
    config
}

/// A server, a target, and one agent that has had its first sync.
pub(crate) async fn synced(nats: &Nats, config: Value) -> (Target, ScriptedSource, Serving) {
    let bus = nats.bus().await;
    let target = Target::start(&bus, config).await;
    let source = ScriptedSource::started(&bus, OWNER).await;
    let mut serving = source.serve().await;
    let first = serving.next_sync().await;
    closed(&target, &first.sync_id).await;
    (target, source, serving)
}

/// Waits until the pool has the closing event of a sync.
pub(crate) async fn closed(target: &Target, sync_id: &str) {
    target
        .until("the sync is closed in the pool", |reader| {
            let owner = reader.owner(&dc1(), OWNER).unwrap().value?;
            (owner.last_sync?.sync_id == sync_id).then_some(())
        })
        .await;
}

/// Waits until the pool is proved equal to the source.
pub(crate) async fn equal(target: &Target, source: &ScriptedSource) {
    source.heartbeat().await;
    let digest = source.digest().await;
    target
        .until("pool and source are equal", |reader| {
            let owner = reader.owner(source.pool(), &source.owner()).unwrap().value?;
            (owner.digest == digest && owner.in_sync()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_each_cluster_is_asked_by_its_own_timer() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let mut config = quiet();
    config["pools"] = json!({ "local/fast": { "schedule": { "every": "1s" } } });
    let _target = Target::start(&bus, config).await;
    let fast = ScriptedSource::started(&bus, "/local/fast/resource/inv").await;
    let slow = ScriptedSource::started(&bus, "/local/slow/resource/inv").await;
    let (mut fast, mut slow) = (fast.serve().await, slow.serve().await);
    for _ in 0..3 {
        assert_eq!(fast.next_sync().await.reason, SyncReason::First);
    }
    assert_eq!(slow.next_sync().await.reason, SyncReason::First);
    assert_eq!(slow.syncs_so_far(), [], "once an hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_the_answer_is_in_the_pool() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let target = Target::start(&bus, quiet()).await;
    let source = ScriptedSource::started(&bus, OWNER).await;
    source.drift("Pod/web", Some("1")).await;
    let mut serving = source.serve().await;
    let first = serving.next_sync().await;
    assert_eq!((first.reason, first.scope), (SyncReason::First, SyncScope::Full));
    closed(&target, &first.sync_id).await;
    assert_eq!(target.row(&dc1(), "Pod/web").unwrap().revision, Some("1".parse().unwrap()));
    equal(&target, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a_completed_sync_is_stated_exactly_once_over_restarts() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    let bus = target.bus.clone();
    let directory = target.stop().await;
    let target = Target::start_again(&bus, quiet(), directory).await;
    let command = json!({ "pool": dc1(), "full": true, "actor": "op" });
    let Reply::Done { answer } = target.command::<_, SyncsStarted>(Stem::Resource, "sync", &command).await
    else {
        panic!("the sync was refused")
    };
    let asked = serving.next_sync().await;
    assert_eq!(
        (answer.sync_ids.as_slice(), asked.reason),
        ([asked.sync_id.clone()].as_slice(), SyncReason::Manual)
    );
    let syncs = target
        .until("both syncs are completed", |reader| {
            let syncs = reader.syncs(&dc1(), 10).unwrap().value;
            (syncs.len() == 2 && syncs.iter().all(|sync| sync.completed.is_some())).then_some(syncs)
        })
        .await;
    assert!(
        syncs.iter().all(|sync| sync.completed.as_ref().unwrap().1.equal && sync.owner == source.owner())
    );
    let facts = runtime::facts_named(&target, "sync_completed").await;
    assert_eq!(facts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_one_pool_per_source_cluster() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let target = Target::start(&bus, quiet()).await;
    for cluster in ["dc1", "dc2"] {
        let source = ScriptedSource::started(&bus, &format!("/local/{cluster}/resource/inv")).await;
        source.change("Pod/web", cluster).await;
    }
    target.caught_up(LOG).await;
    for cluster in ["dc1", "dc2"] {
        let pool = format!("local/{cluster}").parse().unwrap();
        assert_eq!(target.row(&pool, "Pod/web").unwrap().revision, Some(cluster.parse().unwrap()));
    }
    assert_eq!(target.reader.pools().unwrap().value.len(), 2);
}

async fn confirm(target: &Target, keys: &[&str], wait_ms_max: u64) -> Confirmation {
    let command = to_confirm(keys, wait_ms_max);
    match target.command(Stem::Resource, "confirm", &command).await {
        Reply::Done { answer } => answer,
        Reply::Refused { reason } => panic!("{reason}"),
    }
}

fn to_confirm(keys: &[&str], wait_ms_max: u64) -> ConfirmCommand {
    ConfirmCommand {
        pool: dc1(),
        keys: keys.iter().map(|key| key.parse().unwrap()).collect(),
        actor: "op".to_owned(),
        task: Some("failover".to_owned()),
        allow_unreachable: false,
        wait_ms_max,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_mismatch_is_repaired_before_the_task_runs() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    for key in ["Pod/same", "Pod/drifted", "Pod/gone"] {
        source.change(key, "1").await;
    }
    target.caught_up(LOG).await;
    source.drift("Pod/drifted", Some("2")).await;
    source.drift("Pod/gone", None).await;
    let confirmation = confirm(&target, &["Pod/same", "Pod/drifted", "Pod/gone", "Pod/never"], 20_000).await;
    let verdicts: Vec<_> = confirmation.resources.iter().map(|resource| resource.verdict).collect();
    assert_eq!(verdicts, [Verdict::Confirmed, Verdict::Updated, Verdict::Missing, Verdict::Missing]);
    assert!(!confirmation.go, "two of them are missing");
    let now = target.row(&dc1(), "Pod/drifted").unwrap();
    assert_eq!(now.revision, Some("2".parse().unwrap()), "the pool is true when the answer is there");
    assert!(target.row(&dc1(), "Pod/gone").is_none());
    let second = serving.next_sync().await;
    assert_eq!((second.reason, second.keys.len()), (SyncReason::Second, 2));
    target
        .until("the confirmation is in the pool", |reader| {
            let record = reader.confirmations(&dc1(), 1).unwrap().value.pop()?;
            (record.confirmed.confirm_id == confirmation.confirm_id).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_dead_letter_inside_the_second_answer_stops_the_task() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    source.change("Pod/web", "1").await;
    target.caught_up(LOG).await;
    source.drift("Pod/web", Some("2")).await;
    // The projector refuses a label of this size, so the event of the answer becomes a dead letter.
    source.label("Pod/web", &"x".repeat(2_000)).await;
    let confirmation = confirm(&target, &["Pod/web"], 20_000).await;
    assert_eq!(serving.next_sync().await.reason, SyncReason::Second);
    let web = &confirmation.resources[0];
    assert!(!confirmation.go && web.verdict == Verdict::Unconfirmable, "{web:?}");
    assert!(web.reason.as_ref().unwrap().contains("not taken in whole"), "{web:?}");
    assert_eq!(target.row(&dc1(), "Pod/web").unwrap().revision, Some("1".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_source_that_does_not_answer_stops_the_task() {
    let nats = Nats::start().await;
    let (target, source, serving) = synced(&nats, quiet()).await;
    source.change("Pod/web", "1").await;
    target.caught_up(LOG).await;
    drop(serving);
    let confirmation = confirm(&target, &["Pod/web"], 500).await;
    assert!(!confirmation.go);
    assert_eq!(confirmation.resources[0].verdict, Verdict::SourceUnreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_the_request_names_what_the_pool_has() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    source.change("Pod/a", "1").await;
    source.notice("Pod/b", "1").await;
    target.caught_up(LOG).await;
    let (at, digest) = (source.at().await, source.digest().await);
    let command = json!({ "pool": dc1(), "full": false, "actor": "op" });
    target.command::<_, SyncsStarted>(Stem::Resource, "sync", &command).await;
    let asked = serving.next_sync().await;
    assert_eq!(asked.scope, SyncScope::Incremental);
    assert_eq!(asked.update_info.since, Some(at));
    assert_eq!((asked.update_info.outstanding, asked.update_info.digest), (1, digest));
    closed(&target, &asked.sync_id).await;
    assert!(target.row(&dc1(), "Pod/b").unwrap().notice.is_none(), "the outstanding state has come");
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_the_third_request_goes_out_once_per_storm_and_within_a_second() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, with_threshold(50)).await;
    for n in 0..50 {
        source.notice(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    assert_eq!(serving.syncs_so_far(), [], "the limit is not exceeded");
    source.notice("Pod/50", "1").await;
    let crossed = Instant::now();
    let third = serving.next_sync().await;
    // The scripted source reports a request after it has answered it; that is within the second, too.
    assert!(crossed.elapsed() < Duration::from_secs(1), "{:?}", crossed.elapsed());
    assert_eq!((third.reason, third.scope), (SyncReason::Third, SyncScope::Incremental));
    for n in 0..200 {
        source.notice(&format!("Pod/{n}"), "2").await;
    }
    closed(&target, &third.sync_id).await;
    target.caught_up(LOG).await;
    target.nothing_for(Duration::from_secs(1)).await;
    assert_eq!(serving.syncs_so_far(), [], "one request per storm");
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_a_plain_publisher_of_the_cluster_counts_too() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, with_threshold(50)).await;
    for n in 0..25 {
        source.notice(&format!("Pod/{n}"), "1").await;
    }
    let client = nats.client().await;
    let publish = async |n: u32| {
        let subject = format!("far.v1.local.evt.dc1.resource.VM=2F{n}.changed");
        let body = format!(r#"{{"kind":"VM","id":"{n}","revision":"1","state":{{}}}}"#);
        client.publish(subject, body.into()).await.unwrap();
        client.flush().await.unwrap();
    };
    for n in 0..25 {
        publish(n).await;
    }
    eventually("the publisher's events are in the pool", async || target.row(&dc1(), "VM/24")).await;
    assert_eq!(serving.syncs_so_far(), [], "the limit is not exceeded");
    publish(25).await;
    assert_eq!(serving.next_sync().await.reason, SyncReason::Third);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_no_first_request_without_an_access_key() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let target = Target::start(&bus, quiet()).await;
    let source = ScriptedSource::new(&bus, OWNER, 7);
    source.start().await;
    let mut serving = source.serve().await;
    let failed = target
        .until("the refusal is stated", |reader| {
            reader.syncs(&dc1(), 10).unwrap().value.pop().and_then(|sync| sync.failed)
        })
        .await;
    assert!(failed.1.reason.contains("access key"), "{}", failed.1.reason);
    assert_eq!(serving.syncs_so_far(), []);
    source.announce_key().await;
    assert_eq!(serving.next_sync().await.reason, SyncReason::First);
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_only_bound_level_2_tenants_share_the_key() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let target = Target::start(&bus, quiet()).await;
    let state = async |event: &str, tenant: &str| {
        target.state(Stem::Tenant, event, json!({ "tenant": tenant, "actor": "op" })).await
    };
    let bound = || {
        let tenant = target.reader.tenant(&"acme/web".parse().unwrap()).unwrap().value;
        tenant.map(|tenant| tenant.bound)
    };
    assert!(state("created", "acme/web").await.unwrap_err().contains("level-1"));
    state("created", "acme").await.unwrap();
    state("created", "acme/web").await.unwrap();
    assert_eq!(bound(), Some(false), "it exists, and is not bound");
    state("bound", "acme/web").await.unwrap();
    assert_eq!(bound(), Some(true));
    state("unbound", "acme/web").await.unwrap();
    assert_eq!(bound(), Some(false));
    assert!(state("bound", "acme").await.unwrap_err().contains("level-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_is_resumed_by_the_same_fact() {
    let nats = Nats::start().await;
    let mut config = quiet();
    config["schedule"] = json!({ "every": "1s" });
    let (target, _source, mut serving) = synced(&nats, config).await;
    let pause = async |paused: bool| {
        let data = json!({ "pool": dc1(), "paused": paused, "actor": "op" });
        target.state(Stem::Resource, "schedule_paused", data).await.unwrap();
    };
    pause(true).await;
    target.nothing_for(Duration::from_millis(1_200)).await;
    serving.syncs_so_far();
    target.nothing_for(Duration::from_millis(1_500)).await;
    assert_eq!(serving.syncs_so_far(), []);
    pause(false).await;
    serving.next_sync().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_whose_answer_stops_is_asked_for_again_under_the_same_id() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let _target = Target::start(&bus, quiet()).await;
    let source = ScriptedSource::started(&bus, OWNER).await;
    let mut requests = bus.serve(&subject::command(&dc1(), Stem::Resource, "sync")).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = within("a request", requests.next()).await.unwrap();
        let sync: Value = serde_json::from_slice(&request.body).unwrap();
        request.reply(&json!({ "result": "accepted", "scope": "full" })).await.unwrap();
        ids.push(sync["sync_id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    drop(source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_away_is_stated_as_failed_and_asked_again() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let target = Target::start(&bus, quiet()).await;
    let source = ScriptedSource::started(&bus, OWNER).await;
    let failed = target
        .until("the failure is stated", |reader| {
            reader.syncs(&dc1(), 10).unwrap().value.pop().and_then(|sync| sync.failed)
        })
        .await;
    assert!(failed.1.reason.contains("no agent"), "{}", failed.1.reason);
    assert!(failed.1.retry_at.is_some());
    let mut serving = source.serve().await;
    assert_eq!(serving.next_sync().await.reason, SyncReason::First);
}

/// The last fact about a log that a reader knows and that `pick` likes.
pub(crate) async fn log_fact<T>(target: &Target, what: &str, pick: impl Fn(&LogFact) -> Option<T>) -> T {
    eventually(what, async || {
        let facts = target.reader.log_facts(100).unwrap().value;
        facts.iter().find_map(|record| pick(&record.fact))
    })
    .await
}
