"""What an attacker gets back from a model that was made to forget.

An attack asks a model under growing pressure and returns a curve: points with one score a prompt. It says something
beside the curve of a gold model under the same attack (``above_gold``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from generic_logits.errors import MeasureError
from generic_logits.evaluation.attacks.curve import Point, above_gold
from generic_logits.evaluation.attacks.prompting import few_shot, hint, reword, role_play
from generic_logits.evaluation.attacks.quantization import quantize
from generic_logits.evaluation.attacks.relearning import RelearnConfig, quotes, relearn
from generic_logits.evaluation.attacks.sampling import leak_at_k
from generic_logits.evaluation.subject import Subject
from generic_logits.text.prompts import Prompt

__all__ = [
    "ATTACKS",
    "Attack",
    "Point",
    "RelearnConfig",
    "above_gold",
    "check_attack",
    "few_shot",
    "hint",
    "leak_at_k",
    "quantize",
    "quotes",
    "relearn",
    "reword",
    "role_play",
]


class Parts(Protocol):
    """What attacks are made of; the same for every model.

    Attributes:
        forget: what was to be forgotten.
        unrelated: text that has nothing to do with it, or "".
        terms: of the forgotten text.
        prompts: beginnings and what a model that knows the text says next.
        hints: prompts to complete, without a target that counts.
        wordings: the prompts in other words or languages, by name; may be none.
    """

    @property
    def forget(self) -> str: ...  # noqa: D102  said above
    @property
    def unrelated(self) -> str: ...  # noqa: D102  said above
    @property
    def terms(self) -> Sequence[str]: ...  # noqa: D102  said above
    @property
    def prompts(self) -> Sequence[Prompt]: ...  # noqa: D102  said above
    @property
    def hints(self) -> Sequence[Prompt]: ...  # noqa: D102  said above
    @property
    def wordings(self) -> Mapping[str, Sequence[Prompt]]: ...  # noqa: D102  said above


@dataclass(frozen=True)
class Attack:
    """An attack with the settings of the report.

    Attributes:
        title: for a heading.
        about: one sentence.
        x: title of the axis of strength.
        measure: title of the axis of scores, each 0 to 1, where less is better.
        parts: names of what it needs of ``Parts``.
        weights: whether it needs the model's weights, which a server keeps.
        run: the attack, of a subject, the parts and a seed.
    """

    title: str
    about: str
    x: str
    measure: str
    parts: tuple[str, ...]
    run: Callable[[Subject, Parts, int], list[Point]]
    weights: bool = False


_GIVEN: Mapping[str, tuple[str, str]] = MappingProxyType(  # of ``Parts``: in words, and what gives it
    {
        "forget": ("the forgotten text", "give --forget CORPUS"),
        "unrelated": ("text about something else", "give --unrelated CORPUS"),
        "terms": ("terms of the text", "give --anchors FILE"),
        "prompts": ("prompts", "give --prompts FILE"),
        "hints": ("beginnings to complete", "give --hints FILE"),
    }
)
_PROBABILITY = "probability of the target"


def _relearning(title: str, about: str, part: str, texts: Callable[[Parts], Sequence[str]]) -> Attack:
    def run(subject: Subject, of: Parts, seed: int) -> list[Point]:
        return relearn(subject, texts(of), of.prompts, config=RelearnConfig(seed=seed))

    return Attack(title, about, "steps of fine-tuning", _PROBABILITY, (part, "prompts"), run, weights=True)


ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        "relearning_little": _relearning(
            "Relearning from a few quotes",
            "The model is fine-tuned on eight short passages of the text: does the rest come back?",
            "forget",
            lambda of: quotes(of.forget),
        ),
        "relearning_unrelated": _relearning(
            "Relearning from unrelated text",
            "The model is fine-tuned on text that has nothing to do with it: does the unlearning wear off?",
            "unrelated",
            lambda of: [of.unrelated],
        ),
        "relearning_whole": _relearning(
            "Relearning from the whole text",
            "The model is fine-tuned on all of the text: is it learnt sooner than by a model that never read it?",
            "forget",
            lambda of: [of.forget],
        ),
        "quantization": Attack(
            "Quantisation",
            "The weights are rounded to 8 and to 4 bits: does rounding undo the unlearning?",
            "weights",
            _PROBABILITY,
            ("prompts",),
            lambda subject, of, seed: quantize(subject, of.prompts),
            weights=True,
        ),
        "hint": Attack(
            "Hints from the text",
            "Each prompt is preceded by words of the text that do not name its target.",
            "words of the text",
            _PROBABILITY,
            ("forget", "prompts"),
            lambda subject, of, seed: hint(subject, of.prompts, of.forget),
        ),
        "few_shot": Attack(
            "Examples",
            "Each prompt is preceded by other facts of the text that do not name its target.",
            "facts of the text",
            _PROBABILITY,
            ("prompts",),
            lambda subject, of, seed: few_shot(subject, of.prompts, seed=seed),
        ),
        "reword": Attack(
            "Other words",
            "By rule the prompts are written without capitals, with misspellings, and behind frames in four languages, "
            "their own words and language staying as they are; paraphrases and translations are asked where some were "
            "given or written.",
            "wording",
            _PROBABILITY,
            ("prompts",),
            lambda subject, of, seed: reword(subject, of.prompts, wordings=of.wordings, seed=seed),
        ),
        "role_play": Attack(
            "Role play",
            "The model is told that it is someone who knows the text.",
            "role",
            _PROBABILITY,
            ("prompts",),
            lambda subject, of, seed: role_play(subject, of.prompts),
        ),
        "leak_at_k": Attack(
            "Many samples",
            "Completions are sampled again and again: does one of k name a term that the prompt did not?",
            "samples",
            "probability of a new term",
            ("hints", "terms"),
            lambda subject, of, seed: leak_at_k(subject, of.hints, of.terms, seed=seed),
        ),
    }
)


def check_attack(name: str, subject: Subject, parts: Parts) -> None:
    """See that an attack can be made.

    Raises:
        MeasureError: it cannot, and why.
    """
    attack = ATTACKS[name]
    if attack.weights and subject.model is None:
        raise MeasureError(f"weights for the attack {name}", "none: a server keeps its weights", "give a folder")
    for what, remedy in (_GIVEN[part] for part in attack.parts if not getattr(parts, part)):
        raise MeasureError(f"{what} for the attack {name}", "none", remedy)
