"""Alpha, threshold and space, chosen on one part of the corpora so that the other part can judge the choice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generic_logits._progress import Progress
from generic_logits._record import describe_file, describe_model, software_versions
from generic_logits.errors import CorpusError, InputError
from generic_logits.evaluation.candidates import placement
from generic_logits.evaluation.figures import Figure, bootstrap
from generic_logits.evaluation.frontier import draw_frontier
from generic_logits.evaluation.material import find_terms, sample_text
from generic_logits.evaluation.utility import Nats, perplexity, token_mean
from generic_logits.evaluation.verdict import PERPLEXITY_LOST, PERPLEXITY_REDUCED
from generic_logits.models.pair import ModelPair
from generic_logits.models.scoring import device_of, padded, sequence_logits
from generic_logits.ops import Space, check_alpha, check_correction, correct_logits
from generic_logits.text.corpus import Corpus, Document, check_distinct, cut_blocks, open_corpus
from generic_logits.text.prompts import encode_prompts, make_probability_prompts
from generic_logits.training.run import OutputFolder, context_of, leaving_no_trace, sample_blocks

SCHEMA = 1
_MANY = 8  # documents that are divided as wholes
_CHARACTERS = 1 << 21  # of a corpus that are read for prompts and blocks
_SCORES = 1 << 25  # logits in memory at once, of each branch
_POSITIONS = 1 << 23  # corrected at once


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Settings of ``calibrate``.

    Attributes:
        familiarity: wanted mean probability of the prompts' targets, at most.
        perplexity: wanted perplexity of retained text, at most, as a multiple of the baseline's, 1 or more. One of the
            two is given, or neither for the knee (see ``choose``).
        alphas: strengths to try; 0 is always among the points.
        thresholds: to try with each alpha, in nats.
        spaces: to try with each alpha.
        prompts: beginnings made from the forgotten text.
        blocks: of retained text.
        block_size: tokens in a block; None takes 512 or the model's context, whichever is shorter.
        seed: of prompts and intervals.
        dtype: of the weights, as in ``from_pretrained``.
    """

    familiarity: float | None = None
    perplexity: float | None = None
    alphas: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0)
    thresholds: Sequence[float] = (0.0, 0.1, 0.5)
    spaces: Sequence[Space] = ("logits", "logprobs")
    prompts: int = 60
    blocks: int = 64
    block_size: int | None = None
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: a number or a name outside its range, or nothing to try.
        """
        for name in ("alphas", "thresholds", "spaces"):
            if not getattr(self, name):
                raise InputError(f"at least one of {name}", "none", "leave it out for the usual ones")
        for alpha in self.alphas:
            check_alpha(alpha)
        for space in self.spaces:
            for threshold in self.thresholds:
                check_correction(space, threshold, "relu")
        if self.familiarity is not None and not 0 < self.familiarity < 1:
            raise InputError("a familiarity between 0 and 1", repr(self.familiarity), "0.02 is little")
        if self.perplexity is not None and not 1 <= self.perplexity < math.inf:
            raise InputError("a perplexity of 1 or more baselines", repr(self.perplexity), "1.1 is a tenth more")
        if self.familiarity is not None and self.perplexity is not None:
            raise InputError("a familiarity or a perplexity", "both", "give one; the other is what it costs")
        for name, least in (("prompts", 1), ("blocks", 2), ("block_size", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} of at least {least}", repr(value), f"raise {name}")


@dataclass(frozen=True)
class Point:
    """A setting, and what it does to the calibration part.

    Attributes:
        familiarity: mean probability of the prompts' targets.
        perplexity: of retained text.
        divergence: mean KL(baseline || generic) of a token of retained text, in nats.
    """

    space: Space
    threshold: float
    alpha: float
    familiarity: Figure
    perplexity: Figure
    divergence: Figure


@dataclass(frozen=True)
class Calibration:
    """What was tried, and what was chosen.

    Attributes:
        points: every setting; the first one is the baseline, alpha 0.
        chosen: one of them.
        reached: whether what was wanted was; True for the knee.
        objective: what was wanted, in words.
        warnings: what the chosen setting costs, where ``evaluate`` would call that less ability.
    """

    points: Sequence[Point]
    chosen: Point
    reached: bool
    objective: str
    warnings: Sequence[str] = ()


def calibrate(
    baseline: str | Path,
    reinforced: str | Path,
    forget: str | Path | Corpus,
    retain: Sequence[str | Path | Corpus],
    output: str | Path,
    *,
    anchors: str | Path | None = None,
    config: CalibrateConfig | None = None,
) -> Calibration:
    """Choose the correction's settings on a part of the corpora, and leave the rest of them for the verdict.

    The objective is the least perplexity of retained text at the wanted familiarity, the least familiarity at the
    wanted perplexity, or the knee between both (see ``choose``). Both branches run once over each block and prompt;
    every setting is applied to the same logits.

    Args:
        baseline: model folder or hub name.
        reinforced: model or adapter folder made from it.
        forget: corpus that shall be forgotten.
        retain: corpora whose perplexity is the price.
        output: folder to create: ``calibration.json``, ``frontier.svg``, and in ``test/`` the text that took no part.
        anchors: dictionary file; terms are found in the calibration part if not given.
        config: settings.

    Raises:
        InputError: a model, corpus, setting or output folder that cannot be used, or a text to forget and to retain.
        StorageError: the disk filled up.
    """
    config = config or CalibrateConfig()
    folder = OutputFolder(output, resume=True)
    if not retain:
        raise InputError("a retained corpus, on which the price is measured", "none", "give --retain CORPUS")
    corpora = {"forget": [open_corpus(forget)], "retain": [open_corpus(path) for path in retain]}
    check_distinct([(name, corpus) for name, of_name in corpora.items() for corpus in of_name])
    parts = {name: [Part(corpus, test=False) for corpus in of_name] for name, of_name in corpora.items()}
    tests = {name: [Part(corpus, test=True) for corpus in of_name] for name, of_name in corpora.items()}
    text = sample_text(parts["forget"][0], _CHARACTERS)
    terms = find_terms(anchors, parts["forget"][0], parts["retain"], text, config.seed)
    prompts = make_probability_prompts(text, terms, count=config.prompts, seed=config.seed)
    with leaving_no_trace(folder):
        pair = ModelPair.from_pretrained(baseline, reinforced, alpha=0.0, dtype=config.dtype, **placement())
        blocks = _blocks(pair, parts["retain"], config)
        points = _measure(pair, encode_prompts(pair.tokenizer, prompts), blocks, config)
        chosen, reached = choose(points, familiarity=config.familiarity, perplexity=config.perplexity)
        found = Calibration(points, chosen, reached, _objective(config), warnings_of(points, chosen))
        folder.open({"command": "calibrate"})

        def save(result: Path) -> None:
            record = {
                "schema": SCHEMA,
                "settings": {name: getattr(chosen, name) for name in ("alpha", "threshold", "space")},
                "objective": found.objective,
                "reached": reached,
                "warnings": found.warnings,
                "baseline": describe_model(baseline),
                "reinforced": describe_model(reinforced),
                "anchors": describe_file(anchors) if anchors else "found in the calibration part",
                "corpora": {name: [part.about() for part in of_name] for name, of_name in parts.items()},
                "test": {name: [part.about() for part in of_name] for name, of_name in tests.items()},
                "config": asdict(config),
                "points": [asdict(point) for point in points],
                "versions": software_versions(),
            }
            (result / "calibration.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            (result / "frontier.svg").write_text(draw_frontier(points, chosen, frontier(points)), encoding="utf-8")
            (result / "test").mkdir()
            for name, of_name in tests.items():
                with (result / "test" / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                    for document in (document for part in of_name for document in part):
                        file.write(json.dumps({"text": document.text, "from": document.name}) + "\n")

        folder.publish(save)
    return found


class Part:
    """The calibration or the test part of a corpus; read anew at every iteration.

    Of eight documents or more every other one is for the test; otherwise the second half of each is, from a line or a
    word near the middle on. Where the cut falls depends on the lengths of texts and on the calibration part's white
    space alone.

    Attributes:
        files: name and size in characters, as of a corpus.
    """

    def __init__(self, corpus: Corpus, *, test: bool) -> None:
        """Divide a corpus; it is read once to its end."""
        self._corpus, self._test = corpus, test
        self._whole = sum(1 for _ in corpus) >= _MANY
        digest, self._documents, characters = hashlib.sha256(), 0, 0
        for document in self:
            digest.update(document.text.encode())
            self._documents, characters = self._documents + 1, characters + len(document.text)
        self._digest = digest.hexdigest()
        self.files: list[dict[str, Any]] = [{"file": corpus.name, "characters": characters}]
        if not test and not characters:
            raise CorpusError("a corpus that can be divided in two", f"too little text in {corpus.name}", "give more")

    def __iter__(self) -> Iterator[Document]:
        """Read the documents of this part."""
        for number, document in enumerate(self._corpus):
            if self._whole:
                if number % 2 == self._test:
                    yield document
                continue
            cut = _middle(document.text)
            text = document.text[cut:] if self._test else document.text[:cut]
            if text.strip():
                yield replace(document, text=text, start=document.start + cut * self._test)

    def about(self) -> dict[str, Any]:
        """For the record: which part this is."""
        rule = "every other document" if self._whole else "one half of each document"
        read = {name: value for name, value in self._corpus.files[0].items() if name in ("text_field", "joined")}
        return {**self.files[0], **read, "rule": rule, "documents": self._documents, "sha256": self._digest}


def _middle(text: str) -> int:
    """Where the second half begins: behind the last line that ends in the first half, else behind a word of it."""
    half = len(text) // 2
    return text.rfind("\n", half // 2, half) + 1 or text.rfind(" ", half // 2, half) + 1 or half


def _blocks(pair: ModelPair, parts: Sequence[Part], config: CalibrateConfig) -> list[tuple[int, ...]]:
    context = context_of(pair.baseline)
    size = config.block_size or min(512, context or 512)
    if context and size > context:
        raise InputError(f"a block size of at most {context}", str(size), "lower it")
    texts = (Document(part.files[0]["file"], sample_text(part, _CHARACTERS), "") for part in parts)
    blocks = [block for block in cut_blocks(texts, pair.tokenizer, size) if len(block.token_ids) > 1]
    chosen = sample_blocks(blocks, config.blocks)
    if len(chosen) < 2:
        got = f"{len(chosen)} of {size} tokens"
        raise CorpusError("two blocks of retained text", got, "give more retained text, or lower block_size")
    return chosen


def _measure(
    pair: ModelPair,
    prompts: Sequence[tuple[list[int], list[int]]],
    blocks: Sequence[tuple[int, ...]],
    config: CalibrateConfig,
) -> list[Point]:
    rows = [((*prompt, *target), len(prompt)) for prompt, target in prompts] + [(block, 1) for block in blocks]
    lines = [(space, threshold) for space in config.spaces for threshold in config.thresholds]
    alphas = sorted({check_alpha(alpha) for alpha in config.alphas} - {0.0})
    settings: list[tuple[Space, float, float]] = [(*lines[0], 0.0)]
    settings += [(space, threshold, alpha) for space, threshold in lines for alpha in alphas]
    known: list[list[float]] = [[] for _ in settings]  # of each prompt
    surprise: list[list[Nats]] = [[] for _ in settings]  # of each block
    moved: list[list[Nats]] = [[] for _ in settings]
    bar = Progress(total=len(rows), desc="calibrating", unit="row")
    for number, (first, b, r, true) in enumerate(_logits(pair, rows)):
        scores = _score(b[first - 1 :], r[first - 1 :], true[first - 1 :], lines, alphas)
        for at, (log_prob, distance) in enumerate(scores):
            if number < len(prompts):
                known[at].append(math.exp(log_prob))
            else:
                surprise[at].append((-log_prob, len(true)))
                moved[at].append((distance, len(true)))
        bar.update()
    bar.close()
    return [
        Point(
            *setting,
            bootstrap(known[at], seed=config.seed),
            bootstrap(surprise[at], statistic=perplexity, seed=config.seed),
            bootstrap(moved[at], statistic=token_mean, seed=config.seed),
        )
        for at, setting in enumerate(settings)
    ]


@torch.no_grad()
def _logits(
    pair: ModelPair, rows: Sequence[tuple[tuple[int, ...], int]]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:  # first predicted token, [length - 1, vocab] twice, [length - 1]
    """Both branches' logits of every row, as many rows at once as fit."""
    start = 0
    while start < len(rows):
        longest, end = 0, start
        while end < len(rows):
            longest = max(longest, len(rows[end][0]))
            if end > start and (end + 1 - start) * longest * pair.vocab_size > _SCORES:
                break
            end += 1
        batch = [row for row, _ in rows[start:end]]
        ids, mask = padded(batch, device_of(pair))
        b, r = (
            sequence_logits(model, ids, mask)[:, :-1, : pair.vocab_size] for model in (pair.baseline, pair.reinforced)
        )
        for at, row in enumerate(batch):
            length = len(row) - 1
            yield rows[start + at][1], b[at, :length], r[at, :length], ids[at, 1 : length + 1]
        start = end


def _score(
    b: Tensor,  # [positions, vocab]
    r: Tensor,  # [positions, vocab]
    true: Tensor,  # [positions]
    lines: Sequence[tuple[Space, float]],  # space, threshold
    alphas: Sequence[float],
) -> list[tuple[float, float]]:
    """The baseline's and each setting's log-probability of the true tokens together, and KL(baseline || it), in nats.

    The correction is linear in alpha, so each line is corrected once, at alpha 1, where it changes the scores by c.
    With log p of the baseline, log q = log p + alpha c - z; the KL is z - alpha sum(p c), and log q of the true token
    tells z.
    """
    sums = torch.zeros(1 + len(lines) * len(alphas), 2, dtype=torch.float64)
    step = max(1, _POSITIONS // b.shape[-1])
    for at in range(0, len(true), step):
        rows = slice(at, at + step)
        before, raised, chosen = b[rows].float(), r[rows].float(), true[rows, None]
        share = before.softmax(-1)
        usual = _total(before.log_softmax(-1).gather(-1, chosen))
        scores = [(usual, 0.0)]
        for space, threshold in lines:
            change = correct_logits(before, raised, 1.0, space=space, threshold=threshold).sub_(before).nan_to_num_(0.0)
            moved = _total(change.gather(-1, chosen)) - _total(share.mul(change).sum(-1))
            for alpha in alphas:
                log_prob = _total(torch.add(before, change, alpha=alpha).log_softmax(-1).gather(-1, chosen))
                scores.append((log_prob, usual + alpha * moved - log_prob))
        sums += torch.tensor(scores, dtype=torch.float64)
    return [(log_prob, distance) for log_prob, distance in sums.tolist()]


def _total(values: Tensor) -> float:
    return float(values.double().sum())


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both familiarity and perplexity, from the least familiar to the most."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.familiarity.value, each.perplexity.value)):
        if not best or point.perplexity.value < best[-1].perplexity.value:
            best.append(point)
    return best


def choose(
    points: Sequence[Point], *, familiarity: float | None = None, perplexity: float | None = None
) -> tuple[Point, bool]:
    """Choose a point, and say whether it has what was wanted.

    With a wanted familiarity: the baseline if it is that little familiar, else the least perplexity among the points
    that are; the least familiar point if none is. With a wanted perplexity, a multiple of the baseline's: the least
    familiar point within it. With neither: the knee, the point furthest below the line from the baseline to a point
    that is not familiar at all and costs ``PERPLEXITY_LOST`` times the baseline's perplexity, on a logarithmic scale
    (Satopaa et al. 2011, "Finding a 'Kneedle' in a Haystack", with fixed ends, so that it makes no difference how far
    the settings reach).

    Args:
        points: the baseline, alpha 0, first.
        familiarity: wanted at most.
        perplexity: wanted at most.
    """
    if familiarity is not None:
        reached = [point for point in points if point.familiarity.value <= familiarity]
        if points[0] in reached:
            return points[0], True
        if reached:
            return min(reached, key=lambda point: (point.perplexity.value, point.familiarity.value)), True
        return frontier(points)[0], False
    usual = points[0]
    limit = (perplexity or PERPLEXITY_LOST) * usual.perplexity.value
    affordable = frontier([point for point in points if point.perplexity.value <= limit])
    if perplexity is not None:
        return affordable[0], True

    if not usual.familiarity.value:
        return usual, True

    def above_corner(point: Point) -> float:
        left = point.familiarity.value / usual.familiarity.value
        return left + math.log(point.perplexity.value / usual.perplexity.value) / math.log(PERPLEXITY_LOST)

    return min((usual, *affordable), key=above_corner), True


def _objective(config: CalibrateConfig) -> str:
    if config.familiarity is not None:
        return f"the least retained perplexity at a familiarity of at most {config.familiarity:g}"
    if config.perplexity is not None:
        return f"the least familiarity within {config.perplexity:g} times the baseline's retained perplexity"
    return f"the knee between the baseline and no familiarity at {PERPLEXITY_LOST:g} times its retained perplexity"


def price(point: Point, baseline: Point) -> float:
    """Retained perplexity as a multiple of the baseline's."""
    return point.perplexity.value / baseline.perplexity.value


def beside(value: float, limit: float | None, digits: int) -> str:
    """A number, with more digits where it would otherwise look like a limit that it is not."""
    for more in range(digits, digits + 3):
        if limit is None or value == limit or f"{value:.{more}f}" != f"{limit:.{more}f}":
            return f"{value:.{more}f}"
    return f"{value:.6g}"


def warnings_of(points: Sequence[Point], chosen: Point) -> list[str]:
    """What a chosen point costs, if ``evaluate`` would call that reduced or lost ability; see ``Calibration``."""
    baseline = points[0]
    costs = price(chosen, baseline)
    if costs < PERPLEXITY_REDUCED:
        return []
    ability = "lost" if costs >= PERPLEXITY_LOST else "reduced"
    warning = (
        f"It costs {beside(costs, PERPLEXITY_LOST, 2)} times the baseline's retained perplexity, which evaluate calls "
        f"{ability} ability."
    )
    if ability == "lost":
        spared = frontier([point for point in points if price(point, baseline) < PERPLEXITY_LOST])[0]
        setting = f"alpha {spared.alpha:g}, threshold {spared.threshold:g}, {spared.space}"
        warning += (
            f" The least familiar setting below {PERPLEXITY_LOST:g} times is "
            f"{setting if spared is not baseline else 'no correction'}: familiarity {spared.familiarity.value:.3f} at "
            f"{beside(price(spared, baseline), PERPLEXITY_LOST, 2)} times."
        )
    return [warning]
