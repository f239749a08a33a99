"""Both branches in one engine, two copies of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import has_inner_state, is_attention_free, supports_multimodal
from vllm.model_executor.models.utils import init_vllm_registered_model

from generic_logits.errors import ModelError
from generic_logits.vllm.settings import original_config

_PREFIX = "reinforced."  # of the second model's weights on their way through vLLM's loader


class TwoCopies(nn.Module):
    """Baseline and reinforced model as two whole models, each with paged caches of its own."""

    def __init__(self, vllm_config: VllmConfig, reinforced: str) -> None:
        """Build both under names of their own.

        Raises:
            ModelError: an architecture that cannot be served.
        """
        super().__init__()
        self.baseline = build_branch(vllm_config, "baseline", original_config(vllm_config))
        self.reinforced = build_branch(vllm_config, "reinforced", original_config(vllm_config, reinforced))
        self.secondary_weights = [DefaultModelLoader.Source(reinforced, revision=None, prefix=_PREFIX)]

    def forward(
        self,
        input_ids: Tensor,  # [tokens]
        positions: Tensor,  # [tokens], or [3, tokens]
    ) -> tuple[Tensor, Tensor]:  # both [tokens, hidden]
        """Run one after the other."""
        return self.baseline(input_ids, positions), self.reinforced(input_ids, positions)

    def compute_logits(
        self,
        hidden_states: Tensor,  # [rows, hidden + hidden]
    ) -> tuple[Tensor, Tensor]:  # both [rows, vocab]
        """Logits of both from their hidden states."""
        baseline, reinforced = hidden_states.chunk(2, dim=-1)
        return (
            self.baseline.compute_logits(baseline.contiguous()),
            self.reinforced.compute_logits(reinforced.contiguous()),
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Hand the weights under the prefix to the reinforced model, the others to the baseline."""
        loaded: set[str] = set()
        for second, part in groupby(weights, key=lambda named: named[0].startswith(_PREFIX)):
            name, branch = ("reinforced", self.reinforced) if second else ("baseline", self.baseline)
            found = branch.load_weights((each.removeprefix(_PREFIX), tensor) for each, tensor in part)
            loaded |= {f"{name}.{each}" for each in found}
        return loaded


def build_branch(vllm_config: VllmConfig, name: str, hf_config: Any, **distinction: Any) -> Any:
    """Build one branch's model under a name of its own.

    Attention layers register their caches under that name. vLLM finds compiled graphs again by configuration and
    source, not by name, although the name is inside them; so it goes into the configuration, with whatever else
    distinguishes the graph.

    Raises:
        ModelError: an architecture whose state is not in attention caches alone, or that reads more than text.
    """
    hf_config.generic_logits = {"branch": name, **distinction}
    with set_model_tag(f"generic_logits_{name}"):
        model = init_vllm_registered_model(vllm_config, prefix=name, hf_config=hf_config)
    if has_inner_state(model) or is_attention_free(model) or supports_multimodal(model):
        raise ModelError(
            "a text model whose decoding state is in attention caches",
            type(model).__name__,
            "decode it with transformers: GenericLogitsProcessor",
        )
    return model
