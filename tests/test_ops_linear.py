"""Operators on hidden states: against the plain expression on whole logits, in float64 and in what models use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from generic_logits.errors import InputError
from generic_logits.ops import (
    correct_logits,
    fused_torch,
    linear,
    linear_generic_argmax,
    linear_generic_kl,
    linear_soft_kl,
    reference,
)

INF, NAN = math.inf, math.nan
FORMS = [  # space, variant, threshold
    ("logits", "relu", 0.0),
    ("logits", "relu", 0.5),
    ("logits", "linear", 0.0),
    ("logprobs", "relu", 0.2),
]
each_form = pytest.mark.parametrize(("space", "variant", "threshold"), FORMS)
each_way = pytest.mark.parametrize("reverse", [False, True])


pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Several chunks of several blocks, whatever the size, and a last one that is not full."""
    monkeypatch.setattr(linear, "_FEW", 3)
    monkeypatch.setattr(fused_torch, "CPU_BLOCK", 32)


def heads(
    tokens: int, vocab: int, *, hidden: tuple[int, int, int] = (6, 5, 4), dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Hidden states and weights of student, baseline and reinforced; no tensor is contiguous."""
    pairs = [
        (torch.randn(width, tokens, dtype=torch.float64).t(), torch.randn(width, vocab, dtype=torch.float64).t())
        for width in hidden
    ]
    return [(each * (1.5 if number % 2 == 0 else 1)).to(dtype) for pair in pairs for number, each in enumerate(pair)]


def plain_teacher(parts: list[Tensor], alpha: Any, biases: Any = (None, None), **form: Any) -> Tensor:
    b, r = (
        h @ w.t() + (0 if bias is None else bias) for h, w, bias in zip(parts[2::2], parts[3::2], biases, strict=True)
    )
    return correct_logits(b, r, alpha, backend="reference", **form)


def plain_kl(
    parts: list[Tensor], alpha: Any, *, temperature: float = 1.0, reverse: bool = False, **form: Any
) -> Tensor:
    """``reference.kl`` of each token, [tokens]."""
    student = parts[0] @ parts[1].t()
    return reference.kl(student, plain_teacher(parts, alpha, **form), temperature=temperature, reverse=reverse)


def gradients(loss: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, parts)


def learning(parts: list[Tensor]) -> list[Tensor]:
    return [part.detach().clone().requires_grad_(number < 2) for number, part in enumerate(parts)]


# --- the KL and its gradients -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@each_form
@each_way
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_are_those_of_the_plain_expression(space, variant, threshold, reverse, masked):
    form: dict[str, Any] = {"space": space, "variant": variant, "threshold": threshold}
    parts = learning(heads(11, 13))
    mask, weights = torch.rand(11) < 0.6, torch.rand(11, dtype=torch.float64)
    options: dict[str, Any] = {"temperature": 1.7, "reverse": reverse}
    counted = mask if masked else torch.ones(11, dtype=torch.bool)
    expected = 2.5 * (plain_kl(parts, 1.3, **options, **form) * weights)[counted].mean()
    found = 2.5 * linear_generic_kl(*parts, 1.3, mask=mask if masked else None, weights=weights, **options, **form)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(found, parts[:2]), gradients(expected, parts[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("small_chunks")
@each_way
@pytest.mark.parametrize("space", ["logits", "logprobs"])
def test_gradcheck(space, reverse):
    parts, bias = learning(heads(7, 9)), torch.randn(9, dtype=torch.float64, requires_grad=True)
    mask, weights = torch.tensor([1, 1, 0, 1, 0, 1, 1], dtype=torch.bool), torch.rand(7, dtype=torch.float64)

    def loss(hidden: Tensor, weight: Tensor, of_student: Tensor) -> Tensor:
        options = {"temperature": 0.7, "reverse": reverse, "mask": mask, "weights": weights, "space": space}
        return 3 * linear_generic_kl(hidden, weight, *parts[2:], 1.3, student_bias=of_student, **options)

    assert torch.autograd.gradcheck(loss, (parts[0], parts[1], bias))


@pytest.mark.usefixtures("small_chunks")
def test_one_head_for_all_three_and_an_alpha_for_each_token():
    parts, alpha = learning(heads(11, 13, hidden=(5, 5, 5))), torch.rand(11) * 3
    alpha[[2, 7]] = 0
    shared = [part if number % 2 == 0 else parts[1] for number, part in enumerate(parts)]
    apart = [part if number < 2 else part.detach() for number, part in enumerate(shared)]  # a teacher does not learn
    expected, found = plain_kl(apart, alpha.double()).mean(), linear_generic_kl(*shared, alpha)
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, parts[:2]), gradients(expected, parts[:2]), strict=True):
        torch.testing.assert_close(one, other)


def test_alpha_0_is_the_baseline_alone():
    parts = heads(5, 7)
    parts[4].fill_(NAN)
    expected = reference.kl(parts[0] @ parts[1].t(), parts[2] @ parts[3].t(), temperature=1.0, reverse=False).mean()
    torch.testing.assert_close(linear_generic_kl(*parts, 0), expected)
    assert linear_generic_argmax(*parts[2:], 0.0).equal((parts[2] @ parts[3].t()).argmax(-1))


@each_way
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, 2e-6), (torch.bfloat16, 2.5e-2), (torch.float16, 4e-3)], ids=str
)
@pytest.mark.parametrize(("tokens", "vocab"), [(130, 1003), (70, 50257)])
def test_gradients_are_right_to_the_precision_of_the_inputs(tokens, vocab, dtype, allowed, reverse):
    made = [part * (0.2 if number % 2 else 1) for number, part in enumerate(heads(tokens, vocab, hidden=(64, 48, 32)))]
    parts = learning([part.to(dtype) for part in made])
    truth = learning([part.detach().double() for part in parts])
    found = linear_generic_kl(*parts, 1.5, reverse=reverse, space="logprobs")
    expected = plain_kl(truth, 1.5, reverse=reverse, space="logprobs").mean()
    assert found.dtype == torch.float32
    assert abs(found.item() - expected.item()) <= allowed * expected.item()
    of_found, of_truth = gradients(found, parts[:2]), gradients(expected, truth[:2])
    of_plain = gradients(plain_kl(parts, 1.5, reverse=reverse, space="logprobs").mean(), parts[:2])
    for ours, plain, exact in zip(of_found, of_plain, of_truth, strict=True):
        assert ours.dtype == dtype
        error, of_same_dtype = ((each.double() - exact).norm() / exact.norm() for each in (ours, plain))
        assert error <= allowed
        assert error <= 1.5 * of_same_dtype + torch.finfo(torch.float32).eps


@pytest.mark.usefixtures("small_chunks")
def test_the_heads_gradient_is_summed_in_float32():
    tokens = 3 * 400  # chunks that each add too little for bfloat16 to notice
    parts = learning([torch.ones(tokens, 1), torch.tensor([[0.5], [-0.5]]), *heads(tokens, 2)[2:]])
    parts = learning([part.bfloat16() for part in parts])
    (_, found) = gradients(linear_generic_kl(*parts, 1.0), parts[:2])
    truth = learning([part.detach().double() for part in parts])
    (_, exact) = gradients(plain_kl(truth, 1.0).mean(), truth[:2])
    assert ((found.double() - exact).norm() / exact.norm()) <= 1e-2


def test_a_scaled_loss_in_float16_loses_nothing_to_underflow():
    tokens, scale = 400, 2.0**14
    made = [part * (0.1 if number % 2 else 1) for number, part in enumerate(heads(tokens, 1003, hidden=(64, 48, 32)))]
    parts = learning([part.half() for part in made])
    truth = learning([part.detach().double() for part in parts])
    found = gradients(scale * linear_generic_kl(*parts, 1.5), parts[:2])
    exact = gradients(scale * plain_kl(truth, 1.5).mean(), truth[:2])
    for one, other in zip(found, exact, strict=True):
        assert (one.double() - other).norm() <= 4e-3 * other.norm()


def test_teachers_get_no_gradient_and_a_frozen_head_none_either():
    parts = [part.requires_grad_() for part in heads(5, 7)]
    linear_generic_kl(*parts, 1.0).backward()
    assert [part.grad is not None for part in parts] == [True, True, False, False, False, False]
    parts = [part.detach().requires_grad_(number == 0) for number, part in enumerate(parts)]
    loss = linear_generic_kl(*parts, 1.0)
    loss.backward()
    assert parts[0].grad is not None and parts[1].grad is None
    with torch.no_grad():
        assert not linear_generic_kl(*parts, 1.0).requires_grad


def test_one_loss_can_be_used_twice():
    parts = learning(heads(5, 7))
    loss = linear_generic_kl(*parts, 1.0)
    once = gradients(plain_kl(parts, 1.0).mean(), parts[:2])
    for factor in (1.0, -3.0, 1.0):
        found = torch.autograd.grad(factor * loss, parts[:2], retain_graph=True)
        for one, other in zip(found, once, strict=True):
            torch.testing.assert_close(one, factor * other)
    (loss + loss * loss).backward()
    torch.testing.assert_close(parts[1].grad, (1 + 2 * loss.item()) * once[1])


def test_no_token_that_counts_is_a_loss_of_0():
    for parts, mask in ((learning(heads(5, 7)), torch.zeros(5, dtype=torch.bool)), (learning(heads(0, 7)), None)):
        loss = linear_generic_kl(*parts, 1.0, mask=mask)
        loss.backward()
        assert loss.item() == 0 and not parts[0].grad.any() and not parts[1].grad.any()


def test_masked_tokens_are_not_looked_at():
    parts, mask = learning(heads(6, 7)), torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    expected = linear_generic_kl(*parts, 1.0, mask=mask)
    with torch.no_grad():
        for part in parts[::2]:
            part[~mask] = NAN
    found = linear_generic_kl(*parts, 1.0, mask=mask)
    assert found.item() == expected.item()
    of_hidden, of_head = gradients(found, parts[:2])
    assert of_head.isfinite().all() and not of_hidden[~mask].any() and of_hidden[mask].all()


def biases(vocab: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Four padded columns for all three, and columns that one alone bans."""
    made = {f"{name}_bias": torch.randn(vocab, dtype=dtype) for name in ("student", "baseline", "reinforced")}
    for number, bias in enumerate(made.values()):
        bias[-4:] = -INF
        if number:
            bias[number] = -INF
    return made


@pytest.mark.usefixtures("small_chunks")
@each_form
def test_banned_tokens_are_banned_and_nothing_is_nan(space, variant, threshold):
    form: dict[str, Any] = {"space": space, "variant": variant, "threshold": threshold}
    parts, of = learning(heads(9, 15)), biases(15, torch.float64)
    teacher = plain_teacher(parts, 1.3, (of["baseline_bias"], of["reinforced_bias"]), **form)
    student = parts[0] @ parts[1].t() + of["student_bias"]
    expected = reference.kl(student, teacher, temperature=1.0, reverse=False).mean()
    found = linear_generic_kl(*parts, 1.3, **of, **form)
    torch.testing.assert_close(found, expected)
    assert found.isfinite()
    for one, other in zip(gradients(found, parts[:2]), gradients(expected, parts[:2]), strict=True):
        torch.testing.assert_close(one, other)
    assert linear_generic_kl(*parts, 1.3, reverse=True, **of, **form) == INF  # the student says what is banned


def test_padding_that_all_ban_is_no_trouble_in_reverse():
    parts, bias = learning(heads(9, 15)), torch.zeros(15, dtype=torch.float64)
    bias[-4:] = -INF
    of = {f"{name}_bias": bias for name in ("student", "baseline", "reinforced")}
    found = linear_generic_kl(*parts, 1.3, reverse=True, **of)
    without = [part if number % 2 == 0 else part[:-4] for number, part in enumerate(parts)]
    torch.testing.assert_close(found, linear_generic_kl(*without, 1.3, reverse=True))
    assert all(each.isfinite().all() for each in gradients(found, parts[:2]))


def test_nan_comes_through():
    parts = heads(5, 7)
    parts[2][3, 0] = NAN
    assert linear_generic_kl(*parts, 1.0).isnan()
    assert (linear_generic_argmax(*parts[2:], 1.0) == -1).tolist() == [False, False, False, True, False]


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@each_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_labels_are_the_best_tokens_of_the_corrected_logits(space, variant, threshold, dtype):
    form: dict[str, Any] = {"space": space, "variant": variant, "threshold": threshold}
    parts = heads(67, 1003, dtype=dtype)
    of = {name: bias for name, bias in biases(1003, dtype).items() if name != "student_bias"}
    labels = linear_generic_argmax(*parts[2:], 1.3, **of, **form)
    exact = plain_teacher([part.double() for part in parts], 1.3, [bias.double() for bias in of.values()], **form)
    best, chosen = exact.max(-1).values, exact.gather(1, labels[:, None])[:, 0]
    assert labels.dtype == torch.int64
    assert (best - chosen).max() <= 16 * torch.finfo(dtype).eps * exact[exact.isfinite()].abs().max()


# --- stored targets ---------------------------------------------------------------------------------------------------


def stored(rows: int, vocab: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets of 0 to 4 tokens a row, and the rest; the last row is a hard label."""
    counts = torch.randint(0, 5, (rows,), dtype=torch.int32)
    counts[-1] = 1
    p = torch.rand(rows, 5)
    p /= p.sum(-1, keepdim=True)
    p[-1, 0] = 1
    tokens = torch.cat([torch.randperm(vocab)[:count] for count in counts.tolist()]).int()
    kept = torch.arange(5) < counts[:, None]
    return counts, tokens, p[kept].log(), torch.where(counts == 1, 1 - p[:, 0], (p * ~kept).sum(-1))


@pytest.mark.usefixtures("small_chunks")
def test_the_distance_to_stored_targets_and_its_gradients():
    hidden, weight = learning(heads(11, 13))[:2]
    bias, weights = torch.randn(13, dtype=torch.float64, requires_grad=True), torch.rand(11)
    targets = stored(11, 13)
    each = reference.soft_kl(
        hidden @ weight.t() + bias, *(part.double() if part.is_floating_point() else part for part in targets)
    )
    expected, found = (
        3 * (each * weights).mean(),
        3 * linear_soft_kl(hidden, weight, *targets, student_bias=bias, weights=weights),
    )
    torch.testing.assert_close(found, expected)
    parts = [hidden, weight, bias]
    for one, other in zip(gradients(found, parts), gradients(expected, parts), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_soft_kl(h, w, *targets, student_bias=b, weights=weights), tuple(parts)
    )


def test_a_hard_label_is_cross_entropy():
    hidden, weight = learning(heads(6, 9))[:2]
    labels, zeros = torch.randint(9, (6,)), torch.zeros(6)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.t(), labels)
    found = linear_soft_kl(hidden, weight, torch.ones(6, dtype=torch.int32), labels, zeros, zeros)
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, [hidden, weight]), gradients(expected, [hidden, weight]), strict=True):
        torch.testing.assert_close(one, other)


def test_no_position_is_a_distance_of_0():
    hidden, weight = learning(heads(0, 9))[:2]
    nothing = torch.zeros(0)
    loss = linear_soft_kl(hidden, weight, nothing.int(), nothing.int(), nothing, nothing)
    loss.backward()
    assert loss.item() == 0 and not weight.grad.any()


# --- memory -----------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The largest tensor with a side of ``vocab`` elements that any operation gave out, in rows of that width."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.rows = vocab, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        for each in tree_leaves(given):
            if isinstance(each, Tensor) and self.vocab in each.shape:
                self.rows = max(self.rows, each.numel() // self.vocab)
        return given


TOKENS, VOCAB = 1024, 1003


def every_loss(parts: list[Tensor]) -> dict[str, Callable[[], Any]]:
    targets = stored(TOKENS, VOCAB)
    return {
        "argmax": lambda: linear_generic_argmax(*parts[2:], 1.0),
        "kl": lambda: linear_generic_kl(*parts, 1.0).backward(),
        "reverse kl": lambda: linear_generic_kl(*parts, 1.0, reverse=True, mask=torch.ones(TOKENS).bool()).backward(),
        "soft kl": lambda: linear_soft_kl(parts[0], parts[1], *targets).backward(),
    }


@pytest.mark.parametrize("name", ["argmax", "kl", "reverse kl", "soft kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_tensor_holds_a_row_of_the_vocabulary_for_each_token(name, dtype):
    parts = learning(heads(TOKENS, VOCAB, dtype=dtype))
    with Largest(VOCAB) as seen:
        every_loss(parts)[name]()
    assert 0 < seen.rows <= TOKENS // 12
    with Largest(VOCAB) as seen:
        plain_kl(parts, 1.0).mean().backward()
    assert seen.rows == TOKENS


def test_a_chunk_is_a_small_part_of_the_tokens_and_never_larger_than_its_room():
    device = torch.device("cpu")
    for tokens, vocab in itertools.product((1, 60, 511, 2048, 100_000), (11, 1003, 128_256, 1 << 26)):
        height = linear.chunk_height(tokens, vocab, device)
        assert 1 <= height <= max(64, tokens // 12) and height <= max(1, tokens)
        assert height == 1 or height * vocab <= linear.CPU_CHUNK
    assert linear.chunk_height(2048, 128_256, device) == 170


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(**changes: Any) -> dict[str, Any]:
    names = [f"{name}_{part}" for name in ("student", "baseline", "reinforced") for part in ("hidden", "head")]
    return {**dict(zip(names, heads(5, 7), strict=True)), "alpha": 1.0, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_hidden": torch.zeros(5, 6)}, "student_hidden and student_head of one floating dtype"),
        (
            {"student_hidden": torch.zeros(5, 3).double()},
            "student_hidden [tokens, hidden] and student_head [vocab, hid",
        ),
        ({"baseline_hidden": torch.zeros(1, 5, 5).double()}, "got [1, 5, 5] and [7, 5]; flatten batch and length"),
        ({"baseline_hidden": torch.zeros(4, 5).double()}, "got 4 x 7 and 5 x 7; trim a padded head"),
        (
            {"reinforced_head": torch.zeros(8, 4).double()},
            "wanted reinforced with the tokens and vocabulary of student",
        ),
        ({"reinforced_bias": torch.zeros(8)}, "wanted reinforced_bias of shape [7]; got [8]"),
        ({"mask": torch.ones(5)}, "wanted mask of torch.bool; got torch.float32; convert it"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, "wanted mask of shape [5]; got [4]"),
        ({"weights": torch.ones(5, 1)}, "wanted weights of shape [5]; got [5, 1]"),
        ({"weights": torch.ones(5, device="meta")}, "wanted weights on cpu; got meta"),
        ({"temperature": 0.0}, "wanted a finite temperature above 0; got 0.0; 1 leaves"),
        ({"alpha": -1.0}, "wanted a finite alpha >= 0"),
        ({"alpha": torch.ones(4)}, "wanted one alpha for each row: [5]; got [4]"),
        ({"space": "probs"}, "wanted space to be one of logits, logprobs"),
        ({"threshold": -1.0}, "wanted a finite threshold >= 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError) as error:
        linear_generic_kl(**refused(**changes))
    assert message in str(error.value)


def test_targets_that_do_not_fit_are_refused():
    hidden, weight = heads(5, 7)[:2]
    counts, tokens, log_probs, rest = stored(5, 7)
    with pytest.raises(InputError, match="wanted counts of shape"):
        linear_soft_kl(hidden, weight, counts[1:], tokens, log_probs, rest)
    with pytest.raises(InputError, match="wanted log_probs of shape"):
        linear_soft_kl(hidden, weight, counts, tokens, log_probs[1:], rest)
