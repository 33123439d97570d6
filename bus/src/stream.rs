//! Streams: a [`StreamSpec`] as a JetStream configuration, what a stream holds, and how it falls short.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    stream::{self, Compression, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType},
};
use bus_schema::{
    Timestamp,
    stream::{MESSAGE_BYTES_MAX, StreamSpec},
};
use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Bus, BusError, LogMessage,
    api::{Call, NO_MESSAGE, NO_STREAM},
};

/// JetStream's codes for a size limit that the disk or the account does not have room for.
const NO_ROOM: [u64; 4] = [
    ErrorCode::STORAGE_RESOURCES_EXCEEDED.0,
    ErrorCode::INSUFFICIENT_RESOURCES.0,
    ErrorCode::ACCOUNT_RESOURCES_EXCEEDED.0,
    ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED.0,
];

/// What a stream holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The stream's name.
    pub stream: String,
    /// When it was made: a stream of the same name with another time is another log.
    pub created: Timestamp,
    /// The first sequence that it still has; when it is empty `last_seq + 1`, or 0 when it never had a message.
    pub first_seq: u64,
    /// The last sequence that it gave out; 0 when it never had a message.
    pub last_seq: u64,
    /// Messages in it.
    pub messages: u64,
    /// Messages between first and last that it does not have (any more).
    pub deleted: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Its size limit in bytes; none = without limit.
    pub bytes_max: Option<u64>,
}

impl StreamState {
    /// Whether it begins behind its first message: it was trimmed, or has lost its beginning.
    pub fn begins_late(&self) -> bool {
        self.first_seq > 1
    }
}

impl From<stream::Info> for StreamState {
    fn from(info: stream::Info) -> Self {
        let created_ms = i64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        Self {
            stream: info.config.name,
            created: Timestamp::from_unix_ms(created_ms),
            first_seq: info.state.first_sequence,
            last_seq: info.state.last_sequence,
            messages: info.state.messages,
            deleted: info.state.deleted_count.unwrap_or(0),
            bytes: info.state.bytes,
            bytes_max: u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0),
        }
    }
}

impl Bus {
    /// Makes the stream, or verifies the one that is there, which it never changes.
    ///
    /// Errors: [`BusError::WeakerStream`] names every difference; [`BusError::NoRoom`] when the server
    /// cannot set aside `bytes_max`.
    pub async fn ensure_stream(&self, spec: &StreamSpec) -> Result<StreamState, BusError> {
        let existing = match self.make_stream(&config_of(spec)).await {
            Err(BusError::Server { code, reason, .. }) if NO_ROOM.contains(&code) => {
                let (stream, bytes_max) = (spec.name.clone(), spec.bytes_max);
                return Err(BusError::NoRoom { stream, bytes_max, reason });
            }
            existing => existing?,
        };
        let differences = weaknesses(&existing.config, spec);
        if differences.is_empty() {
            return Ok(existing.into());
        }
        Err(BusError::WeakerStream { stream: spec.name.clone(), differences })
    }

    /// Raises the size limit of a stream that has a lower one; never lowers one.
    ///
    /// Errors: [`BusError::NoRoom`] when the server cannot set aside `bytes_max`, the link.
    pub async fn raise_limit(&self, stream: &str, bytes_max: i64) -> Result<(), BusError> {
        let call = Call { verb: "raise the size limit of", object: stream };
        match self.raise(call, "max_bytes", bytes_max).await {
            Err(BusError::Server { code, reason, .. }) if NO_ROOM.contains(&code) => {
                Err(BusError::NoRoom { stream: stream.to_owned(), bytes_max, reason })
            }
            raised => raised,
        }
    }

    /// Gives a stream that has fewer copies in its cluster this many; never takes one away.
    ///
    /// Errors: JetStream's when the cluster has too few nodes now, the link.
    pub(crate) async fn raise_replicas(&self, stream: &str, replicas: usize) -> Result<(), BusError> {
        let call = Call { verb: "give more copies to", object: stream };
        self.raise(call, "num_replicas", i64::try_from(replicas).unwrap_or(i64::MAX)).await
    }

    /// Raises one setting of a stream that has less.
    async fn raise(&self, call: Call<'_>, setting: &str, to: i64) -> Result<(), BusError> {
        let stream = call.object;
        // As it came, so that settings which this version does not know stay as they are.
        let mut info: serde_json::Value = self.call(call, &format!("STREAM.INFO.{stream}"), &()).await?;
        let config = &mut info["config"];
        if config[setting].as_i64().is_none_or(|has| has >= to) {
            return Ok(());
        }
        config[setting] = to.into();
        self.call::<_, serde_json::Value>(call, &format!("STREAM.UPDATE.{stream}"), config).await?;
        tracing::info!(stream, setting, to, "a setting of the stream is raised");
        Ok(())
    }

    /// What a stream holds now. Errors: [`BusError::NoStream`], the link.
    pub async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError> {
        Ok(self.stream_info(stream).await?.into())
    }

    /// One message of a stream by its sequence; none when the server says that the stream does not have it (any more).
    /// Where much hangs on that, see [`Bus::message_for_sure`].
    pub async fn message(&self, stream: &str, seq: u64) -> Result<Option<LogMessage>, BusError> {
        self.stored(stream, &json!({ "seq": seq })).await
    }

    /// The latest message under a subject (wildcards allowed); none when there is none.
    pub async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<LogMessage>, BusError> {
        self.stored(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The first message at `seq` or behind it under a subject filter.
    pub(crate) async fn next_message(
        &self,
        stream: &str,
        seq: u64,
        filter: &str,
    ) -> Result<Option<LogMessage>, BusError> {
        self.stored(stream, &json!({ "seq": seq, "next_by_subj": filter })).await
    }

    pub(crate) async fn stored(
        &self,
        stream: &str,
        request: &serde_json::Value,
    ) -> Result<Option<LogMessage>, BusError> {
        let call = Call { verb: "read a message of", object: stream };
        let answer = self.call::<_, StoredAnswer>(call, &format!("STREAM.MSG.GET.{stream}"), request).await;
        let message = match answer {
            Ok(answer) => answer.message,
            Err(BusError::Server { code: NO_MESSAGE, .. }) => return Ok(None),
            Err(e) => return Err(no_stream(stream, e)),
        };
        let decoded = |text: Option<&str>| BASE64.decode(text.unwrap_or_default().as_bytes());
        let headers = decoded(message.hdrs.as_deref()).map_err(|e| call.answer(e))?;
        let body: Bytes = decoded(message.data.as_deref()).map_err(|e| call.answer(e))?.into();
        let StoredMessage { seq, time, subject, .. } = message;
        Ok(Some(LogMessage::fetched(stream.into(), seq, time, subject, &headers, body)))
    }

    async fn stream_info(&self, stream: &str) -> Result<stream::Info, BusError> {
        let call = Call { verb: "look at the stream", object: stream };
        let info = self.call(call, &format!("STREAM.INFO.{stream}"), &()).await;
        info.map_err(|e| no_stream(stream, e))
    }

    /// Makes a stream that is not there, and answers what is there then.
    ///
    /// In two steps, because nats-server that is killed while it writes the description of a new stream can
    /// make it again over the remains and yet not know it at the next start, whatever it acknowledged
    /// meanwhile. An update writes the description anew, so the stream gets its subjects by one: what takes a
    /// message is whole. `docs/decisions/0006-logs-that-come-back.md` has the measurement.
    pub(crate) async fn make_stream(&self, config: &stream::Config) -> Result<stream::Info, BusError> {
        let name = &config.name;
        let unused = vec![unused_subject(name)];
        let existing = match self.stream_info(name).await {
            Err(BusError::NoStream { .. }) => {
                let first = stream::Config { subjects: unused.clone(), ..config.clone() };
                match self.change_stream("make the stream", "CREATE", &first).await {
                    // Another process made it in this moment.
                    Err(BusError::Server { code, .. }) if code == ErrorCode::STREAM_NAME_EXIST.0 => {
                        self.stream_info(name).await?
                    }
                    made => made?,
                }
            }
            existing => existing?,
        };
        if existing.config.subjects != unused {
            return Ok(existing);
        }
        self.change_stream("give its subjects to the stream", "UPDATE", config).await
    }

    async fn change_stream(
        &self,
        verb: &'static str,
        change: &str,
        config: &stream::Config,
    ) -> Result<stream::Info, BusError> {
        let call = Call { verb, object: &config.name };
        self.call(call, &format!("STREAM.{change}.{}", config.name), config).await
    }
}

/// What a stream stores until it is made.
fn unused_subject(stream: &str) -> String {
    format!("farside.unmade.{stream}")
}

#[derive(Deserialize)]
struct StoredAnswer {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    hdrs: Option<String>,
    data: Option<String>,
    time: Timestamp,
}

pub(crate) fn no_stream(stream: &str, error: BusError) -> BusError {
    match error {
        BusError::Server { code: NO_STREAM, .. } => BusError::NoStream { stream: stream.to_owned() },
        error => error,
    }
}

fn config_of(spec: &StreamSpec) -> stream::Config {
    stream::Config {
        name: spec.name.clone(),
        subjects: vec![spec.subjects.clone()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: spec.bytes_max,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        num_replicas: spec.replicas,
        duplicate_window: Duration::from_millis(spec.duplicate_window_ms),
        compression: Some(Compression::S2),
        deny_delete: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..stream::Config::default()
    }
}

/// In which ways a stream keeps less than `spec` asks for; each says what it has and what it should have.
fn weaknesses(has: &stream::Config, spec: &StreamSpec) -> Vec<String> {
    let wanted_window = Duration::from_millis(spec.duplicate_window_ms);
    let is_mirror = has.mirror.is_some();
    let checks = [
        (has.storage != StorageType::File, "its storage is memory; use file".to_owned()),
        (
            has.retention != RetentionPolicy::Limits,
            format!("its retention is {:?}, which forgets what was read; use limits", has.retention),
        ),
        (
            has.discard != DiscardPolicy::New,
            "it discards old messages when it is full; use discard new".to_owned(),
        ),
        (!has.max_age.is_zero(), format!("it forgets after {:?}; use no max_age", has.max_age)),
        (has.max_messages > 0, format!("it ends at {} messages; use no max_msgs", has.max_messages)),
        (
            has.max_messages_per_subject > 0,
            format!(
                "it keeps {} messages a subject; use no max_msgs_per_subject",
                has.max_messages_per_subject
            ),
        ),
        (
            usize::try_from(has.max_message_size).is_ok_and(|limit| (1..MESSAGE_BYTES_MAX).contains(&limit)),
            format!(
                "it takes messages of {} bytes at most; set max_msg_size to {MESSAGE_BYTES_MAX} or more, or to -1",
                has.max_message_size
            ),
        ),
        (
            has.max_bytes <= 0,
            "it has no size limit, so a full disk stops it without an alarm; set max_bytes".to_owned(),
        ),
        (!has.deny_delete, "its messages can be deleted; set deny_delete".to_owned()),
        (has.allow_rollup, "a header can erase its history; do not allow rollup headers".to_owned()),
        (
            has.allow_message_ttl,
            "a header can make its messages expire; do not allow message TTLs".to_owned(),
        ),
        (has.no_ack, "it does not acknowledge; set no_ack to false".to_owned()),
        (has.sealed, "it is sealed and takes no messages".to_owned()),
        (
            has.persist_mode == Some(PersistenceMode::Async),
            "it acknowledges before it writes (persist_mode async); use the default".to_owned(),
        ),
        (
            has.num_replicas < spec.replicas,
            format!("it has {} replicas; use {}", has.num_replicas, spec.replicas),
        ),
        (
            !is_mirror && has.duplicate_window < wanted_window,
            format!("its duplicate window is {:?}; use {wanted_window:?}", has.duplicate_window),
        ),
        (!is_mirror && !has.allow_atomic_publish, "it takes no atomic batches; set allow_atomic".to_owned()),
        (
            !is_mirror && !has.subjects.contains(&spec.subjects),
            format!("it stores {:?}; let it store {:?}", has.subjects, spec.subjects),
        ),
        (
            has.subject_transform.is_some(),
            "it changes subjects on the way in; use no subject_transform".to_owned(),
        ),
    ];
    checks.into_iter().filter_map(|(weak, text)| weak.then_some(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_farside_makes_has_no_weakness_and_each_weaker_setting_is_named() {
        let spec = StreamSpec::site(&"local".parse().unwrap());
        let made = config_of(&spec);
        assert_eq!(weaknesses(&made, &spec), Vec::<String>::new());
        type Weaken = fn(&mut stream::Config);
        let weaker: [(&str, Weaken); 9] = [
            ("messages of 65536 bytes", |c| c.max_message_size = 65_536),
            ("memory", |c| c.storage = StorageType::Memory),
            ("discards old", |c| c.discard = DiscardPolicy::Old),
            ("forgets after", |c| c.max_age = Duration::from_secs(60)),
            ("deleted", |c| c.deny_delete = false),
            ("no size limit", |c| c.max_bytes = -1),
            ("duplicate window", |c| c.duplicate_window = Duration::from_secs(1)),
            ("atomic batches", |c| c.allow_atomic_publish = false),
            ("it stores", |c| c.subjects = vec!["other.>".to_owned()]),
        ];
        for (named, weaken) in weaker {
            let mut config = made.clone();
            weaken(&mut config);
            let found = weaknesses(&config, &spec);
            assert!(found.len() == 1 && found[0].contains(named), "{named}: {found:?}");
        }
    }
}
