# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents show of a real run, made anew: `make demo` is told once more, its words go to docs/recorded-run.md, and what HAProxy's statistics
page says before and after the scale-out to docs/images.

The pictures are SVG, written from the page's own values (its CSV form): text that git can compare, and that is readable in light and dark.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "demo"))

import demo as story  # noqa: E402

PAGE = ROOT / "docs" / "recorded-run.md"
IMAGES = ROOT / "docs" / "images"
RUN = re.compile(r"(?<=^<!-- a run of make demo -->\n).*?(?=^<!-- end of the run -->$)", re.MULTILINE | re.DOTALL)

# The columns: heading, width in pixels, and what stands in them of a line of the CSV.
COLUMNS = (
    ("Server", 190, lambda line: line["svname"]),
    ("Status", 150, lambda line: f"{duration(line['lastchg'])} {line['status']}"),
    ("LastChk", 130, lambda line: f"{line['check_status']} in {line['check_duration']}ms" if line["check_duration"] else line["check_status"]),
    ("Wght", 55, lambda line: line["weight"]),
    ("Requests", 85, lambda line: line["req_tot"] or line["stot"]),
    ("2xx", 70, lambda line: line["hrsp_2xx"]),
    ("Errors", 65, lambda line: str(sum(int(line[name] or 0) for name in ("hrsp_5xx", "econ", "eresp")))),
)
STYLE = """
text { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1b1f24 }
.title { font-weight: bold } .head { fill: #57606a } .page { fill: #ffffff }
.UP { fill: #d3f5d8 } .DOWN { fill: #ffd6d6 } .MAINT { fill: #f1e3c4 } .OPEN { fill: #e8eaf6 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .head { fill: #9aa4af } .page { fill: #161b22 }
  .UP { fill: #1b4325 } .DOWN { fill: #5c1f22 } .MAINT { fill: #4d3f1f } .OPEN { fill: #262c4a }
}
"""


def duration(seconds: str) -> str:
    """Seconds as HAProxy's page writes them; a frontend has none."""
    return f"{int(seconds) // 60}m{int(seconds) % 60}s" if seconds and int(seconds) >= 60 else f"{seconds}s" if seconds else ""


def statistics(port: int) -> list[dict[str, str]]:
    """The lines of the statistics page, but for those of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/;csv", timeout=10) as answer:
        lines = list(csv.DictReader(io.StringIO(answer.read().decode().removeprefix("# "))))
    return [line for line in lines if line["pxname"] != "stats"]


def drawn(title: str, lines: list[dict[str, str]]) -> str:
    """The lines as a table in SVG."""
    width, height = 20 + sum(column[1] for column in COLUMNS), 24
    rows = [
        f'<rect class="page" width="{width}" height="{height * (len(lines) + 2) + 20}" rx="6"/>',
        f'<text class="title" x="10" y="26">{escape(title)}</text>',
    ]

    def row(number: int, style: str, cells: list[str]) -> None:
        x, y = 10, height * number + 10
        if style != "head":
            rows.append(f'<rect class="{style}" x="5" y="{y}" width="{width - 10}" height="{height - 2}"/>')
        of_text = ' class="head"' if style == "head" else ""
        for (_name, column, _value), cell in zip(COLUMNS, cells, strict=True):
            rows.append(f'<text{of_text} x="{x}" y="{y + 16}">{escape(cell)}</text>')
            x += column

    row(1, "head", [column[0] for column in COLUMNS])
    for number, line in enumerate(lines, 2):
        named = {**line, "svname": f"{line['pxname']}, {line['svname'].lower()}" if line["svname"] in ("FRONTEND", "BACKEND") else line["svname"]}
        row(number, line["status"].split()[0], [value(named) for _name, _width, value in COLUMNS])
    body = "\n".join(rows)
    size = f'width="{width}" height="{height * (len(lines) + 2) + 20}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height * (len(lines) + 2) + 20}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def main() -> None:
    # The user's own settings have no place here, as in the demo.
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "ANSIBLE_")):
            del os.environ[name]
    haproxy = shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]))
    if haproxy is None:
        raise SystemExit("There is no HAProxy here.")
    version = subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout.split()[2].partition("-")[0]
    story.adopt_orphans()
    demo, said = story.Demo(str(Path(haproxy).absolute())), io.StringIO()
    os.environ["TMPDIR"] = str(demo.folder)
    try:
        demo.start()
        pictures = {}
        with contextlib.redirect_stdout(said):
            story.first_run(demo)
            # The page then has what the first checks said.
            demo.wait_for(story.ADDRESSES[:3])
            pictures["before"] = statistics(demo.stats_port)
            story.second_run(demo)
            story.third_run(demo)
            pictures["after"] = statistics(demo.stats_port)
            story.fourth_run(demo)
    finally:
        demo.stop()
    for name, lines in pictures.items():
        (IMAGES / f"statistics-{name}.svg").write_text(drawn(f"HAProxy {version}, statistics {name} the scale-out", lines))
    text = said.getvalue().replace(str(demo.folder), "FOLDER").strip()
    PAGE.write_text(RUN.sub(lambda _found: f"\n```text\n{text}\n```\n\n", PAGE.read_text()))
    print("docs/recorded-run.md and docs/images/statistics-*.svg are of this run", file=sys.stderr)


if __name__ == "__main__":
    main()
