//! Who feeds a pool: one CloudEvents `source`, its place in its chain, and what it was heard to say.

use bus_schema::{
    Epoch, Hash32, Name, PoolId, Source, Stem, Timestamp,
    chain::ChainPoint,
    digest::Digest,
    envelope::PLAIN_AGENT,
    event::{agent::CheckpointSeen, resource::SyncScope},
};
use serde::{Deserialize, Serialize};

/// One source of one pool. Windows, digests, guards and chains are per owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    /// The pool.
    pub pool: PoolId,
    /// CloudEvents `source`.
    pub source: String,
    /// What the agent said about itself; none for a publisher that is no Farside agent.
    pub agent: Option<AgentState>,
    /// The last event of its chain that was taken in; none = it has sent unchained events only.
    pub at: Option<ChainPoint>,
    /// The hash of that event.
    pub hash: Option<Hash32>,
    /// The newest epochs that are over, oldest first, each with its last event that was taken in (seq 0 = none was):
    /// what comes again up to there is a repeat, anything behind it is refused for ever. The pool remembers the
    /// older ones, too, beside the owner.
    pub retired: Vec<ChainPoint>,
    /// Root and count of its live resources.
    pub digest: Digest,
    /// Chained events that were taken in, each once.
    pub applied: u64,
    /// Events that came again and were dropped.
    pub repeats: u64,
    /// Events that were refused: forks and retired epochs.
    pub refused: u64,
    /// Events without a place in a chain that were taken in.
    pub unchained: u64,
    /// When the log stored its last event of any kind.
    pub last_event_at: Timestamp,
    /// Its last heartbeat.
    pub last_heartbeat: Option<HeartbeatSeen>,
    /// The last time that its digest and the pool's were compared at one place of the chain.
    pub proof: Option<Proof>,
    /// The last place where events are missing, until a full sync is complete.
    pub gap: Option<Gap>,
    /// Its chain has two branches since here, until it starts a new epoch.
    pub fork: Option<Fork>,
    /// The sync answers that are being received; they may overlap.
    pub windows: Vec<Window>,
    /// The oldest end of a full sync that would delete too much and waits for `resource.empty_confirmed`.
    pub held_window: Option<HeldWindow>,
    /// The last sync answer that was closed, of any scope, and whole or not.
    pub last_sync: Option<LastSync>,
    /// When the log stored the end of the last answer that had everything, was whole and is not held back.
    pub last_full: Option<Timestamp>,
    /// When the target log stored the last first request (R1) to it.
    #[serde(default)]
    pub last_first: Option<Timestamp>,
    /// What came since its last sync; of a publisher that nobody can ask, since the last one of an agent of
    /// the pool.
    pub since_sync: SinceSync,
}

impl Owner {
    /// Whether the pool was proved to have what the owner has (equal digests at one place of the chain)
    /// and nothing is missing, doubled, held back or outstanding since.
    ///
    /// Before the first full answer that was whole, equal digests prove little: an agent that has listed half
    /// of its source so far has told that half.
    pub fn in_sync(&self) -> bool {
        self.last_full.is_some()
            && self.proof.is_some_and(|proof| proof.equal)
            && self.gap.is_none()
            && self.fork.is_none()
            && self.held_window.is_none()
            && self.since_sync.outstanding == 0
    }

    /// The source, when it is an agent that can be asked to send what it has. Other publishers only publish.
    pub fn askable(&self) -> Option<Source> {
        let source: Source = self.source.parse().ok()?;
        let speaks = self.agent.is_some() || self.at.is_some();
        (source.stem == Stem::Resource && source.agent.as_str() != PLAIN_AGENT && speaks).then_some(source)
    }

    /// Whether an epoch is known here to be over: one of the newest, or an older one that a heartbeat has spoken
    /// of since the last one ended. The others have a table, which every event is held against.
    pub fn has_retired(&self, epoch: Epoch) -> bool {
        self.retired.iter().any(|last| last.epoch == epoch)
    }
}

/// What an agent said about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    /// Its name.
    pub name: Name,
    /// The system that it serves.
    pub stem: Stem,
    /// Its software version.
    pub version: String,
    /// How often it sends a heartbeat when it has nothing else to say, in milliseconds.
    pub heartbeat_ms: u32,
    /// When the log stored its `agent.started`.
    pub started_at: Timestamp,
    /// When the log stored its `agent.stopped`, if it has not started since.
    pub stopped_at: Option<Timestamp>,
}

/// A heartbeat as it was received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatSeen {
    /// The last event of its chain that the log had acknowledged.
    pub at: ChainPoint,
    /// The digest of everything the owner had there; absent while its outbox held events.
    pub digest: Option<Digest>,
    /// The source's clock when it was sent.
    pub sent_at: Timestamp,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// Events that waited in its outbox.
    pub outbox_events: u64,
    /// What keeps the agent from seeing its source, in words.
    pub trouble: Option<String>,
    /// When the log stored the first of the heartbeats without a break that spoke of trouble.
    #[serde(default)]
    pub trouble_since: Option<Timestamp>,
    /// Whether the digests were equal; none = the pool was at another place, or there was no digest.
    pub equal: Option<bool>,
    /// The last signed checkpoint that it had been told of.
    #[serde(default)]
    pub checkpoint: Option<CheckpointSeen>,
}

/// A comparison of an owner's digest with the pool's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The place in the chain.
    pub at: ChainPoint,
    /// Whether they were equal.
    pub equal: bool,
    /// When the log stored the event that carried the owner's digest.
    pub stored_at: Timestamp,
}

/// Events of a chain that never came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The last event before the gap; seq 0 = the epoch's beginning is missing.
    pub after: ChainPoint,
    /// The first event behind it.
    pub before: ChainPoint,
    /// That event's `stream:seq`.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
}

/// Two events that claim one place of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fork {
    /// The place.
    pub at: ChainPoint,
    /// The hash of the event that was applied; zero when only its first 64 bits were still known.
    pub applied: Hash32,
    /// The hash of the event that was refused, or that a refused event names as its predecessor's.
    pub refused: Hash32,
    /// `stream:seq` of the event that showed it.
    pub place: String,
}

/// A sync answer that is being received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The sync's id.
    pub sync_id: String,
    /// What the answer covers.
    pub scope: SyncScope,
    /// Rows that are not touched after it are absent from a full answer.
    pub low: ChainPoint,
    /// The stream sequence of the opening: the same for rows of unchained events.
    pub opened_seq: u64,
    /// The log's incarnation then.
    pub incarnation: u32,
    /// When the log stored the opening.
    pub opened_at: Timestamp,
    /// Why the answer cannot be trusted to be complete; its end will delete nothing.
    pub broken: Option<String>,
}

/// The end of a full sync that would delete too much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldWindow {
    /// The sync's id.
    pub sync_id: String,
    /// Rows that are not touched after it would be deleted.
    pub low: ChainPoint,
    /// The stream sequence of the opening: the same for rows of unchained events.
    pub opened_seq: u64,
    /// Rows that it would delete.
    pub would_delete: u64,
    /// Live rows that the owner had.
    pub rows: u64,
    /// The closing event's stream sequence.
    pub closed_seq: u64,
    /// When the log stored it.
    pub closed_at: Timestamp,
}

/// A sync answer that was closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastSync {
    /// The sync's id.
    pub sync_id: String,
    /// What the answer covered.
    pub scope: SyncScope,
    /// The closing event's `stream:seq`.
    pub place: String,
    /// When the log stored it.
    pub closed_at: Timestamp,
    /// The event before the answer's opening: a row behind it was written by the answer, or after it.
    #[serde(default)]
    pub low: Option<ChainPoint>,
    /// Resources sent.
    pub resources: u64,
    /// Deletions sent.
    pub deleted: u64,
    /// Bytes of state sent.
    pub bytes: u64,
    /// Rows that became tombstones because a full answer did not have them.
    pub swept: u64,
    /// Whether every event of the answer was taken in; when not, why.
    pub broken: Option<String>,
    /// Whether owner and pool had equal digests at that place (before a held window is released: no).
    pub equal: bool,
}

/// What came from an owner since its last sync, and what is still owed. Events of a sync do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinceSync {
    /// Changes, pushed in full or only announced, and deletions.
    pub changes: u64,
    /// Bytes of their states; a notice counts what it announced.
    pub bytes: u64,
    /// Rows whose announced state has not come (of all time, not only since the last sync).
    pub outstanding: u64,
    /// When the log stored the first notice of the row that has waited longest.
    pub oldest_outstanding: Option<Timestamp>,
}

impl SinceSync {
    /// A sync is complete: what was counted before counts no more. What is outstanding stays so.
    pub(crate) fn reset(&mut self) {
        (self.changes, self.bytes) = (0, 0);
    }

    /// Counts a change of so many bytes; none = the event counts nothing.
    pub(crate) fn count(&mut self, bytes: Option<u64>) {
        let Some(bytes) = bytes else { return };
        self.changes = self.changes.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}
