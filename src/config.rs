//! The configuration: one TOML file, `FARSIDE_*` variables over it, flags over those. Read once, at the
//! start; a key that nobody knows is an error that names its line.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use bus::{ConnectOptions, Credentials, managed::ManagedTls};
use bus_schema::{Hash32, Name};
use clap::Args;
use consumers::ServiceConfig;
use producers::config::AgentConfig;
use serde::Deserialize;

/// The file that is read when nobody names one and it is there.
pub(crate) const FILE_DEFAULT: &str = "farside.toml";
/// Where the console listens when nobody says.
const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8_470);

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where the pool, keys, socket and the managed NATS live; relative to the working directory.
    pub(crate) data_dir: PathBuf,
    /// The NATS that is used, or run.
    pub(crate) nats: NatsConfig,
    /// The HTTP API.
    pub(crate) console: ConsoleConfig,
    /// The pool's file.
    pub(crate) store: StoreConfig,
    /// The target service: sites, schedules, thresholds.
    pub(crate) service: ServiceConfig,
    /// The agents that run with `farside up`, or with `farside agent`.
    pub(crate) agent: AgentsConfig,
    /// The hash of the file that it was read from.
    #[serde(skip)]
    pub(crate) sha256: Option<Hash32>,
}

/// The NATS that is used, or run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NatsConfig {
    /// An existing NATS, `nats://host:port[,…]`; `farside up` runs its own instead.
    pub(crate) servers: Option<String>,
    /// A file with one nkey seed.
    pub(crate) nkey_seed_file: Option<PathBuf>,
    /// A `.creds` file.
    pub(crate) creds_file: Option<PathBuf>,
    /// A user name …
    pub(crate) user: Option<String>,
    /// … and the file with its password.
    pub(crate) password_file: Option<PathBuf>,
    /// Refuse a connection without TLS.
    pub(crate) tls_required: bool,
    /// PEM file of the authority that signed the server's certificate.
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// The server's monitor, `http://host:port`: tells `farside doctor` what a client cannot see.
    pub(crate) monitor_url: Option<String>,
    /// The nats-server binary of `farside up`.
    pub(crate) binary: Option<PathBuf>,
    /// The port of the managed server; a free one when absent.
    pub(crate) port: Option<u16>,
    /// The address that the managed server listens on; loopback when absent.
    pub(crate) host: Option<IpAddr>,
    /// PEM file with the certificate of the managed server, needed off loopback …
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// … and with its key.
    pub(crate) tls_key_file: Option<PathBuf>,
}

/// The HTTP API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConsoleConfig {
    /// Where it listens; the local socket is always there.
    pub(crate) listen: SocketAddr,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self { listen: LISTEN_DEFAULT }
    }
}

/// The pool's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreConfig {
    /// Memory for its pages.
    pub(crate) cache: Size,
    /// Make the file smaller at the start when more than half of it is dead.
    pub(crate) compact: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { cache: Size(96 << 20), compact: true }
    }
}

/// The agents, by stem.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentsConfig {
    /// Inventory of source clusters: `[[agent.resource]]`.
    pub(crate) resource: Vec<AgentConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            nats: NatsConfig::default(),
            console: ConsoleConfig::default(),
            store: StoreConfig::default(),
            service: ServiceConfig::default(),
            agent: AgentsConfig::default(),
            sha256: None,
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; name another with -c or FARSIDE_CONFIG")]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is not what it should be; the source names line and column.
    #[error("the configuration {path} is wrong: {source}")]
    Wrong { path: PathBuf, source: Box<toml::de::Error> },
    /// A value fits its type but not its use.
    #[error("the configuration is wrong: {0}")]
    Unfit(String),
}

impl Config {
    /// Reads the named file; without a name, [`FILE_DEFAULT`] if it is there, else what is built in.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(FILE_DEFAULT));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        };
        let wrong = |source| ConfigError::Wrong { path: path.to_owned(), source: Box::new(source) };
        let mut config: Self = toml::from_str(&text).map_err(wrong)?;
        config.sha256 = Some(Hash32::of(text.as_bytes()));
        for agent in &mut config.agent.resource {
            agent.config_file = Some(path.to_owned());
        }
        Ok(config)
    }

    /// The local socket that the verbs use.
    pub(crate) fn socket(&self) -> PathBuf {
        self.data_dir.join("farside.sock")
    }

    /// The file of the operator token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.data_dir.join("operator.token")
    }

    /// The file of the token that opens the metrics and nothing else.
    pub(crate) fn metrics_token_file(&self) -> PathBuf {
        self.data_dir.join("metrics.token")
    }

    /// The file of the key that signs checkpoints and evidence.
    pub(crate) fn signing_key_file(&self) -> PathBuf {
        self.data_dir.join("keys/signing.nk")
    }

    /// The pool's file.
    pub(crate) fn pool_file(&self) -> PathBuf {
        self.data_dir.join("pool.redb")
    }

    /// The directory of the snapshots.
    pub(crate) fn snapshot_dir(&self) -> PathBuf {
        self.data_dir.join("snapshots")
    }

    /// The directory of the managed NATS.
    pub(crate) fn nats_dir(&self) -> PathBuf {
        self.data_dir.join("nats")
    }

    /// The file in which `farside up` says how an agent of its own process group reaches its NATS.
    pub(crate) fn nats_address_file(&self) -> PathBuf {
        self.data_dir.join("nats.json")
    }
}

/// Reads a file that holds one agent and nothing else.
pub(crate) fn read_agent(path: &Path) -> Result<AgentConfig, ConfigError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let wrong = |source| ConfigError::Wrong { path: path.to_owned(), source: Box::new(source) };
    let mut agent: AgentConfig = toml::from_str(&text).map_err(wrong)?;
    agent.config_file = Some(path.to_owned());
    Ok(agent)
}

impl NatsConfig {
    /// How to connect to the configured NATS; none when none is configured.
    pub(crate) fn connect_options(&self, name: &str) -> Result<Option<ConnectOptions>, ConfigError> {
        let Some(servers) = self.servers.clone() else { return Ok(None) };
        Ok(Some(ConnectOptions {
            servers,
            name: name.to_owned(),
            credentials: self.credentials()?,
            tls_required: self.tls_required,
            tls_ca_file: self.tls_ca_file.clone(),
            ..ConnectOptions::default()
        }))
    }

    /// The certificate of the managed server. Errors: one of the two files is missing.
    pub(crate) fn managed_tls(&self) -> Result<Option<ManagedTls>, ConfigError> {
        match (self.tls_cert_file.clone(), self.tls_key_file.clone()) {
            (None, None) => Ok(None),
            (Some(cert_file), Some(key_file)) => {
                Ok(Some(ManagedTls { cert_file, key_file, ca_file: self.tls_ca_file.clone() }))
            }
            _ => Err(ConfigError::Unfit(
                "nats.tls_cert_file and nats.tls_key_file go together; set both".to_owned(),
            )),
        }
    }

    /// How a connection proves who it is, as configured.
    pub(crate) fn credentials(&self) -> Result<Credentials, ConfigError> {
        let password = match (&self.user, &self.password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some((user.clone(), secret(file)?)),
            _ => {
                return Err(ConfigError::Unfit(
                    "nats.user and nats.password_file go together; set both".to_owned(),
                ));
            }
        };
        match (&self.nkey_seed_file, &self.creds_file, password) {
            (None, None, None) => Ok(Credentials::None),
            (Some(seed), None, None) => Ok(Credentials::NkeySeedFile(seed.clone())),
            (None, Some(creds), None) => Ok(Credentials::CredsFile(creds.clone())),
            (None, None, Some((user, password))) => Ok(Credentials::UserPassword { user, password }),
            _ => Err(ConfigError::Unfit(
                "keep one of nats.nkey_seed_file, nats.creds_file, and nats.user with nats.password_file"
                    .to_owned(),
            )),
        }
    }
}

fn secret(file: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|source| ConfigError::Unreadable { path: file.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// What flags and `FARSIDE_*` variables set over the file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Overrides {
    /// Where the HTTP API listens [default: 127.0.0.1:8470]
    #[arg(long, env = "FARSIDE_LISTEN", value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// An existing NATS, nats://host:port, several separated by commas
    #[arg(long, env = "FARSIDE_NATS", value_name = "URL")]
    nats: Option<String>,
    /// File with the nkey seed for that NATS
    #[arg(long, env = "FARSIDE_NKEY_SEED_FILE", value_name = "FILE")]
    nkey_seed_file: Option<PathBuf>,
    /// .creds file for that NATS
    #[arg(long, env = "FARSIDE_CREDS_FILE", value_name = "FILE")]
    creds_file: Option<PathBuf>,
    /// Monitor of that NATS, http://host:port: tells whether it syncs every message to disk
    #[arg(long, env = "FARSIDE_MONITOR_URL", value_name = "URL")]
    monitor_url: Option<String>,
    /// The nats-server binary that 'farside up' runs [default: found on PATH]
    #[arg(long, env = "FARSIDE_NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Port of the nats-server that 'farside up' runs [default: a free one]
    #[arg(long, env = "FARSIDE_NATS_PORT", value_name = "PORT")]
    nats_port: Option<u16>,
    /// Name of the target [default: local]
    #[arg(long, env = "FARSIDE_TARGET", value_name = "NAME")]
    target: Option<Name>,
    /// Sites whose logs are projected, separated by commas [default: local]
    #[arg(long, env = "FARSIDE_SITES", value_name = "NAMES", value_delimiter = ',')]
    sites: Vec<Name>,
}

impl Overrides {
    /// Puts what is set over the file's values.
    pub(crate) fn apply(self, config: &mut Config) {
        let Self {
            listen,
            nats,
            nkey_seed_file,
            creds_file,
            monitor_url,
            nats_server,
            nats_port,
            target,
            sites,
        } = self;
        config.console.listen = listen.unwrap_or(config.console.listen);
        let of = &mut config.nats;
        of.servers = nats.or(of.servers.take());
        of.nkey_seed_file = nkey_seed_file.or(of.nkey_seed_file.take());
        of.creds_file = creds_file.or(of.creds_file.take());
        of.monitor_url = monitor_url.or(of.monitor_url.take());
        of.binary = nats_server.or(of.binary.take());
        of.port = nats_port.or(of.port);
        if let Some(target) = target {
            config.service.target = target;
        }
        if !sites.is_empty() {
            config.service.sites = sites;
        }
    }
}

/// A number of bytes, like `512MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
        let size =
            number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        size.map(Self).ok_or_else(|| {
            format!("{text:?} is not a size: write a whole number and KiB, MiB, GiB or TiB, like 512MiB")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = SIZE_UNITS.iter().rev().find(|(_, factor)| self.0 >= *factor);
        match largest {
            None => write!(f, "{} B", self.0),
            Some((name, factor)) => write!(f, "{:.1} {name}", self.0 as f64 / *factor as f64),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("farside.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(Some(&path)).unwrap_err().to_string()
    }

    #[test]
    fn a_key_that_nobody_knows_is_an_error_that_names_its_line() {
        for (text, line, words) in [
            ("data_dir = \"x\"\nshedule = 1\n", "line 2", "shedule"),
            ("[console]\n\nlisen = \"127.0.0.1:1\"\n", "line 3", "lisen"),
            ("[service.schedule]\nevery = \"5\"\n", "line 2", "5m"),
            ("[store]\ncache = \"12 parsecs\"\n", "line 2", "512MiB"),
            ("[service\n", "line 1", ""),
        ] {
            let error = error(text);
            assert!(error.contains(line) && error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn without_a_file_the_built_in_configuration_holds_unless_one_was_named() {
        assert!(Config::read(Some(Path::new("/no/such/farside.toml"))).is_err());
        let config = Config::default();
        assert_eq!((config.console.listen.port(), config.service.sites.len()), (8_470, 1));
    }

    #[test]
    fn flags_and_variables_go_over_the_file() {
        let mut config: Config = toml::from_str("[nats]\nservers = \"nats://a:1\"\nport = 1\n").unwrap();
        let overrides = Overrides { nats: Some("nats://b:2".to_owned()), ..Overrides::default() };
        overrides.apply(&mut config);
        assert_eq!((config.nats.servers.as_deref(), config.nats.port), (Some("nats://b:2"), Some(1)));
    }

    #[test]
    fn the_example_is_a_valid_configuration() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("farside.example.toml");
        let config = Config::read(Some(&path)).unwrap();
        config.service.check().unwrap();
    }

    #[test]
    fn two_kinds_of_credentials_are_one_too_many() {
        let text = "[nats]\nservers = \"nats://a:1\"\ncreds_file = \"a\"\nnkey_seed_file = \"b\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert!(config.nats.connect_options("x").unwrap_err().to_string().contains("keep one"));
    }

    #[test]
    fn sizes_read_and_write() {
        assert_eq!("512MiB".parse(), Ok(Size(512 << 20)));
        assert_eq!(Size(1536 << 10).to_string(), "1.5 MiB");
        assert!("512MB".parse::<Size>().is_err() && "MiB".parse::<Size>().is_err());
    }
}
