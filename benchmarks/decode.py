"""Time of a decoded token: one model, two models by hand, and the processor, in one run, rounds interleaved.

Also the processor's own work at a step (what it does beside the two models' forward passes), at a short and at a long
context: it must not grow with the context.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from benchmarks.table import Row, rows_of
from generic_logits import GenericLogitsProcessor

ALPHA = 2.0


class Clock(BaseStreamer):
    """Notes when each token of a ``generate()`` call comes out."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def put(self, value: Tensor) -> None:
        self.ticks.append(time.perf_counter())

    def end(self) -> None:
        pass


class OwnWork(GenericLogitsProcessor):
    """The processor with a stopwatch on it: seconds of each call without the reinforced model's forward.

    Processor time of the calling thread, so that what else the machine does is not counted.
    """

    def __init__(self, reinforced: Any, alpha: float) -> None:
        super().__init__(reinforced, alpha)
        self.seconds: list[float] = []
        self._handles = [
            reinforced.register_forward_pre_hook(lambda *_: self._lap(-1)),
            reinforced.register_forward_hook(lambda *_: self._lap(+1)),
        ]

    def _lap(self, sign: int) -> None:
        self._outside -= sign * time.thread_time()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._outside = 0.0
        started = time.thread_time()
        corrected = super().__call__(input_ids, scores)
        self.seconds.append(time.thread_time() - started + self._outside)
        return corrected

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def random_llama(seed: int, *, spread: float, hidden: int, layers: int, vocab: int, context: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=context,
        initializer_range=spread,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def by_hand(baseline: Any, reinforced: Any, prompt: Tensor, new: int) -> tuple[Tensor, list[float]]:
    """The loop that a user would write: two caches, the plain expression, greedy choice."""
    caches = DynamicCache(config=baseline.config), DynamicCache(config=reinforced.config)
    ids, step, ticks = prompt, prompt, []
    for _ in range(new):
        b, r = (
            model(step, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            for model, cache in zip((baseline, reinforced), caches, strict=True)
        )
        step = (b - ALPHA * torch.relu(r - b)).argmax(-1, keepdim=True)
        ids = torch.cat([ids, step], dim=-1)
        ticks.append(time.perf_counter())
    return ids, ticks


def run(*, quick: bool) -> list[Row]:
    shape = {"hidden": 128, "layers": 2, "vocab": 2048} if quick else {"hidden": 768, "layers": 12, "vocab": 32000}
    rounds, new = (3, 12) if quick else (5, 24)
    cases = [(1, 64)] if quick else [(1, 200), (1, 2000), (8, 200)]
    lengths = (64, 256) if quick else (200, 2000)
    baseline = random_llama(0, spread=0.05, context=4096, **shape)
    reinforced = random_llama(1, spread=0.5, context=4096, **shape)  # wider logits, so that it does change tokens
    millions = sum(parameter.numel() for parameter in baseline.parameters()) / 1e6
    rows: list[Row] = []
    for batch, length in cases:
        prompt = torch.randint(0, shape["vocab"], (batch, length), generator=torch.Generator().manual_seed(2))
        rows += _decode(baseline, reinforced, prompt, new, rounds, f"{millions:.0f}M, batch {batch}, length {length}")
    return rows + own_work(reinforced, shape["vocab"], lengths, rounds)


def _decode(baseline: Any, reinforced: Any, prompt: Tensor, new: int, rounds: int, size: str) -> list[Row]:
    processor = GenericLogitsProcessor(reinforced, ALPHA)

    def generate(processors: list[Any]) -> tuple[Tensor, list[float]]:
        clock = Clock()
        ids = baseline.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            do_sample=False,
            logits_processor=processors,
            streamer=clock if len(prompt) == 1 else None,
        )
        return ids, clock.ticks

    variants: dict[str, Callable[[], tuple[Tensor, list[float]]]] = {
        "baseline": lambda: generate([]),
        "two models by hand": lambda: by_hand(baseline, reinforced, prompt, new),
        "processor": lambda: generate([processor]),
    }
    tokens = {name: variant()[0] for name, variant in variants.items()}
    if not torch.equal(tokens["processor"], tokens["two models by hand"]):
        raise SystemExit(f"decode, {size}: the processor and the two models by hand disagree")
    if torch.equal(tokens["processor"], tokens["baseline"]):
        raise SystemExit(f"decode, {size}: the correction changed nothing, so nothing was checked")
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            times[name] += per_token(variant, new)
    return rows_of(times, size, "ms a token", "baseline")


def per_token(variant: Callable[[], tuple[Tensor, list[float]]], new: int) -> list[float]:
    """Milliseconds between tokens after the first; the whole call's mean where it has no clock."""
    started = time.perf_counter()
    _, ticks = variant()
    if not ticks:
        return [1e3 * (time.perf_counter() - started) / new]
    return [1e3 * (after - before) for before, after in zip(ticks[-new:], ticks[-new + 1 :], strict=False)]


def own_work(reinforced: Any, vocab: int, lengths: tuple[int, ...], rounds: int) -> list[Row]:
    scores = torch.randn(1, vocab)
    times: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(rounds):
        for length in lengths:
            processor = OwnWork(reinforced, ALPHA)
            ids = torch.randint(0, vocab, (1, length))
            for _ in range(16):
                corrected = processor(ids, scores)
                ids = torch.cat([ids, corrected.argmax(-1, keepdim=True)], dim=-1)
            processor.remove()
            times[length] += [1e3 * value for value in processor.seconds[1:]]
    medians = {length: statistics.median(values) for length, values in times.items()}
    first = medians[lengths[0]]
    return [
        Row(
            "processor's own work", f"length {length}", value, "ms a token", f"length {lengths[0]}", value / first, True
        )
        for length, value in medians.items()
    ]
