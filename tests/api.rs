//! The HTTP API of the real binary: events in, pools out, and who may see what (R7, R8).

use serde_json::{Value, json};

use crate::support::farside::Up;

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
    for (body, status, words) in [
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
fn who_guesses_is_slowed_down() {
    let up = Up::start("");
    let answers: Vec<_> = (0..8).map(|_| ask(&up, "acme-1.wrong", None, "/v1/pools").0).collect();
    assert!(answers.starts_with(&[401, 401, 401, 401, 401, 401]) && answers.contains(&429), "{answers:?}");
    assert_eq!(ask(&up, &up.token(), None, "/v1/pools").0, 200, "others are not");
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
