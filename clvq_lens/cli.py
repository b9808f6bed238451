"""The command line: ``clvq-lens demo``, ``clvq-lens fit`` and ``clvq-lens report``.

Heavy packages are imported inside the commands, so that ``--help`` answers at once.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clvq_lens.errors import CLVQError, CommandInterruptedError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""

app = typer.Typer(
    help="Find the concepts that a language model carries from one layer to a later one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Device = Annotated[str | None, typer.Option(help="Such as cuda; default: the model's.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the quantizer and results in the folder.")
]


def _show_version(wanted: bool | None) -> None:
    if wanted:
        from clvq_lens import __version__

        typer.echo(f"clvq-lens {__version__}")
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


@contextmanager
def starting() -> Iterator[None]:
    """While open, Ctrl-C ends the process with one line.

    An interrupted import may leave a package half made, and some packages swallow the exception.
    Nothing has been done yet that would have to be undone.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def end(number: int, frame: Any) -> None:
        os.write(2, b"Interrupted while starting. Nothing was written.\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of data order, initialisation and sampling.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit on the toy world inside the package, whose true concepts are known; no network."""
    with starting():
        from clvq_lens.workflow import run_demo

    run_demo(out, seed=seed, overwrite=overwrite)


@app.command()
def fit(
    model: Annotated[str, typer.Option(help="Name, folder of a Hugging Face model, or 'toy'.")],
    source: Annotated[str, typer.Option(help="Layer number or hook point that is read.")],
    target: Annotated[str, typer.Option(help="Layer number or hook point that is reconstructed.")],
    data: Annotated[Path, typer.Option(help=".txt (a document per line) or .jsonl file.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    held_out: Annotated[
        Path | None,
        typer.Option(help="Texts to evaluate on; default: the part of the data kept aside."),
    ] = None,
    n_codes: Annotated[int, typer.Option(help="Size of the codebook.")] = 400,
    decoder: Annotated[str, typer.Option(help="transformer, mlp or table.")] = "transformer",
    n_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to train on, repetitions counted; default: sixteen times those of the "
            "data, at most two million."
        ),
    ] = None,
    kl_weight: Annotated[float, typer.Option(help="Weight of KL(clean || spliced).")] = 0.0,
    long_texts: Annotated[
        str | None,
        typer.Option(help="Texts beyond the context: split (the default), truncate or error."),
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the model's weights, such as bfloat16; default: float32.")
    ] = None,
    prepend_bos: Annotated[
        bool | None,
        typer.Option(
            "--prepend-bos/--no-prepend-bos",
            help="Whether texts begin with BOS; default: TransformerLens'.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the one generator.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit a quantizer between two layers of a model, evaluate it and save everything."""
    with starting():
        from clvq_lens.workflow import run_fit

    chosen = {"n_tokens": n_tokens, "long_texts": long_texts}
    run_fit(
        model,
        int(source) if source.isdecimal() else source,
        int(target) if target.isdecimal() else target,
        data,
        out,
        held_out=held_out,
        options={"n_codes": n_codes, "decoder": decoder},
        fit_options={
            "kl_weight": kl_weight,
            "seed": seed,
            **{name: value for name, value in chosen.items() if value is not None},
        },
        device=device,
        dtype=dtype,
        prepend_bos=prepend_bos,
        overwrite=overwrite,
    )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder that fit or demo wrote.")],
    data: Annotated[
        Path | None, typer.Option(help="Held-out texts; default: those of the run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="TransformerLens model name; default: that of the run.")
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the model's weights; default: that of the run.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that --out names.")
    ] = False,
) -> None:
    """Write one page with everything that was found, to read or to send to a colleague."""
    with starting():
        from clvq_lens.workflow import run_report

    run_report(
        run, data=data, out=out, model=model, device=device, dtype=dtype, overwrite=overwrite
    )


def main(*args: Any) -> None:
    """Runs the command line; an error ends it with one line and status 1, Ctrl-C with 130."""
    log = logging.getLogger("clvq_lens")
    log.addHandler(logging.StreamHandler())  # what is said once: dtype, BOS and the like
    log.setLevel(logging.INFO)
    try:
        app(*args)
    except (CLVQError, OSError) as error:
        interrupted = isinstance(error, CommandInterruptedError)
        name = "" if interrupted else f"{type(error).__name__}: "
        colour = typer.colors.YELLOW if interrupted else typer.colors.RED
        typer.secho(name + " ".join(str(error).split()), fg=colour, err=True)
        raise SystemExit(INTERRUPTED if interrupted else 1) from error
