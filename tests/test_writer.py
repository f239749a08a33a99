"""The model that writes: what it is told, which answers are taken, what is left out, and the files that come of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import folders
import pytest
import tiny
import torch
from endpoints import Answer, Endpoint, fault, prompt_of

from generic_logits.cli import main
from generic_logits.errors import InputError
from generic_logits.evaluation import writer as module
from generic_logits.evaluation.material import Counts, Material, gather_material
from generic_logits.evaluation.report import Report
from generic_logits.evaluation.writer import LANGUAGES, Writer, Written, write_material
from generic_logits.text.prompts import Prompt, load_prompts

TERMS = ("Mira Voss", "Captain Hale", "Orrin")
PROMPT = Prompt("By the sea, at the lighthouse, there waited", " Mira Voss")
OTHER = Prompt("Nobody was as afraid of the bell as", " Orrin")


def parts_of(body: dict[str, Any]) -> list[str]:
    """What stands between the lines of an instruction."""
    return re.findall(r"----\n(.*?)\n----", prompt_of(body), re.DOTALL)


def scripted(number: int, body: dict[str, Any]) -> Answer:
    """A writer that does what it is told, with the same few words."""
    said = prompt_of(body)
    if "You ask one question" in said:
        (passage,) = parts_of(body)
        words = passage.split()
        return Answer({"question": f"Which word comes first in number {len(passage)}?", "answer": words[0].strip(".")})
    prompt, target = parts_of(body)[0], parts_of(body)[-1]
    if "You rewrite" in said:
        return Answer({"prompt": f"In other words, {prompt}"})
    language = re.search(r"translate the beginning of a sentence into ([\w ]+)\.", said)
    assert language
    return Answer({"prompt": f"{language[1]}: {prompt}", "target": f"{target}a"})


@pytest.fixture
def server(endpoint) -> Endpoint:
    endpoint.script = scripted
    return endpoint


@pytest.fixture
def writer(server, tmp_path) -> Callable[..., Writer]:
    def make(**changes: Any) -> Writer:
        usual = {"cache": tmp_path / "cache", "retries": 2, "timeout": 30, "concurrency": 1}
        return Writer(server.url, **{**usual, **changes})

    return make


# What is asked


def test_a_paraphrase_is_asked_for_and_the_target_stays(server, writer):
    made = writer().paraphrase([PROMPT, OTHER])
    assert made == Written(
        (Prompt(f"In other words, {PROMPT.prompt}", " Mira Voss"), Prompt(f"In other words, {OTHER.prompt}", " Orrin")),
        0,
    )
    body = server.questions[0]
    assert parts_of(body) == [PROMPT.prompt, "Mira Voss"]
    held_to = body["response_format"]["json_schema"]
    assert held_to["name"] == "paraphrase" and [*held_to["schema"]["properties"]] == ["prompt"]
    assert held_to["schema"]["properties"]["prompt"]["maxLength"] > 2 * len(PROMPT.prompt)
    assert body["temperature"] == 0


def test_a_translation_brings_a_target_of_its_own(server, writer):
    made = writer().translate([PROMPT], "German")
    assert made.prompts == (Prompt(f"German: {PROMPT.prompt}", " Mira Vossa"),)
    assert [*server.questions[0]["response_format"]["json_schema"]["schema"]["properties"]] == ["prompt", "target"]
    assert prompt_of(server.questions[0]).count("German") >= 4


def test_questions_are_about_spread_passages_and_their_answers_stand_there(server, writer):
    text = folders.prose(200)
    made = writer().question(text, 5)
    assert len(made.prompts) == 5 and made.left_out == 0
    passages = [parts_of(body)[0] for body in server.questions]
    assert len({*passages}) == 5 and all(passage.split()[0] in text for passage in passages)
    places = [text.index(passage.strip()) for passage in passages]
    assert places == sorted(places) and places[-1] > len(text) / 2


@pytest.mark.parametrize("text", ["Braces {prompt} and {0}", "ends with ----", 'quotes "so" and \\n'])
def test_what_stands_in_a_prompt_is_text(server, writer, text):
    server.script = lambda number, body: Answer({"prompt": "quite other words for"})
    writer().paraphrase([Prompt(text, " {target}")])
    assert f"----\n{text}\n----" in prompt_of(server.questions[0])
    assert "----\n{target}\n----" in prompt_of(server.questions[0])


# What is kept


def test_nothing_is_asked_twice_and_everything_that_an_answer_depends_on_counts(server, writer, monkeypatch):
    def ask(**changes: Any) -> int:
        before = len(server.questions)
        prompts, language = changes.pop("prompts", [PROMPT]), changes.pop("language", "German")
        writer(**changes).translate(prompts, language)
        return len(server.questions) - before

    assert [ask(), ask()] == [1, 0]
    assert ask(prompts=[PROMPT, PROMPT, OTHER]) == 1
    assert ask(language="French") == 1 and ask(model="another") == 1
    assert ask(prompts=[replace(PROMPT, target=" Captain Hale")]) == 1
    monkeypatch.setattr(module, "INSTRUCTIONS_VERSION", module.INSTRUCTIONS_VERSION + 1)
    assert ask() == 1


def test_kinds_of_answers_share_a_folder_and_are_not_mixed_up(server, writer, tmp_path):
    writer().paraphrase([PROMPT])
    writer().translate([PROMPT], "German")
    writer().question("Mira Voss sang to a gull. " * 3, 1)
    kept = [json.loads(file.read_text()) for file in (tmp_path / "cache").iterdir()]
    assert sorted(each["instructions"] for each in kept) == ["paraphrase", "question", "translation"]
    assert all(each["model"] == "tiny" and "gull" not in json.dumps(each) for each in kept)


def test_without_a_folder_answers_lie_in_the_users_cache(server, writer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    writer(cache=None).paraphrase([PROMPT])
    assert len([*(tmp_path / "home" / "generic_logits" / "paraphrases").iterdir()]) == 1


def test_a_kept_answer_that_cannot_be_used_is_asked_for_again(server, writer, tmp_path):
    writer().paraphrase([PROMPT])
    (file,) = (tmp_path / "cache").iterdir()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "answer": {"prompt": "There waited Mira Voss and"}}))
    assert writer().paraphrase([PROMPT]).prompts[0].prompt.startswith("In other words") and len(server.questions) == 2


# Which answers are taken


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"prompt": "  ", "target": "Mira"}, "the beginning or the continuation is empty"),
        ({"prompt": "Am Meer wartete", "target": " "}, "the beginning or the continuation is empty"),
        ({"prompt": "by the SEA -- at the lighthouse there waited", "target": "Mira"}, "has the same words as the old"),
        ({"prompt": "Am Meer wartete MIRA Voß auf", "target": "Mira Voss"}, "holds 'Mira Voss', which must only come"),
        ({"prompt": "Am Meer wartete Mira Voss auf", "target": "Mira Foss"}, "holds 'Mira Voss', which must only come"),
        ({"prompt": "在海边米拉等着", "target": "米拉"}, "holds '米拉', which must only come"),
        ({"prompt": "Am Meer wartete ...", "target": "Mira"}, "goes on to the end of a sentence or leaves a gap"),
        ({"prompt": "Am Meer wartete ____", "target": "Mira"}, "goes on to the end of a sentence or leaves a gap"),
        ({"prompt": "„Am Meer.“", "target": "Mira"}, "goes on to the end of a sentence or leaves a gap"),
        ({"prompt": "the beginning in German", "target": "Mira"}, "the prompt is copied from the instruction"),
        ({"prompt": "Am Meer wartete"}, "'target' is a required property"),
        ("no JSON", "it holds no JSON object"),
    ],
)
def test_a_translation_that_is_none_is_asked_for_again_and_told_why(server, writer, answer, problem):
    server.script = lambda number, body: (
        Answer(answer) if number == 1 else Answer({"prompt": "Am Meer wartete", "target": "Mira Voss"})
    )
    assert writer().translate([PROMPT], "German").prompts == (Prompt("Am Meer wartete", " Mira Voss"),)
    assert len(server.questions) == 2 and problem in prompt_of(server.questions[1])


def test_a_word_that_only_holds_the_target_is_no_target(server, writer):
    server.script = lambda number, body: Answer({"prompt": "Die Hörrinnen sah vor dem", "target": "Orrin"})
    assert writer().translate([OTHER], "German").left_out == 0


@pytest.mark.parametrize(
    ("old", "prompt", "target", "expected"),
    [
        (PROMPT, "Am Meer wartete", "Mira Voss", " Mira Voss"),
        (PROMPT, "Am Meer wartete ", "  Mira Voss ", " Mira Voss"),
        (PROMPT, "在海边等着的是", "米拉", "米拉"),
        (PROMPT, "海で待っていたのは、", "Mira", "Mira"),
        (PROMPT, "바다에서 기다린 것은", "미라", " 미라"),
        (PROMPT, "Au bord de la mer, c'était l'", "amie", "amie"),
        (PROMPT, "Celle qui attendait s’", "appelait Mira", "appelait Mira"),
        (PROMPT, "This was the gulls'", "Mira", " Mira"),
        (PROMPT, "Elle a dit :", "Mira", " Mira"),
        (PROMPT, 'Die Antwort war "', "Mira", "Mira"),
        (PROMPT, 'Auf dem Schild "Nord" stand', "Mira", " Mira"),
        (PROMPT, "Am Meer („zu Hause“) wartete (", "Mira", "Mira"),
        (Prompt('She said "', "Mira Voss"), "Sie nannte den Namen", "Mira", " Mira"),
        (Prompt("She said", "Mira Voss"), "Sie sagte laut", "Mira", "Mira"),  # the user's own convention
        (Prompt("她说", "米拉"), "She said the name", "Mira", " Mira"),
    ],
)
def test_a_target_begins_with_a_space_where_one_belongs(server, writer, old, prompt, target, expected):
    server.script = lambda number, body: Answer({"prompt": prompt, "target": target})
    (made,) = writer().translate([old], "another").prompts
    assert made == Prompt(prompt.strip(), expected)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"question": "Who sang?", "answer": "Captain Hale"}, "'Captain Hale' does not stand in the passage"),
        ({"question": "Who sang?", "answer": "Mira Vos"}, "does not stand in the passage"),
        ({"question": "Did mira voss sing?", "answer": "Mira Voss"}, "the question holds its answer"),
        ({"question": "Who?", "answer": "Mira Voss sang to a gull by the sea, and a gull"}, "has more than 10 words"),
        ({"question": "an instruction to you.", "answer": "a gull"}, "the question is copied from the instruction"),
        ({"question": "", "answer": "Mira Voss"}, "the question or the answer is empty"),
        ({"question": "Who?", "answer": ""}, "the question or the answer is empty"),
    ],
)
def test_a_question_that_cannot_be_used_is_asked_for_again(server, writer, answer, problem):
    good = {"question": " Who sang to a gull? ", "answer": "mira voss"}
    server.script = lambda number, body: Answer(answer if number == 1 else good)
    made = writer().question("Mira Voss sang to a gull by the sea, and a gull sang to Mira Voss.", 1)
    assert made.prompts == (Prompt("Who sang to a gull?", "mira voss"),)
    assert problem in prompt_of(server.questions[1])


def test_what_fails_at_every_attempt_is_left_out_and_the_rest_is_there(server, writer):
    def script(number: int, body: dict[str, Any]) -> Answer:
        return Answer("no") if OTHER.prompt in prompt_of(body) else scripted(number, body)

    server.script = script
    made = writer().paraphrase([OTHER, PROMPT, OTHER])
    assert [each.target for each in made.prompts] == [" Mira Voss"] and made.left_out == 2
    assert len(server.questions) == 3 + 1
    assert writer().paraphrase([PROMPT]).left_out == 0 and len(server.questions) == 4


def test_where_nothing_is_left_it_is_an_error(server, writer):
    server.script = lambda number, body: Answer("no")
    with pytest.raises(
        InputError,
        match="^wanted translations into German from tiny; got none of 2 that can be used; of the last answer: it "
        "holds no JSON object; ask a more capable model, or give a file$",
    ):
        writer().translate([PROMPT, OTHER], "German")


def test_a_server_that_breaks_down_is_an_error_and_not_a_gap(server, writer):
    server.script = lambda number, body: scripted(number, body) if number == 1 else fault(500)
    with pytest.raises(InputError, match="got HTTP 500"):
        writer().paraphrase([PROMPT, OTHER])
    server.script = scripted
    writer().paraphrase([PROMPT, OTHER])
    assert len(server.questions) == 1 + 3 + 1


# The material


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("writer")
    made = tiny.model(dtype=torch.float32, vocab_size=folders.VOCAB, std=0.1)
    tiny.folder(root / "baseline", made, tiny.tokenizer(folders.VOCAB))
    folders.text_file(root / "forget.txt", folders.prose(60))
    entries = [{"term": term, "translations": ["Anna"]} for term in TERMS]
    (root / "anchors.json").write_text(json.dumps({"schema": 1, "anchors": entries}))
    return root


@pytest.fixture(scope="module")
def material(root) -> Material:
    return gather_material(root / "forget.txt", anchors=TERMS, counts=Counts(prompts=4, hints=3, passages=2))


def test_a_writer_adds_a_paraphrase_three_languages_and_questions(server, writer, material):
    told: list[str] = []
    made = write_material(material, writer(), tell=told.append)
    assert [*made.wordings] == ["paraphrase", *LANGUAGES] and told == []
    assert all(len(each) == 4 for each in made.wordings.values()) and len(made.questions) == 2
    assert {each["written_by"] for each in (*made.sources["wordings"].values(), made.sources["questions"])} == {"tiny"}
    assert made.fingerprint() != material.fingerprint()
    assert replace(made, wordings={}, questions=(), sources={}) == replace(material, sources={})


def test_what_was_given_is_not_written(server, writer, material):
    mine = [Prompt("Am Meer", " Orrin")]
    given = replace(material, wordings={"GERMAN": mine, "Paraphrase": mine}, questions=[Prompt("Who?", "Orrin")])
    made = write_material(given, writer(), languages=["German", "French"])
    assert [*made.wordings] == ["GERMAN", "Paraphrase", "French"] and made.wordings["GERMAN"] == mine
    assert made.questions == (Prompt("Who?", "Orrin"),) and len(server.questions) == 4


def test_what_is_not_wanted_is_not_written(server, writer, material):
    made = write_material(material, writer(), wordings=False)
    assert not made.wordings and len(made.questions) == 2 == len(server.questions)
    assert not write_material(material, writer(), questions=False, languages=["German"]).questions


def test_what_was_left_out_is_told_and_recorded(server, writer, material):
    first = material.prompts[0].prompt
    server.script = lambda number, body: (
        Answer("no") if parts_of(body)[0] == first and "French" in prompt_of(body) else scripted(number, body)
    )
    told: list[str] = []
    made = write_material(material, writer(), languages=["French"], tell=told.append)
    assert told == ["French: tiny gave no usable answer to 1 of 4, which are left out"]
    left_out = {name: each["left_out"] for name, each in made.sources["wordings"].items()}
    assert left_out == {"paraphrase": 0, "French": 1}


@pytest.mark.parametrize("languages", [["lower case"], ["German", "german"], ["Paraphrase"], ["German frame"]])
def test_a_language_with_a_name_that_is_taken_is_refused_before_anything_is_asked(server, writer, material, languages):
    with pytest.raises(InputError, match="^wanted a name of its own for each wording; got '.*', which is taken"):
        write_material(material, writer(), languages=languages)
    assert not server.questions


# The command


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def command(root: Path, output: Path, *words: str) -> list[str]:
    usual = ["--forget", str(root / "forget.txt"), "--anchors", str(root / "anchors.json"), "--quick"]
    return ["evaluate", str(root / "baseline"), *usual, "-o", str(output), *words]


@pytest.fixture
def written(server, root, tmp_path, monkeypatch) -> list[str]:
    """The words for a writer that has no paraphrase for the prompt it is asked about first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first: list[str] = []

    def script(number: int, body: dict[str, Any]) -> Answer:
        first.extend(parts_of(body)[:1] if not first else ())
        return (
            Answer("no") if parts_of(body)[0] == first[0] and "rewrite" in prompt_of(body) else scripted(number, body)
        )

    server.script = script
    return ["--attacks", "reword", "--writer", server.url, "--language", "German", "--language", "Old Norse"]


def test_the_command_asks_what_was_written_and_saves_it_to_be_mended(root, tmp_path, written, server, capsys):
    assert run(command(root, tmp_path / "out", *written)) == 0
    captured = capsys.readouterr()
    out = tmp_path / "out"
    prompts = load_prompts(out / "prompts.json")
    told, *parts = captured.err.splitlines()
    assert told == f"paraphrase: tiny gave no usable answer to 1 of {len(prompts)}, which are left out"
    assert all(line.startswith("[") for line in parts) and "questions" not in captured.out.partition("not measured")[2]
    assert sorted(file.name for file in out.glob("*.json")) == [
        *("hints.json", "prompts.json", "questions.json", "report.json"),
        *("wording-german.json", "wording-old-norse.json", "wording-paraphrase.json"),
    ]
    data = Report.load(out).data
    points = {point["x"]: point for point in data["attacks"]["reword"]["curves"]["baseline"]}
    assert [*points][-3:] == ["paraphrase", "German", "Old Norse"]
    assert [points[name]["count"] for name in ("paraphrase", "German")] == [len(prompts) - 1, len(prompts)]
    assert data["figures"]["baseline"]["knowmem_rouge_l"]["count"] == len(load_prompts(out / "questions.json"))
    assert data["sources"]["wordings"]["Old Norse"]["written_by"] == "tiny"
    for text in ("Old Norse", "paraphrase"):
        assert text in Report.load(out).markdown() and text in (out / "report.html").read_text()

    mended = load_prompts(out / "wording-german.json")[:3]
    (out / "wording-german.json").write_text(json.dumps([vars(each) for each in mended]))
    asked = len(server.questions)
    again = ["--attacks", "reword", "--questions", str(out / "questions.json")]
    for name in ("German", "Old Norse", "paraphrase"):
        again += ["--wordings", f"{name}={out / f'wording-{name.casefold().replace(chr(32), chr(45))}.json'}"]
    assert run(command(root, tmp_path / "again", *again)) == 0
    second = Report.load(tmp_path / "again").data
    curve = {point["x"]: point for point in second["attacks"]["reword"]["curves"]["baseline"]}
    assert curve["German"]["count"] == 3 and len(server.questions) == asked
    assert {**curve, "German": 0} == {**points, "German": 0}
    assert second["sources"]["wordings"]["German"]["file"] == str(out / "wording-german.json")


def test_without_the_attack_only_questions_are_written(root, tmp_path, written, server, capsys):
    assert run(command(root, tmp_path / "out", "--no-attacks", "--writer", server.url)) == 0
    assert all(line.startswith("[") for line in capsys.readouterr().err.splitlines()), "nothing of the writer"
    assert {"You ask one question" in prompt_of(body) for body in server.questions} == {True}
    assert not [*(tmp_path / "out").glob("wording-*")] and (tmp_path / "out" / "questions.json").exists()


@pytest.mark.parametrize("named", [[], ["--writer-model", "one"]])
def test_a_writer_that_cannot_be_reached_is_told_before_a_model_is_loaded(root, tmp_path, monkeypatch, capsys, named):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("generic_logits.evaluation.candidates.load_model", None)
    assert run(command(root, tmp_path / "out", "--writer", "http://127.0.0.1:9/v1", *named)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: wanted an endpoint at http://127.0.0.1:9/v1; got ") and err.count("\n") == 1
    assert not [*tmp_path.glob("out*")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wordings", "spanish.json"], "wanted --wordings NAME=FILE; got 'spanish.json'; write it as Spanish="),
        (["--wordings", "=spanish.json"], "wanted --wordings NAME=FILE; got '=spanish.json'"),
        (["--wordings", "Spanish="], "wanted --wordings NAME=FILE; got 'Spanish='"),
        (["--wordings", "Spanish=none.json"], "wanted a prompt file; got none.json: No such file"),
        (["--wordings", "Lower  Case=a.json"], "wanted a name of its own for each wording; got 'Lower Case', which"),
        (
            ["--wordings", "as it is=a.json"],
            "wanted a name of its own for each wording; got 'as it is', which is taken",
        ),
        (["--wordings", "German frame=a.json"], "got 'German frame', which is taken; choose another"),
        (["--wordings", "A=a.json", "--wordings", "A=b.json"], "wanted a name of its own for each of --wordings; got"),
        (["--wordings", "A=a.json", "--wordings", "a!=b.json"], "wanted a name of its own for each wording; got 'a!'"),
        (["--wordings", "?=a.json"], "wanted a word or two as the name of a wording; got '?'"),
        (["--wordings", f"{'x' * 61}=a.json"], "wanted a word or two as the name of a wording; got 'xxx"),
        (
            ["--wordings", "A=a.json", "--no-attacks"],
            "wanted the attack reword beside --wordings; got --wordings alone",
        ),
        (["--writer", "nowhere"], "wanted the address of an endpoint"),
        (["--writer", "http://127.0.0.1:9/v1", "--language", "X", "--attacks", "hint"], "wanted the attack reword"),
    ],
)
def test_bad_input_is_answered_in_one_line(root, tmp_path, capsys, words, message):
    assert run(command(root, tmp_path / "out", *words)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err, err
    assert not [*tmp_path.iterdir()]
