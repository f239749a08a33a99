"""``generic-logits calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from generic_logits.cli import options as o

EXAMPLE = (
    "Example: generic-logits calibrate ./baseline --reinforced ./reinforced --forget book.txt --retain ./others "
    "--familiarity 0.05 -o ./calibration"
)


def run(
    baseline: o.Baseline,
    reinforced: o.Reinforced,
    forget: Annotated[Path, typer.Option(help=f"What shall be forgotten. {o.CORPUS_HELP}", show_default=False)],
    retain: Annotated[
        list[Path], typer.Option(help="Corpus whose perplexity is the price; may be repeated.", show_default=False)
    ],
    output: o.Output,
    familiarity: Annotated[
        float | None,
        typer.Option(help="Wanted probability of the text's own words; the knee if not given.", show_default=False),
    ] = None,
    alpha: Annotated[
        list[float] | None, typer.Option(help="Strength to try; may be repeated; 0.25 to 10.", show_default=False)
    ] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="Threshold to try, in nats; may be repeated; 0.", show_default=False)
    ] = None,
    space: Annotated[
        list[o.SpaceName] | None, typer.Option(help="Space to try; may be repeated; both.", show_default=False)
    ] = None,
    anchors: o.Anchors = None,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Choose alpha, threshold and space on half of the corpora; the other half is left for evaluate."""
    from generic_logits.evaluation.calibration import CalibrateConfig, calibrate, frontier

    o.prepare(dtype, seed)
    usual = CalibrateConfig()
    config = CalibrateConfig(
        familiarity=familiarity,
        alphas=alpha or usual.alphas,
        thresholds=threshold or usual.thresholds,
        spaces=[each.value for each in space or ()] or usual.spaces,
        seed=seed,
        dtype=dtype,
    )
    found = calibrate(baseline, reinforced, forget, retain, output, anchors=anchors, config=config)
    if as_json:
        o.print_json(json.loads((output / "calibration.json").read_text(encoding="utf-8")))
        return
    rows = [
        [
            f"{'>' if point is found.chosen else ' '} {point.space}",
            f"{point.threshold:g}",
            f"{point.alpha:g}",
            f"{point.familiarity.value:.3f} [{point.familiarity.low:.3f}, {point.familiarity.high:.3f}]",
            f"{point.perplexity.value:.1f} [{point.perplexity.low:.1f}, {point.perplexity.high:.1f}]",
            f"{point.divergence.value:.3f}",
        ]
        for point in reversed(frontier(found.points))
    ]
    head = ["  space", "threshold", "alpha", "familiarity", "retained perplexity", "KL"]
    o.print_table(f"{output}: the settings that no other beats in both", head, rows)
    if not found.reached:
        print(f"No setting reaches a familiarity of {familiarity:g}; this is the nearest.")
    chosen = found.chosen
    print(f"--alpha {chosen.alpha:g} --threshold {chosen.threshold:g} --space {chosen.space}")
    print(f"The picture: {output / 'frontier.svg'}. Judge the choice on {output / 'test'}, which it did not see.")
