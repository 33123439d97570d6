//! The heartbeat: after some silence the agent says that it lives, where its chain is in the log, and,
//! when everything is there, the digest that the target compares with its pool.

use bus_schema::{
    Source,
    event::agent::{AgentEvent, Heartbeat},
};
use tokio::time::Instant;

use super::{Agent, now, turn::Done};
use crate::{LedgerError, ProducersError, ledger::outbox::Parcel, seal::Saying, sender};

/// Troubles that one heartbeat repeats.
const TROUBLES_MAX: usize = 5;

impl Agent {
    /// Sends a heartbeat when it is due; says when the next one is.
    pub(super) fn beat(&mut self, index: usize, at: Instant) -> Result<Instant, ProducersError> {
        let lane = &mut self.lanes[index];
        let due = lane.silent_since + self.heartbeat;
        if due > at {
            return Ok(due);
        }
        lane.silent_since = at;
        if !self.link_up {
            return Ok(at + self.heartbeat);
        }
        let sequencer = &lane.cluster.sequencer;
        let mut troubles = lane.cluster.trouble();
        troubles.extend(lane.outlet.trouble.clone());
        troubles.truncate(TROUBLES_MAX);
        let heartbeat = Heartbeat {
            agent: self.name.clone(),
            at: sequencer.chain().acked(),
            digest: sequencer.settled_digest().filter(|_| lane.outlet.is_quiet()),
            sent_at: now(),
            outbox_events: sequencer.waiting().events,
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
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
