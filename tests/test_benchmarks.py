"""Every benchmark runs at its tiny size, checks its results, and keeps the JSON contract."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import decode, distill, ops, plot, vllm
from generic_logits import GenericLogitsProcessor

ROOT = Path(__file__).parents[1]


KEYS = {"name", "size", "value", "unit", "reference", "ratio", "checked"}


def quick_rows(name: str, file: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    assert set(content) == {"machine", "versions", "rows"}
    assert all(set(row) == KEYS and row["checked"] and row["value"] > 0 for row in content["rows"])
    return content["rows"]


def test_the_decode_benchmark_writes_checked_rows(tmp_path):
    rows = quick_rows("decode", tmp_path / "decode.json")
    named = {"baseline", "two models by hand", "transformers cfg", "proxy tuning loop", "processor", "shared base"}
    assert {row["name"] for row in rows} == {*named, "processor's own work"}


def test_the_offline_benchmark_writes_checked_rows(tmp_path):
    rows = {row["name"] for row in quick_rows("offline", tmp_path / "offline.json")}
    assert rows == {"two forward passes", "soft targets", "hard targets", "fine-tuning step", "distillation step"}


def test_the_ops_benchmark_writes_checked_rows(tmp_path):
    rows = {row["name"]: row for row in quick_rows("ops", tmp_path / "ops.json")}
    assert set(rows) == set(ops.REFERENCES)
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["value"] / rows[row["reference"]]["value"])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("eager", lambda b, r: b - torch.relu(r - b)),
        ("correct_logits", lambda b, r, alpha, **_: b - alpha * (r - b)),
        ("generic_argmax", lambda b, r, alpha: b.argmax(-1)),
        ("generic_sample", lambda b, r, alpha: torch.distributions.Categorical(logits=b).sample()),
        ("correct_then_sample", lambda b, r: torch.zeros(len(b), dtype=torch.int64)),
    ],
)
def test_the_ops_benchmark_refuses_to_time_a_wrong_operator(monkeypatch, name, wrong):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    right = ops.correct_logits
    if name == "correct_logits":  # the reference stays
        monkeypatch.setattr(
            ops, name, lambda *a, **k: right(*a, **k) if k.get("backend") == "reference" else wrong(*a, **k)
        )
    else:
        monkeypatch.setattr(ops, name, wrong)
    with pytest.raises(SystemExit, match="not the reference's"):
        ops.run(quick=True)


def test_the_distill_benchmark_writes_checked_rows(tmp_path):
    rows = quick_rows("distill", tmp_path / "distill.json")
    names = {"naive", "chunked", "ours"}
    assert {row["name"] for row in rows} - {"liger"} == names and {row["unit"] for row in rows} == {"ms", "MiB"}
    assert len({row["size"] for row in rows}) == len(distill.QUICK)
    for row in rows:
        assert row["reference"] == "naive" and (row["name"] != "naive" or row["ratio"] == 1)


@pytest.mark.parametrize("wrong", ["ours", "chunked"])
@pytest.mark.parametrize("what", ["loss", "states' gradient"])
def test_the_distill_benchmark_refuses_to_time_a_wrong_loss(wrong, what, monkeypatch):
    right = getattr(distill, wrong)

    def off(inputs: distill.Inputs) -> Tensor:
        loss = right(inputs)
        return loss * 1.001 if what == "loss" else loss + 0.001 * (loss - loss.detach())

    monkeypatch.setattr(distill, wrong, off)
    with pytest.raises(SystemExit, match=f"{wrong} is wrong, its {what}"):
        distill.run(quick=True)


def test_the_distill_benchmark_counts_memory_beyond_inputs_and_gradients():
    size = distill.Size(2, 64, 1003, 32, 1)
    inputs, extra = distill.made(size, "cpu", torch.float32), 1 << 20

    def leaves_gradients() -> Tensor:
        for each in inputs.student:
            each.grad = torch.zeros_like(each)
        return torch.empty(extra, dtype=torch.uint8)

    assert distill.peak_memory(leaves_gradients, inputs) == extra
    logits = 2 * 64 * 1003 * 4
    assert 4 * logits <= distill.peak_memory(distill.step(distill.naive, inputs), inputs) <= 16 * logits


def test_the_vllm_benchmark_writes_checked_rows(tmp_path):
    rows = {row["name"]: row for row in quick_rows("vllm", tmp_path / "vllm.json")}
    timed = {"baseline", "two copies", "shared base", "hf generate", "two engines"}
    weighed = ("baseline, weights", "two copies, weights", "shared base, weights")
    assert set(rows) == {*timed, *(f"{name}, throughput" for name in timed), *weighed}
    baseline, copies, shared = (rows[name]["ratio"] for name in weighed)
    assert baseline < shared < 1.5 < 1.95 < copies < 2.05  # a tiny model: rank 16 weighs much


@pytest.mark.parametrize("wrong", ["two copies", "hf generate", "shared base", "two engines"])
def test_the_vllm_benchmark_refuses_to_time_a_wrong_engine(wrong):
    tokens, of_adapter = vllm_tokens()
    vllm.check(tokens, of_adapter, "right")
    tokens[wrong][-1, -1] += 1
    with pytest.raises(SystemExit, match="disagree"):
        vllm.check(tokens, of_adapter, "wrong")


@pytest.mark.parametrize("of", ["two copies", "shared base", "two engines"])
def test_the_vllm_benchmark_refuses_to_time_a_correction_that_changes_nothing(of):
    tokens, of_adapter = vllm_tokens()
    tokens["baseline"] = of_adapter.clone() if of == "shared base" else tokens["two copies"].clone()
    if of == "two engines":  # the correction comes after its last token
        tokens["baseline"][:, -1] += 1
    with pytest.raises(SystemExit, match=f"{of} changed nothing"):
        vllm.check(tokens, of_adapter, "idle")


def vllm_tokens() -> tuple[dict[str, Tensor], Tensor]:
    baseline, corrected, of_adapter = (torch.arange(12).view(2, 6) + shift for shift in (0, 1, 2))
    tokens = {name: corrected.clone() for name in ("two copies", "hf generate")}
    of_two = corrected[:, :4].clone()
    return {**tokens, "baseline": baseline, "shared base": of_adapter.clone(), "two engines": of_two}, of_adapter


def test_the_decode_benchmark_refuses_to_time_a_wrong_processor(monkeypatch):
    def wrong(self, input_ids, scores):
        return scores.roll(1, dims=-1)

    monkeypatch.setattr(GenericLogitsProcessor, "__call__", wrong)
    with pytest.raises(SystemExit, match="disagree"):
        decode.run(quick=True)


def test_the_picture_is_drawn_from_the_committed_results(tmp_path):
    results = sorted((ROOT / "benchmarks" / "results").glob("*-2-cores.json"))
    plot.main([*map(str, results), "-o", str(tmp_path / "performance.svg")])
    picture = (tmp_path / "performance.svg").read_text()
    assert all(title in picture for title, *_ in plot.PANELS) and picture.count("shared base") == 1


def test_the_processors_own_work_does_not_grow_with_the_context():
    reinforced = decode.random_llama(1, spread=0.5, context=4096, hidden=64, layers=1, vocab=32000)
    short, long = decode.own_work(reinforced, 32000, (200, 2000), rounds=5)
    assert long.value <= 1.1 * short.value + 0.05  # ms; timer noise of a shared machine


def test_the_stopwatch_leaves_the_reinforced_models_time_out():
    reinforced = decode.random_llama(1, spread=0.5, context=64, hidden=64, layers=2, vocab=101)
    watched = decode.OwnWork(reinforced, 2.0)

    def work(*_: Any) -> None:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            pass

    reinforced.model.register_forward_pre_hook(work)
    watched(torch.tensor([[1, 2, 3]]), torch.randn(1, 101))
    watched.remove()
    assert 0 < watched.seconds[0] < 0.25
