# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Report on a HAProxy process and on what a candidate configuration would change: the whole of haproxy_facts."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import stat as stat_bits
import time
from collections import Counter

# Not from collections.abc: on Python 3.8 its names take no brackets when they are evaluated.
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from . import haproxy_binds, haproxy_config, haproxy_ids, haproxy_inspect, haproxy_plan, haproxy_process, haproxy_reload, haproxy_state
from .haproxy_inspect import ConfigFile, Definition, Running, Surroundings
from .haproxy_plan import Step
from .haproxy_reload import SOCKET_TIMEOUT, Run

Servers = Mapping[str, Sequence[haproxy_config.Server]]


class Candidate(NamedTuple):
    """A text that may become the configuration; the fields are the suboptions of the same name, and `strategy` is apply_strategy."""

    text: str
    start: bool
    maximum_removed_percent: int
    retry_failed: int
    reload_interval: int
    maximum_old_workers: int
    confirm_runs: int
    strategy: str = "auto"
    listed: Sequence[str] | None = None
    sought: Sequence[str] = ()


def report(definition: Definition, candidate: Candidate | None, gather_servers: bool, run: Run) -> dict[str, Any]:
    """The facts of one process; see RETURN of haproxy_facts. Raises StateError when a file cannot be read."""
    binary = haproxy_process.find_binary(definition.binary)
    version = haproxy_process.parse_version(run([binary, "-v"], {}, None)[1]) if binary else ""
    running = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
    config_file = haproxy_inspect.read_config_file(definition.config_path)
    in_force, reason = haproxy_inspect.in_force(definition, running, config_file)
    state = (definition.state_dir, definition.name)
    facts: dict[str, Any] = {
        "binary": binary,
        "version": version,
        "running": running is not None,
        "state_dir_exists": os.path.isdir(definition.state_dir),
        "interrupted": running is not None and haproxy_state.read_intent(definition.state_dir, definition.name) is not None,
        "refusal_file": haproxy_state.refusal_path(definition.state_dir, definition.name),
        "refusal_file_exists": os.path.exists(haproxy_state.refusal_path(definition.state_dir, definition.name)),
        "members_file": haproxy_state.members_path(*state),
        "missing_file": haproxy_state.missing_path(*state),
        "missing_file_exists": os.path.exists(haproxy_state.missing_path(*state)),
        "outage_file": haproxy_state.outage_path(*state),
        "outage_since": haproxy_state.read_outage(*state),
        "last_good_file": haproxy_state.last_good_path(definition.state_dir, definition.name),
        "has_last_good": os.path.exists(haproxy_state.last_good_path(definition.state_dir, definition.name)),
        "config": _config_facts(definition, config_file, in_force, reason),
    }
    if running is not None:
        facts.update(_process_facts(running), drift=[] if in_force else _drift(definition, running))
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


def _drift(definition: Definition, running: Running) -> list[str]:
    """How the process differs from the file that it runs, whatever file is on disk by now."""
    places = [definition.config_path, haproxy_state.last_good_path(definition.state_dir, definition.name)]
    text = haproxy_inspect.text_in_force(definition, running, places, "")
    return [] if text is None else haproxy_inspect.drift(definition, running, text, haproxy_inspect.record_of(definition, running))


def _failed_before(definition: Definition, checksum: str, binary: str, retry_failed: int, now: float) -> str:
    """HAProxy's words when the reload of this very text failed with this very program, and it is too early to try again.

    A clock that was set back makes it due: what is not known is tried.
    """
    failure = haproxy_state.read_failure(definition.state_dir, definition.name)
    if failure is None or (failure.checksum, failure.program) != (checksum, haproxy_process.fingerprint(binary)):
        return ""
    return failure.error if failure.when <= now < failure.when + retry_failed else ""


def _refusal(definition: Definition, candidate: Candidate, config_file: ConfigFile | None, differs: bool, before: Servers, wanted: Servers) -> dict[str, Any]:
    """Whether the candidate removes too much, and how many runs in a row have seen exactly its servers.

    An emptied backend is never accepted by repetition: an answer that is wrong for a minute is easily wrong for five.
    """
    # What stands in the file already was allowed by the run that wrote it, and waits for HAProxy only: for its newcomers' checks, say.
    refusals = haproxy_config.refusals(before, wanted, candidate.maximum_removed_percent) if differs else []
    emptied = any(before[backend] and not wanted.get(backend) for backend in before)
    if differs and config_file is not None and candidate.maximum_removed_percent < 100:
        silenced = haproxy_plan.silenced(config_file.text, candidate.text)
        refusals += [f"backend {backend} would serve nobody: each of its servers would have the weight 0" for backend in silenced]
        emptied = emptied or bool(silenced)
    earlier = haproxy_state.read_refusal(definition.state_dir, definition.name)
    facts: dict[str, Any] = {"refusals": refusals, "confirmed": False, "refusal": None}
    if refusals and candidate.confirm_runs > 0 and not emptied:
        places = sorted((backend, server.name, server.address, server.port) for backend, row in wanted.items() for server in row)
        seen = haproxy_state.checksum(json.dumps(places).encode())
        runs = 1 + (earlier.runs if earlier is not None and earlier.servers == seen else 0)
        facts.update(confirmed=runs >= candidate.confirm_runs, refusal={"servers": seen, "runs": runs})
    return facts


def _missing(definition: Definition, candidate: Candidate, config_file: ConfigFile | None, checksum: str) -> dict[str, Any]:
    """The members of the file on disk that the caller has not heard of, and whether those of the candidate are noted already.

    What was noted for another text says nothing: a run that dies between the file and the note would bring back who has left.
    """
    noted = haproxy_state.read_members(definition.state_dir, definition.name) if candidate.listed is not None else None
    facts: dict[str, Any] = {"members_noted": noted is not None and noted.checksum == checksum, "missing": []}
    if noted is not None and config_file is not None and noted.checksum == config_file.checksum:
        listed = frozenset(candidate.listed or ())
        runs = haproxy_state.read_missing(definition.state_dir, definition.name)
        facts["missing"] = [
            {"group": group, "runs": runs.get(instance["instance_id"], 0) + 1, "instance": instance}
            for group, instances in noted.instances.items()
            for instance in instances
            if instance["instance_id"] not in listed
        ]
    return facts


def _held(definition: Definition, candidate: Candidate, running: Running | None, wanted: Servers) -> list[str] | None:
    """Which of those that are sought are the name or address of a server that the candidate or a process has; None when a process cannot say.

    One in maintenance whose last connection has ended is gone, though it is not deleted yet.
    """
    servers = [server for row in wanted.values() for server in row]
    if running is None and not candidate.start:
        # Whom we neither see nor start may run where we do not look.
        return None
    if running is not None:
        if running.servers is None or running.old_workers or running.process.older:
            # Nobody can ask an old process whose connections it finishes.
            return None
        record = haproxy_inspect.record_of(definition, running)
        idle = haproxy_inspect.idle_leavers(running, record) if record is not None else []
        servers += [server for backend, row in running.servers.items() for server in row if (backend, server.name) not in idle]
    there = {value for server in servers for value in (server.name, server.address, server.fqdn)}
    return [value for value in candidate.sought if value in there]


def _postponed(definition: Definition, candidate: Candidate, running: Running | None, now: float) -> str:
    """Why a reload has to wait for a later run; empty when it may be made now. `now` is in seconds since 1970.

    What a run was cut off in never waits, because it may have left servers drained.
    """
    if running is None or running.worker is None:
        return ""
    if haproxy_state.read_intent(definition.state_dir, definition.name) is not None:
        return ""
    old = len(running.old_workers)
    if 0 < candidate.maximum_old_workers <= old:
        return (
            f"{old} old workers still finish their connections, and maximum_old_workers is {candidate.maximum_old_workers}."
            " The reload waits until one of them ends; `hard-stop-after` in the configuration bounds how long that can take"
        )
    # A failed reload counts, too: it refuses connections. The worker's age does not depend on the clock's being right.
    ages = [now - haproxy_process.start_time(running.worker)]
    failure = haproxy_state.read_failure(definition.state_dir, definition.name)
    if failure is not None and failure.when <= now:
        ages.append(now - failure.when)
    if min(ages) < candidate.reload_interval:
        return f"the last reload (or start) was {min(ages):.0f} s ago, and reload_interval is {candidate.reload_interval} s"
    return ""


def _summary(steps: Sequence[Step]) -> str:
    """What is done at runtime, in short: how many servers are added, moved, deleted, and so on."""
    counts = Counter(step.action for step in steps if step.action in ("add", "move", "delete", "weight", "maxconn"))
    return ", ".join(f"{action} {count}" for action, count in counts.items()) or "nothing that concerns the process differs"


# What a run keeps besides copies of the configuration: its record and intent, and the server-state file.
_NOTES_SIZE = 16384


def _unwritable(definition: Definition, size: int) -> list[str]:
    """Why a configuration of `size` bytes could not be written, or what is kept of it; empty when it can be.

    A file that is replaced goes when the new one is whole, so there are two of each for a moment.
    """
    folders = {os.path.dirname(definition.config_path): 2 * size, definition.state_dir: 2 * size + _NOTES_SIZE}
    return [reason for folder, needed in folders.items() for reason in [haproxy_state.shortage(folder, needed)] if reason]


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
        "old_worker_pids": running.old_workers,
    }
    if running.workers is not None:
        facts.update(
            reloads=running.workers.reloads,
            failed_reloads=running.workers.failed_reloads,
        )
    return facts


def _check_command(definition: Definition, binary: str, around: Surroundings, text: str) -> list[str]:
    """The words for `validate` of a task that writes the file. Empty where HAProxy takes something from the environment of its
    own process or service: it would have to stand in the command, for everybody to read."""
    foreign = {name for name, value in around.environment.items() if os.environ.get(name) != value}
    if foreign.intersection(re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", text)):
        return []
    return [word if word == "%s" else word.replace("%", "%%") for word in haproxy_reload.check_command(binary, definition.config_path, around, "%s")]


def _candidate_facts(
    definition: Definition,
    candidate: Candidate,
    running: Running | None,
    config_file: ConfigFile | None,
    in_force: bool,
    binary: str,
    run: Run,
) -> dict[str, Any]:
    ids = haproxy_ids.settle(candidate.text, config_file.text if config_file is not None else "")
    candidate = candidate._replace(text=haproxy_ids.replace(candidate.text, ids))
    around = haproxy_inspect.surroundings(definition, running)
    accepted, messages = haproxy_reload.check(binary, definition.config_path, around, candidate.text, run)
    folder = os.path.dirname(definition.config_path)
    if not os.path.isdir(folder):
        accepted, messages = False, [f"config_path: there is no folder {folder}"]
    checksum = haproxy_state.checksum(candidate.text.encode("utf-8", "surrogateescape"))
    differs = config_file is None or config_file.checksum != checksum
    before, counted_against = haproxy_inspect.servers_now(definition, running, config_file)
    text = haproxy_inspect.whole_text(around.config_files, definition.config_path, candidate.text)
    configuration = haproxy_config.parse(text)
    wanted = configuration.servers
    found = haproxy_config.differences(before, wanted, compare_options=False)
    plan = haproxy_inspect.decide(candidate.start, running, in_force and not differs)
    plan_reason = needs_reload = ""
    if running is not None and plan == "reload":
        places = [definition.config_path, haproxy_state.last_good_path(definition.state_dir, definition.name)]
        found_in_force = config_file.checksum if in_force and config_file is not None else ""
        way = haproxy_inspect.way(definition, running, text, candidate.strategy, places, found_in_force)
        plan_reason = way.reload or _summary(way.steps)
        plan = "reload" if way.reload else "runtime"
        needs_reload = way.reload if candidate.strategy == "runtime_only" else ""
    return {
        "accepted": accepted,
        "messages": messages,
        "check_command": _check_command(definition, binary, around, text),
        "ids": {str(line): number for line, number in ids.items()},
        "checksum": checksum,
        "differs": differs,
        "counted_against": counted_against,
        "servers": {backend: len(servers) for backend, servers in wanted.items()},
        "added": {backend: row.added for backend, row in found.items() if row.added},
        "removed": {backend: row.removed for backend, row in found.items() if row.removed},
        "changed": {backend: row.changed for backend, row in found.items() if row.changed},
        # While HAProxy does not run there is nobody whom another try could harm.
        "failed_before": _failed_before(definition, checksum, binary, candidate.retry_failed, time.time()) if running is not None else "",
        "impossible_binds": _impossible_binds(definition, configuration, running, candidate.start),
        "unwritable": _unwritable(definition, len(candidate.text)) if differs or plan != "none" else [],
        **_refusal(definition, candidate, config_file, differs, before, wanted),
        **_missing(definition, candidate, config_file, checksum),
        "held": _held(definition, candidate, running, wanted) if candidate.sought else [],
        "plan": plan,
        "plan_reason": plan_reason,
        "needs_reload": needs_reload,
        "postponed": _postponed(definition, candidate, running, time.time()) if plan == "reload" and not needs_reload else "",
    }
