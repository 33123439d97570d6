//! What an event must obey beyond its schema: names, tokens, revisions, labels, states.

use bus_schema::{
    ResourceKey, Revision, canonical,
    envelope::EnvelopeError,
    event::{DecodeError, resource::Changed},
    id::{KIND_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX, RESOURCE_ID_BYTES_MAX, REVISION_BYTES_MAX},
    token,
};

/// Longest reason and longest path of a fault, in bytes. Both may quote the message, and stand in a fact and in a header:
/// without a limit they could be larger than what a log takes.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Why a message cannot be taken in.
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) path: String,
}

impl Fault {
    pub(super) fn new(path: &str, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), path: path.to_owned() }
    }

    /// As much of it as can be told.
    pub(super) fn bounded(mut self) -> Self {
        for text in [&mut self.reason, &mut self.path] {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        self
    }
}

impl From<EnvelopeError> for Fault {
    fn from(error: EnvelopeError) -> Self {
        Self { reason: error.reason, path: error.path }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self { path: error.path().to_owned(), reason: error.to_string() }
    }
}

/// Checks the parts of a resource's key.
pub(super) fn check_key(kind: &str, id: &str) -> Result<(), Fault> {
    let fits = (1..=KIND_BYTES_MAX).contains(&kind.len()) && (1..=RESOURCE_ID_BYTES_MAX).contains(&id.len());
    if !fits || !is_plain(kind) || !is_plain(id) || kind.bytes().any(|b| b == b'/') {
        ResourceKey::new(kind, id).map_err(|error| Fault::new("$", error.to_string()))?;
    }
    Ok(())
}

pub(super) fn check_token(subject_token: &str, key: &str) -> Result<(), Fault> {
    if token::matches(subject_token, key) {
        return Ok(());
    }
    let right = token::of(key);
    let reason = format!(
        "the subject's token {subject_token:?} is not the token of {key:?}; publish on a subject with the token {right:?}"
    );
    Err(Fault::new("subject", reason))
}

/// Whether text is ASCII without control characters: most is, and needs no closer look.
fn is_plain(text: &str) -> bool {
    text.bytes().filter(|b| !(0x20..0x7f).contains(b)).count() == 0
}

pub(super) fn check_revision(revision: &str) -> Result<(), Fault> {
    if (1..=REVISION_BYTES_MAX).contains(&revision.len()) && is_plain(revision) {
        return Ok(());
    }
    revision.parse::<Revision>().map(drop).map_err(|error| Fault::new("$.revision", error.to_string()))
}

pub(super) fn check_changed(changed: &Changed<'_>) -> Result<(), Fault> {
    check_revision(&changed.revision)?;
    let fits = |text: &str| text.len() <= LABEL_BYTES_MAX;
    if changed.labels.len() > LABELS_MAX
        || !changed.labels.iter().all(|(name, value)| fits(name) && fits(value))
    {
        let reason =
            format!("send at most {LABELS_MAX} labels, names and values of at most {LABEL_BYTES_MAX} bytes");
        return Err(Fault::new("$.labels", reason));
    }
    if may_have_no_canonical_form(changed.state.get()) {
        canonical::state_hash(changed.state).map_err(|error| {
            let reason =
                format!("the state has no RFC 8785 form: {error}; send a state that every JSON reader takes");
            Fault::new("$.state", reason)
        })?;
    }
    Ok(())
}

/// Whether text that is JSON may be refused by a JSON reader that builds values: numbers beyond a
/// double, halves of surrogate pairs, nesting without end. Cheap, and wrong on the safe side only.
fn may_have_no_canonical_form(state: &str) -> bool {
    /// serde_json's own limit is 128.
    const DEPTH_MAX: usize = 100;
    /// The largest double has 309 digits; a run of 255 digits holds an aligned chunk of 128.
    const DIGITS: usize = 128;
    let bytes = state.as_bytes();
    // Loops without branches, which a processor takes in strides.
    let deep = bytes.len() > DEPTH_MAX && bytes.iter().filter(|b| **b | 0x20 == b'{').count() > DEPTH_MAX;
    let odd = bytes
        .iter()
        .zip(bytes.iter().skip(1))
        .filter(|(first, second)| {
            let exponent = first.is_ascii_digit() & (**second | 0x20 == b'e');
            exponent | ((**first == b'\\') & (**second == b'u'))
        })
        .count();
    let long = bytes.chunks_exact(DIGITS).any(|chunk| chunk.iter().all(u8::is_ascii_digit));
    deep || odd > 0 || long
}
