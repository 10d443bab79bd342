# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ids of server lines, which are long and the same everywhere: a test of something else reads better without."""

from __future__ import annotations

import re

from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_ids import of_name


def without_ids(text: str) -> str:
    """The text without the ids that a template makes of its servers' names; any other id is left, and so seen."""
    return re.sub(
        r"^(\s*server (\S+) \S+) id (\d+)(?!\S)", lambda found: found[1] if int(found[3]) == of_name(found[2]) else found[0], text, flags=re.MULTILINE
    )
