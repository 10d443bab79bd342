# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Say how a running HAProxy gets from one configuration to another: by commands at runtime, or by a reload.

Pure functions over the two texts. Commands are the answer only where they leave the process in the very state that a
reload would: nothing but `server` lines of `backend` and `listen` sections differs, and each keyword involved is one
that this version's runtime API reproduces (`KEYWORDS`). Whatever is not known to be so is a reload, with the reason.

Sources are named as in the other modules: the Configuration Manual by its section, the Management Guide by its
command, and "measured" for what was seen on 2.6.12, 3.0 and 3.2.
"""

from __future__ import annotations

import re
import socket

# Not from collections.abc: on Python 3.8 its names take no brackets when they are evaluated.
from typing import Callable, Collection, Iterable, Mapping, NamedTuple, Sequence, cast

from .haproxy_config import SECTIONS, split_line
from .haproxy_socket import DRAIN, MAINTENANCE, Command, ServerState

States = Mapping[str, Sequence[ServerState]]

# Why a row is a reload, where HAProxy says so itself.
REFUSED = "`add server` refuses it"
UNMEASURED = "its effect has not been measured"
_NAMES = REFUSED + "; a name is resolved, and may lead elsewhere at any time"
_ERRORS = "before 3.0 an added server with `observe` lacks the defaults of the others, and no error counts"
_ONE_REQUEST = "before 3.0 an added server carries one request on each HTTP/2 connection (`max-reuse`)"

# The first version whose `add server` and `del server` need no experimental mode (measured on 2.6; older ones
# were not asked).
OLDEST = (2, 6)


class Keyword(NamedTuple):
    """How a keyword of a `server` line behaves at runtime.

    `values` is how many words follow it. `since` is the first version on which an added server with it is what one from the file is (measured:
    tests/integration/test_haproxy_keywords.py); None: on none, or it is not known, and `why` says why. `known` is the first of the versions measured
    that takes it in a file. `fixed` says that a server with it is tied to more than itself: it is not removed, moved or weighed at runtime. `undoes` names
    the keyword that this one takes back; it is itself not written into a command, because an added server starts without anything (Management Guide, "add
    server": nothing comes from `default-server`). `file` marks a value that is the path of a file: HAProxy reads files at its start only (measured:
    "unable to load"), so another server of the configuration in force has to have it already. `settable` is the command that changes it on a server that
    stays.
    """

    values: int
    since: tuple[int, int] | None
    why: str = ""
    known: tuple[int, int] = OLDEST
    fixed: bool = False
    undoes: str = ""
    file: bool = False
    settable: str = ""


def _undo(keyword: str, known: tuple[int, int] = OLDEST) -> Keyword:
    return Keyword(0, known, known=known, undoes=keyword)


# Configuration Manual 5.2, each keyword with what `add server` makes of it.
KEYWORDS: dict[str, Keyword] = {
    "addr": Keyword(1, OLDEST),
    "agent-addr": Keyword(1, OLDEST),
    "agent-check": Keyword(0, OLDEST),
    "agent-inter": Keyword(1, OLDEST),
    "agent-port": Keyword(1, OLDEST),
    "agent-send": Keyword(1, OLDEST),
    "allow-0rtt": Keyword(0, OLDEST),
    "alpn": Keyword(1, (3, 0), _ONE_REQUEST),
    "backup": Keyword(0, OLDEST),
    "ca-file": Keyword(1, OLDEST, file=True),
    "check": Keyword(0, OLDEST),
    "check-alpn": Keyword(1, OLDEST),
    "check-pool-conn-name": Keyword(1, None, UNMEASURED, (3, 2)),
    "check-proto": Keyword(1, OLDEST),
    "check-reuse-pool": Keyword(0, None, UNMEASURED, (3, 2)),
    "check-send-proxy": Keyword(0, OLDEST),
    "check-sni": Keyword(1, OLDEST),
    "check-ssl": Keyword(0, OLDEST),
    "check-via-socks4": Keyword(0, OLDEST),
    "ciphers": Keyword(1, OLDEST),
    "ciphersuites": Keyword(1, OLDEST),
    "client-sigalgs": Keyword(1, (3, 0), known=(3, 0)),
    "cookie": Keyword(1, (3, 0), f"before 3.0 {REFUSED}"),
    "crl-file": Keyword(1, OLDEST, file=True),
    "crt": Keyword(1, OLDEST, file=True),
    "curves": Keyword(1, (3, 0), known=(3, 0)),
    "disabled": Keyword(0, None, "it would come in by the commands that bring every newcomer in"),
    "downinter": Keyword(1, OLDEST),
    # Measured: refused by 3.0 and 3.2. So it is never written, only taken into account.
    "enabled": _undo("disabled"),
    "error-limit": Keyword(1, (3, 0), _ERRORS),
    "fall": Keyword(1, OLDEST),
    "fastinter": Keyword(1, OLDEST),
    "force-sslv3": Keyword(0, None, UNMEASURED),
    "force-tlsv10": Keyword(0, OLDEST),
    "force-tlsv11": Keyword(0, OLDEST),
    "force-tlsv12": Keyword(0, OLDEST),
    "force-tlsv13": Keyword(0, OLDEST),
    "guid": Keyword(1, (3, 0), known=(3, 0)),
    "hash-key": Keyword(1, (3, 0), known=(3, 0)),
    "id": Keyword(1, OLDEST),
    "idle-ping": Keyword(1, None, UNMEASURED, (3, 2)),
    "init-addr": Keyword(1, None, _NAMES, fixed=True),
    "init-state": Keyword(1, (3, 2), known=(3, 2)),
    "inter": Keyword(1, OLDEST),
    "interface": Keyword(1, None, UNMEASURED),
    "log-bufsize": Keyword(1, None, REFUSED, (3, 0)),
    "log-proto": Keyword(1, None, REFUSED),
    "max-reuse": Keyword(1, None, REFUSED),
    "maxconn": Keyword(1, OLDEST, settable="set maxconn server {place} {value}"),
    "maxqueue": Keyword(1, OLDEST),
    "minconn": Keyword(1, OLDEST),
    "namespace": Keyword(1, None, REFUSED),
    "no-agent-check": _undo("agent-check"),
    "no-backup": _undo("backup"),
    "no-check": _undo("check"),
    "no-check-reuse-pool": _undo("check-reuse-pool", (3, 2)),
    "no-check-send-proxy": _undo("check-send-proxy"),
    "no-check-ssl": _undo("check-ssl"),
    "no-send-proxy": _undo("send-proxy"),
    "no-send-proxy-v2": _undo("send-proxy-v2"),
    "no-send-proxy-v2-ssl": _undo("send-proxy-v2-ssl"),
    "no-send-proxy-v2-ssl-cn": _undo("send-proxy-v2-ssl-cn"),
    "no-ssl": _undo("ssl"),
    "no-ssl-reuse": Keyword(0, OLDEST),
    "no-sslv3": Keyword(0, OLDEST),
    "no-tfo": _undo("tfo"),
    "no-tls-tickets": Keyword(0, OLDEST),
    "no-tlsv10": Keyword(0, OLDEST),
    "no-tlsv11": Keyword(0, OLDEST),
    "no-tlsv12": Keyword(0, OLDEST),
    "no-tlsv13": Keyword(0, OLDEST),
    "non-stick": Keyword(0, None, REFUSED),
    "npn": Keyword(1, (3, 0), _ONE_REQUEST),
    "observe": Keyword(1, (3, 0), _ERRORS),
    "on-error": Keyword(1, (3, 0), _ERRORS),
    "on-marked-down": Keyword(1, OLDEST),
    "on-marked-up": Keyword(1, OLDEST),
    "pool-conn-name": Keyword(1, None, UNMEASURED, (3, 0)),
    "pool-low-conn": Keyword(1, OLDEST),
    "pool-max-conn": Keyword(1, OLDEST),
    "pool-purge-delay": Keyword(1, OLDEST),
    "port": Keyword(1, OLDEST),
    "proto": Keyword(1, (3, 0), _ONE_REQUEST),
    "proxy-v2-options": Keyword(1, OLDEST),
    "redir": Keyword(1, None, REFUSED),
    "resolve-net": Keyword(1, None, _NAMES, fixed=True),
    "resolve-opts": Keyword(1, None, _NAMES, fixed=True),
    "resolve-prefer": Keyword(1, None, _NAMES, fixed=True),
    "resolvers": Keyword(1, None, _NAMES, fixed=True),
    "rise": Keyword(1, OLDEST),
    "send-proxy": Keyword(0, OLDEST),
    "send-proxy-v2": Keyword(0, OLDEST),
    "send-proxy-v2-ssl": Keyword(0, OLDEST),
    "send-proxy-v2-ssl-cn": Keyword(0, OLDEST),
    "shard": Keyword(1, None, UNMEASURED, (3, 0)),
    "sigalgs": Keyword(1, (3, 0), known=(3, 0)),
    "slowstart": Keyword(1, OLDEST),
    "sni": Keyword(1, OLDEST),
    "socks4": Keyword(1, None, REFUSED),
    "source": Keyword(1, OLDEST),
    "ssl": Keyword(0, OLDEST),
    "ssl-max-ver": Keyword(1, OLDEST),
    "ssl-min-ver": Keyword(1, OLDEST),
    "ssl-reuse": _undo("no-ssl-reuse"),
    "stick": _undo("non-stick"),
    "strict-maxconn": Keyword(0, (3, 2), known=(3, 2)),
    "tcp-ut": Keyword(1, None, REFUSED),
    "tfo": Keyword(0, OLDEST),
    "tls-tickets": _undo("no-tls-tickets"),
    "track": Keyword(1, None, "one added while the other is in maintenance does not know of it, and the other could never be removed", fixed=True),
    "usesrc": Keyword(1, None, UNMEASURED),
    "verify": Keyword(1, OLDEST),
    "verifyhost": Keyword(1, OLDEST),
    "weight": Keyword(1, OLDEST, settable="set server {place} weight {value}"),
    "ws": Keyword(1, (3, 0), _ONE_REQUEST),
}

# What these have when they do not stand on the line (5.2).
DEFAULTS = {"weight": "1", "maxconn": "0"}

# Lines of a backend, or of the `defaults` above it, with which its servers are not changed at runtime, by their first
# words, with the reason.
FORBIDDING = {
    "dispatch": "there is no balance algorithm",
    "disabled": "the section is disabled",
    "email-alert": "it has not been measured with added servers",
    "external-check": "it has not been measured with added servers",
    "http-send-name-header": "it has not been measured with added servers",
    "option external-check": "it has not been measured with added servers",
    "option transparent": "there is no balance algorithm",
    "server-template": "its servers are numbered among the others",
    "use-fcgi-app": "it has not been measured with added servers",
}

# Measured: `add server` is refused with static-rr and with a map-based hash, which is the default of `hash-type` (4.2).
DYNAMIC = frozenset(["roundrobin", "leastconn", "first", "random"])
HASHES = frozenset(["source", "uri", "url_param", "hdr", "rdp-cookie", "hash"])


# What HAProxy's command line holds, in bytes, unless `tune.bufsize` says otherwise (Configuration Manual 3.2).
BUFFER = 16384
# What every process has that serves at all, for commands that are sent without a look at its configuration.
LEAST_BUFFER = 2048


class Step(NamedTuple):
    """One thing to do. `commands` go to HAProxy together, on one line. Those that wait have none, and `action` says for what: "wait for
    checks" until one of the backend's servers `any_of` is usable, and all of them that were added if they can be; "wait until idle"
    for the requests of the servers that were drained or put in maintenance in the steps before. Both have to be bounded. `place` is
    where a server is after a "move", which 3.0 makes a moment after its answer (measured), and `undo` the command that takes a
    setting back."""

    action: str
    backend: str = ""
    server: str = ""
    commands: tuple[Command, ...] = ()
    place: tuple[str, int] | None = None
    any_of: tuple[str, ...] = ()
    undo: str = ""


class Plan(NamedTuple):
    """The way from one configuration to the other: `steps` in their order, or, with a `reload`, its reason in words. Neither
    is there when nothing has to be done. A line of commands has to fit into `buffer` bytes (Management Guide 9.3)."""

    steps: list[Step]
    reload: str = ""
    buffer: int = BUFFER


class _Reload(Exception):
    """It takes a reload; the message is the reason."""


class _Server(NamedTuple):
    """A `server` line: `words` are those of `default-server` that hold where it stands, then its own."""

    name: str
    address: str
    words: tuple[str, ...]
    raw: str


class _Section(NamedTuple):
    """A section's lines but for its servers, each as its words and what to compare. `inherited` are the lines of the `defaults`
    sections above. `uncertain` says why it is not known which of the lines hold; empty when it is. `text` is all of it."""

    heading: list[str]
    lines: list[tuple[list[str], str]]
    inherited: list[list[str]]
    servers: list[_Server]
    uncertain: list[str]
    text: list[str]

    @property
    def title(self) -> str:
        return " ".join(self.heading[:2]) or "the beginning"

    @property
    def effective(self) -> list[list[str]]:
        return [*self.inherited, *(words for words, _raw in self.lines)]


def _default_words(lines: Iterable[Sequence[str]]) -> list[str]:
    return [word for words in lines if words[0] == "default-server" for word in words[1:]]


def _open(words: list[str], named: Mapping[str, _Section], conditions: int) -> _Section:
    """A new section, with what it inherits: from the `defaults` that it names with `from`, else from the last one; a `defaults`
    without `from` begins anew (chapter 4, "defaults")."""
    source = words[words.index("from") + 1] if "from" in words[:-1] else ""
    parent = named.get(source) if source or words[0] != "defaults" else None
    uncertain = ["it stands within an .if"] if conditions else []
    if source and parent is None:
        uncertain.append(f"there is no defaults section {source}")
    if any("$" in word for word in words):
        uncertain.append("its heading has an environment variable")
    if parent is None or words[0] not in ("defaults", "frontend", "backend", "listen"):
        return _Section(words, [], [], [], uncertain, [])
    return _Section(words, [], parent.effective, [], [*uncertain, *(f"{parent.title}: {reason}" for reason in parent.uncertain)], [])


def _sections(text: str) -> list[_Section]:
    """The sections of a configuration in their order; first what stands before any of them."""
    found = [_Section([], [], [], [], [], [])]
    named: dict[str, _Section] = {}  # the defaults sections by name, the last one under ""
    conditions = 0
    for line in text.split("\n"):
        words = split_line(line)
        if not words:
            continue
        here = found[-1]
        # Between quotes of one kind a variable is its value, between the other it is text (2.3), and what a backslash makes of the next
        # character differs as well (2.2): the words do not tell.
        raw = line.strip() if "$" in line or "\\" in line else ""
        if words[0] in SECTIONS:
            here = _open(words, named, conditions)
            found.append(here)
            if words[0] == "defaults":
                named[""] = here
                if len(words) > 1 and words[1] != "from":
                    named[words[1]] = here
            continue
        here.text.append(line.strip())
        if words[0] in (".if", ".elif", ".else", ".endif"):
            conditions += {".if": 1, ".endif": -1}.get(words[0], 0)
            here.uncertain.append("it has an .if")
        is_server = words[0] == "server" and here.heading[:1] in (["backend"], ["listen"])
        if is_server and raw and (len(words) < 3 or "$" in words[1] or re.match(r"\s*server\s+\S*\\", line)):
            # One variable can be several words (2.3), and a server's name then.
            here.uncertain.append("a server's name has an environment variable or a backslash")
        if is_server and len(words) > 2:
            here.servers.append(_Server(words[1], words[2], (*_default_words(here.effective), *words[3:]), raw))
        else:
            here.lines.append((words, raw))
    return found


def _what(words: Sequence[str]) -> str:
    """A line by its keyword alone: its values may be secret."""
    return " ".join(words[: 2 if words[0] in ("option", "no", "timeout", "stats") else 1])


def _compare_frames(old: Sequence[_Section], new: Sequence[_Section]) -> None:
    """Raise _Reload for the first difference that is none of a server's."""
    for before, after in zip(old, new):
        if before.heading != after.heading:
            raise _Reload(f"where {before.title} stands there is to be {after.title}")
        if (before.uncertain or after.uncertain) and before.text != after.text:
            raise _Reload(f"{before.title}: which lines hold cannot be known: {(before.uncertain or after.uncertain)[0]}")
        for (was, was_raw), (words, raw) in zip(before.lines, after.lines):
            if (was, was_raw) != (words, raw):
                which = _what(was) if _what(was) == _what(words) else f"{_what(was)} or {_what(words)}"
                raise _Reload(f"{before.title}: another line than a server's differs ({which})")
        if len(before.lines) != len(after.lines):
            longer = max(before.lines, after.lines, key=len)
            extra = longer[min(len(before.lines), len(after.lines))][0]
            raise _Reload(f"{before.title}: another line than a server's comes or goes ({_what(extra)})")
    if len(old) != len(new):
        section = max(old, new, key=len)[min(len(old), len(new))]
        raise _Reload(f"{section.title}: the section comes or goes")


def _place(address: str) -> tuple[str, int] | None:
    """The IP address and port of a server's address, in HAProxy's own form; None for anything else: a name is not resolved when
    a server is added ("add server"), and without a port, or with an offset, it is the client's that counts (5.2)."""
    found = re.fullmatch(r"(?:ipv[46]@)?\[?([0-9a-fA-F:.]+?)\]?:([0-9]{1,5})", address)
    if found is None or not 0 < int(found.group(2)) < 65536:
        return None
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, found.group(1))
        except OSError:
            continue
        # All zeros means the address that the client came to (5.2, "server").
        return (socket.inet_ntop(family, packed), int(found.group(2))) if any(packed) else None
    return None


def _written(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What needs no quoting on HAProxy's command line (Management Guide 9.3: spaces, semicolons and backslashes are escaped, "<<" begins
# a payload), and is not a variable in the file.
_PLAIN = re.compile(r"(?!.*<<)[!%&(-:<-\[\]-~]+")
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")


def _entries(words: Sequence[str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """The keywords among these words, each with its values; an unknown one is taken for one without."""
    position = 0
    while position < len(words):
        row = KEYWORDS.get(words[position])
        end = position + 1 + (row.values if row else 0)
        yield words[position], tuple(words[position + 1 : end])
        position = end


def _parameters(where: str, server: _Server) -> dict[str, tuple[str, ...]]:
    """What holds for a server in the end: the last word on each keyword, and without what was taken back. Raises _Reload."""
    found: dict[str, tuple[str, ...]] = {}
    for keyword, values in _entries(server.words):
        row = KEYWORDS.get(keyword)
        if row is None:
            raise _Reload(f"{where}: the keyword {keyword} is not known")
        if keyword == "proxy-v2-options" and found.get(keyword, values) != values:
            raise _Reload(f"{where}: proxy-v2-options stands twice")
        found.pop(row.undoes or keyword, None)
        if not row.undoes:
            found[keyword] = values
    return found


def _ids(servers: Iterable[_Server]) -> dict[str, int]:
    """The numeric id of each server by name: the one that it says, else the next free one from its position on (5.2 "id";
    measured)."""
    given = {}
    servers = list(servers)
    for server in servers:
        for keyword, values in _entries(server.words):
            if keyword == "id" and values and values[0].isdigit():
                given[server.name] = int(values[0])
    used = set(given.values())
    found = {}
    following = 1
    for server in servers:
        if server.name not in given:
            while following in used:
                following += 1
            used.add(following)
        found[server.name] = given.get(server.name, following)
        following += 1
    return found


class _Setting(NamedTuple):
    """A keyword to set on a server that stays, with the value that it gets and the one that it has."""

    server: _Server
    keyword: str
    value: str
    was: str


class _Change(NamedTuple):
    """What becomes of one section's servers. `moved` have another place, `reset` another value of a settable keyword.
    `states` is what the process has of it, by name; empty when that is not known."""

    section: _Section
    added: list[_Server]
    removed: list[_Server]
    moved: list[_Server]
    reset: list[_Setting]
    kept: list[_Server]
    ids: dict[str, int]
    states: dict[str, ServerState]

    @property
    def backend(self) -> str:
        return self.section.heading[1]

    @property
    def serving(self) -> list[_Server]:
        """Those that stay where they are and serve meanwhile, and afterwards."""
        return [server for server in self.kept if not _is_backup(server) and _weight(server) != 0 and self.is_usable(server)]

    @property
    def ending(self) -> list[_Server]:
        """Those that serve now and will not, or not meanwhile: they go, move, or get the weight 0."""
        return [server for server in (*self.removed, *self.moved, *(one for one in self.kept if _weight(one) == 0)) if self.is_usable(server)]

    def is_usable(self, server: _Server) -> bool:
        return not self.states or self.states[server.name].usable


class _Terms(NamedTuple):
    """What a change is judged by: the version, the files that HAProxy has open already (by keyword and path), and
    the servers that others track, as `track` names them."""

    version: tuple[int, int]
    files: set[tuple[str, str]]
    tracked: set[str]


def _on(effective: Iterable[Sequence[str]], option: str) -> bool:
    """Whether an option holds: the last of `option X` and `no option X` counts (4.2)."""
    found = False
    for words in effective:
        if list(words[:2]) == ["option", option]:
            found = True
        elif list(words[:3]) == ["no", "option", option]:
            found = False
    return found


def _last(effective: Iterable[Sequence[str]], keyword: str, default: str) -> str:
    values = [words[1] for words in effective if words[0] == keyword and len(words) > 1]
    return values[-1] if values else default


def _judge_section(section: _Section, terms: _Terms, added: bool) -> None:
    """Raise _Reload when the servers of this section cannot be changed at runtime at all."""
    title, effective = section.title, section.effective
    for words in effective:
        for name in (words[0], " ".join(words[:2])):
            if name in FORBIDDING and (not name.startswith("option ") or _on(effective, words[1])):
                raise _Reload(f"{title}: {name}: {FORBIDDING[name]}")
        if any("$" in word for word in words) and words[0] in ("balance", "cookie", "default-server", "hash-type", "mode"):
            raise _Reload(f"{title}: {words[0]} has an environment variable")
    mode = _last(effective, "mode", "tcp")
    if mode not in ("tcp", "http"):
        raise _Reload(f"{title}: mode {mode}")
    algorithm = re.sub(r"\(.*", "", _last(effective, "balance", "roundrobin"))
    consistent = _last(effective, "hash-type", "map-based") == "consistent"
    if algorithm not in DYNAMIC and not (algorithm in HASHES and consistent):
        raise _Reload(f"{title}: balance {algorithm} takes no servers at runtime" + (" without hash-type consistent" if algorithm in HASHES else ""))
    dynamic = [words[0] for words in effective if words[0] == "dynamic-cookie-key" or (words[0] == "cookie" and "dynamic" in words[2:])]
    # Measured: on 2.6 an added server's cookie is empty; one that moves gets another cookie, as at a reload.
    if dynamic and added and terms.version < (3, 0):
        raise _Reload(f"{title}: {dynamic[0]}: the cookie is made of the address, which this version does not do at runtime")
    if not _NAME.fullmatch(section.heading[1] if len(section.heading) > 1 else ""):
        raise _Reload(f"{title}: its name cannot be written in a command")


def _judge_server(where: str, server: _Server) -> dict[str, tuple[str, ...]]:
    """The parameters of a server that comes, goes or changes. Raises _Reload when that cannot be done at runtime."""
    if server.raw or any("$" in word for word in (server.name, server.address, *server.words)):
        raise _Reload(f"{where}: the line has an environment variable or a backslash")
    if not _NAME.fullmatch(server.name):
        raise _Reload(f"{where}: its name cannot be written in a command")
    if _place(server.address) is None:
        raise _Reload(f"{where}: its address is not an IP address with a port")
    parameters = _parameters(where, server)
    for keyword in parameters:
        if KEYWORDS[keyword].fixed:
            raise _Reload(f"{where}: {keyword} ties it to more than its own line")
    return parameters


def _judge_newcomer(where: str, parameters: Mapping[str, Sequence[str]], terms: _Terms) -> None:
    for keyword, values in parameters.items():
        row = KEYWORDS[keyword]
        if row.since is None or terms.version < row.since:
            raise _Reload(f"{where}: HAProxy {terms.version[0]}.{terms.version[1]} cannot be given {keyword} at runtime")
        if row.file and (keyword, values[0] if values else "") not in terms.files:
            raise _Reload(f"{where}: the file of {keyword} is not among those that the process has read")
        if not all(_PLAIN.fullmatch(value) for value in values):
            raise _Reload(f"{where}: the value of {keyword} cannot be written in a command")
    if "slowstart" in parameters and "check" not in parameters:
        raise _Reload(f"{where}: slowstart: without a check it would begin slowly at runtime, and does not at a reload")


def _judge_moved(where: str, change: _Change, server: _Server, old: _Server, terms: _Terms) -> None:
    if server.name in terms.tracked or f"{change.backend}/{server.name}" in terms.tracked:
        raise _Reload(f"{where}: another server tracks it")
    if "agent-check" in server.words:
        raise _Reload(f"{where}: agent-check: what its agent says at another address is not known")
    if "disabled" in server.words:
        raise _Reload(f"{where}: disabled: {KEYWORDS['disabled'].why}")
    places = _place(old.address), _place(server.address)
    if any(place is None for place in places) or len({":" in place[0] for place in places if place}) > 1:
        raise _Reload(f"{where}: its address changes to one of another kind")


def _settings(where: str, server: _Server, old: _Server) -> list[_Setting]:
    """What has to be set on a server that stays. Raises _Reload for what cannot be."""
    was, parameters = _judge_server(where, old), _judge_server(where, server)
    found = []
    for keyword in [*parameters, *(word for word in was if word not in parameters)]:
        # The id is judged by its number, whether it was written or not.
        if keyword == "id" or parameters.get(keyword) == was.get(keyword):
            continue
        # With minconn, which would not move along, a new maxconn means another slope (5.2 "minconn").
        if not KEYWORDS[keyword].settable or (keyword == "maxconn" and "minconn" in parameters):
            raise _Reload(f"{where}: {keyword} cannot be changed at runtime")
        if keyword == "weight" and "agent-check" in parameters:
            raise _Reload(f"{where}: agent-check: what its agent says goes by the weight that the server began with")
        value = parameters.get(keyword, (DEFAULTS[keyword],))[0]
        if not value.isdigit():
            raise _Reload(f"{where}: the value of {keyword} is no number")
        if value != was.get(keyword, (DEFAULTS[keyword],))[0]:
            found.append(_Setting(server, keyword, value, was.get(keyword, (DEFAULTS[keyword],))[0]))
    return found


class _Drift(NamedTuple):
    """How a section's servers are in the process: `servers` as they would stand in a file, `strangers` the names of those that
    the file does not have, and what differs, in words: `mendable` at runtime, or not."""

    servers: list[_Server]
    strangers: set[str]
    mendable: list[str]
    unmendable: list[str]


def _drift(section: _Section, states: Mapping[str, ServerState], ours: Collection[tuple[str, str]] = ()) -> _Drift:
    """Hold the servers of a file's section against the process's. What a person may set (maintenance, drain, weight) is a difference
    only for the servers of `ours`, (backend, name). What the text does not tell is none: an address that has to be resolved, say."""
    found = _Drift([], set(), [], [])
    unknown = section.uncertain or any(words[0] in ("disabled", "server-template") for words in section.effective)
    if section.heading[:1] not in (["backend"], ["listen"]) or unknown:
        return found._replace(servers=section.servers)
    ids = _ids(section.servers)
    backend = section.heading[1] if len(section.heading) > 1 else ""
    for server in section.servers:
        where = f"{backend}/{server.name}"
        state = states.get(server.name)
        if state is None:
            found.mendable.append(f"{where} is in the file and not in the process")
            continue
        place, there = _place(server.address), (state.server.address, state.server.port)
        if place is not None and not server.raw and not state.server.fqdn and place != there:
            found.mendable.append(f"{where} is at {_written(there)}, and at {_written(place)} in the file")
            found.servers.append(server._replace(address=_written(there)))
        else:
            found.servers.append(server)
        if not server.raw:
            found.unmendable.extend(_beyond(where, server, state, ids[server.name], (backend, server.name) in ours))
    names = {server.name for server in section.servers}
    for name in states:
        if name not in names:
            found.mendable.append(f"{backend}/{name} is in the process and not in the file")
            found.strangers.add(name)
            found.servers.append(_Server(name, "", (), ""))
    return found


def _beyond(where: str, server: _Server, state: ServerState, number: int, is_ours: bool) -> list[str]:
    """What differs besides a server's place."""
    found = []
    weight = _weight(server)
    # What an agent says counts from its first answer on.
    if is_ours and "agent-check" not in server.words and (state.admin or state.weight != weight):
        found.append(f"{where} has the weight {state.weight} and the state {state.admin}, and {weight} and 0 in the file")
    if state.id != number:
        found.append(f"{where} has the id {state.id}, and {number} in the file")
    try:
        parameters = _parameters(where, server)
    except _Reload:
        return found
    # The check of one that tracks another is that one's.
    if "track" not in parameters:
        for what, wanted, has in (("checked", "check" in parameters, state.server.checked), ("reached over TLS", "ssl" in parameters, state.tls)):
            if wanted != has:
                found.append(f"{where} is {'' if has else 'not '}{what}, other than in the file")
    port, address = parameters.get("port", ("0",))[0], parameters.get("addr", ("-",))[0]
    if port.isdigit() and int(port) != state.check_port:
        found.append(f"{where} is checked at port {state.check_port}, and at {port} in the file (0: its own)")
    if (address == "-" or _place(f"{address}:1") is not None) and address != state.check_address:
        found.append(f"{where} is checked at the address {state.check_address}, and at {address} in the file (-: its own)")
    return found


def drift(in_force: str, states: States, ours: Collection[tuple[str, str]] = ()) -> list[str]:
    """How a process's servers differ from those of the configuration that it runs, in sentences; empty when they do not. Pure.

    `in_force` is the whole configuration, as for `plan`. What a person set (maintenance, drain, weight) is no difference, but for the
    servers of `ours`, (backend, name), that we have brought in ourselves.
    """
    found = [_drift(section, _by_name(section, states), ours) for section in _sections(in_force)]
    return [sentence for one in found for sentence in one.mendable + one.unmendable]


def _by_name(section: _Section, states: States) -> dict[str, ServerState]:
    return {state.server.name: state for state in states.get(section.heading[1], [])} if len(section.heading) > 1 else {}


def _change(old: _Section, new: _Section, terms: _Terms, states: States | None) -> _Change | None:
    """What becomes of a section's servers, None for nothing. Raises _Reload."""
    had = _by_name(old, states) if states is not None else {}
    drifted = _drift(old, had) if states is not None else _Drift(old.servers, set(), [], [])
    if drifted.unmendable:
        raise _Reload(f"{new.title}: {drifted.unmendable[0]}")
    if drifted.servers == new.servers:
        return None
    before, after = ({server.name: server for server in servers} for servers in (drifted.servers, new.servers))
    if len(before) != len(drifted.servers) or len(after) != len(new.servers):
        raise _Reload(f"{new.title}: two servers have one name")
    added = [server for server in new.servers if server.name not in before]
    removed = [server for server in drifted.servers if server.name not in after]
    stay = [(before[server.name], server) for server in new.servers if server.name in before]
    unknown = [server.name for _was, server in stay if server.name in drifted.strangers]
    if unknown:
        raise _Reload(f"{new.title}, server {unknown[0]}: the process has it already, added by hand or left there until its last connection ends")
    different = [(was, server) for was, server in stay if was != server]
    moved = [server for was, server in different if _place(was.address) != _place(server.address)]
    _judge_section(new, terms, bool(added))
    reset = [setting for was, server in different for setting in _settings(f"{new.title}, server {server.name}", server, was)]
    again = {setting.server.name for setting in reset if setting.keyword == "weight"}
    for server in moved:
        weight = _weight(server)
        if server.name not in again and weight is not None and _is_another(had, server) and had[server.name].weight != weight:
            reset.append(_Setting(server, "weight", str(weight), str(had[server.name].weight)))
    kept = [server for _was, server in stay if server not in moved]
    change = _Change(new, added, removed, moved, reset, kept, _ids(new.servers), had)
    for server in moved:
        _judge_moved(f"{new.title}, server {server.name}", change, server, before[server.name], terms)
    for server in added:
        where = f"{new.title}, server {server.name}"
        _judge_newcomer(where, _judge_server(where, server), terms)
    for server in removed:
        if server.name not in drifted.strangers:
            _judge_server(f"{old.title}, server {server.name}", server)
    _judge_ids(change, {state.server.name: state.id for state in had.values()} if states is not None else _ids(old.servers))
    _judge_order(change, drifted.servers)
    _judge_rest(change)
    return change


def _is_another(states: Mapping[str, ServerState], server: _Server) -> bool:
    """Whether a server's name passes to another instance, as haproxy_config.removed_servers sees it: what a person set on the process's
    server was not said of that one."""
    place = _place(server.address)
    return place is not None and server.name in states and states[server.name].server.address != place[0]


def _judge_ids(change: _Change, had: Mapping[str, int]) -> None:
    """Consistent hashes, `first` and the stick tables go by the id, and without one on the line it is a server's position."""
    taken = {number: name for name, number in had.items()}
    for name, number in change.ids.items():
        where = f"{change.section.title}, server {name}"
        if name in had and had[name] != number:
            raise _Reload(f"{where}: its id changes from {had[name]} to {number}; with an id on each server's line it would keep its own")
        if name not in had and number in taken:
            raise _Reload(f"{where}: its id {number} is that of {taken[number]}, which has to be there until it is replaced")


def _is_backup(server: _Server) -> bool:
    return "backup" in _parameters(server.name, server)


def _is_checked(server: _Server) -> bool:
    return "check" in _parameters(server.name, server)


def _judge_order(change: _Change, old: Sequence[_Server]) -> None:
    """Of several backup servers the first one that is usable serves, unless there is `option allbackups` (5.2 "backup", 4.2).
    Added servers come behind the others ("add server")."""
    if _on(change.section.effective, "allbackups"):
        return
    wanted = [server.name for server in change.section.servers if "backup" in server.words]
    there = [server.name for server in old if server.name in wanted]
    if [*there, *(server.name for server in change.added if server.name in wanted)] != wanted:
        raise _Reload(f"{change.section.title}: backup: the order of the backup servers would be another one")


def _judge_rest(change: _Change) -> None:
    """A server that moves is taken out meanwhile, so another one has to serve."""
    if change.moved and not change.serving and not any(_is_checked(server) and not _is_backup(server) for server in change.added):
        raise _Reload(f"{change.section.title}, server {change.moved[0].name}: no other server is left to serve while its address or port changes")


_NOTHING = ""
_ADDED = r"New server registered\."
_DELETED = r"Server deleted\."
# Measured; each of the two can be there alone.
_MOVED = r".*changed from '.*' to '.*'.* by 'stats socket command'\.?"


def _step(action: str, backend: str, server: _Server, *commands: tuple[str, str]) -> Step:
    place = f"{backend}/{server.name}"
    return Step(action, backend, server.name, tuple(Command(text.replace("{place}", place), answer) for text, answer in commands))


def _implied(words: Sequence[str], parameters: Collection[str], version: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """What a server with these words has from the file by itself, and an added one only when it is told (measured). `parameters` are
    the keywords that hold in the end."""
    found: dict[str, tuple[str, ...]] = {}
    if "check" in parameters and not {"addr", "port"} & set(parameters):
        # Its checks go the way of its requests (5.2 "check").
        if "ssl" in parameters and "no-check-ssl" not in words:
            found["check-ssl"] = ()
        if any(keyword.startswith("send-proxy") for keyword in parameters):
            found["check-send-proxy"] = ()
    if version < (3, 0):
        # Else no connection to it would be used a second time.
        found.update({"pool-max-conn": ("-1",), "pool-purge-delay": ("5s",)})
    return {keyword: values for keyword, values in found.items() if keyword not in parameters}


def implied(words: Sequence[str], version: str) -> list[str]:
    """The words that an added server needs besides those of its line and of `default-server` (measured). Pure."""
    keywords = [keyword for keyword, _values in _entries(words)]
    parameters = {keyword for keyword in keywords if f"no-{keyword}" not in keywords}
    return [word for keyword, values in _implied(words, parameters, _number(version)).items() for word in (keyword, *values)]


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def _add(change: _Change, server: _Server, version: tuple[int, int]) -> Step:
    """Added with all its parameters, since nothing comes from `default-server`."""
    parameters = {**_parameters(server.name, server), "id": (str(change.ids[server.name]),)}
    parameters.update(_implied(server.words, parameters, version))
    # That there is one was judged before.
    place = cast("tuple[str, int]", _place(server.address))
    words = [_written(place), *(word for keyword, values in parameters.items() for word in (keyword, *values))]
    return _step("add", change.backend, server, ("add server {place} " + " ".join(words), _ADDED))


def _bring_in(change: _Change, server: _Server, setting: str = "ready") -> Step:
    """Bring a server in that is in maintenance, without a request before its first passed check. Out of maintenance it counts as up, so
    it goes by way of drain, where it gets nothing until it is said to be down (measured)."""
    words = ["state drain", "health down", f"state {setting}"] if _is_checked(server) else [f"state {setting}"]
    return _step("enable", change.backend, server, *((f"set server {{place}} {word}", _NOTHING) for word in words))


def _move(change: _Change, server: _Server) -> list[Step]:
    # That there is one was judged before.
    place = cast("tuple[str, int]", _place(server.address))
    found = [_step("move", change.backend, server, (f"set server {{place}} addr {place[0]} port {place[1]}", _MOVED))._replace(place=place)]
    # What a person set stays with the instance.
    admin = change.states[server.name].admin if change.states and not _is_another(change.states, server) else 0
    if admin & MAINTENANCE:
        return found
    return [*found, _bring_in(change, server, "drain" if admin & DRAIN else "ready")]


def _is_out(change: _Change, server: _Server) -> bool:
    """Whether a server is in maintenance already: one that an earlier run had to leave until its connections end, say."""
    return server.name in change.states and bool(change.states[server.name].admin & MAINTENANCE)


def _steps(changes: Sequence[_Change], version: tuple[int, int]) -> list[Step]:
    """Newcomers first, then who leaves or moves: drained, in maintenance (a client with a cookie still reaches a drained
    server: measured), and then gone or moved. Steps of one kind stand together, because they can go in one line."""
    newcomers = [(change, server) for change in changes for server in change.added]
    found = [_add(change, server, version) for change, server in newcomers]
    found += [_bring_in(change, server) for change, server in newcomers]
    found += [_step("check", change.backend, server, ("enable health {place}", _NOTHING)) for change, server in newcomers if _is_checked(server)]
    agents = [(change, server) for change, server in newcomers if "agent-check" in _parameters(server.name, server)]
    found += [_step("agent", change.backend, server, ("enable agent {place}", _NOTHING)) for change, server in agents]
    for change in changes:
        if not change.ending or change.serving:
            continue
        # A backup server (the one that says sorry, say) stands for no other one, unless there is none to come.
        is_to_come = any(not _is_backup(server) for server in change.added)
        others = [server.name for server in (*change.kept, *change.added) if _weight(server) != 0 and (not is_to_come or not _is_backup(server))]
        if others:
            found.append(Step("wait for checks", change.backend, any_of=tuple(others)))
    # Behind the waits: a change that has to wait leaves everything as it was.
    for change in changes:
        for server, keyword, value, was in change.reset:
            command = KEYWORDS[keyword].settable
            # The weight in use may be a person's.
            before = str(change.states[server.name].weight) if keyword == "weight" and server.name in change.states else was
            undo = command.replace("{place}", f"{change.backend}/{server.name}").replace("{value}", before)
            found.append(_step(keyword, change.backend, server, (command.replace("{value}", value), _NOTHING))._replace(undo=undo))
    leavers = [(change, server) for change in changes for server in (*change.removed, *change.moved) if not _is_out(change, server)]
    for state in ("drain", "maint"):
        found += [_step(state, change.backend, server, (f"set server {{place}} state {state}", _NOTHING)) for change, server in leavers]
        found += [Step("wait until idle")] if leavers else []
    moved = [_move(change, server) for change in changes for server in change.moved]
    found += [steps[0] for steps in moved] + [step for steps in moved for step in steps[1:]]
    found += [_step("delete", change.backend, server, ("del server {place}", _DELETED)) for change in changes for server in change.removed]
    return found


def _values_of(sections: Iterable[_Section], wanted: Callable[[str], bool]) -> set[tuple[str, str]]:
    """The keywords of all servers that are `wanted`, with their first value."""
    entries = (entry for section in sections for server in section.servers for entry in _entries(server.words))
    return {(keyword, values[0]) for keyword, values in entries if values and wanted(keyword)}


def _is_file(keyword: str) -> bool:
    return keyword in KEYWORDS and KEYWORDS[keyword].file


def plan(in_force: str, wanted: str, version: str, states: States | None = None) -> Plan:
    """The way from the configuration in force to the wanted one. Pure.

    Each text is the whole configuration of the process: of several files, all of them joined in their order, since a `defaults`
    section of one holds for the next. `version` is HAProxy's own, as in "2.6.12-1+deb12u4". A version newer than those measured is
    taken for the newest of them, because every answer is compared with what it should be. `states` are the process's servers by
    backend: where they differ from the configuration in force, the way begins at what the process has.
    """
    old, new = _sections(in_force), _sections(wanted)
    try:
        _compare_frames(old, new)
        terms = _Terms(
            _number(version),
            _values_of((section for section in old if not section.uncertain), _is_file),
            {value for _keyword, value in _values_of(old, lambda keyword: keyword == "track")},
        )
        changes = [change for change in (_change(before, after, terms, states) for before, after in zip(old, new)) if change]
        steps = _steps(changes, terms.version)
        if steps and terms.version < OLDEST:
            raise _Reload(f"HAProxy {version} is older than what is known to add servers without experimental mode")
        buffer = _bufsize(old)
        for step in steps:
            # The master's prefix and the end of the line come on top.
            if len("; ".join(command.text for command in step.commands)) + 64 * len(step.commands) > buffer:
                raise _Reload(f"backend {step.backend}, server {step.server}: the command is too long for tune.bufsize")
    except _Reload as reason:
        return Plan([], str(reason))
    return Plan(steps, "", buffer)


def _bufsize(sections: Iterable[_Section]) -> int:
    found = [words[1] for section in sections if section.heading == ["global"] for words, _raw in section.lines if words[0] == "tune.bufsize" and words[1:]]
    if not found:
        return BUFFER
    # 3.2 takes units (2.4 "size"). What cannot be read may be little.
    size = re.fullmatch(r"(\d+)([km]?)", found[-1].lower())
    return int(size.group(1)) * {"": 1, "k": 1024, "m": 1048576}[size.group(2)] if size else LEAST_BUFFER


def weights(text: str) -> dict[tuple[str, str], int]:
    """The weights that a configuration gives its servers, by (backend, name), as far as the text tells. Pure. `text` is the whole of
    it, as for `plan`."""
    found = {}
    for section in _sections(text):
        for server in section.servers:
            weight = _weight(server)
            if weight is not None and len(section.heading) > 1:
                found[section.heading[1], server.name] = weight
    return found


def silenced(before: str, after: str) -> list[str]:
    """The backends of `after` in which each server has the weight 0, and had not in `before`: they would answer every request with 503. Pure.

    A server whose weight the text does not tell counts as one that serves.
    """

    def backends(text: str, none: int) -> set[str]:
        named = [section for section in _sections(text) if len(section.heading) > 1]
        return {section.heading[1] for section in named for server in section.servers if _weight(server) != none}

    return sorted((backends(after, -1) - backends(after, 0)) & backends(before, 0))


def _weight(server: _Server) -> int | None:
    values = [values[0] for keyword, values in _entries(server.words) if keyword == "weight" and values] or [DEFAULTS["weight"]]
    return int(values[-1]) if values[-1].isdigit() and not server.raw else None
