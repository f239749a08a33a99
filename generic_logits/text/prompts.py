"""Prompt files: a JSON list of {"prompt": ..., "target": ...}, to be made from a text and edited by hand."""

from __future__ import annotations

import json
import random
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from generic_logits._files import replace_file
from generic_logits.errors import CorpusError, OutputError, one_line
from generic_logits.text.anchors import Anchor
from generic_logits.text.corpus import encode_prompt
from generic_logits.text.translation import Translator

_STARTS = re.compile(r"(?:[.!?…]\s*[\"'”’»)\]]*\s+|[。！？]|\n\s*\n\s*)(?=\S)")  # their ends: where sentences start
_WORDS = re.compile(r"\s+(?=\S)")


@dataclass(frozen=True)
class Prompt:
    """A beginning, and what a model that knows the text would say next."""

    prompt: str
    target: str


def load_prompts(path: str | Path, *, targets: bool = True) -> list[Prompt]:
    """Read a prompt file.

    Args:
        path: of the file.
        targets: whether each prompt needs a target; without one it is "".

    Raises:
        CorpusError: it is missing, not JSON, or not a list of objects with texts "prompt" and "target".
    """
    wanted = 'a JSON list of {"prompt": ..., "target": ...}'
    needed = ("prompt", "target") if targets else ("prompt",)
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CorpusError("a prompt file", f"{path}: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise CorpusError(wanted, f"{path}: {one_line(str(error))}", "mend the file") from error
    if not isinstance(entries, list) or not entries:
        got = f"an empty one in {path}" if entries == [] else f"{one_line(json.dumps(entries))} in {path}"
        raise CorpusError(wanted, got, "mend the file")
    for number, entry in enumerate(entries, start=1):
        place = f"{one_line(json.dumps(entry, ensure_ascii=False))} as number {number}"
        if not isinstance(entry, dict):
            raise CorpusError(f"an object in each entry of {path}", place, "mend the file")
        for name in needed:
            if name not in entry:
                raise CorpusError(f'a "{name}" in each entry of {path}', place, "mend the file")
        texts = [entry["prompt"], entry.get("target", "")]
        if not all(isinstance(each, str) for each in texts) or not all(entry[name] for name in needed):
            raise CorpusError(f"two texts in each entry of {path}", place, "mend the file")
    return [Prompt(entry["prompt"], entry.get("target", "")) for entry in entries]


def save_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write a prompt file whole.

    Raises:
        OutputError: the place cannot be written.
    """
    entries = [asdict(each) for each in prompts]
    try:
        replace_file(Path(path), json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise OutputError("a place that can be written", f"{path}: {error.strerror}", "choose another") from error


def make_probability_prompts(
    text: str, terms: Iterable[str], *, count: int = 30, characters: int = 160, seed: int = 0
) -> list[Prompt]:
    """Make prompts that end where a term stands; the term is their target ("Who's Harry Potter?", section 3.1).

    No prompt holds its own term, or ends at the end of a line. All terms have their turn before one has a second, and
    each place is the farthest of its term's from those taken before.

    Args:
        text: what was to be forgotten.
        terms: its anchors.
        count: of prompts, where there are as many places.
        characters: longest prompt; it starts where a sentence or else a word does, and is at least a quarter of that.
        seed: of the terms' order.

    Raises:
        CorpusError: no term stands behind enough text.
    """
    found = _Occurrences(text, terms)
    places: dict[str, dict[str, tuple[int, int]]] = {}  # by prompt: where it starts, where the term starts
    for start, _, term in found:
        begin = found.beginning(start - characters, start)
        begins_line = text[max(0, start - 1) : start] in ("", "\n")
        if not begins_line and start - begin >= characters // 4 and term not in found.terms_in(begin, start):
            places.setdefault(term, {}).setdefault(text[begin:start], (begin, start))
    taken: list[tuple[int, int, str]] = []
    order = sorted(places)
    random.Random(seed).shuffle(order)
    while len(taken) < count and any(places.values()):
        for term in order:
            if places[term] and len(taken) < count:
                begin, start = _farthest(places[term].values(), [start for _, start, _ in taken])
                del places[term][text[begin:start]]
                taken.append((begin, start, term))
    if not taken:
        raise CorpusError("a text in which some terms stand behind others' words", "none", "give other terms")
    prompts = []
    for begin, start, term in sorted(taken):
        prompt = text[begin:start].rstrip()
        prompts.append(Prompt(prompt, text[begin + len(prompt) : start] + term))
    return prompts


def make_completion_prompts(
    text: str, terms: Iterable[str], *, count: int = 50, characters: int = 240, ahead: int = 160, seed: int = 0
) -> list[Prompt]:
    """Make prompts that hint at what comes without naming it; their target is which terms come, with commas between.

    Each is a piece of the text, of whole sentences where it has any, behind which terms come that it does not name. Of
    such pieces those are taken that name the fewest terms themselves, spread over the text.

    Args:
        text: what was to be forgotten.
        terms: its anchors.
        count: of prompts, where there are as many pieces; twice as many are looked at.
        characters: longest prompt; it is at least a quarter of that.
        ahead: characters behind it in which a term counts as coming.
        seed: of the first prompt's place.

    Raises:
        CorpusError: no piece of the text is followed by a term.
    """
    found = _Occurrences(text, terms)
    pieces: list[tuple[int, int, int]] = []  # terms in it, its beginning, its end
    targets: dict[int, str] = {}
    for end in found.sentences:
        begin = found.beginning(end - characters, end)
        named = found.terms_in(begin, end)
        coming = [term for term in found.terms_in(end, end + ahead) if term not in named]
        if end - begin >= characters // 4 and coming:
            pieces.append((len(named), begin, end))
            targets[end] = ", ".join(coming)
    if not pieces:
        raise CorpusError("a text in which terms follow sentences that do not name them", "none", "give other terms")
    random.Random(seed).shuffle(pieces)
    places = [(begin, end) for _, begin, end in sorted(pieces, key=lambda piece: piece[0])[: 2 * count]]
    taken: list[tuple[int, int]] = []
    while places and len(taken) < count:
        taken.append(_farthest(places, [end for _, end in taken]))
        places.remove(taken[-1])
    return [Prompt(text[begin:end].strip(), targets[end]) for begin, end in sorted(taken)]


def _farthest(places: Iterable[tuple[int, int]], taken: Sequence[int]) -> tuple[int, int]:
    """The place whose end is farthest from its nearest neighbour among those taken; the first one if none is taken."""
    return max(places, key=lambda place: min((abs(place[1] - other) for other in taken), default=0))


class _Occurrences:
    """Where terms stand in a text, and where its sentences and words start."""

    def __init__(self, text: str, terms: Iterable[str]) -> None:
        translator = Translator(Anchor(term=term, translations=("_",)) for term in terms)
        self._found = [(start, end, form.term, text[start:end]) for start, end, form in translator.find(text)]
        self._starts = [start for start, *_ in self._found]
        self.sentences = [match.end() for match in _STARTS.finditer(text)]
        self._words = [match.end() for match in _WORDS.finditer(text)]

    def __iter__(self) -> Iterator[tuple[int, int, str]]:
        """Start, end and term of those that are written as the term is."""
        return ((start, end, term) for start, end, term, written in self._found if written == term)

    def terms_in(self, start: int, end: int) -> list[str]:
        """The terms that begin in a stretch of the text, in any form, each once, in order."""
        inside = slice(bisect_left(self._starts, start), bisect_left(self._starts, end))
        return list(dict.fromkeys(term for _, _, term, _ in self._found[inside]))

    def beginning(self, earliest: int, end: int) -> int:
        """Where the first sentence starts behind ``earliest``, or the first word if the sentence would be too short."""
        if earliest <= 0:
            return 0
        for starts in (self.sentences, self._words):
            at = bisect_left(starts, earliest)
            if at < len(starts) and end - starts[at] >= (end - earliest) // 4:
                return starts[at]
        return earliest


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each beginning, behind the BOS where there is one, and of its target."""
    return [
        (encode_prompt(tokenizer, each.prompt), tokenizer(each.target, add_special_tokens=False)["input_ids"])
        for each in prompts
    ]
