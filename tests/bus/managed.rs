//! The managed server: one owner, kept alive, and each identity may do its own only.

use std::{
    env, ffi::OsString, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration,
};

use bus::managed::{ManagedError, ManagedOptions, ManagedServer};
use bus::{Bus, BusError, ConnectOptions, Outgoing, PublishErrorKind};
use serde_json::{Value, json};

use super::{event, fact};
use crate::support::{eventually, nats::free_port, nats::site_log, nats::target_log, refused, within};

async fn start(dir: &Path) -> ManagedServer {
    ManagedServer::start(ManagedOptions::new(dir)).await.unwrap()
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
    for file in ["nats-server.conf", "keys/service.nk", "keys/agent.nk", "lock"] {
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

#[tokio::test]
async fn each_identity_may_do_its_own_only_and_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let service = connect(server.service_options("service")).await;
    service.ensure_stream(&site_log()).await.unwrap();
    service.ensure_stream(&target_log()).await.unwrap();
    let agent = connect(server.agent_options("agent")).await;
    let anonymous =
        connect(ConnectOptions { servers: server.url().into(), ..ConnectOptions::default() }).await;

    for (number, bus) in [&service, &agent, &anonymous].into_iter().enumerate() {
        bus.publisher().publish("FARSIDE_LOCAL", &event(number), None).await.unwrap();
        bus.publisher().publish_batch("FARSIDE_LOCAL", "b", &[event(number + 10)], None).await.unwrap();
    }
    service.publisher().publish("FARSIDE_TGT_LOCAL", &fact(1), None).await.unwrap();
    let asked = tokio::time::Instant::now();
    for bus in [&agent, &anonymous] {
        let publisher = bus.publisher();
        let plain = refused(publisher.publish("FARSIDE_TGT_LOCAL", &fact(2), None).await);
        let batch = refused(publisher.publish_batch("FARSIDE_TGT_LOCAL", "b", &[fact(3)], None).await);
        let subject = "far.v1.local.dlq.pump.resource".to_owned();
        let letter = refused(publisher.publish("X", &Outgoing { subject, ..event(1) }, None).await);
        for error in [plain, batch, letter] {
            assert_eq!(error.kind, PublishErrorKind::Refused, "{error}");
        }
        assert!(matches!(refused(bus.stream_state("FARSIDE_LOCAL").await), BusError::Denied { .. }));
        let target = bus.serve("far.v1.local.cmd.target.>").await;
        assert!(matches!(refused(target), BusError::Denied { .. }));
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "told at once: {:?}", asked.elapsed());
    assert!(matches!(refused(anonymous.serve("far.v1.local.cmd.>").await), BusError::Denied { .. }));
}

#[tokio::test]
async fn an_agent_answers_commands_and_says_hello() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let service = connect(server.service_options("service")).await;
    let agent = connect(server.agent_options("agent")).await;
    let mut commands = agent.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap();
    let mut hellos = service.serve("far.v1.*.cmd.*.agent.hello").await.unwrap();
    let (wait, command) = (Duration::from_secs(10), json!({}));
    let (answer, ()) = tokio::join!(
        service.request::<_, Value>("far.v1.local.cmd.dc1.resource.sync", &command, wait),
        async { commands.next().await.unwrap().reply(&json!("done")).await.unwrap() },
    );
    assert_eq!(answer.unwrap(), json!("done"));
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
