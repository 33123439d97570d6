//! The contract stays what it is: generated files equal the code, every golden sample reads back to
//! itself, and the vectors that `bus-schema/golden/vectors.py` computes without our code come out the same.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bus_schema::{
    Hash32, Timestamp,
    chain::{ChainPoint, Link, Sealed},
    command::{agent, resource, target},
    digest::{self, Address, Trie},
    envelope::{Envelope, Form, Stored},
    event::Event,
    fact::Fact,
    proof,
    schema::{self, Described, Role},
    token,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

fn room() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bus-schema")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &str) -> Value {
    serde_json::from_str(&read(&room().join("golden").join(path))).expect(path)
}

fn names_below(folder: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(room().join(folder)).expect(folder) {
        let entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            names.extend(names_below(&name));
        } else {
            names.insert(name);
        }
    }
    names
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is not a string in {value}"))
}

#[test]
fn generated_files_equal_the_code() {
    let mut expected = BTreeSet::new();
    for file in schema::files() {
        let committed: Value = serde_json::from_str(&read(&room().join(&file.path))).expect(&file.path);
        assert!(committed == file.content, "bus-schema/{} is not what the code says: make schema", file.path);
        expected.insert(file.path);
    }
    expected.remove("asyncapi.json");
    assert_eq!(names_below("schema"), expected, "run make schema, and commit what it adds and removes");
}

#[test]
fn every_event_fact_and_command_has_a_golden_sample() {
    let messages = schema::messages();
    let paths = messages.iter().map(Described::path);
    let replies = messages.iter().filter(|message| message.reply.is_some()).map(Described::reply_path);
    let expected: BTreeSet<_> =
        paths.chain(replies).map(|path| path.replacen("schema", "golden", 1)).collect();
    let elsewhere = ["golden/envelope/", "golden/older/", "golden/newer/"];
    let vectors = |name: &String| {
        !elsewhere.iter().any(|folder| name.starts_with(folder)) && name.contains('.') && !is_vector(name)
    };
    let found: BTreeSet<_> = names_below("golden").into_iter().filter(vectors).collect();
    assert_eq!(found, expected);
}

fn is_vector(name: &str) -> bool {
    let vectors = ["chain.json", "digest.json", "proof.json", "token.json", "state_hash.json", "vectors.py"];
    vectors.iter().any(|vector| name == format!("golden/{vector}"))
}

/// Decodes data as the message that `described` describes and encodes it again.
fn again(described: &Described, data: &[u8]) -> Result<Value, String> {
    let Described { stem, name, .. } = *described;
    let encoded = match described.role {
        Role::Event => Event::decode(stem, name, data).map_err(|e| e.to_string()).and_then(|event| {
            assert_eq!(format!("{stem}.{name}"), described.title());
            let bytes = match &event {
                Event::Resource(event) => event.data(),
                Event::Volume(event) => event.data(),
                Event::Image(event) => event.data(),
                Event::Agent(event) => event.data(),
                Event::Key(event) => event.data(),
            };
            assert!(!event.entity().is_empty());
            bytes.map_err(|e| e.to_string())
        }),
        Role::Fact => Fact::decode(stem, name, data).map_err(|e| e.to_string()).and_then(|fact| {
            assert_eq!((fact.stem(), fact.name()), (stem, name));
            assert!(!fact.entity().is_empty());
            fact.data().map_err(|e| e.to_string())
        }),
        Role::ToAgents | Role::ToTarget | Role::ToHolder => command_again(&described.title(), data),
    }?;
    serde_json::from_slice(&encoded).map_err(|e| e.to_string())
}

fn as_type<T: Serialize + DeserializeOwned>(data: &[u8]) -> Result<Vec<u8>, String> {
    let value: T = serde_json::from_slice(data).map_err(|e| e.to_string())?;
    serde_json::to_vec(&value).map_err(|e| e.to_string())
}

fn command_again(title: &str, data: &[u8]) -> Result<Vec<u8>, String> {
    match title {
        "agent.hello" => as_type::<agent::Hello>(data),
        "agent.hello.reply" => as_type::<agent::HelloReply>(data),
        "agent.replay" => as_type::<agent::Replay>(data),
        "agent.replay.reply" => as_type::<agent::ReplayReply>(data),
        "resource.sync" => as_type::<resource::SyncRequest>(data),
        "resource.sync.reply" => as_type::<resource::SyncReply>(data),
        "resource.read" => as_type::<resource::ReadRequest>(data),
        "resource.read.reply" => as_type::<resource::ReadReply>(data),
        "resource.digest" => as_type::<resource::DigestRequest>(data),
        "resource.digest.reply" => as_type::<resource::DigestReply>(data),
        "target.resource.sync" => as_type::<target::SyncCommand>(data),
        "target.resource.sync.reply" => as_type::<target::Reply<target::SyncsStarted>>(data),
        "target.resource.confirm" => as_type::<target::ConfirmCommand>(data),
        "target.resource.recheck" => as_type::<target::RecheckCommand>(data),
        "target.resource.confirm.reply" | "target.resource.recheck.reply" => {
            as_type::<target::Reply<target::Confirmation>>(data)
        }
        "target.log.state" => as_type::<target::StateCommand>(data),
        "target.log.state.reply" => as_type::<target::Reply<target::Stated>>(data),
        unknown => panic!("add {unknown} here"),
    }
}

#[test]
fn every_golden_sample_reads_back_to_itself() {
    for described in schema::messages() {
        let path = described.path().replacen("schema/", "", 1);
        let sample = json(&path);
        assert_eq!(again(&described, sample.to_string().as_bytes()).expect(&path), sample, "{path}");
        if described.reply.is_some() {
            let path = described.reply_path().replacen("schema/", "", 1);
            let sample = json(&path);
            let title = format!("{}.reply", described.title());
            let encoded = command_again(&title, sample.to_string().as_bytes()).expect(&path);
            assert_eq!(serde_json::from_slice::<Value>(&encoded).unwrap(), sample, "{path}");
        }
    }
}

/// What agents and targets say to each other was stored as the release before wrote it (`older`), and as one may that
/// knows more (`newer`): both mean what they say, and a field that nobody knows here changes nothing.
#[test]
fn what_agents_and_targets_of_other_releases_say_is_understood() {
    let understood = |path: &str| -> Value {
        let sample = json(path).to_string();
        let name = path.rsplit('/').next().unwrap().trim_end_matches(".json");
        let described = schema::messages().into_iter().find(|described| described.title() == name);
        described
            .map_or_else(
                || command_again(name, sample.as_bytes()).map(|data| serde_json::from_slice(&data).unwrap()),
                |described| again(&described, sample.as_bytes()),
            )
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (mut older, mut newer) = (0, 0);
    for name in names_below("golden") {
        let name = name.trim_start_matches("golden/");
        if name.starts_with("older/") {
            assert_eq!(understood(name), json(name), "{name}: nothing is added to it, nothing is lost");
            older += 1;
        }
        if let Some(known) = name.strip_prefix("newer/") {
            assert_eq!(understood(name), json(known), "{name} means what it did");
            newer += 1;
        }
    }
    assert_eq!((older, newer), (19, 19));
}

#[test]
fn a_schema_requires_what_decoding_requires_and_is_as_open() {
    for described in schema::messages() {
        let path = described.path().replacen("schema/", "", 1);
        let sample = json(&path);
        let schema = described.data.as_value();
        let required: BTreeSet<_> =
            schema["required"].as_array().expect(&path).iter().filter_map(Value::as_str).collect();
        for field in sample.as_object().expect(&path).keys() {
            let mut without = sample.clone();
            without.as_object_mut().unwrap().remove(field);
            let refused = again(&described, without.to_string().as_bytes()).is_err();
            assert_eq!(refused, required.contains(field.as_str()), "{path} without {field}");
        }
        let mut newer = sample.clone();
        newer["a_field_of_a_newer_version"] = Value::from(1);
        assert_eq!(again(&described, newer.to_string().as_bytes()).expect(&path), sample, "{path}");
        assert_eq!(schema.get("additionalProperties"), None, "{path} must stay open");
    }
}

#[test]
fn data_that_is_no_object_is_refused_with_a_path() {
    for described in schema::messages() {
        if matches!(described.role, Role::Event | Role::Fact) {
            for data in ["[]", "null", "\"text\"", "7", "", "{"] {
                let reason = again(&described, data.as_bytes()).unwrap_err();
                assert!(reason.contains(&format!("{} is wrong at $", described.title())), "{data}: {reason}");
            }
        }
    }
}

#[test]
fn golden_envelopes_read_as_expected() {
    let names = names_below("golden/envelope");
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        let golden: Value = serde_json::from_str(&read(&room().join(&name))).expect(&name);
        let message = &golden["message"];
        let pairs: Vec<(&str, &str)> =
            message["headers"].as_array().unwrap().iter().map(|h| (str_at(h, 0), str_at(h, 1))).collect();
        let stored = Stored {
            subject: text(message, "subject"),
            headers: &pairs,
            body: text(message, "body").as_bytes(),
            stream: text(message, "stream"),
            seq: text(message, "seq").parse().unwrap(),
            stored_at: text(message, "stored_at").parse().unwrap(),
        };
        match (Envelope::read(stored), golden.get("rejected")) {
            (Ok(event), None) => assert_eq!(normalised(&event), golden["expected"], "{name}"),
            (Err(error), Some(rejected)) => {
                assert_eq!(error.path, text(rejected, "path"), "{name}");
                assert!(error.reason.contains(text(rejected, "reason")), "{name}: {}", error.reason);
            }
            (read, _) => panic!("{name}: {read:?}"),
        }
    }
}

fn str_at(value: &Value, index: usize) -> &str {
    value[index].as_str().unwrap()
}

fn normalised(event: &Envelope<'_>) -> Value {
    let form = match event.form {
        Form::Plain => "plain",
        Form::Structured => "structured",
        Form::Binary => "binary",
    };
    let mut fields = serde_json::json!({
        "form": form,
        "id": event.id,
        "source": event.source,
        "type": event.event_type,
        "time": event.time,
        "data": serde_json::from_slice::<Value>(&event.data).unwrap(),
    });
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields[name] = value;
        }
    };
    put("hash", event.hash.map(|hash| hash.to_string().into()));
    put("sync", event.sync.as_deref().map(Value::from));
    put("tenant", event.tenant.as_ref().map(|tenant| tenant.to_string().into()));
    put(
        "link",
        event.link.map(|Link { at, prev }| {
            serde_json::json!({ "epoch": at.epoch, "seq": at.seq.to_string(), "prev": prev })
        }),
    );
    fields
}

#[test]
fn chain_vectors_come_out_the_same() {
    let events = json("chain.json");
    let mut prev = Hash32::ZERO.to_string();
    for event in events.as_array().unwrap() {
        assert_eq!(text(event, "prev"), prev);
        let at = ChainPoint {
            epoch: text(event, "epoch").parse().unwrap(),
            seq: text(event, "seq").parse().unwrap(),
        };
        let sealed = Sealed {
            source: text(event, "source"),
            id: text(event, "id"),
            event_type: text(event, "type"),
            subject: text(event, "subject"),
            time: text(event, "time"),
            link: Link { at, prev: prev.parse().unwrap() },
            body: text(event, "body").as_bytes(),
        };
        prev = sealed.hash().to_string();
        assert_eq!(text(event, "hash"), prev);
        if !sealed.time.is_empty() {
            assert_eq!(sealed.time.parse::<Timestamp>().unwrap().to_string(), sealed.time);
        }
    }
}

#[test]
fn proof_vectors_come_out_the_same() {
    let mut running = Hash32::ZERO;
    for message in json("proof.json").as_array().unwrap() {
        let headers: Vec<(String, String)> = serde_json::from_value(message["headers"].clone()).unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let stored = Stored {
            subject: text(message, "subject"),
            headers: &headers,
            body: text(message, "body").as_bytes(),
            stream: "FARSIDE_LOCAL",
            seq: message["seq"].as_u64().unwrap(),
            stored_at: Timestamp::from_unix_ms(message["stored_at_unix_ms"].as_i64().unwrap()),
        };
        assert_eq!(stored.hash().to_string(), text(message, "hash"));
        running = proof::extend(running, stored.hash());
        assert_eq!(running.to_string(), text(message, "running"));
    }
}

#[test]
fn token_vectors_come_out_the_same() {
    for vector in json("token.json").as_array().unwrap() {
        let (key, expected) = (text(vector, "key"), text(vector, "token"));
        assert_eq!(token::of(key), expected);
        assert!(token::matches(expected, key), "{key}");
    }
}

#[test]
fn state_hash_vectors_come_out_the_same() {
    for vector in json("state_hash.json").as_array().unwrap() {
        let state: &RawValue = serde_json::from_str(text(vector, "state")).unwrap();
        let value: Value = serde_json::from_str(state.get()).unwrap();
        assert_eq!(bus_schema::canonical::text(&value).unwrap(), text(vector, "canonical"));
        assert_eq!(bus_schema::canonical::state_hash(state).unwrap().to_string(), text(vector, "hash"));
    }
}

#[test]
fn digest_vectors_come_out_the_same() {
    let vectors = json("digest.json");
    for vector in vectors["items"].as_array().unwrap() {
        let (key, revision) = (text(vector, "key"), text(vector, "revision"));
        let state_hash: Hash32 = text(vector, "state_hash").parse().unwrap();
        let address = Address::of(key);
        assert_eq!(digest::item(key, revision, &state_hash).to_string(), text(vector, "item"));
        assert_eq!(u64::from(address.node(2)), vector["leaf_at_depth_2"].as_u64().unwrap());
        assert_eq!(format!("{:012x}", address.short()), text(vector, "address")[..12]);
    }
    let mut items = vectors["items"].as_array().unwrap().clone();
    items.sort_by_key(|item| text(item, "key").to_owned());
    let rows = items.iter().fold(digest::RowsHasher::default(), |rows, item| {
        rows.row(text(item, "key"), text(item, "revision"), &text(item, "state_hash").parse().unwrap())
    });
    assert_eq!(rows.finish().1.to_string(), text(&vectors, "rows_sha256"));
    for set in vectors["sets"].as_array().unwrap() {
        let count: u32 = text(set, "count").parse().unwrap();
        let trie = Trie::build((0..count).map(|n| {
            let key = format!("Pod/shop/cart-{n}");
            let state_hash = Hash32::of(format!(r#"{{"n":{n}}}"#).as_bytes());
            (Address::of(&key), digest::item(&key, &(n * 7).to_string(), &state_hash))
        }));
        assert_eq!(u64::from(trie.depth()), set["depth"].as_u64().unwrap());
        assert_eq!(
            (trie.digest().root.to_string(), trie.digest().count),
            (text(set, "root").to_owned(), count.into())
        );
        let level_1: Vec<_> = (0..16).map(|number| trie.node(1, number).unwrap().to_string()).collect();
        assert_eq!(serde_json::json!(level_1), set["level_1"]);
    }
}
