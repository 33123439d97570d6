//! `farside audit verify`: the logs held against everything that is known of them, or evidence against itself.

use std::{fs::File, io::BufReader, path::PathBuf};

use audit::evidence::{Examined, Fault, Header, examine};
use clap::Args;
use console::ports::AuditReport;
use serde::Serialize;

use super::super::{CliError, Context, Ended, client::query, progress::job, render::count, render::one_line};

/// Check logs, chains, signatures and rows; exit code 1 names what is wrong, sequence by sequence
///
/// Online, the running farside reads its logs again: the chain of checkpoints and their signatures, the running hash
/// between each two of them, what it read of each message itself, every agent's chain, and whether the logs, projected
/// once more, give the rows that the last checkpoint signs. With --offline nothing but the file and the key is needed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit verify\n         farside audit verify --from 2026-11-22T00:00:00Z -o json\n         farside audit verify --offline evidence.jsonl --key UA..."
)]
pub(crate) struct Verify {
    /// Where it begins: a sequence, stream:sequence, or a time [default: with the log]
    #[arg(long, value_name = "SEQ|TIME")]
    from: Option<String>,
    /// Where it ends [default: with the log]
    #[arg(long, value_name = "SEQ|TIME")]
    to: Option<String>,
    /// One log only [default: every site's and the target's]
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Check this evidence instead, without asking a farside
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["from", "to", "stream"])]
    offline: Option<PathBuf>,
    /// The public key that is trusted, U...: the target's first one, or any that it named since
    #[arg(long, value_name = "KEY", requires = "offline")]
    key: Option<String>,
}

impl Verify {
    /// Whether nothing but a file is needed.
    pub(super) fn is_offline(&self) -> bool {
        self.offline.is_some()
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { from, to, stream, offline, key } = self;
        if let Some((file, key)) = offline.zip(key) {
            return offline_file(context, &file, &key);
        }
        let path = format!("/v1/audit/verify{}", query(&[("from", from), ("to", to), ("stream", stream)]));
        let failed = "nothing could be verified";
        let report: AuditReport = job(context, &path, "the verification", failed).await?;
        context.show(&report, text)?;
        Ok(if report.faults.is_empty() { Ended::Done } else { Ended::NotWell })
    }
}

fn text(report: &AuditReport) -> String {
    let AuditReport { logs, checkpoints, key, ranges, owners, rows_of_checkpoint, faults, notes, took_ms } =
        report;
    let mut text = String::new();
    for log in logs {
        let signed = match log.signed {
            0 => "nothing of it is signed".to_owned(),
            signed => format!("signed up to {signed}"),
        };
        text += &format!(
            "{}:{}-{}: {} read, {signed}\n",
            log.stream,
            log.from,
            log.to,
            count(log.messages, "message")
        );
    }
    let ranges = count(*ranges, "range");
    text += &format!("{} followed, {ranges} between them compared", count(*checkpoints, "checkpoint"));
    if let Some(number) = rows_of_checkpoint {
        let owners = count(*owners, "source");
        text += &format!(", the rows of {owners} held against checkpoint {number}");
    }
    text += &format!(" in {took_ms} ms\n");
    if let Some(key) = key {
        text += &format!("the key that signs now is {}\n", one_line(key));
    }
    for note in notes {
        text += &format!("note: {}\n", one_line(note));
    }
    for fault in faults {
        text += &format!("WRONG: {}\n", one_line(&fault.text));
    }
    text += &verdict(faults.len() as u64);
    text
}

fn verdict(faults: u64) -> String {
    match faults {
        0 => "all of it is what was signed\n".to_owned(),
        faults => format!("{} found\n", count(faults, "fault")),
    }
}

/// What a file is, for machines.
#[derive(Serialize)]
struct Offline {
    good: bool,
    header: Option<Header>,
    messages: u64,
    checkpoints: Vec<u64>,
    signed: u64,
    faults: Vec<LineFault>,
    more_faults: u64,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct LineFault {
    line: u64,
    text: String,
}

fn offline_file(context: &Context, path: &std::path::Path, key: &str) -> Result<Ended, CliError> {
    let unread = |error| CliError::Failed(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(unread)?;
    let examined = examine(BufReader::new(file), key).map_err(unread)?;
    let Examined { header, messages, checkpoints, signed_seq: signed, faults, more: more_faults, notes } =
        examined;
    let faults: Vec<_> = faults.into_iter().map(|Fault { line, text }| LineFault { line, text }).collect();
    let good = faults.is_empty();
    let found = Offline { good, header, messages, checkpoints, signed, faults, more_faults, notes };
    context.show(&found, offline_text)?;
    Ok(if good { Ended::Done } else { Ended::NotWell })
}

fn offline_text(found: &Offline) -> String {
    let mut text = String::new();
    if let Some(header) = &found.header {
        text += &format!(
            "{}:{}-{} of the target {}: {}, {}\n",
            header.stream,
            header.from,
            header.to,
            header.target,
            count(found.messages, "message"),
            count(found.checkpoints.len() as u64, "checkpoint")
        );
    }
    for note in &found.notes {
        text += &format!("note: {note}\n");
    }
    for fault in &found.faults {
        text += &format!("WRONG: line {}: {}\n", fault.line, fault.text);
    }
    text + &verdict(found.faults.len() as u64 + found.more_faults)
}
