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

pub mod auth;
pub mod ports;
pub mod request;
pub mod status;
pub mod view;

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

pub use api::Parts;
pub use problem::{Problem, ProblemBody};

pub use serve::{BODY_BYTES_MAX, ListenError, Peer, socket as bind_socket, tcp as bind_tcp};

/// The API, ready to be served.
pub struct Console {
    router: axum::Router,
}

impl Console {
    /// The API over these parts.
    pub fn build(parts: Parts) -> Self {
        Self { router: route::router(Arc::new(api::Api::new(parts))) }
    }

    /// Serves both listeners until `shutdown`, then lets the requests end that have begun, for a few seconds.
    pub async fn run(self, tcp: Option<TcpListener>, socket: UnixListener, shutdown: CancellationToken) {
        let limits = serve::Limits::default();
        let local = serve::serve(socket, self.router.clone(), limits, shutdown.clone());
        match tcp {
            None => local.await,
            Some(tcp) => {
                tokio::join!(local, serve::serve(tcp, self.router, limits, shutdown));
            }
        }
    }
}
