"""What long work tells: a bar at a terminal, lines elsewhere, nothing of short work."""

from __future__ import annotations

import io
import sys
from itertools import count

import pytest
import tiny

from generic_logits import _progress
from generic_logits._progress import Progress
from generic_logits.cli.options import prepare
from generic_logits.models.loading import load_model


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(monkeypatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(total=3, desc="reading", unit="page", initial=1) as bar:
        for loss in (0.5, 0.25):
            bar.update()
            bar.set_postfix(loss=loss)
    assert list(Progress(iter("abc"), desc="again")) == ["a", "b", "c"]
    return stream.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    shown = told(monkeypatch, Terminal())
    assert "\rreading: " in shown and "3/3 [00:00<00:00" in shown and "loss=0.25" in shown


def test_short_work_says_nothing_where_there_is_no_terminal(monkeypatch):
    assert told(monkeypatch, io.StringIO()) == ""


def test_long_work_says_lines_where_there_is_no_terminal(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(total=6, desc="reading", unit="page", delay=2) as bar:
        for seconds in (10, 25, 1, 1, 40, 1):
            now[0] += seconds
            bar.update()
            bar.set_postfix(loss=0.5)
    lines = stream.getvalue().splitlines()
    assert [line.partition(" left")[0] for line in lines] == [
        "reading: 2/6 page, 00:35 gone, 01:10",
        "reading: 5/6 page, 01:17 gone, 00:15",
        "reading: 6/6 page, 01:18 gone, 00:00",
    ]
    assert lines[-1].endswith("left, loss=0.5") and "\r" not in stream.getvalue()


@pytest.mark.parametrize("slow", [False, True])
def test_in_a_command_models_load_silently_or_under_a_bar_that_goes_away(monkeypatch, tmp_path, slow):
    import transformers.utils.logging as theirs

    for name, value in {"_tqdm_hook": None, "_tqdm_active": True}.items():
        monkeypatch.setattr(theirs, name, value)
    tiny.folder(tmp_path / "model", tiny.model())
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    prepare("auto", 0)
    if slow:
        clock = count(1000.0, 0.5)  # half a second a look
        monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    load_model(tmp_path / "model")
    shown = stream.getvalue()
    assert shown.startswith("\rLoading weights: ") == slow and bool(shown) == slow
    assert shown.rstrip(" ").endswith("\r") == slow and "\n" not in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_what_is_switched_off_says_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "_PAUSE", 0.0)
    with Progress(total=2, disable=True) as bar:
        bar.update()
    assert stream.getvalue() == ""
