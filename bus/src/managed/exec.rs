//! The hidden verb `nats-exec`: becomes nats-server after it has asked the kernel to end it with its parent.

use std::{ffi::OsString, io};

/// Asks for SIGKILL at the parent's death, checks that the parent still lives, then becomes the server.
/// Returns only an error. `args`: what follows the verb, as [`ManagedServer`](super::ManagedServer) wrote it.
pub fn run(args: &[OsString]) -> io::Error {
    let _ = args;
    unimplemented!()
}
