"""Time of a decoded token: one model, two models, and both branches on one set of weights, rounds interleaved.

Beside them what a user would otherwise do: two models by hand, transformers' own classifier-free guidance (the same
model twice), a proxy-tuning loop (two small models beside the large one).

Also the processor's own work at a step (what it does beside the two models' forward passes), at a short and at a long
context: it must not grow with the context.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StoppingCriteria

from benchmarks.table import Row, rows_of
from generic_logits import GenericForCausalLM, GenericLogitsProcessor
from generic_logits.models.loading import share_weights

ALPHA = 2.0
GUIDANCE = 1.5


class Clock(StoppingCriteria):
    """Notes when each token of a ``generate()`` call is there, and stops nothing."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.ticks.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


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


def with_adapter(baseline: Any, spread: float) -> Any:
    """The baseline and a random LoRA of rank 16 on every linear layer, around the same tensors."""
    wrapped = peft.get_peft_model(
        share_weights(baseline),
        peft.LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False),
        autocast_adapter_dtype=False,
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(spread * torch.randn_like(parameter))
    return wrapped.get_base_model().eval()


@torch.no_grad()
def proxy_tuning(baseline: Any, helpers: tuple[Any, Any], prompt: Tensor, new: int) -> tuple[Tensor, list[float]]:
    """Baseline + (tuned helper - plain helper), two small models beside the large one, as a loop."""
    models = (baseline, *helpers)
    caches = [DynamicCache(config=model.config) for model in models]
    ids, step, ticks = prompt, prompt, []
    for _ in range(new):
        b, tuned, plain = (
            model(step, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            for model, cache in zip(models, caches, strict=True)
        )
        step = (b + tuned - plain).argmax(-1, keepdim=True)
        ids = torch.cat([ids, step], dim=-1)
        ticks.append(time.perf_counter())
    return ids, ticks


def run(*, quick: bool) -> list[Row]:
    shape = {"hidden": 128, "layers": 2, "vocab": 2048} if quick else {"hidden": 1024, "layers": 12, "vocab": 32000}
    small = {**shape, "hidden": shape["hidden"] // 4, "layers": max(1, shape["layers"] // 2)}
    rounds, new = (3, 12) if quick else (3, 16)
    cases = [(1, 64), (2, 64)] if quick else [(1, 64), (1, 512), (2, 64), (4, 64), (8, 64)]
    lengths = (64, 256) if quick else (200, 2000)
    models = Models(
        baseline=random_llama(0, spread=0.05, context=4096, **shape),
        reinforced=random_llama(1, spread=0.5, context=4096, **shape),  # wider logits: it does change tokens
        helpers=tuple(random_llama(seed, spread=0.5, context=4096, **small) for seed in (4, 5)),
    )
    millions = sum(parameter.numel() for parameter in models.baseline.parameters()) / 1e6
    rows: list[Row] = []
    for batch, length in cases:
        prompt = torch.randint(0, shape["vocab"], (batch, length), generator=torch.Generator().manual_seed(2))
        rows += _decode(models, prompt, new, rounds, f"{millions:.0f}M, batch {batch}, length {length}")
    return rows + own_work(models.reinforced, shape["vocab"], lengths, rounds)


@dataclass(frozen=True)
class Models:
    baseline: Any
    reinforced: Any
    helpers: tuple[Any, ...]

    @cached_property
    def adapted(self) -> Any:
        return with_adapter(self.baseline, 0.03)


def _decode(models: Models, prompt: Tensor, new: int, rounds: int, size: str) -> list[Row]:
    baseline, reinforced = models.baseline, models.reinforced
    processor = GenericLogitsProcessor(reinforced, ALPHA)
    shared = GenericForCausalLM(baseline, models.adapted, alpha=ALPHA)

    def generate(model: Any, **options: Any) -> tuple[Tensor, list[float]]:
        clock = Clock()
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            do_sample=False,
            stopping_criteria=[clock],
            **options,
        )
        return ids, clock.ticks

    variants: dict[str, Callable[[], tuple[Tensor, list[float]]]] = {
        "baseline": lambda: generate(baseline),
        "two models by hand": lambda: by_hand(baseline, reinforced, prompt, new),
        "transformers cfg": lambda: generate(baseline, guidance_scale=GUIDANCE, negative_prompt_ids=prompt[:, -1:]),
        "proxy tuning loop": lambda: proxy_tuning(baseline, models.helpers, prompt, new),
        "processor": lambda: generate(baseline, logits_processor=[processor]),
        "shared base": lambda: generate(shared),
    }
    tokens = {name: variant()[0] for name, variant in variants.items()}
    for name, other in {"processor": reinforced, "shared base": models.adapted}.items():
        if not torch.equal(tokens[name], by_hand(baseline, other, prompt, new)[0]):
            raise SystemExit(f"decode, {size}: the {name} and the two models by hand disagree")
        changed = not torch.equal(tokens[name], tokens["baseline"])
        if not changed and (name == "processor" or len(prompt) > 1):  # a small adapter may keep one row's tokens
            raise SystemExit(f"decode, {size}: the correction of the {name} changed nothing, so nothing was checked")
    for name, scores in {"transformers cfg": guided_scores, "proxy tuning loop": proxy_scores}.items():
        if not torch.equal(
            scores(models, tokens[name], prompt.shape[1]).argmax(-1), tokens[name][:, prompt.shape[1] :]
        ):
            raise SystemExit(f"decode, {size}: the {name} does not choose what its formula says")
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            times[name] += per_token(variant, new)
    return rows_of(times, size, "ms a token", "baseline")


@torch.no_grad()
def guided_scores(models: Models, ids: Tensor, start: int) -> Tensor:  # [rows, new, vocab]
    """Classifier-free guidance of whole texts, without a cache; what it leads away from sees the last token alone."""
    told = models.baseline(ids[:, :-1]).logits[:, start - 1 :].log_softmax(-1)
    untold = models.baseline(ids[:, start - 1 : -1]).logits.log_softmax(-1)
    return untold + GUIDANCE * (told - untold)


@torch.no_grad()
def proxy_scores(models: Models, ids: Tensor, start: int) -> Tensor:  # [rows, new, vocab]
    """Proxy tuning of whole texts, without a cache."""
    baseline, tuned, plain = (model(ids[:, :-1]).logits[:, start - 1 :] for model in (models.baseline, *models.helpers))
    return baseline + tuned - plain


def per_token(variant: Callable[[], tuple[Tensor, list[float]]], new: int) -> list[float]:
    """Milliseconds between tokens after the first, so that the prompt is left out."""
    _, ticks = variant()
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
