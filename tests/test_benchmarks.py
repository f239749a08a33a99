"""Every benchmark runs at its tiny size, checks its results, and keeps the JSON contract."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import decode
from generic_logits import GenericLogitsProcessor

ROOT = Path(__file__).parents[1]


def test_the_decode_benchmark_writes_checked_rows(tmp_path):
    file = tmp_path / "decode.json"
    command = [sys.executable, "-m", "benchmarks", "decode", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    assert set(content) == {"machine", "versions", "rows"}
    assert {"baseline", "two models by hand", "processor"} <= {row["name"] for row in content["rows"]}
    keys = {"name", "size", "value", "unit", "reference", "ratio", "checked"}
    assert all(set(row) == keys and row["checked"] and row["value"] > 0 for row in content["rows"])


def test_the_decode_benchmark_refuses_to_time_a_wrong_processor(monkeypatch):
    def wrong(self, input_ids, scores):
        return scores.roll(1, dims=-1)

    monkeypatch.setattr(GenericLogitsProcessor, "__call__", wrong)
    with pytest.raises(SystemExit, match="disagree"):
        decode.run(quick=True)


def test_the_processors_own_work_does_not_grow_with_the_context():
    reinforced = decode.random_llama(1, spread=0.5, context=4096, hidden=64, layers=1, vocab=32000)
    short, long = decode.own_work(reinforced, 32000, (200, 2000), rounds=5)
    assert long.value <= 1.1 * short.value + 0.05  # ms; timer noise of a shared machine


def test_the_stopwatch_leaves_the_reinforced_models_time_out():
    reinforced = decode.random_llama(1, spread=0.5, context=64, hidden=64, layers=2, vocab=101)
    watched = decode.OwnWork(reinforced, 2.0)
    watched(torch.tensor([[1, 2, 3]]), torch.randn(1, 101))
    watched.remove()
    assert 0 < watched.seconds[0] < 1
