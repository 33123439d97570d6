//! Parsing: from a stored message to what a batch holds of it. Must not know what the pool has.

use bus_schema::{
    Envelope, Hash32, Stem,
    chain::ChainPoint,
    envelope::Stored,
    event::{
        Event,
        agent::AgentEvent,
        resource::{Changed, ResourceEvent},
        volume::VolumeEvent,
    },
    fact::{Fact, resource::ResourceFact},
    redrive::Redrive,
};

use super::{
    Batch, OwnerSlot,
    check::{Fault, check_changed, check_key, check_revision, check_token},
    fold::{Candidate, Change, Changes, Effect, Item, NoticeChange, Segment},
    runs::Standing,
};
use crate::{
    cell::Tail,
    pending::{DeadLetter, DeadMessage},
};

/// What an entry of a batch costs beside the bytes that came, for [`Batch::bytes`]: its place in a map
/// that is two thirds full, and what the allocator adds.
pub(super) const ENTRY_BYTES: usize = 220;
/// The event that is said again and again.
const HEARTBEAT: &str = "heartbeat";

impl Batch {
    /// Takes a message in, whose body has this hash; answers whether its loss would be covered, see [`crate::Seal::is_covered`].
    pub(super) fn take_in(&mut self, message: Stored<'_>, body: Hash32) -> bool {
        let taken = match (fact_subject(message.subject), Redrive::read(message.headers)) {
            (Some(subject), _) => {
                self.take_in_fact(message, subject).map(|()| false).map_err(|fault| (fault, None))
            }
            (None, Some(redrive)) => {
                self.take_in_copy(message, redrive, body).map(|()| false).map_err(|fault| (fault, None))
            }
            (None, None) => self.take_in_event(message, body),
        };
        taken.unwrap_or_else(|(fault, standing)| {
            self.bury(message, fault, standing);
            standing.is_some_and(|at| at.chain_seq > 0)
        })
    }

    /// Makes a dead letter.
    pub(super) fn bury(&mut self, message: Stored<'_>, fault: Fault, standing: Option<Standing>) {
        let fault = fault.bounded();
        let headers = message.headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let mut headers: Vec<(String, String)> = headers.collect();
        // A client library hands them over in no order, and what is kept of a message is the same at every reading.
        headers.sort_by(|left, right| left.0.cmp(&right.0));
        let letter = DeadLetter {
            stream: message.stream.to_owned(),
            seq: message.seq,
            stored_at: message.stored_at,
            reason: fault.reason,
            path: fault.path,
            at: standing.and_then(|at| self.place_of(at)),
            message: Some(DeadMessage {
                subject: message.subject.to_owned(),
                headers,
                body: message.body.to_vec(),
            }),
        };
        self.bytes += ENTRY_BYTES + message.body.len();
        let (seq, stored_at) = (message.seq, message.stored_at.unix_ms());
        let (run, chain_seq) = standing.map_or((None, 0), |at| (Some(at.run), at.chain_seq));
        self.segment().items.push(Item {
            seq,
            stored_at,
            run,
            chain_seq,
            effect: Effect::DeadLetter(letter),
        });
    }

    /// The place in a chain of what stands there.
    fn place_of(&self, at: Standing) -> Option<ChainPoint> {
        let chain = self.runs[at.run].chain.as_ref()?;
        Some(ChainPoint { epoch: chain.first.epoch, seq: at.chain_seq })
    }

    fn take_in_fact(
        &mut self,
        message: Stored<'_>,
        (stem, subject_token, name): FactSubject<'_>,
    ) -> Result<(), Fault> {
        let stem: Stem =
            stem.parse().map_err(|_| Fault::new("subject", format!("the stem {stem:?} is unknown")))?;
        let fact = Fact::decode(stem, name, message.body)?;
        check_token(subject_token, &fact.entity())?;
        let item = Item {
            seq: message.seq,
            stored_at: message.stored_at.unix_ms(),
            run: None,
            chain_seq: 0,
            effect: Effect::Fact(fact),
        };
        self.bytes += ENTRY_BYTES + message.body.len();
        let sweeps = matches!(&item.effect, Effect::Fact(Fact::Resource(ResourceFact::EmptyConfirmed(_))));
        self.segment().items.push(item);
        if sweeps {
            self.owners.iter_mut().for_each(OwnerSlot::end_runs);
            self.end_segment();
        }
        Ok(())
    }

    pub(super) fn take_in_event(
        &mut self,
        message: Stored<'_>,
        body: Hash32,
    ) -> Result<bool, (Fault, Option<Standing>)> {
        let envelope = read(message, body).map_err(|fault| (fault, None))?;
        let owner = self.owner(&envelope);
        let link = envelope.link.zip(envelope.hash);
        let standing = self.stand(owner, link, message);
        let is_beat = envelope.subject.stem == Stem::Agent && envelope.subject.event == HEARTBEAT;
        let taken = self.decode(&envelope, standing);
        taken.map(|()| standing.chain_seq > 0 || is_beat).map_err(|fault| (fault, Some(standing)))
    }

    pub(super) fn decode(&mut self, envelope: &Envelope<'_>, at: Standing) -> Result<(), Fault> {
        match Event::decode(envelope.subject.stem, envelope.subject.event, &envelope.data)? {
            Event::Resource(event) => self.take_in_resource(envelope, event, at),
            event => self.take_in_other(envelope, event, at),
        }
    }

    fn take_in_resource(
        &mut self,
        envelope: &Envelope<'_>,
        event: ResourceEvent<'_>,
        at: Standing,
    ) -> Result<(), Fault> {
        let token = envelope.subject.token;
        let counted = envelope.sync.is_none();
        let source_time = envelope.time.unix_ms();
        match event {
            ResourceEvent::Changed(changed) => {
                self.set_key(&changed.kind, &changed.id, token)?;
                check_changed(&changed)?;
                self.count(at, counted, changed.state.get().len() as u64);
                self.add_full(at, source_time, envelope, &changed);
            }
            ResourceEvent::Noticed(noticed) => {
                self.set_key(&noticed.kind, &noticed.id, token)?;
                check_revision(&noticed.revision)?;
                self.count(at, counted, noticed.size_bytes);
                let change = Change::Notice(Box::new(NoticeChange {
                    revision: noticed.revision.as_ref().into(),
                    state_hash: noticed.state_hash,
                    size_bytes: noticed.size_bytes,
                    tenant: envelope.tenant.as_ref().map(|tenant| tenant.to_string().into()),
                    since: at.stored_at,
                }));
                self.add_change(at, source_time, change);
            }
            ResourceEvent::Deleted(deleted) => {
                self.set_key(&deleted.kind, &deleted.id, token)?;
                self.count(at, counted, 0);
                self.add_change(at, source_time, Change::Deleted);
            }
            ResourceEvent::SyncOpened(opened) => {
                check_token(token, &opened.entity())?;
                self.add_item(at, Effect::Opened(opened));
            }
            ResourceEvent::SyncClosed(closed) => {
                check_token(token, &closed.entity())?;
                self.add_item(at, Effect::Closed(closed));
                // It resets counters of other owners too, which count by runs.
                self.owners.iter_mut().filter(|owner| owner.pool == at.pool).for_each(OwnerSlot::end_runs);
                self.end_segment();
            }
        }
        Ok(())
    }

    fn take_in_other(
        &mut self,
        envelope: &Envelope<'_>,
        event: Event<'_>,
        at: Standing,
    ) -> Result<(), Fault> {
        check_token(envelope.subject.token, &event.entity())?;
        let effect = match event {
            Event::Agent(event) => Effect::Agent(event),
            Event::Key(event) => Effect::Key(event),
            Event::Volume(VolumeEvent::WriteFailed(event)) => Effect::Volume(event),
            Event::Image(event) => Effect::Image(event),
            Event::Resource(_) => return Ok(()),
        };
        let compares = matches!(&effect, Effect::Agent(AgentEvent::Heartbeat(beat)) if beat.digest.is_some());
        self.add_item(at, effect);
        if compares {
            self.end_runs_of(at);
            self.end_segment();
        }
        Ok(())
    }

    /// Makes `kind/id` the key at hand.
    fn set_key(&mut self, kind: &str, id: &str, subject_token: &str) -> Result<(), Fault> {
        check_key(kind, id)?;
        self.key.clear();
        self.key.extend([kind, "/", id]);
        check_token(subject_token, &self.key)
    }

    fn add_full(&mut self, at: Standing, source_time: i64, envelope: &Envelope<'_>, changed: &Changed<'_>) {
        let tenant = envelope.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let labels = changed.labels.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let state = changed.state.get();
        let mut tail = self.spare_tail(at);
        // Not twice as much as needed: a batch may hold a hundred thousand of these.
        tail.reserve_exact(Tail::FIXED_BYTES + tenant.len() + changed.revision.len() + state.len());
        Tail::write(&mut tail, &tenant, labels, &changed.revision, state);
        let state_at = (tail.len() - state.len()) as u32;
        self.add_change(at, source_time, Change::Full { tail, state_at });
    }

    /// The buffer of the state that the next one will make pointless, to write over.
    fn spare_tail(&mut self, at: Standing) -> Vec<u8> {
        let key = std::mem::take(&mut self.key);
        let known = self.segment().rows.get_mut(at.pool).and_then(|rows| rows.get_mut(key.as_str()));
        let mut spare = match known {
            Some(Changes { last: Candidate { run, change: Change::Full { tail, .. }, .. }, .. })
                if *run as usize == at.run =>
            {
                std::mem::take(tail)
            }
            _ => Vec::new(),
        };
        self.bytes = self.bytes.saturating_sub(spare.len());
        spare.clear();
        self.key = key;
        spare
    }

    fn add_change(&mut self, at: Standing, source_time: i64, change: Change) {
        let Standing { pool, run, chain_seq, seq, stored_at } = at;
        let candidate = Candidate { run: run as u32, chain_seq, seq, stored_at, source_time, change };
        let pools = self.pools.len();
        let key = std::mem::take(&mut self.key);
        let segment = self.segment();
        if segment.rows.len() < pools {
            segment.rows.resize_with(pools, Default::default);
        }
        let rows = &mut segment.rows[pool];
        let (before, after) = match rows.get_mut(key.as_str()) {
            Some(changes) => {
                let before = changes.bytes();
                changes.add(candidate);
                (before, changes.bytes())
            }
            None => {
                let size = ENTRY_BYTES + key.len() + candidate.change.bytes();
                rows.insert(key.as_str().into(), Changes { earlier: Vec::new(), last: candidate });
                (0, size)
            }
        };
        self.bytes = (self.bytes + after).saturating_sub(before);
        self.key = key;
    }

    fn add_item(&mut self, at: Standing, effect: Effect) {
        let Standing { run, chain_seq, seq, stored_at, .. } = at;
        self.bytes += ENTRY_BYTES;
        self.segment().items.push(Item { seq, stored_at, run: Some(run), chain_seq, effect });
    }

    fn end_runs_of(&mut self, at: Standing) {
        let owner = self.runs[at.run].owner;
        self.owners[owner].end_runs();
    }

    pub(super) fn segment(&mut self) -> &mut Segment {
        if self.segments.last().is_none_or(|segment| segment.closed) {
            self.segments.push(Segment::default());
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    fn end_segment(&mut self) {
        self.segment().closed = true;
    }
}

/// Reads a message, whose body has this hash, as an event of a chain or of none.
pub(super) fn read(message: Stored<'_>, body: Hash32) -> Result<Envelope<'_>, Fault> {
    let envelope = Envelope::read_with(message, || body)?;
    if envelope.link.is_some_and(|link| link.at.seq == 1 && link.prev != Hash32::ZERO) {
        let reason = "the first event of an epoch names an event before it; its farprev is 64 zeros";
        return Err(Fault::new("farprev", reason));
    }
    Ok(envelope)
}

/// Stem, token and name of a fact.
type FactSubject<'a> = (&'a str, &'a str, &'a str);

/// The parts of `far.v1.<target>.tgt.<stem>.<token>.<event>`; none for another subject.
fn fact_subject(subject: &str) -> Option<FactSubject<'_>> {
    let mut parts = subject.strip_prefix("far.v1.")?.split('.');
    let (_target, tgt) = (parts.next()?, parts.next()?);
    let found = (parts.next()?, parts.next()?, parts.next()?);
    (tgt == "tgt" && parts.next().is_none()).then_some(found)
}
