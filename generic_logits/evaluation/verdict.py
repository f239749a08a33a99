"""From figures and attacks to a verdict in plain sentences that claims no more than was measured.

**Forgotten.** A measure of knowledge (of the groups "familiarity" and "memorisation") counts if it tells the baseline
from the gold model: their intervals are apart. Without a gold model another floor has to stand in its place: 0 for
familiarity, and for ``FLOORED`` measures, by which any model knows something of any text, what the baseline shows of
unread text. They count where the baseline shows ``OUTSTANDING`` times that of the text, as two texts differ by less,
and not at all without unread text. A model forgot on a measure if its interval lies below the baseline's. The share
forgotten is (baseline - model) / (baseline - floor). The model is at gold's level if its interval reaches gold's, and
its value does, too, or the share is at least ``MOST``: few items, and so a wide interval, are no proof. All measures
have to agree, as an attacker takes the weakest place:

* complete: below the baseline and at gold's level on every measure, and no further from gold on the work than the
  baseline is; needs a gold model
* most: below the baseline on every measure, and at least ``MOST`` forgotten on each
* part: below the baseline on some measure
* none: below the baseline on none

**Kept.** Ability is lost if perplexity of retained or unread text is ``PERPLEXITY_LOST`` times the baseline's, if the
KL from the baseline is surely above ``KL_LOST`` nats a token, or if harness tasks fall by ``HARNESS_LOST`` on average
and by more than chance; it is reduced from ``PERPLEXITY_REDUCED``, ``KL_REDUCED`` and ``HARNESS_REDUCED`` on. These
texts are the same for all models, so perplexities are compared by their ratio and not by their intervals, which hold
the spread between texts. Fluency falls by a measure (repetition, distinct bigrams) that is ``FLUENCY_LOST`` worse than
the baseline's, intervals apart. Sound small models repeat themselves, too, so one such measure is a reduction; it is a
loss if both fall, as they do of a model that loops, or if perplexity or harness tasks are reduced as well. The KL does
not confirm it: two sound trainings lie as far apart. What the gold model has as well, a distance from the baseline or
text that repeats itself, is no loss; without a gold model such text is a reduction at most, as a baseline that knows
the text by heart repeats itself less there.

**Warnings.** Lost ability in the place of forgetting; nothing measured but what a model writes, which a filter passes;
one answer to many prompts; completions that say nothing while probabilities or memorisation still know; of a model that
forgot something, knowledge that an attack brings back above the gold model under the same attack (by ``TRACE`` at
least; without a gold model, as much of what the baseline shows as is too much for ``MOST`` forgotten, or ``RETURNED``
of it by fine-tuning, which teaches anybody), with the word that it was hidden and not forgotten where fine-tuning
brings back ``RETURNED`` of what tells the baseline from gold; less known than gold, or another distance from it, which
tells that something was removed; a distance from gold on the work that is larger than the baseline's, which tells that
something else was put in its place. Of the whole report: a gold model that knows the text as the baseline does, few
items, and a judge of completions that agrees badly with a reader.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generic_logits.evaluation.agreement import ALL, HAND, POOR

MOST = 0.8  # of what tells the baseline from gold
PERPLEXITY_REDUCED, PERPLEXITY_LOST = 1.05, 1.25  # times the baseline's
KL_REDUCED, KL_LOST = 0.1, 0.5  # nats a token
FLUENCY_LOST = 0.1  # more repetition or fewer distinct bigrams than the baseline, as a share, intervals apart
HARNESS_REDUCED, HARNESS_LOST = 0.01, 0.05  # accuracy, mean over tasks
OUTSTANDING = 1.5  # times what the baseline shows of unread text
SILENT = 0.5  # share forgotten on another measure, below which silent completions are only silence
ONE_ANSWER = 0.5  # of the completions that begin alike, or are empty, or repeat one word
OPENING = 4  # words by which completions are alike
FEW_COMPLETIONS, FEW_ITEMS = 4, 20  # fewer say little
TRACE = 0.05  # of what tells the baseline from gold under the same attack; less is no return
RETURNED = 0.5  # likewise, most of it

KNOWLEDGE = ("familiarity", "memorisation")
FLOORED = ("verbmem_rouge_l", "knowmem_rouge_l", "extraction_strength", "exact_memorization")
_FINE_TUNING = "relearning"  # how names of attacks that train the model begin
_WRITTEN = ("familiarity_completion", "verbmem_rouge_l", "knowmem_rouge_l")  # taken from what a model writes
FORGOT = ("complete", "most")
CAVEAT = (
    "These figures hold for these texts, prompts and attacks. They do not prove that nothing can be drawn out of a "
    "model in another way."
)


@dataclass(frozen=True)
class _Range:
    """A figure, turned so that more is more knowledge."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, figure: Mapping[str, Any], better: str) -> _Range:
        if better == "higher":
            return cls(-figure["value"], -figure["high"], -figure["low"])
        return cls(figure["value"], figure["low"], figure["high"])

    def above(self, other: _Range) -> bool:
        return self.low > other.high


@dataclass(frozen=True)
class _Evidence:
    """What one measure says about one model."""

    measure: str
    below_baseline: bool
    above_gold: bool
    at_gold: bool
    below_gold: bool
    share: float


def reach_verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """Judge every model of a report that is neither baseline nor gold.

    Args:
        report: of schema 1, with or without a verdict.

    Returns:
        ``sentences`` about all of them, and ``by_model``: ``forgetting`` ("complete", "most", "part", "none",
        "unknown"), ``ability`` ("kept", "reduced", "lost", "unknown"), ``forgotten`` and ``kept`` as sentences, and
        ``warnings``.
    """
    judge = _Judge(report)
    by_model = {name: judge.verdict(name) for name in judge.candidates}
    return {"sentences": judge.sentences(by_model), "by_model": by_model}


class _Judge:
    def __init__(self, report: Mapping[str, Any]) -> None:
        self.measures: Mapping[str, Any] = report["measures"]
        self.figures: Mapping[str, Mapping[str, Any]] = report["figures"]
        self.attacks: Mapping[str, Any] = report["attacks"]
        self.completions: Sequence[Mapping[str, Any]] = report["completions"]
        self.floors: Mapping[str, Mapping[str, Any]] = report.get("floors", {})
        self.judges: Mapping[str, Any] = report.get("judges", {})
        self.knowledge = [
            measure
            for measure, about in self.measures.items()
            if about["group"] in KNOWLEDGE and about["better"] != "gold"
        ]
        roles = {model["role"]: model["name"] for model in report["models"] if model["role"]}
        self.baseline, self.gold = roles.get("baseline"), roles.get("gold")
        self.candidates = [model["name"] for model in report["models"] if not model["role"]]

    def verdict(self, name: str) -> dict[str, Any]:
        evidence = self.evidence(name)
        forgetting = self.forgetting(name, evidence)
        ability, kept = self.ability(name)
        warnings = [
            *self.lost_ability(forgetting, ability),
            *self.by_words_alone(forgetting, evidence),
            *self.one_answer(name),
            *self.silence(name, evidence),
            *self.returns(name, forgetting),
            *(self.unlike_gold(name, evidence) if forgetting in FORGOT else ()),
            *self.led_astray(name),
        ]
        forgotten = self.forgotten(name, forgetting, evidence) + self.distance_left(name)
        return {
            "forgetting": forgetting,
            "ability": ability,
            "forgotten": forgotten,
            "kept": kept,
            "warnings": warnings,
        }

    # What is known

    def figure(self, name: str | None, measure: str) -> Mapping[str, Any] | None:
        return self.figures.get(name or "", {}).get(measure)

    def range(self, name: str | None, measure: str) -> _Range | None:
        figure = self.figure(name, measure)
        return _Range.of(figure, self.measures[measure]["better"]) if figure else None

    def shown(self, name: str | None, measure: str) -> str:
        figure = self.figure(name, measure)
        return format(figure["value"], self.measures[measure]["format"]) if figure else "not measured"

    def floor_shown(self, measure: str) -> str:
        return format(self.floors[measure]["value"], self.measures[measure]["format"])

    def title(self, measure: str) -> str:
        return str(self.measures[measure]["title"])

    def evidence(self, name: str) -> list[_Evidence]:
        return [found for measure in self.knowledge if (found := self.compare(name, measure))]

    def floor(self, measure: str) -> _Range | None:
        """What a model shows that never read the text; None where nobody knows."""
        if self.gold:
            return self.range(self.gold, measure)
        if measure in self.floors:
            return _Range.of(self.floors[measure], self.measures[measure]["better"])
        return None if measure in FLOORED else _Range(0.0, 0.0, 0.0)

    def compare(self, name: str, measure: str) -> _Evidence | None:
        """None where the measure cannot tell who read the text, or was not taken."""
        model, baseline, floor = self.range(name, measure), self.range(self.baseline, measure), self.floor(measure)
        if not model or not baseline or not floor or not baseline.above(floor):
            return None
        if not self.gold and baseline.value < OUTSTANDING * floor.value:
            return None
        share = (baseline.value - model.value) / (baseline.value - floor.value)
        return _Evidence(
            measure,
            below_baseline=baseline.above(model),
            above_gold=model.above(floor),
            at_gold=not model.above(floor) and (model.value <= floor.high or share >= MOST),
            below_gold=self.gold is not None and floor.above(model),
            share=share,
        )

    def forgetting(self, name: str, evidence: Sequence[_Evidence]) -> str:
        if not evidence:
            return "unknown"
        if not any(each.below_baseline for each in evidence):
            return "none"
        if not all(each.below_baseline for each in evidence):
            return "part"
        if self.gold and all(each.at_gold for each in evidence) and not self.led_astray(name):
            return "complete"
        return "most" if min(each.share for each in evidence) >= MOST else "part"

    def forgotten(self, name: str, forgetting: str, evidence: Sequence[_Evidence]) -> str:
        if forgetting == "unknown":
            return "Could not be judged: no measure of knowledge was taken that tells the baseline from " + (
                f"“{self.gold}”." if self.gold else "a model that never read the text."
            )
        count, measures = len(evidence), _counted(len(evidence), "measure")
        if forgetting == "none":
            return f"Still knows the text: not shown to know less than the baseline by any of {measures} of knowledge."
        if forgetting == "complete":
            return (
                f"By {_of(count, count)} of knowledge it knows less of the text than the baseline, and not measurably "
                "more than the gold model, which never read it."
            )
        below = sum(each.below_baseline for each in evidence)
        worst = min(evidence, key=lambda each: each.share)
        reference = f", gold {self.shown(self.gold, worst.measure)}" if self.gold else ""
        if worst.measure in self.floors:
            reference = f", on unread text {self.floor_shown(worst.measure)}"
        where = (
            f"Least was forgotten by {self.title(worst.measure)}: {self.shown(name, worst.measure)} "
            f"(baseline {self.shown(self.baseline, worst.measure)}{reference})."
        )
        above = sum(each.above_gold for each in evidence) if self.gold else 0
        whose = "" if count == 1 else f"by {'all' if above == count else above} of them "
        still = f", and {whose}more than the gold model, which never read the text" if above else ""
        level = "Knows little of the text" if forgetting == "most" else "Still knows the text in part"
        return f"{level}. By {_of(below, count)} of knowledge it knows less than the baseline{still}. {where}"

    def distance_left(self, name: str) -> str:
        """How much of the baseline's distance from gold on the work is left, as a sentence."""
        model, baseline = (self.figure(each, "kl_gold") for each in (name, self.baseline))
        if not model or not baseline or not baseline["value"]:
            return ""
        share = model["value"] / baseline["value"]
        if share > 1:
            return (
                f" On the work it is further from the gold model than the baseline is: {self.shown(name, 'kl_gold')} "
                f"against {self.shown(self.baseline, 'kl_gold')} nats a token."
            )
        left = f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
        return (
            f" Of the baseline's distance from the gold model on the work, {left} is left "
            f"({self.shown(name, 'kl_gold')} of {self.shown(self.baseline, 'kl_gold')} nats a token)."
        )

    # What was lost

    def ability(self, name: str) -> tuple[str, str]:
        perplexities, tasks = self.perplexities(name), self.tasks(name)
        confirmed = any(each[0] != "kept" for each in (*perplexities, tasks) if each)
        fluency = self.fluency(name, confirmed=confirmed)
        found = [each for each in (*perplexities, self.kl(name), *fluency, tasks) if each]
        if not found or not self.baseline:
            return "unknown", "Could not be judged: no measure of ability was taken of this model and the baseline."
        levels = [level for level, _ in found]
        level = next(each for each in ("lost", "reduced", "kept") if each in levels)
        return level, " ".join(sentence for _, sentence in found)

    def perplexities(self, name: str) -> list[tuple[str, str]]:
        found = []
        for measure in self.measures:
            model, baseline = self.figure(name, measure), self.figure(self.baseline, measure)
            if not measure.startswith(("perplexity_retained", "perplexity_unread")) or not model or not baseline:
                continue
            ratio = model["value"] / baseline["value"]
            level = _level(ratio, PERPLEXITY_REDUCED, PERPLEXITY_LOST)
            change = f"{100 * abs(ratio - 1):.1f}\N{NO-BREAK SPACE}% {'higher' if ratio > 1 else 'lower'} than"
            found.append(
                (
                    level,
                    f"{self.title(measure)} is {self.shown(name, measure)}, "
                    f"{change if abs(ratio - 1) >= 0.0005 else 'equal to'} the baseline's.",
                )
            )
        return found

    def kl(self, name: str) -> tuple[str, str] | None:
        model, gold = self.figure(name, "kl_retained"), self.figure(self.gold, "kl_retained")
        if not model:
            return None
        usual = gold["high"] if gold else 0.0
        level = (
            "lost"
            if model["low"] > max(KL_LOST, usual)
            else "reduced"
            if model["low"] > max(KL_REDUCED, usual)
            else "kept"
        )
        apart = "" if gold or level == "kept" else ", as far as two sound trainings may lie apart"
        return level, f"{self.title('kl_retained')}: {self.shown(name, 'kl_retained')}{apart}."

    def fluency(self, name: str, *, confirmed: bool) -> list[tuple[str, str]]:
        sentences = []
        for measure, better in (("repetition", "lower"), ("distinct_bigrams", "higher")):
            figures = [self.figure(each, measure) for each in (name, self.baseline, self.gold)]
            if not figures[0] or not figures[1]:
                continue
            model, *references = [_Range.of(figure, better) for figure in figures if figure]
            if all(model.above(each) and model.value - each.value >= FLUENCY_LOST for each in references):
                sentences.append(
                    f"Its text is less fluent: {self.title(measure)} {self.shown(name, measure)} "
                    f"(baseline {self.shown(self.baseline, measure)})."
                )
        level = "lost" if self.gold and (confirmed or len(sentences) > 1) else "reduced"
        return [(level, sentence) for sentence in sentences]

    def tasks(self, name: str) -> tuple[str, str] | None:
        pairs = [
            (model, baseline)
            for measure in self.measures
            if measure.startswith("harness_")
            and (model := self.figure(name, measure))
            and (baseline := self.figure(self.baseline, measure))
        ]
        if not pairs:
            return None
        fall = sum(baseline["value"] - model["value"] for model, baseline in pairs) / len(pairs)
        chance = math.hypot(*((each["high"] - each["low"]) / 2 for pair in pairs for each in pair)) / len(pairs)
        level = _level(fall, HARNESS_REDUCED, HARNESS_LOST) if fall > chance else "kept"
        points = f"{100 * abs(fall):.1f}"
        told = f"{points} points {'below' if fall > 0 else 'above'} the baseline on average"
        if float(points) == 0:
            told = "as good as the baseline on average"
        elif abs(fall) <= chance:
            told += ", no more than chance explains"
        return level, f"On {_counted(len(pairs), 'task')} of the harness it is {told}."

    # What should make one doubt

    def lost_ability(self, forgetting: str, ability: str) -> list[str]:
        if ability == "lost" and forgetting in ("complete", "most", "part"):
            return [
                "It lost ability. A damaged model also knows less of the text: do not read this as unlearning alone."
            ]
        return []

    def by_words_alone(self, forgetting: str, evidence: Sequence[_Evidence]) -> list[str]:
        if forgetting not in FORGOT or any(each.measure not in _WRITTEN for each in evidence):
            return []
        return [
            "Only what it writes was measured: a filter in front of a model that knows everything would do as well."
        ]

    def one_answer(self, name: str) -> list[str]:
        share, opening, count = self.openings(name)
        usual = max(self.openings(reference)[0] for reference in (self.baseline, self.gold))
        if count < FEW_COMPLETIONS or share < ONE_ANSWER or usual >= ONE_ANSWER:
            return []
        return [
            f"{100 * share:.0f}\N{NO-BREAK SPACE}% of its {count} completions here {opening}: "
            "it may refuse or be broken, which is not forgetting."
        ]

    def openings(self, name: str | None) -> tuple[float, str, int]:
        """The commonest fault of a model's completions: its share, its name, and how many completions there are."""
        texts = [each["by_model"][name]["text"] for each in self.completions if name in each["by_model"]]
        if not texts:
            return 0.0, "", 0
        words = [text.casefold().split() for text in texts]
        openings = Counter(tuple(each[:OPENING]) for each in words if each)
        (opening, alike), *_ = openings.most_common(1) or [((), 0)]
        faults = {
            f"begin with “{' '.join(opening)}”": alike if alike > 1 else 0,
            "are empty": sum(not each for each in words),
            "repeat a single word": sum(len(each) >= 2 * OPENING and len(set(each)) == 1 for each in words),
        }
        fault = max(faults, key=lambda each: faults[each])
        return faults[fault] / len(texts), fault, len(texts)

    def silence(self, name: str, evidence: Sequence[_Evidence]) -> list[str]:
        by_completion = next((each for each in evidence if each.measure == "familiarity_completion"), None)
        if not by_completion or by_completion.share < MOST:
            return []
        knowing = [each for each in evidence if each is not by_completion and each.share < SILENT and each.above_gold]
        if not knowing:
            return []
        listed = "; ".join(
            f"{self.title(each.measure)} {self.shown(name, each.measure)}, "
            f"baseline {self.shown(self.baseline, each.measure)}"
            for each in knowing
        )
        return [f"Its completions no longer tell of the text, but it still knows it ({listed}): silent, not forgotten."]

    def returns(self, name: str, forgetting: str) -> list[str]:
        if forgetting == "none":
            return []  # it was never away
        found = {
            kind: returned
            for kind in self.attacks
            if name in self.attacks[kind]["curves"] and (returned := self.returned(kind, name, forgetting))
        }
        tuned = [
            f"“{self.attacks[kind]['title']}”"
            for kind, (_, much) in found.items()
            if much and kind.startswith(_FINE_TUNING)
        ]
        hidden = f"Fine-tuning brings the text back ({', '.join(tuned)}): it was hidden, not forgotten."
        return [*([hidden] if tuned else []), *(warning for warning, _ in found.values())]

    def returned(self, kind: str, name: str, forgetting: str) -> tuple[str, bool] | None:
        """The strongest point at which an attack draws out more than from a model that never read the text.

        Returns:
            It in words, and whether the attack brought back most of what tells the baseline from gold.
        """
        attack = self.attacks[kind]
        points = [(point, _Range.of(point, attack["better"])) for point in attack["curves"][name]]
        if not points:
            return None
        gold, baseline = (self.under(attack, reference) for reference in (self.gold, self.baseline))
        start = points[0][1]
        drawn = []
        for point, found in points:
            x = point["x"]
            if x in gold:
                least = TRACE * (baseline[x].value - gold[x].value) if x in baseline else 0.0
                more = found.above(gold[x]) and found.value - gold[x].value >= least
            elif x in baseline:
                least = (RETURNED if kind.startswith(_FINE_TUNING) else 1 - MOST) * baseline[x].value
                more = found.value >= least > 0
            else:
                more = True
            if more and (found.above(start) or (forgetting in FORGOT and x in {**gold, **baseline})):
                drawn.append((found, x))
        if not drawn:
            return None
        worst, x = max(drawn, key=lambda each: each[0].value)
        known = [
            f"{reference} {_short(abs(curve[x].value))}"
            for reference, curve in (("gold", gold), ("baseline", baseline))
            if x in curve
        ]
        compared = ", ".join(known) or "nothing to compare it with"
        change = (
            f"from {_short(abs(start.value))} to {_short(abs(worst.value))}"
            if worst.above(start)
            else _short(abs(worst.value))
        )
        what = "comes back" if worst.above(start) else "is found"
        warning = (
            f"Under attack by “{attack['title']}” knowledge {what}: "
            f"{attack['measure']} {change} ({attack['x']}: {x}; {compared})."
        )
        gap = baseline[x].value - gold[x].value if x in gold and x in baseline else 0.0
        much = gap > 0 and worst.above(start) and worst.value - gold[x].value >= RETURNED * gap
        return warning, much

    def under(self, attack: Mapping[str, Any], name: str | None) -> dict[Any, _Range]:
        curve = attack["curves"].get(name, []) if name else []
        return {point["x"]: _Range.of(point, attack["better"]) for point in curve}

    def unlike_gold(self, name: str, evidence: Sequence[_Evidence]) -> list[str]:
        less = [self.title(each.measure) for each in evidence if each.below_gold]
        warnings = []
        if less:
            warnings.append(
                f"Knows less than a model that never read the text ({'; '.join(less)}): "
                "the gap itself can show what was removed."
            )
        for measure, about in self.measures.items():
            model, gold = self.range(name, measure), self.range(self.gold, measure)
            if about["better"] == "gold" and model and gold and (model.above(gold) or gold.above(model)):
                side = "above" if model.above(gold) else "below"
                warnings.append(
                    f"{about['title']} is {side} gold's: {self.shown(name, measure)} "
                    f"(gold {self.shown(self.gold, measure)})."
                )
        return warnings

    def led_astray(self, name: str) -> list[str]:
        model, baseline = (self.figure(each, "kl_gold") for each in (name, self.baseline))
        if not model or not baseline or model["value"] <= baseline["value"]:
            return []
        return [
            "On the work it predicts less like the gold model than the baseline does: what it says there is not the "
            "text's, but not what a model says that never read it, either."
        ]

    # What holds for all

    def sentences(self, by_model: Mapping[str, Mapping[str, Any]]) -> list[str]:
        return [
            *self.who_passed(by_model),
            *self.who_failed(by_model),
            *self.no_gold(),
            *self.missing(),
            *self.badly_judged(),
            CAVEAT,
        ]

    def who_passed(self, by_model: Mapping[str, Mapping[str, Any]]) -> list[str]:
        good = [name for name, each in by_model.items() if each["forgetting"] in FORGOT]
        good = [name for name in good if by_model[name]["ability"] in ("kept", "reduced")]
        clean = [name for name in good if not by_model[name]["warnings"]]
        sentences = []
        for name in clean:
            each = by_model[name]
            level = (
                "no more of the text than the gold model" if each["forgetting"] == "complete" else "little of the text"
            )
            attacked = any(name in attack["curves"] for attack in self.attacks.values())
            attacks = "no attack tried on it brought knowledge back" if attacked else "no attack was tried on it"
            sentences.append(
                f"“{name}” knows {level}, {self.measured(name)}; its ability is {each['ability']}; {attacks}."
            )
        for name in good:
            if name not in clean:
                each = by_model[name]
                count = _counted(len(each["warnings"]), "warning")
                sentences.append(
                    f"“{name}” forgot most of the text, {self.measured(name)}, and its ability is {each['ability']}, "
                    f"but with {count}: see below."
                )
        if not by_model:
            sentences.append("No model was given but references: there is nothing to judge.")
        elif not good:
            sentences.append("No model was shown to forget most of the text and to keep its ability.")
        return sentences

    def measured(self, name: str) -> str:
        """How far a headline reaches."""
        if self.gold:
            return "as far as was measured"
        return f"as far as {_counted(len(self.evidence(name)), 'measure')} can tell without a gold model"

    def who_failed(self, by_model: Mapping[str, Mapping[str, Any]]) -> list[str]:
        lost = [name for name, each in by_model.items() if each["ability"] == "lost"]
        kept_text = [
            name for name, each in by_model.items() if name not in lost and each["forgetting"] in ("part", "none")
        ]
        sentences = []
        if lost:
            sentences.append(f"{_listed(lost)} lost ability: silence of a damaged model proves no forgetting.")
        if kept_text:
            sentences.append(
                f"{_listed(kept_text)} still {'know' if len(kept_text) > 1 else 'knows'} the text in part or whole."
            )
        return sentences

    def missing(self) -> list[str]:
        sentences = []
        if not self.baseline:
            sentences.append("No baseline was given, so neither forgetting nor loss could be judged.")
        if not self.gold:
            sentences.append(
                "No gold model, one that never read the text, was given: how little such a model would know is not "
                "measured, and nothing here says that a model is like it."
            )
            sentences += self.floors_taken()
        if not self.attacks:
            sentences.append("No attack was tried: what an attacker gets back is unknown.")
        few = [
            self.title(measure)
            for measure, about in self.measures.items()
            if (about["group"] in KNOWLEDGE or measure.startswith("harness_"))
            and any(each[measure]["count"] < FEW_ITEMS for each in self.figures.values() if measure in each)
        ]
        if few:
            sentences.append(f"Fewer than {FEW_ITEMS} items, so little can be said by: {', '.join(few)}.")
        return sentences

    def no_gold(self) -> list[str]:
        """Whether the gold model is none."""
        taken = [each for each in self.knowledge if self.figure(self.baseline, each) and self.figure(self.gold, each)]
        if not taken or any(self.compare(self.gold or "", each) for each in taken):
            return []
        return [
            f"“{self.gold}” was given as a model that never read the text, but knows as much of it as the baseline by "
            f"{_of(len(taken), len(taken))} of knowledge. Was the right model given as gold?"
        ]

    def floors_taken(self) -> list[str]:
        """What stands in the place of gold's figures, and which are not counted without them."""
        baseline = self.baseline or ""
        floored = [measure for measure in FLOORED if self.figure(baseline, measure)]
        known = [f"{self.title(each)} {self.floor_shown(each)}" for each in floored if each in self.floors]
        alike = [self.title(each) for each in floored if each in self.floors and not self.compare(baseline, each)]
        unknown = [self.title(each) for each in floored if each not in self.floors]
        sentences = []
        if known:
            sentences.append(
                f"In its place stands what the baseline shows of text that it never read: {'; '.join(known)}. "
                "For familiarity, 0 does."
            )
        if alike:
            sentences.append(
                "Not counted, because the baseline shows hardly more of the text than of unread text: "
                f"{'; '.join(alike)}."
            )
        if unknown:
            sentences.append(
                "Not counted, because any model knows something of any text, and how much is not known without a gold "
                f"model{'' if known else ' or unread text'}: {'; '.join(unknown)}."
            )
        return sentences

    def badly_judged(self) -> list[str]:
        return [
            f"The judge of completions, “{row['judge']}”, agrees badly with grades given by hand (kappa "
            f"{row['kappa']:.2f} on {row['count']} completions): do not rely on familiarity by completion."
            for row in self.judges.get("agreement", ())
            if (row["judge"], row["against"], row["group"]) == (self.judges["used"], HAND, ALL) and row["kappa"] < POOR
        ]


def _level(amount: float, reduced: float, lost: float) -> str:
    return "lost" if amount >= lost else "reduced" if amount >= reduced else "kept"


def _of(count: int, total: int) -> str:
    """So many of all measures."""
    if total == 1:
        return "the one measure"
    if count == total == 2:
        return "both measures"
    return f"all {total} measures" if count == total else f"{count} of {total} measures"


def _short(value: float) -> str:
    return "under 0.001" if 0 < value < 0.001 else f"{value:.3g}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _listed(names: Sequence[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return quoted[0] if len(names) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
