"""The picture of docs/performance.md: ``python -m benchmarks.plot RESULTS.json ... -o FILE.svg``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#999999")  # Okabe and Ito
PANELS = (  # title, unit, rows of the table, in the order of the bars
    (
        "a decoded token, against the baseline alone",
        "ms a token",
        ("shared base", "processor", "two models by hand", "transformers cfg"),
    ),
    ("loss of distillation: time, against naive", "ms", ("ours", "chunked", "naive")),
    ("loss of distillation: memory, against naive", "MiB", ("ours", "chunked", "naive")),
    (
        "correction of a step's logits, against a copy of as many bytes",
        "ms",
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
    figure = Figure(figsize=(11, 3.2 * len(PANELS)), layout="constrained")
    for axes, (title, unit, names) in zip(figure.subplots(len(PANELS), 1), PANELS, strict=True):
        _panel(axes, title, names, [row for row in rows if row["unit"] == unit])
    figure.savefig(file, metadata={"Date": None})


def _panel(axes: Axes, title: str, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
    of_size = {row["size"]: {} for row in rows if row["name"] in names}
    for row in rows:
        if row["size"] in of_size:
            of_size[row["size"]][row["name"]] = row["value"] / _base(row, rows)
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [at + number * width for at, ratios in enumerate(of_size.values()) if name in ratios]
        values = [ratios[name] for ratios in of_size.values() if name in ratios]
        bars = axes.bar(places, values, width * 0.9, label=name, color=COLOURS[number])
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(
        [at + 0.4 - width / 2 for at in range(len(of_size))], [size.replace(", ", "\n") for size in of_size]
    )
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=len(names), loc="upper left", bbox_to_anchor=(0, 1))
    axes.margins(y=0.25)


def _base(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    """What the panel's rows of this size are compared with: the copy where there is one, else the row's reference."""
    names = {"copy", row["reference"]}
    same = {each["name"]: each["value"] for each in rows if each["size"] == row["size"] and each["name"] in names}
    return same.get("copy", same[row["reference"]])


if __name__ == "__main__":
    main()
