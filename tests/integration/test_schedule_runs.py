# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scheduled runs of the whole product: a repository, an EC2 endpoint, a real HAProxy, and what the schedule starts; once by a real cron daemon.

Elsewhere a run is started by the command line of the cron entry, given to /bin/sh as cron does, so that no test waits for the next minute.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import Backends
from balancer import ROOT
from ec2_endpoint import Ec2Endpoint
from haproxy_binaries import binaries
from scheduled import Host, commit, has_ended
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


@pytest.mark.parametrize("mode", ["pull", "fetch"])
def test_runs_follow_the_group_without_git_too_and_a_broken_commit_harms_nothing(host: Host, stage: Stage, repository: Path, mode: str) -> None:
    host.install(schedule_mode=mode)
    stage.members(1, 2)
    succeed(host)
    # The HAProxy that this run has started has outlived it.
    assert stage.serves(1, 2)
    worker = stage.balancer.worker()
    stage.members(1, 2, 3)
    succeed(host)
    assert stage.serves(1, 2, 3)
    succeed(host)
    assert host.log.read_text().rpartition("PLAY RECAP")[2].count("changed=0") == 1

    gone = repository.with_name("gone")
    repository.rename(gone)
    stage.members(2, 3)
    succeed(host)
    assert stage.serves(2, 3)
    assert "WARNING" in host.log.read_text()
    gone.rename(repository)

    commit(repository, {PLAYBOOK: "- hosts: [\n"})
    stage.members(3, 4)
    same = stage.untouched()
    assert host.program_runs().status != 0
    assert "FAILED with exit status" in host.log.read_text().splitlines()[-1]
    assert same()
    commit(repository, {PLAYBOOK: GOOD})
    succeed(host)
    assert stage.serves(3, 4)
    assert stage.balancer.worker() == worker


@pytest.mark.parametrize("mode", ["pull", "fetch"])
def test_a_run_that_hangs_is_ended_by_its_limit_and_the_next_goes_on(host: Host, stage: Stage, repository: Path, mode: str) -> None:
    stage.members(1, 2)
    host.install(schedule_mode=mode)
    succeed(host)
    same = stage.untouched()
    hanging = host.root.parent / "hanging"
    commit(repository, {PLAYBOOK: HANG.format(file=hanging)})
    stage.members(1, 2, 3)
    host.install(schedule_mode=mode, schedule_time_limit=6, schedule_kill_after=5)
    assert host.program_runs().status == 124, host.log.read_text()
    assert "it was ended after its time limit of 6 seconds" in host.log.read_text().splitlines()[-1]
    assert same()
    host.until(lambda: has_ended(int(hanging.read_text())))
    commit(repository, {PLAYBOOK: GOOD})
    host.install(schedule_mode=mode)
    succeed(host)
    assert stage.serves(1, 2, 3)


@pytest.mark.parametrize("mode", ["pull", "fetch"])
def test_a_haproxy_that_a_run_has_started_lives_on_when_the_run_is_ended(host: Host, stage: Stage, repository: Path, mode: str) -> None:
    stage.members(1, 2)
    hanging = host.root.parent / "hanging"
    commit(repository, {PLAYBOOK: GOOD + HANG.format(file=hanging)})
    host.install(schedule_mode=mode)
    run = subprocess.Popen([host.program], stdin=subprocess.DEVNULL)
    try:
        # What the limit does, at the moment when HAProxy has been started.
        until(lambda: hanging.exists() and hanging.read_text().strip() != "", 60)
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(timeout=60) != 0
    finally:
        run.kill()
    host.until(lambda: has_ended(int(hanging.read_text())))
    assert stage.serves(1, 2)
    worker = stage.balancer.worker()
    commit(repository, {PLAYBOOK: GOOD})
    stage.members(2, 3)
    succeed(host)
    assert stage.serves(2, 3)
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


@pytest.fixture
def cron(host: Host) -> Iterator[Callable[[], None]]:
    """Starts cron, which then reads the host's /etc/cron.d."""
    places = f"{os.environ['PATH']}:/usr/sbin:/sbin:{ROOT}/.cache/cron/usr/sbin"
    daemon = shutil.which("cron", path=places)
    if not daemon or not Path("/etc/cron.d").is_dir():
        pytest.skip("no cron daemon is here")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("only root can give cron a view of the file system of its own")
    (host.root / "var/spool/cron/crontabs").mkdir(parents=True)
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        processes.append(subprocess.Popen(["unshare", "--mount", "sh", "-ec", CRON, "cron", host.root, daemon], stdin=subprocess.DEVNULL))

    yield start
    host.entry.unlink(missing_ok=True)
    for process in processes:
        process.terminate()
        process.wait(timeout=30)
    # A run that it has started has a limit, and is not to outlive the test.
    if host.lock.exists():
        with host.lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)


def test_cron_brings_requests_to_a_newcomer_with_its_next_tick(host: Host, stage: Stage, cron: Callable[[], None]) -> None:
    stage.members(1, 2)
    host.install(schedule_jitter=2, schedule_time_limit=120)
    cron()
    until(lambda: host.log.exists() and "has succeeded" in host.log.read_text(), 150)
    assert stage.serves(1, 2)
    stage.members(1, 2, 3)
    until(lambda: host.log.read_text().count("has succeeded") >= 2, 150)
    assert stage.serves(1, 2, 3)
    assert "FAILED" not in host.log.read_text()
