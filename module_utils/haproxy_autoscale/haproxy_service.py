# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""How a HAProxy service is started: its command line and environment, as its systemd unit says.

While HAProxy runs, the process itself tells (see haproxy_process). This is for the time before: what a check has to know
then is in files that only the service manager reads. They are read directly, because not every host with a unit has a
running systemd (a container, a chroot).
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

# Where systemd looks for units, the first place first (systemd.unit(5)).
UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")

# What Debian's init script does, in the words of a unit.
_INIT_SCRIPT = "[Service]\nEnvironment=CONFIG=/etc/haproxy/haproxy.cfg\nEnvironmentFile=-/etc/default/{name}\nExecStart=haproxy -f $CONFIG $EXTRAOPTS\n"


class Launch(NamedTuple):
    """How a service starts its process: the words of the command, the program first, and the environment."""

    arguments: list[str]
    environment: dict[str, str]


def find_launch(service_name: str, folders: Sequence[str] = UNIT_FOLDERS) -> Launch | None:
    """How the service is started, by its unit or else its init script; None when it has neither."""
    texts = _unit_texts(service_name, folders)
    if not texts and os.path.exists(os.path.join("/etc/init.d", service_name)):
        texts = [_INIT_SCRIPT.format(name=service_name)]
    return parse_unit(texts, _read_all) if texts else None


def _unit_texts(service_name: str, folders: Sequence[str]) -> list[str]:
    """The unit and its drop-ins, in the order in which systemd reads them (systemd.unit(5)); empty without a unit."""
    unit = f"{service_name}.service"
    found = next((path for path in (os.path.join(folder, unit) for folder in folders) if os.path.isfile(path)), None)
    if found is None:
        return []
    # A drop-in's name counts, not its folder; of two with one name the one in the first folder does.
    drop_ins: dict[str, str] = {}
    for folder in reversed(folders):
        for path in glob.glob(os.path.join(glob.escape(os.path.join(folder, f"{unit}.d")), "*.conf")):
            drop_ins[os.path.basename(path)] = path
    return [text for path in [found, *(drop_ins[name] for name in sorted(drop_ins))] for text in _read_all(path)]


def _read_all(pattern: str) -> list[str]:
    """The texts of the files that match; one that cannot be read is left out, as HAProxy would hardly start with it."""
    texts = []
    for path in sorted(glob.glob(pattern)):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as handle:
                texts.append(handle.read())
        except OSError:
            continue
    return texts


def parse_unit(texts: Iterable[str], read: Callable[[str], list[str]]) -> Launch | None:
    """Read a unit with its drop-ins: `ExecStart`, `Environment` and `EnvironmentFile` (systemd.exec(5), systemd.service(5)).

    `read` gives the texts of the files that a pattern names. None when there is no command. Pure but for `read`.
    """
    command = ""
    settings: dict[str, str] = {}
    files: list[str] = []
    for key, value in _service_lines(texts):
        if key == "ExecStart":
            command = value
        elif key == "Environment":
            settings = {**settings, **dict(_assignments(_split(value)))} if value else {}
        elif key == "EnvironmentFile":
            files = [*files, value] if value else []
    if not command:
        return None
    # Files win over `Environment`, whatever the order of the lines.
    for pattern in files:
        for text in read(pattern.lstrip("-")):
            settings.update(_file_assignments(text))
    return Launch(_expand(_split(command.lstrip("-@:+!|")), settings), settings)


def _service_lines(texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        section = ""
        # A backslash at its end continues a line.
        for line in map(str.strip, re.sub(r"\\\r?\n", " ", text).splitlines()):
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line[:1] not in ("#", ";") and "=" in line:
                key, _equals, value = line.partition("=")
                yield key.strip(), value.strip()


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()  # a quote that is not closed


def _assignments(words: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, equals, value in (word.partition("=") for word in words) if equals]


def _file_assignments(text: str) -> list[tuple[str, str]]:
    """The lines of an environment file. `export` is what an init script's file may say, which the shell reads."""
    found = []
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        name, equals, value = re.sub(r"^\s*export\s+", "", line).strip().partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            found.append((name, " ".join(_split(value))))
    return found


def _expand(words: Iterable[str], settings: dict[str, str]) -> list[str]:
    """`$NAME` alone becomes as many words as its value has, `${NAME}` its value within the word."""
    found = []
    for word in words:
        alone = re.fullmatch(r"\$([A-Za-z_][A-Za-z0-9_]*)", word)
        if alone:
            found += settings.get(alone.group(1), "").split()
        else:
            found.append(re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda match: settings.get(match.group(1), ""), word).replace("$$", "$"))
    return found
