# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The versions of ansible-core that are at hand: the one in .venv, and those that tests/setup.sh put into .cache/venv-<version>."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"

WANTED = ("2.16", "2.19", "2.21")


def _version_of(bin_dir: Path) -> str | None:
    code = "from ansible.release import __version__; print('.'.join(__version__.split('.')[:2]))"
    try:
        return subprocess.run([bin_dir / "python", "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@lru_cache(maxsize=None)  # noqa: UP033 (Python 3.8 has no shorter one)
def cores() -> dict[str, Path]:
    """Version, as "2.19", to the folder that holds its ansible-playbook. The Python that runs this comes first, so that it wins."""
    found: dict[str, Path] = {}
    for bin_dir in (Path(sys.executable).parent, *(venv / "bin" for venv in sorted(CACHE.glob("venv-2.*")))):
        version = _version_of(bin_dir)
        if version:
            found.setdefault(version, bin_dir)
    return found


def missing() -> dict[str, str]:
    """Wanted versions that are not there, each with the reason that the set-up noted."""
    reasons = {}
    for version in WANTED:
        if version not in cores():
            note = CACHE / f"venv-{version}.reason"
            reasons[version] = note.read_text().strip() if note.exists() else "run 'make setup'"
    return reasons
