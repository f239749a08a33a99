"""The report's files: what is refused, and that JSON, Markdown and page hold what was measured, unrun."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import pytest
from reports import example, lens, with_cheater, without

from generic_logits.errors import InputError, OutputError
from generic_logits.evaluation.agreement import demo_rules, judges_on_record
from generic_logits.evaluation.report import FILES, Report
from generic_logits.evaluation.verdict import reach_verdict


def finished(report: dict[str, Any] | None = None) -> dict[str, Any]:
    report = report or example()
    return {**report, "verdict": reach_verdict(report)}


def changed(path: str, value: Any) -> dict[str, Any]:
    """A finished report with one value changed; the path's parts are keys and indices."""
    report = finished({**example(), "lens": lens()})
    *before, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    holder: Any = report
    for part in before:
        holder = holder[part]
    holder[last] = value
    return report


def test_a_report_comes_back_from_its_folder_and_from_its_file(tmp_path):
    report = Report(finished({**example(), "lens": lens()}))
    report.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(FILES)
    assert Report.load(tmp_path / "new" / "folder") == report
    assert Report.load(tmp_path / "new" / "folder" / "report.json") == report


def test_saving_replaces_whole_files_and_leaves_nothing_beside(tmp_path):
    for report in (finished(), finished(with_cheater(example()))):
        Report(report).save(tmp_path)
    assert "cheater" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_part(tmp_path, monkeypatch):
    Report(finished()).save(tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="wanted a folder that can be written; got .*No space left"):
        Report(finished(with_cheater(example()))).save(tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_file_in_the_folders_place_is_one_clear_line(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="wanted a folder that can be written; got .*taken"):
        Report(finished()).save(tmp_path / "taken")


def test_a_missing_report_and_one_that_is_no_json_are_clear(tmp_path):
    with pytest.raises(InputError, match="wanted a report; got .*No such file"):
        Report.load(tmp_path / "none.json")
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="wanted a report in JSON; got"):
        Report.load(tmp_path)


def test_a_newer_schema_asks_for_a_newer_program():
    with pytest.raises(InputError, match="wanted a report of schema 1; got schema 2; update generic-logits to read it"):
        Report({**finished(), "schema": 2, "news": []})


@pytest.mark.parametrize("data", [None, [], {}, {"schema": "1"}, {"schema": True}])
def test_what_is_no_report_is_refused(data):
    with pytest.raises(InputError, match="wanted a report of schema 1"):
        Report(data)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("figures/gold/kl_retained/value", "0.1", r"at \.figures\.gold\.kl_retained\.value"),
        ("figures/gold/kl_retained/count", 0, "at .figures.gold.kl_retained.count"),
        ("figures/gold/kl_retained/value", float("nan"), "a number that is not finite"),
        ("attacks/hints/curves/gold/0/low", float("inf"), "a number that is not finite"),
        ("models/1/role", "silver", r"at \.models\[1\]\.role"),
        ("models/1/name", "baseline", "two models named 'baseline'"),
        ("models/1/role", "baseline", "two models as baseline"),
        ("figures/nobody", {}, "'nobody' in figures, which is no model"),
        ("attacks/hints/curves/nobody", [], "'nobody' in attack 'hints', which is no model"),
        ("completions/0/by_model/nobody", {"text": "", "grade": 0}, "'nobody' in completion 0, which is no model"),
        ("attacks/hints/curves/gold/0/cut", -1, "at .attacks.hints.curves.gold.0..cut"),
        ("completions/0/by_model/gold/grade", 4, "at .completions.0..by_model.gold.grade"),
        ("measures/repetition/format", ".3g", "at .measures.repetition.format"),
        ("figures/gold/invented", {"value": 1, "low": 1, "high": 1, "count": 1}, "which is not described"),
        ("lens/passages/0/tokens/3/true", 99, "points at nothing"),
        ("lens/passages/0/tokens/3/top/0/0", 9999, "points at nothing"),
        ("lens/passages/0/tokens/3/top/0", [1, 2], "is too short"),
        ("verdict", {"sentences": []}, "'by_model' is a required property"),
    ],
)
def test_a_fault_is_told_with_its_place(path, value, told):
    with pytest.raises(InputError, match=told) as error:
        Report(changed(path, value))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_markdown_has_verdict_figures_and_attacks():
    data = finished()
    text = Report(data).markdown()
    assert text.startswith("## Evaluation\n") and text.endswith(".\n")
    for wanted in (
        "* “distilled” knows no more of the text than the gold model",
        "**gradient ascent.**",
        "* Warning: It lost ability.",
        "| Perplexity of retained text ↓ | 96.8 (83.2 – 110.4) | 93.2 (80.2 – 106.2) |",
        "### Attacks\n\nIn brackets: 95 % intervals, and how far above the gold model under the same attack.\n",
        "#### Relearning\n",
        "| 80 | 0.312 (0.261 – 0.363; +0.250) | 0.062 (0.036 – 0.088) |",
        "; \N{MINUS SIGN}0.028) |",
    ):
        assert wanted in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables if "Perplexity" in line} == {len(data["models"]) + 2}


def test_markdown_says_what_gold_shows_only_where_there_is_gold():
    text = Report(finished(without(example(), "gold"))).markdown()
    assert "above the gold model" not in text


def test_hints_that_the_context_cut_short_are_told_once_for_the_models_that_share_it():
    data = finished()
    assert "shortened" not in Report(data).markdown()
    curves = data["attacks"]["hints"]["curves"]
    for name, curve in curves.items():
        curve[3]["cut"], curve[4]["cut"] = 7 if name != "distilled" else 0, 120
    others = "baseline, gold, generic α=2, generic α=5, gradient ascent"
    assert (
        "\nHints were shortened, as the context ended: 7 of 120 at 64, 120 of 120 at 128 (words of the passage; "
        f"{others}).\n\n"
        "Hints were shortened, as the context ended: 120 of 120 at 128 (words of the passage; distilled).\n"
    ) in Report(data).markdown()
    for curve in curves.values():
        curve[3]["cut"] = 0
    assert "ended: 120 of 120 at 128 (words of the passage; all models).\n" in Report(data).markdown()


def test_the_judges_agreement_is_told_in_words_and_may_be_absent():
    assert "Judges" not in Report(finished()).markdown()
    record = judges_on_record(demo_rules())
    text = Report(finished({**example(), "judges": record})).markdown()
    assert "\n### Judges of completions\n\n* The judge “rules” graded 69\N{NO-BREAK SPACE}% of 94 completions" in text


def test_markdown_shows_what_was_not_measured_as_a_dash():
    data = finished()
    del data["figures"]["gold"]["kl_retained"]
    (row,) = [line for line in Report(data).markdown().splitlines() if line.startswith("| Distance")]
    assert row.split(" | ")[2] == "–"


def test_what_was_left_out_is_told_with_its_reason():
    left_out = {"": {"questions": "no --questions"}, "gold": {"Quantisation": "no room"}}
    text = Report(finished({**example(), "left_out": left_out})).markdown()
    assert "### Not measured\n\n* questions: no --questions\n* Quantisation of gold: no room\n" in text
    with pytest.raises(InputError, match="'nobody' in left_out, which is no model"):
        Report(finished({**example(), "left_out": {"nobody": {}}}))


def test_names_of_others_break_neither_markdown_nor_the_page():
    evil = "a|b\n# <b>`</script><script>alert(1)</script>{{ data }}"
    report = json.loads(json.dumps(example()).replace('"distilled"', json.dumps(evil)))
    made = Report(finished(report))
    text, page = made.markdown(), made.page()
    assert not re.search(r"(?<!\\)[<`]", text) and "\n# " not in text
    assert page.count("<script") == page.count("</script>") == 2
    assert "alert(1)" in page and "<b>" not in page


def test_the_page_stands_alone_and_lets_nothing_else_run():
    page = Report(finished({**example(), "lens": lens()})).page()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page) and "@import" not in page and "url(" not in page
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert re.fullmatch(r"default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+'", policy)


def test_the_page_holds_the_report_and_its_text():
    data = finished({**example(), "lens": lens()})
    page = Report(data).page()
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(held) == data
    assert "<noscript>" in page and "| Repetition ↓ |" in page


def with_paths() -> dict[str, Any]:
    """A report as one is made from folders all over a machine, and from a server that wants a password."""
    data = example()
    pairs = ["/home/ada/base with ./lora", "/home/ada/base with lent/deep/lora", "../other"]
    served = "https://ada:secret@host:8000/v1?key=hush"
    sources = ["/home/ada/base", "org/gold", *pairs, "/home/ada/base-2", served]
    for model, source in zip(data["models"], sources, strict=True):
        model["source"] = source
    data["sources"] = {
        "forget": [{"file": "/home/ada/books/emma.txt", "sha256": "a/b"}],
        "retain": {"one": [{"file": "texts/one.txt"}], "two": [{"file": "/mnt/one.txt"}]},
        "questions": {"address": "http://ada:secret@writer/v1", "name": "org/writer"},
    }
    data["settings"] |= {"harness": {"data": "/home/ada/seven"}, "judge": {"name": "rules"}}
    data["left_out"] = {"": {"questions": "nothing at /home/ada/base/tokenizer.json or /home/ada/base-2."}}
    data = json.loads(json.dumps(data).replace('"gradient ascent"', f'"{served}"'))
    data["completions"][0]["by_model"]["gold"]["text"] = " I live in /home/ada/base"
    return data


def test_the_files_that_are_passed_on_name_no_folder_and_no_password(tmp_path):
    data = finished(with_paths())
    Report(data).save(tmp_path)
    assert Report.load(tmp_path).data == data  # the file for programs is complete
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    said = '" I live in /home/ada/base"'
    for private in ("/home", "ada", "books", "lent", "texts/", "/mnt", "./", "secret", "hush"):
        assert private not in page.replace(said, "") and private not in text, private
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    shared = json.loads(held)
    sources = [model["source"] for model in shared["models"]]
    assert sources[:4] == ["base", "org/gold", "base with lora", "base with lora (2)"]
    assert sources[4:] == ["other", "base-2", "https://host:8000/v1"]
    assert shared["sources"]["forget"] == [{"file": "emma.txt", "sha256": "a/b"}]
    assert [files[0]["file"] for files in shared["sources"]["retain"].values()] == ["one.txt", "one.txt (2)"]
    assert shared["sources"]["questions"] == {"address": "http://writer/v1", "name": "org/writer"}
    assert shared["left_out"] == {"": {"questions": "nothing at base/tokenizer.json or base-2."}}
    named = [*shared["figures"], *shared["verdict"]["by_model"], *shared["completions"][0]["by_model"]]
    assert {*named} <= {model["name"] for model in shared["models"]} and "https://host:8000/v1" in named
    assert said in page and "https://host:8000/v1" in text
    Report(shared)  # still one that contradicts itself nowhere


def test_two_servers_of_one_address_stay_two_models():
    named = json.dumps(example()).replace('"distilled"', '"http://host/v1"')
    data = json.loads(named.replace('"gradient ascent"', '"http://a@host/v1"'))
    data["models"][-1]["source"] = "http://a@host/v1"
    page = Report(finished(data)).page()
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    names = [model["name"] for model in json.loads(held)["models"]]
    assert names[-2:] == ["http://host/v1", "http://host/v1 (2)"]


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    data = deepcopy(finished())
    data["completions"][0]["by_model"]["distilled"]["text"] = "half \ud83d"
    Report(data).save(tmp_path)
    assert "half ?" in (tmp_path / "report.json").read_text(encoding="utf-8")
