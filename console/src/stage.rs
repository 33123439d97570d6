//! What the console answers before the API can be asked: that the process lives, and what it waits for.
//! Must not know: who waits, and how long that may take.

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;

use crate::{problem::Problem, route::ALIVE};

/// How far the console is.
pub(crate) enum Stage {
    /// Nothing can be asked yet; what is waited for, and what to do when that takes long.
    Starting(String),
    /// This answers.
    Open(TowerToHyperService<Router>),
}

/// Answers as the stage of the moment says.
pub(crate) fn router(stage: watch::Receiver<Stage>) -> Router {
    Router::new().fallback(answer).with_state(stage)
}

async fn answer(State(stage): State<watch::Receiver<Stage>>, request: Request) -> Response {
    let open = match &*stage.borrow() {
        Stage::Open(router) => router.clone(),
        Stage::Starting(_) if request.uri().path() == ALIVE => return "ok\n".into_response(),
        Stage::Starting(what) => {
            return Problem::unavailable(format!("farside is starting: {what}")).into_response();
        }
    };
    match open.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
