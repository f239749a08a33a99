"""Anchors -> generic terms in a text, and the exact map from the original's characters to the translated text's.

What counts as an occurrence of a term:

* from left to right, of several terms the longest;
* whole words only; a word is a run of letters and digits with the accents and vowel signs on them. Scripts that write
  words together (Han, kana, Hangul, Thai, Lao, Khmer, Burmese, Tibetan) have no such edges: there every occurrence
  counts;
* in the term's own case, or in capitals throughout (then the translation is in capitals, too); a term that begins in
  lower case also with a capital, or with one at every word, and its translation likewise;
* in its regular English plural (the translation takes its own), if that is no term itself; an "'s" behind it stays in
  place;
* with any white space between its words; it is kept where the translation has as many words.
"""

from __future__ import annotations

import random
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from generic_logits.text.anchors import Anchor, Anchors


def _marks() -> str:
    """Accents, vowel signs and what joins or parts letters, as ranges for a character class."""
    marks = [code for code in range(0x300, 0x1EA00) if unicodedata.category(chr(code))[0] == "M"]
    runs = [[code for _, code in run] for _, run in groupby(enumerate(marks), lambda pair: pair[1] - pair[0])]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs) + "\u00ad\u200c\u200d\U000e0100-\U000e01ef"


_TOGETHER = (  # Thai, Lao, Tibetan, Burmese, Hangul, Khmer, kana and Han
    "\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\ua9e0-\ua9ff\uaa60-\uaa7f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_LETTER = f"[^\\W_{_TOGETHER}]"
_MARK = f"[{_marks()}]"
_UNIT = re.compile(f"{_LETTER}+(?:{_MARK}+{_LETTER}*)*|\\S")  # a word, or any other character
_ENDS_WORD = re.compile(f"{_LETTER}{_MARK}*\\Z")
_TRAILING_MARKS = re.compile(f"{_MARK}+\\Z")
_GOES_ON = re.compile(_MARK)  # whatever is in front
_WORD_GOES_ON = re.compile(f"{_LETTER}|{_MARK}")
_GAP = re.compile(r"\s+")
_SIBILANTS = ("s", "x", "z", "ch", "sh")


@dataclass(frozen=True, slots=True)
class Replacement:
    """An occurrence of a term, and where its translation lies; all offsets in characters."""

    term: str
    start: int  # in the original
    end: int
    new_start: int  # in the translated text
    new_end: int


@dataclass(frozen=True)
class Translation:
    """A translated text and what was replaced in it, in order."""

    text: str
    replacements: tuple[Replacement, ...]

    def end_of(self, end: int) -> int | None:
        """Translated offset of the end of a character that ends at ``end`` in the original; None inside a term."""
        number = bisect_left(self.replacements, end, key=lambda each: each.start)  # that begin in front of ``end``
        if not number:
            return end
        last = self.replacements[number - 1]
        return None if end < last.end else end - last.end + last.new_end


@dataclass(frozen=True, slots=True)
class Form:
    """One way of writing a term: its words, and how its translation is to be written."""

    term: str
    words: tuple[str, ...]
    case: Callable[[str], str] = str
    plural: bool = False

    def end_in(self, text: str, start: int) -> int:
        """Offset behind this form where ``text`` has it at ``start``, the beginning of a word; otherwise -1."""
        end = start
        for number, word in enumerate(self.words):
            if number:
                gap = _GAP.match(text, end)
                if not gap:
                    return -1
                end = gap.end()
            if not text.startswith(word, end):
                return -1
            end += len(word)
        goes_on = _WORD_GOES_ON if _ENDS_WORD.search(self.words[-1]) else _GOES_ON
        return -1 if goes_on.match(text, end) else end

    def translate(self, found: str, translation: str) -> str:
        """Put a translation into the number, the case and the white space of what it replaces."""
        new = self.case(plural_of(translation) if self.plural else translation)
        gaps, words = _GAP.findall(found), new.split()
        if len(gaps) == len(words) - 1:
            new = "".join(part for pair in zip(words, [*gaps, ""], strict=True) for part in pair)
        return new


class Translator:
    """Finds the terms of a dictionary and replaces them, one translation a term and text."""

    def __init__(self, anchors: Iterable[Anchor]) -> None:
        """Prepare the search; redundant entries are passed over (see ``without_redundant``)."""
        self.anchors = {anchor.term: anchor for anchor in without_redundant(anchors)}
        self._family = _families(self.anchors)
        forms = {tuple(term.split()): Form(term, tuple(term.split())) for term in self.anchors}
        for term in self.anchors:
            for form in _other_forms(term):
                forms.setdefault(form.words, form)
        self._forms: dict[str, list[Form]] = {}  # by the first word or other character, the longest first
        for form in sorted(forms.values(), key=lambda form: -len(" ".join(form.words))):
            if first := _UNIT.search(form.words[0]):
                self._forms.setdefault(first[0], []).append(form)

    def find(self, text: str) -> list[tuple[int, int, Form]]:
        """(start, end, form) of every occurrence, from left to right, without overlap."""
        found: list[tuple[int, int, Form]] = []
        behind = 0
        for unit in _UNIT.finditer(text):
            start = unit.start()
            if start < behind:
                continue
            for form in self._forms.get(unit[0], ()):
                end = form.end_in(text, start)
                if end > 0:
                    found.append((start, end, form))
                    behind = end
                    break
        return found

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of every occurrence: what a block should not be cut in."""
        return [(start, end) for start, end, _ in self.find(text)]

    def draw(self, text: str, random_state: random.Random) -> dict[str, str]:
        """Choose a translation for every term that occurs in ``text``.

        Terms that share a name ("Dorothy", "Dorothy Gale") take the same place of their lists, or the next one whose
        translation no other term has: two terms have the same only where nothing else is left.
        """
        taken: set[str] = set()
        places: dict[str, int] = {}
        choice: dict[str, str] = {}
        for term in dict.fromkeys(form.term for _, _, form in self.find(text)):
            translations, family = self.anchors[term].translations, self._family[term]
            place = places[family] if family in places else random_state.randrange(len(translations))
            order = [(place + step) % len(translations) for step in range(len(translations))]
            free = next((place for place in order if translations[place] not in taken), order[0])
            places.setdefault(family, free)
            choice[term] = translations[free]
            taken.add(translations[free])
        return choice

    def translate(self, text: str, choice: Mapping[str, str]) -> Translation:
        """Replace every occurrence of the terms that ``choice`` has a translation for."""
        pieces: list[str] = []
        replacements: list[Replacement] = []
        behind = length = 0
        for start, end, form in self.find(text):
            if form.term not in choice:
                continue
            new = form.translate(text[start:end], choice[form.term])
            new_start = length + start - behind
            pieces += (text[behind:start], new)
            length = new_start + len(new)
            replacements.append(Replacement(form.term, start, end, new_start, length))
            behind = end
        return Translation("".join([*pieces, text[behind:]]), tuple(replacements))


def translate(text: str, anchors: Anchors | Mapping[str, str], *, seed: int = 0) -> Translation:
    """Replace a text's anchors by generic terms, one translation a term ("Who's Harry Potter?", section 2.2).

    Args:
        text: any text.
        anchors: a dictionary, or a plain mapping from terms to one translation each.
        seed: of the draw among an anchor's translations.

    Raises:
        InputError: a translation of the mapping holds one of its terms.
    """
    if not isinstance(anchors, Anchors):
        anchors = Anchors([Anchor(term=term, translations=(new,)) for term, new in anchors.items()])
    translator = Translator(anchors)
    return translator.translate(text, translator.draw(text, random.Random(seed)))


def without_redundant(anchors: Iterable[Anchor]) -> list[Anchor]:
    """Leave out "X's" beside "X", and terms of several words each of which is a term (method step 1)."""
    anchors = list(anchors)
    terms = {anchor.term for anchor in anchors}

    def redundant(term: str) -> bool:
        words = term.split()
        possessive = term.endswith(("'s", "\u2019s")) and term[:-2] in terms
        return possessive or (len(words) > 1 and all(word in terms for word in words))

    return [anchor for anchor in anchors if not redundant(anchor.term)]


def _families(terms: Iterable[str]) -> dict[str, str]:
    """One term to stand for all that share a word other than a lower-case one, directly or through others."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    for term in terms:
        for word in _UNIT.findall(term):
            if word.isalnum() and not word.islower():
                above[top(word)] = top(term)
    return {term: top(term) for term in terms}


def _other_forms(term: str) -> Iterator[Form]:
    """Every way of writing a term but its own, the likeliest first."""
    cases = (str, _capital, _title, str.upper) if term[0].islower() else (str, str.upper)
    for case in cases:
        for plural in (False, True):
            text = case(plural_of(term) if plural else term)
            yield Form(term, tuple(text.split()), case, plural)


def plural_of(text: str) -> str:
    """The regular English plural; of a name in -y the one of names (Kennedys), of a text in another script itself."""
    word = _TRAILING_MARKS.sub("", text.split()[-1] if text.split() else "")
    if not unicodedata.name(word[-1:] or " ", "").startswith(("LATIN", "DIGIT")):
        return text
    if re.search("[^aeiou]y$", word) and word[0].islower():
        return text[:-1] + "ies"
    return text + ("es" if word.lower().endswith(_SIBILANTS) else "s")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _title(text: str) -> str:
    return " ".join(map(_capital, text.split()))
