# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Metrics as Prometheus reads them: by the parser of its Python client, and by its own promtool where that is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from balancer import ROOT
from prometheus_client.parser import text_string_to_metric_families


def parsed(text: str, prefix: str = "haproxy_autoscale_") -> dict[tuple[str, ...], float]:
    """Name behind the prefix and the values of the labels, to the value. Each series is there once, with a type and a help."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge"), family
        for sample in family.samples:
            key = (sample.name.replace(prefix, "", 1), *sample.labels.values())
            assert key not in found, key
            found[key] = sample.value
    return found


class Watch:
    """What runs leave in a folder, when the role is given these variables."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.textfile, self.log = folder / "autoscale.prom", folder / "changes.log"
        self.variables = {"haproxy_autoscale_textfile": str(self.textfile), "haproxy_autoscale_change_log": str(self.log)}

    def metrics(self, process: str = "haproxy") -> dict[tuple[str, ...], float]:
        """Those of one process, without its name."""
        return {(key[0], *key[2:]): value for key, value in parsed(self.textfile.read_text()).items() if key[1] == process}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def promtool() -> Callable[..., str]:
    """promtool with these arguments, which must find nothing wrong and say nothing but what it has checked."""
    program = shutil.which("promtool", path=f"{ROOT / '.cache' / 'prometheus'}:{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("there is no promtool (tests/setup.sh says why)")

    def run(*arguments: str | Path, data: str = "") -> str:
        done = subprocess.run([program, *arguments], input=data, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr.strip(), done.stderr
        return done.stdout

    return run
