# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role schedule: what it installs and removes, and what a run of the program that it installs does, by the very command line of the cron entry.

Here the program calls stand-ins for Ansible's commands, which say what they were given. test_schedule_runs.py has real runs with a real HAProxy.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from balancer import ROOT
from scheduled import NAME, Host, commit, has_ended, make_repository

ROLE = ROOT / "roles" / "schedule"
# Says what it got, and ends as the test wants it.
STAND_IN = """#!/bin/sh
cd {folder} || exit
printf '%s\\n' "${{0##*/}}" "$@" >>called
cat /proc/self/environ >environment
if [ -e commands ]; then . ./commands; fi
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path / "host")
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in ("ansible", "ansible-playbook", "ansible-pull"):
        (bin / name).write_text(STAND_IN.format(folder=tmp_path))
        (bin / name).chmod(0o755)
    repository = make_repository(tmp_path / "repository", {"playbooks/update.yml": "first"})
    made.variables.update(schedule_ansible_bin=str(bin), schedule_repository=f"file://{repository}", schedule_jitter=0)
    return made


def called(host: Host) -> list[str]:
    """The words of the calls since the last question."""
    file = host.root.parent / "called"
    words = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return words


def behave(host: Host, commands: str) -> None:
    (host.root.parent / "commands").write_text(commands)


def checked_out(host: Host) -> str:
    return (host.checkout / "playbooks" / "update.yml").read_text()


# What is installed and removed.


@pytest.mark.parametrize("scheduler", ["cron", "systemd"])
def test_a_second_run_changes_nothing_and_absent_removes_all(host: Host, scheduler: str) -> None:
    more: dict[str, Any] = {"schedule_environment": {"A": "1"}, "schedule_variables": {"b": 2}}
    if scheduler == "systemd":
        host.with_systemd()
    before = host.files()
    expected = host.install("--check", **more)
    assert host.files() == before
    assert expected.recap["changed"] > 0

    assert host.install(**more).recap["changed"] > 0
    assert host.entry.exists() == (scheduler == "cron")
    assert host.timer.exists() == (scheduler == "systemd")
    installed = host.files()
    again = host.install(**more)
    assert again.recap["changed"] == 0, again.output
    assert host.files() == installed
    host.program_runs()
    theirs = host.folder / "deploy-key"
    theirs.write_text("theirs")

    assert host.install("--check", schedule_state="absent").recap["changed"] > 0
    assert host.entry.exists() == (scheduler == "cron")
    assert host.install(schedule_state="absent").recap["changed"] > 0
    assert host.files() == {**before, theirs: "theirs"}
    if scheduler == "systemd":
        assert host.systemctl_calls()[-1] == "daemon-reload"
        assert f"stop {NAME}.timer" in host.systemctl_calls()
    theirs.unlink()
    assert host.install(schedule_state="absent").recap["changed"] == 1
    assert not host.folder.exists()
    assert host.install(schedule_state="absent").recap["changed"] == 0


def test_the_other_scheduler_has_nothing_left(host: Host) -> None:
    host.install()
    assert host.entry.exists()
    host.with_systemd()
    host.install()
    assert (host.entry.exists(), host.timer.exists(), host.service.exists()) == (False, True, True)
    host.install(schedule_scheduler="cron")
    assert (host.entry.exists(), host.timer.exists(), host.service.exists()) == (True, False, False)
    assert f"stop {NAME}.timer" in host.systemctl_calls()


def test_what_is_not_given_any_more_does_not_stay_on_the_disk(host: Host) -> None:
    host.install(schedule_environment={"KEY": "secret"}, schedule_variables={"password": "secret"})
    host.install()
    assert [path for path, text in host.files().items() if "secret" in text] == []
    assert host.program_runs().status == 0


def test_credentials_are_where_root_alone_reads_them(host: Host) -> None:
    # Quotes, dollars and commands are data.
    secret = "s'e\"c $HOME $(touch pwned) `touch pwned` \\ret"
    done = host.install("-vvv", "--diff", schedule_environment={"AWS_SECRET_ACCESS_KEY": secret}, schedule_variables={"password": "hush-hush"})
    assert "hush-hush" not in done.output
    assert "touch pwned" not in done.output
    holding = {path for path, text in host.files().items() if "pwned" in text or "hush-hush" in text}
    assert holding == {host.folder / "environment", host.folder / "variables.json"}
    assert {path.stat().st_mode & 0o7777 for path in holding} == {0o600}
    assert host.folder.stat().st_mode & 0o7777 == 0o700
    assert host.checkout.stat().st_mode & 0o7777 == 0o700

    assert host.program_runs().status == 0
    got = (host.root.parent / "environment").read_bytes().decode().split("\0")
    assert f"AWS_SECRET_ACCESS_KEY={secret}" in got
    assert list(host.root.parent.rglob("pwned")) == []
    assert "secret" not in "".join(called(host))
    assert "pwned" not in host.log.read_text()
    assert host.log.stat().st_mode & 0o7777 == 0o600


def test_wrong_options_are_named_and_nothing_is_installed(host: Host) -> None:
    before = host.files()
    wrong = {
        "schedule_name": "a.b",
        "schedule_repository": "ext::sh -c touch% pwned",
        "schedule_ref": "--upload-pack=x",
        "schedule_checkout": "/",
        "schedule_playbook": "../update.yml",
        "schedule_inventory": "a b",
        "schedule_log_file": "/var/log/../../etc/passwd",
        "schedule_ansible_bin": "bin",
        "schedule_environment": {"A": "b\nLD_PRELOAD=c"},
        "schedule_environment_file": "x\n",
        "schedule_arguments": ["-o"],
        "schedule_jitter": 60,
        "schedule_time_limit": 0,
        "schedule_kill_after": 0,
        "schedule_git_time_limit": 0,
        "schedule_log_size": 0,
    }
    done = host.run(**wrong)
    assert done.status != 0
    for name in wrong:
        assert f"{name} must " in done.text, name
    for repository in ("", "https://somebody:secret@git.example.com/x.git"):
        done = host.run(schedule_repository=repository)
        assert done.status != 0
        assert "schedule_repository must " in done.text
        assert "secret" not in done.output
    done = host.run(schedule_ansible_bin="/nowhere/at/all")
    if not shutil.which("ansible-pull", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
        assert done.status != 0
        assert "ansible-playbook, ansible-pull" in done.text
        assert "schedule_ansible_bin" in done.text
    assert host.files() == before


def test_a_host_with_neither_systemd_nor_cron_is_refused(host: Host) -> None:
    (host.root / "etc" / "cron.d").rmdir()
    done = host.run()
    assert done.status != 0
    assert "neither a running systemd nor cron" in done.text
    assert not host.program.exists()


def test_the_units_are_what_systemd_takes_and_leave_haproxy_alone(host: Host, tmp_path: Path) -> None:
    host.with_systemd()
    host.install()
    assert f"start {NAME}.timer" in host.systemctl_calls()
    host.install(schedule_interval=5, schedule_jitter=7)
    service, timer = host.service.read_text(), host.timer.read_text()
    assert "\nType=oneshot\n" in service
    assert "\nKillMode=process\n" in service
    assert f"\nSyslogIdentifier={NAME}\n" in service
    assert f"\nExecStart={host.program}\n" in service
    # A HAProxy that is started in a run would live with it.
    assert not re.search(r"^(Private|Protect|NoNewPrivileges|RuntimeMaxSec)", service, re.MULTILINE)
    assert "\nOnCalendar=*:0/5\n" in timer
    assert "\nRandomizedDelaySec=7\n" in timer
    # What the program says is the journal's.
    assert "exec >>" not in host.program.read_text()
    calls = host.systemctl_calls()
    assert f"enable {NAME}.timer" in calls
    assert f"restart {NAME}.timer" in calls
    # New times are taken by a restart only.
    assert calls[-1] == f"restart {NAME}.timer"

    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("systemd-analyze is not here")
    done = subprocess.run([analyze, "verify", host.service, host.timer], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("mode", ["pull", "fetch"])
def test_the_program_is_a_clean_shell_script(host: Host, mode: str) -> None:
    host.install(schedule_mode=mode, schedule_environment={"A": 1}, schedule_environment_file="/etc/some/file", schedule_arguments=["--tags", "a 'b' $c"])
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # Quotes and dollars of an argument stay what they are.
    done = subprocess.run([shellcheck, "--exclude=SC2016", host.program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


# What a run does.


def test_a_run_calls_ansible_with_what_the_role_was_given(host: Host) -> None:
    host.install(schedule_arguments=["--tags", "a 'b' $HOME"], schedule_variables={"v": 1}, schedule_inventory="inventory/hosts.yml")
    done = host.program_runs()
    assert done.status == 0
    words = called(host)
    assert words[0] == "ansible-pull"
    assert "-f" in words
    assert not {"-o", "--only-if-changed"} & set(words)
    assert words[words.index("--checkout") + 1] == "main"
    assert words[words.index("--inventory") + 1] == f"{host.checkout}/inventory/hosts.yml"
    assert words[words.index("--tags") + 1 :] == ["a 'b' $HOME", "playbooks/update.yml"]
    extra = words[words.index("--extra-vars") + 1]
    assert json.loads(Path(extra.removeprefix("@")).read_text()) == {"v": 1}


@pytest.mark.parametrize("status", [0, 1, 4])
def test_the_exit_status_is_the_playbooks_and_is_in_the_log(host: Host, status: int) -> None:
    host.install()
    behave(host, f"exit {status}")
    assert host.program_runs().status == status
    last = host.log.read_text().splitlines()[-1]
    assert "has succeeded" in last if status == 0 else f"FAILED with exit status {status}" in last


def test_a_run_that_finds_another_one_at_work_leaves_and_has_not_failed(host: Host) -> None:
    host.install()
    host.program_runs()
    called(host)
    with host.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert host.program_runs().status == 0
        assert called(host) == []
        assert "another run is at work" in host.log.read_text().splitlines()[-1]
    assert host.program_runs().status == 0
    assert called(host)
    # Who can open a file can lock it.
    assert host.lock.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(("hangs", "status"), [("exec sleep 300", 124), ("trap '' TERM; sleep 300; sleep 300", 137)], ids=["hangs", "does not listen"])
def test_a_run_that_hangs_is_ended_and_the_next_goes_on_and_a_daemon_that_it_started_lives(host: Host, hangs: str, status: int) -> None:
    host.install(schedule_time_limit=1, schedule_kill_after=1)
    # A daemon as HAProxy is one: a session of its own, started by the run.
    behave(host, f"echo $$ >hanging; setsid sh -c 'echo $$ >daemon; exec sleep 300' & {hangs}")
    done = host.program_runs()
    daemon = int((host.root.parent / "daemon").read_text())
    try:
        assert done.status == status
        assert re.search(
            rf"FAILED: it was (ended|killed), .*after its time limit of 1 seconds, exit status {status}",
            host.log.read_text().splitlines()[-1].replace("ended", "ended,"),
        )
        host.until(lambda: has_ended(int((host.root.parent / "hanging").read_text())))
        assert not has_ended(daemon)
        called(host)
        behave(host, "")
        assert host.program_runs().status == 0
        assert called(host)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_run_that_is_stopped_from_outside_takes_its_children_along(host: Host) -> None:
    host.install()
    behave(host, "echo $$ >hanging; exec sleep 300")
    run = subprocess.Popen([host.program], stdin=subprocess.DEVNULL)
    hanging = host.root.parent / "hanging"
    host.until(lambda: hanging.exists() and hanging.read_text().strip() != "")
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(timeout=30) != 0
    host.until(lambda: has_ended(int(hanging.read_text())))
    assert "FAILED" in host.log.read_text().splitlines()[-1]


def test_a_file_with_the_environment_that_others_can_read_is_refused(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "theirs"
    file.write_text("# Keys\n\nAWS_PROFILE=a profile\nLAST=line")
    file.chmod(0o640)
    host.install(schedule_environment_file=str(file))
    assert host.program_runs().status == 1
    assert called(host) == []
    assert "others than its owner can read it" in host.log.read_text()

    file.chmod(0o600)
    assert host.program_runs().status == 0
    got = (tmp_path / "environment").read_bytes().decode().split("\0")
    assert {"AWS_PROFILE=a profile", "LAST=line"} <= set(got)
    called(host)

    for wrong in ("export A=b", "A-B=c", "1A=b", "=b", "text"):
        file.write_text(f"{wrong}\n")
        assert host.program_runs().status == 1, wrong
        assert called(host) == []
        assert host.log.read_text().splitlines()[-1].endswith("has a line that is no NAME=value")
    file.unlink()
    assert host.program_runs().status == 1
    assert called(host) == []


def test_a_log_that_has_grown_is_put_aside_and_what_is_said_is_still_there(host: Host) -> None:
    host.install(schedule_log_size=300)
    behave(host, "seq 100")
    host.program_runs()
    first = host.log.read_text()
    host.program_runs()
    aside = host.log.with_name(f"{host.log.name}.1")
    assert aside.read_text() == first
    assert host.log.read_text().count("begins") == 1
    assert {path.stat().st_mode & 0o7777 for path in (host.log, aside)} == {0o600}


# Git, in the mode fetch.


def test_each_run_is_at_the_ref_over_local_changes_and_left_locks(host: Host, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    host.install(schedule_mode="fetch")
    assert host.program_runs().status == 0
    assert called(host)[0] == "ansible-playbook"
    assert checked_out(host) == "first"

    commit(repository, {"playbooks/update.yml": "second"})
    (host.checkout / "playbooks" / "update.yml").write_text("local")
    (host.checkout / ".git" / "index.lock").touch()
    assert host.program_runs().status == 0
    assert checked_out(host) == "second"
    assert "WARNING" not in host.log.read_text()

    # History that was written anew, and a tag.
    subprocess.run(["git", "tag", "good"], cwd=repository, check=True)
    commit(repository, {"playbooks/update.yml": "third"}, "--amend")
    assert host.program_runs().status == 0
    assert checked_out(host) == "third"
    host.install(schedule_mode="fetch", schedule_ref="good")
    assert host.program_runs().status == 0
    assert checked_out(host) == "second"


def test_without_git_a_run_goes_on_with_what_is_there(host: Host, tmp_path: Path) -> None:
    host.install(schedule_mode="fetch", schedule_git_time_limit=1)
    assert host.program_runs().status == 0
    called(host)
    (tmp_path / "repository").rename(tmp_path / "gone")
    assert host.program_runs().status == 0
    assert called(host)[0] == "ansible-playbook"
    assert checked_out(host) == "first"
    assert "WARNING: 'main' could not be fetched from git" in host.log.read_text()

    # One that does not answer at all.
    silent = {"GIT_SSH_COMMAND": "sleep 300 #"}
    host.install(schedule_mode="fetch", schedule_git_time_limit=1, schedule_repository="ssh://127.0.0.1/silent", schedule_environment=silent)
    assert host.program_runs().status == 0
    assert called(host)[0] == "ansible-playbook"
    assert host.log.read_text().count("WARNING: 'main' could not be fetched from git") == 2


# The documents.


def test_the_documents_have_each_variable_with_its_default() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items()} == defaults
    rows = re.findall(r"^\| `(schedule_\w+)` \| (.*?) \| (.+?) \|$", (ROLE / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _default, _meaning in rows] == list(defaults)
    for name, default, _meaning in rows:
        if not isinstance(defaults[name], str) or "{{" not in defaults[name]:
            assert yaml.safe_load(default.strip("`")) == defaults[name], name
    for document in (ROLE / "README.md", ROOT / "docs" / "ansible-pull.md", ROOT / "playbooks" / "schedule.yml"):
        named = set(re.findall(r"\bschedule_[a-z_]+\b", document.read_text()))
        assert named <= set(defaults), document


def test_the_blocks_of_the_page_set_what_the_role_takes() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "ansible-pull.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        for name, value in yaml.safe_load(block).items():
            assert type(value) is type(defaults[name]), name
