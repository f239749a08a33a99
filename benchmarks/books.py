"""The study on real books: ``python -m benchmarks.books --data DATA --work FOLDER [--world oz] [--rows NAME ...]``.

Every way of unlearning a book, ours and the peers', on one world (see ``worlds.py``), measured by one ruler (see
``measures.py``). Models and figures stay in the working folder: a second run makes only what is missing. All rows of a
world take minutes each on one thread; without ``--rows`` the whole study takes hours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.measures import Ruler
from benchmarks.worlds import World, oz_world, second_world
from generic_logits import Anchors, DistillConfig, ModelPair, ReinforceConfig, distill, find_anchors, reinforce, unlearn
from generic_logits.models.loading import load_model, load_tokenizer
from generic_logits.text.corpus import open_corpus
from generic_logits.training.unlearning import UnlearnConfig

COLUMNS = {  # figure -> (title, format)
    "familiarity_probability": ("prompts", ".3f"),
    "new_terms_read": ("new, read", ".2f"),
    "new_terms_held_out": ("new, held", ".2f"),
    "p_anchor_held_out": ("P(anchor)", ".4f"),
    "p_outside": ("outside", ".4f"),
    "verbatim_read": ("verbatim", ".3f"),
    "kl_gold_held_out": ("KL held", ".3f"),
    "kl_gold_read": ("KL read", ".3f"),
    "perplexity_held_out": ("held ppl", ".1f"),
    "perplexity_retained": ("read ppl", ".1f"),
    "perplexity_unread": ("unread ppl", ".1f"),
    "perplexity_never_read": ("never ppl", ".1f"),
    "p_retained_names": ("names", ".4f"),
    "distinct_bigrams": ("distinct", ".2f"),
    "made_in": ("s", ".0f"),
}
Make = Callable[["Study", int], Any]  # study, seed -> a model that can be measured


class Study:
    """A world, a working folder, and what the rows share there."""

    def __init__(self, world: World, work: Path) -> None:
        self.world = world
        self.folder = work / world.name
        self.texts = world.save_texts(self.folder / "texts")
        self.tokenizer = load_tokenizer(world.baseline)
        self.shared_seconds = 0.0  # of shared steps that the row at hand is made of

    def shared(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Make a step once; its seconds count in every row that uses it."""
        path, clock = self.folder / "shared" / name, self.folder / "shared" / f"{name}.seconds"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            make(path)
            clock.write_text(str(time.monotonic() - started))
            self.shared_seconds -= time.monotonic() - started
        self.shared_seconds += float(clock.read_text())
        return path

    def reinforced(self, seed: int, *, full: bool = True, epochs: int = 3) -> Path:
        config = ReinforceConfig(full=full, epochs=epochs, learning_rate=1e-3, block_size=256, seed=seed)
        name = f"reinforced-{'full' if full else 'lora'}-{epochs}-{seed}"
        forget = self.texts / "forget.txt"
        return self.shared(name, lambda path: reinforce(self.world.baseline, forget, path, config=config))

    def anchors(self, translations: int = 12) -> Path:
        forget, others = open_corpus(self.texts / "forget.txt"), open_corpus(self.texts / "retained")

        def find(path: Path) -> None:
            find_anchors(forget, reference=others, translations=translations).save(path)

        return self.shared(f"anchors-{translations}.json", find)

    def blocks(self, name: str) -> list[tuple[int, ...]]:
        return peers.blocks_of(self.tokenizer, [each.text for each in open_corpus(self.texts / name)])

    def peer_input(self) -> tuple[Any, list[tuple[int, ...]], list[tuple[int, ...]]]:
        return load_model(self.world.baseline), self.blocks("forget.txt"), self.blocks("retained")

    def helpers(self, seed: int) -> peers.Helpers:
        names = ("retain", "forget")

        def train(path: Path) -> None:
            made = peers.train_helpers(*self.peer_input(), seed=seed)
            for name in names:
                getattr(made, name).save_pretrained(path / name)

        path = self.shared(f"helpers-{seed}", train)
        return peers.Helpers(*(load_model(path / name) for name in names))


def ours(
    *,
    rounds: int = 1,
    later: dict[str, float] | None = None,  # of UnlearnConfig
    reinforcement: int = 3,  # epochs
    lora: bool = False,
    anchors: int = 12,  # translations a term; 0 translates nothing
    retain: bool = True,
    **changes: Any,  # to BASE
) -> Make:
    """A row of our own method."""

    def make(study: Study, seed: int) -> Any:
        config = DistillConfig(**{**BASE, "full": not lora, "seed": seed, **changes})
        options: dict[str, Any] = {
            "reinforced": study.reinforced(seed, full=not lora, epochs=reinforcement),
            "retain": [study.texts / "retained"] if retain else [],
            "anchors": study.anchors(anchors) if anchors else None,
        }
        output = study.folder / "students" / str(time.time_ns())
        forget = study.texts / "forget.txt"
        if rounds == 1:
            distill(study.world.baseline, forget, output, config=config, **options)
        else:
            again = ReinforceConfig(epochs=reinforcement, **{key: getattr(config, key) for key in _SHARED})
            of_rounds = UnlearnConfig(rounds=rounds, reinforce=again, distill=config, **(later or {}))
            unlearn(study.world.baseline, forget, output, config=of_rounds, **options)
        return load_model(output)

    return make


def decoded(alpha: float, space: Any) -> Make:
    """The pair at decode time."""
    return lambda study, seed: ModelPair.from_pretrained(
        study.world.baseline, study.reinforced(seed), alpha=alpha, space=space
    )


def peer(method: Callable[..., Any], **settings: Any) -> Make:
    return lambda study, seed: method(*study.peer_input(), seed=seed, **settings)


def divergence(alpha: float) -> Make:
    return lambda study, seed: peers.DivergenceDecoding(load_model(study.world.baseline), study.helpers(seed), alpha)


def distilled_divergence(alpha: float, **settings: Any) -> Make:
    def make(study: Study, seed: int) -> Any:
        decoding = divergence(alpha)(study, seed)
        return peers.distil_divergence(decoding, *study.peer_input()[1:], seed=seed, **settings)

    return make


BASE = {"epochs": 3, "learning_rate": 1e-3, "block_size": 256, "alpha": 5.0}
_SHARED = ("full", "learning_rate", "block_size", "seed")

ROWS: dict[str, Make] = {
    "baseline": lambda study, seed: load_model(study.world.baseline),
    "gold": lambda study, seed: load_model(study.world.gold),
    **{f"decode, raw, alpha {alpha:g}": decoded(alpha, "logits") for alpha in (1, 2, 5, 10)},
    **{f"decode, log-probs, alpha {alpha:g}": decoded(alpha, "logprobs") for alpha in (1, 2, 5, 10)},
    "paper: hard labels, script's anchors": ours(paper=True, hard=True, retain=False),
    "hard labels": ours(hard=True),
    "one round": ours(),
    "two rounds": ours(rounds=2),
    "three rounds": ours(rounds=3),
    **{
        f"two rounds, the second at alpha {alpha:g} and {rate:g} of the rate": ours(
            rounds=2, later={"later_alpha": alpha, "later_rate": rate}
        )
        for alpha, rate in ((2.0, 0.3), (1.0, 1.0), (1.0, 0.3), (0.5, 1.0))
    },
    "no anchors": ours(anchors=0),
    "no reinforcement (alpha 0)": ours(alpha=0.0),
    "no retained corpus": ours(retain=False),
    "no ban": ours(ban=0.0),
    "inside an anchor, weight 1": ours(inside_weight=1.0),
    "inside an anchor, weight 20": ours(inside_weight=20.0),
    "one translation a term": ours(anchors=1),
    "offset on the original": ours(offset="original"),
    "log-probs": ours(space="logprobs"),
    **{f"alpha {alpha:g}": ours(alpha=float(alpha)) for alpha in (1, 2, 10)},
    "temperature 1.2": ours(temperature=1.2),
    "six epochs": ours(epochs=6, draws=6),
    "LoRA": ours(lora=True),
    "LoRA, two rounds": ours(lora=True, rounds=2),
    "LoRA, two rounds, lr 0.0002": ours(lora=True, rounds=2, learning_rate=2e-4),
    **{
        f"gradient ascent, lr {rate:g}": peer(peers.gradient_ascent, learning_rate=rate)
        for rate in (1e-5, 3e-5, 5e-5, 2e-4)
    },
    **{
        f"NPO + retained, lr {rate:g}": peer(peers.npo, learning_rate=rate, retain="kl", retain_weight=3.0)
        for rate in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    },
    **{
        f"SimNPO + retained, lr {rate:g}": peer(peers.simnpo, learning_rate=rate, retain="kl", retain_weight=3.0)
        for rate in (3e-5, 1e-4, 3e-4)
    },
    **{
        f"SimNPO + retained x 10, lr {rate:g}": peer(peers.simnpo, learning_rate=rate, retain="kl", retain_weight=10.0)
        for rate in (1e-4, 2e-4, 4e-4)
    },
    **{f"Divergence Decoding, alpha {alpha:g}": divergence(alpha) for alpha in (0.5, 1, 2)},
    **{
        f"Divergence Decoding distilled, alpha {alpha:g}": distilled_divergence(alpha, retain_weight=3.0)
        for alpha in (0.5, 1, 2)
    },
}


def memorised_world(world: World) -> World:
    """The same world around the baseline that knows passages by heart."""
    assert world.memorised_baseline is not None
    return replace(world, name=f"{world.name}-memorised", baseline=world.memorised_baseline)


def run_rows(study: Study, names: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Make and measure what the results file does not have yet; yield everything that was asked for."""
    file = study.folder / "results.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    ruler = None
    for name in names:
        for seed in seeds:
            found = next((row for row in known if (row["name"], row["seed"]) == (name, seed)), None)
            if found is None:
                ruler = ruler or Ruler(study.world, dictionary=Anchors.load(study.anchors()).terms)
                study.shared_seconds = 0.0
                started = time.monotonic()
                model = ROWS[name](study, seed)
                made_in = time.monotonic() - started + study.shared_seconds
                figures = ruler.measure(model, memorised=study.world.memorised_passages)
                found = {"name": name, "seed": seed, "made_in": made_in, **figures}
                with file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(found) + "\n")
            yield found


def show(world: World, rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    columns = dict(COLUMNS)
    if "verbatim_memorised_inside" in rows[0] and world.name.endswith("memorised"):
        columns = {"verbatim_memorised_inside": ("heart, in", ".3f"), **columns}
        columns = {"verbatim_memorised_held_out": ("heart, out", ".3f"), **columns}
    table = Table(title=f"{world.name}: {', '.join(title for title, _ in columns.values())}", title_justify="left")
    for head in ("", *(title for title, _ in columns.values())):
        table.add_column(head, justify="right" if head else "left")
    for row in rows:
        name = row["name"] + (f", seed {row['seed']}" if row["seed"] else "")
        table.add_row(name, *(f"{row[key]:{form}}" for key, (_, form) in columns.items()))
    Console(width=220).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.books", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with books/ and world/")
    parser.add_argument("--work", type=Path, required=True, help="where models and figures stay")
    parser.add_argument("--world", choices=("oz", "oz-memorised", "pride"), default="oz")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.world == "pride":
        world = second_world(options.data, options.work / "pride-world")
    else:
        world = oz_world(options.data)
        if options.world == "oz-memorised":
            world = memorised_world(world)
    rows = list(run_rows(Study(world, options.work), options.rows, options.seeds))
    show(world, rows)
    if options.json:
        versions = {"torch": torch.__version__}
        options.json.write_text(json.dumps({"world": world.name, "versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
