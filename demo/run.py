"""The demo: Farside's main job on real-looking input, start to finish, each step with its evidence.

`make demo` runs it. It needs the binary (FARSIDE_BIN) and nats-server (FARSIDE_NATS_SERVER), works in
out/demo, listens on loopback only, ends what it started, and exits 0 only when every step held.
"""

import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "out" / "demo"
SOURCE = WORK / "source"
BIN = str(Path(os.environ.get("FARSIDE_BIN", ROOT / "target/debug/farside")).resolve())
PATIENCE_S = 60
BURST_NOTICES = 60
BURST_CHANGES = 300

CONFIG = """\
data_dir = "data"

[nats]
nkey_seed_file = "agent/agent.nk"   # the agent's; 'farside agent enroll' makes it

[console]
listen = "127.0.0.1:{port}"

[service.schedule]
every = "20s"

[service.threshold]
changes = 40

[[agent.resource]]
name = "inventory"
ledger = "agent/ledger.redb"
heartbeat_s = 1

[[agent.resource.clusters]]
name = "prod-eu"                             # Kubernetes manifests; ConfigMaps are only announced
source = {{ adapter = "directory", path = "source/prod-eu" }}
push = {{ notice_kinds = ["ConfigMap"] }}
keys = [{{ id = "ak-prod-eu", tenant = "acme", secret_file = "agent/secret" }}]

[[agent.resource.clusters]]
name = "prod-us"                             # a Terraform state
source = {{ adapter = "directory", path = "source/prod-us" }}
keys = [{{ id = "ak-prod-us", tenant = "acme", secret_file = "agent/secret" }}]

[[agent.resource.clusters]]
name = "edge"                                # an Ansible inventory, read by a command every hour
source = {{ adapter = "exec", command = ["cat", "source/edge/inventory.json"], every_s = 3600 }}
keys = [{{ id = "ak-edge", tenant = "acme", secret_file = "agent/secret" }}]

[[agent.resource.clusters]]
name = "machine"                             # what this machine is made of
source = {{ adapter = "exec", command = ["{python}", "{inventory}"], every_s = 3600 }}
keys = [{{ id = "ak-machine", tenant = "acme", secret_file = "agent/secret" }}]
"""


class DemoFailed(Exception):
    """A step did not hold; the text says which and what was seen."""


def say(text):
    print(text, flush=True)


def step(number, title):
    say(f"\n{number}. {title}")


def evidence(text):
    say(f"   {text}")


def holds(condition, what):
    if not condition:
        raise DemoFailed(what)


def eventually(what, look):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise DemoFailed(f"waited {PATIENCE_S} s in vain: {what}")


@contextmanager
def stopwatch(result):
    start = time.monotonic()
    yield
    result.append((time.monotonic() - start) * 1000)


class Process:
    """A farside process that may be killed and started again."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments
        self.start()

    def start(self):
        with open(WORK / f"{self.name}.log", "ab") as log:
            self.child = subprocess.Popen([BIN, *self.arguments], cwd=WORK, stdout=log, stderr=log)

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def alive(self):
        code = self.child.poll()
        holds(code is None, f"{self.name} ended with {code}; see {WORK / self.name}.log")


def farside(*arguments, check=True):
    done = subprocess.run([BIN, *arguments], cwd=WORK, capture_output=True, text=True)
    if check and done.returncode:
        raise DemoFailed(f"farside {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}{done.stdout}")
    return done


def status():
    done = farside("status", "-o", "json", check=False)
    return json.loads(done.stdout) if done.stdout.startswith("{") else None


def pools():
    now = status()
    return {pool["pool"].split("/")[1]: pool for pool in now["pools"]} if now else {}


def true_pools(names):
    now = pools()
    return now if all(now.get(name, {}).get("in_sync") == "yes" for name in names) else None


def export(cluster, *more):
    return farside("pool", "export", cluster, *more).stdout


def short(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def get(url, token, tenant=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    if tenant:
        request.add_header("Farside-Tenant", tenant)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def replace(path, text):
    """Writes a file in one step, as an editor or a git checkout does."""
    half = path.with_name(f".{path.name}.half")
    half.write_text(text)
    half.replace(path)


def config_map(number, round_):
    return json.dumps({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": f"burst-{number}", "namespace": "shop"},
        "data": {"round": str(round_), "feature.flags": "checkout=on,search=v2"},
    })


def nats_url():
    return f"nats://127.0.0.1:{(WORK / 'data/nats/port').read_text().strip()}"


def prepare(port):
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(ROOT / "demo/data", SOURCE)
    (WORK / "agent").mkdir()
    secret = WORK / "agent/secret"
    secret.write_text(secrets.token_hex(32))
    secret.chmod(0o600)
    config = WORK / "farside.toml"
    config.write_text(CONFIG.format(port=port, python=sys.executable, inventory=ROOT / "demo/inventory.py"))
    config.chmod(0o600)
    return secret.read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Demo:
    clusters = ["prod-eu", "prod-us", "edge", "machine"]

    def __init__(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.secret = prepare(port)
        self.running = []

    def run(self):
        self.first_sync()
        self.live_changes()
        before = self.threshold()
        self.confirm()
        self.kill()
        self.tenants()
        self.past(before)

    def stop(self):
        for process in reversed(self.running):
            process.stop()

    def first_sync(self):
        step(1, "First sync: four clusters, from a source agent over the log into their pools")
        took = []
        with stopwatch(took):
            # `up` also runs configured agents; here the agent is a process of its own, to be killed alone.
            service = (WORK / "farside.toml").read_text().split("[[agent.resource]]")[0]
            (WORK / "service.toml").write_text(service)
            self.service = Process("service", "up", "-c", "service.toml")
            self.running.append(self.service)
            eventually("farside answers", lambda: self.service.alive() or status())
            farside("agent", "enroll", "inventory", "--cluster", ",".join(self.clusters), "--out", "agent/agent.nk")
            self.agent = Process("agent", "agent", "resource", "-c", "farside.toml", "--nats", nats_url())
            self.running.append(self.agent)
            now = eventually("every pool is proved equal", lambda: self.agent.alive() or true_pools(self.clusters))
        for name in self.clusters:
            owner = now[name]["owners"][0]
            evidence(f"{name:8} {now[name]['resources']:>5} resources  digest {owner['digest'][:16]}  chain {owner['at']}")
        total = sum(now[name]["resources"] for name in self.clusters)
        holds(total >= 500, f"only {total} resources")
        evidence(f"{total} resources, every digest equal to the agent's, {took[0] / 1000:.1f} s after the start")

    def live_changes(self):
        step(2, "Live changes: a file is saved at the source; when does the pool show it?")
        took = []
        path = SOURCE / "prod-eu/shop/demo-live.json"
        for replicas in range(1, 8):
            document = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": replicas},
                        "metadata": {"name": "demo-live", "namespace": "shop"}}
            with stopwatch(took):
                replace(path, json.dumps(document))
                eventually("the change is in the pool", lambda: self.replicas() == replicas)
        took.sort()
        evidence(f"7 changes, from save to pool: median {took[3]:.0f} ms, slowest {took[-1]:.0f} ms (watch, outbox, log, pool, all with fsync)")

    def replicas(self):
        token = (WORK / "data/operator.token").read_text().strip()
        code, page = get(f"{self.url}/v1/pools/local/prod-eu/resources?kind=Deployment&limit=1000", token)
        for row in page.get("items", []) if code == 200 else []:
            if row["key"].endswith("demo-live"):
                return row["state"]["spec"]["replicas"]
        return None

    def threshold(self):
        step(3, f"A storm of {BURST_NOTICES} notices crosses the threshold of 40: the third request goes out at once")
        eventually("the pools are true", lambda: true_pools(self.clusters))
        seq = next(log["applied"] for log in status()["logs"] if log["stream"] == "FARSIDE_LOCAL")
        before = export("prod-eu", "--at", str(seq))
        for number in range(BURST_NOTICES):
            replace(SOURCE / f"prod-eu/shop/burst-{number}.json", config_map(number, 0))
        third = eventually("a third request", self.third_requests)
        eventually("its answer is in the pool", lambda: true_pools(self.clusters))
        rows = [json.loads(line) for line in export("prod-eu").splitlines()]
        burst = [row for row in rows if "burst-" in row["key"] and "state" in row]
        holds(len(burst) == BURST_NOTICES, f"{len(burst)} of {BURST_NOTICES} states came")
        third = self.third_requests()
        info = third[-1]["requested"][1]["update_info"]
        evidence(f"third requests: {len(third)}; the first named what the pool had: since {info['since']['epoch']}:{info['since']['seq']}, {info['outstanding']} outstanding")
        evidence(f"all {len(burst)} states fetched; digests equal again")
        return seq, before

    def third_requests(self):
        token = (WORK / "data/operator.token").read_text().strip()
        code, page = get(f"{self.url}/v1/pools/local/prod-eu/syncs?limit=100", token)
        syncs = page["items"] if code == 200 else []
        return [sync for sync in syncs if sync["requested"] and sync["requested"][1]["reason"] == "third"]

    def confirm(self):
        step(4, "Drift behind the agent's back: confirm reads the source, mends the pool, then lets the command run")
        path = SOURCE / "edge/inventory.json"
        inventory = json.loads(path.read_text())
        host = sorted(inventory["_meta"]["hostvars"])[0]
        key = next(json.loads(line)["key"] for line in export("edge").splitlines() if json.loads(line)["key"].endswith(f"/{host}"))
        inventory["_meta"]["hostvars"][host]["ansible_host"] = "198.51.100.77"
        replace(path, json.dumps(inventory))
        holds("198.51.100.77" not in export("edge"), "the pool knew before anyone looked")
        evidence(f"{key}: the source says 198.51.100.77, the pool does not know (the command runs every hour)")
        show = f"grep -c 198.51.100.77 <('{BIN}' pool export edge)"
        done = farside("confirm", "edge", key, "--", "bash", "-c", show, check=False)
        verdict = next((line.strip() for line in (done.stdout + done.stderr).splitlines() if key in line), "")
        holds(done.returncode == 0 and done.stdout.strip().endswith("1"), f"confirm: {done.returncode} {done.stdout}{done.stderr}")
        evidence(f"farside confirm: {verdict}")
        evidence("the guarded command ran after the repair, and found the new address in the pool")
        done = farside("confirm", "edge", "Host/no-such-host", "--", "false", check=False)
        holds(done.returncode == 3, f"a missing resource let the command run: {done.returncode}")
        evidence("a resource that nobody has: exit code 3, the command did not run")

    def kill(self):
        step(5, f"kill -9 of NATS, agent and service in the middle of {BURST_CHANGES} changes")
        port = (WORK / "data/nats/port").read_text()
        for number in range(BURST_CHANGES):
            replace(SOURCE / f"prod-eu/shop/burst-{number % BURST_NOTICES}.json", config_map(number % BURST_NOTICES, number))
            if number == BURST_CHANGES // 6:
                os.kill(int((WORK / "data/nats/nats-server.pid").read_text()), signal.SIGKILL)
                evidence("killed nats-server (the service starts it again)")
            elif number == BURST_CHANGES // 3:
                self.agent.kill()
                self.agent.start()
                evidence("killed the agent, started it again")
            elif number == BURST_CHANGES // 2:
                self.service.kill()
                self.service.start()
                evidence("killed the service, started it again")
        took = []
        with stopwatch(took):
            now = eventually("pool and source agree", lambda: true_pools(self.clusters) if self.agree() else None)
        holds((WORK / "data/nats/port").read_text() == port, "NATS came back on another port")
        owner = now["prod-eu"]["owners"][0]
        last = owner["at"].split(":")[1]
        holds(str(owner["applied"]) == last, f"applied {owner['applied']} of {last} events")
        evidence(f"after {took[0] / 1000:.1f} s: digests equal; read independently, all {BURST_NOTICES} burst resources equal their files")
        evidence(f"chain at {last}, applied {owner['applied']}: every event exactly once; came again and dropped: {owner['repeats']}")

    def agree(self):
        done = farside("pool", "export", "prod-eu", check=False)
        if done.returncode:
            return False
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        states = {row["key"]: row.get("state") for row in rows}
        for number in range(BURST_NOTICES):
            document = json.loads((SOURCE / f"prod-eu/shop/burst-{number}.json").read_text())
            state = next((state for key, state in states.items() if key.endswith(f"/burst-{number}")), None)
            if not state or state["data"] != document["data"]:
                return False
        return True

    def tenants(self):
        step(6, "A level-2 tenant comes in by the access key of the level-1 tenant it is bound to")
        for verb in ("create acme", "create acme/web", "grant acme --pool prod-eu", "grant acme/web --pool prod-eu", "bind acme/web"):
            verb, tenant, *more = verb.split()
            farside("tenant", verb, tenant, *more)
        url, token = f"{self.url}/v1/pools/local/prod-eu", f"ak-prod-eu.{self.secret}"
        code, page = eventually("the tenant is let in", lambda: self.expect(200, url, token))
        evidence(f"acme/web with the key ak-prod-eu: {code}, sees {page.get('resources', '?')} resources of prod-eu")
        farside("tenant", "unbind", "acme/web")
        code, refusal = eventually("the tenant is shut out", lambda: self.expect(403, url, token))
        evidence(f"after unbinding: {code}, \"{refusal.get('detail', '')}\"")

    def expect(self, wanted, url, token):
        code, page = get(url, token, "acme/web")
        return (code, page) if code == wanted else None

    def past(self, before):
        seq, exported = before
        step(7, f"The pool as it was before the storm, at FARSIDE_LOCAL:{seq}")
        again = export("prod-eu", "--at", str(seq))
        holds(again == exported, "the past changed")
        evidence(f"then {len(again.splitlines())} rows, sha256 {short(again)}: the same bytes as when it was the present")
        evidence(f"now  {len(export('prod-eu').splitlines())} rows, sha256 {short(export('prod-eu'))}")


def main():
    start = time.monotonic()
    demo = Demo()
    say(f"Farside demo, in {WORK.relative_to(ROOT)}")
    try:
        demo.run()
    except DemoFailed as failure:
        say(f"\nFAILED: {failure}\nlogs: {WORK}/*.log")
        return 1
    finally:
        demo.stop()
    say(f"\nEvery step held. {time.monotonic() - start:.0f} s. The logs are in {WORK.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
