"""A model behind an HTTP endpoint: every fault it can have, and everything that it may refuse."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from endpoints import ANSWER, NAMES, Answer, book, cached, fault, free_port, prompt_of

from generic_logits import _endpoint as client
from generic_logits.discovery.language_model import ask_language_model, estimate_cost
from generic_logits.discovery.proposals import answer_schema
from generic_logits.errors import InputError


def test_the_key_comes_from_the_environment_and_the_name_from_the_endpoint(endpoint, config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (found,) = ask_language_model(book(1), config())
    assert endpoint.keys == ["Bearer secret"] and endpoint.listed == 1
    assert endpoint.questions[0]["model"] == "tiny" and found.why.startswith("language model tiny: ")
    assert "secret" not in repr(config())
    assert all("secret" not in file.read_text() for file in config().cache_folder.iterdir())


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
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.2)
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
    port = free_port()
    url = f"http://me:secret@127.0.0.1:{port}/v1"
    with pytest.raises(InputError) as caught:
        ask_language_model(book(1), config(source=url, model=model))
    assert str(caught.value).startswith(f"wanted an endpoint at http://127.0.0.1:{port}/v1; got ")
    assert str(caught.value).endswith("; start it, or check the address")


def test_an_endpoint_that_goes_away_is_asked_again_before_it_is_given_up(endpoint, config, monkeypatch):
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.5)

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
        InputError, match=r"got HTTP 400: the content filter was triggered x+ \.\.\. x+; mend what it"
    ) as caught:
        ask_language_model(book(1), config())
    assert len(endpoint.questions) == 3 and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_refusal_of_one_passage_changes_nothing_for_the_next(endpoint, config):
    endpoint.script = lambda number, body: fault(400, "filtered") if f"to {NAMES[0]}" in prompt_of(body) else Answer()
    with pytest.raises(InputError, match="filtered"):
        ask_language_model(book(2), config(concurrency=2))
    other = [each for each in endpoint.questions if f"to {NAMES[1]}" in prompt_of(each)]
    assert all("response_format" in each for each in other)


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
