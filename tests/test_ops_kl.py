"""The KL to wanted logits and its gradient, on every backend, alone and behind ``linear_generic_kl``."""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from generic_logits import ops
from generic_logits.errors import InputError
from generic_logits.ops import correct_logits, fused_torch, linear, linear_generic_argmax, linear_generic_kl, reference

INF, NAN = math.inf, math.nan
EPS = torch.finfo(torch.float32).eps
BACKENDS = ("torch", "triton") if find_spec("triton") else ("torch",)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="needs triton")
pytestmark = pytest.mark.usefixtures("interpreter", "poisoned")


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Cut rows of a few hundred columns into many blocks."""
    monkeypatch.setattr(fused_torch, "CPU_BLOCK", 256)
    if find_spec("triton"):
        monkeypatch.setattr(ops._kernels("triton"), "BLOCK", 64)


def kernels(backend: str) -> ModuleType:
    return ops._kernels(backend)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Logits of a student and of what it is drawn to, float32."""
    student = torch.randn(shape) * 4
    return student, student + torch.randn(shape) * 2


def found(
    backend: str, student: Tensor, wanted: Tensor, weights: Tensor, *, temperature: float = 1.0, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Sum and gradient as the backend gives them."""
    logits = student.clone()
    total = kernels(backend).kl_(logits, wanted.clone(), weights, temperature=temperature, reverse=reverse)
    return total, logits


def plain(student: Tensor, wanted: Tensor, weights: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Sum and gradient of the plain expression, in the dtype of the student."""
    student = student.detach().clone().requires_grad_()
    total = (reference.kl(student, wanted.to(student.dtype), **options) * weights).sum()
    return total.detach(), torch.autograd.grad(total, student)[0]


def assert_errs_no_more(ours: Tensor, same_dtype: Tensor, exact: Tensor) -> None:
    error, of_same_dtype = ((each.double() - exact).norm() for each in (ours, same_dtype))
    assert error <= 1.5 * of_same_dtype + 4 * EPS * exact.norm()


# --- the operation ----------------------------------------------------------------------------------------------------


@each_backend
@each_way
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("vocab", [3, 1003, 9001])
def test_sum_and_gradient_err_no_more_than_the_plain_expression(backend, reverse, temperature, vocab):
    student, wanted = pair(5, vocab)
    student[1] += 90.0  # the constant of a row says nothing
    weights = torch.tensor([1.0, 0.5, 0.0, 3.0, 0.25])
    options = {"temperature": temperature, "reverse": reverse}
    ours = found(backend, student, wanted, weights, **options)
    same_dtype = plain(student, wanted, weights, **options)
    exact = plain(student.double(), wanted, weights, **options)
    for one, other, truth in zip(ours, same_dtype, exact, strict=True):
        assert one.dtype == torch.float32
        assert_errs_no_more(one, other, truth)
    assert not ours[1][2].any()


@each_backend
@each_way
def test_a_student_that_is_there_stays_there(backend, reverse):
    student, _ = pair(3, 1003)
    wanted = student - 7.0
    total, gradient = found(backend, student, wanted, torch.ones(3), reverse=reverse)
    assert abs(total.item()) <= 3e-5 and gradient.abs().max() <= 1e-6


@each_backend
@each_way
@pytest.mark.usefixtures("small_blocks")
def test_bans_are_no_trouble_where_the_kl_is_finite(backend, reverse):
    student, wanted = pair(6, 203)
    student[1, 50:], wanted[1, 50:] = -INF, -INF  # padding: a part of a block, and whole blocks
    first, second = (student, wanted) if reverse else (wanted, student)
    first[2, ::3] = -INF  # never said by the first of the two,
    first[3, 64:128] = -INF
    first[4, 1:] = -INF  # which may be sure
    first[5, 64:192] = -INF
    second[5, 70:150] = -INF
    options = {"temperature": 0.7, "reverse": reverse}
    total, gradient = found(backend, student, wanted, torch.ones(6), **options)
    exact = reference.kl(student.double(), wanted.double(), **options).sum()
    torch.testing.assert_close(total.double(), exact, rtol=1e-6, atol=0)
    q, p = ((each.double() / 0.7).softmax(-1) for each in (student, wanted))
    if reverse:
        gap = (q.log() - p.log()).masked_fill(q == 0, 0)
        expected = q * (gap - (q * gap).sum(-1, keepdim=True)) / 0.7
    else:
        expected = (q - p) / 0.7
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


@each_backend
@each_way
@pytest.mark.usefixtures("small_blocks")
def test_what_one_says_and_the_other_bans_is_infinite(backend, reverse):
    for column in (3, 100, 202):
        student, wanted = pair(2, 203)
        (wanted if reverse else student)[1, column] = -INF
        total, gradient = found(backend, student, wanted, torch.ones(2), reverse=reverse)
        assert total == INF
        assert gradient[0].isfinite().all()
        first = student if reverse else wanted
        for lower in (0.0, 60.0):  # all that is near it, too
            first[1, 64:128] -= lower
            first[1, column] = -150.0  # a probability of 0 in float32
            total, gradient = found(backend, student, wanted, torch.ones(2), reverse=reverse)
            assert total.isfinite() and gradient.isfinite().all()


@each_backend
@each_way
@pytest.mark.usefixtures("small_blocks")
def test_blocks_may_lie_far_apart(backend, reverse):
    student, wanted = pair(3, 203)
    lowest = torch.finfo(torch.float32).min
    student[0, 64:] -= 300.0
    wanted[0, 128:] -= 200.0
    (student if reverse else wanted)[1, 64:128] -= 300.0
    (wanted if reverse else student)[1, 64:128] = lowest  # some ban with the lowest number
    student[2, 64:], wanted[2, 64:] = lowest, lowest
    options = {"temperature": 1.0, "reverse": reverse}
    total, gradient = found(backend, student, wanted, torch.ones(3), **options)
    expected = plain(student.double(), wanted, torch.ones(3), **options)
    torch.testing.assert_close(total.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-5, atol=1e-6)


@each_backend
@each_way
@pytest.mark.usefixtures("small_blocks")
def test_nan_and_rows_without_a_token_come_through(backend, reverse):
    for number, value in itertools.product((0, 1), (NAN, -INF)):
        both = pair(3, 203)
        both[number][1, 70 if value != value else slice(None)] = value
        total, gradient = found(backend, *both, torch.ones(3), reverse=reverse)
        assert total.isnan() and gradient[1].isnan().any()
        assert gradient[::2].isfinite().all()


@each_backend
@each_way
@pytest.mark.usefixtures("small_blocks")
def test_strides_are_free(backend, reverse):
    student, wanted = pair(5, 203)
    weights = torch.rand(10)[::2]
    total, gradient = found(backend, student, wanted, weights.clone(), reverse=reverse)
    room = torch.full((203, 15), NAN)
    logits = room.t()[::3]
    logits.copy_(student)
    apart = torch.full((5, 406), NAN)
    apart[:, ::2] = wanted
    other = kernels(backend).kl_(logits, apart[:, ::2], weights, temperature=1.0, reverse=reverse)
    torch.testing.assert_close(other, total)
    torch.testing.assert_close(logits, gradient)
    assert room.isnan().sum() == 203 * 10


@each_backend
def test_no_row_is_a_sum_of_0(backend):
    nothing = torch.zeros(0, 7)
    assert found(backend, nothing, nothing, torch.zeros(0))[0].item() == 0


# --- behind the heads -------------------------------------------------------------------------------------------------


def heads(tokens: int, vocab: int, dtype: torch.dtype) -> list[Tensor]:
    """Hidden states and weights of student, which learns, baseline and reinforced."""
    parts = [
        part
        for width in (24, 16, 20)
        for part in ((torch.randn(tokens, width) * 1.5).to(dtype), (torch.randn(vocab, width) * 0.3).to(dtype))
    ]
    return [part.requires_grad_(number < 2) for number, part in enumerate(parts)]


def plain_loss(parts: list[Tensor], alpha: Any, bias: Tensor, space: str, **options: Any) -> Tensor:  # [tokens]
    student, b, r = (h @ w.t() + bias for h, w in zip(parts[::2], parts[1::2], strict=True))
    return reference.kl(student, correct_logits(b, r, alpha, space=space, backend="reference"), **options)


@each_backend
@each_way
@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize(
    ("dtype", "allowed", "vocab"),
    [(torch.float32, 2e-6, 1003), (torch.float32, 2e-6, 5003), (torch.bfloat16, 0.02, 1003)],
)
def test_loss_and_gradients_are_right(monkeypatch, backend, reverse, space, dtype, allowed, vocab):
    monkeypatch.setattr(linear, "_FEW", 4)
    parts, bias = heads(14, vocab, dtype), torch.zeros(vocab, dtype=dtype)
    bias[-3:] = -INF
    alpha, weights, mask = torch.rand(14) * 2, torch.rand(14), torch.arange(14) % 5 != 1
    alpha[3] = 0
    options = {"temperature": 1.3, "reverse": reverse}
    of = dict.fromkeys(("student_bias", "baseline_bias", "reinforced_bias"), bias)
    ours = linear_generic_kl(*parts, alpha, **of, mask=mask, weights=weights, space=space, backend=backend, **options)
    doubles = [part.detach().double().requires_grad_(number < 2) for number, part in enumerate(parts)]
    without = [part if number % 2 == 0 else part[:-3] for number, part in enumerate(doubles)]
    truth = (plain_loss(without, alpha.double(), bias[:-3].double(), space, **options) * weights)[mask].mean()
    assert abs(ours.item() - truth.item()) <= allowed * truth.item()
    for one, exact in zip(torch.autograd.grad(ours, parts[:2]), torch.autograd.grad(truth, doubles[:2]), strict=True):
        assert (one.double() - exact).norm() <= allowed * exact.norm()


@each_backend
def test_labels_are_those_of_the_corrected_logits(monkeypatch, backend):
    monkeypatch.setattr(linear, "_FEW", 4)
    parts = [part.detach() for part in heads(9, 1003, torch.float32)]
    b, r = parts[2] @ parts[3].t(), parts[4] @ parts[5].t()
    for space in ("logits", "logprobs"):
        expected = correct_logits(b, r, 1.5, space=space, backend="reference").argmax(-1)
        assert linear_generic_argmax(*parts[2:], 1.5, space=space, backend=backend).equal(expected)


@each_backend
def test_alpha_0_is_the_baseline_alone(backend):
    parts = heads(5, 1003, torch.float32)
    wanted = parts[2] @ parts[3].t()
    parts[4].fill_(NAN)
    expected = reference.kl(parts[0] @ parts[1].t(), wanted, temperature=1.0, reverse=False).mean()
    torch.testing.assert_close(linear_generic_kl(*parts, 0, backend=backend), expected)


# --- the choice of backend --------------------------------------------------------------------------------------------


class OnCuda(Tensor):
    """Stands for a tensor on a GPU."""

    is_cuda = True


def chosen(hidden: Tensor, backend: Any = "auto", *others: Tensor) -> ModuleType:
    head = linear.Head(hidden, torch.zeros(7, hidden.shape[1], dtype=hidden.dtype), None)
    return ops._teacher(head, head, 1.0, "logits", 0.0, "relu", backend, *others).kernels


@needs_triton
def test_the_kernels_work_on_cuda_in_float32():
    on_cpu, on_cuda = torch.zeros(5, 3), torch.zeros(5, 3).as_subclass(OnCuda)
    assert chosen(on_cuda, "auto", on_cpu.clone().requires_grad_()) is kernels("triton")
    assert chosen(on_cuda.bfloat16()) is chosen(on_cpu, "triton") is kernels("triton")
    assert chosen(on_cpu) is chosen(on_cuda, "torch") is fused_torch
    assert chosen(on_cuda.double()) is chosen(on_cuda, "auto", on_cpu.double()) is fused_torch
    assert chosen(on_cpu.double(), "triton") is fused_torch


def test_without_triton_its_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(ops, "_has_triton", lambda: False)
    assert chosen(torch.zeros(5, 3).as_subclass(OnCuda)) is fused_torch
    with pytest.raises(InputError, match="wanted triton for backend='triton'; got no such package"):
        chosen(torch.zeros(5, 3), "triton")


def test_the_plain_expression_is_none_of_the_backends():
    parts = heads(5, 7, torch.float32)
    for function, given in ((linear_generic_kl, parts), (linear_generic_argmax, parts[2:])):
        with pytest.raises(InputError, match="wanted backend to be one of auto, torch, triton; got 'reference'"):
            function(*given, 1.0, backend="reference")
