# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Report on a HAProxy process and on what a candidate configuration would change: the whole of haproxy_facts."""

from __future__ import annotations

import grp
import os
import pwd
import stat as stat_bits
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from . import haproxy_binds, haproxy_change, haproxy_config, haproxy_inspect, haproxy_process, haproxy_state
from .haproxy_inspect import ConfigFile, Definition, Running
from .haproxy_reload import SOCKET_TIMEOUT

# Runs a program without a shell, with a text on its standard input: (return code, standard output, standard error).
RunWithInput = Callable[["list[str]", "bytes | None"], "tuple[int, str, str]"]


class Candidate(NamedTuple):
    """A text that may become the configuration; `start` is whether a stopped HAProxy would be started, `retry_failed`
    after how many seconds a text whose reload failed is tried again."""

    text: str
    start: bool
    maximum_removed_percent: int
    retry_failed: int


def check(binary: str, files: list[str], text: str, run: RunWithInput) -> tuple[bool, list[str]]:
    """Whether HAProxy accepts `text` in its place among `files`, and what it says (`haproxy -c`, Management Guide 3).

    The text goes by standard input (`/dev/stdin` among the files), so that a refused one never exists as a file. Warnings
    leave it accepted.
    """
    words = [word for path in files for word in ("-f", path)]
    code, output, errors = run([binary, "-c", *words], text.encode("utf-8", "surrogateescape"))
    lines = [line.strip() for line in (output + "\n" + errors).splitlines()]
    said = [line for line in lines if "[ALERT]" in line or "[WARNING]" in line]
    if code != 0 and not said:
        said = [line for line in lines if line] or [f"exit status {code} without a word"]
    # A template's mistake repeats itself on every server line; the first ones tell.
    return code == 0, said[:20]


def report(definition: Definition, candidate: Candidate | None, gather_servers: bool, run: RunWithInput) -> dict[str, Any]:
    """The facts of one process; see RETURN of haproxy_facts. Raises StateError when a file cannot be read."""
    binary = haproxy_process.find_binary(definition.binary)
    version = haproxy_process.parse_version(run([binary, "-v"], None)[1]) if binary else ""
    running = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
    config_file = haproxy_inspect.read_config_file(definition.config_path)
    in_force, reason = haproxy_inspect.in_force(definition, running, config_file)
    facts: dict[str, Any] = {
        "binary": binary,
        "version": version,
        "running": running is not None,
        "config": _config_facts(definition, config_file, in_force, reason),
    }
    if running is not None:
        facts.update(_process_facts(running))
        if gather_servers and running.servers is not None:
            facts["servers"] = {
                backend: [{"name": one.name, "address": one.address, "port": one.port} for one in servers] for backend, servers in running.servers.items()
            }
    if candidate is not None:
        if binary is None:
            # Without the program nothing can be said about the text, and what is not known is not accepted.
            facts["candidate"] = {"accepted": False, "messages": [f"binary: no HAProxy program at {definition.binary}"]}
        else:
            facts["candidate"] = _candidate_facts(definition, candidate, running, config_file, in_force, binary, run)
    return facts


def _failed_before(definition: Definition, checksum: str, binary: str, retry_failed: int, now: float) -> str:
    """HAProxy's words when the reload of this very text failed with this very program, and it is too early to try again.

    A clock that was set back makes it due: what is not known is tried.
    """
    failure = haproxy_state.read_failure(definition.state_dir, definition.name)
    if failure is None or (failure.checksum, failure.program) != (checksum, haproxy_process.fingerprint(binary)):
        return ""
    return failure.error if failure.when <= now < failure.when + retry_failed else ""


def _impossible_binds(definition: Definition, wanted: haproxy_config.Configuration, running: Running | None, start: bool) -> list[str]:
    """The binds that are new and cannot be made. Those that the running process has are its own proof."""
    if running is None:
        # Whoever else starts it may have the privileges that we lack.
        return haproxy_binds.impossible(wanted.binds, None if start else 0)
    known = haproxy_inspect.known_texts(definition)[:1]
    had = {bind for text in known for bind in haproxy_config.parse(text).binds}
    new = [bind for bind in wanted.binds if bind not in had]
    return haproxy_binds.impossible(new, haproxy_process.owner(running.process.pid))


def _config_facts(definition: Definition, config_file: ConfigFile | None, in_force: bool, reason: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": definition.config_path,
        "exists": config_file is not None,
        "in_force": in_force,
        "in_force_reason": reason,
    }
    if config_file is not None:
        last_good = haproxy_state.read_bytes(haproxy_state.last_good_path(definition.state_dir, definition.name))
        facts.update(
            checksum=config_file.checksum,
            mode=f"{stat_bits.S_IMODE(config_file.stat.st_mode):04o}",
            uid=config_file.stat.st_uid,
            gid=config_file.stat.st_gid,
            owner=_name(lambda: pwd.getpwuid(config_file.stat.st_uid).pw_name),
            group=_name(lambda: grp.getgrgid(config_file.stat.st_gid).gr_name),
            is_last_good=config_file.data == last_good,
        )
    return facts


def _name(look_up: Callable[[], str]) -> str:
    """The name of a user or group, empty when the id has none."""
    try:
        return look_up()
    except KeyError:
        return ""


def _process_facts(running: Running) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "pid": running.process.pid,
        "has_master": running.process.has_master,
        "worker_pid": running.worker.pid if running.worker else None,
        "running_version": running.version,
        "config_files": running.process.command_line.config_files,
        "pid_file": running.process.command_line.pid_file,
        "master_socket": running.master_socket,
        "stats_socket": running.stats_socket,
        "problem": running.problem,
    }
    if running.workers is not None:
        facts.update(
            reloads=running.workers.reloads,
            failed_reloads=running.workers.failed_reloads,
            old_worker_pids=[worker.pid for worker in running.workers.old if worker != running.workers.serving],
        )
    return facts


def _candidate_facts(
    definition: Definition,
    candidate: Candidate,
    running: Running | None,
    config_file: ConfigFile | None,
    in_force: bool,
    binary: str,
    run: RunWithInput,
) -> dict[str, Any]:
    files = [
        "/dev/stdin" if haproxy_inspect.is_same_file(path, definition.config_path) else path
        for path in haproxy_inspect.files_of(running, definition.config_path)
    ]
    accepted, messages = check(binary, files, candidate.text, run)
    folder = os.path.dirname(definition.config_path)
    if not os.path.isdir(folder):
        accepted, messages = False, [f"config_path: there is no folder {folder}"]
    checksum = haproxy_state.checksum(candidate.text.encode("utf-8", "surrogateescape"))
    differs = config_file is None or config_file.checksum != checksum
    before, counted_against = haproxy_inspect.servers_now(definition, running, config_file)
    configuration = haproxy_config.parse(haproxy_inspect.whole_text(definition, running, candidate.text))
    wanted = configuration.servers
    found = haproxy_config.differences(before, wanted, compare_options=False)
    wish = haproxy_change.Wish(checksum, candidate.start, "", 0, 0)
    return {
        "accepted": accepted,
        "messages": messages,
        "checksum": checksum,
        "differs": differs,
        "counted_against": counted_against,
        "servers": {backend: len(servers) for backend, servers in wanted.items()},
        "added": {backend: row.added for backend, row in found.items() if row.added},
        "removed": {backend: row.removed for backend, row in found.items() if row.removed},
        "changed": {backend: row.changed for backend, row in found.items() if row.changed},
        "failed_before": _failed_before(definition, checksum, binary, candidate.retry_failed, time.time()),
        "impossible_binds": _impossible_binds(definition, configuration, running, candidate.start),
        "refusals": haproxy_config.refusals(before, wanted, candidate.maximum_removed_percent),
        "plan": haproxy_change.decide(wish, running, in_force and not differs),
    }
