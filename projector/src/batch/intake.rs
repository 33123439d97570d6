//! Parsing: from a stored message to what a batch holds of it. Must not know what the pool has.

use bus_schema::{
    Envelope, ResourceKey, Revision, Stem, canonical,
    chain::Link,
    envelope::Stored,
    event::{
        DecodeError, Event,
        agent::AgentEvent,
        resource::{Changed, ResourceEvent},
        volume::VolumeEvent,
    },
    fact::Fact,
    hash::Hash32,
    id::{KIND_BYTES_MAX, RESOURCE_ID_BYTES_MAX, REVISION_BYTES_MAX},
    token,
};

use super::{
    Batch, OwnerSlot, PoolSlot,
    fold::{Candidate, Change, Changes, Effect, Item, Run, RunChain, Segment, Step},
};
use crate::{
    cell::Tail,
    pending::{DeadLetter, DeadMessage},
};

/// Most labels of a resource, so that one event cannot make an index of its own.
const LABELS_MAX: usize = 256;
/// Longest label name or value, in bytes.
const LABEL_BYTES_MAX: usize = 1024;
/// What an entry of a batch costs beside the bytes that came, for [`Batch::bytes`]; measured roughly.
const ENTRY_BYTES: usize = 160;
/// What an event that leaves nothing but a step costs.
const STEP_BYTES: usize = size_of::<Step>();

/// Why a message cannot be taken in.
struct Fault {
    reason: String,
    path: String,
}

impl Fault {
    fn new(path: &str, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), path: path.to_owned() }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self { path: error.path().to_owned(), reason: error.to_string() }
    }
}

/// Where an event stands.
#[derive(Clone, Copy)]
struct Standing {
    pool: usize,
    run: usize,
    /// 0 for an unchained event.
    chain_seq: u64,
    seq: u64,
    stored_at: i64,
}

impl Batch {
    pub(super) fn take_in(&mut self, message: Stored<'_>) {
        let taken = match fact_subject(message.subject) {
            Some(subject) => self.take_in_fact(message, subject).map_err(|fault| (fault, None)),
            None => self.take_in_event(message),
        };
        if let Err((fault, standing)) = taken {
            self.bury(message, fault, standing);
        }
    }

    /// Makes a dead letter.
    fn bury(&mut self, message: Stored<'_>, fault: Fault, standing: Option<Standing>) {
        let letter = DeadLetter {
            stream: message.stream.to_owned(),
            seq: message.seq,
            reason: fault.reason,
            path: fault.path,
            message: Some(DeadMessage {
                subject: message.subject.to_owned(),
                headers: message
                    .headers
                    .iter()
                    .map(|(name, value)| ((*name).into(), (*value).into()))
                    .collect(),
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
        let sweeps = matches!(
            &item.effect,
            Effect::Fact(Fact::Resource(bus_schema::fact::resource::ResourceFact::EmptyConfirmed(_)))
        );
        self.segment().items.push(item);
        if sweeps {
            self.owners.iter_mut().for_each(OwnerSlot::end_runs);
            self.end_segment();
        }
        Ok(())
    }

    fn take_in_event(&mut self, message: Stored<'_>) -> Result<(), (Fault, Option<Standing>)> {
        let envelope = Envelope::read(message)
            .map_err(|error| (Fault { reason: error.reason, path: error.path }, None))?;
        if envelope.link.is_some_and(|link| link.at.seq == 1 && link.prev != Hash32::ZERO) {
            let reason = "the first event of an epoch names an event before it; its farprev is 64 zeros";
            return Err((Fault::new("farprev", reason), None));
        }
        let owner = self.owner(&envelope);
        let link = envelope.link.zip(envelope.hash);
        let standing = self.stand(owner, link, message);
        let (stem, event) = (envelope.subject.stem, envelope.subject.event);
        let decoded = Event::decode(stem, event, &envelope.data);
        let taken = match decoded {
            Ok(Event::Resource(event)) => self.take_in_resource(&envelope, event, standing),
            Ok(event) => self.take_in_other(&envelope, event, standing),
            Err(error) => Err(error.into()),
        };
        taken.map_err(|fault| (fault, Some(standing)))
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
                let change = Change::Notice {
                    revision: noticed.revision.as_ref().into(),
                    state_hash: noticed.state_hash,
                    size_bytes: noticed.size_bytes,
                    tenant: envelope.tenant.as_ref().map(|tenant| tenant.to_string().into()),
                    since: at.stored_at,
                };
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
                self.end_runs_of(at);
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
        let fits =
            (1..=KIND_BYTES_MAX).contains(&kind.len()) && (1..=RESOURCE_ID_BYTES_MAX).contains(&id.len());
        if !fits || !is_plain(kind) || !is_plain(id) || kind.bytes().any(|b| b == b'/') {
            ResourceKey::new(kind, id).map_err(|error| Fault::new("$", error.to_string()))?;
        }
        self.key.clear();
        self.key.extend([kind, "/", id]);
        check_token(subject_token, &self.key)
    }

    fn add_full(&mut self, at: Standing, source_time: i64, envelope: &Envelope<'_>, changed: &Changed<'_>) {
        let tenant = envelope.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let labels = changed.labels.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let state = changed.state.get();
        let mut tail = self.spare_tail(at);
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
                if *run == at.run =>
            {
                std::mem::take(tail)
            }
            _ => Vec::new(),
        };
        spare.clear();
        self.key = key;
        spare
    }

    fn add_change(&mut self, at: Standing, source_time: i64, change: Change) {
        let Standing { pool, run, chain_seq, seq, stored_at } = at;
        let candidate = Candidate { run, chain_seq, seq, stored_at, source_time, change };
        let pools = self.pools.len();
        let key = std::mem::take(&mut self.key);
        let segment = self.segment();
        if segment.rows.len() < pools {
            segment.rows.resize_with(pools, Default::default);
        }
        let rows = &mut segment.rows[pool];
        match rows.get_mut(key.as_str()) {
            Some(changes) => changes.add(candidate),
            None => {
                let size = ENTRY_BYTES + key.len() + candidate.change.bytes();
                rows.insert(key.as_str().into(), Changes { earlier: Vec::new(), last: candidate });
                self.bytes += size;
            }
        }
        self.key = key;
    }

    fn add_item(&mut self, at: Standing, effect: Effect) {
        let Standing { run, chain_seq, seq, stored_at, .. } = at;
        self.bytes += ENTRY_BYTES;
        self.segment().items.push(Item { seq, stored_at, run: Some(run), chain_seq, effect });
    }

    /// Counts a change towards the thresholds (R6).
    fn count(&mut self, at: Standing, counted: bool, bytes: u64) {
        if !counted {
            return;
        }
        let run = &mut self.runs[at.run];
        match run.chain.as_mut().and_then(|chain| chain.steps.last_mut()) {
            Some(step) => step.counted = Some(bytes),
            None => {
                run.changes += 1;
                run.change_bytes += bytes;
            }
        }
    }

    /// Puts an event into its owner's chain: behind the run at hand, or at the start of a new one.
    fn stand(&mut self, owner: usize, link: Option<(Link, Hash32)>, message: Stored<'_>) -> Standing {
        let (seq, stored_at) = (message.seq, message.stored_at.unix_ms());
        let run = match link {
            None => self.unchained_run(owner, stored_at),
            Some((link, hash)) => self.chained_run(owner, link, Step { hash, seq, counted: None }, stored_at),
        };
        let slot = &mut self.runs[run];
        slot.last_stored_at = stored_at;
        if link.is_none() {
            slot.unchained += 1;
        }
        let chain_seq = link.map_or(0, |(link, _)| link.at.seq);
        self.bytes += STEP_BYTES;
        Standing { pool: self.owners[owner].pool, run, chain_seq, seq, stored_at }
    }

    fn chained_run(&mut self, owner: usize, link: Link, step: Step, stored_at: i64) -> usize {
        let current = self.owners[owner].chained.and_then(|run| Some((run, self.runs[run].chain.as_mut()?)));
        if let Some((run, chain)) = current
            && chain.first.epoch == link.at.epoch
            && chain.last_seq() + 1 == link.at.seq
            && chain.steps.last().is_some_and(|last| last.hash == link.prev)
        {
            chain.steps.push(step);
            return run;
        }
        let chain = RunChain { first: link.at, first_prev: link.prev, steps: vec![step] };
        let run = self.begin_run(owner, Some(chain), stored_at);
        self.owners[owner].chained = Some(run);
        run
    }

    fn unchained_run(&mut self, owner: usize, stored_at: i64) -> usize {
        if let Some(run) = self.owners[owner].unchained {
            return run;
        }
        let run = self.begin_run(owner, None, stored_at);
        self.owners[owner].unchained = Some(run);
        run
    }

    fn begin_run(&mut self, owner: usize, chain: Option<RunChain>, stored_at: i64) -> usize {
        let run = self.runs.len();
        let seq = chain.as_ref().and_then(|chain| chain.steps.first()).map_or(self.last_seq, |step| step.seq);
        self.runs.push(Run { owner, chain, unchained: 0, changes: 0, change_bytes: 0, last_stored_at: 0 });
        let item = Item { seq, stored_at, run: Some(run), chain_seq: 0, effect: Effect::Run };
        self.segment().items.push(item);
        run
    }

    /// The index of the event's owner.
    fn owner(&mut self, envelope: &Envelope<'_>) -> usize {
        let (site, cluster) = (envelope.subject.site, envelope.subject.cluster);
        if let Some(owner) = self.owners.get(self.recent_owner) {
            let pool = &self.pools[owner.pool];
            if *owner.source == *envelope.source && *pool.cluster == *cluster && *pool.site == *site {
                return self.recent_owner;
            }
        }
        let known = self.pools.iter().position(|pool| *pool.cluster == *cluster && *pool.site == *site);
        let pool = known.unwrap_or_else(|| {
            self.pools.push(PoolSlot {
                site: site.into(),
                cluster: cluster.into(),
                owners: Default::default(),
            });
            self.pools.len() - 1
        });
        self.recent_owner = match self.pools[pool].owners.get(envelope.source.as_ref()) {
            Some(owner) => *owner,
            None => {
                let source: Box<str> = envelope.source.as_ref().into();
                self.pools[pool].owners.insert(source.clone(), self.owners.len());
                self.owners.push(OwnerSlot { pool, source, chained: None, unchained: None });
                self.owners.len() - 1
            }
        };
        self.recent_owner
    }

    fn end_runs_of(&mut self, at: Standing) {
        let owner = self.runs[at.run].owner;
        self.owners[owner].end_runs();
    }

    fn segment(&mut self) -> &mut Segment {
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

impl OwnerSlot {
    fn end_runs(&mut self) {
        self.chained = None;
        self.unchained = None;
    }
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Self::Full { tail, .. } => tail.len(),
            Self::Notice { .. } | Self::Deleted => 0,
        }
    }
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

fn check_token(subject_token: &str, key: &str) -> Result<(), Fault> {
    if token::matches(subject_token, key) {
        return Ok(());
    }
    let right = token::of(key);
    let reason = format!(
        "the subject's token {subject_token:?} is not the token of {key:?}; publish on a subject with the token {right:?}"
    );
    Err(Fault::new("subject", reason))
}

/// Whether text is ASCII without control characters: most is, and needs no closer look.
fn is_plain(text: &str) -> bool {
    text.bytes().filter(|b| !(0x20..0x7f).contains(b)).count() == 0
}

fn check_revision(revision: &str) -> Result<(), Fault> {
    if (1..=REVISION_BYTES_MAX).contains(&revision.len()) && is_plain(revision) {
        return Ok(());
    }
    revision.parse::<Revision>().map(drop).map_err(|error| Fault::new("$.revision", error.to_string()))
}

fn check_changed(changed: &Changed<'_>) -> Result<(), Fault> {
    check_revision(&changed.revision)?;
    let fits = |text: &str| text.len() <= LABEL_BYTES_MAX;
    if changed.labels.len() > LABELS_MAX
        || !changed.labels.iter().all(|(name, value)| fits(name) && fits(value))
    {
        let reason =
            format!("send at most {LABELS_MAX} labels, names and values of at most {LABEL_BYTES_MAX} bytes");
        return Err(Fault::new("$.labels", reason));
    }
    if may_have_no_canonical_form(changed.state.get()) {
        canonical::state_hash(changed.state).map_err(|error| {
            let reason =
                format!("the state has no RFC 8785 form: {error}; send a state that every JSON reader takes");
            Fault::new("$.state", reason)
        })?;
    }
    Ok(())
}

/// Whether text that is JSON may be refused by a JSON reader that builds values: numbers beyond a
/// double, halves of surrogate pairs, nesting without end. Cheap, and wrong on the safe side only.
fn may_have_no_canonical_form(state: &str) -> bool {
    /// serde_json's own limit is 128.
    const DEPTH_MAX: usize = 100;
    /// The largest double has 309 digits; a run of 255 digits holds an aligned chunk of 128.
    const DIGITS: usize = 128;
    let bytes = state.as_bytes();
    // Loops without branches, which a processor takes in strides.
    let deep = bytes.len() > DEPTH_MAX && bytes.iter().filter(|b| **b | 0x20 == b'{').count() > DEPTH_MAX;
    let odd = bytes
        .iter()
        .zip(bytes.iter().skip(1))
        .filter(|(first, second)| {
            let exponent = first.is_ascii_digit() & (**second | 0x20 == b'e');
            exponent | ((**first == b'\\') & (**second == b'u'))
        })
        .count();
    let long = bytes.chunks_exact(DIGITS).any(|chunk| chunk.iter().all(u8::is_ascii_digit));
    deep || odd > 0 || long
}
