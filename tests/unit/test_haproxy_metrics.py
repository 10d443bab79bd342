# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What a run leaves for those who watch: the metrics as Prometheus's own parser reads them, and the lines of the log of changes."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_metrics as metrics
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import StateError
from balancer import ROOT
from hypothesis import given
from hypothesis import strategies as st
from prometheus import parsed, promtool

# A name that has all that a label's value must escape, and what ends it for a parser that is careless.
HOSTILE = 'a "b" \\ c\nd}, e="1" # ü'


def change(**more: Any) -> dict[str, Any]:
    """Two of four servers left, one came: of what was proven at runtime."""
    moved = {
        "added": [{"server": "i-1", "address": "10.0.0.1", "launch_time": "2026-01-31T06:00:00Z", "reason": ""}],
        "drained": [{"server": "i-2", "reason": "Terminating:Wait"}],
        "removed": [{"server": "i-3", "reason": "its state is 'stopped'"}],
    }
    counts = {"servers": {"web": 3}, "came": {"web": ["i-1"]}, "went": {"web": ["i-2", "i-3"], "old": ["i-3"]}, "moved": {}}
    return {"outcome": "changed", "applied_by": "runtime", "reason": "newer", "error": "", "drift": [], **moved, **counts, **more}


def run(outcome: str = "success", **more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"refusal": "", "instances": {}, "left_out": {}, "servers": {}, "workers": {}, "change": {}}
    return {"name": "haproxy", "outcome": outcome, **empty, **more}


def after(*turns: list[dict[str, Any]]) -> dict[tuple[str, ...], float]:
    """What Prometheus reads after these turns, one a minute, each of which reads back what the one before wrote."""
    text = ""
    for minute, runs in enumerate(turns):
        text = metrics.written(metrics.updated(metrics.read(text) if text else {}, runs, 2.5, 1000.25 + 60 * minute))
    return parsed(text)


def test_counters_go_on_and_times_stay_where_a_run_fails() -> None:
    found = after([run(change=change())], [run("failed", change=change(outcome="failed", applied_by="none"))], [run("refused", refusal="bind")])
    assert found["runs_total", "haproxy", "success"] == found["runs_total", "haproxy", "failed"] == found["runs_total", "haproxy", "refused"] == 1
    assert found["refusals_total", "haproxy", "bind"] == 1
    assert found["changes_total", "haproxy", "runtime"] == 1
    assert found["last_success_timestamp_seconds", "haproxy"] == found["last_change_timestamp_seconds", "haproxy"] == 1000.25
    assert found["last_run_timestamp_seconds", "haproxy"] == 1120.25
    assert found["last_run_duration_seconds", "haproxy"] == 2.5
    # What has not happened is there with 0, or its first time would be no increase.
    assert found["changes_total", "haproxy", "reload"] == found["runs_total", "haproxy", "outage"] == found["drift_repairs_total", "haproxy"] == 0
    assert len([key for key in found if key[0] == "refusals_total"]) == len(metrics.REFUSALS)


@pytest.mark.parametrize("outcome", ["waiting", "outage"])
def test_a_run_that_has_not_failed_and_not_followed_either_is_no_success(outcome: str) -> None:
    found = after([run()], [run(outcome)])
    assert found["last_success_timestamp_seconds", "haproxy"] == 1000.25
    assert found["runs_total", "haproxy", outcome] == 1


def test_a_repair_counts_when_it_was_made_and_not_when_it_was_tried() -> None:
    drift = ["web/i-1 has the address 10.0.0.9"]
    found = after([run(change=change(drift=drift))], [run("failed", change=change(drift=drift, outcome="failed"))], [run(change=change(drift=drift))])
    assert found["drift_repairs_total", "haproxy"] == 2
    assert found["changes_total", "haproxy", "runtime"] == 2


def test_what_a_run_did_not_find_out_is_not_there_and_nothing_of_yesterday_stands_for_it() -> None:
    known = run(
        instances={"web": 2},
        left_out={"web": ["its state is 'stopped'", "its state is 'pending'", "it is draining"]},
        servers={"b": 2},
        workers={"current": 1, "old": 3},
    )
    found = after([known])
    assert found["instances_in_service", "haproxy", "web"] == found["servers", "haproxy", "b"] == 2
    assert found["instances_out_of_service", "haproxy", "web", "state"] == 2
    assert found["instances_out_of_service", "haproxy", "web", "draining"] == 1
    assert found["workers", "haproxy", "old"] == 3
    assert not [key for key in after([known], [run("failed")]) if key[0] in ("instances_in_service", "instances_out_of_service", "servers", "workers")]


def test_each_process_counts_for_itself() -> None:
    other = {**run("failed"), "name": HOSTILE}
    found = after([run(), other], [run(), other])
    assert (found["runs_total", "haproxy", "success"], found["runs_total", "haproxy", "failed"]) == (2, 0)
    assert (found["runs_total", HOSTILE, "success"], found["runs_total", HOSTILE, "failed"]) == (0, 2)


def test_promtool_finds_nothing_to_say() -> None:
    tool = promtool()
    everything = run("refused", refusal="bind", instances={HOSTILE: 2}, left_out={HOSTILE: ["?"]}, servers={"b": 2}, workers={"current": 1}, change=change())
    tool("check", "metrics", data=metrics.written(metrics.updated({}, [everything], 1, 1)))


def test_the_alerts_of_the_example_fire_for_what_they_are_for_and_for_nothing_else(tmp_path: Path) -> None:
    """Four hosts of one process each, by promtool's own unit tests of rules; of the times in the files one minute is 60."""
    rules = ROOT / "docs" / "examples" / "alerts.yml"
    tool = promtool()
    tool("check", "rules", "--lint-fatal", rules)

    def labels(host: str, **more: str) -> dict[str, str]:
        return {"process": "haproxy", "instance": host, **more}

    def sample(metric: str, values: str, host: str, **more: str) -> dict[str, str]:
        inside = ",".join(f'{label}="{value}"' for label, value in labels(host, **more).items())
        return {"series": f"haproxy_autoscale_{metric}{{{inside}}}", "values": values}

    success, last_run = "last_success_timestamp_seconds", "last_run_timestamp_seconds"
    given_series = [
        # One where all is well, with a slip of each kind: a refusal, a repair, an old worker for some minutes.
        sample(success, "0+60x60", "well"),
        sample(last_run, "0+60x60", "well"),
        sample("runs_total", "0 0 1x58", "well", outcome="failed"),
        sample("refusals_total", "0 0 1x58", "well", reason="bind"),
        sample("drift_repairs_total", "0 0 1x58", "well"),
        sample("changes_total", "0 0 1x58", "well", way="reload"),
        sample("changes_total", "0+1x60", "well", way="runtime"),
        sample("workers", "1x10 0 1x49", "well", state="current"),
        sample("workers", "1x10 0x50", "well", state="old"),
        # One where nobody runs it any more, or where each run is refused.
        sample(success, "0+60x10 600x50", "refused"),
        sample(last_run, "0+60x60", "refused"),
        sample("refusals_total", "0x10 1+1x50", "refused", reason="removes_too_much"),
        # One that began badly, and goes on so.
        sample(last_run, "0+60x60", "new"),
        sample("runs_total", "0+1x60", "new", outcome="failed"),
        sample("workers", "0x60", "new", state="current"),
        # One with a colleague that writes, too, and that AWS does not answer.
        sample(success, "0+60x60", "shared"),
        sample(last_run, "0+60x60", "shared"),
        sample("runs_total", "0+1x60", "shared", outcome="outage"),
        sample("drift_repairs_total", "0+1x60", "shared"),
        sample("changes_total", "0+1x60", "shared", way="reload"),
        sample("workers", "2x60", "shared", state="old"),
    ]
    expected = {
        "Behind": [labels("refused", severity="critical")],
        "NeverFollowed": [labels("new", severity="critical")],
        "Failing": [labels("new", severity="warning", outcome="failed")],
        "Refusing": [labels("refused", severity="warning", reason="removes_too_much")],
        "WithoutAws": [labels("shared", severity="warning", outcome="outage")],
        "RepairsAgainAndAgain": [labels("shared", severity="warning")],
        "ReloadsOften": [labels("shared", severity="warning", way="reload")],
        "OldWorkers": [labels("shared", severity="warning", state="old")],
        "NotRunning": [labels("new", severity="critical", state="current")],
    }
    # promtool compares annotations, too; here only whether and where they fire matters.
    bare = yaml.safe_load(rules.read_text())
    for rule in bare["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "rules.yml").write_text(json.dumps(bare))
    cases = [
        {"eval_time": "45m", "alertname": f"HaproxyAutoscale{name}", "exp_alerts": [{"exp_labels": one} for one in found]} for name, found in expected.items()
    ]
    # Not for an old worker of some minutes, nor for the moment of a restart.
    cases.append({"eval_time": "9m", "alertname": "HaproxyAutoscaleOldWorkers", "exp_alerts": []})
    cases.append({"eval_time": "11m", "alertname": "HaproxyAutoscaleNotRunning", "exp_alerts": [{"exp_labels": one} for one in expected["NotRunning"]]})
    assert {f"HaproxyAutoscale{name}" for name in expected} == {rule["alert"] for rule in bare["groups"][0]["rules"]}
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [{"interval": "1m", "input_series": given_series, "alert_rule_test": cases}]}
    (tmp_path / "test.yml").write_text(json.dumps(test))
    tool("test", "rules", tmp_path / "test.yml")


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 10**9)))
def test_whatever_a_group_is_called_it_is_read_back(groups: dict[str, int]) -> None:
    samples = metrics.updated({}, [run(instances=groups)], 0, 0)
    assert metrics.read(metrics.written(samples)) == samples


GOOD = metrics.written(metrics.updated({}, [run()], 1, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD[:-1],
        GOOD[: GOOD.index("success")],
        GOOD + "node_load1 0.5\n",
        GOOD + 'haproxy_autoscale_runs_total{process="a",outcome="failed"} NaN\n',
        GOOD + 'haproxy_autoscale_runs_total{process="a"outcome="failed"} 1\n',
        GOOD + 'haproxy_autoscale_runs_total{process="a",} 1\n',
        GOOD + 'haproxy_autoscale_runs_total{process="a"} ' + "9" * 400 + "\n",
        GOOD + 'haproxy_autoscale_another_total{process="a"} 1\n',
        "\0" * 100 + "\n",
    ],
)
def test_a_corrupt_file_is_begun_anew_and_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.prom"
    path.write_text(text)
    assert "is not what an earlier run left there" in metrics.write_textfile(str(path), [run()], 1, 1)
    assert path.read_text() == GOOD
    assert metrics.write_textfile(str(path), [run()], 1, 1) == ""
    assert parsed(path.read_text())["runs_total", "haproxy", "success"] == 2


def test_the_file_is_replaced_whole_and_everybody_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    # What a run that was killed has left.
    (tmp_path / ".a.prom.abcdefgh.autoscale").write_text("half")
    umask = os.umask(0o077)
    try:
        assert metrics.write_textfile(str(path), [run()], 1, 1) == ""
    finally:
        os.umask(umask)
    with path.open() as held:
        metrics.write_textfile(str(path), [run()], 1, 2)
        # Who has it open reads the whole old one.
        assert held.read() == GOOD
    assert path.stat().st_mode & 0o7777 == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["a.prom"]
    with pytest.raises(StateError, match="No such file"):
        metrics.write_textfile(str(tmp_path / "no" / "a.prom"), [run()], 1, 1)


@pytest.mark.skipif(sys.version_info < (3, 9), reason="ast.unparse came with 3.9")
def test_each_reason_of_the_discovery_has_a_word_of_its_own() -> None:
    """Also one that is new: the sentences are taken from the code."""
    reasons = []
    for name in ("ec2_instances", "ec2_lifecycle"):
        for node in ast.walk(ast.parse((ROOT / "module_utils" / "haproxy_autoscale" / f"{name}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_Unusable", "_Unanswered"):
                reasons += re.findall(r"""^\w+\(f?"(.*)"\)$""", ast.unparse(node).replace("'", '"'))
    assert len(reasons) > 12
    assert [reason for reason in reasons if metrics.kind_of(reason) == "other"] == []
    assert metrics.kind_of("10.0.0.1 is the address of i-1 and i-2; the newer one has it") == "same_address"
    assert metrics.kind_of("its instance status is 'impaired', its system status is 'impaired'") == "instance_status"
    assert metrics.kind_of("its lifecycle state is 'Standby'") == "lifecycle"
    assert metrics.kind_of("what nobody has said yet") == "other"


def test_a_change_is_one_line_with_the_servers_before_and_after() -> None:
    lines = metrics.change_lines([run(), run(change=change()), run("failed", change=change(outcome="failed", error="no\nanswer"))], 1774245600.7)
    first, second = (json.loads(line) for line in lines.splitlines())
    assert (first["time"], first["name"], first["outcome"], first["applied_by"]) == ("2026-03-23T06:00:00Z", "haproxy", "changed", "runtime")
    assert (first["servers_before"], first["servers_after"]) == ({"web": 4, "old": 1}, {"web": 3})
    assert first["drained"] == [{"server": "i-2", "reason": "Terminating:Wait"}]
    assert (second["outcome"], second["error"], second["servers_after"]) == ("failed", "no\nanswer", None)
    assert not {"came", "went", "servers"} & set(first)
    # A file whose turn has not come, and the little that somebody else's playbook may say: HAProxy's servers are not known.
    for little in (change(applied_by="none"), {"outcome": "changed", "applied_by": "reload"}):
        assert json.loads(metrics.change_lines([run(change=little)], 0))["servers_after"] is None


def test_a_clock_that_was_set_back_in_a_run_costs_no_counter() -> None:
    text = metrics.written(metrics.updated({}, [run()], -3.2, 1000))
    assert parsed(text)["last_run_duration_seconds", "haproxy"] == 0
    assert metrics.read(text)


def test_a_log_that_has_no_room_for_a_line_keeps_no_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "changes.log"
    metrics.append(str(path), "one\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (7, limits[1]))
        with pytest.raises(StateError, match="room for 3 of 10 bytes"):
            metrics.append(str(path), "123456789\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    metrics.append(str(path), "two\n")
    assert path.read_text() == "one\ntwo\n"


def test_lines_are_appended_to_a_log_that_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "changes.log"
    umask = os.umask(0)
    try:
        metrics.append(str(path), "one\n")
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o7777 == 0o640
    path.chmod(0o600)
    metrics.append(str(path), "two\n")
    assert (path.read_text(), path.stat().st_mode & 0o7777) == ("one\ntwo\n", 0o600)
    # Put aside by logrotate between two runs.
    path.rename(tmp_path / "changes.log.1")
    metrics.append(str(path), "three\n")
    assert path.read_text() == "three\n"
    with pytest.raises(StateError, match="No such file"):
        metrics.append(str(tmp_path / "no" / "log"), "x\n")
    with pytest.raises(StateError, match="space"):
        metrics.append("/dev/full", "x\n")
