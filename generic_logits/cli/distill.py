"""``generic-logits distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generic_logits.cli import options as o

EXAMPLE = (
    "Example: generic-logits distill ./baseline book.txt --reinforced ./reinforced --retain ./others -o ./unlearned"
)


def run(
    baseline: o.Baseline,
    corpus: o.Corpus,
    reinforced: o.Reinforced,
    output: o.Output,
    retain: Annotated[
        list[Path] | None,
        typer.Option(help="Corpus on which the model shall stay as it is; may be repeated.", show_default=False),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Strength of the correction.")] = 5.0,
    space: o.Space = o.SpaceName.logits,
    threshold: o.Threshold = 0.0,
    hard: Annotated[bool, typer.Option("--hard", help="The paper's hard labels instead of soft targets.")] = False,
    retain_weight: Annotated[float, typer.Option(help="Weight of the retained corpora.")] = 3.0,
    full: o.Full = False,
    epochs: o.Epochs = 3,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = 8,
    gradient_accumulation: o.GradientAccumulation = 1,
    block_size: o.BlockSize = None,
    lora_rank: o.LoraRank = 16,
    save_steps: o.SaveSteps = 100,
    resume: o.Resume = False,
    trainer: o.TrainerOptions = None,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Write the correction into the baseline's weights, as an ordinary checkpoint."""
    from generic_logits._record import read_record
    from generic_logits.training.distillation import DistillConfig, distill

    o.prepare(dtype, seed)
    config = DistillConfig(
        alpha=alpha,
        space=space.value,
        threshold=threshold,
        hard=hard,
        retain_weight=retain_weight,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        block_size=block_size,
        full=full,
        lora_rank=lora_rank,
        dtype=dtype,
        save_steps=save_steps,
        seed=seed,
        trainer_options=o.trainer_options(trainer),
    )
    folder = distill(baseline, corpus, output, reinforced=reinforced, retain=retain or (), config=config, resume=resume)
    o.print_measured(read_record(folder), as_json, folder)
