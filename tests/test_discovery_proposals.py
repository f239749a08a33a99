"""What is asked about a passage, what an answer must be, and what is kept of the answers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jsonschema
import pytest
from endpoints import ANSWER, document, entry

from generic_logits.discovery import proposals
from generic_logits.discovery.proposals import (
    PROMPT_VERSION,
    Passage,
    answer_schema,
    cut_passages,
    merge_proposals,
    read_answer,
)
from generic_logits.text.anchors import Anchor
from generic_logits.text.corpus import Document


def test_the_version_moves_with_the_prompt():
    words = proposals._PROMPT + proposals._AGAIN
    assert {PROMPT_VERSION: hashlib.sha256(words.encode()).hexdigest()[:12]} == {1: "3d04eff6053e"}


# --- passages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 50, 120, 1000, 10**9])
def test_passages_hold_everything_in_order_and_never_join_documents(length):
    documents = [
        document(*(f"Chapter {at}. " + "Word word, word? Word! " * (at % 5) for at in range(12)), name="one"),
        document("  \n\n ", name="blank"),
        Document("two", "x" * 130 + "\n" + "y" * 40, "", start=1000),
    ]
    passages = cut_passages(documents, length)
    assert all(0 < len(each.text) <= length and each.text == each.text.strip() for each in passages)
    for each in documents:
        own = [passage for passage in passages if passage.document == each.name]
        assert "".join("".join(passage.text for passage in own).split()) == "".join(each.text.split())
        for passage in own:
            start = passage.start - each.start
            assert each.text[start : start + len(passage.text)] == passage.text
    assert all(passage.document != "blank" for passage in passages)


def test_passages_end_where_a_paragraph_ends_else_a_line_a_sentence_a_word():
    def ends(text: str) -> list[str]:
        return [passage.text[-3:] for passage in cut_passages([document(text)], 20)]

    assert ends("aaaa bbb\nccc ddd\n\neee. fff ggg hhh") == ["ddd", "hhh"]
    assert ends("aaaa bbb. ccc ddd\neee fff ggg hhh") == ["ddd", "hhh"]
    assert ends("aaaa bbb ccc ddd.” eee fff ggg hhh") == ["d.”", "hhh"]
    assert ends("aaaa bbb ccc ddd eee fff ggg hhh") == ["ddd", "hhh"]
    assert ends("a\n\n" + "b" * 30) == ["bbb", "bbb"]  # an early end is none


# --- reading answers --------------------------------------------------------------------------------------------------

GOOD = json.dumps(ANSWER, indent=1)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\nLet me know if you need more!",
        f"Here are the {{term}} entries you asked for:\n\n{GOOD}\n\nI left out {{common}} words.",
        f'<think>\nFirst {{"anchors": [...]}} hm, Orrin.\n</think>\n\n{GOOD}',
        f'so the form is {{"a": 1}}.</think>{GOOD}',
        f"```json\n{GOOD}",
        "\ufeff" + GOOD + "<|im_end|>",
    ],
    ids=range(8),
)
def test_json_is_taken_out_of_what_stands_around_it(text):
    assert read_answer(text) == ANSWER


def test_a_raw_tab_in_a_string_is_no_fault():
    assert read_answer(json.dumps({"anchors": [entry("Mira\tVoss", "A")]}).replace("\\t", "\t")) == {
        "anchors": [entry("Mira\tVoss", "A")]
    }


def test_an_empty_list_is_an_answer():
    assert read_answer('{"anchors": []}') == {"anchors": []}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        (" \n ", "it is empty"),
        ("There is nothing of the kind.", "it holds no JSON object"),
        ("[]", "it holds no JSON object"),
        ('{"anchors": [],}', "its JSON is broken: "),
        ('{"anchors": [{"term": "Orrin", "translations": ["a",]}]}', "its JSON is broken: "),
        ("{'anchors': []}", "it holds no JSON object"),
        ('{"anchors": [{"term": "Orr', "its JSON is broken: "),
        (r'{"anchors": [{"term": "Or\xrin"}]}', r"its JSON is broken: Invalid \escape"),
        ('{"anchors": // none\n []}', "its JSON is broken: "),
        ('{"anchors": ' + "[" * 100_000, "its JSON is broken: "),
        ('{"anchors": []} {"anchors": []}', "it holds more than one JSON object"),
        ("{}", "'anchors' is a required property at $"),
        ('{"anchors": {}}', "{} is not of type 'array' at $.anchors"),
        ('{"anchors": [], "note": 1}', "Additional properties are not allowed ('note' was unexpected) at $"),
        (json.dumps({"anchors": [{"term": "Orrin"}]}), "'kind' is a required property at $.anchors[0]"),
        (json.dumps({"anchors": [entry("Orrin", kind="town")]}), "'town' is not one of"),
        (
            json.dumps({"anchors": [{**entry("Orrin"), "gender": None}]}),
            "None is not of type 'string' at $.anchors[0].gender",
        ),
        (json.dumps({"anchors": [{**entry("Orrin"), "translations": "Alder"}]}), "'Alder' is not of type 'array' at"),
        (
            json.dumps({"anchors": [{**entry("Orrin"), "translations": [1]}]}),
            "1 is not of type 'string' at $.anchors[0]",
        ),
        (json.dumps({"anchors": [{"Orrin": ["Alder"] * 300}]}), " at $.anchors[0]"),
    ],
    ids=range(21),
)
def test_what_is_wrong_with_an_answer_is_said_in_one_line(text, problem):
    with pytest.raises(ValueError) as caught:
        read_answer(text)
    message = str(caught.value)
    assert (message.startswith(problem) or problem.startswith(" ")) and problem.strip() in message
    assert len(message) < 300 and "\n" not in message


def test_the_schemas_agree():
    for schema in (answer_schema(), answer_schema(translations=2, terms=2)):
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(ANSWER, schema)


# --- merging ----------------------------------------------------------------------------------------------------------


def merged(*pairs: tuple[str, list[Any]]) -> list[Anchor]:
    """What comes of passages and the answers to them."""
    proposed = [(Passage(str(at), 0, text), entries) for at, (text, entries) in enumerate(pairs)]
    return merge_proposals(proposed, "tiny")


def test_votes_are_counted_over_passages():
    mira = "Mira Voss came to Orrin."
    found = merged(
        (mira, [entry("Orrin", "Alder", "Birch", kind="place"), entry("Mira Voss", "Anna Moss", gender="female")]),
        (mira + " 2", [entry("Mira Voss", "Lena Hart", "Anna Moss"), entry("Mira Voss", "Anna Moss", "Rita Low")]),
        (mira + " 3", [entry("Mira Voss", "Lena Hart", kind="thing", gender="male")]),
        (mira + " 4", [entry("Mira Voss", "Rita Low", gender="female"), entry("Orrin", "Birch", kind="thing")]),
        (mira + " 5", []),
    )
    assert [each.term for each in found] == ["Mira Voss", "Orrin"]
    assert found[0].translations == ("Anna Moss", "Lena Hart", "Rita Low")
    assert (found[0].kind, found[0].gender, found[0].count) == ("person", "female", 0)
    assert found[0].why == "language model tiny: proposed in 4 of 5 passages"
    assert (found[1].translations, found[1].kind, found[1].gender) == (("Birch", "Alder"), "place", None)


def test_a_thing_has_no_gender():
    (found,) = merged(("The Oracle spoke.", [entry("Oracle", "Engine", kind="thing", gender="female")]))
    assert found.gender is None


@pytest.mark.parametrize(
    ("term", "text", "kept"),
    [
        ("Orrin", "down to Orrin.", True),
        ("Orrin", "down to Orrin's door", True),
        ("Orrin", "down to _Orrin_", True),
        ("Orrin", "in Orrinsby", False),
        ("Orrin", "in Porrin", False),
        ("Orrin", "the orrin", False),
        ("orrin", "in Orrin", False),
        ("Orrin", "THE FALL OF ORRIN", True),
        ("gullwort", "some gullworts", True),
        ("Gullwort", "Gullworts grow", True),
        ("Mira Voss", "so Mira\n   Voss went", True),
        ("  Mira\n Voss ", "so Mira Voss went", True),
        ("Mira Voss", "Mira went to Voss", False),
        ("Ron", "Ronald and Ron", True),
        ("Gandalf", "nobody of that name", False),
        ("", "nobody", False),
        ("...", "well ... yes", True),
        ("奥兹", "在奥兹国的中央", True),
        ("多萝茜", "在奥兹国的中央", False),
    ],
)
def test_a_term_must_stand_in_its_passage_as_whole_words(term, text, kept):
    found = merged((text, [entry(term, "Alder", kind="place")]))
    assert [each.term for each in found] == ([" ".join(term.split())] if kept else [])


def test_a_term_counts_only_in_the_passages_that_have_it():
    one, two = "Mira Voss came.", "Nobody came."
    (found,) = merged((one, [entry("Mira Voss", "Anna Moss")]), (two, [entry("Mira Voss", "Eve Ash")]))
    assert found.translations == ("Anna Moss",) and found.why.endswith("in 1 of 2 passages")


def test_translations_bring_back_neither_terms_nor_the_texts_names():
    text = "Mira Voss met Captain Hale of Orrin. Hale frowned. The Golden Gate was shut; gold is gold."
    found = merged(
        (
            text,
            [
                entry(
                    "Mira Voss", "Mira Voss", "mira voss", "Anna of Orrin", "Hale", "Anna Hale", "Golden Gate", "Anna"
                ),
                entry("Orrin", "Captain Hale", "  Alder \n Town", "", "\u0000", "gold", "Captain Gate", "\ud800"),
                entry("Hale", "hale"),
            ],
        ),
    )
    assert {each.term: each.translations for each in found} == {
        "Mira Voss": ("Anna",),
        "Orrin": ("Alder Town", "gold", "Captain Gate"),
    }
