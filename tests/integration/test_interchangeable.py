# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two ways to bring a change in are interchangeable: random sequences of changes go into two real processes of each version, one with
apply_strategy auto and one with reload, and leave both in the same state, where the same requests reach the same servers.

A sequence follows from its seed alone. `INTERCHANGEABLE_SEQUENCES=1000` makes more of them, `INTERCHANGEABLE_FIRST=17` begins at seed 17; a
failure names its seed. The processes stay over all sequences; each begins with a reload by hand that makes them forget the last one.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import Plan
from balancer import Balancer, ask, free_port, run
from haproxy_binaries import binaries
from instances import Instances
from test_haproxy_apply import definition

SEQUENCES = int(os.environ.get("INTERCHANGEABLE_SEQUENCES", "70"))
FIRST = int(os.environ.get("INTERCHANGEABLE_FIRST", "1"))

CHECK = "check inter 50ms fastinter 50ms downinter 50ms rise 1 fall 2"
MAINTENANCE, DRAIN = 1, 8


class Kind(NamedTuple):
    """A backend: its lines, the words of each of its servers, and what may change on one; `port` says which of the instances' ports
    it goes to, and `reload` what takes a reload on every version."""

    lines: Sequence[str]
    words: str = ""
    port: str = "plain"
    may: Sequence[str] = ("weight", "maxconn", "port", "address")
    reload: Sequence[str] = ("check", "inter", "line")

    @property
    def mode(self) -> str:
        return "tcp" if "mode tcp" in self.lines else "http"


KINDS = {
    "rr": Kind(["balance roundrobin", f"default-server {CHECK} weight 3"]),
    "least": Kind(["balance leastconn", "cookie SRV insert indirect nocache"], f"cookie {{name}} {CHECK}", reload=("cookie", "check", "line")),
    "hash": Kind(["balance hdr(x-key)", "hash-type consistent", f"default-server {CHECK} port {{other}}"]),
    "first": Kind(["mode tcp", "balance first", f"default-server {CHECK} maxconn 40"]),
    "bare": Kind(["mode tcp", "balance roundrobin"], reload=("check", "line")),
    "spare": Kind(["balance roundrobin", f"default-server {CHECK} send-proxy"], port="proxy", may=("weight", "address"), reload=("backup", "line")),
    "tls": Kind(["balance roundrobin", "option allbackups"], f"ssl verify none {CHECK.replace('50ms', '200ms')}", port="tls", may=("weight", "address")),
}
# Two ports where instances answer alike, so that a server can move to another port.
PORTS = {"plain": ("plain", "other"), "proxy": ("proxy",), "tls": ("tls",)}
# Instances that answer, and some that do not.
ALIVE = [f"127.0.6.{number}" for number in range(1, 13)]
DEAD = [f"127.0.6.{number}" for number in range(201, 204)]


class Server(NamedTuple):
    name: str
    address: str
    port: str
    extra: Mapping[str, str]

    @property
    def alive(self) -> bool:
        return self.address in ALIVE


def unchecked(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
    """Without `haproxy -c`, which would be a third of the time: a text that HAProxy refuses fails at the other side's reload."""
    return (0, "", "") if "-c" in words else run(words, environment, data)


class Side:
    """One of the two processes."""

    def __init__(self, folder: Path, binary: str, strategy: str, instances: Instances) -> None:
        folder.mkdir()
        self.strategy, self.instances = strategy, instances
        self.balancer = Balancer(folder, binary)
        self.ports = {name: free_port() for name in KINDS}
        self.balancer.port = self.ports["rr"]

    def text(self, group: Mapping[str, Sequence[Server]], lines: Mapping[str, str]) -> str:
        found = [
            "global",
            f"    stats socket {self.balancer.stats_socket} mode 600 level admin expose-fd listeners",
            f"    server-state-file {self.balancer.folder}/server-state",
            "    ssl-server-verify none",
            "defaults",
            "    mode http",
            "    timeout connect 5s",
            "    timeout check 5s",
            "    timeout client 10s",
            "    timeout server 10s",
            "    retries 0",
            "    load-server-state-from-file global",
        ]
        for name, kind in KINDS.items():
            bind = f"    bind 127.0.0.1:{self.ports[name]}"
            # A `listen` section is a backend, too.
            if name == "bare":
                found += [f"listen {name}", bind]
            else:
                found += [f"frontend {name}", f"    mode {kind.mode}", bind, f"    default_backend {name}", f"backend {name}"]
            found += [f"    {line.format(other=self.instances.ports['other'])}" for line in (*kind.lines, lines.get(name, "")) if line]
            for server in group[name]:
                words = [kind.words.format(name=server.name), *server.extra.values()]
                place = f"{server.address}:{self.instances.ports[server.port]}"
                found.append(f"    server {server.name} {place} id {100 + int(server.name[1:])} {' '.join(words)}".rstrip())
        return "\n".join(found) + "\n"

    def begin(self, text: str) -> None:
        """The process at the beginning of a sequence: only the file's servers, as the file has them, and nothing known of before."""
        (self.balancer.folder / "server-state").write_text("1\n")
        shutil.rmtree(self.balancer.state, ignore_errors=True)
        if not self.balancer.config.exists():
            self.balancer.start(text)
            return
        before = self.balancer.worker()
        self.balancer.config.write_text(text)
        os.utime(self.balancer.config, (time.time() - 60, time.time() - 60))
        ask(self.balancer.master_socket, "reload")
        for _attempt in range(200):
            try:
                if self.balancer.worker() != before:
                    self.balancer.until_it_serves()
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("the reload by hand did not come")

    def change(self, text: str) -> dict[str, Any]:
        replaced = self.balancer.folder / "replaced.cfg"
        shutil.copy2(self.balancer.config, replaced)
        self.balancer.config.write_text(text)
        # The start of a process is known to the second only, and the first change comes right behind it.
        os.utime(self.balancer.config, (time.time() + 2, time.time() + 2))
        plan = Plan("auto", self.balancer.binary, str(self.balancer.master_socket), "haproxy", (), 10)
        return apply(definition(self.balancer), plan, Wish("", True, str(replaced), 1, 2, self.strategy), False, unchecked)

    def order(self, command: str) -> None:
        assert ask(self.balancer.stats_socket, command).strip() == "", command

    def rows(self) -> dict[str, dict[str, str]]:
        """`show servers state` by server, in its columns' names."""
        lines = ask(self.balancer.stats_socket, "show servers state").splitlines()
        rows = [dict(zip(lines[1][2:].split(" "), line.split(" "))) for line in lines[2:] if line]
        return {f"{row['be_name']}/{row['srv_name']}": row for row in rows}

    def static(self) -> dict[str, tuple[str, ...]]:
        """What does not depend on checks and clients. Not compared: srv_iweight, which `set server weight` leaves as it was, so that
        percentages that a person sets later are of the weight that the server began with; and the positions and times."""
        lines = ask(self.balancer.stats_socket, "show stat").splitlines()
        names = lines[0][2:].split(",")
        stats = {f"{row['pxname']}/{row['svname']}": row for row in (dict(zip(names, line.split(","))) for line in lines[1:] if line)}
        found = {}
        for place, row in self.rows().items():
            # 2 and 4: the check is configured and enabled; the other bits come and go with it.
            check = f"check {int(row['srv_check_state']) & 6}"
            state = [f"{name} {row[name]}" for name in STATE_COLUMNS]
            # 0 and nothing at all are one limit: none.
            found[place] = (check, *state, *(f"{name} {stats[place].get(name, '') or 0}" for name in STAT_COLUMNS))
        return found

    def answers(self, group: Mapping[str, Sequence[Server]]) -> dict[str, Any]:
        """Who answers in each backend: by key where it is hashed, by cookie where there are cookies, else all who do."""
        found: dict[str, Any] = {}
        weights: dict[str, int] = {}
        for place, row in self.rows().items():
            name = place.split("/")[0]
            weights[name] = weights.get(name, 0) + int(row["srv_uweight"])
        for name, servers in group.items():
            if name == "least":
                answers = [self.get(name, f"Cookie: SRV={server.name}") for server in servers]
                # A client whose server is away is given to any other, with its cookie; of servers that are alike it is chance to which.
                found[name] = ["another" if "set-cookie" in answer.lower() else answer for answer in answers]
            elif name == "hash":
                found[name] = [self.get(name, f"x-key: k{number}") for number in range(16)]
            else:
                # Round after round, each server has had its turn.
                found[name] = {self.get(name) for _number in range(min(2 * weights.get(name, 0), 60) + 2)}
        return found

    def get(self, backend: str, header: str = "x-key: k") -> str:
        with socket.create_connection(("127.0.0.1", self.ports[backend]), timeout=10) as connection:
            connection.sendall(f"GET / HTTP/1.0\r\n{header}\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        head, _end, body = answer.partition("\r\n\r\n")
        # The cookie says which name has the place.
        cookie = [line for line in head.splitlines() if line.lower().startswith("set-cookie")]
        return " ".join([head.split(" ")[1] if head else "nothing", body if " 200 " in head else "", *cookie])


STATE_COLUMNS = (
    "srv_id",
    "srv_addr",
    "srv_port",
    "srv_uweight",
    "srv_admin_state",
    "srv_f_forced_id",
    "srv_fqdn",
    "srv_use_ssl",
    "srv_check_port",
    "srv_check_addr",
)
# `slim` is maxconn.
STAT_COLUMNS = ("slim", "qlimit", "cookie", "act", "bck", "mode", "addr", "check_rise", "check_fall")


class Scenario:
    """The random changes of one seed: `group` and `lines` are what the file is to have, and `step` changes them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: dict[str, str] = {}
        self.group: dict[str, list[Server]] = {name: [] for name in KINDS}
        for name in KINDS:
            self._come(name, self.random.randint(1, 4), dead=0.1)
        self.steps = self.random.choice((1, 2, 3, 3, 5))

    def step(self) -> list[str]:
        """Change some backends; returns what was done, for the message of a failure."""
        names = self.random.sample(list(KINDS), self.random.choice((1, 2, 2, 3, 4)))
        done = [f"{name}: {self._change(name)}" for name in names]
        if self.random.random() < 0.15:
            done.append(f"{names[0]}: {self._reload(names[0])}")
        return done

    def by_hand(self) -> list[str]:
        """Commands of a person, before a step."""
        places = [f"{name}/{server.name}" for name, servers in self.group.items() for server in servers]
        what = ("state maint", "state drain", "state ready", f"weight {self.random.randint(0, 9)}")
        return [f"set server {place} {self.random.choice(what)}" for place in self.random.sample(places, self.random.choice((0, 0, 1, 2)))]

    def _change(self, name: str) -> str:
        servers = self.group[name]
        there = {server.name for server in servers}
        what = self.random.choice(("come", "come", "go", "replace", "both", "back", "set", "set") if servers else ("come",))
        if what in ("go", "both"):
            leavers = self.random.sample(servers, self.random.randint(1, max(1, len(servers) - 1)))
            servers[:] = [server for server in servers if server not in leavers or (len(servers) == 1 and what == "go")]
        if what == "replace":
            servers = self.group[name] = []
        if what in ("replace", "both"):
            # Nobody may have to wait for a newcomer that never passes: what becomes of such a change is no matter of the way alone.
            self._come(name, 1, dead=0, first=True, not_as=there)
        if what in ("come", "replace", "both"):
            # A dead one among them would be waited for, too, on the way of the reload.
            self._come(name, self.random.randint(0, 2), dead=0.2 if what == "come" else 0)
        if what == "back":
            self._come(name, 1, again=True)
        if what == "set":
            index = self.random.randrange(len(servers))
            keyword = self.random.choice(KINDS[name].may)
            servers[index] = self._with(name, servers[index], keyword)
            what = f"{keyword} of {servers[index].name}"
        return what

    def _come(self, name: str, count: int, dead: float = 0.2, again: bool = False, first: bool = False, not_as: Collection[str] = ()) -> None:
        servers = self.group[name]
        there = {*not_as, *(server.name for server in servers)}
        # Of few names, so that one that went comes back, at its old address or at another one.
        names = [f"s{number}" for number in range(1, 5 if again else 10) if f"s{number}" not in there]
        for new in self.random.sample(names, min(count, len(names))):
            extra = {}
            if self.random.random() < 0.3:
                extra["weight"] = f"weight {self.random.randint(1, 5)}"
            if name == "spare" and not first and self.random.random() < 0.4:
                extra["backup"] = "backup"
            if name == "bare" and self.random.random() < 0.2:
                extra["check"] = CHECK
            if name == "rr" and not first and self.random.random() < 0.2:
                extra["check"] = "no-check"
            # One without a check gets requests whether it lives or not, so then it does.
            is_checked = extra.get("check", "" if name == "bare" else CHECK).startswith("check")
            addresses = DEAD if is_checked and self.random.random() < dead else ALIVE
            servers.insert(self.random.randint(0, len(servers)), Server(new, self._free(name, addresses), KINDS[name].port, extra))

    def _free(self, name: str, addresses: Sequence[str]) -> str:
        used = {server.address for server in self.group[name]}
        return self.random.choice([address for address in addresses if address not in used] or list(ALIVE[-1:]))

    def _with(self, name: str, server: Server, keyword: str) -> Server:
        if keyword == "address":
            return server._replace(address=self._free(name, ALIVE))
        if keyword == "port":
            return server._replace(port=next(port for port in PORTS[KINDS[name].port] if port != server.port))
        if keyword in ("weight", "maxconn"):
            value = f"{keyword} {self.random.randint(1, 6)}" if self.random.random() < 0.8 else ""
        elif keyword == "check":
            value = "no-check" if server.alive and name != "bare" else CHECK
        else:
            value = {"inter": "inter 60ms", "cookie": f"cookie {server.name}x", "backup": "backup"}[keyword]
        extra = {key: words for key, words in server.extra.items() if key != keyword}
        return server._replace(extra={**extra, keyword: value} if value and server.extra.get(keyword) != value else extra)

    def _reload(self, name: str) -> str:
        what = self.random.choice(KINDS[name].reload)
        servers = self.group[name]
        if what == "line" or not servers:
            self.lines[name] = "" if self.lines.get(name) else "timeout queue 7s"
            return "another line"
        index = self.random.randrange(len(servers))
        servers[index] = self._with(name, servers[index], what)
        return f"{what} of {servers[index].name}"


class Pair:
    """The two processes of a version."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.instances = Instances(folder, binary, ALIVE)
        self.auto, self.reload = (Side(folder / strategy, binary, strategy, self.instances) for strategy in ("auto", "reload"))
        self.pool = ThreadPoolExecutor(2)
        self.ways: dict[str, int] = {}

    def both(self, function: Any) -> list[Any]:
        return list(self.pool.map(function, (self.auto, self.reload)))

    def stop(self) -> None:
        for side in (self.auto, self.reload):
            side.balancer.stop()
        self.instances.stop()

    def play(self, seed: int) -> None:
        scenario = Scenario(seed)
        self.both(lambda side: side.begin(side.text(scenario.group, scenario.lines)))
        group = {name: list(servers) for name, servers in scenario.group.items()}
        for number in range(scenario.steps):
            said: list[object] = [f"seed {seed}, step {number + 1}"]
            self.settle(group, said)
            commands = [command for command in scenario.by_hand() if command.split(" ")[2] in self.auto.rows()]
            self.both(lambda side, commands=commands: [side.order(command) for command in commands])
            done = scenario.step()
            said += [commands, done]
            results = self.both(lambda side: side.change(side.text(scenario.group, scenario.lines)))
            said += [results[0]["applied_by"], results[0]["reason"], *(result["warnings"] for result in results)]
            ways = [result["applied_by"] for result in results]
            # A change that waits for newcomers waits in both ways.
            assert (ways[0] == "none") == (ways[1] == "none"), (ways, said)
            self.ways[ways[0]] = self.ways.get(ways[0], 0) + 1
            if ways[0] != "none":
                group = {name: list(servers) for name, servers in scenario.group.items()}
            self.same("static", [side.static() for side in (self.auto, self.reload)], said)
        self.settle(group, said)
        self.same("answers", self.both(lambda side: side.answers(group)), said)

    def settle(self, group: Mapping[str, Sequence[Server]], said: Sequence[object]) -> None:
        """Wait until the checks have found out who lives, in both."""
        alive = {f"{name}/{server.name}": server.alive for name, servers in group.items() for server in servers}
        for _attempt in range(200):
            wrong = [
                (side.strategy, place, row["srv_op_state"])
                for side in (self.auto, self.reload)
                for place, row in side.rows().items()
                if row["srv_op_state"] != ("2" if alive.get(place) and not int(row["srv_admin_state"]) & MAINTENANCE else "0")
            ]
            if not wrong:
                return
            time.sleep(0.02)
        raise AssertionError(f"the checks do not find out who lives: {wrong}, {said}")

    def same(self, what: str, found: Sequence[Mapping[str, Any]], said: Sequence[object]) -> None:
        auto, reload = found
        different = {key: (auto.get(key), reload.get(key)) for key in {*auto, *reload} if auto.get(key) != reload.get(key)}
        assert not different, f"{what} by auto and by reload: {different}, {said}"


@pytest.fixture(params=list(binaries().items()), ids=lambda item: item[0])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, request.param[1])
    yield made
    made.stop()


@pytest.mark.timeout(1800)
def test_both_ways_leave_the_same_servers_in_the_same_state_and_the_same_requests_reach_them(pair: Pair) -> None:
    for seed in range(FIRST, FIRST + SEQUENCES):
        pair.play(seed)
    total = sum(pair.ways.values())
    # Neither way is the exception, on any version.
    if SEQUENCES >= 20:
        assert pair.ways["runtime"] > total / 4, pair.ways
        assert pair.ways["reload"] > total / 10, pair.ways
