//! A small disk of its own for a test, which can be filled until the system says "no space left on device":
//! a tmpfs in a mount namespace that a child holds open and that ends with it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// The ways to a namespace with a mount of one's own: as root, and as anybody where the kernel lets them;
/// each with the way in for another process.
const WAYS: [(&[&str], &[&str]); 2] =
    [(&["--mount"], &["--mount"]), (&["-Urm"], &["--user", "--mount", "--preserve-credentials"])];
/// What fills a disk up to its last page.
const PAGE: [u8; 4096] = [0; 4096];

/// The disk; gone when it is dropped.
pub(crate) struct Disk {
    path: PathBuf,
    enter: &'static [&'static str],
    holder: Child,
    _mount_point: TempDir,
}

impl Disk {
    /// Makes one. None, and a loud line, where nobody may: macOS, most containers.
    pub(crate) fn of(mebibytes: u32) -> Option<Self> {
        let made = WAYS.iter().find_map(|(way, enter)| Self::make(way, enter, mebibytes));
        if made.is_none() {
            // Not through the macro, whose output a passing test swallows.
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(
                io::stderr(),
                "SKIPPED {test}: no disk can be mounted here (it takes `unshare --mount` or `unshare -Urm`)"
            );
        }
        made
    }

    fn make(way: &[&str], enter: &'static [&'static str], mebibytes: u32) -> Option<Self> {
        let mount_point = tempfile::tempdir().unwrap();
        let script =
            format!("mount -t tmpfs -o size={mebibytes}m,mode=700 farside \"$0\" && echo there && exec cat");
        let mut command = Command::new("unshare");
        command.args(way).args(["sh", "-c", &script]).arg(mount_point.path());
        // `cat` ends when this process does, in whatever way.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.spawn().ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take()?).read_line(&mut line).ok()?;
        let root = format!("/proc/{}/root", holder.id());
        let path = PathBuf::from(root + &mount_point.path().display().to_string());
        if line != "there\n" || fs::write(path.join("try"), "").is_err() {
            let _ = holder.kill();
            let _ = holder.wait();
            return None;
        }
        Some(Self { path, enter, holder, _mount_point: mount_point })
    }

    /// Where it is, for this process as for one that has entered its namespace.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The command that runs another one inside, for whom the path above is a plain directory.
    pub(crate) fn inside(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.id());
        let words = ["nsenter", &target].into_iter().chain(self.enter.iter().copied());
        words.map(str::to_owned).collect()
    }

    /// Writes until there is no room for a page.
    pub(crate) fn fill(&self) {
        let mut ballast = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        let full = loop {
            if let Err(error) = ballast.write_all(&PAGE) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    }

    /// Gives back what filled it.
    pub(crate) fn make_room(&self) {
        // Made empty first: a process that another test is just starting may still have it open, and what is
        // open keeps its room when it is removed.
        File::create(self.ballast()).unwrap();
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
