# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with a schedule: a folder in place of /, the role run against it, and cron's way to call what the role has installed."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from balancer import ROOT, Run

ROLE = ROOT / "roles" / "schedule"
NAME = "haproxy-autoscale"
# Says what it was asked, and answers as a systemd that has just what it was told.
SYSTEMCTL = """#!/usr/bin/env python3
import pathlib, sys
words = [word for word in sys.argv[1:] if not word.startswith("-")]
state = pathlib.Path({state!r})
state.mkdir(exist_ok=True)
with open({calls!r}, "a") as calls:
    calls.write(" ".join(words) + "\\n")
verb, unit = words[0], words[1] if len(words) > 1 else ""
enabled, active = state / f"{{unit}}.enabled", state / f"{{unit}}.active"
if verb in ("enable", "start", "restart"):
    (enabled if verb == "enable" else active).touch()
elif verb in ("disable", "stop"):
    (enabled if verb == "disable" else active).unlink(missing_ok=True)
elif verb == "is-enabled":
    print("enabled" if enabled.exists() else "disabled")
    sys.exit(not enabled.exists())
elif verb == "show":
    print("LoadState=loaded\\nActiveState=" + ("active" if active.exists() else "inactive"))
"""


def commit(repository: Path, files: Mapping[str, str], *arguments: str) -> None:
    for name, text in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    person = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *person, "commit", "--quiet", "--message", "A change", *arguments], cwd=repository, check=True)


def make_repository(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    commit(folder, files)
    return folder


class Host:
    """What the role sees as the root of the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("etc/cron.d", "etc/systemd/system", "usr/local/sbin", "run", "var/log", "var/cache"):
            (root / name).mkdir(parents=True)
        self.program = root / "usr/local/sbin" / NAME
        self.entry = root / "etc/cron.d" / NAME
        self.service = root / "etc/systemd/system" / f"{NAME}.service"
        self.timer = root / "etc/systemd/system" / f"{NAME}.timer"
        self.folder = root / "etc" / NAME
        self.lock = root / "run" / f"{NAME}.lock"
        self.log = root / "var/log" / f"{NAME}.log"
        self.checkout = root / "var/cache" / NAME
        self.variables: dict[str, Any] = {"__schedule_root": str(root), "schedule_checkout": str(self.checkout)}
        self._path = os.environ["PATH"]

    # The role.

    def run(self, *arguments: str, bin_dir: Path = Path(sys.executable).parent, **variables: Any) -> Run:
        extra = self.root.parent / "variables.json"
        extra.write_text(json.dumps({**self.variables, **variables}))
        command = [bin_dir / "ansible-playbook", "-i", "localhost,", "-c", "local", "-e", f"@{extra}"]
        command += ["-e", "ansible_python_interpreter={{ansible_playbook_python}}", *arguments, ROOT / "playbooks" / "schedule.yml"]
        environment = {**os.environ, "PATH": self._path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_FAILED_STDERR": "0"}
        done = subprocess.run(command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        return Run(done.returncode, done.stdout)

    def install(self, *arguments: str, bin_dir: Path = Path(sys.executable).parent, **variables: Any) -> Run:
        done = self.run(*arguments, bin_dir=bin_dir, **variables)
        assert done.status == 0, done.output
        return done

    def place(self, **variables: Any) -> None:
        """Puts the files of a cron schedule there without Ansible, which takes a hundredth of the time. One test holds them against the role's."""
        given: dict[str, Any] = {"schedule_name": NAME, **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())}
        given |= yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
        given |= {"__schedule_chosen": "cron", "__schedule_log": "{{ schedule_log_file or __schedule_default_log }}", **self.variables, **variables}
        jinja = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
        jinja.filters["quote"] = lambda value: shlex.quote(str(value))
        while nested := {name: value for name, value in given.items() if name.startswith("__") and isinstance(value, str) and "{{" in value}:
            given |= {name: jinja.from_string(value.strip()).render(given) for name, value in nested.items()}

        for folder in (self.folder, self.checkout):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        wanted: dict[Path, tuple[int, str]] = {
            self.folder / "inventory.yml": (0o600, (ROLE / "files" / "inventory.yml").read_text()),
            self.program: (0o700, jinja.from_string((ROLE / "templates" / "run.sh.j2").read_text()).render(given)),
            self.entry: (0o644, jinja.from_string((ROLE / "templates" / "cron.j2").read_text()).render(given)),
        }
        for name, option, text in (
            ("variables.json", "schedule_variables", json.dumps(given["schedule_variables"], indent=4, sort_keys=True) + "\n"),
            ("environment", "schedule_environment", jinja.from_string((ROLE / "templates" / "environment.j2").read_text()).render(given)),
        ):
            if given[option]:
                wanted[self.folder / name] = 0o600, text
            else:
                (self.folder / name).unlink(missing_ok=True)
        for path, (mode, text) in wanted.items():
            path.write_text(text)
            path.chmod(mode)

    def with_systemd(self) -> None:
        """From now on the host is one that systemd runs."""
        (self.root / "run/systemd/system").mkdir(parents=True)
        bin = self.root.parent / "systemd"
        bin.mkdir()
        (bin / "systemctl").write_text(SYSTEMCTL.format(state=str(bin / "state"), calls=str(bin / "calls")))
        (bin / "systemctl").chmod(0o755)
        self._path = f"{bin}:{self._path}"

    def has_a_timer(self) -> None:
        """As a schedule that systemd ran has left it."""
        for path in (self.service, self.timer):
            path.write_text("# Written by the role autoscale.haproxy.schedule\n")
        for word in ("enable", "start"):
            subprocess.run([self.root.parent / "systemd" / "systemctl", word, f"{NAME}.timer"], check=True)

    def systemctl_calls(self) -> list[str]:
        return (self.root.parent / "systemd" / "calls").read_text().splitlines()

    def files(self) -> dict[Path, str]:
        return {path: path.read_text(errors="replace") for path in self.root.rglob("*") if path.is_file() and ".git" not in path.parts}

    # A run.

    def program_runs(self) -> Run:
        """One run as cron makes it: the command of the entry, given to its shell with the little that cron has in its environment."""
        if not self.entry.exists():
            done = subprocess.run([self.program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
            return Run(done.returncode, done.stdout)
        lines = [line for line in self.entry.read_text().splitlines() if not line.startswith("#")]
        settings = dict(line.split("=", 1) for line in lines[:-1])
        *times, user, command = lines[-1].split(maxsplit=6)
        assert (len(times), user) == (5, "root")
        assert self.entry.read_text().endswith("\n")
        me = pwd.getpwuid(os.getuid())
        environment = {"HOME": me.pw_dir, "LOGNAME": me.pw_name, **settings}
        # An unescaped percent sign would be a line break.
        assert "%" not in command
        done = subprocess.run(
            [settings["SHELL"], "-c", command],
            cwd=me.pw_dir,
            env=environment,
            input="",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        return Run(done.returncode, done.stdout)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds, a while at most."""
        for _attempt in range(100):
            if true():
                return
            time.sleep(0.1)
        raise AssertionError("it never came")
