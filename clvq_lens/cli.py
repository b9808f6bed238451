"""The command line: ``clvq-lens demo``, ``clvq-lens fit`` and ``clvq-lens report``.

Heavy packages are imported inside the commands, so that ``--help`` answers at once.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from clvq_lens.errors import CLVQError

app = typer.Typer(
    help="Find the concepts that a language model carries from one layer to a later one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of data order, initialisation and sampling.")] = 0,
) -> None:
    """Fit on the toy world inside the package, whose true concepts are known; no network."""
    from clvq_lens.workflow import run_demo

    run_demo(out, seed=seed)


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
        str, typer.Option(help="Texts beyond the context: error, split or truncate.")
    ] = "error",
    device: Annotated[str | None, typer.Option(help="Such as cuda; default: the model's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the one generator.")] = 0,
) -> None:
    """Fit a quantizer between two layers of a model, evaluate it and save everything."""
    from clvq_lens.workflow import run_fit

    run_fit(
        model,
        int(source) if source.isdecimal() else source,
        int(target) if target.isdecimal() else target,
        data,
        out,
        held_out=held_out,
        options={"n_codes": n_codes, "decoder": decoder},
        fit_options={
            "n_tokens": n_tokens,
            "kl_weight": kl_weight,
            "long_texts": long_texts,
            "seed": seed,
        },
        device=device,
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
    device: Annotated[str | None, typer.Option(help="Such as cuda; default: the model's.")] = None,
) -> None:
    """Write one page with everything that was found, to read or to send to a colleague."""
    from clvq_lens.workflow import run_report

    run_report(run, data=data, out=out, model=model, device=device)


def main(*args: Any) -> None:
    """Runs the command line; an error of ours ends it with its message and status 1."""
    try:
        app(*args)
    except (CLVQError, FileNotFoundError) as error:
        typer.secho(f"{type(error).__name__}: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(1) from error
