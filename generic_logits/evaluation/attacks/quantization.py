"""Quantisation: what comes back when the weights are rounded.

Unlearning moves weights a little; rounding may move them back (Zhang et al. 2024, "Catastrophic Failure of LLM
Unlearning via Quantization"). The weights are rounded to what a quantised file can hold and stay in their own dtype, so
no kernel is needed and no other error enters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from generic_logits.evaluation.attacks.copies import copy_weights
from generic_logits.evaluation.attacks.curve import Point, Score, check_prompts
from generic_logits.evaluation.familiarity import probability_scores
from generic_logits.evaluation.subject import Subject
from generic_logits.models.pair import ModelPair
from generic_logits.text.prompts import Prompt

GROUP = 64  # weights that share a scale in 4 bits


def round_int8(weight: Tensor) -> Tensor:  # [..., inputs], float32
    """Round to 255 even levels between plus and minus the largest magnitude of each output's row.

    No weight moves by more than 1/254 of that magnitude.
    """
    scale = weight.abs().amax(-1, keepdim=True) / 127
    return torch.where(scale > 0, (weight / scale).round() * scale, weight)


def round_nf4(weight: Tensor) -> Tensor:  # [..., inputs], float32
    """Round to the 16 levels of NormalFloat (Dettmers et al. 2023, "QLoRA", section 3) times a group's magnitude.

    A group is 64 neighbours in memory. No weight moves by more than .152 of its group's largest magnitude.
    """
    flat = weight.flatten()
    groups = pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True)
    levels = _normal_float().to(weight.device)
    nearest = torch.bucketize(groups / scale.clamp_min(torch.finfo(scale.dtype).tiny), (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).flatten()[: len(flat)].view_as(weight)


FORMATS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"int8": round_int8, "nf4": round_nf4})


def quantize(
    subject: Subject,
    prompts: Sequence[Prompt],
    *,
    score: Score = probability_scores,
) -> list[Point]:
    """Ask a model as it is, and copies of it with rounded weights.

    The matrices of linear layers and of stacked experts are rounded; embeddings, the output head and the matrices of a
    LoRA adapter stay, as when ``transformers`` loads a model in 8 or 4 bits. Of a pair both models are rounded.

    Args:
        subject: whom to attack; stays as it is, bit for bit.
        prompts: what to ask.
        score: of the answers.

    Returns:
        The points "as it is", "int8" (8 bits, a scale an output) and "nf4" (4 bits, a scale for 64 weights).

    Raises:
        InputError: no prompts, or a server.
    """
    check_prompts(prompts)
    points = [Point("as it is", score(subject, prompts))]
    for name, round_weights in FORMATS.items():
        attacked = copy_weights(subject)
        with torch.no_grad():
            for weight in _matrices(attacked.model):
                weight.copy_(round_weights(weight.float()))
        points.append(Point(name, score(attacked, prompts)))
    return points


def _matrices(model: Any) -> Iterator[Tensor]:  # each [..., outputs, inputs]
    """Views of the weights to round, each once."""
    seen: set[int] = set()
    for part in (model.baseline, model.reinforced) if isinstance(model, ModelPair) else (model,):
        head = part.get_output_embeddings()
        for name, module in part.named_modules():
            if module is head or "lora_" in name or isinstance(module, torch.nn.modules.conv._ConvNd):
                continue
            linear = isinstance(module, torch.nn.Linear | Conv1D)
            for own, weight in module.named_parameters(recurse=False):
                stacked = weight.dim() == 3 and len(weight) > 1
                if id(weight) not in seen and (stacked or (linear and own == "weight")):
                    seen.add(id(weight))
                    yield weight.T if isinstance(module, Conv1D) else weight


@cache
def _normal_float() -> Tensor:  # [16], ascending from -1 to 1
    """Quantiles of a normal distribution, eight above 0, seven below and 0 itself."""
    end = 0.9677083  # the mean of 1 - 1/30 and 1 - 1/32, as published
    above = torch.special.ndtri(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([below, torch.zeros(1, dtype=torch.float64), above.flip(0)])
    return (levels / levels.abs().max()).float()
