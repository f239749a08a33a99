"""``generic-logits unlearn``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from generic_logits.cli import options as o

EXAMPLE = "Example: generic-logits unlearn ./baseline book.txt --retain ./others -o ./unlearned"


def run(
    context: typer.Context,
    baseline: o.Baseline,
    corpus: o.Corpus,
    output: o.Output,
    retain: o.Retain = None,
    anchors: Annotated[
        Path | None, typer.Option(help="Dictionary of anchors; found if not given.", show_default=False)
    ] = None,
    reinforced: Annotated[
        str | None, typer.Option(help="Reinforced model for the first round; made if not given.", show_default=False)
    ] = None,
    reinforce_epochs: Annotated[int, typer.Option(help="Passes over the corpus of the reinforcement.")] = 3,
    alpha: Annotated[float, typer.Option(help="Strength of the correction in the first round.")] = 5.0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"{o.ROUNDS_HELP} 2, or 1 with --paper.", show_default=False)
    ] = None,
    later_alpha: o.LaterAlpha = 0.5,
    later_rate: o.LaterRate = 0.3,
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
    keep_steps: Annotated[
        bool, typer.Option("--keep-steps", help="Keep reinforced models, targets and earlier students.")
    ] = False,
    resume: o.Resume = False,
    trainer: o.TrainerOptions = None,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Make a model forget a text: reinforce, find anchors, compute targets, distil."""
    options = locals()
    rounds = rounds or (1 if paper else 2)
    if rounds == 1:
        o.refuse(context, o.LATER, "one round", "there is no later one")
    from generic_logits._record import read_record
    from generic_logits.text.corpus import open_corpora, open_corpus
    from generic_logits.training.distillation import DistillConfig
    from generic_logits.training.reinforcement import ReinforceConfig
    from generic_logits.training.unlearning import UnlearnConfig, unlearn

    o.prepare(dtype, seed)
    reading: Any = {"text_field": text_field, "join": join}
    config = UnlearnConfig(
        rounds=rounds,
        later_alpha=later_alpha,
        later_rate=later_rate,
        reinforce=o.settings(ReinforceConfig, {**options, "epochs": reinforce_epochs}),
        distill=o.settings(DistillConfig, options),
    )
    folder = unlearn(
        baseline,
        open_corpus(corpus, **reading),
        output,
        retain=open_corpora(retain or (), **reading),
        anchors=anchors,
        reinforced=reinforced,
        prompts=prompts,
        config=config,
        keep_steps=keep_steps,
        resume=resume,
    )
    o.print_measured(read_record(folder), as_json, folder)
