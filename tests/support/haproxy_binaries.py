# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HAProxy versions that are at hand: the system's, and those that tests/support/haproxy_versions put into .cache/haproxy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "haproxy"

# What the tests are meant to run on: the releases with long support between Debian 12 and the newest.
WANTED = ("2.6", "3.0", "3.2")

# The role is made for this version and later: Ubuntu 22.04's 2.4 is left out.
OLDEST = (2, 6)


def version_of(binary: str) -> str | None:
    """The version as "3.0", or None when the binary does not run here (its interpreter is an absolute path: a moved checkout breaks it)."""
    try:
        answer = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"HA-?Proxy version (\d+\.\d+)", answer)
    return found.group(1) if found else None


def system_binary() -> str | None:
    # Not every user's PATH has the sbin folders.
    return shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"]))


@lru_cache(maxsize=None)  # noqa: UP033 (Python 3.8 has no shorter one)
def _found() -> dict[str, str]:
    candidates = [str(path) for path in CACHE.glob("*/haproxy")]
    system = system_binary()
    if system:
        candidates.append(system)
    found = {version: binary for binary in candidates if (version := version_of(binary))}
    numbers = {version: tuple(int(part) for part in version.split(".")) for version in found}
    return {version: found[version] for version in sorted(found, key=numbers.__getitem__) if numbers[version] >= OLDEST}


def binaries() -> dict[str, str]:
    """Version to path, oldest first, none too old. The system's binary wins over a fetched one of the same version. With HAPROXY_VERSION in the
    environment there is no other."""
    only = os.environ.get("HAPROXY_VERSION")
    return {version: binary for version, binary in _found().items() if only in (None, version)}


def missing() -> list[str]:
    return [version for version in WANTED if version not in _found()]


if __name__ == "__main__":
    for version, binary in binaries().items():
        print(version, binary)
    for version in missing():
        print(version, "could not be had")
