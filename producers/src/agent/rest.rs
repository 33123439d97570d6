//! The rest of an agent whose ledger's disk is full. What it had in memory is given up, and it begins
//! again from its file when there is room, as after a crash: what was durable is there, and the next
//! reading finds what changed meanwhile. Until then only its heartbeats go out and say why.

use std::time::Duration;

use bus_schema::{Source, chain::ChainPoint, event::agent::Heartbeat};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Agent, heartbeat, now};
use crate::{LedgerError, ProducersError, sender};

/// The longest wait before the disk is tried again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the heartbeats of a resting agent say of a cluster.
struct Pulse {
    source: Source,
    at: ChainPoint,
    outbox_events: u64,
}

impl Agent {
    /// Waits for room; none = `shutdown` came first. Errors: the file cannot be opened for another reason.
    pub(super) async fn rest(
        self,
        full: &LedgerError,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, ProducersError> {
        tracing::error!(error = %full, "the agent rests until there is room");
        let (config, bus, trouble) = (self.config.clone(), self.bus.clone(), full.to_string());
        let (stream, wait) = (self.stream.clone(), self.heartbeat.min(RETRY_MAX));
        let (pulses, publisher, checkpoint) =
            (self.pulses(), self.publisher.clone(), self.checkpoint.clone());
        // A file has one owner: this one lets go of it.
        drop(self);
        loop {
            for Pulse { source, at, outbox_events } in &pulses {
                let beat = Heartbeat {
                    agent: config.name.clone(),
                    at: *at,
                    hash: None,
                    checkpoint: checkpoint.clone(),
                    digest: None,
                    sent_at: now(),
                    outbox_events: *outbox_events,
                    trouble: Some(trouble.clone()),
                };
                let message = sender::outgoing(&heartbeat::sealed(beat, source)?);
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(None),
                    // One that does not arrive is followed by the next.
                    _ = publisher.publish(&stream, &message, None) => {}
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = sleep(wait) => {}
            }
            match Self::build(config.clone(), bus.clone()) {
                Err(ProducersError::Ledger(LedgerError::Full { .. })) => {}
                built => {
                    let agent = built?;
                    tracing::info!(ledger = %config.ledger.display(), "the ledger takes changes again; the agent goes on");
                    return Ok(Some(agent));
                }
            }
        }
    }

    fn pulses(&self) -> Vec<Pulse> {
        let pulse = |lane: &super::Lane| {
            lane.cluster.inventory.stop();
            let sequencer = &lane.cluster.sequencer;
            let (source, at) = (sequencer.source().clone(), sequencer.chain().acked());
            Pulse { source, at, outbox_events: sequencer.waiting().events }
        };
        self.lanes.iter().map(pulse).collect()
    }
}
