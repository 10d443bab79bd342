#!/usr/bin/env python3
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The story that `make demo` tells: the role brings a real HAProxy through four runs, against an EC2 on loopback.

Each step prints what Ansible says and then checks what was promised by itself: by requests, by the file's bytes, and by HAProxy's own
counters. A promise that does not hold ends the demo with exit status 1.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path.insert(0, str(SUPPORT))

from balancer import ask  # noqa: E402
from moto_aws import MotoAws  # noqa: E402

GROUP = "webheads"
# Of the network that the emulated EC2 has. Where an instance "runs", a small HTTP server answers.
ADDRESSES = [f"127.0.80.{number}" for number in range(11, 16)]
WIDTH = 100
COLOURS = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2"}


class BrokenPromiseError(Exception):
    """Something did not turn out as the demo said."""


class StoppedError(BaseException):
    """The user, or whoever started us, wants an end. Like KeyboardInterrupt no Exception, so that nothing swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


# What is printed.


def paint(colour: str, text: str) -> str:
    return f"\033[{COLOURS[colour]}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def say(text: str = "") -> None:
    for paragraph in text.split("\n"):
        print(textwrap.fill(paragraph, WIDTH), flush=True)


def heading(text: str) -> None:
    print("\n" + paint("bold", f"== {text} ".ljust(WIDTH, "=")) + "\n", flush=True)


def quote(text: str) -> None:
    """Someone else's words: of Ansible, or out of a file."""
    for line in text.splitlines():
        colour = next((colour for start, colour in LINE_COLOURS if line.lstrip().startswith(start)), None)
        for part in textwrap.wrap(line, WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False, drop_whitespace=False) or [""]:
            print(paint("dim", "  | ") + (paint(colour, part.rstrip()) if colour else part.rstrip()), flush=True)


LINE_COLOURS = [("+", "green"), ("-", "red"), ("@@", "blue"), ("changed:", "yellow"), ("fatal:", "red"), ("ok:", "green"), ("$", "bold")]


def promise(text: str, holds: bool, found: str = "") -> None:
    """Print whether a promise holds; the demo ends with the first that does not."""
    mark = paint("green", "  ok      ") if holds else paint("red", "  BROKEN  ")
    lines = textwrap.wrap(text, WIDTH - 10)
    print(mark + f"\n{' ' * 10}".join(lines), flush=True)
    if not holds:
        raise BrokenPromiseError(f"{text}: {found}" if found else text)


# What runs.


class Run(NamedTuple):
    """One run of the playbook."""

    status: int
    output: str
    errors: str

    @property
    def recap(self) -> dict[str, int]:
        line = re.search(r"^localhost\s*: (.*)$", self.output, re.MULTILINE)
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line.group(1))} if line else {}

    @property
    def news(self) -> str:
        """The tasks that changed something, failed or report, and the recap: what a person looks at. Word for word, less the ornaments."""
        blocks = re.split(r"\n+(?=(?:PLAY|TASK|RUNNING HANDLER) )", self.output.strip())
        text = "\n\n".join(block for block in blocks if re.search(r"^(changed|fatal): |^TASK .*Report[^~]*^ok: |^PLAY RECAP", block, re.MULTILINE))
        # A failure is told twice, first with its place in the role.
        text = re.sub(r"^\[ERROR\]: .*?(?=^fatal: )", "", text, flags=re.MULTILINE | re.DOTALL)
        return re.sub(r" \*{3,}$", "", re.sub(r"(\S) {2,}(?=:|\w+=)", r"\1 ", text), flags=re.MULTILINE)


class Processes(NamedTuple):
    """HAProxy's own word, by `show proc` on the master's socket."""

    reloads: int
    worker: int


class Client:
    """Someone who uses the service all the time: two kept-alive connections, and a new connection for every request of a third."""

    def __init__(self, port: int) -> None:
        self.answers: Counter[str] = Counter()
        self.kept_alive = 0
        self.errors: list[str] = []
        self._port = port
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(keep,), daemon=True) for keep in (True, True, False)]
        for thread in self._threads:
            thread.start()

    def _send(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        # Twenty requests a second, for a minute at most.
        for _number in range(1200):
            reused = connection.sock is not None
            try:
                instance = get(connection)
            except (OSError, http.client.HTTPException) as error:
                # Never tried again: whatever a client would see is counted.
                with self._lock:
                    self.errors.append(f"{type(error).__name__}: {error}")
                connection.close()
            else:
                with self._lock:
                    self.answers[instance] += 1
                    self.kept_alive += reused
            if not keep:
                connection.close()
            if self._end.wait(0.05):
                break
        connection.close()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def get(connection: http.client.HTTPConnection) -> str:
    """One request, and the address of the instance that answered."""
    connection.request("GET", "/")
    answer = connection.getresponse()
    body = answer.read().decode().strip()
    if answer.status != 200:
        raise http.client.HTTPException(f"status {answer.status}")
    return body


def free_port(*hosts: str) -> int:
    """A port that is free on all of these addresses, below those that the system gives to clients."""
    for port in random.sample(range(20000, 32000), 200):
        with suppress(OSError):
            for host in hosts:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port))
            return port
    raise RuntimeError("no free port was found on loopback")


class Demo:
    """Everything that the demo starts, in one folder."""

    def __init__(self, haproxy: str) -> None:
        self.haproxy = haproxy
        self.aws: MotoAws
        self.port = free_port("127.0.0.1")
        self.stats_port = free_port("127.0.0.1")
        self.instance_port = free_port(*ADDRESSES)
        self.instances: dict[str, str] = {}
        """Address to instance id."""
        self.servers: dict[str, subprocess.Popen[str]] = {}
        """Address to the process that answers HTTP there."""
        # A short name: the path of a UNIX socket must not have more than about 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="haproxy-demo-"))
        self.config = self.folder / "haproxy.cfg"

    # What is set up.

    def start(self) -> None:
        self.aws = MotoAws()
        self.aws.create_group(GROUP)
        settings = {
            "demo_folder": str(self.folder),
            "demo_endpoint_url": self.aws.url,
            "demo_security_group": GROUP,
            "demo_port": self.port,
            "demo_stats_port": self.stats_port,
            "demo_instance_port": self.instance_port,
            "haproxy_autoscale_binary": self.haproxy,
        }
        (self.folder / "demo.json").write_text(json.dumps(settings, indent=2) + "\n")

    def launch(self, address: str) -> None:
        """An instance, and the web server on it."""
        server = subprocess.Popen(
            [sys.executable, str(SUPPORT / "backends.py"), "--port", str(self.instance_port), address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.servers[address] = server
        assert server.stdout is not None
        # Its first line comes when it listens.
        if not server.stdout.readline():
            raise RuntimeError(f"no web server could be started on {address}:{self.instance_port}")
        self.instances[address] = self.aws.launch(GROUP, address, name=f"web-{address.rpartition('.')[2]}")
        say(f"  {self.instances[address]}  {address}  launched")

    def stop_server(self, address: str) -> None:
        self.servers[address].terminate()
        self.servers.pop(address).wait()

    @property
    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("ansible-playbook")
        return [str(program), "-i", "localhost,", "-e", f"@{self.folder / 'demo.json'}", "--diff", str(ROOT / "playbooks" / "demo.yml")]

    def play(self) -> Run:
        """Run the playbook, and print what it has to say."""
        quote(f"$ ansible-playbook -i localhost, -e @{self.folder / 'demo.json'} --diff playbooks/demo.yml\n")
        environment = {
            **os.environ,
            # This project's, so that a user's own changes nothing.
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "ansible" / "tmp"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
            "ANSIBLE_NOCOLOR": "true",
            "LC_ALL": "C.UTF-8",
        }
        process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        output, errors = process.communicate()
        run = Run(process.returncode, output, errors)
        quote(run.news)
        say()
        return run

    # What is looked at.

    def processes(self) -> Processes:
        answer = ask(self.folder / "master.sock", "show proc")
        master = re.search(r"^\d+\s+master\s+(\d+)", answer, re.MULTILINE)
        worker = re.search(r"^(\d+)\s+worker", answer, re.MULTILINE)
        if not master or not worker:
            raise BrokenPromiseError(f"HAProxy's master answered to 'show proc' with {answer!r}")
        return Processes(int(master.group(1)), int(worker.group(1)))

    def reached(self, requests: int = 40) -> Counter[str]:
        """Who answers to a row of requests, each on a new connection."""
        found: Counter[str] = Counter()
        for _number in range(requests):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                found[get(connection)] += 1
            except (OSError, http.client.HTTPException) as error:
                found[f"{type(error).__name__}: {error}"] += 1
            finally:
                connection.close()
        return found

    def wait_for(self, addresses: list[str]) -> None:
        """Wait until requests reach these and no others, at most for as long as a few checks take."""
        for _attempt in range(60):
            if set(self.reached(20)) == set(addresses):
                return
            time.sleep(0.2)

    def promise_reached(self, text: str, addresses: list[str]) -> None:
        found = self.reached()
        counted = ", ".join(f"{found[one]} by {one}" for one in sorted(found))
        promise(f"{text}: of {found.total()} requests, {counted}", set(found) == set(addresses), f"expected {', '.join(addresses)}")

    # What is cleaned up.

    def left(self) -> list[int]:
        """The processes that come from us: whatever we started, and whatever that started."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                # A zombie runs no more; its parent has only not looked yet.
                if state != "Z":
                    parents[pid] = int(parent)
        ours = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        # A HAProxy that someone started again by hand, while everything was left running, is none of those.
        with suppress(OSError, ValueError):
            pid = int((self.folder / "haproxy.pid").read_text())
            if pid in parents and str(self.config).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                ours.add(pid)
        return sorted(ours - {os.getpid()})

    def stop(self) -> None:
        """End every process that comes from us, by its id, and remove the folder."""
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            told: set[int] = set()
            end = time.monotonic() + patience
            while (left := self.left()) and time.monotonic() < end:
                for pid in left:
                    if pid not in told:
                        told.add(pid)
                        with suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, number)
                reap()
                time.sleep(0.02)
        reap()
        shutil.rmtree(self.folder, ignore_errors=True)


def reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def adopt_orphans() -> None:
    """HAProxy leaves its parent to become a daemon. As a "child subreaper" we become its parent in place of init, and can end and reap it."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


# The story.


def first_run(demo: Demo) -> None:
    heading("1. First run: three instances, and no HAProxy yet")
    for address in ADDRESSES[:3]:
        demo.launch(address)
    say()
    run = demo.play()
    promise("the run succeeded", run.status == 0, run.output + run.errors)
    promise(f"{demo.config} was rendered, and HAProxy accepts it", demo.config.is_file() and accepts(demo))
    now = demo.processes()
    promise(f"HAProxy is up: worker {now.worker}, reload counter {now.reloads}", now.reloads == 0)
    demo.promise_reached("requests reach all three", ADDRESSES[:3])


def accepts(demo: Demo) -> bool:
    return subprocess.run([demo.haproxy, "-c", "-f", str(demo.config)], capture_output=True).returncode == 0


def second_run(demo: Demo) -> None:
    heading("2. Second run: nothing has changed")
    before, text = demo.processes(), demo.config.stat()
    run = demo.play()
    now = demo.processes()
    promise("the run succeeded with changed=0", run.status == 0 and run.recap.get("changed") == 0, run.output + run.errors)
    after = demo.config.stat()
    promise("the file was not touched", (text.st_ino, text.st_mtime_ns) == (after.st_ino, after.st_mtime_ns))
    promise(f"no reload: still worker {now.worker}, reload counter {now.reloads}", now == before, f"before {before}, now {now}")
    demo.promise_reached("requests reach all three", ADDRESSES[:3])


def third_run(demo: Demo) -> None:
    heading("3. Third run: two instances more, one less, and a client that never stops")
    before = demo.processes()
    for address in ADDRESSES[3:]:
        demo.launch(address)
    gone, serving = ADDRESSES[0], ADDRESSES[1:]
    demo.aws.terminate(demo.instances[gone])
    say(f"  {demo.instances[gone]}  {gone}  terminated")
    say("\nAs with connection draining, the terminated instance answers on until the run is over. A client sends 60 requests a second meanwhile.\n")
    client = Client(demo.port)
    try:
        run = demo.play()
        say("\nThe new servers get their first request once HAProxy's own checks have passed, a few seconds later.\n")
        demo.wait_for(serving)
        time.sleep(1)  # the client meets them, too
    finally:
        client.stop()
    now = demo.processes()
    promise("the run succeeded", run.status == 0, run.output + run.errors)
    promise(
        f"HAProxy follows without a reload: still worker {now.worker}, reload counter {now.reloads}",
        now == before,
        f"before {before}, now {now}",
    )
    sent = client.answers.total() + len(client.errors)
    promise(
        f"the client saw no error: {sent} requests, {client.kept_alive} of them on a connection that had served one before, {len(client.errors)} errors",
        sent > 0 and client.kept_alive > 0 and not client.errors,
        "; ".join(sorted(set(client.errors))),
    )
    promise(f"it was there before and after the change: answers by {', '.join(sorted(client.answers))}", set(client.answers) == set(ADDRESSES))
    demo.stop_server(gone)
    say(f"\nNow the terminated instance's web server is really stopped ({gone}).\n")
    demo.promise_reached("requests reach exactly the right four", serving)


def fourth_run(demo: Demo) -> None:
    heading("4. Fourth run: every instance is terminated")
    before, text = demo.processes(), demo.config.read_bytes()
    for address in ADDRESSES[1:]:
        demo.aws.terminate(demo.instances[address])
        say(f"  {demo.instances[address]}  {address}  terminated")
    say("\nPerhaps they are, and perhaps someone's filter is wrong, or the tag, or the answer. The web servers stay up here, to see what HAProxy does.\n")
    run = demo.play()
    now = demo.processes()
    promise("the run was refused", run.status != 0 and run.recap.get("failed") == 1 and run.recap.get("changed") == 0, run.output + run.errors)
    promise("with the reason: the group has 0 instances, and minimum_instances is 1", refusal(run))
    promise("the file has the same bytes as before", demo.config.read_bytes() == text)
    promise(f"no reload: still worker {now.worker}, reload counter {now.reloads}", now == before, f"before {before}, now {now}")
    demo.promise_reached("traffic is still served", ADDRESSES[1:])


def refusal(run: Run) -> bool:
    text = " ".join(run.output.split())
    return f"'{GROUP}' has 0" in text and "minimum_instances is 1" in text


def tell(demo: Demo, keep: bool) -> None:
    begin = time.monotonic()
    version = subprocess.run([demo.haproxy, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
    say(paint("bold", "haproxy-autoscale: HAProxy in step with the instances of an EC2 security group"))
    say("Everything runs on this machine, on loopback and as this user. No AWS, no root.\n")
    demo.start()
    say(f"  EC2      {demo.aws.url} (an emulation: moto), security group {GROUP}")
    say(f"  HAProxy  {version}, to run on http://127.0.0.1:{demo.port}/")
    say(f"  files    {demo.folder}/")
    for step in (first_run, second_run, third_run, fourth_run):
        step(demo)
    heading("Done")
    say(f"Every promise held. It took {time.monotonic() - begin:.0f} seconds.")
    if keep:
        say("It is left running, until Ctrl-C here stops it and cleans up:\n")
        say(f"  statistics page    http://127.0.0.1:{demo.stats_port}/")
        say(f"  the service        http://127.0.0.1:{demo.port}/")
        say(f"  configuration      {demo.config}")
        say("  one more run (refused, as long as no instance runs), in another terminal:")
        # Not wrapped: it is there to be copied.
        print(f"    {shlex.join(demo.command)}", flush=True)
        # The end that was announced is no failure.
        with suppress(StoppedError):
            signal.pause()


def interrupted(number: int, frame: FrameType | None) -> None:
    raise StoppedError(number)


def main() -> int:
    parser = argparse.ArgumentParser(description="Shows the role at work: a real HAProxy, and an emulated EC2 on loopback.")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    parser.add_argument("--haproxy", default="haproxy", metavar="PROGRAM", help="the HAProxy to use (default: %(default)s)")
    arguments = parser.parse_args()
    # Not every user's PATH has the sbin folders.
    haproxy = shutil.which(arguments.haproxy, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]))
    if haproxy is None:
        print(f"There is no HAProxy here ({arguments.haproxy}). On Debian and Ubuntu: sudo apt-get install --yes haproxy", file=sys.stderr)
        return 1
    # The user's own settings have no place here: no proxy, no AWS profile, no Ansible configuration.
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "ANSIBLE_")):
            del os.environ[name]
    adopt_orphans()
    # Under nohup the end of the terminal is to be ignored.
    signals = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    for number in signals:
        signal.signal(number, interrupted)
    demo = Demo(str(Path(haproxy).absolute()))
    # A module of Ansible that is ended in its midst leaves files where temporary files go.
    os.environ["TMPDIR"] = str(demo.folder)
    status = 0
    try:
        tell(demo, arguments.keep)
    except StoppedError as stop:
        status = stop.status
        with suppress(OSError):
            say(f"\n{stop}")
    except BrokenPromiseError as error:
        status = 1
        print(f"\nThis promise does not hold: {error}", file=sys.stderr)
    finally:
        # Whoever asks again gets the same: an orderly end.
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        demo.stop()
    with suppress(OSError):
        say("HAProxy, the EC2 emulation and the web servers are stopped, and their files removed.")
    return status


if __name__ == "__main__":
    sys.exit(main())
