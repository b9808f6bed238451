"""The command line: ``clvq-lens demo``, ``fit``, ``cache``, ``plan`` and ``report``.

Heavy packages are imported inside the commands, so that ``--help`` answers at once; and after
whatever can be refused without them, so that a mistake is named at once, too.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from clvq_lens.commands.command_options import (
    CheckpointEveryOption,
    CheckpointOption,
    DataOption,
    DecoderOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    HeldOutOption,
    KlWeightOption,
    LogOption,
    LongTextsOption,
    ModelOption,
    NCodesOption,
    NTokensOption,
    OutOption,
    OverwriteOption,
    PointsOption,
    PrependBosOption,
    QuantizeOption,
    ResumeOption,
    SeedOption,
    SourceOption,
    StoreDtypeOption,
    StoreTokensOption,
    TargetOption,
    TensorBoardOption,
    TextsOption,
    WandBOption,
)
from clvq_lens.commands.refusals import (
    check_checkpoints,
    check_counts,
    check_data,
    check_dtype_name,
    check_fit_options,
    check_page,
    check_results,
    check_run,
)
from clvq_lens.errors import CLVQError, CommandInterruptedError, TerminatedError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""
TERMINATED = 143
"""Exit status after SIGTERM, once a checkpoint was written."""

_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # an environment variable that torchrun sets

app = typer.Typer(
    help="Find the concepts that a language model carries from one layer to a later one.",
    no_args_is_help=True,
    add_completion=False,
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


@contextmanager
def starting() -> Iterator[None]:
    """While open, Ctrl-C ends the process at once, with one line.

    For the imports of a command: a `KeyboardInterrupt` may leave a package half imported, and some
    packages swallow it. Nothing has been done yet that would have to be undone.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Somebody else's handler, or a process that ignores Ctrl-C, stays as it is.
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        # os.write and os._exit: nothing of Python that an interrupted import may hold locked.
        os.write(2, b"Interrupted while starting. Nothing was written.\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@app.command()
def fit(
    model: ModelOption,
    source: SourceOption,
    target: TargetOption,
    data: DataOption,
    out: OutOption,
    held_out: HeldOutOption = None,
    n_codes: NCodesOption = 400,
    encoder: EncoderOption = "predictive",
    decoder: DecoderOption = "transformer",
    n_tokens: NTokensOption = None,
    kl_weight: KlWeightOption = 0.0,
    long_texts: LongTextsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    prepend_bos: PrependBosOption = None,
    device_map: DeviceMapOption = None,
    quantize: QuantizeOption = None,
    seed: SeedOption = 0,
    checkpoint: CheckpointOption = None,
    checkpoint_every: CheckpointEveryOption = 300.0,
    resume: ResumeOption = False,
    log: LogOption = None,
    tensorboard: TensorBoardOption = None,
    wandb: WandBOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit a quantizer between two layers of a model, evaluate it and save everything."""
    options: dict[str, object] = {"n_codes": n_codes, "encoder": encoder, "decoder": decoder}
    fit_options: dict[str, object] = {"kl_weight": kl_weight, "seed": seed}
    # Left out unless given, so that defaults are those of the library.
    if n_tokens is not None:
        fit_options["n_tokens"] = n_tokens
    if long_texts is not None:
        fit_options["long_texts"] = long_texts
    check_fit_options(options, fit_options)
    check_dtype_name(dtype)
    check_data(data, held_out)
    if _BY_TORCHRUN not in os.environ:  # which may start a fit again, after it was saved
        check_results(out, overwrite=overwrite)
    check_checkpoints(checkpoint, every_s=checkpoint_every, resume=resume)
    with starting():
        from clvq_lens.commands.command_callbacks import callbacks_for
        from clvq_lens.commands.command_model import ModelChoice
        from clvq_lens.commands.fit_and_write import Checkpointing
        from clvq_lens.commands.run_fit import run_fit

    run_fit(
        ModelChoice(
            name=model,
            device=device,
            dtype=dtype,
            prepend_bos=prepend_bos,
            device_map=device_map,
            quantize=quantize,
        ),
        _layer_or_hook_point(source),
        _layer_or_hook_point(target),
        data,
        out,
        held_out=held_out,
        options=options,
        fit_options=fit_options,
        overwrite=overwrite,
        checkpointing=Checkpointing(folder=checkpoint, every_s=checkpoint_every, resume=resume),
        callbacks=callbacks_for(log=log, tensorboard=tensorboard, wandb=wandb),
    )


@app.command()
def cache(
    model: ModelOption,
    point: PointsOption,
    data: TextsOption,
    out: OutOption,
    n_tokens: StoreTokensOption = None,
    store_dtype: StoreDtypeOption = None,
    long_texts: LongTextsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    prepend_bos: PrependBosOption = None,
    device_map: DeviceMapOption = None,
    quantize: QuantizeOption = None,
    seed: SeedOption = 0,
) -> None:
    """Run a model once and keep its activations, so that fits read the disk and not the model."""
    # A store takes of these what a fit takes.
    of_fit = {"n_tokens": n_tokens, "seed": seed, "long_texts": long_texts}
    check_fit_options({}, {name: value for name, value in of_fit.items() if value is not None})
    check_dtype_name(dtype)
    check_dtype_name(store_dtype)
    check_data(data)
    with starting():
        from clvq_lens.commands.command_model import ModelChoice
        from clvq_lens.commands.run_cache import run_cache

    options: dict[str, object] = {"n_tokens": n_tokens, "dtype": store_dtype, "seed": seed}
    if long_texts is not None:
        options["long_texts"] = long_texts
    run_cache(
        ModelChoice(
            name=model,
            device=device,
            dtype=dtype,
            prepend_bos=prepend_bos,
            device_map=device_map,
            quantize=quantize,
        ),
        list(map(_layer_or_hook_point, point)),
        data,
        out,
        options=options,
    )


@app.command()
def plan(
    model: ModelOption,
    source: SourceOption,
    target: TargetOption,
    n_tokens: Annotated[int, typer.Option(help="Tokens that the model reads.")],
    gpu: Annotated[
        str | None,
        typer.Option(help="Kind of GPU, such as H100; default: measure this machine."),
    ] = None,
    n_gpus: Annotated[int, typer.Option(help="How many of them.")] = 1,
    context: Annotated[int, typer.Option(help="Tokens of a text, about.")] = 256,
    n_codes: NCodesOption = 400,
    encoder: EncoderOption = "predictive",
    decoder: DecoderOption = "transformer",
    training_tokens: NTokensOption = None,
    kl_weight: KlWeightOption = 0.0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Say what a fit will take in time, memory and disk, here or on GPUs of some kind."""
    options: dict[str, object] = {"n_codes": n_codes, "encoder": encoder, "decoder": decoder}
    fit_options: dict[str, object] = {"n_tokens": training_tokens, "kl_weight": kl_weight}
    check_fit_options(options, fit_options)
    check_dtype_name(dtype)
    check_counts(n_tokens=n_tokens, context=context, n_gpus=n_gpus)
    with starting():
        from clvq_lens.commands.command_model import ModelChoice
        from clvq_lens.commands.run_plan import run_plan

    run_plan(
        ModelChoice(name=model, device=device, dtype=dtype),
        _layer_or_hook_point(source),
        _layer_or_hook_point(target),
        n_tokens,
        gpu=gpu,
        n_gpus=n_gpus,
        context=context,
        options=options,
        fit_options=fit_options,
    )


def _layer_or_hook_point(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder that fit or demo wrote.")],
    data: Annotated[
        str | None,
        typer.Option(help="Held-out texts, as for fit; default: those of the run."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Path of the page; default: report.html in the folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the model; default: that of the run.")
    ] = None,
    device: DeviceOption = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of the model's weights; default: that of the run.")
    ] = None,
    device_map: DeviceMapOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that --out names.")
    ] = False,
) -> None:
    """Write one page with all results, to read or to send to a colleague."""
    check_run(run)
    check_dtype_name(dtype)
    check_data(data)
    check_page(out, overwrite=overwrite)
    with starting():
        from clvq_lens.commands.run_report import run_report

    run_report(
        run,
        data=data,
        out=out,
        model=model,
        device=device,
        dtype=dtype,
        device_map=device_map,
        overwrite=overwrite,
    )


def _run(arguments: Sequence[str] | None) -> None:
    if _BY_TORCHRUN not in os.environ:
        app(arguments)
        return
    with starting():
        from clvq_lens.commands.together import joined

    with joined():
        app(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    An error ends it with one line and status 1, Ctrl-C with status 130, SIGTERM during a fit with
    checkpoints with 143.

    Args:
        arguments: Words of the command; None: those of this process.
    """
    log = logging.getLogger("clvq_lens")
    level, handler = log.level, logging.StreamHandler()
    log.addHandler(handler)  # notices of dtype, BOS and the like
    log.setLevel(logging.INFO)
    try:
        _run(arguments)
    except (CLVQError, OSError) as error:
        # Ctrl-C is what the user wanted, not a failure, so it has no name of an error.
        interrupted = isinstance(error, CommandInterruptedError)
        status = INTERRUPTED if interrupted else 1
        if isinstance(error, TerminatedError):
            status = TERMINATED
        name = "" if interrupted else f"{type(error).__name__}: "
        color = typer.colors.YELLOW if interrupted else typer.colors.RED
        typer.secho(name + " ".join(str(error).split()), fg=color, err=True)
        raise SystemExit(status) from error
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
