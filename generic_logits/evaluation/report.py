"""The report: one JSON that programs read, Markdown for model cards, and one page that anybody reads."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema

from generic_logits._files import replace_file
from generic_logits.errors import InputError, OutputError, one_line

SCHEMA = 1
FILES = ("report.json", "report.md", "report.html")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # a folder in the current one reads like that, too
_MARKED = str.maketrans({each: f"\\{each}" for each in "\\`*_{}[]<>#|~"} | {"\n": " ", "\r": " "})


@dataclass(frozen=True)
class Report:
    """A finished evaluation of one or several models.

    Attributes:
        data: see ``report.schema.json``; with the verdict of ``verdict.reach_verdict``.
    """

    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check the data.

        Raises:
            InputError: of a newer schema, not of this one, or it contradicts itself; the message names the place.
        """
        _check(self.data)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report from its folder or its JSON file.

        Raises:
            InputError: it is missing, not JSON, or not such a report.
        """
        file = Path(path)
        file = file / FILES[0] if file.is_dir() else file
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError("a report", f"{file}: {error.strerror}", "check the path") from error
        except ValueError as error:
            raise InputError("a report in JSON", f"{file}: {error}", "write it again") from error
        return cls(data)

    def save(self, folder: str | Path) -> None:
        """Write ``report.json``, ``report.md`` and ``report.html`` into a folder, each whole.

        Raises:
            OutputError: the folder cannot be written.
        """
        texts = (json.dumps(self.data, indent=1, ensure_ascii=False) + "\n", self.markdown(), self.page())
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, text in zip(FILES, texts, strict=True):
                replace_file(Path(folder) / name, text.encode("utf-8", "replace").decode())
        except OSError as error:
            got = f"{folder}: {error.strerror}"
            raise OutputError("a folder that can be written", got, "choose another") from error

    def markdown(self) -> str:
        """The report for a model card: verdict, figures, attacks. Its headings begin at the second level.

        Of paths it has the last name alone, of servers' addresses no credentials; so has the page.
        """
        return _text(_without_folders(self.data))

    def page(self) -> str:
        """One HTML page that needs nothing else: no network, no other file.

        What models and files said is data inside the page and never markup. The page's own policy lets nothing run or
        load but its one script and its one style sheet, which it names by their hashes.
        """
        style, script, data = _part("style.css"), _part("script.js"), _without_folders(self.data)
        policy = f"default-src 'none'; style-src '{_fingerprint(style)}'; script-src '{_fingerprint(script)}'"
        places = {
            "policy": policy,
            "style": style,
            "script": script,
            "data": json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c"),
            "plain": html.escape(_text(data)),
        }
        before, *others = _part("template.html").split("{{")
        cuts = [each.partition("}}") for each in others]
        return before + "".join(places[place.strip()] + behind for place, _, behind in cuts)


@cache
def _part(name: str) -> str:
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _fingerprint(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _validator() -> Any:
    schema = json.loads(files(__package__).joinpath("report.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def _check(data: Any) -> None:
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"a report of schema {SCHEMA}", f"schema {schema}", "update generic-logits to read it")
    problem = jsonschema.exceptions.best_match(_validator().iter_errors(data))
    if problem:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.absolute_path)
        raise _faulty(f"{one_line(problem.message)} at {place or 'the top'}")
    try:
        json.dumps(data, allow_nan=False)
    except ValueError as error:
        raise _faulty("a number that is not finite") from error
    for fault in _contradictions(data):
        raise _faulty(fault)


def _faulty(what: str) -> InputError:
    return InputError(f"a report of schema {SCHEMA}", what, "evaluate again")


def _contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    names = [model["name"] for model in data["models"]]
    yield from (f"two models named {name!r}" for name in sorted(set(names)) if names.count(name) > 1)
    roles = [model["role"] for model in data["models"]]
    yield from (f"two models as {role}" for role in ("baseline", "gold") if roles.count(role) > 1)
    used = {"figures": [*data["figures"]], "verdict": [*data["verdict"]["by_model"]]}
    used["left_out"] = [name for name in data.get("left_out", {}) if name]
    used |= {f"attack {name!r}": [*attack["curves"]] for name, attack in data["attacks"].items()}
    used |= {f"completion {at}": [*each["by_model"]] for at, each in enumerate(data["completions"])}
    yield from (
        f"{each!r} in {place}, which is no model" for place, own in used.items() for each in own if each not in names
    )
    for name, figures in data["figures"].items():
        yield from (
            f"measure {each!r} of {name!r}, which is not described" for each in figures if each not in data["measures"]
        )
    lens = data["lens"] or {"passages": [], "vocabulary": []}
    for token in (token for passage in lens["passages"] for token in passage["tokens"] if "top" in token):
        if token["true"] >= len(token["top"]) or any(row[0] >= len(lens["vocabulary"]) for row in token["top"]):
            yield f"the lens at {token['text']!r} points at nothing"


# What is passed on


def _without_folders(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the last name of each local path instead of the path, and no credentials in servers' addresses.

    Sources stay apart: of two with one last name, the second is numbered. What models wrote stays as it is.
    """
    names = {model["name"] for model in data["models"]}
    sources = dict(_sources(data))
    taken = {source for source, last in sources.items() if source == last}
    bare: dict[str, str] = {}
    for source in [each for each in sources if each not in taken]:
        numbered = (f"{sources[source]} ({number})" if number > 1 else sources[source] for number in count(1))
        others = taken | (names if source in names else set())
        bare[source] = next(each for each in numbered if each not in others)
        taken.add(bare[source])
    if not bare:
        return dict(data)
    longest_first = "|".join(map(re.escape, sorted(bare, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w.~/-])({longest_first})(?![\w-])")

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda found: bare[found[0]], value)
        if isinstance(value, Mapping):
            return {cleaned(name): cleaned(each) for name, each in value.items()}
        return [cleaned(each) for each in value] if isinstance(value, list) else value

    return {
        **cleaned({name: each for name, each in data.items() if name not in ("completions", "lens")}),
        "completions": [
            {**each, "by_model": {cleaned(name): said for name, said in each["by_model"].items()}}
            for each in data["completions"]
        ],
        "lens": data["lens"],
    }


def _sources(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Models, files and addresses of a report, each with what of it may be passed on."""
    for model in data["models"]:
        for source in model["source"].split(" with ") if model["kind"] == "pair" else [model["source"]]:
            yield source, source if _HUB_NAME.fullmatch(source) else _last_name(source)
    for name, value in _fields([data["sources"], data["settings"]]):
        if name in ("file", "data", "address") and isinstance(value, str):
            yield value, _last_name(value)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of all objects in it."""
    if isinstance(value, Mapping):
        yield from value.items()
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _fields(each)


def _last_name(source: str) -> str:
    if "://" in source:
        address = urlsplit(source)
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    return Path(source).name or source


# Markdown


def _text(data: Mapping[str, Any]) -> str:
    return "\n".join(_markdown(data)) + "\n"


def _markdown(data: Mapping[str, Any]) -> Iterator[str]:
    names = [model["name"] for model in data["models"]]
    gold = next((model["name"] for model in data["models"] if model["role"] == "gold"), None)
    yield "## Evaluation\n"
    for sentence in data["verdict"]["sentences"]:
        yield f"* {_plain(sentence)}"
    for name, verdict in data["verdict"]["by_model"].items():
        yield f"\n**{_plain(name)}.** {_plain(verdict['forgotten'])} {_plain(verdict['kept'])}"
        yield from [
            f"\n* Warning: {_plain(warning)}" if not at else f"* Warning: {_plain(warning)}"
            for at, warning in enumerate(verdict["warnings"])
        ]
    yield "\n### Figures\n\nIn brackets: 95 % intervals over the items. ↓ lower is better, ↑ higher, = as gold.\n"
    signs = {"lower": "↓", "higher": "↑", "gold": "="}
    rows = []
    for measure, about in data["measures"].items():
        figures = [data["figures"].get(name, {}).get(measure) for name in names]
        rows.append(
            [f"{about['title']} {signs[about['better']]}", *(_shown(each, about["format"]) for each in figures)]
        )
    yield from _table(["", *names], rows)
    if data["attacks"]:
        yield "\n### Attacks\n"
        above = ", and how far above the gold model under the same attack" if gold else ""
        yield f"In brackets: 95 % intervals{above}."
    for attack in data["attacks"].values():
        curves = {name: {point["x"]: point for point in curve} for name, curve in attack["curves"].items()}
        xs = list(dict.fromkeys(x for curve in curves.values() for x in curve))
        yield f"\n#### {_plain(attack['title'])}"
        yield f"\n{_plain(attack['about'])} Figures: {_plain(attack['measure'])}.\n"
        rows = [[str(x), *(_point(curve.get(x), name != gold) for name, curve in curves.items())] for x in xs]
        yield from _table([attack["x"], *curves], rows)
        yield from (f"\n{_plain(sentence)}" for sentence in shortened(attack))
    if "judges" in data:
        yield "\n### Judges of completions\n"
        yield from (f"* {_plain(sentence)}" for sentence in data["judges"]["sentences"])
    left_out = [
        f"* {_plain(part)}{' of ' + _plain(name) if name else ''}: {_plain(why)}"
        for name, parts in data.get("left_out", {}).items()
        for part, why in parts.items()
    ]
    if left_out:
        yield "\n### Not measured\n"
        yield from left_out
    versions = ", ".join(f"{_plain(str(name))} {_plain(str(version))}" for name, version in data["versions"].items())
    yield f"\nMeasured {_plain(data['created'])} with {versions}."


def _shown(figure: Mapping[str, Any] | None, form: str) -> str:
    if not figure:
        return "–"
    return f"{figure['value']:{form}} ({figure['low']:{form}} – {figure['high']:{form}})"


def _point(point: Mapping[str, Any] | None, compared: bool) -> str:
    """A point of an attack, with what lies above gold in its brackets, if it is compared with gold."""
    shown = _shown(point, ".3f")
    if not point or not compared or point["above_gold"] is None:
        return shown
    return f"{shown[:-1]}; {point['above_gold']:+.3f})".replace("-", "\N{MINUS SIGN}")


def shortened(attack: Mapping[str, Any]) -> Iterator[str]:
    """At which strengths an attack's hints were shortened, one sentence for the models that share it."""
    found: dict[str, list[str]] = {}
    for name, curve in attack["curves"].items():
        cut = [f"{each['cut']} of {each['count']} at {each['x']}" for each in curve if each.get("cut")]
        if cut:
            found.setdefault(", ".join(cut), []).append(name)
    for cut_there, names in found.items():
        whose = "all models" if len(names) == len(attack["curves"]) else ", ".join(names)
        yield f"Hints were shortened, as the context ended: {cut_there} ({attack['x']}; {whose})."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_plain, head))} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows)


def _plain(text: str) -> str:
    """Text of others, so that Markdown shows it as it is, in one line."""
    return text.translate(_MARKED)
