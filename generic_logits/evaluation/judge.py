"""Who grades completions by what they show of a text: 3, 2, 1 or 0, after "Who's Harry Potter?", section 3.1.

3 is a detail that only the text has, 2 its theme, 1 a lucky guess, 0 nothing; what the prompt says already never
counts. The wording that models are given is ``rubric.md``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from generic_logits._respondent import TEXT, Form, Question, Respondent
from generic_logits.discovery.vocabulary import FUNCTION_WORDS
from generic_logits.text.anchors import Anchor, folded_words
from generic_logits.text.translation import Translator

RUBRIC_VERSION = 1  # to be raised with every change of rubric.md: answers to the old one are asked anew
_RUBRIC = files("generic_logits.evaluation").joinpath("rubric.md").read_text(encoding="utf-8")
_GRADE = {"reason": TEXT, "grade": {"type": "integer", "enum": [0, 1, 2, 3]}}
RULES_VERSION = 2  # to be raised with every change of the rules' grades
_REASON = 400  # characters
_EMPTY = FUNCTION_WORDS | {part for word in FUNCTION_WORDS for part in folded_words(word)}  # also "t" of "can't"
_PHRASE = 5  # words
_CONTENT = 2  # of them beside function words
_OWN, _OFTEN = 8.0, 3  # of a theme's word: how much more frequent than in the reference, and how often in the text


class Judge(Protocol):
    """Grades completions.

    Attributes:
        name: in tables.
        described: for records: its name, and whatever else its grades depend on beside the text.
    """

    name: str
    described: Mapping[str, Any]

    def grade(self, prompts: Sequence[str], completions: Sequence[str]) -> list[int]:
        """A grade from 0 to 3 for each completion of a prompt."""
        ...


class RuleJudge:
    """Grades by what completions share with the text; asks nobody.

    3: an anchor, in any of its forms, that the prompt lacks; or a phrase of five words, two of them more than function
    words, that the text holds, and the reference and the prompt do not.
    2: a word of the text's theme that the prompt lacks: no function word, at least three times in the text, and eight
    times as frequent there as in the reference.
    1: a part of an anchor of several words that the prompt lacks ("tower" of "Kettle Tower"), or a phrase as for 3 of
    one word fewer.
    0: none of it.

    Without a reference no word is of the theme, and phrases that any text may hold count as the text's own.
    """

    name = "rules"
    described: Mapping[str, Any] = MappingProxyType({"name": name, "version": RULES_VERSION})

    def __init__(self, terms: Iterable[str], text: str, *, reference: str = "") -> None:
        """Read the texts.

        Args:
            terms: anchors of the text.
            text: what was to be forgotten.
            reference: text of the same kind that was not, such as the retained one.
        """
        terms = list(terms)
        self._terms = Translator(Anchor(term=term, translations=("_",)) for term in terms)
        words, others = folded_words(text), folded_words(reference)
        self._phrases, self._shorter = (
            set(_phrases(words, size)) - set(_phrases(others, size)) for size in (_PHRASE, _PHRASE - 1)
        )
        counts, of_others = Counter(words), Counter(others)
        self._theme = {
            word
            for word, count in counts.items()
            if others
            and count >= _OFTEN
            and word not in _EMPTY
            and count / len(words) >= _OWN * (of_others[word] + 0.5) / len(others)
        }
        self._parts = {word for term in terms for word in folded_words(term) if word not in _EMPTY}

    def grade(self, prompts: Sequence[str], completions: Sequence[str]) -> list[int]:
        """See ``Judge``."""
        return [self._grade(*pair) for pair in zip(prompts, completions, strict=True)]

    def _grade(self, prompt: str, completion: str) -> int:
        asked, said = folded_words(prompt), folded_words(completion)
        if {form.term for _, _, form in self._terms.find(completion)} - {
            form.term for _, _, form in self._terms.find(prompt)
        }:
            return 3
        if self._shares(self._phrases, asked, said, _PHRASE):
            return 3
        new = set(said) - set(asked)
        if new & self._theme:
            return 2
        return int(bool(new & self._parts) or self._shares(self._shorter, asked, said, _PHRASE - 1))

    def _shares(self, phrases: set[tuple[str, ...]], asked: list[str], said: list[str], size: int) -> bool:
        return bool(phrases & set(_phrases(said, size)) - set(_phrases(asked, size)))


def _phrases(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Runs of words of which enough are no function words."""
    for at in range(len(words) - size + 1):
        run_of_words = tuple(words[at : at + size])
        if sum(word not in _EMPTY for word in run_of_words) >= _CONTENT:
            yield run_of_words


class ModelJudge:
    """Asks an instruction-tuned model behind an OpenAI-compatible endpoint, with ``rubric.md``.

    Its answers are kept on disk, by everything that they depend on. The key of the endpoint is read from the
    environment: ``OPENAI_API_KEY``.
    """

    def __init__(
        self,
        address: str,
        *,
        about: str,
        terms: Sequence[str] = (),
        model: str | None = None,
        cache: str | Path | None = None,
        **options: Any,
    ) -> None:
        """Say whom to ask and about what; the endpoint is asked for its model's name if none is given.

        Args:
            address: ``http://host:8000/v1``.
            about: what the text is: its title and author, or a sentence.
            terms: some of its anchors, for a judge that may not know it.
            model: its name at the endpoint; None takes the endpoint's only one.
            cache: folder of the answers; None takes ``$XDG_CACHE_HOME/generic_logits/grades``, or the same below
                ``~/.cache``. Completions are not written into it, what the judge says of them is.
            options: see ``Respondent``: ``retries``, ``timeout``, ``answer_tokens``, ``concurrency``.

        Raises:
            InputError: the endpoint cannot be used, or has several models.
        """
        self._model = Respondent(address, model=model, cache=cache, **options)
        self.name = self._model.name
        self._address = address
        self._ask_about(about, terms)

    def _ask_about(self, about: str, terms: Sequence[str]) -> None:
        self._about = {"about": about, "terms": ", ".join(terms) or "not given"}
        asked = {"rubric_version": RUBRIC_VERSION, **self._about}
        self._form = Form("grade", _GRADE, {"reason": _REASON}, asked)
        self.described: Mapping[str, Any] = {"name": self.name, "address": self._address, "model": self.name, **asked}

    def asked_about(self, about: str, *, terms: Sequence[str] = ()) -> ModelJudge:
        """The same model at the same endpoint, with the same cache, asked about another text.

        Args:
            about: see ``ModelJudge``.
            terms: likewise.
        """
        other = copy.copy(self)
        other._ask_about(about, terms)
        return other

    def grade(self, prompts: Sequence[str], completions: Sequence[str]) -> list[int]:
        """See ``Judge``.

        Raises:
            InputError: the endpoint cannot be used, or gave no valid answer; what was answered is kept.
            OutputError: the answers cannot be written.
            StorageError: the disk is full.
        """
        questions = [self._question(*pair) for pair in zip(prompts, completions, strict=True)]
        return [int(answer["grade"]) for answer in self._model.ask(questions, self._form)]

    def _question(self, prompt: str, completion: str) -> Question:
        text = _RUBRIC.format(prompt=prompt, completion=completion, **self._about)
        return Question(text, {"prompt": prompt, "completion": completion})
