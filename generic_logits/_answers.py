"""What models answer: JSON out of their words, and one file an answer, so that nothing is asked twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from generic_logits.errors import OutputError, StorageError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OBJECT = re.compile(r'\{\s*["}]')
_DECODER = json.JSONDecoder(strict=False)  # servers that hold a model to a schema let raw tabs in strings pass


def read_json(text: str, validator: jsonschema.Draft202012Validator) -> dict[str, Any]:
    """Take the one JSON object out of what a model wrote, whatever stands around it: thoughts, prose, a fence.

    Raises:
        ValueError: there is none, it is broken, there are several, or its form is another; the message can be told to
            the model.
    """
    text = text.rpartition("</think>")[2]
    start = _OBJECT.search(text)
    if not start:
        raise ValueError("it holds no JSON object" if text.strip() else "it is empty")
    try:
        answer, end = _DECODER.raw_decode(text, start.start())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON is broken: {error}") from error
    if _OBJECT.search(text, end):
        raise ValueError("it holds more than one JSON object")
    problem = jsonschema.exceptions.best_match(validator.iter_errors(answer))
    if problem:
        raise ValueError(f"{one_line(problem.message)} at {problem.json_path}")
    result: dict[str, Any] = answer
    return result


def default_folder(kind: str) -> Path:
    """Where the answers of a kind are kept if nobody says where: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "generic_logits" / kind


class Answers:
    """A folder of answers to questions of one kind."""

    def __init__(self, folder: Path, about: dict[str, Any], *, valid: Callable[[Any], bool]) -> None:
        """Say where, and what else than its question an answer depends on.

        Args:
            folder: of the files.
            about: the model, the settings, the version of the question; kept beside each answer.
            valid: whether an answer is one; others are passed over.
        """
        self._folder, self._about, self._valid = folder, about, valid

    def _file(self, **question: str) -> Path:
        key = json.dumps({**self._about, **question}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def load(self, **question: str) -> dict[str, Any] | None:
        """Return the answer; None if there is no valid one."""
        try:
            answer: dict[str, Any] = json.loads(self._file(**question).read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if self._valid(answer) else None

    def make_folder(self) -> None:
        """Prepare to save.

        Raises:
            OutputError: answers could not be written there.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        if not os.access(self._folder, os.W_OK):
            raise self._cannot_write(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def save(self, answer: dict[str, Any], **question: str) -> None:
        """Write an answer, and not its question; it appears whole.

        Raises:
            OutputError, StorageError: it cannot be written.
        """
        file = self._file(**question)
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_text(json.dumps({**self._about, "answer": answer}, indent=1) + "\n", encoding="utf-8")
            os.replace(part, file)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageError(f"the disk is full at {self._folder}; make room, then run it again") from error
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError("a cache that can be written", f"{self._folder}: {error.strerror}", "choose another folder")
