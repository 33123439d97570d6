//! The commands of the target: taken in, guarded by the lease token, answered. What takes time (reading
//! the source) runs beside the agent; its effect and its answer come from the owner.

use bus::{Request, Requests};
use bus_schema::{
    Source,
    command::{
        agent::ReplayReply,
        resource::{KEYS_MAX, ReadReply, ReadRequest, SyncReply, SyncRequest},
    },
};
use serde::Serialize;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Agent, Lane, now,
    turn::{Done, Note},
};
use crate::{
    ProducersError,
    answer::{self, Ask, Tenure},
    ledger::marks,
    resource::{Found, Scope, SourceError, Wanted},
    sequencer::ReadFailure,
};

/// The lease is one for all clusters of the agent.
const ALL: &str = "";
/// Readings of single resources at once, per cluster: each may be a whole command.
const READS_MAX: usize = 4;
/// Reads that wait for those, per cluster; who asked waits no longer than it takes to work them off.
const READS_WAITING_MAX: usize = 64;

/// A command and the way back.
#[derive(Debug)]
pub(super) struct Asked {
    ask: Ask,
    request: Request,
}

/// Why single resources are read.
#[derive(Debug)]
pub(super) enum Purpose {
    /// For a sync that names them.
    Sync(String),
    /// For a read, to be answered.
    Read(ReadRequest, Request),
}

/// Hears the commands for one cluster.
pub(super) async fn listen(mut requests: Requests, own: Source, lane: usize, notes: mpsc::Sender<Note>) {
    while let Some(request) = requests.next().await {
        let Some(ask) = Ask::read(&request, &own) else { continue };
        let asked = Box::new(Asked { ask, request });
        if notes.send(Note::Asked(lane, asked)).await.is_err() {
            return;
        }
    }
}

impl Agent {
    /// Answers a command, or starts what its answer needs.
    pub(super) fn answer(&mut self, lane: usize, asked: Asked) -> Result<(), ProducersError> {
        let Asked { ask, request } = asked;
        let stale = match ask.tenure() {
            Some(tenure) => self.stale_lease(tenure)?,
            None => None,
        };
        match (ask, stale) {
            (Ask::Sync(_), Some(reason)) => self.reply(request, SyncReply::Refused { reason }),
            (Ask::Read(_), Some(reason)) => self.reply(request, ReadReply::Refused { reason }),
            (Ask::Sync(sync), None) => {
                let reply = match self.in_vain(lane, &sync) {
                    Some(reason) => SyncReply::Refused { reason },
                    None => self.accept(lane, &sync)?,
                };
                self.reply(request, reply);
            }
            (Ask::Read(read), None) => match unreadable(&read, self.lanes[lane].reads.len()) {
                Some(reason) => self.reply(request, ReadReply::Refused { reason }),
                None => {
                    self.lanes[lane].reads.push_back((read, request));
                    self.start_reads(lane)?;
                }
            },
            (Ask::Replay(_), Some(reason)) => {
                self.reply(request, ReplayReply::Refused { reason, gone: false });
            }
            (Ask::Replay(replay), None) => self.replay(lane, &replay, request)?,
            (Ask::Digest(digest), _) => {
                let reply = self.lanes[lane].cluster.sequencer.digests(&digest)?;
                if let Some(reply) = reply {
                    self.reply(request, reply);
                }
            }
        }
        Ok(())
    }

    /// A target that lost its lease may still be talking; remembered across restarts.
    fn stale_lease(&self, tenure: Tenure) -> Result<Option<String>, ProducersError> {
        let seen: Option<Tenure> = self.ledger.reading()?.mark(ALL, marks::LEASE)?;
        if let Some(reason) = seen.and_then(|seen| tenure.stale(&seen)) {
            return Ok(Some(reason));
        }
        if seen != Some(tenure) {
            self.ledger.change(|writing| writing.put_mark(ALL, marks::LEASE, &tenure))?;
        }
        Ok(None)
    }

    /// Why an answer would not be taken in: the target follows another epoch of this agent. It is greeted,
    /// and its answer decides; a target that answers no greetings is sent everything.
    fn in_vain(&mut self, lane: usize, sync: &SyncRequest) -> Option<String> {
        let Lane { cluster, greeting, .. } = &mut self.lanes[lane];
        let (chain, known) = (cluster.sequencer.chain(), sync.update_info.since);
        let is_new = !sync.rebase && cluster.sequencer.scope_of(&sync.sync_id).is_none();
        if !is_new || chain.acked_seq == 0 || known.is_some_and(|known| known.epoch == chain.epoch) {
            return None;
        }
        greeting.hurry();
        let followed = known.filter(|_| greeting.answers())?.epoch;
        Some(format!(
            "the target follows epoch {followed} of this agent, which is in epoch {} and asks what to do; ask again in a moment",
            chain.epoch
        ))
    }

    fn accept(&mut self, lane: usize, sync: &SyncRequest) -> Result<SyncReply, ProducersError> {
        let cluster = &mut self.lanes[lane].cluster;
        if !cluster.greeted {
            let reason = "the agent is just starting; ask again in a moment".to_owned();
            return Ok(SyncReply::Refused { reason });
        }
        if let Some(reason) = cluster.source_trouble.clone() {
            cluster.want(Scope::Everything, Instant::now());
            return Ok(SyncReply::Refused { reason });
        }
        Ok(cluster.sequencer.accept(sync, now())?)
    }

    pub(super) fn reply<R: Serialize + Send + Sync + 'static>(&mut self, request: Request, reply: R) {
        self.tasks.spawn(async move {
            if let Err(error) = request.reply(&reply).await {
                tracing::debug!(%error, subject = request.subject, "an answer did not arrive; the target asks again");
            }
            Done::Replied
        });
    }

    /// Starts the reads that wait, as many as may run at once.
    fn start_reads(&mut self, lane: usize) -> Result<(), ProducersError> {
        while self.lanes[lane].cluster.gets < READS_MAX {
            let Some((read, request)) = self.lanes[lane].reads.pop_front() else { break };
            let wanted = self.lanes[lane].cluster.sequencer.wanted(&read.keys)?;
            self.get(lane, Purpose::Read(read, request), wanted);
        }
        Ok(())
    }

    /// Reads single resources beside the agent. Whatever happens to the reading, its end is reported.
    pub(super) fn get(&mut self, lane: usize, purpose: Purpose, wanted: Vec<Wanted>) {
        let cluster = &mut self.lanes[lane].cluster;
        cluster.gets += 1;
        let inventory = std::sync::Arc::clone(&cluster.inventory);
        self.tasks.spawn_blocking(move || {
            let reading = std::panic::AssertUnwindSafe(|| inventory.get(&wanted));
            let found = std::panic::catch_unwind(reading).unwrap_or_else(|_| Err(SourceError::broke_off()));
            Done::Got(lane, purpose, wanted, found)
        });
    }

    /// Takes in what a reading of single resources found.
    pub(super) fn got(
        &mut self,
        lane: usize,
        purpose: Purpose,
        wanted: &[Wanted],
        found: Result<Found, SourceError>,
    ) -> Result<(), ProducersError> {
        let cluster = &mut self.lanes[lane].cluster;
        cluster.gets -= 1;
        cluster.overtaken(wanted.iter().map(|one| one.key.clone()));
        let sync = match &purpose {
            Purpose::Sync(id) => Some(id.as_str()),
            Purpose::Read(..) => None,
        };
        let outcome = match &found {
            Err(error) => Err(error.to_string()),
            Ok(found) => match cluster.sequencer.observe(wanted, found, sync, now()) {
                Ok(()) => Ok(found),
                Err(ReadFailure::Refused(reason)) => Err(reason),
                Err(ReadFailure::Ledger(error)) => return Err(error.into()),
            },
        };
        match (purpose, outcome) {
            (Purpose::Sync(id), Ok(_)) => cluster.sequencer.close_sync(&id, now())?,
            (Purpose::Sync(id), Err(reason)) => {
                cluster.sequencer.abandon_sync(&id)?;
                tracing::warn!(sync = id, reason, "the sync is given up: its resources cannot be read");
            }
            (Purpose::Read(read, request), Ok(found)) => {
                let reply = answer::read_reply(&read, found, &cluster.sequencer);
                self.reply(request, reply);
            }
            (Purpose::Read(_, request), Err(reason)) => self.reply(request, ReadReply::Refused { reason }),
        }
        self.start_reads(lane)
    }
}

/// Why a read is not even tried.
fn unreadable(read: &ReadRequest, waiting: usize) -> Option<String> {
    if read.keys.len() > KEYS_MAX {
        return Some(format!(
            "{} resources in one request, {KEYS_MAX} are possible; ask for fewer",
            read.keys.len()
        ));
    }
    (waiting >= READS_WAITING_MAX)
        .then(|| format!("{waiting} reads of this cluster are waiting already; ask again in a moment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_have_a_limit_in_number_and_size() {
        let read = |keys: usize| ReadRequest {
            agent: "inv".parse().unwrap(),
            keys: (0..keys).map(|n| format!("Vm/{n}").parse().unwrap()).collect(),
            lease: 1,
            lease_log: None,
        };
        assert_eq!(unreadable(&read(KEYS_MAX), READS_WAITING_MAX - 1), None);
        assert!(unreadable(&read(KEYS_MAX + 1), 0).unwrap().contains("501 resources"));
        assert!(unreadable(&read(1), READS_WAITING_MAX).unwrap().contains("waiting"));
    }
}
