"""Subjects for the tests of measures: writers of known texts, and models of known distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import tiny
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from generic_logits.evaluation.subject import LocalSubject
from generic_logits.models.scoring import token_log_probs

VOCAB = 300


def local(made: Any, tokenizer: Any = None) -> LocalSubject:
    return LocalSubject("tiny", made, tokenizer or tiny.tokenizer(VOCAB))


class Writer:
    """Continues known prompts with known texts, cut to the tokens that are asked for, as a server does."""

    name, model = "writer", None

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts, self.tokenizer = texts, tiny.tokenizer(VOCAB)

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        ids = [self.tokenizer(self.texts[prompt])["input_ids"][:new_tokens] for prompt in prompts]
        return self.tokenizer.batch_decode(ids)

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        return token_log_probs(tiny.model(vocab_size=VOCAB), sequences)


LETTERS = "abcdefgh"


@cache
def letters() -> Any:
    """A tokenizer of eight letters with a space between them, without special tokens; unknown is the ninth."""
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)} | {"?": 8}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=made)


class Table:
    """A model whose logits at the positions of a known sequence are given."""

    device = torch.device("cpu")

    def __init__(self, ids: Sequence[int], logits: Tensor) -> None:  # logits: [length, vocab]
        self.ids, self.table = list(ids), logits

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        assert input_ids.tolist() == [self.ids]
        return SimpleNamespace(logits=self.table[None])
