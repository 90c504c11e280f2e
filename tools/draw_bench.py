"""Draws the chart of a page from what a bench printed with --json.

    switchover bench switchover-ack --json > rows.json
    tools/draw_bench.py rows.json docs/switchover-ack.svg

    switchover bench vfio-qemu --json > rows.json
    tools/draw_bench.py rows.json docs/vfio-qemu.svg

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


def panel_of(row: dict[str, Any]) -> str:
    """In which panel a row stands: that of its QEMU, or of its guest where there is none."""
    if "qemu" not in row:
        return f"{row['workload']} guest"
    is_ours = row["qemu"] == "switchover"
    return "switchover, built-in machine" if is_ours else f"QEMU {row['qemu']}"


def group_of(row: dict[str, Any]) -> str:
    """With which rows it stands together there."""
    allocation = f"{row['allocate_ms'] / 1000:g} s"
    return f"{allocation},\nbusy" if "qemu" in row and row["workload"] == "busy" else allocation


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    """A pair of bars for each group of a panel; whiskers from least to most."""
    names = list(dict.fromkeys(map(panel_of, rows)))
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(9, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, name in zip(panels[0], names, strict=True):
        here = [row for row in rows if panel_of(row) == name]
        groups = list(dict.fromkeys(map(group_of, here)))
        for with_ack in (False, True):
            # What did not complete has no bar.
            bars = [row for row in here if row["switchover_ack"] is with_ack and row["downtime_ms"]]
            spreads = [row["downtime_ms"] for row in bars]
            medians = [spread["median"] / 1000 for spread in spreads]
            below = [(spread["median"] - spread["min"]) / 1000 for spread in spreads]
            above = [(spread["max"] - spread["median"]) / 1000 for spread in spreads]
            side = _WIDTH / 2 if with_ack else -_WIDTH / 2
            drawn = axes.bar(
                [groups.index(group_of(row)) + side for row in bars],
                medians,
                _WIDTH,
                yerr=[below, above],
                capsize=3,
                color=_COLOURS[with_ack],
                label=_LABELS[with_ack],
            )
            axes.bar_label(drawn, [f"{value:.2f}" for value in medians], padding=2, fontsize=8)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlabel("allocation at the destination")
        axes.set_title(name)
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
