//! The demo's documents are what the demo says they are: three clusters, read without a fault, and
//! nothing that is marked as a secret in them gets past the redaction.

use std::{collections::BTreeMap, fs, path::Path};

use bus_schema::{Hash32, ResourceKey};
use producers::{
    redact::{RedactConfig, Redactor},
    resource::{
        Go, Record, Seen,
        format::{Format, Reader},
    },
};

/// Every dummy secret of the documents begins like this, in plain text or in base64.
const SECRETS: [&str; 2] = ["demo-value-not-a", "ZGVtby12YWx1ZS1ub3QtY"];

fn reader() -> Reader {
    let redactor = Redactor::new(Hash32::of(b"salt"), &RedactConfig::default());
    Reader { redactor, tenant_label: "farside/tenant".to_owned(), tenant: None, format: None }
}

fn read(text: &str, path: &str, into: &mut BTreeMap<ResourceKey, Record>) {
    let read = reader().read(path, text, &mut |seen| {
        match seen {
            Seen::Record(record) => {
                let (key, line) = (record.key.clone(), record.place.line);
                assert!(into.insert(key.clone(), record).is_none(), "{path}:{line}: {key} is there twice");
            }
            other => panic!("{path}: {other:?}"),
        }
        Go::On
    });
    assert!(read.documents > 0, "{path} holds no document");
}

fn read_folder(folder: &Path, into: &mut BTreeMap<ResourceKey, Record>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_folder(&path, into);
        } else {
            read(&fs::read_to_string(&path).unwrap(), &path.display().to_string(), into);
        }
    }
}

fn cluster(name: &str) -> BTreeMap<ResourceKey, Record> {
    let mut records = BTreeMap::new();
    read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/data").join(name), &mut records);
    records
}

#[test]
fn the_demo_has_three_clusters_of_real_looking_documents() {
    let counts = ["prod-eu", "prod-us", "edge"].map(|name| cluster(name).len());
    assert!(counts.iter().all(|count| *count >= 30) && counts.iter().sum::<usize>() >= 200, "{counts:?}");
}

#[test]
fn no_marked_secret_of_the_demo_gets_past_the_redaction() {
    for name in ["prod-eu", "prod-us", "edge"] {
        for (key, record) in cluster(name) {
            for secret in SECRETS {
                assert!(
                    !record.state.contains(secret),
                    "{name}: {key} still says {secret}: {}",
                    record.state
                );
            }
        }
    }
}

#[test]
fn the_machine_s_inventory_reads_as_records() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/inventory.py");
    let output = std::process::Command::new("python3").arg(script).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut records = BTreeMap::new();
    let only = Reader { format: Some(Format::Records), ..reader() };
    only.read("inventory.py", &String::from_utf8(output.stdout).unwrap(), &mut |seen| {
        match seen {
            Seen::Record(record) => records.insert(record.key.clone(), record),
            other => panic!("{other:?}"),
        };
        Go::On
    });
    assert!(records.len() > 10, "only {} resources on this machine", records.len());
}
