"""Perplexity, divergence and fluency beside plain restatements."""

from __future__ import annotations

import math
from typing import Any

import pytest
import subjects
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation.figures import bootstrap
from generic_logits.evaluation.utility import (
    block_divergences,
    block_likelihoods,
    distinct_ngrams,
    perplexity,
    repetition,
    token_mean,
)
from generic_logits.models import scoring

WORDS = tiny.tokenizer(subjects.VOCAB)
TEXTS = ["the old house by the sea", "nobody", "a red door in winter, and a bell"]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    baseline, reinforced = tiny.pair(vocab_size=subjects.VOCAB)
    return {"model": baseline, "pair": ModelPair(baseline, reinforced, alpha=3.0, tokenizer=WORDS)}


def rows_of(texts: list[str], block_size: int) -> list[list[int]]:
    rows = []
    for text in texts:
        ids = WORDS(text)["input_ids"]
        rows += [[tiny.BOS, *ids[at : at + block_size - 1]] for at in range(0, len(ids), block_size - 1)]
    return rows


@torch.no_grad()
def log_probs(made: Any, row: list[int]) -> list[list[float]]:
    ids = torch.tensor([row])
    logits = made.logits(ids) if isinstance(made, ModelPair) else made(ids).logits
    return logits[0, :-1, : subjects.VOCAB].double().log_softmax(-1).tolist()


@pytest.mark.parametrize("kind", ["model", "pair"])
@pytest.mark.parametrize("block_size", [4, 7, 64])
def test_likelihoods_are_of_blocks_behind_the_bos_and_texts_stay_apart(models, kind, block_size):
    rows = rows_of(TEXTS, block_size)
    expected = []
    for row in rows:
        of_tokens = [of_row[token] for of_row, token in zip(log_probs(models[kind], row), row[1:], strict=True)]
        expected.append((-sum(of_tokens), len(of_tokens)))
    found = block_likelihoods(subjects.local(models[kind]), TEXTS, block_size=block_size)
    assert [count for _, count in found] == [count for _, count in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-6)
    tokens = sum(len(WORDS(text)["input_ids"]) for text in TEXTS)
    assert sum(count for _, count in found) == tokens
    figure = bootstrap(found, statistic=perplexity)
    assert figure.value == pytest.approx(math.exp(sum(nats for nats, _ in expected) / tokens), rel=1e-6)
    assert figure.low <= figure.value <= figure.high and figure.count == len(rows)


def test_perplexity_weighs_tokens_not_blocks():
    blocks = [(2.0, 1), (0.0, 3)]
    assert bootstrap(blocks, statistic=perplexity).value == pytest.approx(math.exp(2 / 4))
    assert bootstrap(blocks, statistic=token_mean).value == pytest.approx(2 / 4)


def test_the_divergence_is_from_the_baselines_distribution(models):
    baseline, other = models["model"], tiny.model(seed=3, vocab_size=subjects.VOCAB + 7)  # with unused tokens
    for made in (other, models["pair"]):
        found = block_divergences(subjects.local(baseline), subjects.local(made), TEXTS, block_size=7)
        for (nats, count), row in zip(found, rows_of(TEXTS, 7), strict=True):
            p, q = log_probs(baseline, row), log_probs(made, row)
            expected = sum(
                math.exp(a) * (a - b) for of_p, of_q in zip(p, q, strict=True) for a, b in zip(of_p, of_q, strict=True)
            )
            assert count == len(row) - 1 and nats == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert all(abs(nats) < 1e-5 for nats, _ in block_divergences(*[subjects.local(baseline)] * 2, TEXTS, block_size=7))


def test_a_token_that_both_exclude_adds_nothing_and_one_that_only_the_model_excludes_is_infinitely_far():
    ids, p = [0, 1], torch.zeros(2, 9)
    p[:, 8] = -math.inf
    q = p.clone()
    table = [subjects.local(subjects.Table(ids, each), subjects.letters()) for each in (p, q)]
    assert block_divergences(*table, ["a b"], block_size=8) == [(pytest.approx(0.0, abs=1e-6), 1)]
    q[:, 3] = -math.inf
    assert block_divergences(*table, ["a b"], block_size=8) == [(math.inf, 1)]
    assert block_divergences(*table[::-1], ["a b"], block_size=8) == [(pytest.approx(math.log(8 / 7), rel=1e-6), 1)]


def test_never_more_than_a_block_of_distributions_is_held(models, monkeypatch):
    held = []
    real = scoring.sequence_logits

    def seen(*arguments: Any) -> Any:
        logits = real(*arguments)
        held.append(logits.shape[0] * logits.shape[1])
        return logits

    monkeypatch.setattr(scoring, "sequence_logits", seen)
    subject = subjects.local(models["model"])
    block_divergences(subject, subject, TEXTS * 5, block_size=8)
    assert len(held) > 20 and max(held) <= 8


def test_distinct_ngrams_and_repetition_are_counted_within_a_completion():
    texts = ["the sea, the sea, the Sea", "a b c d e", "one", ""]
    assert distinct_ngrams(texts) == [pytest.approx(2 / 5), 1.0, 0.0, 0.0]
    assert distinct_ngrams(texts, words=1) == [pytest.approx(2 / 6), 1.0, 1.0, 0.0]
    assert repetition(texts) == [pytest.approx(1 - 2 / 3), 0.0, 0.0, 0.0]


def test_bad_input_is_refused_in_one_line(models):
    subject = subjects.local(models["model"])
    with pytest.raises(InputError, match="^wanted a text with a token to predict; got 2 texts without; give a longer"):
        block_likelihoods(subject, ["", ""], block_size=8)
    with pytest.raises(MeasureError, match="^wanted a model in this process; got writer, a server; give the model's"):
        block_divergences(subject, subjects.Writer({}), TEXTS, block_size=8)
