//! Readers that may come in to NATS: whoever reads whole clusters of a tenant from the log.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use bus::managed::{ReaderIdentity, identity::PublicKeyError};
use bus_schema::{Name, PoolId, TenantId, id::IdError};

use crate::{
    api::Api,
    auth::{AuthError, whole_pools},
    extract::{Body, Operator},
    problem::Problem,
    request,
    view::{EnrolledView, ReaderView, RevokedView},
};

/// `GET /v1/readers`
pub(super) async fn list(State(api): State<Arc<Api>>, _: Operator) -> Result<Json<Vec<ReaderView>>, Problem> {
    Ok(Json(api.parts.enrolment.readers().await?))
}

/// `POST /v1/readers`
pub(super) async fn enroll(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Body(wanted): Body<request::EnrollReader>,
) -> Result<Json<EnrolledView>, Problem> {
    let request::EnrollReader { name, tenant, pools, public_key } = wanted;
    let wrong = |e: PublicKeyError| Problem::bad_request(e.to_string());
    let public_key = public_key.parse().map_err(wrong)?;
    let pools = readable(&api, &tenant, pools)?;
    let reader = ReaderIdentity { name, tenant, pools, public_key };
    Ok(Json(api.parts.enrolment.enroll_reader(reader, operator.actor).await?))
}

/// The clusters that a reader of the tenant may have: those that were named, or all. Errors: 403, one is not granted
/// to the tenant as a whole; 404, its site is not projected here.
fn readable(api: &Api, tenant: &TenantId, wanted: BTreeSet<PoolId>) -> Result<BTreeSet<PoolId>, Problem> {
    let whole = whole_pools(tenant, &api.reader()).map_err(|error| match error {
        AuthError::Directory(error) => Problem::internal(error.to_string()),
        other => Problem::forbidden(other.to_string()),
    })?;
    if let Some(beyond) = wanted.difference(&whole).next() {
        return Err(Problem::forbidden(format!(
            "{beyond} is not granted to tenant {tenant}; run 'farside tenant grant' with it first, or leave it out"
        )));
    }
    let pools = if wanted.is_empty() { whole } else { wanted };
    pools.iter().try_for_each(|pool| api.known_site(&pool.site))?;
    Ok(pools)
}

/// `DELETE /v1/readers/{name}`
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Path(name): Path<String>,
) -> Result<Json<RevokedView>, Problem> {
    let name: Name = name.parse().map_err(|e: IdError| Problem::bad_request(e.to_string()))?;
    Ok(Json(api.parts.enrolment.revoke_reader(name, operator.actor).await?))
}
