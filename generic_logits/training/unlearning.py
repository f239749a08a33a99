"""The whole offline road: reinforce, find anchors, compute targets, distil; and again from the last student."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generic_logits._files import replace_file
from generic_logits._record import describe_file, describe_model, read_record, write_record
from generic_logits.discovery.find import find_anchors
from generic_logits.errors import InputError
from generic_logits.ops import check_alpha
from generic_logits.text.anchors import Anchors
from generic_logits.text.corpus import Corpora, Corpus, check_distinct, open_corpora, open_corpus
from generic_logits.training.distillation import DistillConfig, check_limits, distill
from generic_logits.training.model_card import model_card
from generic_logits.training.reinforcement import ReinforceConfig, reinforce
from generic_logits.training.run import (
    OutputFolder,
    check_counts,
    default_learning_rate,
    is_first_process,
    leaving_no_trace,
    settings_of,
    training_arguments,
    wait_for_everyone,
)
from generic_logits.training.targets import compute_targets

_NAMING = ("generic_logits.json", "targets.json", "README.md", "adapter_config.json")  # files with paths in them


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """Settings of ``unlearn``.

    Attributes:
        rounds: how often to reinforce and distil; each later round begins with the last one's student.
        later_alpha: strength of the correction in later rounds, where the reinforced model is further away.
        later_rate: share of the learning rate that distillation takes in later rounds.
        reinforce: of the reinforcement in every round.
        distill: of the distillation in the first round.
    """

    rounds: int = 2
    later_alpha: float = 0.5
    later_rate: float = 0.3
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: a value outside its range.
        """
        check_counts(self, "rounds")
        check_alpha(self.later_alpha)
        if not 0 < self.later_rate <= 1:
            raise InputError("a later rate above 0 and at most 1", repr(self.later_rate), "1 keeps the rate")

    def of_round(self, number: int) -> DistillConfig:
        """Return the settings of a round's distillation; rounds count from 1."""
        if number == 1:
            return self.distill
        rate = self.later_rate * default_learning_rate(self.distill)
        return replace(self.distill, alpha=self.later_alpha, learning_rate=rate, seed=self.distill.seed + number - 1)


def unlearn(
    baseline: str | Path,
    corpus: str | Path | Corpus,
    output: str | Path,
    *,
    retain: Sequence[str | Path] | Corpora = (),
    anchors: str | Path | None = None,
    reinforced: str | Path | None = None,
    prompts: str | Path | None = None,
    config: UnlearnConfig | None = None,
    keep_steps: bool = False,
    resume: bool = False,
) -> Path:
    """Make a model forget a text, from the text to an ordinary checkpoint ("Who's Harry Potter?", section 2).

    Every step is what its own function does (``find_anchors``, and in each round ``reinforce``, ``compute_targets``,
    ``distill``). The retained corpora are always held to the first baseline.

    Args:
        baseline: model folder or hub name.
        corpus: the forget corpus, see ``open_corpus``.
        output: folder to create: an ordinary checkpoint with tokenizer, model card, ``generic_logits.json`` and the
            dictionary ``anchors.json``.
        retain: corpora on which the model stays as it is; also what the anchors are told apart from.
        anchors: dictionary file; None finds anchors (see ``find_anchors``).
        reinforced: model or adapter folder for the first round; None makes it.
        prompts: prompt file for ``DistillConfig.stop_familiarity``.
        config: settings.
        keep_steps: leave reinforced models, targets and earlier students in ``output/steps``.
        resume: take up an unfinished run of the same inputs and settings, if there is one; finished steps stay.

    Returns:
        ``output`` as a path.

    Raises:
        InputError: a model, corpus, dictionary, setting or output folder that cannot be used (see ``errors``).
        StorageError: the disk filled up; finished steps and checkpoints are kept.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    config = config or UnlearnConfig()
    folder = OutputFolder(output, resume=resume)
    for each in (config.reinforce, config.distill):
        training_arguments(each, folder)
    started = time.monotonic()
    forget, retained = open_corpus(corpus), open_corpora(retain)
    check_distinct([("forget", forget), ("retain", retained)])
    check_limits(config.distill, prompts, retained=bool(retained))
    given = Anchors.load(anchors) if anchors else None
    inputs: dict[str, Any] = {
        "baseline": describe_model(baseline),
        "reinforced": describe_model(reinforced) if reinforced else None,
        "corpus": forget.files,
        "retain": retained.files,
        "anchors": describe_file(anchors) if anchors else None,
        "prompts": describe_file(prompts) if prompts else None,
        "settings": settings_of(config),
    }
    steps = folder.work / "steps"
    with leaving_no_trace(folder):
        folder.open({"command": "unlearn", **inputs})
        if is_first_process() and (folder.work / "result" / "steps").exists():
            (folder.work / "result" / "steps").replace(steps)  # of a publication that was interrupted
        dictionary = steps / "anchors.json"
        if is_first_process() and not dictionary.exists():
            _say("anchors")
            found = given if given is not None else find_anchors(forget, reference=retained, seed=config.distill.seed)
            steps.mkdir(exist_ok=True)
            found.save(dictionary)
            folder.keep()
        wait_for_everyone()
        student: str | Path = baseline
        for number in range(1, config.rounds + 1):
            of_round = steps / f"round-{number}"
            teacher: str | Path = of_round / "reinforced"
            if number == 1 and reinforced:
                teacher = reinforced
            if not (of_round / "distilled").exists():
                if teacher != reinforced and not Path(teacher).exists():
                    _say(f"{of_round.name}: reinforce")
                    reinforce(student, forget, teacher, config=config.reinforce, resume=True)
                    folder.keep()
                _distill(
                    student, forget, of_round, teacher, dictionary, retained, baseline, prompts, config.of_round(number)
                )
            if is_first_process() and not keep_steps:
                for done in ("reinforced", "targets"):
                    shutil.rmtree(of_round / done, ignore_errors=True)
            student = of_round / "distilled"

        def gather(result: Path) -> None:
            records = [read_record(steps / f"round-{number}" / "distilled") for number in range(1, config.rounds + 1)]
            shutil.copytree(student, result, dirs_exist_ok=True)
            shutil.copy(dictionary, result)
            measured = {
                name: {"baseline": row["baseline"], "distilled": records[-1]["measured"][name]["distilled"]}
                for name, row in records[0]["measured"].items()
            }
            rounds = [{key: each.get(key) for key in ("settings", "measured", "stopped")} for each in records]
            content = {**inputs, "anchors": describe_file(dictionary), "held_to": inputs["baseline"], "rounds": rounds}
            content["anchors"]["file"] = dictionary.name
            seconds = round(time.monotonic() - started, 1)
            record = write_record(result, "distilled", **content, measured=measured, seconds=seconds)
            (result / "README.md").write_text(model_card(record), encoding="utf-8")
            if keep_steps:
                _rename_in_records(steps, folder.path / "steps")
                steps.replace(result / "steps")

        folder.publish(gather)
        wait_for_everyone()
        return folder.path


def settings_behind(reinforced: str | Path) -> ReinforceConfig:
    """Return the settings that a reinforced model was made with, from its record.

    Raises:
        InputError: it has no record of them.
    """
    record = read_record(reinforced)
    if record.get("kind") != "reinforced":
        wanted, got = "a reinforced model with its record generic_logits.json", f"none in {reinforced}"
        raise InputError(wanted, got, "make it with reinforce")
    return ReinforceConfig(**record["settings"])


def _distill(
    student: str | Path,
    corpus: Corpus,
    of_round: Path,
    teacher: str | Path,
    dictionary: Path,
    retain: Corpora,
    held_to: str | Path,
    prompts: str | Path | None,
    config: DistillConfig,
) -> None:
    """Targets, and the student that they make; what is there already stays."""
    targets = of_round / "targets"
    if not targets.exists():
        _say(f"{of_round.name}: targets")
        compute_targets(
            student,
            corpus,
            targets,
            reinforced=teacher,
            retain=retain,
            anchors=dictionary,
            held_to=held_to,
            config=config.of_targets(),
            resume=True,
        )
    _say(f"{of_round.name}: distill")
    distill(student, None, of_round / "distilled", targets=targets, prompts=prompts, config=config, resume=True)


def _rename_in_records(steps: Path, final: Path) -> None:
    """Let what names a file of ``steps``, or the digest of one that names others, name what it is going to be."""
    files = [file for name in _NAMING for file in steps.rglob(name)]
    changed = {str(steps): str(final)}
    while changed:
        before = {file: file.read_text(encoding="utf-8") for file in files}
        after = {file: _replaced(text, changed) for file, text in before.items()}
        changed = {_digest(before[file]): _digest(text) for file, text in after.items() if text != before[file]}
        for file, text in after.items():
            replace_file(file, text)


def _replaced(text: str, changed: Mapping[str, str]) -> str:
    for old, new in changed.items():
        text = text.replace(old, new)
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _say(step: str) -> None:
    if is_first_process():
        print(step, file=sys.stderr, flush=True)
