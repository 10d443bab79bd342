# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of `make churn`: no client notices that the group changes, and each control shows that the bench would see it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from balancer import ROOT
from haproxy_binaries import binaries

sys.path.append(str(ROOT / "tests" / "bench"))

import churn


@pytest.mark.parametrize("mode", churn.REAL, ids=lambda mode: mode.name)
@pytest.mark.parametrize("version", binaries())
def test_no_client_notices_that_the_group_changes(version: str, mode: churn.Mode, tmp_path: Path) -> None:
    result = churn.churn(tmp_path, binaries()[version], mode, churn.SMALL)
    assert [*result.details, *result.warnings] == []
    assert churn.missed(result, churn.SMALL) == []


@pytest.mark.parametrize("mode", churn.CONTROLS, ids=lambda mode: mode.name)
def test_the_churn_sees_it_when_a_part_is_left_out(mode: churn.Mode, tmp_path: Path) -> None:
    result = churn.churn(tmp_path, list(binaries().values())[-1], mode, dataclasses.replace(churn.SMALL, changes=6))
    assert churn.missed(result, churn.SMALL) == []


@pytest.mark.parametrize("mode", churn.CONTROLS, ids=lambda mode: mode.name)
def test_a_control_that_shows_another_harm_than_its_own_is_a_complaint(mode: churn.Mode) -> None:
    others = {kind: 0 if kind in mode.shows else 9 for kind in churn.KINDS}
    late, dead = (0 if heading in mode.shows else 9 for heading in (churn.AT_A_LEAVER, churn.AT_A_DEAD_NEWCOMER))
    assert len(churn.missed(churn.Result("", mode, failures=others, late=late, dead=dead), churn.SMALL)) == 1
