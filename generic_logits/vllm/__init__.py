"""Both branches inside vLLM: ``LLM(**engine_args(...))``, ``generic-logits serve``, or ``vllm serve --hf-overrides``.

Importing this package does not import vLLM. vLLM itself calls ``register`` in each of its processes, through the entry
point group ``vllm.general_plugins``.
"""

from __future__ import annotations

import logging

from generic_logits.errors import InputError
from generic_logits.vllm.arguments import ARCHITECTURE, REQUEST_ALPHA, check_version, engine_args

__all__ = ["ARCHITECTURE", "REQUEST_ALPHA", "engine_args", "register"]


def register() -> None:
    """Make vLLM know the architecture; called by vLLM in each of its processes.

    A vLLM outside the tested range is left alone, with a warning: it may be there for other models.
    """
    try:
        check_version()
    except InputError as error:
        logging.getLogger(__name__).warning("%s is not registered: %s", ARCHITECTURE, error)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from generic_logits.vllm.settings import StartCheck

    ModelRegistry.register_model(ARCHITECTURE, f"generic_logits.vllm.model:{ARCHITECTURE}")
    MODELS_CONFIG_MAP[ARCHITECTURE] = StartCheck
