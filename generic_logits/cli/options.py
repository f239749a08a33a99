"""Options that several commands share, and how results are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from textwrap import TextWrapper
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from generic_logits.errors import InputError


class SpaceName(StrEnum):
    """The scores that the correction compares."""

    logits = "logits"
    logprobs = "logprobs"


class OffsetName(StrEnum):
    """The text on which the baseline stands that the reinforced model is compared with."""

    translated = "translated"
    original = "original"


Baseline = Annotated[str, typer.Argument(help="Model folder or hub name.", show_default=False)]
CORPUS_HELP = "Text, .jsonl or .parquet file, packed with .gz or not; a folder of them; or - for standard input."
REINFORCED_HELP = "Reinforced model, or LoRA adapter for BASELINE."
Corpus = Annotated[Path, typer.Argument(help=CORPUS_HELP, show_default=False)]
TextField = Annotated[str, typer.Option(help="Field of a .jsonl record, or .parquet column, that holds its text.")]
Join = Annotated[bool, typer.Option("--join", help="Make one text of a corpus's documents; they stay apart otherwise.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to create.", show_default=False)]
Reinforced = Annotated[str, typer.Option(help=REINFORCED_HELP, show_default=False)]
Space = Annotated[SpaceName, typer.Option(help="Compare raw logits (the paper) or log-probabilities.")]
Threshold = Annotated[float, typer.Option(help="Count only increases above this many nats.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Dtype = Annotated[str, typer.Option(help="Weights as auto, float32, bfloat16 or float16.")]
Epochs = Annotated[int, typer.Option(help="Passes over the corpus.")]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak rate; 2e-4 for LoRA, 1e-5 with --full.", show_default=False)
]
BatchSize = Annotated[int, typer.Option(help="Blocks a step and device.")]
GradientAccumulation = Annotated[int, typer.Option(help="Steps an update.")]
BlockSize = Annotated[
    int | None, typer.Option(help="Tokens in a block; 512 or the model's context.", show_default=False)
]
Full = Annotated[bool, typer.Option("--full", help="Train all weights instead of a LoRA adapter.")]
LoraRank = Annotated[int, typer.Option(help="Rank of the adapter on every linear layer.")]
SaveSteps = Annotated[int, typer.Option(help="Updates between two checkpoints.")]
Resume = Annotated[bool, typer.Option("--resume", help="Take up the unfinished run of this output, if any.")]
Anchors = Annotated[
    Path | None, typer.Option(help="Dictionary of anchors (see the command anchors).", show_default=False)
]
Retain = Annotated[
    list[Path] | None,
    typer.Option(help="Corpus on which the model shall stay as it is; may be repeated.", show_default=False),
]
HeldTo = Annotated[
    str | None, typer.Option(help="Model that --retain is held to; BASELINE if not given.", show_default=False)
]
Offset = Annotated[OffsetName, typer.Option(help="Compare with the baseline on the translated or the original text.")]
Temperature = Annotated[float, typer.Option(help="Divides the corrected logits of the targets.")]
Ban = Annotated[float, typer.Option(help="Nats off an anchor's remaining tokens inside it; 0 trains nothing there.")]
InsideWeight = Annotated[float, typer.Option(help="Weight of positions inside an anchor, against 1 elsewhere.")]
Hard = Annotated[bool, typer.Option("--hard", help="The paper's hard labels instead of soft targets.")]
Paper = Annotated[
    bool, typer.Option("--paper", help="Find and replace anchors as the authors' script does; hard labels.")
]
Draws = Annotated[
    int | None,
    typer.Option(help="Translations of each block, one for each pass; 3, or 1 with --paper.", show_default=False),
]
Tail = Annotated[float, typer.Option(help="Probability that stored soft targets may leave out.")]
TeacherBatchSize = Annotated[
    int | None, typer.Option(help="Blocks in a pass of the teachers; as many as fit.", show_default=False)
]
RetainWeight = Annotated[float, typer.Option(help="Weight of the retained corpora.")]
Prompts = Annotated[Path | None, typer.Option(help="Prompt file for --stop-familiarity.", show_default=False)]
StopFamiliarity = Annotated[
    float | None,
    typer.Option(help="Stop when prompts' targets are this unlikely; looked at with --save-steps.", show_default=False),
]
StopPerplexity = Annotated[
    float | None,
    typer.Option(
        help="Stop when set-aside retained text is this share harder; looked at with --save-steps.", show_default=False
    ),
]
ROUNDS_HELP = "Later rounds reinforce the last student, and distil again."
LATER = ("later_alpha", "later_rate")
LaterAlpha = Annotated[float, typer.Option(help="Strength of the correction in later rounds.")]
LaterRate = Annotated[float, typer.Option(help="Share of the learning rate that later rounds take.")]
TrainerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--trainer",
        metavar="NAME=VALUE",
        help="Any transformers.TrainingArguments field, e.g. bf16=true.",
        show_default=False,
    ),
]

_FIRST = 23  # columns of the screen that are left to a table's first column at least
DTYPES = ("auto", "float32", "bfloat16", "float16")


def trainer_options(pairs: list[str] | None) -> dict[str, Any]:
    """Turn NAME=VALUE words into TrainingArguments fields; values are JSON where they can be.

    Raises:
        InputError: a word without "=", or a name that TrainingArguments does not have.
    """
    from dataclasses import fields

    from transformers import TrainingArguments

    known = {each.name for each in fields(TrainingArguments)}
    options: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise InputError("--trainer NAME=VALUE with a TrainingArguments field", repr(pair), "check the name")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def refuse(context: typer.Context, names: Iterable[str], with_what: str, why: str) -> None:
    """Refuse options that were given and would change nothing.

    Raises:
        InputError: there is one.
    """
    for option in _given(context, names):
        raise InputError(f"no {option} with {with_what}", option, f"leave it out: {why}")


def require(context: typer.Context, names: Iterable[str], there: Any, what: str) -> None:
    """Refuse options that were given and change nothing without something else.

    Args:
        context: of the command.
        names: of the options' parameters.
        there: true if the other thing was given.
        what: the other thing, in words.

    Raises:
        InputError: there is one, and the other thing is not.
    """
    for option in () if there else _given(context, names):
        raise InputError(f"{what} beside {option}", f"{option} alone", f"add what is missing, or leave {option} out")


def require_records(context: typer.Context, corpora: Iterable[Path]) -> None:
    """Refuse a --text-field that no corpus has.

    Raises:
        InputError: all of the corpora are plain text.
    """
    from generic_logits.text.corpus import has_records

    require(context, ["text_field"], any(map(has_records, corpora)), "a corpus with records (.jsonl, .parquet)")


def _given(context: typer.Context, names: Iterable[str]) -> Iterator[str]:
    """Those of the options that stand on the command line, as one writes them."""
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        if each.name in names and source is not None and source.name == "COMMANDLINE":
            yield each.opts[0]


def settings(config: Any, options: dict[str, Any]) -> Any:
    """Build a config from those of a command's options that are its fields; None takes the config's default."""
    from dataclasses import fields

    names = {each.name for each in fields(config)}
    values = {
        name: each.value if isinstance(each, StrEnum) else each for name, each in options.items() if each is not None
    }
    if options.get("paper"):  # as the authors' script does: one translation of a block
        values.setdefault("draws", 1)
    if "trainer" in options:
        values["trainer_options"] = trainer_options(options["trainer"])
    return config(**{name: each for name, each in values.items() if name in names})


def prepare(dtype: str, seed: int) -> None:
    """Check what every command checks, quiet the libraries, and set the seed.

    Raises:
        InputError: an unknown dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"a dtype of {', '.join(DTYPES)}", repr(dtype), "auto takes the checkpoint's own")
    import transformers

    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    transformers.logging.set_tqdm_hook(_bar)  # of loading and saving
    transformers.set_seed(seed)


def _bar(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A bar of transformers as one of ours, which shows itself after two seconds and leaves nothing."""
    from generic_logits._progress import Progress

    return Progress(*arguments, **{**options, "delay": 2, "leave": False})


def print_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, unbroken: bool = False) -> None:
    """Print a table to stdout, first column to the left, the others to the right.

    Args:
        title: above it.
        head: names of the columns.
        rows: cells; a row of a single one is a heading.
        unbroken: no cell but those of the first column is broken; a table wider than the terminal comes in parts, each
            with the first column.
    """
    console = Console()
    whole = [row for row in rows if len(row) == len(head)]
    first, *others = [max(cell_len(row[at]) for row in [head, *whole]) + 3 for at in range(len(head))]
    room = console.width - 1 - min(first, _FIRST)
    parts: list[list[int]] = [[]]
    for at, width in enumerate(others, start=1):
        if unbroken and parts[-1] and sum(others[before - 1] for before in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(at)
    for part in parts:
        table = Table(title=Text(title) if part is parts[0] else None, title_justify="left")
        table.add_column(head[0])
        for at in part:
            table.add_column(head[at], justify="right", no_wrap=unbroken)
        for row in rows:
            if len(row) < len(head):
                table.add_section()
                table.add_row(Text(row[0], "bold"))
            else:
                table.add_row(*(Text(row[at]) for at in (0, *part)))
        console.print(table)


def print_wrapped(text: str, mark: str = "") -> None:
    """Print a sentence to stdout, as wide as tables may be; its further lines hang behind the mark in front of it.

    It is broken at spaces alone: words, paths and what no-break spaces hold together stay whole.
    """
    wrapper = TextWrapper(Console().width, mark, " " * len(mark), break_long_words=False, break_on_hyphens=False)
    print(wrapper.fill(text))


def print_targets(store: Any, as_json: bool) -> None:
    """Show what a folder of targets holds; once in a launch of several processes."""
    from generic_logits.training.run import is_first_process

    if not is_first_process():
        return
    if as_json:
        print_json({**store.manifest, "output": str(store.folder)})
        return
    size = sum(file.stat().st_size for file in store.folder.glob("*.safetensors"))
    rows = [
        ["forget blocks", f"{store.blocks:,} x {store.manifest['draws']}"],
        ["retained blocks", f"{store.retained:,}"],
        ["alpha", ", ".join(f"{alpha:g}" for alpha in store.alphas)],
        ["megabytes", f"{size / 1e6:,.1f}"],
    ]
    print_table(str(store.folder), ["", "targets"], rows)


def print_measured(record: dict[str, Any], as_json: bool, folder: Path) -> None:
    """Show what a training command measured, and where its result is; once in a launch of several processes."""
    from generic_logits.training.run import is_first_process

    if not is_first_process():
        return
    if as_json:
        print_json({**record, "output": str(folder)})
        return
    names = list(next(iter(record["measured"].values())))
    rows = [
        [name.replace("_", " "), *(f"{values[model]:.2f}" for model in names)]
        for name, values in record["measured"].items()
    ]
    print_table(f"{folder}, {record['seconds']:.0f} s", ["", *names], rows)
