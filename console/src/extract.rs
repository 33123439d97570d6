//! Reads requests: what is wrong in one is answered as a problem that says where.

use std::{collections::HashMap, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    http::{StatusCode, request::Parts},
};
use bus_schema::{PoolId, ResourceKey};
use projector::Reader;
use serde::de::DeserializeOwned;

use crate::{auth::Caller, problem::Problem};

/// How long a body may take to arrive: 2 MiB over a line of a megabit a second.
const BODY_WAIT: Duration = Duration::from_secs(20);

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = bytes(request, state).await?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|e| Problem::bad_request(format!("the request's JSON body is wrong: {}", in_words(&e))))
    }
}

/// An error of serde in words of JSON: callers do not know what a struct of ours is called.
pub(crate) fn in_words(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let Some((before, rest)) = text.split_once("struct ") else { return text };
    let rest = rest.trim_start_matches(|c: char| c.is_alphanumeric());
    let rest = match rest.strip_prefix(" with ").and_then(|rest| rest.split_once("element")) {
        Some((_, rest)) => rest.trim_start_matches('s'),
        None => rest,
    };
    format!("{before}a JSON object{rest}")
}

/// The whole body, within the limits of size and time.
pub(crate) async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let body = tokio::time::timeout(BODY_WAIT, Bytes::from_request(request, state)).await;
    let late =
        |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time; send it at once");
    body.map_err(late)?.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {} bytes; send less at once", crate::serve::BODY_BYTES_MAX),
        ),
        other => Problem::bad_request(format!("the body did not arrive: {}", other.body_text())),
    })
}

/// The query's parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |text: String| Problem::bad_request(format!("the query is wrong: {text}"));
        Query::<T>::from_request_parts(parts, state)
            .await
            .map(|Query(query)| Self(query))
            .map_err(|e| wrong(in_words(&e.body_text().replace("Failed to deserialize query string: ", ""))))
    }
}

/// Who asks; put there by the authentication layer.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| Problem::internal("a route was left without authentication"))
    }
}

/// An operator; a tenant is refused.
pub(crate) struct Operator {
    pub(crate) actor: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Caller::from_request_parts(parts, state).await? {
            Caller::Operator { actor } => Ok(Self { actor }),
            Caller::Tenant { actor, .. } => Err(Problem::forbidden(format!(
                "{actor} may read and confirm only; ask an operator, or use the operator token"
            ))),
        }
    }
}

/// The pool of the path, if the caller may see it. One that may not is told the same as one that asks
/// for a pool that is not there.
pub(crate) struct PoolPath {
    pub(crate) pool: PoolId,
    pub(crate) caller: Caller,
    rest: HashMap<String, String>,
}

impl PoolPath {
    /// The resource of the path `{kind}/{*id}`.
    pub(crate) fn key(&self) -> Result<ResourceKey, Problem> {
        let part = |name| self.rest.get(name).map(String::as_str).unwrap_or_default();
        ResourceKey::new(part("kind"), part("id")).map_err(|e| Problem::bad_request(e.to_string()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PoolPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let Path(rest) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
            .await
            .map_err(|e| Problem::bad_request(format!("the path is wrong: {}", e.body_text())))?;
        let part = |name| rest.get(name).map(String::as_str).unwrap_or_default();
        let pool = format!("{}/{}", part("site"), part("cluster"));
        let pool: PoolId =
            pool.parse().map_err(|e: bus_schema::id::IdError| Problem::bad_request(e.to_string()))?;
        if !caller.may_see(&pool) {
            return Err(no_pool(&pool));
        }
        Ok(Self { pool, caller, rest })
    }
}

/// Errors: 404 when nothing was ever taken in for the pool.
pub(crate) fn known(reader: &Reader, pool: &PoolId) -> Result<(), Problem> {
    if reader.has_pool(pool)? { Ok(()) } else { Err(no_pool(pool)) }
}

/// 404 for a pool.
pub(crate) fn no_pool(pool: &PoolId) -> Problem {
    Problem::not_found(format!("there is no pool {pool}; 'farside pool list' shows those that there are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_body_speak_of_json_and_not_of_our_types() {
        for (body, words) in [("[]", "a JSON object"), ("7", "a JSON object"), ("{}", "missing field `pool`")]
        {
            let error = serde_json::from_str::<crate::request::Confirm>(body).map(drop).unwrap_err();
            let text = in_words(&error);
            assert!(text.contains(words) && !text.contains("struct") && !text.contains("element"), "{text}");
        }
    }
}
