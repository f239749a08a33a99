"""The mathematics, once, in plain PyTorch. Kernels, tests and benchmarks are held against this file."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def correct_logits(
    baseline: Tensor,  # [..., vocab]
    reinforced: Tensor,  # [..., vocab]
    alpha: Tensor,  # [..., 1] or [], in the dtype of the computation
    *,
    space: str,
    threshold: float,
    variant: str,
) -> Tensor:  # [..., vocab]
    """Generic logits ``b - alpha * ReLU(r - b - threshold)`` (Eldan & Russinovich 2023, arXiv 2310.02238, section 2.1).

    ``space="logprobs"`` compares log-softmax(r) with log-softmax(b) and leaves b's own additive constant in place, so
    that an untouched token keeps its score. ``variant="linear"`` drops the ReLU. The arithmetic runs in alpha's dtype.
    """
    b, r = baseline.to(alpha.dtype), reinforced.to(alpha.dtype)
    if space == "logprobs":
        r = r - r.logsumexp(-1, keepdim=True) + b.logsumexp(-1, keepdim=True)
        r = torch.where(reinforced == -math.inf, -math.inf, r)
    increase = r - b
    if variant == "relu":
        increase = torch.relu(increase - threshold)
    untouched = (b == -math.inf) | (r == -math.inf)
    corrected = torch.where(untouched, b, b - alpha * increase)
    corrected = torch.where(r.isnan(), r, corrected)
    return torch.where(alpha == 0, baseline, corrected.to(baseline.dtype))


def choose_token(
    corrected: Tensor,  # [..., vocab]
    temperature: float | None,  # None for the largest score
    generator: torch.Generator | None,
) -> Tensor:  # [...], int64
    """Argmax of v, or a draw from softmax(v / temperature) as the argmax of v / temperature + Gumbel noise.

    The lowest of equals wins, the first NaN wins over all, and a row of -inf gives token 0: ``torch.argmax``.
    """
    if temperature is None:
        return corrected.argmax(-1)
    v = corrected if corrected.dtype == torch.float64 else corrected.float()
    waits = torch.empty_like(v).exponential_(generator=generator).clamp_min_(torch.finfo(v.dtype).tiny)
    return (v / temperature - waits.log_()).argmax(-1)
