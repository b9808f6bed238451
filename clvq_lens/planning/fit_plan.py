"""FitPlan: time, memory and disk of a fit that has not been begun."""

from dataclasses import dataclass

import pandas as pd

from clvq_lens.showing import Shown, bytes_in_words


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of a fit.

    Attributes:
        name: "read the model", or a phase as in `History.seconds`.
        n_tokens: Tokens that it goes through, repetitions counted.
        wall_s: Seconds that it will take.
    """

    name: str
    n_tokens: int
    wall_s: float


@dataclass(frozen=True, kw_only=True, repr=False)
class FitPlan(Shown):
    """What a fit will take.

    Attributes:
        phases: In their order. An encoder or a fit that improves no more ends earlier.
        disk_bytes: Size of the activations on disk.
        model_bytes: Memory of the model; on this machine, of all that the process holds already.
        fit_bytes: Memory of the fit beside the model, at its peak.
        device_bytes: Memory of the device, or of one of several.
        where: What the figures are for.
        basis: How they are known.
    """

    phases: tuple[PlannedPhase, ...]
    disk_bytes: int
    model_bytes: int
    fit_bytes: int
    device_bytes: int
    where: str
    basis: str

    @property
    def wall_s(self) -> float:
        """Seconds of all phases."""
        return sum(phase.wall_s for phase in self.phases)

    @property
    def memory_bytes(self) -> int:
        """Memory of model and fit together."""
        return self.model_bytes + self.fit_bytes

    @property
    def fits(self) -> bool:
        """Whether model and fit have room on one device."""
        return self.memory_bytes <= self.device_bytes

    def headline(self) -> str:
        """Time, memory and disk."""
        room = ""
        if not self.fits:
            room = (
                f" (more than the {bytes_in_words(self.device_bytes)} of one device: spread the "
                f"model with device_map, or quantize it)"
            )
        return (
            f"{self.where}: {_duration(self.wall_s)}, {bytes_in_words(self.memory_bytes)} of memory"
            f"{room}, {bytes_in_words(self.disk_bytes)} on disk. {self.basis}"
        )

    def preview(self) -> pd.DataFrame:
        """The phases."""
        return self.frame()

    def frame(self) -> pd.DataFrame:
        """One row for each phase, and one for all of them."""
        columns: dict[str, object] = {
            "phase": [*(phase.name for phase in self.phases), "all"],
            # As objects: a column of numbers with a gap would make floats of whole numbers.
            "tokens": pd.Series([*(phase.n_tokens for phase in self.phases), None], dtype=object),
            "seconds": [*(phase.wall_s for phase in self.phases), self.wall_s],
        }
        return pd.DataFrame(columns)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 100 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
