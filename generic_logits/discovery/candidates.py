"""Candidates for anchors: names, and common words and pairs of words, that belong to a text far more than to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from generic_logits.discovery import vocabulary as v
from generic_logits.discovery.statistics import Counts, Reference, is_name, z_score
from generic_logits.discovery.words import LINE, START, Words, base_form, read_words
from generic_logits.errors import InputError
from generic_logits.text.translation import plural_of

_LONGEST, _STRETCH = 4, 12  # words of a name at most, without and with connecting words
_Z = 1.96  # a rate that differs from the reference's beyond chance (5 %)
_WORD_Z, _WORD_COUNT = 3.0, 2  # for common words, of which there are many more; times the minimum count
_NAME_RATIO, _ORDINARY_RATIO, _WORD_RATIO, _VARIANT_RATIO = 10.0, 25.0, 100.0, 25.0  # times the reference's rate
_RISE, _WORD_RISE = 6.0, 10.0  # spreads above the text's other words, by which the pair alone makes an anchor
_TRUST = 4.0  # what the pair raises so far may be this much commoner elsewhere
_FREE_CAPITALISED = 1 / 3  # share of a name's occurrences outside longer names
_DETERMINED = 0.3  # share of an English noun's occurrences behind a determiner


class Survey:
    """What a text says about its own words, names and phrases; two passes over it."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Read the texts, which can be walked through again.

        Raises:
            InputError: there are no words.
        """
        self.counts = Counts()
        for text in texts:
            self.counts.add(read_words(text))
        if not self.counts.total:
            raise InputError("a text with words", "none", "check the corpus")
        self.english = v.is_english(self.counts.words, self.counts.total)
        commonest = {word for word, _ in self.counts.words.most_common(60)}
        self.small = v.FUNCTION_WORDS if self.english else commonest  # no terms, and in no pair
        self.names = {word for word in self.counts.words if is_name(word, self.counts)}
        self.runs: Counter[tuple[str, ...]] = Counter()  # of names
        self.pairs: Counter[str] = Counter()  # of common words
        self.determined: Counter[str] = Counter()  # words and pairs behind a determiner
        inner = {name for name in self.names if self.counts.inside[name]}  # the others may only begin sentences
        for text in texts:
            read = read_words(text)
            self.runs.update(tuple(run) for run in _runs(read, inner))
            self._count_pairs(read)
        self.phrases: Counter[str] = Counter()
        for run, count in self.runs.items():
            for phrase in _phrases_of(run):
                self.phrases[phrase] += count

    def _count_pairs(self, read: Words) -> None:
        before, last, gap_before = "", "", START
        for word, gap in zip(*read, strict=True):
            if self._is_common(word) and gap <= LINE:
                if last.lower() in v.DETERMINERS:
                    self.determined[word] += 1
                elif self._is_common(last):
                    pair = f"{last} {word}"
                    self.pairs[pair] += 1
                    if gap_before <= LINE and before.lower() in v.DETERMINERS:
                        self.determined[pair] += 1
            before, last, gap_before = last, word, gap

    def _is_common(self, word: str) -> bool:
        return len(word) > 2 and word == word.lower() and word not in self.small

    def words(self, minimum_count: int) -> list[str]:
        """Names and common words of at least this count."""
        return [
            word
            for word, count in self.counts.words.items()
            if count >= minimum_count and (word in self.names or self._is_common(word))
        ]

    def longer_terms(self, minimum_count: int) -> list[str]:
        """Names and pairs of several words of at least this count."""
        return [term for found in (self.phrases, self.pairs) for term, count in found.items() if count >= minimum_count]


def _runs(read: Words, names: Collection[str]) -> Iterator[list[str]]:
    """Longest stretches of at least two names without anything between, small connecting words apart."""
    run: list[str] = []
    length = 0  # up to the last name
    for word, gap in zip(*read, strict=True):
        if run and (gap > LINE or not (word in names or word in v.CONNECTORS)):
            if length > 1:
                yield run[:length]
            run, length = [], 0
        if word in names:
            run.append(word)
            length = len(run)
        elif run:
            run.append(word)
    if length > 1:
        yield run[:length]


def _phrases_of(run: Sequence[str]) -> Iterator[str]:
    """Every phrase in a run that begins and ends with a name."""
    names = [at for at, word in enumerate(run) if word not in v.CONNECTORS]
    for first in range(len(names)):
        for last in range(first + 1, min(len(names), first + _LONGEST)):
            yield " ".join(run[names[first] : names[last] + 1])


def _segments(run: Sequence[str], phrases: Collection[str]) -> Iterator[Sequence[str]]:
    """Cut a run into the longest known phrases and single words, from the left."""
    at = 0
    while at < len(run):
        ends = range(min(len(run), at + _STRETCH), at + 1, -1)
        end = next((end for end in ends if " ".join(run[at:end]) in phrases), at + 1)
        yield run[at:end]
        at = end


@dataclass(frozen=True)
class Candidate:
    """A term and the figures that chose it.

    Attributes:
        term: in its base form.
        count: occurrences in the forget corpus, of all its forms, outside longer terms.
        reference_count: occurrences in the reference.
        z: log-odds in standard deviations; None without a reference.
        rise: how far the pair raises it, in spreads above the text's other words; None without a pair.
    """

    term: str
    count: int
    reference_count: float
    z: float | None
    rise: float | None

    @property
    def strength(self) -> float:
        """Orders candidates."""
        return (self.z or 0.0) + (self.rise or 0.0)

    @property
    def rises(self) -> bool:
        """Whether the pair alone makes it an anchor."""
        return self.rise is not None and self.rise >= (_WORD_RISE if self.term == self.term.lower() else _RISE)


class _Judge:
    """Measures terms, and says which belong to the text."""

    def __init__(
        self, survey: Survey, reference: Reference | None, rise: Mapping[str, float] | None, minimum_count: int
    ) -> None:
        self.survey, self.reference, self.rise, self.minimum_count = survey, reference, rise, minimum_count

    def candidate(self, term: str, count: int, forms: Iterable[str], inside: bool) -> Candidate:
        forms = list(forms)
        rise = max((self.rise[form] for form in forms if form in self.rise), default=None) if self.rise else None
        if self.reference is None:
            return Candidate(term, count, 0, None, rise)
        there = sum(self.reference.count(form, inside) for form in forms)
        z = z_score(count, self.survey.counts.total, there, self.reference.total)
        return Candidate(term, count, there, z, rise)

    def passes(self, candidate: Candidate, *, z: float, ratio: float) -> bool:
        if candidate.count < self.minimum_count:
            return False
        if self.reference is None or candidate.z is None:
            return candidate.rises
        rate = (candidate.reference_count + 0.5) / self.reference.total
        times = candidate.count / self.survey.counts.total / rate
        if candidate.rises and candidate.z >= _Z and times >= ratio / _TRUST:
            return True
        return candidate.z >= z and times >= ratio


def find_candidates(
    survey: Survey, reference: Reference | None, rise: Mapping[str, float] | None, minimum_count: int
) -> list[Candidate]:
    """Find names, common words and pairs of them that belong to the surveyed text, the surest first.

    Args:
        survey: of the forget corpus.
        reference: what is ordinary.
        rise: by how many spreads the pair raises a term above the text's other words.
        minimum_count: occurrences below which nothing counts.
    """
    judge = _Judge(survey, reference, rise, minimum_count)
    found = [_written_small(candidate, judge) for candidate in _names(judge)]
    found += _common_terms(judge, {candidate.term.lower() for candidate in found})
    return sorted(found, key=lambda each: (-each.strength, each.term))


def _names(judge: _Judge) -> list[Candidate]:
    """Names of one word and of several; a longer one stands only where it is more than shorter ones in a row."""
    survey = judge.survey
    forms = _forms(survey.phrases)
    whole = {
        base: judge.candidate(base, sum(survey.phrases[form] for form in of), of, True) for base, of in forms.items()
    }
    frequent = [base for base, each in whole.items() if judge.passes(each, z=_Z, ratio=_NAME_RATIO)]
    known = {form for base in frequent for form in forms[base]}
    free: Counter[str] = Counter()  # phrases outside longer ones
    bound: Counter[str] = Counter()  # words inside phrases
    for run, count in survey.runs.items():
        for segment in _segments(run, known):
            if len(segment) > 1:
                free[" ".join(segment)] += count
                for word in segment:
                    bound[word] += count
    accepted = {each.term: each for each in _single_names(judge, bound)}
    for base in sorted(frequent, key=lambda base: (base.count(" "), base)):
        outside = sum(free[form] for form in forms[base])
        if outside >= judge.minimum_count and not _is_made_of(base.split(" "), accepted):
            accepted[base] = whole[base]
    return list(accepted.values())


def _single_names(judge: _Judge, bound: Mapping[str, int]) -> Iterator[Candidate]:
    survey, counts = judge.survey, judge.survey.counts
    for base, of in _forms(survey.names).items():
        small = [form.lower() for form in of]
        if not any(counts.inside[form] for form in of) and not _is_never_small(small, judge.reference):
            continue
        # where the word is common, too, a capital at a sentence's start says nothing
        inside = sum(counts.words[form] for form in small) >= 0.1 * sum(counts.words[form] for form in of)
        count = sum((counts.inside if inside else counts.words)[form] - bound.get(form, 0) for form in of)
        if count < max(1, _FREE_CAPITALISED * (count + sum(counts.inside[form] for form in small))):
            continue
        ordinary = base in v.TITLES or base.lower() in v.PLACES
        candidate = judge.candidate(base, count, of, inside)
        if judge.passes(candidate, z=_Z, ratio=_ORDINARY_RATIO if ordinary else _NAME_RATIO):
            yield candidate


def _is_never_small(words: Iterable[str], reference: Reference | None) -> bool:
    """Whether words that only ever begin a sentence are written with a capital elsewhere, too."""
    return reference is not None and all(reference.count(word, False) <= 1e-6 * reference.total for word in words)


def _forms(terms: Collection[str]) -> dict[str, list[str]]:
    """Base form -> the forms that occur."""
    forms: dict[str, list[str]] = {}
    for term in terms:
        forms.setdefault(base_form(term, terms), []).append(term)
    return forms


def _is_made_of(words: Sequence[str], terms: Collection[str]) -> bool:
    """Whether a phrase is nothing but terms and connecting words."""
    heads = [end for end in range(1, len(words) + 1) if " ".join(words[:end]) in terms]
    heads += [1] * (len(words) > 0 and words[0] in v.CONNECTORS)
    return not words or any(_is_made_of(words[end:], terms) for end in heads)


def _written_small(name: Candidate, judge: _Judge) -> Candidate:
    """Put a name into lower case if the text writes it so, too, and others hardly do: that covers both."""
    small = name.term.lower()
    counts = judge.survey.pairs if " " in small else judge.survey.counts.words
    forms = {small, plural_of(small)}
    count = sum(counts[form] for form in forms)
    if small == name.term or count < 2:
        return name
    other = judge.candidate(small, name.count + count, forms, False)
    if not judge.passes(replace(other, count=max(count, judge.minimum_count)), z=_Z, ratio=_VARIANT_RATIO):
        return name
    return replace(name, term=small, count=other.count, reference_count=name.reference_count + other.reference_count)


def _common_terms(judge: _Judge, taken: Collection[str]) -> Iterator[Candidate]:
    """Pairs of common words, then single ones outside them."""
    survey = judge.survey
    words = {word: survey.counts.words[word] for word in survey.words(1) if word == word.lower()}
    bound: Counter[str] = Counter()
    for counts in (survey.pairs, words):
        for base, of in _forms(counts).items():
            count = sum(counts[form] - bound[form] for form in of)
            if base in taken or count < _WORD_COUNT * judge.minimum_count:
                continue
            if survey.english and sum(survey.determined[form] for form in of) < _DETERMINED * count:
                continue
            candidate = judge.candidate(base, count, {base, plural_of(base), *of}, False)
            if judge.passes(candidate, z=_WORD_Z, ratio=_WORD_RATIO):
                yield candidate
                for form in of if counts is survey.pairs else ():
                    for word in form.split(" "):
                        bound[word] += survey.pairs[form]
