"""One pass over both branches on one set of weights: the baseline's rows first, the reinforced model's behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import Cache, DynamicCache

from generic_logits.models.loading import share_weights

_FEW_ROWS = 32


def join_branches(baseline: Any, reinforced: Any) -> Any | None:
    """Return a model that takes ``[baseline rows; reinforced rows]`` and reads every base weight once.

    It is one more tree of modules around the tensors of ``baseline``. Each layer that the adapter of ``reinforced``
    changes is a ``_SecondHalf`` there; every other layer treats its rows alike.

    Returns:
        The model, or None where ``reinforced`` is more than ``baseline`` and plain LoRA on linear layers: full weights,
        DoRA, several kinds of adapter, whole embeddings or heads beside it.
    """
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {name: layer for name, layer in reinforced.named_modules() if isinstance(layer, BaseTunerLayer)}
    if not adapted or not all(type(layer) is Linear and _is_plain(layer) for layer in adapted.values()):
        return None
    shared = {parameter.data_ptr() for parameter in baseline.parameters()}
    inside = tuple(f"{name}.lora_" for name in adapted)
    for name, parameter in reinforced.named_parameters():
        if parameter.data_ptr() not in shared and not name.startswith(inside):
            return None
    joined = share_weights(baseline)
    for module in joined.modules():
        if type(module) is nn.Linear:
            module.__class__ = _ThinLinear  # the tree's own module; its tensors stay where they are
    for name, layer in adapted.items():
        if not _active(layer):
            continue
        parent, _, leaf = name.rpartition(".")
        holder = joined.get_submodule(parent)
        setattr(holder, leaf, _SecondHalf(getattr(holder, leaf), *_stacked(layer)))
    return joined


def _is_plain(layer: Any) -> bool:
    off = layer.merged or layer.disable_adapters or layer.lora_variant
    return not off and not any(layer.lora_bias.get(name) for name in _active(layer))


def _active(layer: Any) -> list[str]:
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _stacked(layer: Any) -> tuple[Tensor, Tensor]:  # [rank, inputs], [outputs, rank]
    """The active adapters of a layer as one, with their scaling in the second matrix."""
    names = _active(layer)
    down = torch.cat([layer.lora_A[name].weight for name in names])
    up = torch.cat([layer.lora_B[name].weight * layer.scaling[name] for name in names], dim=1)
    return down.detach(), up.detach()


class _ThinLinear(nn.Linear):
    """A linear layer that takes few rows in the order that a CPU's matrix product is quick in.

    Decoding multiplies 2 to 32 rows with each weight. Which operand stands first changes roundings alone, and the time
    by up to five times (``docs/performance.md``).
    """

    def forward(self, x: Tensor) -> Tensor:  # [..., inputs] -> [..., outputs]
        """Apply the layer."""
        rows = x.numel() // x.shape[-1]
        if not (x.device.type == "cpu" and 1 < rows <= _FEW_ROWS and x.dtype == self.weight.dtype == torch.float32):
            return super().forward(x)
        out = torch.mm(self.weight, x.reshape(rows, -1).t()).t().contiguous()
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1)


class _SecondHalf(nn.Module):
    """A linear layer whose second half of the rows gets the adapter's share."""

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("down", down, persistent=False)  # [rank, inputs]
        self.register_buffer("up", up, persistent=False)  # [outputs, rank]

    def forward(self, x: Tensor) -> Tensor:  # [2 * rows, ..., inputs] -> [2 * rows, ..., outputs]
        """Apply the layer to all rows and the adapter to the second half, in the adapter's dtype as PEFT does."""
        out: Tensor = self.base(x)
        low = linear(x[len(x) // 2 :].to(self.down.dtype), self.down)
        share = linear(low, self.up).to(out.dtype)
        out[len(x) // 2 :] += share
        return out

    def __getattr__(self, name: str) -> Any:
        """Answer for the layer itself what a model asks of it, such as its weight's dtype."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


class CountedCache(Cache):
    """A cache that knows its length also where no layer keeps a state for each token."""

    is_compileable = False
    seen = 0  # tokens that went through the model

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that are in the cache."""
        return self.seen if all(self.is_linear) else super().get_seq_length(layer_idx)


class SharedCache(CountedCache, DynamicCache):
    """A cache of both branches' rows, which its user counts as those of one."""

    def reorder_cache(self, beam_idx: Tensor) -> None:  # [rows]
        """Put both halves into the same order."""
        super().reorder_cache(self._of_both(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:  # [rows kept]
        """Keep the same rows of both halves."""
        super().batch_select_indices(self._of_both(indices))

    @property
    def batch_size(self) -> int:
        """Rows of one branch; -1 before the first pass."""
        rows = self._rows()
        return -1 if rows is None else rows // 2

    def _of_both(self, indices: Tensor) -> Any:
        return torch.cat([indices, indices + self.batch_size])

    def _rows(self) -> int | None:
        for layer in self.layers:
            for state in (getattr(layer, "keys", None), *getattr(layer, "conv_states", {}).values()):
                if state is not None and state.numel():
                    rows: int = state.shape[0]
                    return rows
        return None
