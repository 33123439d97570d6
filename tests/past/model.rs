//! What a pool is, as simply as it can be said: a map from resource to row, one message of the log after the other. The
//! specification of every answer about the past. It shares no code with the projector: its own reading of messages, its
//! own rules, its own RFC 8785.
//!
//! Left out, because the world of the test has none of it: chains with gaps or forks, and full answers that would delete
//! so much that a person is asked.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::Hash32;
use serde_json::{Map, Value, json};

/// A full answer that would delete so many rows may be held until a person has looked.
const HELD_FROM: usize = 10;

/// A message as the log has it.
pub(super) struct Raw {
    pub(super) seq: u64,
    /// RFC 3339, milliseconds.
    pub(super) stored_at: String,
    pub(super) subject: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// The pool of one cluster.
#[derive(Default)]
pub(super) struct Model {
    rows: BTreeMap<String, Row>,
    /// Per source, its epochs in order, each with the last sequence of it.
    epochs: BTreeMap<String, Vec<(String, u64)>>,
    /// Full answers that have begun: per source and sync, the chain's sequence before it and the log's at it.
    windows: BTreeMap<(String, String), (u64, u64)>,
    /// When the log stored the end of the last full answer of each source.
    answered: BTreeMap<String, String>,
    /// Messages that cannot be read, by their sequences: subject, and when the log stored them.
    pub(super) parked: BTreeMap<u64, (String, String)>,
    /// Those of them of which a copy was taken in.
    pub(super) redriven: BTreeSet<u64>,
    /// Rows that full answers deleted.
    pub(super) buried: usize,
}

/// A resource.
#[derive(Clone, Default)]
struct Row {
    owner: String,
    /// Epoch and sequence in the source's chain; none = unchained.
    chain: Option<(String, u64)>,
    /// The log's sequence; of a copy of a dead letter, its original's.
    seq: u64,
    place: String,
    source_time: String,
    stored_at: String,
    deleted_at: Option<String>,
    /// Revision and state.
    state: Option<(Value, Value)>,
    labels: Map<String, Value>,
    tenant: Option<String>,
    notice: Option<Value>,
}

/// Where an event stands.
struct Place<'a> {
    stream: &'a str,
    seq: u64,
    stored_at: &'a str,
}

impl Place<'_> {
    fn text(&self) -> String {
        format!("{}:{}", self.stream, self.seq)
    }
}

/// An event about a resource, or about a sync.
struct Event {
    source: String,
    chain: Option<(String, u64)>,
    time: String,
    tenant: Option<String>,
    name: String,
    data: Value,
}

impl Model {
    /// Takes in the next message.
    pub(super) fn take(&mut self, raw: &Raw, stream: &str) {
        if raw.headers.contains_key("farside-redrive") {
            return self.again(raw, stream);
        }
        let Some(event) = read(raw) else {
            self.parked.insert(raw.seq, (raw.subject.clone(), raw.stored_at.clone()));
            return;
        };
        if self.goes_on(&event) {
            self.count(&Place { stream, seq: raw.seq, stored_at: &raw.stored_at }, event, false);
        }
    }

    /// A copy of a dead letter, mended by the patch that it brings. It counts once; it stands where its original stands,
    /// and what came after that is newer: later events, and a full answer.
    fn again(&mut self, raw: &Raw, stream: &str) {
        let seq = raw.headers["farside-redrive"].rsplit(':').next().and_then(|seq| seq.parse().ok());
        let Some((seq, (subject, stored_at))) =
            seq.and_then(|seq| Some((seq, self.parked.get(&seq)?.clone())))
        else {
            return;
        };
        let origin = Raw {
            seq,
            stored_at,
            subject: raw.subject.clone(),
            headers: raw.headers.clone(),
            body: patched(raw).unwrap_or_default(),
        };
        let Some(event) = read(&origin).filter(|_| subject == raw.subject) else { return };
        let is_answered = self.answered.get(&event.source).is_some_and(|at| *at >= origin.stored_at);
        if self.redriven.insert(seq) && !is_answered {
            self.count(&Place { stream, seq, stored_at: &origin.stored_at }, event, true);
        }
    }

    fn count(&mut self, at: &Place<'_>, event: Event, is_copy: bool) {
        match event.name.as_str() {
            "resource.changed" | "resource.noticed" | "resource.deleted" => self.row(at, event, is_copy),
            "resource.sync_opened" if event.data["scope"] == "full" => {
                let low = event.data["low"]["seq"].as_str().unwrap().parse().unwrap();
                self.windows.insert((event.source, text(&event.data["sync_id"])), (low, at.seq));
            }
            "resource.sync_closed" => {
                let opened = self.windows.remove(&(event.source.clone(), text(&event.data["sync_id"])));
                if let Some((low, opened)) = opened.filter(|_| event.chain.is_some()) {
                    self.sweep(at, &event, low, opened);
                    self.answered.insert(event.source, at.stored_at.to_owned());
                }
            }
            _ => {}
        }
    }

    /// Whether an event is the next one of its chain, or has none: each counts once, and an epoch that is over never again.
    fn goes_on(&mut self, event: &Event) -> bool {
        let Some((epoch, seq)) = &event.chain else { return true };
        let epochs = self.epochs.entry(event.source.clone()).or_default();
        match epochs.iter().position(|(known, _)| known == epoch) {
            None => {
                epochs.push((epoch.clone(), *seq));
                self.windows.retain(|(source, _), _| *source != event.source);
                true
            }
            Some(at) if at + 1 == epochs.len() && epochs[at].1 < *seq => {
                epochs[at].1 = *seq;
                true
            }
            Some(_) => false,
        }
    }

    /// The last event about a resource is what it is.
    fn row(&mut self, at: &Place<'_>, event: Event, is_copy: bool) {
        let key = format!("{}/{}", text(&event.data["kind"]), text(&event.data["id"]));
        if is_copy && self.rows.get(&key).is_some_and(|row| row.seq > at.seq) {
            return;
        }
        let mut row = Row {
            owner: event.source,
            chain: event.chain,
            seq: at.seq,
            place: at.text(),
            source_time: event.time,
            stored_at: at.stored_at.to_owned(),
            ..Row::default()
        };
        let data = event.data;
        match event.name.as_str() {
            "resource.changed" => {
                row.state = Some((data["revision"].clone(), data["state"].clone()));
                row.labels = data["labels"].as_object().cloned().unwrap_or_default();
                row.tenant = event.tenant;
            }
            "resource.noticed" => {
                // A state that was announced: the one before it stays until it comes.
                let before =
                    self.rows.get(&key).filter(|row| row.deleted_at.is_none()).cloned().unwrap_or_default();
                let since = before.notice.map_or(json!(at.stored_at), |notice| notice["since"].clone());
                row.notice = Some(json!({
                    "revision": data["revision"],
                    "state_hash": data["state_hash"],
                    "size_bytes": data["size_bytes"],
                    "since": since,
                }));
                (row.state, row.labels) = (before.state, before.labels);
                row.tenant = event.tenant.or(before.tenant);
            }
            _ => row.deleted_at = Some(at.stored_at.to_owned()),
        }
        self.rows.insert(key, row);
    }

    /// The end of a full answer: what the source had before it, and the answer does not have, is gone.
    fn sweep(&mut self, at: &Place<'_>, close: &Event, low: u64, opened: u64) {
        let epoch = close.chain.as_ref().map(|(epoch, _)| epoch);
        let is_before = |row: &&mut Row| {
            let absent = match &row.chain {
                Some((of, seq)) if Some(of) == epoch => *seq <= low,
                Some(_) => true,
                None => row.seq < opened,
            };
            absent && row.owner == close.source && row.deleted_at.is_none()
        };
        let absent: Vec<_> = self.rows.values_mut().filter(is_before).collect();
        assert!(absent.len() < HELD_FROM, "the world deletes more at once than this model knows of");
        for row in absent {
            // It keeps its place in the chain, and has the log's of the answer.
            let stored_at = at.stored_at.to_owned();
            *row = Row {
                owner: row.owner.clone(),
                chain: row.chain.clone(),
                seq: at.seq,
                place: at.text(),
                source_time: stored_at.clone(),
                stored_at: stored_at.clone(),
                deleted_at: Some(stored_at),
                ..Row::default()
            };
            self.buried += 1;
        }
    }

    /// How many rows are tombstones.
    pub(super) fn tombstones(&self) -> usize {
        self.rows.values().filter(|row| row.deleted_at.is_some()).count()
    }

    /// Every row as a line of RFC 8785 JSON, sorted by key.
    pub(super) fn export(&self) -> String {
        self.rows.iter().map(|(key, row)| canonical(&row.shown(key)) + "\n").collect()
    }
}

impl Row {
    fn shown(&self, key: &str) -> Value {
        let mut line = Map::new();
        let mut put =
            |name: &str, value: Option<Value>| line.extend(value.map(|value| (name.to_owned(), value)));
        let (revision, state) = self.state.clone().unzip();
        put("state_hash", state.as_ref().map(|state| json!(Hash32::of(canonical(state).as_bytes()))));
        put("key", Some(json!(key)));
        put("owner", Some(json!(self.owner)));
        put("revision", revision);
        put("state", state);
        put("tenant", self.tenant.as_ref().map(|tenant| json!(tenant)));
        put("labels", (!self.labels.is_empty()).then(|| json!(self.labels)));
        put("epoch", self.chain.as_ref().map(|(epoch, _)| json!(epoch)));
        put("seq", self.chain.as_ref().map(|(_, seq)| json!(seq.to_string())));
        put("place", Some(json!(self.place)));
        put("source_time", Some(json!(self.source_time)));
        put("stored_at", Some(json!(self.stored_at)));
        put("deleted_at", self.deleted_at.as_ref().map(|at| json!(at)));
        put("notice", self.notice.clone());
        Value::Object(line)
    }
}

/// The body of a copy with its patch (RFC 6902, members of the object itself only); none = it does not fit.
fn patched(raw: &Raw) -> Option<Vec<u8>> {
    let Some(patch) = raw.headers.get("farside-redrive-patch") else { return Some(raw.body.clone()) };
    let mut body: Map<String, Value> = serde_json::from_slice(&raw.body).ok()?;
    for step in serde_json::from_str::<Value>(patch).ok()?.as_array()? {
        let name = step["path"].as_str()?.strip_prefix('/')?;
        match step["op"].as_str()? {
            "add" => body.insert(name.to_owned(), step["value"].clone()),
            "remove" => Some(body.remove(name)?),
            _ => return None,
        };
    }
    serde_json::to_vec(&body).ok()
}

/// A message as an event; none = it cannot be read.
fn read(raw: &Raw) -> Option<Event> {
    let parts: Vec<_> = raw.subject.split('.').collect();
    let ["far", "v1", site, "evt", cluster, stem, token, name] = parts[..] else { return None };
    let body: Value = serde_json::from_slice(&raw.body).ok()?;
    let is_structured = ["specversion", "id", "source", "type"].iter().all(|name| body[name].is_string());
    let is_binary = raw.headers.contains_key("ce-specversion");
    let attributes: BTreeMap<String, String> = if is_binary {
        let of =
            |(name, value): (&String, &String)| Some((name.strip_prefix("ce-")?.to_owned(), value.clone()));
        raw.headers.iter().filter_map(of).collect()
    } else if is_structured {
        let of = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        body.as_object()?.iter().filter_map(of).collect()
    } else {
        BTreeMap::new()
    };
    let data = if is_structured && !is_binary { body["data"].clone() } else { body };
    let attribute = |name: &str| attributes.get(name).cloned();
    let chain = attribute("farepoch").zip(attribute("farseq").and_then(|seq| seq.parse().ok()));
    let event = Event {
        source: attribute("source").unwrap_or_else(|| format!("/{site}/{cluster}/{stem}/plain")),
        time: attribute("time").unwrap_or_else(|| raw.stored_at.clone()),
        tenant: attribute("fartenant"),
        name: format!("{stem}.{name}"),
        chain,
        data,
    };
    let says_its_type = attribute("type").is_none_or(|of| of == event.name);
    let says_its_place = event.source.starts_with(&format!("/{site}/{cluster}/"));
    // A key opens a pool: only an agent's chain announces one.
    let may = stem != "key" || event.chain.is_some();
    (says_its_type && says_its_place && may && is_whole(&event, token)).then_some(event)
}

/// Whether an event has what its kind needs, on the subject of its entity.
fn is_whole(event: &Event, token: &str) -> bool {
    let data = &event.data;
    let has =
        |names: &[&str]| names.iter().all(|name| data[name].as_str().is_some_and(|text| !text.is_empty()));
    let is_of_key = || token == token_of(&format!("{}/{}", text(&data["kind"]), text(&data["id"])));
    match event.name.as_str() {
        "resource.changed" => has(&["kind", "id", "revision"]) && data.get("state").is_some() && is_of_key(),
        "resource.noticed" => has(&["kind", "id", "revision", "state_hash", "size_bytes"]) && is_of_key(),
        "resource.deleted" => has(&["kind", "id"]) && is_of_key(),
        "resource.sync_opened" | "resource.sync_closed" => event.chain.is_some(),
        "agent.started" | "agent.heartbeat" | "agent.stopped" | "agent.epoch_closed" => true,
        "key.announced" | "key.withdrawn" => true,
        _ => false,
    }
}

fn token_of(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'-' => char::from(byte).to_string(),
            _ => format!("={byte:02X}"),
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// RFC 8785: no blanks, names sorted by their UTF-16 units, numbers as ECMAScript writes them (here without an exponent).
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            let members = members.iter().map(|(name, value)| format!("{}:{}", json!(name), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap().to_string(),
        other => other.to_string(),
    }
}
