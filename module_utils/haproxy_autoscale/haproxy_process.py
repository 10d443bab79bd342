# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Find the HAProxy process of a configuration file in /proc, and say what it is."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class CommandLine(NamedTuple):
    """What a HAProxy command line says (Management Guide, chapter 3): the files given with -f, the pid file, the
    master socket (its path without the options behind the comma), whether there is a master, and whether the process
    only checks a configuration. `folder` is that of -C, empty without it. `options` are the other words, as a process that takes its place needs them."""

    config_files: list[str]
    pid_file: str
    master_socket: str
    has_master: bool
    is_check: bool
    folder: str
    options: list[str]


class Identity(NamedTuple):
    """A process that cannot be mistaken for another one: a pid comes again, but not with the same start within the
    same boot. `start_ticks` are clock ticks since boot."""

    pid: int
    start_ticks: int
    boot_id: str


class Process(NamedTuple):
    """A running HAProxy. `identity` is the master's, or that of the one process where there is no master.

    `workers` are the master's children, youngest first; empty without a master. `older` are the processes before it under
    the same configuration, which only finish their connections: a reload without a master leaves them.
    """

    identity: Identity
    command_line: CommandLine
    workers: list[int]
    older: list[int]

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def has_master(self) -> bool:
        # The keyword `master-worker` in the file makes a master, too, which only its workers show.
        return self.command_line.has_master or bool(self.workers)


class _Entry(NamedTuple):
    pid: int
    parent: int
    start_ticks: int
    arguments: list[str]
    folder: str


# The options of haproxy(1) that take one value; -sf and -st take all that follow up to the next option.
_WITH_VALUE = frozenset(["-C", "-L", "-N", "-S", "-f", "-m", "-n", "-p", "-x"])


def parse_command_line(arguments: Sequence[str], folder: str = "/") -> CommandLine:
    """Read the arguments of a HAProxy process, the program's own name first. Pure.

    `folder` is where the process works; relative paths of files start there, or in the folder of -C, into which HAProxy
    changes first.
    """
    files: list[str] = []
    pid_file = master_socket = given_folder = ""
    options: list[str] = []
    has_master = is_check = False
    position = 1
    while position < len(arguments):
        option = arguments[position]
        position += 1
        if option == "--":
            files.extend(arguments[position:])
            break
        is_check = is_check or option == "-c"
        has_master = has_master or option in ("-S", "-W", "-Ws")
        if option in ("-sf", "-st"):
            # The processes that this one took the place of.
            while position < len(arguments) and arguments[position].isdigit():
                position += 1
            continue
        if option not in _WITH_VALUE or position >= len(arguments):
            options.append(option)
            continue
        value = arguments[position]
        position += 1
        if option == "-f":
            files.append(value)
        elif option == "-C":
            folder = given_folder = os.path.join(folder, value)
        elif option == "-p":
            pid_file = value
        elif option == "-S":
            master_socket = re.sub(r"^unix@", "", value.split(",", 1)[0])
        elif option != "-x":
            options += [option, value]
    config_files = [os.path.join(folder, name) for name in files]
    pid_file = os.path.join(folder, pid_file) if pid_file else ""
    return CommandLine(config_files, pid_file, master_socket, has_master, is_check, given_folder, options)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as handle:
        return handle.read()


# How long a process may have no arguments while it executes a program anew, in seconds; it is milliseconds.
_EXECUTING = 1.0


def _read_entry(pid: int) -> _Entry | None:
    """The /proc entry of a living HAProxy process, or None: gone, a zombie, or another program (proc(5)).

    A master executes its program anew at each reload, also at one that fails, and has no arguments for a moment. Passed over,
    its worker would be taken for the main process.
    """
    deadline = time.monotonic() + _EXECUTING
    while True:
        try:
            stat = _read(f"/proc/{pid}/stat")
            # The program's name stands in parentheses and may hold any character, so the fields are counted behind it.
            name = stat[stat.index("(") + 1 : stat.rindex(")")]
            fields = stat[stat.rindex(")") + 2 :].split()
            arguments = _read(f"/proc/{pid}/cmdline").split("\0")[:-1]
        except (OSError, ValueError):
            return None
        if arguments or fields[0] in "ZX" or not name.startswith("haproxy") or time.monotonic() >= deadline:
            break
        time.sleep(0.001)
    if fields[0] in "ZX" or not arguments:
        return None
    if not (name.startswith("haproxy") or os.path.basename(arguments[0]).startswith("haproxy")):
        return None
    try:
        folder = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        folder = "/"  # another user's process does not tell; daemons are started with absolute paths
    return _Entry(pid, int(fields[1]), int(fields[19]), arguments, folder)


def boot_id() -> str:
    """The kernel's id of this boot (random(4)); empty where there is none."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        return ""


def identify(pid: int) -> Identity | None:
    """The identity of the HAProxy process `pid`, or None when it does not live."""
    entry = _read_entry(pid)
    return Identity(pid, entry.start_ticks, boot_id()) if entry else None


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal `number` (proc(5), SigCgt); not when it has ended."""
    try:
        found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", _read(f"/proc/{pid}/status"), re.MULTILINE)
    except OSError:
        return False
    return found is not None and bool(int(found.group(1), 16) >> (number - 1) & 1)


def owner(pid: int) -> int | None:
    """The id of the user that the process `pid` runs as; None when it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


# What HAProxy itself puts into the environment (Configuration Manual, 2.3 and 3.1), and what systemd hands to a service: a program
# that is started beside it must not take them for its own. Nor keys of AWS's, which whoever started it may have left it.
_OF_THE_PROCESS = re.compile(
    r"HAPROXY_(MWORKER|MWORKER_REEXEC|MWORKER_WAIT_ONLY|PROCESSES|CLI|MASTER_CLI|CFGFILES|LOCALPEER|STARTUPLOGS_FD|STARTUP_VERSION|LOAD_SUCCESS)"
    r"|NOTIFY_SOCKET|LISTEN_.*|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN)"
)


def leave_aws_out() -> None:
    """Take the variables AWS_* out of the environment of this module, before it runs HAProxy.

    A HAProxy that is started would keep the environment of the run for its life, for whoever may ask its sockets: no keys of AWS's. And a
    text is judged with what HAProxy will be started with.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]


def environment(pid: int) -> dict[str, str] | None:
    """The environment that the process `pid` was started with, without what is its own (proc(5)); None when it cannot be read,
    as another user's."""
    try:
        pairs = [entry.partition("=") for entry in _read(f"/proc/{pid}/environ").split("\0")]
    except OSError:
        return None
    return {name: value for name, equals, value in pairs if equals and not _OF_THE_PROCESS.fullmatch(name)}


class User(NamedTuple):
    """As whom a process reads files: its effective user and group, and its further groups, by id."""

    uid: int
    gid: int
    groups: list[int]


def user(pid: int) -> User | None:
    """As whom the process `pid` reads files (proc(5), status); None when it has ended. Unlike `owner` this holds for a process
    whose /proc entry is root's, because its program has file capabilities."""
    try:
        status = _read(f"/proc/{pid}/status")
    except OSError:
        return None
    found = {name: [int(word) for word in ids.split()] for name, ids in re.findall(r"^(Uid|Gid|Groups):(.*)$", status, re.MULTILINE)}
    return User(found["Uid"][1], found["Gid"][1], found["Groups"])


def user_name(uid: int) -> str:
    """The name of a user, or the id where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def can_read(reader: User, path: str) -> bool:
    """Whether the kernel lets `reader` read the file at `path`: asked as that user, so folders and access control lists count."""
    if reader.uid in (0, os.geteuid()):
        return os.path.exists(path)
    if os.geteuid() != 0:
        # We cannot ask as another user; a file that we wrote is ours alone.
        return False
    gid, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(reader.groups)
        os.setegid(reader.gid)
        os.seteuid(reader.uid)
        return os.access(path, os.R_OK, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def start_time(identity: Identity) -> float:
    """When the process started, in seconds of the present clock since 1970. Counted back from now, because the
    kernel's own boot time (`btime`) is rounded to a second."""
    uptime = float(_read("/proc/uptime").split()[0])
    return time.time() - uptime + identity.start_ticks / os.sysconf("SC_CLK_TCK")


def read_pid_file(path: str) -> list[int]:
    """The process ids in a pid file (one a line, Management Guide 3, -p); empty when it cannot be read."""
    try:
        return [int(word) for word in _read(path).split() if word.isdigit()]
    except OSError:
        return []


def holds(config_files: Iterable[str], config_path: str) -> bool:
    """Whether these files and folders, as -f takes them, hold the file. Of a folder HAProxy reads the *.cfg in it."""
    wanted = os.path.realpath(config_path)
    return any(os.path.realpath(name) in (wanted, os.path.dirname(wanted)) for name in config_files)


def find(config_path: str, pid_file: str) -> Process | None:
    """The HAProxy process that runs with `config_path`, or None.

    A reload without a master leaves old processes that finish their connections under the same command line: the
    pid file names the one that serves; without it the youngest is taken. A stale pid file, whose process does not
    live or runs another configuration, is passed over.
    """
    entries = [entry for entry in (_read_entry(int(name)) for name in os.listdir("/proc") if name.isdigit()) if entry]
    ours: dict[int, tuple[_Entry, CommandLine]] = {}
    for entry in entries:
        command_line = parse_command_line(entry.arguments, entry.folder)
        if not command_line.is_check and holds(command_line.config_files, config_path):
            ours[entry.pid] = (entry, command_line)
    tops = [entry for entry, _command_line in ours.values() if entry.parent not in ours]
    if not tops:
        return None
    named = set(read_pid_file(pid_file)) if pid_file else set()
    top = max(tops, key=lambda entry: (entry.pid in named, entry.start_ticks, entry.pid))
    children = [entry for entry in entries if entry.parent == top.pid]
    children.sort(key=lambda entry: (entry.start_ticks, entry.pid), reverse=True)
    identity = Identity(top.pid, top.start_ticks, boot_id())
    older = [entry.pid for entry in tops if entry.pid != top.pid]
    return Process(identity, ours[top.pid][1], [entry.pid for entry in children], older)


def find_binary(binary: str, folders: Iterable[str] = ("/usr/local/sbin", "/usr/sbin", "/sbin")) -> str | None:
    """The path of the HAProxy program: `binary` itself when it is a path, else looked for in PATH, then in `folders`
    (cron's PATH has no sbin). None when it is not there or cannot be executed."""
    if os.sep in binary:
        places = [binary]
    else:
        path = os.environ.get("PATH", "").split(os.pathsep)
        places = [os.path.join(folder, binary) for folder in [*path, *folders] if folder]
    return next((place for place in places if os.path.isfile(place) and os.access(place, os.X_OK)), None)


def fingerprint(binary: str) -> str:
    """What tells one program from its replacement by an upgrade: path, size and time of change."""
    try:
        found = os.stat(binary)
    except OSError:
        return binary
    return f"{binary} {found.st_size} {found.st_mtime_ns}"


def parse_version(output: str) -> str:
    """The version in the output of `haproxy -v`, as "2.6.12"; empty when there is none."""
    found = re.search(r"^HA-?Proxy version (\d+\.\d+(?:[.-](?:dev)?\d+)?)", output, re.MULTILINE)
    return found.group(1) if found else ""
