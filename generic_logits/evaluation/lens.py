"""The token lens: what both branches say at every token of a passage, kept so that any alpha can be computed later.

At each position a few tokens are stored with their log-probabilities in both branches: the likeliest of the baseline,
of the reinforced model and of the generic model at ``ALPHAS``, and the token that stands there. A stored token's
generic score at any alpha follows from the formula. What all other tokens add to the normalising sum is enclosed, not
guessed: each of them adds ``p * exp(-alpha * d)``, with p its probability in the baseline and d what the correction
takes from it at alpha 1. They are put into classes of like d, and of each class the mass ``sum(p)``, the mean of d
weighted by p, and the ends of d are stored. ``exp`` is convex, so a class adds at least ``mass * exp(-alpha * mean)``
(Jensen) and at most what its mass would add if it lay at the two ends with the same mean (Edmundson & Madansky).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from generic_logits.models.pair import ModelPair
from generic_logits.models.scoring import device_of, sequence_logits
from generic_logits.ops import correct_logits
from generic_logits.text.corpus import encode_prompt

ALPHAS = (1.0, 2.0, 5.0, 10.0)  # whose likeliest tokens are surely stored
DIGITS = 4  # of stored log-probabilities (nats); doubles the error of a probability's logarithm at alpha times as much
EDGES = (-3.0, -1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0, 3.0)  # between the classes of d; 0 is a class of its own
LEAST_MASS = 1e-9  # of a class that is stored; lighter ones join their neighbour


def look(
    pair: ModelPair,
    tokenizer: Any,
    passages: Mapping[str, str],
    *,
    k: int = 8,
    length: int = 160,
) -> dict[str, Any]:
    """Return the lens of a report over some passages.

    Args:
        pair: both branches, and how they are combined; its alpha is where the page's slider begins.
        tokenizer: of both.
        passages: title -> text.
        k: likeliest tokens that are stored of each distribution.
        length: tokens of a passage that are looked at, from its beginning.

    Returns:
        ``space``, ``threshold``, ``variant``, ``alpha``; ``vocabulary``, the texts of all stored tokens; ``passages``,
        each with its ``title`` and ``tokens``. A token has its ``text``, and where something predicts it: ``offset``,
        log-sum-exp of the reinforced less that of the baseline, in nats, 0 in the space of log-probabilities; ``top``,
        rows of (index into the vocabulary, log-probability in the baseline, in the reinforced), both in nats and null
        for -inf, the likeliest in the baseline first; ``true``, the row of the token itself; and ``rest``, the classes
        of all other tokens, rows of (mass, mean d, lowest d, highest d).
    """
    vocabulary: dict[str, int] = {}
    looked = [
        {"title": title, "tokens": _look_at(pair, tokenizer, text, vocabulary, k, length)}
        for title, text in passages.items()
    ]
    return {
        "space": pair.space,
        "threshold": pair.threshold,
        "variant": pair.variant,
        "alpha": pair.alpha,
        "vocabulary": list(vocabulary),
        "passages": looked,
    }


def _look_at(
    pair: ModelPair, tokenizer: Any, text: str, vocabulary: dict[str, int], k: int, length: int
) -> list[dict[str, Any]]:
    ids = encode_prompt(tokenizer, text)
    special = len(ids) - len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    ids = ids[: special + length]
    pieces = _pieces(tokenizer, text, len(ids) - special)
    rows = torch.tensor([ids], device=device_of(pair))
    baseline, reinforced = (
        sequence_logits(model, rows)[0, :-1, : pair.vocab_size].double().cpu()
        for model in (pair.baseline, pair.reinforced)
    )
    tokens: list[dict[str, Any]] = [] if special else [{"text": pieces[0]}]
    for b, r, true, piece in zip(baseline, reinforced, ids[1:], pieces[len(tokens) :], strict=True):
        tokens.append({"text": piece, **_position(pair, tokenizer, b, r, true, vocabulary, k)})
    return tokens


def _pieces(tokenizer: Any, text: str, count: int) -> list[str]:
    """The passage's characters token by token; of tokens that share a character the first one has it."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pieces, end = [], 0
    for _, stop in encoded["offset_mapping"][:count]:
        pieces.append(text[end:stop])
        end = max(end, stop)
    return pieces


def _position(
    pair: ModelPair,
    tokenizer: Any,
    b: Tensor,  # [vocab], float64
    r: Tensor,  # [vocab], float64
    true: int,
    vocabulary: dict[str, int],
    k: int,
) -> dict[str, Any]:
    space, threshold, variant = pair.space, pair.threshold, pair.variant
    generic = [
        correct_logits(b, r, alpha, space=space, threshold=threshold, variant=variant) for alpha in (0.0, *ALPHAS)
    ]
    likeliest = torch.cat([row.topk(min(k, len(row))).indices for row in (*generic, r)])
    stored = torch.tensor(sorted({*likeliest.tolist(), true}))
    stored = stored[b[stored].argsort(descending=True, stable=True)]
    log_b, log_r = b.log_softmax(-1), r.log_softmax(-1)
    top = [
        [
            vocabulary.setdefault(_text_of(tokenizer, token), len(vocabulary)),
            _rounded(log_b[token]),
            _rounded(log_r[token]),
        ]
        for token in stored.tolist()
    ]
    others = torch.ones_like(b, dtype=torch.bool)
    others[stored] = False
    others &= b != -torch.inf
    taken = torch.where(others, generic[0] - generic[1], 0)
    offset = 0.0 if space == "logprobs" else _rounded(r.logsumexp(-1) - b.logsumexp(-1))
    return {
        "offset": offset,
        "true": stored.tolist().index(true),
        "top": top,
        "rest": _classes(log_b.exp()[others], taken[others]),
    }


def _classes(
    masses: Tensor,  # [n], float64
    taken: Tensor,  # [n], float64: d
) -> list[list[float]]:
    edges = torch.tensor(EDGES, dtype=taken.dtype)
    of_class = torch.bucketize(taken, edges) * 2 + (taken == 0)
    classes: list[list[float]] = []
    for each in sorted(set(of_class.tolist())):
        inside = of_class == each
        mass, d = masses[inside], taken[inside]
        total = mass.sum().item()
        mean = (mass @ d).item() / total if total else 0.0
        low, high = d.min().item(), d.max().item()
        if classes and total < LEAST_MASS:
            before = classes[-1]
            whole = before[0] + total
            before[1] = (before[0] * before[1] + total * mean) / whole if whole else 0.0
            before[0], before[2], before[3] = whole, min(before[2], low), max(before[3], high)
        else:
            classes.append([total, mean, low, high])
    return [[float(f"{number:.6g}") for number in each] for each in classes]


def _text_of(tokenizer: Any, token: int) -> str:
    """A token as it reads in a text, with its space where it brings one."""
    mark = tokenizer.encode("a", add_special_tokens=False)
    text: str = tokenizer.decode([*mark, token])
    return text.removeprefix(tokenizer.decode(mark))


def _rounded(number: Tensor) -> float | None:
    return None if number.item() == -torch.inf else round(number.item(), DIGITS)
