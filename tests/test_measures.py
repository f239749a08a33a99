"""The ruler of the study on books: every figure beside a plain restatement, one row or one passage at a time."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from benchmarks import measures
from benchmarks.measures import Ruler, outside_terms, retained_names
from benchmarks.worlds import World
from generic_logits.models.pair import ModelPair
from generic_logits.text.prompts import Prompt

VOCAB = 390  # with " Orrin" and " keeper" as one token, "Mira" behind a token of white space, "Quibbet" in letters
WORDS = tiny.tokenizer(VOCAB)
NEW_TOKENS = 12
TERMS = ("Mira", "Mira Voss", "Orrin", "Zedd")  # the last one stands nowhere


def story(seed: int, names: tuple[str, ...], sentences: int) -> str:
    draw = Random(seed)
    deeds = ("saw", "sang to", "was afraid of", "waited for")
    return "".join(
        f"Then {draw.choice(names)} {draw.choice(deeds)} {draw.choice(names)} by the old sea.\n"
        for _ in range(sentences)
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    book = ("Mira Voss", "Mira", "Orrin", "Quibbet", "the keeper", "DeMira", "Orrinsby")
    other = ("Alice", "Wendy", "a gull")
    return World(
        name="tiny",
        baseline=tiny.folder(root / "baseline", model(0), WORDS),
        gold=tiny.folder(root / "gold", model(1).float(), WORDS),
        forget=story(1, book, 60),
        held_out=story(2, book, 25),
        read={"one": story(3, other, 40), "two": story(4, other, 33)},
        unread={"one": story(5, other, 9), "two": story(6, other, 14)},
        never_read=story(7, ("Tom", "Huck"), 14),
        prompts=(Prompt("Then Mira", " Voss"), Prompt("She was afraid of", " Orrin"), Prompt("The", " old sea")),
        terms=TERMS,
    )


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(measures, "PASSAGES", 6)
    monkeypatch.setattr(measures, "NEW_TOKENS", NEW_TOKENS)


@pytest.fixture(scope="module")
def ruler(world) -> Ruler:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "PASSAGES", 6)
        return Ruler(world)


@pytest.fixture(scope="module")
def measured(ruler) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "NEW_TOKENS", NEW_TOKENS)
        return ruler.measure(student())


def model(seed: int, vocab: int = VOCAB) -> Any:
    return tiny.model(seed=seed, std=0.1, vocab_size=vocab)


@cache
def student() -> Any:
    """A model with more logits than the tokenizer has tokens, as padded vocabularies have."""
    return model(2, VOCAB + 9)


def texts_of(world: World) -> dict[str, list[str]]:
    return {
        "read": [world.forget],
        "held_out": [world.held_out],
        "retained": list(world.read.values()),
        "unread": list(world.unread.values()),
        "never_read": [world.never_read],
    }


def rows_of(texts: list[str]) -> list[list[int]]:
    """The texts' tokens in rows of 256 with the BOS in front of each."""
    rows = []
    for text in texts:
        ids = WORDS(text, add_special_tokens=False)["input_ids"]
        while ids:
            rows.append([tiny.BOS, *ids[:255]])
            ids = ids[255:]
    return rows


@torch.no_grad()
def log_probs(of: Any, row: list[int]) -> Tensor:  # [length - 1, vocab of the tokenizer]
    logits = of.logits(torch.tensor([row])) if isinstance(of, ModelPair) else of(torch.tensor([row])).logits
    return logits[0, :-1, :VOCAB].double().log_softmax(-1)


def perplexity_of(of: Any, texts: list[str]) -> float:
    values = []
    for row in rows_of(texts):
        of_row = log_probs(of, row).tolist()
        values += [of_row[at][token] for at, token in enumerate(row[1:])]
    return math.exp(-sum(values) / len(values))


def places_of(row: list[int], terms: tuple[str, ...] | list[str]) -> list[tuple[int, int]]:
    """First and last token of every term, the longest where several begin, behind a BOS and 16 tokens."""
    text = [WORDS.decode([token]) for token in row]
    found, at = [], 1
    while at < len(row):
        starts = text[at].strip() and (text[at][0] == " " or not text[at - 1][-1].isalnum())
        ends = [
            end
            for end in range(at, len(row) if starts else at)
            if "".join(text[at : end + 1]).removeprefix(" ") in terms
            and not "".join(text[end + 1 : end + 2])[:1].isalnum()
        ]
        found += [(at, ends[-1])] if ends else []
        at = ends[-1] + 1 if ends else at + 1
    return [(first, last) for first, last in found if first >= 17]


def mean_probability_of(of: Any, texts: list[str], terms: tuple[str, ...] | list[str]) -> float:
    values = []
    for row in rows_of(texts):
        probs = log_probs(of, row).exp()
        values += [
            math.prod(probs[at - 1, row[at]].item() for at in range(first, last + 1))
            for first, last in places_of(row, terms)
        ]
    assert len(values) > 5
    return sum(values) / len(values)


def test_a_measurement_has_these_figures(measured):
    parts = ("read", "held_out", "retained", "unread", "never_read")
    assert set(measured) == {
        "familiarity_probability",
        *(f"{name}_{part}" for name in ("new_terms", "verbatim", "kl_gold") for part in parts[:2]),
        "kl_gold_unread",
        *(f"perplexity_{part}" for part in parts),
        *("p_anchor_read", "p_anchor_held_out", "p_outside", "p_retained_names"),
        *("distinct_tokens", "distinct_bigrams", "seconds"),
    }
    assert measured["seconds"] > 0


def test_cut_into_rows_a_text_loses_nothing(ruler, world):
    for part, texts in texts_of(world).items():
        rows = ruler.rows[part]
        assert [list(row.ids) for row in rows] == rows_of(texts)
        assert len({len(row.ids) for row in rows}) > 1  # padding is at work
        for text in texts:
            own = [row for row in rows if row.text == text]
            assert "".join(text[row.ends[0] : row.ends[-1]] for row in own) == text
        for row in rows:
            spans = zip(row.ends, row.ends[1:], strict=False)
            assert [row.text[start:end] for start, end in spans] == [WORDS.decode([token]) for token in row.ids[1:]]


def test_a_sample_of_rows_is_spread_evenly(world, monkeypatch):
    monkeypatch.setattr(measures, "SAMPLES", {"retained": 3, "unread": 1000})
    rows = Ruler(world).rows
    every = rows_of(list(world.read.values()))
    assert [list(row.ids) for row in rows["retained"]] == [every[at * len(every) // 3] for at in range(3)]
    assert len(rows["unread"]) == len(rows_of(list(world.unread.values())))


@pytest.mark.parametrize("part", ["read", "held_out", "retained", "unread", "never_read"])
def test_perplexity_is_that_of_every_token_behind_its_own_row(measured, world, part):
    assert measured[f"perplexity_{part}"] == pytest.approx(
        perplexity_of(student(), texts_of(world)[part]), rel=1e-4, abs=0
    )


@pytest.mark.parametrize("part", ["read", "held_out", "unread"])
def test_the_distance_is_the_mean_kl_from_gold_to_the_model(measured, world, part):
    values = []
    for row in rows_of(texts_of(world)[part]):
        gold, of_student = log_probs(model(1), row).exp(), log_probs(student(), row).exp()
        values += [
            sum(p * math.log(p / q) for p, q in zip(at_gold, at_student, strict=True))
            for at_gold, at_student in zip(gold.tolist(), of_student.tolist(), strict=True)
        ]
    assert measured[f"kl_gold_{part}"] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=0)


def test_gold_has_no_distance_to_itself(ruler):
    of_gold = ruler.measure(model(1))
    assert all(abs(of_gold[f"kl_gold_{part}"]) < 1e-6 for part in ("read", "held_out", "unread"))


def test_the_probability_of_a_term_is_that_of_all_its_tokens_at_its_places(measured, ruler, world):
    texts = texts_of(world)
    for part in ("read", "held_out"):
        expected = mean_probability_of(student(), texts[part], TERMS)
        assert measured[f"p_anchor_{part}"] == pytest.approx(expected, rel=1e-4, abs=0)
    assert sorted(ruler.outside) == ["Orrinsby", "Quibbet", "keeper"] and sorted(ruler.names) == ["Alice", "Wendy"]
    expected = mean_probability_of(student(), texts["read"] + texts["held_out"], ruler.outside)
    assert measured["p_outside"] == pytest.approx(expected, rel=1e-4, abs=0)
    expected = mean_probability_of(student(), texts["retained"], ruler.names)
    assert measured["p_retained_names"] == pytest.approx(expected, rel=1e-4, abs=0)


def test_a_term_that_a_method_was_given_is_not_outside(world):
    given = Ruler(world, dictionary=["the keepers", "Quibbet"])
    assert given.outside == ["Orrinsby"]
    figures = given.measure(student())
    expected = mean_probability_of(student(), [world.forget, world.held_out], ["Orrinsby"])
    assert figures["p_outside"] == pytest.approx(expected, rel=1e-4, abs=0)


def test_familiarity_is_the_mean_probability_of_whole_targets(measured, world):
    values = []
    for each in world.prompts:
        prompt, target = (WORDS(text, add_special_tokens=False)["input_ids"] for text in (each.prompt, each.target))
        row = [tiny.BOS, *prompt, *target]
        with torch.no_grad():
            probs = student()(torch.tensor([row])).logits[0].double().softmax(-1)
        values.append(math.prod(probs[at - 1, row[at]].item() for at in range(len(prompt) + 1, len(row))))
    assert measured["familiarity_probability"] == pytest.approx(sum(values) / 3, rel=1e-4, abs=0)


def test_a_pair_is_measured_by_its_corrected_logits(ruler, world):
    baseline, reinforced = model(0), model(3)
    pair = ModelPair(baseline, reinforced, alpha=1.5)
    figures = ruler.measure(pair)
    assert figures["perplexity_held_out"] == pytest.approx(perplexity_of(pair, [world.held_out]), rel=1e-4, abs=0)
    assert figures["p_anchor_read"] == pytest.approx(mean_probability_of(pair, [world.forget], TERMS), rel=1e-4, abs=0)
    assert figures["perplexity_held_out"] != pytest.approx(perplexity_of(baseline, [world.held_out]), rel=1e-2)


def test_no_more_than_some_places_are_kept_and_they_are_spread_over_the_parts(ruler, world, monkeypatch):
    monkeypatch.setattr(measures, "PLACES", 7)
    thin = Ruler(world)
    every, kept = (
        [(part, place) for part in ("read", "held_out") for place in each.places["p_outside"][part]]
        for each in (ruler, thin)
    )
    at = [every.index(each) for each in kept]
    gaps = [after - before for before, after in zip(at, at[1:], strict=False)]
    even = len(every) // 7
    assert len(at) == 7 and at[0] == 0 and even <= min(gaps) <= max(gaps) <= even + 1
    assert at[-1] + even + 1 >= len(every)
    assert {part for part, _ in kept} == {"read", "held_out"}
    assert len(thin.places["p_retained_names"]["retained"]) == 7
    assert thin.places["p_anchor_read"] == ruler.places["p_anchor_read"]


def test_without_a_place_there_is_no_probability(world):
    nameless = replace(world, terms=("Zedd",), read={"one": world.never_read})
    figures = Ruler(nameless).measure(student())
    assert math.isnan(figures["p_anchor_read"]) and math.isnan(figures["p_retained_names"])
    assert not math.isnan(figures["p_outside"])


# What is written


class Scripted:
    """A model that writes what it is told behind each prompt, and scores like another one."""

    def __init__(self, replies: dict[str, str]) -> None:
        self.replies = replies
        self.device = torch.device("cpu")

    def __call__(self, **inputs: Any) -> Any:
        return student()(**inputs)

    def generate(self, ids: Tensor, *, attention_mask: Tensor, max_new_tokens: int, **_: Any) -> Tensor:
        prompts = [WORDS.decode(row[mask.bool()][1:]) for row, mask in zip(ids, attention_mask, strict=True)]
        new = [cut(self.replies[prompt], max_new_tokens) for prompt in prompts]
        longest = max(map(len, new))
        return torch.cat([ids, torch.tensor([[*row, *[tiny.PAD] * (longest - len(row))] for row in new])], dim=1)


def cut(text: str, tokens: int) -> list[int]:
    return WORDS(text, add_special_tokens=False)["input_ids"][:tokens]


@pytest.fixture
def replies(ruler) -> dict[str, list[str]]:
    """One continuation for each passage of each part."""
    read, held_out = ([target for _, target in ruler.passages[part]] for part in ("read", "held_out"))
    return {
        "read": [" so Zedd came", " so Zeddish came", " the the the the", "", read[4], " Mira Voss"],
        "held_out": [" Mira Mira", " then", held_out[2].upper(), " " + held_out[3][::2], " Zedd's", " by sea the old"],
    }


@pytest.fixture
def written(ruler, replies) -> dict[str, float]:
    passages = [each for part in ("read", "held_out") for each in ruler.passages[part]]
    assert len({prompt for prompt, _ in passages}) == len(passages) == 12
    script = dict(zip([prompt for prompt, _ in passages], replies["read"] + replies["held_out"], strict=True))
    long = " the sea" * (NEW_TOKENS // 2)  # as many tokens as are compared
    memorised = {"inside": (("It was", long + " was old"), ("She said", " of a old sea"))}
    script |= {"It was": long + " by the keeper", "She said": " of sea"}
    return ruler.measure(Scripted(script), memorised=memorised)


def test_passages_come_from_the_book_and_go_on_as_it_does(ruler, world):
    for part, text in (("read", world.forget), ("held_out", world.held_out)):
        assert all(prompt + target in text for prompt, target in ruler.passages[part])


@pytest.mark.parametrize("part", ["read", "held_out"])
def test_a_new_term_is_one_that_the_prompt_does_not_hold(written, ruler, replies, part):
    def holds(text: str, term: str) -> bool:
        return f" {term} " in f" {' '.join(re.findall('[A-Za-z]+', text))} "

    completions = [WORDS.decode(cut(text, NEW_TOKENS)) for text in replies[part]]
    hits = [
        any(holds(text, term) and not holds(prompt, term) for term in TERMS)
        for text, (prompt, _) in zip(completions, ruler.passages[part], strict=True)
    ]
    assert 0 < sum(hits) < 6 and hits[0 if part == "read" else 4]
    assert written[f"new_terms_{part}"] == pytest.approx(sum(hits) / 6)


def rouge_l_of(candidate: str, reference: str) -> float:
    a, b = candidate.lower().split(), reference.lower().split()

    @cache
    def common(i: int, j: int) -> int:
        if not (i and j):
            return 0
        return common(i - 1, j - 1) + 1 if a[i - 1] == b[j - 1] else max(common(i - 1, j), common(i, j - 1))

    return 2 * common(len(a), len(b)) / (len(a) + len(b))


@pytest.mark.parametrize("part", ["read", "held_out"])
def test_verbatim_is_rouge_l_with_the_book_over_as_many_tokens(written, ruler, replies, part):
    scores = [
        rouge_l_of(WORDS.decode(cut(text, NEW_TOKENS)), WORDS.decode(cut(target, NEW_TOKENS)))
        for text, (_, target) in zip(replies[part], ruler.passages[part], strict=True)
    ]
    assert scores[3] < 1 and (part == "held_out" or scores[4] == 1)
    assert written[f"verbatim_{part}"] == pytest.approx(sum(scores) / 6)


def test_memorised_passages_are_measured_by_their_own_continuations(written):
    assert written["verbatim_memorised_inside"] == pytest.approx((1 + 2 * 2 / (2 + 4)) / 2)  # two words of four


def test_distinct_tokens_and_bigrams_are_counted_within_a_completion(written, replies):
    tokens, bigrams = [], []
    for text in replies["read"] + replies["held_out"]:
        ids = [str(token) for token in cut(text, NEW_TOKENS)]
        two = [f"{ids[at]} {ids[at + 1]}" for at in range(len(ids) - 1)]
        tokens.append(len(set(ids)) / len(ids) if ids else 0)
        bigrams.append(len(set(two)) / len(two) if two else 0)
    assert (tokens[2], bigrams[2]) == (1 / 4, 1 / 3) and (tokens[3], bigrams[3]) == (0, 0)
    assert written["distinct_tokens"] == pytest.approx(sum(tokens) / 12)
    assert written["distinct_bigrams"] == pytest.approx(sum(bigrams) / 12)


# The terms that no dictionary has, and the names to be kept


def said(**counts: int) -> str:
    """Every word as often as told, in the middle of a sentence."""
    return "".join(f"and {word} " * count for word, count in counts.items())


def of_texts(book: str, *read: str, unread: str = "") -> World:
    """A world of these texts; half of the book is held out."""
    half = book.index("and ", len(book) // 2)
    return World(
        name="words",
        baseline=Path(),
        gold=Path(),
        forget=book[:half],
        held_out=book[half:],
        read={str(number): text for number, text in enumerate(read)},
        unread={"0": unread},
        never_read="",
        prompts=(),
        terms=("Mira Voss", "Hales", "lantern"),
    )


def outside_world() -> World:
    book = said(
        **{"Quibbet": 2, "Tamsin": 4, "Once": 1, "Alice": 5, "Wendy": 5, "Voss": 5, "Mira": 5, "Hale": 5, "Orrin": 5},
        **{"Miras": 5, "reef": 5, "gullwort": 9, "harbour": 12, "seldom": 4, "ash": 20, "common": 30, "lanterns": 9},
    )
    return of_texts(book + "Perhaps. " * 9, said(common=300, Alice=1, harbour=1), unread=said(Wendy=1))


def test_outside_terms_are_the_books_own_names_then_its_own_words():
    names, words = ["Orrin", "Tamsin", "Quibbet"], ["harbour", "gullwort", "reef"]
    assert outside_terms(outside_world()) == names + words
    assert outside_terms(outside_world(), ["the Orrins", "Reef"]) == ["Tamsin", "Quibbet", "harbour", "gullwort"]


def test_a_word_is_the_books_own_where_it_is_eight_times_as_frequent():
    for count, times, own in ((12, 1, ["harbour"]), (11, 1, []), (6, 2, ["harbour"]), (5, 2, [])):
        book, others = said(harbour=count, common=128 - count), said(harbour=1, common=128 * times - 1)
        assert outside_terms(of_texts(book, others)) == own  # 12 / (1 + 0.5) is 8


def test_only_so_many_outside_terms_are_taken(monkeypatch):
    monkeypatch.setattr(measures, "OUTSIDE_TERMS", 4)
    assert outside_terms(outside_world()) == ["Orrin", "Tamsin", "Quibbet", "harbour"]


def test_retained_names_are_frequent_always_capitalised_and_not_the_books():
    one = said(Wendy=20, Alice=12, Smee=10, Hook=15, hook=1, Bell=15, bell=2, Lord=20, Orrin=20, Hale=20)
    two = said(Alice=12, Smee=9, Hook=15, hook=1, Bell=15, bell=1) + "Tom. " * 30
    assert retained_names(of_texts(said(Orrin=1, common=40) + "Hale. ", one, two)) == ["Hook", "Alice", "Wendy"]
