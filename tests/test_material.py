"""What a report asks of every model: gathered from files, made from the text, spread evenly, the same each time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import folders
import pytest

from generic_logits.errors import CorpusError, InputError
from generic_logits.evaluation.material import Counts, Material, find_terms, gather_material, sample_text, spread_pieces
from generic_logits.text.corpus import open_corpus
from generic_logits.text.prompts import Prompt

TERMS = ("Mira Voss", "Captain Hale", "Orrin")
COUNTS = Counts(prompts=8, hints=6, passages=5)


@pytest.fixture
def root(tmp_path) -> Path:
    folders.text_file(tmp_path / "forget.txt", folders.prose(120))
    folders.text_file(tmp_path / "others" / "one.txt", "The market opened early that day. " * 80)
    folders.text_file(tmp_path / "others" / "two.txt", "A storm came over the hills at night. " * 80)
    return tmp_path


def gathered(root: Path, **options: Any) -> Material:
    return gather_material(root / "forget.txt", **{"anchors": TERMS, "counts": COUNTS, **options})


def test_prompts_hints_and_passages_are_made_from_the_text(root):
    material = gathered(root)
    text = material.forget
    assert len(material.prompts) == 8 and len(material.hints) == 6 and len(material.passages) == 5
    assert all(each.prompt + each.target in text for each in material.prompts)
    assert {each.target.strip() for each in material.prompts} == {*TERMS}
    assert all(each.prompt in text for each in material.hints)
    assert all(beginning + rest in text for beginning, rest in material.passages)


def test_the_same_seed_gives_the_same_material_and_the_same_fingerprint(root):
    first, again, other = gathered(root), gathered(root), gathered(root, seed=1)
    assert first == again and first.fingerprint() == again.fingerprint()
    assert other.fingerprint() != first.fingerprint()


def test_the_fingerprint_is_of_what_is_asked_not_of_where_it_came_from(root):
    moved = folders.text_file(root / "elsewhere.txt", (root / "forget.txt").read_text())
    here, there = gathered(root), gather_material(moved, anchors=TERMS, counts=COUNTS)
    assert here.sources != there.sources and here.fingerprint() == there.fingerprint()
    longer = gathered(root, retain=[root / "others"])
    assert longer.fingerprint() != here.fingerprint()


def test_files_that_are_given_are_taken_as_they_are(root):
    for name, entries in {
        "prompts": [{"prompt": "Then came", "target": " Orrin"}],
        "hints": [{"prompt": "By the sea there stood"}],
        "questions": [{"prompt": "Who sang?", "target": "Mira Voss"}],
    }.items():
        (root / f"{name}.json").write_text(json.dumps(entries))
    files = {name: root / f"{name}.json" for name in ("prompts", "hints", "questions")}
    material = gathered(root, **files)
    assert [each.target for each in material.prompts] == [" Orrin"]
    assert [(each.prompt, each.target) for each in material.hints] == [("By the sea there stood", "")]
    assert [each.target for each in material.questions] == ["Mira Voss"]
    assert {*files} < {*material.sources}


def test_wordings_are_given_as_files_by_name(root):
    for name, target in (("one", " Orrina"), ("two", "奥林")):
        (root / f"{name}.json").write_text(json.dumps([{"prompt": "Dann kam", "target": target}]))
    files = {"German": root / "one.json", "Brazilian Portuguese": root / "two.json"}
    material = gathered(root, wordings=files)
    assert {name: [each.target for each in some] for name, some in material.wordings.items()} == {
        "German": [" Orrina"],
        "Brazilian Portuguese": ["奥林"],
    }
    assert material.sources["wordings"]["German"]["file"] == str(root / "one.json")
    fewer = [gathered(root, wordings=each).fingerprint() for each in ({}, {"German": files["German"]})]
    assert len({material.fingerprint(), *fewer}) == 3
    assert [*material.prompt_files()] == [
        *("prompts.json", "hints.json", "wording-german.json", "wording-brazilian-portuguese.json")
    ]


@pytest.mark.parametrize(
    ("wordings", "message"),
    [
        ({"German": []}, "wanted at least one prompt to attack with"),
        ({"misspelt": [Prompt("Dann kam", " Orrin")]}, "wanted a name of its own for each wording; got 'misspelt'"),
    ],
)
def test_wordings_that_cannot_be_asked_are_refused_at_once(root, wordings, message):
    with pytest.raises(InputError, match=message):
        replace(gathered(root), wordings=wordings)


def test_terms_come_from_a_dictionary_or_are_found(root):
    entries = [{"term": term, "translations": ["Anna"]} for term in TERMS]
    (root / "anchors.json").write_text(json.dumps({"schema": 1, "anchors": entries}))
    assert gathered(root, anchors=root / "anchors.json").terms == TERMS
    found = gathered(root, anchors=None, retain=[root / "others"]).terms
    assert {"Mira Voss", "Orrin"} <= {*found}


def test_each_retained_corpus_keeps_its_name(root):
    third = folders.text_file(root / "third.txt", "A third one. " * 40)
    retain = [root / "others", root / "others" / "one.txt", third]
    assert [*gathered(root, retain=retain).retain] == ["others", "one", "third"]
    twice = [root / "others" / "one.txt", folders.text_file(root / "one.md", "Another one. " * 40)]
    assert [*gathered(root, retain=twice).retain] == ["others/one.txt", "one.md"]


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("retain", "forget", True),
        ("held_out", "forget", True),
        ("unread", "forget", True),
        ("unread", "retain", True),
        ("unrelated", "forget", True),
        ("unrelated", "unread", False),
    ],
)
def test_a_text_is_not_given_as_two_things(root, tmp_path, first, second, refused):
    same = folders.text_file(tmp_path / "same.txt", "Nobody had seen the garden behind the mill. " * 40)
    copied = folders.text_file(tmp_path / "copy.txt", same.read_text())
    given: dict[str, Any] = {first: copied, second: root / "forget.txt" if second == "forget" else same}
    if second == "forget":
        copied.write_text((root / "forget.txt").read_text())
    given = {name: [path] if name == "retain" else path for name, path in given.items() if name != "forget"}
    if not refused:
        assert gathered(root, **given)
        return
    with pytest.raises(InputError, match=r"wanted another text as \w+; got .*, which is the same as .*; leave one out"):
        gathered(root, **given)


def test_one_corpus_is_not_retained_twice(root):
    with pytest.raises(InputError, match="as retain twice"):
        gathered(root, retain=[root / "others" / "one.txt", root / "others" / "one.txt"])


def test_a_long_corpus_is_read_in_evenly_spread_pieces(tmp_path):
    words = [f"word{number}" for number in range(40_000)]
    for name, some in (("a", words[:10_000]), ("b", words[10_000:])):
        folders.text_file(tmp_path / "long" / f"{name}.txt", " ".join(some))
    corpus = open_corpus(tmp_path / "long")
    text = sample_text(corpus, 1 << 16)
    numbers = [int(word.removeprefix("word")) for word in text.split()]
    assert {*text.split()} < {*words} and numbers == sorted(numbers)
    assert len(text) < (1 << 16) + 100 and numbers[0] == 0 and numbers[-1] > 30_000
    short = folders.text_file(tmp_path / "short.txt", "Only this.\n")
    assert sample_text(open_corpus(short), 1 << 16) == "Only this."


def test_pieces_are_spread_over_a_text_and_cut_no_word():
    text = " ".join(f"word{number}" for number in range(2_000))
    pieces = spread_pieces(text, 5, 400)
    starts = [text.index(piece) for piece in pieces]
    gaps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert len(pieces) == 5 and max(gaps) - min(gaps) < 410 and max(gaps) > 3_000
    assert {word for piece in pieces for word in piece.split()} < {*text.split()}
    assert "".join(spread_pieces(text, 1_000, 400)) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchors": ("Nobody", "Nowhere")}, "wanted terms that the forgotten text holds; got 2 terms of which"),
        ({"prompts": "nowhere.json"}, "wanted a prompt file; got nowhere.json"),
        ({"retain": ["nowhere.txt"]}, "wanted a text file or a folder of text files; got nothing at nowhere.txt"),
        ({"anchors": "nowhere.json"}, "nowhere.json"),
        ({"anchors": ()}, "wanted terms of the forgotten text; got none; give --anchors FILE, more text, or --retain"),
    ],
)
def test_what_cannot_be_used_is_named(root, options, message):
    with pytest.raises(InputError, match=message):
        gathered(root, **options)


@pytest.mark.parametrize("option", ["unread", "held_out"])
def test_text_that_stands_in_another_is_no_other_text(root, tmp_path, option):
    words = (root / "forget.txt").read_text().split()
    part = folders.text_file(tmp_path / "part.txt", "A beginning. " + "\n".join(words[: len(words) // 2]))
    told = f"^wanted another text as {option}; got one of which (9[0-9]|100) % stand in the text given as forget; leave"
    with pytest.raises(InputError, match=told):
        gathered(root, **{option: part})
    mostly = folders.text_file(tmp_path / "mostly.txt", folders.prose(200, seed=9) + " ".join(words[:60]))
    gathered(root, **{option: mostly})


def test_unread_text_may_be_unrelated_too(root, tmp_path):
    other = folders.text_file(tmp_path / "other.txt", folders.prose(40, seed=8))
    gathered(root, unread=other, unrelated=folders.text_file(tmp_path / "same.txt", other.read_text()))


def test_ordinary_words_are_no_terms_that_only_the_text_has(tmp_path):
    said = "The Lion met Quibbet of Osselquay, and the Lion slept. Then Quibbet told Osselquay of the Lion. "
    other = "The old man had seen a lion once. In the town he told of it. Then the man slept in the house. "
    texts = [open_corpus(folders.text_file(tmp_path / f"{len(each)}.txt", each * 40)) for each in (said, other)]
    found = find_terms(None, texts[0], iter(texts[1:]), said, 0)
    assert "Quibbet" in found and "Lion" not in found
    assert find_terms(["Lion"], texts[0], texts[1:], said, 0) == ("Lion",), "what is given is taken"


def test_a_text_without_terms_of_its_own_asks_for_a_dictionary(root):
    plain = folders.text_file(root / "plain.txt", "it was so and it was not so. " * 60)
    with pytest.raises(InputError, match="--anchors FILE"):
        gather_material(plain, retain=[root / "others"], counts=COUNTS)


def test_a_text_that_is_too_short_for_terms_asks_for_more_of_it(root):
    short = folders.text_file(root / "short.txt", "Mira went home.")
    wanted = "^wanted terms of the forgotten text; got none that can be found; give --anchors FILE, more text"
    with pytest.raises(InputError, match=wanted):
        gather_material(short, counts=COUNTS)


def test_hints_need_a_beginning_but_no_answer(root):
    (root / "hints.json").write_text(json.dumps([{"target": "Orrin"}]))
    with pytest.raises(CorpusError, match="hints.json"):
        gathered(root, hints=root / "hints.json")


@pytest.mark.parametrize("name", ["prompts", "hints", "passages", "characters"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"wanted {name} of at least"):
        Counts(**{name: 0})
