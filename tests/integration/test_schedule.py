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
from ansible_cores import cores
from balancer import ROOT, has_ended
from scheduled import NAME, ROLE, Host, commit, make_repository

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


@pytest.mark.timeout(900)
def test_with_systemd_a_second_run_changes_nothing_and_new_times_are_taken(host: Host) -> None:
    host.with_systemd()
    # A line that was written by hand gives way: it has the schedule's lock.
    host.entry.write_text(f"* * * * * root flock -n {host.root}/run/{NAME}.lock ansible-pull -U https://git.example.com/x.git\n")
    before = host.files()
    # Quotes, dollars and commands are data.
    secret = "s'e\"c $HOME $(touch pwned) `touch pwned` \\ret"
    more: dict[str, Any] = {"schedule_environment": {"AWS_SECRET_ACCESS_KEY": secret}, "schedule_variables": {"password": "hush-hush"}}
    expected = host.install("--check", **more)
    assert host.files() == before
    assert expected.recap["changed"] > 0

    done = host.install("-vvv", "--diff", **more)
    assert (host.entry.exists(), host.timer.exists(), host.service.exists()) == (False, True, True)
    assert "hush-hush" not in done.output
    assert "touch pwned" not in done.output
    holding = {path for path, text in host.files().items() if "pwned" in text or "hush-hush" in text}
    assert holding == {host.folder / "environment", host.folder / "variables.json"}
    assert {path.stat().st_mode & 0o7777 for path in holding} == {0o600}
    assert [path.stat().st_mode & 0o7777 for path in (host.folder, host.checkout, host.program)] == [0o700] * 3
    calls = host.systemctl_calls()
    assert calls.index("daemon-reload") < calls.index(f"enable {NAME}.timer")
    assert f"start {NAME}.timer" in calls
    # What the program says is the journal's.
    assert "exec >>" not in host.program.read_text()

    # A running timer takes new times by a restart only.
    more |= {"schedule_interval": 5, "schedule_jitter": 7}
    assert host.install(**more).recap["changed"] == 2
    assert host.systemctl_calls()[-1] == f"restart {NAME}.timer"
    verify_units(host)
    installed = host.files()
    again = host.install(**more)
    assert again.recap["changed"] == 0, again.output
    assert host.files() == installed


@pytest.mark.timeout(900)
def test_the_other_scheduler_has_nothing_left_and_absent_removes_all(host: Host) -> None:
    host.with_systemd()
    before = host.files()
    host.place(schedule_environment={"KEY": "hush-hush"}, schedule_variables={"password": "hush-hush"})
    host.has_a_timer()
    # Keys that are not given any more do not stay on the disk, either.
    host.install(schedule_scheduler="cron")
    assert (host.entry.exists(), host.timer.exists(), host.service.exists()) == (True, False, False)
    assert host.systemctl_calls()[-1] == "daemon-reload"
    assert f"stop {NAME}.timer" in host.systemctl_calls()
    assert [path for path, text in host.files().items() if "hush-hush" in text] == []
    assert host.program_runs().status == 0
    host.log.with_name(f"{host.log.name}.1").touch()
    theirs = host.folder / "deploy-key"
    theirs.write_text("theirs")

    host.has_a_timer()
    assert host.install("--check", schedule_state="absent").recap["changed"] > 0
    assert host.entry.exists()
    assert host.timer.exists()
    host.install(schedule_state="absent")
    assert host.files() == {**before, theirs: "theirs"}
    assert not host.checkout.exists()
    assert host.systemctl_calls().count(f"stop {NAME}.timer") == 2
    assert host.systemctl_calls()[-1] == "daemon-reload"
    # Its folder goes when nobody else has anything in it; of all else nothing is left to change.
    theirs.unlink()
    assert host.install(schedule_state="absent").recap["changed"] == 1
    assert not host.folder.exists()


def verify_units(host: Host) -> None:
    service, timer = host.service.read_text(), host.timer.read_text()
    assert "\nType=oneshot\n" in service
    assert "\nKillMode=process\n" in service
    assert f"\nSyslogIdentifier={NAME}\n" in service
    assert f"\nExecStart={host.program}\n" in service
    # Behind the run's own limits: 600 and 30 seconds, and 30 for git.
    assert int(re.findall(r"^TimeoutStartSec=(\d+)$", service, re.MULTILINE)[0]) > 660
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", service, re.MULTILINE)[0]) > 30
    # A HAProxy that is started in a run would live with it.
    assert not re.search(r"^(Private|Protect|NoNewPrivileges|RuntimeMaxSec)", service, re.MULTILINE)
    assert "\nOnCalendar=*:0/5\n" in timer
    assert "\nRandomizedDelaySec=7\n" in timer
    analyze = shutil.which("systemd-analyze")
    if analyze:
        done = subprocess.run([analyze, "verify", host.service, host.timer], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("core", "mode"), [pytest.param("2.16", "pull", marks=pytest.mark.full), pytest.param("2.19", "fetch", marks=pytest.mark.full), ("2.21", "fetch")]
)
def test_each_ansible_core_installs_what_the_other_tests_have(host: Host, core: str, mode: str) -> None:
    if core not in cores():
        pytest.skip(f"ansible-core {core} is not here")
    more: dict[str, Any] = {
        "schedule_mode": mode,
        "schedule_environment": {"B": 1, "A": "it's"},
        "schedule_environment_file": "/etc/some/file",
        "schedule_variables": {"b": {"d": [1, "x"]}, "a": "it's"},
        "schedule_arguments": ["--tags", "a 'b' $c"],
    }
    host.place(**more)
    again = host.install(bin_dir=cores()[core], **more)
    assert again.recap["changed"] == 0, again.output


def test_wrong_options_are_named_and_nothing_is_installed(host: Host) -> None:
    before = host.files()
    wrong = {
        "schedule_name": "a.b",
        "schedule_repository": "",
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
    done = host.run(schedule_repository="https://somebody:secret@git.example.com/x.git")
    assert done.status != 0
    assert "schedule_repository must " in done.text
    assert "secret" not in done.output
    # Neither is anything put before a program or a unit of the same name, nor removed with it.
    haproxy = host.root / "usr" / "sbin" / "haproxy"
    haproxy.parent.mkdir(parents=True, exist_ok=True)
    haproxy.write_text("HAProxy")
    for state in ("present", "absent"):
        done = host.run(schedule_name="haproxy", schedule_state=state)
        assert done.status != 0
        assert f"for 'haproxy' there is {haproxy}, which is not the schedule's" in done.text
    hidden = host.root / ".venv"
    hidden.symlink_to(haproxy.parent)
    done = host.run(schedule_name="haproxy", schedule_ansible_bin=str(hidden))
    assert f"there is {hidden}/haproxy, {haproxy}, which" in done.text
    hidden.unlink()
    haproxy.unlink()
    haproxy.parent.rmdir()
    assert host.files() == before


def test_only_addresses_without_a_password_and_arguments_without_only_if_changed_are_taken() -> None:
    variables = yaml.safe_load((ROLE / "tasks" / "preflight.yml").read_text())[0]["vars"]
    url = re.compile(variables["__schedule_url"])
    for good in ("https://git.example.com:8443/a/b.git", "ssh://git@git.example.com:22/a.git", "git@git.example.com:a/b.git", "file:///srv/a.git", "/srv/a"):
        assert url.match(good), good
    for bad in (
        "https://somebody:secret@git.example.com/x.git",
        "https://token@git.example.com/x.git",
        "HTTP://token@git.example.com/x.git",
        "ssh://somebody:secret@git.example.com/x.git",
        "ext::sh -c touch% pwned",
        "ext::touch",
        "--upload-pack=x",
        "https://git.example.com/a b",
        "https://git.example.com/a\n",
        "",
    ):
        assert not url.match(bad), bad
    only_if_changed = re.compile(variables["__schedule_only_if_changed"])
    assert all(only_if_changed.match(bad) for bad in ("-o", "-vo", "-fo", "--only-if-changed", "--only"))
    assert not any(only_if_changed.match(good) for good in ("-v", "-e", "--tags", "--limit", "one"))


def test_a_host_that_could_not_run_it_is_refused(host: Host) -> None:
    (host.root / "etc" / "cron.d").rmdir()
    done = host.run()
    assert done.status != 0
    assert "neither a running systemd nor cron" in done.text
    (host.root.parent / "bin" / "ansible-pull").unlink()
    if not shutil.which("ansible-pull", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
        done = host.run()
        assert done.status != 0
        assert re.search(r"These programs are not in \S+: ansible-pull\. Where", done.text)
        assert "schedule_ansible_bin" in done.text
    assert not host.program.exists()


@pytest.mark.parametrize("mode", ["pull", "fetch"])
def test_the_program_is_a_clean_shell_script(host: Host, mode: str) -> None:
    host.place(schedule_mode=mode, schedule_environment={"A": 1}, schedule_environment_file="/etc/some/file", schedule_arguments=["--tags", "a 'b' $c"])
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # Quotes and dollars of an argument stay what they are.
    done = subprocess.run([shellcheck, "--exclude=SC2016", host.program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


# What a run does.


def test_a_run_calls_ansible_with_what_the_role_was_given(host: Host) -> None:
    host.place(schedule_arguments=["--tags", "a 'b' $HOME"], schedule_variables={"v": 1}, schedule_inventory="inventory/hosts.yml")
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


def test_credentials_reach_the_run_and_neither_command_lines_nor_the_log(host: Host) -> None:
    secret = "s'e\"c $HOME $(touch pwned) `touch pwned` \\ret"
    host.place(schedule_environment={"AWS_SECRET_ACCESS_KEY": secret})
    assert host.program_runs().status == 0
    got = (host.root.parent / "environment").read_bytes().decode().split("\0")
    assert f"AWS_SECRET_ACCESS_KEY={secret}" in got
    assert list(host.root.parent.rglob("pwned")) == []
    assert "pwned" not in "".join(called(host))
    assert "pwned" not in host.log.read_text()
    assert host.log.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("status", [0, 1, 4])
def test_the_exit_status_is_the_playbooks_and_is_in_the_log(host: Host, status: int) -> None:
    host.place()
    behave(host, f"exit {status}")
    assert host.program_runs().status == status
    last = host.log.read_text().splitlines()[-1]
    assert "has succeeded" in last if status == 0 else f"FAILED with exit status {status}" in last


def test_a_run_that_finds_another_one_at_work_leaves_and_has_not_failed(host: Host) -> None:
    host.place()
    # One that everybody may open, as a cron line that was written by hand makes it.
    host.lock.touch(0o644)
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
    host.place(schedule_time_limit=1, schedule_kill_after=1)
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
    host.place()
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
    host.place(schedule_environment_file=str(file))
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
    host.place(schedule_log_size=300)
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
    host.place(schedule_mode="fetch")
    assert host.program_runs().status == 0
    assert called(host)[0] == "ansible-playbook"
    assert checked_out(host) == "first"

    commit(repository, {"playbooks/update.yml": "second"})
    (host.checkout / "playbooks" / "update.yml").write_text("local")
    for left in ("index.lock", "config.lock", "refs/heads/main.lock"):
        (host.checkout / ".git" / left).touch()
    assert host.program_runs().status == 0
    assert checked_out(host) == "second"
    assert "WARNING" not in host.log.read_text()

    # History that was written anew, and a tag.
    subprocess.run(["git", "tag", "good"], cwd=repository, check=True)
    commit(repository, {"playbooks/update.yml": "third"}, "--amend")
    assert host.program_runs().status == 0
    assert checked_out(host) == "third"
    host.place(schedule_mode="fetch", schedule_ref="good")
    assert host.program_runs().status == 0
    assert checked_out(host) == "second"
    # A commit, in full.
    first = subprocess.run(["git", "rev-list", "--max-parents=0", "HEAD"], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()
    host.place(schedule_mode="fetch", schedule_ref=first)
    assert host.program_runs().status == 0
    assert checked_out(host) == "first"
    assert "WARNING" not in host.log.read_text()


def test_without_git_a_run_goes_on_with_what_is_there(host: Host, tmp_path: Path) -> None:
    host.place(schedule_mode="fetch", schedule_git_time_limit=1)
    assert host.program_runs().status == 0
    called(host)
    (tmp_path / "repository").rename(tmp_path / "gone")
    assert host.program_runs().status == 0
    assert called(host)[0] == "ansible-playbook"
    assert checked_out(host) == "first"
    assert "WARNING: 'main' could not be fetched from git" in host.log.read_text()

    # One that does not answer at all.
    silent = {"GIT_SSH_COMMAND": "sleep 300 #"}
    host.place(schedule_mode="fetch", schedule_git_time_limit=1, schedule_repository="ssh://127.0.0.1/silent", schedule_environment=silent)
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
