# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Bring the running HAProxy to the file on disk: the whole of haproxy_apply, under its lock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import haproxy_config, haproxy_inspect, haproxy_plan, haproxy_process, haproxy_reload, haproxy_runtime, haproxy_state, haproxy_transition
from .haproxy_config import Configuration
from .haproxy_inspect import ConfigFile, Definition, Running, Surroundings
from .haproxy_process import Identity
from .haproxy_reload import SOCKET_TIMEOUT, ApplyError, Plan, Proof, Run
from .haproxy_socket import STOPPED, SocketError
from .haproxy_state import Failure, Intent, StateError
from .haproxy_transition import Transition


class Wish(NamedTuple):
    """What the caller wants: `checksum` of the file that this run rendered (empty: whatever is on disk), whether to
    start a HAProxy that does not run, the copy of the file that the rendered one replaced (empty: none), for how many
    seconds to wait for the running requests of servers that go, and for the first passed check of those that come, and
    whether to reload: where it must be (auto), always (reload) or never (runtime_only). `in_force_checksum` is that of the file that
    was found in force before the rendered one was written (empty: not known). `force` asks for a reload whatever the file says."""

    checksum: str
    start: bool
    backup_file: str
    drain_timeout: float
    check_timeout: float
    strategy: str = "auto"
    in_force_checksum: str = ""
    force: bool = False


class Job(NamedTuple):
    """A change of a running process: what the caller gave, the file that it is to be at, the whole configuration as text, and what that says."""

    definition: Definition
    plan: Plan
    around: Surroundings
    wish: Wish
    config_file: ConfigFile
    text: str
    wanted: Configuration
    run: Run


def _changes(before: Running | None, wanted: Configuration) -> dict[str, dict[str, list[str]]]:
    """The servers that come, go and change, by backend, when the process is brought to what is wanted."""
    had = before.servers if before is not None and before.servers is not None else {}
    found = haproxy_config.differences(had, wanted.servers, compare_options=False)
    return {
        name: {backend: getattr(difference, kind) for backend, difference in found.items() if getattr(difference, kind)}
        for name, kind in (("added", "added"), ("removed", "removed"), ("changed_servers", "changed"))
    }


def _result(action: str, reason: str, proof: str, changes: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
    return {"changed": action != "none", "applied_by": action, "reason": reason, "proof": proof, "warnings": [], **changes}


def apply(definition: Definition, plan: Plan, wish: Wish, check_mode: bool, run: Run) -> dict[str, Any]:
    """Bring the process to the file on disk and return what was done: `changed`, `applied_by` (none, start, runtime, reload),
    `reason`, `proof`, and when something was done the servers `added`, `removed` and `changed_servers` by backend.

    Raises ApplyError and StateError; the running process serves on then.
    """
    if check_mode:
        return _apply(definition, plan, wish, True, run)
    with haproxy_state.lock(definition.state_dir, definition.name, plan.timeout):
        return _apply(definition, plan, wish, False, run)


def _apply(definition: Definition, plan: Plan, wish: Wish, check_mode: bool, run: Run) -> dict[str, Any]:
    config_file = haproxy_inspect.read_config_file(definition.config_path)
    # In check mode the file that this run rendered was not written, so another one on disk is no other run's.
    if check_mode and (config_file is None or wish.checksum not in ("", config_file.checksum)):
        running = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
        action = haproxy_inspect.decide(wish.start, running, False)
        return {"changed": action != "none", "applied_by": action, "reason": "the file would be written", "proof": ""}
    if config_file is None:
        raise ApplyError(f"{definition.config_path} does not exist")
    if wish.checksum not in ("", config_file.checksum):
        raise ApplyError(
            f"{definition.config_path} is not the file that this run rendered: another run, or a person, wrote it"
            " since. Nothing was changed; the next run starts from it"
        )
    if not check_mode:
        _remove_leftovers(definition, config_file)
    before = _observe_settled(definition)
    is_in_force, reason = haproxy_inspect.in_force(definition, before, config_file)
    action = haproxy_inspect.decide(wish.start, before, is_in_force and not wish.force)
    around = haproxy_inspect.surroundings(definition, before)
    text = haproxy_inspect.whole_text(around.config_files, definition.config_path, config_file.text)
    if before is not None and action == "reload":
        planned = _way(definition, wish, before, text)
        if not planned.reload:
            action = "runtime"
        elif wish.strategy == "runtime_only" and (check_mode or _cut_off(definition, before) is None):
            raise ApplyError(f"{_never(planned)}. Nothing was changed")
        else:
            reason += f"; {planned.reload}"
    if action == "none":
        return _result(action, reason, "", {})
    wanted = haproxy_config.parse(text)
    result = _result(action, reason, "", _changes(before, wanted))
    if check_mode:
        return result
    # Whoever wrote it: what HAProxy runs must be what it finds after a power cut.
    haproxy_state.sync_file(definition.config_path)
    plan = plan._replace(method=haproxy_reload.choose_method(plan.method, before, plan.service_command, plan.master_socket))
    if before is None:
        return _start(definition, plan, around, wish, config_file, reason, run)
    return _bring(Job(definition, plan, around, wish, config_file, text, wanted, run), before, result)


def _way(definition: Definition, wish: Wish, running: Running, text: str) -> haproxy_plan.Plan:
    if wish.force:
        return haproxy_plan.Plan([], "it was asked for (force)")
    places = [haproxy_state.last_good_path(definition.state_dir, definition.name), wish.backup_file, definition.config_path]
    return haproxy_inspect.way(definition, running, text, wish.strategy, places, wish.in_force_checksum)


def _never(planned: haproxy_plan.Plan) -> str:
    return f"apply_strategy is runtime_only, and this takes a reload: {planned.reload}"


# How long a process that was just started is given to answer, in seconds: one with 10,000 servers needs one.
STARTING = 10.0


def _observe_settled(definition: Definition) -> Running | None:
    """The process as it is once it has started: one that is still starting answers nobody, and who signals it ends it."""
    while True:
        running = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
        if running is None or running.states is not None:
            return running
        if time.time() - haproxy_process.start_time(running.process.identity) >= STARTING:
            return running
        time.sleep(0.1)


def _start(definition: Definition, plan: Plan, around: Surroundings, wish: Wish, config_file: ConfigFile, reason: str, run: Run) -> dict[str, Any]:
    for pid in haproxy_process.read_pid_file(definition.pid_file):
        if haproxy_process.identify(pid) is not None:
            # Both would bind, and share the clients between the new file and one that nobody renews.
            raise ApplyError(
                f"{definition.pid_file} names the living HAProxy {pid}, whose command line does not show that it runs"
                f" {definition.config_path}. A second one is not started beside it"
            )
    try:
        # A run that dies between the start and the record leaves no last good file; the intent says so.
        haproxy_state.write_intent(definition.state_dir, definition.name, Intent(None, {}, set()))
        wanted = haproxy_config.parse(config_file.text)
        _write_server_state(wanted, NO_SERVER_STATE, None)
        proof = haproxy_reload.start(definition, plan, around, run)
    except (ApplyError, StateError) as error:
        done = _put_back(definition, wish, config_file, None)
        done += _start_on_last_good(definition, plan, around, config_file, str(error), run)
        haproxy_state.clear_intent(definition.state_dir, definition.name)
        raise ApplyError(f"{error}. {done}") from error
    _record(definition, config_file, proof)
    return _result("start", reason, proof.text, _changes(None, wanted))


def _start_on_last_good(definition: Definition, plan: Plan, around: Surroundings, failed: ConfigFile, error: str, run: Run) -> str:
    """After a start that failed, start on the file that was put back: any balancer is better than none. Returns what was
    done, in words."""
    config_file = haproxy_inspect.read_config_file(definition.config_path)
    if config_file is None or config_file.data == failed.data:
        return ""
    running = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
    if running is not None:
        return f" Process {running.process.pid} runs all the same, and is left alone."
    try:
        proof = haproxy_reload.start(definition, plan, around, run)
        _record(definition, config_file, proof)
        # Now that something runs, the file that failed must not take it down every minute.
        _write_failure(definition, plan, failed, error)
    except (ApplyError, StateError) as trouble:
        return f" It does not start on that either: {trouble}."
    return f" HAProxy was started on it: {proof.text}."


def _bring(job: Job, before: Running, result: dict[str, Any]) -> dict[str, Any]:
    """Bring a running process to its file: at runtime where that leaves it in the same state, else by a reload. `result` is what is
    returned, without the proof."""
    definition, wish, config_file, wanted = job.definition, job.wish, job.config_file, job.wanted
    before = _healed(definition, before, wanted, wish, result)
    # The other files, and who called, may have changed since it was judged; nobody is drained for what HAProxy refuses.
    accepted, messages = haproxy_reload.check(job.plan.binary, definition.config_path, job.around, None, job.run)
    if not accepted:
        raise ApplyError(f"HAProxy does not accept {definition.config_path}: {' '.join(messages)}. {_put_back(definition, wish, config_file, before)}")
    planned = _way(definition, wish, before, job.text)
    if not planned.reload:
        try:
            return _runtime(job, before, result, planned)
        except SocketError as error:
            if wish.strategy == "runtime_only":
                raise _given_up(job, before, f"the change could not be made at runtime: {error}") from error
            result["warnings"].append(f"the change could not be made at runtime, so HAProxy is reloaded: {error}")
        now = _observe_settled(definition)
        if now is None:
            raise ApplyError("HAProxy ended while it was changed at runtime")
        before = _healed(definition, now, wanted, wish, result)
    elif wish.strategy == "runtime_only":
        raise _given_up(job, before, _never(planned))
    return _reload(job, before, {**result, "applied_by": "reload"})


def _given_up(job: Job, before: Running, why: str) -> ApplyError:
    """The error of a change that neither could be made at runtime nor may be made by a reload, once everything is as it was."""
    definition = job.definition
    intent = haproxy_state.read_intent(definition.state_dir, definition.name)
    done = _put_back(definition, job.wish, job.config_file, before) + _undo(definition, before, job.wanted, intent, haproxy_transition.NOTHING)
    return ApplyError(f"{why}. {done}")


def _runtime(job: Job, before: Running, result: dict[str, Any], planned: haproxy_plan.Plan) -> dict[str, Any]:
    """Carry out what is planned, and hold the process against its file. Raises SocketError when anything is not as expected; what was
    begun stands in the intent then."""
    definition, wish, config_file = job.definition, job.wish, job.config_file
    states = {(backend, state.server.name): state for backend, row in (before.states or {}).items() for state in row}
    leavers = {(step.backend, step.server): states[step.backend, step.server].admin for step in planned.steps if step.action == "drain"}
    added = {(step.backend, step.server) for step in planned.steps if step.action == "add"}
    intent = _intent(before.worker, leavers, added, _cut_off(definition, before))
    settings = tuple((step.backend, step.server, step.undo) for step in planned.steps if step.undo)
    intent = intent._replace(settings=intent.settings + settings, checksum=config_file.checksum)
    try:
        # Before the first command: a run that dies from here on is healed by the next.
        haproxy_state.write_intent(definition.state_dir, definition.name, intent)
    except StateError as error:
        raise StateError(f"{error}. {_put_back(definition, wish, config_file, before)} The running HAProxy was not changed") from error
    outcome = haproxy_runtime.carry_out(before, planned.steps, wish.drain_timeout, wish.check_timeout, planned.buffer)
    if outcome.waiting:
        return _wait_for_checks(definition, before, intent, outcome.waiting, result)
    now = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
    if now is None or now.states is None or now.worker != before.worker:
        raise SocketError("another process serves now")
    lasting = {backend: [state for state in row if (backend, state.server.name) not in outcome.left] for backend, row in now.states.items()}
    weighed = {(step.backend, step.server) for step in planned.steps if step.action == "weight"}
    differences = haproxy_plan.drift(job.text, lasting, added | weighed.intersection(place for place, state in states.items() if not state.admin))
    if differences:
        raise SocketError(f"afterwards {'; '.join(differences[:5])}")
    commands = sum(len(step.commands) for step in planned.steps)
    count = sum(len(row) for row in lasting.values())
    proof = Proof(now, f"{commands} commands, process {now.worker.pid if now.worker else '?'} has the {count} servers of the file")
    if outcome.busy:
        result["warnings"].append(f"{outcome.busy} requests still ran on servers that go after {wish.drain_timeout:.0f} s")
    if planned.steps and all(step.action == "delete" and (step.backend, step.server) in outcome.left for step in planned.steps):
        result["changed"] = False
    if outcome.left:
        names = ", ".join("/".join(place) for place in sorted(outcome.left))
        result["warnings"].append(f"{names} still has connections: it gets nothing new, and is deleted by a later run")
    _keep(definition, job.wanted, config_file, proof, frozenset(outcome.left), [])
    return {**result, "proof": proof.text}


def _wait_for_checks(definition: Definition, before: Running, intent: Intent, backends: list[str], result: dict[str, Any]) -> dict[str, Any]:
    """Take what was added away again: left in the process, the next run would take it for servers that stay."""
    _close(definition, intent, haproxy_transition.withdraw(before, intent.added))
    why = f"no other server of {', '.join(backends)} passes its check yet, so the servers that go stay for this run"
    nothing: dict[str, Any] = {"changed": False, "applied_by": "none", "waiting": backends, "added": {}, "removed": {}, "changed_servers": {}}
    return {**result, **nothing, "warnings": [f"{why}, and all of this change waits with them"]}


def _reload(job: Job, before: Running, result: dict[str, Any]) -> dict[str, Any]:
    """Newcomers gated, leavers drained, reload, proof; on failure everything as it was."""
    definition, wish, config_file, wanted = job.definition, job.wish, job.config_file, job.wanted
    cut_off = _cut_off(definition, before)
    before = _weighed(definition, wish, before)
    ours = {**cut_off.leavers, **dict.fromkeys(cut_off.added, 0)} if cut_off is not None else {}
    change = haproxy_transition.plan(before.states or {}, wanted, ours)
    proven = haproxy_transition.Proven(set(), set(), set(), [])
    intent = None
    if before.states is None:
        result["warnings"].append(f"servers that go were not drained, because HAProxy cannot be asked: {before.problem}")
    elif before.worker is not None:
        leavers = {(backend, state.server.name): state.admin for backend, row in change.leavers.items() for state in row}
        added = {(backend, server.name) for backend in change.starved for server in change.newcomers.get(backend, [])}
        intent = _intent(before.worker, leavers, added, cut_off)
        try:
            # Before the first command: a run that dies from here on is healed by the next.
            haproxy_state.write_intent(definition.state_dir, definition.name, intent)
            proven = haproxy_transition.prove_newcomers(before, change, wanted, wish.check_timeout)
            waiting = [backend for backend in change.starved if not _has_any(proven, backend)]
            if waiting:
                return _wait_for_checks(definition, before, intent, waiting, result)
            taken_out = haproxy_transition.sparing(change, proven)
            if taken_out.leavers:
                busy = haproxy_transition.drain(before, taken_out, wish.drain_timeout)
                if busy:
                    result["warnings"].append(f"{busy} requests still ran on servers that go after {wish.drain_timeout:.0f} s")
        except SocketError as error:
            # The file is good and the group has changed: bringing it in undrained beats sending requests to the dead.
            result["warnings"].append(f"servers were not taken out first: {error}")
        except StateError as error:
            raise StateError(f"{error}. {_put_back(definition, wish, config_file, before)} The running HAProxy was not reloaded") from error
    result["warnings"] += proven.reasons
    # Those that cannot be added cannot be proven; held down they would be an outage, so they start as HAProxy starts them.
    try:
        _write_server_state(wanted, haproxy_transition.state_file(change, wanted, proven.passing | proven.refused), before)
        result["warnings"] += _ungated(change, wanted, proven, _unreadable(wanted, before))
        proof = haproxy_reload.reload(definition, job.plan, job.around, before, job.run)
    except (ApplyError, StateError) as error:
        done = _put_back(definition, wish, config_file, before) + _undo(definition, before, wanted, intent, change)
        # At the end: a remembered text is refused before anything is healed.
        done += _remember(definition, job.plan, config_file, error)
        raise ApplyError(f"{error}. {done}") from error
    differences = haproxy_plan.drift(job.text, proof.running.states) if proof.running.states is not None else []
    if differences:
        result["warnings"].append(f"right after the reload the process is not as its file says, which is left so: {'; '.join(differences[:5])}")
    _keep(definition, wanted, config_file, proof, frozenset(), differences)
    return {**result, "proof": proof.text}


def _weighed(definition: Definition, wish: Wish, running: Running) -> Running:
    """The process with the weights of its file as those that it began with: `set server weight` leaves HAProxy's own as it was
    (measured), and a weight that we have set would be taken for a person's."""
    places = [haproxy_state.last_good_path(definition.state_dir, definition.name), wish.backup_file]
    text = haproxy_inspect.whole_text_in_force(definition, running, places, wish.in_force_checksum)
    if running.states is None or text is None:
        return running
    weights = haproxy_plan.weights(text)
    states = {
        backend: [state._replace(initial_weight=weights.get((backend, state.server.name), state.initial_weight)) for state in row]
        for backend, row in running.states.items()
    }
    return running._replace(states=states)


def _keep(
    definition: Definition, wanted: Configuration, config_file: ConfigFile, proof: Proof, leaving: frozenset[tuple[str, str]], differences: list[str]
) -> None:
    """Note that the file was brought in. Raises StateError, which says that it was."""
    try:
        _write_server_state(wanted, NO_SERVER_STATE, proof.running)
        _record(definition, config_file, proof, leaving, differences)
    except StateError as error:
        raise StateError(f"HAProxy is at its file ({proof.text}), but that could not be noted: {error}") from error


# A server-state file without a server. It stays when it is not needed, because 2.6 warns of a missing one.
NO_SERVER_STATE = "1\n"


def _has_any(proven: haproxy_transition.Proven, backend: str) -> bool:
    return any(place[0] == backend for place in proven.passing | proven.refused)


def _remove_leftovers(definition: Definition, config_file: ConfigFile) -> None:
    server_state = haproxy_config.server_state_file(haproxy_config.parse(config_file.text))
    for path in (definition.config_path, server_state, *haproxy_state.paths(definition.state_dir, definition.name)):
        if path:
            haproxy_state.remove_leftovers(path)


def _cut_off(definition: Definition, running: Running) -> Intent | None:
    """What a run that never came to its end was about to do to this very process."""
    intent = haproxy_state.read_intent(definition.state_dir, definition.name)
    if intent is None or intent.worker != running.worker:
        return None
    record = haproxy_inspect.record_of(definition, running)
    # It may have been cut off right behind its record.
    return intent._replace(settings=()) if record is not None and record.checksum == intent.checksum else intent


def _healed(definition: Definition, running: Running, wanted: Configuration, wish: Wish, result: dict[str, Any]) -> Running:
    """The process after what a run that was cut off had begun to do to it is undone. Failing that, the reload has to do."""
    cut_off = _cut_off(definition, running)
    if cut_off is None or running.states is None:
        return running
    try:
        return haproxy_transition.heal(running, cut_off, wanted, wish.check_timeout)
    except SocketError as error:
        result["warnings"].append(f"what a run that was cut off had begun could not be undone: {error}")
        return running


def _intent(worker: Identity | None, leavers: dict[tuple[str, str], int], added: set[tuple[str, str]], cut_off: Intent | None) -> Intent:
    """What is about to be done, and what a run that was cut off has done and may not be undone yet."""
    # A name that the process has already cannot be added, and whoever bears it is none of those that we may delete.
    added = added - set(leavers)
    if cut_off is None:
        return Intent(worker, leavers, added)
    return Intent(worker, {**cut_off.leavers, **leavers}, cut_off.added | added, cut_off.settings)


def _undo(definition: Definition, before: Running, wanted: Configuration, intent: Intent | None, change: Transition) -> str:
    """After a failed reload, everything in the process as it was. Returns what could not be done, in words."""
    done = ""
    try:
        _write_server_state(wanted, NO_SERVER_STATE, before)
    except StateError as trouble:
        done += f" {trouble}."
    if intent is None:
        return done
    dead = {(backend, state.server.name) for backend, row in change.leavers.items() for state in row if state.operational == STOPPED}
    try:
        haproxy_transition.take_back(before, intent.settings)
        haproxy_transition.bring_back(before, intent.leavers, dead)
        _close(definition, intent, haproxy_transition.withdraw(before, intent.added))
    except (SocketError, StateError) as trouble:
        done += f" The servers that were taken out could not be brought back: {trouble}."
    return done


def _write_failure(definition: Definition, plan: Plan, failed: ConfigFile, error: str) -> None:
    failure = Failure(failed.checksum, haproxy_process.fingerprint(plan.binary), error, time.time())
    haproxy_state.write_failure(definition.state_dir, definition.name, failure)


def _remember(definition: Definition, plan: Plan, config_file: ConfigFile, error: ApplyError | StateError) -> str:
    """Keep a text whose reload was tried and failed; a disk that was full is no fault of the text. Returns what went
    wrong, in words."""
    if isinstance(error, ApplyError):
        try:
            _write_failure(definition, plan, config_file, str(error))
        except StateError as trouble:
            return f" {trouble}."
    return ""


def _close(definition: Definition, intent: Intent, left: set[tuple[str, str]]) -> None:
    """Note that a run has come to its end, but for servers that it added and could not take away again."""
    if left:
        haproxy_state.write_intent(definition.state_dir, definition.name, Intent(intent.worker, {}, left))
    else:
        haproxy_state.clear_intent(definition.state_dir, definition.name)


def _ungated(change: Transition, wanted: Configuration, proven: haproxy_transition.Proven, unreadable: str) -> list[str]:
    """Sentences when newcomers or what a person set cannot be carried over the reload, which name the lines that are missing or
    why the file cannot be read."""
    reading = wanted.reads_state if haproxy_config.server_state_file(wanted) else frozenset()
    lines = "`server-state-file PATH` in global and `load-server-state-from-file global` in defaults"
    said = []
    for backends, why in ((set(wanted.servers) - reading, f"the configuration lacks {lines}"), (reading if unreadable else set(), unreadable)):
        ungated = [
            f"{backend}/{server.name}"
            for backend, row in change.newcomers.items()
            for server in row
            if server.checked and (backend, server.name) not in proven.passing and backend in backends
        ]
        kept = [f"{backend}/{state.server.name}" for backend, row in change.keep.items() for state in row if backend in backends]
        if ungated:
            said.append(f"{', '.join(ungated)} get requests before their first passed check, because {why}")
        if kept:
            said.append(f"what was set by hand or known to be dead is forgotten for {', '.join(kept)}, because {why}")
    return said


def _write_server_state(wanted: Configuration, text: str, running: Running | None) -> None:
    path = haproxy_config.server_state_file(wanted)
    if path:
        reader = _reader(running)
        haproxy_state.write_atomically(path, text.encode("ascii"), owner=reader.uid if reader else None)


def _reader(running: Running | None) -> haproxy_process.User | None:
    """As whom the files for the next worker are read: the master's user, who need not be root (`User=` in a unit, a container).
    None where there is no master: who starts a process then is as we are."""
    return haproxy_process.user(running.process.pid) if running is not None and running.process.has_master else None


def _unreadable(wanted: Configuration, before: Running) -> str:
    """Why HAProxy cannot read the server-state file that was just written; empty when it can."""
    path, reader = haproxy_config.server_state_file(wanted), _reader(before)
    if not path or reader is None or haproxy_process.can_read(reader, path):
        return ""
    return f"the user {haproxy_process.user_name(reader.uid)}, as whom HAProxy runs, cannot read {path}"


def _record(
    definition: Definition,
    config_file: ConfigFile,
    proof: Proof,
    leaving: frozenset[tuple[str, str]] = frozenset(),
    differences: Sequence[str] = (),
) -> None:
    if proof.running.worker is not None:
        others = haproxy_inspect.others_checksum(definition, proof.running.process.command_line.config_files)
        record = haproxy_state.Record(config_file.checksum, proof.running.process.identity, proof.running.worker, leaving, tuple(differences), others)
        haproxy_state.save(definition.state_dir, definition.name, config_file.data, record)
    haproxy_state.clear_intent(definition.state_dir, definition.name)
    haproxy_state.clear_failure(definition.state_dir, definition.name)


def _put_back(definition: Definition, wish: Wish, config_file: ConfigFile, running: Running | None) -> str:
    """Put the last good file back after a failed start or reload, so that a restart does not meet the bad one; where
    there is none yet, or the process was reloaded by hand since, the copy of the file that this run replaced. Returns what
    was done, in words."""
    places = [haproxy_state.last_good_path(definition.state_dir, definition.name), wish.backup_file]
    try:
        record = haproxy_state.read_record(definition.state_dir, definition.name)
        if running is not None and record is not None and (record.main, record.worker) != (running.process.identity, running.worker):
            places.reverse()
        for place in filter(None, places):
            data = haproxy_state.read_bytes(place)
            if data is None:
                continue
            if data == config_file.data:
                return f"{definition.config_path} is the last good file already."
            haproxy_state.write_atomically(definition.config_path, data, config_file.stat)
            return f"{definition.config_path} is the last good file again (from {place})."
    except StateError as error:
        return f"The last good file could not be put back: {error}."
    return f"There is no last good file to put back; {definition.config_path} is left as it is."
