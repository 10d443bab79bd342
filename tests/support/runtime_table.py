# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of server keywords in docs/runtime.md, made from the planner's own."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from balancer import ROOT

PAGE = ROOT / "docs" / "runtime.md"
TABLE = re.compile(r"(?<=^<!-- table of keywords -->\n).*?(?=^<!-- end of table -->$)", re.MULTILINE | re.DOTALL)
VERSIONS = ((2, 6), (3, 0), (3, 2))


def table(keywords: Mapping[str, Any]) -> str:
    lines = ["| Keyword | 2.6 | 3.0 | 3.2 | Why a reload |", "|---|---|---|---|---|"]
    for keyword, row in sorted(keywords.items()):
        ways = ["unknown" if version < row.known else "runtime" if row.since and version >= row.since else "reload" for version in VERSIONS]
        lines.append(f"| `{keyword}` | {' | '.join(ways)} | {row.why} |".replace("|  |", "| |"))
    return "\n" + "\n".join(lines) + "\n\n"


def rendered(page: str, keywords: Mapping[str, Any]) -> str:
    """The page with the table as it has to be."""
    return TABLE.sub(lambda _found: table(keywords), page)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    # It makes the collection importable.
    import conftest  # noqa: F401
    from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_plan import KEYWORDS

    PAGE.write_text(rendered(PAGE.read_text(), KEYWORDS))
