# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies in docs/iam.md: it holds the role's variables, and this puts the policies that they need behind them.

Each policy stands between two comments, of which the first names its identity, and is made of the last block of YAML before it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "iam.md"
POLICY = re.compile(r"(?<=^<!-- policy of )([^\n]+)( -->\n).*?(?=^<!-- end of policy -->$)", re.MULTILINE | re.DOTALL)
OPTIONS = ("regions", "lifecycle", "instance_status", "interface", "profile", "assume_role_arn", "sources")


def options_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ec2_iam_policy, from the role's variables; unset ones as the module has them."""
    defaults: dict[str, Any] = {**dict.fromkeys(OPTIONS), "lifecycle": "any", "instance_status": "any", "lifecycle_hook_name": ""}
    given = {name.replace("haproxy_autoscale_", "", 1): value for name, value in variables.items()}
    hook = {"lifecycle_hook_name": given.get("complete_lifecycle_action", "")}
    return {**defaults, **{name: value for name, value in given.items() if name in OPTIONS}, **hook}


def page_with_policies(page: str) -> str:
    """The page with the policies that are made now."""
    from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_policy import policies

    def made(found: re.Match[str]) -> str:
        variables = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```$", page[: found.start()], re.MULTILINE | re.DOTALL)[-1])
        of_each = {entry["identity"]: entry["policy"] for entry in policies(options_of(variables))}
        return f"{found.group(1)}{found.group(2)}\n```json\n{json.dumps(of_each[found.group(1)], indent=2)}\n```\n\n"

    return POLICY.sub(made, page)


def _main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        namespace = Path(folder, "ansible_collections", "autoscale")
        namespace.mkdir(parents=True)
        (namespace / "haproxy").symlink_to(ROOT)
        sys.path.insert(0, folder)
        PAGE.write_text(page_with_policies(PAGE.read_text()))
    print(f"{PAGE.relative_to(ROOT)} has the policies that are made now", file=sys.stderr)


if __name__ == "__main__":
    _main()
