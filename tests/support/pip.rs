//! Python packages for tests: pinned and checked, brought by pip once per target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What pip says when a file is not the one that was pinned.
pub(crate) const WRONG_HASH: &str = "DO NOT MATCH THE HASHES";

/// The folder with a package in it, brought by pip as the file of requirements pins it when it is not there yet.
/// Error: what pip says.
pub(crate) fn library(package: &str, requirements: &Path) -> Result<PathBuf, String> {
    let pinned = fs::read_to_string(requirements).unwrap();
    let version = pinned.split_once(&format!("{package}==")).unwrap().1.split(' ').next().unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = cache.join(format!("{package}-{version}"));
    if library.exists() {
        return Ok(library);
    }
    let fresh = tempfile::tempdir_in(cache).unwrap();
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
        .args(["--only-binary", ":all:", "--require-hashes", "--requirement"])
        .arg(requirements)
        .arg("--target")
        .arg(fresh.path())
        // A user's settings may demand a virtual environment; this installs nothing but into the folder.
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .output()
        .map_err(|error| format!("python3: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    // It appears whole or not at all; another run of the tests may have been faster.
    let _ = fs::rename(fresh.path(), &library);
    Ok(library)
}
