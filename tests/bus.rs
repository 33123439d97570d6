//! The room `bus` against a real nats-server.
//!
//! Not tested, because this machine has one server version only: that an older server is refused or
//! warned about (the verdict itself has a unit test).

use bus::{Fence, Outgoing};

mod durable;
mod enrolment;
#[cfg(target_os = "linux")]
mod handles;
mod lease;
mod log;
mod managed;
mod position;
mod publish;
mod reader;
mod request;
mod rotten;
mod stream;
mod trim;

/// An event of the site log.
pub(crate) fn event(number: usize) -> Outgoing {
    Outgoing {
        subject: format!("far.v1.local.evt.dc1.resource.r{}.changed", number % 7),
        headers: vec![("ce-id".into(), number.to_string()), ("ce-source".into(), "/a/b".into())],
        body: format!("{{\"number\":{number}}}").into(),
        message_id: format!("dc1/{number}"),
    }
}

pub(crate) fn events(numbers: std::ops::Range<usize>) -> Vec<Outgoing> {
    numbers.map(event).collect()
}

/// A fact of the target log.
pub(crate) fn fact(number: usize) -> Outgoing {
    let subject = format!("far.v1.local.tgt.resource.r{number}.confirmed");
    Outgoing { subject, ..event(number) }
}

/// The condition that the last message under the lease subject has this sequence.
pub(crate) fn fence(seq: u64) -> Fence {
    Fence { subject: "far.v1.local.tgt.log.lease.lease_acquired".into(), seq }
}
