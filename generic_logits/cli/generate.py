"""``generic-logits generate``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Event
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from generic_logits.cli import options as o
from generic_logits.errors import InputError

DEFAULT_ALPHA = 2.0
EXAMPLE = 'Example: generic-logits generate ./baseline --reinforced ./reinforced --alpha 1 --alpha 3 "Once upon a time"'


def run(
    baseline: o.Baseline,
    prompts: Annotated[list[str], typer.Argument(help="What to continue.", show_default=False)],
    reinforced: o.Reinforced,
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            help=f"Strength of the correction; may be repeated; default {DEFAULT_ALPHA:g}.", show_default=False
        ),
    ] = None,
    space: o.Space = o.SpaceName.logits,
    threshold: o.Threshold = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a completion.")] = 60,
    sample: Annotated[bool, typer.Option("--sample", help="Sample instead of greedy decoding.")] = False,
    temperature: Annotated[float, typer.Option(help="With --sample.")] = 1.0,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Show what the baseline and the generic model write, side by side, while they write it."""
    import transformers

    from generic_logits.models.pair import ModelPair
    from generic_logits.ops import check_alpha

    strengths = [check_alpha(each) for each in alpha or [DEFAULT_ALPHA]]
    if not 0 < temperature < math.inf:
        raise InputError("a finite temperature above 0", repr(temperature), "1 is the model's own")
    o.prepare(dtype, seed)
    pair = ModelPair.from_pretrained(
        baseline, reinforced, alpha=strengths[0], space=space.value, threshold=threshold, dtype=dtype
    )
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": sample}
    if sample:
        options["temperature"] = temperature
    console = Console()
    columns = {"baseline": 0.0} | {f"alpha {strength:g}": strength for strength in strengths}
    results = []
    for prompt in prompts:
        texts = dict.fromkeys(columns, "")
        with (
            Live(console=console, refresh_per_second=12)
            if console.is_terminal and not as_json
            else nullcontext() as live
        ):
            for name, strength in columns.items():
                transformers.set_seed(seed)
                for piece in _stream(pair.with_alpha(strength), prompt, options):
                    texts[name] += piece
                    if live is not None:
                        live.update(_side_by_side(prompt, texts))
        if not as_json and live is None:
            console.print(_side_by_side(prompt, texts))
        results.append({"prompt": prompt, "completions": texts})
    if as_json:
        o.print_json(results)


def _stream(pair: Any, prompt: str, options: dict[str, Any]) -> Iterator[str]:
    """Pieces of the completion as they come; generation runs in a thread and its errors come out here."""
    import torch
    from transformers import StoppingCriteriaList, TextIteratorStreamer

    from generic_logits.text.corpus import encode_prompt

    ids = torch.tensor([encode_prompt(pair.tokenizer, prompt)], device=pair.baseline.device)
    streamer = TextIteratorStreamer(pair.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop = Event()
    criteria = StoppingCriteriaList([lambda *_, **__: torch.full((len(ids),), stop.is_set(), device=ids.device)])
    options = {"attention_mask": torch.ones_like(ids), "streamer": streamer, "stopping_criteria": criteria, **options}

    def generate() -> None:
        try:
            pair.generate(ids, **options)
        finally:
            streamer.end()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generate)
        try:
            yield from streamer
        finally:
            stop.set()  # after Ctrl-C the thread ends with its step
        future.result()


def _side_by_side(prompt: str, texts: dict[str, str]) -> Table:
    table = Table(title=Text(prompt), title_justify="left", show_lines=True)
    for name in texts:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*map(Text, texts.values()))
    return table
