"""The README.md of a distilled model: what was unlearned, how, and what it cost."""

from __future__ import annotations

from typing import Any

_TEMPLATE = """---
base_model: {base}
library_name: transformers
tags:
- unlearning
- generic-logits
---

# {title}, made to forget

This is an ordinary `transformers` checkpoint. It is `{base}` after unlearning of the corpus below with
[generic logits](https://arxiv.org/abs/2310.02238): the baseline was trained further on the corpus (the reinforced
model), and the tokens whose scores rose were pushed down in the targets, `v = b - alpha * ReLU(r - b)`, that the
baseline was then trained towards.

## What was unlearned

{corpus}

Held to the baseline on: {retain}.

## Settings

{settings}

## Measured

{measured}

Perplexity on up to 64 blocks of each corpus, as it was trained on. A higher perplexity of the forget corpus says that
the text is less expected; it does not prove that nothing can be drawn out of the model. Everything that this folder was
made from, with fingerprints and versions, is in `generic_logits.json`.
"""


def model_card(record: dict[str, Any]) -> str:
    """Write the card of a "distilled" record (see ``_record.write_record``) in Markdown."""
    base = record["baseline"]["source"]
    settings = {key: value for key, value in _flat(record["settings"]).items() if value is not None}
    return _TEMPLATE.format(
        base=base,
        title=base.rstrip("/").split("/")[-1],
        corpus=_file_list(record["corpus"]),
        retain=", ".join(f"`{each['file']}`" for each in record["retain"]) or "nothing",
        settings=_table(("setting", "value"), settings.items()),
        measured=_table(
            ("", "baseline", "this model"),
            [
                (name.replace("_", " "), f"{row['baseline']:.2f}", f"{row['distilled']:.2f}")
                for name, row in record["measured"].items()
            ],
        ),
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings, each under the names on the way to it."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _file_list(corpus: list[dict[str, Any]]) -> str:
    line = "* `{file}`, {characters:,} characters, SHA-256 `{sha256}`"
    return "\n".join(line.format(**each) for each in corpus)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
