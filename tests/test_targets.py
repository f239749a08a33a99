"""Targets: each against a slow plain re-statement, what a store leaves out, and that a store is whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import folders
import pytest
import tiny
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from generic_logits.errors import InputError, ModelError, OutputError
from generic_logits.text.alignment import TranslatedBlock, translate_block
from generic_logits.text.anchors import Anchor, Anchors
from generic_logits.text.corpus import Block, cut_blocks, open_corpus
from generic_logits.text.translation import Translator
from generic_logits.training import targets as module
from generic_logits.training.target_store import Row, SoftTargets, TargetStore
from generic_logits.training.targets import (
    TargetsConfig,
    block_targets,
    compute_targets,
    distance_to_soft,
    likely_tokens,
    neutralise,
)

VOCAB = folders.VOCAB
ALPHA = 3.0
NAMES = [
    Anchor(term="Mira Voss", translations=("Anna Bell", "Ruth Lane", "Eve Moor")),
    Anchor(term="Orrin", translations=("Tom", "Walter")),
    Anchor(term="Captain Hale", translations=("Doctor Field",)),
    Anchor(term="gull", translations=("crow", "small dog")),
]
QUICK = {"alpha": ALPHA, "block_size": 32, "draws": 2}


def save_pair(root: Path, family: str = "llama", *, words: Any = None, **changes: Any) -> None:
    """Save a baseline and a reinforced model that differ."""
    options = {"vocab_size": VOCAB, "dtype": torch.float32, **changes}
    for name, made in zip(("baseline", "reinforced"), tiny.pair(family, **options), strict=True):
        tiny.folder(root / name, made, words or tiny.tokenizer(VOCAB))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A pair, a text with names in it, two ordinary texts, and a dictionary."""
    root = tmp_path_factory.mktemp("targets")
    save_pair(root)
    folders.text_file(root / "book.txt", folders.prose(10))
    folders.text_file(root / "others" / "one.txt", folders.prose(7, seed=1))
    folders.text_file(root / "others" / "two.txt", folders.prose(5, seed=2))
    Anchors(NAMES).save(root / "anchors.json")
    folders.settle()
    return root


def compute(root: Path, output: Path, *, anchors: bool = True, retain: bool = True, **changes: Any) -> TargetStore:
    options = {name: changes.pop(name) for name in ("alphas", "held_to", "resume") if name in changes}
    folder = compute_targets(
        root / "baseline",
        root / "book.txt",
        output,
        reinforced=root / "reinforced",
        retain=[root / "others"] if retain else [],
        anchors=root / "anchors.json" if anchors else None,
        config=TargetsConfig(**{**QUICK, **changes}),
        **options,
    )
    return TargetStore(folder)


@pytest.fixture(scope="module")
def store(root) -> TargetStore:
    """Soft targets of two alphas, with 0 beside them."""
    return compute(root, root / "store", alphas=[ALPHA, 0.0, 1.0])


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def blocks_of(root: Path, name: str = "book.txt", *, keep: Translator | None = None, size: int = 32) -> list[Block]:
    words = AutoTokenizer.from_pretrained(root / "baseline")
    return list(cut_blocks(open_corpus(root / name), words, size, keep_together=keep.spans if keep else None))


def distribution(row: Row, number: int) -> tuple[dict[int, float], float]:
    """Log-probability of each stored token at one of a row's positions, and the probability of all others."""
    assert row.soft is not None
    ends = row.soft.counts.long().cumsum(0).tolist()
    place = slice(ends[number] - int(row.soft.counts[number]), ends[number])
    stored = zip(row.soft.tokens[place].tolist(), row.soft.log_probs[place].tolist(), strict=True)
    return dict(stored), float(row.soft.rest[number])


def contents(folder: Path) -> dict[str, str]:
    return folders.digests(folder)


# --- the plain re-statement of method steps 4 to 6, one position at a time, in float64 --------------------------------


def slow_targets(
    g: Tensor,  # [translated length, vocab]
    r: Tensor | None,  # [length, vocab]
    o: Tensor | None,  # [length, vocab]
    block: TranslatedBlock,
    alpha: float,
    config: TargetsConfig,
) -> dict[int, Tensor]:  # position -> [vocab] log-probabilities
    """Targets of a block."""

    def normal(row: Tensor) -> Tensor:
        return row - row.logsumexp(-1)

    found: dict[int, Tensor] = {}
    for position, translated in enumerate(block.positions):
        if translated < 0:
            continue
        row = g[translated].double().clone()
        mean = row.mean()
        for behind, token in block.named:
            if translated > behind:
                row[token] = mean
        if alpha:
            of_reinforced = r[position].double()
            before = o[position].double() if config.offset == "original" else row
            if config.space == "logprobs":
                of_reinforced, before = normal(of_reinforced), normal(before)
            rise = of_reinforced - before - config.threshold
            fall = torch.tensor([alpha * max(0.0, each) if each == each else 0.0 for each in rise.tolist()])
            row = row - torch.where(fall.isinf(), 0.0, fall)
        found[position] = normal(row / config.temperature)
    if config.ban and not config.paper:
        on_average = sum(row.exp() for row in found.values()) / len(found)
        for position, tokens in block.inside:
            row = on_average.log()
            for token in set(tokens):
                row[token] -= config.ban
            found[position] = normal(row)
    return found


def random_block(seed: int) -> TranslatedBlock:
    """A block of 12 tokens with two terms in it, one of them twice."""
    ids = tuple(torch.randint(3, 50, (12,), generator=torch.Generator().manual_seed(seed)).tolist())
    return TranslatedBlock(
        token_ids=ids,
        translated_ids=tuple(range(11)),
        positions=(0, 1, -1, -1, 3, 4, -1, 6, 7, -1, 9, 10),
        named=((3, 7), (3, 8), (6, 20)),
        inside=((2, (ids[3], ids[4])), (3, (ids[4],)), (9, (ids[10], 0, ids[10]))),
    )


GRID = [
    {
        "space": space,
        "offset": offset,
        "threshold": threshold,
        "temperature": temperature,
        "ban": ban,
        "paper": paper,
    }
    for space, offset in itertools.product(("logits", "logprobs"), ("translated", "original"))
    for threshold, temperature, ban, paper in [(0.0, 1.0, 10.0, False), (0.4, 1.7, 0.0, False), (0.0, 1.0, 10.0, True)]
]


@pytest.mark.parametrize("settings", GRID, ids=lambda each: "-".join(map(str, each.values())))
@pytest.mark.parametrize("alpha", [0.0, 2.5])
def test_targets_of_a_block_are_those_of_the_plain_re_statement(settings, alpha):
    config = TargetsConfig(**settings)
    for seed, holes in itertools.product(range(3), (False, True)):
        g, r, o = (torch.randn(12, 50, generator=torch.Generator().manual_seed(10 * seed + at)) * 3 for at in range(3))
        g, block = g[:11], random_block(seed)
        if holes:  # -inf in each, where the others have it and where they have not
            g[4:8, 30:33] = r[5:9, 32:35] = o[5:8, 31:36] = -torch.inf
        if holes and config.space == "logits" and config.offset == "original":
            r[5:8, 31:36] = -torch.inf  # a rise from -inf has no limit
        positions, values, inside = block_targets(g, r, block, alpha, config, original=o)
        expected = slow_targets(g, r, o, block, alpha, config)
        assert positions.tolist() == sorted(expected)
        assert {*positions[inside].tolist()} == {*expected} - {at for at, to in enumerate(block.positions) if to >= 0}
        for position, row in zip(positions.tolist(), values.log_softmax(-1), strict=True):
            torch.testing.assert_close(row.double(), expected[position], rtol=1e-5, atol=1e-5)


def test_the_tokens_of_a_translation_that_stands_there_are_no_news():
    logits, places = torch.randn(5, 9), torch.tensor([0, 1, 2, 4, 5])
    kept = logits.clone()
    neutralise(logits, places, [(1, 4), (3, 4), (3, 7)])
    for (row, place), token in itertools.product(enumerate(places.tolist()), range(9)):
        known = place > 1 and token == 4 or place > 3 and token == 7
        assert logits[row, token] == (kept[row].mean() if known else kept[row, token])


def check_rows(root: Path, store: TargetStore, alpha: float, config: TargetsConfig) -> Iterator[tuple[Row, Any]]:
    """Hold every forget row of a store against the re-statement on models that read one prefix after another."""
    translator, words = Translator(NAMES), tiny.tokenizer(VOCAB)
    baseline, reinforced = load(root / "baseline"), load(root / "reinforced")

    def logits(model: Any, ids: tuple[int, ...]) -> Tensor:
        return torch.cat([tiny.last_logits(model, [torch.tensor(ids[: end + 1])]) for end in range(len(ids))])

    blocks = blocks_of(root, keep=translator)
    assert len(blocks) == store.blocks
    for draw, (number, block) in itertools.product(range(2), enumerate(blocks[:3])):
        seed = random.Random(f"{config.seed} {draw * len(blocks) + number}")
        translated = translate_block(block, translator, words, seed)
        g = logits(baseline, translated.translated_ids)
        r, o = logits(reinforced, block.token_ids), logits(baseline, block.token_ids)
        expected = slow_targets(g, r, o, translated, alpha, config)
        row = store.forget(draw, number, alpha)
        assert tuple(row.token_ids.tolist()) == block.token_ids
        assert row.positions.tolist() == sorted(expected)
        yield row, [expected[position] for position in row.positions.tolist()]


def same_as_stored(row: Row, expected: list[Tensor], tail: float) -> None:
    for number, wanted in enumerate(expected):
        stored, rest = distribution(row, number)
        assert rest <= tail * (1 + 1e-5)
        left = 1 - sum(wanted[token].exp().item() for token in stored)
        assert rest == pytest.approx(left, abs=2e-5)
        for token, log_prob in stored.items():
            assert log_prob == pytest.approx(wanted[token].item(), rel=2**-11, abs=2e-4)


@pytest.mark.parametrize("alpha", [0.0, 1.0, ALPHA])
def test_stored_targets_of_a_real_pair_are_those_of_the_re_statement(root, store, alpha):
    config = TargetsConfig(**QUICK)
    inside = mapped = 0
    for row, expected in check_rows(root, store, alpha, config):
        same_as_stored(row, expected, config.tail)
        inside, mapped = inside + sum(len(each) for each in expected), mapped + len(row.token_ids)
    assert inside and mapped


def test_every_other_setting_reaches_the_stored_targets(root, tmp_path):
    config = TargetsConfig(
        **{**QUICK, "offset": "original", "space": "logprobs", "threshold": 0.3, "temperature": 1.5, "ban": 4.0},
        seed=7,
        tail=0.2,
    )
    store = compute(root, tmp_path / "out", **vars(config))
    for row, expected in check_rows(root, store, ALPHA, config):
        same_as_stored(row, expected, 0.2)


# --- inside a term ----------------------------------------------------------------------------------------------------


def test_inside_a_term_its_own_tokens_are_never_said(root, store, tmp_path):
    translator, words = Translator(NAMES), tiny.tokenizer(VOCAB)
    without = compute(root, tmp_path / "without", ban=0.0, retain=False)
    of_paper = compute(root, tmp_path / "paper", paper=True, retain=False)
    reinforced = load(root / "reinforced")
    sure = 0
    for number, block in enumerate(blocks_of(root, keep=translator)):
        translated = translate_block(block, translator, words, random.Random(f"0 {number}"))
        row = store.forget(0, number, ALPHA)
        positions = row.positions.tolist()
        with torch.no_grad():
            said = reinforced(torch.tensor([block.token_ids])).logits[0].softmax(-1)
        for position, tokens in translated.inside:
            stored, _ = distribution(row, positions.index(position))
            spoken = max(stored.get(token, -torch.inf) for token in tokens)
            before = said[position, list(tokens)].max().item()
            assert spoken < -8
            sure += before > 0.2
            assert block.token_ids[position + 1] == tokens[0]
        places = {position for position, _ in translated.inside}
        assert {*row.positions[row.inside].tolist()} == places
        assert set(without.forget(0, number, ALPHA).positions.tolist()) == set(positions) - places
    for number in range(of_paper.blocks):
        row = of_paper.forget(0, number, ALPHA)
        assert row.soft is None and row.labels is not None and not row.inside.any()
    assert not store.retain(0).inside.any()
    assert sure


# --- paper mode, end to end, on a tokenizer like Llama's --------------------------------------------------------------

STORY = "Mira Voss met Orrin at the sea.\nOrrin told Mira Voss about the gull. Captain Hale saw Mira and the gull.\n"


@pytest.fixture(scope="module")
def of_llama(tmp_path_factory) -> Path:
    """A pair whose tokenizer puts a space in front of a text, and writes a line break as a byte."""
    root = tmp_path_factory.mktemp("paper")
    words = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False, max_token_length=6)
    words.train_from_iterator([folders.prose(60), STORY.replace("\n", " ")], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    save_pair(root, words=made, vocab_size=len(made))
    folders.text_file(root / "book" / "one.txt", STORY * 8 + folders.prose(5))
    folders.text_file(root / "book" / "two.txt", folders.prose(9, seed=1))
    return root


def labels_of_the_authors(
    ids: list[int], dictionary: dict[str, str], tokenizer: Any, baseline: Any, reinforced: Any, alpha: float
) -> list[int]:
    """Method section 3, steps 1 to 7, as the authors' script walks; labels are shifted as transformers takes them."""

    def forms(term: str) -> list[list[int]]:
        after_a = len(tokenizer("a", add_special_tokens=False).input_ids)
        after_break = len(tokenizer("\n", add_special_tokens=False).input_ids)
        return [
            tokenizer("a " + term, add_special_tokens=False).input_ids[after_a:],
            tokenizer("\n" + term, add_special_tokens=False).input_ids[after_break:],
        ]

    terms = [term for term in dictionary if not (term.endswith("'s") and term[:-2] in dictionary)]
    terms = [term for term in terms if " " not in term or not all(word in terms for word in term.split())]
    translated: list[int] = []
    to_translated: dict[int, int] = {}
    neutral: list[tuple[int, int]] = []
    seen: set[str] = set()
    at = 0
    while at < len(ids):
        hit = None
        for term in terms:
            for form, tokens in enumerate(forms(term)):
                if hit is None and ids[at : at + len(tokens)] == tokens:
                    hit = term, form, len(tokens)
        if hit is None:
            translated.append(ids[at])
            to_translated[at] = len(translated) - 1
            at += 1
            continue
        term, form, length = hit
        new = forms(dictionary[term])
        translated += new[form]
        if term in seen:
            to_translated.pop(at - 1, None)
        else:
            neutral += [(len(translated) - 1, each[0]) for each in new]
        seen.add(term)
        to_translated[at + length - 1] = len(translated) - 1
        at += length
    g = baseline(torch.tensor([translated])).logits[0].double()
    means = g.mean(-1)
    for behind, token in neutral:
        for position in range(behind + 1, len(translated)):
            g[position, token] = means[position]
    r = reinforced(torch.tensor([ids])).logits[0].double()
    labels = [-100] * (len(ids) + 1)
    for position, there in to_translated.items():
        rise = r[position] - g[there]
        labels[position + 1] = int((g[there] - alpha * rise.clamp(min=0)).argmax())
    return labels


@torch.no_grad()
def test_paper_mode_gives_the_labels_of_the_authors(of_llama, tmp_path):
    dictionary = {"Mira Voss": "Anna Bell", "Orrin": "Tom", "Orrin's": "Tim's", "gull": "crow"}
    dictionary |= {"Mira": "Eva", "Voss": "Lane", "Captain Hale": "Doctor Field", "lighthouse": "small shop"}
    entries = [Anchor(term=term, translations=(new,)) for term, new in dictionary.items()]
    Anchors(entries).save(tmp_path / "anchors.json")
    config = TargetsConfig(paper=True, alpha=ALPHA, block_size=48)
    folder = compute_targets(
        of_llama / "baseline",
        of_llama / "book",
        tmp_path / "out",
        reinforced=of_llama / "reinforced",
        anchors=tmp_path / "anchors.json",
        config=config,
    )
    store = TargetStore(folder)
    assert store.manifest["settings"]["hard"] is True and store.manifest["draws"] == 3
    words = AutoTokenizer.from_pretrained(of_llama / "baseline")
    baseline, reinforced = load(of_llama / "baseline"), load(of_llama / "reinforced")
    cut = blocks_of(of_llama, "book", size=48)
    full = max(len(block.token_ids) for block in cut)
    lasts = [
        block for block, after in itertools.pairwise([*cut, None]) if not after or after.document != block.document
    ]
    kept = [block for block in cut if block not in lasts or len(block.token_ids) == full]
    assert len(lasts) == 2 and len(kept) == len(cut) - 2 == store.blocks
    masked = changed = 0
    for number, block in enumerate(kept):
        ids = list(block.token_ids)
        expected = labels_of_the_authors(ids, dictionary, words, baseline, reinforced, ALPHA)
        for draw in range(3):
            row = store.forget(draw, number, ALPHA)
            labels = [-100] * (len(ids) + 1)
            for position, label in zip(row.positions.tolist(), row.labels.tolist(), strict=True):
                labels[position + 1] = label
            assert row.token_ids.tolist() == ids and labels == expected
        masked += expected[1:].count(-100)
        plain = labels_of_the_authors(ids, {}, words, baseline, reinforced, ALPHA)
        changed += sum(one not in (-100, other) for one, other in zip(expected, plain, strict=True))
    assert masked > 20 and changed > 20


@torch.no_grad()
def test_in_paper_mode_each_block_takes_one_of_the_translations(of_llama, tmp_path):
    choices = {"Mira Voss": ("Anna Bell", "Ruth Lane"), "gull": ("crow", "small dog")}
    entries = [Anchor(term=term, translations=each) for term, each in choices.items()]
    Anchors(entries).save(tmp_path / "anchors.json")
    folder = compute_targets(
        of_llama / "baseline",
        of_llama / "book" / "one.txt",
        tmp_path / "out",
        reinforced=of_llama / "reinforced",
        anchors=tmp_path / "anchors.json",
        config=TargetsConfig(paper=True, alpha=ALPHA, block_size=48, draws=4),
    )
    store = TargetStore(folder)
    words = AutoTokenizer.from_pretrained(of_llama / "baseline")
    baseline, reinforced = load(of_llama / "baseline"), load(of_llama / "reinforced")
    drawn = set()
    for draw, number in itertools.product(range(4), range(2)):
        row = store.forget(draw, number, ALPHA)
        labels = dict(zip(row.positions.tolist(), row.labels.tolist(), strict=True))
        fitting = []
        for each in itertools.product(*choices.values()):
            dictionary = dict(zip(choices, each, strict=True))
            wanted = labels_of_the_authors(row.token_ids.tolist(), dictionary, words, baseline, reinforced, ALPHA)
            if labels == {at: label for at, label in enumerate(wanted[1:]) if label != -100}:
                fitting.append(each)
        assert fitting
        drawn.add(tuple(fitting))
    assert len(drawn) > 1


def test_paper_mode_makes_hard_labels_by_itself():
    assert TargetsConfig(paper=True).hard and TargetsConfig(paper=True, hard=False).hard
    assert not TargetsConfig().hard


def test_paper_mode_needs_one_full_block(root, tmp_path):
    folders.text_file(tmp_path / "a" / "1.txt", "the old house by the sea")
    folders.text_file(tmp_path / "a" / "2.txt", "the old house")
    (tmp_path / "none").mkdir()
    for name in ("1.txt", "2.txt"):
        folders.text_file(tmp_path / "b" / name, "the red door")
    options = {"reinforced": root / "reinforced", "config": TargetsConfig(paper=True, block_size=32)}
    store = TargetStore(compute_targets(root / "baseline", tmp_path / "a", tmp_path / "out", **options))
    assert store.blocks == 1


# --- what is left out of soft targets ---------------------------------------------------------------------------------


def extreme_rows(vocab: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(vocab)
    rows = {
        "flat": torch.zeros(2, vocab),
        "sure": torch.full((2, vocab), -torch.inf).index_fill_(1, torch.tensor([3]), 0.0),
        "almost sure": torch.full((2, vocab), -40.0).index_fill_(1, torch.tensor([3]), 0.0),
        "two": torch.full((2, vocab), -60.0).index_fill_(1, torch.tensor([3, 5]), 0.0),
        "holes": torch.randn(4, vocab, generator=draw).masked_fill(torch.arange(vocab) % 3 == 0, -torch.inf),
        "far": torch.randn(4, vocab, generator=draw) * 80,
    }
    return rows | {f"random {scale}": torch.randn(8, vocab, generator=draw) * scale for scale in (0.1, 1, 3, 8)}


@pytest.mark.parametrize("vocab", [7, 1003, 50257])
@pytest.mark.parametrize("tail", [0.3, 0.05, 1e-3, 1e-12])
def test_no_more_than_the_tail_is_left_out_and_little_more_than_needed_is_kept(vocab, tail):
    for name, logits in extreme_rows(vocab).items():
        log_probs = logits.log_softmax(-1)
        soft = likely_tokens(log_probs, tail)
        exact = logits.double().softmax(-1)
        assert soft.counts.sum() == len(soft.tokens) == len(soft.log_probs) and soft.counts.shape == (len(logits),)
        assert [tensor.dtype for tensor in soft] == [torch.int32, torch.int32, torch.float16, torch.float32]
        rows = torch.arange(len(logits)).repeat_interleave(soft.counts.long())
        kept = torch.zeros(logits.shape, dtype=torch.bool)
        kept[rows, soft.tokens.long()] = True
        assert kept.sum() == len(soft.tokens), name
        assert (soft.rest <= tail * (1 + 1e-5)).all(), name
        left = exact.masked_fill(kept, 0).sum(-1)
        torch.testing.assert_close(soft.rest.double(), left, rtol=1e-3, atol=1e-6)
        error = (soft.log_probs.double() - exact.log()[rows, soft.tokens.long()]).abs()
        assert (error <= exact.log()[rows, soft.tokens.long()].abs() * 2**-11 + 1e-5).all(), name
        for row, of_row, here in zip(range(len(logits)), exact, kept, strict=True):
            if here.any() and not here.all():
                least, most = of_row[here].min().log(), of_row[~here].max().log()
                assert most <= least + 0.25 + 1e-5, (name, row)  # a bin is a quarter of a nat
                needed = left[row] + of_row[here & (of_row.log() <= least + 0.25 + 1e-5)].sum()
                assert needed > tail * (1 - 1e-5) or tail < 1e-6, (name, row)


def lumped(student: Tensor, targets: SoftTargets) -> Tensor:
    """The distance as its docstring says it, in float64, a row at a time."""
    total = torch.zeros((), dtype=torch.float64)
    ends = targets.counts.long().cumsum(0).tolist()
    for row, (end, count) in enumerate(zip(ends, targets.counts.tolist(), strict=True)):
        tokens = targets.tokens[end - count : end].long()
        log_p, log_q = targets.log_probs[end - count : end].double(), student[row].double().log_softmax(-1)
        total = total + (log_p.exp() * (log_p - log_q[tokens])).sum()
        rest, others = targets.rest[row].double(), torch.ones(student.shape[1], dtype=torch.bool)
        others[tokens] = False
        if rest > 0:
            total = total + rest * (rest.log() - log_q[others].logsumexp(-1))
    return total / len(ends)


def full_distance(student: Tensor, log_probs: Tensor) -> Tensor:
    """KL(target || student) in float64, the mean over rows."""
    p = log_probs.double()
    terms = p.exp() * (p - student.log_softmax(-1))
    return terms.masked_fill(p.exp() == 0, 0).sum(-1).mean()


def gradients(student: Tensor, log_probs: Tensor, tail: float) -> tuple[Tensor, Tensor, SoftTargets]:
    """Of the stored distance in float32 and of the full one in float64, a row each: [rows, vocab]."""
    soft = likely_tokens(log_probs, tail)
    ours, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    (of_stored,) = torch.autograd.grad(distance_to_soft(ours, torch.arange(len(student)), soft), ours)
    (of_full,) = torch.autograd.grad(full_distance(exact, log_probs), exact)
    return of_stored.double() * len(student), of_full * len(student), soft


STUDENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as sure": lambda logits: logits + torch.randn_like(logits) * 0.1,
    "other": lambda logits: torch.randn_like(logits) * 3,
    "surer": lambda logits: logits * 3,
    "sure of one": lambda logits: torch.randn_like(logits).index_fill_(1, torch.tensor([3]), 24.0),
    "sure of another": lambda logits: torch.randn_like(logits).index_fill_(1, logits[0].argmin()[None], 30.0),
    "flat": torch.zeros_like,
}


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("tail", [0.2, 0.05, 1e-3])
def test_the_gradient_is_off_by_no_more_than_it_says(student, scale, tail):
    for vocab in (300, 20_000):
        logits = torch.randn(6, vocab) * scale
        of_stored, of_full, soft = gradients(STUDENTS[student](logits), logits.log_softmax(-1), tail)
        off = (of_stored - of_full).abs().sum(-1)
        assert (off <= 2 * soft.rest.double() + 0.004 + 1e-4).all()
        assert (off <= 2 * tail + 0.004 + 1e-4).all()  # 0.004 is what float16 rounds off


def test_the_gradient_is_that_of_the_distance():
    student = torch.randn(5, 40) * 3
    log_probs = (torch.randn(5, 40) * 2).log_softmax(-1)
    soft = likely_tokens(log_probs, 0.1)
    rows = torch.arange(5).repeat_interleave(soft.counts.long())
    soft = soft._replace(log_probs=log_probs[rows, soft.tokens.long()])  # not rounded
    ours, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    stored, expected = distance_to_soft(ours, torch.arange(5), soft), lumped(exact, soft)
    torch.testing.assert_close(stored.double(), expected, rtol=1e-5, atol=1e-5)
    for tensor, distance in ((ours, 3 * stored), (exact, 3 * expected)):
        distance.backward()
        assert tensor.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_as_the_tail_goes_to_0_the_distance_becomes_the_whole_one():
    logits, student = torch.randn(6, 500) * 3, (torch.randn(6, 500) * 3).double()
    exact = full_distance(student, logits.log_softmax(-1)).item()
    off = []
    for tail in (0.3, 0.1, 0.01, 1e-3, 1e-6, 1e-12):
        soft = likely_tokens(logits.log_softmax(-1), tail)
        off.append(abs(distance_to_soft(student.float(), torch.arange(6), soft).item() - exact))
    assert off[0] > 0.1 and off[-1] < 2e-3 and off[-2] < 2e-3
    assert all(later <= earlier for earlier, later in itertools.pairwise(off[:4]))


def test_only_the_positions_that_have_a_target_count():
    student, logits = torch.randn(9, 30, requires_grad=True), torch.randn(3, 30) * 2
    soft, positions = likely_tokens(logits.log_softmax(-1), 0.05), torch.tensor([1, 4, 8])
    distance = distance_to_soft(student, positions, soft)
    torch.testing.assert_close(distance.double(), lumped(student[positions].detach(), soft), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(distance, student)
    others = [row for row in range(9) if row not in positions]
    assert (gradient[others] == 0).all() and (gradient[positions].abs().sum(-1) > 0).all()


def test_weights_count_positions_more_and_leave_the_divisor_alone():
    student, logits = torch.randn(9, 30, requires_grad=True), torch.randn(3, 30) * 2
    soft, positions, weights = likely_tokens(logits.log_softmax(-1), 0.05), torch.tensor([1, 4, 8]), [1.0, 0.0, 5.0]
    distance = distance_to_soft(student, positions, soft, torch.tensor(weights))
    (gradient,) = torch.autograd.grad(distance, student)
    alone = []
    for at, (position, weight) in enumerate(zip(positions.tolist(), weights, strict=True)):
        one = likely_tokens(logits[at : at + 1].log_softmax(-1), 0.05)
        each = distance_to_soft(student[position : position + 1], torch.tensor([0]), one)
        (expected,) = torch.autograd.grad(each, student)
        torch.testing.assert_close(gradient[position], weight * expected[position] / 3)
        alone.append(weight * each.item())
    assert distance.item() == pytest.approx(sum(alone) / 3, rel=1e-5)


def test_the_distance_to_itself_is_0_and_its_gradient_too():
    student = torch.randn(8, 11, requires_grad=True)
    distance = distance_to_soft(student, torch.arange(8), likely_tokens(student.detach().log_softmax(-1), 1e-12))
    (gradient,) = torch.autograd.grad(distance, student)
    assert distance.item() == pytest.approx(0, abs=1e-3) and gradient.abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tail", [0.05, 1e-12])
def test_distance_and_gradient_stay_finite(dtype, tail):
    for logits in extreme_rows(1003).values():
        soft = likely_tokens(logits.log_softmax(-1), tail)
        for scale in (0.0, 1.0, 300.0):
            student = (torch.randn(logits.shape) * scale).to(dtype)
            student[:, 3] += scale * 50
            student.requires_grad_()
            distance = distance_to_soft(student, torch.arange(len(logits)), soft)
            (gradient,) = torch.autograd.grad(distance, student)
            assert distance.isfinite() and gradient.isfinite().all() and gradient.dtype == dtype


# --- the store --------------------------------------------------------------------------------------------------------


def test_several_alphas_in_one_pass_are_those_of_each_alone(root, store, tmp_path):
    together = {file.name: load_file(file) for file in store.folder.glob("*.safetensors")}
    for alpha in store.alphas:
        alone = compute(root, tmp_path / str(alpha), alpha=alpha)
        assert alone.alphas == [alpha]
        for file in alone.folder.glob("*.safetensors"):
            for name, tensor in load_file(file).items():
                assert torch.equal(together[file.name][name], tensor), (file.name, name)
    assert store.alphas == [0.0, 1.0, ALPHA]


def test_alphas_that_are_written_alike_stay_apart(root, tmp_path):
    close = [1.0, 1.0000001]
    store = compute(root, tmp_path / "out", alphas=close, retain=False)
    for alpha in close:
        alone = compute(root, tmp_path / repr(alpha), alpha=alpha, retain=False)
        for block in range(store.blocks):
            together, single = store.forget(1, block, alpha), alone.forget(1, block, alpha)
            assert all(torch.equal(one, other) for one, other in zip(together.soft, single.soft, strict=True))


def test_hard_targets_are_one_id_a_position(root, store, tmp_path):
    hard = compute(root, tmp_path / "out", hard=True)
    for draw, block in itertools.product(range(2), range(hard.blocks)):
        labels, soft = hard.forget(draw, block, ALPHA), store.forget(draw, block, ALPHA)
        assert labels.soft is None and torch.equal(labels.positions, soft.positions)
        for number, label in enumerate(labels.labels.tolist()):
            stored, _ = distribution(soft, number)
            assert stored[label] == max(stored.values())
    tensors = load_file(tmp_path / "out" / "forget-00000.safetensors")
    assert tensors[f"labels {ALPHA}"].dtype == torch.int32
    fields = {"positions", "starts", "inside", "labels"}
    assert {name.split()[0] for name in tensors} == {"token_starts", "token_ids", *fields}
    kept = [load_file(folder / "retain-00000.safetensors") for folder in (hard.folder, store.folder)]
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())  # soft in both


@pytest.mark.parametrize("anchors", [False, True])
def test_hard_targets_of_hidden_states_are_those_of_logits(root, tmp_path, anchors, monkeypatch):
    rows: list[int] = []
    argmax = module.linear_generic_argmax

    def counted(*arguments: Any, **options: Any) -> Tensor:
        rows.append(len(arguments[0]))
        return argmax(*arguments, **options)

    monkeypatch.setattr(module, "linear_generic_argmax", counted)
    options = {"anchors": anchors, "hard": True, "alphas": [0.0, ALPHA]}
    fast = compute(root, tmp_path / "fast", **options)
    assert len(rows) == 2 * fast.blocks if not anchors else len(rows) < 4 * fast.blocks
    monkeypatch.setattr(module, "plain_head", lambda _: None)
    slow, count = compute(root, tmp_path / "slow", **options), len(rows)
    assert len(rows) == count
    for block, alpha in itertools.product(range(fast.blocks), fast.alphas):
        one, other = fast.forget(0, block, alpha), slow.forget(0, block, alpha)
        assert torch.equal(one.positions, other.positions) and torch.equal(one.inside, other.inside)
        assert torch.equal(one.labels, other.labels)


def test_teachers_that_say_nan_are_refused_before_labels_are_made(root, tmp_path, monkeypatch):
    argmax = module.linear_generic_argmax
    monkeypatch.setattr(module, "linear_generic_argmax", lambda *a, **o: argmax(a[0] * torch.nan, *a[1:], **o))
    with pytest.raises(ModelError, match="logits are numbers"):
        compute(root, tmp_path / "out", anchors=False, hard=True)


def test_retained_rows_hold_the_words_of_the_keeper_and_each_is_used_before_any_again(root, store, tmp_path):
    tiny.folder(tmp_path / "keeper", tiny.model(seed=5, vocab_size=VOCAB, dtype=torch.float32), tiny.tokenizer(VOCAB))
    held = compute(root, tmp_path / "held", held_to=tmp_path / "keeper")
    blocks = {block.token_ids for name in ("one.txt", "two.txt") for block in blocks_of(root, f"others/{name}")}
    for each, keeper in ((store, load(root / "baseline")), (held, load(tmp_path / "keeper"))):
        assert each.retained == 2 * each.blocks
        shown = [tuple(each.retain_ids(number)) for number in range(each.retained)]
        for start in range(0, len(shown), len(blocks)):
            hand = shown[start : start + len(blocks)]
            assert len(set(hand)) == len(hand) and set(hand) <= blocks
        row = each.retain(1)
        with torch.no_grad():
            expected = keeper(row.token_ids[None]).logits[0].double().log_softmax(-1)
        same_as_stored(row, list(expected), TargetsConfig().tail)
    assert held.manifest["held_to"] != held.manifest["baseline"] == store.manifest["held_to"]
    with torch.no_grad():
        assert torch.equal(held.forget(0, 0, ALPHA).soft.tokens, store.forget(0, 0, ALPHA).soft.tokens)


def test_the_batch_of_the_teachers_changes_nothing_but_roundings(root, store, tmp_path):
    one = compute(root, tmp_path / "out", teacher_batch_size=1)
    for draw, block in itertools.product(range(2), range(store.blocks)):
        rows = one.forget(draw, block, ALPHA), store.forget(draw, block, ALPHA)
        assert torch.equal(rows[0].positions, rows[1].positions)
        for number in range(len(rows[0].positions)):
            (some, rest), (others, other_rest) = (distribution(row, number) for row in rows)
            assert rest == pytest.approx(other_rest, abs=5e-3)
            for token in some.keys() & others.keys():
                assert some[token] == pytest.approx(others[token], rel=2e-3, abs=1e-3)


def test_too_large_a_batch_of_the_teachers_is_made_smaller(root, store, tmp_path, monkeypatch):
    sizes: list[int] = []
    original = module._Teachers._logits

    def logits(self: Any, model: Any, rows: Any) -> Tensor:
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, model, rows)

    monkeypatch.setattr(module._Teachers, "_logits", logits)
    few = compute(root, tmp_path / "out")
    assert sizes[0] == 8 and max(sizes[-3:]) <= 3
    assert few.manifest == {**store.manifest, "alphas": [ALPHA]}


@pytest.mark.parametrize(
    ("alphas", "offset", "passes"),
    [
        ([0.0], "translated", ["baseline"]),
        ([1.0, ALPHA], "translated", ["baseline", "reinforced"]),
        ([ALPHA], "original", ["baseline", "reinforced", "baseline"]),
    ],
)
def test_each_model_reads_what_it_must_and_no_more(root, tmp_path, monkeypatch, alphas, offset, passes):
    read: list[tuple[str, tuple[int, ...]]] = []
    original = module._Teachers._logits

    def logits(self: Any, model: Any, rows: Any) -> Tensor:
        name = "reinforced" if model is self.pair.reinforced else "baseline"
        read.extend((name, row) for row in rows)
        return original(self, model, rows)

    monkeypatch.setattr(module._Teachers, "_logits", logits)
    store = compute(root, tmp_path / "out", alphas=alphas, offset=offset)
    rows = [tuple(store.forget_ids(number)) for number in range(store.blocks)]
    retained = {tuple(store.retain_ids(number)) for number in range(store.retained)}
    of_reinforced = [row for name, row in read if name == "reinforced"]
    assert sorted(of_reinforced) == (sorted(rows * 2) if "reinforced" in passes else [])
    assert sum(row in retained for _, row in read) == store.retained
    assert len(read) == 2 * store.blocks * len(passes) + store.retained


def test_without_a_dictionary_a_block_is_stored_once(root, tmp_path):
    plain = compute(root, tmp_path / "out", anchors=False)
    assert plain.manifest["draws"] == 1 and plain.retained == 2 * plain.blocks
    row = plain.forget(5, 2, ALPHA)
    assert row.positions.tolist() == list(range(len(row.token_ids)))
    baseline, reinforced = load(root / "baseline"), load(root / "reinforced")
    with torch.no_grad():
        b, r = (model(row.token_ids[None]).logits[0].double() for model in (baseline, reinforced))
    same_as_stored(row, list((b - ALPHA * (r - b).clamp(min=0)).log_softmax(-1)), TargetsConfig().tail)


def test_each_draw_and_each_block_has_translations_of_its_own(root, store):
    drawn = [store.forget(draw, block, ALPHA) for draw in range(2) for block in range(store.blocks)]
    halves = drawn[: store.blocks], drawn[store.blocks :]
    different = [one.soft.tokens.tolist() != other.soft.tokens.tolist() for one, other in zip(*halves, strict=True)]
    assert any(different)
    assert all(torch.equal(one.token_ids, other.token_ids) for one, other in zip(*halves, strict=True))
    assert torch.equal(store.forget(2, 0, ALPHA).soft.tokens, store.forget(0, 0, ALPHA).soft.tokens)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_translation_longer_than_the_context_is_cut(tmp_path, family):
    context = {"n_positions": 16} if family == "gpt2" else {"max_position_embeddings": 16}
    save_pair(tmp_path, family, **context)
    folders.text_file(tmp_path / "book.txt", "the sea and the red gull " * 20)
    longer = Anchor(term="gull", translations=("lighthouse keeper of the drowned bell of the sea",))
    Anchors([longer]).save(tmp_path / "anchors.json")
    store = compute(tmp_path, tmp_path / "out", retain=False, block_size=None)
    mapped = [store.forget(0, block, ALPHA).positions.tolist() for block in range(store.blocks)]
    assert all(mapped) and min(len(each) for each in mapped) < 16


def test_a_wider_head_than_the_vocabulary_is_cut_to_the_tokens(root, tmp_path):
    words = tiny.tokenizer(VOCAB)
    save_pair(tmp_path, words=words, vocab_size=VOCAB + 20)
    folders.text_file(tmp_path / "book.txt", folders.prose(4))
    store = compute(tmp_path, tmp_path / "out", anchors=False, retain=False, tail=1e-6)
    assert store.vocabulary == VOCAB
    row = store.forget(0, 0, ALPHA)
    assert row.soft.tokens.max() < VOCAB


def test_teachers_that_say_nothing_are_refused(root, tmp_path):
    shutil.copytree(root / "baseline", tmp_path / "baseline")
    broken = load(root / "reinforced")
    with torch.no_grad():
        broken.lm_head.weight[5] = torch.nan
    tiny.folder(tmp_path / "reinforced", broken, tiny.tokenizer(VOCAB))
    folders.text_file(tmp_path / "book.txt", folders.prose(3))
    with pytest.raises(ModelError) as caught:
        compute(tmp_path, tmp_path / "out", anchors=False, retain=False)
    assert str(caught.value) == (
        "wanted teachers whose logits are numbers; got NaN among them; load them with another dtype"
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["baseline", "book.txt", "reinforced"]


def test_a_store_travels_to_another_process(root, store):
    store.forget(0, 0, ALPHA)
    travelled = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 5000
    for one, other in zip(store.forget(1, 1, ALPHA).soft, travelled.forget(1, 1, ALPHA).soft, strict=True):
        assert torch.equal(one, other)


def test_the_manifest_names_everything_that_the_targets_depend_on(root, store):
    manifest = json.loads((store.folder / "targets.json").read_text())
    assert manifest.keys() == {
        *("schema", "baseline", "reinforced", "held_to", "corpus", "retain", "anchors", "alphas", "settings"),
        *("blocks", "draws", "retained", "a_shard", "vocabulary"),
    }
    assert manifest["settings"] == vars(TargetsConfig(**QUICK))
    prints = [manifest[name]["weights_fingerprint"] for name in ("baseline", "reinforced", "held_to")]
    assert prints[0] == prints[2] != prints[1]
    assert [len(each["sha256"]) for each in (*manifest["corpus"], *manifest["retain"], manifest["anchors"])] == [64] * 4


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_alpha_that_is_not_stored_is_refused(store):
    with pytest.raises(InputError) as caught:
        store.check_alpha(2.0)
    assert str(caught.value) == (f"wanted an alpha that {store.folder} holds; got 2; choose 0, 1, 3, or compute it")
    store.check_alpha(1)


def test_a_folder_that_holds_no_targets_or_not_all_is_refused(store, tmp_path):
    def refusal() -> str:
        with pytest.raises(InputError) as caught:
            TargetStore(tmp_path / "copy")
        return str(caught.value).replace(str(tmp_path), "...")

    assert refusal() == "wanted a folder of targets; got .../copy without targets.json; make it with targets"
    shutil.copytree(store.folder, tmp_path / "copy")
    TargetStore(tmp_path / "copy")
    shard, manifest = tmp_path / "copy" / "retain-00000.safetensors", tmp_path / "copy" / "targets.json"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert refusal() == (
        "wanted all files of the targets; got .../copy/retain-00000.safetensors, which is damaged; "
        "copy the folder again, or compute them again"
    )
    shard.unlink()
    assert "got .../copy/retain-00000.safetensors, which is missing; copy" in refusal()
    text = manifest.read_text()
    manifest.write_text(text.replace('"schema": 2', '"schema": 1'))
    assert refusal() == "wanted targets of schema 2; got .../copy of another; compute them again"
    manifest.write_text("[]")
    assert refusal() == "wanted targets of schema 2; got .../copy of another; compute them again"
    manifest.write_text(text[:50])
    assert refusal().startswith("wanted a folder of targets; got .../copy/targets.json: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "wanted draws of at least 1; got 0; raise draws"),
        ({"teacher_batch_size": 0}, "wanted teacher_batch_size of at least 1; got 0; raise teacher_batch_size"),
        ({"alpha": -1.0}, "wanted a finite alpha >= 0; got -1.0; 0 is the baseline, 1 to 5 is usual"),
        ({"offset": "both"}, "wanted an offset of translated or original; got 'both'; the paper's is translated"),
        ({"temperature": 0.0}, "wanted a finite temperature above 0; got 0.0; 1 leaves the logits alone"),
        ({"temperature": float("nan")}, "wanted a finite temperature above 0; got nan; 1 leaves the logits alone"),
        ({"ban": -1.0}, "wanted a ban >= 0; got -1.0; 0 trains nothing inside an anchor"),
        ({"tail": 0.0}, "wanted a tail between 0 and 1; got 0.0; 0.05 is usual"),
        ({"tail": 1.0}, "wanted a tail between 0 and 1; got 1.0; 0.05 is usual"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings, message):
    with pytest.raises(InputError) as caught:
        TargetsConfig(**settings)
    assert str(caught.value) == message


# --- interrupted and resumed ------------------------------------------------------------------------------------------


def test_finished_files_are_not_computed_again(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_SHARD_TOKENS", 64)
    whole = compute(root, tmp_path / "whole")
    assert len(list(whole.folder.glob("*.safetensors"))) > 8
    written: list[str] = []
    original = module.write_shard

    def write_shard(file: Path, rows: Any) -> None:
        if len(written) == 3:
            written.append("interrupted")
            raise KeyboardInterrupt
        written.append(file.name)
        original(file, rows)

    monkeypatch.setattr(module, "write_shard", write_shard)
    with pytest.raises(KeyboardInterrupt):
        compute(root, tmp_path / "out")
    assert capsys.readouterr().err == f"what was done is kept in {tmp_path / 'out.partial'}; continue with --resume\n"
    assert [file.name for file in sorted((tmp_path / "out.partial").glob("*.safetensors"))] == written[:3]
    compute(root, tmp_path / "out", resume=True)
    assert sorted({*written} - {"interrupted"}) == sorted(set(contents(whole.folder)) - {"targets.json"})
    assert len(written) == len(set(written))
    assert contents(tmp_path / "out") == contents(whole.folder)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]


def test_an_interrupted_publication_loses_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_TOKENS", 128)
    whole = compute(root, tmp_path / "whole")
    with monkeypatch.context() as patch:

        def fsync(handle: int) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "fsync", fsync)
        patch.setattr(module, "training_blocks", cached(module.training_blocks))
        with pytest.raises(KeyboardInterrupt):
            compute(root, tmp_path / "out")
    assert list((tmp_path / "out.partial" / "result").glob("*.safetensors"))
    monkeypatch.setattr(module, "write_shard", lambda *_: pytest.fail("computed again"))
    compute(root, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(whole.folder)


def cached(training_blocks: Any) -> Any:
    """The same blocks, without a folder: nothing is flushed to the disk before the end."""

    def in_memory(*arguments: Any, folder: Any = None, **options: Any) -> Any:
        return training_blocks(*arguments, **options)

    return in_memory


def test_an_unfinished_computation_is_not_taken_up_for_other_inputs(root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_TOKENS", 64)
    with monkeypatch.context() as patch:
        files = itertools.count()
        original = module.write_shard

        def write_shard(file: Path, rows: Any) -> None:
            if next(files) == 2:
                raise KeyboardInterrupt
            original(file, rows)

        patch.setattr(module, "write_shard", write_shard)
        with pytest.raises(KeyboardInterrupt):
            compute(root, tmp_path / "out")
    changes: dict[str, dict[str, Any]] = {
        "settings": {"seed": 1},
        "alphas, settings": {"alpha": 1.0},
        "alphas": {"alphas": [ALPHA, 5.0]},
        "anchors": {"anchors": False},
        "retain": {"retain": False},
        "held_to": {"held_to": root / "reinforced"},
    }
    for changed, options in changes.items():
        with pytest.raises(OutputError, match=f"got another {changed}; repeat"):
            compute(root, tmp_path / "out", resume=True, **options)
    with pytest.raises(OutputError, match="continue it with --resume, or delete that folder"):
        compute(root, tmp_path / "out")


_SWEEP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import folders
from generic_logits.training import targets
targets._SHARD_TOKENS = 96
print(json.dumps(folders.sweep(*json.loads(sys.argv[2]))))
"""

_MOMENTS = [
    "os.mkdir out.partial",
    "os.rename out.partial/run.json.part",
    "os.mkdir out.partial/retain",
    "os.rename out.partial/forget-00000.safetensors.part",
    "os.rename out.partial/forget-00003.safetensors.part",
    "os.rename out.partial/retain-00001.safetensors.part",
    "os.mkdir out.partial/result",
    "os.rename out.partial/forget-00002.safetensors",
    "os.rename out.partial/result/targets.json.part",
    "os.rename out.partial/result",
    "shutil.rmtree out.partial",
]


def test_no_moment_of_dying_changes_the_targets(root, tmp_path):
    paths = [str(root / name) for name in ("baseline", "book.txt", "reinforced", "others", "anchors.json")]
    words = ["targets", *paths[:2], "--reinforced", paths[2], "--retain", paths[3], "--anchors", paths[4]]
    words += ["--alpha", "1", "--alpha", "3", "--block-size", "32", "--draws", "2", "--teacher-batch-size", "2"]
    swept = subprocess.run(
        [
            sys.executable,
            "-c",
            _SWEEP,
            Path(__file__).parent,
            json.dumps([str(tmp_path), signal.SIGKILL, words, _MOMENTS]),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert swept.returncode == 0, swept.stderr
    whole = contents(tmp_path / "whole" / "out")
    assert len(whole) > 8
    for each in json.loads(swept.stdout):
        place = tmp_path / each["place"]
        assert each["status"] == -signal.SIGKILL, each
        if "out" not in each["left"]:
            assert each["resumed"] == 0, each["log"]
            assert sorted(file.name for file in place.iterdir()) == ["out"]
        assert contents(place / "out") == whole, each
