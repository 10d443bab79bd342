# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""A change without a reload, on a real HAProxy of every version at hand; and what drifts is mended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_change, haproxy_plan, haproxy_runtime
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import Definition
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError, Plan
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from backends import Backends
from balancer import Balancer, ask, run
from haproxy_binaries import binaries

CHECKED = "    default-server check inter 100ms rise 1 fall 1\n"


def definition(balancer: Balancer) -> Definition:
    return Definition("haproxy", str(balancer.config), balancer.binary, str(balancer.pid_file), "", str(balancer.state))


def do(balancer: Balancer, text: str, strategy: str = "auto", check_mode: bool = False, stats_socket: str = "") -> dict[str, Any]:
    """Write the file, and bring HAProxy to it, as the role does."""
    config = report(definition(balancer), None, False, run)["config"]
    balancer.config.write_text(text)
    plan = Plan("auto", balancer.binary, str(balancer.master_socket), "haproxy", (), 10)
    wish = Wish("", True, "", 2, 5, strategy, config["checksum"] if config["in_force"] else "")
    return apply(definition(balancer)._replace(stats_socket=stats_socket), plan, wish, check_mode, run)


def facts(balancer: Balancer, text: str | None = None, strategy: str = "auto", stats_socket: str = "") -> dict[str, Any]:
    candidate = None if text is None else Candidate(text, True, 100, 0, 0, 0, 0, strategy)
    return report(definition(balancer)._replace(stats_socket=stats_socket), candidate, False, run)


def server(web: Backends, number: int, more: str = "", place: int = 0) -> str:
    return f"s{number} 127.0.2.{place or number}:{web.port} id {100 + number} {more}".strip()


def text(balancer: Balancer, *servers: str, **more: str) -> str:
    return balancer.text(*servers, **{"backend": CHECKED, **more})


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*(f"127.0.2.{number}" for number in range(1, 9))) as made:
        yield made


def begun(balancer: Balancer, web: Backends, master: bool) -> Balancer:
    """A HAProxy with two servers that this project has brought to its file."""
    balancer.start(text(balancer, server(web, 1)), master=master)
    assert do(balancer, text(balancer, server(web, 1), server(web, 2)), "reload")["applied_by"] == "reload"
    return balancer


@pytest.fixture
def running(balancer: Balancer, web: Backends) -> Balancer:
    return begun(balancer, web, True)


@pytest.fixture
def newest(tmp_path: Path, web: Backends) -> Iterator[Balancer]:
    """For what does not depend on HAProxy's version."""
    made = Balancer(tmp_path, list(binaries().values())[-1])
    yield begun(made, web, True)
    made.stop()


@pytest.fixture(params=["master", "no master"])
def either(request: pytest.FixtureRequest, balancer: Balancer, web: Backends) -> Balancer:
    return begun(balancer, web, request.param == "master")


def row(balancer: Balancer, name: str) -> list[str]:
    """Address, port, id, weight in use and administrative state of a server."""
    (found,) = (columns for columns in balancer.rows() if columns[3] == name)
    return [found[4], found[18], found[2], found[7], found[6]]


def test_servers_come_and_go_without_a_reload_and_the_next_run_does_nothing(either: Balancer, web: Backends) -> None:
    worker = either.worker()
    wanted = text(either, server(web, 2), server(web, 3), server(web, 4))
    assert (facts(either, wanted)["candidate"]["plan"], facts(either, wanted)["candidate"]["plan_reason"]) == ("runtime", "add 2, delete 1")
    result = do(either, wanted)
    assert (result["applied_by"], result["changed"], result["warnings"]) == ("runtime", True, [])
    assert (result["added"], result["removed"]) == ({"web": ["s3", "s4"]}, {"web": ["s1"]})
    assert f"process {worker} has the 3 servers of the file" in result["proof"]
    assert either.worker() == worker
    assert either.servers().keys() == {"s2", "s3", "s4"}
    assert row(either, "s3") == ["127.0.2.3", str(web.port), "103", "1", "0"]
    either.until_all_serve({"127.0.2.2", "127.0.2.3", "127.0.2.4"})
    after = facts(either, wanted)
    assert (after["config"]["in_force"], after["drift"], after["candidate"]["plan"]) == (True, [], "none")
    assert do(either, wanted)["applied_by"] == "none"


def test_a_running_request_of_a_leaver_is_waited_for(running: Balancer, web: Backends) -> None:
    """Maintenance would cut it here, at once."""
    cutting = "on-marked-down shutdown-sessions"
    do(running, text(running, server(web, 1, cutting)))
    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(running.get("/slow?ms=700")))
    slow.start()
    running.until(lambda: " 1 " in ask(running.stats_socket, "show servers conn web").splitlines()[1])
    assert do(running, text(running, server(web, 2)))["applied_by"] == "runtime"
    slow.join()
    assert answers == ["127.0.2.1\n"]


def test_all_are_replaced_and_a_request_always_finds_one(either: Balancer, web: Backends) -> None:
    worker = either.worker()
    assert do(either, text(either, server(web, 5), server(web, 6)))["applied_by"] == "runtime"
    assert either.reached() <= {"127.0.2.5", "127.0.2.6"}
    assert either.worker() == worker


def test_when_no_newcomer_passes_its_check_everything_stays(running: Balancer, web: Backends) -> None:
    wanted = text(running, "dead 127.0.2.1:1 id 200")
    result = do(running, wanted)
    assert result["applied_by"] == "none"
    assert "no other server of web passes its check yet" in result["warnings"][0]
    assert (result["changed"], result["waiting"], result["added"], result["removed"]) == (False, ["web"], {}, {})
    assert running.servers().keys() == {"s1", "s2"}
    assert set(running.admin_states().values()) == {0}
    assert running.reached() == {"127.0.2.1", "127.0.2.2"}


def test_when_all_are_replaced_the_old_ones_go_when_all_newcomers_serve(running: Balancer, web: Backends) -> None:
    """The first one alone would get all requests."""
    with Backends("127.0.2.9", port=web.port) as late:
        late.remove("127.0.2.9")
        timer = threading.Timer(1, late.add, ["127.0.2.9"])
        timer.start()
        assert do(running, text(running, server(web, 3), server(web, 9)))["applied_by"] == "runtime"
        timer.join()
        usable = {columns[3] for columns in running.rows() if columns[5] == "2"}
        assert usable == {"s3", "s9"}


def test_another_file_that_changed_takes_a_reload(balancer: Balancer, web: Backends) -> None:
    other = balancer.folder / "other.cfg"
    other.write_text("defaults other\n    mode http\n")
    balancer.config.write_text(text(balancer, server(web, 1)))
    described = definition(balancer)._replace(config_files=(str(other), str(balancer.config)))
    plan = Plan("master_socket", balancer.binary, str(balancer.master_socket), "haproxy", (), 10)

    def brought(wanted: str) -> str:
        balancer.config.write_text(wanted)
        return str(apply(described, plan, Wish("", True, "", 2, 5), False, run)["applied_by"])

    assert brought(text(balancer, server(web, 1))) == "start"
    assert brought(text(balancer, server(web, 1), server(web, 2))) == "runtime"
    other.write_text("defaults other\n    mode http\n    timeout connect 3s\n")
    candidate = report(described, Candidate(text(balancer, server(web, 1)), True, 100, 0, 0, 0, 0), False, run)["candidate"]
    assert candidate["plan_reason"] == "another file of the process's configuration has changed since it was read"
    assert brought(text(balancer, server(web, 1))) == "reload"
    assert brought(text(balancer, server(web, 1), server(web, 2))) == "runtime"


def test_a_dead_newcomer_gets_nothing_beside_those_that_serve(running: Balancer, web: Backends) -> None:
    wanted = text(running, server(web, 1), server(web, 2), "dead 127.0.2.1:1 id 200")
    assert do(running, wanted)["applied_by"] == "runtime"
    assert running.reached() == {"127.0.2.1", "127.0.2.2"}
    assert facts(running, wanted)["candidate"]["plan"] == "none"


def test_an_address_a_weight_and_a_limit_change_without_a_reload(running: Balancer, web: Backends) -> None:
    worker = running.worker()
    wanted = text(running, server(web, 1, place=3), server(web, 2, "weight 5 maxconn 7"))
    assert do(running, wanted)["applied_by"] == "runtime"
    assert running.worker() == worker
    assert row(running, "s1")[0] == "127.0.2.3"
    assert row(running, "s2")[3] == "5"
    running.until_all_serve({"127.0.2.2", "127.0.2.3"})
    assert do(running, wanted)["applied_by"] == "none"


def test_a_weight_that_came_at_runtime_is_nobodys_at_a_reload(running: Balancer, web: Backends) -> None:
    assert do(running, text(running, server(web, 1), server(web, 2, "weight 5")))["applied_by"] == "runtime"
    assert do(running, text(running, server(web, 1), server(web, 2, "weight 7")), "reload")["applied_by"] == "reload"
    assert row(running, "s2")[3] == "7"


def test_a_weight_that_a_person_set_survives_both_ways(running: Balancer, web: Backends) -> None:
    reading = {"global_lines": f"    server-state-file {running.folder}/states\n", "backend": f"{CHECKED}    load-server-state-from-file global\n"}
    do(running, text(running, server(web, 1), server(web, 2), **reading))
    assert do(running, text(running, server(web, 1), server(web, 2, "weight 5"), **reading))["applied_by"] == "runtime"
    ask(running.stats_socket, "set server web/s2 weight 3")
    assert do(running, text(running, server(web, 1), server(web, 2, "weight 5"), server(web, 3), **reading))["applied_by"] == "runtime"
    assert row(running, "s2")[3] == "3"
    assert do(running, text(running, server(web, 1), server(web, 2, "weight 5"), **reading), "reload")["applied_by"] == "reload"
    assert row(running, "s2")[3] == "3"


def test_what_a_killed_run_had_set_is_taken_back_before_anything_else(newest: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the weight would be taken for a person's when the next run wants the old one."""
    before = newest.config.read_text()

    def killed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(haproxy_change, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            do(newest, text(newest, server(web, 1), server(web, 2, "weight 5 maxconn 7")))
    assert row(newest, "s2")[3] == "5"
    assert do(newest, before)["applied_by"] == "runtime"
    assert row(newest, "s2")[3] == "1"
    assert do(newest, before)["applied_by"] == "none"


@pytest.mark.parametrize("after", ["", "set server web/s3 weight 0", "set server web/s3 state drain"], ids=["nothing was done", "weight", "drain"])
def test_what_is_not_as_the_file_says_afterwards_takes_a_reload(running: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    def carry_out(*arguments: Any) -> haproxy_runtime.Outcome:
        if after:
            real(*arguments)
            ask(running.stats_socket, after)
        return haproxy_runtime.Outcome([], 0, set())

    real = haproxy_runtime.carry_out
    monkeypatch.setattr(haproxy_runtime, "carry_out", carry_out)
    result = do(running, text(running, server(web, 1), server(web, 2), server(web, 3)))
    assert result["applied_by"] == "reload"
    assert "so HAProxy is reloaded: afterwards web/s3" in result["warnings"][0]
    assert row(running, "s3")[3:] == ["1", "0"]


def test_a_comment_alone_is_no_reason_for_a_reload(newest: Balancer, web: Backends) -> None:
    worker = newest.worker()
    wanted = "# a comment\n" + text(newest, server(web, 1), server(web, 2))
    assert facts(newest, wanted)["candidate"]["plan_reason"] == "nothing that concerns the process differs"
    assert do(newest, wanted)["applied_by"] == "runtime"
    assert (newest.worker(), do(newest, wanted)["applied_by"]) == (worker, "none")


def test_another_line_takes_a_reload_and_runtime_only_refuses_it(newest: Balancer, web: Backends) -> None:
    worker = newest.worker()
    before = newest.config.read_text()
    wanted = text(newest, server(web, 1), server(web, 2), backend=f"{CHECKED}    timeout server 5s\n")
    candidate = facts(newest, wanted, "runtime_only")["candidate"]
    assert candidate["plan"] == "reload"
    assert "backend web: another line than a server's comes or goes (timeout server)" in candidate["needs_reload"]
    with pytest.raises(ApplyError, match=r"apply_strategy is runtime_only, and this takes a reload: backend web: .*timeout server.*Nothing was changed"):
        do(newest, wanted, "runtime_only")
    with pytest.raises(ApplyError, match="apply_strategy is runtime_only"):
        do(newest, wanted, "runtime_only", check_mode=True)
    assert newest.worker() == worker
    assert do(newest, before, "runtime_only")["applied_by"] == "none"
    result = do(newest, wanted)
    assert result["applied_by"] == "reload"
    assert "timeout server" in result["reason"]
    assert newest.worker() != worker


def test_the_strategy_reload_always_reloads(newest: Balancer, web: Backends) -> None:
    worker = newest.worker()
    wanted = text(newest, server(web, 1), server(web, 2), server(web, 3))
    candidate = facts(newest, wanted, "reload")["candidate"]
    assert (candidate["plan"], candidate["plan_reason"]) == ("reload", "apply_strategy is reload")
    assert do(newest, wanted, "reload")["applied_by"] == "reload"
    assert newest.worker() != worker


@pytest.mark.parametrize(
    ("commands", "drift"),
    [
        (["set server web/s1 state maint", "del server web/s1"], "web/s1 is in the file and not in the process"),
        (["set server web/s1 addr 127.0.2.7"], "web/s1 is at 127.0.2.7"),
        (["add server web/mine 127.0.2.8:1 id 999", "enable server web/mine"], "web/mine is in the process and not in the file"),
    ],
    ids=["deleted", "moved", "added"],
)
def test_what_drifts_is_reported_and_mended_without_a_reload(running: Balancer, web: Backends, commands: list[str], drift: str) -> None:
    worker = running.worker()
    rows = {name: row(running, name) for name in ("s1", "s2")}
    for command in commands:
        ask(running.stats_socket, command)
    unchanged = running.config.read_text()
    running.until(lambda: facts(running)["drift"] != [])
    found = facts(running, unchanged)
    assert found["drift"][0].startswith(drift)
    assert drift in found["config"]["in_force_reason"]
    assert (found["candidate"]["plan"], found["candidate"]["differs"]) == ("runtime", False)
    assert do(running, unchanged, check_mode=True)["applied_by"] == "runtime"
    assert do(running, unchanged)["applied_by"] == "runtime"
    assert {name: row(running, name) for name in running.servers()} == rows
    running.until_all_serve({"127.0.2.1", "127.0.2.2"})
    assert (facts(running)["drift"], running.worker()) == ([], worker)
    assert do(running, unchanged)["applied_by"] == "none"


@pytest.mark.parametrize("command", ["state maint", "state drain", "weight 9"])
def test_what_a_person_sets_is_no_drift_and_stays(running: Balancer, web: Backends, command: str) -> None:
    ask(running.stats_socket, f"set server web/s2 {command}")
    before = row(running, "s2")
    found = facts(running, running.config.read_text())
    assert (found["drift"], found["candidate"]["plan"]) == ([], "none")
    assert do(running, text(running, server(web, 1), server(web, 2), server(web, 3)))["applied_by"] == "runtime"
    assert row(running, "s2") == before


def test_a_balancer_that_another_hand_restarted_is_known_by_its_servers(newest: Balancer, web: Backends) -> None:
    """No record speaks of the new process; the file is older than it, and the servers are the file's."""
    newest.stop()
    newest.start(newest.config.read_text())
    worker = newest.worker()
    assert do(newest, text(newest, server(web, 1), server(web, 2), server(web, 3)))["applied_by"] == "runtime"
    assert newest.worker() == worker


def test_a_file_that_another_hand_brought_in_is_not_taken_for_the_last_good_one(newest: Balancer, web: Backends) -> None:
    """The servers are the same; nothing tells of the line that was taken out, but for the file that was there."""
    good = newest.config.read_text()
    denying = good.replace("default_backend", "http-request deny if { path /secret }\n    default_backend")
    assert do(newest, denying)["applied_by"] == "reload"
    newest.stop()
    newest.start(good)
    assert "127." in newest.get("/secret")
    found = facts(newest, denying)["candidate"]
    assert (found["plan"], "http-request" in found["plan_reason"]) == ("reload", True)
    assert do(newest, denying)["applied_by"] == "reload"
    assert newest.get("/secret") == "status 403"


def test_where_a_variable_can_be_a_server_nothing_is_drift(balancer: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRV", f"s9 127.0.2.1:{web.port} check")
    monkeypatch.setenv("NAME", "s8")
    monkeypatch.setenv("REST", f"127.0.2.2:{web.port} check id 77")
    lines = ['"${SRV[*]}"', f'"$NAME" 127.0.2.2:{web.port}'] if not balancer.binary_version.startswith("2.4") else []
    balancer.start(text(balancer, *lines))
    names = {"s8", "s9"}
    assert balancer.servers().keys() == names
    assert facts(balancer)["drift"] == []
    do(balancer, text(balancer, *lines))
    result = do(balancer, text(balancer, *lines, server(web, 3)))
    assert result["applied_by"] == "reload"
    assert "a server's name has an environment variable" in result["reason"]
    assert balancer.servers().keys() == {*names, "s3"}
    assert (facts(balancer)["config"]["in_force"], facts(balancer)["drift"]) == (True, [])
    balancer.stop()
    balancer.start(text(balancer, 's7 "${REST[*]}"'))
    assert (facts(balancer)["config"]["in_force"], facts(balancer)["drift"]) == (True, [])


def test_a_disabled_server_that_moves_takes_no_requests(running: Balancer, web: Backends) -> None:
    disabled = "s3 127.0.2.3:1 id 103 disabled"
    do(running, text(running, server(web, 1), disabled))
    wanted = text(running, server(web, 1), disabled.replace(":1 ", f":{web.port} "))
    assert do(running, wanted)["applied_by"] == "reload"
    assert running.admin_states()["s3"] == 5
    assert facts(running, wanted)["candidate"]["plan"] == "none"


@pytest.mark.parametrize("strategy", ["auto", "reload"])
def test_a_server_that_gets_the_weight_0_stands_for_nobody(running: Balancer, web: Backends, strategy: str) -> None:
    wanted = text(running, server(web, 1, "weight 0"), "dead 127.0.2.1:1 id 200")
    result = do(running, wanted, strategy)
    assert (result["applied_by"], result["waiting"]) == ("none", ["web"])
    assert running.reached() == {"127.0.2.1", "127.0.2.2"}


@pytest.mark.parametrize("command", ["check-port 1", "check-addr 127.0.2.3 port 1"])
def test_where_the_checks_go_is_compared_and_mended(running: Balancer, web: Backends, command: str) -> None:
    ask(running.stats_socket, f"set server web/s1 {command}")
    unchanged = running.config.read_text()
    assert "web/s1 is checked at" in facts(running)["drift"][0]
    assert do(running, unchanged)["applied_by"] == "reload"
    assert (facts(running)["drift"], do(running, unchanged)["applied_by"]) == ([], "none")


def test_which_configuration_another_hand_has_started_it_on_is_not_guessed(newest: Balancer, web: Backends) -> None:
    newest.stop()
    newest.start(text(newest, server(web, 1)))
    wanted = text(newest, server(web, 1), server(web, 3))
    newest.config.write_text(wanted)
    found = facts(newest, wanted)["candidate"]
    assert (found["plan"], found["plan_reason"]) == ("reload", "which configuration the process runs is not known")


def test_when_haproxy_is_not_as_its_file_says_after_a_reload_it_is_said_and_the_next_change_is_a_reload(
    newest: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No line is known that HAProxy and we read otherwise, so one is made up.
    other = "web/s1 is at 127.0.2.9 in the process and not in the file"
    with monkeypatch.context() as patch:
        patch.setattr(haproxy_plan, "drift", lambda *_given: [other])
        result = do(newest, text(newest, server(web, 1)), "reload")
    assert result["warnings"] == [f"right after the reload the process is not as its file says, which is left so: {other}"]
    found = facts(newest, text(newest, server(web, 1), server(web, 3)))["candidate"]
    assert (found["plan"], found["plan_reason"]) == ("reload", f"after the last reload the process was not as its file says: {other}")


def test_a_process_that_cannot_be_asked_is_reloaded_and_it_is_said_what_was_not_done(newest: Balancer, web: Backends) -> None:
    """The socket that it has stands in no file any more, and there is no master."""
    newest.stop()
    newest.start(text(newest, server(web, 1), server(web, 2)), master=False)
    for path in newest.state.iterdir():
        path.unlink()
    line = f"    stats socket {newest.stats_socket} mode 600 level admin expose-fd listeners\n"
    wanted = text(newest, server(web, 2)).replace(line, "")
    newest.config.write_text(wanted)
    why = "the configuration has no `stats socket` with `level admin`"
    assert facts(newest, wanted, "runtime_only")["candidate"]["needs_reload"] == f"the process cannot be asked: {why}"
    result = do(newest, wanted)
    assert (result["applied_by"], result["warnings"][0]) == ("reload", f"servers that go were not drained, because HAProxy cannot be asked: {why}")
    newest.until(lambda: newest.reached() == {"127.0.2.2"})


def test_a_socket_that_takes_no_commands_is_known_before(balancer: Balancer, web: Backends) -> None:
    lower = {"global_lines": f"    stats socket {balancer.folder}/low.sock level operator\n"}
    asked = text(balancer, server(web, 1), **lower).replace(f"    stats socket {balancer.stats_socket} mode 600 level admin expose-fd listeners\n", "")
    balancer.config.write_text(asked)
    wanted = asked + f"    server s2 127.0.2.2:{web.port} id 102\n"
    plan = Plan("pid", balancer.binary, "", "haproxy", (), 10)
    low = f"{balancer.folder}/low.sock"
    described = definition(balancer)._replace(stats_socket=low)
    assert apply(described, plan, Wish("", True, "", 2, 5), False, run)["applied_by"] == "start"
    found = facts(balancer, wanted, "runtime_only", low)["candidate"]
    assert (found["plan"], f"{low} takes no commands: it has not `level admin`" in found["needs_reload"]) == ("reload", True)
