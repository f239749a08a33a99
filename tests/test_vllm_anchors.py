"""A real vLLM server as the model that is asked for anchors, grades, wordings and questions.

Its structured output, its refusals, its key.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import engines
import folders
import jsonschema
import pytest
import tiny
from endpoints import free_port
from test_vllm_serve import TEMPLATE, server

from generic_logits import _endpoint as client
from generic_logits._respondent import Form, Question, Respondent
from generic_logits.discovery.language_model import LanguageModelConfig, ask_language_model, estimate_cost
from generic_logits.discovery.proposals import answer_schema
from generic_logits.errors import InputError
from generic_logits.evaluation.judge import ModelJudge
from generic_logits.evaluation.writer import Writer
from generic_logits.text.corpus import Document
from generic_logits.text.prompts import Prompt

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.timeout(600),
]
KEY = "a-key"
OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "4096", "--max-num-seqs", "4"]
COMPACT = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """A server of a random model that speaks where the grammar lets it, and wants a key."""
    root = tmp_path_factory.mktemp("anchors")
    (root / "template.jinja").write_text(TEMPLATE)
    tiny.folder(root / "model", engines.model(max_position_embeddings=4096), tiny.tokenizer(folders.VOCAB))
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "model", *OPTIONS, *COMPACT]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, "--chat-template", "template.jinja"]
    with server([*command, "--served-model-name", "tiny"], port, root):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def config(url, tmp_path, monkeypatch) -> Callable[..., LanguageModelConfig]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)

    def make(**changes: Any) -> LanguageModelConfig:
        usual = {"source": url, "cache": tmp_path / "cache", "translations": 2, "terms": 2, "answer_tokens": 800}
        return LanguageModelConfig(**{**usual, "passage_characters": 300, "retries": 0, **changes})

    return make


def book(sentences: int = 8) -> list[Document]:
    return [Document("book.txt", folders.prose(sentences), "")]


def answers(config: LanguageModelConfig) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["answer"] for file in config.cache_folder.glob("*.json")]


def test_a_random_model_held_to_the_schema_invents_terms_and_none_is_believed(config):
    settings = config()
    passages = estimate_cost(book(), settings)["passages"]
    assert passages > 1
    assert ask_language_model(book(), settings) == []
    found = answers(settings)
    assert len(found) == passages
    for answer in found:
        jsonschema.validate(answer, answer_schema(translations=2, terms=2))
    invented = [entry["term"] for answer in found for entry in answer["anchors"]]
    assert invented and not any(term in book()[0].text for term in invented)
    cost = estimate_cost(book(), settings)
    assert (cost["model"], cost["cached"], cost["to_ask"]) == ("tiny", passages, 0)
    assert ask_language_model(book(), config(source="http://127.0.0.1:9/v1", model="tiny")) == []  # the cache alone


def test_without_the_schema_the_same_model_writes_nothing_of_use(config, monkeypatch):
    real = client.Endpoint.__init__

    def without(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        del self._options["response_format"]

    monkeypatch.setattr(client.Endpoint, "__init__", without)
    with pytest.raises(InputError, match="wanted a JSON object with anchors from tiny; got none in 2 attempts"):
        ask_language_model(book(1), config(retries=1, answer_tokens=50))


def test_a_passage_beyond_the_servers_context_is_told(config):
    with pytest.raises(
        InputError, match=r"got HTTP 400: .*context length.*; take shorter passages or fewer answer tokens"
    ):
        ask_language_model(book(400), config(passage_characters=20_000))


def test_another_models_name_is_told(config):
    with pytest.raises(InputError, match="got HTTP 404: The model `other` does not exist.*; check the address, which"):
        ask_language_model(book(1), config(model="other"))


@pytest.mark.parametrize(("key", "remedy"), [("", "set OPENAI_API_KEY"), ("wrong", "check OPENAI_API_KEY")])
def test_the_servers_key_is_asked_for(config, monkeypatch, key, remedy):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for model in (None, "tiny"):
        with pytest.raises(InputError, match=f"got HTTP 401: Unauthorized; {remedy}"):
            ask_language_model(book(1), config(model=model))


# Grades, wordings, questions

PLACES = (
    "By the sea, at the lighthouse, there waited",
    "Nobody had seen",
    "On the last page stood",
    "The bell rang for",
)
PROMPTS = [Prompt(place, " Mira Voss") for place in PLACES]


@pytest.fixture
def asked(url, tmp_path, monkeypatch) -> dict[str, Any]:
    """Whom to ask and where to keep it; the second attempt is made without the schema and would only cost time."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    return {"address": url, "cache": tmp_path / "cache", "retries": 0}


@pytest.fixture
def held(monkeypatch) -> list[dict[str, Any]]:
    """The options of each request that the server took."""
    taken: list[dict[str, Any]] = []
    real = client.Endpoint._chat

    async def chat(self: Any, *arguments: Any) -> Any:
        reply = await real(self, *arguments)
        taken.append(self._options["response_format"]["json_schema"])
        return reply

    monkeypatch.setattr(client.Endpoint, "_chat", chat)
    return taken


def kept(asked: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in asked["cache"].glob("*.json")]


def test_a_random_model_held_to_the_schema_grades(asked, held):
    judge = ModelJudge(about="a book", terms=["Orrin"], answer_tokens=800, **asked)
    grades = judge.grade(["Nobody had seen", "By the sea"], [" Orrin", " nobody"])
    assert judge.name == "tiny" and {*grades} <= {0, 1, 2, 3} and len(held) == 2
    assert all(each["name"] == "grade" and "maxLength" in str(each["schema"]) for each in held)
    assert sorted(each["answer"]["grade"] for each in kept(asked)) == sorted(grades)
    again = ModelJudge(about="a book", terms=["Orrin"], **{**asked, "address": "http://127.0.0.1:9/v1"}, model="tiny")
    assert again.grade(["Nobody had seen"], [" Orrin"]) == grades[:1]  # the cache alone


def test_a_random_model_held_to_the_schema_writes_wordings(asked, held):
    writer = Writer(**asked)
    for kind, written in (
        ("paraphrase", writer.paraphrase(PROMPTS)),
        ("translation", writer.translate(PROMPTS, "German")),
    ):
        of_kind = [each for each in held if each["name"] == kind]
        assert len(of_kind) == 4 and all("maxLength" in str(each["schema"]) for each in of_kind)
        answers = [each["answer"] for each in kept(asked) if each["instructions"] == kind]
        assert len(answers) == len(written.prompts) == 4 - written.left_out
        for answer in answers:
            properties = of_kind[0]["schema"]["properties"]
            assert answer.keys() == properties.keys()
            # Bytes that are no UTF-8 become several characters, which the grammar did not count.
            assert all(0 < len(text) < 1.5 * properties[name]["maxLength"] for name, text in answer.items())
        assert all(each.prompt and each.target.strip() for each in written.prompts)


def test_no_question_of_a_random_model_is_believed(asked, held):
    with pytest.raises(
        InputError, match="^wanted questions from tiny; got none of 2 .*; of the last answer: the (ans|que)"
    ):
        Writer(**asked).question(folders.prose(40), 2)
    assert len(held) == 2 and {each["name"] for each in held} == {"question"} and not kept(asked)


def test_the_schemas_without_limits_are_taken_too(asked, held, monkeypatch):
    form = Form("grade", {"grade": {"type": "integer", "enum": [0, 1]}})
    (answer,) = Respondent(**asked).ask([Question("Which one?", {"question": "Which one?"})], form)
    assert answer in ({"grade": 0}, {"grade": 1}) and held[0]["schema"] == form.schemas()[-1]
