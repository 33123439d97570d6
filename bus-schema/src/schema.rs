//! The contract's readable form: a JSON Schema (2020-12) of every event, fact and command, and the
//! AsyncAPI 3 document that says where each travels. Made from the Rust types; `make schema` writes
//! them and a test compares them. Knows no file system.
//!
//! The schemas are as open as decoding is: unknown fields are allowed everywhere, so that a newer
//! publisher meets an older reader.

use schemars::Schema;
use serde_json::Value;

use crate::{
    command::{agent, resource, target},
    event,
    fact::{agent::AgentFact, key::KeyFact, log::LogFact, resource::ResourceFact, tenant::TenantFact},
    id::Stem,
};

mod asyncapi;

/// One generated file.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path below `bus-schema/`.
    pub path: String,
    /// What it holds.
    pub content: Value,
}

impl File {
    /// The file's text.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.content)
    }
}

/// Whose statement or request a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An event of a site log.
    Event,
    /// A fact of a target log.
    Fact,
    /// A request of the target to the agents of a cluster.
    ToAgents,
    /// A request of an agent to the target.
    ToTarget,
    /// A request of the API or the command line to the process that holds the target's lease.
    ToHolder,
}

/// One message of the contract.
#[derive(Clone, Debug)]
pub struct Described {
    /// Whose it is.
    pub role: Role,
    /// The stem on its subject.
    pub stem: Stem,
    /// The event's name or the command's verb.
    pub name: &'static str,
    /// The schema of its data.
    pub data: Schema,
    /// The schema of its reply; commands only.
    pub reply: Option<Schema>,
}

impl Described {
    /// `<stem>.<name>`; commands to the lease holder start with `target.`.
    pub fn title(&self) -> String {
        match self.role {
            Role::ToHolder => format!("target.{}.{}", self.stem, self.name),
            _ => format!("{}.{}", self.stem, self.name),
        }
    }

    /// The file of the data's schema below `bus-schema/`; a golden sample has the same place in `golden/`.
    pub fn path(&self) -> String {
        format!("schema/{}{}.json", self.folder(), self.title())
    }

    /// The file of the reply's schema.
    pub fn reply_path(&self) -> String {
        format!("schema/{}{}.reply.json", self.folder(), self.title())
    }

    fn folder(&self) -> &'static str {
        match self.role {
            Role::Event => "",
            Role::Fact => "fact/",
            Role::ToAgents | Role::ToTarget | Role::ToHolder => "command/",
        }
    }
}

/// Every message of the contract.
pub fn messages() -> Vec<Described> {
    let mut messages = events_and_facts();
    messages.extend(commands());
    messages
}

/// Every generated file.
pub fn files() -> Vec<File> {
    let messages = messages();
    let mut files = Vec::new();
    for message in &messages {
        let mut push = |path: String, title: String, schema: &Schema| {
            files.push(File { content: finished(schema, &path, &title), path });
        };
        push(message.path(), message.title(), &message.data);
        if let Some(reply) = &message.reply {
            push(message.reply_path(), format!("{} reply", message.title()), reply);
        }
    }
    files.push(File { path: "asyncapi.json".to_owned(), content: asyncapi::document(&messages) });
    files
}

fn events_and_facts() -> Vec<Described> {
    let mut messages = Vec::new();
    let mut add = |role, stem, schemas: Vec<(&'static str, Schema)>| {
        let described = |(name, data)| Described { role, stem, name, data, reply: None };
        messages.extend(schemas.into_iter().map(described));
    };
    add(Role::Event, Stem::Resource, event::resource::ResourceEvent::schemas());
    add(Role::Event, Stem::Volume, event::volume::VolumeEvent::schemas());
    add(Role::Event, Stem::Image, event::image::ImageEvent::schemas());
    add(Role::Event, Stem::Agent, event::agent::AgentEvent::schemas());
    add(Role::Event, Stem::Key, event::key::KeyEvent::schemas());
    add(Role::Fact, Stem::Resource, ResourceFact::schemas());
    add(Role::Fact, Stem::Tenant, TenantFact::schemas());
    add(Role::Fact, Stem::Key, KeyFact::schemas());
    add(Role::Fact, Stem::Agent, AgentFact::schemas());
    add(Role::Fact, Stem::Log, LogFact::schemas());
    messages
}

fn commands() -> Vec<Described> {
    macro_rules! command {
        ($role:ident, $stem:ident, $verb:expr, $request:ty => $reply:ty) => {
            Described {
                role: Role::$role,
                stem: Stem::$stem,
                name: $verb,
                data: schemars::schema_for!($request),
                reply: Some(schemars::schema_for!($reply)),
            }
        };
    }
    vec![
        command!(ToTarget, Agent, agent::HELLO, agent::Hello => agent::HelloReply),
        command!(ToAgents, Agent, agent::REPLAY, agent::Replay => agent::ReplayReply),
        command!(ToAgents, Resource, resource::SYNC, resource::SyncRequest => resource::SyncReply),
        command!(ToAgents, Resource, resource::READ, resource::ReadRequest => resource::ReadReply),
        command!(ToAgents, Resource, resource::DIGEST, resource::DigestRequest => resource::DigestReply),
        command!(ToHolder, Resource, target::SYNC, target::SyncCommand => target::Reply<target::SyncsStarted>),
        command!(ToHolder, Resource, target::CONFIRM, target::ConfirmCommand => target::Reply<target::Confirmation>),
        command!(ToHolder, Resource, target::RECHECK, target::RecheckCommand => target::Reply<target::Confirmation>),
        command!(ToHolder, Log, target::STATE, target::StateCommand => target::Reply<target::Stated>),
    ]
}

fn finished(schema: &Schema, path: &str, title: &str) -> Value {
    let mut schema = schema.clone();
    let name = path.trim_start_matches("schema/").trim_end_matches(".json").replace('/', ":");
    schema.insert("$id".to_owned(), format!("urn:farside:schema:v1:{name}").into());
    schema.insert("title".to_owned(), title.into());
    let mut value = schema.to_value();
    unlink(&mut value);
    value
}

/// Descriptions come from Rust's documentation; other languages have no use for its links.
fn unlink(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match field {
            Value::String(text) if name == "description" => {
                *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
            }
            field => unlink(field),
        }),
        Value::Array(items) => items.iter_mut().for_each(unlink),
        _ => {}
    }
}
