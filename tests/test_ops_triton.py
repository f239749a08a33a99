"""The CUDA kernels under the interpreter: how rows are cut, 64-bit offsets, and where they can run.

That they compute the formula is in ``test_ops.py``, with the other backends.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from test_ops import FORMS, assert_same, scores
from torch import Tensor

from generic_logits import ops
from generic_logits.errors import InputError
from generic_logits.ops import choose_backend, correct_logits, generic_argmax, generic_sample

pytest.importorskip("triton")
fused_triton = pytest.importorskip("generic_logits.ops.fused_triton")

pytestmark = pytest.mark.usefixtures("interpreter")

FAR = 2**31 + 6  # elements


@pytest.mark.parametrize(("space", "variant", "threshold"), FORMS)
@pytest.mark.parametrize("widths", [(64, 64), (64, 2048)], ids=["two passes", "one pass"])
def test_the_cut_of_a_row_does_not_matter(monkeypatch, widths, space, variant, threshold):
    b, r = scores(3, 1003)
    b[1], r[2], b[0, 64:128], r[0, 128:192] = -torch.inf, -torch.inf, -torch.inf, -torch.inf  # rows and whole blocks
    options = {"space": space, "variant": variant, "threshold": threshold}
    expected = correct_logits(b, r, 1.5, backend="reference", **options)
    monkeypatch.setattr(fused_triton, "BLOCK", widths[0])
    monkeypatch.setattr(fused_triton, "WHOLE_ROW", widths[1])
    assert_same(correct_logits(b, r, 1.5, backend="triton", **options), expected)
    assert generic_argmax(b, r, 1.5, backend="triton", **options).equal(expected.argmax(-1))


@pytest.mark.parametrize(
    ("vocab", "space", "cut"),
    [
        (128256, "logits", (32, 4096)),
        (128256, "logprobs", (32, 4096)),
        (8192, "logprobs", (1, 8192)),
        (8193, "logprobs", (3, 4096)),
        (1003, "logits", (1, 1024)),
        (3, "logits", (1, 16)),
    ],
)
def test_a_row_is_one_block_where_it_fits(vocab, space, cut):
    assert fused_triton._Cut.of(vocab, space) == cut


def far_apart(tmp_path, name: str, values: Tensor, strides: tuple[int, int]) -> Tensor:
    """The values in a file full of holes, so far apart that their offsets need 64 bits."""
    rows, vocab = values.shape
    size = (rows - 1) * strides[0] + (vocab - 1) * strides[1] + 1
    sparse = torch.from_file(str(tmp_path / name), shared=True, size=size, dtype=values.dtype)
    return sparse.as_strided(values.shape, strides).copy_(values)


@pytest.mark.parametrize("strides", [(FAR, 1), (1, FAR // 2)], ids=["rows", "columns"])
def test_offsets_are_64_bit(tmp_path, strides):
    b, r = scores(2, 5, dtype=torch.bfloat16, bans=False)
    far_b, far_r = far_apart(tmp_path, "b", b, strides), far_apart(tmp_path, "r", r, strides)
    for space in ("logits", "logprobs"):
        expected = correct_logits(b, r, 2.0, space=space, backend="reference")
        assert generic_argmax(far_b, far_r, 2.0, space=space, backend="triton").equal(expected.argmax(-1))
        assert correct_logits(far_b, far_r, 2.0, space=space, out=far_r, backend="triton").equal(expected)
        far_r.copy_(r)
    total, far_total = (
        fused_triton.kl_(logits, wanted, torch.ones(2), temperature=1.0, reverse=True)
        for logits, wanted in ((b, r), (far_b, far_r))
    )
    assert far_total.equal(total) and far_b.equal(b)  # gradients by now


COMPILE = """
import itertools
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from generic_logits.ops import fused_triton as kernels

SCALARS = dict.fromkeys(["threshold", "temperature"], "fp32")
POINTERS = dict.fromkeys(["tops", "sums", "alpha_pointer", "value_pointer"], "*fp32")
POINTERS |= dict.fromkeys(["measures", "distances", "weights"], "*fp32")
POINTERS |= dict.fromkeys(["token_pointer", "key_pointer"], "*i64")
ROWS = ["b_pointer", "r_pointer", "p_pointer", "q_pointer", "out_pointer"]
KERNELS = ["_sum_blocks", "_correct", "_choose", "_finish", "_compare_blocks", "_descend"]
for dtype, form, ones in itertools.product(("fp32", "bf16"), (False, True), (False, True)):
    constants = dict(RELU=True, LOGPROBS=form, REVERSE=form, SAMPLE=True)
    constants |= dict(PARTS=1 if ones else 4, BLOCK=256, ROUNDS=7)
    if ones:  # integers of value 1 are constants to the compiler
        constants |= dict.fromkeys(["b_stride", "r_stride", "p_stride", "q_stride", "out_stride"], 1)
        constants |= dict(blocks=1, alpha_stride=1)
    types = SCALARS | POINTERS | dict.fromkeys(ROWS, f"*{dtype}")
    for kernel in (getattr(kernels, name) for name in KERNELS):
        names = kernel.arg_names
        signature = {name: "constexpr" if name in constants else types.get(name, "i64") for name in names}
        values = {(names.index(name),): value for name, value in constants.items() if name in names}
        assert triton.compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32)).asm["ptx"]
"""


def without_interpreter(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | more


def test_the_kernels_compile_for_a_gpu_where_there_is_none(tmp_path):
    environment = without_interpreter(TRITON_CACHE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


# --- the choice of backend --------------------------------------------------------------------------------------------

B = torch.zeros(2, 5)


class OnCuda(Tensor):
    """Stands for a tensor on a GPU."""

    is_cuda = True


def test_auto_takes_what_fits_the_tensors(monkeypatch):
    on_cuda, wants_grad = B.as_subclass(OnCuda), B.clone().requires_grad_()
    assert choose_backend(B, B) == "torch"
    assert choose_backend(on_cuda, on_cuda) == "triton"
    assert choose_backend(on_cuda.double(), on_cuda) == choose_backend(on_cuda, on_cuda.double()) == "torch"
    assert choose_backend(on_cuda, wants_grad) == choose_backend(wants_grad, B) == "reference"
    with torch.no_grad():
        assert choose_backend(on_cuda, wants_grad) == "triton"
    monkeypatch.setattr(ops, "_has_triton", lambda: False)
    assert choose_backend(on_cuda, on_cuda) == "torch"


def test_the_choice_can_be_forced():
    for backend in ("reference", "torch", "triton"):
        assert choose_backend(B, B, backend=backend) == backend
    assert choose_backend(B.double(), B, backend="triton") == "torch"  # the kernels have no float64


def test_triton_that_is_not_installed_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(ops, "_has_triton", lambda: False)
    text = "wanted triton for backend='triton'; got no such package; install triton or pass backend='auto'"
    for function in (correct_logits, generic_argmax, generic_sample):
        with pytest.raises(InputError) as caught:
            function(B, B, 1.0, backend="triton")
        assert str(caught.value) == text


def test_triton_on_a_cpu_is_refused_unless_it_is_interpreted():
    code = (
        "import torch; from generic_logits.ops import correct_logits;"
        "b = torch.tensor([[1.0, 2.0]]); print(correct_logits(b, b + 1, 1.0, backend='triton').tolist())"
    )
    plain, interpreted = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without_interpreter(**more))
        for more in ({}, {"TRITON_INTERPRET": "1"})
    )
    assert plain.stderr.splitlines()[-1].endswith(
        "InputError: wanted CUDA tensors for backend='triton'; got tensors on cpu; pass backend='auto', "
        "or set TRITON_INTERPRET=1 before the first import of triton to test the kernels"
    )
    assert interpreted.stdout.strip() == "[[0.0, 1.0]]", interpreted.stderr
