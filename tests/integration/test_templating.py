# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""From what EC2 answers to the bytes of the file, hundreds of times: through the module's choice and Ansible's own templating."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import (
    choose,
    query_from,
)
from ansible_collections.autoscale.haproxy.plugins.modules.ec2_security_group_instance_facts import ARGUMENT_SPEC
from balancer import ROOT
from haproxy_binaries import binaries
from server_ids import without_ids

SETS = 400
PART = 50
SEPARATOR = "<<<<between two texts>>>>"

# What has been tried against programs that print a tag: lines, comments, quotes, templates, paths, control characters.
HOSTILE = [
    "80\nlisten evil\n    bind *:81\n    server evil 192.0.2.66:80",
    "80 weight 1 disabled",
    "80 # x",
    "web 1",
    "{{ lookup('ansible.builtin.pipe', 'id') }}",
    "{% for x in range(9) %}{{ x }}{% endfor %}",
    "{# never closed",
    "${HOME} $(id) `id`",
    "'\"\\",
    "\x00\x07\x1b[31m\x7f",
    "a\r\nb\u2028c\u0085d",
    "../../etc/passwd",
    "ü日本\U0001f600",
    "%s %n %{+Q}o",
    "",
    " ",
    "x" * 256,
]

# A template of a user who trusts what he gets: names in server lines, tags in comments.
TRUSTING = """
defaults
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend webheads
{% for instance in instances['webheads'] %}
    # {{ instance.tags }} {% for key in instance.tags %}{{ key }} is {{ instance.tags[key] }} {% endfor %}

    server {{ instance.name | default(instance.instance_id, true) }}-{{ loop.index }} {{ instance.address }}:80
{% endfor %}
"""


def raw_instances(chance: random.Random) -> list[dict[str, Any]]:
    """A random answer of DescribeInstances, some of it hostile and some of it broken."""
    found = []
    for number in range(chance.randint(0, 12)):
        broken = chance.random() < 0.15
        address = f"10.{chance.randint(0, 255)}.{chance.randint(0, 255)}.{number + 1}"
        interface = {
            "Groups": [{"GroupId": "sg-00000001", "GroupName": "webheads"}],
            "Attachment": {"DeviceIndex": 0},
            "PrivateIpAddress": chance.choice(HOSTILE) if broken else address,
            "VpcId": "vpc-00000001",
        }
        tags = {chance.choice(["Name", "AppName", "AppPort", *HOSTILE]): chance.choice(HOSTILE) for _tag in range(4)}
        found.append(
            {
                "InstanceId": f"i-{chance.getrandbits(60):017x}"[:19],
                "State": {"Name": chance.choice(["running", "running", "running", "stopped"])},
                "LaunchTime": f"2026-01-{chance.randint(1, 28):02d}T00:00:00.000Z",
                "VpcId": "vpc-00000001",
                "Placement": {"AvailabilityZone": "eu-west-1a"},
                "NetworkInterfaces": [interface],
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        )
    return found


def wanted(raw: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """A plain re-statement of the rule: running, with an IPv4 address, oldest first."""
    good = [
        (one["LaunchTime"], one["InstanceId"], one["NetworkInterfaces"][0]["PrivateIpAddress"])
        for one in raw
        if one["State"]["Name"] == "running" and re.fullmatch(r"\d+\.\d+\.\d+\.\d+", one["NetworkInterfaces"][0]["PrivateIpAddress"])
    ]
    return [(name, address) for _launched, name, address in sorted(good)]


def chosen(raw: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    options = ArgumentSpecValidator(ARGUMENT_SPEC).validate({"security_groups": ["webheads"], "regions": ["eu-west-1"]}).validated_parameters
    now = datetime(2026, 2, 1, tzinfo=UTC)
    return choose({"eu-west-1": raw}, {"eu-west-1": frozenset()}, query_from(options), now)[0]


def rendered(folder: Path, name: str, template: Path, sets: Sequence[dict[str, Any]]) -> list[str]:
    """The texts of all sets, by the lookup that the role uses, in one play."""
    # In parts, because what a lookup costs grows with the variables around it.
    parts = [sets[start : start + PART] for start in range(0, len(sets), PART)]
    for number, part in enumerate(parts):
        (folder / f"{name}-{number}.json").write_text(json.dumps(part))
    # Translated once for all sets of a part.
    (folder / f"{name}.cfg.j2").write_text(template.read_text())
    # The role's templates are found from everywhere in it; here they are beside.
    shutil.copy(ROOT / "templates" / "haproxy-macros.j2", folder)
    (folder / f"{name}.j2").write_text(f"{{% for instances in sets %}}{{% include '{name}.cfg.j2' %}}{SEPARATOR}\n{{% endfor %}}")
    playbook = folder / f"{name}.yml"
    playbook.write_text(
        f"""
- hosts: localhost
  gather_facts: false
  vars_files: [{ROOT}/roles/haproxy_autoscale/defaults/main.yml, {ROOT}/roles/haproxy_autoscale/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        dest: "{folder}/{name}-{{{{ item }}}}.txt"
        mode: '0600'
        content: "{{{{ lookup('ansible.builtin.template', '{folder}/{name}.j2',
                   template_vars=dict(sets=lookup('ansible.builtin.file', '{folder}/{name}-' ~ item ~ '.json') | from_json)) }}}}"
      loop: {list(range(len(parts)))}
      vars:
        haproxy_autoscale_security_groups: [webheads]
        haproxy_autoscale_user: ''
        haproxy_autoscale_group: ''
        haproxy_autoscale_chroot: ''
        haproxy_autoscale_log: ''
"""
    )
    ansible = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [ansible, "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", str(playbook)],
        cwd=folder,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    texts: list[str] = []
    for number, part in enumerate(parts):
        with (folder / f"{name}-{number}.txt").open(encoding="utf-8", newline="") as handle:
            texts += handle.read().split(SEPARATOR + "\n")[: len(part)]
    return [text.rstrip("\n") + "\n" for text in texts]


def server_lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n") if line.split()[:1] == ["server"]]


def accepted(binary: str, text: str) -> tuple[bool, str]:
    done = subprocess.run([binary, "-c", "-f", "/dev/stdin"], input=text, capture_output=True, text=True, timeout=60)
    return done.returncode == 0, done.stderr


def test_each_text_holds_exactly_the_wanted_servers_and_haproxy_accepts_it(tmp_path: Path) -> None:
    chance = random.Random(20260131)
    raws = [raw_instances(chance) for _number in range(SETS)]
    texts = rendered(tmp_path, "sets", ROOT / "templates" / "haproxy.cfg.j2", [chosen(raw) for raw in raws])
    assert len(texts) == SETS
    for raw, text in zip(raws, texts, strict=True):
        assert server_lines(without_ids(text)) == [["server", name, f"{address}:80", "check"] for name, address in wanted(raw)]
        sections = [line for line in text.split("\n") if line and not line.startswith((" ", "#"))]
        assert sections == ["global", "defaults", "frontend webheads-in", "backend webheads"]
    # Every set with instances at once would be many seconds for each version: the whole on one, a part on the others.
    versions = list(binaries().values())
    with ThreadPoolExecutor(2) as pool:
        for binary, some in [(versions[0], texts), *((binary, texts[::10]) for binary in versions[1:])]:
            for text, (ok, said) in zip(some, pool.map(lambda text, binary=binary: accepted(binary, text), some), strict=True):
                assert ok, text + said


def test_the_bytes_do_not_depend_on_the_order_of_the_answer(tmp_path: Path) -> None:
    chance = random.Random(7)
    raws = [raw_instances(chance) for _number in range(100)]
    shuffled = [chance.sample(raw, len(raw)) for raw in raws]
    assert shuffled != raws
    template = ROOT / "templates" / "haproxy.cfg.j2"
    once = rendered(tmp_path, "once", template, [chosen(raw) for raw in raws])
    again = rendered(tmp_path, "again", template, [chosen(raw) for raw in shuffled])
    assert [len(server_lines(text)) for text in once] == [len(wanted(raw)) for raw in raws]
    assert once == again


def test_a_hostile_tag_brings_no_line_into_a_template_that_trusts_names_and_tags(tmp_path: Path) -> None:
    template = tmp_path / "trusting.j2"
    template.write_text(TRUSTING)
    chance = random.Random(99)
    raws = [raw_instances(chance) for _number in range(100)]
    for raw, text in zip(raws, rendered(tmp_path, "trusting", template, [chosen(raw) for raw in raws]), strict=True):
        lines = [line.split() for line in re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text) if line.split()]
        assert {line[0] for line in lines} <= {"defaults", "timeout", "backend", "#", "server"}
        assert [line[2] for line in lines if line[0] == "server"] == [f"{address}:80" for _name, address in wanted(raw)]
        assert all(len(line) == 3 for line in lines if line[0] == "server")
