//! The proof of the logs: verification, evidence, and the key that signs.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;

use super::{past, place};
use crate::{
    api::Api,
    extract::{Operator, Params},
    ports::{AuditRange, Moment, SigningKeyView},
    problem::Problem,
};

/// Which part of which log is meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RangeQuery {
    stream: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl RangeQuery {
    /// Reads both ends. Errors: 400 for a place of another log, or a sequence of nobody knows which.
    fn read(self, api: &Api) -> Result<AuditRange, Problem> {
        let Self { stream, from, to } = self;
        let named = [&from, &to].into_iter().flatten().find_map(|text| place::log_of(text));
        let stream = stream.or(named);
        let of = stream.clone().or_else(|| place::only_log(api));
        let read = |text: Option<String>| match (text, &of) {
            (None, _) => Ok(None),
            (Some(text), Some(stream)) => Moment::read(&text, stream).map(Some),
            (Some(text), None) => match Moment::read(&text, "") {
                Ok(time @ Moment::Time(_)) => Ok(Some(time)),
                _ => Err(place::of_several(&text)),
            },
        };
        let from = read(from).map_err(Problem::bad_request)?;
        let to = read(to).map_err(Problem::bad_request)?;
        let is_seq = |end: &Option<Moment>| matches!(end, Some(Moment::Seq(_)));
        // A sequence is of one log, a time of all of them.
        let stream = if is_seq(&from) || is_seq(&to) { of } else { stream };
        Ok(AuditRange { stream, from, to })
    }
}

/// `POST /v1/audit/verify`: JSON lines as it goes on.
pub(super) async fn verify(
    State(api): State<Arc<Api>>,
    _: Operator,
    Params(range): Params<RangeQuery>,
) -> Result<Response, Problem> {
    let range = range.read(&api)?;
    api.linked()?;
    let permit = past::heavy(&api)?;
    Ok(past::job(move |progress| async move {
        let _permit = permit;
        api.parts.auditor.verify(range, progress).await
    }))
}

/// `GET /v1/audit/export`: the evidence. One that breaks off breaks the answer off, which no reader takes for a whole one.
pub(super) async fn export(
    State(api): State<Arc<Api>>,
    _: Operator,
    Params(range): Params<RangeQuery>,
) -> Result<Response, Problem> {
    let range = range.read(&api)?;
    api.linked()?;
    let permit = past::heavy(&api)?;
    let evidence = api.parts.auditor.export(range).await?;
    let body = Body::from_stream(stream::unfold((evidence, permit), |(mut evidence, permit)| async move {
        let piece = evidence.pieces.recv().await?;
        if let Err(error) = &piece {
            tracing::warn!(%error, "an export of evidence broke off");
        }
        Some((piece, (evidence, permit)))
    }));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// `POST /v1/audit/signing-key`: another key signs from here on.
pub(super) async fn rotate_key(
    State(api): State<Arc<Api>>,
    operator: Operator,
) -> Result<Json<SigningKeyView>, Problem> {
    api.linked()?;
    Ok(Json(api.parts.auditor.rotate_key(operator.actor).await?))
}
