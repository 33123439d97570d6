//! `make bench`: measures Farside against its limits in one run and writes docs/performance.md.
//!
//! Every comparison is interleaved in one run on one machine; medians count, ratios count more.
//! Must not know how the rooms work inside: it uses what they offer to everybody.

#![allow(clippy::print_stdout, reason = "it measures, and prints what it measured")]

use std::{path::PathBuf, time::Duration};

use bus::{
    Bus, Credentials,
    managed::{ManagedOptions, ManagedServer},
};
use bus_schema::{Name, stream::StreamSpec};

mod catch_up;
mod latency;
mod load;
mod memory;
mod million;
mod past;
mod process;
mod proof;
mod publish;
mod race;
mod read;
mod reconcile;
mod report;
mod serve;
mod source;

/// A result of a measurement; every error ends the run and is printed.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// No single step of a measurement takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(600);
/// Events of the log that is read, projected and rebuilt.
const EVENTS: u64 = 1_000_000;

/// Rounds of the race, which takes minutes each.
const RACE_ROUNDS_MAX: usize = 3;

/// `bench [--rounds N] [--events N] [SECTION…]`
struct Options {
    rounds: usize,
    events: u64,
    sections: Vec<String>,
    page: PathBuf,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let page = PathBuf::from("docs/performance.md");
        let mut options = Self { rounds: 5, events: EVENTS, sections: Vec::new(), page };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse()?,
                "--events" => options.events = value()?.parse()?,
                "--page" => options.page = value()?.into(),
                flag if flag.starts_with("--") => return Err(format!("{flag} is not an option").into()),
                _ => options.sections.push(argument),
            }
        }
        Ok(options)
    }

    fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|name| name == section)
    }
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [racer, rest @ ..] = arguments.as_slice()
        && racer == "racer"
    {
        return race::racer::run(rest).await;
    }
    let options = Options::parse(arguments.into_iter())?;
    let scratch = tempfile::Builder::new().prefix("farside-bench-").tempdir()?;
    let server = ManagedServer::start(ManagedOptions::new(scratch.path().join("nats"))).await?;
    let bus = Bus::connect(server.service_options("bench")).await?;
    let mut report = Report::default();
    if options.wants("publish") {
        eprintln!("publish …");
        report.add(publish::run(&bus, "publish", options.rounds).await?);
    }
    if options.wants("catch-up") {
        let stream = site_stream(&bus, "local").await?;
        eprintln!("catch-up: storing {} events …", options.events);
        load::Load::new("local", 100_000).store(&bus, &stream, options.events).await?;
        let section =
            catch_up::run(&server, &bus, &stream, options.events, options.rounds, scratch.path()).await?;
        report.add(section);
    }
    if options.wants("proof") {
        eprintln!("proof: storing {} events twice …", proof::EVENTS);
        report.add(proof::run(&server, &bus, options.rounds, scratch.path()).await?);
    }
    if options.wants("race") {
        eprintln!("race: storing {} events …", options.events);
        report.add(race::run(options.events, options.rounds.min(RACE_ROUNDS_MAX), scratch.path()).await?);
    }
    if options.wants("past") {
        eprintln!("past: storing {} events …", options.events);
        report.add(past::run(&server, &bus, options.events, options.rounds, scratch.path()).await?);
    }
    if options.wants("memory") {
        eprintln!("memory …");
        report.add(memory::run(options.events, scratch.path()).await?);
    }
    if options.wants("latency") {
        eprintln!("latency …");
        report.add(latency::run(&server, &bus, options.rounds, scratch.path()).await?);
    }
    if options.wants("read") {
        eprintln!("read …");
        report.add(read::run(options.events, options.rounds, scratch.path())?);
    }
    if options.wants("million") {
        eprintln!("million: {} resources from an agent's files …", options.events);
        let million = million::Million::prepare(&server, options.events, scratch.path()).await?;
        let pool = scratch.path().join("million/pool.redb");
        report.add(serve::run(&million, &pool, options.rounds, scratch.path()).await?);
        report.add(reconcile::run(&million, &pool).await?);
        million.stop().await?;
    }
    report::write(&options.page, &head(&options), &report.sections)?;
    eprintln!("written: {}", options.page.display());
    server.stop().await;
    Ok(())
}

/// What was measured so far, printed as it comes.
#[derive(Default)]
struct Report {
    sections: Vec<report::Section>,
}

impl Report {
    fn add(&mut self, section: report::Section) {
        println!("{}", section.markdown());
        self.sections.push(section);
    }
}

async fn site_stream(bus: &Bus, site: &str) -> Outcome<String> {
    let spec = StreamSpec { bytes_max: 8 << 30, ..StreamSpec::site(&site.parse::<Name>()?) };
    Ok(bus.ensure_stream(&spec).await?.stream)
}

/// A connection of the client library itself, to measure what is possible without Farside.
async fn raw_client(server: &ManagedServer) -> Outcome<async_nats::Client> {
    let Credentials::NkeySeedFile(file) = server.service_credentials() else {
        return Err("the managed server gave no nkey".into());
    };
    let seed = std::fs::read_to_string(file)?;
    Ok(async_nats::ConnectOptions::with_nkey(seed.trim().to_owned()).connect(server.url()).await?)
}

fn head(options: &Options) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).format("%Y-%m-%d");
    format!(
        "Machine: {model}, {cores} cores, {}; command: `bench --rounds {}` (what `make bench` runs, with 5 rounds by default); date: {date}.\n",
        std::env::consts::OS,
        options.rounds
    )
}
