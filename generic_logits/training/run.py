"""What both training commands share: settings, the output that appears whole, checkpoints, and Ctrl-C."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, get_cpu_distributed_information, parse_flag_from_env
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.pytorch_utils import Conv1D

from generic_logits._files import replace_file
from generic_logits._progress import Progress
from generic_logits.errors import CorpusError, InputError, ModelError, OutputError, StorageError
from generic_logits.text.blocks import BlockFile
from generic_logits.text.corpus import Block, Document, cut_blocks

_IGNORED = -100
_FULL = (errno.ENOSPC, errno.EDQUOT)
_KEEP = ".worth-resuming"  # in a working folder


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run.

    Attributes:
        epochs: passes over the forget corpus.
        learning_rate: peak rate of AdamW; None takes 2e-4 for LoRA and 1e-5 for full weights.
        batch_size: blocks a step and device.
        gradient_accumulation: steps whose gradients are summed before an update.
        block_size: tokens in a block; None takes 512 or the model's context, whichever is shorter.
        full: train all weights instead of a LoRA adapter.
        lora_rank: rank of the adapter on every linear layer; its alpha is twice the rank.
        dtype: of the weights while training, as in ``from_pretrained``.
        save_steps: updates between two checkpoints.
        seed: of data order and adapter initialisation.
        trainer_options: further ``transformers.TrainingArguments`` by name: bf16, gradient_checkpointing, report_to,
            ... For weights sharded with FSDP see ``docs/fsdp.yaml``; DeepSpeed is not tested.
    """

    epochs: int = 3
    learning_rate: float | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    block_size: int | None = None
    full: bool = False
    lora_rank: int = 16
    dtype: str = "auto"
    save_steps: int = 100
    seed: int = 0
    trainer_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a count below 1, a learning rate that is not positive, or another output.
        """
        check_counts(self, "epochs", "batch_size", "gradient_accumulation", "lora_rank", "save_steps")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InputError("a learning rate above 0", repr(self.learning_rate), "1e-5 to 1e-3 is usual")
        if "output_dir" in self.trainer_options:
            raise InputError("trainer options without output_dir", "one", "the output is an argument of its own")


def check_counts(config: Any, *names: str) -> None:
    """Refuse counts below 1.

    Raises:
        InputError: there is one.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"{name} of at least 1", repr(getattr(config, name)), f"raise {name}")


def processes() -> tuple[int, int]:
    """(number of this process, their count) in a launch by torchrun, accelerate or MPI; (0, 1) otherwise."""
    launch = get_cpu_distributed_information()  # reads the launcher's variables, on whatever device
    return launch.rank, launch.world_size


def is_first_process() -> bool:
    """Whether this process is the one of a launch that writes files and speaks."""
    return processes()[0] == 0


def wait_for_everyone() -> None:
    """Meet the other processes of a launch, if there are any."""
    if processes()[1] > 1:
        PartialState(cpu=_on_cpu()).wait_for_everyone()


def training_device() -> torch.device:
    """Where a Trainer would put a model in this process."""
    device: torch.device = PartialState(cpu=_on_cpu()).device
    return device


def _on_cpu() -> bool:
    """Whether to compute on the CPU: as told, or for want of anything else. A launch of several has to be told."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def shards_weights() -> bool:
    """Whether FSDP or DeepSpeed divides a model among the processes of this launch."""
    return any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))


@contextmanager
def loading_everywhere() -> Iterator[None]:
    """Load a model's weights in every process, where FSDP would have the first one read and the others left empty."""
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    wanted = os.environ.pop(name, None)
    try:
        yield
    finally:
        if wanted is not None:
            os.environ[name] = wanted


def first_says(value: float) -> float:
    """Return the first process's value in every process of a launch."""
    said: list[float] = broadcast_object_list([value])
    return said[0]


class OutputFolder:
    """A result folder that appears whole, by rename, or not at all.

    Checkpoints and the result grow in ``NAME.partial`` beside it, where an interrupted run stays and ``resume`` finds
    it.
    """

    def __init__(self, path: str | Path, *, resume: bool) -> None:
        """Check the place; nothing is written yet.

        Raises:
            OutputError: it exists and is not empty, cannot be written, or holds an unfinished run and ``resume`` is
                False.
        """
        self.path = Path(path)
        if self.path.name in ("", ".."):
            raise OutputError("the name of a folder to create", str(path), "choose a name")
        if self.path.is_symlink() or os.path.ismount(self.path):
            raise OutputError(
                "an output folder that can appear by rename", f"a link or mount, {path}", "choose a folder below it"
            )
        self.work = self.path.with_name(self.path.name + ".partial")
        if not is_first_process():
            return
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise OutputError("an output folder that is new or empty", f"{path} with content", "choose another one")
        if self.work.exists() and not resume:
            raise OutputError(
                "no unfinished run in the way", str(self.work), "continue it with --resume, or delete that folder"
            )
        ancestor = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise _cannot_be_written(self.path, f"{ancestor} refuses")

    def open(self, settings: Mapping[str, Any]) -> None:
        """Create the working folder, or take up an unfinished run of the same inputs and settings.

        Raises:
            OutputError: the unfinished run was started with other inputs or settings, or the place refuses.
        """
        if not is_first_process():
            return
        file = self.work / "run.json"
        wanted = json.loads(json.dumps(settings, default=str))
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            changed = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            if changed:
                raise OutputError(
                    "the inputs and settings that the unfinished run began with",
                    f"another {', '.join(changed)}",
                    f"repeat the first command with --resume, or delete {self.work}",
                )
            return
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise _cannot_be_written(self.path, f"{error.filename}: {error.strerror}") from error
        replace_file(file, json.dumps(wanted, indent=2))

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end; half-written ones are removed."""
        complete = []
        for folder in self.work.glob("checkpoint-*"):
            try:
                step = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
                complete.append((step, folder))
            except (OSError, ValueError, KeyError):
                if is_first_process():
                    shutil.rmtree(folder, ignore_errors=True)
        return max(complete)[1] if complete else None

    def publish(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a folder, flush it to the disk, give it its name, remove the rest."""
        if not is_first_process():
            return
        result = self.work / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        write(result)
        for file in result.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        result.replace(self.path)
        shutil.rmtree(self.work, ignore_errors=True)

    @property
    def is_step(self) -> bool:
        """Whether it lies in the working folder of a longer run, which has the last word."""
        return any(parent.suffix == ".partial" for parent in self.path.absolute().parents)

    def keep(self) -> None:
        """Note that the working folder holds something that a resumed run can use."""
        (self.work / _KEEP).touch()

    @property
    def worth_resuming(self) -> bool:
        """Whether a run, or a step of it that has a working folder inside, left something to go on from."""
        of_steps = (self.work.rglob(pattern) for pattern in (_KEEP, "*.partial/checkpoint-*/trainer_state.json"))
        return self.last_checkpoint is not None or any(map(any, of_steps))

    def discard_if_worthless(self) -> None:
        """Leave nothing behind where there is nothing to resume from."""
        if is_first_process() and self.work.exists() and not self.worth_resuming:
            shutil.rmtree(self.work, ignore_errors=True)


def _cannot_be_written(path: Path, why: str) -> OutputError:
    return OutputError("a place that can be written", str(path), f"choose another one: {why}")


@contextmanager
def leaving_no_trace(folder: OutputFolder) -> Iterator[None]:
    """Clean up behind a failed run, keep its checkpoints, and name a full disk as what it is."""
    try:
        yield
    except BaseException as error:
        full = _says_disk_full(error) or isinstance(error, RuntimeError) and _has_no_room(folder.work)
        folder.discard_if_worthless()
        if folder.is_step:
            raise
        if isinstance(error, KeyboardInterrupt) and folder.work.exists() and is_first_process():
            print(f"what was done is kept in {folder.work}; continue with --resume", file=sys.stderr)
        if full:
            hint = "continue with --resume" if folder.work.exists() else "run it again"
            raise StorageError(
                f"the disk is full at {folder.path.absolute().parent}; make room, then {hint}"
            ) from error
        raise


def _says_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL or "No space left" in str(error)  # safetensors' own


def _has_no_room(folder: Path) -> bool:
    """Whether the disk refuses one more mebibyte; ``torch.save`` fails on a full disk without naming the cause."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
    except OSError as error:
        return error.errno in _FULL
    return False


class _StopOnInterrupt(TrainerCallback):
    """On the first Ctrl-C finish the step, save a checkpoint and stop; on the second give up at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen for SIGINT, where this thread may."""
        try:
            self._previous = signal.signal(signal.SIGINT, self._note)
        except ValueError:  # not the main thread
            self._previous = None

    def _note(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint and the end."""
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def release(self) -> None:
        """Give the signal back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


class _Progress(TrainerCallback):
    """One bar on stderr with the latest loss; stdout belongs to results."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw the bar, from the resumed step on."""
        self._bar = Progress(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step", disable=args.disable_tqdm
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance it."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the loss."""
        if logs and "loss" in logs:
            self._bar.set_postfix(loss=logs["loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the finished bar."""
        self._bar.close()


class _HasBlockSize(Protocol):
    """Settings that say how long a block is."""

    @property
    def block_size(self) -> int | None:
        """Tokens in a block; None takes the usual length."""


def training_blocks(
    documents: Iterable[Document],
    tokenizer: Any,
    config: _HasBlockSize,
    model: Any,
    *,
    folder: Path | None = None,
    keep_together: Callable[[str], Iterable[tuple[int, int]]] | None = None,
) -> Sequence[Block]:
    """Cut a corpus into blocks for this model; a single token predicts nothing and is left out.

    Args:
        documents: a corpus, or documents; gone through once.
        tokenizer: of the model.
        config: its ``block_size``.
        model: its context is the limit.
        folder: where to keep the blocks instead of in memory. Those of an earlier run are taken as they are: the caller
            vouches that they come from the same corpus, tokenizer and settings. In a launch of several processes the
            first one writes them.
        keep_together: see ``cut_blocks``.

    Raises:
        InputError: ``block_size`` is beyond the model's context.
        CorpusError: nothing is left.
        StorageError: the first process has stopped writing.
        OSError: the folder cannot be written.
    """
    length = _block_length(config, model)
    characters = 0

    def counted() -> Iterator[Document]:
        nonlocal characters
        for document in documents:
            characters += len(document.text)
            yield document

    def cut() -> Iterator[Block]:
        blocks = cut_blocks(counted(), tokenizer, length, keep_together=keep_together)
        bar = Progress(blocks, desc="tokenising", unit="block", delay=2, leave=False)
        return (block for block in bar if len(block.token_ids) > 1)

    blocks: Sequence[Block]
    if folder is None:
        blocks = list(cut())
    elif not is_first_process():
        blocks = BlockFile.open_when_written(folder)
    elif BlockFile.is_complete(folder):
        blocks = BlockFile.open(folder)
    else:
        blocks = BlockFile.write(folder, cut())
    if not blocks:
        raise CorpusError("a corpus of at least two tokens", f"{characters} characters", "add text")
    return blocks


def context_of(model: Any) -> int | None:
    """Return the number of positions that a model knows; None if it has no such limit."""
    context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context


def _block_length(config: _HasBlockSize, model: Any) -> int:
    context = context_of(model)
    if config.block_size is None:
        return min(512, context or 512)
    if config.block_size < 2 or (context and config.block_size > context):
        wanted = f"a block size from 2 to {context}" if context else "a block size of at least 2"
        raise InputError(wanted, str(config.block_size), "choose another one")
    return config.block_size


def ready_to_train(model: Any) -> Any:
    """Return the model itself, in float32 where it would otherwise compute in float16 on a CPU."""
    return model.float() if model.dtype == torch.float16 and not torch.cuda.is_available() else model


def with_lora(model: Any, config: TrainConfig) -> Any:
    """Put a fresh LoRA adapter on every linear layer of ``model``.

    Raises:
        ModelError: PEFT does not adapt this kind of model.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 and its kin
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        wanted, got = "a model whose linear layers take LoRA", f"{type(model).__name__}: {error}"
        raise ModelError(wanted, got, "train full weights (--full)") from error


def pad_ids(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # both [rows, length]
    """Token ids and attention mask of rows, padded on the right."""
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask


def endless_deck(size: int, count: int, seed: int) -> list[int]:
    """``count`` numbers below ``size``: shuffled, and shuffled anew each time all of them were dealt."""
    draw = random.Random(seed)
    deck: list[int] = []
    while size and len(deck) < count:
        deck += draw.sample(range(size), size)
    return deck[:count]


def sample_blocks(blocks: Sequence[Block], count: int = 64) -> list[tuple[int, ...]]:
    """Token ids of at most ``count`` blocks, evenly spread."""
    return [block.token_ids for block in blocks[:: max(1, -(-len(blocks) // count))]]


def pad_blocks(blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:  # both [blocks, length]
    """Token ids and attention mask of blocks, padded on the right."""
    longest = max(len(block.token_ids) for block in blocks)
    ids = torch.zeros(len(blocks), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, block in enumerate(blocks):
        ids[row, : len(block.token_ids)] = torch.tensor(block.token_ids)
        mask[row, : len(block.token_ids)] = 1
    return ids, mask


def language_model_batch(blocks: Sequence[Block]) -> dict[str, Tensor]:
    """Collate blocks for next-token training."""
    ids, mask = pad_blocks(blocks)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, _IGNORED)}


def default_learning_rate(config: TrainConfig) -> float:
    """Return the peak rate of AdamW, chosen or usual."""
    return config.learning_rate if config.learning_rate is not None else (1e-5 if config.full else 2e-4)


def training_arguments(config: TrainConfig, folder: OutputFolder, **fixed: Any) -> TrainingArguments:
    """Translate the settings; ``config.trainer_options`` has the last word.

    Raises:
        InputError: options that ``TrainingArguments`` does not take.
    """
    options: dict[str, Any] = {
        "output_dir": str(folder.work),
        "learning_rate": default_learning_rate(config),
        "lr_scheduler_type": "linear",
        "adam_beta2": 0.98,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "seed": config.seed,
        "report_to": "none",
        "logging_steps": 10,
        "use_cpu": _on_cpu(),
        "disable_tqdm": not is_first_process(),
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **fixed,
        **config.trainer_options,
    }
    try:
        arguments = TrainingArguments(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError("options that TrainingArguments takes", f"{error}", "check the trainer options") from error
    if arguments.eval_strategy != "no":
        wanted = "trainer options without evaluation"
        got = f"eval_strategy={config.trainer_options.get('eval_strategy')}"
        raise InputError(wanted, got, "leave it out: there is nothing to evaluate on")
    return arguments


def run_trainer(trainer: Trainer, folder: OutputFolder) -> None:
    """Train from the last complete checkpoint, if any, to the end.

    Raises:
        KeyboardInterrupt: Ctrl-C; a checkpoint was saved first.
    """
    stop = _StopOnInterrupt()
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress())
    trainer.add_callback(stop)
    checkpoint = folder.last_checkpoint
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        stop.release()
    if stop.interrupted:
        raise KeyboardInterrupt


def trained_model(trainer: Trainer, build: Callable[[], Any]) -> Any:
    """Return the trained model whole, where FSDP or DeepSpeed left each process a part of it.

    Args:
        trainer: after training.
        build: makes the untrained model again, from its files: the trained one is in parts. Called on the first
            process, if the weights are sharded.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return trainer.accelerator.unwrap_model(trainer.model).eval()
    weights = trainer.accelerator.get_state_dict(trainer.model)  # every process has to take part
    if not is_first_process():
        return None
    whole = build()
    whole.load_state_dict(weights)
    return whole.eval()


def check_converged(measured: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse to publish a model whose training has diverged.

    Raises:
        InputError: a perplexity that is not finite.
    """
    for name, of_models in measured.items():
        if not all(map(math.isfinite, of_models.values())):
            got = f"{name.replace('_', ' ')} of {', '.join(f'{each:.4g}' for each in of_models.values())}"
            raise InputError("a model that still predicts after training", got, "lower the learning rate")


def settings_of(config: Any) -> dict[str, Any]:
    """Return the settings, a dataclass, as plain data for records."""
    return asdict(config)
