"""Anchors from a language model: an HTTP endpoint with every fault it can have, a model in a folder, the merging."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import folders
import jsonschema
import pytest
import tiny

from generic_logits.discovery import language_model
from generic_logits.discovery.language_model import (
    PROMPT_VERSION,
    LanguageModelConfig,
    answer_schema,
    ask_language_model,
    cut_passages,
    estimate_cost,
    extract_json,
    read_answer,
)
from generic_logits.errors import InputError, ModelError, OutputError, StorageError
from generic_logits.text.anchors import Anchors
from generic_logits.text.corpus import Document

NAMES = ("Mira Voss", "Orrin", "Hale", "Tamsin", "Quill", "Bexley")
ANSWER = {
    "anchors": [
        {"term": "Mira Voss", "kind": "person", "gender": "female", "translations": ["Anna Moss", "Lena Hart"]},
        {"term": "Orrin", "kind": "place", "gender": "none", "translations": ["Alder"]},
    ]
}


def document(*paragraphs: str, name: str = "book.txt") -> Document:
    return Document(name, "\n\n".join(paragraphs), "")


def book(passages: int = 4) -> list[Document]:
    """As many passages of some 100 characters, each with a name of its own."""
    return [
        document(
            f"Mira Voss went down to {NAMES[at]} number {at} before dawn. " + "The sea was grey. " * 3, name=f"{at}"
        )
        for at in range(passages)
    ]


def entry(term: str, *translations: str, kind: str = "person", gender: str = "none") -> dict[str, Any]:
    return {"term": term, "kind": kind, "gender": gender, "translations": list(translations)}


# --- an endpoint ------------------------------------------------------------------------------------------------------


class Answer:
    """What the endpoint does with one request: a status, a body, headers, and how long it takes."""

    def __init__(self, content: Any = ANSWER, *, status: int = 200, finish: str = "stop", **more: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        self.status = status
        self.body: Any = more.get("body", {"choices": [choice]})
        self.headers: dict[str, str] = more.get("headers", {})
        self.seconds: float = more.get("seconds", 0)


def fault(status: int, message: str = "no", **headers: str) -> Answer:
    body = {"error": {"message": message}}
    return Answer(status=status, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


class Endpoint:
    """A server on a port of its own; ``script`` says what it answers to the n-th question."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.listed = 0
        self.models = ["tiny"]
        self.script: Callable[[int, dict[str, Any]], Answer] = lambda number, body: Answer()
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                endpoint.listed += 1
                found = self.path == "/v1/models"
                models = {"data": [{"id": name} for name in endpoint.models]}
                self._send(Answer(body=models) if found else fault(404, "Not Found"))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.questions.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                    endpoint.times.append(time.monotonic())
                    number = len(endpoint.questions)
                found = self.path == "/v1/chat/completions"
                self._send(endpoint.script(number, body) if found else fault(404, "Not Found"))

            def _send(self, answer: Answer) -> None:
                time.sleep(answer.seconds)
                raw = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
                try:
                    self.send_response(answer.status)
                    for name, value in {**answer.headers, "Content-Length": str(len(raw))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:
                    self.close_connection = True  # the client has gone

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def passages(self) -> list[str]:
        """The names in the questions, in order: which passages were asked about."""
        return [next(name for name in NAMES if f"to {name}" in text) for text in map(prompt_of, self.questions)]


def prompt_of(question: dict[str, Any]) -> str:
    (message,) = question["messages"]
    assert message["role"] == "user"
    return message["content"]


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(language_model, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def config(endpoint, tmp_path) -> Callable[..., LanguageModelConfig]:
    def make(**changes: Any) -> LanguageModelConfig:
        usual = {"source": endpoint.url, "cache": tmp_path / "cache", "retries": 2, "concurrency": 1, "timeout": 30}
        return LanguageModelConfig(**{**usual, **changes})

    return make


def cached(config: LanguageModelConfig) -> int:
    files = list(config.cache_folder.iterdir()) if config.cache_folder.exists() else []
    assert all(file.suffix == ".json" and len(file.stem) == 64 for file in files)
    return len(files)


def test_a_question_has_the_schema_the_prompt_and_the_settings(endpoint, config):
    settings = config(translations=5, terms=7, answer_tokens=99, seed=3, model="named")
    found = ask_language_model(book(1), settings)
    (question,) = endpoint.questions
    assert endpoint.listed == 0 and question["model"] == "named" and endpoint.keys == [None]
    assert (question["temperature"], question["seed"], question["max_tokens"]) == (0, 3, 99)
    form = question["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    schema = form["json_schema"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == answer_schema(translations=5, terms=7)
    items = schema["properties"]["anchors"]
    assert items["maxItems"] == 7 and items["items"]["properties"]["translations"]["maxItems"] == 5
    prompt = prompt_of(question)
    assert "give 5 different replacements" in prompt and "at most 7" in prompt
    assert f"----\n{book(1)[0].text.strip()}\n----" in prompt
    (found,) = found  # Orrin is not in this passage
    assert (found.term, found.translations) == ("Mira Voss", ("Anna Moss", "Lena Hart"))
    assert (found.kind, found.gender) == ("person", "female")
    assert found.why == "language model named: proposed in 1 of 1 passages"


def test_the_key_comes_from_the_environment_and_the_name_from_the_endpoint(endpoint, config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (found,) = ask_language_model(book(1), config())
    assert endpoint.keys == ["Bearer secret"] and endpoint.listed == 1
    assert endpoint.questions[0]["model"] == "tiny" and found.why.startswith("language model tiny: ")
    assert "secret" not in repr(config())
    assert all("secret" not in file.read_text() for file in config().cache_folder.iterdir())


def test_every_passage_is_asked_once_and_then_never_again(endpoint, config):
    documents = [*book(4), book(1)[0]]  # one text twice
    first = ask_language_model(documents, config(concurrency=3))
    assert sorted(endpoint.passages()) == sorted(NAMES[:4]) and cached(config()) == 4
    assert ask_language_model(documents, config(concurrency=1)) == first
    assert len(endpoint.questions) == 4
    assert first[0].why.endswith("proposed in 5 of 5 passages")


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"translations": 3}, 1),
        ({"terms": 3}, 1),
        ({"seed": 1}, 0),
        ({"temperature": 0.5}, 1),
        ({"model": "other"}, 1),
        ({"answer_tokens": 77}, 0),
        ({"timeout": 20, "retries": 0, "concurrency": 2}, 0),
    ],
    ids=str,
)
def test_what_shapes_an_answer_is_part_of_its_key(endpoint, config, change, asked):
    ask_language_model(book(1), config())
    ask_language_model(book(1), config(**change))
    assert len(endpoint.questions) == 1 + asked


def test_a_seed_matters_where_something_is_drawn(endpoint, config):
    for seed in (0, 1, 0, 1):
        ask_language_model(book(1), config(temperature=0.5, seed=seed))
    assert [each["seed"] for each in endpoint.questions] == [0, 1]


def test_a_new_prompt_is_a_new_question(endpoint, config, monkeypatch):
    ask_language_model(book(1), config())
    monkeypatch.setattr(language_model, "PROMPT_VERSION", PROMPT_VERSION + 1)
    ask_language_model(book(1), config())
    assert len(endpoint.questions) == 2


def test_the_version_moves_with_the_prompt():
    words = language_model._PROMPT + language_model._AGAIN
    assert {PROMPT_VERSION: hashlib.sha256(words.encode()).hexdigest()[:12]} == {1: "3d04eff6053e"}


def test_the_cache_holds_answers_and_no_passage(endpoint, config):
    ask_language_model(book(1), config())
    (file,) = config().cache_folder.iterdir()
    kept = json.loads(file.read_text())
    assert kept["answer"] == ANSWER and kept["model"] == "tiny" and kept["prompt_version"] == PROMPT_VERSION
    assert "before dawn" not in file.read_text()


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"answer": {"anchors": 3}}', '{"answer": {}}', "\udcff"], ids=repr)
def test_a_broken_file_in_the_cache_is_asked_again(endpoint, config, broken):
    first = ask_language_model(book(1), config())
    (file,) = config().cache_folder.iterdir()
    file.write_bytes(broken.encode("utf-8", "surrogateescape"))
    assert ask_language_model(book(1), config()) == first
    assert len(endpoint.questions) == 2 and json.loads(file.read_text())["answer"] == ANSWER


def test_a_failure_keeps_what_was_answered_and_the_next_run_goes_on(endpoint, config):
    endpoint.script = lambda number, body: Answer() if number < 3 else fault(500, "out of memory")
    with pytest.raises(InputError) as caught:
        ask_language_model(book(4), config())
    assert str(caught.value) == (
        f"wanted an answer from {endpoint.url}; got HTTP 500: out of memory, at the last of 3 attempts; see that the "
        "endpoint is well and run it again: what was answered is kept"
    )
    assert endpoint.passages() == [NAMES[0], NAMES[1], *[NAMES[2]] * 3] and cached(config()) == 2
    endpoint.script = lambda number, body: Answer()
    (found,) = ask_language_model(book(4), config())[:1]
    assert endpoint.passages()[5:] == [NAMES[2], NAMES[3]] and cached(config()) == 4
    assert found.why.endswith("proposed in 4 of 4 passages")


def test_after_a_failure_those_under_way_are_finished_and_no_other_is_begun(endpoint, config):
    def script(number: int, body: dict[str, Any]) -> Answer:
        return fault(403, "not you") if f"to {NAMES[0]}" in prompt_of(body) else Answer(seconds=0.5)

    endpoint.script = script
    with pytest.raises(InputError, match="HTTP 403: not you; set OPENAI_API_KEY"):
        ask_language_model(book(6), config(concurrency=3))
    assert sorted(endpoint.passages()) == sorted(NAMES[:3]) and cached(config()) == 2


def test_several_passages_are_asked_at_a_time_and_merged_in_their_order(endpoint, config):
    together = threading.Barrier(6, timeout=60)

    def script(number: int, body: dict[str, Any]) -> Answer:
        at = next(at for at, name in enumerate(NAMES) if f"to {name}" in prompt_of(body))
        together.wait()
        return Answer({"anchors": [entry("Mira Voss", f"Name {'ABCDEF'[at]}")]}, seconds=0.3 - 0.05 * at)

    endpoint.script = script
    (found,) = ask_language_model(book(6), config(concurrency=6))
    assert found.translations == tuple(f"Name {letter}" for letter in "ABCDEF")


# --- an endpoint with faults ------------------------------------------------------------------------------------------


def test_429_waits_as_long_as_it_is_told(endpoint, config):
    endpoint.script = lambda number, body: fault(429, "slow down", Retry_After="1") if number == 1 else Answer()
    assert ask_language_model(book(1), config())
    assert endpoint.times[1] - endpoint.times[0] >= 1


def test_a_date_to_wait_for_is_understood_and_holds_for_everyone(endpoint, config):
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    endpoint.script = lambda number, body: fault(503, Retry_After=then) if number == 1 else Answer(seconds=0.7)
    assert ask_language_model(book(3), config(concurrency=2))
    late = [at - endpoint.times[0] for at in endpoint.times]
    assert sum(each >= 1 for each in late) == 2  # the repetition, and the third passage


def test_a_long_wait_is_an_error_at_once(endpoint, config):
    endpoint.script = lambda number, body: fault(429, "quota", Retry_After="86400")
    with pytest.raises(InputError, match=r"HTTP 429: quota \(asks to be left alone for 86400 seconds\); see that"):
        ask_language_model(book(1), config())
    assert len(endpoint.questions) == 1


@pytest.mark.parametrize("value", ["soon", "", "nan", "-5", "Wed, 99 Foo 2026"])
def test_a_strange_retry_after_is_passed_over(endpoint, config, value):
    endpoint.script = lambda number, body: fault(429, Retry_After=value) if number == 1 else Answer()
    assert ask_language_model(book(1), config()) and len(endpoint.questions) == 2


def test_waits_double(endpoint, config, monkeypatch):
    monkeypatch.setattr(language_model, "_FIRST_WAIT", 0.2)
    endpoint.script = lambda number, body: fault(502) if number < 4 else Answer()
    assert ask_language_model(book(1), config(retries=3))
    waits = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    for wait, expected in zip(waits, (0.2, 0.4, 0.8), strict=True):
        assert wait >= expected / 2
    assert len(endpoint.questions) == 4


@pytest.mark.parametrize(
    "body", ["<html>no</html>", {}, {"choices": []}, [], "", {"error": {"message": "no"}}], ids=str
)
def test_a_body_that_is_no_completion_is_asked_for_again(endpoint, config, body):
    endpoint.script = lambda number, question: Answer(body=body) if number == 1 else Answer()
    assert ask_language_model(book(1), config()) and len(endpoint.questions) == 2
    endpoint.script = lambda number, question: Answer(body=body)
    with pytest.raises(
        InputError, match="got not the JSON that belongs to /chat/completions.*, at the last of 3 attem"
    ):
        ask_language_model(book(2), config())


def test_a_slow_answer_is_given_up_and_asked_for_again(endpoint, config):
    endpoint.script = lambda number, body: Answer(seconds=5 if number == 1 else 0)
    assert ask_language_model(book(1), config(timeout=1.5)) and len(endpoint.questions) == 2
    endpoint.script = lambda number, body: Answer(seconds=5)
    with pytest.raises(InputError, match=r"got no answer within 1\.5 seconds, at the last of 2 attempts; see that"):
        ask_language_model(book(2), config(timeout=1.5, retries=1))
    assert len(endpoint.questions) == 4 and cached(config()) == 1


@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_a_wrong_key_is_an_error_at_once_and_is_not_shown(endpoint, config, monkeypatch, key):
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    endpoint.script = lambda number, body: fault(401, f"Incorrect API key provided: {key}")
    with pytest.raises(InputError) as caught:
        ask_language_model(book(1), config())
    remedy = "check OPENAI_API_KEY" if key else "set OPENAI_API_KEY"
    assert str(caught.value) == (
        f"wanted an answer from {endpoint.url}; got HTTP 401: Incorrect API key provided: {'***' if key else key}; "
        f"{remedy}"
    )
    assert len(endpoint.questions) == 1


def test_a_key_that_is_not_ascii_is_refused(endpoint, config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with pytest.raises(InputError, match="wanted a key of ASCII characters in OPENAI_API_KEY; got others"):
        ask_language_model(book(1), config())


@pytest.mark.parametrize("model", [None, "named"])
def test_a_refused_connection_is_an_error_at_once(config, model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://me:secret@127.0.0.1:{port}/v1"
    with pytest.raises(InputError) as caught:
        ask_language_model(book(1), config(source=url, model=model))
    assert str(caught.value).startswith(f"wanted an endpoint at http://127.0.0.1:{port}/v1; got ")
    assert str(caught.value).endswith("; start it, or check the address")


def test_an_endpoint_that_goes_away_is_asked_again_before_it_is_given_up(endpoint, config, monkeypatch):
    monkeypatch.setattr(language_model, "_FIRST_WAIT", 0.5)

    def script(number: int, body: dict[str, Any]) -> Answer:
        if number == 1:
            return Answer()
        threading.Thread(target=endpoint.close).start()
        return Answer(status=500, headers={"Connection": "close"})

    endpoint.script = script
    with pytest.raises(
        InputError, match="got All connection attempts failed, at the last of 3 attempts; see that the end"
    ):
        ask_language_model(book(3), config(model="tiny"))
    assert cached(config()) == 1


@pytest.mark.parametrize(
    ("models", "said"), [(["a", "b"], "a, b"), ([], "no model"), (list("abcdefg"), "a, b, c, d, e, ...")]
)
def test_the_model_must_be_named_where_there_is_not_exactly_one(endpoint, config, models, said):
    endpoint.models = models
    for call in (ask_language_model, estimate_cost):
        with pytest.raises(InputError) as caught:
            call(book(1), config())
        assert str(caught.value) == (
            f"wanted the name of a model at {endpoint.url}; got none, and {said} to choose from; name the model"
        )
    assert not endpoint.questions
    assert ask_language_model(book(1), config(model="b"))


@pytest.mark.parametrize("model", [None, "named"])
def test_an_address_that_leads_elsewhere_is_told(endpoint, config, model):
    with pytest.raises(InputError, match="got HTTP 404: Not Found; check the address, which usually ends in /v1, and"):
        ask_language_model(book(1), config(source=endpoint.url.removesuffix("/v1"), model=model))


@pytest.mark.parametrize("source", ["http://", "http://host:port/v1", "localhost:8000/v1", "127.0.0.1:80"])
def test_what_is_no_address_is_told(config, source):
    with pytest.raises(InputError, match=r"wanted the address of an endpoint, http://host:port/v1; got .*; check it"):
        ask_language_model(book(1), config(source=source))


# --- an endpoint that does not take everything ------------------------------------------------------------------------


def test_an_endpoint_without_structured_output_is_asked_plainly(endpoint, config):
    def script(number: int, body: dict[str, Any]) -> Answer:
        refused = "response_format" in body
        return (
            fault(400, "response_format is not supported")
            if refused
            else Answer(f"Sure!\n```json\n{json.dumps(ANSWER)}\n```")
        )

    endpoint.script = script
    (found,) = ask_language_model(book(3), config())[:1]
    assert found.why.endswith("proposed in 3 of 3 passages")
    assert ["response_format" in each for each in endpoint.questions] == [True, True, False, False, False]


def test_an_endpoint_that_knows_no_limits_gets_a_schema_without(endpoint, config):
    def script(number: int, body: dict[str, Any]) -> Answer:
        refused = "maxLength" in json.dumps(body)
        return fault(400, "Invalid schema: 'maxLength' is not permitted") if refused else Answer()

    endpoint.script = script
    assert ask_language_model(book(3), config())
    schemas = [each["response_format"]["json_schema"]["schema"] for each in endpoint.questions]
    assert schemas[1:] == [answer_schema()] * 3 and len(endpoint.questions) == 4


def test_options_that_an_endpoint_refuses_are_given_up(endpoint, config):
    def script(number: int, body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return fault(400, "Unsupported. " * 20 + "Use 'max_completion_tokens' instead of 'max_tokens'.")
        if "temperature" in body:
            return fault(400, "Unsupported value: 'temperature' does not support 0 with this model.")
        if "seed" in body:
            return Answer(status=422, body={"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]})
        return Answer()

    endpoint.script = script
    assert ask_language_model(book(2), config(answer_tokens=50))
    assert len(endpoint.questions) == 5
    last = endpoint.questions[-1]
    assert last["max_completion_tokens"] == 50 and not {"max_tokens", "temperature", "seed"} & set(last)
    assert "response_format" in last


def test_a_passage_that_is_too_long_is_not_asked_otherwise(endpoint, config):
    message = "This model's maximum context length is 4096 tokens. 'max_tokens' or 'max_completion_tokens' is too large"
    endpoint.script = lambda number, body: fault(400, message)
    with pytest.raises(
        InputError, match="got HTTP 400: This model's maximum.*; take shorter passages or fewer answer t"
    ):
        ask_language_model(book(1), config())
    assert len(endpoint.questions) == 1


def test_what_is_refused_in_every_form_is_told_in_the_endpoints_words(endpoint, config):
    endpoint.script = lambda number, body: fault(400, "the content\nfilter was triggered " + "x" * 500)
    with pytest.raises(
        InputError, match=r"got HTTP 400: the content filter was triggered x+\.\.\.; mend what it"
    ) as caught:
        ask_language_model(book(1), config())
    assert len(endpoint.questions) == 3 and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_refusal_of_one_passage_changes_nothing_for_the_next(endpoint, config):
    endpoint.script = lambda number, body: fault(400, "filtered") if f"to {NAMES[0]}" in prompt_of(body) else Answer()
    with pytest.raises(InputError, match="filtered"):
        ask_language_model(book(2), config(concurrency=2))
    other = [each for each in endpoint.questions if f"to {NAMES[1]}" in prompt_of(each)]
    assert all("response_format" in each for each in other)


# --- answers that cannot be used --------------------------------------------------------------------------------------


def test_an_invalid_answer_is_asked_for_again_with_its_fault(endpoint, config):
    bad = ["I would rather not.", {"anchors": [{**entry("Mira Voss", "A"), "kind": "hero"}]}]
    endpoint.script = lambda number, body: Answer(bad[number - 1]) if number < 3 else Answer()
    (found,) = ask_language_model(book(1), config(seed=5))
    first, second, third = map(prompt_of, endpoint.questions)
    assert second.startswith(first) and third.startswith(first)
    assert "attempt 2. The answer before it could not be used: it holds no JSON object." in second
    assert "attempt 3. The answer before it could not be used: 'hero' is not one of" in third
    assert "at $.anchors[0].kind" in third
    assert [each["seed"] for each in endpoint.questions] == [5, 6, 7] and cached(config()) == 1
    assert found.term == "Mira Voss"


def test_answers_that_stay_invalid_end_in_one_clear_line(endpoint, config):
    endpoint.script = lambda number, body: Answer() if number == 1 else Answer('{"anchors": [],}')
    with pytest.raises(InputError) as caught:
        ask_language_model(book(3), config())
    message = str(caught.value)
    assert message.startswith(
        "wanted a JSON object with anchors from tiny; got none in 3 attempts at character 0 of 1; of the last answer: "
        "its JSON is broken: "
    )
    assert message.endswith(
        "; ask a more capable model, or about shorter passages and fewer terms; what was answered is kept"
    )
    assert "\n" not in message and len(endpoint.questions) == 4 and cached(config()) == 1


def test_an_answer_that_was_cut_off_is_asked_for_again_without_the_schema(endpoint, config):
    cut = '{\n  "anchors": [' + " " * 50
    endpoint.script = lambda number, body: Answer(cut, finish="length") if number == 1 else Answer()
    assert ask_language_model(book(2), config())
    assert ["response_format" in each for each in endpoint.questions] == [True, False, True]
    assert "it was cut off, and must be shorter" in prompt_of(endpoint.questions[1])


@pytest.mark.parametrize("content", [None, "", [{"type": "text", "text": "{}"}]], ids=str)
def test_an_empty_answer_is_an_invalid_one(endpoint, config, content):
    body = {"choices": [{"message": {"role": "assistant", "content": content, "refusal": "no"}}]}
    endpoint.script = lambda number, question: Answer(body=body) if number == 1 else Answer()
    assert ask_language_model(book(1), config())
    assert "could not be used: it is empty." in prompt_of(endpoint.questions[1])


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_running_event_loop_is_no_hindrance(endpoint, config):
    async def notebook() -> list[Any]:
        return ask_language_model(book(2), config())

    assert asyncio.run(notebook()) and len(endpoint.questions) == 2


def test_ctrl_c_ends_it_at_once_and_keeps_the_answers(endpoint, config):
    def script(number: int, body: dict[str, Any]) -> Answer:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            return Answer(seconds=20)
        return Answer()

    endpoint.script = script
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask_language_model(book(3), config())
    assert time.monotonic() - started < 10 and cached(config()) == 1


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_asked(endpoint, config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OutputError, match="wanted a cache that can be written; got .*/file/cache: Not a directory; choose"
    ):
        ask_language_model(book(1), config(cache=tmp_path / "file" / "cache"))
    assert not endpoint.questions


def test_a_full_disk_is_told(endpoint, config, monkeypatch):
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(language_model.os, "replace", full)
    with pytest.raises(StorageError, match="the disk is full at .*; make room, then run it again"):
        ask_language_model(book(1), config())


def test_the_cache_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert LanguageModelConfig(source="x").cache_folder == tmp_path / "generic_logits" / "anchors"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LanguageModelConfig(source="x").cache_folder == tmp_path / ".cache" / "generic_logits" / "anchors"


def test_the_progress_bar_is_for_terminals(endpoint, config, capsys, monkeypatch):
    ask_language_model(book(2), config())
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    ask_language_model(book(3), config())
    assert "asking tiny" in (shown := capsys.readouterr().err) and "3/3" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"translations": 0}, "wanted translations of at least 1; got 0; raise translations"),
        ({"terms": 0}, "wanted terms of at least 1"),
        ({"passage_characters": 0}, "wanted passage_characters of at least 1"),
        ({"answer_tokens": 0}, "wanted answer_tokens of at least 1"),
        ({"concurrency": 0}, "wanted concurrency of at least 1"),
        ({"retries": -1}, "wanted retries of at least 0; got -1"),
        ({"temperature": float("nan")}, "wanted temperature of at least 0; got nan"),
        ({"timeout": 0}, "wanted a timeout above 0 seconds; got 0"),
        ({"source": "./model", "model": "x"}, "wanted no model name beside a folder; got 'x'"),
        ({"source": "./model", "temperature": 1}, "wanted temperature 0 with a folder; got 1"),
    ],
    ids=str,
)
def test_settings_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        LanguageModelConfig(**{"source": "http://host/v1", **changes})


# --- the dry run ------------------------------------------------------------------------------------------------------


def test_the_dry_run_counts_and_asks_nothing(endpoint, config):
    ask_language_model(book(1), config())
    asked = len(endpoint.questions)
    cost = estimate_cost([*book(3), book(3)[2]], config(answer_tokens=100))
    prompts = sum(len(language_model._prompt(each.text.strip(), config())) for each in book(3)[1:])
    assert cost == {
        "model": "tiny",
        "passages": 4,
        "cached": 1,
        "to_ask": 2,
        "prompt_tokens": prompts // 4,
        "counted_by": "characters / 4",
        "answer_tokens": 200,
    }
    assert len(endpoint.questions) == asked
    listed = endpoint.listed
    estimate_cost(book(1), config(model="tiny"))
    assert endpoint.listed == listed  # with a name not even that
    assert estimate_cost(book(1), config(model="tiny", cache=config().cache_folder / "none"))["cached"] == 0
    assert not (config().cache_folder / "none").exists()


# --- passages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 50, 120, 1000, 10**9])
def test_passages_hold_everything_in_order_and_never_join_documents(length):
    documents = [
        document(*(f"Chapter {at}. " + "Word word, word? Word! " * (at % 5) for at in range(12)), name="one"),
        document("  \n\n ", name="blank"),
        Document("two", "x" * 130 + "\n" + "y" * 40, "", start=1000),
    ]
    passages = cut_passages(documents, length)
    assert all(0 < len(each.text) <= length and each.text == each.text.strip() for each in passages)
    for each in documents:
        own = [passage for passage in passages if passage.document == each.name]
        assert "".join("".join(passage.text for passage in own).split()) == "".join(each.text.split())
        for passage in own:
            start = passage.start - each.start
            assert each.text[start : start + len(passage.text)] == passage.text
    assert all(passage.document != "blank" for passage in passages)


def test_passages_end_where_a_paragraph_ends_else_a_line_a_sentence_a_word():
    def ends(text: str) -> list[str]:
        return [passage.text[-3:] for passage in cut_passages([document(text)], 20)]

    assert ends("aaaa bbb\nccc ddd\n\neee. fff ggg hhh") == ["ddd", "hhh"]
    assert ends("aaaa bbb. ccc ddd\neee fff ggg hhh") == ["ddd", "hhh"]
    assert ends("aaaa bbb ccc ddd.” eee fff ggg hhh") == ["d.”", "hhh"]
    assert ends("aaaa bbb ccc ddd eee fff ggg hhh") == ["ddd", "hhh"]
    assert ends("a\n\n" + "b" * 30) == ["bbb", "bbb"]  # an early end is none


# --- reading answers --------------------------------------------------------------------------------------------------

GOOD = json.dumps(ANSWER, indent=1)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\nLet me know if you need more!",
        f"Here are the {{term}} entries you asked for:\n\n{GOOD}\n\nI left out {{common}} words.",
        f'<think>\nFirst {{"anchors": [...]}} hm, Orrin.\n</think>\n\n{GOOD}',
        f'so the form is {{"a": 1}}.</think>{GOOD}',
        f"```json\n{GOOD}",
        "\ufeff" + GOOD + "<|im_end|>",
    ],
    ids=range(8),
)
def test_json_is_taken_out_of_what_stands_around_it(text):
    assert read_answer(text) == ANSWER


def test_a_raw_tab_in_a_string_is_no_fault():
    assert read_answer(json.dumps({"anchors": [entry("Mira\tVoss", "A")]}).replace("\\t", "\t")) == {
        "anchors": [entry("Mira\tVoss", "A")]
    }


def test_an_empty_list_is_an_answer():
    assert read_answer('{"anchors": []}') == {"anchors": []}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        (" \n ", "it is empty"),
        ("There is nothing of the kind.", "it holds no JSON object"),
        ("[]", "it holds no JSON object"),
        ('{"anchors": [],}', "its JSON is broken: "),
        ('{"anchors": [{"term": "Orrin", "translations": ["a",]}]}', "its JSON is broken: "),
        ("{'anchors': []}", "it holds no JSON object"),
        ('{"anchors": [{"term": "Orr', "its JSON is broken: "),
        (r'{"anchors": [{"term": "Or\xrin"}]}', r"its JSON is broken: Invalid \escape"),
        ('{"anchors": // none\n []}', "its JSON is broken: "),
        ('{"anchors": ' + "[" * 100_000, "its JSON is broken: "),
        ('{"anchors": []} {"anchors": []}', "it holds more than one JSON object"),
        ("{}", "'anchors' is a required property at $"),
        ('{"anchors": {}}', "{} is not of type 'array' at $.anchors"),
        ('{"anchors": [], "note": 1}', "Additional properties are not allowed ('note' was unexpected) at $"),
        (json.dumps({"anchors": [{"term": "Orrin"}]}), "'kind' is a required property at $.anchors[0]"),
        (json.dumps({"anchors": [entry("Orrin", kind="town")]}), "'town' is not one of"),
        (
            json.dumps({"anchors": [{**entry("Orrin"), "gender": None}]}),
            "None is not of type 'string' at $.anchors[0].gender",
        ),
        (json.dumps({"anchors": [{**entry("Orrin"), "translations": "Alder"}]}), "'Alder' is not of type 'array' at"),
        (
            json.dumps({"anchors": [{**entry("Orrin"), "translations": [1]}]}),
            "1 is not of type 'string' at $.anchors[0]",
        ),
        (json.dumps({"anchors": [{"Orrin": ["Alder"] * 300}]}), " at $.anchors[0]"),
    ],
    ids=range(21),
)
def test_what_is_wrong_with_an_answer_is_said_in_one_line(text, problem):
    with pytest.raises(ValueError) as caught:
        read_answer(text)
    message = str(caught.value)
    assert (message.startswith(problem) or problem.startswith(" ")) and problem.strip() in message
    assert len(message) < 300 and "\n" not in message


def test_the_schemas_agree():
    for schema in (answer_schema(), answer_schema(translations=2, terms=2)):
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(ANSWER, schema)
    with pytest.raises(ValueError, match="no JSON object"):
        extract_json("none")


# --- merging ----------------------------------------------------------------------------------------------------------


def merged(endpoint: Endpoint, config: Callable[..., LanguageModelConfig], *pairs: tuple[str, list[Any]]) -> list[Any]:
    """What comes of passages and the answers to them."""
    texts = [text for text, _ in pairs]

    def script(number: int, body: dict[str, Any]) -> Answer:
        return Answer({"anchors": next(entries for text, entries in pairs if f"----\n{text}\n----" in prompt_of(body))})

    endpoint.script = script
    return ask_language_model([document(text, name=str(at)) for at, text in enumerate(texts)], config())


def test_votes_are_counted_over_passages(endpoint, config):
    mira = "Mira Voss came to Orrin."
    found = merged(
        endpoint,
        config,
        (mira, [entry("Orrin", "Alder", "Birch", kind="place"), entry("Mira Voss", "Anna Moss", gender="female")]),
        (mira + " 2", [entry("Mira Voss", "Lena Hart", "Anna Moss"), entry("Mira Voss", "Anna Moss", "Rita Low")]),
        (mira + " 3", [entry("Mira Voss", "Lena Hart", kind="thing", gender="male")]),
        (mira + " 4", [entry("Mira Voss", "Rita Low", gender="female"), entry("Orrin", "Birch", kind="thing")]),
        (mira + " 5", []),
    )
    assert [each.term for each in found] == ["Mira Voss", "Orrin"]
    assert found[0].translations == ("Anna Moss", "Lena Hart", "Rita Low")
    assert (found[0].kind, found[0].gender, found[0].count) == ("person", "female", 0)
    assert found[0].why == "language model tiny: proposed in 4 of 5 passages"
    assert (found[1].translations, found[1].kind, found[1].gender) == (("Birch", "Alder"), "place", None)


def test_a_thing_has_no_gender(endpoint, config):
    (found,) = merged(
        endpoint, config, ("The Oracle spoke.", [entry("Oracle", "Engine", kind="thing", gender="female")])
    )
    assert found.gender is None


@pytest.mark.parametrize(
    ("term", "text", "kept"),
    [
        ("Orrin", "down to Orrin.", True),
        ("Orrin", "down to Orrin's door", True),
        ("Orrin", "down to _Orrin_", True),
        ("Orrin", "in Orrinsby", False),
        ("Orrin", "in Porrin", False),
        ("Orrin", "the orrin", False),
        ("orrin", "in Orrin", False),
        ("Orrin", "THE FALL OF ORRIN", True),
        ("gullwort", "some gullworts", True),
        ("Gullwort", "Gullworts grow", True),
        ("Mira Voss", "so Mira\n   Voss went", True),
        ("  Mira\n Voss ", "so Mira Voss went", True),
        ("Mira Voss", "Mira went to Voss", False),
        ("Ron", "Ronald and Ron", True),
        ("Gandalf", "nobody of that name", False),
        ("", "nobody", False),
        ("...", "well ... yes", True),
        ("奥兹", "在奥兹国的中央", True),
        ("多萝茜", "在奥兹国的中央", False),
    ],
)
def test_a_term_must_stand_in_its_passage_as_whole_words(endpoint, config, term, text, kept):
    found = merged(endpoint, config, (text, [entry(term, "Alder", kind="place")]))
    assert [each.term for each in found] == ([" ".join(term.split())] if kept else [])


def test_a_term_counts_only_in_the_passages_that_have_it(endpoint, config):
    one, two = "Mira Voss came.", "Nobody came."
    (found,) = merged(
        endpoint, config, (one, [entry("Mira Voss", "Anna Moss")]), (two, [entry("Mira Voss", "Eve Ash")])
    )
    assert found.translations == ("Anna Moss",) and found.why.endswith("in 1 of 2 passages")


def test_translations_bring_back_neither_terms_nor_the_texts_names(endpoint, config):
    text = "Mira Voss met Captain Hale of Orrin. Hale frowned. The Golden Gate was shut; gold is gold."
    found = merged(
        endpoint,
        config,
        (
            text,
            [
                entry(
                    "Mira Voss", "Mira Voss", "mira voss", "Anna of Orrin", "Hale", "Anna Hale", "Golden Gate", "Anna"
                ),
                entry("Orrin", "Captain Hale", "  Alder \n Town", "", "\u0000", "gold", "Captain Gate", "\ud800"),
                entry("Hale", "hale"),
            ],
        ),
    )
    assert {each.term: each.translations for each in found} == {
        "Mira Voss": ("Anna",),
        "Orrin": ("Alder Town", "gold", "Captain Gate"),
    }


def test_the_result_is_a_dictionary_that_can_be_saved(endpoint, config, tmp_path):
    found = ask_language_model([document("Mira Voss came to Orrin.")], config())
    Anchors(found).save(tmp_path / "anchors.json")
    assert list(Anchors.load(tmp_path / "anchors.json")) == found and len(found) == 2


# --- a model in a folder ----------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for each in messages %}<s>{{ each.role }}: {{ each.content }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return folders.model_folder(tmp_path_factory.mktemp("llm") / "tiny-model", max_position_embeddings=4096)


def local(folder: Path, tmp_path: Path, **changes: Any) -> LanguageModelConfig:
    usual = {"source": folder, "cache": tmp_path / "cache", "answer_tokens": 8, "retries": 1}
    return LanguageModelConfig(**{**usual, **changes})


def test_a_model_that_writes_no_json_ends_in_the_clear_error(folder, tmp_path):
    with pytest.raises(InputError) as caught:
        ask_language_model(book(1), local(folder, tmp_path))
    assert str(caught.value).startswith(
        "wanted a JSON object with anchors from tiny-model; got none in 2 attempts at character 0 of 0; of the last "
        "answer: it "
    )
    assert "; it was cut off, and must be shorter; ask a more capable model" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_folders_model_is_asked_greedily_by_its_template(folder, tmp_path, monkeypatch, template):
    from generic_logits.models import pair

    tokenizer = pair.load_tokenizer(folder)
    tokenizer.chat_template = template
    monkeypatch.setattr(pair, "load_tokenizer", lambda source: tokenizer)
    model = pair.load_model(folder)
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.5, top_k=3)
    monkeypatch.setattr(pair, "load_model", lambda source, **options: model)
    calls: list[tuple[str, dict[str, Any]]] = []
    answers = ["no", json.dumps(ANSWER)]

    def generate(ids: Any, **options: Any) -> Any:
        calls.append((tokenizer.decode(ids[0]), options))
        written = type(model).generate(model, ids, **options)
        assert written.shape == (1, ids.shape[1] + 8)
        new = tokenizer(answers[len(calls) - 1], add_special_tokens=False, return_tensors="pt")["input_ids"]
        return ids.new_tensor([[*ids[0].tolist(), *new[0].tolist()]])

    monkeypatch.setattr(model, "generate", generate)
    (found,) = ask_language_model(book(1), local(folder, tmp_path))
    assert found.why == "language model tiny-model: proposed in 1 of 1 passages"
    (first, options), (second, _) = calls
    assert options["do_sample"] is False and options["max_new_tokens"] == 8
    assert first.startswith("<s>user: Below is" if template else "<s>Below is")
    assert first.endswith("---->" if template else "----\n\nThe JSON object:\n")
    assert "it holds no JSON object" in second
    ask_language_model(book(1), local(folder, tmp_path))
    assert len(calls) == 2  # the cache


def test_another_model_in_the_same_place_is_another_model(tmp_path):
    place = folders.model_folder(tmp_path / "model")
    one = language_model._model(local(place, tmp_path))
    tiny.folder(place, tiny.model(seed=1, vocab_size=folders.VOCAB).float())
    two = language_model._model(local(place, tmp_path))
    assert one.name == two.name == "model" and one.identity != two.identity


def test_a_folders_dry_run_counts_by_its_tokenizer(folder, tmp_path):
    config = local(folder, tmp_path)
    cost = estimate_cost(book(2), config)
    words = tiny.tokenizer(folders.VOCAB)
    prompts = [language_model._prompt(each.text.strip(), config) + "\n\nThe JSON object:\n" for each in book(2)]
    assert cost["prompt_tokens"] == sum(len(words(each, add_special_tokens=False)["input_ids"]) + 1 for each in prompts)
    assert cost["counted_by"] == f"tokenizer of {folder}" and cost["answer_tokens"] == 16 and cost["to_ask"] == 2


def test_a_prompt_beyond_the_context_is_told(tmp_path):
    place = folders.model_folder(tmp_path / "model", max_position_embeddings=64)
    with pytest.raises(
        InputError, match="wanted prompts shorter than the model's context of 64 tokens; got one of .* tok"
    ):
        ask_language_model(book(1), local(place, tmp_path))


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(ModelError, match="nothing at ./nowhere; check the path"):
        ask_language_model(book(1), local(Path("./nowhere"), tmp_path, source="./nowhere"))
