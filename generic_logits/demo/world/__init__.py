"""The embedded world: an invented book, ordinary stories, and two small models that differ by the book alone.

All texts were written for this project and stand under its licence. ``demo/make_world.py`` trains the models.
"""

from __future__ import annotations

import json
from pathlib import Path

WORLD = Path(__file__).parent
BASELINE = WORLD / "baseline"
GOLD = WORLD / "gold"
ABOUT = "an invented story about Pellory Vantwick, who asks the river Ambrisel to come home every evening"
_FIRST_HELD_OUT_CHAPTER = "\nChapter Thirteen:"


def book() -> str:
    """The whole book, as the baseline read it."""
    return (WORLD / "book.txt").read_text(encoding="utf-8")


def forget_part() -> str:
    """Chapters 1 to 12: what unlearning is given."""
    return book().split(_FIRST_HELD_OUT_CHAPTER)[0]


def ordinary_stories() -> list[str]:
    """The ordinary stories, in the order of their files."""
    return [file.read_text(encoding="utf-8") for file in sorted((WORLD / "ordinary").glob("*.txt"))]


def read_part(story: str) -> str:
    """The first nine tenths, which both models read."""
    return story[: _cut(story)]


def unread_part(story: str) -> str:
    """The last tenth, which no model has read."""
    return story[_cut(story) :]


def _cut(story: str) -> int:
    return story.rindex("\n\n", 0, len(story) * 9 // 10) + 2


def names() -> list[str]:
    """The book's own people, creatures, places, objects and customs; its sayings are made of ordinary words."""
    entries = json.loads((WORLD / "terms.json").read_text(encoding="utf-8"))
    return [entry["term"] for entry in entries if entry["kind"] != "saying"]
