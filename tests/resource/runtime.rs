//! What every reaction stands on, against a real server: the lease's fence, replay and rebuild.

use bus::{BusError, LeaseToken};
use bus_schema::{
    Name, Stem,
    command::{
        resource::SyncReason,
        target::{Reply, SyncsStarted},
    },
    fact::{
        Fact,
        log::{LogFact, WindowHeld},
    },
    subject,
};
use consumers::runtime::{
    facts::FactPublisher,
    replay::{Until, Watcher},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    LOG, OWNER, closed, dc1, equal, quiet,
    source::Serving,
    synced,
    target::{Target, export},
};
use crate::support::{eventually, nats::Nats};

/// How many facts of a name the target log holds.
pub(crate) async fn facts_named(target: &Target, name: &str) -> usize {
    let stream = "FARSIDE_TGT_LOCAL";
    let last = target.bus.stream_state(stream).await.unwrap().last_seq;
    let mut count = 0;
    for seq in 1..=last {
        let message = target.bus.message(stream, seq).await.unwrap();
        count += usize::from(message.is_some_and(|message| message.subject().ends_with(&format!(".{name}"))));
    }
    count
}

struct Silent;

impl Watcher for Silent {
    fn read(&self, _: &str, _: u64, _: u64) {}
}

/// The newest acquisition of the lease.
async fn token(target: &Target) -> LeaseToken {
    let (name, lease): (Name, Name) = ("local".parse().unwrap(), "target".parse().unwrap());
    let subject = subject::lease(&name, &lease);
    let look = async || -> Result<Option<u64>, BusError> {
        Ok(target.bus.last_message("FARSIDE_TGT_LOCAL", &subject).await?.map(|message| message.seq()))
    };
    let seq = eventually("the lease is in the log", async || look().await.ok().flatten()).await;
    LeaseToken { seq, subject }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_holder_that_was_paused_is_fenced() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let old = Target::start(&bus, quiet()).await;
    let old_token = token(&old).await;
    old.stop().await;
    let new = Target::start(&bus, quiet()).await;
    assert!(token(&new).await.seq > old_token.seq);
    // The old holder still believes in its lease when it wakes up.
    let (_belief, lease) = watch::channel(Some(old_token));
    let facts = FactPublisher::new(&bus, &"local".parse().unwrap(), lease);
    let held = WindowHeld { owner: "x".to_owned(), sync_id: "s".to_owned(), would_delete: 1, rows: 1 };
    let error = facts.state(&Fact::Log(LogFact::WindowHeld(held)), "late").await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(facts_named(&new, "window_held").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_share_the_work_and_only_one_acts() {
    let nats = Nats::start().await;
    let (first, source, _serving) = synced(&nats, quiet()).await;
    let bus = nats.bus().await;
    let second = tokio::spawn(async move { Target::start(&bus, quiet()).await });
    source.change("Pod/a", "1").await;
    equal(&first, &source).await;
    assert!(first.handle.holds_lease());
    first.stop().await;
    let second = second.await.unwrap();
    assert!(second.handle.holds_lease());
    equal(&second, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_up_to_a_point_is_what_the_pool_said_then() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    for n in 0..50 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    let (then, seq) = (target.export(&dc1()), target.handle.progress().reached(LOG));
    for n in 0..50 {
        source.change(&format!("Pod/{n}"), "2").await;
    }
    target.caught_up(LOG).await;
    assert_ne!(target.export(&dc1()), then);
    for until in [Until::Seq(seq.seq), Until::Time(seq.time)] {
        let replayed = target.handle.replay(&[(LOG.to_owned(), until)], &Silent).await.unwrap();
        assert_eq!(export(&replayed.store.reader(), &dc1()), then, "{until:?}");
    }
    let now = target.handle.replay(&[(LOG.to_owned(), Until::Now)], &Silent).await.unwrap();
    assert_eq!(export(&now.store.reader(), &dc1()), target.export(&dc1()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_pool_is_equal_to_the_live_one() {
    let nats = Nats::start().await;
    let (target, source, _serving) = synced(&nats, quiet()).await;
    for n in 0..50 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    let path = target.path("rebuilt.redb");
    let rebuilt = target.handle.rebuild(&path, &Silent).await.unwrap();
    assert_eq!(rebuilt.differences, []);
    assert!(rebuilt.positions.iter().any(|position| position.stream == LOG && position.seq > 50));
    let again = target.handle.rebuild(&path, &Silent).await.unwrap_err();
    assert!(again.to_string().contains("rebuilt.redb"), "a file that is there is not overwritten: {again}");
}

/// Asks for everything, and waits until it is in the pool.
async fn full_sync(target: &Target, serving: &mut Serving) -> String {
    let command = json!({ "pool": dc1(), "full": true, "actor": "op" });
    let reply = target.command::<_, SyncsStarted>(Stem::Resource, "sync", &command).await;
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    let sync = loop {
        let sync = serving.next_sync().await;
        if sync.reason == SyncReason::Manual {
            break sync;
        }
    };
    closed(target, &sync.sync_id).await;
    sync.sync_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_deletion_stays_after_another_full_sync_and_a_rebuild() {
    let nats = Nats::start().await;
    let (target, source, mut serving) = synced(&nats, quiet()).await;
    for n in 0..30 {
        source.change(&format!("Pod/{n}"), "1").await;
    }
    target.caught_up(LOG).await;
    for n in 0..30 {
        source.drift(&format!("Pod/{n}"), None).await;
    }
    let held = full_sync(&target, &mut serving).await;
    assert_eq!(target.owner(&dc1(), OWNER).unwrap().held_window.unwrap().sync_id, held);
    let confirmed = json!({ "pool": "local/dc1", "owner": OWNER, "sync_id": held, "actor": "operator" });
    target.state(Stem::Resource, "empty_confirmed", confirmed).await.unwrap();
    let let_pass = |reader: &projector::Reader| {
        reader.owner(&dc1(), OWNER).unwrap().value?.held_window.is_none().then_some(())
    };
    target.until("the held window is let pass", let_pass).await;
    full_sync(&target, &mut serving).await;
    assert_eq!(target.owner(&dc1(), OWNER).unwrap().digest.count, 0);
    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Silent).await.unwrap();
    assert_eq!(rebuilt.differences, []);
}
