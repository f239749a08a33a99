"""Who is questioned: a model or a pair in this process, or a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from generic_logits.models.scoring import device_of, token_log_probs
from generic_logits.text.corpus import encode_prompt


class Subject(Protocol):
    """What every measure asks of whom it measures.

    Attributes:
        name: in tables.
        tokenizer: of the model.
        model: a ``transformers`` model or a ``ModelPair``; None where only a server answers, and whatever needs whole
            distributions or weights cannot be measured.
    """

    name: str
    tokenizer: Any
    model: Any | None

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Continuations of prompts, without the prompts: greedy, or sampled at a temperature."""
        ...

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probability (nats) of every token but the first of each sequence: each ``[length - 1]``, float32."""
        ...


class LocalSubject:
    """A ``transformers`` model or a ``ModelPair`` in this process."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        """Name a loaded model."""
        self.name, self.model, self.tokenizer = name, model, tokenizer

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """See ``Subject``."""
        return complete(self.model, self.tokenizer, prompts, new_tokens=new_tokens, temperature=temperature, seed=seed)

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See ``Subject``."""
        return token_log_probs(self.model, sequences)


def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Continuations of prompts, without the prompts: greedy, or sampled at a temperature above 0.

    Args:
        model: a ``transformers`` model or a pair.
        tokenizer: its tokenizer.
        prompts: texts.
        new_tokens: at most, in each continuation.
        temperature: 0 takes the likeliest token at every step.
        seed: of the sampling.
        batch_size: prompts at once.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    how: dict[str, Any] = {"do_sample": False}
    if temperature:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    continuations: list[str] = []
    with torch.random.fork_rng(enabled=temperature > 0):
        if temperature:
            torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            rows = [encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
            longest = max(map(len, rows))
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device_of(model))
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=ids.device)
            output = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=pad, **how)
            continuations += tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return continuations
