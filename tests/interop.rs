//! Publishers that know nothing of Farside: the snippets of docs/publishing.md, run as they stand there
//! against the real `farside up`: ten lines of Python with nats-py, and ten over a bare socket, in each of
//! the three forms.
//!
//! nats-py is fetched with pip, pinned and checked, once per target directory. Where pip cannot bring it,
//! its test says SKIPPED; the socket needs Python alone and is never skipped.
//!
//! Below it: a publisher and an audit reader with the official client of five languages, of at most forty lines
//! a snippet, which fill the same conformance table (`table`), and the contract's files before the validators of
//! other ecosystems (`schemas`).

mod cells;
mod expected;
mod language;
mod rig;
mod schemas;
mod table;
mod toolbox;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bus::{Bus, dead_letter};
use serde_json::{Value, json};

use self::language::Language;
use crate::support::{eventually, farside::Up, pip};

/// The site log and the dead letters of `farside up`.
const LOG: &str = "FARSIDE_LOCAL";
const DLQ: &str = "FARSIDE_DLQ_LOCAL";
/// Most lines of code that a publisher may need.
const LINES_MAX: usize = 10;

/// A snippet, and what the pool must have of its event.
struct Snippet {
    file: &'static str,
    id: &'static str,
    revision: &'static str,
    cpus: u64,
    owner: &'static str,
}

const PLAIN: &str = "/local/dc1/resource/plain";
const CMDB: &str = "/local/dc1/resource/cmdb";

/// One per form: plain, structured, binary.
const NATS_PY: [Snippet; 3] = [
    Snippet { file: "nats_py_plain.py", id: "db-1", revision: "7", cpus: 4, owner: PLAIN },
    Snippet { file: "nats_py_structured.py", id: "db-2", revision: "8", cpus: 8, owner: CMDB },
    Snippet { file: "nats_py_binary.py", id: "db-3", revision: "9", cpus: 16, owner: CMDB },
];
const SOCKET: [Snippet; 3] = [
    Snippet { file: "socket_plain.py", id: "web-1", revision: "1", cpus: 2, owner: PLAIN },
    Snippet { file: "socket_structured.py", id: "web-2", revision: "2", cpus: 4, owner: CMDB },
    Snippet { file: "socket_binary.py", id: "web-3", revision: "3", cpus: 8, owner: CMDB },
];

impl Snippet {
    fn path(&self) -> PathBuf {
        folder().join(self.file)
    }

    /// The snippet with one thing in it replaced, so that it does something wrong.
    fn with(&self, right: &str, wrong: &str) -> String {
        let text = fs::read_to_string(self.path()).unwrap();
        assert!(text.contains(right), "{} has no {right}", self.file);
        text.replace(right, wrong)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

fn text_of(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The snippets of a page that are marked so, to the letter.
fn snippets(page: &str, fence: &str) -> Vec<String> {
    let opening = format!("```{fence}\n");
    page.split(&opening).skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned()).collect()
}

/// The lines that are not empty.
fn lines_of(text: &str) -> usize {
    text.lines().filter(|line| !line.trim().is_empty()).count()
}

/// The snippets of a language: file and text.
fn snippets_of(language: &Language) -> impl Iterator<Item = (String, String)> {
    let path = |file| format!("tests/interop/{}/{file}", language.recipe.folder);
    language.snippets.iter().map(move |file| (path(file), text_of(&path(file))))
}

#[test]
fn the_pages_show_what_is_run_to_the_letter_and_nothing_is_over_ten_lines() {
    let run: BTreeMap<_, _> = NATS_PY
        .iter()
        .chain(&SOCKET)
        .map(|snippet| (fs::read_to_string(snippet.path()).unwrap(), snippet.file))
        .collect();
    for (text, file) in &run {
        let lines = lines_of(text);
        assert!(lines <= LINES_MAX, "{file} has {lines} lines");
    }
    let forty: BTreeSet<_> = snippets_of(&language::PYTHON).map(|(_, text)| text).collect();
    let known = |shown: &String| run.contains_key(shown) || forty.contains(shown);
    for page in ["docs/publishing.md", "README.md"] {
        for shown in snippets(&text_of(page), "python") {
            assert!(known(&shown), "{page} shows what no file of tests/interop is:\n{shown}");
        }
    }
    let mut shown = snippets(&text_of("docs/publishing.md"), "python");
    shown.retain(|shown| !forty.contains(shown));
    shown.sort();
    assert_eq!(shown, run.into_keys().collect::<Vec<_>>(), "every one is shown, once");
}

#[test]
fn the_page_shows_what_each_language_runs_to_the_letter_and_nothing_is_over_forty_lines() {
    let page = text_of("docs/publishing.md");
    for language in language::ALL {
        let mut shown = snippets(&page, language.fence);
        for (file, text) in snippets_of(language) {
            let lines = lines_of(&text);
            assert!(lines <= language::LINES_MAX, "{file} has {lines} lines");
            let place = shown.iter().position(|shown| *shown == text);
            shown.remove(place.unwrap_or_else(|| panic!("docs/publishing.md does not show {file} as it is")));
            assert!(!shown.contains(&text), "docs/publishing.md shows {file} twice");
        }
        // The ten lines of Python have a test of their own.
        assert!(shown.is_empty() || language.fence == "python", "it shows what is not run: {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_socket_gets_its_events_into_the_pool_in_each_of_the_three_forms() {
    let up = Up::start("");
    for snippet in &SOCKET {
        let place = place(&stdout(&python(&[snippet.path().as_os_str()], &up, None)));
        in_the_pool(&up, snippet, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_py_gets_its_events_into_the_pool_in_each_of_the_three_forms() {
    let library = match nats_py() {
        Ok(library) => library,
        Err(why) => {
            assert!(!why.contains(pip::WRONG_HASH), "{why}");
            // Not `eprintln`, which a test that passes does not show.
            let line = format!("\nSKIPPED the publishers with nats-py: pip does not bring it: {why}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
    };
    let up = Up::start("");
    for snippet in &NATS_PY {
        let said = stdout(&python(&[snippet.path().as_os_str()], &up, Some(&library)));
        in_the_pool(&up, snippet, &said.trim().replace(' ', ":")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_repeats_under_its_message_id_is_stored_once() {
    let up = Up::start("");
    let [.., binary] = &SOCKET;
    let said = [(); 2].map(|()| stdout(&python(&[binary.path().as_os_str()], &up, None)));
    let acks: [Value; 2] = said.map(|line| serde_json::from_str(&line).unwrap());
    assert_eq!((&acks[0]["duplicate"], &acks[1]["duplicate"]), (&Value::Null, &json!(true)));
    assert_eq!(acks[0]["seq"], acks[1]["seq"]);
    assert_eq!(up.bus().await.stream_state(LOG).await.unwrap().messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_event_of_any_form_is_a_dead_letter_with_the_reason_and_the_rest_goes_on() {
    let up = Up::start("");
    let [plain, structured, binary] = &SOCKET;
    let mut origins = Vec::new();
    for (snippet, right, wrong, words) in [
        (plain, r#""kind": "VM", "#, "", "missing field `kind`"),
        (plain, "VM=2Fweb-1", "VM=2Fweb-9", r#"publish on a subject with the token "VM=2Fweb-1""#),
        (plain, "{body}\\r", "{body[1:]}+\\r", "it is not JSON: trailing characters at line 1"),
        (
            structured,
            r#""type": "resource.changed""#,
            r#""type": "resource.melted""#,
            r#"send "resource.changed""#,
        ),
        (structured, r#""revision": "2", "#, "", "missing field `revision`"),
        (binary, r"ce-id: w-3\r\n", "", "attribute id is missing"),
    ] {
        let broken = snippet.with(right, wrong).replace("dc1/w-3", "dc1/broken");
        origins.push((place(&stdout(&python(&["-c".as_ref(), broken.as_ref()], &up, None))), words));
    }
    for snippet in &SOCKET {
        let place = place(&stdout(&python(&[snippet.path().as_os_str()], &up, None)));
        in_the_pool(&up, snippet, &place).await;
    }
    let bus = up.bus().await;
    for (origin, words) in origins {
        let reason = reason_of(&bus, &origin).await;
        assert!(reason.contains(words), "{origin}: {reason} (no {words})");
    }
    assert_eq!(up.json(&["status"])["dead_letters"], json!(6));
}

#[test]
fn a_bare_socket_is_told_at_once_that_it_may_not_speak_for_the_target() {
    let up = Up::start("");
    let wrong = SOCKET[0].with(".evt.", ".tgt.");
    let said = stdout(&python(&["-c".as_ref(), wrong.as_ref()], &up, None));
    assert!(said.starts_with("-ERR 'Permissions Violation"), "{said}");
}

/// Runs Python with the address of the NATS behind it, as the page says.
fn python(program: &[&std::ffi::OsStr], up: &Up, library: Option<&Path>) -> Output {
    let mut command = Command::new("python3");
    command.args(program).arg(up.publisher_url());
    if let Some(library) = library {
        command.env("PYTHONPATH", library);
    }
    command.output().expect("python3 runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Where the log says that it put an event: `stream:seq` of a PubAck as it comes over the wire.
fn place(ack: &str) -> String {
    let ack: Value = serde_json::from_str(ack).unwrap_or_else(|e| panic!("{e}: {ack}"));
    assert_eq!(ack["duplicate"], Value::Null, "{ack}");
    format!("{}:{}", ack["stream"].as_str().unwrap(), ack["seq"])
}

/// Waits until the pool has the event of a snippet, from the place that its publisher was told.
async fn in_the_pool(up: &Up, snippet: &Snippet, place: &str) {
    let key = format!("VM/{}", snippet.id);
    let found = eventually(&format!("{} has its event in the pool", snippet.file), async || {
        let said = up.verb(&["-o", "json", "pool", "get", "dc1", &key]);
        (said.code == Some(0)).then(|| said.json())
    })
    .await;
    assert_eq!(found["place"], json!(place), "{found}");
    assert_eq!(
        (&found["revision"], &found["state"], &found["owner"]),
        (&json!(snippet.revision), &json!({ "cpus": snippet.cpus }), &json!(snippet.owner)),
        "{found}"
    );
}

/// Waits for the dead letter of the message at `origin`, and answers its reason and the place of the fault.
async fn reason_of(bus: &Bus, origin: &str) -> String {
    eventually(&format!("{origin} is a dead letter"), async || {
        for seq in 1..=bus.stream_state(DLQ).await.unwrap().last_seq {
            let letter = bus.message(DLQ, seq).await.unwrap().unwrap();
            let headers: BTreeMap<_, _> = letter.headers().into_iter().collect();
            if headers[dead_letter::ORIGIN] == origin {
                return Some(format!("{} at {}", headers[dead_letter::REASON], headers[dead_letter::PATH]));
            }
        }
        None
    })
    .await
}

/// The folder with nats-py in it, brought by pip when it is not there yet. Error: what pip says.
fn nats_py() -> Result<PathBuf, String> {
    pip::library("nats-py", &folder().join("nats_py.txt"))
}
