//! A stream as JetStream itself packs it, out of one server and into another: with the sequences, the times of storage,
//! the time of creation, and the places of its durable consumers as they were.
//!
//! `$JS.API.STREAM.SNAPSHOT` and `.RESTORE`, which the client library does not have. The server checks every message
//! that it packs. What the pieces hold is its own affair.

use std::time::Duration;

use async_nats::{Request, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{Bus, BusError, StreamState, api::Call, stream::no_stream};

/// Bytes of one piece: little enough that a server that syncs each message has unpacked it before it takes its sender for
/// stalled, which is after 5 s.
pub const PIECE_BYTES: usize = 64 << 10;
/// How long the server may take for the next piece, which it may have to check first.
const PIECE_WAIT: Duration = Duration::from_secs(60);
/// How long it may take to make a stream of what it was given: it reads all of it.
const MAKE_WAIT: Duration = Duration::from_secs(600);

/// A stream that is being packed.
#[derive(Debug)]
pub struct PackedStream {
    bus: Bus,
    stream: String,
    head: Value,
    pieces: Subscriber,
}

/// A stream that is being made from what was packed.
#[derive(Debug)]
pub struct UnpackedStream {
    bus: Bus,
    stream: String,
    deliver_to: String,
}

impl Bus {
    /// Packs a stream as it is now; what comes later is not in it. Errors: [`BusError::NoStream`], the server, the link.
    pub async fn pack_stream(&self, stream: &str) -> Result<PackedStream, BusError> {
        let call = Call { verb: "pack", object: stream };
        let inbox = self.client().new_inbox();
        let pieces = self.client().subscribe(inbox.clone()).await.map_err(|e| call.link(e))?;
        let request = json!({
            "deliver_subject": inbox, "no_consumers": false, "jsck": true, "chunk_size": PIECE_BYTES,
        });
        let head = self.call(call, &format!("STREAM.SNAPSHOT.{stream}"), &request).await;
        let head = head.map_err(|e| no_stream(stream, e))?;
        Ok(PackedStream { bus: self.clone(), stream: stream.to_owned(), head, pieces })
    }

    /// Begins to make a stream of what [`PackedStream`] gave. The stream must not be there. Errors: it is, the server,
    /// the link.
    pub async fn unpack_stream(&self, stream: &str, head: &Value) -> Result<UnpackedStream, BusError> {
        #[derive(Deserialize)]
        struct Begun {
            deliver_subject: String,
        }
        let call = Call { verb: "restore", object: stream };
        let request = json!({ "config": head["config"], "state": head["state"] });
        let begun: Begun = self.call(call, &format!("STREAM.RESTORE.{stream}"), &request).await?;
        Ok(UnpackedStream { bus: self.clone(), stream: stream.to_owned(), deliver_to: begun.deliver_subject })
    }
}

impl PackedStream {
    /// What the server needs beside the pieces: the stream's configuration and state.
    pub fn head(&self) -> &Value {
        &self.head
    }

    /// The next piece; none = that was all. Errors: the server gave up, the link.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BusError> {
        let call = Call { verb: "pack", object: &self.stream };
        let piece = timeout(PIECE_WAIT, self.pieces.next()).await;
        let piece = piece.map_err(|e| call.link(e))?.ok_or_else(|| call.link("the connection has ended"))?;
        if piece.payload.is_empty() {
            // The end of what was packed has a status only when it is none.
            return match piece.status {
                None | Some(StatusCode::OK) => Ok(None),
                Some(status) => {
                    let why = piece.description.unwrap_or_default();
                    Err(call.answer(format!("it broke off: {status} {why}")))
                }
            };
        }
        // The server waits with the next ones until it hears that these have come.
        if let Some(heard) = piece.reply {
            self.bus.client().publish(heard, Bytes::new()).await.map_err(|e| call.link(e))?;
        }
        Ok(Some(piece.payload))
    }
}

impl UnpackedStream {
    /// Gives the server a piece. Errors: the server, the link.
    pub async fn piece(&mut self, piece: Vec<u8>) -> Result<(), BusError> {
        let answer = self.send(piece.into(), PIECE_WAIT).await?;
        if answer.is_empty() { Ok(()) } else { self.read(&answer).map(drop) }
    }

    /// Says that these were all; answers what the stream holds then. Errors: the pieces make no stream, the link.
    pub async fn finish(self) -> Result<StreamState, BusError> {
        let answer = self.send(Bytes::new(), MAKE_WAIT).await?;
        self.read(&answer)?;
        self.bus.stream_state(&self.stream).await
    }

    async fn send(&self, piece: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        let call = Call { verb: "restore", object: &self.stream };
        let request = Request::new().payload(piece).timeout(Some(wait));
        let answer = self.bus.client().send_request(self.deliver_to.clone(), request).await;
        Ok(answer.map_err(|e| call.link(e))?.payload)
    }

    fn read(&self, answer: &[u8]) -> Result<Value, BusError> {
        let call = Call { verb: "restore", object: &self.stream };
        let answer: Value = serde_json::from_slice(answer).map_err(|e| call.answer(e))?;
        match answer["error"]["description"].as_str() {
            Some(why) => Err(call.answer(why.to_owned())),
            None => Ok(answer),
        }
    }
}
