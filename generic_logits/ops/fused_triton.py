"""The correction as CUDA kernels; the only file that imports triton.

A row is cut into column blocks, one program each, so that few rows still fill a device. In raw space one pass writes
the result. In log-probability space a row that fits one block is also read once; a wider one is read twice, first for
the block-wise maxima and sums that together are both rows' log-sum-exp. Choosing a token writes one candidate a block
instead of the row. Arithmetic is float32, offsets are 64-bit, strides are free.
"""
# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator"
# Kernels are typed by their compiler, when it reads their source.

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns of a program
WHOLE_ROW = 8192  # the widest row that one program holds: both inputs in 32 registers of each of 512 threads
PHILOX_ROUNDS = 7  # the fewest that pass BigCrush (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")


class _Cut(NamedTuple):
    """How a row is cut into blocks."""

    blocks: int
    width: int  # a power of two

    @classmethod
    def of(cls, vocab: int, space: str) -> _Cut:
        widest = WHOLE_ROW if space == "logprobs" else BLOCK
        width = min(max(triton.next_power_of_2(vocab), 16), BLOCK if vocab > widest else widest)
        return cls(triton.cdiv(vocab, width), width)

    @property
    def warps(self) -> int:
        return min(16, max(1, self.width // 512))


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 stood when this module was loaded, so that the kernels run on a CPU."""
    return not isinstance(_correct, triton.JITFunction)


def correct_logits(
    baseline: Tensor,  # [rows, vocab]
    reinforced: Tensor,  # [rows, vocab]
    alpha: Tensor,  # [rows, 1] or [], float32
    *,
    space: str,
    threshold: float,
    variant: str,
    out: Tensor,  # [rows, vocab]; may be `baseline` or `reinforced` itself
) -> None:
    """Write ``reference.correct_logits`` into ``out``."""
    rows, vocab = baseline.shape
    cut = _Cut.of(vocab, space)
    if not rows:
        return
    with torch.cuda.device_of(baseline):
        _correct[(rows * cut.blocks,)](
            out,
            *out.stride(),
            *_arguments(baseline, reinforced, alpha, space, cut),
            float(threshold),
            RELU=variant == "relu",
            **_constants(space, cut),
        )


def choose_token(
    baseline: Tensor,  # [rows, vocab]
    reinforced: Tensor,  # [rows, vocab]
    alpha: Tensor,  # [rows, 1] or [], float32
    *,
    space: str,
    threshold: float,
    variant: str,
    temperature: float | None,
    generator: torch.Generator | None,
) -> Tensor:  # [rows], int64
    """Give ``reference.choose_token`` of the corrected row, which is never written.

    The noise is Philox with the row and the column as its counter and a key drawn from ``generator``.
    """
    rows, vocab = baseline.shape
    cut = _Cut.of(vocab, space)
    value = torch.empty(rows, cut.blocks, dtype=torch.float32, device=baseline.device)
    token = torch.empty(rows, cut.blocks, dtype=torch.int64, device=baseline.device)
    if not rows:
        return token[:, 0]
    sample = temperature is not None
    key = torch.randint(2**63 - 1, (1,), generator=generator, device=baseline.device) if sample else token
    with torch.cuda.device_of(baseline):
        _choose[(rows * cut.blocks,)](
            value,
            token,
            key,
            float(temperature or 1.0),
            *_arguments(baseline, reinforced, alpha, space, cut),
            float(threshold),
            RELU=variant == "relu",
            SAMPLE=sample,
            ROUNDS=PHILOX_ROUNDS,
            **_constants(space, cut),
        )
        if cut.blocks > 1:
            _finish[(rows,)](value, token, cut.blocks, PARTS=triton.next_power_of_2(cut.blocks))
    return token[:, 0]


def _arguments(baseline: Tensor, reinforced: Tensor, alpha: Tensor, space: str, cut: _Cut) -> tuple[object, ...]:
    """What both kernels read; in log-probability space this runs the first of two passes over rows that need it."""
    rows, vocab = baseline.shape
    inputs = (baseline, *baseline.stride(), reinforced, *reinforced.stride(), vocab, cut.blocks)
    tops = sums = alpha
    if space == "logprobs" and cut.blocks > 1:
        tops, sums = torch.empty(2, rows, 2, cut.blocks, dtype=torch.float32, device=baseline.device)
        _sum_blocks[(rows * cut.blocks,)](tops, sums, *inputs, BLOCK=cut.width, num_warps=cut.warps)
    return (*inputs, tops, sums, alpha.contiguous(), int(alpha.dim() > 0))


def _constants(space: str, cut: _Cut) -> dict[str, object]:
    return {
        "LOGPROBS": space == "logprobs",
        "PARTS": triton.next_power_of_2(cut.blocks),
        "BLOCK": cut.width,
        "num_warps": cut.warps,
    }


@triton.jit
def _place(blocks, BLOCK: tl.constexpr):
    """Row, block and columns of this program, in 64 bits."""
    program = tl.program_id(0).to(tl.int64)
    block = program % blocks
    return program // blocks, block, block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _load(pointer, row_stride, stride, row, columns, vocab):
    there = pointer + row * row_stride + columns * stride
    return tl.load(there, mask=columns < vocab, other=-float("inf")).to(tl.float32)


@triton.jit
def _finite(top):
    return tl.where(top == -float("inf"), 0.0, top)


@triton.jit
def _top_and_sum(x):
    """Largest of a block, and the sum of exponentials below it; a NaN is in the sum."""
    top = tl.max(x, 0)
    return top, tl.sum(tl.exp(x - _finite(top)), 0)


@triton.jit
def _log_sum(tops, sums, start, blocks, PARTS: tl.constexpr):
    """Log-sum-exp of a row from those of its blocks; -inf for a row of -inf."""
    parts = tl.arange(0, PARTS)
    tops = tl.load(tops + start + parts, mask=parts < blocks, other=-float("inf"))
    sums = tl.load(sums + start + parts, mask=parts < blocks, other=0.0)
    base = _finite(tl.max(tops, 0))
    return base + tl.log(tl.sum(sums * tl.exp(tops - base), 0))


@triton.jit
def _corrected(
    b_pointer, b_row_stride, b_stride, r_pointer, r_row_stride, r_stride, vocab, blocks,
    tops, sums, alpha_pointer, alpha_stride, threshold, row, columns,
    RELU: tl.constexpr, LOGPROBS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Corrected scores of one block, float32 not yet rounded to the baseline's dtype."""
    b = _load(b_pointer, b_row_stride, b_stride, row, columns, vocab)
    r = _load(r_pointer, r_row_stride, r_stride, row, columns, vocab)
    alpha = tl.load(alpha_pointer + row * alpha_stride)
    increase = r
    if LOGPROBS:
        if PARTS == 1:
            b_top, b_sum = _top_and_sum(b)
            r_top, r_sum = _top_and_sum(r)
            b_log = _finite(b_top) + tl.log(b_sum)
            r_log = _finite(r_top) + tl.log(r_sum)
        else:
            b_log = _log_sum(tops, sums, 2 * row * blocks, blocks, PARTS)
            r_log = _log_sum(tops, sums, (2 * row + 1) * blocks, blocks, PARTS)
        nothing = (b_log == -float("inf")) | (r_log == -float("inf"))
        increase = r + tl.where(nothing, 0.0, b_log - r_log)
    broken = increase != increase
    increase = increase - b
    if RELU:
        increase = increase - threshold
        increase = tl.where(increase > 0, increase, 0.0)
    v = tl.where((b == -float("inf")) | (r == -float("inf")), b, b - alpha * increase)
    v = tl.where(broken, float("nan"), v)
    return tl.where(alpha == 0, b, v)


@triton.jit
def _sum_blocks(
    tops, sums, b_pointer, b_row_stride, b_stride, r_pointer, r_row_stride, r_stride, vocab, blocks,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """First pass: top and sum of each block of both rows, as ``[rows, 2, blocks]``."""
    row, block, columns = _place(blocks, BLOCK)
    at = 2 * row * blocks + block
    top, total = _top_and_sum(_load(b_pointer, b_row_stride, b_stride, row, columns, vocab))
    tl.store(tops + at, top)
    tl.store(sums + at, total)
    top, total = _top_and_sum(_load(r_pointer, r_row_stride, r_stride, row, columns, vocab))
    tl.store(tops + at + blocks, top)
    tl.store(sums + at + blocks, total)


@triton.jit
def _correct(
    out_pointer, out_row_stride, out_stride,
    b_pointer, b_row_stride, b_stride, r_pointer, r_row_stride, r_stride, vocab, blocks,
    tops, sums, alpha_pointer, alpha_stride, threshold,
    RELU: tl.constexpr, LOGPROBS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, _, columns = _place(blocks, BLOCK)
    v = _corrected(
        b_pointer, b_row_stride, b_stride, r_pointer, r_row_stride, r_stride, vocab, blocks,
        tops, sums, alpha_pointer, alpha_stride, threshold, row, columns,
        RELU, LOGPROBS, PARTS,
    )  # fmt: skip
    there = out_pointer + row * out_row_stride + columns * out_stride
    tl.store(there, v.to(out_pointer.dtype.element_ty), mask=columns < vocab)


@triton.jit
def _gumbel(key, row, block, BLOCK: tl.constexpr, ROUNDS: tl.constexpr):
    """Gumbel noise for the columns of one block, ``-log(E)`` with E standard exponential, four columns a counter.

    What wins is a small E, so E is ``-log(1 - u)`` where u has its finest steps, 2^-31, and is never 0.
    """
    quads = (block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    none = quads * 0
    low = none + (row & 0xFFFFFFFF).to(tl.uint32)
    high = none + (row >> 32).to(tl.uint32)
    one, two, three, four = tl.philox(key, quads, low, high, none, ROUNDS)
    bits = tl.reshape(tl.join(tl.join(one, two), tl.join(three, four)), (BLOCK,))
    u = tl.maximum(tl.uint_to_uniform_float(bits), 2.3e-10)
    return -tl.log(tl.where(u < 1e-3, u * (1 + u * (0.5 + u / 3)), -tl.log(1 - u)))


@triton.jit
def _best(v, token):
    """Largest value and its token: the lowest of equals, and the first NaN before all else, as in torch.argmax."""
    broken = v != v
    any_broken = tl.max(broken.to(tl.int32), 0) > 0
    clean = tl.where(broken, -float("inf"), v)
    top = tl.max(clean, 0)
    wins = (any_broken & broken) | ((clean == top) & (any_broken == 0))
    return tl.where(any_broken, float("nan"), top), tl.min(tl.where(wins, token, 2**62), 0)


@triton.jit
def _choose(
    value_pointer, token_pointer, key_pointer, temperature,
    b_pointer, b_row_stride, b_stride, r_pointer, r_row_stride, r_stride, vocab, blocks,
    tops, sums, alpha_pointer, alpha_stride, threshold,
    RELU: tl.constexpr, LOGPROBS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
    SAMPLE: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Best token of each block, after the rounding that a written row would have had."""
    row, block, columns = _place(blocks, BLOCK)
    v = _corrected(
        b_pointer, b_row_stride, b_stride, r_pointer, r_row_stride, r_stride, vocab, blocks,
        tops, sums, alpha_pointer, alpha_stride, threshold, row, columns,
        RELU, LOGPROBS, PARTS,
    )  # fmt: skip
    v = v.to(b_pointer.dtype.element_ty).to(tl.float32)
    if SAMPLE:
        v = v / temperature + _gumbel(tl.load(key_pointer), row, block, BLOCK, ROUNDS)
    value, token = _best(tl.where(columns < vocab, v, -float("inf")), columns)
    tl.store(value_pointer + row * blocks + block, value)
    tl.store(token_pointer + row * blocks + block, token)


@triton.jit
def _finish(value_pointer, token_pointer, blocks, PARTS: tl.constexpr):
    """Best token of each row, written over its first block's."""
    parts = tl.arange(0, PARTS)
    at = tl.program_id(0).to(tl.int64) * blocks + parts
    there = parts < blocks
    values = tl.load(value_pointer + at, mask=there, other=-float("inf"))
    _, token = _best(values, tl.load(token_pointer + at, mask=there, other=2**62))
    tl.store(token_pointer + tl.program_id(0).to(tl.int64) * blocks, token)
