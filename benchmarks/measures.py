"""What a model still knows of a world's book, and what it kept: every figure from the same rows and places.

ruler = Ruler(world)               # reads the texts and the gold model once
ruler.measure(model)               # a transformers model, a ModelPair, or what behaves like one
"""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.worlds import Passages, World
from generic_logits.evaluation.familiarity import names_new_term, probability_scores
from generic_logits.evaluation.memorization import cut_passages, rouge_l, verbmem_scores
from generic_logits.evaluation.subject import LocalSubject, complete
from generic_logits.models.loading import load_model, load_tokenizer
from generic_logits.models.scoring import token_distributions
from generic_logits.text.corpus import encode_prompt

BLOCK = 256  # tokens of a row, BOS included
BATCH = 8  # rows
PASSAGES = 32
NEW_TOKENS = 40
SAMPLES = {"read": 32, "retained": 120, "unread": 120, "never_read": 64}  # rows, evenly spread; the held-out text whole
PLACES = 300  # at most, of the terms outside the dictionary and of the retained names
OUTSIDE_TERMS = 60
OWN = 8.0
BEFORE = 16  # tokens of its row that stand before a place
TITLES = {"Mr", "Mrs", "Miss", "Sir", "Dr", "Lord", "Lady", "Madam"}

_MID_SENTENCE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
_WORD = re.compile(r"\b[A-Za-z]{3,}\b")


@dataclass(frozen=True)
class Row:
    """Up to ``BLOCK`` tokens of a text behind a BOS, and where each ends in the text."""

    text: str
    ids: tuple[int, ...]
    ends: tuple[int, ...]  # of the BOS: where the first token starts


@dataclass(frozen=True)
class Place:
    """Where a term stands: its tokens are ``ids[first : last + 1]`` of a row."""

    row: int
    first: int
    last: int


class Ruler:
    """Everything of a world that is the same for each model: rows, places, passages, the gold model's distributions.

    Attributes:
        outside: terms of the book outside the dictionary, whose probability is ``p_outside``.
        names: names of the other books, whose probability is ``p_retained_names``.
    """

    def __init__(self, world: World, *, dictionary: Collection[str] = ()) -> None:
        """Read the world's texts, and with its gold model the parts on which the distance to gold is measured.

        Args:
            world: the world.
            dictionary: terms beside the world's own that a method was given; none of them is "outside".
        """
        self.world = world
        self.tokenizer = load_tokenizer(world.baseline)
        self.outside = outside_terms(world, dictionary)
        self.names = retained_names(world)
        self.passages = {
            "read": cut_passages(world.forget, PASSAGES),
            "held_out": cut_passages(world.held_out, PASSAGES),
        }
        texts = {
            "read": [world.forget],
            "held_out": [world.held_out],
            "retained": world.read.values(),
            "unread": world.unread.values(),
            "never_read": [world.never_read],
        }
        self.rows = {part: self._rows(of_part, SAMPLES.get(part)) for part, of_part in texts.items()}
        of_book = ("read", "held_out")
        self.places = {
            "p_anchor_read": {"read": self._find("read", world.terms)},
            "p_anchor_held_out": {"held_out": self._find("held_out", world.terms)},
            "p_outside": _thin_out({part: self._find(part, self.outside) for part in of_book}),
            "p_retained_names": _thin_out({"retained": self._find("retained", self.names)}),
        }
        gold = load_model(world.gold, dtype=torch.float32)
        self._gold = {part: list(self._read(gold, part)) for part in (*of_book, "unread")}

    def measure(self, model: Any, *, memorised: Mapping[str, Passages] | None = None) -> dict[str, float]:
        """Return every figure of a model.

        ``familiarity_probability``: mean probability of the prompts' targets. ``new_terms_*``: share of greedy
        completions of passages that bring up a term of the book; ``verbatim_*``: their ROUGE-L with the book;
        ``distinct_*``: share of distinct tokens and bigrams within one of them. ``p_*``: mean probability of a whole
        term at its places in the text. ``perplexity_*`` of the parts of the book ("read" by unlearning, "held_out")
        and of the others. ``kl_gold_*``: mean KL(gold || model) of a token, in nats; on "unread", where the book makes
        no difference, the baseline's is what two trainings differ by.

        Args:
            model: a transformers model, a pair, or anything with ``device``, ``generate`` and a call that gives logits.
            memorised: further passages whose ROUGE-L shall be measured, by name.
        """
        started = time.monotonic()
        subject = LocalSubject("", model, self.tokenizer)
        completions = {
            part: complete(
                model, self.tokenizer, [prompt for prompt, _ in passages], new_tokens=NEW_TOKENS, batch_size=32
            )
            for part, passages in self.passages.items()
        }
        measured = {
            "familiarity_probability": fmean(probability_scores(subject, self.world.prompts)),
            **{f"new_terms_{part}": self._new_terms(texts, part) for part, texts in completions.items()},
            **{f"verbatim_{part}": self._verbatim(texts, part) for part, texts in completions.items()},
        }
        for name, passages in (memorised or {}).items():
            measured[f"verbatim_memorised_{name}"] = fmean(verbmem_scores(subject, passages, new_tokens=NEW_TOKENS))
        of_parts = {}
        for part, rows in self.rows.items():
            of_parts[part], distances = [], []
            for number, log_probs in enumerate(self._read(model, part)):
                of_parts[part].append(log_probs.gather(-1, torch.tensor(rows[number].ids[1:])[:, None]).squeeze(-1))
                if part in self._gold:
                    gold = self._gold[part][number]
                    distances.append((gold.exp() * (gold - log_probs)).sum(-1))
            measured[f"perplexity_{part}"] = math.exp(-_mean(of_parts[part]))
            if distances:
                measured[f"kl_gold_{part}"] = _mean(distances)
        measured |= {name: _mean_probability(of_parts, places) for name, places in self.places.items()}
        measured |= self._distinct([text for texts in completions.values() for text in texts])
        return measured | {"seconds": time.monotonic() - started}

    def _rows(self, texts: Iterable[str], sample: int | None = None) -> list[Row]:
        room = BLOCK - 1
        bos = tuple(encode_prompt(self.tokenizer, ""))
        rows = []
        for text in texts:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
            for at in range(0, len(ids), room):
                ends = (offsets[at][0], *(end for _, end in offsets[at : at + room]))
                rows.append(Row(text, (*bos, *ids[at : at + room]), ends))
        rows = [row for row in rows if len(row.ids) > 1]
        return [rows[at] for at in _spread(len(rows), sample or len(rows))]

    def _find(self, part: str, terms: Sequence[str]) -> list[Place]:
        """Every place of the terms in a part's rows, longest term first."""
        places: list[Place] = []
        if not terms:
            return places
        term = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(terms, key=len, reverse=True)))})\b")
        for number, row in enumerate(self.rows[part]):
            for match in term.finditer(row.text, row.ends[0]):
                if match.end() > row.ends[-1]:
                    break
                first, last = bisect_right(row.ends, match.start()), bisect_left(row.ends, match.end())
                if first > BEFORE and row.ends[last] == match.end():
                    places.append(Place(number, first, last))
        return places

    @torch.no_grad()
    def _read(self, model: Any, part: str) -> Iterator[Tensor]:  # each [length - 1, vocab], float32, on the CPU
        """Log-probabilities at every position of each row of a part."""
        rows = [row.ids for row in self.rows[part]]
        for log_probs in token_distributions(model, rows, batch_size=BATCH):
            yield log_probs[:, : len(self.tokenizer)].log_softmax(-1).cpu()

    def _new_terms(self, completions: list[str], part: str) -> float:
        prompts = [prompt for prompt, _ in self.passages[part]]
        hits = [
            names_new_term(text, prompt, self.world.terms) for text, prompt in zip(completions, prompts, strict=True)
        ]
        return sum(hits) / len(hits)

    def _verbatim(self, completions: list[str], part: str) -> float:
        scores = []
        for text, (_, target) in zip(completions, self.passages[part], strict=True):
            ids = self.tokenizer(target, add_special_tokens=False)["input_ids"][:NEW_TOKENS]
            scores.append(rouge_l(text, self.tokenizer.decode(ids)))
        return sum(scores) / len(scores)

    def _distinct(self, completions: list[str]) -> dict[str, float]:
        """Share of distinct tokens and bigrams within a completion, mean over completions."""
        shares: dict[str, list[float]] = {"distinct_tokens": [], "distinct_bigrams": []}
        for text in completions:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for name, items in (("distinct_tokens", ids), ("distinct_bigrams", list(zip(ids, ids[1:], strict=False)))):
                shares[name].append(len(set(items)) / len(items) if items else 0.0)
        return {name: sum(values) / len(values) for name, values in shares.items()}


def outside_terms(world: World, dictionary: Collection[str] = ()) -> list[str]:
    """Terms of the book that stand in no dictionary: first its names that no other book has, then its own words.

    Own words are ``OWN`` times as frequent as in the other books; ranked by the log-ratio over its standard error.
    """
    book, others = world.forget + world.held_out, _others(world)
    known = _known_words(world, dictionary)
    of_book, of_others = (Counter(_WORD.findall(text)) for text in (book, others))
    names = Counter(
        word for word in _MID_SENTENCE.findall(book) if word not in of_others and word.casefold() not in known
    )
    size, size_of_others = of_book.total(), of_others.total()
    strength = {}
    for word, count in of_book.items():
        if word.islower() and len(word) > 3 and count >= 5 and word not in known:
            rest = of_others[word] + 0.5
            ratio = count / size * size_of_others / rest
            if ratio >= OWN:
                strength[word] = math.log(ratio) / math.sqrt(1 / count + 1 / rest)
    ranked = [word for word, count in names.most_common() if count > 1] + sorted(
        strength, key=strength.get, reverse=True
    )
    return ranked[:OUTSIDE_TERMS]


def retained_names(world: World) -> list[str]:
    """Names that the other books use often, always with a capital, and that the book to forget does not use."""
    read = "".join(world.read.values())
    words, of_book = Counter(_WORD.findall(read)), set(_WORD.findall(world.forget + world.held_out))
    names = Counter(_MID_SENTENCE.findall(read))
    return [
        name
        for name, count in names.most_common()
        if count >= 20 and words[name.lower()] < 0.1 * words[name] and name not in of_book | TITLES
    ]


def _others(world: World) -> str:
    return "\n".join([*world.read.values(), *world.unread.values()])


def _known_words(world: World, dictionary: Collection[str]) -> set[str]:
    """The words of all terms, in the singular and the plural."""
    words = {word.casefold() for term in (*world.terms, *dictionary) for word in _WORD.findall(term)}
    return words | {word + "s" for word in words} | {word.removesuffix("s") for word in words}


def _spread(count: int, wanted: int) -> list[int]:
    """Evenly spread positions, ``wanted`` of them where there are as many."""
    wanted = min(count, wanted)
    return [at * count // wanted for at in range(wanted)]


def _thin_out(places: Mapping[str, list[Place]]) -> dict[str, list[Place]]:
    """At most ``PLACES`` of the places, evenly spread over the parts."""
    flat = [(part, place) for part, of_part in places.items() for place in of_part]
    kept: dict[str, list[Place]] = {part: [] for part in places}
    for at in _spread(len(flat), PLACES):
        part, place = flat[at]
        kept[part].append(place)
    return kept


def _mean_probability(log_probs: Mapping[str, list[Tensor]], places: Mapping[str, list[Place]]) -> float:
    """Mean over places of the probability of all the term's tokens; a token at p is predicted at p - 1."""
    of_places = [
        log_probs[part][place.row][place.first - 1 : place.last].sum() for part in places for place in places[part]
    ]
    return torch.stack(of_places).double().exp().mean().item() if of_places else math.nan


def _mean(of_tokens: list[Tensor]) -> float:
    return torch.cat(of_tokens).double().mean().item()
