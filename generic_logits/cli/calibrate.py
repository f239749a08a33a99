"""``generic-logits calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generic_logits.cli import options as o

if TYPE_CHECKING:
    from generic_logits.evaluation.calibration import Calibration

EXAMPLE = (
    "Example: generic-logits calibrate ./baseline --reinforced ./reinforced --forget book.txt --retain ./others "
    "--perplexity 1.1 -o ./calibration"
)
_MORE = 1.1  # times the baseline's retained perplexity, which one may want to pay beyond the knee


def run(
    context: typer.Context,
    baseline: o.Baseline,
    reinforced: o.Reinforced,
    forget: Annotated[Path, typer.Option(help=f"What shall be forgotten. {o.CORPUS_HELP}", show_default=False)],
    retain: Annotated[
        list[Path], typer.Option(help="Corpus whose perplexity is the price; may be repeated.", show_default=False)
    ],
    output: o.Output,
    familiarity: Annotated[
        float | None,
        typer.Option(help="Wanted probability of the text's own words, at most.", show_default=False),
    ] = None,
    perplexity: Annotated[
        float | None,
        typer.Option(
            help="Or wanted retained perplexity, at most, times the baseline's; the knee with neither.",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        list[float] | None, typer.Option(help="Strength to try; may be repeated; 0.25 to 10.", show_default=False)
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Threshold to try, in nats; may be repeated; 0, 0.1, 0.5.", show_default=False),
    ] = None,
    space: Annotated[
        list[o.SpaceName] | None, typer.Option(help="Space to try; may be repeated; both.", show_default=False)
    ] = None,
    anchors: o.Anchors = None,
    text_field: o.TextField = "text",
    join: o.Join = False,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Choose alpha, threshold and space on half of the corpora; the other half is left for evaluate."""
    o.require_records(context, [forget, *retain])

    from generic_logits.evaluation.calibration import CalibrateConfig, beside, calibrate, frontier, price
    from generic_logits.evaluation.verdict import PERPLEXITY_LOST
    from generic_logits.text.corpus import open_corpus

    o.prepare(dtype, seed)
    reading: Any = {"text_field": text_field, "join": join}
    usual = CalibrateConfig()
    config = CalibrateConfig(
        familiarity=familiarity,
        perplexity=perplexity,
        alphas=alpha or usual.alphas,
        thresholds=threshold or usual.thresholds,
        spaces=[each.value for each in space or ()] or usual.spaces,
        seed=seed,
        dtype=dtype,
    )
    found = calibrate(
        baseline,
        reinforced,
        open_corpus(forget, **reading),
        [open_corpus(path, **reading) for path in retain],
        output,
        anchors=anchors,
        config=config,
    )
    if as_json:
        o.print_json(json.loads((output / "calibration.json").read_text(encoding="utf-8")))
        return
    first, chosen = found.points[0], found.chosen
    rows = [
        [
            f"{'>' if point is chosen else ' '} {point.space if point is not first else 'baseline'}",
            f"{point.threshold:g}" if point is not first else "",
            f"{point.alpha:g}",
            f"{beside(point.familiarity.value, familiarity, 3)} "
            f"[{point.familiarity.low:.3f}, {point.familiarity.high:.3f}]".replace("0.", "."),
            f"{point.perplexity.value:.1f} x{beside(price(point, first), perplexity or PERPLEXITY_LOST, 2)}",
            f"{point.divergence.value:.3f}",
        ]
        for point in (first, *(point for point in reversed(frontier(found.points)) if point is not first))
    ]
    head = ["  space", "threshold", "alpha", "familiarity", "perplexity", "KL"]
    o.print_table(f"{output}: the baseline, and the settings that no other beats in both", head, rows)
    knows = beside(chosen.familiarity.value, familiarity, 3)
    if not found.reached:
        print(f"No setting reaches a familiarity of {familiarity:g}: the least familiar one has {knows} and is taken.")
    else:
        print(f"Chosen: {found.objective}.")
        if chosen is first and familiarity is not None:
            print(f"The baseline has {knows}: by this measure nothing needs to be corrected.")
        elif chosen is first:
            print("No setting makes the text less familiar at that price.")
        elif familiarity is None and perplexity is None:
            _say_what_is_left(found)
    print(f"--alpha {chosen.alpha:g} --threshold {chosen.threshold:g} --space {chosen.space}")
    for warning in found.warnings:
        print(f"  ! {warning}")
    print(f"The picture: {output / 'frontier.svg'}. Judge the choice on {output / 'test'}, which it did not see.")


def _say_what_is_left(found: Calibration) -> None:
    """Print what the knee leaves of the baseline's familiarity, and what more costs."""
    from generic_logits.evaluation.calibration import choose

    of_baseline, of_knee = found.points[0].familiarity.value, found.chosen.familiarity.value
    of_more = choose(found.points, perplexity=_MORE)[0].familiarity.value
    more = f"--perplexity {_MORE:g} leaves {of_more:.3f}" if of_more < of_knee else "--perplexity asks for more"
    print(f"It leaves {of_knee / of_baseline:.0%} of the baseline's familiarity, {of_knee:.3f} of {of_baseline:.3f}.")
    print(f"The knee is careful: {more}, --familiarity asks for what you want.")
