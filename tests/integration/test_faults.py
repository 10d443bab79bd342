# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The fault matrix: a test for each thing that goes wrong around a run. Each asserts the bytes of the file, the serving
process, the requests during the fault, the exit status and the message, and that the next ordinary run works.

A run that is killed at each of its steps is in test_haproxy_crash.py, the faults of AWS are in test_role.py.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_reload, haproxy_socket, haproxy_transition
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import observe
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_process import fingerprint, identify
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError, Proof
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import Failure, StateError, read_failure, write_failure
from backends import Backends
from balancer import ROOT, Run, ask, free_port
from clients import WHILE_IT_CANNOT_LISTEN, Clients
from ec2_endpoint import Answer, Ec2Endpoint, page
from haproxy_binaries import binaries
from stage import Stage, instance_id, names, one
from test_haproxy_apply import UNBINDABLE, definition, do, is_in_force, run

NEWEST = list(binaries().values())[-1]


INSIDE = "HAPROXY_AUTOSCALE_TEST_SAMPLE"


class Sample(NamedTuple):
    """What the default template gives for all instances, and where."""

    folder: str
    port: int
    text: str


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, web: Backends) -> Sample:
    if INSIDE in os.environ:
        return Sample(*json.loads(os.environ[INSIDE]))
    folder = tmp_path_factory.mktemp("sample")
    with Ec2Endpoint() as endpoint:
        made = Stage(folder, NEWEST, web, endpoint)
        made.apply(*range(1, 9), haproxy_autoscale_start=False)
    return Sample(str(folder), made.balancer.port, made.balancer.config.read_text())


class Scene(Stage):
    """A stage that can begin without a run of the role, which would take most of a test's time."""

    def __init__(self, folder: Path, binary: str, web: Backends, aws: Ec2Endpoint, sample: Sample) -> None:
        super().__init__(folder, binary, web, aws)
        self.sample = sample

    def text(self, *numbers: int) -> str:
        """What the role would write for these instances."""
        text = self.sample.text.replace(self.sample.folder, str(self.balancer.folder)).replace(str(self.sample.port), str(self.balancer.port))
        gone = [instance_id(number) for number in range(1, 9) if number not in numbers]
        return "".join(line for line in text.splitlines(keepends=True) if not any(name in line for name in gone))

    def write(self, *numbers: int) -> None:
        self.balancer.config.write_text(self.text(*numbers))
        self.balancer.config.chmod(0o640)

    def begin(self, *numbers: int) -> None:
        """What a first run of the role leaves."""
        self.members(*numbers)
        self.write(*numbers)
        assert do(self.balancer)["applied_by"] == "start"


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint, sample: Sample) -> Iterator[Scene]:
    made = Scene(tmp_path, NEWEST, web, aws, sample)
    yield made
    made.balancer.stop()


@pytest.fixture(params=list(binaries().values()), ids=list(binaries()))
def stage_of_each_version(request: pytest.FixtureRequest, tmp_path: Path, web: Backends, aws: Ec2Endpoint, sample: Sample) -> Iterator[Scene]:
    made = Scene(tmp_path, request.param, web, aws, sample)
    yield made
    made.balancer.stop()


# What each case asserts.


@contextlib.contextmanager
def no_request_fails(stage: Stage) -> Iterator[None]:
    # At a pace that leaves the machine to the runs.
    with Clients(stage.balancer.port, pause=0.05) as clients:
        yield
    assert clients.failures() == {}
    assert clients.answers.total() > 20


@contextlib.contextmanager
def nothing_happens(stage: Stage) -> Iterator[None]:
    """Neither file, nor the folder around it, nor process, nor its servers change, and no request fails."""
    same = stage.untouched()
    with nothing_happens_to_the_process(stage):
        yield
    assert same()


@contextlib.contextmanager
def nothing_happens_to_the_process(stage: Stage) -> Iterator[None]:
    before = _process(stage)
    with no_request_fails(stage):
        yield
    assert _process(stage) == before


def _process(stage: Stage) -> tuple[int, int, int, list[list[str]]]:
    balancer = stage.balancer
    # The columns behind the weights are renewed with each check.
    return balancer.pid(), balancer.worker(), balancer.reloads(), [row[:9] for row in balancer.rows()]


def refused(done: Run, *words: str) -> bool:
    """Whether a run failed before it changed anything, and said these words."""
    assert (done.status, done.recap["failed"], done.recap["changed"]) == (2, 1, 0), done.output
    assert [word for word in words if word not in done.text] == [], done.output
    return True


def heals(stage: Stage, *numbers: int) -> bool:
    """Whether the next ordinary run brings this group in, whole and in force, and no request fails."""
    with no_request_fails(stage):
        stage.apply(*numbers)
        assert stage.serves(*numbers)
    assert list(stage.balancer.servers()) == [instance_id(number) for number in numbers]
    assert is_in_force(stage.balancer)[0]
    return True


def may_mount(test: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Run a test where it may mount, root or not: in a pytest of its own, in a namespace whose mounts end with it."""

    @functools.wraps(test)
    def elsewhere(stage: Scene) -> None:
        if INSIDE in os.environ:
            test(stage)
            return
        unshare = ["unshare", "--user", "--map-root-user", "--mount"]
        if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
            pytest.skip("this system lets no user make a namespace, so there is no small or read-only disk")
        with tempfile.TemporaryDirectory() as folder:
            words = [*unshare, sys.executable, "-m", "pytest", "-q", f"--basetemp={folder}/t", f"{__file__}::{test.__name__}"]
            # Without what tells this pytest that it is one of several.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
            environment[INSIDE] = json.dumps(stage.sample)
            done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout

    return elsewhere


# The group.


def test_an_empty_group_leaves_the_file_untouched(stage: Scene) -> None:
    stage.begin(1, 2)
    stage.members()
    with nothing_happens(stage):
        assert refused(stage.run(), "'webheads' has 0", "minimum_instances is 1", "is untouched, and so is the running HAProxy")
    assert heals(stage, 1, 2, 3)


@pytest.mark.full
def test_half_the_group_may_go_in_one_run_and_more_is_refused(stage: Scene) -> None:
    """More than half gone is more likely a fault than a wish, and half of it is the most that goes in one run."""
    stage.begin(1, 2, 3, 4)
    stage.members(4)
    with nothing_happens(stage):
        for arguments in ([], ["--check"]):
            assert refused(
                stage.run(*arguments),
                "backend webheads would lose 3 of its 4 servers (75 percent, 50 allowed)",
                "counted against the running process",
                "the running HAProxy are untouched",
                "-e haproxy_autoscale_maximum_removed_percent=100",
            )
    with no_request_fails(stage):
        done = stage.apply(3, 4)
        assert stage.serves(3, 4)
    assert "webheads: 2 in service, -2; by runtime" in done.text
    assert stage.balancer.config.read_text().count(" server i-") == 2
    # And what was refused goes in when it is said to be right.
    stage.variables["haproxy_autoscale_maximum_removed_percent"] = 75
    assert heals(stage, 4)


# The template.


def template(stage: Scene, text: str) -> str:
    """A template of the user's own, outside of the folder that is watched."""
    folder = stage.balancer.folder / "templates"
    folder.mkdir(exist_ok=True)
    (folder / "own.cfg.j2").write_text(text)
    return str(folder / "own.cfg.j2")


OURS = (ROOT / "templates" / "haproxy.cfg.j2").read_text()


def test_an_invalid_template_is_shown_and_nothing_is_touched(stage: Scene) -> None:
    template(stage, "")
    stage.begin(1, 2)
    stage.members(1, 2, 3)
    for broken, said in (("{{ no_such_variable.at_all }}\n", "no_such_variable"), ("{% for instance in instances %}\n", "endfor")):
        own = template(stage, OURS + broken)
        with nothing_happens(stage):
            assert refused(stage.run(haproxy_autoscale_template=own), said)
    assert heals(stage, 1, 2, 3)


@pytest.mark.full
def test_a_broken_edit_in_the_static_part_is_refused_with_haproxys_words(stage: Scene) -> None:
    """In a template of the operator's own, and in the lines that ours takes: HAProxy's words, with the line's own."""
    template(stage, "")
    stage.begin(1, 2)
    stage.members(1, 2, 3)
    own = template(stage, OURS.replace("option dontlognull", "option dontlognul"))
    with nothing_happens(stage):
        assert refused(
            stage.run(haproxy_autoscale_template=own),
            f"Refused: HAProxy does not accept the configuration that {own} gives.",
            "dontlognul",
            f"{stage.balancer.config} and the running HAProxy are untouched",
        )
        assert refused(stage.run(haproxy_autoscale_global_lines=["such is no keyword"]), "unknown keyword 'such'", "are untouched")
    assert heals(stage, 1, 2, 3)


def test_a_template_that_renders_no_backend_is_refused(stage: Scene) -> None:
    """HAProxy accepts it, and would answer every request with 503."""
    template(stage, "")
    stage.begin(1, 2)
    frontend = f"frontend webheads-in\n    mode http\n    timeout client 1s\n    bind 127.0.0.1:{stage.balancer.port}\n"
    own = template(stage, OURS.split("{% for given in __haproxy_autoscale_services")[0] + frontend)
    with nothing_happens(stage):
        assert refused(
            stage.run(haproxy_autoscale_template=own),
            "Refused: backend webheads would lose all of its 2 servers",
            "are untouched",
        )
    assert heals(stage, 1, 2, 3)


# Where it listens and writes.


def test_a_port_that_is_taken_is_refused_before_the_file_is_written(stage: Scene) -> None:
    stage.begin(1, 2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with nothing_happens(stage):
            said = f"Refused: HAProxy could not listen where the configuration says: bind {place}: Address already in use"
            assert refused(stage.run(haproxy_autoscale_stats_bind=place), said, "are untouched")
    # Free again, it is taken.
    stage.variables["haproxy_autoscale_stats_bind"] = place
    assert heals(stage, 1, 2, 3)
    assert stage.balancer.reloads() == 1


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the space that is left."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as handle:
        while True:
            handle.write(b"x" * 512)
    return filler


def apart(stage: Scene) -> Path:
    """Move the configuration into a folder of its own."""
    folder = stage.balancer.folder / "etc"
    stage.balancer.config = folder / "haproxy.cfg"
    stage.variables["haproxy_autoscale_config_path"] = str(stage.balancer.config)
    return folder


@pytest.mark.full
@may_mount
def test_a_full_disk_under_the_configuration_is_seen_before_it_is_written(stage: Scene) -> None:
    folder = apart(stage)
    mount(folder, "size=64k")
    stage.begin(1, 2)
    filler = fill(folder)
    stage.members(1, 2, 3)
    with nothing_happens(stage):
        assert refused(stage.run(), f"no space left in {folder}", "are untouched")
    assert names(folder) == ["filler", "haproxy.cfg"]
    filler.unlink()
    assert heals(stage, 1, 2, 3)


@pytest.mark.full
@may_mount
def test_a_full_disk_under_the_state_folder_is_seen_before_the_file_is_written(stage: Scene) -> None:
    mount(stage.balancer.state, "size=64k")
    stage.begin(1, 2)
    filler = fill(stage.balancer.state)
    stage.members(1, 2, 3)
    with nothing_happens(stage):
        assert refused(stage.run(), f"no space left in {stage.balancer.state}", "are untouched")
    filler.unlink()
    assert heals(stage, 1, 2, 3)


@may_mount
def test_a_disk_that_fills_up_in_the_middle_of_a_change_leaves_all_as_it_was(stage: Scene) -> None:
    """Before the first command to HAProxy, before the reload, and after it."""
    mount(stage.balancer.state, "size=64k")
    stage.begin(1, 2)
    good = stage.balancer.config.read_bytes()
    stage.write(2, 3)
    filler = fill(stage.balancer.state)
    said = r"No space left on device\. .* is the last good file again .* was not reloaded"
    with nothing_happens_to_the_process(stage), pytest.raises(StateError, match=said):
        do(stage.balancer)
    assert stage.balancer.config.read_bytes() == good
    filler.unlink()

    def drain_and_fill(*arguments: Any) -> int:
        busy = drain(*arguments)
        fill(stage.balancer.state)
        return busy

    drain = haproxy_transition.drain
    stage.write(2, 3)
    with pytest.MonkeyPatch.context() as patch, nothing_happens_to_the_process(stage):
        patch.setattr(haproxy_transition, "drain", drain_and_fill)
        with pytest.raises(ApplyError, match=r"server-state: No space left on device\. .* is the last good file again"):
            do(stage.balancer)
    assert stage.balancer.config.read_bytes() == good
    # That is no fault of the text's, which may come in as soon as there is space again.
    assert read_failure(str(stage.balancer.state), "haproxy") is None
    filler.unlink()

    def reload_and_fill(*arguments: Any) -> Proof:
        proof = reload(*arguments)
        fill(stage.balancer.state)
        return proof

    reload = haproxy_reload.reload
    stage.write(1, 2, 3)
    with pytest.MonkeyPatch.context() as patch, no_request_fails(stage):
        patch.setattr(haproxy_reload, "reload", reload_and_fill)
        with pytest.raises(StateError, match=r"HAProxy is at its file .*, but that could not be noted: .*No space left on device"):
            do(stage.balancer)
        assert stage.serves(1, 2, 3)
    filler.unlink()
    assert heals(stage, 1, 2, 3, 4)


@pytest.mark.full
@may_mount
def test_a_read_only_target_is_named(stage: Scene) -> None:
    folder = apart(stage)
    mount(folder, "size=64k")
    stage.begin(1, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    stage.members(1, 2, 3)
    with nothing_happens(stage):
        assert refused(stage.run(), f"Refused: {folder} cannot be written", "are untouched")
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    assert heals(stage, 1, 2, 3)


@may_mount
def test_a_read_only_state_folder_is_seen_before_the_file_is_written(stage: Scene) -> None:
    mount(stage.balancer.state, "size=64k")
    stage.begin(1, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(stage.balancer.state)], check=True)
    stage.members(1, 2, 3)
    with nothing_happens(stage):
        assert refused(stage.run(), f"Refused: {stage.balancer.state} cannot be written", "are untouched")
    subprocess.run(["mount", "-o", "remount,rw", str(stage.balancer.state)], check=True)
    assert heals(stage, 1, 2, 3)


# The process.


@pytest.mark.full
def test_a_stopped_haproxy_is_started_with_the_new_group_unless_it_is_not_to_be(stage: Scene) -> None:
    stage.begin(1, 2)
    stage.balancer.stop()
    left = stage.apply(1, 2, haproxy_autoscale_start=False)
    assert left.recap["changed"] == 0
    assert observe(definition(stage.balancer), 5) is None
    # What it was started on counts for the guard, and a member that came while it was down comes in with the start.
    done = stage.apply(1, 2, 3)
    assert "by start: process" in done.text
    assert stage.serves(1, 2, 3)
    assert heals(stage, 1, 2)


@contextlib.contextmanager
def starting(stage: Scene, words: Sequence[str]) -> Iterator[Callable[[], None]]:
    """Start HAProxy on a list that it waits for; what is given lets it go on, and each later process at once."""
    pipe, go_on, over = stage.balancer.folder / "list", threading.Event(), threading.Event()
    os.mkfifo(pipe)

    def feed() -> None:
        while not over.is_set():
            # As soon as somebody reads: without one, this fails.
            with contextlib.suppress(OSError):
                if go_on.is_set():
                    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            time.sleep(0.05)

    feeder = threading.Thread(target=feed)
    feeder.start()
    text = stage.text(1, 2).replace("    default_backend webheads\n", f"    http-request deny if {{ src -f {pipe} }}\n    default_backend webheads\n")
    stage.balancer.config.write_text(text)
    process = subprocess.Popen([stage.balancer.binary, *words, "-f", stage.balancer.config, "-p", stage.balancer.pid_file])
    try:
        # It runs, and has not come to its sockets.
        time.sleep(0.5)
        assert not stage.balancer.stats_socket.exists()
        yield go_on.set
    finally:
        over.set()
        feeder.join()
        process.kill()
        process.wait()


@pytest.mark.parametrize("socket", [True, False], ids=["master socket", "no master socket"])
def test_a_haproxy_that_is_starting_is_waited_for_and_neither_ended_nor_joined_by_another(stage_of_each_version: Scene, socket: bool) -> None:
    stage = stage_of_each_version
    stage.balancer.state.mkdir()
    (stage.balancer.state / "haproxy.server-state").write_text("1\n")
    words = ["-W", *(["-S", str(stage.balancer.master_socket)] if socket else [])]
    with starting(stage, words) as go_on:
        threading.Timer(1, go_on).start()
        result = do(stage.balancer)
        assert result["applied_by"] in ("none", "reload")
        assert stage.serves(1, 2)
        # The changed file goes in as ever.
        with no_request_fails(stage):
            stage.write(1, 2, 3)
            assert do(stage.balancer)["applied_by"] == "reload"
            assert stage.serves(1, 2, 3)


# The sockets.


@contextlib.contextmanager
def in_between(path: Path, answer: Callable[[str], str]) -> Iterator[None]:
    """Stand at the socket's path, hand on what is asked, and answer with what `answer` makes of the true answer."""
    real = path.with_name("real.sock")
    path.rename(real)

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            asked = b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()
            connection.sendall(answer(ask(real, asked)).encode())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(20)
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
    path.unlink()
    real.rename(path)


def halved(answer: str) -> str:
    return answer[: len(answer) // 2]


def late(seconds: float) -> Callable[[str], str]:
    def wait(answer: str) -> str:
        time.sleep(seconds)
        return answer

    return wait


def comes_in_without_the_master(stage: Scene, problem: str) -> None:
    """The change goes in by the statistics socket and a signal, drained as ever, and the weaker proof is said to be one."""
    with no_request_fails(stage):
        stage.write(2, 3)
        found = observe(definition(stage.balancer), 2)
        assert found is not None
        assert (found.workers, problem in found.problem) == (None, True)
        result = do(stage.balancer)
        assert (result["applied_by"], result["warnings"]) == ("reload", [])
        assert "weaker proof" in result["proof"]
        assert stage.serves(2, 3)
    assert is_in_force(stage.balancer)[0]


def test_an_absent_master_socket_is_made_up_for(stage_of_each_version: Scene) -> None:
    stage = stage_of_each_version
    stage.begin(1, 2)
    stage.balancer.master_socket.rename(stage.balancer.folder / "elsewhere")
    comes_in_without_the_master(stage, "No such file")


def test_a_refused_master_socket_is_made_up_for(stage_of_each_version: Scene) -> None:
    stage = stage_of_each_version
    stage.begin(1, 2)
    stage.balancer.master_socket.unlink()
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(stage.balancer.master_socket))
    comes_in_without_the_master(stage, "Connection refused")


def test_a_slow_master_socket_is_waited_for(stage_of_each_version: Scene) -> None:
    stage = stage_of_each_version
    stage.begin(1, 2)
    with in_between(stage.balancer.master_socket, late(0.3)), no_request_fails(stage):
        stage.write(2, 3)
        assert do(stage.balancer)["applied_by"] == "reload"
        assert stage.serves(2, 3)


def test_a_master_socket_that_does_not_answer_in_time_is_made_up_for(stage: Scene) -> None:
    stage.begin(1, 2)
    with in_between(stage.balancer.master_socket, late(20)):
        comes_in_without_the_master(stage, "timed out")


def test_a_master_socket_that_is_cut_in_mid_answer_proves_nothing(stage_of_each_version: Scene) -> None:
    stage = stage_of_each_version
    stage.begin(1, 2)
    with in_between(stage.balancer.master_socket, halved):
        comes_in_without_the_master(stage, "not answered to the end")


@pytest.mark.parametrize("spoil", [lambda answer: answer[:4], late(20)], ids=["cut", "late"])
def test_a_reload_whose_answer_is_lost_is_proven_by_the_masters_counters(stage: Scene, spoil: Callable[[str], str]) -> None:
    """It was done, and taking it for one that failed would put the old file back under a process that runs the new one."""
    stage.begin(1, 2)
    with in_between(stage.balancer.master_socket, lambda answer: spoil(answer) if answer.startswith("Success") else answer), no_request_fails(stage):
        stage.write(2, 3)
        result = do(stage.balancer, timeout=3)
        assert result["applied_by"] == "reload"
        assert "the master counts reload 1" in result["proof"]
        assert stage.serves(2, 3)
    assert stage.balancer.config.read_text() == stage.text(2, 3)
    assert is_in_force(stage.balancer)[0]


def test_an_admin_socket_without_admin_level_brings_the_change_in_and_says_what_was_not_done(stage_of_each_version: Scene) -> None:
    stage = stage_of_each_version
    stage.begin(1, 2)
    stage.balancer.stop()
    stage.balancer.start(stage.text(1, 2).replace("level admin", "level operator"), master=False)
    # The file that the process has is not the one that brings it to `level admin`, so nobody can be taken out before.
    with no_request_fails(stage):
        stage.write(2, 3)
        result = do(stage.balancer, stats_socket=str(stage.balancer.stats_socket))
        assert result["applied_by"] == "reload"
        assert "servers were not taken out first" in result["warnings"][0]
        assert "Permission denied" in result["warnings"][0]
        assert stage.serves(2, 3)
    assert stage.balancer.config.read_text() == stage.text(2, 3)
    with no_request_fails(stage):
        stage.write(3, 4)
        assert do(stage.balancer)["warnings"] == []
        assert stage.serves(3, 4)


# What happens to the process meanwhile.


@pytest.mark.parametrize("victim", ["worker", "master", "new worker"])
def test_a_haproxy_that_is_killed_during_the_reload_is_started_by_the_next_run(
    stage_of_each_version: Scene, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of_each_version
    stage.begin(1, 2)
    good = stage.balancer.config.read_bytes()
    victims = {"worker": stage.balancer.worker, "master": stage.balancer.pid}
    ask_truly = haproxy_socket.send

    def send(path: str, command: str, timeout: float) -> str:
        if command != "reload":
            return ask_truly(path, command, timeout)
        if victim in victims:
            master = stage.balancer.pid()
            os.kill(victims[victim](), signal.SIGKILL)
            # A master ends with its worker; asked at once, it may still make the reload, and nobody would miss the dead.
            for _attempt in range(100):
                if identify(master) is None:
                    break
                time.sleep(0.02)
            return ask_truly(path, command, timeout)
        old = stage.balancer.worker()
        answer = ask_truly(path, command, timeout)
        for _attempt in range(100):
            with contextlib.suppress(OSError, AssertionError):
                if stage.balancer.worker() != old:
                    break
            time.sleep(0.02)
        os.kill(stage.balancer.worker(), signal.SIGKILL)
        return answer

    stage.write(2, 3)
    with monkeypatch.context() as patch, Clients(stage.balancer.port, pause=0.05) as clients:
        patch.setattr(haproxy_socket, "send", send)
        with pytest.raises(ApplyError, match=r"not proven within 3 s: no process runs .* is the last good file again"):
            do(stage.balancer, timeout=3)
    # Nobody serves, so clients are refused, or cut before their answer or within it; what was answered was answered right.
    assert set(clients.failures()) <= {"ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected", "IncompleteRead"}
    assert stage.balancer.config.read_bytes() == good
    assert observe(definition(stage.balancer), 5) is None
    stage.write(2, 3)
    assert do(stage.balancer)["applied_by"] == "start"
    with no_request_fails(stage):
        assert stage.serves(2, 3)
    assert is_in_force(stage.balancer)[0]


UPGRADES = [(old, new) for number, new in enumerate(binaries()) for old in list(binaries())[:number]]


@pytest.mark.parametrize(("old", "new"), UPGRADES, ids=[f"{old} to {new}" for old, new in UPGRADES])
def test_a_haproxy_that_was_upgraded_between_two_runs_is_reloaded_into_the_new_version(stage: Scene, old: str, new: str) -> None:
    program = stage.balancer.folder / "haproxy"
    program.symlink_to(binaries()[old])
    stage.balancer.binary = str(program)
    stage.begin(1, 2)
    program.unlink()
    program.symlink_to(binaries()[new])
    with nothing_happens(stage):
        assert do(stage.balancer)["applied_by"] == "none"
    with no_request_fails(stage):
        stage.write(2, 3)
        result = do(stage.balancer)
        assert (result["applied_by"], result["warnings"]) == ("reload", [])
        assert stage.serves(2, 3)
    assert f"Version: {new}." in ask(stage.balancer.stats_socket, "show info")
    assert stage.balancer.config.read_text() == stage.text(2, 3)
    assert is_in_force(stage.balancer)[0]
    with no_request_fails(stage):
        stage.write(3, 4)
        assert do(stage.balancer)["applied_by"] == "reload"
        assert stage.serves(3, 4)


# The runs.


def answer(*numbers: int) -> Answer:
    reservation = f"<item><reservationId>r-1</reservationId><instancesSet>{''.join(one(number) for number in numbers)}</instancesSet></item>"
    return page("DescribeInstances", f"<reservationSet>{reservation}</reservationSet>")


@pytest.mark.parametrize("lead", [pytest.param(0, marks=pytest.mark.full), 1])
def test_of_two_runs_at_once_one_comes_in_whole_and_the_other_says_so(stage: Scene, lead: float) -> None:
    """Each gets another answer from AWS; the second begins at once, or while the first is under way."""
    stage.begin(1, 2, 3)
    stage.aws.fault("DescribeInstances", answer(1, 2), answer(2, 3))
    texts = {stage.text(1, 2): (1, 2), stage.text(2, 3): (2, 3)}
    with no_request_fails(stage):
        with ThreadPoolExecutor() as pool:
            first = pool.submit(stage.run)
            time.sleep(lead)
            runs = [pool.submit(stage.run).result(), first.result()]
        winner = texts[stage.balancer.config.read_text()]
        assert stage.serves(*winner)
    assert any(done.status == 0 for done in runs)
    for done in runs:
        assert done.status == 0 or "is not the file that this run rendered: another run, or a person, wrote it since. Nothing was changed" in done.text
    assert list(stage.balancer.servers()) == [instance_id(number) for number in winner]
    assert is_in_force(stage.balancer)[0]
    # A third one that gets the same answer as the last has nothing to do.
    stage.aws.heal()
    stage.members(*winner)
    with nothing_happens(stage):
        assert stage.run().recap["changed"] == 0


def test_a_handler_that_was_lost_is_made_up_for_by_the_next_run(stage: Scene) -> None:
    """Another role's handler fails between the write and ours."""
    stage.begin(1, 2)
    project = stage.balancer.folder / "project"
    for name, text in {
        "site.yml": "- hosts: localhost\n  gather_facts: false\n  roles: [breaks, haproxy_autoscale]\n",
        "roles/breaks/tasks/main.yml": "- ansible.builtin.debug:\n  changed_when: true\n  notify: Break\n",
        "roles/breaks/handlers/main.yml": "- name: Break\n  ansible.builtin.fail:\n    msg: such is life\n",
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (project / "roles" / "haproxy_autoscale").symlink_to(ROOT / "roles" / "haproxy_autoscale")
    stage.members(1, 2, 3)
    with nothing_happens_to_the_process(stage):
        done = stage.balancer.run(stage.variables, playbook=project / "site.yml")
    assert (done.status, "such is life" in done.text) == (2, True)
    assert stage.balancer.config.read_text() == stage.text(1, 2, 3)
    with no_request_fails(stage):
        done = stage.apply(1, 2, 3)
        assert stage.serves(1, 2, 3)
    assert "by runtime" in done.text
    assert stage.balancer.reloads() == 0
    assert heals(stage, 1, 2)


def pin(port: int) -> socket.socket:
    """An upload that goes on until it is finished: its worker cannot end before."""
    pinned = socket.create_connection(("127.0.0.1", port), timeout=20)
    pinned.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n")
    return pinned


def is_answered(pinned: socket.socket, sent: int) -> bool:
    with pinned:
        pinned.sendall(b"x" * (1000 - sent))
        return pinned.recv(65536).startswith(b"HTTP/1.1 200 ")


def processes(stage: Stage) -> dict[int, int]:
    """The HAProxy processes that run the file, with the memory that each has for itself, in KiB."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(stage.balancer.config) in (entry / "cmdline").read_bytes().split(b"\0"):
                size = re.search(r"^Pss:\s+(\d+) kB", (entry / "smaps_rollup").read_text(), re.MULTILINE)
                found[int(entry.name)] = int(size.group(1)) if size else 0
    return found


@pytest.mark.parametrize("method", ["master_socket", pytest.param("pid", marks=pytest.mark.full)])
def test_sixty_changes_in_a_row_with_pinned_connections_are_held_back_before_old_workers_heap_up(stage: Scene, method: str) -> None:
    maximum, kept = 3, list[tuple[socket.socket, int]]()
    stage.write(1, 2, 3)
    stage.members(1, 2, 3)
    assert do(stage.balancer, method)["applied_by"] == "start"
    alone = processes(stage)
    waited = reloads = 0
    with no_request_fails(stage):
        for number in range(60):
            kept.append((pin(stage.balancer.port), number))
            text = stage.text(1, 2, 3, *([4] if number % 2 else [])).replace("global\n", f"global\n    maxconn {2000 + number}\n", 1)
            before = stage.balancer.config.read_bytes(), stage.balancer.worker()
            candidate = report(definition(stage.balancer), Candidate(text, True, 50, 0, 0, maximum, 0), False, run)["candidate"]
            assert (candidate["differs"], candidate["plan"]) == (True, "reload")
            if candidate["postponed"]:
                waited += 1
                assert f"{maximum} old workers still finish their connections" in candidate["postponed"]
                assert (stage.balancer.config.read_bytes(), stage.balancer.worker()) == before
            else:
                reloads += 1
                stage.balancer.config.write_text(text)
                assert do(stage.balancer)["applied_by"] == "reload"
            now = processes(stage)
            assert len(now) <= len(alone) + maximum
            assert sum(now.values()) <= sum(alone.values()) * (maximum + 1) * 2
            for pinned, _since in kept:
                pinned.sendall(b"x")
        assert (reloads, waited) == (maximum, 60 - maximum)
    # The role says so, and writes nothing.
    stage.members(1, 2)
    with no_request_fails(stage):
        before = stage.balancer.config.read_bytes(), stage.balancer.worker()
        done = stage.run(haproxy_autoscale_maximum_old_workers=maximum)
        assert (stage.balancer.config.read_bytes(), stage.balancer.worker()) == before
    assert (done.status, done.recap["changed"]) == (0, 0), done.output
    assert "nothing was written, the change waits for a later run" in done.text
    assert f"{maximum} old workers still finish their connections, and maximum_old_workers is {maximum}" in done.text
    # Nobody was cut.
    assert [since for pinned, since in kept if not is_answered(pinned, 60 - since)] == []
    for _attempt in range(100):
        if len(processes(stage)) == len(alone):
            break
        time.sleep(0.1)
    stage.variables["haproxy_autoscale_maximum_old_workers"] = maximum
    with no_request_fails(stage):
        assert "by reload" in stage.apply(1, 2).text
        assert stage.serves(1, 2)
    assert is_in_force(stage.balancer)[0]


# The operator.


@pytest.mark.parametrize("edit", [pytest.param("    maxconn 500\n", id="valid"), pytest.param("    maxcon 500\n", id="broken", marks=pytest.mark.full)])
def test_a_file_that_was_edited_by_hand_and_never_loaded_is_replaced_and_kept_beside(stage: Scene, edit: str) -> None:
    stage.begin(1, 2)
    edited = stage.balancer.config.read_text().replace("global\n", "global\n" + edit)
    stage.balancer.config.write_text(edited)
    with nothing_happens_to_the_process(stage):
        done = stage.run()
    assert done.status == 0, done.output
    assert stage.balancer.config.read_text() == stage.text(1, 2)
    kept = [path for path in stage.balancer.folder.iterdir() if path.name.startswith("haproxy.cfg.")]
    assert [path.read_text() for path in kept] == [edited]
    assert "HAProxy was at this configuration already" in done.text
    assert heals(stage, 1, 2, 3)


def test_a_server_that_was_put_in_maintenance_by_hand_stays_there_over_a_change(stage: Scene) -> None:
    stage.begin(1, 2, 3)
    ask(stage.balancer.stats_socket, f"set server webheads/{instance_id(1)} state maint")
    with no_request_fails(stage):
        done = stage.apply(1, 2, 4)
        assert stage.serves(2, 4)
    assert stage.balancer.config.read_text() == stage.text(1, 2, 4)
    assert "WARNING" not in done.output
    assert {name: state & 1 for name, state in stage.balancer.admin_states().items()} == {instance_id(1): 1, instance_id(2): 0, instance_id(4): 0}
    ask(stage.balancer.stats_socket, f"set server webheads/{instance_id(1)} state ready")
    assert heals(stage, 1, 2, 4, 5)


# What is kept between runs.


def test_a_last_good_file_that_is_gone_or_cannot_be_read_is_said(stage: Scene) -> None:
    stage.begin(1, 2)
    last_good = stage.balancer.state / "haproxy.last-good.cfg"
    last_good.unlink()
    bad = stage.text(2, 3).replace(f"bind 127.0.0.1:{stage.balancer.port}", f"bind {UNBINDABLE}")
    before = stage.balancer.worker(), stage.balancer.servers()
    for said in ("There is no last good file to put back", "The last good file could not be put back: .*last-good.cfg: Is a directory"):
        stage.balancer.config.write_text(bad)
        with Clients(stage.balancer.port, pause=0.05) as clients, pytest.raises(ApplyError, match=said):
            do(stage.balancer)
        assert set(clients.failures()) <= WHILE_IT_CANNOT_LISTEN
        assert stage.balancer.config.read_text() == bad
        assert (stage.balancer.worker(), stage.balancer.servers()) == before
        assert stage.serves(1, 2)
        last_good.mkdir(exist_ok=True)
    # A whole run says it, too, before it touches anything.
    with nothing_happens(stage):
        assert refused(stage.run(), f"{last_good}: Is a directory")
    last_good.rmdir()
    assert heals(stage, 1, 2, 3)
    assert last_good.read_text() == stage.text(1, 2, 3)


@pytest.mark.full
def test_a_clock_that_was_set_back_costs_one_reload_at_most_and_blocks_nothing(stage: Scene) -> None:
    tomorrow = time.time() + 86400
    stage.begin(1, 2)
    for path in (stage.balancer.config, *stage.balancer.state.iterdir()):
        os.utime(path, (tomorrow, tomorrow))
    with nothing_happens(stage):
        assert stage.run().recap["changed"] == 0
    # Nor does a failure that is still to come hold a text back.
    failure = Failure(hashlib.sha256(stage.text(1, 2, 3).encode()).hexdigest(), fingerprint(stage.balancer.binary), "words", tomorrow)
    write_failure(str(stage.balancer.state), "haproxy", failure)
    assert heals(stage, 1, 2, 3)
    # After a restart by hand nothing but the times could say that the process runs the file.
    stage.balancer.stop()
    stage.balancer.start(stage.text(1, 2, 3))
    os.utime(stage.balancer.config, (tomorrow, tomorrow))
    with no_request_fails(stage):
        assert do(stage.balancer)["applied_by"] == "reload"
        assert do(stage.balancer)["applied_by"] == "none"
    assert heals(stage, 1, 2)


def test_after_a_reboot_without_aws_it_starts_on_the_last_good_file_whatever_is_on_disk(stage: Scene) -> None:
    stage.begin(1, 2)
    good = stage.balancer.config.read_bytes()
    unreachable = {"haproxy_autoscale_endpoint_url": f"http://127.0.0.1:{free_port()}"}
    broken = stage.text(1, 2).replace("global\n", "global\n    maxcon 5\n")
    # The last is valid, and nobody has seen it in force.
    for on_disk in (stage.text(1, 2), broken, stage.text(7)):
        stage.balancer.stop()
        stage.balancer.config.write_text(on_disk)
        done = stage.run(**unreachable)
        assert done.status == 2, done.output
        assert "Could not connect to the endpoint URL" in done.text
        assert "started on it" in done.text
        with no_request_fails(stage):
            assert stage.serves(1, 2)
        assert stage.balancer.config.read_bytes() == good
        kept = [path.read_text() for path in stage.balancer.folder.glob("haproxy.cfg.*")]
        assert (on_disk in kept) == (on_disk.encode() != good)
    # And as the service starts it, when that comes first.
    stage.balancer.stop()
    subprocess.run([NEWEST, "-D", "-W", "-f", stage.balancer.config, "-p", stage.balancer.pid_file, "-S", stage.balancer.master_socket], check=True)
    stage.balancer.until_it_serves()
    with nothing_happens(stage):
        assert refused(stage.run(**unreachable), "is untouched, and so is the running HAProxy")
    assert heals(stage, 1, 2, 3)


def test_a_connection_that_was_opened_ahead_of_its_request_reaches_no_leaver(stage_of_each_version: Scene) -> None:
    """As browsers open them. The old worker that holds it knows nothing of the second change."""
    stage = stage_of_each_version

    def bring_in(*numbers: int) -> str:
        text = stage.text(*numbers).replace("timeout http-request 10s", "timeout http-request 1s")
        assert "timeout http-request 1s" in text
        stage.balancer.config.write_text(text)
        return str(do(stage.balancer)["applied_by"])

    assert bring_in(1, 2) == "start"
    opened = [socket.create_connection(("127.0.0.1", stage.balancer.port), timeout=20) for _number in range(8)]
    try:
        time.sleep(0.2)
        for members in ((2, 3), (3, 4)):
            assert bring_in(*members) == "reload"
        time.sleep(1.5)
        # Closed without a word.
        answers = []
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            try:
                answers.append(b"".join(iter(lambda connection=connection: connection.recv(65536), b"")).decode())
            except ConnectionResetError:
                answers.append("")
        assert answers == [""] * 8
    finally:
        for connection in opened:
            connection.close()
