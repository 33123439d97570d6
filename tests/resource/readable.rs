//! What nats-server cannot give out, for a while or for ever, and what becomes of it in the pool: nothing is stated to
//! be lost that is there, and what the pool passed by is named and comes back.

use bus::{Bus, Outgoing};
use bus_schema::fact::log::{Scrubbed, Stretch};
use consumers::runtime::replay::Unwatched;

use super::{LOG, dc1, quiet, runtime::facts_named, target::Target};
use crate::support::{eventually, nats::Nats, nats::site_log};

/// In all: three blocks of 8 MiB.
const EVENTS: u64 = 700;
/// Of an event.
const BODY_BYTES: usize = 30_000;
/// In a batch.
const BATCH_EVENTS: u64 = 20;

/// A resource in plain form, of a publisher without a chain.
fn plain(number: u64) -> Outgoing {
    let text: String =
        (0..BODY_BYTES).map(|at| char::from(b'a' + ((number as usize * 31 + at * at) % 26) as u8)).collect();
    Outgoing {
        subject: format!("far.v1.local.evt.dc1.resource.Pod=2Fp{number}.changed"),
        headers: vec![],
        body: format!(r#"{{"kind":"Pod","id":"p{number}","revision":"1","state":{{"text":"{text}"}}}}"#)
            .into(),
        message_id: format!("dc1/{number}"),
    }
}

async fn fill(bus: &Bus) {
    bus.ensure_stream(&site_log()).await.unwrap();
    for first in (1..=EVENTS).step_by(BATCH_EVENTS as usize) {
        let events: Vec<_> = (first..first + BATCH_EVENTS).map(plain).collect();
        bus.publisher().publish_batch(LOG, &format!("b{first}"), &events, None).await.unwrap();
    }
}

/// The sequences whose events the pool does not have.
fn lacking(target: &Target) -> Vec<u64> {
    (1..=EVENTS).filter(|number| target.row(&dc1(), &format!("Pod/p{number}")).is_none()).collect()
}

async fn scrubbed(target: &Target) -> Scrubbed {
    eventually("the log is scrubbed", async || target.handle.scrub(LOG).await.ok()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pool_passed_by_is_named_once_it_can_be_read_and_a_rebuilt_pool_has_it() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    fill(&bus).await;
    nats.stop().await;
    nats.flip(LOG, 1);
    nats.start_again().await;
    let target = Target::start(&bus, quiet()).await;
    target.caught_up(LOG).await;
    let passed = lacking(&target);
    assert!(passed.len() > 200, "{passed:?}");
    let while_rotten = scrubbed(&target).await;
    assert_eq!((while_rotten.unread, while_rotten.lost), (0, 0), "nobody knows that it is there");

    nats.stop().await;
    nats.flip(LOG, 1);
    nats.start_again().await;
    let found = eventually("it can be read again", async || {
        target.handle.scrub(LOG).await.ok().filter(|scrubbed| scrubbed.messages == EVENTS)
    })
    .await;
    assert_eq!((found.unread, found.lost, found.gaps), (passed.len() as u64, 0, 0));
    let at = Stretch { first_seq: passed[0], last_seq: *passed.last().unwrap() };
    assert_eq!(found.unread_at, [at]);
    let text = found.unread_text().unwrap();
    assert!(text.contains(&at.place(LOG)) && text.contains("farside rebuild --swap"), "{text}");
    assert_eq!(lacking(&target), passed, "it is told, and not made up");

    let rebuilt = target.handle.rebuild(&target.path("rebuilt.redb"), &Unwatched).await.unwrap();
    assert!(rebuilt.differs_in_content());
    let (live, directory) = (target.path("pool.redb"), target.stop().await);
    std::fs::rename(rebuilt.path, live).unwrap();
    let target = Target::start_again(&bus, quiet(), directory).await;
    assert_eq!(lacking(&target), Vec::<u64>::new());
    assert_eq!(scrubbed(&target).await.unread, 0);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_file_handles_makes_no_loss_and_is_scrubbed_when_it_has_them_again() {
    use bus::LinkState;
    use consumers::runtime::bounds::Bounds;

    use crate::support::{handles::Handles, within};

    let (mut nats, handles) = Handles::start().await;
    let bus = nats.bus().await;
    fill(&bus).await;
    let target = Target::start(&bus, quiet()).await;
    target.caught_up(LOG).await;
    let mut link = bus.link();
    nats.stop().await;
    nats.start_again().await;
    within("up", link.wait_for(|state| *state == LinkState::Up { generation: 2 })).await.unwrap();
    let scrubs = facts_named(&target, "scrubbed").await;
    handles.take_away();
    let refused = within("a verification", target.handle.verify(Bounds::default(), &Unwatched)).await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("file handles"), "{error}");
    // Nobody can be seen to hold the lease then, and nobody takes it for free.
    let mut lease = target.handle.lease();
    within("the lease is lost", lease.wait_for(|holds| !holds)).await.unwrap();
    // A stream that was to be written meanwhile is written again when the server is started again.
    handles.give_back();
    nats.stop().await;
    nats.start_again().await;
    // Nobody asks for the one that is due since then.
    eventually("it is scrubbed", async || (facts_named(&target, "scrubbed").await > scrubs).then_some(()))
        .await;
    let found = scrubbed(&target).await;
    assert_eq!((found.messages, found.lost, found.gaps, found.unread), (EVENTS, 0, 0, 0));
    for name in ["loss_found", "gap_found", "rewound"] {
        assert_eq!(facts_named(&target, name).await, 0, "{name}");
    }
    assert_eq!(facts_named(&target, "lease_acquired").await, 1, "it is this process's still");
    assert_eq!(lacking(&target), Vec::<u64>::new());
}
