//! What the routes share: the pool, the bus, the ports, and the way to ask the lease holder.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::http::StatusCode;
use bus::{Bus, BusError, LinkState, RequestError};
use bus_schema::{Name, PoolId, Stem, Timestamp, command::target::Reply, subject};
use projector::{Reader, StoreError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{OperatorToken, throttle::Throttle},
    ports::{Auditor, Backups, Enrolment, Health, PastPools, PortError, Rebuilder, Redriver, Scrubber},
    problem::Problem,
};

/// Longest wait for the lease holder to state a fact or start a sync.
pub(crate) const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// Longest wait until a fact that was stated is in the pool, so that the next question sees it.
const APPLIED_WAIT: Duration = Duration::from_secs(5);
/// Replays and exports that run at once: each holds a read transaction or a second store.
pub(crate) const HEAVY_MAX: usize = 2;

/// Logs that are followed at once: each reader of a log keeps a consumer at the server, and 2 MiB here.
pub(crate) const TAILS_MAX: usize = 16;

/// What the console is made of.
pub struct Parts {
    /// The target that it serves.
    pub target: Name,
    /// The sites whose logs are projected.
    pub sites: Vec<Name>,
    /// How long whoever acts for the target may be silent, in milliseconds.
    pub lease_ttl_ms: u64,
    /// The bus, for commands, history and published events.
    pub bus: Bus,
    /// The pool in use; another one after a rebuild.
    pub reader: watch::Receiver<Reader>,
    /// Pools as they were.
    pub past: Arc<dyn PastPools>,
    /// Builds the pool again.
    pub rebuilder: Arc<dyn Rebuilder>,
    /// Reads logs again.
    pub scrubber: Arc<dyn Scrubber>,
    /// Who may come in to NATS.
    pub enrolment: Arc<dyn Enrolment>,
    /// Takes dead letters in again.
    pub redriver: Arc<dyn Redriver>,
    /// Proves the logs.
    pub auditor: Arc<dyn Auditor>,
    /// Writes backups.
    pub backups: Arc<dyn Backups>,
    /// What the reactions know of themselves.
    pub health: Arc<dyn Health>,
    /// What opens everything.
    pub operator: OperatorToken,
    /// What opens the metrics and nothing else.
    pub scraper: OperatorToken,
}

/// The state of all routes.
pub(crate) struct Api {
    pub(crate) parts: Parts,
    /// Since when this console answers.
    pub(crate) since: Timestamp,
    pub(crate) throttle: Throttle,
    pub(crate) heavy: Arc<Semaphore>,
    pub(crate) tails: Arc<Semaphore>,
    /// The process ends: answers that go on for ever end now.
    pub(crate) ending: CancellationToken,
}

impl Api {
    pub(crate) fn new(parts: Parts, ending: CancellationToken) -> Self {
        Self {
            parts,
            since: now(),
            throttle: Throttle::default(),
            heavy: Arc::new(Semaphore::new(HEAVY_MAX)),
            tails: Arc::new(Semaphore::new(TAILS_MAX)),
            ending,
        }
    }

    /// The pool in use.
    pub(crate) fn reader(&self) -> Reader {
        self.parts.reader.borrow().clone()
    }

    /// Asks the pool on a thread that may wait for the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let reader = self.reader();
        read_in(reader, question).await
    }

    /// Sends a command to the lease holder. Errors: 409 when it refuses, 503 when nobody holds the lease.
    pub(crate) async fn command<C, R>(
        &self,
        stem: Stem,
        verb: &str,
        command: &C,
        wait: Duration,
    ) -> Result<R, Problem>
    where
        C: Serialize + Sync,
        R: DeserializeOwned,
    {
        self.linked()?;
        let subject = subject::target_command(&self.parts.target, stem, verb);
        match self.parts.bus.request(&subject, command, wait).await {
            Ok(Reply::Done { answer }) => Ok(answer),
            Ok(Reply::Refused { reason }) => Err(Problem::conflict(reason)),
            Err(error) => Err(unanswered(&error, &self.parts.target)),
        }
    }

    /// Since when NATS cannot be reached; none while it can.
    pub(crate) fn down_since(&self) -> Option<Timestamp> {
        match *self.parts.bus.link().borrow() {
            LinkState::Up { .. } => None,
            LinkState::Down { since } => Some(since),
        }
    }

    /// Errors: 503 at once while NATS is known to be out of reach, instead of after a wait for it.
    pub(crate) fn linked(&self) -> Result<(), Problem> {
        self.down_since().map_or(Ok(()), |since| {
            Err(Problem::unavailable(format!(
                "NATS cannot be reached since {since}, so the log cannot be asked; it is retried for ever: look at the server"
            )))
        })
    }

    /// Waits until the pool has a place of a log. Errors: 504; the event is stored, and will come.
    pub(crate) async fn applied(&self, stream: &str, seq: u64) -> Result<(), Problem> {
        let late = |error| {
            let text = format!("{stream}:{seq} is stored, but not in the pool yet: {error}");
            Problem::new(StatusCode::GATEWAY_TIMEOUT, text)
        };
        self.parts.health.passes(stream, seq, APPLIED_WAIT).await.map_err(late)
    }

    /// The stream of a pool's site log. Errors: 404 for a site that this target does not project.
    pub(crate) fn stream_of(&self, pool: &PoolId) -> Result<String, Problem> {
        self.known_site(&pool.site)?;
        Ok(subject::site_stream(&pool.site))
    }

    /// Errors: 404 for a site that this target does not project.
    pub(crate) fn known_site(&self, site: &Name) -> Result<(), Problem> {
        if self.parts.sites.contains(site) {
            return Ok(());
        }
        let sites: Vec<_> = self.parts.sites.iter().map(Name::as_str).collect();
        Err(Problem::not_found(format!(
            "site {site} is none of this target's sites ({}); add it to `sites` in the configuration",
            sites.join(", ")
        )))
    }
}

/// Asks any pool on a thread that may wait for the disk.
pub(crate) async fn read_in<T: Send + 'static>(
    reader: Reader,
    question: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(move || question(&reader)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Problem::internal(format!("the pool cannot be read: {error}"))),
        Err(_) => Err(Problem::internal("the reading of the pool was cut off; ask again")),
    }
}

fn unanswered(error: &RequestError, target: &Name) -> Problem {
    match error {
        RequestError::NoResponders { .. } => Problem::unavailable(format!(
            "no process acts for target {target}: none holds the lease yet; wait a few seconds, then look at 'farside status'"
        )),
        RequestError::TimedOut { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        RequestError::Malformed { .. } => Problem::internal(error.to_string()),
        RequestError::Bus(_) => Problem::unavailable(error.to_string()),
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Refused(text) => Self::bad_request(text),
            PortError::Busy(text) | PortError::Conflict(text) => Self::conflict(text),
            PortError::Missing(text) => Self::not_found(text),
            PortError::Unreachable(text) => Self::unavailable(text),
            PortError::Failed(text) => Self::internal(text),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::internal(format!("the pool cannot be read: {error}"))
    }
}

/// A log that could not be read.
pub(crate) fn unread(error: BusError) -> Problem {
    Problem::unavailable(format!("the log cannot be read: {error}"))
}

/// The present time.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
