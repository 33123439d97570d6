//! What the pools hold beside resources: keys, tenants, syncs, confirmations, volumes, images, log facts.

use std::collections::BTreeMap;

use bus_schema::{
    Hash32, Name, PoolId, TenantId, Timestamp,
    chain::ChainPoint,
    envelope::Stored,
    event::{image::Pushed, volume::Extent},
    fact::{
        log::{GapFound, LogFact, LossFound},
        resource::{Confirmed, SyncCompleted, SyncFailed, SyncRequested},
    },
};
use serde::{Deserialize, Serialize};

/// An access key (R7). Several origins may use one `key_id`: compare a secret with each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessKey {
    /// The key's public name.
    pub key_id: Name,
    /// Who made it known.
    pub origin: KeyOrigin,
    /// The level-1 tenant that it belongs to.
    pub tenant: TenantId,
    /// 32 random bytes.
    pub salt: Hash32,
    /// SHA-256(salt bytes ‖ secret bytes).
    pub hash: Hash32,
    /// When the key ends.
    pub not_after: Option<Timestamp>,
    /// When the log stored the event that announced or issued it.
    pub since: Timestamp,
    /// When the log stored the event that withdrew or revoked it.
    pub revoked_at: Option<Timestamp>,
}

impl AccessKey {
    /// Whether the key is good at a moment: neither revoked nor over.
    pub fn is_good_at(&self, moment: Timestamp) -> bool {
        self.revoked_at.is_none() && self.not_after.is_none_or(|end| moment < end)
    }

    /// Whether this source announced it.
    pub fn is_of(&self, owner: &str) -> bool {
        matches!(&self.origin, KeyOrigin::Source { source, .. } if source == owner)
    }
}

/// Who made an access key known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyOrigin {
    /// This source of this pool announced it.
    Source {
        /// The pool.
        pool: PoolId,
        /// CloudEvents `source`: the owner that a first request asks.
        source: String,
    },
    /// The target issued it.
    Target,
}

/// A message that could not be taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedRecord {
    /// The log's stream.
    pub stream: String,
    /// The message's sequence in it.
    pub seq: u64,
    /// Its subject; empty when its epoch was over and it was not looked at.
    pub subject: String,
    /// When the log stored it; none = the fact that told of it was stated by a farside that did not say.
    pub stored_at: Option<Timestamp>,
    /// The incarnation of its log.
    pub incarnation: u32,
    /// What is wrong and what to do: of the last copy that could not be taken in either, if there was one.
    pub reason: String,
    /// Where the fault is.
    pub path: String,
    /// Its source and its place in that one's chain, if it was read that far.
    pub chained: Option<(String, ChainPoint)>,
    /// Its source, if it was read that far. Without [`Self::chained`] it is in no chain then.
    pub source: Option<String>,
    /// SHA-256 of its body; none = this pool has not read it, or its epoch was over.
    pub body: Option<Hash32>,
    /// It came late, to fill a hole in its chain, so that its copy undoes nothing either: whether that may write rows.
    pub late: Option<bool>,
    /// It was refused because its epoch is over: no copy of it is ever taken in.
    pub is_over: bool,
    /// Copies that could not be taken in either.
    pub attempts: u32,
    /// The sequence of the copy that was taken in; none = it is parked.
    pub redriven: Option<u64>,
    /// Whether that copy changed anything; not when what is newer stands, or its source has said since what there is.
    pub changed: bool,
    /// It is no dead letter, but a copy of one, at its own place, that could not be taken in either: so a newer build does
    /// not take it in there when it reads the log again.
    pub is_copy: bool,
}

impl ParkedRecord {
    /// One of which nothing more is known.
    pub(crate) fn new(stream: String, seq: u64, subject: String, reason: String, path: String) -> Self {
        let (stored_at, incarnation, attempts, redriven) = (None, 0, 0, None);
        let (is_over, changed, is_copy) = (false, false, false);
        let (chained, source, body, late) = (None, None, None, None);
        Self {
            stream,
            seq,
            subject,
            stored_at,
            incarnation,
            reason,
            path,
            chained,
            source,
            body,
            late,
            is_over,
            attempts,
            redriven,
            changed,
            is_copy,
        }
    }

    /// `stream:seq`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.stream, self.seq)
    }

    /// Whether it is a dead letter of which no copy was taken in.
    pub(crate) fn is_parked(&self) -> bool {
        self.redriven.is_none() && !self.is_copy
    }

    /// Whether a copy of it may be taken in still.
    pub fn is_open(&self) -> bool {
        self.is_parked() && !self.is_over
    }

    /// Whether its reason contains a text, or what differs from message to message left out, see `kind_of`.
    pub fn is_of_kind(&self, text: &str) -> bool {
        self.reason.contains(text) || kind_of(&self.reason).contains(&kind_of(text))
    }

    /// Whether it speaks of this message at its place: another one may stand there after a rewind.
    pub fn stands_at(&self, message: Stored<'_>) -> bool {
        self.is_of(message.subject, message.stored_at)
    }

    /// Whether it speaks of a message of this subject that was stored then.
    pub(crate) fn is_of(&self, subject: &str, stored_at: Timestamp) -> bool {
        let same = self.subject == subject || self.subject.is_empty();
        same && self.stored_at.is_none_or(|at| at.unix_ms() == stored_at.unix_ms())
    }
}

/// The kind of a reason: without what differs from message to message, which is what stands in quotes, and numbers.
pub(crate) fn kind_of(reason: &str) -> String {
    let (mut kind, mut quoted) = (String::with_capacity(reason.len()), false);
    for char in reason.chars() {
        match char {
            '"' => {
                kind.push_str(if quoted { "…\"" } else { "\"" });
                quoted = !quoted;
            }
            _ if quoted => {}
            '0'..='9' if kind.ends_with('#') => {}
            '0'..='9' => kind.push('#'),
            char => kind.push(char),
        }
    }
    kind
}

/// A tenant (R8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantState {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether a level-2 tenant may use its level-1 tenant's key; always true for level 1.
    pub bound: bool,
    /// What it may see; none = nothing was granted.
    pub grant: Option<Grant>,
    /// When the log stored the fact that made it.
    pub since: Timestamp,
}

/// What a tenant may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The pools.
    pub pools: Vec<PoolId>,
    /// Only resources with all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// A confirmation (R4) as it was stated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfirmationRecord {
    /// The fact's `stream:seq`.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// The fact.
    pub confirmed: Confirmed,
}

/// One sync: what was asked for and what came of it, each with the moment that the log stored it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// The sync's id.
    pub sync_id: String,
    /// The owner.
    pub owner: String,
    /// The last request.
    pub requested: Option<(Timestamp, SyncRequested)>,
    /// Its end.
    pub completed: Option<(Timestamp, SyncCompleted)>,
    /// The last failure.
    pub failed: Option<(Timestamp, SyncFailed)>,
}

/// A volume with writes that its secondary lacks (V2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeState {
    /// The volume's name.
    pub volume: Name,
    /// The source that reported it last.
    pub owner: String,
    /// The replication generation.
    pub generation: u64,
    /// What the secondary lacks: sorted, neither overlapping nor adjacent.
    pub extents: Vec<Extent>,
    /// What the secondary answered last.
    pub reason: String,
    /// The first failure of this generation, by the source's clock.
    pub first_failed_at: Timestamp,
    /// The last one.
    pub last_failed_at: Timestamp,
    /// `stream:seq` of the last event.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
}

/// A manifest in a registry's catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// `<registry>/<repository>:<tag>` or `<registry>/<repository>@<digest>`.
    pub reference: String,
    /// The source that reported it last.
    pub owner: String,
    /// The push; absent when only a deletion was ever reported.
    pub pushed: Option<Pushed>,
    /// `stream:seq` of the last event.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// When the log stored its deletion.
    pub deleted_at: Option<Timestamp>,
}

/// What a log lost, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DamageRecord {
    /// What is lost.
    pub found: DamageFound,
    /// `stream:seq` of the fact that says so.
    pub place: String,
    /// When the target log stored that.
    pub found_at: Timestamp,
    /// The log has it again.
    pub healed: Option<Healed>,
    /// A person knows of it.
    pub acknowledged: Option<Acknowledged>,
}

impl DamageRecord {
    /// Whether people are to be told: it is not healed, and nobody has taken note of it. Of lost messages only those
    /// count that nobody can be asked for; the others are gaps of their own.
    pub fn is_open(&self) -> bool {
        let open = match &self.found {
            DamageFound::Gap(_) => self.healed.is_none(),
            DamageFound::Loss(loss) => loss.unchained > 0,
        };
        open && self.acknowledged.is_none()
    }

    /// The gap in a chain, if that is what it is.
    pub fn gap(&self) -> Option<&GapFound> {
        self.found.gap()
    }

    /// The messages that a log lost, if that is what it is.
    pub fn loss(&self) -> Option<&LossFound> {
        self.found.loss()
    }
}

/// What is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageFound {
    /// Events of a chain.
    Gap(GapFound),
    /// Messages that were read.
    Loss(LossFound),
}

impl DamageFound {
    fn gap(&self) -> Option<&GapFound> {
        match self {
            Self::Gap(gap) => Some(gap),
            Self::Loss(_) => None,
        }
    }

    pub(crate) fn loss(&self) -> Option<&LossFound> {
        match self {
            Self::Gap(_) => None,
            Self::Loss(loss) => Some(loss),
        }
    }
}

/// A log has again what it had lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Healed {
    /// `stream:seq` of the last copy.
    pub place: String,
    /// When the target log stored the fact.
    pub at: Timestamp,
}

/// A person knows of a damage that stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Who.
    pub actor: String,
    /// Why it may stay.
    pub reason: String,
    /// When the target log stored the fact.
    pub at: Timestamp,
}

/// A fact about a log, as it was stated.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFactRecord {
    /// The fact's `stream:seq`.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// The fact.
    pub fact: LogFact,
}

/// A fact about a log as it stands in the file.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredLogFact {
    pub(crate) place: String,
    pub(crate) stored_at: Timestamp,
    pub(crate) name: String,
    pub(crate) data: String,
}
