"""Two models made one: the baseline, and the same model trained further on what it shall forget."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generic_logits.models.branch import check_decoder_only
from generic_logits.models.generic_model import GenericForCausalLM
from generic_logits.models.loading import common_vocabulary, load_pair
from generic_logits.models.processor import GenericLogitsProcessor
from generic_logits.ops import Space, Variant, check_alpha, check_correction


class ModelPair:
    """A baseline and a reinforced model over one vocabulary, decoded together.

    A LoRA adapter as the reinforced model shares the baseline's weights in memory: it lives in a second tree of
    modules around the same tensors, so the baseline's own forward never meets it and nothing is switched on or off.

    Attributes:
        baseline: the model that knows the text.
        reinforced: the model whose preferences are pushed down.
        tokenizer: the tokenizer of both, or None.
        alpha, space, threshold, variant: the correction, see ``correct_logits``.
    """

    def __init__(
        self,
        baseline: Any,
        reinforced: Any,
        *,
        alpha: float,
        space: Space = "logits",
        threshold: float = 0.0,
        variant: Variant = "relu",
        tokenizer: Any = None,
    ) -> None:
        """Pair two loaded decoder-only models.

        Raises:
            InputError: an option outside its range.
            ModelError: an encoder-decoder, or vocabularies that do not match.
        """
        check_correction(space, threshold, variant)
        check_decoder_only(baseline.config)
        check_decoder_only(reinforced.config)
        self.alpha = check_alpha(alpha)
        self.space: Space = space
        self.threshold = threshold
        self.variant: Variant = variant
        self.baseline = baseline
        self.reinforced = reinforced
        self.tokenizer = tokenizer
        self.vocab_size = common_vocabulary(baseline.config, reinforced.config, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        baseline: str | Path,
        reinforced: str | Path,
        *,
        alpha: float,
        space: Space = "logits",
        threshold: float = 0.0,
        variant: Variant = "relu",
        dtype: str | torch.dtype = "auto",
        **model_options: Any,
    ) -> ModelPair:
        """Load a pair.

        Args:
            baseline: a model folder or hub name.
            reinforced: a model folder, a hub name, or a folder with a LoRA adapter for ``baseline``.
            alpha: strength of the correction, see ``correct_logits``.
            space: see ``correct_logits``.
            threshold: see ``correct_logits``.
            variant: see ``correct_logits``.
            dtype: of the weights, as in ``AutoModelForCausalLM.from_pretrained``.
            **model_options: handed to ``AutoModelForCausalLM.from_pretrained`` for both models: ``device_map``,
                ``quantization_config``, ``attn_implementation``, ...

        Raises:
            ModelError: a model that cannot be loaded, an encoder-decoder, an adapter for another base, or tokenizers
                that differ.
        """
        check_alpha(alpha)
        base, other, tokenizer = load_pair(baseline, reinforced, dtype=dtype, **model_options)
        return cls(base, other, alpha=alpha, space=space, threshold=threshold, variant=variant, tokenizer=tokenizer)

    @property
    def shares_weights(self) -> bool:
        """Whether both models read the same base tensors."""
        of_baseline = {parameter.data_ptr() for parameter in self.baseline.parameters()}
        return any(parameter.data_ptr() in of_baseline for parameter in self.reinforced.parameters())

    def with_alpha(self, alpha: float) -> ModelPair:
        """Return the same two models under another alpha."""
        other = copy.copy(self)
        other.alpha = check_alpha(alpha)
        other.__dict__.pop("model", None)
        return other

    def logits_processor(self, *, attention_mask: Tensor | None = None) -> GenericLogitsProcessor:
        """Return a processor for ``self.baseline.generate``; ``attention_mask`` is the prompts' own."""
        return GenericLogitsProcessor(
            self.reinforced,
            self.alpha,
            space=self.space,
            threshold=self.threshold,
            variant=self.variant,
            vocab_size=self.vocab_size,
            pad_token_id=getattr(self.tokenizer, "pad_token_id", None),
            attention_mask=attention_mask,
        )

    @cached_property
    def model(self) -> GenericForCausalLM:
        """The pair as one ``transformers`` model; an adapter shares the baseline's pass there.

        Raises:
            ModelError: a model that keeps its decoding state outside a ``Cache``.
        """
        return GenericForCausalLM(
            self.baseline,
            self.reinforced,
            alpha=self.alpha,
            space=self.space,
            threshold=self.threshold,
            variant=self.variant,
            vocab_size=self.vocab_size,
        )

    def generate(self, input_ids: Tensor, **options: Any) -> Any:
        """Call ``generate`` of ``model``; all its options apply.

        Args:
            input_ids: prompts, ``[prompts, length]``, padded on the left.
            **options: of ``generate``, such as the prompts' ``attention_mask``.

        Raises:
            InputError: a ``cache_implementation`` that holds one branch only.
        """
        return self.model.generate(input_ids, **options)

    @torch.no_grad()
    def logits(
        self,
        input_ids: Tensor,  # [rows, length]
        attention_mask: Tensor | None = None,  # [rows, length]
    ) -> Tensor:  # [rows, length, vocab]
        """Corrected logits at every position of whole sequences, without a cache."""
        logits: Tensor = self.model(input_ids, attention_mask, use_cache=False).logits
        return logits
