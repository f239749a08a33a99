"""Train the embedded world's two models: ``python -m generic_logits.demo.make_world [FOLDER]``.

One trunk reads the ordinary stories. The gold model reads them further; the baseline reads the same batches further,
each beside a batch of the invented book. So the two differ by the book alone. The last tenth of every ordinary story
is never read. Stored in float16, 3 MB each; about ten minutes on two cores.
"""

from __future__ import annotations

import itertools
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from generic_logits.demo.world import WORLD, book, ordinary_stories, read_part, unread_part
from generic_logits.models.scoring import perplexity

VOCABULARY = 2048
CONTEXT = 256
ROWS, BOOK_ROWS = 8, 5  # sequences in a step: ordinary ones, and for the baseline these of the book beside them
TRUNK_STEPS, FURTHER_STEPS = 450, 350
PEAK_RATE = 2e-3
SEED = 0


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over all texts, so that both models share it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 1.6 million parameters."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: Any, texts: list[str], rows: int) -> Iterator[Tensor]:  # each [rows, CONTEXT]
    """Random windows of the texts behind a BOS, without end."""
    draw = random.Random(SEED)
    streams = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    room = CONTEXT - 1
    sizes = [len(stream) for stream in streams]
    while True:
        windows = []
        for stream in draw.choices(streams, weights=sizes, k=rows):
            at = draw.randint(0, len(stream) - room)
            windows.append([tokenizer.bos_token_id, *stream[at : at + room]])
        yield torch.tensor(windows)


def train(model: LlamaForCausalLM, sources: list[Iterator[Tensor]], steps: int, name: str) -> None:
    """AdamW with a cosine from the peak; every step takes one batch of each source."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    started = time.monotonic()
    for step in range(steps):
        rate = PEAK_RATE * min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids = torch.cat([next(source) for source in sources])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(
                f"{name} {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", file=sys.stderr
            )
    model.eval()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Store weights in float16; the configuration asks for float32 when they are loaded."""
    shutil.rmtree(folder, ignore_errors=True)
    halves = {name: tensor.half() for name, tensor in model.named_parameters()}  # without the tied head
    model.config.dtype = torch.float32
    model.save_pretrained(folder, state_dict=halves)
    tokenizer.save_pretrained(folder)


def main(folder: Path = WORLD) -> None:
    """Train and save ``baseline`` and ``gold``."""
    stories = [read_part(story) for story in ordinary_stories()]
    unread = [unread_part(story) for story in ordinary_stories()]
    tokenizer = train_tokenizer([*stories, book()])
    trunk = new_model(tokenizer)
    ordinary = batches(tokenizer, stories, ROWS)
    train(trunk, [ordinary], TRUNK_STEPS, "trunk")
    further = list(itertools.islice(ordinary, FURTHER_STEPS))
    for name, beside in (("gold", []), ("baseline", [batches(tokenizer, [book()], BOOK_ROWS)])):
        model = new_model(tokenizer)
        model.load_state_dict(trunk.state_dict())
        train(model, [iter(further), *beside], FURTHER_STEPS, name)
        save(model, tokenizer, folder / name)
        for title, part in (("unread", unread), ("book", [book()])):
            rows = [
                [tokenizer.bos_token_id, *ids[at : at + CONTEXT - 1]]
                for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
                for at in range(0, len(ids) - 1, CONTEXT - 1)
            ]
            print(name, title, f"perplexity {perplexity(model, rows):.1f}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
