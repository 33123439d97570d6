//! The backup of the target: a file with every key in it, so it goes over the local socket only.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{ConnectInfo, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;

use super::past;
use crate::{
    api::Api,
    extract::{Operator, Params},
    problem::Problem,
    serve::Peer,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupQuery {
    #[serde(default = "yes")]
    pool: bool,
}

const fn yes() -> bool {
    true
}

/// `GET /v1/backup`: a tar file. One that breaks off breaks the answer off, and lacks its signed end.
pub(super) async fn backup(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    operator: Operator,
    Params(BackupQuery { pool }): Params<BackupQuery>,
) -> Result<Response, Problem> {
    if !matches!(peer, Peer::Socket { .. }) {
        let text = "a backup holds every key of the target, so it is given over the local socket only; leave --url out";
        return Err(Problem::forbidden(text.to_owned()));
    }
    api.linked()?;
    let permit = past::heavy(&api)?;
    tracing::info!(actor = %operator.actor, pool, "a backup was asked for");
    let backup = api.parts.backups.backup(pool).await?;
    let body = Body::from_stream(stream::unfold((backup, permit), |(mut backup, permit)| async move {
        let piece = backup.pieces.recv().await?;
        if let Err(error) = &piece {
            tracing::warn!(%error, "a backup broke off");
        }
        Some((piece, (backup, permit)))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}
