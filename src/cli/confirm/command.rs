//! COMMAND under guard: started, told what the guard is told, waited for. A guard that ends alone would
//! leave COMMAND to nobody.

use std::{ffi::OsString, fs::File, io, process::ExitStatus};

use rustix::{
    process::{Pid, Signal, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
};

/// The signals that ask the guard to end.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    /// From now on the guard outlives them.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// Runs COMMAND to its end. Errors: it cannot be started.
pub(super) async fn run(
    program: &OsString,
    arguments: &[OsString],
    signals: &mut Signals,
) -> io::Result<ExitStatus> {
    let mut child = Command::new(program).args(arguments).spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            signal = signals.next() => pass_on(signal, &child),
        }
    }
}

fn pass_on(signal: Signal, child: &Child) {
    // Ctrl-C reaches everybody in the foreground; a second one would cut COMMAND's own tidying short.
    if signal == Signal::INT && in_foreground() {
        return;
    }
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::warn!(%error, "COMMAND could not be told to end");
    }
}

/// Whether the keys of the terminal go to this process group.
fn in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}
