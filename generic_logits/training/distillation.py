"""Generic targets -> the baseline's weights: an ordinary checkpoint that no longer knows the text."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer

from generic_logits._record import describe_file, describe_model, write_record
from generic_logits.errors import InputError, ModelError
from generic_logits.models.pair import load_model, load_tokenizer, share_weights
from generic_logits.models.scoring import perplexity
from generic_logits.text.corpus import open_corpora, open_corpus
from generic_logits.text.prompts import encode_prompts, load_prompts
from generic_logits.training.early_stopping import EarlyStopping
from generic_logits.training.model_card import model_card
from generic_logits.training.run import (
    OutputFolder,
    TrainConfig,
    check_converged,
    leaving_no_trace,
    pad_ids,
    ready_to_train,
    run_trainer,
    settings_of,
    trained_model,
    training_arguments,
    wait_for_everyone,
    with_lora,
)
from generic_logits.training.target_store import Row, SoftTargets, TargetStore
from generic_logits.training.targets import TargetsConfig, compute_targets, distance_to_soft

_SAMPLE = 64  # blocks of either corpus that perplexity is measured on


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig, TargetsConfig):
    """Settings of ``distill``: those of the targets, those of the training, and these.

    Attributes:
        retain_weight: weight of KL(baseline || student) on the retained corpora, against 1 for the forget corpus.
        stop_familiarity: stop when the mean probability of the prompts' targets has fallen to this; None trains on.
        stop_perplexity: stop, and go back to the last check, when the perplexity of retained blocks that were set aside
            has risen by more than this share; None trains on.
    """

    retain_weight: float = 3.0
    stop_familiarity: float | None = None
    stop_perplexity: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a value outside its range.
        """
        TrainConfig.__post_init__(self)
        TargetsConfig.__post_init__(self)
        if not 0 <= self.retain_weight < math.inf:
            raise InputError("a retain weight >= 0", repr(self.retain_weight), "0 leaves the retained corpora out")
        for name in ("stop_familiarity", "stop_perplexity"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} above 0", repr(value), "leave it out to train to the end")

    def of_targets(self) -> TargetsConfig:
        """Return the settings of the targets alone."""
        return TargetsConfig(**{each.name: getattr(self, each.name) for each in fields(TargetsConfig)})


def distill(
    baseline: str | Path,
    corpus: str | Path | None,
    output: str | Path,
    *,
    reinforced: str | Path | None = None,
    targets: str | Path | None = None,
    retain: Sequence[str | Path] = (),
    anchors: str | Path | None = None,
    prompts: str | Path | None = None,
    held_to: str | Path | None = None,
    config: DistillConfig | None = None,
    resume: bool = False,
) -> Path:
    """Train the baseline towards its own generic logits on the forget corpus ("Who's Harry Potter?", section 2.3).

    The targets are computed first and kept on disk, so that the teachers are gone when the training begins; or they
    were computed before, elsewhere: then ``corpus``, ``reinforced``, ``retain`` and ``anchors`` are in them.

    Args:
        baseline: model folder or hub name.
        corpus: the forget corpus (see ``open_corpus``); None with ``targets``.
        output: folder to create: an ordinary checkpoint with tokenizer, model card and ``generic_logits.json``.
        reinforced: model or adapter folder made by ``reinforce`` from the same baseline.
        targets: folder made by ``compute_targets``.
        retain: corpora on which the student is held to the baseline.
        anchors: dictionary file (see ``Anchors``); None translates nothing.
        prompts: prompt file for ``stop_familiarity``.
        held_to: the model that the student is held to on ``retain``; None takes ``baseline``.
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
    if (targets is None) == (corpus is None or reinforced is None):
        wanted, got = "a corpus and a reinforced model, or targets", f"{corpus=!s} {reinforced=!s} {targets=!s}"
        raise InputError(wanted, got, "give one or the other")
    if config.stop_familiarity is not None and prompts is None:
        raise InputError(
            "prompts to measure familiarity on", "none", "give a prompt file, or leave stop_familiarity out"
        )
    folder = OutputFolder(output, resume=resume)
    started = time.monotonic()
    hints = load_prompts(prompts) if prompts else []
    inputs: dict[str, Any] = {"baseline": describe_model(baseline)}
    if targets is not None:
        inputs["targets"] = describe_file(TargetStore(targets).manifest_file)
    else:
        inputs["reinforced"] = describe_model(str(reinforced))
        inputs["corpus"] = open_corpus(str(corpus)).files
        inputs["retain"] = open_corpora(retain).files
        inputs["anchors"] = describe_file(anchors) if anchors else None
        inputs["held_to"] = describe_model(held_to or baseline)
    inputs["settings"] = settings_of(config)
    with leaving_no_trace(folder):
        folder.open({"command": "distill", **inputs})
        if targets is None:
            targets = folder.work / "targets"
            if not targets.exists():
                compute_targets(
                    baseline,
                    str(corpus),
                    targets,
                    reinforced=str(reinforced),
                    retain=retain if config.retain_weight else (),
                    anchors=anchors,
                    held_to=held_to,
                    config=config.of_targets(),
                    resume=True,
                )
                folder.keep()
        store = TargetStore(targets)
        _check_fits(store, inputs["baseline"], config)
        model, tokenizer = ready_to_train(load_model(baseline, dtype=config.dtype)), load_tokenizer(baseline)
        samples = {
            "perplexity_forget": _sample(store.forget_ids, store.blocks),
            "perplexity_retain": _sample(store.retain_ids, store.retained),
        }
        before = {name: perplexity(model, sample) for name, sample in samples.items() if sample}

        def student() -> Any:
            return model if config.full else with_lora(share_weights(model), config)

        schedule = _Schedule(store, config)
        trainer = _DistillTrainer(
            model=student(),
            args=training_arguments(config, folder, num_train_epochs=1, train_sampling_strategy="sequential"),
            train_dataset=schedule,
            data_collator=_collate,
        )
        trainer.settings, trainer.vocabulary = config, store.vocabulary
        early = _early_stopping(model, encode_prompts(tokenizer, hints), schedule.set_aside, config)
        if early:
            trainer.add_callback(early)
        run_trainer(trainer, folder)
        trained = trained_model(trainer, student)

        def save(result: Path) -> None:
            model.save_pretrained(
                result, state_dict=trained.state_dict() if config.full else merged_state_dict(trained, model)
            )
            tokenizer.save_pretrained(result)
            measured = {
                name: {"baseline": value, "distilled": perplexity(trained, samples[name])}
                for name, value in before.items()
            }
            check_converged(measured)
            seconds = round(time.monotonic() - started, 1)
            made_from = {
                name: store.manifest[name] for name in ("reinforced", "corpus", "retain", "anchors", "held_to")
            }
            outcome = {"stopped": early.outcome} if early and early.outcome else {}
            content = {**inputs, **made_from, **outcome, "measured": measured}
            record = write_record(result, "distilled", **content, seconds=seconds)
            (result / "README.md").write_text(model_card(record), encoding="utf-8")

        folder.publish(save)
        wait_for_everyone()
        return folder.path


class _DistillTrainer(Trainer):
    """A Trainer whose loss is the distance to stored targets."""

    loss_is_scaled_for_ga = False
    settings: DistillConfig
    vocabulary: int

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """KL to the generic targets on forget rows, plus the weighted KL to the baseline on retained rows."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        logits, forget = outputs.logits[..., : self.vocabulary], inputs["forget rows"]
        loss = distance_to(logits[:forget], inputs, "forget")
        if forget < len(logits):
            loss = loss + self.settings.retain_weight * distance_to(logits[forget:], inputs, "retain")
        return (loss, outputs) if return_outputs else loss


def distance_to(
    logits: Tensor, batch: dict[str, Any], part: str
) -> Tensor:  # logits: [rows of the part, length, vocab]
    """Mean distance to one part of a collated batch, in nats: KL to soft targets, cross-entropy to hard labels."""
    student, positions = logits.flatten(0, 1), batch[f"{part} positions"]
    if f"{part} labels" in batch:
        return torch.nn.functional.cross_entropy(student[positions].float(), batch[f"{part} labels"])
    targets = SoftTargets(*(batch[f"{part} {field}"] for field in SoftTargets._fields))
    return distance_to_soft(student, positions, targets)


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


def _check_fits(store: TargetStore, baseline: dict[str, Any], config: DistillConfig) -> None:
    """Refuse targets of another baseline or without this alpha."""
    store.check_alpha(config.alpha)
    made_for = store.manifest["baseline"]
    if made_for["weights_fingerprint"] != baseline["weights_fingerprint"]:
        got = f"targets of {made_for['source']}, whose weights differ"
        raise ModelError("the baseline that the targets were computed for", got, "compute them for this one")


def _early_stopping(
    model: Any,
    prompts: list[tuple[list[int], list[int]]],
    retained: list[list[int]],
    config: DistillConfig,
) -> EarlyStopping | None:
    """Turn the limits of the settings into figures; ``model`` is still the baseline."""
    limit = None
    if config.stop_perplexity is not None and retained:
        limit = (1 + config.stop_perplexity) * perplexity(model, retained)
    if limit is None and config.stop_familiarity is None:
        return None
    return EarlyStopping(prompts, retained, familiarity=config.stop_familiarity, perplexity=limit)


def _sample(ids_of: Callable[[int], list[int]], count: int) -> list[list[int]]:
    """Token ids of at most ``_SAMPLE`` blocks, evenly spread."""
    return [ids_of(number) for number in range(0, count, max(1, -(-count // _SAMPLE)))]


class _Schedule(Dataset[tuple[Row, ...]]):
    """Every epoch's forget blocks in an order of its own, each beside the next retained block.

    The retained blocks that early stopping measures on are taken out.
    """

    def __init__(self, store: TargetStore, config: DistillConfig) -> None:
        draw = random.Random(config.seed)
        self._store, self._alpha = store, config.alpha
        self._blocks = [draw.sample(range(store.blocks), store.blocks) for _ in range(config.epochs)]
        held = min(_SAMPLE, store.retained // 4) if config.stop_perplexity is not None else 0
        self.set_aside = [store.retain_ids(number) for number in range(store.retained - held, store.retained)]
        self._retained = store.retained - held if config.retain_weight else 0

    def __len__(self) -> int:
        return len(self._blocks) * self._store.blocks

    def __getitem__(self, number: int) -> tuple[Row, ...]:
        epoch, place = divmod(number, self._store.blocks)
        forget = self._store.forget(epoch, self._blocks[epoch][place], self._alpha)
        return (forget, self._store.retain(number % self._retained)) if self._retained else (forget,)


def _collate(entries: Sequence[tuple[Row, ...]]) -> dict[str, Any]:
    """Stack forget rows first, retained rows behind them; positions count through the rows of a part."""
    parts = {"forget": [entry[0] for entry in entries], "retain": [entry[1] for entry in entries if len(entry) > 1]}
    ids, mask = pad_ids([row.token_ids for rows in parts.values() for row in rows])
    batch = {"input_ids": ids, "attention_mask": mask, "forget rows": len(entries)}
    for part, rows in parts.items():
        if not rows:
            continue
        shifted = [row.positions + number * ids.shape[1] for number, row in enumerate(rows)]
        batch[f"{part} positions"] = torch.cat(shifted)
        if rows[0].labels is not None:
            batch[f"{part} labels"] = torch.cat([row.labels for row in rows if row.labels is not None])
        else:
            soft = zip(*(row.soft for row in rows if row.soft is not None), strict=True)
            batch |= {f"{part} {field}": torch.cat(each) for field, each in zip(SoftTargets._fields, soft, strict=True)}
    return batch
