//! Dead letters: messages that could not be taken in, each with the reason, as their own log has them.

use std::sync::Arc;

use axum::{Json, extract::State};
use bus::{LogMessage, dead_letter};
use bus_schema::subject;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use crate::{
    api::{Api, unread},
    extract::{Operator, Params},
    problem::Problem,
    view::{DeadLetterView, DeadLettersView},
};

/// Dead letters in one answer when the caller names no limit.
const LIMIT_DEFAULT: u64 = 20;
/// Most dead letters in one answer: each is read with its original, which may have a megabyte.
const LIMIT_MAX: u64 = 200;
/// Dead letters that are read at once.
const READS: usize = 8;

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
        .map(|seq| bus.message(&log, seq))
        .buffered(READS)
        .map_ok(|letter| letter.as_ref().map(view))
        .try_collect()
        .await
        .map_err(unread)?;
    let next = (begin > first && begin < end).then_some(begin);
    Ok(Json(DeadLettersView { items: found.into_iter().flatten().collect(), next }))
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
    }
}
