"""The seven tests of ability, run by the real lm-evaluation-harness on local files, beside a plain restatement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import subjects
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation.harness import SEVEN, run_harness

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness and datasets warn in many places
WORDS = tiny.tokenizer(subjects.VOCAB)
THINGS = ["bell", "door", "house", "word", "sea", "name", "place", "winter", "story", "page"]


def choice(at: int) -> dict[str, Any]:
    texts = [THINGS[at], THINGS[at - 3], THINGS[at - 5], THINGS[at - 7]]
    return {"text": texts, "label": list("ABCD")}


def row_of(task: str, at: int) -> dict[str, Any]:
    """A question in the columns of the task's data set on the hub."""
    if task.startswith("arc"):
        return {"id": str(at), "question": f"What rang {at} times?", "choices": choice(at), "answerKey": "ABCD"[at % 4]}
    return {
        "boolq": {"question": f"did the {THINGS[at]} ring", "passage": "The bell rang.", "idx": at, "label": at % 2},
        "hellaswag": {
            "ctx_a": "A man opened",
            "ctx_b": f"the {THINGS[at]}",
            "activity_label": "Opening",
            "endings": [f"and saw the {thing} [title]" for thing in choice(at)["text"]],
            "label": str(at % 4),
        },
        "openbookqa": {"question_stem": f"The {THINGS[at]} is", "choices": choice(at), "answerKey": "ABCD"[at % 4]},
        "piqa": {
            "goal": "Open it",
            "sol1": f"with a {THINGS[at]}",
            "sol2": f"by the {THINGS[at - 2]}",
            "label": at % 2,
        },
        "winogrande": {
            "sentence": "The bell fell on the house because the _ was old.",
            "option1": THINGS[at],
            "option2": THINGS[at - 4],
            "answer": str(at % 2 + 1),
        },
    }[task]


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
    folder = tmp_path_factory.mktemp("data")
    for number, task in enumerate(SEVEN):
        rows = [row_of(task, at) for at in range(8)]
        if number % 2:
            (folder / f"{task}.json").write_text(json.dumps(rows))
        else:
            (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


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
        for at in range(8):
            pairs, right = asked(task, row_of(task, at))
            values = [log_likelihood(models[kind], *pair) for pair in pairs]
            expected.append(float(values.index(max(values)) == right))
        assert scores == expected, task
    of_all = [score for scores in found.values() for score in scores]
    assert 0 < sum(of_all) < len(of_all)


def test_a_limit_takes_the_first_questions_and_only_the_tasks_asked_for(data, models):
    subject = subjects.local(models["model"])
    whole = run_harness(subject, ["piqa"], data=data)
    assert run_harness(subject, ["piqa"], data=data, limit=3) == {"piqa": whole["piqa"][:3]}


def test_a_model_of_the_harness_is_asked_in_the_subjects_place(data, models):
    from lm_eval.models.huggingface import HFLM

    own = HFLM(pretrained=models["pair"].model, tokenizer=WORDS)
    found = run_harness(subjects.Writer({}), ["arc_easy"], data=data, harness_model=own)
    assert found == run_harness(subjects.local(models["pair"]), ["arc_easy"], data=data)


def test_bad_input_is_refused_in_one_line(tmp_path, data, models):
    subject = subjects.local(models["model"])
    with pytest.raises(InputError, match="^wanted tasks among arc_challenge, .*; got mmlu; leave them out$"):
        run_harness(subject, ["mmlu", "piqa"], data=data)
    with pytest.raises(
        InputError, match="^wanted piqa.jsonl or piqa.json; got neither in .*; add it, or leave the task"
    ):
        run_harness(subject, ["piqa"], data=tmp_path)
    with pytest.raises(MeasureError, match="^wanted a model in this process; got writer, a server; give the model's"):
        run_harness(subjects.Writer({}), ["piqa"], data=data)
