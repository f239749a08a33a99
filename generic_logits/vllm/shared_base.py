"""Both branches in one engine, one copy of the weights and a LoRA.

The tokens run twice through one model, in one batch: the first half is the baseline's, the second the reinforced
model's. Every layer but attention treats rows alike and reads its weights once; each attention layer has a twin with a
cache of its own and the halves go to one each; the adapter's share is added to the second half.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.parameter import ModelWeightParameter

from generic_logits.errors import ModelError
from generic_logits.vllm.adapter import adapter_settings, cannot_serve
from generic_logits.vllm.settings import original_config
from generic_logits.vllm.two_copies import build_branch


class SharedBase(nn.Module):
    """One model over both branches' rows: ``[baseline; reinforced]``."""

    secondary_weights = ()  # vLLM's loader brings the base; the adapter is read here

    def __init__(self, vllm_config: VllmConfig, adapter: str) -> None:
        """Build the base and give its attention layers their twins.

        Raises:
            ModelError: an adapter or an architecture that cannot be served.
        """
        super().__init__()
        self.adapter = Adapter(adapter)
        _allow_twice_the_tokens(vllm_config)
        config = original_config(vllm_config)
        self.baseline = build_branch(vllm_config, "baseline", config, adapter=self.adapter.layout)
        if ".models.transformers" in type(self.baseline).__module__:  # its rows have a dimension in front
            raise ModelError(
                "an architecture that vLLM has a model of its own for, to serve an adapter beside its base",
                f"{type(self.baseline).__name__}, through which vLLM runs {config.architectures[0]}",
                "merge the adapter into full weights and serve two copies",
            )
        _add_twins(self.baseline, vllm_config.compilation_config.static_forward_context)

    def forward(
        self,
        input_ids: Tensor,  # [tokens]
        positions: Tensor,  # [tokens], or [3, tokens]
    ) -> tuple[Tensor, Tensor]:  # both [tokens, hidden]
        """Run every token twice in one batch."""
        hidden = self.baseline(torch.cat([input_ids, input_ids]), torch.cat([positions, positions], dim=-1))
        baseline, reinforced = hidden.chunk(2)
        return baseline, reinforced

    def compute_logits(
        self,
        hidden_states: Tensor,  # [rows, hidden + hidden]
    ) -> tuple[Tensor | None, Tensor | None]:  # both [rows, vocab]
        """Logits of both halves; the head's weights are read once."""
        logits = self.baseline.compute_logits(torch.cat(hidden_states.chunk(2, dim=-1)))
        if logits is None:
            return None, None
        baseline, reinforced = logits.chunk(2)
        return baseline, reinforced

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the base, then put the adapter around its layers.

        Raises:
            ModelError: a part of the adapter has no place in this model.
        """
        loaded = {f"baseline.{name}" for name in self.baseline.load_weights(weights)}
        before = {name for name, _ in self.named_parameters()}
        self.adapter.put_on(self.baseline)
        return loaded | {name for name, _ in self.named_parameters() if name not in before}


class _Twins(nn.Module):
    """Two attention layers in the place of one: rows of the first half go to one, of the second half to the other."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Attend in each half with its own cache; what else the model asks of the layer, the first one answers."""
        halves = zip(*(each.chunk(2) for each in (query, key, value)), strict=True)
        layers = (self.first, self.second)
        return torch.cat([layer(*half, *arguments, **options) for layer, half in zip(layers, halves, strict=True)])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("first"), name)


def _add_twins(model: nn.Module, registered: dict[str, Any]) -> None:
    """Replace every attention layer by two, and register the second one's cache under the branch's name."""
    parents = {id(child): (parent, name) for parent in model.modules() for name, child in parent.named_children()}
    for name, layer in list(registered.items()):
        if not isinstance(layer, AttentionLayerBase):  # a mixture of experts registers itself, too
            continue
        if type(layer) is not Attention or layer.kv_sharing_target_layer_name is not None:
            raise ModelError(
                "plain attention layers, each with a cache of its own, to serve an adapter beside its base",
                f"{type(layer).__name__} in {name}",
                "merge the adapter into full weights and serve two copies",
            )
        twin = copy.copy(layer)
        for part in ("_parameters", "_buffers", "_modules"):
            setattr(twin, part, dict(getattr(layer, part)))
        twin.impl = copy.copy(layer.impl)
        twin.kv_cache = torch.tensor([])
        twin.layer_name = re.sub(r"^baseline", "reinforced", name)
        registered[twin.layer_name] = twin
        parent, attribute = parents[id(layer)]
        setattr(parent, attribute, _Twins(layer, twin))


def _allow_twice_the_tokens(config: VllmConfig) -> None:
    """Let compiled graphs take as many rows as two branches have."""
    ends = config.compilation_config.compile_ranges_endpoints
    if ends:
        ends.append(2 * max(ends))


class _Method(QuantizeMethodBase):  # type: ignore[misc]  # vLLM is not type-checked
    """A layer's own way of applying its weights, inside one that tells the halves of the rows apart."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def create_weights(self, *arguments: Any, **options: Any) -> None:
        self.method.create_weights(*arguments, **options)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.method.process_weights_after_loading(layer)


class _WithDelta(_Method):
    """The adapter's share is added to the second half of the rows."""

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = self.method.apply(layer, x, bias)
        first, second = out.chunk(2)
        delta = linear(linear(x.chunk(2)[1], layer.lora_a), layer.lora_b)
        return torch.cat([first, second + delta])


class _SecondTable(_Method):
    """The second half of the rows reads an embedding or a head that the adapter brought whole."""

    def embedding(self, layer: Any, input_ids: Tensor) -> Tensor:
        first, second = input_ids.chunk(2)
        return torch.cat([self.method.embedding(layer, first), nn.functional.embedding(second, layer.second_table)])

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        first, second = x.chunk(2)
        return torch.cat([self.method.apply(layer, first, bias), linear(second, layer.second_table, bias)])


class Adapter:
    """A PEFT LoRA folder: its settings, and its weights on their way into vLLM's packed and sharded layers."""

    def __init__(self, folder: str) -> None:
        """Read the settings.

        Raises:
            ModelError: a kind of adapter that cannot be served beside its base.
        """
        self.folder = folder
        self.config = adapter_settings(folder)
        self.layout = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def put_on(self, model: Any) -> None:
        """Give each adapted layer its matrices, as vLLM packs and shards that layer.

        Raises:
            ModelError: a weight that has no place in this model.
        """
        from peft import load_peft_weights

        pairs: dict[str, dict[str, Tensor]] = {}
        tables: dict[str, Tensor] = {}
        for key, tensor in load_peft_weights(self.folder, device="cpu").items():
            name = key.removeprefix("base_model.model.")
            matrix = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
            table = re.fullmatch(r"(.+)\.weight", name)
            if matrix:
                pairs.setdefault(matrix[1], {})[matrix[2]] = tensor
            elif table and "lora_" not in name:
                tables[table[1].removesuffix(".base_layer")] = tensor
            else:
                raise cannot_serve(self.folder, key)
        layers = dict(model.named_modules())
        parts: dict[Any, list[tuple[Any, Tensor, Tensor]]] = {}
        for name, pair in pairs.items():
            layer, shard = self._place(name, model, layers)
            if not isinstance(layer, LinearBase):
                raise cannot_serve(self.folder, f"{name} on {type(layer).__name__}")
            scaled = pair["B"].float() * self._scale(name, pair["A"].shape[0])
            parts.setdefault(layer, []).append((shard, pair["A"], scaled))
        for layer, of_layer in parts.items():
            _attach(layer, of_layer)
        for name, tensor in tables.items():
            layer, _ = self._place(name, model, layers)
            if not isinstance(layer, VocabParallelEmbedding):
                raise cannot_serve(self.folder, f"whole weights of {name}")
            _attach_table(layer, tensor)

    def _place(self, name: str, model: Any, layers: dict[str, Any]) -> tuple[Any, Any]:
        """The layer of vLLM's model that a layer of the checkpoint became, and its shard of it."""
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        mapped, shard = (mapper and mapper._map_name_with_shard(f"{name}.weight")) or (f"{name}.weight", None)
        mapped = mapped.removesuffix(".weight")
        if mapped in layers:
            return layers[mapped], shard
        parent, _, leaf = mapped.rpartition(".")
        for packed, members in getattr(model, "packed_modules_mapping", {}).items():
            layer = layers.get(f"{parent}.{packed}")
            if leaf in members and layer is not None:
                index = members.index(leaf)
                return layer, "qkv"[index] if isinstance(layer, QKVParallelLinear) else index
        raise cannot_serve(self.folder, f"{name}, which {type(model).__name__} does not have")

    def _scale(self, name: str, rank: int) -> float:
        """PEFT's scaling of one layer: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        patterns = self.config.get("alpha_pattern") or {}
        own = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
        alpha: float = next(own, self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def _attach(layer: Any, parts: list[tuple[Any, Tensor, Tensor]]) -> None:
    """Stack a layer's adapters: ``delta = x @ A.T @ B.T`` with one block of columns of B for each part.

    B has the layer's own outputs (and A, in a row-parallel layer, its inputs), so the layer's own loader packs and
    shards it.
    """
    rank = sum(a.shape[0] for _, a, _ in parts)
    dtype = layer.params_dtype
    by_row, by_column = isinstance(layer, RowParallelLinear), isinstance(layer, ColumnParallelLinear)
    inputs = layer.input_size_per_partition if by_row else layer.input_size
    outputs = layer.output_size_per_partition if by_column else layer.output_size
    a = _parameter(layer, torch.zeros(rank, inputs, dtype=dtype))
    b = _parameter(layer, torch.zeros(outputs, rank, dtype=dtype))
    (layer.weight_loader_v2 if by_row else _copy)(a, torch.cat([part for _, part, _ in parts]).to(dtype))
    start = 0
    for shard, part_a, part_b in parts:
        block = torch.zeros(part_b.shape[0], rank, dtype=dtype)
        block[:, start : start + part_a.shape[0]] = part_b.to(dtype)
        start += part_a.shape[0]
        (layer.weight_loader_v2 if by_column else _copy)(b, block, *([] if shard is None else [shard]))
    layer.lora_a, layer.lora_b = (nn.Parameter(each.data, requires_grad=False) for each in (a, b))
    layer.quant_method = _WithDelta(layer.quant_method)


def _copy(parameter: Tensor, whole: Tensor) -> None:
    parameter.data.copy_(whole)


def _parameter(layer: Any, data: Tensor) -> Any:
    loader = getattr(layer, "weight_loader_v2", layer.weight_loader)
    return ModelWeightParameter(data=data, input_dim=1, output_dim=0, weight_loader=loader)


def _attach_table(layer: Any, table: Tensor) -> None:
    """Put a whole embedding or head beside the layer's own, sharded as that one is."""
    data = torch.zeros_like(layer.weight.data)
    parameter = nn.Parameter(data, requires_grad=False)
    parameter.output_dim = 0  # type: ignore[attr-defined]  # where vLLM's loader looks for it
    layer.weight_loader(parameter, table.to(data.dtype))
    layer.second_table = nn.Parameter(parameter.data, requires_grad=False)
    layer.quant_method = _SecondTable(layer.quant_method)
