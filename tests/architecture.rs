//! The rules of the house that the compiler does not know: who may know whom, what every file looks
//! like, and what a test may not do. Each failure is a sentence that says which rule and where.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest file without a stated reason, in lines.
const FILE_LINES_MAX: usize = 600;
/// The words in a module head that introduce the reason why a file is longer.
const LONG_BECAUSE: &str = "Long because";

/// A room, the rooms that it may know, and the crates that may be nowhere below it.
struct Room {
    name: &'static str,
    may_know: &'static [&'static str],
    never_below: &'static [&'static str],
    never_itself: &'static [&'static str],
}

/// The table of ARCHITECTURE.md, "Who may know whom".
const ROOMS: &[Room] = &[
    Room {
        name: "bus-schema",
        may_know: &[],
        never_below: &["tokio", "async-nats", "redb", "axum", "tracing"],
        never_itself: &[],
    },
    Room { name: "bus", may_know: &["bus-schema"], never_below: &["redb", "axum"], never_itself: &[] },
    Room {
        name: "projector",
        may_know: &["bus-schema"],
        never_below: &["tokio", "async-nats", "axum"],
        never_itself: &[],
    },
    Room {
        name: "audit",
        may_know: &["bus-schema"],
        never_below: &["tokio", "async-nats", "redb", "axum"],
        never_itself: &[],
    },
    Room {
        name: "producers",
        may_know: &["bus", "bus-schema"],
        never_below: &["axum"],
        // redb is the agent's own ledger here, never the pool.
        never_itself: &["async-nats"],
    },
    Room {
        name: "consumers",
        may_know: &["audit", "bus", "bus-schema", "projector"],
        never_below: &["axum"],
        never_itself: &["async-nats", "redb", "hyper"],
    },
    Room {
        name: "console",
        may_know: &["bus", "bus-schema", "projector"],
        never_below: &[],
        never_itself: &["async-nats", "redb"],
    },
    Room {
        name: "farside",
        may_know: &["audit", "bus", "bus-schema", "console", "consumers", "producers", "projector"],
        never_below: &[],
        never_itself: &["async-nats", "redb", "axum"],
    },
    Room {
        // What users of Farside take into their own tests: it uses what everybody can use.
        name: "testkit",
        may_know: &["bus", "bus-schema"],
        never_below: &["redb", "axum"],
        never_itself: &["async-nats"],
    },
    Room {
        // Measures what the rooms offer to everybody, and what the client library can do without them.
        name: "bench",
        may_know: &["audit", "bus", "bus-schema", "consumers", "producers", "projector"],
        never_below: &["axum"],
        never_itself: &["redb"],
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of the crates that `cargo tree` lists below a room, the room itself left out.
fn below(room: &str, more: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", room])
        .args(more)
        .current_dir(root())
        .output()
        .expect("cargo tree runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != room)
        .map(str::to_owned)
        .collect()
}

#[test]
fn rooms_know_only_whom_they_may_know() {
    let rooms: BTreeSet<_> = ROOMS.iter().map(|room| room.name).collect();
    for room in ROOMS {
        let direct = below(room.name, &["--depth", "1"]);
        for known in direct.iter().filter(|name| rooms.contains(name.as_str())) {
            let allowed = room.may_know.contains(&known.as_str());
            assert!(
                allowed,
                "{} must not know {known}: see ARCHITECTURE.md, \"Who may know whom\"",
                room.name
            );
        }
        for stranger in room.never_itself {
            assert!(!direct.contains(*stranger), "{} must not use {stranger} itself", room.name);
        }
    }
}

#[test]
fn what_a_room_must_not_know_is_nowhere_below_it() {
    for room in ROOMS.iter().filter(|room| !room.never_below.is_empty()) {
        let all = below(room.name, &[]);
        for stranger in room.never_below {
            assert!(!all.contains(*stranger), "{stranger} is somewhere below {}: cargo tree -i", room.name);
        }
    }
}

#[test]
fn every_member_of_the_workspace_is_in_the_table() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|line| line.starts_with("members")).expect("one line of members");
    for member in members.split('"').skip(1).step_by(2) {
        let listed = ROOMS.iter().any(|room| room.name == member);
        assert!(listed, "the room {member} is not in the table of tests/architecture.rs");
    }
}

/// Every Rust file of the house.
fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let rooms = ROOMS.iter().filter(|room| room.name != "farside").map(|room| room.name);
    for folder in rooms.chain(["src", "tests", "benches"]) {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 30, "only {} files found", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_file_opens_with_what_it_is() {
    for path in rust_files() {
        let text = text_of(&path);
        assert!(text.starts_with("//! "), "{} does not open with //! and what it is", short(&path));
    }
}

#[test]
fn long_files_say_why() {
    for path in rust_files() {
        let text = text_of(&path);
        let lines = text.lines().count();
        let said =
            text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains(LONG_BECAUSE));
        assert!(
            lines <= FILE_LINES_MAX || said,
            "{} has {lines} lines: split it, or say \"{LONG_BECAUSE} ...\" in its head",
            short(&path)
        );
    }
}

/// The parts of a file that are test code: all of it under tests/ and in tests.rs, else what follows `cfg(test)`.
fn test_code(path: &Path, text: &str) -> String {
    let whole = path.starts_with(root().join("tests")) || path.ends_with("tests.rs");
    if whole {
        return text.to_owned();
    }
    text.split_once("#[cfg(test)]").map(|(_, after)| after.to_owned()).unwrap_or_default()
}

#[test]
fn no_test_is_switched_off_or_sleeps() {
    // Written in two parts so that this file does not find itself.
    let (off, pause) = (concat!("#[", "ignore"), concat!("sleep", "("));
    for path in rust_files() {
        let code = test_code(&path, &text_of(&path));
        assert!(!code.contains(off), "{}: a test is switched off; repair it or delete it", short(&path));
        // What waits for a real process has one place to poll from.
        if !path.starts_with(root().join("tests/support")) {
            assert!(
                !code.contains(pause),
                "{}: a test sleeps; wait for the thing itself (tests/support)",
                short(&path)
            );
        }
    }
}

#[test]
fn the_core_reads_no_clock() {
    let clocks = ["SystemTime::now", "Instant::now", "Utc::now", "Local::now"];
    for path in rust_files() {
        let (room, text) = (short(&path), text_of(&path));
        let core = room.starts_with("bus-schema/")
            || room.starts_with("projector/src")
            || room.ends_with("/state.rs");
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        for clock in clocks.iter().filter(|_| core) {
            assert!(!program.contains(clock), "{room} calls {clock}: time comes from the event, or as `now`");
        }
    }
}

#[test]
fn the_suite_names_every_file_of_tests() {
    let suite = text_of(&root().join("tests/suite.rs"));
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let rust =
            path.extension().is_some_and(|extension| extension == "rs") || path.join("mod.rs").exists();
        if rust && name != "suite" {
            let line = format!("mod {name};");
            assert!(
                suite.lines().any(|found| found.trim() == line),
                "tests/suite.rs lacks `{line}`: it never runs"
            );
        }
    }
}

#[test]
fn every_test_that_a_claim_names_is_there() {
    let claims = text_of(&root().join("docs/claims.md"));
    let is_test = |name: &str| {
        let is_name = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
        // Shorter ones are other things that the claims speak of.
        name.chars().all(is_name) && name.matches('_').count() >= 3
    };
    let named: BTreeSet<&str> = claims.split('`').skip(1).step_by(2).filter(|name| is_test(name)).collect();
    assert!(named.len() > 100, "only {} tests found in docs/claims.md", named.len());
    let sources: String = rust_files().iter().map(|path| text_of(path)).collect();
    for name in named {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "docs/claims.md names the test {name}, which there is not: what is it called now?"
        );
    }
}

#[test]
fn every_dependency_is_explained() {
    let manifest = text_of(&root().join("Cargo.toml"));
    let why = text_of(&root().join("docs/decisions/0002-dependencies.md"));
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    for line in section.lines().skip(1).take_while(|line| !line.starts_with('[')) {
        let Some((name, value)) = line.split_once(" = ").filter(|(name, _)| !name.starts_with('#')) else {
            continue;
        };
        let room = value.contains("path =");
        assert!(
            room || why.contains(&format!("`{name}`")),
            "docs/decisions/0002-dependencies.md does not say why {name}"
        );
    }
}
