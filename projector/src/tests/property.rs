//! Random logs in random batches: the pool is what the naive one says, byte for byte, however the log
//! was cut. The seed is in the message of a failure; `FARSIDE_SEED` runs one, `FARSIDE_SEEDS` how many.

use bus_schema::{
    digest::{Digest, Node},
    event::resource::SyncScope,
    fact::{
        Fact,
        resource::{EmptyConfirmed, ResourceFact},
    },
};

use super::{
    oracle::Oracle,
    support::{Agent, Log, Message, Pool, SITE, TARGET, pool_id},
};
use crate::{Pending, compare};

const SEEDS: u64 = 16;
const EVENTS: usize = 250;

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % end
    }
}

/// Agents that do everything that agents, networks and restored backups do.
struct World {
    random: Random,
    log: Log,
    agents: Vec<Agent>,
    /// The naive pool so far: what agents know of themselves.
    oracle: Oracle,
    read: usize,
    epochs: u64,
    syncs: u64,
    asked: Vec<(usize, String)>,
    /// What the log never got, oldest first.
    lost: Vec<Message>,
}

impl World {
    fn new(seed: u64) -> Self {
        let agents = vec![Agent::new("dc1", "a"), Agent::new("dc1", "b"), Agent::new("dc2", "a")];
        let (random, log, oracle) = (Random::new(seed), Log::default(), Oracle::default());
        Self {
            random,
            log,
            agents,
            oracle,
            read: 0,
            epochs: 1,
            syncs: 0,
            asked: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn key(&mut self) -> String {
        format!("{}/{}", ["Pod", "Gerät"][self.random.below(2)], self.random.below(15))
    }

    fn revision(&mut self) -> String {
        format!("r{}", self.random.below(1000))
    }

    fn state(&mut self) -> String {
        let n = self.random.below(100);
        let states = [
            format!(r#"{{"b":{n},"a":[1,2.50,"x"]}}"#),
            format!(r#"{{ "z" : {{"q":null}}, "n": {n}e2 }}"#),
            format!("\"\\u00e4 {n}\""),
            n.to_string(),
        ];
        states[self.random.below(4)].clone()
    }

    /// What an agent would say that its digest is: sometimes wrong.
    fn digest(&mut self, who: usize) -> Digest {
        while let Some(message) = self.log.messages.get(self.read) {
            self.oracle.read(message);
            self.read += 1;
        }
        let agent = &self.agents[who];
        let pool = self.oracle.pools.get(&pool_id(&agent.cluster).to_string());
        match pool {
            Some(pool) if self.random.below(4) > 0 => pool.digest(&agent.source),
            _ => Digest { root: Node(7), count: 7 },
        }
    }

    fn speak(&mut self, who: usize) {
        let (key, revision, state) = (self.key(), self.revision(), self.state());
        let what = self.random.below(10);
        let tenant = [None, None, Some("acme".to_owned())][self.random.below(3)].clone();
        let labels: &[(&str, &str)] = [&[][..], &[("a", "1"), ("b", "2")]][self.random.below(2)];
        let (agent, log) = (&mut self.agents[who], &mut self.log);
        agent.tenant = tenant;
        match what {
            0..6 => agent.labelled(log, &key, &revision, &state, labels),
            6..8 => agent.noticed(log, &key, &revision, &state),
            _ => agent.deleted(log, &key),
        };
    }

    fn unchained(&mut self, who: usize) {
        let (key, revision, state) = (self.key(), self.revision(), self.state());
        let (kind, id) = key.split_once('/').unwrap();
        let data = format!(r#"{{"kind":"{kind}","id":"{id}","revision":"{revision}","state":{state}}}"#);
        if self.random.below(2) == 0 {
            self.log.plain(&self.agents[who].cluster.clone(), kind, id, "changed", &data);
            return;
        }
        // The agent's own source, without a chain.
        let message = self.agents[who].clone().say("resource", &key, "changed", data.into_bytes());
        let headers = message.headers.into_iter().filter(|(name, _)| !name.starts_with("ce-far")).collect();
        self.log.append(&message.subject, headers, message.body);
    }

    fn sync(&mut self, who: usize) {
        self.syncs += 1;
        let sync_id = format!("s{}", self.syncs);
        let scope =
            [SyncScope::Full, SyncScope::Full, SyncScope::Incremental, SyncScope::Keys][self.random.below(4)];
        let low = self.agents[who].open(&mut self.log, &sync_id, scope);
        for _ in 0..[0, 4, 30][self.random.below(3)] {
            match self.random.below(12) {
                0 => self.trouble(who),
                1 => self.unchained(who),
                2 => self.step(),
                _ => self.speak(who),
            }
        }
        let digest = self.digest(who);
        self.agents[who].close(&mut self.log, &sync_id, scope, low, digest);
        self.asked.push((who, sync_id));
    }

    /// What must not happen, and does.
    fn trouble(&mut self, who: usize) {
        let sent: Vec<Message> =
            self.log.messages.iter().filter(|message| message.stream == SITE).cloned().collect();
        match self.random.below(9) {
            0 => {
                // Lost on the way.
                for _ in 0..1 + self.random.below(3) {
                    let (key, revision) = (self.key(), self.revision());
                    let (kind, id) = key.split_once('/').unwrap();
                    let (event, data) = [
                        ("deleted", format!(r#"{{"kind":"{kind}","id":"{id}"}}"#)),
                        (
                            "changed",
                            format!(
                                r#"{{"kind":"{kind}","id":"{id}","revision":"{revision}","state":"late"}}"#
                            ),
                        ),
                    ][self.random.below(2)]
                    .clone();
                    self.lost.push(self.agents[who].say("resource", &key, event, data.into_bytes()));
                }
            }
            7 | 8 if !self.lost.is_empty() => {
                // And sent again when it was asked for, all of it or some.
                let from = self.random.below(self.lost.len());
                let length = 1 + self.random.below(8);
                for message in self.lost.iter().skip(from).take(length) {
                    self.log.repeat(message);
                }
            }
            1 | 2 if !sent.is_empty() => {
                let from = self.random.below(sent.len());
                let length = 1 + self.random.below(6);
                for message in sent.iter().skip(from).take(length) {
                    self.log.repeat(message);
                }
            }
            3 => {
                // Another branch of the same epoch.
                let mut branch = self.agents[who].clone();
                branch.branch += 1 + self.random.below(1000) as u32;
                branch.at.seq = branch.at.seq.saturating_sub(self.random.below(3) as u64);
                branch.prev = if branch.at.seq == 0 { Default::default() } else { branch.prev };
                for _ in 0..1 + self.random.below(3) {
                    let (key, revision, state) = (self.key(), self.revision(), self.state());
                    branch.changed(&mut self.log, &key, &revision, &state);
                }
            }
            4 => {
                self.epochs += 1;
                let epochs = self.epochs;
                self.agents[who].rebase(epochs);
            }
            5 => {
                let bad = self.agents[who].say("resource", "Pod/1", "changed", b"{\"kind\":1}".to_vec());
                self.log.repeat(&bad);
            }
            _ => {
                self.log.append("far.v1.local.evt.dc1.nonsense", Vec::new(), b"?".to_vec());
            }
        }
    }

    fn step(&mut self) {
        let who = self.random.below(self.agents.len());
        match self.random.below(40) {
            0..28 => self.speak(who),
            28..31 => self.unchained(who),
            31..34 => {
                let digest = self.digest(who);
                self.agents[who].heartbeat(&mut self.log, Some(digest));
            }
            34..36 => self.trouble(who),
            36..38 if !self.asked.is_empty() => {
                let last = self.asked.len() - 1;
                let (who, sync_id) = self.asked[last - self.random.below(last.min(2) + 1)].clone();
                let agent = &self.agents[who];
                let (pool, owner, actor) = (pool_id(&agent.cluster), agent.source.clone(), "me".to_owned());
                let confirmed = EmptyConfirmed { pool, owner, sync_id, actor };
                self.log.fact(&Fact::Resource(ResourceFact::EmptyConfirmed(confirmed)));
            }
            _ => {}
        }
    }
}

fn log_of(seed: u64) -> Log {
    let mut world = World::new(seed);
    while world.log.messages.len() < EVENTS {
        if world.random.below(60) == 0 {
            let who = world.random.below(world.agents.len());
            world.sync(who);
        } else {
            world.step();
        }
    }
    world.log
}

fn read_in_cuts(log: &Log, random: &mut Random, most: usize) -> Pool {
    let mut pool = Pool::new();
    while pool.read < log.messages.len() {
        pool.read_some(log, 1 + random.below(most));
    }
    pool
}

fn check(seed: u64) {
    let log = log_of(seed);
    let mut oracle = Oracle::default();
    log.messages.iter().for_each(|message| oracle.read(message));
    let mut random = Random::new(seed ^ 0xABCD);
    let (fine, coarse) = (read_in_cuts(&log, &mut random, 30), read_in_cuts(&log, &mut random, 400));
    for pool in [&fine, &coarse] {
        agrees(pool, &oracle, seed);
    }
    assert_eq!(compare::diff(&fine.reader(), &coarse.reader()).unwrap(), [], "seed {seed}");
    for first in [SITE, TARGET] {
        let mut ordered = log.clone();
        ordered.messages.sort_by_key(|message| message.stream != first);
        let pool = read_in_cuts(&ordered, &mut random, 100);
        let found = compare::diff(&fine.reader(), &pool.reader()).unwrap();
        assert_eq!(found, [], "seed {seed}, {first} first");
    }
    let outbox = |pool: &Pool| -> Vec<Pending> {
        let mut pending = pool.pending();
        pending.sort_by(|left, right| left.name.cmp(&right.name));
        pending.iter_mut().for_each(|entry| entry.id = 0);
        pending
    };
    assert_eq!(outbox(&fine), outbox(&coarse), "seed {seed}");
}

fn agrees(pool: &Pool, oracle: &Oracle, seed: u64) {
    for (name, expected) in &oracle.pools {
        let id = name.parse().unwrap();
        let cluster = name.strip_prefix("local/").unwrap();
        let (export, expected_export) = (pool.export(cluster), expected.export());
        for (line, expected) in export.lines().zip(expected_export.lines()) {
            assert_eq!(line, expected, "seed {seed}");
        }
        assert_eq!(export.len(), expected_export.len(), "seed {seed}");
        let owners = pool.reader().owners(&id).unwrap().value;
        assert_eq!(owners.len(), expected.owners.len(), "seed {seed}");
        for owner in owners {
            let theirs = &expected.owners[&owner.source];
            let told = format!("seed {seed}, {}", owner.source);
            assert_eq!(owner.digest, expected.digest(&owner.source), "{told}");
            let nodes = pool.reader().digest_nodes(&id, &owner.source, 2, 0, &[]).unwrap().value.nodes;
            let mut sum = Node::default();
            nodes.into_iter().for_each(|node| sum.toggle(node));
            assert_eq!(sum, owner.digest.root, "{told}");
            assert_eq!(
                (owner.applied, owner.repeats, owner.refused, owner.unchained),
                (theirs.applied, theirs.repeats, theirs.refused, theirs.unchained),
                "{told}"
            );
            let since = owner.since_sync;
            assert_eq!((since.changes, since.bytes), (theirs.changes, theirs.bytes), "{told}");
            assert_eq!(
                (since.outstanding, since.oldest_outstanding),
                expected.outstanding(&owner.source),
                "{told}"
            );
            assert_eq!(owner.fork.is_some(), theirs.is_forked, "{told}");
            let gap = owner.gap.as_ref().map(|gap| gap.place.clone());
            assert_eq!(gap, theirs.gap.map(|seq| format!("{SITE}:{seq}")), "{told}");
            let equal = owner.last_heartbeat.as_ref().map(|beat| beat.equal);
            assert_eq!(equal, theirs.heartbeat, "{told}");
            assert_eq!(owner.last_sync.as_ref().map(|last| last.equal), theirs.equal_close, "{told}");
        }
    }
}

#[test]
fn random_logs_in_random_batches_agree_with_the_naive_pool() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("FARSIDE_SEED") {
        return check(seed);
    }
    (1..=number("FARSIDE_SEEDS").unwrap_or(SEEDS)).for_each(check);
}
