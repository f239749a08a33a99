"""The token lens: what a page computes from it, restated here, against the corrected logits of the models."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch

from generic_logits.evaluation.lens import DIGITS, look
from generic_logits.models.pair import ModelPair
from generic_logits.ops import correct_logits

VOCAB = 300
TEXT = "Mira Voss wrote down the drowned bell, Orrin – naïve 😀 words."
CORRECTIONS = [
    {"space": "logits"},
    {"space": "logprobs"},
    {"space": "logits", "threshold": 0.5},
    {"space": "logprobs", "variant": "linear"},
]
ALPHAS = (0.0, 0.3, 1.0, 2.0, 3.7, 5.0, 10.0)


def pair_with(alpha: float = 2.0, **correction: Any) -> ModelPair:
    baseline, reinforced = tiny.pair(vocab_size=VOCAB)
    return ModelPair(baseline, reinforced, alpha=alpha, tokenizer=tiny.tokenizer(VOCAB), **correction)


def lens_of(pair: ModelPair, **options: Any) -> dict[str, Any]:
    lens = look(pair, tiny.tokenizer(VOCAB), {"A passage": TEXT}, **options)
    return json.loads(json.dumps(lens, allow_nan=False))


@dataclass
class Generic:
    """What follows from one stored position at one alpha."""

    low: list[float]  # of the stored tokens, in their order
    high: list[float]


def generic_of(lens: dict[str, Any], token: dict[str, Any], alpha: float) -> Generic:
    scores = []
    for _, b, r in token["top"]:
        increase = r - b + token["offset"] if None not in (b, r) else 0.0
        if lens["variant"] == "relu":
            increase = max(0.0, increase - lens["threshold"])
        scores.append(-math.inf if b is None else b - alpha * increase)
    least = most = 0.0
    for mass, mean, low, high in token["rest"]:
        share = (high - mean) / (high - low) if high > low else 1.0
        least += mass * math.exp(-alpha * mean)
        most += mass * (share * math.exp(-alpha * low) + (1 - share) * math.exp(-alpha * high))
    stored = sum(map(math.exp, scores))
    return Generic(
        [math.exp(score) / (stored + most) for score in scores],
        [math.exp(score) / (stored + least) for score in scores],
    )


@torch.no_grad()
def distributions(pair: ModelPair, alpha: float) -> torch.Tensor:  # [length - 1, vocab]
    ids = torch.tensor([[tiny.BOS, *tiny.tokenizer(VOCAB)(TEXT)["input_ids"]]])
    b, r = (model(ids).logits[0, :-1] for model in (pair.baseline, pair.reinforced))
    options: Any = {"space": pair.space, "threshold": pair.threshold, "variant": pair.variant}
    return correct_logits(b, r, alpha, **options).softmax(-1)


def ids_of_text() -> list[int]:
    return tiny.tokenizer(VOCAB)(TEXT)["input_ids"]


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
@pytest.mark.parametrize("k", [1, 4])
def test_the_true_tokens_probability_lies_within_the_bounds_at_every_alpha(correction, k):
    pair = pair_with(**correction)
    lens = lens_of(pair, k=k)
    (passage,) = lens["passages"]
    for alpha in ALPHAS:
        rounding = 1.01 * (1 + 2 * alpha) * 10**-DIGITS + 1e-5  # of a probability's logarithm
        for row, token, true in zip(distributions(pair, alpha), passage["tokens"], ids_of_text(), strict=True):
            found, at = generic_of(lens, token, alpha), token["true"]
            assert math.exp(-rounding) * found.low[at] <= row[true] <= math.exp(rounding) * found.high[at]


def test_the_bounds_are_narrow():
    pair = pair_with(space="logprobs")
    for alpha in ALPHAS:
        for token in lens_of(pair)["passages"][0]["tokens"]:
            found = generic_of(pair.__dict__ | {"variant": "relu", "threshold": 0.0}, token, alpha)
            assert max(high - low for low, high in zip(found.low, found.high, strict=True)) < 0.01


def test_classes_are_what_makes_them_narrow(monkeypatch):
    pair, widths = pair_with(), []
    for edges in ((-3.0, -1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0, 3.0), (0.0,)):
        monkeypatch.setattr("generic_logits.evaluation.lens.EDGES", edges)
        lens = lens_of(pair, k=1)
        found = [generic_of(lens, token, 2.0) for token in lens["passages"][0]["tokens"]]
        widths.append(max(high - low for each in found for low, high in zip(each.low, each.high, strict=True)))
    assert widths[0] < widths[1] / 4


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
def test_the_likeliest_tokens_of_every_model_are_stored(correction):
    pair = pair_with(**correction)
    lens = lens_of(pair, k=3)
    rows = [distributions(pair, alpha) for alpha in (0.0, 1.0, 2.0, 5.0, 10.0)]
    with torch.no_grad():
        rows.append(pair.reinforced(torch.tensor([[tiny.BOS, *ids_of_text()]])).logits[0, :-1])
    words = tiny.tokenizer(VOCAB)
    for at, token in enumerate(lens["passages"][0]["tokens"]):
        texts = {lens["vocabulary"][index] for index, *_ in token["top"]}
        wanted = torch.cat([row[at].topk(3).indices for row in rows]).tolist()
        assert {words.decode([each]) for each in wanted} <= texts


def test_tokens_spell_the_passage_and_name_themselves():
    lens = lens_of(pair_with())
    tokens = lens["passages"][0]["tokens"]
    assert "".join(token["text"] for token in tokens) == TEXT
    for token in tokens:
        said = lens["vocabulary"][token["top"][token["true"]][0]]
        assert said == token["text"] or "�" in said  # part of a character


def test_a_long_passage_is_cut_and_a_first_token_without_bos_has_no_prediction():
    words, pair = copy.deepcopy(tiny.tokenizer(VOCAB)), pair_with()
    lens = look(pair, words, {"A passage": TEXT}, length=5)
    assert len(lens["passages"][0]["tokens"]) == 5
    words.bos_token = None
    first, *others = look(pair, words, {"A passage": TEXT}, length=5)["passages"][0]["tokens"]
    assert first == {"text": "Mi"} and len(others) == 4 and all("top" in token for token in others)


def test_banned_tokens_stay_banned_and_are_no_increase():
    pair = pair_with(space="logprobs")
    for model, banned in ((pair.baseline, 40), (pair.reinforced, 41)):
        model.lm_head.register_forward_hook(
            lambda _module, _inputs, logits, banned=banned: logits.index_fill(-1, torch.tensor([banned]), -torch.inf)
        )
    lens = lens_of(pair, k=VOCAB)
    for row, token in zip(distributions(pair, 2.0), lens["passages"][0]["tokens"], strict=True):
        assert token["rest"] == [] and len(token["top"]) == VOCAB
        assert [sum(each[1] is None for each in token["top"]), sum(each[2] is None for each in token["top"])] == [1, 1]
        found = generic_of(lens, token, 2.0)
        assert sorted(found.low) == pytest.approx(sorted(row.tolist()), abs=1e-3)


def test_a_lens_is_compact():
    lens = lens_of(pair_with())
    assert len(json.dumps(lens, separators=(",", ":"))) < 1200 * len(lens["passages"][0]["tokens"])
