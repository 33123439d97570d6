//! What the sequencer promises, without a bus: every test reads the outbox as a log would store it.

use bus_schema::{
    Envelope, PoolId, ResourceKey,
    command::resource::{SyncReason, SyncReply, SyncRequest, UpdateInfo},
    envelope::Stored,
    event::{
        Event,
        agent::{AgentEvent, Started},
        key::Announced,
        resource::ResourceEvent,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    ledger::outbox::Parcel,
    resource::{Draft, Fault, FileSeen, Found, ListEnd, Place, Record, Scope, Seen, Wanted, guard::Guard},
};

mod epochs;
mod replays;

struct Bench {
    directory: TempDir,
    sequencer: Option<Sequencer>,
    guard: Guard,
    clock: i64,
    at: Instant,
}

fn rules() -> Rules {
    Rules {
        push: PushConfig::default(),
        inline_bytes_max: 900_000,
        outbox_bytes_max: 64 << 20,
        journal_events_max: 100_000,
        journal_bytes_max: 64 << 20,
    }
}

fn record_at(path: &str, id: &str, state: Value) -> Record {
    let draft = Draft {
        kind: "Vm".into(),
        id: id.into(),
        revision: None,
        state,
        labels: BTreeMap::default(),
        tenant: None,
    };
    Record::new(draft, Place::whole(path)).unwrap()
}

fn vm(id: &str, n: u64) -> Seen {
    Seen::Record(record_at(&format!("{id}.json"), id, json!({ "n": n })))
}

fn vms(range: std::ops::Range<u64>) -> Vec<Seen> {
    range.map(|n| vm(&n.to_string(), 1)).collect()
}

fn preface(keys: &[&str]) -> Preface {
    let key = |id: &&str| Announced {
        key_id: id.parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        salt: Hash32::ZERO,
        hash: Hash32::ZERO,
        not_after: None,
    };
    let (agent, version) = ("inv".parse().unwrap(), "1".to_owned());
    let started = Started { agent, stem: bus_schema::Stem::Resource, version, heartbeat_ms: 1 };
    let started = Saying::agent(&AgentEvent::Started(started)).unwrap();
    Preface { keys: keys.iter().map(key).collect(), started }
}

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let (guard, at) = (Guard::default(), Instant::now());
        let mut bench = Self { directory, sequencer: None, guard, clock: 0, at };
        bench.reopen(rules());
        bench
    }

    /// A process that ended and began again.
    fn reopen(&mut self, rules: Rules) {
        self.sequencer = None;
        let ledger = Ledger::open(&self.directory.path().join("ledger")).unwrap();
        let pool: PoolId = "local/dc1".parse().unwrap();
        let source = crate::seal::source(pool, &"inv".parse().unwrap());
        self.sequencer = Some(Sequencer::open(ledger, source, rules).unwrap());
    }

    fn seq(&mut self) -> &mut Sequencer {
        self.sequencer.as_mut().unwrap()
    }

    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_unix_ms(self.clock)
    }

    fn scan(&mut self, mut scan: Scan, seen: Vec<Seen>) -> scan::ScanReport {
        let (now, at, mut guard) = (self.now(), self.at, self.guard);
        self.seq().absorb(&mut scan, seen, now).unwrap();
        let report = self.seq().finish(scan, ListEnd::default(), &mut guard, (now, at)).unwrap();
        self.guard = guard;
        report
    }

    /// A whole reading by the timer.
    fn whole(&mut self, seen: Vec<Seen>) -> scan::ScanReport {
        self.scan(Scan::new(Scope::Everything, None, true), seen)
    }

    /// What waits in the outbox.
    fn parcels(&mut self) -> Vec<Parcel> {
        let behind = self.seq().chain().acked_row() + 1;
        self.seq().ledger.reading().unwrap().parcels("dc1", behind..=u64::MAX).unwrap()
    }

    /// The log takes everything.
    fn drain(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(shipment) = self.seq().ship().unwrap() {
            told.extend(shipment.parcels.iter().map(tell));
            self.seq().landed(shipment.epoch, shipment.cut).unwrap();
        }
        told
    }

    fn ask(&mut self, id: &str, scope: SyncScope, since: Option<ChainPoint>) -> SyncReply {
        self.request(id, scope, since, false)
    }

    fn request(&mut self, id: &str, scope: SyncScope, since: Option<ChainPoint>, rebase: bool) -> SyncReply {
        let digest = Digest { root: digest::Node::default(), count: 0 };
        let request = SyncRequest {
            agent: "inv".parse().unwrap(),
            sync_id: id.into(),
            reason: SyncReason::First,
            scope,
            update_info: UpdateInfo { since, outstanding: 0, digest },
            keys: Vec::new(),
            addresses: Vec::new(),
            rebase,
            lease: 1,
            lease_log: None,
        };
        let now = self.now();
        self.seq().accept(&request, now).unwrap()
    }

    /// The first words of a run with these keys.
    fn introduce(&mut self, keys: &[&str]) {
        let now = self.now();
        self.seq().set_preface(preface(keys));
        self.seq().introduce(now).unwrap();
    }

    fn close_epoch(&mut self) {
        let now = self.now();
        self.seq().close_epoch("test", now).unwrap();
    }

    fn answer(&mut self, id: &str, seen: Vec<Seen>) -> Vec<String> {
        self.scan(Scan::new(Scope::Everything, Some(id.into()), false), seen);
        let mut told = self.drain();
        while self.seq().is_closing(id) {
            let now = self.now();
            self.seq().close_more(now).unwrap();
            told.extend(self.drain());
        }
        told
    }
}

/// An event in a few words: `changed Vm/1`, with the sync that it answers.
fn tell(parcel: &Parcel) -> String {
    let headers: Vec<(&str, &str)> = parcel.head.headers.iter().map(|(k, v)| (&**k, &**v)).collect();
    let stored = Stored {
        subject: &parcel.head.subject,
        headers: &headers,
        body: &parcel.body,
        stream: "FARSIDE_LOCAL",
        seq: 1,
        stored_at: Timestamp::default(),
    };
    let envelope = Envelope::read(stored).unwrap();
    let subject = envelope.subject;
    let event = Event::decode(subject.stem, subject.event, &envelope.data).unwrap();
    assert!(bus_schema::token::matches(subject.token, &event.entity()));
    let sync = envelope.sync.map(|sync| format!(" for {sync}")).unwrap_or_default();
    format!("{} {}{sync}", subject.event, event.entity())
}

fn hashes(parcels: &[Parcel]) -> Vec<(Link, Hash32)> {
    let read = |parcel: &Parcel| {
        let headers: Vec<(&str, &str)> = parcel.head.headers.iter().map(|(k, v)| (&**k, &**v)).collect();
        let stored = Stored {
            subject: &parcel.head.subject,
            headers: &headers,
            body: &parcel.body,
            stream: "S",
            seq: 1,
            stored_at: Timestamp::default(),
        };
        let envelope = Envelope::read(stored).unwrap();
        (envelope.link.unwrap(), envelope.hash.unwrap())
    };
    parcels.iter().map(read).collect()
}

#[test]
fn changes_are_chained_and_the_chain_goes_on_after_a_restart() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    bench.reopen(rules());
    bench.whole(vec![vm("0", 2), vm("1", 1)]);
    let links = hashes(&bench.parcels());
    let mut prev = Hash32::ZERO;
    for (n, (link, hash)) in links.iter().enumerate() {
        assert_eq!((link.at.seq, link.prev), (n as u64 + 1, prev));
        prev = *hash;
    }
    assert_eq!(
        bench.drain(),
        ["changed Vm/0", "changed Vm/1", "changed Vm/2", "changed Vm/0", "deleted Vm/2"]
    );
    assert_eq!(bench.seq().chain().last_hash, prev);
    assert_eq!(bench.whole(vec![vm("0", 2), vm("1", 1)]), scan::ScanReport::default());
    assert!(bench.drain().is_empty(), "nothing changed, nothing is said");
}

#[test]
fn the_digest_is_that_of_the_inventory_however_it_came_about() {
    let mut bench = Bench::new();
    bench.whole(vms(0..5000));
    bench.whole(vms(2000..5000));
    bench.drain();
    let digest = bench.seq().settled_digest().unwrap();
    assert_eq!(digest.count, 3000);
    let mut other = Bench::new();
    other.whole(vms(2000..5000));
    other.drain();
    assert_eq!(other.seq().settled_digest(), Some(digest));
    bench.reopen(rules());
    assert_eq!(bench.seq().settled_digest(), Some(digest));
}

#[test]
fn large_and_named_kinds_are_noticed_and_too_large_ones_only_ever_noticed() {
    let mut bench = Bench::new();
    let state = |bytes: usize| json!({ "blob": "x".repeat(bytes) });
    let seen = || -> Vec<Seen> {
        [("small", 10), ("large", 300_000), ("huge", 2_000_000)]
            .map(|(id, bytes)| Seen::Record(record_at(id, id, state(bytes))))
            .into()
    };
    bench.whole(seen());
    assert_eq!(bench.drain(), ["changed Vm/small", "noticed Vm/large", "noticed Vm/huge"]);
    let since = bench.seq().chain().at();
    assert_eq!(
        bench.ask("s1", SyncScope::Incremental, Some(since)),
        SyncReply::Accepted { scope: SyncScope::Incremental }
    );
    let told = ["sync_opened sync/s1 for s1", "changed Vm/large for s1", "sync_closed sync/s1 for s1"];
    assert_eq!(bench.answer("s1", seen()), told);
    bench.ask("s2", SyncScope::Full, None);
    let told = bench.answer("s2", seen());
    assert_eq!(told[1..4], ["changed Vm/small for s2", "changed Vm/large for s2", "noticed Vm/huge for s2"]);
}

#[test]
fn a_state_that_cannot_travel_is_a_trouble_until_it_is_smaller_or_gone() {
    let mut bench = Bench::new();
    let vm = |id: &str, bytes: usize| {
        Seen::Record(record_at(&format!("{id}.json"), id, json!({ "blob": "x".repeat(bytes) })))
    };
    bench.whole(vec![vm("a", 950_000), vm("b", 1_000_000), vm("c", 10)]);
    let told = bench.seq().oversize().unwrap();
    for part in ["Vm/a", "950011 bytes", "(and of one more)", "at most 900000"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    bench.reopen(rules());
    assert_eq!(bench.seq().oversize(), Some(told), "nothing changed, so no reading would find it again");
    bench.whole(vec![vm("b", 1_000_000), vm("c", 10)]);
    assert!(bench.seq().oversize().unwrap().contains("Vm/b"), "a is gone");
    bench.whole(vec![vm("b", 20), vm("c", 10)]);
    assert_eq!(bench.seq().oversize(), None);
}

#[test]
fn an_incremental_sync_sends_what_changed_since_and_a_full_one_everything() {
    let mut bench = Bench::new();
    bench.whole(vms(0..5));
    bench.drain();
    let since = bench.seq().chain().at();
    let later = || vec![vm("0", 1), vm("1", 9), vm("2", 1), vm("3", 1), vm("5", 1)];
    bench.whole(later());
    bench.drain();
    bench.ask("inc", SyncScope::Incremental, Some(since));
    let told = bench.answer("inc", later());
    let expected = [
        "sync_opened sync/inc for inc",
        "changed Vm/1 for inc",
        "changed Vm/5 for inc",
        "deleted Vm/4 for inc",
        "sync_closed sync/inc for inc",
    ];
    assert_eq!(told, expected);
    bench.ask("full", SyncScope::Full, Some(since));
    assert_eq!(bench.answer("full", later()).len(), 7);
    let again = bench.ask("full", SyncScope::Full, Some(since));
    assert_eq!(again, SyncReply::Accepted { scope: SyncScope::Full });
    assert!(bench.drain().is_empty(), "a sync that ended is not run again");
}

#[test]
fn what_cannot_be_read_is_kept_and_a_full_sync_keeps_it_alive_with_a_notice() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    bench.drain();
    let fault = || {
        let reason = "half-written";
        Seen::Fault(Fault::new(Place { path: "2.json".into(), line: 7 }, reason))
    };
    let report = bench.whole(vec![vm("0", 1), vm("1", 1), fault()]);
    assert!(report.trouble[0].contains("2.json:7"), "{report:?}");
    assert!(bench.drain().is_empty(), "a file that does not parse deletes nothing");
    bench.ask("full", SyncScope::Full, None);
    let told = bench.answer("full", vec![vm("0", 1), vm("1", 1), fault()]);
    assert_eq!(told[3], "noticed Vm/2 for full");
}

#[test]
fn a_trouble_stays_until_its_own_place_is_mended() {
    let mut bench = Bench::new();
    let fault = |path: &str| Seen::Fault(Fault::new(Place { path: path.into(), line: 3 }, "half-written"));
    let at = |path: &str| Scan::new(Scope::Places(vec![path.into()]), None, false);
    let told = |bench: &mut Bench, path: &str, seen| bench.scan(at(path), seen).trouble;
    bench.whole(vec![vm("0", 1), fault("a.json"), fault("d/b.json")]);
    let trouble = told(&mut bench, "c.json", vec![fault("c.json"), fault("c.json")]);
    assert_eq!(trouble, ["4 documents could not be taken in; the first is a.json:3: half-written"]);
    let trouble = told(&mut bench, "a.json", vec![vm("a", 1)]);
    assert_eq!(trouble, ["3 documents could not be taken in; the first is c.json:3: half-written"]);
    let trouble = told(&mut bench, "c.json", vec![vm("c", 1)]);
    assert_eq!(trouble, ["a document could not be taken in: d/b.json:3: half-written"]);
    assert_eq!(told(&mut bench, "d", vec![]), Vec::<String>::new());
}

fn file(path: &str, stamp: u64, empty: bool) -> Seen {
    Seen::File(FileSeen { place: Place::whole(path), stamp, empty })
}

#[test]
fn a_loss_inside_a_file_that_is_still_there_waits_until_nobody_has_written_to_it_for_a_while() {
    let in_one = |n: u64| Seen::Record(record_at("all.json", &n.to_string(), json!({ "n": n })));
    let mut bench = Bench::new();
    bench.whole((0..4).map(in_one).chain([file("all.json", 1, false)]).collect());
    bench.drain();
    let places = Scope::Places(vec!["all.json".into()]);
    let again = |bench: &mut Bench, seen| bench.scan(Scan::new(places.clone(), None, false), seen);

    // Emptied by a program that writes it anew, then a valid beginning, then a pause, then the rest.
    let report = bench.whole(vec![file("all.json", 2, true)]);
    assert_eq!(report.settling, Some((places.clone(), scan::SETTLE)));
    bench.at += scan::SETTLE;
    let report = again(&mut bench, vec![in_one(0), file("all.json", 3, false)]);
    assert_eq!(
        report.settling,
        Some((places.clone(), scan::SETTLE)),
        "it was written to: from the beginning"
    );
    bench.at += scan::SETTLE / 2;
    let report = again(&mut bench, vec![in_one(0), file("all.json", 3, false)]);
    assert_eq!(report.settling, Some((places.clone(), scan::SETTLE / 2)));
    bench.clock += 1_000_000;
    bench.whole(vec![in_one(0), file("all.json", 3, false)]);
    assert!(bench.drain().is_empty(), "a clock that is set is no time that has passed");
    let report = again(&mut bench, (0..4).map(in_one).chain([file("all.json", 4, false)]).collect());
    assert_eq!((report.settling, bench.drain().len()), (None, 0));

    // A real deletion.
    let fewer = || (0..3).map(in_one).chain([file("all.json", 5, false)]).collect();
    again(&mut bench, fewer());
    assert!(bench.drain().is_empty());
    bench.at += scan::SETTLE;
    again(&mut bench, fewer());
    assert_eq!(bench.drain(), ["deleted Vm/3"]);
}

#[test]
fn a_file_that_is_gone_takes_its_resources_with_it_at_once() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    bench.drain();
    let report =
        bench.whole(vec![vm("0", 1), file("0.json", 1, false), vm("1", 1), file("1.json", 1, false)]);
    assert_eq!((report.settling, bench.drain()), (None, vec!["deleted Vm/2".to_owned()]));
}

#[test]
fn an_empty_inventory_deletes_nothing_without_an_explicit_empty() {
    let mut bench = Bench::new();
    bench.whole(vms(0..30));
    bench.drain();
    for _ in 0..5 {
        let report = bench.whole(Vec::new());
        assert!(report.trouble[0].contains("all 30"), "{report:?}");
        assert!(bench.drain().is_empty());
    }
    let now = (bench.now(), bench.at);
    let mut guard = Guard::default();
    let end = ListEnd { explicit_empty: true };
    bench.seq().finish(Scan::new(Scope::Everything, None, true), end, &mut guard, now).unwrap();
    assert_eq!(bench.drain().len(), 30, "an explicit empty passes at once");
}

#[test]
fn the_loss_of_most_is_held_until_three_readings_agree() {
    let mut bench = Bench::new();
    bench.whole(vms(0..30));
    bench.drain();
    for _ in 0..2 {
        let report = bench.whole(vms(0..5));
        assert!(report.trouble[0].contains("25 of 30"), "{report:?}");
        assert!(bench.drain().is_empty());
    }
    bench.whole(vms(0..5));
    assert_eq!(bench.drain().len(), 25);
}

#[test]
fn one_key_in_two_files_is_reported_and_the_first_in_path_order_counts() {
    let mut bench = Bench::new();
    let at = |path: &str, n: u64| Seen::Record(record_at(path, "a", json!({ "n": n })));
    let report = bench.whole(vec![at("a.json", 1), at("b.json", 2)]);
    assert!(report.trouble[0].contains("Vm/a stands in an earlier file too"), "{report:?}");
    assert_eq!(bench.drain(), ["changed Vm/a"]);
    let places = |place: &str| Scan::new(Scope::Places(vec![place.into()]), None, false);
    bench.scan(places("b.json"), vec![at("b.json", 3)]);
    assert!(bench.drain().is_empty(), "the second file alone changes nothing");
    let report = bench.scan(places("a.json"), Vec::new());
    assert_eq!(report.again, Some(Scope::Everything), "only a whole reading can tell whether it is gone");
    bench.whole(vec![at("b.json", 3)]);
    assert_eq!(bench.drain(), ["changed Vm/a"]);
}

#[test]
fn a_moved_resource_is_no_change_and_delete_then_recreate_is_two() {
    let mut bench = Bench::new();
    let at = |path: &str, n: u64| Seen::Record(record_at(path, "a", json!({ "n": n })));
    bench.whole(vec![at("a.json", 1), vm("b", 1)]);
    bench.drain();
    let scan = Scan::new(Scope::Places(vec!["a.json".into(), "c.json".into()]), None, false);
    bench.scan(scan, vec![at("c.json", 1)]);
    assert!(bench.drain().is_empty());
    bench.whole(vec![vm("b", 1)]);
    bench.whole(vec![at("c.json", 0), vm("b", 1)]);
    assert_eq!(bench.drain(), ["deleted Vm/a", "changed Vm/a"]);
}

#[test]
fn batch_boundaries_are_durable_and_retried_unchanged() {
    let mut bench = Bench::new();
    bench.whole(vms(0..4));
    let few = bench.seq().ship().unwrap().unwrap();
    assert_eq!(few.cut, Cut { first: 1, last: 4, batch: false });
    bench.whole(vms(0..10));
    assert_eq!(bench.seq().ship().unwrap().unwrap().cut, few.cut, "what is on its way is not cut anew");
    bench.reopen(rules());
    let again = bench.seq().ship().unwrap().unwrap();
    assert!(again.cut == few.cut && again.sent_before);
    bench.seq().landed(again.epoch, again.cut).unwrap();
    let batch = bench.seq().ship().unwrap().unwrap();
    assert_eq!(batch.cut, Cut { first: 5, last: 10, batch: true });
    bench.whole(vms(0..20));
    bench.reopen(rules());
    let again = bench.seq().ship().unwrap().unwrap();
    assert!(again.cut == batch.cut && again.sent_before && again.parcels == batch.parcels);
    bench.seq().go_plain(again.epoch, again.cut).unwrap();
    bench.reopen(rules());
    assert_eq!(bench.seq().ship().unwrap().unwrap().cut, Cut { batch: false, ..batch.cut });
    bench.seq().landed(batch.epoch, batch.cut).unwrap();
    assert_eq!(bench.seq().ship().unwrap().unwrap().cut, Cut { first: 11, last: 20, batch: true });
}

#[test]
fn a_batch_holds_a_thousand_events_or_a_megabyte() {
    let mut bench = Bench::new();
    bench.whole(vms(0..1500));
    let cut = bench.seq().ship().unwrap().unwrap().cut;
    assert_eq!((cut.first, cut.last), (1, 1000));
    let mut bench = Bench::new();
    let blob = |n: u64| Seen::Record(record_at("b", &n.to_string(), json!({ "blob": "x".repeat(150_000) })));
    bench.whole((0..9).map(blob).collect());
    assert_eq!(bench.seq().ship().unwrap().unwrap().cut.last, 6);
}

#[test]
fn a_read_pushes_what_it_found_and_refuses_what_it_cannot_believe() {
    let mut bench = Bench::new();
    bench.whole(vms(0..20));
    bench.drain();
    let now = bench.now();
    let wanted = |ids: std::ops::Range<u64>| -> Vec<Wanted> {
        let key = |n: u64| ResourceKey::new("Vm", &n.to_string()).unwrap();
        ids.map(|n| Wanted { key: key(n), path: None }).collect()
    };
    let found = Found { records: vec![record_at("0.json", "0", json!({ "n": 2 }))], faults: Vec::new() };
    bench.seq().observe(&wanted(0..2), &found, None, now).unwrap();
    assert_eq!(bench.drain(), ["changed Vm/0", "deleted Vm/1"]);
    let refused = |bench: &mut Bench, wanted: &[Wanted], found: &Found| {
        let refused = bench.seq().observe(wanted, found, None, now).unwrap_err().to_string();
        assert!(bench.drain().is_empty());
        refused
    };
    let fault = Fault::new(Place::whole("x.json"), "broken");
    let faulty = Found { records: Vec::new(), faults: vec![fault] };
    assert!(refused(&mut bench, &wanted(2..3), &faulty).contains("x.json: broken"));
    assert!(refused(&mut bench, &wanted(2..20), &Found::default()).contains("18 of 19"));
}

#[test]
fn a_reading_that_was_overtaken_by_a_read_does_not_turn_the_clock_back() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    let now = bench.now();
    let mut scan = Scan::new(Scope::Everything, None, true);
    let key = ResourceKey::new("Vm", "0").unwrap();
    let newer = Found { records: vec![record_at("0.json", "0", json!({ "n": 2 }))], faults: Vec::new() };
    bench.seq().observe(&[Wanted { key: key.clone(), path: None }], &newer, None, now).unwrap();
    bench.drain();
    scan.overtaken([key].into_iter());
    let report = bench.scan(scan, vms(0..3));
    assert!(bench.drain().is_empty());
    assert_eq!(report.again, Some(Scope::Everything));
}

#[test]
fn order_does_not_depend_on_the_clock() {
    let mut bench = Bench::new();
    bench.clock = 1_000_000;
    bench.whole(vms(0..1));
    bench.clock = 5;
    bench.whole(vec![vm("0", 2)]);
    let links = hashes(&bench.parcels());
    assert_eq!((links[0].0.at.seq, links[1].0.at.seq), (1, 2));
}

#[test]
fn digest_frames_agree_with_a_trie_built_from_scratch() {
    use bus_schema::command::resource::DigestRequest;
    use data_encoding::BASE64;
    let mut bench = Bench::new();
    bench.whole(vms(0..100));
    let request = |depth, above, below: &[u32], items| DigestRequest {
        agent: "inv".parse().unwrap(),
        depth,
        below: below.to_vec(),
        above,
        items,
    };
    let frame = |bench: &mut Bench, request: &DigestRequest| {
        let reply = bench.seq().digests(request).unwrap().unwrap();
        assert_eq!(reply.digest.count, 100);
        BASE64.decode(reply.frame.as_bytes()).unwrap()
    };
    let top = frame(&mut bench, &request(1, 0, &[], false));
    assert_eq!(top.len(), 16 * 6);
    let deep = frame(&mut bench, &request(3, 1, &[7], false));
    assert_eq!(deep.len(), 256 * 6);
    let items = frame(&mut bench, &request(1, 1, &[7], true));
    let below: Vec<_> = (0..100).filter(|n| Address::of(&format!("Vm/{n}")).node(1) == 7).collect();
    assert_eq!(items.len(), below.len() * 12);
    assert_eq!(frame(&mut bench, &request(0, 0, &[], true)).len(), 1200);
    let mad = request(2, 3, &[], false);
    assert!(bench.seq().digests(&mad).unwrap().is_none());
}

#[test]
fn the_event_types_of_an_answer_carry_their_counts() {
    let mut bench = Bench::new();
    bench.whole(vms(0..3));
    bench.drain();
    bench.ask("f", SyncScope::Full, None);
    bench.scan(Scan::new(Scope::Everything, Some("f".into()), false), vms(0..2));
    let parcels = bench.parcels();
    let closed = ResourceEvent::decode("sync_closed", &parcels.last().unwrap().body).unwrap();
    let ResourceEvent::SyncClosed(closed) = closed else { panic!("{closed:?}") };
    assert_eq!((closed.resources, closed.deleted, closed.digest.count), (2, 1, 2));
    assert_eq!(closed.low.seq, 3);
}
