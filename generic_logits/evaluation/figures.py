"""A figure and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generic_logits.errors import InputError

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # [resamples, items, ...] -> [resamples]


@dataclass(frozen=True)
class Figure:
    """A statistic of some items, and its bootstrap interval.

    Attributes:
        value: the statistic of all items.
        low, high: ends of the 95 % percentile interval over resampled items (Efron & Tibshirani 1993, chapter 13).
        count: items.
    """

    value: float
    low: float
    high: float
    count: int


def mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each row."""
    means: NDArray[np.float64] = scores.mean(axis=-1)
    return means


def bootstrap(
    scores: Sequence[float] | Sequence[Sequence[float]],
    *,
    statistic: Statistic = mean,
    resamples: int = 1000,
    seed: int = 0,
) -> Figure:
    """Return a statistic of per-item scores with its 95 % percentile interval.

    Args:
        scores: one number an item, or one row of them: a prompt, a passage, a block.
        statistic: of the items, row by row.
        resamples: draws of as many items with replacement.
        seed: of the draws.

    Raises:
        InputError: no items.
    """
    items = np.asarray(scores, dtype=np.float64)
    if len(items) == 0:
        raise InputError("at least one item to take a figure of", "none", "give more prompts or a longer text")
    drawn = np.random.default_rng(seed).integers(len(items), size=(resamples, len(items)))
    low, high = np.quantile(statistic(items[drawn]), [0.025, 0.975])
    return Figure(float(statistic(items[None])[0]), float(low), float(high), len(items))
