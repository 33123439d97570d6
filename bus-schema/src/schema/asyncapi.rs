//! The AsyncAPI 3 document, told from the side of the Farside service: it receives events, states
//! facts, asks agents, and answers. Knows only the described messages.

use serde_json::{Map, Value, json};

use super::{Described, Role};

/// The whole document.
pub(super) fn document(messages: &[Described]) -> Value {
    let (mut channels, mut operations, mut components) = (Map::new(), Map::new(), Map::new());
    for message in messages {
        let name = channel_name(message);
        channels.insert(name.clone(), channel(message));
        operations.insert(name.clone(), operation(message, &name));
        components.insert(name.clone(), component(message));
        if message.reply.is_some() {
            channels.insert(format!("{name}.reply"), reply_channel(&name));
            components.insert(format!("{name}.reply"), reply_component(message));
        }
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Farside",
            "version": "1",
            "description": "Events, facts and commands of Farside over NATS JetStream. Told from the side of \
                the Farside service. Events are accepted in three forms: binary CloudEvents 1.0 (described here), \
                structured CloudEvents, and plain data; see docs/publishing.md.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "What `farside up` runs. Streams: FARSIDE_<SITE>, FARSIDE_TGT_<TARGET>, FARSIDE_DLQ_<TARGET>.",
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": components,
            "messageTraits": { "event": event_trait() },
            "parameters": parameters(),
        },
    })
}

/// Events, facts and commands of one stem may share a name.
fn channel_name(message: &Described) -> String {
    let kind = match message.role {
        Role::Event => "event",
        Role::Fact => "fact",
        Role::ToAgents | Role::ToTarget | Role::ToHolder => "command",
    };
    format!("{kind}.{}", message.title())
}

fn channel(message: &Described) -> Value {
    let Described { stem, name, .. } = message;
    let (address, parameters): (String, &[&str]) = match message.role {
        Role::Event => (
            format!("far.v1.{{site}}.evt.{{cluster}}.{stem}.{{token}}.{name}"),
            &["site", "cluster", "token"],
        ),
        Role::Fact => (format!("far.v1.{{target}}.tgt.{stem}.{{token}}.{name}"), &["target", "token"]),
        Role::ToAgents | Role::ToTarget => {
            (format!("far.v1.{{site}}.cmd.{{cluster}}.{stem}.{name}"), &["site", "cluster"])
        }
        Role::ToHolder => (format!("far.v1.{{target}}.cmd.target.{stem}.{name}"), &["target"]),
    };
    let reference = |kind: &str, name: &str| json!({ "$ref": format!("#/components/{kind}/{name}") });
    let parameters: Map<_, _> =
        parameters.iter().map(|name| ((*name).to_owned(), reference("parameters", name))).collect();
    let message = reference("messages", &channel_name(message));
    json!({ "address": address, "parameters": parameters, "messages": { "message": message } })
}

/// A reply goes to the inbox that the request names, so it has no address of its own.
fn reply_channel(name: &str) -> Value {
    let message = json!({ "$ref": format!("#/components/messages/{name}.reply") });
    json!({ "address": null, "messages": { "message": message } })
}

fn operation(message: &Described, channel: &str) -> Value {
    let action = match message.role {
        Role::Event | Role::ToTarget | Role::ToHolder => "receive",
        Role::Fact | Role::ToAgents => "send",
    };
    let channel = format!("#/channels/{channel}");
    let mut operation = json!({
        "action": action,
        "channel": { "$ref": channel },
        "messages": [{ "$ref": format!("{channel}/messages/message") }],
    });
    if message.reply.is_some() {
        operation["reply"] = json!({
            "channel": { "$ref": format!("{channel}.reply") },
            "messages": [{ "$ref": format!("{channel}.reply/messages/message") }],
        });
    }
    operation
}

fn component(message: &Described) -> Value {
    let mut component = json!({
        "name": message.title(),
        "contentType": "application/json",
        "payload": { "$ref": format!("./{}", message.path()) },
    });
    if matches!(message.role, Role::Event | Role::Fact) {
        component["traits"] = json!([{ "$ref": "#/components/messageTraits/event" }]);
    }
    component
}

fn reply_component(message: &Described) -> Value {
    json!({
        "name": format!("{} reply", message.title()),
        "contentType": "application/json",
        "payload": { "$ref": format!("./{}", message.reply_path()) },
    })
}

/// The headers of the binary form.
fn event_trait() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let pattern = |pattern: &str, description: &str| json!({ "type": "string", "pattern": pattern, "description": description });
    json!({
        "headers": {
            "type": "object",
            "required": ["ce-specversion", "ce-id", "ce-source", "ce-type"],
            "properties": {
                "ce-specversion": { "const": "1.0" },
                "ce-id": text("Unique within the source; agents use a UUIDv7."),
                "ce-source": text("Who owns what the event says: /<site>/<cluster>/<stem>/<agent>, or any URI, at most 512 bytes."),
                "ce-type": text("<stem>.<event>, as on the subject."),
                "ce-time": { "type": "string", "format": "date-time", "description": "When it happened; RFC 3339." },
                "ce-datacontenttype": { "const": "application/json" },
                "ce-farepoch": pattern("^[0-9a-f]{16}$", "The life of the source's outbox. Chain: all three or none."),
                "ce-farseq": pattern("^[1-9][0-9]*$", "The place in the chain, from 1."),
                "ce-farprev": pattern("^[0-9a-f]{64}$", "The hash of the source's previous event; 64 zeros for the first."),
                "ce-farsync": text("The sync that the event answers."),
                "ce-fartenant": text("The tenant of the entity: l1 or l1/l2."),
                "Nats-Msg-Id": text("<cluster>/<id>: JetStream drops a repeated one for two minutes."),
            },
        },
    })
}

fn parameters() -> Value {
    let name = "1 to 63 of a-z, 0-9 and -, not starting with -";
    json!({
        "site": { "description": format!("The source site; {name}."), "examples": ["local"] },
        "cluster": { "description": format!("The source cluster; {name}."), "examples": ["prod-eu"] },
        "target": { "description": format!("The target; {name}."), "examples": ["local"] },
        "token": {
            "description": "The entity's key: A-Z, a-z, 0-9, _ and - stand for themselves, every other byte is =XX; \
                longer than 180 bytes: ~ and the base32 of the key's SHA-256.",
            "examples": ["Deployment=2Fshop=2Fcart"],
        },
    })
}
