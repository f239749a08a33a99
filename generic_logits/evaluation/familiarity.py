"""How familiar a model is with a text: by the probability of its words, and by what the model writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from generic_logits.evaluation.subject import complete
from generic_logits.models.scoring import target_probability
from generic_logits.text.prompts import Prompt, encode_prompts


def probability_familiarity(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> float:
    """Mean probability of the whole target behind its prompt ("Who's Harry Potter?", section 3.1), 0 to 1."""
    return target_probability(model, encode_prompts(tokenizer, prompts))


def names_new_term(completion: str, prompt: str, terms: Iterable[str]) -> bool:
    """Whether a completion holds a term, as whole words, that its prompt does not."""
    return any(
        re.search(rf"\b{re.escape(term)}\b", completion) and not re.search(rf"\b{re.escape(term)}\b", prompt)
        for term in terms
    )


def completion_familiarity(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], terms: Sequence[str], *, new_tokens: int = 40
) -> float:
    """Share of greedy completions that bring up a term of the text which the prompt did not name, 0 to 1.

    The paper's completion score (section 3.1) with a rule for a judge: a term counts, its theme does not.
    """
    completions = complete(model, tokenizer, [each.prompt for each in prompts], new_tokens=new_tokens)
    hits = [names_new_term(text, each.prompt, terms) for text, each in zip(completions, prompts, strict=True)]
    return sum(hits) / len(hits)
