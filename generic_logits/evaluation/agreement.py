"""How far judges of completions agree with a reader, and with one another, on 94 completions graded by hand.

They are of prompts from the demo's invented book, so judges are asked about that book, whatever the report is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from generic_logits.demo import world
from generic_logits.errors import InputError
from generic_logits.evaluation.judge import Judge, ModelJudge, RuleJudge

POOR = 0.6  # kappa; less is no agreement to build on
HAND, ALL = "hand", "all"
_WRITTEN = "written"  # by whom fluent completions are
_GROUPS = {"small": "what small models wrote", "fluent": "fluent texts"}


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with other grades.

    Attributes:
        exact: share of equal grades.
        kappa: Cohen's kappa with quadratic weights (Cohen 1968): 1 is full agreement, 0 what chance gives.
        count: graded items.
    """

    exact: float
    kappa: float
    count: int


@dataclass(frozen=True)
class Graded:
    """A completion of a prompt, and the grade that a reader gave it.

    Attributes:
        by: whose completion it is.
    """

    prompt: str
    completion: str
    grade: int
    by: str = ""


def hand_graded() -> list[Graded]:
    """The shipped completions of prompts from the demo's invented book, graded by reading them before any judge did.

    Most are what the demo's baseline and gold models wrote; those "written" are fluent ones, made up to be hard: they
    paraphrase the book's story, hit its theme, or only seem to.
    """
    entries = json.loads(files("generic_logits.evaluation").joinpath("hand_graded.json").read_text(encoding="utf-8"))
    return [Graded(**each) for each in entries]


def agreement(judge: Judge, items: Sequence[Graded]) -> Agreement:
    """Compare a judge with hand-given grades.

    Raises:
        InputError: no items.
    """
    if not items:
        raise InputError("graded completions", "none", "give some")
    return compare(_grades(judge, items), [each.grade for each in items])


def compare(one: Sequence[int], other: Sequence[int]) -> Agreement:
    """Compare two series of grades of the same items."""
    exact = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    return Agreement(exact, quadratic_kappa(one, other), len(one))


def quadratic_kappa(one: Sequence[int], other: Sequence[int]) -> float:
    """Cohen's kappa of two series of grades, weighted by their squared distance; 1 where neither varies."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    apart = float(((a[:, None] - b[None]) ** 2).mean())  # expected if the two were independent
    return 1 - float(((a - b) ** 2).mean()) / apart if apart else 1.0


@cache
def demo_rules() -> RuleJudge:
    """The rules for the demo's book, which the hand-graded completions are about."""
    return RuleJudge(world.names(), world.book(), reference="\n".join(world.ordinary_stories()))


def judges_on_record(judge: Judge) -> dict[str, Any]:
    """For a report: how far its judge, and the rules beside a model, agree with the hand-given grades.

    Args:
        judge: the report's own; of one that is neither rules nor a ``ModelJudge`` only the rules are told, as nobody
            knows how to ask it about another text.

    Returns:
        ``used``, its name; ``agreement``, one row for each two that are compared (``judge``, ``against``: "hand" or
        another judge's name) and each ``group`` ("all", "small": by the demo's models, "fluent": written to be hard);
        and ``sentences`` that say it in words.

    Raises:
        InputError: a model's endpoint failed; what it answered is kept.
    """
    items = hand_graded()
    grades = {HAND: [each.grade for each in items], RuleJudge.name: _grades(demo_rules(), items)}
    pairs = [(RuleJudge.name, HAND)]
    used = judge.name
    if isinstance(judge, ModelJudge):
        used = f"model {used}" if used in grades else used
        grades[used] = _grades(judge.asked_about(world.ABOUT, terms=world.names()), items)
        pairs += [(used, HAND), (used, RuleJudge.name)]
    chosen = {
        ALL: range(len(items)),
        "small": [at for at, each in enumerate(items) if each.by != _WRITTEN],
        "fluent": [at for at, each in enumerate(items) if each.by == _WRITTEN],
    }
    rows = [
        {"judge": one, "against": other, "group": group}
        | asdict(compare(*([grades[name][at] for at in places] for name in (one, other))))
        for one, other in pairs
        for group, places in chosen.items()
    ]
    return {"used": used, "agreement": rows, "sentences": _in_words(used, rows)}


def _grades(judge: Judge, items: Sequence[Graded]) -> list[int]:
    return judge.grade([each.prompt for each in items], [each.completion for each in items])


def _in_words(used: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    pairs = dict.fromkeys((row["judge"], row["against"]) for row in rows)
    sentences = []
    for one, other in pairs:
        of_pair = {row["group"]: row for row in rows if (row["judge"], row["against"]) == (one, other)}
        total = of_pair[ALL]
        parts = ", ".join(f"{of_pair[group]['kappa']:.2f} on {what}" for group, what in _GROUPS.items())
        sentences.append(
            f"The judge “{one}” graded {100 * total['exact']:.0f}\N{NO-BREAK SPACE}% of {total['count']} completions "
            f"as {'a reader' if other == HAND else f'“{other}”'} did (kappa {total['kappa']:.2f}: {parts})."
        )
        poor = [what for group, what in _GROUPS.items() if of_pair[group]["kappa"] < POOR]
        if one == used and other == HAND and poor:
            remedy = "a model can grade instead (--judge)" if used == RuleJudge.name else "ask a more capable model"
            sentences.append(f"On {' and '.join(poor)} its grades say little: {remedy}.")
    if used not in {one for one, _ in pairs}:
        sentences.append(f"How far “{used}”, the judge in use, agrees with a reader was not measured.")
    return sentences
