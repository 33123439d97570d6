//! Agents on the wire: each with a key and subjects of its own, enrolled and revoked while the server runs.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use bus::managed::{
    AgentId, AgentIdentity, AgentScope, ManagedOptions, ManagedServer, ManagedTls, RosterError,
    make_seed_file,
};
use bus::{
    Bus, BusError, ConnectOptions, Credentials, LinkState, Outgoing, PublishErrorKind, RequestError, Requests,
};
use bus_schema::Stem;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{event, events};
use crate::support::{
    PATIENCE, eventually,
    nats::{name, site_log, target_log},
    refused, within,
};

/// How long an answer of an agent may take.
const WAIT: Duration = Duration::from_secs(10);
/// A command that says nothing.
const EMPTY: &Value = &Value::Null;

/// A managed server with the logs of a target.
pub(super) struct Site {
    dir: TempDir,
    pub(super) server: ManagedServer,
    pub(super) service: Bus,
}

impl Site {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = ManagedServer::start(ManagedOptions::new(dir.path())).await.unwrap();
        let service = Bus::connect(server.service_options("service")).await.unwrap();
        service.ensure_stream(&site_log()).await.unwrap();
        service.ensure_stream(&target_log()).await.unwrap();
        Self { dir, server, service }
    }

    /// Starts the server again, with what the directory holds.
    async fn again(self) -> Self {
        let Self { dir, server, service } = self;
        service.drain().await;
        within("it stops", server.stop()).await;
        let server = ManagedServer::start(ManagedOptions::new(dir.path())).await.unwrap();
        let service = Bus::connect(server.service_options("service")).await.unwrap();
        Self { dir, server, service }
    }

    pub(super) fn seed(&self, of: &str) -> PathBuf {
        self.dir.path().join(format!("{of}.nk"))
    }

    /// Enrols an agent of some clusters, with a key in a file of its name.
    async fn enroll(&self, agent: &str, clusters: &[&str]) -> Result<AgentIdentity, RosterError> {
        let identity = self.identity(agent, clusters);
        self.server.roster().enroll_agent(identity.clone()).await?;
        Ok(identity)
    }

    fn identity(&self, agent: &str, clusters: &[&str]) -> AgentIdentity {
        let clusters = clusters.iter().map(|cluster| name(cluster)).collect();
        let scope = AgentScope { id: id(agent), clusters, stems: [Stem::Resource].into() };
        AgentIdentity { scope, public_key: make_seed_file(&self.seed(agent)).unwrap() }
    }

    /// How somebody with a key in a file comes in.
    pub(super) fn options(&self, of: &str) -> ConnectOptions {
        let credentials = Credentials::NkeySeedFile(self.seed(of));
        let servers = self.server.url().to_owned();
        ConnectOptions { servers, name: of.to_owned(), credentials, ..ConnectOptions::default() }
    }

    pub(super) async fn come_in(&self, who: &str) -> Bus {
        Bus::connect(self.options(who)).await.unwrap()
    }

    /// The client library itself, with somebody's key, for what the room does not offer.
    pub(super) async fn client(&self, seed: &Path) -> async_nats::Client {
        let seed = std::fs::read_to_string(seed).unwrap();
        async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
            .connect(self.server.url())
            .await
            .unwrap()
    }

    /// The same with the service's key, which hears everything in the account of the logs.
    pub(super) async fn overhear(&self) -> async_nats::Subscriber {
        let client = self.client(&self.dir.path().join("keys/service.nk")).await;
        let heard = client.subscribe(">").await.unwrap();
        client.flush().await.unwrap();
        heard
    }

    pub(super) async fn stored(&self, stream: &str) -> u64 {
        self.service.stream_state(stream).await.unwrap().messages
    }
}

pub(super) fn id(agent: &str) -> AgentId {
    AgentId { site: name("local"), name: name(agent) }
}

/// An event of a cluster.
pub(super) fn of(cluster: &str, number: usize) -> Outgoing {
    let subject = format!("far.v1.local.evt.{cluster}.resource.r{number}.changed");
    Outgoing { subject, message_id: format!("{cluster}/{number}"), ..event(number) }
}

/// Publishing there is refused, plain and in a batch.
pub(super) async fn is_mute(bus: &Bus, subject: &str) {
    let said = || Outgoing { subject: subject.to_owned(), ..event(1) };
    let publisher = bus.publisher();
    let plain = refused(publisher.publish("FARSIDE_LOCAL", &said(), None).await);
    let batch = refused(publisher.publish_batch("FARSIDE_LOCAL", "b", &[said()], None).await);
    for error in [plain, batch] {
        assert_eq!(error.kind, PublishErrorKind::Refused, "{subject}: {error}");
    }
}

pub(super) async fn is_deaf(bus: &Bus, subject: &str) {
    let heard = refused(bus.serve(subject).await);
    assert!(matches!(heard, BusError::Denied { .. }), "{subject}: {heard}");
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_clusters_and_hears_their_commands_only() {
    let site = Site::start().await;
    site.enroll("a", &["dc1", "dc3"]).await.unwrap();
    let other = site.enroll("b", &["dc2"]).await.unwrap();
    let (a, b) = (site.come_in("a").await, site.come_in("b").await);
    for (bus, cluster) in [(&a, "dc1"), (&a, "dc3"), (&b, "dc2")] {
        let batch: Vec<_> = (1..1_000).map(|number| of(cluster, number)).collect();
        bus.publisher().publish("FARSIDE_LOCAL", &of(cluster, 0), None).await.unwrap();
        let stored = bus.publisher().publish_batch("FARSIDE_LOCAL", "b", &batch, None).await.unwrap();
        assert_eq!(stored.last_seq - stored.first_seq, 998);
    }
    assert_eq!(site.stored("FARSIDE_LOCAL").await, 3_000);
    for subject in [
        "far.v1.local.evt.dc2.resource.r1.changed",
        "far.v1.local.evt.dc2.key.evil.announced",
        "far.v1.other.evt.dc1.resource.r1.changed",
        "far.v1.local.cmd.dc2.agent.hello",
        "far.v1.local.cmd.dc1.resource.sync",
        "far.v1.local.cmd.dc2.resource.sync",
        "far.v1.local.cmd.target.log.state",
        "far.v1.local.tgt.log.target.lease_acquired",
        "far.v1.local.tgt.key.evil.issued",
        "far.v1.local.dlq.pump.resource",
        "far.v1.local.lease.target",
        "$JS.API.STREAM.INFO.FARSIDE_LOCAL",
        "$JS.API.STREAM.DELETE.FARSIDE_LOCAL",
        "$JS.API.STREAM.PURGE.FARSIDE_LOCAL",
        "$JS.API.STREAM.MSG.GET.FARSIDE_LOCAL",
        "$JS.API.DIRECT.GET.FARSIDE_LOCAL",
        "$JS.API.DIRECT.GET.FARSIDE_LOCAL.far.v1.local.evt.dc1.resource.r1.changed",
        "$JS.API.CONSUMER.CREATE.FARSIDE_LOCAL.x.far.v1.local.evt.dc1.>",
        "$JS.API.CONSUMER.MSG.NEXT.FARSIDE_LOCAL.x",
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.FARSIDE_LOCAL.x",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.x",
    ] {
        is_mute(&a, subject).await;
    }
    is_mute(&a, &format!("_INBOX_{}.x", other.public_key)).await;
    is_deaf(&a, &format!("_INBOX_{}.>", other.public_key)).await;
    for subject in [
        "far.v1.local.cmd.dc2.resource.*",
        "far.v1.local.cmd.dc2.agent.replay",
        "far.v1.local.cmd.*.resource.*",
        "far.v1.local.cmd.target.>",
        "far.v1.local.cmd.dc1.agent.hello",
        "far.v1.local.evt.dc1.>",
        "far.v1.local.tgt.>",
        "far.v1.local.dlq.>",
        "$JS.EVENT.ADVISORY.>",
        "$SYS.>",
        "_INBOX.>",
        ">",
    ] {
        is_deaf(&a, subject).await;
    }
    assert_eq!((site.stored("FARSIDE_LOCAL").await, site.stored("FARSIDE_TGT_LOCAL").await), (3_000, 0));
}

#[tokio::test]
async fn the_answer_of_the_log_leads_an_agent_onto_nobody_elses_subject() {
    let site = Site::start().await;
    let service_key = site.server.service_options("x");
    let Credentials::NkeySeedFile(service_key) = service_key.credentials else { panic!("it has a seed") };
    let attacker = site.enroll("a", &["dc1"]).await.unwrap();
    let victim = site.enroll("b", &["dc1", "dc2"]).await.unwrap();
    let b = site.come_in("b").await;
    let mut commands = [
        b.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap(),
        b.serve("far.v1.local.cmd.dc2.resource.*").await.unwrap(),
    ];
    let inbox = format!("_INBOX_{}", victim.public_key);
    let of_victim = site.client(&site.seed("b")).await;
    let mut mail = of_victim.subscribe(format!("{inbox}.>")).await.unwrap();
    of_victim.flush().await.unwrap();
    let mut overheard = site.overhear().await;
    let a = site.client(&site.seed("a")).await;
    let mail_of_the_service =
        format!("_INBOX_{}.x", nkeys_public(&std::fs::read_to_string(service_key).unwrap()));
    let replies = [
        "far.v1.local.evt.dc2.key.evil.announced",
        "far.v1.local.cmd.dc1.resource.sync",
        "far.v1.local.cmd.dc2.resource.sync",
        "far.v1.local.cmd.dc2.agent.hello",
        "far.v1.local.cmd.target.log.state",
        "far.v1.local.tgt.log.target.lease_acquired",
        "far.v1.local.dlq.pump.resource",
        "$JS.API.STREAM.PURGE.FARSIDE_LOCAL",
        "$JS.API.STREAM.DELETE.FARSIDE_LOCAL",
        "$JS.API.CONSUMER.CREATE.FARSIDE_LOCAL",
        &format!("{inbox}.x"),
        &mail_of_the_service,
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let Outgoing { subject, body, .. } = of("dc1", number);
        a.publish_with_reply(subject, reply.to_owned(), body).await.unwrap();
    }
    // Over the same connection, so it comes after those; answered in order, so the answers to those are out, too.
    let own = format!("_INBOX_{}.last", attacker.public_key);
    let mut answers = a.subscribe(own.clone()).await.unwrap();
    let Outgoing { subject, body, .. } = of("dc1", 99);
    a.publish_with_reply(subject, own, body).await.unwrap();
    let answer = within("the last answer", answers.next()).await.unwrap();
    let last: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(last["seq"], replies.len() as u64 + 1, "{last}");
    nothing_strange_is_overheard(&site, &mut overheard, &mail_of_the_service).await;
    assert_eq!(
        site.stored("FARSIDE_LOCAL").await,
        replies.len() as u64 + 2,
        "nothing but what was published"
    );
    assert_eq!(site.stored("FARSIDE_TGT_LOCAL").await, 0);
    nothing_was_led_to(&site, &mut commands).await;
    let own = format!("{inbox}.own");
    of_victim.publish_with_reply("$JS.API.INFO", own.clone(), "".into()).await.unwrap();
    assert_eq!(
        within("its own mail", mail.next()).await.unwrap().subject.as_str(),
        own,
        "somebody else's mail"
    );
}

/// In the account of the logs there is only what was published, what the log answers to where it has to go, and what the
/// service asks itself.
async fn nothing_strange_is_overheard(site: &Site, overheard: &mut async_nats::Subscriber, mailbox: &str) {
    let end = "far.v1.local.evt.end.resource.r.changed";
    let marker = Outgoing { subject: end.to_owned(), ..event(100) };
    site.service.publisher().publish("FARSIDE_LOCAL", &marker, None).await.unwrap();
    loop {
        let message = within("it is overheard", overheard.next()).await.unwrap();
        let subject = message.subject.as_str();
        if subject == end {
            return;
        }
        let expected = ["far.v1.local.evt.dc1.resource.r", "_R_.", "$JS.API.STREAM.INFO.", "_INBOX_"];
        let known = expected.iter().any(|start| subject.starts_with(start)) && subject != mailbox;
        assert!(known, "{subject} was led into the account of the logs");
    }
}

/// What is asked now is the first that an agent of both clusters hears.
async fn nothing_was_led_to(site: &Site, commands: &mut [Requests; 2]) {
    let asked = json!({ "last": true });
    for (cluster, commands) in ["dc1", "dc2"].into_iter().zip(commands) {
        let subject = format!("far.v1.local.cmd.{cluster}.resource.read");
        let (answer, ()) = tokio::join!(site.service.request::<_, Value>(&subject, &asked, WAIT), async {
            let first = within("the command", commands.next()).await.unwrap();
            assert_eq!(
                (first.subject.as_str(), &first.body[..]),
                (subject.as_str(), &b"{\"last\":true}"[..])
            );
            first.reply(&json!("mine")).await.unwrap();
        });
        assert_eq!(answer.unwrap(), json!("mine"));
    }
}

/// The public half of a seed.
fn nkeys_public(seed: &str) -> String {
    nkeys::KeyPair::from_seed(seed.trim()).unwrap().public_key()
}

#[tokio::test]
async fn commands_reach_every_agent_of_their_cluster_and_each_answers_for_itself() {
    let site = Site::start().await;
    site.enroll("a", &["dc1"]).await.unwrap();
    site.enroll("b", &["dc1", "dc2"]).await.unwrap();
    let sync = |cluster: &str| format!("far.v1.local.cmd.{cluster}.resource.sync");
    let nobody = refused(site.service.request::<_, Value>(&sync("dc1"), EMPTY, WAIT).await);
    assert!(matches!(nobody, RequestError::NoResponders { .. }), "{nobody}");
    let (a, b) = (site.come_in("a").await, site.come_in("b").await);
    let mut of_a = a.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap();
    let mut of_b = b.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap();
    for round in 0..20 {
        let (sync, asked) = (sync("dc1"), json!(round));
        let (answer, ()) = tokio::join!(site.service.request::<_, Value>(&sync, &asked, WAIT), async {
            // One is not meant and is silent, the other one answers.
            let (first, second) = tokio::join!(of_a.next(), of_b.next());
            let meant = if round % 2 == 0 { first } else { second };
            meant.unwrap().reply(&json!({ "round": round })).await.unwrap();
        });
        assert_eq!(answer.unwrap(), json!({ "round": round }));
    }
    let nobody = refused(site.service.request::<_, Value>(&sync("dc2"), EMPTY, WAIT).await);
    assert!(matches!(nobody, RequestError::NoResponders { .. }), "{nobody}");
    let replay = "far.v1.local.cmd.dc2.agent.replay";
    let mut replays = b.serve(replay).await.unwrap();
    let (answer, ()) = tokio::join!(site.service.request::<_, Value>(replay, EMPTY, WAIT), async {
        replays.next().await.unwrap().reply(&json!("sent")).await.unwrap();
    });
    assert_eq!(answer.unwrap(), json!("sent"));
    let mut hellos = site.service.serve("far.v1.local.cmd.*.agent.hello").await.unwrap();
    let (answer, ()) =
        tokio::join!(b.request::<_, Value>("far.v1.local.cmd.dc2.agent.hello", EMPTY, WAIT), async {
            hellos.next().await.unwrap().reply(&json!("welcome")).await.unwrap();
        });
    assert_eq!(answer.unwrap(), json!("welcome"));
}

#[tokio::test]
async fn a_revoked_agent_is_disconnected_at_once_and_does_not_come_back() {
    let site = Site::start().await;
    site.enroll("stays", &["dc1"]).await.unwrap();
    let stays = site.come_in("stays").await;
    let mut commands = stays.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap();
    site.enroll("goes", &["dc1"]).await.unwrap();
    let goes = site.come_in("goes").await;
    goes.publisher().publish("FARSIDE_LOCAL", &of("dc1", 1), None).await.unwrap();
    let mut link = goes.link();

    let gone = site.server.roster().revoke_agent(&id("goes")).await.unwrap();
    assert_eq!(gone.scope.id, id("goes"));
    let down = link.wait_for(|state| matches!(state, LinkState::Down { .. }));
    within("its connection ends", down).await.unwrap();
    let error = refused(Bus::connect(site.options("goes")).await);
    assert!(matches!(error, BusError::Unauthorized { .. }), "{error}");
    let said = refused(goes.publisher().publish("FARSIDE_LOCAL", &of("dc1", 2), None).await);
    assert_eq!(said.kind, PublishErrorKind::Link, "{said}");

    // The others noticed nothing: the same connection, and what was subscribed before.
    assert!(matches!(*stays.link().borrow(), LinkState::Up { generation: 1 }));
    assert!(matches!(*site.service.link().borrow(), LinkState::Up { generation: 1 }));
    stays.publisher().publish_batch("FARSIDE_LOCAL", "b", &[of("dc1", 3)], None).await.unwrap();
    let (answer, ()) = tokio::join!(
        site.service.request::<_, Value>("far.v1.local.cmd.dc1.resource.sync", EMPTY, WAIT),
        async { commands.next().await.unwrap().reply(&json!("here")).await.unwrap() }
    );
    assert_eq!(answer.unwrap(), json!("here"));

    drop((stays, goes));
    let site = site.again().await;
    let error = refused(Bus::connect(site.options("goes")).await);
    assert!(matches!(error, BusError::Unauthorized { .. }), "{error}");
    let stays = site.come_in("stays").await;
    stays.publisher().publish("FARSIDE_LOCAL", &of("dc1", 4), None).await.unwrap();
    is_mute(&stays, "far.v1.local.evt.dc2.resource.r1.changed").await;
    let enrolled = site.server.roster().agents().await;
    assert_eq!(enrolled.into_iter().map(|agent| agent.scope.id).collect::<Vec<_>>(), [id("stays")]);
}

#[tokio::test]
async fn nothing_is_lost_while_agents_are_enrolled_and_revoked() {
    let site = Site::start().await;
    site.enroll("busy", &["dc1"]).await.unwrap();
    let busy = site.come_in("busy").await;
    let publishing = async {
        for number in 0..2_000 {
            let said = of("dc1", number);
            eventually("it is stored", async || {
                match busy.publisher().publish("FARSIDE_LOCAL", &said, None).await {
                    // While the server takes a configuration in, it may know no way to the log for a moment.
                    Err(error) if error.kind == PublishErrorKind::NoStream => None,
                    stored => Some(stored.unwrap()),
                }
            })
            .await;
        }
    };
    let enrolling = async {
        for round in 0..5 {
            let (one, two) = (format!("one-{round}"), format!("two-{round}"));
            site.enroll(&one, &["dc1", "dc2"]).await.unwrap();
            site.enroll(&two, &["dc3"]).await.unwrap();
            site.server.roster().revoke_agent(&id(&one)).await.unwrap();
        }
    };
    within("all of them are stored", async { tokio::join!(publishing, enrolling) }).await;
    assert_eq!(site.stored("FARSIDE_LOCAL").await, 2_000);
    let batch = events(3_000..3_010);
    site.service.publisher().publish_batch("FARSIDE_LOCAL", "b", &batch, None).await.unwrap();
}

#[tokio::test]
async fn an_enrolment_that_cannot_be_says_why_and_changes_nothing() {
    let site = Site::start().await;
    let a = site.enroll("a", &["dc1"]).await.unwrap();
    let roster = site.server.roster();
    let again = AgentIdentity { public_key: site.identity("c", &["dc2"]).public_key, ..a.clone() };
    let same_key = AgentIdentity {
        scope: AgentScope { id: id("b"), ..a.scope.clone() },
        public_key: a.public_key.clone(),
    };
    let none = AgentScope { clusters: BTreeSet::new(), id: id("d"), ..a.scope.clone() };
    let none = AgentIdentity { scope: none, public_key: again.public_key.clone() };
    let service = site.server.service_options("x").credentials;
    let Credentials::NkeySeedFile(service) = service else { panic!("it has a seed") };
    let own = nkeys_public(&std::fs::read_to_string(service).unwrap());
    let own = AgentIdentity { public_key: own.parse().unwrap(), ..same_key.clone() };
    for (wrong, words) in [
        (again, "enrolled already, for dc1"),
        (same_key, "is that of the agent local/a"),
        (own, "is that of farside itself"),
        (none, "name at least one"),
    ] {
        let error = refused(roster.enroll_agent(wrong).await).to_string();
        assert!(error.contains(words), "{error}");
    }
    let unknown = refused(roster.revoke_agent(&id("nobody")).await).to_string();
    assert!(unknown.contains("no agent local/nobody") && unknown.contains("agent list"), "{unknown}");
    assert_eq!(roster.agents().await, [a]);
    site.come_in("a").await.publisher().publish("FARSIDE_LOCAL", &of("dc1", 1), None).await.unwrap();
}

#[tokio::test]
async fn off_loopback_nobody_talks_in_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let tls = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(file);
    let ca_file = Some(tls("ca.pem"));
    let tls = ManagedTls { cert_file: tls("server.pem"), key_file: tls("server.key"), ca_file };
    let host = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let options = ManagedOptions { host, tls: Some(tls), ..ManagedOptions::new(dir.path()) };
    let server = ManagedServer::start(options).await.unwrap();
    assert!(server.url().starts_with("tls://127.0.0.1:"), "{}", server.url());
    let service = Bus::connect(server.service_options("service")).await.unwrap();
    service.ensure_stream(&site_log()).await.unwrap();

    let password = std::fs::read_to_string(dir.path().join("keys/publisher.password")).unwrap();
    let mut plain = TcpStream::connect(server.url().trim_start_matches("tls://")).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    let login = json!({ "user": "publisher", "pass": password.trim(), "verbose": true, "pedantic": false });
    let mut first = String::new();
    BufReader::new(&plain).read_line(&mut first).unwrap();
    assert!(first.contains("\"tls_required\":true"), "{first}");
    let mut said = vec![];
    // The server may have closed before everything was said or read.
    let _ = write!(plain, "CONNECT {login}\r\nPING\r\n");
    let _ = plain.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("+OK") && !said.contains("PONG"), "it was let in: {said}");
    let untrusted = ConnectOptions { tls_ca_file: None, ..server.service_options("stranger") };
    assert!(Bus::connect(untrusted).await.is_err(), "a certificate of nobody is believed");
}
