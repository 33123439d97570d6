//! The greeting: "here I am; what do you have of me?". A target that has more than the agent tells it
//! to begin anew: the agent came out of an old backup, or its chain has a twin.

use std::time::Duration;

use bus_schema::{
    Stem,
    chain::ChainPoint,
    command::agent::{HELLO, Hello, HelloReply, HelloVerdict},
    subject,
};
use tokio::time::Instant;

use super::{Agent, now, turn::Done};
use crate::ProducersError;

/// How long a greeting after the first one may take; nothing waits for it.
const LATE_WAIT: Duration = Duration::from_secs(5);

/// Whether the target was greeted.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    under_way: bool,
    last: Option<Instant>,
}

impl Agent {
    /// Greets the target for every cluster; nothing is read or sent until it answered or had its time.
    pub(super) fn greet(&mut self) {
        (0..self.lanes.len()).for_each(|lane| self.send_hello(lane, self.hello_wait));
    }

    /// A target that did not answer is greeted again now and then: it may not have been there.
    pub(super) fn greet_again(&mut self, index: usize, at: Instant) {
        let lane = &self.lanes[index];
        let waited = lane.greeting.last.is_none_or(|last| at >= last + self.heartbeat);
        if self.link_up && waited && !lane.greeting.under_way && !lane.cluster.known_to_target {
            self.send_hello(index, LATE_WAIT);
        }
    }

    fn send_hello(&mut self, index: usize, wait: Duration) {
        let lane = &mut self.lanes[index];
        lane.greeting = Greeting { under_way: true, last: Some(Instant::now()) };
        let (source, chain) = (lane.cluster.sequencer.source().clone(), *lane.cluster.sequencer.chain());
        let subject = subject::command(&source.pool, Stem::Agent, HELLO);
        let hello = Hello { source, at: chain.at(), hash: chain.last_hash };
        let bus = self.bus.clone();
        self.tasks.spawn(async move {
            let reply = bus.request::<Hello, HelloReply>(&subject, &hello, wait).await;
            let reply = reply.inspect_err(|error| tracing::debug!(%error, "the target was greeted in vain"));
            Done::Greeted(index, hello.at, reply.ok())
        });
    }

    /// Takes in the target's answer.
    pub(super) fn greeted(
        &mut self,
        index: usize,
        told: ChainPoint,
        reply: Option<HelloReply>,
    ) -> Result<(), ProducersError> {
        let lane = &mut self.lanes[index];
        lane.greeting.under_way = false;
        if let Some(reply) = reply {
            lane.cluster.known_to_target = true;
            let overtaken = overtaken(told, lane.cluster.sequencer.chain().at(), &reply);
            if reply.verdict == HelloVerdict::Rebase && !overtaken {
                let last = reply
                    .last
                    .map_or_else(String::new, |(at, _)| format!(" (up to {} of {})", at.seq, at.epoch));
                let reason = format!(
                    "the target has more of this chain than the agent{last}: its ledger was restored"
                );
                lane.cluster.sequencer.close_epoch(&reason, now())?;
            }
        }
        if lane.cluster.greeted { Ok(()) } else { self.begin(index) }
    }
}

/// Whether the target only has what the agent sent while its greeting was on the way. (A ledger that was
/// restored and wrote on meanwhile is a fork, which the target finds in the chain itself.)
fn overtaken(told: ChainPoint, now: ChainPoint, reply: &HelloReply) -> bool {
    reply.last.is_some_and(|(last, _)| last.epoch == now.epoch && told.seq < last.seq && last.seq <= now.seq)
}

#[cfg(test)]
mod tests {
    use bus_schema::{Epoch, Hash32};

    use super::*;

    #[test]
    fn what_was_sent_while_the_greeting_was_on_the_way_is_no_reason_to_begin_anew() {
        let at = |seq| ChainPoint { epoch: Epoch(7), seq };
        let has = |seq| HelloReply { last: Some((at(seq), Hash32::ZERO)), verdict: HelloVerdict::Rebase };
        assert!(overtaken(at(3), at(90), &has(40)));
        assert!(!overtaken(at(3), at(90), &has(91)), "the target has more than the agent has now");
        assert!(!overtaken(at(3), at(90), &has(3)), "the same place with another hash");
        let other =
            HelloReply { last: Some((ChainPoint { epoch: Epoch(8), seq: 40 }, Hash32::ZERO)), ..has(0) };
        assert!(!overtaken(at(3), at(90), &other), "another epoch");
    }
}
