"""Make a language model stop knowing a text, at decode time or for good.

The public names are imported on first use, so that ``import generic_logits`` itself is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generic_logits.discovery.find import find_anchors
    from generic_logits.errors import GenericLogitsError
    from generic_logits.evaluation.calibration import CalibrateConfig, calibrate
    from generic_logits.evaluation.evaluate import EvaluateConfig, evaluate
    from generic_logits.evaluation.report import Report
    from generic_logits.models.generic_model import GenericForCausalLM
    from generic_logits.models.pair import ModelPair
    from generic_logits.models.processor import GenericLogitsProcessor
    from generic_logits.ops import correct_logits
    from generic_logits.text.anchors import Anchors
    from generic_logits.text.translation import translate
    from generic_logits.training.distillation import DistillConfig, distill
    from generic_logits.training.reinforcement import ReinforceConfig, reinforce
    from generic_logits.training.targets import TargetsConfig, compute_targets
    from generic_logits.training.unlearning import UnlearnConfig, unlearn

__version__ = "0.1.0"

_HOME = {
    "Anchors": "text.anchors",
    "CalibrateConfig": "evaluation.calibration",
    "DistillConfig": "training.distillation",
    "EvaluateConfig": "evaluation.evaluate",
    "GenericForCausalLM": "models.generic_model",
    "GenericLogitsError": "errors",
    "GenericLogitsProcessor": "models.processor",
    "ModelPair": "models.pair",
    "ReinforceConfig": "training.reinforcement",
    "Report": "evaluation.report",
    "TargetsConfig": "training.targets",
    "UnlearnConfig": "training.unlearning",
    "calibrate": "evaluation.calibration",
    "compute_targets": "training.targets",
    "correct_logits": "ops",
    "distill": "training.distillation",
    "evaluate": "evaluation.evaluate",
    "find_anchors": "discovery.find",
    "reinforce": "training.reinforcement",
    "translate": "text.translation",
    "unlearn": "training.unlearning",
}

__all__ = [
    "Anchors",
    "CalibrateConfig",
    "DistillConfig",
    "EvaluateConfig",
    "GenericForCausalLM",
    "GenericLogitsError",
    "GenericLogitsProcessor",
    "ModelPair",
    "ReinforceConfig",
    "Report",
    "TargetsConfig",
    "UnlearnConfig",
    "calibrate",
    "compute_targets",
    "correct_logits",
    "distill",
    "evaluate",
    "find_anchors",
    "reinforce",
    "translate",
    "unlearn",
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
