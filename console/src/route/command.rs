//! What the lease holder is asked to do: syncs, confirmations, and facts about a pool.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use bus_schema::{
    PoolId, ResourceKey, Stem,
    command::{
        resource::KEYS_MAX,
        target::{
            self, ConfirmCommand, Confirmation, RecheckCommand, StateCommand, Stated, SyncCommand,
            SyncsStarted,
        },
    },
    fact::{
        Fact,
        resource::{self as fact, Confirmed},
    },
    subject,
};

use crate::{
    api::{Api, COMMAND_WAIT, unread},
    auth::Caller,
    extract::{Body, Operator, PoolPath, known, no_pool},
    problem::Problem,
    request,
    view::StatedView,
};

/// Longest wait for a source that a caller may ask for, in milliseconds.
const CONFIRM_WAIT_MS_MAX: u64 = 300_000;
/// What a confirmation takes beyond the wait for the source: the sync, and the pool's own work.
const CONFIRM_MARGIN: Duration = Duration::from_secs(30);

/// `POST /v1/pools/{site}/{cluster}/sync`
pub(super) async fn sync(
    State(api): State<Arc<Api>>,
    operator: Operator,
    path: PoolPath,
    Body(wanted): Body<request::Sync>,
) -> Result<Json<SyncsStarted>, Problem> {
    known(&api.reader(), &path.pool)?;
    let command = SyncCommand { pool: path.pool, full: wanted.full, actor: operator.actor };
    api.command(Stem::Resource, target::SYNC, &command, COMMAND_WAIT).await.map(Json)
}

/// `POST /v1/confirm` (R4)
pub(super) async fn confirm(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(wanted): Body<request::Confirm>,
) -> Result<Json<Confirmation>, Problem> {
    let request::Confirm { pool, keys, task, allow_unreachable, wait_ms_max } = wanted;
    may_confirm(&api, &caller, &pool, keys.clone()).await?;
    let wait_ms_max = wait_ms_max.min(CONFIRM_WAIT_MS_MAX);
    let actor = caller.actor().to_owned();
    let command = ConfirmCommand { pool, keys, actor, task, allow_unreachable, wait_ms_max };
    let wait = Duration::from_millis(wait_ms_max) + CONFIRM_MARGIN;
    api.command(Stem::Resource, target::CONFIRM, &command, wait).await.map(Json)
}

/// `POST /v1/recheck`: after the guarded command.
pub(super) async fn recheck(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(wanted): Body<request::Recheck>,
) -> Result<Json<Confirmation>, Problem> {
    let request::Recheck { pool, confirm_id, wait_ms_max } = wanted;
    let confirmed = confirmed(&api, &caller, &pool, confirm_id).await?;
    let keys = confirmed.resources.iter().map(|resource| resource.key.clone()).collect();
    may_confirm(&api, &caller, &pool, keys).await?;
    let wait_ms_max = wait_ms_max.min(CONFIRM_WAIT_MS_MAX);
    let wait = Duration::from_millis(wait_ms_max) + CONFIRM_MARGIN;
    let command = RecheckCommand { confirmed, pool, actor: caller.actor().to_owned(), wait_ms_max };
    api.command(Stem::Resource, target::RECHECK, &command, wait).await.map(Json)
}

/// A confirmation of the caller as it was stated: a record that the caller brings could say anything.
async fn confirmed(
    api: &Api,
    caller: &Caller,
    pool: &PoolId,
    confirm_id: String,
) -> Result<Confirmation, Problem> {
    // It was stated before it was answered, so the pool has it when it is as far as the log is now.
    api.linked()?;
    let facts = subject::target_stream(&api.parts.target);
    let stated = api.parts.bus.stream_state(&facts).await.map_err(unread)?;
    api.applied(&facts, stated.last_seq).await?;
    let (of, id) = (pool.clone(), confirm_id.clone());
    let record = api.read(move |reader| reader.confirmation(&of, &id)).await?.value;
    let found = record.map(|record| record.confirmed);
    let own = |found: &Confirmed| matches!(caller, Caller::Operator { .. }) || found.actor == caller.actor();
    let Confirmed { resources, allowed_unreachable, .. } = found.filter(own).ok_or_else(|| {
        Problem::not_found(format!("{pool} has no confirmation {confirm_id} of yours; confirm first"))
    })?;
    let go = allowed_unreachable || resources.iter().all(|resource| resource.verdict.is_true());
    Ok(Confirmation { confirm_id, go, resources })
}

/// A tenant confirms only what it may see; of what is not in the pool nobody knows the labels, so a grant
/// that is narrowed by labels does not cover it.
async fn may_confirm(
    api: &Api,
    caller: &Caller,
    pool: &PoolId,
    keys: Vec<ResourceKey>,
) -> Result<(), Problem> {
    if keys.is_empty() || keys.len() > KEYS_MAX {
        let text = format!("name 1 to {KEYS_MAX} resources, not {}; split the request", keys.len());
        return Err(Problem::bad_request(text));
    }
    if !caller.may_see(pool) {
        return Err(no_pool(pool));
    }
    api.stream_of(pool)?;
    let Caller::Tenant { access, .. } = caller else { return Ok(()) };
    let (asking, whole, pool) = (caller.clone(), access.is_whole(), pool.clone());
    let hidden = api.read(move |reader| {
        for key in keys {
            let row = reader.row(&pool, &key)?.value;
            if !row.map_or(whole, |row| asking.may_see_row(&row)) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    });
    match hidden.await? {
        None => Ok(()),
        Some(key) => Err(Problem::forbidden(format!("the grant does not cover {key}; ask an operator"))),
    }
}

/// `POST /v1/pools/{site}/{cluster}/empty-confirmed`: a held window close may delete.
pub(super) async fn empty_confirmed(
    State(api): State<Arc<Api>>,
    operator: Operator,
    path: PoolPath,
    Body(wanted): Body<request::EmptyConfirmed>,
) -> Result<Json<StatedView>, Problem> {
    let (pool, sync_id) = (path.pool.clone(), wanted.sync_id.clone());
    let held = api.read(move |reader| {
        let owners = reader.owners(&pool)?.value;
        Ok(owners
            .into_iter()
            .find(|owner| owner.held_window.as_ref().is_some_and(|held| held.sync_id == sync_id)))
    });
    let owner = held.await?.ok_or_else(|| {
        Problem::not_found(format!(
            "no sync {} of {} is held back; 'farside status' names those that are",
            wanted.sync_id, path.pool
        ))
    })?;
    let stated = fact::EmptyConfirmed {
        pool: path.pool,
        owner: owner.source,
        sync_id: wanted.sync_id,
        actor: operator.actor,
    };
    state(&api, Fact::Resource(fact::ResourceFact::EmptyConfirmed(stated))).await.map(Json)
}

/// `POST /v1/pools/{site}/{cluster}/schedule/paused`
pub(super) async fn schedule_paused(
    State(api): State<Arc<Api>>,
    operator: Operator,
    path: PoolPath,
    Body(wanted): Body<request::SchedulePaused>,
) -> Result<Json<StatedView>, Problem> {
    known(&api.reader(), &path.pool)?;
    let stated = fact::SchedulePaused { pool: path.pool, paused: wanted.paused, actor: operator.actor };
    state(&api, Fact::Resource(fact::ResourceFact::SchedulePaused(stated))).await.map(Json)
}

/// Has the lease holder state a fact, and waits until the pool has it.
pub(super) async fn state(api: &Api, fact: Fact) -> Result<StatedView, Problem> {
    let unwritable = |e: serde_json::Error| Problem::internal(format!("the fact cannot be written: {e}"));
    let data = fact.data().map_err(unwritable)?;
    let data = serde_json::from_slice(&data).map_err(unwritable)?;
    let command = StateCommand { stem: fact.stem(), event: fact.name().to_owned(), data };
    let Stated { seq } = api.command(Stem::Log, target::STATE, &command, COMMAND_WAIT).await?;
    let stream = subject::target_stream(&api.parts.target);
    api.applied(&stream, seq).await?;
    Ok(StatedView { place: format!("{stream}:{seq}"), warning: None })
}
