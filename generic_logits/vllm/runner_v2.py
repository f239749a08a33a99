"""How vLLM's second model runner brings each request's alpha to the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from generic_logits.vllm.alpha import read_alpha, spread


class AlphaState(DefaultModelState):  # type: ignore[misc]  # vLLM is not type-checked
    """The usual state of a text model, and one more input: each token's alpha, in a buffer that graphs may keep."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Give every request slot and every token the engine's alpha."""
        super().__init__(*arguments, **options)
        self._default: float = self.model.settings.alpha
        self._reads_requests = self.model.requests is not None  # without the processor nothing has checked them
        self._of_slot = np.full(self.max_num_reqs, self._default, dtype=np.float32)
        self._of_token = torch.full((self.max_num_tokens,), self._default, dtype=torch.float32, device=self.device)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note what a request names; a slot's earlier tenant is forgotten."""
        super().add_request(req_index, new_req_data)
        alpha = read_alpha(new_req_data.sampling_params) if self._reads_requests else None
        self._of_slot[req_index] = self._default if alpha is None else alpha

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Spread the requests' alphas over the batch's tokens."""
        alphas = self._of_slot[input_batch.idx_mapping_np]
        tokens = input_batch.num_tokens_after_padding
        self.model.own_alphas = bool((alphas != np.float32(self._default)).any())
        if self.model.own_alphas:
            starts = input_batch.query_start_loc[: len(alphas) + 1]
            of_requests = torch.from_numpy(alphas).to(self.device)
            self._of_token[:tokens] = spread(of_requests, starts, tokens, self._default)
        return {**super().prepare_inputs(input_batch, req_states), "alpha": self._of_token[:tokens]}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Give warm-up and graph capture the same buffer."""
        return {**super().prepare_dummy_inputs(num_reqs, num_tokens), "alpha": self._of_token[:num_tokens]}
