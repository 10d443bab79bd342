# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every molecule scenario, whole: `molecule test -s <name>` by hand does the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from balancer import ROOT

SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_scenario_passes(scenario: str, tmp_path: Path) -> None:
    bin_dir = Path(sys.executable).parent
    environment = {
        **os.environ,
        # molecule calls Ansible by name.
        "PATH": os.pathsep.join([str(bin_dir), os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"]),
        # Its state, and Ansible's, stay out of the home folder.
        "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path / "molecule"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
    }
    done = subprocess.run(
        [bin_dir / "molecule", "test", "--scenario-name", scenario],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=870,
    )
    assert done.returncode == 0, done.stdout
