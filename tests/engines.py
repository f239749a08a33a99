"""Real vLLM engines in this process, the folders they serve, and what transformers says to the same prompts."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: starts in seconds
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
os.environ["VLLM_NO_USAGE_STATS"] = "1"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and what it imports warn in many places
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

import folders  # noqa: E402  vLLM reads its environment when it is imported
import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from generic_logits import ModelPair  # noqa: E402
from generic_logits.models.loading import share_weights  # noqa: E402
from generic_logits.vllm import engine_args  # noqa: E402

ALPHA = 2.0
CONTEXT = 192
NOISE = 0.1
# vLLM's attention on a CPU wants heads of 32 or more.
_HEADS = {"hidden_size": 64, "num_attention_heads": 2}
_DECODER = {**_HEADS, "intermediate_size": 96, "num_key_value_heads": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "mistral": {**_DECODER, "sliding_window": 16},
    "qwen3": {**_DECODER, "head_dim": 32},
    "gemma3": {**_DECODER, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16},
    "gpt2": {"n_embd": 64, "n_head": 2},
    "gpt_neox": {**_HEADS, "intermediate_size": 96},
    "opt": {**_HEADS, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "phi": {**_HEADS, "intermediate_size": 96},
    "mixtral": _DECODER,
}
THROUGH_TRANSFORMERS = ("gpt_neox", "phi")  # vLLM has no model of its own for them


def model(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """Return a tiny random float32 model that vLLM's attention takes."""
    shape = {**SHAPES[family], "vocab_size": folders.VOCAB, **changes}
    return tiny.model(family, seed, dtype=torch.float32, std=0.15, **shape)


def pair_folders(root: Path, family: str = "llama", **changes: Any) -> dict[str, Path]:
    """Save a baseline, a reinforced model of the same family, and a LoRA adapter for the baseline."""
    baseline, other = model(family, **changes), model(family, 1, **changes)
    words = tiny.tokenizer(folders.VOCAB)
    tiny.folder(root / "baseline", baseline, words)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), baseline.parameters(), strict=True):
            mine.mul_(0.3).add_(theirs)
    tiny.folder(root / "full", other, words)
    on = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]} if family == "mixtral" else {}
    return {"baseline": root / "baseline", "full": root / "full", "lora": adapter(root / "lora", baseline, **on)}


def adapter(path: Path, base: Any, **options: Any) -> Path:
    """Save a random LoRA adapter, near enough to its base that it raises some of the base's own favourites."""
    torch.manual_seed(3)
    conv = any(isinstance(each, Conv1D) for each in base.modules())
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "fan_in_fan_out": conv, **options}
    wrapped = get_peft_model(share_weights(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" not in name and ("lora_" in name or "modules_to_save" in name):
                parameter.add_(torch.randn_like(parameter), alpha=NOISE)
    wrapped.save_pretrained(path, save_embedding_layers=False)
    return path


@contextmanager
def engine(
    baseline: Path, reinforced: Path | None, alpha: float = ALPHA, *, apart: bool = False, **options: Any
) -> Iterator[LLM]:
    """Start an engine, eager and in float32 unless told otherwise, and take it down; no reinforced: plain vLLM.

    ``apart`` runs it in a process of its own: numba, which drafts need, hinders vLLM from starting another engine
    where it is loaded, and the Transformers back end changes transformers' classes.
    """
    options = {
        "enforce_eager": True,
        "dtype": "float32",
        "max_model_len": CONTEXT,
        "max_num_seqs": 8,
        "block_size": 32,
        **options,
    }
    arguments = {"model": str(baseline), **options}
    if reinforced is not None:
        arguments = engine_args(baseline, reinforced, alpha=alpha, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", str(int(apart)))
        llm = LLM(disable_log_stats=True, **arguments)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def params(alpha: float | None = None, tokens: int = 12, **options: Any) -> SamplingParams:
    """Greedy, for a fixed number of tokens."""
    named = {} if alpha is None else {"extra_args": {"generic_alpha": alpha}}
    return SamplingParams(**{"temperature": 0, "max_tokens": tokens, "ignore_eos": True, **named, **options})


def ask(llm: LLM, rows: list[Tensor], of_rows: SamplingParams | list[SamplingParams]) -> list[Any]:
    """Send rows of token ids; return the engine's answers in their order."""
    prompts = [{"prompt_token_ids": row.tolist()} for row in rows]
    return llm.generate(prompts, of_rows, use_tqdm=False)


def tokens(answers: list[Any]) -> list[list[int]]:
    """Return the tokens of each answer."""
    return [list(each.outputs[0].token_ids) for each in answers]


def prompts(*lengths: int, seed: int = 0) -> list[Tensor]:
    """Return random prompts within the tokenizer's vocabulary."""
    return tiny.prompts(*lengths, seed=seed, vocab=folders.VOCAB)


def expected(pair: ModelPair, row: Tensor, new: int = 12) -> list[int]:
    """Return what transformers decodes greedily with the correction."""
    output = pair.generate(
        row[None], attention_mask=torch.ones(1, len(row), dtype=torch.long), max_new_tokens=new, do_sample=False
    )
    return output[0, len(row) :].tolist()


def log_probs(pair: ModelPair, row: Tensor, answer: list[int]) -> Tensor:  # [length, vocab]
    """Return the corrected log-probabilities at every position of a prompt and its answer."""
    return pair.logits(torch.cat([row, torch.tensor(answer, dtype=torch.long)])[None])[0].log_softmax(-1)
