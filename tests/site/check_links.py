# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether each link of the pages in a folder leads to a file there, and to an anchor of it; of links to other sites, whether they are well-formed.

LinkChecker says the same, but reads a page once for each link with an anchor to it, which takes minutes.
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


@cache
def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


def broken(root: Path) -> list[str]:
    """The links that lead nowhere, each behind its page."""
    found = []
    for path in sorted(root.rglob("*.html")):
        for link in sorted(read(path).links):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                good = bool(parts.hostname)
            elif parts.scheme:
                good = parts.scheme in ("mailto", "data")
            else:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                good = target.is_relative_to(root) and target.is_file()
                if good and parts.fragment and target.suffix == ".html":
                    # As a browser does: as it is written first, because an anchor of antsibull-docs may itself have a percent sign.
                    good = bool({parts.fragment, unquote(parts.fragment)} & read(target).anchors)
            if not good:
                found.append(f"{path.relative_to(root)}: {link}")
    return found


if __name__ == "__main__":
    wrong = broken(Path(sys.argv[1]).resolve())
    sys.exit("links that lead nowhere:\n" + "\n".join(wrong) if wrong else 0)
