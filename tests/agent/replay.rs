//! What the log lost comes again from the agent: to the letter, in another place of the log, as often as it is asked
//! for. And what a target said of its history, its agents say after it.

use bus::LogMessage;
use bus_schema::{
    Epoch,
    command::agent::{REPLAY, Replay, ReplayReply},
    event::agent::CheckpointSeen,
};
use serde_json::json;

use super::*;

/// The lease under which the target asks.
const LEASE: u64 = 7;

impl Bench {
    fn burst(&self, ids: std::ops::Range<u64>) {
        let line = |id: u64| json!({"kind": "Vm", "id": id.to_string(), "state": {"n": 1}}).to_string();
        self.write("burst.jsonl", &ids.map(line).collect::<Vec<_>>().join("\n"));
    }

    async fn ask_replay(&self, epoch: Epoch, events: (u64, u64), lease: u64) -> ReplayReply {
        let (first_seq, last_seq) = events;
        let source = "/local/dc1/resource/inv".parse().unwrap();
        let replay = Replay { source, epoch, first_seq, last_seq, lease, lease_log: None };
        let subject = subject::command(&"local/dc1".parse::<PoolId>().unwrap(), Stem::Agent, REPLAY);
        eventually("the agent answers a replay", async || {
            let reply = self.bus.request(&subject, &replay, Duration::from_secs(30)).await.ok();
            // Just starting, it says so.
            reply.filter(
                |reply| !matches!(reply, ReplayReply::Refused { reason, .. } if reason.contains("starting")),
            )
        })
        .await
    }

    /// Every message of the log, as it is stored.
    async fn messages(&self) -> Vec<LogMessage> {
        let last = self.bus.stream_state(STREAM).await.unwrap().last_seq;
        let mut reader = self.bus.read_log(STREAM, 1, None).await.unwrap();
        let mut messages = Vec::new();
        while (messages.len() as u64) < last {
            messages.push(within("the log is read", reader.next()).await.unwrap());
        }
        messages
    }

    /// The stored messages of each place of a chain, in the order of the log.
    async fn stored(&self, epoch: Epoch) -> BTreeMap<u64, Vec<LogMessage>> {
        let mut stored: BTreeMap<u64, Vec<LogMessage>> = BTreeMap::new();
        for message in self.messages().await {
            let link = message.with_stored(|stored| Envelope::read(stored).unwrap().link);
            if let Some(link) = link.filter(|link| link.at.epoch == epoch) {
                stored.entry(link.at.seq).or_default().push(message);
            }
        }
        stored
    }
}

/// All that the agent wrote into a message, and its hash in the chain.
#[derive(Debug, PartialEq)]
struct Letter {
    subject: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    hash: Option<Hash32>,
}

fn letter(message: &LogMessage) -> Letter {
    let own = |(name, _): &(&str, &str)| !name.to_ascii_lowercase().starts_with("nats-");
    let mut headers: Vec<(String, String)> =
        message.headers().into_iter().filter(own).map(|(name, value)| (name.into(), value.into())).collect();
    headers.sort();
    let hash = message.with_stored(|stored| Envelope::read(stored).unwrap().hash);
    Letter { subject: message.subject().to_owned(), headers, body: message.body().to_vec(), hash }
}

/// Whether each of these events stands in the log this often, each time the same and in an order of its own.
fn are_copies(stored: &BTreeMap<u64, Vec<LogMessage>>, events: (u64, u64), times: usize) {
    let mut before = vec![0; times];
    for seq in events.0..=events.1 {
        let messages = &stored[&seq];
        assert_eq!(messages.len(), times, "event {seq}");
        for (message, before) in messages.iter().zip(&mut before) {
            assert_eq!(letter(message), letter(&messages[0]), "event {seq}");
            assert!(message.seq() > *before, "the copies are in order");
            *before = message.seq();
        }
    }
}

fn sent(events: u64) -> ReplayReply {
    ReplayReply::Sent { events }
}

/// The reason of a refusal, and whether the events are gone.
fn why(reply: ReplayReply) -> (String, bool) {
    match reply {
        ReplayReply::Refused { reason, gone } => (reason, gone),
        ReplayReply::Sent { .. } => panic!("{reply:?}"),
    }
}

/// The end of the only chain.
fn end(log: &[Told]) -> ChainPoint {
    let ends = verify(log);
    assert_eq!(ends.len(), 1);
    ends[0].0
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_are_sent_again_to_the_letter_as_often_as_the_target_asks() {
    let bench = Bench::new().await;
    bench.burst(0..2_500);
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("everything is in the log", |log| pool(log).len() == 2_500).await;
    let at = end(&log);
    // Within the time in which the log remembers the message ids of the first ones, and of the first copies.
    for times in 2..=3 {
        assert_eq!(bench.ask_replay(at.epoch, (1, at.seq), LEASE).await, sent(at.seq));
        are_copies(&bench.stored(at.epoch).await, (1, at.seq), times);
    }
    assert_eq!(bench.ask_replay(at.epoch, (2, 3), LEASE).await, sent(2), "a few go one by one");
    are_copies(&bench.stored(at.epoch).await, (2, 3), 4);
    bench.vm("new", 1);
    let log = bench.until("the chain goes on", |log| pool(log).contains_key("Vm/new")).await;
    assert_eq!(end(&log).seq, at.seq + 1, "copies are no part of the agent's own count");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_sent_beside_a_busy_outbox_and_leaves_it_as_it_is() {
    let bench = Bench::new().await;
    bench.burst(0..10);
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("ten are in the log", |log| pool(log).len() == 10).await;
    let at = end(&log);
    bench.burst(0..20_000);
    eventually("the burst has begun", async || {
        bench.bus.stream_state(STREAM).await.ok().filter(|state| state.messages > at.seq + 300)
    })
    .await;
    assert_eq!(bench.ask_replay(at.epoch, (1, at.seq), LEASE).await, sent(at.seq));
    let log = bench.until("the burst is in the log", |log| pool(log).len() == 20_000).await;
    let (end, stored) = (end(&log), bench.stored(at.epoch).await);
    are_copies(&stored, (1, at.seq), 2);
    are_copies(&stored, (at.seq + 1, end.seq), 1);
    assert!(stored[&at.seq][1].seq() < stored[&end.seq][0].seq(), "it did not wait for the burst's end");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_started_again_sends_what_it_sent_before() {
    let bench = Bench::new().await;
    bench.vm("a", 1);
    let agent = bench.run(bench.directory("")).await;
    bench.until("the resource is in the log", |log| pool(log).len() == 1).await;
    agent.stop().await;
    let at = end(&bench.log().await);
    let agent = bench.run(bench.directory("")).await;
    assert_eq!(bench.ask_replay(at.epoch, (1, at.seq), LEASE).await, sent(at.seq));
    are_copies(&bench.stored(at.epoch).await, (1, at.seq), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_beyond_the_journals_limit_is_refused_as_gone_with_what_there_is() {
    let bench = Bench::new().await;
    bench.burst(0..200);
    let agent = bench.run(bench.directory("journal_bytes_max = 50000")).await;
    let log = bench.until("everything is in the log", |log| pool(log).len() == 200).await;
    let at = end(&log);
    // What was acknowledged is trimmed when the agent has heard of it.
    let settled = |told: &Told| beat(told).is_some_and(|beat| beat.outbox_events == 0 && beat.at == at);
    bench.until("nothing waits any more", |log| log.iter().any(settled)).await;
    let (reason, gone) = why(bench.ask_replay(at.epoch, (1, 10), LEASE).await);
    assert!(gone && reason.contains("begins with event") && reason.contains("journal_bytes_max"), "{reason}");
    let (reason, gone) = why(bench.ask_replay(Epoch(1), (1, 10), LEASE).await);
    assert!(gone && reason.contains("nothing of epoch"), "{reason}");
    assert_eq!(bench.ask_replay(at.epoch, (at.seq, at.seq), LEASE).await, sent(1));
    are_copies(&bench.stored(at.epoch).await, (1, 10), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_under_a_stale_lease_or_for_another_agent_sends_nothing() {
    let bench = Bench::new().await;
    bench.vm("a", 1);
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("the resource is in the log", |log| pool(log).len() == 1).await;
    let at = end(&log);
    assert_eq!(bench.ask_replay(at.epoch, (1, 1), LEASE).await, sent(1));
    let (reason, gone) = why(bench.ask_replay(at.epoch, (1, 1), LEASE - 1).await);
    assert!(!gone && reason.contains("lease"), "{reason}");
    let source = "/local/dc1/resource/another".parse().unwrap();
    let replay = Replay { source, epoch: at.epoch, first_seq: 1, last_seq: 1, lease: LEASE, lease_log: None };
    let subject = "far.v1.local.cmd.dc1.agent.replay";
    let silent =
        bench.bus.request::<_, ReplayReply>(subject, &replay, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(silent, RequestError::TimedOut { .. }), "{silent}");
    are_copies(&bench.stored(at.epoch).await, (1, 1), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_takes_nothing_is_named_and_the_events_are_not_gone() {
    let bench = Bench::new().await;
    bench.burst(0..50);
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("everything is in the log", |log| pool(log).len() == 50).await;
    let at = end(&log);
    let client = async_nats::jetstream::new(bench.nats.client().await);
    let mut stream = client.get_stream(STREAM).await.unwrap();
    let roomy = stream.info().await.unwrap().config.clone();
    let full = async_nats::jetstream::stream::Config { max_bytes: 1_000, ..roomy.clone() };
    client.update_stream(&full).await.unwrap();
    let (reason, gone) = why(bench.ask_replay(at.epoch, (1, at.seq), LEASE).await);
    assert!(!gone && reason.contains("size limit"), "{reason}");
    are_copies(&bench.stored(at.epoch).await, (1, at.seq), 1);
    client.update_stream(&roomy).await.unwrap();
    assert_eq!(bench.ask_replay(at.epoch, (1, at.seq), LEASE).await, sent(at.seq));
    are_copies(&bench.stored(at.epoch).await, (1, at.seq), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_names_the_last_checkpoint_that_it_was_told_of_also_after_a_restart() {
    let bench = Bench::new().await;
    bench.vm("a", 1);
    let seen = |number, hash: &[u8]| CheckpointSeen {
        target: "local".parse().unwrap(),
        number,
        hash: Hash32::of(hash),
    };
    let names = |checkpoint: &CheckpointSeen| {
        let checkpoint = Some(checkpoint.clone());
        move |log: &[Told]| {
            log.iter().filter_map(beat).next_back().is_some_and(|b| b.checkpoint == checkpoint)
        }
    };
    // The last one contradicts the first.
    let mut last = None;
    for checkpoint in [seen(1, b"a"), seen(2, b"b"), seen(1, b"c")] {
        let mut hellos = bench.bus.serve("far.v1.local.cmd.*.agent.hello").await.unwrap();
        let told = checkpoint.clone();
        let target = tokio::spawn(async move {
            while let Some(request) = hellos.next().await {
                let checkpoint = Some(told.clone());
                let reply = HelloReply { last: None, verdict: HelloVerdict::Continue, checkpoint };
                request.reply(&reply).await.unwrap();
            }
        });
        let agent = bench.run(bench.directory("")).await;
        bench.until("a heartbeat names the checkpoint", names(&checkpoint)).await;
        agent.stop().await;
        target.abort();
        last = Some(checkpoint);
    }
    let before = count(&bench.log().await, "heartbeat");
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("it beats without a target", |log| count(log, "heartbeat") > before).await;
    assert!(names(&last.unwrap())(&log), "the ledger remembers it");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cut_off_answers_with_what_it_sent_and_the_rest_with_the_reason() {
    let bench = Bench::new().await;
    bench.burst(0..2_500);
    let agent = bench.run(bench.directory("")).await;
    let log = bench.until("everything is in the log", |log| pool(log).len() == 2_500).await;
    let at = end(&log);
    let client = async_nats::jetstream::new(bench.nats.client().await);
    let mut stream = client.get_stream(STREAM).await.unwrap();
    let info = stream.info().await.unwrap().clone();
    // Room for one batch and not for two.
    let room = info.state.bytes * 3 / 5;
    let max_bytes = i64::try_from(info.state.bytes + room).unwrap();
    let small = async_nats::jetstream::stream::Config { max_bytes, ..info.config };
    client.update_stream(&small).await.unwrap();
    let ReplayReply::Sent { events } = bench.ask_replay(at.epoch, (1, at.seq), LEASE).await else { panic!() };
    assert!((500..=1_000).contains(&events), "{events}");
    let (reason, gone) = why(bench.ask_replay(at.epoch, (events + 1, at.seq), LEASE).await);
    assert!(!gone && reason.contains("size limit"), "{reason}");
    let stored = bench.stored(at.epoch).await;
    are_copies(&stored, (1, events), 2);
    are_copies(&stored, (events + 1, at.seq), 1);
    agent.stop().await;
}
