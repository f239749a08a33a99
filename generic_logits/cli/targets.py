"""``generic-logits targets``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from generic_logits.cli import options as o

EXAMPLE = (
    "Example: generic-logits targets ./baseline book.txt --reinforced ./reinforced --anchors anchors.json "
    "--retain ./others --alpha 2 --alpha 5 -o ./targets"
)


def run(
    baseline: o.Baseline,
    corpus: o.Corpus,
    reinforced: o.Reinforced,
    output: o.Output,
    anchors: o.Anchors = None,
    retain: o.Retain = None,
    alpha: Annotated[
        list[float] | None, typer.Option(help="Strength; may be repeated; default 5.", show_default=False)
    ] = None,
    held_to: o.HeldTo = None,
    space: o.Space = o.SpaceName.logits,
    threshold: o.Threshold = 0.0,
    offset: o.Offset = o.OffsetName.translated,
    temperature: o.Temperature = 1.0,
    ban: o.Ban = 30.0,
    hard: o.Hard = False,
    paper: o.Paper = False,
    draws: o.Draws = None,
    tail: o.Tail = 0.05,
    teacher_batch_size: o.TeacherBatchSize = None,
    block_size: o.BlockSize = None,
    text_field: o.TextField = "text",
    join: o.Join = False,
    resume: o.Resume = False,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Compute what the student shall say, so that `distill --targets` can run later and elsewhere."""
    options = locals()
    from generic_logits.text.corpus import open_corpora, open_corpus
    from generic_logits.training.target_store import TargetStore
    from generic_logits.training.targets import TargetsConfig, compute_targets

    o.prepare(dtype, seed)
    reading: Any = {"text_field": text_field, "join": join}
    config = o.settings(TargetsConfig, {**options, "alpha": TargetsConfig.alpha})
    folder = compute_targets(
        baseline,
        open_corpus(corpus, **reading),
        output,
        reinforced=reinforced,
        retain=open_corpora(retain or (), **reading),
        anchors=anchors,
        alphas=alpha or (),
        held_to=held_to,
        config=config,
        resume=resume,
    )
    o.print_targets(TargetStore(folder), as_json)
