//! The hidden verb `nats-exec`: becomes nats-server after it has asked the kernel to end it with its parent.
//!
//! The request ends with an `exec` of a set-user-id program only, so the server inherits it. It must be made
//! by the child itself, which is why a server that has to end with a killed farside is started through it.

use std::{ffi::OsString, io, os::unix::process::CommandExt, process::Command};

use rustix::process::{Signal, getppid};

/// The verb's name on the command line.
pub const VERB: &str = "nats-exec";

/// Asks for SIGKILL at the parent's death, checks that the parent still lives, then becomes the server.
/// Returns only an error.
///
/// `args`: what follows the verb, as [`ManagedServer`](super::ManagedServer) wrote it: the parent's process
/// id, the server's binary, and its arguments.
pub fn run(args: &[OsString]) -> io::Error {
    let [parent, binary, rest @ ..] = args else {
        return io::Error::other(format!(
            "{VERB} needs the parent's process id and a program; it is not for people"
        ));
    };
    if let Err(error) = end_with_parent() {
        return error;
    }
    // The parent may have died before the request was made; then nobody will send the signal.
    let lives = getppid().is_some_and(|now| now.as_raw_nonzero().to_string() == *parent.to_string_lossy());
    if !lives {
        return io::Error::other("the parent has ended already");
    }
    Command::new(binary).args(rest).exec()
}

#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Elsewhere the kernel has no such request; a server that is left behind is ended at the next start.
#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}
