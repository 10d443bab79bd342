# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What the role holds back, for how long, and what it does where it knows nothing: from end to end, over several runs."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_process import identify
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import Intent, write_intent
from backends import Backends
from balancer import Run, ask
from ec2_endpoint import Ec2Endpoint, error
from haproxy_binaries import binaries
from prometheus import Watch
from stage import Stage, address, instance_id, names

NEWEST = list(binaries().values())[-1]


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, NEWEST, web, aws)
    yield made
    made.balancer.stop()


# A shrink that repeats itself.


def note(stage: Stage) -> int:
    """How many runs have been counted; 0 without a note."""
    path = stage.balancer.state / "haproxy.refused.json"
    return int(json.loads(path.read_text())["runs"]) if path.exists() else 0


def refused(stage: Stage, *arguments: str, **more: Any) -> Run:
    """A run that must be refused for the shrink, and leave file, process and traffic as they are."""
    same = stage.untouched()
    done = stage.run(*arguments, haproxy_autoscale_confirm_runs=3, **more)
    assert done.status != 0, done.output
    assert same()
    return done


def test_a_shrink_is_made_when_enough_runs_in_a_row_have_seen_the_same_servers(stage: Stage) -> None:
    stage.apply(1, 2, 3, 4)
    before = names(stage.balancer.state)
    stage.members(4)
    first = refused(stage)
    assert "would lose 3 of its 4 servers" in first.text
    assert "1 of the 3 runs in a row that haproxy_autoscale_confirm_runs asks for have seen these very servers" in first.text
    assert note(stage) == 1
    # The note is all that a refused run writes, and check mode does not even write that.
    assert names(stage.balancer.state) == sorted([*before, "haproxy.refused.json"])
    assert "1 of the 3 runs" in refused(stage, "--check").text
    assert note(stage) == 1
    # Other servers begin the count anew, also when there are as many.
    stage.members(3)
    refused(stage)
    assert note(stage) == 1
    refused(stage)
    assert note(stage) == 2
    predicted = stage.run("--check", haproxy_autoscale_confirm_runs=3)
    assert predicted.status == 0, predicted.output
    assert "would be brought to it by runtime" in predicted.text
    assert note(stage) == 2
    assert stage.apply(3, haproxy_autoscale_confirm_runs=3).recap["changed"] > 0
    assert stage.serves(3)
    assert note(stage) == 0
    assert stage.apply(3, haproxy_autoscale_confirm_runs=3).recap["changed"] == 0


@pytest.mark.full
def test_only_runs_in_a_row_count_and_an_empty_group_never_does(stage: Stage) -> None:
    stage.apply(1, 2, 3, 4)
    stage.members(4)
    refused(stage)
    refused(stage)
    assert note(stage) == 2
    # A run that sees the members again, one that learns nothing, and one that sees nobody each end the row.
    stage.apply(1, 2, 3, 4, haproxy_autoscale_confirm_runs=3)
    assert note(stage) == 0
    stage.members(4)
    refused(stage)
    stage.aws.fault("DescribeInstances", error(403, "UnauthorizedOperation"))
    refused(stage)
    assert note(stage) == 0
    stage.aws.heal()
    stage.members()
    # As often as would confirm anything else.
    for _run in range(3):
        done = refused(stage, haproxy_autoscale_minimum_instances=0)
        assert "would lose all of its 4 servers" in done.text
        assert note(stage) == 0
    # Not even where the template keeps somebody in the backend.
    services = [{**stage.variables["haproxy_autoscale_services"][0], "backend_lines": [f"server sorry {address(8)}:{stage.web.port} backup"]}]
    for _run in range(3):
        refused(stage, haproxy_autoscale_minimum_instances=0, haproxy_autoscale_services=services)
        assert note(stage) == 0


# Reloads that have to wait.


def test_a_change_that_comes_too_early_after_a_reload_waits_for_a_later_run(stage: Stage) -> None:
    stage.variables["haproxy_autoscale_apply_strategy"] = "reload"
    stage.apply(1, 2)
    stage.apply(1, 2, 3)
    assert stage.serves(1, 2, 3)
    same = stage.untouched()
    stage.members(1, 2, 3, 4)
    for arguments in ([], ["--check"]):
        done = stage.run(*arguments, haproxy_autoscale_reload_interval=3600)
        assert done.status == 0, done.output
        assert done.recap["changed"] == 0
        assert "nothing was written, the change waits for a later run" in done.text
        assert re.search(r"the last reload \(or start\) was \d+ s ago, and reload_interval is 3600 s", done.text)
        assert "[WARNING]" in done.output
        assert same()
    # A run without a change says nothing.
    stage.members(1, 2, 3)
    assert "waits" not in stage.run(haproxy_autoscale_reload_interval=3600).text
    stage.apply(1, 2, 3, 4, haproxy_autoscale_reload_interval=1)
    assert stage.serves(1, 2, 3, 4)


@pytest.mark.full
def test_what_needs_no_reload_never_waits_for_one(stage: Stage) -> None:
    """A reload has just been made, and its old worker is kept by an upload that never ends."""
    stage.variables.update(haproxy_autoscale_timeout_client="10m", haproxy_autoscale_timeout_server="10m", haproxy_autoscale_drain_timeout=0)
    stage.apply(1, 2)
    with socket.create_connection(("127.0.0.1", stage.balancer.port)) as pinned:
        pinned.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0")
        time.sleep(0.3)
        stage.apply(1, 2, 3, haproxy_autoscale_apply_strategy="reload")
        assert stage.balancer.old_workers()
        limits = {"haproxy_autoscale_maximum_old_workers": 1, "haproxy_autoscale_reload_interval": 3600}
        assert "by runtime, no reload: " in stage.apply(1, 2, 3, 4, **limits).text
        assert stage.serves(1, 2, 3, 4)
        watch = Watch(stage.balancer.folder / "watch")
        waits = stage.run(**limits, **watch.variables, haproxy_autoscale_defaults_lines=["timeout queue 1s"])
        assert waits.status == 0, waits.output
        assert watch.metrics()["runs_total", "waiting"] == watch.metrics()["workers", "old"] == 1
        assert not watch.log.exists()
        assert "the change waits for a later run: 1 old workers" in waits.text
        assert "(not by runtime: defaults" in waits.text


def test_a_stopped_haproxy_is_started_whatever_waits(stage: Stage) -> None:
    stage.apply(1, 2)
    stage.balancer.stop()
    stage.apply(1, 2, 3, haproxy_autoscale_reload_interval=3600, haproxy_autoscale_maximum_old_workers=1)
    assert stage.serves(1, 2, 3)


@pytest.mark.full
def test_reloads_wait_while_too_many_old_workers_finish_their_connections(stage: Stage) -> None:
    stage.variables.update(haproxy_autoscale_timeout_client="10m", haproxy_autoscale_timeout_server="10m", haproxy_autoscale_drain_timeout=0)
    stage.variables["haproxy_autoscale_apply_strategy"] = "reload"
    stage.apply(1, 2)
    held = []
    try:
        for members in ((1, 2, 3), (1, 2, 3, 4)):
            pinned = socket.create_connection(("127.0.0.1", stage.balancer.port))
            # An upload that never ends.
            pinned.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0")
            held.append(pinned)
            time.sleep(0.3)
            stage.apply(*members, haproxy_autoscale_maximum_old_workers=2)
        assert stage.serves(1, 2, 3, 4)
        same = stage.untouched()
        stage.members(1, 2, 3, 4, 5)
        done = stage.run(haproxy_autoscale_maximum_old_workers=2)
        assert done.status == 0, done.output
        assert "2 old workers still finish their connections, and maximum_old_workers is 2" in done.text
        assert "hard-stop-after" in done.text
        assert done.recap["changed"] == 0
        assert same()
    finally:
        for pinned in held:
            pinned.close()
    for _attempt in range(100):
        if not stage.balancer.old_workers():
            break
        time.sleep(0.1)
    stage.apply(1, 2, 3, 4, 5, haproxy_autoscale_maximum_old_workers=2)
    assert stage.serves(1, 2, 3, 4, 5)


# Where nothing is known.


@pytest.mark.full
def test_after_a_reboot_without_aws_haproxy_is_started_on_its_last_good_file(stage: Stage) -> None:
    stage.apply(1, 2)
    good = stage.balancer.config.read_bytes()
    stage.balancer.stop()
    stage.aws.fault("DescribeInstances", error(500, "InternalError"))
    predicted = stage.run("--check")
    assert predicted.status != 0
    assert "HAProxy did not run and would be started on it" in predicted.text
    done = stage.run()
    assert done.status != 0
    assert "InternalError" in done.text
    assert "HAProxy did not run and was started on it" in done.text
    assert stage.serves(1, 2)
    assert stage.balancer.config.read_bytes() == good
    # Now that it runs, a run that learns nothing leaves it alone.
    same = stage.untouched()
    again = stage.run()
    assert again.status != 0
    assert "is untouched, and so is the running HAProxy" in again.text
    assert again.recap["changed"] == 0
    assert same()
    stage.aws.heal()
    assert stage.apply(1, 2).recap["changed"] == 0


def test_without_aws_a_haproxy_that_is_to_stay_stopped_or_was_never_ours_is_not_started(stage: Stage) -> None:
    stage.balancer.config.write_text(stage.balancer.text(f"s1 {address(1)}:{stage.web.port}"))
    stage.aws.fault("DescribeInstances", error(500, "InternalError"))
    done = stage.run()
    assert done.status != 0
    assert "HAProxy does not run" in done.text
    stage.aws.heal()
    stage.apply(1, 2, haproxy_autoscale_maximum_removed_percent=100)
    stage.balancer.stop()
    stage.aws.fault("DescribeInstances", error(500, "InternalError"))
    done = stage.run(haproxy_autoscale_start=False)
    assert done.status != 0
    assert "HAProxy does not run" in done.text
    assert done.recap["changed"] == 0


# Several files.


@pytest.mark.full
def test_a_first_run_writes_its_file_into_a_set_of_files(stage: Stage) -> None:
    balancer = stage.balancer
    extra = balancer.folder / "extra.cfg"
    extra.write_text(f"frontend other\n    mode http\n    bind unix@{balancer.folder}/other.sock\n    default_backend webheads\n")
    files = {"haproxy_autoscale_config_files": [str(balancer.config), str(extra)]}
    stage.apply(1, 2, **files)
    assert stage.serves(1, 2)
    assert (balancer.folder / "other.sock").is_socket()
    # What is wrong only beside the other file is refused before it is written, also when the process alone says which files there are.
    same = stage.untouched()
    stage.members(1, 2, 3)
    service = {**stage.variables["haproxy_autoscale_services"][0], "name": "renamed"}
    done = stage.run(haproxy_autoscale_services=[service], haproxy_autoscale_maximum_removed_percent=100)
    assert done.status != 0
    assert "webheads" in done.text
    assert "HAProxy does not accept" in done.text
    assert same()
    stage.apply(1, 2, 3)
    assert list(balancer.servers()) == [instance_id(1), instance_id(2), instance_id(3)]


def test_the_written_file_is_validated_in_its_place(stage: Stage, tmp_path: Path) -> None:
    """`validate` gets the whole set: a program in HAProxy's place notes what it is asked to check."""
    balancer = stage.balancer
    extra = balancer.folder / "extra.cfg"
    extra.write_text("backend other\n    server o 127.0.0.1:1\n")
    noted = balancer.folder / "noted"
    program = balancer.folder / "haproxy-noting"
    program.write_text(f'#!/bin/sh\necho "$@" >>{noted}\nexec {balancer.binary} "$@"\n')
    program.chmod(0o755)
    stage.apply(1, haproxy_autoscale_config_files=[str(extra), str(balancer.config)], haproxy_autoscale_binary=str(program))
    checks = [line.split() for line in noted.read_text().splitlines() if line.startswith("-c")]
    assert [words[:3] for words in checks] == [["-c", "-f", str(extra)]] * len(checks)
    # From standard input before it is written, and the written file before it takes its place.
    assert [words[4] == "/dev/stdin" for words in checks] == [True, False]


@pytest.mark.parametrize("why", [pytest.param("nobody is known", marks=pytest.mark.full), "too many would go"])
def test_what_a_run_was_cut_off_in_is_finished_also_by_a_run_that_fails(stage: Stage, why: str) -> None:
    stage.apply(1, 2, 3, 4)
    balancer = stage.balancer
    # What a run that was killed after its drain leaves: two servers out, the file without them, the intent.
    text = balancer.config.read_text()
    balancer.config.write_text("".join(line for line in text.splitlines(keepends=True) if instance_id(1) not in line and instance_id(2) not in line))
    worker = identify(balancer.worker())
    assert worker is not None
    leavers = {("webheads", instance_id(number)): 0 for number in (1, 2)}
    write_intent(str(balancer.state), "haproxy", Intent(worker, leavers, set()))
    for number in (1, 2):
        ask(balancer.stats_socket, f"set server webheads/{instance_id(number)} state maint")
    if why == "nobody is known":
        stage.aws.fault("DescribeInstances", error(500, "InternalError"))
    else:
        stage.members(8)
    watch = Watch(balancer.folder / "watch")
    done = stage.run(**watch.variables)
    assert done.status != 0
    # What it was refused for is not made.
    (line,) = watch.lines()
    assert (line["applied_by"], line["added"], line["removed"], line["servers_after"]) == ("runtime", [], [], None)
    assert watch.metrics()["refusals_total", "removes_too_much"] == (why != "nobody is known")
    assert ("servers", "webheads") not in watch.metrics()
    assert ("what an earlier run was cut off in was finished" if why == "nobody is known" else "would lose") in done.text
    assert stage.serves(3, 4)
    assert balancer.admin_states() == {instance_id(3): 0, instance_id(4): 0}
    assert balancer.reloads() == 0
    # And that is all.
    same = stage.untouched()
    assert stage.run().status != 0
    assert same()


@pytest.mark.full
def test_what_was_allowed_once_comes_in_when_its_newcomers_answer(stage: Stage, web: Backends) -> None:
    """The permission was for one run, which wrote the file and found nobody of the new ones ready."""
    stage.apply(1, 2, 3, 4)
    stage.members(21, 22)
    allowed = stage.run(haproxy_autoscale_maximum_removed_percent=100, haproxy_autoscale_check_timeout=1)
    assert allowed.status == 0, allowed.output
    assert "the servers that go stay for this run" in allowed.text
    assert stage.serves(1, 2, 3, 4)
    web.add(address(21))
    try:
        done = stage.run()
        assert done.status == 0, done.output
        assert "by runtime" in done.text
        assert stage.serves(21)
    finally:
        web.remove(address(21))


@pytest.mark.full
def test_what_is_confirmed_stays_so_while_its_reload_has_to_wait(stage: Stage) -> None:
    stage.apply(1, 2, 3, 4)
    stage.members(4)
    more = {"haproxy_autoscale_confirm_runs": 2, "haproxy_autoscale_apply_strategy": "reload"}
    assert stage.run(**more, haproxy_autoscale_reload_interval=3600).status != 0
    for _run in range(2):
        waits = stage.run(**more, haproxy_autoscale_reload_interval=3600)
        assert waits.status == 0, waits.output
        assert "waits for a later run" in waits.text
        assert stage.serves(1, 2, 3, 4)
    assert stage.run(**more).status == 0
    assert stage.serves(4)
    assert note(stage) == 0


@pytest.mark.full
def test_check_mode_says_of_what_it_would_finish_that_it_would(stage: Stage) -> None:
    stage.apply(1, 2, 3, 4)
    worker = identify(stage.balancer.worker())
    write_intent(str(stage.balancer.state), "haproxy", Intent(worker, {("webheads", instance_id(1)): 0}, set()))
    stage.members(8)
    same = stage.untouched()
    done = stage.run("--check")
    assert done.status != 0
    assert "what an earlier run was cut off in would be finished" in done.text
    assert same()
