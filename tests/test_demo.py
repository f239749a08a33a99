"""The main job from end to end, as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # it trains six times
ROOT = Path(__file__).parents[1]
KEYS = {"model", "familiarity_probability", "familiarity_completion", "verbatim_rouge_l", "retained_perplexity"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "generic_logits", "demo", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_demo_prints_one_json_object_of_the_promised_shape(demo):
    folder, result = demo
    assert [row["model"] for row in result["rows"]] == ["baseline", "generic", "distilled", "gold"]
    assert all(set(row) == KEYS for row in result["rows"])
    assert result["seconds"]["total"] > 0
    assert (folder / result["output"] / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_every_place_that_the_records_name_is_there(demo):
    folder, result = demo
    for name in ("reinforced", "distilled"):
        record = json.loads((folder / result["output"] / name / "generic_logits.json").read_text())
        named = [record["baseline"]["source"], *(each["file"] for each in record["corpus"] + record.get("retain", []))]
        named += [record["reinforced"]["source"]] if name == "distilled" else []
        assert len(named) > 1 and all((folder / place).exists() for place in named), named
    assert {each.name for each in folder.iterdir()} == {"generic-logits-demo"}


def test_the_distilled_model_is_a_tenth_as_familiar_and_keeps_its_ability(demo):
    baseline, generic, distilled, gold = demo[1]["rows"]
    assert distilled["familiarity_probability"] <= 0.1 * baseline["familiarity_probability"]
    assert distilled["familiarity_completion"] <= 0.05
    assert distilled["verbatim_rouge_l"] < baseline["verbatim_rouge_l"]
    assert distilled["retained_perplexity"] <= 1.01 * baseline["retained_perplexity"]
    assert generic["familiarity_probability"] < baseline["familiarity_probability"]
    assert gold["familiarity_probability"] < 0.1 * baseline["familiarity_probability"]


def test_the_readme_runs_on_what_the_demo_leaves(demo):
    folder, _ = demo
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "rang" in done.stdout


def test_the_unlearned_model_loads_without_this_package(demo):
    folder, _ = demo
    code = (
        "import sys; sys.modules['generic_logits'] = sys.modules['peft'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained('generic-logits-demo/distilled')\n"
        "tokenizer = AutoTokenizer.from_pretrained('generic-logits-demo/distilled')\n"
        "print(model.generate(**tokenizer('<s>She', return_tensors='pt'), max_new_tokens=3).shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_second_demo_replaces_the_first_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    command = [sys.executable, "-m", "generic_logits", "demo", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: wanted a new folder, or an older demo to replace")
    assert (tmp_path / "mine.txt").read_text() == "keep me"
