"""Baseline + forget corpus -> reinforced model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer

from generic_logits._record import describe_model, write_record
from generic_logits.models.loading import load_model, load_tokenizer
from generic_logits.models.scoring import perplexity
from generic_logits.text.corpus import Corpus, open_corpus
from generic_logits.training.run import (
    OutputFolder,
    TrainConfig,
    check_converged,
    language_model_batch,
    leaving_no_trace,
    ready_to_train,
    run_trainer,
    sample_blocks,
    settings_of,
    trained_model,
    training_arguments,
    training_blocks,
    wait_for_everyone,
    with_lora,
)


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(TrainConfig):
    """Settings of ``reinforce``; 3 epochs as in the paper (section 4), LoRA unless ``full``."""


def reinforce(
    baseline: str | Path,
    corpus: str | Path | Corpus,
    output: str | Path,
    *,
    config: ReinforceConfig | None = None,
    resume: bool = False,
) -> Path:
    """Train the baseline further on the forget corpus ("Who's Harry Potter?", section 2.1).

    Args:
        baseline: model folder or hub name.
        corpus: file, folder, ``-`` for standard input, or an open corpus (see ``open_corpus``).
        output: folder to create: a PEFT adapter, or with ``config.full`` a whole checkpoint; and the record
            ``generic_logits.json``.
        config: settings.
        resume: take up an unfinished run of the same inputs and settings, if there is one.

    Returns:
        ``output`` as a path.

    Raises:
        InputError: a model, corpus, setting or output folder that cannot be used (see ``errors``).
        StorageError: the disk filled up; checkpoints are kept.
        KeyboardInterrupt: Ctrl-C; a checkpoint is kept.
    """
    config = config or ReinforceConfig()
    folder = OutputFolder(output, resume=resume)
    started = time.monotonic()
    documents = open_corpus(corpus)

    def load() -> Any:
        return ready_to_train(load_model(baseline, dtype=config.dtype))

    model = load()
    tokenizer = load_tokenizer(baseline)
    inputs: dict[str, Any] = {
        "baseline": describe_model(baseline),
        "corpus": documents.files,
        "settings": settings_of(config),
    }
    with leaving_no_trace(folder):
        folder.open({"command": "reinforce", **inputs})
        blocks = training_blocks(documents, tokenizer, config, model, folder=folder.work / "blocks")
        sample = sample_blocks(blocks)
        before = perplexity(model, sample)

        def learner(untrained: Any) -> Any:
            return untrained if config.full else with_lora(untrained, config)

        trainer = Trainer(
            model=learner(model),
            args=training_arguments(config, folder, num_train_epochs=config.epochs),
            train_dataset=blocks,
            data_collator=language_model_batch,
        )
        run_trainer(trainer, folder)
        trained = trained_model(trainer, lambda: learner(load()))

        def save(result: Path) -> None:
            if config.full:
                trained.save_pretrained(result)
                tokenizer.save_pretrained(result)
            else:
                trained.save_pretrained(result, save_embedding_layers=False)
            measured = {"perplexity_forget": {"baseline": before, "reinforced": perplexity(trained, sample)}}
            check_converged(measured)
            seconds = round(time.monotonic() - started, 1)
            write_record(result, "reinforced", **inputs, measured=measured, seconds=seconds)

        folder.publish(save)
        wait_for_everyone()
        return folder.path
