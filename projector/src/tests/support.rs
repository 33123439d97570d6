//! Logs and agents for tests: agents write real envelopes into a log in memory, a pool reads them.

use std::path::PathBuf;

use bus_schema::{
    Epoch, Hash32, Name, PoolId, ResourceKey, Timestamp,
    chain::{ChainPoint, Link, Sealed},
    digest::Digest,
    envelope::Stored,
    event::{
        agent::{AgentEvent, CheckpointSeen, Heartbeat},
        resource::{Changed, Deleted, Noticed, ResourceEvent, SyncClosed, SyncOpened, SyncScope},
    },
    fact::{Fact, log::parked::Upcaster},
    redrive::Redrive,
    subject, token,
};
use serde_json::value::RawValue;

use crate::{Batch, Committed, Filter, Owner, Pending, Reader, Row, Stated, Store, StoreOptions};

/// The site's log.
pub(super) const SITE: &str = "FARSIDE_LOCAL";
/// The target's log.
pub(super) const TARGET: &str = "FARSIDE_TGT_LOCAL";
/// When both logs were made.
pub(super) const CREATED: i64 = 1_700_000_000_000;

/// A message of a log.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) stream: &'static str,
    pub(super) subject: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) seq: u64,
    pub(super) stored_at: i64,
}

impl Message {
    pub(super) fn with_stored<R>(&self, read: impl FnOnce(Stored<'_>) -> R) -> R {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let Self { subject, body, stream, seq, stored_at, .. } = self;
        read(Stored { subject, headers: &headers, body, stream, seq: *seq, stored_at: at(*stored_at) })
    }
}

/// Two logs as one list, in the order in which a pool reads them.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) messages: Vec<Message>,
    site_seq: u64,
    target_seq: u64,
    /// Messages that were stored before, in the same time, by a log that is gone.
    stored_before: usize,
}

impl Log {
    /// An empty log that begins after another one ended.
    pub(super) fn written_after(other: &Self) -> Self {
        Self { stored_before: other.stored_before + other.messages.len(), ..Self::default() }
    }

    /// Forgets its last messages of the site, as a disk that was not synced does; time goes on.
    pub(super) fn lose(&mut self, count: usize) {
        self.messages.truncate(self.messages.len() - count);
        self.stored_before += count;
        self.site_seq -= count as u64;
    }

    /// Forgets messages in its middle, as a disk with a flipped bit does; answers them.
    pub(super) fn lose_between(&mut self, places: std::ops::Range<usize>) -> Vec<Message> {
        self.stored_before += places.len();
        self.messages.drain(places).collect()
    }

    /// Appends a message to the log that its subject belongs to.
    pub(super) fn append(&mut self, subject: &str, headers: Vec<(String, String)>, body: Vec<u8>) -> u64 {
        let is_target = subject.contains(".tgt.");
        let (stream, seq) =
            if is_target { (TARGET, &mut self.target_seq) } else { (SITE, &mut self.site_seq) };
        *seq += 1;
        let (seq, stored_at) =
            (*seq, CREATED + 1000 * ((self.stored_before + self.messages.len()) as i64 + 1));
        self.messages.push(Message { stream, subject: subject.to_owned(), headers, body, seq, stored_at });
        seq
    }

    /// Appends a message that was appended before.
    pub(super) fn repeat(&mut self, message: &Message) -> u64 {
        self.append(&message.subject.clone(), message.headers.clone(), message.body.clone())
    }

    /// Appends a copy of a message that was parked.
    pub(super) fn redrive(&mut self, original: u64, patch: Option<&str>) -> u64 {
        let known = self.messages.iter().find(|message| message.stream == SITE && message.seq == original);
        let Message { subject, mut headers, body, .. } = known.unwrap().clone();
        let upcaster = Some(Upcaster { name: "mend".to_owned(), sha256: Hash32::of(b"mend") });
        let upcaster = upcaster.filter(|_| patch.is_some());
        headers.extend(Redrive { stream: SITE, seq: original, actor: "kim", patch, upcaster }.headers());
        self.append(&subject, headers, body)
    }

    /// Appends plain data: no header at all.
    pub(super) fn plain(&mut self, cluster: &str, kind: &str, id: &str, event: &str, data: &str) -> u64 {
        let subject = resource_subject(cluster, &format!("{kind}/{id}"), event);
        self.append(&subject, Vec::new(), data.as_bytes().to_vec())
    }

    /// Appends a fact of the target.
    pub(super) fn fact(&mut self, fact: &Fact) -> u64 {
        let subject = subject::fact(&name("local"), fact.stem(), &fact.entity(), fact.name());
        self.append(&subject, Vec::new(), fact.data().unwrap())
    }
}

pub(super) fn resource_subject(cluster: &str, key: &str, event: &str) -> String {
    format!("far.v1.local.evt.{cluster}.resource.{}.{event}", token::of(key))
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn pool_id(cluster: &str) -> PoolId {
    PoolId { site: name("local"), cluster: name(cluster) }
}

pub(super) fn key(text: &str) -> ResourceKey {
    text.parse().unwrap()
}

pub(super) fn at(moment: i64) -> Timestamp {
    Timestamp::from_unix_ms(moment)
}

/// A source agent: numbers and chains what it says.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) cluster: String,
    pub(super) source: String,
    pub(super) at: ChainPoint,
    pub(super) prev: Hash32,
    pub(super) sync: Option<String>,
    pub(super) tenant: Option<String>,
    /// The source's clock.
    pub(super) time: String,
    /// What tells events of two branches apart.
    pub(super) branch: u32,
}

impl Agent {
    pub(super) fn new(cluster: &str, name: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            source: format!("/local/{cluster}/resource/{name}"),
            at: ChainPoint { epoch: Epoch(1), seq: 0 },
            prev: Hash32::ZERO,
            sync: None,
            tenant: None,
            time: "2026-11-22T04:31:48.123Z".to_owned(),
            branch: 0,
        }
    }

    /// Starts a new epoch.
    pub(super) fn rebase(&mut self, epoch: u64) {
        (self.at, self.prev) = (ChainPoint { epoch: Epoch(epoch), seq: 0 }, Hash32::ZERO);
    }

    /// The next event as a message, which the log may or may not get.
    pub(super) fn say(&mut self, stem: &str, entity: &str, event: &str, body: Vec<u8>) -> Message {
        self.at.seq += 1;
        let Self { cluster, source, at, prev, time, .. } = self;
        let subject = format!("far.v1.local.evt.{cluster}.{stem}.{}.{event}", token::of(entity));
        let (id, event_type) =
            (format!("{}-{}-{}", at.epoch, at.seq, self.branch), format!("{stem}.{event}"));
        let link = Link { at: *at, prev: *prev };
        let sealed =
            Sealed { source, id: &id, event_type: &event_type, subject: &subject, time, link, body: &body };
        let hash = sealed.hash();
        let mut headers = vec![
            ("ce-specversion".to_owned(), "1.0".to_owned()),
            ("ce-id".to_owned(), id.clone()),
            ("ce-source".to_owned(), source.clone()),
            ("ce-type".to_owned(), event_type.clone()),
            ("ce-time".to_owned(), time.clone()),
            ("ce-farepoch".to_owned(), at.epoch.to_string()),
            ("ce-farseq".to_owned(), at.seq.to_string()),
            ("ce-farprev".to_owned(), prev.to_string()),
        ];
        headers.extend(self.sync.iter().map(|sync| ("ce-farsync".to_owned(), sync.clone())));
        headers.extend(self.tenant.iter().map(|tenant| ("ce-fartenant".to_owned(), tenant.clone())));
        self.prev = hash;
        Message { stream: SITE, subject, headers, body, seq: 0, stored_at: 0 }
    }

    pub(super) fn resource(&mut self, log: &mut Log, event: &ResourceEvent<'_>) -> u64 {
        let message = self.say("resource", &event.entity(), event.name(), event.data().unwrap());
        log.repeat(&message)
    }

    pub(super) fn changed(&mut self, log: &mut Log, key: &str, revision: &str, state: &str) -> u64 {
        self.labelled(log, key, revision, state, &[])
    }

    pub(super) fn labelled(
        &mut self,
        log: &mut Log,
        key: &str,
        revision: &str,
        state: &str,
        labels: &[(&str, &str)],
    ) -> u64 {
        let (kind, id) = key.split_once('/').unwrap();
        let state = RawValue::from_string(state.to_owned()).unwrap();
        self.resource(
            log,
            &ResourceEvent::Changed(Changed {
                kind: kind.into(),
                id: id.into(),
                revision: revision.into(),
                state: &state,
                labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            }),
        )
    }

    pub(super) fn noticed(&mut self, log: &mut Log, key: &str, revision: &str, state: &str) -> u64 {
        let (kind, id) = key.split_once('/').unwrap();
        let raw = RawValue::from_string(state.to_owned()).unwrap();
        self.resource(
            log,
            &ResourceEvent::Noticed(Noticed {
                kind: kind.into(),
                id: id.into(),
                revision: revision.into(),
                state_hash: bus_schema::canonical::state_hash(&raw).unwrap(),
                size_bytes: state.len() as u64,
            }),
        )
    }

    pub(super) fn deleted(&mut self, log: &mut Log, key: &str) -> u64 {
        let (kind, id) = key.split_once('/').unwrap();
        self.resource(log, &ResourceEvent::Deleted(Deleted { kind: kind.into(), id: id.into() }))
    }

    /// A change without a place in the chain.
    pub(super) fn unchained(&self, log: &mut Log, kind: &str, id: &str) -> u64 {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![
            header("ce-specversion", "1.0"),
            header("CE-ID", id),
            header("ce-source", &self.source),
            header("ce-type", "resource.changed"),
        ];
        let body = format!(r#"{{"kind":"{kind}","id":"{id}","revision":"1","state":{{}}}}"#);
        log.append(&resource_subject(&self.cluster, &format!("{kind}/{id}"), "changed"), headers, body.into())
    }

    /// Opens a sync answer; answers its `low`.
    pub(super) fn open(&mut self, log: &mut Log, sync_id: &str, scope: SyncScope) -> ChainPoint {
        let low = self.at;
        self.sync = Some(sync_id.to_owned());
        self.resource(
            log,
            &ResourceEvent::SyncOpened(SyncOpened { sync_id: sync_id.to_owned(), scope, low }),
        );
        low
    }

    /// Closes it with a digest.
    pub(super) fn close(
        &mut self,
        log: &mut Log,
        sync_id: &str,
        scope: SyncScope,
        low: ChainPoint,
        digest: Digest,
    ) -> u64 {
        let (resources, deleted, bytes) = (1, 0, 10);
        let sync_id = sync_id.to_owned();
        let closed = SyncClosed { sync_id, scope, low, resources, deleted, bytes, digest };
        let seq = self.resource(log, &ResourceEvent::SyncClosed(closed));
        self.sync = None;
        seq
    }

    /// A heartbeat: not chained.
    pub(super) fn heartbeat(&self, log: &mut Log, digest: Option<Digest>) -> u64 {
        self.beat(log, digest, None)
    }

    /// A heartbeat that may speak of trouble.
    pub(super) fn beat(&self, log: &mut Log, digest: Option<Digest>, trouble: Option<&str>) -> u64 {
        self.say_alive(log, digest, trouble, None)
    }

    /// A heartbeat that echoes a checkpoint.
    pub(super) fn echo(&self, log: &mut Log, checkpoint: CheckpointSeen) -> u64 {
        self.say_alive(log, None, None, Some(checkpoint))
    }

    fn say_alive(
        &self,
        log: &mut Log,
        digest: Option<Digest>,
        trouble: Option<&str>,
        checkpoint: Option<CheckpointSeen>,
    ) -> u64 {
        let beat = Heartbeat {
            agent: name(self.source.rsplit('/').next().unwrap()),
            at: self.at,
            hash: (self.at.seq > 0).then_some(self.prev),
            checkpoint,
            digest,
            sent_at: at(CREATED),
            outbox_events: 0,
            trouble: trouble.map(str::to_owned),
        };
        let event = AgentEvent::Heartbeat(beat);
        let subject = format!("far.v1.local.evt.{}.agent.{}.heartbeat", self.cluster, event.entity());
        let headers = vec![
            ("ce-specversion".to_owned(), "1.0".to_owned()),
            ("ce-id".to_owned(), format!("beat-{}", log.messages.len())),
            ("ce-source".to_owned(), self.source.clone()),
            ("ce-type".to_owned(), "agent.heartbeat".to_owned()),
        ];
        log.append(&subject, headers, event.data().unwrap())
    }
}

/// A store in a directory of its own that has read some of a log.
pub(super) struct Pool {
    pub(super) store: Store,
    pub(super) directory: tempfile::TempDir,
    pub(super) read: usize,
}

/// A pool that has committed this log in one batch per stretch of one stream.
pub(super) fn given(log: &Log) -> Pool {
    let mut pool = Pool::new();
    pool.read_on(log);
    pool
}

impl Pool {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("pool.redb"));
        for stream in [SITE, TARGET] {
            store.begin_log(stream, at(CREATED)).unwrap();
        }
        Self { store, directory, read: 0 }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("pool.redb")
    }

    /// Commits what the log has more.
    pub(super) fn read_on(&mut self, log: &Log) -> &mut Self {
        while self.read < log.messages.len() {
            self.read_some(log, usize::MAX);
        }
        self
    }

    /// Commits at most `most` messages of one stream.
    pub(super) fn read_some(&mut self, log: &Log, most: usize) -> Committed {
        let messages = &log.messages[self.read..];
        let stream = messages[0].stream;
        let length = messages.iter().take(most).take_while(|message| message.stream == stream).count();
        self.read += length;
        self.store.commit(batch(&messages[..length])).unwrap()
    }

    pub(super) fn reader(&self) -> Reader {
        self.store.reader()
    }

    pub(super) fn row(&self, cluster: &str, at_key: &str) -> Option<Row> {
        self.reader().row(&pool_id(cluster), &key(at_key)).unwrap().value
    }

    /// Live rows: key and revision.
    pub(super) fn rows(&self, cluster: &str) -> Vec<(String, String)> {
        let page = self.reader().rows(&pool_id(cluster), &Filter::default(), None, 1000).unwrap();
        assert_eq!(page.next, None);
        let shown = |row: Row| {
            let revision = row.revision.map_or("-".to_owned(), |revision| revision.as_str().to_owned());
            (row.key.to_string(), revision)
        };
        page.rows.into_iter().map(shown).collect()
    }

    pub(super) fn then(&self, cluster: &str, rows: &[(&str, &str)]) -> &Self {
        let expected: Vec<_> =
            rows.iter().map(|(key, revision)| ((*key).into(), (*revision).into())).collect();
        assert_eq!(self.rows(cluster), expected);
        self
    }

    pub(super) fn owner(&self, agent: &Agent) -> Owner {
        let answer = self.reader().owner(&pool_id(&agent.cluster), &agent.source).unwrap();
        answer.value.expect("the owner is known")
    }

    pub(super) fn digest(&self, agent: &Agent) -> Digest {
        self.owner(agent).digest
    }

    pub(super) fn pending(&self) -> Vec<Pending> {
        self.store.pending(usize::MAX).unwrap()
    }

    /// Reasons of the dead letters that wait.
    pub(super) fn reasons(&self) -> Vec<String> {
        let reason = |pending: Pending| match pending.what {
            Stated::DeadLetter(letter) => Some(format!("{}: {}", letter.path, letter.reason)),
            Stated::Fact(_) => None,
        };
        self.pending().into_iter().filter_map(reason).collect()
    }

    /// Names of the facts that wait.
    pub(super) fn facts(&self) -> Vec<&'static str> {
        let fact = |pending: Pending| match pending.what {
            Stated::Fact(fact) => Some(fact.name()),
            Stated::DeadLetter(_) => None,
        };
        self.pending().into_iter().filter_map(fact).collect()
    }

    pub(super) fn export(&self, cluster: &str) -> String {
        let mut to = Vec::new();
        self.reader().export(&pool_id(cluster), &mut to).unwrap();
        String::from_utf8(to).unwrap()
    }
}

pub(super) fn open(path: &std::path::Path) -> Store {
    Store::open(path, StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() }).unwrap()
}

pub(super) fn batch(messages: &[Message]) -> Batch {
    let mut batch = Batch::new(messages[0].stream);
    for message in messages {
        message.with_stored(|stored| batch.push(stored));
    }
    batch
}
