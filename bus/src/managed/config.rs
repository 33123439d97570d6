//! The managed server's configuration: durable, on one address, and who may publish what.

use std::path::Path;

use super::{
    ManagedError, ManagedOptions,
    keys::{Keys, PUBLISHER},
    owner::write_private,
};
use crate::options::private_inbox_prefix;

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
        let Keys { service_public, agent_public, system_public, publisher_password, .. } = self.keys;
        let agent_inbox = quoted(&format!("{}.>", private_inbox_prefix(agent_public)));
        let agent = format!(
            "{{ nkey: {agent_public}, permissions: {{\n    \
               publish: {{ allow: [\"far.v1.*.evt.>\", \"far.v1.*.cmd.*.agent.hello\", \"$JS.API.INFO\"] }}\n    \
               subscribe: {{ allow: [\"far.v1.*.cmd.>\", {agent_inbox}], \
                             deny: [\"far.v1.*.cmd.target.>\", \"far.v1.*.cmd.*.agent.hello\"] }}\n    \
               allow_responses: {{ max: 10, expires: \"10m\" }}\n  }} }}"
        );
        // The log answers a publish on the subject that the publisher names, whatever that is: in the same account
        // it could write such answers to the target's log and fence the lease. In an account of their own the
        // publishers reach the log as a service, and the answer comes back to them alone.
        let list = |each: &dyn Fn(&str) -> String| PUBLISHER_MAY.map(each).join(", ");
        let (may, may_not) = (list(&quoted), PUBLISHER_MAY_NOT.map(quoted).join(", "));
        let exports = list(&|subject| format!("{{ service: {} }}", quoted(subject)));
        let imports =
            list(&|subject| format!("{{ service: {{ account: FARSIDE, subject: {} }} }}", quoted(subject)));
        let publisher = format!(
            "{{ user: {PUBLISHER}, password: {}, permissions: {{\n    \
               publish: {{ allow: [{may}], deny: [{may_not}] }}\n    \
               subscribe: {{ allow: [\"_INBOX.>\"] }}\n  }} }}",
            quoted(publisher_password)
        );
        format!(
            "accounts {{\n\
             $SYS: {{ users: [ {{ nkey: {system_public} }} ] }}\n\
             FARSIDE: {{\n  jetstream: enabled\n  users: [\n  {{ nkey: {service_public} }}\n  {agent}\n  ]\n  \
               exports: [{exports}]\n}}\n\
             PUBLISHERS: {{\n  users: [\n  {publisher}\n  ]\n  imports: [{imports}]\n}}\n}}\n"
        )
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
