"""What a command refuses before anything heavy is imported, so that a mistake is named at once.

Commands check all of it again, and more: this module imports neither torch nor pandas.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from clvq_lens.arguments import check_choice, check_count, check_positive
from clvq_lens.config import METRICS, CLVQConfig, DtypeName, FitConfig, Metric
from clvq_lens.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FileFormatError,
    PathTakenError,
)
from clvq_lens.writing import make_folder

RUN = "run.json"
"""A file of every folder that ``fit`` or ``demo`` wrote."""
RUN_FORMAT_VERSION = 3
"""What is written there now."""
_QUANTIZER = "config.json"  # CONFIG of clvq_lens.quantizer.saved, which imports torch
_LONGEST_NAME = 100  # characters, of what a file is named after


def check_fit_options(options: Mapping[str, object], fit_options: Mapping[str, object]) -> None:
    """Raises `ConfigError` unless these are options of a quantizer and of a fit."""
    CLVQConfig().replace(**options)
    FitConfig().replace(**fit_options)


def check_dtype_name(dtype: str | None) -> None:
    """Raises `ConfigError` unless models may have weights of that type; None: the default."""
    if dtype is not None:
        check_choice("dtype", dtype.removeprefix("torch."), get_args(DtypeName))


def check_counts(**counts: int) -> None:
    """Raises `ConfigError` unless all of them are whole numbers above 0."""
    for name, count in counts.items():
        check_count(name, count)


def check_data(*places: str | None) -> None:
    """Raises `DataError` if a file or folder of data does not exist.

    Args:
        *places: What a user gave as data; None: nothing.
    """
    for place in places:
        # A name that begins so may be that of a data set, about which the Hub has to be asked.
        if place is not None and not place.startswith("hf:") and not Path(place).exists():
            raise DataError(f"There is no file {place}. Check the path.")


def check_results(out: Path, *, overwrite: bool) -> None:
    """Raises `PathTakenError` if results cannot go to a folder, which need not exist.

    Args:
        out: The folder.
        overwrite: Whether a quantizer in it may be replaced.
    """
    if out.exists():
        make_folder(out)  # says what is wrong if it is a file
    # Both, or it may be the file of another program, which may not be replaced either.
    if not overwrite and (out / _QUANTIZER).is_file() and (out / RUN).is_file():
        raise holds_quantizer(out)


def holds_quantizer(out: Path) -> PathTakenError:
    """The error for a folder whose quantizer may not be replaced."""
    return PathTakenError(
        f"{out} already holds a fitted quantizer. Pass another folder, or --overwrite to replace "
        f"it."
    )


def check_checkpoints(folder: Path | None, *, every_s: float, resume: bool) -> None:
    """Raises unless checkpoints can be written to a folder, or gone on with.

    Args:
        folder: The folder; None: none are written.
        every_s: Seconds between two checkpoints.
        resume: Whether to go on with the last one.

    Raises:
        ConfigError: If there is no folder to go on from, or no time between two checkpoints.
        CheckpointError: If that folder does not exist.
    """
    check_positive("checkpoint_every", every_s)
    if not resume:
        return
    if folder is None:
        raise ConfigError("--resume needs a folder to go on from. Pass it with --checkpoint.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} holds no checkpoint to go on with: there is no such folder. Pass the folder "
            f"of the fit that was interrupted, or leave --resume out to begin."
        )


def check_run(folder: Path) -> None:
    """Raises `FileFormatError` if a folder was not written by ``fit`` or ``demo``."""
    if not (folder / RUN).is_file():
        raise FileFormatError(
            f"{folder} is not a run: it has no {RUN}. Pass a folder that clvq-lens fit or "
            f"clvq-lens demo wrote."
        )


def checked_metrics(metrics: Sequence[str] | None) -> list[Metric]:
    """What an evaluation is to measure.

    Args:
        metrics: Names that a user gave; None: everything.

    Raises:
        ConfigError: If one of them is no such name.
    """
    for metric in metrics or ():
        check_choice("metrics", metric, METRICS)
    return [metric for metric in METRICS if not metrics or metric in metrics]


def evaluation_table(run: Path, data: str | Path | None, out: Path | None) -> Path:
    """Path of the table of an evaluation.

    Args:
        run: Folder of the run.
        data: Data that are evaluated; None: those that the run kept aside.
        out: Path that the user asked for; None: a file in the folder, named after the data.

    Example:
        >>> evaluation_table(Path("run"), "hf:user/name:test", None).name
        'evaluation-user-name-test.csv'
    """
    if out is not None:
        return out
    if data is None:
        return run / "evaluation.csv"
    place = str(data)
    if place.startswith("hf:"):
        place = place.removeprefix("hf:")
    else:
        place = Path(place).name.partition(".")[0]
    words = re.sub(r"[^\w.]+", "-", place).strip("-.")[:_LONGEST_NAME]
    return run / f"evaluation-{words}.csv"


def check_output_file(out: Path | None, *, overwrite: bool) -> None:
    """Raises `PathTakenError` if a page or a table would replace a file.

    Args:
        out: Its path; None: report.html in the folder of the run, which is ours.
        overwrite: Whether it may be replaced.
    """
    if out is not None and out.exists() and not overwrite:
        raise PathTakenError(f"{out} exists. Pass --overwrite to replace it, or another path.")
