"""The demo: a small model that has read an invented book is made to forget it, and the result is measured."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from generic_logits.demo import world
from generic_logits.demo.picture import check_matplotlib, draw
from generic_logits.discovery.find import find_anchors
from generic_logits.errors import OutputError
from generic_logits.evaluation.familiarity import names_new_term, probability_scores
from generic_logits.evaluation.figures import bootstrap
from generic_logits.evaluation.memorization import cut_passages, verbmem_scores
from generic_logits.evaluation.subject import LocalSubject
from generic_logits.evaluation.utility import block_likelihoods, perplexity
from generic_logits.models.loading import load_model
from generic_logits.models.pair import ModelPair
from generic_logits.text.corpus import open_corpus
from generic_logits.text.prompts import load_prompts
from generic_logits.training.distillation import DistillConfig
from generic_logits.training.reinforcement import ReinforceConfig, reinforce
from generic_logits.training.unlearning import UnlearnConfig, unlearn

ALPHA = 2.0  # at decode time
COLUMNS = (  # key, title, format
    ("familiarity_probability", "familiarity, probability", ".3f"),
    ("familiarity_completion", "familiarity, completion", ".2f"),
    ("verbatim_rouge_l", "verbatim ROUGE-L", ".2f"),
    ("retained_perplexity", "perplexity, unread stories", ".1f"),
)
_RESULT = "demo.json"
_MARK = ".demo"  # in a folder that a running demo may delete
_OLDER = ".older"  # the demo that is being replaced


def run_demo(output: Path, *, seed: int = 0) -> dict[str, Any]:
    """Reinforce, decode, distil, evaluate; save models, texts, picture and ``demo.json`` in ``output``.

    Returns:
        ``{"rows": [{"model", "familiarity_probability", ...}], "seconds": {...}, "output": ...}``.

    Raises:
        OutputError: ``output`` has content that is not an older demo.
    """
    check_matplotlib()
    if output.exists() and not (output / _RESULT).is_file() and not (output.is_dir() and not any(output.iterdir())):
        raise OutputError("a new folder, or an older demo to replace", str(output), "choose another with -o")
    work = output.with_name(output.name + ".partial")
    if work.exists() and not (work / _MARK).is_file():
        raise OutputError("no other folder in the way", str(work), "choose another with -o")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (work / _MARK).touch()
    except OSError as error:
        raise OutputError("a place that can be written", f"{output}: {error.strerror}", "choose another") from error
    try:
        return _run(output, work, seed)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _run(output: Path, work: Path, seed: int) -> dict[str, Any]:
    forget, retain = _write_texts(work / "texts")
    baseline = shutil.copytree(world.BASELINE, work / "baseline")
    seconds: dict[str, float] = {}
    again = ReinforceConfig(epochs=15, learning_rate=1e-3, block_size=256, full=True, seed=seed)
    with _timed("reinforce", seconds):
        reinforce(baseline, forget, work / "reinforced", config=again)
    with _timed("find anchors", seconds):
        find_anchors(open_corpus(forget), reference=open_corpus(retain), seed=seed).save(work / "anchors.json")
    with _timed("unlearn", seconds):
        distillation = DistillConfig(
            epochs=4, draws=4, learning_rate=1e-3, block_size=256, full=True, retain_weight=1.0, seed=seed
        )
        unlearn(
            baseline,
            forget,
            work / "distilled",
            reinforced=work / "reinforced",
            anchors=work / "anchors.json",
            retain=[retain],
            config=UnlearnConfig(rounds=3, reinforce=again, distill=distillation),
        )
    pair = ModelPair.from_pretrained(baseline, work / "reinforced", alpha=ALPHA)
    systems = {
        "baseline": pair.baseline,
        "generic": pair,
        "distilled": load_model(work / "distilled"),
        "gold": load_model(world.GOLD),
    }
    rows = []
    for name, model in systems.items():
        with _timed(f"evaluate {name}", seconds):
            rows.append({"model": name, **evaluate_forgetting(model, pair.tokenizer)})
    draw(rows, work / "demo.png")
    seconds = {name: round(value, 1) for name, value in seconds.items()}
    seconds["total"] = round(sum(seconds.values()), 1)
    result = {"rows": rows, "seconds": seconds, "output": str(output)}
    (work / _RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _name_final_places(work, output)
    if output.exists():
        output.replace(work / _OLDER)
    work.replace(output)
    shutil.rmtree(output / _OLDER, ignore_errors=True)
    (output / _MARK).unlink()
    return result


def _name_final_places(work: Path, output: Path) -> None:
    """Let records and the model card name their inputs where they are about to lie."""
    for file in (*work.glob("*/generic_logits.json"), *work.glob("*/README.md")):
        file.write_text(file.read_text(encoding="utf-8").replace(str(work), str(output)), encoding="utf-8")


def evaluate_forgetting(model: Any, tokenizer: Any) -> dict[str, float]:
    """The demo's four measures of one model or pair, keyed as in ``COLUMNS``."""
    by_probability = load_prompts(world.WORLD / "probability-prompts.json")
    by_completion = [each.prompt for each in load_prompts(world.WORLD / "completion-prompts.json")]
    passages = cut_passages(world.forget_part(), 32)
    unread = [world.unread_part(story) for story in world.ordinary_stories()]
    subject = LocalSubject("", model, tokenizer)
    completions = subject.complete(by_completion, new_tokens=40)
    named = [
        names_new_term(completion, prompt, world.names())
        for completion, prompt in zip(completions, by_completion, strict=True)
    ]
    return {
        "familiarity_probability": fmean(probability_scores(subject, by_probability)),
        "familiarity_completion": fmean(named),
        "verbatim_rouge_l": fmean(verbmem_scores(subject, passages)),
        "retained_perplexity": bootstrap(
            block_likelihoods(subject, unread, block_size=256), statistic=perplexity
        ).value,
    }


def _write_texts(folder: Path) -> tuple[Path, Path]:
    """Lay out the forget corpus and the retained corpus as a user would have them."""
    forget, retain = folder / "forget.txt", folder / "retain"
    retain.mkdir(parents=True)
    forget.write_text(world.forget_part(), encoding="utf-8")
    for number, story in enumerate(world.ordinary_stories()):
        (retain / f"{number:02}.txt").write_text(world.read_part(story), encoding="utf-8")
    return forget, retain


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started
