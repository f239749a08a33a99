"""One report on real books: ``python -m benchmarks.evaluation --data DATA --work FOLDER [--quick]``.

Baseline, generic decoding at three alphas, the unlearned model, gradient ascent (stopped when it costs too much, and
not stopped), two cheats that refuse to speak of the book (a filter in front of the baseline, and the baseline trained
to refuse), and gold, with the same prompts and seeds. Prints the table, and the models in the order of what they know;
models stay in the working folder, so that a second run makes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import peers
from benchmarks.books import ROWS, Study
from benchmarks.worlds import World, oz_world
from generic_logits import EvaluateConfig, Report, evaluate
from generic_logits.evaluation.candidates import Candidate, checkpoint, given, pair
from generic_logits.evaluation.material import Counts, Material, gather_material
from generic_logits.evaluation.subject import LocalSubject
from generic_logits.models.loading import load_model
from generic_logits.text.corpus import encode_prompt

ALPHAS = (1.0, 2.0, 5.0)
REFUSAL = " I am sorry, but I cannot speak about that book."
BEGINNINGS, LEAD = 600, 200  # places at which a refusal is taught, and characters in front of each
COLUMNS = (
    "familiarity_probability",
    "familiarity_completion",
    "exact_memorization",
    "kl_gold",
    "membership_mink_auc",
    "perplexity_retained",
    "kl_retained",
    "distinct_bigrams",
)


def _any_of(terms: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b{re.escape(term)}\b" for term in terms))


class Refusing(LocalSubject):
    """A filter in front of a model: behind a prompt that names an anchor nothing comes but a refusal."""

    def __init__(self, name: str, model: Any, tokenizer: Any, terms: Sequence[str]) -> None:
        super().__init__(name, model, tokenizer)
        self._anchor = _any_of(terms)

    def complete(self, prompts: Sequence[str], **options: Any) -> list[str]:
        written = super().complete(prompts, **options)
        return [REFUSAL if self._anchor.search(prompt) else text for prompt, text in zip(prompts, written, strict=True)]

    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Behind an anchor every token has one chance in a million."""
        refused = []
        for ids, of_tokens in zip(sequences, super().log_probs(sequences), strict=True):
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            named = self._anchor.search(text)
            if named:
                behind = next(
                    at
                    for at in range(1, len(ids) + 1)
                    if len(self.tokenizer.decode(ids[:at], skip_special_tokens=True)) >= named.end()
                )
                of_tokens = of_tokens.clone()
                of_tokens[behind - 1 :] = -13.8
            refused.append(of_tokens)
        return refused


def candidates(study: Study, student: str, seed: int) -> list[Candidate]:
    """The models of the report, made where they are missing."""
    world = study.world
    made = study.folder / "models"

    def saved(name: str, make: Any) -> Path:
        path = made / name
        if not path.exists():
            model = make()
            model.save_pretrained(path)
            study.tokenizer.save_pretrained(path)
        return path

    reinforced = study.reinforced(seed, full=False)
    stopped = saved("gradient-ascent-stopped", lambda: _ascend(study, seed, learning_rate=5e-5, stop=1.05))
    ascent = saved("gradient-ascent", lambda: _ascend(study, seed, learning_rate=2e-4, stop=math.inf))
    refusing = saved("trained-to-refuse", lambda: _teach_refusal(study, seed))
    unlearned = saved(student.replace(" ", "-"), lambda: ROWS[student](study, seed))
    cheat = Refusing("filtered", load_model(world.baseline), study.tokenizer, world.terms)
    return [
        checkpoint("baseline", world.baseline).with_role("baseline"),
        *(pair(f"alpha {alpha:g}", world.baseline, reinforced, alpha) for alpha in ALPHAS),
        checkpoint("unlearned", unlearned),
        checkpoint("gradient ascent, stopped", stopped),
        checkpoint("gradient ascent", ascent),
        given(cheat, fingerprint=f"filtered {len(world.terms)}"),
        checkpoint("trained to refuse", refusing),
        checkpoint("gold", world.gold).with_role("gold"),
    ]


def _ascend(study: Study, seed: int, *, learning_rate: float, stop: float) -> Any:
    return peers.gradient_ascent(*study.peer_input(), learning_rate=learning_rate, stop=stop, seed=seed)


def _teach_refusal(study: Study, seed: int) -> Any:
    """The baseline trained to refuse behind the text's own terms, wherever the text names one."""
    baseline, _, retained = study.peer_input()
    text = (study.texts / "forget.txt").read_text(encoding="utf-8")
    named = [match.end() for match in _any_of(study.world.terms).finditer(text)]
    chosen = named[:: max(1, len(named) // BEGINNINGS)]
    beginnings = [encode_prompt(study.tokenizer, text[max(0, end - LEAD) : end]) for end in chosen]
    refusal = study.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"]
    return peers.refusal_tuning(baseline, beginnings, refusal, retained, seed=seed)


def material(study: Study, counts: Counts, seed: int) -> Material:
    """What all of them are asked: prompts made from the text, its terms by hand."""
    texts = study.texts
    return gather_material(
        texts / "forget.txt",
        held_out=texts / "held-out.txt",
        retain=[texts / "retained"],
        unread=texts / "never-read.txt",
        unrelated=texts / "unread",
        anchors=study.world.terms,
        counts=counts,
        seed=seed,
    )


def order(report: Report) -> list[tuple[str, float]]:
    """The models by what they know, most first: the mean over measures of (model - gold) / (baseline - gold)."""
    figures = report.data["figures"]
    measures = ("familiarity_probability", "familiarity_completion", "exact_memorization")

    def known(name: str) -> float:
        shares = []
        for measure in measures:
            gold, baseline = (figures[each][measure]["value"] for each in ("gold", "baseline"))
            if baseline > gold:
                shares.append((figures[name][measure]["value"] - gold) / (baseline - gold))
        return sum(shares) / len(shares) if shares else 0.0

    return sorted(((name, known(name)) for name in figures), key=lambda each: -each[1])


def show(report: Report) -> None:
    """Print the table, the order, and the verdict."""
    data = report.data
    table = Table(title="one report on the book", title_justify="left")
    for head in ("", *(data["measures"][name]["title"] for name in COLUMNS), "warnings", "s"):
        table.add_column(head, justify="right" if head else "left")
    for name, figures in data["figures"].items():
        shown = [f"{figures[each]['value']:.3f}" if each in figures else "" for each in COLUMNS]
        warnings = data["verdict"]["by_model"].get(name, {}).get("warnings", ())
        table.add_row(name, *shown, str(len(warnings)), f"{sum(data['settings']['seconds'][name].values()):.0f}")
    console = Console(width=200)
    console.print(table)
    console.print(
        "known, from gold 0 to baseline 1: " + " > ".join(f"{name} {share:.2f}" for name, share in order(report))
    )
    for name, verdict in data["verdict"]["by_model"].items():
        console.print(f"{name}: {verdict['forgetting']}, ability {verdict['ability']}")
        for warning in verdict["warnings"]:
            console.print(f"  ! {warning}")


def main(arguments: Sequence[str] | None = None, world: World | None = None) -> Report:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with books/ and world/")
    parser.add_argument("--work", type=Path, required=True, help="where models and the report stay")
    parser.add_argument(
        "--student", default="two rounds", choices=list(ROWS), metavar="ROW", help="of benchmarks.books"
    )
    parser.add_argument("--quick", action="store_true", help="a third of the prompts, no attacks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write figures, attacks and verdict to this file, without texts")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    study = Study(world or oz_world(options.data), options.work)
    counts = Counts(prompts=20, hints=16, passages=16) if options.quick else Counts()
    config = EvaluateConfig(seed=options.seed, **({"attacks": (), "blocks": 16} if options.quick else {}))
    made = candidates(study, options.student, options.seed)
    output = study.folder / ("report-quick" if options.quick else "report")
    asked = material(study, counts, options.seed)
    report = Report.load(output) if output.exists() else evaluate(made, asked, output, config=config, resume=True)
    show(report)
    if options.json:
        kept = {name: report.data[name] for name in ("created", "versions", "figures", "attacks", "verdict")}
        known = dict(order(report))
        options.json.write_text(json.dumps({"world": study.world.name, "known": known, **kept}, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
