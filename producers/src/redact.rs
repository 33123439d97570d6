//! Takes secrets out of states before anything else sees them: a log that cannot forget must not learn
//! them. What is taken out leaves a keyed hash behind, so that a change is still a change.
//!
//! Must not know: where a state came from or where it goes.

use std::collections::BTreeSet;

use bus_schema::{Hash32, hash::FieldHasher};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The field that stands in a state for what was taken out.
pub const MARK: &str = "farside_redacted";
/// Hex digits of the keyed hash that are shown: enough to see a change, useless to try out guesses
/// without the ledger's salt.
const MARK_HEX: usize = 16;

/// Words that make a field's name look like a credential, compared without case and separators.
const CREDENTIAL_WORDS: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "privatekey",
    "apikey",
    "accesskey",
    "secretkey",
    "credential",
    "authorization",
    "connectionstring",
    "sshkey",
    "sessionkey",
    "snmpcommunity",
];
/// Endings of names that speak *about* a credential: where it is, what it is called, how long it lives.
const REFERENCE_ENDINGS: [&str; 20] = [
    "name",
    "names",
    "namespace",
    "ref",
    "refs",
    "path",
    "file",
    "id",
    "arn",
    "url",
    "uri",
    "type",
    "kind",
    "version",
    "ttl",
    "policy",
    "seconds",
    "enabled",
    "count",
    "length",
];

/// What to take out beyond the rules, and what to leave in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedactConfig {
    /// More field names whose values are secret.
    pub secret_fields: BTreeSet<String>,
    /// Field names that look like credentials and are none.
    pub open_fields: BTreeSet<String>,
}

/// Takes secrets out of states.
#[derive(Clone, Debug)]
pub struct Redactor {
    salt: Hash32,
    secret: BTreeSet<String>,
    open: BTreeSet<String>,
}

impl Redactor {
    /// A redactor with the ledger's salt.
    pub fn new(salt: Hash32, config: &RedactConfig) -> Self {
        let plain = |names: &BTreeSet<String>| names.iter().map(|name| folded(name)).collect();
        Self { salt, secret: plain(&config.secret_fields), open: plain(&config.open_fields) }
    }

    /// Takes out of a resource's state what its kind and its fields give away.
    pub fn redact(&self, kind: &str, state: &mut Value) {
        if kind == "Secret" {
            self.hide_fields(state, "data");
            self.hide_fields(state, "stringData");
        }
        self.walk(state);
    }

    /// Replaces one value, whatever it is.
    pub fn hide(&self, name: &str, value: &mut Value) {
        if value.is_null() || value.get(MARK).is_some() {
            return;
        }
        let hash = FieldHasher::new("farside redacted v1")
            .field(&self.salt.0)
            .field(name.as_bytes())
            .field(value.to_string().as_bytes())
            .finish();
        *value = json!({ MARK: hash.to_string()[..MARK_HEX] });
    }

    fn hide_fields(&self, state: &mut Value, field: &str) {
        if let Some(Value::Object(fields)) = state.get_mut(field) {
            fields.iter_mut().for_each(|(name, value)| self.hide(name, value));
        }
    }

    fn walk(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => self.walk_object(fields),
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::String(text) if gives_itself_away(text) => self.hide("", value),
            _ => {}
        }
    }

    fn walk_object(&self, fields: &mut Map<String, Value>) {
        // An environment variable is a pair {name, value}: its name stands in another field.
        let named = fields.get("name").or_else(|| fields.get("key")).and_then(Value::as_str);
        let named_secret = named.filter(|name| self.is_secret(name)).map(str::to_owned);
        for (name, value) in fields.iter_mut() {
            let pair = named_secret.as_deref().filter(|_| name == "value");
            match pair.or_else(|| self.is_secret(name).then_some(name.as_str())) {
                Some(name) if holds_text(value) => self.hide(name, value),
                _ if name == LAST_APPLIED => self.hide(name, value),
                _ => self.walk(value),
            }
        }
    }

    fn is_secret(&self, name: &str) -> bool {
        let name = folded(name);
        if self.open.contains(&name) {
            return false;
        }
        self.secret.contains(&name)
            || (CREDENTIAL_WORDS.iter().any(|word| name.contains(word))
                && !REFERENCE_ENDINGS.iter().any(|ending| name.ends_with(ending)))
    }
}

/// kubectl keeps the whole manifest here once more, secrets and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether a field's value is the credential itself: text, or a list of it. An object below such a name
/// is a reference or a section and is looked into.
fn holds_text(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Number(_) => true,
        Value::Array(items) => items.iter().any(holds_text) && !items.iter().any(Value::is_object),
        _ => false,
    }
}

/// Whether a text is a secret under any name: a private key, a signed token, a URL with a password.
fn gives_itself_away(text: &str) -> bool {
    let pem = text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----");
    let signed = text.starts_with("eyJ") && text.matches('.').count() == 2 && !text.contains(' ');
    pem || signed || url_has_password(text)
}

fn url_has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
    let Some((user, _)) = authority.rsplit_once('@') else { return false };
    user.split_once(':').is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(mut state: Value) -> Value {
        let kind = state["kind"].as_str().unwrap_or("Thing").to_owned();
        Redactor::new(Hash32::of(b"salt"), &RedactConfig::default()).redact(&kind, &mut state);
        state
    }

    #[test]
    fn what_looks_like_a_credential_does_not_leave() {
        const S: &str = "hunter2-the-secret";
        let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{S}\n-----END RSA PRIVATE KEY-----");
        for state in [
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": S}, "stringData": {"b": S}}),
            json!({"db_password": S}),
            json!({"nested": [{"ApiKey": S}]}),
            json!({"client-secret": S, "authToken": S, "private_key": S, "tokens": [S]}),
            json!({"env": [{"name": "DB_PASSWORD", "value": S}]}),
            json!({"any": pem}),
            json!({"dsn": format!("postgres://app:{S}@db/x")}),
            json!({"ansible_ssh_pass_phrase": 1, "ansible_become_password": S}),
            json!({"metadata": {"annotations": {LAST_APPLIED: format!("{{\"data\":\"{S}\"}}")}}}),
        ] {
            let text = redacted(state.clone()).to_string();
            assert!(!text.contains(S) && text.contains(MARK), "{state} -> {text}");
        }
    }

    #[test]
    fn what_only_speaks_about_credentials_stays() {
        for state in [
            json!({"secretName": "tls", "tokenPath": "/x", "secretKeyRef": {"name": "db", "key": "password"}}),
            json!({"automountServiceAccountToken": true, "tokenExpirationSeconds": 3600}),
            json!({"imagePullSecrets": [{"name": "regcred"}], "kms_secret_arn": "arn:x", "password": ""}),
            json!({"url": "https://example.org/a@b:c", "note": "eyJ is a prefix"}),
            json!({"env": [{"name": "MODE", "value": "fast"}]}),
        ] {
            assert_eq!(redacted(state.clone()), state);
        }
    }

    #[test]
    fn a_change_of_a_secret_is_still_a_change_and_the_salt_is_needed_to_guess() {
        let mark = |salt: &[u8], secret: &str| {
            let mut state = json!({"password": secret});
            Redactor::new(Hash32::of(salt), &RedactConfig::default()).redact("Thing", &mut state);
            state
        };
        assert_eq!(mark(b"1", "a"), mark(b"1", "a"));
        assert_ne!(mark(b"1", "a"), mark(b"1", "b"));
        assert_ne!(mark(b"1", "a"), mark(b"2", "a"));
    }

    #[test]
    fn the_configuration_adds_and_excepts_names() {
        let config = RedactConfig {
            secret_fields: ["pin".to_owned()].into(),
            open_fields: ["bus_token".to_owned()].into(),
        };
        let mut state = json!({"PIN": "1234", "busToken": "x"});
        Redactor::new(Hash32::ZERO, &config).redact("Thing", &mut state);
        assert_eq!(state["busToken"], "x");
        assert!(state["PIN"].get(MARK).is_some());
    }
}
