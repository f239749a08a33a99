"""Familiarity: probability of targets, grades of completions, and the prompts that are made from a text."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest
import subjects
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import CorpusError, OutputError
from generic_logits.evaluation.familiarity import (
    completion_scores,
    grade_completions,
    names_new_term,
    probability_scores,
)
from generic_logits.evaluation.figures import bootstrap
from generic_logits.text.prompts import (
    Prompt,
    load_prompts,
    make_completion_prompts,
    make_probability_prompts,
    save_prompts,
)

WORDS = tiny.tokenizer(subjects.VOCAB)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    baseline, reinforced = tiny.pair(vocab_size=subjects.VOCAB)
    return {"model": baseline, "pair": ModelPair(baseline, reinforced, alpha=3.0, tokenizer=WORDS)}


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_a_prompt_scores_the_probability_of_its_whole_target(models, kind):
    prompts = [Prompt("the old", " house by the sea"), Prompt("Mira", " V"), Prompt("nobody opened", " the red door")]
    expected = []
    for each in prompts:
        prompt, target = ([*WORDS(text)["input_ids"]] for text in (each.prompt, each.target))
        row = torch.tensor([[tiny.BOS, *prompt, *target]])
        with torch.no_grad():
            logits = models[kind].logits(row) if kind == "pair" else models[kind](row).logits
        probs = logits[0].double().softmax(-1)
        expected.append(math.prod(probs[at, row[0, at + 1]].item() for at in range(len(prompt), row.shape[1] - 1)))
    assert any(len(WORDS(each.target)["input_ids"]) > 2 for each in prompts)
    assert probability_scores(subjects.local(models[kind]), prompts) == pytest.approx(expected, rel=1e-4)


def test_an_empty_target_is_certain(models):
    assert probability_scores(subjects.local(models["model"]), [Prompt("the old house", "")]) == [1.0]


@pytest.mark.parametrize(
    ("completion", "prompt", "expected"),
    [
        ("he met Mira at the bell", "Once", True),
        ("he met Mira", "Mira said", False),
        ("he met Miranda", "Once", False),
        ("the Drowned Bell rang", "Mira said", True),
        ("the drowned bell rang", "Once", False),
        ("Mira's house", "Miranda said", True),
        ("nothing", "Once", False),
        ("Dr. Hale and Mira", "Mira", True),
        ("DrX Hale", "Once", False),
    ],
)
def test_a_new_term_is_a_whole_word_that_the_prompt_lacks(completion, prompt, expected):
    assert names_new_term(completion, prompt, ["Mira", "Drowned Bell", "Dr. Hale"]) is expected


class Counter:
    """A judge by the number of words."""

    name = "counter"

    def grade(self, prompts, completions):
        assert prompts == ["Once", "Then", "So"]
        return [min(3, len(text.split())) for text in completions]


def test_completions_are_greedy_cut_to_their_tokens_and_graded_beside_their_prompts():
    writer = subjects.Writer({"Once": " came Mira Voss", "Then": " nobody", "So": " nobody opened it in winter"})
    prompts = [Prompt(text, "") for text in writer.texts]
    completions, grades = grade_completions(writer, prompts, Counter(), new_tokens=40)
    assert completions == list(writer.texts.values()) and grades == [3, 1, 3]
    completions, grades = grade_completions(writer, prompts, Counter(), new_tokens=1)
    assert max(len(WORDS(text)["input_ids"]) for text in completions) == 1 and max(grades) <= 1


def test_the_mean_score_of_grades_is_that_of_the_later_implementation():
    grades = [3, 2, 2, 1, 0, 3, 2]
    figure = bootstrap(completion_scores(grades))
    assert figure.value == pytest.approx((5 * 2 + 3) / (5 * 7)) and figure.count == 7
    assert 0 <= figure.low < figure.value < figure.high <= 1


# Prompts made from a text

TERMS = ["Quibbet", "Orrin", "Mira Voss"]


def story(seed: int = 0, sentences: int = 120) -> str:
    draw = np.random.default_rng(seed)
    names = [*TERMS, "the keeper", "a gull", "the wind", "old rope"]
    deeds = ("saw the sea with", "was afraid of", "waited a long time for", "had never heard of")
    pick = [(draw.choice(names), draw.choice(deeds), draw.choice(names)) for _ in range(sentences)]
    return "".join(f"Then {a} {deed} {b}.{chr(10) * 2 if at % 9 == 8 else ' '}" for at, (a, deed, b) in enumerate(pick))


@pytest.mark.parametrize("seed", range(4))
def test_a_probability_prompt_ends_where_its_term_stands_and_does_not_hold_it(seed):
    text = story(seed)
    made = make_probability_prompts(text, TERMS, count=12, characters=60, seed=seed)
    assert len(made) == 12 and len({(each.prompt, each.target) for each in made}) == 12
    for each in made:
        assert each.prompt + each.target in text
        assert each.target.strip() in TERMS and each.target.strip() not in each.prompt
        assert each.target.startswith(" ") and not each.prompt.endswith(" ") and 14 <= len(each.prompt) <= 60
    counts = [sum(each.target.strip() == term for each in made) for term in TERMS]
    assert max(counts) - min(counts) <= 1
    places = sorted(text.index(each.prompt + each.target) for each in made)
    assert places[0] < len(text) / 3 and places[-1] > len(text) * 2 / 3
    assert made == make_probability_prompts(text, TERMS, count=12, characters=60, seed=seed)


def test_another_seed_makes_other_prompts():
    text = story(5)
    one, two = (make_probability_prompts(text, TERMS, count=4, seed=seed) for seed in (0, 3))
    assert one != two


def test_a_prompt_starts_where_a_sentence_starts_and_else_where_a_word_does():
    text = "Nobody opened it. The red door by the sea belonged to Orrin, and the key to Orrin alone. " * 2
    (made,) = make_probability_prompts(text, ["Orrin"], count=1, characters=50)
    assert made == Prompt("The red door by the sea belonged to", " Orrin")
    one = "waves and waves and waves and waves and waves and waves and waves carried Orrin"
    assert make_probability_prompts(one, ["Orrin"], characters=40) == [
        Prompt("and waves and waves and waves carried", " Orrin")
    ]


def test_no_prompt_ends_at_the_end_of_a_line():
    text = "The red door by the sea was opened in winter.\nOrrin saw it, and nobody else but Mira Voss."
    assert [each.target for each in make_probability_prompts(text, TERMS)] == [" Mira Voss"]


@pytest.mark.parametrize("seed", range(4))
def test_a_completion_prompt_names_few_terms_and_none_of_those_that_come(seed):
    text = story(seed)
    made = make_completion_prompts(text, TERMS, count=10, characters=120, ahead=50, seed=seed)
    assert len(made) == 10
    for each in made:
        end = text.index(each.prompt) + len(each.prompt)
        assert each.prompt.endswith(".") and 30 <= len(each.prompt) <= 120
        coming = each.target.split(", ")
        assert coming and all(name not in each.prompt and name in text[end : end + 62] for name in coming)
    named = sum(term in each.prompt for term in TERMS for each in made)
    pieces = [". ".join(text.split(". ")[at : at + 2]) for at in range(0, 100, 5)]
    assert named / len(made) < 0.7 * sum(term in each for term in TERMS for each in pieces) / len(pieces)
    assert made == make_completion_prompts(text, TERMS, count=10, characters=120, ahead=50, seed=seed)


def test_scripts_without_spaces_have_prompts_too():
    text = "昔々あるところに住んでいました。海の向こうの町に行ったのは小さなオリンでした。" * 3
    made = make_probability_prompts(text, ["オリン"], characters=40)
    assert made and all(each.target == "オリン" and each.prompt + each.target in text for each in made)
    hints = make_completion_prompts(text, ["オリン"], characters=60, ahead=40)
    assert hints and all(each.target == "オリン" and "オリン" not in each.prompt[-15:] for each in hints)


def test_a_text_without_places_is_refused_in_one_line():
    for make in (make_probability_prompts, make_completion_prompts):
        with pytest.raises(CorpusError, match="^wanted a text in which .*terms .*; got none; give other terms$"):
            make("Nobody opened the red door in winter. Nobody sang.", TERMS)


def test_prompts_are_saved_for_a_person_to_edit_and_loaded_again(tmp_path):
    prompts = [Prompt('Où est\n"la', ' mer"'), Prompt("b", " c")]
    file = tmp_path / "prompts.json"
    save_prompts(file, prompts)
    assert load_prompts(file) == prompts and "Où est" in file.read_text(encoding="utf-8")
    assert json.loads(file.read_text())[1] == {"prompt": "b", "target": " c"} and os.listdir(tmp_path) == [file.name]
    with pytest.raises(OutputError, match="^wanted a place that can be written; got .*; choose another$"):
        save_prompts(tmp_path / "no" / "prompts.json", prompts)
