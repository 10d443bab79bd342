# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes without a reload when they are many, and when something goes wrong in the middle; on a real HAProxy of every version at hand."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_socket
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError, Plan
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import SocketError
from backends import Backends
from balancer import Balancer, ask, run
from clients import Clients
from crash import Driver, Outcome
from instances import Instances
from test_haproxy_apply import definition
from test_haproxy_crash import Scene, told

CHECK = "    default-server check inter 100ms fastinter 100ms rise 2 fall 10 weight 10\n    load-server-state-from-file global\n    retries 0\n"
# Each kind of line that a change at runtime has.
ONE_OF_EACH = (
    "add server",
    "set server \\S+ state drain; .* health down",
    "enable health",
    "set server \\S+ weight",
    "state drain$",
    "state maint",
    "del server",
)
HUNDRED = [f"127.0.9.{number}" for number in range(1, 101)]


def do(balancer: Balancer, text: str, strategy: str = "auto", drain_timeout: float = 30) -> dict[str, Any]:
    """Write the file, and bring HAProxy to it."""
    balancer.config.write_text(text)
    plan = Plan("auto", balancer.binary, str(balancer.master_socket), "haproxy", (), 10)
    return apply(definition(balancer), plan, Wish("", True, "", drain_timeout, 10, strategy), False, run)


def text(balancer: Balancer, *servers: str, backend: str = CHECK) -> str:
    return balancer.text(*servers, global_lines=f"    server-state-file {balancer.folder}/server-state\n", backend=backend)


@pytest.fixture(params=["master", "no master"])
def master(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "master")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was sent to HAProxy's sockets, an entry for each connection."""
    found: list[str] = []
    send = haproxy_socket.send

    def noting(path: str, command: str, timeout: float) -> str:
        found.append(re.sub(r"@!?[0-9]+ ", "", command))
        return send(path, command, timeout)

    monkeypatch.setattr(haproxy_socket, "send", noting)
    return found


def begin(balancer: Balancer, first: str, master: bool = True) -> None:
    (balancer.folder / "server-state").write_text("1\n")
    # Without the last one at first, so that the record speaks of the process that runs the file.
    balancer.start(first[: first.rindex("    server ")], master)
    assert do(balancer, first)["applied_by"] == "reload"
    balancer.until(lambda: {row[5] for row in balancer.rows()} == {"2"})


def test_from_one_server_to_a_hundred_and_back_without_a_reload_and_by_few_connections(
    balancer: Balancer, tmp_path: Path, sent: list[str], master: bool
) -> None:
    instances = Instances(tmp_path, balancer.binary, HUNDRED)
    try:
        servers = [f"s{number} {address}:{instances.ports['plain']} id {number + 1000}" for number, address in enumerate(HUNDRED)]
        begin(balancer, text(balancer, servers[0]), master)
        worker = balancer.worker()
        with Clients(balancer.port) as clients:
            for wanted in (servers, servers[-1:]):
                sent.clear()
                result = do(balancer, text(balancer, *wanted))
                assert (result["applied_by"], result["warnings"]) == ("runtime", [])
                looks = [command for command in sent if command.startswith("show ")]
                # A line of the command line holds 16 KiB; over the master each command has its prefix.
                assert len(sent) - len(looks) <= 6
                assert len(looks) < 50
                places = {f"{address}/plain" for address in HUNDRED[-len(wanted) :]}
                balancer.until(lambda places=places: balancer.reached(3 * len(places)) == places)
                assert balancer.servers().keys() == {server.split(" ")[0] for server in wanted}
        assert clients.failures() == {}
        assert balancer.worker() == worker
    finally:
        instances.stop()


def lines(web: Backends, *numbers: int, weight: int = 10) -> list[str]:
    """Server lines; the third one's weight is told."""
    return [f"s{number} 127.0.5.{number}:{web.port} id {100 + number}" + (f" weight {weight}" if number == 3 else "") for number in numbers]


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*(f"127.0.5.{number}" for number in range(1, 9))) as made:
        yield made


def fail_once(monkeypatch: pytest.MonkeyPatch, command: str, fault: Callable[[Callable[[], str]], str]) -> list[str]:
    """Let `fault` make the answer to the first line with this command, from what sends it; returns the lines that it met."""
    met: list[str] = []
    send = haproxy_socket.send

    def faulty(path: str, line: str, timeout: float) -> str:
        if met or not re.search(command, re.sub(r"@!?[0-9]+ ", "", line)):
            return send(path, line, timeout)
        met.append(line)
        return fault(lambda: send(path, line, timeout))

    monkeypatch.setattr(haproxy_socket, "send", faulty)
    return met


def nonsense(_send: Callable[[], str]) -> str:
    return "Unknown command: 'what'\n\n"


def lost(send: Callable[[], str]) -> str:
    send()
    raise SocketError("the answer did not come")


def cut(send: Callable[[], str]) -> str:
    return send()[:-2]


FAULTS = list(zip(ONE_OF_EACH, (nonsense, lost, cut, lost, lost, nonsense, cut)))


@pytest.fixture(params=FAULTS, ids=lambda item: f"{item[0]}, {item[1].__name__}")
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return fail_once(monkeypatch, *request.param)


LATER = "still has connections: it gets nothing new, and is deleted by a later run"


def until_gone(balancer: Balancer, *numbers: int) -> None:
    """2.6 keeps a connection that becomes idle in maintenance for its `pool-purge-delay`, and the server with it."""
    names = {f"s{number}" for number in numbers}
    balancer.until(lambda: do(balancer, balancer.config.read_text())["applied_by"] == "none" and balancer.servers().keys() == names)


def is_at(balancer: Balancer, web: Backends, *numbers: int) -> None:
    """HAProxy has these servers and no other, all of them serve, and nothing is left to do."""
    assert balancer.servers() == {f"s{number}": f"127.0.5.{number}:{web.port}" for number in numbers}
    assert set(balancer.admin_states().values()) == {0}
    balancer.until_all_serve({f"127.0.5.{number}" for number in numbers})
    assert not (balancer.state / "haproxy.intent.json").exists()
    assert (balancer.state / "haproxy.last-good.cfg").read_bytes() == balancer.config.read_bytes()
    worker = balancer.worker()
    assert do(balancer, balancer.config.read_text())["applied_by"] == "none"
    assert balancer.worker() == worker


def test_an_answer_that_is_not_understood_ends_in_a_reload_to_the_same_state(balancer: Balancer, web: Backends, fault: list[str]) -> None:
    begin(balancer, text(balancer, *lines(web, 1, 2, 3)))
    worker = balancer.worker()
    with Clients(balancer.port) as clients:
        result = do(balancer, text(balancer, *lines(web, 2, 3, 4, weight=20)))
        assert fault
        assert (result["applied_by"], (result["added"], result["removed"])) == ("reload", ({"web": ["s4"]}, {"web": ["s1"]}))
        assert re.search("^the change could not be made at runtime, so HAProxy is reloaded: .*(what|did not come|was answered with)", result["warnings"][0])
        assert result["warnings"][1:] == []
        assert balancer.worker() != worker
        is_at(balancer, web, 2, 3, 4)
    assert clients.failures() == {}
    assert {row[3]: row[7] for row in balancer.rows()} == {"s2": "10", "s3": "20", "s4": "10"}


def test_where_no_reload_is_allowed_it_ends_with_everything_as_it_was(balancer: Balancer, web: Backends, fault: list[str]) -> None:
    begin(balancer, text(balancer, *lines(web, 1, 2, 3)))
    good = balancer.config.read_text()
    worker = balancer.worker()
    with Clients(balancer.port) as clients:
        with pytest.raises(ApplyError, match="the change could not be made at runtime: .*(what|did not come|was answered with).*is the last good file again"):
            do(balancer, text(balancer, *lines(web, 2, 3, 4, weight=20)), "runtime_only")
        assert fault
        assert balancer.config.read_text() == good
        states = balancer.admin_states()
        # A newcomer whose answer was cut off may have served in between. With an open connection it is taken out of service now, and away by the next run.
        assert states.pop("s4", 1) & 1
        assert {"s2", "s3"} <= states.keys() <= {"s1", "s2", "s3"}
        assert set(states.values()) == {0}
        # One that was deleted already comes back by the next run.
        do(balancer, good, "runtime_only")
        is_at(balancer, web, 1, 2, 3)
    assert clients.failures() == {}
    assert {row[3]: row[7] for row in balancer.rows()} == {"s1": "10", "s2": "10", "s3": "10"}
    assert balancer.worker() == worker


@pytest.mark.parametrize("strategy", ["auto", "runtime_only"])
def test_a_server_that_a_person_adds_in_that_moment_is_met_and_not_mistaken(
    balancer: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    begin(balancer, text(balancer, *lines(web, 1, 2)))

    def by_hand_first(send: Callable[[], str]) -> str:
        assert "registered" in ask(balancer.stats_socket, f"add server web/s4 127.0.5.8:{web.port} id 999")
        return send()

    assert fail_once(monkeypatch, "add server", by_hand_first) == []
    wanted = text(balancer, *lines(web, 1, 4))
    if strategy == "auto":
        result = do(balancer, wanted, strategy)
        assert result["applied_by"] == "reload"
        assert "Already exists a server with the same name in backend" in result["warnings"][0]
        is_at(balancer, web, 1, 4)
    else:
        with pytest.raises(ApplyError, match="Already exists a server with the same name in backend"):
            do(balancer, wanted, strategy)
        is_at(balancer, web, 1, 2)


def test_a_leaver_with_a_connection_keeps_it_and_is_deleted_in_a_later_run(balancer: Balancer, web: Backends, sent: list[str], master: bool) -> None:
    begin(balancer, text(balancer, *lines(web, 1)), master)
    worker = balancer.worker()
    answers: list[str] = []
    download = threading.Thread(target=lambda: answers.append(balancer.get("/slow?ms=4000")))
    download.start()
    balancer.until(lambda: " 1 " in ask(balancer.stats_socket, "show servers conn web").splitlines()[1])
    wanted = text(balancer, *lines(web, 2, 3))
    result = do(balancer, wanted, drain_timeout=0.2)
    assert result["applied_by"] == "runtime"
    assert f"web/s1 {LATER}" in result["warnings"]
    assert balancer.admin_states() == {"s1": 1, "s2": 0, "s3": 0}
    # A run meanwhile looks, and that is all; who goes already is no loss.
    sent.clear()
    assert do(balancer, wanted)["applied_by"] == "none"
    assert [command for command in sent if not command.startswith("show ")] == []
    candidate = report(definition(balancer), Candidate(text(balancer, *lines(web, 2)), True, 50, 0, 0, 0, 0), False, run)["candidate"]
    assert (candidate["refusals"], answers) == ([], [])
    download.join()
    assert answers == ["127.0.5.1\n"]
    first = do(balancer, wanted)
    # 2.6 keeps the connection for later requests for five seconds, and does not delete the server before.
    assert (first["applied_by"], first["changed"]) == ("runtime", "s1" not in balancer.servers())
    until_gone(balancer, 2, 3)
    assert balancer.worker() == worker
    is_at(balancer, web, 2, 3)


def test_a_session_that_is_no_request_holds_a_leaver_as_well(balancer: Balancer, web: Backends, sent: list[str]) -> None:
    """`show servers conn` counts none of TCP mode, nor where connections are not shared."""
    begin(balancer, text(balancer, *lines(web, 1)).replace("mode http", "mode tcp"))
    with socket.create_connection(("127.0.0.1", balancer.port)) as client:
        client.sendall(b"GET /slow?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n")
        balancer.until(lambda: any(line.startswith("web,s1,") and line.split(",")[4] == "1" for line in ask(balancer.stats_socket, "show stat").splitlines()))
        wanted = text(balancer, *lines(web, 2, 3)).replace("mode http", "mode tcp")
        result = do(balancer, wanted, drain_timeout=0.2)
        assert result["warnings"] == ["1 requests still ran on servers that go after 0 s", f"web/s1 {LATER}"]
        sent.clear()
        assert do(balancer, wanted)["applied_by"] == "none"
        assert [command for command in sent if not command.startswith("show ")] == []
    do(balancer, wanted)
    until_gone(balancer, 2, 3)


class WithIds(Scene):
    """What is killed while it is changed without a reload. A limit changes, too: each text has its own."""

    def text(self, *numbers: int, bind: str = "") -> str:
        limit = sum(numbers)
        words = [f"s{number} 127.0.5.{number}:{self.web.port} id {100 + number}{f' maxconn {limit}' if number == 3 else ''}" for number in numbers]
        return text(self.balancer, *words)

    def again(self, kill_at: int = 0, only: str = "") -> Outcome:
        plan = (self.method, self.balancer.binary, str(self.balancer.master_socket), "haproxy", (), 10)
        return self.driver.apply(definition(self.balancer), plan, ("", True, "", 1, 3, "auto"), kill_at, only or self.only)

    def limit(self) -> str:
        """The limit of s3, the column `slim` of `show stat`."""
        return next(line.split(",")[6] for line in ask(self.balancer.stats_socket, "show stat").splitlines() if line.startswith("web,s3,"))


# Servers before, those wanted by the run that is killed, wanted by a run after it that wants something else again.
@pytest.mark.parametrize(
    ("sets", "method"),
    [(((1, 2, 3), (2, 3, 6), (3, 7)), "master_socket"), (((1, 3), (6, 7, 8), (2, 3)), "pid")],
    ids=["mixed", "all replaced, no master"],
)
def test_a_change_that_is_killed_at_any_command_is_healed_by_the_next_run_and_no_request_is_lost(
    balancer: Balancer, web: Backends, driver: Driver, sets: tuple[tuple[int, ...], ...], method: str
) -> None:
    scene = WithIds(balancer, web, driver, method, r"^(before |after )?(send|replace|unlink)\b")
    now = sets[0]
    (balancer.folder / "server-state").write_text("1\n")
    balancer.start(scene.text(*now), method == "master_socket")
    # A file that stands in force, with its record.
    assert scene.apply(scene.text(*now, 4)).result["applied_by"] == "reload"
    assert scene.apply(scene.text(*now)).result["applied_by"] == "runtime"
    ways: list[str] = []
    with Clients(balancer.port) as clients:
        for kill_at in range(1, 100):
            wanted = next(numbers for numbers in sets[:2] if numbers != now)
            killed = scene.apply(scene.text(*wanted), kill_at)
            assert not killed.error
            if not killed.killed:
                break
            # The same is wanted still; what was there before; something else.
            after = (wanted, now, sets[2])[(kill_at + kill_at // 3) % 3]
            with told(f"killed at point {kill_at}, {killed.at}", now, wanted, after):
                healed = scene.apply(scene.text(*after))
                assert (healed.error, [warning for warning in healed.result["warnings"] if LATER not in warning]) == ("", [])
                if healed.result["warnings"]:
                    until_gone(balancer, *after)
                ways.append(healed.result["applied_by"])
                is_at(balancer, web, *after)
                assert 3 not in after or scene.limit() == str(sum(after))
                assert clients.failures() == {}
            now = after
    # Both before and after each command that changes anything.
    assert len(ways) >= 12
    assert ways.count("runtime") >= len(ways) // 2


def test_what_was_set_by_a_run_that_was_killed_right_behind_its_record_stays(balancer: Balancer, web: Backends, driver: Driver) -> None:
    scene = WithIds(balancer, web, driver)
    begin(balancer, scene.text(2, 3))
    scene.killed_after(scene.text(1, 3), "replace .*/haproxy.json")
    assert scene.again().result["warnings"] == []
    is_at(balancer, web, 1, 3)
    assert scene.limit() == "4"
