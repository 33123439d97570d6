#!/usr/bin/env python3
"""This machine's own inventory, one JSON object a line: what the demo's exec adapter runs.

    {"kind": "package", "id": "bash:amd64", "revision": "5.2.15-2+b7", "state": {...}}

Packages, block devices, network links, mounts, users, groups, kernel modules, processors, memory.
Only what stays the same while nothing changes: no counters, no processes. Uses the tool that is
there (dpkg-query, rpm, brew; lsblk; ip) and reads /proc, /sys and /etc otherwise. A tool that is
there and fails makes the whole run fail: a half inventory would read as deletions.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

TOOL_SECONDS_MAX = 60


def run(*command):
    """The output of a tool, or None when it is not installed."""
    if not shutil.which(command[0]):
        return None
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TOOL_SECONDS_MAX)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def text_of(path):
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


# --- packages -----------------------------------------------------------------------------------


def debian():
    # The tools also exist where they do not manage the machine.
    fields = ("Package", "Architecture", "Version", "db:Status-Abbrev", "Installed-Size", "source:Package")
    if not Path("/var/lib/dpkg/status").exists():
        return
    output = run("dpkg-query", "-W", "-f", "\t".join(f"${{{field}}}" for field in fields) + "\n")
    for line in (output or "").splitlines():
        name, architecture, version, status, size, source = line.split("\t")
        if version:
            state = {"name": name, "architecture": architecture, "version": version, "status": status.strip(),
                     "installed_kib": int(size or 0), "source": source}
            yield "package", f"{name}:{architecture}", version, state


def redhat():
    if not any(Path(path).exists() for path in ("/var/lib/rpm", "/usr/lib/sysimage/rpm")):
        return
    form = "%{NAME}\t%{ARCH}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\t%{SIZE}\t%{SOURCERPM}\n"
    for line in (run("rpm", "-qa", "--qf", form) or "").splitlines():
        name, architecture, version, size, source = line.split("\t")
        state = {"name": name, "architecture": architecture, "version": version, "bytes": int(size), "source": source}
        yield "package", f"{name}-{version}.{architecture}", version, state


def alpine():
    for line in (run("apk", "list", "--installed") or "").splitlines():
        full, architecture, *rest = line.split(" ")
        name, version, release = full.rsplit("-", 2)
        version = f"{version}-{release}"
        yield "package", name, version, {"name": name, "architecture": architecture, "version": version}


def homebrew():
    for line in (run("brew", "list", "--versions") or "").splitlines():
        name, *versions = line.split()
        yield "package", name, " ".join(versions), {"name": name, "versions": versions}


def python_distributions():
    from importlib import metadata

    for found in metadata.distributions():
        name, version = found.metadata["Name"], found.version
        if name:
            yield "python-package", name.lower(), version, {"name": name, "version": version}


def packages():
    found = []
    for collect in (debian, redhat, alpine, homebrew):
        found += collect()
    return found + list(python_distributions())


# --- devices and links --------------------------------------------------------------------------


def block_devices():
    listing = run("lsblk", "--json", "--bytes", "--list", "--output", "NAME,TYPE,SIZE,RO,ROTA,MODEL,SERIAL,PKNAME")
    if listing is not None:
        for device in json.loads(listing)["blockdevices"]:
            yield "block-device", device["name"], None, {key: value for key, value in device.items() if value is not None}
        return
    for path in sorted(Path("/sys/block").glob("*")):
        sectors = text_of(path / "size") or "0"
        state = {"name": path.name, "size": int(sectors) * 512, "ro": text_of(path / "ro") == "1",
                 "rota": text_of(path / "queue/rotational") == "1", "model": text_of(path / "device/model")}
        yield "block-device", path.name, None, state


def network_links():
    listing = run("ip", "-json", "address")
    if listing is not None:
        for link in json.loads(listing):
            addresses = [f"{a['local']}/{a['prefixlen']}" for a in link.get("addr_info", []) if "local" in a]
            state = {"name": link["ifname"], "mtu": link.get("mtu"), "mac": link.get("address"),
                     "state": link.get("operstate"), "addresses": sorted(addresses)}
            yield "network-link", link["ifname"], None, state
        return
    for path in sorted(Path("/sys/class/net").glob("*")):
        mtu = text_of(path / "mtu")
        state = {"name": path.name, "mtu": int(mtu) if mtu else None, "mac": text_of(path / "address"),
                 "state": text_of(path / "operstate")}
        yield "network-link", path.name, None, state
    for name in (run("ifconfig", "-l") or "").split() if platform.system() == "Darwin" else ():
        yield "network-link", name, None, {"name": name}


def mounts():
    for line in (text_of("/proc/self/mounts") or "").splitlines():
        device, at, kind, options, *_ = line.split(" ")
        state = {"device": device, "at": at, "type": kind, "options": sorted(options.split(","))}
        yield "mount", f"{at} ({kind})", None, state


# --- the machine --------------------------------------------------------------------------------


def kernel_modules():
    for line in (text_of("/proc/modules") or "").splitlines():
        name, size, *_ = line.split()
        yield "kernel-module", name, None, {"name": name, "bytes": int(size)}


def accounts():
    for line in (text_of("/etc/passwd") or "").splitlines():
        parts = line.split(":")
        if len(parts) == 7 and not line.startswith("#"):
            name, _, uid, gid, words, home, shell = parts
            state = {"name": name, "uid": int(uid), "gid": int(gid), "words": words, "home": home, "shell": shell}
            yield "user", name, None, state
    for line in (text_of("/etc/group") or "").splitlines():
        parts = line.split(":")
        if len(parts) == 4 and not line.startswith("#"):
            name, _, gid, members = parts
            yield "group", name, None, {"name": name, "gid": int(gid), "members": sorted(filter(None, members.split(",")))}


def machine():
    system = platform.uname()
    state = {"system": system.system, "release": system.release, "machine": system.machine, "python": platform.python_version()}
    yield "machine", system.node or "this", None, state
    for line in (text_of("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            yield "memory", "total", None, {"kib": int(line.split()[1])}
    model = next((line.split(":", 1)[1].strip() for line in (text_of("/proc/cpuinfo") or "").splitlines()
                  if line.startswith("model name")), system.processor)
    for number in range(os.cpu_count() or 1):
        yield "processor", str(number), None, {"number": number, "model": model}


def main():
    seen = set()
    for collect in (machine, packages, block_devices, network_links, mounts, kernel_modules, accounts):
        try:
            found = sorted(collect(), key=lambda resource: resource[:2])
        except (RuntimeError, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            print(f"inventory.py: {collect.__name__}: {error}", file=sys.stderr)
            return 1
        for kind, name, revision, state in found:
            if (kind, name) in seen:
                continue
            seen.add((kind, name))
            text = json.dumps(state, sort_keys=True, ensure_ascii=False)
            revision = revision or hashlib.sha256(text.encode()).hexdigest()[:16]
            print(json.dumps({"kind": kind, "id": name, "revision": revision, "state": state}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
