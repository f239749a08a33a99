"""Generic terms for anchors: of the same kind, gender, number and case, and aligned between terms that share a word.

Every word of a term gets a column of ordinary words; translation i of a term is made of row i of its words' columns. So
translation i of "Dorothy Gale" begins with translation i of "Dorothy", and two columns never hold the same word in one
row while there are words left.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from generic_logits.discovery import vocabulary as v
from generic_logits.discovery.naming import Context, head_of, looks_plural
from generic_logits.discovery.words import base_form
from generic_logits.text.anchors import Gender, Kind
from generic_logits.text.translation import plural_of

_ENOUGH = 8  # words of one kind, for a choice among them


@dataclass(frozen=True)
class Described:
    """A term and what is known of it; ``family``: a single name that is the last of longer ones."""

    term: str
    kind: Kind
    gender: Gender | None
    context: Context
    family: bool = False


class Translations:
    """Draws columns of ordinary words for the words of terms."""

    def __init__(
        self,
        *,
        length: int,
        seed: int,
        allowed: Callable[[str], bool],
        rank: Callable[[str], int],
        words: Mapping[bool, Sequence[str]] | None = None,
    ) -> None:
        """Prepare the choice.

        Args:
            length: rows, that is, translations of a term.
            seed: of the order of the words.
            allowed: whether a word may be used at all.
            rank: words of a lower rank are used first.
            words: instead of the shipped English ones: names under True, other words under False.
        """
        self._length, self._allowed, self._rank, self._words = length, allowed, rank, words
        self._random = random.Random(seed)
        self._pools: dict[str, list[str]] = {}
        self._given: dict[str, list[str]] = {}
        self._columns: dict[str, list[str]] = {}
        self._nouns: set[str] = set()  # whose columns have plurals
        self._rows: list[set[str]] = [set() for _ in range(length)]
        self._started: dict[str, int] = {}

    def give(self, word: str, column: Sequence[str]) -> None:
        """Begin a word's column with translations that it has elsewhere."""
        if not any(" " in each for each in column):
            self._given[word.lower()] = [*column][: self._length]
            for row, each in zip(self._rows, column, strict=False):
                row.add(each.lower())

    def of(self, described: Described, proposed: Sequence[str] = ()) -> tuple[str, ...]:
        """The translations of a term; terms of one word should come before those that hold them.

        What was ``proposed`` for the term itself comes first, unless the term shares a word with another.
        """
        words = described.term.split(" ")
        alone = not any(word.lower() in self._columns for word in words)
        parts = [self._part(word, at, words, described) for at, word in enumerate(words)]
        rows = min((len(part) for part in parts if len(part) != 1), default=1)
        made = [" ".join(part[row % len(part)] for part in parts) for row in range(rows)]
        made = [each for each in made if each != described.term]
        return tuple(dict.fromkeys([*proposed, *made] if alone else made or proposed))[: self._length]

    def _part(self, word: str, at: int, words: Sequence[str], described: Described) -> Sequence[str]:
        """What stands for one word of a term, row by row."""
        key = word.lower()
        if word in v.CONNECTORS or (len(words) > 1 and word in v.TITLES and key not in self._columns):
            return [word]
        pool = self._pool_for(at, words, described)
        plural = pool in _COMMON and at >= words.index(head_of(words)) and looks_plural(word)
        if plural:
            key = base_form(key, self._nouns)
        if key not in self._columns:
            if pool in _COMMON:
                self._nouns.add(key)
            self._columns[key] = self._column(pool, at, plural, described.context, self._given.get(key, ()))
        column = self._columns[key]
        if plural:
            column = [plural_of(each) for each in column]
        return _written_like(word, column)

    def _pool_for(self, at: int, words: Sequence[str], described: Described) -> str:
        if self._words is not None:
            return "own names" if words[at][0].isupper() else "own words"
        content = [number for number, word in enumerate(words) if word not in v.CONNECTORS]
        head = words.index(head_of(words))
        common = described.context.definite or words[head][0].islower()
        person = described.kind == "person"
        if person and not common:
            names = [number for number in content if words[number] not in v.TITLES] or content
            family = at != names[0] or (len(names) == 1 and _is_family_name(words[:at], described))
            return "surnames" if family else _FIRST_NAMES[described.gender]
        if at > head:
            return "place nouns" if looks_plural(words[at]) or words[at - 1] != "of" else "places"
        if described.kind == "place" and len(content) == 1 and not common:
            return "places"
        if at == head:
            return _ROLES[described.gender] if person else _HEADS[described.kind]
        return _ADJECTIVES[described.kind]

    def _column(self, pool: str, at: int, plural: bool, context: Context, given: Sequence[str]) -> list[str]:
        """Take a column from a pool: words that are new in their rows, as long as there are any."""
        words = self._pool(pool)
        start = self._started[pool] = self._started.get(pool, -self._length) + self._length
        start += start // max(1, len(words))  # the next round through the pool makes other columns
        order = [words[(start + step) % len(words)] for step in range(len(words))]
        if pool in _COMMON and (plural or context.plural):
            order = [word for word in order if not _IRREGULAR.search(word)]
        if at == 0 and context.a + context.an:
            fitting = [word for word in order if (word[0].lower() in "aeiou") == (context.an > context.a)]
            order = fitting if len(fitting) >= _ENOUGH else order
        column = [*given]
        for row in self._rows[len(column) :]:
            left = [word for word in order if word not in column]
            if not left:
                break
            word = next((word for word in left if word.lower() not in row), left[0])
            column.append(word)
        for row, word in zip(self._rows, column, strict=False):
            row.add(word.lower())
        return column

    def _pool(self, name: str) -> list[str]:
        if name not in self._pools:
            if self._words is not None:
                words = list(self._words[name == "own names"])
            else:
                words = []
                for tier in name.split(", "):
                    more = [word for part in tier.split("+") for word in v.ordinary(part) if word not in words]
                    words += self._random.sample(more, len(more))
            self._pools[name] = sorted(filter(self._allowed, words), key=self._rank)
        return self._pools[name]


_FIRST_NAMES = {"female": "female names", "male": "male names", None: "female names+male names"}
_ROLES = {"female": "women, persons", "male": "men+persons", None: "persons"}  # behind a comma: when the first are used
_HEADS = {"place": "place nouns", "group": "groups", "thing": "things", "word": "things"}
_COMMON = {*_ROLES.values(), *_HEADS.values()}
_ADJECTIVES = {
    "person": "adjectives",
    "group": "adjectives",
    "place": "adjectives of places",
    "thing": "adjectives of things",
    "word": "adjectives of things",
}
_IRREGULAR = re.compile("[^aeiou]y$|fe?$|man$")  # no regular plural


def _is_family_name(titles: Sequence[str], described: Described) -> bool:
    """Whether a name alone is a family's: behind Mr and not behind Aunt, or last in longer names."""
    if titles:
        return titles[-1] in v.FAMILY_NAME_TITLES
    return described.family or described.context.family > described.context.count / 3


def _written_like(word: str, column: Sequence[str]) -> Sequence[str]:
    if len(word) > 1 and word.isupper():
        return [each.upper() for each in column]
    return [each[:1].upper() + each[1:] for each in column] if word[0].isupper() else column


def forbidden_words(terms: Collection[str]) -> set[str]:
    """Every word of the terms and its plural, in lower case: what no translation may hold."""
    words = {word.lower() for term in terms for word in term.split() if word not in v.CONNECTORS}
    return words | {plural_of(word) for word in words} | {base_form(word, {word[:-1], word[:-2]}) for word in words}
