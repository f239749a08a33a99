"""The correction on any device: in place, in blocks that stay in cache, with no more memory traffic than it must."""

from __future__ import annotations

import torch
from torch import Tensor

CPU_BLOCK = 1 << 16  # elements; two float32 blocks fit a core's second-level cache
DEVICE_BLOCK = 1 << 24  # elements; few launches, bounded temporaries


def correct_logits(
    baseline: Tensor,  # [rows, vocab]
    reinforced: Tensor,  # [rows, vocab]
    alpha: Tensor,  # [rows, 1] or [], in the dtype of the computation
    *,
    space: str,
    threshold: float,
    variant: str,
    out: Tensor,  # [rows, vocab]; may be `baseline` or `reinforced` itself
    block: int | None = None,  # elements at a time; None takes CPU_BLOCK or DEVICE_BLOCK
) -> None:
    """Write ``reference.correct_logits`` into ``out``, as ``min(b, lerp(b, r - threshold, -alpha))``.

    A -inf in r is first raised to the lowest finite number: its difference to a -inf in b is then +inf, never NaN,
    while a true NaN still comes through.
    """
    dtype = alpha.dtype
    lowest = torch.finfo(dtype).min
    some_rows_off = alpha.dim() > 0 and bool((alpha == 0).any())
    rows, vocab = baseline.shape
    block = block or (CPU_BLOCK if baseline.device.type == "cpu" else DEVICE_BLOCK)
    width = min(vocab, block)
    height = max(1, block // width)
    for top in range(0, rows, height):
        band = slice(top, top + height)
        weight = -alpha[band] if alpha.dim() else -alpha
        shift = _log_normaliser_gap(baseline[band], reinforced[band], dtype) if space == "logprobs" else None
        for left in range(0, vocab, width):
            at = (band, slice(left, left + width))
            b, r = baseline[at].to(dtype), reinforced[at].to(dtype)
            v = r.clamp_min(lowest)
            if shift is not None:
                v += shift
            if threshold:
                v -= threshold
            torch.lerp(b, v, weight, out=v)
            if variant == "relu":
                torch.minimum(b, v, out=v)
            else:
                v = torch.where(r == -torch.inf, b, v)
            if some_rows_off:
                v = torch.where(weight == 0, b, v)
            out[at].copy_(v)


def _log_normaliser_gap(baseline: Tensor, reinforced: Tensor, dtype: torch.dtype) -> Tensor:  # [rows, 1]
    """What turns r into log-softmax(r) seen from b's own constant; 0 where a row is all -inf and has none."""
    of_b = baseline.to(dtype).logsumexp(-1, keepdim=True)
    of_r = reinforced.to(dtype).logsumexp(-1, keepdim=True)
    return (of_b - of_r).masked_fill((of_b == -torch.inf) | (of_r == -torch.inf), 0.0)
