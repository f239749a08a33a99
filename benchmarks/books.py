"""The demo's four measures on real books: ``python -m benchmarks.books --forget FILE ... NAME=MODEL ...``.

A MODEL is a folder, or ``BASELINE+REINFORCED@ALPHA`` for a pair at decode time.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from generic_logits import ModelPair
from generic_logits.evaluation.familiarity import completion_familiarity, probability_familiarity
from generic_logits.evaluation.memorization import cut_passages, verbatim_rouge_l
from generic_logits.evaluation.prompts import Prompt, load_prompts
from generic_logits.evaluation.utility import text_perplexity
from generic_logits.models.pair import load_model, load_tokenizer
from generic_logits.text.corpus import read_documents


def load(source: str) -> tuple[Any, Any]:
    pair = re.fullmatch(r"(.+)\+(.+)@([\d.]+)(?::(\w+))?", source)
    if pair:
        space: Any = pair[4] or "logits"
        both = ModelPair.from_pretrained(pair[1], pair[2], alpha=float(pair[3]), space=space)
        return both, both.tokenizer
    return load_model(source), load_tokenizer(source)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.books", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--forget", type=Path, required=True, help="what unlearning was given")
    parser.add_argument("--held-out", type=Path, required=True, help="the rest of the same book")
    parser.add_argument("--prompts", type=Path, required=True, help="probability prompts")
    parser.add_argument("--terms", type=Path, required=True, help="a JSON object whose keys are the book's terms")
    parser.add_argument("--unread", type=Path, required=True, help="file or folder of text that no model has read")
    parser.add_argument("--block-size", type=int, default=256)
    options = parser.parse_args()

    prompts, terms = load_prompts(options.prompts), list(json.loads(options.terms.read_text(encoding="utf-8")))
    forget, held_out = (file.read_text(encoding="utf-8") for file in (options.forget, options.held_out))
    unread = [document.text for document in read_documents(options.unread)]
    passages = cut_passages(forget, 48)
    beginnings = [Prompt(prompt, target) for prompt, target in cut_passages(held_out, 48)]

    table = Table(title=str(options.forget), title_justify="left")
    heads = (
        "prompts: P(target)",
        "new terms, held-out",
        "verbatim ROUGE-L",
        "held-out perplexity",
        "others' perplexity",
        "s",
    )
    for head in ("", *heads):
        table.add_column(head, justify="left" if head == "" else "right")
    for each in options.models:
        name, source = each.split("=", 1)
        started = time.monotonic()
        model, tokenizer = load(source)
        table.add_row(
            name,
            f"{probability_familiarity(model, tokenizer, prompts):.3f}",
            f"{completion_familiarity(model, tokenizer, beginnings, terms):.2f}",
            f"{verbatim_rouge_l(model, tokenizer, passages):.3f}",
            f"{text_perplexity(model, tokenizer, [held_out], block_size=options.block_size):.1f}",
            f"{text_perplexity(model, tokenizer, unread, block_size=options.block_size):.1f}",
            f"{time.monotonic() - started:.0f}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
