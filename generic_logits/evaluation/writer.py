"""A model that puts prompts in other words and other languages, and that asks about a text.

What it is told stands in ``paraphrase.md``, ``translation.md`` and ``question.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from generic_logits._respondent import TEXT, Answer, Form, Question, Respondent
from generic_logits.errors import InputError
from generic_logits.evaluation.attacks.prompting import check_wordings
from generic_logits.evaluation.material import Material, spread_pieces
from generic_logits.text.anchors import folded_words
from generic_logits.text.prompts import Prompt

LANGUAGES = ("German", "French", "Spanish")
PARAPHRASE = "paraphrase"
INSTRUCTIONS_VERSION = 1  # to be raised with every change of the three: answers to the old ones are asked anew
_PASSAGE = 600  # characters
_QUESTION, _ANSWER, _ANSWER_WORDS = 300, 100, 10  # characters, characters, words
_COPIED = 3  # words that an answer and the instruction share only if it was copied
_OVER = re.compile(r"[.…_!?。！？][\"'“”’»」』)\]]*$")  # the end of a sentence, or a gap
# Behind these nothing needs a space: what opens a bracket or a quotation, elided words (l'), punctuation of full width.
_OPEN = re.compile(r"""([(\[{„“‘¿¡、，：；「『（《]|([^\W_sS]|\b[sS])['’]|^[^"]*"([^"]*"[^"]*")*)$""")
_Asked = TypeVar("_Asked")


@dataclass(frozen=True)
class Written:
    """What a writer made.

    Attributes:
        prompts: with their targets; or questions with their answers.
        left_out: how many it could not make.
    """

    prompts: tuple[Prompt, ...]
    left_out: int


class Writer:
    """Asks an instruction-tuned model behind an OpenAI-compatible endpoint.

    Its answers are kept on disk, by everything that they depend on. The key of the endpoint is read from the
    environment: ``OPENAI_API_KEY``.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str | None = None,
        cache: str | Path | None = None,
        answer_tokens: int = 2048,
        **options: Any,
    ) -> None:
        """Say whom to ask; the endpoint is asked for its model's name if none is given.

        Args:
            address: ``http://host:8000/v1``.
            model: its name at the endpoint; None takes the endpoint's only one.
            cache: folder of the answers; None takes ``paraphrases``, ``translations`` and ``questions`` below
                ``$XDG_CACHE_HOME/generic_logits``, or the same below ``~/.cache``. What was asked is not written into
                it.
            answer_tokens: longest answer.
            options: see ``Respondent``: ``retries``, ``timeout``, ``concurrency``.

        Raises:
            InputError: the endpoint cannot be used, or has several models.
        """
        self._model = Respondent(address, model=model, cache=cache, answer_tokens=answer_tokens, **options)
        self.name = self._model.name
        self.described: Mapping[str, Any] = {
            "written_by": self.name,
            "address": address,
            "instructions_version": INSTRUCTIONS_VERSION,
        }

    def paraphrase(self, prompts: Sequence[Prompt]) -> Written:
        """Say each prompt in other words; its target stays.

        Raises:
            InputError: the endpoint cannot be used, or no answer can be.
            OutputError: the answers cannot be written.
            StorageError: the disk is full.
        """

        def read(old: Prompt, answer: Answer) -> Prompt:
            return _reworded(old, answer["prompt"], old.target)

        longest = {"prompt": _room(each.prompt for each in prompts)}
        return self._write("paraphrase", prompts, _words, read, longest, title="paraphrases")

    def translate(self, prompts: Sequence[Prompt], language: str) -> Written:
        """Translate each prompt, and its target where the language would.

        Raises:
            InputError, OutputError, StorageError: as ``paraphrase``.
        """

        def words(old: Prompt) -> dict[str, str]:
            return {**_words(old), "language": language}

        def read(old: Prompt, answer: Answer) -> Prompt:
            return _reworded(old, answer["prompt"], answer["target"])

        longest = {name: _room(getattr(each, name) for each in prompts) for name in ("prompt", "target")}
        return self._write("translation", prompts, words, read, longest, title=f"translations into {language}")

    def question(self, text: str, count: int) -> Written:
        """Ask about each of ``count`` evenly spread passages of a text, for a few words that stand in it.

        Raises:
            InputError, OutputError, StorageError: as ``paraphrase``.
        """

        def words(passage: str) -> dict[str, str]:
            return {"passage": passage}

        def read(passage: str, answer: Answer) -> Prompt:
            return _asking(passage, answer["question"].strip(), answer["answer"].strip())

        longest = {"question": _QUESTION, "answer": _ANSWER}
        return self._write("question", spread_pieces(text, count, _PASSAGE), words, read, longest, title="questions")

    def _write(
        self,
        kind: str,
        asked: Sequence[_Asked],
        words: Callable[[_Asked], dict[str, str]],
        read: Callable[[_Asked, Answer], Prompt],
        longest: Mapping[str, int],
        *,
        title: str,
    ) -> Written:
        """Ask for a prompt for each; ``words`` go into the question, ``read`` raises ValueError for a bad answer."""
        told = files("generic_logits.evaluation").joinpath(f"{kind}.md").read_text(encoding="utf-8")
        about = {"instructions": kind, "instructions_version": INSTRUCTIONS_VERSION}
        form = Form(kind, dict.fromkeys(longest, TEXT), longest, about)
        first = next(iter(longest))

        def check(each: _Asked, answer: Answer) -> Prompt:
            own = told.format(**{name: text if name == "language" else "" for name, text in words(each).items()})
            if len(folded_words(answer[first])) >= _COPIED and _names(own, answer[first]):
                raise ValueError(f"the {first} is copied from the instruction")
            return read(each, answer)

        questions = [Question(told.format(**words(each)), words(each), partial(check, each)) for each in asked]
        answers = self._model.try_to_ask(questions, form, title=title)
        pairs = zip(asked, answers, strict=True)
        prompts = tuple(read(each, answer) for each, answer in pairs if isinstance(answer, dict))
        if answers and not prompts:
            raise InputError(
                f"{title} from {self.name}",
                f"none of {len(answers)} that can be used; of the last answer: {answers[-1]}",
                "ask a more capable model, or give a file",
            )
        return Written(prompts, len(answers) - len(prompts))


def write_material(
    material: Material,
    writer: Writer,
    *,
    languages: Sequence[str] = LANGUAGES,
    wordings: bool = True,
    questions: bool = True,
    tell: Callable[[str], object] = lambda line: None,
) -> Material:
    """Add what a writer makes: a paraphrase and translations of the prompts, and questions about the text.

    Args:
        material: wordings of the same names, and questions, that it has already stay as they are.
        writer: who is asked.
        languages: to translate into; each is the name of its wording.
        wordings: whether to write paraphrases and translations.
        questions: whether to write questions, as many as there are passages.
        tell: takes a line about each lot from which something had to be left out.

    Raises:
        InputError: the endpoint cannot be used, no answer of a lot can be, or a language is named as another wording
            is.
        OutputError: the answers cannot be written.
        StorageError: the disk is full.
    """
    check_wordings([PARAPHRASE, *languages])
    known = {tuple(folded_words(name)) for name in material.wordings}
    wanted = [name for name in (PARAPHRASE, *languages) if wordings and tuple(folded_words(name)) not in known]
    sources, asked_about = dict(material.sources), tuple(material.questions)

    def describe(what: str, each: Written) -> dict[str, Any]:
        if each.left_out:
            total = each.left_out + len(each.prompts)
            tell(f"{what}: {writer.name} gave no usable answer to {each.left_out} of {total}, which are left out")
        return {**writer.described, "left_out": each.left_out}

    made: dict[str, tuple[Prompt, ...]] = {}
    for name in wanted:
        of_all = material.prompts
        written = writer.paraphrase(of_all) if name == PARAPHRASE else writer.translate(of_all, name)
        made[name] = written.prompts
        sources["wordings"] = {**sources.get("wordings", {}), name: describe(name, written)}
    if questions and not asked_about:
        written = writer.question(material.forget, len(material.passages))
        asked_about = written.prompts
        sources["questions"] = describe("questions", written)
    return replace(
        material,
        wordings={**material.wordings, **made},
        questions=asked_about,
        sources=sources,
    )


def _words(prompt: Prompt) -> dict[str, str]:
    return {"prompt": prompt.prompt, "target": prompt.target.strip()}


def _room(texts: Iterable[str]) -> int:
    """Characters that are enough for any of the texts in other words or another language."""
    return 2 * max(map(len, texts), default=0) + 60


def _reworded(old: Prompt, prompt: str, target: str) -> Prompt:
    """A prompt in other words, whose target begins with a space where the old one's does for the same reasons.

    Raises:
        ValueError: it does not ask for its target, or names it.
    """
    prompt, target = prompt.strip(), target.strip()
    if not (prompt and target):
        raise ValueError("the beginning or the continuation is empty")
    if folded_words(prompt) == folded_words(old.prompt):
        raise ValueError("the beginning has the same words as the old one")
    for each in (target, old.target.strip()):
        if _names(prompt, each):
            raise ValueError(f"the beginning holds {each!r}, which must only come behind it")
    if _OVER.search(prompt) and not _OVER.search(old.prompt):
        raise ValueError("the beginning goes on to the end of a sentence or leaves a gap")
    bare = old.target.lstrip()
    space = old.target.removesuffix(bare)
    if space == _space_between(old.prompt, bare):
        space = _space_between(prompt, target)
    return Prompt(prompt, space + target)


def _space_between(prompt: str, target: str) -> str:
    """What stands between a prompt and its target: nothing in scripts without spaces, and behind what is open."""
    without = any(len(folded_words(2 * each)) == 2 for each in (prompt[-1:], target[:1]))
    return "" if without or _OPEN.search(prompt) else " "


def _asking(passage: str, question: str, answer: str) -> Prompt:
    """A question about a passage.

    Raises:
        ValueError: it holds its answer, or the answer is long or does not stand in the passage.
    """
    if not (question and answer):
        raise ValueError("the question or the answer is empty")
    if len(folded_words(answer)) > _ANSWER_WORDS:
        raise ValueError(f"the answer has more than {_ANSWER_WORDS} words")
    if not _names(passage, answer):
        raise ValueError(f"the answer {answer!r} does not stand in the passage")
    if _names(question, answer):
        raise ValueError(f"the question holds its answer, {answer!r}")
    return Prompt(question, answer)


def _names(text: str, term: str) -> bool:
    """Whether a text holds a term as whole words, in any case."""
    words = folded_words(term)
    return f" {' '.join(words)} " in f" {' '.join(folded_words(text))} " if words else term in text
