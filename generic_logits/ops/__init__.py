"""The operators: tensors in, tensors out. Argument checks and the choice of backend, nothing else."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.ops import fused_torch, reference

Space = Literal["logits", "logprobs"]
Variant = Literal["relu", "linear"]
Backend = Literal["auto", "reference", "torch", "triton"]

SPACES = ("logits", "logprobs")
VARIANTS = ("relu", "linear")
BACKENDS = ("auto", "reference", "torch", "triton")

__all__ = [
    "Backend",
    "Space",
    "Variant",
    "check_alpha",
    "check_correction",
    "choose_backend",
    "correct_logits",
    "generic_argmax",
    "generic_sample",
]


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


def choose_backend(
    baseline: Tensor,  # [..., vocab]
    reinforced: Tensor,  # [..., vocab]
    *,
    backend: Backend = "auto",
) -> Backend:
    """Name the backend that works on these tensors: ``"reference"``, ``"torch"`` or ``"triton"``.

    ``"auto"`` takes the plain expression where a gradient is wanted, the Triton kernels on a CUDA device that has
    Triton, and fused PyTorch elsewhere. The kernels compute in float32: float64 goes to fused PyTorch, asked or not.

    Raises:
        InputError: ``backend`` is unknown, or ``"triton"`` and cannot run here.
    """
    _one_of("backend", backend, BACKENDS)
    if backend == "auto":
        if torch.is_grad_enabled() and (baseline.requires_grad or reinforced.requires_grad):
            return "reference"
        backend = "triton" if baseline.is_cuda and _has_triton() else "torch"
    elif backend == "triton":
        _check_triton(baseline)
    double = _working_dtype(baseline, reinforced) == torch.float64
    return "torch" if backend == "triton" and double else backend


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
        backend: ``"triton"`` (CUDA kernels), ``"torch"`` (fused, in blocks), ``"reference"`` (plain expression), or
            ``"auto"``, which chooses as ``choose_backend`` says.

    Returns:
        The corrected scores, ``[..., vocab]``; ``out`` if it was given.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an option outside its range.
    """
    check_correction(space, threshold, variant)
    _one_of("backend", backend, BACKENDS)
    _check_tensors(baseline, reinforced, out)
    backend = choose_backend(baseline, reinforced, backend=backend)
    strength = _row_alpha(alpha, baseline, _working_dtype(baseline, reinforced))
    if strength is None:
        return baseline.clone() if out is None else out.copy_(baseline)

    if backend == "reference":
        result = reference.correct_logits(
            baseline, reinforced, strength, space=space, threshold=threshold, variant=variant
        )
        return result if out is None else out.copy_(result)
    if out is None:
        out = torch.empty_like(baseline, memory_format=torch.contiguous_format)
    rows = _rows(out)
    correct = _kernels().correct_logits if backend == "triton" else fused_torch.correct_logits
    with torch.no_grad():
        correct(
            _rows(baseline.detach()),
            _rows(reinforced.detach()),
            strength.reshape(-1, 1) if strength.dim() else strength,
            space=space,
            threshold=threshold,
            variant=variant,
            out=rows,
        )
    return out if rows.data_ptr() == out.data_ptr() else out.copy_(rows.view(out.shape))


def generic_argmax(
    baseline: Tensor,  # [..., vocab]
    reinforced: Tensor,  # [..., vocab]
    alpha: float | Tensor,  # a number, or [...]: one for each row
    *,
    space: Space = "logits",
    threshold: float = 0.0,
    variant: Variant = "relu",
    backend: Backend = "auto",
) -> Tensor:  # [...], int64
    """Give ``correct_logits(...).argmax(-1)``; on CUDA the corrected rows are never written.

    The lowest of equal tokens wins, the first NaN wins over all, and a row of -inf gives token 0. No gradient flows.

    Args:
        baseline: see ``correct_logits``.
        reinforced: see ``correct_logits``.
        alpha: see ``correct_logits``.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        variant: see ``correct_logits``.
        backend: see ``correct_logits``.

    Returns:
        Token ids, ``[...]``.

    Raises:
        InputError: as ``correct_logits``.
    """
    return _chosen(baseline, reinforced, alpha, space, threshold, variant, backend, None, None)


def generic_sample(
    baseline: Tensor,  # [..., vocab]
    reinforced: Tensor,  # [..., vocab]
    alpha: float | Tensor,  # a number, or [...]: one for each row
    *,
    temperature: float = 1.0,
    space: Space = "logits",
    threshold: float = 0.0,
    variant: Variant = "relu",
    generator: torch.Generator | None = None,
    backend: Backend = "auto",
) -> Tensor:  # [...], int64
    """Draw a token a row from softmax(v / temperature), v the generic logits; on CUDA v is never written.

    The draw is the argmax of v / temperature plus Gumbel noise, independent for each row and column. One backend on one
    device gives the same tokens for the same state of the generator; another backend gives others. A row of -inf gives
    token 0 and a NaN is chosen, as by ``generic_argmax``. No gradient flows.

    Args:
        baseline: see ``correct_logits``.
        reinforced: see ``correct_logits``.
        alpha: see ``correct_logits``.
        temperature: > 0; what the corrected scores are divided by.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        variant: see ``correct_logits``.
        generator: source of the noise, on the baseline's device; the device's default generator without it.
        backend: see ``correct_logits``.

    Returns:
        Token ids, ``[...]``.

    Raises:
        InputError: as ``correct_logits``, a temperature that is not > 0, or a generator of another device.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError("a finite temperature > 0", repr(temperature), "use generic_argmax for the likeliest token")
    if generator is not None and generator.device.type != baseline.device.type:
        raise InputError(
            f"a generator on {baseline.device}", f"one on {generator.device}", "make it with torch.Generator(device)"
        )
    return _chosen(baseline, reinforced, alpha, space, threshold, variant, backend, temperature, generator)


def _chosen(
    baseline: Tensor,
    reinforced: Tensor,
    alpha: float | Tensor,
    space: Space,
    threshold: float,
    variant: Variant,
    backend: Backend,
    temperature: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    check_correction(space, threshold, variant)
    _check_tensors(baseline, reinforced, None)
    baseline, reinforced = baseline.detach(), reinforced.detach()
    if choose_backend(baseline, reinforced, backend=backend) != "triton":
        corrected = correct_logits(
            baseline, reinforced, alpha, space=space, threshold=threshold, variant=variant, backend=backend
        )
        return reference.choose_token(corrected, temperature, generator)
    strength = _row_alpha(alpha, baseline, torch.float32)
    if strength is None:
        strength = torch.zeros((), device=baseline.device)
    tokens: Tensor = _kernels().choose_token(
        _rows(baseline),
        _rows(reinforced),
        strength.reshape(-1, 1) if strength.dim() else strength,
        space=space,
        threshold=threshold,
        variant=variant,
        temperature=temperature,
        generator=generator,
    )
    return tokens.view(baseline.shape[:-1])


def _rows(tensor: Tensor) -> Tensor:  # [rows, vocab]
    return tensor.reshape(-1, tensor.shape[-1])


def _working_dtype(baseline: Tensor, reinforced: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (baseline.dtype, reinforced.dtype) else torch.float32


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _kernels() -> ModuleType:
    """Load Triton when its kernels are first wanted."""
    from generic_logits.ops import fused_triton

    return fused_triton


def _check_triton(baseline: Tensor) -> None:
    if not _has_triton():
        raise InputError("triton for backend='triton'", "no such package", "install triton or pass backend='auto'")
    if not (baseline.is_cuda or _kernels().interpreted()):
        raise InputError(
            "CUDA tensors for backend='triton'",
            f"tensors on {baseline.device}",
            "pass backend='auto', or set TRITON_INTERPRET=1 before the first import of triton to test the kernels",
        )


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
        if not torch.tensor(value, dtype=dtype):  # too small for dtype is 0 as well
            return None
        return torch.full((), value, dtype=dtype, device=baseline.device)  # queued there, where a copy would wait
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
