//! The heartbeat: on a fixed period, however busy it is, the agent says that it lives, where its chain is in
//! the log, and, when everything is there, the digest that the target compares with its pool. What troubles
//! it, or no longer does, is said at once.

use std::time::Duration;

use bus_schema::{
    Source,
    event::agent::{AgentEvent, Heartbeat},
};
use tokio::time::Instant;

use super::{Agent, Lane, now, turn::Done};
use crate::{LedgerError, ProducersError, ledger::outbox::Parcel, seal::Saying, sender};

/// Troubles that one heartbeat repeats.
const TROUBLES_MAX: usize = 5;
/// The shortest time between two heartbeats: troubles may come and go fast.
const BEAT_WAIT_MIN: Duration = Duration::from_secs(1);

/// When a lane's last heartbeat was, and what it said.
#[derive(Debug)]
pub(super) struct Pulse {
    beaten_at: Instant,
    trouble: Option<String>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { beaten_at: Instant::now(), trouble: None }
    }
}

impl Lane {
    /// What is wrong, in words.
    fn trouble(&self) -> Option<String> {
        let mut troubles = self.cluster.trouble();
        troubles.extend(self.cluster.sequencer.oversize());
        troubles.extend(self.outlet.trouble.clone());
        troubles.extend(self.greeting.trouble.clone());
        troubles.truncate(TROUBLES_MAX);
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }
}

impl Agent {
    /// Sends a heartbeat when it is due; says when the next one is.
    pub(super) fn beat(&mut self, index: usize, at: Instant) -> Result<Instant, ProducersError> {
        let lane = &mut self.lanes[index];
        let trouble = lane.trouble();
        let is_news = self.link_up && trouble != lane.pulse.trouble;
        let due =
            lane.pulse.beaten_at + if is_news { BEAT_WAIT_MIN.min(self.heartbeat) } else { self.heartbeat };
        if due > at {
            return Ok(due);
        }
        lane.pulse.beaten_at = at;
        if !self.link_up {
            return Ok(at + self.heartbeat);
        }
        lane.pulse.trouble.clone_from(&trouble);
        let sequencer = &lane.cluster.sequencer;
        let heartbeat = Heartbeat {
            agent: self.name.clone(),
            at: sequencer.chain().acked(),
            hash: sequencer.chain().acked_hash(),
            checkpoint: self.checkpoint.clone(),
            digest: sequencer.settled_digest().filter(|_| lane.outlet.is_quiet()),
            sent_at: now(),
            outbox_events: sequencer.waiting().events,
            trouble,
        };
        let parcel = sealed(heartbeat, sequencer.source())?;
        let (publisher, stream) = (self.publisher.clone(), self.stream.clone());
        self.tasks.spawn(async move {
            let sent = publisher.publish(&stream, &sender::outgoing(&parcel), None).await;
            let sent = sent.inspect_err(|error| tracing::debug!(%error, "a heartbeat did not arrive"));
            Done::Beaten(index, sent.is_ok())
        });
        Ok(at + self.heartbeat)
    }

    /// Takes in what came of a heartbeat.
    pub(super) fn beaten(&mut self, index: usize, heard: bool) {
        let quiet = self.lanes[index].cluster.sequencer.waiting().events == 0;
        if heard && quiet && self.lanes[index].outlet.trouble.take().is_some() {
            tracing::info!("the log takes events again");
        }
    }
}

/// A heartbeat on its way: it has no place in the chain.
pub(super) fn sealed(heartbeat: Heartbeat, source: &Source) -> Result<Parcel, LedgerError> {
    let (parcel, _) = Saying::agent(&AgentEvent::Heartbeat(heartbeat))?.seal(source, None, None, now());
    Ok(parcel)
}
