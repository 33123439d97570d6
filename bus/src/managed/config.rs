//! The managed server's configuration: durable, on one address, and who may publish what.

use std::path::{Path, PathBuf};

use super::{
    ManagedError, ManagedOptions,
    identity::{AGENT_EXPORTS, READER_EXPORTS, READER_STREAM_EXPORT, list, quoted, service_from},
    keys::{Keys, PUBLISHER},
    owner::write_private,
    roster::Members,
};

/// Largest message, in bytes; NATS's own default, written down because the contract counts on it.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// JetStream's limit for all logs together. It is never what refuses a log: each log has its own limit, and a
/// server whose limit shrank with the disk would refuse at a restart the logs that it has.
const STORE_BYTES_MAX: u64 = 1 << 50;
/// The server's log is cut at this size, in bytes.
const LOG_BYTES_MAX: usize = 10 << 20;
/// What any publisher may say: what the systems report of their entities. Not `agent` and not `key`: an access
/// key on the log opens the pool.
const PUBLISHER_MAY: [&str; 3] =
    ["far.v1.*.evt.*.resource.>", "far.v1.*.evt.*.volume.>", "far.v1.*.evt.*.image.>"];
/// What of that only agents say: the beginning and the end of an answer. An end deletes what was not in between.
const PUBLISHER_MAY_NOT: [&str; 2] =
    ["far.v1.*.evt.*.resource.*.sync_opened", "far.v1.*.evt.*.resource.*.sync_closed"];

/// The account with the logs and the service's user.
pub(crate) const MAIN: &str = "FARSIDE";

/// What the configuration is made of, but for who may come in.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) store_dir: PathBuf,
    pub(crate) options: ManagedOptions,
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) keys: Keys,
}

/// The configuration's file in a store directory.
pub(crate) fn path(store_dir: &Path) -> std::path::PathBuf {
    store_dir.join("nats-server.conf")
}

impl Config {
    /// Writes the configuration, readable for its owner only.
    pub(crate) fn write(&self, members: &Members) -> Result<(), ManagedError> {
        write_private(&path(&self.store_dir), &self.text(members))
    }

    fn text(&self, members: &Members) -> String {
        let Self { store_dir, options, port, name, .. } = self;
        let file = |name: &str| quoted(&store_dir.join(name).to_string_lossy());
        let tls = options.tls.as_ref().map_or_else(String::new, |tls| {
            let (cert, key) = (tls.cert_file.to_string_lossy(), tls.key_file.to_string_lossy());
            format!("tls {{ cert_file: {}, key_file: {} }}\n", quoted(&cert), quoted(&key))
        });
        format!(
            "# Written by farside at every start and enrolment; changes are lost.\n\
             host: {host}\nport: {port}\nserver_name: {name}\n\
             pid_file: {pid}\nlog_file: {log}\nlog_size_limit: {LOG_BYTES_MAX}\n\
             max_payload: {PAYLOAD_BYTES_MAX}\nwrite_deadline: \"10s\"\n\
             jetstream {{ store_dir: {store}, sync_interval: {sync}, max_file_store: {STORE_BYTES_MAX} }}\n\
             {tls}{accounts}",
            host = quoted(&options.host.to_string()),
            pid = file("nats-server.pid"),
            log = file("nats-server.log"),
            store = quoted(&store_dir.to_string_lossy()),
            sync = if options.syncs_each { "always" } else { "\"2m\"" },
            accounts = self.accounts(members),
        )
    }

    fn accounts(&self, members: &Members) -> String {
        let Keys { service_public, system_public, .. } = &self.keys;
        let exported = |subject: &str| format!("{{ service: {} }}", quoted(subject));
        let streamed = format!("{{ service: {}, response_type: stream }}", quoted(READER_STREAM_EXPORT));
        let exports = AGENT_EXPORTS.iter().chain(&READER_EXPORTS).map(|subject| exported(subject));
        let exports = list(exports.chain([streamed]));
        let imports = list(members.agents().flat_map(|agent| agent.imports()));
        let agents: String = members.agents().map(|agent| agent.account_text(MAIN)).collect();
        let readers: String = members.readers().iter().map(|reader| reader.account_text(MAIN)).collect();
        format!(
            "accounts {{\n\
             $SYS: {{ users: [ {{ nkey: {system_public} }} ] }}\n\
             {MAIN}: {{\n  jetstream: enabled\n  users: [ {{ nkey: {service_public} }} ]\n  \
               exports: [{exports}]\n  imports: [{imports}]\n}}\n\
             {publishers}{agents}{readers}}}\n",
            publishers = self.publishers(),
        )
    }

    /// The publishers have an account of their own for the reason that agents have: see [`super::identity`].
    fn publishers(&self) -> String {
        let may = list(PUBLISHER_MAY.map(quoted));
        let may_not = list(PUBLISHER_MAY_NOT.map(quoted));
        let imports = list(PUBLISHER_MAY.map(|subject| service_from(MAIN, subject)));
        format!(
            "PUBLISHERS: {{\n  users: [ {{ user: {PUBLISHER}, password: {password}, permissions: {{\n    \
               publish: {{ allow: [{may}], deny: [{may_not}] }}\n    \
               subscribe: {{ allow: [\"_INBOX.>\"] }}\n  }} }} ]\n  imports: [{imports}]\n}}\n",
            password = quoted(&self.keys.publisher_password)
        )
    }
}
