"""The correction, and the distance to it, on any device: in place, in blocks that stay in cache."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CPU_BLOCK = 1 << 20  # elements; both inputs and the result are 12 MiB in float32, which a last-level cache holds
DEVICE_BLOCK = 1 << 24  # elements; few launches, bounded temporaries


def block_size(device: torch.device) -> int:
    """Elements that one operation works on."""
    return CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK


def correct_logits(
    baseline: Tensor,  # [rows, vocab]
    reinforced: Tensor,  # [rows, vocab]
    alpha: Tensor,  # [rows, 1] or [], in the dtype of the computation
    *,
    space: str,
    threshold: float,
    variant: str,
    out: Tensor,  # [rows, vocab]; may be `baseline` or `reinforced` itself
) -> None:
    """Write ``reference.correct_logits`` into ``out``, as ``min(b, lerp(b, r - threshold, -alpha))``.

    The lerp lands in the block of ``out`` that is about to be written anyway; in scratch, used again for every block,
    where that block is still an input or of another dtype. So memory sees each element read twice and written once.
    """
    dtype, device = alpha.dtype, baseline.device
    off = (alpha == 0).flatten() if alpha.dim() else None
    kept = baseline[off] if off is not None and off.any() else None
    rows, vocab = baseline.shape
    block = block_size(device)
    width = min(vocab, block)
    height = min(rows, max(1, block // width))
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (baseline, reinforced)}
    direct = out.dtype == dtype and out.is_contiguous() and out.untyped_storage().data_ptr() not in inputs
    for_v, for_b, for_r = (
        torch.empty(height * width, dtype=dtype, device=device) if needed else None
        for needed in (not direct, baseline.dtype != dtype, reinforced.dtype != dtype)
    )
    bands = zip(*(_parts(tensor, height, 0) for tensor in (baseline, reinforced, out)), strict=True)
    for band, (b_band, r_band, out_band) in enumerate(bands):
        weight = -alpha[band * height : (band + 1) * height] if alpha.dim() else -alpha
        offset: Tensor | float = -threshold
        if space == "logprobs":
            offset = _log_normaliser_gap(b_band, r_band, dtype) - threshold
        blocks = zip(*(_parts(each, width, -1) for each in (b_band, r_band, out_band)), strict=True)
        for b_block, r_block, out_block in blocks:
            b, r = _converted(b_block, for_b), _converted(r_block, for_r)
            v = _lowered(b, r, offset, weight, out_block if for_v is None else for_v[: b.numel()].view(b.shape))
            if variant == "relu":
                torch.minimum(b, v, out=out_block)
            else:
                out_block.copy_(torch.where(r == -torch.inf, b, v))
    if kept is not None:
        out[off] = kept


def kl_(
    logits: Tensor,  # [rows, vocab] of the student, overwritten with the gradient of the sum
    wanted: Tensor,  # [rows, vocab], overwritten
    weights: Tensor,  # [rows]
    *,
    temperature: float,
    reverse: bool,
) -> Tensor:  # []
    """Sum of weight times ``reference.kl``."""
    total = logits.new_zeros(())
    height = max(1, block_size(logits.device) // logits.shape[1])
    bands = zip(*(_parts(each, height, 0) for each in (logits, wanted, weights)), strict=True)
    for q_band, p_band, of_band in bands:
        total += _band_kl_(q_band, p_band, of_band, temperature, reverse=reverse)
    return total


def _band_kl_(logits: Tensor, wanted: Tensor, weights: Tensor, temperature: float, *, reverse: bool) -> Tensor:
    if temperature != 1:
        logits.div_(temperature)
        wanted.div_(temperature)
    q, p = logits.log_softmax(-1), wanted.log_softmax(-1)
    scale = (weights / temperature)[:, None]
    if reverse:
        of_q = q.exp()
        gap = torch.sub(q, p, out=p).masked_fill_(of_q == 0, 0)
        kl = (of_q * gap).sum(-1, keepdim=True)
        torch.mul(of_q, gap.sub_(kl), out=logits).mul_(scale)
    else:
        of_p = p.exp()
        kl = p.sub_(q).masked_fill_(of_p == 0, 0).mul_(of_p).sum(-1, keepdim=True)
        torch.sub(q.exp_(), of_p, out=logits).mul_(scale)
    return (kl[:, 0] * weights).sum()


def _parts(tensor: Tensor, size: int, dim: int) -> Sequence[Tensor]:
    """What ``torch.split`` gives, without its price where one part is all."""
    return (tensor,) if tensor.shape[dim] <= size else torch.split(tensor, size, dim)


def _lowered(b: Tensor, r: Tensor, offset: Tensor | float, weight: Tensor, v: Tensor) -> Tensor:
    """Write ``lerp(b, r + offset, weight)`` into ``v``, where -inf in r counts as the lowest finite number.

    So its difference to a -inf in b is +inf, never NaN, while a true NaN still comes through. Raising it costs a pass
    that few blocks need: on a CPU, where the answer is at hand, a sum tells which.
    """
    if b.device.type == "cpu":
        torch.lerp(b, torch.add(r, offset, out=v) if _counts(offset) else r, weight, out=v)
        if not math.isnan(v.sum().item()):
            return v
    torch.clamp_min(r, torch.finfo(v.dtype).min, out=v)
    if _counts(offset):
        v += offset
    return torch.lerp(b, v, weight, out=v)


def _counts(offset: Tensor | float) -> bool:
    return isinstance(offset, Tensor) or offset != 0


def _converted(block: Tensor, scratch: Tensor | None) -> Tensor:
    return block if scratch is None else scratch[: block.numel()].view(block.shape).copy_(block)


def _log_normaliser_gap(baseline: Tensor, reinforced: Tensor, dtype: torch.dtype) -> Tensor:  # [rows, 1]
    """What turns r into log-softmax(r) seen from b's own constant; 0 where a row is all -inf and has none."""
    of_b = baseline.to(dtype).logsumexp(-1, keepdim=True)
    of_r = reinforced.to(dtype).logsumexp(-1, keepdim=True)
    return (of_b - of_r).masked_fill((of_b == -torch.inf) | (of_r == -torch.inf), 0.0)
