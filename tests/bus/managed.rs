//! The managed server: one owner, kept alive, and each identity may do its own only.

use std::{
    env, ffi::OsString, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration,
};

use bus::managed::{AgentId, AgentScope, ManagedError, ManagedOptions, ManagedServer};
use bus::{Bus, BusError, ConnectOptions, Outgoing, PublishErrorKind};
use bus_schema::Stem;
use serde_json::{Value, json};

use super::{event, fact};
use crate::support::{
    eventually,
    nats::{dead_letters, free_port, name, site_log, target_log},
    refused, within,
};

async fn start(dir: &Path) -> ManagedServer {
    ManagedServer::start(options(dir)).await.unwrap()
}

/// One agent of the owner's configuration, `inv`, with two clusters.
fn options(dir: &Path) -> ManagedOptions {
    let (clusters, stems) = (["dc1", "prod-eu"].map(name).into(), [Stem::Resource].into());
    let agents = vec![AgentScope { id: inv(), clusters, stems }];
    ManagedOptions { agents, ..ManagedOptions::new(dir) }
}

fn inv() -> AgentId {
    AgentId { site: name("local"), name: name("inv") }
}

async fn connect(options: ConnectOptions) -> Bus {
    Bus::connect(options).await.unwrap()
}

fn lives(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

#[tokio::test]
async fn a_store_has_one_owner_and_private_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = start(&store).await;
    let error = refused(ManagedServer::start(ManagedOptions::new(&store)).await);
    let holder = format!("process {}", std::process::id());
    assert!(matches!(&error, ManagedError::InUse { .. }) && error.to_string().contains(&holder), "{error}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&store), mode(&store.join("keys"))), (0o700, 0o700));
    assert_eq!(mode(&store.join("keys/agents")), 0o700);
    for file in ["nats-server.conf", "keys/service.nk", "keys/agents/local.inv.nk", "lock"]
        .into_iter()
        .chain(["keys/publisher.password", "keys/publisher.url"])
    {
        assert_eq!(mode(&store.join(file)), 0o600, "{file}");
    }
    let (pid, url) = (server.pid().unwrap(), server.url().to_owned());
    within("it stops", server.stop()).await;
    assert!(!lives(pid));
    let server = start(&store).await;
    assert_eq!(server.url(), url, "it comes back where it was");
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_and_has_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let bus = connect(server.service_options("test")).await;
    bus.ensure_stream(&site_log()).await.unwrap();
    bus.publisher().publish("FARSIDE_LOCAL", &event(1), None).await.unwrap();
    let (pid, mut link) = (server.pid().unwrap(), bus.link());
    kill(pid);
    let again = eventually("it is started again", async || server.pid().filter(|now| *now != pid)).await;
    assert!(lives(again));
    within("up", link.wait_for(|state| matches!(state, bus::LinkState::Up { generation: 2.. })))
        .await
        .unwrap();
    assert_eq!(bus.stream_state("FARSIDE_LOCAL").await.unwrap().messages, 1);
}

#[tokio::test]
async fn a_server_that_a_killed_owner_left_behind_is_ended_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().canonicalize().unwrap();
    within("it stops", start(&store).await.stop()).await;
    let binary = bus::managed::find_binary(None).unwrap();
    let mut command = Command::new(binary);
    let mut left = command.arg("-c").arg(store.join("nats-server.conf")).spawn().unwrap();
    eventually("it runs", async || {
        let pid = fs::read_to_string(store.join("nats-server.pid")).ok()?;
        (pid.trim() == left.id().to_string()).then_some(())
    })
    .await;
    let waiter = std::thread::spawn(move || left.wait().unwrap());
    let server = start(&store).await;
    waiter.join().unwrap();
    connect(server.service_options("test")).await;

    // A process id that now is somebody else's is left alone.
    within("it stops", server.stop()).await;
    fs::write(store.join("nats-server.pid"), std::process::id().to_string()).unwrap();
    start(&store).await;
}

#[tokio::test]
async fn a_dropped_server_ends_and_a_taken_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let options = ManagedOptions { port: Some(port), ..ManagedOptions::new(dir.path()) };
    let error = refused(ManagedServer::start(options.clone()).await);
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    drop(listener);
    let server = ManagedServer::start(options).await.unwrap();
    assert_eq!(server.url(), format!("nats://127.0.0.1:{port}"));
    let pid = server.pid().unwrap();
    drop(server);
    eventually("it ends", async || (!lives(pid)).then_some(())).await;
    let open = ManagedOptions { host: [0, 0, 0, 0].into(), ..ManagedOptions::new(dir.path()) };
    assert!(matches!(refused(ManagedServer::start(open).await), ManagedError::NoTls { .. }));
}

/// The URL of the publishers, as any client library takes it.
fn publisher_url(server: &ManagedServer) -> String {
    fs::read_to_string(server.publisher_url_file()).unwrap().trim().to_owned()
}

async fn as_publisher(server: &ManagedServer) -> Bus {
    connect(ConnectOptions { servers: publisher_url(server), ..ConnectOptions::default() }).await
}

/// What only the service may say: facts, commands to agents and to the target, dead letters, renewals of the lease,
/// and anything to JetStream itself.
const SERVICE_ONLY: [&str; 10] = [
    "far.v1.local.tgt.resource.r1.confirmed",
    "far.v1.local.tgt.log.lease.lease_acquired",
    "far.v1.local.cmd.dc1.resource.sync",
    "far.v1.local.cmd.dc1.agent.replay",
    "far.v1.local.cmd.target.resource.confirm",
    "far.v1.local.dlq.pump.resource",
    "far.v1.local.lease.holder",
    "$JS.API.STREAM.MSG.GET.FARSIDE_LOCAL",
    "$JS.API.STREAM.PURGE.FARSIDE_LOCAL",
    "other.things",
];
/// What agents say and a publisher may not: access keys, what agents say about themselves and around an answer (its
/// end deletes), their greeting.
const AGENTS_ONLY: [&str; 10] = [
    "far.v1.local.evt.dc1.resource.r1.sync_opened",
    "far.v1.local.evt.dc1.resource.r1.sync_closed",
    "far.v1.local.evt.prod-eu.resource.sync=2Ffull-1.sync_closed",
    "far.v1.local.evt.dc1.agent.a1.heartbeat",
    "far.v1.local.evt.dc1.key.evil.announced",
    "far.v1.local.evt.prod-eu.key.evil.withdrawn",
    "far.v1.local.evt.dc1.agent.a1.started",
    "far.v1.local.evt.dc1.tenant.acme.changed",
    "far.v1.local.evt.dc1.log.x.parked",
    "far.v1.local.cmd.dc1.agent.hello",
];

async fn is_refused(bus: &Bus, subject: &str) {
    let publisher = bus.publisher();
    let said = || Outgoing { subject: subject.to_owned(), ..event(1) };
    let plain = refused(publisher.publish("FARSIDE_LOCAL", &said(), None).await);
    let batch = refused(publisher.publish_batch("FARSIDE_LOCAL", "b", &[said()], None).await);
    for error in [plain, batch] {
        assert_eq!(error.kind, PublishErrorKind::Refused, "{subject}: {error}");
    }
}

#[tokio::test]
async fn each_identity_may_do_its_own_only_and_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let service = connect(server.service_options("service")).await;
    service.ensure_stream(&site_log()).await.unwrap();
    service.ensure_stream(&target_log()).await.unwrap();
    let agent = connect(server.agent_options(&inv(), "agent")).await;
    let publisher = as_publisher(&server).await;

    for (number, bus) in [&service, &agent, &publisher].into_iter().enumerate() {
        for (n, stem) in ["resource", "volume", "image"].into_iter().enumerate() {
            let number = number * 100 + n;
            let said = |number: usize| {
                let subject = format!("far.v1.local.evt.dc1.{stem}.r1.changed");
                Outgoing { subject, ..event(number) }
            };
            let to = bus.publisher();
            to.publish("FARSIDE_LOCAL", &said(number), None).await.unwrap();
            to.publish_batch("FARSIDE_LOCAL", "b", &[said(number + 10)], None).await.unwrap();
        }
    }
    for bus in [&service, &agent] {
        for subject in AGENTS_ONLY.into_iter().filter(|subject| subject.contains(".evt.")) {
            let (subject, message_id) = (subject.to_owned(), format!("{bus:p}{subject}"));
            let said = Outgoing { subject, message_id, ..event(1) };
            bus.publisher().publish("FARSIDE_LOCAL", &said, None).await.unwrap();
        }
    }
    service.publisher().publish("FARSIDE_TGT_LOCAL", &fact(1), None).await.unwrap();
    let before = service.stream_state("FARSIDE_LOCAL").await.unwrap().messages;

    let asked = tokio::time::Instant::now();
    for bus in [&agent, &publisher] {
        for subject in SERVICE_ONLY {
            is_refused(bus, subject).await;
        }
        for subject in ["far.v1.local.cmd.target.>", "far.v1.*.cmd.*.agent.hello", "far.v1.local.evt.>", ">"]
        {
            let heard = bus.serve(subject).await;
            assert!(matches!(refused(heard), BusError::Denied { .. }), "{subject}");
        }
        assert!(matches!(refused(bus.stream_state("FARSIDE_LOCAL").await), BusError::Denied { .. }));
        assert!(matches!(refused(bus.ensure_stream(&dead_letters()).await), BusError::Denied { .. }));
        let read = bus.read_log("FARSIDE_LOCAL", 1, None).await;
        assert!(matches!(refused(read), BusError::Denied { .. }), "reads nothing");
    }
    for subject in AGENTS_ONLY {
        is_refused(&publisher, subject).await;
    }
    assert!(matches!(refused(publisher.serve("far.v1.local.cmd.>").await), BusError::Denied { .. }));
    assert!(asked.elapsed() < Duration::from_secs(15), "told at once: {:?}", asked.elapsed());
    assert_eq!(service.stream_state("FARSIDE_LOCAL").await.unwrap().messages, before);
}

#[tokio::test]
async fn without_credentials_nobody_comes_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let url = publisher_url(&server);
    let wrong = url.replace("nats://publisher:", "nats://publisher:x");
    for servers in [server.url().to_owned(), wrong] {
        let options = ConnectOptions { servers, ..ConnectOptions::default() };
        let error = refused(Bus::connect(options).await);
        assert!(matches!(error, BusError::Unauthorized { .. }), "{error}");
    }
    as_publisher(&server).await;

    within("it stops", server.stop()).await;
    let server = start(dir.path()).await;
    assert_eq!(publisher_url(&server), url, "the password and the port stay");
    as_publisher(&server).await;
}

#[tokio::test]
async fn the_answer_of_the_log_is_no_way_to_say_what_a_publisher_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let service = connect(server.service_options("service")).await;
    service.ensure_stream(&site_log()).await.unwrap();
    service.ensure_stream(&target_log()).await.unwrap();
    let password = fs::read_to_string(dir.path().join("keys/publisher.password")).unwrap();
    let login =
        async_nats::ConnectOptions::with_user_and_password("publisher".into(), password.trim().into());
    let client = login.connect(server.url()).await.unwrap();
    let replies = [
        "far.v1.local.tgt.log.target.lease_acquired",
        "far.v1.local.evt.dc1.key.evil.announced",
        "$JS.API.STREAM.PURGE.FARSIDE_LOCAL",
        "$JS.API.STREAM.DELETE.FARSIDE_LOCAL",
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let Outgoing { subject, body, .. } = event(number);
        client.publish_with_reply(subject, reply, body).await.unwrap();
    }
    client.flush().await.unwrap();
    // Answered in order, so the answers to those before are out when this one is here.
    let last =
        as_publisher(&server).await.publisher().publish("FARSIDE_LOCAL", &event(9), None).await.unwrap();
    let state = service.stream_state("FARSIDE_LOCAL").await.unwrap();
    assert_eq!((last.seq, state.first_seq, state.messages), (5, 1, 5), "nothing but what was published");
    assert_eq!(service.stream_state("FARSIDE_TGT_LOCAL").await.unwrap().messages, 0);
}

#[tokio::test]
async fn an_agent_answers_commands_and_says_hello() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let service = connect(server.service_options("service")).await;
    let agent = connect(server.agent_options(&inv(), "agent")).await;
    let mut commands = agent.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap();
    let mut replays = agent.serve("far.v1.local.cmd.dc1.agent.replay").await.unwrap();
    let mut hellos = service.serve("far.v1.*.cmd.*.agent.hello").await.unwrap();
    let (wait, command) = (Duration::from_secs(10), json!({}));
    let (answer, ()) = tokio::join!(
        service.request::<_, Value>("far.v1.local.cmd.dc1.resource.sync", &command, wait),
        async { commands.next().await.unwrap().reply(&json!("done")).await.unwrap() },
    );
    assert_eq!(answer.unwrap(), json!("done"));
    let (answer, ()) = tokio::join!(
        service.request::<_, Value>("far.v1.local.cmd.dc1.agent.replay", &command, wait),
        async { replays.next().await.unwrap().reply(&json!("sent")).await.unwrap() },
    );
    assert_eq!(answer.unwrap(), json!("sent"));
    let (answer, ()) =
        tokio::join!(agent.request::<_, Value>("far.v1.local.cmd.dc1.agent.hello", &command, wait), async {
            hellos.next().await.unwrap().reply(&json!("welcome")).await.unwrap()
        },);
    assert_eq!(answer.unwrap(), json!("welcome"));
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Where a test tells a second run of this program to own a managed server.
const OWN: &str = "FARSIDE_TEST_OWN";
/// Where a managed server's launcher hands over the arguments of the hidden verb.
const EXEC: &str = "FARSIDE_TEST_EXEC";

#[tokio::test]
async fn a_server_ends_with_an_owner_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let me = env::current_exe().unwrap();
    // Stands in for the farside binary and its hidden verb.
    let launcher = dir.path().join("launcher");
    let test = "bus::managed::becomes_nats_server_when_told";
    let script =
        format!("#!/bin/sh\nshift\n{EXEC}=\"$*\" exec {} --exact {test} --test-threads=1\n", me.display());
    fs::write(&launcher, script).unwrap();
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o700)).unwrap();
    let mut owner = Command::new(&me)
        .args(["--exact", "bus::managed::owns_a_server_when_told"])
        .env(OWN, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = dir.path().join("store/nats-server.pid");
    let started = dir.path().join("started");
    eventually("the owner has its server", async || fs::read(&started).ok()).await;
    let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    assert!(lives(pid));
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the server ends with it", async || (!lives(pid)).then_some(())).await;
}

#[tokio::test]
async fn owns_a_server_when_told() {
    let Some(dir) = env::var_os(OWN) else { return };
    let dir = Path::new(&dir);
    let options =
        ManagedOptions { launcher: Some(dir.join("launcher")), ..ManagedOptions::new(dir.join("store")) };
    let _server = ManagedServer::start(options).await.unwrap();
    fs::write(dir.join("started"), "").unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn becomes_nats_server_when_told() {
    let Ok(args) = env::var(EXEC) else { return };
    let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
    panic!("{}", bus::managed::exec::run(&args));
}
