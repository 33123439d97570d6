//! Agents that may come in to NATS: enrolled, revoked, listed.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use bus::managed::{AgentId, AgentIdentity, AgentScope, identity::PublicKeyError};
use bus_schema::id::IdError;

use crate::{
    api::Api,
    extract::{Body, Operator},
    problem::Problem,
    request,
    view::{AgentView, EnrolledView, RevokedView},
};

/// `GET /v1/agents`
pub(super) async fn list(State(api): State<Arc<Api>>, _: Operator) -> Result<Json<Vec<AgentView>>, Problem> {
    Ok(Json(api.parts.enrolment.agents().await?))
}

/// `POST /v1/agents`
pub(super) async fn enroll(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Body(wanted): Body<request::EnrollAgent>,
) -> Result<Json<EnrolledView>, Problem> {
    let request::EnrollAgent { site, name, clusters, stems, public_key } = wanted;
    api.known_site(&site)?;
    let wrong = |e: PublicKeyError| Problem::bad_request(e.to_string());
    let public_key = public_key.parse().map_err(wrong)?;
    let scope = AgentScope { id: AgentId { site, name }, clusters, stems };
    let agent = AgentIdentity { scope, public_key };
    Ok(Json(api.parts.enrolment.enroll_agent(agent, operator.actor).await?))
}

/// `DELETE /v1/agents/{site}/{name}`
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Path((site, name)): Path<(String, String)>,
) -> Result<Json<RevokedView>, Problem> {
    let wrong = |e: IdError| Problem::bad_request(e.to_string());
    let id = AgentId { site: site.parse().map_err(wrong)?, name: name.parse().map_err(wrong)? };
    Ok(Json(api.parts.enrolment.revoke_agent(id, operator.actor).await?))
}
