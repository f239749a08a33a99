"""The seven tests of ability, run by the real lm-evaluation-harness on local files, beside a plain restatement."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ability
import pytest
import subjects
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation.harness import SEVEN, rehearse, run_harness

WORDS = tiny.tokenizer(subjects.VOCAB)


def asked(task: str, row: dict[str, Any]) -> tuple[list[tuple[str, str]], int]:
    """Contexts and continuations of a question, and which is right, as its authors ask it."""
    if task.startswith("arc"):
        context, texts = f"Question: {row['question']}\nAnswer:", row["choices"]["text"]
    elif task == "boolq":
        context, texts = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"]
    elif task == "hellaswag":
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        texts = [ending.replace(" [title]", ". ") for ending in row["endings"]]
    elif task == "openbookqa":
        context, texts = row["question_stem"], row["choices"]["text"]
    elif task == "piqa":
        context, texts = f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]]
    else:
        before, behind = row["sentence"].split("_")
        return [(before + row[f"option{n}"], f" {behind.strip()}") for n in (1, 2)], int(row["answer"]) - 1
    right = row.get("answerKey") or row["label"]
    return [(context, f" {text}") for text in texts], "ABCD".index(right) if str(right).isalpha() else int(right)


@torch.no_grad()
def log_likelihood(made: Any, context: str, continuation: str) -> float:
    bare = context.rstrip()
    whole, start = WORDS(context + continuation)["input_ids"], len(WORDS(bare)["input_ids"])
    ids = torch.tensor([whole])
    logits = made.logits(ids) if isinstance(made, ModelPair) else made(ids).logits
    return sum(logits[0, at - 1].log_softmax(-1)[whole[at]].item() for at in range(start, len(whole)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return ability.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Any]]:
    baseline, reinforced = tiny.pair(vocab_size=subjects.VOCAB)
    yield {"model": baseline, "pair": ModelPair(baseline, reinforced, alpha=3.0, tokenizer=WORDS)}


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_all_seven_run_from_local_files_on_a_checkpoint_and_on_a_pair(data, models, kind):
    found = run_harness(subjects.local(models[kind]), data=data)
    assert list(found) == list(SEVEN)
    for task, scores in found.items():
        expected = []
        for at in range(ability.QUESTIONS):
            pairs, right = asked(task, ability.row_of(task, at))
            values = [log_likelihood(models[kind], *pair) for pair in pairs]
            expected.append(float(values.index(max(values)) == right))
        assert scores == expected, task
    of_all = [score for scores in found.values() for score in scores]
    assert 0 < sum(of_all) < len(of_all)


def test_a_limit_takes_the_first_questions_and_only_the_tasks_asked_for(data, models):
    subject = subjects.local(models["model"])
    whole = run_harness(subject, ["piqa"], data=data)
    assert run_harness(subject, ["piqa"], data=data, limit=3) == {"piqa": whole["piqa"][:3]}


def test_nothing_is_said_beside_our_bar_and_what_speaks_elsewhere_is_left_alone(data, models, capfd):
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    rehearse(data)
    before = [logger.level for logger in loggers]
    run_harness(subjects.local(models["pair"]), ["boolq", "winogrande"], data=data)
    assert capfd.readouterr() == ("", "")
    assert [logger.level for logger in loggers] == before and logging.ERROR not in before


def test_data_are_read_before_anybody_is_asked(data, tmp_path):
    rehearse(data)
    wrong = ability.write_data(tmp_path)
    (wrong / "piqa.jsonl").unlink(missing_ok=True)
    (wrong / "piqa.json").write_text(json.dumps([{"goal": "Open it"}]))
    with pytest.raises(InputError, match="^wanted data that lm-evaluation-harness takes; got .*; check the columns"):
        rehearse(wrong)


def test_local_data_need_no_network(data):
    """In a process of its own, to which the hub is not said to be switched off, and which notes who is looked up."""
    code = (
        "import socket, sys\n"
        "def refuse(*asked, **_):\n"
        "    print('ASKED', *asked)\n"
        "    raise socket.gaierror('no network')\n"
        "socket.getaddrinfo = refuse\n"
        "from generic_logits.evaluation.harness import rehearse\n"
        "rehearse(sys.argv[1])\n"
        "print('read')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", code, str(data)], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("read\n", 0), done.stderr


def test_bad_input_is_refused_in_one_line(tmp_path, data, models):
    subject = subjects.local(models["model"])
    with pytest.raises(InputError, match="^wanted tasks among arc_challenge, .*; got mmlu; leave them out$"):
        run_harness(subject, ["mmlu", "piqa"], data=data)
    with pytest.raises(
        InputError, match=r"^wanted piqa.jsonl, boolq.jsonl \(or .json\); got none such in .*; add what"
    ):
        run_harness(subject, ["piqa", "boolq"], data=tmp_path)
    with pytest.raises(InputError, match="^wanted a folder of the tests' data; got nothing at .*; check the path$"):
        run_harness(subject, data=tmp_path / "none")
    with pytest.raises(InputError, match="^wanted a folder of the tests' data; got a file at .*; check the path$"):
        run_harness(subject, data=next(data.iterdir()))
    with pytest.raises(InputError, match="^wanted a back end among hf, vllm; got 'trt'; take one of them$"):
        run_harness(subject, ["piqa"], data=data, backend="trt")
    with pytest.raises(MeasureError, match="^wanted a model that vLLM can load; got tiny; give the model's folder$"):
        run_harness(subject, ["piqa"], data=data, backend="vllm")
    with pytest.raises(MeasureError, match="^wanted a model in this process; got writer, a server; give the model's"):
        run_harness(subjects.Writer({}), ["piqa"], data=data)
