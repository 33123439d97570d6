//! `farside audit export`: a part of a log as a file that shows by itself what was signed of it.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::Value;

use super::super::{CliError, Context, Ended, client::query, tell};

/// Write a part of a log as evidence, which docs/verify.py checks without farside
///
/// It begins behind a checkpoint's mark, or with the log: an earlier --from is taken down to the nearest one, so that
/// the running hash can be checked from there. Without --to it ends with the last message that a checkpoint signs.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit export --out evidence.jsonl\n         farside audit export --from 2026-11-22T00:00:00Z --to 2026-11-23T00:00:00Z --out day.jsonl"
)]
pub(crate) struct Export {
    /// Where it begins: a sequence, stream:sequence, or a time [default: with the log]
    #[arg(long, value_name = "SEQ|TIME")]
    from: Option<String>,
    /// Where it ends [default: with what is signed]
    #[arg(long, value_name = "SEQ|TIME")]
    to: Option<String>,
    /// The log [default: the only site's]
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// The file; it is there whole or not at all
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Export {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { from, to, stream, out } = self;
        let path =
            format!("/v1/audit/export{}", query(&[("from", from.clone()), ("to", to), ("stream", stream)]));
        let draft = draft_of(&out);
        let unwritten =
            |error: io::Error| CliError::Failed(format!("cannot write {}: {error}", out.display()));
        let mut file = BufWriter::new(File::create(&draft).map_err(unwritten)?);
        let copied = context.client.copy(&path, &mut file).await;
        let kept = copied.map_err(CliError::from).and_then(|()| {
            let file = file.into_inner().map_err(|error| unwritten(error.into_error()))?;
            file.sync_all().and_then(|()| fs::rename(&draft, &out)).map_err(unwritten)
        });
        if kept.is_err() {
            // What is half written proves nothing.
            let _ = fs::remove_file(&draft);
        }
        kept?;
        say_what(&out, from.as_deref()).map_err(unwritten)?;
        Ok(Ended::Done)
    }
}

/// Where a file is written until it is whole.
pub(super) fn draft_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Says what the file shows, by its own first line.
fn say_what(out: &Path, asked: Option<&str>) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(File::open(out)?).read_line(&mut line)?;
    let header: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
    let header = &header["header"];
    let text = |field: &str| header[field].as_str().unwrap_or_default().to_owned();
    let (stream, from, to, checkpoint) = (text("stream"), text("from"), text("to"), text("checkpoint"));
    let begins = match checkpoint.as_str() {
        "0" => "where the log begins".to_owned(),
        number => format!("behind the mark of checkpoint {number}"),
    };
    tell(&format!("{}: {stream}:{from}-{to}", out.display()));
    if asked.is_some_and(|asked| asked.rsplit(':').next() != Some(&from)) {
        tell(&format!(
            "it begins with {stream}:{from}, {begins}, so that the running hash can be checked from there"
        ));
    }
    io::stderr().flush()
}
