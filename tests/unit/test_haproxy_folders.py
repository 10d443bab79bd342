# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What is written is on the disk, and whether there is space is looked up and never tried."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_state import shortage, write_atomically


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_before_anything_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a power cut would find it; the calls, because nobody can cut the power here."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        # What is still in the program's own buffer would not be brought to the disk.
        calls.append("sync the folder" if place == tmp_path else f"sync {place.read_text()}, while the file is {path.read_text()}")
        real_sync(descriptor)

    def replace(source: str, target: str) -> None:
        calls.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(str(path), b"new")
    assert calls == ["sync new, while the file is old", "replace", "sync the folder"]
    assert path.read_bytes() == b"new"


def test_a_folder_with_space_lacks_nothing_also_before_it_is_made(tmp_path: Path) -> None:
    assert shortage(str(tmp_path), 1000) == ""
    assert shortage(str(tmp_path / "a" / "b"), 1000) == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_larger_than_the_disk_is_refused_with_both_sizes(tmp_path: Path) -> None:
    assert re.fullmatch(rf"no space left in {tmp_path}: {2**60} bytes are needed, \d+ are free", shortage(str(tmp_path / "a"), 2**60))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_elses_cannot_be_written() -> None:
    assert shortage("/usr/lib", 1) == "/usr/lib cannot be written"
