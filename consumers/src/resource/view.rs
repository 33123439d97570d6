//! What the pool says of one owner, in the words of the state machine. Pure.

use bus_schema::{Source, Timestamp, command::resource::SyncReason, event::resource::SyncScope};
use projector::{AccessKey, Owner, SyncRecord};

use super::{
    damage::Damage,
    state::{Activity, Closed, OwnerState, Sync, View, Wanted},
    threshold::{Amount, SinceSync},
};

/// Most syncs of a pool that are looked through for one that a former lease holder left open: it is among
/// the last few, because an owner has one at a time.
pub const SYNCS_MAX: usize = 200;

/// What is true beside the owner itself.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The access keys that the pool's sources announced.
    pub keys: &'a [AccessKey],
    /// Whether a person paused the schedule.
    pub paused: bool,
    /// When it was stated last that the log had lost what was read from it.
    pub rewound_at: Option<Timestamp>,
    /// Whether another owner of the pool is being asked: one sync of a cluster at a time.
    pub busy: bool,
    /// Whether the pool's threshold makes a third request to this owner due.
    pub third_due: bool,
    /// Whether the target log says that the running sync is complete.
    pub completed: bool,
}

/// Whether a source has announced a key that is good (R7): its own, not one of another source.
pub fn has_good_key(keys: &[AccessKey], source: &str, now: Timestamp) -> bool {
    keys.iter().any(|key| key.is_of(source) && key.is_good_at(now))
}

/// Why an owner is not asked, and what to do (R7).
pub fn no_key(owner: &Source) -> String {
    format!(
        "the source of {} has announced no access key that is good now (R7); add one to the keys of the cluster {} of the agent {}: id, tenant and secret_file, the secret made by `openssl rand -hex 32`",
        owner.pool, owner.pool.cluster, owner.agent
    )
}

/// What happened in a pool since its agents were synchronised.
pub fn amount(owners: &[Owner]) -> Amount {
    let mut amount = Amount::default();
    for owner in owners {
        let told = if owner.askable().is_some() { &mut amount.agents } else { &mut amount.others };
        let projector::SinceSync { changes, bytes, outstanding, oldest_outstanding } = owner.since_sync;
        *told += SinceSync { changes, bytes, outstanding, oldest_outstanding };
    }
    amount
}

/// What the pool says of an owner; `running` is the sync that is under way with it.
pub fn view_of(owner: &Owner, around: Around<'_>, running: Option<&Sync>, now: Timestamp) -> View {
    let answering = |sync: &&Sync| owner.windows.iter().any(|window| window.sync_id == sync.id);
    View {
        key_announced: has_good_key(around.keys, &owner.source, now),
        paused: around.paused,
        busy: around.busy,
        at: owner.at,
        answering: running.is_some_and(|sync| answering(&sync)),
        third_due: around.third_due,
        had_full: owner.last_full.is_some(),
        closed: closed(owner, around, running),
        damage: damage(owner, around.rewound_at),
    }
}

/// The running sync, when it is closed; else the last one that was. Another sync may have closed after it.
fn closed(owner: &Owner, around: Around<'_>, running: Option<&Sync>) -> Option<Closed> {
    let last = owner.last_sync.as_ref();
    match running.filter(|sync| around.completed && last.is_none_or(|last| last.sync_id != sync.id)) {
        Some(sync) => Some(Closed { sync_id: sync.id.clone(), broken: None }),
        None => last.map(|last| Closed { sync_id: last.sync_id.clone(), broken: last.broken.clone() }),
    }
}

fn damage(owner: &Owner, rewound_at: Option<Timestamp>) -> Damage {
    if owner.fork.is_some() {
        return Damage::Forked;
    }
    if speaks_of_the_past(owner) {
        return Damage::Retired;
    }
    // What was never had is not lost: the first request brings it.
    let rewound_at = rewound_at.filter(|at| owner.last_full.is_some_and(|full| full < *at));
    let broken_at = owner.gap.as_ref().map(|gap| gap.stored_at).max(rewound_at);
    let held_at = owner.held_window.as_ref().map(|held| held.closed_at.max(last_full_close(owner)));
    match (broken_at, held_at, owner.proof) {
        // What was held after the events were missed waits for a person: the same again would be held again.
        (Some(broken_at), held_at, _) if held_at.is_none_or(|held_at| held_at < broken_at) => Damage::Broken,
        // Source and pool are equal again, so nothing would be deleted any more: a full answer settles it.
        (_, Some(held_at), Some(proof)) if proof.equal && proof.stored_at > held_at => Damage::Settled,
        (_, Some(_), _) => Damage::Held,
        (_, None, Some(proof)) if !proof.equal => Damage::Unequal(proof.at),
        _ => Damage::None,
    }
}

/// Whether the last that was heard of the owner is from an epoch that is over.
fn speaks_of_the_past(owner: &Owner) -> bool {
    let Some(beat) = &owner.last_heartbeat else { return false };
    // The end of a sync is taken in from a living epoch only.
    let since_then = owner.last_sync.as_ref().is_some_and(|last| last.closed_at >= beat.stored_at);
    owner.has_retired(beat.at.epoch) && !since_then
}

/// When a whole answer with everything was closed last, held or not.
fn last_full_close(owner: &Owner) -> Timestamp {
    let last = owner.last_sync.as_ref();
    let full = last.filter(|last| last.scope == SyncScope::Full && last.broken.is_none());
    full.map(|last| last.closed_at).unwrap_or_default()
}

/// What a process that just got the lease remembers of an owner: nothing but what the facts say.
pub fn recalled(owner: &Owner, syncs: &[SyncRecord], now: Timestamp) -> OwnerState {
    let of_owner = || syncs.iter().filter(|record| record.owner == owner.source);
    let requested = || of_owner().filter_map(|record| record.requested.as_ref().map(|asked| (record, asked)));
    let open = requested().max_by_key(|(_, (at, _))| *at).filter(|(record, (at, asked))| {
        let failed = record.failed.as_ref().is_some_and(|(failed, _)| failed >= at);
        let closed = owner.last_sync.as_ref().is_some_and(|last| last.sync_id == record.sync_id);
        // The resources of a request for keys are not in its fact, and who waited for them is gone.
        let resumable = asked.scope != SyncScope::Keys && asked.reason != SyncReason::Second;
        resumable && !failed && !closed && record.completed.is_none()
    });
    let first_failed = requested().max_by_key(|(_, (at, _))| *at).is_some_and(|(record, (at, asked))| {
        let failed = record.failed.as_ref().is_some_and(|(failed, _)| failed >= at);
        asked.reason == SyncReason::First && failed && record.completed.is_none()
    });
    let (last_first, first_owed) = (owner.last_first, first_failed);
    let mut state = OwnerState { last_first, first_owed, ..OwnerState::new(now) };
    if let Some((record, (asked_at, asked))) = open {
        let wanted =
            Wanted { reason: asked.reason, scope: asked.scope, differing: Default::default(), rebase: false };
        let sync = Sync { id: record.sync_id.clone(), asked_at: *asked_at, wanted };
        state.activity = Activity::receiving(sync, owner.at, now);
    }
    state
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
