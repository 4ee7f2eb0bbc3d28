"""PPO on two hosts, and what a person sees when something breaks between them.

    python -m bench.two_hosts [--only NAME …]

A host is a network namespace of this machine with a Ray node of its own, so it needs Linux, root and ``ip``. The two
hosts are joined by a veth pair and share no other network; Ray uses token authentication. Each has one CPU, so that a
team of two workers, or a policy and a generator apart, stand on both. After a fault the link is mended, the hosts start
again, and the run goes on with ``--resume auto``: its hash must be that of the run without a fault in one process. The
results stand in bench/results/two_hosts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.two_hosts_driver import LINK
from concordant.runs.identity import package_version

RESULTS = Path(__file__).parent / "results" / "two_hosts.json"
HOSTS = {"a": "10.77.0.1", "b": "10.77.0.2"}  # the driver is on a
PORT = 6399
TIMEOUT = 60.0  # seconds, cluster.timeout
STEPS = 3
TOGETHER = {"workers": 2}
GENERATOR_APART = {"workers": 1, "apart": {"generator": 1}}
# By name: where the roles stand, the fault, and the role whose workers meet it.
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "two workers": (TOGETHER, "", "policy"),
    "generator apart": (GENERATOR_APART, "", "generator"),
    "a worker raises": (TOGETHER, "raise", "policy"),
    "a worker is killed": (TOGETHER, "kill", "policy"),
    "a worker hangs": (TOGETHER, "hang", "policy"),
    "the link is cut": (TOGETHER, "cut", "policy"),
    "the generator is killed": (GENERATOR_APART, "kill", "generator"),
    "the generator hangs": (GENERATOR_APART, "hang", "generator"),
}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def inside(host: str, *command: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(["ip", "netns", "exec", _space(host), *command], text=True, **more)


def _space(host: str) -> str:
    return f"concordant-{host}"


@contextmanager
def two_spaces() -> Iterator[None]:
    """Two network namespaces, each with one end of a veth pair."""
    try:
        for host in HOSTS:
            ip("netns", "add", _space(host))
        ip("link", "add", LINK, "netns", _space("a"), "type", "veth", "peer", "name", "veth-b", "netns", _space("b"))
        for host, address in HOSTS.items():
            for command in (f"addr add {address}/24 dev veth-{host}", f"link set veth-{host} up", "link set lo up"):
                ip("-n", _space(host), *command.split())
        yield
    finally:
        for host in HOSTS:
            _end_all(host)
            ip("netns", "delete", _space(host))


def _end_all(host: str) -> None:
    """End every process of the host, by the number that the kernel gives for its namespace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        found = subprocess.run(["ip", "netns", "pids", _space(host)], capture_output=True, text=True, check=True)
        for pid in found.stdout.split():
            try:
                os.kill(int(pid), number)
            except ProcessLookupError:
                continue
        time.sleep(3 if found.stdout else 0)


@contextmanager
def cluster(environment: dict[str, str], log: Path) -> Iterator[None]:
    """A Ray node on each host, which writes to ``log``."""
    ip("-n", _space("a"), "link", "set", LINK, "up")
    ray = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus=1")
    head = ("--head", f"--port={PORT}", "--include-dashboard=false")
    try:
        for host, address in HOSTS.items():
            where = head if host == "a" else (f"--address={HOSTS['a']}:{PORT}",)
            with log.open("a", encoding="utf-8") as said:
                inside(host, *ray, *where, f"--node-ip-address={address}", env=environment, stdout=said, stderr=said)
            _wait_for_nodes(environment, 1 if host == "a" else 2)
        yield
    finally:
        for host in HOSTS:
            _end_all(host)


def _wait_for_nodes(environment: dict[str, str], nodes: int) -> None:
    ask = f"import ray; ray.init('{HOSTS['a']}:{PORT}', log_to_driver=False); print(len(ray.nodes()))"
    until = time.monotonic() + 180
    while time.monotonic() < until:
        asked = inside("a", sys.executable, "-c", ask, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            if asked.communicate(timeout=60)[0].strip() == str(nodes):
                return
        except subprocess.TimeoutExpired:
            asked.kill()
        time.sleep(2)
    raise RuntimeError(f"{nodes} Ray nodes did not start")


def driven(environment: dict[str, str], log: Path, **settings: Any) -> dict[str, Any]:
    command = (sys.executable, "-m", "bench.two_hosts_driver", json.dumps(settings))
    with log.open("a", encoding="utf-8") as errors:
        run = inside("a", *command, env=environment, stdout=subprocess.PIPE, stderr=errors)
        text, _ = run.communicate()
    return json.loads(text.strip().splitlines()[-1])


def measure(name: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The run of one case, and if it ended with an error, its resumed run."""
    places, fault, role = CASES[name]
    output = str(folder / name.replace(" ", "-"))
    on_ray = places | {"shards": 2, "ray": f"{HOSTS['a']}:{PORT}", "timeout": TIMEOUT}
    log = folder / f"{Path(output).name}.log"
    settings: dict[str, Any] = {"verb": "gae", "steps": STEPS, "output": output, "cluster": on_ray, "role": role}
    with cluster(environment, log):
        found = driven(environment, log, fault=fault, **settings)
    if "error" in found:
        print(f"{name}: {found}", flush=True)
        with cluster(environment, log):
            resumed = driven(environment, log, fault="", resume="auto", **settings)
        found["resumed"] = resumed.get("hash") or resumed
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--logs", type=Path, help="a folder for the runs and their logs, which is kept")
    given = parser.parse_args()
    about: dict[str, Any] = {"steps": STEPS, "timeout": TIMEOUT, "concordant": package_version()}
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = before.get("cases", {}) if before.items() >= about.items() else {}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    environment = dict(os.environ) | token | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory() as temporary, two_spaces():
        folder = given.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        alone = {"verb": "gae", "steps": STEPS, "cluster": {"shards": 2}, "fault": "", "role": "policy"}
        about["hash of one process"] = driven(environment, folder / "one.log", output=str(folder / "one"), **alone)[
            "hash"
        ]
        for name in given.only:
            rows[name] = measure(name, folder, environment)
            print(f"{name}: {rows[name]}", flush=True)
            RESULTS.write_text(json.dumps(about | {"cases": rows}, indent=1) + "\n", encoding="utf-8")
    ends = {name: row.get("hash") or row.get("resumed") for name, row in rows.items()}
    different = [name for name, end in ends.items() if end != about["hash of one process"]]
    print(f"different: {', '.join(different)}" if different else "every run ended with the hash of one process")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
