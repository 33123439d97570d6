//! What the pool says of one owner, in the words of the state machine. Pure.

use bus_schema::{
    Source, Stem, Timestamp, command::resource::SyncReason, envelope::PLAIN_AGENT, event::resource::SyncScope,
};
use projector::{AccessKey, Owner, SyncRecord};

use super::{
    state::{Activity, Damage, OwnerState, Sync, View, Wanted},
    threshold::SinceSync,
};

/// Most syncs of a pool that are looked back at.
pub const SYNCS_MAX: usize = 200;

/// What is true of the whole pool.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The access keys that the pool's sources announced.
    pub keys: &'a [AccessKey],
    /// Whether a person paused the schedule.
    pub paused: bool,
    /// When it was stated last that the log had lost what was read from it.
    pub rewound_at: Option<Timestamp>,
    /// The last syncs of the pool, newest first.
    pub syncs: &'a [SyncRecord],
}

/// The source of an owner that can be asked: an agent of this stem. Other publishers only publish.
pub fn askable(owner: &Owner) -> Option<Source> {
    let source: Source = owner.source.parse().ok()?;
    let speaks = owner.agent.is_some() || owner.at.is_some();
    (source.stem == Stem::Resource && source.agent.as_str() != PLAIN_AGENT && speaks).then_some(source)
}

/// Whether one of the keys is good (R7).
pub fn has_good_key(keys: &[AccessKey], now: Timestamp) -> bool {
    keys.iter().any(|key| key.is_good_at(now))
}

/// Why an owner is not asked, and what to do (R7).
pub fn no_key(owner: &Source) -> String {
    format!(
        "the source of {} has announced no access key that is good now (R7); give its agent one: [[clusters.keys]] with id, tenant and secret_file, the secret made by `openssl rand -hex 32`",
        owner.pool
    )
}

/// What the pool says of an owner; `running` is the sync that is under way with it.
pub fn view_of(owner: &Owner, around: Surroundings<'_>, running: Option<&Sync>, now: Timestamp) -> View {
    let projector::SinceSync { changes, bytes, outstanding, oldest_outstanding } = owner.since_sync;
    View {
        key_announced: has_good_key(around.keys, now),
        paused: around.paused,
        at: owner.at,
        since_sync: SinceSync { changes, bytes, outstanding, oldest_outstanding },
        closed: closed(owner, around, running),
        damage: damage(owner, around),
    }
}

/// The running sync, when it is closed; else the last one that was. Another sync may have closed after it.
fn closed(owner: &Owner, around: Surroundings<'_>, running: Option<&Sync>) -> Option<String> {
    let completed = running.filter(|sync| {
        around.syncs.iter().any(|record| record.sync_id == sync.id && record.completed.is_some())
    });
    let last = owner.last_sync.as_ref().map(|last| last.sync_id.clone());
    completed.map(|sync| sync.id.clone()).or(last)
}

fn damage(owner: &Owner, around: Surroundings<'_>) -> Damage {
    if owner.held_window.is_some() {
        return Damage::Held;
    }
    if owner.fork.is_some() {
        return Damage::Forked;
    }
    if owner.gap.is_some() || around.rewound_at.is_some_and(|at| is_unhealed(owner, around.syncs, at)) {
        return Damage::Broken;
    }
    match owner.proof {
        Some(proof) if !proof.equal => Damage::Unequal(proof.at),
        _ => Damage::None,
    }
}

/// Whether not everything of the owner was sent since its log was rewound.
fn is_unhealed(owner: &Owner, syncs: &[SyncRecord], rewound_at: Timestamp) -> bool {
    let requested = syncs.iter().filter_map(|record| record.requested.as_ref().map(|(at, _)| *at));
    // A repair goes before everything else, so it is among the first of so many syncs since then.
    let long_ago = syncs.len() >= SYNCS_MAX && requested.min() > Some(rewound_at);
    !long_ago && last_full(owner, syncs) < Some(rewound_at)
}

/// When everything of the owner was sent last.
fn last_full(owner: &Owner, syncs: &[SyncRecord]) -> Option<Timestamp> {
    let last = owner.last_sync.as_ref().filter(|last| last.scope == SyncScope::Full);
    let of_owner = syncs.iter().filter(|record| record.owner == owner.source);
    let completed = of_owner.filter_map(|record| record.completed.as_ref());
    let full = completed.filter(|(_, completed)| completed.scope == SyncScope::Full).map(|(at, _)| *at);
    full.chain(last.map(|last| last.closed_at)).max()
}

/// What a process that just got the lease remembers of an owner: nothing but what the facts say.
pub fn recalled(owner: &Owner, syncs: &[SyncRecord], now: Timestamp) -> OwnerState {
    let of_owner = || syncs.iter().filter(|record| record.owner == owner.source);
    let requested = || of_owner().filter_map(|record| record.requested.as_ref().map(|asked| (record, asked)));
    let last_first =
        requested().filter(|(_, (_, asked))| asked.reason == SyncReason::First).map(|(_, (at, _))| *at).max();
    let open = requested().max_by_key(|(_, (at, _))| *at).filter(|(record, (at, asked))| {
        let failed = record.failed.as_ref().is_some_and(|(failed, _)| failed >= at);
        let closed = owner.last_sync.as_ref().is_some_and(|last| last.sync_id == record.sync_id);
        // The resources of a request for keys are not in its fact, and who waited for them is gone.
        let resumable = asked.scope != SyncScope::Keys && asked.reason != SyncReason::Second;
        resumable && !failed && !closed && record.completed.is_none()
    });
    let mut state = OwnerState { last_first, ..OwnerState::new(now) };
    if let Some((record, (asked_at, asked))) = open {
        let wanted =
            Wanted { reason: asked.reason, scope: asked.scope, differing: Default::default(), rebase: false };
        let sync = Sync { id: record.sync_id.clone(), asked_at: *asked_at, wanted };
        state.activity = Activity::Receiving { sync, seen: owner.at, moved_at: now, resumes: 0 };
    }
    state
}
