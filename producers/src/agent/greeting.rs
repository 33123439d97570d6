//! The greeting: "here I am; what do you have of me?". A target that does not follow the agent's chain tells
//! it to begin anew: the agent came out of an old backup, its chain has a twin, its epoch was ended by another
//! agent of its name, or log and pool were made anew. It is asked at the start, after every new connection,
//! when a request shows that the target follows another epoch, and now and then: whatever went wrong
//! meanwhile heals without a restart.

use std::time::Duration;

use bus_schema::{
    Stem,
    chain::ChainPoint,
    command::agent::{HELLO, Hello, HelloReply, HelloVerdict},
    event::agent::CheckpointSeen,
    subject,
};
use tokio::time::Instant;

use super::{Agent, now, turn::Done};
use crate::{ProducersError, ledger::checkpoint::Telling};

/// How long a greeting after the first one may take; nothing waits for it.
const LATE_WAIT: Duration = Duration::from_secs(5);
/// A target that answered is greeted again after so many heartbeats.
const GREET_BEATS: u32 = 6;
/// How often that time doubles when the agent is told again and again to begin anew: two agents under one
/// name, each ending the other's epoch, shall not fill the log with their inventories.
const DOUBLINGS_MAX: u32 = 6;

/// What is known of the target's opinion.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    under_way: bool,
    /// When the target is greeted next; none = at once.
    next: Option<Instant>,
    /// Not before this, whatever happens.
    rest_until: Option<Instant>,
    /// It has answered in this run.
    answered: bool,
    /// How often in a row it said to begin anew.
    rebases: u32,
    /// That another agent seems to have this one's name.
    pub(super) trouble: Option<String>,
}

impl Greeting {
    /// Something speaks for asking the target now.
    pub(super) const fn hurry(&mut self) {
        self.next = None;
    }

    /// Whether there is a target that answers greetings.
    pub(super) const fn answers(&self) -> bool {
        self.answered
    }

    fn is_due(&self, at: Instant) -> bool {
        let over = |time: Option<Instant>| time.is_none_or(|time| time <= at);
        !self.under_way && over(self.next) && over(self.rest_until)
    }

    /// When it is due; none = not before something happens.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.under_way { None } else { self.next.max(self.rest_until) }
    }

    /// The target follows the chain.
    fn is_followed(&mut self) {
        (self.rebases, self.trouble) = (0, None);
    }

    /// The target said to begin anew.
    fn is_refused(&mut self, period: Duration, at: Instant) {
        self.rest_until = Some(at + period * (1 << self.rebases.min(DOUBLINGS_MAX)));
        self.rebases += 1;
    }
}

impl Agent {
    /// Greets the target for every cluster; nothing is read or sent until it answered or had its time.
    pub(super) fn greet(&mut self) {
        (0..self.lanes.len()).for_each(|lane| self.send_hello(lane, self.hello_wait));
    }

    /// Greets the target again when it is time to.
    pub(super) fn greet_again(&mut self, index: usize, at: Instant) {
        if self.link_up && self.lanes[index].greeting.is_due(at) {
            self.send_hello(index, LATE_WAIT);
        }
    }

    fn send_hello(&mut self, index: usize, wait: Duration) {
        let lane = &mut self.lanes[index];
        (lane.greeting.under_way, lane.greeting.next) = (true, Some(Instant::now() + self.heartbeat));
        let (source, chain) = (lane.cluster.sequencer.source().clone(), *lane.cluster.sequencer.chain());
        let subject = subject::command(&source.pool, Stem::Agent, HELLO);
        let hello = Hello { source, at: chain.at(), hash: chain.last_hash, acked: Some(chain.acked()) };
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
        self.lanes[index].greeting.under_way = false;
        if let Some(reply) = reply {
            self.see_checkpoint(reply.checkpoint.as_ref())?;
            self.answered(index, told, &reply)?;
        }
        if self.lanes[index].cluster.greeted { Ok(()) } else { self.begin(index) }
    }

    /// Remembers the target's checkpoint: what it told once, it is held to.
    fn see_checkpoint(&mut self, told: Option<&CheckpointSeen>) -> Result<(), ProducersError> {
        let Some(told) = told.filter(|told| self.checkpoint.as_ref() != Some(told)) else { return Ok(()) };
        if let Telling::Contradicts(first) = self.ledger.see_checkpoint(told)? {
            let CheckpointSeen { target, number, hash } = told;
            tracing::error!(%target, number, %first, second = %hash,
                "the target tells two histories: its checkpoint had another hash before; it was restored, or its log was rewritten; both are kept, compare them with what others were told");
        }
        self.checkpoint = Some(told.clone());
        Ok(())
    }

    fn answered(&mut self, index: usize, told: ChainPoint, reply: &HelloReply) -> Result<(), ProducersError> {
        let (at, period) = (Instant::now(), self.heartbeat * GREET_BEATS);
        let lane = &mut self.lanes[index];
        let (greeting, sequencer) = (&mut lane.greeting, &mut lane.cluster.sequencer);
        let first = !std::mem::replace(&mut greeting.answered, true);
        let present = sequencer.chain().at();
        if told.epoch != present.epoch {
            // The answer is about an epoch that was given up meanwhile.
            greeting.hurry();
            return Ok(());
        }
        greeting.next = Some(at + period);
        if reply.verdict == HelloVerdict::Continue || overtaken(told, present, reply) {
            greeting.is_followed();
            return Ok(());
        }
        let reason = reason(told, reply);
        if !first && reply.last.is_some_and(|(last, _)| last.epoch != told.epoch) {
            greeting.trouble = Some(format!(
                "{reason}; if the target was not restored, another agent named {} serves this cluster with a ledger of its own: stop one of them",
                sequencer.source().agent
            ));
        }
        greeting.is_refused(period, at);
        sequencer.close_epoch(&reason, now())?;
        Ok(())
    }
}

/// Why the agent begins anew.
fn reason(told: ChainPoint, reply: &HelloReply) -> String {
    match reply.last {
        None => "the target has nothing of this agent: its log was made anew".to_owned(),
        Some((last, _)) if last.epoch == told.epoch => {
            let (at, has) = (told.seq, last.seq);
            format!(
                "the target has this chain up to {has}, the agent up to {at}, and they are not of one piece: its ledger was restored or copied"
            )
        }
        Some((last, _)) => format!("the target follows epoch {} and not {}", last.epoch, told.epoch),
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
        let has = |seq| HelloReply {
            last: Some((at(seq), Hash32::ZERO)),
            verdict: HelloVerdict::Rebase,
            checkpoint: None,
        };
        assert!(overtaken(at(3), at(90), &has(40)));
        assert!(!overtaken(at(3), at(90), &has(91)), "the target has more than the agent has now");
        assert!(!overtaken(at(3), at(90), &has(3)), "the same place with another hash");
        let other =
            HelloReply { last: Some((ChainPoint { epoch: Epoch(8), seq: 40 }, Hash32::ZERO)), ..has(0) };
        assert!(!overtaken(at(3), at(90), &other), "another epoch");
    }

    #[test]
    fn who_is_told_again_and_again_to_begin_anew_asks_ever_less_often() {
        let (mut greeting, at, period) = (Greeting::default(), Instant::now(), Duration::from_secs(60));
        for wait in [60, 120, 240] {
            greeting.is_refused(period, at);
            greeting.hurry();
            assert!(!greeting.is_due(at + Duration::from_secs(wait - 1)));
            assert!(greeting.is_due(at + Duration::from_secs(wait)));
        }
        greeting.is_followed();
        greeting.is_refused(period, at);
        assert!(greeting.is_due(at + period));
    }
}
