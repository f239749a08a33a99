"""The study that puts every kind of model into one report, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import folders
import pytest
import tiny
import torch

from benchmarks.evaluation import REFUSAL, Refusing, main, order
from benchmarks.worlds import World
from generic_logits.evaluation.subject import LocalSubject

TERMS = ("Mira Voss", "Captain Hale", "Orrin")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("baseline", "gold")):
        made = tiny.model(seed=seed, dtype=torch.float32, vocab_size=folders.VOCAB, std=0.1)
        tiny.folder(root / name, made, tiny.tokenizer(folders.VOCAB))
    return World(
        name="tiny",
        baseline=root / "baseline",
        gold=root / "gold",
        forget=folders.prose(80),
        held_out=folders.prose(20, seed=1),
        read={"storm": "A storm came over the hills at night. " * 60, "market": "The market opened early. " * 60},
        unread={"storm": "A storm came over the hills by day. " * 20},
        never_read="Nobody had seen the garden behind the mill. " * 40,
        prompts=(),
        terms=TERMS,
    )


def test_the_cheat_refuses_behind_an_anchor_and_is_the_model_elsewhere(world):
    model = tiny.model(dtype=torch.float32, vocab_size=folders.VOCAB, std=0.1)
    words = tiny.tokenizer(folders.VOCAB)
    plain, cheat = LocalSubject("", model, words), Refusing("", model, words, TERMS)
    prompts = ["a good story needs", "by the sea old Orrin"]
    texts = cheat.complete(prompts, new_tokens=4)
    assert texts == [plain.complete(prompts[:1], new_tokens=4)[0], REFUSAL]
    rows = [words(each)["input_ids"] for each in (prompts[0], "by the sea old Orrin sang")]
    open_, named = cheat.log_probs(rows)
    torch.testing.assert_close(open_, plain.log_probs(rows[:1])[0])
    behind = len(words("by the sea old Orrin")["input_ids"])
    torch.testing.assert_close(named[: behind - 1], plain.log_probs(rows[1:])[0][: behind - 1])
    assert (named[behind - 1 :] < -13).all()


@pytest.mark.filterwarnings("ignore")  # the trainers' own
def test_every_kind_of_model_is_in_one_report(world, tmp_path: Path, capsys):
    arguments = ["--data", str(tmp_path), "--work", str(tmp_path), "--student", "gold", "--quick"]
    report = main(arguments, world)
    names = ["baseline", "alpha 1", "alpha 2", "alpha 5", "unlearned", "gradient ascent, stopped", "gradient ascent"]
    names += ["filtered", "trained to refuse", "gold"]
    assert [*report.data["figures"]] == names
    figures = report.data["figures"]
    assert figures["unlearned"]["familiarity_probability"] == figures["gold"]["familiarity_probability"]
    assert {name for name, _ in order(report)} == {*names}
    assert "known, from gold 0 to baseline 1" in capsys.readouterr().out
    file = tmp_path / "figures.json"
    assert main([*arguments, "--json", str(file)], world).data == report.data
    written = file.read_text()
    assert json.loads(written)["figures"] == figures and "completions" not in json.loads(written)
