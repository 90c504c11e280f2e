"""Draws docs/switchover-ack.svg from what `switchover bench switchover-ack --json` printed.

    switchover bench switchover-ack --json > rows.json
    tools/draw_bench.py rows.json docs/switchover-ack.svg

It needs matplotlib, which `make charts` installs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "switchover"
from matplotlib import pyplot  # noqa: E402

_WIDTH = 0.38
_COLOURS = {False: "#c0504d", True: "#4f81bd"}
_LABELS = {False: "without the ACK", True: "with the ACK"}


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    """A panel for each guest, a pair of bars for each allocation; whiskers from least to most."""
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    figure, panels = pyplot.subplots(
        1, len(workloads), figsize=(9, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, workload in zip(panels[0], workloads, strict=True):
        here = [row for row in rows if row["workload"] == workload]
        allocations = sorted({row["allocate_ms"] for row in here})
        for with_ack in (False, True):
            bars = [row for row in here if row["switchover_ack"] is with_ack]
            bars.sort(key=lambda row: row["allocate_ms"])
            spreads = [row["downtime_ms"] for row in bars]
            medians = [spread["median"] / 1000 for spread in spreads]
            below = [(spread["median"] - spread["min"]) / 1000 for spread in spreads]
            above = [(spread["max"] - spread["median"]) / 1000 for spread in spreads]
            side = _WIDTH / 2 if with_ack else -_WIDTH / 2
            places = [place + side for place in range(len(allocations))]
            drawn = axes.bar(
                places,
                medians,
                _WIDTH,
                yerr=[below, above],
                capsize=3,
                color=_COLOURS[with_ack],
                label=_LABELS[with_ack],
            )
            axes.bar_label(drawn, [f"{value:.2f}" for value in medians], padding=2, fontsize=8)
        axes.set_xticks(range(len(allocations)), [f"{ms / 1000:g} s" for ms in allocations])
        axes.set_xlabel("allocation at the destination")
        axes.set_title(f"{workload} guest")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("downtime, s")
    panels[0][0].legend(frameon=False)
    figure.savefig(output, metadata={"Date": None})


def main() -> None:
    """Reads the rows and draws them."""
    parser = argparse.ArgumentParser(description="Draws what a bench measured.")
    parser.add_argument("rows", type=Path, help="what the bench printed with --json")
    parser.add_argument("output", type=Path, help="the SVG file")
    arguments = parser.parse_args()
    draw(json.loads(arguments.rows.read_text())["rows"], arguments.output)


if __name__ == "__main__":
    main()
