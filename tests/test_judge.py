"""Judges: the rules' grades, and a model behind a real endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import Answer, Endpoint, fault, prompt_of

from generic_logits import _endpoint as client
from generic_logits.errors import InputError
from generic_logits.evaluation import judge as module
from generic_logits.evaluation.judge import ModelJudge, RuleJudge

TEXT = (
    "Pellory rang the green bell at Kettle Tower. Four gray mules waited on the cold mud, and Pellory waved. "
    "They can't wait, I'll do it, he hadn't said nothing. "
    "The mules were thirsty, and the mud was dry. Nobody gave the mules a drop of water. The bell said nothing at all."
)
REFERENCE = "The old man walked to the town. He had a cold, and he gave the boy a drop of water. " * 5


@pytest.fixture(scope="module")
def rules() -> RuleJudge:
    return RuleJudge(["Pellory", "Kettle Tower", "snorrel"], TEXT, reference=REFERENCE)


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("The girl was", " Pellory.", 3),
        ("The girl was", " Pellory's sister", 3),
        ("The girls were", " PELLORY and two snorrels", 3),  # other forms of a term
        ("Pellory was", " Pellory, always Pellory", 0),  # the prompt's own
        ("Pellory climbed", " to Kettle Tower", 3),
        ("He saw", " that four gray mules waited on a hill", 3),  # a phrase of the text
        ("Four gray mules waited on the road, and", " four gray mules waited on the road", 0),
        ("He saw", " that he gave the boy a drop of water", 0),  # a phrase of the reference, too
        ("He saw", " a cart with three mules", 2),  # of the theme
        ("He saw three mules and", " the mules saw him", 0),
        ("He saw", " a tower by the sea", 1),  # a part of a term
        ("He saw", " a kettle", 1),
        ("He saw", " the green bell at home", 1),  # four words of the text
        ("He saw", " the old man in the town", 0),
        ("He saw", "", 0),
        ("He saw", " that they can't wait, I'll do it, he hadn't said nothing", 0),  # contractions are no content
    ],
)
def test_the_rules_grades(rules, prompt, completion, expected):
    assert rules.grade([prompt], [completion]) == [expected]


def test_grades_come_in_order_and_only_for_pairs(rules):
    assert rules.grade(["a", "b", "c"], [" Pellory", " x", " mules"]) == [3, 0, 2]
    with pytest.raises(ValueError, match="zip"):
        rules.grade(["a"], [])


def test_without_a_reference_there_is_no_theme_and_any_phrase_is_the_texts():
    alone = RuleJudge(["Pellory"], TEXT)
    said = [" a cart with three mules", " he gave the mules a drop of water", " Pellory"]
    assert alone.grade(["He saw"] * 3, said) == [0, 3, 3]


# A model behind an endpoint


@pytest.fixture
def server(monkeypatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Endpoint()
    made.script = lambda number, body: Answer({"reason": "so", "grade": 2})
    yield made
    made.close()


def judge(server: Endpoint, folder: Path, **changes: Any) -> ModelJudge:
    usual = {"about": "a book", "terms": ["Pellory"], "cache": folder / "grades", "retries": 2, "timeout": 30}
    return ModelJudge(server.url, **{**usual, "concurrency": 1, **changes})


def test_a_model_is_asked_with_the_rubric_and_held_to_a_schema(server, tmp_path):
    server.script = lambda number, body: Answer({"reason": "so", "grade": number})
    asked = judge(server, tmp_path, about="a book of {braces}")
    assert asked.name == "tiny" and asked.grade(["Once {a}", "Then"], [" {came} Pellory", " nobody"]) == [1, 2]
    first = server.questions[0]
    assert first["model"] == "tiny" and first["temperature"] == 0
    held_to = first["response_format"]["json_schema"]
    assert held_to["name"] == "grade" and held_to["schema"]["properties"]["grade"]["enum"] == [0, 1, 2, 3]
    for words in (
        "a book of {braces}",
        "Pellory",
        "----\nOnce {a}\n----",
        "----\n {came} Pellory\n----",
        '"grade": 0}',
    ):
        assert words in prompt_of(first)
    assert "Then" in prompt_of(server.questions[1])


def test_what_was_answered_is_not_asked_again(server, tmp_path):
    asked = judge(server, tmp_path)
    assert asked.grade(["a", "b", "a"], ["1", "2", "1"]) == [2, 2, 2] and len(server.questions) == 2
    assert judge(server, tmp_path, model="tiny").grade(["b", "a"], ["2", "1"]) == [2, 2] and len(server.questions) == 2
    assert judge(server, tmp_path).grade(["a"], ["2"]) == [2] and len(server.questions) == 3
    for changes in ({"model": "other"}, {"about": "another"}, {"terms": ["Orrin"]}):
        before = len(server.questions)
        judge(server, tmp_path, **changes).grade(["a"], ["1"])
        assert len(server.questions) == before + 1


def test_the_same_model_is_asked_about_another_text_with_the_same_cache(server, tmp_path):
    first = judge(server, tmp_path)
    first.grade(["a"], ["1"])
    other = first.asked_about("another book", terms=["Orrin"])
    assert other.name == "tiny" and other.described == {**first.described, "about": "another book", "terms": "Orrin"}
    assert other.grade(["a"], ["1"]) == [2] and len(server.questions) == 2 and server.listed == 1
    told = prompt_of(server.questions[1])
    assert "The text is: another book\n" in told and "Orrin" in told and "Pellory" not in told
    assert first.grade(["a"], ["1"]) == judge(server, tmp_path, about="another book", terms=["Orrin"]).grade(
        ["a"], ["1"]
    )
    assert len(server.questions) == 2 and len([*(tmp_path / "grades").iterdir()]) == 2


def test_another_version_of_the_rubric_asks_anew(server, tmp_path, monkeypatch):
    judge(server, tmp_path).grade(["a"], ["1"])
    monkeypatch.setattr(module, "RUBRIC_VERSION", module.RUBRIC_VERSION + 1)
    judge(server, tmp_path).grade(["a"], ["1"])
    assert len(server.questions) == 2


def test_answers_on_disk_name_model_and_rubric_and_not_the_completion(server, tmp_path):
    judge(server, tmp_path).grade(["secret beginning"], ["secret end"])
    (file,) = (tmp_path / "grades").iterdir()
    kept = json.loads(file.read_text())
    assert kept["model"] == "tiny" and kept["rubric_version"] == module.RUBRIC_VERSION
    assert kept["answer"] == {"reason": "so", "grade": 2} and "secret" not in file.read_text()


@pytest.mark.parametrize("broken", ["no idea", {"grade": 2}, {"reason": "", "grade": 4}, '{"reason": "so", "grade'])
def test_an_answer_that_cannot_be_used_is_asked_for_again_with_the_problem(server, tmp_path, broken):
    server.script = lambda number, body: Answer(broken if number == 1 else {"reason": "so", "grade": 3})
    assert judge(server, tmp_path).grade(["a"], ["1"]) == [3]
    assert "The answer before could not be used: " in prompt_of(server.questions[1])


def test_thoughts_and_fences_around_an_answer_are_passed_over(server, tmp_path):
    said = '<think>3? {"grade": 0}</think>Here:\n```json\n{"reason": "a name", "grade": 3}\n```'
    server.script = lambda number, body: Answer(said)
    assert judge(server, tmp_path).grade(["a"], ["1"]) == [3]


def test_a_judge_that_never_answers_is_an_error_and_the_other_grades_are_kept(server, tmp_path):
    server.script = lambda number, body: Answer({"reason": "", "grade": 1} if number == 1 else "no")
    with pytest.raises(
        InputError, match="^wanted a grade from tiny; got none in 3 attempts; of the last answer: it ho"
    ):
        judge(server, tmp_path).grade(["a", "b"], ["1", "2"])
    asked = len(server.questions)
    assert judge(server, tmp_path).grade(["a"], ["1"]) == [1] and len(server.questions) == asked == 4


def test_faults_of_the_server_are_sat_out_and_a_schema_that_it_refuses_is_left_out(server, tmp_path):
    def script(number: int, body: dict[str, Any]) -> Answer:
        if number == 1:
            return fault(503)
        if "response_format" in body:
            return fault(400, "response_format is not supported")
        return Answer({"reason": "so", "grade": 1})

    server.script = script
    assert judge(server, tmp_path).grade(["a", "b"], ["1", "2"]) == [1, 1] and len(server.questions) == 5
    told = [each.get("response_format", {"json_schema": {"schema": {}}}) for each in server.questions]
    assert ["maxLength" in str(each) for each in told] == [True, True, False, False, False]


def test_several_models_need_a_name(server, tmp_path):
    server.models = ["one", "two"]
    with pytest.raises(InputError, match="^wanted the name of a model at .*; got none, and one, two to choose from"):
        judge(server, tmp_path)
