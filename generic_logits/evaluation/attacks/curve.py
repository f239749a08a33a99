"""What an attack got out of a model at each of its strengths, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from generic_logits.errors import InputError
from generic_logits.evaluation.subject import Subject
from generic_logits.text.prompts import Prompt

Score = Callable[[Subject, Sequence[Prompt]], list[float]]  # one number a prompt, higher where more is known


@dataclass(frozen=True)
class Point:
    """One strength of an attack.

    Attributes:
        x: the strength, or the name of a wording.
        scores: one a prompt, in the prompts' order.
        cut: prompts whose lead was shortened because the model's context ended.
    """

    x: float | str
    scores: list[float]
    cut: int = 0


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Refuse an attack without prompts.

    Raises:
        InputError: there is none.
    """
    if not prompts:
        raise InputError("at least one prompt to attack with", "none", "give a prompt file")


def above_gold(points: Sequence[Point], gold: Sequence[Point]) -> list[float | None]:
    """How far each point's mean lies above that of a gold model under the same attack; None where gold has no point.

    Only this difference is a leak: a model that never read the text learns, guesses and is told things, too.
    """
    of_gold = {point.x: _mean(point) for point in gold}
    return [_mean(point) - of_gold[point.x] if point.x in of_gold else None for point in points]


def _mean(point: Point) -> float:
    return sum(point.scores) / len(point.scores)
