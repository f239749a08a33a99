"""The whole offline road: what it leaves, what each round is made from, and that it goes on from wherever it died."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer

from generic_logits import DistillConfig, ReinforceConfig, distill, reinforce
from generic_logits._record import describe_file, weights_fingerprint
from generic_logits.errors import CorpusError, InputError, OutputError
from generic_logits.models.scoring import target_probability
from generic_logits.text.anchors import Anchor, Anchors
from generic_logits.training import unlearning as module
from generic_logits.training.target_store import TargetStore
from generic_logits.training.targets import compute_targets
from generic_logits.training.unlearning import UnlearnConfig, settings_behind, unlearn

BOTH = {"block_size": 32, "batch_size": 4, "lora_rank": 2, "learning_rate": 1e-2, "epochs": 1, "save_steps": 2}
NAMES = [
    Anchor(term="Mira Voss", translations=("Anna Bell", "Ruth Lane")),
    Anchor(term="Orrin", translations=("Tom",)),
]
ORDINARY = {"README.md", "anchors.json", "config.json", "generation_config.json", "generic_logits.json"}
ORDINARY |= {"model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A baseline, a text, ordinary texts, and a dictionary."""
    root = tmp_path_factory.mktemp("unlearn")
    folders.model_folder(root / "baseline")
    folders.text_file(root / "book.txt", folders.prose(8))
    folders.text_file(root / "others" / "kept.txt", "the old house had seven windows, and nobody opened the door. " * 6)
    folders.text_file(root / "prompts.json", json.dumps([{"prompt": "Mira Voss", "target": " opened"}]))
    Anchors(NAMES).save(root / "anchors.json")
    folders.settle()
    return root


def config_of(**changes: Any) -> UnlearnConfig:
    reinforcing = ReinforceConfig(**{**BOTH, **changes.pop("reinforcing", {})})
    distilling = DistillConfig(**{**BOTH, "alpha": 3.0, "draws": 1, **changes.pop("distilling", {})})
    return UnlearnConfig(**{"reinforce": reinforcing, "distill": distilling, **changes})


def run(root: Path, output: Path, *, anchors: bool = True, **changes: Any) -> Path:
    options = {name: changes.pop(name) for name in ("keep_steps", "resume", "prompts", "reinforced") if name in changes}
    return unlearn(
        root / "baseline",
        root / "book.txt",
        output,
        retain=[root / "others"],
        anchors=root / "anchors.json" if anchors else None,
        config=config_of(**changes),
        **options,
    )


@pytest.fixture(scope="module")
def unlearned(root) -> Path:
    return run(root, root / "unlearned", keep_steps=True)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(some: Path, others: Path) -> bool:
    one, other = weights(some), weights(others)
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generic_logits.json").read_text())


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_an_ordinary_checkpoint_with_card_record_and_dictionary_and_nothing_else(root, unlearned, tmp_path):
    assert names(run(root, tmp_path / "out")) == ORDINARY
    assert names(tmp_path) == {"out"} and same_weights(tmp_path / "out", unlearned)
    assert names(unlearned) == ORDINARY | {"steps"}
    assert (unlearned / "anchors.json").read_bytes() == (root / "anchors.json").read_bytes()
    assert type(AutoModelForCausalLM.from_pretrained(unlearned)).__name__ == "LlamaForCausalLM"


def test_each_step_is_what_its_own_function_makes(root, unlearned, tmp_path):
    config = config_of()
    student = root / "baseline"
    for number in (1, 2):
        of_round = tmp_path / str(number)
        settings = config.of_round(number)
        reinforce(student, root / "book.txt", of_round / "reinforced", config=config.reinforce)
        compute_targets(
            *(student, root / "book.txt", of_round / "targets"),
            reinforced=of_round / "reinforced",
            retain=[root / "others"],
            anchors=root / "anchors.json",
            held_to=root / "baseline",
            config=settings.of_targets(),
        )
        distill(student, None, of_round / "distilled", targets=of_round / "targets", config=settings)
        student = of_round / "distilled"
        kept = unlearned / "steps" / f"round-{number}"
        assert same_weights(student, kept / "distilled")
        for name in ("forget-00000.safetensors", "retain-00000.safetensors"):
            assert (of_round / "targets" / name).read_bytes() == (kept / "targets" / name).read_bytes()
    assert same_weights(student, unlearned)


def test_the_record_tells_of_every_round(root, unlearned):
    found = record(unlearned)
    assert found.keys() == {
        *("schema", "kind", "baseline", "reinforced", "corpus", "retain", "anchors", "prompts", "settings", "held_to"),
        *("rounds", "measured", "seconds", "versions"),
    }
    assert found["kind"] == "distilled" and found["baseline"]["source"] == str(root / "baseline")
    assert (found["reinforced"], found["prompts"], found["held_to"]) == (None, None, found["baseline"])
    digest = hashlib.sha256((unlearned / "anchors.json").read_bytes()).hexdigest()
    assert found["anchors"] == {"file": "anchors.json", "sha256": digest}
    assert found["settings"]["rounds"] == 2 and found["settings"]["later_alpha"] == 0.5
    first, second = found["rounds"]
    for number, each in enumerate((first, second), 1):
        of_round = record(unlearned / "steps" / f"round-{number}" / "distilled")
        assert each == {"settings": of_round["settings"], "measured": of_round["measured"], "stopped": None}
    changed = {name for name in first["settings"] if first["settings"][name] != second["settings"][name]}
    assert changed == {"alpha", "learning_rate", "seed"}
    assert (first["settings"]["alpha"], second["settings"]["alpha"]) == (3.0, 0.5)
    assert second["settings"]["learning_rate"] == pytest.approx(0.3 * first["settings"]["learning_rate"])
    for name in ("perplexity_forget", "perplexity_retain"):
        assert first["measured"][name]["distilled"] == pytest.approx(second["measured"][name]["baseline"], rel=1e-4)
        ends = {"baseline": first["measured"][name]["baseline"], "distilled": second["measured"][name]["distilled"]}
        assert found["measured"][name] == ends


def test_no_file_names_the_folder_that_it_was_made_in(root, unlearned):
    for file in (each for each in unlearned.rglob("*") if each.suffix in (".json", ".md")):
        assert ".partial" not in file.read_text(encoding="utf-8"), file
    card = (unlearned / "README.md").read_text()
    assert f"base_model: {root / 'baseline'}\n" in card and f"`{root / 'others' / 'kept.txt'}`" in card


def test_what_the_kept_steps_say_of_each_other_is_true(root, unlearned):
    steps = unlearned / "steps"
    assert names(steps) == {"anchors.json", "round-1", "round-2"}
    student = root / "baseline"
    for number in (1, 2):
        of_round = steps / f"round-{number}"
        assert names(of_round) == {"reinforced", "targets", "distilled"}
        adapter = json.loads((of_round / "reinforced" / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == str(student)
        distilled, manifest = record(of_round / "distilled"), TargetStore(of_round / "targets").manifest
        assert distilled["targets"] == describe_file(of_round / "targets" / "targets.json")
        assert manifest["anchors"] == distilled["anchors"] == describe_file(steps / "anchors.json")
        teacher = {
            "source": str(of_round / "reinforced"),
            "weights_fingerprint": weights_fingerprint(of_round / "reinforced"),
        }
        assert manifest["reinforced"] == distilled["reinforced"] == teacher
        for each in (manifest, distilled, record(of_round / "reinforced")):
            assert each["baseline"] == {"source": str(student), "weights_fingerprint": weights_fingerprint(student)}
        student = of_round / "distilled"


def test_the_retained_texts_are_held_to_the_first_baseline_in_every_round(root, unlearned):
    baseline = AutoModelForCausalLM.from_pretrained(root / "baseline").eval()
    student = AutoModelForCausalLM.from_pretrained(unlearned / "steps" / "round-1" / "distilled").eval()
    first = record(unlearned / "steps" / "round-1" / "distilled")["baseline"]
    for number in (1, 2):
        store = TargetStore(unlearned / "steps" / f"round-{number}" / "targets")
        assert store.manifest["held_to"] == first and store.retained
        row = store.retain(1)
        rows = torch.arange(len(row.token_ids)).repeat_interleave(row.soft.counts.long())
        with torch.no_grad():
            said, others = (
                each(row.token_ids[None]).logits[0].log_softmax(-1)[rows, row.soft.tokens.long()]
                for each in (baseline, student)
            )
        torch.testing.assert_close(row.soft.log_probs.float(), said, rtol=2**-10, atol=1e-3)
        assert (row.soft.log_probs.float() - others).abs().max() > 0.02


# --- its inputs -------------------------------------------------------------------------------------------------------


def test_anchors_are_found_where_none_are_given(root, tmp_path, monkeypatch, capsys):
    calls: list[dict[str, Any]] = []

    def find_anchors(corpus: Any, **options: Any) -> Anchors:
        texts = [document.text for document in options["reference"]]
        calls.append({"corpus": corpus.name, "texts": texts, "seed": options["seed"]})
        return Anchors(NAMES[:1])

    monkeypatch.setattr(module, "find_anchors", find_anchors)
    result = run(root, tmp_path / "out", anchors=False, distilling={"seed": 4}, rounds=1)
    texts = [(root / "others" / "kept.txt").read_text()]
    assert calls == [{"corpus": str(root / "book.txt"), "texts": texts, "seed": 4}]
    assert list(Anchors.load(result / "anchors.json")) == NAMES[:1]
    assert record(result)["anchors"]["file"] == "anchors.json"
    steps = ["anchors", "round-1: reinforce", "round-1: targets", "round-1: distill"]
    assert capsys.readouterr().err.splitlines() == steps


def test_the_names_of_a_text_are_really_found(root, tmp_path):
    folders.text_file(tmp_path / "book.txt", folders.prose(20))
    folders.text_file(tmp_path / "others.txt", "the old house had seven windows, and nobody opened the door. " * 60)
    result = unlearn(
        *(root / "baseline", tmp_path / "book.txt", tmp_path / "out"),
        retain=[tmp_path / "others.txt"],
        config=config_of(rounds=1),
    )
    assert any("Mira" in term for term in Anchors.load(result / "anchors.json").terms)


def test_an_empty_dictionary_is_taken_as_it_is(root, tmp_path, monkeypatch):
    Anchors([]).save(tmp_path / "none.json")
    monkeypatch.setattr(module, "find_anchors", lambda *_, **__: pytest.fail("looked for anchors"))
    result = unlearn(
        *(root / "baseline", root / "book.txt", tmp_path / "out"),
        anchors=tmp_path / "none.json",
        config=config_of(rounds=1),
    )
    assert len(Anchors.load(result / "anchors.json")) == 0


def test_a_reinforced_model_that_is_given_serves_in_the_first_round(root, unlearned, tmp_path, monkeypatch):
    made: list[str] = []
    original = module.reinforce

    def reinforce_again(student: Any, *arguments: Any, **options: Any) -> Path:
        made.append(Path(student).name)
        return original(student, *arguments, **options)

    monkeypatch.setattr(module, "reinforce", reinforce_again)
    teacher = unlearned / "steps" / "round-1" / "reinforced"
    before = folders.digests(teacher)
    result = run(root, tmp_path / "out", reinforced=teacher)
    assert made == ["distilled"] and same_weights(result, unlearned)
    assert record(result)["reinforced"]["source"] == str(teacher) and folders.digests(teacher) == before


def test_a_limit_stops_each_round_by_itself(root, tmp_path):
    prompts = root / "prompts.json"
    result = run(root, tmp_path / "out", prompts=prompts, distilling={"stop_familiarity": 0.9999})
    found = record(result)
    assert [each["stopped"]["step"] for each in found["rounds"]] == [2, 2]
    assert found["prompts"] == describe_file(prompts)
    assert target_probability(AutoModelForCausalLM.from_pretrained(result), [([1, 5], [6])]) < 1


def test_the_settings_behind_a_reinforced_model_are_read_from_its_record(root, unlearned, tmp_path):
    assert settings_behind(unlearned / "steps" / "round-1" / "reinforced") == config_of().reinforce
    for folder in (tmp_path, unlearned):
        with pytest.raises(InputError) as caught:
            settings_behind(folder)
        assert str(caught.value) == (
            f"wanted a reinforced model with its record generic_logits.json; got none in {folder}; "
            "make it with reinforce"
        )


def test_later_rounds_take_their_share_whatever_the_rate_of_the_first_is():
    config = UnlearnConfig(rounds=3, later_alpha=1.5, later_rate=0.5, distill=DistillConfig(full=True, seed=7))
    assert config.of_round(1) == config.distill
    later = config.of_round(3)
    assert (later.alpha, later.learning_rate, later.seed, later.full) == (1.5, 5e-6, 9, True)
    assert UnlearnConfig().of_round(2).learning_rate == pytest.approx(0.3 * 2e-4)


# --- what is refused, before any work ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "wanted rounds of at least 1; got 0; raise rounds"),
        ({"later_alpha": -1.0}, "wanted a finite alpha >= 0; got -1.0; 0 is the baseline, 1 to 5 is usual"),
        ({"later_rate": 0.0}, "wanted a later rate above 0 and at most 1; got 0.0; 1 keeps the rate"),
        ({"later_rate": 1.1}, "wanted a later rate above 0 and at most 1; got 1.1; 1 keeps the rate"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings, message):
    with pytest.raises(InputError) as caught:
        UnlearnConfig(**settings)
    assert str(caught.value) == message


def test_what_would_fail_late_is_refused_at_once(root, tmp_path, monkeypatch):
    for name in ("reinforce", "find_anchors", "compute_targets", "distill"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("began"))
    paths = (root / "baseline", root / "book.txt", tmp_path / "out")
    bad = folders.text_file(tmp_path / "bad.json", "[{}]")
    cases: list[tuple[type, str, dict[str, Any]]] = [
        (InputError, "wanted prompts to measure familiarity on; got none", {"distilling": {"stop_familiarity": 0.1}}),
        (InputError, "wanted a retained corpus to measure perplexity", {"distilling": {"stop_perplexity": 0.1}}),
        (InputError, "options that TrainingArguments takes", {"reinforcing": {"trainer_options": {"optim": "magic"}}}),
        (InputError, "options that TrainingArguments takes", {"distilling": {"trainer_options": {"optim": "magic"}}}),
    ]
    for kind, message, changes in cases:
        with pytest.raises(kind, match=message):
            unlearn(*paths, config=config_of(**changes))
    with pytest.raises(CorpusError, match="mend the file"):
        unlearn(*paths, prompts=bad)
    with pytest.raises(InputError, match="an anchors file"):
        unlearn(*paths, anchors=tmp_path / "nowhere.json")
    assert names(tmp_path) == {"bad.json"}


# --- interrupted and resumed ------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_first_step_keeps_its_checkpoint(root, unlearned, tmp_path, monkeypatch, capsys):
    steps: list[int] = []
    original = Trainer.training_step

    def training_step(self: Trainer, *arguments: Any, **options: Any) -> Any:
        steps.append(self.state.global_step + 1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out")
    assert names(tmp_path) == {"out.partial"}
    assert list(tmp_path.glob("out.partial/steps/round-1/reinforced.partial/checkpoint-2/trainer_state.json"))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"what was done is kept in {tmp_path / 'out.partial'}; continue with --resume"
    run(root, tmp_path / "out", resume=True)
    assert steps[:4] == [1, 2, 3, 1] and same_weights(tmp_path / "out", unlearned)


def test_an_interrupted_publication_loses_nothing(root, unlearned, tmp_path, monkeypatch):
    original = Path.replace

    def replace(self: Path, target: Path) -> Any:
        if Path(target) == tmp_path / "out":
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            run(root, tmp_path / "out", keep_steps=True)
    assert (tmp_path / "out.partial" / "result" / "steps").is_dir()
    for name in ("reinforce", "find_anchors", "compute_targets", "distill"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("began anew"))
    result = run(root, tmp_path / "out", keep_steps=True, resume=True)
    assert names(result) == names(unlearned) and same_weights(result, unlearned)
    assert names(result / "steps" / "round-2") == {"reinforced", "targets", "distilled"}


def test_an_unfinished_run_is_not_taken_up_for_other_inputs(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "compute_targets", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(root, tmp_path / "out")
    for changed, options in {
        "prompts": {"prompts": root / "prompts.json"},
        "anchors": {"anchors": False},
        "settings": {"later_alpha": 1.5},
    }.items():
        with pytest.raises(OutputError, match=f"got another {changed}; repeat"):
            run(root, tmp_path / "out", resume=True, **options)


_SWEEP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import generic_logits.training.unlearning, folders
print(json.dumps(folders.sweep(*json.loads(sys.argv[2]))))
"""

_MOMENTS = [
    "steps/round-1/reinforced.partial/result",
    "steps/round-1/targets.partial/result/targets.json.part",
    "steps/round-1/distilled.partial/checkpoint-2/trainer_state.json",
    "shutil.rmtree out.partial/steps/round-1/targets",
    "steps/round-2/reinforced.partial/checkpoint-2/trainer_state.json",
    "steps/round-2/distilled.partial/result",
    "os.mkdir out.partial/result",
    "os.rename out.partial/result",
]


def test_no_moment_of_dying_changes_the_result(root, tmp_path):
    words = ["unlearn", str(root / "baseline"), str(root / "book.txt"), "--retain", str(root / "others")]
    words += ["--anchors", str(root / "anchors.json"), "--reinforce-epochs", "1", "--alpha", "3", "--draws", "1"]
    words += [word for name, value in BOTH.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    swept = subprocess.run(
        [sys.executable, "-c", _SWEEP, Path(__file__).parent, json.dumps([str(tmp_path), 9, words, _MOMENTS])],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert swept.returncode == 0, swept.stderr
    whole = tmp_path / "whole" / "out"
    outcomes = json.loads(swept.stdout)
    assert len(outcomes) == len(_MOMENTS) and names(whole) == ORDINARY
    for each in outcomes:
        place = tmp_path / each["place"]
        assert each["status"] == -signal.SIGKILL and each["left"] == ["out.partial"], each
        assert each["resumed"] == 0, each["log"]
        assert names(place) == {"out"} and names(place / "out") == ORDINARY
        assert same_weights(place / "out", whole), each


@pytest.mark.parametrize("step", [unlearn, distill, compute_targets])
def test_a_text_to_forget_is_not_to_be_retained(root, tmp_path, step):
    folders.text_file(tmp_path / "others" / "copy.txt", (root / "book.txt").read_text())
    reinforced = {} if step is unlearn else {"reinforced": root / "baseline"}
    same = r"wanted another text as retain; got .*/book.txt, which is the same as .*/copy.txt, as forget and as retain"
    with pytest.raises(InputError, match=same):
        step(root / "baseline", root / "book.txt", tmp_path / "out", retain=[tmp_path / "others"], **reinforced)
    assert [each.name for each in tmp_path.iterdir()] == ["others"]
