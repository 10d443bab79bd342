# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed at each of their steps: HAProxy serves on, and the next run heals what was left open.

On a real HAProxy of every version at hand, with clients that never try again. The steps are not listed here: they are counted as they
come, and each is killed once, so a step that is added is tried, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from backends import Backends
from balancer import Balancer, ask
from clients import Clients
from crash import Driver, Outcome
from haproxy_binaries import binaries
from test_haproxy_apply import definition
from test_haproxy_transition import until_reached

# The numbers of the servers in the file; 4 is put in maintenance by hand, and 5 has its weight set by hand.
BY_HAND = (4, 5)
CHECK = "    default-server check inter 100ms fastinter 100ms rise 2 fall 10 weight 10\n    load-server-state-from-file global\n    retries 0\n"
# What is written to files is the same on every version, so all steps of writing are tried on the newest alone.
NEWEST = max(binaries(), key=lambda version: [int(part) for part in version.split(".")])
COMMANDS_AND_RENAMES = "send|run|kill|replace|unlink"


class Scene:
    """A balancer that is changed and changed again, by runs that are killed and runs that are not."""

    def __init__(self, balancer: Balancer, web: Backends, driver: Driver, clients: Clients | None, method: str) -> None:
        self.balancer, self.web, self.driver, self.clients, self.method = balancer, web, driver, clients, method
        self.only = "" if balancer.binary_version.startswith(NEWEST) else COMMANDS_AND_RENAMES

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

    def serves_on(self, allowed: Sequence[str] = ()) -> None:
        assert self.clients is not None
        assert {failure: count for failure, count in self.clients.failures().items() if failure not in allowed} == {}

    def is_healed(self, *numbers: int) -> None:
        """HAProxy has exactly these servers, in service, but for what was set by hand; and nothing is left to do."""
        balancer = self.balancer
        assert balancer.servers() == {f"s{number}": f"127.0.4.{number}:{self.web.port}" for number in numbers}
        admin = balancer.admin_states()
        assert {name: state for name, state in admin.items() if state} == ({"s4": 1} if 4 in numbers else {})
        assert {row[3]: row[7] for row in balancer.rows()} == {f"s{number}": "5" if number == 5 else "10" for number in numbers}
        assert (balancer.folder / "server-state").read_text() == "1\n"
        assert not (balancer.state / "haproxy.intent.json").exists()
        assert [path.name for folder in (balancer.folder, balancer.state) for path in folder.iterdir() if path.name.startswith(".")] == []
        assert until_reached(balancer, *(number for number in numbers if number != 4))
        worker = balancer.worker()
        once_more = self.again()
        assert (once_more.result.get("applied_by"), once_more.error) == ("none", "")
        assert balancer.worker() == worker


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


def start(scene: Scene, *numbers: int) -> None:
    (scene.balancer.folder / "server-state").write_text("1\n")
    scene.balancer.config.write_text(scene.text(*numbers))
    assert scene.again().result["applied_by"] == "start"
    scene.balancer.until_it_serves()
    if 4 in numbers:
        ask(scene.balancer.stats_socket, "set server web/s4 state maint")
    if 5 in numbers:
        ask(scene.balancer.stats_socket, "set server web/s5 weight 50%")


# (servers before, wanted by the run that is killed, wanted by a run after it that wants something else again)
MIXED = ((1, 2, 3, 4, 5), (2, 3, 4, 5, 6), (2, 3, 4, 5, 7))
# No server that can serve stays, so newcomers are added to the process first.
STARVED = ((1, 2, 4), (3, 4, 6), (4, 7, 8))


@pytest.mark.parametrize("method", ["master_socket", "pid"])
@pytest.mark.parametrize("sets", [MIXED, STARVED], ids=["mixed", "starved"])
def test_a_run_killed_at_any_step_harms_nobody_and_the_next_one_heals(
    balancer: Balancer, web: Backends, driver: Driver, sets: tuple[tuple[int, ...], ...], method: str
) -> None:
    scene = Scene(balancer, web, driver, None, method)
    now = sets[0]
    start(scene, *now)
    seen: list[str] = []
    with Clients(balancer.port) as scene.clients:
        for kill_at in range(1, 200):
            wanted = next(numbers for numbers in sets[:2] if numbers != now)
            worker = balancer.worker()
            killed = scene.apply(scene.text(*wanted), kill_at)
            assert not killed.error
            if not killed.killed:
                break
            seen.append(killed.at)
            if killed.at == "run begun":
                # The second process takes over by itself; a run that comes upon it in that very moment is another matter.
                until(lambda before=worker: balancer.worker() != before)
            try:
                scene.serves_on()
                # The same is wanted still; what was there before; something else.
                now = (wanted, now, sets[2])[kill_at % 3]
                healed = scene.apply(scene.text(*now))
                assert (healed.error, healed.killed, healed.result["warnings"]) == ("", False, [])
                scene.is_healed(*now)
                scene.serves_on()
            except AssertionError as error:
                raise AssertionError(f"killed at point {kill_at}, {killed.at}, then {wanted} -> {now}: {error}") from error
    print("\n".join(seen))
    assert len(seen) >= (10 if scene.only else 25)
