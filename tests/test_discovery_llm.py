"""Anchors from a language model behind an endpoint or in a folder: what is asked, what is kept, what goes on later."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import folders
import jsonschema
import pytest
import tiny
from endpoints import (
    ANSWER,
    NAMES,
    Answer,
    book,
    cached,
    document,
    entry,
    fault,
    prompt_of,
)

from generic_logits import _answers
from generic_logits.discovery import language_model
from generic_logits.discovery.language_model import LanguageModelConfig, ask_language_model, estimate_cost
from generic_logits.discovery.proposals import PROMPT_VERSION, answer_schema
from generic_logits.errors import InputError, ModelError, OutputError, StorageError
from generic_logits.text.anchors import Anchors


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

    monkeypatch.setattr(_answers.os, "replace", full)
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
    from generic_logits.models import loading

    tokenizer = loading.load_tokenizer(folder)
    tokenizer.chat_template = template
    monkeypatch.setattr(loading, "load_tokenizer", lambda source: tokenizer)
    model = loading.load_model(folder)
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.5, top_k=3)
    monkeypatch.setattr(loading, "load_model", lambda source, **options: model)
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
