"""What an attack got out of a model at each of its strengths, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from generic_logits.errors import InputError
from generic_logits.evaluation.subject import Subject
from generic_logits.text.prompts import Prompt, encode_prompts

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


def target_probabilities(subject: Subject, prompts: Sequence[Prompt]) -> list[float]:
    """Probability of each whole target behind its prompt ("Who's Harry Potter?", section 3.1), 0 to 1."""
    encoded = encode_prompts(subject.tokenizer, prompts)
    log_probs = subject.log_probs([[*beginning, *target] for beginning, target in encoded])
    return [
        row[max(0, len(beginning) - 1) :].double().sum().exp().item()
        for row, (beginning, _) in zip(log_probs, encoded, strict=True)
    ]


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
