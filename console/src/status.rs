//! Puts together what is in sync, what is behind and why. Pure: what was read, and the time, are arguments.

use std::collections::BTreeMap;

use bus_schema::{PoolId, Timestamp, fact::log::LogFact, stream::FULL_ALARM_PERCENT, subject};
use projector::{
    Contradiction, DamageRecord, LogFactRecord, ORIGINALS_BYTES_MAX, Owner, PoolSummary, SyncRecord,
};

use crate::{
    ports::{Doing, Wait},
    view::{
        Alarm, AlarmKind, InSync, LogView, OwnerView, PoolView,
        audit::{DamageView, obstacle_key},
    },
};

mod lease;

pub(crate) use lease::Lease;

/// An agent that was silent for this many of its heartbeat intervals is taken for dead: one may be lost,
/// one may be late.
const SILENT_HEARTBEATS: u64 = 3;

/// How long a dead letter is an alarm, in milliseconds: a person who looks once a day sees it.
const DEAD_LETTERS_MS: u64 = 24 * 3_600_000;
/// How long trimming a log may wait before that is an alarm, in milliseconds: nothing that ends by itself takes a day.
const UNTRIMMED_MS: u64 = 24 * 3_600_000;
/// Syncs of a pool that are looked through for failures: more than its sources have in a day of trouble.
pub const SYNCS_LOOKED_AT: usize = 200;

/// Something that keeps a pool from being true, or from being known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hindrance {
    /// What kind of alarm it is.
    pub kind: AlarmKind,
    /// Since when, if that is known.
    pub since: Option<Timestamp>,
    /// What happened to what.
    pub text: String,
}

/// One pool as it was read.
#[derive(Debug)]
pub struct PoolRead {
    /// The pool at a glance.
    pub summary: PoolSummary,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// Its last syncs, newest first.
    pub syncs: Vec<SyncRecord>,
    /// When it is asked next.
    pub next_sync_at: Option<Timestamp>,
    /// What is under way with its owners, by source.
    pub doing: BTreeMap<String, Doing>,
    /// What hinders the whole house, and so each pool; its alarms are the house's.
    pub house: Vec<Hindrance>,
}

impl PoolRead {
    /// What the source of an owner suffers from, as far as the owner or a sync told.
    fn troubles(&self, owner: &Owner) -> Vec<Hindrance> {
        let source = &owner.source;
        let seen = owner.last_heartbeat.as_ref().and_then(|beat| {
            let text = format!("{source} has trouble: {}", beat.trouble.as_ref()?);
            let since = beat.trouble_since.or(Some(beat.stored_at));
            Some(Hindrance { kind: AlarmKind::SourceTrouble, since, text })
        });
        seen.into_iter().chain(self.failed_sync(source)).collect()
    }

    /// The failure of the owner's last sync that has ended, since the first failure in a row.
    fn failed_sync(&self, source: &str) -> Option<Hindrance> {
        let of_owner = self.syncs.iter().filter(|sync| sync.owner == source);
        let ended = of_owner.filter(|sync| sync.completed.is_some() || sync.failed.is_some());
        let failed: Vec<_> =
            ended.map_while(|sync| sync.failed.as_ref().filter(|_| sync.completed.is_none())).collect();
        let (last, first) = (failed.first()?, failed.last()?);
        let text = format!("{source} could not be synchronised: {}", last.1.reason);
        Some(Hindrance { kind: AlarmKind::SyncFailed, since: Some(first.0), text })
    }

    fn waits_for(&self, owner: &Owner) -> Option<&str> {
        match self.doing.get(&owner.source) {
            Some(Doing::Waiting(text)) => Some(text),
            _ => None,
        }
    }
}

/// One pool for people: whether it is true, and why not.
pub fn pool(read: &PoolRead, now: Timestamp) -> PoolView {
    let PoolRead { summary, owners, next_sync_at, house, .. } = read;
    let views: Vec<_> = owners.iter().map(|owner| owner_view(read, owner, now)).collect();
    let mut why: Vec<_> = house.iter().map(|hindrance| hindrance.text.clone()).collect();
    why.extend(owners.iter().flat_map(|owner| reasons(read, owner, now)));
    if owners.is_empty() {
        why.push("no source has reported anything yet".to_owned());
    }
    PoolView {
        pool: summary.pool.clone(),
        in_sync: views.iter().map(|owner| owner.in_sync).max().unwrap_or(InSync::No),
        why,
        resources: summary.resources,
        deleted: summary.deleted,
        since_sync: summary.since_sync,
        behind_ms: owners.iter().map(|owner| behind_ms(read, owner, now)).max().unwrap_or(0),
        last_event_at: summary.last_event_at,
        last_sync_at: owners
            .iter()
            .filter_map(|owner| owner.last_sync.as_ref())
            .map(|sync| sync.closed_at)
            .max(),
        next_sync_at: *next_sync_at,
        paused: summary.paused,
        owners: views,
    }
}

fn owner_view(read: &PoolRead, owner: &Owner, now: Timestamp) -> OwnerView {
    let heartbeat = owner.last_heartbeat.as_ref();
    let troubles = read.troubles(owner);
    let texts: Vec<_> = troubles.iter().map(|trouble| trouble.text.as_str()).collect();
    OwnerView {
        source: owner.source.clone(),
        alive: owner.agent.as_ref().map(|_| is_alive(owner, now)),
        in_sync: in_sync(read, owner, now),
        last_event_at: owner.last_event_at,
        resources: owner.digest.count,
        digest: owner.digest.root.to_string(),
        at: owner.at.map(|at| format!("{}:{}", at.epoch, at.seq)),
        outbox_events: heartbeat.map_or(0, |heartbeat| heartbeat.outbox_events),
        heartbeat_lag_ms: heartbeat.map(|seen| seen.stored_at.unix_ms() - seen.sent_at.unix_ms()),
        applied: owner.applied,
        repeats: owner.repeats,
        refused: owner.refused,
        unchained: owner.unchained,
        trouble: (!texts.is_empty()).then(|| texts.join("; ")),
        trouble_since: troubles.iter().filter_map(|trouble| trouble.since).min(),
        doing: read.doing.get(&owner.source).map(|doing| doing.text().to_owned()),
    }
}

fn is_alive(owner: &Owner, now: Timestamp) -> bool {
    owner.agent.as_ref().is_some_and(|agent| {
        let silence_ms_max = u64::from(agent.heartbeat_ms) * SILENT_HEARTBEATS;
        agent.stopped_at.is_none() && now.ms_since(owner.last_event_at) <= silence_ms_max
    })
}

fn in_sync(read: &PoolRead, owner: &Owner, now: Timestamp) -> InSync {
    // An agent that does not see its source goes on telling the digest of what it saw last.
    let hindered = !read.house.is_empty() || !read.troubles(owner).is_empty();
    if hindered || read.waits_for(owner).is_some() {
        return InSync::No;
    }
    match (&owner.agent, owner.in_sync()) {
        (Some(_), true) if is_alive(owner, now) && waiting(owner) == 0 => InSync::Yes,
        (None, _) if owner.at.is_none() && owner.since_sync.outstanding == 0 => InSync::Unproven,
        (None, true) => InSync::Yes,
        _ => InSync::No,
    }
}

/// Events that waited in the owner's outbox at its last heartbeat and have not come since.
fn waiting(owner: &Owner) -> u64 {
    owner.last_heartbeat.as_ref().map_or(0, |seen| match owner.at {
        Some(at) if at.epoch == seen.at.epoch => (seen.at.seq + seen.outbox_events).saturating_sub(at.seq),
        _ => seen.outbox_events,
    })
}

/// How long the pool has lacked what it lacks of this owner.
fn behind_ms(read: &PoolRead, owner: &Owner, now: Timestamp) -> u64 {
    let silent_since = (owner.agent.is_some() && !is_alive(owner, now)).then_some(owner.last_event_at);
    let since = [
        owner.since_sync.oldest_outstanding,
        owner.gap.as_ref().map(|gap| gap.stored_at),
        owner.held_window.as_ref().map(|held| held.closed_at),
        owner.proof.filter(|proof| !proof.equal).map(|proof| proof.stored_at),
        silent_since,
    ];
    let troubles = read.troubles(owner);
    let hindered = read.house.iter().chain(&troubles).map(|hindrance| hindrance.since);
    since.into_iter().chain(hindered).flatten().min().map_or(0, |since| now.ms_since(since))
}

fn reasons(read: &PoolRead, owner: &Owner, now: Timestamp) -> Vec<String> {
    let source = &owner.source;
    let mut why = vec![];
    if let Some(stopped) = owner.agent.as_ref().and_then(|agent| agent.stopped_at) {
        why.push(format!("{source} was stopped at {stopped}"));
    } else if owner.agent.is_some() && !is_alive(owner, now) {
        why.push(format!("{source} is silent since {}", owner.last_event_at));
    }
    if let Some(gap) = &owner.gap {
        why.push(format!("events of {source} before {} are missing until a full sync", gap.place));
    }
    if let Some(fork) = &owner.fork {
        why.push(format!("the chain of {source} has two branches at {} ({})", fork.at.seq, fork.place));
    }
    if let Some(held) = &owner.held_window {
        why.push(format!("a sync of {source} would delete {} of {} rows", held.would_delete, held.rows));
    }
    if owner.since_sync.outstanding > 0 {
        why.push(format!("{source} announced {} states that have not come", owner.since_sync.outstanding));
    }
    if waiting(owner) > 0 {
        why.push(format!("{} events of {source} wait in its outbox", waiting(owner)));
    }
    if owner.agent.is_some() && owner.last_full.is_none() {
        why.push(format!("the first sync of {source} is not complete"));
    }
    match owner.proof {
        Some(proof) if !proof.equal => why.push(format!("the digests of {source} and the pool differ")),
        None if owner.agent.is_some() => why.push(format!("{source} has not sent a digest to compare yet")),
        None if owner.digest.count > 0 => {
            why.push(format!("{source} sends no digest, so nothing proves its rows"))
        }
        _ => {}
    }
    why.extend(read.troubles(owner).into_iter().map(|trouble| trouble.text));
    why.extend(read.waits_for(owner).map(|text| format!("{source} {text}")));
    why
}

/// What needs a person, of the pools.
pub fn pool_alarms(read: &PoolRead, now: Timestamp) -> Vec<Alarm> {
    let alarm = |kind, since, text| Alarm { kind, since, text };
    let pool = &read.summary.pool;
    let mut alarms = vec![];
    for owner in &read.owners {
        let source = &owner.source;
        if let Some(fork) = &owner.fork {
            let text = format!(
                "the chain of {source} forked at {} ({}); was its agent restored from a backup? it starts a new epoch by itself",
                fork.at.seq, fork.place
            );
            alarms.push(alarm(AlarmKind::Fork, None, text));
        }
        if let Some(gap) = &owner.gap {
            let text =
                format!("events of {source} before {} are lost; run 'farside sync {pool} --full'", gap.place);
            alarms.push(alarm(AlarmKind::Gap, Some(gap.stored_at), text));
        }
        if let Some(held) = &owner.held_window {
            let text = format!(
                "sync {} of {source} would delete {} of {} rows and is held; if the source really is that empty, run 'farside sync {pool} --confirm-empty {}'; if it has everything again, 'farside sync {pool} --full' settles it",
                held.sync_id, held.would_delete, held.rows, held.sync_id
            );
            alarms.push(alarm(AlarmKind::HeldWindow, Some(held.closed_at), text));
        }
        if owner.agent.as_ref().is_some_and(|agent| agent.stopped_at.is_none()) && !is_alive(owner, now) {
            let text = format!("{source} is silent since {}; look at its process", owner.last_event_at);
            alarms.push(alarm(AlarmKind::AgentSilent, Some(owner.last_event_at), text));
        }
        alarms.extend(read.troubles(owner).into_iter().map(|Hindrance { kind, since, text }| {
            let text = format!("{text}; until that is mended the pool {pool} may be stale");
            alarm(kind, since, text)
        }));
    }
    alarms
}

/// What needs a person, of the logs. A rewind is over when every agent of the site was proved equal since.
pub fn log_alarms(logs: &[LogView], facts: &[LogFactRecord], pools: &[PoolRead]) -> Vec<Alarm> {
    let full = logs.iter().filter(|log| log.full_percent.is_some_and(|full| full >= FULL_ALARM_PERCENT));
    let mut alarms: Vec<_> = full
        .map(|log| {
            let percent = log.full_percent.unwrap_or_default();
            let text = format!(
                "the log {} is {percent} % full and refuses events at 100 %; raise service.log_bytes_max and start the service again",
                log.stream
            );
            Alarm { kind: AlarmKind::LogFull, text, since: None }
        })
        .collect();
    let mut latest = BTreeMap::new();
    for record in facts {
        if let LogFact::Rewound(rewound) = &record.fact {
            latest.entry(&rewound.stream).or_insert((record.stored_at, rewound));
        }
    }
    for (stream, (at, rewound)) in latest {
        if pools.iter().any(|pool| is_unproved_since(pool, stream, at)) {
            let text = format!(
                "the log {stream} lost what had been read from it ({}); a full sync of every agent of the site mends the pool",
                rewound.reason
            );
            alarms.push(Alarm { kind: AlarmKind::Rewound, text, since: Some(at) });
        }
    }
    alarms
}

/// What logs lost and have not again, until somebody knows of it. The pools may be as true as ever: it is the
/// history that has holes.
pub fn damage_alarm(
    damages: &[DamageRecord],
    obstacles: &BTreeMap<(String, String), String>,
) -> Option<Alarm> {
    let open: Vec<_> = damages.iter().filter(|record| record.is_open()).collect();
    let oldest = open.iter().min_by_key(|record| record.found_at)?;
    let key = obstacle_key(&oldest.found);
    let shown = DamageView::new(oldest, key.and_then(|key| obstacles.get(&key)));
    let more = match open.len() {
        1 => String::new(),
        open => format!(" (and {} more, see 'farside audit damage')", open - 1),
    };
    let why = shown.obstacle.map(|why| format!(": {why}")).unwrap_or_default();
    let (damage, text) = (shown.damage, shown.text);
    let text = format!(
        "{text}{why}{more}; if they cannot come back, run 'farside audit acknowledge {damage} --reason ...'"
    );
    Some(Alarm { kind: AlarmKind::LogDamaged, text, since: Some(oldest.found_at) })
}

/// What logs have and the pools never read, as their last scrubs say.
pub fn unread_alarms(scrubs: &[LogFactRecord]) -> Vec<Alarm> {
    let alarm = |record: &LogFactRecord| match &record.fact {
        LogFact::Scrubbed(scrubbed) => {
            let text = scrubbed.unread_text()?;
            Some(Alarm { kind: AlarmKind::Unread, text, since: Some(record.stored_at) })
        }
        _ => None,
    };
    scrubs.iter().filter_map(alarm).collect()
}

/// What was lost of these logs meanwhile would not be found.
pub fn unscrubbed_alarms(unscrubbed: &BTreeMap<String, String>) -> impl Iterator<Item = Alarm> {
    unscrubbed.iter().map(|(stream, why)| {
        let text = format!("{stream} cannot be scrubbed, so that nobody knows what it lacks: {why}");
        Alarm { kind: AlarmKind::Unscrubbed, text, since: None }
    })
}

/// What should go from these logs stays, until they are full.
pub fn untrimmed_alarms(trimming: &BTreeMap<String, Wait>, now: Timestamp) -> impl Iterator<Item = Alarm> {
    let long = trimming.iter().filter(move |(_, wait)| now.ms_since(wait.since) >= UNTRIMMED_MS);
    long.map(|(stream, Wait { since, why })| {
        let text = format!("{stream} should be trimmed and has not been for more than a day: {why}");
        Alarm { kind: AlarmKind::Untrimmed, text, since: Some(*since) }
    })
}

/// What needs a person, of what is signed.
pub fn signing_alarms(unsigned: Option<&str>, contradictions: &[Contradiction]) -> Vec<Alarm> {
    let alarm = |kind, text| Alarm { kind, text, since: None };
    let changed = contradictions.iter().map(|Contradiction { owner, seen, known, last, .. }| {
        let number = seen.number;
        let what = match known {
            Some(known) => format!("checkpoint {number} with the hash {}, but the target log has it with {known}: history was written anew", seen.hash),
            None => format!("checkpoint {number}, but the last one in the target log is {last}: the log has lost its end, or was changed"),
        };
        let text = format!("{owner} was told {what}; keep the logs and the agents' files as they are, and find out who did that: 'farside audit verify' and docs/audit.md say how");
        alarm(AlarmKind::HistoryChanged, text)
    });
    let unsigned = unsigned.map(|why| alarm(AlarmKind::Unsigned, format!("no checkpoint is signed: {why}")));
    changed.chain(unsigned).collect()
}

/// No snapshot can be kept although a log was trimmed, so that nothing holds what comes from here on and went before.
pub fn snapshot_alarm(unkept: Option<&str>, logs: &[LogView]) -> Option<Alarm> {
    let trimmed = logs.iter().find(|log| log.not_before.is_some())?;
    let text = format!(
        "no snapshot can be kept, and {} was trimmed: {}; put back what was in data/snapshots, or start farside again, which begins with its pool",
        trimmed.stream, unkept?
    );
    Some(Alarm { kind: AlarmKind::NoSnapshot, text, since: None })
}

/// The messages that became dead letters of late. It ends by itself: what is in them is the publisher's to
/// mend, and nothing tells when that is done.
pub fn dead_letter_alarm(facts: &[LogFactRecord], now: Timestamp) -> Option<Alarm> {
    let parked = facts.iter().filter(|record| match &record.fact {
        // A copy of one that is a dead letter already is no second one.
        LogFact::Parked(parked) => parked.copy_of.is_none(),
        _ => false,
    });
    let late: Vec<_> = parked.filter(|record| now.ms_since(record.stored_at) < DEAD_LETTERS_MS).collect();
    let since = late.iter().map(|record| record.stored_at).min()?;
    let text = format!(
        "{} messages of the last 24 hours could not be taken in; 'farside dlq list' says which and why",
        late.len()
    );
    Some(Alarm { kind: AlarmKind::DeadLetters, text, since: Some(since) })
}

/// The pool has little room left for the originals of dead letters, which no trimming of their log can take away.
pub fn originals_alarms(bytes: &BTreeMap<String, u64>) -> Vec<Alarm> {
    let percent = |bytes: u64| bytes.saturating_mul(100) / ORIGINALS_BYTES_MAX;
    let full = bytes.iter().filter(|(_, bytes)| percent(**bytes) >= FULL_ALARM_PERCENT);
    full.map(|(stream, bytes)| {
        let text = format!(
            "the dead letters of {stream} take {} % of the room for their originals; what comes when it is full can be redriven only while the log holds it: stop who publishes it ('farside dlq list'), and redrive what can be mended",
            percent(*bytes)
        );
        Alarm { kind: AlarmKind::DeadLetters, text, since: None }
    })
    .collect()
}

fn is_unproved_since(pool: &PoolRead, stream: &str, at: Timestamp) -> bool {
    stream_of(&pool.summary.pool) == stream
        && pool.owners.iter().any(|owner| {
            let proved = owner.proof.is_some_and(|proof| proof.equal && proof.stored_at >= at);
            owner.agent.is_some() && !proved
        })
}

/// The stream of a pool's site log.
pub fn stream_of(pool: &PoolId) -> String {
    subject::site_stream(&pool.site)
}

#[cfg(test)]
mod tests;
