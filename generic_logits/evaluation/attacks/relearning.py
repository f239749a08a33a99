"""Relearning: how soon a few steps of fine-tuning bring the text back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.evaluation.attacks.copies import copy_baseline
from generic_logits.evaluation.attacks.curve import Point, Score, check_prompts
from generic_logits.evaluation.familiarity import probability_scores
from generic_logits.evaluation.memorization import cut_passages
from generic_logits.evaluation.subject import Subject
from generic_logits.models.pair import ModelPair
from generic_logits.text.corpus import Block, Document, cut_blocks
from generic_logits.text.prompts import Prompt
from generic_logits.training.run import context_of, language_model_batch


@dataclass(frozen=True)
class RelearnConfig:
    """How an attacker fine-tunes; the same for every model that is compared.

    Attributes:
        steps: optimiser steps after which the model is asked, ascending; 0 is before the first.
        learning_rate: of AdamW, constant; gradients are clipped to norm 1, weights do not decay. None is .08 divided by
            the model's width: 2e-5 for 4,096, as is usual, and 5e-4 for 160.
        batch_size: blocks in a step, or all of them where there are fewer.
        block_size: tokens in a block, or as many as the model can read.
        seed: of the blocks' order.
    """

    steps: tuple[int, ...] = (0, 2, 5, 10, 20)
    learning_rate: float | None = None
    batch_size: int = 4
    block_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: steps that do not ascend from 0 or more, or a number that is not positive.
        """
        if not self.steps or self.steps[0] < 0 or any(b <= a for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise InputError("steps that ascend from 0 or more", f"{self.steps}", "put them in order")
        for name in ("learning_rate", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"a {name} above 0", f"{value}", "raise it")
        if self.block_size < 2:
            raise InputError("blocks of at least 2 tokens", f"{self.block_size}", "raise block_size")


def quotes(text: str, count: int = 8) -> list[str]:
    """A little of a text: passages of 60 words, evenly spread over it, as reviews and readers quote them."""
    return [beginning + rest for beginning, rest in cut_passages(text, count)]


def relearn(
    subject: Subject,
    texts: Sequence[str],
    prompts: Sequence[Prompt],
    *,
    config: RelearnConfig | None = None,
    score: Score = probability_scores,
) -> list[Point]:
    """Fine-tune a copy of a model on texts and ask it on the way.

    Quotes of the forgotten text show whether a little brings back the rest, unrelated text whether any training wears
    the unlearning off, the whole text how much sooner it is learnt than by a model that never read it (Hu et al. 2024,
    "Jogging the Memory of Unlearned Models"). Without dropout; half-precision weights are trained in float32.

    Of a pair the baseline is fine-tuned and the reinforced model still corrects it, as for an attacker who may
    fine-tune a model through an interface. One who holds the weights needs no attack: the baseline in a pair knows the
    text, and the correction can be left out.

    Args:
        subject: whom to attack; stays as it is, bit for bit.
        texts: what the attacker has, each a document of its own.
        prompts: what to ask.
        config: how to fine-tune.
        score: of the answers.

    Returns:
        One point for each of ``config.steps``.

    Raises:
        InputError: no prompts, no text, or a server.
    """
    check_prompts(prompts)
    config = config or RelearnConfig()
    documents = [Document("", text, "") for text in texts]
    attacked = copy_baseline(subject)
    model: Any = attacked.model.baseline if isinstance(attacked.model, ModelPair) else attacked.model
    size = min(config.block_size, context_of(model) or config.block_size)
    blocks = [block for block in cut_blocks(documents, subject.tokenizer, size) if len(block.token_ids) > 1]
    if not blocks:
        raise InputError("a text to fine-tune on", "none", "give some words of it")
    weights = _prepare(model)
    rate = config.learning_rate or 0.08 / model.config.get_text_config().hidden_size
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    batches = _batches(blocks, config.batch_size, config.seed)
    points = []
    for step in range(config.steps[-1] + 1):
        if step:
            batch = {name: tensor.to(model.device) for name, tensor in next(batches).items()}
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if step in config.steps:
            points.append(Point(step, score(attacked, prompts)))
    return points


def _prepare(model: Any) -> list[Tensor]:
    """Make every weight trainable in float32 or better, and return them."""
    if model.dtype in (torch.float16, torch.bfloat16):
        model.float()
    model.eval()
    return [parameter.requires_grad_() for parameter in model.parameters() if parameter.is_floating_point()]


def _batches(blocks: Sequence[Block], size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Batches without an end: all blocks in a drawn order, then in another."""
    draw, queue = Random(seed), list[Block]()
    size = min(size, len(blocks))
    while True:
        while len(queue) < size:
            queue += draw.sample(blocks, len(blocks))
        yield language_model_batch(queue[:size])
        del queue[:size]
