# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many balancers over SSH, each a real HAProxy with files of its own: one search, batch after batch, and the first failure leaves the rest alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
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
        self.shared: dict[str, Any] = {"ansible_python_interpreter": sys.executable}
        self.own: dict[str, dict[str, Any]] = {name: balancer.variables(web.port) for name, balancer in self.balancers.items()}

    def members(self, *numbers: int, **more: Any) -> None:
        self.aws.regions["eu-west-1"] = [[one(number, **more) for number in numbers]]

    def run(self, *arguments: str, playbook: Path = ROOT / "playbooks" / "fleet.yml", core: str = "") -> Run:
        inventory = self.folder / "inventory.json"
        hosts = {name: {**self.hosts[name].variables, **self.own[name]} for name in NAMES}
        inventory.write_text(json.dumps({"balancers": {"hosts": hosts, "vars": self.shared}}))
        folder = ansible_cores.cores()[core] if core else Path(sys.executable).parent
        command = [str(folder / "ansible-playbook"), "-i", str(inventory), *arguments, str(playbook)]
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

    def apply(self, *numbers: int) -> Run:
        self.members(*numbers)
        done = self.run()
        assert done.status == 0, done.output
        return done

    def texts(self) -> list[str]:
        """The files of all, with what has to differ on one machine (folder and port) replaced."""
        return [
            re.sub(rf"\b{balancer.port}\b", "PORT", balancer.config.read_text().replace(str(balancer.folder), "FOLDER")) for balancer in self.balancers.values()
        ]

    def has(self, name: str) -> set[str]:
        """The instances that the process of this balancer has."""
        return set(self.balancers[name].servers())

    def stop(self) -> None:
        for name in NAMES:
            self.balancers[name].stop()
            self.hosts[name].close()


def ids(*numbers: int) -> set[str]:
    return {instance_id(number) for number in numbers}


def changed(done: Run, name: str) -> int:
    """The host's count in the recap; -1 for one that was never come to."""
    found = re.search(rf"^{name}\s*:.*\bchanged=(\d+)", done.output, re.MULTILINE)
    return int(found.group(1)) if found else -1


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory, web: Backends, aws: Ec2Endpoint) -> Iterator[Fleet]:
    # A short name: the path of a socket has room for 97 characters.
    made = Fleet(tmp_path_factory.mktemp("f"), list(binaries().values())[-1], web, aws)
    yield made
    made.stop()


@pytest.mark.parametrize("core", ansible_cores.WANTED)
def test_one_search_gives_every_balancer_the_same_bytes(fleet: Fleet, core: str) -> None:
    if core not in ansible_cores.cores():
        pytest.skip(f"ansible-core {core}: {ansible_cores.missing()[core]}")
    fleet.members(1, 2, 3)
    done = fleet.run(core=core)
    assert done.status == 0, done.output
    assert [request.operation for request in fleet.aws.requests] == ["DescribeInstances"]
    assert len(set(fleet.texts())) == 1
    for name, balancer in fleet.balancers.items():
        balancer.until_all_serve({address(number) for number in (1, 2, 3)})
        assert fleet.hosts[name].commands > 0
    workers = {name: balancer.worker() for name, balancer in fleet.balancers.items()}

    fleet.aws.requests.clear()
    again = fleet.run(core=core)
    assert again.status == 0, again.output
    assert [changed(again, name) for name in NAMES] == [0, 0, 0]
    assert fleet.aws.count("DescribeInstances") == 1

    fleet.members(2, 3, 4)
    followed = fleet.run("-e", "haproxy_autoscale_serial=2", core=core)
    assert followed.status == 0, followed.output
    assert len(set(fleet.texts())) == 1
    assert all(fleet.has(name) == ids(2, 3, 4) for name in NAMES)
    assert {name: balancer.worker() for name, balancer in fleet.balancers.items()} == workers
    assert fleet.aws.count("DescribeInstances") == 2


def test_the_first_balancer_that_refuses_leaves_the_rest_untouched(fleet: Fleet) -> None:
    fleet.apply(1, 2)
    before = [balancer.config.read_bytes() for balancer in fleet.balancers.values()]
    fleet.own["lb-2"]["haproxy_autoscale_global_lines"] = ["no-such-word"]
    fleet.members(1, 2, 3)
    refused = fleet.run()
    assert refused.status != 0
    assert "HAProxy does not accept the configuration" in refused.text
    assert [balancer.config.read_bytes() == old for balancer, old in zip(fleet.balancers.values(), before)] == [False, True, True]
    # The first was brought to its file, and proven, before the second began.
    assert [fleet.has(name) for name in NAMES] == [ids(1, 2, 3), ids(1, 2), ids(1, 2)]
    assert all(balancer.reached() <= {address(1), address(2), address(3)} for balancer in fleet.balancers.values())

    del fleet.own["lb-2"]["haproxy_autoscale_global_lines"]
    mended = fleet.apply(1, 2, 3)
    assert [changed(mended, name) > 0 for name in NAMES] == [False, True, True]
    assert [fleet.has(name) for name in NAMES] == [ids(1, 2, 3)] * 3


def test_a_balancer_whose_reload_fails_is_put_back_and_the_rest_untouched(fleet: Fleet) -> None:
    fleet.apply(1, 2)
    # What HAProxy cannot do shows at its reload alone: in an .if nobody looks at the bind before.
    fleet.own["lb-2"]["haproxy_autoscale_extra_lines"] = [".if version_atleast(2.4)", "frontend broken", "    bind 192.0.2.1:80", ".endif"]
    before = [balancer.config.read_bytes() for balancer in fleet.balancers.values()]
    fleet.members(1, 2, 3)
    failed = fleet.run()
    assert failed.status != 0
    assert [balancer.config.read_bytes() == old for balancer, old in zip(fleet.balancers.values(), before)] == [False, True, True]
    assert [fleet.has(name) for name in NAMES] == [ids(1, 2, 3), ids(1, 2), ids(1, 2)]
    assert fleet.balancers["lb-2"].reached() == {address(1), address(2)}


@pytest.mark.parametrize(("serial", "followed"), [("1", [False, False, False]), ("2", [False, False, False])])
def test_a_balancer_that_cannot_be_reached_ends_the_run_before_the_next_batch(fleet: Fleet, serial: str, followed: list[bool]) -> None:
    fleet.apply(1, 2)
    fleet.hosts["lb-1"].stop()
    fleet.members(1, 2, 3)
    done = fleet.run("-e", f"haproxy_autoscale_serial={serial}")
    assert done.status != 0
    assert re.search(r"^lb-1 .*unreachable=1", done.output, re.MULTILINE)
    assert [fleet.has(name) == ids(1, 2, 3) for name in NAMES] == followed
    # It is the first of the inventory that the search is made for: it need not be there.
    assert fleet.aws.count("DescribeInstances") == 2
    fleet.hosts["lb-1"].start()
    fleet.apply(1, 2, 3)
    assert [fleet.has(name) for name in NAMES] == [ids(1, 2, 3)] * 3


def test_without_aws_every_balancer_is_healed_and_none_is_changed(fleet: Fleet) -> None:
    fleet.apply(1, 2)
    before = [balancer.config.read_bytes() for balancer in fleet.balancers.values()]
    # As after a reboot, where nothing but this starts it.
    for name in ("lb-1", "lb-3"):
        fleet.balancers[name].stop()
    fleet.aws.fault("DescribeInstances", error(403, "UnauthorizedOperation"))
    done = fleet.run()
    assert done.status != 0
    assert "UnauthorizedOperation" in done.output
    for balancer in fleet.balancers.values():
        balancer.until_all_serve({address(1), address(2)})
    assert [balancer.config.read_bytes() for balancer in fleet.balancers.values()] == before


def test_the_lifecycle_action_is_completed_when_no_balancer_has_the_instance_any_more(fleet: Fleet) -> None:
    fleet.shared.update(haproxy_autoscale_lifecycle="in_service", haproxy_autoscale_complete_lifecycle_action="drained")
    fleet.shared.update(haproxy_autoscale_drain_timeout=0, haproxy_autoscale_timeout_client="10m", haproxy_autoscale_timeout_server="10m")
    fleet.members(1, 2, tags={"aws:autoscaling:groupName": "web"})
    fleet.aws.lifecycle_states.update({instance_id(number): "InService" for number in (1, 2)})
    assert fleet.run().status == 0
    third = fleet.balancers["lb-3"]
    third.until_all_serve({address(1), address(2)})
    # As many uploads as servers, so that each has one.
    uploads = [socket.create_connection(("127.0.0.1", third.port)) for _server in range(2)]
    for upload in uploads:
        upload.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0")
        time.sleep(0.1)
    fleet.aws.lifecycle_states[instance_id(2)] = "Terminating:Wait"
    # Drained everywhere, then gone from the first two, and the third still has a request.
    for _run in range(2):
        done = fleet.run()
        assert done.status == 0, done.output
        assert fleet.aws.count("CompleteLifecycleAction") == 0
    for upload in uploads:
        upload.sendall(b"0" * 999)
        assert upload.recv(65536).startswith(b"HTTP/1.1 200")
        upload.close()
    # The third has not been asked.
    assert fleet.run("--limit", "lb-1,lb-2").status == 0
    assert fleet.aws.count("CompleteLifecycleAction") == 0
    told = fleet.run()
    assert told.status == 0, told.output
    assert f"Auto Scaling was told to go on with {instance_id(2)}" in told.text
    assert [request.parameters["InstanceId"] for request in fleet.aws.requests if request.operation == "CompleteLifecycleAction"] == [instance_id(2)]


def test_what_was_not_found_in_this_very_run_is_refused(fleet: Fleet) -> None:
    fleet.apply(1, 2)
    alone = fleet.run("-e", "haproxy_autoscale_hosts=balancers", "-e", "haproxy_autoscale_discover=false", playbook=ROOT / "playbooks" / "update.yml")
    assert alone.status != 0
    assert "haproxy_autoscale_discover must be true where no earlier play of the same run" in alone.text
    # Another group than the first balancer's.
    services = fleet.own["lb-3"]["haproxy_autoscale_services"]
    fleet.own["lb-3"]["haproxy_autoscale_services"] = [{**services[0], "security_groups": ["apis"]}]
    other = fleet.run()
    assert other.status != 0
    assert "haproxy_autoscale_discover must be true where the search for all balancers left out a group of this one's: apis" in other.text
    assert fleet.has("lb-3") == ids(1, 2)


def test_the_search_is_made_without_the_rights_that_the_balancers_need(fleet: Fleet) -> None:
    # In place of sudo: it notes where it was called.
    log = fleet.folder / "became"
    sudo = fleet.folder / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "${{THE_HOST:-controller}}" >>{log}\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n')
    sudo.chmod(0o755)
    fleet.shared.update(ansible_become=True, ansible_become_exe=str(sudo))
    fleet.members(1, 2)
    done = fleet.run("--become")
    assert done.status == 0, done.output
    assert set(log.read_text().split()) == set(NAMES)


def test_one_search_is_for_every_process_of_the_list(fleet: Fleet) -> None:
    fleet.members(1, 2)
    for name, balancer in fleet.balancers.items():
        entry = {"name": "only", "security_groups": [], "services": fleet.own[name]["haproxy_autoscale_services"]}
        for kind in ("config_path", "pid_file", "master_socket", "stats_socket"):
            entry[kind] = fleet.own[name][f"haproxy_autoscale_{kind}"]
        fleet.own[name].update(haproxy_autoscale_processes=[entry], haproxy_autoscale_services=[], haproxy_autoscale_security_groups=[])
        assert not balancer.config.exists()
    done = fleet.run()
    assert done.status == 0, done.output
    assert fleet.aws.count("DescribeInstances") == 1
    assert [fleet.has(name) for name in NAMES] == [ids(1, 2)] * 3
