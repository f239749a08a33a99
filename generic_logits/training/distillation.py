"""Generic targets -> the baseline's weights: an ordinary checkpoint that no longer knows the text."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, Trainer

from generic_logits._record import describe_corpora, describe_model, write_record
from generic_logits.errors import InputError, ModelError
from generic_logits.models.pair import ModelPair, share_weights
from generic_logits.models.scoring import perplexity
from generic_logits.ops import Space, check_alpha, check_correction
from generic_logits.text.corpus import Block, read_documents
from generic_logits.training.model_card import model_card
from generic_logits.training.run import (
    OutputFolder,
    TrainConfig,
    check_converged,
    leaving_no_trace,
    pad_blocks,
    ready_to_train,
    run_trainer,
    sample_blocks,
    settings_of,
    training_arguments,
    training_blocks,
    with_lora,
)
from generic_logits.training.targets import distance_to_targets, generic_targets


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """Settings of ``distill``.

    Attributes:
        alpha: strength of the correction in the targets.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        hard: the paper's labels, argmax of the generic logits, instead of the whole distribution.
        retain_weight: weight of KL(baseline || student) on the retained corpora, against 1 for the forget corpus.
    """

    alpha: float = 5.0
    space: Space = "logits"
    threshold: float = 0.0
    hard: bool = False
    retain_weight: float = 3.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a value outside its range.
        """
        super().__post_init__()
        check_alpha(self.alpha)
        check_correction(self.space, self.threshold, "relu")
        if not 0 <= self.retain_weight < math.inf:
            raise InputError("a retain weight >= 0", repr(self.retain_weight), "0 leaves the retained corpora out")


def distill(
    baseline: str | Path,
    corpus: str | Path,
    output: str | Path,
    *,
    reinforced: str | Path,
    retain: Sequence[str | Path] = (),
    config: DistillConfig | None = None,
    resume: bool = False,
) -> Path:
    """Train the baseline towards its own generic logits on the forget corpus ("Who's Harry Potter?", section 2.3).

    With LoRA for the student and the reinforced model, one copy of the base weights serves baseline, reinforced and
    student.

    Args:
        baseline: model folder or hub name.
        corpus: the forget corpus, a text file or folder of text files.
        output: folder to create: an ordinary checkpoint with tokenizer, model card and ``generic_logits.json``.
        reinforced: model or adapter folder made by ``reinforce`` from the same baseline.
        retain: corpora on which the student is held to the baseline.
        config: settings.
        resume: take up an unfinished run of the same inputs and settings, if there is one.

    Returns:
        ``output`` as a path.

    Raises:
        InputError: a model, corpus, setting or output folder that cannot be used (see ``errors``).
        StorageError: the disk filled up; checkpoints are kept.
        KeyboardInterrupt: Ctrl-C; a checkpoint is kept.
    """
    config = config or DistillConfig()
    folder = OutputFolder(output, resume=resume)
    started = time.monotonic()
    documents = read_documents(corpus)
    retained = [document for path in retain for document in read_documents(path)]
    pair = _load_teachers(baseline, reinforced, config)
    blocks = training_blocks(documents, pair.tokenizer, config, pair.baseline)
    retained_blocks = training_blocks(retained, pair.tokenizer, config, pair.baseline) if retained else []
    inputs: dict[str, Any] = {
        "baseline": describe_model(baseline),
        "reinforced": describe_model(reinforced),
        "corpus": describe_corpora(documents),
        "retain": describe_corpora(retained),
        "settings": settings_of(config),
    }
    with leaving_no_trace(folder):
        folder.open({"command": "distill", **inputs})
        student = copy.deepcopy(pair.baseline).requires_grad_() if config.full else share_weights(pair.baseline)
        trainer = _DistillTrainer(
            pair,
            config,
            model=student if config.full else with_lora(student, config),
            args=training_arguments(config, folder, num_train_epochs=1, train_sampling_strategy="sequential"),
            train_dataset=_schedule(blocks, retained_blocks if config.retain_weight else [], config),
            data_collator=_collate,
        )
        run_trainer(trainer, folder)
        trained = trainer.accelerator.unwrap_model(trainer.model).eval()

        def save(result: Path) -> None:
            weights = trained.state_dict() if config.full else merged_state_dict(trained, pair.baseline)
            pair.baseline.save_pretrained(result, state_dict=weights)
            pair.tokenizer.save_pretrained(result)
            measured = _measure({"baseline": pair.baseline, "distilled": trained}, blocks, retained_blocks)
            check_converged(measured)
            seconds = round(time.monotonic() - started, 1)
            record = write_record(result, "distilled", **inputs, measured=measured, seconds=seconds)
            (result / "README.md").write_text(model_card(record), encoding="utf-8")

        folder.publish(save)
        trainer.accelerator.wait_for_everyone()
        return folder.path


class _DistillTrainer(Trainer):
    """A Trainer whose loss is the distance to the teacher's targets, computed batch by batch."""

    loss_is_scaled_for_ga = False

    def __init__(self, pair: ModelPair, config: DistillConfig, **options: Any) -> None:
        super().__init__(**options)
        self._pair = pair
        self._config = config
        pair.baseline.to(self.args.device)
        pair.reinforced.to(self.args.device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """KL to the generic targets on forget rows, plus the weighted KL to the baseline on retained rows."""
        ids, mask, forget = inputs["input_ids"], inputs["attention_mask"], inputs["forget"]
        outputs = model(input_ids=ids, attention_mask=mask, use_cache=False)
        student = outputs.logits[..., : self._pair.vocab_size]
        targets = generic_targets(self._pair, ids, mask, forget)
        loss = distance_to_targets(student[:forget], targets[:forget], mask[:forget], hard=self._config.hard)
        if forget < len(ids):
            kept = distance_to_targets(student[forget:], targets[forget:], mask[forget:], hard=False)
            loss = loss + self._config.retain_weight * kept
        return (loss, outputs) if return_outputs else loss


def merged_state_dict(adapted: Any, base: Any) -> dict[str, Tensor]:
    """Return the weights of ``base`` plus the adapter of ``adapted``; ``base``, which may share them, is left alone."""
    from peft.tuners.lora import LoraLayer

    weights: dict[str, Tensor] = base.state_dict()
    for name, layer in adapted.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and hasattr(layer, "get_delta_weight"):
            key = f"{name}.weight"
            delta = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
            weights[key] = (weights[key].float() + delta).to(weights[key].dtype)
    return weights


def _load_teachers(baseline: str | Path, reinforced: str | Path, config: DistillConfig) -> ModelPair:
    pair = ModelPair.from_pretrained(
        baseline,
        reinforced,
        alpha=config.alpha,
        space=config.space,
        threshold=config.threshold,
        dtype=config.dtype,
    )
    if getattr(pair.baseline, "is_quantized", False):
        raise ModelError("a baseline in full precision", f"quantised weights in {baseline}", "distil the original")
    for model in (pair.baseline, pair.reinforced):
        ready_to_train(model)
    return pair


def _schedule(
    blocks: list[Block], retained: list[Block], config: DistillConfig
) -> list[tuple[Block, ...]]:  # epochs * blocks entries
    """Every epoch's forget blocks in an order of its own, each with the next retained block of an endless shuffle."""
    draw = random.Random(config.seed)
    schedule: list[tuple[Block, ...]] = []
    deck: list[Block] = []
    for _ in range(config.epochs):
        for block in draw.sample(blocks, len(blocks)):
            if retained and not deck:
                deck = draw.sample(retained, len(retained))
            schedule.append((block, deck.pop()) if retained else (block,))
    return schedule


def _collate(entries: Sequence[tuple[Block, ...]]) -> dict[str, Any]:
    """Stack forget rows first, retained rows behind them."""
    rows = [entry[0] for entry in entries] + [entry[1] for entry in entries if len(entry) > 1]
    ids, mask = pad_blocks(rows)
    return {"input_ids": ids, "attention_mask": mask, "forget": len(entries)}


def _measure(
    models: dict[str, PreTrainedModel], forget: list[Block], retained: list[Block]
) -> dict[str, dict[str, float]]:
    """Perplexity of each model on up to 64 blocks of either corpus."""
    measured = {}
    for name, blocks in (("perplexity_forget", forget), ("perplexity_retain", retained)):
        sample = sample_blocks(blocks)
        if sample:
            measured[name] = {model_name: perplexity(model, sample) for model_name, model in models.items()}
    return measured
