//! An agent that runs within the test.

use producers::{Agent, AgentConfig, ProducersError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{eventually, nats::Nats, within};

/// A running agent.
pub(crate) struct RunningAgent {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ProducersError>>,
}

impl RunningAgent {
    /// Starts it on a connection of its own.
    pub(crate) async fn start(nats: &Nats, config: AgentConfig) -> Self {
        let bus = nats.bus().await;
        // The agent that had the ledger before may still be closing it.
        let agent = eventually("the ledger is free", async || Agent::build(config.clone(), bus.clone()).ok());
        let (agent, stop) = (agent.await, CancellationToken::new());
        Self { task: tokio::spawn(agent.run(stop.clone())), stop }
    }

    /// Stops it, and waits until it has ended well.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        within("the agent stops", self.task).await.unwrap().unwrap();
    }
}
