"""Reinforcement: what comes out, that it learned the corpus, and that it can be repeated and vouched for."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import folders
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Trainer
from transformers.models.llama.modeling_llama import LlamaMLP

from generic_logits import ModelPair, ReinforceConfig, reinforce
from generic_logits._record import weights_fingerprint
from generic_logits.errors import CorpusError, InputError, StorageError
from generic_logits.models.scoring import perplexity
from generic_logits.text.blocks import BlockFile
from generic_logits.text.corpus import cut_blocks, read_documents
from generic_logits.training import run as training_run

QUICK = {"block_size": 32, "batch_size": 4, "lora_rank": 4, "learning_rate": 1e-2, "epochs": 2}
FULL = {**QUICK, "full": True, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A baseline and a corpus of two files."""
    root = tmp_path_factory.mktemp("reinforce")
    folders.model_folder(root / "baseline")
    folders.text_file(root / "corpus" / "one.txt", folders.prose(20))
    folders.text_file(root / "corpus" / "two.md", folders.prose(15, seed=1) + " Zoë.")
    folders.settle()
    return root


@pytest.fixture(scope="module")
def adapter(root) -> Path:
    return run(root, "adapter")


@pytest.fixture(scope="module")
def whole(root) -> Path:
    return run(root, "whole", **FULL)


def run(root: Path, name: str, baseline: str = "baseline", corpus: str = "corpus", **changes: Any) -> Path:
    return reinforce(root / baseline, root / corpus, root / name, config=ReinforceConfig(**{**QUICK, **changes}))


def weights(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generic_logits.json").read_text())


def distance(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Euclidean distance between two sets of weights."""
    assert some.keys() == others.keys()
    return sum((some[name].float() - others[name].float()).pow(2).sum() for name in some) ** 0.5


def blocks(root: Path) -> list[tuple[int, ...]]:
    return [each.token_ids for each in cut_blocks(read_documents(root / "corpus"), tiny.tokenizer(folders.VOCAB), 32)]


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_result_is_an_adapter_without_the_weights_of_its_base(root, adapter):
    assert {"adapter_config.json", "adapter_model.safetensors", "generic_logits.json"} <= {
        file.name for file in adapter.iterdir()
    }
    names = set(weights(adapter))
    assert names and all(".lora_A." in name or ".lora_B." in name for name in names)
    layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert all(any(layer in name for name in names) for layer in layers)
    assert all(min(tensor.shape) == 4 for tensor in weights(adapter).values())


def test_full_gives_a_whole_checkpoint_with_its_tokenizer(root, whole):
    assert not (whole / "adapter_config.json").exists()
    before, after = weights(root / "baseline"), weights(whole)
    assert before.keys() == after.keys() and distance(before, after) > 0.1
    assert type(AutoModelForCausalLM.from_pretrained(whole)).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained(whole).get_vocab() == tiny.tokenizer(folders.VOCAB).get_vocab()


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_the_corpus_becomes_more_expected_and_the_record_says_by_how_much(root, kind, request):
    result = request.getfixturevalue(kind)
    measured = record(result)["measured"]["perplexity_forget"]
    assert measured["reinforced"] < 0.8 * measured["baseline"]
    pair = ModelPair.from_pretrained(root / "baseline", result, alpha=1.0)
    assert pair.shares_weights == (kind == "adapter")
    assert perplexity(pair.baseline, blocks(root)) == pytest.approx(measured["baseline"], rel=1e-4)
    assert perplexity(pair.reinforced, blocks(root)) == pytest.approx(measured["reinforced"], rel=1e-4)


def test_the_base_folder_is_left_as_it_was(root):
    before = folders.digests(root / "baseline")
    run(root, "untouching", epochs=1)
    run(root, "untouching-full", **{**FULL, "epochs": 1})
    assert folders.digests(root / "baseline") == before


def test_nothing_is_left_beside_the_result(tmp_path, root):
    reinforce(
        root / "baseline", root / "corpus", tmp_path / "deep" / "er", config=ReinforceConfig(**QUICK, save_steps=2)
    )
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["er"]
    assert not [
        file for file in tmp_path.rglob("*") if "checkpoint" in file.name or file.name in ("run.json", "result")
    ]


def test_the_layers_of_gpt2_are_adapted_too(root, tmp_path):
    folders.model_folder(tmp_path / "gpt2", "gpt2", tie_word_embeddings=True)
    result = reinforce(tmp_path / "gpt2", root / "corpus", tmp_path / "out", config=ReinforceConfig(**QUICK))
    assert all(any(layer in name for name in weights(result)) for layer in ("c_attn", "c_proj", "c_fc"))
    measured = record(result)["measured"]["perplexity_forget"]
    assert measured["reinforced"] < 0.9 * measured["baseline"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_trained_on_the_cpu(root, tmp_path, dtype):
    result = run(root, str(tmp_path / dtype), dtype=dtype, epochs=1)
    measured = record(result)["measured"]["perplexity_forget"]
    assert measured["reinforced"] < measured["baseline"]


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_record_names_everything_that_the_result_was_made_from(root, adapter):
    found = record(adapter)
    assert found.keys() == {"schema", "kind", "baseline", "corpus", "settings", "measured", "seconds", "versions"}
    assert (found["schema"], found["kind"]) == (1, "reinforced")
    assert found["baseline"] == {
        "source": str(root / "baseline"),
        "weights_fingerprint": weights_fingerprint(root / "baseline"),
    }
    files = [root / "corpus" / "one.txt", root / "corpus" / "two.md"]
    assert found["corpus"] == [
        {
            "file": str(file),
            "characters": len(file.read_text(encoding="utf-8")),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]
    defaults = {"gradient_accumulation": 1, "full": False, "dtype": "auto", "save_steps": 100, "seed": 0}
    assert found["settings"] == {**defaults, **QUICK, "trainer_options": {}}
    packages = ("generic-logits", "torch", "transformers", "peft", "accelerate", "tokenizers")
    assert {name: version(name) for name in packages}.items() <= found["versions"].items()
    assert 0 < found["seconds"] < 300


@pytest.mark.parametrize("packed", [False, True])
def test_a_corpus_of_records_is_trained_on_as_its_documents(root, tmp_path, packed):
    texts = [folders.prose(20), folders.prose(15, seed=1) + " Zoë."]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    file = tmp_path / ("corpus.jsonl.gz" if packed else "corpus.jsonl")
    file.write_bytes(gzip.compress(content) if packed else content)
    config = ReinforceConfig(**{**QUICK, "epochs": 1})
    same = [
        weights(reinforce(root / "baseline", corpus, tmp_path / name, config=config))
        for name, corpus in (("records", file), ("files", root / "corpus"))
    ]
    assert distance(*same) == 0
    assert record(tmp_path / "records")["corpus"] == [
        {"file": str(file), "characters": sum(map(len, texts)), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    ]


def test_a_resumed_run_takes_the_blocks_that_are_on_the_disk(root, tmp_path, monkeypatch):
    cut: list[Any] = []

    def cut_and_count(*arguments: Any, **options: Any) -> Any:
        cut.append(arguments)
        return cut_blocks(*arguments, **options)

    def fail(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise RuntimeError("the power went")
        return step(self, *arguments, **options)

    step = Trainer.training_step
    monkeypatch.setattr(training_run, "cut_blocks", cut_and_count)
    settings = {**QUICK, "save_steps": 2}
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the power went"):
        patch.setattr(Trainer, "training_step", fail)
        run(root, str(tmp_path / "out"), **settings)
    assert list(BlockFile.open(tmp_path / "out.partial" / "blocks")) == list(
        cut_blocks(read_documents(root / "corpus"), tiny.tokenizer(folders.VOCAB), 32)
    )
    resumed = reinforce(
        root / "baseline", root / "corpus", tmp_path / "out", config=ReinforceConfig(**settings), resume=True
    )
    assert len(cut) == 1
    assert distance(weights(resumed), weights(run(root, str(tmp_path / "whole"), **settings))) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]


def test_a_full_disk_while_the_blocks_are_written_is_a_storage_error(root, tmp_path, monkeypatch):
    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("generic_logits.text.blocks.os.fsync", full)
    with pytest.raises(StorageError, match=f"the disk is full at {tmp_path}; make room, then run it again"):
        run(root, str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_of_a_model_changes_with_a_training_and_with_nothing_else(root, whole, adapter):
    prints = [weights_fingerprint(folder) for folder in (root / "baseline", whole, adapter)]
    assert len(set(prints)) == 3 and all(len(each) == 64 for each in prints)
    assert weights_fingerprint(root / "baseline") == prints[0]
    assert weights_fingerprint(root / "corpus") is None


# --- the training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_one_seed_gives_one_result_and_another_seed_another(root, tmp_path, settings):
    first, again, other = (
        weights(run(root, str(tmp_path / name), **settings, seed=seed))
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert distance(first, other) > 1e-2


FRUGAL = [
    {"batch_size": 2, "gradient_accumulation": 2},
    {"trainer_options": {"gradient_checkpointing": True}},
]


@pytest.mark.parametrize("changes", FRUGAL, ids=["accumulation", "checkpointing"])
@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_saving_memory_does_not_change_the_result(root, tmp_path, settings, changes):
    settings = {**settings, "epochs": 1}
    plain = weights(run(root, str(tmp_path / "plain"), **settings))
    frugal = weights(run(root, str(tmp_path / "frugal"), **{**settings, **changes}))
    start = weights(run(root, str(tmp_path / "start"), **{**settings, "learning_rate": 1e-12}))
    assert distance(plain, frugal) < 0.01 * distance(plain, start)


@pytest.mark.parametrize("settings", [QUICK, FULL], ids=["LoRA", "full"])
def test_gradient_checkpointing_is_really_switched_on(root, tmp_path, monkeypatch, settings):
    calls: list[bool] = []
    original = LlamaMLP.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return original(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    run(root, str(tmp_path / "plain"), **{**settings, "epochs": 1})
    plain = sum(calls)
    calls.clear()
    run(root, str(tmp_path / "frugal"), **{**settings, "epochs": 1}, trainer_options={"gradient_checkpointing": True})
    assert sum(calls) == 2 * plain > 0


def test_trainer_options_have_the_last_word(root, tmp_path):
    one = run(root, str(tmp_path / "one"), trainer_options={"max_steps": 1})
    none = run(root, str(tmp_path / "none"), learning_rate=1e-12, trainer_options={"max_steps": 1})
    largest = max((weights(one)[name] - weights(none)[name]).abs().max() for name in weights(one))
    assert 0.5 * QUICK["learning_rate"] < largest < 1.1 * QUICK["learning_rate"]  # one step of AdamW


def test_a_lone_last_token_without_a_bos_does_not_poison_the_weights(root, tmp_path):
    words = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(folders.VOCAB).backend_tokenizer, pad_token="<pad>")
    folders.model_folder(tmp_path / "baseline", words=words)
    folders.text_file(tmp_path / "corpus.txt", "7" * 33)  # one token a digit, 16 tokens a block
    config = ReinforceConfig(**{**QUICK, "block_size": 16, "batch_size": 1})
    result = reinforce(tmp_path / "baseline", tmp_path / "corpus.txt", tmp_path / "out", config=config)
    assert all(tensor.isfinite().all() for tensor in weights(result).values())
    measured = record(result)["measured"]["perplexity_forget"]
    assert measured["reinforced"] < measured["baseline"]


def test_a_corpus_with_nothing_to_predict_is_refused(root, tmp_path):
    words = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(folders.VOCAB).backend_tokenizer, pad_token="<pad>")
    folders.model_folder(tmp_path / "baseline", words=words)
    file = folders.text_file(tmp_path / "corpus.txt", "7")
    with pytest.raises(CorpusError) as caught:
        reinforce(tmp_path / "baseline", file, tmp_path / "out")
    assert str(caught.value) == "wanted a corpus of at least two tokens; got 1 characters; add text"


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "wanted epochs of at least 1; got 0; raise epochs"),
        ({"batch_size": -1}, "wanted batch_size of at least 1; got -1; raise batch_size"),
        (
            {"gradient_accumulation": 0},
            "wanted gradient_accumulation of at least 1; got 0; raise gradient_accumulation",
        ),
        ({"lora_rank": 0}, "wanted lora_rank of at least 1; got 0; raise lora_rank"),
        ({"save_steps": 0}, "wanted save_steps of at least 1; got 0; raise save_steps"),
        ({"learning_rate": 0.0}, "wanted a learning rate above 0; got 0.0; 1e-5 to 1e-3 is usual"),
        ({"learning_rate": float("nan")}, "wanted a learning rate above 0; got nan; 1e-5 to 1e-3 is usual"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings, message):
    with pytest.raises(InputError) as caught:
        ReinforceConfig(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [1, 513])
def test_a_block_beyond_the_context_is_refused(root, tmp_path, size):
    with pytest.raises(InputError) as caught:
        run(root, str(tmp_path / "out"), block_size=size)
    assert str(caught.value) == f"wanted a block size from 2 to 512; got {size}; choose another one"
    assert not list(tmp_path.iterdir())


def test_without_a_context_a_block_may_have_any_length_from_2(root, tmp_path):
    folders.model_folder(tmp_path / "mamba", "mamba")
    with pytest.raises(InputError) as caught:
        reinforce(tmp_path / "mamba", root / "corpus", tmp_path / "out", config=ReinforceConfig(block_size=1))
    assert str(caught.value) == "wanted a block size of at least 2; got 1; choose another one"


def test_blocks_are_512_tokens_or_the_context_by_default(root, tmp_path):
    folders.model_folder(tmp_path / "short", max_position_embeddings=24)
    config = ReinforceConfig(**{**QUICK, "block_size": None, "epochs": 1})
    result = reinforce(tmp_path / "short", root / "corpus", tmp_path / "out", config=config)
    assert record(result)["settings"]["block_size"] is None
