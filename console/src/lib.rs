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

/// A listener failed for good.
#[derive(Debug, thiserror::Error)]
#[error("the console stopped listening: {0}; start it again")]
pub struct ConsoleError(#[from] std::io::Error);

impl Console {
    /// The API over these parts.
    pub fn build(parts: Parts) -> Self {
        Self { router: route::router(Arc::new(api::Api::new(parts))) }
    }

    /// Serves both listeners until `shutdown`, then lets the requests end that have begun.
    pub async fn run(
        self,
        tcp: Option<TcpListener>,
        socket: UnixListener,
        shutdown: CancellationToken,
    ) -> Result<(), ConsoleError> {
        let service = self.router.into_make_service_with_connect_info::<Peer>();
        let local = axum::serve(serve::Capped::new(socket), service.clone())
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        match tcp {
            None => local.await?,
            Some(tcp) => {
                let remote = axum::serve(serve::Capped::new(tcp), service)
                    .with_graceful_shutdown(shutdown.cancelled_owned());
                tokio::try_join!(async { local.await }, async { remote.await })?;
            }
        }
        Ok(())
    }
}
