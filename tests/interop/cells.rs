//! The cells of the conformance table: what a publisher and a reader of any language must do. Each is filled by
//! running them against `farside up`; one that is not well panics with the reason.

use std::{fs, path::Path};

use bus::Outgoing;
use bus_schema::{
    Hash32,
    chain::{ChainPoint, Link, Sealed},
};
use serde_json::Value;
use tokio::runtime::Handle;

use super::{
    LOG,
    expected::{Expected, log_from},
    reason_of,
    rig::{Resource, Rig},
};

/// Fills a cell; answers a word on what was seen. It may block.
type Fill = fn(&Rig) -> String;

/// The rows of the table, in the order in which they are run: the readers find what the publishers left.
pub(super) const CELLS: [(&str, Fill); 9] = [
    ("plain form", |rig| form(rig, "plain")),
    ("structured form", |rig| form(rig, "structured")),
    ("binary form", |rig| form(rig, "binary")),
    ("ack checked", ack_checked),
    ("duplicate id", duplicate_id),
    ("oversize", oversize),
    ("malformed", malformed),
    ("audit read", audit_read),
    ("hash chain", hash_chain),
];

const FORMS: [&str; 3] = ["plain", "structured", "binary"];
/// Larger than the managed server takes, by itself.
const TOO_LARGE: usize = 1_500_000;
/// What the managed server takes, headers and all: with any header it is too large.
const TOO_LARGE_WITH_HEADERS: usize = 1 << 20;

fn wait<T>(future: impl Future<Output = T>) -> T {
    Handle::current().block_on(future)
}

/// The event is in the pool, with its revision, its state and its owner, from the place that was acknowledged.
fn form(rig: &Rig, form: &str) -> String {
    let resource = Resource { form, id: &format!("form-{form}"), revision: "1" };
    let place = rig.publish_well(&resource);
    wait(rig.in_the_pool(&resource, &place));
    place
}

/// What is printed is the place in the log; where no log is, or the form is none, nothing is printed and the end is not good.
fn ack_checked(rig: &Rig) -> String {
    let place = rig.publish_well(&Resource { form: "binary", id: "acked", revision: "1" });
    assert_eq!(place, format!("{LOG}:{}", wait(rig.last_seq())));
    let subject = "far.v1.local.evt.dc1.resource.VM=2Facked.changed";
    for (form, subject) in [("plain", &*subject.replace("local", "elsewhere")), ("odd", subject)] {
        let said = rig.publish(form, subject, "nowhere", "{}");
        assert!(!said.ok && said.out.is_empty() && said.err.contains("not published"), "{said:?}");
    }
    format!("{place}; no log, no place")
}

/// The second publish under a message id says that it is one, and stores nothing.
fn duplicate_id(rig: &Rig) -> String {
    for form in FORMS {
        let resource = Resource { form, id: &format!("twice-{form}"), revision: "1" };
        let place = rig.publish_well(&resource);
        let stored = wait(rig.last_seq());
        assert_eq!(rig.publish_well(&resource), format!("{place} duplicate"));
        assert_eq!(wait(rig.last_seq()), stored, "{form}");
    }
    "in each form".to_owned()
}

/// Who publishes what is too large is told so, and no part of it is in the log.
fn oversize(rig: &Rig) -> String {
    let before = wait(rig.last_seq());
    for bytes in [TOO_LARGE, TOO_LARGE_WITH_HEADERS] {
        let resource = Resource { form: "plain", id: "large", revision: "1" };
        let mut data = resource.data();
        data.insert_str(data.len() - 1, r#","more":"""#);
        data.insert_str(data.len() - 2, &"x".repeat(bytes - data.len()));
        assert_eq!(data.len(), bytes);
        let said = rig.publish("plain", &resource.subject(), &format!("large-{bytes}"), &data);
        assert!(!said.ok && said.out.is_empty() && said.err.contains("not published"), "{said:?}");
    }
    assert_eq!(wait(rig.last_seq()), before, "nothing of it is stored");
    "refused and said".to_owned()
}

/// What is wrong becomes a dead letter with the reason, and what follows is in the pool.
fn malformed(rig: &Rig) -> String {
    let good = |form| Resource { form, id: "wrong", revision: "1" };
    let without_revision = good("structured").data().replace(r#""revision":"1","#, "");
    for (form, subject, data, words) in [
        ("plain", good("plain").subject(), r#"{"kind": "VM", "id""#, "EOF while parsing"),
        ("structured", good("structured").subject(), &without_revision, "missing field `revision`"),
        ("binary", good("binary").subject().replace("wrong", "other"), &good("binary").data(), "VM=2Fwrong"),
    ] {
        let said = rig.publish(form, &subject, &format!("wrong-{form}"), data);
        assert!(said.ok, "{said:?}");
        let reason = wait(reason_of(&rig.bus, &said.out));
        assert!(reason.contains(words), "{reason} (no {words})");
    }
    for form in FORMS {
        let resource = Resource { form, id: &format!("after-{form}"), revision: "2" };
        let place = rig.publish_well(&resource);
        wait(rig.in_the_pool(&resource, &place));
    }
    "3 dead letters, then 3 events".to_owned()
}

/// The reader says of every message, in the order of the log, what Farside reads in it: of those that the publisher
/// left, of all golden envelopes, and of what is no event at all.
fn audit_read(rig: &Rig) -> String {
    let golden = golden_messages();
    let middle = wait(rig.last_seq());
    for message in &golden {
        wait(rig.bus.publisher().publish(LOG, message, None)).unwrap();
    }
    let read = read_as_expected(rig, 1).len();
    assert_eq!(read, usize::try_from(middle).unwrap() + golden.len());
    assert_eq!(read_as_expected(rig, middle).len(), golden.len() + 1);
    let beyond = rig.audit(wait(rig.last_seq()) + 1);
    assert!(beyond.ok && beyond.out.is_empty(), "{beyond:?}");
    format!("{read} of {read}, from 1 and from {middle}")
}

/// The reader follows the chain of the vectors; it says where one does not follow, and its end is not good then.
fn hash_chain(rig: &Rig) -> String {
    let first = wait(rig.last_seq()) + 1;
    let vectors = golden("chain.json");
    let mut last = (0, Hash32::ZERO);
    for vector in vectors.as_array().unwrap() {
        let prev = vector["prev"].as_str().unwrap().parse().unwrap();
        last = chained(rig, vector, last.0 + 1, prev);
        assert_eq!(last.1.to_string(), vector["hash"]);
    }
    let chains =
        |from| -> Vec<_> { read_as_expected(rig, from).iter().map(|event| event.chain().unwrap()).collect() };
    assert_eq!(chains(first), ["ok"; 4]);
    assert_eq!(chains(first + 2), ["first", "ok"]);
    let vector = &vectors[3];
    // One that names another hash than that of the event before it, one that follows, and one after a gap.
    let (seq, hash) = chained(rig, vector, last.0 + 1, Hash32::of(b"an event that was edited"));
    let (seq, hash) = chained(rig, vector, seq + 1, hash);
    chained(rig, vector, seq + 2, hash);
    assert_eq!(chains(first), ["ok", "ok", "ok", "ok", "broken", "ok", "broken"]);
    "4 vectors ok, 2 breaks found".to_owned()
}

/// Runs the reader, and holds every line of it to what Farside reads; answers that.
fn read_as_expected(rig: &Rig, first: u64) -> Vec<Expected> {
    let said = rig.audit(first);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = wait(log_from(&rig.bus, first));
    assert_eq!(lines.len(), expected.len(), "from {first}: {}", said.err);
    for (line, expected) in lines.iter().zip(&expected) {
        expected.check(line);
    }
    let broken = lines.iter().any(|line| line["chain"] == "broken");
    assert_eq!(said.ok, !broken, "its end says whether a chain is broken: {}", said.err);
    expected
}

/// Publishes the event of a vector at another place of its chain; answers its place and its hash.
fn chained(rig: &Rig, vector: &Value, seq: u64, prev: Hash32) -> (u64, Hash32) {
    let text = |name: &str| vector[name].as_str().unwrap();
    let at = ChainPoint { epoch: text("epoch").parse().unwrap(), seq };
    let sealed = Sealed {
        source: text("source"),
        id: text("id"),
        event_type: text("type"),
        subject: text("subject"),
        time: text("time"),
        link: Link { at, prev },
        body: text("body").as_bytes(),
    };
    let mut headers: Vec<_> = [("source", "source"), ("id", "id"), ("type", "type"), ("farepoch", "epoch")]
        .map(|(name, field)| (format!("ce-{name}"), text(field).to_owned()))
        .into();
    headers.extend(
        [("specversion", "1.0"), ("farseq", &seq.to_string()), ("farprev", &prev.to_string())]
            .map(|(name, value)| (format!("ce-{name}"), value.to_owned())),
    );
    if !sealed.time.is_empty() {
        headers.push(("ce-time".to_owned(), sealed.time.to_owned()));
    }
    let message = Outgoing {
        subject: sealed.subject.to_owned(),
        headers,
        body: sealed.body.to_vec().into(),
        message_id: String::new(),
    };
    wait(rig.bus.publisher().publish(LOG, &message, None)).unwrap();
    (seq, sealed.hash())
}

fn golden(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bus-schema/golden").join(path);
    serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
}

/// The golden envelopes as messages of the log, those that are rejected last; and what none of them has.
fn golden_messages() -> Vec<Outgoing> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bus-schema/golden/envelope");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort_by_key(|name| (name.starts_with("reject"), name.clone()));
    let mut found: Vec<_> = names
        .iter()
        .map(|name| golden(&format!("envelope/{name}")))
        .filter(|golden| golden["message"]["subject"].as_str().unwrap().starts_with("far.v1.local.evt."))
        .map(|golden| message_of(&golden["message"]))
        .collect();
    let odd = serde_json::json!({
        "subject": "far.v1.local.evt.dc1.resource.VM=2F=C3=B6dd.changed",
        "headers": [["CE-specversion", "1.0"], ["ce-ID", "100% %41%C3%B6 %4"], ["ce-source", "urn:a+b"], ["ce-type", "resource.changed"]],
        "body": r#"{"kind":"VM","id":"ödd","revision":"<&>","state":{"n":[0.1,-1.5e300,9007199254740991,null,true],"t":"\"\\\u0007 \ud83d\ude00"}}"#,
    });
    found.insert(0, message_of(&odd));
    found
}

fn message_of(message: &Value) -> Outgoing {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let headers = message["headers"].as_array().unwrap();
    Outgoing {
        subject: text(&message["subject"]),
        headers: headers.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        body: text(&message["body"]).into_bytes().into(),
        message_id: String::new(),
    }
}
