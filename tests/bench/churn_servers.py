# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instances of the churn: many small web servers in one process, that come and go as they are told.

They are told by lines of JSON on standard input, and answer each with a line on standard output. What they answer to HTTP:
    /health            200, or 503 of a sick one, which takes every other request all the same, and counts it
    /short             the server's name, filled up to SHORT bytes
    /long/MS           LONG bytes, in pieces over that many milliseconds
    /stable/upload     PUT: how many bytes came
    /stable/stream     numbered lines, one a tick, until `finish`
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import sys
from typing import Any

SHORT = 512
LONG = 40_000
PIECES = 10
TICK = 0.1


class Site:
    """One server. A `left` one has been drained: what reaches it from then on is counted apart."""

    def __init__(self, name: str, sick: bool) -> None:
        self.name = name
        self.sick = sick
        self.left = False
        self.requests = 0
        self.late = 0
        self.cut = 0
        self.connections: set[Connection] = set()
        self.listener: asyncio.Server | None = None
        self.short = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SHORT + f"{name}\n".encode().ljust(SHORT, b".")


class Connection(asyncio.Protocol):
    """One connection; HAProxy sends the next request on it only after a whole answer."""

    def __init__(self, site: Site, finished: asyncio.Event) -> None:
        self.site = site
        self.finished = finished
        self.data = b""
        self.busy = False
        self.missing = 0  # bytes of an upload that are still to come
        self.length = 0
        self.answer: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.site.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.site.connections.discard(self)
        if self.answer is not None:
            self.answer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.take(data)
            return
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        self.data = b""
        path = head.split(b" ", 2)[1].decode()
        if path == "/health":
            status = b"503 Sick" if self.site.sick else b"200 OK"
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
            return
        self.site.requests += 1
        self.site.late += self.site.left
        if path == "/short":
            self.transport.write(self.site.short)
            return
        self.busy = True
        if path.startswith("/long/"):
            self.answer = asyncio.create_task(self.drip(int(path.rpartition("/")[2]) / 1000))
        elif path == "/stable/stream":
            self.answer = asyncio.create_task(self.stream())
        else:
            found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            self.length = self.missing = int(found.group(1)) if found else 0
            self.take(body)

    def take(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing <= 0:
            text = f"{self.length - self.missing}\n".encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            self.missing = 0
            self.busy = False

    async def drip(self, seconds: float) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG)
        for _piece in range(PIECES):
            await asyncio.sleep(seconds / PIECES)
            self.transport.write(b"." * (LONG // PIECES))
        self.busy = False

    async def stream(self) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        number = 0
        while not self.finished.is_set():
            number += 1
            line = b"%d\n" % number
            self.transport.write(b"%x\r\n%s\r\n" % (len(line), line))
            await asyncio.sleep(TICK)
        self.transport.write(b"0\r\n\r\n")
        self.busy = False

    def reset(self) -> None:
        """Gone, as the connections of a machine that is switched off: without a goodbye."""
        self.site.cut += self.busy
        found = self.transport.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Servers:
    """All of them, by name; those that are stopped as well, because they are counted."""

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self.finished = asyncio.Event()

    async def start(self, name: str, address: str, port: int, sick: bool = False) -> dict[str, Any]:
        site = self.sites[name] = Site(name, sick)
        loop = asyncio.get_running_loop()
        site.listener = await loop.create_server(lambda: Connection(site, self.finished), address, port, backlog=1024)
        return {}

    async def leave(self, names: list[str]) -> dict[str, Any]:
        """They have been drained: from now on each request is one too many."""
        for name in names:
            self.sites[name].left = True
        return {}

    async def stop(self, names: list[str]) -> dict[str, Any]:
        for name in names:
            site = self.sites[name]
            if site.listener is not None:
                site.listener.close()
            for connection in list(site.connections):
                connection.reset()
        return {}

    async def finish(self) -> dict[str, Any]:
        """End the streams, as they should."""
        self.finished.set()
        return {}

    async def count(self) -> dict[str, Any]:
        """For each server: requests, those after its drain, those that its stop cut off, and whether it was sick."""
        return {site.name: [site.requests, site.late, site.cut, site.sick] for site in self.sites.values()}


async def main() -> None:
    servers = Servers()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # At the end of the input whoever started us is gone.
    while line := await reader.readline():
        words = json.loads(line)
        answer = await getattr(servers, words.pop("do"))(**words)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
