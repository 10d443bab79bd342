# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Clients that notice everything: they ask in the background, never try anything again, and count what came back."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter

# What HAProxy's own clients see while its new worker tries to listen where it cannot: the old one stops listening meanwhile, and the kernel
# resets what waits in its queue. (Measured without anything of ours: 8 clients that never wait, a failing reload by SIGUSR2, 3.0 and 3.2.)
WHILE_IT_CANNOT_LISTEN = {"ConnectionRefusedError", "ConnectionResetError"}


class Clients:
    """Requests without a retry, on new and on kept connections, for as long as the block lasts; what came back, counted."""

    def __init__(self, port: int, pause: float = 0.005) -> None:
        self.port = port
        self.pause = pause
        self.answers: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kept,)) for kept in (False, False, True)]

    def _run(self, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self._over.is_set():
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read().decode().strip()
                self.answers[body if answer.status == 200 else f"status {answer.status}"] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[f"{type(error).__name__}"] += 1
                connection.close()
            if not kept:
                connection.close()
            time.sleep(self.pause)
        connection.close()

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *exception: object) -> None:
        time.sleep(0.3)
        self._over.set()
        for thread in self._threads:
            thread.join()

    def failures(self) -> dict[str, int]:
        """What was no answer of an instance: those say their loopback address."""
        return {answer: count for answer, count in self.answers.items() if not answer.startswith("127.0.")}
