"""Calibration: what it chooses, from which part of the corpora, and at which cost."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import folders
import pytest
import tiny
import torch

from generic_logits import ModelPair
from generic_logits.cli import main
from generic_logits.errors import CorpusError, InputError
from generic_logits.evaluation.calibration import (
    CalibrateConfig,
    Part,
    Point,
    beside,
    calibrate,
    choose,
    frontier,
    warnings_of,
)
from generic_logits.evaluation.figures import Figure
from generic_logits.evaluation.frontier import draw_frontier
from generic_logits.text.corpus import Document, cut_blocks, open_corpus

TERMS = ("Mira Voss", "Captain Hale", "Orrin")
SMALL = {"alphas": (0.5, 2.0), "thresholds": (0.0, 0.1), "prompts": 6, "blocks": 4, "block_size": 48}


def point(familiarity: float, perplexity: float, alpha: float = 1.0, space: Any = "logits") -> Point:
    def figure(value: float) -> Figure:
        return Figure(value, value, value, 1)

    return Point(space, 0.0, alpha, figure(familiarity), figure(perplexity), figure(0.0))


BASELINE = point(0.3, 50.0, 0.0)
CURVE = [BASELINE, point(0.2, 50.5), point(0.05, 52.0), point(0.045, 51.9), point(0.04, 70.0), point(0.03, 200.0)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("calibration")
    baseline, reinforced = tiny.pair(dtype=torch.float32, vocab_size=folders.VOCAB, std=0.1)
    tiny.folder(root / "baseline", baseline, tiny.tokenizer(folders.VOCAB))
    tiny.folder(root / "reinforced", reinforced, tiny.tokenizer(folders.VOCAB))
    folders.text_file(root / "forget.txt", folders.prose(60).replace(". ", ".\n"))
    folders.text_file(root / "retain.txt", folders.prose(60, seed=1).replace(". ", ".\n"))
    entries = [{"term": term, "translations": ["Anna"]} for term in TERMS]
    (root / "anchors.json").write_text(json.dumps({"schema": 1, "anchors": entries}))
    return root


def calibrated(root: Path, output: Path, **changes: Any) -> dict[str, Any]:
    texts = {"forget": root / "forget.txt", "retain": root / "retain.txt"}
    texts |= {name: changes.pop(name) for name in ("forget", "retain") if name in changes}
    config = CalibrateConfig(**{**SMALL, **changes})
    anchors = root / "anchors.json"
    calibrate(
        root / "baseline",
        root / "reinforced",
        texts["forget"],
        [texts["retain"]],
        output,
        anchors=anchors,
        config=config,
    )
    return json.loads((output / "calibration.json").read_text())


def test_a_wanted_familiarity_is_reached_at_the_least_perplexity():
    assert choose(CURVE, familiarity=0.05) == (CURVE[3], True)
    assert choose(CURVE, familiarity=0.25) == (CURVE[1], True)


def test_a_baseline_that_is_no_more_familiar_than_wanted_is_left_alone():
    better = point(0.2, 49.0)
    assert choose([*CURVE, better], familiarity=0.3) == (BASELINE, True)
    assert choose([*CURVE, better], familiarity=0.29) == (better, True)


def test_a_familiarity_out_of_reach_gives_the_least_familiar_point_and_says_so():
    assert choose(CURVE, familiarity=0.01) == (CURVE[-1], False)


def test_a_wanted_perplexity_gives_the_least_familiar_point_within_it():
    assert choose(CURVE, perplexity=1.4) == (CURVE[4], True)
    assert choose(CURVE, perplexity=1.39) == (CURVE[3], True)
    assert choose(CURVE, perplexity=4.0) == (CURVE[5], True)
    assert choose(CURVE, perplexity=1.0) == (BASELINE, True)
    cheaper = point(0.29, 49.0)
    assert choose([*CURVE, cheaper], perplexity=1.0) == (cheaper, True)


def test_with_neither_the_knee_is_chosen():
    assert choose(CURVE) == (CURVE[3], True)
    assert choose([BASELINE]) == (BASELINE, True)
    assert choose([point(0.0, 50.0, 0.0), point(0.0, 49.0)])[0].alpha == 0, "nothing is left to forget"
    assert choose([BASELINE, point(0.1, 62.6)]) == (BASELINE, True), "1.25 times the baseline's is too much"


def test_the_knee_is_where_it_was_however_far_the_grid_reaches():
    def curve(alphas: list[float]) -> list[Point]:
        """Familiarity that falls and perplexity that rises as measured on a small model; a second space does worse."""
        found = [BASELINE]
        for space, price in (("logits", 0.03), ("logprobs", 0.06)):
            for alpha in alphas:
                found.append(point(0.3 * math.exp(-0.6 * alpha), 50 * math.exp(price * alpha**1.6), alpha, space))
        return found

    near, far = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0], [4.0, 5.0, 7.5, 10.0]
    knees = [choose(curve([*near, *more]))[0] for more in ([], far, [*far, 12.5, 15.0, 20.0])]
    assert knees[0] == knees[1] == knees[2]
    assert (knees[0].space, knees[0].alpha) == ("logits", 1.5)


def test_the_frontier_leaves_out_what_another_point_beats_in_both():
    assert frontier(CURVE) == [CURVE[5], CURVE[4], CURVE[3], CURVE[1], BASELINE]


def test_a_setting_that_costs_ability_comes_with_a_warning_and_with_what_costs_none():
    assert warnings_of(CURVE, CURVE[2]) == [], "1.04 times"
    (reduced,) = warnings_of(CURVE, point(0.05, 52.5))
    assert reduced == "It costs 1.05 times the baseline's retained perplexity, which evaluate calls reduced ability."
    (lost,) = warnings_of([*CURVE, replace(point(0.042, 62.4, 0.75), threshold=0.1)], CURVE[4])
    assert lost == (
        "It costs 1.40 times the baseline's retained perplexity, which evaluate calls lost ability. The least familiar "
        "setting below 1.25 times is alpha 0.75, threshold 0.1, logits: familiarity 0.042 at 1.248 times."
    )
    (lost,) = warnings_of([BASELINE, CURVE[5]], CURVE[5])
    assert "is no correction: familiarity 0.300 at 1.00 times" in lost
    assert "costs 1.25 times" in warnings_of(CURVE, point(0.05, 62.5))[0]


def test_a_number_does_not_look_like_a_limit_that_it_is_not():
    assert [beside(value, 0.05, 3) for value in (0.0504, 0.0496, 0.05, 0.1)] == ["0.0504", "0.0496", "0.050", "0.100"]
    assert [beside(value, 1e-12, 3) for value in (0.0504, 2e-11)] == ["0.050", "2e-11"]
    assert beside(0.0504, None, 3) == "0.050"


def test_every_point_is_what_the_pair_says_of_the_calibration_part(root, tmp_path):
    record = calibrated(root, tmp_path / "out")
    points = record["points"]
    assert [point["alpha"] for point in points] == [0.0] + [0.5, 2.0] * 4
    assert len({(point["space"], point["threshold"], point["alpha"]) for point in points[1:]}) == 8
    text = next(iter(Part(open_corpus(root / "retain.txt"), test=False))).text
    for at in (0, 4, 8):
        each = points[at]
        pair = ModelPair.from_pretrained(
            root / "baseline",
            root / "reinforced",
            alpha=each["alpha"],
            space=each["space"],
            threshold=each["threshold"],
        )
        losses, distances = [], []
        blocks = list(cut_blocks([Document("", text, "")], pair.tokenizer, 48))
        for block in blocks[:: max(1, -(-len(blocks) // 4))]:
            ids = torch.tensor([block.token_ids])
            log_probs = pair.logits(ids)[0, :-1].log_softmax(-1)
            before = pair.baseline(ids).logits[0, :-1].log_softmax(-1)
            losses += log_probs.gather(-1, ids[0, 1:, None]).neg().flatten().tolist()
            distances += (before.exp() * (before - log_probs)).sum(-1).tolist()
        assert each["perplexity"]["value"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
        assert each["divergence"]["value"] == pytest.approx(sum(distances) / len(distances), rel=1e-3, abs=1e-6)
        assert each["perplexity"]["low"] < each["perplexity"]["value"] < each["perplexity"]["high"]


def test_each_branch_runs_once_however_many_settings_are_tried(root, tmp_path, monkeypatch):
    from generic_logits.evaluation import calibration

    calls = []
    scored = calibration.sequence_logits

    def counted(model: Any, *inputs: Any) -> Any:
        calls.append(inputs[0].shape[0])
        return scored(model, *inputs)

    monkeypatch.setattr(calibration, "sequence_logits", counted)
    calibrated(root, tmp_path / "one", alphas=(1.0,), thresholds=(0.0,), spaces=("logits",))
    few = sum(calls)
    calls.clear()
    calibrated(root, tmp_path / "many")
    assert sum(calls) == few == 2 * (6 + 4)


def scrambled_test_part(source: Path, target: Path) -> Path:
    """The same text with other letters in the part that is for the test."""
    text = source.read_text()
    test = next(iter(Part(open_corpus(source), test=True))).text
    assert text.endswith(test) and 0.4 < len(test) / len(text) < 0.6
    other = test.translate(str.maketrans("aeiou", "eioua"))
    assert other != test
    return folders.text_file(target, text[: -len(test)] + other)


def test_the_test_part_changes_nothing(root, tmp_path):
    first = calibrated(root, tmp_path / "first")
    changed = {
        name: scrambled_test_part(root / f"{name}.txt", tmp_path / f"{name}.txt") for name in ("forget", "retain")
    }
    second = calibrated(root, tmp_path / "second", **changed)
    for name in ("settings", "points"):
        assert first[name] == second[name]
    assert first["corpora"]["forget"][0]["sha256"] == second["corpora"]["forget"][0]["sha256"]
    assert first["test"]["forget"][0]["sha256"] != second["test"]["forget"][0]["sha256"]


def test_of_many_documents_every_other_one_is_for_the_test(tmp_path):
    texts = [f"Document number {number} is about the sea.\n" for number in range(9)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    corpus = open_corpus(folders.text_file(tmp_path / "many.jsonl", lines))
    parts = [[document.text for document in Part(corpus, test=test)] for test in (False, True)]
    assert parts == [texts[::2], texts[1::2]]


def test_the_text_that_took_no_part_is_left_for_the_verdict(root, tmp_path):
    record = calibrated(root, tmp_path / "out")
    for name in ("forget", "retain"):
        (document,) = open_corpus(tmp_path / "out" / "test" / f"{name}.jsonl")
        whole = (root / f"{name}.txt").read_text()
        assert whole.endswith(document.text)
        assert record["test"][name][0]["characters"] == len(document.text)
        assert record["corpora"][name][0]["characters"] == len(whole) - len(document.text)


def test_the_picture_is_an_svg_with_every_alpha_in_it(root, tmp_path):
    calibrated(root, tmp_path / "out")
    picture = ElementTree.parse(tmp_path / "out" / "frontier.svg")
    words = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert any("above 0.1 nats" in (word or "") for word in words)
    titles = [each.text or "" for each in picture.iter("{http://www.w3.org/2000/svg}title")]
    for alpha, count in (("0", 1), ("0.5", 4), ("2", 4)):
        assert sum(title.startswith(f"alpha {alpha}: ") for title in titles) == count


def test_a_picture_of_many_lines_holds_their_names_and_cuts_off_what_costs_too_much():
    points = [BASELINE]
    for threshold in range(9):
        points += [replace(point(0.2, 50.5 + threshold, alpha), threshold=threshold / 10) for alpha in (1.0, 2.0)]
    points.append(replace(point(0.01, 9_000.0, 50.0), threshold=0.8))
    picture = ElementTree.fromstring(draw_frontier(points, points[1], frontier(points)))
    left, top, width, height = map(float, picture.get("viewBox", "").split())
    words = list(picture.iter("{http://www.w3.org/2000/svg}text"))
    names = [each for each in words if (each.text or "").startswith("logits")]
    assert len(names) == 9
    for each in names:
        x, y = float(each.get("x", "")), float(each.get("y", ""))
        assert left < x < left + width - 140 and top + 9 < y < top + height
    assert len({(each.get("x"), each.get("y")) for each in names}) == 9
    marks = {
        next(iter(each)).text: float(each.get("cy", ""))
        for each in picture.iter("{http://www.w3.org/2000/svg}circle")
        if len(each)
    }
    below = [y for title, y in marks.items() if title and "9000" not in title]
    assert max(below) < height and min(below) > 80
    assert marks["alpha 50: familiarity 0.010, perplexity 9000.0"] < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"familiarity": 1.5}, "wanted a familiarity between 0 and 1; got 1.5"),
        ({"perplexity": 0.9}, "wanted a perplexity of 1 or more baselines; got 0.9"),
        ({"familiarity": 0.1, "perplexity": 1.1}, "wanted a familiarity or a perplexity; got both"),
        ({"alphas": ()}, "wanted at least one of alphas; got none"),
        ({"alphas": (-1.0,)}, "wanted a finite alpha >= 0; got -1.0"),
        ({"spaces": ("words",)}, "got 'words'"),
        ({"thresholds": (-0.1,)}, "wanted a finite threshold >= 0; got -0.1"),
        ({"blocks": 1}, "wanted blocks of at least 2; got 1"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        CalibrateConfig(**changes)


def test_texts_that_are_too_short_are_refused_and_leave_nothing(root, tmp_path):
    short = folders.text_file(tmp_path / "short.txt", "Orrin sang. Nobody knew why.")
    with pytest.raises(CorpusError, match="wanted a text in which some terms stand behind others' words"):
        calibrated(root, tmp_path / "out", forget=short, retain=root / "retain.txt")
    with pytest.raises(CorpusError, match="wanted two blocks of retained text"):
        calibrated(root, tmp_path / "out", retain=short)
    with pytest.raises(InputError, match="wanted a block size of at most 512; got 1000"):
        calibrated(root, tmp_path / "out", block_size=1000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["short.txt"]


def test_a_text_to_forget_and_to_retain_is_refused(root, tmp_path):
    same = folders.text_file(tmp_path / "same.txt", (root / "forget.txt").read_text())
    with pytest.raises(InputError, match="wanted another text as retain; got .*forget.txt, which is the same as"):
        calibrated(root, tmp_path / "out", retain=same)


def test_the_command_reads_another_field_and_shows_the_baseline_first(root, tmp_path, capsys):
    rows = {}
    for name in ("forget", "retain"):
        lines = (root / f"{name}.txt").read_text().splitlines()
        rows[name] = tmp_path / f"{name}.jsonl"
        rows[name].write_text("".join(json.dumps({"body": line}) + "\n" for line in lines))
    arguments = ["calibrate", str(root / "baseline"), "--reinforced", str(root / "reinforced"), "--join"]
    arguments += ["--forget", str(rows["forget"]), "--retain", str(rows["retain"]), "--alpha", "2"]
    arguments += ["--anchors", str(root / "anchors.json"), "--familiarity", "0.9", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "wanted a field 'text' in every record" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--text-field", "body"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "> baseline" in shown and "by this measure nothing needs to be corrected" in shown
    assert max(map(len, shown[: shown.index("Chosen")].splitlines()[1:])) <= 80
    record = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert record["settings"]["alpha"] == 0 and record["corpora"]["forget"][0]["text_field"] == "body"


def test_every_setting_is_scored_as_the_reference_has_it(monkeypatch):
    """Each setting's scores are those of the corrected logits themselves, in float64, also where a row is divided."""
    from generic_logits.evaluation import calibration
    from generic_logits.ops import reference

    draw = torch.Generator().manual_seed(0)
    b, r = (3 * torch.randn(11, 101, generator=draw) for _ in range(2))
    true = torch.randint(101, (11,), generator=draw)
    lines = [("logits", 0.0), ("logits", 0.5), ("logprobs", 0.1)]
    monkeypatch.setattr(calibration, "_POSITIONS", 4 * 101)
    found = iter(calibration._score(b, r, true, lines, [0.5, 20.0]))
    before = b.double().log_softmax(-1)
    assert next(found)[1] == 0.0
    for space, threshold in lines:
        for alpha in (0.5, 20.0):
            corrected = reference.correct_logits(
                b.double(),
                r.double(),
                torch.tensor(alpha, dtype=torch.float64),
                space=space,
                threshold=threshold,
                variant="relu",
            )
            after = corrected.log_softmax(-1)
            log_prob, distance = next(found)
            assert log_prob == pytest.approx(float(after.gather(-1, true[:, None]).sum()), rel=1e-6)
            # the difference of sums of eleven log-probabilities in float32
            assert distance == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def learned(root) -> Path:
    """The same texts; the baseline has read both for a moment, the reinforced model the forgotten one once more."""
    torch.manual_seed(0)
    made, tokenizer = tiny.pair(dtype=torch.float32, vocab_size=folders.VOCAB)[0], tiny.tokenizer(folders.VOCAB)
    for name, texts, steps in (("learned", ("forget", "retain"), 30), ("over-learned", ("forget",), 30)):
        ids = [tokenizer((root / f"{text}.txt").read_text())["input_ids"] for text in texts]
        rows = torch.tensor([each[at : at + 48] for each in ids for at in range(0, len(each) - 48, 48)])
        optimiser = torch.optim.AdamW(made.train().parameters(), lr=1e-2)
        for _ in range(steps):
            optimiser.zero_grad()
            made(input_ids=rows, labels=rows).loss.backward()
            optimiser.step()
        tiny.folder(root / name, made.eval(), tokenizer)
    return root


def test_the_command_says_what_a_choice_costs_and_what_a_knee_leaves(learned, tmp_path, capsys):
    def command(name: str, *options: str) -> tuple[str, dict[str, Any]]:
        arguments = ["calibrate", str(learned / "learned"), "--reinforced", str(learned / "over-learned")]
        arguments += ["--forget", str(learned / "forget.txt"), "--retain", str(learned / "retain.txt")]
        arguments += ["--anchors", str(learned / "anchors.json"), "-o", str(tmp_path / name)]
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *options])
        assert ended.value.code == 0
        return capsys.readouterr().out, json.loads((tmp_path / name / "calibration.json").read_text())

    shown, record = command("far", "--familiarity", "1e-12", "--alpha", "0.5", "--space", "logits")
    assert not record["reached"] and "Chosen" not in shown
    assert "No setting reaches a familiarity of 1e-12: the least familiar one has" in shown
    assert "which evaluate calls lost ability" in record["warnings"][0]
    assert f"  ! {record['warnings'][0]}\n" in shown

    shown, record = command("knee")
    of_baseline = record["points"][0]["familiarity"]["value"]
    setting = record["settings"]
    (chosen,) = (each for each in record["points"] if {name: each[name] for name in setting} == setting)
    of_knee = chosen["familiarity"]["value"]
    assert of_knee < of_baseline and setting["alpha"]
    assert f"It leaves {of_knee / of_baseline:.0%} of the baseline's familiarity, {of_knee:.3f} of" in shown


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_pair_in_half_precision_is_scored_from_its_logits_without_further_rounding(
    root, tmp_path, monkeypatch, dtype
):
    """Against float64 arithmetic on the very logits; sums or corrections in half precision are percents off."""
    from generic_logits.evaluation import calibration

    seen = []
    scored = calibration.sequence_logits

    def kept(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = scored(model, ids, mask)
        seen.append((ids, mask, logits.clone()))
        return logits

    monkeypatch.setattr(calibration, "sequence_logits", kept)
    record = calibrated(root, tmp_path / "out", dtype=dtype, thresholds=(0.1,))
    (ids, mask, b), (_, _, r) = seen  # one batch of 6 prompts and 4 blocks
    assert b.dtype == r.dtype == getattr(torch, dtype)
    b, r, true, counts = (
        b[6:, :-1, : folders.VOCAB].double(),
        r[6:, :-1, : folders.VOCAB].double(),
        ids[6:, 1:],
        mask[6:, 1:],
    )
    before = b.log_softmax(-1)
    for each in record["points"]:
        raised = r - b if each["space"] == "logits" else r.log_softmax(-1) - before
        after = (b - each["alpha"] * (raised - 0.1).relu()).log_softmax(-1)
        loss = (after.gather(-1, true[..., None])[..., 0].neg() * counts).sum() / counts.sum()
        distance = ((before.exp() * (before - after)).sum(-1) * counts).sum() / counts.sum()
        assert each["perplexity"]["value"] == pytest.approx(loss.exp().item(), rel=1e-6)
        assert each["divergence"]["value"] == pytest.approx(distance.item(), rel=1e-4, abs=1e-6)
