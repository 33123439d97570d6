//! How the binary starts, and what it says when it does not.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    eventually,
    farside::{Up, Waiting, command, farside, log_of, with_files},
    nats::Nats,
};

/// An agent whose access key is in `ak.secret`.
const AGENT: &str = r#"
    [[agent.resource]]
    name = "inv"
    ledger = "inv.redb"
    [[agent.resource.clusters]]
    name = "dc1"
    source = { adapter = "directory", path = "source" }
    keys = [{ id = "ak-dc1", tenant = "acme", secret_file = "ak.secret" }]
"#;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_agent_that_cannot_run_is_told_before_farside_says_that_it_is_up() {
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    with_files(dir.path(), &[("farside.toml", AGENT), ("source/a.yaml", "kind: VM\nid: a\nstate: {}\n")]);
    let up = || farside(dir.path(), &["up", "--listen", "127.0.0.1:0"]);
    let said = up();
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains("agent inv") && said.err.contains("ak.secret"), "{said:?}");
    fs::write(dir.path().join("ak.secret"), "correct horse battery staple").unwrap();
    set_mode(&dir.path().join("ak.secret"), 0o644);
    let said = up();
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains("chmod go-rwx ak.secret"), "{said:?}");
    for left in ["farside.sock", "nats.json"] {
        assert!(!dir.path().join("data").join(left).exists(), "{left} is left over");
    }
    set_mode(&dir.path().join("ak.secret"), 0o600);
    Up::start_in(dir);
}

#[test]
fn agents_that_would_come_up_and_fail_are_told_before_farside_says_that_it_is_up() {
    let agent = |cluster: &str, source: &str| {
        let source = format!("{{ adapter = \"directory\", path = \"source\"{source} }}");
        format!(
            "[[agent.resource]]\nname = \"inv\"\nledger = \"{cluster}.redb\"\n\
             [[agent.resource.clusters]]\nname = \"{cluster}\"\nsource = {source}\n"
        )
    };
    for (config, words) in [
        (agent("dc1", "") + &agent("dc2", ""), "two agents of the site local are called inv"),
        (agent("target", ""), "the cluster target of the agent inv"),
        (agent("dc1", ", every_s = 0"), "every_s = 0"),
    ] {
        let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
        with_files(dir.path(), &[("farside.toml", &config), ("source/a.yaml", "kind: VM\nid: a\n")]);
        let said = farside(dir.path(), &["up", "--listen", "127.0.0.1:0"]);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{words}: {said:?}");
        assert!(said.err.contains(words), "{words}: {said:?}");
    }
}

#[test]
fn a_pool_that_cannot_be_opened_says_what_helps_and_that_helps() {
    let mut up = Up::start("");
    up.publish("dc1", "Pod/a", "1", "{}");
    for damage in ["cut", "short", "garbage"] {
        let (status, dir) = up.stop();
        assert!(status.success(), "{status}");
        let pool = dir.path().join("data/pool.redb");
        let good = fs::read(&pool).unwrap();
        let bad = match damage {
            "cut" => good[..good.len() / 2].to_vec(),
            "short" => good[..100].to_vec(),
            _ => b"this is no pool ".repeat(4_096),
        };
        fs::write(&pool, bad).unwrap();
        let said = farside(dir.path(), &["up", "--listen", "127.0.0.1:0"]);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{damage}: {said:?}");
        let advice = "move data/pool.redb aside and start farside again";
        assert!(said.err.contains("is damaged") && said.err.contains(advice), "{damage}: {said:?}");
        fs::rename(&pool, dir.path().join("data/aside.redb")).unwrap();
        up = Up::start_in(dir);
        // The first start is ready when it acts; the pool is read again meanwhile.
        up.publish("dc1", "Pod/b", damage, "{}");
        assert_eq!(up.json(&["pool", "get", "dc1", "Pod/a"])["revision"], json!("1"), "{damage}");
    }
}

#[test]
fn up_does_not_pass_over_the_address_of_another_nats() {
    let dir = tempfile::tempdir().unwrap();
    let said = farside(dir.path(), &["up", "--nats", "nats://127.0.0.1:1"]);
    assert!(said.code == Some(2) && said.err.contains("farside serve"), "{said:?}");
    fs::write(dir.path().join("farside.toml"), "[nats]\nservers = \"nats://127.0.0.1:1\"\n").unwrap();
    let said = farside(dir.path(), &["up"]);
    assert!(said.code == Some(2) && said.err.contains("farside serve"), "{said:?}");
}

#[test]
fn nobody_becomes_the_operator_by_leaving_the_url_out() {
    let dir = tempfile::tempdir().unwrap();
    let said = farside(dir.path(), &["--as-tenant", "acme/web", "pool", "list"]);
    assert!(
        said.code == Some(2) && said.err.contains("--as-tenant") && said.err.contains("--url"),
        "{said:?}"
    );
    let with_token = |verb: &[&str]| {
        let output = command(dir.path()).env("FARSIDE_TOKEN", "ak.secret").args(verb).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = with_token(&["status"]);
    assert!(code == Some(2) && err.contains("FARSIDE_TOKEN") && err.contains("--url"), "{err}");
    assert_eq!(with_token(&["confirm", "dc1", "VM/web", "--", "true"]).0, Some(125));
    assert_eq!(with_token(&["completions", "bash"]).0, Some(0));
}

#[test]
fn data_directory_and_pool_are_private_whatever_they_were() {
    let up = Up::start("");
    let (_, dir) = up.stop();
    let data = dir.path().join("data");
    assert_eq!((mode(&data), mode(&data.join("pool.redb"))), (0o700, 0o600));
    set_mode(&data, 0o755);
    set_mode(&data.join("pool.redb"), 0o644);
    let up = Up::start_in(dir);
    assert_eq!((mode(&data), mode(&data.join("pool.redb"))), (0o700, 0o600));
    let log = log_of(up.dir());
    assert!(log.contains("others could enter the data directory"), "{log}");
    assert!(!log.contains('\x1b'), "a log that no terminal shows has no colours: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_warns_when_nats_acknowledges_before_the_disk_has_it() {
    let stock = Nats::start_with("").await;
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let config = format!(
        "[nats]\nservers = \"{}\"\nmonitor_url = \"{}\"\n[service]\nlog_bytes_max = 268435456\n",
        stock.url(),
        stock.monitor_url()
    );
    fs::write(dir.path().join("farside.toml"), config).unwrap();
    let up = Up::start_as("serve", dir);
    eventually("serve says what the power may take", async || {
        let log = log_of(up.dir());
        (log.contains("WARN") && log.contains("sync_interval: always")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_while_nats_is_waited_for_is_told_so_at_once_and_the_wait_ends_cleanly() {
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let waiting = Waiting::start(dir.path());
    assert_eq!(waiting.get("/healthz").await, (200, "ok\n".to_owned()));
    for path in ["/readyz", "/metrics", "/v1/status"] {
        let (status, problem) = waiting.get(path).await;
        assert!(status == 503 && problem.contains("NATS is waited for"), "{path}: {status} {problem}");
    }
    let began = Instant::now();
    let said = farside(dir.path(), &["status"]);
    assert!(said.code == Some(1) && said.err.contains("NATS is waited for"), "{said:?}");
    let found = farside(dir.path(), &["doctor"]).out;
    assert!(found.contains("NATS is waited for"), "{found}");
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    assert_eq!(waiting.stop().code(), Some(0), "{}", log_of(dir.path()));
    assert!(!dir.path().join("data/farside.sock").exists(), "the socket is left over");
}

#[test]
fn a_verb_does_not_wait_for_ever_for_a_farside_that_stands_still() {
    let up = Up::start("");
    up.stand_still();
    for verb in [["status"].as_slice(), &["sync", "dc1"]] {
        let said = up.verb(verb);
        assert!(said.code == Some(1) && said.err.contains("does not answer"), "{said:?}");
    }
    up.go_on();
    assert_eq!(up.verb(&["status"]).code, Some(0));
}
