"""``generic-logits demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generic_logits.cli import options as o

EXAMPLE = "Example: generic-logits demo --json > demo.json"


def run(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the models and the picture; an older demo is replaced.")
    ] = Path("generic-logits-demo"),
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Forget an invented book: reinforce, decode, distil and evaluate a small model that has read it."""
    from generic_logits.demo.run import COLUMNS, run_demo

    o.prepare("auto", seed)
    result = run_demo(output, seed=seed)
    if as_json:
        o.print_json(result)
        return
    rows = [[row["model"], *(f"{row[key]:{form}}" for key, _, form in COLUMNS)] for row in result["rows"]]
    o.print_table("The Herring Bell of Osselquay, before and after", ["", *(title for _, title, _ in COLUMNS)], rows)
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in result["seconds"].items())
    print(f"seconds: {seconds}\nmodels and picture: {result['output']}")
