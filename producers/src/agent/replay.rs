//! A replay: the log has lost events that it had acknowledged, and the target asks for them once more. They go
//! page by page, as the outbox's do and beside them, under message ids of this replay: repeated, a page is stored
//! once. The chain and the inventory know nothing of it.
//!
//! A replay that does not come to its end answers with the copies that it sent; whoever asks for the rest then gets
//! it, or the reason. Answered as a refusal, they would be asked for and stored once more, each time.
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

/// How often a page is sent before the replay is broken off.
const TRIES_MAX: u32 = 5;
/// After this time nothing more is sent, or sent once more: a target waits a minute for the answer, and what is on
/// its way may take 20 s until its outcome counts as unknown. (The server lets an agent answer within 10 minutes.)
const REPLAY_MAX: Duration = Duration::from_secs(30);
/// Most events of a page that go one by one, each with an fsync, when the log takes no batch.
const PLAIN_EVENTS_MAX: usize = 100;

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replaying {
    request: Request,
    /// What tells its message ids from those of any other.
    id: String,
    /// What is left.
    run: Run,
    /// Copies that the log has acknowledged.
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
                let replaying = Replaying { request, id, run, sent: 0, until };
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
    fn send_again(&mut self, index: usize, replaying: Replaying) -> Result<(), ProducersError> {
        let lane = &mut self.lanes[index];
        let page = lane.cluster.sequencer.ship_again(replaying.run, &replaying.id)?;
        let shipment = match page {
            Ok(shipment) => shipment,
            Err(not) => {
                replaying.break_off(self, not.reason, not.gone);
                return Ok(());
            }
        };
        let until = replaying.until;
        lane.replay = Some(replaying);
        let (publisher, stream) = (self.publisher.clone(), self.stream.clone());
        self.tasks
            .spawn(async move { Done::Replayed(index, land(publisher, stream, shipment, until).await) });
        Ok(())
    }

    /// Takes in what came of a page, with its last event: the next page, or the answer.
    pub(super) fn replayed(
        &mut self,
        index: usize,
        landed: Result<u64, String>,
    ) -> Result<(), ProducersError> {
        // A replay that was broken off has its answer.
        let Some(mut replaying) = self.lanes[index].replay.take() else { return Ok(()) };
        let last = match landed {
            Ok(last) => last,
            Err(reason) => {
                replaying.break_off(self, reason, false);
                return Ok(());
            }
        };
        replaying.sent += last + 1 - replaying.run.first;
        match replaying.run.behind(last) {
            Some(run) if Instant::now() < replaying.until => {
                self.send_again(index, Replaying { run, ..replaying })
            }
            Some(_) => {
                let limit = REPLAY_MAX.as_secs();
                replaying.break_off(self, format!("it takes longer than {limit} s; ask for the rest"), false);
                Ok(())
            }
            None => {
                tracing::info!(events = replaying.sent, "what the log had lost was sent again");
                self.reply(replaying.request, ReplayReply::Sent { events: replaying.sent });
                Ok(())
            }
        }
    }

    /// Answers every replay under way that it ends here.
    pub(super) fn break_off_replays(&mut self, reason: &str) {
        for index in 0..self.lanes.len() {
            if let Some(replaying) = self.lanes[index].replay.take() {
                replaying.break_off(self, reason.to_owned(), false);
            }
        }
    }
}

impl Replaying {
    /// Answers before the end: with what was sent, or why nothing was.
    fn break_off(self, agent: &mut Agent, reason: String, gone: bool) {
        let events = self.sent;
        tracing::warn!(events, last = self.run.last, reason, "events are not sent again to the end");
        let reply =
            if events > 0 { ReplayReply::Sent { events } } else { ReplayReply::Refused { reason, gone } };
        agent.reply(self.request, reply);
    }
}

/// Sends a page until it has landed, a few times; answers its last event. Errors: why it did not, and what to do.
async fn land(
    publisher: Publisher,
    stream: String,
    mut shipment: Shipment,
    until: Instant,
) -> Result<u64, String> {
    let (mut tries, mut backoff) = (0, BACKOFF_MIN);
    loop {
        let reason = match sender::send(publisher.clone(), stream.clone(), &shipment).await {
            Landing::Stored => return Ok(shipment.cut.last),
            Landing::GoPlain(reason) => {
                shipment.go_plain(PLAIN_EVENTS_MAX);
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
        if tries == TRIES_MAX || Instant::now() >= until {
            return Err(reason);
        }
        tokio::time::sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}
