"""The command line: a thin skin over the Python API.

A command's module is imported when the command is used, and heavy libraries inside commands, so
that `ladle --help` answers at once.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from ladle import __version__
from ladle.errors import LadleError

_COMMANDS = (
    "inspect",
    "check",
    "average",
    "cook",
    "evaluate",
    "sweep",
    "landscape",
    "compare",
    "report",
    "demo",
)


class _Commands(click.Group):
    """Commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"ladle.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="ladle %(version)s")
def ladle() -> None:
    """Model soups: average fine-tuned checkpoints, and judge the result honestly."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    0 done, 1 failed, 2 wrong input, 3 checked and not soupable, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A result is worth more than a character that the terminal lacks.
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    try:
        ladle.main(arguments, prog_name="ladle", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        return _complain(
            "interrupted; cook, sweep, landscape, compare and demo go on from here when run again",
            130,
        )
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LadleError as error:
        _show_traceback(arguments)
        return _complain(str(error), error.exit_code)
    except OSError as error:
        _show_traceback(arguments)
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}", 1)
    except Exception as error:  # noqa: BLE001 -- the one place that answers for a defect of ours
        _show_traceback(arguments)
        kind = type(error).__name__
        return _complain(f"{kind}: {error} (a defect of ladle; --debug shows where)", 1)
    return 0


def _complain(sentence: str, exit_code: int) -> int:
    click.echo(f"ladle: {sentence}", err=True)
    return exit_code


def _show_traceback(arguments: list[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exc()
