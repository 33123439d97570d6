//! What the console needs and must not know how to do: the pool as it was, a rebuild, and what the
//! reactions know of themselves. Each port stands beside its user; `src` of the binary wires them.

mod audit;
mod backup;
mod redrive;

use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

use bus::managed::{AgentId, AgentIdentity, ReaderIdentity};
use bus_schema::{Name, PoolId, Timestamp, fact::log::Scrubbed};
use projector::{Contradiction, Reader};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::view::{AgentView, EnrolledView, ReaderView, RevokedView};
pub use audit::{
    AuditFault, AuditFaultKind, AuditRange, AuditReport, AuditedLog, Auditor, Evidence, SigningKeyView,
};
pub use backup::{Backup, Backups};

pub use redrive::{RedriveAsked, RedriveWhich, Redriver};

/// The answer of a port, on its way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, PortError>> + Send + 'a>>;

/// Why a port did not do what was asked; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The question cannot be answered, now or later.
    #[error("{0}")]
    Refused(String),
    /// The same work is being done for somebody else.
    #[error("{0}")]
    Busy(String),
    /// What was asked for is not there.
    #[error("{0}")]
    Missing(String),
    /// It does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// NATS cannot be reached now.
    #[error("{0}")]
    Unreachable(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

/// A moment of a site log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After this sequence.
    Seq(u64),
    /// After the last event that the log had stored by then.
    Time(Timestamp),
}

impl Moment {
    /// Reads `1234`, `FARSIDE_LOCAL:1234` or an RFC 3339 time. Errors: what to write instead.
    pub fn read(text: &str, stream: &str) -> Result<Self, String> {
        let seq = text.strip_prefix(stream).and_then(|rest| rest.strip_prefix(':')).unwrap_or(text);
        if let Ok(seq) = seq.parse() {
            return Ok(Self::Seq(seq));
        }
        text.parse().map(Self::Time).map_err(|_| {
            format!(
                "{text:?} is no moment of the log; write a sequence (1234 or {stream}:1234) or a time (2026-11-22T04:31:48Z)"
            )
        })
    }
}

/// A pool as it was, kept as long as this value lives.
pub struct Past {
    /// Answers questions about it.
    pub reader: Reader,
    /// Whatever has to live as long as the reader is used.
    pub keep: Box<dyn Send + Sync>,
}

/// Pools as they were (`--at`).
pub trait PastPools: Send + Sync {
    /// Replays one site log up to a moment into a throw-away store; progress goes to `progress` as long as somebody
    /// listens.
    fn at(&self, stream: &str, moment: Moment, progress: mpsc::Sender<JobProgress>) -> Pending<'_, Past>;
}

/// How far work that takes long is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// What it does now, for people.
    pub phase: String,
    /// Events done.
    pub done: u64,
    /// Events to do in all; 0 = not known yet.
    pub total: u64,
}

/// What came of a rebuild.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// Events read.
    pub events: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What the live pool has otherwise than the rebuilt one.
    pub differences: Vec<RebuildDifference>,
    /// Whether the rebuilt pool is in use now.
    pub swapped: bool,
}

/// One thing that the live pool has otherwise than the rebuilt one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildDifference {
    /// The pool, or `target` for what the target log holds.
    pub pool: String,
    /// What, for example `row Pod/web`.
    pub what: String,
    /// What the live pool has; absent = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
    /// What wrote that last; absent = nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_event: Option<CausingEvent>,
    /// What the rebuilt pool has; absent = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt: Option<String>,
    /// What wrote that last; absent = nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt_event: Option<CausingEvent>,
}

/// The event that wrote something last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CausingEvent {
    /// `stream:seq`.
    pub place: String,
    /// What the log has there; absent = it has nothing there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<NamedEvent>,
}

/// An event by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEvent {
    /// `<stem>.<event>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When whoever sent it says that it happened.
    pub time: Timestamp,
    /// CloudEvents `id`.
    pub id: String,
}

/// When a rebuilt pool takes the place of the live one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildSwap {
    /// When users see the same in both: what differs is for a person to look at first.
    #[default]
    Equal,
    /// Whatever differs.
    Always,
}

/// Builds the pool again from the log, beside the live one.
pub trait Rebuilder: Send + Sync {
    /// Does it; progress goes to `progress` as long as somebody listens.
    fn rebuild(&self, progress: mpsc::Sender<JobProgress>, swap: RebuildSwap) -> Pending<'_, RebuildReport>;
}

/// Reads logs again, and compares them with what was read of them before.
pub trait Scrubber: Send + Sync {
    /// Does it for one log; progress goes to `progress` as long as somebody listens.
    fn scrub(&self, stream: &str, progress: mpsc::Sender<JobProgress>) -> Pending<'_, Scrubbed>;
}

/// What the reactions know of themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Whether this process holds the lease, and so acts.
    pub lease_held: bool,
    /// When each pool is asked next, as far as this process knows; empty when it does not act.
    pub next_syncs: BTreeMap<PoolId, Timestamp>,
    /// What is under way with each source, by its CloudEvents `source`; one that is not there rests.
    pub doing: BTreeMap<String, Doing>,
    /// Size of the pool's file, in bytes.
    pub file_bytes: u64,
    /// Of it in use, in bytes.
    pub live_bytes: u64,
    /// What keeps the projector from applying, in words; none when all is well.
    pub trouble: Option<String>,
    /// Why events that a log lost are not back yet, by their owner and the place of the first.
    pub obstacles: BTreeMap<(String, String), String>,
    /// Why no checkpoint is signed, in words; none when all is well, or this process does not act.
    pub unsigned: Option<String>,
    /// Sources that were told other checkpoints than the target log has.
    pub contradictions: Vec<Contradiction>,
    /// Why the last snapshot could not be kept, in words; none when it could.
    pub unkept: Option<String>,
    /// Why a log could not be scrubbed for a while, by its stream.
    pub unscrubbed: BTreeMap<String, String>,
    /// What trimming a log waits for, by its stream.
    pub trimming: BTreeMap<String, Wait>,
}

/// What trimming a log waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Since when it waits for anything.
    pub since: Timestamp,
    /// For what, in words that say what to do.
    pub why: String,
}

/// What is under way with one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// A sync, in words.
    Sync(String),
    /// It waits for something, in words that say what to do.
    Waiting(String),
}

impl Doing {
    /// The words.
    pub fn text(&self) -> &str {
        let (Self::Sync(text) | Self::Waiting(text)) = self;
        text
    }
}

/// Where the vital signs are read.
pub trait Health: Send + Sync {
    /// The vital signs now; does no I/O that could wait.
    fn vitals(&self) -> Vitals;
    /// Waits until the pool has a place of a log. Errors: it is not there in time.
    fn passes<'a>(&'a self, stream: &'a str, seq: u64, wait: Duration) -> Pending<'a, ()>;
}

/// Who may come in to NATS as an agent or a reader.
pub trait Enrolment: Send + Sync {
    /// The agents that may come in.
    fn agents(&self) -> Pending<'_, Vec<AgentView>>;
    /// Lets an agent in; on a NATS that is not farside's own, says what its owner has to do.
    fn enroll_agent(&self, agent: AgentIdentity, actor: String) -> Pending<'_, EnrolledView>;
    /// Lets an agent in no more, and ends its connections.
    fn revoke_agent(&self, id: AgentId, actor: String) -> Pending<'_, RevokedView>;
    /// The readers that may come in.
    fn readers(&self) -> Pending<'_, Vec<ReaderView>>;
    /// Lets a reader in. Whether its tenant may read these clusters as a whole was asked before.
    fn enroll_reader(&self, reader: ReaderIdentity, actor: String) -> Pending<'_, EnrolledView>;
    /// Lets a reader in no more, and ends its connections.
    fn revoke_reader(&self, name: Name, actor: String) -> Pending<'_, RevokedView>;
    /// Shuts out every reader that reads what its tenant may not see any more; called when a grant has changed.
    fn settle(&self) -> Pending<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_sequence_or_a_time() {
        assert_eq!(Moment::read("12", "FARSIDE_LOCAL"), Ok(Moment::Seq(12)));
        assert_eq!(Moment::read("FARSIDE_LOCAL:12", "FARSIDE_LOCAL"), Ok(Moment::Seq(12)));
        assert_eq!(
            Moment::read("1970-01-01T00:00:01Z", "FARSIDE_LOCAL"),
            Ok(Moment::Time(Timestamp::from_unix_ms(1_000)))
        );
        assert!(Moment::read("OTHER:12", "FARSIDE_LOCAL").unwrap_err().contains("FARSIDE_LOCAL:1234"));
        assert!(Moment::read("yesterday", "FARSIDE_LOCAL").is_err());
    }
}
