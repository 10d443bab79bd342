#!/usr/bin/env python3
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs beside what it replaces: the tables and the plot of docs/performance.md.

Whole processes are measured, by what the kernel counts for ansible-playbook and all that it starts (os.wait4): user and system time. The ways take turns within
one run of this program, so that whatever else the machine does hits all of them, and what is compared is the medians of the same minutes. The EC2 is
canned_ec2.py and HAProxy runs already; the time of these two is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from ansible_cores import cores  # noqa: E402
from balancer import Balancer  # noqa: E402
from haproxy_binaries import binaries  # noqa: E402

SIZES = (10, 100, 1000, 5000, 10000)
RESULTS = ROOT / "build" / "bench"
# The collection amazon.aws, as tests/support/awx_collection gets it out of the package `ansible`.
AMAZON_AWS = ROOT / ".cache" / "awx"
# CPU of a run of ours in which nothing has changed, against the plain way, by the number of instances.
BARS = {10: 0.65, 1000: 0.35, 10000: 0.13}
WAYS = {"empty": "an empty play", "plain": "`ec2_instance_info`, template, handler", "ours": "`update.yml`", "changed": "`update.yml`, one changed"}

EMPTY = """
- hosts: localhost
  gather_facts: false
  tasks: []
"""
# What someone who knows Ansible writes: no fact gathering, the filters on EC2's side, the file checked before it takes its place.
PLAIN = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Find the running instances of the security group
      amazon.aws.ec2_instance_info:
        filters:
          instance-state-name: running
          instance.group-name: webheads
      register: found
    - name: Write the configuration
      ansible.builtin.template:
        src: plain.cfg.j2
        dest: "{{ folder }}/haproxy.cfg"
        mode: "0640"
        validate: "{{ binary }} -c -f %s"
      notify: Reload HAProxy
  handlers:
    - name: Reload HAProxy
      ansible.builtin.shell: kill -USR2 "$(cat {{ folder }}/haproxy.pid)"
"""
PLAIN_TEMPLATE = """# {{ ansible_managed }}
global
    stats socket {{ folder }}/stats.sock mode 600 level admin expose-fd listeners
    hard-stop-after 15m
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend webheads-in
    bind 127.0.0.1:{{ listen_at }}
    default_backend webheads
backend webheads
    balance roundrobin
{% for instance in found.instances | sort(attribute='instance_id') %}
    server {{ instance.instance_id }} {{ instance.private_ip_address }}:80
{% endfor %}
"""


class Cost(NamedTuple):
    """What one process and all that it started took, in seconds; `cpu` is user and system time."""

    cpu: float
    wall: float


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str], data: bytes = b"") -> tuple[Cost, str]:
    """Run a program to its end; its cost and what it printed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(data)
        given.seek(0)
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdin=given, stdout=output, stderr=subprocess.STDOUT)
        _pid, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-4000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall), text


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The largest sum of the memory of what this process starts, in MiB, by samples; shared pages are counted once (Pss of proc(5))."""
    peak = [0.0]
    ended = threading.Event()
    spared = _children(os.getpid())

    def sample() -> None:
        while not ended.wait(0.05):
            found = 0
            for pid in _children(os.getpid()) - spared:
                try:
                    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
                found += int(match.group(1)) if match else 0
            peak[0] = max(peak[0], found / 1024)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _children(pid: int) -> set[int]:
    """All that descend from a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found


class Scene:
    """Two HAProxies, one for each way, and an EC2, for one number of instances."""

    def __init__(self, folder: Path, count: int, url: str, binary: str, bin_dir: Path) -> None:
        self.folder = folder
        self.count = count
        self.url = url
        self.bin_dir = bin_dir
        self.balancer = Balancer(_made(folder / "ours"), binary)
        self.plain = Balancer(_made(folder / "plain"), binary)
        self.plain.start(self.plain.text())
        variables = self.balancer.variables(80, haproxy_autoscale_maximum_removed_percent=100)
        # Nobody listens at these addresses.
        variables["haproxy_autoscale_services"][0]["check"] = False
        self.variables = variables
        (folder / "ours.json").write_text(json.dumps(variables))
        (folder / "plain.json").write_text(json.dumps({"folder": str(self.plain.folder), "binary": binary, "listen_at": self.plain.port}))
        (folder / "empty.yml").write_text(EMPTY)
        (folder / "plain.yml").write_text(PLAIN)
        (folder / "plain.cfg.j2").write_text(PLAIN_TEMPLATE)
        self._changes = 0

    def environment(self, changes: int = 0) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ANSIBLE_")) and not name.lower().endswith("_proxy")}
        return {
            **inherited,
            "AWS_ACCESS_KEY_ID": "AKIACANNEDCANNEDCANN",
            "AWS_SECRET_ACCESS_KEY": "canned-secret-that-nobody-checks",
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL": f"{self.url}/{self.count}/{changes}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "ANSIBLE_COLLECTIONS_PATH": str(AMAZON_AWS),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "1",
        }

    def run(self, way: str) -> Cost:
        """One run of a playbook; that nothing, or something, was changed is looked at."""
        if way == "changed":
            self._changes += 1
        playbook = ROOT / "playbooks" / "update.yml" if way in ("ours", "changed") else self.folder / f"{way}.yml"
        command = [str(self.bin_dir / "ansible-playbook")]
        if way != "empty":
            command += ["-e", f"@{self.folder / ('plain.json' if way == 'plain' else 'ours.json')}"]
        # Ours from the checkout, as the documents say, so that its ansible.cfg counts; the others with Ansible's own settings.
        folder = ROOT if way in ("ours", "changed") else self.folder
        cost, output = measured([*command, str(playbook)], folder, self.environment(0 if way == "plain" else self._changes))
        recap = re.search(r"changed=(\d+)", output)
        if way != "empty" and (recap is None or (recap.group(1) != "0") != (way == "changed")):
            raise SystemExit(f"{way} is not what was to be measured:\n{output[-4000:]}")
        return cost

    def settle(self) -> None:
        """Bring both HAProxies to the instances."""
        for playbook, variables in ((ROOT / "playbooks" / "update.yml", "ours"), (self.folder / "plain.yml", "plain")):
            command = [str(self.bin_dir / "ansible-playbook"), "-e", f"@{self.folder / variables}.json", str(playbook)]
            measured(command, self.folder, self.environment())

    def module(self, name: str, options: Mapping[str, Any]) -> tuple[Cost, dict[str, Any]]:
        """A module by itself: a process with arguments and an answer, without Ansible around it."""
        code = (
            "import runpy, sys\nfrom ansible.module_utils import basic\nbasic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), 'legacy'\n"
            "runpy.run_module('ansible_collections.' + sys.argv[1], run_name='__main__', alter_sys=True)\n"
        )
        link = self.folder / "collections" / "ansible_collections" / "autoscale" / "haproxy"
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(ROOT)
        given = json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_remote_tmp": str(self.folder), **options}}).encode()
        environment = {**self.environment(), "PYTHONPATH": f"{self.folder / 'collections'}:{AMAZON_AWS}"}
        cost, output = measured([str(self.bin_dir / "python"), "-W", "ignore", "-c", code, name], self.folder, environment, given)
        return cost, json.loads(output)

    def stop(self) -> None:
        self.balancer.stop()
        self.plain.stop()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def runs(scene: Scene, repetitions: int) -> dict[str, Any]:
    """Each way by turns: the medians, and the peak memory of one run more."""
    scene.settle()
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for _number in range(repetitions):
        for way in WAYS:
            costs[way].append(scene.run(way))
    found: dict[str, Any] = {}
    for way in WAYS:
        with peak_memory() as peak:
            scene.run(way)
        found[way] = {
            "cpu": round(median(cost.cpu for cost in costs[way]), 3),
            "wall": round(median(cost.wall for cost in costs[way]), 3),
            "memory": round(peak[0], 1),
        }
    return found


def modules(scene: Scene, repetitions: int) -> dict[str, float]:
    """The processor time of the modules by themselves."""
    process = {name: scene.variables[f"haproxy_autoscale_{name}"] for name in ("config_path", "binary", "pid_file", "stats_socket", "state_dir")}
    wanted = {
        "amazon.aws.plugins.modules.ec2_instance_info": {"filters": {"instance-state-name": "running", "instance.group-name": "webheads"}},
        "autoscale.haproxy.plugins.modules.ec2_security_group_instance_facts": {"security_groups": ["webheads"]},
        "autoscale.haproxy.plugins.modules.haproxy_facts": {
            "candidates": [{**process, "service_name": "", "text": scene.balancer.config.read_text()}],
            "gather_servers": False,
        },
    }
    costs: dict[str, list[float]] = {name: [] for name in wanted}
    for _number in range(repetitions):
        for name, options in wanted.items():
            costs[name].append(scene.module(name, options)[0].cpu)
    return {name.rpartition(".")[2]: round(median(values), 3) for name, values in costs.items()}


def changes(scene: Scene, repetitions: int) -> dict[str, float]:
    """Wall time to plan a change, to make it at runtime and to make it by a reload, with one server and with a hundred that are others."""
    found: dict[str, list[float]] = {}
    process = {name: scene.variables[f"haproxy_autoscale_{name}"] for name in ("config_path", "binary", "pid_file", "stats_socket", "state_dir")} | {
        "service_name": ""
    }
    config = scene.balancer.config
    addresses = 10
    for _number in range(repetitions):
        for count, strategy in ((1, "auto"), (100, "auto"), (1, "reload")):
            lines = config.read_text().splitlines(keepends=True)
            servers = [at for at, line in enumerate(lines) if line.startswith("    server ")][:count]
            # The same servers at addresses that no other has.
            addresses += 1
            for at in servers:
                lines[at] = re.sub(r" [0-9]+\.([0-9]+\.[0-9]+\.[0-9]+:)", rf" {addresses}.\1", lines[at])
            text = "".join(lines)
            cost, answer = scene.module(
                "autoscale.haproxy.plugins.modules.haproxy_facts",
                {"candidates": [{**process, "text": text, "apply_strategy": strategy}], "gather_servers": False},
            )
            candidate = answer["ansible_facts"]["haproxy_processes"]["haproxy"]["candidate"]
            expected = "reload" if strategy == "reload" else "runtime"
            if candidate["plan"] != expected:
                raise SystemExit(f"the plan is {candidate['plan']}: {candidate['plan_reason']}")
            found.setdefault(f"plan {count} {expected}", []).append(cost.wall)
            before = answer["ansible_facts"]["haproxy_processes"]["haproxy"]["config"]["checksum"]
            config.write_text(text)
            cost, answer = scene.module(
                "autoscale.haproxy.plugins.modules.haproxy_apply",
                {
                    **process,
                    "checksum": candidate["checksum"],
                    "in_force_checksum": before,
                    "master_socket": scene.variables["haproxy_autoscale_master_socket"],
                    "apply_strategy": strategy,
                    "drain_timeout": 0,
                },
            )
            if answer["applied_by"] != expected:
                raise SystemExit(f"applied by {answer['applied_by']}: {answer}")
            found.setdefault(f"apply {count} {expected}", []).append(cost.wall)
    return {name: round(median(values), 3) for name, values in found.items()}


@contextmanager
def canned_ec2() -> Iterator[str]:
    """The URL of an EC2 that runs beside."""
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("canned_ec2.py"))], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def measure(core: str, sizes: Sequence[int], repetitions: int, largest: int, ways_only: bool) -> dict[str, Any]:
    """All of one ansible-core."""
    binary = list(binaries().values())[-1]
    found: dict[str, Any] = {
        "core": core,
        "repetitions": repetitions,
        "python": subprocess.run([cores()[core] / "python", "-V"], capture_output=True, text=True, check=True).stdout.split()[1],
        "haproxy": list(binaries())[-1],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "runs": {},
        "modules": {},
    }
    with canned_ec2() as url:
        for size in sizes:
            # A short name: the path of a socket has room for 97 characters.
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                scene = Scene(Path(folder), size, url, binary, cores()[core])
                try:
                    found["runs"][str(size)] = row = runs(scene, repetitions)
                    shown = ", ".join(f"{way} {cost['cpu']:.2f} s {cost['memory']:.0f} MiB" for way, cost in row.items())
                    print(f"{core} {size}: {shown}, ratio {row['ours']['cpu'] / row['plain']['cpu']:.2f}", flush=True)
                    if not ways_only:
                        found["modules"][str(size)] = modules(scene, repetitions)
                        print(f"{core} {size}: {found['modules'][str(size)]}", flush=True)
                        if size == largest:
                            found["changes"] = changes(scene, repetitions)
                            print(f"{core} {size}: {found['changes']}", flush=True)
                finally:
                    scene.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--cores", nargs="+", default=["2.19", "2.21"], help="versions of ansible-core")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one repetition at 10, 1,000 and 10,000 instances, whole runs only; writes nothing")
    arguments = parser.parse_args()
    if not (AMAZON_AWS / "ansible_collections" / "amazon" / "aws").exists():
        raise SystemExit("The collection amazon.aws is not there: run `make setup`.")
    sizes = [10, 1000, 10000] if arguments.quick else arguments.instances
    for core in arguments.cores:
        if core not in cores():
            print(f"ansible-core {core} is not there and is left out: run `make setup`", flush=True)
            continue
        found = measure(core, sizes, 1 if arguments.quick else arguments.repetitions, max(sizes), arguments.quick)
        if not arguments.quick:
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / f"{core}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
