# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gallery of templates: docs/templates.md holds variables and templates, and this puts what they give behind them.

The first block of YAML is the instances. A result stands between two comments, and is made of the last block of YAML before it, and of the template that
the comment names, or else ("it") of the last block of Jinja.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from balancer import ROOT
from rendering import render

PAGE = ROOT / "docs" / "templates.md"
RESULT = re.compile(r"(?<=^<!-- result of )(\S+)( -->\n).*?(?=^<!-- end of result -->$)", re.MULTILINE | re.DOTALL)


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def results(page: str) -> Iterator[tuple[str, str]]:
    """What stands in each comment, and the text that is rendered for it."""
    everywhere = yaml.safe_load(_blocks(page, "yaml")[0])
    with tempfile.TemporaryDirectory() as folder:
        for found in RESULT.finditer(page):
            before = page[: found.start()]
            template = ROOT / found.group(1)
            if found.group(1) == "it":
                template = Path(folder) / "own.cfg.j2"
                template.write_text(_blocks(before, "jinja")[-1])
            yield found.group(1), render(template, **{**everywhere, **yaml.safe_load(_blocks(before, "yaml")[-1])})


def rendered(page: str) -> str:
    """The page with the results that its templates give now."""
    made = iter([text for _name, text in results(page)])
    return RESULT.sub(lambda found: f"{found.group(1)}{found.group(2)}\n```text\n{next(made)}```\n\n", page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
    print(f"{PAGE.relative_to(ROOT)} is what the templates give", file=sys.stderr)
