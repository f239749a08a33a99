"""A request's own alpha: how it is checked, and how each of vLLM's two runners brings it to the model.

The first runner (V1) tells logits processors of its requests before every forward pass; the model reads that table and
the batch's layout, and writes each token's alpha beside its hidden state. The second (V2) asks the model's own state
for further inputs. Either way the correction sees the right alpha, whatever it is computed for: the next token, its
log-probabilities, the prompt's, or a draft's.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor as ProcessorV1
from vllm.v1.sample.logits_processor import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as ProcessorV2

from generic_logits.errors import InputError
from generic_logits.ops import check_alpha

KEY = "generic_alpha"


def read_alpha(params: SamplingParams) -> float | None:
    """Alpha that a request names; None where it names none.

    Raises:
        InputError: not a finite number >= 0.
    """
    value = (params.extra_args or {}).get(KEY)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"a number >= 0 as {KEY}", repr(value), "0 is the baseline, 1 to 5 is usual")
    return check_alpha(value)


class RequestAlpha(ProcessorV1, ProcessorV2):  # type: ignore[misc]  # vLLM is not type-checked
    """The processor that a user names to allow requests their own alpha; it changes no logits itself."""

    _of_engine: WeakValueDictionary[str, RequestAlpha] = WeakValueDictionary()

    def __init__(self, vllm_config: VllmConfig, *_: Any) -> None:
        """Start with no request; either runner's further arguments are not needed."""
        self.of_request: dict[int, float] = {}  # position in the first runner's batch -> alpha
        self._of_engine[vllm_config.instance_id] = self

    @classmethod
    def of_engine(cls, vllm_config: VllmConfig) -> RequestAlpha | None:
        """The processor that this process's engine was started with."""
        return cls._of_engine.get(vllm_config.instance_id)

    @classmethod
    def validate_params(cls, params: SamplingParams) -> None:
        """Refuse a request before it enters the engine.

        Raises:
            VLLMValidationError: not a finite number >= 0; over HTTP a 400.
        """
        try:
            read_alpha(params)
        except InputError as error:
            raise VLLMValidationError(str(error), parameter=KEY) from error

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests that came, went and moved (first runner)."""
        process_dict_updates(self.of_request, batch_update, lambda params, *_: read_alpha(params))

    def add_request(self, req_idx: int, params: SamplingParams) -> bool:
        """Ask for no call of ``apply`` (second runner)."""
        return False

    def is_argmax_invariant(self) -> bool:
        """Say that ``apply`` changes nothing."""
        return True

    def apply(self, logits: Tensor, *_: Any) -> Tensor:
        """Return the logits as they are: the model has corrected them."""
        return logits


def spread(
    alphas: Tensor,  # [requests]
    starts: Tensor,  # [requests + 1], the first token of each request in the batch, and the end
    tokens: int,
    default: float,
) -> Tensor:  # [tokens]
    """Each token's alpha; tokens behind the last request are padding and take the default."""
    counts = torch.cat([starts.diff(), (tokens - starts[-1]).clamp_min(0)[None]])
    values = torch.cat([alphas, alphas.new_full((1,), default)])
    return values.repeat_interleave(counts, output_size=tokens)
