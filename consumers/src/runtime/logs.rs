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

/// The wait before logs that could not be made are tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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

    /// Makes the logs that are not there, and verifies the others. Errors: a log that is too weak, the bus.
    pub(crate) async fn ensure(&self) -> Result<(), ConsumersError> {
        let target = &self.config.target;
        let sites = self.config.sites.iter().map(StreamSpec::site);
        for mut spec in sites.chain([StreamSpec::target(target), StreamSpec::dead_letters(target)]) {
            spec.bytes_max = self.config.log_bytes_max.unwrap_or(spec.bytes_max);
            spec.replicas = self.config.log_replicas;
            if let Err(BusError::NoStream { stream }) = self.bus.stream_state(&spec.name).await {
                tracing::info!(stream, "the log is not there; it is made");
            }
            self.bus.ensure_stream(&spec).await?;
            if self.config.log_bytes_max.is_some() {
                self.bus.raise_limit(&spec.name, spec.bytes_max).await?;
            }
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
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = link.changed() => if changed.is_err() { return },
                () = self.missed.notified() => {}
            }
            if matches!(*link.borrow_and_update(), LinkState::Down { .. }) {
                continue;
            }
            if let Err(error) = self.ensure().await {
                tracing::warn!(%error, "the logs cannot be looked after; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(AGAIN_AFTER) => self.missed.notify_one(),
                }
            }
        }
    }
}
