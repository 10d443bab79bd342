# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Read a HAProxy configuration as text, and compare its servers with those of another one.

Pure functions over plain data: nothing here touches a file, a socket or a process. The syntax is that of the
Configuration Manual, chapter 2 ("Configuring HAProxy": quoting and escaping, environment variables) and 5.2
(the parameters of a server line).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# The words that open a section, HAProxy 2.4 to 3.2 (Configuration Manual, chapters 3, 4 and 12).
SECTIONS = frozenset(
    [
        "acme",
        "backend",
        "cache",
        "crt-store",
        "defaults",
        "fcgi-app",
        "frontend",
        "global",
        "http-errors",
        "listen",
        "log-forward",
        "log-profile",
        "mailers",
        "peers",
        "program",
        "resolvers",
        "ring",
        "traces",
        "userlist",
    ]
)


class Server(NamedTuple):
    """One server of a backend: where requests can go.

    `address` is an IP address, a host name or a socket path, as written (a process gives "-" for a path); `port` is
    0 when the line gives none. `fqdn` is set by the process only: the name that it resolved `address` from.
    `options` are the words after the address, as written. `checked` is whether HAProxy checks the server, by its own
    line or by `default-server`.
    """

    name: str
    address: str
    port: int = 0
    options: tuple[str, ...] = ()
    fqdn: str = ""
    checked: bool = False


class Bind(NamedTuple):
    """One place to listen at, as written, with the words after it."""

    address: str
    options: tuple[str, ...]


class Configuration(NamedTuple):
    """What the collection needs to know of a configuration: `servers` by backend (a `listen` section is one, too)
    in the file's order, the words of the `default-server` lines that hold at each backend's end, the backends that read
    the global server-state file at a reload, the words of each line of the `global` section, and the places to listen at
    (those of `bind` and `stats socket` lines) as far as the text alone tells that HAProxy will listen there."""

    servers: dict[str, list[Server]]
    default_server: dict[str, list[str]]
    reads_state: frozenset[str]
    global_lines: list[list[str]]
    binds: list[Bind]


class Difference(NamedTuple):
    """The servers of one backend that come, go, and stay under their name with another address, port or options."""

    added: list[str]
    removed: list[str]
    changed: list[str]


def split_line(line: str) -> list[str]:
    """Split one configuration line into its words: quotes and backslash escapes are resolved, a comment is cut.

    An environment variable stays as it is written. A quote that is not closed ends with the line; HAProxy itself
    refuses such a line, so nothing is decided on it.
    """
    words: list[str] = []
    word: list[str] = []
    inside = False  # a word has begun, even if it is empty as in ""
    quote = ""
    position = 0
    while position < len(line):
        character = line[position]
        position += 1
        if character == "\\" and quote != "'":
            # Before any other character it stays (2.2 "Quoting and escaping"; measured on 2.6 and 3.2).
            escaped = re.compile(r"[ \\#\"'nrt]|x[0-9a-fA-F]{2}").match(line, position)
            following = escaped.group() if escaped else "\\"
            position += len(following) if escaped else 0
            word.append(chr(int(following[1:], 16)) if len(following) == 3 else {"n": "\n", "r": "\r", "t": "\t"}.get(following, following))
            inside = True
        elif quote:
            if character == quote:
                quote = ""
            else:
                word.append(character)
        elif character in "\"'":
            quote = character
            inside = True
        elif character == "#":
            break
        elif character in " \t\r\n":
            if inside:
                words.append("".join(word))
                word = []
                inside = False
        else:
            word.append(character)
            inside = True
    if inside:
        words.append("".join(word))
    return words


def split_address(text: str) -> tuple[str, int]:
    """Split a server's address into host (or socket path) and port; the port is 0 where there is none.

    The address families that HAProxy writes in front (`ipv4@`, `ipv6@`, `unix@`, ...) are dropped, and so are
    the brackets around an IPv6 address. HAProxy takes the last colon as the port's (Configuration Manual, 11.1).
    """
    host = re.sub(r"^[a-z0-9+]+@", "", text)
    if host.startswith("/"):
        return host, 0
    before, colon, after = host.rpartition(":")
    # "[::1]" is an address without a port: its last colon stands within the brackets.
    if not colon or after.endswith("]"):
        return _plain_address(host.strip("[]")), 0
    # "+100" adds to the port that the client came to; the process shows the 100 alone. Of "-100" it shows no port at all.
    port = after[1:] if after[:1] == "+" else after
    return _plain_address(before.strip("[]")), int(port) if port.isdigit() else 0


def _plain_address(host: str) -> str:
    """An IPv6 address in the one form that HAProxy prints, whichever way it was written; the rest as it is."""
    if ":" not in host:
        return host
    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
    except OSError:
        return host


def _is_checked(words: Sequence[str]) -> bool:
    """Whether a server with these words is checked: the last of `check` and `no-check` counts (5.2)."""
    found = [word for word in words if word in ("check", "no-check")]
    return bool(found) and found[-1] == "check"


def _servers_of_line(words: Sequence[str], default_server: Sequence[str]) -> list[Server]:
    """The servers that one line defines: one for `server`, a numbered row for `server-template`."""
    if words[0] == "server" and len(words) >= 3:
        address, port = split_address(words[2])
        return [Server(words[1], address, port, tuple(words[3:]), "", _is_checked([*default_server, *words[3:]]))]
    if words[0] == "server-template" and len(words) >= 4:
        address, port = split_address(words[3])
        first, dash, last = words[2].partition("-")
        bounds = (first, last) if dash else ("1", first)
        if all(bound.isdigit() for bound in bounds):
            options, checked = tuple(words[4:]), _is_checked([*default_server, *words[4:]])
            numbers = range(int(bounds[0]), int(bounds[1]) + 1)
            return [Server(f"{words[1]}{number}", address, port, options, "", checked) for number in numbers]
    return []


class _Section(NamedTuple):
    """What a section says about its servers; `defaults` hands it on to the sections after it."""

    kind: str
    name: str
    default_server: list[str]
    reads_state: bool
    disabled: bool
    binds: list[Bind]


def _open_section(words: Sequence[str], defaults: Mapping[str, _Section]) -> _Section:
    """The section that a line opens, with what it inherits: from the `defaults` section that it names with `from`, else
    from the last one; a `defaults` section without `from` begins anew (chapter 4, "defaults")."""
    name = words[1] if len(words) > 1 and words[1] != "from" else ""
    source = words[words.index("from") + 1] if "from" in words[:-1] else ""
    parent = None if words[0] == "defaults" and not source else defaults.get(source, defaults.get(""))
    if parent is None:
        return _Section(words[0], name, [], False, False, [])
    return _Section(words[0], name, list(parent.default_server), parent.reads_state, parent.disabled, [])


def parse(text: str) -> Configuration:
    """Read a configuration's text. Lines that are not understood are passed over: whether the text is valid is for
    `haproxy -c` to say. Of an `.if` both branches count, but for their binds: which of them holds is known to HAProxy alone."""
    servers: dict[str, list[Server]] = {}
    global_lines: list[list[str]] = []
    backends: dict[str, _Section] = {}
    defaults: dict[str, _Section] = {}  # by name, and under "" the last one
    sections = [_Section("", "", [], False, False, [])]
    conditions = 0
    for line in text.split("\n"):
        words = split_line(line)
        if not words:
            continue
        here = sections[-1]
        if words[0] in SECTIONS:
            here = _open_section(words, defaults)
            sections.append(here)
        elif words[0] in (".if", ".endif"):
            conditions += 1 if words[0] == ".if" else -1
        elif here.kind == "global":
            global_lines.append(words)
        elif words[0] == "disabled" or (words[0] == "enabled" and not conditions):
            here = here._replace(disabled=words[0] == "disabled")
        elif words[0] == "default-server":
            here.default_server.extend(words[1:])
        elif words[0] == "load-server-state-from-file":
            here = here._replace(reads_state=words[1:2] == ["global"])
        sections[-1] = here
        if not conditions:
            here.binds.extend(_binds_of_line(words, here.kind, global_lines))
        if here.kind == "defaults":
            defaults[here.name] = defaults[""] = here
        elif here.kind in ("backend", "listen") and here.name:
            backends[here.name] = here
            servers.setdefault(here.name, []).extend(_servers_of_line(words, here.default_server))
    return Configuration(
        servers,
        {name: section.default_server for name, section in backends.items()},
        frozenset(name for name, section in backends.items() if section.reads_state),
        global_lines,
        [bind for section in sections if not section.disabled for bind in section.binds],
    )


def _binds_of_line(words: Sequence[str], kind: str, global_lines: Iterable[Sequence[str]]) -> list[Bind]:
    """The places to listen at that one line names; `global_lines` are those before it."""
    if kind == "global":
        return _binds(words[2:] if words[:2] == ["stats", "socket"] else [])
    found = _binds(words[1:] if words[0] == "bind" else [])
    # The path of a `bind` line is another one then, and that of a statistics socket is not (3.1 "unix-bind", and measured).
    if any(line[0] == "unix-bind" and "prefix" in line for line in global_lines):
        found = [bind for bind in found if not bind.address.startswith(("/", "unix@"))]
    return found


def _binds(words: Sequence[str]) -> list[Bind]:
    return [Bind(address, tuple(words[1:])) for address in words[0].split(",")] if words else []


def server_state_file(configuration: Configuration) -> str:
    """The path of the global server-state file; empty where there is none (3.1 "server-state-file" and "-base")."""
    found = {words[0]: words[1] for words in configuration.global_lines if len(words) > 1}
    path = found.get("server-state-file", "")
    if path and not path.startswith(("/", "./", "../")) and "server-state-base" in found:
        path = found["server-state-base"].rstrip("/") + "/" + path
    return path if path.startswith("/") else ""


def statistics_sockets(configuration: Configuration, admin: bool = True) -> list[tuple[str, bool]]:
    """The UNIX statistics sockets with level admin of the `global` section (or else those of a lower level), each with whether it passes the listening
    descriptors to a new process (`expose-fd listeners`; Configuration Manual, 3.1 "stats socket")."""
    found: list[tuple[str, bool]] = []
    for words in configuration.global_lines:
        if words[:2] != ["stats", "socket"] or len(words) < 3:
            continue
        path = re.sub(r"^unix@", "", words[2])
        options = list(zip(words[3:], words[4:]))
        if path.startswith("/") and (("level", "admin") in options) == admin:
            found.append((path, ("expose-fd", "listeners") in options))
    return found


def is_same_address(old: Server, new: Server) -> bool:
    """Whether a server of a file (`new`) is at the address of the one that a process or file has (`old`)."""
    # A name in the file is an address in the process, a path is "-", and an environment variable is its value: they are
    # the same server while the name is.
    return old.address == "-" or "$" in new.address or new.address in (old.address, old.fqdn)


def _same_port(old: Server, new: Server) -> bool:
    # Where the file gives no number (a variable, an offset) there is nothing to compare.
    return new.port in (0, old.port)


def _stays(server: Server, names: Mapping[str, Server], places: set[tuple[str, int]]) -> bool:
    if (server.address, server.port) in places:
        return True
    namesake = names.get(server.name)
    return namesake is not None and is_same_address(server, namesake)


def removed_servers(before: Iterable[Server], after: Iterable[Server]) -> list[Server]:
    """The servers of `before` that `after` no longer sends requests to.

    A server stays when its address and port stay (whatever its name: a file that is being taken over names its
    servers differently), or its name with its address. So a name that passes to another instance is a removal.
    """
    after = list(after)
    names = {server.name: server for server in after}
    places = {(server.address, server.port) for server in after}
    return [server for server in before if not _stays(server, names, places)]


def refusals(before: Mapping[str, Sequence[Server]], after: Mapping[str, Sequence[Server]], maximum_removed_percent: int) -> list[str]:
    """Why `after` must not replace `before`, a sentence for each backend; an empty list when it may.

    Counted backend by backend. Removing one server is always allowed, unless it is the last one and nothing takes
    its place: an emptied backend answers every request with 503. At 100 percent nothing is refused.
    """
    if maximum_removed_percent >= 100:
        return []
    found = []
    for backend in sorted(before):
        had = before[backend]
        wanted = after.get(backend, [])
        gone = len(removed_servers(had, wanted))
        if had and not wanted:
            found.append(f"backend {backend} would lose all of its {len(had)} servers")
        elif gone > 1 and gone * 100 > maximum_removed_percent * len(had):
            found.append(f"backend {backend} would lose {gone} of its {len(had)} servers ({gone * 100 // len(had)} percent, {maximum_removed_percent} allowed)")
    return found


def differences(before: Mapping[str, Sequence[Server]], after: Mapping[str, Sequence[Server]], compare_options: bool) -> dict[str, Difference]:
    """The servers that come, go and change, by backend and by name; backends without a difference are left out.

    `compare_options` says whether `before` knows the words after the address: a file does, a process does not.
    """
    found: dict[str, Difference] = {}
    for backend in sorted(set(before) | set(after)):
        old = {server.name: server for server in before.get(backend, [])}
        new = {server.name: server for server in after.get(backend, [])}
        changed = [
            name
            for name, server in new.items()
            if name in old
            and (not is_same_address(old[name], server) or not _same_port(old[name], server) or (compare_options and server.options != old[name].options))
        ]
        difference = Difference(
            added=[name for name in new if name not in old],
            removed=[name for name in old if name not in new],
            changed=changed,
        )
        if any(difference):
            found[backend] = difference
    return found
