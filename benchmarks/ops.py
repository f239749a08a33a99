"""Time of the operators, against the time that memory needs for their bytes and against the plain expression.

On the accelerator if there is one, else on the CPU. Every row names what its goal is measured by: ours are compared
with `copy`, and what ours replace is compared with ours. Rounds are interleaved, and buffers are used again: small
sizes stay in a cache, for all rows alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.table import Row
from generic_logits.ops import correct_logits, generic_argmax, generic_sample

ALPHA = 2.0
REFERENCES = {
    "eager": "ours",
    "compiled": "ours",
    "ours": "copy",
    "ours, in place": "copy",
    "ours, logprobs": "copy",
    "copy": "copy",
    "correct then sample": "ours, sampled",
    "ours, sampled": "copy",
    "argmax": "copy",
}


def eager(b: Tensor, r: Tensor) -> Tensor:
    return b - ALPHA * torch.relu(r - b)


def correct_then_sample(b: Tensor, r: Tensor) -> Tensor:
    return torch.multinomial(correct_logits(b, r, ALPHA).float().softmax(-1), 1).squeeze(-1)


def run(*, quick: bool) -> list[Row]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if quick:
        rows, vocabs, dtypes, rounds = (4,), (4099,), (torch.float32,), 5
    else:
        rows, vocabs, dtypes, rounds = (1, 8, 32), (32000, 128256), (torch.float32, torch.bfloat16), 21
    if device == "cuda" and not quick:
        rows += (256, 1024)
    compiled = torch.compile(eager, dynamic=True)
    sizes = product(dtypes, vocabs, rows)
    return [row for dtype, vocab, n in sizes for row in _one_size(n, vocab, dtype, device, compiled, rounds)]


def _one_size(rows: int, vocab: int, dtype: torch.dtype, device: str, compiled: Any, rounds: int) -> list[Row]:
    size = f"[{rows}, {vocab:,}] {str(dtype).removeprefix('torch.')}, {device}"
    generator = torch.Generator(device).manual_seed(0)
    noise = (torch.randn(rows, vocab, generator=generator, device=device) for _ in range(2))
    b = (4 * next(noise)).to(dtype)
    r = (b + 2 * next(noise)).to(dtype)
    out, own = torch.empty_like(b), b.clone()
    corrections: dict[str, Callable[[], Tensor]] = {
        "eager": lambda: eager(b, r),
        "compiled": lambda: compiled(b, r),
        "ours": lambda: correct_logits(b, r, ALPHA, out=out),
        "ours, in place": lambda: correct_logits(own, r, ALPHA, out=own),
        "ours, logprobs": lambda: correct_logits(b, r, ALPHA, space="logprobs", out=out),
    }
    choices: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "correct then sample": correct_then_sample,
        "ours, sampled": lambda b, r: generic_sample(b, r, ALPHA),
        "argmax": lambda b, r: generic_argmax(b, r, ALPHA),
    }
    for name, correct in corrections.items():
        check_scores(f"ops, {name}, {size}", correct(), b, r, "logprobs" if "logprobs" in name else "logits")
    for name, choose in choices.items():
        check_tokens(f"ops, {name}, {size}", choose, b, r, likeliest=name == "argmax")
    timed: dict[str, Callable[[], Any]] = {
        **corrections,
        "copy": lambda: out.copy_(b),
        **{name: lambda choose=choose: choose(b, r) for name, choose in choices.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, call in timed.items():
            times[name].append(milliseconds(call, device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["copy"] *= 1.5  # copying reads one and writes one; the correction reads two and writes one
    return [
        Row(name, size, value, "ms", REFERENCES[name], value / medians[REFERENCES[name]], checked=True)
        for name, value in medians.items()
    ]


def check_scores(what: str, result: Tensor, b: Tensor, r: Tensor, space: Any) -> None:
    """Held against the reference in float64, to the roundings of the scores' dtype."""
    exact = correct_logits(b.double(), r.double(), ALPHA, space=space, backend="reference")
    allowed = 8 * torch.finfo(b.dtype).eps * exact.abs().max()
    if not (result.double() - exact).abs().max() <= allowed:
        raise SystemExit(f"{what}: the result is not the reference's")


def check_tokens(
    what: str, choose: Callable[[Tensor, Tensor], Tensor], b: Tensor, r: Tensor, *, likeliest: bool
) -> None:
    """The likeliest token of each row; of a draw, the frequencies of 16 tokens among 4,096 draws."""
    if likeliest:
        scores = correct_logits(b, r, ALPHA, backend="reference")
        right = choose(b, r).equal(scores.argmax(-1))
    else:
        b, r = (each[:1, :16].float() / 4 for each in (b, r))
        expected = correct_logits(b, r, ALPHA, backend="reference")[0].softmax(-1)
        tokens = choose(b.expand(4096, -1), r.expand(4096, -1))
        seen = torch.bincount(tokens, minlength=16) / 4096
        right = bool((seen - expected).abs().max() < 0.05)  # more than six standard deviations
    if not right:
        raise SystemExit(f"{what}: the tokens are not the reference's")


def milliseconds(call: Callable[[], Any], device: str) -> float:
    """One call on a CPU; on a GPU the mean of ten, queued behind other work so that no launch is waited for."""
    if device == "cpu":
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    ahead = torch.ones(8192, 8192, dtype=torch.bfloat16, device=device)
    for _ in range(4):
        ahead @ ahead
    started.record()
    for _ in range(10):
        call()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended) / 10
