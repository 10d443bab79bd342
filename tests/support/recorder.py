# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on every loopback address that writes down what HAProxy sends: where from, in which protocol, and what TLS it offers.

It answers HTTP/1 requests, also inside of TLS and behind a PROXY header. Paths: /500 answers with that status, /slow a moment later, anything else 200.
A second port answers agent checks with `up 50%`.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

# How long /slow takes, in seconds.
SLOW = 0.5

# TLS extensions whose content says what was configured: name, groups, signature algorithms, ALPN, versions.
_TOLD = (0, 10, 13, 16, 43)
_RESUMED = 41


class Hello(NamedTuple):
    """A TLS ClientHello: the ciphers, the extensions by number, with the content of those that tell something."""

    ciphers: str
    extensions: tuple[tuple[int, str], ...]


class Seen(NamedTuple):
    """One connection: the port and address that it came to and the address that it came from, its PROXY header without port numbers, its ClientHello,
    whether it showed a certificate, and the first line inside of it all."""

    port: str
    host: str
    client: str
    proxy: str
    hello: Hello | None
    certificate: bool
    line: str


def _hello(data: bytes) -> tuple[Hello, bool] | None:
    """The ClientHello that these bytes begin with, and whether it resumes a session."""
    if len(data) < 43 or data[0] != 22 or data[5] != 1:
        return None
    at = 43
    at += 1 + data[at]
    (size,) = struct.unpack_from(">H", data, at)
    ciphers = data[at + 2 : at + 2 + size].hex()
    at += 2 + size
    at += 1 + data[at]
    (size,) = struct.unpack_from(">H", data, at)
    at, end = at + 2, at + 2 + size
    extensions: dict[int, str] = {}
    while at < end:
        kind, size = struct.unpack_from(">HH", data, at)
        extensions[kind] = data[at + 4 : at + 4 + size].hex() if kind in _TOLD else ""
        at += 4 + size
    # 21 is padding, 35 has the ticket of a session where there is one.
    resumed = extensions.pop(_RESUMED, None) is not None
    extensions.pop(21, None)
    return Hello(ciphers, tuple(sorted(extensions.items()))), resumed


def _proxy(connection: socket.socket) -> str:
    """Read a PROXY header away, and return what it says, without the ports and checksums."""
    start = connection.recv(16, socket.MSG_PEEK)
    if start.startswith(b"PROXY "):
        words = connection.recv(connection.recv(108, socket.MSG_PEEK).index(b"\n") + 1).split()
        return b" ".join(words[:4]).decode()
    if not start.startswith(b"\r\n\r\n\0\r\nQUIT\n"):
        return ""
    head = connection.recv(16, socket.MSG_WAITALL)
    body = connection.recv(struct.unpack(">H", head[14:])[0], socket.MSG_WAITALL)
    addresses = 12 if head[13] == 0x11 else 0
    kinds = []
    at = addresses
    while at + 3 <= len(body):
        kinds.append(body[at])
        at += 3 + int(struct.unpack_from(">H", body, at + 1)[0])
    return f"v2 {head[12]:x} {head[13]:x} {body[: min(8, addresses)].hex()} {kinds}"


class Recorder:
    """What came is in `seen`, by the last three bytes of the address it came to; `resumed` says of each TLS connection with a request, in order,
    whether it resumed a session."""

    def __init__(self, certificate: Path, authority: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.load_verify_locations(authority)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        # What a client was told to use is what is to be seen, also where it is old.
        self._context.minimum_version = ssl.TLSVersion.TLSv1
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        self._lock = threading.Lock()
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self.resumed: dict[str, list[bool]] = defaultdict(list)
        self.asked: dict[str, set[str]] = defaultdict(set)
        self._sockets = [socket.create_server(("0.0.0.0", 0), backlog=256) for _kind in range(3)]
        self.port, self.check_port, self.agent_port = (one.getsockname()[1] for one in self._sockets)
        for one, work in zip(self._sockets, (self._serve, self._serve, self._agent)):
            threading.Thread(target=self._listen, args=(one, work), daemon=True).start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _listen(self, listener: socket.socket, work: object) -> None:
        while True:
            try:
                connection, client = listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            threading.Thread(target=self._guarded, args=(work, connection, client[0]), daemon=True).start()

    def _guarded(self, work: object, connection: socket.socket, client: str) -> None:
        assert callable(work)
        try:
            work(connection, client)
        except (OSError, ValueError, IndexError, struct.error):
            # A client that hangs up early, a check for one, is no news.
            pass
        finally:
            connection.close()

    def _agent(self, connection: socket.socket, client: str) -> None:
        host = connection.getsockname()[0]
        connection.settimeout(0.05)
        try:
            sent = connection.recv(100).decode()
        except TimeoutError:
            sent = ""
        with self._lock:
            self.asked[_key(host)].add(f"{host.split('.')[1]} {sent}")
        connection.sendall(b"up 50%\n")

    def _serve(self, connection: socket.socket, client: str) -> None:
        host, number = connection.getsockname()[:2]
        port = "check" if number == self.check_port else "main"
        proxy, hello, resumed, certificate, line = "", None, False, False, ""
        stream = connection
        try:
            proxy = _proxy(connection)
            found = _hello(connection.recv(4096, socket.MSG_PEEK))
            if found:
                hello, resumed = found
                stream = self._context.wrap_socket(connection, server_side=True)
            data = stream.recv(4096)
            certificate = isinstance(stream, ssl.SSLSocket) and bool(stream.getpeercert())
            line = data.partition(b"\r\n")[0].decode("latin-1")
        finally:
            with self._lock:
                self.seen[_key(host)].append(Seen(port, host.split(".")[1], client, proxy, hello, certificate, line))
                if hello and "/row" in line:
                    self.resumed[_key(host)].append(resumed)
        with stream:
            while data.startswith((b"GET ", b"OPTIONS ")):
                path = data.split(b" ")[1]
                if path == b"/slow":
                    time.sleep(SLOW)
                status = b"500 No" if path == b"/500" else b"200 OK"
                stream.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                data = stream.recv(4096)


def _key(host: str) -> str:
    return ".".join(host.split(".")[2:])
