#!/usr/bin/env python3
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run without a change costs, for one and for several balancers, each by itself or by one search for all: the table of docs/scale.md.

Real HAProxies on loopback, reached without SSH, and an EC2 of canned answers: what is measured is Ansible, the modules and HAProxy's own checks, in seconds of
processor time (user and system, all processes of the run) and in calls of the API.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from balancer import Balancer  # noqa: E402
from ec2_endpoint import REGION, Ec2Endpoint, many  # noqa: E402
from haproxy_binaries import binaries  # noqa: E402

PLAYBOOKS = ("update", "fleet")


def seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(folder: Path, playbook: str, hosts: int, environment: dict[str, str]) -> None:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "inventory.json"), "-e", "haproxy_autoscale_hosts=balancers"]
    command += ["-e", f"haproxy_autoscale_serial={hosts}", "--forks", "5", str(ROOT / "playbooks" / f"{playbook}.yml")]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{playbook} of {hosts} failed:\n{done.stdout[-4000:]}")


def measure(folder: Path, hosts: int, instances: int, runs: int) -> list[str]:
    """The rows for so many balancers and instances, as "seconds (calls)" for each playbook."""
    balancers = []
    inventory: dict[str, Any] = {}
    try:
        with Ec2Endpoint() as aws:
            aws.regions[REGION] = many(instances)
            for number in range(hosts):
                home = folder / f"lb-{number}"
                home.mkdir()
                balancers.append(Balancer(home, list(binaries().values())[-1]))
                own = balancers[-1].variables(8080)
                # Nobody listens at these addresses, and their checks would be measured, too.
                own["haproxy_autoscale_services"][0]["check"] = False
                inventory[home.name] = {**own, "ansible_connection": "local", "ansible_python_interpreter": sys.executable}
            (folder / "inventory.json").write_text(json.dumps({"balancers": {"hosts": inventory}}))
            environment = {**os.environ, **aws.environment}
            run(folder, "fleet", hosts, environment)
            cells = []
            for playbook in PLAYBOOKS:
                used = []
                aws.requests.clear()
                for _run in range(runs):
                    before = seconds()
                    run(folder, playbook, hosts, environment)
                    used.append(seconds() - before)
                cells.append(f"{median(used):.1f} s, {aws.count('DescribeInstances') // runs} calls")
            return cells
    finally:
        for balancer in balancers:
            balancer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    columns = [(hosts, playbook) for hosts in arguments.hosts for playbook in PLAYBOOKS]
    print("| Instances | " + " | ".join(f"{hosts} by `{playbook}.yml`" for hosts, playbook in columns) + " |")
    print("|--:" * (len(columns) + 1) + "|")
    for instances in arguments.instances:
        cells = []
        for hosts in arguments.hosts:
            # A short name: the path of a socket has room for 97 characters.
            with tempfile.TemporaryDirectory(prefix="scale-") as folder:
                cells += measure(Path(folder), hosts, instances, arguments.runs)
        print(f"| {instances:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
