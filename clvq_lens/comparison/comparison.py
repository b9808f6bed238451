"""Comparison: what each method gave, as tables, a figure, and a file."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.comparison.described import METRICS
from clvq_lens.errors import FileFormatError
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.plots.comparison_panels import plot_comparison
from clvq_lens.showing import Shown
from clvq_lens.writing import make_folder, write_atomically

_FORMAT = "clvq_lens comparison 2"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Methods side by side.

    Attributes:
        fits: One row for each method, fit and metric: value and 95 % interval over documents.
        n_seeds: Fits of each method.
        n_texts: Held-out texts.
        faithfulness: The faithfulness of the first fit of each method; empty without classes.
        settings: What it was measured with: numbers, and digests of texts and labels.
    """

    fits: pd.DataFrame
    n_seeds: int
    n_texts: int
    faithfulness: Mapping[str, Faithfulness]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """The names of the methods."""
        # A comparison that nothing was measured for yet has a table without columns.
        return list(self.fits["method"].unique()) if len(self.fits) else []

    def with_method(
        self, name: str, fits: pd.DataFrame, judged: Faithfulness | None
    ) -> "Comparison":
        """The same with one more method.

        Args:
            name: Name of the method.
            fits: Its rows of `fits`.
            judged: Its faithfulness.
        """
        if len(self.fits):
            # pandas would take the types of the columns from an empty table too.
            fits = pd.concat([self.fits, fits], ignore_index=True)
        faithfulness = dict(self.faithfulness)
        if judged is not None:
            faithfulness[name] = judged
        return replace(self, fits=fits.reset_index(drop=True), faithfulness=faithfulness)

    def only(self, names: Sequence[str]) -> "Comparison":
        """Some of the methods, in the order given.

        Args:
            names: Names of the methods.
        """
        tables = []
        faithfulness: dict[str, Faithfulness] = {}
        for name in names:
            tables.append(self.fits[self.fits["method"] == name])
            if name in self.faithfulness:
                faithfulness[name] = self.faithfulness[name]
        fits = pd.concat(tables, ignore_index=True)
        return replace(self, fits=fits, faithfulness=faithfulness)

    def frame(self) -> pd.DataFrame:
        """One row for each method; for each metric its mean over fits, and an interval.

        The interval reaches from the lowest lower end to the highest upper end among the fits, so
        it covers both documents and seeds.
        """
        groups = self.fits.groupby(["method", "metric"], sort=False)
        table = groups.agg(value=("value", "mean"), low=("low", "min"), high=("high", "max"))
        rows = []
        for method in self.methods:
            row: dict[str, Any] = {"method": method}
            for metric in METRICS:
                if (method, metric) in table.index:
                    value, low, high = table.loc[(method, metric)]
                    row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """The same for reading: one column for each metric, its interval in brackets."""
        frame = self.frame()
        table = pd.DataFrame({"method": frame["method"]})
        for metric, (title, _) in METRICS.items():
            if metric in frame:
                numbers = frame[[metric, f"{metric}_low", f"{metric}_high"]]
                table[title] = [_with_interval(*row) for row in numbers.itertuples(index=False)]
        return table

    def to_latex(self) -> str:
        """The table of `table` as LaTeX, with all text from data escaped; needs booktabs."""
        styled = self.table().style.hide(axis="index").format(escape="latex")
        styled = styled.format_index(escape="latex", axis="columns")
        return styled.to_latex(hrules=True)  # pyright: ignore[reportAttributeAccessIssue]

    def plot(self) -> go.Figure:
        """One panel for each metric, one line for each method, with intervals."""
        return plot_comparison(self.frame(), METRICS)

    def headline(self) -> str:
        """How many methods, texts and fits, and the method with the lowest FVU."""
        methods, fits = _counted(len(self.methods), "method"), _counted(self.n_seeds, "fit")
        sizes = f"{methods} on {_counted(self.n_texts, 'held-out text')}, {fits} of each"
        if not self.methods:
            return sizes
        fvu: dict[str, float] = {}
        for method in self.methods:
            is_mine = (self.fits["method"] == method) & (self.fits["metric"] == "fvu")
            values = self.fits.loc[is_mine, "value"]
            if len(values):
                fvu[method] = float(values.mean())
        if not fvu:
            return sizes
        best = min(fvu, key=fvu.__getitem__)
        return f"{sizes}; lowest FVU {fvu[best]:.3f} ({best})"

    def preview(self) -> pd.DataFrame | None:
        """The table for reading."""
        return self.table() if self.methods else None

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON; a file of that name is replaced in one step.

        Args:
            path: Path of the file; its folder is created if needed.

        Raises:
            PathError: If nothing can be written there.
        """
        path = Path(path)
        values = {
            "n_seeds": self.n_seeds,
            "n_texts": self.n_texts,
            "settings": dict(self.settings),
            "fits": self.fits.to_dict("list"),
            "faithfulness": {name: _as_json(judged) for name, judged in self.faithfulness.items()},
        }
        # Against edits by hand, which would pass for results.
        head = {"format": _FORMAT, "sha256": _checksum(values)}
        make_folder(path.parent)
        write_atomically(path, (json.dumps(head | values, default=_number) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """Reads what `save` wrote.

        Args:
            path: Path of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            FileFormatError: If it does not hold a comparison, or was damaged or edited.
        """
        path = Path(path)
        if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
            raise FileNotFoundError(
                f"There is no file {path}. Pass one that Comparison.save wrote."
            )
        # A file may hold anything, also nested deeper than the parser can follow.
        try:
            return cls._from_json(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FileFormatError(
                f"{path} does not hold a comparison, or is damaged: {error}. Pass a file that "
                f"Comparison.save or compare(..., keep=path) wrote."
            ) from error

    @classmethod
    def _from_json(cls, values: dict[str, Any]) -> "Comparison":
        written = values.pop("format")
        if written != _FORMAT:
            raise ValueError(f"its format is {written!r}")
        if values.pop("sha256") != _checksum(values):
            raise ValueError("it was changed after it was written")
        faithfulness: dict[str, Faithfulness] = {}
        for name, judged in values["faithfulness"].items():
            faithfulness[name] = _from_json(judged)
        return cls(
            fits=pd.DataFrame(values["fits"]),
            n_seeds=values["n_seeds"],
            n_texts=values["n_texts"],
            faithfulness=faithfulness,
            settings=values["settings"],
        )


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _with_interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return ""
    digits = 0 if abs(value) >= 10 else 3
    number = _rounded(value, digits)
    if low == high:
        return number
    return f"{number} [{_rounded(low, digits)}, {_rounded(high, digits)}]"


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 makes 0 of -0


def _checksum(values: Mapping[str, Any]) -> str:
    """The same for values as they are saved and as they are read again."""
    return hashlib.sha256(json.dumps(values, default=_number).encode()).hexdigest()


def _as_json(judged: Faithfulness) -> dict[str, Any]:
    """Its fields, with tables as columns."""
    values: dict[str, Any] = {}
    for each in fields(judged):
        value = getattr(judged, each.name)
        values[each.name] = value.to_dict("list") if isinstance(value, pd.DataFrame) else value
    return values


def _from_json(values: Mapping[str, Any]) -> Faithfulness:
    tables_and_numbers: dict[str, Any] = {}
    for name, value in values.items():
        tables_and_numbers[name] = pd.DataFrame(value) if isinstance(value, dict) else value
    return Faithfulness(**tables_and_numbers)


def _number(value: Any) -> Any:
    """numpy's numbers as Python's, which JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
