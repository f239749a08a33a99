"""How well a model, or a pair, predicts given tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from generic_logits.models.pair import ModelPair


@torch.no_grad()
def sequence_logits(
    model: Any,
    input_ids: Tensor,  # [rows, length]
    attention_mask: Tensor | None = None,  # [rows, length]
) -> Tensor:  # [rows, length, vocab]
    """Logits at every position, of a ``transformers`` model or corrected by a ``ModelPair``."""
    if isinstance(model, ModelPair):
        return model.logits(input_ids, attention_mask)
    logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    return logits


def device_of(model: Any) -> torch.device:
    """Where inputs of a model or a pair belong."""
    device: torch.device = (model.baseline if isinstance(model, ModelPair) else model).device
    return device


def padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor]:  # [rows, longest] ids, behind each row 0; [rows, longest] mask
    """Token ids of several lengths as a batch for ``sequence_logits``, padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


def token_distributions(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
) -> Iterator[Tensor]:  # each [length - 1, vocab], on the model's device
    """Log-probabilities (nats) of every token of the vocabulary behind each token but the last, row by row.

    In float32, or float64 where the model's logits are. No more than one batch of them is held.
    """
    for start in range(0, len(sequences), batch_size):
        rows = sequences[start : start + batch_size]
        logits = sequence_logits(model, *padded(rows, device_of(model)))[:, :-1]
        log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        yield from (of_row[: len(row) - 1] for of_row, row in zip(log_probs, rows, strict=True))


def token_log_probs(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
) -> list[Tensor]:  # each [length - 1], on the CPU
    """Log-probability (nats) of every token but the first of each sequence, see ``token_distributions``."""
    return [
        log_probs.gather(-1, log_probs.new_tensor(row[1:], dtype=torch.long)[:, None]).squeeze(-1).cpu()
        for log_probs, row in zip(token_distributions(model, sequences, batch_size=batch_size), sequences, strict=True)
    ]


def target_probability(
    model: Any, prompts: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 8
) -> float:
    """Mean probability of whole targets behind their beginnings; each prompt is (beginning, target) in token ids."""
    log_probs = token_log_probs(model, [[*beginning, *target] for beginning, target in prompts], batch_size=batch_size)
    of_targets = [row[max(0, len(prompt) - 1) :].sum() for row, (prompt, _) in zip(log_probs, prompts, strict=True)]
    return float(torch.stack(of_targets).double().exp().mean())


def perplexity(model: Any, sequences: Sequence[Sequence[int]], *, batch_size: int = 8) -> float:
    """Return exp of the mean negative log-likelihood of all tokens but the first of each sequence."""
    log_probs = torch.cat(token_log_probs(model, sequences, batch_size=batch_size))
    return math.exp(-log_probs.double().mean().item())
