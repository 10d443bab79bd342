# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of `make churn`: no client notices that the group changes, no reload is made for it that need not be, and each control shows
that the bench would see it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from balancer import ROOT
from haproxy_binaries import binaries

sys.path.append(str(ROOT / "tests" / "bench"))

import churn

NEWEST = list(binaries())[-1]
# Most changes are made at runtime, which differs most between the versions. The other modes are tried on one of them.
ON_ONE = {mode.name: version for mode, version in zip(churn.REAL[1:], [NEWEST, NEWEST, *binaries()], strict=False)}
RUNS = [
    pytest.param(version, mode, marks=[] if ON_ONE.get(mode.name, version) == version else [pytest.mark.full], id=f"{version}-{mode.name}")
    for version in binaries()
    for mode in churn.REAL
]


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_no_client_notices_that_the_group_changes(version: str, mode: churn.Mode, tmp_path: Path) -> None:
    result = churn.churn(tmp_path, binaries()[version], mode, churn.SMALL)
    assert [*result.details, *result.warnings] == []
    assert churn.missed(result, churn.SMALL) == []


# That the churn can see anything at all is shown each time, of each part with all else.
CONTROLS = [pytest.param(mode, marks=[pytest.mark.full] if number else [], id=mode.name) for number, mode in enumerate(churn.CONTROLS)]


@pytest.mark.parametrize("mode", CONTROLS)
def test_the_churn_sees_it_when_a_part_is_left_out(mode: churn.Mode, tmp_path: Path) -> None:
    result = churn.churn(tmp_path, binaries()[NEWEST], mode, churn.SMALL)
    assert churn.missed(result, churn.SMALL) == []


def seen(mode: churn.Mode, failures: Mapping[str, int] | None = None, **values: Any) -> churn.Result:
    """What a run has seen in which nobody noticed anything."""
    return churn.Result("3.2.26", mode, failures=dict(failures or {}), changes=4, uploads_over_a_change=1, old_workers=1, **values)


# That the churn can see anything at all is shown each time, of each part with all else.
CONTROLS = [pytest.param(mode, marks=[pytest.mark.full] if number else [], id=mode.name) for number, mode in enumerate(churn.CONTROLS)]


@pytest.mark.parametrize("mode", CONTROLS)
def test_a_control_that_shows_another_harm_than_its_own_is_a_complaint(mode: churn.Mode) -> None:
    others = {kind: 0 if kind in mode.shows else 9 for kind in churn.KINDS}
    late, dead = (0 if heading in mode.shows else 9 for heading in (churn.AT_A_LEAVER, churn.AT_A_DEAD_NEWCOMER))
    by = "at_runtime" if mode.strategy == "auto" else "reloads"
    assert len(churn.missed(seen(mode, others, late=late, dead=dead, **{by: 4}), churn.SMALL)) == 1


@pytest.mark.parametrize(
    ("strategy", "counted", "complaints"),
    [
        ("auto", {"at_runtime": 4}, 0),
        ("auto", {"at_runtime": 3, "reloads": 1}, 1),
        ("auto", {"at_runtime": 4, "reloads": 1}, 2),
        ("auto", {"at_runtime": 3}, 1),
        ("reload", {"reloads": 4}, 0),
        ("reload", {"reloads": 0}, 1),
        ("reload", {"at_runtime": 1, "reloads": 3}, 1),
    ],
)
def test_a_reload_too_many_or_a_count_that_does_not_add_up_is_a_complaint(strategy: str, counted: dict[str, int], complaints: int) -> None:
    assert len(churn.missed(seen(churn.Mode("", strategy), **counted), churn.SMALL)) == complaints


def test_only_2_6_may_reload_for_a_server_with_a_cookie() -> None:
    result = seen(churn.Mode("", "auto", cookies=True), at_runtime=1, reloads=3)
    assert len(churn.missed(result, churn.SMALL)) == 1
    assert churn.missed(dataclasses.replace(result, version="2.6.12-1+deb12u4"), churn.SMALL) == []
