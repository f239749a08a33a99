"""A request's own alpha through the interfaces of both of vLLM's model runners, on vLLM's own classes."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import engines
import numpy as np
import pytest
import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    MoveDirectionality,
    build_logitsprocs,
    validate_logits_processors_parameters,
)

from generic_logits.vllm import REQUEST_ALPHA, engine_args
from generic_logits.vllm.alpha import RequestAlpha, spread

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM warns in many places
SWAP, MOVE = MoveDirectionality.SWAP, MoveDirectionality.UNIDIRECTIONAL


def params(alpha: Any = None) -> SamplingParams:
    return SamplingParams(extra_args=None if alpha is None else {"generic_alpha": alpha})


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Any:
    """A real engine configuration of a served pair."""
    paths = engines.pair_folders(tmp_path_factory.mktemp("pair"))
    arguments = engine_args(paths["baseline"], paths["lora"], alpha=2.0, max_model_len=64, max_num_seqs=8)
    return EngineArgs(**arguments, max_num_batched_tokens=64, enforce_eager=True).create_engine_config()


def test_alphas_are_spread_over_tokens_and_padding():
    alphas, starts = torch.tensor([0.0, 5.0, 2.5]), torch.tensor([0, 3, 4, 6])
    assert spread(alphas, starts, 8, 9.0).tolist() == [0, 0, 0, 5, 2.5, 2.5, 9, 9]
    assert spread(alphas, starts, 6, 9.0).tolist() == [0, 0, 0, 5, 2.5, 2.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_alpha_survives_beside_states_of_any_dtype(dtype):
    alphas = torch.tensor([0.0, 0.1, 1 / 3, 2.0, 1e-30, 77.7])
    states = torch.randn(6, 10).to(dtype)
    both = torch.cat([states, alphas[:, None].view(dtype)], dim=-1)[torch.tensor([4, 2, 1])]
    assert both[:, 10:].contiguous().view(torch.float32)[:, 0].equal(alphas[[4, 2, 1]])


def test_the_first_runner_builds_and_validates_it(config):
    built = build_logitsprocs(config, torch.device("cpu"), False, False, config.model_config.logits_processors)
    (mine,) = [each for each in built.all if isinstance(each, RequestAlpha)]
    assert RequestAlpha.of_engine(config) is mine and mine in built.argmax_invariant
    scores = torch.randn(2, 5)
    assert mine.apply(scores) is scores
    with pytest.raises(VLLMValidationError, match="wanted a finite alpha >= 0; got -1"):
        validate_logits_processors_parameters(config.model_config.logits_processors, params(-1))
    validate_logits_processors_parameters(config.model_config.logits_processors, params(0))
    validate_logits_processors_parameters(config.model_config.logits_processors, params())


def test_the_first_runner_tells_of_requests_that_come_go_and_move(config):
    processor, draw = RequestAlpha(config), random.Random(0)
    truth: dict[int, float | None] = {}
    for _ in range(500):
        removed = [index for index in truth if draw.random() < 0.2]
        for index in removed:
            del truth[index]
        added = {index: draw.choice([None, 0.0, 1.0, 8.0]) for index in range(8) if draw.random() < 0.3}
        truth |= added
        moved = []
        if len(truth) >= 2 and draw.random() < 0.5:
            a, b = draw.sample(sorted(truth), 2)
            moved.append((a, b, SWAP))
            truth[a], truth[b] = truth[b], truth[a]
        free = [index for index in range(8) if index not in truth]
        if truth and free and draw.random() < 0.5:
            a, b = draw.choice(sorted(truth)), draw.choice(free)
            moved.append((a, b, MOVE))
            truth[b] = truth.pop(a)
        gone = [index for index in removed if index not in added]
        processor.update_state(
            BatchUpdate(8, gone, [(index, params(alpha), [], []) for index, alpha in added.items()], moved)
        )
        assert processor.of_request == {index: alpha for index, alpha in truth.items() if alpha is not None}
        processor.update_state(None)


class TestSecondRunner:
    """The model's own state in the second runner; the runner itself needs a GPU."""

    @pytest.fixture
    def state(self, config) -> Any:
        from generic_logits.vllm.runner_v2 import AlphaState

        model = torch.nn.Module()
        model.settings, model.requests, model.own_alphas = SimpleNamespace(alpha=2.0), object(), False
        return AlphaState(config, model, None, torch.device("cpu"))

    @staticmethod
    def batch(slots: list[int], lengths: list[int], padded: int) -> Any:
        from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

        made = InputBatch.make_dummy(len(slots), sum(lengths), InputBuffers(8, 64, torch.device("cpu")))
        made.idx_mapping_np = np.array(slots)
        made.query_start_loc = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        made.num_tokens_after_padding = padded
        return made

    def alphas(self, state: Any, slots: list[int], lengths: list[int], padded: int) -> Tensor:
        (name, value), *more = state.prepare_inputs(self.batch(slots, lengths, padded), None).items()
        assert name == "alpha" and not more and len(value) == padded
        return value.tolist()

    def test_every_token_gets_its_requests_alpha(self, state):
        for slot, alpha in ((5, 0.0), (1, None), (3, 8.0)):
            state.add_request(slot, SimpleNamespace(sampling_params=params(alpha)))
        assert self.alphas(state, [3, 5, 1], [2, 1, 3], 8) == [8, 8, 0, 2, 2, 2, 2, 2]
        assert state.model.own_alphas

    def test_a_slots_earlier_tenant_is_forgotten(self, state):
        state.add_request(0, SimpleNamespace(sampling_params=params(8.0)))
        assert self.alphas(state, [0], [2], 2) == [8, 8] and state.model.own_alphas
        state.add_request(0, SimpleNamespace(sampling_params=params()))
        self.alphas(state, [0], [2], 2)
        assert not state.model.own_alphas  # the model then takes the engine's alpha and reads no column

    def test_graphs_are_captured_on_the_buffer_that_later_steps_fill(self, state):
        dummy = state.prepare_dummy_inputs(2, 4)["alpha"]
        state.add_request(2, SimpleNamespace(sampling_params=params(0.5)))
        later = state.prepare_inputs(self.batch([2], [4], 4), None)["alpha"]
        assert later.data_ptr() == dummy.data_ptr() and dummy.tolist() == [0.5] * 4

    def test_without_the_processor_requests_are_not_read(self, state):
        state._reads_requests = False
        state.add_request(0, SimpleNamespace(sampling_params=params("unchecked")))
        self.alphas(state, [0], [1], 1)
        assert not state.model.own_alphas

    def test_the_second_runner_builds_and_validates_the_processor(self, config):
        from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator
        from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs

        (found,) = _load_v2_logitsprocs([REQUEST_ALPHA])
        made = found(config, None)
        scores = torch.randn(2, 5)
        assert made.add_request(0, params(3.0)) is False and made.apply(scores, None) is scores
        validate = build_custom_logits_processors_params_validator([REQUEST_ALPHA])
        validate(params(1.5))
        with pytest.raises(VLLMValidationError, match="wanted a number >= 0 as generic_alpha; got 'x'"):
            validate(params("x"))

    def test_vllm_finds_the_state_on_the_model(self):
        from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

        from generic_logits.vllm.model import GenericLogitsForCausalLM
        from generic_logits.vllm.runner_v2 import AlphaState

        model = GenericLogitsForCausalLM.__new__(GenericLogitsForCausalLM)
        assert resolve_model_state_cls(None, model) is AlphaState
