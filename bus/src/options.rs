//! Where and how to connect, as data, and the check that no password travels in plain text.

use std::{
    fs,
    path::{Path, PathBuf},
};

use async_nats::ServerAddr;

use crate::BusError;

/// How a connection proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It does not; the server decides what an anonymous connection may do.
    #[default]
    None,
    /// A file with one nkey seed (`SU…`).
    NkeySeedFile(PathBuf),
    /// A `.creds` file: a user JWT and its nkey seed.
    CredsFile(PathBuf),
    /// A name and a password; refused in plain text off loopback.
    UserPassword {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

/// Where and how to connect.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// `nats://127.0.0.1:4222`, several separated by commas. A user and a password in the first one hold for
    /// all, unless `credentials` say otherwise.
    pub servers: String,
    /// What the server shows in its list of connections.
    pub name: String,
    /// How the connection proves who it is.
    pub credentials: Credentials,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// PEM file of the authority that signed the server's certificate, if it is not a public one.
    pub tls_ca_file: Option<PathBuf>,
    /// Prefix of the inboxes for answers, without the trailing dot. None: `_INBOX`, or with an nkey seed
    /// `_INBOX_<public key>`, so that no two identities can read each other's answers.
    pub inbox_prefix: Option<String>,
}

impl ConnectOptions {
    /// The addresses. Errors: one that cannot be read, or that a password would leak to.
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddr>, BusError> {
        let wrong = |reason: String| BusError::Address { servers: self.shown_servers(), reason };
        let addresses = self
            .servers
            .split(',')
            .map(|text| {
                text.trim()
                    .parse::<ServerAddr>()
                    .map_err(|e| wrong(format!("{e}; write nats://host:port, several separated by commas")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let password = matches!(self.credentials, Credentials::UserPassword { .. });
        for address in &addresses {
            let in_plain_text = !self.tls_required && !address.tls_required();
            if in_plain_text && (password || address.has_user_pass()) && !is_loopback(address.host()) {
                return Err(wrong(format!(
                    "the password would travel to {} in plain text; set tls_required, or use an nkey",
                    address.host()
                )));
            }
        }
        Ok(addresses)
    }

    /// The addresses without passwords, for texts that people and logs see.
    pub(crate) fn shown_servers(&self) -> String {
        let shown = self.servers.split(',').map(|address| match address.rsplit_once('@') {
            None => address.to_owned(),
            Some((before, host)) => match before.split_once("://") {
                Some((scheme, _)) => format!("{scheme}://{host}"),
                None => host.to_owned(),
            },
        });
        shown.collect::<Vec<_>>().join(",")
    }

    /// The user and the password that stand in the first address. The client library does not look there.
    fn user_of_address(&self) -> Result<Option<(String, String)>, BusError> {
        let addresses = self.addresses()?;
        let first = addresses.first().filter(|address| address.has_user_pass());
        Ok(first.and_then(|address| Some((address.username()?.to_owned(), address.password()?.to_owned()))))
    }

    /// The client library's options, but for what the connection itself decides.
    pub(crate) fn client_options(&self) -> Result<async_nats::ConnectOptions, BusError> {
        let mut options = async_nats::ConnectOptions::new().name(&self.name).require_tls(self.tls_required);
        if let Some(path) = &self.tls_ca_file {
            options = options.add_root_certificates(path.clone());
        }
        let mut inbox_prefix = self.inbox_prefix.clone();
        options = match &self.credentials {
            Credentials::None => match self.user_of_address()? {
                None => options,
                Some((user, password)) => options.user_and_password(user, password),
            },
            Credentials::UserPassword { user, password } => {
                options.user_and_password(user.clone(), password.clone())
            }
            Credentials::CredsFile(path) => {
                options.credentials(&read(path)?).map_err(|e| unreadable(path, e))?
            }
            Credentials::NkeySeedFile(path) => {
                let seed = read(path)?.trim().to_owned();
                let pair = nkeys::KeyPair::from_seed(&seed)
                    .map_err(|e| unreadable(path, std::io::Error::other(format!("not an nkey seed: {e}"))))?;
                inbox_prefix.get_or_insert_with(|| private_inbox_prefix(&pair.public_key()));
                options.nkey(seed)
            }
        };
        Ok(match inbox_prefix {
            Some(prefix) => options.custom_inbox_prefix(prefix),
            None => options,
        })
    }
}

/// The inbox prefix of an nkey identity: nobody else is allowed to listen there.
pub(crate) fn private_inbox_prefix(public_key: &str) -> String {
    format!("_INBOX_{public_key}")
}

fn read(path: &Path) -> Result<String, BusError> {
    fs::read_to_string(path).map_err(|e| unreadable(path, e))
}

fn unreadable(path: &Path, source: std::io::Error) -> BusError {
    BusError::Credentials { path: path.to_owned(), source }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(servers: &str, credentials: Credentials) -> ConnectOptions {
        ConnectOptions { servers: servers.to_owned(), credentials, ..ConnectOptions::default() }
    }

    #[test]
    fn a_password_does_not_travel_in_plain_text_off_loopback() {
        let secret = Credentials::UserPassword { user: "a".into(), password: "b".into() };
        for refused in ["nats://10.0.0.1:4222", "127.0.0.1:4222,nats://nats.example:4222"] {
            let error = options(refused, secret.clone()).addresses().unwrap_err().to_string();
            assert!(error.contains("plain text"), "{error}");
        }
        let error = options("nats://a:hunter2@nats.example", Credentials::None).addresses().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        for fine in ["nats://127.0.0.1:4222", "nats://[::1]:4222", "localhost", "tls://nats.example:4222"] {
            options(fine, secret.clone()).addresses().unwrap();
        }
    }

    #[test]
    fn a_password_in_an_address_is_used_and_never_shown() {
        let with = options("nats://publisher:hunter2@127.0.0.1:4222, tls://nats.example", Credentials::None);
        assert_eq!(with.user_of_address().unwrap(), Some(("publisher".to_owned(), "hunter2".to_owned())));
        assert_eq!(with.shown_servers(), "nats://127.0.0.1:4222, tls://nats.example");
        assert_eq!(options("localhost", Credentials::None).user_of_address().unwrap(), None);
    }
}
