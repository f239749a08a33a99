"""The frontier of a calibration as a picture: familiarity against the perplexity of retained text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Protocol

from generic_logits.evaluation.figures import Figure

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 480, 70, 30, 80, 60
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito
_ACROSS = "familiarity: mean probability of the text's own words (filled: no other is better in both)"
_DASHES = ("", "6 4", "2 3", "8 3 2 3")
_HIGHEST = 2.0  # times the perplexity of the baseline, or of the chosen point
_IN_A_ROW = 3  # names of lines

Scale = Callable[[float], float]  # a value -> where it lies, in units of the picture


class Drawn(Protocol):
    """What is drawn of a setting."""

    @property
    def space(self) -> str:
        """Of the correction."""
        ...

    @property
    def threshold(self) -> float:
        """Of the correction."""
        ...

    @property
    def alpha(self) -> float:
        """Of the correction."""
        ...

    @property
    def familiarity(self) -> Figure:
        """Left to right."""
        ...

    @property
    def perplexity(self) -> Figure:
        """From below, on a logarithmic scale."""
        ...


def draw_frontier(points: Sequence[Drawn], chosen: Drawn, best: Sequence[Drawn]) -> str:
    """Return an SVG in which each line is a space and a threshold, and each point an alpha.

    What lies above twice the perplexity of the baseline or of the chosen point is cut off.

    Args:
        points: the baseline first, then every setting.
        chosen: ringed.
        best: the points that no other beats, filled, with their alpha beside them; the others are hollow.
    """
    baseline = points[0]
    right = max(point.familiarity.high for point in points) or 1.0
    low = math.log(min(point.perplexity.low for point in points))
    highest = _HIGHEST * max(baseline.perplexity.value, chosen.perplexity.value)
    high = max(math.log(min(highest, max(point.perplexity.high for point in points))), low + 1e-6)

    def x(value: float) -> float:
        return _LEFT + value / right * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    lines: dict[tuple[str, float], list[Drawn]] = {}
    for point in points[1:]:
        lines.setdefault((point.space, point.threshold), [baseline]).append(point)
    names, marks = [], []
    upwards = 18 * ((len(lines) - 1) // _IN_A_ROW)  # rows of names beyond the first
    for number, ((space, threshold), line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x(point.familiarity.value):.1f},{y(point.perplexity.value):.1f}" for point in line)
        dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>')
        name = space + (f", above {threshold:g} nats" if threshold else "")
        row, column = divmod(number, _IN_A_ROW)
        left, top = _LEFT + (_WIDTH - _LEFT) // _IN_A_ROW * column, 50 - upwards + 18 * row
        names.append(f'<rect x="{left}" y="{top}" width="10" height="10" fill="{colour}"/>')
        names.append(f'<text x="{left + 16}" y="{top + 9}">{escape(name)}</text>')
        for point in line[1:]:
            marks += _mark(point, x, y, colour, filled=point in best)
    marks += _mark(baseline, x, y, "currentColor", filled=True)
    plot = f'x="{_LEFT - 12}" y="{_TOP - 12}" width="{_WIDTH - _LEFT}" height="{_HEIGHT - _TOP - _BOTTOM + 24}"'
    at = x(chosen.familiarity.value), y(chosen.perplexity.value)
    marks.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="10" fill="none" stroke="currentColor"/>')
    title = f"Chosen (ringed): {chosen.space}, threshold {chosen.threshold:g}, alpha {chosen.alpha:g}"
    view = f"0 {18 - upwards} {_WIDTH} {_HEIGHT - 18 + upwards}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor" style="color:#111;background:#fff">'
        f'<title>{escape(title)}</title><text x="{_LEFT}" y="{38 - upwards}" font-size="13">{escape(title)}</text>'
        f'<clipPath id="plot"><rect {plot}/></clipPath>{"".join(names)}{"".join(_axes(x, y, right, low, high))}'
        f'<g clip-path="url(#plot)">{"".join(marks)}</g></svg>\n'
    )


def _axes(x: Scale, y: Scale, right: float, low: float, high: float) -> list[str]:
    marks = []
    step = 10.0 ** math.floor(math.log10(right / 2))
    step = next(step * each for each in (5, 2, 1, 0.5, 0.2) if right / (step * each) >= 3)
    for number in range(math.floor(right / step) + 1):
        value = number * step
        marks.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:.3g}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = math.exp(low + share * (high - low))
        marks.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        marks.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#8884"/>'
        )
    marks.append(f'<text x="{_LEFT}" y="{_HEIGHT - 18}">{escape(_ACROSS)}</text>')
    middle = _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    marks.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">perplexity of retained text</text>'
    )
    return marks


def _mark(point: Drawn, x: Scale, y: Scale, colour: str, *, filled: bool) -> list[str]:
    """A point with its intervals and its alpha."""
    f, p = point.familiarity, point.perplexity
    at = x(f.value), y(p.value)
    bars = f'stroke="{colour}" stroke-opacity="0.35"'
    return [
        f'<line x1="{x(f.low):.1f}" x2="{x(f.high):.1f}" y1="{at[1]:.1f}" y2="{at[1]:.1f}" {bars}/>',
        f'<line x1="{at[0]:.1f}" x2="{at[0]:.1f}" y1="{y(p.low):.1f}" y2="{y(p.high):.1f}" {bars}/>',
        f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour if filled else "none"}" stroke="{colour}">'
        f"<title>alpha {point.alpha:g}: familiarity {f.value:.3f}, perplexity {p.value:.1f}</title></circle>",
        *([f'<text x="{at[0] + 6:.1f}" y="{at[1] - 6:.1f}" font-size="10">{point.alpha:g}</text>'] if filled else []),
    ]
