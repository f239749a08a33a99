"""The command: its help, its answers, one line for every bad input, and what it shows in a terminal."""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import folders
import pytest
import tiny
import torch
from transformers import LlamaForCausalLM

from generic_logits import ModelPair, ReinforceConfig, reinforce
from generic_logits.cli import COMMANDS, main
from generic_logits.text.anchors import Anchor, Anchors
from generic_logits.training.distillation import DistillConfig
from generic_logits.training.targets import TargetsConfig, compute_targets
from generic_logits.training.unlearning import UnlearnConfig

TRAIN = ["--epochs", "1", "--block-size", "32", "--batch-size", "8", "--lora-rank", "2"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PYTHONWARN")},
    **{"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TERM": "xterm-256color"},
    "COLUMNS": "100",
}


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Every folder and file that a good or a bad command line could name."""
    root = tmp_path_factory.mktemp("cli")
    folders.text_file(root / "book.txt", folders.prose(8))
    folders.text_file(root / "others" / "kept.md", folders.prose(4, seed=1))
    folders.model_folder(root / "baseline")
    words = tiny.tokenizer(folders.VOCAB + 20)
    folders.model_folder(root / "other-words", words=words, vocab_size=folders.VOCAB + 20)
    folders.model_folder(root / "other-base", tie_word_embeddings=True)
    tiny.folder(root / "no-words", tiny.model(dtype=torch.float32, vocab_size=folders.VOCAB))
    tiny.folder(root / "t5", tiny.encoder_decoder(), tiny.tokenizer(folders.VOCAB))
    (root / "no-weights").mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (root / "no-weights" / file).write_bytes((root / "baseline" / file).read_bytes())
    config = ReinforceConfig(epochs=4, block_size=32, learning_rate=2e-2, lora_rank=4)
    reinforce(root / "baseline", root / "book.txt", root / "reinforced", config=config)
    shutil.copytree(root / "baseline", root / "baseline-again")
    shutil.copytree(root / "baseline", root / "cut-off")
    (root / "cut-off" / "model.safetensors").write_bytes((root / "baseline" / "model.safetensors").read_bytes()[:5000])
    shutil.copytree(root / "reinforced", root / "bad-adapter")
    (root / "bad-adapter" / "adapter_config.json").write_text("{")
    shutil.copytree(root / "reinforced", root / "empty-adapter")
    (root / "empty-adapter" / "adapter_model.safetensors").unlink()
    folders.text_file(root / "mine.partial" / "keep.txt", "not a demo's")
    (root / "empty.txt").touch()
    folders.text_file(root / "blank" / "blank.txt", " \n")
    (root / "no-texts").mkdir()
    (root / "binary.txt").write_bytes(b"MZ\0\1")
    (root / "latin.txt").write_bytes("Wer hätte das gedacht?".encode("latin-1"))
    folders.text_file(root / "full" / "note.txt", "already here")
    Anchors([Anchor(term="Mira Voss", translations=("Anna Bell",))]).save(root / "anchors.json")
    folders.text_file(root / "prompts.json", json.dumps([{"prompt": "Mira Voss", "target": " opened"}]))
    folders.text_file(root / "no-prompts.json", json.dumps([{"prompt": "Mira Voss"}]))
    of_targets = {"reinforced": root / "reinforced", "config": TargetsConfig(block_size=32)}
    compute_targets(root / "baseline", root / "book.txt", root / "targets", **of_targets)
    folders.settle()
    return root


@pytest.fixture
def call(root, tmp_path, monkeypatch, capfd) -> Callable[..., Answer]:
    """Run a command line in this process, in an empty folder; @name stands for a file or folder of ``root``."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([re.sub(r"@([\w./-]+)", rf"{root}/\1", word) for word in words])
        printed = capfd.readouterr()
        return Answer(caught.value.code, printed.out, printed.err)

    return run


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "generic_logits", *words]


GENERATE = ["generate", "@baseline", "--reinforced", "@reinforced", "--max-new-tokens", "8"]
REINFORCE = ["reinforce", "@baseline", "@book.txt", "-o", "out", *TRAIN]
DISTILL = ["distill", "@baseline", "@book.txt", "--reinforced", "@reinforced", "-o", "out", *TRAIN]
LATER = ["distill", "@baseline", "--targets", "@targets", "-o", "out", *TRAIN[:2], *TRAIN[4:]]
TARGETS = ["targets", "@baseline", "@book.txt", "--reinforced", "@reinforced", "-o", "out", "--block-size", "32"]
UNLEARN = ["unlearn", "@baseline", "@book.txt", "--anchors", "@anchors.json", "-o", "out", *TRAIN]


def with_word(words: list[str], old: str, new: str) -> list[str]:
    assert old in words
    return [new if word == old else word for word in words]


# --- help -------------------------------------------------------------------------------------------------------------


def words_of(shown: str) -> str:
    """Text without boxes, line breaks and colours."""
    return " ".join(re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯─]", " ", shown).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_options_and_its_example(call, name):
    answer = call(name, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert words_of(COMMANDS[name].EXAMPLE) in words_of(answer.out)
    assert f"Usage: generic-logits {name}" in answer.out
    assert name == "serve" or ("--seed" in answer.out and "--json" in answer.out)  # it hands vLLM's own options on


def test_the_command_alone_and_with_help_lists_its_commands(call):
    assert {*COMMANDS} <= set(words_of(call("--help").out).split())
    alone = call()
    assert alone.status == 2 and {*COMMANDS} <= set(words_of(alone.out + alone.err).split())


def test_the_examples_work_as_they_stand(root, tmp_path, monkeypatch, capfd):
    for name in ("baseline", "book.txt", "others", "anchors.json"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    for name in ("reinforce", "generate", "distill", "targets"):
        example = COMMANDS[name].EXAMPLE
        program, *words = shlex.split(example.removeprefix("Example: "))
        assert example.startswith("Example: ") and (program, words[0]) == ("generic-logits", name)
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0 and not capfd.readouterr().err
    assert {"reinforced", "unlearned", "targets"} <= {file.name for file in tmp_path.iterdir()}


def test_the_example_of_unlearn_works_as_it_stands(root, tmp_path, monkeypatch, capfd):
    for name in ("baseline", "book.txt", "others"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(COMMANDS["unlearn"].EXAMPLE.removeprefix("Example: generic-logits "))
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    steps = [f"round-{number}: {step}" for number in (1, 2) for step in ("reinforce", "targets", "distill")]
    assert capfd.readouterr().err.splitlines() == ["anchors", *steps]
    assert {"anchors.json", "README.md", "model.safetensors"} <= {
        file.name for file in (tmp_path / "unlearned").iterdir()
    }


# --- generate ---------------------------------------------------------------------------------------------------------


def test_generate_prints_every_prompt_under_every_alpha_as_json(root, call):
    alphas = [word for alpha in ("0", "1", "2.5") for word in ("--alpha", alpha)]
    answer = call(*GENERATE, *alphas, "--json", "Mira Voss", "[/b] the old [red] door")
    results = json.loads(answer.out)
    assert (answer.status, answer.err) == (0, "")
    assert [each["prompt"] for each in results] == ["Mira Voss", "[/b] the old [red] door"]
    tokenizer = tiny.tokenizer(folders.VOCAB)
    pair = ModelPair.from_pretrained(root / "baseline", root / "reinforced", alpha=1.0)
    for each in results:
        texts = each["completions"]
        assert list(texts) == ["baseline", "alpha 0", "alpha 1", "alpha 2.5"]
        assert texts["alpha 0"] == texts["baseline"]
        ids = torch.tensor([[tiny.BOS, *tokenizer(each["prompt"])["input_ids"]]])
        for name, alpha in (("baseline", 0.0), ("alpha 1", 1.0), ("alpha 2.5", 2.5)):
            options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
            output = pair.with_alpha(alpha).generate(ids, **options)
            assert texts[name] == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert any(each["completions"]["alpha 2.5"] != each["completions"]["baseline"] for each in results)


def test_generate_prints_a_table_of_the_same_texts(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = [*GENERATE, "--alpha", "1", "--alpha", "4", "Mira [bold]Voss[/bold] [/x]"]
    plain, as_json = call(*words), call(*words, "--json")
    assert (plain.status, plain.err) == (0, "")
    assert "Mira [bold]Voss[/bold] [/x]" in plain.out and "\x1b" not in plain.out
    head = next(line for line in plain.out.splitlines() if "baseline" in line)
    assert [name.strip() for name in head.strip("┃│").split("┃")] == ["baseline", "alpha 1", "alpha 4"]
    for text in json.loads(as_json.out)[0]["completions"].values():
        assert text.split()[0] in plain.out


def test_generate_has_one_alpha_by_default(call):
    (result,) = json.loads(call(*GENERATE, "--json", "Mira").out)
    assert list(result["completions"]) == ["baseline", "alpha 2"]


def test_sampling_is_repeated_by_its_seed(call):
    def texts(*words: str) -> dict[str, str]:
        (result,) = json.loads(call(*GENERATE, "--json", "Mira", *words).out)
        return result["completions"]

    first = texts("--sample", "--seed", "5")
    assert texts("--sample", "--seed", "5") == first
    assert texts("--sample", "--seed", "6") != first and texts() != first
    assert texts("--sample", "--temperature", "0.0001") == texts()
    both = texts("--sample", "--seed", "5", "--alpha", "0")
    assert both["alpha 0"] == both["baseline"] == first["baseline"]


def test_generate_corrects_log_probabilities_and_thresholds_when_told(call):
    def texts(*words: str) -> list[str]:
        words = (*with_word(GENERATE, "8", "40"), "--json", "--alpha", "5", "Mira Voss", *words)
        (result,) = json.loads(call(*words).out)
        return list(result["completions"].values())

    (baseline, plain), normalised = texts(), texts("--space", "logprobs")
    assert texts("--threshold", "1000") == [baseline, baseline]
    assert len({baseline, plain, normalised[1]}) == 3


def test_ctrl_c_stops_generate_with_the_next_token(call, monkeypatch):
    steps: list[int] = []
    original = LlamaForCausalLM.forward

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", functools.wraps(original)(forward))
    answer = call(*with_word(GENERATE, "8", "400"), "Mira")
    assert (answer.status, answer.out) == (130, "") and len(steps) < 50


# --- the training commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind"),
    [(REINFORCE, "reinforced"), (DISTILL, "distilled"), (LATER, "distilled")],
    ids=["reinforce", "distill", "distill from targets"],
)
def test_training_prints_its_record_as_json_and_nothing_else(call, tmp_path, words, kind):
    answer = call(*words, "--json")
    printed = json.loads(answer.out)
    assert (answer.status, answer.err) == (0, "")
    assert printed.pop("output") == "out" and printed["kind"] == kind
    assert printed == json.loads((tmp_path / "out" / "generic_logits.json").read_text())


def test_training_prints_what_it_measured_as_a_table(call):
    answer = call(*DISTILL, "--retain", "@others")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("out, ") and "\x1b" not in answer.out
    for expected in ("baseline", "distilled", "perplexity forget", "perplexity retain"):
        assert expected in answer.out


def test_targets_prints_what_it_computed_as_json_or_as_a_table(root, call, tmp_path):
    words = [*TARGETS, "--anchors", "@anchors.json", "--retain", "@others", "--alpha", "2", "--alpha", "0.5"]
    answer = call(*words, "--json")
    printed = json.loads(answer.out)
    assert (answer.status, answer.err) == (0, "") and printed.pop("output") == "out"
    assert printed == json.loads((tmp_path / "out" / "targets.json").read_text())
    assert printed["alphas"] == [0.5, 2.0] and printed["draws"] == 3
    assert [each["file"] for each in printed["retain"]] == [str(root / "others" / "kept.md")]
    table = call(*with_word(words, "out", "out2"))
    assert (table.status, table.err) == (0, "") and "\x1b" not in table.out
    for expected in ("out2", "forget blocks", f"{printed['blocks']} x 3", "retained blocks", "0.5, 2", "megabytes"):
        assert expected in table.out


def test_stored_targets_are_learned_from(root, call, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    at_once = call(*DISTILL, "--retain", "@others", "--json")
    paths = ["--retain", "@others", "--alpha", "5", "--alpha", "1"]
    assert call(*with_word(TARGETS, "out", "elsewhere/targets"), *paths).status == 0
    later = call(*with_word(with_word(LATER, "@targets", "elsewhere/targets"), "out", "later"), "--json")
    assert (at_once.status, later.status, later.err) == (0, 0, "")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "later"))
    assert one == other
    ours, theirs = (json.loads(answer.out)["settings"] for answer in (at_once, later))
    assert ours == theirs


def test_a_corpus_may_come_from_standard_input(root, call, tmp_path, monkeypatch):
    assert call(*DISTILL).status == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((root / "book.txt").read_bytes())))
    answer = call(*with_word(with_word(DISTILL, "@book.txt", "-"), "out", "piped"))
    assert (answer.status, answer.err) == (0, "")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "piped"))
    assert one == other


def test_unlearn_reads_standard_input_once_for_all_its_steps(root, call, tmp_path, monkeypatch):
    assert call(*UNLEARN).status == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((root / "book.txt").read_bytes())))
    answer = call(*with_word(with_word(UNLEARN, "@book.txt", "-"), "out", "piped"), "--json")
    assert answer.status == 0, answer.err
    assert [each["file"] for each in json.loads(answer.out)["corpus"]] == ["standard input"]
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "piped"))
    assert one == other


def test_distill_goes_several_rounds(root, call, tmp_path):
    words = [*DISTILL, "--anchors", "@anchors.json", "--rounds", "2", "--later-alpha", "1.5", "--later-rate", "0.5"]
    answer = call(*words, "--learning-rate", "0.002", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert [each["settings"]["alpha"] for each in found["rounds"]] == [5.0, 1.5]
    assert [each["settings"]["learning_rate"] for each in found["rounds"]] == [0.002, 0.001]
    record = json.loads((root / "reinforced" / "generic_logits.json").read_text())
    assert found["settings"]["reinforce"] == record["settings"]
    assert found["reinforced"]["source"] == str(root / "reinforced")


def test_every_setting_of_unlearn_reaches_its_steps(call, tmp_path):
    both = {"learning_rate": 0.002, "batch_size": 3, "gradient_accumulation": 2, "block_size": 24}
    both |= {"lora_rank": 3, "save_steps": 7, "dtype": "float32", "seed": 11}
    targets = {"alpha": 1.5, "space": "logprobs", "threshold": 0.25, "offset": "original", "temperature": 1.5}
    targets |= {"ban": 3.0, "draws": 2, "tail": 0.1, "teacher_batch_size": 4}
    distilling = {
        "epochs": 2,
        "inside_weight": 2.0,
        "retain_weight": 0.5,
        "stop_familiarity": 1e-9,
        "stop_perplexity": 1e9,
    }
    rounds = {"rounds": 1, "later_alpha": 0.5, "later_rate": 0.3}
    options = {**both, **targets, **distilling, **rounds, "reinforce_epochs": 1}
    del options["later_alpha"], options["later_rate"]  # of which one round has no use
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--retain", "@others", "--prompts", "@prompts.json", "--full", "--hard", "--trainer", "weight_decay=0.5"]
    answer = call(*UNLEARN[:7], *words, "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)["settings"]
    trained = {**both, "full": True, "trainer_options": {"weight_decay": 0.5}}
    assert found["reinforce"] == {**trained, "epochs": 1}
    assert found["distill"] == {**trained, **targets, **distilling, "hard": True, "paper": False}
    assert {name: found[name] for name in rounds} == rounds


@pytest.mark.parametrize(
    ("command", "config"),
    [
        *(("reinforce", ReinforceConfig), ("targets", TargetsConfig), ("distill", DistillConfig)),
        *(("unlearn", DistillConfig), ("distill", UnlearnConfig), ("unlearn", UnlearnConfig)),
    ],
)
def test_a_command_has_the_defaults_of_the_python_function(command, config):
    options = {
        name: each.default
        for name, each in inspect.signature(
            importlib.import_module(f"generic_logits.cli.{command}").run
        ).parameters.items()
    }
    own = {each.name: each.default for each in fields(config)}
    differing = {"targets": {"alpha"}, "distill": {"rounds"}}  # may be repeated; one round is what its name says
    left_to_the_function = {name for name in ("draws", "rounds") if options.get(name, 0) is None}  # paper mode differs
    shared = (options.keys() & own.keys()) - differing.get(command, set()) - left_to_the_function
    assert len(shared) >= 2
    assert {name: options[name] for name in shared} == {name: own[name] for name in shared}


@pytest.mark.parametrize("command", ["targets", "distill", "unlearn"])
def test_paper_alone_makes_hard_labels_in_one_round_and_one_translation(call, command, tmp_path):
    words = {"targets": TARGETS, "distill": DISTILL, "unlearn": UNLEARN}[command]
    words = [word for word in words if word not in TRAIN[2:4]] + ["--block-size", "24", "--paper", "--json"]
    answer = call(*words)
    assert answer.status == 0, answer.err
    settings = json.loads(answer.out)["settings"]
    assert settings.get("rounds", 1) == 1
    settings = settings.get("distill", settings)
    assert (settings["paper"], settings["hard"], settings["draws"]) == (True, True, 1)


def test_every_setting_reaches_the_training(call, tmp_path):
    settings = {
        **{"epochs": 1, "learning_rate": 0.002, "batch_size": 3, "gradient_accumulation": 2, "block_size": 24},
        **{"lora_rank": 3, "save_steps": 7, "dtype": "float32", "seed": 11},
    }
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    more = ["--trainer", "weight_decay=0.5", "--trainer", "lr_scheduler_type=constant", "--full"]
    expected = {**settings, "full": True, "trainer_options": {"weight_decay": 0.5, "lr_scheduler_type": "constant"}}
    assert call("reinforce", "@baseline", "@book.txt", "-o", "out", *words, *more).status == 0
    assert json.loads((tmp_path / "out" / "generic_logits.json").read_text())["settings"] == expected
    own_settings = {"alpha": 1.5, "space": "logprobs", "threshold": 0.25, "offset": "original", "temperature": 1.5}
    own_settings |= {"ban": 3.0, "draws": 2, "tail": 0.1, "teacher_batch_size": 4, "retain_weight": 0.5}
    own_settings |= {"inside_weight": 2.0, "stop_familiarity": 1e-9, "stop_perplexity": 1e9}
    own = [word for name, value in own_settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    own += ["--hard", "--prompts", "@prompts.json", "--anchors", "@anchors.json", "--held-to", "@baseline-again"]
    retain = ["--retain", "@others", "--retain", "@others/kept.md"]
    paths = ["distill", "@baseline", "@book.txt", "--reinforced", "@reinforced", "-o", "out2"]
    assert call(*paths, *words, *more, *own, *retain).status == 0
    record = json.loads((tmp_path / "out2" / "generic_logits.json").read_text())
    assert record["settings"] == {**expected, **own_settings, "hard": True, "paper": False}
    assert len(record["retain"]) == 2
    assert record["anchors"]["file"].endswith("anchors.json") and record["prompts"]["file"].endswith("prompts.json")
    assert record["held_to"]["source"].endswith("baseline-again")


# --- bad input --------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[list[str], str]] = {
    # the model
    "no model": (with_word(REINFORCE, "@baseline", "./nowhere"), "nothing at ./nowhere; check the path"),
    "no model on the hub": (with_word(REINFORCE, "@baseline", "no-such/model"), "got no-such/model: "),
    "a file for a model": (with_word(REINFORCE, "@baseline", "@book.txt"), "wanted a causal language model; got "),
    "a folder without a model": (with_word(REINFORCE, "@baseline", "@others"), "wanted a causal language model; got "),
    "no weights": (with_word(REINFORCE, "@baseline", "@no-weights"), "wanted a causal language model; got "),
    "no tokenizer": (with_word(REINFORCE, "@baseline", "@no-words"), "wanted a model folder with its tokenizer; got "),
    "encoder-decoder": (with_word(REINFORCE, "@baseline", "@t5"), "wanted a decoder-only language model; got an enc"),
    "encoder-decoder to generate": (with_word(GENERATE, "@baseline", "@t5") + ["Mira"], "wanted a decoder-only lang"),
    "encoder-decoder to distill": (with_word(DISTILL, "@baseline", "@t5"), "wanted a decoder-only language model"),
    "encoder-decoder reinforced": (with_word(DISTILL, "@reinforced", "@t5"), "wanted a decoder-only language model"),
    "no reinforced": (with_word(DISTILL, "@reinforced", "./nowhere"), "nothing at ./nowhere; check the path"),
    "other words": (with_word(GENERATE, "@reinforced", "@other-words") + ["Mira"], "wanted one tokenizer for both mod"),
    "other words to distill": (with_word(DISTILL, "@reinforced", "@other-words"), "wanted one tokenizer for both mod"),
    "other base": (with_word(GENERATE, "@baseline", "@other-base") + ["Mira"], "it was trained on other weights; give"),
    "other base to distill": (with_word(DISTILL, "@baseline", "@other-base"), "it was trained on other weights; give"),
    "weights cut off": (with_word(REINFORCE, "@baseline", "@cut-off"), "wanted a causal language model; got "),
    "adapter damaged": (with_word(GENERATE, "@reinforced", "@bad-adapter") + ["Mira"], "wanted a folder with a LoRA"),
    "adapter empty": (
        with_word(GENERATE, "@reinforced", "@empty-adapter") + ["Mira"],
        "wanted a folder with a LoRA ad",
    ),
    # the demo's place
    "demo over a file": (["demo", "-o", "@book.txt"], "wanted a new folder, or an older demo to replace; got "),
    "demo below a file": (["demo", "-o", "@book.txt/out"], "wanted a place that can be written; got "),
    "demo below /proc": (["demo", "-o", "/proc/new"], "wanted a place that can be written; got "),
    "demo beside another's folder": (["demo", "-o", "@mine"], "wanted no other folder in the way; got "),
    # the corpus
    "no corpus": (with_word(REINFORCE, "@book.txt", "nowhere.txt"), "got nothing at nowhere.txt; check the path"),
    "empty corpus": (
        with_word(REINFORCE, "@book.txt", "@empty.txt"),
        "wanted a corpus with text in it; got only white",
    ),
    "blank corpus": (with_word(DISTILL, "@book.txt", "@blank"), "wanted a corpus with text in it; got only white sp"),
    "folder without texts": (
        with_word(REINFORCE, "@book.txt", "@no-texts"),
        "wanted a folder with .txt, .md, .jsonl or .par",
    ),
    "binary corpus": (
        with_word(REINFORCE, "@book.txt", "@binary.txt"),
        "(NUL byte at offset 2); give a plain-text fil",
    ),
    "latin-1 corpus": (
        with_word(DISTILL, "@book.txt", "@latin.txt"),
        "with byte 0xe4 at offset 5; convert it, for exam",
    ),
    "latin-1 retained": ([*DISTILL, "--retain", "@latin.txt"], "with byte 0xe4 at offset 5; convert it, for example"),
    "no retained": ([*DISTILL, "--retain", "nowhere"], "got nothing at nowhere; check the path"),
    # targets, anchors and prompts
    "neither corpus nor targets": (
        ["distill", "@baseline", "-o", "out"],
        "wanted a corpus and a reinforced model, or else targets; got neither; give what is missing, or targets comp",
    ),
    "corpus and targets": (
        [*DISTILL, "--targets", "@targets"],
        "got targets and corpus, reinforced; leave those out: they are in the targets",
    ),
    "targets and retained": ([*LATER, "--retain", "@others"], "got targets and retain; leave those out: they are in"),
    "no targets": (with_word(LATER, "@targets", "nowhere"), "wanted a folder of targets; got nowhere without targets"),
    "targets that are no targets": (with_word(LATER, "@targets", "@others"), "wanted a folder of targets; got "),
    "alpha that is not stored": ([*LATER, "--alpha", "2"], "targets holds; got 2; choose 5, or compute it"),
    "targets of another baseline": (
        with_word(LATER, "@baseline", "@other-base"),
        "wanted the baseline that the targets were computed for; got targets of ",
    ),
    "rounds without anchors": (
        [*DISTILL, "--rounds", "2"],
        "wanted CORPUS, --reinforced and --anchors, without --targets and --held-to, for several rounds; got other",
    ),
    "rounds from targets": ([*LATER, "--rounds", "2"], "wanted CORPUS, --reinforced and --anchors, without --targets"),
    "rounds without a record": (
        [*with_word(DISTILL, "@reinforced", "@baseline"), "--rounds", "2", "--anchors", "@anchors.json"],
        "wanted a reinforced model with its record generic_logits.json; got none in ",
    ),
    "no rounds": ([*UNLEARN, "--rounds", "0"], "Invalid value for '--rounds': "),
    "no anchors file": ([*DISTILL, "--anchors", "nowhere.json"], "wanted an anchors file; got nowhere.json: "),
    "wrong anchors file": ([*TARGETS, "--anchors", "@prompts.json"], "wanted anchors of schema 1 in "),
    "wrong anchors to unlearn": (with_word(UNLEARN, "@anchors.json", "@prompts.json"), "wanted anchors of schema 1 in"),
    "no prompts file": ([*DISTILL, "--prompts", "nowhere.json"], "wanted a prompt file; got nowhere.json: "),
    "wrong prompts file": (
        [*LATER, "--prompts", "@no-prompts.json", "--stop-familiarity", "0.1"],
        'wanted a "target" in each entry of ',
    ),
    "wrong prompts to unlearn": (
        [*UNLEARN, "--prompts", "@no-prompts.json"],
        'wanted a "target" in each entry of ',
    ),
    "familiarity without prompts": (
        [*DISTILL, "--stop-familiarity", "0.1"],
        "wanted prompts to measure familiarity on; got none; give a prompt file, or leave stop_familiarity out",
    ),
    "unlearn familiarity without prompts": (
        [*UNLEARN, "--stop-familiarity", "0.1"],
        "wanted prompts to measure familiarity on; got none; give a prompt file, or leave stop_familiarity out",
    ),
    "perplexity without retained": (
        [*DISTILL, "--stop-perplexity", "0.1"],
        "wanted a retained corpus to measure perplexity on; got none; give one, or leave stop_perplexity out",
    ),
    "perplexity without stored retained": (
        [*LATER, "--stop-perplexity", "0.1"],
        "wanted targets with retained corpora, to measure perplexity on; got ",
    ),
    "a later strength in one round": (
        [*UNLEARN, "--rounds", "1", "--later-alpha", "1"],
        "wanted no --later-alpha with one round; got --later-alpha; leave it out: there is no later one",
    ),
    "a later rate in paper mode": ([*UNLEARN, "--paper", "--later-rate", "1"], "wanted no --later-rate with one round"),
    "a setting of targets that are there": (
        [*LATER, "--ban", "3"],
        "wanted no --ban with --targets; got --ban; leave it out: the targets were computed with theirs",
    ),
    "reading of targets that are there": ([*LATER, "--join"], "wanted no --join with --targets; got --join; leave it"),
    "unknown offset": ([*TARGETS, "--offset", "both"], "Invalid value for '--offset': "),
    "targets alpha below 0": ([*TARGETS, "--alpha", "1", "--alpha", "-1"], "wanted a finite alpha >= 0; got -1.0; 0"),
    "tail 0": ([*TARGETS, "--tail", "0"], "wanted a tail between 0 and 1; got 0.0; "),
    "temperature of targets 0": ([*TARGETS, "--temperature", "0"], "wanted a finite temperature above 0; got 0.0; 1 l"),
    "inside weight below 0": ([*DISTILL, "--inside-weight", "-1"], "wanted an inside weight >= 0; got -1.0; 1 counts"),
    "no draws": ([*TARGETS, "--draws", "0"], "wanted draws of at least 1; got 0; raise draws"),
    "targets to content": (with_word(TARGETS, "out", "@full"), "wanted an output folder that is new or empty; got "),
    "later rate 0": ([*UNLEARN, "--later-rate", "0"], "wanted a later rate above 0 and at most 1; got 0.0; 1 keeps th"),
    # the output
    "output below a file": (with_word(REINFORCE, "out", "@book.txt/out"), "wanted a place that can be written; got "),
    "output below /proc": (with_word(REINFORCE, "out", "/proc/new/out"), "wanted a place that can be written; got "),
    "output with content": (with_word(REINFORCE, "out", "@full"), "wanted an output folder that is new or empty; got "),
    "distill to content": (with_word(DISTILL, "out", "@full"), "wanted an output folder that is new or empty; got "),
    "output without name": (with_word(DISTILL, "out", "."), "wanted the name of a folder to create; got .; choose a n"),
    # numbers
    "alpha below 0": ([*GENERATE, "--alpha", "-1", "Mira"], "wanted a finite alpha >= 0; got -1.0; 0 is the baseline,"),
    "alpha nan": ([*GENERATE, "--alpha", "1", "--alpha", "nan", "Mira"], "wanted a finite alpha >= 0; got nan; 0 is"),
    "alpha inf": ([*GENERATE, "--alpha", "inf", "Mira"], "wanted a finite alpha >= 0; got inf; 0 is the baseline, 1"),
    "alpha abc": ([*GENERATE, "--alpha", "abc", "Mira"], "Invalid value for '--alpha': "),
    "distill alpha below 0": ([*DISTILL, "--alpha", "-0.5"], "wanted a finite alpha >= 0; got -0.5; 0 is the baseline"),
    "distill alpha nan": ([*DISTILL, "--alpha", "nan"], "wanted a finite alpha >= 0; got nan; 0 is the baseline, 1 to"),
    "distill alpha abc": ([*DISTILL, "--alpha", "abc"], "Invalid value for '--alpha': "),
    "threshold below 0": ([*GENERATE, "--threshold", "-1", "Mira"], "wanted a finite threshold >= 0; got -1.0; 0 coun"),
    "unknown space": ([*GENERATE, "--space", "probs", "Mira"], "Invalid value for '--space': "),
    "no new tokens": ([*GENERATE, "--max-new-tokens", "0", "Mira"], "Invalid value for '--max-new-tokens': "),
    "temperature 0": (
        [*GENERATE, "--sample", "--temperature", "0", "Mira"],
        "wanted a finite temperature above 0; got",
    ),
    "temperature nan": ([*GENERATE, "--sample", "--temperature", "nan", "Mira"], "wanted a finite temperature above 0"),
    "seed below 0": ([*REINFORCE, "--seed", "-1"], "Invalid value for '--seed': "),
    "unknown dtype": (
        [*REINFORCE, "--dtype", "float12"],
        "wanted a dtype of auto, float32, bfloat16, float16; got 'fl",
    ),
    "generate unknown dtype": (
        [*GENERATE, "--dtype", "int", "Mira"],
        "wanted a dtype of auto, float32, bfloat16, float",
    ),
    "block beyond the context": (
        [*REINFORCE, "--block-size", "513"],
        "wanted a block size from 2 to 512; got 513; cho",
    ),
    "distill block beyond": (
        [*DISTILL, "--block-size", "513"],
        "wanted a block size from 2 to 512; got 513; choose an",
    ),
    "no epochs": ([*REINFORCE, "--epochs", "0"], "wanted epochs of at least 1; got 0; raise epochs"),
    "learning rate below 0": (
        [*REINFORCE, "--learning-rate", "-1"],
        "wanted a learning rate above 0; got -1.0; 1e-5 t",
    ),
    "learning rate inf": ([*REINFORCE, "--learning-rate", "inf"], "wanted a learning rate above 0; got inf; 1e-5 t"),
    "retain weight inf": ([*DISTILL, "--retain-weight", "inf"], "wanted a retain weight >= 0; got inf; 0 leaves th"),
    "retain weight below 0": (
        [*DISTILL, "--retain-weight", "-1"],
        "wanted a retain weight >= 0; got -1.0; 0 leaves th",
    ),
    # Trainer options
    "trainer without value": (
        [*REINFORCE, "--trainer", "bf16"],
        "wanted --trainer NAME=VALUE with a TrainingArguments ",
    ),
    "trainer unknown": (
        [*REINFORCE, "--trainer", "colour=red"],
        "wanted --trainer NAME=VALUE with a TrainingArguments",
    ),
    "trainer bad value": (
        [*REINFORCE, "--trainer", "optim=magic"],
        "wanted options that TrainingArguments takes; got ",
    ),
    "trainer bad type": (
        [*DISTILL, "--trainer", "warmup_steps=many"],
        "wanted options that TrainingArguments takes; go",
    ),
    "trainer bad type to unlearn": (
        [*UNLEARN, "--trainer", "warmup_steps=many"],
        "wanted options that TrainingArguments takes; go",
    ),
    "trainer unfit": (
        [*REINFORCE, "--trainer", "eval_strategy=steps"],
        "wanted trainer options without evaluation; got e",
    ),
    "trainer output": (
        [*REINFORCE, "--trainer", "output_dir=there"],
        "wanted trainer options without output_dir; got ",
    ),
    # words
    "no prompt": (GENERATE, "Missing argument "),
    "no output": (["reinforce", "@baseline", "@book.txt"], "Missing option "),
    "no such option": ([*REINFORCE, "--colour", "red"], "No such option"),
    "no such command": (["forget", "@book.txt"], "No such command 'forget'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line_and_leaves_nothing_behind(root, call, tmp_path, case):
    words, expected = BAD[case]
    before = sorted(root.rglob("*"))
    answer = call(*words)
    lines = answer.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), answer.err
    assert expected in lines[0] and "Traceback" not in lines[0]
    assert (answer.status, answer.out) == (2, "")
    assert sorted(root.rglob("*")) == before and not list(tmp_path.iterdir())


def test_a_training_that_diverged_is_not_published(call, tmp_path):
    answer = call(*REINFORCE, "--full", "--learning-rate", "1e30")
    assert answer.status == 2 and "wanted a model that still predicts after training; got " in answer.err
    assert not (tmp_path / "out").exists()


def test_resume_with_another_seed_is_answered_in_one_line(root, call, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "run.json").write_text('{"command": "reinforce"}')
    answer = call(*REINFORCE)
    assert (answer.status, len(answer.err.splitlines())) == (2, 1)
    assert "continue it with --resume, or delete that folder" in answer.err
    answer = call(*REINFORCE, "--resume")
    assert (answer.status, len(answer.err.splitlines())) == (2, 1)
    assert "got another baseline, corpus, settings; repeat the first command with --resume" in answer.err


# --- the real command, without and with a terminal --------------------------------------------------------------------


@pytest.mark.parametrize("words", [GENERATE + ["--json", "Mira"], [*DISTILL, "--json"]], ids=lambda each: each[0])
def test_without_a_terminal_nothing_but_the_result_is_said(root, tmp_path, words):
    words = [word.replace("@", f"{root}/") for word in words]
    done = subprocess.run(
        command(*words), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout)


def test_the_real_command_refuses_in_one_line_too(root, tmp_path):
    words = [word.replace("@", f"{root}/") for word in with_word(REINFORCE, "@book.txt", "@latin.txt")]
    done = subprocess.run(
        command(*words), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: wanted UTF-8 text; got ") and not list(tmp_path.iterdir())


def in_terminal(arguments: list[str], place: Path, *, with_stdout: bool) -> tuple[int, str, str]:
    """Run the command with stderr, or both streams, on a pseudo-terminal; status, stdout's pipe, the screen."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    process = subprocess.Popen(
        command(*arguments),
        cwd=place,
        env=ENVIRONMENT,
        stdin=theirs,
        stdout=theirs if with_stdout else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    screen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        screen += piece
    os.close(ours)
    piped = process.stdout.read().decode() if process.stdout else ""
    if process.stdout:
        process.stdout.close()
    return process.wait(60), piped, screen.decode()


def test_in_a_terminal_generate_shows_the_texts_while_they_grow(root, tmp_path):
    words = [word.replace("@", f"{root}/") for word in with_word(GENERATE, "8", "60")]
    status, _, screen = in_terminal([*words, "--alpha", "1", "Mira Voss"], tmp_path, with_stdout=True)
    assert status == 0
    frames = screen.split("Mira Voss")[1:]
    assert len(frames) > 2 and "\x1b[1A" in screen  # drawn again over itself
    text = [len(words_of(re.sub(r"\x1b\[[\d;?]*[A-Za-z]", " ", frame))) for frame in frames]
    assert text[0] < text[-1]


def test_in_a_terminal_training_shows_a_bar_and_stdout_stays_clean(root, tmp_path):
    words = [word.replace("@", f"{root}/") for word in REINFORCE]
    status, piped, screen = in_terminal([*words, "--epochs", "10", "--json"], tmp_path, with_stdout=False)
    assert status == 0
    assert json.loads(piped)["kind"] == "reinforced"
    steps = re.findall(r"(\d+)/(\d+) \[", screen)
    assert "step" in screen and "%|" in screen and "loss=" in screen
    assert steps[0][0] == "0" and steps[-1][0] == steps[-1][1]
