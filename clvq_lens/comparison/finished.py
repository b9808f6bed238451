"""What a comparison with checkpoints has finished: fits, and what was measured of each of them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from clvq_lens.comparison.comparison import Comparison
from clvq_lens.data.interrupt import ended_by_termination
from clvq_lens.errors import FileFormatError
from clvq_lens.evaluation.ablation_costs import AblationCosts
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import free_name
from clvq_lens.lens import Lens
from clvq_lens.quantizer.files import load
from clvq_lens.quantizer.saved import CONFIG
from clvq_lens.training.checkpoint import EVERY_S, Checkpoints

WORK = "comparison"
"""What it is called in messages."""

Measured = tuple[pd.DataFrame, Faithfulness | None]
"""Rows of `Comparison.fits`, and the faithfulness of the first fit."""


class FinishedWork:
    """Keeps every fit, and what it gave, the moment it is done; without a folder, nothing.

    Args:
        folder: Folder of the comparison; None: nothing is kept.
        identity: Tells what has to be the same for a comparison to go on.
        empty: The comparison without anything that was measured.
        resume: Whether to go on with what is in the folder.

    Raises:
        CheckpointError: If there is nothing to go on with, or it is of another comparison.
        PathTakenError: If the folder holds a comparison, and ``resume`` is off.
    """

    def __init__(
        self,
        folder: str | Path | None,
        identity: Callable[[], Mapping[str, Any]],
        empty: Comparison,
        *,
        resume: bool,
    ) -> None:
        self._empty = empty
        self.ablation_costs = AblationCosts()
        """What ablations cost the model; other evaluations would give it in other digits."""
        self._folder: Path | None = None
        if folder is None:
            return
        self._checkpoints = Checkpoints(
            folder, identity(), every_s=EVERY_S, resume=resume, work=WORK
        )
        self._folder = self._checkpoints.folder
        if self._checkpoints.resumed is None:
            self._save_costs()  # from here on, the folder is that of this comparison
        else:
            self.ablation_costs.restore_(self._checkpoints.resumed["ablation_costs"])

    def _save_costs(self) -> None:
        self._checkpoints.save({"ablation_costs": self.ablation_costs.state()})

    def ended_by_termination(self) -> AbstractContextManager[None]:
        """While open, SIGTERM ends the comparison with an error that says how to go on."""
        if self._folder is None:
            return nullcontext()
        return ended_by_termination(
            f"What is finished is in {self._folder}; resume=True goes on from it."
        )

    def fit(self, host: Host, names: Sequence[str], fit: Callable[[Path | None], Lens]) -> Lens:
        """A fit, which is loaded if it was finished before.

        Args:
            host: The model.
            names: What tells it from all other fits.
            fit: Fits it, given a folder for checkpoints of its own.

        Raises:
            FileFormatError: If what is in the folder is damaged.
        """
        if self._folder is None:
            return fit(None)
        path = self._folder / "fits" / _file_name(names)
        running = self._folder / "running" / _file_name(names)
        if (path / CONFIG).is_file():
            lens = _loaded(path, host)
        else:
            lens = fit(running)
            try:
                lens.save(path)
            except BaseException:
                lens.remove()
                raise
        shutil.rmtree(running, ignore_errors=True)
        return lens

    def measured(self, names: Sequence[str], measure: Callable[[], Measured]) -> Measured:
        """What was measured of a fit, which is read if it was finished before.

        Args:
            names: What tells it from all other measurements; it begins with method and decoder.
            measure: Measures it.

        Raises:
            FileFormatError: If what is in the folder is damaged.
        """
        if self._folder is None:
            return measure()
        path = self._folder / "measured" / f"{_file_name(names)}.json"
        row = (names[0], names[1])
        if not path.is_file():
            fits, judged = measure()
            measured = replace(
                self._empty, fits=fits, faithfulness={} if judged is None else {row: judged}
            )
            # Before the numbers: those of later fits may depend on what this one has added.
            self._save_costs()
            measured.save(path)
        try:
            # Also what was written just now, so that it is the same whether read now or later.
            kept = Comparison.load(path)
        except FileFormatError as error:
            raise FileFormatError(f"{error} Or delete {path} to measure that again.") from error
        return kept.fits, kept.faithfulness.get(row)


def _file_name(names: Sequence[str]) -> str:
    """A name that any disk takes, another one for other names."""
    # Percent signs take the place of slashes, commas and the like in the names of lenses.
    return ",".join(quote(name, safe=" ") for name in names)


def _loaded(path: Path, host: Host) -> Lens:
    """A fit on the model, as it was when it was saved."""
    try:
        quantizer = load(path)
    except FileFormatError as error:
        raise FileFormatError(f"{error} Or delete {path} to fit that again.") from error
    origin = quantizer.origin
    assert origin is not None  # every fit records it
    return Lens(
        Attachment(
            host,
            quantizer,
            free_name(host.model, origin.name),
            host.protocol.local(origin.source),
            host.protocol.local(origin.target),
        )
    )
