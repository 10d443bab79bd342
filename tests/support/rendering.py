# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates rendered in this process as the role renders them: by Ansible's lookup, with the role's defaults around them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, lookup_loader
from ansible.template import Templar, trust_as_template
from balancer import ROOT

ROLE = ROOT / "roles" / "haproxy_autoscale"
# How a template finds what it imports; the playbook's own folder stands behind it.
SEARCH_PATH = [str(ROLE), str(ROLE / "tasks")]


@cache
def _loader() -> DataLoader:
    init_plugin_loader([])
    return DataLoader()


@cache
def _of_role() -> dict[str, Any]:
    """The role's defaults and variables, and where it lies."""
    found: dict[str, Any] = {"role_path": str(ROLE)}
    for file in ("defaults/main.yml", "vars/main.yml"):
        found.update(_loader().load_from_file(str(ROLE / file), trusted_as_template=True))
    return found


def render(template: Path, instances: Mapping[str, Sequence[Mapping[str, Any]]], **variables: Any) -> str:
    """The text that the role would write; a failure is Ansible's own exception."""
    values = {
        **_of_role(),
        "playbook_dir": str(template.parent),
        "ansible_search_path": [*SEARCH_PATH, str(template.parent)],
        "haproxy_autoscale_security_groups": list(instances),
        "instances": instances,
        **variables,
    }
    templar = Templar(loader=_loader(), variables=values)
    (text,) = lookup_loader.get("ansible.builtin.template", loader=_loader(), templar=templar).run([str(template)], values)
    return str(text)


def words(template: str, **variables: Any) -> str:
    """What a text of the role's own gives, with its defaults and variables around it."""
    return str(Templar(loader=_loader(), variables={**_of_role(), **variables}).template(trust_as_template(template)))


def judged(binary: str, text: str) -> tuple[int, str]:
    """HAProxy's exit status for the text, and what it says of it; nothing but silence is no complaint."""
    done = subprocess.run([binary, "-c", "-f", "/dev/stdin"], input=text, capture_output=True, text=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).replace("Configuration file is valid\n", "")
