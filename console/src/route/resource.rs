//! Resources, now and at any past moment, and their history.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use bus::LogMessage;
use bus_schema::{Envelope, ResourceKey, Stem, TenantId, subject};
use projector::{Filter, Page, Reader, StoreError};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::past;
use crate::{
    api::{Api, read_in, unread},
    auth::Caller,
    extract::{Params, PoolPath},
    problem::Problem,
    view::{HistoryEntry, HistoryView, ResourcePage, ResourceView},
};

/// Resources on one page when the caller names no limit.
const LIMIT_DEFAULT: usize = 100;
/// Most resources on one page, and most events in one answer about history.
const LIMIT_MAX: usize = 1_000;
/// Most rows that are read for one page of a tenant that may see only some of them.
const SCANNED_MAX: usize = 50_000;
/// An answer about history ends with the event that brings it to this size, in bytes of data.
const HISTORY_BYTES: usize = 8 << 20;
/// Events that are taken from the log at once.
const CHUNK: usize = 256;

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

fn no_resource(path: &PoolPath, key: &ResourceKey) -> Problem {
    Problem::not_found(format!(
        "pool {} has no {key}; 'farside pool get' without a resource lists them",
        path.pool
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    after: Option<u64>,
    limit: Option<usize>,
}

/// `GET /v1/pools/{site}/{cluster}/history/{kind}/{*id}`: read from the log, oldest first.
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    path: PoolPath,
    Params(span): Params<Span>,
) -> Result<Json<HistoryView>, Problem> {
    let key = path.key()?;
    let stream = api.stream_of(&path.pool)?;
    if matches!(path.caller, Caller::Tenant { .. }) {
        // What a tenant may not see now, it may not see in the past either.
        let row = api.reader().row(&path.pool, &key)?.value;
        row.filter(|row| path.caller.may_see_row(row)).ok_or_else(|| no_resource(&path, &key))?;
    }
    let filter = subject::entity_events(&path.pool, Stem::Resource, key.as_str());
    let limit = span.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX);
    let (messages, whole) = entity_messages(&api, &stream, &filter, span.after.unwrap_or(0), limit).await?;
    if messages.is_empty() && span.after.is_none() {
        return Err(no_resource(&path, &key));
    }
    let next = messages.last().filter(|_| !whole).map(LogMessage::seq);
    Ok(Json(HistoryView { items: messages.iter().map(entry).collect(), next }))
}

/// The messages of an entity, and whether these are all that there are.
async fn entity_messages(
    api: &Api,
    stream: &str,
    filter: &str,
    after: u64,
    limit: usize,
) -> Result<(Vec<LogMessage>, bool), Problem> {
    api.linked()?;
    let bus = &api.parts.bus;
    let last = bus.last_message(stream, filter).await.map_err(unread)?;
    let Some(last) = last.filter(|last| last.seq() > after) else { return Ok((vec![], true)) };
    let mut log = bus.read_log(stream, after + 1, Some(filter)).await.map_err(unread)?;
    let (mut messages, mut bytes): (Vec<LogMessage>, usize) = (vec![], 0);
    loop {
        for message in log.next_chunk(CHUNK).await.map_err(unread)? {
            bytes += message.body().len();
            let whole = message.seq() >= last.seq();
            messages.push(message);
            if whole || messages.len() == limit || bytes >= HISTORY_BYTES {
                return Ok((messages, whole));
            }
        }
    }
}

fn entry(message: &LogMessage) -> HistoryEntry {
    let place = format!("{}:{}", message.stream(), message.seq());
    message.with_stored(|stored| match Envelope::read(stored) {
        Ok(envelope) => HistoryEntry {
            place,
            stored_at: stored.stored_at,
            time: envelope.time,
            event_type: envelope.event_type.into_owned(),
            source: envelope.source.into_owned(),
            id: envelope.id.into_owned(),
            chain: envelope.link.map(|link| format!("{}:{}", link.at.epoch, link.at.seq)),
            sync: envelope.sync.map(Cow::into_owned),
            data: serde_json::from_slice::<Box<RawValue>>(&envelope.data).ok(),
            unreadable: None,
        },
        Err(error) => HistoryEntry {
            place: place.clone(),
            stored_at: stored.stored_at,
            time: stored.stored_at,
            event_type: stored.subject.rsplit('.').next().unwrap_or_default().to_owned(),
            source: String::new(),
            id: place,
            chain: None,
            sync: None,
            data: None,
            unreadable: Some(error.to_string()),
        },
    })
}
