//! The lease: who may act for a target. Its token is the sequence of a message on the lease subject of
//! the target log, written only at acquisition, so a [`Fence`] made of it stops a stale holder's writes
//! at the server, whatever its clock believes.

use std::time::Duration;

use bus_schema::Name;
use tokio::sync::watch;

use crate::{Bus, BusError, Fence};

/// How a lease is contended for.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// The target.
    pub target: Name,
    /// The lease's name, for example `pump`.
    pub lease: Name,
    /// Who asks: host, process id and a random part.
    pub holder: String,
    /// A holder that was silent for this long is taken over.
    pub ttl: Duration,
}

/// The right to act: its sequence grows with every acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseToken {
    /// The sequence of the acquisition in the target log.
    pub seq: u64,
    /// The subject of the acquisition.
    pub subject: String,
}

impl LeaseToken {
    /// The fence that everything written under this lease carries.
    pub fn fence(&self) -> Fence {
        Fence { subject: self.subject.clone(), seq: self.seq }
    }
}

/// One contender for a lease; it contends until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    _todo: (),
}

impl Lease {
    /// Starts to contend: acquires as soon as nobody holds it, renews, and contends again when it is lost.
    /// Makes the stream of renewals if it is not there. The target log has to exist.
    pub async fn contend(bus: &Bus, options: LeaseOptions) -> Result<Self, BusError> {
        let _ = (bus, options);
        unimplemented!()
    }

    /// The token while this process holds the lease, none while it does not.
    pub fn token(&self) -> watch::Receiver<Option<LeaseToken>> {
        unimplemented!()
    }

    /// Gives the lease up so that the next contender need not wait, and stops contending.
    pub async fn release(self) {
        unimplemented!()
    }
}
