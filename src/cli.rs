//! The verbs: what can be typed, and which file does it. Each verb asks the running farside over
//! [`client`]; only `up`, `serve`, `agent` and `doctor` open anything themselves.

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use bus_schema::{Name, PoolId, id::IdError};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};

use crate::{
    app::AppError,
    config::{Config, ConfigError},
};

mod agent;
mod audit;
mod backup;
mod client;
mod completions;
mod confirm;
mod dlq;
mod doctor;
mod key;
mod man;
mod pair;
mod pool;
mod progress;
mod publish;
mod reader;
mod rebuild;
mod render;
mod restore;
mod serve;
mod status;
mod sync;
mod tenant;
mod up;

pub(crate) use client::{Client, ClientError};

/// The far side of a disaster-recovery pair, kept true over one replayable event log on NATS JetStream.
#[derive(Debug, Parser)]
#[command(
    name = "farside",
    version,
    after_help = "Exit codes: 0 done, 1 failed (a wrong configuration too), 2 wrong usage, 3 not in sync or not confirmed.\n\
                  A closed standard output changes none of them.\n\
                  Example: farside up, then in another terminal: farside status"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: farside.toml, if it is there]
    #[arg(short, long, global = true, env = "FARSIDE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of pool, keys, socket and managed NATS [default: data]
    #[arg(long, global = true, env = "FARSIDE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Ask a farside over TCP instead of the local socket; the credential is taken from FARSIDE_TOKEN
    #[arg(long, global = true, env = "FARSIDE_URL", value_name = "URL")]
    url: Option<String>,
    /// The level-2 tenant to speak for, with the access key of its level-1 tenant in FARSIDE_TOKEN
    #[arg(long = "as-tenant", global = true, env = "FARSIDE_TENANT", value_name = "L1/L2")]
    as_tenant: Option<String>,
    /// How answers are written
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// What is logged to stderr, like info or bus=debug,warn [default: info for services, warn else]
    #[arg(long, global = true, env = "FARSIDE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Log as JSON lines
    #[arg(long, global = true, env = "FARSIDE_LOG_JSON", value_parser = BoolishValueParser::new())]
    log_json: bool,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
    /// For both.
    Yaml,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Up(up::Up),
    Serve(serve::Serve),
    #[command(subcommand)]
    Agent(agent::Agent),
    Status(status::Status),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Pool(pool::Pool),
    Sync(sync::Sync),
    Confirm(confirm::Confirm),
    Publish(publish::Publish),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    #[command(subcommand)]
    Key(key::Key),
    #[command(subcommand)]
    Reader(reader::Reader),
    Rebuild(rebuild::Rebuild),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
}

impl Verb {
    /// Whether it asks a running farside, and fails without one.
    fn asks(&self) -> bool {
        match self {
            Self::Up(_)
            | Self::Serve(_)
            | Self::Doctor(_)
            | Self::Restore(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
            Self::Agent(agent) => !agent.runs(),
            Self::Audit(verb) => verb.asks(),
            _ => true,
        }
    }
}

/// How a verb ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// 0
    Done,
    /// 1: it did what was asked, and what it found is not well.
    NotWell,
    /// 3: not in sync, or not confirmed.
    NotTrue,
    /// The code of a command that ran under guard, or the guard's own.
    Code(u8),
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Done => Self::SUCCESS,
            Ended::NotWell => Self::FAILURE,
            Ended::NotTrue => Self::from(3),
            Ended::Code(code) => Self::from(code),
        }
    }
}

/// Why a verb failed: each text says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The exit code: a wrong usage is 2, everything else 1.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Id(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Nobody reads any more (`farside pool export … | head`): for what only reads, that is no failure.
    pub(crate) fn is_unread(&self) -> bool {
        match self {
            Self::Output(e) | Self::Client(ClientError::Output(e)) => e.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

/// The exit code for arguments that were not understood, or for help that was asked for.
pub(crate) fn usage_code(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // A guard's own failure must not look like its COMMAND's.
    let understood = command().ignore_errors(true).try_get_matches_from(arguments);
    let guards = understood.is_ok_and(|matches| matches.subcommand_name() == Some("confirm"));
    ExitCode::from(if guards { confirm::OWN_FAILURE } else { 2 })
}

/// What a verb works with.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) output: Output,
    is_local: bool,
}

impl Context {
    /// Whether it asks over the local socket: the farside that answers has this data directory.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    /// `asks`: whether the verb asks a running farside for something.
    fn new(global: Global, asks: bool) -> Result<Self, CliError> {
        let mut config = Config::read(global.config.as_deref())?;
        if let Some(data_dir) = global.data_dir {
            config.data_dir = data_dir;
        }
        let credential = std::env::var("FARSIDE_TOKEN").ok().filter(|credential| !credential.is_empty());
        let is_local = global.url.is_none();
        let client = match global.url {
            Some(url) => Client::tcp(&url, credential, global.as_tenant)?,
            // Over the socket everybody is the operator: who names somebody else must not become that.
            None if asks && credential.is_some() => return Err(only_over_tcp("FARSIDE_TOKEN")),
            None if asks && global.as_tenant.is_some() => return Err(only_over_tcp("--as-tenant")),
            None => Client::socket(&config.socket()),
        };
        Ok(Self { config, client, output: global.output, is_local })
    }

    /// The pool of `cluster` or `site/cluster`; the site may be left out when there is only one.
    pub(crate) fn pool(&self, text: &str) -> Result<PoolId, CliError> {
        if text.contains('/') {
            return Ok(text.parse()?);
        }
        let cluster: Name = text.parse()?;
        match self.config.service.sites.as_slice() {
            [site] => Ok(PoolId { site: site.clone(), cluster }),
            sites => {
                let sites: Vec<_> = sites.iter().map(Name::as_str).collect();
                Err(CliError::Usage(format!(
                    "{text} could be of several sites ({}); write site/{text}",
                    sites.join(", ")
                )))
            }
        }
    }

    /// Shows an answer, as [`Context::written`]. When nobody reads any more (`farside pool get … | head`), the
    /// verb goes on and keeps its exit code: what it does is done all the same.
    pub(crate) fn show<T: serde::Serialize>(
        &self,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        match say(&self.written(answer, table)?) {
            Err(error) if error.is_unread() => Ok(()),
            said => said,
        }
    }

    /// An answer as JSON or YAML, or as the table that `table` makes.
    pub(crate) fn written<T: serde::Serialize>(
        &self,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<String, CliError> {
        Ok(match self.output {
            Output::Table => render::harmless(&table(answer)),
            Output::Json => serde_json::to_string_pretty(answer).map_err(unwritable)? + "\n",
            Output::Yaml => {
                // A state is raw JSON text, which only serde_json can write.
                let value = serde_json::to_value(answer).map_err(unwritable)?;
                serde_saphyr::to_string(&value).map_err(unwritable)?
            }
        })
    }
}

/// Signals cannot be taken.
fn unlistened(error: io::Error) -> CliError {
    CliError::Failed(format!("cannot listen to signals: {error}; look at the limits of this machine"))
}

fn unwritable(error: impl fmt::Display) -> CliError {
    CliError::Failed(format!("the answer cannot be written: {error}; try another -o"))
}

fn only_over_tcp(what: &str) -> CliError {
    CliError::Usage(format!(
        "{what} means nothing over the local socket, where whoever may open it is the operator; add --url http://host:port, or leave it out"
    ))
}

/// Writes to standard output, as it stands.
pub(crate) fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a line for the person beside standard output.
pub(crate) fn tell(line: &str) {
    beside(&render::harmless(line));
}

/// Writes what a verb answers beside standard output, as it stands.
fn beside(text: &str) {
    // A closed stderr leaves the exit code as the message.
    let _ = writeln!(io::stderr(), "{text}");
}

impl Cli {
    /// What is logged when nobody says: services talk, verbs are silent.
    pub(crate) fn log_filter(&self) -> String {
        let talks = match &self.verb {
            Verb::Up(_) | Verb::Serve(_) => true,
            Verb::Agent(agent) => agent.runs(),
            _ => false,
        };
        let filter = self.global.log.as_deref().unwrap_or(if talks { "info" } else { "warn" });
        let loud = filter.split(',').any(|part| ["info", "debug", "trace"].contains(&part.trim()));
        // The client library tells each connect twice; the bus tells it once.
        if loud && !filter.contains("async_nats") {
            return format!("{filter},async_nats=warn");
        }
        filter.to_owned()
    }

    /// Whether the log is JSON lines.
    pub(crate) fn logs_json(&self) -> bool {
        self.global.log_json
    }

    /// Does what was typed.
    pub(crate) async fn run(self) -> Result<Ended, CliError> {
        let context = match Context::new(self.global, self.verb.asks()) {
            Err(error) if matches!(self.verb, Verb::Confirm(_)) => return Ok(confirm::own_failure(&error)),
            other => other?,
        };
        match self.verb {
            Verb::Up(verb) => verb.run(context).await,
            Verb::Serve(verb) => verb.run(context).await,
            Verb::Agent(verb) => verb.run(context).await,
            Verb::Status(verb) => verb.run(&context).await,
            Verb::Doctor(verb) => verb.run(context).await,
            Verb::Pool(verb) => verb.run(&context).await,
            Verb::Sync(verb) => verb.run(&context).await,
            Verb::Confirm(verb) => Ok(verb.run(&context).await),
            Verb::Publish(verb) => verb.run(&context).await,
            Verb::Audit(verb) => verb.run(&context).await,
            Verb::Dlq(verb) => verb.run(&context).await,
            Verb::Tenant(verb) => verb.run(&context).await,
            Verb::Key(verb) => verb.run(&context).await,
            Verb::Reader(verb) => verb.run(&context).await,
            Verb::Rebuild(verb) => verb.run(&context).await,
            Verb::Backup(verb) => verb.run(&context).await,
            Verb::Restore(verb) => verb.run(context).await,
            Verb::Completions(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
        }
    }
}

/// The definitions, for completions and manual pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn an_answer_in_yaml_does_not_steer_the_terminal() {
        let yaml =
            serde_saphyr::to_string(&serde_json::json!({ "a": "\u{1b}[2J\u{9b}31m\u{7}\rb" })).unwrap();
        assert!(yaml.chars().all(|char| char == '\n' || !char.is_control()), "{yaml:?}");
    }

    #[test]
    fn every_verb_has_an_example() {
        for verb in command().get_subcommands() {
            let mut of = verb.clone();
            let help = of.render_long_help().to_string();
            let nested = verb.get_subcommands().any(|verb| verb.get_after_help().is_some());
            assert!(help.contains("Example") || nested || verb.is_hide_set(), "{}", verb.get_name());
        }
    }
}
