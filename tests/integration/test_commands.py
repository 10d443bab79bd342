# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command of the pages that a newcomer begins with is run by a test, or stands here with the reason why none can."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from backends import Backends
from balancer import ROOT, Balancer, free_port
from ec2_endpoint import Ec2Endpoint
from haproxy_binaries import binaries
from stage import address, instance_id, one
from test_documents import BLOCKS, Block, prose

README = ROOT / "README.md"
GETTING_STARTED = ROOT / "docs" / "getting-started.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", GETTING_STARTED)
BIN = Path(sys.executable).parent
# Words of code in the text are a command when they begin with one of these and go on.
PROGRAM = r"(?:make|nox|\.ci/run|ansible(?:-[a-z]+)?|antsibull-[a-z]+|apt-get|pip|python3?|git|flock|\S+/bin/\S+) \S"

# Each command, and the test that runs it, or says the same by what it calls.
RUN_BY = {
    "make demo": "test_all_promises",
    "make demo KEEP=1": "test_keep",
    "make haproxy": "test_what_only_tells_and_what_only_removes_is_run",
    "make clean": "test_what_only_tells_and_what_only_removes_is_run",
    "make churn": "test_no_client_notices_that_the_group_changes",
    "make sanity": "test_the_gates_of_what_is_published_see_a_planted_fault",
    "make gallery": "test_the_gallery_is_what_the_templates_give",
    "make build": "test_the_gates_of_what_is_published_see_a_planted_fault",
    "make docs": "test_the_site_is_made_without_a_warning_and_with_each_page",
    "make release": "test_a_release_is_told_in_the_changelog_and_gives_the_same_bytes_twice",
    "antsibull-changelog release": "test_a_release_is_told_in_the_changelog_and_gives_the_same_bytes_twice",
    "ansible-playbook --check --diff site.yml": "test_who_follows_the_first_pages_has_a_balancer_in_step",
    "cd /etc/haproxy-autoscale": "test_who_follows_the_first_pages_has_a_balancer_in_step",
    "/opt/ansible/bin/ansible-playbook --check --diff site.yml": "test_who_follows_the_first_pages_has_a_balancer_in_step",
    "/opt/ansible/bin/ansible-playbook --diff site.yml": "test_who_follows_the_first_pages_has_a_balancer_in_step",
    "python3 -m venv /opt/ansible": "test_who_follows_the_first_pages_has_a_balancer_in_step",
    "/opt/ansible/bin/pip install 'ansible-core>=2.16' 'boto3>=1.26'": "test_who_follows_the_first_pages_has_a_balancer_in_step",
    "ansible-pull": "test_the_checkout_does_the_whole_job_in_every_way",
    "ansible-galaxy collection install git+https://github.com/haproxy-autoscale/haproxy-autoscale,main": (
        "test_the_installed_collection_is_whole_and_listed_and_holds_no_junk"
    ),
    "/opt/ansible/bin/ansible-galaxy collection install git+https://github.com/haproxy-autoscale/haproxy-autoscale,main": (
        "test_the_installed_collection_is_whole_and_listed_and_holds_no_junk"
    ),
    "ansible-galaxy collection install -r requirements.yml": "test_the_installed_collection_is_whole_and_listed_and_holds_no_junk",
    "ansible-galaxy collection build": "test_the_installed_collection_is_whole_and_listed_and_holds_no_junk",
    "ansible-doc -l": "test_the_installed_collection_is_whole_and_listed_and_holds_no_junk",
    "ansible-doc autoscale.haproxy.ec2_security_group_instance_facts": "test_the_documents_are_found_by_their_full_names",
}

# What its recipe calls is looked at all the same.
ROUND_ABOUT = "a test that ran it would run itself"
NOT_RUN = {
    "make setup": "it made the environment that this runs in",
    "make test": ROUND_ABOUT,
    "make test-full": ROUND_ABOUT,
    "make test-unit": ROUND_ABOUT,
    "make test-integration": ROUND_ABOUT,
    "make test-packaging": ROUND_ABOUT,
    "make test-molecule": ROUND_ABOUT,
    "make coverage": ROUND_ABOUT,
    "make matrix": ROUND_ABOUT,
    "make lint": "make test runs it beside the tests",
    "make format": "it changes the checkout; make lint asks the same two tools whether it would",
    "make pictures": "it changes the documents; the demo that it records is run by test_all_promises",
    "make bench": "it takes an hour",
    "apt-get update": "it changes the system",
    "apt-get install --yes git haproxy python3-venv": "it changes the system",
    "flock -n": "a part of the line that begins with ansible-pull",
}


def commands(page: Path) -> Iterator[str]:
    for block in BLOCKS:
        if block.document == page and block.info[0] == "shell":
            assert "\\\n" not in block.text, f"{block}: a command over two lines"
            yield from block.text.splitlines()
        elif block.document == page:
            # A line of a crontab.
            yield from re.findall(r"\b(ansible-pull) -", block.text)
    yield from (code for code in re.findall(r"`([^`\n]+)`", prose(page)) if re.match(PROGRAM, code))


def test_each_command_is_run_by_a_test_or_there_is_a_reason_why_not() -> None:
    assert {command for page in PAGES for command in commands(page)} == {*RUN_BY, *NOT_RUN}
    assert set(RUN_BY) & set(NOT_RUN) == set()
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in RUN_BY.values() if f"def {name}(" not in code] == []


# What make calls.


def make(*words: str, folder: Path = ROOT) -> str:
    done = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_each_make_target_calls_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = {target: make("--dry-run", "--old-file=setup", target) for target in targets}
    for target, recipe in called.items():
        assert [name for name in re.findall(r"\btests/[\w./-]+", recipe) if not (ROOT / name).exists()] == [], target
        assert [name for name in re.findall(r"\.venv/bin/([\w-]+)", recipe) if not (BIN / name).exists()] == [], target
    assert "tests/setup.sh test" in make("--dry-run", "setup")
    assert "demo.py --keep" in make("--dry-run", "demo", "KEEP=1")
    assert "-k reload" in make("--dry-run", "--old-file=setup", "test", "ARGS=-k reload")
    assert "document.py" in called["bench"]
    assert "document.py" not in make("--dry-run", "--old-file=setup", "bench", "ARGS=--quick")


def test_what_only_tells_and_what_only_removes_is_run(tmp_path: Path) -> None:
    assert {line.split()[0] for line in make("--old-file=setup", "haproxy").splitlines()} >= set(binaries())
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in (".venv/bin", ".cache/haproxy", "build", "library/__pycache__", "docs"):
        (tmp_path / name).mkdir(parents=True)
    make("clean", folder=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["Makefile", "docs", "library"]


# The first pages, followed.


@pytest.fixture
def balancer(tmp_path: Path, aws: Ec2Endpoint) -> Iterator[Balancer]:
    made = Balancer(tmp_path, list(binaries().values())[-1], aws.environment)
    yield made
    made.stop()


def shell_blocks(page: Path) -> list[Block]:
    return [block for block in BLOCKS if block.document == page and block.info == ["shell"]]


def first_play(page: Path, variables: dict[str, Any]) -> dict[str, Any]:
    """The page's first playbook with the places of the test for those of a system."""
    (play,) = yaml.safe_load(next(block.text for block in BLOCKS if block.document == page and block.info == ["yaml", "playbook"]))
    play["become"] = False
    play["roles"][0]["vars"] |= variables
    return dict(play)


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.full, id="with an environment of its own")])
def test_who_follows_the_first_pages_has_a_balancer_in_step(fresh: bool, balancer: Balancer, aws: Ec2Endpoint, web: Backends) -> None:
    aws.regions["eu-west-1"] = [[one(1), one(2)]]
    etc = balancer.folder / "etc"
    etc.mkdir()
    collection = balancer.folder / "ansible_collections" / "autoscale" / "haproxy"
    collection.parent.mkdir(parents=True)
    collection.symlink_to(ROOT)
    home = balancer.folder / "home"
    home.mkdir()
    environment = {**os.environ, **aws.environment, "HOME": str(home), "ANSIBLE_COLLECTIONS_PATH": str(balancer.folder), "ANSIBLE_NOCOLOR": "1"}
    opt = balancer.folder / "opt" if fresh else BIN.parent

    def run(script: str, path: str = "/usr/bin:/bin") -> str:
        script = script.replace("/etc/haproxy-autoscale", str(etc)).replace("/opt/ansible", str(opt))
        # As root on a new system, but for the folders.
        done = subprocess.run(
            ["/bin/sh", "-ec", script],
            cwd=etc,
            env={**environment, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        return " ".join(done.stdout.split())

    install, look, change = (block.text for block in shell_blocks(GETTING_STARTED))
    lists, apt, venv, pip, galaxy = install.splitlines()
    assert (lists, apt.startswith("apt-get install ")) == ("apt-get update", True)
    assert "ansible-galaxy collection install " in galaxy
    if fresh:
        run(venv, path=f"{BIN}:{os.environ['PATH']}")
        run(pip)
    else:
        # What it asks for is what is here, so that no index is asked.
        assert "already satisfied: ansible-core" in run(f"{pip} --no-index --disable-pip-version-check")

    # The README's playbook is only looked at. Port 80 may be somebody else's here.
    ours = balancer.variables(web.port)
    (etc / "site.yml").write_text(yaml.safe_dump([first_play(README, ours)]))
    (check,) = [block.text for block in shell_blocks(README) if "--check" in block.text]
    assert "+backend webheads" in run(check, path=f"{opt}/bin:/usr/bin:/bin")

    (service,) = ours.pop("haproxy_autoscale_services")
    del ours["haproxy_autoscale_security_groups"]
    play = first_play(GETTING_STARTED, {**ours, "haproxy_autoscale_stats_bind": f"127.0.0.1:{free_port()}"})
    play["roles"][0]["vars"]["haproxy_autoscale_services"][0] |= {"bind": service["bind"], "port": web.port}
    (etc / "site.yml").write_text(yaml.safe_dump([play]))
    assert f"+ server {instance_id(1)} {address(1)}:{web.port}" in run(look)
    assert not balancer.config.exists()
    assert "web: 2 in service, +2; by start" in run(change)
    assert balancer.reached() == {address(1), address(2)}
