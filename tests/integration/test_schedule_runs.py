# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scheduled runs of the whole product: a repository, an EC2 endpoint, a real HAProxy, and what the schedule starts; once by a real cron daemon.

Elsewhere a run is started by the command line of the cron entry, given to /bin/sh as cron does, so that no test waits for the next minute.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import Backends
from balancer import ROOT, has_ended
from ec2_endpoint import Ec2Endpoint
from haproxy_binaries import binaries
from scheduled import Host, commit
from stage import Stage

NEWEST = list(binaries().values())[-1]
PLAYBOOK = "playbooks/update.yml"
GOOD = (ROOT / PLAYBOOK).read_text()
# Says who it is, and hangs.
HANG = """
- name: Hang
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Hang
      ansible.builtin.shell: "echo $$ >{file}; exec sleep 300"
"""


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    folder = tmp_path / "balancer"
    folder.mkdir()
    made = Stage(folder, NEWEST, web, aws)
    yield made
    made.balancer.stop()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """This checkout with its uncommitted changes, as a repository of its own."""
    folder = tmp_path / "repository"
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    # .venv and .cache may be links, which the rules for folders do not ignore.
    names = [name for name in listed.stdout.split("\0") if name and name not in (".venv", ".cache") and os.path.lexists(ROOT / name)]
    packed = subprocess.run(["tar", "--create", "--null", "--files-from=-"], input="\0".join(names).encode(), cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "--extract"], input=packed.stdout, cwd=folder, check=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    commit(folder, {})
    return folder


@pytest.fixture
def host(tmp_path: Path, stage: Stage, repository: Path) -> Host:
    made = Host(tmp_path / "host")
    # ansible-pull takes the path of its commands apart at spaces, and that of this checkout may have one.
    (tmp_path / "bin").symlink_to(Path(sys.executable).parent)
    made.variables.update(
        schedule_ansible_bin=str(tmp_path / "bin"),
        schedule_repository=f"file://{repository}",
        schedule_variables=stage.variables,
        schedule_environment={**stage.aws.environment, "ANSIBLE_HOME": str(tmp_path / "ansible")},
        schedule_jitter=0,
    )
    return made


def succeed(host: Host) -> None:
    done = host.program_runs()
    assert (done.status, done.output) == (0, ""), host.log.read_text()


@pytest.mark.timeout(900)
def test_fetched_runs_follow_the_group_without_git_too_and_haproxy_outlives_a_run_that_is_ended(host: Host, stage: Stage, repository: Path) -> None:
    host.place(schedule_mode="fetch")
    stage.members(1, 2)
    hanging = host.root.parent / "hanging"
    commit(repository, {PLAYBOOK: GOOD + HANG.format(file=hanging)})
    run = subprocess.Popen([host.program], stdin=subprocess.DEVNULL)
    try:
        # What the limit does, at the moment when HAProxy has been started.
        until(lambda: hanging.exists() and hanging.read_text().strip() != "", 300)
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(timeout=60) != 0
    finally:
        run.kill()
    until(lambda: has_ended(int(hanging.read_text())), 60)
    assert "FAILED with exit status" in host.log.read_text().splitlines()[-1]
    assert stage.serves(1, 2)
    worker = stage.balancer.worker()

    commit(repository, {PLAYBOOK: GOOD})
    stage.members(1, 2, 3)
    succeed(host)
    assert stage.serves(1, 2, 3)
    repository.rename(repository.with_name("gone"))
    stage.members(2, 3)
    succeed(host)
    assert stage.serves(2, 3)
    assert "WARNING: 'main' could not be fetched from git" in host.log.read_text()
    assert stage.balancer.worker() == worker


def until(true: Callable[[], bool], seconds: int) -> None:
    for _attempt in range(seconds * 5):
        if true():
            return
        time.sleep(0.2)
    raise AssertionError("it never came")


# A real cron daemon.

# Its files are the system's, so it gets a view of the file system of its own, in which these are other ones.
CRON = """
mount --bind "$1/etc/cron.d" /etc/cron.d
mount --bind "$1/var/spool" /var/spool
mount --bind "$1/run" /run
if [ -e /etc/crontab ]; then mount --bind /dev/null /etc/crontab; fi
exec "$2" -f
"""


class Cron:
    """A cron daemon that reads the host's /etc/cron.d."""

    def __init__(self, host: Host, daemon: str) -> None:
        self._host = host
        self._daemon = daemon
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(["unshare", "--mount", "sh", "-ec", CRON, "cron", self._host.root, self._daemon], stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """Ends it, and waits for the run that it may have started: it has a limit, and is not to outlive the test."""
        if self._process:
            self._process.terminate()
            self._process.wait(timeout=30)
            until(lambda: not self._runs(), 400)
        self._process = None

    def _runs(self) -> bool:
        program = os.fsencode(self._host.program)
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if program in cmdline.read_bytes().split(b"\0"):
                    return True
            except OSError:
                # It has just ended.
                continue
        return False


@pytest.fixture
def cron(host: Host) -> Iterator[Cron]:
    places = f"{os.environ['PATH']}:/usr/sbin:/sbin:{ROOT}/.cache/cron/usr/sbin"
    daemon = shutil.which("cron", path=places)
    if not daemon or not Path("/etc/cron.d").is_dir():
        pytest.skip("no cron daemon is here")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("only root can give cron a view of the file system of its own")
    (host.root / "var/spool/cron/crontabs").mkdir(parents=True)
    made = Cron(host, daemon)
    yield made
    made.stop()


def ticks(host: Host) -> int:
    return host.log.read_text().count("has succeeded") if host.log.exists() else 0


@pytest.mark.timeout(1200)
def test_cron_brings_requests_to_a_newcomer_with_its_next_tick_and_no_run_that_fails_harms_any(host: Host, stage: Stage, repository: Path, cron: Cron) -> None:
    stage.members(1, 2)
    host.install(schedule_jitter=2, schedule_time_limit=300)
    cron.start()
    until(lambda: ticks(host) > 0, 300)
    # The HAProxy that this run has started has outlived it.
    assert stage.serves(1, 2)
    stage.members(1, 2, 3)
    before = ticks(host)
    # One that was at work already may have asked EC2 before.
    until(lambda: ticks(host) > before and stage.serves(1, 2, 3), 300)
    cron.stop()
    assert "FAILED" not in host.log.read_text()
    worker = stage.balancer.worker()

    # Without git.
    gone = repository.with_name("gone")
    repository.rename(gone)
    stage.members(2, 3)
    succeed(host)
    assert stage.serves(2, 3)
    gone.rename(repository)

    # A commit that breaks the playbook.
    commit(repository, {PLAYBOOK: "- hosts: [\n"})
    stage.members(3, 4)
    same = stage.untouched()
    assert host.program_runs().status not in (0, 124, 137)
    assert "FAILED with exit status" in host.log.read_text().splitlines()[-1]
    assert same()

    # One that lets it hang.
    hanging = host.root.parent / "hanging"
    commit(repository, {PLAYBOOK: HANG.format(file=hanging)})
    # A whole run took longer than one gets to where it hangs.
    limit = 10 + int(re.findall(r"has succeeded; it took (\d+) seconds", host.log.read_text())[-1])
    host.place(schedule_time_limit=limit)
    assert host.program_runs().status == 124, host.log.read_text()
    assert f"it was ended after its time limit of {limit} seconds" in host.log.read_text().splitlines()[-1]
    until(lambda: has_ended(int(hanging.read_text())), 60)
    assert same()

    commit(repository, {PLAYBOOK: GOOD})
    host.place()
    succeed(host)
    assert stage.serves(3, 4)
    assert stage.balancer.worker() == worker
