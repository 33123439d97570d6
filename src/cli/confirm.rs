//! `farside confirm`: a task runs only when what it needs is true (R4).
//!
//! Exit codes: 0 all confirmed (and COMMAND ended with 0), 3 not confirmed, 125 farside's own failure,
//! 126 COMMAND cannot be run, 127 COMMAND is not there, 128+n COMMAND died of signal n, else COMMAND's.

use std::{ffi::OsString, fmt, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use bus_schema::{PoolId, ResourceKey, command::target::Confirmation};
use clap::Args;
use console::request;

use super::{
    CliError, Context, Ended, beside,
    render::{Table, one_line},
    tell, unlistened,
};

mod command;

/// The exit code for a failure of farside itself, so that nobody takes it for COMMAND's.
pub(crate) const OWN_FAILURE: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_THERE: u8 = 127;
const SIGNALLED: i32 = 128;

/// Compare resources with their source before a task, mend the pool, and only then run COMMAND
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 confirmed, 3 not confirmed (COMMAND did not run), 125 farside itself failed, else COMMAND's.\n\
                  Example: farside confirm dc1 Deployment/prod/web Secret/prod/web -- ./failover.sh web"
)]
pub(crate) struct Confirm {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// The resources that the task needs
    #[arg(value_name = "KIND/ID", required = true)]
    keys: Vec<ResourceKey>,
    /// Go on when the source does not answer; this is recorded
    #[arg(long)]
    allow_unreachable: bool,
    /// How long to wait for the source, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = request::CONFIRM_WAIT_MS_DEFAULT / 1_000)]
    wait: u64,
    /// What the task is, for the record; COMMAND's first word when absent
    #[arg(long, value_name = "WORDS")]
    task: Option<String>,
    /// Run only when all resources are true
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Says why farside itself failed, with the exit code for it.
pub(crate) fn own_failure(error: &impl fmt::Display) -> Ended {
    tracing::debug!("confirm failed by itself");
    tell(&format!("farside: {error}"));
    Ended::Code(OWN_FAILURE)
}

impl Confirm {
    pub(crate) async fn run(self, context: &Context) -> Ended {
        match self.guard(context).await {
            Ok(ended) => ended,
            Err(error) => own_failure(&error),
        }
    }

    async fn guard(self, context: &Context) -> Result<Ended, CliError> {
        let pool = context.pool(&self.cluster)?;
        let wait_ms_max = self.wait.saturating_mul(1_000);
        // Arguments may hold secrets; the program's name does not.
        let program = self.command.first().map(|program| program.to_string_lossy().into_owned());
        let wanted = request::Confirm {
            pool: pool.clone(),
            keys: self.keys,
            task: self.task.or(program),
            allow_unreachable: self.allow_unreachable,
            wait_ms_max,
        };
        let confirmation: Confirmation = context.client.post("/v1/confirm", &wanted).await?;
        let [program, arguments @ ..] = self.command.as_slice() else {
            context.show(&confirmation, table)?;
            return Ok(if confirmation.go { Ended::Done } else { Ended::NotTrue });
        };
        // Standard output belongs to COMMAND.
        beside(context.written(&confirmation, table)?.trim_end());
        if !confirmation.go {
            tell("farside: not confirmed, so the command was not run");
            return Ok(Ended::NotTrue);
        }
        let mut signals = command::Signals::listen().map_err(unlistened)?;
        let status = match command::run(program, arguments, &mut signals).await {
            Ok(status) => status,
            Err(error) => return Ok(not_run(program, &error)),
        };
        tokio::select! {
            () = recheck(context, pool, confirmation, wait_ms_max) => {}
            _ = signals.next() => tell("farside: warning: told to end, so nobody looked again after the command"),
        }
        Ok(Ended::Code(code(status)))
    }
}

/// Reads the resources again; what changed meanwhile is recorded, and told. COMMAND has run, so its code
/// stands whatever comes of this.
async fn recheck(context: &Context, pool: PoolId, confirmed: Confirmation, wait_ms_max: u64) {
    let wanted = request::Recheck { pool, confirm_id: confirmed.confirm_id, wait_ms_max };
    match context.client.post::<_, Confirmation>("/v1/recheck", &wanted).await {
        Ok(after) => {
            for resource in after.resources.iter().filter(|resource| resource.changed_during_run) {
                tell(&format!(
                    "farside: warning: {} changed at the source while the command ran",
                    resource.key
                ));
            }
        }
        Err(error) => tell(&format!("farside: warning: could not look again after the command: {error}")),
    }
}

fn not_run(program: &OsString, error: &io::Error) -> Ended {
    tell(&format!("farside: cannot run {}: {error}", program.to_string_lossy()));
    Ended::Code(if error.kind() == io::ErrorKind::NotFound { NOT_THERE } else { CANNOT_RUN })
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(OWN_FAILURE)
}

fn table(confirmation: &Confirmation) -> String {
    let mut table = Table::new(&["RESOURCE", "VERDICT", "BEFORE", "AFTER", "TRUE AS OF"]);
    let revision = |revision: &Option<bus_schema::Revision>| {
        revision.as_ref().map_or("-", |revision| revision.as_str()).to_owned()
    };
    for resource in &confirmation.resources {
        let verdict = serde_json::to_value(resource.verdict).ok();
        table.row([
            resource.key.to_string(),
            verdict.and_then(|verdict| verdict.as_str().map(str::to_owned)).unwrap_or_default(),
            revision(&resource.before),
            revision(&resource.after),
            resource.true_as_of.map_or("-".to_owned(), |at| format!("{}:{}", at.epoch, at.seq)),
        ]);
    }
    let go = if confirmation.go { "go" } else { "NO GO" };
    let reasons = confirmation.resources.iter().filter_map(|resource| {
        resource
            .reason
            .as_ref()
            .map(|reason| format!("{}: {}\n", one_line(resource.key.as_str()), one_line(reason)))
    });
    table.text()
        + &reasons.collect::<String>()
        + &format!("{go} (confirmation {})\n", confirmation.confirm_id)
}
