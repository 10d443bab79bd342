# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Settle the numeric ids of a text's servers: who stays keeps its own, and no two of a backend are alike.

Pure functions over two texts. A template writes a hash of each server's name, and can know neither the file in force nor that two
hashes are the same. Here both are known.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from .haproxy_config import SECTIONS, split_line

# HAProxy takes ids from 1 to 2^31 - 1 (Configuration Manual 5.2 "id").
HIGHEST = 2**31 - 1

# Measured: with a consistent hash, and with `balance random`, servers whose ids are equal modulo 2^20 share one server's part of the
# requests, on 2.6 and 3.2 (not on 3.0). That algorithm may be the next one, and ids are to stay, so it counts for all.
RING = 2**20

# The role replaces the number in the same way (__haproxy_autoscale_settled_text).
_ID = re.compile(r"^(.*?\sid\s+)([0-9]+)")


class _Line(NamedTuple):
    """A `server` line: where it stands in the text, counted from 1, and the id that it says; 0 where it says none. `ours` is whether that
    is the hash of the name, and can be replaced. Another one is the operator's."""

    number: int
    name: str
    id: int
    ours: bool


def of_name(name: str) -> int:
    """The id for a server of this name; the macro server_id() of haproxy-macros.j2 gives the same."""
    return int(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % HIGHEST + 1


def _line(number: int, text: str, words: list[str]) -> _Line:
    given = [int(value) for keyword, value in zip(words[3:], words[4:]) if keyword == "id" and re.fullmatch("[0-9]+", value)]
    found = _ID.match(text)
    ours = bool(given) and found is not None and [of_name(words[1])] == given == [int(found.group(2))]
    return _Line(number, words[1], given[-1] if given else 0, ours)


def _backends(text: str) -> dict[str, list[_Line]]:
    """The server lines of each `backend` and `listen` section, by its name."""
    found: dict[str, list[_Line]] = {}
    here: list[_Line] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = split_line(line)
        if words and words[0] in SECTIONS:
            here = found.setdefault(words[1], []) if words[0] in ("backend", "listen") and len(words) > 1 else []
        elif words[:1] == ["server"] and len(words) > 2:
            here.append(_line(number, line, words))
    return found


def _taken(lines: list[_Line]) -> set[int]:
    """The places on the ring of these servers' ids. HAProxy numbers those without one from 1 on, and passes over what is taken."""
    positions = range(1, 2 * len(lines) + 1) if any(not line.id for line in lines) else ()
    return {line.id % RING for line in lines if line.id}.union(positions)


def _settle_backend(lines: list[_Line], before: list[_Line]) -> dict[str, int]:
    """The ids of the servers that have one of ours, by name: of an .if, each branch may have its own line of a server."""
    had = {line.name: line.id for line in before if line.id}
    others = [line for line in lines if not line.ours]
    fixed = {line.id for line in others}
    found = {line.name: had[line.name] for line in lines if line.ours and line.name in had and had[line.name] not in fixed}
    # Those of all that are there, because a server that leaves has its id until it is gone.
    taken = _taken(others) | _taken(before)
    for line in lines:
        if line.ours and line.name not in found:
            number = line.id
            while number % RING in taken:
                number = number % HIGHEST + 1
            taken.add(number % RING)
            found[line.name] = number
    return found


def settle(text: str, in_force: str) -> dict[int, int]:
    """The ids that have to stand in `text` where other ones do: by the number of the line, counted from 1. Mostly there are none.

    A server keeps the id that it has in `in_force`. Another one gets the hash of its name, or where that is taken the next one that is free.
    """
    # The ordinary run, which need not read them.
    if text == in_force:
        return {}
    before = _backends(in_force)
    found: dict[int, int] = {}
    for backend, lines in _backends(text).items():
        ids = _settle_backend(lines, before.get(backend, []))
        found.update({line.number: ids[line.name] for line in lines if line.ours and ids[line.name] != line.id})
    return found


def replace(text: str, ids: Mapping[int, int]) -> str:
    """The text with these ids in these lines."""
    if not ids:
        return text
    return "\n".join(_ID.sub(rf"\g<1>{ids[number]}", line) if number in ids else line for number, line in enumerate(text.split("\n"), 1))
