"""Make a language model stop knowing a text, at decode time or for good.

The public names are imported on first use, so that ``import generic_logits`` itself is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generic_logits.errors import GenericLogitsError
    from generic_logits.models.pair import ModelPair
    from generic_logits.models.processor import GenericLogitsProcessor
    from generic_logits.ops import correct_logits
    from generic_logits.training.distillation import DistillConfig, distill
    from generic_logits.training.reinforcement import ReinforceConfig, reinforce

__version__ = "0.1.0"

_HOME = {
    "DistillConfig": "training.distillation",
    "GenericLogitsError": "errors",
    "GenericLogitsProcessor": "models.processor",
    "ModelPair": "models.pair",
    "ReinforceConfig": "training.reinforcement",
    "correct_logits": "ops",
    "distill": "training.distillation",
    "reinforce": "training.reinforcement",
}

__all__ = [
    "DistillConfig",
    "GenericLogitsError",
    "GenericLogitsProcessor",
    "ModelPair",
    "ReinforceConfig",
    "correct_logits",
    "distill",
    "reinforce",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
