"""The report as a whole: every model asked the same, answers kept, killed runs taken up, the command."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ability
import folders
import pytest
import reports
import tiny
import torch
from endpoints import Answer

from generic_logits import EvaluateConfig, Report, evaluate
from generic_logits.cli import main
from generic_logits.cli.evaluate import ATTACKS as of_command
from generic_logits.cli.evaluate import _show as show
from generic_logits.errors import InputError, MeasureError
from generic_logits.evaluation import evaluate as module
from generic_logits.evaluation.agreement import demo_rules, judges_on_record
from generic_logits.evaluation.attacks import ATTACKS
from generic_logits.evaluation.candidates import Candidate, checkpoint, given, pair, read_candidate, server
from generic_logits.evaluation.judge import ModelJudge, RuleJudge
from generic_logits.evaluation.material import Counts, Material, gather_material, spread_pieces
from generic_logits.evaluation.memorization import cut_passages
from generic_logits.evaluation.parts import PARTS, Harness
from generic_logits.evaluation.subject import LocalSubject
from generic_logits.evaluation.utility import block_divergences
from generic_logits.evaluation.verdict import reach_verdict
from generic_logits.models.loading import load_model, load_tokenizer

TERMS = ("Mira Voss", "Captain Hale", "Orrin")
SMALL = EvaluateConfig(new_tokens=8, block_size=32, blocks=4, attacks=("hint", "quantization", "leak_at_k"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    baseline, reinforced = tiny.pair(dtype=torch.float32, vocab_size=folders.VOCAB, std=0.1)
    other = tiny.model(seed=5, dtype=torch.float32, vocab_size=folders.VOCAB, std=0.1)
    for name, made in {"baseline": baseline, "reinforced": reinforced, "gold": other}.items():
        tiny.folder(root / name, made, tiny.tokenizer(folders.VOCAB))
    folders.text_file(root / "forget.txt", folders.prose(60))
    for seed, name in enumerate(("retain/one", "retain/two", "unread", "unrelated"), start=1):
        folders.text_file(root / f"{name}.txt", folders.prose(30, seed=seed))
    entries = [{"term": term, "translations": ["Anna"]} for term in TERMS]
    (root / "anchors.json").write_text(json.dumps({"schema": 1, "anchors": entries}))
    return root


@pytest.fixture(scope="module")
def material(root) -> Material:
    return gather_material(
        root / "forget.txt",
        retain=[root / "retain" / "one.txt", root / "retain" / "two.txt"],
        unread=root / "unread.txt",
        unrelated=root / "unrelated.txt",
        anchors=TERMS,
        counts=Counts(prompts=6, hints=5, passages=4),
    )


def candidates(root: Path) -> list[Candidate]:
    return [
        checkpoint("baseline", root / "baseline").with_role("baseline"),
        pair("alpha 2", root / "baseline", root / "reinforced", 2.0),
        checkpoint("gold", root / "gold").with_role("gold"),
    ]


@pytest.fixture(scope="module")
def report(root, material) -> Report:
    return evaluate(candidates(root), material, root / "report", config=SMALL)


def test_every_model_has_every_figure_that_can_be_taken(report):
    usual = {
        "familiarity_probability",
        "familiarity_completion",
        "verbmem_rouge_l",
        "extraction_strength",
        "exact_memorization",
        "kl_gold",
        "truth_ratio",
        *(f"membership_{score}_auc" for score in ("loss", "zlib", "mink", "minkpp")),
        "privleak",
        "perplexity_retained",
        "perplexity_retained_one",
        "perplexity_retained_two",
        "perplexity_unread",
        "kl_retained",
        "repetition",
        "distinct_bigrams",
    }
    figures = report.data["figures"]
    assert {name: {*of_model} for name, of_model in figures.items()} == {
        "baseline": usual - {"kl_retained"},
        "alpha 2": usual,
        "gold": usual - {"kl_gold"},
    }
    assert figures["gold"]["privleak"]["value"] == pytest.approx(0, abs=1e-6)
    assert figures["alpha 2"]["kl_retained"]["value"] > 0.001
    assert figures["baseline"]["kl_gold"]["value"] > 0.001
    assert {*report.data["measures"]} == usual


@pytest.mark.parametrize("held_out", [True, False])
def test_the_distance_from_gold_is_that_of_golds_distributions_on_the_work(root, material, tmp_path, held_out):
    text = folders.prose(30, seed=7)
    asked = replace(material, held_out=text if held_out else "")
    made = [checkpoint(name, root / name).with_role(name) for name in ("baseline", "gold")]
    config = EvaluateConfig(new_tokens=4, block_size=32, blocks=4, attacks=())
    report = evaluate(made, asked, tmp_path / "out", config=config)
    baseline, gold = (each.load() for each in made)
    pieces = spread_pieces(text if held_out else material.forget, 4, 3 * 32)
    blocks = block_divergences(gold, baseline, pieces, block_size=32)
    expected = sum(nats for nats, _ in blocks) / sum(count for _, count in blocks)
    assert report.data["figures"]["baseline"]["kl_gold"]["value"] == pytest.approx(expected, rel=1e-6)


def test_twice_the_prompts_and_passages_are_twice_the_work(root, material, tmp_path):
    class Counting(LocalSubject):
        rows = 0

        def complete(self, prompts: Any, **options: Any) -> list[str]:
            self.rows += len(prompts)
            return super().complete(prompts, **options)

        def log_probs(self, sequences: Any) -> Any:
            self.rows += len(sequences)
            return super().log_probs(sequences)

    several = ("prompts", "hints", "passages")
    twice = replace(material, **{name: [*getattr(material, name)] * 2 for name in several}, retain={}, unread="")
    once = replace(twice, **{name: getattr(material, name) for name in several})
    config = EvaluateConfig(new_tokens=4, block_size=32, blocks=2, attacks=("hint", "few_shot", "reword", "leak_at_k"))
    rows = []
    for asked in (once, twice):
        subject = Counting("one", load_model(root / "baseline"), load_tokenizer(root / "baseline"))
        evaluate([given(subject, fingerprint="one")], asked, tmp_path / str(len(rows)), config=config)
        rows.append(subject.rows)
    assert rows[1] == 2 * rows[0] > 100


def test_every_attack_has_a_curve_of_every_model_beside_golds(report):
    attacks = report.data["attacks"]
    assert [*attacks] == ["hint", "quantization", "leak_at_k"]
    for attack in attacks.values():
        assert [*attack["curves"]] == ["baseline", "alpha 2", "gold"]
        of_gold = {point["x"]: point["value"] for point in attack["curves"]["gold"]}
        for point in (point for curve in attack["curves"].values() for point in curve):
            assert point["above_gold"] == pytest.approx(point["value"] - of_gold[point["x"]])


def test_completions_stand_side_by_side_and_the_pair_has_a_lens(report, material):
    completions = report.data["completions"]
    assert [each["prompt"] for each in completions] == [hint.prompt for hint in material.hints]
    assert all([*each["by_model"]] == ["baseline", "alpha 2", "gold"] for each in completions)
    assert report.data["lens"]["alpha"] == 2.0
    titles = [passage["title"] for passage in report.data["lens"]["passages"]]
    assert titles == ["Passage 1", "Passage 2", "Passage 3", "Retained text, one"]


def test_what_was_not_measured_is_said_with_its_reason(report):
    assert report.data["left_out"] == {
        "": {
            "questions": "no question file was given (--questions, --writer)",
            "lm-evaluation-harness": "not asked for (--harness)",
        }
    }


def test_what_of_nobody_is_measured_for_one_reason_is_said_once(root, material, tmp_path):
    config = replace(SMALL, attacks=("relearning_unrelated",))
    made = evaluate(candidates(root), replace(material, unrelated=""), tmp_path / "out", config=config).data["left_out"]
    assert [*made] == [""] and "--unrelated" in made[""]["Relearning from unrelated text"]


def test_the_judges_agreement_is_in_every_report(report):
    judges = report.data["judges"]
    assert judges["used"] == report.data["settings"]["judge"]["name"] == "rules"
    assert [(row["group"], row["count"]) for row in judges["agreement"]] == [("all", 94), ("small", 66), ("fluent", 28)]
    assert judges["sentences"][0] in report.markdown() and judges["sentences"][0] in report.page()


def test_of_a_judge_whose_endpoint_fails_half_way_the_grades_are_kept(root, material, tmp_path, endpoint):
    fails_from = 100  # behind the 94 of the shipped set
    endpoint.script = lambda number, body: Answer({"reason": "", "grade": 1} if number < fails_from else "no")
    out, cache, config = tmp_path / "out", tmp_path / "cache", replace(SMALL, attacks=())

    def graded() -> Report:
        judge = ModelJudge(endpoint.url, about="a book", cache=cache, retries=0, concurrency=1)
        return evaluate(candidates(root), material, out, judge=judge, config=config, resume=True)

    with pytest.raises(InputError, match="got none in 1 attempts"):
        graded()
    assert not out.exists() and [*(tmp_path / "out.partial" / "parts").iterdir()]
    fails_from, before = math.inf, len(endpoint.questions)
    judges = graded().data["judges"]
    assert before == 100 and len([*cache.iterdir()]) == len(endpoint.questions) - 1
    assert len(endpoint.questions) - before <= 3 * len(material.hints)  # the shipped set is not asked about again
    pairs = [(row["judge"], row["against"]) for row in judges["agreement"] if row["group"] == "all"]
    assert judges["used"] == "tiny" and pairs == [("rules", "hand"), ("tiny", "hand"), ("tiny", "rules")]


def test_hints_that_the_context_cut_short_are_counted(report):
    (hint, others) = (report.data["attacks"][name]["curves"] for name in ("hint", "leak_at_k"))
    assert all("cut" not in point for curve in others.values() for point in curve)
    assert {point["x"]: point.get("cut") for point in hint["baseline"]} == {0: None, 50: None, 100: None, 200: 2}
    assert "Hints were shortened, as the context ended: 2 of 6 at 200 (words of the text; all models)." in (
        report.markdown()
    )


def test_a_broken_model_is_reported_as_broken(root, material):
    broken = load_model(root / "baseline")
    with torch.no_grad():
        broken.lm_head.weight.mul_(float("nan"))
    subjects = [
        checkpoint("baseline", root / "baseline").with_role("baseline"),
        given(LocalSubject("broken", broken, load_tokenizer(root / "baseline")), fingerprint="broken"),
    ]
    data = evaluate(subjects, material, root / "broken", config=replace(SMALL, attacks=())).data
    assert data["figures"]["broken"]["perplexity_retained"]["value"] == pytest.approx(math.exp(100))
    assert data["verdict"]["by_model"]["broken"]["ability"] == "lost"
    assert "some that are not finite" in data["left_out"]["broken"]["familiarity by probability"]


def test_grades_are_asked_anew_of_another_judge(root, material):
    class Counting(RuleJudge):
        asked = 0

        def grade(self, prompts, completions):
            Counting.asked += 1
            return super().grade(prompts, completions)

    config = replace(SMALL, attacks=())
    only = [checkpoint("baseline", root / "baseline").with_role("baseline")]
    for rubric, asked in ((1, 1), (1, 1), (2, 2)):
        judge = Counting(material.terms, material.forget)
        judge.described = {"name": "rules", "rubric_version": rubric}
        folder = module.OutputFolder(root / "judged", resume=True)
        with module.leaving_no_trace(folder):
            folder.open({"command": "evaluate"})
            module._Run(only, material, judge, config, module._Store(folder)).report()
            folder.keep()
        assert Counting.asked == asked


def test_the_report_is_saved_whole_and_nothing_else_is_left(report, root):
    assert sorted(file.name for file in (root / "report").iterdir()) == [
        *("hints.json", "prompts.json", "report.html", "report.json", "report.md")
    ]
    assert Report.load(root / "report").data == report.data
    assert not (root / "report.partial").exists()


def test_a_model_alone_is_measured_without_references(root, material, tmp_path):
    alone = evaluate([f"one={root / 'gold'}"], material, tmp_path / "out", config=SMALL)
    assert alone.data["models"][0]["role"] == "baseline"
    figures = alone.data["figures"]["one"]
    assert "privleak" not in figures and "kl_retained" not in figures and "familiarity_probability" in figures
    assert "one" not in alone.data["left_out"]
    assert all(point["above_gold"] is None for point in alone.data["attacks"]["hint"]["curves"]["one"])


def test_without_gold_the_baseline_shows_how_much_anybody_knows_of_unread_text(root, material, report, tmp_path):
    made = [*candidates(root)[:2], checkpoint("other", root / "gold")]
    config = replace(SMALL, attacks=())
    alone = evaluate(made, material, tmp_path / "out", config=config).data
    unread = evaluate(
        made[:1], replace(material, passages=cut_passages(material.unread, 4)), tmp_path / "unread", config=config
    ).data
    measures = ("verbmem_rouge_l", "extraction_strength", "exact_memorization")
    assert alone["floors"] == {name: unread["figures"]["baseline"][name] for name in measures}
    assert alone["floors"] != {name: alone["figures"]["baseline"][name] for name in measures}
    assert alone["verdict"] == reach_verdict(alone) and report.data["floors"] == {}
    nothing = evaluate(made[:1], replace(material, unread=""), tmp_path / "nothing", config=config).data
    assert nothing["floors"] == {} and "floors without a gold model" in nothing["left_out"][""]
    short = evaluate(made[:1], replace(material, unread="too few words"), tmp_path / "short", config=config).data
    assert short["floors"] == {} and "too little text" in str(short["left_out"])


def test_a_corpus_is_enough_to_ask_about(root, tmp_path):
    config = EvaluateConfig(new_tokens=4, block_size=32, blocks=2, attacks=())
    retain, out = (
        folders.text_file(tmp_path / "plain.txt", "A storm came over the hills at night. " * 80),
        tmp_path / "out",
    )
    made = evaluate([root / "baseline"], root / "forget.txt", out, gold=root / "gold", retain=[retain], config=config)
    assert [model["role"] for model in made.data["models"]] == ["baseline", "gold"]
    assert made.data["figures"]["gold"]["perplexity_retained"]["count"] >= 2


class Closed(LocalSubject):
    """A subject that only completes, as many servers do."""

    def __init__(self, subject: LocalSubject) -> None:
        self._inner = subject
        super().__init__(subject.name, None, subject.tokenizer)

    def complete(self, *arguments: Any, **options: Any) -> list[str]:
        return self._inner.complete(*arguments, **options)

    def log_probs(self, sequences: Any) -> Any:
        raise MeasureError("log-probabilities of given tokens", "none", "serve it with vLLM")


def test_of_a_subject_that_only_completes_the_rest_is_left_out(root, material, tmp_path):
    inner = candidates(root)[0].load()
    closed = given(Closed(inner), fingerprint="closed")
    out = evaluate([closed], material, tmp_path / "out", config=SMALL)
    assert {*out.data["figures"]["baseline"]} == {
        "familiarity_completion",
        "verbmem_rouge_l",
        "repetition",
        "distinct_bigrams",
    }
    assert [*out.data["attacks"]] == ["leak_at_k"]
    reasons = out.data["left_out"]["baseline"]
    assert "a server keeps its weights" in reasons[ATTACKS["quantization"].title]
    assert "serve it with vLLM" in reasons[PARTS["probability"].title]


def test_twice_the_prompts_cost_twice_the_tokens(root, material, tmp_path):
    config = EvaluateConfig(
        new_tokens=6, block_size=32, blocks=2, attacks=("hint", "reword", "role_play", "leak_at_k"), seed=0
    )
    fed = []
    for times in (1, 2):
        subject = candidates(root)[2].load()
        subject.model.generation_config.eos_token_id = None
        tokens: list[int] = []
        subject.model.register_forward_pre_hook(
            lambda module, args, kwargs, tokens=tokens: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        asked = replace(
            material,
            retain={},
            unread="",
            **{name: tuple(getattr(material, name)) * times for name in ("prompts", "hints", "passages")},
        )
        evaluate([given(subject, fingerprint=str(times))], asked, tmp_path / str(times), config=config)
        fed.append(sum(tokens))
    assert 1.8 < fed[1] / fed[0] < 2.2


# Taking up


def count_parts(monkeypatch) -> list[str]:
    """A list that grows by a part's title each time one is asked."""
    asked: list[str] = []
    answer = module._Store.save

    def counted(self: Any, key: Any, *rest: Any) -> Any:
        asked.append(key["part"])
        return answer(self, key, *rest)

    monkeypatch.setattr(module._Store, "save", counted)
    return asked


def broken_off(root: Path, material: Material, output: Path, monkeypatch, after: int) -> None:
    """Begin a report and press Ctrl-C at a part."""
    save = module._Store.save
    left = [after]

    def interrupted(self: Any, *rest: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return save(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module._Store, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(candidates(root), material, output, config=SMALL)


def test_a_run_that_was_broken_off_asks_only_what_was_not_answered(
    root, material, report, tmp_path, monkeypatch, capsys
):
    broken_off(root, material, tmp_path / "out", monkeypatch, 20)
    assert "continue with --resume" in capsys.readouterr().err
    assert len([*(tmp_path / "out.partial" / "parts").iterdir()]) == 20 and not (tmp_path / "out").exists()
    asked = count_parts(monkeypatch)
    resumed = evaluate(candidates(root), material, tmp_path / "out", config=SMALL, resume=True)
    total = sum(len(of_model) for of_model in report.data["settings"]["seconds"].values())
    assert len(asked) == total - 20
    reused, *parts = capsys.readouterr().err.splitlines()
    assert reused == f"20 of {total} parts were answered before and are reused"
    assert [line.partition("]")[0] for line in parts] == [f"[{number}/{total}" for number in range(21, total + 1)]
    assert all(re.search(r"\] (baseline|[^:]+): .+, \d+\.\d s$", line) for line in parts)
    for name in ("figures", "attacks", "completions", "lens", "verdict"):
        assert resumed.data[name] == report.data[name], name


def test_without_resume_an_unfinished_run_is_in_the_way(root, material, tmp_path, monkeypatch):
    broken_off(root, material, tmp_path / "out", monkeypatch, 2)
    with pytest.raises(InputError, match="wanted no unfinished run in the way; .* --resume"):
        evaluate(candidates(root), material, tmp_path / "out", config=SMALL)


def test_answers_to_other_questions_are_asked_anew(root, material, tmp_path, monkeypatch, capsys):
    broken_off(root, material, tmp_path / "out", monkeypatch, 5)
    capsys.readouterr()
    asked = count_parts(monkeypatch)
    longer = EvaluateConfig(new_tokens=9, block_size=32, blocks=4, attacks=())
    evaluate(candidates(root)[:1], material, tmp_path / "out", config=longer, resume=True)
    assert len(asked) == len({*asked}) > 5
    told = f"0 of {len(asked)} parts were answered before and are reused; 5 answers to other models, texts or settings"
    assert capsys.readouterr().err.splitlines()[0] == f"{told} are not"


def test_tests_of_ability_are_asked_anew_of_other_data_in_the_same_folder(root, material, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    data = ability.write_data(tmp_path / "data")
    config = EvaluateConfig(new_tokens=4, block_size=32, blocks=2, attacks=(), harness=Harness(str(data)))
    made = [checkpoint("baseline", root / "baseline")]

    def hits(output: str) -> Any:
        data_of = evaluate(made, material, tmp_path / output, config=config, resume=True).data
        assert [file["sha256"] for file in data_of["sources"]["harness"]] == [
            hashlib.sha256(Path(file["file"]).read_bytes()).hexdigest() for file in data_of["sources"]["harness"]
        ]
        return data_of["figures"]["baseline"]["harness_boolq"]["value"]

    with monkeypatch.context() as patch:
        patch.setattr(module, "reach_verdict", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            hits("out")
    boolq = next(data.glob("boolq.*"))
    before = hits("whole")
    boolq.write_text(re.sub(r'"label": ([01])', lambda found: f'"label": {1 - int(found[1])}', boolq.read_text()))
    assert hits("out") == 1 - before


@pytest.mark.parametrize("changed", [True, False])
def test_a_server_that_says_it_serves_another_model_is_asked_anew(
    root, material, endpoint, tmp_path, monkeypatch, changed
):
    endpoint.path = "/v1/completions"
    endpoint.script = lambda number, body: Answer(body={"choices": [{"text": "the sea"}]})
    endpoint.roots = {"tiny": "the/first"}
    asked = count_parts(monkeypatch)
    config = replace(SMALL, attacks=())

    def ask() -> None:
        served = server("served", endpoint.url, tokenizer=root / "baseline")
        evaluate([served], material, tmp_path / "out", config=config, resume=True)

    with monkeypatch.context() as patch:
        patch.setattr(module, "reach_verdict", lambda report: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask()
    first = len(asked)
    assert first > 5
    if changed:
        endpoint.roots = {"tiny": "the/second"}
    ask()
    assert len(asked) == first * (1 + changed)


def test_a_killed_process_is_taken_up(root, tmp_path):
    words = [sys.executable, "-m", "generic_logits", "evaluate", str(root / "baseline"), "--quick", "--json"]
    words += [
        "--forget",
        str(root / "forget.txt"),
        "--anchors",
        str(root / "anchors.json"),
        "-o",
        str(tmp_path / "out"),
    ]
    words += ["--retain", str(root / "retain"), "--attacks", "hint,relearning_whole"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "out.partial" / "parts"
    while process.poll() is None and len([*parts.glob("*.json")] if parts.exists() else []) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    before = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.json")}
    assert len(before) >= 3 and not (tmp_path / "out").exists()
    asked = {json.loads((parts / name).read_text())["key"]["part"]: name for name in before}
    time.sleep(0.05)
    done = subprocess.run([*words, "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)["settings"]["seconds"]["baseline"]
    assert {*asked} < {*seconds}
    assert Report.load(tmp_path / "out").data == json.loads(done.stdout)


# Models


def test_beside_a_model_only_the_baseline_is_in_memory_and_for_the_distance_alone(root, material, tmp_path):
    alive: list[Any] = []
    most = [0]

    def counted(candidate: Candidate) -> Candidate:
        def load() -> Any:
            import gc
            import weakref

            gc.collect()
            subject = candidate.load()
            alive.append(weakref.ref(subject.model))
            most[0] = max(most[0], sum(each() is not None for each in alive))
            return subject

        return Candidate(candidate.name, candidate.source, candidate.kind, load, fingerprint=candidate.name)

    several = [counted(checkpoint(f"model {number}", root / "gold")) for number in range(3)]
    config = EvaluateConfig(new_tokens=4, block_size=32, blocks=2, attacks=())
    evaluate(several, material, tmp_path / "out", config=config)
    assert len(alive) == 3 + 2 and most[0] == 2  # the baseline once more beside each of the others, for the distance


@pytest.mark.parametrize(
    ("text", "name", "kind", "source"),
    [
        ("{root}/gold", "gold", "checkpoint", "{root}/gold"),
        ("mine={root}/gold", "mine", "checkpoint", "{root}/gold"),
        ("org/model", "model", "checkpoint", "org/model"),
        ("http://host:8000/v1", "http://host:8000/v1", "server", "http://host:8000/v1"),
        ("http://host:8000/v1#tiny", "tiny", "server", "http://host:8000/v1"),
        ("s=http://host:8000/v1?key=1", "s", "server", "http://host:8000/v1?key=1"),
    ],
)
def test_models_are_written_as_sources_with_or_without_names(root, text, name, kind, source):
    made = read_candidate(text.format(root=root))
    assert (made.name, made.kind, made.source) == (name, kind, source.format(root=root))


def test_fingerprints_tell_models_apart(root):
    made = [*candidates(root), pair("alpha 3", root / "baseline", root / "reinforced", 3.0)]
    assert len({each.fingerprint for each in made}) == 4
    assert checkpoint("another name", root / "gold").fingerprint == made[2].fingerprint


# The command


def command(root: Path, output: Path, *words: str, models: tuple[str, ...] = ("baseline",)) -> list[str]:
    named = [str(root / each) if (root / each).exists() else each for each in models]
    usual = [
        "--forget",
        str(root / "forget.txt"),
        "--anchors",
        str(root / "anchors.json"),
        "-o",
        str(output),
        "--quick",
    ]
    return ["evaluate", *named, *usual, *words]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_the_command_prints_the_table_and_the_verdict(root, tmp_path, capsys):
    words = ["--retain", str(root / "retain"), "--gold", str(root / "gold"), "--no-attacks"]
    words += ["--reinforced", str(root / "reinforced"), "--alpha", "1", "--alpha", "3"]
    assert run(command(root, tmp_path / "out", *words)) == 0
    out, err = capsys.readouterr()
    for each in ("baseline", "alpha 1", "alpha 3", "gold", "Familiarity by", "attack", "not measured", "report.html"):
        assert each in out, each
    assert "The judge “rules” graded 69\N{NO-BREAK SPACE}% of 94 completions as a reader did" in out and " ±." in out
    assert [line.partition("]")[0] for line in err.splitlines()] == [f"[{number}/34" for number in range(1, 35)]
    roles = [(model["name"], model["role"], model["kind"]) for model in Report.load(tmp_path / "out").data["models"]]
    assert roles == [
        ("baseline", "baseline", "checkpoint"),
        ("alpha 1", "", "pair"),
        ("alpha 3", "", "pair"),
        ("gold", "gold", "checkpoint"),
    ]
    assert str(root) in (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    for passed_on in ("report.html", "report.md"):
        assert str(root.parent) not in (tmp_path / "out" / passed_on).read_text(encoding="utf-8")


def test_the_command_reads_every_corpus_from_another_field(root, tmp_path, capsys):
    words = ["--no-attacks"]
    for number, name in enumerate(("forget", "retain", "held-out", "unread", "unrelated")):
        lines = folders.prose(60 if name == "forget" else 30, seed=10 * number).split(". ")
        file = folders.text_file(
            tmp_path / f"{name}.jsonl", "".join(json.dumps({"body": line, "text": 1}) + "\n" for line in lines)
        )
        words += [f"--{name}", str(file)]
    assert run(command(root, tmp_path / "out", *words)) == 2
    assert "wanted a string in the field 'text'" in capsys.readouterr().err
    assert run(command(root, tmp_path / "out", *words, "--text-field", "body", "--join")) == 0
    capsys.readouterr()
    sources = Report.load(tmp_path / "out").data["sources"]
    opened = [sources["forget"], sources["held_out"], sources["unread"], sources["unrelated"]]
    for (file,) in (*opened, *sources["retain"].values()):
        assert file["text_field"] == "body" and file["joined"] is True


@pytest.mark.parametrize("columns", [60, 80, 120, 250])
def test_the_table_shows_intervals_and_what_lies_above_gold_and_breaks_no_number(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    data = reports.example() | {"left_out": {}, "judges": judges_on_record(demo_rules())}
    data["settings"]["seconds"] = {}
    data["attacks"]["hints"]["curves"]["distilled"][4]["cut"] = 9
    show(Report({**data, "verdict": reach_verdict(data)}), Path("out"))
    out = capsys.readouterr().out
    table, _, rest = out.partition("± the longer side")
    assert max(len(line) for line in out.splitlines()) <= columns
    cells = [cell.strip() for line in table.splitlines() for cell in line.split("│")]
    heads = [cell.strip() for line in table.splitlines() if "┃" in line for cell in line.split("┃")]
    assert [head for head in heads if head] == list(reports.NAMES)
    assert cells.count(".694 ±.069") == 1  # the baseline's verbatim continuation
    assert "168.9 ±23.6" in cells  # and perplexity of gradient ascent
    assert ".246 +.184" in cells and ".062" in cells and not any("+.000" in cell for cell in cells)
    assert (
        "Longer hints: Hints were shortened, as the context ended: 9 of 120 at 128 (words of the passage; distilled)."
        in rest.replace("\n", " ")
    )
    parts = table.count("┏")
    assert parts == {60: 4, 80: 2, 120: 2, 250: 1}[columns]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alpha", "1"], "wanted --reinforced with --alpha; got --alpha alone"),
        (["--reinforced", "{root}/reinforced"], "wanted --reinforced with --alpha; got --reinforced alone"),
        (["--harness", "--harness-data", "{root}/retain"], "arc_challenge.jsonl, arc_easy.jsonl, boolq.jsonl"),
        (["--gold", "{root}/nothing"], "got nothing at {root}/nothing"),
        (["--gold", "{root}/baseline"], "wanted models with names of their own; got baseline twice"),
        (["--prompts", "{root}/none.json"], "wanted a prompt file; got {root}/none.json"),
        (["--judge", "http://127.0.0.1:9/v1"], "wanted an endpoint at http://127.0.0.1:9/v1"),
    ],
)
def test_bad_input_is_answered_in_one_line(root, tmp_path, capsys, words, message):
    status = run(command(root, tmp_path / "out", *(word.format(root=root) for word in words)))
    err = capsys.readouterr().err
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert message.format(root=root) in err
    assert not [*tmp_path.iterdir()]


def shown_text(capsys: Any, data: dict[str, Any]) -> str:
    """What stands below the tables."""
    data = data | {"left_out": {}, "judges": judges_on_record(demo_rules())}
    data["settings"]["seconds"] = {}
    show(Report({**data, "verdict": reach_verdict(data)}), Path("out"))
    return capsys.readouterr().out.partition("± ")[2]


@pytest.mark.parametrize("columns", [40, 100])
def test_the_text_below_the_table_is_as_wide_as_the_terminal_and_hangs_behind_its_marks(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    data = reports.example()
    text = shown_text(capsys, data)
    assert max(map(len, text.splitlines())) <= columns < 2 * max(map(len, text.splitlines()))
    verdict = reach_verdict(data)
    warnings = [each for of_model in verdict["by_model"].values() for each in of_model["warnings"]]
    for mark, sentences in (("* ", verdict["sentences"]), ("  ! ", warnings)):
        assert len(sentences) > 3
        for sentence in sentences:
            words = map(re.escape, sentence.split(" "))  # not at no-break spaces
            gap = f"(?: |\n{' ' * len(mark)})"
            assert re.search(f"^{re.escape(mark)}{gap.join(words)}$", text, re.MULTILINE), sentence


def test_the_foot_of_the_table_names_gold_where_there_is_gold_and_attacks(capsys):
    data = reports.example()
    without = "the longer side of the 95\N{NO-BREAK SPACE}% interval.\n"
    assert shown_text(capsys, data).startswith(f"{without[:-2]}; behind an attack, what lies above gold.\n")
    assert shown_text(capsys, reports.without(data, "gold")).startswith(without)
    assert shown_text(capsys, {**data, "attacks": {}}).startswith(without)


ALONE = "got {option} alone; add what is missing, or leave {option} out"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge-model", "m"], f"wanted --judge beside --judge-model; {ALONE}"),
        (["--about", "Emma"], f"wanted --judge beside --about; {ALONE}"),
        (["--writer-model", "m"], f"wanted --writer beside --writer-model; {ALONE}"),
        (["--language", "German"], f"wanted --writer beside --language; {ALONE}"),
        (
            ["--language", "German", "--writer", "URL", "--no-attacks"],
            f"wanted the attack reword beside --lang.*; {ALONE}",
        ),
        (["--wordings", "a=b", "--attacks", "hint"], f"wanted the attack reword beside --wordings; {ALONE}"),
        (["--threshold", "0.0"], f"wanted --reinforced and --alpha beside --threshold; {ALONE}"),
        (["--space", "logits", "--alpha", "1"], f"wanted --reinforced and --alpha beside --space; {ALONE}"),
        (["--harness-limit", "3"], f"wanted --harness beside --harness-limit; {ALONE}"),
        (["--harness-data", "."], f"wanted --harness beside --harness-data; {ALONE}"),
        (["--harness-backend", "hf"], f"wanted --harness beside --harness-backend; {ALONE}"),
        (["--tokenizer", "gpt2"], f"wanted a server's address among the models beside --tokenizer; {ALONE}"),
        (["--text-field", "body"], f"wanted a corpus with records .* beside --text-field; {ALONE}"),
        (
            ["--no-attacks", "--attacks", "hint"],
            "wanted no --attacks with --no-attacks; got --attacks; leave it out: none",
        ),
        (["--attacks", ""], "wanted names of attacks with --attacks; got none; give --no-attacks to make none"),
        (["--attacks", " , "], "wanted names of attacks with --attacks; got none; give --no-attacks to make none"),
        (
            ["--attacks", "hint,guess"],
            "wanted attacks among relearning_little, .*, leak_at_k; got guess; check the names",
        ),
    ],
    ids=lambda each: each[0].strip("-") if isinstance(each, list) else "",
)
def test_an_option_that_would_change_nothing_is_refused_at_once(root, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.setattr("generic_logits.cli.options.prepare", lambda *_: pytest.fail("something was loaded"))
    assert run(command(root, tmp_path / "out", *words)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.match("error: " + message.format(option=words[0]), err), err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--dtype", "float32"], "--dtype"),
        (["--threshold", "0.1", "--alpha", "1"], "--threshold"),
    ],
)
def test_what_a_server_alone_does_not_take_is_refused(root, tmp_path, capsys, words, option):
    assert run(command(root, tmp_path / "out", *words, models=("http://127.0.0.1:9/v1",))) == 2
    assert f"beside {option}; got {option} alone" in capsys.readouterr().err


def test_no_library_is_loaded_for_the_help_or_for_a_wrong_option():
    calls = [["evaluate", "--help"]]
    for words in (["--attacks", "guess"], ["--judge-model", "m"], ["--text-field", "body"]):
        calls.append(["evaluate", "m", "--forget", "book.txt", "-o", "out", *words])
    code = f"""
import sys
from generic_logits.cli import main
for words, status in zip({calls!r}, [0, 2, 2, 2]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == status, (words, end.code)
assert not {{"torch", "transformers"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_help_and_the_documentation_name_every_attack(capsys, monkeypatch):
    assert of_command == tuple(ATTACKS)
    monkeypatch.setenv("COLUMNS", "250")
    assert run(["evaluate", "--help"]) == 0
    shown = capsys.readouterr().out
    documented = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert all(name in shown and f"| `{name}` |" in documented for name in ATTACKS)


def test_calibrate_refuses_a_field_that_no_corpus_has(root, tmp_path, capsys):
    words = ["calibrate", str(root / "baseline"), "--reinforced", str(root / "reinforced"), "--text-field", "body"]
    words += ["--forget", str(root / "forget.txt"), "--retain", str(root / "retain"), "-o", str(tmp_path / "out")]
    assert run(words) == 2
    assert "(.jsonl, .parquet) beside --text-field; got --text-field alone" in capsys.readouterr().err
    folders.text_file(tmp_path / "kept" / "more" / "a.jsonl", "")
    assert run([*words, "--retain", str(tmp_path / "kept")]) == 2
    assert "wanted a corpus with text in it; got only white space in" in capsys.readouterr().err


def test_calibrate_prints_the_choice_and_where_to_judge_it(root, tmp_path, capsys):
    words = ["calibrate", str(root / "baseline"), "--reinforced", str(root / "reinforced"), "--alpha", "1"]
    words += ["--forget", str(root / "forget.txt"), "--retain", str(root / "retain"), "-o", str(tmp_path / "out")]
    words += ["--anchors", str(root / "anchors.json"), "--space", "logits", "--familiarity", "0.9"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "--alpha " in out and "--space logits" in out and "frontier.svg" in out
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["reached"] is True
