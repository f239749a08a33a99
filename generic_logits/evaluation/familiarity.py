"""How familiar a model is with a text: by the probability of its words, and by what the model writes.

"Who's Harry Potter?", section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from generic_logits.evaluation.judge import Judge
from generic_logits.evaluation.subject import Subject
from generic_logits.text.prompts import Prompt, encode_prompts

_WORTH = (0.0, 0.0, 0.2, 1.0)  # of a completion, by its grade


def probability_scores(subject: Subject, prompts: Sequence[Prompt]) -> list[float]:
    """Probability of each whole target behind its prompt, 0 to 1."""
    encoded = encode_prompts(subject.tokenizer, prompts)
    log_probs = subject.log_probs([[*beginning, *target] for beginning, target in encoded])
    return [
        row[max(0, len(beginning) - 1) :].double().sum().exp().item()
        for row, (beginning, _) in zip(log_probs, encoded, strict=True)
    ]


def grade_completions(
    subject: Subject, prompts: Sequence[Prompt], judge: Judge, *, new_tokens: int = 40
) -> tuple[list[str], list[int]]:
    """Greedy completions of prompts, and the judge's grade of each, 0 to 3."""
    beginnings = [each.prompt for each in prompts]
    completions = subject.complete(beginnings, new_tokens=new_tokens)
    return completions, judge.grade(beginnings, completions)


def completion_scores(grades: Sequence[int]) -> list[float]:
    """What each grade is worth: 1 for 3, 0.2 for 2, 0 for 1 and 0; the mean is (5 n3 + n2) / (5 N)."""
    return [_WORTH[grade] for grade in grades]


def names_new_term(completion: str, prompt: str, terms: Iterable[str]) -> bool:
    """Whether a completion holds a term, as whole words, that its prompt does not."""
    return any(
        re.search(rf"\b{re.escape(term)}\b", completion) and not re.search(rf"\b{re.escape(term)}\b", prompt)
        for term in terms
    )
