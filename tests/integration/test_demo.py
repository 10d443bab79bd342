# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo keeps its promises, says so when one is broken, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import haproxy_binaries
import pytest

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """The TMPDIR of the demo. Not tmp_path, which is too long for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start the demo; it is ended with the test, if the test has not seen to that."""
    started = []

    def start_demo(*arguments: str, root: Path = ROOT) -> subprocess.Popen[str]:
        binaries = list(haproxy_binaries.binaries().values())
        if not binaries:
            pytest.skip("no HAProxy at hand")
        demo = subprocess.Popen(
            [sys.executable, str(root / "tests" / "demo" / "demo.py"), "--haproxy", binaries[0], *arguments],
            cwd="/",
            env={**os.environ, "TMPDIR": str(folder), "DEMO_OF_TEST": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A process group of its own, as a shell gives to a command: Ctrl-C reaches all of it.
            start_new_session=True,
        )
        started.append(demo)
        return demo

    yield start_demo
    for demo in started:
        if demo.poll() is None:
            demo.terminate()
            demo.communicate()


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    """What the demo prints, up to the line with `text`."""
    assert demo.stdout is not None
    read = ""
    for line in demo.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"the demo ended without {text!r}:\n{read}")


def left(folder: Path) -> list[str]:
    """The command lines of the living processes of the demo: everything that it starts inherits its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            # A zombie has no environment any more.
            if f"DEMO_OF_TEST={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            pass
    return found


def assert_nothing_left(folder: Path) -> None:
    assert left(folder) == []
    assert list(folder.iterdir()) == []


def test_all_promises(folder: Path, start: Start) -> None:
    demo = start()
    output = read_until(demo, "HAProxy is up")
    assert any("haproxy.cfg" in words for words in left(folder)), "the test must see what the demo starts"
    output += demo.communicate()[0]
    assert demo.returncode == 0, output
    steps = output.split("\n== ")[1:]
    assert [re.findall(r"changed=(\d+)", step) for step in steps] == [["3"], ["0", "0"], ["3"], ["0"], []]
    assert [step.count("\n  ok  ") for step in steps] == [4, 4, 5, 5, 0]
    assert "BROKEN" not in output
    text = " ".join(output.split())
    for said in (
        "requests reach all three",
        "no reload",
        "by runtime, no reload: ",
        "HAProxy follows without a reload",
        "the client saw no error",
        "requests reach exactly the right four",
        "the run was refused",
        "traffic is still served",
        "are stopped, and their files removed",
    ):
        assert said in text
    assert max(len(line) for line in output.splitlines()) <= 100
    assert "\033" not in output, "no colours but on a terminal"
    assert_nothing_left(folder)


@pytest.mark.full
def test_keep(folder: Path, start: Start) -> None:
    demo = start("--keep")
    output = read_until(demo, "in another terminal")
    assert demo.stdout is not None
    command = demo.stdout.readline()
    page = re.search(r"statistics page +(\S+)", output)
    assert page
    with urllib.request.urlopen(page.group(1), timeout=10) as answer:
        assert "Statistics Report" in answer.read().decode()
    run = subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "minimum_instances is 1" in run.stdout
    os.killpg(demo.pid, signal.SIGINT)
    output = demo.communicate()[0]
    assert demo.returncode == 0, output
    assert_nothing_left(folder)


@pytest.mark.parametrize(
    ("moment", "number", "to_group"),
    [
        pytest.param("1. First run", signal.SIGTERM, False, id="SIGTERM in the first run", marks=pytest.mark.full),
        pytest.param("3. Third run", signal.SIGINT, True, id="Ctrl-C in the third run", marks=pytest.mark.full),
    ],
)
def test_interrupted(folder: Path, start: Start, moment: str, number: signal.Signals, to_group: bool) -> None:
    demo = start()
    read_until(demo, moment)
    read_until(demo, "$ ansible-playbook")
    # Somewhere within Ansible's run; where exactly does not matter.
    time.sleep(1)
    (os.killpg if to_group else os.kill)(demo.pid, number)
    output = demo.communicate()[0]
    assert demo.returncode == 128 + number, output
    assert f"stopped by {number.name}" in output
    assert "Traceback" not in output
    assert_nothing_left(folder)


@pytest.mark.full
def test_a_broken_role_is_told(folder: Path, start: Start, tmp_path: Path) -> None:
    for name in ("library", "module_utils", "playbooks", "roles", "templates", "tests/demo", "tests/support", "ansible.cfg"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    template = tmp_path / "templates" / "haproxy.cfg.j2"
    text = template.read_text()
    one_forgotten = "unique(attribute='instance_id') | rejectattr('address', 'eq', '127.0.80.12')"
    broken = text.replace("unique(attribute='instance_id')", one_forgotten)
    assert broken != text
    template.write_text(broken)
    demo = start(root=tmp_path)
    output = demo.communicate()[0]
    assert demo.returncode == 1, output
    assert "BROKEN  requests reach all three" in output
    assert "2. Second run" not in output
    assert_nothing_left(folder)
