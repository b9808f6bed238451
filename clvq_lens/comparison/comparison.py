"""Comparison: what each method gave, as tables, a figure, and a file."""

import hashlib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.arguments import closest
from clvq_lens.comparison.described import BOUNDS, METRICS
from clvq_lens.errors import ConfigError, FileFormatError
from clvq_lens.faithfulness.faithfulness import Faithfulness
from clvq_lens.plots.comparison_panels import plot_comparison
from clvq_lens.showing import Shown, told_apart, with_interval
from clvq_lens.stats.jackknife import DocumentEstimate
from clvq_lens.writing import make_folder, write_atomically

_FORMAT = "clvq_lens comparison 4"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Methods side by side, each with one or more decoders.

    Attributes:
        fits: One row for each method, decoder, fit and metric: value and 95 % interval over
            documents, and codes where they matter. Those of specific drops are as wide as Holm's
            method asks; see `Faithfulness.specific`. ``influences`` and ``freedom``: what
            `differences` are made of; see `clvq_lens.stats.jackknife.DocumentEstimate`.
        n_seeds: Fits of each method.
        n_texts: Held-out texts.
        faithfulness: The faithfulness of the first fit, by method and decoder; empty without
            classes.
        settings: What it was measured with: numbers, and digests of texts and labels.
    """

    fits: pd.DataFrame
    n_seeds: int
    n_texts: int
    faithfulness: Mapping[tuple[str, str], Faithfulness]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Method and decoder of each row of the table."""
        # A comparison that nothing was measured for yet has a table without columns.
        if not len(self.fits):
            return []
        pairs = self.fits[["method", "decoder"]].drop_duplicates()
        return list(pairs.itertuples(index=False, name=None))

    @property
    def methods(self) -> list[str]:
        """The names of the methods."""
        return list(dict.fromkeys(method for method, _ in self.rows))

    def with_rows(
        self, method: str, decoder: str, fits: pd.DataFrame, judged: Faithfulness | None
    ) -> "Comparison":
        """The same with one more method, or with another decoder of one.

        Args:
            method: Name of the method.
            decoder: Kind of its decoder.
            fits: Its rows of `fits`.
            judged: Its faithfulness.
        """
        if len(self.fits):
            # pandas would take the types of the columns from an empty table too.
            fits = pd.concat([self.fits, fits], ignore_index=True)
        faithfulness = dict(self.faithfulness)
        if judged is not None:
            faithfulness[method, decoder] = judged
        return replace(self, fits=fits.reset_index(drop=True), faithfulness=faithfulness)

    def only(self, rows: Sequence[tuple[str, str]]) -> "Comparison":
        """Some of the rows, in the order given; those that were not measured are left out.

        Args:
            rows: Methods and decoders.
        """
        tables = [self.fits.head(0)]
        faithfulness: dict[tuple[str, str], Faithfulness] = {}
        for method, decoder in rows:
            if (method, decoder) not in self.rows:
                continue
            is_mine = (self.fits["method"] == method) & (self.fits["decoder"] == decoder)
            tables.append(pd.DataFrame(self.fits[is_mine]))
            if (method, decoder) in self.faithfulness:
                faithfulness[method, decoder] = self.faithfulness[method, decoder]
        fits = pd.concat(tables, ignore_index=True)
        return replace(self, fits=fits, faithfulness=faithfulness)

    def frame(self) -> pd.DataFrame:
        """One row for each method and decoder; of each metric its mean over fits, and an interval.

        The interval reaches from the lowest lower end to the highest upper end among the fits, so
        it covers both documents and seeds. A specific drop whose interval lies above the smallest
        effect is one that every fit called specific.
        """
        groups = self.fits.groupby(["method", "decoder", "metric"], sort=False)
        table = groups.agg(value=("value", "mean"), low=("low", _least), high=("high", _largest))
        rows = []
        for method, decoder in self.rows:
            row: dict[str, Any] = {"method": method, "decoder": decoder}
            for metric in METRICS:
                if (method, decoder, metric) in table.index:
                    value, low, high = table.loc[(method, decoder, metric)]
                    row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        # Names of columns also where there is no row, as there is no difference of a single method.
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["method", "decoder"])

    def differences(self, reference: str) -> pd.DataFrame:
        """How far each method is from one of them, with the same decoder and on the same documents.

        Documents that are hard are hard for all methods. So intervals of differences are far
        narrower than those of `frame`: they say which of two methods is better where theirs
        overlap.

        Args:
            reference: Name of the method that the others are held against.

        Returns:
            As `frame`, with value less that of the reference for metrics that are means over
            documents, such as FVU: the mean over fits, and an interval from the lowest lower end
            to the highest upper end among the differences of fits of the same number.

        Raises:
            ConfigError: If there is no such method.
        """
        if reference not in self.methods:
            raise ConfigError(
                f"There is no method {reference!r}. {closest(reference, self.methods)}"
                f"Pass one of: {', '.join(self.methods)}."
            )
        is_reference = self.fits["method"] == reference
        key = ["decoder", "fit", "metric"]
        pairs = self.fits[~is_reference].merge(self.fits[is_reference], on=key, suffixes=("", "_r"))
        rows: list[dict[str, Any]] = []
        for pair in pairs.to_dict("records"):
            if pair["influences"]:
                difference = _estimate(pair, "").less(_estimate(pair, "_r"))
                row = {name: pair[name] for name in ("method", *key)}
                row |= {"value": difference, "low": difference.low, "high": difference.high}
                rows.append(row)
        return replace(self, fits=pd.DataFrame(rows, columns=self.fits.columns)).frame()

    def table(self) -> pd.DataFrame:
        """The same as `frame` for reading: a column for each metric, its interval in brackets."""
        return as_table(self.frame())

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
        reached: dict[str, float] = {}
        for method, decoder in self.rows:
            if method in BOUNDS:  # no method
                continue
            is_mine = (self.fits["method"] == method) & (self.fits["decoder"] == decoder)
            fvu = self.fits.loc[is_mine & (self.fits["metric"] == "fvu"), "value"]
            if len(fvu):
                reached[f"{method}, {decoder} decoder"] = float(fvu.mean())
        if not reached:
            return sizes
        best = min(reached, key=reached.__getitem__)
        return f"{sizes}; lowest FVU {reached[best]:.3f} ({best})"

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
        faithfulness: list[dict[str, Any]] = []
        for (method, decoder), judged in self.faithfulness.items():
            row = {"method": method, "decoder": decoder, "judged": _as_json(judged)}
            faithfulness.append(row)
        values = {
            "n_seeds": self.n_seeds,
            "n_texts": self.n_texts,
            "settings": dict(self.settings),
            "fits": self.fits.to_dict("list"),
            "faithfulness": faithfulness,
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
            raise ValueError(
                f"its format is {written!r}, and this version reads {_FORMAT!r}; measure it again"
            )
        if values.pop("sha256") != _checksum(values):
            raise ValueError("it was changed after it was written")
        faithfulness: dict[tuple[str, str], Faithfulness] = {}
        for row in values["faithfulness"]:
            faithfulness[row["method"], row["decoder"]] = _from_json(row["judged"])
        return cls(
            fits=pd.DataFrame(values["fits"]),
            n_seeds=values["n_seeds"],
            n_texts=values["n_texts"],
            faithfulness=faithfulness,
            settings=values["settings"],
        )


def as_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A table for reading: one column for each metric, its interval in brackets.

    Args:
        frame: What `Comparison.frame` or `Comparison.differences` gave.
    """
    table = pd.DataFrame({"method": frame["method"], "decoder": frame["decoder"]})
    for metric, (title, _) in METRICS.items():
        if metric in frame:
            numbers = frame[[metric, f"{metric}_low", f"{metric}_high"]]
            table[title] = [_with_interval(*row) for row in numbers.itertuples(index=False)]
    return table


def _estimate(row: Mapping[Hashable, Any], suffix: str) -> DocumentEstimate:
    """A number of `Comparison.fits` as it was measured."""
    names = ("value", "low", "high", "influences", "freedom")
    return DocumentEstimate(*(row[f"{name}{suffix}"] for name in names))


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


# A fit without an interval could have any: so has the mean over fits.
def _least(ends: pd.Series) -> float:
    return float(ends.min(skipna=False))


def _largest(ends: pd.Series) -> float:
    return float(ends.max(skipna=False))


def _with_interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return ""
    if low == high:  # a count, or the same in all documents
        return told_apart(value)[0]
    return with_interval(value, low, high)


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
