//! Pools, and the lists that belong to one.

use std::sync::Arc;

use axum::{Json, extract::State};
use bus_schema::PoolId;
use projector::{Answer, ConfirmationRecord, ImageEntry, Reader, StoreError, SyncRecord, VolumeState};
use serde::Deserialize;

use super::health;
use crate::{
    api::Api,
    auth::Caller,
    extract::{Params, PoolPath, known, no_pool},
    problem::Problem,
    view::{ListView, PoolView},
};

/// Entries of a list when the caller names no limit.
const LIMIT_DEFAULT: usize = 100;
/// Most entries of one list: an answer stays below a few MiB.
const LIMIT_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    limit: Option<usize>,
}

impl Limit {
    fn get(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)
    }
}

/// `GET /v1/pools`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
) -> Result<Json<ListView<PoolView>>, Problem> {
    let status = health::gather(&api, |pool| caller.may_see(pool)).await?;
    Ok(Json(ListView { as_of: status.as_of, items: status.pools }))
}

/// `GET /v1/pools/{site}/{cluster}`
pub(super) async fn one(State(api): State<Arc<Api>>, path: PoolPath) -> Result<Json<PoolView>, Problem> {
    let status = health::gather(&api, |pool| *pool == path.pool).await?;
    status.pools.into_iter().next().map(Json).ok_or_else(|| no_pool(&path.pool))
}

/// `GET /v1/pools/{site}/{cluster}/volumes`
pub(super) async fn volumes(
    State(api): State<Arc<Api>>,
    path: PoolPath,
) -> Result<Json<ListView<VolumeState>>, Problem> {
    whole_pool_only(&path)?;
    listed(&api, path, Reader::volumes).await
}

/// `GET /v1/pools/{site}/{cluster}/images`
pub(super) async fn images(
    State(api): State<Arc<Api>>,
    path: PoolPath,
) -> Result<Json<ListView<ImageEntry>>, Problem> {
    whole_pool_only(&path)?;
    listed(&api, path, Reader::images).await
}

/// `GET /v1/pools/{site}/{cluster}/syncs`
pub(super) async fn syncs(
    State(api): State<Arc<Api>>,
    path: PoolPath,
    Params(limit): Params<Limit>,
) -> Result<Json<ListView<SyncRecord>>, Problem> {
    listed(&api, path, move |reader, pool| reader.syncs(pool, limit.get())).await
}

/// `GET /v1/pools/{site}/{cluster}/confirmations`
pub(super) async fn confirmations(
    State(api): State<Arc<Api>>,
    path: PoolPath,
    Params(limit): Params<Limit>,
) -> Result<Json<ListView<ConfirmationRecord>>, Problem> {
    if let Caller::Tenant { actor, .. } = &path.caller {
        // Confirmations name what other callers asked for.
        return Err(Problem::forbidden(format!(
            "{actor} may not read what others confirmed; ask an operator"
        )));
    }
    listed(&api, path, move |reader, pool| reader.confirmations(pool, limit.get())).await
}

/// Volumes, images and lines of an export are not filtered by labels, so a grant that is narrowed by
/// labels shows none of them.
pub(super) fn whole_pool_only(path: &PoolPath) -> Result<(), Problem> {
    match &path.caller {
        Caller::Tenant { access, .. } if !access.is_whole() => Err(Problem::forbidden(format!(
            "the grant on {} is narrowed by labels, which this answer cannot follow; ask for its resources instead",
            path.pool
        ))),
        _ => Ok(()),
    }
}

/// A list of a pool. Errors: 404 when the pool is not there, which an empty list would not say.
async fn listed<T: Send + 'static>(
    api: &Api,
    path: PoolPath,
    question: impl FnOnce(&Reader, &PoolId) -> Result<Answer<Vec<T>>, StoreError> + Send + 'static,
) -> Result<Json<ListView<T>>, Problem> {
    known(&api.reader(), &path.pool)?;
    let Answer { value, as_of } = api.read(move |reader| question(reader, &path.pool)).await?;
    Ok(Json(ListView { as_of: as_of.into(), items: value }))
}
