"""The offline road against the least it could cost: targets beside the two forward passes, a distillation step beside
a fine-tuning step of the same model on the same tokens. Rounds interleaved, in one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode import random_llama
from benchmarks.table import Row, rows_of
from generic_logits import DistillConfig, ModelPair, TargetsConfig
from generic_logits.models.head import plain_head
from generic_logits.ops import correct_logits
from generic_logits.text.alignment import TranslatedBlock
from generic_logits.training import distillation, targets
from generic_logits.training import target_store as store

ALPHA = 5.0
SPREAD = 0.2  # of the weights: logits as peaked as a language model's


def run(*, quick: bool) -> list[Row]:
    shape = {"hidden": 64, "layers": 2, "vocab": 2048} if quick else {"hidden": 768, "layers": 12, "vocab": 32000}
    rows, length, rounds = (4, 64, 3) if quick else (8, 256, 5)
    baseline, reinforced = (random_llama(seed, spread=SPREAD, context=length, **shape) for seed in (0, 1))
    millions = sum(parameter.numel() for parameter in baseline.parameters()) / 1e6
    size = f"{millions:.3g}M, {rows} x {length} tokens, vocabulary {shape['vocab']}"
    pair = ModelPair(baseline, reinforced, alpha=ALPHA)
    pair.vocab_size = shape["vocab"]
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(0, shape["vocab"], (rows, length), generator=draw)
    blocks = [translated(row.tolist(), shape["vocab"]) for row in ids]
    with TemporaryDirectory() as folder:
        return [
            *_targets(pair, blocks, rounds, size, Path(folder)),
            *_step(pair, blocks, ids, rounds, size, Path(folder)),
        ]


def translated(ids: list[int], vocab: int) -> TranslatedBlock:
    """A block in which each twentieth token is a term of two tokens whose translation has two others."""
    new, positions, named, inside = list(ids), list(range(len(ids))), [], []
    for at in range(10, len(ids) - 1, 20):
        new[at : at + 2] = [(each + 7) % vocab for each in ids[at : at + 2]]
        positions[at] = -1
        named.append((at + 1, new[at]))
        inside.append((at, (ids[at + 1],)))
    return TranslatedBlock(tuple(ids), tuple(new), tuple(positions), tuple(named), tuple(inside))


def _targets(pair: ModelPair, blocks: list[TranslatedBlock], rounds: int, size: str, folder: Path) -> list[Row]:
    def compute(hard: bool) -> Any:
        teachers = targets._Teachers(pair, pair.baseline, [ALPHA], TargetsConfig(alpha=ALPHA, hard=hard))
        rows = _rows(teachers, blocks)
        store.write_shard(folder / "rows.safetensors", rows)
        return rows

    def forward() -> None:
        with torch.no_grad():
            for model, name in ((pair.baseline, "translated_ids"), (pair.reinforced, "token_ids")):
                model(torch.tensor([getattr(block, name) for block in blocks]), use_cache=False)

    labels = [by_alpha[ALPHA].fields["labels"] for _, by_alpha in compute(hard=True)]
    if not all(map(torch.equal, labels, map(lambda block: plain_labels(pair, block), blocks))):
        raise SystemExit(f"offline, {size}: hard targets differ from the plain expression")
    variants: dict[str, Callable[[], Any]] = {
        "two forward passes": forward,
        "soft targets": lambda: compute(hard=False),
        "hard targets": lambda: compute(hard=True),
    }
    return rows_of(_times(variants, rounds), size, "s", "two forward passes")


def _rows(teachers: targets._Teachers, blocks: list[TranslatedBlock]) -> list[Any]:
    return [(block.token_ids, by_alpha) for block, by_alpha in zip(blocks, teachers.on_forget(blocks), strict=True)]


@torch.no_grad()
def plain_labels(pair: ModelPair, block: TranslatedBlock) -> Tensor:
    """What ``block_targets`` says, position by position."""
    g = pair.baseline(torch.tensor([block.translated_ids])).logits[0]
    r = pair.reinforced(torch.tensor([block.token_ids])).logits[0]
    found = {}
    for position, mapped in enumerate(block.positions):
        if mapped >= 0:
            row = g[mapped].clone()
            for behind, token in block.named:
                if mapped > behind:
                    row[token] = g[mapped].mean()
            found[position] = correct_logits(row, r[position], ALPHA, backend="reference")
    on_average = torch.stack(list(found.values())).softmax(-1).mean(0).log()
    for position, tokens in block.inside:
        found[position] = on_average.clone()
        found[position][list(tokens)] -= TargetsConfig().ban
    return torch.stack([found[position].argmax() for position in sorted(found)]).to(torch.int32)


def _step(
    pair: ModelPair, blocks: list[TranslatedBlock], ids: Tensor, rounds: int, size: str, folder: Path
) -> list[Row]:
    config = DistillConfig(alpha=ALPHA, full=True, inside_weight=1.0)  # as _check_loss counts
    teachers = targets._Teachers(pair, pair.baseline, [ALPHA], config.of_targets())
    store.write_shard(folder / "step.safetensors", _rows(teachers, blocks))
    shard = store._Shard(folder / "step.safetensors")
    student = pair.baseline.train()
    head = plain_head(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)

    def loss(kind: str) -> Tensor:
        if kind == "fine-tuning step":
            return student(input_ids=ids, labels=ids, use_cache=False).loss
        batch = distillation._collate([(shard.row(number, ALPHA, hard=False),) for number in range(len(blocks))])
        return distillation.distance_of_batch(student, batch, head, vocabulary=pair.vocab_size, config=config)[0]

    def step(kind: str) -> None:
        loss(kind).backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        _check_loss(float(loss("distillation step")), student, pair, blocks, size)
    names = ("fine-tuning step", "distillation step")
    variants: dict[str, Callable[[], Any]] = {name: lambda name=name: step(name) for name in names}
    return rows_of(_times(variants, rounds), size, "s", "fine-tuning step")


def _check_loss(got: float, student: Any, pair: ModelPair, blocks: list[TranslatedBlock], size: str) -> None:
    """Compare with the KL to the whole distributions, of which the stored ones leave out at most the tail."""
    kl, count = 0.0, 0
    for block in blocks:
        g, r = (
            model(torch.tensor([ids])).logits[0]
            for model, ids in ((pair.baseline, block.translated_ids), (pair.reinforced, block.token_ids))
        )
        positions, values, _ = targets.block_targets(g, r, block, ALPHA, TargetsConfig(alpha=ALPHA))
        wanted = values.double().log_softmax(-1)
        log_probs = student(torch.tensor([block.token_ids])).logits[0, positions].double().log_softmax(-1)
        kl += float((wanted.exp() * (wanted - log_probs)).masked_fill(wanted.isneginf(), 0).sum())
        count += len(positions)
    if not 0.8 * kl / count <= got <= 1.01 * kl / count:
        raise SystemExit(f"offline, {size}: a distance of {got:.4f}, of whole distributions {kl / count:.4f}")


def _times(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in variants}
    for each in variants.values():
        each()
    for _ in range(rounds):
        for name, each in variants.items():
            started = time.perf_counter()
            each()
            times[name].append(time.perf_counter() - started)
    return times
