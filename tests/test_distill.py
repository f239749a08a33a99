"""Distillation: an ordinary checkpoint comes out, it moved towards the generic targets, and it moved nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folders
import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from generic_logits import DistillConfig, ModelPair, ReinforceConfig, correct_logits, distill, reinforce
from generic_logits._record import weights_fingerprint
from generic_logits.errors import InputError, ModelError
from generic_logits.models.scoring import perplexity
from generic_logits.text.corpus import Block, cut_blocks, read_documents
from generic_logits.training import distillation
from generic_logits.training.distillation import merged_state_dict
from generic_logits.training.run import TrainConfig, with_lora
from generic_logits.training.targets import distance_to_targets, generic_targets

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


def run(root: Path, output: Path, *, reinforced: str = "adapter", retain: bool = False, **changes: Any) -> Path:
    return distill(
        root / "baseline",
        root / "forget.txt",
        output,
        reinforced=root / reinforced,
        retain=[root / "retain"] if retain else [],
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
    """Let ``distill`` run, and keep its trainer and copies of the baseline's weights before and after training."""
    kept: dict[str, Any] = {}
    original = distillation.run_trainer

    def run_trainer(trainer: Any, folder: Any) -> None:
        baseline = trainer._pair.baseline
        kept["before"] = {name: tensor.clone() for name, tensor in baseline.state_dict().items()}
        original(trainer, folder)
        kept["after"] = {name: tensor.clone() for name, tensor in baseline.state_dict().items()}
        kept["trainer"] = trainer

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
        *("schema", "kind", "baseline", "reinforced", "corpus", "retain", "settings", "measured", "seconds", "versions")
    }
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
            assert measured[key][name] == pytest.approx(perplexity(model, blocks(root, corpus)), rel=1e-4)


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


def test_one_copy_of_the_base_weights_serves_baseline_reinforced_and_student(root, tmp_path, monkeypatch):
    kept = captured_trainer(monkeypatch)
    run(root, tmp_path / "out", retain=True, epochs=2)
    trainer = kept["trainer"]
    places = {parameter.data_ptr() for parameter in trainer._pair.baseline.parameters()}
    for model in (trainer._pair.reinforced, trainer.model):
        of_base = {each.data_ptr() for name, each in model.named_parameters() if "lora_" not in name}
        assert of_base == places
        assert any("lora_" in name for name, _ in model.named_parameters())
    adapters = [
        {each.data_ptr() for name, each in model.named_parameters() if "lora_" in name}
        for model in (trainer._pair.reinforced, trainer.model)
    ]
    assert not adapters[0] & adapters[1]


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_the_baseline_in_memory_keeps_every_bit(root, tmp_path, monkeypatch, settings):
    kept = captured_trainer(monkeypatch)
    result = run(root, tmp_path / "out", retain=True, **{**settings, "epochs": 1})
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


# --- targets and distance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["logits", "logprobs"])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("wide", [0, 11])
@pytest.mark.parametrize("forget", [0, 2, 3])
def test_targets_are_generic_where_the_text_is_forgotten_and_the_baseline_elsewhere(space, threshold, wide, forget):
    baseline, reinforced = tiny.pair(vocab_size=VOCAB + wide)
    options = {"space": space, "threshold": threshold}
    pair = ModelPair(baseline, reinforced, alpha=ALPHA, tokenizer=tiny.tokenizer(VOCAB), **options)
    rows = tiny.prompts(9, 4, 7, vocab=VOCAB)
    ids, mask = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.zeros(3, 9, dtype=torch.long)
    for number, row in enumerate(rows):
        mask[number, : len(row)] = 1
    targets = generic_targets(pair, ids, mask, forget)
    assert targets.shape == (3, 9, VOCAB) and not targets.requires_grad
    for number, row in enumerate(rows):
        for position in range(len(row)):
            b, r = (tiny.last_logits(each, [row[: position + 1]])[0, :VOCAB] for each in (baseline, reinforced))
            expected = correct_logits(b, r, ALPHA, backend="reference", **options) if number < forget else b
            torch.testing.assert_close(targets[number, position], expected, rtol=1e-6, atol=1e-6)
    b, r = (tiny.last_logits(each, [rows[0]])[0, :VOCAB] for each in (baseline, reinforced))
    assert (correct_logits(b, r, ALPHA, **options) - b).abs().max() > 1  # the correction is no formality here


def test_the_reinforced_model_reads_forgotten_rows_alone():
    baseline, reinforced = tiny.pair(vocab_size=VOCAB)
    pair = ModelPair(baseline, reinforced, alpha=ALPHA)
    seen = []
    reinforced.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"].shape[0]), with_kwargs=True)
    ids = torch.stack(tiny.prompts(5, 5, 5, vocab=VOCAB))
    generic_targets(pair, ids, torch.ones_like(ids), 2)
    generic_targets(pair, ids, torch.ones_like(ids), 0)
    generic_targets(pair.with_alpha(0), ids, torch.ones_like(ids), 2)
    assert seen == [2]


def test_the_distance_is_the_mean_over_real_positions():
    student, targets = torch.randn(3, 5, 11, dtype=torch.float64) * 3, torch.randn(3, 5, 11, dtype=torch.float64) * 3
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    soft, hard = [], []
    for row, position in mask.nonzero().tolist():
        p, q = targets[row, position].softmax(-1), student[row, position].softmax(-1)
        soft.append((p * (p / q).log()).sum())
        hard.append(-q[targets[row, position].argmax()].log())
    of = {wanted: distance_to_targets(student, targets, mask, hard=wanted).double() for wanted in (False, True)}
    torch.testing.assert_close(of[False], torch.stack(soft).mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of[True], torch.stack(hard).mean(), rtol=1e-5, atol=1e-6)
    assert len(soft) == 10


def test_the_distance_to_itself_is_0_and_its_gradient_too():
    student = torch.randn(2, 4, 11, requires_grad=True)
    mask = torch.ones(2, 4, dtype=torch.long)
    loss = distance_to_targets(student, student.detach(), mask, hard=False)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6


def test_padding_has_no_gradient():
    student, targets = torch.randn(2, 4, 11, requires_grad=True), torch.randn(2, 4, 11)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    for hard in (False, True):
        (grad,) = torch.autograd.grad(distance_to_targets(student, targets, mask, hard=hard), student)
        assert (grad[1, 1:] == 0).all() and (grad[mask.bool()].abs().sum(-1) > 0).all()


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


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 2, "gradient_accumulation": 2}, {"trainer_options": {"gradient_checkpointing": True}}],
    ids=["accumulation", "checkpointing"],
)
@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_saving_memory_does_not_change_the_result(root, tmp_path, settings, changes):
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


# --- the schedule -----------------------------------------------------------------------------------------------------


def some_blocks(name: str, count: int) -> list[Block]:
    return [Block(name, number, number + 1, (number,)) for number in range(count)]


@pytest.mark.parametrize(("forget", "retained", "epochs"), [(7, 3, 4), (3, 7, 5), (4, 4, 2), (1, 5, 3)])
def test_every_retained_block_is_used_before_any_is_repeated(forget, retained, epochs):
    schedule = distillation._schedule(
        some_blocks("f", forget), some_blocks("r", retained), DistillConfig(epochs=epochs, seed=5)
    )
    assert len(schedule) == forget * epochs and all(len(entry) == 2 for entry in schedule)
    drawn = [entry[1].start for entry in schedule]
    for start in range(0, len(drawn), retained):
        hand = drawn[start : start + retained]
        assert len(set(hand)) == len(hand)
    for epoch in range(epochs):
        shown = [entry[0].start for entry in schedule[epoch * forget : (epoch + 1) * forget]]
        assert sorted(shown) == list(range(forget))
    assert {entry[0].document for entry in schedule} == {"f"} and {entry[1].document for entry in schedule} == {"r"}


def test_every_epoch_has_an_order_of_its_own_which_the_seed_decides():
    def orders(seed: int) -> list[tuple[int, ...]]:
        config = DistillConfig(epochs=3, seed=seed)
        schedule = distillation._schedule(some_blocks("f", 20), [], config)
        assert all(len(entry) == 1 for entry in schedule)
        return [tuple(entry[0].start for entry in schedule[at : at + 20]) for at in (0, 20, 40)]

    assert len(set(orders(0))) == 3 and orders(0) == orders(0) and not set(orders(0)) & set(orders(1))


def test_the_trainer_shows_the_schedule_in_its_order(root, tmp_path, monkeypatch):
    seen: list[tuple[int, ...]] = []
    original = distillation._collate

    def collate(entries: Any) -> Any:
        seen.extend(entry[0].token_ids for entry in entries)
        return original(entries)

    monkeypatch.setattr(distillation, "_collate", collate)
    run(root, tmp_path / "out", epochs=3, seed=2)
    blocks = list(cut_blocks(read_documents(root / "forget.txt"), tiny.tokenizer(VOCAB), 32))
    schedule = distillation._schedule(blocks, [], DistillConfig(epochs=3, seed=2))
    assert seen == [entry[0].token_ids for entry in schedule]
    assert set(Counter(seen).values()) == {3}


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
