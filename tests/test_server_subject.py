"""A model behind a server as the subject of measures, and servers with faults; `test_vllm_serve.py` asks a real one."""

from __future__ import annotations

import threading
import time
from typing import Any

import folders
import pytest
import tiny
from endpoints import Answer, fault, free_port

from generic_logits import _endpoint as client
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation.candidates import server
from generic_logits.evaluation.subject import ServerSubject

PROMPTS = ["Mira Voss wrote down every word of", "the old house by the sea had", "a good story needs"]


def subject(endpoint: Any, **options: Any) -> ServerSubject:
    return ServerSubject("served", endpoint.url, tokenizer=tiny.tokenizer(), retries=0, **options)


def completions(endpoint: Any, answer: Any) -> None:
    endpoint.path = "/v1/completions"
    endpoint.script = lambda number, body: answer(body) if callable(answer) else answer


def text(body: dict[str, Any]) -> Answer:
    return Answer(body={"choices": [{"text": f"{body['prompt'][1]} {body.get('seed')}"}]})


def test_prompts_are_sent_as_tokens_and_answered_in_their_order(endpoint):
    completions(endpoint, text)
    asked = subject(endpoint)
    firsts = [asked.tokenizer(each, add_special_tokens=False)["input_ids"][0] for each in PROMPTS]
    assert asked.complete(PROMPTS, new_tokens=5) == [f"{first} None" for first in firsts]
    assert {body["max_tokens"] for body in endpoint.questions} == {5}
    assert {body["prompt"][0] for body in endpoint.questions} == {tiny.BOS}
    assert all("vllm_xargs" not in body for body in endpoint.questions)


def test_equal_prompts_are_sampled_with_seeds_of_their_own(endpoint):
    completions(endpoint, text)
    written = subject(endpoint).complete(["the"] * 3, new_tokens=5, temperature=1.0, seed=7)
    assert [each.split()[1] for each in written] == ["7", "8", "9"]


def test_alpha_goes_with_every_request(endpoint):
    completions(endpoint, text)
    subject(endpoint, alpha=3.0).complete(PROMPTS, new_tokens=5)
    assert [body["vllm_xargs"] for body in endpoint.questions] == [{"generic_alpha": 3.0}] * 3


@pytest.mark.parametrize(
    "answer",
    [
        fault(400, "echo is not supported"),
        Answer(body={"choices": [{"text": "", "logprobs": None}]}),
        Answer(body={"choices": [{"text": "", "logprobs": {"token_logprobs": [None, -1.0]}}]}),
    ],
    ids=["refused", "without", "too few"],
)
def test_a_server_that_gives_no_log_probabilities_is_named(endpoint, answer):
    completions(endpoint, answer)
    with pytest.raises(MeasureError, match="wanted log-probabilities of given tokens from http"):
        subject(endpoint).log_probs([[1, 5, 6, 7]])


def test_a_prompt_that_is_refused_is_not_measured(endpoint):
    completions(endpoint, fault(400, "prompt is too odd"))
    with pytest.raises(MeasureError, match="wanted completions from http.*prompt is too odd"):
        subject(endpoint).complete(PROMPTS, new_tokens=5)


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_fails_is_an_error_and_no_result(endpoint, status):
    completions(endpoint, fault(status, "out of order"))
    asked = subject(endpoint)
    for ask in (lambda: asked.complete(PROMPTS, new_tokens=5), lambda: asked.log_probs([[1, 5, 6]])):
        with pytest.raises(InputError, match="out of order") as caught:
            ask()
        assert not isinstance(caught.value, MeasureError)


def test_several_models_want_a_name_and_a_wrong_name_is_refused(endpoint):
    endpoint.models = ["one", "two"]
    with pytest.raises(InputError, match="one, two to choose from; name the model"):
        subject(endpoint)
    with pytest.raises(InputError, match="wanted a model named three .* got one, two"):
        subject(endpoint, served="three")
    assert subject(endpoint, served="two").served == "two"


def test_a_served_name_without_a_tokenizer_is_refused(endpoint):
    with pytest.raises(InputError, match="the tokenizer of the served model tiny; got none .*--tokenizer"):
        ServerSubject("served", endpoint.url)


def test_without_the_hub_a_served_name_is_refused_at_once(endpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(InputError, match="none by that name here, and a hub that does not answer; .*--tokenizer"):
        ServerSubject("served", endpoint.url)
    with pytest.raises(InputError, match="wanted a model named another"):
        ServerSubject("served", endpoint.url, served="another")
    assert time.monotonic() - began < 5
    endpoint.roots = {"tiny": str(folders.model_folder(tmp_path / "model"))}
    assert len(ServerSubject("served", endpoint.url).tokenizer) == folders.VOCAB


def test_nobody_there_is_said(endpoint):
    threading.Thread(target=endpoint.close).start()
    with pytest.raises(InputError, match="wanted an endpoint at .*; start it, or check the address"):
        ServerSubject("served", "http://127.0.0.1:9/v1", tokenizer=tiny.tokenizer())


def test_the_tokenizer_comes_from_where_the_server_says_that_the_model_came_from(endpoint, tmp_path):
    endpoint.roots = {"tiny": str(folders.model_folder(tmp_path / "model"))}
    assert ServerSubject("served", endpoint.url).tokenizer.get_vocab() == tiny.tokenizer().get_vocab()


@pytest.mark.parametrize(
    "body",
    [
        Answer().body,
        {"data": [{"name": "tiny"}]},
        {"data": "tiny"},
        {"object": "list"},
        [],
        "tiny",
        "<html>Hello</html>",
    ],
    ids=str,
)
def test_somebody_else_at_the_address_is_said_at_once(endpoint, body, monkeypatch):
    monkeypatch.setattr(client, "_FIRST_WAIT", 60)
    endpoint.everywhere = Answer(body=body)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        ServerSubject("served", endpoint.url, tokenizer=tiny.tokenizer())
    message = f"wanted an OpenAI-compatible server at {endpoint.url}; got not the JSON that belongs to /models: "
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; check the address, which usually ends in /v1")
    assert endpoint.listed == 1 and time.monotonic() - began < 5


@pytest.mark.parametrize("terminal", [True, False])
def test_at_a_terminal_it_is_said_that_an_answer_is_waited_for(endpoint, monkeypatch, capsys, terminal):
    monkeypatch.setattr(client, "_SILENCE", 0.3)
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.2)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    endpoint.path = "/v1/completions"
    endpoint.script = lambda number, body: text(body) if number > 4 else fault(503, "loading")
    served = ServerSubject("served", endpoint.url, tokenizer=tiny.tokenizer())
    assert served.complete(PROMPTS[:1], new_tokens=5)
    lines = capsys.readouterr().err.splitlines()
    assert {*lines} == ({f"{endpoint.url}: HTTP 503: loading; asked again"} if terminal else set())
    assert len(lines) < 4


def test_a_candidates_fingerprint_is_what_its_server_says_of_itself(endpoint, tmp_path):
    endpoint.roots = {"tiny": str(folders.model_folder(tmp_path / "model"))}
    met = [server("served", endpoint.url).meet() for _ in range(2)]
    assert met[0].fingerprint == met[1].fingerprint != server("served", endpoint.url).fingerprint
    folders.model_folder(tmp_path / "model", seed=1)
    met.append(server("served", endpoint.url).meet())
    endpoint.roots = {"tiny": str(folders.model_folder(tmp_path / "other"))}
    met.append(server("served", endpoint.url).meet())
    endpoint.models, endpoint.roots = ["new"], {"new": endpoint.roots["tiny"]}
    met.append(server("served", endpoint.url).meet())
    assert len({each.fingerprint for each in met}) == 4
