//! The logs for people and programs: messages, what they did to a resource, and what a replay came to.

use std::fmt;

use bus_schema::{Hash32, PoolId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::AsOfView;

/// Characters of a value that a line shows; programs read the whole one.
const VALUE_CHARS_MAX: usize = 200;

/// One message of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryView {
    /// `stream:seq`.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// When whoever sent it says that it happened.
    pub time: Timestamp,
    /// Who: the source of an event; of a fact whoever asked for it, else the service. Empty when it cannot be read.
    pub actor: String,
    /// `<stem>.<event>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The pool that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The entity that it speaks of; of a message that cannot be read, what its subject says.
    pub entity: String,
    /// What it says, in short.
    pub summary: String,
    /// CloudEvents `id`.
    pub id: String,
    /// Its place in its source's chain, `epoch:seq`; absent = unchained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The sync that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<String>,
    /// The tenant that the entity belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// It is a copy of the dead letter whose original stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<String>,
    /// Its data; absent when it is no JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Why it cannot be read, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// One line of `GET /v1/audit/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TailLine {
    /// The next message.
    Entry(Box<EntryView>),
    /// There are no more although more was asked for: why, and what to do.
    Ended(String),
}

/// A difference between two states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ChangeView {
    /// It is another value.
    Changed {
        /// Where, for example `state.spec.replicas`.
        path: String,
        /// What it was.
        old: Value,
        /// What it is.
        new: Value,
    },
    /// It is new.
    Added {
        /// Where.
        path: String,
        /// What it is.
        new: Value,
    },
    /// It is gone.
    Removed {
        /// Where.
        path: String,
        /// What it was.
        old: Value,
    },
}

impl fmt::Display for ChangeView {
    /// A line: `~ path: old -> new`, `+ path: new`, `- path: old`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { path, old, new } => write!(f, "~ {path}: {} -> {}", short(old), short(new)),
            Self::Added { path, new } => write!(f, "+ {path}: {}", short(new)),
            Self::Removed { path, old } => write!(f, "- {path}: {}", short(old)),
        }
    }
}

/// A value as JSON text that is not too long for a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
    }
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangesView {
    /// In order of the old state, then what is new.
    pub changes: Vec<ChangeView>,
    /// So many more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

impl ChangesView {
    /// A line for each, and one for those that are only counted.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("… and {} more differences", self.more));
        self.changes.iter().map(ToString::to_string).chain(more)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What an event did to its resource; of another message, how it differs from the one before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EffectView {
    /// The differences.
    #[serde(flatten)]
    pub changes: ChangesView,
    /// Why it did nothing, in words; absent = it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<String>,
}

impl EffectView {
    /// Nothing, and why.
    pub(crate) fn nothing(why: impl Into<String>) -> Self {
        Self { none: Some(why.into()), ..Self::default() }
    }

    /// Lines for people.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.none.iter().map(|why| format!("no effect: {why}")).chain(self.changes.lines())
    }
}

/// One message with everything that is known of it: `GET /v1/audit/events/{place}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownView {
    /// What it says.
    pub entry: EntryView,
    /// Its subject.
    pub subject: String,
    /// Its headers as the log has them, sorted.
    pub headers: Vec<(String, String)>,
    /// The size of its body, in bytes.
    pub bytes: u64,
    /// `plain`, `structured` or `binary`; absent when it cannot be read, and for facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Its place in its source's chain; absent = unchained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<LinkView>,
    /// Whether it is what the pool read there.
    pub seal: SealState,
    /// Why it became a dead letter; absent = it never was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<ParkedView>,
    /// The message that it is compared with, `stream:seq`; absent = nothing was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// What it did.
    pub effect: EffectView,
}

/// A place in a chain, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// `epoch:seq`.
    pub at: String,
    /// The hash of the event before it.
    pub prev: Hash32,
    /// Its own hash.
    pub hash: Hash32,
    /// Whether the pool has checked it, in words.
    pub checked: String,
}

/// Whether a message is what the pool read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealState {
    /// It is.
    Equal,
    /// It is another one.
    Different,
    /// The pool has not read so far.
    Unread,
}

/// Why a message became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedView {
    /// What is wrong and what to do.
    pub reason: String,
    /// Where the fault is.
    pub path: String,
    /// The copy that was taken in, `stream:seq`; absent = it is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redriven: Option<String>,
}

/// What a replay came to: `POST /v1/audit/replay`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayView {
    /// The site log that was replayed.
    pub stream: String,
    /// Up to where in each log.
    pub as_of: AsOfView,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The pools that there were.
    pub pools: Vec<ReplayedPoolView>,
}

/// A pool as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayedPoolView {
    /// The pool.
    pub pool: PoolId,
    /// Live resources.
    pub resources: u64,
    /// Tombstones.
    pub deleted: u64,
    /// Its sources.
    pub sources: Vec<ReplayedSourceView>,
}

/// What a source had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayedSourceView {
    /// CloudEvents `source`.
    pub source: String,
    /// Its live resources.
    pub rows: u64,
    /// SHA-256 over them, as a signed checkpoint of that moment has it.
    pub rows_sha256: Hash32,
    /// The place in its chain, `epoch:seq`; absent = it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}
