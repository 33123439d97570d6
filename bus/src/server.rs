//! What the server says about itself, and what Farside thinks of its version.

use async_nats::ServerInfo;

/// The version that Farside is tested with.
const TESTED: (u64, u64, u64) = (2, 15, 1);

/// What versions below lack, newest first: (the first version that has it, what is missing).
const MISSING_BELOW: [((u64, u64, u64), &str); 4] = [
    (
        (2, 15, 1),
        "compaction that honours sync_interval: always (#8475); 2.15.1 is what Farside is tested with",
    ),
    ((2, 14, 4), "synced encryption key files (#8366)"),
    ((2, 14, 3), "compaction that keeps compressed blocks whole (#8312)"),
    ((2, 12, 1), "atomic batches with duplicate detection, so agents cannot publish in batches"),
];
/// Older than this, even single publishes lack what Farside needs.
const OLDEST: (u64, u64, u64) = (2, 11, 0);

/// What Farside thinks of a server's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerVerdict {
    /// 2.15.1 or newer: what Farside is tested with.
    Fine,
    /// 2.11 to 2.15.0: it works, and this is missing.
    Missing(Vec<String>),
    /// Older, or not to be recognised: refused.
    TooOld,
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version, like `2.15.1`.
    pub version: String,
    /// Its name.
    pub name: String,
    /// What it is called from its start to its end: another one after a restart.
    pub id: String,
    /// Largest message that it takes, in bytes.
    pub payload_bytes_max: usize,
    /// Whether it has JetStream.
    pub jetstream: bool,
    /// What Farside thinks of the version.
    pub verdict: ServerVerdict,
}

impl From<ServerInfo> for ServerFacts {
    fn from(info: ServerInfo) -> Self {
        Self {
            verdict: verdict(&info.version),
            version: info.version,
            name: info.server_name,
            id: info.server_id,
            payload_bytes_max: info.max_payload,
            jetstream: info.jetstream,
        }
    }
}

/// What Farside thinks of a version like `2.15.1` or `v2.15.0-RC.1`.
pub(crate) fn verdict(version: &str) -> ServerVerdict {
    let Some(version) = parse(version) else { return ServerVerdict::TooOld };
    if version < OLDEST {
        return ServerVerdict::TooOld;
    }
    if version >= TESTED {
        return ServerVerdict::Fine;
    }
    let missing = MISSING_BELOW.iter().filter(|(first, _)| version < *first);
    ServerVerdict::Missing(missing.map(|(_, what)| (*what).to_owned()).collect())
}

fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let core = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse::<u64>().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_fine_or_lacks_something_or_is_refused() {
        assert_eq!(verdict("2.15.1"), ServerVerdict::Fine);
        assert_eq!(verdict("v3.0.0-beta"), ServerVerdict::Fine);
        for (version, missing) in [("2.15.0", 1), ("2.14.3", 2), ("2.12.1", 3), ("2.11.9", 4)] {
            let ServerVerdict::Missing(what) = verdict(version) else { panic!("{version}") };
            assert_eq!(what.len(), missing, "{version}: {what:?}");
        }
        for refused in ["2.10.29", "1.4.1", "", "mystery"] {
            assert_eq!(verdict(refused), ServerVerdict::TooOld, "{refused}");
        }
    }
}
