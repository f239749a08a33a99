"""The command ``generic-logits``: one thin file for each of its words, and the exit status of them all."""

from __future__ import annotations

import sys
from typing import Any

import typer

from generic_logits.cli import anchors, calibrate, demo, distill, evaluate, generate, reinforce, serve, targets, unlearn
from generic_logits.errors import GenericLogitsError, InputError

COMMANDS = {
    "demo": demo,
    "generate": generate,
    "unlearn": unlearn,
    "reinforce": reinforce,
    "anchors": anchors,
    "targets": targets,
    "distill": distill,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "serve": serve,
}
UsageError: Any = typer.BadParameter.__mro__[1]  # typer carries its own click and does not name this class

app = typer.Typer(
    name="generic-logits",
    help="Make a language model stop knowing a text, at decode time or for good.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, module in COMMANDS.items():
    settings = getattr(module, "CONTEXT_SETTINGS", None)
    app.command(name, epilog=module.EXAMPLE, context_settings=settings)(module.run)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 2 bad input in one line, 130 on Ctrl-C, 1 anything else."""
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    try:
        return app(arguments, prog_name="generic-logits", standalone_mode=False) or 0
    except InputError as error:
        return _say(str(error), 2)
    except GenericLogitsError as error:
        return _say(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", 130)
    except UsageError as error:
        message = error.format_message()
        return _say(f"{message} (see --help)", 2) if message else 2  # without any words the help was shown


def _say(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
