//! Takes secrets out of states before anything else sees them: a log that cannot forget must not learn
//! them. What is taken out leaves a keyed hash behind, so that a change is still a change.
//!
//! The rule: a text or a number is taken out when its field's name is that of a secret (`name`), when it stands
//! anywhere below such a name, or when it gives itself away (`text`). Below such a name only what speaks about
//! the secret stays: `imagePullSecrets: [{name}]`, `secret: {secretName, items: [{key, path}]}`, a `…Ref`. Truth
//! values and switches (`required`) stay always. When in doubt it is taken out: a change of it is still seen, and `open_fields` lets it pass.
//!
//! Must not know: where a state came from or where it goes.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::{Hash32, hash::FieldHasher};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

mod known;
mod name;
mod text;

/// The field that stands in a state for what was taken out.
pub const MARK: &str = "farside_redacted";
/// Hex digits of the keyed hash that are shown: enough to see a change, useless to try out guesses
/// without the ledger's salt.
const MARK_HEX: usize = 16;

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
        let plain = |names: &BTreeSet<String>| names.iter().map(|name| name::folded(name)).collect();
        Self { salt, secret: plain(&config.secret_fields), open: plain(&config.open_fields) }
    }

    /// Takes out of a resource's state what its kind and its fields give away.
    pub fn redact(&self, kind: &str, state: &mut Value) {
        if kind == SECRET {
            self.hide_data(state);
        }
        self.walk(state);
    }

    /// Takes out of a resource's labels what their names or their texts give away. A label stays a text.
    pub fn redact_labels(&self, labels: &mut BTreeMap<String, String>) {
        for (name, value) in labels.iter_mut().filter(|(_, value)| !value.is_empty()) {
            if self.is_secret(name) || self.gives_itself_away(value) {
                *value = format!("{MARK}:{}", self.mark(name, value));
            }
        }
    }

    /// Replaces one value, whatever it is.
    pub fn hide(&self, name: &str, value: &mut Value) {
        if value.is_null() || value.get(MARK).is_some() {
            return;
        }
        *value = json!({ MARK: self.mark(name, &value.to_string()) });
    }

    fn mark(&self, name: &str, value: &str) -> String {
        let hash = FieldHasher::new("farside redacted v1")
            .field(&self.salt.0)
            .field(name.as_bytes())
            .field(value.as_bytes())
            .finish();
        hash.to_string()[..MARK_HEX].to_owned()
    }

    /// What a Secret of Kubernetes holds.
    fn hide_data(&self, secret: &mut Value) {
        for field in ["data", "stringData"] {
            if let Some(Value::Object(fields)) = secret.get_mut(field) {
                fields.iter_mut().for_each(|(name, value)| self.hide(name, value));
            }
        }
    }

    fn walk(&self, value: &mut Value) {
        // Also as a part of something else: of a list, of a Terraform manifest.
        if value.get("kind").and_then(Value::as_str) == Some(SECRET) {
            self.hide_data(value);
        }
        match value {
            Value::Object(fields) => self.walk_object(fields),
            Value::Array(items) => self.walk_list(items),
            Value::String(text) if self.gives_itself_away(text) => self.hide("", value),
            _ => {}
        }
    }

    fn walk_object(&self, fields: &mut Map<String, Value>) {
        // An environment variable is a pair {name, value}: its name stands in another field.
        let named = NAME_FIELDS.iter().find_map(|field| fields.get(*field)).and_then(Value::as_str);
        let named_secret = named.filter(|name| self.is_secret(name)).map(str::to_owned);
        for (name, value) in fields.iter_mut() {
            let pair = named_secret.as_deref().filter(|_| name.eq_ignore_ascii_case("value"));
            match pair.or_else(|| self.is_secret(name).then_some(name.as_str())) {
                Some(name) => self.hide_below(name, value),
                None if name == LAST_APPLIED => self.hide(name, value),
                None => self.walk(value),
            }
        }
    }

    /// A command line may say `--password` in one place and the password in the next.
    fn walk_list(&self, items: &mut [Value]) {
        let mut flag = None;
        for item in items {
            let name = flag.take();
            if let Value::String(text) = &*item {
                let alone = text.strip_prefix('-').filter(|name| !name.contains('='));
                flag = alone.filter(|name| self.is_secret(name)).map(str::to_owned);
            }
            match name {
                Some(name) if item.as_str().is_some_and(|text| !text.starts_with('-')) => {
                    self.hide(&name, item);
                }
                _ => self.walk(item),
            }
        }
    }

    /// Takes out what stands below a secret name, but for what speaks about the secret.
    fn hide_below(&self, name: &str, value: &mut Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::String(text) if text.is_empty() || text::is_switch(text) => {}
            Value::String(_) | Value::Number(_) => self.hide(name, value),
            // A list of texts is one secret; of a list of objects each is looked into.
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                items.iter_mut().for_each(|item| self.hide_below(name, item));
            }
            Value::Array(items) => {
                if items.iter().any(|item| !item.is_boolean() && !item.is_null()) {
                    self.hide(name, value);
                }
            }
            Value::Object(fields) => {
                // {key, path}: which part of a secret is mounted where.
                let mounted = fields.contains_key("path");
                for (name, value) in fields.iter_mut() {
                    let about = self.is_open(name) || name::speaks_about(name) || (mounted && name == "key");
                    if about && !self.is_secret(name) {
                        self.walk(value);
                    } else {
                        self.hide_below(name, value);
                    }
                }
            }
        }
    }

    fn gives_itself_away(&self, text: &str) -> bool {
        text::gives_itself_away(text, &|name| self.is_secret(name)) || self.hides_within(text)
    }

    /// Whether a text is JSON that says more than a state may.
    fn hides_within(&self, text: &str) -> bool {
        if !text.trim_start().starts_with(['{', '[']) {
            return false;
        }
        let Ok(said) = serde_json::from_str::<Value>(text) else { return false };
        let mut left = said.clone();
        self.walk(&mut left);
        left != said
    }

    fn is_open(&self, name: &str) -> bool {
        self.open.contains(&name::folded(name))
    }

    fn is_secret(&self, name: &str) -> bool {
        let folded = name::folded(name);
        !self.open.contains(&folded) && (self.secret.contains(&folded) || name::is_secret(name))
    }
}

/// The kind whose data are secret whatever they are called.
const SECRET: &str = "Secret";
/// Fields that hold the name of what stands beside them in `value`.
const NAME_FIELDS: [&str; 4] = ["name", "key", "Name", "Key"];
/// kubectl keeps the whole manifest here once more, secrets and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

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
            json!({"credentials": {"user": "app", "value": S}}),
            json!({"credentials": {"primary": [{"value": S}, {"nested": {"deep": S}}]}}),
            json!({"db_pass": S, "secret_id": S, "psk": S, "user": {"client-key-data": S}}),
            json!({"args": ["serve", format!("--password={S}")], "command": ["x", "--db-token", S]}),
            json!({"data": {"app.properties": format!("user=a\npassword={S}\n")}}),
            json!({"note": format!("https://example.org, then amqp://app:{S}@mq/")}),
            json!({"note": format!("password: |\n  {S}\n")}),
            json!({"note": format!(r#"[{{"name":"DB_PASSWORD","value":"{S}"}}]"#)}),
            json!({"note": format!(r#" {{"kind":"Secret","data":{{"a":"{S}"}}}}"#)}),
            json!({"manifests": [{"kind": "Secret", "data": {"a": S}}]}),
            json!({"note": format!("apiVersion: v1\nkind: Secret\ndata:\n  a: {S}\n")}),
            json!({"note": format!(r#"{{"items":[{{"kind":"Secret","stringData":{{"a":"{S}"}}}}]}}"#)}),
            json!({"note": format!(r#"{{"args":["--password","{S}"]}}"#)}),
            json!({"settings.xml": format!("<server><password>{S}</password></server>")}),
            json!({"netrc": format!("machine h login u password {S}")}),
            json!({"bindpw": S, "bearer": S, "session_cookie": S}),
            json!({"env": [{"name": "PGPASS", "value": S}]}),
            json!({"note": format!("ghp_16C7e42F292c6912E7710c83{S}")}),
            json!({"Tags": [{"Key": "admin_password", "Value": S}]}),
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
            json!({"volumes": [{"name": "v", "secret": {"secretName": "tls", "items": [{"key": "tls.crt", "path": "c"}]}}]}),
            json!({"env": [{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]}),
            json!({"password": {"valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}}),
            json!({"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3607, "audience": "vault"}}]}),
            json!({"args": ["--token-file=/run/t", "--password=$(DB_PASSWORD)", "--authorization-mode=Node,RBAC"]}),
            json!({"note": r#"[{"name":"MODE","value":"fast"}]"#, "text": "[not json"}),
            json!({"bypass": "lane", "pass_count": 3, "access_key_id": "AKIA", "http_tokens": "required"}),
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

    #[test]
    fn labels_are_redacted_by_name_and_by_text_and_stay_texts() {
        let redactor = Redactor::new(Hash32::of(b"salt"), &RedactConfig::default());
        let labels = [
            ("admin_password", "hunter2"),
            ("farside.example/api_token", "hunter2"),
            ("dsn", "postgres://app:hunter2@db"),
            ("tier", "db"),
            ("secrets.example/owner", "team-a"),
            ("token", ""),
        ];
        let mut labels: BTreeMap<String, String> =
            labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        redactor.redact_labels(&mut labels);
        assert!(!labels.values().any(|value| value.contains("hunter2")), "{labels:?}");
        assert!(labels["admin_password"].starts_with(MARK) && labels["dsn"].starts_with(MARK));
        let open = [labels["tier"].as_str(), &labels["secrets.example/owner"], &labels["token"]];
        assert_eq!(open, ["db", "team-a", ""]);
    }
}
