//! Answers `agent.hello`: whether what the pool has of an agent is a part of the agent's own chain.

use std::{sync::Arc, time::Duration};

use bus::{Bus, BusError, Requests};
use bus_schema::{
    Hash32, Name, Stem,
    chain::ChainPoint,
    command::agent::{HELLO, Hello, HelloReply, HelloVerdict},
    event::agent::CheckpointSeen,
    fact::log::LogFact,
    subject,
};
use projector::{Owner, Reader};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::applied::Progress;
use crate::error::ConsumersError;

/// How long an answer waits for the pool to take in what the log holds: an agent waits no longer itself.
const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(2);
/// Greetings that wait for the pool side by side; the others wait their turn in the subscription.
const ANSWERS_MAX: usize = 256;

/// What an agent shall do, by what the pool has of it. `caught_up`: the pool has read all that the log held
/// when the greeting came. None = nothing can be said yet; the agent greets again.
pub fn answer(hello: &Hello, owner: Option<&Owner>, caught_up: bool) -> Option<HelloReply> {
    let last = owner.and_then(|owner| owner.at.zip(owner.hash));
    let retired = owner.is_some_and(|owner| owner.has_retired(hello.at.epoch));
    let forked =
        owner.is_some_and(|owner| owner.fork.as_ref().is_some_and(|fork| fork.at.epoch == hello.at.epoch));
    let known = last.is_some_and(|(at, _)| at.epoch == hello.at.epoch);
    let unknown = !known && hello.acked.unwrap_or(hello.at).seq > 0;
    let verdict = if retired || forked || last.is_some_and(|last| is_behind(hello, last)) {
        HelloVerdict::Rebase
    } else if unknown {
        // A log took events of this epoch. A pool that has read everything and has none of them stands on
        // another log; one that is still reading may find them.
        caught_up.then_some(HelloVerdict::Rebase)?
    } else {
        HelloVerdict::Continue
    };
    Some(HelloReply { last, verdict, checkpoint: None })
}

/// Whether the pool has something of this epoch that the agent does not have (any more).
fn is_behind(hello: &Hello, (at, hash): (ChainPoint, Hash32)) -> bool {
    at.epoch == hello.at.epoch && (at.seq > hello.at.seq || (at.seq == hello.at.seq && hash != hello.hash))
}

/// Serves the agents of one site.
pub(crate) struct Greeter {
    /// The bus.
    pub bus: Bus,
    /// The target.
    pub target: Name,
    /// The site.
    pub site: Name,
    /// The pool.
    pub reader: Reader,
    /// How far the pool is.
    pub progress: Progress,
}

impl Greeter {
    /// Opens the subject of every cluster of the site; when it returns, an agent finds somebody.
    /// Errors: the bus.
    pub(crate) async fn open(&self) -> Result<Requests, BusError> {
        // `*` stands where the cluster's name would.
        self.bus.serve(&format!("{}.{}.cmd.*.{}.{HELLO}", subject::ROOT, self.site, Stem::Agent)).await
    }

    /// Answers until `shutdown`.
    pub(crate) async fn run(
        self,
        mut requests: Requests,
        shutdown: CancellationToken,
    ) -> Result<(), ConsumersError> {
        let (greeter, mut answers) = (Arc::new(self), JoinSet::new());
        loop {
            let request = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = answers.join_next() => {
                    ended.map_err(|source| ConsumersError::Task { task: "hello", source })?;
                    continue;
                }
                request = requests.next(), if answers.len() < ANSWERS_MAX => request,
            };
            let Some(request) = request else { return Ok(()) };
            let greeter = Arc::clone(&greeter);
            answers.spawn(async move {
                if let Err(error) = greeter.answer(&request).await {
                    tracing::warn!(%error, subject = request.subject, "hello not answered; the agent goes on without");
                }
            });
        }
    }

    async fn answer(&self, request: &bus::Request) -> Result<(), ConsumersError> {
        let hello: Hello = match serde_json::from_slice(&request.body) {
            Ok(hello) => hello,
            Err(error) => {
                tracing::warn!(%error, subject = request.subject, "a hello cannot be read; is the agent of another version?");
                return Ok(());
            }
        };
        // Without this, an agent that restarted fast would look as if it were ahead of its own events.
        let stream = subject::site_stream(&self.site);
        let last_seq = self.bus.stream_state(&stream).await?.last_seq;
        let late = self.progress.passes(&stream, last_seq, CATCH_UP_WAIT_MAX).await;
        if let Err(error) = &late {
            tracing::debug!(%error, "answer a hello from what the pool has");
        }
        let owner = self.reader.owner(&hello.source.pool, &hello.source.to_string())?;
        let Some(reply) = answer(&hello, owner.value.as_ref(), late.is_ok()) else {
            tracing::debug!(source = %hello.source, "the pool is still reading; the agent greets again");
            return Ok(());
        };
        let reply = HelloReply { checkpoint: self.last_checkpoint()?, ..reply };
        if reply.verdict == HelloVerdict::Rebase {
            tracing::warn!(source = %hello.source, at = ?hello.at, last = ?reply.last.map(|(at, _)| at), "an agent shall start a new epoch and send everything");
        } else {
            tracing::debug!(source = %hello.source, "an agent said hello");
        }
        Ok(request.reply(&reply).await?)
    }

    /// The last checkpoint that was stated, for the agent to remember.
    fn last_checkpoint(&self) -> Result<Option<CheckpointSeen>, ConsumersError> {
        let last = self.reader.latest_fact("checkpoint", self.target.as_str())?.value;
        let Some(LogFact::Checkpoint(last)) = last.map(|record| record.fact) else { return Ok(None) };
        let (target, number) = (self.target.clone(), last.number);
        let hash = last
            .hash()
            .map_err(|source| ConsumersError::Encode { fact: "log.checkpoint".to_owned(), source })?;
        Ok(Some(CheckpointSeen { target, number, hash }))
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::{Epoch, Timestamp, digest::Digest};
    use projector::SinceSync;

    use super::*;

    fn owner(epoch: u64, seq: u64, hash: &str) -> Owner {
        Owner {
            pool: "local/dc1".parse().unwrap(),
            source: "/local/dc1/resource/inv".to_owned(),
            agent: None,
            at: Some(ChainPoint { epoch: Epoch(epoch), seq }),
            hash: Some(Hash32::of(hash.as_bytes())),
            retired: vec![ChainPoint { epoch: Epoch(1), seq: 5 }],
            digest: Digest { root: Default::default(), count: 0 },
            applied: 0,
            repeats: 0,
            refused: 0,
            unchained: 0,
            last_event_at: Timestamp::default(),
            last_heartbeat: None,
            proof: None,
            gap: None,
            fork: None,
            windows: vec![],
            held_window: None,
            last_sync: None,
            last_full: None,
            last_first: None,
            since_sync: SinceSync::default(),
        }
    }

    fn hello(epoch: u64, seq: u64, acked: u64, hash: &str) -> Hello {
        let at = |seq| ChainPoint { epoch: Epoch(epoch), seq };
        let source = "/local/dc1/resource/inv".parse().unwrap();
        Hello { source, at: at(seq), hash: Hash32::of(hash.as_bytes()), acked: Some(at(acked)) }
    }

    fn verdict(epoch: u64, seq: u64, hash: &str) -> HelloVerdict {
        answer(&hello(epoch, seq, 0, hash), Some(&owner(2, 10, "ten")), false).unwrap().verdict
    }

    #[test]
    fn an_agent_that_the_pool_follows_goes_on() {
        assert_eq!(verdict(2, 10, "ten"), HelloVerdict::Continue);
        assert_eq!(verdict(2, 12, "twelve"), HelloVerdict::Continue, "it has more than the pool");
        assert_eq!(verdict(3, 1, "new"), HelloVerdict::Continue, "a new epoch");
    }

    #[test]
    fn an_agent_from_an_old_backup_starts_a_new_epoch() {
        assert_eq!(verdict(2, 9, "nine"), HelloVerdict::Rebase, "it is behind");
        assert_eq!(verdict(2, 10, "other"), HelloVerdict::Rebase, "another branch");
        assert_eq!(verdict(1, 500, "old"), HelloVerdict::Rebase, "a retired epoch");
    }

    #[test]
    fn an_agent_whose_chain_has_forked_starts_a_new_epoch() {
        let mut forked = owner(2, 10, "ten");
        let at = ChainPoint { epoch: Epoch(2), seq: 11 };
        let fork = projector::Fork { at, applied: Hash32::ZERO, refused: Hash32::ZERO, place: String::new() };
        forked.fork = Some(fork);
        let reply = answer(&hello(2, 11, 11, ""), Some(&forked), false).unwrap();
        assert_eq!(reply.verdict, HelloVerdict::Rebase);
    }

    #[test]
    fn an_agent_that_has_told_nothing_yet_goes_on() {
        let goes_on = Some(HelloReply { last: None, verdict: HelloVerdict::Continue, checkpoint: None });
        assert_eq!(answer(&hello(9, 4, 0, ""), None, true), goes_on, "its events still wait for the log");
        assert_eq!(answer(&hello(9, 0, 0, ""), None, true), goes_on);
    }

    #[test]
    fn an_agent_whose_events_are_not_in_the_log_starts_a_new_epoch() {
        let rebase = |reply: Option<HelloReply>| reply.unwrap().verdict == HelloVerdict::Rebase;
        assert!(rebase(answer(&hello(9, 4, 4, ""), None, true)), "log and pool were made anew");
        assert!(rebase(answer(&Hello { acked: None, ..hello(9, 4, 0, "") }, None, true)));
        assert!(
            rebase(answer(&hello(3, 4, 4, ""), Some(&owner(2, 10, "ten")), true)),
            "an older log came back"
        );
        assert_eq!(answer(&hello(9, 4, 4, ""), None, false), None, "the pool may find them yet");
    }
}
