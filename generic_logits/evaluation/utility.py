"""What a model can still do: perplexity of text that it should go on predicting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generic_logits.models.scoring import perplexity
from generic_logits.text.corpus import encode_prompt


def text_perplexity(model: Any, tokenizer: Any, texts: Sequence[str], *, block_size: int) -> float:
    """Perplexity of texts cut into blocks of ``block_size`` tokens, each behind the tokenizer's BOS."""
    bos = encode_prompt(tokenizer, "")
    room = block_size - len(bos)
    blocks = []
    for text in texts:
        ids = encode_prompt(tokenizer, text)[len(bos) :]
        blocks += [[*bos, *ids[at : at + room]] for at in range(0, len(ids), room)]
    return perplexity(model, [block for block in blocks if len(block) > 1])
