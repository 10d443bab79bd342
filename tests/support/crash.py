# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of haproxy_apply that end themselves with SIGKILL at a chosen point.

A run's points lie around its effects: each command to HAProxy that is no question, each step of each write (temporary file made, brought to
the disk, renamed, folder brought to the disk), each file removed, each signal sent and each program run. The functions that have an effect are
wrapped from outside; the code under test knows nothing of it. One point lies right after each effect, and one before it where the run looked
at something since the last one: else both would be the same.

Run as a program, it reads one order a line (JSON, see `Driver.apply`), and answers with one. Each order is carried out by a forked child, which
costs no start of an interpreter and dies like any process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

COLLECTION = "ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale"


class Outcome(NamedTuple):
    """How a run ended: whether it was killed, the points that it came by, and what `apply` returned or why it failed."""

    killed: bool
    points: list[str]
    result: dict[str, Any]
    error: str

    @property
    def at(self) -> str:
        """Where it was killed."""
        return self.points[-1] if self.killed else ""


class Driver:
    """The program below, as a process of its own."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def apply(self, definition: Sequence[str], plan: Sequence[Any], wish: Sequence[Any], kill_at: int = 0, only: str = "") -> Outcome:
        """One run, with the fields of Definition, Plan and Wish; killed at its point number `kill_at` (from 1; 0: never) of
        those whose label the regular expression `only` finds."""
        assert self._process.stdin and self._process.stdout
        order = {"definition": definition, "plan": plan, "wish": wish, "kill_at": kill_at, "only": only}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate(timeout=30)


class _Points:
    """Counts the points of one run, writes their labels to a pipe, and ends the process at one of them."""

    def __init__(self, kill_at: int, only: str, pipe: int) -> None:
        self._left = kill_at
        self._only = only
        self._pipe = pipe
        self._looked = True
        self._kill = os.kill
        self._write = os.write

    def look(self) -> None:
        self._looked = True

    def point(self, label: str) -> None:
        if not re.search(self._only, label):
            return
        self._write(self._pipe, json.dumps(label).encode() + b"\n")
        self._left -= 1
        if self._left == 0:
            self._kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def around(self, label: str) -> Iterator[None]:
        if self._looked:
            self.point(f"before {label}")
        self._looked = False
        yield
        # What failed had no effect.
        self.point(f"after {label}")

    def wrap(self, module: Any, name: str, label: Callable[..., str]) -> None:
        original = getattr(module, name)

        def wrapped(*arguments: Any, **more: Any) -> Any:
            with self.around(label(*arguments)):
                return original(*arguments, **more)

        setattr(module, name, wrapped)


def _carry_out(order: dict[str, Any], pipe: int) -> dict[str, Any]:
    from importlib import import_module

    change, inspect, reload, socket, state = (import_module(f"{COLLECTION}.haproxy_{name}") for name in ("change", "inspect", "reload", "socket", "state"))
    points = _Points(order["kill_at"], order["only"], pipe)
    send = socket.send

    def asked(path: str, command: str, timeout: float) -> Any:
        if re.match(r"(@\S+ )?show ", command):
            points.look()
            return send(path, command, timeout)
        with points.around(f"send {re.sub(r'@!?[0-9]+ ', '', command)}"):
            return send(path, command, timeout)

    def run(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
        around = {**os.environ, **environment}
        if "-c" in words:
            points.look()
            done = subprocess.run(list(words), env=around, input=data, capture_output=True, timeout=60)
            return done.returncode, done.stdout.decode(), done.stderr.decode()
        # Not its pipes: a program that outlives this process must not die of them.
        with points.around("run finished"), os.fdopen(os.memfd_create("output"), "w+") as output:
            program = subprocess.Popen(list(words), env=around, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            points.point("run begun")
            code = program.wait(timeout=60)
            output.seek(0)
            return code, output.read(), ""

    socket.send = asked
    points.wrap(tempfile, "mkstemp", lambda *_arguments: "mkstemp")
    points.wrap(os, "fsync", lambda descriptor: f"fsync {os.readlink(f'/proc/self/fd/{descriptor}')}")
    points.wrap(os, "replace", lambda _source, target: f"replace {target}")
    points.wrap(os, "unlink", lambda path: f"unlink {path}")
    points.wrap(os, "mkdir", lambda path, *_mode: f"mkdir {path}")
    points.wrap(os, "kill", lambda pid, number: f"kill {number}")
    try:
        wish = change.Wish(*order["wish"])
        return {"result": change.apply(inspect.Definition(*order["definition"]), reload.Plan(*order["plan"]), wish, False, run), "error": ""}
    except (reload.ApplyError, state.StateError) as error:
        return {"result": {}, "error": str(error)}


def _serve(order: dict[str, Any]) -> dict[str, Any]:
    points_read, points_write = os.pipe()
    answer_read, answer_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(answer_write, json.dumps(_carry_out(order, points_write)).encode())
        finally:
            os._exit(1)
    os.close(points_write)
    os.close(answer_write)
    with open(points_read) as labels, open(answer_read) as answer:
        points = [json.loads(line) for line in labels]
        said = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return {"killed": True, "points": points, "result": {}, "error": ""}
    return {"killed": False, "points": points, **(json.loads(said) if said else {"result": {}, "error": "the driver's child ended without a word"})}


def main() -> None:
    __import__(f"{COLLECTION}.haproxy_change")
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
