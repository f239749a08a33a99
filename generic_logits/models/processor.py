"""Generic logits as a drop-in for ``model.generate(logits_processor=[...])``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from generic_logits.errors import InputError
from generic_logits.models.branch import Branch
from generic_logits.ops import Space, Variant, check_alpha, check_correction, correct_logits

_NORMALISED = 1e-4  # |log-sum-exp| below which every row is taken for log-probabilities


class GenericLogitsProcessor(LogitsProcessor):
    """Push down, at every step of ``generate()``, what the reinforced model says more than the baseline.

    The reinforced model runs beside the generating one with a cache of its own and is fed new tokens only. The object
    remembers nothing but that cache, so one serves any number of ``generate()`` calls: greedy, sampling, beams,
    several sequences a prompt, prompt-lookup and draft-model assistance, left-padded batches.

    Two things it is never told, because ``generate()`` does not tell a processor:

    * ``cache_implementation="paged"`` (continuous batching) drops custom processors without calling them;
      ``ModelPair.generate`` refuses that setting.
    * A repetition penalty or bias of the same ``generate()`` call has already changed ``scores``, so a penalised token
      looks like one that the reinforced model prefers. Put such processors behind this one in ``logits_processor``.
      Bans (-inf) are safe in either order.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        reinforced: Any,
        alpha: float,
        *,
        space: Space = "logits",
        threshold: float = 0.0,
        variant: Variant = "relu",
        vocab_size: int | None = None,
        pad_token_id: int | None = None,
        attention_mask: Tensor | None = None,  # [prompts, prompt length]
    ) -> None:
        """Prepare the reinforced branch; no model runs before the first step.

        Args:
            reinforced: the baseline trained further on the forget corpus, a decoder-only ``transformers`` model.
            alpha: strength of the correction, >= 0; at 0 the reinforced model never runs.
            space: ``"logits"``, or ``"logprobs"``, which beam search needs because it hands over log-probabilities.
            threshold: only increases above this many nats count.
            variant: ``"relu"`` or ``"linear"``.
            vocab_size: tokens that exist; columns behind it are padding of the head and are never chosen.
            pad_token_id: the id that fills short prompts on their left; default: the model's own, else its EOS.
            attention_mask: the prompts' mask. Needed only where prompts are padded with a token that is also a real
                one (EOS or BOS); it holds until another is assigned to the attribute of that name.

        Raises:
            InputError: an option outside its range.
            ModelError: an encoder-decoder, or a model whose decoding state cannot be followed.
        """
        check_correction(space, threshold, variant)
        self.alpha = check_alpha(alpha)
        self.space: Space = space
        self.threshold = threshold
        self.variant: Variant = variant
        self.vocab_size = vocab_size
        self.attention_mask = attention_mask
        self._branch = Branch(reinforced)
        ids = getattr(reinforced, "generation_config", None) or reinforced.config
        real = ids.eos_token_id if isinstance(ids.eos_token_id, list) else [ids.eos_token_id]
        candidates = [pad_token_id, ids.pad_token_id, *real]  # generate() itself falls back to EOS
        self._pad_token_id = next((token for token in candidates if token is not None), None)
        self._pad_may_be_text = self._pad_token_id in (*real, ids.bos_token_id)

    def __call__(
        self,
        input_ids: Tensor,  # [rows, length]
        scores: Tensor,  # [rows, vocab]
    ) -> Tensor:  # [rows, vocab]
        """Return the corrected scores; ``scores`` itself where alpha is 0.

        Raises:
            InputError: log-probabilities with ``space="logits"``, or left padding that cannot be told from text.
        """
        if self.alpha == 0:
            return scores
        reinforced = self._branch.next_logits(input_ids, self._mask(input_ids)).to(scores.device)
        if not self._branch.extended and self.space == "logits":
            _check_not_normalised(scores)
        vocab = min(scores.shape[-1], reinforced.shape[-1], self.vocab_size or scores.shape[-1])
        corrected = torch.empty_like(scores)
        correct_logits(
            scores[:, :vocab],
            reinforced[:, :vocab],
            self.alpha,
            space=self.space,
            threshold=self.threshold,
            variant=self.variant,
            out=corrected[:, :vocab],
        )
        corrected[:, vocab:] = -torch.inf
        return corrected

    def _mask(self, input_ids: Tensor) -> Tensor | None:  # [rows, length]
        """Attention mask of the rows; None where nothing is padded."""
        rows, length = input_ids.shape
        if self.attention_mask is not None:
            prompts, prompt_length = self.attention_mask.shape
            if rows % prompts or length < prompt_length:
                raise InputError(
                    f"rows that continue the {prompts} prompts of attention_mask, {prompt_length} tokens or longer",
                    f"{rows} rows of {length} tokens",
                    "assign the new prompts' mask to .attention_mask, or None",
                )
            mask = self.attention_mask.to(input_ids.device).repeat_interleave(rows // prompts, dim=0)
            return torch.cat([mask, mask.new_ones(rows, length - prompt_length)], dim=-1)
        if self._pad_token_id is None or not (input_ids[:, 0] == self._pad_token_id).any():
            return None
        is_text: Tensor = (input_ids != self._pad_token_id).cumsum(-1) > 0  # [rows, length]
        if not self._pad_may_be_text:
            return is_text.long()
        if bool(((~is_text).sum(-1) == 1).all()):
            return None  # every row begins with one BOS
        raise InputError(
            "prompts whose padding can be told from text",
            f"rows that begin with token {self._pad_token_id}, which pads and is also BOS or EOS",
            "pass the prompts' attention_mask to GenericLogitsProcessor, or use ModelPair.generate, which does",
        )


def _check_not_normalised(scores: Tensor) -> None:
    """Raise InputError where every row is log-probabilities, to which the raw formula does not apply."""
    if bool((scores.logsumexp(-1).abs() < _NORMALISED).all()):
        raise InputError(
            "raw logits with space='logits'",
            "log-probabilities, as beam search hands them over",
            "use space='logprobs' (its alpha has another scale)",
        )
