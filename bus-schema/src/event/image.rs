//! Events of the stem `image`. Layers never travel here: an event names digests.

use serde::{Deserialize, Serialize};

use crate::{event::events, text::decimal, time::Timestamp};

events! {
    /// A fact about a registry's images.
    Image ImageEvent {
        /// A manifest is in the registry.
        Pushed(Pushed) = "pushed",
        /// A manifest or a tag is gone from the registry.
        Deleted(Deleted) = "deleted",
    }
}

/// A manifest is in the registry (`image.pushed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Pushed {
    /// The registry's name, as its agent knows it.
    pub registry: String,
    /// The repository, for example `library/nginx`.
    pub repository: String,
    /// The tag, when the push had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The manifest's digest, `<algorithm>:<hex>` (OCI image spec, "Digests").
    #[schemars(regex(pattern = r"^[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"))]
    pub digest: String,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's size in bytes.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub size_bytes: u64,
    /// Who pushed it, when the registry says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// When the registry took it in.
    pub pushed_at: Timestamp,
}

/// A manifest or a tag is gone from the registry (`image.deleted`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Deleted {
    /// The registry's name.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag, when only the tag is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The manifest's digest.
    pub digest: String,
}

macro_rules! entity_is_reference {
    ($($type:ty),+) => { $(impl $type {
        /// `<registry>/<repository>:<tag>`, or `<registry>/<repository>@<digest>` without a tag.
        pub fn entity(&self) -> String {
            match &self.tag {
                Some(tag) => format!("{}/{}:{tag}", self.registry, self.repository),
                None => format!("{}/{}@{}", self.registry, self.repository, self.digest),
            }
        }
    })+ };
}
entity_is_reference!(Pushed, Deleted);
