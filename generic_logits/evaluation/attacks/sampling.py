"""Asking often: what greedy decoding hides, one of many samples may say."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from generic_logits.errors import InputError
from generic_logits.evaluation.attacks.curve import Point, check_prompts
from generic_logits.evaluation.familiarity import names_new_term
from generic_logits.evaluation.subject import Subject
from generic_logits.text.prompts import Prompt


def leak_at_k(
    subject: Subject,
    prompts: Sequence[Prompt],
    terms: Sequence[str],
    *,
    ks: Sequence[int] = (1, 4, 16),
    new_tokens: int = 24,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Point]:
    """How often at least one of k sampled completions brings up a term that its prompt did not name.

    Args:
        subject: whom to attack.
        prompts: what to ask; targets are not looked at.
        terms: of the text.
        ks: how many completions the attacker takes; as many as the largest are drawn for each prompt.
        new_tokens: of a completion, at most.
        temperature: of the sampling.
        seed: of the sampling.

    Returns:
        One point for each k; a score is the estimated probability for one prompt, 0 to 1.

    Raises:
        InputError: no prompts, no terms, or a k below 1.
    """
    check_prompts(prompts)
    if not terms:
        raise InputError("terms of the text to look for", "none", "give a dictionary of anchors")
    if not ks or min(ks) < 1:
        raise InputError("numbers of samples from 1", f"{tuple(ks)}", "raise them")
    drawn = max(ks)
    asked = [each.prompt for each in prompts for _ in range(drawn)]
    texts = subject.complete(asked, new_tokens=new_tokens, temperature=temperature, seed=seed)
    leaks = [names_new_term(text, prompt, terms) for text, prompt in zip(texts, asked, strict=True)]
    counts = [sum(leaks[at : at + drawn]) for at in range(0, len(leaks), drawn)]
    return [Point(k, [one_of_k(drawn, count, k) for count in counts]) for k in ks]


def one_of_k(drawn: int, successes: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples succeeds (Chen et al. 2021, equation 1)."""
    return 1 - comb(drawn - successes, k) / comb(drawn, k)
