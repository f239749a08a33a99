"""``generic-logits distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from generic_logits.cli import options as o
from generic_logits.errors import InputError

EXAMPLE = (
    "Example: generic-logits distill ./baseline book.txt --reinforced ./reinforced --anchors anchors.json "
    "--retain ./others -o ./unlearned"
)


def run(
    context: typer.Context,
    baseline: o.Baseline,
    output: o.Output,
    corpus: Annotated[
        str | None, typer.Argument(help=o.CORPUS_HELP + " Not with --targets.", show_default=False)
    ] = None,
    reinforced: Annotated[str | None, typer.Option(help=o.REINFORCED_HELP, show_default=False)] = None,
    targets: Annotated[Path | None, typer.Option(help="Targets computed before.", show_default=False)] = None,
    anchors: o.Anchors = None,
    retain: o.Retain = None,
    alpha: Annotated[float, typer.Option(help="Strength of the correction.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help=o.ROUNDS_HELP)] = 1,
    later_alpha: o.LaterAlpha = 0.5,
    later_rate: o.LaterRate = 0.3,
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
    inside_weight: o.InsideWeight = 5.0,
    retain_weight: o.RetainWeight = 3.0,
    prompts: o.Prompts = None,
    stop_familiarity: o.StopFamiliarity = None,
    stop_perplexity: o.StopPerplexity = None,
    full: o.Full = False,
    epochs: o.Epochs = 3,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = 8,
    gradient_accumulation: o.GradientAccumulation = 1,
    block_size: o.BlockSize = None,
    text_field: o.TextField = "text",
    join: o.Join = False,
    lora_rank: o.LoraRank = 16,
    save_steps: o.SaveSteps = 100,
    resume: o.Resume = False,
    trainer: o.TrainerOptions = None,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Write the correction into the baseline's weights, as an ordinary checkpoint."""
    options = locals()
    from dataclasses import fields

    from generic_logits._record import read_record
    from generic_logits.text.corpus import open_corpora, open_corpus
    from generic_logits.training.distillation import DistillConfig, distill
    from generic_logits.training.targets import TargetsConfig
    from generic_logits.training.unlearning import UnlearnConfig, settings_behind, unlearn

    o.prepare(dtype, seed)
    config = o.settings(DistillConfig, options)
    reading: Any = {"text_field": text_field, "join": join}
    forget = open_corpus(corpus, **reading) if corpus else None
    retained = open_corpora(retain or (), **reading)
    sources: Any = {"reinforced": reinforced, "retain": retained, "anchors": anchors, "prompts": prompts}
    if targets and not corpus:
        of_targets = {each.name for each in fields(TargetsConfig)} - {"alpha", "dtype", "seed"}
        o.refuse(context, [*of_targets, *reading], "--targets", "the targets were computed with theirs")
    if rounds == 1:
        o.refuse(context, o.LATER, "one round", "there is no later one")
        folder = distill(
            baseline, forget, output, **sources, targets=targets, held_to=held_to, config=config, resume=resume
        )
    else:
        if not (forget and reinforced and anchors) or targets or held_to:
            wanted = "CORPUS, --reinforced and --anchors, without --targets and --held-to, for several rounds"
            raise InputError(wanted, "other options", "the command unlearn makes what is missing")
        folder = unlearn(
            baseline,
            forget,
            output,
            **sources,
            config=UnlearnConfig(
                rounds=rounds,
                later_alpha=later_alpha,
                later_rate=later_rate,
                reinforce=settings_behind(reinforced),
                distill=config,
            ),
            resume=resume,
        )
    o.print_measured(read_record(folder), as_json, folder)
