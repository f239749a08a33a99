"""Tokens chosen from generic logits: the likeliest, and draws, on every backend."""

from __future__ import annotations

import math

import pytest
import torch
from test_ops import BACKENDS, DTYPES, FORMS, LAYOUTS, scores
from torch import Tensor

from generic_logits.errors import InputError
from generic_logits.ops import correct_logits, generic_argmax, generic_sample

INF, NAN = math.inf, math.nan
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_form = pytest.mark.parametrize(("space", "variant", "threshold"), FORMS)
pytestmark = pytest.mark.usefixtures("interpreter")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- argmax -----------------------------------------------------------------------------------------------------------


@each_backend
@each_form
def test_the_argmax_is_that_of_the_corrected_row(backend, space, variant, threshold):
    options = {"space": space, "variant": variant, "threshold": threshold, "backend": backend}
    alpha = torch.tensor([0.0, 5.0, 6.0, 7.0])
    for dtype in DTYPES:
        b, r = (x / 8 for x in scores(4, 5003, dtype=dtype))
        r.scatter_(-1, b.argmax(-1, keepdim=True), 40.0)
        tokens = generic_argmax(b, r, alpha, **options)
        assert tokens.dtype == torch.int64
        assert tokens.equal(correct_logits(b, r, alpha, **options).argmax(-1))
        assert (tokens == b.argmax(-1)).tolist() == [True, False, False, False]


@each_backend
def test_the_lowest_of_equals_wins(backend):
    b = torch.zeros(3, 9001)
    b[0, [8000, 17, 5000]] = 4.0  # in three blocks
    b[1, 8999:] = 4.0
    assert generic_argmax(b, b, 1.0, backend=backend).tolist() == [17, 8999, 0]
    close = torch.tensor([[20.0, 20.01]])
    rounded = close.bfloat16()  # equal in the dtype of the row
    assert generic_argmax(rounded, rounded, 1.0, backend=backend).tolist() == [0]
    b, r = torch.tensor([[20.0, 20.125]]).bfloat16(), torch.tensor([[20.0, 20.25]]).bfloat16()
    assert correct_logits(b, r, 0.9).tolist() == [[20.0, 20.0]]
    assert generic_argmax(b, r, 0.9, backend=backend).tolist() == [0]  # as in the row that would have been written


@each_backend
def test_a_nan_wins_and_a_row_of_bans_gives_token_zero(backend):
    b = torch.full((4, 9001), -INF)
    b[1, 5] = 2.0
    b[2, 3], b[2, [7000, 8000]] = 9.0, NAN
    b[3, 3], b[3, 7000] = INF, NAN
    r = torch.zeros_like(b)
    assert generic_argmax(b, r, 0.0, backend=backend).tolist() == [0, 5, 7000, 7000]
    assert generic_sample(b, r, 0.0, backend=backend).tolist() == [0, 5, 7000, 7000]


@each_backend
@pytest.mark.parametrize("layout", LAYOUTS)
def test_leading_shapes_and_strides_do_not_matter(layout, backend):
    b, r = scores(2, 3, 103)
    make = LAYOUTS[layout]
    expected = correct_logits(b, r, 1.5).argmax(-1)
    assert generic_argmax(make(b), make(r), 1.5, backend=backend).equal(expected)
    assert generic_argmax(b[0, 0], r[0, 0], 1.5, backend=backend).equal(expected[0, 0])
    assert generic_argmax(b[:0], r[:0], 1.5, backend=backend).shape == (0, 3)


@each_backend
def test_no_gradient_is_asked_of_a_token(backend):
    b, r = (x.requires_grad_() for x in scores(2, 9))
    for choose in (generic_argmax, generic_sample):
        assert not choose(b, r, 1.5, backend=backend).requires_grad


# --- draws ------------------------------------------------------------------------------------------------------------


def chi_square_excess(tokens: Tensor, probabilities: Tensor) -> float:
    """Standard deviations by which the tokens' counts lie off what was expected of them."""
    likely = probabilities * len(tokens) >= 5
    expected = probabilities[likely] * len(tokens)
    seen = torch.bincount(tokens, minlength=len(probabilities))
    assert not seen[probabilities == 0].any()
    square = ((seen[likely] - expected) ** 2 / expected).sum().item()
    rest = len(tokens) - expected.sum().item()
    square += (seen[~likely].sum().item() - rest) ** 2 / max(rest, 1)
    freedom = int(likely.sum())
    return (square - freedom) / math.sqrt(2 * freedom)


@each_backend
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_corrected_distribution(backend, temperature):
    rows = 600
    b, r = (x / 4 for x in scores(12))
    r[b.argmax()] += 4
    v = correct_logits(b, r, 0.7, backend="reference")
    wide = [each.expand(rows, -1) for each in (b, r)]
    tokens = generic_sample(*wide, 0.7, temperature=temperature, generator=seeded(1), backend=backend)
    assert chi_square_excess(tokens, (v.double() / temperature).softmax(-1)) < 4
    for other in (b / temperature, v / temperature * 2):  # the test would see another distribution
        assert chi_square_excess(tokens, other.double().softmax(-1)) > 8


@each_backend
def test_every_column_of_every_block_is_drawn_alike(monkeypatch, backend):
    if backend == "triton":
        monkeypatch.setattr("generic_logits.ops.fused_triton.BLOCK", 128)
    rows, vocab, parts = 300, 400, 10
    flat = torch.zeros(1, vocab).expand(rows, -1)
    tokens = generic_sample(flat, flat, 1.0, generator=seeded(2), backend=backend)
    assert chi_square_excess(tokens // (vocab // parts), torch.full((parts,), 1 / parts)) < 4
    assert chi_square_excess(tokens % 4, torch.full((4,), 0.25)) < 4  # one counter serves four columns
    assert abs(len(tokens.unique()) - 211) < 40  # vocab * (1 - (1 - 1 / vocab) ** rows), of independent rows


@each_backend
def test_a_seed_gives_the_same_tokens_and_another_gives_others(backend):
    b, r = scores(16, 1003)
    first, again, other = (generic_sample(b, r, 1.0, generator=seeded(s), backend=backend) for s in (3, 3, 4))
    assert first.equal(again) and not first.equal(other)
    generator = seeded(3)
    draws = [generic_sample(b, r, 1.0, generator=generator, backend=backend) for _ in range(2)]
    assert draws[0].equal(first) and not draws[1].equal(first)  # the generator moves on
    torch.manual_seed(5)
    default = generic_sample(b, r, 1.0, backend=backend)
    torch.manual_seed(5)
    assert generic_sample(b, r, 1.0, backend=backend).equal(default)


@each_backend
def test_equal_rows_are_drawn_apart(backend):
    row = torch.zeros(1, 4096)
    tokens = generic_sample(row.expand(32, -1), row.expand(32, -1), 1.0, generator=seeded(0), backend=backend)
    assert len(tokens.unique()) > 28


@each_backend
@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures_draw_no_ban(backend, temperature):
    b, r = scores(64, 19)
    tokens = generic_sample(b, r, 1.0, temperature=temperature, generator=seeded(0), backend=backend)
    assert b.gather(-1, tokens[:, None]).isfinite().all()
    if temperature < 1:
        assert tokens.equal(generic_argmax(b, r, 1.0, backend=backend))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "got"), [(0, "0"), (0.0, "0.0"), (-1.0, "-1.0"), (NAN, "nan"), (INF, "inf")])
def test_a_temperature_that_is_not_positive_is_refused_with_the_remedy(temperature, got):
    b = torch.zeros(2, 5)
    with pytest.raises(InputError) as caught:
        generic_sample(b, b, 1.0, temperature=temperature)
    assert (
        str(caught.value) == f"wanted a finite temperature > 0; got {got}; use generic_argmax for the likeliest token"
    )


def test_a_generator_of_another_device_is_refused():
    b = torch.zeros(2, 5, device="meta")
    with pytest.raises(InputError) as caught:
        generic_sample(b, b, 1.0, generator=seeded(0))
    assert str(caught.value) == "wanted a generator on meta; got one on cpu; make it with torch.Generator(device)"


@pytest.mark.parametrize("choose", [generic_argmax, generic_sample])
def test_the_arguments_of_the_correction_are_checked(choose):
    b = torch.zeros(2, 5)
    for arguments, options, text in (
        ((b, b, -1.0), {}, "a finite alpha >= 0"),
        ((b, b[:1], 1.0), {}, "baseline and reinforced of one shape"),
        ((b, b, 1.0), {"space": "probs"}, "space to be one of"),
        ((b, b, 1.0), {"backend": "cuda"}, "backend to be one of"),
    ):
        with pytest.raises(InputError, match=f"^wanted {text}"):
            choose(*arguments, **options)
