# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Carry out the steps that haproxy_plan has found, and compare every answer with what success looks like."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from .haproxy_inspect import Running
from .haproxy_plan import Step
from .haproxy_socket import SocketError, parse_servers_state
from .haproxy_transition import TIMEOUT, wait_until_idle

# What `del server` says of a server that is in use (measured on 2.6, 3.0 and 3.2).
_IN_USE = r"Server still has connections attached to it.*"
# For how long it is asked again, in seconds: connections that nobody uses any more are closed a moment after maintenance.
_CLOSING = 1.0


class Outcome(NamedTuple):
    """How far the steps went: `waiting` are the backends whose newcomers do not pass their checks, so that nothing after them was
    done; `busy` how many requests still ran on servers that go when the time for them was over; `left` the servers, as (backend,
    name), that are still there in maintenance, because they have connections."""

    waiting: list[str]
    busy: int
    left: set[tuple[str, str]]


def carry_out(running: Running, steps: Sequence[Step], drain_timeout: float, check_timeout: float, buffer: int) -> Outcome:
    """Do the steps in their order. Commands of one kind go in one line, as many as the process's `buffer` holds (bytes). At
    most `check_timeout` seconds are for the checks of newcomers, and `drain_timeout` for running requests.

    Raises SocketError at the first answer that is not success.
    """
    added = {(step.backend, step.server) for step in steps if step.action == "add"}
    outcome = Outcome([], 0, set())
    batch: list[Step] = []
    checked_until = 0.0
    idle_since = 0.0
    for step in [*steps, Step("end")]:
        if batch and (not step.commands or step.action != batch[0].action):
            outcome.left.update(_do(running, batch, buffer))
            going, batch = batch, []
        if outcome.waiting and step.action != "wait for checks":
            return outcome
        if step.commands:
            batch.append(step)
        elif step.action == "wait for checks":
            checked_until = checked_until or time.monotonic() + check_timeout
            places = {(step.backend, name) for name in step.any_of}
            if not _any_passes(running, places, places & added, checked_until):
                outcome.waiting.append(step.backend)
        elif step.action == "wait until idle":
            idle_since = idle_since or time.monotonic()
            # Half of the time is kept for what runs when maintenance has put an end to persistent clients.
            until = idle_since + drain_timeout / (2 if going[0].action == "drain" else 1)
            outcome = outcome._replace(busy=wait_until_idle(running, {(one.backend, one.server) for one in going}, until))
    return outcome


def _any_passes(running: Running, places: Collection[tuple[str, str]], added: set[tuple[str, str]], until: float) -> bool:
    """Whether one of these servers serves, once all that were `added` do, or it is time: the first one alone would get all requests."""
    while True:
        states = parse_servers_state(running.ask("show servers state", TIMEOUT))
        usable = {(backend, state.server.name) for backend, row in states.items() for state in row if state.usable}
        if added <= usable or time.monotonic() >= until:
            return bool(usable.intersection(places))
        time.sleep(0.1)


def _do(running: Running, batch: Sequence[Step], buffer: int) -> set[tuple[str, str]]:
    """Do steps of one kind; returns those servers that could not be deleted yet. Raises SocketError."""
    if batch[0].action != "delete":
        running.carry_out([step.commands for step in batch], buffer, TIMEOUT)
        _wait_until_moved(running, {(step.backend, step.server): step.place for step in batch if step.place is not None})
        return set()
    left = {(step.backend, step.server): step.commands[0] for step in batch}
    until = time.monotonic() + _CLOSING
    while left:
        commands = list(left.values())
        answers = running.carry_out([(command._replace(answer=f"{command.answer}|{_IN_USE}"),) for command in commands], buffer, TIMEOUT)
        left = {place: command for (place, command), answer in zip(left.items(), answers) if re.fullmatch(_IN_USE, answer)}
        if time.monotonic() >= until:
            break
        if left:
            time.sleep(0.1)
    return set(left)


def _wait_until_moved(running: Running, places: Mapping[tuple[str, str], tuple[str, int]]) -> None:
    """3.0 moves a server a moment after it has said so (measured); brought in before, it would get requests at its old place.
    Raises SocketError."""
    until = time.monotonic() + TIMEOUT
    while places:
        states = parse_servers_state(running.ask("show servers state", TIMEOUT))
        there = {(backend, state.server.name): (state.server.address, state.server.port) for backend, row in states.items() for state in row}
        elsewhere = [place for place, wanted in places.items() if there.get(place) != wanted]
        if not elsewhere:
            return
        if time.monotonic() >= until:
            raise SocketError(f"{'/'.join(elsewhere[0])} is not at its new place after {TIMEOUT:.0f} s")
        time.sleep(0.05)
