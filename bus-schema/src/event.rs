//! Events of a site log: facts that source agents (or any publisher) state, one module per stem.
//!
//! Decoding is liberal about unknown fields (a newer publisher is welcome) and strict about known
//! ones. An unknown event is an error for the dead letters, never ignored.
//!
//! **A new version of an event**: add a variant with the new name (`changed_v2`), keep the old one, and
//! translate the old into the new where it is decoded; add a golden sample for each.

use serde::Deserialize;

use crate::id::Stem;

pub mod agent;
pub mod image;
pub mod key;
pub mod resource;
pub mod volume;

/// An event of a site log, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A fact about a source's inventory.
    Resource(resource::ResourceEvent<'a>),
    /// A fact about a replicated volume.
    Volume(volume::VolumeEvent),
    /// A fact about a registry's images.
    Image(image::ImageEvent),
    /// A fact about an agent's own life.
    Agent(agent::AgentEvent),
    /// A fact about a source's access keys.
    Key(key::KeyEvent),
}

impl<'a> Event<'a> {
    /// Decodes the data of an event. Errors: an unknown event, or what is wrong in the data and where.
    pub fn decode(stem: Stem, event: &str, data: &'a [u8]) -> Result<Self, DecodeError> {
        match stem {
            Stem::Resource => resource::ResourceEvent::decode(event, data).map(Self::Resource),
            Stem::Volume => volume::VolumeEvent::decode(event, data).map(Self::Volume),
            Stem::Image => image::ImageEvent::decode(event, data).map(Self::Image),
            Stem::Agent => agent::AgentEvent::decode(event, data).map(Self::Agent),
            Stem::Key => key::KeyEvent::decode(event, data).map(Self::Key),
            Stem::Application | Stem::Chassis | Stem::Tenant | Stem::Log => {
                Err(DecodeError::unknown(stem, event))
            }
        }
    }

    /// The key of the entity that the event speaks of; its token is the subject's token.
    pub fn entity(&self) -> String {
        match self {
            Self::Resource(event) => event.entity(),
            Self::Volume(event) => event.entity(),
            Self::Image(event) => event.entity(),
            Self::Agent(event) => event.entity(),
            Self::Key(event) => event.entity(),
        }
    }
}

/// Why an event's data cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// This build does not know the event.
    #[error(
        "unknown event {0}: a newer farside may know it; upgrade, then 'farside rebuild --swap' takes in one that the log has"
    )]
    Unknown(String),
    /// The data does not fit the event's schema.
    #[error(
        "the data of {event} is wrong at {path}: {reason}; the JSON Schema is bus-schema/schema/{event}.json"
    )]
    Data {
        /// `<stem>.<event>`.
        event: String,
        /// JSON path of the fault.
        path: String,
        /// What is wrong there.
        reason: String,
    },
}

impl DecodeError {
    pub(crate) fn unknown(stem: Stem, event: &str) -> Self {
        Self::Unknown(format!("{stem}.{event}"))
    }

    /// The JSON path of the fault, `$` for the whole.
    pub fn path(&self) -> &str {
        match self {
            Self::Unknown(_) => "$",
            Self::Data { path, .. } => path,
        }
    }
}

/// Decodes data; only when that fails, decodes again to learn where.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    stem: Stem,
    event: &str,
    data: &'a [u8],
) -> Result<T, DecodeError> {
    if let Some(reason) = crate::text::not_an_object(data) {
        let (event, path) = (format!("{stem}.{event}"), "$".to_owned());
        return Err(DecodeError::Data { event, path, reason });
    }
    serde_json::from_slice(data).map_err(|first| {
        let from = &mut serde_json::Deserializer::from_slice(data);
        let (path, reason) = match serde_path_to_error::deserialize::<_, T>(from) {
            Err(error) => (format!("$.{}", error.path()), error.inner().to_string()),
            Ok(_) => ("$".to_owned(), first.to_string()),
        };
        DecodeError::Data { event: format!("{stem}.{event}"), path: path.replace("$..", "$"), reason }
    })
}

/// Declares the events of one stem: an enum, its names on subjects, its decoder and its encoder.
macro_rules! events {
    ($(#[$doc:meta])* $stem:ident $enum:ident $(<$life:lifetime>)? {
        $($(#[$variant_doc:meta])* $variant:ident($data:ty) = $name:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $enum $(<$life>)? {
            $($(#[$variant_doc])* $variant($data),)+
        }

        impl $(<$life>)? $enum $(<$life>)? {
            /// The stem of these events.
            pub const STEM: $crate::id::Stem = $crate::id::Stem::$stem;
            /// Their names on subjects.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The event's name, the last part of its subject.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// The key of the entity that the event speaks of.
            pub fn entity(&self) -> String {
                match self { $(Self::$variant(data) => data.entity(),)+ }
            }

            /// The event's data as JSON text.
            pub fn data(&self) -> serde_json::Result<Vec<u8>> {
                match self { $(Self::$variant(data) => serde_json::to_vec(data),)+ }
            }

            /// Decodes the data of the event `name`. Errors: an unknown name, or what is wrong and where.
            pub fn decode(name: &str, data: &$($life)? [u8]) -> Result<Self, $crate::event::DecodeError> {
                match name {
                    $($name => $crate::event::decode(Self::STEM, name, data).map(Self::$variant),)+
                    _ => Err($crate::event::DecodeError::unknown(Self::STEM, name)),
                }
            }

            /// Each event's name with the JSON Schema of its data.
            pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($name, schemars::schema_for!($data)),)+]
            }
        }
    };
}
pub(crate) use events;
