//! Readers on the wire: a tenant's own consumer with its filter, and nothing else.

use std::time::Duration;

use async_nats::{Client, Message};
use bus::Bus;
use bus::managed::{ReaderIdentity, make_seed_file};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::enrolment::{Site, is_deaf, is_mute, of};
use crate::support::{eventually, nats::name, within};

/// How long nothing may come until it counts as nothing, by the server's own clock.
const PULL_EXPIRES: Duration = Duration::from_millis(300);

async fn enroll(site: &Site, reader: &str, clusters: &[&str]) -> ReaderIdentity {
    let public_key = make_seed_file(&site.seed(reader)).unwrap();
    let pools = clusters.iter().map(|cluster| format!("local/{cluster}").parse().unwrap()).collect();
    let reader = ReaderIdentity { name: name(reader), tenant: "acme".parse().unwrap(), pools, public_key };
    for (stream, filters) in reader.feeds() {
        site.service.ensure_feed(&stream, &reader.consumer(), &filters).await.unwrap();
    }
    site.server.roster().enroll_reader(reader.clone()).await.unwrap();
    reader
}

/// A log with three events of each of three clusters, and a reader of the first two.
async fn started() -> (Site, ReaderIdentity) {
    let site = Site::start().await;
    for cluster in ["dc1", "dc2", "dc3"] {
        for number in 0..3 {
            let publisher = site.service.publisher();
            publisher.publish("FARSIDE_LOCAL", &of(cluster, number), None).await.unwrap();
        }
    }
    let reader = enroll(&site, "mine", &["dc1", "dc2"]).await;
    (site, reader)
}

/// What a pull brings until the server says that it is over.
async fn pulled(client: &Client, subject: &str, reply: &str) -> Vec<Message> {
    let mut inbox = client.subscribe(reply.to_owned()).await.unwrap();
    let pull = json!({ "batch": 100, "expires": PULL_EXPIRES.as_nanos() as u64 }).to_string();
    client.publish_with_reply(subject.to_owned(), reply.to_owned(), pull.into()).await.unwrap();
    let mut messages = vec![];
    loop {
        let message = within("the end of the pull", inbox.next()).await.unwrap();
        match message.status {
            None => messages.push(message),
            Some(_) => return messages,
        }
    }
}

async fn info(site: &Site, consumer: &str) -> Value {
    let client = site.client(&site.seed("keys/service")).await;
    let subject = format!("$JS.API.CONSUMER.INFO.FARSIDE_LOCAL.{consumer}");
    let answer = client.request(subject, "".into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

const NEXT: &str = "$JS.FARSIDE.API.CONSUMER.MSG.NEXT.FARSIDE_LOCAL.reader-mine";

#[tokio::test]
async fn a_reader_reads_its_clusters_and_settles_what_it_has_read() {
    let (site, reader) = started().await;
    let client = site.client(&site.seed("mine")).await;
    let subject = "$JS.FARSIDE.API.CONSUMER.INFO.FARSIDE_LOCAL.reader-mine";
    let seen = client.request(subject, "".into()).await.unwrap();
    let seen: Value = serde_json::from_slice(&seen.payload).unwrap();
    let filters = json!(["far.v1.local.evt.dc1.>", "far.v1.local.evt.dc2.>"]);
    assert_eq!(seen["config"]["filter_subjects"], filters, "{seen}");
    let messages = pulled(&client, NEXT, &client.new_inbox()).await;
    let subjects: Vec<_> = messages.iter().map(|message| message.subject.as_str()).collect();
    assert_eq!(subjects.len(), 6, "{subjects:?}");
    assert!(subjects.iter().all(|subject| !subject.contains("dc3")), "{subjects:?}");
    for message in messages {
        client.request(message.reply.unwrap(), "+ACK".into()).await.unwrap();
    }
    let state = info(&site, "reader-mine").await;
    assert_eq!((&state["num_ack_pending"], &state["num_pending"]), (&json!(0), &json!(0)), "{state}");
    site.service.publisher().publish("FARSIDE_LOCAL", &of("dc2", 9), None).await.unwrap();
    assert_eq!(pulled(&client, NEXT, &client.new_inbox()).await.len(), 1);

    site.server.roster().revoke_reader(&reader.name).await.unwrap();
    eventually("its connection ends", async || {
        (client.connection_state() != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    assert!(Bus::connect(site.options("mine")).await.is_err(), "it came back");
    site.service.remove_feed("FARSIDE_LOCAL", "reader-mine").await.unwrap();
    site.service.remove_feed("FARSIDE_LOCAL", "reader-mine").await.unwrap();
}

#[tokio::test]
async fn a_reader_makes_no_consumer_and_reaches_nothing_but_its_own() {
    let (site, _) = started().await;
    enroll(&site, "other", &["dc3"]).await;
    let bus = site.come_in("mine").await;
    let before = site.stored("FARSIDE_LOCAL").await;
    let api = [
        // Its own filter, another's, none, and the older forms: whoever makes a consumer says where it delivers.
        "CONSUMER.CREATE.FARSIDE_LOCAL.reader-mine.far.v1.local.evt.dc1.>",
        "CONSUMER.CREATE.FARSIDE_LOCAL.x.far.v1.local.evt.dc3.>",
        "CONSUMER.CREATE.FARSIDE_LOCAL.reader-mine",
        "CONSUMER.CREATE.FARSIDE_LOCAL",
        "CONSUMER.DURABLE.CREATE.FARSIDE_LOCAL.reader-mine",
        "CONSUMER.DELETE.FARSIDE_LOCAL.reader-mine",
        "CONSUMER.RESET.FARSIDE_LOCAL.reader-mine",
        "CONSUMER.LIST.FARSIDE_LOCAL",
        "CONSUMER.MSG.NEXT.FARSIDE_LOCAL.reader-other",
        "CONSUMER.INFO.FARSIDE_LOCAL.reader-other",
        "DIRECT.GET.FARSIDE_LOCAL",
        "DIRECT.GET.FARSIDE_LOCAL.far.v1.local.evt.dc1.resource.r1.changed",
        "DIRECT.GET.FARSIDE_LOCAL.far.v1.local.evt.dc3.resource.r1.changed",
        "STREAM.MSG.GET.FARSIDE_LOCAL",
        "STREAM.INFO.FARSIDE_LOCAL",
        "STREAM.NAMES",
        "STREAM.CREATE.MINE",
        "STREAM.UPDATE.FARSIDE_LOCAL",
        "STREAM.PURGE.FARSIDE_LOCAL",
        "STREAM.DELETE.FARSIDE_LOCAL",
        "INFO",
    ];
    for prefix in ["$JS.API", "$JS.FARSIDE.API"] {
        for verb in api {
            is_mute(&bus, &format!("{prefix}.{verb}")).await;
        }
    }
    for subject in [
        "far.v1.local.evt.dc1.resource.r1.changed",
        "far.v1.local.tgt.log.target.lease_acquired",
        "far.v1.local.cmd.dc1.resource.sync",
        "far.v1.local.cmd.dc1.agent.hello",
        "far.v1.local.cmd.target.log.state",
        "far.v1.local.dlq.pump.resource",
        "$JS.ACK.FARSIDE_LOCAL.reader-other.1.7.1.1700000000000000000.0",
        "$JS.EVENT.ADVISORY.API",
    ] {
        is_mute(&bus, subject).await;
    }
    for subject in
        ["far.v1.local.evt.dc1.>", "far.v1.local.dlq.>", "far.v1.local.cmd.>", "$JS.EVENT.ADVISORY.>", ">"]
    {
        is_deaf(&bus, subject).await;
    }
    assert_eq!(site.stored("FARSIDE_LOCAL").await, before);
    let other = info(&site, "reader-other").await;
    assert_eq!(other["num_pending"], json!(3), "nobody has read or settled anything of it: {other}");
}

#[tokio::test]
async fn what_a_reader_pulls_comes_to_itself_alone_wherever_it_leads_it() {
    let (site, _) = started().await;
    let client = site.client(&site.seed("mine")).await;
    let mut overheard = site.overhear().await;
    let pull = || json!({ "batch": 2, "no_wait": true }).to_string();
    let replies = [
        "far.v1.local.tgt.log.target.lease_acquired",
        "far.v1.local.cmd.target.log.state",
        "$JS.API.STREAM.PURGE.FARSIDE_LOCAL",
    ];
    for reply in replies {
        client.publish_with_reply(NEXT, reply, pull().into()).await.unwrap();
    }
    // It is asked behind those, so that what they brought is out when this is over.
    pulled(&client, NEXT, &client.new_inbox()).await;
    let before = site.stored("FARSIDE_LOCAL").await;
    site.service.publisher().publish("FARSIDE_LOCAL", &of("dc3", 99), None).await.unwrap();
    loop {
        let message = within("it is overheard", overheard.next()).await.unwrap();
        let subject = message.subject.as_str();
        if subject == "far.v1.local.evt.dc3.resource.r99.changed" {
            break;
        }
        assert!(!replies.contains(&subject), "{subject} was led into the account of the logs");
    }
    assert_eq!((before, site.stored("FARSIDE_TGT_LOCAL").await), (9, 0));
}
