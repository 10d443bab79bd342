# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's tarball, the same bytes from the same commit: python tests/support/tarball.py [--release] <folder>

`ansible-galaxy collection build` makes it of the export, and puts the time and the order of the file system into it. Both are taken out afterwards: each
time is that of the last commit (SOURCE_DATE_EPOCH, where it is set), and the files are in the order of their names, in the archive and in FILES.json.

With --release it is made only of what is committed, and only of a version that the changelog has.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ("MANIFEST.json", "FILES.json")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def refusals() -> list[str]:
    """Why what is in the checkout is no release; empty when it is one."""
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    found = []
    if changed := _git("status", "--porcelain"):
        found.append(f"it is not committed:\n{changed}")
    if version not in yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())["releases"]:
        found.append(f"the changelog has no {version}: run antsibull-changelog release")
    elif not re.search(rf"^## v{re.escape(version)}$", (ROOT / "CHANGELOG.md").read_text().replace("\\", ""), re.MULTILINE):
        found.append(f"CHANGELOG.md has no section v{version}: run antsibull-changelog generate")
    if left := sorted(path.name for path in (ROOT / "changelogs" / "fragments").glob("*.yml")):
        found.append(f"changes that the changelog does not have: {', '.join(left)}")
    return found


def _json(data: Any) -> bytes:
    # As ansible-galaxy writes it.
    return json.dumps(data, indent=True).encode()


def normalized(tarball: bytes, moment: int) -> bytes:
    """A collection's tarball with its files in order, and this time (seconds since 1970) for each."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        members = {member.name: (member, archive.extractfile(member)) for member in archive.getmembers()}
        contents = {name: file.read() for name, (_member, file) in members.items() if file}
    files = json.loads(contents["FILES.json"])
    files["files"].sort(key=lambda file: file["name"])
    contents["FILES.json"] = _json(files)
    manifest = json.loads(contents["MANIFEST.json"])
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(contents["FILES.json"]).hexdigest()
    contents["MANIFEST.json"] = _json(manifest)

    written = io.BytesIO()
    # ansible-galaxy reads MANIFEST.json first.
    names = [*MANIFESTS, *sorted(members.keys() - set(MANIFESTS))]
    with (
        gzip.GzipFile(filename="", fileobj=written, mode="wb", mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = members[name][0].type, members[name][0].mode, moment
            member.size = len(contents.get(name, b""))
            archive.addfile(member, io.BytesIO(contents[name]) if name in contents else None)
    return written.getvalue()


def build(folder: Path) -> Path:
    """Make the tarball in this folder, with the ansible-galaxy that lies beside the Python that runs this.

    :raises subprocess.CalledProcessError: when the export or ansible-galaxy fails; both have said why.
    """
    moment = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as scratch:
        # Plain folders. From the checkout it can be built too, but only by its real path: through a link the directory links are dropped without a word.
        subprocess.run([ROOT / "tests" / "support" / "export", scratch], check=True)
        subprocess.run(
            [Path(sys.executable).with_name("ansible-galaxy"), "collection", "build", "--output-path", scratch, "."],
            cwd=Path(scratch, "ansible_collections", "autoscale", "haproxy"),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (built,) = Path(scratch).glob("*.tar.gz")
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / built.name
        made.write_bytes(normalized(built.read_bytes(), moment))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the collection's tarball.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--release", action="store_true", help="only of a commit whose version the changelog has")
    options = parser.parse_args()
    if options.release and (found := refusals()):
        sys.exit("\n".join(["This is no release:", *found]))
    made = build(options.folder.resolve())
    print(f"{made}\nsha256 {hashlib.sha256(made.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
