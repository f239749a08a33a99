"""An instruction-tuned model that answers many questions of one kind, each with JSON that is kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema

from generic_logits._answers import Answers, default_folder, read_json
from generic_logits._endpoint import Endpoint, Reply, converse_all, run
from generic_logits._progress import Progress
from generic_logits.errors import InputError

_AGAIN = "\n\nThe answer before could not be used: {problem}. Answer with the JSON object alone."
TEXT: Mapping[str, Any] = MappingProxyType({"type": "string"})
Answer = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """What answers of one kind are.

    Attributes:
        kind: one word for such an answer; its plural names the folder where they are kept.
        properties: JSON schema of each property of an answer.
        longest: characters of properties that are texts, so that a model that is held to the schema cannot go on for
            ever. An endpoint that knows no such limits is asked without them.
        about: what an answer depends on beside model and question; kept beside it.
    """

    kind: str
    properties: Mapping[str, Mapping[str, Any]]
    longest: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def schemas(self) -> list[dict[str, Any]]:
        """The schema with the limits, and the one that an answer must have."""
        bounded = {name: {**TEXT, "minLength": 1, "maxLength": length} for name, length in self.longest.items()}
        return [_schema({**self.properties, **bounded}), _schema(self.properties)]


def _schema(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    each = {name: dict(schema) for name, schema in properties.items()}
    return {"type": "object", "properties": each, "required": list(each), "additionalProperties": False}


@dataclass(frozen=True)
class Question:
    """What is asked, what the answer is kept under, and what it must be beyond its form.

    Attributes:
        text: of the question.
        key: what the answer depends on beside what its form says.
        check: raises ValueError for an answer that cannot be used; the message is told to the model.
    """

    text: str
    key: Mapping[str, str]
    check: Callable[[Answer], object] = lambda answer: None

    def accepts(self, answer: Answer) -> bool:
        """Whether an answer can be used."""
        try:
            self.check(answer)
        except ValueError:
            return False
        return True


class Respondent:
    """A model behind an OpenAI-compatible endpoint. The key is read from the environment: ``OPENAI_API_KEY``."""

    def __init__(
        self,
        address: str,
        *,
        model: str | None = None,
        cache: str | Path | None = None,
        retries: int = 4,
        timeout: float = 300.0,
        answer_tokens: int = 512,
        concurrency: int = 4,
    ) -> None:
        """Say whom to ask; the endpoint is asked for its model's name if none is given.

        Args:
            address: ``http://host:8000/v1``.
            model: its name at the endpoint; None takes the endpoint's only one.
            cache: folder of the answers; None takes ``default_folder`` of their kind.
            retries: further attempts at an answer that cannot be used, and at a request that fails.
            timeout: seconds for one request.
            answer_tokens: longest answer.
            concurrency: requests at one time.

        Raises:
            InputError: the endpoint cannot be used, or has several models.
        """
        self._address, self._cache = address, cache
        self._retries, self._timeout = retries, timeout
        self._answer_tokens, self._concurrency = answer_tokens, concurrency
        self.name = model or run(self._only_model())

    async def _only_model(self) -> str:
        async with self._endpoint(Form("name", {})) as endpoint:
            return await endpoint.only_model()

    def _endpoint(self, form: Form) -> Endpoint:
        return Endpoint(
            self._address,
            name=form.kind,
            schemas=form.schemas(),
            answer_tokens=self._answer_tokens,
            temperature=0.0,
            seed=0,
            retries=self._retries,
            timeout=self._timeout,
        )

    def ask(self, questions: Sequence[Question], form: Form) -> list[Answer]:
        """The answer to each question.

        Raises:
            InputError: the endpoint cannot be used, or gave no usable answer; what was answered is kept.
            OutputError: the answers cannot be written.
            StorageError: the disk is full.
        """

        def give_up(problem: str) -> str:
            raise InputError(
                f"a {form.kind} from {self.name}",
                f"none in {self._retries + 1} attempts; of the last answer: {problem}",
                "ask a more capable model; what was answered is kept",
            )

        return [each for each in self._ask(questions, form, give_up) if isinstance(each, dict)]

    def try_to_ask(self, questions: Sequence[Question], form: Form, *, title: str) -> list[Answer | str]:
        """The answer to each question, or what was wrong with the last one that came.

        Args:
            questions: to ask.
            form: of the answers.
            title: of the progress bar.

        Raises:
            InputError: the endpoint cannot be used; what was answered is kept.
            OutputError: the answers cannot be written.
            StorageError: the disk is full.
        """
        return self._ask(questions, form, lambda problem: problem, title)

    def _ask(
        self, questions: Sequence[Question], form: Form, give_up: Callable[[str], str], title: str = ""
    ) -> list[Answer | str]:
        validator = jsonschema.Draft202012Validator(form.schemas()[-1])
        folder = Path(self._cache) if self._cache is not None else default_folder(f"{form.kind}s")
        answers = Answers(folder, {**form.about, "model": self.name}, valid=validator.is_valid)
        found: dict[str, Answer | str] = {}
        missing: dict[str, Question] = {}
        for each in questions:
            answer = answers.load(**each.key)
            if answer is not None and each.accepts(answer):
                found[each.text] = answer
            else:
                missing[each.text] = each
        if missing:
            answers.make_folder()
            with Progress(total=len(missing), desc=title, unit=form.kind, leave=False, disable=not title) as bar:

                def keep(question: Question, outcome: dict[str, Any]) -> None:
                    if "answer" in outcome:
                        answers.save(outcome["answer"], **question.key)
                    (found[question.text],) = outcome.values()
                    bar.update()

                conversations = ((each, self._conversation(each, validator, give_up)) for each in missing.values())
                run(converse_all(self._endpoint(form), conversations, self.name, keep, concurrency=self._concurrency))
        return [found[each.text] for each in questions]

    def _conversation(
        self, question: Question, validator: jsonschema.Draft202012Validator, give_up: Callable[[str], str]
    ) -> Generator[str, Reply, dict[str, Any]]:
        """Give the question, take the replies, and return {"answer": ...} or {"problem": ...}."""
        problem = ""
        for _ in range(self._retries + 1):
            reply = yield question.text + (_AGAIN.format(problem=problem) if problem else "")
            try:
                answer = read_json(reply.text, validator)
                question.check(answer)
            except ValueError as error:
                problem = f"{error}; it was cut off, and must be shorter" if reply.cut else str(error)
            else:
                return {"answer": answer}
        return {"problem": give_up(problem)}
