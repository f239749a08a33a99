"""One branch's decoding state: its cache, its positions, and how it follows a caller that reorders and rolls back."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from generic_logits.errors import ModelError

_CACHE_NAMES = ("past_key_values", "cache_params")  # attention models; Mamba and its kin
_PADDING = -1  # stands for a padded position where rows are compared


class Branch:
    """Next-token logits of one model for whatever rows of tokens the caller shows next.

    The rows are compared with those of the last call, and what they share stays in the cache: the same rows in
    another order reorder it (beam search), a shorter common prefix crops it (assisted decoding), nothing in common
    starts it anew (the next prompt). Only tokens that the cache does not hold go through the model.

    A cache that cannot be cropped that far (sliding-window layers that have dropped the states) is computed again from
    the first token; so is one with recurrent layers unless each row is continued by exactly one token, because not all
    of them can start from a state and read several.
    """

    def __init__(self, model: Any) -> None:
        """Wrap a decoder-only ``transformers`` model.

        Raises:
            ModelError: an encoder-decoder, or a model that keeps its decoding state outside a ``Cache``.
        """
        check_decoder_only(model.config)
        accepted = inspect.signature(model.forward).parameters
        self.model = model
        self._cache_name = cache_name_of(model)
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next call computes its rows from their first token."""
        self._cache: Any = DynamicCache(config=self.model.config)
        self._sliding: list[Any] = [layer for layer in self._cache.layers if getattr(layer, "is_sliding", False)]
        if self._sliding:
            self._cache.activate_past_recording()
        self._recurrent = self.model._is_stateful or any(hasattr(each, "conv_states") for each in self._cache.layers)
        self._held = torch.empty(0, 0, dtype=torch.long)  # [rows, length]: the tokens in the cache
        self._floor = 0  # the shortest length that the sliding-window layers can still be cropped to
        self.extended = False  # whether the last call was the one before plus one token

    @torch.no_grad()
    def next_logits(
        self,
        token_ids: Tensor,  # [rows, length]
        attention_mask: Tensor | None = None,  # [rows, length], 0 at left padding; None: there is none
    ) -> Tensor:  # [rows, vocab]
        """Logits of the token that follows each row, in the model's dtype, on the model's device.

        Raises:
            ModelError: the model keeps its decoding state outside the cache it was given.
        """
        token_ids = token_ids.to(self.model.device)
        inputs: dict[str, Any] = {"use_cache": True, **self._last_only}
        if attention_mask is None:
            rows = token_ids
            positions = torch.arange(rows.shape[1], device=rows.device)[None]
        else:
            mask = inputs["attention_mask"] = attention_mask.to(self.model.device)
            rows = token_ids.masked_fill(mask == 0, _PADDING)
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
        known = self._align(rows)
        if self._takes_positions:
            inputs["position_ids"] = positions[:, known:]
        if known and self._cache_name == "cache_params":  # Mamba: its state has absorbed the padding
            inputs.pop("attention_mask", None)
        inputs[self._cache_name] = self._cache
        try:
            outputs = self.model(input_ids=token_ids[:, known:], **inputs)
        except BaseException:  # Ctrl-C, too, leaves a cache that holds no known tokens
            self.reset()
            raise
        if outputs.get(self._cache_name) is not self._cache:
            raise _no_cache(self.model)
        self._held = rows.clone()
        self._drop_unseen_states()
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def _align(self, rows: Tensor) -> int:
        """Make the cache hold a prefix of every row, shorter than the row; return that prefix's length."""
        held = self._held
        self.extended = held.shape == (rows.shape[0], rows.shape[1] - 1) and torch.equal(held, rows[:, :-1])
        if self.extended:
            return held.shape[1]
        if held.numel():
            source, shared = _longest_prefixes(rows[:, :-1], held)
            keep = int(shared.min())
            surplus = held.shape[1] - keep
            reusable = surplus == 0 and rows.shape[1] == keep + 1 if self._recurrent else keep >= self._floor
            if keep and reusable:
                self._cache.reorder_cache(source)
                if surplus:
                    self._cache.crop(-surplus)
                    if any(held.shape[1] >= layer.sliding_window for layer in self._sliding):
                        self._floor = keep
                return keep
            self.reset()
        return 0

    def _drop_unseen_states(self) -> None:
        """Bound the states that sliding-window layers keep for a later crop to two windows."""
        for layer in self._sliding:
            if layer.keys.shape[-2] > 3 * layer.sliding_window:
                layer.keys = layer.keys[..., -2 * layer.sliding_window :, :].contiguous()
                layer.values = layer.values[..., -2 * layer.sliding_window :, :].contiguous()
                self._floor = max(self._floor, self._held.shape[1] - layer.sliding_window)


def check_decoder_only(config: Any) -> None:
    """Refuse encoder-decoder models.

    Raises:
        ModelError: the configuration is that of an encoder-decoder.
    """
    if config.is_encoder_decoder:
        raise ModelError(
            "a decoder-only language model",
            f"an encoder-decoder ({config.model_type})",
            "generic logits need one causal model that reads and continues the same text",
        )


def cache_name_of(model: Any) -> str:
    """Name under which a model's forward takes its cache.

    Raises:
        ModelError: it takes none.
    """
    accepted = inspect.signature(model.forward).parameters
    for name in _CACHE_NAMES:
        if name in accepted:
            return name
    raise _no_cache(model)


def _no_cache(model: Any) -> ModelError:
    return ModelError(
        "a model that decodes with a transformers Cache",
        type(model).__name__,
        "its decoding state cannot be followed; use a model of another family",
    )


def _longest_prefixes(new: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:  # both [new rows]
    """For each new row, the held row that shares its longest prefix, and that prefix's length."""
    common = min(new.shape[1], held.shape[1])
    same = new[:, None, :common] == held[None, :, :common]  # [new rows, held rows, common]
    longest = same.cumprod(-1, dtype=torch.uint8).sum(-1).max(-1)
    return longest.indices, longest.values
