# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook that moves an Elastic IP address, against moto's EC2: from who does not answer to who does, and never out of another hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import Backends
from balancer import ROOT, Run
from moto_aws import MotoAws

PLAYBOOK = ROOT / "docs" / "examples" / "failover.yml"
# Wherever the set-up has put the collection.
COLLECTIONS = [path.parents[3] for path in sorted((ROOT / ".cache").glob("*/ansible_collections/amazon/aws/MANIFEST.json"))]
pytestmark = pytest.mark.skipif(not COLLECTIONS, reason="the collection amazon.aws could not be had")


class Pair:
    """Two balancers that answer at loopback addresses, and an address that the first one has."""

    def __init__(self, folder: Path, aws: MotoAws) -> None:
        self.folder = folder
        self.aws = aws
        self.web = Backends("127.0.5.1", "127.0.5.2")
        self.ids = [aws.launch("balancers", address=address) for address in ("127.0.5.1", "127.0.5.2")]
        allocated = aws.ec2().allocate_address(Domain="vpc")
        self.address, self.allocation = allocated["PublicIp"], allocated["AllocationId"]
        self.associate(self.ids[0])

    def associate(self, instance_id: str) -> None:
        self.aws.ec2().associate_address(AllocationId=self.allocation, InstanceId=instance_id, AllowReassociation=True)

    def fails(self, number: int) -> None:
        self.web.unhealthy(f"127.0.5.{number}")

    def holder(self) -> str:
        (found,) = self.aws.ec2().describe_addresses(AllocationIds=[self.allocation])["Addresses"]
        return str(found.get("InstanceId") or "")

    def addresses(self) -> int:
        return len(self.aws.ec2().describe_addresses()["Addresses"])

    def run(self, *arguments: str, playbook: Path = PLAYBOOK, **more: Any) -> Run:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "failover_address": self.address,
            "failover_region": self.aws.region,
            "failover_balancers": [
                {"instance_id": instance_id, "health_url": f"http://127.0.5.{number}:{self.web.port}/health"} for number, instance_id in enumerate(self.ids, 1)
            ],
            "failover_tries": 2,
            "failover_delay": 0,
            **more,
        }
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-e", json.dumps(variables), *arguments, str(playbook)]
        environment = {**os.environ, **self.aws.environment, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS[0]), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        return Run(done.returncode, done.stdout)

    def stop(self) -> None:
        self.web.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with MotoAws() as aws:
        made = Pair(tmp_path, aws)
        yield made
        made.stop()


def test_the_address_stays_while_its_balancer_answers_and_moves_when_it_does_not(pair: Pair) -> None:
    first, second = pair.ids
    stays = pair.run()
    assert (stays.status, stays.recap["changed"], pair.holder()) == (0, 0, first), stays.output
    pair.fails(1)
    checked = pair.run("--check")
    assert (checked.status, pair.holder()) == (0, first), checked.output
    moved = pair.run()
    assert (moved.status, pair.holder()) == (0, second), moved.output
    assert f"{pair.address} was moved from {first} to {second}" in moved.text
    # It does not move back by itself.
    pair.web.unhealthy("127.0.5.1", False)
    again = pair.run()
    assert (again.status, again.recap["changed"], pair.holder()) == (0, 0, second), again.output


def test_the_address_stays_where_it_is_when_nobody_answers(pair: Pair) -> None:
    pair.fails(1)
    pair.fails(2)
    done = pair.run()
    assert done.status != 0
    assert f"None of the other balancers answers, either. {pair.address} stays where it is." in done.text
    assert pair.holder() == pair.ids[0]


def test_what_a_killed_run_has_taken_from_one_is_given_to_the_next(pair: Pair) -> None:
    (found,) = pair.aws.ec2().describe_addresses(AllocationIds=[pair.allocation])["Addresses"]
    pair.aws.ec2().disassociate_address(AssociationId=found["AssociationId"])
    pair.fails(1)
    done = pair.run()
    assert (done.status, pair.holder()) == (0, pair.ids[1]), done.output


def test_an_address_that_is_elsewhere_is_not_taken_and_none_is_allocated(pair: Pair) -> None:
    pair.fails(1)
    other = pair.run(failover_address="192.0.2.99")
    assert other.status != 0
    assert "192.0.2.99 is not among the addresses of this account" in other.text
    assert pair.addresses() == 1
    stranger = pair.aws.launch("others")
    pair.associate(stranger)
    done = pair.run()
    assert done.status != 0
    assert "which is none of failover_balancers" in done.text
    assert pair.holder() == stranger


def test_of_two_hands_at_once_none_takes_it_from_the_other(pair: Pair, tmp_path: Path) -> None:
    """Another hand moves the address between the look and the taking: here by a task that is put in front of it."""
    stranger = pair.aws.launch("others")
    text = PLAYBOOK.read_text()
    before = "        # The fence:"
    assert text.count(before) == 1
    meanwhile = {
        "name": "Another hand",
        "amazon.aws.ec2_eip": {"region": pair.aws.region, "public_ip": pair.address, "device_id": stranger, "allow_reassociation": True},
    }
    playbook = tmp_path / "failover.yml"
    playbook.write_text(text.replace(before, f"        - {json.dumps(meanwhile)}\n\n{before}"))
    pair.fails(1)
    done = pair.run(playbook=playbook)
    assert done.status != 0, done.output
    assert pair.holder() == stranger
