//! `farside publish`: one event, or a file of them, from the command line.

use std::{
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use console::{request::PlainEvent, view::PublishedView};
use serde_json::value::RawValue;

use super::{CliError, Context, Ended, client::query};

/// Publish events: from flags, a file, or standard input
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside publish dc1 resource.changed --data '{\"kind\":\"Pod\",\"id\":\"web\",\"revision\":\"1\",\"state\":{}}'\n         farside publish --file events.jsonl\n         generate | farside publish --file -\n\
                  Each line of a file is a CloudEvent, or {\"subject\", \"data\"}, or {\"pool\", \"type\", \"data\"}."
)]
pub(crate) struct Publish {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER", requires = "event_type", required_unless_present = "file")]
    cluster: Option<String>,
    /// The event's type, like resource.changed
    #[arg(value_name = "TYPE", requires = "data")]
    event_type: Option<String>,
    /// The event's data: JSON text, or @FILE
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// An id of your own: sent again with the same id within two minutes, the event is stored once
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    id: Option<String>,
    /// JSON lines, one event each; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    file: Option<PathBuf>,
    /// Answer when the event is in the pool, not when it is in the log
    #[arg(long)]
    applied: bool,
}

impl Publish {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let path = format!("/v1/events{}", query(&[("applied", self.applied.then(|| "true".to_owned()))]));
        if let Some(file) = &self.file {
            return lines(context, &path, file).await;
        }
        let (Some(cluster), Some(data)) = (&self.cluster, &self.data) else {
            return Err(CliError::Usage("name CLUSTER, TYPE and --data, or --file".to_owned()));
        };
        let text = match data.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|e| CliError::Usage(format!("cannot read {file}: {e}")))?,
            None => data.clone(),
        };
        let data = RawValue::from_string(text.trim().to_owned())
            .map_err(|e| CliError::Usage(format!("the data is not JSON: {e}")))?;
        let pool = Some(context.pool(cluster)?);
        let event = PlainEvent { subject: None, pool, event_type: self.event_type, id: self.id, data };
        let published: PublishedView = context.client.post(&path, &event).await?;
        context.show(&published, line)?;
        Ok(Ended::Done)
    }
}

fn line(published: &PublishedView) -> String {
    let note = if published.duplicate { " (was there already)" } else { "" };
    format!("{}{note}\n", published.place)
}

/// Stops at the first line that is refused, and says which: what came before is published.
async fn lines(context: &Context, path: &str, file: &Path) -> Result<Ended, CliError> {
    let unreadable = |e: io::Error| CliError::Usage(format!("cannot read {}: {e}", file.display()));
    let input: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(std::fs::File::open(file).map_err(unreadable)?),
    };
    for (number, text) in io::BufReader::new(input).lines().enumerate() {
        let text = text.map_err(unreadable)?;
        if text.trim().is_empty() {
            continue;
        }
        match context.client.post_bytes::<PublishedView>(path, text.into_bytes()).await {
            Ok(published) => context.show(&published, line)?,
            Err(error) => {
                let place = format!("{}:{}", file.display(), number + 1);
                return Err(CliError::Failed(format!("{place}: {error}; the lines before it are published")));
            }
        }
    }
    Ok(Ended::Done)
}
