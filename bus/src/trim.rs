//! Trimming: the beginning of a stream goes, when nobody needs it any more. Who does: consumers by their acknowledged
//! places, and mirrors by what they have. JetStream tells neither before it purges.
//!
//! Must not know: when and why a log is trimmed.

use std::fmt;

use serde::Deserialize;
use serde_json::json;

use crate::{Bus, BusError, StreamState, api::Call, stream::no_stream};

/// A mirror of a log in another JetStream domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteMirror {
    /// The domain.
    pub domain: String,
    /// The name of the mirror there.
    pub stream: String,
    /// The log that it mirrors.
    pub of: String,
}

impl fmt::Display for RemoteMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mirror {} in the domain {}", self.stream, self.domain)
    }
}

/// Somebody who is not done with all of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who, in words.
    pub name: String,
    /// The first sequence that is still needed.
    pub needs_seq: u64,
}

/// A page of a list. Items of it that cannot be read are an error: whoever cannot be asked may need something.
#[derive(Deserialize)]
struct Page<T> {
    total: usize,
    #[serde(alias = "consumers", alias = "streams")]
    items: Option<Vec<T>>,
    /// Those that could not be asked: in a cluster, they have no leader now.
    missing: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    name: String,
    config: ConsumerConfig,
    delivered: Place,
    ack_floor: Place,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_pending: u64,
}

#[derive(Deserialize)]
struct ConsumerConfig {
    #[serde(default)]
    ack_policy: String,
}

#[derive(Deserialize)]
struct Place {
    stream_seq: u64,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
    state: State,
}

#[derive(Deserialize)]
struct StreamConfig {
    name: String,
    mirror: Option<Origin>,
    #[serde(default)]
    sources: Vec<Origin>,
}

#[derive(Deserialize)]
struct Origin {
    name: String,
    /// It is a stream of that name elsewhere.
    external: Option<serde::de::IgnoredAny>,
}

impl Origin {
    fn is(&self, log: &str) -> bool {
        self.name == log && self.external.is_none()
    }
}

#[derive(Deserialize)]
struct State {
    last_seq: u64,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

impl Bus {
    /// Who still needs something of a stream: its consumers, and the mirrors of this account and those that are named.
    /// Errors: one of them cannot be asked, so that nobody knows; the link.
    pub async fn holders(
        &self,
        state: &StreamState,
        mirrors: &[RemoteMirror],
    ) -> Result<Vec<Holder>, BusError> {
        let stream = &state.stream;
        let call = Call { verb: "list who reads from", object: stream };
        let consumers: Vec<ConsumerInfo> = self.list(call, &format!("CONSUMER.LIST.{stream}")).await?;
        let streams: Vec<StreamInfo> = self.list(call, "STREAM.LIST").await?;
        let mut holders: Vec<_> = consumers.into_iter().filter_map(of_consumer).collect();
        holders.extend(streams.into_iter().filter_map(|other| of_stream(stream, other)));
        for mirror in mirrors.iter().filter(|mirror| mirror.of == *stream) {
            holders.push(self.of_mirror(mirror).await?);
        }
        holders.retain(|holder| holder.needs_seq <= state.last_seq);
        Ok(holders)
    }

    /// Removes what a stream has before a sequence; answers how many messages that were. Errors: [`BusError::NoStream`],
    /// [`BusError::Denied`], the link: then nobody knows whether it was done, and it may be asked for again.
    pub async fn trim(&self, stream: &str, first_seq: u64) -> Result<u64, BusError> {
        let call = Call { verb: "trim", object: stream };
        let (subject, request) = (format!("STREAM.PURGE.{stream}"), json!({ "seq": first_seq }));
        let purged = self.call::<_, Purged>(call, &subject, &request).await;
        purged.map(|purged| purged.purged).map_err(|error| no_stream(stream, error))
    }

    async fn list<T: for<'a> Deserialize<'a>>(
        &self,
        call: Call<'_>,
        subject: &str,
    ) -> Result<Vec<T>, BusError> {
        let mut all = Vec::new();
        loop {
            let request = json!({ "offset": all.len() });
            let page: Page<T> =
                self.call(call, subject, &request).await.map_err(|e| no_stream(call.object, e))?;
            if let Some(missing) = page.missing.filter(|missing| !missing.is_empty()) {
                return Err(call.answer(format!("{} cannot be asked now", missing.join(", "))));
            }
            let items = page.items.unwrap_or_default();
            let is_last = items.is_empty();
            all.extend(items);
            if is_last || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    async fn of_mirror(&self, mirror: &RemoteMirror) -> Result<Holder, BusError> {
        let RemoteMirror { domain, stream, of } = mirror;
        let call = Call { verb: "look at the mirror", object: stream };
        let info: StreamInfo =
            self.call_in(domain, call, &format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let mirrors = info.config.mirror.as_ref().map(|origin| origin.name.as_str());
        if mirrors != Some(of) {
            let text = format!(
                "{stream} in the domain {domain} is no mirror of {of}; see `service.retention.mirrors`"
            );
            return Err(call.answer(text));
        }
        Ok(Holder { name: mirror.to_string(), needs_seq: info.state.last_seq + 1 })
    }
}

fn of_consumer(info: ConsumerInfo) -> Option<Holder> {
    // The acknowledged place of one with a filter stays behind what it was not given.
    let is_done = info.num_pending == 0 && info.num_ack_pending == 0;
    let done = if info.config.ack_policy == "none" { info.delivered } else { info.ack_floor };
    let holder = Holder { name: format!("the consumer {}", info.name), needs_seq: done.stream_seq + 1 };
    (!is_done).then_some(holder)
}

fn of_stream(log: &str, other: StreamInfo) -> Option<Holder> {
    let StreamConfig { name, mirror, sources } = other.config;
    if mirror.is_some_and(|origin| origin.is(log)) {
        let needs_seq = other.state.last_seq + 1;
        return Some(Holder { name: format!("its mirror {name}"), needs_seq });
    }
    // Its own sequences are others, and JetStream does not tell how far it is.
    let is_source = sources.iter().any(|origin| origin.is(log));
    is_source.then(|| Holder { name: format!("the stream {name}, which has it as a source"), needs_seq: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(ack_policy: &str, delivered: u64, acked: u64, pending: (u64, u64)) -> Option<u64> {
        let config = ConsumerConfig { ack_policy: ack_policy.to_owned() };
        let (delivered, ack_floor) = (Place { stream_seq: delivered }, Place { stream_seq: acked });
        let (num_ack_pending, num_pending) = pending;
        let info =
            ConsumerInfo { name: "c".to_owned(), config, delivered, ack_floor, num_ack_pending, num_pending };
        of_consumer(info).map(|holder| holder.needs_seq)
    }

    #[test]
    fn a_consumer_needs_what_it_has_not_acknowledged_or_was_not_given() {
        assert_eq!(consumer("explicit", 20, 10, (5, 0)), Some(11));
        assert_eq!(consumer("explicit", 20, 10, (0, 5)), Some(11));
        assert_eq!(consumer("none", 20, 0, (0, 5)), Some(21));
        assert_eq!(consumer("explicit", 20, 10, (0, 0)), None, "its filter let nothing more through");
    }

    #[test]
    fn a_mirror_needs_what_it_has_not_and_a_stream_with_sources_may_need_anything() {
        let origin = |name: &str| Origin { name: name.to_owned(), external: None };
        let of = |mirror: Option<&str>, sources: &[&str]| {
            let sources = sources.iter().map(|name| origin(name)).collect();
            let config = StreamConfig { name: "OTHER".to_owned(), mirror: mirror.map(origin), sources };
            of_stream("LOG", StreamInfo { config, state: State { last_seq: 9 } })
                .map(|holder| holder.needs_seq)
        };
        assert_eq!(of(Some("LOG"), &[]), Some(10));
        assert_eq!(of(None, &["X", "LOG"]), Some(0));
        assert_eq!((of(Some("X"), &[]), of(None, &["X"]), of(None, &[])), (None, None, None));
    }
}
