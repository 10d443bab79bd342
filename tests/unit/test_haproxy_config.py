# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration's text says, and what may be removed from it."""

from __future__ import annotations

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_config import (
    Difference,
    Server,
    differences,
    parse,
    refusals,
    removed_servers,
    server_state_file,
    split_address,
    split_line,
    statistics_sockets,
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   # nothing but a comment", []),
        ("  server a 10.0.0.1:80 check # why", ["server", "a", "10.0.0.1:80", "check"]),
        ("a\tb\r\n", ["a", "b"]),
        (r"log-format one\ word", ["log-format", "one word"]),
        (r"a \# b", ["a", "#", "b"]),
        ('"two words" x', ["two words", "x"]),
        ("'a \\n # b' c", ["a \\n # b", "c"]),
        ('"a\\tb"', ["a\tb"]),
        ('a""b ""', ["ab", ""]),
        ("'it''s'", ["its"]),
        # Before any other character HAProxy keeps it.
        (r"path_reg ^/a\.b \x41 \$A", ["path_reg", r"^/a\.b", "A", r"\$A"]),
        ("ends in \\", ["ends", "in", "\\"]),
        ('"never closed # x', ["never closed # x"]),
    ],
)
def test_a_line_is_split_into_the_words_that_haproxy_sees(line: str, words: list[str]) -> None:
    assert split_line(line) == words


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("10.0.0.1", "10.0.0.1", 0),
        ("ipv4@10.0.0.1:80", "10.0.0.1", 80),
        ("web.example.com:8080", "web.example.com", 8080),
        ("[::1]:80", "::1", 80),
        ("[::1]", "::1", 0),
        ("2001:db8:0::1:80", "2001:db8::1", 80),
        ("ipv6@[2001:DB8::0:1]:80", "2001:db8::1", 80),
        ("/run/app.sock", "/run/app.sock", 0),
        ("unix@/run/app.sock", "/run/app.sock", 0),
        ("10.0.0.1:+100", "10.0.0.1", 100),
        ("${HOST}:80", "${HOST}", 80),
        ("host:${PORT}", "host", 0),
    ],
)
def test_an_address_is_split_into_host_and_port(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)


def test_servers_are_found_in_backends_and_listens_only() -> None:
    configuration = parse(
        """
server before 10.0.0.1:1
global
    server in-global 10.0.0.2:1
defaults
    default-server check
frontend web
    server in-frontend 10.0.0.3:1
backend empty
listen both
    bind :80
    server a 10.0.0.4:1 check inter 2s
peers mates
    server in-peers 10.0.0.5:1
backend web
    # server commented 10.0.0.6:1
    server b 10.0.0.7:1
    server-template t 2 10.0.0.8:1 check
    server-template r 3-4 pool.example.com:1
    server
"""
    )
    assert configuration.servers == {
        "empty": [],
        "both": [Server("a", "10.0.0.4", 1, ("check", "inter", "2s"), "", True)],
        "web": [
            Server("b", "10.0.0.7", 1, (), "", True),
            Server("t1", "10.0.0.8", 1, ("check",), "", True),
            Server("t2", "10.0.0.8", 1, ("check",), "", True),
            Server("r3", "pool.example.com", 1, (), "", True),
            Server("r4", "pool.example.com", 1, (), "", True),
        ],
    }


def test_a_server_is_checked_by_its_line_or_by_what_its_section_inherits() -> None:
    configuration = parse(
        """
defaults plain
    mode http
defaults checked from plain
    default-server check inter 1s
    load-server-state-from-file global
backend inherits
    server a 10.0.0.1:1
    server b 10.0.0.2:1 no-check
backend named from plain
    server c 10.0.0.3:1
    server d 10.0.0.4:1 check
    default-server check
    server e 10.0.0.5:1
defaults
    mode tcp
backend anew
    load-server-state-from-file global
    server f 10.0.0.6:1
listen none from checked
    load-server-state-from-file none
"""
    )
    checked = {server.name for servers in configuration.servers.values() for server in servers if server.checked}
    assert checked == {"a", "d", "e"}
    assert configuration.reads_state == {"inherits", "anew"}
    assert configuration.default_server["inherits"] == ["check", "inter", "1s"]


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("", ""),
        ("server-state-file /a/b", "/a/b"),
        ("server-state-base /a\nserver-state-file b", "/a/b"),
        ("server-state-base /a/\nserver-state-file /c", "/c"),
        ("server-state-file b", ""),
    ],
)
def test_the_server_state_file_is_found(lines: str, path: str) -> None:
    assert server_state_file(parse(f"global\n{lines}\n")) == path


def test_only_unix_sockets_with_level_admin_can_be_asked() -> None:
    text = """
global
    stats socket /run/read.sock mode 600
    stats socket /run/operator.sock level operator
    stats socket 127.0.0.1:9999 level admin
    stats socket unix@/run/admin.sock mode 660 level admin expose-fd listeners
    stats socket /run/plain.sock level admin
"""
    assert statistics_sockets(parse(text)) == [("/run/admin.sock", True), ("/run/plain.sock", False)]


def bound(text: str) -> list[str]:
    return [bind.address for bind in parse(text).binds]


def test_binds_of_an_if_are_passed_over_in_every_branch_and_its_servers_are_not() -> None:
    text = """
frontend web
    bind :80
    .if defined(ONE)
    bind :81
    .if defined(TWO)
    bind :82
    .endif
    bind :83
    .else
    bind :84
    .endif
    bind :85
.if defined(ONE)
listen api
    bind :86
    server a 10.0.0.1:80
.endif
"""
    assert bound(text) == [":80", ":85"]
    assert list(parse(text).servers) == ["api"]


@pytest.mark.parametrize(
    ("text", "binds"),
    [
        ("frontend a\n disabled\n bind :80\nfrontend b\n bind :81\n", [":81"]),
        ("frontend a\n bind :80\n disabled\nfrontend b\n bind :81\n", [":81"]),
        ("frontend a\n disabled\n bind :80\n enabled\n", [":80"]),
        ("defaults\n disabled\nfrontend a\n bind :80\nfrontend b\n enabled\n bind :81\ndefaults\nfrontend c\n bind :82\n", [":81", ":82"]),
        # What cannot be known is no reason to refuse.
        ("frontend a\n bind :80\n .if defined(OFF)\n disabled\n .endif\n", []),
        ("frontend a\n disabled\n bind :80\n .if defined(ON)\n enabled\n .endif\n", []),
    ],
)
def test_a_section_that_is_disabled_listens_nowhere(text: str, binds: list[str]) -> None:
    assert bound(text) == binds


def test_paths_that_get_a_prefix_are_passed_over_and_the_statistics_sockets_get_none() -> None:
    text = """
global
    stats socket /run/admin.sock level admin
    unix-bind mode 600
    {}
frontend web
    bind :80,/web.sock
    bind unix@/other.sock
    bind abns@name
"""
    assert bound(text.format("")) == ["/run/admin.sock", ":80", "/web.sock", "unix@/other.sock", "abns@name"]
    assert bound(text.format("unix-bind user web prefix /run/web")) == ["/run/admin.sock", ":80", "abns@name"]


def servers(*names: str) -> list[Server]:
    return [Server(name, f"10.0.0.{name}", 80) for name in names]


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        (servers("1", "2"), servers("1", "2"), []),
        (servers("1", "2"), servers("2", "3"), ["1"]),
        # Taking over a file that names its servers differently removes nothing.
        ([Server("web1", "10.0.0.1", 80)], servers("1"), []),
        # A name that passes to another instance takes the old one away.
        ([Server("web", "10.0.0.1", 80)], [Server("web", "10.0.0.2", 80)], ["web"]),
        # Another port of the same instance takes nothing away.
        ([Server("web", "10.0.0.1", 80)], [Server("web", "10.0.0.1", 81)], []),
        ([Server("web", "10.0.0.1", 80)], [Server("other", "10.0.0.1", 81)], ["web"]),
        # The process resolved the name that stands in the file, and shows a socket's path as "-".
        ([Server("web", "10.0.0.1", 80, (), "web.local")], [Server("web", "web.local", 80)], []),
        ([Server("web", "-", 0)], [Server("web", "/run/web.sock", 0)], []),
    ],
)
def test_what_no_longer_gets_requests_is_removed(before: list[Server], after: list[Server], gone: list[str]) -> None:
    assert [server.name for server in removed_servers(before, after)] == gone


@pytest.mark.parametrize(
    ("had", "wanted", "percent", "refused"),
    [
        ("1234", "1234", 50, False),
        ("1234", "12", 50, False),
        ("1234", "1", 50, True),
        ("1234", "5678", 50, True),
        ("123", "12", 0, False),
        ("123", "1", 50, True),
        ("12", "1", 0, False),
        ("1", "2", 50, False),
        ("1", "", 50, True),
        ("1", "", 99, True),
        ("1", "", 100, False),
        ("1234", "", 100, False),
        ("", "1", 0, False),
        ("12345", "345", 40, False),
        ("12345", "345", 39, True),
    ],
)
def test_a_backend_loses_one_server_or_the_allowed_share_and_never_all(had: str, wanted: str, percent: int, refused: bool) -> None:
    found = refusals({"web": servers(*had)}, {"web": servers(*wanted)}, percent)
    assert bool(found) is refused


def test_a_refusal_names_the_backend_the_counts_and_the_limit() -> None:
    had = {"web": servers("1", "2", "3"), "api": servers("4", "5", "6", "7"), "kept": servers("8", "9")}
    wanted = {"api": servers("4"), "kept": servers("8", "9"), "new": servers("1")}
    assert refusals(had, wanted, 50) == [
        "backend api would lose 3 of its 4 servers (75 percent, 50 allowed)",
        "backend web would lose all of its 3 servers",
    ]


def test_each_backend_is_counted_for_itself() -> None:
    big = servers(*(str(number) for number in range(1, 101)))
    assert refusals({"big": big, "small": servers("1", "2", "3")}, {"big": big, "small": servers("1")}, 50)


def test_servers_come_go_and_change_by_name() -> None:
    before = {
        "web": [Server("a", "10.0.0.1", 80), Server("b", "10.0.0.2", 80), Server("c", "10.0.0.3", 80)],
        "same": servers("1"),
        "gone": servers("2"),
    }
    after = {
        "web": [Server("b", "10.0.0.2", 81), Server("c", "10.0.0.3", 80), Server("d", "10.0.0.4", 80)],
        "same": servers("1"),
        "new": servers("3"),
    }
    assert differences(before, after, compare_options=False) == {
        "gone": Difference([], ["2"], []),
        "new": Difference(["3"], [], []),
        "web": Difference(["d"], ["a"], ["b"]),
    }


def test_options_count_between_files_and_not_against_a_process() -> None:
    before = {"web": [Server("a", "10.0.0.1", 80, ("check",))]}
    after = {"web": [Server("a", "10.0.0.1", 80, ("check", "backup"))]}
    assert differences(before, after, compare_options=False) == {}
    assert differences(before, after, compare_options=True) == {"web": Difference([], [], ["a"])}
