"""The demo's picture: one panel a measure, one bar a model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from generic_logits.errors import InputError

_COLOURS = {"baseline": "#d55e00", "generic": "#e69f00", "distilled": "#0072b2", "gold": "#999999"}  # Okabe and Ito
_PANELS = (
    ("familiarity_probability", "probability of the book's words"),
    ("familiarity_completion", "completions with the book's names"),
    ("verbatim_rouge_l", "word-for-word overlap (ROUGE-L)"),
    ("retained_perplexity", "perplexity of other, unread stories"),
)


def check_matplotlib() -> None:
    """Refuse to begin without the library that draws.

    Raises:
        InputError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise InputError("matplotlib, for the picture", "none", "pip install 'generic-logits[demo]'")


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Save the rows of the demo's table as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle("Forgotten: the first three. Kept: the last. Gold never read the book.")
    names = [row["model"] for row in rows][::-1]
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        values = [row[key] for row in rows][::-1]
        bars = axes.barh(names, values, color=[_COLOURS[name] for name in names])
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.axvline(values[0], color=_COLOURS["gold"], linestyle=":", linewidth=1)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlim(0, max(values) * 1.15 or 1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)
