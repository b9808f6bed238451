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

from clvq_lens.errors import FileFormatError
from clvq_lens.faithfulness.result import Faithfulness
from clvq_lens.plots.methods import METRICS, plot_methods
from clvq_lens.writing import make_folder, write_atomically

_FORMAT = "clvq_lens comparison 2"


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        fits: One row for each method, fit and metric: value and 95 % interval over documents.
        n_seeds: Fits of each method.
        n_texts: Held-out texts.
        faithfulness: Of each method, for its first fit; empty without labels.
        settings: What it was measured with: numbers, and digests of texts and labels.
    """

    fits: pd.DataFrame
    n_seeds: int
    n_texts: int
    faithfulness: Mapping[str, Faithfulness]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Their names."""
        return list(self.fits["method"].unique()) if len(self.fits) else []

    def with_method(
        self, name: str, fits: pd.DataFrame, judged: Faithfulness | None
    ) -> "Comparison":
        """The same with one more method.

        Args:
            name: Of the method.
            fits: Its rows of `fits`.
            judged: Its faithfulness.
        """
        parts = [part for part in (self.fits, fits) if len(part)]
        found = {**self.faithfulness, **({} if judged is None else {name: judged})}
        return replace(self, fits=pd.concat(parts, ignore_index=True), faithfulness=found)

    def only(self, names: Sequence[str]) -> "Comparison":
        """Some of the methods, in the order given.

        Args:
            names: Of the methods.
        """
        parts = [self.fits[self.fits["method"] == name] for name in names]
        found = {name: self.faithfulness[name] for name in names if name in self.faithfulness}
        return replace(self, fits=pd.concat(parts, ignore_index=True), faithfulness=found)

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
        columns = {"method": frame["method"]}
        for metric, described in METRICS.items():
            if metric in frame:
                triples = zip(*(frame[metric + end] for end in ("", "_low", "_high")), strict=True)
                columns[described.title] = [_with_interval(*triple) for triple in triples]
        return pd.DataFrame(columns)

    def to_latex(self) -> str:
        """The table of `table` as LaTeX, with what data bring escaped; needs booktabs."""
        styled = self.table().style.hide(axis="index").format(escape="latex")
        styled = styled.format_index(escape="latex", axis="columns")
        return styled.to_latex(hrules=True)  # pyright: ignore[reportAttributeAccessIssue]

    def plot(self) -> go.Figure:
        """One panel for each metric, one line for each method, with intervals."""
        return plot_methods(self.frame())

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON; a file of that name is replaced in one step.

        Args:
            path: Of the file; its folder is created if needed.

        Raises:
            PathError: If nothing can be written there.
        """
        path = Path(path)
        values = {
            **{"n_seeds": self.n_seeds, "n_texts": self.n_texts},
            **{"settings": dict(self.settings), "fits": self.fits.to_dict("list")},
            "faithfulness": {name: _plain(found) for name, found in self.faithfulness.items()},
        }
        head = {"format": _FORMAT, "sha256": _digest(values)}
        make_folder(path.parent)
        write_atomically(path, (json.dumps(head | values, default=_number) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """Reads what `save` wrote.

        Args:
            path: Of the file.

        Raises:
            FileNotFoundError: If there is none.
            FileFormatError: If it is no comparison, or one that was damaged or edited.
        """
        path = Path(path)
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"There is no file {path}. Pass one that Comparison.save wrote."
            )
        try:
            values = json.loads(path.read_text())
            if (written := values.pop("format")) != _FORMAT:
                raise ValueError(f"its format is {written!r}")
            if values.pop("sha256") != _digest(values):
                raise ValueError("it was changed after it was written")
            return cls(
                fits=pd.DataFrame(values["fits"]),
                n_seeds=values["n_seeds"],
                n_texts=values["n_texts"],
                faithfulness={name: _read(v) for name, v in values["faithfulness"].items()},
                settings=values["settings"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FileFormatError(
                f"{path} is no comparison, or a damaged one: {error}. Pass a file that "
                f"Comparison.save or compare(..., keep=path) wrote."
            ) from error

    def __repr__(self) -> str:
        head = f"{self.n_texts:,} texts, {self.n_seeds} fits of each method"
        return f"{head}\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)


def _with_interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return ""
    digits = 0 if abs(value) >= 10 else 3
    number, *ends = (f"{round(x, digits) + 0.0:.{digits}f}" for x in (value, low, high))
    return number if low == high else f"{number} [{', '.join(ends)}]"


def _digest(values: Mapping[str, Any]) -> str:
    """The same for values as they are saved and as they are read again."""
    return hashlib.sha256(json.dumps(values, default=_number).encode()).hexdigest()


def _plain(found: Faithfulness) -> dict[str, Any]:
    """Its fields, with tables as columns."""
    values = {each.name: getattr(found, each.name) for each in fields(found)}
    return {
        name: value.to_dict("list") if isinstance(value, pd.DataFrame) else value
        for name, value in values.items()
    }


def _read(values: Mapping[str, Any]) -> Faithfulness:
    tables_and_numbers: dict[str, Any] = {
        name: pd.DataFrame(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return Faithfulness(**tables_and_numbers)


def _number(value: Any) -> Any:
    """numpy's numbers as Python's, which JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
