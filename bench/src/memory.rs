//! Whether exporting and verifying a log need more memory when the log is ten times as long: the binary, as it runs at a user's.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bus::{
    Bus,
    managed::{ManagedOptions, ManagedServer},
};
use bus_schema::{Name, Stem, fact::log::LogFact, subject};
use tokio::process::Command;

use crate::{
    DEADLINE, Outcome,
    load::Load,
    process,
    report::Section,
    serve::{Serve, binary},
};

/// Resources in both logs: what a verification projects is as large, the log is not.
const KEYS: u64 = 100_000;
/// The longer log has so many times the events.
const TIMES: u64 = 10;
/// Most that a job may need of the longer log, as a share of what it needs of the other one…
const SHARE_MAX: f64 = 1.25;
/// …or this much more, in bytes: what an allocator and a cache that fills make of the same work. It is 3 % of what the longer
/// log has more, so nothing that grew with the log would fit.
const MORE_MAX: u64 = 16 << 20;
/// How often a verb is looked at. The kernel keeps the peak, so only what comes after the last look is missed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Checkpoints come soon; nothing else runs beside what is measured.
const CONFIG: &str = "[service]\ncheckpoint = { events = 100000, every = \"2s\" }\n\
                      snapshot = { events = 0, every = \"0s\" }\nscrub = { every = \"0s\" }\n";

/// Bytes that a job needed.
struct Needed {
    what: &'static str,
    /// The peak, less what was resident before.
    more: u64,
    /// The peak.
    peak: u64,
}

/// Measures both logs.
pub(crate) async fn run(events: u64, scratch: &Path) -> Outcome<Section> {
    let small = of(events / TIMES, &scratch.join("memory-small")).await?;
    let large = of(events, &scratch.join("memory-large")).await?;
    let how = format!(
        "`farside serve` (the binary), started anew for each job, with a log of {} events over {KEYS} resources, and one of {events}. Peak of resident memory \
         while it exports the whole log and while it verifies it, less what was resident before; and the peak of the verbs \
         themselves. A log ten times as long may need {SHARE_MAX} times as much, or {} MB more, which is what a cache that \
         fills and an allocator make of the same work.",
        events / TIMES,
        MORE_MAX >> 20,
    );
    let mut section = Section::new("Memory of export and verification", how);
    let mb = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    for (small, large) in small.iter().zip(&large) {
        let share = large.more as f64 / small.more.max(1) as f64;
        let met = share <= SHARE_MAX || large.more <= small.more + MORE_MAX;
        let note = format!(
            "{} of the shorter log ({share:.2} ×); peaks {} and {}",
            mb(small.more),
            mb(small.peak),
            mb(large.peak)
        );
        section.judge(small.what, mb(large.more), note, "flat", met);
    }
    Ok(section)
}

/// What every job needs of a log of so many events.
async fn of(events: u64, directory: &Path) -> Outcome<Vec<Needed>> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("farside.toml"), CONFIG)?;
    let server = ManagedServer::start(ManagedOptions::new(directory.join("nats"))).await?;
    let bus = Bus::connect(server.service_options("bench")).await?;
    let stream = crate::site_stream(&bus, subject::LOCAL).await?;
    Load::new(subject::LOCAL, KEYS).store(&bus, &stream, events).await?;
    let serve = Serve::start(&server, subject::LOCAL, directory).await?;
    signed(&bus, &stream, events).await?;
    let key = key_of(directory).await?;
    serve.stop().await?;
    let evidence = directory.join("evidence.jsonl");
    let out = evidence.to_string_lossy();
    let (export, by_verb) = job(&server, directory, &["audit", "export", "--out", &out]).await?;
    let (verify, _) = job(&server, directory, &["audit", "verify"]).await?;
    let offline = ["audit", "verify", "--offline", &out, "--key", &key];
    let (_, offline) = job(&server, directory, &offline).await?;
    server.stop().await;
    std::fs::remove_dir_all(directory)?;
    Ok(vec![
        Needed { what: "export, in farside serve", ..export },
        Needed { what: "export, the verb", ..by_verb },
        Needed { what: "verify, in farside serve", ..verify },
        Needed { what: "verify --offline, the verb", ..offline },
    ])
}

/// Waits until a checkpoint signs the last event.
async fn signed(bus: &Bus, stream: &str, events: u64) -> Outcome<()> {
    let target: Name = subject::LOCAL.parse()?;
    let (log, fact) =
        (subject::target_stream(&target), subject::fact(&target, Stem::Log, subject::LOCAL, "checkpoint"));
    let (start, mut again) = (Instant::now(), tokio::time::interval(Duration::from_millis(500)));
    while start.elapsed() < DEADLINE {
        again.tick().await;
        let Some(last) = bus.last_message(&log, &fact).await? else { continue };
        if let LogFact::Checkpoint(last) = LogFact::decode("checkpoint", last.body())?
            && last.logs.iter().any(|mark| mark.stream == stream && mark.seq == events)
        {
            return Ok(());
        }
    }
    Err("no checkpoint signs the end of the log".into())
}

/// Runs a verb to its end beside a service that was just started: what the service needed meanwhile, and what the verb needed itself.
async fn job(server: &ManagedServer, directory: &Path, verb: &[&str]) -> Outcome<(Needed, Needed)> {
    // What a job before left in the allocator would hide what this one needs.
    let serve = Serve::start(server, subject::LOCAL, directory).await?;
    let farside = serve.process()?;
    let before = process::memory(&farside, "VmRSS")?;
    process::forget_peak(&farside)?;
    let mut child = Command::new(binary()?)
        .args(verb)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let own = PathBuf::from(format!("/proc/{}", child.id().ok_or("the verb has ended")?));
    let (mut look, mut peak) = (tokio::time::interval(LOOK_EVERY), 0);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = look.tick() => peak = process::memory(&own, "VmHWM").unwrap_or(peak),
        }
    };
    if !status.success() {
        return Err(format!("farside {}: {status}", verb.join(" ")).into());
    }
    let of_service = process::memory(&farside, "VmHWM")?;
    serve.stop().await?;
    let needed = |more, peak| Needed { what: "", more, peak };
    Ok((needed(of_service.saturating_sub(before), of_service), needed(peak, peak)))
}

/// The public key that signs.
async fn key_of(directory: &Path) -> Outcome<String> {
    let mut command = Command::new(binary()?);
    let command = command.args(["audit", "verify", "--to", "1", "-o", "json"]).current_dir(directory);
    let output = command.stdin(Stdio::null()).output().await?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(report["key"].as_str().ok_or("the verification names no key")?.to_owned())
}
