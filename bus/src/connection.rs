//! The connection to NATS: made once, kept for ever, its state there to be watched.

use std::{fmt, io, sync::Arc, time::Duration};

use async_nats::{Client, ConnectError, ConnectErrorKind};
use bus_schema::Timestamp;
use tokio::sync::watch;

use crate::{
    BusError, ConnectOptions, LinkState, Publisher, ServerFacts, ServerVerdict,
    breakers::Breakers,
    error::Cause,
    link::{Denials, LinkWatch},
};

/// Longest pause between two attempts to connect again: a server that is back is found within this time.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(4);
/// Pause before the second attempt; it doubles from there.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
/// How long one attempt to connect may take, TLS and login included.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A dead peer is noticed after two missed answers to a ping of this interval.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long [`Bus::drain`] waits for the server.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// A connection to NATS. Clones share it; it reconnects for ever.
#[derive(Clone, Debug)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    link: Arc<LinkWatch>,
    servers: String,
    options: ConnectOptions,
    breakers: Breakers,
}

/// Without the options: they may hold a password.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("servers", &self.servers)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Connects, and from then on reconnects for ever with a jittered backoff.
    ///
    /// Errors: nobody listens, the credentials are refused, the server is too old or has no JetStream.
    pub async fn connect(options: ConnectOptions) -> Result<Self, BusError> {
        let link = Arc::new(LinkWatch::new());
        let events = Arc::clone(&link);
        let client = options
            .client_options()?
            .connection_timeout(CONNECT_WAIT)
            .ping_interval(PING_INTERVAL)
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_pause)
            .event_callback(move |event| {
                events.apply(event);
                std::future::ready(())
            })
            .connect(options.addresses()?)
            .await
            .map_err(|e| first_connect_error(&options, e))?;
        let servers = options.shown_servers();
        let bus =
            Self { inner: Arc::new(Inner { client, link, servers, options, breakers: Breakers::default() }) };
        bus.judge_server()?;
        Ok(bus)
    }

    fn judge_server(&self) -> Result<(), BusError> {
        let facts = self.server();
        match facts.verdict {
            ServerVerdict::Fine => {}
            ServerVerdict::Missing(missing) => {
                let (version, missing) = (facts.version, missing.join("; "));
                tracing::warn!(version, missing, "nats-server is older than 2.15.1 and lacks something");
            }
            ServerVerdict::TooOld => {
                let servers = self.inner.servers.clone();
                return Err(BusError::ServerTooOld { servers, version: facts.version });
            }
        }
        if facts.jetstream { Ok(()) } else { Err(self.no_jetstream()) }
    }

    pub(crate) fn no_jetstream(&self) -> BusError {
        BusError::NoJetStream { servers: self.inner.servers.clone() }
    }

    /// Makes another connection of the same identity and gives it up at once. Errors: why there is none.
    pub(crate) async fn takes_connections(&self) -> Result<(), Cause> {
        let options = &self.inner.options;
        let client = options.client_options()?.connection_timeout(CONNECT_WAIT).max_reconnects(Some(1));
        let client = client.connect(options.addresses()?).await.map_err(plain_cause)?;
        Ok(client.drain().await?)
    }

    /// What breaks this connection.
    pub(crate) fn breakers(&self) -> &Breakers {
        &self.inner.breakers
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn denials(&self) -> Denials {
        self.inner.link.denials()
    }

    /// The state of the link, to be watched.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.inner.link.state()
    }

    /// Since when the server has acknowledged nothing that this connection published, although the link
    /// stands; none = it acknowledges. [`crate::STORES_NOTHING`] says what to do.
    pub fn silent_since(&self) -> Option<Timestamp> {
        self.inner.link.silent_since()
    }

    pub(crate) fn acknowledged(&self, acknowledged: bool) {
        self.inner.link.acknowledged(acknowledged);
    }

    /// What the server said about itself at the latest connect.
    pub fn server(&self) -> ServerFacts {
        self.inner.client.server_info().into()
    }

    /// Publishes to logs.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone())
    }

    /// Sends what is buffered, then ends the connection.
    pub async fn drain(self) {
        let client = &self.inner.client;
        let drained = async {
            // What was published is in a buffer of the client until it is flushed.
            client.flush().await.is_ok() && client.drain().await.is_ok()
        };
        if !tokio::time::timeout(DRAIN_WAIT, drained).await.unwrap_or(false) {
            tracing::warn!(servers = self.inner.servers, "the connection ended before everything was sent");
        }
    }
}

/// The pause before an attempt: none before the first, then doubling, each somewhere in its upper half
/// so that the agents of a site do not come back in one moment.
fn reconnect_pause(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else { return Duration::ZERO };
    let factor = 1_u32 << doublings.min(10);
    let pause = RECONNECT_PAUSE_MIN.saturating_mul(factor).min(RECONNECT_PAUSE_MAX);
    let jitter = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + jitter / 2.0)
}

fn first_connect_error(options: &ConnectOptions, error: ConnectError) -> BusError {
    let servers = options.shown_servers();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            BusError::Unauthorized { servers, name: options.name.clone() }
        }
        ConnectErrorKind::ServerParse => BusError::Address { servers, reason: error.to_string() },
        _ => BusError::Unreachable { servers, source: plain_cause(error) },
    }
}

/// "connection refused" instead of the client library's "IO error: Connection refused (os error 111)".
fn plain_cause(error: ConnectError) -> Cause {
    let refused = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|source| source.kind() == io::ErrorKind::ConnectionRefused);
    if refused { "connection refused".into() } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_jitter_and_ends_at_its_limit() {
        assert_eq!(reconnect_pause(1), Duration::ZERO);
        for attempt in 2..70 {
            let pause = reconnect_pause(attempt);
            assert!(pause >= RECONNECT_PAUSE_MIN / 2 && pause <= RECONNECT_PAUSE_MAX, "{attempt}: {pause:?}");
        }
        assert!(reconnect_pause(60) >= RECONNECT_PAUSE_MAX / 2);
    }
}
