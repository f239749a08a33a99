"""Prompt files: a JSON list of {"prompt": ..., "target": ...}."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generic_logits.errors import CorpusError
from generic_logits.text.corpus import encode_prompt


@dataclass(frozen=True)
class Prompt:
    """A beginning, and what a model that knows the text would say next."""

    prompt: str
    target: str


def load_prompts(path: str | Path) -> list[Prompt]:
    """Read a prompt file.

    Raises:
        CorpusError: it is missing, not JSON, or not a list of objects with texts "prompt" and "target".
    """
    wanted = 'a JSON list of {"prompt": ..., "target": ...}'
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        prompts = [Prompt(entry["prompt"], entry["target"]) for entry in entries]
    except OSError as error:
        raise CorpusError("a prompt file", f"{path}: {error.strerror}", "check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(wanted, f"{path}: {error!r}", "mend the file") from error
    if not prompts:
        raise CorpusError(wanted, f"an empty one in {path}", "mend the file")
    for number, each in enumerate(prompts, start=1):
        if not all(isinstance(text, str) and text for text in (each.prompt, each.target)):
            raise CorpusError(f"two texts in each entry of {path}", f"{each} as number {number}", "mend the file")
    return prompts


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each beginning, behind the BOS where there is one, and of its target."""
    return [
        (encode_prompt(tokenizer, each.prompt), tokenizer(each.target, add_special_tokens=False)["input_ids"])
        for each in prompts
    ]
