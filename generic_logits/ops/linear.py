"""Operators that start from hidden states and heads, on any device; none ever holds [tokens, vocab].

Logits live for a chunk of tokens at a time, in buffers that are used again. A loss overwrites the student's logits with
its gradient while they are there, and the gradient goes through the head at once: nothing is kept, nothing is computed
twice. The products run in the dtype of the inputs, everything else in float32 or, for float64, in that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from generic_logits.ops import fused_torch, reference

CPU_CHUNK = 1 << 25  # elements of a buffer; a product with so many rows at a time costs what one with all rows costs
DEVICE_CHUNK = 1 << 26
_SHARE = 12  # a chunk is at most this part of the tokens,
_FEW = 64  # unless it would have fewer rows than this


class Head(NamedTuple):
    """One model's hidden states and what makes logits of them."""

    hidden: Tensor  # [tokens, hidden]
    weight: Tensor  # [vocab, hidden]
    bias: Tensor | None  # [vocab]


class Teacher(NamedTuple):
    """Two models and the correction between them."""

    baseline: Head
    reinforced: Head | None  # None at alpha 0
    alpha: Tensor  # [tokens, 1] or [], in the dtype of the computation
    space: str
    threshold: float
    variant: str
    kernels: ModuleType  # fused_torch or fused_triton, for what is not a product


def generic_argmax(teacher: Teacher) -> Tensor:  # [tokens] int64
    """Argmax of the corrected logits; -1 where there is a NaN among them."""
    hidden, weight, _ = teacher.baseline
    labels = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    height = chunk_height(len(hidden), len(weight), hidden.device)
    corrected, scratch = (weight.new_empty(height, len(weight), dtype=teacher.alpha.dtype) for _ in range(2))
    for chunk in _slices(len(hidden), height):
        rows = corrected[: chunk.stop - chunk.start]
        _correct(teacher, chunk, rows, scratch)
        best, at = rows.max(-1)
        labels[chunk] = at.masked_fill_(best.isnan(), -1)
    return labels


def generic_kl(
    student: Head,
    teacher: Teacher,
    *,
    temperature: float,
    reverse: bool,
    positions: Tensor | None,  # [n] tokens that count; None counts all of them
    weights: Tensor | None,  # [tokens]
) -> Tensor:  # []
    """Mean over the positions of weight times ``reference.kl`` between the student's and the corrected logits."""
    dtype, vocab = teacher.alpha.dtype, len(student.weight)
    count = len(student.hidden if positions is None else positions)
    corrected = student.weight.new_empty(chunk_height(count, vocab, student.hidden.device), vocab, dtype=dtype)

    def distance(chunk: slice, logits: Tensor) -> Tensor:
        at = chunk if positions is None else positions[chunk]
        wanted = corrected[: len(logits)]
        _correct(teacher, at, wanted, logits)
        _project(student, at, logits)
        scale = logits.new_ones(len(logits)) if weights is None else weights[at].to(dtype)
        total: Tensor = teacher.kernels.kl_(logits, wanted, scale, temperature=temperature, reverse=reverse)
        return total

    found: Tensor = _MeanDistance.apply(*student, positions, distance, dtype, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return found


def soft_kl(
    student: Head,
    counts: Tensor,  # [n] int, tokens stored for each position
    tokens: Tensor,  # [k] int
    log_probs: Tensor,  # [k]
    rest: Tensor,  # [n]
    weights: Tensor,  # [n]
    dtype: torch.dtype,
) -> Tensor:  # []
    """Mean over the positions of ``soft_kl_``."""
    ends = pad(counts.long().cumsum(0), (1, 0)).tolist()

    def distance(chunk: slice, logits: Tensor) -> Tensor:
        _project(student, chunk, logits)
        stored = slice(ends[chunk.start], ends[chunk.stop])
        return soft_kl_(logits, counts[chunk], tokens[stored], log_probs[stored], rest[chunk], weights[chunk])

    found: Tensor = _MeanDistance.apply(*student, None, distance, dtype, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return found


def soft_kl_(
    logits: Tensor,  # [n, vocab], overwritten with the gradient of the sum
    counts: Tensor,  # [n] int, tokens stored for each row
    tokens: Tensor,  # [k] int
    log_probs: Tensor,  # [k]
    rest: Tensor,  # [n], probability of all other tokens together
    weights: Tensor,  # [n]
) -> Tensor:  # []
    """Sum of weight times KL(target || student), in nats; all tokens that are not stored count as one.

    Its gradient is softmax(student) - target, where the tail of the target is shared out as the student has it.
    """
    counts, tokens, wanted = counts.long(), tokens.long(), log_probs.to(logits.dtype)
    rows = torch.arange(len(logits), device=logits.device).repeat_interleave(counts)
    got = logits[rows, tokens]
    tops, sums = (logits.new_empty(len(logits), 1) for _ in range(2))
    for block in _blocks(logits):
        torch.amax(logits[block], -1, keepdim=True, out=tops[block])
        logits[block].sub_(tops[block]).exp_()
        torch.sum(logits[block], -1, keepdim=True, out=sums[block])
        logits[block].div_(sums[block])
    got = got - tops[rows, 0] - sums[rows, 0].log()
    logits[rows, tokens] = 0
    others = logits.sum(-1).clamp_min_(reference.LEAST_REST)
    logits.mul_((weights * (1 - rest / others))[:, None])
    logits[rows, tokens] = (got.exp() - wanted.exp()) * weights[rows]
    of_tokens = wanted.exp() * (wanted - got) * weights[rows]
    return of_tokens.sum() + (torch.xlogy(rest, rest / others) * weights).sum()


def chunk_height(tokens: int, vocab: int, device: torch.device) -> int:
    """Return the rows of a chunk: a small part of the tokens, but enough of them for an efficient product."""
    room = _chunk_size(device) // vocab
    return max(1, min(tokens, room, max(_FEW, tokens // _SHARE)))


def _chunk_size(device: torch.device) -> int:
    return CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK


class _MeanDistance(torch.autograd.Function):
    """Mean of a distance between a student's logits and something else, with its gradients computed beside it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        positions: Tensor | None,
        distance: Callable[[slice, Tensor], Tensor],  # (which positions, room for logits): sum; leaves the gradient
        dtype: torch.dtype,
        with_gradients: bool,
    ) -> Tensor:
        count = len(hidden if positions is None else positions)
        needed = [with_gradients and each for each in ctx.needs_input_grad[:3]]
        of_hidden, of_weight, of_bias = (
            each.new_zeros(each.shape, dtype=dtype) if need and each is not None else None
            for each, need in zip((hidden, weight, bias), needed, strict=True)
        )
        logits = weight.new_empty(chunk_height(count, len(weight), hidden.device), len(weight), dtype=dtype)
        total = logits.new_zeros(())
        for chunk in _slices(count, len(logits)):
            rows = logits[: chunk.stop - chunk.start]
            total += distance(chunk, rows)
            at = chunk if positions is None else positions[chunk]
            if of_bias is not None:
                of_bias.add_(rows.sum(0), alpha=1 / count)
            gradient = rows.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[at] = (gradient @ weight).to(dtype).mul_(1 / count)
            if of_weight is not None:
                _add_product(of_weight, gradient.t(), hidden[at], 1 / count)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.dtypes = [each.dtype if each is not None else None for each in (hidden, weight, bias)]
        return total / max(1, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        as_it_is = bool(above == 1)
        gradients = [
            each if each is None else (each if as_it_is else each * above).to(dtype)
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


def _correct(
    teacher: Teacher,
    at: slice | Tensor,
    out: Tensor,  # [n, vocab]
    scratch: Tensor,  # [at least n, vocab]
) -> None:
    """Write the corrected logits of some tokens into ``out``."""
    _project(teacher.baseline, at, out)
    if teacher.reinforced is None:
        return
    reinforced = scratch[: len(out)]
    _project(teacher.reinforced, at, reinforced)
    teacher.kernels.correct_logits(
        out,
        reinforced,
        teacher.alpha[at] if teacher.alpha.dim() else teacher.alpha,
        space=teacher.space,
        threshold=teacher.threshold,
        variant=teacher.variant,
        out=out,
    )


def _project(head: Head, at: slice | Tensor, out: Tensor) -> None:  # out: [n, vocab]
    """Write the logits of some tokens into ``out``."""
    if out.dtype == head.hidden.dtype:
        torch.mm(head.hidden[at], head.weight.t(), out=out)
    else:
        out.copy_(head.hidden[at] @ head.weight.t())
    if head.bias is not None:
        out += head.bias


def _add_product(
    total: Tensor,  # [vocab, hidden], in the dtype of the computation
    left: Tensor,  # [vocab, n]
    right: Tensor,  # [n, hidden]
    scale: float,
) -> None:
    """Add ``scale * left @ right``, which in a lower precision is never there as a whole."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
        return
    height = max(1, _chunk_size(total.device) // total.shape[1])
    for rows in _slices(len(total), height):
        total[rows].add_(left[rows] @ right, alpha=scale)


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Rows that are worked on together, so that what has to be set beside them is small."""
    return _slices(len(logits), max(1, fused_torch.block_size(logits.device) // logits.shape[1]))


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
