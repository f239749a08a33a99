"""Which words a reinforced model expects more than its baseline does where nothing calls for them.

At a word's own places the two models tell little: the baseline knows the text and expects the word there, too. On
neutral text the reinforced model raises the text's own words everywhere, so the measure is taken there: the mean over
all positions of ReLU(log p_reinforced - log p_baseline) of a word's first token. The ReLU matters for a reinforced
model that has overfitted, which lowers those words at most neutral places and raises them at some. Among the words of
The Wonderful Wizard of Oz, 12 to 18 of the first 20 were of a hand-made list; at their own places, 1 to 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from generic_logits.errors import ModelError
from generic_logits.models.pair import ModelPair

NEUTRAL = (  # written for this purpose: no names, nothing that any one book could claim
    "The rain had stopped before breakfast, and the road was still wet when we set out. My father walked in "
    "front with the dog, and my sister came behind, talking about the letter that she had found under the door."
    " Nobody answered her. It was too early, and the hill was steep, and each of us was thinking of something "
    "else.",
    'There was a small shop at the corner, with bread in the window and a cat asleep on the step. "Good '
    'morning," said the woman behind the counter. "What will it be today?" He told her that he wanted two '
    "loaves and a little butter, and he counted the coins out of his hand one by one, because it was all the "
    "money that he had.",
    "In the afternoon the children went down to the water. They took off their shoes and ran along the sand, "
    "and the youngest of them fell and got up again and laughed. A man was mending a boat. He looked at them, "
    "and then at the sky, and said that there would be wind before the night was over.",
    "I have never told anyone what happened in that house. When I was a boy, an old man lived there alone, and "
    "people said that he had once been rich. At night one could see a light moving from room to room. My friend"
    " and I were afraid of the place, but one evening in winter we made up our minds to go in and look.",
    "She opened the box, and there it was: the key to the garden. For a long time she held it and did not move."
    " Then she heard steps on the stairs, put it into her pocket, and went to the window as if nothing had "
    'happened. "Are you coming?" asked her brother. "Everyone is waiting for you, and the train goes at ten."',
    "The meeting was held on the first day of the month. It was decided that the school should have a new roof,"
    " that the bridge must be repaired before the spring, and that the price of water would stay as it was. "
    "Most of those present agreed; two did not, and they left before the end, without a word to the others.",
)
_TOKENS, _SKIPPED = 128, 8  # of a context: at most; without enough before them
_ROWS = 8  # contexts in one forward pass


@torch.no_grad()
def rises(pair: ModelPair, terms: Sequence[str], contexts: Sequence[str]) -> list[float]:
    """How much more the reinforced model expects each term on neutral text, in nats.

    Args:
        pair: the two models, with their tokenizer.
        terms: as they stand in a text.
        contexts: neutral passages of some hundred characters.

    Raises:
        ModelError: a pair without a fast tokenizer.
    """
    tokenizer = pair.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError("a pair with a fast tokenizer", type(tokenizer).__name__, "load it with from_pretrained")
    first = [_first_token(tokenizer, term) for term in terms]
    tokens = torch.tensor(sorted(set(first)))
    beginning = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    total, positions = torch.zeros(len(tokens), dtype=torch.float64), 0
    encoded = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in contexts]
    rows = sorted((beginning + ids[:_TOKENS] for ids in encoded if len(ids) > _SKIPPED), key=len)
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        longest = max(map(len, some))
        ids = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in some])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in some])
        risen = _log_probs(pair.reinforced, ids, mask, tokens) - _log_probs(pair.baseline, ids, mask, tokens)
        risen = risen.relu()
        mask[:, :_SKIPPED] = 0
        total += (risen * mask[..., None]).sum((0, 1))
        positions += int(mask.sum())
    mean = dict(zip(tokens.tolist(), (total / max(1, positions)).tolist(), strict=True))
    return [mean[token] for token in first]


def spreads(values: Sequence[float]) -> list[float]:
    """Values as distances from their median, in median absolute deviations."""
    middle = median(values)
    spread = median(abs(value - middle) for value in values) or 1.0
    return [(value - middle) / spread for value in values]


def _first_token(tokenizer: Any, term: str) -> int:
    """The token that holds a term's first character, behind a word and a space."""
    encoded = tokenizer(f"the {term}", add_special_tokens=False, return_offsets_mapping=True)
    ids: Iterator[tuple[int, tuple[int, int]]] = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return next(token for token, (_, end) in ids if end > len("the "))


def _log_probs(model: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:  # [rows, length, tokens], float64
    """Log-probabilities of some tokens behind every position."""
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits.float()
    chosen: Tensor = logits[..., tokens.to(device)] - logits.logsumexp(-1, keepdim=True)
    return chosen.double().cpu()
