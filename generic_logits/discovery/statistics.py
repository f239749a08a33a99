"""How often words occur, and how far a rate lies above a reference's (no model).

The measure is the log-odds ratio with an informative Dirichlet prior, as a z-score (Monroe, Colaresi & Quinn 2008,
"Fightin' Words", equations 15, 16, 20 and 22). The prior is the mean of both rates and weighs four times the forget
corpus: with much less, a word that the reference has once would score above one that it never has.
"""

from __future__ import annotations

import heapq
import importlib
import math
import random
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from generic_logits.discovery import vocabulary as v
from generic_logits.discovery.words import BROKEN, JOINED, PhraseFinder, Words, read_words
from generic_logits.errors import InputError

_PRIOR = 4.0  # weight of the prior, in multiples of the forget corpus
_CAPITALISED = 0.25  # share in mid-sentence that makes a name
_PASSAGES, _CHARACTERS, _EVERY = 48, 600, 3000  # kept for a look at models on neutral text


class Counts:
    """Words of a corpus, as they are written.

    Attributes:
        words: everywhere.
        inside: in mid-sentence, where a capital means something.
    """

    def __init__(self) -> None:
        """Start at nothing."""
        self.words: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self.total = 0

    def add(self, read: Words) -> None:
        """Count one text's words."""
        self.words.update(read.words)
        self.inside.update(word for word, gap in zip(*read, strict=True) if gap in (JOINED, BROKEN))
        self.total += len(read.words)


def is_name(word: str, counts: Counts) -> bool:
    """Whether a word's capital is its own, and not its sentence's or its headline's."""
    if not word[0].isupper() or len(word) < 2 or word in v.NOT_NAMES:
        return False
    lower = word.lower()
    if word.isupper() and (counts.words[word.capitalize()] or counts.words[lower]):
        return False
    if not counts.inside[word]:
        return not counts.words[lower] and counts.words[word] > 1 and lower not in v.FUNCTION_WORDS
    return counts.inside[word] >= _CAPITALISED * (counts.inside[word] + counts.inside[lower])


class Reference(Protocol):
    """How often words and phrases occur elsewhere."""

    total: float  # words

    def count(self, term: str, inside: bool) -> float:
        """Occurrences of a word as it is written (in mid-sentence, if ``inside``) or of a phrase in any case."""

    def knows(self, word: str) -> bool:
        """Whether a model that read it will know the word."""


class CountedReference:
    """The counts of reference corpora.

    Attributes:
        total: words.
        passages: texts of some hundred characters from all over them.
    """

    def __init__(self, texts: Iterable[str], phrases: Collection[str], *, seed: int = 0) -> None:
        """Count the words of all texts and the given phrases; one pass. ``seed`` chooses the passages."""
        self._counts = Counts()
        self._phrases: Counter[str] = Counter()
        finder = PhraseFinder(phrase.lower() for phrase in phrases)
        sample = _Sample(seed)
        for text in texts:
            read = read_words(text)
            self._counts.add(read)
            self._phrases.update(finder.find(read))
            sample.add(text)
        self.total = float(self._counts.total)
        self.passages = sample.passages

    def count(self, term: str, inside: bool) -> float:
        """See ``Reference``."""
        if " " in term:
            return self._phrases[term.lower()]
        return (self._counts.inside if inside else self._counts.words)[term]

    def knows(self, word: str) -> bool:
        """See ``Reference``."""
        return self._counts.words[word] > 1

    def own_words(self, *, names: bool) -> list[str]:
        """Its names or its other longer words, the commonest first; for texts that are not English."""
        counts = self._counts
        chosen = [word for word, count in counts.inside.items() if count > 2 and len(word) > 3]
        chosen = [word for word in chosen if (is_name(word, counts) if names else word == word.lower())]
        return sorted(chosen, key=lambda word: (-counts.inside[word], word))


class _Sample:
    """A fair sample of the passages of texts that come one after another (reservoir by random keys)."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kept: list[tuple[float, str]] = []

    def add(self, text: str) -> None:
        for start in range(0, max(1, len(text) - _CHARACTERS), _EVERY):
            key = self._random.random()
            if len(self._kept) < _PASSAGES or key > self._kept[0][0]:
                begin = text.find(" ", start) + 1 if start else 0
                push = heapq.heappush if len(self._kept) < _PASSAGES else heapq.heappushpop
                push(self._kept, (key, text[begin : begin + _CHARACTERS]))

    @property
    def passages(self) -> list[str]:
        return [passage for _, passage in sorted(self._kept)]


class WordFrequencies:
    """The frequencies of the library wordfreq, as if ten million words had been counted."""

    total = 1e7

    def __init__(self) -> None:
        """Load the library.

        Raises:
            InputError: it is not installed.
        """
        try:
            self._frequency: Any = importlib.import_module("wordfreq").word_frequency
        except ImportError as error:
            raise InputError(
                "something to compare with",
                "no reference corpus, and the library wordfreq is not installed",
                "give --reference CORPUS, or pip install 'generic-logits[anchors]'",
            ) from error

    def count(self, term: str, inside: bool) -> float:
        """See ``Reference``; of a phrase a thousand times what its words would have by chance."""
        words = term.lower().split()
        frequency = math.prod(float(self._frequency(word, "en")) for word in words)
        return float(self.total * frequency * 1000 ** (len(words) - 1))

    def knows(self, word: str) -> bool:
        """See ``Reference``."""
        return True


def z_score(count: float, total: float, reference_count: float, reference_total: float) -> float:
    """Log-odds ratio of a term's two rates under the prior, in standard deviations."""
    if count <= 0:
        return 0.0
    size = _PRIOR * total
    prior = size * (count / total + reference_count / reference_total) / 2
    ours = math.log((count + prior) / (total + size - count - prior + 1))
    theirs = math.log((reference_count + prior) / (reference_total + size - reference_count - prior + 1))
    return (ours - theirs) / math.sqrt(1 / (count + prior) + 1 / (reference_count + prior))
