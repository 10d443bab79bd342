# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What a run leaves for those who watch: metrics for node_exporter's textfile collector, and a line of JSON for each change.

The format is Prometheus's text format (https://prometheus.io/docs/instrumenting/exposition_formats/). What is read back is only what was
written here.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .haproxy_state import StateError, read_bytes, remove_leftovers, write_atomically

# How a run can end. One that waits (for checks, or for its turn to reload) and one that bears an outage of AWS have not failed, and yet HAProxy
# is not where it should be; so they are no successes.
OUTCOMES = ("success", "waiting", "outage", "refused", "failed")
# How HAProxy can be brought to its file.
WAYS = ("runtime", "reload", "start")
# Why a run can be refused.
REFUSALS = ("too_few_instances", "not_accepted", "bind", "shared_bind", "unwritable", "failed_before", "needs_reload", "removes_too_much")

# The discovery's reasons name addresses, times and tags, and each text of a label is one more time series. So there is one word for each kind.
_KINDS = (
    ("draining", r"it is draining"),
    ("state", r"its state is"),
    ("exclude_filters", r"it matches exclude_filters"),
    ("min_age", r"launched at|its launch time"),
    ("tag", r"its tag "),
    ("lifecycle", r"its lifecycle state|it carries the tag of the Auto Scaling group|it is in no Auto Scaling group"),
    ("instance_status", r"EC2 has no status of it|its .*status is"),
    ("id", r"its id is"),
    ("same_address", r".* is the address of"),
    ("address", r".*(network interface|IPv[46] address|is not one:)"),
)

KINDS = tuple(kind for kind, _pattern in _KINDS)

# Name behind the prefix, type, and help, in the order of the file.
PREFIX = "haproxy_autoscale_"
METRICS = (
    ("last_run_timestamp_seconds", "gauge", "When the last run ended, in seconds since 1970."),
    ("last_success_timestamp_seconds", "gauge", "When the last run ended that left HAProxy at the instances that run."),
    ("last_change_timestamp_seconds", "gauge", "When HAProxy was last brought to another state."),
    ("last_run_duration_seconds", "gauge", "How long the last run took, from the role's first task on."),
    ("runs_total", "counter", "Runs, by how they ended."),
    ("refusals_total", "counter", "Runs that were refused, by why."),
    ("changes_total", "counter", "Changes that were made and proven, by how."),
    ("drift_repairs_total", "counter", "Changes of a process whose servers differed from the file that it was brought to before."),
    ("instances_in_service", "gauge", "Instances that the configuration was made of, by security group."),
    ("instances_out_of_service", "gauge", "Instances that were left out, by security group and kind of reason."),
    ("servers", "gauge", "Servers that the configuration has, by backend."),
    ("workers", "gauge", "Living worker processes when the run began: the current one, and old ones that finish their connections."),
)
# What goes on from run to run; the rest is known anew in each.
_LASTING = ("last_success_timestamp_seconds", "last_change_timestamp_seconds", "runs_total", "refusals_total", "changes_total", "drift_repairs_total")


class Series(NamedTuple):
    """One time series: a metric's name behind the prefix, and its labels as (name, value)."""

    metric: str
    labels: tuple[tuple[str, str], ...]


def series(metric: str, **labels: str) -> Series:
    return Series(metric, tuple(labels.items()))


def kind_of(reason: str) -> str:
    """The word for one of the discovery's reasons; `other` for one that is not known."""
    return next((kind for kind, pattern in _KINDS if re.match(pattern, reason)), "other")


def updated(before: Mapping[Series, float], runs: Sequence[Mapping[str, Any]], duration: float, now: float) -> dict[Series, float]:
    """The time series after these runs, one of each process. See the option `runs` of haproxy_run_metrics.

    `before` are those after the runs before. `duration` is in seconds, `now` in seconds since 1970.
    """
    after: dict[Series, float] = {}
    for run in runs:
        name = run["name"]
        after.update({one: value for one, value in before.items() if one.metric in _LASTING and ("process", name) in one.labels})
        _count(after, [series("runs_total", process=name, outcome=one) for one in OUTCOMES], series("runs_total", process=name, outcome=run["outcome"]))
        _count(after, [series("refusals_total", process=name, reason=one) for one in REFUSALS], series("refusals_total", process=name, reason=run["refusal"]))
        change = run["change"] if run["change"].get("outcome") == "changed" else {}
        way = change.get("applied_by", "")
        _count(after, [series("changes_total", process=name, way=one) for one in WAYS], series("changes_total", process=name, way=way))
        repairs = series("drift_repairs_total", process=name)
        _count(after, [repairs], repairs if change.get("drift") else None)
        after[series("last_run_timestamp_seconds", process=name)] = now
        # A clock that was set back meanwhile.
        after[series("last_run_duration_seconds", process=name)] = max(duration, 0)
        if run["outcome"] == "success":
            after[series("last_success_timestamp_seconds", process=name)] = now
        if way in WAYS:
            after[series("last_change_timestamp_seconds", process=name)] = now
        for group, count in run["instances"].items():
            after[series("instances_in_service", process=name, group=group)] = count
        for group, reasons in run["left_out"].items():
            for kind, count in sorted(Counter(map(kind_of, reasons)).items()):
                after[series("instances_out_of_service", process=name, group=group, reason=kind)] = count
        for backend, count in run["servers"].items():
            after[series("servers", process=name, backend=backend)] = count
        for state, count in run["workers"].items():
            after[series("workers", process=name, state=state)] = count
    return after


def _count(after: dict[Series, float], every: Sequence[Series], this: Series | None) -> None:
    """Count one more, and have the others there from the beginning: of what comes into being as 1 Prometheus sees no increase."""
    for one in every:
        after[one] = after.get(one, 0) + (one == this)


def written(samples: Mapping[Series, float]) -> str:
    """The text of the file."""
    lines = []
    for metric, kind, text in METRICS:
        values = [(one, value) for one, value in samples.items() if one.metric == metric]
        if values:
            lines += [f"# HELP {PREFIX}{metric} {text}", f"# TYPE {PREFIX}{metric} {kind}"]
            lines += [f"{PREFIX}{metric}{{{','.join(f'{label}={_quoted(text)}' for label, text in one.labels)}}} {_number(value)}" for one, value in values]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") + '"'


_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\n"])*)"(?:,(?=[a-z])|\Z)')
_SAMPLE = re.compile(rf"{PREFIX}([a-z_]+)\{{(.+)\}} ([0-9]+(?:\.[0-9]+)?)")


def read(text: str) -> dict[Series, float]:
    """The time series of a text that `written` made. Raises ValueError, with the line, when it is none."""
    samples: dict[Series, float] = {}
    known = {metric for metric, _kind, _text in METRICS}
    if not text.endswith("\n"):
        raise ValueError("it does not end with a line")
    for number, line in enumerate(text[:-1].split("\n"), 1):
        if line.startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line)
        labels = _labels(found.group(2)) if found else ()
        if not found or not labels or found.group(1) not in known or not math.isfinite(float(found.group(3))):
            raise ValueError(f"line {number} is none of ours")
        samples[Series(found.group(1), labels)] = float(found.group(3))
    return samples


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    """The labels between the braces; none when they make no sense."""
    labels, end = [], 0
    while end < len(text):
        found = _LABEL.match(text, end)
        if found is None:
            return ()
        labels.append((found.group(1), re.sub(r"\\(.)", lambda one: "\n" if one.group(1) == "n" else one.group(1), found.group(2))))
        end = found.end()
    return tuple(labels)


def write_textfile(path: str, runs: Sequence[Mapping[str, Any]], duration: float, now: float) -> str:
    """Replace the file by one with these runs, whole or not at all, for everybody to read (0644): node_exporter has a user of its own.

    Returns what there is to say of the former file, mostly nothing. Raises StateError.
    """
    remove_leftovers(path)
    problem, before = "", {}
    former = read_bytes(path)
    if former is not None:
        try:
            before = read(former.decode())
        except ValueError as error:
            problem = f"{path} is not what an earlier run left there ({error}), so its counters begin anew"
    write_atomically(path, written(updated(before, runs, duration, now)).encode("utf-8", "backslashreplace"), mode=0o644)
    return problem


def change_lines(runs: Sequence[Mapping[str, Any]], now: float) -> str:
    """A line of JSON for each process that was changed, or that was to be and failed. `now` is in seconds since 1970."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return "".join(json.dumps({"time": when, "name": run["name"], **_change(run["change"])}) + "\n" for run in runs if run["change"])


def _change(change: Mapping[str, Any]) -> dict[str, Any]:
    """The change with the servers of each backend before and after. Of one that failed, or that nothing was done to HAProxy for, it is not
    known what HAProxy has now."""
    after = change.get("servers", {})
    counts = {kind: {backend: len(names) for backend, names in change.get(kind, {}).items()} for kind in ("came", "went")}
    backends = sorted({*after, *counts["went"]})
    before = {backend: after.get(backend, 0) - counts["came"].get(backend, 0) + counts["went"].get(backend, 0) for backend in backends}
    kept = {key: value for key, value in change.items() if key not in ("servers", "came", "went")}
    is_made = change.get("outcome") == "changed" and change.get("applied_by") in WAYS
    return {**kept, "servers_before": before, "servers_after": dict(after) if after and is_made else None}


def append(path: str, lines: str) -> None:
    """Append lines in one write, so that those of runs side by side do not mix (O_APPEND, write(2)). A new file has the mode 0640.

    Raises StateError.
    """
    data = lines.encode()
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o640)
        except FileExistsError:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            count = os.write(descriptor, data)
            if count < len(data):
                # Half a line would make the next one unreadable, too.
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - count)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    if count < len(data):
        raise StateError(f"{path}: there is room for {count} of {len(data)} bytes only")
