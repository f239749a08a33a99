"""Distillation: an ordinary checkpoint comes out, it moved towards the targets, and it moved nowhere else.

Also how it stops early, goes on after a crash, and what several processes make of it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import endpoints
import folders
import pytest
import tiny
import torch
import torch.nn.functional as F
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from generic_logits import DistillConfig, ModelPair, ReinforceConfig, distill, reinforce
from generic_logits._record import weights_fingerprint
from generic_logits.cli import main
from generic_logits.errors import InputError, ModelError
from generic_logits.models.loading import load_tokenizer
from generic_logits.models.scoring import perplexity, target_probability
from generic_logits.text.anchors import Anchor, Anchors
from generic_logits.text.corpus import cut_blocks, read_documents
from generic_logits.text.prompts import encode_prompts, load_prompts
from generic_logits.training import distillation, early_stopping
from generic_logits.training.distillation import distance_to, merged_state_dict
from generic_logits.training.run import TrainConfig, with_lora
from generic_logits.training.target_store import Row, TargetStore
from generic_logits.training.targets import TargetsConfig, compute_targets, likely_tokens

ALPHA = 3.0
VOCAB = folders.VOCAB
QUICK = {"block_size": 32, "batch_size": 4, "lora_rank": 8, "learning_rate": 1e-2, "epochs": 4, "alpha": ALPHA}
FULL = {**QUICK, "full": True, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A baseline that has learned both texts, the same reinforced on one of them, by adapter and by full weights."""
    root = tmp_path_factory.mktemp("distill")
    folders.text_file(root / "forget.txt", folders.prose(15))
    folders.text_file(root / "retain" / "kept.txt", "the old house by the sea had seven windows and a red door. " * 12)
    folders.model_folder(root / "random")
    read = ReinforceConfig(block_size=32, batch_size=4, epochs=4, learning_rate=1e-2, full=True)
    folders.text_file(root / "both" / "forget.txt", folders.prose(15))
    folders.text_file(root / "both" / "kept.txt", (root / "retain" / "kept.txt").read_text())
    reinforce(root / "random", root / "both", root / "baseline", config=read)
    adapter = ReinforceConfig(block_size=32, batch_size=4, epochs=5, learning_rate=2e-2, lora_rank=4)
    reinforce(root / "baseline", root / "forget.txt", root / "adapter", config=adapter)
    whole = ReinforceConfig(block_size=32, batch_size=4, epochs=3, learning_rate=3e-3, full=True)
    reinforce(root / "baseline", root / "forget.txt", root / "whole", config=whole)
    folders.settle()
    return root


def run(
    root: Path,
    output: Path,
    *,
    reinforced: str = "adapter",
    retain: bool = False,
    anchors: bool = False,
    **changes: Any,
) -> Path:
    return distill(
        root / "baseline",
        root / "forget.txt",
        output,
        reinforced=root / reinforced,
        retain=[root / "retain"] if retain else [],
        anchors=root / "anchors.json" if anchors else None,
        config=DistillConfig(**{**QUICK, **changes}),
    )


@pytest.fixture(scope="module")
def distilled(root) -> Path:
    return run(root, root / "distilled", retain=True)


@pytest.fixture(scope="module")
def distilled_freely(root) -> Path:
    return run(root, root / "distilled-freely")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generic_logits.json").read_text())


def blocks(root: Path, name: str) -> list[list[int]]:
    return [list(each.token_ids) for each in cut_blocks(read_documents(root / name), tiny.tokenizer(VOCAB), 32)]


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def load_pair(root: Path, alpha: float = ALPHA) -> ModelPair:
    return ModelPair.from_pretrained(root / "baseline", root / "adapter", alpha=alpha)


@torch.no_grad()
def mean_kl(teacher: Any, student: Any, rows: list[list[int]]) -> float:
    """KL(teacher || student) in nats a position, one row at a time."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        p = (teacher.logits(ids) if isinstance(teacher, ModelPair) else teacher(ids).logits)[0].log_softmax(-1)
        q = student(ids).logits[0].log_softmax(-1)
        total += (p.exp() * (p - q)).sum().item()
        count += len(row)
    return total / count


def captured_trainer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let ``distill`` run; keep its trainer, its baseline, and copies of the baseline before and after training."""
    kept: dict[str, Any] = {}
    original, load_model = distillation.run_trainer, distillation.load_model

    def loaded(*arguments: Any, **options: Any) -> Any:
        kept["baseline"] = load_model(*arguments, **options)
        return kept["baseline"]

    def run_trainer(trainer: Any, folder: Any) -> None:
        kept["before"] = {name: tensor.clone() for name, tensor in kept["baseline"].state_dict().items()}
        original(trainer, folder)
        kept["after"] = {name: tensor.clone() for name, tensor in kept["baseline"].state_dict().items()}
        kept["trainer"] = trainer

    monkeypatch.setattr(distillation, "load_model", loaded)
    monkeypatch.setattr(distillation, "run_trainer", run_trainer)
    return kept


# --- what comes out ---------------------------------------------------------------------------------------------------

_OUTSIDER = """
import sys
sys.modules["generic_logits"] = sys.modules["peft"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer("Mira Voss opened", return_tensors="pt").input_ids
torch.save((type(model).__name__, model(ids).logits.detach()), sys.argv[2])
"""


def test_the_result_is_an_ordinary_checkpoint_to_a_python_without_this_package(distilled, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _OUTSIDER, distilled, tmp_path / "logits.pt"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, logits = torch.load(tmp_path / "logits.pt")
    ids = tiny.tokenizer(VOCAB)("Mira Voss opened", return_tensors="pt").input_ids
    assert name == "LlamaForCausalLM"
    torch.testing.assert_close(logits, load(distilled)(ids).logits.detach())


def test_the_folder_holds_checkpoint_tokenizer_card_and_record_and_no_adapter(root, distilled):
    names = {file.name for file in distilled.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "generic_logits.json"} <= names
    assert not [name for name in names if "adapter" in name or "checkpoint" in name]
    before, after = weights(root / "baseline"), weights(distilled)
    assert {name: tensor.shape for name, tensor in before.items()} == {name: each.shape for name, each in after.items()}
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


def test_the_record_names_everything_that_the_result_was_made_from(root, distilled):
    found = record(distilled)
    assert found.keys() == {
        *("schema", "kind", "baseline", "reinforced", "corpus", "retain", "anchors", "held_to", "prompts"),
        *("settings", "measured", "seconds", "versions"),
    }
    assert (found["anchors"], found["prompts"], found["held_to"]) == (None, None, found["baseline"])
    assert (found["schema"], found["kind"]) == (1, "distilled")
    for key, folder in (("baseline", root / "baseline"), ("reinforced", root / "adapter")):
        assert found[key] == {"source": str(folder), "weights_fingerprint": weights_fingerprint(folder)}
    for key, path in (("corpus", root / "forget.txt"), ("retain", root / "retain" / "kept.txt")):
        (document,) = read_documents(path)
        assert found[key] == [{"file": str(path), "characters": len(document.text), "sha256": document.sha256}]
    assert QUICK.items() <= found["settings"].items()
    measured = found["measured"]
    models = {"baseline": load(root / "baseline"), "distilled": load(distilled)}
    for key, corpus in (("perplexity_forget", "forget.txt"), ("perplexity_retain", "retain")):
        for name, model in models.items():
            different = list(dict.fromkeys(map(tuple, blocks(root, corpus))))
            assert measured[key][name] == pytest.approx(perplexity(model, different), rel=1e-4)


def test_the_card_tells_a_reader_what_was_unlearned_and_at_what_cost(root, distilled):
    card = (distilled / "README.md").read_text()
    found = record(distilled)
    front = card.split("---\n")[1]
    assert front.splitlines() == [
        f"base_model: {root / 'baseline'}",
        "library_name: transformers",
        "tags:",
        "- unlearning",
        "- generic-logits",
    ]
    for expected in (
        "# baseline, made to forget",
        f"* `{root / 'forget.txt'}`, {found['corpus'][0]['characters']:,} characters, SHA-256",
        found["corpus"][0]["sha256"],
        f"Held to the baseline on: `{root / 'retain' / 'kept.txt'}`.",
        "| alpha | 3.0 |",
        "| perplexity forget | {baseline:.2f} | {distilled:.2f} |".format(**found["measured"]["perplexity_forget"]),
        "| perplexity retain | {baseline:.2f} | {distilled:.2f} |".format(**found["measured"]["perplexity_retain"]),
    ):
        assert expected in card


def test_without_a_retained_corpus_card_and_record_say_so(distilled_freely):
    assert "Held to the baseline on: nothing." in (distilled_freely / "README.md").read_text()
    assert record(distilled_freely)["measured"].keys() == {"perplexity_forget"}
    assert record(distilled_freely)["retain"] == []


def test_the_folders_that_came_in_are_left_as_they_were(root, tmp_path):
    before = [folders.digests(root / name) for name in ("baseline", "adapter", "whole")]
    run(root, tmp_path / "lora", epochs=1)
    run(root, tmp_path / "full", reinforced="whole", **{**FULL, "epochs": 1})
    assert [folders.digests(root / name) for name in ("baseline", "adapter", "whole")] == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "lora"]


# --- LoRA students ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gpt_neox", "lfm2"])
@pytest.mark.parametrize("tied", [False, True])
def test_merging_an_adapter_gives_the_model_that_runs_with_it(family, tied):
    base = tiny.model(family, dtype=torch.float64, tie_word_embeddings=tied)
    kept = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = with_lora(distillation.share_weights(base), TrainConfig(lora_rank=4)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    ids = torch.stack(tiny.prompts(9))
    merged = tiny.model(family, seed=1, dtype=torch.float64, tie_word_embeddings=tied)
    merged.load_state_dict(merged_state_dict(adapted, base))
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-5, atol=1e-4)  # merged in float32
        assert (base(ids).logits - expected).abs().max() > 0.1
    assert all(torch.equal(tensor, kept[name]) for name, tensor in base.state_dict().items())


def test_one_copy_of_the_base_weights_serves_baseline_and_student(root, tmp_path, monkeypatch):
    kept = captured_trainer(monkeypatch)
    run(root, tmp_path / "out", retain=True, epochs=2)
    student = kept["trainer"].model
    of_base = {each.data_ptr() for name, each in student.named_parameters() if "lora_" not in name}
    assert of_base == {parameter.data_ptr() for parameter in kept["baseline"].parameters()}
    assert any("lora_" in name for name, _ in student.named_parameters())


def test_no_teacher_is_in_memory_while_the_student_learns(root, tmp_path, monkeypatch):
    alive: list[int] = []
    original = distillation.run_trainer

    def run_trainer(trainer: Any, folder: Any) -> None:
        gc.collect()
        models = [each for each in gc.get_objects() if isinstance(each, LlamaForCausalLM)]
        alive.append(len(models))
        original(trainer, folder)

    monkeypatch.setattr(distillation, "run_trainer", run_trainer)
    before = sum(isinstance(each, LlamaForCausalLM) for each in gc.get_objects())
    run(root, tmp_path / "out", retain=True, reinforced="whole", epochs=1)
    assert alive == [before + 2]  # the baseline, and the student's tree around the same weights


def test_the_baseline_in_memory_keeps_every_bit(root, tmp_path, monkeypatch):
    kept = captured_trainer(monkeypatch)
    result = run(root, tmp_path / "out", retain=True, epochs=1)
    assert kept["before"].keys() == kept["after"].keys()
    assert all(torch.equal(kept["before"][name], kept["after"][name]) for name in kept["before"])
    assert any(not torch.equal(tensor, kept["before"][name]) for name, tensor in weights(result).items())


def test_a_model_that_lora_does_not_fit_is_refused_with_the_remedy_and_the_remedy_works(root, tmp_path):
    folders.model_folder(tmp_path / "mamba", "mamba")
    config = {"block_size": 32, "batch_size": 8, "epochs": 1}
    with pytest.raises(ModelError) as caught:
        reinforce(tmp_path / "mamba", root / "forget.txt", tmp_path / "out", config=ReinforceConfig(**config))
    assert str(caught.value).startswith("wanted a model whose linear layers take LoRA; got MambaForCausalLM: ")
    assert str(caught.value).endswith("; train full weights (--full)")
    assert [file.name for file in tmp_path.iterdir()] == ["mamba"]
    reinforced, unlearned = tmp_path / "reinforced", tmp_path / "unlearned"
    reinforce(tmp_path / "mamba", root / "forget.txt", reinforced, config=ReinforceConfig(**config, full=True))
    distill(
        *(tmp_path / "mamba", root / "forget.txt", unlearned),
        reinforced=reinforced,
        config=DistillConfig(**config, full=True),
    )
    assert type(load(unlearned)).__name__ == "MambaForCausalLM"


def test_the_student_of_a_gpt2_is_merged_too(root, tmp_path):
    folders.model_folder(tmp_path / "gpt2", "gpt2", tie_word_embeddings=True)
    quick = {"block_size": 32, "batch_size": 4, "lora_rank": 4, "learning_rate": 1e-2}
    reinforce(tmp_path / "gpt2", root / "forget.txt", tmp_path / "adapter", config=ReinforceConfig(**quick))
    config = DistillConfig(**quick, alpha=ALPHA)
    result = distill(
        tmp_path / "gpt2", root / "forget.txt", tmp_path / "out", reinforced=tmp_path / "adapter", config=config
    )
    measured = record(result)["measured"]["perplexity_forget"]
    assert perplexity(load(result), blocks(root, "forget.txt")) == pytest.approx(measured["distilled"], rel=1e-4)
    assert measured["distilled"] != pytest.approx(measured["baseline"], rel=1e-2)
    assert load(result).lm_head.weight is load(result).transformer.wte.weight or "lm_head.weight" not in weights(result)


# --- the distance -----------------------------------------------------------------------------------------------------


def rows_of(logits: list[Tensor], *, hard: bool) -> list[Row]:
    """Rows of growing length whose targets, at every other position from the first, are given by ``logits``."""
    rows = []
    for number, of_row in enumerate(logits):
        positions = torch.arange(0, 2 * len(of_row), 2)
        soft = likely_tokens(of_row.log_softmax(-1), 1e-6)
        ids, inside = torch.arange(3, 4 + positions[-1] + number), positions % 3 == 0
        rows.append(Row(ids, positions, inside, of_row.argmax(-1) if hard else None, None if hard else soft))
    return rows


def batch_of(hard: bool) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """A collated batch of three forget and three retained rows, and their targets."""
    logits = {part: [torch.randn(count, 11) * 3 for count in (3, 1, 4)] for part in ("forget", "retain")}
    forget, retained = rows_of(logits["forget"], hard=hard), rows_of(logits["retain"], hard=False)
    return distillation._collate(list(zip(forget, retained, strict=True))), logits


@pytest.mark.parametrize("weight", [1.0, 5.0, 0.0])
@pytest.mark.parametrize("hard", [False, True])
def test_the_distance_is_the_mean_over_positions_that_have_a_target(hard, weight):
    batch, logits = batch_of(hard)
    length = batch["input_ids"].shape[1]
    assert batch["input_ids"].shape == (6, 9) and batch["forget rows"] == 3
    assert batch["attention_mask"].sum(1).tolist() == [5, 2, 9, 5, 2, 9]
    student = torch.randn(6, length, 11, dtype=torch.float64) * 3
    for part, first in (("forget", 0), ("retain", 3)):
        nats = []
        for number, of_row in enumerate(logits[part]):
            for at, row in enumerate(of_row.double()):
                q = student[first + number, 2 * at].log_softmax(-1)
                p = row.log_softmax(-1)
                of_one = -q[row.argmax()] if hard and part == "forget" else (p.exp() * (p - q)).sum()
                nats.append(of_one * (weight if 2 * at % 3 == 0 else 1))
        found = distance_to(student[first : first + 3].float(), batch, part, inside_weight=weight)
        torch.testing.assert_close(found.double(), torch.stack(nats).mean(), rtol=2e-3, atol=2e-3)
        assert len(nats) == 8


@pytest.mark.parametrize("hard", [False, True])
def test_padding_and_positions_without_a_target_have_no_gradient(hard):
    batch, logits = batch_of(hard)
    for part, first in (("forget", 0), ("retain", 3)):
        student = torch.randn(3, batch["input_ids"].shape[1], 11, requires_grad=True)
        (grad,) = torch.autograd.grad(distance_to(student, batch, part), student)
        for number, of_row in enumerate(logits[part]):
            for position in range(student.shape[1]):
                has_target = position % 2 == 0 and position // 2 < len(of_row)
                assert (grad[number, position].abs().sum() > 0) == has_target, (first, number, position)


# --- what the training does -------------------------------------------------------------------------------------------


def test_the_student_moves_to_the_generic_targets_and_away_from_the_text(root, distilled_freely):
    pair, student = load_pair(root), load(distilled_freely)
    rows = blocks(root, "forget.txt")
    assert mean_kl(pair, student, rows) < 0.7 * mean_kl(pair, pair.baseline, rows)
    assert perplexity(student, rows) > 1.2 * perplexity(pair.baseline, rows)


@pytest.mark.parametrize("reinforced", ["adapter", "whole"])
def test_full_weights_move_too_whatever_the_reinforced_model_is(root, tmp_path, reinforced):
    result = run(root, tmp_path / "out", reinforced=reinforced, **FULL)
    pair = ModelPair.from_pretrained(root / "baseline", root / reinforced, alpha=ALPHA)
    rows = blocks(root, "forget.txt")
    assert mean_kl(pair, load(result), rows) < 0.7 * mean_kl(pair, pair.baseline, rows)


def test_a_lora_student_learns_from_a_whole_reinforced_model(root, tmp_path):
    result = run(root, tmp_path / "out", reinforced="whole")
    pair = ModelPair.from_pretrained(root / "baseline", root / "whole", alpha=ALPHA)
    rows = blocks(root, "forget.txt")
    assert mean_kl(pair, load(result), rows) < 0.8 * mean_kl(pair, pair.baseline, rows)


def test_the_retained_term_holds_the_student_to_the_baseline(root, distilled, distilled_freely):
    baseline, rows = load(root / "baseline"), blocks(root, "retain")
    held, free = (mean_kl(baseline, load(each), rows) for each in (distilled, distilled_freely))
    assert held < 0.5 * free
    pair = load_pair(root)
    forgotten = blocks(root, "forget.txt")
    assert mean_kl(pair, load(distilled), forgotten) < mean_kl(pair, pair.baseline, forgotten)


def test_a_retain_weight_of_0_leaves_the_retained_corpus_out(root, tmp_path, distilled_freely):
    result = run(root, tmp_path / "out", retain=True, retain_weight=0.0)
    assert all(torch.equal(tensor, weights(distilled_freely)[name]) for name, tensor in weights(result).items())
    assert record(result)["measured"].keys() == {"perplexity_forget", "perplexity_retain"}


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_alpha_0_leaves_the_model_where_it_was(root, tmp_path, settings, distilled_freely):
    result = run(root, tmp_path / "out", **{**settings, "alpha": 0.0})
    baseline, rows = load(root / "baseline"), blocks(root, "forget.txt")
    assert mean_kl(baseline, load(result), rows) < 0.03 * mean_kl(baseline, load(distilled_freely), rows)


def test_hard_labels_teach_the_favourite_tokens_of_the_generic_model(root, tmp_path, distilled_freely):
    result = run(root, tmp_path / "out", hard=True)
    pair, rows = load_pair(root), blocks(root, "forget.txt")

    @torch.no_grad()
    def cost(model: Any) -> float:
        """Mean negative log-likelihood of the generic model's favourites."""
        nats = []
        for row in rows:
            ids = torch.tensor([row])
            nats += F.cross_entropy(model(ids).logits[0], pair.logits(ids)[0].argmax(-1), reduction="none").tolist()
        return sum(nats) / len(nats)

    assert record(result)["settings"]["hard"] is True
    soft, hard, before = cost(load(distilled_freely)), cost(load(result)), cost(pair.baseline)
    assert hard < 0.9 * before and hard < 0.9 * soft


def test_one_seed_gives_one_result_and_another_seed_another(root, tmp_path, distilled):
    again, other = run(root, tmp_path / "again", retain=True), run(root, tmp_path / "other", retain=True, seed=1)
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(distilled).items())
    assert any(not torch.equal(tensor, weights(other)[name]) for name, tensor in weights(distilled).items())


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_loss_from_hidden_states_trains_as_one_from_logits(root, tmp_path, settings, hard, monkeypatch):
    kept = captured_trainer(monkeypatch)
    options = {**settings, "retain": True, "hard": hard, "epochs": 2}
    found = run(root, tmp_path / "hidden", **options)
    assert kept["trainer"].head is not None
    monkeypatch.setattr(distillation, "plain_head", lambda _: None)
    expected = run(root, tmp_path / "logits", **options)
    assert kept["trainer"].head is None
    moved = distance(expected, root / "baseline")
    assert moved > 0.1 and distance(found, expected) < 1e-2 * moved


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 2, "gradient_accumulation": 2},
        {"trainer_options": {"gradient_checkpointing": True}},
        {"trainer_options": {"dataloader_num_workers": 1}},
    ],
    ids=["accumulation", "checkpointing", "workers"],
)
@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_saving_memory_or_time_does_not_change_the_result(root, tmp_path, settings, changes):
    draw = torch.Generator().manual_seed(0)
    digits = "".join(map(str, torch.randint(10, (8 * 31,), generator=draw).tolist()))  # 8 blocks of one length
    folders.text_file(tmp_path / "digits.txt", digits)
    results = []
    for name, extra in (("plain", {}), ("frugal", changes)):
        results.append(
            distill(
                root / "baseline",
                tmp_path / "digits.txt",
                tmp_path / name,
                reinforced=root / "adapter",
                config=DistillConfig(**{**settings, "epochs": 2, **extra}),
            )
        )
    start, plain, frugal = (weights(folder) for folder in (root / "baseline", *results))
    moved, apart = (sum((some[name] - plain[name]).pow(2).sum() for name in plain) ** 0.5 for some in (start, frugal))
    assert moved > 0.1 and apart < 0.01 * moved


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_bf16_comes_close_to_float32(root, tmp_path, settings):
    start = weights(root / "baseline")
    plain, mixed = (
        weights(run(root, tmp_path / name, **{**settings, "epochs": 2, "trainer_options": options}))
        for name, options in (("plain", {}), ("mixed", {"bf16": True}))
    )
    moved, apart = (sum((some[name] - plain[name]).pow(2).sum() for name in plain) ** 0.5 for some in (start, mixed))
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in mixed.values())
    assert 0 < apart < 0.3 * moved


# --- the schedule -----------------------------------------------------------------------------------------------------


class Numbers:
    """A store whose rows are their own numbers; retained blocks come again after ``different`` of them."""

    def __init__(self, blocks: int, retained: int, different: int | None = None) -> None:
        self.blocks, self.retained = blocks, retained
        self._different = different or retained

    def forget(self, draw: int, block: int, alpha: float) -> Any:
        return draw, block, alpha

    def retain(self, number: int) -> int:
        return number % self._different

    def retain_ids(self, number: int) -> list[int]:
        return [number % self._different]


def schedule_of(store: Any, **changes: Any) -> Any:
    return distillation._Schedule(store, DistillConfig(**{"epochs": 2, "alpha": ALPHA, **changes}))


@pytest.mark.parametrize(("forget", "retained", "epochs"), [(7, 3, 4), (3, 7, 5), (4, 4, 2), (1, 5, 3)])
def test_every_retained_block_is_used_before_any_is_repeated(forget, retained, epochs):
    schedule = schedule_of(Numbers(forget, retained), epochs=epochs, seed=5)
    entries = [schedule[number] for number in range(len(schedule))]
    assert len(entries) == forget * epochs and all(len(entry) == 2 for entry in entries)
    drawn = [entry[1] for entry in entries]
    for start in range(0, len(drawn), retained):
        hand = drawn[start : start + retained]
        assert len(set(hand)) == len(hand)
    for epoch in range(epochs):
        shown = [entry[0] for entry in entries[epoch * forget : (epoch + 1) * forget]]
        assert sorted(shown) == [(epoch, block, ALPHA) for block in range(forget)]


def test_every_epoch_has_an_order_of_its_own_which_the_seed_decides():
    def orders(seed: int) -> list[tuple[int, ...]]:
        schedule = schedule_of(Numbers(20, 0), epochs=3, seed=seed)
        assert all(len(schedule[number]) == 1 for number in range(len(schedule)))
        return [tuple(schedule[at + number][0][1] for number in range(20)) for at in (0, 20, 40)]

    assert len(set(orders(0))) == 3 and orders(0) == orders(0) and not set(orders(0)) & set(orders(1))


@pytest.mark.parametrize(("retained", "different", "aside"), [(40, 40, 10), (40, 12, 3), (40, 2, 1), (900, 900, 64)])
def test_blocks_that_are_set_aside_are_never_trained_on(retained, different, aside):
    schedule = schedule_of(Numbers(20, retained, different), epochs=50, stop_perplexity=0.1)
    kept = set(schedule.set_aside)
    shown = Counter(schedule[number][1] for number in range(len(schedule)))
    assert len(kept) == len(schedule.set_aside) == aside
    assert {each for (each,) in kept} | set(shown) == set(range(different))
    assert not {each for (each,) in kept} & set(shown)
    assert not schedule_of(Numbers(20, retained)).set_aside


def test_a_single_retained_block_is_measured_on_and_trained_on():
    schedule = schedule_of(Numbers(5, 6, 1), stop_perplexity=0.1)
    assert schedule.set_aside == [(0,)] and all(len(schedule[number]) == 2 for number in range(10))


def test_the_trainer_shows_the_schedule_in_its_order(root, tmp_path, monkeypatch):
    seen: list[tuple[int, ...]] = []
    original = distillation._collate

    def collate(entries: Any) -> Any:
        seen.extend(tuple(entry[0].token_ids.tolist()) for entry in entries)
        return original(entries)

    monkeypatch.setattr(distillation, "_collate", collate)
    run(root, tmp_path / "out", epochs=3, seed=2)
    rows = blocks(root, "forget.txt")
    schedule = schedule_of(Numbers(len(rows), 0), epochs=3, seed=2)
    assert seen == [tuple(rows[schedule[number][0][1]]) for number in range(len(schedule))]
    assert set(Counter(seen).values()) == {3}


# --- targets computed before, elsewhere -------------------------------------------------------------------------------

NAMES = [
    Anchor(term="Mira Voss", translations=("Anna Bell", "Ruth Lane")),
    Anchor(term="Orrin", translations=("Tom",)),
    Anchor(term="Captain Hale", translations=("Doctor Field",)),
]


@pytest.fixture(scope="module")
def computed(root) -> Path:
    """Targets of two strengths, with anchors and retained blocks; everything else was deleted behind them."""
    Anchors(NAMES).save(root / "anchors.json")
    run(root, root / "with-anchors", retain=True, anchors=True, draws=2, ban=4.0)
    for name in ("forget.txt", "anchors.json"):
        shutil.copy(root / name, root / f"copy-of-{name}")
    shutil.copytree(root / "retain", root / "copy-of-retain")
    shutil.copytree(root / "adapter", root / "copy-of-adapter")
    config = TargetsConfig(block_size=32, draws=2, ban=4.0)
    compute_targets(
        root / "baseline",
        root / "copy-of-forget.txt",
        root / "targets",
        reinforced=root / "copy-of-adapter",
        retain=[root / "copy-of-retain"],
        anchors=root / "copy-of-anchors.json",
        alphas=[1.0, ALPHA],
        config=config,
    )
    shutil.rmtree(root / "copy-of-adapter")
    shutil.rmtree(root / "copy-of-retain")
    for name in ("copy-of-forget.txt", "copy-of-anchors.json"):
        (root / name).unlink()
    return root / "targets"


def from_targets(root: Path, targets: Path, output: Path, **changes: Any) -> Path:
    config = DistillConfig(**{**QUICK, **changes})
    return distill(root / "baseline", None, output, targets=targets, config=config)


def test_stored_targets_teach_the_same_without_teachers_and_corpora(root, computed, tmp_path):
    result = from_targets(root, computed, tmp_path / "out")
    at_once = root / "with-anchors"
    assert all(torch.equal(tensor, weights(at_once)[name]) for name, tensor in weights(result).items())
    assert perplexity(load(result), blocks(root, "forget.txt")) > perplexity(
        load(root / "baseline"), blocks(root, "forget.txt")
    )
    weaker = from_targets(root, computed, tmp_path / "weaker", alpha=1.0)
    assert any(not torch.equal(tensor, weights(weaker)[name]) for name, tensor in weights(result).items())


def test_the_record_says_what_the_targets_were_made_from_and_with(root, computed, tmp_path):
    found = record(from_targets(root, computed, tmp_path / "out", epochs=1, alpha=1.0, dtype="float32", seed=3))
    manifest = TargetStore(computed).manifest
    for key in ("reinforced", "corpus", "retain", "anchors", "held_to"):
        assert found[key] == manifest[key]
    assert found["targets"]["file"] == str(computed / "targets.json") and len(found["targets"]["sha256"]) == 64
    of_targets = {"block_size": 32, "draws": 2, "ban": 4.0, "tail": TargetsConfig().tail}
    of_training = {"alpha": 1.0, "epochs": 1, "dtype": "float32", "seed": 3}
    assert {**of_targets, **of_training}.items() <= found["settings"].items()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "copy-of-forget.txt" in card and "| ban | 4.0 |" in card


def test_targets_of_another_baseline_or_alpha_are_refused(root, computed, tmp_path):
    with pytest.raises(InputError) as caught:
        from_targets(root, computed, tmp_path / "out", alpha=2.0)
    assert str(caught.value) == f"wanted an alpha that {computed} holds; got 2; choose 1, 3, or compute it"
    with pytest.raises(ModelError) as other:
        distill(root / "random", None, tmp_path / "out", targets=computed, config=DistillConfig(**QUICK))
    assert str(other.value) == (
        "wanted the baseline that the targets were computed for; "
        f"got targets of {root / 'baseline'}, whose weights differ; compute them for this one"
    )
    assert not list(tmp_path.iterdir())


def test_of_baselines_on_the_hub_the_names_are_compared(root, computed):
    store = TargetStore(computed)
    store.manifest["baseline"] = {"source": "some/model", "weights_fingerprint": None}
    same, another = ({"source": name, "weights_fingerprint": None} for name in ("some/model", "some/other"))
    distillation._check_fits(store, same, DistillConfig(**QUICK))
    with pytest.raises(ModelError, match="got targets of some/model; compute them for this one"):
        distillation._check_fits(store, another, DistillConfig(**QUICK))


@pytest.mark.parametrize(
    ("given", "got", "remedy"),
    [
        ({}, "neither", "give what is missing, or targets computed before"),
        ({"corpus": "a"}, "corpus", "give what is missing, or targets computed before"),
        (
            {"reinforced": "b", "retain": ["c"]},
            "reinforced, retain",
            "give what is missing, or targets computed before",
        ),
        ({"targets": "t", "corpus": "a", "reinforced": "b"}, "targets and corpus, reinforced", ""),
        ({"targets": "t", "corpus": "a"}, "targets and corpus", ""),
        ({"targets": "t", "anchors": "d", "held_to": "m"}, "targets and anchors, held-to", ""),
    ],
)
def test_either_a_corpus_with_a_reinforced_model_or_targets(root, tmp_path, given, got, remedy):
    corpus = given.pop("corpus", None)
    with pytest.raises(InputError) as caught:
        distill(root / "baseline", corpus, tmp_path / "out", **given)
    remedy = remedy or "leave those out: they are in the targets"
    assert str(caught.value) == f"wanted a corpus and a reinforced model, or else targets; got {got}; {remedy}"


def test_without_a_retain_weight_the_stored_retained_blocks_are_left_out(root, computed, tmp_path):
    result = from_targets(root, computed, tmp_path / "out", retain_weight=0.0, epochs=1)
    assert record(result)["measured"].keys() == {"perplexity_forget", "perplexity_retain"}


# --- early stopping ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(root) -> Path:
    """Beginnings of sentences of the text, and how they go on."""
    sentences = folders.prose(15).split(". ")
    entries = [{"prompt": each[: len(each) // 2], "target": each[len(each) // 2 :][:6]} for each in sentences]
    return folders.text_file(root / "prompts.json", json.dumps(entries))


def known(folder: Path, root: Path, prompts: Path) -> float:
    encoded = encode_prompts(load_tokenizer(root / "baseline"), load_prompts(prompts))
    return target_probability(load(folder), encoded)


def stopping(root: Path, computed: Path, output: Path, prompts: Path | None = None, **changes: Any) -> Path:
    config = DistillConfig(**{**QUICK, "epochs": 6, "save_steps": 2, **changes})
    return distill(root / "baseline", None, output, targets=computed, prompts=prompts, config=config)


@pytest.mark.parametrize("full", [False, True])
def test_it_stops_where_enough_is_forgotten(root, computed, tmp_path, prompts, full, monkeypatch):
    settings = {"full": True, "learning_rate": 3e-3} if full else {}
    before = known(root / "baseline", root, prompts)
    seen: list[float] = []

    def measure(model: Any, prompts: Any) -> float:
        assert not model.training
        seen.append(target_probability(model, prompts))
        return seen[-1]

    monkeypatch.setattr(early_stopping, "target_probability", measure)
    result = stopping(root, computed, tmp_path / "out", prompts, stop_familiarity=0.8 * before, **settings)
    stopped = record(result)["stopped"]
    assert stopped["limit"] == 0.8 * before and stopped["step"] % 2 == 0 and 2 <= stopped["step"] < 40
    assert known(result, root, prompts) == pytest.approx(stopped["familiarity"], rel=1e-3)
    assert len(seen) == stopped["step"] // 2 and seen[-1] == stopped["familiarity"] <= 0.8 * before
    assert all(each > 0.8 * before for each in seen[:-1])
    assert record(result)["prompts"]["file"] == str(prompts)


@pytest.mark.parametrize("full", [False, True])
def test_it_goes_back_where_too_much_else_was_lost(root, computed, tmp_path, full):
    settings = {"full": True, "learning_rate": 1e-2} if full else {"learning_rate": 5e-2}
    settings |= {"retain_weight": 0.0, "stop_perplexity": 0.05}
    result = stopping(root, computed, tmp_path / "out", **settings)
    stopped = record(result)["stopped"]
    schedule = distillation._Schedule(TargetStore(computed), DistillConfig(stop_perplexity=0.05))
    limit = 1.05 * perplexity(load(root / "baseline"), schedule.set_aside)
    assert stopped["limit"] == pytest.approx(limit, rel=1e-5) and stopped["retained_perplexity"] > limit
    assert perplexity(load(result), schedule.set_aside) <= limit * (1 + 1e-5)
    if stopped["step"] == 2:  # it was too much at the first check: the weights are where they began
        assert all(torch.equal(tensor, weights(root / "baseline")[name]) for name, tensor in weights(result).items())


def test_the_limit_counts_from_the_model_that_retained_text_is_held_to(root, tmp_path, monkeypatch):
    paths = [root / "baseline", root / "forget.txt", tmp_path / "targets"]
    held = {"reinforced": root / "adapter", "retain": [root / "retain"], "held_to": root / "random"}
    compute_targets(*paths, config=TargetsConfig(block_size=32, alpha=QUICK["alpha"]), **held)
    schedule = distillation._Schedule(TargetStore(tmp_path / "targets"), DistillConfig(stop_perplexity=0.1))
    theirs, ours = (perplexity(load(root / name), schedule.set_aside) for name in ("random", "baseline"))
    assert theirs > 1.1 * ours
    monkeypatch.setattr(early_stopping, "perplexity", lambda *_: 1e9)
    result = stopping(root, tmp_path / "targets", tmp_path / "out", stop_perplexity=0.1)
    assert record(result)["stopped"]["limit"] == pytest.approx(1.1 * theirs, rel=1e-5)


def test_it_goes_back_to_the_last_check(root, computed, tmp_path, monkeypatch):
    passed: list[dict[str, Tensor]] = []

    def perplexity_of(model: Any, rows: Any) -> float:
        passed.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        return 1.0 if len(passed) < 4 else 1e9

    monkeypatch.setattr(early_stopping, "perplexity", perplexity_of)
    result = stopping(root, computed, tmp_path / "out", stop_perplexity=0.1, full=True)
    stopped = record(result)["stopped"]
    assert (stopped["step"], stopped["retained_perplexity"]) == (8, 1e9)
    assert all(torch.equal(tensor, passed[2][name]) for name, tensor in weights(result).items())
    assert any(not torch.equal(passed[3][name], passed[2][name]) for name in passed[2])


def test_the_last_step_is_checked_wherever_it_falls(root, computed, tmp_path, monkeypatch):
    monkeypatch.setattr(early_stopping, "perplexity", lambda *_: 1e9)
    result = stopping(root, computed, tmp_path / "out", stop_perplexity=0.1, epochs=1, save_steps=1000)
    assert record(result)["stopped"]["retained_perplexity"] == 1e9
    assert all(torch.equal(tensor, weights(root / "baseline")[name]) for name, tensor in weights(result).items())


def test_limits_that_are_not_reached_change_nothing(root, computed, tmp_path, prompts):
    free = stopping(root, computed, tmp_path / "free", epochs=1)
    held = stopping(root, computed, tmp_path / "held", prompts, epochs=1, stop_familiarity=1e-9)
    assert "stopped" not in record(held)
    assert all(torch.equal(tensor, weights(free)[name]) for name, tensor in weights(held).items())


def test_a_stopped_run_that_dies_before_its_result_stays_stopped(root, computed, tmp_path, prompts, monkeypatch):
    limit = 0.8 * known(root / "baseline", root, prompts)
    whole = stopping(root, computed, tmp_path / "whole", prompts, stop_familiarity=limit)
    with monkeypatch.context() as patch:

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(distillation, "trained_model", die)
        with pytest.raises(KeyboardInterrupt):
            stopping(root, computed, tmp_path / "out", prompts, stop_familiarity=limit)
    config = DistillConfig(**{**QUICK, "epochs": 6, "save_steps": 2, "stop_familiarity": limit})
    folder = distill(
        *(root / "baseline", None, tmp_path / "out"), targets=computed, prompts=prompts, config=config, resume=True
    )
    assert record(folder)["stopped"] == record(whole)["stopped"]
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(folder).items())


def test_a_limit_without_anything_to_measure_on_is_refused(root, computed, tmp_path):
    with pytest.raises(InputError) as caught:
        stopping(root, computed, tmp_path / "out", stop_familiarity=0.1)
    assert str(caught.value) == (
        "wanted prompts to measure familiarity on; got none; give a prompt file, or leave stop_familiarity out"
    )
    with pytest.raises(InputError) as caught:
        run(root, tmp_path / "out", stop_perplexity=0.1)
    assert str(caught.value) == (
        "wanted a retained corpus to measure perplexity on; got none; give one, or leave stop_perplexity out"
    )
    bare = {"reinforced": root / "adapter", "config": TargetsConfig(alpha=ALPHA, block_size=32)}
    compute_targets(root / "baseline", root / "forget.txt", tmp_path / "bare", **bare)
    with pytest.raises(InputError, match="wanted targets with retained corpora, to measure perplexity on; got "):
        stopping(root, tmp_path / "bare", tmp_path / "out", stop_perplexity=0.1)
    assert [file.name for file in tmp_path.iterdir()] == ["bare"]


# --- several processes ------------------------------------------------------------------------------------------------

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def call(arguments: list[Any]) -> None:
    """Run the command in this process."""
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    assert caught.value.code == 0


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def launch(arguments: list[Any], *program: Any, by: Sequence[Any] = TORCHRUN, **environment: str) -> None:
    """Run the command in two processes."""
    launcher = [sys.executable, "-m", *by]
    done = subprocess.run(
        [*map(str, [*launcher, *(program or ("-m", "generic_logits")), *arguments])],
        env={**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def even(root) -> Path:
    """Two texts of 8 blocks of one length."""
    draw = torch.Generator().manual_seed(0)
    for name in ("digits.txt", "other-digits.txt"):
        folders.text_file(root / name, "".join(map(str, torch.randint(10, (8 * 31,), generator=draw).tolist())))
    return root


def settings(batch_size: int) -> list[Any]:
    return ["--lora-rank", 4, "--epochs", 2, "--learning-rate", 5e-3, "--batch-size", batch_size]


def sources(root: Path) -> list[Any]:
    paths = [root / "baseline", root / "digits.txt", "--reinforced", root / "adapter"]
    return [*paths, "--retain", root / "other-digits.txt", "--block-size", 32]


def distance(some: Path, others: Path) -> float:
    """Euclidean distance between two models."""
    one, other = weights(some), weights(others)
    assert one.keys() == other.keys()
    return sum((one[name].float() - other[name].float()).pow(2).sum().item() for name in one) ** 0.5


def test_two_processes_teach_what_one_with_their_batches_together_does(even, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    call(["distill", *sources(even), *settings(4), "-o", one])
    launch(["distill", *sources(even), *settings(2), "-o", two])
    assert distance(one, even / "baseline") > 0.1
    assert distance(one, two) < 1e-3 * distance(one, even / "baseline")  # sums in another order
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]
    assert record(two)["settings"] == {**record(one)["settings"], "batch_size": 2}


def test_accelerate_launch_on_two_cpu_processes_teaches_what_torchrun_does(even, tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    on_cpu = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    port = ["--main_process_port", str(endpoints.free_port())]
    by = ["accelerate.commands.launch", *on_cpu, *port, "--mpirun_hostfile", tmp_path / "hosts"]
    mpi = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    with_mpi = {**mpi, "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    arguments = ["distill", *sources(even), *settings(2), "-o"]
    launch([*arguments, tmp_path / "accelerate"], "--module", "generic_logits", by=by, **with_mpi)
    launch([*arguments, tmp_path / "torchrun"])
    assert distance(tmp_path / "accelerate", even / "baseline") > 0.1
    assert distance(tmp_path / "accelerate", tmp_path / "torchrun") == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["accelerate", "hosts", "torchrun"]


_ON_CPU = """
import json
import sys
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from generic_logits.training import run

run._on_cpu = lambda: False
PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
from generic_logits.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
"""  # accelerate shards on GPUs alone: a CPU has to pass for one


@pytest.mark.parametrize("full", [False, True])
def test_sharded_weights_come_out_as_an_ordinary_checkpoint(even, tmp_path, full):
    def commands(name: str, batch_size: int) -> list[list[str]]:
        targets = ["targets", *sources(even), "-o", tmp_path / f"targets-{name}"]
        learning = [*settings(batch_size), *(["--full"] if full else []), "-o", tmp_path / name]
        learning = ["distill", even / "baseline", "--targets", tmp_path / f"targets-{name}", *learning]
        return [list(map(str, words)) for words in (targets, learning)]

    for words in commands("one", 4):
        call(words)
    program = folders.text_file(tmp_path / "program.py", _ON_CPU)
    sharded = yaml.safe_load((Path(__file__).parents[1] / "docs" / "fsdp.yaml").read_text())["fsdp_config"]
    environment = {
        name.upper(): value if isinstance(value, str) else str(value).lower() for name, value in sharded.items()
    }
    launch([json.dumps(commands("two", 2))], program, ACCELERATE_USE_FSDP="true", **environment)
    assert folders.digests(tmp_path / "targets-one") == folders.digests(tmp_path / "targets-two")
    one, two = tmp_path / "one", tmp_path / "two"
    assert distance(one, two) < 1e-3 * distance(one, even / "baseline")
    assert {name: tensor.dtype for name, tensor in weights(one).items()} == {
        name: tensor.dtype for name, tensor in weights(two).items()
    }
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in two.iterdir())


def test_the_file_for_accelerate_is_one_that_it_takes():
    config = load_config_from_file(str(Path(__file__).parents[1] / "docs" / "fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.fsdp_config["fsdp_version"] == 2


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_quantised_baseline_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "is_quantized", True, raising=False)
    with pytest.raises(ModelError) as caught:
        run(root, tmp_path / "out")
    assert str(caught.value) == (
        f"wanted a baseline in full precision; got quantised weights in {root / 'baseline'}; distil the original"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "wanted a finite alpha >= 0; got -1.0; 0 is the baseline, 1 to 5 is usual"),
        ({"alpha": float("nan")}, "wanted a finite alpha >= 0; got nan; 0 is the baseline, 1 to 5 is usual"),
        ({"space": "probs"}, "wanted space to be one of logits, logprobs; got 'probs'; pass space='logits'"),
        ({"threshold": -0.5}, "wanted a finite threshold >= 0; got -0.5; 0 counts every increase"),
        ({"retain_weight": -1.0}, "wanted a retain weight >= 0; got -1.0; 0 leaves the retained corpora out"),
        ({"retain_weight": float("nan")}, "wanted a retain weight >= 0; got nan; 0 leaves the retained corpora out"),
        ({"epochs": 0}, "wanted epochs of at least 1; got 0; raise epochs"),
        (
            {"trainer_options": {"output_dir": "there"}},
            "wanted trainer options without output_dir; got one; the output is an argument of its own",
        ),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings, message):
    with pytest.raises(InputError) as caught:
        DistillConfig(**settings)
    assert str(caught.value) == message


def test_a_config_cannot_be_changed_behind_its_checks():
    with pytest.raises(AttributeError):
        DistillConfig().alpha = -1.0
    assert SimpleNamespace(**vars(DistillConfig())).alpha == 5.0
