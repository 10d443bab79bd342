# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Which ids servers get: who stays keeps its own, and no two of a backend are alike."""

from __future__ import annotations

import random
import re

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_ids
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_ids import (
    HIGHEST,
    RING,
    of_name,
    replace,
    settle,
)

# The first two names whose hashes are equal modulo 2^20.
TWINS = ("i-000000000000000f1", "i-000000000000006ed")
# Others with a rare hash: within the first of the ring, and just below the highest id.
LOW, HIGH = "i-00000000000210862", "i-0000000000024d4c5"


def line(name: str, number: int | None = None, more: str = "") -> str:
    """A server's line with the id that a template writes, or another one."""
    return f"    server {name} 10.0.0.1:80 id {of_name(name) if number is None else number}{more}"


def backend(*lines: str, name: str = "web") -> str:
    return "\n".join([f"backend {name}", "    balance uri", *lines, ""])


def ids(text: str) -> dict[str, int]:
    """The ids of the servers that say one, by name."""
    return {name: int(number) for name, number in re.findall(r"server (\S+) .*?\bid (\d+)", text)}


def settled(text: str, in_force: str = "") -> dict[str, int]:
    return ids(replace(text, settle(text, in_force)))


def test_the_hash_of_a_name_is_an_id_that_haproxy_takes_and_never_another_one() -> None:
    assert of_name("i-0abc") == 1 + 0x6B9F8ADB % HIGHEST
    numbers = [of_name(f"i-{number:017x}") for number in range(20_000)]
    assert min(numbers) >= 1
    assert max(numbers) <= HIGHEST
    # 31 bits, and not fewer.
    assert max(numbers) > HIGHEST * 0.999


def test_nothing_is_settled_where_all_is_well() -> None:
    text = backend(line("a"), line("b"))
    assert settle(text, "") == settle(text, text) == settle(text, backend(line("b"), line("c"))) == {}
    assert replace(text, {}) is text


def test_a_server_that_stays_keeps_the_id_of_the_file_in_force() -> None:
    in_force = backend(line("a", 77), line("b"))
    assert settle(backend(line("b"), line("a"), line("c")), in_force) == {4: 77}
    assert settled(backend(line("b"), line("a"), line("c")), in_force) == {"b": of_name("b"), "a": 77, "c": of_name("c")}


def test_one_that_had_none_gets_the_hash() -> None:
    assert settle(backend(line("a"), line("b")), backend("    server a 10.0.0.1:80", line("b", 9))) == {4: 9}


@pytest.mark.parametrize("order", [TWINS, TWINS[::-1]])
def test_of_two_newcomers_with_one_part_of_the_ring_the_second_takes_the_next_one(order: tuple[str, str]) -> None:
    first, second = order
    assert of_name(first) != of_name(second)
    assert of_name(first) % RING == of_name(second) % RING
    assert settled(backend(line(first), line(second))) == {first: of_name(first), second: of_name(second) + 1}


def test_the_next_one_is_passed_over_too_where_it_is_taken() -> None:
    first, second = TWINS
    in_force = backend(line("a", of_name(first) + 1), line("b", of_name(second) + 2 - RING))
    assert settled(backend(line(second), line("a"), line(first), line("b")), in_force) == {
        second: of_name(second),
        "a": of_name(first) + 1,
        first: of_name(first) + 3,
        "b": of_name(second) + 2 - RING,
    }


def test_behind_the_last_id_comes_the_first() -> None:
    taken = [line(f"o{number}", number) for number in range(of_name("a"), of_name("a") + 2)]
    assert settled(backend(*taken, line("a")))["a"] == of_name("a") + 2
    many = [line(f"o{number}", number) for number in range(of_name(HIGH), HIGHEST + 1)]
    assert 0 < len(many) <= 2000
    assert settled(backend(*many, line(HIGH)))[HIGH] == 1


def test_a_stayer_comes_before_a_newcomer_whatever_their_order() -> None:
    first, second = TWINS
    in_force = backend(line(second))
    assert settled(backend(line(first), line(second)), in_force) == {first: of_name(first) + 1, second: of_name(second)}


def test_the_id_of_a_server_that_leaves_is_not_given_to_another_at_once() -> None:
    leaver, newcomer = TWINS
    in_force = backend(line(leaver), line("a"))
    after = backend(line("a"), line(newcomer))
    number = settled(after, in_force)[newcomer]
    assert number == of_name(newcomer) + 1
    # And keeps it when the leaver is long gone.
    assert settled(after, replace(after, settle(after, in_force)))[newcomer] == number


def test_ids_that_are_no_hash_are_the_operators_and_stay() -> None:
    in_force = backend(line("a", 5), line("b", 6))
    text = backend(line("a", 7), line("b"))
    assert settled(text, in_force) == {"a": 7, "b": 6}
    # They are taken, wherever they stand and also where a server that stays had them.
    assert settled(backend(line("b"), line("new", 6)), in_force) == {"b": of_name("b"), "new": 6}
    assert settled(backend(line("b"), line("new", of_name("b"))))["b"] == of_name("b") + 1
    assert settle(backend(line("a", 5), line("b", 5)), "") == {}


def test_a_server_without_an_id_is_numbered_by_haproxy_and_that_is_taken() -> None:
    assert of_name(LOW) % RING == 2
    assert settled(backend("    server x 10.0.0.1:80", "    server y 10.0.0.1:80", line(LOW)))[LOW] == of_name(LOW) + 3
    assert settled(backend(line(LOW)), backend("    server x 10.0.0.1:80"))[LOW] == of_name(LOW) + 1
    assert settled(backend(line("x"), line(LOW)))[LOW] == of_name(LOW)


def test_each_backend_is_settled_for_itself() -> None:
    first, second = TWINS
    text = backend(line(first), name="one") + backend(line(second), name="two") + "listen three\n" + line(first) + "\n" + line(second) + "\n"
    in_force = backend(line(first, 70), name="one") + backend(line(second, 70), name="two")
    assert settle(text, "") == {9: of_name(second) + 1}
    assert settle(text, in_force) == {3: 70, 6: 70, 9: of_name(second) + 1}


def test_only_backends_have_servers() -> None:
    text = "peers mates\n" + line("a") + "\n" + "frontend web\n" + line("a") + "\n"
    assert settle(text, text.replace(str(of_name("a")), "7") + backend(line("a", 8), name="mates")) == {}


def test_the_branches_of_a_condition_share_the_server() -> None:
    lines = [".if feature(OPENSSL)", line("a", None, " ssl verify none"), ".else", line("a"), ".endif"]
    assert settle(backend(*lines), "") == {}
    assert settle(backend(*lines), backend(line("a", 9))) == {4: 9, 6: 9}


@pytest.mark.parametrize(
    "text",
    [
        "    server  a\t10.0.0.1:80  check  id  {}",
        "    server a 10.0.0.1:80 cookie id id {} # id 5",
        "    server a 10.0.0.1:80 weight 5 id {} maxconn 7",
        "    server 'a' 10.0.0.1:80 id {}\r",
        "    server a 10.0.0.1:80\x0bid {} check",
        "\x0c    server a 10.0.0.1:80 id {}",
    ],
)
def test_the_number_alone_is_replaced_wherever_it_stands(text: str) -> None:
    before = f"# id 1\r\n\x0c\x1c\x85\u2028\nbackend web\n{text.format(of_name('a'))}\nbackend last\n"
    ids_there = settle(before, backend(line("a", 6)))
    if text.startswith("\x0c") or "\x0b" in text:
        # To HAProxy these are no spaces, and so it is another line.
        assert ids_there == {}
    else:
        assert ids_there == {4: 6}
        assert replace(before, ids_there) == before.replace(str(of_name("a")), "6")


def test_a_number_that_stands_first_within_another_word_is_left_alone() -> None:
    text = backend(f"    server a 10.0.0.1:80 sni 'str( id 5)' id {of_name('a')}")
    assert settle(text, backend(line("a", 6))) == {}


@pytest.mark.parametrize("junk", ["", "\n", "server", "backend\nserver a b", "backend x\n server a", "backend x\n server a b id", '"', "\x00", "\udcff"])
def test_no_text_whatever_raises(junk: str) -> None:
    for text, in_force in ((junk, ""), (junk, backend(line("a"))), (backend(line("a")), junk), (junk + backend(line("a")), backend(line("a", 3)) + junk)):
        replace(text, settle(text, in_force))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_who_stays_keeps_its_id_and_no_two_are_alike(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few places that names meet all the time."""
    chance = random.Random(seed)
    monkeypatch.setattr(haproxy_ids, "RING", 64)
    names = [f"i-{number:017x}" for number in range(40)]
    in_force = ""
    moved = 0
    for _run in range(40):
        members = chance.sample(names, chance.randint(1, 20))
        text = backend(*map(line, members), line("fixed", 4711))
        after = settled(text, in_force)
        had = ids(in_force)
        assert list(after) == [*members, "fixed"]
        assert {name: number for name, number in after.items() if name in had} == {name: number for name, number in had.items() if name in after}
        # Neither among themselves, nor with who leaves.
        places = [number % 64 for number in {**had, **after}.values()]
        assert len(places) == len(set(places))
        moved += sum(number != of_name(name) for name, number in after.items())
        in_force = replace(text, settle(text, in_force))
        assert settled(text, in_force) == after
    assert moved > 40
