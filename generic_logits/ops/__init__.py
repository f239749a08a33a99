"""The operators: tensors in, tensors out. Argument checks and the choice of backend, nothing else."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.ops import fused_torch, reference

Space = Literal["logits", "logprobs"]
Variant = Literal["relu", "linear"]
Backend = Literal["auto", "reference", "torch"]

SPACES = ("logits", "logprobs")
VARIANTS = ("relu", "linear")
BACKENDS = ("auto", "reference", "torch")

__all__ = ["Backend", "Space", "Variant", "check_alpha", "check_correction", "correct_logits"]


def check_alpha(alpha: float) -> float:
    """Return ``alpha`` as a float.

    Raises:
        InputError: it is not a number >= 0 that is finite in float32.
    """
    try:
        value = float(alpha)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value <= torch.finfo(torch.float32).max:
        raise InputError("a finite alpha >= 0", f"{alpha!r}", "0 is the baseline, 1 to 5 is usual")
    return value


def check_correction(space: str, threshold: float, variant: str) -> None:
    """Check the options that every user of the correction shares.

    Raises:
        InputError: an unknown space or variant, a negative threshold, or a threshold on the linear variant.
    """
    _one_of("space", space, SPACES)
    _one_of("variant", variant, VARIANTS)
    if not (math.isfinite(threshold) and threshold >= 0):
        raise InputError("a finite threshold >= 0", repr(threshold), "0 counts every increase")
    if threshold and variant != "relu":
        raise InputError("threshold=0 with variant='linear'", repr(threshold), "only the ReLU variant has a threshold")


def correct_logits(
    baseline: Tensor,  # [..., vocab]
    reinforced: Tensor,  # [..., vocab]
    alpha: float | Tensor,  # a number, or [...]: one for each row
    *,
    space: Space = "logits",
    threshold: float = 0.0,
    variant: Variant = "relu",
    out: Tensor | None = None,  # [..., vocab]
    backend: Backend = "auto",
) -> Tensor:  # [..., vocab]
    """Generic logits ``b - alpha * ReLU(r - b - threshold)`` ("Who's Harry Potter?", arXiv 2310.02238, section 2.1).

    Tokens whose score did not rise from baseline to reinforced are returned as they are; ``alpha=0`` returns the
    baseline bit for bit. The difference is taken in float32 (float64 for float64 input), whatever comes in, and the
    result has the baseline's dtype. A -inf in ``baseline`` (a banned token) stays -inf, a -inf in ``reinforced`` is no
    increase, a NaN in either comes through.

    Args:
        baseline: scores of the model that knows the text, ``[..., vocab]``, any floating dtype, any strides.
        reinforced: scores of the same model trained further on that text, same shape.
        alpha: strength of the correction, >= 0, dimensionless; a tensor of shape ``[...]`` gives each row its own.
        space: ``"logits"`` takes the formula literally on raw logits; ``"logprobs"`` compares log-softmax values, and
            is the right one when the scores are already normalised (beam search). The two scales of alpha differ.
        threshold: only increases above this many nats count; ReLU variant only.
        variant: ``"relu"``, or ``"linear"`` for ``b - alpha * (r - b)``.
        out: where to write; ``out=baseline`` works in place. Same shape, dtype and device as ``baseline``.
        backend: ``"torch"`` (fused, in blocks), ``"reference"`` (plain expression), or ``"auto"``, which takes the
            fused one unless a gradient is wanted.

    Returns:
        The corrected scores, ``[..., vocab]``; ``out`` if it was given.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an option outside its range.
    """
    check_correction(space, threshold, variant)
    _one_of("backend", backend, BACKENDS)
    _check_tensors(baseline, reinforced, out)
    dtype = torch.float64 if torch.float64 in (baseline.dtype, reinforced.dtype) else torch.float32
    strength = _row_alpha(alpha, baseline, dtype)
    if strength is None:
        return baseline.clone() if out is None else out.copy_(baseline)

    wants_grad = torch.is_grad_enabled() and (baseline.requires_grad or reinforced.requires_grad)
    if backend == "reference" or (backend == "auto" and wants_grad):
        result = reference.correct_logits(
            baseline, reinforced, strength, space=space, threshold=threshold, variant=variant
        )
        return result if out is None else out.copy_(result)
    if out is None:
        out = torch.empty_like(baseline, memory_format=torch.contiguous_format)
    vocab = baseline.shape[-1]
    rows = out.reshape(-1, vocab)
    with torch.no_grad():
        fused_torch.correct_logits(
            baseline.detach().reshape(-1, vocab),
            reinforced.detach().reshape(-1, vocab),
            strength.reshape(-1, 1) if strength.dim() else strength,
            space=space,
            threshold=threshold,
            variant=variant,
            out=rows,
        )
    return out if rows.data_ptr() == out.data_ptr() else out.copy_(rows.view(out.shape))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} to be one of {', '.join(allowed)}", repr(value), f"pass {name}={allowed[0]!r}")


def _check_tensors(baseline: Tensor, reinforced: Tensor, out: Tensor | None) -> None:
    for name, tensor in (("baseline", baseline), ("reinforced", reinforced)):
        if not tensor.is_floating_point():
            raise InputError(f"floating-point {name} scores", str(tensor.dtype), "pass logits, not token ids")
    if baseline.dim() == 0 or baseline.shape != reinforced.shape:
        raise InputError(
            "baseline and reinforced of one shape [..., vocab]",
            f"{list(baseline.shape)} and {list(reinforced.shape)}",
            "trim a padded head to the common vocabulary",
        )
    if baseline.device != reinforced.device:
        raise InputError("both on one device", f"{baseline.device} and {reinforced.device}", "move one with .to()")
    if out is not None and (out.shape, out.dtype, out.device) != (baseline.shape, baseline.dtype, baseline.device):
        raise InputError(
            f"out like baseline: {list(baseline.shape)} {baseline.dtype} on {baseline.device}",
            f"{list(out.shape)} {out.dtype} on {out.device}",
            "make it with torch.empty_like(baseline)",
        )


def _row_alpha(alpha: float | Tensor, baseline: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Give alpha as ``[]`` or ``[..., 1]`` on the baseline's device; None when it is 0 everywhere."""
    if not isinstance(alpha, Tensor) or alpha.dim() == 0:
        value = check_alpha(alpha.item() if isinstance(alpha, Tensor) else alpha)
        strength = torch.tensor(value, dtype=dtype)
        return strength.to(baseline.device) if strength else None  # an alpha too small for dtype is 0
    if alpha.shape != baseline.shape[:-1]:
        raise InputError(
            f"one alpha for each row: {list(baseline.shape[:-1])}",
            str(list(alpha.shape)),
            "pass a number to use one alpha for all rows",
        )
    worst = alpha[~(alpha.isfinite() & (alpha >= 0))]
    if worst.numel():
        check_alpha(worst[0].item())
    if not alpha.any():
        return None
    return alpha.to(device=baseline.device, dtype=dtype).unsqueeze(-1)
