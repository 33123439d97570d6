//! The verbs of the real binary: what they answer, and what they say when something is wrong.

use std::{fs, net::TcpListener};

use serde_json::{Value, json};

use crate::support::{
    eventually,
    farside::{AgentProcess, Up, command, farside, private, with_files},
    nats::Nats,
};

mod enrolment;
mod start;
mod verbs;

/// A farside with one agent that reads a directory of two documents.
fn up_with_agent() -> Up {
    Up::with_agent(&[
        ("source/web.yaml", "kind: VM\nid: web\nrevision: \"1\"\nstate: {cpus: 2}\n"),
        ("source/db.yaml", "kind: VM\nid: db\nrevision: \"1\"\nstate: {cpus: 8}\n"),
    ])
}

async fn in_sync(up: &Up) -> Value {
    eventually("the pool is in sync", async || {
        let said = up.verb(&["-o", "json", "status"]);
        let status = said.json();
        (said.code == Some(0) && status["pools"][0]["in_sync"] == json!("yes")).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_is_in_sync_and_ends_with_3_when_something_is_not() {
    let up = up_with_agent();
    let status = in_sync(&up).await;
    let pool = &status["pools"][0];
    assert_eq!((&pool["pool"], &pool["resources"]), (&json!("local/dc1"), &json!(2)), "{pool}");
    assert_eq!(pool["owners"][0]["alive"], json!(true));
    let text = up.verb(&["status"]).out;
    assert!(text.contains("local/dc1") && text.contains("1/1 alive"), "{text}");
    assert_eq!(up.verb(&["status", "dc9"]).code, Some(1));
    // A source that announces a state and never sends it leaves the pool behind.
    let notice = format!(
        r#"{{"kind":"VM","id":"x","revision":"2","state_hash":"{}","size_bytes":"9"}}"#,
        "0".repeat(64)
    );
    up.json(&["publish", "dc2", "resource.noticed", "--data", &notice, "--applied"]);
    let said = up.verb(&["status"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.out.contains("1 states that have not come"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_confirm_mends_a_drift_before_the_command_runs_and_passes_its_code_on() {
    let up = up_with_agent();
    in_sync(&up).await;
    let mark = up.dir().join("ran");
    let touch = format!("touch {}; exit 7", mark.display());
    // The agent may not have noticed this yet; the command must not run on what the pool had before.
    fs::write(up.dir().join("source/web.yaml"), "kind: VM\nid: web\nrevision: \"2\"\nstate: {cpus: 4}\n")
        .unwrap();
    let said = up.verb(&["confirm", "dc1", "VM/web", "--", "sh", "-c", &touch]);
    assert_eq!(up.json(&["pool", "get", "dc1", "VM/web"])["state"]["cpus"], json!(4));
    assert_eq!((said.code, mark.exists()), (Some(7), true), "{said:?}");
    let confirmed = up.json(&["confirm", "dc1", "VM/web", "VM/db"]);
    assert_eq!((&confirmed["go"], confirmed["resources"].as_array().map(Vec::len)), (&json!(true), Some(2)));

    fs::remove_file(&mark).unwrap();
    let said = up.verb(&["confirm", "dc1", "VM/web", "VM/none", "--", "sh", "-c", &touch]);
    assert_eq!((said.code, mark.exists()), (Some(3), false), "{said:?}");
    assert!(said.err.contains("missing") && said.err.contains("was not run"), "{said:?}");
    let said = up.verb(&["confirm", "dc1", "VM/web", "--", "/no/such/program"]);
    assert_eq!(said.code, Some(127), "{said:?}");
    assert_eq!(up.verb(&["confirm", "dc1", "not-a-key"]).code, Some(125));
    let dir = tempfile::tempdir().unwrap();
    let said = farside(dir.path(), &["confirm", "dc1", "VM/web", "--", "true"]);
    assert!(said.code == Some(125) && said.err.contains("cannot reach farside"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_the_key_that_a_source_announced_opens_its_pool_to_its_tenant() {
    let up = up_with_agent();
    in_sync(&up).await;
    let header = [("Authorization", "Bearer ak-dc1.correct horse battery staple")];
    let (status, page) = up.get("/v1/pools/local/dc1/resources", &header);
    assert!(status == 200 && page.contains("VM/web"), "{status} {page}");
    assert_eq!(up.get("/v1/pools/local/dc2/resources", &header).0, 404);
    let list = up.verb(&["key", "list"]).out;
    assert!(list.contains("the source of local/dc1") && !list.contains("horse"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_and_an_agent_of_its_own_work_against_an_existing_nats() {
    let nats = Nats::start().await;
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let agent = format!(
        "name = \"inv\"\nledger = \"inv.redb\"\nheartbeat_s = 1\n[[clusters]]\nname = \"dc1\"\n{}",
        concat!(
            "source = { adapter = \"directory\", path = \"source\" }\n",
            "keys = [{ id = \"ak\", tenant = \"acme\", secret_file = \"ak.secret\" }]\n",
        )
    );
    let config = format!("[nats]\nservers = \"{}\"\n[service]\nlog_bytes_max = 268435456\n", nats.url());
    let files = [
        ("farside.toml", config.as_str()),
        ("agent.toml", agent.as_str()),
        ("ak.secret", "an access key of this source"),
        ("source/web.yaml", "kind: VM\nid: web\nrevision: \"1\"\nstate: {cpus: 2}\n"),
    ];
    with_files(dir.path(), &files);
    private(&dir.path().join("ak.secret"));
    let up = Up::start_as("serve", dir);
    let agent = AgentProcess::start(up.dir(), &["agent.toml"]);
    in_sync(&up).await;
    assert_eq!(up.json(&["pool", "get", "dc1", "VM/web"])["state"]["cpus"], json!(2));
    assert!(agent.stop().success());
    eventually("the pool says that its source was stopped", async || {
        let said = up.verb(&["status"]);
        (said.code == Some(3) && said.out.contains("was stopped at")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_stands_by_while_another_one_acts_and_takes_over_when_that_is_gone() {
    let nats = Nats::start().await;
    let config = format!(
        "[nats]\nservers = \"{}\"\n[service]\nlog_bytes_max = 268435456\nlease_ttl = \"5s\"\n",
        nats.url()
    );
    let serve = || {
        let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
        with_files(dir.path(), &[("farside.toml", config.as_str())]);
        Up::start_as("serve", dir)
    };
    let (first, second) = (serve(), serve());
    assert!(first.verb(&["status"]).out.contains("acts (holds the lease)"));
    let said = second.verb(&["status"]);
    assert!(said.out.contains("stands by (another process acts)"), "{said:?}");
    // Nobody takes over from whoever stands still, until it has been silent for long enough.
    first.stand_still();
    eventually("nobody is known to act, or the second one does", async || {
        let status = second.json(&["status"]);
        (status["lease"]["acting"] != json!("elsewhere")).then_some(())
    })
    .await;
    eventually("the second one acts", async || {
        second.verb(&["status"]).out.contains("acts (holds the lease)").then_some(())
    })
    .await;
}

#[test]
fn a_verb_without_a_farside_says_where_it_looked_and_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let said = farside(dir.path(), &["status"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(
        said.err.trim(),
        "farside: cannot reach farside at data/farside.sock: no such file; start it with 'farside up' or 'farside serve'"
    );
    assert_eq!(farside(dir.path(), &["stauts"]).code, Some(2));
    assert_eq!(farside(dir.path(), &["--help"]).code, Some(0));
}

#[test]
fn an_unknown_key_in_the_configuration_is_an_error_that_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("farside.toml"), "[service]\ntarget = \"local\"\nsights = [\"a\"]\n").unwrap();
    let said = farside(dir.path(), &["up"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("line 3") && said.err.contains("sights"), "{said:?}");
    let said = farside(dir.path(), &["up", "-c", "none.toml"]);
    assert!(said.err.contains("none.toml"), "{said:?}");
}

#[test]
fn an_occupied_port_and_a_second_farside_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = farside(dir.path(), &["up", "--listen", &address]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&address) && said.err.contains("--listen"), "{said:?}");
    let said = farside(dir.path(), &["up", "--listen", "0.0.0.0:0"]);
    assert!(said.err.contains("no TLS yet"), "{said:?}");
    assert!(!dir.path().join("data/farside.sock").exists(), "a farside that did not start leaves no socket");
    let up = Up::start("");
    let said = up.verb(&["up", "--listen", "127.0.0.1:0"]);
    assert!(said.code == Some(1) && said.err.contains("another farside"), "{said:?}");
}

#[test]
fn farside_ends_cleanly_and_keeps_its_token_and_pool() {
    let up = Up::start("");
    up.publish("dc1", "Pod/a", "1", "{}");
    let token = up.token();
    let (status, dir) = up.stop();
    assert!(status.success(), "{status}");
    assert!(!dir.path().join("data/farside.sock").exists());
    let up = Up::start_in(dir);
    assert_eq!(up.token(), token);
    assert_eq!(up.json(&["pool", "get", "dc1", "Pod/a"])["revision"], json!("1"));
}

#[test]
fn a_tenant_can_use_the_verbs_over_tcp() {
    let up = Up::start("");
    let url = format!("http://{}", up.address());
    let said = up.verb(&["--url", &url, "pool", "list"]);
    assert!(said.code == Some(1) && said.err.contains("FARSIDE_TOKEN"), "{said:?}");
    let with = |token: &str| {
        let mut verb = command(up.dir());
        let output = verb.env("FARSIDE_TOKEN", token).args(["--url", &url, "pool", "list"]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = with("ak.wrong");
    assert!(code == Some(1) && err.contains("what is in FARSIDE_TOKEN"), "{err}");
    assert_eq!(with(&up.token()), (Some(0), String::new()));
}

#[test]
fn completions_and_manual_pages_come_from_the_definitions() {
    let dir = tempfile::tempdir().unwrap();
    assert!(farside(dir.path(), &["completions", "bash"]).out.contains("confirm"));
    assert_eq!(farside(dir.path(), &["man", "man"]).code, Some(0));
    assert!(dir.path().join("man/farside-confirm.1").exists());
}

fn finding<'a>(findings: &'a Value, check: &str) -> &'a Value {
    findings.as_array().unwrap().iter().find(|finding| finding["check"] == check).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_the_missing_sync_interval_of_a_stock_server_and_does_not_guess_without_a_monitor() {
    let stock = Nats::start_with("").await;
    let dir = tempfile::tempdir().unwrap();
    let (url, monitor) = (stock.url(), stock.monitor_url());
    let said = farside(dir.path(), &["-o", "json", "doctor", "--nats", &url, "--monitor-url", &monitor]);
    let found = said.json();
    let sync = finding(&found, "sync_interval");
    assert_eq!((said.code, &sync["verdict"]), (Some(1), &json!("FAIL")));
    assert!(sync["advice"].as_str().unwrap().contains("sync_interval: always"), "{sync}");

    let found = farside(dir.path(), &["-o", "json", "doctor", "--nats", &url]).json();
    let sync = finding(&found, "sync_interval");
    assert_eq!(sync["verdict"], json!("UNKNOWN"));
    assert!(sync["advice"].as_str().unwrap().contains("--monitor-url"), "{sync}");

    let durable = Nats::start().await;
    let (url, monitor) = (durable.url(), durable.monitor_url());
    let found =
        farside(dir.path(), &["-o", "json", "doctor", "--nats", &url, "--monitor-url", &monitor]).json();
    assert_eq!(finding(&found, "sync_interval")["verdict"], json!("OK"));
}

#[test]
fn doctor_finds_nothing_wrong_with_a_managed_farside() {
    let up = Up::start("");
    let found = up.verb(&["-o", "json", "doctor"]).json();
    for check in ["nats", "clock", "sync_interval", "permissions", "farside"] {
        assert_eq!(finding(&found, check)["verdict"], json!("OK"), "{found}");
    }
}
