"""The mathematics, once, in plain PyTorch. Kernels, tests and benchmarks are held against this file."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_REST = 1e-30  # probability that a student's tail counts with, if it has none


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


def kl(
    student: Tensor,  # [..., vocab] logits
    teacher: Tensor,  # [..., vocab] logits
    *,
    temperature: float,
    reverse: bool,
) -> Tensor:  # [...]
    """KL(teacher || student), or with ``reverse`` KL(student || teacher), of softmax(logits / temperature), in nats.

    A token that the first of the two never says counts nothing; the result is not multiplied by temperature squared.
    """
    q, p = ((each / temperature).log_softmax(-1) for each in (student, teacher))
    if reverse:
        p, q = q, p
    return (p.exp() * (p - q).masked_fill(p == -math.inf, 0)).sum(-1)


def soft_kl(
    student: Tensor,  # [n, vocab] logits
    counts: Tensor,  # [n] int, tokens stored for each row
    tokens: Tensor,  # [k] int
    log_probs: Tensor,  # [k]
    rest: Tensor,  # [n], probability of all other tokens together
) -> Tensor:  # [n]
    """KL(target || student) in nats, where all tokens that are not stored count as one."""
    rows = torch.arange(len(student), device=student.device).repeat_interleave(counts.long())
    q, wanted = student.log_softmax(-1), log_probs.to(student.dtype)
    stored = torch.zeros_like(q, dtype=torch.bool).index_put((rows, tokens.long()), torch.tensor(True))
    of_rest = torch.where(stored, 0, q.exp()).sum(-1).clamp_min(LEAST_REST)
    of_tokens = wanted.exp() * (wanted - q[rows, tokens.long()])
    return (torch.xlogy(rest, rest) - rest * of_rest.log()).index_add(0, rows, of_tokens)
