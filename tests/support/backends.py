# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances that answer HTTP: one small server for each loopback address, that says which one it is.

In a test: `with Backends("127.0.10.1", "127.0.10.2") as web:`. By hand: `python tests/support/backends.py --port 8080 127.0.10.1 127.0.10.2`.

Every answer has the address as its body and in the header X-Instance. Connections are kept alive, as real clients and servers do.
    /health          200, or 503 after `unhealthy(address)`
    /slow?ms=500     answers after that time
    /status?code=404 answers with that status
    anything else    200
"""

from __future__ import annotations

import argparse
import ipaddress
import signal
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

# A test that asks for more would only wait.
LONGEST_SLOW_MS = 30_000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Without this, the two writes of an answer wait for each other's acknowledgement: 40 ms on each kept-alive request.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/slow":
            time.sleep(min(int(query.get("ms", ["500"])[0]), LONGEST_SLOW_MS) / 1000)
        status = int(query.get("code", ["200"])[0]) if url.path == "/status" else 200
        if url.path == "/health" and not self.server.healthy:
            status = 503
        if url.path != "/health":
            self.server.count()
        body = f"{self.server.address}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Instance", self.server.address)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 (http.server wants this name)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Threads of kept-alive connections would hold up the end until their clients go.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: str, port: int) -> None:
        if not ipaddress.ip_address(address).is_loopback:
            raise ValueError(f"{address} is not a loopback address")
        self.address = address
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.healthy = True
        self.requests = 0
        self._lock = threading.Lock()
        super().__init__((address, port), _Handler)

    def count(self) -> None:
        with self._lock:
            self.requests += 1

    def handle_error(self, request: object, client_address: object) -> None:
        # A client or a health check that hangs up early is no news.
        pass


class Backends:
    """Servers on loopback addresses, all with one port. Port 0 takes a free one, which `port` then names."""

    def __init__(self, *addresses: str, port: int = 0) -> None:
        self.port = port
        self._servers: dict[str, _Server] = {}
        for address in addresses:
            self.add(address)

    def add(self, address: str) -> None:
        server = _Server(address, self.port)
        self.port = server.server_port
        self._servers[address] = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name=f"backend {address}", daemon=True).start()

    def remove(self, address: str) -> None:
        """No new connections; one that is open is served until its client goes."""
        server = self._servers.pop(address)
        server.shutdown()
        server.server_close()

    def unhealthy(self, address: str, unhealthy: bool = True) -> None:
        self._servers[address].healthy = not unhealthy

    @property
    def addresses(self) -> list[str]:
        return list(self._servers)

    @property
    def requests(self) -> Counter[str]:
        """How many requests each server has had so far, health checks not counted."""
        return Counter({address: server.requests for address, server in self._servers.items()})

    def stop(self) -> None:
        for address in self.addresses:
            self.remove(address)

    def __enter__(self) -> Backends:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="HTTP servers on loopback addresses, each answering with its address.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS", help="in 127.0.0.0/8")
    arguments = parser.parse_args()
    with Backends(*arguments.addresses, port=arguments.port) as backends:
        for address in backends.addresses:
            print(f"http://{address}:{backends.port}/", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
