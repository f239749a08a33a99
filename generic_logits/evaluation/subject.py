"""Who is questioned: a model or a pair in this process, or a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from huggingface_hub import HfApi
from torch import Tensor

from generic_logits._endpoint import Server, run
from generic_logits.errors import InputError, MeasureError, RequestError
from generic_logits.models.loading import load_tokenizer
from generic_logits.models.scoring import device_of, token_log_probs
from generic_logits.text.corpus import encode_prompt

_T = TypeVar("_T")
_Item = TypeVar("_Item")
_HUB_WAIT = 5.0  # seconds
Engine = Callable[[], dict[str, Any]]


class Subject(Protocol):
    """What every measure asks of whom it measures.

    Attributes:
        name: in tables.
        engine: gives the keyword arguments of a vLLM engine that loads the same; None where there is none.
    """

    name: str
    engine: Engine | None

    @property
    def tokenizer(self) -> Any:
        """Of the model."""
        ...

    @property
    def model(self) -> Any | None:
        """A ``transformers`` model or a ``ModelPair``; None where only a server answers.

        Without it, whatever needs whole distributions or weights cannot be measured.
        """
        ...

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Continuations of prompts, without the prompts: greedy, or sampled at a temperature."""
        ...

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probability (nats) of every token but the first of each sequence: each ``[length - 1]``."""
        ...


class LocalSubject:
    """A ``transformers`` model or a ``ModelPair`` in this process."""

    engine: Engine | None = None

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        """Name a loaded model."""
        self.name, self.model, self.tokenizer = name, model, tokenizer

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """See ``Subject``."""
        return complete(self.model, self.tokenizer, prompts, new_tokens=new_tokens, temperature=temperature, seed=seed)

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See ``Subject``."""
        return token_log_probs(self.model, sequences)


class ServerSubject:
    """A model behind an OpenAI-compatible server, asked over ``/v1/completions``.

    ``card`` is what the server says of it, see ``Server.models``.

    Texts are sent as token ids, so the server reads exactly what a model in this process would. Log-probabilities of
    given tokens come from an echo of the prompt without a continuation, which vLLM offers and many servers do not.
    """

    model = None
    engine: Engine | None = None

    def __init__(
        self,
        name: str,
        address: str,
        *,
        served: str | None = None,
        tokenizer: Any = None,
        alpha: float | None = None,
        concurrency: int = 16,
        retries: int = 4,
        timeout: float = 300.0,
    ) -> None:
        """Ask the server who it is. Its key is read from the environment: ``OPENAI_API_KEY``.

        Args:
            name: in tables.
            address: ``http://host:8000/v1``.
            served: the model's name at the server; None takes the only one.
            tokenizer: of the model; None loads it from where the server says that the model came from.
            alpha: of our own server, for every request (``generic_alpha``); None leaves it to the server.
            concurrency: requests at one time.
            retries: further attempts at a request that fails.
            timeout: seconds for one request.

        Raises:
            InputError: nobody there, several models and no name, or no tokenizer.
        """
        self.name, self.address = name, address
        self._server: Callable[[], Server] = lambda: Server(address, retries=retries, timeout=timeout)
        self._concurrency = concurrency
        self.served, self.card = run(self._find(served))
        self._options: dict[str, Any] = {} if alpha is None else {"vllm_xargs": {"generic_alpha": alpha}}
        root = str(self.card.get("root") or "")
        self.tokenizer = tokenizer if tokenizer is not None else _tokenizer_of(self.served, root)

    async def _find(self, served: str | None) -> tuple[str, dict[str, Any]]:  # name, card
        async with self._server() as server:
            models = await server.models()
            name = served or await server.only_model()
        if name not in models:
            some = ", ".join(list(models)[:5]) or "none"
            raise InputError(f"a model named {name} at {self.address}", some, "check the name")
        return name, models[name]

    def complete(
        self, prompts: Sequence[str], *, new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """See ``Subject``; the n-th prompt is sampled with the n-th seed behind ``seed``, so equal ones may differ.

        Raises:
            MeasureError: the server refuses a prompt, for its length or otherwise.
        """

        async def ask(server: Server, number: int, prompt: str) -> str:
            sampling: dict[str, Any] = {"temperature": temperature}
            if temperature:
                sampling |= {"top_p": 1.0, "seed": seed + number}
            body = self._body(encode_prompt(self.tokenizer, prompt), max_tokens=new_tokens, **sampling)
            return await server.post("completions", body, lambda data: str(data["choices"][0]["text"]))

        try:
            return run(self._ask_all(prompts, ask))
        except RequestError as error:
            remedy = "serve the model with a longer context, or take shorter prompts"
            raise MeasureError(f"completions from {self.address}", str(error), remedy) from error

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See ``Subject``.

        Raises:
            MeasureError: the server does not give them.
        """

        async def ask(server: Server, number: int, ids: Sequence[int]) -> Tensor:
            body = self._body(ids, max_tokens=0, echo=True, logprobs=0, temperature=0.0)
            of_tokens = await server.post("completions", body, lambda data: data["choices"][0].get("logprobs"))
            found = (of_tokens or {}).get("token_logprobs") or []
            if len(found) < len(ids) or None in found[1 : len(ids)]:
                raise self._gives_none(f"{len(found)} numbers for {len(ids)} tokens")
            return torch.tensor(found[1 : len(ids)], dtype=torch.float32)

        try:
            return run(self._ask_all(sequences, ask))
        except RequestError as error:
            raise self._gives_none(str(error)) from error

    def _body(self, ids: Sequence[int], **options: Any) -> dict[str, Any]:
        return {"model": self.served, "prompt": [*ids], **options, **self._options}

    def _gives_none(self, got: str) -> MeasureError:
        remedy = "serve the model with vLLM, or give its folder"
        return MeasureError(f"log-probabilities of given tokens from {self.address}", got, remedy)

    async def _ask_all(self, items: Sequence[_Item], ask: Callable[[Server, int, _Item], Awaitable[_T]]) -> list[_T]:
        gate = asyncio.Semaphore(self._concurrency)
        async with self._server() as server:

            async def one(number: int, item: _Item) -> _T:
                async with gate:
                    return await ask(server, number, item)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(number, item)) for number, item in enumerate(items)]
            except* InputError as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]


def _tokenizer_of(served: str, root: str) -> Any:
    """The tokenizer of a served model, from its folder or the hub.

    Raises:
        InputError: it is in neither.
    """
    silent = False
    for source in dict.fromkeys(filter(None, (root, served))):
        if Path(source).is_dir() or not Path(source).is_absolute():
            silent = not Path(source).is_dir() and not _hub_answers(source)
            try:
                return load_tokenizer(source, local_files_only=silent)
            except InputError:
                continue
    got = "none by that name here, and a hub that does not answer" if silent else "none by that name"
    raise InputError(f"the tokenizer of the served model {served}", got, "give its folder (--tokenizer)")


def _hub_answers(name: str) -> bool:
    """Whether the hub says anything of a model, be it that there is none; asked once, not twelve times as for files."""
    try:
        HfApi().model_info(name, timeout=_HUB_WAIT)
    except (OSError, ValueError):  # it knows no such model, no such name is allowed, or it is switched off
        return True
    except Exception:  # nobody answered: an error of whichever client it uses
        return False
    return True


def local_model(subject: Subject) -> Any:
    """The model of a subject, for measures that need whole distributions.

    Raises:
        MeasureError: a server.
    """
    if subject.model is None:
        raise MeasureError("a model in this process", f"{subject.name}, a server", "give the model's folder")
    return subject.model


def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Continuations of prompts, without the prompts: greedy, or sampled at a temperature above 0.

    Args:
        model: a ``transformers`` model or a pair.
        tokenizer: its tokenizer.
        prompts: texts.
        new_tokens: at most, in each continuation.
        temperature: 0 takes the likeliest token at every step.
        seed: of the sampling.
        batch_size: prompts at once.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    how: dict[str, Any] = {"do_sample": False}
    if temperature:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    continuations: list[str] = []
    with torch.random.fork_rng(enabled=temperature > 0):
        if temperature:
            torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            rows = [encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
            longest = max(map(len, rows))
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device_of(model))
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=ids.device)
            output = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=pad, **how)
            continuations += tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return continuations
