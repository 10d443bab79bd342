# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook that moves an Elastic IP address, against moto's EC2: from who does not answer to who does, and never out of another hand."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

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
        self.recording = folder / "recording"
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

    def recovers(self, number: int) -> None:
        self.web.unhealthy(f"127.0.5.{number}", False)

    def holder(self) -> str:
        (found,) = self.aws.ec2().describe_addresses(AllocationIds=[self.allocation])["Addresses"]
        return str(found.get("InstanceId") or "")

    def asked(self) -> set[str]:
        """What was asked of EC2 since the recording began, in a policy's words."""
        bodies = [base64.b64decode(json.loads(line)["body"]).decode() for line in self.recording.read_text().splitlines()]
        return {f"ec2:{action}" for body in bodies for action in parse_qs(body).get("Action", [])}

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
        given = {**os.environ, **self.aws.environment, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS[0]), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(command, cwd=self.folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        return Run(done.returncode, done.stdout)

    def stop(self) -> None:
        self.web.stop()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setenv("MOTO_ENABLE_RECORDING", "1")
    monkeypatch.setenv("MOTO_RECORDER_FILEPATH", str(tmp_path / "recording"))
    with MotoAws() as aws:
        made = Pair(tmp_path, aws)
        yield made
        made.stop()


def permissions() -> set[str]:
    """The actions that the policy of the document allows."""
    (block,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / "high-availability.md").read_text(), re.MULTILINE | re.DOTALL)
    return {action for statement in json.loads(block)["Statement"] for action in statement["Action"]}


@pytest.mark.timeout(600)
def test_the_address_moves_to_one_that_answers_and_never_out_of_another_hand(pair: Pair, tmp_path: Path) -> None:
    """One address, and what happens to it."""
    first, second = pair.ids
    stays = pair.run()
    assert (stays.status, stays.recap["changed"], pair.holder()) == (0, 0, first), stays.output

    # Where nobody answers, nothing changes.
    pair.fails(1)
    pair.fails(2)
    nobody = pair.run()
    assert nobody.status != 0
    assert f"None of the other balancers answers, either. {pair.address} stays where it is." in nobody.text
    assert pair.holder() == first

    # A run that only checks says what it would do.
    pair.recovers(2)
    checked = pair.run("--check")
    assert (checked.status, checked.recap["changed"], pair.holder()) == (0, 2, first), checked.output

    # Another hand moves it between the look and the taking: here by a task that is put in front of it.
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
    raced = pair.run(playbook=playbook)
    assert raced.status != 0, raced.output
    assert pair.holder() == stranger

    # It is left to who is none of ours, and one that is not there is not made.
    other = pair.run()
    assert other.status != 0
    assert "which is none of failover_balancers" in other.text
    assert pair.holder() == stranger
    unknown = pair.run(failover_address="192.0.2.99")
    assert unknown.status != 0
    assert "192.0.2.99 is not among the addresses of this account" in unknown.text
    assert pair.addresses() == 1

    # A run that was killed halfway has left it with nobody.
    (found,) = pair.aws.ec2().describe_addresses(AllocationIds=[pair.allocation])["Addresses"]
    pair.aws.ec2().disassociate_address(AssociationId=found["AssociationId"])
    given = pair.run()
    assert (given.status, pair.holder()) == (0, second), given.output

    # It does not move back by itself, but when this one fails, too.
    pair.recovers(1)
    again = pair.run()
    assert (again.status, again.recap["changed"], pair.holder()) == (0, 0, second), again.output
    pair.fails(2)
    pair.recording.write_text("")
    moved = pair.run()
    asked = pair.asked()
    assert (moved.status, pair.holder()) == (0, first), moved.output
    assert f"{pair.address} was moved from {second} to {first}" in moved.text
    # Once for each try, and no more is asked of AWS than the document allows.
    assert moved.output.count("FAILED - RETRYING") == 1
    assert asked == permissions()
