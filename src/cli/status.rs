//! `farside status`: what is in sync, what is behind, why.

use clap::Args;
use console::view::{Acting, InSync, LogView, PoolView, StatusView};

use super::{
    CliError, Context, Ended,
    render::{Table, count, one_line, relative, span},
};
use crate::config::Size;

/// Show what is in sync, what is behind, and why; exit code 3 if a pool is not in sync
#[derive(Debug, Args)]
#[command(after_help = "Example: farside status\n         farside status -o json | jq '.pools[].in_sync'")]
pub(crate) struct Status {
    /// Only this cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: Option<String>,
}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let mut status: StatusView = context.client.get("/v1/status").await?;
        if let Some(cluster) = &self.cluster {
            let pool = context.pool(cluster)?;
            status.pools.retain(|view| view.pool == pool);
            if status.pools.is_empty() {
                return Err(CliError::Failed(format!(
                    "there is no pool {pool}; 'farside pool list' shows all"
                )));
            }
        }
        context.show(&status, table)?;
        let wrong = status.pools.iter().any(|pool| pool.in_sync == InSync::No);
        Ok(if wrong { Ended::NotTrue } else { Ended::Done })
    }
}

fn table(status: &StatusView) -> String {
    let mut text = head(status);
    text += &logs(status);
    text.push('\n');
    if status.pools.is_empty() {
        text += "no pool yet: start an agent, or publish an event ('farside publish --help')\n";
    } else {
        text += &pools(status);
    }
    for alarm in &status.alarms {
        text += &format!("\nALARM  {}", one_line(&alarm.text));
    }
    if !status.alarms.is_empty() {
        text.push('\n');
    }
    text
}

fn head(status: &StatusView) -> String {
    let nats = match status.nats.down_since {
        None => format!("nats-server {}", status.nats.server_version),
        Some(since) => format!("NATS DOWN since {since}"),
    };
    let lease = match status.lease.acting {
        Acting::Here => "acts (holds the lease)",
        Acting::Elsewhere => "stands by (another process acts)",
        Acting::NotHere => "does not act, and nobody is known to",
        Acting::Unknown => "does not act: NATS is down",
    };
    let (file, live) = (Size(status.file_bytes), Size(status.live_bytes));
    format!(
        "farside {} target {} {lease}, {nats}, pool file {file} ({live} live), dead letters {}\n",
        status.version, status.target, status.dead_letters
    )
}

fn logs(status: &StatusView) -> String {
    let line = |log: &LogView| {
        let place = format!("{}:{}", log.stream, log.applied);
        let line = match (log.behind_events(), log.behind_ms) {
            (Some(0), _) => format!("log {place} up to date, {} % full", log.full_percent.unwrap_or(0)),
            (Some(events), Some(ms)) => {
                format!("log {place} {} behind, the oldest waits {}", count(events, "event"), span(ms))
            }
            _ => format!("log {place} cannot be asked"),
        };
        let begins = log.first.zip(log.not_before);
        let begins =
            begins.map(|(first, time)| format!(", trimmed: not before {time} (begins with {first})"));
        let waits = log.trimming.as_ref().map(|why| format!("\n  trimming: {}", one_line(why)));
        format!("{line}{}{}\n", begins.unwrap_or_default(), waits.unwrap_or_default())
    };
    status.logs.iter().map(line).collect()
}

fn pools(status: &StatusView) -> String {
    let mut table = Table::new(&[
        "POOL",
        "IN SYNC",
        "BEHIND",
        "ROWS",
        "OUTSTANDING",
        "CHANGES",
        "AGENTS",
        "OUTBOX",
        "LAST SYNC",
        "NEXT SYNC",
    ]);
    for pool in &status.pools {
        let next = if pool.paused { "paused".to_owned() } else { relative(pool.next_sync_at, status.now) };
        table.row([
            pool.pool.to_string(),
            pool.in_sync.to_string(),
            if pool.behind_ms == 0 { "-".to_owned() } else { span(pool.behind_ms) },
            pool.resources.to_string(),
            pool.since_sync.outstanding.to_string(),
            pool.since_sync.changes.to_string(),
            agents(pool),
            pool.owners.iter().map(|owner| owner.outbox_events).sum::<u64>().to_string(),
            relative(pool.last_sync_at, status.now),
            next,
        ]);
    }
    let mut text = table.text();
    for pool in &status.pools {
        for why in &pool.why {
            text += &format!("  {}: {}\n", pool.pool, one_line(why));
        }
    }
    text
}

fn agents(pool: &PoolView) -> String {
    let agents: Vec<_> = pool.owners.iter().filter_map(|owner| owner.alive).collect();
    let alive = agents.iter().filter(|alive| **alive).count();
    format!("{alive}/{} alive", agents.len())
}
