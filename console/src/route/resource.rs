//! Resources, now and at any past moment.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use bus_schema::{ResourceKey, TenantId};
use projector::{Filter, Page, Reader, StoreError};
use serde::Deserialize;

use super::past;
use crate::{
    api::{Api, read_in},
    extract::{Params, PoolPath},
    problem::Problem,
    view::{ResourcePage, ResourceView},
};

/// Resources on one page when the caller names no limit.
const LIMIT_DEFAULT: usize = 100;
/// Most resources on one page.
const LIMIT_MAX: usize = 1_000;
/// Most rows that are read for one page of a tenant that may see only some of them.
const SCANNED_MAX: usize = 50_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    kind: Option<String>,
    /// `name=value`, several separated by commas.
    label: Option<String>,
    tenant: Option<TenantId>,
    owner: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    stale: bool,
    after: Option<ResourceKey>,
    limit: Option<usize>,
    at: Option<String>,
}

impl Wanted {
    fn filter(&self) -> Result<Filter, Problem> {
        let pair = |text: &str| {
            let (name, value) = text.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let labels: Option<BTreeMap<_, _>> = match &self.label {
            None => Some(BTreeMap::new()),
            Some(text) => text.split(',').map(pair).collect(),
        };
        let labels =
            labels.ok_or_else(|| Problem::bad_request("write labels as label=name=value,name=value"))?;
        Ok(Filter {
            kind: self.kind.clone(),
            labels,
            tenant: self.tenant.clone(),
            owner: self.owner.clone(),
            include_deleted: self.deleted,
            stale: self.stale,
        })
    }
}

/// `GET /v1/pools/{site}/{cluster}/resources`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    path: PoolPath,
    Params(wanted): Params<Wanted>,
) -> Result<Json<ResourcePage>, Problem> {
    let filter = wanted.filter()?;
    let limit = wanted.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let past = past::reader_at(&api, &path.pool, wanted.at.as_deref()).await?;
    let found = read_in(past.reader.clone(), move |reader| page(reader, &path, &filter, wanted.after, limit));
    let page = found.await?;
    let items = page.rows.into_iter().map(ResourceView::try_from).collect::<Result<_, _>>();
    let items = items.map_err(|e| Problem::internal(format!("a stored state is not JSON: {e}")))?;
    Ok(Json(ResourcePage { as_of: page.as_of.into(), items, next: page.next }))
}

/// A page of what the caller may see: rows that it may not see do not count, but end the reading in time.
/// A page that the pool ended before the limit has as many bytes as an answer should have.
fn page(
    reader: &Reader,
    path: &PoolPath,
    filter: &Filter,
    mut after: Option<ResourceKey>,
    limit: usize,
) -> Result<Page, StoreError> {
    let mut seen = vec![];
    let mut scanned = 0;
    loop {
        let mut page = reader.rows(&path.pool, filter, after.as_ref(), limit)?;
        scanned += page.rows.len();
        let full = page.rows.len() < limit;
        page.rows.retain(|row| path.caller.may_see_row(row));
        let room = limit - seen.len();
        let cut = page.rows.len() > room;
        page.rows.truncate(room);
        seen.append(&mut page.rows);
        if cut {
            page.next = seen.last().map(|row| row.key.clone());
        }
        let enough = seen.len() == limit || (full && !seen.is_empty()) || scanned >= SCANNED_MAX;
        if enough || page.next.is_none() {
            return Ok(Page { rows: seen, ..page });
        }
        after = page.next;
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtMoment {
    at: Option<String>,
}

/// `GET /v1/pools/{site}/{cluster}/resources/{kind}/{*id}`; a tombstone is answered too.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    path: PoolPath,
    Params(moment): Params<AtMoment>,
) -> Result<Json<ResourceView>, Problem> {
    let key = path.key()?;
    let past = past::reader_at(&api, &path.pool, moment.at.as_deref()).await?;
    let row = past.reader.row(&path.pool, &key)?.value;
    let row = row.filter(|row| path.caller.may_see_row(row)).ok_or_else(|| no_resource(&path, &key))?;
    let view = ResourceView::try_from(row);
    view.map(Json).map_err(|e| Problem::internal(format!("the stored state of {key} is not JSON: {e}")))
}

pub(super) fn no_resource(path: &PoolPath, key: &ResourceKey) -> Problem {
    Problem::not_found(format!(
        "pool {} has no {key}; 'farside pool get' without a resource lists them",
        path.pool
    ))
}
