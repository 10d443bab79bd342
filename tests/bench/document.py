#!/usr/bin/env python3
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what bench.py has measured into docs/performance.md, between its markers, and into its plot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import BARS, RESULTS, ROOT, WAYS
from matplotlib import rcParams
from matplotlib.figure import Figure

DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "performance.svg"
MODULES = ("ec2_instance_info", "ec2_security_group_instance_facts", "haproxy_facts")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["--:" if number else "---" for number in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def section(found: dict[str, Any]) -> str:
    """The text of one ansible-core."""
    rows, memory, alone = [], [], []
    for size, costs in found["runs"].items():
        ratio = costs["ours"]["cpu"] / costs["plain"]["cpu"]
        bar = BARS.get(int(size))
        said = f"{ratio:.2f}" + (f" (bar {bar}: {'met' if ratio <= bar else 'not met'})" if bar else "")
        rows.append([f"{int(size):,}", *(f"{costs[way]['cpu']:.1f} s ({costs[way]['wall']:.1f} s)" for way in WAYS), said])
        memory.append([f"{int(size):,}", *(f"{costs[way]['memory']:.0f} MiB" for way in WAYS)])
    for size, costs in found["modules"].items():
        alone.append([f"{int(size):,}", *(f"{costs[name]:.2f} s" for name in MODULES)])
    text = (
        f"### ansible-core {found['core']}\n\nPython {found['python']}, HAProxy {found['haproxy']}, {found['cores']} cores ({found['machine']}), "
        f"the median of {found['repetitions']} runs of each.\n\nProcessor time of a whole run, and in brackets how long it took:\n\n"
        + _table(["Instances", *WAYS.values(), "`update.yml` against the plain way"], rows)
        + "\nPeak memory of all its processes together:\n\n"
        + _table(["Instances", *WAYS.values()], memory)
    )
    few, many = found["runs"].get("1000"), found["runs"].get("10000")
    if few and many:
        growth, memory = many["ours"]["cpu"] / few["ours"]["cpu"], many["ours"]["memory"]
        text += (
            f"\nWith ten times as many instances, 10,000 for 1,000, `update.yml` takes {growth:.1f} times as long (bar 10, which is linear: "
            f"{'met' if growth <= 10 else 'not met'}), and {memory:.0f} MiB (the aim is 200: {'met' if memory <= 200 else 'not met'}).\n"
        )
    if alone:
        text += "\nProcessor time of the modules alone:\n\n" + _table(["Instances", *(f"`{name}`" for name in MODULES)], alone)
    if "changes" in found:
        largest = max(map(int, found["runs"]))
        rows = [[name, f"{seconds:.2f} s"] for name, seconds in found["changes"].items()]
        text += f"\nWith {largest:,} servers, how long the module takes to plan a change of so many servers and to apply it:\n\n" + _table(
            ["What", "Time"], rows
        )
    return text


def plot(every: list[dict[str, Any]]) -> None:
    """Processor time against instances, a line for each way."""
    # The same bytes from the same figures, and text that stays text.
    rcParams.update({"svg.hashsalt": "performance", "svg.fonttype": "none"})
    figure = Figure(figsize=(9, 4))
    for axes, found in zip(figure.subplots(1, len(every), sharey=True, squeeze=False)[0], every, strict=True):
        sizes = [int(size) for size in found["runs"]]
        for way, label in WAYS.items():
            axes.loglog(sizes, [costs[way]["cpu"] for costs in found["runs"].values()], marker="o", label=label.replace("`", ""))
        axes.set_title(f"ansible-core {found['core']}")
        axes.set_xlabel("instances")
        axes.set_ylabel("processor time of a run, seconds")
        axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    every = [json.loads(path.read_text()) for path in sorted(Path(RESULTS).glob("*.json"))]
    text = DOCUMENT.read_text()
    measured = "<!-- measured: begin -->\n\n" + "\n".join(map(section, every)) + "\n<!-- measured: end -->"
    DOCUMENT.write_text(re.sub(r"<!-- measured: begin -->.*<!-- measured: end -->", lambda match: measured, text, flags=re.DOTALL))
    plot(every)


if __name__ == "__main__":
    main()
