//! What logs lost: found by a scrub, healed, or taken note of.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use bus_schema::{
    fact::{
        Fact,
        log::{DamageAcknowledged, LogFact},
    },
    subject,
};
use serde::Deserialize;

use super::{command, past};
use crate::{
    api::Api,
    extract::{Body, Operator, Params},
    problem::Problem,
    request,
    view::{
        StatedView,
        audit::{DamageView, DamagesView, named, obstacle_key},
    },
};

/// `GET /v1/audit/damage`: newest first.
pub(super) async fn damage(State(api): State<Arc<Api>>, _: Operator) -> Result<Json<DamagesView>, Problem> {
    let mut found = api.read(projector::Reader::damages).await?;
    let obstacles = api.parts.health.vitals().obstacles;
    found.value.sort_by_key(|record| std::cmp::Reverse(record.found_at));
    let items = found.value.iter().map(|record| {
        let obstacle = obstacle_key(&record.found).and_then(|key| obstacles.get(&key));
        DamageView::new(record, obstacle)
    });
    Ok(Json(DamagesView { items: items.collect(), as_of: found.as_of.into() }))
}

/// `POST /v1/audit/acknowledge`: a person knows of a damage that cannot be healed.
pub(super) async fn acknowledge(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Body(wanted): Body<request::Acknowledge>,
) -> Result<Json<StatedView>, Problem> {
    if wanted.reason.trim().is_empty() {
        let text = "say why the damage may stay, for whoever reads the log later; send a reason";
        return Err(Problem::bad_request(text.to_owned()));
    }
    let found = api.read(projector::Reader::damages).await?.value;
    let record = found.iter().find(|record| record.place == wanted.damage).ok_or_else(|| {
        Problem::not_found(format!(
            "there is no damage {:?}; 'farside audit damage' names them",
            wanted.damage
        ))
    })?;
    if !record.is_open() {
        return Err(Problem::conflict(format!(
            "the damage {} needs nobody: it is healed or known",
            wanted.damage
        )));
    }
    let (damage, actor, reason) = (named(&record.found), operator.actor, wanted.reason);
    let fact = LogFact::DamageAcknowledged(DamageAcknowledged { damage, actor, reason });
    Ok(Json(command::state(&api, Fact::Log(fact)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfStream {
    stream: Option<String>,
}

/// `POST /v1/audit/scrub`: JSON lines as it goes on.
pub(super) async fn scrub(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Params(OfStream { stream }): Params<OfStream>,
) -> Result<Response, Problem> {
    api.linked()?;
    let sites = api.parts.sites.iter().map(subject::site_stream);
    let known: Vec<_> = sites.chain([subject::target_stream(&api.parts.target)]).collect();
    let stream = stream.unwrap_or_else(|| known[0].clone());
    if !known.contains(&stream) {
        let text = format!("there is no log {stream}; name one of {}", known.join(", "));
        return Err(Problem::not_found(text));
    }
    tracing::info!(actor = %operator.actor, stream, "a scrub was asked for");
    Ok(past::job(move |progress| async move { api.parts.scrubber.scrub(&stream, progress).await }))
}
