# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Say what a HAProxy process is now, and whether it is at its file: what haproxy_facts reports and haproxy_apply
decides on. Nothing here changes a file or a process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import haproxy_config, haproxy_plan, haproxy_process, haproxy_service, haproxy_socket, haproxy_state
from .haproxy_process import Identity, Process
from .haproxy_socket import MAINTENANCE, Command, ServerState, SocketError, Workers
from .haproxy_state import Record, StateError

# How long one question may take that is only asked to look, in seconds.
LOOK = 5.0


class Definition(NamedTuple):
    """One HAProxy process as the operator describes it; the fields are the options of the same name."""

    name: str
    config_path: str
    binary: str
    pid_file: str
    stats_socket: str
    state_dir: str
    service_name: str = ""
    config_files: Sequence[str] = ()


class Surroundings(NamedTuple):
    """What our file stands among: the files and folders that HAProxy is given with -f, in its order, the environment that
    it has besides, and the folder that it changes into with -C, where relative paths in the files start (empty: none)."""

    config_files: list[str]
    environment: dict[str, str]
    folder: str


class ConfigFile(NamedTuple):
    """The configuration file on disk; `modified` is in seconds since 1970, `checksum` the SHA-256."""

    data: bytes
    checksum: str
    modified: float
    stat: os.stat_result

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "surrogateescape")


class Running(NamedTuple):
    """A HAProxy process that runs, as far as it can be asked.

    `workers` is the master's own account, None without a master socket. `worker` is the process that serves, None
    when that cannot be said. `states` is None when no socket answers, and `problem` says why. `takes_commands` is False when the
    socket that answers is known to be of a lower level than admin.
    """

    process: Process
    workers: Workers | None
    worker: Identity | None
    version: str
    stats_socket: str
    passes_listeners: bool
    states: dict[str, list[ServerState]] | None
    problem: str
    takes_commands: bool = True

    @property
    def servers(self) -> dict[str, list[haproxy_config.Server]] | None:
        """The servers by backend, None when no socket answers."""
        if self.states is None:
            return None
        return {backend: [state.server for state in states] for backend, states in self.states.items()}

    @property
    def master_socket(self) -> str:
        return self.process.command_line.master_socket

    @property
    def old_workers(self) -> list[int]:
        """The processes that only finish their connections after a reload, each with the memory of a whole HAProxy."""
        if self.workers is not None:
            return [worker.pid for worker in self.workers.old if worker != self.workers.serving]
        return self.process.workers[1:] + self.process.older

    def ask(self, command: str, timeout: float) -> str:
        """Send `command` to the worker that serves, over the master's socket where there is one. Raises SocketError."""
        if self.workers is not None and self.worker is not None:
            return haproxy_socket.send(self.master_socket, f"@!{self.worker.pid} {command}", timeout)
        if self.stats_socket:
            return haproxy_socket.send(self.stats_socket, command, timeout)
        raise SocketError("HAProxy has neither a master socket (-S) nor a statistics socket with level admin")

    def sessions(self, timeout: float) -> dict[tuple[str, str], int]:
        """How many sessions run on each server, by (backend, server). Raises SocketError."""
        return haproxy_socket.parse_sessions(self.ask("show stat -1 4 -1", timeout))

    def order(self, commands: Iterable[str], timeout: float) -> None:
        """Send commands that answer with an empty line when they succeed; anything else raises SocketError, with the
        answer."""
        self.carry_out([(Command(text),) for text in commands], haproxy_plan.LEAST_BUFFER, timeout)

    def carry_out(self, groups: Iterable[Sequence[Command]], buffer: int, timeout: float) -> list[str]:
        """Send commands, and return their answers; one that does not match raises SocketError. Several go together, in lines that the
        command line's `buffer` holds (bytes, half of it used); those of a group are never parted. `timeout` is in seconds for a line."""
        # The master reads a prefix up to the next semicolon only, so there each command has its own.
        prefix = f"@!{self.worker.pid} " if self.workers is not None and self.worker is not None else ""
        line: list[Command] = []
        answers: list[str] = []
        size = 0
        for group in groups:
            more = sum(len(prefix) + len(command.text) + 2 for command in group)
            if line and size + more > buffer // 2:
                answers += self._line(line, prefix, timeout)
                line, size = [], 0
            line += group
            size += more
        return answers + (self._line(line, prefix, timeout) if line else [])

    def _line(self, commands: Sequence[Command], prefix: str, timeout: float) -> list[str]:
        line = f"; {prefix}".join(command.text for command in commands)
        return haproxy_socket.split_answers(line, commands, self.ask(line, timeout))


def read_config_file(path: str) -> ConfigFile | None:
    """The file on disk, None when there is none. Raises StateError when it is there and cannot be read."""
    try:
        with open(path, "rb") as handle:
            data, stat = handle.read(), os.fstat(handle.fileno())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    return ConfigFile(data, haproxy_state.checksum(data), stat.st_mtime, stat)


def surroundings(definition: Definition, running: Running | None) -> Surroundings:
    """What our file stands among. A running process tells; before it runs, the option `config_files`, else the service's
    unit where that names our file, else our file stands alone.

    Raises StateError when `config_files` does not hold our file.
    """
    if definition.config_files and not haproxy_process.holds(definition.config_files, definition.config_path):
        raise StateError(f"config_files: neither {definition.config_path} nor its folder is among {', '.join(definition.config_files)}")
    launch = haproxy_service.find_launch(definition.service_name) if definition.service_name else None
    of_unit = haproxy_process.parse_command_line(launch.arguments if launch is not None else [])
    # The service of the usual name may run another file.
    is_ours = launch is not None and haproxy_process.holds(of_unit.config_files, definition.config_path)
    environment = launch.environment if launch is not None and is_ours else {}
    if running is not None:
        of_process = haproxy_process.environment(running.process.pid)
        given = running.process.command_line
        return Surroundings(given.config_files, environment if of_process is None else of_process, given.folder)
    files = list(definition.config_files) or (of_unit.config_files if is_ours else [definition.config_path])
    return Surroundings(files, environment, of_unit.folder if is_ours else "")


def files_of(config_files: Iterable[str], config_path: str) -> list[str]:
    """The files that HAProxy reads when it is given these files and folders: of a folder its *.cfg by name (haproxy(1), -f),
    ours among them also while it does not exist."""
    found = []
    for name in config_files:
        if not os.path.isdir(name):
            found.append(name)
            continue
        entries = {entry for entry in os.listdir(name) if entry.endswith(".cfg") and not entry.startswith(".")}
        if is_same_file(name, os.path.dirname(config_path)):
            entries.add(os.path.basename(config_path))
        found += sorted(os.path.join(name, entry) for entry in entries)
    return found


def is_same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file, over links, too; neither need exist."""
    return os.path.realpath(one) == os.path.realpath(other)


def whole_text(config_files: Iterable[str], config_path: str, text: str) -> str:
    """The text that a process would read that is given these files and folders, with `text` as ours.

    Raises StateError when one of the others cannot be read.
    """
    paths = files_of(config_files, config_path)
    if len(paths) == 1:
        return text
    return "\n".join(text if is_same_file(path, config_path) else _read_text(path) for path in paths)


def _read_text(path: str) -> str:
    return (haproxy_state.read_bytes(path) or b"").decode("utf-8", "surrogateescape")


def known_texts(definition: Definition) -> list[str]:
    """The texts that the process may be running with, the likeliest first: the last good file, the file on disk."""
    paths = [haproxy_state.last_good_path(definition.state_dir, definition.name), definition.config_path]
    found = [haproxy_state.read_bytes(path) for path in paths]
    return [data.decode("utf-8", "surrogateescape") for data in found if data is not None]


def _find_statistics_socket(definition: Definition, process: Process, timeout: float) -> tuple[str, bool, bool, str]:
    """The statistics socket that the process (or a worker of its) answers on: (path, does it pass listeners, does it take commands,
    why there is none).

    A path is not enough: the socket may be another process's.
    """
    pids = set(process.workers) or {process.pid}
    # The socket may stand in another file of the set.
    others = [path for path in files_of(process.command_line.config_files, definition.config_path) if not is_same_file(path, definition.config_path)]
    texts = known_texts(definition) + [_read_text(path) for path in others]
    parsed = [haproxy_config.parse(text) for text in texts]
    named = [entry for one in parsed for entry in haproxy_config.statistics_sockets(one)]
    lower = {path for one in parsed for path, _passes in haproxy_config.statistics_sockets(one, admin=False)} - {path for path, _passes in named}
    if definition.stats_socket and definition.stats_socket not in (path for path, _passes in named):
        named.append((definition.stats_socket, False))
    # The one that is meant first, then what a file says that was there before us.
    named.sort(key=lambda entry: entry[0] != definition.stats_socket)
    problem = "the configuration has no `stats socket` with `level admin`"
    for path, passes_listeners in dict.fromkeys(named):
        try:
            info = haproxy_socket.parse_show_info(haproxy_socket.send(path, "show info", timeout))
        except SocketError as error:
            problem = str(error)
            continue
        if int(info["Pid"]) in pids:
            return path, passes_listeners, path not in lower, ""
        problem = f"{path} belongs to process {info['Pid']}, which does not run {definition.config_path}"
    return "", False, False, problem


def _ask_master(process: Process, timeout: float) -> tuple[Workers | None, str]:
    """The master's account of its workers, or why there is none."""
    path = process.command_line.master_socket
    problem = ""
    # For a moment after a start or a reload the socket refuses, while the worker answers already (measured on 2.6
    # and 3.0); taken at its word, the weaker ways to reload and to prove would be chosen. One that is slow is asked once.
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            workers = haproxy_socket.parse_show_proc(haproxy_socket.send(path, "show proc", timeout))
        except SocketError as error:
            problem = str(error)
            time.sleep(0.1)
            continue
        if workers.master_pid != process.pid:
            return None, f"{path} belongs to master {workers.master_pid}, not to {process.pid}"
        return workers, ""
    return None, problem


def observe(definition: Definition, timeout: float) -> Running | None:
    """The process that runs `definition.config_path`, None when there is none.

    `timeout` is in seconds for each question. What does not answer is said in `problem`, never guessed.
    """
    process = haproxy_process.find(definition.config_path, definition.pid_file)
    if process is None:
        return None
    workers: Workers | None = None
    worker_pid = 0
    stats_socket = version = problem = ""
    passes_listeners, takes_commands = False, True
    if process.command_line.master_socket:
        workers, problem = _ask_master(process, timeout)
        if workers is not None and workers.serving is not None:
            worker_pid = workers.serving.pid
    if workers is None:
        stats_socket, passes_listeners, takes_commands, missing = _find_statistics_socket(definition, process, timeout)
        problem = "; ".join(text for text in (problem, missing) if text)
        worker_pid = process.workers[0] if process.workers else process.pid
    elif not worker_pid:
        problem = f"the master {process.pid} has no worker"
    worker = haproxy_process.identify(worker_pid) if worker_pid else None
    running = Running(process, workers, worker, version, stats_socket, passes_listeners, None, problem, takes_commands)
    if worker is None or (workers is None and not stats_socket):
        return running
    try:
        info = haproxy_socket.parse_show_info(running.ask("show info", timeout))
        answered = haproxy_process.identify(int(info["Pid"]))
        states = haproxy_socket.parse_servers_state(running.ask("show servers state", timeout))
        return running._replace(worker=answered, version=info["Version"], states=states)
    except SocketError as error:
        return running._replace(problem=str(error))


# The start of a process is known to some hundredths of a second only, and more when the machine is busy.
_MARGIN = 1.0


def in_force(definition: Definition, running: Running | None, config_file: ConfigFile | None) -> tuple[bool, str]:
    """Whether the process runs the file on disk, and how that is known (or why not).

    The record of the last proven apply decides while it speaks of this very process. After a restart or a reload by
    hand, a file older than the worker whose servers the worker has is in force. What cannot be known is not in force:
    that costs one reload. Raises StateError when the record is there and cannot be read.
    """
    if config_file is None:
        return False, f"{definition.config_path} does not exist"
    if running is None:
        return False, "HAProxy does not run"
    # Whichever process it was about: the run did not come to its end, and its record is not written.
    if haproxy_state.read_intent(definition.state_dir, definition.name) is not None:
        return False, "a run was cut off in the middle of a change"
    record = record_of(definition, running)
    if record is not None:
        if record.checksum != config_file.checksum:
            return False, "the file is not the one that was last applied to this process"
        drifted = drift(definition, running, config_file.text, record)
        if drifted:
            return False, f"the process is not as its file says: {'; '.join(drifted[:5])}"
        idle = idle_leavers(running, record)
        if idle:
            return False, f"{', '.join(map('/'.join, idle))} can be deleted now that the last connection has ended"
        return True, "the last apply was proven on this process"
    if running.worker is None or running.servers is None:
        return False, f"the process cannot be asked what it runs: {running.problem}"
    if config_file.modified >= haproxy_process.start_time(running.worker) - _MARGIN:
        return False, "the file is newer than the process"
    wanted = haproxy_config.parse(whole_text(running.process.command_line.config_files, definition.config_path, config_file.text)).servers
    if haproxy_config.differences(running.servers, wanted, compare_options=False):
        return False, "the process has other servers than the file"
    drifted = drift(definition, running, config_file.text, None)
    if drifted:
        return False, f"the process is not as its file says: {'; '.join(drifted[:5])}"
    return True, "the process started after the file was written, and has its servers"


def record_of(definition: Definition, running: Running) -> Record | None:
    """The record of the last proven apply, None when that was another process's. Raises StateError."""
    record = haproxy_state.read_record(definition.state_dir, definition.name)
    return record if record is not None and (record.main, record.worker) == (running.process.identity, running.worker) else None


def drift(definition: Definition, running: Running, text: str, record: Record | None) -> list[str]:
    """How the process's servers differ from those of `text`, the file that it runs, in sentences. What a reload has left so, and
    servers that only finish their connections, are no drift. Raises StateError when another file of the set cannot be read."""
    if running.states is None:
        return []
    leaving = record.leaving if record is not None else frozenset()
    states = {
        # Out of maintenance it is a stranger, whoever brought it in.
        backend: [state for state in row if (backend, state.server.name) not in leaving or not state.admin & MAINTENANCE]
        for backend, row in running.states.items()
    }
    found = haproxy_plan.drift(whole_text(running.process.command_line.config_files, definition.config_path, text), states)
    return [sentence for sentence in found if record is None or sentence not in record.differences]


def idle_leavers(running: Running, record: Record) -> list[tuple[str, str]]:
    """The servers, as (backend, name), that had to stay until their connections end and have none any more. Nobody is asked while there are none."""
    there = {(backend, state.server.name) for backend, row in (running.states or {}).items() for state in row}
    leaving = sorted(record.leaving & there)
    if not leaving:
        return []
    try:
        used = running.sessions(LOOK)
    except SocketError:
        return []
    return [place for place in leaving if not used.get(place)]


def text_in_force(definition: Definition, running: Running, places: Iterable[str], checksum: str) -> str | None:
    """The text that the process runs, if one of the files at `places` is it: the one that was last proven on this process. Of a process
    that another hand has started, the one with this `checksum`: what was found in force before the present run wrote. None when that
    cannot be said; that the servers are the same proves nothing of the other lines."""
    record = record_of(definition, running)
    wanted = record.checksum if record is not None else checksum
    for place in filter(None, places):
        try:
            found = read_config_file(place)
        except StateError:
            # Whoever needs the file itself says so.
            continue
        if found is not None and found.checksum == wanted:
            return found.text
    return None


def decide(start: bool, running: Running | None, is_in_force: bool) -> str:
    """What brings the process to its file: "none", "start" or "reload", which `way` may spare. Pure. Here and not beside what does it, which a
    run that changes nothing would load in vain."""
    if running is None:
        return "start" if start else "none"
    return "none" if is_in_force else "reload"


def way(definition: Definition, running: Running, text: str, strategy: str, places: Iterable[str], checksum: str) -> haproxy_plan.Plan:
    """How a process gets to `text`, the whole configuration: by which commands, or why it takes a reload. `strategy` is the option
    apply_strategy; `places` and `checksum` are those of `text_in_force`. Raises StateError."""
    if strategy == "reload":
        return haproxy_plan.Plan([], "apply_strategy is reload")
    if running.states is None:
        return haproxy_plan.Plan([], f"the process cannot be asked: {running.problem}")
    if not running.takes_commands:
        return haproxy_plan.Plan([], f"{running.stats_socket} takes no commands: it has not `level admin`")
    record = record_of(definition, running)
    if record is not None and record.differences:
        return haproxy_plan.Plan([], f"after the last reload the process was not as its file says: {record.differences[0]}")
    in_force = whole_text_in_force(definition, running, places, checksum)
    if in_force is None:
        return haproxy_plan.Plan([], "which configuration the process runs is not known")
    if not _others_are_in_force(definition, running, record):
        return haproxy_plan.Plan([], "another file of the process's configuration has changed since it was read")
    return haproxy_plan.plan(in_force, text, running.version, running.states)


def whole_text_in_force(definition: Definition, running: Running, places: Iterable[str], checksum: str) -> str | None:
    """The whole configuration that the process runs, with `text_in_force` as ours. Raises StateError."""
    text = text_in_force(definition, running, places, checksum)
    return None if text is None else whole_text(running.process.command_line.config_files, definition.config_path, text)


def others_checksum(definition: Definition, config_files: Iterable[str]) -> str:
    """The SHA-256 of the other files of a set, empty when ours stands alone. Raises StateError when one cannot be read."""
    others = _others(definition, config_files)
    return haproxy_state.checksum("\0".join(text for path in others for text in (path, _read_text(path))).encode("utf-8", "surrogateescape")) if others else ""


def _others(definition: Definition, config_files: Iterable[str]) -> list[str]:
    return [path for path in files_of(config_files, definition.config_path) if not is_same_file(path, definition.config_path)]


def _others_are_in_force(definition: Definition, running: Running, record: Record | None) -> bool:
    """Whether the other files of the set are those that the process has read: as at the last proven apply, else older than it."""
    given = running.process.command_line.config_files
    if record is not None:
        return record.others == others_checksum(definition, given)
    started = haproxy_process.start_time(running.worker) if running.worker is not None else 0.0
    return all(os.path.exists(path) and os.path.getmtime(path) < started for path in _others(definition, given))


def servers_now(definition: Definition, running: Running | None, config_file: ConfigFile | None) -> tuple[dict[str, list[haproxy_config.Server]], str]:
    """The servers that a shrink is counted against, and where they are from: what the process has; if HAProxy is
    stopped (or does not answer), the last good file; else the file on disk, so that taking over a balancer is no first
    run. Raises StateError when one of these files is there and cannot be read."""
    if running is not None and running.servers is not None:
        intent = haproxy_state.read_intent(definition.state_dir, definition.name)
        # What a run added and could not take away again, or has taken out already, is no loss when it goes.
        added = intent.added if intent is not None and intent.worker == running.worker else set()
        record = record_of(definition, running)
        added = added | (record.leaving if record is not None else set())
        servers = {backend: [one for one in row if (backend, one.name) not in added] for backend, row in running.servers.items()}
        return servers, "the running process"
    path = haproxy_state.last_good_path(definition.state_dir, definition.name)
    last_good = haproxy_state.read_bytes(path)
    if last_good is not None:
        return haproxy_config.parse(last_good.decode("utf-8", "surrogateescape")).servers, path
    if config_file is not None:
        return haproxy_config.parse(config_file.text).servers, definition.config_path
    return {}, "nothing: there is no configuration yet"
