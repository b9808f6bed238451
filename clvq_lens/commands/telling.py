"""What a command tells on standard output: tables for people, or one document for machines."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

import typer

JSON = "--json"
BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""An environment variable that torchrun sets."""
_RANK = "RANK"  # of this process among those that torchrun has started; the first one speaks


@contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """While open, what is printed goes to standard error, if standard output is for a document.

    Tables of ours do, and what other libraries print while they load a model.

    Args:
        wanted: Whether it is.
    """
    if not wanted:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def write_json(document: Mapping[str, object]) -> None:
    """Writes a document to standard output; of processes that work together, the first one does.

    Args:
        document: Anything that JSON holds. NaN is refused: it is not JSON.
    """
    if BY_TORCHRUN in os.environ and os.environ.get(_RANK, "0") != "0":
        return
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def error_document(error: BaseException, message: str, status: int) -> dict[str, object]:
    """An error as a document.

    Args:
        error: The error, whose class is its name.
        message: What it says.
        status: Status that the process ends with.
    """
    return {"error": {"type": type(error).__name__, "message": message, "status": status}}
