"""A model's output head apart from the rest: a forward pass that ends with the last hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def plain_head(model: Any) -> nn.Linear | None:
    """Return the head of a model whose logits are what its head says of the last hidden states, and nothing else.

    A forward pass over two tokens finds out: the logits have to be the very tensor that came out of the head.

    Returns:
        The head; None for one that is adapted, quantised or hooked, and for models that scale, cap or mask its words.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or "forward" in vars(head) or head.weight.device != model.device:
        return None
    said: list[tuple[Tensor, int]] = []
    hook = head.register_forward_hook(lambda _, __, output: said.append((output, output._version)))
    drawing = [model.device] if model.device.type == "cuda" else []  # dropout shall not move the run's random numbers
    try:
        with torch.no_grad(), torch.random.fork_rng(drawing):
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    if len(said) != 1 or logits is not said[0][0] or logits._version != said[0][1] or logits.shape[:2] != ids.shape:
        return None
    return head


@contextmanager
def instead_of_logits(
    head: nn.Linear,
    say: Callable[[Tensor], Tensor],  # of hidden states, [rows, length, hidden]
) -> Iterator[None]:
    """Let a model with a plain head return what ``say`` makes of the last hidden states as its ``logits``.

    It happens where the head would be called, inside the model's own forward: whatever wraps the model, to synchronise
    gradients or to gather weights, meets parameters and results as it is used to.
    """
    head.forward = say  # type: ignore
    try:
        yield
    finally:
        del head.forward
