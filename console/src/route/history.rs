//! What happened to one resource, from the log: each event about it with what it changed, and the full answers that
//! deleted it because they did not have it, of which its own subject tells nothing.

use std::sync::Arc;

use axum::{Json, extract::State};
use bus::LogMessage;
use bus_schema::{ResourceKey, Stem, subject};
use serde::Deserialize;

use super::{floor::not_before, resource::no_resource, story};
use crate::{
    api::{Api, unread},
    auth::Caller,
    extract::{Params, PoolPath},
    problem::Problem,
    trail::{Document, entry},
    view::{HistoryEntry, HistoryView, trail::EffectView},
};

/// Most events in one answer.
const LIMIT_MAX: usize = 1_000;
/// An answer ends with the event that brings it to this size, in bytes of data.
const BYTES_MAX: usize = 8 << 20;
/// Events that are taken from the log at once.
const CHUNK: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    after: Option<u64>,
    limit: Option<usize>,
}

/// `GET /v1/pools/{site}/{cluster}/history/{kind}/{*id}`: oldest first.
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
    let subjects = subject::entity_events(&path.pool, Stem::Resource, key.as_str());
    let (after, limit) = (span.after.unwrap_or(0), span.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX));
    let (messages, whole) = messages(&api, &stream, &subjects, after, limit).await?;
    let end = messages.last().filter(|_| !whole).map(LogMessage::seq);
    let buried = story::buried(&api, &stream, &path.pool, &key).await?;
    let buried = buried.into_iter().filter(|seq| *seq > after && end.is_none_or(|end| *seq < end));
    let buried: Vec<_> = buried.collect();
    let not_before = not_before(&api, &stream).await?;
    if messages.is_empty() && buried.is_empty() && span.after.is_none() {
        // All that was told of it may have gone with the beginning of the log.
        let is_there = not_before.is_some() && api.reader().row(&path.pool, &key)?.value.is_some();
        if !is_there {
            return Err(no_resource(&path, &key));
        }
    }
    let first = messages.first().map(LogMessage::seq).into_iter().chain(buried.first().copied()).min();
    let before = match first.filter(|_| after > 0) {
        Some(first) => story::before(&api, &stream, &path.pool, Some(&key), &subjects, first).await?.document,
        None => Document::default(),
    };
    let items = told(&api, &stream, before, messages, buried, &path, &key).await?;
    Ok(Json(HistoryView { items, next: end, not_before }))
}

/// The events and the deletions by full answers in their order, each with what it did. A tenant is told what changed
/// between states that it may see; it may not have been its resource before.
async fn told(
    api: &Api,
    stream: &str,
    mut document: Document,
    messages: Vec<LogMessage>,
    buried: Vec<u64>,
    path: &PoolPath,
    key: &ResourceKey,
) -> Result<Vec<HistoryEntry>, Problem> {
    let (mut items, mut buried) = (Vec::new(), buried.into_iter().peekable());
    let (caller, of_tenant) = (&path.caller, matches!(path.caller, Caller::Tenant { .. }));
    let mut messages = messages.into_iter().peekable();
    loop {
        let is_next = |seq: &u64| messages.peek().is_none_or(|message| *seq < message.seq());
        let was_seen = document.is_seen_by(caller);
        let item = if let Some(seq) = buried.next_if(is_next) {
            absence(api, stream, seq, document.bury(), key).await?
        } else if let Some(message) = messages.next() {
            let (told, refused) = (entry(&message), story::refused(api, &message).await?);
            let effect = document.take(&told, refused.as_deref());
            // What had no effect may say anything of anybody.
            let is_told = !of_tenant || effect.none.is_none();
            is_told.then(|| HistoryEntry::new(told, effect))
        } else {
            return Ok(items);
        };
        items.extend(item.filter(|_| was_seen && document.is_seen_by(caller)));
    }
}

/// The end of a full answer that did not have the resource; none = the log has lost it.
async fn absence(
    api: &Api,
    stream: &str,
    seq: u64,
    effect: EffectView,
    key: &ResourceKey,
) -> Result<Option<HistoryEntry>, Problem> {
    let message = api.parts.bus.message_unless_unsure(stream, seq).await.map_err(unread)?;
    Ok(message.map(|message| {
        let mut told = entry(&message);
        told.sync = told.entity.strip_prefix("sync/").map(str::to_owned);
        // What the answer says of the whole source is not of this resource.
        (told.entity, told.data) = (key.to_string(), None);
        HistoryEntry { absent: true, ..HistoryEntry::new(told, effect) }
    }))
}

/// The messages about a resource, and whether these are all that there are.
async fn messages(
    api: &Api,
    stream: &str,
    subjects: &str,
    after: u64,
    limit: usize,
) -> Result<(Vec<LogMessage>, bool), Problem> {
    api.linked()?;
    let bus = &api.parts.bus;
    let last = bus.last_message_unless_unsure(stream, subjects).await.map_err(unread)?;
    let Some(last) = last.filter(|last| last.seq() > after) else { return Ok((vec![], true)) };
    let mut log = bus.read_log(stream, after + 1, Some(subjects)).await.map_err(unread)?;
    let (mut messages, mut bytes): (Vec<LogMessage>, usize) = (vec![], 0);
    while let Some(chunk) = log.next_stored(CHUNK, last.seq()).await.map_err(unread)? {
        for message in chunk {
            bytes += message.body().len();
            let whole = message.seq() >= last.seq();
            messages.push(message);
            if whole || messages.len() == limit || bytes >= BYTES_MAX {
                return Ok((messages, whole));
            }
        }
    }
    Ok((messages, true))
}
