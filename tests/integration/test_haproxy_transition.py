# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Servers come and go around a reload and no client notices; on a real HAProxy of every version at hand, without retries."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_socket, haproxy_transition
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_config import Server, parse
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import observe
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import DRAIN, RUNNING, STOPPED, ServerState, SocketError
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import Intent, write_intent
from backends import Backends
from balancer import Balancer, ask
from clients import Clients
from test_haproxy_apply import UNBINDABLE, definition, do, is_in_force

ALIVE = (1, 2, 3, 4)
CHECK = "    default-server check inter 200ms fastinter 200ms rise 2 fall 2\n    load-server-state-from-file global\n    retries 0\n"


@pytest.fixture(params=[True, False], ids=["master", "no master"])
def master(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def web() -> Iterator[Backends]:
    with Backends(*(f"127.0.4.{number}" for number in ALIVE)) as made:
        yield made


def text(balancer: Balancer, web: Backends, *numbers: int, options: str = "", **more: str) -> str:
    """A backend of these servers; those that are not ALIVE are dead."""
    state = f"    server-state-file {balancer.folder}/server-state\n"
    lines = [f"s{number} 127.0.4.{number}:{web.port}{options.format(name=f's{number}')}" for number in numbers]
    return balancer.text(*lines, **{"global_lines": state, "backend": CHECK, **more})


def start(balancer: Balancer, web: Backends, *numbers: int, master: bool = True, **more: str) -> None:
    (balancer.folder / "server-state").write_text("1\n")
    balancer.start(text(balancer, web, *numbers, **more), master)
    assert do(balancer)["applied_by"] == "none"


def change(balancer: Balancer, web: Backends, *numbers: int, **more: str) -> dict[str, Any]:
    balancer.config.write_text(text(balancer, web, *numbers, **more))
    return do(balancer)


def reached(balancer: Balancer, *numbers: int) -> bool:
    return balancer.reached() == {f"127.0.4.{number}" for number in numbers}


def until_reached(balancer: Balancer, *numbers: int) -> bool:
    for _attempt in range(50):
        if reached(balancer, *numbers):
            return True
        time.sleep(0.1)
    return False


def test_a_dead_newcomer_gets_no_request_and_a_living_one_only_after_its_checks(balancer: Balancer, web: Backends, master: bool) -> None:
    start(balancer, web, 1, 2, master=master)
    with Clients(balancer.port) as clients:
        result = change(balancer, web, 1, 2, 3, 9)
        assert (result["applied_by"], result["warnings"]) == ("reload", [])
        # Before the check: not even the living one.
        assert until_reached(balancer, 1, 2, 3)
    assert clients.failures() == {}
    # The file is for one reload: the next start takes the servers as HAProxy does.
    assert (balancer.folder / "server-state").read_text() == "1\n"


def test_without_the_gate_the_dead_newcomer_is_noticed(balancer: Balancer, web: Backends) -> None:
    """What the test above would see if the gate did nothing; and the lines that are missing are named."""
    start(balancer, web, 1, 2)
    with Clients(balancer.port) as clients:
        result = change(balancer, web, 1, 2, 9, backend=CHECK.replace("    load-server-state-from-file global\n", ""))
    assert clients.failures()
    assert "web/s9" in result["warnings"][0]
    assert "`load-server-state-from-file global` in defaults" in result["warnings"][0]


def test_all_servers_are_replaced_at_once_and_nobody_notices(balancer: Balancer, web: Backends, master: bool) -> None:
    start(balancer, web, 1, 2, master=master)
    with Clients(balancer.port) as clients:
        result = change(balancer, web, 3, 4, 9)
        assert result["applied_by"] == "reload"
        web.remove("127.0.4.1")
        web.remove("127.0.4.2")
        assert reached(balancer, 3, 4)
    assert clients.failures() == {}


SORRY = "    server sorry 127.0.4.4:{port} backup\n"


def test_all_servers_are_replaced_at_once_and_nobody_gets_the_backup_server(balancer: Balancer, web: Backends) -> None:
    more = {"backend": CHECK + SORRY.format(port=web.port)}
    start(balancer, web, 1, 2, **more)
    with Clients(balancer.port) as clients:
        assert change(balancer, web, 3, 9, **more)["applied_by"] == "reload"
        assert reached(balancer, 3)
    assert clients.failures() == {}
    assert web.requests["127.0.4.4"] == 0


def test_a_backup_server_that_comes_with_the_newcomers_stands_for_none_of_them(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 2)
    with Clients(balancer.port) as clients:
        # Neither when it is not checked, so that nothing is known of it, nor when it is and passes.
        for sorry in (SORRY, SORRY.replace("backup", "check backup")):
            more = CHECK.replace("check ", "", 1) + sorry.format(port=web.port) + "    default-server check\n"
            balancer.config.write_text(text(balancer, web, 8, 9, backend=more))
            assert do(balancer, check_timeout=1)["applied_by"] == "none"
        web.add("127.0.4.9")
        assert do(balancer)["applied_by"] == "reload"
        assert reached(balancer, 9)
    assert clients.failures() == {}
    assert web.requests["127.0.4.4"] == 0


def test_where_only_the_backup_server_serves_or_is_left_nothing_is_waited_for(balancer: Balancer, web: Backends) -> None:
    more = {"backend": CHECK + SORRY.format(port=web.port)}
    start(balancer, web, 8, **more)
    assert until_reached(balancer, 4)
    with Clients(balancer.port) as clients:
        # It serves already: newcomers that do not pass yet are no reason to stay with the dead.
        assert change(balancer, web, 9, **more)["applied_by"] == "reload"
        web.add("127.0.4.9")
        assert until_reached(balancer, 9)
        # An operator who leaves the backup server alone wants it to serve.
        assert change(balancer, web, **more)["applied_by"] == "reload"
        assert reached(balancer, 4)
    assert clients.failures() == {}


def test_a_dead_newcomer_is_not_usable_for_a_moment_between_two_commands(
    balancer: Balancer, web: Backends, master: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(balancer, web, 1, 2, master=master)
    send, usable = haproxy_socket.send, []

    def one_by_one(path: str, line: str, timeout: float) -> str:
        # The master passes the commands of a line on one after the other, and requests come in between.
        answers = []
        for command in line.split("; "):
            answers.append(send(path, command, timeout))
            with contextlib.suppress(OSError, SocketError):
                rows = haproxy_socket.parse_servers_state(ask(balancer.stats_socket, "show servers state"))["web"]
                usable.extend(command for state in rows if state.server.name == "s9" and state.usable)
        return "".join(answers)

    monkeypatch.setattr(haproxy_socket, "send", one_by_one)
    assert change(balancer, web, 3, 4, 9)["applied_by"] == "reload"
    assert usable == []
    assert until_reached(balancer, 3, 4)


def test_servers_with_cookies_are_replaced_at_once_and_nobody_notices(balancer: Balancer, web: Backends) -> None:
    with_cookies = {"backend": CHECK + "    cookie SRV insert\n", "options": " cookie {name}"}
    start(balancer, web, 1, 2, **with_cookies)
    with Clients(balancer.port) as clients:
        # HAProxy 2.6 knows no cookie on a server that is added at runtime; the newcomers have to be proven all the same.
        result = change(balancer, web, 3, 4, 9, **with_cookies)
        assert (result["applied_by"], result["warnings"]) == ("reload", [])
        web.remove("127.0.4.1")
        web.remove("127.0.4.2")
        assert reached(balancer, 3, 4)
    assert clients.failures() == {}
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    connection.request("GET", "/")
    assert "SRV=s" in str(connection.getresponse().getheader("Set-Cookie"))
    connection.close()


def test_when_no_newcomer_passes_its_check_the_old_servers_stay_until_one_does(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 2)
    worker = balancer.worker()
    with Clients(balancer.port) as clients:
        balancer.config.write_text(text(balancer, web, 8, 9))
        result = do(balancer, check_timeout=1)
        assert result["applied_by"] == "none"
        assert "no other server of web passes its check yet, so the servers that go stay for this run" in result["warnings"][0]
        assert (balancer.worker(), reached(balancer, 1, 2)) == (worker, True)
        assert not is_in_force(balancer)[0]
        # However often it is tried.
        assert do(balancer, check_timeout=1)["applied_by"] == "none"
        assert reached(balancer, 1, 2)
        web.add("127.0.4.9")
        assert do(balancer)["applied_by"] == "reload"
        assert reached(balancer, 9)
    assert clients.failures() == {}
    assert is_in_force(balancer)[0]


def test_the_last_living_server_stays_while_those_that_remain_are_dead(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 8, 9)
    time.sleep(1)
    with Clients(balancer.port) as clients:
        balancer.config.write_text(text(balancer, web, 8, 9))
        assert do(balancer, check_timeout=1)["applied_by"] == "none"
        assert reached(balancer, 1)
    assert clients.failures() == {}


@pytest.mark.parametrize("slow", ["", " slowstart 30s"], ids=["", "slowstart"])
def test_a_port_that_changes_on_every_server_is_no_outage(balancer: Balancer, web: Backends, slow: str) -> None:
    more = CHECK.replace("rise 2", f"rise 2{slow}")
    with Backends("127.0.4.1", "127.0.4.2") as other:
        start(balancer, web, 1, 2, backend=more)
        moved = text(balancer, web, 1, 2, backend=more).replace(f":{web.port}", f":{other.port}")
        with Clients(balancer.port) as clients:
            balancer.config.write_text(moved)
            result = do(balancer)
            assert result["applied_by"] == "reload"
            assert "cannot be added at runtime" in result["warnings"][0]
        assert clients.failures() == {}
        assert balancer.servers()["s1"] == f"127.0.4.1:{other.port}"


def test_servers_in_their_slow_start_are_replaced_without_an_outage(balancer: Balancer, web: Backends) -> None:
    more = CHECK.replace("rise 2", "rise 2 slowstart 30s")
    start(balancer, web, 1, 8, backend=more)
    web.remove("127.0.4.1")
    time.sleep(1)
    web.add("127.0.4.1")
    assert until_reached(balancer, 1)
    with Clients(balancer.port) as clients:
        assert change(balancer, web, 3, 4, backend=more)["applied_by"] == "reload"
    assert clients.failures() == {}


def test_an_environment_variable_is_no_change_of_a_server(balancer: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_ONE", "127.0.4.1")
    plain = text(balancer, web, 1).replace("s1 127.0.4.1:", 's1 "${WEB_ONE}":')
    (balancer.folder / "server-state").write_text("1\n")
    balancer.start(plain)
    assert is_in_force(balancer)[0]
    with Clients(balancer.port) as clients:
        balancer.config.write_text(plain.replace("global\n", "global\n    maxconn 500\n"))
        result = do(balancer)
        assert (result["applied_by"], result["changed_servers"], result["warnings"]) == ("reload", {}, [])
    assert clients.failures() == {}


def test_disabled_that_is_taken_from_a_line_brings_the_server_in(balancer: Balancer, web: Backends) -> None:
    off = text(balancer, web, 1, 2).replace(f"127.0.4.2:{web.port}", f"127.0.4.2:{web.port} disabled")
    (balancer.folder / "server-state").write_text("1\n")
    balancer.start(off)
    assert do(balancer)["applied_by"] == "none"
    assert change(balancer, web, 1, 2)["applied_by"] == "reload"
    assert until_reached(balancer, 1, 2)


def test_a_server_state_file_that_cannot_be_written_leaves_everything_as_it_was(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(text(balancer, web, 1, 2))
    do(balancer)
    good = balancer.config.read_bytes()
    balancer.config.write_text(text(balancer, web, 2, 3).replace("/server-state", "/none/server-state"))
    with pytest.raises(ApplyError, match="none/server-state"):
        do(balancer)
    assert balancer.config.read_bytes() == good
    assert set(balancer.admin_states().values()) == {0}
    assert reached(balancer, 1, 2)
    assert is_in_force(balancer)[0]


def test_servers_without_a_check_are_not_held_down(balancer: Balancer, web: Backends) -> None:
    unchecked = "    load-server-state-from-file global\n"
    start(balancer, web, 1, backend=unchecked)
    assert change(balancer, web, 2, 3, backend=unchecked)["applied_by"] == "reload"
    assert reached(balancer, 2, 3)


def test_a_connection_that_stays_on_the_old_worker_reaches_no_leaver(balancer: Balancer, web: Backends) -> None:
    # Without idle-close-on-response, and kept busy: the old worker goes on serving this connection.
    start(balancer, web, 1, 2, 3)
    slow = threading.Thread(target=balancer.get, args=("/slow?ms=1500",))
    slow.start()
    time.sleep(0.2)
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    seen = []

    def request() -> str:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()

    try:
        seen.append(request())
        change(balancer, web, 2, 3)
        after = [request() for _number in range(1)]
    finally:
        connection.close()
    slow.join()
    assert "127.0.4.1" not in after


def test_running_requests_of_a_leaver_are_finished(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(balancer.get("/slow?ms=1500").strip()))
    thread.start()
    time.sleep(0.3)
    result = change(balancer, web, 2)
    thread.join()
    assert answers == ["127.0.4.1"]
    assert (result["applied_by"], result["warnings"]) == ("reload", [])
    assert reached(balancer, 2)


def test_clients_with_a_cookie_do_not_stay_with_a_leaver_until_it_is_gone(balancer: Balancer, web: Backends) -> None:
    """They go on reaching a drained server, so there is always a request that runs on it; also when the drain's time is over."""
    start(balancer, web, 1, 2, backend=CHECK + "    cookie SRV insert\n", options=" cookie {name}")
    answers: list[tuple[float, str]] = []
    over = threading.Event()

    def stay() -> None:
        while not over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
            connection.request("GET", "/slow?ms=700", headers={"Cookie": "SRV=s1"})
            answer = connection.getresponse().read().decode().strip()
            answers.append((time.monotonic(), answer))
            connection.close()

    threads = [threading.Thread(target=stay) for _number in range(3)]
    for number, thread in enumerate(threads):
        time.sleep(0.2 * bool(number))
        thread.start()
    result = change(balancer, web, 2, backend=CHECK + "    cookie SRV insert\n", options=" cookie {name}")
    returned = time.monotonic()
    time.sleep(1)
    over.set()
    for thread in threads:
        thread.join()
    assert result["warnings"] == []
    # The leaver may be stopped now: what it had to answer is answered.
    assert {answer for when, answer in answers if when > returned} == {"127.0.4.2"}
    assert "127.0.4.1" in {answer for _when, answer in answers}


def test_a_request_that_outlasts_the_drain_is_said_and_still_finished(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 2)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(balancer.get("/slow?ms=4000").strip())) for _number in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    result = change(balancer, web, 2)
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["127.0.4.1", "127.0.4.2"]
    assert "1 requests still ran" in result["warnings"][0]


def test_what_a_person_set_survives_a_reload_with_the_new_port(balancer: Balancer, web: Backends, master: bool) -> None:
    more = "    cookie SERVER insert\n"
    start(balancer, web, 1, 2, 3, 4, master=master, backend=CHECK + more)
    for command in ("set server web/s1 state maint", "set server web/s2 state drain", "set server web/s3 weight 50%"):
        ask(balancer.stats_socket, command)
    weights = [line.split(" ")[7] for line in ask(balancer.stats_socket, "show servers state").splitlines() if " s3 " in line]
    result = change(balancer, web, 1, 2, 3, 4, 9, backend=CHECK + more)
    assert (result["applied_by"], result["warnings"]) == ("reload", [])
    states = balancer.admin_states()
    assert (states["s1"] & 1, states["s2"] & 8, states["s4"]) == (1, 8, 0)
    assert [line.split(" ")[7] for line in ask(balancer.stats_socket, "show servers state").splitlines() if " s3 " in line] == weights
    # A server whose port the file changes gets that port, and what was set on its name is not another server's.
    moved = text(balancer, web, 1, 2, 3, 4, backend=CHECK + more).replace(f"127.0.4.4:{web.port}", f"127.0.4.4:{web.port + 1}")
    balancer.config.write_text(moved)
    assert do(balancer)["applied_by"] == "reload"
    assert balancer.servers()["s4"] == f"127.0.4.4:{web.port + 1}"
    assert balancer.servers()["s1"] == f"127.0.4.1:{web.port}"


def weight(balancer: Balancer, name: str) -> str:
    return next(row[7] for row in balancer.rows() if row[3] == name)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("staying", [(4,), ()], ids=["one stays", "all move"])
def test_what_a_person_set_survives_a_port_that_changes(balancer: Balancer, web: Backends, staying: Sequence[int], checked: bool) -> None:
    more = {"backend": CHECK if checked else CHECK.replace("check ", "", 1), "options": " weight 10"}
    with Backends("127.0.4.1", "127.0.4.2", "127.0.4.3") as other:
        start(balancer, web, 1, 2, 3, *staying, **more)
        for command in ("set server web/s1 state maint", "set server web/s2 state drain", "set server web/s3 weight 50%"):
            ask(balancer.stats_socket, command)
        moved = re.sub(rf"(127\.0\.4\.[123]):{web.port}", rf"\1:{other.port}", text(balancer, web, 1, 2, 3, *staying, **more))
        balancer.config.write_text(moved)
        assert do(balancer)["applied_by"] == "reload"
        assert {name: place for name, place in balancer.servers().items() if name != "s4"} == {f"s{n}": f"127.0.4.{n}:{other.port}" for n in (1, 2, 3)}
        states = balancer.admin_states()
        assert (states["s1"], states["s2"], states["s3"], weight(balancer, "s3")) == (1, 8, 0, "5")
        assert until_reached(balancer, 3, *staying)
        for name in ("s1", "s2"):
            ask(balancer.stats_socket, f"set server web/{name} state ready")
        assert until_reached(balancer, 1, 2, 3, *staying)


def test_a_server_with_a_persons_weight_gets_nothing_at_a_new_port_that_is_dead(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 2)
    ask(balancer.stats_socket, "set server web/s2 weight 200%")
    with Clients(balancer.port) as clients:
        balancer.config.write_text(text(balancer, web, 1, 2).replace(f"127.0.4.2:{web.port}", "127.0.4.2:1"))
        assert do(balancer)["applied_by"] == "reload"
        assert reached(balancer, 1)
    assert clients.failures() == {}


def test_what_a_person_set_is_not_for_another_instance_of_the_name(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 2)
    ask(balancer.stats_socket, "set server web/s1 state maint")
    balancer.config.write_text(text(balancer, web, 1, 2).replace("s1 127.0.4.1", "s1 127.0.4.3"))
    assert do(balancer)["applied_by"] == "reload"
    assert until_reached(balancer, 2, 3)


@pytest.fixture
def nobody(balancer: Balancer) -> Iterator[Balancer]:
    """A balancer in a folder that the user nobody can use, for a HAProxy that does not run as root."""
    if os.geteuid() != 0:
        pytest.skip("only root can start HAProxy as another user")
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, "nobody")
        made = Balancer(Path(folder), balancer.binary)
        try:
            subprocess.run([made.binary, "-v"], user="nobody", extra_groups=[], check=True, capture_output=True)
        except PermissionError:
            pytest.skip(f"the user nobody cannot run {made.binary}")
        yield made
        made.stop()


@pytest.mark.parametrize("mode", [0o751, 0o750], ids=["readable", "unreadable"])
def test_a_haproxy_that_is_not_root_reads_the_server_state_or_the_run_says_that_it_cannot(nobody: Balancer, web: Backends, mode: int) -> None:
    # Where the default template has the file; 0750 is how the folder is made.
    nobody.state.mkdir()
    nobody.state.chmod(mode)
    state_file = nobody.state / "haproxy.server-state"
    lines = f"    server-state-file {state_file}\n"
    nobody.config.write_text(text(nobody, web, 1, 2, global_lines=lines))
    nobody.config.chmod(0o644)
    os.utime(nobody.config, (time.time() - 60, time.time() - 60))
    words = [nobody.binary, "-D", "-W", "-S", str(nobody.master_socket), "-f", str(nobody.config), "-p", str(nobody.pid_file)]
    subprocess.run(words, user="nobody", group=pwd.getpwnam("nobody").pw_gid, extra_groups=[], check=True, capture_output=True, timeout=20)
    nobody.until_it_serves()
    assert do(nobody)["applied_by"] == "none"
    ask(nobody.stats_socket, "set server web/s1 state maint")
    with Clients(nobody.port) as clients:
        result = change(nobody, web, 1, 2, 9, global_lines=lines)
        assert result["applied_by"] == "reload"
        kept = nobody.admin_states()["s1"] == 1
    if mode == 0o751:
        assert (result["warnings"], kept, clients.failures()) == ([], True, {})
        assert (state_file.stat().st_uid, state_file.stat().st_mode & 0o777) == (pwd.getpwnam("nobody").pw_uid, 0o600)
    else:
        why = f"the user nobody, as whom HAProxy runs, cannot read {state_file}"
        assert result["warnings"] == [
            f"web/s9 get requests before their first passed check, because {why}",
            f"what was set by hand or known to be dead is forgotten for web/s1, because {why}",
        ]
        # What is said is true.
        assert not kept
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_what_a_run_of_ours_set_is_not_carried_to_a_new_port() -> None:
    wanted = parse("backend web\n    server s1 127.0.4.1:81 check\n    server s2 127.0.4.2:81 check\n")
    had = [ServerState(Server(f"s{number}", f"127.0.4.{number}", 80, checked=True), RUNNING, DRAIN, 1, 1) for number in (1, 2)]
    planned = haproxy_transition.plan({"web": had}, wanted, {("web", "s1"): 0})
    assert [(state.server.name, state.server.port, state.admin) for state in planned.keep["web"]] == [("s2", 81, DRAIN)]


def test_a_dead_server_is_not_known_to_be_dead_at_its_new_port() -> None:
    wanted = parse("backend web\n    load-server-state-from-file global\n    server s1 127.0.4.1:81 check\n    server s2 127.0.4.2:81 check\n")
    had = [ServerState(Server(f"s{number}", f"127.0.4.{number}", 80, checked=True), STOPPED, 0, number, 1) for number in (1, 2)]
    planned = haproxy_transition.plan({"web": had}, wanted, {})
    # Nothing was set on s1. Of s2 the weight is kept; whether it is held down is for the check, and where that cannot be waited for it is not.
    assert [(state.server.name, state.operational, state.weight) for state in planned.keep["web"]] == [("s2", RUNNING, 2)]
    rows = haproxy_transition.state_file(planned, wanted, []).splitlines()[2:]
    assert [row.split(" ")[3:8] for row in rows] == [["s2", "127.0.4.2", "0", "0", "2"], ["s1", "127.0.4.1", "0", "0", "1"]]


def test_a_newcomer_that_is_held_down_over_a_reload_is_still_reached_over_tls(balancer: Balancer, web: Backends) -> None:
    (balancer.folder / "server-state").write_text("1\n")
    backend = CHECK.replace("check inter", "ssl verify none check inter")
    balancer.start(text(balancer, web, 1, backend=backend, options=" no-ssl"))
    # Two that are alike but for where the word stands, and one without.
    names = {"s2": "", "s9": " no-ssl ssl", "s3": " no-ssl"}
    lines = [f"{name} 127.0.4.{name[1:]}:{web.port}{options}" for name, options in names.items()]
    balancer.config.write_text(
        balancer.text(f"s1 127.0.4.1:{web.port} no-ssl", *lines, global_lines=f"    server-state-file {balancer.folder}/server-state\n", backend=backend)
    )
    assert do(balancer)["warnings"] == []
    columns = ask(balancer.stats_socket, "show servers state").splitlines()[1][2:].split(" ")
    at = columns.index("srv_use_ssl")
    assert {row[3]: row[at] == "1" for row in balancer.rows()} == {"s1": False, "s2": True, "s9": True, "s3": False}


def test_a_server_that_is_known_to_be_dead_gets_nothing_from_the_new_worker(balancer: Balancer, web: Backends) -> None:
    start(balancer, web, 1, 2, 3)
    web.remove("127.0.4.3")
    time.sleep(1)
    assert reached(balancer, 1, 2)
    with Clients(balancer.port) as clients:
        change(balancer, web, 1, 2, 3, 4)
        assert until_reached(balancer, 1, 2, 4)
    assert clients.failures() == {}


def test_after_a_failed_reload_the_drained_servers_serve_again_and_newcomers_are_gone(balancer: Balancer, web: Backends, master: bool) -> None:
    balancer.config.write_text(text(balancer, web, 1, 2))
    do(balancer, "master_socket" if master else "pid")
    for numbers in ((2, 3), (3, 4)):
        balancer.config.write_text(text(balancer, web, *numbers, bind=UNBINDABLE))
        with pytest.raises(ApplyError, match="last good file again"):
            do(balancer)
        assert set(balancer.servers()) == {"s1", "s2"}
        assert set(balancer.admin_states().values()) == {0}
        assert reached(balancer, 1, 2)
        assert is_in_force(balancer)[0]


def test_a_failed_reload_puts_leavers_back_in_the_maintenance_or_drain_that_a_person_had_set(balancer: Balancer, web: Backends) -> None:
    balancer.config.write_text(text(balancer, web, 1, 2, 3, 4))
    do(balancer)
    for command in ("set server web/s1 state maint", "set server web/s2 state drain"):
        ask(balancer.stats_socket, command)
    balancer.config.write_text(text(balancer, web, 4, bind=UNBINDABLE))
    with pytest.raises(ApplyError, match="last good file again"):
        do(balancer)
    assert balancer.admin_states() == {"s1": 1, "s2": 8, "s3": 0, "s4": 0}
    assert reached(balancer, 3, 4)


@pytest.mark.parametrize("numbers", [(2,), (1, 2)], ids=["still gone", "back"])
def test_a_run_that_died_after_the_drain_is_healed(balancer: Balancer, web: Backends, numbers: Sequence[int]) -> None:
    balancer.config.write_text(text(balancer, web, 1, 2))
    do(balancer)
    # What a run leaves that was killed right before its reload.
    running = observe(definition(balancer), 5)
    assert running is not None
    assert running.states is not None
    assert running.worker is not None
    planned = haproxy_transition.plan(running.states, parse(text(balancer, web, 2)), {})
    write_intent(str(balancer.state), "haproxy", Intent(running.worker, {("web", "s1"): 0}, set()))
    haproxy_transition.drain(running, planned, 1)
    assert reached(balancer, 2)
    assert not is_in_force(balancer)[0]
    result = change(balancer, web, *numbers)
    assert result["applied_by"] == "reload"
    assert until_reached(balancer, *numbers)
    assert set(balancer.admin_states().values()) == {0}
    assert is_in_force(balancer)[0]


def test_the_backup_server_does_not_stand_for_a_leaver_that_is_healed(balancer: Balancer, web: Backends) -> None:
    with_sorry = text(balancer, web, 1, backend=CHECK + SORRY.format(port=web.port))
    (balancer.folder / "server-state").write_text("1\n")
    balancer.start(with_sorry)
    running = observe(definition(balancer), 5)
    assert running is not None
    assert running.worker is not None
    # What a run leaves that was killed after its drain.
    ask(balancer.stats_socket, "set server web/s1 state maint")
    assert reached(balancer, 4)
    healed = haproxy_transition.heal(running, Intent(running.worker, {("web", "s1"): 0}, set()), parse(with_sorry), 5)
    assert healed.states is not None
    assert {state.server.name: state.usable for state in healed.states["web"]}["s1"]
    assert reached(balancer, 1)
