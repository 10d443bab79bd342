# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Take servers out of a running HAProxy and bring others in so that no client notices, around a reload.

An old worker cannot be corrected once the reload is made: it serves its open connections with its frozen list of
servers. So leavers are drained before. And a new worker takes every server for usable until its first check, so
newcomers are held down by a server-state file of our own making until their checks pass.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from . import haproxy_config, haproxy_plan, haproxy_socket
from .haproxy_config import Configuration, Server
from .haproxy_inspect import Running
from .haproxy_socket import DISABLED, DRAIN, MAINTENANCE, RUNNING, STOPPED, ServerState
from .haproxy_state import Intent

# How long one command may take, in seconds.
TIMEOUT = 5.0


class Transition(NamedTuple):
    """From a process's servers to a configuration's, each list by backend in the configuration's or process's order.

    `newcomers` are the servers that the process does not have, or has with another address or port. `leavers` are those
    that it has and should not. `keep` is what has to survive the reload: what a person set, also where nothing but the port
    changes (that server is among the newcomers and the leavers, too), and who is known to be dead.
    `starved` are the backends that would be left without a usable server until a newcomer passes its check.
    """

    newcomers: dict[str, list[Server]]
    leavers: dict[str, list[ServerState]]
    keep: dict[str, list[ServerState]]
    starved: list[str]


NOTHING = Transition({}, {}, {}, [])


def plan(states: Mapping[str, list[ServerState]], wanted: Configuration, ours: Mapping[tuple[str, str], int]) -> Transition:
    """Compare a process's servers with a configuration's. Pure.

    `ours` are the servers that a run of ours had taken out or added (backend, name), with their administrative state of
    before: their drain or maintenance is no person's.
    """
    newcomers: dict[str, list[Server]] = {}
    leavers: dict[str, list[ServerState]] = {}
    keep: dict[str, list[ServerState]] = {}
    starved = []
    for backend, servers in wanted.servers.items():
        had = {state.server.name: _before_us(backend, state, ours) for state in states.get(backend, [])}
        found = haproxy_config.differences({backend: [state.server for state in had.values()]}, {backend: servers}, False)
        added, removed, changed = found.get(backend, ([], [], []))
        fresh = [server for server in servers if server.name in added or server.name in changed]
        gone = [state for name, state in had.items() if name in removed or name in changed]
        stay = [(server, had[server.name]) for server in servers if server.name in had and server.name not in changed]
        if fresh:
            newcomers[backend] = fresh
        if gone:
            leavers[backend] = gone
        moved = [(server, had[server.name]) for server in fresh if server.name in changed and haproxy_config.is_same_address(had[server.name].server, server)]
        kept = [_kept(server, state) for server, state in stay]
        # At its new port it is not known to be dead.
        kept += [_kept(server, state._replace(operational=RUNNING)) for server, state in moved]
        if any(kept):
            keep[backend] = [state for state in kept if state]
        # A backup server (the one that says sorry, say) stands for no other one, unless there is none to come.
        spare = {server.name for server in servers if _is_backup(server)} if any(not _is_backup(server) for server in fresh) else set()
        usable = any(state.usable for name, state in had.items() if name not in spare)
        default = wanted.default_server.get(backend, [])
        still = any(state.usable for server, state in stay if server.name not in spare and _weight([*default, *server.options]) != "0")
        if servers and usable and not still and all(server.checked for server in _foremost(fresh)):
            starved.append(backend)
    return Transition(newcomers, leavers, keep, starved)


def _is_backup(server: Server) -> bool:
    return "backup" in server.options


def _foremost(servers: Sequence[Server]) -> list[Server]:
    """Those that get requests first: the backup servers only where there are no others (5.2 "backup")."""
    return [server for server in servers if not _is_backup(server)] or list(servers)


def _before_us(backend: str, state: ServerState, ours: Mapping[tuple[str, str], int]) -> ServerState:
    return state._replace(admin=ours.get((backend, state.server.name), state.admin))


def _kept(server: Server, state: ServerState) -> ServerState | None:
    """What the new worker must know of a server that stays; None where its own start is right."""
    admin = state.admin & (DRAIN if state.admin & DISABLED else MAINTENANCE | DRAIN)
    # A server in maintenance counts as stopped; whether it lives is for its checks to say, once it is back.
    dead = state.operational == STOPPED and server.checked and not state.admin
    if not admin and not dead and state.weight == state.initial_weight:
        return None
    operational = STOPPED if dead else RUNNING
    # The place is the configuration's: a port in this file would beat the configuration's own.
    return ServerState(server, operational, admin, state.weight, state.initial_weight)


def state_file(transition: Transition, wanted: Configuration, proven: Collection[tuple[str, str]]) -> str:
    """The server-state file for the reload: newcomers down until their checks pass, and what has to be kept. Pure.

    Newcomers without a check are not held down, since nothing would ever bring them up; nor are those `proven` (backend,
    name) to pass already. Backends that do not read the file are left out.
    """
    rows = []
    for backend in wanted.servers:
        if backend not in wanted.reads_state:
            continue
        states = {state.server.name: state for state in transition.keep.get(backend, [])}
        for server in transition.newcomers.get(backend, []):
            if server.checked and (backend, server.name) not in proven:
                states[server.name] = states.get(server.name, ServerState(server, STOPPED, 0, 1, 1))._replace(operational=STOPPED)
        # HAProxy takes this from the file, too: without it a server with `ssl` would be reached in plain text (measured).
        rows += [(backend, state._replace(tls=_is_tls([*wanted.default_server[backend], *state.server.options]))) for state in states.values()]
    # A name or path that had to be resolved stays the configuration's business.
    return haproxy_socket.server_state_file((backend, _numeric(state)) for backend, state in rows)


def _is_tls(words: Sequence[str]) -> bool:
    """Whether a server with these words is reached over TLS: the last of `ssl` and `no-ssl` counts (5.2)."""
    found = [word for word in words if word in ("ssl", "no-ssl")]
    return found[-1:] == ["ssl"]


def _numeric(state: ServerState) -> ServerState:
    address = state.server.address
    is_numeric = ":" in address or address.replace(".", "").isdigit()
    return state if is_numeric else state._replace(server=state.server._replace(address="-"))


def add_command(backend: str, server: Server, default_server: list[str], version: str) -> str:
    """The command that adds a server at runtime. An added server ignores `default-server`, so that is written out, and so is
    what one of the file has by itself. Pure."""
    words = [*default_server, *server.options]
    address = f"[{server.address}]" if ":" in server.address else server.address
    place = f"{address}:{server.port}" if server.port else address
    return " ".join(["add server", f"{backend}/{server.name}", place, *words, *haproxy_plan.implied(words, version)])


def _weight(words: Sequence[str]) -> str:
    """The weight that a server with these words has: the last one counts (5.2)."""
    found = [following for word, following in zip(words, words[1:]) if word == "weight"]
    return found[-1] if found else "1"


class Proven(NamedTuple):
    """What became of the newcomers of starved backends: those added at runtime, those of them that pass their checks,
    and those that cannot be added, each as (backend, name); `reasons` has HAProxy's words for the last."""

    added: set[tuple[str, str]]
    passing: set[tuple[str, str]]
    refused: set[tuple[str, str]]
    reasons: list[str]


def prove_newcomers(running: Running, transition: Transition, wanted: Configuration, timeout: float) -> Proven:
    """Add the newcomers of starved backends at runtime, held down, and wait for their checks at most `timeout` seconds.

    Raises SocketError when HAProxy cannot be asked any more.
    """
    proven = Proven(set(), set(), set(), [])
    for backend in transition.starved:
        for server in _foremost(transition.newcomers.get(backend, [])):
            name = f"{backend}/{server.name}"
            words = add_command(backend, server, wanted.default_server[backend], running.version).split(" ")
            # An enabled server counts as up until it is said to be down (2.6 to 3.2), and requests come in between the two.
            without_requests = ["weight", "0"]
            answer = running.ask(" ".join(words + without_requests), TIMEOUT).strip()
            if "'cookie' option is not accepted" in answer:
                # 2.6. Until the reload brings the whole line, it gets requests without a cookie, and gives none.
                at = words.index("cookie")
                answer = running.ask(" ".join(words[:at] + words[at + 2 :] + without_requests), TIMEOUT).strip()
            if answer != "New server registered.":
                proven.refused.add((backend, server.name))
                proven.reasons.append(f"{name} cannot be added at runtime: {answer[:200]}")
                continue
            running.order([f"enable server {name}", f"set server {name} health down"], TIMEOUT)
            running.order([f"set server {name} weight {_weight(words)}", f"enable health {name}"], TIMEOUT)
            proven.added.add((backend, server.name))
    deadline = time.monotonic() + timeout
    while proven.added - proven.passing and time.monotonic() < deadline:
        time.sleep(0.1)
        passing = {place for place, state in _states(running).items() if state.usable}
        proven = proven._replace(passing=passing & proven.added)
    return proven


def _states(running: Running) -> dict[tuple[str, str], ServerState]:
    """The servers as they are now, by (backend, name). Raises SocketError."""
    found = haproxy_socket.parse_servers_state(running.ask("show servers state", TIMEOUT))
    return {(backend, state.server.name): state for backend, row in found.items() for state in row}


def withdraw(running: Running, servers: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Take servers that were added at runtime away again, and return those that are still there: one with a connection
    stays in maintenance, and where no other server is usable they serve on. Raises SocketError."""
    if not servers:
        return set()
    states = _states(running)
    served = {backend for (backend, name), state in states.items() if state.usable and (backend, name) not in servers}
    left = {place for place in servers if place in states}
    going = sorted(place for place in left if place[0] in served or not states[place].usable)
    running.order([f"set server {backend}/{name} state maint" for backend, name in going], TIMEOUT)
    for backend, name in going:
        if running.ask(f"del server {backend}/{name}", TIMEOUT).strip() == "Server deleted.":
            left.discard((backend, name))
    return left


def sparing(transition: Transition, proven: Proven) -> Transition:
    """The transition without the leavers of starved backends where no newcomer could be proven. Pure.

    So it is where servers keep their names and get another address or port: a second server of one name cannot be
    added. Taking the old ones out first would leave nobody, so the reload alone has to do.
    """
    passing = {backend for backend, _name in proven.passing}
    spared = set(transition.starved) - passing
    return transition._replace(leavers={backend: row for backend, row in transition.leavers.items() if backend not in spared})


def drain(running: Running, transition: Transition, timeout: float) -> int:
    """Drain the leavers, then put them in maintenance, and wait at most `timeout` seconds for their running requests.

    Drain alone is not enough: with a persistence cookie a drained server goes on getting requests, so it may never be
    idle. Half of the time is therefore kept for what runs when maintenance has put an end to that. Returns how many
    requests ran on when the time was over. Raises SocketError.
    """
    places = {(backend, state.server.name) for backend, row in transition.leavers.items() for state in row}
    begun = time.monotonic()
    busy = 0
    for step, deadline in (("drain", begun + timeout / 2), ("maint", begun + timeout)):
        running.order((f"set server {backend}/{name} state {step}" for backend, name in sorted(places)), TIMEOUT)
        busy = wait_until_idle(running, places, deadline)
    return busy


def wait_until_idle(running: Running, places: Collection[tuple[str, str]], deadline: float) -> int:
    """Wait for the running sessions of these servers, (backend, name), at most until `deadline` of the monotonic clock; in HTTP mode these are
    requests. Returns how many still run then. Raises SocketError."""
    while True:
        used = running.sessions(TIMEOUT)
        busy = sum(used.get(place, 0) for place in places)
        if not busy or time.monotonic() >= deadline:
            return busy
        time.sleep(0.1)


def bring_back(running: Running, leavers: Mapping[tuple[str, str], int], held: Collection[tuple[str, str]]) -> None:
    """Put the leavers that we took out back as they were, by their administrative state of before; what a person had set
    on them stays. Those `held` get nothing before their checks pass. Raises SocketError."""
    states = _states(running)
    for (backend, name), admin in leavers.items():
        state = states.get((backend, name))
        if state is None or _setting(state.admin) == _setting(admin):
            continue
        steps = [f"state {_setting(admin)}"]
        if (backend, name) in held and state.server.checked:
            # Out of maintenance it counts as up, so it goes by way of drain, where it gets nothing until it is said to be down.
            steps = ["state drain", "health down", *steps]
        commands = [f"set server {backend}/{name} {step}" for step in steps]
        running.order(commands, TIMEOUT)


def take_back(running: Running, settings: Iterable[tuple[str, str, str]]) -> None:
    """Take back what was set on servers that are still there, the last first. Raises SocketError."""
    states = _states(running)
    running.order([command for backend, name, command in reversed(list(settings)) if (backend, name) in states], TIMEOUT)


def _setting(admin: int) -> str:
    return "maint" if admin & MAINTENANCE else "drain" if admin & DRAIN else "ready"


def heal(running: Running, intent: Intent, wanted: Configuration, timeout: float) -> Running:
    """Undo what a run that never came to its end did to this process: leavers back in service, and what it added away
    again as far as it does not serve. Returns the process as it is then. Raises SocketError.

    Much may have happened since, so a leaver is held down until its checks pass wherever another server can serve
    meanwhile. When no other one of the wanted can, that is waited for, at most `timeout` seconds.
    """
    names = {(backend, server.name) for backend, servers in wanted.servers.items() for server in servers}
    foremost = {(backend, server.name) for backend, servers in wanted.servers.items() for server in _foremost(servers)}
    states = _states(running)
    served = {backend for (backend, _name), state in states.items() if state.usable}
    take_back(running, intent.settings)
    left = withdraw(running, [place for place in intent.added if place in states and not states[place].usable])
    # One that cannot be taken away has served before; where it is wanted again, it serves again.
    back = {**intent.leavers, **dict.fromkeys(left & names, 0)}
    bring_back(running, back, [place for place in back if place[0] in served])
    waiting = {backend for backend, name in back if (backend, name) in foremost}
    deadline = time.monotonic() + timeout
    while True:
        found = haproxy_socket.parse_servers_state(running.ask("show servers state", TIMEOUT))
        usable = {backend for backend, row in found.items() for state in row if state.usable and (backend, state.server.name) in foremost}
        if waiting <= usable or time.monotonic() >= deadline:
            return running._replace(states=found)
        time.sleep(0.1)
