# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What takes a reload, and by which commands the rest is done."""

from __future__ import annotations

import re

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_config import Server
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_plan import KEYWORDS, Plan, drift, plan, silenced, weights
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import ServerState

VERSIONS = ["2.6.12-1+deb12u4", "3.0.11-1+deb13u3", "3.2.5-1"]
OLD, NEW = VERSIONS[0], VERSIONS[2]

FRAME = """
global
    stats socket /run/haproxy/admin.sock level admin
defaults
    mode http
    {defaults}
frontend in
    bind :80
    default_backend web
backend other
    server o 10.9.0.1:80 check
backend web
    {lines}
    {servers}
"""
A = "server a 10.0.0.1:80 check id 11"
B = "server b 10.0.0.2:80 check id 12"
C = "server c 10.0.0.3:80 check id 13"


def text(*servers: str, lines: str = "balance roundrobin", defaults: str = "") -> str:
    return FRAME.format(lines=lines, servers="\n    ".join(servers), defaults=defaults)


def planned(before: str, after: str, version: str = NEW) -> Plan:
    return plan(before, after, version)


def commands(found: Plan) -> list[str]:
    assert found.reload == ""
    return ["; ".join(command.text for command in step.commands) or step.action for step in found.steps]


def reason(before: str, after: str, version: str = NEW) -> str:
    found = planned(before, after, version)
    assert found.steps == []
    assert found.reload
    return found.reload


# --- what the commands are


@pytest.mark.parametrize("version", VERSIONS)
def test_a_newcomer_is_added_whole_and_gets_nothing_before_its_first_passed_check(version: str) -> None:
    assert commands(planned(text(A), text(A, B), version)) == [
        "add server web/b 10.0.0.2:80 check id 12" + (" pool-max-conn -1 pool-purge-delay 5s" if version == OLD else ""),
        "set server web/b state drain; set server web/b health down; set server web/b state ready",
        "enable health web/b",
    ]


def test_a_newcomer_without_a_check_is_not_held_down() -> None:
    found = commands(planned(text(A), text(A, "server b 10.0.0.2:80 id 12")))
    assert found == ["add server web/b 10.0.0.2:80 id 12", "set server web/b state ready"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_leaver_is_drained_put_in_maintenance_and_then_deleted(version: str) -> None:
    assert commands(planned(text(A, B), text(A), version)) == [
        "set server web/b state drain",
        "wait until idle",
        "set server web/b state maint",
        "wait until idle",
        "del server web/b",
    ]


def test_newcomers_come_in_before_leavers_go_and_are_waited_for_where_no_other_would_serve() -> None:
    found = planned(text(A, B), text(C))
    assert [step.action for step in found.steps] == [
        "add",
        "enable",
        "check",
        "wait for checks",
        "drain",
        "drain",
        "wait until idle",
        "maint",
        "maint",
        "wait until idle",
        "delete",
        "delete",
    ]
    assert "wait for checks" not in [step.action for step in planned(text(A, B), text(A, C)).steps]
    spare = "server s 10.0.0.9:80 check backup id 19"
    assert "wait for checks" in [step.action for step in planned(text(A, spare), text(B, spare)).steps]


def test_what_default_server_says_where_the_line_stands_is_written_out() -> None:
    after = text(A, "default-server weight 7", "server b 10.0.0.2:80 id 12 inter 3s no-check", defaults="default-server check inter 1s ssl verify none")
    before = text(A, "default-server weight 7", defaults="default-server check inter 1s ssl verify none")
    assert commands(planned(before, after))[0] == "add server web/b 10.0.0.2:80 ssl verify none weight 7 id 12 inter 3s"


def test_enabled_takes_disabled_back_and_is_never_sent() -> None:
    after = text(A, B + " enabled", defaults="default-server disabled")
    before = text(A, defaults="default-server disabled")
    assert commands(planned(before, after))[0] == "add server web/b 10.0.0.2:80 check id 12"


def test_an_ipv6_address_is_written_so_that_its_port_is_seen() -> None:
    found = commands(planned(text(A), text(A, "server b ipv6@[2001:DB8:0::1]:80 id 12"), NEW))
    assert found[0] == "add server web/b [2001:db8::1]:80 id 12"


def test_a_weight_and_a_maxconn_are_set() -> None:
    assert commands(planned(text(A), text(A + " weight 5"))) == ["set server web/a weight 5"]
    assert commands(planned(text(A + " weight 5 maxconn 9"), text(A))) == ["set server web/a weight 1", "set maxconn server web/a 0"]
    assert commands(planned(text(A), text(A + " weight 1"))) == []
    assert "maxconn cannot be changed" in reason(text(A + " minconn 1 maxconn 9"), text(A + " minconn 1 maxconn 8"))


def test_a_server_whose_address_or_port_changes_is_out_of_service_meanwhile_and_held_down_after() -> None:
    found = planned(text(A, B), text(A, "server b 10.0.0.7:81 check id 12"))
    assert commands(found) == [
        "set server web/b state drain",
        "wait until idle",
        "set server web/b state maint",
        "wait until idle",
        "set server web/b addr 10.0.0.7 port 81",
        "set server web/b state drain; set server web/b health down; set server web/b state ready",
    ]
    assert "no other server is left" in reason(text(A), text("server a 10.0.0.7:80 check id 11"))


def test_every_command_has_the_answer_that_success_looks_like() -> None:
    found = planned(text(A, B), text(A, C))
    answers = {command.text.split()[0]: command.answer for step in found.steps for command in step.commands}
    assert re.fullmatch(answers["add"], "New server registered.")
    assert re.fullmatch(answers["del"], "Server deleted.")
    assert answers["set"] == answers["enable"] == ""


def test_nothing_is_done_for_comments_spaces_and_the_order_of_servers() -> None:
    after = text(B + "   # the second", A).replace("mode http", "mode   http # not tcp")
    for before in (text(A, B), text(B, A)):
        assert planned(before, after) == Plan([], "")


# --- ids


def test_without_ids_a_server_that_would_be_renumbered_takes_a_reload() -> None:
    a, b, c = (f"server {name} 10.0.0.{number}:80 check" for number, name in enumerate("abc", 1))
    assert commands(planned(text(a, b), text(a, b, c)))[0] == "add server web/c 10.0.0.3:80 check id 3"
    assert planned(text(a, b, c), text(a, b)).reload == ""
    assert "backend web, server b: its id changes from 2 to 1" in reason(text(a, b), text(b))
    assert "its id 2 is that of b" in reason(text(a, b), text(a, c))
    assert planned(text(a), text(f"{a} id 1")) == Plan([], "")
    assert "its id changes from 11 to 21" in reason(text(A), text(A.replace("id 11", "id 21")))


def test_an_id_that_is_taken_is_passed_over() -> None:
    one, two = "server x 10.0.0.1:80", "server y 10.0.0.2:80 id 2"
    assert commands(planned(text(one, two), text(one, two, "server z 10.0.0.3:80")))[0] == "add server web/z 10.0.0.3:80 id 3"


# --- what takes a reload


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mode http", "mode http\n    timeout connect 1s"), ["defaults", "timeout connect"]),
        (("bind :80", "bind :81"), ["frontend in", "bind"]),
        (("backend other", "backend another"), ["backend other", "backend another"]),
        (("bind :80", 'bind "$WHERE"'), ["frontend in", "bind"]),
        (("level admin", "level user"), ["global", "stats socket"]),
        (("default_backend web", ""), ["frontend in", "default_backend"]),
    ],
)
def test_another_difference_than_a_servers_is_named(change: tuple[str, str], words: list[str]) -> None:
    found = reason(text(A), text(A, B).replace(*change))
    assert all(word in found for word in words), found


def test_a_section_that_comes_goes_or_changes_its_place_is_named() -> None:
    more = "backend third\n    server t 10.8.0.1:80\n"
    assert "backend third: the section comes or goes" in reason(text(A), text(A) + more)
    assert "backend third: the section comes or goes" in reason(text(A) + more, text(A))
    assert "backend third" in reason(more + text(A), text(A) + more)


def test_no_reason_shows_the_values_of_a_line() -> None:
    secret = "stats auth admin:secret"
    assert "secret" not in reason(text(A), text(A, lines=secret))
    assert "secret" not in reason(text(A, lines=secret), text(A, lines="stats auth admin:secret2"))


def test_the_same_words_within_other_quotes_are_another_line() -> None:
    assert "log-tag" in reason(text(A, lines='log-tag "$X"'), text(A, B, lines="log-tag '$X'"))


def test_servers_of_a_peers_section_are_no_servers_of_a_backend() -> None:
    peers = "peers mates\n    server {} 10.7.0.1:1024\n"
    assert "peers mates" in reason(text(A) + peers.format("p"), text(A) + peers.format("q"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("balance static-rr", "balance static-rr"),
        ("balance source", "balance source"),
        ("balance hdr(host)\n    hash-type map-based", "balance hdr"),
        ("balance sticky", "balance sticky"),
        ('balance "$ALGORITHM"', "balance has an environment variable"),
        ("mode log", "mode log"),
        ("dispatch 10.0.0.1:80", "dispatch"),
        ("http-send-name-header X-Server", "http-send-name-header"),
        ("option external-check", "option external-check"),
        ("use-fcgi-app php", "use-fcgi-app"),
        ("server-template t 2 10.0.0.8:80", "server-template"),
        (".if defined(X)\n    balance first\n    .endif", "it has an .if"),
    ],
)
def test_a_backend_whose_servers_cannot_change_at_runtime_is_named_with_the_keyword(version: str, lines: str, words: str) -> None:
    found = reason(text(A, lines=lines), text(A, B, lines=lines), version)
    assert found.startswith("backend web: ")
    assert words in found
    assert ("takes no servers at runtime" in found) is (lines.startswith("balance ") and "$" not in lines)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "lines",
    [
        "",
        "balance leastconn",
        "balance first",
        "balance random(2)",
        "balance source\n    hash-type consistent sdbm avalanche",
        "option transparent\n    no option transparent",
        "stick-table type ip size 1k\n    stick on src",
    ],
)
def test_other_backends_take_servers_at_runtime(version: str, lines: str) -> None:
    assert planned(text(A, lines=lines), text(A, B, lines=lines), version).reload == ""


def test_what_a_backend_inherits_counts_as_its_own() -> None:
    assert "static-rr" in reason(text(A, lines="", defaults="balance static-rr"), text(A, B, lines="", defaults="balance static-rr"))
    assert planned(text(A, defaults="balance static-rr"), text(A, B, defaults="balance static-rr")).reload == ""
    named = "defaults d\n    balance static-rr\ndefaults e from d\n    mode http\nbackend x from e\n    {}\n"
    assert "static-rr" in reason(named.format(A), named.format(B))
    anew = "defaults\n    balance static-rr\ndefaults\n    mode http\nbackend x\n    {}\n"
    assert planned(anew.format(A), anew.format(B)).reload == ""


def test_a_section_that_may_not_hold_takes_a_reload() -> None:
    within = ".if defined(X)\nbackend x\n    {}\n.endif\n"
    assert "backend x: which lines hold cannot be known" in reason(text(A) + within.format(A), text(A) + within.format(B))
    defaults = ".if defined(X)\ndefaults\n    balance first\n.endif\nbackend x\n    {}\n"
    assert "backend x: which lines hold cannot be known" in reason(defaults.format(A), defaults.format(B))
    # What is uncertain elsewhere stays as it is.
    elsewhere = "frontend out\n" + within.format(C)
    assert planned(text(A) + elsewhere, text(A, B) + elsewhere).reload == ""


def test_the_cookie_of_a_backend_that_is_made_of_the_address_depends_on_the_version() -> None:
    lines = "cookie S insert indirect dynamic\n    dynamic-cookie-key k"
    assert "cookie" in reason(text(A, lines=lines), text(A, B, lines=lines), OLD)
    assert planned(text(A, lines=lines), text(A, B, lines=lines), NEW).reload == ""
    assert planned(text(A, B, lines=lines), text(A, lines=lines), OLD).reload == ""


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("server b web.example.com:80", "its address is not an IP address with a port"),
        ("server b /run/app.sock", "its address"),
        ("server b 10.0.0.2", "its address"),
        ("server b 10.0.0.2:+100", "its address"),
        ("server b 0.0.0.0:80", "its address"),
        ("server b 10.0.0.2:99999", "its address"),
        ('server b "$ADDRESS":80', "environment variable"),
        ("server b 10.0.0.2:80 weight $W", "environment variable"),
        ("server b/c 10.0.0.2:80", "its name"),
        ("server b;c 10.0.0.2:80", "its name"),
        ("server b 10.0.0.2:80 wieght 3", "the keyword wieght is not known"),
        ("server b 10.0.0.2:80 sni 'str(a b)'", "the value of sni"),
        ("server b 10.0.0.2:80 sni 'str(a;b)'", "the value of sni"),
        ("server b 10.0.0.2:80 ssl crt /etc/new.pem", "the file of crt"),
        ("server b 10.0.0.2:80 ssl ca-file new.pem", "the file of ca-file"),
        ("server b 10.0.0.2:80 send-proxy-v2 proxy-v2-options ssl proxy-v2-options crc32c", "proxy-v2-options"),
    ],
)
def test_a_newcomer_that_cannot_be_added_is_named_with_the_reason(server: str, words: str) -> None:
    found = reason(text(A), text(A, server))
    assert found.startswith(f"backend web, server {server.split()[1]}: ")
    assert words in found


def test_a_keyword_that_a_version_cannot_be_given_at_runtime_is_named_with_the_version() -> None:
    cookie = B + " cookie b"
    assert reason(text(A), text(A, cookie), OLD) == "backend web, server b: HAProxy 2.6 cannot be given cookie at runtime"
    assert planned(text(A), text(A, cookie), NEW).reload == ""


def test_a_file_that_another_server_has_is_there_already() -> None:
    tls = " ssl verify required ca-file ca.pem"
    assert planned(text(A + tls), text(A + tls, B + tls)).reload == ""


def example(keyword: str) -> str:
    return " ".join([*(["check"] if keyword == "slowstart" else []), keyword, *["1"] * KEYWORDS[keyword].values])


@pytest.mark.parametrize(
    ("words", "implied"),
    [
        ("check ssl", " check-ssl"),
        ("check ssl port 81", ""),
        ("check send-proxy addr 10.0.0.9 ssl", ""),
        ("check ssl addr 10.0.0.9", ""),
        ("check send-proxy-v2", " check-send-proxy"),
        ("check send-proxy port 81", ""),
        ("ssl send-proxy", ""),
    ],
)
def test_a_newcomer_is_checked_in_the_way_that_it_is_spoken_to(words: str, implied: str) -> None:
    """Measured: a server of the file is by itself."""
    assert commands(planned(text(A), text(A, f"server b 10.0.0.2:80 id 12 {words}")))[0] == f"add server web/b 10.0.0.2:80 id 12 {words}{implied}"


def test_on_2_6_a_newcomer_is_told_to_keep_its_connections() -> None:
    """Measured: on it an added server never used one a second time."""
    line = "server b 10.0.0.2:80 id 12 pool-max-conn 3"
    assert commands(planned(text(A), text(A, line), OLD))[0] == "add server web/b 10.0.0.2:80 id 12 pool-max-conn 3 pool-purge-delay 5s"


def test_an_agent_is_enabled_and_its_server_neither_moved_nor_weighed() -> None:
    agent = "server b 10.0.0.2:80 check id 12 agent-check agent-port 9"
    assert commands(planned(text(A), text(A, agent)))[-2:] == ["enable health web/b", "enable agent web/b"]
    assert commands(planned(text(A, agent), text(A)))[-1] == "del server web/b"
    assert "agent-check" in reason(text(A, agent), text(A, f"{agent} weight 5"))
    assert "agent-check" in reason(text(A, agent), text(A, agent.replace("10.0.0.2", "10.0.0.7")))


def test_a_slow_start_without_a_check_takes_a_reload() -> None:
    assert "slowstart" in reason(text(A), text(A, "server b 10.0.0.2:80 id 12 slowstart 5s"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keyword", [keyword for keyword, row in KEYWORDS.items() if keyword != "id" and not row.undoes])
def test_each_row_of_the_table_decides_on_a_newcomer(keyword: str, version: str) -> None:
    row = KEYWORDS[keyword]
    line = f"server b 10.0.0.2:80 id 12 {example(keyword)}"
    other = f"server f 10.0.0.6:80 id 16 {example(keyword)}" if row.file else A
    found = planned(text(other), text(other, line), version)
    major, minor = (int(part) for part in version.split(".")[:2])
    if row.since is None or (major, minor) < row.since:
        assert found.reload.startswith("backend web, server b: ")
        assert keyword in found.reload
    else:
        assert f"{commands(found)[0]} ".startswith(f"add server web/b 10.0.0.2:80 id 12 {example(keyword)} ")


@pytest.mark.parametrize("keyword", [keyword for keyword, row in KEYWORDS.items() if row.undoes])
def test_what_is_taken_back_is_as_if_it_had_never_been_said(keyword: str) -> None:
    undone = example(KEYWORDS[keyword].undoes)
    found = planned(text(A), text(A, f"server b 10.0.0.2:80 id 12 {undone} {keyword}"))
    assert commands(found)[0] == "add server web/b 10.0.0.2:80 id 12"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keyword", [keyword for keyword, row in KEYWORDS.items() if keyword != "id" and not row.undoes])
def test_each_row_of_the_table_decides_on_a_server_that_goes_or_gets_it(keyword: str, version: str) -> None:
    row = KEYWORDS[keyword]
    line = f"server b 10.0.0.2:80 id 12 {example(keyword)}"
    assert bool(planned(text(A, line), text(A), version).reload) == row.fixed
    changed = planned(
        text(A, "server b 10.0.0.2:80 id 12" + " check" * (keyword == "slowstart")), text(A, line.replace(f"{keyword} 1", f"{keyword} 2")), version
    )
    if row.settable:
        assert len(changed.steps) == 1
    else:
        assert changed.reload.startswith("backend web, server b: ")
        assert keyword in changed.reload


def test_a_row_is_sound() -> None:
    for keyword, row in KEYWORDS.items():
        assert bool(row.why) == (row.since != row.known), keyword
        assert not row.undoes or row.undoes in KEYWORDS, keyword
        assert not (row.fixed and row.since), keyword


def test_what_is_not_touched_is_not_judged() -> None:
    strange = "server s web.example.com:80 resolvers dns frobnicate id 77"
    assert planned(text(A, strange), text(A, strange, B)).reload == ""


def test_a_server_that_others_track_is_not_moved() -> None:
    tracker = "server t 10.0.0.9:80 track web/b id 19"
    moved = "server b 10.0.0.7:80 check id 12"
    assert "another server tracks it" in reason(text(A, B, tracker), text(A, moved, tracker))
    assert "of another kind" in reason(text(A, B), text(A, "server b [::1]:80 check id 12"))


def test_the_order_of_backup_servers_decides_who_serves() -> None:
    spare = "server {0} 10.0.1.{0}:80 check backup id {0}"
    one, two = spare.format(1), spare.format(2)
    assert "the order of the backup servers" in reason(text(A, two), text(A, one, two))
    assert planned(text(A, one), text(A, one, two)).reload == ""
    assert planned(text(A, two, lines="option allbackups"), text(A, one, two, lines="option allbackups")).reload == ""


def test_two_servers_of_one_name_take_a_reload() -> None:
    assert "two servers have one name" in reason(text(A), text(A, A))


# --- version and capabilities


@pytest.mark.parametrize("version", ["2.4.22", "2.5.1", "", "unknown"])
def test_before_2_6_everything_takes_a_reload(version: str) -> None:
    assert planned(text(A), text(A, B), version).reload
    assert planned(text(A), text(A), version) == Plan([], "")


def test_a_command_that_the_buffer_does_not_hold_takes_a_reload() -> None:
    def with_buffer(size: int, *servers: str) -> str:
        return text(*servers).replace("global\n", f"global\n    tune.bufsize {size}\n")

    long = "server b 10.0.0.2:80 id 12 ciphers " + "A" * 900
    assert "tune.bufsize" in planned(with_buffer(1000, A), with_buffer(1000, A, long)).reload
    found = planned(with_buffer(2048, A), with_buffer(2048, A, long))
    assert (found.reload, found.buffer) == ("", 2048)
    assert planned(text(A), text(A, long)).buffer == 16384


# --- the state of the process


def state(
    name: str, number: int, *, port: int = 80, admin: int = 0, operational: int = 2, weight: int = 1, checked: bool = True, tls: bool = False
) -> ServerState:
    server = Server(name, f"10.0.0.{number - 10}", port, checked=checked)
    return ServerState(server, operational, admin, weight, 1, number, tls)


OTHER = {"other": [ServerState(Server("o", "10.9.0.1", 80, checked=True), 2, 0, 1, 1, 1)]}


def process(*states: ServerState) -> dict[str, list[ServerState]]:
    return {**OTHER, "web": list(states)}


def from_process(before: str, after: str, *states: ServerState) -> Plan:
    return plan(before, after, NEW, process(*states))


def test_a_process_that_is_as_its_file_says_has_not_drifted() -> None:
    assert drift(text(A, B), process(state("a", 11), state("b", 12))) == []
    assert from_process(text(A, B), text(A, B), state("a", 11), state("b", 12)) == Plan([], "")


@pytest.mark.parametrize("kept", [{"admin": 1}, {"admin": 8}, {"weight": 7}, {"operational": 0}])
def test_what_a_person_set_and_what_checks_found_is_no_drift(kept: dict[str, int]) -> None:
    assert drift(text(A, B), process(state("a", 11, **kept), state("b", 12))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"admin": 1}, {"admin": 8}, {"weight": 7}])
def test_on_a_server_that_we_brought_in_it_is(wrong: dict[str, int]) -> None:
    assert drift(text(A, B), process(state("a", 11, **wrong), state("b", 12)), {("web", "a")}) != []  # type: ignore[arg-type]
    assert drift(text(A, B), process(state("a", 11, **wrong), state("b", 12)), {("web", "b")}) == []  # type: ignore[arg-type]


def test_a_server_that_the_process_lacks_is_added_again() -> None:
    assert drift(text(A, B), process(state("a", 11))) == ["web/b is in the file and not in the process"]
    assert commands(from_process(text(A, B), text(A, B), state("a", 11)))[0] == "add server web/b 10.0.0.2:80 check id 12"


def test_a_server_that_the_file_lacks_is_taken_out_and_deleted() -> None:
    there = [state("a", 11), state("b", 12)]
    assert drift(text(A), process(*there)) == ["web/b is in the process and not in the file"]
    assert commands(from_process(text(A), text(A), *there)) == [
        "set server web/b state drain",
        "wait until idle",
        "set server web/b state maint",
        "wait until idle",
        "del server web/b",
    ]


def test_one_that_is_in_maintenance_already_is_only_deleted() -> None:
    assert commands(from_process(text(A), text(A), state("a", 11), state("b", 12, admin=1))) == ["del server web/b"]


def test_a_server_at_another_place_is_moved_back() -> None:
    there = [state("a", 11), state("b", 12, port=81)]
    assert drift(text(A, B), process(*there)) == ["web/b is at 10.0.0.2:81, and at 10.0.0.2:80 in the file"]
    assert "set server web/b addr 10.0.0.2 port 80" in commands(from_process(text(A, B), text(A, B), *there))


@pytest.mark.parametrize(
    ("there", "word"),
    [
        ([state("a", 11), state("b", 22)], "has the id 22, and 12"),
        ([state("a", 11), state("b", 12, checked=False)], "web/b is not checked"),
        ([state("a", 11), state("b", 12, tls=True)], "web/b is reached over TLS"),
    ],
)
def test_what_commands_cannot_mend_takes_a_reload(there: list[ServerState], word: str) -> None:
    there = [one._replace(server=one.server._replace(address="10.0.0.2")) if one.server.name == "b" else one for one in there]
    assert word in drift(text(A, B), process(*there))[0]
    assert word in from_process(text(A, B), text(A, B), *there).reload


def test_a_server_of_the_process_that_is_to_come_takes_a_reload() -> None:
    assert "the process has it already" in from_process(text(A), text(A, B), state("a", 11), state("b", 12)).reload


def test_a_place_that_the_file_does_not_tell_is_no_drift() -> None:
    for line in ("server b example.com:80 check id 12", 'server b "$WHERE":80 check id 12', "server b 10.9.9.9:+80 check id 12"):
        assert drift(text(A, line), process(state("a", 11), state("b", 12))) == []
    assert drift(text(A, lines="server-template w 3 10.0.0.9:80"), process(state("a", 11), state("w1", 1))) == []


def test_a_moved_server_keeps_what_a_person_set() -> None:
    moved = B.replace(":80", ":81")
    assert commands(from_process(text(A, B), text(A, moved), state("a", 11), state("b", 12, admin=8)))[-1].endswith("; set server web/b state drain")
    assert commands(from_process(text(A, B), text(A, moved), state("a", 11), state("b", 12, admin=1)))[-1] == "set server web/b addr 10.0.0.2 port 81"
    assert "set server web/b weight 1" not in commands(from_process(text(A, B), text(A, moved), state("a", 11), state("b", 12, weight=7)))


def test_what_a_person_set_was_not_said_of_another_instance_of_the_name() -> None:
    other = B.replace("10.0.0.2", "10.0.0.9")
    for admin in (1, 8):
        found = commands(from_process(text(A, B), text(A, other), state("a", 11), state("b", 12, admin=admin, weight=7)))
        assert "set server web/b weight 1" in found
        assert found[-1].endswith("; set server web/b state ready")


def test_settings_come_behind_the_wait_so_that_a_change_that_waits_leaves_them() -> None:
    before = FRAME.format(lines="balance roundrobin", servers=f"{A}\nbackend two\n    {B}", defaults="")
    after = FRAME.format(lines="balance roundrobin", servers=f"{A} weight 5\nbackend two\n    {C}", defaults="")
    found = commands(planned(before, after))
    assert found.index("wait for checks") < found.index("set server web/a weight 5")


def test_a_newcomer_that_is_a_backup_server_stands_for_nobody() -> None:
    spare = "server s 10.0.0.9:80 check backup id 19"
    (waits,) = (step for step in planned(text(A), text(C, spare)).steps if step.action == "wait for checks")
    assert (waits.backend, waits.any_of) == ("web", ("c",))
    # Unless there is no other.
    (waits,) = (step for step in planned(text(A), text(spare)).steps if step.action == "wait for checks")
    assert waits.any_of == ("s",)


def test_the_last_usable_server_waits_for_those_that_stay_also_when_nobody_comes() -> None:
    there = [state("a", 11, operational=0), state("b", 12)]
    (waits,) = (step for step in from_process(text(A, B), text(A), *there).steps if step.action == "wait for checks")
    assert waits.any_of == ("a",)
    spare = "server s 10.0.0.9:80 check backup id 19"
    (waits,) = (step for step in from_process(text(A, B, spare), text(A, spare), *there, state("s", 19)).steps if step.action == "wait for checks")
    assert waits.any_of == ("a", "s")


def test_only_a_server_that_is_usable_stands_for_those_that_go() -> None:
    waits = "wait for checks"
    there = [state("a", 11, operational=0), state("b", 12)]
    assert waits in commands(from_process(text(A, B), text(A, C), *there))
    there = [state("a", 11), state("b", 12)]
    assert waits not in commands(from_process(text(A, B), text(A, C), *there))
    # Where nobody serves, nobody is waited for.
    there = [state("a", 11, operational=0), state("b", 12, operational=0)]
    assert waits not in commands(from_process(text(A, B), text(A, C), *there))


@pytest.mark.parametrize(
    ("was", "now"), [("/a.b", r"/a\.b"), (r"/d+", r"/\d+"), ('"a b"', "'a b'"), ("${A}", "'${A}'")], ids=["point", "digit", "quotes", "variable"]
)
def test_a_line_that_means_something_else_takes_a_reload(was: str, now: str) -> None:
    """What a backslash and a dollar become depends on what stands around them."""
    texts = [text(A, lines=f"balance roundrobin\n    http-request deny if {{ path_reg {value} }}") for value in (was, now)]
    assert (planned(*texts).reload == "") == (was == '"a b"')


@pytest.mark.parametrize("line", [r"server b 10.0.0.2:80 id 12 sni req.hdr(host),regsub(\.,-,g)", r"server s\x32 10.0.0.2:80 id 12", 'server "${SRV[*]}"'])
def test_a_server_line_that_cannot_be_read_for_sure_takes_a_reload(line: str) -> None:
    assert reason(text(A), text(A, line))
    assert drift(text(A, line), process(state("a", 11), state("s2", 12) if "x32" in line or "SRV" in line else state("b", 12))) == []


def test_a_server_that_another_one_tracks_is_neither_moved_nor_removed() -> None:
    tracker = "server t 10.0.0.9:80 id 19 track web/a"
    assert "another server tracks it" in reason(text(A, B, tracker), text(A.replace(":80", ":81"), B, tracker))


def test_a_server_that_comes_out_of_a_condition_takes_a_reload() -> None:
    assert ".if" in reason(text(A, ".if defined(NOPE)", B, ".endif"), text(A, ".if defined(NOPE)", ".endif", B))


def test_the_weights_of_a_file() -> None:
    lines = "default-server weight 5\n    balance roundrobin"
    assert weights(text(A, B + " weight 9", lines=lines)) == {("other", "o"): 1, ("web", "a"): 5, ("web", "b"): 9}


@pytest.mark.parametrize(
    "junk", ["", "\n\n", "server", "backend", "backend\n server a", ".endif", "backend x from\n server a 1:1 source", "\x00", '"', "defaults from"]
)
def test_no_text_whatever_raises(junk: str) -> None:
    for before, after in ((junk, text(A)), (text(A), junk), (junk, junk), (text(A), text(A) + junk), (text(A) + junk, text(B) + junk)):
        assert isinstance(planned(before, after), Plan)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (["weight 1", ""], ["weight 0", "weight 0"], ["web"]),
        (["weight 1", ""], ["weight 0", ""], []),
        # Whoever stands by serves then.
        (["weight 1", ""], ["weight 0", "backup"], []),
        (["weight 1"], ["weight 5 weight 0"], ["web"]),
        # It was so before, or there was no such backend.
        (["weight 0"], ["weight 0", "weight 0"], []),
        ([], ["weight 0"], []),
        # Without servers it is emptied, which is said elsewhere.
        (["weight 1"], [], []),
        # What is not known is no reason to refuse.
        (["weight 1"], ['weight "$WEIGHT"'], []),
    ],
)
def test_a_backend_is_silenced_when_none_of_its_servers_has_a_weight_any_more(before: list[str], after: list[str], found: list[str]) -> None:
    def text(words: list[str]) -> str:
        return "backend web\n" + "".join(f"    server s{number} 192.0.2.{number}:80 check {more}\n" for number, more in enumerate(words, 1))

    assert silenced(text(before), text(after)) == found
