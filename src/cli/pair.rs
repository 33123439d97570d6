//! The pair of keys of whoever is enrolled: made here, so that the seed travels nowhere, or made elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bus::managed::{PublicKey, make_seed_file};
use clap::Args;

use super::{CliError, tell};

/// Where the pair of keys is made
#[derive(Debug, Args)]
pub(super) struct KeyFrom {
    /// The file for the seed, mode 0600 [default: among the keys of farside's own NATS, or NAME.nk with --url]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The public half of a pair that was made elsewhere; no file is written
    #[arg(long, value_name = "U…", conflicts_with = "out")]
    public_key: Option<String>,
}

/// A pair of keys.
pub(super) struct Pair {
    public_key: PublicKey,
    /// Where the seed was written; none = it is elsewhere.
    seed: Option<PathBuf>,
}

impl Pair {
    /// Takes the public key that was named, or makes a pair and writes its seed.
    pub(super) fn of(key: KeyFrom, default: PathBuf) -> Result<Self, CliError> {
        let KeyFrom { out, public_key } = key;
        if let Some(public_key) = public_key {
            let public_key = public_key.parse().map_err(|e| CliError::Usage(format!("{e}")))?;
            return Ok(Self { public_key, seed: None });
        }
        let seed = out.unwrap_or(default);
        if seed.exists() {
            return Err(CliError::Failed(format!(
                "there is a file {} already, which may be somebody's key; name another with --out, or remove it",
                seed.display()
            )));
        }
        let public_key = make_seed_file(&seed).map_err(|e| CliError::Failed(e.to_string()))?;
        Ok(Self { public_key, seed: Some(seed) })
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Keeps the seed if it opens something, else removes it.
    pub(super) fn kept_if<T, E>(&self, enrolled: Result<T, E>) -> Result<T, E> {
        if let (Err(_), Some(seed)) = (&enrolled, &self.seed)
            && let Err(error) = fs::remove_file(seed)
        {
            tell(&format!("farside: warning: remove {}, it opens nothing: {error}", seed.display()));
        }
        enrolled
    }

    /// What goes into a configuration.
    pub(super) fn settings(&self, servers: &str, tls: bool) -> String {
        let seed = self.seed.as_deref().map(absolute);
        let seed = seed.as_ref().map_or("…".into(), |seed| seed.to_string_lossy());
        let tls = if tls { "tls_required = true\n" } else { "" };
        let here = ["127.0.0.1", "[::1]"].iter().any(|host| servers.contains(host));
        let note =
            if here { "   # on this machine; see \"From another machine\" in docs/operating.md" } else { "" };
        format!("[nats]\nservers = {servers:?}{note}\nnkey_seed_file = {seed:?}\n{tls}")
    }

    /// Where the seed is, as the end of a sentence.
    pub(super) fn where_it_is(&self) -> String {
        self.seed.as_ref().map_or_else(String::new, |seed| format!("; the seed is in {}", seed.display()))
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
