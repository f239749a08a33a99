"""``generic-logits evaluate``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generic_logits.cli import options as o
from generic_logits.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from generic_logits.evaluation.candidates import Candidate
    from generic_logits.evaluation.report import Report

EXAMPLE = (
    "Example: generic-logits evaluate ./baseline unlearned=./unlearned --gold ./gold --forget book.txt "
    "--retain ./others --reinforced ./reinforced --alpha 1 --alpha 3 -o ./report"
)
ATTACKS = (  # those of ``evaluation.attacks``, which imports torch
    "relearning_little",
    "relearning_unrelated",
    "relearning_whole",
    "quantization",
    "hint",
    "few_shot",
    "reword",
    "role_play",
    "leak_at_k",
)
_JUDGED_BY = 40  # terms that a model that grades is told
_FILE = "made from the text if not given."


class HarnessBackend(StrEnum):
    """What answers the harness."""

    hf = "hf"
    vllm = "vllm"


def run(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="[NAME=]SOURCE: folder, hub name, or a server's address (http://...#MODEL). First the baseline.",
            show_default=False,
        ),
    ],
    forget: Annotated[Path, typer.Option(help=f"What was to be forgotten. {o.CORPUS_HELP}", show_default=False)],
    output: o.Output,
    retain: Annotated[
        list[Path] | None,
        typer.Option(help="Corpus that a model should go on predicting; may be repeated.", show_default=False),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="More of the forgotten work, which no unlearning saw.", show_default=False)
    ] = None,
    unread: Annotated[
        Path | None, typer.Option(help="Text of the same kind that no model has read.", show_default=False)
    ] = None,
    unrelated: Annotated[
        Path | None, typer.Option(help="Text about something else, for an attack.", show_default=False)
    ] = None,
    gold: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model that never read the text.", show_default=False)
    ] = None,
    reinforced: Annotated[
        str | None, typer.Option(help="Reinforced model of the baseline, for --alpha.", show_default=False)
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="Adds the baseline with this correction; may be repeated.", show_default=False),
    ] = None,
    space: o.Space = o.SpaceName.logits,
    threshold: o.Threshold = 0.0,
    anchors: Annotated[
        Path | None, typer.Option(help="Dictionary with the text's own terms; found if not given.", show_default=False)
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help=f"Prompt file; {_FILE}", show_default=False)] = None,
    hints: Annotated[
        Path | None, typer.Option(help=f"Prompt file of beginnings to complete; {_FILE}", show_default=False)
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Prompt file of questions and answers.", show_default=False)
    ] = None,
    wordings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Prompt file of the prompts in other words or another language; may be repeated.",
            show_default=False,
        ),
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Model that writes what is not given: a paraphrase, translations, questions.",
            show_default=False,
        ),
    ] = None,
    writer_model: Annotated[str | None, typer.Option(help="Its name there.", show_default=False)] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Language to translate prompts into; may be repeated. German, French, Spanish if not given.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Model that grades completions; a set of rules if not given.", show_default=False
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Its name there.", show_default=False)] = None,
    about: Annotated[
        str | None, typer.Option(help="Title and author, for the judge; the name of the file.", show_default=False)
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Of served models.", show_default=False)] = None,
    harness: Annotated[bool, typer.Option("--harness", help="Also the paper's seven tests of ability.")] = False,
    harness_data: Annotated[
        Path | None, typer.Option(help="Folder of their data; the hub's if not given.", show_default=False)
    ] = None,
    harness_limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each test; all if not given.", show_default=False)
    ] = None,
    harness_backend: Annotated[
        HarnessBackend, typer.Option(help="What answers them: transformers, or vLLM's engine.")
    ] = HarnessBackend.hf,
    attacks: Annotated[
        str, typer.Option(metavar="NAME,...", help=f"Attacks to make, of {', '.join(ATTACKS)}.")
    ] = "all",
    no_attacks: Annotated[bool, typer.Option("--no-attacks", help="Make none.")] = False,
    text_field: o.TextField = "text",
    join: o.Join = False,
    quick: Annotated[bool, typer.Option("--quick", help="A third of the prompts and blocks: a first look.")] = False,
    resume: o.Resume = False,
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Measure what models still know of a text, what they kept, and what attacks get back."""
    chosen = _chosen(attacks)
    rewords = not no_attacks and "reword" in chosen
    served = ["://" in each for each in (*models, gold) if each]
    corpora = [forget, *(retain or ()), *filter(None, (held_out, unread, unrelated))]
    if no_attacks:
        o.refuse(context, ["attacks"], "--no-attacks", "none is made")
    needs: tuple[tuple[tuple[str, ...], Any, str], ...] = (
        (("judge_model", "about"), judge, "--judge"),
        (("writer_model", "language"), writer, "--writer"),
        (("wordings", "language"), rewords, "the attack reword"),
        (("space", "threshold"), reinforced and alpha, "--reinforced and --alpha"),
        (("harness_data", "harness_limit", "harness_backend"), harness, "--harness"),
        (("tokenizer",), any(served), "a server's address among the models"),
        (("dtype",), not all(served), "a folder or hub name among the models"),
    )
    for names, there, what in needs:
        o.require(context, names, there, what)
    o.require_records(context, corpora)

    from generic_logits.evaluation.candidates import read_candidate
    from generic_logits.evaluation.evaluate import EvaluateConfig, evaluate
    from generic_logits.evaluation.judge import ModelJudge
    from generic_logits.evaluation.material import Counts, gather_material
    from generic_logits.evaluation.parts import Harness
    from generic_logits.evaluation.writer import LANGUAGES, Writer, write_material
    from generic_logits.text.corpus import open_corpus

    o.prepare(dtype, seed)
    files = _named_files(wordings or [])
    author = Writer(writer, model=writer_model) if writer is not None else None
    local = str(harness_data) if harness_data else None
    tests = Harness(local, harness_limit, harness_backend.value) if harness else None
    usual, counts = EvaluateConfig(), Counts()
    if quick:
        counts = Counts(**{name: getattr(counts, name) // 3 for name in ("prompts", "hints", "passages")})
    config = EvaluateConfig(
        blocks=usual.blocks // 3 if quick else usual.blocks,
        attacks=() if no_attacks else chosen,
        harness=tests,
        seed=seed,
    )
    first, *others = [read_candidate(each, tokenizer=tokenizer, dtype=dtype) for each in models]
    candidates = [first, *others]
    candidates += _corrected(first, reinforced, alpha or [], space.value, threshold, tokenizer, dtype)
    if gold is not None:
        candidates.append(read_candidate(gold, tokenizer=tokenizer, dtype=dtype).with_role("gold"))
    reading: Any = {"text_field": text_field, "join": join}
    beside = {"held_out": held_out, "unread": unread, "unrelated": unrelated}
    material = gather_material(
        open_corpus(forget, **reading),
        retain=[open_corpus(path, **reading) for path in retain or ()],
        **{name: path and open_corpus(path, **reading) for name, path in beside.items()},
        anchors=anchors,
        prompts=prompts,
        hints=hints,
        questions=questions,
        wordings=files,
        counts=counts,
        seed=seed,
    )
    grader = None
    if judge is not None:
        grader = ModelJudge(judge, about=about or forget.stem, terms=material.terms[:_JUDGED_BY], model=judge_model)
    if author is not None:
        material = write_material(
            material,
            author,
            languages=language or LANGUAGES,
            wordings=rewords,
            tell=lambda line: print(line, file=sys.stderr),
        )
    report = evaluate(candidates, material, output, judge=grader, config=config, resume=resume)
    if as_json:
        o.print_json(report.data)
    else:
        _show(report, output)


def _chosen(attacks: str) -> tuple[str, ...]:
    """Turn NAME,... into names of attacks."""
    chosen = ATTACKS if attacks == "all" else tuple(filter(None, attacks.replace(" ", "").split(",")))
    if not chosen:
        raise InputError("names of attacks with --attacks", "none", "give --no-attacks to make none")
    if unknown := sorted({*chosen} - {*ATTACKS}):
        raise InputError(f"attacks among {', '.join(ATTACKS)}", ", ".join(unknown), "check the names")
    return chosen


def _named_files(words: list[str]) -> dict[str, Path]:
    """Turn NAME=FILE words into files by name."""
    files: dict[str, Path] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not (name and file):
            raise InputError("--wordings NAME=FILE", repr(word), "write it as Spanish=spanish.json")
        if name in files:
            raise InputError("a name of its own for each of --wordings", f"{name!r} twice", "name one otherwise")
        files[name] = Path(file)
    return files


def _corrected(
    baseline: Candidate,
    reinforced: str | None,
    alphas: list[float],
    space: Any,
    threshold: float,
    tokenizer: str | None,
    dtype: str,
) -> list[Candidate]:
    """The baseline with each correction: as a pair, or as asked of our own server."""
    from generic_logits.evaluation.candidates import pair, server

    if reinforced is None and baseline.kind == "server":
        address, served = baseline.source, baseline.served
        return [server(f"alpha {each:g}", address, served=served, tokenizer=tokenizer, alpha=each) for each in alphas]
    if (reinforced is None) != (not alphas):
        got = "--alpha alone" if reinforced is None else "--reinforced alone"
        raise InputError("--reinforced with --alpha", got, "give both, or neither")
    if reinforced is not None and baseline.kind == "server":
        raise InputError("a baseline in a folder, beside --reinforced", baseline.source, "leave --reinforced out")
    return [
        pair(
            f"alpha {each:g}",
            baseline.source,
            reinforced or "",
            each,
            space=space,
            threshold=threshold,
            dtype=dtype,
        )
        for each in alphas
    ]


def _show(report: Report, output: Path) -> None:
    """Print the figures, the hardest point of each attack, and the verdict."""
    from generic_logits.evaluation.report import shortened

    data = report.data
    names = [model["name"] for model in data["models"]]
    rows = [["Figures"]]
    for measure, about in data["measures"].items():
        figures = [data["figures"][name].get(measure) for name in names]
        rows.append([about["title"], *(_with_interval(each, about["format"]) for each in figures)])
    if data["attacks"]:
        rows.append(["Attacks, at worst"])
    for attack in data["attacks"].values():
        curves = [attack["curves"].get(name) for name in names]
        rows.append([attack["title"], *map(_at_worst, curves, data["models"])])
    seconds = sum(sum(of_model.values()) for of_model in data["settings"]["seconds"].values())
    o.print_table(f"{output}, {seconds:.0f} s", ["", *names], rows, unbroken=True)
    compared = data["attacks"] and any(model["role"] == "gold" for model in data["models"])
    above = "; behind an attack, what lies above gold" if compared else ""
    o.print_wrapped(f"± the longer side of the 95\N{NO-BREAK SPACE}% interval{above}.")
    for attack in data["attacks"].values():
        for sentence in shortened(attack):
            o.print_wrapped(f"{attack['title']}: {sentence}")
    for sentence in data["judges"]["sentences"]:
        o.print_wrapped(sentence)
    print()
    verdict = data["verdict"]
    for sentence in verdict["sentences"]:
        o.print_wrapped(sentence, "* ")
    for name, of_model in verdict["by_model"].items():
        print()
        o.print_wrapped(f"{name}: {of_model['forgotten']} {of_model['kept']}")
        for warning in of_model["warnings"]:
            o.print_wrapped(warning, "  ! ")
    print()
    for name, reasons in data["left_out"].items():
        for what, why in reasons.items():
            o.print_wrapped(f"not measured{f' of {name}' if name else ''}: {what}: {why}")
    print(f"\nThe whole report: {output / 'report.html'}")


def _with_interval(figure: Mapping[str, Any] | None, form: str) -> str:
    if not figure:
        return ""
    value, wide = figure["value"], max(figure["high"] - figure["value"], figure["value"] - figure["low"])
    return f"{_short(f'{value:{form}}')} ±{_short(f'{wide:{form}}')}"


def _at_worst(curve: Sequence[Mapping[str, Any]] | None, model: Mapping[str, Any]) -> str:
    if not curve:
        return ""
    worst = max(curve[1:] or curve, key=lambda point: point["value"])  # the first point is no attack yet
    above = None if model["role"] == "gold" else worst["above_gold"]
    return _short(f"{worst['value']:.3f}") + ("" if above is None else f" {_short(f'{above:+.3f}')}")


def _short(number: str) -> str:
    """A number as text, without the zero in front of its point."""
    sign = number[0] if number[0] in "+-" else ""
    return sign + number.removeprefix(sign).removeprefix("0")
