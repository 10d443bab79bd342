# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""As AWX does it: by ansible-runner, its engine, with the folders, the files and the environment that AWX gives it; and what playbooks/awx.yml defines.

There is no AWX here. What it does with the output, and when it starts a job, is its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ansible_cores
import pytest
import yaml
from awx_api import AwxApi
from backends import Backends
from balancer import ROOT, Run, free_port
from ec2_endpoint import Answer, Ec2Endpoint, error
from haproxy_binaries import binaries
from stage import Stage, address, instance_id

BIN = Path(sys.executable).parent
COLLECTION = ROOT / ".cache" / "awx"


# The project.


def playbooks_that_awx_lists() -> list[str]:
    """By its rule: a line with `hosts:` or `import_playbook:`, in no folder of these names, and behind no link to a folder."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in ("roles", "tasks", "group_vars", "host_vars")]
        for name in files:
            path = Path(folder) / name
            if path.suffix in (".yml", ".yaml") and re.search(r"^\s*?-?\s*?(?:hosts|include|import_playbook):", path.read_text(), re.MULTILINE):
                found.append(str(path.relative_to(ROOT)))
    return found


def test_awx_finds_what_it_looks_for_in_a_project(tmp_path: Path) -> None:
    assert "playbooks/update.yml" in playbooks_that_awx_lists()
    assert (ROOT / "ansible.cfg").is_file()
    requirements = ROOT / "collections" / "requirements.yml"
    # What needs no server cannot be kept back by one.
    environment = {**os.environ, "ANSIBLE_GALAXY_SERVER": "http://127.0.0.1:1", "ANSIBLE_HOME": str(tmp_path)}
    words = [BIN / "ansible-galaxy", "collection", "install", "-r", requirements, "-p", tmp_path / "requirements_collections"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(requirements.read_text()) == {"collections": []}


def builder(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", "ansible_builder", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_execution_environment_has_what_the_collection_needs(tmp_path: Path) -> None:
    needed = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    # As a definition of its own.
    builder("create", "-f", ROOT / "meta" / "execution-environment.yml", "-c", tmp_path / "context", "--output-filename", "Containerfile")
    copied = (tmp_path / "context" / "_build" / "requirements.txt").read_text().splitlines()
    assert [line for line in copied if not line.startswith("#")] == needed
    text = (tmp_path / "context" / "Containerfile").read_text()
    assert "COPY _build/requirements.txt" in text
    assert "openssh-clients" in text
    (core,) = re.findall(r"ansible-core~=(\d+\.\d+)", text)
    assert tuple(int(part) for part in core.split(".")) >= (2, 16)
    # And as what a collection says of itself, within whatever environment it is put into.
    collection = tmp_path / "ansible_collections" / "autoscale" / "haproxy"
    collection.parent.mkdir(parents=True)
    collection.symlink_to(ROOT)
    said = yaml.safe_load(builder("introspect", tmp_path).partition("---")[2])
    assert [line.partition(" ")[0] for line in said["python"]] == needed


# What playbooks/awx.yml defines.


@pytest.fixture
def collection() -> Path:
    if not (COLLECTION / "ansible_collections").is_dir():
        pytest.skip("awx.awx could not be had, tests/support/awx_collection says why")
    return COLLECTION


def define(awx: AwxApi, folder: Path, **variables: Any) -> Run:
    (folder / "awx.json").write_text(json.dumps(variables))
    environment = {**os.environ, **awx.environment, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTION), "ANSIBLE_NOCOLOR": "1", "HOME": str(folder)}
    words = [BIN / "ansible-playbook", "-vv", "-i", "localhost,", "-e", f"@{folder / 'awx.json'}", ROOT / "playbooks" / "awx.yml"]
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
    return Run(done.returncode, done.stdout)


def of_the_page() -> dict[str, Any]:
    """The file awx.yml of docs/awx.md."""
    block = re.search(r"^```yaml\n(awx_setup_.*?)^```$", (ROOT / "docs" / "awx.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    return dict(yaml.safe_load(block.group(1)))


def test_the_playbook_defines_all_that_a_run_every_minute_needs_once(collection: Path, tmp_path: Path) -> None:
    variables = of_the_page()
    key = tmp_path / variables["awx_setup_ssh_key_file"].removeprefix("~/")
    key.parent.mkdir()
    key.write_text("-----BEGIN A KEY-----\nmarker-of-a-key\n")
    variables["awx_setup_balancers"]["balancer-2.example.com"] = {"ansible_host": "192.0.2.2"}
    variables |= {"awx_setup_image": "registry.example.com/ee:1", "awx_setup_maximum_removed_percent": 30}
    with AwxApi() as awx:
        done = define(awx, tmp_path, **variables)
        assert done.status == 0, done.output
        assert "marker-of-a-key" not in done.output
        made = awx.objects
        assert "marker-of-a-key" in made["credentials"]["haproxy-autoscale balancers"]["inputs"]["ssh_key_data"]
        project = made["projects"]["haproxy-autoscale"]
        # A git server that is down stops no job.
        assert (project["scm_type"], project["scm_update_on_launch"]) == ("git", False)
        assert list(made["hosts"]) == list(variables["awx_setup_balancers"])
        # Below the variables of a balancer alone, so no extra variables.
        assert json.loads(made["inventories"]["haproxy-autoscale balancers"]["variables"]) == variables["awx_setup_variables"]
        job = made["job_templates"]["haproxy-autoscale update"]
        assert json.loads(job["extra_vars"]) == {"haproxy_autoscale_hosts": "all"}
        assert job["playbook"] in playbooks_that_awx_lists()
        assert job["allow_simultaneous"] is False
        assert job["become_enabled"] is True
        assert job["use_fact_cache"] is False
        assert job["ask_variables_on_launch"] is False
        assert job["survey_enabled"] is True
        assert job["timeout"] > 0
        schedule = made["schedules"]["haproxy-autoscale every minute"]
        assert schedule["unified_job_template"] == job["id"]
        assert schedule["enabled"] is False
        assert re.fullmatch(r"DTSTART:\d{8}T\d{6}Z RRULE:FREQ=MINUTELY;INTERVAL=1", schedule["rrule"])
        assert awx.credentials[job["id"]] == [made["credentials"]["haproxy-autoscale balancers"]["id"]]
        (survey,) = awx.surveys.values()
        assert {one["variable"].removeprefix("haproxy_autoscale_"): one["default"] for one in survey["spec"]} == {
            "security_groups": "webheads",
            "maximum_removed_percent": 30,
            "apply_strategy": "auto",
        }

        # As the page goes on: the key is AWX's now, and the schedule shall run. All else is as it was.
        awx.requests.clear()
        del variables["awx_setup_ssh_key_file"]
        again = define(awx, tmp_path, **{**variables, "awx_setup_enabled": True})
        assert again.recap["changed"] == 1, again.output
        assert [(method, path) for method, path in awx.requests if method != "GET"] == [("PATCH", schedule["url"])]
        assert schedule["enabled"] is True
        assert "marker-of-a-key" in made["credentials"]["haproxy-autoscale balancers"]["inputs"]["ssh_key_data"]

        # Nobody is asked for groups that services name, and nothing where each process has values of its own.
        awx.requests.clear()
        for name, said in (("apply_strategy", "stand above awx_setup_variables"), ("processes", "awx_setup_security_groups must be empty")):
            wrong = define(awx, tmp_path, **{**variables, "awx_setup_variables": {f"haproxy_autoscale_{name}": "reload"}})
            assert wrong.status != 0
            assert said in wrong.text, wrong.output
        assert awx.requests == []


def questions() -> list[dict[str, Any]]:
    (play,) = yaml.safe_load((ROOT / "playbooks" / "awx.yml").read_text())
    return list(play["vars"]["awx_setup_questions"])


def test_what_a_survey_asks_is_a_value_of_the_role_and_leads_to_no_line_path_or_program() -> None:
    specification = yaml.safe_load((ROOT / "roles" / "haproxy_autoscale" / "meta" / "argument_specs.yml").read_text())
    options = specification["argument_specs"]["main"]["options"]
    for question in questions():
        option = options[question["variable"]]
        assert question["variable"] in ("haproxy_autoscale_security_groups", "haproxy_autoscale_maximum_removed_percent", "haproxy_autoscale_apply_strategy")
        # Without an answer AWX gives an empty text, which newer versions of Ansible read as nothing, and that is no list.
        assert question["required"] is True
        if question["type"] == "multiplechoice":
            assert question["choices"] == option["choices"]
        else:
            assert (question["type"], option["type"]) in (("text", "list"), ("integer", "int"))
    # Without groups the first is not asked.
    assert questions()[0]["variable"] == "haproxy_autoscale_security_groups"


# The jobs.


class Job(NamedTuple):
    """What a job left: ansible-runner's word for how it ended, and what AWX would show."""

    status: str
    events: list[dict[str, Any]]
    output: str
    folder: Path

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one["event_data"] for one in self.events if one["event"] == event]

    @property
    def changed(self) -> dict[str, int]:
        (stats,) = self.of("playbook_on_stats")
        return {str(name): int(count) for name, count in stats["changed"].items()}

    @property
    def text(self) -> str:
        return " ".join(self.output.split())


class Untrusted(yaml.SafeDumper):
    """As AWX writes what does not stand in the job template: each text as one that is no template."""

    def represent_data(self, data: Any) -> yaml.Node:
        return self.represent_scalar("!unsafe", data) if isinstance(data, str) else super().represent_data(data)


class Awx:
    """The folder of a job template: what AWX writes for each of its jobs."""

    def __init__(self, folder: Path, stage: Stage, aws: Ec2Endpoint) -> None:
        self.folder = folder
        self.stage = stage
        self.aws = aws
        self.hosts: dict[str, dict[str, Any]] = {"balancer": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
        for name in ("env", "inventory"):
            (folder / name).mkdir(parents=True)
        # AWX has a copy; a link is enough for who writes nothing into it.
        (folder / "project").symlink_to(ROOT)

    def launch(self, *cmdline: str, survey: Mapping[str, object] | None = None, timeout: int = 0, core: str = "", **more: Any) -> Job:
        variables = {"haproxy_autoscale_hosts": "all", **self.stage.variables, **more}
        answers = {f"haproxy_autoscale_{name}": value for name, value in (survey or {}).items()}
        for name in answers:
            variables.pop(name, None)
        env = self.folder / "env"
        (env / "extravars").write_text(yaml.safe_dump(variables) + (yaml.dump(answers, Dumper=Untrusted) if answers else ""))
        # How AWX has them found, in its containers under /runner.
        mine = {
            "ANSIBLE_ROLES_PATH": f"{self.folder}/requirements_roles:roles:~/.ansible/roles",
            "ANSIBLE_COLLECTIONS_PATH": f"{self.folder}/requirements_collections:~/.ansible/collections",
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_FORCE_COLOR": "False",
            "HOME": str(self.folder),
        }
        (env / "envvars").write_text(yaml.safe_dump({**self.aws.environment, **mine}))
        (env / "settings").write_text(yaml.safe_dump({"idle_timeout": 0, "job_timeout": timeout, "pexpect_timeout": 1}))
        # Whoever is root already needs nobody to become it.
        (env / "cmdline").write_text(" ".join([*(["--become"] if os.geteuid() == 0 else []), *cmdline]))
        inventory = {"all": {"hosts": list(self.hosts)}, "_meta": {"hostvars": self.hosts}}
        script = self.folder / "inventory" / "hosts"
        script.write_text(f"#!{sys.executable}\nprint({json.dumps(inventory)!r})\n")
        script.chmod(0o700)
        ident = str(len(list(self.folder.glob("artifacts/*"))) + 1)
        words = [sys.executable, "-m", "ansible_runner", "run", self.folder, "-p", "playbooks/update.yml", "--ident", ident]
        path = {"PATH": f"{ansible_cores.cores()[core] if core else BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(words, cwd=self.folder, env={**os.environ, **path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        artifacts = self.folder / "artifacts" / ident
        events = sorted((json.loads(file.read_text()) for file in artifacts.glob("job_events/*.json")), key=lambda one: int(one["counter"]))
        return Job((artifacts / "status").read_text().strip(), events, done.stdout, artifacts)


@pytest.fixture
def awx(tmp_path_factory: pytest.TempPathFactory, web: Backends, aws: Ec2Endpoint) -> Iterator[Awx]:
    # Short names: the path of a socket has room for 97 characters.
    stage = Stage(tmp_path_factory.mktemp("b"), list(binaries().values())[-1], web, aws)
    yield Awx(tmp_path_factory.mktemp("awx"), stage, aws)
    stage.balancer.stop()


# A test here is a row of jobs, each a whole run.
several_jobs = pytest.mark.timeout(900)


@several_jobs
def test_jobs_follow_the_group_go_on_after_one_that_hangs_do_no_harm_where_they_meet_and_say_little(awx: Awx, tmp_path: Path) -> None:
    stage = awx.stage
    stage.members(1, 2)
    # As an extra variable of the command line, an empty text is an empty list: the service names the group.
    first = awx.launch("--diff", haproxy_autoscale_security_groups="")
    assert first.status == "successful", first.output
    assert stage.serves(1, 2)
    assert first.changed["balancer"] > 0

    # A job that hangs is ended by its time.
    same = stage.untouched()
    stage.members(3)
    stage.aws.fault("DescribeInstances", Answer(200, "", delay=60))
    hung = awx.launch(timeout=15, haproxy_autoscale_timeout=100)
    assert hung.status == "timeout"
    assert same()
    stage.aws.heal()

    # A check job shows the difference and touches nothing. Its answers of the survey count, above what the inventory says.
    stage.variables["haproxy_autoscale_maximum_removed_percent"] = 10
    answers = {"security_groups": "webheads", "maximum_removed_percent": 100, "apply_strategy": "reload"}
    looked = awx.launch("--check", "--diff", survey=answers)
    assert looked.status == "successful", looked.output
    assert f"- server {instance_id(2)} {address(2)}" in looked.text
    assert f"+ server {instance_id(3)} {address(3)}" in looked.text
    assert "webheads: 1 in service, +1 -2; would be brought to it by reload" in looked.text
    assert same()

    # Jobs of two job templates, which AWX does not hold apart: the one waits for AWS while the other one does all that there is to do.
    stage.aws.fault("DescribeInstances", *[error(503, "Unavailable")] * 100)
    stage.aws.requests.clear()
    with ThreadPoolExecutor() as pool, Ec2Endpoint() as healthy:
        healthy.groups, healthy.regions = stage.aws.groups, stage.aws.regions
        other = Awx(tmp_path / "other", stage, healthy)
        slow = pool.submit(awx.launch, survey=answers, haproxy_autoscale_retries=50)
        while not slow.done() and stage.aws.count("DescribeInstances") == 0:
            time.sleep(0.1)
        changed = other.launch("--diff", survey=answers)
        assert not slow.done()
        stage.aws.heal()
        late = slow.result()
    assert (changed.status, late.status) == ("successful", "successful"), changed.output + late.output
    (written,) = (one["res"]["diff"] for one in changed.of("runner_on_ok") if one["res"].get("diff"))
    assert instance_id(3) in json.dumps(written)
    assert "webheads: 1 in service, +1 -2; by reload" in changed.text
    assert late.changed == {}
    assert stage.serves(3)
    assert stage.balancer.reloads() == 1

    quiet = awx.launch("--diff")
    assert (quiet.status, quiet.changed) == ("successful", {})
    assert not [one for one in quiet.of("runner_on_ok") if one["res"].get("diff")]
    # What AWX keeps of a job is the events and, where one lets it, the facts: of an instance a few kilobytes.
    assert sum(len(json.dumps(one)) for one in quiet.events) < 150_000
    (kept,) = (quiet.folder / "fact_cache").glob("*balancer")
    # From 2.19 on within an envelope.
    facts = json.loads(kept.read_text())
    facts = json.loads(facts["__payload__"]) if "__payload__" in facts else facts
    assert {name.removeprefix("ansible_") for name in facts} <= {
        "ec2_security_group_instances",
        "ec2_security_group_draining_instances",
        "ec2_security_group_excluded_instances",
        "haproxy_processes",
        "discovered_interpreter_python",
    }
    assert kept.stat().st_size < 10_000
    # What a workflow would be given.
    assert [one for one in quiet.of("playbook_on_stats") if one.get("artifact_data")] == []


@several_jobs
def test_a_job_that_fails_is_red_where_it_says_why_and_an_answer_of_the_survey_is_a_value_and_nothing_more(awx: Awx) -> None:
    stage = awx.stage
    stage.members(1, 2, 3, 4)
    # A balancer that cannot be reached holds no other back.
    nobody = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": free_port(), "ansible_user": "nobody"}
    here = awx.hosts
    awx.hosts = {"gone": nobody, **here}
    done = awx.launch()
    assert done.status == "failed"
    (unreachable,) = done.of("runner_on_unreachable")
    assert unreachable["host"] == "gone"
    assert done.of("runner_on_failed") == []
    assert stage.serves(1, 2, 3, 4)
    awx.hosts = here
    same = stage.untouched()

    stage.members(4)
    refused = awx.launch()
    assert refused.status == "failed"
    (failed,) = refused.of("runner_on_failed")
    assert failed["task"] == "Refuse | A change that removes too many servers at once"
    assert failed["host"] == "balancer"
    assert "would lose 3 of its 4 servers" in failed["res"]["msg"]
    assert same()

    trace = awx.folder / "trace"
    template = f"{{{{ lookup('ansible.builtin.pipe', 'touch {trace}') }}}}"
    lines = "webheads\n    server evil 192.0.2.1:80"
    # What makes a value one that is no template is not the same in the versions of Ansible.
    for core in [core for core in (ansible_cores.WANTED[0], "") if not core or core in ansible_cores.cores()]:
        for groups in (template, lines) if not core else (f"{lines},{template}",):
            wrong = awx.launch(survey={"security_groups": groups}, core=core)
            assert wrong.status == "failed", groups
            # The first is what the search said; the last one, which is red, what follows from it.
            said = [one["res"]["msg"] for one in wrong.of("runner_on_failed")]
            assert all(message.startswith("security_groups: ") for message in said), said
            assert "untouched" in said[-1]
    both = awx.launch(survey={"apply_strategy": template, "maximum_removed_percent": template})
    (message,) = (one["res"]["msg"] for one in both.of("runner_on_failed"))
    assert "argument 'haproxy_autoscale_maximum_removed_percent' is of type str" in message
    assert "value of haproxy_autoscale_apply_strategy must be one of" in message
    over = awx.launch(survey={"maximum_removed_percent": 101})
    (message,) = (one["res"]["msg"] for one in over.of("runner_on_failed"))
    assert "haproxy_autoscale_maximum_removed_percent must be 0 to 100" in message
    assert not trace.exists()
    assert same()
