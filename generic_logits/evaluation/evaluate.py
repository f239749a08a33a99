"""One report on several models: every part of it asked of each, kept as soon as it is answered."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from generic_logits import __version__
from generic_logits._files import replace_file
from generic_logits._record import software_versions
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation.agreement import judges_on_record
from generic_logits.evaluation.attacks import ATTACKS, Point, above_gold
from generic_logits.evaluation.candidates import Candidate, DeferredSubject, check_candidates, read_candidate
from generic_logits.evaluation.figures import bootstrap
from generic_logits.evaluation.harness import describe_data, rehearse
from generic_logits.evaluation.judge import Judge, RuleJudge
from generic_logits.evaluation.material import Material, gather_material
from generic_logits.evaluation.parts import (
    ATTACK_PARTS,
    PARTS,
    Answer,
    Harness,
    Part,
    Setting,
    describe_measure,
    figures_of,
    floors_of,
)
from generic_logits.evaluation.report import SCHEMA, Report
from generic_logits.evaluation.subject import Subject
from generic_logits.evaluation.verdict import reach_verdict
from generic_logits.text.corpus import Corpus
from generic_logits.text.prompts import save_prompts
from generic_logits.training.run import OutputFolder, leaving_no_trace

_SHOWN = 24  # completions that a report shows of each model


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of ``evaluate``.

    Attributes:
        new_tokens: of a completion or a continuation.
        block_size: tokens in a block of text.
        blocks: of each text whose perplexity is taken.
        attacks: names among ``ATTACKS``; all of them by default.
        harness: lm-evaluation-harness, if it is wanted; asked first, so that an engine has the memory for itself.
        seed: of everything random.
    """

    new_tokens: int = 40
    block_size: int = 256
    blocks: int = 48
    attacks: Sequence[str] = tuple(ATTACKS)
    harness: Harness | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: a count below its least value, or an attack that there is not.
        """
        for name, least in (("new_tokens", 1), ("block_size", 8), ("blocks", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} of at least {least}", repr(getattr(self, name)), f"raise {name}")
        if unknown := sorted({*self.attacks} - {*ATTACKS}):
            raise InputError(f"attacks among {', '.join(ATTACKS)}", ", ".join(unknown), "check the names")


def evaluate(
    models: Sequence[Candidate | str | Path],
    material: Material | str | Path | Corpus,
    output: str | Path,
    *,
    gold: str | Path | None = None,
    retain: Sequence[str | Path | Corpus] = (),
    judge: Judge | None = None,
    config: EvaluateConfig | None = None,
    resume: bool = False,
) -> Report:
    """Ask every model everything, and save the report.

    Models are loaded one after the other and freed; beside one of them only the baseline or gold may be in memory,
    while the distance to it is taken. Each answer is kept in ``OUTPUT.partial/parts`` under a fingerprint of all that
    it depends on, so a run that was broken off goes on behind the last answer.

    Args:
        models: each SOURCE or NAME=SOURCE, where SOURCE is a model folder, a hub name, or a server's address
            (``http://...#MODEL``); or a ``Candidate``, which may also be a pair. The first one is the baseline, unless
            one of them says that it is.
        material: what they are asked; or the corpus that was to be forgotten, from which it is made.
        output: folder to create: ``report.json``, ``report.md`` and ``report.html``; and what was asked, to be edited
            and given again: ``prompts.json``, ``hints.json``, ``questions.json`` and ``wording-NAME.json``.
        gold: a model that never read the text.
        retain: with a corpus as ``material``: corpora that a model should go on predicting.
        judge: of completions; None takes the rules.
        config: settings.
        resume: take up an unfinished run of this output, if there is one; answers to other questions are left aside.

    Raises:
        InputError: models, texts, settings or an output folder that cannot be used.
        StorageError: the disk filled up; what was answered is kept.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    config = config or EvaluateConfig()
    candidates = [each.meet() for each in _candidates(models, gold)]  # nobody there is said before hours of others
    if config.harness:
        rehearse(config.harness.data)
    if not isinstance(material, Material):
        material = gather_material(material, retain=retain, seed=config.seed)
    judge = judge or RuleJudge(material.terms, material.forget, reference="\n".join(material.retain.values()))
    folder = OutputFolder(output, resume=resume)
    with leaving_no_trace(folder):
        folder.open({"command": "evaluate"})
        run = _Run(candidates, material, judge, config, _Store(folder))
        report = Report(run.report())

        def save(result: Path) -> None:
            report.save(result)
            for name, prompts in material.prompt_files().items():
                save_prompts(result / name, prompts)

        folder.publish(save)
    return report


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_finite(answer: Any) -> bool:
    """Whether all numbers of an answer are finite."""
    if isinstance(answer, Mapping):
        return all(map(_is_finite, answer.values()))
    if isinstance(answer, list | tuple):
        return all(map(_is_finite, answer))
    return not isinstance(answer, float) or math.isfinite(answer)


def _candidates(models: Sequence[Candidate | str | Path], gold: str | Path | None) -> list[Candidate]:
    candidates = [each if isinstance(each, Candidate) else read_candidate(str(each)) for each in models]
    if candidates and not any(each.role == "baseline" for each in candidates) and not candidates[0].role:
        candidates[0] = candidates[0].with_role("baseline")
    if gold is not None:
        candidates.append(read_candidate(str(gold)).with_role("gold"))
    check_candidates(candidates)
    return candidates


class _Store:
    """Answers on disk, each a file named after all that it depends on."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder, self._place = folder, folder.work / "parts"

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """A stored answer, with the seconds that it took; None where there is none that can be read."""
        try:
            entry: dict[str, Any] = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return entry

    def reuse(self, keys: Sequence[Mapping[str, Any]]) -> str:
        """What an earlier run left of these answers and of others, in words; nothing where it left none."""
        kept = {*self._place.glob("*.json")}
        if not kept:
            return ""
        files = [self._file(key) for key in keys]
        others = len(kept.difference(files))
        unused = f"; {others} answers to other models, texts or settings are not" if others else ""
        return f"{sum(map(kept.__contains__, files))} of {len(keys)} parts were answered before and are reused{unused}"

    def save(self, key: Mapping[str, Any], answer: Answer, seconds: float) -> dict[str, Any]:
        """Write an answer; it appears whole. Return it as it will be found."""
        self._place.mkdir(exist_ok=True)
        text = json.dumps({"key": key, "seconds": round(seconds, 2), "answer": answer}, ensure_ascii=False)
        replace_file(self._file(key), text)
        self._folder.keep()
        entry: dict[str, Any] = json.loads(text)
        return entry

    def _file(self, key: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._place / f"{digest[:32]}.json"


class _Run:
    def __init__(
        self,
        candidates: Sequence[Candidate],
        material: Material,
        judge: Judge,
        config: EvaluateConfig,
        store: _Store,
    ) -> None:
        self._candidates, self._material, self._config, self._store = candidates, material, config, store
        roles = {each.role: each for each in candidates if each.role}
        self._baseline, self._gold = roles.get("baseline"), roles.get("gold")
        self._setting = Setting(
            material=material,
            baseline=self._baseline.load if self._baseline else None,
            judge=judge,
            new_tokens=config.new_tokens,
            block_size=config.block_size,
            blocks=config.blocks,
            seed=config.seed,
            gold=self._gold.load if self._gold else None,
            harness=config.harness,
        )
        self._tests = describe_data(config.harness.data) if config.harness else []
        self._parts = {name: part for name, part in PARTS.items() if not part.wants(self._setting)}
        self._parts |= {f"attack:{name}": ATTACK_PARTS[f"attack:{name}"] for name in config.attacks}
        self._answers: dict[str, dict[str, Answer]] = {}
        self._left_out: dict[str, dict[str, str]] = {}
        self._seconds: dict[str, dict[str, float]] = {}
        self._fingerprint = material.fingerprint()

    def report(self) -> dict[str, Any]:
        """Ask what is not answered yet, and put the report together."""
        judges = judges_on_record(self._setting.judge)  # a judge that cannot answer is said before hours of models
        parts = {
            candidate.name: {name: part for name, part in self._parts.items() if self._concerns(candidate, name)}
            for candidate in self._candidates
        }
        keys = [self._key(candidate, name) for candidate in self._candidates for name in parts[candidate.name]]
        if reused := self._store.reuse(keys):
            _say(reused)
        total, number, terminal = len(keys), 0, sys.stderr.isatty()
        with tqdm(total=total, unit="part", disable=not terminal) as bar:
            for candidate in self._candidates:
                self._answers[candidate.name], self._left_out[candidate.name] = {}, {}
                self._seconds[candidate.name] = {}
                with DeferredSubject(candidate) as subject:
                    for name, part in parts[candidate.name].items():
                        bar.set_description(f"{candidate.name}: {part.title}")
                        asked = self._answer(candidate, subject, name, part)
                        bar.update()
                        number += 1
                        if asked and not terminal:
                            seconds = self._seconds[candidate.name][name]
                            _say(f"[{number}/{total}] {candidate.name}: {part.title}, {seconds:.1f} s")
        return self._assemble(judges)

    def _answer(self, candidate: Candidate, subject: Subject, name: str, part: Part) -> bool:
        """Keep a part's answer, and say whether it had to be asked for."""
        key = self._key(candidate, name)
        entry = self._store.find(key)
        if asked := entry is None:
            started = time.monotonic()
            try:
                answer = part.ask(subject, self._setting)
                if not _is_finite(answer):
                    raise MeasureError("numbers", "some that are not finite", "the model's scores are broken")
            except MeasureError as error:
                answer = {"left_out": str(error)}
            entry = self._store.save(key, answer, time.monotonic() - started)
        answer = entry["answer"]
        self._seconds[candidate.name][name] = entry["seconds"]
        if "left_out" in answer:
            self._left_out[candidate.name][name] = answer["left_out"]
        else:
            self._answers[candidate.name][name] = answer
        return asked

    def _concerns(self, candidate: Candidate, name: str) -> bool:
        if name == "unread":  # in gold's place
            return candidate is self._baseline and not self._gold
        return candidate is not {"distance": self._baseline, "gold_distance": self._gold}.get(name)  # from itself

    def _key(self, candidate: Candidate, name: str) -> dict[str, Any]:
        config = self._config
        key = {
            "part": name,
            "model": candidate.fingerprint,
            "material": self._fingerprint,
            "version": __version__,
            "seed": config.seed,
            "new_tokens": config.new_tokens,
            "blocks": [config.blocks, config.block_size],
        }
        if name == "completion":
            key["judge"] = dict(self._setting.judge.described)
        if name == "distance" and self._baseline:
            key["baseline"] = self._baseline.fingerprint
        if name == "gold_distance" and self._gold:
            key["gold"] = self._gold.fingerprint
        if name == "tasks" and config.harness:
            key["harness"] = {**asdict(config.harness), "files": self._tests}
        return key

    def _assemble(self, judges: Mapping[str, Any]) -> dict[str, Any]:
        config, material = self._config, self._material
        of_gold, of_baseline = (
            self._answers.get(each.name, {}) if each else {} for each in (self._gold, self._baseline)
        )
        figures = {
            name: {measure: asdict(figure) for measure, figure in figures_of(answers, of_gold, config.seed).items()}
            for name, answers in self._answers.items()
        }
        measures = dict.fromkeys(measure for of_model in figures.values() for measure in of_model)
        report = {
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": software_versions(),
            "settings": {**asdict(config), "judge": dict(self._setting.judge.described), "seconds": self._seconds},
            "sources": {**material.sources, **({"harness": self._tests} if self._tests else {})},
            "models": [candidate.describe() for candidate in self._candidates],
            "measures": {measure: describe_measure(measure) for measure in measures},
            "figures": figures,
            "floors": {name: asdict(figure) for name, figure in floors_of(of_baseline, config.seed).items()},
            "attacks": self._attacks(),
            "completions": self._completions(),
            "judges": judges,
            "lens": self._lens(),
            "left_out": self._reasons(),
        }
        report["verdict"] = reach_verdict(report)
        plain: dict[str, Any] = json.loads(json.dumps(report))
        return plain

    def _reasons(self) -> dict[str, Any]:
        """What was not measured, and why: what is so of everybody under "", the rest under models' names."""
        of_all = {part.title: why for part in PARTS.values() if (why := part.wants(self._setting))}
        parts = {**PARTS, **ATTACK_PARTS}
        of_each = {
            model: {parts[name].title: why for name, why in of_model.items() if name != "lens"}
            for model, of_model in self._left_out.items()
        }
        first, *others = of_each.values()
        shared = {what: why for what, why in first.items() if others and all(each.get(what) == why for each in others)}
        of_each = {
            model: {what: why for what, why in reasons.items() if what not in shared}
            for model, reasons in of_each.items()
        }
        return {name: reasons for name, reasons in {"": {**of_all, **shared}, **of_each}.items() if reasons}

    def _attacks(self) -> dict[str, Any]:
        found = {}
        for name in self._config.attacks:
            curves = {
                model: [Point(**point) for point in answers[f"attack:{name}"]["points"]]
                for model, answers in self._answers.items()
                if f"attack:{name}" in answers
            }
            if not curves:
                continue
            attack = ATTACKS[name]
            of_gold = curves.get(self._gold.name, []) if self._gold else []
            found[name] = {
                **{key: getattr(attack, key) for key in ("title", "about", "x", "measure")},
                "better": "lower",
                "curves": {model: self._curve(points, of_gold) for model, points in curves.items()},
            }
        return found

    def _curve(self, points: Sequence[Point], of_gold: Sequence[Point]) -> list[dict[str, Any]]:
        return [
            {"x": point.x, **asdict(bootstrap(point.scores, seed=self._config.seed)), "above_gold": above}
            | ({"cut": point.cut} if point.cut else {})
            for point, above in zip(points, above_gold(points, of_gold), strict=True)
        ]

    def _completions(self) -> list[dict[str, Any]]:
        hints = self._material.hints
        chosen = range(len(hints)) if len(hints) <= _SHOWN else [at * len(hints) // _SHOWN for at in range(_SHOWN)]
        written = {model: answers["completion"] for model, answers in self._answers.items() if "completion" in answers}
        return [
            {
                "prompt": hints[at].prompt,
                "by_model": {
                    model: {"text": of_model["texts"][at], "grade": of_model["grades"][at]}
                    for model, of_model in written.items()
                },
            }
            for at in chosen
        ]

    def _lens(self) -> Answer | None:
        """That of the pair with the mildest correction: its slider reaches the others' alphas."""
        lenses = [answers["lens"] for answers in self._answers.values() if "lens" in answers]
        return min(lenses, key=lambda lens: lens["alpha"] or math.inf, default=None)
