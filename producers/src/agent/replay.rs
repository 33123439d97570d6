//! A replay: the log has lost events that it had acknowledged, and the target asks for them once more. They go
//! page by page, as the outbox's do and beside them, under message ids of this replay: repeated, a page is stored
//! once. The chain and the inventory know nothing of it.
//!
//! Must not know: which events these are, or where they are kept.

use std::time::Duration;

use bus::{Publisher, Request};
use bus_schema::command::agent::{Replay, ReplayReply};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Agent,
    outlet::{BACKOFF_MAX, BACKOFF_MIN, jittered},
    turn::Done,
};
use crate::{
    ProducersError,
    sender::{self, Landing},
    sequencer::{Run, Shipment},
};

/// How often a page is sent before the replay is broken off: the target asks again, and others want to be answered.
const TRIES_MAX: u32 = 5;
/// How long a replay may take. The server lets an agent answer within 10 minutes; a page may take one of them.
const REPLAY_MAX: Duration = Duration::from_secs(8 * 60);

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replaying {
    request: Request,
    /// What tells its message ids from those of any other.
    id: String,
    /// What is left.
    run: Run,
    /// The last event of the page on its way.
    under_way: u64,
    sent: u64,
    until: Instant,
}

impl Agent {
    /// Begins a replay, or says why not.
    pub(super) fn replay(
        &mut self,
        index: usize,
        asked: &Replay,
        request: Request,
    ) -> Result<(), ProducersError> {
        let lane = &self.lanes[index];
        let now = if !lane.cluster.greeted {
            Some("the agent is just starting; ask again in a moment".to_owned())
        } else if let Some(Replaying { run, .. }) = &lane.replay {
            Some(format!("the agent sends the events up to {} again; ask when it has done so", run.last))
        } else if !self.link_up {
            Some("the agent has no link to the log; ask again when it is back".to_owned())
        } else {
            None
        };
        if let Some(reason) = now {
            self.reply(request, ReplayReply::Refused { reason, gone: false });
            return Ok(());
        }
        match lane.cluster.sequencer.kept(asked)? {
            Ok(run) => {
                let pool = &asked.source.pool;
                tracing::info!(%pool, epoch = %asked.epoch, first = run.first, last = run.last,
                    "the log has lost events; they are sent again");
                let (id, until) = (Uuid::now_v7().to_string(), Instant::now() + REPLAY_MAX);
                let replaying = Replaying { request, id, run, under_way: 0, sent: 0, until };
                self.send_again(index, replaying)
            }
            Err(not) => {
                tracing::warn!(epoch = %asked.epoch, first = asked.first_seq, last = asked.last_seq, reason = not.reason,
                    "the log has lost events that cannot be sent again");
                self.reply(request, ReplayReply::Refused { reason: not.reason, gone: not.gone });
                Ok(())
            }
        }
    }

    /// Sends the next page beside the agent.
    fn send_again(&mut self, index: usize, mut replaying: Replaying) -> Result<(), ProducersError> {
        let lane = &mut self.lanes[index];
        let page = lane.cluster.sequencer.ship_again(replaying.run, &replaying.id)?;
        let shipment = match page {
            Ok(shipment) => shipment,
            Err(not) => {
                let reason = replaying.after(&not.reason);
                self.reply(replaying.request, ReplayReply::Refused { reason, gone: not.gone });
                return Ok(());
            }
        };
        replaying.under_way = shipment.cut.last;
        lane.replay = Some(replaying);
        let (publisher, stream) = (self.publisher.clone(), self.stream.clone());
        self.tasks.spawn(async move { Done::Replayed(index, land(publisher, stream, shipment).await) });
        Ok(())
    }

    /// Takes in what came of a page: the next one, or the answer.
    pub(super) fn replayed(
        &mut self,
        index: usize,
        landed: Result<(), String>,
    ) -> Result<(), ProducersError> {
        // A replay that was broken off has its answer.
        let Some(mut replaying) = self.lanes[index].replay.take() else { return Ok(()) };
        if let Err(reason) = landed {
            replaying.break_off(self, &reason);
            return Ok(());
        }
        replaying.sent += replaying.under_way + 1 - replaying.run.first;
        match replaying.run.behind(replaying.under_way) {
            None => {
                tracing::info!(events = replaying.sent, "what the log had lost was sent again");
                self.reply(replaying.request, ReplayReply::Sent { events: replaying.sent });
            }
            Some(run) if Instant::now() < replaying.until => {
                return self.send_again(index, Replaying { run, ..replaying });
            }
            Some(run) => {
                let (reason, limit) = ("it takes too long", REPLAY_MAX.as_secs());
                let replaying = Replaying { run, ..replaying };
                replaying.break_off(self, &format!("{reason}, more than {limit} s; ask for the rest"));
            }
        }
        Ok(())
    }

    /// Answers every replay under way that it ends here.
    pub(super) fn break_off_replays(&mut self, reason: &str) {
        for index in 0..self.lanes.len() {
            if let Some(replaying) = self.lanes[index].replay.take() {
                replaying.break_off(self, reason);
            }
        }
    }
}

impl Replaying {
    fn break_off(self, agent: &mut Agent, reason: &str) {
        let reason = self.after(reason);
        tracing::warn!(reason, "events are not sent again to the end; the target asks again");
        agent.reply(self.request, ReplayReply::Refused { reason, gone: false });
    }

    /// Why it ended, with how far it came.
    fn after(&self, reason: &str) -> String {
        match self.sent {
            0 => reason.to_owned(),
            sent => format!("{sent} events were sent, up to {}, then: {reason}", self.run.first - 1),
        }
    }
}

/// Sends a page until it has landed, a few times. Errors: why it did not, and what to do.
async fn land(publisher: Publisher, stream: String, mut shipment: Shipment) -> Result<(), String> {
    let (mut tries, mut backoff) = (0, BACKOFF_MIN);
    loop {
        let reason = match sender::send(publisher.clone(), stream.clone(), &shipment).await {
            Landing::Stored => return Ok(()),
            Landing::GoPlain(reason) => {
                shipment.cut.batch = false;
                reason
            }
            Landing::Again(reason) => reason,
            Landing::Blocked(reason) => return Err(reason),
            Landing::TooLarge(bytes) => {
                return Err(format!(
                    "the log's server takes no event of {bytes} bytes any more; raise the max_msg_size of its stream"
                ));
            }
        };
        shipment.sent_before = true;
        tries += 1;
        if tries == TRIES_MAX {
            return Err(reason);
        }
        tokio::time::sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}
