//! The words of the state machine of one owner: policy, view, sync, activity, what happens and what is to be
//! done. Data only; what follows from what is in [`super::state`].

use bus_schema::{
    ResourceKey, Source, Timestamp,
    chain::ChainPoint,
    command::resource::{KEYS_MAX, SyncReason},
    event::resource::SyncScope,
};

use super::{damage::Damage, schedule::Schedule, threshold::Limits};

/// Doublings of the backoff; the policy's cap ends the growth earlier.
const BACKOFF_DOUBLINGS_MAX: u32 = 20;

/// The policy of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// When the first request is due.
    pub schedule: Schedule,
    /// When the third one is.
    pub limits: Limits,
    /// How long an owner is waited for.
    pub patience: Patience,
}

/// How long an owner is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The rest after the first failure, in milliseconds; it doubles with each further one.
    pub backoff_ms: u64,
    /// The longest rest, in milliseconds.
    pub backoff_ms_max: u64,
    /// How long an accepted sync may bring nothing new before it is asked for again, in milliseconds.
    pub stalled_ms_max: u64,
    /// How often a sync is asked for again before it has failed.
    pub resumes_max: u32,
    /// How long an answer may take as a whole, in milliseconds.
    pub answer_ms_max: u64,
}

impl Patience {
    /// The rest after so many failures in a row before this one, in milliseconds.
    pub fn doubled(&self, failures: u32) -> u64 {
        let doublings = failures.min(BACKOFF_DOUBLINGS_MAX);
        self.backoff_ms.saturating_mul(1 << doublings).min(self.backoff_ms_max)
    }
}

/// What the pool says of one owner now.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Whether the source has announced an access key that is good now (R7).
    pub key_announced: bool,
    /// Whether a person paused the pool's schedule.
    pub paused: bool,
    /// Whether another owner of the pool is being asked: one sync of a cluster at a time.
    pub busy: bool,
    /// The owner's last event that is in the pool.
    pub at: Option<ChainPoint>,
    /// Whether the answer to the running sync has been opened and not closed.
    pub answering: bool,
    /// Whether the pool's threshold makes a third request due (R6).
    pub third_due: bool,
    /// Whether the pool ever had everything of the owner.
    pub had_full: bool,
    /// The last sync whose closing event is in the pool.
    pub closed: Option<Closed>,
    /// What is wrong with the pool's rows of this owner.
    pub damage: Damage,
}

/// A sync whose closing event is in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its id.
    pub sync_id: String,
    /// Why not every event of its answer was taken in.
    pub broken: Option<String>,
}

/// A sync that an owner is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Its id; the same when it is asked for again.
    pub id: String,
    /// When it was asked for first.
    pub asked_at: Timestamp,
    /// What is asked for.
    pub wanted: Wanted,
}

/// What is to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Why.
    pub reason: SyncReason,
    /// What the answer shall cover.
    pub scope: SyncScope,
    /// The resources that differ, for the scope `Keys`.
    pub differing: Differing,
    /// Whether the owner shall start a new epoch first.
    pub rebase: bool,
}

impl Wanted {
    pub(super) fn of(reason: SyncReason, scope: SyncScope) -> Self {
        Self { reason, scope, differing: Differing::default(), rebase: false }
    }
}

/// Resources of which pool and source differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// Those whose key the pool knows.
    pub keys: Vec<ResourceKey>,
    /// The short addresses of those that only the source has.
    pub addresses: Vec<u64>,
}

impl Differing {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.keys.len() + self.addresses.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out what fits one request.
    pub(super) fn take_some(&mut self) -> Self {
        let keys = self.keys.drain(..self.keys.len().min(KEYS_MAX)).collect();
        let addresses = self.addresses.drain(..self.addresses.len().min(KEYS_MAX)).collect();
        Self { keys, addresses }
    }
}

/// What is under way with an owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// The digests are being compared, to find the keys that differ.
    Descending,
    /// A request is on its way.
    Asked(Sync),
    /// The owner sends what was asked for.
    Receiving {
        /// What was asked for.
        sync: Sync,
        /// The owner's last event in the pool when there was progress last.
        seen: Option<ChainPoint>,
        /// Whether its opening was seen: from then on only its own events count as progress.
        opened: bool,
        /// When the owner took the request.
        since: Timestamp,
        /// When there was progress last.
        moved_at: Timestamp,
        /// When it was asked for last.
        asked_at: Timestamp,
        /// How often it was asked for again because it stood still.
        resumes: u32,
    },
    /// The last attempt failed.
    Resting {
        /// When something is tried again.
        until: Timestamp,
        /// Whether only the missing access key is in the way (R7).
        for_key: bool,
    },
}

impl Activity {
    /// An answer that begins now.
    pub fn receiving(sync: Sync, seen: Option<ChainPoint>, now: Timestamp) -> Self {
        let (since, moved_at, asked_at) = (now, now, now);
        Self::Receiving { sync, seen, opened: false, since, moved_at, asked_at, resumes: 0 }
    }
}

/// What a person asked for and has not got yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// What the answer shall cover.
    pub scope: SyncScope,
    /// The id that the person was told; none = that sync failed, and this is to be another one.
    pub id: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The pool was looked at: after a commit, or a tick.
    Looked,
    /// A person asks for a sync of this scope.
    Manual(SyncScope),
    /// The owner took the request.
    Accepted {
        /// The sync.
        sync_id: String,
        /// What the answer will cover.
        scope: SyncScope,
    },
    /// The owner refused, or did not answer.
    Failed {
        /// The sync.
        sync_id: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The comparison of the digests has ended.
    Descended(Descended),
}

/// How a comparison of digests ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Descended {
    /// Nothing differs any more.
    Equal,
    /// These do; and others are stated by another agent of the pool, too, which these words tell.
    Differ(Differing, Option<String>),
    /// So much does that everything is cheaper.
    TooMuch,
    /// The owner did not answer.
    Failed(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// State that the sync is requested, and send the request.
    Ask(Sync),
    /// Send the request again, under the same id.
    AskAgain(Sync),
    /// Compare the digests.
    Descend,
    /// State that the sync failed.
    StateFailed {
        /// The sync.
        sync_id: String,
        /// Why, and what to do.
        reason: String,
        /// When it is tried again.
        retry_at: Timestamp,
    },
}

/// Who is asked, and under which policy.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The owner.
    pub source: &'a Source,
    /// Its pool's policy.
    pub policy: &'a Policy,
}
