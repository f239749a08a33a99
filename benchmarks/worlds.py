"""Small worlds of real books: a model that read a book, one that did not, and the texts to judge forgetting by.

``oz_world`` is given: checkpoints and texts. Its models are Llamas of 4.2 million parameters over 4,096 tokens, context
256. One trunk read 1.41 million tokens of eleven novels of Project Gutenberg; the baseline went on with 0.83 million of
them and ten epochs of The Wonderful Wizard of Oz (0.54 million tokens), gold with the 0.83 million alone. AdamW
(0.9, 0.95), weight decay 0.1, cosine from 2e-3, batches of 8 blocks. ``second_world`` is trained once, from gold, in
about a quarter of an hour on one thread.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from generic_logits.models.loading import load_model, load_tokenizer
from generic_logits.text.prompts import Prompt, load_prompts

RETAINED = (
    "alice",
    "peter_pan",
    "treasure_island",
    "christmas_carol",
    "tom_sawyer",
    "gatsby",
    "worlds",
    "sherlock",
    "gulliver",
    "dracula",
    "little_women",
)
UNREAD_SHARE = 0.05  # the end of every retained book, which no model read
NEVER_READ_CHARACTERS = 200_000

SECOND_CHARACTERS = 210_000  # of Pride and Prejudice: as long as Oz
FORGET_SHARE = 0.85
EPOCHS = 10  # of the book
ROWS, CONTEXT = 4, 256  # rows of the other books in a step; the baseline reads as many of the book beside them
PEAK_RATE = 1e-3
WARM_UP = 20  # steps

Passages = tuple[tuple[str, str], ...]  # (beginning, true continuation)


@dataclass(frozen=True, eq=False)
class World:
    """A book to forget, the models around it, and the texts beside it.

    Attributes:
        name: of the book.
        baseline: folder of the model that read the whole book.
        gold: folder of the model trained like it without the book.
        forget: the first part of the book, which unlearning is given.
        held_out: the rest, which the baseline read too.
        read: other books as far as both models read them, by name.
        unread: the ends of those books, which neither read.
        never_read: a book that neither read.
        prompts: beginnings with a word that only a reader of the book would say next.
        terms: names and things of the book, by hand.
        memorised_baseline: folder of a model that also learned ``memorised_passages`` by heart.
        memorised_passages: by part of the book, "inside" the forget text or "held_out".
    """

    name: str
    baseline: Path
    gold: Path
    forget: str
    held_out: str
    read: Mapping[str, str]
    unread: Mapping[str, str]
    never_read: str
    prompts: tuple[Prompt, ...]
    terms: tuple[str, ...]
    memorised_baseline: Path | None = None
    memorised_passages: Mapping[str, Passages] = field(default_factory=dict)

    def save_texts(self, folder: Path) -> Path:
        """Write forget.txt, held-out.txt, never-read.txt, retained/NAME.txt and unread/NAME.txt, for commands."""
        files = {"forget.txt": self.forget, "held-out.txt": self.held_out, "never-read.txt": self.never_read}
        for part, texts in (("retained", self.read), ("unread", self.unread)):
            files |= {f"{part}/{name}.txt": text for name, text in texts.items()}
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        return folder


def oz_world(data: Path) -> World:
    """The Wonderful Wizard of Oz, from a folder with ``world/`` and ``books/``."""
    book, world = _book(data, "oz"), data / "world"
    cut = json.loads((world / "oz-split.json").read_text(encoding="utf-8"))["cut_characters"]
    passages = json.loads((world / "oz-memorised-passages.json").read_text(encoding="utf-8"))
    read, unread = _retained(data)
    return World(
        name="oz",
        baseline=world / "baseline",
        gold=world / "gold",
        forget=book[:cut],
        held_out=book[cut:],
        read=read,
        unread=unread,
        never_read=_book(data, "pride")[:NEVER_READ_CHARACTERS],
        prompts=tuple(load_prompts(world / "oz-probability-prompts.json")),
        terms=tuple(json.loads((world / "oz-anchors-by-hand.json").read_text(encoding="utf-8"))),
        memorised_baseline=world / "baseline-memorised",
        memorised_passages={
            part: tuple((each["prefix"], each["continuation"]) for each in entries)
            for part, entries in passages.items()
        },
    )


def _book(data: Path, name: str) -> str:
    return (data / "books" / f"{name}.txt").read_text(encoding="utf-8")


def _retained(data: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The eleven books as far as they were read, and their ends."""
    read, unread = {}, {}
    for name in RETAINED:
        text = _book(data, name)
        cut = round(len(text) * (1 - UNREAD_SHARE))
        read[name], unread[name] = text[:cut], text[cut:]
    return read, unread


def second_world(data: Path, folder: Path) -> World:
    """The first third of Pride and Prejudice; its models are trained into ``folder`` where they are missing.

    Both go on from Oz's gold model, which has read neither book, in as many steps: the baseline on rows of the eleven
    books and as many of this one, the gold model on the same rows without this one. (A gold model that reads more of
    the eleven instead knows them better, and its distance to any model is no longer the book's alone.) The end of this
    text is read, and held out.
    """
    book = _book(data, "pride")
    book = book[: book.rindex("\n", 0, SECOND_CHARACTERS) + 1]
    cut = book.index("\n", int(FORGET_SHARE * len(book))) + 1
    read, unread = _retained(data)
    trunk = data / "world" / "gold"
    tokenizer = load_tokenizer(trunk)
    of_others = [_ids(tokenizer, text) for text in read.values()]
    of_book = [_ids(tokenizer, book)]
    steps = EPOCHS * len(of_book[0]) // (ROWS * (CONTEXT - 1))
    for name in ("baseline", "gold"):
        if not (folder / name).exists():
            beside = [_windows(tokenizer, of_book, seed=1)] if name == "baseline" else []
            _continue(trunk, [_windows(tokenizer, of_others, seed=0), *beside], steps, folder / name, tokenizer)
    here = Path(__file__).parent
    return World(
        name="pride",
        baseline=folder / "baseline",
        gold=folder / "gold",
        forget=book[:cut],
        held_out=book[cut:],
        read=read,
        unread=unread,
        never_read=_book(data, "oz")[:NEVER_READ_CHARACTERS],
        prompts=tuple(load_prompts(here / "pride-prompts.json")),
        terms=tuple(json.loads((here / "pride-terms.json").read_text(encoding="utf-8"))),
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _windows(tokenizer: Any, streams: Sequence[list[int]], *, seed: int) -> Iterator[Tensor]:  # each [ROWS, CONTEXT]
    """Random windows behind a BOS, without end."""
    draw, room = random.Random(seed), CONTEXT - 1
    while True:
        rows = []
        for stream in draw.choices(streams, weights=[len(stream) for stream in streams], k=ROWS):
            at = draw.randint(0, len(stream) - room)
            rows.append([tokenizer.bos_token_id, *stream[at : at + room]])
        yield torch.tensor(rows)


def _continue(trunk: Path, sources: Sequence[Iterator[Tensor]], steps: int, output: Path, tokenizer: Any) -> None:
    """Train a model further and save it whole, in float32; a cosine from the peak to a tenth of it."""
    torch.manual_seed(0)
    model = load_model(trunk, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    bar = tqdm(range(steps), desc=f"{output.name} of the second world", unit="step", file=sys.stderr, disable=None)
    for step in bar:
        rate = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids = torch.cat([next(source) for source in sources])
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(output)
