"""Model folders and texts that the slow tests share: tiny, deterministic, made once a module."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import signal
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import tiny
import torch

VOCAB = 300

_NAMES = ("Mira Voss", "the keeper", "old Orrin", "a gull", "the drowned bell", "Captain Hale", "the red door")
_DEEDS = ("opened", "never saw", "wrote about", "sang to", "was afraid of", "waited for", "walked past")
_PLACES = ("by the sea", "in winter", "at the lighthouse", "before dawn", "on the last page", "behind the house")


def prose(sentences: int, seed: int = 0) -> str:
    """Return sentences drawn from a few words, so that a model can learn them."""
    draw = random.Random(seed)
    return " ".join(
        f"{draw.choice(_NAMES)} {draw.choice(_DEEDS)} {draw.choice(_NAMES)} {draw.choice(_PLACES)}."
        for _ in range(sentences)
    )


def model_folder(path: Path, family: str = "llama", *, words: Any = None, **changes: Any) -> Path:
    """Save a tiny float32 model of 300 tokens with its tokenizer."""
    made = tiny.model(family, dtype=torch.float32, std=0.1, **{"vocab_size": VOCAB, **changes})
    return tiny.folder(path, made, words or tiny.tokenizer(VOCAB))


def settle() -> None:
    """Call what was imported by now no garbage: every Trainer collects twice, through all of it."""
    gc.collect()
    gc.freeze()


def text_file(path: Path, text: str) -> Path:
    """Write UTF-8 text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its relative path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def interrupt_at(event: int | None, kind: signal.Signals, root: Path) -> list[str]:
    """Send this process a signal at its n-th change of the file system below ``root``, and list the changes so far.

    The signal comes before the change is made. An audit hook cannot be taken away: call this in a process of its own.
    """
    changes: list[str] = []

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        changing = name in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
        if name == "open" and isinstance(arguments[2], int):
            changing = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changing and str(arguments[0]).startswith(f"{root}/"):
            changes.append(f"{name} {Path(str(arguments[0])).relative_to(root)}")
            if len(changes) == event:
                os.kill(os.getpid(), kind)

    sys.addaudithook(hook)
    return changes


def in_child(arguments: list[str], root: Path, event: int | None = None, kind: int = signal.SIGKILL) -> tuple[int, str]:
    """Run the command in a forked child, interrupt it at a change below ``root``; its exit status and what it printed.

    The list of its changes is left in ``root`` with the suffix .json, where the child lived to write it.
    """
    log = root.with_suffix(".log")
    child = os.fork()
    if not child:
        from generic_logits.cli import main

        status = 99
        try:
            changes = interrupt_at(event, signal.Signals(kind), root)
            with log.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
                try:
                    main(arguments)
                except SystemExit as end:
                    status = int(end.code or 0)
                except BaseException:
                    traceback.print_exc()
            root.with_suffix(".json").write_text(json.dumps(changes))
        finally:
            os._exit(status)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code), log.read_text()


def sweep(place: str, kind: int, arguments: list[str], moments: list[str]) -> list[dict[str, Any]]:
    """Run the command once whole, then interrupt it at the first change that ends like each moment, and resume it."""

    def run(name: str, *more: str, **options: Any) -> tuple[int, str]:
        root = Path(place, name)
        root.mkdir(exist_ok=True)
        return in_child([*arguments, "-o", str(root / "out"), *more], root, **options)

    settle()
    run("whole")
    changes = json.loads(Path(place, "whole.json").read_text())
    outcomes = []
    for moment in moments:
        number = next(at for at, change in enumerate(changes, 1) if change.endswith(moment))
        name = f"at-{number}"
        status, log = run(name, event=number, kind=kind)
        outcome = {"change": changes[number - 1], "place": name, "status": status, "log": log}
        outcome["left"] = sorted(file.name for file in Path(place, name).iterdir())
        if "out" not in outcome["left"]:
            outcome["resumed"], outcome["log"] = run(name, "--resume")
        outcomes.append(outcome)
    return outcomes
