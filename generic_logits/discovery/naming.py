"""What kind of thing a term names, and of which gender, by the words around it. English heuristics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from generic_logits.discovery import vocabulary as v
from generic_logits.discovery.words import BROKEN, LINE, START, Words, read_words
from generic_logits.text.anchors import Gender, Kind
from generic_logits.text.translation import plural_of

_PRONOUN_WITHIN = 10  # words behind a term


@dataclass
class Context:
    """How often a term occurs, and beside what."""

    count: int = 0
    plural: int = 0  # in the plural of the term
    article: int = 0  # behind the, a, this, ...
    a: int = 0
    an: int = 0
    title: int = 0  # behind Mr, Aunt, ...
    female_title: int = 0
    male_title: int = 0
    family: int = 0  # behind Mr, Captain, ...: titles of family names
    saying: int = 0  # beside a verb of saying
    acting: int = 0  # in front of a verb of what people do
    place: int = 0  # behind in, at, near, ..., an article between them or not
    way: int = 0  # behind to, from, ...
    he: int = 0  # the next pronoun
    she: int = 0
    they: int = 0

    @property
    def definite(self) -> bool:
        """Whether the term is used as common nouns are, with an article."""
        return self.article > 0.4 * self.count


def contexts(texts: Iterable[str], terms: Iterable[str]) -> dict[str, Context]:
    """Look at every occurrence of the terms in the texts, the longest term first, as the translator does.

    Under "" stand all pronouns of the texts.
    """
    finder = _Finder(terms)
    found = {term: Context() for term in [*finder.terms, ""]}
    everyone = found[""]
    for text in texts:
        read = read_words(text, headings=True)
        small = [word.lower() for word in read.words]
        everything = Counter(small)
        everyone.he += sum(everything[word] for word in v.HE)
        everyone.she += sum(everything[word] for word in v.SHE)
        everyone.they += sum(everything[word] for word in v.THEY)
        occurrences = finder.find(read, small)
        occupied = {start for start, *_ in occurrences}
        for start, end, term, plural in occurrences:
            context = found[term]
            context.count += 1
            context.plural += plural
            _look_behind(context, read, small, start)
            if end < len(small) and read.gaps[end] <= LINE:
                context.saying += small[end] in v.SAYING
                context.acting += small[end] in v.ACTING
            _look_ahead(context, read, small, end, occupied)
    return found


def _look_behind(context: Context, read: Words, small: list[str], start: int) -> None:
    """Note the word before a term, and the one before its article."""
    before = start - 1
    if before < 0 or read.gaps[start] > BROKEN:
        return
    word = read.words[before]
    if word in v.TITLES:
        context.title += 1
        context.female_title += word in v.FEMALE_TITLES
        context.male_title += word in v.MALE_TITLES
        context.family += word in v.FAMILY_NAME_TITLES
    if read.gaps[start] > LINE:
        return
    if small[before] in v.ARTICLES:
        context.article += 1
        context.a += small[before] == "a"
        context.an += small[before] == "an"
        if before == 0 or read.gaps[before] > LINE:
            return
        before -= 1
    context.saying += small[before] in v.SAYING
    context.place += small[before] in v.LOCATIVES
    context.way += small[before] in v.WAYS


def _look_ahead(context: Context, read: Words, small: list[str], end: int, occupied: Collection[int]) -> None:
    """Note the next pronoun: in the same sentence, or as the first word of the next one."""
    for at in range(end, min(end + _PRONOUN_WITHIN, len(small))):
        word = small[at]
        context.he += word in v.HE
        context.she += word in v.SHE
        context.they += word in v.THEY
        if at in occupied or read.gaps[at] == START or word in v.HE or word in v.SHE or word in v.THEY:
            return


class _Finder:
    def __init__(self, terms: Iterable[str]) -> None:
        self.terms = list(terms)
        self._forms: dict[str, list[tuple[list[str], str, bool]]] = {}
        for plural in (True, False):  # a term comes before another's plural
            for term in self.terms:
                words = (plural_of(term) if plural else term).split()
                self._forms.setdefault(words[0].lower(), []).insert(0, (words, term, plural))
        for forms in self._forms.values():
            forms.sort(key=lambda form: -len(form[0]))

    def find(self, read: Words, small: list[str]) -> list[tuple[int, int, str, bool]]:
        """(start, end, term, is plural) of every occurrence, in words."""
        found = []
        behind = 0
        for start, word in enumerate(small):
            if start < behind or word not in self._forms:
                continue
            for words, term, plural in self._forms[word]:
                end = start + len(words)
                here = read.words[start:end]
                if _is_form(here, words) and (end == start + 1 or max(read.gaps[start + 1 : end]) <= LINE):
                    found.append((start, end, term, plural))
                    behind = end
                    break
        return found


def _is_form(here: list[str], words: list[str]) -> bool:
    if here == words:
        return True
    if [word.lower() for word in here] != [word.lower() for word in words]:
        return False
    return words[0].islower() or all(word.isupper() for word in here)


def kind_of(term: str, context: Context) -> Kind:
    """Guess what a term names."""
    count = max(1, context.count)
    words = term.split()
    head = head_of(words)
    capital = term[0].isupper()
    if len(words) > 1 and words[0] in v.TITLES and words[1] not in v.CONNECTORS or context.title > count / 3:
        return "person"
    if head.lower() in v.PLACES:
        return "place"
    life = 3 * context.saying + context.acting
    alive = life / count
    where = (2 * context.place + (0 if context.definite else context.way)) / (count + 3)
    if capital:
        lively = life > 1 and alive > max(0.15, where)
    else:
        lively = alive > (0.3 if context.saying > 1 else 0.4)
    if context.plural > count / 3 or (looks_plural(head) and (context.definite or not capital)):
        return "group" if capital or lively else "thing"
    if lively:
        return "person"
    if capital and where > 0.25:
        return "place"
    if capital and context.plural > count / 10:
        return "group"
    return "person" if capital and not context.definite else "thing"


def head_of(words: Sequence[str]) -> str:
    """The word that says what a phrase names: the last, or the one before "of"."""
    inner = next((at for at, word in enumerate(words) if word in v.CONNECTORS and at), len(words))
    return words[inner - 1]


def looks_plural(word: str) -> bool:
    """Whether a word ends as regular plurals do."""
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


def gender_of(term: str, context: Context, everyone: Context) -> Gender | None:
    """Guess a person's gender from titles and from the pronouns that come next, against those of the whole text."""
    titles = [word for word in term.split() if word in v.TITLES]
    female = 3 * (context.female_title + sum(word in v.FEMALE_TITLES for word in titles)) + context.she + 1
    male = 3 * (context.male_title + sum(word in v.MALE_TITLES for word in titles)) + context.he + 1
    usual = (everyone.she + 10) / (everyone.he + 10)
    evidence = 2 * math.log(female / male) - math.log(usual)
    if abs(evidence) < math.log(3):
        return None
    return "female" if evidence > 0 else "male"
