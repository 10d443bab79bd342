# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""A configuration among its kind: the other files and the environment that HAProxy has, in each check and at each start."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_process, haproxy_service
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import files_of
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import StateError
from backends import Backends
from balancer import Balancer
from ec2_module import run_module
from haproxy_binaries import binaries
from test_haproxy_apply import definition, do, run


@pytest.fixture(params=list(binaries().items()), ids=lambda item: item[0])
def balancer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balancer]:
    """Its configuration is one of several files in a folder."""
    made = Balancer(tmp_path, request.param[1])
    (tmp_path / "conf.d").mkdir()
    made.config = tmp_path / "conf.d" / "50-ours.cfg"
    yield made
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(str(tmp_path / "conf.d").encode()) for word in words):
            os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends("127.0.7.1", "127.0.7.2") as made:
        yield made


def judge(balancer: Balancer, text: str, **more: Any) -> dict[str, Any]:
    candidate = Candidate(text, True, 50, 0, 0, 0, 0)
    return dict(report(definition(balancer, **more), candidate, False, run)["candidate"])


def test_a_text_is_judged_with_what_haproxy_is_started_with(balancer: Balancer, web: Backends) -> None:
    """The run has keys, a region and an endpoint of AWS's. A HAProxy that it starts gets none of them."""
    text = balancer.text(f"s1 127.0.7.1:{web.port}").replace(f":{balancer.port}", ":${AWS_PORT}")
    assert "${AWS_PORT}" in text
    places = {"config_path": balancer.config, "binary": balancer.binary, "pid_file": balancer.pid_file, "state_dir": balancer.state, "service_name": ""}
    candidate = {**{name: str(place) for name, place in places.items()}, "text": text}
    found = run_module({"AWS_PORT": str(balancer.port)}, module="haproxy_facts", candidates=[candidate], gather_servers=False)
    judged = found["ansible_facts"]["haproxy_processes"]["haproxy"]["candidate"]
    assert not judged["accepted"]
    started = run_module({"AWS_PORT": "1"}, module="haproxy_facts", candidates=[{**candidate, "text": text.replace("${AWS_PORT}", str(balancer.port))}])
    assert started["ansible_facts"]["haproxy_processes"]["haproxy"]["candidate"]["accepted"]


def parts(balancer: Balancer, web: Backends) -> tuple[str, str]:
    """The global and defaults sections, which stand in a file of their own, and the rest, which HAProxy refuses without them."""
    text = balancer.text(f"s1 127.0.7.1:{web.port}")
    at = text.index("frontend web")
    # Without a mode and with timeouts elsewhere the rest alone is accepted, so it uses what only the first file says.
    first = text[:at] + "userlist people\n    user one insecure-password two\n"
    rest = text[at:].replace("default_backend web\n", "http-request set-header X-One yes if { http_auth(people) }\n    default_backend web\n")
    return first, rest


@pytest.mark.parametrize("given", ["files", "folder"])
@pytest.mark.parametrize("method", ["master_socket", "pid"])
def test_on_a_first_run_the_text_is_judged_and_started_in_its_place(balancer: Balancer, web: Backends, given: str, method: str) -> None:
    first, rest = parts(balancer, web)
    before = balancer.config.with_name("10-first.cfg")
    after = balancer.config.with_name("90-last.cfg")
    before.write_text(first)
    after.write_text(f"backend last\n    server l1 127.0.7.2:{web.port}\n")
    config_files = [str(balancer.config.parent)] if given == "folder" else [str(before), str(balancer.config), str(after)]
    assert not judge(balancer, rest)["accepted"]
    found = judge(balancer, rest, config_files=config_files)
    assert found["accepted"], found["messages"]
    assert found["servers"] == {"web": 1, "last": 1}
    assert found["check_command"] == [balancer.binary, "-c", "-f", str(before), "-f", "%s", "-f", str(after)]
    balancer.config.write_text(rest)
    assert do(balancer, method, config_files=config_files)["applied_by"] == "start"
    assert set(balancer.servers()) == {"s1", "l1"}
    assert balancer.reached(4) == {"127.0.7.1"}
    # From here on the process tells, and nobody need name the files.
    assert do(balancer)["applied_by"] == "none"
    found = judge(balancer, rest)
    assert found["accepted"], found["messages"]


def test_files_that_do_not_hold_ours_are_an_error(balancer: Balancer) -> None:
    with pytest.raises(StateError, match="config_files: neither .*50-ours.cfg nor its folder is among /etc/other.cfg"):
        judge(balancer, "global\n", config_files=["/etc/other.cfg"])


def test_a_file_of_a_folder_has_its_place_before_it_exists(tmp_path: Path) -> None:
    for name in ("a.cfg", "z.cfg", ".hidden.cfg", "notes.txt"):
        (tmp_path / name).touch()
    assert files_of([str(tmp_path), "/etc/x.cfg"], str(tmp_path / "m.cfg")) == [str(tmp_path / name) for name in ("a.cfg", "m.cfg", "z.cfg")] + ["/etc/x.cfg"]


def unit(folder: Path, balancer: Balancer, environment: str) -> None:
    (folder / "defaults").write_text(environment)
    (folder / "balancer.service").write_text(f"[Service]\nEnvironmentFile=-{folder}/defaults\nExecStart={balancer.binary} -Ws -f {balancer.config}\n")


def test_before_haproxy_runs_the_unit_of_its_service_has_the_environment(balancer: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = balancer.folder
    monkeypatch.setattr(haproxy_service, "find_launch", functools.partial(haproxy_service.find_launch, folders=(str(folder),)))
    text = balancer.text(f"s1 127.0.7.1:{web.port}").replace(f":{balancer.port}\n", ":${WEB_PORT}\n")
    assert not judge(balancer, text)["accepted"]
    unit(folder, balancer, f"WEB_PORT={balancer.port}\n")
    found = judge(balancer, text, service_name="balancer")
    assert found["accepted"], found["messages"]
    # The value may be a secret, and a command line shows.
    assert found["check_command"] == []
    assert judge(balancer, text.replace("${WEB_PORT}", str(balancer.port)), service_name="balancer")["check_command"] != []
    balancer.config.write_text(text)
    assert do(balancer, service_name="balancer")["applied_by"] == "start"
    assert balancer.reached(4) == {"127.0.7.1"}
    # The service of another file has no say.
    assert not judge(balancer, text, service_name="balancer", config_path=str(folder / "other.cfg"))["accepted"]


@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
def test_the_environment_of_the_running_process_is_there_for_checks_and_for_the_process_that_follows(
    balancer: Balancer, web: Backends, master: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = balancer.text(f"s1 127.0.7.1:{web.port}").replace(f":{balancer.port}\n", ":${WEB_PORT}\n")
    monkeypatch.setenv("WEB_PORT", str(balancer.port))
    # A run of before may have left it keys.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    balancer.start(text, master)
    monkeypatch.delenv("WEB_PORT")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    changed = text.replace("s1 127.0.7.1", "s2 127.0.7.2")
    for _reload in range(2):
        found = judge(balancer, changed)
        assert found["accepted"], found["messages"]
        assert found["check_command"] == []
        balancer.config.write_text(changed)
        assert do(balancer)["applied_by"] == "reload"
        assert balancer.reached(4) == {"127.0.7.2" if "s2" in changed else "127.0.7.1"}
        # A master executes itself, with all that it has.
        assert ("hush-hush" in Path(f"/proc/{balancer.pid()}/environ").read_text()) == master
        changed = text


@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
def test_the_folder_that_haproxy_was_started_in_is_there_for_checks_and_for_the_process_that_follows(balancer: Balancer, web: Backends, master: bool) -> None:
    folder = balancer.folder / "100% there"
    folder.mkdir()
    (folder / "503.http").write_text("HTTP/1.0 503 ours\r\n\r\nfrom the folder")
    text = balancer.text(f"s1 127.0.7.1:{web.port}", backend="    errorfile 503 503.http\n")
    balancer.config.write_text(text)
    words = [balancer.binary, "-D", "-C", str(folder), "-f", str(balancer.config), "-p", str(balancer.pid_file)]
    subprocess.run([*words, *(["-W", "-S", str(balancer.master_socket)] if master else [])], check=True, capture_output=True)
    balancer.until_it_serves()
    changed = text.replace("s1 127.0.7.1", "s2 127.0.7.2")
    for number in (2, 1):
        found = judge(balancer, changed)
        assert found["accepted"], found["messages"]
        # As the task that writes the file has it validated.
        subprocess.run(shlex.split(shlex.join(found["check_command"]) % balancer.config), check=True, capture_output=True)
        balancer.config.write_text(changed)
        assert do(balancer)["applied_by"] == "reload"
        assert balancer.reached(4) == {f"127.0.7.{number}"}
        changed = text


def test_before_haproxy_runs_the_unit_of_its_service_has_the_folder(balancer: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = balancer.folder
    monkeypatch.setattr(haproxy_service, "find_launch", functools.partial(haproxy_service.find_launch, folders=(str(folder),)))
    (folder / "503.http").write_text("HTTP/1.0 503 ours\r\n\r\n")
    text = balancer.text(f"s1 127.0.7.1:{web.port}", backend="    errorfile 503 503.http\n")
    (folder / "balancer.service").write_text(f"[Service]\nExecStart={balancer.binary} -Ws -C {folder} -f {balancer.config}\n")
    assert not judge(balancer, text)["accepted"]
    found = judge(balancer, text, service_name="balancer")
    assert found["accepted"], found["messages"]
    balancer.config.write_text(text)
    assert do(balancer, service_name="balancer")["applied_by"] == "start"
    assert balancer.reached(4) == {"127.0.7.1"}


def test_what_is_the_processs_own_stays_out_of_checks_beside_it(balancer: Balancer, web: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a master that has reloaded, and so was started by itself, under a service manager."""
    for name, value in {"NOTIFY_SOCKET": str(balancer.folder / "notify.sock"), "LISTEN_PID": "1", "LISTEN_FDS": "0", "OF_A_PERSON": "kept"}.items():
        monkeypatch.setenv(name, value)
    text = balancer.text(f"s1 127.0.7.1:{web.port}")
    balancer.start(text)
    for name in ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "OF_A_PERSON"):
        monkeypatch.delenv(name)
    changed = text.replace("s1 127.0.7.1", "s2 127.0.7.2")
    balancer.config.write_text(changed)
    assert do(balancer)["applied_by"] == "reload"
    has = Path(f"/proc/{balancer.pid()}/environ").read_text()
    assert "HAPROXY_MWORKER_REEXEC=" in has
    assert "NOTIFY_SOCKET=" in has
    found = haproxy_process.environment(balancer.pid())
    assert found is not None
    assert found["OF_A_PERSON"] == "kept"
    assert [name for name in found if name.startswith(("HAPROXY_", "NOTIFY_", "LISTEN_"))] == []
    # It is these that a check is given, and no others.
    given: list[Mapping[str, str]] = []

    def noting(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
        if "-c" in words:
            given.append(environment)
        return run(words, environment, data)

    candidate = report(definition(balancer), Candidate(text, True, 50, 0, 0, 0, 0), False, noting)["candidate"]
    assert candidate["accepted"], candidate["messages"]
    assert given == [found]


def test_what_haproxy_does_not_accept_in_its_place_drains_nobody(balancer: Balancer, web: Backends) -> None:
    """Another file of the set was broken after the text was judged, and a server leaves."""
    first, rest = parts(balancer, web)
    other = balancer.config.with_name("10-first.cfg")
    other.write_text(first)
    two = rest + f"    server s2 127.0.7.2:{web.port}\n"
    balancer.config.write_text(rest)
    subprocess.run(
        [balancer.binary, "-D", "-W", "-S", str(balancer.master_socket), "-f", str(balancer.config.parent), "-p", str(balancer.pid_file)],
        check=True,
        capture_output=True,
    )
    balancer.until_it_serves()
    balancer.config.write_text(two)
    assert do(balancer)["applied_by"] == "reload"
    reloads = balancer.reloads()
    other.write_text(first + "    nonsense\n")
    balancer.config.write_text(rest)
    with pytest.raises(ApplyError, match="nonsense.*is the last good file again"):
        do(balancer)
    assert balancer.reloads() == reloads
    assert balancer.admin_states() == {"s1": 0, "s2": 0}
    assert balancer.config.read_text() == two
