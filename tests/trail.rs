//! The logs for people: followed, shown message by message, told as histories, replayed, and rebuilt with what differs.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use bus::{Bus, Outgoing};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    PATIENCE, eventually,
    farside::{Said, Up, command, with_files},
    nats::Nats,
};

const LOG: &str = "FARSIDE_LOCAL";

/// A message that nothing has checked.
async fn raw(bus: &Bus, subject: &str, body: &str) {
    let (subject, body) = (format!("far.v1.local.evt.{subject}"), body.to_owned());
    let outgoing = Outgoing { subject, headers: vec![], body: body.into(), message_id: String::new() };
    bus.publisher().publish(LOG, &outgoing, None).await.unwrap();
}

/// What `farside audit tail` shows of what is there, line by line.
fn tail(up: &Up, arguments: &[&str]) -> Vec<Value> {
    let said = up.verb(&[&["-o", "json", "audit", "tail", "--no-follow"], arguments].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn entities(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["entity"].as_str().unwrap()).collect()
}

/// Waits until so many dead letters are there.
async fn parked(up: &Up, count: usize) {
    eventually("the dead letters are there", async || {
        let listed = up.json(&["dlq", "list", "--all"]);
        (listed["items"].as_array()?.len() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_tells_events_and_facts_in_one_order_and_shows_what_it_is_asked_for() {
    let up = Up::start("");
    up.publish("dc1", "Pod/a.b", "1", r#"{"app":"web"}"#);
    up.json(&["tenant", "create", "acme"]);
    up.publish("dc2", "VM/x", "7", "{}");
    raw(&up.bus().await, "dc1.resource.\u{1b}[2J.changed", "nonsense").await;
    raw(&up.bus().await, "dc1.resource.Pod=2Fa=2Eb.changed", "{\n").await;
    parked(&up, 2).await;

    let all = tail(&up, &[]);
    let stored: Vec<_> = all.iter().map(|line| line["stored_at"].as_str().unwrap()).collect();
    assert!(stored.is_sorted(), "{stored:?}");
    let of_type = |name: &str| all.iter().filter(|line| line["type"] == name).count();
    assert_eq!([of_type("resource.changed"), of_type("tenant.created"), of_type("log.parked")], [4, 1, 2]);
    let created = all.iter().find(|line| line["type"] == "tenant.created").unwrap();
    assert!(created["actor"].as_str().unwrap().starts_with("operator"), "{created}");
    let unread = all
        .iter()
        .filter(|line| line["unreadable"].is_string() && line["place"].as_str().unwrap().starts_with(LOG));
    assert_eq!(unread.count(), 2, "what cannot be read is not left out: {all:?}");

    let of_entity = tail(&up, &["--entity", "Pod/a.b"]);
    assert_eq!(entities(&of_entity)[..2], ["Pod/a.b", "Pod/a.b"], "{of_entity:?}");
    assert!(
        of_entity[2..].iter().all(|line| line["type"] == "log.parked"),
        "the fact names it: {of_entity:?}"
    );
    assert_eq!(entities(&tail(&up, &["--cluster", "dc2"])), ["VM/x"]);
    let of_kind = tail(&up, &["--kind", "VM"]);
    assert_eq!(entities(&of_kind), ["VM/x", "\u{1b}[2J"], "whose kind nobody can tell is not left out");
    assert_eq!(entities(&tail(&up, &["--stem", "tenant", "--actor", "operator"])), ["acme"]);
    assert_eq!(tail(&up, &["--cluster", "elsewhere/dc2"]).len(), 0);
    let (from, to) = (created["stored_at"].as_str().unwrap(), all[0]["stored_at"].as_str().unwrap());
    assert!(tail(&up, &["--since", from]).iter().all(|line| line["stored_at"].as_str().unwrap() >= from));
    assert!(tail(&up, &["--until", to]).iter().all(|line| line["stored_at"].as_str().unwrap() <= to));
    assert_eq!(tail(&up, &["--limit", "3"]), all[..3]);

    let said = up.verb(&["audit", "tail", "--no-follow"]);
    assert!(said.out.contains("\\u{1b}[2J") && !said.out.contains('\u{1b}'), "{said:?}");
    assert!(said.out.contains("CANNOT BE READ"), "{said:?}");
    let line =
        said.out.lines().find(|line| line.contains("VM/x") && line.contains("resource.changed")).unwrap();
    assert!(
        line.contains("/local/dc2/resource/plain  resource.changed  VM/x  ") && line.contains("revision=7"),
        "{line}"
    );
    let said = up.verb(&["audit", "tail", "--cluster", "No Name"]);
    assert!(said.code == Some(1) && said.err.contains("a-z"), "{said:?}");
}

/// A verb that goes on, and its lines.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(up: &Up, arguments: &[&str]) -> Self {
        let log = fs::File::create(up.dir().join("tail.log")).unwrap();
        let mut verb = command(up.dir());
        let mut child = verb.args(arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (out, (send, lines)) = (BufReader::new(child.stdout.take().unwrap()), channel());
        thread::spawn(move || out.lines().try_for_each(|line| send.send(line.unwrap())));
        Self { child, lines }
    }

    /// The next line that has these words.
    fn next(&self, words: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {words}: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `farside serve` on a nats-server of its own.
fn serving(nats: &Nats) -> Up {
    let dir: TempDir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let config = format!("[nats]\nservers = \"{}\"\n[service]\nlog_bytes_max = 268435456\n", nats.url());
    with_files(dir.path(), &[("farside.toml", config.as_str())]);
    Up::start_as("serve", dir)
}

/// Publishes as soon as that is possible.
async fn publishes(up: &Up, id: &str) {
    let data = json!({"kind": "Pod", "id": id, "revision": "1", "state": {}}).to_string();
    eventually("it can be published", async || {
        let said = up.verb(&["publish", "dc1", "resource.changed", "--data", &data, "--applied"]);
        (said.code == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_goes_on_over_a_restart_of_nats_and_ends_with_farside() {
    let mut nats = Nats::start().await;
    let up = serving(&nats);
    let following =
        Following::start(&up, &["-o", "json", "audit", "tail", "--since", "2020-01-01T00:00:00Z"]);
    publishes(&up, "before").await;
    following.next("Pod/before");
    for kill in [true, false] {
        if kill {
            nats.kill().await;
        } else {
            nats.stop().await;
        }
        nats.start_again().await;
        let id = format!("after-{kill}");
        publishes(&up, &id).await;
        following.next(&format!("Pod/{id}"));
    }
    let mut following = following;
    assert!(up.stop().0.success());
    assert_eq!(following.child.wait().unwrap().code(), Some(1), "what was to go on for ever has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_leaves_the_log_where_it_is() {
    const MESSAGES: u64 = 150;
    let nats = Nats::start().await;
    let up = serving(&nats);
    let (bus, text) = (nats.bus().await, "x".repeat(300_000));
    for n in 0..MESSAGES {
        let body = json!({"kind": "Pod", "id": n.to_string(), "revision": "1", "state": text}).to_string();
        raw(&bus, &format!("dc1.resource.Pod=2F{n}.changed"), &body).await;
    }
    let mut slow = TcpStream::connect(up.address()).unwrap();
    let asks = format!(
        "GET /v1/audit/events?since=2020-01-01T00:00:00Z&follow=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        up.token()
    );
    slow.write_all(asks.as_bytes()).unwrap();
    let mut begin = [0; 12];
    slow.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    // Whatever else farside does meanwhile.
    publishes(&up, "meanwhile").await;
    assert_eq!(tail(&up, &["--limit", "140"]).len(), 140, "another reader gets everything");
    let stream = async_nats::jetstream::new(nats.client().await).get_stream(LOG).await.unwrap();
    let slowest = eventually("the slow reader has begun", async || {
        let mut consumers = stream.consumers();
        let mut slowest = u64::MAX;
        while let Some(info) = futures_util::StreamExt::next(&mut consumers).await {
            let info = info.unwrap();
            if info.config.filter_subject == "far.v1.local.evt.>" {
                slowest = slowest.min(info.delivered.stream_sequence);
            }
        }
        (slowest > 0).then_some(slowest)
    })
    .await;
    assert!(slowest < MESSAGES / 2, "{slowest} of {MESSAGES} messages wait for somebody who reads nothing");
}

fn up_with_agent() -> Up {
    Up::with_agent(&[("source/web.json", r#"{"kind":"VM","id":"web","revision":"1","state":{"cpus":2}}"#)])
}

/// The place of the last event about the agent's resource, when it has this revision.
async fn revision(up: &Up, revision: &str) -> String {
    eventually("the pool has the revision", async || {
        let row: Value =
            serde_json::from_str(&up.verb(&["-o", "json", "pool", "get", "dc1", "VM/web"]).out).ok()?;
        (row["revision"] == revision).then(|| row["place"].as_str().unwrap().to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_shown_with_its_chain_its_seal_and_what_it_changed() {
    let up = up_with_agent();
    revision(&up, "1").await;
    let web = r#"{"kind":"VM","id":"web","revision":"2","state":{"cpus":4},"labels":{"a":"\u001b[2J"}}"#;
    fs::write(up.dir().join("source/web.json"), web).unwrap();
    let second = revision(&up, "2").await;
    // The first sync tells everything again; whether it has done so by now is left to it.
    let history = up.json(&["pool", "history", "dc1", "VM/web"]);
    let places: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|item| item["place"].as_str().unwrap()).collect();
    let (first, at) = (places[0], places.iter().position(|place| *place == second).unwrap());
    let before = places[at - 1];
    let shown = up.json(&["audit", "show", &second]);
    assert_eq!(
        (&shown["form"], &shown["seal"], &shown["previous"]),
        (&json!("binary"), &json!("equal"), &json!(before))
    );
    assert!(shown["chain"]["checked"].as_str().unwrap().starts_with("checked"), "{shown}");
    assert_eq!(shown["chain"]["hash"].as_str().map(str::len), Some(64));
    let said = up.verb(&["audit", "show", second.split(':').next_back().unwrap()]);
    for line in [
        "  ~ revision: \"1\" -> \"2\"",
        "  ~ state.cpus: 2 -> 4",
        "  + labels: {\"a\":\"\\u001b[2J\"}",
        &format!("against {before}:"),
        "seal        it is what the pool read here",
    ] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
    let said = up.verb(&["audit", "show", first]);
    assert!(
        said.out.contains("the first of its kind:") && said.out.contains("+ revision: \"1\""),
        "{said:?}"
    );

    raw(&up.bus().await, "dc1.resource.VM=2Fweb.changed", r#"{"kind":"VM","id":"web"}"#).await;
    parked(&up, 1).await;
    let letter = up.json(&["dlq", "list", "--all"])["items"][0]["place"].as_str().unwrap().to_owned();
    let said = up.verb(&["audit", "show", &letter]);
    assert!(said.out.contains("PARKED: ") && said.out.contains("no effect: it is a dead letter"), "{said:?}");
    let facts = tail(&up, &["--stem", "log"]);
    let fact = facts.iter().find(|fact| fact["type"] == "log.parked").unwrap()["place"].as_str().unwrap();
    let shown = up.json(&["audit", "show", fact]);
    assert_eq!((&shown["entry"]["entity"], &shown["seal"]), (&json!(letter), &json!("equal")), "{shown}");

    for (place, words) in [
        ("FARSIDE_ELSEWHERE:1", "there is no log"),
        ("FARSIDE_LOCAL:999999", "ends with"),
        ("FARSIDE_LOCAL:0", "no place"),
        ("yesterday", "STREAM:1234"),
    ] {
        let said = up.verb(&["audit", "show", place]);
        assert!(said.code == Some(1) && said.err.contains(words), "{place}: {said:?}");
    }
    assert_eq!(up.verb(&["audit", "show", "a/b"]).code, Some(2));
}

#[test]
fn a_sequence_without_a_log_is_refused_when_there_are_several() {
    let up = Up::start("[service]\nsites = [\"local\", \"far\"]\n");
    up.publish("local/dc1", "Pod/a", "1", "{}");
    for verb in [["audit", "show", "1"].as_slice(), &["audit", "replay", "--to", "1"]] {
        let said = up.verb(verb);
        assert!(said.code == Some(1) && said.err.contains("write STREAM:1"), "{said:?}");
    }
    assert_eq!(up.verb(&["audit", "replay", "--to", "FARSIDE_LOCAL:1"]).code, Some(0));
    assert_eq!(up.verb(&["audit", "show", "FARSIDE_LOCAL:1"]).code, Some(0));
}

/// What the agent has never had, told in its name: the next full answer does not have it. Answers when such an answer, and
/// not a repair that was quicker, has deleted it.
pub(crate) async fn swept(up: &Up, bus: &Bus) {
    let event = json!({
        "specversion": "1.0", "id": "ghost", "source": "/local/dc1/resource/inv", "type": "resource.changed",
        "data": {"kind": "VM", "id": "ghost", "revision": "1", "state": {"n": 1}},
    });
    eventually("a full answer has deleted it", async || {
        raw(bus, "dc1.resource.VM=2Fghost.changed", &event.to_string()).await;
        eventually("it is gone", async || {
            up.verb(&["sync", "dc1", "--full"]);
            let row = up.verb(&["-o", "json", "pool", "get", "dc1", "VM/ghost"]);
            serde_json::from_str::<Value>(&row.out).ok()?["deleted_at"].is_string().then_some(())
        })
        .await;
        let place = up.json(&["pool", "get", "dc1", "VM/ghost"])["place"].as_str()?.to_owned();
        (up.json(&["audit", "show", &place])["entry"]["type"] == "resource.sync_closed").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_tells_each_change_by_whom_and_what_differs_deletions_too() {
    let up = up_with_agent();
    revision(&up, "1").await;
    let web = up.dir().join("source/web.json");
    fs::write(&web, r#"{"kind":"VM","id":"web","revision":"2","state":{"cpus":4},"tenant":"acme"}"#).unwrap();
    revision(&up, "2").await;
    fs::rename(&web, up.dir().join("web.json")).unwrap();
    fs::write(up.dir().join("source/other.json"), r#"{"kind":"VM","id":"other","revision":"1","state":{}}"#)
        .unwrap();
    let said = eventually("it is gone", async || {
        let said = up.verb(&["pool", "history", "dc1", "VM/web"]);
        said.out.contains("resource.deleted").then_some(said)
    })
    .await;
    for words in [
        "  + state: {\"cpus\":2}\n",
        "  ~ state.cpus: 2 -> 4\n",
        "  + tenant: \"acme\"\n",
        "by /local/dc1/resource/inv  tenant acme",
        "resource.deleted  by /local/dc1/resource/inv",
        "  - state: {\"cpus\":4}\n",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }

    swept(&up, &up.bus().await).await;
    let history = up.json(&["pool", "history", "dc1", "VM/ghost"]);
    let last = history["items"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["absent"], &last["type"], &last["data"]),
        (&json!(true), &json!("resource.sync_closed"), &Value::Null)
    );
    let gone = json!([{"op": "removed", "path": "revision", "old": "1"}, {"op": "removed", "path": "state", "old": {"n": 1}}]);
    assert_eq!(last["effect"]["changes"], gone, "{history}");
    up.publish("dc1", "VM/ghost", "2", "{}");
    let said = up.verb(&["pool", "history", "dc1", "VM/ghost"]);
    let words = "absent from a full answer: deleted  by /local/dc1/resource/inv  sync ";
    assert!(said.out.contains(words) && said.out.contains("  + revision: \"2\"\n"), "{said:?}");

    // Page by page it is the same, whatever a page begins with.
    let (mut pages, mut after) = (String::new(), None::<String>);
    loop {
        let mut verb = vec!["pool", "history", "dc1", "VM/ghost", "--limit", "1"];
        verb.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
        let Said { code, out, err } = up.verb(&verb);
        assert_eq!(code, Some(0), "{err}");
        let next =
            out.lines().find_map(|line| line.strip_prefix("there is more: --after ").map(str::to_owned));
        pages.extend(
            out.lines().filter(|line| !line.starts_with("there is more")).map(|line| format!("{line}\n")),
        );
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(pages, said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_dead_letter_is_told_where_it_stands_and_what_it_changed() {
    let (up, subject) = (Up::start(""), "dc1.resource.Pod=2Fa.changed");
    let bus = up.bus().await;
    let body = r#"{"kind":"Pod","id":"a","state":{"n":1}}"#;
    raw(&bus, subject, body).await;
    parked(&up, 1).await;
    let headers = [
        ("Farside-Redrive", format!("{LOG}:1")),
        ("Farside-Redrive-Patch", r#"[{"op":"add","path":"/revision","value":"7"}]"#.to_owned()),
    ];
    for _ in 0..2 {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let (subject, body) = (format!("far.v1.local.evt.{subject}"), body.into());
        let outgoing = Outgoing { subject, headers, body, message_id: String::new() };
        bus.publisher().publish(LOG, &outgoing, None).await.unwrap();
    }
    up.publish("dc1", "Pod/after", "1", "{}");
    let row = up.json(&["pool", "get", "dc1", "Pod/a"]);
    assert_eq!((&row["revision"], &row["place"]), (&json!("7"), &json!("FARSIDE_LOCAL:1")));
    let history = up.json(&["pool", "history", "dc1", "Pod/a"]);
    let none: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|item| item["effect"]["none"].is_string()).collect();
    assert_eq!(none, [true, false, true], "the original, a copy, and another one: {history}");
    let said = up.verb(&["pool", "history", "dc1", "Pod/a"]).out;
    assert!(said.contains("redriven from FARSIDE_LOCAL:1") && said.contains("+ revision: \"7\""), "{said}");
    let said = up.verb(&["audit", "show", "FARSIDE_LOCAL:1"]).out;
    assert!(said.contains("redriven: FARSIDE_LOCAL:2 was taken in instead"), "{said}");
    let lines = tail(&up, &["--entity", "Pod/a"]);
    let copy = lines.iter().find(|line| line["place"] == "FARSIDE_LOCAL:2").unwrap();
    assert_eq!(copy["redrive_of"], json!("FARSIDE_LOCAL:1"));
    assert!(
        lines.iter().any(|line| line["type"] == "log.parked"),
        "what the target says of it is told too: {lines:?}"
    );
}

#[test]
fn a_replay_says_what_there_was_and_writes_what_the_export_of_that_moment_is() {
    let up = Up::start("");
    up.publish("dc1", "Pod/a", "1", r#"{"ü":"\\ü"}"#);
    let place = up.publish("dc1", "Pod/b", "1", "{}");
    up.publish("dc1", "Pod/a", "2", "{}");
    up.publish("dc2", "Pod/c", "1", "{}");
    let said = up.verb(&[
        "-o",
        "json",
        "audit",
        "replay",
        "--to",
        &place,
        "--cluster",
        "dc1",
        "--out",
        "then.jsonl",
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let (replayed, then) = (said.json(), up.verb(&["pool", "export", "dc1", "--at", &place]).out);
    assert_eq!(fs::read_to_string(up.dir().join("then.jsonl")).unwrap(), then);
    assert!(then.lines().count() == 2 && said.err.contains("reading FARSIDE_LOCAL"), "{said:?}");
    let pools = replayed["pools"].as_array().unwrap();
    assert_eq!(
        (pools.len(), &pools[0]["resources"], &pools[0]["sources"][0]["rows"]),
        (1, &json!(2), &json!(2))
    );
    assert_eq!(pools[0]["sources"][0]["rows_sha256"].as_str().map(str::len), Some(64));
    let time = up.json(&["audit", "show", &place])["entry"]["stored_at"].as_str().unwrap().to_owned();
    let by_time = up.json(&["audit", "replay", "--to", &time]);
    assert_eq!(by_time["pools"][0]["sources"], pools[0]["sources"]);
    let table = up.verb(&["audit", "replay", "--to", &place]).out;
    assert!(table.contains("local/dc1") && table.contains("1 pool as of"), "{table}");

    for (arguments, words) in [
        (["--to", "FARSIDE_LOCAL:999", "--cluster", "dc1"], "the log ends at"),
        (["--to", &place, "--cluster", "dc2"], "had nothing at that moment"),
        (["--to", "yesterday", "--cluster", "dc1"], "no moment of the log"),
        (["--to", "FARSIDE_TGT_LOCAL:1", "--cluster", "dc1"], "no site's log"),
    ] {
        let said = up.verb(&[&["audit", "replay", "--out", "none.jsonl"], arguments.as_slice()].concat());
        assert!(said.code == Some(1) && said.err.contains(words), "{arguments:?}: {said:?}");
        assert!(!up.dir().join("none.jsonl").exists() && !up.dir().join("none.jsonl.part").exists());
    }
}

#[test]
fn the_logs_are_told_to_operators_only() {
    let up = Up::start("");
    up.publish("dc1", "Pod/a", "1", "{}");
    up.json(&["tenant", "create", "acme"]);
    up.json(&["tenant", "grant", "acme", "--pool", "dc1"]);
    let key = up.json(&["key", "make", "acme"])["credential"].as_str().unwrap().to_owned();
    let tenant = [("Authorization", &*format!("Bearer {key}"))].map(|(name, value)| (name, value.to_owned()));
    let tenant = [(tenant[0].0, tenant[0].1.as_str())];
    for path in ["/v1/audit/events", "/v1/audit/events/FARSIDE_LOCAL:1"] {
        assert_eq!(up.get(path, &tenant).0, 403, "{path}");
        assert_eq!(up.get(path, &[]).0, 401, "{path}");
    }
    assert_eq!(up.http("POST", "/v1/audit/replay?to=1", &tenant, "").0, 403);
    let (status, history) = up.get("/v1/pools/local/dc1/history/Pod/a", &tenant);
    assert!(
        status == 200 && history.contains("\"effect\""),
        "a tenant sees the history of what it sees: {history}"
    );
}

#[test]
fn a_tenant_is_not_told_what_a_resource_was_before_it_was_its_own() {
    let up = Up::start("");
    let publish = |revision: &str, app: &str, secret: &str| {
        let data = json!({
            "kind": "VM", "id": "x", "revision": revision, "state": {"n": secret}, "labels": {"app": app},
        });
        up.json(&["publish", "dc1", "resource.changed", "--data", &data.to_string(), "--applied"]);
    };
    publish("1", "other", "of others");
    publish("2", "web", "of the tenant");
    publish("3", "web", "of the tenant, too");
    up.json(&["tenant", "create", "acme"]);
    up.json(&["tenant", "grant", "acme", "--pool", "dc1", "--label", "app=web"]);
    let key = up.json(&["key", "make", "acme"])["credential"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {key}");
    let history = |headers: &[(&str, &str)]| up.get("/v1/pools/local/dc1/history/VM/x", headers);
    let (status, told) = history(&[("Authorization", &bearer)]);
    assert_eq!(status, 200, "{told}");
    assert!(told.contains("of the tenant, too") && !told.contains("of others"), "{told}");
    publish("4", "other", "of others again");
    assert_eq!(history(&[("Authorization", &bearer)]).0, 404, "it is others' now");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rebuild_finds_different_is_told_with_both_values_and_the_event_behind_each() {
    let nats = Nats::start().await;
    let up = serving(&nats);
    let notice =
        json!({"kind": "Pod", "id": "a", "revision": "1", "state_hash": "0".repeat(64), "size_bytes": "9"});
    up.json(&["publish", "dc1", "resource.noticed", "--data", &notice.to_string(), "--applied"]);
    up.publish("dc1", "Pod/a", "2", "{}");
    up.publish("dc1", "Pod/gone", "1", "{}");
    up.publish("dc1", "Pod/same", "1", "{}");
    let log = async_nats::jetstream::new(nats.client().await).get_stream(LOG).await.unwrap();
    for id in ["a", "gone"] {
        log.purge().filter(format!("far.v1.local.evt.dc1.resource.Pod=2F{id}.changed")).await.unwrap();
    }
    let said = up.verb(&["-o", "json", "rebuild"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    let report = said.json();
    let found = |what: &str| {
        report["differences"].as_array().unwrap().iter().find(|found| found["what"] == what).unwrap().clone()
    };
    let row = found("row Pod/a");
    assert!(row["live"].as_str().unwrap().contains(r#""revision":"2""#), "{row}");
    assert!(row["rebuilt"].as_str().unwrap().contains(r#""notice":{"revision":"1""#), "{row}");
    assert_eq!(row["live_event"], json!({"place": "FARSIDE_LOCAL:2"}), "the log does not have it any more");
    let event = &row["rebuilt_event"];
    assert_eq!(
        (&event["place"], &event["event"]["type"]),
        (&json!("FARSIDE_LOCAL:1"), &json!("resource.noticed"))
    );
    assert!(event["event"]["time"].is_string() && event["event"]["id"].is_string(), "{event}");
    let gone = found("row Pod/gone");
    assert!(
        gone["live"].is_string() && gone["rebuilt"].is_null() && gone["rebuilt_event"].is_null(),
        "{gone}"
    );
    let said = up.verb(&["rebuild"]);
    for words in [
        "local/dc1: row Pod/a\n",
        "by FARSIDE_LOCAL:1: resource.noticed of ",
        "by FARSIDE_LOCAL:2, which the log does not have any more",
        "rebuilt  nothing\n",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    assert!(!said.out.contains("Pod/same"), "{said:?}");
}
