//! Redriving: poisoned events among many, mended by an upcaster and redriven twice while the service is killed, are
//! applied once each; what is newer stays, the past replays as it was, and the list of the parked survives everything.
//!
//! `make test` runs a small version, `make redrive` the whole one (`FARSIDE_REDRIVE_EVENTS`).

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use bus::{Bus, Outgoing};
use bus_schema::{redrive::REDRIVE, token};
use serde_json::{Value, json};

use crate::support::{eventually, nats::Nats, random::number, world::World};

/// Events of a plain `make test`.
const EVENTS_DEFAULT: u64 = 2_000;
/// One in so many is poisoned.
const POISON_EVERY: u64 = 100;
/// Resources that the good events change.
const RESOURCES: u64 = 500;
/// Messages of one batch.
const BATCH: usize = 1_000;
const LOG: &str = "FARSIDE_LOCAL";
const FACTS: &str = "FARSIDE_TGT_LOCAL";
/// The poisoned ones name the id otherwise.
const MEND: &str = "name = \"ids\"\n[[rule]]\ntype = \"resource.changed\"\n\
                    patch = [{ op = \"move\", from = \"/name\", path = \"/id\" }]\n";

/// A change of `Item/<id>` in plain form.
fn change(id_is: &str, id: &str, number: u64) -> Outgoing {
    let body = json!({"kind": "Item", id_is: id, "revision": number.to_string(), "state": {"n": number}});
    event(id, "changed", &body)
}

fn event(id: &str, name: &str, body: &Value) -> Outgoing {
    let subject = format!("far.v1.local.evt.kill.resource.{}.{name}", token::of(&format!("Item/{id}")));
    Outgoing { subject, headers: vec![], body: body.to_string().into(), message_id: String::new() }
}

/// What is known of the test.
struct Redrive {
    world: World,
    bus: Bus,
    poisoned: u64,
    /// The last sequence before any copy.
    before: u64,
}

impl Redrive {
    /// A log with poison, all of it read: the first poisoned resource has a newer state since, the second is gone.
    async fn begin(nats: &Nats, events: u64) -> Self {
        let world = World::start(&nats.url());
        let bus = nats.bus().await;
        // The last one that the service makes: a log is told of a moment before it takes anything.
        eventually("the logs are there", async || bus.stream_state("FARSIDE_DLQ_LOCAL").await.ok()).await;
        let (mut batch, mut poisoned, mut batches) = (Vec::with_capacity(BATCH), 0, 0);
        for n in 1..=events {
            batch.push(if n % POISON_EVERY == 0 {
                poisoned += 1;
                change("name", &format!("p{poisoned}"), n)
            } else {
                change("id", &format!("n{}", n % RESOURCES), n)
            });
            if batch.len() == BATCH || n == events {
                batches += 1;
                bus.publisher().publish_batch(LOG, &format!("load-{batches}"), &batch, None).await.unwrap();
                batch.clear();
            }
        }
        let newer = change("id", "p1", 7);
        let gone = event("p2", "deleted", &json!({"kind": "Item", "id": "p2"}));
        bus.publisher().publish(LOG, &newer, None).await.unwrap();
        let before = bus.publisher().publish(LOG, &gone, None).await.unwrap().seq;
        let redrive = Self { world, bus, poisoned, before };
        redrive.parked_are(poisoned).await;
        eventually("each is stated", async || (redrive.facts("parked").await >= poisoned).then_some(()))
            .await;
        eventually("the service acts, and may be asked", async || {
            let (code, _) = redrive.ask(&["dlq", "redrive", "--reason", "nothing like that"]).await;
            (code == Some(0)).then_some(())
        })
        .await;
        redrive
    }

    /// Waits until so many messages are parked.
    async fn parked_are(&self, count: u64) {
        eventually("the poison is parked, and nothing else", async || {
            let status = self.world.status().await?;
            (status["dead_letters"].as_u64() == Some(count)).then_some(())
        })
        .await;
    }

    /// Asks in JSON: the exit code and the answer.
    async fn ask(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let said = self.world.ask(&[&["-o", "json"], arguments].concat()).await;
        (said.status.code(), serde_json::from_slice(&said.stdout).unwrap_or_default())
    }

    async fn redrive(&self, more: &[&str]) -> (Option<i32>, Value) {
        self.ask(&[&["dlq", "redrive", "--reason", "missing field `id`"], more].concat()).await
    }

    fn upcaster(&self) -> String {
        let file: PathBuf = self.world.source().with_file_name("ids.toml");
        fs::write(&file, MEND).unwrap();
        file.display().to_string()
    }

    async fn export(&self, at: Option<u64>) -> Vec<u8> {
        let at = at.map(|at| at.to_string());
        let at: Vec<_> = at.iter().flat_map(|at| ["--at", at]).collect();
        let said = self.world.ask(&[&["pool", "export", "kill"][..], &at].concat()).await;
        assert!(said.status.success(), "{said:?}");
        said.stdout
    }

    /// The sequences of the poisoned ones: the agent's own events stand among the others.
    async fn places(&self) -> Vec<u64> {
        let (_, listed) = self.ask(&["dlq", "list", "--all", "--limit", "200"]).await;
        let seq = |item: &Value| {
            item["place"].as_str().unwrap().strip_prefix("FARSIDE_LOCAL:").unwrap().parse().unwrap()
        };
        let mut places: Vec<u64> = listed["items"].as_array().unwrap().iter().map(seq).collect();
        places.sort_unstable();
        places
    }

    /// How many facts of a name the target has stated.
    async fn facts(&self, name: &str) -> u64 {
        let end = format!(".{name}");
        self.count(FACTS, 0, |subject, _| subject.ends_with(&end)).await
    }

    async fn count(&self, stream: &str, behind: u64, counts: impl Fn(&str, bool) -> bool) -> u64 {
        let last = self.bus.stream_state(stream).await.unwrap().last_seq;
        let mut log = self.bus.read_log(stream, behind + 1, None).await.unwrap();
        let (mut count, mut seq) = (0, behind);
        while seq < last {
            for message in log.next_chunk(BATCH).await.unwrap() {
                seq = message.seq();
                let is_copy = message.headers().iter().any(|(name, _)| *name == REDRIVE);
                count += u64::from(counts(message.subject(), is_copy));
            }
        }
        count
    }

    /// Every copy of the log once more, as a publisher without memory would.
    async fn repeat_copies(&self) -> u64 {
        let last = self.bus.stream_state(LOG).await.unwrap().last_seq;
        for seq in self.before + 1..=last {
            let message = self.bus.message(LOG, seq).await.unwrap().unwrap();
            let headers = message.headers().into_iter().filter(|(name, _)| !name.starts_with("Nats-"));
            let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            if headers.iter().all(|(name, _)| name != REDRIVE) {
                continue;
            }
            let (subject, body) = (message.subject().to_owned(), message.body().clone());
            let copy = Outgoing { subject, headers, body, message_id: String::new() };
            self.bus.publisher().publish(LOG, &copy, None).await.unwrap();
        }
        last
    }

    async fn reaches_the_end(&self) {
        let last = self.bus.stream_state(LOG).await.unwrap().last_seq;
        eventually("the pool has all of the log", async || {
            let status = self.world.status().await?;
            let places = status["as_of"]["places"].as_array()?.clone();
            let seq = places
                .iter()
                .find_map(|place| place.as_str()?.strip_prefix("FARSIDE_LOCAL:")?.parse::<u64>().ok());
            (seq? >= last).then_some(())
        })
        .await;
    }
}

/// Live resources and their numbers.
fn live(export: &[u8]) -> BTreeMap<String, u64> {
    let lines = export.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let rows = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let live = rows.filter(|row| row.get("deleted_at").is_none());
    live.map(|row| (row["key"].as_str().unwrap().to_owned(), row["state"]["n"].as_u64().unwrap())).collect()
}

/// The resources that were poisoned.
fn poisoned(rows: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    rows.iter().filter(|(key, _)| key.starts_with("Item/p")).map(|(key, n)| (key.clone(), *n)).collect()
}

impl Redrive {
    /// The list, one letter, and what a redrive says that mends nothing or only looks. Answers the first letter's place.
    async fn is_shown_and_looked_at(&self, upcaster: &str) -> String {
        let (code, listed) = self.ask(&["dlq", "list"]).await;
        let groups = listed["items"].as_array().unwrap();
        let count = groups[0]["count"].as_u64();
        assert_eq!((code, groups.len(), count), (Some(0), 1, Some(self.poisoned)), "{listed}");
        let example = groups[0]["example"].as_str().unwrap();
        let (_, letter) = self.ask(&["dlq", "show", example]).await;
        assert!(letter["original"]["body"].as_str().unwrap().contains("\"name\":\"p1\""), "{letter}");

        let (code, still) = self.redrive(&[]).await;
        assert_eq!(
            (code, still["dead"].as_u64()),
            (Some(1), Some(self.poisoned)),
            "as they are, they stay dead"
        );
        let (place, reason) = (&still["items"][0]["place"], still["items"][0]["reason"].as_str().unwrap());
        assert!(place == example && reason.contains("missing field `id`"), "{place} {reason}");
        let (code, dry) = self.redrive(&["--upcaster", upcaster, "--dry-run"]).await;
        let counts = (dry["decodes"].as_u64(), dry["dead"].as_u64());
        assert_eq!((code, counts), (Some(0), (Some(self.poisoned), Some(0))));
        assert_eq!(dry["items"][0]["data"]["id"], "p1", "into what it would decode");
        assert_eq!(dry["unchanged"], 2, "what is newer stands, and the second is gone: {dry}");
        assert_eq!([&dry["items"][0]["changes"], &dry["items"][2]["changes"]], [false, true]);
        assert_eq!(self.copies().await, 0, "nothing was published");
        example.to_owned()
    }

    async fn copies(&self) -> u64 {
        self.count(LOG, self.before, |_, is_copy| is_copy).await
    }

    /// Redrives all, and kills the service as soon as the first copy is in the log; then until all is done.
    /// Answers how that went, in words.
    async fn redrive_and_kill(&mut self, upcaster: &str) -> String {
        let (start, with) = (Instant::now(), ["--upcaster", upcaster]);
        let first_copy =
            eventually("the first copy is in the log", async || (self.copies().await > 0).then_some(()));
        tokio::select! {
            () = first_copy => {}
            _ = self.redrive(&with) => {}
        }
        self.world.service.kill_and_start_again();
        let done = eventually("the service takes it up again", async || {
            let (code, done) = self.redrive(&with).await;
            (code == Some(0)).then_some(done)
        })
        .await;
        let took = start.elapsed();
        let (code, again) = self.redrive(&with).await;
        let counts = (again["redriven"].as_u64(), again["dead"].as_u64());
        assert_eq!((code, counts), (Some(0), (Some(0), Some(0))), "a second time there is nothing to do");
        self.parked_are(0).await;
        format!("redriven after {took:?}, {} of them by the second attempt", done["redriven"])
    }

    /// Every poisoned resource as it should be: the first has a newer state, the second is gone.
    fn expected(&self) -> BTreeMap<String, u64> {
        let number = |n: u64| if n == 1 { 7 } else { n * POISON_EVERY };
        (1..=self.poisoned).filter(|n| *n != 2).map(|n| (format!("Item/p{n}"), number(n))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_that_an_upcaster_mends_is_applied_once_each_whoever_is_killed() {
    let events = number("FARSIDE_REDRIVE_EVENTS").unwrap_or(EVENTS_DEFAULT);
    let (nats, start) = (Nats::start().await, Instant::now());
    let mut test = Redrive::begin(&nats, events).await;
    println!("{events} events, {} poisoned, parked and stated after {:?}", test.poisoned, start.elapsed());
    let (then, upcaster) = (test.export(None).await, test.upcaster());
    let example = test.is_shown_and_looked_at(&upcaster).await;
    println!("{}", test.redrive_and_kill(&upcaster).await);
    let now = test.export(None).await;
    assert_eq!(poisoned(&live(&now)), test.expected(), "each is there; newer states and tombstones stay");
    eventually("each was stated", async || (test.facts("redriven").await >= test.poisoned).then_some(()))
        .await;
    let (_, history) = test.ask(&["pool", "history", "kill", "Item/p3"]).await;
    assert_eq!(history["items"][1]["data"]["id"], "p3", "history shows what was taken in: {history}");
    let (_, letter) = test.ask(&["dlq", "show", &example]).await;
    assert_eq!(letter["changed"], false, "what is newer stands: {letter}");

    // Twice, and not only for as long as NATS remembers message ids.
    let copies = test.copies().await;
    let last = test.repeat_copies().await;
    test.reaches_the_end().await;
    assert_eq!(test.export(None).await, now, "every copy came again and changed nothing");
    assert_eq!((test.facts("redriven").await, test.facts("parked").await), (test.poisoned, test.poisoned));
    println!("{copies} copies, each repeated; {} facts", test.poisoned);

    assert_eq!(test.export(Some(test.before)).await, then, "the past is as it was");
    assert_eq!(test.export(Some(last)).await, now);
    let (code, rebuilt) = test.ask(&["rebuild"]).await;
    assert_eq!((code, &rebuilt["swapped"]), (Some(0), &json!(true)), "{rebuilt}");
    assert_eq!(test.export(None).await, now);
    let (_, letter) = test.ask(&["dlq", "show", &example]).await;
    assert!(letter["redriven"].as_str().unwrap().starts_with("FARSIDE_LOCAL:"), "{letter}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_the_parked_survives_a_kill_and_a_rebuild_and_a_pool_that_is_lost() {
    let nats = Nats::start().await;
    let mut test = Redrive::begin(&nats, 500).await;
    let (_, listed) = test.ask(&["dlq", "list"]).await;
    let place = format!("FARSIDE_LOCAL:{}", test.places().await[0]);
    let (_, letter) = test.ask(&["dlq", "show", &place]).await;
    assert_eq!((listed["items"][0]["count"].as_u64(), &letter["place"]), (Some(5), &json!(place)));
    test.world.service.kill_and_start_again();
    test.parked_are(5).await;
    assert_eq!(test.ask(&["dlq", "list"]).await.1, listed);
    let (code, rebuilt) = test.ask(&["rebuild"]).await;
    assert_eq!(code, Some(0), "{rebuilt}");
    assert_eq!(test.ask(&["dlq", "list"]).await.1, listed);
    test.world.service.kill();
    fs::remove_file(test.world.source().with_file_name("data").join("pool.redb")).unwrap();
    test.world.service.start_again();
    test.parked_are(5).await;
    assert_eq!(test.ask(&["dlq", "list"]).await.1, listed);
    assert_eq!(test.ask(&["dlq", "show", &place]).await.1, letter);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_outlive_the_trimming_of_their_log() {
    let nats = Nats::start().await;
    let mut test = Redrive::begin(&nats, 500).await;
    let (upcaster, places) = (test.upcaster(), test.places().await);
    let place = |n: usize| format!("FARSIDE_LOCAL:{}", places[n]);
    let (_, listed) = test.ask(&["dlq", "list"]).await;
    let (_, all) = test.ask(&["dlq", "list", "--all"]).await;
    let (_, letter) = test.ask(&["dlq", "show", &place(2)]).await;
    assert!(letter["original"]["body"].as_str().unwrap().contains("\"name\":\"p3\""), "{letter}");

    let log = async_nats::jetstream::new(nats.client().await).get_stream(LOG).await.unwrap();
    log.purge().sequence(places[4] + 1).await.unwrap();
    assert!(test.bus.message(LOG, places[4]).await.unwrap().is_none(), "the log has none of them any more");
    test.world.service.kill_and_start_again();
    test.parked_are(5).await;
    assert_eq!(test.ask(&["dlq", "list"]).await.1, listed);
    assert_eq!(test.ask(&["dlq", "list", "--all"]).await.1, all);
    assert_eq!(test.ask(&["dlq", "show", &place(2)]).await.1, letter, "to the letter");

    let with = ["--upcaster", &upcaster, "--dry-run"];
    let dry = eventually("the service acts again", async || {
        let (code, dry) = test.redrive(&with).await;
        (code == Some(0)).then_some(dry)
    });
    assert_eq!(dry.await["decodes"], 5);
    let (code, done) = test.redrive(&["--upcaster", &upcaster]).await;
    assert_eq!((code, done["redriven"].as_u64()), (Some(0), Some(5)), "{done}");
    assert_eq!(poisoned(&live(&test.export(None).await)), test.expected());
    test.parked_are(0).await;
    let (_, letter) = test.ask(&["dlq", "show", &place(2)]).await;
    let copy = letter["redriven"].as_str().unwrap();
    assert!(letter["missing"].as_str().unwrap().contains(copy), "where to look instead: {letter}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_redrive_the_same_at_once_in_other_ways_have_it_taken_in_once() {
    let nats = Nats::start().await;
    let test = Redrive::begin(&nats, 1_000).await;
    let upcaster = test.upcaster();
    // The same in other words, so that the copies have other ids.
    let other = test.world.source().with_file_name("other.toml");
    fs::write(&other, MEND.replace("[{ op", "[{ op = \"test\", path = \"/kind\", value = \"Item\" }, { op"))
        .unwrap();
    let (one, other) = (["--upcaster", &upcaster], ["--upcaster", other.to_str().unwrap()]);
    let ((code, done), (other_code, other_done)) = tokio::join!(test.redrive(&one), test.redrive(&other));
    assert_eq!((code, other_code), (Some(0), Some(0)), "{done} {other_done}");
    let told = [&done, &other_done].map(|done| done["redriven"].as_u64().unwrap());
    assert_eq!(told.iter().max(), Some(&test.poisoned), "{done} {other_done}");
    test.reaches_the_end().await;
    assert_eq!(poisoned(&live(&test.export(None).await)), test.expected());
    test.parked_are(0).await;
    eventually("each was stated", async || (test.facts("redriven").await >= test.poisoned).then_some(()))
        .await;
    assert_eq!(test.facts("redriven").await, test.poisoned, "once");
    println!("{} copies of {}", test.copies().await, test.poisoned);
}

/// The log was lost, and gives its sequences out again: a copy would stand before its original.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_behind_the_end_of_a_log_that_began_again_is_redriven_when_that_is_there() {
    let nats = Nats::start().await;
    let test = Redrive::begin(&nats, 300).await;
    let upcaster = test.upcaster();
    async_nats::jetstream::new(nats.client().await).delete_stream(LOG).await.unwrap();
    eventually("the log is made again", async || test.bus.stream_state(LOG).await.ok()).await;
    eventually("it is stated", async || (test.facts("rewound").await > 0).then_some(())).await;
    let (code, done) = eventually("the service redrives", async || {
        let (code, done) = test.redrive(&["--upcaster", &upcaster]).await;
        done["items"].is_array().then_some((code, done))
    })
    .await;
    let reason = done["items"][0]["reason"].as_str().unwrap();
    assert!(code == Some(1) && reason.contains("gives out its sequences again"), "{done}");
    test.parked_are(3).await;
    let good: Vec<_> = (1..=400).map(|n| change("id", &format!("n{n}"), n)).collect();
    test.bus.publisher().publish_batch(LOG, "again", &good, None).await.unwrap();
    let (code, done) = test.redrive(&["--upcaster", &upcaster]).await;
    assert_eq!((code, done["redriven"].as_u64()), (Some(0), Some(3)), "{done}");
    test.parked_are(0).await;
    assert!(poisoned(&live(&test.export(None).await)).contains_key("Item/p3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_log_that_is_not_read_any_more_says_so_and_the_others_are_redriven() {
    let nats = Nats::start().await;
    let mut test = Redrive::begin(&nats, 100).await;
    let (upcaster, file) = (test.upcaster(), test.world.source().with_file_name("farside.toml"));
    let config = fs::read_to_string(&file).unwrap();
    let of_two = config.replace("[service]\n", "[service]\nsites = [\"local\", \"far\"]\n");
    fs::write(&file, of_two).unwrap();
    test.world.service.kill_and_start_again();
    eventually("the far log is there", async || test.bus.stream_state("FARSIDE_FAR").await.ok()).await;
    let mut far = change("name", "f1", 1);
    far.subject = far.subject.replace("far.v1.local.", "far.v1.far.");
    test.bus.publisher().publish("FARSIDE_FAR", &far, None).await.unwrap();
    test.parked_are(2).await;

    fs::write(&file, config).unwrap();
    test.world.service.kill_and_start_again();
    let (done, took) = eventually("the service redrives", async || {
        let asked = Instant::now();
        let (_, done) = test.redrive(&["--upcaster", &upcaster]).await;
        done["items"].is_array().then_some((done, asked.elapsed()))
    })
    .await;
    let counts = (done["redriven"].as_u64(), done["dead"].as_u64());
    assert_eq!(counts, (Some(1), Some(1)), "{done}");
    let reason = done["items"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("FARSIDE_FAR is a log that this farside does not read"), "{done}");
    assert!(took.as_secs() < 30, "{took:?}");
    test.parked_are(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_of_what_is_no_dead_letter_or_no_upcaster_is_refused_with_what_to_do() {
    let nats = Nats::start().await;
    let test = Redrive::begin(&nats, 200).await;
    let (upcaster, places) = (test.upcaster(), test.places().await);
    let place = |n: usize| format!("FARSIDE_LOCAL:{}", places[n]);
    let broken = test.world.source().with_file_name("broken.toml");
    fs::write(&broken, "name = \"x\"\n[[rule]]\npatch = [{ op = \"explode\" }]\n").unwrap();
    let broken = broken.display().to_string();
    for (arguments, code, says) in [
        (&["FARSIDE_LOCAL:1"][..], 1, "FARSIDE_LOCAL:1 is no dead letter"),
        (&["here"][..], 1, "write stream:sequence"),
        (&["--range", "FARSIDE_LOCAL:9-1"][..], 1, "write stream:from-to"),
        (
            &["--range", "FARSIDE_LOCLA:1-9"][..],
            1,
            "there is no log FARSIDE_LOCLA; name one of FARSIDE_LOCAL, FARSIDE_TGT_LOCAL",
        ),
        (&["--reason", "x", "--upcaster", &broken][..], 2, "the patch of rule 1 is wrong"),
        (&["--reason", "x", "--upcaster", "missing.toml"][..], 2, "missing.toml is no upcaster"),
    ] {
        let said = test.world.ask(&[&["dlq", "redrive"], arguments].concat()).await;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.code() == Some(code) && text.contains(says), "{arguments:?}: {said:?}");
    }
    let said =
        test.world.ask(&["dlq", "redrive", "--range", &format!("{}-{}", place(1), places[1] + 9)]).await;
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.code() == Some(1) && out.contains(&place(1)) && !out.contains(&place(0)), "{out}");
    assert!(out.contains("STILL DEAD at $: ") && out.contains("missing field `id`"), "{out}");
    let (code, done) = test.ask(&["dlq", "redrive", &place(0), "--upcaster", &upcaster]).await;
    let copy = done["items"][0]["copy"].clone();
    assert!(code == Some(0) && copy.as_str().unwrap().starts_with("FARSIDE_LOCAL:"), "{done}");
    let (code, done) = test.ask(&["dlq", "redrive", &place(0), "--upcaster", &upcaster]).await;
    assert_eq!((code, &done["items"][0]["copy"]), (Some(0), &copy), "it was taken in already");
}
