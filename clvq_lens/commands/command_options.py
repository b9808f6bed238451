"""The options of all commands: types, what the help says, and what a shell completes.

Nothing heavy is imported: help and completion answer at once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clvq_lens.commands.config_file import FileSettings, read_settings
from clvq_lens.planning.gpus import GPUS

# What typer passes is of the class that its own derives from, which is that of click or a copy.
if TYPE_CHECKING:
    Context = typer.Context
else:
    Context = typer.Context.__base__


def _completing(**meanings: str) -> Callable[[], list[tuple[str, str]]]:
    """What a shell completes an option with; the command itself checks what it is given.

    Each value has a meaning, which shells show, and without which zsh completes nothing.
    """
    choices = [(value.lstrip("_"), meaning) for value, meaning in meanings.items()]
    return lambda: choices


# ---- a file in the place of flags ----------------------------------------------------------------


def _fill_in(context: Context, path: Path | None) -> Path | None:
    """Makes what a file says the defaults of the flags, so that flags go before it."""
    if path is not None and not context.resilient_parsing:  # as while a shell completes
        settings = read_settings(path, str(context.command.name))
        context.default_map = dict(settings.flags)
        context.obj = settings
    return path


def settings_of(context: Context) -> FileSettings:
    """What the file of --config says beside flags; nothing without a file.

    Args:
        context: That of the command.
    """
    return context.obj or FileSettings(flags={})


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="File with these options: .yaml, .toml or .json, or run.json of a run, to do it "
        "again. Keys are named as the flags, with _ for -. Flags go before it.",
        callback=_fill_in,
        is_eager=True,  # before any other option looks for its default
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document for machines, errors too.")
]


# ---- model, data and fit -------------------------------------------------------------------------


def given(**options: object) -> dict[str, object]:
    """The options that are not None, so that the defaults of others are those of the library."""
    return {name: value for name, value in options.items() if value is not None}


def layer_or_hook_point(text: str) -> int | str:
    """What a user means by a source, a target or a point: a number is a layer."""
    return int(text) if text.isdecimal() else text


ModelOption = Annotated[
    str,
    typer.Option(
        help="Name, folder of a Hugging Face model, or 'toy'.",
        autocompletion=_completing(toy="the small one inside the package"),
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="Such as cuda; default: the model's.",
        autocompletion=_completing(cpu="processor", cuda="GPU of NVIDIA", mps="GPU of Apple"),
    ),
]
_DTYPES = _completing(
    float32="32 bits", bfloat16="16 bits, wide range", float16="16 bits, narrow range"
)
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="Type of the model's weights, such as bfloat16; default: float32.",
        autocompletion=_DTYPES,
    ),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        help="auto or balanced: spread the model over all devices; default: one device.",
        autocompletion=_completing(auto="as accelerate decides", balanced="evenly"),
    ),
]
QuantizeOption = Annotated[
    str | None,
    typer.Option(
        help="4bit or 8bit: weights by bitsandbytes; default: as they are.",
        autocompletion=_completing(_4bit="NF4", _8bit="whole numbers"),
    ),
]
PrependBosOption = Annotated[
    bool | None,
    typer.Option(
        "--prepend-bos/--no-prepend-bos",
        help="Whether texts begin with BOS; default: TransformerLens'.",
    ),
]
SourceOption = Annotated[str, typer.Option(help="Layer number or hook point that is read.")]
TargetOption = Annotated[
    str, typer.Option(help="Layer number or hook point that is reconstructed.")
]
_TEXTS = (
    ".txt (a document per line), .jsonl, .txt.gz, .jsonl.gz or .parquet file; or a data set of "
    "Hugging Face, as hf:NAME[:SPLIT[:COLUMN]]"
)
DataOption = Annotated[
    str, typer.Option(help=f"{_TEXTS}; or a folder that clvq-lens cache filled.")
]
TextsOption = Annotated[str, typer.Option(help=f"{_TEXTS}.")]
PointsOption = Annotated[
    list[str], typer.Option("--point", help="Layer number or hook point; give it once for each.")
]
StoreDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--store-dtype",
        help="bfloat16, float16 or float32: type of activations on disk; default: the model's.",
        autocompletion=_DTYPES,
    ),
]
StoreTokensOption = Annotated[
    int | None,
    typer.Option("--n-tokens", help="Tokens to read, of documents in random order; default: all."),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for checkpoints, from which --resume goes on; activations are kept there too."
    ),
]
CheckpointEveryOption = Annotated[float, typer.Option(help="Seconds between two checkpoints.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the last checkpoint in that folder.")
]
LogOption = Annotated[
    Path | None, typer.Option(help="File that gets a line of JSON for each validation.")
]
TensorBoardOption = Annotated[
    Path | None, typer.Option("--tensorboard", help="Folder for TensorBoard; one for each fit.")
]
WandBOption = Annotated[
    str | None, typer.Option("--wandb", help="Project of Weights & Biases that gets a run.")
]
HeldOutOption = Annotated[
    str | None,
    typer.Option(
        help="Texts to evaluate on, as for --data; default: the part of the data kept aside."
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.")]
NCodesOption = Annotated[int, typer.Option(help="Size of the codebook.")]
EncoderOption = Annotated[
    str,
    typer.Option(
        help="predictive (codes of the target as predicted) or residual (the paper).",
        autocompletion=_completing(
            predictive="codes of the target as predicted",
            residual="codes of the source (the paper)",
        ),
    ),
]
DecoderOption = Annotated[
    str,
    typer.Option(
        help="transformer, mlp or table.",
        autocompletion=_completing(
            transformer="reads the codes of the sequence",
            mlp="reads the code of one token",
            table="mean target of each code",
        ),
    ),
]
NTokensOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens to train on, repetitions counted; default: sixteen times those of the data, "
        "at most two million."
    ),
]
KlWeightOption = Annotated[float, typer.Option(help="Weight of KL(clean || spliced).")]
LongTextsOption = Annotated[
    str | None,
    typer.Option(
        help="Texts beyond the context: split (the default), truncate or error.",
        autocompletion=_completing(
            split="into pieces", truncate="keep the beginning", error="refuse"
        ),
    ),
]
SeedOption = Annotated[
    int, typer.Option(help="Random seed for data order, initialization and sampling.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the quantizer and results in the folder.")
]
GpuOption = Annotated[
    str | None,
    typer.Option(
        help="Kind of GPU, such as H100; default: measure this machine.",
        autocompletion=lambda: [
            (gpu.name, f"{gpu.memory_bytes >> 30} GB") for gpu in GPUS.values()
        ],
    ),
]

# ---- saved runs ----------------------------------------------------------------------------------

RunArgument = Annotated[Path, typer.Argument(help="Folder that fit or demo wrote.")]
OtherDataOption = Annotated[
    str | None,
    typer.Option("--data", help="Held-out texts, as for fit; default: those of the run."),
]
ModelOfRunOption = Annotated[
    str | None, typer.Option(help="Name or folder of the model; default: that of the run.")
]
DtypeOfRunOption = Annotated[
    str | None,
    typer.Option(
        help="Type of the model's weights; default: that of the run.", autocompletion=_DTYPES
    ),
]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="fvu, controls, ce or kl; give it once for each. Default: all of them.",
        autocompletion=_completing(
            fvu="variance unexplained, and how codes are used",
            controls="the same with random codes",
            ce="cross-entropy with the target replaced",
            kl="KL of predictions",
        ),
    ),
]
