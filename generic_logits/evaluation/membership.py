"""Whether a text can be told to have been read: membership inference, and PrivLeak.

All scores are higher for what was likelier read. Loss: Yeom et al. 2018. zlib: Carlini et al. 2021, section 5.2.
Min-K%: Shi et al. 2024, arXiv 2310.16789. Min-K%++: Zhang et al. 2024, arXiv 2404.02936.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.evaluation.figures import Figure
from generic_logits.evaluation.subject import Subject
from generic_logits.models.scoring import token_distributions
from generic_logits.text.corpus import encode_prompt

SCORES = ("loss", "zlib", "mink", "minkpp")
_LEAST_VARIANCE = 1e-6  # OpenUnlearning's
_EPSILON = 1e-10  # OpenUnlearning's


def membership_scores(subject: Subject, texts: Sequence[str], *, share: float = 0.4) -> dict[str, list[float]]:
    """The four scores of each text, by name (``SCORES``); without ``minkpp`` where only a server answers.

    Args:
        subject: whom to ask.
        texts: pieces that fit the model's context, such as passages with their continuations.
        share: of the tokens, the least likely ones, that Min-K% looks at; MUSE takes 0.4.

    Raises:
        InputError: a text of fewer than two tokens, with the BOS, or a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError("a share above 0, at most 1", repr(share), "0.4 is usual")
    rows = [encode_prompt(subject.tokenizer, text) for text in texts]
    for row, text in zip(rows, texts, strict=True):
        if len(row) < 2:
            raise InputError("texts of at least one token behind the first", repr(text), "leave it out")
    if subject.model is None:
        return _scores(texts, subject.log_probs(rows), share)
    of_tokens, standardised = [], []
    for distributions, row in zip(token_distributions(subject.model, rows), rows, strict=True):
        of_tokens.append(distributions.gather(-1, distributions.new_tensor(row[1:], dtype=torch.long)[:, None])[:, 0])
        standardised.append(standardise(distributions, of_tokens[-1]))
    return {**_scores(texts, of_tokens, share), "minkpp": [mean_of_least(each, share) for each in standardised]}


def _scores(texts: Sequence[str], log_probs: Sequence[Tensor], share: float) -> dict[str, list[float]]:
    means = [each.double().mean().item() for each in log_probs]
    return {
        "loss": means,
        "zlib": [mean / len(zlib.compress(text.encode())) for mean, text in zip(means, texts, strict=True)],
        "mink": [mean_of_least(each, share) for each in log_probs],
    }


def mean_of_least(scores: Tensor, share: float) -> float:  # of [tokens]
    """Mean of the least scores of tokens: of ``share`` of them, rounded down, at least of one."""
    count = max(1, int(len(scores) * share))
    return scores.double().sort().values[:count].mean().item()


def standardise(
    distributions: Tensor,  # [tokens, vocab], log-probabilities
    log_probs: Tensor,  # [tokens], of the tokens that came
) -> Tensor:  # [tokens]
    """How many standard deviations above its expectation each token's log-probability is (Min-K%++, equation 3).

    As in OpenUnlearning the variance is at least 1e-6, where a distribution is all but certain.
    """
    probabilities = distributions.exp()
    possible = torch.where(probabilities > 0, distributions, 0)
    mean = (probabilities * possible).sum(-1)
    variance = (probabilities * possible.square()).sum(-1) - mean.square()
    return (log_probs - mean) / variance.clamp(min=_LEAST_VARIANCE).sqrt()


def area_under_curve(members: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a member scores above another text, ties by half: the area under the ROC curve, 0 to 1."""
    return float(_wins(members, others).mean())


def privleak(area: float, retrained: float) -> float:
    """PrivLeak in percent (MUSE, section 3.1): 0 is what a retrained model gives away.

    Below 0 the members are still told apart; above 0 they stand out as what was never read, which gives them away, too.
    MUSE's area is that of the other texts above the members: 1 minus this one.

    Args:
        area: of the model, see ``area_under_curve``; MUSE takes Min-K% with a share of 0.4.
        retrained: of a model that never read the members.
    """
    return ((1 - area) - (1 - retrained)) / (1 - retrained + _EPSILON) * 100


def bootstrap_area(
    members: Sequence[float], others: Sequence[float], *, resamples: int = 1000, seed: int = 0
) -> Figure:
    """The area under the curve; its interval is over both sides, each drawn by itself.

    Raises:
        InputError: no members, or no others.
    """
    areas, drawn = _draw_areas([(members, others)], resamples, seed)
    return _figure(areas[0], drawn[0], len(members) + len(others))


def bootstrap_privleak(
    members: Sequence[float],
    others: Sequence[float],
    retrained_members: Sequence[float],
    retrained_others: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Figure:
    """PrivLeak; both models' scores are of the same texts, and are drawn together.

    Raises:
        InputError: no members, no others, or scores of other texts.
    """
    if (len(members), len(others)) != (len(retrained_members), len(retrained_others)):
        raise InputError(
            f"scores of the same {len(members)} and {len(others)} texts",
            f"{len(retrained_members)} and {len(retrained_others)}",
            "measure both models on the same texts",
        )
    areas, drawn = _draw_areas([(members, others), (retrained_members, retrained_others)], resamples, seed)
    of_draws = [privleak(area, retrained) for area, retrained in zip(*drawn, strict=True)]
    return _figure(privleak(*areas), np.asarray(of_draws), len(members) + len(others))


def _wins(members: Sequence[float], others: Sequence[float]) -> NDArray[np.float64]:  # [members, others]
    """1 where a member scores above another text, 0.5 where they tie."""
    a, b = np.asarray(members, dtype=np.float64)[:, None], np.asarray(others, dtype=np.float64)[None]
    wins: NDArray[np.float64] = (a > b) + 0.5 * (a == b)
    return wins


def _draw_areas(
    sides: Sequence[tuple[Sequence[float], Sequence[float]]], resamples: int, seed: int
) -> tuple[list[float], list[NDArray[np.float64]]]:
    """Areas, and those of the same draws of texts for each."""
    members, others = map(len, sides[0])
    if not (members and others):
        raise InputError("texts on both sides", f"{members} members and {others} others", "give some of both")
    random = np.random.default_rng(seed)
    of_members = random.multinomial(members, np.full(members, 1 / members), size=resamples) / members
    of_others = random.multinomial(others, np.full(others, 1 / others), size=resamples) / others
    wins = [_wins(*side) for side in sides]
    return [float(each.mean()) for each in wins], [(of_members @ each * of_others).sum(-1) for each in wins]


def _figure(value: float, drawn: NDArray[np.float64], count: int) -> Figure:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(value, float(low), float(high), count)
