//! The routes: which path is answered by whom, who may ask, and how long it may take.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};

use crate::{
    api::{Api, now},
    auth::{self, AuthError, Caller, Offered, TENANT_HEADER},
    problem::Problem,
    serve::{BODY_BYTES_MAX, Peer},
};

mod agent;
mod audit;
mod audit_verify;
mod backup;
mod command;
mod dead_letter;
mod event;
mod floor;
mod health;
mod history;
mod key;
mod metrics;
mod past;
mod place;
mod pool;
mod reader;
mod replay;
mod resource;
mod story;
mod tenant;
mod trail;

/// Where anybody may ask whether the process lives.
pub(crate) const ALIVE: &str = "/healthz";
/// How long a plain question may take.
const QUICK_MAX: Duration = Duration::from_secs(20);
/// How long a confirmation, a replay or a rebuild may take until its answer begins.
const LONG_MAX: Duration = Duration::from_secs(600);

pub(crate) fn router(api: Arc<Api>) -> Router {
    let open = Router::new().route(ALIVE, get(health::alive)).route("/readyz", get(health::ready));
    let quick = quick().layer(from_fn(|request: Request, next: Next| within(QUICK_MAX, request, next)));
    let long = long().layer(from_fn(|request: Request, next: Next| within(LONG_MAX, request, next)));
    let closed = quick.merge(long).layer(from_fn_with_state(api.clone(), identify));
    let scraped = Router::new()
        .route("/metrics", get(metrics::metrics))
        .layer(from_fn(|request: Request, next: Next| within(QUICK_MAX, request, next)))
        .layer(from_fn_with_state(api.clone(), identify_scraper));
    open.merge(closed)
        .merge(scraped)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

fn quick() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/dead-letters", get(dead_letter::list))
        .route("/v1/dead-letters/groups", get(dead_letter::groups))
        .route("/v1/dead-letters/{place}", get(dead_letter::show))
        .route("/v1/audit/damage", get(audit::damage))
        .route("/v1/audit/acknowledge", post(audit::acknowledge))
        .route("/v1/audit/events/{place}", get(trail::show))
        .route("/v1/status", get(health::status))
        .route("/v1/pools", get(pool::list))
        .route("/v1/pools/{site}/{cluster}", get(pool::one))
        .route("/v1/pools/{site}/{cluster}/history/{kind}/{*id}", get(history::history))
        .route("/v1/pools/{site}/{cluster}/volumes", get(pool::volumes))
        .route("/v1/pools/{site}/{cluster}/images", get(pool::images))
        .route("/v1/pools/{site}/{cluster}/syncs", get(pool::syncs))
        .route("/v1/pools/{site}/{cluster}/confirmations", get(pool::confirmations))
        .route("/v1/pools/{site}/{cluster}/sync", post(command::sync))
        .route("/v1/pools/{site}/{cluster}/empty-confirmed", post(command::empty_confirmed))
        .route("/v1/pools/{site}/{cluster}/schedule/paused", post(command::schedule_paused))
        .route("/v1/events", post(event::publish))
        .route("/v1/tenants", get(tenant::list))
        .route("/v1/tenants/{verb}", post(tenant::state))
        .route("/v1/agents", get(agent::list).post(agent::enroll))
        .route("/v1/agents/{site}/{name}", delete(agent::revoke))
        .route("/v1/readers", get(reader::list).post(reader::enroll))
        .route("/v1/readers/{name}", delete(reader::revoke))
        .route("/v1/keys", get(key::list).post(key::make))
        .route("/v1/keys/{key_id}", delete(key::revoke))
}

fn long() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/pools/{site}/{cluster}/resources", get(resource::list))
        .route("/v1/pools/{site}/{cluster}/resources/{kind}/{*id}", get(resource::one))
        .route("/v1/pools/{site}/{cluster}/export", get(past::export))
        .route("/v1/confirm", post(command::confirm))
        .route("/v1/recheck", post(command::recheck))
        .route("/v1/dead-letters/redrive", post(dead_letter::redrive))
        .route("/v1/rebuild", post(past::rebuild))
        .route("/v1/audit/scrub", post(audit::scrub))
        .route("/v1/audit/events", get(trail::tail))
        .route("/v1/audit/replay", post(replay::replay))
        .route("/v1/audit/verify", post(audit_verify::verify))
        .route("/v1/audit/export", get(audit_verify::export))
        .route("/v1/audit/signing-key", post(audit_verify::rotate_key))
        .route("/v1/backup", get(backup::backup))
}

async fn no_route(request: Request) -> Problem {
    Problem::not_found(format!("there is nothing at {}; the paths begin with /v1/", request.uri().path()))
}

async fn no_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} does not fit {path}; use GET to read, POST to act"),
    )
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer within {} s; look at 'farside status', then ask again", limit.as_secs()),
        )
        .into_response(),
    }
}

/// Finds out who asks and tells the route; turns away everybody else.
async fn identify(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match peer {
        Peer::Socket { uid } => Ok(Caller::Operator { actor: format!("operator (uid {uid})") }),
        Peer::Tcp(address) => admitted(&api, address.ip(), &request),
    };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Lets the metrics' own token in, besides whom [`identify`] lets in.
async fn identify_scraper(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let offered = header_text(&request, header::AUTHORIZATION.as_str()).unwrap_or_default();
    if Offered::read(offered).is_ok_and(|offered| offered.is(&api.parts.scraper)) {
        request.extensions_mut().insert(Caller::Operator { actor: "metrics token".to_owned() });
        return next.run(request).await;
    }
    identify(State(api), ConnectInfo(peer), request, next).await
}

fn admitted(api: &Arc<Api>, peer: std::net::IpAddr, request: &Request) -> Result<Caller, Problem> {
    let offered = Offered::read(header_text(request, header::AUTHORIZATION.as_str())?).map_err(refused)?;
    let (name, tenant) = (offered.name(), header_text(request, TENANT_HEADER)?);
    let error = match auth::authenticate(offered, tenant, &api.parts.operator, &api.reader(), now()) {
        Ok(caller) => {
            api.throttle.succeeded(peer, name);
            return Ok(caller);
        }
        Err(error) => error,
    };
    if !error.counts_as_failure() {
        return Err(refused(error));
    }
    let wait_ms = api.throttle.wait_ms(peer, name, now());
    if wait_ms > 0 {
        let seconds = wait_ms.div_ceil(1_000);
        let detail = format!("too many wrong credentials from {peer}; try again in {seconds} s");
        return Err(Problem::throttled(seconds, detail));
    }
    api.throttle.failed(peer, name, now());
    tracing::warn!(%peer, key = name.get(..64).unwrap_or(name), "a credential was refused");
    Err(refused(error))
}

/// A header's value. Errors: 400 when it is no text: what cannot be read must not count as not sent.
fn header_text<'a>(request: &'a Request, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = request.headers().get_all(name).iter();
    let first = values.next().map(|value| value.to_str()).transpose();
    match (first, values.next()) {
        (Ok(text), None) => Ok(text),
        (Ok(_), Some(_)) => Err(Problem::bad_request(format!("the header {name} came twice; send it once"))),
        (Err(_), _) => {
            Err(Problem::bad_request(format!("the header {name} holds other bytes than visible ASCII")))
        }
    }
}

fn refused(error: AuthError) -> Problem {
    let text = error.to_string();
    match error {
        AuthError::Missing(_) | AuthError::Unknown | AuthError::Expired { .. } | AuthError::Revoked(_) => {
            Problem::unauthorized(text)
        }
        AuthError::Forbidden(_) => Problem::forbidden(text),
        AuthError::Directory(_) => Problem::internal(text),
    }
}
