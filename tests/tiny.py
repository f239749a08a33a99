"""Tiny random models of many families, a tiny tokenizer, and folders with both: deterministic, no hub, no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

VOCAB = 101
WINDOW = 6  # of the sliding-window families; prompts in the tests are longer
BOS, EOS, PAD = 1, 2, 0

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_DECODER = {**_SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 512}

FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (tf.LlamaConfig, _DECODER),
    "mistral": (tf.MistralConfig, {**_DECODER, "sliding_window": WINDOW}),
    "qwen3": (tf.Qwen3Config, {**_DECODER, "head_dim": 8}),
    "gemma3": (
        tf.Gemma3TextConfig,
        {
            **_DECODER,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gpt2": (tf.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": (tf.GPTNeoXConfig, {**_SIZES, "intermediate_size": 48, "max_position_embeddings": 512}),
    "opt": (
        tf.OPTConfig,
        {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 512},
    ),
    "phi": (tf.PhiConfig, {**_SIZES, "intermediate_size": 48, "max_position_embeddings": 512}),
    "mixtral": (
        tf.MixtralConfig,
        {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "eager"},
    ),
    "mamba": (tf.MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "lfm2": (
        tf.Lfm2Config,
        {**_DECODER, "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]},
    ),
    "mamba2": (
        tf.Mamba2Config,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 4,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "falcon_h1": (
        tf.FalconH1Config,
        {
            **_DECODER,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
        },
    ),
    "bamba": (
        tf.BambaConfig,
        {
            **_DECODER,
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
        },
    ),
    "qwen3_next": (
        tf.Qwen3NextConfig,
        {
            **_DECODER,
            "head_dim": 8,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 0,
            "mlp_only_layers": [0, 1],
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "recurrent_gemma": (
        tf.RecurrentGemmaConfig,
        {**_SIZES, "num_hidden_layers": 3, "intermediate_size": 48, "lru_width": 32, "attention_window_size": 8},
    ),
    "rwkv": (tf.RwkvConfig, {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
}


def config(family: str, **changes: Any) -> Any:
    """Return a family's tiny configuration; pad, BOS and EOS are three distinct tokens."""
    kind, options = FAMILIES[family]
    ids = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    return kind(**{**ids, **options, **changes})


def model(
    family: str = "llama", seed: int = 0, *, dtype: torch.dtype = torch.float64, std: float = 0.35, **changes: Any
) -> Any:
    """Return a tiny random model, in float64 by default.

    With the default ``std`` the next token depends on the whole visible text; a small one makes the text repeat itself.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = tf.AutoModelForCausalLM.from_config(config(family, **changes))
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name:  # matrices that matter, not the usual std of 0.02
                torch.nn.init.normal_(parameter, std=1.0 if "embed" in name or "wte" in name else std)
        made.tie_weights()
    made.generation_config.eos_token_id = None  # no row ends early: every test sees the tokens that it asked for
    return made.to(dtype).eval()


def encoder_decoder() -> Any:
    """Return a tiny random T5."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=VOCAB, decoder_start_token_id=PAD, **sizes)).eval()


def pair(family: str = "llama", *, dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[Any, Any]:
    """Return a baseline and a reinforced model: sharper, and moved along the weights of another seed."""
    baseline = model(family, 0, dtype=dtype, **changes)
    reinforced = model(family, 0, dtype=dtype, **changes)
    direction = model(family, 1, dtype=dtype, **changes).state_dict()
    with torch.no_grad():
        for name, parameter in reinforced.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name:
                parameter.mul_(1.3).add_(direction[name], alpha=0.25)
    return baseline, reinforced


def prompts(*lengths: int, seed: int = 0, vocab: int = VOCAB) -> list[Tensor]:
    """Return random prompts without special tokens, one ``[length]`` each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab, (length,), generator=generator) for length in lengths]


def padded(rows: list[Tensor], pad: int = PAD) -> tuple[Tensor, Tensor]:  # ids, mask: [rows, longest]
    """Pad prompts on the left."""
    longest = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row.new_full((longest - len(row),), pad), row]) for row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows])
    return ids, mask


_TEXT = (
    "the old house by the sea had seven windows and a red door that nobody opened in winter",
    "Mira Voss wrote down every word the lighthouse keeper said about the drowned bell of Orrin",
    "a good story needs a name, a place, and a reason to go on reading until the last page",
)


@cache
def tokenizer(vocab: int = 300, *, pad: str = "<pad>") -> Any:
    """Return a byte-level BPE tokenizer of exactly ``vocab`` tokens, trained here; pad, BOS and EOS come first."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_TEXT, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token=pad, padding_side="left"
    )


def folder(path: Path, made: Any, beside: Any = None) -> Path:
    """Save a model, and a tokenizer beside it, as a model folder."""
    made.save_pretrained(path)
    if beside is not None:
        beside.save_pretrained(path)
    return path


@torch.no_grad()
def last_logits(made: Any, rows: list[Tensor]) -> Tensor:  # [rows, vocab]
    """Return the logits after each row, computed alone, from the first token, without cache, padding or mask."""
    return torch.cat([made(input_ids=row[None], use_cache=False).logits[:, -1] for row in rows])


def count_fed(made: Any) -> list[int]:
    """Return a list that grows by the number of tokens (columns) at every forward of the model."""
    fed: list[int] = []
    made.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return fed
