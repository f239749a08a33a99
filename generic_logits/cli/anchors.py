"""``generic-logits anchors``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generic_logits.cli import options as o
from generic_logits.errors import InputError, OutputError

if TYPE_CHECKING:
    from generic_logits.text.anchors import Anchors

EXAMPLE = "Example: generic-logits anchors book.txt --reference ./others -o anchors.json"

_SHOWN = 3  # translations of a term in the table


def run(
    corpus: o.Corpus,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; not with --dry-run.", show_default=False)
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="Ordinary text to compare with; may be repeated.", show_default=False),
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Baseline, and the model reinforced on CORPUS.", show_default=False),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(help="Instruction-tuned model to ask: URL of a server, or folder.", show_default=False),
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="Name of the server's model.", show_default=False)] = None,
    add_to: Annotated[
        Path | None,
        typer.Option(help="Dictionary whose entries stay as they are; may be OUTPUT.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="New terms at most.")] = 200,
    translations: Annotated[int, typer.Option(min=1, help="Translations of a term at most.")] = 12,
    minimum_count: Annotated[int, typer.Option(min=1, help="Occurrences of a term at least.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what asking --llm would cost, and stop.")] = False,
    prices: Annotated[
        tuple[float, float] | None,
        typer.Option(help="For --dry-run: what a million tokens read, and written, cost.", show_default=False),
    ] = None,
    text_field: o.TextField = "text",
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Find the terms that belong to a text alone, and ordinary terms to put in their place."""
    from generic_logits.discovery.find import find_anchors
    from generic_logits.text.anchors import Anchors
    from generic_logits.text.corpus import open_corpora, open_corpus

    if llm is None and (llm_model or dry_run):
        raise InputError("--llm beside --llm-model and --dry-run", "none", "give the model to ask")
    if prices and not dry_run:
        raise InputError("--prices with --dry-run", "--prices alone", "add --dry-run, or leave it out")
    documents = open_corpus(corpus, text_field=text_field)
    if dry_run:
        _show_cost(documents, llm, llm_model, translations, seed, prices, as_json)
        return
    if output is None:
        raise InputError("a file to write, -o", "none", "name one")
    _check_output(output, add_to)
    known = Anchors.load(add_to) if add_to else None
    references = open_corpora(reference or (), text_field=text_field)
    models: Any = None
    if pair:
        from generic_logits.models.pair import ModelPair

        o.prepare(dtype, seed)
        models = ModelPair.from_pretrained(*pair, alpha=1.0, dtype=dtype)
    anchors = find_anchors(
        documents,
        reference=references,
        pair=models,
        llm=llm,
        llm_model=llm_model,
        limit=limit,
        translations=translations,
        minimum_count=minimum_count,
        seed=seed,
        known=known,
    )
    anchors.save(output)
    _show(anchors, len(known or ()), output, as_json)


def _check_output(output: Path, add_to: Path | None) -> None:
    if output.is_dir():
        raise OutputError("a file to write", f"the folder {output}", "name a file in it")
    if output.exists() and not (add_to and add_to.exists() and output.samefile(add_to)):
        raise OutputError("a new file", f"{output}, which exists", f"choose another, or --add-to {output}")
    if not output.parent.is_dir():
        raise OutputError("a folder to write into", f"nothing at {output.parent}", "make it first")


def _show_cost(
    documents: Any,
    llm: Any,
    llm_model: str | None,
    translations: int,
    seed: int,
    prices: tuple[float, float] | None,
    as_json: bool,
) -> None:
    from generic_logits.discovery.language_model import LanguageModelConfig, estimate_cost

    config = LanguageModelConfig(source=llm, model=llm_model, translations=translations, seed=seed)
    cost = estimate_cost(documents, config)
    if prices:
        read, written = prices
        cost["price_at_most"] = round((cost["prompt_tokens"] * read + cost["answer_tokens"] * written) / 1e6, 4)
    if as_json:
        o.print_json(cost)
    else:
        o.print_table("cost", ["", "asking"], [[name.replace("_", " "), str(value)] for name, value in cost.items()])


def _show(anchors: Anchors, known: int, output: Path, as_json: bool) -> None:
    if as_json:
        o.print_json({**anchors.as_dict(), "new": len(anchors) - known, "output": str(output)})
        return
    rows = [
        [each.term, str(each.count), str(each.reference_count), each.kind, ", ".join(each.translations[:_SHOWN])]
        for each in anchors
    ]
    title = f"{output}: {len(anchors) - known} new terms, {known} known"
    o.print_table(title, ["term", "count", "reference", "kind", f"translations, the first {_SHOWN}"], rows)
