"""Which LoRA adapters can be served beside their base; imports no vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generic_logits.errors import ModelError

_KEEPING_THE_BASE = ("gaussian", "eva", "orthogonal")  # initialisations, beside true and false, that leave it alone


def adapter_settings(folder: str) -> dict[str, Any]:
    """Read a PEFT folder's settings.

    Raises:
        ModelError: it is not a plain LoRA adapter.
    """
    try:
        config: dict[str, Any] = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise cannot_serve(folder, f"an adapter_config.json that cannot be read ({error})") from error
    initialisation = config.get("init_lora_weights", True)
    changes_base = isinstance(initialisation, str) and initialisation.lower() not in _KEEPING_THE_BASE
    unsupported = {
        str(config.get("peft_type")): config.get("peft_type") != "LORA",
        "DoRA": config.get("use_dora"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "trained tokens": config.get("trainable_token_indices"),
        "target parameters": config.get("target_parameters"),
        "replicated layers": config.get("layer_replication"),
        "invocation tokens": config.get("alora_invocation_tokens"),
        f"the initialisation {initialisation!r}, which changes the base,": changes_base,
    }
    for name, value in config.items():  # variants of LoRA, known and unknown
        if name.startswith("use_") and name != "use_rslora" or name.endswith("_config") and name != "eva_config":
            unsupported.setdefault(name, value)
    for what, present in unsupported.items():
        if present:
            raise cannot_serve(folder, what)
    return config


def cannot_serve(folder: str, what: str) -> ModelError:
    """Return the error that names what an adapter has too much."""
    return ModelError(
        "a plain LoRA adapter on linear layers, with whole embeddings and heads at most",
        f"{what} in {folder}",
        "merge the adapter into full weights and serve two copies",
    )
