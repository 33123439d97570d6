//! The managed server's configuration: durable, on one address, and who may publish what.

use std::path::Path;

use super::{ManagedError, ManagedOptions, keys::Keys, owner::write_private};
use crate::options::private_inbox_prefix;

/// Largest message, in bytes; NATS's own default, written down because the contract counts on it.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// JetStream's limit for all logs together. It is never what refuses a log: each log has its own limit, and a
/// server whose limit shrank with the disk would refuse at a restart the logs that it has.
const STORE_BYTES_MAX: u64 = 1 << 50;
/// The server's log is cut at this size, in bytes.
const LOG_BYTES_MAX: usize = 10 << 20;

/// What the configuration is made of.
pub(crate) struct Config<'a> {
    pub(crate) store_dir: &'a Path,
    pub(crate) options: &'a ManagedOptions,
    pub(crate) port: u16,
    pub(crate) name: &'a str,
    pub(crate) keys: &'a Keys,
}

/// The configuration's file in a store directory.
pub(crate) fn path(store_dir: &Path) -> std::path::PathBuf {
    store_dir.join("nats-server.conf")
}

impl Config<'_> {
    /// Writes the configuration, readable for its owner only.
    pub(crate) fn write(&self) -> Result<(), ManagedError> {
        write_private(&path(self.store_dir), &self.text())
    }

    fn text(&self) -> String {
        let Self { store_dir, options, port, name, .. } = self;
        let file = |name: &str| quoted(&store_dir.join(name).to_string_lossy());
        let tls = options.tls.as_ref().map_or_else(String::new, |tls| {
            let (cert, key) = (tls.cert_file.to_string_lossy(), tls.key_file.to_string_lossy());
            format!("tls {{ cert_file: {}, key_file: {} }}\n", quoted(&cert), quoted(&key))
        });
        format!(
            "# Written by farside at every start; changes are lost.\n\
             host: {host}\nport: {port}\nserver_name: {name}\n\
             pid_file: {pid}\nlog_file: {log}\nlog_size_limit: {LOG_BYTES_MAX}\n\
             max_payload: {PAYLOAD_BYTES_MAX}\nwrite_deadline: \"10s\"\n\
             jetstream {{ store_dir: {store}, sync_interval: always, max_file_store: {STORE_BYTES_MAX} }}\n\
             {tls}{users}",
            host = quoted(&options.host.to_string()),
            pid = file("nats-server.pid"),
            log = file("nats-server.log"),
            store = quoted(&store_dir.to_string_lossy()),
            users = self.users(),
        )
    }

    fn users(&self) -> String {
        let Keys { service_public, agent_public, system_public, .. } = self.keys;
        let agent_inbox = quoted(&format!("{}.>", private_inbox_prefix(agent_public)));
        let agent = format!(
            "{{ nkey: {agent_public}, permissions: {{\n    \
               publish: {{ allow: [\"far.v1.*.evt.>\", \"far.v1.*.cmd.*.agent.hello\", \"$JS.API.INFO\"] }}\n    \
               subscribe: {{ allow: [\"far.v1.*.cmd.>\", {agent_inbox}], \
                             deny: [\"far.v1.*.cmd.target.>\", \"far.v1.*.cmd.*.agent.hello\"] }}\n    \
               allow_responses: {{ max: 10, expires: \"10m\" }}\n  }} }}"
        );
        // Without credentials one may publish events, so that ten lines of any language can; on loopback only.
        let (anonymous, no_auth_user) = if self.options.host.is_loopback() {
            let password = format!("{:016x}", getrandom::u64().unwrap_or_default());
            let anonymous = format!(
                "\n  {{ user: anonymous, password: \"{password}\", permissions: {{\n    \
                   publish: {{ allow: [\"far.v1.*.evt.>\"] }}\n    subscribe: {{ allow: [\"_INBOX.>\"] }}\n  }} }}"
            );
            (anonymous, "no_auth_user: anonymous\n")
        } else {
            (String::new(), "")
        };
        format!(
            "accounts {{ $SYS: {{ users: [ {{ nkey: {system_public} }} ] }} }}\n\
             authorization {{ users: [\n  {{ nkey: {service_public} }}\n  {agent}{anonymous}\n] }}\n{no_auth_user}"
        )
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
