//! The agents of this process: each on a connection of its own, built before anything is said to run, and
//! started again when it ends by itself. One agent's fault is nobody else's.
//!
//! Must not know: what an agent does.

use std::{fmt::Display, time::Duration};

use bus::{
    Bus, BusError, ConnectOptions,
    managed::{AgentId, AgentScope},
};
use bus_schema::Stem;
use producers::{Agent, AgentConfig, ProducersError};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{AppError, BUS_DRAIN_MAX, End, drain, first_end};
use crate::config::{Config, ConfigError};

/// How long the agents may take to empty their outboxes at the end; what is left waits in their ledgers.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(15);

/// The first wait of an agent for a NATS that is not there; it doubles.
const REACH_WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest one.
const REACH_WAIT_MAX: Duration = Duration::from_secs(5);

/// Between the end of an agent and its next start: soon enough for what passes, seldom enough for what stays.
const AGAIN: Waits = Waits { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// What is waited between two tries; it doubles from the first to the longest.
#[derive(Clone, Copy, Debug)]
struct Waits {
    first: Duration,
    longest: Duration,
}

/// An agent that has been checked, with its ledger open, and does not run yet.
pub(super) struct Ready {
    config: AgentConfig,
    bus: Bus,
    agent: Agent,
}

/// The agents of the configuration, each with the way to its NATS.
pub(crate) fn agents(
    config: &Config,
    options: impl Fn(&AgentConfig, &str) -> Result<ConnectOptions, AppError>,
) -> Result<Vec<(AgentConfig, ConnectOptions)>, AppError> {
    producers::config::check_together(&config.agent.resource).map_err(ConfigError::Unfit)?;
    let with = |agent: &AgentConfig| {
        let options = options(agent, &format!("farside agent {}", agent.name))?;
        Ok((agent.clone(), options))
    };
    config.agent.resource.iter().map(with).collect()
}

/// What an agent is called.
pub(crate) fn id(agent: &AgentConfig) -> AgentId {
    AgentId { site: agent.site.clone(), name: agent.name.clone() }
}

/// What an agent may speak for.
pub(super) fn scope(agent: &AgentConfig) -> AgentScope {
    let clusters = agent.clusters.iter().map(|cluster| cluster.name.clone()).collect();
    AgentScope { id: id(agent), clusters, stems: [Stem::Resource].into() }
}

/// Builds agents and says what is wrong with the first that cannot run; waits for their NATS until
/// `shutdown`, which leaves out the rest.
pub(super) async fn make_ready(
    agents: Vec<(AgentConfig, ConnectOptions)>,
    shutdown: &CancellationToken,
) -> Result<Vec<Ready>, AppError> {
    let mut ready = vec![];
    for (config, options) in agents {
        let Some(bus) = reach(options, shutdown).await? else { break };
        let name = config.name.to_string();
        let agent = Agent::build(config.clone(), bus.clone());
        let agent = agent.map_err(|source| AppError::Agent { name, source })?;
        ready.push(Ready { config, bus, agent });
    }
    Ok(ready)
}

/// Runs agents until `stop`.
pub(super) fn start(agents: Vec<Ready>, stop: &CancellationToken) -> JoinSet<End> {
    let mut tasks = JoinSet::new();
    for Ready { config, bus, agent } in agents {
        let (stop, name) = (stop.clone(), config.name.to_string());
        tasks.spawn(async move {
            let mut built = Some(agent);
            let life = || {
                let agent = built.take().map_or_else(|| Agent::build(config.clone(), bus.clone()), Ok);
                let stop = stop.clone();
                async move { agent?.run(stop).await }
            };
            let end = kept_up::<ProducersError, _>(&name, &stop, AGAIN, life).await;
            let _ = timeout(BUS_DRAIN_MAX, bus.drain()).await;
            (format!("agent {name}"), end.map_err(|source| AppError::Agent { name, source }))
        });
    }
    tasks
}

/// Runs agents only: `farside agent`. `ready` is called when all of them have been checked.
pub(crate) async fn run_agents(
    agents: Vec<(AgentConfig, ConnectOptions)>,
    shutdown: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), AppError> {
    let agents = make_ready(agents, &shutdown).await?;
    ready();
    let stop = CancellationToken::new();
    let mut tasks = start(agents, &stop);
    let first = first_end(&mut tasks, &shutdown).await;
    stop.cancel();
    first.and(drain(tasks, "an agent", DRAIN_MAX).await)
}

/// Connects: a NATS that is not there (yet) is waited for. None: `shutdown` came first.
pub(super) async fn reach(
    options: ConnectOptions,
    shutdown: &CancellationToken,
) -> Result<Option<Bus>, AppError> {
    let mut wait = REACH_WAIT_MIN;
    loop {
        match Bus::connect(options.clone()).await {
            Err(error @ BusError::Unreachable { .. }) => {
                tracing::warn!(%error, "NATS is waited for; trying again");
            }
            connected => return Ok(Some(connected?)),
        }
        if timeout(wait, shutdown.cancelled()).await.is_ok() {
            return Ok(None);
        }
        wait = (wait * 2).min(REACH_WAIT_MAX);
    }
}

/// Lives one life after the other until `stop`; the last one's end is the result.
async fn kept_up<E: Display, L: Future<Output = Result<(), E>>>(
    name: &str,
    stop: &CancellationToken,
    waits: Waits,
    mut life: impl FnMut() -> L,
) -> Result<(), E> {
    let mut wait = waits.first;
    loop {
        let began = Instant::now();
        let end = life().await;
        if stop.is_cancelled() {
            return end;
        }
        if began.elapsed() >= waits.longest {
            wait = waits.first;
        }
        let error = end.map_or_else(|error| error.to_string(), |()| "it ended by itself".to_owned());
        tracing::error!(
            agent = name,
            %error,
            again_in_s = wait.as_secs(),
            "an agent ended; its clusters are not kept true until it runs again, everything else goes on"
        );
        if timeout(wait, stop.cancelled()).await.is_ok() {
            return Ok(());
        }
        wait = (wait * 2).min(waits.longest);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const AT_ONCE: Waits = Waits { first: Duration::from_millis(1), longest: Duration::from_millis(2) };

    #[tokio::test]
    async fn an_agent_that_ends_by_itself_is_started_again_and_ends_with_the_rest() {
        let (stop, lives) = (CancellationToken::new(), Cell::new(0));
        let life = || {
            lives.set(lives.get() + 1);
            let (life, stop) = (lives.get(), stop.clone());
            async move {
                match life {
                    1 => Err("the disk is full"),
                    2 => Ok(()),
                    _ => {
                        stop.cancel();
                        Err("the last words")
                    }
                }
            }
        };
        assert_eq!(kept_up("inv", &stop, AT_ONCE, life).await, Err("the last words"));
        assert_eq!(lives.get(), 3);
    }

    #[tokio::test]
    async fn an_agent_that_waits_for_its_next_life_ends_at_once() {
        let (stop, lives) = (CancellationToken::new(), Cell::new(0));
        let long = Waits { first: Duration::from_secs(3_600), longest: Duration::from_secs(3_600) };
        let life = || {
            lives.set(lives.get() + 1);
            async { Err("the disk is full") }
        };
        let ends = async { stop.cancel() };
        let (kept, ()) = tokio::join!(kept_up("inv", &stop, long, life), ends);
        assert_eq!((kept, lives.get()), (Ok(()), 1));
    }
}
