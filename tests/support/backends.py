# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Instances that really answer: an HTTP server on each of some loopback addresses, all on one port.

    with Backends("127.0.10.1", "127.0.10.2") as web:
        requests.get(f"http://127.0.10.1:{web.port}/")  # "127.0.10.1"

Each answers any GET with its own address, in the body and in the header X-Instance; `/slow?ms=500` waits before it does.
From a shell: ``python tests/support/backends.py --port 8080 127.0.10.1 127.0.10.2`` serves until it is stopped.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        time.sleep(min(float(query.get("ms", ["0"])[0]), 10_000) / 1000)
        address = str(self.server.server_address[0])
        body = f"{address}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Instance", address)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        left = int(self.headers.get("Content-Length", "0"))
        while left:
            left -= len(self.rfile.read(min(left, 65536)))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a checker or an old process that hangs up is no news


class Backends:
    """HTTP servers on the addresses given, on `port` (0: one that is free on all of them)."""

    def __init__(self, *addresses: str, port: int = 0) -> None:
        self.port = port or self._free_port(addresses)
        self._servers: dict[str, _Server] = {}
        for address in addresses:
            self.add(address)

    @staticmethod
    def _free_port(addresses: tuple[str, ...]) -> int:
        with socket.socket() as probe:
            probe.bind((addresses[0] if addresses else "127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def add(self, address: str) -> None:
        """Start the server of one more address; only loopback."""
        if not address.startswith("127."):
            raise ValueError(f"{address} is not on loopback")
        server = _Server((address, self.port), _Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._servers[address] = server

    def remove(self, address: str) -> None:
        """Stop the server of an address."""
        server = self._servers.pop(address)
        server.shutdown()
        server.server_close()

    def stop(self) -> None:
        for address in list(self._servers):
            self.remove(address)

    def __enter__(self) -> Backends:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _main() -> None:
    parser = argparse.ArgumentParser(description="HTTP servers on loopback addresses, until it is stopped.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("addresses", nargs="+")
    arguments = parser.parse_args()
    Backends(*arguments.addresses, port=arguments.port)
    threading.Event().wait()


if __name__ == "__main__":
    _main()
