"""``clvq-lens cache``: activations of a user's data, kept on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from clvq_lens.commands.command_data import data_at, read_through
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.output import NOTHING, interruptible
from clvq_lens.data.store.cache import cache_activations, check_cache_options
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.errors import CommandInterruptedError
from clvq_lens.processes import Processes
from clvq_lens.writing import make_folder


def run_cache(
    model: ModelChoice,
    points: Sequence[int | str],
    data: str | Path,
    out: Path,
    *,
    options: Mapping[str, Any],
) -> ActivationStore:
    """Runs a model on a user's data and keeps its activations.

    Args:
        model: The model.
        points: Layer numbers or hook points.
        data: File of texts, or name of a data set.
        out: Folder for the activations.
        options: Options of `clvq_lens.cache_activations` by name.

    Raises:
        ConfigError: If an option is impossible.
        DataError: If the texts cannot be read, or the folder was filled from others.
        HubError: If a data set on the Hub cannot be reached.
        PathTakenError: If the folder holds other activations, or is none.
        PathError: If nothing can be written to it.
        CommandInterruptedError: On Ctrl-C.
    """
    model = model.of_process()
    make_folder(out)
    check_cache_options(**options)
    with interruptible("reading the data", NOTHING):
        opened = data_at(data)
        read_through(opened)
    with interruptible("loading the model", NOTHING):
        loaded = model.load()
    again = f"The same command goes on where {out} ends."
    with interruptible("caching", again):
        store = cache_activations(loaded, opened, out, points=points, **options)
    if not store.index.complete:
        raise CommandInterruptedError(f"Interrupted while caching. {again}")
    if Processes.current().is_first:
        Console().print(f"{escape(repr(store))} is in [bold]{escape(str(out))}[/].")
    return store
