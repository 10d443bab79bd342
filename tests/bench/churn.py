#!/usr/bin/env python3
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Do clients notice when the group changes, and does it take a reload? `make churn` answers with a table, and with exit status 1 when a client
does, or when a change of the group alone made a reload that HAProxy could have been spared.

A real HAProxy serves clients that never try anything twice, while its servers come and go. Each change goes the product's own way:
the role's template, then what haproxy_apply does. Servers that go answer until haproxy_apply has drained them, and are then reset;
of those that come, one in four is dead. So that nothing is hidden, HAProxy itself tries nothing twice either (`retries 0`). The reloads
are those that HAProxy itself has counted.

Control runs leave one part out each, and have to show failures: a bench that cannot see them proves nothing. For the count of the reloads
the control is `apply_strategy: reload`, which has to make one for each change.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "module_utils"), str(ROOT / "tests" / "support"), str(BENCH)]

from balancer import Balancer, free_port  # noqa: E402
from churn_clients import BURST, KINDS  # noqa: E402
from haproxy_autoscale import haproxy_change, haproxy_runtime, haproxy_transition  # noqa: E402
from haproxy_autoscale.haproxy_inspect import Definition, Running  # noqa: E402
from haproxy_autoscale.haproxy_plan import Step  # noqa: E402
from haproxy_autoscale.haproxy_reload import Plan  # noqa: E402
from haproxy_autoscale.haproxy_runtime import Outcome  # noqa: E402
from haproxy_autoscale.haproxy_transition import Transition  # noqa: E402
from haproxy_binaries import binaries  # noqa: E402
from rendering import render  # noqa: E402

# Headings of the table, beside the kinds of failures.
AT_A_LEAVER, AT_A_DEAD_NEWCOMER = "at a leaver", "at a dead newcomer"


class Mode(NamedTuple):
    """What one run is like.

    `strategy` is haproxy_apply's apply_strategy.

    `shows` are, for a control, the headings of the table of which one at least must not be 0: the harm that the missing part
    keeps away. Any other harm proves nothing about it.

    `reloads` are made for a change, those after the first for nothing, and `fresh` clients open new connections (0: as many as
    the shape says): a plain -sf loses what waits to be accepted at that very moment, so it takes many of both to see it each time.
    """

    name: str
    strategy: str = "auto"
    cookies: bool = False
    draining: bool = True
    gating: bool = True
    takeover: bool = True
    shows: tuple[str, ...] = ()
    reloads: int = 1
    fresh: int = 0

    @property
    def control(self) -> bool:
        return bool(self.shows)


REAL = [
    Mode("auto"),
    Mode("auto, with cookies", cookies=True),
    Mode("auto, without a master", takeover=False),
    Mode("reload", "reload"),
    Mode("reload, with cookies", "reload", cookies=True),
]
CONTROLS = [
    Mode("control: no gating, auto", gating=False, shows=(AT_A_DEAD_NEWCOMER, "error answer")),
    Mode("control: no gating, reload", "reload", gating=False, shows=(AT_A_DEAD_NEWCOMER, "error answer")),
    Mode("control: no draining, reload", "reload", draining=False, shows=(AT_A_LEAVER,)),
    Mode("control: plain `-sf`, reload", "reload", takeover=False, shows=("connect", "reset"), reloads=3, fresh=20),
]


@dataclasses.dataclass(frozen=True)
class Shape:
    """How long and how hard: seconds, except where it says otherwise."""

    changes: int = 8
    requests: int = 50_000
    clients: dict[str, int] = dataclasses.field(default_factory=lambda: {"fresh": 3, "kept": 8, "idle": 12, "long": 12, "upload": 2, "stream": 1})
    long_seconds: float = 2.0
    upload_seconds: float = 6.0
    drain_timeout: float = 6.0
    check_timeout: float = 3.0
    keep_alive: float = 2.0
    grace: float = 1.0


# For `make test`.
SMALL = Shape(changes=4, requests=0, long_seconds=0.8, upload_seconds=3.0, drain_timeout=4.0, keep_alive=1.0, grace=0.5)


# Enough to see them fail.
CONTROL_CHANGES = 6


@dataclasses.dataclass
class Result:
    """What a run has seen."""

    version: str
    mode: Mode
    requests: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    details: list[str] = dataclasses.field(default_factory=list)
    changes: int = 0
    at_runtime: int = 0
    reloads: int = 0
    old_workers: int = 0
    worst: float = 0.0
    late: int = 0
    dead: int = 0
    uploads_over_a_change: int = 0
    seconds: float = 0.0
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def harms(self) -> dict[str, int]:
        """What a client can notice, by the headings of the table."""
        return {**self.failures, AT_A_LEAVER: self.late, AT_A_DEAD_NEWCOMER: self.dead}

    @property
    def harm(self) -> int:
        return sum(self.harms.values())


class Member(NamedTuple):
    """One instance: `kind` is "well", or how it is dead: "sick" (answers, but its check fails) or "refusing"."""

    name: str
    address: str
    kind: str


class Group:
    """The security group: who is in it, and who comes and goes next. The same for each run."""

    def __init__(self) -> None:
        self.number = 0
        self.newcomers = 0
        self.members = [self.make("well") for _member in range(5)]

    def make(self, kind: str) -> Member:
        self.number += 1
        return Member(f"i-{self.number:017x}", f"127.0.{90 + self.number // 200}.{self.number % 200 + 1}", kind)

    def come(self, count: int) -> list[Member]:
        """Newcomers; one in four is dead, and of those every other one refuses."""
        kinds = ["refusing", "well", "well", "well", "sick", "well", "well", "well"]
        self.newcomers += count
        return [self.make(kinds[number % len(kinds)]) for number in range(self.newcomers - count, self.newcomers)]

    def steps(self, changes: int) -> Iterator[tuple[list[Member], list[Member]]]:
        """Who comes and who goes, change by change; the oldest go first. In the middle all are replaced at once."""
        sizes = itertools.cycle([(1, 1), (2, 0), (0, 2), (2, 1)])
        for step in range(changes):
            comes, goes = (6, len(self.members)) if step == changes // 2 else next(sizes)
            coming, going = self.come(comes), self.members[:goes]
            self.members = self.members[goes:] + coming
            yield coming, going


class Helper:
    """A process of ours that is told by lines of JSON what to do, and answers each."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen([sys.executable, str(BENCH / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **words: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"do": do, **words}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} has ended")
        return json.loads(line)

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


class Churn:
    """One run: a HAProxy in a folder, the servers, and the changes."""

    def __init__(self, folder: Path, binary: str, mode: Mode, shape: Shape) -> None:
        self.balancer = Balancer(folder, binary)
        self.mode = mode
        self.shape = shape
        self.group = Group()
        self.stable = self.group.make("well")
        self.web_port = free_port()
        self.variables = self.own_variables()
        self.workers: set[int] = set()

    def own_variables(self) -> dict[str, Any]:
        cookies = ["cookie SRV insert indirect nocache"] if self.mode.cookies else []
        more = {"port": self.web_port, "check_path": "/health", "server_options": "inter 250ms fastinter 250ms rise 2 fall 3"}
        return {
            **self.balancer.variables(self.web_port),
            "haproxy_autoscale_services": [
                {
                    "name": "web",
                    "security_groups": ["web"],
                    "bind": f"127.0.0.1:{self.balancer.port}",
                    # What lasts as long as the run has to be with a server that does.
                    "frontend_lines": ["use_backend stable if { path_beg /stable/ }"],
                    "backend_lines": cookies,
                    **more,
                },
                {"name": "stable", "security_groups": ["stable"], "bind": f"127.0.0.1:{free_port()}", **more},
            ],
            "haproxy_autoscale_timeout_connect": "2s",
            "haproxy_autoscale_timeout_http_keep_alive": f"{int(self.shape.keep_alive * 1000)}ms",
            # On a machine at its limits an answer to a check may take longer than the time between two, and that would take servers out.
            "haproxy_autoscale_defaults_lines": ["retries 0", "no option redispatch", "timeout check 5s"],
            "ansible_managed": "The churn",
        }

    def text(self) -> str:
        """The role's own template; in a control run, without what is off."""
        instances = {
            "web": [{"instance_id": one.name, "address": one.address, "launch_time": one.name} for one in self.group.members],
            "stable": [{"instance_id": self.stable.name, "address": self.stable.address, "launch_time": ""}],
        }
        text = render(ROOT / "templates" / "haproxy.cfg.j2", instances, **self.variables)
        if self.mode.cookies:
            text = re.sub(r"(?m)^    server (\S+) .*$", r"\g<0> cookie \1", text)
        if not self.mode.gating:
            text = re.sub(r"(?m)^    (load-)?server-state-.*\n", "", text)
        if not self.mode.takeover:
            text = text.replace(" expose-fd listeners", "")
        return text

    def apply(self, after_drain: Callable[[], object] = lambda: None, comment: str = "") -> dict[str, Any]:
        """What the role's handler does. `after_drain` is called once the servers that go have been drained (or not, in a control)."""
        balancer = self.balancer
        balancer.config.write_text(self.text() + comment)
        definition = Definition("haproxy", str(balancer.config), balancer.binary, str(balancer.pid_file), "", str(balancer.state))
        # Without a master and its socket haproxy_apply starts, and reloads with -sf; and with -x only a process that exposes its listeners.
        plan = Plan("auto", balancer.binary, str(balancer.master_socket) if self.mode.takeover else "", "", (), 30)
        wish = haproxy_change.Wish("", True, "", self.shape.drain_timeout, self.shape.check_timeout, self.mode.strategy)
        real_drain, real_carry_out = haproxy_transition.drain, haproxy_runtime.carry_out

        def drain(running: Running, transition: Transition, timeout: float) -> int:
            busy = real_drain(running, transition, timeout) if self.mode.draining else 0
            after_drain()
            return busy

        def carry_out(running: Running, steps: Sequence[Step], *limits: Any) -> Outcome:
            if not self.mode.gating:
                steps = [step._replace(commands=step.commands[-1:]) if step.action == "enable" else step for step in steps]
            # They are the last steps, after the waiting for running requests.
            deletions = [step for step in steps if step.action == "delete"]
            outcome = real_carry_out(running, steps[: len(steps) - len(deletions)], *limits)
            if outcome.waiting:
                return outcome
            after_drain()
            return outcome._replace(left=real_carry_out(running, deletions, *limits).left)

        haproxy_transition.drain, haproxy_runtime.carry_out = drain, carry_out
        try:
            return dict(haproxy_change.apply(definition, plan, wish, False, run_command))
        finally:
            haproxy_transition.drain, haproxy_runtime.carry_out = real_drain, real_carry_out

    def reloads(self) -> int:
        """How many reloads HAProxy knows of: what its master counts, and without one how many processes came after the first."""
        if self.mode.takeover:
            return self.balancer.reloads()
        self.workers.add(self.balancer.worker())
        return len(self.workers) - 1

    def processes(self) -> int:
        """How many HAProxy processes there are that run our file."""
        found = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    found += os.fsencode(self.balancer.config) in (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
        return found

    def run(self) -> Result:
        try:
            with Helper("churn_servers.py") as servers, Helper("churn_clients.py") as clients:
                return self.drive(servers, clients)
        finally:
            self.balancer.stop()

    def drive(self, servers: Helper, clients: Helper) -> Result:
        shape, result = self.shape, Result(self.balancer.binary_version, self.mode)
        self.start_servers(servers, [self.stable, *self.group.members])
        self.balancer.state.mkdir()
        assert self.apply()["applied_by"] == "start"
        self.balancer.until_it_serves()
        started = time.monotonic()
        numbers = {**shape.clients, "fresh": self.mode.fresh or shape.clients["fresh"]}
        seconds = {name: getattr(shape, name) for name in ("keep_alive", "long_seconds", "upload_seconds")}
        clients.ask("start", port=self.balancer.port, cookies=self.mode.cookies, numbers=numbers, **seconds)
        changes: list[float] = []
        reloads_before = self.reloads()
        for step, (coming, going) in enumerate(self.group.steps(shape.changes)):
            # An old worker's kept connections have an end (`timeout http-keep-alive`) before the next servers go.
            time.sleep(shape.keep_alive if step else 0.5)
            while clients.ask("count")["requests"] < shape.requests * step / shape.changes:
                time.sleep(0.1)
            self.start_servers(servers, coming)
            names = [member.name for member in going if member.kind != "refusing"]
            for again in range(self.mode.reloads):
                done = self.apply(functools.partial(servers.ask, "leave", names=names), f"# {again}\n")
                if done["applied_by"] not in ("runtime", "reload"):
                    raise RuntimeError(f"change {step + 1} was not brought in: {done}")
                changes.append(time.monotonic())
                result.at_runtime += done["applied_by"] == "runtime"
                result.reloads = self.reloads() - reloads_before
                result.warnings += [f"change {step + 1}: {warning}" for warning in done["warnings"]]
            servers.ask("leave", names=names)
            result.old_workers = max(result.old_workers, self.processes() - (2 if self.mode.takeover else 1))
            # Long enough to see who still comes; undrained, they are not waited for either.
            time.sleep(shape.grace if self.mode.draining else 0)
            servers.ask("stop", names=names)
            say(f"{result.version}, {self.mode.name}: change {step + 1}, +{len(coming)} -{len(going)} by {done['applied_by']}, {clients.ask('count')}")
        time.sleep(shape.keep_alive)
        while clients.ask("count")["requests"] < shape.requests:
            time.sleep(0.1)
        servers.ask("finish")
        seen = clients.ask("stop")
        result.seconds = time.monotonic() - started
        result.requests, result.details, result.worst = seen["requests"], seen["details"], seen["worst"]
        result.failures = {kind: seen["failures"].get(kind, 0) for kind in KINDS}
        result.changes = len(changes)
        result.uploads_over_a_change = sum(any(begin < change < end for change in changes) for begin, end in seen["uploads"])
        for requests, late, _cut, sick in servers.ask("count").values():
            result.late += late
            result.dead += requests if sick else 0
        return result

    def start_servers(self, servers: Helper, members: Sequence[Member]) -> None:
        for member in members:
            if member.kind != "refusing":
                servers.ask("start", name=member.name, address=member.address, port=self.web_port, sick=member.kind == "sick")


def run_command(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
    done = subprocess.run(list(words), env={**os.environ, **environment}, input=data, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def churn(folder: Path, binary: str, mode: Mode, shape: Shape) -> Result:
    """One run. Its folder is new."""
    return Churn(folder, binary, mode, shape).run()


HEADINGS = ["HAProxy", "run", "requests", *KINDS, "at runtime", "reloads", "old workers", "worst latency", AT_A_LEAVER, AT_A_DEAD_NEWCOMER]


def table(results: Sequence[Result]) -> str:
    return "\n".join([line(HEADINGS), line(["---"] * 2 + ["--:"] * (len(HEADINGS) - 2)), *map(row, results)])


def row(one: Result) -> str:
    numbers = [one.requests, *one.failures.values(), one.at_runtime, one.reloads, one.old_workers]
    return line([one.version, one.mode.name, *(f"{number:,}" for number in numbers), f"{one.worst * 1000:.0f} ms", f"{one.late:,}", f"{one.dead:,}"])


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def footnote(shape: Shape) -> str:
    """What was measured, for the line under the table."""
    clients = shape.clients
    return (
        f"Measured on {os.cpu_count()} cores, which HAProxy, the servers and the clients share. At once: {clients['fresh']} clients that open {BURST}"
        f" connections at a time for one request each ({CONTROLS[-1].fresh} in the last control), {clients['kept']} busy and {clients['idle']} pausing ones"
        f" on kept connections, {clients['long']} with answers of up to {shape.long_seconds:.0f} s, {clients['upload']} with uploads of"
        f" {shape.upload_seconds:.0f} s, and one download that lasts as long as the run. {shape.changes} changes in a run ({CONTROL_CHANGES} in a control),"
        f" one of which replaces all servers; the last control makes {CONTROLS[-1].reloads} reloads a change. No client and"
        " no HAProxy tries anything twice. The worst latency is that of a short request. Old workers: the"
        " most that there were at once."
    )


def missed(result: Result, shape: Shape) -> list[str]:
    """Why a run is not what it has to be."""
    if result.mode.control:
        seen = any(result.harms[heading] for heading in result.mode.shows)
        found = [] if seen else [f"shows 0 under {' and '.join(result.mode.shows)}, so the bench cannot see what it is for"]
        return found + misdone(result)
    found = [f"{result.harm} failures"] if result.harm else []
    if result.requests < shape.requests:
        found.append(f"{result.requests} of {shape.requests} requests")
    if not result.uploads_over_a_change or (result.reloads and not result.old_workers):
        found.append("no upload or no connection lasted over a change")
    return found + misdone(result)


def misdone(result: Result) -> list[str]:
    """Where the changes were not brought in as they should. A reload that haproxy_apply does not say, or says and HAProxy has not counted,
    shows in the sum."""
    found = []
    if result.at_runtime + result.reloads != result.changes:
        found.append(f"{result.at_runtime} changes at runtime and {result.reloads} reloads are not the {result.changes} changes that were made")
    if result.mode.strategy == "reload" and result.at_runtime:
        found.append(f"{result.at_runtime} changes at runtime, where each has to be a reload")
    # 2.6 takes no server with a cookie at runtime.
    if result.mode.strategy == "auto" and result.reloads and not (result.mode.cookies and result.version.startswith("2.")):
        found.append(f"{result.reloads} reloads, where there has to be none")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=250_000, help="for each HAProxy version (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=8, help="in each run (default: %(default)s)")
    parser.add_argument("--versions", nargs="+", default=list(binaries()), metavar="X.Y", help="HAProxy versions (default: all at hand)")
    arguments = parser.parse_args()
    shape = Shape(changes=arguments.changes, requests=arguments.requests // len(REAL))
    results, complaints = [], []
    for version in arguments.versions:
        for mode in REAL + CONTROLS:
            its_shape = dataclasses.replace(shape, changes=CONTROL_CHANGES, requests=0) if mode.control else shape
            with tempfile.TemporaryDirectory(prefix="churn-") as folder:
                result = churn(Path(folder), binaries()[version], mode, its_shape)
            results.append(result)
            complaints += [f"{result.version}, {mode.name}: {text}" for text in missed(result, its_shape)]
            say(f"{row(result)} {result.seconds:.0f} s")
            if not mode.control:
                for text in result.warnings + result.details:
                    say(text)
    print(f"{table(results)}\n\n{footnote(shape)}")
    for text in complaints:
        say(text)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
