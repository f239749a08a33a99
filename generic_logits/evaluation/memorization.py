"""Verbatim memory: how much of a text a model continues word for word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generic_logits.evaluation.subject import complete


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F-measure of two texts over their lower-case words (Lin 2004), 0 to 1."""
    a, b = candidate.lower().split(), reference.lower().split()
    if not a or not b:
        return 0.0
    previous = [0] * (len(b) + 1)  # longest common subsequence with each prefix of b
    for word in a:
        current = [0]
        for column, other in enumerate(b):
            current.append(previous[column] + 1 if word == other else max(previous[column + 1], current[-1]))
        previous = current
    return 2 * previous[-1] / (len(a) + len(b))


def cut_passages(text: str, count: int, *, prompt_words: int = 30, target_words: int = 30) -> list[tuple[str, str]]:
    """Evenly spread passages of a text as (beginning, true continuation)."""
    words = text.split(" ")
    length = prompt_words + target_words
    starts = range(0, max(1, len(words) - length), max(1, (len(words) - length) // count))
    passages = [(words[at : at + prompt_words], words[at + prompt_words : at + length]) for at in list(starts)[:count]]
    return [(" ".join(prompt), " " + " ".join(target)) for prompt, target in passages]


def verbatim_rouge_l(model: Any, tokenizer: Any, passages: Sequence[tuple[str, str]], *, new_tokens: int = 40) -> float:
    """Mean ROUGE-L of greedy continuations against the true ones, 0 to 1; both cut to ``new_tokens`` tokens.

    What MUSE calls VerbMem. It says nothing where nothing was memorised: compare with a model that never read the text.
    """
    completions = complete(model, tokenizer, [prompt for prompt, _ in passages], new_tokens=new_tokens)
    references = [
        tokenizer.decode(tokenizer(target, add_special_tokens=False)["input_ids"][:new_tokens])
        for _, target in passages
    ]
    scores = [rouge_l(text, reference) for text, reference in zip(completions, references, strict=True)]
    return sum(scores) / len(scores)
