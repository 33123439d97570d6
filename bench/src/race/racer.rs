//! A racer: a process of its own that takes in the stream, and says what it did as one line of JSON. Those in Rust are this
//! program started once more, so that memory and processor time are theirs alone; the others are in bench/peers.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use bus::{Bus, ConnectOptions};
use bus_schema::{PoolId, subject};
use consumers::{Service, ServiceConfig};
use projector::{Filter, Reader, Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::bucket;
use crate::{DEADLINE, Outcome, process};

/// What a racer is given.
pub(crate) struct Task {
    /// The nats-server with the stream.
    pub(crate) url: String,
    /// The stream.
    pub(crate) stream: String,
    /// How many events it has.
    pub(crate) events: u64,
    /// An empty directory.
    pub(crate) directory: PathBuf,
    /// The nats-server with the bucket; for the bucket alone.
    pub(crate) bucket_url: String,
}

impl Task {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let value = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name);
            at.and_then(|at| arguments.get(at + 1)).cloned().ok_or(format!("{name} is missing"))
        };
        Ok(Self {
            url: value("--url")?,
            stream: value("--stream")?,
            events: value("--events")?.parse()?,
            directory: value("--directory")?.into(),
            bucket_url: value("--bucket-url").unwrap_or_default(),
        })
    }
}

/// What a racer came to.
pub(crate) struct Told {
    /// Events that it took in.
    pub(crate) events: u64,
    /// From before it connected until the last one was stored.
    pub(crate) seconds: f64,
    /// Processor time of its process.
    pub(crate) cpu_seconds: f64,
    /// The most memory that it held.
    pub(crate) peak_bytes: u64,
    /// Resources that it holds.
    pub(crate) rows: u64,
    /// What their revisions add up to.
    pub(crate) revisions: u64,
}

impl Told {
    /// As one line of JSON.
    fn line(&self) -> String {
        let Self { events, seconds, cpu_seconds, peak_bytes, rows, revisions } = self;
        json!({
            "events": events, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes,
            "rows": rows, "revisions": revisions,
        })
        .to_string()
    }

    /// Reads that line.
    pub(crate) fn read(line: &str) -> Outcome<Self> {
        let told: Value = serde_json::from_str(line)?;
        let number = |name: &str| told[name].as_f64().ok_or(format!("{name} is not told: {line}"));
        let whole = |name: &str| number(name).map(|value| value as u64);
        Ok(Self {
            events: whole("events")?,
            seconds: number("seconds")?,
            cpu_seconds: number("cpu_seconds")?,
            peak_bytes: whole("peak_bytes")?,
            rows: whole("rows")?,
            revisions: whole("revisions")?,
        })
    }
}

/// `bench racer NAME …`: runs one, and prints what it came to.
pub(crate) async fn run(arguments: &[String]) -> Outcome<()> {
    let task = Task::parse(arguments)?;
    let told = match arguments.first().map(String::as_str) {
        Some("farside") => farside(&task).await?,
        Some("bucket") => bucket::run(&task).await?,
        _ => return Err("racer is farside or bucket".into()),
    };
    println!("{}", told.line());
    Ok(())
}

/// The service, from an empty pool.
async fn farside(task: &Task) -> Outcome<Told> {
    let (start, cpu) = (Instant::now(), process::cpu_seconds()?);
    let options =
        ConnectOptions { servers: task.url.clone(), name: "racer".to_owned(), ..Default::default() };
    let bus = Bus::connect(options).await?;
    let store = Store::open(&task.directory.join("pool.redb"), StoreOptions::default())?;
    let service = Service::build(ServiceConfig::default(), bus, store.clone())?;
    let (handle, shutdown) = (service.handle(), CancellationToken::new());
    let mut running = tokio::spawn(service.run(shutdown.clone()));
    tokio::select! {
        passed = handle.progress().passes(&task.stream, task.events, DEADLINE) => passed?,
        ended = &mut running => return Err(format!("the service ended: {:?}", ended?).into()),
    }
    let (seconds, cpu_seconds) = (start.elapsed().as_secs_f64(), process::cpu_seconds()? - cpu);
    let peak_bytes = process::memory(Path::new("/proc/self"), "VmHWM")?;
    let (rows, revisions) = count(&store.reader())?;
    shutdown.cancel();
    running.await??;
    Ok(Told { events: task.events, seconds, cpu_seconds, peak_bytes, rows, revisions })
}

/// The rows of the only pool, and what their revisions add up to.
fn count(reader: &Reader) -> Outcome<(u64, u64)> {
    let pool: PoolId = format!("{}/bench", subject::LOCAL).parse()?;
    let (mut rows, mut revisions, mut after) = (0, 0, None);
    loop {
        let page = reader.rows(&pool, &Filter::default(), after.as_ref(), usize::MAX)?;
        for row in &page.rows {
            let revision = row.revision.as_ref().ok_or("a row has no revision")?;
            revisions += revision.as_str().parse::<u64>()?;
        }
        rows += page.rows.len() as u64;
        after = page.next;
        if after.is_none() {
            return Ok((rows, revisions));
        }
    }
}
