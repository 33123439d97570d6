//! Whether the process lives, whether it may be asked, and how true the pools are.

use std::sync::Arc;

use axum::{Json, extract::State};
use bus::STORES_NOTHING;
use bus_schema::{PoolId, Timestamp, subject};
use projector::{LogFactRecord, PoolSummary, Reader, StoreError};

use super::floor;
use crate::{
    api::{Api, now, read_in},
    auth::Caller,
    ports::Vitals,
    problem::Problem,
    status::{self, Hindrance, Lease, PoolRead, SYNCS_LOOKED_AT},
    view::{Alarm, AlarmKind, LinkView, LogView, StatusView},
};

/// A pool that lacks events older than this is not ready to be asked, in milliseconds: the answer would
/// be of another time. A process that catches up becomes ready by itself.
const READY_BEHIND_MS_MAX: u64 = 30_000;
/// Facts about logs that are looked through for rewinds and dead letters: all that the pool keeps.
const LOG_FACTS_MAX: usize = 1_000;

/// `GET /healthz`: the process lives.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: connected, acknowledged, the position read, not too far behind.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    let not_ready = |why: String| Problem::unavailable(format!("not ready: {why}"));
    if let Some(since) = api.down_since() {
        return Err(not_ready(format!("NATS cannot be reached since {since}")));
    }
    if let Some(since) = api.parts.bus.silent_since() {
        return Err(not_ready(silent(since)));
    }
    if let Some(trouble) = api.parts.health.vitals().trouble {
        return Err(not_ready(trouble));
    }
    for log in logs(&api, &api.parts.health.vitals()).await? {
        if log.last.is_none() {
            return Err(not_ready(format!("the log {} does not answer", log.stream)));
        }
        if log.behind_ms.is_none_or(|behind_ms| behind_ms > READY_BEHIND_MS_MAX) {
            let (events, stream) = (log.behind_events().unwrap_or_default(), &log.stream);
            let seconds = log.behind_ms.unwrap_or_default() / 1_000;
            return Err(not_ready(format!("{events} events of {stream} wait, the oldest for {seconds} s")));
        }
    }
    Ok("ready\n")
}

/// `GET /v1/status`: a tenant gets its own pools only, without the house's alarms.
pub(super) async fn status(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<StatusView>, Problem> {
    let mut view = gather(&api, |pool| caller.may_see(pool)).await?;
    if matches!(caller, Caller::Tenant { .. }) {
        view.alarms.clear();
        // It names who reads from the logs.
        view.logs.iter_mut().for_each(|log| log.trimming = None);
    }
    Ok(Json(view))
}

/// Everything that is known about how true the pools are.
pub(super) async fn gather(api: &Api, wanted: impl Fn(&PoolId) -> bool) -> Result<StatusView, Problem> {
    let now = now();
    let vitals = api.parts.health.vitals();
    let logs = logs(api, &vitals).await?;
    let nats = link(api);
    let lease = lease(api, &nats, vitals.lease_held).await;
    let house = hindrances(&nats, &vitals);
    let (for_pools, of_house) = (vitals.clone(), house.clone());
    let streams: Vec<_> = logs.iter().map(|log| log.stream.clone()).collect();
    let (reads, as_of, (dead_letters, originals), facts, (damages, scrubs)) =
        read_in(api.reader(), move |reader| {
            let facts = reader.log_facts(LOG_FACTS_MAX)?.value;
            let (reads, as_of) = (pools(reader, &for_pools, &of_house)?, reader.as_of()?);
            let parked = (reader.dead_letters()?.value, reader.originals_bytes()?.value);
            let harm = (reader.damages()?.value, scrubs(reader, &streams)?);
            Ok((reads, as_of, parked, facts, harm))
        })
        .await?;
    let mut alarms: Vec<_> = reads.iter().flat_map(|read| status::pool_alarms(read, now)).collect();
    alarms.extend(status::log_alarms(&logs, &facts, &reads));
    alarms.extend(api.parts.bus.silent_since().map(|since| Alarm {
        kind: AlarmKind::LogFull,
        text: silent(since),
        since: Some(since),
    }));
    alarms.extend(lease.idle(api.since, now, &api.parts.target));
    alarms.extend(house.into_iter().map(|Hindrance { kind, since, text }| Alarm { kind, text, since }));
    alarms.extend(status::signing_alarms(vitals.unsigned.as_deref(), &vitals.contradictions));
    alarms.extend(status::snapshot_alarm(vitals.unkept.as_deref(), &logs));
    alarms.extend(status::dead_letter_alarm(&facts, now).filter(|_| dead_letters > 0));
    alarms.extend(status::originals_alarms(&originals));
    alarms.extend(status::damage_alarm(&damages, &vitals.obstacles));
    alarms.extend(status::unread_alarms(&scrubs));
    alarms.extend(status::unscrubbed_alarms(&vitals.unscrubbed));
    alarms.extend(status::untrimmed_alarms(&vitals.trimming, now));
    alarms.sort_by_key(|alarm| alarm.kind);
    let seen = reads.iter().filter(|read| wanted(&read.summary.pool));
    Ok(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        target: api.parts.target.clone(),
        now,
        as_of: as_of.into(),
        lease: lease.view(now),
        nats,
        logs,
        pools: seen.map(|read| status::pool(read, now)).collect(),
        dead_letters,
        dead_letter_bytes: originals,
        file_bytes: vitals.file_bytes,
        live_bytes: vitals.live_bytes,
        alarms,
    })
}

/// Asks who acts: whoever holds the lease says so in a log of its own.
async fn lease(api: &Api, nats: &LinkView, held_here: bool) -> Lease {
    let (target, bus) = (&api.parts.target, &api.parts.bus);
    let renewed_at = match subject::TARGET_LEASE.parse() {
        Ok(lease) if nats.up && !held_here => {
            let (stream, subject) = (subject::lease_stream(target), subject::lease_renewal(target, &lease));
            let renewal = bus.last_message(&stream, &subject).await.ok().flatten();
            renewal.map(|renewal| renewal.stored_at())
        }
        _ => None,
    };
    Lease { up: nats.up, held_here, renewed_at, ttl_ms: api.parts.lease_ttl_ms }
}

fn pools(reader: &Reader, vitals: &Vitals, house: &[Hindrance]) -> Result<Vec<PoolRead>, StoreError> {
    let read = |summary: PoolSummary| {
        let owners = reader.owners(&summary.pool)?.value;
        let next_sync_at = vitals.next_syncs.get(&summary.pool).copied();
        let of_pool = |source: &String| owners.iter().any(|owner| owner.source == *source);
        let doing = vitals.doing.iter().filter(|(source, _)| of_pool(source));
        let doing = doing.map(|(source, doing)| (source.clone(), doing.clone())).collect();
        let syncs = reader.syncs(&summary.pool, SYNCS_LOOKED_AT)?.value;
        Ok(PoolRead { summary, owners, syncs, next_sync_at, doing, house: house.to_vec() })
    };
    reader.pools()?.value.into_iter().map(read).collect()
}

/// The last scrub of each log.
fn scrubs(reader: &Reader, streams: &[String]) -> Result<Vec<LogFactRecord>, StoreError> {
    let mut found = Vec::new();
    for stream in streams {
        found.extend(reader.latest_fact("scrubbed", stream)?.value);
    }
    Ok(found)
}

fn link(api: &Api) -> LinkView {
    let down_since = api.down_since();
    LinkView { up: down_since.is_none(), down_since, server_version: api.parts.bus.server().version }
}

/// A link that stands and acknowledges nothing.
fn silent(since: Timestamp) -> String {
    format!("NATS acknowledges nothing since {since}; {STORES_NOTHING}")
}

/// What keeps every pool from being true, or from being known to be.
fn hindrances(nats: &LinkView, vitals: &Vitals) -> Vec<Hindrance> {
    let down = nats.down_since.map(|since| Hindrance {
        kind: AlarmKind::NatsDown,
        since: Some(since),
        text: format!("NATS cannot be reached since {since}; it is retried for ever: look at the server"),
    });
    let trouble = vitals.trouble.as_ref();
    let trouble =
        trouble.map(|text| Hindrance { kind: AlarmKind::Projector, since: None, text: text.clone() });
    down.into_iter().chain(trouble).collect()
}

/// Each site log and the target's own, as far as the server answers.
async fn logs(api: &Api, vitals: &Vitals) -> Result<Vec<LogView>, Problem> {
    let as_of = api.reader().as_of()?;
    let streams = api.parts.sites.iter().map(subject::site_stream);
    let mut logs = vec![];
    for stream in streams.chain([subject::target_stream(&api.parts.target)]) {
        let applied = as_of.logs.iter().find(|(name, _)| *name == stream).map_or(0, |(_, seq)| *seq);
        let trimming = vitals.trimming.get(&stream).map(|wait| wait.why.clone());
        let not_before = floor::not_before(api, &stream).await?;
        logs.push(LogView { trimming, not_before, ..log(api, stream, applied).await });
    }
    Ok(logs)
}

async fn log(api: &Api, stream: String, applied: u64) -> LogView {
    let unknown = LogView::unknown(stream, applied);
    if api.down_since().is_some() {
        return unknown;
    }
    let bus = &api.parts.bus;
    let Ok(state) = bus.stream_state(&unknown.stream).await else { return unknown };
    let behind_ms = if state.last_seq <= applied {
        Some(0)
    } else {
        let oldest = bus.message(&unknown.stream, state.first_seq.max(applied + 1)).await.ok().flatten();
        oldest.map(|oldest| now().ms_since(oldest.stored_at()))
    };
    let full_percent =
        state.bytes_max.filter(|max| *max > 0).map(|max| state.bytes.saturating_mul(100) / max);
    let (first, last, bytes) = (Some(state.first_seq), Some(state.last_seq), Some(state.bytes));
    LogView { first, last, behind_ms, bytes, full_percent, ..unknown }
}
