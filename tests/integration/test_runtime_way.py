# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""A change without a reload, on a real HAProxy of every version at hand; and what drifts is mended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_change
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import Definition
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError, Plan
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from backends import Backends
from balancer import Balancer, ask, run

CHECKED = "    default-server check inter 100ms rise 1 fall 1\n"


def definition(balancer: Balancer) -> Definition:
    return Definition("haproxy", str(balancer.config), balancer.binary, str(balancer.pid_file), "", str(balancer.state))


def do(balancer: Balancer, text: str, strategy: str = "auto", check_mode: bool = False) -> dict[str, Any]:
    """Write the file, and bring HAProxy to it."""
    balancer.config.write_text(text)
    plan = Plan("auto", balancer.binary, str(balancer.master_socket), "haproxy", (), 10)
    return apply(definition(balancer), plan, Wish("", True, "", 2, 5, strategy), check_mode, run)


def facts(balancer: Balancer, text: str | None = None, strategy: str = "auto") -> dict[str, Any]:
    candidate = None if text is None else Candidate(text, True, 100, 0, 0, 0, 0, strategy)
    return report(definition(balancer), candidate, False, run)


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
    assert do(balancer, text(balancer, server(web, 1), server(web, 2)))["applied_by"] == "reload"
    return balancer


@pytest.fixture
def running(balancer: Balancer, web: Backends) -> Balancer:
    return begun(balancer, web, True)


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
    assert running.servers().keys() == {"s1", "s2"}
    assert set(running.admin_states().values()) == {0}
    assert running.reached() == {"127.0.2.1", "127.0.2.2"}


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


def test_what_a_killed_run_had_set_is_taken_back_before_anything_else(running: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the weight would be taken for a person's when the next run wants the old one."""
    before = running.config.read_text()

    def killed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(haproxy_change, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            do(running, text(running, server(web, 1), server(web, 2, "weight 5 maxconn 7")))
    assert row(running, "s2")[3] == "5"
    assert do(running, before)["applied_by"] == "runtime"
    assert row(running, "s2")[3] == "1"
    assert do(running, before)["applied_by"] == "none"


def test_a_comment_alone_is_no_reason_for_a_reload(running: Balancer, web: Backends) -> None:
    worker = running.worker()
    wanted = "# a comment\n" + text(running, server(web, 1), server(web, 2))
    assert facts(running, wanted)["candidate"]["plan_reason"] == "nothing that concerns the process differs"
    assert do(running, wanted)["applied_by"] == "runtime"
    assert (running.worker(), do(running, wanted)["applied_by"]) == (worker, "none")


def test_another_line_takes_a_reload_and_runtime_only_refuses_it(running: Balancer, web: Backends) -> None:
    worker = running.worker()
    before = running.config.read_text()
    wanted = text(running, server(web, 1), server(web, 2), backend=f"{CHECKED}    timeout server 5s\n")
    candidate = facts(running, wanted, "runtime_only")["candidate"]
    assert candidate["plan"] == "reload"
    assert "backend web: another line than a server's comes or goes (timeout server)" in candidate["needs_reload"]
    with pytest.raises(ApplyError, match=r"apply_strategy is runtime_only, and this takes a reload: backend web: .*timeout server.*Nothing was changed"):
        do(running, wanted, "runtime_only")
    with pytest.raises(ApplyError, match="apply_strategy is runtime_only"):
        do(running, wanted, "runtime_only", check_mode=True)
    assert running.worker() == worker
    assert do(running, before, "runtime_only")["applied_by"] == "none"
    result = do(running, wanted)
    assert result["applied_by"] == "reload"
    assert "timeout server" in result["reason"]
    assert running.worker() != worker


def test_the_strategy_reload_always_reloads(running: Balancer, web: Backends) -> None:
    worker = running.worker()
    wanted = text(running, server(web, 1), server(web, 2), server(web, 3))
    candidate = facts(running, wanted, "reload")["candidate"]
    assert (candidate["plan"], candidate["plan_reason"]) == ("reload", "apply_strategy is reload")
    assert do(running, wanted, "reload")["applied_by"] == "reload"
    assert running.worker() != worker


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


def test_a_balancer_that_another_hand_restarted_is_known_by_its_servers(running: Balancer, web: Backends) -> None:
    """No record speaks of the new process; the file is older than it, and the servers are the file's."""
    running.stop()
    running.start(running.config.read_text())
    worker = running.worker()
    assert do(running, text(running, server(web, 1), server(web, 2), server(web, 3)))["applied_by"] == "runtime"
    assert running.worker() == worker
