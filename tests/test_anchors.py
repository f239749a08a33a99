"""The dictionary file: what it holds, what it refuses, and that a person's notes survive."""

import json

import pytest

from generic_logits.errors import InputError, OutputError
from generic_logits.text.anchors import Anchor, Anchors, runs_of_words

BOTH = [
    Anchor(term="Dorothy", translations=("Margaret", "Alice"), kind="person", gender="female", count=7, why="z = 9"),
    Anchor(term="silver shoes", translations=("woollen gloves",), comment="not the slippers of the film"),
]


def written(folder, data):
    path = folder / "anchors.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def entry(**changes):
    return {"schema": 1, "anchors": [{"term": "Oz", "translations": ["London"], **changes}]}


def test_what_is_saved_is_loaded(tmp_path):
    Anchors(BOTH, comment="by hand").save(tmp_path / "anchors.json")
    loaded = Anchors.load(tmp_path / "anchors.json")
    assert list(loaded) == BOTH
    assert loaded.comment == "by hand"
    assert loaded.terms == ("Dorothy", "silver shoes")


def test_a_file_holds_only_what_somebody_said(tmp_path):
    Anchors(BOTH).save(tmp_path / "anchors.json")
    data = json.loads((tmp_path / "anchors.json").read_text(encoding="utf-8"))
    assert data["schema"] == 1 and "comment" not in data
    assert data["anchors"][1] == {
        "term": "silver shoes",
        "translations": ["woollen gloves"],
        "comment": "not the slippers of the film",
    }


def test_a_written_file_is_whole_and_alone(tmp_path):
    Anchors(BOTH).save(tmp_path / "anchors.json")
    Anchors(BOTH[:1]).save(tmp_path / "anchors.json")
    assert [file.name for file in tmp_path.iterdir()] == ["anchors.json"]
    assert len(Anchors.load(tmp_path / "anchors.json")) == 1


def test_letters_are_written_as_they_are(tmp_path):
    Anchors([Anchor(term="Пётр", translations=("Ёж",))]).save(tmp_path / "anchors.json")
    assert "Пётр" in (tmp_path / "anchors.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", ["in JSON", "line 1"]),
        ("[]", ["schema 1", "not of type 'object'", "at the top"]),
        ({"anchors": []}, ["'schema' is a required property", "at the top"]),
        ({"schema": 2, "anchors": []}, ["1 was expected", "at .schema"]),
        (entry(translations=[]), [".anchors[0].translations"]),
        (entry(translations=["London", "London"]), ["non-unique", ".anchors[0].translations"]),
        (entry(translations=[" London"]), ["' London'", ".anchors[0].translations[0]"]),
        (entry(translations="London"), ["not of type 'array'", ".anchors[0].translations"]),
        (entry(term=""), [".anchors[0].term"]),
        (entry(kind="animal"), ["'animal' is not one of ['person'", ".anchors[0].kind"]),
        (entry(gender="neuter"), [".anchors[0].gender"]),
        (entry(count=-1), [".anchors[0].count"]),
        (entry(coment="typing"), ["'coment' was unexpected", ".anchors[0]"]),
        ({"schema": 1, "anchors": [{"term": "Oz"}]}, ["'translations' is a required property", ".anchors[0]"]),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, data, words):
    path = written(tmp_path, data)
    with pytest.raises(InputError) as error:
        Anchors.load(path)
    assert all(word in str(error.value) for word in [str(path), *words])


def test_a_long_file_of_another_shape_is_not_told_whole(tmp_path):
    with pytest.raises(InputError) as caught:
        Anchors.load(written(tmp_path, [f"term {number}" for number in range(500)]))
    assert len(str(caught.value)) < 400 + len(str(tmp_path)) and "at the top" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"an anchors file; got .*none\.json: No such file"):
        Anchors.load(tmp_path / "none.json")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(OutputError, match="can be written"):
        Anchors(BOTH).save(tmp_path / "no-folder" / "anchors.json")


def test_a_term_stands_once():
    with pytest.raises(InputError, match="'Oz' twice"):
        Anchors([Anchor(term="Oz", translations=("London",)), Anchor(term="Oz", translations=("Paris",))])


def test_one_term_in_two_cases_is_two_terms():
    both = [Anchor(term=term, translations=("red gloves",)) for term in ("Silver Shoes", "silver shoes")]
    assert len(Anchors(both)) == 2


@pytest.mark.parametrize(
    "translation",
    ["Oz", "Great Oz", "oz", "the Oz-like", "Oz's friend", "(Oz)", "silver shoes", "two Lions", "LION"],
)
def test_a_translation_may_not_hold_a_term(translation):
    anchors = [Anchor(term=term, translations=("ordinary",)) for term in ("Oz", "silver shoes", "Lion")]
    with pytest.raises(InputError, match=r"translations without any of the terms; got .* for 'Toto', which holds"):
        Anchors([*anchors, Anchor(term="Toto", translations=(translation,))])


@pytest.mark.parametrize("translation", ["Ozone", "silver", "old shoes", "silver new shoes", "Lioness"])
def test_a_translation_may_hold_a_part_of_a_term(translation):
    anchors = [Anchor(term=term, translations=("ordinary",)) for term in ("Oz", "silver shoes", "Lion")]
    assert len(Anchors([*anchors, Anchor(term="Toto", translations=(translation,))])) == 4


def test_a_term_without_spaces_is_found_in_a_translation():
    with pytest.raises(InputError, match="which holds '東京'"):
        Anchors([Anchor(term="東京", translations=("大阪",)), Anchor(term="京都", translations=("新東京",))])


def test_runs_of_words_are_all_of_them():
    assert set(runs_of_words("Guardian of Gates")) == {
        *("guardian", "of", "gates"),
        *("guardian of", "of gates"),
        "guardian of gates",
    }


@pytest.mark.parametrize(("term", "translations"), [("", ("Mary",)), ("Dorothy", ()), ("Dorothy", ("Mary", " "))])
def test_an_entry_without_a_term_or_a_translation_is_refused(term, translations):
    with pytest.raises(InputError, match="wanted a term and at least one translation, none empty; got"):
        Anchors([Anchor(term=term, translations=translations)])
