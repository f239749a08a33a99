"""Tests of ability through lm-evaluation-harness, from the hub or from local files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from generic_logits.errors import InputError, one_line
from generic_logits.evaluation.subject import Subject, local_model
from generic_logits.models.pair import ModelPair

SEVEN: Mapping[str, str] = {  # of "Who's Harry Potter?", table 1, and where the harness describes them
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
}


def run_harness(
    subject: Subject,
    tasks: Sequence[str] = tuple(SEVEN),
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    harness_model: Any = None,
) -> dict[str, list[float]]:
    """Whether each question of tests of ability is answered rightly, 1 or 0, by lm-evaluation-harness without examples.

    A choice counts by its summed log-probability (the harness's "acc"), as in "Who's Harry Potter?", table 1.

    Args:
        subject: whom to ask; a checkpoint or a pair.
        tasks: of ``SEVEN``.
        data: folder with ``TASK.jsonl`` or ``TASK.json`` for each task, with the columns of its data set on the hub;
            None takes the hub's.
        limit: questions of a task, the first ones.
        batch_size: sequences at once.
        harness_model: to be asked in the subject's place: a model of the harness's own, such as one of its vLLM kind.

    Raises:
        InputError: the harness is not installed, an unknown task, or no data for a task.
        MeasureError: a server.
    """
    if unknown := set(tasks) - set(SEVEN):
        raise InputError(f"tasks among {', '.join(SEVEN)}", ", ".join(sorted(unknown)), "leave them out")
    try:
        evaluate = import_module("lm_eval").simple_evaluate
    except ImportError as error:
        remedy = 'install it with: pip install "generic-logits[eval]"'
        raise InputError("lm-evaluation-harness (lm_eval)", str(error), remedy) from error
    with TemporaryDirectory() as folder:
        manager = import_module("lm_eval.tasks").TaskManager(
            include_path=str(_describe(tasks, Path(folder), data)), include_defaults=False
        )
        asked = harness_model or _in_harness(subject, batch_size)
        try:
            results = evaluate(
                model=asked,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
            )
        except Exception as error:  # whatever its readers and templates raise: data are the user's, or the hub's
            got = f"{type(error).__name__}: {one_line(str(error))}"
            remedy = "check the columns of the data, or the way to the hub"
            raise InputError("data that lm-evaluation-harness takes", got, remedy) from error
    return {task: [float(each["acc"]) for each in results["samples"][task]] for task in tasks}


def _in_harness(subject: Subject, batch_size: int) -> Any:
    """The subject as the harness's kind of model."""
    found = local_model(subject)
    model = found.model if isinstance(found, ModelPair) else found
    wrapped = import_module("lm_eval.models.huggingface").HFLM
    return wrapped(pretrained=model, tokenizer=subject.tokenizer, batch_size=batch_size)


def _describe(tasks: Sequence[str], folder: Path, data: str | Path | None) -> Path:
    """Write a description of each task that the harness reads: its own, with local data where they are given."""
    own = Path(import_module("lm_eval.tasks").__file__ or "").parent
    for task in tasks:
        description: dict[str, Any] = {"include": str(own / SEVEN[task]), "task": task}
        if data is not None:
            files = {"test": str(_data_file(Path(data), task))}
            description |= {
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
                "training_split": None,
                "validation_split": None,
                "test_split": "test",
            }
        (folder / f"{task}.yaml").write_text(json.dumps(description), encoding="utf-8")  # JSON is YAML
    return folder


def _data_file(folder: Path, task: str) -> Path:
    for suffix in ("jsonl", "json"):
        if (file := folder / f"{task}.{suffix}").is_file():
            return file.resolve()
    raise InputError(f"{task}.jsonl or {task}.json", f"neither in {folder}", "add it, or leave the task out")
