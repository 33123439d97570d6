//! `farside pool history`: what happened to one resource, change by change.

use bus_schema::ResourceKey;
use clap::Args;
use console::view::{HistoryEntry, HistoryView};

use super::super::{
    CliError, Context, Ended, Output,
    client::{key_path, pool_path, query},
    render::harmless,
    render::one_line,
    say,
};

/// Show what happened to one resource, from the log: when, by whom, and what differs from before
///
/// Deletions are told too: those that an event states, and those of a full answer that did not have the resource any more.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside pool history dc1 Deployment/prod/web\n         farside pool history dc1 Deployment/prod/web --limit 20\n         farside pool history dc1 Pod/web -o json"
)]
pub(crate) struct History {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// The resource, kind/id
    #[arg(value_name = "KIND/ID")]
    key: ResourceKey,
    /// At most so many events, then where to go on [default: all]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Go on behind this sequence
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
}

impl History {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let pool = context.pool(&self.cluster)?;
        let path = pool_path(&pool, &key_path("history", &self.key));
        let limit = self.limit.map(|limit| limit.to_string());
        let (mut after, mut items) = (self.after, Vec::new());
        loop {
            let asked = query(&[("after", after.map(|seq| seq.to_string())), ("limit", limit.clone())]);
            let mut page: HistoryView = context.client.get(&(path.clone() + &asked)).await?;
            let is_last = self.limit.is_some() || page.next.is_none();
            if context.output == Output::Table {
                // As it comes: a long history is no reason to wait, nor to hold it.
                if let Some(not_before) = page.not_before.filter(|_| after.is_none()) {
                    say(&format!(
                        "not before {not_before}: the log was trimmed, and the first entry stands beside nothing\n"
                    ))?;
                }
                say(&harmless(&text(&page)))?;
                if is_last {
                    return Ok(Ended::Done);
                }
            } else {
                items.append(&mut page.items);
                if is_last {
                    context.show(&HistoryView { items, ..page }, |_| String::new())?;
                    return Ok(Ended::Done);
                }
            }
            after = page.next;
        }
    }
}

fn text(page: &HistoryView) -> String {
    let mut text: String = page.items.iter().map(told).collect();
    if let Some(next) = page.next {
        text += &format!("there is more: --after {next}\n");
    }
    text
}

/// A change: when, what, by whom, where; then what differs.
fn told(entry: &HistoryEntry) -> String {
    let HistoryEntry { place, stored_at, event_type, source, chain, sync, tenant, redrive_of, .. } = entry;
    let what = if entry.absent { "absent from a full answer: deleted" } else { event_type };
    let by = if source.is_empty() { "somebody who cannot be read" } else { source };
    let mut head = format!("{stored_at}  {place}  {what}  by {by}");
    let more = [
        tenant.as_ref().map(|tenant| format!("tenant {tenant}")),
        sync.as_ref().map(|sync| format!("sync {sync}")),
        chain.as_ref().map(|chain| format!("chain {chain}")),
        redrive_of.as_ref().map(|of| format!("redriven from {of}")),
    ];
    more.into_iter().flatten().for_each(|word| head += &format!("  {word}"));
    let mut lines = entry.effect.lines().peekable();
    let none = lines.peek().is_none().then(|| "  = nothing differs\n".to_owned());
    let lines: String = lines.map(|line| format!("  {}\n", one_line(&line))).collect();
    format!("{}\n{lines}{}", one_line(&head), none.unwrap_or_default())
}
