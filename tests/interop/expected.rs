//! What a reader in any language must say of a log: each message read by Farside's own envelope, and its chain.

use std::collections::HashMap;

use bus::{Bus, LogMessage};
use bus_schema::{Hash32, Timestamp, chain::Link, envelope::Envelope, id::Epoch};
use serde_json::Value;

use super::LOG;

/// An event of the log; none of it for what is no event.
pub(super) struct Expected {
    pub(super) seq: u64,
    subject: String,
    event: Option<Event>,
}

struct Event {
    source: String,
    id: String,
    event_type: String,
    time: Timestamp,
    data: Value,
    chain: &'static str,
}

/// The sequence and the hash of the last event of each source and epoch.
type Heads = HashMap<(String, Epoch), (u64, Hash32)>;

/// What the log has from a sequence on.
pub(super) async fn log_from(bus: &Bus, first: u64) -> Vec<Expected> {
    let mut heads = Heads::new();
    let mut found = Vec::new();
    for seq in first..=bus.stream_state(LOG).await.unwrap().last_seq {
        let message = bus.message(LOG, seq).await.unwrap().unwrap();
        let event = event_of(&message, &mut heads);
        found.push(Expected { seq, subject: message.subject().to_owned(), event });
    }
    found
}

fn event_of(message: &LogMessage, heads: &mut Heads) -> Option<Event> {
    message.with_stored(|stored| {
        let read = Envelope::read(stored).ok()?;
        let data = serde_json::from_slice(&read.data).ok()?;
        let link = read.link.zip(read.hash);
        let chain = link.map_or("unchained", |(link, hash)| followed(heads, &read.source, link, hash));
        let (source, id) = (read.source.into_owned(), read.id.into_owned());
        Some(Event { source, id, event_type: read.event_type.into_owned(), time: read.time, data, chain })
    })
}

fn followed(heads: &mut Heads, source: &str, link: Link, hash: Hash32) -> &'static str {
    let own = (link.at.seq, hash);
    let head = heads.insert((source.to_owned(), link.at.epoch), own);
    match head {
        None if link.at.seq > 1 => "first",
        Some(head) if head == own => "ok",
        head if head.unwrap_or((0, Hash32::ZERO)) == (link.at.seq - 1, link.prev) => "ok",
        _ => "broken",
    }
}

impl Expected {
    /// How the event hangs in its chain.
    pub(super) fn chain(&self) -> Option<&'static str> {
        self.event.as_ref().map(|event| event.chain)
    }

    /// The line of a reader says this, whatever else it says.
    pub(super) fn check(&self, line: &Value) {
        assert_eq!((&line["seq"], &line["subject"]), (&self.seq.into(), &(*self.subject).into()), "{line}");
        let Some(event) = &self.event else { return };
        for (name, value) in [
            ("source", &*event.source),
            ("id", &event.id),
            ("type", &event.event_type),
            ("chain", event.chain),
        ] {
            assert_eq!(line[name], value, "{name} of {line}");
        }
        assert_eq!(line["data"], event.data, "{line}");
        let time = line["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
        // A client that keeps the log's time as a fraction may round it.
        assert!(
            time.unix_ms().abs_diff(event.time.unix_ms()) <= 1,
            "{} is not the time of {line}",
            event.time
        );
    }
}
