//! A NATS key-value bucket with the same data: each event's body put to its resource's key, as many in flight as pays.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull::OrderedConfig},
    stream::{Config, DiscardPolicy, Stream},
};
use futures_util::StreamExt as _;
use serde::Deserialize;

use super::racer::{Task, Told};
use crate::{Outcome, process};

/// Puts that wait for their answer: enough that the server always has some to store.
const IN_FLIGHT: usize = 1_000;
/// How long one may wait for it: the server stores those before it first, each with a sync.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// It is stopped after this time: a rate that holds for so long is one.
const LONGEST: Duration = Duration::from_secs(60);
/// The bucket, and its stream.
const BUCKET: &str = "race";
const STREAM: &str = "KV_race";

/// As much of a resource as a key needs.
#[derive(Deserialize)]
struct Resource<'a> {
    kind: &'a str,
    id: &'a str,
    revision: &'a str,
}

/// As every client makes a bucket with a history of 1; this one is built without its part for buckets.
fn config() -> Config {
    Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// Puts one event after the other, in order, without waiting for each.
pub(crate) async fn run(task: &Task) -> Outcome<Told> {
    let client = async_nats::connect(&task.bucket_url).await?;
    let to = jetstream::ContextBuilder::new().timeout(ANSWER_MAX).ack_timeout(ANSWER_MAX).build(client);
    // Of an earlier round, perhaps.
    let _ = to.delete_stream(STREAM).await;
    let bucket = to.create_stream(config()).await?;
    let (start, cpu) = (Instant::now(), process::cpu_seconds()?);
    let from = jetstream::new(async_nats::connect(&task.url).await?);
    let ordered = OrderedConfig { deliver_policy: DeliverPolicy::All, ..OrderedConfig::default() };
    let log = from.get_stream(&task.stream).await?;
    let mut messages = log.create_consumer(ordered).await?.messages().await?;
    let (mut acks, mut events) = (VecDeque::with_capacity(IN_FLIGHT), 0);
    while events < task.events && start.elapsed() < LONGEST {
        let message = messages.next().await.ok_or("the log ended early")??;
        let resource: Resource<'_> = serde_json::from_slice(&message.payload)?;
        let subject = format!("$KV.{BUCKET}.{}/{}", resource.kind, resource.id);
        // What `Store::put` does, but for waiting.
        acks.push_back(to.publish(subject, message.payload.clone()).await?);
        if acks.len() == IN_FLIGHT
            && let Some(oldest) = acks.pop_front()
        {
            oldest.await?;
        }
        events += 1;
    }
    for ack in acks {
        ack.await?;
    }
    let (seconds, cpu_seconds) = (start.elapsed().as_secs_f64(), process::cpu_seconds()? - cpu);
    let peak_bytes = process::memory(Path::new("/proc/self"), "VmHWM")?;
    let (rows, revisions) = count(&bucket).await?;
    to.delete_stream(STREAM).await?;
    Ok(Told { events, seconds, cpu_seconds, peak_bytes, rows, revisions })
}

/// The keys, and what their revisions add up to.
async fn count(bucket: &Stream) -> Outcome<(u64, u64)> {
    let rows = bucket.get_info().await?.state.messages;
    let mut messages = bucket.create_consumer(OrderedConfig::default()).await?.messages().await?;
    let mut revisions = 0;
    for _ in 0..rows {
        let message = messages.next().await.ok_or("the bucket ended early")??;
        let resource: Resource<'_> = serde_json::from_slice(&message.payload)?;
        revisions += resource.revision.parse::<u64>()?;
    }
    Ok((rows, revisions))
}
