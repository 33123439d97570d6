//! What the verbs write where, and the codes they end with.

use std::{
    fs,
    process::{Child, Stdio},
};

use bus::Outgoing;
use serde_json::{Value, json};

use super::{in_sync, up_with_agent};
use crate::support::{
    eventually,
    farside::{Up, command, farside, shell, terminate},
};

/// Runs a verb whose standard output nobody reads.
fn unread(up: &Up, arguments: &[&str]) -> Option<i32> {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = command(up.dir()).args(arguments).stdout(writer).stderr(Stdio::null()).status();
    status.unwrap().code()
}

#[test]
fn a_closed_output_ends_nothing_that_acts_and_changes_no_exit_code() {
    let up = Up::start("");
    let lines: String = (0..40)
        .map(|n| {
            let data = json!({"kind": "Pod", "id": format!("p{n}"), "revision": "1", "state": {}});
            json!({"pool": "local/dc1", "type": "resource.changed", "data": data}).to_string() + "\n"
        })
        .collect();
    fs::write(up.dir().join("events.jsonl"), lines).unwrap();
    assert_eq!(unread(&up, &["publish", "--file", "events.jsonl", "--applied"]), Some(0));
    assert_eq!(up.json(&["pool", "get", "dc1"])["items"].as_array().map(Vec::len), Some(40));
    assert_eq!(unread(&up, &["pool", "export", "dc1"]), Some(0));
    // A state that was announced and never came.
    let notice =
        json!({"kind": "VM", "id": "x", "revision": "2", "state_hash": "0".repeat(64), "size_bytes": "9"});
    up.json(&["publish", "dc2", "resource.noticed", "--data", &notice.to_string(), "--applied"]);
    assert_eq!(unread(&up, &["status"]), Some(3));
    assert_eq!(unread(&up, &["rebuild"]), Some(0));
    // A secret that nobody read is kept nowhere.
    up.json(&["tenant", "create", "acme"]);
    assert_eq!(unread(&up, &["key", "make", "acme"]), Some(1));
}

#[test]
fn a_new_key_stands_alone_on_standard_output() {
    let up = Up::start("");
    up.json(&["tenant", "create", "acme"]);
    let said = up.verb(&["key", "make", "acme"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let (key, secret) = said.out.strip_suffix('\n').unwrap().split_once('.').unwrap();
    assert!(!secret.contains(char::is_whitespace), "{said:?}");
    assert!(
        said.err.contains(key) && said.err.contains("only time") && !said.err.contains(secret),
        "{said:?}"
    );
}

#[test]
fn only_the_verb_confirm_has_the_exit_codes_of_a_guard() {
    let dir = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| farside(dir.path(), arguments).code;
    assert_eq!(code(&["pool", "get", "confirm", "--bad"]), Some(2));
    assert_eq!(code(&["publish", "confirm", "--bad"]), Some(2));
    assert_eq!(code(&["confirm", "dc1", "VM/web", "--bad"]), Some(125));
    assert_eq!(code(&["-o", "json", "--data-dir", "confirm", "confirm", "dc1"]), Some(125));
    assert_eq!(code(&["confirm", "--help"]), Some(0));
}

/// A guard whose command is prepared and has made the file `started`.
async fn guarding(up: &Up, prepared: &str, script: &str) -> Child {
    let script = format!("{prepared}; echo $$ > pid; mv pid started; {script}");
    let mut guard = command(up.dir());
    guard.args(["confirm", "dc1", "VM/web", "--", "sh", "-c", &script]);
    let guard = guard.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the command runs", async || up.dir().join("started").exists().then_some(())).await;
    guard
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_guard_that_is_told_to_end_tells_its_command_and_waits_for_it() {
    let up = up_with_agent();
    in_sync(&up).await;
    let tidies = "trap 'echo tidied > tidied; exit 9' TERM";
    let mut guard = guarding(&up, tidies, "while :; do sleep 0.05; done").await;
    terminate(&guard);
    assert_eq!(guard.wait().unwrap().code(), Some(9));
    assert!(up.dir().join("tidied").exists());

    fs::remove_file(up.dir().join("started")).unwrap();
    let mut guard = guarding(&up, ":", "exec sleep 3600").await;
    let pid = fs::read_to_string(up.dir().join("started")).unwrap();
    terminate(&guard);
    assert_eq!(guard.wait().unwrap().code(), Some(128 + 15));
    assert!(!std::path::Path::new("/proc").join(pid.trim()).join("exe").exists(), "the command is an orphan");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_the_confirmation_is_shown_in_the_form_that_was_asked_for_beside_the_commands_output() {
    let up = up_with_agent();
    in_sync(&up).await;
    let said = up.verb(&["-o", "json", "confirm", "dc1", "VM/web", "--", "echo", "the command's own"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "the command's own\n"), "{said:?}");
    let confirmation: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(confirmation["go"], json!(true));
}

#[test]
fn where_there_never_was_a_dead_letter_the_list_says_so() {
    let up = Up::start("");
    let said = up.verb(&["dlq", "list"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "no dead letters\n"), "{said:?}");
    assert_eq!(up.verb(&["dlq", "list", "--before", "0"]).code, Some(0));
}

#[test]
fn a_log_of_json_lines_can_be_asked_for_as_variables_usually_say_yes_and_no() {
    let dir = tempfile::tempdir().unwrap();
    let code = |value: &str| {
        let mut verb = command(dir.path());
        verb.env("FARSIDE_LOG_JSON", value).args(["completions", "bash"]).output().unwrap().status.code()
    };
    assert_eq!(["1", "true", "0", "false"].map(code), [Some(0); 4]);
    assert_eq!(code("json"), Some(2));
}

/// The first block below a heading of a page, to the letter.
fn block<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, below) = page.split_once(&format!("\n{heading}\n")).unwrap();
    below.split("```").nth(1).unwrap()
}

#[test]
fn r8_the_recipe_for_keys_and_tenants_works_as_it_stands_on_the_page() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md")).unwrap();
    let recipe = block(&page, "## Keys and tenants");
    assert!(recipe.contains("127.0.0.1:8470"), "{recipe}");
    let up = Up::start("");
    up.publish("prod-eu", "Pod/web", "1", r#"{"app":"web"}"#);
    up.publish("prod-eu", "Pod/db", "1", r#"{"app":"db"}"#);
    let said = shell(up.dir(), &recipe.replace("127.0.0.1:8470", up.address()));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("Pod/web") && !said.out.contains("Pod/db"), "{said:?}");
    assert!(!said.err.contains("warning"), "{said:?}");
}

#[test]
fn r8_a_grant_that_can_show_nothing_says_so_and_what_to_do() {
    let up = Up::start("");
    up.publish("dc1", "Pod/web", "1", "{}");
    up.json(&["tenant", "create", "acme"]);
    up.json(&["tenant", "create", "acme/web"]);
    let said = up.verb(&["tenant", "grant", "acme/web", "--pool", "dc1"]);
    let advice = "farside tenant grant acme --pool local/dc1";
    assert!(said.code == Some(0) && said.err.contains(advice), "{said:?}");
    up.json(&["tenant", "grant", "acme", "--pool", "dc1"]);
    let said = up.verb(&["tenant", "grant", "acme/web", "--pool", "dc1"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
}

#[test]
fn a_rebuild_that_was_killed_or_that_differs_leaves_no_second_pool() {
    let up = Up::start("");
    up.publish("dc1", "Pod/a", "1", "{}");
    let (_, dir) = up.stop();
    let left_over = dir.path().join("data/pool.rebuilt.redb");
    fs::write(&left_over, "half a pool").unwrap();
    assert_eq!(shell(dir.path(), "cp -a data/nats backup").code, Some(0));
    let up = Up::start_in(dir);
    assert!(!left_over.exists(), "what a killed rebuild left is still there");
    up.publish("dc1", "Pod/b", "1", "{}");
    let (_, dir) = up.stop();
    // A log that was restored from a backup knows less than the pool.
    assert_eq!(shell(dir.path(), "rm -r data/nats; mv backup data/nats").code, Some(0));
    let up = Up::start_in(dir);
    let said = up.verb(&["rebuild"]);
    assert!(said.code == Some(3) && said.out.contains("the live one stays in use"), "{said:?}");
    assert!(!left_over.exists(), "the pool that is not used is still there");
    assert_eq!(up.verb(&["rebuild", "--swap"]).code, Some(3));
    fs::create_dir(&left_over).unwrap();
    let said = up.verb(&["rebuild"]);
    assert!(said.code == Some(1) && said.err.matches("the rebuild failed").count() == 1, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_writes_does_not_steer_the_operators_terminal() {
    let up = Up::start("");
    let (headers, message_id) = (vec![], String::new());
    let subject = "far.v1.local.evt.dc1.resource.\u{1b}[2J.changed".to_owned();
    let outgoing = Outgoing { subject, headers, body: "nonsense".into(), message_id };
    up.bus().await.publisher().publish("FARSIDE_LOCAL", &outgoing, None).await.unwrap();
    let listed = eventually("the dead letter is there", async || {
        let said = up.verb(&["dlq", "list"]);
        said.out.contains("FARSIDE_LOCAL:1").then_some(said.out)
    })
    .await;
    assert!(listed.contains("\\u{1b}[2J") && !listed.contains('\u{1b}'), "{listed:?}");
}
