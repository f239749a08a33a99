"""``generic-logits reinforce``."""

from __future__ import annotations

from generic_logits.cli import options as o

EXAMPLE = "Example: generic-logits reinforce ./baseline ./book.txt -o ./reinforced"


def run(
    baseline: o.Baseline,
    corpus: o.Corpus,
    output: o.Output,
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
    """Train a baseline further on the corpus that it shall forget."""
    options = locals()
    from generic_logits._record import read_record
    from generic_logits.text.corpus import open_corpus
    from generic_logits.training.reinforcement import ReinforceConfig, reinforce

    o.prepare(dtype, seed)
    config = o.settings(ReinforceConfig, options)
    forget = open_corpus(corpus, text_field=text_field, join=join)
    folder = reinforce(baseline, forget, output, config=config, resume=resume)
    o.print_measured(read_record(folder), as_json, folder)
