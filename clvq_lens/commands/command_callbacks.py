"""Where a command tells the course of a fit to."""

from pathlib import Path

from clvq_lens.callbacks import JSONLines, TensorBoard, WandB
from clvq_lens.training.callback import Callback


def callbacks_for(
    *, log: Path | None, tensorboard: Path | None, wandb: str | None
) -> list[Callback]:
    """The callbacks that a command line asks for.

    Args:
        log: File for lines of JSON.
        tensorboard: Folder for TensorBoard.
        wandb: Project of Weights & Biases.

    Raises:
        PathError: If the file or the folder cannot be written to.
        MissingDependencyError: If a package is not installed.
    """
    callbacks: list[Callback] = []
    if log is not None:
        callbacks.append(JSONLines(log))
    if tensorboard is not None:
        callbacks.append(TensorBoard(tensorboard))
    if wandb is not None:
        callbacks.append(WandB(project=wandb))
    return callbacks
