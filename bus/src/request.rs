//! Commands: request and reply, both JSON, not stored.

use bytes::Bytes;
use serde::Serialize;

use crate::BusError;

/// The commands that come in on one subject.
#[derive(Debug)]
pub struct Requests {
    _todo: (),
}

impl Requests {
    /// The next command; none when the connection was drained. Cancel safe.
    pub async fn next(&mut self) -> Option<Request> {
        unimplemented!()
    }
}

/// One command.
#[derive(Debug)]
pub struct Request {
    /// The subject that it came in on.
    pub subject: String,
    /// Its body: JSON text.
    pub body: Bytes,
}

impl Request {
    /// Answers. A request without a return address is answered with silence.
    pub async fn reply<R: Serialize + Sync>(&self, answer: &R) -> Result<(), BusError> {
        let _ = answer;
        unimplemented!()
    }
}
