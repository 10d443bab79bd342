# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Bring the running HAProxy to the file on disk: the whole of haproxy_apply, under its lock."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import haproxy_config, haproxy_inspect, haproxy_reload, haproxy_state
from .haproxy_inspect import ConfigFile, Definition, Running
from .haproxy_reload import SOCKET_TIMEOUT, ApplyError, Plan, Proof, Run
from .haproxy_state import StateError


class Wish(NamedTuple):
    """What the caller wants: `checksum` of the file that this run rendered (empty: whatever is on disk), whether to
    start a HAProxy that does not run, and the copy of the file that the rendered one replaced (empty: none)."""

    checksum: str
    start: bool
    backup_file: str


def decide(wish: Wish, running: Running | None, is_in_force: bool) -> str:
    """What brings the process to its file: "none", "start" or "reload". Pure."""
    if running is None:
        return "start" if wish.start else "none"
    return "none" if is_in_force else "reload"


def _changes(before: Running | None, text: str) -> dict[str, dict[str, list[str]]]:
    """The servers that come, go and change, by backend, when the process is brought to `text`."""
    had = before.servers if before is not None and before.servers is not None else {}
    found = haproxy_config.differences(had, haproxy_config.parse(text).servers, compare_options=False)
    return {
        name: {backend: getattr(difference, kind) for backend, difference in found.items() if getattr(difference, kind)}
        for name, kind in (("added", "added"), ("removed", "removed"), ("changed_servers", "changed"))
    }


def _result(action: str, reason: str, proof: str, before: Running | None, text: str) -> dict[str, Any]:
    done = {"changed": action != "none", "applied_by": action, "reason": reason, "proof": proof}
    return {**done, **(_changes(before, text) if action != "none" else {})}


def apply(definition: Definition, plan: Plan, wish: Wish, check_mode: bool, run: Run) -> dict[str, Any]:
    """Bring the process to the file on disk and return what was done: `changed`, `applied_by` (none, start, reload),
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
        action = decide(wish, running, False)
        return {"changed": action != "none", "applied_by": action, "reason": "the file would be written", "proof": ""}
    if config_file is None:
        raise ApplyError(f"{definition.config_path} does not exist")
    if wish.checksum not in ("", config_file.checksum):
        raise ApplyError(
            f"{definition.config_path} is not the file that this run rendered: another run, or a person, wrote it"
            " since. Nothing was changed; the next run starts from it"
        )
    before = haproxy_inspect.observe(definition, SOCKET_TIMEOUT)
    is_in_force, reason = haproxy_inspect.in_force(definition, before, config_file)
    action = decide(wish, before, is_in_force)
    if action == "none" or check_mode:
        return _result(action, reason, "", before, config_file.text)
    plan = plan._replace(method=haproxy_reload.choose_method(plan.method, before, plan.service_command))
    try:
        if before is None:
            proof = haproxy_reload.start(definition, plan, run)
        else:
            proof = haproxy_reload.reload(definition, plan, before, run)
    except ApplyError as error:
        raise ApplyError(f"{error}. {_put_back(definition, wish, config_file)}") from error
    _record(definition, config_file, proof)
    return _result(action, reason, proof.text, before, config_file.text)


def _record(definition: Definition, config_file: ConfigFile, proof: Proof) -> None:
    if proof.running.worker is not None:
        record = haproxy_state.Record(config_file.checksum, proof.running.process.identity, proof.running.worker)
        haproxy_state.save(definition.state_dir, definition.name, config_file.data, record)


def _put_back(definition: Definition, wish: Wish, config_file: ConfigFile) -> str:
    """Put the last good file back after a failed start or reload, so that a restart does not meet the bad one; where
    there is none yet, the copy of the file that this run replaced. Returns what was done, in words."""
    places = [haproxy_state.last_good_path(definition.state_dir, definition.name), wish.backup_file]
    try:
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
