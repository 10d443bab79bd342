# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed at each of their steps: HAProxy serves on, and the next run heals what was left open.

On a real HAProxy of every version at hand, with clients that never try again. The steps are not listed here: they are counted as they
come, and each is killed once, so a step that is added is tried, too."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import observe
from backends import Backends
from balancer import Balancer, ask
from clients import Clients
from crash import Driver, Outcome
from haproxy_binaries import binaries
from test_haproxy_apply import UNBINDABLE, definition
from test_haproxy_transition import until_reached

# The numbers of the servers in the file; 4 is put in maintenance by hand, and 5 has its weight set by hand.
BY_HAND = (4, 5)
CHECK = "    default-server check inter 100ms fastinter 100ms rise 2 fall 10 weight 10\n    load-server-state-from-file global\n    retries 0\n"
# What is written to files is the same on every version, so all steps of writing are tried on the newest alone.
NEWEST = max(binaries(), key=lambda version: [int(part) for part in version.split(".")])
COMMANDS_AND_RENAMES = "send|run|kill|replace|unlink"


class Scene:
    """A balancer that is changed and changed again, by runs that are killed and runs that are not."""

    def __init__(self, balancer: Balancer, web: Backends, driver: Driver, method: str = "master_socket", only: str = "") -> None:
        self.balancer, self.web, self.driver, self.method, self.only = balancer, web, driver, method, only

    def text(self, *numbers: int, bind: str = "") -> str:
        lines = [f"s{number} 127.0.4.{number}:{self.web.port}" for number in numbers]
        return self.balancer.text(*lines, global_lines=f"    server-state-file {self.balancer.folder}/server-state\n", backend=CHECK, bind=bind)

    def apply(self, text: str, kill_at: int = 0, only: str = "") -> Outcome:
        """A run as the role makes it: the file is written when it is another one, then applied."""
        if self.balancer.config.read_text() != text:
            self.balancer.config.write_text(text)
        return self.again(kill_at, only)

    def again(self, kill_at: int = 0, only: str = "") -> Outcome:
        plan = (self.method, self.balancer.binary, str(self.balancer.master_socket), "haproxy", (), 10)
        return self.driver.apply(definition(self.balancer), plan, ("", True, "", 1, 3), kill_at, only or self.only)

    def killed_after(self, text: str, point: str) -> None:
        """A run to this text that is killed right after what the regular expression says."""
        assert re.search(point, self.apply(text, 1, f"^(after|run) .*{point}").at)

    def start(self, *numbers: int) -> None:
        (self.balancer.folder / "server-state").write_text("1\n")
        self.balancer.config.write_text(self.text(*numbers))
        assert self.again().result["applied_by"] == "start"
        self.balancer.until_it_serves()

    def worker(self) -> int:
        record = json.loads((self.balancer.state / "haproxy.json").read_text())
        return int(record["worker"][0])

    def is_healed(self, *numbers: int, by_hand: bool = True) -> None:
        """HAProxy has exactly these servers, in service, but for what was set by hand; and nothing is left to do."""
        balancer = self.balancer
        assert balancer.servers() == {f"s{number}": f"127.0.4.{number}:{self.web.port}" for number in numbers}
        admin = balancer.admin_states()
        assert {name: state for name, state in admin.items() if state} == ({"s4": 1} if by_hand and 4 in numbers else {})
        assert {row[3]: row[7] for row in balancer.rows()} == {f"s{number}": "5" if by_hand and number == 5 else "10" for number in numbers}
        assert (balancer.folder / "server-state").read_text() == "1\n"
        assert not (balancer.state / "haproxy.intent.json").exists()
        assert [path.name for folder in (balancer.folder, balancer.state) for path in folder.iterdir() if path.name.startswith(".")] == []
        assert (balancer.state / "haproxy.last-good.cfg").read_bytes() == balancer.config.read_bytes()
        assert until_reached(balancer, *(number for number in numbers if not (by_hand and number == 4)))
        worker = self.worker()
        once_more = self.again()
        assert (once_more.result.get("applied_by"), once_more.error) == ("none", "")
        assert self.worker() == worker


@contextlib.contextmanager
def told(*what: object) -> Iterator[None]:
    """Say of a failure where it happened."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error


@pytest.fixture(params=list(binaries().items()), ids=lambda item: item[0])
def balancer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balancer]:
    made = Balancer(tmp_path, request.param[1])
    yield made
    made.stop()


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*(f"127.0.4.{number}" for number in range(1, 9))) as made:
        yield made


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as made:
        yield made


def until(true: Callable[[], bool]) -> None:
    for _attempt in range(100):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def in_service(balancer: Balancer) -> set[str]:
    return {row[3] for row in balancer.rows() if (row[5], row[6]) == ("2", "0")}


# (servers before, wanted by the run that is killed, wanted by a run after it that wants something else again)
MIXED = ((1, 2, 3, 4, 5), (2, 3, 4, 5, 6), (2, 3, 4, 5, 7))
# No server that can serve stays, so newcomers are added to the process first.
STARVED = ((1, 2, 4), (3, 4, 6), (4, 7, 8))


@pytest.mark.parametrize(
    ("sets", "method"),
    [(MIXED, "master_socket"), (STARVED, "master_socket"), (STARVED, "pid")],
    ids=["mixed", "all replaced", "all replaced, no master"],
)
def test_a_run_killed_at_any_step_harms_nobody_and_the_next_one_heals(
    balancer: Balancer, web: Backends, driver: Driver, sets: tuple[tuple[int, ...], ...], method: str
) -> None:
    every_step = sets is MIXED and balancer.binary_version.startswith(NEWEST)
    scene = Scene(balancer, web, driver, method, "" if every_step else COMMANDS_AND_RENAMES)
    now = sets[0]
    scene.start(*now)
    ask(balancer.stats_socket, "set server web/s4 state maint")
    if 5 in now:
        ask(balancer.stats_socket, "set server web/s5 weight 50%")
    points: list[str] = []
    with Clients(balancer.port) as clients:
        for kill_at in range(1, 200):
            wanted = next(numbers for numbers in sets[:2] if numbers != now)
            worker = balancer.worker()
            killed = scene.apply(scene.text(*wanted), kill_at)
            assert not killed.error
            if not killed.killed:
                break
            points.append(killed.at)
            # The same is wanted still; what was there before; something else.
            after = (wanted, now, sets[2])[kill_at % 3]
            with told(f"killed at point {kill_at}, {killed.at}", now, wanted, after):
                assert clients.failures() == {}
                if killed.at == "run begun":
                    # The second process takes over by itself; a run that comes upon it in that very moment is another matter.
                    until(lambda before=worker: balancer.worker() != before)
                healed = scene.apply(scene.text(*after))
                assert (healed.error, healed.killed, healed.result["warnings"]) == ("", False, [])
                scene.is_healed(*after)
                assert clients.failures() == {}
            now = after
    assert len(points) >= (25 if every_step else 14)


@pytest.mark.parametrize("again", [False, True], ids=["then a good text", "then the same text"])
def test_a_run_killed_while_it_puts_everything_back_is_healed(balancer: Balancer, web: Backends, driver: Driver, again: bool) -> None:
    scene = Scene(balancer, web, driver, only=COMMANDS_AND_RENAMES)
    good, bad = scene.text(1, 2, 4), scene.text(3, 4, 6, bind=UNBINDABLE)
    scene.start(1, 2, 4)
    ask(balancer.stats_socket, "set server web/s4 state maint")
    failure = balancer.state / "haproxy.failed.json"
    failed = scene.apply(bad)
    assert "is the last good file again" in failed.error
    begin = next(number for number, point in enumerate(failed.points, 1) if point.endswith("send reload"))
    points = []
    with Clients(balancer.port) as clients:
        # At the reload, and at each second of the points after it: the other test has the others.
        for kill_at in range(begin + again, len(failed.points) + 1, 2):
            failure.unlink(missing_ok=True)
            killed = scene.apply(bad, kill_at)
            points.append(killed.at)
            with told(f"killed at point {kill_at}, {killed.at}"):
                assert killed.killed
                # A text that is remembered is refused by the role: then no run comes to heal what is still open.
                assert not failure.exists() or (balancer.config.read_text() == good and {"s1", "s2"} <= in_service(balancer))
                if again:
                    assert "is the last good file again" in scene.apply(bad).error
                    assert balancer.config.read_text() == good
                    # Newcomers with an open connection cannot be taken away yet, and those that serve alone stay until others do.
                    until(lambda: {"s1", "s2"} <= in_service(balancer))
                assert scene.apply(good).error == ""
                scene.is_healed(1, 2, 4)
                # While HAProxy tries to listen where it cannot, it refuses; nothing else.
                assert set(clients.failures()) <= {"ConnectionRefusedError"}
    assert len(points) >= 5


@pytest.mark.parametrize("method", ["master_socket", "pid"])
def test_a_run_killed_while_it_starts_haproxy_is_healed(balancer: Balancer, web: Backends, driver: Driver, method: str) -> None:
    scene = Scene(balancer, web, driver, method, COMMANDS_AND_RENAMES)
    points = []
    for kill_at in range(1, 100):
        numbers = (1, 2, 3) if kill_at % 2 else (2, 3, 4)
        killed = scene.apply(scene.text(*numbers), kill_at) if balancer.config.exists() else first(scene, numbers, kill_at)
        assert not killed.error
        if not killed.killed:
            break
        points.append(killed.at)
        with told(f"killed at point {kill_at}, {killed.at}"):
            if killed.at == "run begun":
                balancer.until_it_serves()
            healed = scene.again()
            assert (healed.error, healed.result["warnings"]) == ("", [])
            scene.is_healed(*numbers, by_hand=False)
        balancer.stop()
        until(lambda: observe(definition(balancer), 1) is None)
    assert len(points) >= 7


def first(scene: Scene, numbers: Sequence[int], kill_at: int) -> Outcome:
    scene.balancer.config.write_text(scene.text(*numbers))
    return scene.again(kill_at)
