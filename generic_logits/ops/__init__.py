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
from generic_logits.ops import linear as _linear

Space = Literal["logits", "logprobs"]
Variant = Literal["relu", "linear"]
Backend = Literal["auto", "reference", "torch", "triton"]
LinearBackend = Literal["auto", "torch", "triton"]

SPACES = ("logits", "logprobs")
VARIANTS = ("relu", "linear")
BACKENDS = ("auto", "reference", "torch", "triton")
LINEAR_BACKENDS = ("auto", "torch", "triton")

__all__ = [
    "Backend",
    "LinearBackend",
    "Space",
    "Variant",
    "check_alpha",
    "check_correction",
    "choose_backend",
    "correct_logits",
    "generic_argmax",
    "generic_sample",
    "linear_generic_argmax",
    "linear_generic_kl",
    "linear_soft_kl",
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
    if backend == "auto" and torch.is_grad_enabled() and (baseline.requires_grad or reinforced.requires_grad):
        return "reference"
    return _without_gradient(baseline, _working_dtype(baseline, reinforced), backend)


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
    with torch.no_grad():
        _kernels(backend).correct_logits(
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
    tokens: Tensor = _kernels("triton").choose_token(
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


def _without_gradient(baseline: Tensor, dtype: torch.dtype, backend: Backend) -> Backend:
    """``choose_backend`` where no gradient goes through the operations themselves."""
    if backend == "auto":
        backend = "triton" if baseline.is_cuda and _has_triton() else "torch"
    elif backend == "triton":
        _check_triton(baseline)
    return "torch" if backend == "triton" and dtype == torch.float64 else backend


def _working_dtype(*inputs: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (each.dtype for each in inputs) else torch.float32


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _kernels(backend: Backend) -> ModuleType:
    """Give the operations of ``"torch"`` or ``"triton"``, which is loaded when it is first wanted."""
    if backend != "triton":
        return fused_torch
    from generic_logits.ops import fused_triton

    return fused_triton


def _check_triton(baseline: Tensor) -> None:
    if not _has_triton():
        raise InputError("triton for backend='triton'", "no such package", "install triton or pass backend='auto'")
    if not (baseline.is_cuda or _kernels("triton").interpreted()):
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
        limits = torch.finfo(dtype)
        if value <= limits.smallest_normal * limits.eps / 2:  # what dtype rounds to 0 is 0 as well
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


def linear_generic_argmax(
    baseline_hidden: Tensor,  # [tokens, hidden of the baseline]
    baseline_head: Tensor,  # [vocab, hidden of the baseline]
    reinforced_hidden: Tensor,  # [tokens, hidden of the reinforced]
    reinforced_head: Tensor,  # [vocab, hidden of the reinforced]
    alpha: float | Tensor,  # a number, or [tokens]: one for each
    *,
    baseline_bias: Tensor | None = None,  # [vocab]
    reinforced_bias: Tensor | None = None,  # [vocab]
    space: Space = "logits",
    threshold: float = 0.0,
    variant: Variant = "relu",
    backend: LinearBackend = "auto",
) -> Tensor:  # [tokens] int64
    """Hard labels: the argmax of ``correct_logits`` of two models' last hidden states, [tokens, vocab] never held.

    Where scores tie, or differ by no more than the products round, any of the best tokens may come.

    Args:
        baseline_hidden: what the baseline's head gets, ``[tokens, hidden]``, any floating dtype.
        baseline_head: the head's weight, ``[vocab, hidden]``, in the same dtype; the products run in it.
        reinforced_hidden: the same of the reinforced model, which may have another width.
        reinforced_head: the head's weight; may be the baseline's own tensor.
        alpha: see ``correct_logits``; at 0 the reinforced model is not looked at.
        baseline_bias: the head's bias; -inf bans a token.
        reinforced_bias: the head's bias.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        variant: see ``correct_logits``.
        backend: ``"triton"``, ``"torch"`` or ``"auto"``, as in ``correct_logits``.

    Returns:
        Token ids, ``[tokens]``; -1 where the corrected logits hold a NaN.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an option outside its range.
    """
    baseline = _linear.Head(baseline_hidden, baseline_head, baseline_bias)
    reinforced = _linear.Head(reinforced_hidden, reinforced_head, reinforced_bias)
    _check_heads(baseline=baseline, reinforced=reinforced)
    teacher = _teacher(baseline, reinforced, alpha, space, threshold, variant, backend)
    with torch.no_grad(), torch.autocast(baseline_hidden.device.type, enabled=False):
        return _linear.generic_argmax(teacher)


def linear_generic_kl(
    student_hidden: Tensor,  # [tokens, hidden of the student]
    student_head: Tensor,  # [vocab, hidden of the student]
    baseline_hidden: Tensor,  # [tokens, hidden of the baseline]
    baseline_head: Tensor,  # [vocab, hidden of the baseline]
    reinforced_hidden: Tensor,  # [tokens, hidden of the reinforced]
    reinforced_head: Tensor,  # [vocab, hidden of the reinforced]
    alpha: float | Tensor,  # a number, or [tokens]: one for each
    *,
    student_bias: Tensor | None = None,  # [vocab]
    baseline_bias: Tensor | None = None,  # [vocab]
    reinforced_bias: Tensor | None = None,  # [vocab]
    temperature: float = 1.0,
    reverse: bool = False,
    mask: Tensor | None = None,  # [tokens] bool
    weights: Tensor | None = None,  # [tokens]
    space: Space = "logits",
    threshold: float = 0.0,
    variant: Variant = "relu",
    backend: LinearBackend = "auto",
) -> Tensor:  # []
    """KL between generic teacher and student from their last hidden states, [tokens, vocab] never held.

    The teacher is ``softmax(correct_logits(...) / temperature)``, the student ``softmax(logits / temperature)``. The
    loss and its gradients are computed together, chunk by chunk; those of the head and its bias are summed in float32
    (float64 for float64 input). Gradients go to the student alone, and cannot be differentiated again.

    Args:
        student_hidden: what the student's head gets, ``[tokens, hidden]``, any floating dtype.
        student_head: the head's weight, ``[vocab, hidden]``, in the same dtype; the products run in it.
        baseline_hidden: the same of the baseline; the three models may differ in width and dtype.
        baseline_head: the head's weight; heads may be one tensor.
        reinforced_hidden: the same of the reinforced model.
        reinforced_head: the head's weight.
        alpha: see ``correct_logits``; at 0 the reinforced model is not looked at.
        student_bias: the head's bias; -inf bans a token.
        baseline_bias: the head's bias.
        reinforced_bias: the head's bias.
        temperature: divides the logits of teacher and student; the loss is not multiplied by its square.
        reverse: KL(student || teacher) instead of KL(teacher || student). It is infinite where the student says what
            the teacher bans.
        mask: true at the tokens that count, the others are not even multiplied with a head; None counts all of them.
        weights: of the tokens; None is 1 for each.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        variant: see ``correct_logits``.
        backend: of all but the products: ``"triton"``, ``"torch"`` or ``"auto"``, as in ``correct_logits``.

    Returns:
        The sum of weight times KL over the tokens that count, divided by their number (not by the sum of the weights),
        in nats; 0 if there are none.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an option outside its range.
    """
    student = _linear.Head(student_hidden, student_head, student_bias)
    baseline = _linear.Head(baseline_hidden.detach(), baseline_head.detach(), baseline_bias)
    reinforced = _linear.Head(reinforced_hidden.detach(), reinforced_head.detach(), reinforced_bias)
    _check_heads(student=student, baseline=baseline, reinforced=reinforced)
    tokens = len(student_hidden)
    _check_fits("mask", mask, (tokens,), student_hidden, torch.bool)
    _check_fits("weights", weights, (tokens,), student_hidden)
    if not 0 < temperature < math.inf:
        raise InputError("a finite temperature above 0", repr(temperature), "1 leaves the logits alone")
    teacher = _teacher(baseline, reinforced, alpha, space, threshold, variant, backend, student_hidden)
    with torch.autocast(student_hidden.device.type, enabled=False):
        return _linear.generic_kl(
            student,
            teacher,
            temperature=temperature,
            reverse=reverse,
            positions=None if mask is None else mask.nonzero().flatten(),
            weights=None if weights is None else weights.detach(),
        )


def linear_soft_kl(
    student_hidden: Tensor,  # [n, hidden]
    student_head: Tensor,  # [vocab, hidden]
    counts: Tensor,  # [n] int
    tokens: Tensor,  # [k] int
    log_probs: Tensor,  # [k]
    rest: Tensor,  # [n]
    *,
    student_bias: Tensor | None = None,  # [vocab]
    weights: Tensor | None = None,  # [n]
) -> Tensor:  # []
    """KL(target || student) to stored targets from the student's last hidden states, [n, vocab] never held.

    A target is a distribution without its tail, whose tokens count as one together; a hard label is one token with a
    log-probability of 0 and no rest. Loss and gradients as in ``linear_generic_kl``.

    Args:
        student_hidden: what the student's head gets at positions that have a target, ``[n, hidden]``, any floating
            dtype.
        student_head: the head's weight, ``[vocab, hidden]``, in the same dtype; the product runs in it.
        counts: how many tokens are stored for each position.
        tokens: their ids, position after position, no two alike at one position.
        log_probs: their log-probabilities.
        rest: at each position the probability of all other tokens together.
        student_bias: the head's bias; -inf bans a token.
        weights: of the positions; None is 1 for each.

    Returns:
        The sum of weight times KL over the positions, divided by their number (not by the sum of the weights), in nats;
        0 if there are none.

    Raises:
        InputError: shapes, dtypes or devices that do not fit.
    """
    student = _linear.Head(student_hidden, student_head, student_bias)
    _check_heads(student=student)
    n = len(student_hidden)
    for name, each in (("counts", counts), ("rest", rest), ("weights", weights)):
        _check_fits(name, each, (n,), student_hidden)
    _check_fits("log_probs", log_probs, tuple(tokens.shape), student_hidden)
    dtype = _working_dtype(student_hidden)
    weights = rest.new_ones(n) if weights is None else weights.detach()
    with torch.autocast(student_hidden.device.type, enabled=False):
        return _linear.soft_kl(student, counts, tokens, log_probs, rest.to(dtype), weights.to(dtype), dtype)


def _teacher(
    baseline: _linear.Head,
    reinforced: _linear.Head,
    alpha: float | Tensor,
    space: Space,
    threshold: float,
    variant: Variant,
    backend: LinearBackend,
    *others: Tensor,
) -> _linear.Teacher:
    check_correction(space, threshold, variant)
    _one_of("backend", backend, LINEAR_BACKENDS)
    dtype = _working_dtype(baseline.hidden, reinforced.hidden, *others)
    kernels = _kernels(_without_gradient(baseline.hidden, dtype, backend))
    strength = _row_alpha(alpha, baseline.hidden, dtype)
    if strength is None:
        return _linear.Teacher(baseline, None, torch.zeros((), dtype=dtype), space, threshold, variant, kernels)
    return _linear.Teacher(baseline, reinforced, strength, space, threshold, variant, kernels)


def _check_heads(**heads: _linear.Head) -> None:
    first = next(iter(heads.values()))
    for name, (hidden, weight, bias) in heads.items():
        if not hidden.is_floating_point() or hidden.dtype != weight.dtype:
            wanted, got = f"{name}_hidden and {name}_head of one floating dtype", f"{hidden.dtype} and {weight.dtype}"
            raise InputError(wanted, got, "convert one with .to()")
        if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
            wanted = f"{name}_hidden [tokens, hidden] and {name}_head [vocab, hidden]"
            raise InputError(wanted, f"{list(hidden.shape)} and {list(weight.shape)}", "flatten batch and length")
        shape = len(hidden), len(weight)
        if shape != (len(first.hidden), len(first.weight)):
            wanted = f"{name} with the tokens and vocabulary of {next(iter(heads))}"
            got = f"{shape[0]} x {shape[1]} and {len(first.hidden)} x {len(first.weight)}"
            raise InputError(wanted, got, "trim a padded head to the common vocabulary")
        _check_fits(f"{name}_head", weight, tuple(weight.shape), first.hidden)
        _check_fits(f"{name}_bias", bias, (shape[1],), first.hidden)


def _check_fits(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """Refuse an optional tensor of another shape, on another device, or of another dtype if that matters."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"{name} of shape {list(shape)}", str(list(tensor.shape)), "give one for each, or leave it out"
        )
    if tensor.device != like.device:
        raise InputError(f"{name} on {like.device}", str(tensor.device), "move it with .to()")
    if dtype is not None and tensor.dtype != dtype:
        raise InputError(f"{name} of {dtype}", str(tensor.dtype), f"convert it with .to({dtype})")
