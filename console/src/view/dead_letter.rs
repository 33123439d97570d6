//! Dead letters as the API shows them.

use bus_schema::{Timestamp, fact::log::parked::Upcaster};
use projector::{ParkedGroup, ParkedRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A dead letter as its own log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// Where the original stands, `stream:seq`.
    pub place: String,
    /// The original's subject.
    pub subject: String,
    /// What is wrong and what to do.
    pub reason: String,
    /// The JSON path or header of the fault.
    pub path: String,
    /// Who could not take it in.
    pub consumer: String,
    /// When it became a dead letter.
    pub parked_at: Timestamp,
    /// Where the dead letter stands, with the original's headers and body, `stream:seq`.
    pub letter: String,
    /// Where the copy stands that was taken in since, `stream:seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redriven: Option<String>,
}

/// Dead letters, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLettersView {
    /// The dead letters.
    pub items: Vec<DeadLetterView>,
    /// There are older ones: ask again with this as `before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What is parked, by the kind of the reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterGroupsView {
    /// The kinds, those with the most messages first.
    pub items: Vec<DeadLetterGroupView>,
    /// Messages of kinds that are not listed.
    pub others: u64,
}

/// Messages that are parked for one kind of reason: what is quoted in it, and numbers, make no difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterGroupView {
    /// How many.
    pub count: u64,
    /// When a log stored the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_at: Option<Timestamp>,
    /// And the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// One of them, `stream:seq`.
    pub example: String,
    /// The subject of that one.
    pub subject: String,
    /// What is wrong with that one, and what to do.
    pub reason: String,
    /// Where in it.
    pub path: String,
}

impl From<ParkedGroup> for DeadLetterGroupView {
    fn from(group: ParkedGroup) -> Self {
        let ParkedGroup { count, stored, example } = group;
        Self {
            count,
            first_at: stored.map(|(first, _)| first),
            last_at: stored.map(|(_, last)| last),
            example: example.place(),
            subject: example.subject,
            reason: example.reason,
            path: example.path,
        }
    }
}

/// One dead letter, with its original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterView {
    /// Where the original stands, `stream:seq`.
    pub place: String,
    /// Its subject.
    pub subject: String,
    /// What is wrong and what to do: with the last copy, if there was one.
    pub reason: String,
    /// Where the fault is.
    pub path: String,
    /// Copies that could not be taken in either.
    pub attempts: u32,
    /// When the log stored the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_at: Option<Timestamp>,
    /// Its source and its place in that one's chain, `epoch:seq`, if it was read that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<(String, String)>,
    /// Where the copy stands that was taken in, `stream:seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redriven: Option<String>,
    /// Whether that copy changed anything; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// The original; absent when neither the pool nor the log holds it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<OriginalView>,
    /// Why there is no original, and where to look instead; absent when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A message as the log stored it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalView {
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in hex, if it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hex: Option<String>,
}

impl LetterView {
    /// What is known of a parked message, with its original if that was found; `dead_letters` is their own log.
    pub fn new(record: ParkedRecord, original: Option<OriginalView>, dead_letters: &str) -> Self {
        let (place, redriven) = (record.place(), record.redriven);
        let changed = redriven.map(|_| record.changed);
        let missing = original.is_none().then(|| missing(&record, dead_letters));
        let ParkedRecord { stream, subject, reason, path, attempts, stored_at, chained, .. } = record;
        let chain = chained.map(|(source, at)| (source, format!("{}:{}", at.epoch, at.seq)));
        let redriven = redriven.map(|copy| format!("{stream}:{copy}"));
        Self {
            place,
            subject,
            reason,
            path,
            attempts,
            stored_at,
            chain,
            redriven,
            changed,
            original,
            missing,
        }
    }
}

fn missing(record: &ParkedRecord, dead_letters: &str) -> String {
    match record.redriven {
        Some(copy) => {
            format!(
                "the log does not hold it any more; its copy at {}:{copy} is it to the letter",
                record.stream
            )
        }
        None => {
            format!("neither the pool nor the log holds it any more; {dead_letters} has its headers and body")
        }
    }
}

/// What became of some dead letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RedriveView {
    /// Each, in order of their places.
    pub items: Vec<RedriveItem>,
    /// There may be more: ask again with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What mended them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upcaster: Option<Upcaster>,
}

/// What became of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RedriveItem {
    /// Where the original stands, `stream:seq`.
    pub place: String,
    /// Its subject.
    pub subject: String,
    /// What became of it, or would.
    #[serde(flatten)]
    pub outcome: RedriveOutcome,
}

/// What became of a dead letter, or would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RedriveOutcome {
    /// A copy of it was taken in, now or before.
    Redriven {
        /// Where that stands, `stream:seq`.
        copy: String,
        /// Whether it changed anything; not when what is newer stands, or its source has said since what there is.
        changed: bool,
    },
    /// It would be taken in, as this.
    Decodes {
        /// `<stem>.<event>`.
        #[serde(rename = "type")]
        event_type: String,
        /// CloudEvents `source`.
        source: String,
        /// The data.
        data: Value,
        /// Whether it would change anything.
        changes: bool,
    },
    /// It cannot be taken in.
    Dead {
        /// Why, and what to do.
        reason: String,
        /// Where the fault is.
        path: String,
    },
}
