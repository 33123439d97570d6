//! The HTTP API of the real binary: events in, pools out, and who may see what (R7, R8).

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use bus::Outgoing;
use bus_schema::{Hash32, event::key::secret_hash};
use serde_json::{Value, json};

use crate::support::{
    eventually,
    farside::{Up, with_files},
    nats::Nats,
};

fn bearer(credential: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {credential}"))]
}

/// A request with a credential and perhaps a level-2 tenant.
fn ask(up: &Up, credential: &str, tenant: Option<&str>, path: &str) -> (u16, Value) {
    let mut headers = bearer(credential).to_vec();
    headers.extend(tenant.map(|tenant| ("Farside-Tenant", tenant.to_owned())));
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, body) = up.get(path, &headers);
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn keys(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect()
}

#[test]
fn everything_but_health_needs_a_credential_and_refusals_say_what_to_do() {
    let up = Up::start("");
    assert_eq!(up.get("/healthz", &[]).0, 200);
    assert_eq!(up.get("/readyz", &[]), (200, "ready\n".to_owned()));
    for path in ["/metrics", "/v1/status", "/v1/pools", "/v1/keys", "/v1/pools/local/dc1/export"] {
        let (status, body) = up.get(path, &[]);
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &problem["status"]), (401, &json!(401)), "{path}");
        assert!(problem["detail"].as_str().unwrap().contains("Authorization: Bearer"), "{body}");
    }
    let token = up.token();
    let (status, problem) = ask(&up, &token.replace(&token[..4], "0000"), None, "/v1/status");
    assert_eq!(status, 401);
    assert!(!problem.to_string().contains(&token[4..]), "a secret is in the answer");
    assert_eq!(ask(&up, &token, None, "/v1/status").0, 200);
    assert_eq!(ask(&up, &token, None, "/nowhere").0, 404);
    assert_eq!(ask(&up, &token, None, "/v1/confirm").0, 405);
    let (status, metrics) = ask(&up, &token, None, "/metrics");
    let metrics = metrics.as_str().unwrap();
    for name in
        ["farside_nats_up 1", "farside_log_lag_seconds{log=\"FARSIDE_LOCAL\"}", "farside_dead_letters"]
    {
        assert!(status == 200 && metrics.contains(name), "{name}: {metrics}");
    }
}

#[test]
fn an_event_over_http_is_in_the_pool_in_its_history_and_in_the_export() {
    let up = Up::start("");
    let first = up.publish("dc1", "Pod/a b/ü", "1", "{}");
    let second = up.publish("dc1", "Pod/a b/ü", "2", "{}");
    let path = "/v1/pools/local/dc1/resources/Pod/a%20b/%C3%BC";
    let (status, now) = ask(&up, &up.token(), None, path);
    assert_eq!((status, now["revision"].as_str(), now["state"]["r"].as_str()), (200, Some("2"), Some("2")));
    assert_eq!(now["place"].as_str(), Some(second.as_str()));
    let (_, then) = ask(&up, &up.token(), None, &format!("{path}?at={first}"));
    assert_eq!(then["revision"].as_str(), Some("1"), "{then}");
    let history = up.json(&["pool", "history", "dc1", "Pod/a b/ü"]);
    let places: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|item| item["place"].clone()).collect();
    assert_eq!(places, [json!(first), json!(second)]);
    let (status, line) = ask(&up, &up.token(), None, "/v1/pools/local/dc1/export");
    assert_eq!((status, line["key"].as_str()), (200, Some("Pod/a b/ü")), "{line}");
    let (status, problem) = ask(&up, &up.token(), None, &format!("{path}?at=999999"));
    assert!(status == 400 && problem["detail"].as_str().unwrap().contains("the log ends at"), "{problem}");
}

#[test]
fn an_event_that_would_be_a_dead_letter_is_refused_with_the_reason() {
    let up = Up::start("");
    let token = up.token();
    let headers = bearer(&token);
    let headers = [(headers[0].0, headers[0].1.as_str())];
    let large =
        format!(r#"{{"pool":"local/dc1","type":"resource.changed","data":"{}"}}"#, "x".repeat(3 << 20));
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let deep = format!(
        r#"{{"pool":"local/dc1","type":"resource.changed","data":{{"kind":"Pod","id":"a","revision":"1","state":{deep}}}}}"#
    );
    for (body, status, words) in [
        (deep.as_str(), 422, "RFC 8785"),
        (
            r#"{"pool":"local/dc1","type":"resource.changed","data":{"kind":"Pod"}}"#,
            422,
            "missing field `id`",
        ),
        (r#"{"pool":"local/dc1","type":"resource.melted","data":{}}"#, 422, "unknown event"),
        (
            r#"{"subject":"far.v1.elsewhere.evt.dc1.resource.Pod=2Fa.deleted","data":{"kind":"Pod","id":"a"}}"#,
            404,
            "sites",
        ),
        ("nonsense", 400, "neither a CloudEvent"),
        (large.as_str(), 413, "larger"),
    ] {
        let (found, answer) = up.http("POST", "/v1/events", &headers, body);
        assert!(
            found == status && answer.contains(words),
            "{}: {found} {answer}",
            &body[..40.min(body.len())]
        );
    }
    assert_eq!(up.json(&["status"])["dead_letters"], json!(0), "nothing of it was published");
}

#[test]
fn r8_a_level_2_tenant_is_let_in_by_the_shared_key_and_shut_out_after_unbinding() {
    let up = Up::start("");
    up.publish("dc1", "Pod/web", "1", r#"{"app":"web"}"#);
    up.publish("dc1", "Pod/db", "1", r#"{"app":"db"}"#);
    up.publish("dc2", "Pod/other", "1", "{}");
    for arguments in [
        ["tenant", "create", "acme"].as_slice(),
        &["tenant", "create", "acme/web"],
        &["tenant", "grant", "acme", "--pool", "dc1"],
    ] {
        up.json(arguments);
    }
    let made = up.json(&["key", "make", "acme"]);
    let credential = made["credential"].as_str().unwrap();
    let pool = "/v1/pools/local/dc1/resources";
    let (status, page) = ask(&up, credential, None, pool);
    assert_eq!((status, keys(&page)), (200, vec!["Pod/db", "Pod/web"]));
    assert_eq!(
        ask(&up, credential, None, "/v1/pools/local/dc2/resources").0,
        404,
        "another pool is not there"
    );
    assert_eq!(ask(&up, credential, None, "/v1/keys").0, 403, "a tenant reads and confirms only");

    let (status, problem) = ask(&up, credential, Some("acme/web"), pool);
    assert!(
        status == 403 && problem["detail"].as_str().unwrap().contains("farside tenant bind acme/web"),
        "{problem}"
    );
    up.json(&["tenant", "bind", "acme/web"]);
    assert_eq!(ask(&up, credential, Some("acme/web"), pool).0, 200);
    up.json(&["tenant", "grant", "acme/web", "--pool", "dc1", "--label", "app=web"]);
    let (_, page) = ask(&up, credential, Some("acme/web"), pool);
    assert_eq!(keys(&page), ["Pod/web"]);
    assert_eq!(ask(&up, credential, Some("acme/web"), &format!("{pool}/Pod/db")).0, 404);
    assert_eq!(ask(&up, credential, Some("acme/web"), "/v1/pools/local/dc1/export").0, 403);
    up.json(&["tenant", "unbind", "acme/web"]);
    assert_eq!(ask(&up, credential, Some("acme/web"), pool).0, 403);

    up.json(&["key", "revoke", made["key_id"].as_str().unwrap()]);
    let (status, problem) = ask(&up, credential, None, pool);
    assert!(status == 401 && problem["detail"].as_str().unwrap().contains("revoked"), "{problem}");
}

#[test]
fn who_guesses_is_slowed_down_and_whoever_is_right_is_let_in() {
    let up = Up::start("");
    for wrong in ["acme-1.wrong", "wrong-operator-token"] {
        let answers: Vec<_> = (0..8).map(|_| ask(&up, wrong, None, "/v1/pools").0).collect();
        assert!(answers.starts_with(&[401, 401, 401, 401, 401]) && answers.contains(&429), "{answers:?}");
    }
    (0..60).for_each(|n| drop(ask(&up, &format!("k{n}.wrong"), None, "/v1/pools")));
    assert_eq!(ask(&up, "fresh.wrong", None, "/v1/pools").0, 429, "the peer itself is slowed down");
    assert_eq!(ask(&up, &up.token(), None, "/v1/pools").0, 200, "a right credential is not");
}

/// The agent of dc9 announces a key of the tenant `acme`, in an epoch of its own.
fn announce(up: &Up, epoch: u64, key: &str, secret: &str) {
    let salt = Hash32::of(b"salt");
    let hash = secret_hash(&salt, secret);
    let event = json!({
        "specversion": "1.0", "id": format!("k{epoch}"), "source": "/local/dc9/resource/web", "type": "key.announced",
        "farepoch": format!("{epoch:016x}"), "farseq": "1", "farprev": "0".repeat(64),
        "data": {"key_id": key, "tenant": "acme", "salt": salt, "hash": hash},
    });
    let token = bearer(&up.token());
    let headers = [(token[0].0, token[0].1.as_str())];
    let (status, answer) = up.http("POST", "/v1/events?applied=true", &headers, &event.to_string());
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn r7_a_key_of_a_source_that_is_lost_is_revoked_at_the_target_for_good() {
    let up = Up::start("");
    let pool = "/v1/pools/local/dc9/resources";
    up.publish("dc9", "Pod/own", "1", "{}");
    announce(&up, 1, "k8", "stolen");
    announce(&up, 2, "k9", "stolen");
    assert_eq!(ask(&up, "k9.stolen", None, pool).0, 200);
    up.json(&["key", "revoke", "k9"]);
    announce(&up, 3, "k9", "again");
    for credential in ["k9.stolen", "k9.again"] {
        let (status, problem) = ask(&up, credential, None, pool);
        assert_eq!(status, 401, "{credential}: {problem}");
    }

    assert_eq!(ask(&up, "k8.stolen", None, pool).0, 200, "another key");
    up.json(&["tenant", "remove", "acme"]);
    announce(&up, 4, "k8", "again");
    let (status, problem) = ask(&up, "k8.again", None, pool);
    assert!(status == 403 && problem["detail"].as_str().unwrap().contains("does not exist"), "{problem}");
    up.json(&["tenant", "create", "acme"]);
    assert_eq!(ask(&up, "k8.again", None, pool).0, 200, "created again");
}

#[test]
fn r7_a_key_that_another_cluster_announces_does_not_open_what_its_tenant_was_granted() {
    let up = Up::start("");
    up.publish("dc1", "Pod/web", "1", "{}");
    up.publish("dc9", "Pod/own", "1", "{}");
    up.json(&["tenant", "create", "acme"]);
    up.json(&["tenant", "grant", "acme", "--pool", "dc1"]);
    announce(&up, 1, "k9", "planted");
    let (status, problem) = ask(&up, "k9.planted", None, "/v1/pools/local/dc1/resources");
    assert_eq!(status, 404, "the agent of dc9 reads dc1: {problem}");
    assert_eq!(ask(&up, "k9.planted", None, "/v1/pools").1["items"], json!([]));
    let made = up.json(&["key", "make", "acme"]);
    assert_eq!(ask(&up, made["credential"].as_str().unwrap(), None, "/v1/pools/local/dc1/resources").0, 200);
    let (status, problem) = ask(&up, made["credential"].as_str().unwrap(), Some("acme/wéb"), "/v1/pools");
    assert_eq!(status, 400, "an unreadable tenant is not the wider access: {problem}");
}

#[test]
fn the_metrics_have_a_token_of_their_own_that_opens_nothing_else() {
    let up = Up::start("");
    let file = up.dir().join("data/metrics.token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(file).unwrap();
    assert_eq!(ask(&up, &token, None, "/metrics").0, 200);
    for path in ["/v1/status", "/v1/pools", "/v1/keys"] {
        assert_eq!(ask(&up, &token, None, path).0, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_can_be_read_with_place_and_reason_and_the_alarm_says_how() {
    let up = Up::start("");
    let bus = up.bus().await;
    let subject = "far.v1.local.evt.dc1.resource.Pod=2Fa.changed".to_owned();
    for body in ["nonsense", "[]", "{}"] {
        let (headers, message_id) = (vec![], String::new());
        let outgoing = Outgoing { subject: subject.clone(), headers, body: body.into(), message_id };
        bus.publisher().publish("FARSIDE_LOCAL", &outgoing, None).await.unwrap();
    }
    let token = up.token();
    let letters = eventually("the dead letters are there", async || {
        let (_, letters) = ask(&up, &token, None, "/v1/dead-letters?limit=2");
        (letters["items"][0]["place"] == json!("FARSIDE_LOCAL:3")).then_some(letters)
    })
    .await;
    let newest = &letters["items"][0];
    assert_eq!(
        (newest["subject"].as_str(), letters["items"][1]["place"].as_str()),
        (Some(subject.as_str()), Some("FARSIDE_LOCAL:2"))
    );
    assert!(newest["reason"].as_str().unwrap().contains("missing field"), "{newest}");
    let (_, older) = ask(&up, &token, None, &format!("/v1/dead-letters?before={}", letters["next"]));
    assert_eq!((&older["items"][0]["place"], &older["next"]), (&json!("FARSIDE_LOCAL:1"), &Value::Null));
    let listed = up.verb(&["dlq", "list"]).out;
    assert!(listed.contains("FARSIDE_LOCAL:1") && listed.contains("missing field"), "{listed}");
    eventually("the alarm says how to read them", async || {
        let status = up.verb(&["-o", "json", "status"]).json();
        let alarms = status["alarms"].as_array().unwrap().clone();
        alarms.iter().any(|alarm| alarm["text"].as_str().unwrap().contains("farside dlq list")).then_some(())
    })
    .await;
    let log = fs::read_to_string(up.dir().join("up.log")).unwrap();
    assert!(log.contains("became a dead letter"), "nothing in the log tells");
}

#[test]
fn an_event_that_only_the_pool_can_refuse_is_refused_when_the_caller_waits_for_the_pool() {
    let up = Up::start("");
    let token = up.token();
    let headers = [("Authorization", format!("Bearer {token}"))];
    let headers = [(headers[0].0, headers[0].1.as_str())];
    let say = |id: &str, epoch: u8, seq: u8, prev: &str| {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/local/dc1/resource/web", "type": "resource.changed",
            "farepoch": format!("{epoch:016x}"), "farseq": seq.to_string(), "farprev": prev,
            "data": {"kind": "Pod", "id": id, "revision": "1", "state": {}},
        });
        up.http("POST", "/v1/events?applied=true", &headers, &event.to_string())
    };
    let zero = "0".repeat(64);
    assert_eq!(say("a", 1, 1, &zero).0, 200);
    assert_eq!(say("b", 2, 1, &zero).0, 200);
    let (status, answer) = say("c", 1, 2, &"a".repeat(64));
    assert!(
        status == 422 && answer.contains("is over") && answer.contains("FARSIDE_LOCAL:3"),
        "{status} {answer}"
    );
}

#[test]
fn a_page_of_large_resources_ends_early_and_names_the_next_one() {
    let up = Up::start("");
    let token = up.token();
    let headers = [("Authorization", format!("Bearer {token}"))];
    let headers = [(headers[0].0, headers[0].1.as_str())];
    let state = "x".repeat(900_000);
    for n in 0..12 {
        let body = format!(
            r#"{{"pool":"local/dc1","type":"resource.changed","data":{{"kind":"Blob","id":"{n:02}","revision":"1","state":"{state}"}}}}"#
        );
        let (status, answer) = up.http("POST", "/v1/events?applied=true", &headers, &body);
        assert_eq!(status, 200, "{answer}");
    }
    let path = "/v1/pools/local/dc1/resources?limit=1000";
    let (_, first) = ask(&up, &token, None, path);
    assert_eq!((keys(&first).len(), &first["next"]), (10, &json!("Blob/09")));
    let (_, rest) = ask(&up, &token, None, &format!("{path}&after=Blob/09"));
    assert_eq!((keys(&rest), &rest["next"]), (vec!["Blob/10", "Blob/11"], &Value::Null));
}

#[test]
fn questions_about_nothing_are_answered_as_such() {
    let up = Up::start("");
    up.publish("dc0", "Pod/a", "1", "{}");
    up.publish("dc1", "Pod/a", "1", "{}");
    let token = up.token();
    for list in ["volumes", "images", "syncs", "confirmations", "resources", "export", "resources?at=1"] {
        let (status, problem) = ask(&up, &token, None, &format!("/v1/pools/local/dc7/{list}"));
        assert!(
            status == 404 && problem["detail"].as_str().unwrap().contains("no pool local/dc7"),
            "{list}: {problem}"
        );
        let (status, _) =
            ask(&up, &token, None, &format!("/v1/pools/local/dc1/{}", list.replace("?at=1", "")));
        assert_eq!(status, 200, "{list}");
    }
    let (status, problem) = ask(&up, &token, None, "/v1/pools/local/dc1/resources?at=0");
    assert!(status == 400 && problem["detail"].as_str().unwrap().contains("begins with"), "{problem}");
    for path in ["resources?at=1", "export?at=1", "resources/Pod/a?at=1"] {
        let (status, problem) = ask(&up, &token, None, &format!("/v1/pools/local/dc1/{path}"));
        assert!(
            status == 404 && problem["detail"].as_str().unwrap().contains("had nothing"),
            "{path}: {problem}"
        );
    }
    let (status, problem) = ask(&up, &token, None, "/v1/pools/local/dc1/resources?limit=x");
    assert!(status == 400 && !problem.to_string().contains("deserialize"), "{problem}");
}

#[test]
fn silent_and_half_sent_requests_do_not_hold_up_the_end() {
    let up = Up::start("");
    let mut peers: Vec<_> = (0..3).map(|_| TcpStream::connect(up.address()).unwrap()).collect();
    peers[0].write_all(b"GET /v1/pools HTTP/1.1\r\nHo").unwrap();
    peers[1].write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    peers[1].read_exact(&mut [0; 15]).unwrap();
    let began = Instant::now();
    let (status, _dir) = up.stop();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_see_its_source_is_not_in_sync_and_an_alarm() {
    let web = "kind: VM\nid: web\nrevision: \"1\"\nstate: {cpus: 2}\n";
    let up = Up::with_agent(&[("source/web.yaml", web)]);
    let pool = async |what: &str, code: i32| {
        eventually(what, async || {
            let said = up.verb(&["-o", "json", "status"]);
            (said.code == Some(code) && !said.json()["pools"][0]["last_sync_at"].is_null())
                .then(|| said.json())
        })
        .await
    };
    pool("the first sync", 0).await;
    fs::rename(up.dir().join("source"), up.dir().join("gone")).unwrap();
    let status = pool("the trouble shows", 3).await;
    assert_eq!(status["pools"][0]["in_sync"], json!("no"));
    assert!(status["pools"][0]["why"].to_string().contains("has trouble"), "{status}");
    assert_eq!(status["alarms"][0]["kind"], json!("source-trouble"), "{status}");
    let (_, metrics) = ask(&up, &up.token(), None, "/metrics");
    let gauge = "farside_agent_trouble{pool=\"local/dc1\",source=\"/local/dc1/resource/inv\"} 1";
    assert!(metrics.as_str().unwrap().contains(gauge), "{metrics}");
    fs::rename(up.dir().join("gone"), up.dir().join("source")).unwrap();
    pool("the trouble is over", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_nothing_is_in_sync_and_questions_to_the_log_fail_at_once() {
    let mut nats = Nats::start().await;
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let config = format!("[nats]\nservers = \"{}\"\n[service]\nlog_bytes_max = 268435456\n", nats.url());
    with_files(dir.path(), &[("farside.toml", config.as_str())]);
    let up = Up::start_as("serve", dir);
    up.publish("dc1", "Pod/a", "1", "{}");
    assert_eq!(up.json(&["status"])["pools"][0]["in_sync"], json!("unproven"));
    nats.kill().await;
    let status = eventually("the link is known to be down", async || {
        let status = up.verb(&["-o", "json", "status"]).json();
        (status["nats"]["up"] == json!(false)).then_some(status)
    })
    .await;
    assert_eq!(
        (&status["pools"][0]["in_sync"], &status["lease"]["acting"], &status["alarms"][0]["kind"]),
        (&json!("no"), &json!("unknown"), &json!("nats-down"))
    );
    let began = Instant::now();
    for path in ["export?at=1", "history/Pod/a", "resources?at=1"] {
        let (status, problem) = ask(&up, &up.token(), None, &format!("/v1/pools/local/dc1/{path}"));
        assert!(status == 503 && problem["detail"].as_str().unwrap().contains("NATS"), "{path}: {problem}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
}

#[test]
fn a_rebuild_is_equal_and_takes_the_place_of_the_pool_while_farside_goes_on() {
    let up = Up::start("");
    for number in 0..50 {
        up.publish("dc1", &format!("Pod/{number}"), "1", "{}");
    }
    let before = up.verb(&["pool", "export", "dc1"]).out;
    let report = up.json(&["rebuild"]);
    assert_eq!((&report["differences"], &report["swapped"]), (&json!([]), &json!(true)), "{report}");
    assert_eq!(up.verb(&["pool", "export", "dc1"]).out, before);
    up.publish("dc1", "Pod/after", "1", "{}");
    assert_eq!(up.json(&["pool", "get", "dc1", "Pod/after"])["revision"], json!("1"));
    let (status, dir) = up.stop();
    assert!(status.success());
    let up = Up::start_in(dir);
    assert_eq!(up.json(&["pool", "get", "dc1", "Pod/after"])["revision"], json!("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_counts_the_events_that_the_logs_have() {
    let nats = Nats::start().await;
    let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
    let config = format!("[nats]\nservers = \"{}\"\n[service]\nlog_bytes_max = 268435456\n", nats.url());
    with_files(dir.path(), &[("farside.toml", config.as_str())]);
    let up = Up::start_as("serve", dir);
    for revision in ["1", "2", "3"] {
        up.publish("dc1", "Pod/a", revision, "{}");
    }
    let log = async_nats::jetstream::new(nats.client().await).get_stream("FARSIDE_LOCAL").await.unwrap();
    log.purge().keep(1).await.unwrap();
    // The swap takes the lease again, which is one more.
    let facts = nats.bus().await.stream_state("FARSIDE_TGT_LOCAL").await.unwrap().messages;
    let said = up.verb(&["-o", "json", "rebuild"]);
    assert_eq!(said.json()["events"], json!(1 + facts), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_what_a_confirmation_found_is_read_from_the_pool_and_not_taken_from_the_caller() {
    let up = Up::with_agent(&[("source/web.yaml", "kind: VM\nid: web\nrevision: \"1\"\nstate: {cpus: 2}\n")]);
    let key = bearer("ak-dc1.correct horse battery staple");
    let headers = [(key[0].0, key[0].1.as_str())];
    let post = |path: &str, body: Value| {
        let (status, answer) = up.http("POST", path, &headers, &body.to_string());
        (status, serde_json::from_str::<Value>(&answer).unwrap())
    };
    let wanted = json!({"pool": "local/dc1", "keys": ["VM/web"]});
    let confirmed = eventually("the tenant's confirmation", async || {
        let (status, answer) = post("/v1/confirm", wanted.clone());
        (status == 200 && answer["go"] == json!(true)).then_some(answer)
    })
    .await;
    let forged = json!({"pool": "local/dc1", "confirmed": confirmed});
    assert_eq!(post("/v1/recheck", forged).0, 400, "a record of the caller's own");
    let recheck = |id: &Value| post("/v1/recheck", json!({"pool": "local/dc1", "confirm_id": id}));
    let (status, after) = recheck(&confirmed["confirm_id"]);
    assert_eq!((status, &after["resources"][0]["verdict"]), (200, &confirmed["resources"][0]["verdict"]));
    assert_eq!(recheck(&json!("made-up")).0, 404);
    let of_operator = up.json(&["confirm", "dc1", "VM/web"]);
    assert_eq!(recheck(&of_operator["confirm_id"]).0, 404, "another caller's");
}
