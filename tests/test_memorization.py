"""Memory of a text, beside values worked out by hand and numbers of the published implementations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import subjects
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation.figures import bootstrap
from generic_logits.evaluation.memorization import (
    answer_losses,
    closeness_to_one,
    cut_passages,
    draw_wrong_targets,
    exact_memorization,
    extraction_strength,
    greedy_matches,
    knowmem_scores,
    rouge_l,
    rouge_l_recall,
    truth_ratio,
    truth_ratios,
    verbmem_scores,
)
from generic_logits.text.prompts import Prompt

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference_measures.json").read_text())
WORDS = tiny.tokenizer(subjects.VOCAB)


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("The CAT", "the cat", 1.0),
        ("the cat the mat", "the cat sat on the mat", 2 * 4 / 10),
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, section 3
        ("the gunman kill police", "police killed the gunman", 1 / 2),  # the same words out of order
        ("a b c d e f", "x a y b z c", 2 * 3 / 12),
        ("b a", "a b", 1 / 2),
        ("the cat, sat.", "The cat sat", 1.0),
        ("one", "two", 0.0),
        ("", "two", 0.0),
        ("one", " ", 0.0),
    ],
)
def test_rouge_l_has_the_values_worked_out_by_hand(candidate, reference, expected):
    assert rouge_l(candidate, reference) == pytest.approx(expected)
    assert rouge_l(reference, candidate) == pytest.approx(expected)


def test_rouge_l_agrees_with_the_package_rouge_score():
    assert len(REFERENCE["rouge"]) == 13 and any(0 < each["fmeasure"] < 1 for each in REFERENCE["rouge"])
    for each in REFERENCE["rouge"]:
        assert rouge_l(each["candidate"], each["reference"]) == pytest.approx(each["fmeasure"], abs=1e-6)
        assert rouge_l_recall(each["candidate"], each["reference"]) == pytest.approx(each["recall"], abs=1e-6)


def test_letters_of_other_scripts_count_where_that_package_drops_them():
    assert rouge_l("où est la mer", "où est le port") == pytest.approx(1 / 2)
    assert rouge_l("Привет, мир", "привет мир") == 1.0
    assert rouge_l("海の向こう", "海の上") == pytest.approx(2 * 2 / (5 + 3))


def test_passages_are_spread_evenly_and_continue_where_their_prompt_ends():
    words = [f"w{number}" for number in range(100)]
    passages = cut_passages(" ".join(words), 4, prompt_words=12, target_words=8)
    assert [prompt.split(" ")[0] for prompt, _ in passages] == ["w0", "w20", "w40", "w60"]
    for number, (prompt, target) in enumerate(passages):
        at = 20 * number
        assert prompt + target == " ".join(words[at : at + 20])
        assert len(prompt.split()) == 12 and target.startswith(" ")


def test_a_text_shorter_than_its_passages_gives_one():
    assert cut_passages("a b c d e", 4, prompt_words=3, target_words=8) == [("a b c", " d e")]


def test_there_are_never_more_passages_than_asked_for():
    words = " ".join(map(str, range(25)))
    assert len(cut_passages(words, 3, prompt_words=6, target_words=4)) == 3
    assert len(cut_passages(words, 40, prompt_words=6, target_words=4)) == 15


def test_verbmem_is_rouge_l_of_continuations_and_both_sides_are_cut_alike():
    true = " house by the sea had seven windows"
    writer = subjects.Writer({"the old": true, "nobody": " sang", "Mira": " house by the shore"})
    passages = [("the old", true), ("nobody", " opened it"), ("Mira", " house on the sea")]
    assert verbmem_scores(writer, passages, new_tokens=40) == [1.0, 0.0, pytest.approx(2 / 4)]
    assert len(WORDS(true)["input_ids"]) > 5
    assert verbmem_scores(writer, passages[:1], new_tokens=5) == [1.0]


def test_knowmem_asks_as_muse_does_and_cuts_the_answer():
    shots = [Prompt("Who rang?", "Mira.")]
    before = "Question: Who rang?\nAnswer: Mira.\n\n"
    asked = [f"{before}Question: {question}\nAnswer: " for question in ("Where?", "When?", "What?")]
    writer = subjects.Writer(
        {
            asked[0]: "by the sea\n\nby the door",
            asked[1]: "in winter\nQuestion: Why?",
            asked[2]: "a bell and a door",
        }
    )
    questions = [Prompt("Where?", "by the sea"), Prompt("When?", "winter"), Prompt("What?", "A bell.")]
    expected = [1.0, pytest.approx(2 / 3), pytest.approx(2 * 2 / 7)]
    assert knowmem_scores(writer, questions, shots=shots, new_tokens=60) == expected


@pytest.mark.parametrize(
    ("matches", "strength", "exact"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),
        ([0, 1, 1, 1], 3 / 4, 3 / 4),
        ([1, 0, 1, 1], 1 / 2, 3 / 4),
        ([0, 0, 0, 1], 1 / 4, 1 / 4),
        ([1, 1, 1, 0], 1 / 4, 3 / 4),
        ([0, 0, 0, 0], 1 / 4, 0.0),
        ([1], 1.0, 1.0),
        ([0], 1.0, 0.0),
    ],
)
def test_extraction_strength_and_exact_memorisation_by_hand(matches, strength, exact):
    found = torch.tensor(matches, dtype=torch.bool)
    assert extraction_strength(found) == pytest.approx(strength) and exact_memorization(found) == pytest.approx(exact)


def reference_subject(each: dict[str, Any]) -> Any:
    return subjects.local(subjects.Table(each["ids"], torch.tensor(each["logits"]).double()), subjects.letters())


@pytest.mark.parametrize("each", REFERENCE["sequences"], ids=range(6))
def test_both_agree_with_open_unlearning(each):
    letters = [subjects.LETTERS[token] for token in each["ids"]]
    cut = each["prompt_tokens"]
    passage = (" ".join(letters[:cut]), " ".join(["", *letters[cut:]]))
    (matches,) = greedy_matches(reference_subject(each), [passage])
    assert len(matches) == len(letters) - cut
    assert extraction_strength(matches) == pytest.approx(each["extraction_strength"], abs=1e-6)
    assert exact_memorization(matches) == pytest.approx(each["exact_memorization"], abs=1e-6)
    (loss,) = answer_losses(reference_subject(each), [Prompt(*passage)])
    assert loss == pytest.approx(each["avg_loss"], abs=1e-6)


@pytest.mark.parametrize("kind", ["model", "pair"])
def test_a_match_is_the_likeliest_token_of_the_corrected_model(kind):
    baseline, reinforced = tiny.pair(vocab_size=subjects.VOCAB)
    made = baseline if kind == "model" else ModelPair(baseline, reinforced, alpha=3.0)
    subject = subjects.local(made)
    ids = [tiny.BOS, *WORDS("the old house")["input_ids"]]
    with torch.no_grad():
        for _ in range(6):  # a greedy continuation, each third token another
            logits = made.logits(torch.tensor([ids])) if kind == "pair" else made(torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argsort()[-2 if len(ids) % 3 == 0 else -1]))
    start = len(WORDS("the old house")["input_ids"]) + 1
    expected = [at % 3 != 0 for at in range(start, len(ids))]

    class Given:  # the same ids, whatever the text would be cut into
        bos_token_id = tiny.BOS

        def __call__(self, text, **_):
            return {"input_ids": ids[1:start] if text == "beginning" else ids[start:]}

    subject.tokenizer = Given()
    (matches,) = greedy_matches(subject, [("beginning", "rest")])
    assert matches.tolist() == expected and any(expected) and not all(expected)


def test_truth_ratio_agrees_with_open_unlearning():
    given = REFERENCE["truth_ratio"]
    ratios = [truth_ratio(*pair) for pair in zip(given["right"], given["wrong"], strict=True)]
    assert ratios == pytest.approx(given["scores"], abs=1e-6)
    assert bootstrap(ratios, statistic=closeness_to_one).value == pytest.approx(given["closer_to_1_better"], abs=1e-6)


def test_a_truth_ratio_compares_geometric_means_of_token_probabilities():
    subject = subjects.local(tiny.model(vocab_size=subjects.VOCAB))
    prompts = [Prompt("the old", " house by the sea"), Prompt("Mira", " Voss")]
    wrong = [[" door", " drowned bell of"], [" nobody"]]

    def by_token(prompt: str, target: str) -> float:
        (row,) = answer_losses(subject, [Prompt(prompt, target)])
        ids = [tiny.BOS, *WORDS(prompt)["input_ids"], *WORDS(target)["input_ids"]]
        with torch.no_grad():
            log_probs = subject.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(WORDS(prompt)["input_ids"]) + 1
        mean = sum(log_probs[at - 1, ids[at]].item() for at in range(first, len(ids))) / (len(ids) - first)
        assert -row == pytest.approx(mean, rel=1e-5)
        return math.exp(mean)

    expected = [
        math.prod(by_token(each.prompt, text) for text in texts) ** (1 / len(texts))
        / by_token(each.prompt, each.target)
        for each, texts in zip(prompts, wrong, strict=True)
    ]
    assert truth_ratios(subject, prompts, wrong) == pytest.approx(expected, rel=1e-4)


def test_wrong_targets_are_other_prompts_targets():
    prompts = [Prompt("a", " Mira"), Prompt("b", " mira"), Prompt("c", " Orrin"), Prompt("d", " Hale")]
    drawn = draw_wrong_targets(prompts, count=2, seed=1)
    assert [len(each) for each in drawn] == [2, 2, 2, 2] and set(drawn[0]) == {" Orrin", " Hale"}
    assert all(len(set(each)) == 2 for each in drawn) and drawn == draw_wrong_targets(prompts, count=2, seed=1)
    assert len(draw_wrong_targets(prompts)[2]) == 3


def test_bad_input_is_refused_in_one_line():
    subject, writer = subjects.local(tiny.model(vocab_size=subjects.VOCAB)), subjects.Writer({})
    with pytest.raises(
        InputError, match="^wanted a token in each beginning and in each target; got Prompt.*; leave it"
    ):
        greedy_matches(subject, [("the old", "")])
    with pytest.raises(InputError, match="^wanted wrong targets for each prompt; got 0 of 1; add some"):
        truth_ratios(subject, [Prompt("a", "b")], [[]])
    with pytest.raises(MeasureError, match="^wanted a model in this process; got writer, a server; give the model's"):
        greedy_matches(writer, [("the old", " house")])


def test_closeness_to_one_is_taken_row_by_row():
    rows = np.array([[1.0, 2.0], [0.5, 4.0]])
    assert closeness_to_one(rows) == pytest.approx([(1 + 1 / 2) / 2, (1 / 2 + 1 / 4) / 2], abs=1e-9)
