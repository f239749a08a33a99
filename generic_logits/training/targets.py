"""Generic targets of a corpus: what the student shall say, computed once and kept on disk, hard or soft."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import find_executable_batch_size
from torch import Tensor
from torch.nn import Linear

from generic_logits._files import replace_file
from generic_logits._progress import Progress
from generic_logits._record import describe_file, describe_model
from generic_logits.errors import InputError, ModelError
from generic_logits.models.head import instead_of_logits, plain_head
from generic_logits.models.loading import load_model
from generic_logits.models.pair import ModelPair
from generic_logits.ops import Space, check_alpha, check_correction, correct_logits, linear_generic_argmax
from generic_logits.ops.linear import soft_kl_
from generic_logits.text.alignment import TranslatedBlock, translate_block, translate_tokens, untranslated
from generic_logits.text.anchors import Anchors
from generic_logits.text.corpus import Block, Corpora, Corpus, check_distinct, open_corpora, open_corpus
from generic_logits.text.translation import Translator
from generic_logits.training.run import (
    OutputFolder,
    check_counts,
    context_of,
    endless_deck,
    is_first_process,
    leaving_no_trace,
    loading_everywhere,
    processes,
    ready_to_train,
    sample_blocks,
    settings_of,
    training_blocks,
    training_device,
    wait_for_everyone,
)
from generic_logits.training.target_store import (
    MANIFEST,
    SCHEMA,
    SoftTargets,
    Targets,
    shard_name,
    write_shard,
)

Offset = Literal["translated", "original"]
_SHARD_TOKENS = 1 << 15  # positions in a file: little work is lost with one
_BINS, _BINS_A_NAT = 128, 4  # resolution of ``likely_tokens``
_NOTHING = -87.0  # log-probability of next to nothing in float32


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """Settings of ``compute_targets``.

    Attributes:
        alpha: strength of the correction.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        offset: the baseline that the reinforced model is compared with reads the "translated" text (the paper) or the
            "original" one, which costs a third forward pass.
        temperature: the corrected logits are divided by it, because the baseline is too sure of a text that it knows.
        ban: nats taken off an anchor's own remaining tokens inside the anchor; 0 trains nothing there.
        hard: the paper's labels, argmax of the generic logits, instead of the whole distribution.
        paper: the authors' bookkeeping: terms are found token by token, nothing is trained inside an anchor, a
            document's last, shorter block is dropped. Makes ``hard`` true.
        draws: how often each forget block is stored, each time with translations of its own and as many new retained
            blocks beside it.
        tail: probability that soft targets may leave out at each position; an upper bound.
        teacher_batch_size: blocks in a forward pass of the teachers, lowered while the device's memory is too small;
            None begins with 64 on an accelerator and takes 8 on a CPU.
        block_size: tokens in a block; None takes 512 or the model's context, whichever is shorter.
        dtype: of the teachers' weights, as in ``from_pretrained``.
        seed: of the draws.
    """

    alpha: float = 5.0
    space: Space = "logits"
    threshold: float = 0.0
    offset: Offset = "translated"
    temperature: float = 1.0
    ban: float = 30.0
    hard: bool = False
    paper: bool = False
    draws: int = 3
    tail: float = 0.05
    teacher_batch_size: int | None = None
    block_size: int | None = None
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a value outside its range.
        """
        if self.paper:
            object.__setattr__(self, "hard", True)
        check_counts(self, "draws")
        if self.teacher_batch_size is not None:
            check_counts(self, "teacher_batch_size")
        check_alpha(self.alpha)
        check_correction(self.space, self.threshold, "relu")
        if self.offset not in ("translated", "original"):
            raise InputError("an offset of translated or original", repr(self.offset), "the paper's is translated")
        if not 0 < self.temperature < math.inf:
            raise InputError("a finite temperature above 0", repr(self.temperature), "1 leaves the logits alone")
        if not 0 <= self.ban < math.inf:
            raise InputError("a ban >= 0", repr(self.ban), "0 trains nothing inside an anchor")
        if not 0 < self.tail < 1:
            raise InputError("a tail between 0 and 1", repr(self.tail), "0.05 is usual")


def block_targets(
    baseline: Tensor,  # [translated length, vocab], logits on the translated block
    reinforced: Tensor | None,  # [length, vocab], logits on the original block; not used at alpha 0
    block: TranslatedBlock,
    alpha: float,
    config: TargetsConfig,
    *,
    original: Tensor | None = None,  # [length, vocab], the baseline's logits on the original block
) -> tuple[Tensor, Tensor, Tensor]:  # [n] original positions, ascending; [n, vocab] float32; [n] bool
    """Logits at every position that has a target ("Who's Harry Potter?", section 2.2; method steps 3 to 6).

    Mapped positions take the baseline's logits on the translated text, with translations that stand there already
    neutralised, corrected by the reinforced model's on the original. Positions inside an anchor (not the paper's), at
    which the third value is true, take what these say on average, without the anchor's remaining tokens.
    """
    translated = torch.tensor(block.positions)
    inside = torch.zeros(len(translated), dtype=torch.bool)
    if config.ban and not config.paper and (translated >= 0).any():
        inside[[position for position, _ in block.inside]] = True
    positions = ((translated >= 0) | inside).nonzero().flatten()
    inside = inside[positions]
    places = translated[positions].clamp_min(0)  # what this takes for a position inside is overwritten below
    values = baseline[places].float()
    neutralise(values, places, block.named)
    if reinforced is not None and alpha:
        r = reinforced[positions].float()
        of = {"alpha": alpha, "space": config.space, "threshold": config.threshold}
        if config.offset == "original" and original is not None:
            before = original[positions].float()
            if config.space == "logprobs":
                before, values = before.log_softmax(-1), values.log_softmax(-1)
            offset = before - correct_logits(before, r, **of)  # type: ignore[arg-type]
            values = values - offset.masked_fill(before.isneginf(), 0)
        else:
            values = correct_logits(values, r, **of)  # type: ignore[arg-type]
    if config.temperature != 1:
        values = values / config.temperature
    if inside.any():
        others = (~inside).to(values) / (~inside).sum()
        values[inside] = (others @ values.softmax(-1)).log()
        for row, (_, tokens) in zip(inside.nonzero().flatten().tolist(), block.inside, strict=True):
            values[row, list(tokens)] -= config.ban
    return positions, values, inside


def neutralise(
    logits: Tensor,  # [n, vocab]
    places: Tensor,  # [n] translated positions that the rows stand at
    named: Sequence[tuple[int, int]],
) -> None:
    """Give each named token, in rows behind its position, the row's mean logit, in place (method step 5)."""
    if not named:
        return
    mean = logits.mean(-1)
    for position, token in named:
        behind = places > position
        logits[behind, token] = mean[behind]


def likely_tokens(
    log_probs: Tensor,  # [n, vocab] float32
    tail: float,
) -> SoftTargets:
    """Keep the likely tokens of each row, so that what is left out has a probability of at most ``tail``.

    One pass into bins a quarter of a nat wide finds where to cut; nothing is sorted. The gradient of the KL with the
    remainder lumped together differs from the full one by at most 2 * tail in the L1 norm, a position, and by what
    float16 rounds off: up to 0.4 % of each probability above 1e-7.
    """
    bins = (log_probs * -_BINS_A_NAT).clamp_(0, _BINS - 1).to(torch.int64)
    mass = torch.zeros(len(log_probs), _BINS, device=log_probs.device).scatter_add_(1, bins, log_probs.exp())
    behind = torch.nn.functional.pad(mass.flip(1).cumsum(1).flip(1), (0, 1))  # of a bin and all less likely ones
    first_cut = (behind > tail).sum(1, keepdim=True)
    least = (first_cut / -_BINS_A_NAT).masked_fill(first_cut == _BINS, _NOTHING)
    kept = log_probs > least
    places = kept.flatten().nonzero().flatten()
    return SoftTargets(
        counts=kept.sum(1, dtype=torch.int32),
        tokens=(places % log_probs.shape[1]).to(torch.int32),
        log_probs=log_probs.flatten()[places].to(torch.float16),
        rest=behind.gather(1, first_cut).squeeze(1),
    )


def distance_to_soft(
    student: Tensor,  # [rows, vocab] logits
    positions: Tensor,  # [n] rows that have a target, ascending
    targets: SoftTargets,
    weights: Tensor | None = None,  # [n]; None counts each position once
) -> Tensor:  # []
    """Weighted KL(target || student), a position's mean, in nats; the tail is counted as one further token.

    The sum is divided by the number of positions, not by the sum of their weights.
    """
    if weights is None:
        weights = torch.ones(len(positions), device=positions.device)
    distance: Tensor = _SoftDistance.apply(student, positions, targets, weights)  # type: ignore[no-untyped-call]
    return distance


class _SoftDistance(torch.autograd.Function):
    """The distance, with its gradient computed beside it."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, positions: Tensor, targets: SoftTargets, weights: Tensor) -> Tensor:
        gradient = student[positions].float()
        total = soft_kl_(gradient, *targets, weights)
        ctx.save_for_backward(gradient, positions)
        ctx.like = student.shape, student.dtype
        return total / len(positions)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None, None]:
        of_positions, positions = ctx.saved_tensors
        shape, dtype = ctx.like
        gradient = of_positions.new_zeros(shape, dtype=dtype)
        gradient[positions] = (of_positions * (above[0] / len(positions))).to(dtype)
        return gradient, None, None, None


def compute_targets(
    baseline: str | Path,
    corpus: str | Path | Corpus,
    output: str | Path,
    *,
    reinforced: str | Path,
    retain: Sequence[str | Path] | Corpora = (),
    anchors: str | Path | None = None,
    alphas: Sequence[float] = (),
    held_to: str | Path | None = None,
    config: TargetsConfig | None = None,
    resume: bool = False,
) -> Path:
    """Compute generic targets and store them, so that ``distill`` needs no teacher.

    Args:
        baseline: model folder or hub name.
        corpus: the forget corpus, see ``open_corpus``.
        output: folder to create: ``targets.json`` and safetensors files (see ``TargetStore``).
        reinforced: model or adapter folder made by ``reinforce`` from the same baseline.
        retain: corpora on which the student shall stay as it is.
        anchors: dictionary file; None translates nothing.
        alphas: strengths to store side by side, for little more than the price of one; none takes ``config.alpha``.
        held_to: the model whose word counts on ``retain``; None takes ``baseline``.
        config: settings.
        resume: take up an unfinished computation of the same inputs and settings, if there is one.

    Returns:
        ``output`` as a path.

    Raises:
        InputError: a model, corpus, dictionary, setting or output folder that cannot be used (see ``errors``).
        StorageError: the disk filled up; finished files are kept.
        KeyboardInterrupt: Ctrl-C; finished files are kept.
    """
    config = config or TargetsConfig()
    strengths = sorted({check_alpha(alpha) for alpha in alphas or (config.alpha,)})
    folder = OutputFolder(output, resume=resume)
    forget = open_corpus(corpus)
    retained = open_corpora(retain)
    check_distinct([("forget", forget), ("retain", retained)])
    dictionary = Anchors.load(anchors) if anchors else None
    teachers = _load_teachers(baseline, reinforced, held_to, strengths, config)
    tokenizer = teachers.pair.tokenizer
    inputs = {
        "baseline": describe_model(baseline),
        "reinforced": describe_model(reinforced),
        "held_to": describe_model(held_to or baseline),
        "corpus": forget.files,
        "retain": retained.files,
        "anchors": describe_file(anchors) if anchors else None,
        "alphas": strengths,
        "settings": settings_of(config),
    }
    with leaving_no_trace(folder):
        folder.open({"command": "targets", **inputs})
        translate = _Translation(dictionary, tokenizer, config, context_of(teachers.pair.baseline))
        cut = (tokenizer, config, teachers.pair.baseline)
        blocks = training_blocks(forget, *cut, folder=folder.work / "forget", keep_together=translate.keep_together)
        others: Sequence[Block] = ()
        if retained.files:
            others = training_blocks(retained, *cut, folder=folder.work / "retain")
        rows = _Rows(_without_short_last(blocks) if config.paper else blocks, others, translate, config)
        if is_first_process():
            _move_shards(folder.work / "result", folder.work)  # of a publication that was interrupted
        wait_for_everyone()
        _compute(rows, teachers, folder)

        def gather(result: Path) -> None:
            _move_shards(folder.work, result)
            counts = {"blocks": rows.blocks, "draws": rows.draws, "retained": rows.retained, "a_shard": rows.a_shard}
            manifest = {"schema": SCHEMA, **inputs, **counts, "vocabulary": teachers.pair.vocab_size}
            replace_file(result / MANIFEST, json.dumps(manifest, indent=2))

        wait_for_everyone()
        folder.publish(gather)
        wait_for_everyone()
        return folder.path


def _move_shards(source: Path, destination: Path) -> None:
    for file in source.glob("*.safetensors"):
        file.replace(destination / file.name)


@dataclass(frozen=True)
class _Teachers:
    """Who says what: the pair on forget rows, the keeper on retained ones."""

    pair: ModelPair
    keeper: Any
    alphas: list[float]
    config: TargetsConfig

    @torch.no_grad()
    def on_forget(self, rows: Sequence[TranslatedBlock]) -> Iterator[dict[float, Targets]]:
        """Targets of each row, by alpha; one pass of either model (of the baseline two, see offset)."""
        translated = self._logits(self.pair.baseline, [row.translated_ids for row in rows])
        original = reinforced = None
        if max(self.alphas):
            reinforced = self._logits(self.pair.reinforced, [row.token_ids for row in rows])
            if self.config.offset == "original":
                original = self._logits(self.pair.baseline, [row.token_ids for row in rows])
        for number, row in enumerate(rows):
            if reinforced is not None and self._labels_suffice(row, translated, reinforced):
                yield {alpha: self._favourites(row, number, alpha, translated, reinforced) for alpha in self.alphas}
                continue
            g = translated.of_row(number)
            r = reinforced.of_row(number) if reinforced is not None else None
            o = original.of_row(number) if original is not None else None
            stored: dict[float, Targets] = {}
            for alpha in self.alphas:
                positions, values, inside = block_targets(g, r, row, alpha, self.config, original=o)
                stored[alpha] = Targets(positions.cpu(), self._fields(values, hard=self.config.hard), inside.cpu())
            yield stored

    @torch.no_grad()
    def on_retained(self, rows: Sequence[Block]) -> Iterator[dict[float, Targets]]:
        """Soft targets of each row, the keeper's own word, under alpha 0."""
        said = self._logits(self.keeper, [row.token_ids for row in rows])
        for number, row in enumerate(rows):
            length = len(row.token_ids)
            fields = self._fields(said.of_row(number)[:length].float(), hard=False)
            yield {0.0: Targets(torch.arange(length), fields, torch.zeros(length, dtype=torch.bool))}

    def _labels_suffice(self, row: TranslatedBlock, translated: _Logits, reinforced: _Logits) -> bool:
        """Whether nothing but the correction happens to a row, and nobody asks for more than its labels."""
        plain = self.config.offset == "translated" and not row.named and not row.inside
        return self.config.hard and plain and None not in (translated.head, reinforced.head)

    def _favourites(
        self, row: TranslatedBlock, number: int, alpha: float, translated: _Logits, reinforced: _Logits
    ) -> Targets:
        """Hard labels of such a row, without its logits."""
        places = torch.tensor(row.positions)
        positions = (places >= 0).nonzero().flatten()
        g, of_g, g_bias = translated.before_head(number, places[positions])
        r, of_r, r_bias = reinforced.before_head(number, positions)
        labels = linear_generic_argmax(
            g,
            of_g,
            r,
            of_r,
            alpha,
            baseline_bias=g_bias,
            reinforced_bias=r_bias,
            space=self.config.space,
            threshold=self.config.threshold,
        )
        _check_numbers(torch.where(labels < 0, math.nan, 0.0))
        inside = torch.zeros(len(positions), dtype=torch.bool)
        return Targets(positions, {"labels": labels.to(torch.int32).cpu()}, inside)

    def _logits(self, model: Any, rows: Sequence[tuple[int, ...]]) -> _Logits:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
        head = self._heads[id(model)]
        with instead_of_logits(head, lambda hidden: hidden) if head is not None else nullcontext():
            states = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return _Logits(states, head, self.pair.vocab_size)

    @cached_property
    def _heads(self) -> dict[int, Linear | None]:
        """The head of each model, by its identity, where it can be used apart."""
        models = {id(model): model for model in (self.pair.baseline, self.pair.reinforced, self.keeper)}
        return {number: plain_head(model) for number, model in models.items()}

    def _fields(self, values: Tensor, *, hard: bool) -> dict[str, Tensor]:
        if hard:
            _check_numbers(values.sum(-1))
            return {"labels": values.argmax(-1).to(torch.int32).cpu()}
        log_probs = values.log_softmax(-1)
        _check_numbers(log_probs[:, 0])  # one NaN makes a row of them
        return {name: each.cpu() for name, each in likely_tokens(log_probs, self.config.tail)._asdict().items()}


@dataclass(frozen=True)
class _Logits:
    """Logits of some rows, made when they are asked for where a head can be used apart."""

    states: Tensor  # [rows, length, hidden]; without a head logits, [rows, length, vocab of the head]
    head: Linear | None
    vocabulary: int

    def of_row(self, row: int) -> Tensor:  # [length, vocab]
        logits: Tensor = self.states[row] if self.head is None else self.head(self.states[row])
        return logits[:, : self.vocabulary]

    def before_head(self, row: int, places: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden states at some places, and the head: [n, hidden], [vocab, hidden], [vocab]."""
        head: Any = self.head
        bias = None if head.bias is None else head.bias[: self.vocabulary]
        return self.states[row, places], head.weight[: self.vocabulary], bias


def _check_numbers(values: Tensor) -> None:
    if values.isnan().any():
        raise ModelError("teachers whose logits are numbers", "NaN among them", "load them with another dtype")


class _Translation:
    """How a forget block is translated in each of the draws."""

    def __init__(self, dictionary: Anchors | None, tokenizer: Any, config: TargetsConfig, context: int | None) -> None:
        self._translator = Translator(dictionary) if dictionary else None
        self._tokenizer = tokenizer
        self._config = config
        self._context = context
        self.draws = config.draws if dictionary else 1

    @property
    def keep_together(self) -> Callable[[str], list[tuple[int, int]]] | None:
        """Which characters a block should not be cut between."""
        return self._translator.spans if self._translator and not self._config.paper else None

    def __call__(self, block: Block, row: int) -> TranslatedBlock:
        if self._translator is None:
            return untranslated(block)
        draw = random.Random(f"{self._config.seed} {row}")
        if self._config.paper:
            translated = translate_tokens(block, self._translator.anchors.values(), self._tokenizer, draw)
        else:
            translated = translate_block(block, self._translator, self._tokenizer, draw)
        return _within(self._context, translated)


def _within(context: int | None, block: TranslatedBlock) -> TranslatedBlock:
    """Leave out what a longer translation has beyond the model's context; nothing is trained there."""
    if context is None or len(block.translated_ids) <= context:
        return block
    positions = tuple(each if each < context else -1 for each in block.positions)
    return replace(block, translated_ids=block.translated_ids[:context], positions=positions)


class _Rows:
    """Every row of the store, in its order."""

    def __init__(
        self, blocks: Sequence[Block], others: Sequence[Block], translate: _Translation, config: TargetsConfig
    ) -> None:
        self._blocks, self._others, self._translate = blocks, others, translate
        self.blocks = len(blocks)
        self.draws = translate.draws
        self.retained = config.draws * len(blocks) if others else 0
        self.a_shard = max(1, _SHARD_TOKENS // max(map(len, sample_blocks(blocks))))
        self._deck = endless_deck(len(others), self.retained, config.seed)

    def shards(self) -> list[tuple[str, range]]:
        """(part, numbers of its rows) of every file."""
        sizes = {"forget": self.draws * self.blocks, "retain": self.retained}
        return [
            (part, range(start, min(size, start + self.a_shard)))
            for part, size in sizes.items()
            for start in range(0, size, self.a_shard)
        ]

    def compute(
        self, part: str, numbers: range, teachers: _Teachers
    ) -> list[tuple[Sequence[int], dict[float, Targets]]]:
        """(token ids, targets by alpha) of some rows, in one batch."""
        if part == "retain":
            kept = [self._others[self._deck[number]] for number in numbers]
            return [(row.token_ids, of_row) for row, of_row in zip(kept, teachers.on_retained(kept), strict=True)]
        rows = [self._translate(self._blocks[number % self.blocks], number) for number in numbers]
        return [(row.token_ids, of_row) for row, of_row in zip(rows, teachers.on_forget(rows), strict=True)]


def _compute(rows: _Rows, teachers: _Teachers, folder: OutputFolder) -> None:
    """Fill the working folder with the files that it does not hold yet; the processes of a launch share them."""
    number, count = processes()
    mine = rows.shards()[number::count]

    def fill(batch_size: int) -> None:
        total = sum(len(numbers) for _, numbers in mine)
        with Progress(total=total, desc="targets", unit="block") as bar:
            for part, numbers in mine:
                file = folder.work / shard_name(part, numbers[0] // rows.a_shard)
                if file.exists():
                    bar.update(len(numbers))
                    continue
                computed = []
                for start in range(0, len(numbers), batch_size):
                    batch = numbers[start : start + batch_size]
                    computed += rows.compute(part, batch, teachers)
                    bar.update(len(batch))
                write_shard(file, computed)
                folder.keep()

    usual = 8 if teachers.pair.baseline.device.type == "cpu" else 64
    find_executable_batch_size(fill, starting_batch_size=teachers.config.teacher_batch_size or usual)()


def _load_teachers(
    baseline: str | Path,
    reinforced: str | Path,
    held_to: str | Path | None,
    alphas: list[float],
    config: TargetsConfig,
) -> _Teachers:
    with loading_everywhere():
        pair = ModelPair.from_pretrained(baseline, reinforced, alpha=max(alphas), dtype=config.dtype)
        keeper = load_model(held_to, dtype=config.dtype) if held_to else pair.baseline
    if getattr(pair.baseline, "is_quantized", False):
        raise ModelError("a baseline in full precision", f"quantised weights in {baseline}", "distil the original")
    for model in (pair.baseline, pair.reinforced, keeper):
        ready_to_train(model).to(training_device())
    return _Teachers(pair, keeper, alphas, config)


def _without_short_last(blocks: Sequence[Block]) -> list[Block]:
    """Drop every document's last block where it is shorter than the longest, as the authors' script does.

    Raises:
        InputError: nothing is left.
    """
    full = max(len(block.token_ids) for block in blocks)
    ends = [one.document != other.document for one, other in pairwise(blocks)] + [True]
    kept = [block for block, last in zip(blocks, ends, strict=True) if not last or len(block.token_ids) == full]
    if not kept:
        raise InputError("a document of at least one full block in paper mode", f"{full} tokens", "lower block_size")
    return kept
