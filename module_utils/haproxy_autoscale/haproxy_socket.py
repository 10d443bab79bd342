# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Talk to HAProxy's command line (Management Guide, chapter 9 "Unix Socket commands") and read its answers."""

from __future__ import annotations

import csv
import re
import socket
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .haproxy_config import Server


class SocketError(Exception):
    """HAProxy's socket could not be reached, did not answer in time, or answered something unexpected."""


class Worker(NamedTuple):
    pid: int
    version: str


# Bits of a server's administrative state (Management Guide 9.3, "show servers state"): what a command set, and all.
MAINTENANCE = 0x01
DRAIN = 0x08
# The configuration says `disabled`; MAINTENANCE comes with it and is no person's then.
DISABLED = 0x04
# How a server is: stopped or checked and found dead; alive and in its slow start; running.
STOPPED = 0
STARTING = 1
RUNNING = 2


class Command(NamedTuple):
    """One command, and the pattern that its answer has to match without the line ends behind it. Anything else is a failure."""

    text: str
    answer: str = ""


class ServerState(NamedTuple):
    """A server as the process has it (Management Guide 9.3, "show servers state"): the place it stands for, its
    operational and administrative state, the weight in use and the one that it began with, its numeric id, whether
    requests go to it over TLS, and where its checks go when that is not where its requests go (else 0 and "-")."""

    server: Server
    operational: int
    admin: int
    weight: int
    initial_weight: int
    id: int = 0
    tls: bool = False
    check_port: int = 0
    check_address: str = "-"

    @property
    def usable(self) -> bool:
        """Whether it takes new requests."""
        return self.operational in (STARTING, RUNNING) and self.admin == 0 and self.weight > 0


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
    """Send `command` to the socket at `path` and return the whole answer; `timeout` is in seconds for all of it.

    The master's socket keeps the connection open after an answer, so our half is closed after sending: HAProxy
    then answers and closes. Raises SocketError with the path and the reason.
    """
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(command.encode("ascii") + b"\n")
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while True:
                # Of an answer that trickles, each part comes in time. Not below a moment: 0 would mean not to wait at all.
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                part = connection.recv(65536)
                if not part:
                    break
                parts.append(part)
    except (OSError, UnicodeError) as error:
        raise SocketError(f"{path}: {command!r}: {error or type(error).__name__}") from error
    return b"".join(parts).decode("utf-8", "replace")


def split_answers(line: str, commands: Sequence[Command], answer: str) -> list[str]:
    """Cut the answer to commands that were sent on one `line` into theirs. Raises SocketError when one is no success.

    HAProxy carries out the rest of a line after a command that failed, and does not say whose answer is whose. An empty answer is an
    empty line; a text ends with one, too, but for 2.6's to `del server` (measured on 2.6, 3.0 and 3.2).
    """
    position, found = 0, []
    for command in commands:
        part = re.compile(rf"({command.answer})\n\n?" if command.answer else r"()\n").match(answer, position)
        if part is None:
            raise SocketError(f"{command.text!r} was answered with {answer[position:].strip()[:500]!r}")
        found.append(part.group(1))
        position = part.end()
    # An answer that was cut is no success, and one too many is not understood.
    if position != len(answer):
        raise SocketError(f"{line[:200]!r} was answered with {answer.strip()[:500]!r}")
    return found


def _whole(command: str, answer: str) -> str:
    """The answer, which HAProxy ends with an empty line (Management Guide, 9.3). Raises SocketError when it does not: half a
    list of servers looks like a list of fewer."""
    if not answer.endswith("\n\n"):
        raise SocketError(f"{command!r} was not answered to the end: {answer.strip()[-200:]!r}")
    return answer


def parse_show_proc(answer: str) -> Workers:
    """Read the answer of the master's `show proc` (Management Guide, 9.4). Raises SocketError when it is none."""
    master = reloads = failed = 0
    workers: dict[str, list[Worker]] = {"# workers": [], "# old workers": []}
    section = ""
    for line in _whole("show proc", answer).splitlines():
        if line.startswith("# "):
            section = line.strip()
            continue
        # 2.4 has one column more, the relative process id: "1", or "[was: 1]" of an old worker.
        found = re.match(r"(\d+)\s+(master|worker)\s+(?:(?:\d+|\[was: \d+\])\s+)?(\d+)(?:\s+\[failed: (\d+)\])?\s+\d+d\S+\s+(\S+)", line)
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
    found = dict(line.split(": ", 1) for line in _whole("show info", answer).splitlines() if ": " in line)
    if not found.get("Pid", "").isdigit() or "Version" not in found:
        raise SocketError(f"'show info' was answered with {answer.strip()[:200]!r}")
    return found


def parse_servers_state(answer: str) -> dict[str, list[ServerState]]:
    """Read the answer of `show servers state` (Management Guide, 9.3) into servers by backend.

    HAProxy's own hidden backends (`<HTTPCLIENT>` and the like) are left out. Raises SocketError when the answer is
    not a state file of format 1, or not a whole one.
    """
    lines = _whole("show servers state", answer).rstrip("\n").split("\n")
    if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# "):
        raise SocketError(f"'show servers state' was answered with {answer.strip()[:200]!r}")
    columns = {name: number for number, name in enumerate(lines[1][2:].split(" "))}
    missing = [name for name in _TEXTS + _NUMBERS if name not in columns]
    if missing:
        raise SocketError(f"'show servers state' lacks the columns {', '.join(missing)}: {lines[1]!r}")
    texts, numbers = [columns[name] for name in _TEXTS], [columns[name] for name in _NUMBERS]
    servers: dict[str, list[ServerState]] = {}
    for line in lines[2:]:
        fields = line.split(" ")
        if len(fields) < len(columns) or not all(fields[number].isdigit() for number in numbers):
            raise SocketError(f"'show servers state' has an unexpected line: {line!r}")
        backend, name, address, fqdn, tls, check_address = (fields[number] for number in texts)
        if backend.startswith("<"):
            continue
        port, operational, admin, weight, initial_weight, check_state, number, check_port = (int(fields[number]) for number in numbers)
        # Bit 1 of the check's state: a check is configured.
        server = Server(name, address, port, (), "" if fqdn == "-" else fqdn, bool(check_state & 0x02))
        servers.setdefault(backend, []).append(ServerState(server, operational, admin, weight, initial_weight, number, tls == "1", check_port, check_address))
    return servers


# -1 for the use of TLS is `no-ssl`.
_TEXTS = ("be_name", "srv_name", "srv_addr", "srv_fqdn", "srv_use_ssl", "srv_check_addr")
_NUMBERS = ("srv_port", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_iweight", "srv_check_state", "srv_id", "srv_check_port")


def server_state_file(rows: Iterable[tuple[str, ServerState]]) -> str:
    """The text of a server-state file (format 1) that holds these servers, each with its backend.

    HAProxy finds them by name, so the ids may be 0. It is of our own making and never a dump: a dump's port beats the
    new configuration's, and its maintenance sticks to a name (measured on 2.6, 3.0 and 3.2).
    """
    lines = ["1", _STATE_FILE_COLUMNS]
    for backend, state in rows:
        server = state.server
        # 1 of the check's result is "neutral", 6 of its state "configured and enabled".
        lines.append(
            f"0 {backend} 0 {server.name} {server.address} {state.operational} {state.admin} {state.weight}"
            f" {state.initial_weight} 0 1 0 {0 if state.operational == STOPPED else 3} {6 if server.checked else 0} 0"
            f" 0 0 - {server.port} - {int(state.tls)} 0 - - 0"
        )
    return "\n".join(lines) + "\n"


_STATE_FILE_COLUMNS = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    " srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state"
    " bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr"
    " srv_agent_addr srv_agent_port"
)


def parse_sessions(answer: str) -> dict[tuple[str, str], int]:
    """Read the answer of `show stat -1 4 -1` (Management Guide, 9.1 and 9.3): the sessions that run on servers, by (backend, server). `show servers conn`
    counts no session of TCP mode as a connection in use, nor any where connections are not shared (measured on 2.6, 3.0 and 3.2).

    Raises SocketError when it is none.
    """
    rows = csv.reader(_whole("show stat", answer).strip().split("\n"))
    columns = next(rows, [])
    if columns[:2] != ["# pxname", "svname"] or "scur" not in columns:
        raise SocketError(f"'show stat' was answered with {answer.strip()[:200]!r}")
    at = columns.index("scur")
    found = {}
    for fields in rows:
        if len(fields) <= at or not fields[at].isdigit():
            raise SocketError(f"'show stat' has an unexpected line: {','.join(fields)[:200]!r}")
        found[fields[0], fields[1]] = int(fields[at])
    return found
