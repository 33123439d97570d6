//! States at the limits of what travels: numbers that no double holds.

use serde_json::json;

use super::*;

fn found(reply: ReadReply) -> (String, String) {
    let ReadReply::Read { resources, .. } = reply else { panic!("{reply:?}") };
    let (revision, hash) = resources[0].found.clone().unwrap();
    (revision.to_string(), hash.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_two_integers_that_one_double_stands_for_are_two_states() {
    let bench = Bench::new().await;
    let write =
        |n: &str| bench.write("a.json", &format!(r#"{{"kind": "Vm", "id": "a", "state": {{"n": {n}}}}}"#));
    write("9007199254740993");
    let agent = bench.run(bench.directory("")).await;
    bench.until("the resource is in the log", |log| pool(log).len() == 1).await;
    let before = found(bench.ask_read("inv", &["Vm/a"], 7).await.unwrap());
    write("9007199254740992");
    let changed = |log: &[Told]| pool(log)["Vm/a"]["n"] == json!(9_007_199_254_740_992_u64);
    bench.until("the other number is in the log", changed).await;
    let after = found(bench.ask_read("inv", &["Vm/a"], 7).await.unwrap());
    assert_ne!(before, after, "a confirmation compares these");
    agent.stop().await;
}
