# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release is the same bytes whoever makes it, of what is committed and told in the changelog; and the gates of what is published can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from balancer import ROOT

BIN = Path(sys.executable).parent
# Nobody's configuration of git, and a name for the commits.
ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
for who in ("AUTHOR", "COMMITTER"):
    ENVIRONMENT |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@localhost"}


def run(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    home = {"HOME": str(folder.parent), "ANSIBLE_HOME": str(folder.parent / "ansible")}
    return subprocess.run(words, cwd=folder, env={**os.environ, **ENVIRONMENT, **home}, capture_output=True, text=True, timeout=240)


def succeed(folder: Path, *words: str | Path) -> str:
    done = run(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(folder: Path) -> None:
    succeed(folder, "git", "add", "--all")
    succeed(folder, "git", "commit", "--quiet", "--message", "As it is")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of this checkout with its uncommitted changes, all committed."""
    folder = tmp_path / "clone"
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name and name not in (".venv", ".cache") and os.path.lexists(ROOT / name)]
    packed = subprocess.run(["tar", "--create", "--null", "--files-from=-"], input="\0".join(names).encode(), cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "--extract"], input=packed.stdout, cwd=folder, check=True)
    succeed(folder, "git", "init", "--quiet")
    commit(folder)
    return folder


def test_a_release_is_told_in_the_changelog_and_gives_the_same_bytes_twice(checkout: Path, tmp_path: Path) -> None:
    tarball = (BIN / "python", "tests/support/tarball.py", "--release")
    refused = run(checkout, *tarball, tmp_path / "refused")
    assert refused.returncode != 0
    assert "the changelog has no 0.1.0" in refused.stderr
    assert not (tmp_path / "refused").exists()

    # As CONTRIBUTING.md says.
    succeed(checkout, BIN / "antsibull-changelog", "release")
    refused = run(checkout, *tarball, tmp_path / "refused")
    assert refused.returncode != 0
    assert "it is not committed" in refused.stderr
    assert "the changelog has no" not in refused.stderr
    commit(checkout)
    succeed(checkout, *tarball, tmp_path / "one")

    other = tmp_path / "elsewhere" / "other"
    succeed(tmp_path, "git", "clone", "--quiet", checkout, other)
    # Other times, another order in the folders, other rights.
    for path in sorted(other.glob("docs/*.md"), reverse=True):
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)
        path.chmod(0o600)
    succeed(other, *tarball, tmp_path / "two")
    (one,), (two,) = ((tmp_path / name).iterdir() for name in ("one", "two"))
    assert one.name == two.name == "autoscale-haproxy-0.1.0.tar.gz"
    assert one.read_bytes() == two.read_bytes()


def test_the_gates_of_what_is_published_see_a_planted_fault(checkout: Path) -> None:
    (checkout / ".venv").symlink_to(BIN.parent)
    (checkout / ".cache").mkdir()
    # What ansible-test installs for itself is not installed a second time.
    (ROOT / ".cache" / "ansible-test").mkdir(exist_ok=True)
    (checkout / ".cache" / "ansible-test").symlink_to(ROOT / ".cache" / "ansible-test")
    shared = checkout / "module_utils" / "haproxy_autoscale" / "haproxy_ids.py"
    shared.write_text(f"{shared.read_text()}\nassert RING\n")
    module = checkout / "library" / "haproxy_facts.py"
    assert "argument_spec=" in module.read_text()
    module.write_text(module.read_text().replace("argument_spec=", "argument_spec={'planted': {}} or ", 1))
    seen = run(checkout, "tests/sanity.sh", "--test", "no-assert", "--test", "validate-modules")
    assert seen.returncode != 0
    assert "haproxy_ids.py" in seen.stdout + seen.stderr
    assert "'planted'" in seen.stdout + seen.stderr

    galaxy = checkout / "galaxy.yml"
    galaxy.write_text(galaxy.read_text().replace("  - infrastructure\n", ""))
    made = succeed(checkout, BIN / "python", "tests/support/tarball.py", "build").splitlines()[0]
    refused = run(checkout, "tests/galaxy.sh", made)
    assert refused.returncode != 0
    assert "Invalid collection metadata" in refused.stdout + refused.stderr
