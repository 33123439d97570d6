//! States at the limits of what travels: numbers that no double holds, and more bytes than an event takes.

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

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_travel_is_told_by_name_in_the_heartbeat_also_after_a_restart() {
    let bench = Bench::new().await;
    let write = |bytes: usize| {
        let state = json!({"kind": "Vm", "id": "huge", "state": "x".repeat(bytes)});
        bench.write("huge.json", &state.to_string());
    };
    write(950_000);
    let troubled = |told: &Told| {
        let trouble = beat(told).and_then(|beat| beat.trouble).unwrap_or_default();
        ["Vm/huge", "950002 bytes", "900000"].iter().all(|part| trouble.contains(part))
    };
    for beats in 1..=2 {
        let agent = bench.run(bench.directory("")).await;
        let starts = |log: &[Told]| log.iter().rposition(|told| told.name == "started");
        let again = |log: &[Told]| {
            count(log, "started") == beats && log[starts(log).unwrap_or(0)..].iter().any(troubled)
        };
        bench.until("a heartbeat names what cannot travel", again).await;
        if beats == 2 {
            write(10);
            let mended = |log: &[Told]| {
                log.iter().filter_map(beat).next_back().is_some_and(|beat| beat.trouble.is_none())
            };
            let log = bench.until("the trouble is over", mended).await;
            assert_eq!(pool(&log)["Vm/huge"], "x".repeat(10));
        }
        agent.stop().await;
    }
}
