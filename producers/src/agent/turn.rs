//! A turn of the agent: what happened, what it changes, and what should be under way now.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bus::LinkState;
use bus_schema::{chain::ChainPoint, command::agent::HelloReply, event::resource::SyncScope};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Agent, Lane, command, now};
use crate::{
    ProducersError,
    cluster::Part,
    resource::{Dirty, Found, Scope, SourceError, Wanted},
    sender::Landing,
    sequencer::Shipment,
};

/// What came in from outside.
#[derive(Debug)]
pub(super) enum Note {
    /// A command for a lane.
    Asked(usize, Box<command::Asked>),
    /// What changed in a lane's source.
    Dirty(usize, Scope),
}

/// What a task came back with.
#[derive(Debug)]
pub(super) enum Done {
    /// A shipment.
    Landed(usize, Shipment, Landing),
    /// Single resources.
    Got(usize, command::Purpose, Vec<Wanted>, Result<Found, SourceError>),
    /// The place that was told in a greeting, and the target's answer, if any.
    Greeted(usize, ChainPoint, Option<HelloReply>),
    /// A heartbeat.
    Beaten(usize, bool),
    /// A page of a replay: its last event, or why it did not land.
    Replayed(usize, Result<u64, String>),
    /// A reply was sent.
    Replied,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    Stop,
    Link(LinkState),
    Note(Note),
    Part(usize, Part),
    Done(Done),
    Due,
}

/// Tells the agent when a source changed and became quiet.
pub(super) async fn watch(dirty: Arc<Dirty>, lane: usize, notes: mpsc::Sender<Note>) {
    loop {
        let scope = dirty.settled().await;
        if notes.send(Note::Dirty(lane, scope)).await.is_err() {
            return;
        }
    }
}

impl Agent {
    pub(super) async fn select(
        &mut self,
        shutdown: &CancellationToken,
        noted: &mut mpsc::Receiver<Note>,
        deadline: Instant,
    ) -> Event {
        let stopping = self.stopping.is_some();
        let (lanes, link_up) = (&mut self.lanes, self.link_up);
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !stopping => Event::Stop,
            // The sender of the link's state lives as long as the bus, which the agent holds.
            Ok(()) = self.link.changed() => Event::Link(*self.link.borrow_and_update()),
            Some(done) = self.tasks.join_next() => match done {
                Ok(done) => Event::Done(done),
                Err(error) => {
                    tracing::error!(%error, "a task of the agent ended by itself; this is a defect, please report it");
                    Event::Due
                }
            },
            Some(note) = noted.recv(), if !stopping => Event::Note(note),
            (lane, part) = next_part(lanes, link_up), if !stopping => Event::Part(lane, part),
            () = tokio::time::sleep_until(deadline) => Event::Due,
        }
    }

    pub(super) fn apply(&mut self, event: Event) -> Result<(), ProducersError> {
        match event {
            Event::Due => {}
            Event::Stop => {
                self.stopping = Some(Instant::now() + self.drain);
                self.lanes.iter().for_each(|lane| lane.cluster.inventory.stop());
                self.break_off_replays("the agent stops; ask again when it runs");
            }
            Event::Link(state) => {
                self.link_up = matches!(state, LinkState::Up { .. });
                for lane in &mut self.lanes {
                    lane.outlet.link_changed();
                    // Whoever is at the other end now may have another log.
                    lane.greeting.hurry();
                }
            }
            Event::Note(Note::Dirty(lane, scope)) => self.lanes[lane].cluster.want(scope, Instant::now()),
            Event::Note(Note::Asked(lane, asked)) => self.answer(lane, *asked)?,
            Event::Part(lane, part) => self.lanes[lane].cluster.take(part, now(), Instant::now())?,
            Event::Done(Done::Landed(lane, shipment, landing)) => self.landed(lane, &shipment, landing)?,
            Event::Done(Done::Got(lane, purpose, wanted, found)) => {
                self.got(lane, purpose, &wanted, found)?
            }
            Event::Done(Done::Greeted(lane, told, reply)) => self.greeted(lane, told, reply)?,
            Event::Done(Done::Beaten(lane, heard)) => self.beaten(lane, heard),
            Event::Done(Done::Replayed(lane, landed)) => self.replayed(lane, landed)?,
            Event::Done(Done::Replied) => {}
        }
        Ok(())
    }

    /// What should be under way now? Starts it, and says when to ask again at the latest.
    pub(super) fn turn(&mut self) -> Result<Instant, ProducersError> {
        let at = Instant::now();
        let mut next = self.stopping.unwrap_or(at + self.heartbeat);
        for lane in 0..self.lanes.len() {
            if !self.lanes[lane].cluster.greeted {
                continue;
            }
            self.open_window(lane)?;
            if self.lanes[lane].cluster.sequencer.close_more(now())? {
                next = at;
            }
            self.ship(lane, at)?;
            if self.stopping.is_some() {
                let waits = self.lanes[lane].cluster.sequencer.waiting().events > 0;
                if !waits && !self.lanes[lane].is_drained() {
                    self.say_stopped(lane)?;
                    self.ship(lane, at)?;
                }
            } else {
                self.fetch_named(lane)?;
                self.lanes[lane].cluster.start_scan(at);
                self.greet_again(lane, at);
                next = next.min(self.beat(lane, at)?);
            }
            let Lane { cluster, outlet, greeting, .. } = &self.lanes[lane];
            next = next.min(outlet.due(self.link_up).unwrap_or(next));
            if self.stopping.is_none() {
                next = next.min(cluster.due().unwrap_or(next));
                next = next.min(greeting.due().filter(|_| self.link_up).unwrap_or(next));
            }
        }
        Ok(next)
    }

    /// Syncs of named resources read just these.
    fn fetch_named(&mut self, lane: usize) -> Result<(), ProducersError> {
        let cluster = &mut self.lanes[lane].cluster;
        let mut under_way = cluster.sequencer.syncs_under_way().into_iter();
        let named =
            under_way.find(|(id, scope)| *scope == SyncScope::Keys && !cluster.sequencer.is_closing(id));
        let Some((id, _)) = named.filter(|_| cluster.gets == 0) else { return Ok(()) };
        let keys = cluster.sequencer.sync(&id).map(|sync| sync.keys.clone()).unwrap_or_default();
        let wanted = cluster.sequencer.wanted(&keys)?;
        self.get(lane, command::Purpose::Sync(id), wanted);
        Ok(())
    }
}

/// The next part of any lane's reading that may be taken in now.
async fn next_part(lanes: &mut [Lane], link_up: bool) -> (usize, Part) {
    poll_fn(|context| {
        for (index, lane) in lanes.iter_mut().enumerate() {
            if !lane.cluster.takes_parts(link_up) {
                continue;
            }
            let Some(parts) = &mut lane.cluster.parts else { continue };
            if let Poll::Ready(part) = parts.poll_recv(context) {
                // A reading that ends without a word has panicked.
                return Poll::Ready((index, part.unwrap_or_else(panicked)));
            }
        }
        Poll::Pending
    })
    .await
}

fn panicked() -> Part {
    Part::End(Err(SourceError::broke_off()))
}
