//! The race: one stream of a million events, and what a user would write or pick to keep the state of every resource of it.
//! Everybody is a process of its own beside the same nats-server, one after the other, in interleaved rounds; and everybody
//! has to hold the right state in the end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use bus::{Bus, ConnectOptions};
use bus_schema::subject;
use tokio::process::Command;

use crate::{
    DEADLINE, Outcome,
    load::Load,
    report::{Rounds, Section},
};

mod bucket;
pub(crate) mod racer;
mod server;

use racer::Told;
use server::{PlainServer, Sync};

/// Resources that the events go round.
const KEYS: u64 = 100_000;

/// Who takes part.
struct Racer {
    /// In the table.
    name: &'static str,
    /// What runs.
    program: Program,
    /// What it does not give, in a line.
    lacks: &'static str,
}

#[derive(Clone, Copy)]
enum Program {
    /// This program as `racer farside`.
    Farside,
    /// A script of bench/peers, which needs this package.
    Peer { script: &'static str, package: &'static str },
    /// This program as `racer bucket`.
    Bucket(Sync),
}

const RACERS: [Racer; 5] = [
    Racer { name: "Farside", program: Program::Farside, lacks: "the tables are its own: no SQL, no joins." },
    Racer {
        name: "nats-py → SQLite",
        program: Program::Peer { script: "nats_py_sqlite.py", package: "nats" },
        lacks: "(it does give exactly once after a kill, and order.) It does not notice an event that the log lost or that is not what it \
                was, has no moment of the past but by reading all anew with more code, and proves nothing to anybody.",
    },
    Racer {
        name: "Pathway → SQLite",
        program: Program::Peer { script: "pathway_sqlite.py", package: "pathway" },
        lacks: "without its persistence, as here, it promises nothing after a kill, and with it at least once (its \
                documentation). It shows no sequence of the stream, so which of two events in one commit is the newer one is \
                not certain. No past, no lost events noticed, no proof.",
    },
    Racer {
        name: "NATS KV bucket, synced always",
        program: Program::Bucket(Sync::Always),
        lacks: "no position with the data: after a kill it begins anew or behind a position of its own, and watchers see old \
                values again. No client puts two keys at once, no search but by key, no past beyond 64 values a key.",
    },
    Racer {
        name: "NATS KV bucket, synced as installed",
        program: Program::Bucket(Sync::AsInstalled),
        lacks: "as above; and a power failure takes up to two minutes of what was acknowledged.",
    },
];

/// What everybody has to hold in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    rows: u64,
    revisions: u64,
}

/// The stream, and who has it.
struct Course {
    server: PlainServer,
    other: PlainServer,
    stream: String,
    events: u64,
    expected: Expected,
    scratch: PathBuf,
}

/// Stores the events once, and lets everybody take them in, `rounds` times.
pub(crate) async fn run(events: u64, rounds: usize, scratch: &Path) -> Outcome<Section> {
    let course = Course::laid(events, scratch).await?;
    let mut told: BTreeMap<usize, Vec<Told>> = BTreeMap::new();
    for round in 0..rounds {
        for (at, racer) in RACERS.iter().enumerate() {
            match course.run(racer).await {
                Ok(None) => {}
                Ok(Some(one)) => {
                    eprintln!("  round {round}: {}: {:.0} ev/s", racer.name, rate(&one));
                    told.entry(at).or_default().push(one);
                }
                Err(error) if at == 0 => return Err(error),
                // Its misfortune is no reason to have no figures of the others.
                Err(error) => eprintln!("  FAILED {}: {error}", racer.name),
            }
        }
    }
    course.server.stop().await?;
    course.other.stop().await?;
    Ok(section(events, rounds, &told))
}

fn rate(told: &Told) -> f64 {
    told.events as f64 / told.seconds
}

fn section(events: u64, rounds: usize, told: &BTreeMap<usize, Vec<Told>>) -> Section {
    let lacks: String = RACERS.iter().map(|racer| format!("\n- {}: {}", racer.name, racer.lacks)).collect();
    let how = format!(
        "The same {events} events over {KEYS} resources in one stream (`sync_interval: always`, without accounts), into what \
         a user would write or pick (bench/peers); {rounds} interleaved rounds, each from nothing, each a process of its own, \
         timed from before it connects until the last event is stored, with what it holds counted afterwards. Processor time \
         and memory are the process's own, without nats-server's. Farside is the service with fsync; it also checks every \
         chain, seals every message and keeps the digest. What each does not give:\n{lacks}"
    );
    let mut section = Section::new("Race", how);
    for (at, racer) in RACERS.iter().enumerate() {
        let Some(told) = told.get(&at) else {
            section.add(racer.name, "not measured", "not installed, or it failed: the run says which");
            continue;
        };
        let median = |of: fn(&Told) -> f64| Rounds::of(&told.iter().map(of).collect::<Vec<_>>());
        let rates = median(rate);
        let (cpu, peak) = (
            median(|told| told.cpu_seconds / told.events as f64 * 1e6),
            median(|told| told.peak_bytes as f64),
        );
        let fewest = told.iter().map(|told| told.events).min().unwrap_or(0);
        let stopped =
            if fewest < events { format!("; stopped after {fewest} events") } else { String::new() };
        let spread = format!(
            "{}; {:.0} µs of a processor an event; peak {:.0} MB{stopped}",
            rates.spread(0, "ev/s"),
            cpu.median,
            peak.median / 1e6
        );
        section.add(racer.name, format!("{:.0} ev/s", rates.median), spread);
    }
    section
}

impl Course {
    async fn laid(events: u64, scratch: &Path) -> Outcome<Self> {
        let scratch = scratch.join("race");
        let server = PlainServer::start(&scratch.join("nats"), Sync::Always).await?;
        let other = PlainServer::start(&scratch.join("nats-as-installed"), Sync::AsInstalled).await?;
        let options =
            ConnectOptions { servers: server.url.clone(), name: "bench".to_owned(), ..Default::default() };
        let bus = Bus::connect(options).await?;
        let stream = crate::site_stream(&bus, subject::LOCAL).await?;
        Load::new(subject::LOCAL, KEYS).store(&bus, &stream, events).await?;
        Ok(Self { server, other, stream, events, expected: Expected::of(events), scratch })
    }

    /// One turn of one of them; none = it is not there.
    async fn run(&self, racer: &Racer) -> Outcome<Option<Told>> {
        let Some(mut command) = self.command(racer.program).await? else {
            eprintln!("  SKIPPED {}: its package is not installed; run tools/bench_peers.sh", racer.name);
            return Ok(None);
        };
        let directory = self.scratch.join("turn");
        std::fs::create_dir_all(&directory)?;
        command.args(["--url", &self.server.url, "--stream", &self.stream]);
        command.args(["--events", &self.events.to_string()]).arg("--directory").arg(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(DEADLINE, command.spawn()?.wait_with_output()).await??;
        std::fs::remove_dir_all(&directory)?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().last().ok_or(format!("{} told nothing: {}", racer.name, output.status))?;
        let told = Told::read(line)?;
        let (rows, revisions) = (told.rows, told.revisions);
        if told.events == self.events && self.expected != (Expected { rows, revisions }) {
            return Err(
                format!("{} holds {rows} rows, {revisions}: not {:?}", racer.name, self.expected).into()
            );
        }
        Ok(Some(told))
    }

    async fn command(&self, program: Program) -> Outcome<Option<Command>> {
        let own = |name: &str| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["racer", name]);
            Ok::<_, std::io::Error>(command)
        };
        match program {
            Program::Farside => Ok(Some(own("farside")?)),
            Program::Bucket(sync) => {
                let mut command = own("bucket")?;
                let server = match sync {
                    Sync::Always => &self.server,
                    Sync::AsInstalled => &self.other,
                };
                command.args(["--bucket-url", &server.url]);
                Ok(Some(command))
            }
            Program::Peer { script, package } => {
                let Some(python) = python(package).await else { return Ok(None) };
                let mut command = Command::new(python);
                command.arg(Path::new("bench/peers").join(script));
                command.args(["--subject", &format!("far.v1.{}.evt.>", subject::LOCAL)]);
                command.args(["--revisions", &self.expected.revisions.to_string()]);
                Ok(Some(command))
            }
        }
    }
}

/// The Python of tools/bench_peers.sh, if it has this package.
async fn python(package: &str) -> Option<PathBuf> {
    // Beside the profile's directory, in which this program is.
    let target = std::env::current_exe().ok()?.parent()?.parent()?.to_owned();
    let python = target.join("peers/bin/python");
    let found = format!("import importlib.util as u, sys; sys.exit(u.find_spec('{package}') is None)");
    let status = Command::new(&python).args(["-c", &found]).status().await;
    status.is_ok_and(|status| status.success()).then_some(python)
}

impl Expected {
    /// What the events of a [`Load`] leave: of each resource the last of its rounds.
    fn of(events: u64) -> Self {
        let last: BTreeMap<u64, u64> = (1..=events).map(|seq| Load::record_of(seq, KEYS)).collect();
        Self { rows: last.len() as u64, revisions: last.values().sum() }
    }
}
