//! What a document is, recognised by its content: Kubernetes manifests and lists, Terraform state and
//! `terraform show -json`, Ansible inventories, plain records. One bad document never hides the others.
//!
//! Must not know: files, commands, or what was known before.

use std::collections::BTreeMap;

use bus_schema::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Draft, Fault, Go, Place, Record, Seen};
use crate::redact::Redactor;

mod ansible;
mod kubernetes;
mod plain;
mod terraform;
#[cfg(test)]
mod tests;
mod text;

/// The formats by name, for sources that say what they print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `{kind, id, revision?, state, labels?, tenant?}`, one, a list, or one a line.
    Records,
    /// A manifest, or a `List` of them (`kubectl get -A -o json`).
    KubernetesList,
    /// `terraform show -json`, or a state file of version 4.
    TerraformShow,
    /// `ansible-inventory --list`.
    AnsibleInventory,
}

/// Reads documents of any known format.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Takes secrets out before anything leaves this room.
    pub redactor: Redactor,
    /// The label that names a resource's tenant (`l1` or `l1.l2`).
    pub tenant_label: String,
    /// Whose a resource is that names nobody.
    pub tenant: Option<TenantId>,
    /// The only format to expect; none = by content.
    pub format: Option<Format>,
}

/// What reading a text came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Documents in it, good and bad.
    pub documents: u64,
    /// A document said `"explicit_empty": true`.
    pub explicit_empty: bool,
    /// Whoever wanted the records is gone.
    pub stopped: bool,
}

impl Reader {
    /// Reads a text and hands over every resource in it, and a fault for everything that is none.
    pub fn read(&self, path: &str, body: &str, each: &mut dyn FnMut(Seen) -> Go) -> Read {
        let mut read = Read::default();
        text::documents(path, body, &mut |document| {
            read.documents += 1;
            let go = match document {
                Ok((value, line)) => {
                    let place = Place { path: path.to_owned(), line };
                    read.explicit_empty |= plain::says_empty(&value);
                    self.document(value, &place, each)
                }
                Err(fault) => each(Seen::Fault(fault)),
            };
            read.stopped |= go == Go::Stop;
            go
        });
        read
    }

    fn document(&self, value: Value, place: &Place, each: &mut dyn FnMut(Seen) -> Go) -> Go {
        let fault = |reason: String| Fault::new(place.clone(), reason);
        let Some(format) = recognised(&value) else {
            return each(Seen::Fault(fault(UNRECOGNISED.to_owned())));
        };
        if self.format.is_some_and(|wanted| wanted != format) {
            let wanted = self.format.unwrap_or(format);
            let reason = format!("the document is {format:?}, but the configuration says {wanted:?}");
            return each(Seen::Fault(fault(reason)));
        }
        let mut hand_over = |draft: Result<Draft, String>| {
            let record = draft.and_then(|draft| self.record(draft, place));
            each(record.map_or_else(|reason| Seen::Fault(fault(reason)), Seen::Record))
        };
        match format {
            Format::Records => plain::read(value, &mut hand_over),
            Format::KubernetesList => kubernetes::read(value, &mut hand_over),
            Format::TerraformShow => terraform::read(value, &self.redactor, &mut hand_over),
            Format::AnsibleInventory => ansible::read(value, &mut hand_over),
        }
    }

    fn record(&self, mut draft: Draft, place: &Place) -> Result<Record, String> {
        self.redactor.redact(&draft.kind, &mut draft.state);
        if draft.tenant.is_none() {
            // A label's value may not hold a slash in Kubernetes.
            draft.tenant = draft.labels.get(&self.tenant_label).map(|text| text.replace('.', "/"));
        }
        self.redactor.redact_labels(&mut draft.labels);
        let default = self.tenant.as_ref();
        draft.tenant = draft.tenant.or_else(|| default.map(TenantId::to_string));
        Record::new(draft, place.clone())
    }
}

const UNRECOGNISED: &str = "the document is none of: a Kubernetes manifest, Terraform state (version 4) or `terraform show -json`, \
     an Ansible inventory (`ansible-inventory --list`), a record {kind, id, state}";

fn recognised(value: &Value) -> Option<Format> {
    let has = |field: &str| value.get(field).is_some();
    if has("apiVersion") && has("kind") {
        return Some(Format::KubernetesList);
    }
    let terraform_state = value.get("version").and_then(Value::as_u64) == Some(4) && has("resources");
    if terraform_state || (has("format_version") && (has("values") || has("terraform_version"))) {
        return Some(Format::TerraformShow);
    }
    if value.pointer("/_meta/hostvars").is_some() {
        return Some(Format::AnsibleInventory);
    }
    let record = has("kind") && has("id");
    (record || has("records") || has("explicit_empty")).then_some(Format::Records)
}

/// String values of an object, for labels; other values are not labels.
fn string_map(value: Option<&Value>) -> BTreeMap<String, String> {
    let fields = value.and_then(Value::as_object).into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// What a format hands its resources to.
type HandOver<'a> = dyn FnMut(Result<Draft, String>) -> Go + 'a;
