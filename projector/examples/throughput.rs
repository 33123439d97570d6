//! How fast the projector is, without a bus: a million chained events over a hundred thousand keys,
//! folded and committed from memory.
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

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (events, keys) = (number(0, 1_000_000)?, number(1, 100_000)?);
    let directory = arguments.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let messages = messages(events, keys);
    let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
    println!("{events} events over {keys} keys, {} bytes of data each", bytes / messages.len());

    let begun = Instant::now();
    for chunk in messages.chunks(65_536) {
        drop(fold(chunk, 1));
    }
    println!("push alone: {:.0} events/s", events as f64 / begun.elapsed().as_secs_f64());
    for size in [1_000, 10_000, 65_536, 200_000] {
        let path = directory.join(format!("throughput-{}.redb", std::process::id()));
        let store = Store::open(&path, StoreOptions::default())?;
        store.begin_log(STREAM, Timestamp::default())?;
        let (begun, mut committing) = (Instant::now(), 0.0);
        for (number, chunk) in messages.chunks(size).enumerate() {
            let batch = fold(chunk, (number * size) as u64 + 1);
            let commit = Instant::now();
            store.commit(batch)?;
            committing += commit.elapsed().as_secs_f64();
        }
        let whole = begun.elapsed().as_secs_f64();
        println!(
            "batches of {size}: {:.0} events/s (push {:.2} s, commit {committing:.2} s: {:.0} events/s)",
            events as f64 / whole,
            whole - committing,
            events as f64 / committing
        );
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
        batch.push(stored, message.hash);
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
        r#"{{"kind":"{kind}","id":"{name}","revision":"{seq}","state":{{"image":"registry.example/web:{seq}","replicas":{},"status":{{"available":{},"conditions":["Ready","Progressing"]}},"zone":"a-{}","note":"the quick brown fox jumps over the lazy dog"}}}}"#,
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
