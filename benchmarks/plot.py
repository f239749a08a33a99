"""The picture of docs/performance.md: ``python -m benchmarks.plot RESULTS.json ... -o FILE.svg``."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#999999")  # Okabe and Ito
PANELS = (  # title, unit, what is compared with, and the rows in the order of the bars
    (
        "a decoded token, against the baseline alone",
        "ms a token",
        "baseline",
        ("shared base", "processor", "two models by hand", "transformers cfg"),
    ),
    ("loss of distillation: time, against naive", "ms", "naive", ("ours", "chunked")),
    ("loss of distillation: memory, against naive", "MiB", "naive", ("ours", "chunked")),
    (
        "correction of a step's logits, float32, against a copy of as many bytes",
        "ms",
        "copy",
        ("ours", "compiled", "eager"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    rows = [row for file in options.results for row in json.loads(file.read_text())["rows"]]
    draw(rows, options.output)


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """One panel a question, one group of bars a size, the line at 1 is what it is compared with."""
    rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(11, 3 * len(PANELS)), layout="constrained")
    for axes, (title, unit, base, names) in zip(figure.subplots(len(PANELS), 1), PANELS, strict=True):
        of_sizes: dict[str, dict[str, float]] = {}
        for row in rows:
            if row["unit"] == unit and not (base == "copy" and "bfloat16" in row["size"]):
                of_sizes.setdefault(row["size"], {})[row["name"]] = row["value"]
        _panel(axes, title, base, names, {size: found for size, found in of_sizes.items() if base in found})
    figure.savefig(file, metadata={"Date": None})


def _panel(axes: Axes, title: str, base: str, names: Sequence[str], of_sizes: dict[str, dict[str, float]]) -> None:
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [at + number * width for at in range(len(of_sizes))]
        bars = axes.bar(
            places,
            [found[name] / found[base] for found in of_sizes.values()],
            width * 0.9,
            label=name,
            color=COLOURS[number],
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
    axes.axhline(1, color="black", linewidth=0.8)
    middles = [at + 0.4 - width / 2 for at in range(len(of_sizes))]
    axes.set_xticks(middles, [re.sub(r", (?![\d,]+\])", "\n", size) for size in of_sizes])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=len(names), loc="upper left", bbox_to_anchor=(0, 1))
    axes.margins(y=0.25)


if __name__ == "__main__":
    main()
