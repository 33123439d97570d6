//! Feeds: what somebody outside reads from a log, with any client library. A durable pull consumer with a filter, made
//! here and never by its reader: whoever may create a consumer says where it delivers, and what a log delivers is a
//! message of the log's account, on any subject that somebody there listens to. See docs/decisions/0007.
//!
//! Must not know: who reads, and why.

use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::json;

use crate::{
    Bus, BusError,
    api::{Call, NO_STREAM},
    stream::no_stream,
};

/// What a reader has taken and not acknowledged comes again after this time.
const UNSETTLED_WAIT: Duration = Duration::from_secs(30);
/// Messages that a reader may have taken and not acknowledged.
const IN_FLIGHT_MAX: usize = 1_000;
/// JetStream's code for a consumer that does not exist.
const NO_CONSUMER: u64 = async_nats::jetstream::ErrorCode::CONSUMER_NOT_FOUND.0;

impl Bus {
    /// Makes a feed from the log's first message, or gives one that is there this filter.
    ///
    /// Errors: [`BusError::NoStream`], [`BusError::Denied`], the link.
    pub async fn ensure_feed(
        &self,
        stream: &str,
        consumer: &str,
        filters: &[String],
    ) -> Result<(), BusError> {
        let config = json!({
            "durable_name": consumer,
            "name": consumer,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_deliver": -1,
            "max_ack_pending": IN_FLIGHT_MAX,
            "ack_wait": UNSETTLED_WAIT.as_nanos() as u64,
            "filter_subjects": filters,
        });
        let request = json!({ "stream_name": stream, "config": config });
        let call = Call { verb: "make a feed from", object: stream };
        let subject = format!("CONSUMER.CREATE.{stream}.{consumer}");
        let made = self.call::<_, IgnoredAny>(call, &subject, &request).await;
        made.map(|_| ()).map_err(|e| no_stream(stream, e))
    }

    /// Removes a feed; one that is gone already is fine. Errors: [`BusError::Denied`], the link.
    pub async fn remove_feed(&self, stream: &str, consumer: &str) -> Result<(), BusError> {
        let call = Call { verb: "remove a feed from", object: stream };
        let subject = format!("CONSUMER.DELETE.{stream}.{consumer}");
        match self.call::<_, IgnoredAny>(call, &subject, &json!({})).await {
            Ok(_) | Err(BusError::Server { code: NO_STREAM | NO_CONSUMER, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
