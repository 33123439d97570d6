//! The one binary: arguments, log, signals, exit codes. Every verb is in [`cli`], all wiring in [`app`].
//!
//! Must not know: any rule of the five systems.

mod app;
mod backup;
mod cli;
mod config;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    process::ExitCode,
};

use bus::managed::exec;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    if arguments.get(1).is_some_and(|verb| verb == exec::VERB) {
        // Becomes nats-server; it must happen before there is any thread.
        let error = exec::run(arguments.get(2..).unwrap_or_default());
        return fail(&format!("cannot become nats-server: {error}"), ExitCode::FAILURE);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return cli::usage_code(&error, &arguments);
        }
    };
    if let Err(error) = start_log(&cli) {
        return fail(&error, ExitCode::from(2));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), ExitCode::FAILURE),
    };
    match runtime.block_on(cli.run()) {
        Ok(ended) => ended.into(),
        Err(error) if error.is_unread() => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), error.code()),
    }
}

fn fail(text: &str, code: ExitCode) -> ExitCode {
    cli::tell(&format!("farside: {text}"));
    code
}

fn start_log(cli: &Cli) -> Result<(), String> {
    let filter = cli.log_filter();
    let filter = EnvFilter::try_new(&filter)
        .map_err(|e| format!("the log filter {filter:?} is wrong: {e}; write info, or bus=debug,warn"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    if cli.logs_json() {
        log.json().init();
    } else {
        log.with_target(false).init();
    }
    Ok(())
}
