//! Confirming against scripted agents: what is asked, what is stated, and what the task is told.

use serde_json::{Value, json};

use super::*;
use crate::resource::recording::{Recording, RecordingPool, hash_of};

const OWNER: &str = "/local/dc1/resource/inv";

fn ports() -> Arc<Recording> {
    Arc::new(Recording::with_owner(OWNER))
}

fn command(keys: &[&str], wait_ms_max: u64) -> ConfirmCommand {
    ConfirmCommand {
        pool: "local/dc1".parse().unwrap(),
        keys: keys.iter().map(|key| key.parse().unwrap()).collect(),
        actor: "op".to_owned(),
        task: Some("failover".to_owned()),
        allow_unreachable: false,
        wait_ms_max,
    }
}

/// The source has these revisions under these keys; none = it has no such resource.
fn reads(found: &[(&str, Option<&str>)]) -> Value {
    let resources: Vec<_> = found
        .iter()
        .map(|(key, revision)| json!({ "key": key, "found": revision.map(|r| json!([r, hash_of(r)])) }))
        .collect();
    json!({ "result": "read", "resources": resources, "at": { "epoch": "0000000000000007", "seq": "12" } })
}

fn accepts(pool: &RecordingPool, command: &Value, seq: u64) -> Value {
    pool.close(OWNER, command["sync_id"].as_str().unwrap(), seq);
    json!({ "result": "accepted", "scope": "keys" })
}

async fn confirm(ports: &Arc<Recording>, keys: &[&str]) -> Confirmation {
    Confirm::run(ports.clone(), command(keys, 5_000)).await.unwrap()
}

fn verdicts(confirmation: &Confirmation) -> Vec<Verdict> {
    confirmation.resources.iter().map(|resource| resource.verdict).collect()
}

fn reason(confirmation: &Confirmation) -> String {
    confirmation.resources[0].reason.clone().unwrap()
}

fn stated(ports: &Recording) -> Confirmed {
    ports
        .stated()
        .into_iter()
        .find_map(|fact| match fact {
            Fact::Resource(ResourceFact::Confirmed(confirmed)) => Some(confirmed),
            _ => None,
        })
        .unwrap()
}

#[tokio::test]
async fn r4_equal_entries_are_confirmed_without_a_second_request() {
    let ports = ports();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("1"))])));
    let confirmation = confirm(&ports, &["Pod/a"]).await;
    assert!(confirmation.go && verdicts(&confirmation) == [Verdict::Confirmed]);
    assert_eq!(ports.asked().len(), 1, "one read and nothing else");
    assert_eq!(stated(&ports).resources[0].true_as_of.unwrap().seq, 12);
}

#[tokio::test]
async fn r4_a_mismatch_is_mended_by_a_second_request_for_that_key_only() {
    let ports = ports();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.pool.put(OWNER, "Pod/b", "1");
    ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("2")), ("Pod/b", Some("1"))])));
    ports.answers(|pool, command| {
        pool.put(OWNER, "Pod/a", "2");
        Ok(accepts(pool, command, 14))
    });
    let confirmation = confirm(&ports, &["Pod/a", "Pod/b"]).await;
    assert!(confirmation.go);
    assert_eq!(verdicts(&confirmation), [Verdict::Updated, Verdict::Confirmed]);
    let (verb, second) = &ports.asked()[1];
    assert_eq!(
        (verb.as_str(), &second["reason"], &second["keys"]),
        ("sync", &json!("second"), &json!(["Pod/a"]))
    );
    let updated = &stated(&ports).resources[0];
    let revision = |revision: &Option<Revision>| revision.as_ref().map(ToString::to_string);
    assert_eq!((revision(&updated.before), revision(&updated.after)), (Some("1".into()), Some("2".into())));
    assert_eq!(updated.true_as_of.unwrap().seq, 14);
}

#[tokio::test]
async fn r4_an_equal_revision_with_another_state_is_a_mismatch() {
    let ports = ports();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.answers(|_, _| {
        let resource = json!({ "key": "Pod/a", "found": ["1", hash_of("other")] });
        Ok(json!({ "result": "read", "resources": [resource], "at": { "epoch": "0000000000000007", "seq": "12" } }))
    });
    ports.answers(|pool, command| Ok(accepts(pool, command, 14)));
    confirm(&ports, &["Pod/a"]).await;
    assert_eq!(ports.asked()[1].0, "sync");
}

#[tokio::test]
async fn r4_what_neither_side_has_is_missing_and_the_task_does_not_run() {
    let ports = ports();
    ports.answers(|_, _| Ok(reads(&[("Pod/a", None)])));
    let confirmation = confirm(&ports, &["Pod/a"]).await;
    assert!(!confirmation.go && verdicts(&confirmation) == [Verdict::Missing]);
}

#[tokio::test]
async fn r4_what_the_source_deleted_leaves_the_pool_and_is_missing() {
    let ports = ports();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.answers(|_, _| Ok(reads(&[("Pod/a", None)])));
    ports.answers(|pool, command| {
        pool.delete("Pod/a");
        Ok(accepts(pool, command, 14))
    });
    let confirmation = confirm(&ports, &["Pod/a"]).await;
    assert!(!confirmation.go && verdicts(&confirmation) == [Verdict::Missing]);
    assert_eq!(confirmation.resources[0].before, Some("1".parse().unwrap()));
}

#[tokio::test]
async fn r4_an_unreachable_source_stops_the_task_unless_the_policy_lets_it_go() {
    for allow_unreachable in [false, true] {
        let ports = ports();
        ports.pool.put(OWNER, "Pod/a", "1");
        let command = ConfirmCommand { allow_unreachable, ..command(&["Pod/a"], 5_000) };
        let confirmation = Confirm::run(ports.clone(), command).await.unwrap();
        assert_eq!(verdicts(&confirmation), [Verdict::SourceUnreachable]);
        assert_eq!(confirmation.go, allow_unreachable);
        assert_eq!(stated(&ports).allowed_unreachable, allow_unreachable, "the warning is on record");
    }
}

#[tokio::test]
async fn r4_a_second_request_that_brings_nothing_in_time_is_no_confirmation() {
    let ports = ports();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("2"))])));
    ports.answers(|_, _| Ok(json!({ "result": "accepted", "scope": "keys" })));
    let confirmation = Confirm::run(ports.clone(), command(&["Pod/a"], 50)).await.unwrap();
    assert!(!confirmation.go && verdicts(&confirmation) == [Verdict::Unconfirmable]);
    assert!(reason(&confirmation).contains("no whole answer"), "{}", reason(&confirmation));
}

#[tokio::test]
async fn r4_a_pool_that_is_known_to_differ_stops_the_task_under_every_policy() {
    let ports = ports();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("2"))])));
    ports.answers(|_, _| Err(Silence("gone".to_owned())));
    let command = ConfirmCommand { allow_unreachable: true, ..command(&["Pod/a"], 50) };
    let confirmation = Confirm::run(ports.clone(), command).await.unwrap();
    assert!(!confirmation.go && verdicts(&confirmation) == [Verdict::Unconfirmable]);
}

#[tokio::test]
async fn r4_an_answer_that_did_not_bring_the_resource_confirms_nothing() {
    for broken in [None, Some("its event is a dead letter")] {
        let ports = ports();
        ports.pool.put(OWNER, "Pod/a", "1");
        ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("2"))])));
        ports.answers(move |pool, command| {
            let accepted = accepts(pool, command, 14);
            pool.change_owner(OWNER, |owner| {
                owner.last_sync.as_mut().unwrap().broken = broken.map(str::to_owned);
            });
            Ok(accepted)
        });
        let confirmation = confirm(&ports, &["Pod/a"]).await;
        assert!(!confirmation.go && verdicts(&confirmation) == [Verdict::Unconfirmable], "{broken:?}");
        let said = broken.unwrap_or("did not bring");
        assert!(reason(&confirmation).contains(said), "{}", reason(&confirmation));
    }
}

#[tokio::test]
async fn r4_a_source_that_changed_once_more_after_it_was_read_is_updated_by_the_answer_alone() {
    // The opening of the answer lies at 12: an event before it may be older than what was read.
    for (seq, verdict) in [(12, Verdict::Unconfirmable), (13, Verdict::Updated)] {
        let ports = ports();
        ports.pool.put(OWNER, "Pod/a", "1");
        ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("2"))])));
        ports.answers(move |pool, command| {
            pool.put_at(OWNER, "Pod/a", "3", seq);
            Ok(accepts(pool, command, 14))
        });
        assert_eq!(verdicts(&confirm(&ports, &["Pod/a"]).await), [verdict]);
    }
}

#[tokio::test]
async fn r4_a_resource_that_no_agent_answers_for_is_unconfirmable() {
    let ports = ports();
    ports.pool.put("urn:other:publisher", "Pod/a", "1");
    let confirmation = confirm(&ports, &["Pod/a"]).await;
    assert!(!confirmation.go && verdicts(&confirmation) == [Verdict::Unconfirmable]);
    ports.pool.forget_owners();
    assert_eq!(verdicts(&confirm(&ports, &["Pod/b"]).await), [Verdict::Unconfirmable]);
}

#[tokio::test]
async fn r7_no_second_request_without_an_access_key() {
    let ports = ports();
    ports.pool.forget_keys();
    ports.pool.put(OWNER, "Pod/a", "1");
    ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("2"))])));
    let confirmation = confirm(&ports, &["Pod/a"]).await;
    assert!(!confirmation.go);
    assert_eq!(ports.asked().len(), 1, "the read only");
}

#[tokio::test]
async fn r4_a_change_during_the_run_is_recorded() {
    for (revision, changed) in [("1", false), ("2", true)] {
        let ports = ports();
        ports.pool.put(OWNER, "Pod/a", "1");
        ports.answers(|_, _| Ok(reads(&[("Pod/a", Some("1"))])));
        let confirmed = confirm(&ports, &["Pod/a"]).await;
        ports.answers(move |_, _| Ok(reads(&[("Pod/a", Some(revision))])));
        let pool = "local/dc1".parse().unwrap();
        let command = RecheckCommand { confirmed, pool, actor: "op".to_owned(), wait_ms_max: 5_000 };
        let recheck = Confirm::recheck(ports.clone(), command).await.unwrap();
        assert_eq!((recheck.go, recheck.resources[0].changed_during_run), (!changed, changed));
    }
}

#[tokio::test]
async fn a_confirmation_of_nothing_or_of_too_much_is_refused() {
    let reason = Confirm::run(ports(), command(&[], 5_000)).await.unwrap_err();
    assert!(reason.contains("name 1 to 500"), "{reason}");
}
