//! Making streams so that they outlive a server that is killed meanwhile.

use std::fs;

use bus_schema::stream::StreamSpec;
use serde_json::{Value, json};

use super::event;
use crate::support::{
    eventually,
    nats::{Nats, site_log},
};

const SITE: &str = "FARSIDE_LOCAL";

/// What a server that was killed between the two files of a new stream leaves behind: the description
/// without its checksum, which no later start restores.
async fn killed_while_making(nats: &mut Nats, spec: &StreamSpec) {
    let bus = nats.bus().await;
    bus.ensure_stream(spec).await.unwrap();
    bus.drain().await;
    nats.kill().await;
    fs::remove_file(nats.stream_dir(SITE).join("meta.sum")).unwrap();
    nats.start_again().await;
}

#[tokio::test]
async fn a_stream_that_is_made_over_the_remains_of_a_killed_making_outlives_the_next_kill() {
    let mut nats = Nats::start().await;
    killed_while_making(&mut nats, &site_log()).await;
    let bus = nats.bus().await;
    bus.stream_state(SITE).await.expect_err("a nats-server that restores it needs none of this any more");
    let made = bus.ensure_stream(&site_log()).await.unwrap();
    for n in 0..5 {
        bus.publisher().publish(SITE, &event(n), None).await.unwrap();
    }
    nats.kill().await;
    nats.start_again().await;
    let found = eventually("the server answers", async || bus.ensure_stream(&site_log()).await.ok()).await;
    assert_eq!((found.created, found.messages), (made.created, 5), "the same stream, with all of it");
}

#[tokio::test]
async fn a_stream_that_was_left_half_made_is_finished_and_takes_nothing_before() {
    let nats = Nats::start().await;
    let (bus, client) = (nats.bus().await, nats.client().await);
    let half = json!({ "name": SITE, "subjects": ["farside.unmade.FARSIDE_LOCAL"], "max_bytes": 1_000_000 });
    let made =
        client.request(format!("$JS.API.STREAM.CREATE.{SITE}"), half.to_string().into()).await.unwrap();
    assert!(serde_json::from_slice::<Value>(&made.payload).unwrap()["error"].is_null());
    bus.publisher().publish(SITE, &event(1), None).await.expect_err("nobody stores it yet");
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish(SITE, &event(1), None).await.unwrap();
}
