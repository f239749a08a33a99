"""The command ``generic-logits``: one thin file for each of its words, and the exit status of them all."""

from __future__ import annotations

import sys

import click
import typer

from generic_logits.cli import demo, distill, generate, reinforce
from generic_logits.errors import GenericLogitsError, InputError

app = typer.Typer(
    name="generic-logits",
    help="Make a language model stop knowing a text, at decode time or for good.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, generate, reinforce, distill):
    app.command(epilog=command.EXAMPLE)(command.run)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 2 bad input in one line, 130 on Ctrl-C, 1 anything else."""
    try:
        status = app(arguments, prog_name="generic-logits", standalone_mode=False)
    except InputError as error:
        status = _refuse(str(error))
    except click.ClickException as error:
        status = _refuse(f"{error.format_message()} (--help shows the options)")
    except GenericLogitsError as error:
        _refuse(str(error))
        status = 1
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
