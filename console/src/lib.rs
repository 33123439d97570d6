//! The HTTP API: what the pool knows, and what the target can be asked to do, for people and programs
//! without a NATS client. The verbs of the binary use it over a local socket.
//!
//! Everything but health needs a credential, see [`auth`]; refusals are problem details (RFC 9457) whose
//! `detail` says what to do; what is answered is typed in [`view`].
//!
//! Must not know: consumers and producers (it asks the lease holder by commands on the bus, and the ports
//! in [`ports`] for the rest), thresholds, schedules, redb.

mod api;
mod extract;
mod problem;
mod route;
mod serve;
mod stage;
mod trail;

pub mod auth;
pub mod ports;
pub mod request;
pub mod status;
pub mod view;

use std::{future::Future, sync::Arc};

use hyper_util::service::TowerToHyperService;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

pub use api::Parts;
pub use problem::{Problem, ProblemBody};
use stage::Stage;

pub use serve::{BODY_BYTES_MAX, ListenError, Peer, socket as bind_socket, tcp as bind_tcp};

/// The API. It is served from the moment that somebody can connect, so that nobody waits in vain: health is
/// answered at once, everything else with 503 and what is waited for, until it is opened.
pub struct Console {
    stage: watch::Sender<Stage>,
    ending: CancellationToken,
}

impl Console {
    /// A console that says what is waited for, in words that say what to do when that takes long.
    pub fn starting(waits_for: impl Into<String>) -> Self {
        let stage = watch::Sender::new(Stage::Starting(waits_for.into()));
        Self { stage, ending: CancellationToken::new() }
    }

    /// Says what is waited for now.
    pub fn waits_for(&self, what: impl Into<String>) {
        self.stage.send_replace(Stage::Starting(what.into()));
    }

    /// Answers from these parts from now on.
    pub fn open(&self, parts: Parts) {
        let router = route::router(Arc::new(api::Api::new(parts, self.ending.clone())));
        self.stage.send_replace(Stage::Open(TowerToHyperService::new(router)));
    }

    /// Serves both listeners until `shutdown`, then lets the requests end that have begun, for a few seconds.
    pub fn run(
        &self,
        tcp: TcpListener,
        socket: UnixListener,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (router, limits) = (stage::router(self.stage.subscribe()), serve::Limits::default());
        let (ending, ends) = (self.ending.clone(), shutdown.clone());
        let local = serve::serve(socket, router.clone(), limits, shutdown.clone());
        let remote = serve::serve(tcp, router, limits, shutdown);
        async move {
            let end = async {
                ends.cancelled().await;
                ending.cancel();
            };
            tokio::join!(local, remote, end);
        }
    }
}
