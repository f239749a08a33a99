"""The correction itself: every backend against a statement of the formula that shares no code with them."""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.ops import check_alpha, check_correction, correct_logits, fused_torch

pytestmark = pytest.mark.usefixtures("interpreter")

INF, NAN = math.inf, math.nan
BACKENDS = ("reference", "torch", "triton") if find_spec("triton") else ("reference", "torch")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FORMS = [  # space, variant, threshold
    ("logits", "relu", 0.0),
    ("logits", "relu", 0.5),
    ("logits", "linear", 0.0),
    ("logprobs", "relu", 0.0),
    ("logprobs", "relu", 0.5),
    ("logprobs", "linear", 0.0),
]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_form = pytest.mark.parametrize(("space", "variant", "threshold"), FORMS)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let small tensors be many blocks: of rows, and of columns where a row is wide."""
    monkeypatch.setattr(fused_torch, "CPU_BLOCK", 1 << 14)


def exact(tensor: Tensor) -> np.ndarray:
    """The tensor's values in the widest float that the machine has, at least float64."""
    return tensor.detach().to(torch.float64).numpy().astype(np.longdouble)


def log_sum(x: np.ndarray) -> np.ndarray:  # [..., 1]
    top = np.where(np.isinf(x.max(-1, keepdims=True)), 0, x.max(-1, keepdims=True))
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(x - top).sum(-1, keepdims=True))


def stated(
    baseline: Tensor, reinforced: Tensor, alpha: float | Tensor, space: str, variant: str, threshold: float
) -> np.ndarray:
    """The formula in words: what rose is lowered by alpha times its rise; bans stay, a -inf in r is no rise."""
    b, r = exact(baseline), exact(reinforced)
    a = exact(alpha)[..., None] if isinstance(alpha, Tensor) else np.longdouble(alpha)
    with np.errstate(invalid="ignore"):
        rise = (r - log_sum(r)) - (b - log_sum(b)) if space == "logprobs" else r - b
        if variant == "relu":
            rise = np.where(rise > threshold, rise - threshold, 0)
        v = np.where(np.isneginf(b) | np.isneginf(r), b, b - a * rise)
    v = np.where(np.isnan(b) | np.isnan(r), np.nan, v)
    return np.where(a == 0, b, v)


def scores(*shape: int, dtype: torch.dtype = torch.float32, bans: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two related score tensors; a tenth of each is -inf, in places at the same token."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(*shape, generator=generator, dtype=torch.float64) * 4
    r = b + torch.randn(*shape, generator=generator, dtype=torch.float64) * 2
    if bans:
        b[torch.rand(*shape, generator=generator) < 0.1] = -INF
        r[torch.rand(*shape, generator=generator) < 0.1] = -INF
    return b.to(dtype), r.to(dtype)


def worst_error(result: Tensor, truth: np.ndarray) -> float:
    """Largest absolute error; infinities and NaN must stand where they should."""
    got = exact(result)
    assert np.array_equal(np.isnan(got), np.isnan(truth))
    assert np.array_equal(np.isneginf(got), np.isneginf(truth))
    finite = np.isfinite(truth)
    return float(np.abs(got[finite] - truth[finite]).max(initial=0))


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Equal but for the order in which a row is summed."""
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-5, equal_nan=True)


def rounding(dtype: torch.dtype, scale: float) -> float:
    """A few roundings of the arithmetic that runs behind a dtype: float64 for itself, float32 for all others."""
    return 8 * torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps * scale


# --- the formula ------------------------------------------------------------------------------------------------------


@each_form
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "vocab"), [(130, 1003), (3, 50257)])
def test_reference_is_the_formula_and_fused_errs_no_more(rows, vocab, dtype, space, variant, threshold):
    b, r = scores(rows, vocab, dtype=dtype)
    b[1], r[2] = -INF, -INF
    alpha = 1.7
    truth = stated(b, r, alpha, space, variant, threshold)
    options = {"space": space, "variant": variant, "threshold": threshold}
    reference = correct_logits(b, r, alpha, backend="reference", **options)
    assert reference.dtype == dtype

    scale = float(np.abs(truth[np.isfinite(truth)]).max())
    allowed = worst_error(reference, truth)
    assert allowed <= torch.finfo(dtype).eps * scale * 8
    for backend in BACKENDS[1:]:
        fused = correct_logits(b, r, alpha, backend=backend, **options)
        assert fused.dtype == dtype
        assert worst_error(fused, truth) <= allowed + rounding(dtype, scale)


@each_backend
def test_a_row_wider_than_a_block_is_corrected_to_its_end(backend):
    vocab = 128256
    assert vocab > fused_torch.CPU_BLOCK
    b, r = scores(2, vocab, dtype=torch.bfloat16)
    for space in ("logits", "logprobs"):
        truth = stated(b, r, 2.0, space, "relu", 0.0)
        result = correct_logits(b, r, 2.0, space=space, backend=backend)
        assert worst_error(result, truth) <= torch.finfo(torch.bfloat16).eps * float(np.abs(truth[b.isfinite()]).max())


@each_backend
def test_the_difference_is_taken_in_float32_for_half_precision(backend):
    b = torch.tensor([[20.125, -3.0]], dtype=torch.bfloat16)
    r = torch.tensor([[20.25, -3.0]], dtype=torch.bfloat16)  # the next number that bfloat16 has
    result = correct_logits(b, r, 0.9, threshold=0.1, backend=backend)
    assert result[0, 0].item() == torch.tensor(20.125 - 0.9 * 0.025).bfloat16().item()
    half = torch.full((1, 4), 6e4, dtype=torch.float16)
    assert correct_logits(-half, half, 1.0, backend=backend).tolist() == [[-INF] * 4]  # beyond float16, not NaN
    assert correct_logits(half, -half, 1.0, backend=backend).equal(half)


@each_backend
@each_form
def test_a_ban_in_either_input_is_respected(backend, space, variant, threshold):
    b = torch.tensor([[-INF, -INF, 1.0, 2.0], [-INF] * 4, [1.0, 2.0, 3.0, 4.0], [-INF] * 4])
    r = torch.tensor([[-INF, 5.0, -INF, 9.0], [1.0, 2.0, 3.0, 4.0], [-INF] * 4, [-INF] * 4])
    v = correct_logits(b, r, 3.0, space=space, variant=variant, threshold=threshold, backend=backend)
    assert v[0, :3].equal(b[0, :3])
    assert v[1:].equal(b[1:])
    assert not v.isnan().any()


@each_backend
@each_form
@pytest.mark.parametrize("side", ["baseline", "reinforced"])
def test_nan_comes_through_and_stays_in_its_row(backend, space, variant, threshold, side):
    b, r = scores(3, 7, bans=False)
    options = {"space": space, "variant": variant, "threshold": threshold, "backend": backend}
    clean = correct_logits(b, r, 1.5, **options)
    (b if side == "baseline" else r)[1, 4] = NAN
    v = correct_logits(b, r, 1.5, **options)
    assert v[1, 4].isnan()
    assert v[[0, 2]].equal(clean[[0, 2]])
    if space == "logits":
        others = [0, 1, 2, 3, 5, 6]
        assert v[1, others].equal(clean[1, others])


@each_backend
def test_nan_beside_a_ban_is_not_hidden(backend):
    b = torch.tensor([[-INF, NAN, 0.0, NAN]])
    r = torch.tensor([[NAN, -INF, NAN, 0.0]])
    for variant in ("relu", "linear"):
        assert correct_logits(b, r, 2.0, variant=variant, backend=backend).isnan().all()


@each_backend
@each_form
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alpha_zero_is_the_baseline_bit_for_bit(backend, dtype, space, variant, threshold):
    b, r = scores(4, 1003, dtype=dtype)
    r[0, 0] = NAN
    b[1, 1] = -0.0
    zeros = (0, 0.0, torch.tensor(0.0), torch.zeros(4))
    for alpha in zeros:
        v = correct_logits(b, r, alpha, space=space, variant=variant, threshold=threshold, backend=backend)
        assert v.dtype == dtype
        assert v.equal(b)
        assert v[1, 1].signbit()
        assert v.data_ptr() != b.data_ptr()


@each_backend
@each_form
def test_each_row_has_its_own_alpha(backend, space, variant, threshold):
    rows = 70
    b, r = scores(rows, 1003)
    alpha = torch.linspace(0, 4, rows)
    alpha[::3] = 0
    r[0, 5] = NAN  # in a row that is off
    options = {"space": space, "variant": variant, "threshold": threshold, "backend": backend}
    v = correct_logits(b, r, alpha, **options)
    assert v[::3].equal(b[::3])
    for row in (1, 31, 32, 34, 64, 65, 67):
        assert_same(v[row], correct_logits(b[row], r[row], float(alpha[row]), **options))
    truth = stated(b[1:], r[1:], alpha[1:], space, variant, threshold)
    assert worst_error(v[1:], truth) < 1e-4


@each_backend
@pytest.mark.parametrize("variant", ["relu", "linear"])
@pytest.mark.parametrize("space", ["logits", "logprobs"])
def test_untouched_tokens_keep_every_bit(backend, space, variant):
    for dtype in DTYPES:
        b, r = scores(70, 1003, dtype=dtype)
        truth = stated(b, r, 2.5, space, "relu", 0.0)
        with np.errstate(invalid="ignore"):
            rise = exact(r) - exact(b)
            rise = rise - log_sum(exact(r)) + log_sum(exact(b)) if space == "logprobs" else rise
        v = correct_logits(b, r, 2.5, space=space, variant=variant, backend=backend)
        fell = torch.from_numpy((rise < -1e-3).astype(bool))
        banned = b.isneginf() | r.isneginf()
        kept = banned if variant == "linear" else banned | fell
        assert kept.sum() > 1000
        assert v[kept].equal(b[kept])
        rose = torch.from_numpy((rise > 0.5).astype(bool) & np.isfinite(truth)) & ~banned
        assert (v[rose] < b[rose]).all()


@each_backend
def test_logprobs_ignore_a_constant_added_to_a_row(backend):
    b, r = scores(5, 1003)
    plain = correct_logits(b, r, 2.0, space="logprobs", backend=backend)
    lifted = correct_logits(b, r + 13.0, 2.0, space="logprobs", backend=backend)
    torch.testing.assert_close(lifted, plain, atol=1e-4, rtol=0)
    shifted = correct_logits(b - 7.0, r, 2.0, space="logprobs", backend=backend)
    torch.testing.assert_close(shifted, plain - 7.0, atol=1e-4, rtol=0)
    normalised = correct_logits(b.log_softmax(-1), r.log_softmax(-1), 2.0, space="logits", backend=backend)
    torch.testing.assert_close(plain.log_softmax(-1), normalised.log_softmax(-1), atol=1e-4, rtol=0)
    raw = correct_logits(b, r + 13.0, 2.0, backend=backend)
    assert not torch.allclose(raw, correct_logits(b, r, 2.0, backend=backend), atol=1)  # the raw formula does not


# --- tensors of every make --------------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("lead", [(), (2, 3), (1, 1, 4), (0,)], ids=str)
def test_leading_shapes_are_kept(backend, lead):
    b, r = scores(*lead, 1003)
    alpha = torch.rand(lead) + 0.5
    v = correct_logits(b, r, alpha, space="logprobs", backend=backend)
    assert v.shape == b.shape
    for at in itertools.product(*(range(n) for n in lead)):
        assert_same(v[at], correct_logits(b[at], r[at], float(alpha[at]), space="logprobs", backend=backend))


LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@each_backend
@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(layout, space, backend):
    b, r = scores(3, 5, 1003)
    expected = correct_logits(b, r, 1.5, space=space, backend=backend)
    make = LAYOUTS[layout]
    kept = make(b).clone(), make(r).clone()
    given_b, given_r = make(b), make(r)
    assert layout == "contiguous" or not given_b.is_contiguous()
    assert_same(correct_logits(given_b, r, 1.5, space=space, backend=backend), expected)
    assert_same(correct_logits(b, given_r, 1.5, space=space, backend=backend), expected)
    assert given_b.equal(kept[0]) and given_r.equal(kept[1])  # inputs are read, not written

    out = make(torch.full_like(b, NAN))
    result = correct_logits(given_b, given_r, 1.5, space=space, out=out, backend=backend)
    assert result is out
    assert_same(out, expected)


@each_backend
@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target", ["baseline", "reinforced"])
def test_either_input_can_be_overwritten_in_place(target, layout, space, backend):
    b, r = scores(3, 11, 1003)
    expected = correct_logits(b, r, 1.5, space=space, backend=backend)
    b, r = LAYOUTS[layout](b), LAYOUTS[layout](r)
    out = b if target == "baseline" else r
    assert correct_logits(b, r, 1.5, space=space, out=out, backend=backend) is out
    assert_same(out, expected)


@each_backend
def test_an_alpha_too_small_for_the_dtype_is_zero(backend):
    b, r = torch.tensor([[-INF, 1.0]]), torch.tensor([[2.0, -INF]])
    for alpha in (1e-60, torch.tensor(1e-60, dtype=torch.float64), torch.tensor([1e-60], dtype=torch.float64)):
        assert correct_logits(b, r, alpha, backend=backend).equal(b)


@each_backend
def test_alpha_zero_fills_out(backend):
    b, r = scores(3, 11)
    out = torch.full_like(b, NAN)
    assert correct_logits(b, r, 0.0, out=out, backend=backend) is out
    assert out.equal(b)
    assert correct_logits(b, r, 0.0, out=b, backend=backend) is b


@each_backend
@each_form
def test_no_result_is_left_uninitialised(monkeypatch, backend, space, variant, threshold):
    b, r = scores(3, 1003)
    alpha = torch.tensor([0.0, 1.0, 2.0])
    options = {"space": space, "variant": variant, "threshold": threshold, "backend": backend}
    expected = correct_logits(b, r, alpha, **options)
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _make=make, **k: _make(*a, **k).fill_(NAN))
    assert torch.empty(1).isnan().all() and torch.empty_like(b).isnan().all()
    assert correct_logits(b, r, alpha, **options).equal(expected)


@each_backend
def test_the_result_has_the_dtype_of_the_baseline(backend):
    for ours, theirs in itertools.product(DTYPES, DTYPES):
        b, r = scores(2, 101, dtype=ours, bans=False)[0], scores(2, 101, dtype=theirs, bans=False)[1]
        v = correct_logits(b, r, 1.5, backend=backend)
        assert v.dtype == ours
        assert worst_error(v, stated(b, r, 1.5, "logits", "relu", 0.0)) <= torch.finfo(ours).eps * 64


# --- gradients --------------------------------------------------------------------------------------------------------


@each_form
def test_gradients_flow_to_both_models(space, variant, threshold):
    b, r = (x.requires_grad_() for x in scores(2, 9, dtype=torch.float64, bans=False))
    for alpha in (1.5, torch.tensor([0.0, 2.0], dtype=torch.float64)):
        assert torch.autograd.gradcheck(
            lambda b, r, alpha=alpha: correct_logits(b, r, alpha, space=space, variant=variant, threshold=threshold),
            (b, r),
        )
    with torch.no_grad():
        assert not correct_logits(b, r, 1.5).requires_grad


@each_form
def test_bans_do_not_poison_the_gradient(space, variant, threshold):
    b, r = (x.requires_grad_() for x in scores(4, 101, dtype=torch.float64))
    v = correct_logits(b, r, 1.5, space=space, variant=variant, threshold=threshold)
    v[v.isfinite()].sum().backward()
    assert b.grad.isfinite().all() and r.grad.isfinite().all()
    assert r.grad.any()


# --- properties -------------------------------------------------------------------------------------------------------

alphas = st.floats(0, 20, allow_subnormal=False)
numbers = st.floats(-1e4, 1e4, width=32)
specials = st.sampled_from([-INF, NAN, 0.0, -0.0])


@st.composite
def pairs(draw, elements=numbers) -> tuple[Tensor, Tensor]:
    rows, vocab = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    size = rows * vocab
    values = draw(st.lists(elements, min_size=2 * size, max_size=2 * size))
    return tuple(torch.tensor(values, dtype=torch.float32).view(2, rows, vocab))


@quick
@given(pairs(numbers | specials), alphas, st.sampled_from(["relu", "linear"]), st.sampled_from([0.0, 0.25, 3.0]))
def test_backends_agree_on_any_input(pair, alpha, variant, threshold):
    b, r = pair
    options = {"variant": variant, "threshold": threshold if variant == "relu" else 0.0}
    plain, *fused = (correct_logits(b, r, alpha, backend=backend, **options) for backend in BACKENDS)
    for each in fused:
        torch.testing.assert_close(each, plain, rtol=1e-4, atol=1e-2, equal_nan=True)


@quick
@given(pairs(numbers | st.just(-INF)), alphas, alphas, st.sampled_from(["logits", "logprobs"]))
def test_scores_only_fall_and_fall_further_with_alpha(pair, one, other, space):
    b, r = pair
    less, more = sorted((one, other))
    for backend in BACKENDS:
        mild = correct_logits(b, r, less, space=space, backend=backend)
        strong = correct_logits(b, r, more, space=space, backend=backend)
        assert (mild <= b).all()
        assert (strong <= mild + 1e-5 * mild.abs().nan_to_num(neginf=0) + 1e-5).all()


@quick
@given(pairs(numbers | specials), alphas, st.randoms(use_true_random=False))
def test_tokens_do_not_see_each_other_in_raw_space(pair, alpha, random):
    b, r = pair
    order = torch.tensor(random.sample(range(b.shape[1]), b.shape[1]))
    for backend in BACKENDS:
        v = correct_logits(b, r, alpha, backend=backend)[:, order]
        moved = correct_logits(b[:, order], r[:, order], alpha, backend=backend)
        torch.testing.assert_close(moved, v, rtol=0, atol=0, equal_nan=True)


# --- errors -----------------------------------------------------------------------------------------------------------

B = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("alpha", "got"),
    [
        (-1.0, "-1.0"),
        (NAN, "nan"),
        (INF, "inf"),
        ("strong", "'strong'"),
        (None, "None"),
        (torch.tensor(-2.0), "-2.0"),
        (torch.tensor([1.0, -3.0]), "-3.0"),
        (torch.tensor([NAN, 1.0]), "nan"),
    ],
    ids=str,
)
def test_a_bad_alpha_is_named(alpha, got):
    text = rf"^wanted a finite alpha >= 0; got {got}; 0 is the baseline, 1 to 5 is usual$"
    with pytest.raises(InputError, match=text):
        correct_logits(B, B, alpha)
    if not isinstance(alpha, Tensor):
        with pytest.raises(InputError, match=text):
            check_alpha(alpha)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((B, B, 1), {"space": "probs"}, "wanted space to be one of logits, logprobs; got 'probs'; pass space='logits'"),
        ((B, B, 1), {"variant": "abs"}, "wanted variant to be one of relu, linear; got 'abs'; pass variant='relu'"),
        (
            (B, B, 1),
            {"backend": "cuda"},
            "wanted backend to be one of auto, reference, torch, triton; got 'cuda'; pass backend='auto'",
        ),
        (
            (B, B, 1),
            {"threshold": 0.5, "variant": "linear"},
            "wanted threshold=0 with variant='linear'; got 0.5; only the ReLU variant has a threshold",
        ),
        ((B, B, 1), {"threshold": -1.0}, "wanted a finite threshold >= 0; got -1.0; 0 counts every increase"),
        ((B, B, 1), {"threshold": INF}, "wanted a finite threshold >= 0; got inf; 0 counts every increase"),
        ((B, B, 1), {"threshold": NAN}, "wanted a finite threshold >= 0; got nan; 0 counts every increase"),
        (
            (B, torch.zeros(2, 6), 1),
            {},
            "wanted baseline and reinforced of one shape [..., vocab]; got [2, 5] and [2, 6]; "
            "trim a padded head to the common vocabulary",
        ),
        (
            (torch.tensor(1.0), torch.tensor(1.0), 1),
            {},
            "wanted baseline and reinforced of one shape [..., vocab]; got [] and []; "
            "trim a padded head to the common vocabulary",
        ),
        (
            (B, B.to("meta"), 1),
            {},
            "wanted both on one device; got cpu and meta; move one with .to()",
        ),
        (
            (B.long(), B, 1),
            {},
            "wanted floating-point baseline scores; got torch.int64; pass logits, not token ids",
        ),
        (
            (B, B.int(), 1),
            {},
            "wanted floating-point reinforced scores; got torch.int32; pass logits, not token ids",
        ),
        (
            (B, B, torch.ones(3)),
            {},
            "wanted one alpha for each row: [2]; got [3]; pass a number to use one alpha for all rows",
        ),
        (
            (B, B, torch.ones(2, 1)),
            {},
            "wanted one alpha for each row: [2]; got [2, 1]; pass a number to use one alpha for all rows",
        ),
        (
            (B, B, 1),
            {"out": torch.zeros(2, 6)},
            "wanted out like baseline: [2, 5] torch.float32 on cpu; got [2, 6] torch.float32 on cpu; "
            "make it with torch.empty_like(baseline)",
        ),
        (
            (B, B, 1),
            {"out": B.double()},
            "wanted out like baseline: [2, 5] torch.float32 on cpu; got [2, 5] torch.float64 on cpu; "
            "make it with torch.empty_like(baseline)",
        ),
        (
            (B, B, 1),
            {"out": B.to("meta")},
            "wanted out like baseline: [2, 5] torch.float32 on cpu; got [2, 5] torch.float32 on meta; "
            "make it with torch.empty_like(baseline)",
        ),
    ],
)
def test_an_unusable_argument_is_named_with_the_remedy(arguments, options, text):
    with pytest.raises(InputError) as caught:
        correct_logits(*arguments, **options)
    assert str(caught.value) == text


def test_options_are_checked_even_where_alpha_is_zero():
    with pytest.raises(InputError, match="^wanted space"):
        correct_logits(B, B, 0.0, space="probs")
    with pytest.raises(InputError, match="^wanted baseline and reinforced of one shape"):
        correct_logits(B, torch.zeros(3, 5), 0.0)


def test_good_options_pass():
    assert check_alpha(2) == 2.0 and isinstance(check_alpha(2), float)
    for space, variant, threshold in FORMS:
        check_correction(space, threshold, variant)
