# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Whether there is space is looked up and never tried."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import shortage


def test_a_folder_with_space_lacks_nothing_also_before_it_is_made(tmp_path: Path) -> None:
    assert shortage(str(tmp_path), 1000) == ""
    assert shortage(str(tmp_path / "a" / "b"), 1000) == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_larger_than_the_disk_is_refused_with_both_sizes(tmp_path: Path) -> None:
    assert shortage(str(tmp_path / "a"), 2**60).startswith(f"no space left in {tmp_path}: {2**60} bytes are needed, ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_elses_cannot_be_written() -> None:
    assert shortage("/usr/lib", 1) == "/usr/lib cannot be written"
