"""The anchor dictionary: which terms belong to a text alone, and what they may become. A file that people edit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import jsonschema

from generic_logits._files import replace_file
from generic_logits.errors import InputError, OutputError, one_line

Kind = Literal["person", "place", "group", "thing", "word"]
Gender = Literal["female", "male"]
KINDS: tuple[Kind, ...] = ("person", "place", "group", "thing", "word")

_NO_SPACES = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+")
_TEXT = {"type": "string", "pattern": r"^\S(.*\S)?$"}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Anchors of generic_logits",
    "type": "object",
    "required": ["schema", "anchors"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": 1},
        "comment": {"type": "string"},
        "anchors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["term", "translations"],
                "additionalProperties": False,
                "properties": {
                    "term": _TEXT,
                    "translations": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
                    "kind": {"enum": list(KINDS)},
                    "gender": {"enum": ["female", "male", None]},
                    "count": {"type": "integer", "minimum": 0},
                    "reference_count": {"type": "integer", "minimum": 0},
                    "why": {"type": "string"},
                    "comment": {"type": "string"},
                },
            },
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A term of the text, and what it may become.

    Attributes:
        term: as the text writes it; a plural or possessive of it need not be listed.
        translations: generic terms of the same kind; one of them is drawn for a block.
        kind: of thing that it names; "word" is a common word.
        gender: where the text shows it.
        count: occurrences in the forget corpus.
        reference_count: occurrences in the reference corpora.
        why: what found it, and by which figures.
        comment: anything a person wants to note; kept.
    """

    term: str
    translations: tuple[str, ...]
    kind: Kind = "thing"
    gender: Gender | None = None
    count: int = 0
    reference_count: int = 0
    why: str = ""
    comment: str = ""


class Anchors(Sequence[Anchor]):
    """The dictionary, in the order of the file."""

    def __init__(self, anchors: Sequence[Anchor], *, comment: str = "") -> None:
        """Check that every term stands once and that no translation brings a term back.

        Raises:
            InputError: a term is listed twice, a text is empty, or a translation holds a term.
        """
        self._anchors = tuple(anchors)
        self.comment = comment
        terms: set[str] = set()
        words: dict[str, str] = {}
        for anchor in self._anchors:
            if anchor.term in terms:
                raise InputError("each anchor once", f"{anchor.term!r} twice", "merge the two entries")
            if not anchor.translations or not all(map(str.strip, (anchor.term, *anchor.translations))):
                got = f"{list(anchor.translations)} for {anchor.term!r}"
                raise InputError("a term and at least one translation, none empty", got, "fill them in")
            terms.add(anchor.term)
            words |= {form: anchor.term for form in folded_forms(anchor.term)}
        for anchor in self._anchors:
            for translation in anchor.translations:
                term = next((words[run] for run in runs_of_words(translation) if run in words), None)
                if term:
                    raise InputError(
                        "translations without any of the terms",
                        f"{translation!r} for {anchor.term!r}, which holds {term!r}",
                        "choose another",
                    )

    def __len__(self) -> int:
        """Count the terms."""
        return len(self._anchors)

    def __getitem__(self, index: Any) -> Any:
        """Return one anchor, or a tuple of them."""
        return self._anchors[index]

    def __iter__(self) -> Iterator[Anchor]:
        """Walk through them in order."""
        return iter(self._anchors)

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms alone."""
        return tuple(anchor.term for anchor in self._anchors)

    @classmethod
    def load(cls, path: str | Path) -> Anchors:
        """Read a dictionary file.

        Raises:
            InputError: it is missing, not JSON, not of the schema (the message names the entry), or contradicts
                itself.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError("an anchors file", f"{path}: {error.strerror}", "check the path") from error
        except ValueError as error:
            raise InputError("an anchors file in JSON", f"{path}: {error}", "mend the file") from error
        problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(data))
        if problem:
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.absolute_path)
            got = f"{one_line(problem.message)} at {place or 'the top'}"
            raise InputError(f"anchors of schema 1 in {path}", got, "mend it")
        entries = [Anchor(**{**entry, "translations": tuple(entry["translations"])}) for entry in data["anchors"]]
        return cls(entries, comment=data.get("comment", ""))

    def as_dict(self) -> dict[str, Any]:
        """What the file holds; what stands at its default is left out."""
        comment = {"comment": self.comment} if self.comment else {}
        return {"schema": 1, **comment, "anchors": [_entry(anchor) for anchor in self._anchors]}

    def save(self, path: str | Path) -> None:
        """Write the dictionary file whole.

        Raises:
            OutputError: the place cannot be written.
        """
        try:
            replace_file(Path(path), json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError("a place that can be written", f"{path}: {error.strerror}", "choose another") from error


def _entry(anchor: Anchor) -> dict[str, Any]:
    defaults = {each.name: each.default for each in fields(Anchor)}
    return {name: value for name, value in asdict(anchor).items() if value != defaults[name]}


def folded_forms(term: str) -> list[str]:
    """A term and its plurals as ``runs_of_words`` gives them; none for a term without letters."""
    return [" ".join(folded_words(form)) for form in (term, term + "s", term + "es") if folded_words(term)]


def runs_of_words(text: str) -> Iterator[str]:
    """Every run of neighbouring words of a text, case folded."""
    words = folded_words(text)
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            yield " ".join(words[start:end])


def folded_words(text: str) -> list[str]:
    """The words of a text, case folded; every character of a script without spaces is one."""
    return _WORD.findall(text.casefold())
