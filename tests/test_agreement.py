"""How far judges agree with grades given by hand: the figures, the shipped set, and what a report records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from endpoints import Answer, Endpoint, prompt_of

from generic_logits.demo import world
from generic_logits.errors import InputError
from generic_logits.evaluation.agreement import (
    Graded,
    agreement,
    demo_rules,
    hand_graded,
    judges_on_record,
    quadratic_kappa,
)
from generic_logits.evaluation.judge import ModelJudge, RuleJudge


def test_kappa_weighs_disagreement_by_its_square():
    assert quadratic_kappa([0, 1, 2, 3], [0, 1, 2, 3]) == 1.0 == quadratic_kappa([2, 2], [2, 2])
    assert quadratic_kappa([3, 3, 3, 3], [0, 1, 2, 3]) == pytest.approx(0.0)  # as by chance
    assert quadratic_kappa([0, 0, 3, 3], [3, 3, 0, 0]) == pytest.approx(-1.0)
    one, other = [0, 1, 1, 3, 2, 0], [0, 2, 1, 3, 3, 1]
    observed = sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / 6
    expected = sum((a - b) ** 2 for a in one for b in other) / 36
    assert quadratic_kappa(one, other) == pytest.approx(1 - observed / expected)
    assert quadratic_kappa(one, other) > quadratic_kappa([0, 1, 1, 3, 2, 3], other)  # 2 off weighs more than 1 off


def test_agreement_counts_equal_grades():
    rules = RuleJudge(["Pellory", "Kettle Tower"], "")
    items = [Graded("a", " Pellory", 3), Graded("a", " tower", 2), Graded("a", " x", 0), Graded("a", " a tower", 1)]
    found = agreement(rules, items)
    assert found.exact == 3 / 4 and found.count == 4 and found.kappa == quadratic_kappa([3, 1, 0, 1], [3, 2, 0, 1])
    with pytest.raises(InputError, match="^wanted graded completions; got none; give some$"):
        agreement(rules, [])


def test_the_hand_graded_set_has_all_grades_and_no_item_twice():
    items = hand_graded()
    counts = Counter(each.grade for each in items)
    assert len(items) >= 40 and set(counts) == {0, 1, 2, 3} and min(counts.values()) >= 10
    assert len({(each.prompt, each.completion) for each in items}) == len(items)
    assert {each.by for each in items} >= {"baseline", "gold", "written"}
    names = world.names()
    assert all(each.grade == 3 or not any(name in each.completion for name in names if name not in each.prompt)
               for each in items)  # fmt: skip


def test_the_rules_agree_with_the_hand_graded_set_as_far_as_they_are_said_to():
    found = agreement(demo_rules(), hand_graded())
    assert (round(found.exact, 2), round(found.kappa, 2), found.count) == (0.69, 0.79, 94)
    paraphrases = agreement(demo_rules(), [each for each in hand_graded() if each.by == "written"])
    assert (round(paraphrases.exact, 2), round(paraphrases.kappa, 2)) == (0.36, 0.28)


# On record, in a report


def graded_as(wanted: Callable[[Graded], int]) -> Callable[[int, dict[str, Any]], Answer]:
    """A script of an endpoint that knows the hand-graded set."""
    items = hand_graded()

    def script(number: int, body: dict[str, Any]) -> Answer:
        parts = prompt_of(body).split("----\n")
        (item,) = (each for each in items if (parts[1], parts[3]) == (f"{each.prompt}\n", f"{each.completion}\n"))
        return Answer({"reason": "", "grade": wanted(item)})

    return script


def judge(endpoint: Endpoint, folder: Path, model: str | None = None) -> ModelJudge:
    about = "the user's own book"
    return ModelJudge(endpoint.url, about=about, terms=["Mira Voss"], model=model, cache=folder, retries=0)


def rows(record: dict[str, Any]) -> dict[tuple[str, str, str], tuple[float, float, int]]:
    return {
        (row["judge"], row["against"], row["group"]): (round(row["exact"], 2), round(row["kappa"], 2), row["count"])
        for row in record["agreement"]
    }


def test_the_rules_are_always_on_record_by_group_and_said_to_be_poor_on_fluent_texts():
    record = judges_on_record(RuleJudge(["Mira Voss"], "Mira Voss was here."))
    assert record["used"] == "rules" and rows(record) == {
        ("rules", "hand", "all"): (0.69, 0.79, 94),
        ("rules", "hand", "small"): (0.83, 0.91, 66),
        ("rules", "hand", "fluent"): (0.36, 0.28, 28),
    }
    first, second = record["sentences"]
    assert first == (
        "The judge “rules” graded 69\N{NO-BREAK SPACE}% of 94 completions as a reader did "
        "(kappa 0.79: 0.91 on what small models wrote, 0.28 on fluent texts)."
    )
    assert second == "On fluent texts its grades say little: a model can grade instead (--judge)."


def test_a_model_is_asked_about_the_demos_book_and_compared_with_hand_and_rules(endpoint, tmp_path):
    endpoint.script = graded_as(lambda item: item.grade)
    record = judges_on_record(judge(endpoint, tmp_path))
    assert all(world.ABOUT in told and "Pellory" in told for told in map(prompt_of, endpoint.questions))
    assert not any("the user's own book" in prompt_of(each) for each in endpoint.questions)
    found = rows(record)
    assert [*dict.fromkeys(pair[:2] for pair in found)] == [("rules", "hand"), ("tiny", "hand"), ("tiny", "rules")]
    for group, count in (("all", 94), ("small", 66), ("fluent", 28)):
        assert found["tiny", "hand", group] == (1.0, 1.0, count)
        assert found["tiny", "rules", group] == found["rules", "hand", group]
    assert record["used"] == "tiny" and len(endpoint.questions) == 94
    assert not any("say little" in sentence for sentence in record["sentences"])
    judges_on_record(judge(endpoint, tmp_path))
    assert len(endpoint.questions) == 94


def test_a_model_that_is_called_as_the_rules_are_is_told_from_them(endpoint, tmp_path):
    endpoint.script = graded_as(lambda item: item.grade)
    found = rows(judges_on_record(judge(endpoint, tmp_path, model="rules")))
    assert found["model rules", "hand", "all"] == (1.0, 1.0, 94)
    assert found["rules", "hand", "all"][0] < 1


def test_a_model_that_grades_against_the_hand_is_told(endpoint, tmp_path):
    endpoint.script = graded_as(lambda item: 3 - item.grade)
    record = judges_on_record(judge(endpoint, tmp_path))
    assert rows(record)["tiny", "hand", "all"][1] < 0
    assert (
        "On what small models wrote and fluent texts its grades say little: ask a more capable model."
        in (record["sentences"])
    )


def test_grades_given_before_an_endpoint_fails_are_kept(endpoint, tmp_path):
    right = graded_as(lambda item: item.grade)
    endpoint.script = lambda number, body: right(number, body) if number <= 30 else Answer("no")
    with pytest.raises(InputError, match="^wanted a grade from tiny; got none in 1 attempts"):
        judges_on_record(judge(endpoint, tmp_path))
    kept = len([*tmp_path.iterdir()])
    assert kept >= 30 - 4  # four are asked at one time
    before, endpoint.script = len(endpoint.questions), right
    assert rows(judges_on_record(judge(endpoint, tmp_path)))["tiny", "hand", "all"] == (1.0, 1.0, 94)
    assert len(endpoint.questions) == before + 94 - kept


def test_of_a_judge_that_cannot_be_asked_about_another_text_that_is_said():
    class Own:
        name = "own"
        described = MappingProxyType({"name": "own"})

        def grade(self, prompts: Sequence[str], completions: Sequence[str]) -> list[int]:
            return [0 for _ in prompts]

    record = judges_on_record(Own())
    assert {row["judge"] for row in record["agreement"]} == {"rules"}
    assert record["sentences"][-1] == "How far “own”, the judge in use, agrees with a reader was not measured."
