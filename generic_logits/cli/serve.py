"""``generic-logits serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from generic_logits.cli import options as o
from generic_logits.errors import InputError

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
EXAMPLE = "Example: generic-logits serve ./baseline --reinforced ./reinforced --alpha 2 --port 8000"


def run(
    context: typer.Context,
    baseline: o.Baseline,
    reinforced: o.Reinforced,
    alpha: Annotated[float, typer.Option(help="Strength for requests that name none.", show_default=False)],
    space: o.Space = o.SpaceName.logits,
    threshold: o.Threshold = 0.0,
) -> None:
    """Serve the corrected model over HTTP with vLLM; takes any option of `vllm serve`, behind BASELINE.

    A request names its own strength as "vllm_xargs": {"generic_alpha": 2.0}; 0 is the baseline.
    """
    if baseline.startswith("-"):
        raise InputError("BASELINE before the options", baseline, "see --help for an example")
    from generic_logits.vllm.server import serve

    serve(baseline, reinforced, context.args, alpha=alpha, space=space.value, threshold=threshold)
