"""What every model of a report is asked: texts, terms, prompts and passages, gathered once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from generic_logits._record import describe_file
from generic_logits.discovery.find import find_anchors
from generic_logits.errors import InputError
from generic_logits.evaluation.attacks.curve import check_prompts
from generic_logits.evaluation.attacks.prompting import check_wordings
from generic_logits.evaluation.memorization import cut_passages
from generic_logits.text.anchors import Anchors, folded_words
from generic_logits.text.corpus import Corpora, Corpus, Document, Texts, check_distinct, open_corpus
from generic_logits.text.prompts import Prompt, load_prompts, make_completion_prompts, make_probability_prompts

_WINDOW = 1 << 14  # characters
_RUNS, _RUN = 50, 8  # of words that are looked for in another text, and their length
_LETTERS = re.compile(r"[^\W\d_]+")
Source = str | Path


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much is asked of every model; the cost of a report grows with each of them.

    Attributes:
        prompts: beginnings whose next words are known.
        hints: beginnings that hint at the text, to be completed.
        passages: beginnings of the text itself, to be continued.
        characters: of a corpus that are read, at most; longer ones are read in evenly spread pieces.
    """

    prompts: int = 60
    hints: int = 48
    passages: int = 48
    characters: int = 1 << 21

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: one below 1, or fewer characters than a piece has.
        """
        for name, least in (("prompts", 1), ("hints", 1), ("passages", 1), ("characters", _WINDOW)):
            if getattr(self, name) < least:
                raise InputError(f"{name} of at least {least}", repr(getattr(self, name)), f"raise {name}")


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report is made of, the same for every model.

    Attributes:
        forget: what was to be forgotten.
        held_out: text of the same work that no unlearning was given; may be empty.
        retain: name -> text that a model should go on predicting.
        unread: text of the same kind that no model has read; may be empty.
        unrelated: text that has nothing to do with any of it; may be empty.
        terms: words that belong to the forgotten text alone.
        prompts: beginnings, and what a model that knows the text says next.
        hints: beginnings that hint at the text without naming the answer, which may be empty.
        passages: (beginning, true continuation) of the forgotten text.
        questions: about it, with their answers; may be none.
        wordings: name -> the prompts in other words or another language, with targets of their own; may be none.
        sources: for the record: where all of it came from.
    """

    forget: str
    held_out: str = ""
    retain: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""
    unrelated: str = ""
    terms: Sequence[str]
    prompts: Sequence[Prompt]
    hints: Sequence[Prompt]
    passages: Sequence[tuple[str, str]]
    questions: Sequence[Prompt] = ()
    wordings: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the wordings.

        Raises:
            InputError: one without prompts, or with a name that is taken.
        """
        check_wordings(self.wordings)
        for each in self.wordings.values():
            check_prompts(each)

    def prompt_files(self) -> dict[str, Sequence[Prompt]]:
        """What is asked as prompt files that can be edited and given again: by name, without those that are empty."""
        made = {"prompts": self.prompts, "hints": self.hints, "questions": self.questions}
        made |= {"-".join(["wording", *folded_words(name)]): each for name, each in self.wordings.items()}
        return {f"{name}.json": each for name, each in made.items() if each}

    def fingerprint(self) -> str:
        """SHA-256 of everything that is asked; where it came from makes no difference."""
        asked = {name: value for name, value in asdict(self).items() if name != "sources"}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def gather_material(
    forget: Source | Corpus,
    *,
    retain: Sequence[Source | Corpus] = (),
    held_out: Source | Corpus | None = None,
    unread: Source | Corpus | None = None,
    unrelated: Source | Corpus | None = None,
    anchors: Source | Sequence[str] | None = None,
    prompts: Source | None = None,
    hints: Source | None = None,
    questions: Source | None = None,
    wordings: Mapping[str, Source] = MappingProxyType({}),
    counts: Counts | None = None,
    seed: int = 0,
) -> Material:
    """Read texts and prompt files, and make from the texts what was not given.

    Args:
        forget: corpus that was to be forgotten.
        retain: corpora that a model should go on predicting; also what discovery compares the forgotten text with.
        held_out: corpus of the same work that no unlearning was given.
        unread: corpus of the same kind that no model has read, for membership and perplexity.
        unrelated: corpus for the attack that relearns from text about something else.
        anchors: dictionary file, or the terms themselves; found by statistics if not given.
        prompts: prompt file for familiarity by probability; made from the terms if not given.
        hints: prompt file for familiarity by completion, whose targets may be empty; likewise.
        questions: prompt file of questions and answers about the text; without it none are asked.
        wordings: name -> prompt file of the prompts in other words or another language, each with the target of its
            own that follows there. They need not be as many as the prompts.
        counts: how much is asked.
        seed: of everything random.

    Raises:
        InputError: a file that is missing or bad, or given as two texts that have to differ; a text in which nothing
            can be found, terms that it does not hold, or a wording whose name is taken.
    """
    check_wordings(wordings)
    counts = counts or Counts()
    corpora = {"forget": open_corpus(forget)}
    optional = {"held_out": held_out, "unread": unread, "unrelated": unrelated}
    corpora |= {name: open_corpus(path) for name, path in optional.items() if path is not None}
    kept = [open_corpus(path) for path in retain]
    retained = dict(zip(_names([corpus.name for corpus in kept]), kept, strict=True))
    as_retain = [("retain", corpus) for corpus in kept]
    check_distinct([(name, corpus) for name, corpus in corpora.items() if name != "unrelated"] + as_retain)
    check_distinct([(name, corpus) for name, corpus in corpora.items() if name != "unread"])
    texts = {name: sample_text(corpus, counts.characters) for name, corpus in corpora.items()}
    of_retained = {name: sample_text(corpus, counts.characters) for name, corpus in retained.items()}
    check_apart([*texts.items(), *(("retain", each) for each in of_retained.values())])
    text = texts["forget"]
    terms = find_terms(anchors, corpora["forget"], retained.values(), text, seed)
    if prompts:
        beginnings = load_prompts(prompts)
    else:
        beginnings = make_probability_prompts(text, terms, count=counts.prompts, seed=seed)
    if hints:
        to_complete = load_prompts(hints, targets=False)
    else:
        to_complete = make_completion_prompts(text, terms, count=counts.hints, seed=seed)
    files = {"prompts": prompts, "hints": hints, "questions": questions}
    if isinstance(anchors, str | Path):
        files["anchors"] = anchors
    return Material(
        forget=text,
        held_out=texts.get("held_out", ""),
        unread=texts.get("unread", ""),
        unrelated=texts.get("unrelated", ""),
        retain=of_retained,
        terms=terms,
        prompts=tuple(beginnings),
        hints=tuple(to_complete),
        passages=tuple(cut_passages(text, counts.passages)),
        questions=tuple(load_prompts(questions)) if questions else (),
        wordings={name: tuple(load_prompts(path)) for name, path in wordings.items()},
        sources={
            **{name: corpus.files for name, corpus in corpora.items()},
            "retain": {name: corpus.files for name, corpus in retained.items()},
            **{name: describe_file(path) for name, path in files.items() if path},
            **({"wordings": {name: describe_file(path) for name, path in wordings.items()}} if wordings else {}),
        },
    )


def check_apart(texts: Sequence[tuple[str, str]]) -> None:
    """Refuse a text that stands in another one, in whatever files; ``check_distinct`` compares these.

    Args:
        texts: each with what it is given as. Unread text may be unrelated, too, and retained texts may share theirs.

    Raises:
        InputError: most of some runs of words that are spread over one of them stand in the other.
    """
    plain = [(kind, folded_words(text)) for kind, text in texts]
    joined = [(kind, words, " ".join(["", *words, ""])) for kind, words in plain]
    shares = [
        (_share(words, other), kind, other_kind)
        for (kind, words, _), (other_kind, _, other) in permutations(joined, 2)
        if kind != other_kind and {kind, other_kind} != {"unread", "unrelated"}
    ]
    share, kind, other_kind = max(shares, default=(0.0, "", ""))
    if share > 0.5:
        got = f"one of which {100 * share:.0f} % stand in the text given as {other_kind}"
        raise InputError(f"another text as {kind}", got, "leave one out")


def _share(words: Sequence[str], other: str) -> float:
    """Of a text's runs of words, how many another one holds; 0 of a text that is shorter than one."""
    starts = [at * (len(words) - _RUN) // _RUNS for at in range(_RUNS)] if len(words) > _RUN else []
    return sum(" ".join(["", *words[at : at + _RUN], ""]) in other for at in starts) / _RUNS


def sample_text(corpus: Texts, characters: int) -> str:
    """The text of a corpus; of one with more ``characters`` evenly spread pieces, each cut at white space."""
    total = sum(file["characters"] for file in corpus.files)
    if total <= characters:
        return "\n\n".join(document.text.strip("\n") for document in corpus)
    count = characters // _WINDOW
    return "\n\n".join(_pieces(corpus, [at * total // count for at in range(count)]))


def spread_pieces(text: str, count: int, characters: int) -> list[str]:
    """Evenly spread pieces of a text, each cut at white space; the whole text in pieces where it is that short."""
    pieces = -(-len(text) // characters)
    chosen = range(pieces) if pieces <= count else [at * pieces // count for at in range(count)]
    cut = (_at_white_space(text, at * characters, characters) for at in chosen)
    return [piece for piece in cut if piece.strip()]


def _at_white_space(text: str, start: int, length: int) -> str:
    """A piece of a text without the word that its start divides, and with the end of the one that its end does."""

    def behind_word(at: int) -> int:
        while 0 < at < len(text) and not text[at - 1].isspace():
            at += 1
        return at

    return text[behind_word(start) : behind_word(min(start + length, len(text)))]


def _pieces(documents: Iterable[Document], starts: Sequence[int]) -> Iterator[str]:
    """Text at each of the offsets into all documents in a row, within the document that the offset falls into."""
    waiting, behind = list(reversed(starts)), 0
    for document in documents:
        while waiting and waiting[-1] < behind + len(document.text):
            piece = _at_white_space(document.text, waiting.pop() - behind, _WINDOW).strip()
            if piece:
                yield piece
        behind += len(document.text)


def _names(paths: Sequence[str]) -> list[str]:
    """A short name for each corpus: its file's, and where that would stand twice its path below what they share."""
    short = [Path(path).name.split(".")[0] or path for path in paths]
    whole = [os.path.abspath(path) for path in paths]
    names = []
    for name, path in zip(short, whole, strict=True):
        alike = [os.path.dirname(other) for other, of_other in zip(whole, short, strict=True) if of_other == name]
        names.append(name if len(alike) == 1 else os.path.relpath(path, os.path.commonpath(alike)))
    return names


def find_terms(
    anchors: Source | Sequence[str] | None, forget: Texts, retained: Iterable[Texts], text: str, seed: int
) -> tuple[str, ...]:
    """The terms of a dictionary or a list; without either those that statistics find and that are no ordinary words.

    A term of one word that retained text writes in lower case is one: who says "forest" need not have read the text.

    Raises:
        InputError: nothing can be found, or ``text`` holds none of the terms.
    """
    retained = list(retained)
    wanted, remedy = "terms of the forgotten text", "give --anchors FILE, more text, or --retain CORPUS to compare with"
    if anchors is None:
        try:
            terms: Sequence[str] = find_anchors(forget, reference=Corpora(retained), seed=seed).terms
            written = {word for each in retained for document in each for word in _LETTERS.findall(document.text)}
            terms = [term for term in terms if term.lower() not in written] or terms
        except InputError as error:
            raise InputError(wanted, "none that can be found", remedy) from error
    else:
        terms = Anchors.load(anchors).terms if isinstance(anchors, str | Path) else anchors
    if not terms:
        raise InputError(wanted, "none that can be found" if anchors is None else "none", remedy)
    if not any(term in text for term in terms):
        got = f"{len(terms)} terms of which it holds none"
        raise InputError("terms that the forgotten text holds", got, "give --anchors FILE made for this text")
    return tuple(terms)
