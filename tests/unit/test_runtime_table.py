# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/runtime.md has the planner's table, and names what else decides."""

from __future__ import annotations

from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_plan import DYNAMIC, FORBIDDING, HASHES, KEYWORDS
from runtime_table import PAGE, TABLE, rendered


def test_the_table_of_keywords_is_the_planners() -> None:
    page = PAGE.read_text()
    assert TABLE.search(page), "the table has lost its place"
    assert page == rendered(page, KEYWORDS), "python tests/support/runtime_table.py makes it anew"


def test_what_a_backend_needs_is_all_there() -> None:
    page = PAGE.read_text().partition("## The keywords")[0]
    assert [word for word in (*DYNAMIC, *HASHES, *FORBIDDING) if f"`{word}`" not in page] == []
