//! Dead letters: messages that could not be taken in, each with the reason. As their own log has them, as the pool
//! knows them, and taken in again.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use bus::{LogMessage, dead_letter};
use bus_schema::subject;
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, TryStreamExt, stream};
use projector::{DeadMessage, ParkedRecord, Reader, StoreError};
use serde::Deserialize;

use crate::{
    api::{Api, unread},
    extract::{Body, Operator, Params},
    ports::{RedriveAsked, RedriveWhich},
    problem::Problem,
    request::Redrive,
    view::{DeadLetterGroupsView, DeadLetterView, DeadLettersView, LetterView, OriginalView, RedriveView},
};

/// Dead letters in one answer when the caller names no limit.
const LIMIT_DEFAULT: u64 = 20;
/// Most dead letters in one answer: each is read with its original, which may have a megabyte.
const LIMIT_MAX: u64 = 200;
/// Dead letters that are read at once.
const READS: usize = 8;
/// Kinds of reasons in one answer: more of them nobody reads through.
const GROUPS_MAX: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    before: Option<u64>,
    limit: Option<u64>,
}

/// `GET /v1/dead-letters`: newest first.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    _: Operator,
    Params(span): Params<Span>,
) -> Result<Json<DeadLettersView>, Problem> {
    api.linked()?;
    let (bus, log) = (&api.parts.bus, subject::dead_letter_stream(&api.parts.target));
    let state = bus.stream_state(&log).await.map_err(unread)?;
    let end = span.before.unwrap_or(u64::MAX).min(state.last_seq + 1);
    let limit = span.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    // A log that never had a message says 0, which is no sequence.
    let first = state.first_seq.max(1);
    let begin = end.saturating_sub(limit).max(first);
    let found: Vec<_> = stream::iter((begin..end).rev())
        .map(|seq| bus.message_unless_unsure(&log, seq))
        .buffered(READS)
        .map_ok(|letter| letter.as_ref().map(view))
        .try_collect()
        .await
        .map_err(unread)?;
    let next = (begin > first && begin < end).then_some(begin);
    let items: Vec<DeadLetterView> = found.into_iter().flatten().collect();
    Ok(Json(DeadLettersView { items: api.read(|reader| told(reader, items)).await?, next }))
}

/// Tells of each whether a copy of it was taken in since.
fn told(reader: &Reader, items: Vec<DeadLetterView>) -> Result<Vec<DeadLetterView>, StoreError> {
    let copy = |letter: DeadLetterView| {
        let Some((stream, seq)) = read_place(&letter.place) else { return Ok(letter) };
        let known = reader.parked_record(&stream, seq)?.value;
        let redriven = known.and_then(|known| known.redriven).map(|copy| format!("{stream}:{copy}"));
        Ok(DeadLetterView { redriven, ..letter })
    };
    items.into_iter().map(copy).collect()
}

/// `GET /v1/dead-letters/groups`: what is parked, by the kind of the reasons.
pub(super) async fn groups(
    State(api): State<Arc<Api>>,
    _: Operator,
) -> Result<Json<DeadLetterGroupsView>, Problem> {
    let (groups, others) = api.read(|reader| reader.parked_groups(GROUPS_MAX)).await?.value;
    Ok(Json(DeadLetterGroupsView { items: groups.into_iter().map(Into::into).collect(), others }))
}

/// `GET /v1/dead-letters/{place}`: one, with its original.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    _: Operator,
    Path(place): Path<String>,
) -> Result<Json<LetterView>, Problem> {
    let (stream, seq) = place_of(&place)?;
    let of = stream.clone();
    let known = api.read(move |reader| {
        let Some(record) = reader.parked_record(&of, seq)?.value else { return Ok(None) };
        let kept = reader.original(&record)?.value;
        Ok(Some((record, kept)))
    });
    let (record, kept) = known.await?.ok_or_else(|| {
        let text = format!("{place} is no dead letter; 'farside dlq list --all' shows those that there are");
        Problem::not_found(text)
    })?;
    let original = match kept {
        Some(DeadMessage { headers, body, .. }) => Some(original(headers, &body)),
        None => in_log(&api, &record).await?,
    };
    let letters = subject::dead_letter_stream(&api.parts.target);
    Ok(Json(LetterView::new(record, original, &letters)))
}

/// The original of what the pool does not keep: it was taken in, its epoch was over, or there was no room for it.
async fn in_log(api: &Api, record: &ParkedRecord) -> Result<Option<OriginalView>, Problem> {
    api.linked()?;
    let message = api.parts.bus.message_unless_unsure(&record.stream, record.seq).await.map_err(unread)?;
    let message = message.filter(|message| message.with_stored(|stored| record.stands_at(stored)));
    Ok(message.map(|message| {
        let headers = message.headers().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut headers: Vec<_> = headers.collect();
        // As the pool keeps them.
        headers.sort_by(|left, right| left.0.cmp(&right.0));
        original(headers, message.body())
    }))
}

fn original(headers: Vec<(String, String)>, body: &[u8]) -> OriginalView {
    let text = std::str::from_utf8(body).ok();
    let body_hex = text.is_none().then(|| HEXLOWER.encode(body));
    OriginalView { headers, body: text.map(str::to_owned), body_hex }
}

/// `POST /v1/dead-letters/redrive`: a page of them is taken in again.
pub(super) async fn redrive(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Body(asked): Body<Redrive>,
) -> Result<Json<RedriveView>, Problem> {
    let Redrive { place, reason, range, upcaster: upcasting, dry_run, after, limit } = asked;
    let which = match (place, reason, range) {
        (Some(place), None, None) => {
            let (stream, seq) = place_of(&place)?;
            RedriveWhich::Place(stream, seq)
        }
        (None, Some(reason), None) if !reason.is_empty() => RedriveWhich::Reason(reason),
        (None, None, Some(range)) => read_range(&range).ok_or_else(|| {
            Problem::bad_request(format!("{range:?} is no part of a log; write stream:from-to"))
        })?,
        _ => {
            let text = "name the dead letters that are meant by one of place, reason and range";
            return Err(Problem::bad_request(text));
        }
    };
    let after = after.map(|after| place_of(&after)).transpose()?;
    api.linked()?;
    let asked = RedriveAsked { which, upcasting, dry_run, after, limit, actor: operator.actor };
    Ok(Json(api.parts.redriver.redrive(asked).await?))
}

/// Reads `stream:seq`.
fn read_place(text: &str) -> Option<(String, u64)> {
    let (stream, seq) = text.rsplit_once(':')?;
    Some((stream.to_owned(), seq.parse().ok()?)).filter(|(stream, _)| !stream.is_empty())
}

fn place_of(text: &str) -> Result<(String, u64), Problem> {
    let wrong = || Problem::bad_request(format!("{text:?} is no place of a log; write stream:sequence"));
    read_place(text).ok_or_else(wrong)
}

/// Reads `stream:from-to`.
fn read_range(text: &str) -> Option<RedriveWhich> {
    let (from, to) = text.rsplit_once('-')?;
    let (stream, from) = read_place(from)?;
    let to = to.parse().ok()?;
    (from <= to).then_some(RedriveWhich::Range(stream, from, to))
}

fn view(letter: &LogMessage) -> DeadLetterView {
    let headers = letter.headers();
    let said = |name: &str| {
        let found = headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| (*value).to_owned()).unwrap_or_default()
    };
    DeadLetterView {
        place: said(dead_letter::ORIGIN),
        subject: said(dead_letter::ORIGIN_SUBJECT),
        reason: said(dead_letter::REASON),
        path: said(dead_letter::PATH),
        consumer: said(dead_letter::CONSUMER),
        parked_at: letter.stored_at(),
        letter: format!("{}:{}", letter.stream(), letter.seq()),
        redriven: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_its_log_and_both_ends() {
        let range = |from, to| Some(RedriveWhich::Range("FARSIDE_DR-1".to_owned(), from, to));
        assert_eq!(read_range("FARSIDE_DR-1:7-12"), range(7, 12));
        for text in ["7-12", "FARSIDE_LOCAL:7", "FARSIDE_LOCAL:12-7", ":1-2", "FARSIDE_LOCAL:1-x"] {
            assert_eq!(read_range(text), None, "{text}");
        }
    }
}
