"""The options of all commands: their types and what the help says. Nothing heavy is imported."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option(help="Name, folder of a Hugging Face model, or 'toy'.")]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cuda; default: the model's.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="Type of the model's weights, such as bfloat16; default: float32."),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(help="auto or balanced: spread the model over all devices; default: one device."),
]
QuantizeOption = Annotated[
    str | None,
    typer.Option(help="4bit or 8bit: weights by bitsandbytes; default: as they are."),
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
    str, typer.Option(help="predictive (codes of the target as predicted) or residual (the paper).")
]
DecoderOption = Annotated[str, typer.Option(help="transformer, mlp or table.")]
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
    typer.Option(help="Texts beyond the context: split (the default), truncate or error."),
]
SeedOption = Annotated[
    int, typer.Option(help="Random seed for data order, initialization and sampling.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the quantizer and results in the folder.")
]
