//! `farside audit replay`: the log once more, up to a moment, into a pool that is thrown away.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use clap::Args;
use console::view::trail::ReplayView;

use super::{
    super::{
        CliError, Context, Ended,
        client::query,
        progress::job_with_rows,
        render::{Table, count, span},
    },
    export::draft_of,
};

/// Replay a site's log up to a moment into a throw-away pool, and say what there was: rows, and their hashes as checkpoints sign them
///
/// With --out the pool of a cluster is written as RFC 8785 JSON lines, as 'farside pool export --at' does.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit replay --to 2026-11-22T04:31:48Z\n         farside audit replay --to FARSIDE_LOCAL:1200 --cluster dc1 --out then.jsonl"
)]
pub(crate) struct Replay {
    /// The moment: a time, stream:sequence, or a sequence of the only site's log
    #[arg(long, value_name = "TIME|STREAM:SEQ")]
    to: String,
    /// The log, when the moment is a time and there are several sites
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Write the pool to this file; it is there whole or not at all
    #[arg(long, value_name = "FILE", requires = "cluster")]
    out: Option<PathBuf>,
    /// The pool that is written: the cluster, or site/cluster
    #[arg(long, value_name = "CLUSTER", requires = "out")]
    cluster: Option<String>,
}

impl Replay {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { to, stream, out, cluster } = self;
        let pool = cluster.map(|cluster| context.pool(&cluster)).transpose()?;
        let export = pool.map(|pool| pool.to_string());
        let path =
            format!("/v1/audit/replay{}", query(&[("to", Some(to)), ("stream", stream), ("export", export)]));
        let failed = "nothing was replayed";
        let replayed: ReplayView = match out {
            None => job_with_rows(context, &path, "the replay", failed, |_| Ok(())).await?,
            Some(out) => written(context, &path, failed, &out).await?,
        };
        context.show(&replayed, text)?;
        Ok(Ended::Done)
    }
}

/// Replays, and writes the lines of the pool.
async fn written(
    context: &Context,
    path: &str,
    failed: &str,
    out: &std::path::Path,
) -> Result<ReplayView, CliError> {
    let unwritten = |error: io::Error| CliError::Failed(format!("cannot write {}: {error}", out.display()));
    let draft = draft_of(out);
    let mut file = BufWriter::new(File::create(&draft).map_err(unwritten)?);
    let line = |row: &str| file.write_all(row.as_bytes()).and_then(|()| file.write_all(b"\n"));
    let replayed = job_with_rows(context, path, "the replay", failed, line).await;
    let kept = replayed.and_then(|replayed: ReplayView| {
        let file = file.into_inner().map_err(|error| unwritten(error.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&draft, out)).map_err(unwritten)?;
        Ok(replayed)
    });
    if kept.is_err() {
        // What is half written is no pool.
        let _ = fs::remove_file(&draft);
    }
    kept
}

fn text(replayed: &ReplayView) -> String {
    let mut table = Table::new(&["POOL", "ROWS", "DELETED", "SOURCE", "ROWS", "SHA-256 OF ROWS", "CHAIN"]);
    for pool in &replayed.pools {
        for source in &pool.sources {
            table.row([
                pool.pool.to_string(),
                pool.resources.to_string(),
                pool.deleted.to_string(),
                source.source.clone(),
                source.rows.to_string(),
                source.rows_sha256.to_string(),
                source.chain.clone().unwrap_or_else(|| "unchained".to_owned()),
            ]);
        }
    }
    let pools = count(replayed.pools.len() as u64, "pool");
    let took = span(replayed.took_ms);
    let as_of = &replayed.as_of;
    table.text() + &format!("{pools} as of {} ({}), replayed in {took}\n", as_of.places.join(" "), as_of.time)
}
