"""The command line: ``clvq-lens demo``, ``fit``, ``cache``, ``plan``, ``evaluate`` and ``report``.

Heavy packages are imported inside the commands, so that ``--help`` answers at once; and after
whatever can be refused without them, so that a mistake is named at once, too.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from clvq_lens.commands.cache_command import cache
from clvq_lens.commands.command_options import OutOption, OverwriteOption, SeedOption
from clvq_lens.commands.fit_command import fit
from clvq_lens.commands.plan_command import plan
from clvq_lens.commands.refusals import check_fit_options, check_results
from clvq_lens.commands.saved_run_commands import evaluate, report
from clvq_lens.commands.starting import INTERRUPTED, starting
from clvq_lens.commands.telling import BY_TORCHRUN, JSON, error_document, write_json
from clvq_lens.errors import CLVQError, CommandInterruptedError, TerminatedError

TERMINATED = 143
"""Exit status after SIGTERM, once a checkpoint was written."""

app = typer.Typer(
    help="Find the concepts that a language model carries from one layer to a later one.",
    epilog="To complete commands, options and their values with the tab key in bash, zsh, fish or "
    "PowerShell: clvq-lens --install-completion, once.",
    no_args_is_help=True,
    # `main` prints errors itself, in one line each.
    pretty_exceptions_enable=False,
)

# ---- commands ------------------------------------------------------------------------------------


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"clvq-lens {version('clvq-lens')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", help="Show the version and end.", callback=_show_version, is_eager=True
        ),
    ] = None,
) -> None:
    """Find the concepts that a language model carries from one layer to a later one."""


@app.command()
def demo(
    out: OutOption = Path("runs/demo"), seed: SeedOption = 0, overwrite: OverwriteOption = False
) -> None:
    """Fit on the toy world inside the package, whose true concepts are known; no network."""
    check_fit_options({}, {"seed": seed})
    check_results(out, overwrite=overwrite)
    with starting():
        from clvq_lens.commands.run_demo import run_demo

    run_demo(out, seed=seed, overwrite=overwrite)


for command in (fit, cache, plan, evaluate, report):
    app.command()(command)

# ---- the program ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    An error ends it with one line and status 1, a mistake in the options with status 2, Ctrl-C with
    130, SIGTERM during a fit with checkpoints with 143. With --json the error is a document on
    standard output, too.

    Args:
        arguments: Words of the command; None: those of this process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    log = logging.getLogger("clvq_lens")
    level, handler = log.level, logging.StreamHandler()
    log.addHandler(handler)  # notices of dtype, BOS and the like
    log.setLevel(logging.INFO)
    try:
        _run(words)
    except (CLVQError, OSError) as error:
        _end(error, as_json=JSON in words)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _run(words: Sequence[str]) -> None:
    run = _run_for_machines if JSON in words else app
    if BY_TORCHRUN not in os.environ:
        run(words)
        return
    with starting():
        from clvq_lens.commands.together import joined

    with joined():
        run(words)


def _run_for_machines(words: Sequence[str]) -> None:
    """Runs a command whose mistakes in the options, and whose failures, are documents, too."""
    try:
        status = app(words, standalone_mode=False)
    except (CLVQError, OSError):
        raise
    except Exception as error:
        # What typer raises for a mistake in the options knows its message and its status.
        message = getattr(error, "format_message", lambda: str(error))()
        status = getattr(error, "exit_code", 1)
        write_json(error_document(error, message, status))
        if not hasattr(error, "format_message"):
            raise  # nobody has foreseen it, and its traceback helps
        typer.secho(message, fg=typer.colors.RED, err=True)
    raise SystemExit(status)


def _end(error: CLVQError | OSError, *, as_json: bool) -> None:
    """Ends the process with one line, and with a document for machines."""
    # Ctrl-C is what the user wanted, not a failure, so it has no name of an error.
    interrupted = isinstance(error, CommandInterruptedError)
    status = INTERRUPTED if interrupted else 1
    if isinstance(error, TerminatedError):
        status = TERMINATED
    name = "" if interrupted else f"{type(error).__name__}: "
    message = " ".join(str(error).split())
    if as_json:
        write_json(error_document(error, message, status))
    color = typer.colors.YELLOW if interrupted else typer.colors.RED
    typer.secho(name + message, fg=color, err=True)
    raise SystemExit(status) from error
