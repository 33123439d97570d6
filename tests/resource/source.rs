//! A minimal source agent in plain sight: it chains its events, answers the commands of the stem
//! `resource`, and does what a test tells it, wrong things included.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bus::{Bus, LinkState, Outgoing, Request};
use bus_schema::{
    Epoch, Hash32, PoolId, ResourceKey, Source, Stem, Timestamp, canonical,
    chain::{ChainPoint, Link, Sealed},
    command::resource::{
        DIGEST, DigestReply, DigestRequest, READ, ReadReply, ReadRequest, ReadResource, SYNC, SyncReply,
        SyncRequest,
    },
    digest::{Address, Digest, Trie, item},
    event::{
        agent::{AgentEvent, CheckpointSeen, Heartbeat, Started},
        key::{Announced, KeyEvent},
        resource::{Changed, Deleted, Noticed, ResourceEvent, SyncClosed, SyncOpened, SyncScope},
    },
    subject, token,
};
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

/// One resource as the source has it.
#[derive(Clone)]
struct Resource {
    revision: String,
    state: String,
}

impl Resource {
    fn state_hash(&self) -> Hash32 {
        canonical::state_hash(&RawValue::from_string(self.state.clone()).unwrap()).unwrap()
    }
}

/// What the agent knows.
struct Inner {
    at: ChainPoint,
    prev: Hash32,
    resources: BTreeMap<String, Resource>,
    unsent: BTreeSet<String>,
    /// Labels that resources are sent with.
    labels: BTreeMap<String, String>,
}

/// The agent. Clones are the same one.
#[derive(Clone)]
pub(crate) struct ScriptedSource {
    bus: Bus,
    source: Source,
    inner: Arc<Mutex<Inner>>,
}

/// The serving side of an agent; it falls silent when this is dropped.
pub(crate) struct Serving {
    tasks: Vec<JoinHandle<()>>,
    /// The sync requests as they come in.
    pub(crate) syncs: mpsc::UnboundedReceiver<SyncRequest>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Serving {
    /// The next sync request.
    pub(crate) async fn next_sync(&mut self) -> SyncRequest {
        crate::support::within("a sync request", self.syncs.recv()).await.unwrap()
    }

    /// The sync requests that came in already.
    pub(crate) fn syncs_so_far(&mut self) -> Vec<SyncRequest> {
        std::iter::from_fn(|| self.syncs.try_recv().ok()).collect()
    }
}

impl ScriptedSource {
    /// An agent that has said nothing yet.
    pub(crate) fn new(bus: &Bus, source: &str, epoch: u64) -> Self {
        let at = ChainPoint { epoch: Epoch(epoch), seq: 0 };
        let (resources, unsent, labels) = Default::default();
        let inner = Inner { at, prev: Hash32::ZERO, resources, unsent, labels };
        Self { bus: bus.clone(), source: source.parse().unwrap(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// An agent that has started and announced its key.
    pub(crate) async fn started(bus: &Bus, source: &str) -> Self {
        let agent = Self::new(bus, source, 7);
        agent.start().await;
        agent.announce_key().await;
        agent
    }

    pub(crate) fn pool(&self) -> &PoolId {
        &self.source.pool
    }

    pub(crate) fn owner(&self) -> String {
        self.source.to_string()
    }

    pub(crate) async fn at(&self) -> ChainPoint {
        self.inner.lock().await.at
    }

    pub(crate) async fn hash(&self) -> Hash32 {
        self.inner.lock().await.prev
    }

    pub(crate) async fn digest(&self) -> Digest {
        trie(&self.inner.lock().await.resources).digest()
    }

    pub(crate) async fn start(&self) {
        let agent = self.source.agent.clone();
        let started =
            Started { agent, stem: Stem::Resource, version: "test".to_owned(), heartbeat_ms: 1_000 };
        self.send(AgentEvent::Started(started).into()).await;
    }

    pub(crate) async fn announce_key(&self) {
        let hash = Hash32::of(b"secret");
        let (key_id, tenant) = ("ak-src".parse().unwrap(), "acme".parse().unwrap());
        let announced = Announced { key_id, tenant, salt: Hash32::ZERO, hash, not_after: None };
        self.send(KeyEvent::Announced(announced).into()).await;
    }

    /// The source changes, and the agent says so in full.
    pub(crate) async fn change(&self, key: &str, revision: &str) {
        let mut inner = self.inner.lock().await;
        inner.resources.insert(key.to_owned(), resource(key, revision));
        self.send_changed(&mut inner, key, None).await;
    }

    /// The source changes, and the agent only announces it.
    pub(crate) async fn notice(&self, key: &str, revision: &str) {
        let mut inner = self.inner.lock().await;
        let resource = resource(key, revision);
        inner.resources.insert(key.to_owned(), resource.clone());
        inner.unsent.insert(key.to_owned());
        let (kind, id) = key.split_once('/').unwrap();
        let noticed = Noticed {
            kind: kind.into(),
            id: id.into(),
            revision: revision.into(),
            state_hash: resource.state_hash(),
            size_bytes: resource.state.len() as u64,
        };
        self.publish(&mut inner, ResourceEvent::Noticed(noticed).into(), None).await;
    }

    /// The source changes behind the agent's back.
    pub(crate) async fn drift(&self, key: &str, revision: Option<&str>) {
        let mut inner = self.inner.lock().await;
        match revision {
            Some(revision) => drop(inner.resources.insert(key.to_owned(), resource(key, revision))),
            None => drop(inner.resources.remove(key)),
        }
    }

    /// From now on a resource is sent with this label.
    pub(crate) async fn label(&self, key: &str, label: &str) {
        self.inner.lock().await.labels.insert(key.to_owned(), label.to_owned());
    }

    /// The source changes, and the event that says so never reaches the log.
    pub(crate) async fn lose(&self, key: &str, revision: &str) {
        let mut inner = self.inner.lock().await;
        inner.resources.insert(key.to_owned(), resource(key, revision));
        inner.at.seq += 1;
        inner.prev = Hash32::of(b"lost");
    }

    /// A heartbeat with the digest of everything that the source has.
    pub(crate) async fn heartbeat(&self) {
        self.beat(None).await;
    }

    /// A heartbeat that names a checkpoint that it was told of.
    pub(crate) async fn echo(&self, checkpoint: CheckpointSeen) {
        self.beat(Some(checkpoint)).await;
    }

    async fn beat(&self, checkpoint: Option<CheckpointSeen>) {
        let inner = self.inner.lock().await;
        let now = now();
        let heartbeat = Heartbeat {
            agent: self.source.agent.clone(),
            at: inner.at,
            hash: (inner.at.seq > 0).then_some(inner.prev),
            checkpoint,
            digest: Some(trie(&inner.resources).digest()),
            sent_at: now,
            outbox_events: 0,
            trouble: None,
        };
        let event = AgentEvent::Heartbeat(heartbeat);
        let message = self.message(event.into(), now, None, None).0;
        self.bus.publisher().publish(&self.stream(), &message, None).await.unwrap();
    }

    async fn send(&self, event: AnyEvent<'_>) {
        let mut inner = self.inner.lock().await;
        self.publish(&mut inner, event, None).await;
    }

    async fn send_changed(&self, inner: &mut Inner, key: &str, sync: Option<&str>) {
        let Resource { revision, state } = inner.resources[key].clone();
        let label = inner.labels.get(key).cloned();
        let (kind, id) = key.split_once('/').unwrap();
        let state = RawValue::from_string(state).unwrap();
        let changed = Changed {
            kind: kind.into(),
            id: id.into(),
            revision: revision.into(),
            state: &state,
            labels: label.iter().map(|label| ("app".into(), label.as_str().into())).collect(),
        };
        self.publish(inner, ResourceEvent::Changed(changed).into(), sync).await;
        inner.unsent.remove(key);
    }

    /// The next event of the chain. It is published again, unchanged, until the log has it.
    async fn publish(&self, inner: &mut Inner, event: AnyEvent<'_>, sync: Option<&str>) {
        let at = ChainPoint { seq: inner.at.seq + 1, ..inner.at };
        let (message, hash) = self.message(event, now(), Some(Link { at, prev: inner.prev }), sync);
        let publisher = self.bus.publisher();
        let mut link = self.bus.link();
        loop {
            let _ = link.wait_for(|state| matches!(state, LinkState::Up { .. })).await;
            if publisher.publish(&self.stream(), &message, None).await.is_ok() {
                break;
            }
        }
        (inner.at, inner.prev) = (at, hash);
    }

    fn stream(&self) -> String {
        subject::site_stream(&self.source.pool.site)
    }

    fn message(
        &self,
        event: AnyEvent<'_>,
        now: Timestamp,
        link: Option<Link>,
        sync: Option<&str>,
    ) -> (Outgoing, Hash32) {
        let AnyEvent { stem, name, entity, data } = event;
        let PoolId { site, cluster } = &self.source.pool;
        let subject = format!("far.v1.{site}.evt.{cluster}.{stem}.{}.{name}", token::of(&entity));
        let (source, event_type, time) = (self.source.to_string(), format!("{stem}.{name}"), now.to_string());
        let id = match link {
            Some(link) => format!("{}-{}", link.at.epoch, link.at.seq),
            None => format!("{}-{}", source, now.unix_ms()),
        };
        let mut headers = vec![
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", id.clone()),
            ("ce-source", source.clone()),
            ("ce-type", event_type.clone()),
            ("ce-time", time.clone()),
            ("ce-datacontenttype", "application/json".to_owned()),
        ];
        let hash = link.map_or(Hash32::ZERO, |link| {
            headers.push(("ce-farepoch", link.at.epoch.to_string()));
            headers.push(("ce-farseq", link.at.seq.to_string()));
            headers.push(("ce-farprev", link.prev.to_string()));
            let (source, id, event_type, time) = (&*source, &*id, &*event_type, &*time);
            Sealed { source, id, event_type, subject: &subject, time, link, body: &data }.hash()
        });
        headers.extend(sync.map(|sync| ("ce-farsync", sync.to_owned())));
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        (Outgoing { subject, headers, body: data.into(), message_id: format!("{cluster}/{id}") }, hash)
    }

    /// Answers commands until the result is dropped.
    pub(crate) async fn serve(&self) -> Serving {
        let (seen, syncs) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for verb in [SYNC, READ, DIGEST] {
            let subject = subject::command(self.pool(), Stem::Resource, verb);
            let mut requests = self.bus.serve(&subject).await.unwrap();
            let (this, seen) = (self.clone(), seen.clone());
            tasks.push(tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    this.answer(verb, &request, &seen).await;
                }
            }));
        }
        Serving { tasks, syncs }
    }

    async fn answer(&self, verb: &str, request: &Request, seen: &mpsc::UnboundedSender<SyncRequest>) {
        match verb {
            SYNC => {
                let sync: SyncRequest = serde_json::from_slice(&request.body).unwrap();
                if sync.agent != self.source.agent {
                    return;
                }
                request.reply(&SyncReply::Accepted { scope: sync.scope }).await.unwrap();
                self.answer_sync(&sync).await;
                let _ = seen.send(sync);
            }
            READ => {
                let read: ReadRequest = serde_json::from_slice(&request.body).unwrap();
                if read.agent != self.source.agent {
                    return;
                }
                request.reply(&self.read(&read).await).await.unwrap();
            }
            _ => {
                let digest: DigestRequest = serde_json::from_slice(&request.body).unwrap();
                if digest.agent != self.source.agent {
                    return;
                }
                request.reply(&self.compare(&digest).await).await.unwrap();
            }
        }
    }

    async fn read(&self, read: &ReadRequest) -> ReadReply {
        let inner = self.inner.lock().await;
        let found = |key: &ResourceKey| {
            let resource = inner.resources.get(key.as_str())?;
            Some((resource.revision.parse().unwrap(), resource.state_hash()))
        };
        let resources =
            read.keys.iter().map(|key| ReadResource { key: key.clone(), found: found(key) }).collect();
        ReadReply::Read { resources, at: inner.at }
    }

    async fn compare(&self, asked: &DigestRequest) -> DigestReply {
        let inner = self.inner.lock().await;
        let trie = trie(&inner.resources);
        let mut frame = Vec::new();
        let put = |frame: &mut Vec<u8>, short: u64| frame.extend_from_slice(&short.to_be_bytes()[2..]);
        if asked.items {
            let below =
                |address: Address| asked.below.is_empty() || asked.below.contains(&address.node(asked.above));
            let mut items: Vec<_> = items(&inner.resources).filter(|(address, _)| below(*address)).collect();
            items.sort();
            for (address, item) in items {
                put(&mut frame, address.short());
                put(&mut frame, bus_schema::digest::Node(item).short());
            }
        } else {
            let children = 16_u32.pow(u32::from(asked.depth - asked.above));
            let parents = if asked.below.is_empty() {
                (0..16_u32.pow(u32::from(asked.above))).collect()
            } else {
                asked.below.clone()
            };
            for number in parents.iter().flat_map(|parent| parent * children..(parent + 1) * children) {
                put(&mut frame, trie.node(asked.depth, number).unwrap().short());
            }
        }
        DigestReply { at: inner.at, digest: trie.digest(), frame: data_encoding::BASE64.encode(&frame) }
    }

    async fn answer_sync(&self, asked: &SyncRequest) {
        let mut inner = self.inner.lock().await;
        let low = inner.at;
        let (sync_id, scope) = (asked.sync_id.clone(), asked.scope);
        let opened = SyncOpened { sync_id: sync_id.clone(), scope, low };
        self.publish(&mut inner, ResourceEvent::SyncOpened(opened).into(), Some(&sync_id)).await;
        let short = |key: &str| Address::of(key).short();
        let keys: Vec<String> = match scope {
            SyncScope::Full => inner.resources.keys().cloned().collect(),
            SyncScope::Incremental => inner.unsent.iter().cloned().collect(),
            SyncScope::Keys => {
                let named = asked.keys.iter().map(ToString::to_string);
                let found = inner.resources.keys().filter(|key| asked.addresses.contains(&short(key)));
                named.chain(found.cloned()).collect()
            }
        };
        let (mut resources, mut deleted) = (0, 0);
        for key in &keys {
            if inner.resources.contains_key(key) {
                self.send_changed(&mut inner, key, Some(&sync_id)).await;
                resources += 1;
            } else {
                let (kind, id) = key.split_once('/').unwrap();
                let gone = ResourceEvent::Deleted(Deleted { kind: kind.into(), id: id.into() });
                self.publish(&mut inner, gone.into(), Some(&sync_id)).await;
                deleted += 1;
            }
        }
        let digest = trie(&inner.resources).digest();
        let closed =
            SyncClosed { sync_id: sync_id.clone(), scope, low, resources, deleted, bytes: 0, digest };
        self.publish(&mut inner, ResourceEvent::SyncClosed(closed).into(), Some(&sync_id)).await;
    }
}

/// An event of any stem, taken apart.
pub(crate) struct AnyEvent<'a> {
    stem: Stem,
    name: &'a str,
    entity: String,
    data: Vec<u8>,
}

macro_rules! any_event {
    ($($event:ty),+) => { $(impl<'a> From<$event> for AnyEvent<'a> {
        fn from(event: $event) -> Self {
            let data = event.data().unwrap();
            Self { stem: <$event>::STEM, name: event.name(), entity: event.entity(), data }
        }
    })+ };
}
any_event!(ResourceEvent<'_>, AgentEvent, KeyEvent);

fn resource(key: &str, revision: &str) -> Resource {
    let state = format!(r#"{{"name":"{key}","revision":"{revision}"}}"#);
    Resource { revision: revision.to_owned(), state }
}

fn items(resources: &BTreeMap<String, Resource>) -> impl Iterator<Item = (Address, u128)> + Clone {
    resources
        .iter()
        .map(|(key, resource)| (Address::of(key), item(key, &resource.revision, &resource.state_hash()).0))
}

fn trie(resources: &BTreeMap<String, Resource>) -> Trie {
    Trie::build(items(resources).map(|(address, item)| (address, bus_schema::digest::Node(item))))
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_ms(since.as_millis() as i64)
}
