# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role in somebody else's play: beside other roles and their handlers, with tags, rights and values from everywhere, and what is left behind.
The plays of docs/inclusion.md are run as they stand there, but for the places of the test.

That each way of calling it, twice and in a loop, brings each process to its own file is in test_processes.py; where the role and the modules
are found, and that these do the job alone, is in test_packaging.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from backends import Backends
from balancer import ROOT, Run
from ec2_endpoint import Ec2Endpoint, instance, interface, security_group
from haproxy_binaries import binaries
from stage import Stage, address, instance_id

Task = dict[str, Any]
NAME = "autoscale.haproxy"
ROLE = f"{NAME}.haproxy_autoscale"

# In place of sudo: notes the module that it is called for, and runs it.
SUDO = """#!/bin/sh
printf '%s\\n' "$*" | grep -o 'AnsiballZ_[a-z0-9_]*' >>{log}
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""
NEEDED = {f"AnsiballZ_{name}" for name in ("ec2_security_group_instance_facts", "haproxy_facts", "copy", "haproxy_apply")}


def of_the_page(name: str) -> dict[str, Any]:
    """The play with this name in docs/inclusion.md, for this host."""
    blocks = re.findall(r"^```yaml[^\n]*\n(.*?)^```$", (ROOT / "docs" / "inclusion.md").read_text(), re.MULTILINE | re.DOTALL)
    (play,) = (play for block in blocks for play in yaml.safe_load(block) if play["name"] == name)
    return {**play, "hosts": "localhost"}


class Project:
    """Somebody else's folder, with roles of theirs, plays, and this collection installed."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder = folder
        self.stage = stage
        # Where a handler or a task of theirs leaves a line each time that it runs.
        self.trace = folder / "trace"
        # The modules that asked for rights.
        self.log = folder / "log"
        sudo = folder / "sudo"
        sudo.write_text(SUDO.format(log=self.log))
        sudo.chmod(0o755)
        collection = folder / "ansible_collections" / "autoscale" / "haproxy"
        collection.parent.mkdir(parents=True)
        collection.symlink_to(ROOT)
        self.environment = {
            "ANSIBLE_BECOME_ALLOW_SAME_USER": "1",
            "ANSIBLE_BECOME_EXE": str(sudo),
            "ANSIBLE_COLLECTIONS_PATH": str(folder),
        }

    def role(self, name: str, *tasks: Task, handlers: list[Task] | None = None, templates: dict[str, str] | None = None) -> str:
        for part, content in (("tasks", list(tasks)), ("handlers", handlers or [])):
            (self.folder / "roles" / name / part).mkdir(parents=True, exist_ok=True)
            (self.folder / "roles" / name / part / "main.yml").write_text(json.dumps(content))
        for file, text in (templates or {}).items():
            (self.folder / "roles" / name / "templates").mkdir(exist_ok=True)
            (self.folder / "roles" / name / "templates" / file).write_text(text)
        return name

    def traced(self, line: str, **more: Any) -> Task:
        return {"name": f"Leave {line}", "ansible.builtin.shell": f"echo {line} >>{self.trace}", "become": False, **more}

    def traces(self) -> list[str]:
        """The lines that were left since it was asked last."""
        lines = self.trace.read_text().split() if self.trace.exists() else []
        self.trace.unlink(missing_ok=True)
        return lines

    def keep(self, name: str) -> Task:
        """A task that keeps the configuration as it is then."""
        return {"name": f"Keep {name}", "ansible.builtin.command": f"cp {self.stage.balancer.config} {self.folder / name}"}

    def play(self, *plays: dict[str, Any], arguments: tuple[str, ...] = (), extra: dict[str, Any] | None = None, **variables: Any) -> Run:
        playbook = self.folder / "site.yml"
        theirs = {"name": "Theirs", "hosts": "localhost", "gather_facts": False}
        values = {**self.stage.variables, **variables}
        playbook.write_text(json.dumps([{**theirs, **play, "vars": {**values, **play.get("vars", {})}} for play in plays]))
        balancer = self.stage.balancer
        balancer.environment = {**self.stage.aws.environment, **self.environment}
        return balancer.run(extra or {}, *arguments, playbook=playbook)


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory, web: Backends, aws: Ec2Endpoint) -> Iterator[Project]:
    stage = Stage(tmp_path_factory.mktemp("b"), list(binaries().values())[-1], web, aws)
    yield Project(tmp_path_factory.mktemp("project"), stage)
    stage.balancer.stop()


# Beside other roles, and their handlers.


def test_beside_a_role_that_installs_haproxy_each_handler_runs_when_it_shall_and_later_tasks_read_what_was_found(project: Project) -> None:
    stage = project.stage
    program = project.folder / "haproxy"
    install = {
        "name": "Install",
        "ansible.builtin.file": {"src": stage.balancer.binary, "path": str(program), "state": "link"},
        "notify": "reload haproxy",
    }
    stage.variables["haproxy_autoscale_binary"] = str(program)
    project.role("your.haproxy", install, handlers=[{**project.traced("theirs"), "name": "reload haproxy"}])
    # Ours, which listens to it, too: before our role has run there is nothing for it to do.
    project.role("flush", {"name": "Flush", "ansible.builtin.meta": "flush_handlers"})
    project.role("before", project.traced("task", notify="Theirs"), handlers=[{**project.traced("handler"), "name": "Theirs"}])
    project.role("after", project.traced("after", notify="reload haproxy"))
    play = of_the_page("Balancers")
    installs, ours = play["roles"]
    play["roles"] = [installs, "flush", "before", ours, "after"]
    found = "{{ %s.ec2_security_group_instances.webheads | map(attribute='address') | join('+') }}"
    # Whoever has passed no check yet is answered for by HAProxy.
    play["tasks"] = [
        {"ansible.builtin.uri": {"url": f"http://127.0.0.1:{stage.balancer.port}/", "status_code": [200, 503]}},
        {"ansible.builtin.debug": {"msg": "here " + found % "ansible_facts"}},
        {"ansible.builtin.debug": {"msg": "plan {{ ansible_facts['haproxy_processes']['haproxy'].candidate.plan }}"}},
        {"ansible.builtin.debug": {"msg": "out {{ ansible_facts['ec2_security_group_excluded_instances'].webheads | length }}"}},
    ]
    elsewhere = {"hosts": "elsewhere", "tasks": [{"ansible.builtin.debug": {"msg": "there " + found % "hostvars['localhost'].ansible_facts"}}]}
    stage.members(1, 2)
    done = project.play(play, elsewhere, arguments=("-i", "localhost,elsewhere,"))
    assert done.status == 0, done.output
    assert stage.serves(1, 2)
    # Theirs of the same name ran for what they notified, at once and at the end; who waited when our role flushed, then.
    assert project.traces() == ["theirs", "task", "handler", "after", "theirs"]
    members = f"{address(1)}+{address(2)}"
    for said in (f"here {members}", "plan start", "out 0", f"there {members}"):
        assert said in done.text, said
    # The play has become.
    assert set(project.log.read_text().split()) >= NEEDED

    # A change of ours runs no handler of theirs. And "after" notifies for nothing, so that ours does nothing at the end.
    worker = stage.balancer.worker()
    stage.members(2, 3)
    done = project.play(play)
    assert done.status == 0, done.output
    assert project.traces() == ["task", "handler", "after", "theirs"]
    assert stage.serves(2, 3)
    assert (stage.balancer.worker(), stage.balancer.reloads()) == (worker, 0)

    # What HAProxy reads besides its file: a reload when it has changed, and only then.
    renew = of_the_page("Renew what HAProxy serves with")
    folder, copy = renew["tasks"]
    folder["ansible.builtin.file"]["path"] = str(project.folder / "certs")
    copy["ansible.builtin.copy"]["dest"] = str(project.folder / "certs" / "shop.pem")
    place = {name: stage.variables[f"haproxy_autoscale_{name}"] for name in ("config_path", "pid_file", "state_dir", "binary", "stats_socket")}
    renew["module_defaults"] = {f"{NAME}.haproxy_apply": {**place, "service_name": ""}}
    (project.folder / "shop.pem").write_text("a certificate\n")
    for changed in (3, 0):
        done = project.play(renew)
        assert done.status == 0, done.output
        assert done.recap["changed"] == changed
        assert stage.balancer.reloads() == 1
    assert stage.balancer.reached() == {address(2), address(3)}


# Tags and rights.


def test_each_way_takes_tags_and_rights_for_the_whole_role_its_handler_too(project: Project) -> None:
    stage = project.stage
    groups = [("sg-00000001", "webheads"), ("sg-00000002", "two"), ("sg-00000003", "three"), ("sg-00000004", "four")]
    stage.aws.groups["eu-west-1"] = [security_group(*group) for group in groups]

    def launch(*numbers: int) -> None:
        members = ((number, groups[(number - 1) % 4]) for number in numbers)
        stage.aws.regions["eu-west-1"] = [[instance(instance_id(number), interface(address=address(number), groups=[group])) for number, group in members]]

    stage.variables["haproxy_autoscale_security_groups"] = []
    (service,) = stage.variables["haproxy_autoscale_services"]
    include = {"name": "Follow", "ansible.builtin.include_role": {"name": ROLE}}
    ways = [
        {"roles": [{"role": ROLE, "become": True, "tags": ["balancer"]}]},
        {"tasks": [{"name": "Follow", "ansible.builtin.import_role": {"name": ROLE}, "become": True, "tags": ["balancer"]}]},
        {"tasks": [{"name": "Rights", "become": True, "tags": ["balancer"], "block": [include]}]},
        of_the_page("The whole role behind one tag"),
    ]
    for number, way in enumerate(ways, 1):
        # One instance more for each, so that each has something to do.
        way["vars"] = {"haproxy_autoscale_services": [{**service, "security_groups": [name for _id, name in groups[:number]]}]}
        log = {"name": "Keep the log", "ansible.builtin.command": f"mv {project.log} {project.log}.{number}", "tags": ["balancer"], "become": False}
        way["post_tasks"] = [log]
    launch(1, 2, 3, 4)
    for some in (ways[:2], ways[2:]):
        done = project.play(*some, arguments=("--tags", "balancer"))
        assert done.status == 0, done.output
    assert stage.serves(1, 2, 3, 4)
    for number in range(1, len(ways) + 1):
        assert set(Path(f"{project.log}.{number}").read_text().split()) >= NEEDED, (number, done.output)
    same = stage.untouched()
    launch(1, 2, 3, 4, 5)
    for arguments in (("--tags", "other"), ("--skip-tags", "balancer")):
        done = project.play(*ways, arguments=arguments)
        assert done.status == 0, done.output
        assert same(), arguments


# Which value counts.


def test_of_several_values_the_one_nearest_to_the_call_counts_for_that_call_alone_and_no_rights_are_asked_for(project: Project) -> None:
    stage = project.stage
    stage.members(1)

    def values(seconds: int, *names: str) -> dict[str, str]:
        return {f"haproxy_autoscale_timeout_{name}": f"{seconds}s" for name in names}

    inventory = project.folder / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": {"localhost": values(11, "connect", "client", "server", "http_request")}}}))
    play = {
        "vars": values(12, "client", "server", "http_request"),
        "roles": [{"role": ROLE, "vars": values(13, "server", "http_request")}],
        "tasks": [project.keep("first"), {"ansible.builtin.include_role": {"name": ROLE}, "vars": values(14, "client", "http_request")}],
    }
    done = project.play(play, arguments=("-i", str(inventory)), extra=values(15, "http_request"), haproxy_autoscale_start=False)
    assert done.status == 0, done.output
    second = stage.balancer.config
    for file, client, server in ((project.folder / "first", 12, 13), (second, 14, 12)):
        found = dict(re.findall(r"^    timeout (\S+) +(\S+)$", file.read_text(), re.MULTILINE))
        expected = {"http-keep-alive": "2s", "connect": "11s", "client": f"{client}s", "server": f"{server}s", "http-request": "15s"}
        assert {name: found[name] for name in expected} == expected
    # Nor is anybody asked for rights by a role that was given none.
    assert not project.log.exists()


# Templates of the user's own.

OWN = """{% import 'haproxy-macros.j2' as haproxy %}
defaults
    timeout connect 1s
    timeout client 1s
    timeout server 1s
# THE_NAME
listen web
    bind {{ haproxy_autoscale_services[0].bind[0] }}
{{ haproxy.servers(instances['webheads'], port=haproxy_autoscale_services[0].port) }}
"""


def test_the_template_of_a_role_that_includes_ours_is_found_and_before_the_playbooks(project: Project) -> None:
    stage = project.stage
    stage.members(1)
    include = {"ansible.builtin.include_role": {"name": ROLE}, "vars": {"haproxy_autoscale_template": "haproxy.cfg.j2"}}
    project.role("wrapper", include, templates={"haproxy.cfg.j2": OWN.replace("THE_NAME", "of-the-wrapper")})
    (project.folder / "templates").mkdir()
    (project.folder / "templates" / "haproxy.cfg.j2").write_text(OWN.replace("THE_NAME", "of-the-playbook"))
    done = project.play({"roles": ["wrapper"], "tasks": [project.keep("first")]}, {"tasks": [include]}, haproxy_autoscale_start=False)
    assert done.status == 0, done.output
    for file, name in ((project.folder / "first", "of-the-wrapper"), (stage.balancer.config, "of-the-playbook")):
        assert f"# {name}\n" in file.read_text()
        assert f"server {instance_id(1)} {address(1)}:{stage.web.port}" in file.read_text()
