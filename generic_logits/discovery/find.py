"""Finding a text's anchors: statistics, the pair, and a language model, merged into one dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from generic_logits.discovery import vocabulary as v
from generic_logits.discovery.candidates import Candidate, Survey, find_candidates
from generic_logits.discovery.naming import contexts, gender_of, head_of, kind_of
from generic_logits.discovery.statistics import CountedReference, Reference, WordFrequencies
from generic_logits.discovery.translations import Described, Translations, forbidden_words
from generic_logits.discovery.words import is_latin, without_spaces
from generic_logits.errors import InputError
from generic_logits.text.anchors import Anchor, Anchors, Gender, Kind, folded_forms, runs_of_words
from generic_logits.text.corpus import Document
from generic_logits.text.translation import Translator, plural_of

if TYPE_CHECKING:  # heavy, and only some calls need them
    from generic_logits.discovery.language_model import LanguageModelConfig
    from generic_logits.models.pair import ModelPair


def find_anchors(
    corpus: Iterable[Document],
    *,
    reference: Iterable[Document] = (),
    pair: ModelPair | None = None,
    llm: str | LanguageModelConfig | None = None,
    llm_model: str | None = None,
    limit: int | None = 200,
    translations: int = 12,
    minimum_count: int = 3,
    seed: int = 0,
    known: Anchors | None = None,
) -> Anchors:
    """Find the terms that belong to a text alone, and ordinary terms to put in their place.

    Three sources, each of which suffices: statistics against a reference, the pair on neutral text, and an
    instruction-tuned model. What several of them find has all of them in its ``why``. Kinds, genders and the shipped
    translations are English; for other languages the words of the reference stand in.

    Args:
        corpus: the text to be unlearned; walked through several times, so no iterator.
        reference: ordinary text to compare with. Without it the library wordfreq is asked (extra "anchors"), and
            without that the other sources alone.
        pair: a baseline and the same model reinforced on the corpus, with their tokenizer.
        llm: an instruction-tuned model: address of an OpenAI-compatible endpoint, folder, or all settings.
        llm_model: its name, at an endpoint that serves several.
        limit: new terms of statistics and pair, at most, the surest first; None for all.
        translations: of a term, at most; one of them is drawn for each block.
        minimum_count: occurrences below which statistics and pair leave a term out.
        seed: of everything random.
        known: entries that stay as they are, in front of the new ones.

    Raises:
        InputError: an empty corpus, nothing to compare it with, a script without spaces between words and no ``llm``,
            or an option outside its range.
    """
    for name, value in (("limit", limit), ("translations", translations), ("minimum_count", minimum_count)):
        if value is not None and value < 1:
            raise InputError(f"{name} of at least 1", str(value), "leave it out for the default")
    texts = _Texts(corpus)
    known = known or Anchors([])
    survey = Survey(texts)
    found: list[_Found] = []
    counted = CountedReference(_Texts(reference), survey.longer_terms(minimum_count), seed=seed)
    if not without_spaces(survey.counts.words):
        compared = _compared(survey, counted, alone=pair is None and llm is None)
        rise = _rises(pair, survey, minimum_count, counted.passages) if pair else None
        found = [_Found(each) for each in find_candidates(survey, compared, rise, minimum_count)]
    elif llm is None:
        raise InputError(
            "words between spaces, which statistics can count",
            "a script that is written without",
            "ask a model with --llm, or write the dictionary by hand",
        )
    found = _without_known(found, known)[:limit]
    if llm is not None:
        found = _merged(found, _ask(corpus, llm, llm_model, translations, seed), known)
    return Anchors([*known, *_entries(texts, survey, counted, found, known, translations, seed)], comment=known.comment)


class _Texts:
    """The texts of a corpus that is walked through several times."""

    def __init__(self, corpus: Iterable[Document]) -> None:
        if iter(corpus) is corpus:
            raise InputError("a corpus that can be read again", "an iterator", "give a list or an opened corpus")
        self._corpus = corpus

    def __iter__(self) -> Iterator[str]:
        return (document.text for document in self._corpus)


@dataclass(frozen=True)
class _Found:
    """A term, by counting or by asking or both."""

    candidate: Candidate
    proposal: Anchor | None = None

    @property
    def term(self) -> str:
        return self.candidate.term

    @property
    def why(self) -> str:
        """What found it, and by which figures."""
        each = self.candidate
        reasons = []
        if each.z is not None:
            reasons.append(f"statistics: z = {each.z:.1f}, {each.count} times against {each.reference_count:.0f}")
        if each.rises:
            reasons.append(f"pair: rises {each.rise:.1f} spreads on neutral text")
        if self.proposal:
            reasons.append(self.proposal.why or "language model")
        return "; ".join(reasons)


def _compared(survey: Survey, counted: CountedReference, *, alone: bool) -> Reference | None:
    """What is ordinary: the reference, else word frequencies, else nothing if statistics are not ``alone``."""
    if counted.total:
        return counted
    try:
        if not survey.english:
            raise InputError(
                "a reference corpus, for a text that is not English", "none", "give --reference CORPUS in its language"
            )
        return WordFrequencies()
    except InputError:
        if alone:
            raise
        return None


def _rises(pair: ModelPair, survey: Survey, minimum_count: int, passages: Sequence[str]) -> dict[str, float]:
    """How far the pair raises each term, in spreads of the text's words: names by their first word, pairs by both."""
    from generic_logits.discovery.pair import NEUTRAL, rises, spreads

    words = survey.words(minimum_count)
    if not words:
        return {}
    spread = dict(zip(words, spreads(rises(pair, words, passages or NEUTRAL)), strict=True))
    for term in survey.longer_terms(minimum_count):
        parts = term.split(" ")[:1] if term in survey.phrases else term.split(" ")
        spread[term] = min((spread[part] for part in parts if part in spread), default=0.0)
    return spread


def _ask(
    corpus: Iterable[Document], llm: str | LanguageModelConfig, model: str | None, translations: int, seed: int
) -> list[Anchor]:
    from generic_logits.discovery.language_model import LanguageModelConfig, ask_language_model

    if not isinstance(llm, LanguageModelConfig):
        llm = LanguageModelConfig(source=llm, model=model, translations=translations, seed=seed)
    return ask_language_model(corpus, llm)


def _without_known(found: Sequence[_Found], known: Anchors) -> list[_Found]:
    """Leave out what the dictionary has, in any case or number, and what one of its translations holds."""
    taken = {form for term in known.terms for form in folded_forms(term)}
    taken |= {run for anchor in known for text in anchor.translations for run in runs_of_words(text)}
    return [each for each in found if not {*folded_forms(each.term)} & taken]


def _merged(found: list[_Found], proposals: Sequence[Anchor], known: Anchors) -> list[_Found]:
    """Bring proposals in: beside the same term in any case or number, else as a term of their own."""
    places = {form: at for at, each in enumerate(found) for form in (each.term.lower(), plural_of(each.term.lower()))}
    merged = list(found)
    new = []
    for proposal in proposals:
        at = places.get(proposal.term.lower())
        if at is not None:
            merged[at] = replace(merged[at], proposal=merged[at].proposal or proposal)
        else:
            new.append(_Found(Candidate(proposal.term, 0, 0.0, None, None), proposal))
    return merged + _without_known(new, known)


def _entries(
    texts: _Texts,
    survey: Survey,
    counted: CountedReference,
    found: Sequence[_Found],
    known: Anchors,
    length: int,
    seed: int,
) -> list[Anchor]:
    """Describe what was found, and give it translations."""
    described = _describe(texts, found, survey.english)
    found = [each for each in found if described[each.term].context.count]
    choice = _translations(survey, counted, [*known.terms, *described], length, seed)
    forms = {form for term in (*known.terms, *described) for form in folded_forms(term)}

    def without_terms(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if forms.isdisjoint(runs_of_words(text)))

    proposed = {anchor.term: anchor.translations for anchor in known}
    proposed |= {each.term: without_terms(each.proposal.translations) for each in found if each.proposal}
    for term, column in proposed.items():
        if " " not in term:
            choice.give(term, column)
    entries = {}
    for each in sorted(found, key=lambda each: each.term.count(" ")):
        about = described[each.term]
        entries[each.term] = Anchor(
            term=each.term,
            translations=without_terms(choice.of(about, proposed.get(each.term, ()))),
            kind=about.kind,
            gender=about.gender,
            count=about.context.count,
            reference_count=round(each.candidate.reference_count),
            why=each.why,
        )
    complete = [entries[each.term] for each in found if entries[each.term].translations]
    if found and not complete:
        raise InputError(
            "ordinary words of the text's language, to translate into", "none", "give --reference CORPUS in it"
        )
    return complete


def _describe(texts: _Texts, found: Sequence[_Found], english: bool) -> dict[str, Described]:
    """Kind and gender of every term; terms that share their head or first word help each other."""
    beside = contexts(texts, [each.term for each in found])
    everyone = beside.pop("")
    kinds: dict[str, Kind] = {}
    genders: dict[str, Gender | None] = {}
    for term, context in beside.items():
        kinds[term] = kind_of(term, context) if english else "word" if term == term.lower() else "thing"
        genders[term] = gender_of(term, context, everyone) if english else None
    for each in found:
        if each.proposal:
            kinds[each.term] = each.proposal.kind
            genders[each.term] = each.proposal.gender or genders[each.term]
    for term in sorted(beside, key=lambda term: term.count(" ")):
        words = term.split(" ")
        head = head_of(words)
        if len(words) > 1 and head in kinds:
            kinds[term] = kinds[head]
        for relative in {head, words[0]} - {term}:
            if kinds.get(relative) == kinds[term] == "person":
                genders[term] = genders[term] or genders[relative]
                genders[relative] = genders[relative] or genders[term]
    longer = [
        term.split(" ") for term in beside if " " in term and kinds[term] == "person" and not beside[term].definite
    ]
    families = {words[-1] for words in longer if words[-2] not in v.TITLES or words[-2] in v.FAMILY_NAME_TITLES}
    unseen = [term for term, context in beside.items() if not context.count]
    counts = _occurrences(texts, unseen) if unseen else {}
    return {
        term: Described(
            term,
            kinds[term],
            genders[term] if kinds[term] == "person" else None,
            replace(context, count=context.count or counts[term]),
            family=term in families,
        )
        for term, context in beside.items()
    }


def _occurrences(texts: _Texts, terms: Sequence[str]) -> Counter[str]:
    """How often each term occurs by the translator's rules, which know scripts without spaces."""
    translator = Translator([Anchor(term=term, translations=("",)) for term in terms])
    return Counter(form.term for text in texts for _, _, form in translator.find(text))


def _translations(
    survey: Survey, counted: CountedReference, terms: Sequence[str], length: int, seed: int
) -> Translations:
    """The words that may stand for terms: none of a term, none of the text's names, known ones first."""
    forbidden = forbidden_words(terms)
    inside, everywhere = survey.counts.inside, survey.counts.words

    def allowed(word: str) -> bool:
        return word.lower() not in forbidden and not inside[word[0].upper() + word[1:]]

    def rank(word: str) -> int:
        return 2 * (counted.total > 0 and not counted.knows(word)) + (everywhere[word] > 0)

    own: dict[bool, Sequence[str]] | None = None
    if without_spaces(everywhere):
        own = {True: (), False: ()}  # nothing but what the model proposes
    elif not survey.english:
        own = {names: counted.own_words(names=names) for names in (True, False)}
        if not own[True] and is_latin(everywhere):
            own[True] = [*v.ordinary("female names"), *v.ordinary("male names")]
    return Translations(length=length, seed=seed, allowed=allowed, rank=rank, words=own)
