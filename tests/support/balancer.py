# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""A balancer on loopback: a real HAProxy in a folder of its own, and the role run against it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


@functools.lru_cache(maxsize=None)  # noqa: UP033 (Python 3.8 has no shorter one)
def _ports() -> Iterator[int]:
    """The ports of this process of the tests, in an order of its own, round and round: none that another process of the tests has, none that
    the kernel gives to a connection, and none a second time soon. HAProxy shares a port with another HAProxy, and with another listener of its
    own, without a word, so two that were given the same one would answer by turns."""
    first = 20000 + 1500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
    return itertools.cycle(random.sample(range(first, first + 1500), 1500))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on just now, and that nobody else here was given lately."""
    for port in itertools.islice(_ports(), 1500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError(f"none of this process's ports can be had on {host}")


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is one that only nobody has asked for its exit status yet: such a one has no sockets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def ask(path: Path | str, command: str) -> str:
    """One command to a HAProxy socket, and its answer: the tests' own, so that they do not trust the code they test."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def run(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
    """Run a program as a module's run_command does."""
    done = subprocess.run(list(words), env={**os.environ, **environment}, input=data, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Run(NamedTuple):
    """What a run of Ansible left: exit status, everything it printed, and the host's line of the recap."""

    status: int
    output: str

    @property
    def recap(self) -> dict[str, int]:
        line = re.search(r"^localhost\s*: (.*)$", self.output, re.MULTILINE)
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line.group(1))} if line else {}

    @property
    def text(self) -> str:
        """The output with white space folded, to look for a sentence in."""
        return " ".join(self.output.split())


class Balancer:
    """A folder with a configuration file, pid file, sockets and state, and the HAProxy that runs in it."""

    def __init__(self, folder: Path, binary: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.binary = binary
        self.binary_version = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
        self.environment = dict(environment or {})
        self.config = folder / "haproxy.cfg"
        self.pid_file = folder / "haproxy.pid"
        self.master_socket = folder / "master.sock"
        self.stats_socket = folder / "stats.sock"
        self.state = folder / "state"
        self.port = free_port()

    # What it is given.

    def text(self, *servers: str, global_lines: str = "", bind: str = "", backend: str = "") -> str:
        """A small configuration; each server is "name address:port" and what may follow."""
        lines = "".join(f"    server {server}\n" for server in servers)
        return (
            "global\n"
            f"    stats socket {self.stats_socket} mode 600 level admin expose-fd listeners\n{global_lines}"
            "defaults\n    mode http\n    timeout connect 1s\n    timeout client 10s\n    timeout server 10s\n"
            "    option idle-close-on-response\n"
            f"frontend web\n    bind {bind or f'127.0.0.1:{self.port}'}\n    default_backend web\n"
            f"backend web\n{backend}{lines}"
        )

    def variables(self, backend_port: int, **more: Any) -> dict[str, Any]:
        """The role's variables for this folder, one service on the group webheads."""
        return {
            "haproxy_autoscale_security_groups": ["webheads"],
            "haproxy_autoscale_services": [
                {
                    "name": "webheads",
                    "security_groups": ["webheads"],
                    "bind": [f"127.0.0.1:{self.port}"],
                    "port": backend_port,
                }
            ],
            "haproxy_autoscale_config_path": str(self.config),
            "haproxy_autoscale_pid_file": str(self.pid_file),
            "haproxy_autoscale_state_dir": str(self.state),
            "haproxy_autoscale_master_socket": str(self.master_socket),
            "haproxy_autoscale_stats_socket": str(self.stats_socket),
            "haproxy_autoscale_binary": self.binary,
            "haproxy_autoscale_user": "",
            "haproxy_autoscale_group": "",
            "haproxy_autoscale_chroot": "",
            "haproxy_autoscale_log": "",
            "haproxy_autoscale_retries": 1,
            "haproxy_autoscale_timeout": 2,
            **more,
        }

    # The role.

    def run(self, variables: Mapping[str, Any], *arguments: str, playbook: Path | None = None, ansible: str = "") -> Run:
        """Run the role by playbooks/update.yml, or another playbook, with the ansible-playbook and the Python of this environment, or with those that
        CONTROLLER and MANAGED_PYTHON name."""
        extra = self.folder / "variables.json"
        text = json.dumps(dict(variables))
        # Two runs at once may share it.
        if not extra.exists() or extra.read_text() != text:
            extra.write_text(text)
        command = [
            ansible or os.environ.get("CONTROLLER") or str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            "localhost,",
            "-c",
            "local",
            "-e",
            f"ansible_python_interpreter={os.environ.get('MANAGED_PYTHON', '{{ansible_playbook_python}}')}",
            "-e",
            f"@{extra}",
            *arguments,
            str(playbook or ROOT / "playbooks" / "update.yml"),
        ]
        environment = {**os.environ, **self.environment, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_FAILED_STDERR": "0"}
        done = subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
        return Run(done.returncode, done.stdout)

    # The process.

    def start(self, text: str, master: bool = True) -> None:
        """Write `text` and start HAProxy on it, by hand."""
        self.config.write_text(text)
        # A file as old as one that a balancer has run for a while.
        os.utime(self.config, (time.time() - 60, time.time() - 60))
        words = [self.binary, "-D", "-f", str(self.config), "-p", str(self.pid_file)]
        if master:
            words += ["-W", "-S", str(self.master_socket)]
        subprocess.run(words, check=True, capture_output=True, timeout=20)
        self.until_it_serves()

    def pid(self) -> int:
        return int(self.pid_file.read_text().split()[0])

    def until_it_serves(self) -> None:
        for _attempt in range(100):
            try:
                ask(self.stats_socket, "show info")
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("HAProxy does not serve")

    def worker(self) -> int:
        """The process that answers on the statistics socket."""
        try:
            found = re.search(r"^Pid: (\d+)$", ask(self.stats_socket, "show info"), re.MULTILINE)
        except ConnectionRefusedError:
            found = self._worker_by_master()
        assert found
        return int(found.group(1))

    def _worker_by_master(self) -> re.Match[str] | None:
        # On 3.2 a reload that fails can take the old worker's socket away; the master still leads to it.
        return re.search(r"^(\d+)\s+worker", ask(self.master_socket, "show proc"), re.MULTILINE)

    def reloads(self) -> int:
        """How often the master was reloaded, by its own count."""
        found = re.search(r"^\d+\s+master\s+(\d+)", ask(self.master_socket, "show proc"), re.MULTILINE)
        assert found
        return int(found.group(1))

    def old_workers(self) -> list[int]:
        """The workers that only finish their connections, by the master's own account."""
        old = ask(self.master_socket, "show proc").partition("# old workers")[2].partition("# programs")[0]
        return [int(pid) for pid in re.findall(r"^(\d+)\s+worker", old, re.MULTILINE)]

    def rows(self) -> list[list[str]]:
        """The servers that the process has, the columns of `show servers state`."""
        try:
            answer = ask(self.stats_socket, "show servers state")
        except ConnectionRefusedError:
            worker = self._worker_by_master()
            assert worker
            answer = ask(self.master_socket, f"@!{worker.group(1)} show servers state")
        return [line.split(" ") for line in answer.splitlines()[2:] if line]

    def servers(self) -> dict[str, str]:
        """The servers that the process has: name to address:port."""
        return {row[3]: f"{row[4]}:{row[18]}" for row in self.rows()}

    def admin_states(self) -> dict[str, int]:
        """The administrative state of each server: 0 when nothing was set."""
        return {row[3]: int(row[6]) for row in self.rows()}

    def get(self, path: str = "/") -> str:
        """One request on a connection of its own; the body of a 200, else "status N"."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == 200 else f"status {answer.status}"
        finally:
            connection.close()

    def reached(self, requests: int = 24) -> set[str]:
        """Who answers to a row of requests."""
        return {self.get().strip() for _number in range(requests)}

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds, a while at most."""
        for _attempt in range(100):
            if true():
                return
            time.sleep(0.1)
        raise AssertionError(f"it never came; the servers are {self.rows()}")

    def until_all_serve(self, addresses: set[str]) -> None:
        """Wait until exactly these answer."""
        self.until(lambda: self.reached() == addresses)

    def stop(self) -> None:
        """End every HAProxy that runs this folder's file, by id, and wait until it listens no more: what connects meanwhile to the next one at
        the same port could still be put into its queue, and be reset."""
        killed = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self._runs_our_file(entry):
                killed.append(int(entry.name))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)
        for _attempt in range(100):
            if all(has_ended(pid) for pid in killed):
                return
            time.sleep(0.05)
        raise AssertionError(f"HAProxy still runs {self.config}")

    def _runs_our_file(self, entry: Path) -> bool:
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return str(self.config).encode() in words and b"-D" in words
