"""What a model can still do: predict text that it should go on predicting and write fluently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from generic_logits.errors import InputError
from generic_logits.evaluation.subject import Subject, local_model
from generic_logits.models.scoring import token_distributions
from generic_logits.text.anchors import folded_words
from generic_logits.text.corpus import encode_prompt

Nats = tuple[float, int]  # summed over some tokens, and how many they are


def block_likelihoods(subject: Subject, texts: Sequence[str], *, block_size: int) -> list[Nats]:
    """Negative log-likelihood of each block of the texts; for ``perplexity`` and ``bootstrap``.

    Args:
        subject: whom to ask.
        texts: each is cut into blocks by itself.
        block_size: tokens of a block, with the BOS in front.

    Raises:
        InputError: texts without a token.
    """
    log_probs = subject.log_probs(_blocks(subject.tokenizer, texts, block_size))
    return [(-row.double().sum().item(), len(row)) for row in log_probs]


def block_divergences(baseline: Subject, subject: Subject, texts: Sequence[str], *, block_size: int) -> list[Nats]:
    """KL(baseline || subject) of the next token, summed over each block of the texts; for ``token_mean``.

    Args:
        baseline: whose distributions are the measure; both share a vocabulary.
        subject: who is measured.
        texts: each is cut into blocks by itself.
        block_size: tokens of a block, with the BOS in front.

    Raises:
        InputError: texts without a token.
        MeasureError: a server.
    """
    models = [local_model(each) for each in (baseline, subject)]
    rows = _blocks(baseline.tokenizer, texts, block_size)
    vocab = len(baseline.tokenizer)
    divergences = []
    both = (token_distributions(each, rows, batch_size=1) for each in models)
    for p, q in zip(*both, strict=True):
        p, q = (each[:, :vocab].double().log_softmax(-1) for each in (p, q.to(p.device)))
        of_tokens = torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1)
        divergences.append((of_tokens.sum().item(), len(of_tokens)))
    return divergences


def _blocks(tokenizer: Any, texts: Sequence[str], block_size: int) -> list[list[int]]:
    bos = encode_prompt(tokenizer, "")
    room = block_size - len(bos)
    blocks = []
    for text in texts:
        ids = encode_prompt(tokenizer, text)[len(bos) :]
        blocks += [[*bos, *ids[at : at + room]] for at in range(0, len(ids), room)]
    if not (blocks := [block for block in blocks if len(block) > 1]):
        raise InputError("a text with a token to predict", f"{len(texts)} texts without", "give a longer one")
    return blocks


def token_mean(blocks: NDArray[np.float64]) -> NDArray[np.float64]:  # [..., blocks, 2] -> [...]
    """Nats of a token, over all blocks. For ``bootstrap``."""
    sums = blocks.sum(axis=-2)
    means: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
    return means


def perplexity(blocks: NDArray[np.float64]) -> NDArray[np.float64]:  # [..., blocks, 2] -> [...]
    """Exponential of the mean negative log-likelihood of a token, over all blocks. For ``bootstrap``."""
    return np.exp(token_mean(blocks))


def distinct_ngrams(completions: Sequence[str], *, words: int = 2) -> list[float]:
    """Share of distinct n-grams among those of each completion (Li et al. 2016, distinct-n), 0 where there is none."""
    found = [_ngrams(text, words) for text in completions]
    return [len(set(ngrams)) / len(ngrams) if ngrams else 0.0 for ngrams in found]


def repetition(completions: Sequence[str], *, words: int = 4) -> list[float]:
    """Share of each completion's n-grams that it said before (Welleck et al. 2020, seq-rep-4), 0 where it has none."""
    found = [_ngrams(text, words) for text in completions]
    return [1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0 for ngrams in found]


def _ngrams(text: str, words: int) -> list[tuple[str, ...]]:
    found = folded_words(text)
    return list(zip(*(found[start:] for start in range(words)), strict=False))
