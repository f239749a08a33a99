"""A text as words: what stands before each, and what is a heading."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from generic_logits.discovery import vocabulary as v
from generic_logits.text.translation import plural_of

_WORD = r"[^\W\d_][^\W_]*(?:['’-][^\W\d_][^\W_]*)*"
_TOKENS = re.compile(rf"((?:[\W_]++|\d[^\W_]*+)*+)({_WORD}|\Z)")  # matches everywhere, so it never goes back
_END_OF_SENTENCE = re.compile(r"[.!?…:。]|--|—|[(\[{*|]")
_OPENING = "\"'“‘«„‹¡¿`_"
_NO_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_HEADING = 80  # characters of a line; what is longer may be contents
_POSSESSIVE = ("'s", "’s", "'S", "’S")
JOINED, LINE, BROKEN, START = range(4)  # before a word: a space, a line's end, a comma or so, a sentence's start


class Words(NamedTuple):
    """A text's words in order, possessive endings taken off, and what stands before each."""

    words: list[str]
    gaps: list[int]  # JOINED, LINE, BROKEN or START


def read_words(text: str, *, headings: bool = False) -> Words:
    """Cut a text into words, by default without its headings."""
    words: list[str] = []
    gaps: list[int] = []
    kinds: dict[str, int] = {}
    behind_possessive = False
    for gap, word in _TOKENS.findall(text if headings else without_headings(text)):
        if not word:
            break
        kind = kinds.get(gap)
        if kind is None:
            kind = kinds[gap] = _kind_of_gap(gap)
        if kind == START and gap == ". " and words and (words[-1] in v.ABBREVIATIONS or len(words[-1]) == 1):
            kind = BROKEN
        gaps.append(max(kind, BROKEN) if behind_possessive else kind)
        behind_possessive = word.endswith(_POSSESSIVE)
        words.append(word[:-2] if behind_possessive else word)
    if gaps:
        gaps[0] = START
    return Words(words, gaps)


def _kind_of_gap(gap: str) -> int:
    if not gap.strip():
        return JOINED if "\n" not in gap else START if gap.count("\n") > 1 else LINE
    if gap[-1] in _OPENING or "\n" in gap or _END_OF_SENTENCE.search(gap):
        return START
    return BROKEN


def without_headings(text: str) -> str:
    """A text without its headings and contents: lines in capitals, where a line can begin something new."""
    lines = text.split("\n")
    ended = True
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped and ended and _is_heading(stripped):
            lines[number] = ""
        elif stripped:
            ended = not stripped[-1].isalnum() and stripped[-1] not in ",;-"
        else:
            ended = True
    return "\n".join(lines)


def _is_heading(line: str) -> bool:
    """Whether most words begin with capitals: all the longer ones of a short line that does not end a sentence."""
    if line[0].islower():
        return False
    words = [word for word in line.split() if word[0].isalpha()]
    capitals = sum(word[0].isupper() for word in words)
    if len(line) > _HEADING:
        return capitals > 0.7 * len(words)
    small = any(word[0].islower() for word in words if len(word) > 3)
    return capitals >= max(1, 0.5 * len(words)) and not small and line[-1] not in '.!?…"”’,;'


def without_spaces(words: Mapping[str, int]) -> bool:
    """Whether a good part of a text is in a script that puts no spaces between words."""
    return sum(len(word) * n for word, n in words.items() if _NO_SPACES.search(word)) > _share(words, 0.3)


def is_latin(words: Mapping[str, int]) -> bool:
    """Whether most of a text is in Latin letters."""
    return sum(len(word) * n for word, n in words.items() if word[0] < "\u0250") > _share(words, 0.5)


def _share(words: Mapping[str, int], share: float) -> float:
    """A share of a text's letters."""
    return share * sum(len(word) * n for word, n in words.items())


class PhraseFinder:
    """Finds given phrases of several words, in any case."""

    def __init__(self, phrases: Iterable[str]) -> None:
        """Take the phrases in lower case."""
        self._lengths: dict[str, set[int]] = {}
        self._phrases = set(phrases)
        for phrase in self._phrases:
            words = phrase.split(" ")
            if len(words) > 1:
                self._lengths.setdefault(words[0], set()).add(len(words))

    def find(self, read: Words) -> Iterator[str]:
        """Every occurrence, in lower case; longer and shorter ones both."""
        if not self._lengths:
            return
        words = [word.lower() for word in read.words]
        for at, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                phrase = " ".join(words[at : at + length])
                if phrase in self._phrases and max(read.gaps[at + 1 : at + length]) <= LINE:
                    yield phrase


def base_form(term: str, known: Collection[str]) -> str:
    """A term's singular, if that is among the known ones; else the term."""
    for cut in (term[:-1], term[:-2], term[:-3] + "y"):
        if cut in known and plural_of(cut) == term:
            return cut
    return term
