//! Agents and readers are enrolled and revoked by verbs, on the wire of a real `farside up`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bus::{Bus, BusError, ConnectOptions, Credentials};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{in_sync, up_with_agent};
use crate::support::{
    eventually,
    farside::{AGENT, AgentProcess, Said, Up, private, with_files},
    nats::Nats,
    within,
};

/// A public key whose seed nobody has.
const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

fn with_agent_file(dir: &Path) {
    let web = "kind: VM\nid: web\nrevision: \"1\"\nstate: {cpus: 2}\n";
    with_files(
        dir,
        &[("agent.toml", AGENT), ("ak.secret", "an access key of this source"), ("source/web.yaml", web)],
    );
    private(&dir.join("ak.secret"));
}

/// How somebody with this seed comes in.
async fn come_in(up: &Up, seed: &Path) -> Result<Bus, BusError> {
    let credentials = Credentials::NkeySeedFile(seed.to_owned());
    Bus::connect(ConnectOptions { servers: up.nats_url(), credentials, ..ConnectOptions::default() }).await
}

/// A verb that must fail with this code and these words.
fn fails(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    for word in words {
        assert!(said.err.contains(word), "{word}: {said:?}");
    }
}

/// The bodies of a target's facts of this name.
async fn facts(up: &Up, name: &str) -> Vec<Value> {
    let bus = up.bus().await;
    let last = bus.stream_state("FARSIDE_TGT_LOCAL").await.unwrap().last_seq;
    let mut found = vec![];
    for seq in 1..=last {
        let message = bus.message("FARSIDE_TGT_LOCAL", seq).await.unwrap().unwrap();
        if message.subject().ends_with(name) {
            found.push(serde_json::from_slice(message.body()).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_its_own_is_enrolled_runs_is_revoked_and_both_outlive_a_restart() {
    let up = Up::start("");
    with_agent_file(up.dir());
    let early = up.verb(&["agent", "resource", "agent.toml"]);
    fails(&early, 1, &["the agent inv has no key here", "farside agent enroll inv --cluster local/dc1"]);

    let said = up.verb(&["agent", "enroll", "inv", "--cluster", "dc1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let seed = up.dir().join("data/nats/keys/agents/local.inv.nk");
    assert!(
        said.out.contains("servers = \"nats://127.0.0.1:") && said.out.contains("local.inv.nk"),
        "{said:?}"
    );
    assert_eq!(fs::metadata(&seed).unwrap().permissions().mode() & 0o777, 0o600);
    let agent = AgentProcess::start(up.dir(), &["agent.toml"]);
    in_sync(&up).await;
    let listed = up.json(&["agent", "list"]);
    assert_eq!((&listed[0]["name"], &listed[0]["clusters"]), (&json!("inv"), &json!(["dc1"])), "{listed}");
    let secret = fs::read_to_string(&seed).unwrap();
    let stated = facts(&up, ".enrolled").await;
    assert_eq!((stated.len(), &stated[0]["public_key"]), (1, &listed[0]["public_key"]), "{stated:?}");
    assert!(!stated[0].to_string().contains(secret.trim()), "a seed is on the log");

    let copy = up.dir().join("copy.nk");
    fs::copy(&seed, &copy).unwrap();
    let (status, dir) = up.stop();
    assert!(status.success(), "{status}");
    let up = Up::start_in(dir);
    in_sync(&up).await;
    assert_eq!(up.json(&["agent", "list"]), listed, "enrolments outlive a restart");

    let said = up.verb(&["agent", "revoke", "inv"]);
    assert!(said.code == Some(0) && !seed.exists(), "{said:?}");
    assert_eq!(facts(&up, ".revoked").await[0]["public_key"], listed[0]["public_key"]);
    eventually("the agent is told", async || {
        let log = fs::read_to_string(up.dir().join("agent.log")).unwrap();
        log.to_lowercase().contains("auth").then_some(())
    })
    .await;
    drop(agent);
    let (_, dir) = up.stop();
    let up = Up::start_in(dir);
    let error = come_in(&up, &copy).await.expect_err("it came back");
    assert!(matches!(error, BusError::Unauthorized { .. }), "{error}");
    assert_eq!(up.json(&["agent", "list"]), json!([]));
    // The name is free again.
    up.json(&["agent", "enroll", "inv", "--cluster", "dc1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_may_stay_where_it_was_made_and_what_cannot_be_enrolled_is_told() {
    let up = up_with_agent();
    let enroll = |arguments: &[&str]| up.verb(&[&["agent", "enroll"], arguments].concat());
    let said = enroll(&["far-away", "--cluster", "dc2,local/dc3", "--public-key", KEY]);
    assert!(said.code == Some(0) && said.out.contains("nkey_seed_file = \"…\""), "{said:?}");
    let list = up.verb(&["agent", "list"]).out;
    assert!(list.contains("local/inv") && list.contains("configuration"), "{list}");
    assert!(list.contains("dc2 dc3") && list.contains(KEY), "{list}");

    let other = "other.nk";
    for (arguments, code, words) in [
        (["far-away", "--cluster", "dc9", "--out", other].as_slice(), 1, "enrolled already, for dc2, dc3"),
        (&["inv", "--cluster", "dc9", "--out", other], 1, "enrolled already, for dc1"),
        (&["b", "--cluster", "dc9", "--public-key", KEY], 1, "is that of the agent local/far-away"),
        (&["b", "--cluster", "dc9", "--public-key", "SUAXYZ"], 2, "the secret half"),
        (&["b", "--cluster", "dc9", "--public-key", "UABC"], 2, "begins with U"),
        (&["b", "--cluster", "DC9", "--out", other], 2, "use 1 to 63 of a-z"),
        (&["b", "--cluster", "mars/dc9", "--out", other], 1, "site mars is none of this target's sites"),
        (&["b", "--cluster", "local/a,mars/b", "--out", other], 2, "clusters of one site"),
        (&["b", "--cluster", "target", "--out", other], 1, "stands for the target itself"),
        (&["b", "--cluster", "dc9", "--stem", "key", "--out", other], 1, "no system with agents"),
        (&["b", "--cluster", "dc9", "--out", "farside.toml"], 1, "there is a file farside.toml already"),
        (&["b", "--cluster", "dc9", "--out", "no/such/dir/b.nk"], 1, "no/such/dir"),
        (&["b"], 2, "--cluster"),
    ] {
        fails(&enroll(arguments), code, &[words]);
        assert!(!up.dir().join(other).exists(), "{arguments:?} left a seed that opens nothing");
    }
    fails(&up.verb(&["agent", "revoke", "nobody"]), 1, &["no agent local/nobody is enrolled", "agent list"]);
    fails(&up.verb(&["agent", "revoke", "inv"]), 1, &["farside's own configuration"]);
    in_sync(&up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_nats_that_is_not_farsides_own_the_permissions_are_printed() {
    let nats = Nats::start().await;
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let config = format!("[nats]\nservers = \"{}\"\n[service]\nlog_bytes_max = 268435456\n", nats.url());
    with_files(dir.path(), &[("farside.toml", &config)]);
    let up = Up::start_as("serve", dir);
    let said = up.verb(&["agent", "enroll", "inv", "--cluster", "dc1"]);
    fails(&said, 1, &["not farside's own", "reload it", "inv.nk"]);
    for words in ["far.v1.local.evt.dc1.>", "far.v1.local.cmd.dc1.resource.*", "AGENT_local_inv", "nkey: U"] {
        assert!(said.out.contains(words), "{words}: {said:?}");
    }
    assert!(up.dir().join("inv.nk").exists());
    fails(&up.verb(&["agent", "revoke", "inv"]), 1, &["stands in its own configuration"]);
    assert_eq!(up.json(&["agent", "list"]), json!([]));
    up.json(&["tenant", "create", "acme"]);
    up.json(&["tenant", "grant", "acme", "--pool", "dc1"]);
    let said = up.verb(&["reader", "enroll", "audit", "--tenant", "acme"]);
    fails(&said, 1, &["not farside's own"]);
    assert!(!up.dir().join("audit.nk").exists());
}

/// Pulls one message as any client does; answers its subject.
async fn pull(up: &Up, seed: &Path, reader: &str) -> Option<String> {
    let seed = fs::read_to_string(seed).unwrap();
    let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let client = options.connect(up.nats_url()).await.unwrap();
    let subject = format!("$JS.FARSIDE.API.CONSUMER.MSG.NEXT.FARSIDE_LOCAL.reader-{reader}");
    let body = json!({ "batch": 1, "no_wait": true }).to_string();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(subject, inbox, body.into()).await.unwrap();
    let answer = within("an answer", answers.next()).await.unwrap();
    answer.status.is_none().then(|| answer.subject.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_whole_clusters_gets_a_reader_as_long_as_its_grant_lasts() {
    let up = Up::start("");
    up.publish("dc2", "VM/b", "1", "{}");
    up.publish("dc1", "VM/a", "1", "{}");
    let reader = |arguments: &[&str]| up.verb(&[&["reader"], arguments].concat());
    fails(&reader(&["enroll", "audit", "--tenant", "acme"]), 1, &["farside tenant create acme"]);
    up.json(&["tenant", "create", "acme"]);
    fails(&reader(&["enroll", "audit", "--tenant", "acme"]), 1, &["farside tenant grant acme --pool"]);
    up.json(&["tenant", "grant", "acme", "--pool", "dc1", "--label", "app=web"]);
    fails(&reader(&["enroll", "audit", "--tenant", "acme"]), 1, &["certain labels only", "by HTTP"]);
    up.json(&["tenant", "grant", "acme", "--pool", "dc1"]);
    fails(
        &reader(&["enroll", "audit", "--tenant", "acme", "--cluster", "dc2"]),
        1,
        &["local/dc2 is not granted"],
    );
    up.json(&["tenant", "create", "acme/web"]);
    fails(&reader(&["enroll", "web", "--tenant", "acme/web"]), 1, &["is not bound"]);
    assert!(!up.dir().join("audit.nk").exists(), "a seed that opens nothing is left over");

    let said = reader(&["enroll", "audit", "--tenant", "acme"]);
    assert!(said.code == Some(0) && said.out.contains("reader-audit"), "{said:?}");
    let seed = up.dir().join("audit.nk");
    let first = pull(&up, &seed, "audit").await;
    assert_eq!(first.as_deref(), Some("far.v1.local.evt.dc1.resource.VM=2Fa.changed"));
    let listed = up.json(&["reader", "list"]);
    assert_eq!(facts(&up, ".reader_enrolled").await[0]["public_key"], listed[0]["public_key"]);
    fails(&reader(&["enroll", "audit", "--tenant", "acme", "--out", "b.nk"]), 1, &["enrolled already"]);
    fails(&reader(&["revoke", "nobody"]), 1, &["no reader nobody is enrolled"]);

    let (_, dir) = up.stop();
    let up = Up::start_in(dir);
    assert_eq!(up.json(&["reader", "list"]), listed, "enrolments outlive a restart");
    assert_eq!(pull(&up, &seed, "audit").await, None, "it goes on where it was");
    let audit = come_in(&up, &seed).await.unwrap();
    let mut link = audit.link();

    // Less than it reads is granted from now on, so it is shut out before the answer comes.
    up.json(&["tenant", "grant", "acme", "--pool", "dc1", "--label", "app=web"]);
    assert_eq!(up.json(&["reader", "list"]), json!([]));
    link.wait_for(|state| matches!(state, bus::LinkState::Down { .. })).await.unwrap();
    let error = come_in(&up, &seed).await.expect_err("it came back");
    assert!(matches!(error, BusError::Unauthorized { .. }), "{error}");
    let stated = facts(&up, ".reader_revoked").await;
    assert!(stated[0]["actor"].as_str().unwrap().contains("grants of tenant acme"), "{stated:?}");
}
