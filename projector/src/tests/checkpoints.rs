//! What a checkpoint signs of the pool, and who remembers another one.

use bus_schema::{
    Hash32, canonical,
    digest::RowsHasher,
    event::agent::CheckpointSeen,
    fact::{
        Fact,
        log::{Checkpoint, LogFact},
    },
};
use serde_json::value::RawValue;

use super::support::{Agent, Log, SITE, TARGET, at, given, name};

fn state_hash(state: &str) -> Hash32 {
    canonical::state_hash(&RawValue::from_string(state.to_owned()).unwrap()).unwrap()
}

#[test]
fn the_rows_hash_covers_what_the_digest_covers_of_each_owner_in_order_of_the_keys() {
    let (mut log, mut agent, mut other) =
        (Log::default(), Agent::new("dc1", "inv"), Agent::new("dc1", "other"));
    agent.changed(&mut log, "Pod/b", "1", "{}");
    agent.changed(&mut log, "Pod/a", "1", r#"{"x":1}"#);
    agent.changed(&mut log, "Pod/gone", "1", "{}");
    agent.deleted(&mut log, "Pod/gone");
    agent.noticed(&mut log, "Pod/b", "2", r#"{"y":2}"#);
    agent.noticed(&mut log, "Pod/new", "7", "{}");
    other.changed(&mut log, "Pod/aa", "5", "{}");
    let pool = given(&log);
    let stand = pool.reader().stand(|owners| vec![true; owners.len()]).unwrap();
    let expected = RowsHasher::default()
        .row("Pod/a", "1", &state_hash(r#"{"x":1}"#))
        .row("Pod/b", "2", &state_hash(r#"{"y":2}"#))
        .row("Pod/new", "7", &state_hash("{}"));
    let (inv, aa) = (&stand.owners[0], RowsHasher::default().row("Pod/aa", "5", &state_hash("{}")));
    assert_eq!((inv.rows, inv.rows_sha256), expected.finish());
    assert_eq!((inv.owner.digest.count, inv.owner.clone()), (3, pool.owner(&agent)));
    assert_eq!((stand.owners[1].rows, stand.owners[1].rows_sha256), aa.finish());
    let site = stand.logs.iter().find(|log| log.stream == SITE).cloned();
    assert_eq!(site, pool.store.position(SITE).unwrap());
    let one =
        pool.reader().stand(|owners| owners.iter().map(|owner| owner.source.ends_with("other")).collect());
    assert_eq!(one.unwrap().owners, stand.owners[1..]);
}

fn checkpoint(number: u64, key: &str) -> Checkpoint {
    let (previous, stated_at, logs, owners) = (Hash32::ZERO, at(0), vec![], vec![]);
    let (target, key, signature) = (name("local"), key.to_owned(), String::new());
    Checkpoint { target, number, previous, stated_at, logs, owners, key, signature }
}

#[test]
fn an_agent_that_was_told_another_checkpoint_contradicts() {
    let told = |number: u64, hash: Hash32| {
        let (mut log, agent) = (Log::default(), Agent::new("dc1", "inv"));
        for number in 1..=2 {
            log.fact(&Fact::Log(LogFact::Checkpoint(checkpoint(number, "K"))));
        }
        agent.echo(&mut log, CheckpointSeen { target: name("local"), number, hash });
        let found = given(&log).reader().contradictions(&name("local")).unwrap();
        assert!(found.as_of.logs.iter().any(|(stream, seq)| stream == TARGET && *seq == 2));
        found.value.into_iter().map(|found| (found.seen.number, found.known, found.last)).collect::<Vec<_>>()
    };
    let (real, other) = (checkpoint(2, "K").hash().unwrap(), checkpoint(2, "X").hash().unwrap());
    assert_eq!(told(2, real), []);
    assert_eq!(told(2, other), [(2, Some(real), 2)], "history was written anew");
    assert_eq!(told(3, other), [(3, None, 2)], "the target log has lost its end");
}
