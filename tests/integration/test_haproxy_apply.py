# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""haproxy_apply's work on a real HAProxy of every version at hand: start, reload, proof, and what a failure leaves."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_process
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import (
    Definition,
    in_force,
    observe,
    read_config_file,
)
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError, Plan
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import StateError, read_failure
from backends import Backends
from balancer import Balancer, run


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends("127.0.2.1", "127.0.2.2", "127.0.2.3") as made:
        yield made


def definition(balancer: Balancer, **more: Any) -> Definition:
    fields: dict[str, Any] = {
        "name": "haproxy",
        "config_path": str(balancer.config),
        "binary": balancer.binary,
        "pid_file": str(balancer.pid_file),
        "stats_socket": "",
        "state_dir": str(balancer.state),
    }
    return Definition(**{**fields, **more})


def do(
    balancer: Balancer,
    method: str = "auto",
    checksum: str = "",
    start: bool = True,
    backup_file: str = "",
    check_mode: bool = False,
    timeout: float = 10,
    check_timeout: float = 5,
    service_command: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """By a reload, whatever changes: how it is made at runtime has files of its own."""
    plan = Plan(method, balancer.binary, str(balancer.master_socket), "haproxy", service_command, timeout)
    return apply(definition(balancer, **more), plan, Wish(checksum, start, backup_file, 2, check_timeout, "reload"), check_mode, run)


def servers(web: Backends, *numbers: int) -> list[str]:
    return [f"s{number} 127.0.2.{number}:{web.port}" for number in numbers]


def is_in_force(balancer: Balancer) -> tuple[bool, str]:
    described = definition(balancer)
    return in_force(described, observe(described, 5), read_config_file(str(balancer.config)))


@pytest.mark.parametrize("method", ["auto", "master_socket", "pid"])
def test_a_haproxy_that_does_not_run_is_started_and_the_next_run_does_nothing(balancer: Balancer, web: Backends, method: str) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1, 2)))
    result = do(balancer, method)
    assert (result["changed"], result["applied_by"]) == (True, "start")
    assert str(balancer.worker()) in result["proof"]
    assert balancer.reached() == {"127.0.2.1", "127.0.2.2"}
    worker = balancer.worker()
    assert do(balancer, method)["applied_by"] == "none"
    assert balancer.worker() == worker


def test_a_reload_that_is_asked_for_is_made_at_the_file_too(balancer: Balancer) -> None:
    """For what HAProxy reads besides, and its file does not show."""
    page = balancer.folder / "page"
    page.write_text("old")
    balancer.config.write_text(balancer.text(backend=f"    http-request return status 200 content-type text/plain file {page}\n"))
    do(balancer)
    page.write_text("new")
    assert do(balancer)["applied_by"] == "none"
    assert balancer.get() == "old"
    plan = Plan("auto", balancer.binary, str(balancer.master_socket), "haproxy", [], 10)
    described, worker = definition(balancer), balancer.worker()
    with pytest.raises(ApplyError, match="apply_strategy is runtime_only"):
        apply(described, plan, Wish("", True, "", 1, 1, "runtime_only", force=True), False, run)
    asked_for = Wish("", True, "", 1, 1, force=True)
    assert apply(described, plan, asked_for, True, run)["applied_by"] == "reload"
    assert (balancer.get(), balancer.worker()) == ("old", worker)
    result = apply(described, plan, asked_for, False, run)
    assert (result["applied_by"], result["changed"]) == ("reload", True)
    assert "it was asked for" in result["reason"]
    assert str(balancer.worker()) in result["proof"]
    assert balancer.get() == "new"
    assert do(balancer)["applied_by"] == "none"


def test_a_text_that_failed_is_due_at_once_when_the_program_is_another(balancer: Balancer, web: Backends) -> None:
    """An upgrade puts another program in the same place."""
    program = balancer.folder / "haproxy"
    program.write_text(f'#!/bin/sh\nexec {balancer.binary} "$@"\n')
    program.chmod(0o755)
    good, bad = balancer.text(*servers(web, 1)), balancer.text(*servers(web, 1), bind=UNBINDABLE)
    balancer.start(good)
    balancer.binary = str(program)
    balancer.config.write_text(good + "\n")
    do(balancer)
    balancer.config.write_text(bad)
    with pytest.raises(ApplyError):
        do(balancer)

    def failed_before() -> str:
        return str(report(definition(balancer), Candidate(bad, True, 50, 900, 0, 0, 0), False, run)["candidate"]["failed_before"])

    assert failed_before()
    program.write_text(program.read_text() + "# upgraded\n")
    assert failed_before() == ""


def test_a_haproxy_that_does_not_run_stays_stopped_when_it_is_not_to_be_started(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    assert do(balancer, start=False)["applied_by"] == "none"
    assert observe(definition(balancer), 5) is None


@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
def test_a_changed_file_is_reloaded_once_and_proven(balancer: Balancer, web: Backends, master: bool) -> None:
    balancer.start(balancer.text(*servers(web, 1, 2)), master)
    before = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2, 3)))
    result = do(balancer)
    assert (result["applied_by"], result["added"], result["removed"]) == ("reload", {"web": ["s3"]}, {"web": ["s1"]})
    assert balancer.worker() != before
    assert str(balancer.worker()) in result["proof"]
    assert balancer.reached() == {"127.0.2.2", "127.0.2.3"}
    assert do(balancer)["applied_by"] == "none"
    if master:
        assert balancer.reloads() == 1
        assert ("Success=1" in result["proof"]) is not balancer.binary_version.startswith("2.6")
    else:
        # The old script's way has no master whose word could be taken, and the result does not hide it.
        assert "weaker" in result["proof"]


def test_a_master_without_a_socket_is_reloaded_by_signal_with_the_weaker_proof(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    subprocess.run(
        [balancer.binary, "-W", "-D", "-f", str(balancer.config), "-p", str(balancer.pid_file)],
        check=True,
        capture_output=True,
    )
    balancer.until_it_serves()
    # A signal within milliseconds of a worker's first answer can be lost; a balancer has run for longer than that.
    time.sleep(1)
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    result = do(balancer)
    assert (result["applied_by"], "weaker" in result["proof"]) == ("reload", True)
    assert balancer.reached() == {"127.0.2.2"}


def test_the_service_manager_reloads_and_its_word_alone_is_no_proof(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    time.sleep(1)
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    systemctl = balancer.folder / "systemctl"
    systemctl.write_text("#!/bin/sh\nexit 0\n")
    systemctl.chmod(0o755)
    with pytest.raises(ApplyError, match="but not proven within 1 s: "):
        do(balancer, "service", service_command=[str(systemctl)], timeout=1)
    # What a unit's ExecReload does (haproxy.service: check, then SIGUSR2 to the master).
    systemctl.write_text(f'#!/bin/sh\ntest "$1 $2" = "reload haproxy" && kill -USR2 {balancer.pid()}\n')
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    assert do(balancer, "service", service_command=[str(systemctl)])["applied_by"] == "reload"
    assert balancer.reached() == {"127.0.2.2"}


def test_a_way_that_is_not_there_is_named_and_another_is_not_taken(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)), master=False)
    worker = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    with pytest.raises(ApplyError, match="no service manager knows service_name 'haproxy'"):
        do(balancer, "service")
    with pytest.raises(ApplyError, match="reload_method is master_socket, but the master cannot be asked: "):
        do(balancer, "master_socket")
    assert balancer.worker() == worker


def test_a_file_that_was_spoilt_since_it_was_judged_is_put_back_and_nobody_drained(balancer: Balancer, web: Backends) -> None:
    """It was accepted before it was written; this is the third look, at the file in its place."""
    good = balancer.text(*servers(web, 1, 2))
    balancer.config.write_text(good)
    do(balancer)
    worker = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2), "s3 no-such-host.invalid:80"))
    with pytest.raises(ApplyError, match=rf"^HAProxy does not accept {balancer.config}: ") as failure:
        do(balancer)
    assert "could not resolve address 'no-such-host.invalid'" in str(failure.value)
    assert (balancer.config.read_text(), balancer.worker()) == (good, worker)
    assert set(balancer.admin_states().values()) == {0}


def test_a_process_that_executes_its_program_anew_is_found_all_the_same(tmp_path: Path) -> None:
    """As a master does at each reload; while it does, the kernel shows no arguments of it."""
    program = tmp_path / "haproxy"
    program.write_text('#!/bin/sh\nexec "$0" "$@"\n')
    program.chmod(0o755)
    process = subprocess.Popen([str(program), "-f", str(tmp_path / "haproxy.cfg")])
    try:
        looks = [haproxy_process.find(str(tmp_path / "haproxy.cfg"), "") for _look in range(300)]
    finally:
        process.kill()
        process.wait()
    assert [found.pid if found else None for found in looks] == [process.pid] * 300


# An address that is not on this host passes `haproxy -c`, and no listener can be made of it.
UNBINDABLE = "192.0.2.1:80"


@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
def test_a_reload_that_fails_leaves_the_old_process_and_the_last_good_file(balancer: Balancer, web: Backends, master: bool) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer, "master_socket" if master else "pid")
    good = balancer.config.read_bytes()
    worker = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2), bind=UNBINDABLE))
    with pytest.raises(ApplyError, match="is the last good file again") as failure:
        do(balancer)
    if balancer.binary_version.startswith("2.6") and master:
        assert "HAProxy's master counts a failed reload; the old worker goes on" in str(failure.value)
    else:
        assert ("HAProxy refused the reload: " in str(failure.value)) is master
        assert UNBINDABLE in str(failure.value)
    assert balancer.config.read_bytes() == good
    assert balancer.worker() == worker
    assert balancer.reached() == {"127.0.2.1"}
    assert is_in_force(balancer)[0]
    # And it is no dead end: the next good file goes in.
    balancer.config.write_text(balancer.text(*servers(web, 3)))
    assert do(balancer)["applied_by"] == "reload"
    assert balancer.reached() == {"127.0.2.3"}


def test_a_start_that_fails_has_haproxys_own_words(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1), bind=UNBINDABLE))
    with pytest.raises(ApplyError, match=r"192\.0\.2\.1:80"):
        do(balancer)


def test_a_start_that_fails_falls_back_to_the_last_good_file(balancer: Balancer, web: Backends) -> None:
    good = balancer.text(*servers(web, 1))
    balancer.config.write_text(good)
    do(balancer)
    balancer.stop()
    bad = balancer.text(*servers(web, 2), bind=UNBINDABLE)
    balancer.config.write_text(bad)
    with pytest.raises(ApplyError, match=r"HAProxy did not start: .*is the last good file again .*HAProxy was started on it: process \d+ answers"):
        do(balancer)
    assert balancer.config.read_text() == good
    assert balancer.reached() == {"127.0.2.1"}
    assert is_in_force(balancer)[0]
    # What failed is remembered, because another try would be a reload of what serves now.
    failure = read_failure(str(balancer.state), "haproxy")
    assert failure is not None
    assert failure.checksum == hashlib.sha256(bad.encode()).hexdigest()


def test_when_neither_file_starts_both_reasons_are_said_and_nothing_is_held_against_the_text(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    balancer.stop()
    with socket.socket() as other:
        # Somebody else has the port now, which is no fault of the text. A process that was killed has it for a moment longer.
        for _attempt in range(100):
            with contextlib.suppress(OSError):
                other.bind(("127.0.0.1", balancer.port))
                break
            time.sleep(0.05)
        other.listen()
        balancer.config.write_text(balancer.text(*servers(web, 2)))
        with pytest.raises(ApplyError, match="HAProxy did not start: .*It does not start on that either: HAProxy did not start: "):
            do(balancer)
    assert read_failure(str(balancer.state), "haproxy") is None
    assert do(balancer)["applied_by"] == "start"
    assert balancer.reached() == {"127.0.2.1"}


def test_a_process_that_was_never_told_to_hand_its_sockets_over_is_replaced_all_the_same(balancer: Balancer, web: Backends) -> None:
    # As the old script's or Debian's own file has it; the new text says `expose-fd listeners` for the same socket.
    balancer.start(balancer.text(*servers(web, 1)).replace(" expose-fd listeners", ""), master=False)
    balancer.config.write_text(balancer.text(*servers(web, 1, 2)))
    assert do(balancer)["applied_by"] == "reload"
    assert balancer.reached() == {"127.0.2.1", "127.0.2.2"}


def test_without_a_last_good_file_the_one_that_was_replaced_comes_back(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    replaced = balancer.folder / "replaced.cfg"
    replaced.write_bytes(balancer.config.read_bytes())
    balancer.config.write_text(balancer.text(*servers(web, 2), bind=UNBINDABLE))
    with pytest.raises(ApplyError, match="last good file again"):
        do(balancer, backup_file=str(replaced))
    assert balancer.config.read_bytes() == replaced.read_bytes()
    assert balancer.reached() == {"127.0.2.1"}


def test_what_a_person_brought_in_since_comes_back_and_not_our_older_file(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    by_hand = balancer.text(*servers(web, 1, 2))
    balancer.stop()
    balancer.start(by_hand)
    replaced = balancer.folder / "replaced.cfg"
    replaced.write_text(by_hand)
    balancer.config.write_text(balancer.text(*servers(web, 3), bind=UNBINDABLE))
    with pytest.raises(ApplyError, match="replaced.cfg"):
        do(balancer, backup_file=str(replaced))
    assert balancer.config.read_text() == by_hand


def test_of_two_good_files_the_proven_one_comes_back(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    good = balancer.config.read_bytes()
    edited = balancer.folder / "edited.cfg"
    edited.write_text(balancer.text(*servers(web, 2)))
    balancer.config.write_text(balancer.text(*servers(web, 3), bind=UNBINDABLE))
    with pytest.raises(ApplyError, match="last-good"):
        do(balancer, backup_file=str(edited))
    assert balancer.config.read_bytes() == good


@pytest.mark.parametrize("folder", [False, True], ids=["-f twice", "-f folder"])
@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
def test_the_other_files_of_the_process_are_part_of_its_configuration(balancer: Balancer, web: Backends, master: bool, folder: bool) -> None:
    configs = balancer.folder / "conf"
    configs.mkdir()
    balancer.config = configs / "10-ours.cfg"
    other = configs / "20-other.cfg"
    other.write_text(f"backend other\n    server o1 127.0.2.3:{web.port}\n")
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    given = ["-f", str(configs)] if folder else ["-f", str(balancer.config), "-f", str(other)]
    words = [balancer.binary, "-D", "-n", "777", *given, "-p", str(balancer.pid_file)]
    try:
        subprocess.run([*words, *(["-W", "-S", str(balancer.master_socket)] if master else [])], check=True, capture_output=True)
        balancer.until_it_serves()
        time.sleep(0.5)
        balancer.config.write_text(balancer.text(*servers(web, 2)))
        assert do(balancer)["applied_by"] == "reload"
        assert set(balancer.servers()) == {"s2", "o1"}
        assert is_in_force(balancer)[0]
        # And it is started again as it was.
        assert b"777" in Path(f"/proc/{balancer.worker()}/cmdline").read_bytes().split(b"\0")
    finally:
        for pid in {balancer.pid(), balancer.worker()}:
            os.kill(pid, signal.SIGKILL)


def test_a_living_haproxy_in_the_pid_file_is_never_joined_by_a_second_one(balancer: Balancer, web: Backends) -> None:
    """As it happens with a relative -f and a chroot: its command line does not lead to the file."""
    balancer.start(balancer.text(*servers(web, 1)))
    ours = balancer.folder / "ours.cfg"
    ours.write_text(balancer.text(*servers(web, 2)))
    with pytest.raises(ApplyError, match=f"names the living HAProxy {balancer.pid()}"):
        do(balancer, config_path=str(ours))
    assert balancer.reached() == {"127.0.2.1"}


def test_without_a_place_for_the_masters_socket_it_is_started_without_a_master(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    plan = Plan("auto", balancer.binary, "", "", (), 10)
    assert apply(definition(balancer), plan, Wish("", True, "", 1, 1), False, run)["applied_by"] == "start"
    assert balancer.reached() == {"127.0.2.1"}


def test_the_file_that_is_put_back_keeps_its_mode(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    balancer.config.write_text(balancer.text(*servers(web, 2), bind=UNBINDABLE))
    balancer.config.chmod(0o640)
    with pytest.raises(ApplyError):
        do(balancer)
    assert balancer.config.stat().st_mode & 0o7777 == 0o640


def test_a_file_that_another_run_wrote_is_left_to_it(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    worker = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    with pytest.raises(ApplyError, match="is not the file that this run rendered"):
        do(balancer, checksum=hashlib.sha256(b"what this run rendered").hexdigest())
    assert balancer.worker() == worker
    assert do(balancer, checksum=hashlib.sha256(balancer.config.read_bytes()).hexdigest())["applied_by"] == "reload"


def test_a_run_waits_for_another_ones_lock_and_then_leaves(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    worker = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    balancer.state.mkdir()
    with (balancer.state / "haproxy.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StateError, match=r"haproxy\.lock is held: another run is applying a configuration, waited 1 s"):
            do(balancer, timeout=1)
        assert balancer.worker() == worker
    with pytest.raises(StateError, match="the state folder cannot be used: /dev/null/state/"):
        do(balancer, state_dir="/dev/null/state")
    # The lock's file stays, and says nothing: what counts is who holds it.
    assert do(balancer)["applied_by"] == "reload"


def test_check_mode_predicts_and_touches_nothing(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    worker = balancer.worker()
    balancer.config.write_text(balancer.text(*servers(web, 2)))
    result = do(balancer, check_mode=True)
    assert (result["changed"], result["applied_by"], result["added"]) == (True, "reload", {"web": ["s2"]})
    assert do(balancer, check_mode=True, checksum="0" * 64)["applied_by"] == "reload"
    assert balancer.worker() == worker
    assert not balancer.state.exists()


def test_a_restart_by_hand_needs_no_reload(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    text = balancer.config.read_text()
    balancer.stop()
    balancer.start(text)
    assert is_in_force(balancer)[0]
    worker = balancer.worker()
    assert do(balancer)["applied_by"] == "none"
    assert balancer.worker() == worker


def test_a_file_that_was_changed_by_hand_and_never_loaded_is_not_in_force(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    balancer.config.write_text(balancer.text(*servers(web, 1), backend="    balance leastconn\n"))
    assert is_in_force(balancer) == (False, "the file is not the one that was last applied to this process")


def test_a_balancer_that_is_taken_over_is_in_force_only_with_the_files_servers(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    assert is_in_force(balancer)[0]
    # An old time on a file that the process never read, as cp -p and tar leave it.
    balancer.config.write_text(balancer.text(*servers(web, 1, 2)))
    os.utime(balancer.config, (time.time() - 60, time.time() - 60))
    assert is_in_force(balancer) == (False, "the process has other servers than the file")
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    os.utime(balancer.config, (time.time() + 60, time.time() + 60))
    assert is_in_force(balancer) == (False, "the file is newer than the process")


def test_a_stale_pid_file_is_passed_over(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    master = balancer.pid()
    for stale in ("1", "999999", str(os.getpid()), "", "text"):
        balancer.pid_file.write_text(stale)
        found = haproxy_process.find(str(balancer.config), str(balancer.pid_file))
        assert found is not None
        assert found.pid == master


def test_a_process_with_another_file_is_not_ours(balancer: Balancer, web: Backends) -> None:
    balancer.start(balancer.text(*servers(web, 1)))
    other = balancer.folder / "other.cfg"
    other.write_text(balancer.config.read_text())
    assert haproxy_process.find(str(other), str(balancer.pid_file)) is None


def test_a_socket_of_another_process_is_not_asked(balancer: Balancer, web: Backends, tmp_path: Path) -> None:
    balancer.start(balancer.text(*servers(web, 1)), master=False)
    other = Balancer(tmp_path / "other", balancer.binary)
    other.folder.mkdir()
    try:
        other.start(other.text(*servers(web, 2)), master=False)
        running = observe(definition(balancer, stats_socket=str(other.stats_socket)), 5)
    finally:
        other.stop()
    assert running is not None
    # The one that our own file names is, when it is ours.
    assert running.stats_socket == str(balancer.stats_socket)
    assert running.servers is not None
    assert [server.name for server in running.servers["web"]] == ["s1"]


def test_a_killed_worker_is_no_reason_to_believe_that_all_is_well(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(balancer.text(*servers(web, 1)))
    do(balancer)
    os.kill(balancer.worker(), signal.SIGKILL)
    time.sleep(0.5)
    # HAProxy's master ends when its worker does; whatever is left, the file is not in force.
    assert not is_in_force(balancer)[0]
    assert do(balancer)["applied_by"] in ("start", "reload")
    assert balancer.reached() == {"127.0.2.1"}
