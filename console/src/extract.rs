//! Reads requests: what is wrong in one is answered as a problem that says where.

use std::collections::HashMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    http::{StatusCode, request::Parts},
};
use bus_schema::{PoolId, ResourceKey};
use serde::de::DeserializeOwned;

use crate::{auth::Caller, problem::Problem};

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = bytes(request, state).await?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|e| Problem::bad_request(format!("the request's JSON body is wrong: {e}")))
    }
}

/// The whole body, within the limit.
pub(crate) async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
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
            .map_err(|e| wrong(e.body_text()))
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

/// 404 for a pool.
pub(crate) fn no_pool(pool: &PoolId) -> Problem {
    Problem::not_found(format!("there is no pool {pool}; 'farside pool list' shows those that there are"))
}
