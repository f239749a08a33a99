"""Time of a decoded token inside vLLM and memory of the weights: all engines alive in one process, rounds interleaved.

``baseline`` is a plain engine; ``two copies`` and ``shared base`` are engines with the correction, by a whole
reinforced model and by a LoRA adapter of rank 16 on every linear layer. ``hf generate`` decodes the pair of
``two copies`` in transformers. ``two engines`` decodes it from outside two plain engines: every step asks both for one
token and the logits of the whole vocabulary. It is spared what it can be: prefixes are cached, and no token is turned
into text.

Times are between the ends of two steps, so they hold decoding and no prefill.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from benchmarks.decode import ALPHA, per_token, random_llama
from benchmarks.table import Row, rows_of
from generic_logits import ModelPair, correct_logits
from generic_logits.vllm import engine_args

LENGTH = 64  # of the prompts
CONTEXT = 128
BATCH = 32  # the largest
ENVIRONMENT = {  # vLLM reads it when it is imported
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def run(*, quick: bool) -> list[Row]:
    shape = {"hidden": 64, "layers": 2, "vocab": 512} if quick else {"hidden": 768, "layers": 12, "vocab": 32000}
    cases = [(1, 8, 6)] if quick else [(1, 32, 8), (8, 16, 5), (BATCH, 12, 4)]  # batch, new, new of two engines
    with ExitStack() as stack:
        if quick:  # a second thread costs a tiny model more than it gives, many times more on a busy machine
            stack.callback(torch.set_num_threads, torch.get_num_threads())  # held: vLLM puts another in its place
            torch.set_num_threads(1)
        return measure(shape, cases, rounds=2 if quick else 5, eager=quick)


def measure(shape: dict[str, int], cases: list[tuple[int, int, int]], *, rounds: int, eager: bool) -> list[Row]:
    os.environ.update(ENVIRONMENT)
    with TemporaryDirectory() as root, ExitStack() as stack:
        baseline, full, lora = make_folders(Path(root), shape)
        options = {
            "dtype": "float32",
            "enforce_eager": eager,
            "max_model_len": CONTEXT,
            "max_num_seqs": BATCH,
            "block_size": 32,  # two engines find more of a prompt cached than with the CPU's default of 128
            "kv_cache_memory_bytes": 2 * BATCH * CONTEXT * shape["layers"] * shape["hidden"] * 2 * 4,  # two branches'
        }
        plain = {"max_logprobs": -1, "logprobs_mode": "raw_logits", **options}
        arguments = {
            "baseline": {"model": str(baseline), **plain},
            "reinforced": {"model": str(full), **plain},
            "two copies": engine_args(baseline, full, alpha=ALPHA, **options),
            "shared base": engine_args(baseline, lora, alpha=ALPHA, **options),
        }
        engines = {name: _start(each, stack) for name, each in arguments.items()}
        pairs = [ModelPair.from_pretrained(baseline, other, alpha=ALPHA) for other in (full, lora)]
        millions = sum(parameter.numel() for parameter in pairs[0].baseline.parameters()) / 1e6
        of_all = f"{millions:.3g}M, {'eager' if eager else 'compiled'}"
        rows: list[Row] = []
        for batch, new, fewer in cases:
            prompts = torch.randint(0, shape["vocab"], (batch, LENGTH), generator=torch.Generator().manual_seed(3))
            rows += _decode(engines, pairs, prompts, new, fewer, rounds, f"{of_all}, batch {batch}")
        weights = {
            f"{name}, weights": engines[name].apply_model(weight_megabytes)
            for name in ("baseline", "two copies", "shared base")
        }
        return rows + rows_of(weights, of_all, "MB", "baseline, weights")


def _start(arguments: dict[str, Any], stack: ExitStack) -> Any:
    """An engine in this process, taken down with the stack."""
    from vllm import LLM

    llm = LLM(disable_log_stats=True, **arguments)
    stack.callback(llm.llm_engine.engine_core.shutdown)
    return llm


def _decode(
    engines: dict[str, Any], pairs: list[ModelPair], prompts: Tensor, new: int, fewer: int, rounds: int, size: str
) -> list[Row]:
    plain = engines["baseline"], engines["reinforced"]
    variants: dict[str, Callable[[], tuple[Tensor, list[float]]]] = {
        "baseline": lambda: by_engine(engines["baseline"], prompts, new),
        "two copies": lambda: by_engine(engines["two copies"], prompts, new),
        "shared base": lambda: by_engine(engines["shared base"], prompts, new),
        "hf generate": lambda: by_transformers(pairs[0], prompts, new),
        "two engines": lambda: by_two_engines(plain, prompts, fewer),
    }
    tokens = {name: variant()[0] for name, variant in variants.items()}
    check(tokens, by_transformers(pairs[1], prompts, new)[0], size)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            times[name] += per_token(variant, fewer if name == "two engines" else new)
    rates = {f"{name}, throughput": [1e3 * len(prompts) / each for each in values] for name, values in times.items()}
    rows = rows_of(times, size, "ms a token", "baseline") + rows_of(rates, size, "tokens/s", "baseline, throughput")
    return [
        replace(row, size=f"{size}, {fewer if row.name.startswith('two engines') else new} new tokens") for row in rows
    ]


def check(
    tokens: dict[str, Tensor],  # [batch, length] each, of two engines fewer columns
    of_adapter: Tensor,  # [batch, length], the adapter's pair in transformers
    size: str,
) -> None:
    """Every corrected row wrote what transformers writes, and that is not what the baseline writes.

    Raises:
        SystemExit: it did not.
    """
    columns = tokens["two engines"].shape[1]
    wanted = {
        "two copies": tokens["hf generate"],
        "shared base": of_adapter,
        "two engines": tokens["two copies"][:, :columns],
    }
    for name, expected in wanted.items():
        if not torch.equal(tokens[name], expected):
            raise SystemExit(f"vllm, {size}: {name} and what it is checked against disagree")
        if torch.equal(expected, tokens["baseline"][:, : expected.shape[1]]):
            raise SystemExit(f"vllm, {size}: the correction of {name} changed nothing, so nothing was checked")


def by_engine(llm: Any, prompts: Tensor, new: int) -> tuple[Tensor, list[float]]:
    """One engine decodes all prompts together; the time is noted after each of its steps."""
    answers, ticks = _ask(llm, prompts, new)
    return torch.cat([prompts, torch.tensor([list(each.token_ids) for each in answers])], dim=-1), ticks


def by_two_engines(engines: tuple[Any, Any], prompts: Tensor, new: int) -> tuple[Tensor, list[float]]:
    """What a user writes around two engines: every step sends both all that is written so far."""
    ids, ticks = prompts, []
    for _ in range(new):
        b, r = (_next_logits(llm, ids) for llm in engines)
        ids = torch.cat([ids, correct_logits(b, r, ALPHA).argmax(-1, keepdim=True)], dim=-1)
        ticks.append(time.perf_counter())
    return ids, ticks


def _next_logits(llm: Any, ids: Tensor) -> Tensor:  # [rows, vocab]
    answers, _ = _ask(llm, ids, 1, logprobs=-1, flat_logprobs=True)
    tokens = torch.tensor([each.logprobs.token_ids for each in answers])
    values = torch.tensor([each.logprobs.logprobs for each in answers])
    return torch.empty(len(ids), int(tokens.max()) + 1).scatter_(-1, tokens, values)


def _ask(llm: Any, prompts: Tensor, new: int, **options: Any) -> tuple[list[Any], list[float]]:
    from vllm import SamplingParams

    engine, answers, ticks = llm.llm_engine, {}, []
    asked = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False, **options)
    for index, row in enumerate(prompts.tolist()):
        engine.add_request(str(index), {"prompt_token_ids": row}, asked)
    while engine.has_unfinished_requests():
        answers |= {int(each.request_id): each.outputs[0] for each in engine.step() if each.finished}
        ticks.append(time.perf_counter())
    return [answers[index] for index in range(len(prompts))], ticks


def by_transformers(pair: ModelPair, prompts: Tensor, new: int) -> tuple[Tensor, list[float]]:
    """``baseline.generate()`` with a ``GenericLogitsProcessor``, and a clock behind it."""
    ticks: list[float] = []

    def clock(input_ids: Tensor, scores: Tensor) -> Tensor:
        ticks.append(time.perf_counter())
        return scores

    mask = torch.ones_like(prompts)
    options = {"max_new_tokens": new, "do_sample": False, "logits_processor": [clock]}
    return pair.generate(prompts, attention_mask=mask, **options), ticks


def weight_megabytes(model: nn.Module) -> float:
    """Memory of an engine's parameters, each storage once, and of the copies that vLLM packs for a CPU.

    A linear layer on a CPU drops its weight for a packed copy that its ``cpu_linear`` holds; an embedding and a head
    keep both. oneDNN does not tell its copy's size: it is taken as inputs x outputs of the layer's dtype, without what
    oneDNN may pad. Caches, activations and compiled code are not counted.
    """
    from vllm._custom_ops import CPUDNNLGEMMHandler

    sizes = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in model.parameters()}
    for module in model.modules():
        for cell in getattr(getattr(module, "cpu_linear", None), "__closure__", None) or ():
            held = cell.cell_contents
            if isinstance(held, Tensor):
                sizes[held.untyped_storage().data_ptr()] = held.untyped_storage().nbytes()
            elif isinstance(held, CPUDNNLGEMMHandler):
                sizes[id(held)] = held.n * held.k * module.params_dtype.itemsize
    return sum(sizes.values()) / 1e6


def make_folders(root: Path, shape: dict[str, int]) -> tuple[Path, Path, Path]:
    """A baseline, a reinforced model and a LoRA adapter for the baseline, all random.

    The reinforced model has wider logits and the adapter is small: both then change tokens. With these seeds no two
    tokens come closer than 5e-4 to each other where one is chosen, a hundred times the rounding.
    """
    paths = baseline, full, lora = root / "baseline", root / "full", root / "lora"
    words = Tokenizer(models.WordLevel({f"<{token}>": token for token in range(shape["vocab"])}, "<0>"))
    for path, seed, spread in ((full, 1, 0.5), (baseline, 0, 0.05)):
        model = random_llama(seed, spread=spread, context=CONTEXT, **shape)
        model.save_pretrained(path)
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(path)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, settings)  # the baseline, which is saved
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    adapted.save_pretrained(lora, save_embedding_layers=False)
    return paths
