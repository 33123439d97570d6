//! The stem `resource`: what the target asks of source clusters, and when (claims R1 to R8).
//!
//! Pure: [`schedule`] (R1), [`threshold`] (R6), [`state`] (all requests but the second), [`damage`] (repairs), [`tenants`] (R8),
//! and the judgements in [`confirm`] (R4). The rest performs what these decide, through [`ports`].

pub mod confirm;
pub mod damage;
pub mod descent;
pub mod model;
pub mod ports;
pub mod schedule;
pub mod state;
pub mod tenants;
pub mod threshold;
pub mod view;

mod commands;
mod completed;
mod reactor;
mod sync;

#[cfg(test)]
mod recording;

use std::sync::Arc;

use bus::Bus;
use projector::Reader;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use reactor::Shown;

use crate::{
    config::ServiceConfig,
    error::ConsumersError,
    runtime::{applied::Progress, facts::FactPublisher},
};

/// The reactions of this stem, as they act under the lease.
pub(crate) struct Acting {
    /// The bus.
    pub bus: Bus,
    /// The configuration.
    pub config: Arc<ServiceConfig>,
    /// States facts.
    pub facts: FactPublisher,
    /// The pool.
    pub reader: Reader,
    /// How far the pool is.
    pub progress: Progress,
}

impl Acting {
    /// Starts the tasks; each ends at `stop`. When it returns, commands are served. Errors: the bus.
    pub(crate) async fn start(
        self,
        tasks: &mut JoinSet<Result<(), ConsumersError>>,
        shown: watch::Sender<Vec<Shown>>,
        stop: &CancellationToken,
    ) -> Result<(), ConsumersError> {
        let Self { bus, config, facts, reader, progress } = self;
        let pool = ports::LivePool { reader, progress };
        let ports = Arc::new(ports::Live { bus: bus.clone(), facts, pool });
        let (manuals, asked) = mpsc::channel(reactor::MANUALS_WAITING_MAX);
        tasks.spawn(reactor::Reactor::new(ports.clone(), config.clone(), shown).run(asked, stop.clone()));
        let target = config.target.clone();
        let subjects = commands::Subjects::open(&bus, &target).await?;
        let commands = commands::Commands { target, ports: ports.clone(), manuals };
        let stopped = stop.clone();
        tasks.spawn(async move {
            commands.run(subjects, stopped).await;
            Ok(())
        });
        for site in &config.sites {
            let (bus, target, site, ports) =
                (bus.clone(), config.target.clone(), site.clone(), ports.clone());
            tasks.spawn(completed::Completed { bus, target, site, ports }.run(stop.clone()));
        }
        Ok(())
    }
}
