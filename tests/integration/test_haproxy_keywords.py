# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The table of server keywords, row by row on a real HAProxy of every version at hand.

Each row has a backend of its own with one server. One process is started without these servers and gets them by the planner's commands; a second one is
started with them in its file, held down by the server-state file as at a reload of ours. Both have to look alike then: in what HAProxy shows, and in what
arrives at a server that writes down whatever comes.
"""

from __future__ import annotations

import csv
import http.client
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_config import Server
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_plan import KEYWORDS, REFUSED, plan
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import STOPPED, ServerState, server_state_file
from balancer import Balancer, ask
from certificates import signed
from recorder import Recorder, Seen

Version = tuple[int, int]


class Row(NamedTuple):
    """The words of a server with the keyword, further lines of its backend, and what to do to both processes besides two requests: it
    returns what has to be the same."""

    words: str
    lines: str = ""
    act: Callable[[Side, str], Any] | None = None


class Side(NamedTuple):
    """One of the two processes, and the servers that it sends requests to."""

    balancer: Balancer
    recorder: Recorder

    def get(self, keyword: str, path: str = "/row", **headers: str) -> str:
        """The status of a request's answer and the cookie that it sets, on a connection of its own; "cut" when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.balancer.port, timeout=10)
        try:
            connection.request("GET", path, headers={"X-Row": keyword, **headers})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return "cut"
        finally:
            connection.close()
        return f"{answer.status} {answer.getheader('Set-Cookie')}"

    def ask(self, command: str) -> str:
        """The answer to a command; the ports of the servers by their names, since each side has its own."""
        answer = ask(self.balancer.stats_socket, command).strip()
        for port, name in ((self.recorder.port, "main"), (self.recorder.check_port, "check"), (self.recorder.agent_port, "agent")):
            answer = answer.replace(str(port), name)
        return answer

    def column(self, keyword: str, name: str) -> str:
        return shown(self)[keyword][name]


# What is done to a row's server.


def status(side: Side, keyword: str) -> str:
    return next(row["status"] for row in statistics(side) if row["pxname"] == f"r_{keyword}" and row["svname"] == "new")


def states_by_errors(side: Side, keyword: str) -> list[str]:
    """How the server is after each of some answers that are errors. It comes up by hand, because its checks are far apart."""
    side.ask(f"set server r_{keyword}/new health up")
    return [side.get(keyword, "/500") + status(side, keyword) for _number in range(14)]


def running_when_down(side: Side, keyword: str) -> str:
    """What becomes of a request that runs when the server goes down."""
    return while_it_runs(side, keyword, f"set server r_{keyword}/new health down")


def running_on_backup(side: Side, keyword: str) -> str:
    """What becomes of a request that runs on the backup server when the server comes up."""
    side.ask(f"set server r_{keyword}/new health down")
    side.ask(f"set server r_{keyword}/base state ready")
    return while_it_runs(side, keyword, f"set server r_{keyword}/new health up")


def while_it_runs(side: Side, keyword: str, command: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", side.balancer.port, timeout=10)
    connection.request("GET", "/slow", headers={"X-Row": keyword})
    until(lambda: "1" in {row["scur"] for row in statistics(side) if row["pxname"] == f"r_{keyword}" and row["svname"] in ("new", "base")})
    side.ask(command)
    try:
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException):
        return "cut"
    finally:
        connection.close()


def identity(side: Side, keyword: str) -> bool:
    return f"row:{keyword}," in side.ask("dump stats-file")


def after_maintenance(side: Side, keyword: str) -> str:
    for state in ("maint", "ready"):
        side.ask(f"set server r_{keyword}/new state {state}")
    return side.column(keyword, "srv_op_state") + side.column(keyword, "check_health")


def keys(side: Side, keyword: str) -> list[str]:
    """Which of 40 keys go to the server."""
    for number in range(40):
        side.get(keyword, f"/row?k={number}")
    return sorted({seen.line for seen in side.recorder.seen[host(keyword)] if "?k=" in seen.line})


def resumed(side: Side, keyword: str) -> list[bool]:
    """Whether each TLS session takes up the one before."""
    return side.recorder.resumed[host(keyword)]


def upgraded(side: Side, keyword: str) -> str:
    return side.get(
        keyword, "/ws", Connection="Upgrade", Upgrade="websocket", **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    )


# Soon up, and seldom checked then: this machine has more to do.
CHECK = "check inter 5s downinter 200ms rise 1"
TLS = "ssl verify none"
AGENT = "agent-check agent-port {agent} agent-inter 500ms"
TRUST = "ssl verify required ca-file {ca}"
WATCHED = "check inter 60s downinter 60s"
HASHED = "balance url_param k\n    hash-type consistent"

# Each keyword of the table, with what makes it tell.
ROWS = {
    "addr": Row(f"{CHECK} addr {{other}}"),
    "agent-addr": Row(f"{AGENT} agent-addr {{other}}"),
    "agent-check": Row(AGENT),
    "agent-inter": Row(f"weight 10 {AGENT}"),
    "agent-port": Row(f"{CHECK} {AGENT}"),
    "agent-send": Row(f"{AGENT} agent-send hello"),
    "allow-0rtt": Row(f"{TLS} allow-0rtt"),
    "alpn": Row(f"{TLS} alpn h2,http/1.1"),
    "backup": Row("backup"),
    "ca-file": Row(f"{TRUST} verifyhost server.example"),
    "check": Row(CHECK),
    "check-alpn": Row(f"{CHECK} check-ssl verify none check-alpn http/1.1"),
    "check-pool-conn-name": Row(f"{CHECK} check-pool-conn-name x"),
    "check-proto": Row(f"{CHECK} check-proto h2"),
    "check-reuse-pool": Row(f"{CHECK} check-reuse-pool"),
    "check-send-proxy": Row(f"{CHECK} check-send-proxy"),
    "check-sni": Row(f"{CHECK} check-ssl verify none check-sni name.example"),
    "check-ssl": Row(f"{CHECK} check-ssl verify none"),
    "check-via-socks4": Row(f"{CHECK} check-via-socks4"),
    "ciphers": Row(f"{TLS} ciphers ECDHE-ECDSA-AES256-GCM-SHA384"),
    "ciphersuites": Row(f"{TLS} ciphersuites TLS_AES_256_GCM_SHA384"),
    "client-sigalgs": Row(f"{TLS} crt {{crt}} client-sigalgs ECDSA+SHA256"),
    "cookie": Row("cookie mine", "cookie C insert"),
    "crl-file": Row(f"{TRUST} crl-file {{crl}}"),
    "crt": Row(f"{TLS} crt {{crt}}"),
    "curves": Row(f"{TLS} curves P-256"),
    "disabled": Row("disabled"),
    "downinter": Row("check inter 60s downinter 150ms rise 1"),
    "enabled": Row("disabled enabled"),
    "error-limit": Row(f"{WATCHED} observe layer7 on-error mark-down error-limit 3", act=states_by_errors),
    "fall": Row(f"{CHECK} fall 5"),
    "fastinter": Row("check inter 60s downinter 150ms fastinter 150ms rise 3"),
    "force-sslv3": Row(f"{TLS} force-sslv3"),
    "force-tlsv10": Row(f"{TLS} ciphers ALL:@SECLEVEL=0 force-tlsv10"),
    "force-tlsv11": Row(f"{TLS} ciphers ALL:@SECLEVEL=0 force-tlsv11"),
    "force-tlsv12": Row(f"{TLS} force-tlsv12"),
    "force-tlsv13": Row(f"{TLS} force-tlsv13"),
    "guid": Row("guid row:guid", act=identity),
    "hash-key": Row("pool-max-conn 0 hash-key addr", HASHED, keys),
    "id": Row("pool-max-conn 0 id 77", HASHED, keys),
    "idle-ping": Row("idle-ping 1s"),
    "init-addr": Row("init-addr none"),
    "init-state": Row(f"{CHECK} init-state fully-down", act=after_maintenance),
    "inter": Row("check inter 200ms rise 5"),
    "interface": Row("source 127.0.0.9 interface lo"),
    "log-bufsize": Row("log-bufsize 999"),
    "log-proto": Row("log-proto octet-count"),
    "max-reuse": Row("max-reuse 3"),
    "maxconn": Row("maxconn 9"),
    "maxqueue": Row("maxconn 9 maxqueue 7"),
    "minconn": Row("minconn 3 maxconn 9"),
    "namespace": Row("namespace nowhere"),
    "no-agent-check": Row(f"{AGENT} no-agent-check"),
    "no-backup": Row("backup no-backup"),
    "no-check": Row(f"{CHECK} no-check"),
    "no-check-reuse-pool": Row(f"{CHECK} check-reuse-pool no-check-reuse-pool"),
    "no-check-send-proxy": Row(f"{CHECK} check-send-proxy no-check-send-proxy"),
    "no-check-ssl": Row(f"{CHECK} {TLS} no-check-ssl"),
    "no-send-proxy": Row("send-proxy no-send-proxy"),
    "no-send-proxy-v2": Row("send-proxy-v2 no-send-proxy-v2"),
    "no-send-proxy-v2-ssl": Row("send-proxy-v2-ssl no-send-proxy-v2-ssl"),
    "no-send-proxy-v2-ssl-cn": Row("send-proxy-v2-ssl-cn no-send-proxy-v2-ssl-cn"),
    "no-ssl": Row(f"{TLS} no-ssl"),
    "no-ssl-reuse": Row(f"{TLS} pool-max-conn 0 no-ssl-reuse", act=resumed),
    "no-sslv3": Row(f"{TLS} no-sslv3"),
    "no-tfo": Row("tfo no-tfo"),
    "no-tls-tickets": Row(f"{TLS} no-tls-tickets"),
    "no-tlsv10": Row(f"{TLS} no-tlsv10"),
    "no-tlsv11": Row(f"{TLS} no-tlsv10 no-tlsv11"),
    "no-tlsv12": Row(f"{TLS} no-tlsv13 no-tlsv12"),
    "no-tlsv13": Row(f"{TLS} no-tlsv13"),
    "non-stick": Row("non-stick"),
    "npn": Row(f"{TLS} npn http/1.1"),
    "observe": Row(f"{WATCHED} observe layer7", act=states_by_errors),
    "on-error": Row(f"{WATCHED} observe layer7 error-limit 3 on-error sudden-death", act=states_by_errors),
    "on-marked-down": Row(f"{CHECK} on-marked-down shutdown-sessions", act=running_when_down),
    "on-marked-up": Row(f"{WATCHED} on-marked-up shutdown-backup-sessions", act=running_on_backup),
    "pool-conn-name": Row(f"{TLS} pool-conn-name str(x)"),
    "pool-low-conn": Row("pool-low-conn 4"),
    "pool-max-conn": Row("pool-max-conn 3"),
    "pool-purge-delay": Row("pool-purge-delay 7s"),
    "port": Row(f"{CHECK} port {{check}}"),
    "proto": Row("proto h2"),
    "proxy-v2-options": Row("send-proxy-v2 proxy-v2-options crc32c,unique-id"),
    "redir": Row("redir http://127.0.0.1"),
    "resolve-net": Row("resolve-net 10.0.0.0/8"),
    "resolve-opts": Row("resolve-opts allow-dup-ip"),
    "resolve-prefer": Row("resolve-prefer ipv4"),
    "resolvers": Row("resolvers names"),
    "rise": Row("check inter 5s downinter 200ms fastinter 200ms rise 4"),
    "send-proxy": Row(f"{CHECK} send-proxy"),
    "send-proxy-v2": Row(f"{CHECK} send-proxy-v2"),
    "send-proxy-v2-ssl": Row("send-proxy-v2-ssl"),
    "send-proxy-v2-ssl-cn": Row("send-proxy-v2-ssl-cn"),
    "shard": Row("shard 1"),
    "sigalgs": Row(f"{TLS} sigalgs ECDSA+SHA256"),
    "slowstart": Row(f"{CHECK} weight 100 slowstart 600s"),
    "sni": Row(f"{TLS} sni str(name.example)"),
    "socks4": Row("socks4 127.0.0.1:9"),
    "source": Row(f"{CHECK} source 127.0.0.9"),
    "ssl": Row(f"{CHECK} {TLS}"),
    "ssl-max-ver": Row(f"{TLS} ssl-max-ver TLSv1.2"),
    "ssl-min-ver": Row(f"{TLS} ssl-min-ver TLSv1.3"),
    "ssl-reuse": Row(f"{TLS} pool-max-conn 0 no-ssl-reuse ssl-reuse", act=resumed),
    "stick": Row("non-stick stick"),
    "strict-maxconn": Row("maxconn 1 strict-maxconn"),
    "tcp-ut": Row("tcp-ut 3s"),
    "tfo": Row("tfo"),
    "tls-tickets": Row(f"{TLS} no-tls-tickets tls-tickets"),
    "track": Row("track files/tracked"),
    "usesrc": Row("source 127.0.0.9 usesrc clientip"),
    "verify": Row("ssl verify required ca-file {wrong}"),
    "verifyhost": Row(f"{TRUST} verifyhost other.example"),
    "weight": Row("weight 7"),
    "ws": Row("ws h2", act=upgraded),
}
NUMBERS = {keyword: number for number, keyword in enumerate(sorted(KEYWORDS), 1)}


def host(keyword: str) -> str:
    return f"1.{NUMBERS[keyword]}"


# The two processes.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    signed(folder, "server.example", signed(folder, "authority"))
    signed(folder, "wrong")
    return folder


@pytest.fixture
def recorders(files: Path) -> Iterator[tuple[Recorder, Recorder]]:
    # A file holds the authority, too: Python reads all certificates in it.
    with Recorder(files / "server.example.pem", files / "authority.pem") as one, Recorder(files / "server.example.pem", files / "authority.pem") as other:
        yield one, other


def server(keyword: str, side: Side, files: Path) -> str:
    place = f"{host(keyword)}"
    words = ROWS[keyword].words.format(
        agent=side.recorder.agent_port,
        check=side.recorder.check_port,
        other=f"127.3.{place}",
        ca=files / "authority.pem",
        wrong=files / "wrong.pem",
        crl=files / "authority.crl",
        crt=files / "server.example.pem",
    )
    return f"127.2.{place}:{side.recorder.port} {words}"


def configuration(side: Side, files: Path, rows: dict[str, str]) -> str:
    """A backend for each of the rows that are known, with its server where `rows` has one. The files that servers may name are those
    that others have already."""
    backends = "".join(
        f"backend r_{keyword}\n    {ROWS[keyword].lines or 'balance roundrobin'}\n"
        f"    server base 127.2.2.{number}:{side.recorder.port} {base(keyword)}\n{rows[keyword]}"
        for keyword, number in NUMBERS.items()
        if keyword in rows
    )
    return (
        f"global\n    stats socket {side.balancer.stats_socket} level admin\n    nbthread 1\n    maxconn 400\n"
        f"    server-state-file {side.balancer.folder}/state\n"
        "defaults\n    mode http\n    timeout connect 2s\n    timeout client 9s\n    timeout server 9s\n    timeout check 5s\n    retries 0\n"
        "    http-reuse always\n    option httpchk GET /check\n    load-server-state-from-file global\n    fullconn 100\n    unique-id-format %[rand]\n"
        f"frontend in\n    bind 127.0.0.1:{side.balancer.port}\n    use_backend r_%[req.hdr(x-row)]\n"
        "resolvers names\n    nameserver one 127.0.0.1:9\n"
        f"backend files\n    server tracked 127.2.2.200:{side.recorder.port} check inter 9s\n"
        f"    server one 127.0.0.1:9 disabled ssl ca-file {files}/authority.pem crl-file {files}/authority.crl crt {files}/server.example.pem\n"
        f"    server two 127.0.0.1:9 disabled ssl ca-file {files}/wrong.pem\n{backends}"
    )


def base(keyword: str) -> str:
    """The other server of a row's backend: it stands by, serves the other keys, or serves until the row's comes up."""
    if ROWS[keyword].lines == HASHED:
        return "weight 1"
    return "disabled backup" if keyword == "on-marked-up" else "disabled"


@pytest.fixture
def sides(balancer: Balancer, recorders: tuple[Recorder, Recorder]) -> Iterator[tuple[Side, Side]]:
    """A process that is changed at runtime, and one that is started with its file. Neither runs yet."""
    folder = balancer.folder / "file"
    folder.mkdir()
    second = Balancer(folder, balancer.binary)
    yield Side(balancer, recorders[0]), Side(second, recorders[1])
    second.stop()


def version_of(side: Side) -> Version:
    major, minor = side.balancer.binary_version.split(".")[:2]
    return int(major), int(minor)


def way(keyword: str, version: Version) -> str:
    row = KEYWORDS[keyword]
    if version < row.known:
        return "unknown"
    return "runtime" if row.since is not None and version >= row.since else "reload"


# What is compared.

# Of `show stat`: what is neither a counter nor a time.
STATISTICS = (
    *("qlimit", "slim", "status", "weight", "act", "bck", "sid", "throttle", "type", "addr", "cookie", "mode", "algo", "src_ilim"),
    *("check_status", "check_rise", "check_fall", "check_health", "agent_status", "agent_rise", "agent_fall", "agent_health"),
)
# Of `show servers conn`, by number: the server's id, when idle connections are closed, and how many there may be.
CONNECTIONS = (1, 5, 11)


def statistics(side: Side) -> list[dict[str, str]]:
    return list(csv.DictReader(side.ask("show stat").removeprefix("# ").splitlines()))


def shown(side: Side) -> dict[str, dict[str, str]]:
    """All that HAProxy shows of each row's server, by keyword."""
    found: dict[str, dict[str, str]] = {}
    heading, *lines = side.ask("show servers state").splitlines()[1:]
    for line in lines:
        row = dict(zip(heading.removeprefix("# ").split(" "), line.split(" ")))
        if row["srv_name"] == "new":
            # Without a check nothing reads it, and it is another number in an added server.
            if not int(row["srv_check_state"]) & 2:
                del row["srv_check_health"]
            # The planner writes each id out. While a check is on its way it has no result, and its state says so in the first bit.
            del row["srv_time_since_last_change"], row["srv_f_forced_id"], row["srv_check_result"]
            row["srv_use_ssl"] = row["srv_use_ssl"].replace("-1", "0")
            row.update({name: str(int(row[name]) & ~1) for name in ("srv_check_state", "srv_agent_state")})
            found[row["be_name"].removeprefix("r_")] = row
    for row in statistics(side):
        if row["svname"] == "new":
            # A star says that a check is on its way.
            found[row["pxname"].removeprefix("r_")].update({name: row[name].removeprefix("* ") for name in STATISTICS if name in row})
    for line in side.ask("show servers conn").splitlines()[1:]:
        fields = line.split(" ")
        if fields[0].endswith("/new"):
            found[fields[0].removeprefix("r_").removesuffix("/new")].update({f"conn {number}": fields[number] for number in CONNECTIONS})
    return found


def arrived(side: Side, keyword: str) -> tuple[set[Seen], int, set[str]]:
    """What the row's server saw of HAProxy: each kind of connection, how many of them had requests, and what its agent was sent."""
    seen = list(side.recorder.seen[host(keyword)])
    return set(seen), sum("/row" in one.line for one in seen), set(side.recorder.asked[host(keyword)])


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


# The tests.


def test_each_keyword_of_the_table_has_a_row_here() -> None:
    assert sorted(ROWS) == sorted(KEYWORDS)


def line(keyword: str, side: Side, files: Path) -> str:
    return f"    server new {server(keyword, side, files)}\n"


def is_checked(keyword: str) -> bool:
    words = ROWS[keyword].words.split()
    return "check" in words and "no-check" not in words


def runtime_rows(side: Side) -> list[str]:
    return [keyword for keyword in ROWS if way(keyword, version_of(side)) == "runtime"]


def start(side: Side, text: str, *held: str) -> None:
    """Start the process, with its servers of the rows `held` down until their checks pass, as at a reload of ours."""
    states = [
        (f"r_{keyword}", ServerState(Server("new", "-", side.recorder.port, checked=True), STOPPED, 0, 1, 1, tls="ssl" in ROWS[keyword].words.split()))
        for keyword in held
    ]
    (side.balancer.folder / "state").write_text(server_state_file(states))
    side.balancer.start(text)


def test_an_added_server_is_what_one_from_the_file_is(sides: tuple[Side, Side], files: Path) -> None:
    runtime, file = sides
    rows = runtime_rows(runtime)
    start(runtime, configuration(runtime, files, dict.fromkeys(rows, "")))
    start(file, configuration(file, files, {keyword: line(keyword, file, files) for keyword in rows}), *(keyword for keyword in rows if is_checked(keyword)))
    problems = []
    for keyword in rows:
        # The other rows' backends are the same before and after.
        before, after = (configuration(runtime, files, {keyword: servers}) for servers in ("", line(keyword, runtime, files)))
        found = plan(before, after, runtime.balancer.binary_version)
        if found.reload or not found.steps:
            problems.append(f"{keyword}: {found.reload or 'nothing to do'}")
        for command in (command for step in found.steps for command in step.commands):
            answer = runtime.ask(command.text)
            if not re.fullmatch(command.answer, answer):
                problems.append(f"{keyword}: {command.text}: {answer}")
    assert problems == []
    until(lambda: shown(runtime) == shown(file))
    answers = {side: {keyword: [side.get(keyword) for _number in range(2)] for keyword in rows} for side in sides}
    until(lambda: shown(runtime) == shown(file) and all(arrived(runtime, keyword) == arrived(file, keyword) for keyword in rows))
    differ: dict[str, Any] = {}
    here, there = shown(runtime), shown(file)
    for keyword in rows:
        both = [{**here[keyword], "answers": answers[runtime][keyword]}, {**there[keyword], "answers": answers[file][keyword]}]
        for side, found_there in zip(sides, both):
            found_there.update(zip(("kinds", "connections", "agent"), arrived(side, keyword)))
            act = ROWS[keyword].act
            if act is not None:
                found_there["act"] = act(side, keyword)
        different = {name: (both[0][name], both[1].get(name)) for name in both[0] if both[0][name] != both[1].get(name)}
        if different:
            differ[keyword] = different
    assert "\n".join(f"{keyword}: {different}" for keyword, different in differ.items()) == ""


def test_what_takes_a_reload_is_what_haproxy_refuses_or_the_table_says_why(sides: tuple[Side, Side], files: Path) -> None:
    side, _file = sides
    version = version_of(side)
    rows = [keyword for keyword in ROWS if way(keyword, version) == "reload"]
    start(side, configuration(side, files, dict.fromkeys(rows, "")))
    wrong = []
    for keyword in rows:
        before, after = (configuration(side, files, {keyword: servers}) for servers in ("", line(keyword, side, files)))
        found = plan(before, after, side.balancer.binary_version)
        if found.steps or keyword not in found.reload:
            wrong.append(f"{keyword}: {found}")
        answer = ask(side.balancer.stats_socket, f"add server r_{keyword}/new {server(keyword, side, files)}").strip()
        if (REFUSED in KEYWORDS[keyword].why) != answer.endswith(f"'{keyword}' option is not accepted for dynamic server"):
            wrong.append(f"{keyword}: {answer}")
    assert wrong == []


def test_a_keyword_is_unknown_where_haproxy_does_not_take_it_in_a_file(sides: tuple[Side, Side], files: Path) -> None:
    side, _file = sides
    lines = "".join(f"    server s{number} 127.0.0.1:9 {keyword}\n" for number, keyword in enumerate(KEYWORDS) if keyword not in PARTS)
    # HAProxy names fifty mistakes at most: a line without values is one in many rows.
    unknown = set()
    for part in range(0, len(lines.splitlines()), 40):
        text = "backend all\n" + "\n".join(lines.splitlines()[part : part + 40]) + "\n"
        done = subprocess.run([side.balancer.binary, "-c", "-f", "/dev/stdin"], input=text, capture_output=True, text=True, timeout=20)
        unknown |= set(re.findall(r"unknown keyword '([^']+)'", done.stderr))
    assert unknown == {keyword for keyword in KEYWORDS if way(keyword, version_of(side)) == "unknown"}


# These stand behind `source` only.
PARTS = ("interface", "usesrc")
