"""Medians over interleaved runs, so that a noisy machine disturbs all contestants alike."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One contestant: its median time and the ratio to the reference."""

    benchmark: str
    contestant: str
    median_s: float
    ratio: float
    note: str = ""


def interleaved(
    contestants: Mapping[str, Callable[[], object]], *, repetitions: int
) -> dict[str, float]:
    """The median time of each contestant, in seconds; every round runs each of them once."""
    times: dict[str, list[float]] = defaultdict(list)
    for round_number in range(repetitions + 1):  # the first round warms up and does not count
        for name, contestant in contestants.items():
            _synchronize()  # or the contestant before would still be computing
            start = time.perf_counter()
            contestant()
            _synchronize()
            if round_number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def rows(benchmark: str, medians: Mapping[str, float], reference: str) -> list[Row]:
    """Medians as ratios to one of them."""
    table = []
    for name, median_s in medians.items():
        table.append(Row(benchmark, name, median_s, median_s / medians[reference]))
    return table


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _synchronize() -> None:
    """Waits for the accelerator, which returns before it has computed anything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
