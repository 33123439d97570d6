//! The exec adapter: any command that prints an inventory as JSON or JSON lines, on a timer. A command
//! that fails, hangs, prints too much or prints nonsense never means that anything was deleted.

use std::{
    env, fs,
    io::{self, Read},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{Found, Go, Inventory, ListEnd, Scope, Seen, SourceError, Wanted, format::Reader};

/// How much of what a failing command said is repeated in the agent's log, in bytes.
const COMPLAINT_BYTES_MAX: usize = 2_000;
/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What to run, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOptions {
    /// Program and arguments; no shell stands between.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// How much it may print, in bytes.
    pub output_bytes_max: u64,
    /// The file that this was read from, which nobody else may write.
    pub config_file: Option<PathBuf>,
}

/// A command that prints an inventory.
pub struct Exec {
    options: ExecOptions,
    reader: Reader,
    stopped: AtomicBool,
    /// What was said last in the agent's log.
    told: Mutex<String>,
}

impl Exec {
    /// The inventory that a command prints. Errors: others may write the command or its configuration.
    pub fn new(options: ExecOptions, reader: Reader) -> Result<Self, SourceError> {
        let exec = Self { options, reader, stopped: AtomicBool::new(false), told: Mutex::default() };
        exec.check_safe()?;
        Ok(exec)
    }

    fn name(&self) -> &str {
        self.options.command.first().map_or("", String::as_str)
    }

    fn fault(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Command { command: self.name().to_owned(), reason: reason.into() }
    }

    /// Checked before every run: permissions change.
    fn check_safe(&self) -> Result<PathBuf, SourceError> {
        if let Some(config) = &self.options.config_file {
            refuse_writable(config)?;
        }
        let program = find_program(self.name())
            .ok_or_else(|| self.fault("there is no such program; name it with its full path"))?;
        refuse_writable(&program)?;
        // `sh inventory.sh` runs the script, not only the shell.
        let arguments = self.options.command.iter().skip(1);
        let values = arguments
            .flat_map(|argument| [Some(argument.as_str()), argument.split_once('=').map(|(_, v)| v)]);
        for file in values.flatten().map(Path::new) {
            match file.try_exists() {
                Ok(true) => refuse_writable(file)?,
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(unjudged(file, &e)),
                // It is no file: a word, an option, an address.
                Ok(false) | Err(_) => {}
            }
        }
        Ok(program)
    }

    /// Says in the agent's own log what the source said: an event must not carry it. Once, until it says
    /// something else.
    fn log_detail(&self, detail: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != detail {
            tracing::warn!(command = self.name(), detail, "the command gave no inventory");
            detail.clone_into(&mut told);
        }
    }

    fn run(&self) -> Result<String, SourceError> {
        let program = self.check_safe()?;
        let mut child = Command::new(&program)
            .args(self.options.command.iter().skip(1))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .spawn()
            .map_err(|e| self.fault(format!("it cannot be started: {e}")))?;
        let output = collect(child.stdout.take(), self.options.output_bytes_max);
        let complaint = collect(child.stderr.take(), COMPLAINT_BYTES_MAX as u64);
        let deadline = Instant::now() + self.options.timeout;
        let ended = self.wait(&mut child, deadline);
        if ended.is_err() {
            end_group(&mut child);
        }
        ended?;
        let printed = output.recv_timeout(deadline.saturating_duration_since(Instant::now()) + POLL);
        let Ok(printed) = printed else {
            end_group(&mut child);
            return Err(self.fault("it ended, but something that it started still holds its output open"));
        };
        let status = child.wait().map_err(|e| self.fault(e.to_string()))?;
        if !status.success() {
            let said = complaint.recv_timeout(POLL).map(|said| said.bytes).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let said = said.trim();
            self.log_detail(said);
            let where_said =
                if said.is_empty() { "it said nothing" } else { "what it said is in the agent's log" };
            return Err(self.fault(format!("it failed ({status}); {where_said}")));
        }
        self.text(printed)
    }

    fn wait(&self, child: &mut Child, deadline: Instant) -> Result<(), SourceError> {
        loop {
            match child.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) if self.stopped.load(Ordering::Relaxed) => {
                    return Err(self.fault("the agent ended before it did"));
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                Ok(None) => {
                    let seconds = self.options.timeout.as_secs_f64();
                    return Err(self.fault(format!("it did not end within {seconds} s and was ended")));
                }
                Err(e) => return Err(self.fault(e.to_string())),
            }
        }
    }

    fn text(&self, printed: Printed) -> Result<String, SourceError> {
        if printed.cut {
            let limit = self.options.output_bytes_max;
            return Err(self.fault(format!("it printed more than {limit} bytes; raise output_bytes_max")));
        }
        let text = String::from_utf8(printed.bytes).map_err(|_| self.fault("its output is not UTF-8"))?;
        if text.trim().is_empty() {
            return Err(self.fault("it printed nothing; an inventory without resources is []"));
        }
        Ok(text)
    }
}

struct Printed {
    bytes: Vec<u8>,
    cut: bool,
}

/// Reads a pipe on a thread, so that a full pipe never stops the command; keeps up to a limit and
/// drains the rest.
fn collect(pipe: Option<impl Read + Send + 'static>, bytes_max: u64) -> mpsc::Receiver<Printed> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let Some(mut pipe) = pipe else { return };
        let kept = pipe.by_ref().take(bytes_max + 1).read_to_end(&mut bytes);
        let cut = bytes.len() as u64 > bytes_max || kept.is_err();
        let _ = io::copy(&mut pipe, &mut io::sink());
        let _ = send.send(Printed { bytes, cut });
    });
    receive
}

fn end_group(child: &mut Child) {
    if let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).exists().then(|| PathBuf::from(name));
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

const GROUP: u32 = 0o020;
const OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Refuses a file that others could change or replace under the agent: others may write neither to it nor, unless
/// it keeps each one's files apart as `/tmp` does, to the directory that it or a link to it stands in. Of a group
/// only the owner's own (the one of the same number) may; into a directory any, since who is in the group
/// of `/usr/local/bin` is the administrator's decision.
pub fn refuse_writable(path: &Path) -> Result<(), SourceError> {
    let unjudged = |e| unjudged(path, &e);
    let real = fs::canonicalize(path).map_err(unjudged)?;
    let meta = fs::metadata(&real).map_err(unjudged)?;
    let who = if meta.is_dir() { writers(&meta) & !GROUP } else { writers(&meta) };
    refuse(path, who)?;
    for directory in [path.parent(), real.parent()].into_iter().flatten() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let meta = fs::metadata(directory).map_err(unjudged)?;
        refuse(directory, writers(&meta) & !GROUP)?;
    }
    Ok(())
}

fn unjudged(path: &Path, error: &io::Error) -> SourceError {
    SourceError::Unjudged { path: path.display().to_string(), reason: error.to_string() }
}

/// Who else may write: bits of [`GROUP`] and [`OTHERS`].
fn writers(meta: &fs::Metadata) -> u32 {
    let mode = meta.permissions().mode();
    if meta.is_dir() && mode & STICKY != 0 {
        return 0;
    }
    let own_group = meta.uid() != 0 && meta.uid() == meta.gid();
    mode & OTHERS | if own_group { 0 } else { mode & GROUP }
}

fn refuse(path: &Path, writers: u32) -> Result<(), SourceError> {
    let who = match (writers & GROUP != 0, writers & OTHERS != 0) {
        (false, false) => return Ok(()),
        (true, false) => "its group",
        (false, true) => "others",
        (true, true) => "its group and others",
    };
    Err(SourceError::Unsafe { path: path.display().to_string(), who })
}

impl Inventory for Exec {
    fn list(&self, _: &Scope, each: &mut dyn FnMut(Seen) -> Go) -> Result<ListEnd, SourceError> {
        let text = self.run()?;
        let (mut records, mut first_fault) = (0u64, None);
        let read = self.reader.read(self.name(), &text, &mut |seen| {
            match &seen {
                Seen::Record(_) => records += 1,
                Seen::Fault(fault) => _ = first_fault.get_or_insert_with(|| fault.clone()),
                Seen::File(_) => {}
            }
            each(seen)
        });
        match first_fault {
            Some(fault) if records == 0 => {
                self.log_detail(fault.detail.as_deref().unwrap_or_default());
                Err(self.fault(fault.to_string()))
            }
            _ => Ok(ListEnd { explicit_empty: read.explicit_empty }),
        }
    }

    fn get(&self, wanted: &[Wanted]) -> Result<Found, SourceError> {
        let mut found = Found::default();
        self.list(&Scope::Everything, &mut |seen| {
            match seen {
                Seen::Record(record) if wanted.iter().any(|one| one.key == record.key) => {
                    found.records.push(record);
                }
                Seen::Fault(fault) => found.faults.push(fault),
                Seen::Record(_) | Seen::File(_) => {}
            }
            Go::On
        })?;
        Ok(found)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Hash32;
    use tempfile::TempDir;

    use super::*;
    use crate::redact::{RedactConfig, Redactor};

    fn exec(script: &str, timeout: Duration) -> Exec {
        let options = ExecOptions {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            timeout,
            output_bytes_max: 10_000,
            config_file: None,
        };
        let redactor = Redactor::new(Hash32::ZERO, &RedactConfig::default());
        let reader = Reader { redactor, tenant_label: "t".into(), tenant: None, format: None };
        Exec::new(options, reader).unwrap()
    }

    fn list(script: &str) -> Result<Vec<String>, String> {
        let mut keys = Vec::new();
        let list = exec(script, Duration::from_secs(20)).list(&Scope::Everything, &mut |seen| {
            if let Seen::Record(record) = seen {
                keys.push(record.key.to_string());
            }
            Go::On
        });
        list.map(|_| keys).map_err(|e| e.to_string())
    }

    #[test]
    fn lists_of_every_shape_are_read() {
        let one = r#"{"kind":"Vm","id":"a","state":{}}"#;
        assert_eq!(list(&format!("echo '{one}'")).unwrap(), ["Vm/a"]);
        assert_eq!(list(&format!("echo '[{one}]'")).unwrap(), ["Vm/a"]);
        assert_eq!(list(&format!("echo '{one}'; echo '{one}'")).unwrap().len(), 2);
        assert_eq!(list("echo '[]'").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn failing_silent_endless_and_nonsensical_commands_are_errors_and_never_empty_inventories() {
        for (script, why) in [
            ("echo '[]'; echo no account >&2; exit 3", "it failed (exit status: 3)"),
            ("true", "printed nothing"),
            ("echo 'not json'", "not recognised"),
            ("echo '{\"kind\":'", "not JSON"),
            ("yes '{}' | head -c 20000", "more than 10000"),
        ] {
            let error = list(script).unwrap_err();
            let shown = error.contains(why) || (why == "not recognised" && error.contains("none of"));
            assert!(shown && error.contains("nothing is taken for deleted"), "{script}: {error}");
        }
    }

    #[test]
    fn a_hanging_command_is_ended_with_what_it_started() {
        let started = Instant::now();
        let hanging = exec("sleep 600 & sleep 600", Duration::from_millis(200));
        let error = hanging.list(&Scope::Everything, &mut |_| Go::On).unwrap_err();
        assert!(error.to_string().contains("0.2 s"), "{error}");
        let stopped = exec("sleep 600", Duration::from_secs(600));
        stopped.stop();
        let error = stopped.list(&Scope::Everything, &mut |_| Go::On).unwrap_err();
        assert!(error.to_string().contains("the agent ended"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_others_may_write_is_refused_with_the_cure() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("agent.toml");
        fs::write(&file, "").unwrap();
        let own_group = fs::metadata(&file).unwrap().uid() != 0;
        for (mode, who) in [(0o620, "its group"), (0o602, "others"), (0o666, "others")] {
            if own_group && who == "its group" {
                continue;
            }
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = refuse_writable(&file).unwrap_err().to_string();
            assert!(
                error.contains(who) && error.contains("chmod go-w") && error.contains("agent.toml"),
                "{error}"
            );
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refuse_writable(&file).is_ok());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            refuse_writable(&file).unwrap_err().to_string().contains("others"),
            "others could replace it"
        );
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(refuse_writable(&file).is_ok(), "each one's files are kept apart");
        let gone = refuse_writable(&directory.path().join("gone"));
        assert!(matches!(gone, Err(SourceError::Unjudged { .. })), "what cannot be judged is not safe");
    }

    #[test]
    fn a_script_that_others_may_write_is_refused_behind_its_interpreter_too() {
        let directory = TempDir::new().unwrap();
        let script = directory.path().join("inv.sh");
        fs::write(&script, "echo '[]'").unwrap();
        let redactor = Redactor::new(Hash32::ZERO, &RedactConfig::default());
        let reader = Reader { redactor, tenant_label: "t".into(), tenant: None, format: None };
        for (argument, mode, safe) in [
            (script.display().to_string(), 0o666, false),
            (format!("--file={}", script.display()), 0o666, false),
            (script.display().to_string(), 0o644, true),
        ] {
            fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
            let options = ExecOptions {
                command: vec!["/bin/sh".into(), argument.clone()],
                timeout: Duration::from_secs(20),
                output_bytes_max: 10_000,
                config_file: None,
            };
            let made = Exec::new(options, reader.clone());
            assert_eq!(made.is_ok(), safe, "{argument} {mode:o}");
        }
    }

    #[test]
    fn what_a_failing_command_says_stays_with_the_agent() {
        for script in ["echo hunter2 >&2; exit 1", "echo '{\"kind\": hunter2'", "echo 'hunter2: *hunter2'"] {
            let error = list(script).unwrap_err();
            assert!(!error.contains("hunter2"), "{script}: {error}");
        }
    }
}
