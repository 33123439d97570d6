//! Puts together what is in sync, what is behind and why. Pure: what was read, and the time, are arguments.

use std::collections::BTreeMap;

use bus_schema::{PoolId, Timestamp, fact::log::LogFact, stream::FULL_ALARM_PERCENT, subject};
use projector::{LogFactRecord, Owner, PoolSummary};

use crate::{
    ports::Doing,
    view::{Alarm, AlarmKind, InSync, LogView, OwnerView, PoolView},
};

/// An agent that was silent for this many of its heartbeat intervals is taken for dead: one may be lost,
/// one may be late.
const SILENT_HEARTBEATS: u64 = 3;

/// One pool as it was read.
#[derive(Debug)]
pub struct PoolRead {
    /// The pool at a glance.
    pub summary: PoolSummary,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// When it is asked next.
    pub next_sync_at: Option<Timestamp>,
    /// What is under way with its owners, by source.
    pub doing: BTreeMap<String, Doing>,
}

/// One pool for people: whether it is true, and why not.
pub fn pool(read: &PoolRead, now: Timestamp) -> PoolView {
    let PoolRead { summary, owners, next_sync_at, doing } = read;
    let views: Vec<_> = owners.iter().map(|owner| owner_view(owner, doing.get(&owner.source), now)).collect();
    let mut why: Vec<_> = owners.iter().flat_map(|owner| reasons(owner, now)).collect();
    why.extend(owners.iter().filter_map(|owner| match doing.get(&owner.source) {
        Some(Doing::Waiting(text)) => Some(format!("{} {text}", owner.source)),
        _ => None,
    }));
    PoolView {
        pool: summary.pool.clone(),
        in_sync: views.iter().map(|owner| owner.in_sync).max().unwrap_or(InSync::No),
        why: if owners.is_empty() { vec!["no source has reported anything yet".to_owned()] } else { why },
        resources: summary.resources,
        deleted: summary.deleted,
        since_sync: summary.since_sync,
        behind_ms: owners.iter().map(|owner| behind_ms(owner, now)).max().unwrap_or(0),
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

fn owner_view(owner: &Owner, doing: Option<&Doing>, now: Timestamp) -> OwnerView {
    let heartbeat = owner.last_heartbeat.as_ref();
    OwnerView {
        source: owner.source.clone(),
        alive: owner.agent.as_ref().map(|_| is_alive(owner, now)),
        in_sync: in_sync(owner, now),
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
        trouble: heartbeat.and_then(|heartbeat| heartbeat.trouble.clone()),
        doing: doing.map(|doing| doing.text().to_owned()),
    }
}

fn is_alive(owner: &Owner, now: Timestamp) -> bool {
    owner.agent.as_ref().is_some_and(|agent| {
        let silence_ms_max = u64::from(agent.heartbeat_ms) * SILENT_HEARTBEATS;
        agent.stopped_at.is_none() && now.ms_since(owner.last_event_at) <= silence_ms_max
    })
}

fn in_sync(owner: &Owner, now: Timestamp) -> InSync {
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
fn behind_ms(owner: &Owner, now: Timestamp) -> u64 {
    let silent_since = (owner.agent.is_some() && !is_alive(owner, now)).then_some(owner.last_event_at);
    let since = [
        owner.since_sync.oldest_outstanding,
        owner.gap.as_ref().map(|gap| gap.stored_at),
        owner.held_window.as_ref().map(|held| held.closed_at),
        owner.proof.filter(|proof| !proof.equal).map(|proof| proof.stored_at),
        silent_since,
    ];
    since.into_iter().flatten().min().map_or(0, |since| now.ms_since(since))
}

fn reasons(owner: &Owner, now: Timestamp) -> Vec<String> {
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
    if owner.agent.is_some() && owner.last_sync.is_none() {
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
    if let Some(trouble) = owner.last_heartbeat.as_ref().and_then(|seen| seen.trouble.as_ref()) {
        why.push(format!("{source} has trouble: {trouble}"));
    }
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
