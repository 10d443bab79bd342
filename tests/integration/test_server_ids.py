# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The ids of servers in the file that the role writes, where the template could not know them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ansible_cores
import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_ids import RING, of_name
from backends import Backends
from balancer import ROOT
from ec2_endpoint import Ec2Endpoint, instance, interface
from haproxy_binaries import binaries
from stage import Stage, address, instance_id

# Two whose ids would share one part of the ring, and another one.
FIRST, SECOND, THIRD = instance_id(0xF1), instance_id(0x6ED), instance_id(3)
PLACES = {FIRST: 1, SECOND: 2, THIRD: 3}


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, list(binaries().values())[-1], web, aws)
    yield made
    made.balancer.stop()


def members(stage: Stage, *names: str) -> None:
    stage.aws.regions["eu-west-1"] = [
        [instance(name, interface(address=address(PLACES[name])), launched=f"2026-01-31T06:00:{PLACES[name]:02d}.000Z") for name in names]
    ]


# What makes lines elsewhere than in HAProxy, and what means something to a template or a pattern.
STRANGE = r"""# {% raw %}{{ not_there }} {% if %} \1 \g<1> id 5{% endraw %} ü日本{{ "\x0b\x0c\x1c\x85\u2028\u2029" }} id 6
# {{ "a\r\n#b\r#c" }}


global
    stats socket {{ haproxy_autoscale_stats_socket }} level admin
{{ "\x0c" }}
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend www
    bind {{ haproxy_autoscale_services[0].bind[0] }}
    default_backend servers
backend servers
{% for instance in instances['webheads'] %}
    server {{ instance.instance_id }} {{ instance.address }}:{{ haproxy_autoscale_services[0].port }} check id {{ server_id(instance.instance_id) }} # id 7
{% endfor %}


"""


# Between the two, Ansible's templating was written anew.
@pytest.mark.parametrize("core", ["2.16", "2.19"])
def test_the_text_that_is_written_is_to_the_byte_the_one_that_was_judged(stage: Stage, core: str) -> None:
    if core not in ansible_cores.cores():
        pytest.skip(f"ansible-core {core}: {ansible_cores.missing()[core]}")
    balancer = stage.balancer
    balancer.start(balancer.text(f"{THIRD} {address(3)}:{stage.web.port} id 4711").replace(" web", " servers"))
    project = balancer.folder / "project"
    project.mkdir()
    (project / "templates").mkdir()
    (project / "templates" / "strange.j2").write_text("{% from 'haproxy-macros.j2' import server_id %}\n" + STRANGE)
    (project / "roles").symlink_to(ROOT / "roles")
    playbook = project / "site.yml"
    playbook.write_text("- hosts: localhost\n  gather_facts: false\n  roles: [haproxy_autoscale]\n")
    members(stage, FIRST, SECOND, THIRD)
    variables = {**stage.variables, "haproxy_autoscale_template": "strange.j2"}
    ansible = str(ansible_cores.cores()[core] / "ansible-playbook")
    done = balancer.run(variables, playbook=playbook, ansible=ansible)
    assert done.status == 0, done.output
    written = balancer.config.read_bytes().decode()
    # Who stays has its own, and of two newcomers with one id the second has the next.
    assert of_name(FIRST) % RING == of_name(SECOND) % RING
    settled = {FIRST: of_name(FIRST), SECOND: of_name(SECOND) + 1, THIRD: 4711}
    lines = [f"    server {name} {address(PLACES[name])}:{stage.web.port} check id {number} # id 7\n" for name, number in settled.items()]
    assert written.endswith("".join(["backend servers\n", *lines, "\n\n"]))
    assert written.startswith("# {{ not_there }} {% if %} \\1 \\g<1> id 5 ü日本\x0b\x0c\x1c\x85\u2028\u2029 id 6\n# a\r\n#b\r#c\n\n\nglobal\n")
    assert {row[3]: int(row[2]) for row in balancer.rows()} == settled
    # haproxy_facts finds the bytes that it judged.
    again = balancer.run(variables, playbook=playbook, ansible=ansible)
    assert again.recap["changed"] == 0, again.output
