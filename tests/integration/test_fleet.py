# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many balancers over SSH, each a real HAProxy with files of its own: one search, batch after batch, and the first failure leaves the rest alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible_cores
import pytest
from backends import Backends
from balancer import ROOT, Balancer, Run
from ec2_endpoint import Ec2Endpoint, error
from haproxy_binaries import binaries
from ssh_host import SshHost
from stage import address, instance_id, one

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="the OpenSSH client is not installed")

NAMES = ["lb-1", "lb-2", "lb-3"]
# Of the controller alone.
SECRET = "not-for-any-balancer"


class Fleet:
    """Three balancers, each reached at an address of its own, and an EC2 that the controller alone knows."""

    def __init__(self, folder: Path, binary: str, web: Backends, aws: Ec2Endpoint) -> None:
        self.folder = folder
        self.aws = aws
        self.balancers: dict[str, Balancer] = {}
        self.hosts: dict[str, SshHost] = {}
        for number, name in enumerate(NAMES, 1):
            home = folder / name
            home.mkdir()
            self.balancers[name] = Balancer(home, binary)
            self.hosts[name] = SshHost(home, f"127.0.4.{number}")
        self.shared: dict[str, Any] = {
            "ansible_python_interpreter": sys.executable,
            "haproxy_autoscale_access_key": "AKIDEXAMPLE",
            "haproxy_autoscale_secret_key": SECRET,
            "haproxy_autoscale_lifecycle": "in_service",
            "haproxy_autoscale_complete_lifecycle_action": "drained",
        }
        self.own: dict[str, dict[str, Any]] = {name: balancer.variables(web.port) for name, balancer in self.balancers.items()}

    def members(self, *numbers: int) -> None:
        self.aws.regions["eu-west-1"] = [[one(number, tags={"aws:autoscaling:groupName": "web"}) for number in numbers]]
        self.aws.lifecycle_states.update({instance_id(number): "InService" for number in numbers})

    def run(self, *arguments: str, playbook: str = "fleet", core: str = "") -> Run:
        inventory = self.folder / "inventory.json"
        hosts = {name: {**self.hosts[name].variables, **self.own[name]} for name in NAMES}
        # At the group `all`, whose variables hold for the controller, too.
        inventory.write_text(json.dumps({"all": {"vars": self.shared, "children": {"balancers": {"hosts": hosts}}}}))
        folder = ansible_cores.cores().get(core, Path(sys.executable).parent)
        command = [str(folder / "ansible-playbook"), "-i", str(inventory), *arguments, str(ROOT / "playbooks" / f"{playbook}.yml")]
        # Of the environment of the tests nothing else: what the search needs is the controller's own.
        given = {
            **self.aws.environment,
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "ANSIBLE_HOST_KEY_CHECKING": "0",
            # One connection a module, as the documents have it.
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_DISPLAY_FAILED_STDERR": "0",
        }
        done = subprocess.run(command, cwd=self.folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        return Run(done.returncode, done.stdout)

    def files(self) -> list[bytes]:
        return [balancer.config.read_bytes() for balancer in self.balancers.values()]

    def texts(self) -> list[str]:
        """The files of all, with what has to differ on one machine (folder and port) replaced."""
        return [
            re.sub(rf"\b{balancer.port}\b", "PORT", balancer.config.read_text().replace(str(balancer.folder), "FOLDER")) for balancer in self.balancers.values()
        ]

    def has(self) -> list[set[str]]:
        """The instances that the process of each balancer has."""
        return [set(balancer.servers()) for balancer in self.balancers.values()]

    def stop(self) -> None:
        for name in NAMES:
            self.balancers[name].stop()
            self.hosts[name].close()


def ids(*numbers: int) -> set[str]:
    return {instance_id(number) for number in numbers}


def changed(done: Run, name: str) -> int:
    """The host's count in the recap; -1 for one that was never come to: not a task was done there."""
    found = re.search(rf"^{name}\s*:\s*ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", done.output, re.MULTILINE)
    return int(found.group(2)) if found and any(map(int, found.groups())) else -1


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory, web: Backends, aws: Ec2Endpoint) -> Iterator[Fleet]:
    # A short name: the path of a socket has room for 97 characters.
    made = Fleet(tmp_path_factory.mktemp("f"), list(binaries().values())[-1], web, aws)
    yield made
    made.stop()


# As runs go on for as long as three balancers take one after the other.
@pytest.mark.timeout(900)
def test_the_fleet_follows_batch_after_batch_and_the_first_failure_leaves_the_rest_alone(fleet: Fleet) -> None:
    """One fleet, and what happens to it; the ansible-cores take turns."""
    lb_1, lb_2, lb_3 = fleet.balancers.values()
    # One that has its process in a list is served by the same search.
    entry = {"name": "haproxy", "security_groups": [], "services": fleet.own["lb-3"]["haproxy_autoscale_services"]}
    for kind in ("config_path", "pid_file", "master_socket", "stats_socket"):
        entry[kind] = fleet.own["lb-3"][f"haproxy_autoscale_{kind}"]
    fleet.own["lb-3"].update(haproxy_autoscale_processes=[entry], haproxy_autoscale_services=[], haproxy_autoscale_security_groups=[])
    # In place of sudo: it notes where it was called.
    log = fleet.folder / "became"
    sudo = fleet.folder / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "${{THE_HOST:-controller}}" >>{log}\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n')
    sudo.chmod(0o755)
    fleet.shared.update(ansible_become=True, ansible_become_exe=str(sudo))

    # The first run: one search, and the same bytes for all.
    fleet.members(1, 2)
    done = fleet.run("--become", "-e", '{"haproxy_autoscale_serial": [1, "100%"]}')
    assert done.status == 0, done.output
    assert [request.operation for request in fleet.aws.requests] == ["DescribeInstances", "DescribeAutoScalingInstances"]
    assert len(set(fleet.texts())) == 1
    for name, balancer in fleet.balancers.items():
        balancer.until_all_serve({address(1), address(2)})
        # What is for a balancer is sent there, and the credentials are not.
        assert str(balancer.stats_socket).encode() in fleet.hosts[name].received
        assert SECRET.encode() not in fleet.hosts[name].received

    # The second cannot be brought to its file, which shows at its reload alone: in an .if nobody looks at the bind before.
    fleet.own["lb-2"]["haproxy_autoscale_extra_lines"] = [".if version_atleast(2.4)", "frontend broken", "    bind 192.0.2.1:80", ".endif"]
    fleet.members(1, 2, 3)
    fleet.aws.lifecycle_states[instance_id(2)] = "Terminating:Wait"
    before = fleet.files()
    failed = fleet.run(core="2.16")
    assert failed.status != 0
    assert re.search(r"^lb-2 .*failed=1", failed.output, re.MULTILINE), failed.output
    # The first was proven before the second began, the second put back, and nobody has come to the third.
    assert fleet.has() == [ids(1, 3), ids(1, 2), ids(1, 2)]
    assert [now == old for now, old in zip(fleet.files(), before)] == [False, True, True]
    assert changed(failed, "lb-3") == -1
    assert lb_2.reached() == {address(1), address(2)}
    del fleet.own["lb-2"]["haproxy_autoscale_extra_lines"]

    # The first of the inventory, with whose variables the search is made, cannot be reached.
    fleet.hosts["lb-1"].stop()
    searches = fleet.aws.count("DescribeInstances")
    before = fleet.files()
    unreachable = fleet.run(core="2.21")
    assert unreachable.status != 0
    assert re.search(r"^lb-1 .*unreachable=1", unreachable.output, re.MULTILINE), unreachable.output
    assert fleet.aws.count("DescribeInstances") == searches + 1
    assert "lb-1 could not be reached, or failed. The balancers behind are left as they are." in unreachable.text
    assert [changed(unreachable, name) for name in NAMES] == [0, 0, -1]
    assert fleet.files() == before
    assert fleet.has() == [ids(1, 3), ids(1, 2), ids(1, 2)]
    fleet.hosts["lb-1"].start()

    # Without AWS each is healed, as after a reboot where nothing but this starts it, and none is changed.
    lb_1.stop()
    lb_3.stop()
    fleet.aws.fault("DescribeInstances", error(403, "UnauthorizedOperation"))
    dark = fleet.run()
    assert dark.status != 0
    assert "UnauthorizedOperation" in dark.output
    # Where that may be borne for a while, it is for each of them.
    borne = fleet.run("-e", "haproxy_autoscale_maximum_outage=600", core="2.21")
    assert borne.status == 0, borne.output
    assert [changed(borne, name) >= 0 for name in NAMES] == [True, True, True]
    assert "The balancers behind are left" not in borne.text
    fleet.aws.heal()
    lb_1.until_all_serve({address(1), address(3)})
    lb_3.until_all_serve({address(1), address(2)})
    assert fleet.files() == before

    # The others follow; those that were come to last had the instance still when they were asked.
    followed = fleet.run(core="2.21")
    assert followed.status == 0, followed.output
    assert fleet.has() == [ids(1, 3)] * 3
    assert len(set(fleet.texts())) == 1
    # Each forgets the outage; to the first that is all.
    assert [changed(followed, name) > 1 for name in NAMES] == [False, True, True], followed.output
    assert fleet.aws.count("CompleteLifecycleAction") == 0

    # Whom nobody asks may have it. And a run that only checks shows the difference, and makes none.
    before = fleet.files()
    checked = fleet.run("--check", "--diff", "--limit", "lb-1", "-e", "haproxy_autoscale_maxconn=1234")
    assert checked.status == 0, checked.output
    assert "+    maxconn 1234" in checked.output
    assert "told to go on" not in checked.text
    assert fleet.files() == before

    # No balancer has it any more.
    workers = [balancer.worker() for balancer in fleet.balancers.values()]
    told = fleet.run()
    assert told.status == 0, told.output
    assert f"Auto Scaling was told to go on with {instance_id(2)}" in told.text
    assert [request.parameters["InstanceId"] for request in fleet.aws.requests if request.operation == "CompleteLifecycleAction"] == [instance_id(2)]
    assert (fleet.files(), [balancer.worker() for balancer in fleet.balancers.values()]) == (before, workers)
    assert [changed(told, name) for name in NAMES[1:]] == [0, 0]
    assert set(log.read_text().split()) == set(NAMES)


def test_what_was_not_found_for_a_balancer_in_this_very_run_is_refused(fleet: Fleet) -> None:
    fleet.members(1, 2)
    alone = fleet.run("--limit", "lb-1", "-e", "haproxy_autoscale_hosts=balancers", "-e", "haproxy_autoscale_discover=false", playbook="update")
    assert alone.status != 0
    said = "must be true where no earlier play of the same run has included the role's task file discover_once"
    assert f"haproxy_autoscale_discover {said}" in alone.text
    # Another group than the first balancer's.
    services = fleet.own["lb-2"]["haproxy_autoscale_services"]
    fleet.own["lb-2"]["haproxy_autoscale_services"] = [{**services[0], "security_groups": ["apis"]}]
    other = fleet.run("-e", "haproxy_autoscale_serial=100%")
    assert other.status != 0
    assert "haproxy_autoscale_discover must be true where the search for all balancers left out a group of this one's: apis" in other.text
    assert not any(balancer.config.exists() for balancer in fleet.balancers.values())
