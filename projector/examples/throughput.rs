//! How fast the projector is, without a bus: a million chained events over a hundred thousand keys,
//! folded and committed from memory. Rates are per second of this thread's processor time, so that a
//! busy machine does not change them much; the wall clock is beside them.
//!
//! `cargo run --release -p projector --example throughput [events] [keys] [directory]`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures, and prints what it measured"
)]

use std::{error::Error, path::PathBuf, time::Instant};

use bus_schema::{
    Epoch, Hash32, Timestamp,
    chain::{ChainPoint, Link, Sealed},
    envelope::Stored,
    token,
};
use projector::{Batch, Store, StoreOptions};

const STREAM: &str = "FARSIDE_LOCAL";
const SOURCE: &str = "/local/dc1/resource/bench";
const TIME: &str = "2026-11-22T04:31:48.123Z";

struct Message {
    subject: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    hash: Hash32,
}

/// Processor and wall time, in seconds: first when something began, then how long it took.
#[derive(Clone, Copy, Default)]
struct Clock {
    processor: f64,
    wall: Option<Instant>,
    wall_seconds: f64,
}

impl Clock {
    fn start() -> Self {
        Self { processor: processor_seconds(), wall: Some(Instant::now()), wall_seconds: 0.0 }
    }

    /// Adds what passed since `begun`.
    fn add(&mut self, begun: Self) {
        self.processor += processor_seconds() - begun.processor;
        self.wall_seconds += begun.wall.map_or(0.0, |wall| wall.elapsed().as_secs_f64());
    }

    fn rate(self, events: u64) -> String {
        let mut passed = Self::default();
        match self.wall {
            Some(_) => passed.add(self),
            None => passed = self,
        }
        let (processor, wall) = (events as f64 / passed.processor, events as f64 / passed.wall_seconds);
        format!("{processor:.0} events/s of processor time ({wall:.0} by the wall clock)")
    }
}

/// What this thread has used of a processor, where the system tells it (Linux); else nothing.
fn processor_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    told.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (events, keys) = (number(0, 1_000_000)?, number(1, 100_000)?);
    let directory = arguments.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let messages = messages(events, keys);
    let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
    println!("{events} events over {keys} keys, {} bytes of data each", bytes / messages.len());

    let begun = Clock::start();
    for chunk in messages.chunks(65_536) {
        drop(fold(chunk, 1));
    }
    println!("push alone: {}", begun.rate(events));
    for size in [1_000, 10_000, 65_536, 200_000] {
        let path = directory.join(format!("throughput-{}.redb", std::process::id()));
        let store = Store::open(&path, StoreOptions::default())?;
        store.begin_log(STREAM, Timestamp::default())?;
        let (mut pushing, mut committing) = (Clock::default(), Clock::default());
        for (number, chunk) in messages.chunks(size).enumerate() {
            let push = Clock::start();
            let batch = fold(chunk, (number * size) as u64 + 1);
            pushing.add(push);
            let commit = Clock::start();
            store.commit(batch)?;
            committing.add(commit);
        }
        println!("batches of {size}: push {}, commit {}", pushing.rate(events), committing.rate(events));
        drop(store);
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

fn fold(messages: &[Message], first_seq: u64) -> Batch {
    let mut batch = Batch::new(STREAM);
    let mut headers = Vec::with_capacity(8);
    for (seq, message) in (first_seq..).zip(messages) {
        headers.clear();
        headers.extend(message.headers.iter().map(|(name, value)| (*name, value.as_str())));
        let stored = Stored {
            subject: &message.subject,
            headers: &headers,
            body: message.body.as_bytes(),
            stream: STREAM,
            seq,
            stored_at: Timestamp::from_unix_ms(1_800_000_000_000 + seq as i64),
        };
        batch.push(stored);
    }
    batch
}

fn messages(events: u64, keys: u64) -> Vec<Message> {
    let mut prev = Hash32::ZERO;
    (1..=events)
        .map(|seq| {
            let message = message(seq, seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys, prev);
            prev = message.hash;
            message
        })
        .collect()
}

fn message(seq: u64, key: u64, prev: Hash32) -> Message {
    let (kind, name) = ("Deployment", format!("ns-{:03}/web-{key:06}", key % 97));
    let body = format!(
        r#"{{"kind":"{kind}","id":"{name}","revision":"{seq}","state":{{"image":"registry.example/web:{seq}","note":"the quick brown fox jumps over the lazy dog","replicas":{},"status":{{"available":{},"conditions":["Ready","Progressing"]}},"zone":"a-{}"}}}}"#,
        seq % 9,
        seq % 7,
        key % 3
    );
    let subject = format!("far.v1.local.evt.dc1.resource.{}.changed", token::of(&format!("{kind}/{name}")));
    let id = format!("0198f3a2-7c1e-7aaa-8bbb-{seq:012x}");
    let at = ChainPoint { epoch: Epoch(7), seq };
    let sealed = Sealed {
        source: SOURCE,
        id: &id,
        event_type: "resource.changed",
        subject: &subject,
        time: TIME,
        link: Link { at, prev },
        body: body.as_bytes(),
    };
    let hash = sealed.hash();
    let headers = vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", id),
        ("ce-source", SOURCE.to_owned()),
        ("ce-type", "resource.changed".to_owned()),
        ("ce-time", TIME.to_owned()),
        ("ce-farepoch", at.epoch.to_string()),
        ("ce-farseq", seq.to_string()),
        ("ce-farprev", prev.to_string()),
    ];
    Message { subject, headers, body, hash }
}
