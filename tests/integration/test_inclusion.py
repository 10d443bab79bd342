# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role in somebody else's play: beside other roles and their handlers, with tags, rights and values from everywhere, and what is left behind.

That each way of calling it, twice and in a loop, brings each process to its own file is in test_processes.py; where the role and the modules
are found is in test_packaging.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import Backends
from balancer import ROOT, Run
from ec2_endpoint import Ec2Endpoint
from haproxy_binaries import binaries
from stage import Stage, address, instance_id

Task = dict[str, Any]


class Project:
    """Somebody else's folder, with roles of theirs and a play."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder = folder
        self.stage = stage
        # Where a handler or a task of theirs leaves a line each time that it runs.
        self.trace = folder / "trace"
        self.environment: dict[str, str] = {}

    def role(self, name: str, *tasks: Task, handlers: list[Task] | None = None, templates: dict[str, str] | None = None) -> str:
        for part, content in (("tasks", list(tasks)), ("handlers", handlers or [])):
            (self.folder / "roles" / name / part).mkdir(parents=True, exist_ok=True)
            (self.folder / "roles" / name / part / "main.yml").write_text(json.dumps(content))
        for file, text in (templates or {}).items():
            (self.folder / "roles" / name / "templates").mkdir(exist_ok=True)
            (self.folder / "roles" / name / "templates" / file).write_text(text)
        return name

    def traced(self, line: str, **more: Any) -> Task:
        return {"name": f"Leave {line}", "ansible.builtin.shell": f"echo {line} >>{self.trace}", **more}

    def traces(self) -> list[str]:
        return self.trace.read_text().split() if self.trace.exists() else []

    def play(self, play: dict[str, Any], *arguments: str, extra: dict[str, Any] | None = None, **variables: Any) -> Run:
        playbook = self.folder / "site.yml"
        theirs = {"name": "Theirs", "hosts": "localhost", "gather_facts": False, "vars": {**self.stage.variables, **variables}}
        playbook.write_text(json.dumps([{**theirs, **play}]))
        balancer = self.stage.balancer
        balancer.environment = {**self.stage.aws.environment, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), **self.environment}
        return balancer.run(extra or {}, *arguments, playbook=playbook)


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory, web: Backends, aws: Ec2Endpoint) -> Iterator[Project]:
    stage = Stage(tmp_path_factory.mktemp("b"), list(binaries().values())[-1], web, aws)
    yield Project(tmp_path_factory.mktemp("project"), stage)
    stage.balancer.stop()


ROLE = "haproxy_autoscale"


# Beside other roles, and their handlers.


def test_a_role_that_installs_haproxy_and_its_handlers_of_the_same_name_are_left_alone(project: Project) -> None:
    stage = project.stage
    program = project.folder / "haproxy"
    install = {
        "name": "Install",
        "ansible.builtin.file": {"src": stage.balancer.binary, "path": str(program), "state": "link"},
        "notify": "reload haproxy",
    }
    project.role("installer", install, handlers=[{**project.traced("theirs"), "name": "reload haproxy"}])
    stage.variables["haproxy_autoscale_binary"] = str(program)
    play = {"roles": ["installer", ROLE]}
    stage.members(1, 2)
    done = project.play(play)
    assert done.status == 0, done.output
    assert stage.serves(1, 2)
    # What they notified themselves.
    assert project.traces() == ["theirs"]
    stage.members(2, 3)
    done = project.play(play)
    assert done.status == 0, done.output
    assert stage.serves(2, 3)
    assert project.traces() == ["theirs"]
    assert project.play(play).recap["changed"] == 0


def test_other_roles_may_notify_the_handler_before_and_after(project: Project) -> None:
    stage = project.stage
    for name in ("before", "between", "after"):
        project.role(name, project.traced(name, notify="reload haproxy"))
    project.role("flush", {"name": "Flush", "ansible.builtin.meta": "flush_handlers"})
    play = {"roles": ["before", "flush", "between", ROLE, "after"]}
    stage.members(1, 2)
    done = project.play(play)
    assert done.status == 0, done.output
    assert stage.serves(1, 2)
    worker = stage.balancer.worker()
    # What it was notified for is nothing, and it does nothing.
    done = project.play(play)
    assert done.status == 0, done.output
    assert done.recap["changed"] == 3
    stage.members(1, 2, 3)
    done = project.play(play)
    assert done.status == 0, done.output
    assert stage.serves(1, 2, 3)
    assert (stage.balancer.worker(), stage.balancer.reloads()) == (worker, 0)


def test_the_role_leaves_haproxy_at_its_file_before_anything_else_runs_and_runs_the_handlers_that_wait(project: Project) -> None:
    stage = project.stage
    project.role("other", project.traced("task", notify="Theirs"), handlers=[{**project.traced("handler"), "name": "Theirs"}])
    # Whoever has passed no check yet is answered for by HAProxy.
    answers = {"url": f"http://127.0.0.1:{stage.balancer.port}/", "status_code": [200, 503]}
    then = {"name": "Ask HAProxy", "ansible.builtin.uri": answers}
    said = {"name": "Say", "ansible.builtin.debug": {"msg": "There was {{ lookup('ansible.builtin.file', trace) }}"}}
    stage.members(1)
    done = project.play({"roles": ["other", ROLE], "tasks": [then, said]}, trace=str(project.trace))
    assert done.status == 0, done.output
    assert "There was task handler" in done.text.replace("\\n", " ")


# Tags.


def by_roles(tags: list[str]) -> dict[str, Any]:
    return {"roles": [{"role": ROLE, "tags": tags}]}


def by_import_role(tags: list[str]) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.import_role": {"name": ROLE}, "tags": tags}]}


def by_include_role(tags: list[str]) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.include_role": {"name": ROLE, "apply": {"tags": tags}}, "tags": tags}]}


def test_a_tag_runs_the_whole_role_or_nothing_of_it_in_every_way(project: Project) -> None:
    stage = project.stage
    members = [1]
    for way in (by_roles, by_import_role, by_include_role):
        stage.members(*members)
        done = project.play(way(["balancer"]), "--tags", "balancer")
        assert done.status == 0, done.output
        assert stage.serves(*members), way.__name__
        members.append(len(members) + 1)
        stage.members(*members)
        same = stage.untouched()
        for arguments in (["--tags", "other"], ["--skip-tags", "balancer"]):
            done = project.play(way(["balancer"]), *arguments)
            assert done.status == 0, done.output
            assert same(), (way.__name__, arguments)


# Rights.

# In place of sudo: notes the module that it is called for, and runs it.
SUDO = """#!/bin/sh
printf '%s\\n' "$*" | grep -o 'AnsiballZ_[a-z0-9_]*' >>{log}
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""
NEEDED = {f"AnsiballZ_{name}" for name in ("ec2_security_group_instance_facts", "haproxy_facts", "copy", "haproxy_apply")}


def become_of_the_play(_project: Project) -> dict[str, Any]:
    return {"become": True, "roles": [ROLE]}


def become_of_the_role(_project: Project) -> dict[str, Any]:
    return {"roles": [{"role": ROLE, "become": True}]}


def become_of_import_role(_project: Project) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.import_role": {"name": ROLE}, "become": True}]}


def become_of_a_block(_project: Project) -> dict[str, Any]:
    return {"tasks": [{"become": True, "block": [{"ansible.builtin.include_role": {"name": ROLE}}]}]}


def become_of_apply(_project: Project) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.include_role": {"name": ROLE, "apply": {"become": True}}}]}


def test_the_role_takes_the_rights_that_it_is_given_its_handler_too_and_asks_for_none_itself(project: Project) -> None:
    stage = project.stage
    sudo, log = project.folder / "sudo", project.folder / "log"
    sudo.write_text(SUDO.format(log=log))
    sudo.chmod(0o755)
    project.environment = {"ANSIBLE_BECOME_ALLOW_SAME_USER": "1", "ANSIBLE_BECOME_EXE": str(sudo)}
    # Without become there is nobody to ask.
    stage.members(1)
    done = project.play({"roles": [ROLE]})
    assert done.status == 0, done.output
    assert stage.serves(1)
    assert not log.exists()
    ways: list[Callable[[Project], dict[str, Any]]] = [
        become_of_the_play,
        become_of_the_role,
        become_of_import_role,
        become_of_a_block,
        become_of_apply,
    ]
    for number, way in enumerate(ways):
        stage.members(1, 2 + number)
        done = project.play(way(project))
        assert done.status == 0, f"{way.__name__}: {done.output}"
        assert set(log.read_text().split()) >= NEEDED, way.__name__
        log.unlink()
    assert stage.serves(1, 6)


# Which value counts.


def test_of_several_values_the_one_nearest_to_the_role_counts_and_extra_variables_above_all(project: Project) -> None:
    stage = project.stage
    stage.members(1)
    config = stage.balancer.config
    name = "haproxy_autoscale_maxconn"
    inventory = project.folder / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": {"localhost": {name: 11}}}}))
    plain: dict[str, Any] = {"roles": [ROLE]}
    beside = {"roles": [{"role": ROLE, "vars": {name: 13}}]}
    included = {"tasks": [{"ansible.builtin.include_role": {"name": ROLE}, "vars": {name: 14}}]}
    more: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]] = [
        (plain, {}, {}, 11),
        (plain, {name: 12}, {}, 12),
        (beside, {name: 12}, {}, 13),
        (included, {name: 12}, {}, 14),
        (included, {name: 12}, {name: 15}, 15),
    ]
    for play, variables, extra, expected in more:
        done = project.play(play, "-i", str(inventory), haproxy_autoscale_start=False, extra=extra, **variables)
        assert done.status == 0, done.output
        assert f"    maxconn {expected}\n" in config.read_text(), (play, variables, extra)


def test_what_one_call_was_given_is_not_there_in_the_next(project: Project) -> None:
    stage = project.stage
    stage.members(1)
    stage.variables["haproxy_autoscale_start"] = False
    first = {"ansible.builtin.include_role": {"name": ROLE}, "vars": {"haproxy_autoscale_maxconn": 77}}
    second = {"ansible.builtin.include_role": {"name": ROLE}}
    done = project.play({"tasks": [first, second]})
    assert done.status == 0, done.output
    assert "maxconn 77" not in stage.balancer.config.read_text()


# What is left behind.


def test_later_tasks_plays_and_hosts_read_what_was_found(project: Project) -> None:
    stage = project.stage
    stage.members(1, 2)
    found = "{{ %s.ec2_security_group_instances.webheads | map(attribute='address') | join('+') }}"
    tasks = [
        {"ansible.builtin.debug": {"msg": "here " + found % "ansible_facts"}},
        {"ansible.builtin.debug": {"msg": "plan {{ ansible_facts['haproxy_processes']['haproxy'].candidate.plan }}"}},
        {"ansible.builtin.debug": {"msg": "out {{ ansible_facts['ec2_security_group_excluded_instances'].webheads | length }}"}},
        {"ansible.builtin.debug": {"msg": "there " + found % "hostvars['localhost'].ansible_facts"}, "delegate_to": "elsewhere", "delegate_facts": True},
    ]
    done = project.play({"roles": [ROLE], "tasks": tasks}, "-i", "localhost,elsewhere,")
    assert done.status == 0, done.output
    members = f"{address(1)}+{address(2)}"
    for said in (f"here {members}", "plan start", "out 0", f"there {members}"):
        assert said in done.text, said


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
    done = project.play({"roles": ["wrapper"]}, haproxy_autoscale_start=False)
    assert done.status == 0, done.output
    assert "# of-the-wrapper\n" in stage.balancer.config.read_text()

    (project.folder / "templates").mkdir()
    (project.folder / "templates" / "haproxy.cfg.j2").write_text(OWN.replace("THE_NAME", "of-the-playbook"))
    done = project.play({"roles": ["wrapper"]}, haproxy_autoscale_start=False)
    assert "# of-the-wrapper\n" in stage.balancer.config.read_text()
    done = project.play({"tasks": [include]}, haproxy_autoscale_start=False)
    assert done.status == 0, done.output
    assert "# of-the-playbook\n" in stage.balancer.config.read_text()
    assert f"server {instance_id(1)} {address(1)}:{stage.web.port}" in stage.balancer.config.read_text()
