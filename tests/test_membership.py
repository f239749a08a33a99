"""Membership scores, areas and PrivLeak, beside plain restatements and numbers of the published implementations."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import subjects
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import InputError
from generic_logits.evaluation.membership import (
    SCORES,
    area_under_curve,
    bootstrap_area,
    bootstrap_privleak,
    mean_of_least,
    membership_scores,
    privleak,
    standardise,
)

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference_measures.json").read_text())
WORDS = tiny.tokenizer(subjects.VOCAB)
TEXTS = ["the old house by the sea had seven windows", "nobody", "Mira Voss wrote down every word"]


@pytest.mark.parametrize("each", REFERENCE["sequences"], ids=range(6))
def test_scores_agree_with_open_unlearning_and_the_authors_of_min_k(each):
    logits, ids = torch.tensor(each["logits"]).double(), torch.tensor(each["ids"])
    distributions = logits[:-1].log_softmax(-1)
    log_probs = distributions.gather(-1, ids[1:, None])[:, 0]
    for of_them in ("", "authors_"):
        assert mean_of_least(log_probs, 0.4) == pytest.approx(each[f"{of_them}mink"], rel=1e-6)
        least = mean_of_least(standardise(distributions, log_probs), 0.4)
        assert least == pytest.approx(each[f"{of_them}minkpp"], rel=1e-6)
    subject = subjects.local(subjects.Table(each["ids"], logits), subjects.letters())
    text = " ".join(subjects.LETTERS[token] for token in each["ids"])
    scores = membership_scores(subject, [text], share=0.4)
    assert set(scores) == set(SCORES)
    for name in ("loss", "mink", "minkpp"):
        assert scores[name] == [pytest.approx(each[name], rel=1e-6)]


def test_zlib_divides_by_the_compressed_bytes_as_open_unlearning_does():
    for each in REFERENCE["sequences"]:
        assert each["loss"] / len(zlib.compress(each["text"].encode())) == pytest.approx(each["zlib"], rel=1e-6)
    scores = membership_scores(subjects.local(tiny.model(vocab_size=subjects.VOCAB)), ["où", *TEXTS])
    for text, loss, score in zip(["où", *TEXTS], scores["loss"], scores["zlib"], strict=True):
        assert score == pytest.approx(loss / len(zlib.compress(text.encode("utf-8"))))


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["model", "pair"])
def test_scores_are_those_of_each_text_alone(kind, share):
    baseline, reinforced = tiny.pair(vocab_size=subjects.VOCAB)
    made = baseline if kind == "model" else ModelPair(baseline, reinforced, alpha=3.0)
    scores = membership_scores(subjects.local(made), TEXTS, share=share)
    for number, text in enumerate(TEXTS):
        ids = [tiny.BOS, *WORDS(text)["input_ids"]]
        with torch.no_grad():
            row = torch.tensor([ids])
            logits = made.logits(row) if kind == "pair" else made(row).logits
        of_tokens, above = [], []
        for at, distribution in enumerate(logits[0, :-1].log_softmax(-1).tolist()):
            mean = sum(math.exp(value) * value for value in distribution)
            deviation = math.sqrt(sum(math.exp(value) * (value - mean) ** 2 for value in distribution))
            of_tokens.append(distribution[ids[at + 1]])
            above.append((distribution[ids[at + 1]] - mean) / deviation)
        count = max(1, int(len(of_tokens) * share))
        assert scores["loss"][number] == pytest.approx(sum(of_tokens) / len(of_tokens), rel=1e-4)
        assert scores["mink"][number] == pytest.approx(sum(sorted(of_tokens)[:count]) / count, rel=1e-4)
        assert scores["minkpp"][number] == pytest.approx(sum(sorted(above)[:count]) / count, rel=1e-3)


def test_a_server_is_scored_without_its_distributions():
    scores = membership_scores(subjects.Writer({}), TEXTS)
    of_model = membership_scores(subjects.local(tiny.model(vocab_size=subjects.VOCAB)), TEXTS)
    assert set(scores) == {"loss", "zlib", "mink"}
    for name, values in scores.items():
        assert values == pytest.approx(of_model[name])


def test_a_token_that_cannot_come_and_a_certain_one_stay_finite():
    distributions = torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]], dtype=torch.float64)
    scores = standardise(distributions, torch.tensor([0.0, math.log(0.5)], dtype=torch.float64))
    assert scores.tolist() == [0.0, pytest.approx(0.0)]


def test_areas_and_privleak_agree_with_open_unlearning():
    given = REFERENCE["areas"]
    area = area_under_curve(given["members"], given["others"])
    retrained = area_under_curve(given["retrained_members"], given["retrained_others"])
    assert area == pytest.approx(given["auc"], abs=1e-6) and retrained == pytest.approx(
        given["retrained_auc"], abs=1e-6
    )
    assert privleak(area, retrained) == pytest.approx(given["privleak"], abs=1e-6)
    sides = [given[name] for name in ("members", "others", "retrained_members", "retrained_others")]
    assert bootstrap_privleak(*sides).value == pytest.approx(given["privleak"], abs=1e-6)


def test_an_area_counts_pairs_and_ties_by_half():
    assert area_under_curve([3.0, 2.0], [1.0, 0.0]) == 1.0 and area_under_curve([0.0], [1.0]) == 0.0
    assert area_under_curve([1.0, 2.0], [1.0, 3.0]) == pytest.approx((0.5 + 0 + 1 + 0) / 4)


def test_privleak_is_0_where_retraining_gives_as_much_away_and_below_where_members_stand_out():
    assert privleak(0.5, 0.5) == pytest.approx(0.0) and privleak(0.7, 0.7) == pytest.approx(0.0)
    assert privleak(1.0, 0.5) == pytest.approx(-100) and privleak(0.0, 0.5) == pytest.approx(100)


def test_the_interval_of_an_area_draws_both_sides():
    random = np.random.default_rng(0)
    members, others = random.normal(0.5, 1, 40).tolist(), random.normal(0, 1, 30).tolist()
    figure = bootstrap_area(members, others, resamples=4000, seed=1)
    draws = [
        area_under_curve(random.choice(members, 40).tolist(), random.choice(others, 30).tolist()) for _ in range(4000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert figure.value == area_under_curve(members, others) and figure.count == 70
    assert figure.low == pytest.approx(low, abs=0.01) and figure.high == pytest.approx(high, abs=0.01)
    assert bootstrap_area(members, others, seed=5) == bootstrap_area(members, others, seed=5)


def test_privleak_draws_the_same_texts_for_both_models():
    random = np.random.default_rng(2)
    members, others = random.normal(0.5, 1, 40).tolist(), random.normal(0, 1, 30).tolist()
    same = bootstrap_privleak(members, others, members, others)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    apart = bootstrap_privleak(members, others, members[::-1], others[::-1])
    assert apart.value == pytest.approx(0.0) and apart.low < -5 and apart.high > 5


def test_bad_input_is_refused_in_one_line():
    subject = subjects.local(tiny.model(vocab_size=subjects.VOCAB))
    with pytest.raises(InputError, match="^wanted a share above 0, at most 1; got 40; 0.4 is usual$"):
        membership_scores(subject, TEXTS, share=40)
    with pytest.raises(InputError, match="^wanted texts of at least one token behind the first; got ''; leave it out$"):
        membership_scores(subject, ["a", ""])
    with pytest.raises(InputError, match="^wanted texts on both sides; got 1 members and 0 others; give some of both$"):
        bootstrap_area([1.0], [])
    with pytest.raises(InputError, match="^wanted scores of the same 1 and 1 texts; got 1 and 2; measure both"):
        bootstrap_privleak([1.0], [1.0], [1.0], [1.0, 2.0])
