//! The logs of a service: made when they are not there, at the start and whenever one is missed later. A
//! nats-server that was killed at a bad moment may come back without a stream, and a person may delete
//! one; what it held comes again from the agents' journals.
//!
//! Must not know: what is in them.

use std::{sync::Arc, time::Duration};

use bus::{Bus, BusError, LinkState};
use bus_schema::{stream::StreamSpec, subject};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{config::ServiceConfig, error::ConsumersError};

/// The first wait before logs that could not be made are tried again; it doubles up to the longest.
const AGAIN_AFTER_MIN: Duration = Duration::from_secs(1);
/// The longest one: a person has to do something, and it is noticed within this time.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// The wait before a log that is missed is made: a nats-server that was told to delete a stream removes its
/// directory after it has answered, and would remove that of a new one.
const SETTLE: Duration = Duration::from_secs(1);

/// The logs of a service. Clones share the bell that calls for a missing one.
#[derive(Clone)]
pub(crate) struct Logs {
    bus: Bus,
    config: Arc<ServiceConfig>,
    missed: Arc<Notify>,
}

impl Logs {
    /// The logs that a configuration names.
    pub(crate) fn new(bus: Bus, config: Arc<ServiceConfig>) -> Self {
        Self { bus, config, missed: Arc::default() }
    }

    /// The streams that are read into the pool.
    pub(crate) fn streams(&self) -> impl Iterator<Item = String> {
        let sites = self.config.sites.iter().map(subject::site_stream);
        sites.chain([subject::target_stream(&self.config.target)])
    }

    /// Makes the logs that are not there, and verifies the others, each whatever is wrong with another one.
    /// Errors, the first: a log that is too weak, the bus.
    pub(crate) async fn ensure(&self) -> Result<(), ConsumersError> {
        let target = &self.config.target;
        let sites = self.config.sites.iter().map(StreamSpec::site);
        let mut ensured = Ok(());
        for mut spec in sites.chain([StreamSpec::target(target), StreamSpec::dead_letters(target)]) {
            spec.bytes_max = self.config.log_bytes_max.unwrap_or(spec.bytes_max);
            spec.replicas = self.config.log_replicas;
            ensured = ensured.and(self.ensure_one(&spec).await);
        }
        Ok(ensured?)
    }

    async fn ensure_one(&self, spec: &StreamSpec) -> Result<(), BusError> {
        if let Err(BusError::NoStream { stream }) = self.bus.stream_state(&spec.name).await {
            tracing::info!(stream, "the log is not there; it is made");
        }
        self.bus.ensure_stream(spec).await?;
        if self.config.log_bytes_max.is_some() {
            self.bus.raise_limit(&spec.name, spec.bytes_max).await?;
        }
        Ok(())
    }

    /// Calls for the logs if that is what an error says.
    pub(crate) fn miss(&self, error: &ConsumersError) {
        if error.is_missing_log() {
            self.missed.notify_one();
        }
    }

    /// Makes missing logs after every new connection and every call, until `shutdown`.
    pub(crate) async fn keep(self, shutdown: CancellationToken) {
        let mut link = self.bus.link();
        let mut wait = AGAIN_AFTER_MIN;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = link.changed() => if changed.is_err() { return },
                () = self.missed.notified() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(SETTLE) => {}
            }
            if matches!(*link.borrow_and_update(), LinkState::Down { .. }) {
                continue;
            }
            let Err(error) = self.ensure().await else {
                wait = AGAIN_AFTER_MIN;
                continue;
            };
            tracing::warn!(%error, again_in_s = wait.as_secs(), "the logs cannot be looked after");
            self.missed.notify_one();
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A new connection is a new chance.
                changed = link.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(AGAIN_AFTER_MAX);
        }
    }
}
