//! What a program in another language needs before it runs: its tool on this machine, its packages as they are
//! pinned, a build. Made once for each content and each version of the tool, in the target directory.
//!
//! What cannot be had is said to be absent, and its test is skipped, loudly. What does not build fails, and
//! so does a package that is not the one that was pinned.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use bus_schema::Hash32;

/// How long packages may take to come; who waits longer has no network worth the name.
const FETCH_PATIENCE: Duration = Duration::from_secs(120);
/// What pip, npm and Go say when a package is not the one that was pinned.
const WRONG_PACKAGE: [&str; 4] =
    ["DO NOT MATCH THE HASHES", "EINTEGRITY", "checksum mismatch", "SECURITY ERROR"];
/// The file that pins the jars, where there are any: a line for each, as `sha256sum` writes it.
const JARS: &str = "jars.sha256";

/// A command: its program and its arguments.
pub(super) type Words = &'static [&'static str];

/// How a folder of `tests/interop` becomes something that runs.
#[derive(Debug)]
pub(super) struct Recipe {
    /// Below `tests/interop`.
    pub(super) folder: &'static str,
    /// Prints the version of the tool.
    pub(super) tool: Words,
    /// Brings the packages. What fails here is absent.
    pub(super) fetch: &'static [Words],
    /// Builds. What fails here is wrong.
    pub(super) build: &'static [Words],
    /// How a person gets what is absent.
    pub(super) cure: &'static str,
}

/// A folder of `tests/interop`.
pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}

/// Says on the terminal that something is skipped or how it went. Not `eprintln`, which a test that passes does not show.
pub(super) fn say(text: &str) {
    io::stderr().write_all(format!("\n{text}\n").as_bytes()).unwrap();
}

impl Recipe {
    /// The directory in which the programs run; none, and a loud line, if something cannot be had.
    pub(super) fn ready(&self, what: &str) -> Option<PathBuf> {
        match self.made() {
            Ok(place) => Some(place),
            Err(why) => {
                assert!(!WRONG_PACKAGE.iter().any(|words| why.contains(words)), "{what}: {why}");
                say(&format!("SKIPPED {what}: {why} ({} or `make interop`)", self.cure));
                None
            }
        }
    }

    /// Error: what is absent, and who says so.
    fn made(&self) -> Result<PathBuf, String> {
        let version = done(self.tool, Path::new("."))?;
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        let place = cache.join(format!("{}-{}", self.folder.replace('/', "-"), &self.key(&version)[..16]));
        if place.exists() {
            return Ok(place);
        }
        fs::create_dir_all(&cache).unwrap();
        let fresh = tempfile::tempdir_in(&cache).unwrap();
        for file in files_below(&folder(self.folder)) {
            let to = fresh.path().join(file.strip_prefix(folder(self.folder)).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
        for words in self.fetch {
            done(words, fresh.path())?;
        }
        check_jars(fresh.path());
        for words in self.build {
            done(words, fresh.path()).unwrap_or_else(|why| panic!("tests/interop/{}: {why}", self.folder));
        }
        // It appears whole or not at all; another run of the tests may have been faster.
        let _ = fs::rename(fresh.path(), &place);
        Ok(place)
    }

    /// Differs when the folder, the tool or what is done with them differs.
    fn key(&self, version: &Output) -> String {
        let mut all = [format!("{self:?}").as_bytes(), &version.stdout, &version.stderr].concat();
        for file in files_below(&folder(self.folder)) {
            all.extend(file.strip_prefix(folder(self.folder)).unwrap().to_string_lossy().bytes());
            all.extend(fs::read(&file).unwrap());
        }
        Hash32::of(&all).to_string()
    }
}

/// The files that are in the repository, in order; not what an editor or a package manager has put beside them.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_file() {
            found.push(entry.path());
        } else if name != "node_modules" && name != "__pycache__" {
            found.extend(files_below(&entry.path()));
        }
    }
    found.sort();
    found
}

/// Runs a command to its good end. Error: what it says instead.
fn done(words: Words, dir: &Path) -> Result<Output, String> {
    let said = |why: &str| format!("`{}`: {why}", words.join(" "));
    let mut command = Command::new(words[0]);
    // A user's settings may demand a virtual environment; this installs nothing but into the folder.
    command.args(&words[1..]).current_dir(dir).env("PIP_REQUIRE_VIRTUALENV", "0").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| said(&error.to_string()))?;
    let pid = rustix::process::Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = end.recv_timeout(FETCH_PATIENCE) else {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        return Err(said(&format!("it has not ended after {} s", FETCH_PATIENCE.as_secs())));
    };
    let output = output.map_err(|error| said(&error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    Err(said(&text))
}

/// Every jar is the one that is pinned, and each that is pinned is there.
fn check_jars(place: &Path) {
    let Ok(pinned) = fs::read_to_string(place.join(JARS)) else { return };
    let mut wanted: Vec<_> = pinned.lines().map(|line| line.split_once("  ").unwrap()).collect();
    for jar in files_below(&place.join("lib")) {
        let name = jar.file_name().unwrap().to_string_lossy().into_owned();
        let hash = Hash32::of(&fs::read(&jar).unwrap()).to_string();
        let found = wanted.iter().position(|want| *want == (&*hash, &*name));
        wanted.remove(found.unwrap_or_else(|| panic!("{hash}  {name} is not in {JARS}")));
    }
    assert!(wanted.is_empty(), "no jar for {wanted:?}");
}
