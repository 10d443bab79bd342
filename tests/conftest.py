# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Tests import the collection under its full name, from this checkout, and what is in tests/support by its plain name."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_COLLECTIONS = Path(tempfile.mkdtemp(prefix="autoscale-haproxy-"))
(_COLLECTIONS / "ansible_collections" / "autoscale").mkdir(parents=True)
(_COLLECTIONS / "ansible_collections" / "autoscale" / "haproxy").symlink_to(ROOT)
# Before the test modules are imported, hence not in a fixture.
sys.path[:0] = [str(_COLLECTIONS), str(ROOT / "tests" / "support")]

# These lie in tests/support.
import ansible_cores  # noqa: E402
import haproxy_binaries  # noqa: E402


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which versions the tests ran with belongs to the result, and so does which could not be had."""
    terminalreporter.section("versions")
    terminalreporter.line(f"HAProxy {', '.join(haproxy_binaries.binaries()) or 'none'}; ansible-core {', '.join(ansible_cores.cores()) or 'none'}")
    for version in haproxy_binaries.missing():
        terminalreporter.line(f"NOT RUN on HAProxy {version}: it could not be had, 'make haproxy' says why")
    for version, reason in ansible_cores.missing().items():
        terminalreporter.line(f"NOT RUN on ansible-core {version}: {reason}")


def pytest_unconfigure(config: pytest.Config) -> None:
    # The link goes, what it leads to stays: rmtree follows no links.
    shutil.rmtree(_COLLECTIONS, ignore_errors=True)
