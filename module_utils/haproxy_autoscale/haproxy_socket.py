# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Talk to HAProxy's command line (Management Guide, chapter 9 "Unix Socket commands") and read its answers."""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from .haproxy_config import Server


class SocketError(Exception):
    """HAProxy's socket could not be reached, did not answer in time, or answered something unexpected."""


class Worker(NamedTuple):
    pid: int
    version: str


class Workers(NamedTuple):
    """The answer of the master's `show proc`: its own pid and counters, and the workers, the one that takes new
    connections first among `current`."""

    master_pid: int
    reloads: int
    failed_reloads: int
    current: list[Worker]
    old: list[Worker]

    @property
    def serving(self) -> Worker | None:
        """The worker that takes new connections. After a failed reload HAProxy 3.2 lists it under "# old workers" and
        leaves "# workers" empty; it is the youngest of those then."""
        if self.current:
            return self.current[0]
        return self.old[0] if self.old else None


def send(path: str, command: str, timeout: float) -> str:
    """Send `command` to the socket at `path` and return the whole answer; `timeout` is in seconds for each step.

    The master's socket keeps the connection open after an answer, so our half is closed after sending: HAProxy
    then answers and closes. Raises SocketError with the path and the reason.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(command.encode("ascii") + b"\n")
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while True:
                part = connection.recv(65536)
                if not part:
                    break
                parts.append(part)
    except (OSError, UnicodeError) as error:
        raise SocketError(f"{path}: {command!r}: {error or type(error).__name__}") from error
    return b"".join(parts).decode("utf-8", "replace")


def parse_show_proc(answer: str) -> Workers:
    """Read the answer of the master's `show proc` (Management Guide, 9.4). Raises SocketError when it is none."""
    master = reloads = failed = 0
    workers: dict[str, list[Worker]] = {"# workers": [], "# old workers": []}
    section = ""
    for line in answer.splitlines():
        if line.startswith("# "):
            section = line.strip()
            continue
        found = re.match(r"(\d+)\s+(master|worker)\s+(\d+)(?:\s+\[failed: (\d+)\])?\s+\S+\s+(\S+)", line)
        if found is None:
            continue
        pid, kind, count, failures, version = found.groups()
        if kind == "master":
            master, reloads, failed = int(pid), int(count), int(failures or 0)
        elif section in workers:
            workers[section].append(Worker(int(pid), version))
    if not master:
        raise SocketError(f"'show proc' was answered with {answer.strip()[:200]!r}")
    return Workers(master, reloads, failed, workers["# workers"], workers["# old workers"])


def parse_show_info(answer: str) -> dict[str, str]:
    """Read the answer of `show info` into a dict (Management Guide, 9.3). Raises SocketError when it is none."""
    found = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
    if not found.get("Pid", "").isdigit() or "Version" not in found:
        raise SocketError(f"'show info' was answered with {answer.strip()[:200]!r}")
    return found


def parse_servers_state(answer: str) -> dict[str, list[Server]]:
    """Read the answer of `show servers state` (Management Guide, 9.3) into servers by backend.

    HAProxy's own hidden backends (`<HTTPCLIENT>` and the like) are left out. Raises SocketError when the answer is
    not a state file of format 1, or not a whole one.
    """
    lines = answer.rstrip("\n").split("\n")
    if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# "):
        raise SocketError(f"'show servers state' was answered with {answer.strip()[:200]!r}")
    columns = {name: number for number, name in enumerate(lines[1][2:].split(" "))}
    wanted = [columns.get(name, -1) for name in ("be_name", "srv_name", "srv_addr", "srv_port", "srv_fqdn")]
    if min(wanted) < 0:
        raise SocketError(f"'show servers state' has unexpected columns: {lines[1]!r}")
    backend_at, name_at, address_at, port_at, fqdn_at = wanted
    servers: dict[str, list[Server]] = {}
    for line in lines[2:]:
        fields = line.split(" ")
        if len(fields) < len(columns) or not fields[port_at].isdigit():
            raise SocketError(f"'show servers state' has an unexpected line: {line!r}")
        if fields[backend_at].startswith("<"):
            continue
        fqdn = "" if fields[fqdn_at] == "-" else fields[fqdn_at]
        server = Server(fields[name_at], fields[address_at], int(fields[port_at]), (), fqdn)
        servers.setdefault(fields[backend_at], []).append(server)
    return servers
