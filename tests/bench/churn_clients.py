# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The clients of the churn: correct HTTP clients that never try anything twice, and count all that goes wrong.

They are told by lines of JSON on standard input, and answer each with a line on standard output.

On a kept connection, an end that is announced (`Connection: close`), or that comes while nothing is asked, is no failure. An end
after a request was sent and before its answer is whole is one, and so is each answer other than 200.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from churn_servers import LONG, SHORT

KINDS = ("connect", "reset", "short body", "error answer", "time-out")
TIMEOUT = 20.0
UPLOAD_PIECE = b"u" * 2000
UPLOAD_PAUSE = 0.05
# One request in so many comes from a visitor without a cookie.
NEW_VISITOR = 20
# How many new connections come at once.
BURST = 8


class Failed(Exception):
    """A request without its whole answer; `kind` is one of KINDS."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


class Answer:
    """A whole answer of status 200."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.body = body
        self.closes = re.search(rb"(?i)\r\nconnection: *close", head) is not None
        cookie = re.search(rb"(?i)\r\nset-cookie: *(SRV=[^;\r]*)", head)
        self.cookie = cookie.group(1) if cookie else b""


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except TimeoutError as error:
        raise Failed("time-out") from error
    except OSError as error:
        raise Failed("reset", type(error).__name__) from error


def send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except TimeoutError as error:
        raise Failed("time-out") from error
    except OSError as error:
        raise Failed("reset", type(error).__name__) from error


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of an answer, and what came of the body with it. Raises Failed, also for each status but 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = receive(connection)
        if not part:
            raise Failed("reset", f"closed after {len(data)} bytes of the head")
        data += part
    head, _end, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failed("error answer", head.split(b"\r\n")[0].decode())
    return head, body


def read_rest(connection: socket.socket, body: bytes, is_whole: Callable[[bytes], bool]) -> bytes:
    while not is_whole(body):
        try:
            part = receive(connection)
        except Failed as failed:
            raise Failed("time-out" if failed.kind == "time-out" else "short body", f"{failed.kind} after {len(body)} bytes") from failed
        if not part:
            raise Failed("short body", f"closed after {len(body)} bytes")
        body += part
    return body


def read_answer(connection: socket.socket) -> Answer:
    head, body = read_head(connection)
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    length = int(found.group(1)) if found else 0
    return Answer(head, read_rest(connection, body, lambda text: len(text) >= length))


def unchunk(body: bytes) -> bytes:
    """What a chunked body holds; HAProxy may cut it into other chunks than the server did."""
    data = b""
    while True:
        size, _end, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return data
        data += body[:length]
        body = body[length + 2 :]


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection on which nothing is asked."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Tally:
    """What one client has seen; each has its own, so nothing is locked."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.details: list[str] = []
        self.worst = 0.0
        self.uploads: list[tuple[float, float]] = []


class Clients:
    """All of them, one thread each, on `port` of loopback."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.tallies: list[Tally] = []
        self.threads: list[threading.Thread] = []

    def start(self, port: int, cookies: bool, numbers: dict[str, int], keep_alive: float, long_seconds: float, upload_seconds: float) -> dict[str, Any]:
        self.port = port
        self.cookies = cookies
        self.keep_alive = keep_alive
        self.long_seconds = long_seconds
        self.upload_seconds = upload_seconds
        for work in (self.fresh, self.kept, self.idle, self.long, self.upload, self.stream):
            for _each in range(numbers[work.__name__]):
                tally = Tally(work.__name__)
                self.tallies.append(tally)
                self.threads.append(threading.Thread(target=work, args=(tally, len(self.threads) + 1), daemon=True))
        for thread in self.threads:
            thread.start()
        return {}

    def count(self) -> dict[str, Any]:
        return {"requests": sum(tally.requests for tally in self.tallies), "failures": sum(tally.failures.total() for tally in self.tallies)}

    def stop(self) -> dict[str, Any]:
        """Let everybody finish what he does; what came of it all."""
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        failures: Counter[str] = Counter()
        for tally in self.tallies:
            failures += tally.failures
        failures["time-out"] += sum(thread.is_alive() for thread in self.threads)
        return {
            "requests": sum(tally.requests for tally in self.tallies),
            "failures": failures,
            "details": sorted(detail for tally in self.tallies for detail in tally.details),
            "worst": max(tally.worst for tally in self.tallies),
            "uploads": [span for tally in self.tallies for span in tally.uploads],
        }

    # What all have in common.

    def connect(self, number: int) -> socket.socket:
        connection = socket.socket()
        try:
            connection.settimeout(TIMEOUT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A source address of its own for each, or the ports of one address would run out (60 seconds of TIME_WAIT).
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.99.{number}", 0))
            connection.connect(("127.0.0.1", self.port))
        except OSError as error:
            connection.close()
            raise Failed("connect", type(error).__name__) from error
        return connection

    @contextlib.contextmanager
    def counted(self, tally: Tally, requests: int = 1) -> Iterator[None]:
        """One request: counted, and when it fails that is counted, too."""
        tally.requests += requests
        try:
            yield
        except Failed as failed:
            tally.failures[failed.kind] += 1
            if len(tally.details) < 5:
                tally.details.append(f"{time.monotonic():.3f} {tally.what}: {failed.kind} {failed.detail}")
            # A port that refuses would be asked thousands of times a second.
            time.sleep(0.02)

    def message(self, path: str, cookie: bytes, close: bool = False, length: int = -1) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (b"PUT" if length >= 0 else b"GET", path.encode()), b"Host: churn"]
        if length >= 0:
            lines.append(b"Content-Length: %d" % length)
        if cookie:
            lines.append(b"Cookie: " + cookie)
        if close:
            lines.append(b"Connection: close")
        return b"\r\n".join([*lines, b"", b""])

    def next_cookie(self, answer: Answer, cookie: bytes, chance: random.Random) -> bytes:
        if not self.cookies or chance.randrange(NEW_VISITOR) == 0:
            return b""
        return answer.cookie or cookie

    # Those who ask.

    def fresh(self, tally: Tally, number: int) -> None:
        """A new connection for each short request. They come in bursts, so that some always wait to be accepted."""
        chance = random.Random(number)
        cookie = b""
        while not self.over.is_set():
            started = time.monotonic()
            asked: list[socket.socket] = []
            for _each in range(BURST):
                with self.counted(tally):
                    connection = self.connect(number)
                    send(connection, self.message("/short", cookie, close=True))
                    asked.append(connection)
            for connection in asked:
                with self.counted(tally, requests=0), contextlib.closing(connection):
                    answer = read_answer(connection)
                    if len(answer.body) != SHORT:
                        raise Failed("short body", f"{len(answer.body)} bytes")
                    cookie = self.next_cookie(answer, cookie, chance)
                    tally.worst = max(tally.worst, time.monotonic() - started)
            time.sleep(0.002)

    def kept(self, tally: Tally, number: int) -> None:
        """Short requests on a connection that is kept, one after the other."""
        self.converse(tally, number, lambda: "/short", SHORT, lambda: 0.001, lambda: False)

    def idle(self, tally: Tally, number: int) -> None:
        """The same with pauses, which the connection outlives or not."""
        chance = random.Random(number)
        self.converse(tally, number, lambda: "/short", SHORT, lambda: self.keep_alive * chance.choice((0.2, 0.5, 0.7, 1.5)), lambda: False)

    def long(self, tally: Tally, number: int) -> None:
        """Requests whose answer takes its time, on new connections and on kept ones."""
        chance = random.Random(number)
        longest = int(self.long_seconds * 1000)
        self.converse(tally, number, lambda: f"/long/{chance.randint(1, longest)}", LONG, lambda: 0.0, lambda: chance.random() < 0.5)

    def converse(self, tally: Tally, number: int, path: Callable[[], str], size: int, pause: Callable[[], float], leaves: Callable[[], bool]) -> None:
        """Requests on a kept connection, until the other side closes it or `leaves` says so."""
        chance = random.Random(number)
        cookie = b""
        connection: socket.socket | None = None
        while not self.over.is_set():
            if connection is not None and is_closed(connection):
                connection.close()
                connection = None
            answer = None
            started = time.monotonic()
            with self.counted(tally):
                connection = connection or self.connect(number)
                send(connection, self.message(path(), cookie))
                answer = read_answer(connection)
                if len(answer.body) != size:
                    raise Failed("short body", f"{len(answer.body)} bytes")
                cookie = self.next_cookie(answer, cookie, chance)
                if size == SHORT:
                    tally.worst = max(tally.worst, time.monotonic() - started)
            if connection is not None and (answer is None or answer.closes or leaves()):
                connection.close()
                connection = None
            self.over.wait(pause())
        if connection is not None:
            connection.close()

    def upload(self, tally: Tally, number: int) -> None:
        """Uploads in pieces, so long that a reload comes in between."""
        pieces = int(self.upload_seconds / UPLOAD_PAUSE)
        while not self.over.is_set():
            started = time.monotonic()
            with self.counted(tally), contextlib.closing(self.connect(number)) as connection:
                length = pieces * len(UPLOAD_PIECE)
                send(connection, self.message("/stable/upload", b"", close=True, length=length))
                for _piece in range(pieces):
                    time.sleep(UPLOAD_PAUSE)
                    send(connection, UPLOAD_PIECE)
                if read_answer(connection).body != b"%d\n" % length:
                    raise Failed("short body", "of an upload")
                tally.uploads.append((started, time.monotonic()))

    def stream(self, tally: Tally, number: int) -> None:
        """One download that lasts as long as the whole run; what it holds is known."""
        while not self.over.is_set():
            with self.counted(tally), contextlib.closing(self.connect(number)) as connection:
                send(connection, self.message("/stable/stream", b"", close=True))
                _head, body = read_head(connection)
                body = read_rest(connection, body, lambda text: text.endswith(b"\r\n0\r\n\r\n"))
                lines = unchunk(body).split()
                if lines != [b"%d" % line for line in range(1, len(lines) + 1)]:
                    raise Failed("short body", "of the stream")
                # It has come to its end, and so has the run: a second one would be empty.
                return


def main() -> None:
    clients = Clients()
    for line in sys.stdin:
        words = json.loads(line)
        print(json.dumps(getattr(clients, words.pop("do"))(**words)), flush=True)


if __name__ == "__main__":
    main()
