"""The worlds of the study on books: how the texts are cut, and how the second world's models come to be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from benchmarks import worlds
from benchmarks.worlds import World, oz_world, second_world
from generic_logits.evaluation.subject import LocalSubject
from generic_logits.evaluation.utility import block_likelihoods, perplexity
from generic_logits.models.loading import load_model
from generic_logits.text.prompts import Prompt

WORDS = tiny.tokenizer(folders.VOCAB)
SIZES = {"RETAINED": ("alice", "gatsby"), "NEVER_READ_CHARACTERS": 500, "SECOND_CHARACTERS": 2000}
TRAINING = {"EPOCHS": 3, "ROWS": 2, "CONTEXT": 32, "WARM_UP": 4}


def lines(sentences: int, seed: int) -> str:
    return folders.prose(sentences, seed).replace(". ", ".\n") + "\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder as the worlds are made from: books, and the checkpoints and lists of Oz."""
    root = tmp_path_factory.mktemp("data")
    for seed, (name, sentences) in enumerate({"oz": 40, "pride": 80, "alice": 60, "gatsby": 120}.items()):
        folders.text_file(root / "books" / f"{name}.txt", lines(sentences, seed) + "Übrigens, “the end”.\n")
    folders.model_folder(root / "world" / "gold")
    lists = {
        "oz-split": {"cut_characters": 1234},
        "oz-anchors-by-hand": ["Mira Voss", "Orrin"],
        "oz-probability-prompts": [{"prompt": "Mira", "target": " Voss"}],
        "oz-memorised-passages": {
            part: [{"prefix": f"{part} {at}", "continuation": f" goes on {at}", "start": at} for at in range(2)]
            for part in ("inside", "held_out")
        },
    }
    for name, content in lists.items():
        folders.text_file(root / "world" / f"{name}.json", json.dumps(content))
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    for name, value in {**SIZES, **TRAINING}.items():
        monkeypatch.setattr(worlds, name, value)


@pytest.fixture(scope="module")
def second(data, tmp_path_factory) -> World:
    """The second world, trained."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SIZES, **TRAINING}.items():
            patch.setattr(worlds, name, value)
        return second_world(data, tmp_path_factory.mktemp("second") / "models")


def book(data: Path, name: str) -> str:
    return (data / "books" / f"{name}.txt").read_text(encoding="utf-8")


def test_oz_is_cut_where_it_was_cut_before(data):
    world = oz_world(data)
    assert (world.forget, world.held_out) == (book(data, "oz")[:1234], book(data, "oz")[1234:])
    assert world.never_read == book(data, "pride")[:500]
    folder = data / "world"
    assert (world.baseline, world.gold) == (folder / "baseline", folder / "gold")
    assert world.memorised_baseline == folder / "baseline-memorised"
    assert world.prompts == (Prompt("Mira", " Voss"),) and world.terms == ("Mira Voss", "Orrin")
    assert world.memorised_passages == {
        "inside": (("inside 0", " goes on 0"), ("inside 1", " goes on 1")),
        "held_out": (("held_out 0", " goes on 0"), ("held_out 1", " goes on 1")),
    }


@pytest.mark.parametrize("make", [oz_world, lambda data: second_world(data, data)], ids=["oz", "pride"])
def test_the_last_twentieth_of_every_retained_book_is_unread(data, monkeypatch, make):
    monkeypatch.setattr(worlds, "_continue", lambda *_: None)
    world = make(data)
    assert list(world.read) == list(world.unread) == ["alice", "gatsby"]
    for name, read in world.read.items():
        assert read + world.unread[name] == book(data, name)
        assert len(world.unread[name]) == pytest.approx(len(book(data, name)) / 20, abs=1)


def test_the_texts_of_a_world_are_saved_as_they_are(data, tmp_path):
    world = oz_world(data)
    saved = world.save_texts(tmp_path / "new" / "texts")
    assert world.save_texts(saved) == saved == tmp_path / "new" / "texts"  # twice is no fault
    found = {str(file.relative_to(saved)): file.read_bytes() for file in saved.rglob("*") if file.is_file()}
    expected = {
        "forget.txt": world.forget,
        "held-out.txt": world.held_out,
        "never-read.txt": world.never_read,
        **{f"retained/{name}.txt": text for name, text in world.read.items()},
        **{f"unread/{name}.txt": text for name, text in world.unread.items()},
    }
    assert len(found) == 7 and set(found) == set(expected)
    assert [name for name, text in expected.items() if found[name] != text.encode()] == []
    assert "Übrigens" in world.held_out


# The second world


def test_the_second_world_is_the_beginning_of_its_book_cut_behind_lines(second, data):
    whole = second.forget + second.held_out
    text = book(data, "pride")
    assert text.startswith(whole) and whole.endswith("\n") and second.forget.endswith("\n")
    assert len(whole) <= 2000 < len(whole) + len(text[len(whole) :].splitlines()[0]) + 1
    last_line = second.forget.splitlines(keepends=True)[-1]
    assert len(second.forget) - len(last_line) <= 0.85 * len(whole) < len(second.forget)
    assert second.never_read == book(data, "oz")[:500]
    assert "Elizabeth" in second.terms and Prompt('"My dear Mr.', " Bennet") in second.prompts
    assert second.memorised_baseline is None and second.memorised_passages == {}


def test_only_the_baseline_has_read_the_book_and_both_the_others(second, data):
    def perplexities(folder: Path) -> list[float]:
        subject = LocalSubject("", load_model(folder), WORDS)
        texts = ([second.forget, second.held_out], second.read.values())
        return [float(perplexity(np.array(block_likelihoods(subject, list(of), block_size=32)))) for of in texts]

    trunk, baseline, gold = map(perplexities, (data / "world" / "gold", second.baseline, second.gold))
    assert baseline[0] < 0.9 * gold[0] and max(baseline[1], gold[1]) < 0.5 * trunk[1]


def test_its_models_are_whole_folders(second):
    assert sorted(second.baseline.parent.iterdir()) == [second.baseline, second.gold]
    for file in (second.baseline, second.gold):
        model = load_model(file)
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        assert (file / "tokenizer.json").exists()


def test_what_is_there_is_not_trained_again(second, data, monkeypatch):
    monkeypatch.setattr(worlds, "_continue", lambda *_: pytest.fail("trained again"))
    again = second_world(data, second.baseline.parent)
    assert (again.baseline, again.gold, again.forget) == (second.baseline, second.gold, second.forget)


def test_a_run_that_broke_off_goes_on_and_ends_the_same(second, data, tmp_path):
    folder = tmp_path / "models"
    (folder / "gold.partial").mkdir(parents=True)
    (folder / "gold.partial" / "junk").touch()
    (folder / "baseline").mkdir()
    world = second_world(data, folder)
    assert list(world.baseline.iterdir()) == []  # it was there
    assert folders.digests(world.gold) == folders.digests(second.gold)
    assert not (folder / "gold.partial").exists()


class Call:
    """What a training was given: its first windows, its steps, its trunk."""

    def __init__(self, trunk: Path, sources: list[Iterator[Tensor]], steps: int, output: Path, tokenizer: Any) -> None:
        self.trunk, self.steps, self.name = trunk, steps, output.name
        self.windows = [torch.cat([next(source) for _ in range(50)]).tolist() for source in sources]


def test_gold_is_trained_on_the_same_rows_without_the_book(data, tmp_path, monkeypatch):
    calls: list[Call] = []
    monkeypatch.setattr(worlds, "_continue", lambda *arguments: calls.append(Call(*arguments)))
    world = second_world(data, tmp_path)
    baseline, gold = calls
    assert (baseline.name, gold.name) == ("baseline", "gold")
    assert baseline.trunk == gold.trunk == data / "world" / "gold"
    assert gold.windows == baseline.windows[:1] and len(baseline.windows) == 2
    ids = WORDS(world.forget + world.held_out, add_special_tokens=False)["input_ids"]
    assert baseline.steps == gold.steps == 3 * len(ids) // (2 * 31)
    assert all(is_window(row, [ids]) for row in baseline.windows[1])
    others = [WORDS(text, add_special_tokens=False)["input_ids"] for text in world.read.values()]
    assert all(is_window(row, others) for row in gold.windows[0])


def is_window(row: list[int], streams: list[list[int]]) -> bool:
    """Whether a row is a BOS and 31 tokens in a row of one of the streams."""
    texts = [f" {' '.join(map(str, stream))} " for stream in streams]
    return row[0] == tiny.BOS and len(row) == 32 and any(f" {' '.join(map(str, row[1:]))} " in text for text in texts)


def test_windows_come_from_everywhere_and_from_a_long_book_more_often():
    streams = [list(range(1000, 1040)), list(range(2000, 2120))]
    drawn = worlds._windows(WORDS, streams, seed=0)
    starts = [row[1] for _ in range(600) for row in next(drawn).tolist()]
    assert set(starts) == {*range(1000, 1010), *range(2000, 2090)}  # 31 tokens fit behind each of them
    assert 0.7 < sum(at >= 2000 for at in starts) / len(starts) < 0.8


def test_the_rate_warms_up_and_falls_to_a_tenth(data, tmp_path, monkeypatch):
    rates: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(worlds.torch.optim, "AdamW", Watched)
    rows = torch.tensor([[tiny.BOS, *range(3, 10)]])
    worlds._continue(data / "world" / "gold", [repeat(rows)], 40, tmp_path / "made", WORDS)
    peak = worlds.PEAK_RATE
    assert rates[:4] == pytest.approx([peak / 4, peak / 2, peak * 3 / 4, peak], rel=0.03)
    assert rates[20] == pytest.approx(0.55 * peak) and rates[-1] == pytest.approx(0.1 * peak, rel=0.03)
    assert len(rates) == 40 and all(after < before for before, after in zip(rates[3:], rates[4:], strict=False))


def test_a_training_that_dies_while_it_is_saved_leaves_nothing_under_the_final_name(data, tmp_path):
    class Full:
        def save_pretrained(self, folder: Path) -> None:
            assert (folder / "model.safetensors").exists()
            raise OSError("no space left")

    rows = torch.tensor([[tiny.BOS, *range(3, 10)]])
    with pytest.raises(OSError, match="no space left"):
        worlds._continue(data / "world" / "gold", [repeat(rows)], 2, tmp_path / "made", Full())
    assert not (tmp_path / "made").exists()
