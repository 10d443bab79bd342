# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Run a module that talks to AWS as Ansible runs it on a host: a process, arguments in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Ansible's own wrapper does the same with a zip file; from 2.19 it also says how the arguments are serialized.
_RUN = """
import runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
runpy.run_module("ansible_collections.autoscale.haproxy.plugins.modules." + sys.argv[1], run_name="__main__", alter_sys=True)
"""


class Result(dict):  # type: ignore[type-arg]
    """What the module answered."""

    @property
    def failed(self) -> bool:
        return bool(self.get("failed"))

    @property
    def message(self) -> str:
        return str(self.get("msg", ""))

    @property
    def instances(self) -> dict[str, list[dict[str, Any]]]:
        facts: dict[str, list[dict[str, Any]]] = self["ansible_facts"]["ec2_security_group_instances"]
        return facts

    @property
    def draining(self) -> dict[str, list[dict[str, Any]]]:
        facts: dict[str, list[dict[str, Any]]] = self["ansible_facts"]["ec2_security_group_draining_instances"]
        return facts

    @property
    def excluded(self) -> dict[str, list[dict[str, str]]]:
        facts: dict[str, list[dict[str, str]]] = self["ansible_facts"]["ec2_security_group_excluded_instances"]
        return facts

    def ids(self, group: str) -> list[str]:
        return [instance["instance_id"] for instance in self.instances[group]]


def run_module(environment: Mapping[str, str], *, module: str = "ec2_security_group_instance_facts", **options: Any) -> Result:
    """Run a module with these options, and with nothing of this process's AWS environment but what is given.

    :raises AssertionError: when it answers with no JSON.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and not name.lower().endswith("_proxy")}
    arguments = {"ANSIBLE_MODULE_ARGS": {"_ansible_remote_tmp": tempfile.gettempdir(), **options}}
    with tempfile.TemporaryDirectory() as scratch:
        namespace = Path(scratch, "ansible_collections", "autoscale")
        namespace.mkdir(parents=True)
        (namespace / "haproxy").symlink_to(ROOT)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _RUN, module],
            input=json.dumps(arguments),
            env={**inherited, "HOME": scratch, **environment, "PYTHONPATH": os.pathsep.join([scratch, environment.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout.strip().startswith("{"), f"no answer: {done.stdout}{done.stderr}"
    return Result(json.loads(done.stdout))
