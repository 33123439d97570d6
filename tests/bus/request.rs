//! Commands: an answer, or an error that says why there is none.

use std::time::Duration;

use bus::{BusError, ConnectOptions, RequestError};
use serde_json::{Value, json};

use crate::support::{nats::Nats, nats::free_port, refused, within};

const SUBJECT: &str = "far.v1.local.cmd.dc1.resource.sync";
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_command_is_answered_or_the_error_says_why_not() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let nobody = bus.request::<_, Value>(SUBJECT, &json!({}), SHORT).await;
    assert!(matches!(refused(nobody), RequestError::NoResponders { .. }));

    let agent = nats.bus().await;
    let command = json!({"since": "5"});
    let mut requests = agent.serve("far.v1.local.cmd.dc1.resource.*").await.unwrap();
    let (answer, request) =
        tokio::join!(bus.request::<_, Value>(SUBJECT, &command, Duration::from_secs(10)), async {
            let request = requests.next().await.unwrap();
            request.reply(&json!({"accepted": true})).await.unwrap();
            request
        },);
    assert_eq!(answer.unwrap(), json!({"accepted": true}));
    assert_eq!((&*request.subject, &*request.body), (SUBJECT, &b"{\"since\":\"5\"}"[..]));

    let silent = bus.request::<_, Value>(SUBJECT, &json!({}), SHORT).await;
    assert!(matches!(refused(silent), RequestError::TimedOut { wait_ms: 100, .. }));

    let (answer, ()) =
        tokio::join!(bus.request::<_, u64>(SUBJECT, &command, Duration::from_secs(10)), async {
            // The first in the queue is the one that timed out.
            requests.next().await.unwrap();
            requests.next().await.unwrap().reply(&json!("text")).await.unwrap();
        });
    assert!(matches!(refused(answer), RequestError::Malformed { .. }));
}

#[tokio::test]
async fn a_first_connect_that_fails_says_where_and_what_to_do() {
    let servers = format!("nats://127.0.0.1:{}", free_port());
    let options = ConnectOptions { servers: servers.clone(), ..ConnectOptions::default() };
    let error = refused(within("refused at once", bus::Bus::connect(options)).await);
    let expected = format!(
        "cannot reach NATS at {servers}: connection refused; start it, or run 'farside up', which brings its own"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn while_the_link_is_down_nothing_is_sent_that_would_come_late() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    let mut link = bus.link();
    nats.kill().await;
    within("down", link.wait_for(|state| matches!(state, bus::LinkState::Down { .. }))).await.unwrap();
    let error = refused(bus.request::<_, Value>(SUBJECT, &json!({}), SHORT).await);
    assert!(matches!(error, RequestError::Bus(BusError::Link { .. })), "{error}");
    let error = refused(bus.publisher().publish("FARSIDE_LOCAL", &super::event(1), None).await);
    assert_eq!(error.kind, bus::PublishErrorKind::Link, "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_sync_always_is_found_out() {
    use bus::doctor::{SyncAlways, sync_always};
    let durable = Nats::start().await;
    assert_eq!(sync_always(&durable.monitor_url()).await, SyncAlways::Yes);
    let lazy = Nats::start_with("sync_interval: 90s").await;
    let interval = Duration::from_secs(90);
    assert_eq!(sync_always(&lazy.monitor_url()).await, SyncAlways::No { interval });
    for url in [lazy.url(), format!("http://127.0.0.1:{}", free_port()), lazy.url().replace("nats", "http")] {
        assert!(matches!(sync_always(&url).await, SyncAlways::Unknown { .. }), "{url}");
    }
}
