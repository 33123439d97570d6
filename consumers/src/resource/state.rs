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
//! Nothing is retried because it was tried: after a rest the same question is asked as always, so what is
//! no longer wanted (a paused schedule, a damage that is gone) is not asked for again.
//!
//! Pure: no clock, no I/O. What mends a damage is decided in [`super::damage`]. Level-triggered: after every
//! commit and every tick the same question is asked ("what should be true now?"), so that a lost or repeated
//! input strands nothing.
//! The second request (R4) belongs to `confirm`, which waits for its answer itself.

use bus_schema::{Hash32, Timestamp, command::resource::SyncReason, event::resource::SyncScope};

pub use super::model::{
    Action, Activity, Closed, Descended, Differing, Input, Owner, Patience, Policy, Queued, Sync, View,
    Wanted,
};
use super::{
    damage::{Damage, Fruitless, Mending, Remedy},
    schedule::after,
    view::no_key,
};

/// How long a source that was just seen for the first time may take to announce its key, in milliseconds:
/// its agent says first that it has started.
const KEY_GRACE_MS: u64 = 2_000;
/// After so many times the longest standstill a sync is asked for again although events flow: they may be
/// others, and an agent that gave its answer up begins it again. To one that is at it the request says nothing.
const NUDGE_STALLS: u64 = 4;

/// Everything that is remembered of one owner between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerState {
    /// What is under way.
    pub activity: Activity,
    /// When the owner was seen first.
    pub seen_since: Timestamp,
    /// When it was asked by the timer last.
    pub last_first: Option<Timestamp>,
    /// Whether that came to nothing, and is to be made up for.
    pub first_owed: bool,
    /// Failures in a row.
    pub failures: u32,
    /// What a person asked for.
    pub queued: Option<Queued>,
    /// The repairs so far.
    pub mending: Mending,
    /// The damage that the running repair is to mend.
    pub repairing: Damage,
    /// Differing resources that did not fit the last request.
    pub left: Differing,
    /// What people are told although nothing has failed.
    pub trouble: Option<String>,
}

impl OwnerState {
    /// An owner that was seen for the first time.
    pub fn new(seen_since: Timestamp) -> Self {
        Self {
            activity: Activity::Idle,
            seen_since,
            last_first: None,
            first_owed: false,
            failures: 0,
            queued: None,
            mending: Mending::default(),
            repairing: Damage::None,
            left: Differing::default(),
            trouble: None,
        }
    }

    /// The id of the sync that a person waits for, running or not.
    pub fn manual(&self) -> Option<&str> {
        let running = || self.running().filter(|sync| sync.wanted.reason == SyncReason::Manual);
        let queued = self.queued.as_ref().and_then(|queued| queued.id.as_deref());
        queued.or_else(|| running().map(|sync| sync.id.as_str()))
    }

    /// The sync that runs now.
    pub fn running(&self) -> Option<&Sync> {
        match &self.activity {
            Activity::Asked(sync) | Activity::Receiving { sync, .. } => Some(sync),
            Activity::Idle | Activity::Descending | Activity::Resting { .. } => None,
        }
    }

    /// A clock that was ahead and has been set right leaves moments behind that are yet to come. What is
    /// remembered has happened by now, and no rest is longer than the longest: else nothing was asked for until
    /// the clock came there again.
    fn set_right(&mut self, patience: &Patience, now: Timestamp) {
        self.seen_since = self.seen_since.min(now);
        self.last_first = self.last_first.map(|at| at.min(now));
        match &mut self.activity {
            Activity::Idle | Activity::Descending | Activity::Asked(_) => {}
            Activity::Receiving { since, moved_at, asked_at, .. } => {
                [since, moved_at, asked_at].into_iter().for_each(|at| *at = now.min(*at));
            }
            Activity::Resting { until, .. } => *until = after(now, patience.backoff_ms_max).min(*until),
        }
        self.mending.set_right(patience, now);
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
    state.set_right(&owner.policy.patience, now);
    match input {
        Input::Looked => {}
        Input::Manual(scope) => {
            let before = state.queued.take();
            let scope = wider(before.as_ref().map(|queued| queued.scope), scope);
            let known = before.and_then(|queued| queued.id);
            let id = known.unwrap_or_else(|| new_id(owner, SyncReason::Manual, now));
            state.queued = Some(Queued { scope, id: Some(id) });
        }
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
        state.activity = Activity::receiving(sync, view.at, now);
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
    let compared = Wanted { scope: SyncScope::Keys, ..full.clone() };
    match outcome {
        Descended::Equal => {
            if let Damage::Unequal(at) = view.damage {
                state.mending.found_equal(at);
            }
        }
        Descended::Differ(differing, conflict) => {
            let only_conflict = conflict.is_some() && differing.is_empty();
            state.mending.conflicted(conflict);
            state.left = differing;
            if only_conflict {
                let sync_id = new_id(owner, SyncReason::Repair, now);
                let fruitless = state.mending.gave_up(sync_id, &owner.policy.patience, now);
                actions.extend(fruitless.map(stated));
            } else {
                ask_left(state, owner, view, now, actions);
            }
        }
        Descended::TooMuch => ask(state, owner, view, full, now, actions),
        Descended::Failed(reason) => {
            fail(state, owner, new_sync(owner, compared, now), reason, now, actions);
        }
    }
}

fn stated(fruitless: Fruitless) -> Action {
    let Fruitless { sync_id, reason, retry_at } = fruitless;
    Action::StateFailed { sync_id, reason, retry_at }
}

/// "What should be true now?"
fn look(state: &mut OwnerState, owner: Owner<'_>, view: &View, now: Timestamp, actions: &mut Vec<Action>) {
    close_or_resume(state, owner, view, now, actions);
    let resting = match &state.activity {
        Activity::Descending | Activity::Asked(_) | Activity::Receiving { .. } => return,
        Activity::Idle => false,
        Activity::Resting { until, for_key } => {
            if *for_key {
                !view.key_announced
            } else {
                *until > now
            }
        }
    };
    let broken = view.closed.as_ref().and_then(|closed| closed.broken.as_deref());
    let fruitless = state.mending.look(view.damage, broken, &owner.policy.patience, now);
    actions.extend(fruitless.map(stated));
    let words = || view.damage.words().map(str::to_owned);
    state.trouble = state.mending.trouble().or_else(words);
    // What a person asks for does not wait for the end of a rest.
    let asked_for = state.queued.as_ref().is_some_and(|queued| queued.id.is_some());
    if view.busy || (resting && !asked_for) {
        return;
    }
    match wanted(state, owner, view, now) {
        Some(wanted) if wanted.reason == SyncReason::Repair && wanted.scope == SyncScope::Keys => {
            state.activity = Activity::Descending;
            state.repairing = view.damage;
            actions.push(Action::Descend);
        }
        Some(wanted) => ask(state, owner, view, wanted, now, actions),
        None => state.activity = Activity::Idle,
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
    let Activity::Receiving { sync, seen, opened, since, moved_at, asked_at, resumes } = &mut state.activity
    else {
        return;
    };
    let Patience { stalled_ms_max, resumes_max, answer_ms_max, .. } = owner.policy.patience;
    if view.closed.as_ref().is_some_and(|closed| closed.sync_id == sync.id) {
        let sync = sync.clone();
        return closed(state, owner, view, sync, now, actions);
    }
    *opened |= view.answering;
    // Before its opening the events of a long outbox may come; behind it only its own window's count.
    if view.at != *seen && (view.answering || !*opened) {
        (*seen, *moved_at) = (view.at, now);
    }
    let stalled = now.ms_since((*moved_at).max(*asked_at)) >= stalled_ms_max;
    let failed = if now.ms_since(*since) >= answer_ms_max {
        Some("the agent took the request, and its answer took too long; see the agent's log, and patience.longest".to_owned())
    } else if stalled && *resumes >= resumes_max {
        Some(format!(
            "the agent took the request, but its answer stopped and {resumes} repetitions brought nothing; see the agent's log"
        ))
    } else {
        None
    };
    if let Some(reason) = failed {
        let sync = sync.clone();
        return fail(state, owner, sync, reason, now, actions);
    }
    if stalled || now.ms_since(*asked_at) >= stalled_ms_max.saturating_mul(NUDGE_STALLS) {
        *resumes += u32::from(stalled);
        *asked_at = now;
        actions.push(Action::AskAgain(sync.clone()));
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
    state.failures = 0;
    if sync.wanted.reason != SyncReason::Repair {
        return;
    }
    if sync.wanted.scope == SyncScope::Keys && !state.left.is_empty() {
        return ask_left(state, owner, view, now, actions);
    }
    state.mending.ended(sync.id, sync.wanted.scope, state.repairing, view.damage);
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
    let incremental = if view.had_full { SyncScope::Incremental } else { SyncScope::Full };
    if let Some(queued) = &state.queued {
        return Some(Wanted::of(SyncReason::Manual, wider(Some(queued.scope), incremental)));
    }
    let schedule = &owner.policy.schedule;
    if schedule.in_maintenance(now) {
        return None;
    }
    if let Some(Remedy { scope, rebase }) = state.mending.due(view.damage, now) {
        return Some(Wanted { rebase, ..Wanted::of(SyncReason::Repair, scope) });
    }
    if view.third_due {
        return Some(Wanted::of(SyncReason::Third, incremental));
    }
    let due = schedule.due_at(&owner.source.pool, state.last_first, state.seen_since);
    let still_introducing = !view.key_announced && now < after(state.seen_since, KEY_GRACE_MS);
    let is_due = state.first_owed || due.is_some_and(|due| due <= now);
    (is_due && !view.paused && !still_introducing).then(|| Wanted::of(SyncReason::First, incremental))
}

fn ask(
    state: &mut OwnerState,
    owner: Owner<'_>,
    view: &View,
    wanted: Wanted,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let mut sync = new_sync(owner, wanted, now);
    match sync.wanted.reason {
        SyncReason::First => (state.last_first, state.first_owed) = (Some(now), false),
        SyncReason::Manual => {
            let told = state.queued.take().and_then(|queued| queued.id);
            sync.id = told.unwrap_or(sync.id);
        }
        SyncReason::Repair => state.repairing = view.damage,
        SyncReason::Second | SyncReason::Third => {}
    }
    if !view.key_announced {
        fail(state, owner, sync, no_key(owner.source), now, actions);
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
    let retry_at = after(now, owner.policy.patience.doubled(state.failures));
    state.failures += 1;
    state.activity = Activity::Resting { until: retry_at, for_key: false };
    match sync.wanted.reason {
        SyncReason::First => state.first_owed = true,
        // Unless the person asked once more meanwhile.
        SyncReason::Manual => {
            state.queued.get_or_insert(Queued { scope: sync.wanted.scope, id: None });
        }
        SyncReason::Repair => state.left = Differing::default(),
        SyncReason::Second | SyncReason::Third => {}
    }
    actions.push(Action::StateFailed { sync_id: sync.id, reason, retry_at });
}

fn new_sync(owner: Owner<'_>, wanted: Wanted, now: Timestamp) -> Sync {
    Sync { id: new_id(owner, wanted.reason, now), asked_at: now, wanted }
}

/// An id that nobody else makes: one owner has one sync at a time, so its name and the moment suffice.
fn new_id(owner: Owner<'_>, reason: SyncReason, now: Timestamp) -> String {
    let name = Hash32::of(owner.source.to_string().as_bytes()).to_string();
    let reason = match reason {
        SyncReason::First => "first",
        SyncReason::Second => "second",
        SyncReason::Third => "third",
        SyncReason::Manual => "manual",
        SyncReason::Repair => "repair",
    };
    format!("{reason}-{:x}-{}", now.unix_ms(), name.get(..8).unwrap_or_default())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
