"""The corrected model as vLLM sees it: both branches behind one set of requests, and the correction in its logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.platforms import current_platform

from generic_logits.errors import InputError
from generic_logits.ops import correct_logits
from generic_logits.vllm.alpha import RequestAlpha, spread
from generic_logits.vllm.settings import settings_of
from generic_logits.vllm.shared_base import SharedBase
from generic_logits.vllm.two_copies import TwoCopies


class GenericLogitsForCausalLM(nn.Module):
    """``v = b - alpha * ReLU(r - b)`` in ``compute_logits``, where every consumer of logits finds it.

    ``forward`` returns, side by side for each token, the hidden state of the baseline, that of the reinforced model,
    and the token's alpha (its float32 bits in the model's dtype). So a row carries all that its logits need, whichever
    rows the runner asks for: the last of each request, a prompt's, or a draft's.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build both branches, as two copies or as one with a LoRA.

        Raises:
            InputError: settings missing or outside their range, or an engine option that cannot be served.
            ModelError: an architecture or an adapter that cannot be served.
        """
        super().__init__()
        self.settings = settings_of(vllm_config)
        form = SharedBase if self.settings.shares_weights else TwoCopies
        self.branches = form(vllm_config, self.settings.reinforced)
        self.secondary_weights = self.branches.secondary_weights
        self.requests = RequestAlpha.of_engine(vllm_config)
        self.own_alphas = False  # whether a request of this step named its own; set by the second runner's state
        self._second_runner = vllm_config.use_v2_model_runner
        graphs = vllm_config.compilation_config.cudagraph_mode
        replays_whole_steps = current_platform.is_cuda_alike() and graphs.has_full_cudagraphs()
        if self.requests and not self._second_runner and replays_whole_steps:
            raise InputError(
                "piecewise graphs with the first model runner, whose full ones cannot see a request's alpha",
                f"cudagraph_mode={graphs.name}",
                "set VLLM_USE_V2_MODEL_RUNNER=1, or compilation_config={'cudagraph_mode': 'PIECEWISE'}",
            )

    @staticmethod
    def get_model_state_cls() -> type:
        """Name the state through which the second runner brings alphas."""
        from generic_logits.vllm.runner_v2 import AlphaState

        return AlphaState

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Embeddings of tokens, the baseline's."""
        embeddings: Tensor = self.branches.baseline.embed_input_ids(input_ids)
        return embeddings

    def forward(
        self,
        input_ids: Tensor,  # [tokens]
        positions: Tensor,  # [tokens], or [3, tokens]
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,  # refused at start
        alpha: Tensor | None = None,  # [tokens], float32; from the second runner
    ) -> Tensor:  # [tokens, hidden + hidden + 1 or 2]
        """Run both branches over the batch."""
        baseline, reinforced = self.branches(input_ids, positions)
        if alpha is None:
            alpha = self._alphas_of_first_runner(len(baseline), baseline.device)
        return torch.cat([baseline, reinforced, alpha[:, None].view(baseline.dtype)], dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:  # [rows, vocab]
        """Corrected logits of any rows that ``forward`` returned; None off rank 0 where vLLM gathers there."""
        width = 4 // hidden_states.element_size()
        both, bits = hidden_states[:, :-width], hidden_states[:, -width:]
        baseline, reinforced = self.branches.compute_logits(both)
        if baseline is None or reinforced is None:
            return None
        vocab = min(baseline.shape[-1], reinforced.shape[-1])
        own = self.own_alphas if self._second_runner else bool(self.requests and self.requests.of_request)
        corrected = baseline[:, :vocab]
        correct_logits(
            corrected,
            reinforced[:, :vocab],
            bits.contiguous().view(torch.float32)[:, 0] if own else self.settings.alpha,
            space=self.settings.space,
            threshold=self.settings.threshold,
            variant=self.settings.variant,
            out=corrected,
        )
        return baseline

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load both branches; return the names of the parameters that were found."""
        return {f"branches.{name}" for name in self.branches.load_weights(weights)}

    def _alphas_of_first_runner(self, tokens: int, device: torch.device) -> Tensor:  # [tokens]
        """Alpha of each token from the processor's table and the batch's layout."""
        default = self.settings.alpha
        own = self.requests.of_request if self.requests else {}
        metadata = get_forward_context().attn_metadata
        if not own or metadata is None:  # profiling runs have no metadata
            return torch.full((tokens,), default, dtype=torch.float32, device=device)
        starts = getattr(next(iter(metadata.values())), "query_start_loc", None)
        if starts is None:
            wanted = "an attention backend that tells where requests start"
            raise InputError(wanted, "none", "set VLLM_USE_V2_MODEL_RUNNER=1")
        alphas = [own.get(request, default) for request in range(len(starts) - 1)]
        return spread(torch.tensor(alphas, dtype=torch.float32, device=device), starts, tokens, default)
