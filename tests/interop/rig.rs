//! A language at work against the real `farside up`: its publisher, its reader, and what the log has.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use bus::Bus;
use serde_json::{Value, json};

use super::{LOG, language::Language, toolbox::Words};
use crate::support::{eventually, farside::Up};

/// A `farside up`, and what a language needs to run against it.
pub(super) struct Rig {
    pub(super) language: &'static Language,
    /// Where its programs run.
    pub(super) place: PathBuf,
    pub(super) up: Up,
    pub(super) bus: Bus,
}

/// What a program said and whether its end was good.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) ok: bool,
    pub(super) out: String,
    pub(super) err: String,
}

/// A resource to publish.
pub(super) struct Resource<'a> {
    pub(super) form: &'a str,
    pub(super) id: &'a str,
    pub(super) revision: &'a str,
}

impl Resource<'_> {
    pub(super) fn subject(&self) -> String {
        format!("far.v1.local.evt.dc1.resource.VM=2F{}.changed", self.id)
    }

    pub(super) fn data(&self) -> String {
        json!({ "kind": "VM", "id": self.id, "revision": self.revision, "state": { "form": self.form } })
            .to_string()
    }

    /// Who owns it: a plain event names nobody, the snippets call themselves `cmdb`.
    fn owner(&self) -> &'static str {
        if self.form == "plain" { "/local/dc1/resource/plain" } else { "/local/dc1/resource/cmdb" }
    }
}

impl Rig {
    /// Runs the publisher, with `data` at its standard input.
    pub(super) fn publish(&self, form: &str, subject: &str, id: &str, data: &str) -> Said {
        self.run(self.language.publish, &[&self.up.publisher_url(), form, subject, id], data)
    }

    /// Publishes a resource under the message id of its own; answers what the publisher printed.
    pub(super) fn publish_well(&self, resource: &Resource<'_>) -> String {
        let id = format!("{}-{}", resource.id, resource.revision);
        let said = self.publish(resource.form, &resource.subject(), &id, &resource.data());
        assert!(said.ok && !said.out.is_empty(), "{said:?}");
        said.out
    }

    /// Runs the reader from a sequence on.
    pub(super) fn audit(&self, first: u64) -> Said {
        // Who reads today is the service; a reader of its own comes with enrolment.
        let seed = self.up.dir().join("data/nats/keys/service.nk");
        let (url, first) = (self.up.nats_url(), first.to_string());
        let public_key = self.service_key();
        let mut arguments = vec![&*url, seed.to_str().unwrap(), LOG, &first];
        if self.language.wants_public_key {
            arguments.push(&public_key);
        }
        self.run(self.language.audit, &arguments, "")
    }

    /// The public key of the service, from the configuration of its server.
    fn service_key(&self) -> String {
        let text = fs::read_to_string(self.up.dir().join("data/nats/nats-server.conf")).unwrap();
        let (_, account) = text.split_once("FARSIDE: {").unwrap();
        let (_, key) = account.split_once("nkey: ").unwrap();
        key.chars().take_while(char::is_ascii_alphanumeric).collect()
    }

    fn run(&self, program: Words, arguments: &[&str], input: &str) -> Said {
        let name = if program[0].contains('/') { self.place.join(program[0]) } else { program[0].into() };
        let mut command = Command::new(name);
        command.args(&program[1..]).args(arguments).current_dir(&self.place);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
        // One that ends before it has read everything is judged by its end.
        let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The sequence of the last message of the log.
    pub(super) async fn last_seq(&self) -> u64 {
        self.bus.stream_state(LOG).await.unwrap().last_seq
    }

    /// Waits until the pool has a resource from the place that its publisher was told, and whose it is.
    pub(super) async fn in_the_pool(&self, resource: &Resource<'_>, place: &str) {
        let key = format!("VM/{}", resource.id);
        let found: Value = eventually(&format!("the pool has {key} of {place}"), async || {
            let said = self.up.verb(&["-o", "json", "pool", "get", "dc1", &key]);
            (said.code == Some(0)).then(|| said.json()).filter(|found| found["place"] == *place)
        })
        .await;
        assert_eq!(
            (&found["revision"], &found["state"], &found["owner"]),
            (&json!(resource.revision), &json!({ "form": resource.form }), &json!(resource.owner())),
            "{found}"
        );
    }
}
