"""The correction, and the distance to it, as CUDA kernels; the only file that imports triton.

A row is cut into column blocks, one program each, so that few rows still fill a device. In raw space one pass writes
the result. In log-probability space a row that fits one block is also read once; a wider one is read twice, first for
the block-wise maxima and sums that together are both rows' log-sum-exp. Choosing a token writes one candidate a block
instead of the row. A KL and its gradient take two passes in either direction: the first leaves what tells both rows'
log-sum-exp and their KL. Arithmetic is float32, offsets are 64-bit, strides are free.
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


def kl_(
    logits: Tensor,  # [rows, vocab] of the student, overwritten with the gradient of the sum
    wanted: Tensor,  # [rows, vocab]
    weights: Tensor,  # [rows], float32
    *,
    temperature: float,
    reverse: bool,
) -> Tensor:  # []
    """Sum of weight times ``reference.kl``."""
    rows, vocab = logits.shape
    cut = _Cut.of(vocab, "logits")
    weights = weights.contiguous()
    distances = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if not rows:
        return distances.sum()
    measures = torch.empty(rows, 6, cut.blocks, dtype=torch.float32, device=logits.device)
    first, second = (logits, wanted) if reverse else (wanted, logits)
    inputs = (first, *first.stride(), second, *second.stride(), vocab, cut.blocks)
    shape = {"BLOCK": cut.width, "num_warps": cut.warps}
    with torch.cuda.device_of(logits):
        _compare_blocks[(rows * cut.blocks,)](measures, *inputs, float(temperature), **shape)
        _descend[(rows * cut.blocks,)](
            logits,
            *logits.stride(),
            distances,
            measures,
            weights,
            *inputs,
            float(temperature),
            REVERSE=reverse,
            PARTS=triton.next_power_of_2(cut.blocks),
            **shape,
        )
    return (distances * weights).sum()


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


@triton.jit
def _compare_blocks(
    measures, p_pointer, p_row_stride, p_stride, q_pointer, q_row_stride, q_stride, vocab, blocks, temperature,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """First pass to KL(p || q): six numbers a block, as ``[rows, 6, blocks]``.

    Top and sum of p and of q, the sum of p times its gap to q, both seen from their tops, and the top of p where q is
    -inf, which alone tells whether the KL is infinite.
    """
    row, block, columns = _place(blocks, BLOCK)
    p = _load(p_pointer, p_row_stride, p_stride, row, columns, vocab) / temperature
    q = _load(q_pointer, q_row_stride, q_stride, row, columns, vocab) / temperature
    p_top, p_sum = _top_and_sum(p)
    q_top, q_sum = _top_and_sum(q)
    below = p - _finite(p_top)
    mass = tl.exp(below)
    banned = q == -float("inf")
    gap = tl.where((mass == 0) | banned, 0.0, below - (q - _finite(q_top)))
    there = measures + 6 * row * blocks + block
    tl.store(there, p_top)
    tl.store(there + blocks, p_sum)
    tl.store(there + 2 * blocks, q_top)
    tl.store(there + 3 * blocks, q_sum)
    tl.store(there + 4 * blocks, tl.sum(mass * gap, 0))
    tl.store(there + 5 * blocks, tl.max(tl.where(banned, p, -float("inf")), 0))


@triton.jit
def _distance(measures, row, blocks, PARTS: tl.constexpr):
    """KL(p || q) of a row, and for p and q what is to be taken off a score, in two steps, for its log-probability."""
    parts = tl.arange(0, PARTS)
    there = parts < blocks
    at = measures + 6 * row * blocks + parts
    p_tops = tl.load(at, mask=there, other=-float("inf"))
    p_sums = tl.load(at + blocks, mask=there, other=0.0)
    q_tops = tl.load(at + 2 * blocks, mask=there, other=-float("inf"))
    q_sums = tl.load(at + 3 * blocks, mask=there, other=0.0)
    gaps = tl.load(at + 4 * blocks, mask=there, other=0.0)
    banned = tl.max(tl.load(at + 5 * blocks, mask=there, other=-float("inf")), 0)
    p_top, q_top = _finite(tl.max(p_tops, 0)), _finite(tl.max(q_tops, 0))
    p_share = tl.exp(p_tops - p_top)
    p_sum, q_sum = tl.sum(p_sums * p_share, 0), tl.sum(q_sums * tl.exp(q_tops - q_top), 0)
    p_log, q_log = tl.log(p_sum), tl.log(q_sum)
    shift = (p_tops - p_top) - (q_tops - q_top)
    gap = tl.sum(tl.where(p_share == 0, 0.0, p_share * (gaps + p_sums * shift)), 0) / p_sum
    gap = tl.where(tl.exp(banned - p_top - p_log) > 0, float("inf"), gap)
    return gap - (p_log - q_log), p_top, p_log, q_top, q_log


@triton.jit
def _descend(
    out_pointer, out_row_stride, out_stride, distances, measures, weights,
    p_pointer, p_row_stride, p_stride, q_pointer, q_row_stride, q_stride, vocab, blocks, temperature,
    REVERSE: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Second pass: KL(p || q) of each row, and its gradient to the scores of q, or of p in reverse, over them."""
    row, block, columns = _place(blocks, BLOCK)
    distance, p_top, p_log, q_top, q_log = _distance(measures, row, blocks, PARTS)
    tl.store(distances + row, distance, mask=block == 0)
    p = _load(p_pointer, p_row_stride, p_stride, row, columns, vocab) / temperature - p_top - p_log
    q = _load(q_pointer, q_row_stride, q_stride, row, columns, vocab) / temperature - q_top - q_log
    of_p = tl.exp(p)
    if REVERSE:
        gradient = of_p * (tl.where(of_p == 0, 0.0, p - q) - distance)
    else:
        gradient = tl.exp(q) - of_p
    gradient *= tl.load(weights + row) / temperature
    there = out_pointer + row * out_row_stride + columns * out_stride
    tl.store(there, gradient.to(out_pointer.dtype.element_ty), mask=columns < vocab)
