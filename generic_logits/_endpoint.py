"""A model behind an OpenAI-compatible endpoint: what is sent, sent again, and sent otherwise where it is refused."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Self, TypeVar

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the one it uses itself: httpx, later httpx2
from tqdm.auto import tqdm

from generic_logits.errors import InputError, RequestError, one_line

_SILENCE = 10.0  # seconds, after which a person may want to know
_CARD = ("owned_by", "root", "parent", "max_model_len")  # vLLM's "created" is the time of the question
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_REQUEST_TO_WAIT = 1.0, 60.0, 600.0  # seconds
_TOO_LONG = re.compile(r"context (length|window|size)|maximum.{0,40} tokens|too (long|large)", re.IGNORECASE)
_PASSING = (408, 409, 425, 429)  # of an HTTP status below 500: asked again, it may be another
_ABOUT_THE_REQUEST = (400, 413, 422)  # and not about who asks, or whom
_T = TypeVar("_T")
_Topic = TypeVar("_Topic")


class Reply(NamedTuple):
    """What a model wrote, and whether it was stopped before it had finished."""

    text: str
    cut: bool


class _Refusal(Exception):
    """The endpoint does not take a request as it is."""

    def __init__(self, status: int, words: str, whole: str) -> None:
        super().__init__(words)
        self.status = status
        self.whole = whole  # the answer, uncut


class Server:
    """An OpenAI-compatible server: how it is reached, and until when it wants to be left alone."""

    def __init__(self, address: str, *, retries: int, timeout: float) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            address: ``http://host:8000/v1``.
            retries: further attempts at a request that fails.
            timeout: seconds for one request.

        Raises:
            InputError: no address, or a key that no header can hold.
        """
        try:
            url = httpx.URL(address.rstrip("/"))
        except httpx.InvalidURL as error:
            raise no_address(f"{address}: {error}") from error
        if not url.host:
            raise no_address(address)
        self.address = str(url.copy_with(username="", password=""))
        self._retries = retries
        self._timeout = timeout
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError("a key of ASCII characters in OPENAI_API_KEY", "others", "set it again")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=None)
        self._reached = False
        self._not_before = 0.0
        self._said = -_SILENCE
        self._random = random.Random()

    async def __aenter__(self) -> Self:
        """Open the client."""
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Close it."""
        await self._client.__aexit__(*error)

    async def models(self) -> dict[str, dict[str, Any]]:
        """The names of its models, each with what the server says of it that lasts: ``_CARD``, as far as given.

        Raises:
            InputError: nobody there, or somebody else; at once, for a wrong address stays wrong.
        """
        try:
            return await self._send("GET", "models", None, _read_models, patient=False)
        except _Refusal as refusal:
            raise self._error(refusal) from None

    async def only_model(self) -> str:
        """The name of its model.

        Raises:
            InputError: it has none, or several.
        """
        names = list(await self.models())
        if len(names) != 1:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            wanted = f"the name of a model at {self.address}"
            raise InputError(wanted, f"none, and {some or 'no model'} to choose from", "name the model")
        return names[0]

    async def post(self, path: str, body: dict[str, Any], read: Callable[[Any], _T]) -> _T:
        """Ask, and give the answer's JSON to ``read``.

        Raises:
            InputError: the endpoint is not there, failed at every attempt, or does not take the request.
        """
        try:
            return await self._send("POST", path, body, read)
        except _Refusal as refusal:
            raise self._error(refusal) from None

    async def _send(self, method: str, path: str, body: Any, read: Callable[[Any], _T], *, patient: bool = True) -> _T:
        """Send a request until it is answered, and give the answer's JSON to ``read``.

        Args:
            method: of HTTP.
            path: below the address.
            body: of the request.
            read: raises where the JSON is not the one that belongs to the path.
            patient: whether such an answer is asked for again.

        Raises:
            _Refusal: any answer that another attempt cannot change.
            InputError: the endpoint is not there, is none, or failed at every attempt.
        """
        begun = time.monotonic()
        for attempt in range(self._retries + 1):
            while (left := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(left)
            wanted = 0.0
            try:
                async with asyncio.timeout(self._timeout):
                    response = await self._client.request(method, path, json=body)
            except TimeoutError:
                fault = f"no answer within {self._timeout:g} seconds"
            except httpx.RequestError as error:
                fault = one_line(str(error)) or type(error).__name__
                if isinstance(error, httpx.ConnectError) and not self._reached:
                    there = f"an endpoint at {self.address}"
                    raise InputError(there, fault, "start it, or check the address") from error
            else:
                self._reached = True
                if response.is_success:
                    try:
                        return read(response.json())
                    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                        fault = f"not the JSON that belongs to /{path}{self._words_of(response)}"
                        if not patient:
                            there = f"an OpenAI-compatible server at {self.address}"
                            raise InputError(there, fault, "check the address, which usually ends in /v1") from None
                else:
                    wanted, fault = _retry_after(response), f"HTTP {response.status_code}{self._words_of(response)}"
                    if response.status_code not in _PASSING and response.status_code < 500:
                        raise _Refusal(response.status_code, fault, response.text)
            if wanted > _LONGEST_REQUEST_TO_WAIT:
                fault += f" (asks to be left alone for {wanted:.0f} seconds)"
                break
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * self._random.uniform(0.5, 1)
            self._not_before = max(self._not_before, time.monotonic() + max(wait, wanted))
            if attempt < self._retries and self._not_before - begun > _SILENCE:
                self._say(f"{fault}; asked again")
        times = "" if attempt == 0 else f", at the last of {attempt + 1} attempts"
        remedy = "see that the endpoint is well and run it again: what was answered is kept"
        raise InputError(f"an answer from {self.address}", f"{fault}{times}", remedy)

    def _say(self, what: str) -> None:
        """Tell a person at a terminal why it takes so long; not every request needs to."""
        if sys.stderr.isatty() and time.monotonic() - self._said > _SILENCE:
            self._said = time.monotonic()
            tqdm.write(f"{self.address}: {what}", file=sys.stderr)

    def _words_of(self, response: httpx.Response) -> str:
        """What an answer says about what is wrong, without the key."""
        words = response.text
        try:
            data = response.json()
            about = data.get("error") or data.get("detail") or data.get("message") or data
            words = about["message"] if isinstance(about, dict) and "message" in about else str(about)
        except (ValueError, AttributeError):
            pass
        words = one_line(str(words).replace(self._key, "***") if self._key else str(words))
        return f": {words}" if words else ""

    def _error(self, refusal: _Refusal) -> InputError:
        remedy = {
            401: "check OPENAI_API_KEY" if self._key else "set OPENAI_API_KEY",
            403: "check what the key in OPENAI_API_KEY may do" if self._key else "set OPENAI_API_KEY",
            404: "check the address, which usually ends in /v1, and the model's name",
        }.get(refusal.status, "mend what it complains about; what was answered is kept")
        if _TOO_LONG.search(refusal.whole):
            remedy = "take shorter passages or fewer answer tokens; what was answered is kept"
        kind = RequestError if refusal.status in _ABOUT_THE_REQUEST else InputError
        return kind(f"an answer from {self.address}", str(refusal), remedy)


class Endpoint(Server):
    """A chat model behind such a server, asked for JSON; it is spared the options that it has refused."""

    def __init__(
        self,
        address: str,
        *,
        name: str,
        schemas: Sequence[dict[str, Any]],
        answer_tokens: int,
        temperature: float,
        seed: int,
        retries: int,
        timeout: float,
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            address: see ``Server``.
            name: of what is answered, for the schema.
            schemas: of an answer, the strictest first: where the endpoint refuses one, the next is tried.
            answer_tokens: longest answer.
            temperature: of the sampling.
            seed: of the sampling; a further attempt has the next one.
            retries: see ``Server``.
            timeout: see ``Server``.

        Raises:
            InputError: see ``Server``.
        """
        super().__init__(address, retries=retries, timeout=timeout)
        self._formats = [_response_format(name, schema) for schema in schemas]
        self._options: dict[str, Any] = {
            "temperature": temperature,
            "seed": seed,
            "max_tokens": answer_tokens,
            "response_format": self._formats[0],
        }

    async def converse(self, conversation: Generator[str, Reply, dict[str, Any]], model: str) -> dict[str, Any]:
        """Lead a conversation to its end.

        After an answer that was cut off the model is not held to the schema: some, when held, write white space for
        ever.
        """
        prompt = next(conversation)
        attempt, free = 0, False
        try:
            while True:
                reply = await self._chat(model, prompt, attempt, free)
                attempt, free = attempt + 1, reply.cut
                prompt = conversation.send(reply)
        except StopIteration as end:
            answer: dict[str, Any] = end.value
            return answer

    async def _chat(self, model: str, prompt: str, attempt: int, free: bool) -> Reply:
        """Ask, without the options that the endpoint refuses; it is spared them later, too."""
        known = {**self._options}
        if free:
            known.pop("response_format", None)
        options = known
        while True:
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], **options}
            if "seed" in options:
                body["seed"] = options["seed"] + attempt
            try:
                reply = await self._send("POST", "chat/completions", body, _read_reply)
            except _Refusal as refusal:
                fewer = self._without_refused(options, refusal.whole) if refusal.status in (400, 422) else None
                if fewer is None:
                    raise self._error(refusal) from None
                options = fewer
                continue
            if options is not known and not free:
                self._options = options
            return reply

    def _without_refused(self, options: dict[str, Any], refusal: str) -> dict[str, Any] | None:
        """The options without the one that a refusal is about; None if it can be about none."""
        if _TOO_LONG.search(refusal):
            return None
        rest = dict(options)
        if "max_tokens" in rest and "max_completion_tokens" in refusal:
            rest["max_completion_tokens"] = rest.pop("max_tokens")
            return rest
        for name in ("temperature", "seed"):
            if name in rest and re.search(rf"\b{name}\b", refusal):
                del rest[name]
                return rest
        if "response_format" not in rest:
            return None
        looser = self._formats[self._formats.index(rest.pop("response_format")) + 1 :]
        return {**rest, "response_format": looser[0]} if looser else rest


async def converse_all(
    endpoint: Endpoint,
    conversations: Iterable[tuple[_Topic, Generator[str, Reply, dict[str, Any]]]],
    model: str,
    keep: Callable[[_Topic, dict[str, Any]], None],
    *,
    concurrency: int,
) -> None:
    """Lead several conversations at a time, and hand what comes out of each to ``keep``.

    After a failure no further one is begun, and those under way are still finished.

    Args:
        endpoint: not opened yet.
        conversations: each with what it is about; begun one after another.
        model: its name at the endpoint.
        keep: takes the topic and the answer.
        concurrency: conversations at one time.
    """
    waiting = iter(conversations)
    failed = False

    async def work() -> None:
        nonlocal failed
        try:
            for topic, conversation in waiting:
                keep(topic, await endpoint.converse(conversation, model))
                if failed:
                    return
        except BaseException:
            failed = True
            raise

    async with endpoint:
        for result in await asyncio.gather(*(work() for _ in range(concurrency)), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end; where an event loop runs already, as in notebooks, in a thread."""
    if not _is_loop_running():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def no_address(got: str) -> InputError:
    """The error that says what an address looks like."""
    return InputError("the address of an endpoint, http://host:port/v1", got, "check it")


def _response_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def _read_models(data: Any) -> dict[str, dict[str, Any]]:
    return {str(each["id"]): {name: each[name] for name in _CARD if name in each} for each in data["data"]}


def _read_reply(data: Any) -> Reply:
    choice = data["choices"][0]
    content = choice["message"].get("content")
    return Reply(content if isinstance(content, str) else "", choice.get("finish_reason") == "length")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that an answer asks to wait, by a number or a date; 0 if it does not."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
