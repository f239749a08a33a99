"""Terms in a text: where they are found, what they become, and that every other character stays in its place."""

from __future__ import annotations

import random
import time
import unicodedata
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from generic_logits.errors import InputError
from generic_logits.text.anchors import Anchor, Anchors
from generic_logits.text.translation import Form, Translation, Translator, translate, without_redundant


def anchors_of(*terms: str, **translated: tuple[str, ...]) -> list[Anchor]:
    plain = [Anchor(term=term, translations=(f"new {number}",)) for number, term in enumerate(terms)]
    return plain + [Anchor(term=term, translations=new) for term, new in translated.items()]


def found(text: str, *terms: str) -> list[str]:
    return [text[start:end] for start, end in Translator(anchors_of(*terms)).spans(text)]


# --- rules, one by one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dictionary", "expected"),
    [
        ("Ron met Ronald, not Bron.", {"Ron": "Tom"}, "Tom met Ronald, not Bron."),
        ("R2D2 R2 D2", {"R2": "Bolt"}, "R2D2 Bolt D2"),
        ("Oz", {"Oz": "Arden"}, "Arden"),
        ("Oz!_Oz_ (Oz)\u2014Oz-Oz", {"Oz": "Arden"}, "Arden!_Arden_ (Arden)\u2014Arden-Arden"),
        ("Oz's, Oz\u2019s and OZ'S", {"Oz": "Arden"}, "Arden's, Arden\u2019s and ARDEN'S"),
        ("the Winkies' land, a Winkie\u2019s hat", {"Winkie": "Miller"}, "the Millers' land, a Miller\u2019s hat"),
        ("the Witches and a Witch", {"Witch": "Lady"}, "the Ladys and a Lady"),  # as of a name
        ("witches, WITCHES", {"witch": "lady"}, "ladies, LADIES"),
        ("Pixies and a Pixy", {"pixy": "church"}, "Churches and a Church"),
        ("Munchkins, Munchkin", {"Munchkin": "Farmer", "Munchkins": "Villagers"}, "Villagers, Farmer"),
        ("WHO IS OZ?", {"Oz": "Arden"}, "WHO IS ARDEN?"),
        ("OZ oz oZ", {"Oz": "Arden"}, "ARDEN oz oZ"),
        ("Quidditch is quidditch. QUIDDITCH!", {"quidditch": "skyball"}, "Skyball is skyball. SKYBALL!"),
        (
            "Yellow brick road, The Yellow Brick Road",
            {"yellow brick road": "grey stone path"},
            "Grey stone path, The Grey Stone Path",
        ),
        ("Tin, a Tin Woodman and tin", {"Tin": "Zinc", "Tin Woodman": "Iron Smith"}, "Zinc, a Iron Smith and tin"),
        ("the Tin\nWoodman  and Tin \t Woodman", {"Tin Woodman": "Iron Smith"}, "the Iron\nSmith  and Iron \t Smith"),
        ("the Tin\nWoodman", {"Tin Woodman": "Smith"}, "the Smith"),
        ("Tin Woodman-", {"Tin  Woodman": "Iron Smith"}, "Iron Smith-"),
        ("A B C D, B C D", {"A B": "x", "B C D": "y"}, "x C D, y"),
        ("O'Hara, O'Hara's", {"O'Hara": "O'Neil"}, "O'Neil, O'Neil's"),
        ("'Arry and Arry", {"'Arry": "Ed", "Arry": "Ned"}, "Ed and Ned"),
        ("Mr. Tumnus", {"Mr.": "Sir"}, "Sir Tumnus"),
        (
            "the \U0001f9d9\u200d\u2640\ufe0f and \U0001f9d9!",
            {"\U0001f9d9": "smith"},
            "the \U0001f9d9\u200d\u2640\ufe0f and smith!",
        ),
        ("\u2764\ufe0fOz\u2764\ufe0f", {"Oz": "Arden"}, "\u2764\ufe0fArden\u2764\ufe0f"),
        ("Cafe Cafe\u0301 Caf\xe9", {"Cafe": "Inn"}, "Inn Cafe\u0301 Caf\xe9"),
        ("Cafe\u0301s, Jos\xe9s", {"Cafe\u0301": "Inn", "Jos\xe9": "Luc\xed"}, "Inns, Luc\xeds"),
        ("Ron\xadald", {"Ron": "Tom"}, "Ron\xadald"),
        ("राम रामायण", {"राम": "मोहन"}, "मोहन रामायण"),
        (
            "话说黛玉进了荣国府，宝玉笑道",
            {"黛玉": "春兰", "宝玉": "小明", "荣国府": "大院"},
            "话说春兰进了大院，小明笑道",
        ),
        ("佐々木さんはリンゴを", {"佐々木": "田中", "リンゴ": "バナナ"}, "田中さんはバナナを"),
        ("가해리는 해리가", {"해리": "민수"}, "가민수는 민수가"),
        ("พูดว่าแฮร์รี่เดิน", {"แฮร์รี่": "สมชาย"}, "พูดว่าสมชายเดิน"),
        ("แม่ แม", {"แม": "ปู"}, "แม่ ปู"),
        ("黛玉s Oz的Oz", {"黛玉": "春兰", "Oz": "Arden"}, "春兰s Arden的Arden"),
        ("Гарри и ГАРРИ, не Гаррис", {"Гарри": "Иван"}, "Иван и ИВАН, не Гаррис"),
        ("stra\xdfe STRASSE", {"stra\xdfe": "weg"}, "weg WEG"),
        ("NASA, NASAs, Nasa", {"NASA": "Bureau"}, "Bureau, Bureaus, Nasa"),
    ],
)
def test_an_occurrence_is(text, dictionary, expected):
    assert translate(text, dictionary).text == expected


def test_a_term_that_is_listed_is_not_taken_for_a_form_of_another():
    assert translate("OZ Oz Ozes", {"Oz": "Arden", "OZ": "Unit", "Ozes": "Hills"}).text == "Unit Arden Hills"


def test_of_several_terms_that_one_spelling_may_be_a_form_of_the_first_in_the_dictionary_has_it():
    both = anchors_of(**{"witch": ("lady",), "wItch": ("clerk",)})
    for terms, expected in ((both, "LADY"), (both[::-1], "CLERK")):
        translator = Translator(terms)
        assert translator.translate("WITCH", {"witch": "lady", "wItch": "clerk"}).text == expected


def test_terms_without_a_translation_stay():
    translator = Translator(anchors_of("Oz", "Ron"))
    assert translator.translate("Oz, Ron", {"Ron": "Tom"}).text == "Oz, Tom"


def test_redundant_entries_are_left_out():
    terms = ["Oz", "Oz's", "Oz\u2019s", "Ron's", "Tin", "Woodman", "Tin Woodman", "Tin Man", "Woodman Woodman Tin"]
    assert [anchor.term for anchor in without_redundant(anchors_of(*terms))] == [
        *("Oz", "Ron's", "Tin", "Woodman", "Tin Man")
    ]
    assert found("Oz's Ron's Rons Tin Woodman", *terms) == ["Oz", "Ron's", "Tin", "Woodman"]


def test_a_mapping_that_brings_a_term_back_is_refused():
    with pytest.raises(InputError, match="'Tom' for 'Ron', which holds 'Tom'"):
        translate("Ron", {"Ron": "Tom", "Tom": "Ben"})


# --- against a plain search -------------------------------------------------------------------------------------------

TERMS = (
    "Ron",
    "Oz",
    "Tin",
    "Tin Woodman",
    "yellow brick road",
    "witch",
    "pixy",
    "O'Hara",
    "Em\u0301",
    "黛玉",
    "玉",
    "リン",
    "แม",
    "राम",
    "'Arry",
    "\U0001f600",
    "A B",
    "B A B",
)
PIECES = (
    *TERMS,
    *("Ronald", "OZ", "TIN WOODMAN", "Tin\nWoodman", "Witches", "WITCHES", "pixies", "Pixys", "Ozes", "OZES", "Tins"),
    *("Yellow brick  road", "Yellow Brick Road", "O'HARA", "O\u2019Hara", "Em", "Emily", "A  B", "รี่", "रामायण", "Arry"),
    *(" ", " ", " ", "\n", "\n\n", "\xa0", "_", "'s", "\u2019s", "s", "-", ".", "a", "Z", "7", "水", "々"),
    *("\u0301", "\u0e48", "\u200d", "\ufe0f", "\u3099", "é", "\U0001f9d9", "ß"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


def kind(char: str) -> str:
    together = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HANGUL", "THAI")
    if char in "\xad\u200c\u200d" or unicodedata.category(char)[0] == "M":
        return "mark"
    if unicodedata.name(char, "").startswith(together):
        return "together"
    return "letter" if char.isalnum() else "other"


def plain_plural(text: str) -> str:
    if not ("a" <= text.rstrip("\u0301")[-1].lower() <= "z"):
        return text
    if text[-1] == "y" and text[-2] not in "aeiou" and text.split()[-1][0].islower():
        return text[:-1] + "ies"
    sibilant = any(text.lower().endswith(ending) for ending in ("s", "x", "z", "ch", "sh"))
    return text + ("es" if sibilant else "s")


def spellings(terms: tuple[str, ...]) -> dict[str, str]:
    """Every spelling of a term, with single spaces; a term's own comes before the forms of others."""
    of = {term: term for term in terms}
    for term in terms:
        for number in (term, plain_plural(term)):
            cases = [number, number.upper()]
            if term[0].islower():
                cases[1:1] = [
                    number[0].upper() + number[1:],
                    " ".join(word[0].upper() + word[1:] for word in number.split()),
                ]
            for case in cases:
                of.setdefault(case, term)
    return of


def plain_search(text: str, terms: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """Try every spelling at every character."""
    within = [False] * (len(text) + 1)  # whether an offset is inside a word
    word = False
    for at, char in enumerate(text):
        goes_on = kind(char) == "letter" or (word and kind(char) == "mark")
        within[at], word = word and goes_on, goes_on
    result = []
    at = 0
    of = spellings(terms)
    while at < len(text):
        best: tuple[int, int, str] | None = None
        for spelling, term in of.items():
            end = at
            for number, part in enumerate(spelling.split()):
                if number:
                    gap = end
                    while gap < len(text) and text[gap].isspace():
                        gap += 1
                    end = gap if gap > end else len(text) + 1
                end = end + len(part) if text[end : end + len(part)] == part else len(text) + 1
            if end > len(text) or within[at] or within[end] or (end < len(text) and kind(text[end]) == "mark"):
                continue
            if best is None or len(spelling) > best[0]:
                best = (len(spelling), end, term)
        if best:
            result.append((at, best[1], best[2]))
        at = best[1] if best else at + 1
    return result


@given(text=TEXTS, chosen=st.sets(st.integers(0, len(TERMS) - 1), min_size=1))
@example(text="Tin WoodmanTin Woodman", chosen={2, 3})
@example(text="B A B A B", chosen={16, 17})
@example(text="黛玉\u3099", chosen={9, 10})
@settings(max_examples=500, deadline=None)
def test_what_is_found_is_what_a_plain_search_finds(text, chosen):
    terms = tuple(TERMS[number] for number in sorted(chosen))
    translator = Translator(anchors_of(*terms))
    got = [(start, end, form.term) for start, end, form in translator.find(text)]
    assert got == plain_search(text, tuple(translator.anchors))
    assert translator.spans(text) == [(start, end) for start, end, _ in got]


# --- characters -------------------------------------------------------------------------------------------------------


def check_characters(text: str, translation: Translation) -> None:
    """Every character outside the terms is where ``end_of`` says, and nothing is lost or added between terms."""
    end = new_end = 0
    for each in translation.replacements:
        assert end <= each.start < each.end and new_end <= each.new_start
        assert text[end : each.start] == translation.text[new_end : each.new_start]
        end, new_end = each.end, each.new_end
    assert text[end:] == translation.text[new_end:]
    last = -1
    for offset in range(len(text) + 1):
        new = translation.end_of(offset)
        if any(each.start < offset < each.end for each in translation.replacements):
            assert new is None
            continue
        assert new is not None and new > last
        last = new
        if offset and not any(each.end == offset for each in translation.replacements):
            assert text[offset - 1] == translation.text[new - 1]
        upto = min([each.start for each in translation.replacements if each.start >= offset], default=len(text))
        assert text[offset:upto] == translation.text[new : new + upto - offset]
    assert translation.end_of(len(text)) == len(translation.text)


@given(text=TEXTS)
@example(text="Oz")
@example(text="OzesRon\nOz Oz")
@settings(max_examples=300, deadline=None)
def test_positions_outside_terms_keep_their_characters(text):
    anchors = [Anchor(term=term, translations=(f"new{'er' * number}",)) for number, term in enumerate(TERMS)]
    translator = Translator(anchors)
    translation = translator.translate(text, translator.draw(text, random.Random(0)))
    assert [(each.start, each.end) for each in translation.replacements] == translator.spans(text)
    check_characters(text, translation)


ONE_TO_ONE = {
    "Ron": "Tom",
    "Oz": "Bath",
    "Tin": "Zinc",
    "Tin Woodman": "Iron Smith",
    "yellow brick road": "narrow stone path",
    "witch": "clerk",
    "pixy": "lady",
    "O'Hara": "O'Neil",
    "黛玉": "春兰",
    "玉": "石",
    "リン": "バナナ",
    "राम": "मोहन",
    "\U0001f600": "\U0001f680",
}


@given(text=TEXTS)
@example(text="OZES, Ozes' and ozes; Tin\n\tWoodman")
@example(text="玉黛玉玉")
@settings(max_examples=500, deadline=None)
def test_the_inverse_dictionary_restores_the_text(text):
    translation = translate(text, ONE_TO_ONE)
    back = translate(translation.text, {new: term for term, new in ONE_TO_ONE.items()})
    assert back.text == text
    assert [(each.new_start, each.new_end) for each in back.replacements] == [
        (each.start, each.end) for each in translation.replacements
    ]


# --- translations -----------------------------------------------------------------------------------------------------

LISTS = st.dictionaries(
    st.sampled_from(["Dorothy", "Dorothy Gale", "Gale", "Em", "Aunt Em", "Toto", "road", "red road", "黛玉", "宝玉"]),
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True).map(tuple),
    min_size=1,
)


@given(lists=LISTS, order=st.randoms(use_true_random=False), seed=st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_a_text_has_one_translation_for_each_of_its_terms_and_different_ones_as_far_as_they_reach(lists, order, seed):
    translator = Translator(anchors_of(**lists))
    terms = list(translator.anchors)
    order.shuffle(terms)
    text = ". ".join(terms * 2)
    choice = translator.draw(text, random.Random(seed))
    assert choice == translator.draw(text, random.Random(seed))
    assert list(choice) == list(dict.fromkeys(form.term for _, _, form in translator.find(text)))
    taken: set[str] = set()
    for term, new in choice.items():
        assert new in lists[term]
        assert new not in taken or taken.issuperset(lists[term])
        taken.add(new)
    news: dict[str, set[str]] = {}
    for each in (translation := translator.translate(text, choice)).replacements:
        news.setdefault(each.term, set()).add(translation.text[each.new_start : each.new_end])
    assert news == {term: {new} for term, new in choice.items()}


def test_terms_that_share_a_name_take_the_same_place_of_their_lists():
    lists = {
        "Dorothy Gale": ("Ann Stone", "Eve Hill", "Ida Reed"),
        "Dorothy": ("Ann", "Eve", "Ida"),
        "little Dorothy": ("small Ann", "small Eve", "small Ida"),
        "little dog": ("old cat", "grey cow", "red hen"),
    }
    translator = Translator(anchors_of(**lists))
    text = "The little dog of little Dorothy: Dorothy Gale, Dorothy."
    places = set()
    for seed in range(30):
        choice = translator.draw(text, random.Random(seed))
        of_name = {lists[term].index(choice[term]) for term in lists if "dog" not in term}
        assert len(of_name) == 1
        places.add((*of_name, lists["little dog"].index(choice["little dog"])))
    assert len(places) == 9


def test_blocks_of_one_text_draw_anew():
    translator = Translator(anchors_of(Oz=("Bath", "York", "Kent")))
    draws = Counter(translator.draw("Oz", random.Random(f"0 {row}"))["Oz"] for row in range(60))
    assert set(draws) == {"Bath", "York", "Kent"}


def test_a_seed_decides_among_the_translations_of_a_dictionary():
    dictionary = Anchors(anchors_of(Oz=("Bath", "York", "Kent")))
    texts = [translate("Oz and Oz", dictionary, seed=seed).text for seed in range(20)]
    assert texts == [translate("Oz and Oz", dictionary, seed=seed).text for seed in range(20)]
    assert set(texts) == {"Bath and Bath", "York and York", "Kent and Kent"}


# --- speed ------------------------------------------------------------------------------------------------------------


def book(size: int) -> tuple[str, list[Anchor]]:
    """A text of ``size`` characters, and 1,600 terms of one to three words, half of which begin with the same ones."""
    syllables = [a + b for a in "bdfghklmnprstvz" for b in "aeiou"]
    draw = random.Random(0)
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(5000)]
    names = [word.capitalize() for word in words[:800]]
    terms = [*names, *dict.fromkeys(f"{draw.choice(names[:20])} {draw.choice(words)}" for _ in range(900))][:1600]
    pieces = draw.choices([*words, *terms], k=size // 8)
    return " ".join(pieces * 2)[:size], anchors_of(*terms)


def test_a_megabyte_with_1600_terms_takes_seconds_and_the_work_grows_with_the_text(monkeypatch):
    text, anchors = book(1_000_000)
    assert len(text) == 1_000_000 and len(anchors) == 1600
    begun = time.process_time()
    translator = Translator(anchors)
    translation = translator.translate(text, translator.draw(text, random.Random(0)))
    assert time.process_time() - begun < 30  # some four seconds on a busy core
    assert len(translation.replacements) > 20_000
    tried: list[int] = []
    plain = Form.end_in
    monkeypatch.setattr(Form, "end_in", lambda *of: (tried.append(1), plain(*of))[1])
    counts = []
    for part in (text[: 1 << 17], text[: 1 << 19]):
        tried.clear()
        translator.find(part)
        counts.append(len(tried))
    assert counts[1] / counts[0] == pytest.approx(4, rel=0.1)
    assert counts[1] < 1 << 19
