//! `farside man`: manual pages, made of the same definitions as the help.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Ended};

/// Write manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example: farside man target/man")]
pub(crate) struct Man {
    /// The directory; made if need be
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<Ended, CliError> {
        let failed =
            |e| CliError::Failed(format!("cannot write manual pages to {}: {e}", self.directory.display()));
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        clap_mangen::generate_to(super::command(), &self.directory).map_err(failed)?;
        Ok(Ended::Done)
    }
}
