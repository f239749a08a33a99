"""The loss of distillation from hidden states: forward and backward, its time and the memory it takes beyond inputs and
gradients. The model and what it costs is left out: of it the loss sees a width and a number of tokens, batch x length.

* naive: three matrices of logits, the correction, KL(teacher || student) and autograd.
* chunked: as TRL's ``DistillationTrainer`` has it in its chunked loss: 256 tokens at a time, each chunk under
  ``torch.utils.checkpoint`` without re-entry, projections of student and teacher in float32 inside it, so that both run
  twice. Its one teacher is here the corrected pair, without gradient; its entropy for logging is left out.
* liger: Liger's fused linear JSD, as it comes, on CUDA. It has no teacher of two heads: the baseline alone teaches, one
  product less.
* ours: ``linear_generic_kl``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from benchmarks.table import Row, rows_of
from generic_logits.ops import correct_logits, linear_generic_kl, reference

ALPHA = 2.0
TRL_CHUNK = 256  # tokens
EXACT = 1 << 25  # logits up to which the truth is computed in float64; above, naive in the inputs' own dtype
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative error of the loss, and of a gradient in norm


class Size(NamedTuple):
    batch: int
    length: int
    vocab: int
    hidden: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.length} tokens, vocabulary {self.vocab}, hidden {self.hidden}"


QUICK = [
    Size(2, 64, 1003, 32, 3),
    Size(4, 64, 1003, 32, 3),
    Size(2, 128, 1003, 32, 3),
    Size(2, 64, 2006, 32, 3),
    Size(2, 64, 1003, 64, 3),
]
ON_CPU = [
    Size(4, 128, 32000, 512, 3),
    Size(8, 128, 32000, 512, 3),
    Size(4, 256, 32000, 512, 3),
    Size(4, 128, 128256, 512, 3),
    Size(4, 128, 32000, 1024, 3),
    Size(4, 512, 128256, 1024, 1),
]
ON_GPU = [
    Size(4, 512, 128256, 1024, 10),
    Size(8, 512, 128256, 1024, 10),
    Size(4, 1024, 128256, 1024, 10),
    Size(4, 512, 32000, 1024, 10),
    Size(4, 512, 128256, 4096, 10),
]


class Inputs(NamedTuple):
    student: tuple[Tensor, Tensor]  # hidden states, head; both learn
    baseline: tuple[Tensor, Tensor]
    reinforced: tuple[Tensor, Tensor]


def run(*, quick: bool) -> list[Row]:
    on_gpu = torch.cuda.is_available()
    sizes = QUICK if quick else ON_GPU if on_gpu else ON_CPU
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    return [row for size in sizes for row in rows_at(size, device, dtype)]


def rows_at(size: Size, device: str, dtype: torch.dtype) -> list[Row]:
    inputs = made(size, device, dtype)
    losses = {"naive": naive, "chunked": chunked, "liger": liger(device), "ours": ours}
    variants = {name: step(loss, inputs) for name, loss in losses.items() if loss is not None}
    memory = {}
    truths: dict[Any, list[Tensor]] = {}
    for name, each in variants.items():
        of = jsd_of_baseline if name == "liger" else naive
        memory[name] = peak_memory(each, inputs)
        got = [each(), *(tensor.grad for tensor in inputs.student)]
        if of not in truths:
            truths[of] = truth(of, inputs, size)
        check(name, got, truths[of], ALLOWED[dtype], str(size))
    truths.clear()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(size.rounds):
        for name, each in variants.items():
            clear(inputs)
            synchronise(device)
            started = time.perf_counter()
            each()
            synchronise(device)
            times[name].append(1000 * (time.perf_counter() - started))
    named = f"{size}, {str(dtype).removeprefix('torch.')}"
    of_memory = {name: [value / 2**20] for name, value in memory.items()}
    return [*rows_of(times, named, "ms", "naive"), *rows_of(of_memory, named, "MiB", "naive")]


def made(size: Size, device: str, dtype: torch.dtype) -> Inputs:
    """Logits of a standard deviation of 2; a reinforced model that is close to the baseline, as is the student."""
    draw = torch.Generator(device).manual_seed(0)
    shapes = (size.batch * size.length, size.hidden), (size.vocab, size.hidden)
    hidden, head = (torch.randn(shape, generator=draw, device=device) for shape in shapes)
    head *= 2 * size.hidden**-0.5
    pairs = []
    for learns in (True, False, False):
        moved = hidden + 0.3 * torch.randn(shapes[0], generator=draw, device=device)
        near = torch.randn(shapes[1], generator=draw, device=device).mul_(0.5 * size.hidden**-0.5).add_(head)
        pairs.append((moved.to(dtype).requires_grad_(learns), near.to(dtype).requires_grad_(learns)))
    return Inputs(*pairs)


# --- the losses -------------------------------------------------------------------------------------------------------


def naive(inputs: Inputs) -> Tensor:
    student, baseline, reinforced = (hidden @ head.t() for hidden, head in inputs)
    teacher = correct_logits(baseline, reinforced, ALPHA, backend="reference")
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    return reference.kl(student.to(dtype), teacher.to(dtype), temperature=1.0, reverse=False).mean()


def ours(inputs: Inputs) -> Tensor:
    return linear_generic_kl(*inputs.student, *inputs.baseline, *inputs.reinforced, ALPHA)


def chunked(inputs: Inputs) -> Tensor:
    (hidden, head), (of_baseline, base_head), (of_reinforced, other_head) = inputs

    def of_chunk(states: Tensor, base_states: Tensor, other_states: Tensor) -> Tensor:
        student = states.float() @ head.float().t()
        with torch.no_grad():
            baseline, reinforced = (
                each.float() @ its.float().t() for each, its in ((base_states, base_head), (other_states, other_head))
            )
            teacher = correct_logits(baseline, reinforced, ALPHA).log_softmax(-1)
        return torch.nn.functional.kl_div(student.log_softmax(-1), teacher, reduction="none", log_target=True).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for chunk in zip(*(each.split(TRL_CHUNK) for each in (hidden, of_baseline, of_reinforced)), strict=True):
        total = total + checkpoint(of_chunk, *chunk, use_reentrant=False)
    return total / len(hidden)


def liger(device: str) -> Callable[[Inputs], Tensor] | None:
    """Liger's loss, where it runs."""
    if device != "cuda":
        return None
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    except ImportError:
        return None
    fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5)

    def loss(inputs: Inputs) -> Tensor:
        labels = torch.zeros(len(inputs.student[0]), dtype=torch.long, device=device)
        return fused(*inputs.student, *inputs.baseline, labels, student_bias=None, teacher_bias=None)

    return loss


def jsd_of_baseline(inputs: Inputs) -> Tensor:
    """What Liger's loss is held against: half the KL of student and baseline each to their mean."""
    wide = torch.promote_types(inputs.student[0].dtype, torch.float32)
    q, p = ((hidden @ head.t()).to(wide).log_softmax(-1) for hidden, head in (inputs.student, inputs.baseline))
    mean = torch.logaddexp(q, p) - torch.log(torch.tensor(2.0))
    return sum((each.exp() * (each - mean)).sum(-1).mean() for each in (q, p)) / 2


# --- what is done with them -------------------------------------------------------------------------------------------


def step(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> Callable[[], Tensor]:
    def forward_and_backward() -> Tensor:
        found = loss(inputs)
        found.backward()
        return found.detach()

    return forward_and_backward


def clear(inputs: Inputs) -> None:
    for each in inputs.student:
        each.grad = None


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(each: Callable[[], Tensor], inputs: Inputs) -> int:
    """Bytes of tensors at the highest point of a step, without what stood before it and the gradients it leaves."""
    clear(inputs)
    if inputs.student[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        each()
        highest = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            each()
        changes = [
            (event.start_ns(), event.nbytes())
            for event in watched.profiler.kineto_results.events()
            if event.name() == "[memory]"
        ]
        held = highest = 0
        for _, size in sorted(changes, key=lambda change: change[0]):
            held += size
            highest = max(highest, held)
    left = sum(tensor.grad.nbytes for tensor in inputs.student)
    clear(inputs)
    return highest - left


def truth(loss: Callable[[Inputs], Tensor], inputs: Inputs, size: Size) -> list[Tensor]:
    """Loss and gradients of a plain expression, in float64 where there is room."""
    exact = size.batch * size.length * size.vocab <= EXACT
    dtype = torch.float64 if exact else inputs.student[0].dtype
    copies = Inputs(*(tuple(part.detach().to(dtype) for part in pair) for pair in inputs))
    for each in copies.student:
        each.requires_grad_()
    found = loss(copies)
    return [found.detach(), *torch.autograd.grad(found, copies.student)]


def check(name: str, got: list[Tensor], wanted: list[Tensor], allowed: float, size: str) -> None:
    for what, one, other in zip(("loss", "states' gradient", "head's gradient"), got, wanted, strict=True):
        error = float((one.to(other.dtype) - other).norm() / other.norm())
        if not error <= allowed:
            raise SystemExit(f"distill, {size}: {name} is wrong, its {what} by {error:.2g} of its norm")
