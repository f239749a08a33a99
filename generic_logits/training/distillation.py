"""Generic targets -> the baseline's weights: an ordinary checkpoint that no longer knows the text."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DynamoBackend
from torch import Tensor
from torch.nn import Linear
from torch.utils.data import Dataset
from transformers import Trainer

from generic_logits._record import describe_file, describe_model, write_record
from generic_logits.errors import InputError, ModelError
from generic_logits.models.head import instead_of_logits, plain_head
from generic_logits.models.loading import load_model, load_tokenizer, share_weights
from generic_logits.models.scoring import device_of, perplexity
from generic_logits.ops import linear_soft_kl
from generic_logits.text.anchors import Anchors
from generic_logits.text.corpus import Corpora, Corpus, check_distinct, open_corpora, open_corpus
from generic_logits.text.prompts import encode_prompts, load_prompts
from generic_logits.training.early_stopping import EarlyStopping
from generic_logits.training.model_card import model_card
from generic_logits.training.run import (
    OutputFolder,
    TrainConfig,
    check_converged,
    first_says,
    leaving_no_trace,
    pad_ids,
    ready_to_train,
    run_trainer,
    settings_of,
    shards_weights,
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
        inside_weight: weight of the positions inside an anchor, against 1 for the others: they are few.
        retain_weight: weight of KL(baseline || student) on the retained corpora, against 1 for the forget corpus.
        stop_familiarity: stop when the mean probability of the prompts' targets has fallen to this; None trains on.
            Both limits are looked at every ``save_steps`` updates.
        stop_perplexity: stop, and go back to the last check, when the perplexity of retained blocks that were set aside
            is more than this share above that of the model which they are held to; None trains on.
    """

    inside_weight: float = 5.0
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
        if not 0 <= self.inside_weight < math.inf:
            raise InputError("an inside weight >= 0", repr(self.inside_weight), "1 counts each position alike")
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
    corpus: str | Path | Corpus | None,
    output: str | Path,
    *,
    reinforced: str | Path | None = None,
    targets: str | Path | None = None,
    retain: Sequence[str | Path] | Corpora = (),
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
    sources = {"corpus": corpus, "reinforced": reinforced, "retain": retain, "anchors": anchors, "held_to": held_to}
    _check_sources({name: each for name, each in sources.items() if each}, targets)
    check_limits(config, prompts, retained=bool(retain or targets))
    folder = OutputFolder(output, resume=resume)
    arguments = training_arguments(config, folder, num_train_epochs=1, train_sampling_strategy="sequential")
    started = time.monotonic()
    hints = load_prompts(prompts) if prompts else []
    inputs: dict[str, Any] = {"baseline": describe_model(baseline)}
    if targets is not None:
        inputs["targets"] = describe_file(TargetStore(targets).manifest_file)
    else:
        inputs["reinforced"] = describe_model(str(reinforced))
        forget, retained = open_corpus(cast(Any, corpus)), open_corpora(retain)
        check_distinct([("forget", forget), ("retain", retained)])
        inputs["corpus"], inputs["retain"] = forget.files, retained.files
        if anchors:
            Anchors.load(anchors)  # refuses one that cannot be used
        inputs["anchors"] = describe_file(anchors) if anchors else None
        inputs["held_to"] = describe_model(held_to or baseline)
    inputs["prompts"] = describe_file(prompts) if prompts else None
    inputs["settings"] = settings_of(config)
    with leaving_no_trace(folder):
        folder.open({"command": "distill", **inputs})
        if targets is None:
            targets = folder.work / "targets"
            if not targets.exists():
                compute_targets(
                    baseline,
                    forget,
                    targets,
                    reinforced=str(reinforced),
                    retain=retained,
                    anchors=anchors,
                    held_to=held_to,
                    config=config.of_targets(),
                    resume=True,
                )
                folder.keep()
        store = TargetStore(targets)
        _check_fits(store, inputs["baseline"], config)

        def load() -> Any:
            return ready_to_train(load_model(baseline, dtype=config.dtype))

        model, tokenizer = load(), load_tokenizer(baseline)
        if not shards_weights():
            model.to(arguments.device)
        samples = {
            "perplexity_forget": [store.forget_ids(number) for number in _sample(range(store.blocks))],
            "perplexity_retain": _sample(list(dict.fromkeys(_retained_ids(store)))),
        }
        before = {name: perplexity(model, sample) for name, sample in samples.items() if sample}

        def student() -> Any:
            return with_lora(share_weights(model), config)

        schedule = _Schedule(store, config)
        trainer = _DistillTrainer(
            model=model if config.full else student(),
            args=arguments,
            train_dataset=schedule,
            data_collator=_collate,
        )
        trainer.settings, trainer.vocabulary = config, store.vocabulary
        trainer.head = head_for_loss(trainer)
        limit = None
        if config.stop_perplexity is not None and schedule.set_aside:
            keeper = store.manifest["held_to"]
            held_to_model = model if keeper == inputs["baseline"] else load_model(keeper["source"], dtype=config.dtype)
            held_to_model.to(device_of(model))
            limit = (1 + config.stop_perplexity) * first_says(perplexity(held_to_model, schedule.set_aside))
            del held_to_model
        early = None
        if limit is not None or config.stop_familiarity is not None:
            early = EarlyStopping(
                encode_prompts(tokenizer, hints),
                schedule.set_aside,
                familiarity=config.stop_familiarity,
                perplexity=limit,
            )
        if early:
            trainer.add_callback(early)
        run_trainer(trainer, folder)
        trained = trained_model(trainer, load if config.full else student)

        def save(result: Path) -> None:
            if config.full:
                trained.save_pretrained(result)
            else:
                model.save_pretrained(result, state_dict=merged_state_dict(trained, model))
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
            made_from["settings"] = {**inputs["settings"], **_settings_behind(store)}
            outcome = {"stopped": early.outcome} if early and early.outcome else {}
            content = {**inputs, **made_from, **outcome, "measured": measured}
            record = write_record(result, "distilled", **content, seconds=seconds)
            (result / "README.md").write_text(model_card(record), encoding="utf-8")

        folder.publish(save)
        wait_for_everyone()
        return folder.path


def check_limits(config: DistillConfig, prompts: str | Path | None, *, retained: bool) -> None:
    """Refuse a limit without anything to measure on, and prompts that cannot be used.

    Raises:
        InputError: prompts or a retained corpus are missing.
        CorpusError: the prompt file is missing or damaged.
    """
    if config.stop_familiarity is not None and prompts is None:
        wanted, remedy = "prompts to measure familiarity on", "give a prompt file, or leave stop_familiarity out"
        raise InputError(wanted, "none", remedy)
    if config.stop_perplexity is not None and not retained:
        raise InputError("a retained corpus to measure perplexity on", "none", "give one, or leave stop_perplexity out")
    if prompts:
        load_prompts(prompts)


class _DistillTrainer(Trainer):
    """A Trainer whose loss is the distance to stored targets."""

    loss_is_scaled_for_ga = False
    settings: DistillConfig
    vocabulary: int
    head: Linear | None  # of the student, where the loss can take the place of its logits

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """KL to the generic targets on forget rows, plus the weighted KL to the baseline on retained rows."""
        loss, outputs = distance_of_batch(model, inputs, self.head, vocabulary=self.vocabulary, config=self.settings)
        return (loss, outputs) if return_outputs else loss


def head_for_loss(trainer: Trainer) -> Linear | None:
    """Return the student's head if the loss can be computed in its place; None where logits are needed.

    Copies of the model in one process, compiled ones, and weights that DeepSpeed divides would not meet the head that
    is replaced, or would meet it at the wrong time.
    """
    compiled = trainer.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
    if compiled or trainer.args.n_gpu > 1 or trainer.is_deepspeed_enabled:
        return None
    return plain_head(trainer.model)


def distance_of_batch(
    model: Any,
    batch: dict[str, Any],
    head: Linear | None,
    *,
    vocabulary: int,
    config: DistillConfig,
) -> tuple[Tensor, Any]:  # [], what the model returned
    """Distance of a student to a collated batch, taken in the place of its head; without a head, of its logits."""
    texts = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    if head is not None:

        def loss_of(hidden: Tensor) -> Tensor:
            return distance_from_hidden(hidden, head, batch, vocabulary=vocabulary, config=config)

        with instead_of_logits(head, loss_of):
            outputs = model(**texts)
        return outputs.logits, outputs
    outputs = model(**texts)
    logits, forget = outputs.logits[..., :vocabulary], batch["forget rows"]
    loss = distance_to(logits[:forget], batch, "forget", inside_weight=config.inside_weight)
    if forget < len(logits):
        loss = loss + config.retain_weight * distance_to(logits[forget:], batch, "retain")
    return loss, outputs


def distance_to(
    logits: Tensor,  # [rows of the part, length, vocab]
    batch: dict[str, Any],
    part: str,
    *,
    inside_weight: float = 1.0,
) -> Tensor:  # []
    """Mean distance to one part of a collated batch, in nats: KL to soft targets, cross-entropy to hard labels."""
    positions, targets, weights = _targets_of(batch, part, inside_weight)
    return distance_to_soft(logits.flatten(0, 1), positions, targets, weights)


def distance_from_hidden(
    hidden: Tensor,  # [rows, length, hidden]
    head: Linear,
    batch: dict[str, Any],
    *,
    vocabulary: int,
    config: DistillConfig,
) -> Tensor:  # []
    """``distance_to`` the forget part plus ``retain_weight`` times that to the retained part, without logits."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    parts = [(0, 1.0, *_targets_of(batch, "forget", config.inside_weight))]
    if "retain positions" in batch:
        parts.append((batch["forget rows"], config.retain_weight, *_targets_of(batch, "retain", 1.0)))
    with torch.autocast(device, enabled=False):
        positions = torch.cat([first_row * hidden.shape[1] + at for first_row, _, at, _, _ in parts])
        targets = SoftTargets(*map(torch.cat, zip(*(said for _, _, _, said, _ in parts), strict=True)))
        means = [each * (share / max(1, len(each))) for _, share, _, _, each in parts]
        weights = torch.cat(means) * len(positions)  # which the operator divides by
        weight: Tensor = head.weight if len(head.weight) == vocabulary else head.weight[:vocabulary]
        bias: Tensor | None = None if head.bias is None else head.bias[:vocabulary].to(dtype)
        states = hidden.flatten(0, 1)[positions].to(dtype)
        return linear_soft_kl(states, weight.to(dtype), *targets, student_bias=bias, weights=weights)


def _targets_of(
    batch: dict[str, Any], part: str, inside_weight: float
) -> tuple[Tensor, SoftTargets, Tensor]:  # [n] positions; their targets; [n] their weights
    """One part of a collated batch; a hard label is a distribution of one token."""
    positions, inside = batch[f"{part} positions"], batch[f"{part} inside"]
    weights = torch.ones(len(positions), device=positions.device).masked_fill(inside, inside_weight)
    if f"{part} labels" not in batch:
        return positions, SoftTargets(*(batch[f"{part} {field}"] for field in SoftTargets._fields)), weights
    labels, nothing = batch[f"{part} labels"], torch.zeros_like(weights)
    return positions, SoftTargets(torch.ones_like(labels), labels, nothing, nothing), weights


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


def _check_sources(given: dict[str, Any], targets: str | Path | None) -> None:
    """Refuse anything but a corpus with a reinforced model, or targets alone."""
    wanted = "a corpus and a reinforced model, or else targets"
    if targets is None and not {"corpus", "reinforced"} <= given.keys():
        raise InputError(wanted, ", ".join(given) or "neither", "give what is missing, or targets computed before")
    if targets is not None and given:
        got = f"targets and {', '.join(name.replace('_', '-') for name in given)}"
        raise InputError(wanted, got, "leave those out: they are in the targets")


def _check_fits(store: TargetStore, baseline: dict[str, Any], config: DistillConfig) -> None:
    """Refuse targets of another baseline, without this alpha, or without retained blocks to measure on."""
    store.check_alpha(config.alpha)
    made_for = store.manifest["baseline"]
    key = "weights_fingerprint" if baseline["weights_fingerprint"] else "source"
    if made_for[key] != baseline[key]:
        got = f"targets of {made_for['source']}" + (", whose weights differ" if key != "source" else "")
        raise ModelError("the baseline that the targets were computed for", got, "compute them for this one")
    if config.stop_perplexity is not None and not store.retained:
        wanted, got = "targets with retained corpora, to measure perplexity on", f"{store.folder} without"
        raise InputError(wanted, got, "compute them with retained corpora, or leave stop_perplexity out")


def _settings_behind(store: TargetStore) -> dict[str, Any]:
    """Return the settings that the targets were computed with, without those that are the training's own."""
    own = ("alpha", "dtype", "seed")
    return {name: value for name, value in store.manifest["settings"].items() if name not in own}


def _sample(some: Sequence[Any]) -> Sequence[Any]:
    """At most ``_SAMPLE`` of them, evenly spread."""
    return some[:: max(1, -(-len(some) // _SAMPLE))]


def _retained_ids(store: TargetStore) -> list[tuple[int, ...]]:
    """Token ids of every retained row; a block may come again."""
    return [tuple(store.retain_ids(number)) for number in range(store.retained)]


class _Schedule(Dataset[tuple[Row, ...]]):
    """Every epoch's forget blocks in an order of its own, each beside the next retained block.

    The retained blocks that early stopping measures on are taken out, wherever they come again.
    """

    def __init__(self, store: TargetStore, config: DistillConfig) -> None:
        draw = random.Random(config.seed)
        self._store, self._alpha = store, config.alpha
        self._blocks = [draw.sample(range(store.blocks), store.blocks) for _ in range(config.epochs)]
        self.set_aside: list[tuple[int, ...]] = []
        self._retained: Sequence[int] = range(store.retained if config.retain_weight else 0)
        if config.stop_perplexity is not None:
            rows = _retained_ids(store)
            different = list(dict.fromkeys(rows))
            self.set_aside = different[-min(_SAMPLE, max(1, len(different) // 4)) :]
            if len(different) > 1:  # a single one has to serve for both
                aside = set(self.set_aside)
                self._retained = [number for number in self._retained if rows[number] not in aside]

    def __len__(self) -> int:
        return len(self._blocks) * self._store.blocks

    def __getitem__(self, number: int) -> tuple[Row, ...]:
        epoch, place = divmod(number, self._store.blocks)
        forget = self._store.forget(epoch, self._blocks[epoch][place], self._alpha)
        if not self._retained:
            return (forget,)
        return forget, self._store.retain(self._retained[number % len(self._retained)])


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
        batch[f"{part} inside"] = torch.cat([row.inside for row in rows])
        if rows[0].labels is not None:
            batch[f"{part} labels"] = torch.cat([row.labels for row in rows if row.labels is not None])
        else:
            soft = zip(*(row.soft for row in rows if row.soft is not None), strict=True)
            batch |= {f"{part} {field}": torch.cat(each) for field, each in zip(SoftTargets._fields, soft, strict=True)}
    return batch
