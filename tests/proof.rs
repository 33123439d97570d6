//! Evidence: a good export of the real `farside up` is accepted by `docs/verify.py` and by farside itself, and each of many
//! tamperings is refused by both, with the fault by its name.
//!
//! `cryptography`, which verify.py needs, is fetched with pip, pinned and checked, once per target directory. Where pip
//! cannot bring it, what concerns verify.py says SKIPPED.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use audit::{KeyFile, SigningKey};
use bus_schema::{Hash32, Timestamp, canonical, envelope::Stored, proof};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    eventually,
    farside::{Up, farside},
    pip,
};

const LOG: &str = "FARSIDE_LOCAL";
/// Most lines of the verifier that needs no farside.
const VERIFIER_LINES_MAX: usize = 150;

/// Those who examine evidence.
struct Examiners {
    dir: TempDir,
    /// Where Python finds `cryptography`; none = it is skipped.
    library: Option<PathBuf>,
}

impl Examiners {
    fn new() -> Self {
        let library = cryptography().map_err(|why| {
            assert!(!why.contains(pip::WRONG_HASH), "{why}");
            // Not `eprintln`, which a test that passes does not show.
            let line = format!("\nSKIPPED docs/verify.py: pip does not bring cryptography: {why}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        });
        Self { dir: tempfile::tempdir().unwrap(), library: library.ok() }
    }

    /// What each of them says of a file, and its exit code.
    fn say(&self, file: &[u8], key: &str) -> Vec<(&'static str, Option<i32>, String)> {
        let path = self.dir.path().join("evidence.jsonl");
        fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let said = farside(self.dir.path(), &["audit", "verify", "--offline", path, "--key", key]);
        let mut all = vec![("farside", said.code, said.out + &said.err)];
        if let Some(library) = &self.library {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/verify.py");
            let mut python = Command::new("python3");
            let said =
                python.arg(script).args([path, "--key", key]).env("PYTHONPATH", library).output().unwrap();
            let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
            all.push(("verify.py", said.status.code(), text.into_owned()));
        }
        all
    }

    #[track_caller]
    fn accept(&self, file: &[u8], key: &str) {
        for (who, code, said) in self.say(file, key) {
            assert_eq!(code, Some(0), "{who}: {said}");
        }
    }

    #[track_caller]
    fn refuse(&self, what: &str, file: &[u8], key: &str, words: &[&str]) {
        for (who, code, said) in self.say(file, key) {
            assert_eq!(code, Some(1), "{what}: {who}: {said}");
            let names = said.lines().any(|line| words.iter().all(|word| line.contains(word)));
            assert!(names && said.contains("WRONG"), "{what}: {who} does not say {words:?}: {said}");
        }
    }
}

/// The folder with `cryptography` in it, brought by pip when it is not there yet. Error: what pip says.
fn cryptography() -> Result<PathBuf, String> {
    let wanted = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proof/cryptography.txt");
    pip::library("cryptography", &wanted)
}

#[test]
fn the_verifier_without_farside_is_short_and_needs_cryptography_only() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/verify.py")).unwrap();
    let lines = text.lines().count();
    assert!(lines <= VERIFIER_LINES_MAX, "{lines} lines");
    let imports: Vec<_> =
        text.lines().filter(|line| line.starts_with("import ") || line.starts_with("from ")).collect();
    let plain = "import argparse, base64, hashlib, json, sys, urllib.parse";
    assert!(
        imports.iter().all(|line| *line == plain || line.starts_with("from cryptography.")),
        "{imports:?}"
    );
}

/// A farside with a source of its own whose checkpoints come quickly, and the key that it began with.
async fn signing_up() -> (Up, String) {
    let quickly = r#"checkpoint = { events = 10, every = "1s" }"#;
    let up = Up::with_agent_and(quickly, &[("source/a.json", r#"{"kind":"Pod","id":"a","state":{"n":1}}"#)]);
    let keys = KeyFile::new(&up.dir().join("data/keys/signing.nk"));
    let first = eventually("the first checkpoint is signed", async || keys.load().ok().flatten()).await;
    (up, first.public())
}

/// Waits until a checkpoint signs everything up to this sequence of the site log.
async fn signed_up_to(up: &Up, seq: u64) {
    eventually("a checkpoint signs it", async || {
        let report = up.verb(&["-o", "json", "audit", "verify"]).json();
        let log = report["logs"].as_array()?.iter().find(|log| log["stream"] == LOG)?.clone();
        (log["signed"].as_u64()? >= seq).then_some(())
    })
    .await;
}

/// Publishes some resources; answers the sequence of the last one.
fn publish(up: &Up, round: u32) -> u64 {
    let places: Vec<_> = (0..6).map(|n| up.publish("dc1", &format!("VM/{round}-{n}"), "1", "{}")).collect();
    places[5].rsplit_once(':').unwrap().1.parse().unwrap()
}

fn export(up: &Up, name: &str, more: &[&str]) -> (Vec<u8>, String) {
    let path = up.dir().join(name);
    let said = up.verb(&[&["audit", "export", "--out", path.to_str().unwrap()], more].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    (fs::read(path).unwrap(), said.err)
}

#[tokio::test(flavor = "multi_thread")]
async fn good_evidence_is_accepted_and_every_tampering_is_refused_by_name_with_and_without_farside() {
    let ((up, first), examiners) = (signing_up().await, Examiners::new());
    // Two checkpoints at least under the first key: the one that a tampering puts in for the other is of the same key.
    signed_up_to(&up, publish(&up, 0)).await;
    signed_up_to(&up, publish(&up, 1)).await;
    let rotated = up.json(&["audit", "rotate-key"]);
    let second = rotated["key"].as_str().unwrap();
    assert_eq!(rotated["previous"].as_str(), Some(first.as_str()));
    let middle = publish(&up, 2);
    signed_up_to(&up, middle).await;
    signed_up_to(&up, publish(&up, 3)).await;
    let verified = up.json(&["audit", "verify"]);
    assert_eq!(verified["faults"], json!([]), "{verified}");
    assert!(
        verified["rows_of_checkpoint"].as_u64().unwrap() >= 3 && verified["owners"].as_u64().unwrap() >= 2
    );

    let (whole, _) = export(&up, "whole.jsonl", &[]);
    examiners.accept(&whole, &first);
    examiners.accept(&whole, second);
    let from = middle.to_string();
    let (part, said) = export(&up, "part.jsonl", &["--from", &from]);
    assert!(said.contains("behind the mark of checkpoint"), "{said}");
    examiners.accept(&part, &first);
    let (target, _) = export(&up, "target.jsonl", &["--stream", "FARSIDE_TGT_LOCAL"]);
    examiners.accept(&target, &first);

    let key = KeyFile::new(&up.dir().join("data/keys/signing.nk")).load().unwrap().unwrap();
    Tampering { file: &whole, examiners: &examiners, trusted: &first, own: &key }.try_all();
}

/// A hand that changes a file.
struct Tampering<'a> {
    file: &'a [u8],
    examiners: &'a Examiners,
    trusted: &'a str,
    /// The target's own key, which signs what its holder likes.
    own: &'a SigningKey,
}

type Lines = Vec<Value>;

impl Tampering<'_> {
    fn lines(&self) -> Lines {
        let text = std::str::from_utf8(self.file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn refused(&self, what: &str, words: &[&str], tamper: impl FnOnce(&mut Lines)) {
        let mut lines = self.lines();
        tamper(&mut lines);
        self.examiners.refuse(what, &text(&lines), self.trusted, words);
    }

    fn try_all(&self) {
        let (message, last_message) =
            (place(&self.lines(), "message", 0), place(&self.lines(), "message", 9));
        let seq = self.lines()[message]["message"]["seq"].as_str().unwrap().to_owned();
        let changed = format!("message {seq}");
        let changed = [changed.as_str(), "is not what its hash says"];
        self.refused("a body is edited", &changed, |lines| {
            lines[message]["message"]["body"] = json!(BASE64.encode(b"{}"));
        });
        self.refused("a header is edited", &changed, |lines| {
            lines[message]["message"]["headers"][0][1] = json!("x");
        });
        self.refused("the stored time is changed", &changed, |lines| {
            lines[message]["message"]["stored_at_unix_ms"] = json!(1);
        });
        self.refused("a subject is changed", &changed, |lines| {
            lines[message]["message"]["subject"] = json!("far.v1.local.evt.dc2.resource.x.changed");
        });
        self.refused("a line is dropped", &["is missing"], |lines| drop(lines.remove(message)));
        self.refused("two lines are reordered", &["stands behind"], |lines| {
            let next = place(lines, "message", 1);
            lines.swap(message, next);
        });
        self.refused("a line is doubled", &["doubled"], |lines| {
            lines.insert(message, lines[message].clone())
        });
        self.refused("the file is truncated", &["cut off"], |lines| lines.truncate(last_message));
        let cut = &self.file[..self.file.len() - 40];
        self.examiners.refuse("the last line is truncated", cut, self.trusted, &["cut off"]);
        self.refused("the count is changed", &["trailer", "count"], |lines| {
            lines.last_mut().unwrap()["trailer"]["count"] = json!("1");
        });
        self.refused("the header's range is changed", &["the trailer says"], |lines| {
            lines[0]["header"]["to"] = json!("3");
        });
        self.checkpoints();
        self.signatures();
    }

    fn checkpoints(&self) {
        let (second, number) = (place(&self.lines(), "checkpoint", 1), "2");
        let forged = format!("checkpoint {number}");
        let forged = [forged.as_str(), "its signature is not one of the key"];
        self.refused("a checkpoint's signature is forged", &forged, |lines| {
            lines[second]["checkpoint"]["signature"] = json!(BASE64.encode(&[7; 64]));
        });
        self.refused("a checkpoint is edited", &forged, |lines| {
            lines[second]["checkpoint"]["logs"][0]["running"] = json!(Hash32::ZERO);
        });
        self.refused(
            "an older checkpoint is put in",
            &["checkpoint 1 stands behind checkpoint 1"],
            |lines| {
                lines[second] = lines[place(lines, "checkpoint", 0)].clone();
            },
        );
        self.refused("a checkpoint is dropped", &["checkpoint 2 is missing before checkpoint 3"], |lines| {
            drop(lines.remove(second));
        });
        self.refused("the rotation is dropped", &["the target's key"], |lines| {
            drop(lines.remove(place(lines, "rotation", 1)));
        });
    }

    fn signatures(&self) {
        let thief = SigningKey::generate();
        self.refused("it is signed by another key", &["which is neither"], |lines| sign(lines, &thief));
        self.refused("it is edited, mended and signed by another key", &["which is neither"], |lines| {
            edit(lines);
            mend(lines, &thief);
        });
        let wrong = ["is not what checkpoint", "signs"];
        self.refused("it is edited and mended by the holder of the key", &wrong, |lines| {
            edit(lines);
            mend(lines, self.own);
        });
        self.refused("a message is said to be absent by the holder of the key", &wrong, |lines| {
            let at = place(lines, "message", 0);
            let seq = lines[at]["message"]["seq"].clone();
            lines[at] = json!({ "absent": { "first": seq, "last": seq } });
            mend(lines, self.own);
        });
        self.examiners.refuse("another key is trusted", self.file, &thief.public(), &["which is neither"]);
        let mut same = self.lines();
        mend(&mut same, self.own);
        self.examiners.accept(&text(&same), self.trusted);
    }
}

/// The line of the nth of a kind.
fn place(lines: &Lines, kind: &str, nth: usize) -> usize {
    lines.iter().enumerate().filter(|(_, line)| line.get(kind).is_some()).nth(nth).unwrap().0
}

fn text(lines: &Lines) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

fn edit(lines: &mut Lines) {
    let at = place(lines, "message", 0);
    lines[at]["message"]["body"] = json!(BASE64.encode(b"{}"));
}

/// Makes every hash right again.
fn mend(lines: &mut Lines, key: &SigningKey) {
    let mut running: Hash32 = lines[0]["header"]["running"].as_str().unwrap().parse().unwrap();
    let mut count = 0;
    for message in lines.iter_mut().filter_map(|line| line.get_mut("message")) {
        let pairs: Vec<(String, String)> = serde_json::from_value(message["headers"].clone()).unwrap();
        let headers: Vec<_> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        let hash = Stored {
            subject: message["subject"].as_str().unwrap(),
            headers: &headers,
            body: &BASE64.decode(message["body"].as_str().unwrap().as_bytes()).unwrap(),
            stream: LOG,
            seq: message["seq"].as_str().unwrap().parse().unwrap(),
            stored_at: Timestamp::from_unix_ms(message["stored_at_unix_ms"].as_i64().unwrap()),
        }
        .hash();
        message["hash"] = json!(hash);
        running = proof::extend(running, hash);
        count += 1;
    }
    let trailer = &mut lines.last_mut().unwrap()["trailer"];
    (trailer["running"], trailer["count"]) = (json!(running), json!(count.to_string()));
    let (_, before) = lines.split_last().unwrap();
    let sha256 = Hash32::of(&text(&before.to_vec()));
    lines.last_mut().unwrap()["trailer"]["sha256"] = json!(sha256);
    sign(lines, key);
}

/// Signs the trailer as it is.
fn sign(lines: &mut Lines, key: &SigningKey) {
    let trailer = lines.last_mut().unwrap()["trailer"].as_object_mut().unwrap();
    trailer.insert("key".to_owned(), json!(key.public()));
    trailer.remove("signature");
    let signature = key.sign(canonical::text(&trailer).unwrap().as_bytes()).unwrap();
    trailer.insert("signature".to_owned(), json!(signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_cannot_be_says_why_and_leaves_no_file() {
    let (up, _) = signing_up().await;
    let out = up.dir().join("none.jsonl");
    let refused = |more: &[&str]| {
        let said = up.verb(&[&["audit", "export", "--out", out.to_str().unwrap()], more].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(!out.exists() && !out.with_extension("jsonl.part").exists());
        said.err
    };
    let error = refused(&["--stream", "FARSIDE_OTHER"]);
    assert!(error.contains("FARSIDE_OTHER is no log of this target"), "{error}");
    signed_up_to(&up, publish(&up, 1)).await;
    let error = refused(&["--from", "99999999"]);
    assert!(error.contains("no range of that log"), "{error}");
    let error = refused(&["--from", "yesterday"]);
    assert!(error.contains("no moment of the log"), "{error}");
    let said = up.verb(&["audit", "verify", "--offline", "x", "--from", "1", "--key", "U"]);
    assert_eq!(said.code, Some(2), "{said:?}");
}
