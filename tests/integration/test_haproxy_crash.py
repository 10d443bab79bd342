# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed at each of their steps: HAProxy serves on, and the next run heals what was left open.

On a real HAProxy of every version at hand, with clients that never try again. The steps are not listed here: they are counted as they
come, and each is killed once, so a step that is added is tried, too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import observe, read_config_file, servers_now
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import StateError
from backends import Backends
from balancer import Balancer, ask
from clients import WHILE_IT_CANNOT_LISTEN, Clients
from crash import Driver, Outcome
from haproxy_binaries import binaries
from test_haproxy_apply import UNBINDABLE, definition, do
from test_haproxy_transition import until_reached

# The numbers of the servers in the file; 4 is put in maintenance by hand, and 5 has its weight set by hand.
BY_HAND = (4, 5)
CHECK = "    default-server check inter 100ms fastinter 100ms rise 2 fall 10 weight 10\n    load-server-state-from-file global\n    retries 0\n"
# What is written to files is the same on every version, so all steps of writing are tried on the newest alone.
NEWEST = max(binaries(), key=lambda version: [int(part) for part in version.split(".")])
COMMANDS_AND_RENAMES = r"^(before |after )?(send|run|kill|replace|unlink)\b"


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
        return self.driver.apply(definition(self.balancer), plan, ("", True, "", 1, 3, "reload"), kill_at, only or self.only)

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
        # For a moment after a reload the old worker may still take a connection of the socket that both have.
        weights = {f"s{number}": "5" if by_hand and number == 5 else "10" for number in numbers}
        balancer.until(lambda: {row[3]: row[7] for row in balancer.rows()} == weights)
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


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*(f"127.0.4.{number}" for number in range(1, 9))) as made:
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
    shift = list(binaries().values()).index(balancer.binary) + (method == "pid")
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
            # Shifted by one after three, because some commands come by threes.
            after = (wanted, now, sets[2])[(kill_at + kill_at // 3 + shift) % 3]
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
    assert len(points) >= (25 if every_step else 10)


def test_a_run_killed_while_it_puts_everything_back_is_healed(balancer: Balancer, web: Backends, driver: Driver) -> None:
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
        # From the reload on; the other test has the points before. Each try costs clients and time, so not every point on every version.
        for kill_at in range(begin, len(failed.points) + 1, 2 if balancer.binary_version.startswith(NEWEST) else 4):
            failure.unlink(missing_ok=True)
            killed = scene.apply(bad, kill_at)
            points.append(killed.at)
            with told(f"killed at point {kill_at}, {killed.at}"):
                assert killed.killed
                # A text that is remembered is refused by the role: then no run comes to heal what is still open.
                assert not failure.exists() or (balancer.config.read_text() == good and {"s1", "s2"} <= in_service(balancer))
                if len(points) % 2:
                    assert "is the last good file again" in scene.apply(bad).error
                    assert balancer.config.read_text() == good
                    # Newcomers with an open connection cannot be taken away yet, and those that serve alone stay until others do.
                    until(lambda: {"s1", "s2"} <= in_service(balancer))
                assert scene.apply(good).error == ""
                scene.is_healed(1, 2, 4)
                assert set(clients.failures()) <= WHILE_IT_CANNOT_LISTEN
    assert len(points) >= 3


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
    assert len(points) >= 5


def first(scene: Scene, numbers: Sequence[int], kill_at: int) -> Outcome:
    scene.balancer.config.write_text(scene.text(*numbers))
    return scene.again(kill_at)


def test_a_server_that_was_added_and_never_enabled_serves_after_the_next_run(balancer: Balancer, web: Backends, driver: Driver) -> None:
    scene = Scene(balancer, web, driver)
    scene.start(1, 2)
    scene.killed_after(scene.text(3, 6), "add server")
    assert scene.apply(scene.text(3, 6)).result["applied_by"] == "reload"
    scene.is_healed(3, 6)


def test_a_leaver_that_died_meanwhile_gets_no_request_when_it_is_brought_back(balancer: Balancer, driver: Driver) -> None:
    with Backends("127.0.4.1", "127.0.4.2", "127.0.4.3") as web, Clients(balancer.port) as clients:
        scene = Scene(balancer, web, driver)
        scene.start(1, 2, 3)
        clients.answers.clear()
        scene.killed_after(scene.text(2, 3), "state maint")
        web.remove("127.0.4.1")
        healed = scene.apply(scene.text(1, 2, 3))
        assert (healed.result["applied_by"], healed.result["warnings"]) == ("reload", [])
        assert until_reached(balancer, 2, 3)
        web.add("127.0.4.1")
        scene.is_healed(1, 2, 3)
    assert clients.failures() == {}


def test_newcomers_that_serve_alone_are_not_taken_away_by_the_next_failure(balancer: Balancer, driver: Driver) -> None:
    with Backends(*(f"127.0.4.{number}" for number in (1, 2, 3, 6))) as web:
        scene = Scene(balancer, web, driver)
        scene.start(1, 2)
        scene.killed_after(scene.text(3, 6), "state maint")
        web.remove("127.0.4.1")
        web.remove("127.0.4.2")
        assert "is the last good file again" in scene.apply(scene.text(3, 6, bind=UNBINDABLE)).error
        assert until_reached(balancer, 3, 6)
        assert scene.apply(scene.text(3, 6)).result["applied_by"] == "reload"
        scene.is_healed(3, 6)


def test_a_newcomer_that_could_not_be_taken_away_is_not_taken_for_a_persons_later(balancer: Balancer, web: Backends, driver: Driver) -> None:
    scene = Scene(balancer, web, driver)
    scene.start(1, 2)

    def upload() -> None:
        # Refused while HAProxy tries to listen where it cannot.
        with contextlib.suppress(OSError):
            balancer.get("/slow?ms=5000")

    def keep_busy() -> None:
        for _number in range(40):
            threading.Thread(target=upload, daemon=True).start()
            time.sleep(0.05)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    assert "is the last good file again" in scene.apply(scene.text(3, 6, bind=UNBINDABLE)).error
    busy.join()
    # Requests run on them, so HAProxy does not delete them.
    assert {"s3", "s6"} <= set(balancer.servers())
    assert in_service(balancer) == {"s1", "s2"}
    described = definition(balancer)
    counted, _where = servers_now(described, observe(described, 5), read_config_file(str(balancer.config)))
    assert [server.name for server in counted["web"]] == ["s1", "s2"]
    assert scene.apply(scene.text(3, 6)).error == ""
    scene.is_healed(3, 6)


def test_servers_whose_port_changes_are_never_taken_for_newcomers_of_ours(balancer: Balancer, web: Backends, driver: Driver) -> None:
    with Backends("127.0.4.1", "127.0.4.2") as other:
        scene = Scene(balancer, web, driver)
        scene.start(1, 2)
        moved = scene.text(1, 2, bind=UNBINDABLE).replace(f":{web.port}", f":{other.port}")
        assert "is the last good file again" in scene.apply(moved).error
        scene.is_healed(1, 2)
        scene.killed_after(moved, "server-state")
        assert scene.apply(scene.text(1, 2)).error == ""
        scene.is_healed(1, 2)


def test_the_lock_of_a_dead_run_holds_nobody_up_and_that_of_a_living_one_until_it_is_done(balancer: Balancer, web: Backends, driver: Driver) -> None:
    scene = Scene(balancer, web, driver)
    scene.start(1, 2)
    scene.killed_after(scene.text(1, 3), "state drain")
    assert (balancer.state / "haproxy.lock").exists()
    assert scene.apply(scene.text(1, 3)).result["applied_by"] == "reload"
    scene.is_healed(1, 3)
    balancer.config.write_text(scene.text(2, 3))
    outcomes: list[Outcome] = []
    with (balancer.state / "haproxy.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: outcomes.append(scene.again()))
        waiting.start()
        time.sleep(1)
        assert (set(balancer.servers()), outcomes) == ({"s1", "s3"}, [])
    waiting.join()
    assert outcomes[0].result["applied_by"] == "reload"
    scene.is_healed(2, 3)


def test_the_file_and_its_folder_are_on_the_disk_before_haproxy_is_told_anything(balancer: Balancer, web: Backends, driver: Driver) -> None:
    scene = Scene(balancer, web, driver)
    for numbers in ((1, 2), (3, 6)):
        balancer.config.write_text(scene.text(*numbers))
        points = [point.removeprefix("after ") for point in scene.again().points if point.startswith(("after", "run"))]
        told_first = next(number for number, point in enumerate(points) if point.startswith(("send", "run")))
        assert {f"fsync {balancer.config}", f"fsync {balancer.folder}"} <= set(points[:told_first])


@pytest.mark.parametrize(("error", "is_harmless"), [(errno.EINVAL, True), (errno.EIO, False)], ids=["EINVAL", "EIO"])
def test_a_disk_that_fails_stops_the_run_before_anything_is_done_and_one_that_cannot_sync_does_not(
    balancer: Balancer, web: Backends, driver: Driver, monkeypatch: pytest.MonkeyPatch, error: int, is_harmless: bool
) -> None:
    scene = Scene(balancer, web, driver)
    scene.start(1, 2)
    before = {path.name: path.read_bytes() for path in balancer.state.iterdir()}
    worker = balancer.worker()
    balancer.config.write_text(scene.text(3, 6))

    def fsync(_descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fsync)
    if is_harmless:
        assert do(balancer)["applied_by"] == "reload"
        return
    with pytest.raises(StateError, match=f"{balancer.config} cannot be brought to the disk: {os.strerror(error)}"):
        do(balancer)
    assert {path.name: path.read_bytes() for path in balancer.state.iterdir()} == before
    assert (balancer.worker(), in_service(balancer)) == (worker, {"s1", "s2"})


def test_only_our_own_leftovers_are_removed(balancer: Balancer, web: Backends, driver: Driver) -> None:
    scene = Scene(balancer, web, driver)
    scene.start(1, 2)
    ours = [balancer.folder / ".haproxy.cfg.ab3_efgh.autoscale", balancer.folder / ".server-state.abcdefgh.autoscale"]
    ours += [balancer.state / f".haproxy.{name}.abcdefgh.autoscale" for name in ("json", "intent.json", "failed.json", "last-good.cfg")]
    others = [balancer.folder / name for name in (".haproxy.cfg.20261123", ".haproxy.cfg.swp", "haproxy.cfg.abcdefgh.autoscale")]
    others += [balancer.folder / ".other.cfg.abcdefgh.autoscale", balancer.state / ".internal.json.abcdefgh.autoscale"]
    for path in (*ours, *others):
        path.write_text("")
    assert scene.again().result["applied_by"] == "none"
    assert [path.name for path in ours if path.exists()] == []
    assert [path.name for path in others if not path.exists()] == []
