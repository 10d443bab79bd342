# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Who is sent to another server when one of ten goes and comes back, by reload and at runtime: nobody who need not be."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_ids import RING, of_name, replace, settle
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import Definition
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import Plan
from backends import Backends
from balancer import Balancer, ask, free_port
from stage import instance_id

TEN = range(1, 11)
LEAVER = 4
KEYS = 300
SESSIONS = 100
Asked = dict[int, int]


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*(f"127.0.9.{number}" for number in TEN)) as made:
        yield made


def run(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
    done = subprocess.run(list(words), env={**os.environ, **environment}, input=data, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def server(web: Backends, number: int, more: str = "") -> str:
    name = instance_id(number)
    return f"{name} 127.0.9.{number}:{web.port} id {of_name(name)} check inter 200ms{more}"


def until_all_serve(balancer: Balancer, numbers: Sequence[int]) -> None:
    """Newcomers get nothing before their first passed check."""
    for _attempt in range(100):
        # The operational state; 2 is running (Management Guide, "show servers state").
        if {row[3]: row[5] for row in balancer.rows()} == {instance_id(number): "2" for number in numbers}:
            return
        time.sleep(0.05)
    raise AssertionError(balancer.rows())


def until_it_teaches(balancer: Balancer) -> None:
    """In the first five seconds after its start 2.6 waits for others to teach it, and does not teach the process that takes its place (measured)."""
    for _attempt in range(100):
        said = ask(balancer.stats_socket, "show peers")
        if "resync_timeout=<PAST>" in said or "resync_timeout=<NEVER>" in said:
            return
        time.sleep(0.1)
    raise AssertionError(said)


def bring(balancer: Balancer, text: str, strategy: str, numbers: Sequence[int]) -> str:
    """Bring the process to this text with these servers; by what it was."""
    balancer.config.write_text(text)
    definition = Definition("haproxy", str(balancer.config), balancer.binary, str(balancer.pid_file), "", str(balancer.state))
    plan = Plan("auto", balancer.binary, str(balancer.master_socket), "haproxy", (), 10)
    result = apply(definition, plan, Wish("", True, "", 2, 5, strategy), False, run)
    assert result["applied_by"] != "runtime" or result["warnings"] == [], result
    until_all_serve(balancer, numbers)
    return str(result["applied_by"])


def leave_and_come_back(balancer: Balancer, text: Callable[[Sequence[int]], str], strategy: str, look: Callable[[], Asked]) -> tuple[list[str], list[Asked]]:
    """By what one of ten servers went and came back, and who asked which server before, between and after."""
    nine = [number for number in TEN if number != LEAVER]
    assert bring(balancer, text(TEN), strategy, TEN) == "start"
    asked = [look()]
    assert set(asked[0].values()) == set(TEN)
    ways = []
    for numbers in (nine, TEN):
        ways.append(bring(balancer, text(numbers), strategy, numbers))
        asked.append(look())
    return ways, asked


def moved(before: Asked, after: Asked) -> set[int]:
    return {key for key in before if before[key] != after[key]}


def of_leaver(asked: Asked) -> set[int]:
    return {key for key, number in asked.items() if number == LEAVER}


def number_of(body: str) -> int:
    return int(body.strip().removeprefix("127.0.9."))


@pytest.mark.parametrize(("strategy", "way"), [("reload", "reload"), ("auto", "runtime")])
def test_of_a_consistent_hash_only_the_keys_of_who_goes_or_comes_move(balancer: Balancer, web: Backends, strategy: str, way: str) -> None:
    def text(numbers: Sequence[int]) -> str:
        return balancer.text(*(server(web, number) for number in numbers), backend="    balance uri\n    hash-type consistent\n")

    def look() -> Asked:
        return {key: number_of(balancer.get(f"/{key}")) for key in range(KEYS)}

    ways, (before, between, after) = leave_and_come_back(balancer, text, strategy, look)
    assert ways == [way, way]
    assert moved(before, between) == of_leaver(before)
    # It finds its own keys again, and no others.
    assert after == before


def test_two_servers_whose_ids_are_settled_have_a_part_of_the_ring_each(balancer: Balancer, web: Backends) -> None:
    """Else all keys of one of them are the other's when it goes, and until then they share what is meant for one (2.6 and 3.2; measured)."""
    names = {1: instance_id(0xF1), 2: instance_id(0x6ED), 3: instance_id(3)}
    assert of_name(names[1]) % RING == of_name(names[2]) % RING

    def asked(*numbers: int) -> Asked:
        servers = (f"{names[number]} 127.0.9.{number}:{web.port} id {of_name(names[number])}" for number in numbers)
        text = balancer.text(*servers, backend="    balance uri\n    hash-type consistent\n")
        balancer.start(replace(text, settle(text, balancer.config.read_text() if balancer.config.exists() else "")))
        found = {key: number_of(balancer.get(f"/{key}")) for key in range(SESSIONS)}
        balancer.stop()
        return found

    before, after = asked(1, 2, 3), asked(2, 3)
    assert {after[key] for key, number in before.items() if number == 1} == {2, 3}


@pytest.mark.parametrize(("strategy", "way"), [("reload", "reload"), ("auto", "runtime")])
def test_of_a_stick_table_only_the_sessions_of_who_goes_move(balancer: Balancer, web: Backends, strategy: str, way: str) -> None:
    peer = free_port()
    chance = random.Random(1)

    def text(numbers: Sequence[int]) -> str:
        table = "    stick-table type string size 1k peers balancers\n    stick on req.hdr(X-Session)\n"
        rest = f"peers balancers\n    peer here 127.0.0.1:{peer}\n"
        return balancer.text(*(server(web, number) for number in numbers), global_lines="    localpeer here\n", backend=table) + rest

    def look() -> Asked:
        if way == "reload" and balancer.binary_version.startswith("2.6") and not balancer.reloads():
            until_it_teaches(balancer)
        # In another order each time, so that the algorithm alone would not send them to the same servers.
        return {key: number_of(get(balancer, {"X-Session": str(key)})[0]) for key in chance.sample(range(SESSIONS), SESSIONS)}

    ways, (before, between, after) = leave_and_come_back(balancer, text, strategy, look)
    assert ways == [way, way]
    assert moved(before, between) == of_leaver(before)
    assert moved(between, after) == set()


@pytest.mark.parametrize("strategy", ["reload", "auto"])
def test_of_a_cookie_only_the_sessions_of_who_goes_move(balancer: Balancer, web: Backends, strategy: str) -> None:
    cookies: dict[int, str] = {}
    chance = random.Random(2)

    def text(numbers: Sequence[int]) -> str:
        servers = (server(web, number, f" cookie {instance_id(number)}") for number in numbers)
        return balancer.text(*servers, backend="    cookie SRV insert indirect nocache\n")

    def look() -> Asked:
        asked = {}
        for key in chance.sample(range(SESSIONS), SESSIONS):
            body, cookie = get(balancer, {"Cookie": cookies[key]} if key in cookies else {})
            asked[key] = number_of(body)
            if cookie:
                cookies[key] = cookie
        return asked

    ways, (before, between, after) = leave_and_come_back(balancer, text, strategy, look)
    # 2.6 adds no server with a cookie.
    come_back = "reload" if balancer.binary_version.startswith("2.6") else "runtime"
    assert ways == (["reload", "reload"] if strategy == "reload" else ["runtime", come_back])
    assert moved(before, between) == of_leaver(before)
    assert moved(between, after) == set()


def get(balancer: Balancer, headers: Mapping[str, str]) -> tuple[str, str]:
    """One request on a connection of its own: the body, and the cookie that is set."""
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    try:
        connection.request("GET", "/", headers=dict(headers))
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode(), (answer.getheader("Set-Cookie") or "").partition(";")[0]
    finally:
        connection.close()
