# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What runs leave for those who watch, whatever comes of them. Of repairs, outages, waiting and lists of processes the tests of these say it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import ansible_cores
import pytest
from backends import Backends
from balancer import Run
from ec2_endpoint import Ec2Endpoint
from ec2_module import run_module
from haproxy_binaries import binaries
from prometheus import Watch
from stage import Stage, address, instance_id, one

NEWEST = list(binaries().values())[-1:]


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, NEWEST[0], web, aws)
    yield made
    made.balancer.stop()


def test_metrics_that_cannot_be_written_fail_no_run(tmp_path: Path) -> None:
    """As of a log in the runs below."""
    run = {"name": "haproxy", "outcome": "success"}
    done = run_module({}, module="haproxy_run_metrics", textfile=str(tmp_path / "missing" / "a.prom"), duration=1, runs=[run])
    assert (done.failed, done["changed"]) == (False, False)
    (warning,) = done["warnings"]
    assert "textfile: the metrics of this run cannot be written: " in str(warning)


def test_check_mode_leaves_nothing(tmp_path: Path) -> None:
    run = {"name": "haproxy", "outcome": "success", "change": {"outcome": "changed", "applied_by": "reload"}}
    places = {"textfile": str(tmp_path / "a.prom"), "change_log": str(tmp_path / "log")}
    for is_check in (True, False):
        done = run_module({}, module="haproxy_run_metrics", **places, duration=1, runs=[run], _ansible_check_mode=is_check)
        assert (done.failed, done["changed"]) == (False, False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ([] if is_check else ["a.prom", "log"])


def test_each_run_leaves_its_mark_also_one_that_is_refused_and_one_that_fails(stage: Stage) -> None:
    balancer, watch = stage.balancer, Watch(stage.balancer.folder / "watch")
    stage.variables.update(watch.variables)
    watch.textfile.write_text("nonsense\n")
    stage.aws.regions["eu-west-1"] = [[one(1), one(2), one(3, state="stopped")]]
    done = stage.run()
    assert done.status == 0, done.output
    assert "autoscale.prom is not what an earlier run left there (line 1 is none of ours), so its counters begin anew" in done.text
    found = watch.metrics()
    assert found["runs_total", "success"] == found["changes_total", "start"] == 1
    assert found["instances_in_service", "webheads"] == found["servers", "webheads"] == 2
    assert found["instances_out_of_service", "webheads", "state"] == 1
    assert found["workers", "current"] == 0
    assert watch.textfile.stat().st_mode & 0o7777 == 0o644
    assert watch.log.stat().st_mode & 0o7777 == 0o640
    success, change = found[("last_success_timestamp_seconds",)], found[("last_change_timestamp_seconds",)]
    assert 0 < found[("last_run_duration_seconds",)] < found[("last_run_timestamp_seconds",)] == success == change

    # What cannot be written is no failure: HAProxy is where it should be.
    more = {"haproxy_autoscale_defaults_lines": ["timeout queue 1s"]}
    reloaded = stage.run(**more, haproxy_autoscale_change_log=str(balancer.folder / "missing" / "changes.log"))
    assert reloaded.status == 0, reloaded.output
    assert "change_log: the change cannot be logged:" in reloaded.text

    # Nothing to do: the time of the success goes on, that of the change stays, and the run says nothing of it and reports no change.
    change = watch.metrics()[("last_change_timestamp_seconds",)]
    quiet = stage.run(**more)
    assert quiet.recap["changed"] == 0
    assert "WARNING" not in quiet.output and "in service" not in quiet.output
    found = watch.metrics()
    success = found[("last_success_timestamp_seconds",)]
    assert success > change == found[("last_change_timestamp_seconds",)]
    assert (found["runs_total", "success"], found["changes_total", "start"], found["changes_total", "reload"]) == (3, 1, 1)
    assert found["workers", "current"] == 1

    # Refused; and failed before anything was found, with what the role registers at hand from another call in the same play.
    stage.members()
    assert "Too few usable instances" in stage.run().text
    stage.members(1, 4)
    assert stage.run(haproxy_autoscale_reload_timeout=0).status != 0
    found = watch.metrics()
    assert found["refusals_total", "too_few_instances"] == 1
    assert (found["runs_total", "refused"], found["runs_total", "failed"], found["runs_total", "success"]) == (1, 1, 3)
    assert (found[("last_success_timestamp_seconds",)], found[("last_change_timestamp_seconds",)]) == (success, change)
    assert ("instances_in_service", "webheads") not in found

    # A HAProxy that finds every file good and starts on none.
    broken = balancer.folder / "haproxy"
    broken.write_text(f'#!/bin/sh\ncase " $* " in *" -c "*|*" -v "*|*" -vv "*) exec {balancer.binary} "$@";; esac\nexit 1\n')
    broken.chmod(0o755)
    balancer.stop()
    assert stage.run(haproxy_autoscale_binary=str(broken), haproxy_autoscale_reload_timeout=3).status != 0
    assert watch.metrics()["runs_total", "failed"] == 2

    started, failed = watch.lines()
    assert (started["name"], started["outcome"], started["applied_by"]) == ("haproxy", "changed", "start")
    assert [(moved["server"], moved["address"]) for moved in started["added"]] == [(instance_id(number), address(number)) for number in (1, 2)]
    assert (started["servers_before"], started["servers_after"]) == ({"webheads": 0}, {"webheads": 2})
    assert (failed["outcome"], failed["servers_after"]) == ("failed", None)
    assert failed["removed"] == [{"server": instance_id(2), "reason": "no longer found"}]
    assert str(failed["error"]).startswith("haproxy: ")


@pytest.mark.full
@pytest.mark.parametrize("core", ansible_cores.WANTED)
def test_each_ansible_core_leaves_the_same_and_says_it_in_one_line(stage: Stage, core: str) -> None:
    if core not in ansible_cores.cores():
        pytest.skip(f"ansible-core {core}: {ansible_cores.missing()[core]}")
    watch = Watch(stage.balancer.folder / "watch")

    def play(form: str, *members: int, **more: object) -> Run:
        stage.members(*members)
        stage.balancer.environment["ANSIBLE_CALLBACK_RESULT_FORMAT"] = form
        return stage.balancer.run({**stage.variables, **watch.variables, **more}, ansible=str(ansible_cores.cores()[core] / "ansible-playbook"))

    # Before anything has ever been found.
    assert play("json", 1, haproxy_autoscale_reload_timeout=0).status != 0
    assert watch.metrics()["runs_total", "failed"] == 1
    assert play("json", 1, 2, 3).status == 0
    for form, quote, members in (("yaml", "'?", (1, 2, 4)), ("json", '"', (1, 2, 4, 5))):
        changed = play(form, *members)
        assert changed.status == 0, changed.output
        said = re.findall(rf"^\s*(?:- )?{quote}(webheads: \d in service, .*)", changed.output, re.MULTILINE)
        assert len(said) == 1, changed.output
        assert re.match(r"webheads: . in service, [+-][-+1 ]*; by runtime, no reload: ", said[0])
        quiet = play(form, *members)
        assert quiet.recap["changed"] == 0
        assert "in service" not in quiet.output and "debug" not in quiet.output
    assert play("yaml").status != 0
    found = watch.metrics()
    assert (found["runs_total", "success"], found["refusals_total", "too_few_instances"], found["changes_total", "runtime"]) == (5, 1, 2)
    assert [(line["applied_by"], line["servers_after"]["webheads"]) for line in watch.lines()] == [("start", 3), ("runtime", 3), ("runtime", 4)]
