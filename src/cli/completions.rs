//! `farside completions`: for the shell, made of the same definitions as the help.

use clap::Args;
use clap_complete::Shell;

use super::{CliError, Ended, say};

/// Write completions for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside completions bash > ~/.local/share/bash-completion/completions/farside"
)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<Ended, CliError> {
        let mut text = vec![];
        clap_complete::generate(self.shell, &mut super::command(), "farside", &mut text);
        say(&String::from_utf8_lossy(&text))?;
        Ok(Ended::Done)
    }
}
