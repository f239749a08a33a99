"""Anchors from an instruction-tuned model that is asked about one passage after another (method section 3, source c).

The model is behind an OpenAI-compatible endpoint or in a folder. Every answer is kept in a file of its own, so that a
run that was broken off goes on where it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from generic_logits._answers import Answers, default_folder
from generic_logits._endpoint import Endpoint, Reply, converse_all, no_address, run
from generic_logits._progress import Progress
from generic_logits._record import weights_fingerprint
from generic_logits.discovery.proposals import (
    PROMPT_VERSION,
    Passage,
    answer_schema,
    cut_passages,
    is_answer,
    merge_proposals,
    read_answer,
    write_prompt,
)
from generic_logits.errors import InputError
from generic_logits.text.anchors import Anchor
from generic_logits.text.corpus import Document, encode_prompt


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Settings of ``ask_language_model``. An endpoint's key is read from the environment: ``OPENAI_API_KEY``.

    Attributes:
        source: address of an OpenAI-compatible endpoint, ``http://host:8000/v1``; or a model folder or hub name.
        model: its name at the endpoint; None takes the endpoint's only one.
        translations: to ask for each term.
        terms: to ask for in a passage, at most.
        passage_characters: longest passage.
        answer_tokens: longest answer.
        cache: folder of the answers; None takes ``$XDG_CACHE_HOME/generic_logits/anchors``, or the same below
            ``~/.cache``. Passages are not written into it, what was found in them is.
        retries: further attempts at a passage whose answer cannot be used, and at a request that fails.
        timeout: seconds for one request.
        temperature: of an endpoint's sampling; a folder's model decodes greedily.
        seed: of an endpoint's sampling.
        concurrency: requests to an endpoint at one time.
    """

    source: str | Path
    model: str | None = None
    translations: int = 12
    terms: int = 30
    passage_characters: int = 4000
    answer_tokens: int = 4096
    cache: str | Path | None = None
    retries: int = 4
    timeout: float = 300.0
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 4

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: a number out of its range, or a setting that a folder's model does not have.
        """
        least = {"translations": 1, "terms": 1, "passage_characters": 1, "answer_tokens": 1, "concurrency": 1}
        for name, minimum in {**least, "retries": 0, "temperature": 0}.items():
            if not minimum <= getattr(self, name) < math.inf:
                raise InputError(f"{name} of at least {minimum}", repr(getattr(self, name)), f"raise {name}")
        if not 0 < self.timeout < math.inf:
            raise InputError("a timeout above 0 seconds", repr(self.timeout), "300 is usual")
        if not self.is_endpoint and self.model is not None:
            raise InputError("no model name beside a folder", repr(self.model), "the folder holds one model")
        if not self.is_endpoint and self.temperature:
            raise InputError("temperature 0 with a folder", repr(self.temperature), "its model decodes greedily")

    @property
    def is_endpoint(self) -> bool:
        """Whether the source is an address."""
        return str(self.source).startswith(("http://", "https://"))

    @property
    def cache_folder(self) -> Path:
        """Where the answers are."""
        if self.cache is not None:
            return Path(self.cache)
        return default_folder("anchors")


class _Model(NamedTuple):
    name: str  # for people
    identity: str  # for the cache


def ask_language_model(documents: Iterable[Document], config: LanguageModelConfig) -> list[Anchor]:
    """Ask a model for the terms that belong to these texts alone ("Who's Harry Potter?", section 2.2).

    A term counts where its passage has it as whole words, as ``Translator`` finds them; ``count`` is left at 0. White
    space in an answer is made single spaces. Translations that hold a term, or that the texts have as a capitalised
    expression, are left out, and so is a term that keeps none.

    Args:
        documents: the forget corpus.
        config: the model, and how to ask it.

    Returns:
        The terms, those of most passages first; their translations, those proposed most often first.

    Raises:
        InputError: the endpoint cannot be used, or a passage got no valid answer. What was answered is kept: the next
            run with the same settings continues.
        ModelError: the folder cannot be loaded.
        OutputError: the cache cannot be written.
        StorageError: the disk is full.
    """
    passages = cut_passages(documents, config.passage_characters)
    model = _model(config)
    cache = _answers(config, model)
    answers = {passage.text: cache.load(passage=passage.text) for passage in passages}
    missing = {passage.text: passage for passage in reversed(passages) if answers[passage.text] is None}
    to_ask = list(reversed(missing.values()))
    if to_ask:
        cache.make_folder()
        asked = {"total": len(answers), "initial": len(answers) - len(to_ask), "unit": "passage"}
        with Progress(desc=f"asking {model.name}", **asked) as bar:

            def keep(passage: Passage, answer: dict[str, Any]) -> None:
                cache.save(answer, passage=passage.text)
                answers[passage.text] = answer
                bar.update()

            ask = _ask_endpoint if config.is_endpoint else _ask_folder
            ask(to_ask, config, model, keep)
    proposals = [(passage, (answers[passage.text] or {})["anchors"]) for passage in passages]
    return merge_proposals(proposals, model.name)


def estimate_cost(documents: Iterable[Document], config: LanguageModelConfig) -> dict[str, Any]:
    """Say what ``ask_language_model`` would cost, without showing a passage to a model.

    An endpoint is only asked for the name of its model, and only where ``config`` has none.

    Returns:
        ``model``; ``passages``; ``cached``, of which the answers are there; ``to_ask``, requests if none has to be
        repeated; their ``prompt_tokens`` and how they are counted, ``counted_by``; ``answer_tokens``, at most.

    Raises:
        InputError: the endpoint does not tell its model's name.
        ModelError: the folder has no tokenizer.
    """
    passages = cut_passages(documents, config.passage_characters)
    model = _model(config)
    cache = _answers(config, model)
    cached = [passage for passage in passages if cache.load(passage=passage.text) is not None]
    prompts = [_prompt(text, config) for text in {each.text for each in passages} - {each.text for each in cached}]
    if config.is_endpoint:
        tokens = sum(map(len, prompts)) // 4
        counted_by = "characters / 4"
    else:
        from generic_logits.models.loading import load_tokenizer

        tokenizer = load_tokenizer(config.source)
        tokens = sum(len(_prompt_ids(tokenizer, prompt)) for prompt in prompts)
        counted_by = f"tokenizer of {config.source}"
    return {
        "model": model.name,
        "passages": len(passages),
        "cached": len(cached),
        "to_ask": len(prompts),
        "prompt_tokens": tokens,
        "counted_by": counted_by,
        "answer_tokens": len(prompts) * config.answer_tokens,
    }


def _prompt(text: str, config: LanguageModelConfig, **again: Any) -> str:
    return write_prompt(text, translations=config.translations, terms=config.terms, **again)


def _conversation(
    passage: Passage, config: LanguageModelConfig, model: _Model
) -> Generator[str, Reply, dict[str, Any]]:
    """Give the prompts for a passage, take the replies, and return the first valid answer.

    Raises:
        InputError: there was none.
    """
    problem = ""
    for attempt in range(config.retries + 1):
        reply = yield _prompt(passage.text, config, attempt=attempt + 1, problem=problem)
        try:
            return read_answer(reply.text)
        except ValueError as error:
            problem = f"{error}; it was cut off, and must be shorter" if reply.cut else str(error)
    raise InputError(
        f"a JSON object with anchors from {model.name}",
        f"none in {config.retries + 1} attempts at character {passage.start} of {passage.document}; of the last "
        f"answer: {problem}",
        "ask a more capable model, or about shorter passages and fewer terms; what was answered is kept",
    )


def _answers(config: LanguageModelConfig, model: _Model) -> Answers:
    settings = {name: getattr(config, name) for name in ("translations", "terms", "temperature")}
    about = {"prompt_version": PROMPT_VERSION, "model": model.identity, **settings}
    if config.temperature:  # without it a seed changes nothing
        about["seed"] = config.seed
    return Answers(config.cache_folder, about, valid=is_answer)


def _model(config: LanguageModelConfig) -> _Model:
    """The model's name, and what tells its answers from another's."""
    if config.is_endpoint:
        name = config.model or run(_only_model(config))
        return _Model(name, name)
    folder = Path(config.source)
    if re.match(r"[\w.-]+:\d", str(config.source)):
        raise no_address(str(config.source))
    if not folder.is_dir():
        return _Model(str(config.source), str(config.source))
    name = folder.resolve().name
    return _Model(name, f"{name} {weights_fingerprint(folder)}")


# A model in a folder


def _ask_folder(
    passages: Sequence[Passage],
    config: LanguageModelConfig,
    model: _Model,
    keep: Callable[[Passage, dict[str, Any]], None],
) -> None:
    folder = _Folder(config)
    for passage in passages:
        conversation = _conversation(passage, config, model)
        prompt = next(conversation)
        try:
            while True:
                prompt = conversation.send(folder.answer(prompt))
        except StopIteration as end:
            keep(passage, end.value)


class _Folder:
    def __init__(self, config: LanguageModelConfig) -> None:
        import torch

        from generic_logits.models.loading import load_model, load_tokenizer

        self._config = config
        placed = {"device_map": "auto"} if torch.cuda.is_available() else {}
        self._model = load_model(config.source, dtype="auto", **placed)
        self._tokenizer = load_tokenizer(config.source)

    def answer(self, prompt: str) -> Reply:
        """Decode greedily.

        Raises:
            InputError: the prompt leaves no room for an answer.
        """
        import torch

        ids = _prompt_ids(self._tokenizer, prompt)
        context = getattr(self._model.config, "max_position_embeddings", None)
        room = self._config.answer_tokens if context is None else min(self._config.answer_tokens, context - len(ids))
        if room < 1:
            raise InputError(
                f"prompts shorter than the model's context of {context} tokens",
                f"one of {len(ids)} tokens",
                f"take passages shorter than {self._config.passage_characters} characters",
            )
        tokenizer = self._tokenizer
        row = torch.tensor([ids], device=self._model.device)
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        output = self._model.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=room,
            pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            **greedy,
        )[0, len(ids) :]
        return Reply(tokenizer.decode(output, skip_special_tokens=True), len(output) == room)


def _prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    if not tokenizer.chat_template:
        return encode_prompt(tokenizer, f"{prompt}\n\nThe JSON object:\n")
    messages = [{"role": "user", "content": prompt}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids


# A model behind an endpoint


async def _only_model(config: LanguageModelConfig) -> str:
    async with _endpoint(config) as endpoint:
        return await endpoint.only_model()


def _endpoint(config: LanguageModelConfig) -> Endpoint:
    bounded = answer_schema(translations=config.translations, terms=config.terms)
    return Endpoint(
        str(config.source),
        name="anchors",
        schemas=[bounded, answer_schema()],  # some endpoints know no limits on lengths
        answer_tokens=config.answer_tokens,
        temperature=config.temperature,
        seed=config.seed,
        retries=config.retries,
        timeout=config.timeout,
    )


def _ask_endpoint(
    passages: Sequence[Passage],
    config: LanguageModelConfig,
    model: _Model,
    keep: Callable[[Passage, dict[str, Any]], None],
) -> None:
    """Ask about several passages at a time; after a failure those under way are still finished."""
    conversations = ((passage, _conversation(passage, config, model)) for passage in passages)
    run(converse_all(_endpoint(config), conversations, model.name, keep, concurrency=config.concurrency))
