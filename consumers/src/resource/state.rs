//! What is asked of one owner, and when: the first, third, manual and repair requests (R1, R5, R6, R7).
//!
//! ```text
//!             due and a key is announced            accepted
//!   ┌──► Idle ───────────────────────────► Asked ───────────► Receiving ──┐
//!   │     │ ▲                                │ refused,           │ ▲     │ its sync_closed
//!   │     │ │ descended: nothing differs     │ no answer          │ └ no progress: the same id again
//!   │     ▼ │                                ▼                    ▼       │
//!   │   Descending ── differing keys ──►   Resting ◄── too often ─┘       │
//!   │    (digests differ)                    │ until the backoff ends,    │
//!   │                                        │ or a key is announced      │
//!   └────────────────────────────────────────┴────────────────────────────┘
//! ```
//!
//! Pure: no clock, no I/O. Level-triggered: after every commit and every tick the same question is asked
//! ("what should be true now?"), so that a lost or repeated input strands nothing.
//! The second request (R4) belongs to `confirm`, which waits for its answer itself.

use bus_schema::{
    Hash32, ResourceKey, Source, Timestamp,
    chain::ChainPoint,
    command::resource::{KEYS_MAX, SyncReason},
    event::resource::SyncScope,
};

use super::{
    schedule::{Schedule, after},
    threshold::{Guard, Limits, SinceSync},
    view::no_key,
};

/// How long a source that was just seen for the first time may take to announce its key, in milliseconds:
/// its agent says first that it has started.
const KEY_GRACE_MS: u64 = 2_000;
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
}

/// What the pool says of one owner now.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Whether the source has announced an access key that is good now (R7).
    pub key_announced: bool,
    /// Whether a person paused the pool's schedule.
    pub paused: bool,
    /// The owner's last event that is in the pool.
    pub at: Option<ChainPoint>,
    /// What happened since its last sync.
    pub since_sync: SinceSync,
    /// The last sync whose closing event is in the pool.
    pub closed: Option<String>,
    /// What is wrong with the pool's rows of this owner.
    pub damage: Damage,
}

/// What is wrong with the pool's rows of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing known.
    None,
    /// The owner's heartbeat at this point had another digest than the pool.
    Unequal(ChainPoint),
    /// Events are missing, or the log lost what it had.
    Broken,
    /// The pool refused the owner's chain: it must start a new epoch.
    Forked,
    /// A window close waits for a person; nothing can be mended before.
    Held,
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
    fn of(reason: SyncReason, scope: SyncScope) -> Self {
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
    fn take_some(&mut self) -> Self {
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
        /// When there was progress last.
        moved_at: Timestamp,
        /// How often it was asked for again.
        resumes: u32,
    },
    /// The last attempt failed.
    Resting {
        /// When it is tried again.
        until: Timestamp,
        /// What is tried again.
        retry: Wanted,
        /// Whether only the missing access key is in the way (R7).
        for_key: bool,
    },
}

/// Everything that is remembered of one owner between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerState {
    /// What is under way.
    pub activity: Activity,
    /// When the owner was seen first.
    pub seen_since: Timestamp,
    /// When it was asked by the timer last.
    pub last_first: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// The hysteresis of the third request.
    pub guard: Guard,
    /// What a person asked for while something else was under way.
    pub queued: Option<SyncScope>,
    /// The mismatch that was acted upon last, and whether with more than the differing keys.
    pub mended: Option<(ChainPoint, SyncScope)>,
    /// Differing resources that did not fit the last request.
    pub left: Differing,
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
    /// These do.
    Differ(Differing),
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

impl OwnerState {
    /// An owner that was seen for the first time.
    pub fn new(seen_since: Timestamp) -> Self {
        Self {
            activity: Activity::Idle,
            seen_since,
            last_first: None,
            failures: 0,
            guard: Guard::default(),
            queued: None,
            mended: None,
            left: Differing::default(),
        }
    }

    /// The sync that runs now.
    pub fn running(&self) -> Option<&Sync> {
        match &self.activity {
            Activity::Asked(sync) | Activity::Receiving { sync, .. } => Some(sync),
            Activity::Idle | Activity::Descending | Activity::Resting { .. } => None,
        }
    }

    /// When the next first request is due; none while one cannot be foreseen.
    pub fn next_first(&self, owner: Owner<'_>) -> Option<Timestamp> {
        let schedule = &owner.policy.schedule;
        let due = schedule.due_at(&owner.source.pool, self.last_first, self.seen_since)?;
        Some(schedule.past_maintenance(due))
    }
}

/// Takes one owner a step further.
pub fn step(
    mut state: OwnerState,
    owner: Owner<'_>,
    view: &View,
    input: Input,
    now: Timestamp,
) -> (OwnerState, Vec<Action>) {
    let mut actions = Vec::new();
    match input {
        Input::Looked => {}
        Input::Manual(scope) => state.queued = Some(wider(state.queued, scope)),
        Input::Accepted { sync_id, scope } => accepted(&mut state, view, &sync_id, scope, now),
        Input::Failed { sync_id, reason } => {
            if let Some(sync) = state.running().filter(|sync| sync.id == sync_id).cloned() {
                fail(&mut state, owner, sync, reason, now, &mut actions);
            }
        }
        Input::Descended(outcome) => descended(&mut state, owner, view, outcome, now, &mut actions),
    }
    look(&mut state, owner, view, now, &mut actions);
    (state, actions)
}

fn wider(one: Option<SyncScope>, other: SyncScope) -> SyncScope {
    if one == Some(SyncScope::Full) { SyncScope::Full } else { other }
}

fn accepted(state: &mut OwnerState, view: &View, sync_id: &str, scope: SyncScope, now: Timestamp) {
    if let Activity::Asked(sync) = &state.activity
        && sync.id == sync_id
    {
        let mut sync = sync.clone();
        sync.wanted.scope = scope;
        state.activity = Activity::Receiving { sync, seen: view.at, moved_at: now, resumes: 0 };
    }
}

fn descended(
    state: &mut OwnerState,
    owner: Owner<'_>,
    view: &View,
    outcome: Descended,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    if state.activity != Activity::Descending {
        return;
    }
    state.activity = Activity::Idle;
    let full = Wanted::of(SyncReason::Repair, SyncScope::Full);
    match outcome {
        Descended::Equal => {
            if let Damage::Unequal(at) = view.damage {
                state.mended = Some((at, SyncScope::Keys));
            }
        }
        Descended::Differ(differing) => {
            state.left = differing;
            ask_left(state, owner, view, now, actions);
        }
        Descended::TooMuch => ask(state, owner, view, full, now, actions),
        Descended::Failed(reason) => {
            let sync = new_sync(owner, Wanted { scope: SyncScope::Keys, ..full }, now);
            fail(state, owner, sync, reason, now, actions);
        }
    }
}

/// "What should be true now?"
fn look(state: &mut OwnerState, owner: Owner<'_>, view: &View, now: Timestamp, actions: &mut Vec<Action>) {
    if matches!(view.damage, Damage::None) {
        state.mended = None;
    }
    close_or_resume(state, owner, view, now, actions);
    let retry = match &state.activity {
        Activity::Idle => None,
        Activity::Resting { until, retry, for_key } => {
            let over = if *for_key { view.key_announced } else { *until <= now }
                && (retry.reason == SyncReason::Manual || !owner.policy.schedule.in_maintenance(now));
            if !over && state.queued.is_none() {
                return;
            }
            over.then(|| retry.clone())
        }
        Activity::Descending | Activity::Asked(_) | Activity::Receiving { .. } => return,
    };
    if let Some(wanted) = wanted(state, owner, view, now).or(retry) {
        if wanted.reason == SyncReason::Repair && wanted.scope == SyncScope::Keys {
            state.activity = Activity::Descending;
            actions.push(Action::Descend);
        } else {
            ask(state, owner, view, wanted, now, actions);
        }
    } else {
        state.activity = Activity::Idle;
    }
}

/// An accepted sync has come to its end, stands still, or goes on.
fn close_or_resume(
    state: &mut OwnerState,
    owner: Owner<'_>,
    view: &View,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let Activity::Receiving { sync, seen, moved_at, resumes } = &mut state.activity else { return };
    let patience = owner.policy.patience;
    if view.closed.as_ref() == Some(&sync.id) {
        let sync = sync.clone();
        closed(state, owner, view, sync, now, actions);
    } else if view.at != *seen {
        (*seen, *moved_at) = (view.at, now);
    } else if now.ms_since(*moved_at) >= patience.stalled_ms_max {
        if *resumes < patience.resumes_max {
            (*moved_at, *resumes) = (now, *resumes + 1);
            actions.push(Action::AskAgain(sync.clone()));
        } else {
            let reason = format!(
                "the agent took the request, but its answer stopped and {resumes} repetitions brought nothing; see the agent's log"
            );
            let sync = sync.clone();
            fail(state, owner, sync, reason, now, actions);
        }
    }
}

fn closed(
    state: &mut OwnerState,
    owner: Owner<'_>,
    view: &View,
    sync: Sync,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    state.activity = Activity::Idle;
    if sync.wanted.reason == SyncReason::Third {
        let limits = &owner.policy.limits;
        state.guard = state.guard.after_request(limits, limits.crossed(&view.since_sync, now), now);
    }
    let unmended = sync.wanted.reason == SyncReason::Repair
        && sync.wanted.scope == SyncScope::Full
        && matches!(view.damage, Damage::Broken | Damage::Forked);
    if unmended {
        let reason =
            "everything was sent, and the chain is still broken; see `farside status` and the agent's log";
        return fail(state, owner, sync, reason.to_owned(), now, actions);
    }
    state.failures = 0;
    if sync.wanted.reason != SyncReason::Repair {
        return;
    }
    if sync.wanted.scope == SyncScope::Keys && !state.left.is_empty() {
        return ask_left(state, owner, view, now, actions);
    }
    if let Damage::Unequal(at) = view.damage {
        state.mended = Some((at, sync.wanted.scope));
    }
}

/// Asks for as many of the differing resources as fit one request.
fn ask_left(
    state: &mut OwnerState,
    owner: Owner<'_>,
    view: &View,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let differing = state.left.take_some();
    let wanted = Wanted { differing, ..Wanted::of(SyncReason::Repair, SyncScope::Keys) };
    ask(state, owner, view, wanted, now, actions);
}

/// What is due, the most pressing first.
fn wanted(state: &OwnerState, owner: Owner<'_>, view: &View, now: Timestamp) -> Option<Wanted> {
    let incremental = if view.closed.is_some() { SyncScope::Incremental } else { SyncScope::Full };
    if let Some(scope) = state.queued {
        return Some(Wanted::of(SyncReason::Manual, wider(Some(scope), incremental)));
    }
    if let Activity::Resting { .. } = state.activity {
        return None;
    }
    let Policy { schedule, limits, .. } = owner.policy;
    if schedule.in_maintenance(now) {
        return None;
    }
    let full = Wanted::of(SyncReason::Repair, SyncScope::Full);
    match (view.damage, state.mended) {
        (Damage::Broken, _) => return Some(full),
        (Damage::Forked, _) => return Some(Wanted { rebase: true, ..full }),
        (Damage::Unequal(_), None) => return Some(Wanted { scope: SyncScope::Keys, ..full }),
        // The keys that differed were sent, and a later heartbeat still differs: no half measures.
        (Damage::Unequal(at), Some((mended_at, _))) if at != mended_at => return Some(full),
        (Damage::Unequal(_) | Damage::None | Damage::Held, _) => {}
    }
    if view.closed.is_some() && state.guard.is_ready(now) && limits.crossed(&view.since_sync, now) {
        return Some(Wanted::of(SyncReason::Third, incremental));
    }
    let due = schedule.due_at(&owner.source.pool, state.last_first, state.seen_since);
    let still_introducing = !view.key_announced && now < after(state.seen_since, KEY_GRACE_MS);
    let first = !view.paused && !still_introducing && due.is_some_and(|due| due <= now);
    first.then(|| Wanted::of(SyncReason::First, incremental))
}

fn ask(
    state: &mut OwnerState,
    owner: Owner<'_>,
    view: &View,
    wanted: Wanted,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    match wanted.reason {
        SyncReason::First => state.last_first = Some(now),
        SyncReason::Manual => state.queued = None,
        SyncReason::Second | SyncReason::Third | SyncReason::Repair => {}
    }
    let sync = new_sync(owner, wanted, now);
    if !view.key_announced {
        let reason = no_key(owner.source);
        fail(state, owner, sync, reason, now, actions);
        if let Activity::Resting { for_key, .. } = &mut state.activity {
            *for_key = true;
        }
        return;
    }
    state.activity = Activity::Asked(sync.clone());
    actions.push(Action::Ask(sync));
}

fn fail(
    state: &mut OwnerState,
    owner: Owner<'_>,
    sync: Sync,
    reason: String,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let Patience { backoff_ms, backoff_ms_max, .. } = owner.policy.patience;
    let rest_ms =
        backoff_ms.saturating_mul(1 << state.failures.min(BACKOFF_DOUBLINGS_MAX)).min(backoff_ms_max);
    let retry_at = after(now, rest_ms);
    state.failures += 1;
    state.activity = Activity::Resting { until: retry_at, retry: sync.wanted, for_key: false };
    actions.push(Action::StateFailed { sync_id: sync.id, reason, retry_at });
}

/// An id that nobody else makes: one owner has one sync at a time, so its name and the moment suffice.
fn new_sync(owner: Owner<'_>, wanted: Wanted, now: Timestamp) -> Sync {
    let name = Hash32::of(owner.source.to_string().as_bytes()).to_string();
    let reason = match wanted.reason {
        SyncReason::First => "first",
        SyncReason::Second => "second",
        SyncReason::Third => "third",
        SyncReason::Manual => "manual",
        SyncReason::Repair => "repair",
    };
    let id = format!("{reason}-{:x}-{}", now.unix_ms(), name.get(..8).unwrap_or_default());
    Sync { id, asked_at: now, wanted }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
