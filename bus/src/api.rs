//! Calls of JetStream's API: JSON over request/reply, its errors turned into this room's.

use async_nats::{
    Request, RequestErrorKind,
    jetstream::{self, response::Response},
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

use crate::{Bus, BusError, LinkState};

/// How long one call may take. Creating a stream syncs several files; 10 s covers a busy disk.
const CALL_WAIT: Duration = Duration::from_secs(10);
/// JetStream's code for a stream that does not exist.
pub(crate) const NO_STREAM: u64 = jetstream::ErrorCode::STREAM_NOT_FOUND.0;
/// JetStream's code for a message that does not exist.
pub(crate) const NO_MESSAGE: u64 = jetstream::ErrorCode::NO_MESSAGE_FOUND.0;
const NOT_ENABLED: u64 = jetstream::ErrorCode::JETSTREAM_NOT_ENABLED.0;
const NOT_ENABLED_FOR_ACCOUNT: u64 = jetstream::ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT.0;

/// What is tried on what, for the text of an error.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) verb: &'static str,
    pub(crate) object: &'a str,
}

impl Call<'_> {
    pub(crate) fn link(self, source: impl Into<crate::error::Cause>) -> BusError {
        BusError::Link { verb: self.verb, object: self.object.to_owned(), source: source.into() }
    }

    pub(crate) fn answer(self, source: impl Into<crate::error::Cause>) -> BusError {
        BusError::Answer { verb: self.verb, object: self.object.to_owned(), source: source.into() }
    }

    fn server(self, reason: String, code: u64) -> BusError {
        BusError::Server { verb: self.verb, object: self.object.to_owned(), reason, code }
    }
}

impl Bus {
    /// Calls `$JS.API.<subject>`. Errors: JetStream's as [`BusError::Server`] with its code; a denial; the link.
    pub(crate) async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        call: Call<'_>,
        subject: &str,
        payload: &T,
    ) -> Result<R, BusError> {
        let no_jetstream = || self.no_jetstream();
        self.call_api(call, format!("$JS.API.{subject}"), payload, no_jetstream).await
    }

    /// As [`Self::call`], of the JetStream of another domain.
    pub(crate) async fn call_in<T: Serialize, R: DeserializeOwned>(
        &self,
        domain: &str,
        call: Call<'_>,
        subject: &str,
        payload: &T,
    ) -> Result<R, BusError> {
        let nobody = || call.link(format!("no JetStream answers for the domain {domain}"));
        self.call_api(call, format!("$JS.{domain}.API.{subject}"), payload, nobody).await
    }

    async fn call_api<T: Serialize, R: DeserializeOwned>(
        &self,
        call: Call<'_>,
        subject: String,
        payload: &T,
        nobody: impl Fn() -> BusError,
    ) -> Result<R, BusError> {
        let body = serde_json::to_vec(payload).map_err(|e| call.answer(e))?;
        let mut denials = self.denials();
        let request = Request::new().payload(body.into()).timeout(Some(CALL_WAIT));
        let before = *self.link().borrow();
        let mut link = self.link();
        let answer = tokio::select! {
            answer = self.client().send_request(subject.clone(), request) => answer,
            // What was asked over a connection that is lost is never answered.
            _ = link.wait_for(|now| *now != before), if matches!(before, LinkState::Up { .. }) => {
                return Err(call.link("the connection was lost"));
            }
            denial = denials.of(|denied| denied == subject) => {
                return Err(BusError::Denied { subject, reason: denial.reason });
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) if e.kind() == RequestErrorKind::NoResponders => return Err(nobody()),
            Err(e) => return Err(call.link(e)),
        };
        match serde_json::from_slice::<Response<R>>(&answer.payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(match error.error_code().0 {
                NOT_ENABLED | NOT_ENABLED_FOR_ACCOUNT => nobody(),
                code => call.server(error.to_string(), code),
            }),
            Err(e) => Err(call.answer(e)),
        }
    }
}
