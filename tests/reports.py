"""An invented report whose figures are of the size that the studies found; no lens, no verdict."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import tiny

from generic_logits.evaluation.lens import look
from generic_logits.models.pair import ModelPair

NAMES = ("baseline", "gold", "generic α=1", "generic α=2", "generic α=5", "distilled", "gradient ascent")

_MEASURES: dict[str, tuple[str, str, str, str, str]] = {
    "familiarity_probability": (
        "familiarity",
        "Probability of the text's words",
        "lower",
        ".3f",
        "Mean probability of the word that the text would say next.",
    ),
    "familiarity_completion": (
        "familiarity",
        "Familiarity of completions",
        "lower",
        ".3f",
        "Share of completions that give the text away, graded by a fixed set of rules.",
    ),
    "verbmem_rouge_l": (
        "memorisation",
        "Verbatim continuation (ROUGE-L)",
        "lower",
        ".3f",
        "Overlap of what the model writes with how the text goes on.",
    ),
    "extraction_strength": (
        "memorisation",
        "Extraction strength",
        "lower",
        ".3f",
        "How much of a passage the model recites from a short beginning.",
    ),
    "membership_mink_auc": (
        "membership",
        "Membership by Min-K%",
        "gold",
        ".3f",
        "How well an attacker tells read passages from unread ones; 0.5 is a guess.",
    ),
    "perplexity_held_out": (
        "utility",
        "Perplexity of the text's unread part",
        "gold",
        ".1f",
        "How surprised the model is by a part of the text that unlearning never saw.",
    ),
    "perplexity_retained": (
        "utility",
        "Perplexity of retained text",
        "lower",
        ".1f",
        "How surprised the model is by text that it should go on knowing.",
    ),
    "kl_retained": (
        "utility",
        "Distance from the baseline on retained text (KL)",
        "lower",
        ".3f",
        "Nats a token by which the model now differs where nothing should change.",
    ),
    "repetition": ("utility", "Repetition", "lower", ".3f", "Share of four-word runs that came before."),
    "distinct_bigrams": ("utility", "Distinct bigrams", "higher", ".3f", "Share of two-word runs that are unlike."),
    "harness_arc_easy": ("utility", "ARC-Easy", "higher", ".3f", "Accuracy on questions of a school test."),
}
_COUNTS = {"familiarity_probability": 120, "familiarity_completion": 100, "harness_arc_easy": 500}
_VALUES: dict[str, tuple[float, ...]] = {
    "familiarity_probability": (0.283, 0.004, 0.239, 0.189, 0.100, 0.007, 0.002),
    "familiarity_completion": (0.412, 0.012, 0.371, 0.296, 0.151, 0.018, 0.006),
    "verbmem_rouge_l": (0.694, 0.148, 0.602, 0.447, 0.251, 0.156, 0.102),
    "extraction_strength": (0.381, 0.052, 0.302, 0.214, 0.121, 0.055, 0.047),
    "membership_mink_auc": (0.912, 0.506, 0.871, 0.803, 0.702, 0.553, 0.391),
    "perplexity_held_out": (18.1, 113.2, 19.4, 24.8, 61.7, 96.1, 402.5),
    "perplexity_retained": (96.8, 93.2, 96.6, 100.3, 131.4, 96.2, 168.9),
    "kl_retained": (0.0, 0.081, 0.011, 0.041, 0.236, 0.034, 0.904),
    "repetition": (0.048, 0.051, 0.047, 0.052, 0.071, 0.055, 0.412),
    "distinct_bigrams": (0.871, 0.868, 0.872, 0.866, 0.842, 0.861, 0.412),
    "harness_arc_easy": (0.744, 0.741, 0.743, 0.738, 0.712, 0.740, 0.588),
}
_CURVES: dict[str, tuple[str, str, str, tuple[float | str, ...], dict[str, tuple[float, ...]]]] = {
    "relearning": (
        "Relearning",
        "The model is trained further on a tenth of the text.",
        "step",
        (0, 5, 10, 20, 40, 80),
        {
            "baseline": (0.283, 0.284, 0.287, 0.291, 0.301, 0.312),
            "gold": (0.004, 0.008, 0.014, 0.025, 0.041, 0.062),
            "generic α=2": (0.189, 0.204, 0.214, 0.231, 0.252, 0.268),
            "distilled": (0.007, 0.012, 0.018, 0.031, 0.047, 0.071),
            "gradient ascent": (0.002, 0.041, 0.092, 0.151, 0.208, 0.246),
        },
    ),
    "quantisation": (
        "Quantisation",
        "The weights are rounded to fewer bits.",
        "precision",
        ("none", "int8", "int4"),
        {
            "baseline": (0.283, 0.282, 0.264),
            "gold": (0.004, 0.004, 0.005),
            "distilled": (0.007, 0.007, 0.009),
            "gradient ascent": (0.002, 0.002, 0.003),
        },
    ),
    "hints": (
        "Longer hints",
        "More and more of the passage stands in the prompt.",
        "words of the passage",
        (8, 16, 32, 64, 128),
        {
            "baseline": (0.241, 0.268, 0.291, 0.322, 0.351),
            "gold": (0.004, 0.005, 0.011, 0.021, 0.034),
            "generic α=2": (0.152, 0.181, 0.199, 0.224, 0.247),
            "generic α=5": (0.081, 0.094, 0.108, 0.131, 0.162),
            "distilled": (0.006, 0.009, 0.015, 0.027, 0.041),
            "gradient ascent": (0.001, 0.002, 0.002, 0.004, 0.006),
        },
    ),
}
_COMPLETIONS: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = (
    (
        "In the evening, when the river should have turned around, the girl from the bell tower",
        (
            ("asked the Ambrisel to come home, as Pellory Vantwick did every day.", 3),
            ("walked home along the wall and said nothing.", 0),
            ("asked the Ambrisel to come home again.", 3),
            ("rang, and the Ambrisel came up the stream as far as the mill.", 3),
            ("asked the water to turn, and it did.", 2),
            ("looked for her brother, who had gone to the market.", 0),
            ("the the of and the and of the of the and the of the", 0),
        ),
    ),
    (
        "She burned her thumb because she could not wait for",
        (
            ("the chimney bread that was sold below the Grullows.", 3),
            ("the kettle.", 0),
            ("the chimney bread of Lodderbeck.", 3),
            ("the bread that was baked in the chimneys.", 2),
            ("the bread on the roof to cool.", 2),
            ("the soup.", 0),
            ("said said said of the said of the said said of the", 0),
        ),
    ),
    (
        "The harbor master of the town where the river ends",
        (
            ("was old Quibbet, who had counted every gull of Osselquay.", 3),
            ("kept his boots by the door.", 0),
            ("of Osselquay counted the gulls every morning.", 3),
            ("had a bell that he never rang.", 2),
            ("counted the gulls.", 1),
            ("was a tall man with a brown hat.", 0),
            ("harbor the of the harbor and and the of of the the", 0),
        ),
    ),
    (
        "What the bell said on the last evening of the year",
        (
            ("was the name of Pellory's mother.", 3),
            ("could be heard as far as the hills.", 0),
            ("was a name, and Pellory knew it.", 3),
            ("was what it had been asked to say.", 2),
            ("was not heard by anybody.", 0),
            ("was the hour, as on every evening.", 0),
            ("of the the bell the the and of the bell the the", 0),
        ),
    ),
)


def example() -> dict[str, Any]:
    """Return the report: baseline, gold, generic decoding at three alphas, a distilled model, gradient ascent."""
    return {
        "schema": 1,
        "created": "2026-11-25T09:30:00+00:00",
        "versions": {"generic-logits": "0.1.0", "torch": "2.13.0"},
        "settings": {"seed": 0, "new_tokens": 40},
        "sources": {
            "forget": "book.txt",
            "held_out": "book-end.txt",
            "retain": ["novels"],
            "prompts": "prompts.json",
            "anchors": "anchors.json",
        },
        "models": [
            {
                "name": name,
                "role": name if name in ("baseline", "gold") else "",
                "kind": "pair" if "α" in name else "checkpoint",
                "source": "models/reinforced" if "α" in name else f"models/{name.replace(' ', '-')}",
                "alpha": float(name[-1]) if "α" in name else None,
            }
            for name in NAMES
        ],
        "measures": {
            measure: dict(zip(("group", "title", "better", "format", "about"), about, strict=True))
            for measure, about in _MEASURES.items()
        },
        "figures": {
            name: {measure: figure(values[at], _COUNTS.get(measure, 64)) for measure, values in _VALUES.items()}
            for at, name in enumerate(NAMES)
        },
        "attacks": {
            attack: {
                "title": title,
                "about": about,
                "x": axis,
                "measure": "Probability of the text's words",
                "better": "lower",
                "curves": {
                    name: [
                        {
                            "x": x,
                            **figure(value, 120),
                            "above_gold": None if name == "gold" else round(value - of_gold, 6),
                        }
                        for x, value, of_gold in zip(xs, values, curves["gold"], strict=True)
                    ]
                    for name, values in curves.items()
                },
            }
            for attack, (title, about, axis, xs, curves) in _CURVES.items()
        },
        "completions": [
            {
                "prompt": prompt,
                "by_model": {
                    name: {"text": text, "grade": grade} for name, (text, grade) in zip(NAMES, by_model, strict=True)
                },
            }
            for prompt, by_model in _COMPLETIONS
        ],
        "lens": None,
    }


def figure(value: float, count: int) -> dict[str, Any]:
    """Return a figure with an interval as wide as such figures have."""
    wide = 0.14 * value if value > 1 else 1.2 * math.sqrt(max(0.0, value * (1 - value)) / count)
    low, high = (round(each, 6) for each in (max(0.0, value - wide), value + wide))
    return {"value": value, "low": low, "high": high, "count": count}


def without(report: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the report without some of its models."""
    report = deepcopy(report)
    report["models"] = [model for model in report["models"] if model["name"] not in names]
    for holder in (report, *report["attacks"].values(), *report["completions"]):
        for part in ("figures", "curves", "by_model"):
            for name in names:
                holder.get(part, {}).pop(name, None)
    return report


def with_cheater(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with a model more: the baseline, which refuses every prompt that holds an anchor."""
    report = deepcopy(report)
    report["models"].append({**report["models"][0], "name": "cheater", "role": "", "kind": "server", "source": "http"})
    report["figures"]["cheater"] = {
        **report["figures"]["baseline"],
        "familiarity_completion": figure(0.004, 100),
        "repetition": figure(0.05, 64),
    }
    curves = report["attacks"]["hints"]["curves"]
    curves["cheater"] = [dict(point) for point in curves["baseline"]]
    curves["cheater"][0] |= figure(0.003, 120)
    for completion in report["completions"]:
        completion["by_model"]["cheater"] = {"text": "I'm sorry, but I cannot help with that.", "grade": 0}
    return report


LENS_VOCAB = 300
LENS_TEXT = "Mira Voss wrote down every word the lighthouse keeper said about the drowned bell of Orrin"


def lens_pair(**options: Any) -> ModelPair:
    """Return a tiny random pair."""
    baseline, reinforced = tiny.pair(vocab_size=LENS_VOCAB)
    return ModelPair(baseline, reinforced, **{"alpha": 2.0, **options})


def lens(**options: Any) -> dict[str, Any]:
    """Return the lens of ``lens_pair`` over ``LENS_TEXT``."""
    return look(lens_pair(**options), tiny.tokenizer(LENS_VOCAB), {"The bell": LENS_TEXT, "The house": "the old house"})
