//! What is in sync, what is behind and why, as the API answers it.

use std::{collections::BTreeMap, fmt};

use bus_schema::{Name, PoolId, Timestamp};
use projector::SinceSync;
use serde::{Deserialize, Serialize};

use super::AsOfView;

/// The whole target at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// This build.
    pub version: String,
    /// The target's name.
    pub target: Name,
    /// The target's clock.
    pub now: Timestamp,
    /// What the answer is true as of.
    pub as_of: AsOfView,
    /// The connection to NATS.
    pub nats: LinkView,
    /// Who acts.
    pub lease: LeaseView,
    /// Each log that is projected, the target's own included.
    pub logs: Vec<LogView>,
    /// Each pool.
    pub pools: Vec<PoolView>,
    /// Messages that could not be taken in.
    pub dead_letters: u64,
    /// Bytes of their originals that the pool keeps, by log.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dead_letter_bytes: BTreeMap<String, u64>,
    /// Size of the pool's file, in bytes.
    pub file_bytes: u64,
    /// Of it in use, in bytes.
    pub live_bytes: u64,
    /// What needs a person, the worst first.
    pub alarms: Vec<Alarm>,
}

/// The connection to NATS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Whether it stands.
    pub up: bool,
    /// Since when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<Timestamp>,
    /// The server's version at the latest connect.
    pub server_version: String,
}

/// Who acts for the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Whether this process does.
    pub held_here: bool,
    /// What this process knows of who does.
    #[serde(default)]
    pub acting: Acting,
}

/// What a process knows of who acts for the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acting {
    /// This process does.
    Here,
    /// Another process: it renewed the lease a moment ago.
    Elsewhere,
    /// Nobody is known to: not this process, and nobody renewed the lease for as long as a holder may be silent.
    NotHere,
    /// Without NATS, where the lease stands, this process cannot tell.
    #[default]
    Unknown,
}

/// One log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogView {
    /// Its stream.
    pub stream: String,
    /// The last sequence taken in.
    pub applied: u64,
    /// The last sequence that the log has; absent when it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// How long the oldest message that was not taken in has waited, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
    /// Bytes in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How full it is, in percent of its size limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_percent: Option<u64>,
    /// The first sequence that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The earliest moment that can be shown, when it was trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// What trimming waits for; absent = it waits for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimming: Option<String>,
}

impl LogView {
    /// A log that could not be asked.
    pub(crate) fn unknown(stream: String, applied: u64) -> Self {
        let (last, behind_ms, bytes, full_percent) = (None, None, None, None);
        let (first, not_before, trimming) = (None, None, None);
        Self { stream, applied, last, behind_ms, bytes, full_percent, first, not_before, trimming }
    }

    /// Events that the log has and the pool has not; none when the log could not be asked.
    pub fn behind_events(&self) -> Option<u64> {
        self.last.map(|last| last.saturating_sub(self.applied))
    }
}

/// Whether a pool is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InSync {
    /// Proved: equal digests at one place of the chain, and nothing outstanding.
    Yes,
    /// What came is in the pool, but the publisher sends no digest, so nobody can prove that it is all.
    Unproven,
    /// It is not, or not known to be.
    No,
}

impl fmt::Display for InSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "yes",
            Self::Unproven => "unproven",
            Self::No => "NO",
        })
    }
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// The pool.
    pub pool: PoolId,
    /// Whether it is true.
    pub in_sync: InSync,
    /// Why not, each in words.
    pub why: Vec<String>,
    /// Live resources.
    pub resources: u64,
    /// Tombstones.
    pub deleted: u64,
    /// What came since the last sync, and what is owed.
    pub since_sync: SinceSync,
    /// How long the pool has lacked what it lacks, in milliseconds; 0 = nothing is known to be missing.
    pub behind_ms: u64,
    /// When its log stored its last event.
    pub last_event_at: Timestamp,
    /// When its last sync ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_at: Option<Timestamp>,
    /// When its source is asked next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sync_at: Option<Timestamp>,
    /// Whether a person paused its schedule.
    pub paused: bool,
    /// Who feeds it.
    pub owners: Vec<OwnerView>,
}

/// One source of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnerView {
    /// CloudEvents `source`.
    pub source: String,
    /// Whether its agent lives; absent for a publisher that is no Farside agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive: Option<bool>,
    /// Whether the pool has what it has.
    pub in_sync: InSync,
    /// When the log stored its last event of any kind.
    pub last_event_at: Timestamp,
    /// Live resources that it owns.
    pub resources: u64,
    /// The root of the pool's digest of it.
    pub digest: String,
    /// Its place in its chain, `epoch:seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Events that waited in its outbox at the last heartbeat.
    pub outbox_events: u64,
    /// From the sending of its last heartbeat to the log, in milliseconds, by two clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_lag_ms: Option<i64>,
    /// Chained events that were taken in, each once.
    pub applied: u64,
    /// Events that came again and were dropped.
    pub repeats: u64,
    /// Events that were refused: forks and retired epochs.
    pub refused: u64,
    /// Events without a place in a chain.
    pub unchained: u64,
    /// What keeps the agent from seeing its source, or the source from being synchronised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Since when, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble_since: Option<Timestamp>,
    /// What is under way with it, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
}

/// What kind of trouble an alarm speaks of, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// An agent was told another checkpoint than the target log has.
    HistoryChanged,
    /// The log lost events that had been applied.
    Rewound,
    /// A chain has two branches.
    Fork,
    /// Events of a chain are missing.
    Gap,
    /// A log lacks what it had.
    LogDamaged,
    /// A log has what the pool never read.
    Unread,
    /// A log could not be scrubbed for a while.
    Unscrubbed,
    /// A sync would delete too much and waits for a person.
    HeldWindow,
    /// NATS cannot be reached.
    NatsDown,
    /// Nobody acts for the target.
    NobodyActs,
    /// A log is nearly full and will refuse events.
    LogFull,
    /// An agent is silent.
    AgentSilent,
    /// An agent lives and cannot see its source, or not all of it.
    SourceTrouble,
    /// A source could not be synchronised.
    SyncFailed,
    /// The projector does not apply.
    Projector,
    /// No checkpoint is signed.
    Unsigned,
    /// No snapshot can be kept, and a log was trimmed: the pool could not be built again.
    NoSnapshot,
    /// A log should be trimmed, and something has been in the way for long.
    Untrimmed,
    /// Messages could not be taken in.
    DeadLetters,
}

/// Something that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What kind.
    pub kind: AlarmKind,
    /// What happened to what, and what to do.
    pub text: String,
    /// Since when, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}
