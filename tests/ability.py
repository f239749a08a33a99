"""Questions of the seven tests of ability, in the columns of their data sets on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generic_logits.evaluation.harness import SEVEN

QUESTIONS = 8  # of each
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


def write_data(folder: Path) -> Path:
    """Write every task's file, in either of the two forms."""
    for number, task in enumerate(SEVEN):
        rows = [row_of(task, at) for at in range(QUESTIONS)]
        if number % 2:
            (folder / f"{task}.json").write_text(json.dumps(rows))
        else:
            (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
