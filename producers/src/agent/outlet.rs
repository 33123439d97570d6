//! A lane's way to the log: one shipment at a time, again and again until it has landed, ever slower.

use std::time::Duration;

use tokio::time::Instant;

use super::{Agent, now, turn::Done};
use crate::{ProducersError, sender, sender::Landing, sequencer::Shipment};

/// The first wait before a repetition.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a repetition.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often it is tried while somebody has to act first: a full log, missing permissions.
const BLOCKED_RETRY: Duration = Duration::from_secs(5);

/// A limit below this is not learned: headers and the agent's own words need as much, in bytes.
const BODY_BYTES_MIN: usize = 2_048;

/// The state of a lane's way to the log.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    under_way: bool,
    retry_at: Option<Instant>,
    backoff: Duration,
    /// Why the log takes nothing, in words.
    pub(super) trouble: Option<String>,
}

impl Outlet {
    /// Whatever the link did, waiting for it has ended.
    pub(super) fn link_changed(&mut self) {
        (self.retry_at, self.backoff) = (None, Duration::ZERO);
    }

    /// When the next try is due.
    pub(super) fn due(&self, link_up: bool) -> Option<Instant> {
        self.retry_at.filter(|_| link_up && !self.under_way)
    }

    /// Nothing is on its way.
    pub(super) const fn is_quiet(&self) -> bool {
        !self.under_way
    }

    fn wait(&mut self, least: Duration) {
        self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX).max(least);
        self.retry_at = Some(Instant::now() + jittered(self.backoff));
    }

    fn report(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(%trouble, "the log takes no events; they are kept");
        }
        self.trouble = Some(trouble);
    }
}

/// Between three quarters and all of a wait, so that agents do not march in step.
pub(super) fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 1];
    // Without random numbers the wait is the whole.
    let _ = getrandom::fill(&mut random);
    wait - wait * u32::from(random[0]) / (4 * 256)
}

impl Agent {
    /// Sends what waits, unless something is on its way or has to wait.
    pub(super) fn ship(&mut self, index: usize, at: Instant) -> Result<(), ProducersError> {
        let lane = &mut self.lanes[index];
        let waits = lane.outlet.retry_at.is_some_and(|retry| retry > at);
        if !self.link_up || lane.outlet.under_way || waits {
            return Ok(());
        }
        let Some(shipment) = lane.cluster.sequencer.ship()? else { return Ok(()) };
        (lane.outlet.under_way, lane.outlet.retry_at) = (true, None);
        let (publisher, stream) = (self.publisher.clone(), self.stream.clone());
        self.tasks.spawn(async move {
            let landing = sender::send(publisher, stream, &shipment).await;
            Done::Landed(index, shipment, landing)
        });
        Ok(())
    }

    /// Takes in what came of a shipment.
    pub(super) fn landed(
        &mut self,
        index: usize,
        shipment: &Shipment,
        landing: Landing,
    ) -> Result<(), ProducersError> {
        let lane = &mut self.lanes[index];
        let sequencer = &mut lane.cluster.sequencer;
        lane.outlet.under_way = false;
        match landing {
            Landing::Stored => {
                sequencer.landed(shipment.epoch, shipment.cut)?;
                lane.outlet.link_changed();
                if lane.outlet.trouble.take().is_some() {
                    tracing::info!(pool = %sequencer.source().pool, "the log takes events again");
                }
            }
            Landing::GoPlain(reason) => {
                tracing::debug!(reason, "a batch goes event by event");
                sequencer.go_plain(shipment.epoch, shipment.cut)?;
                lane.outlet.retry_at = Some(Instant::now() + jittered(BACKOFF_MIN));
            }
            Landing::Again(reason) => {
                tracing::debug!(reason, "events are sent again");
                // Once is chance; twice in a row on a link that stands is a log that stores nothing.
                if self.link_up && lane.outlet.backoff > Duration::ZERO {
                    lane.outlet.report(reason);
                }
                lane.outlet.wait(Duration::ZERO);
            }
            Landing::Blocked(reason) => {
                lane.outlet.report(reason);
                lane.outlet.wait(BLOCKED_RETRY);
            }
            Landing::TooLarge(bytes) if shipment.epoch == sequencer.chain().epoch => {
                let reason = format!("the log's server takes no event of {bytes} bytes");
                // An agent may not read the stream's limit. Half of what was refused finds it in a few steps.
                let limit = bytes.min(sequencer.rules.inline_bytes_max) / 2;
                if limit < BODY_BYTES_MIN {
                    lane.outlet.report(format!("{reason}; raise the max_msg_size of its stream"));
                    lane.outlet.wait(BLOCKED_RETRY);
                    return Ok(());
                }
                // The chain cannot go on without the event, so it begins anew with smaller ones.
                sequencer.rules.inline_bytes_max = limit;
                sequencer.close_epoch(&reason, now())?;
            }
            Landing::TooLarge(_) => {}
        }
        Ok(())
    }
}
