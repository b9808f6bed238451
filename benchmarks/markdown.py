"""What the pages of results are made of."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

_RULES = {"l": "---", "r": "--:"}


def table(titles: Sequence[str], alignment: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        titles: The title of each column.
        alignment: A letter for each column: "l" for text, "r" for numbers.
        rows: The cells of each row.
    """
    lines = [_line(titles), f"|{'|'.join(_RULES[letter] for letter in alignment)}|"]
    return "\n".join([*lines, *map(_line, rows)])


def spread(values: pd.Series, decimals: int) -> str:
    """The mean of some values, in brackets the least and the most; nothing if all are missing."""
    if values.isna().all():
        return ""
    mean, least = _number(values.mean(), decimals), _number(values.min(), decimals)
    most = _number(values.max(), decimals)
    return mean if least == most else f"{mean} [{least}, {most}]"


def versions(packages: Iterable[str]) -> str:
    """The versions of those packages that are installed."""
    installed: list[str] = []
    for package in packages:
        with suppress(PackageNotFoundError):
            installed.append(f"{package} {version(package)}")
    return ", ".join(installed)


def write_below(mark: str, parts: Iterable[str], path: Path, *, title: str) -> None:
    """Writes the parts of a page below its mark; what a person wrote above the mark stays.

    Args:
        mark: A line that the page has once.
        parts: Paragraphs, tables and figures, one below the other.
        path: The page, which need not be there yet.
        title: Title of a new page.
    """
    remarks = path.read_text().split(mark)[0] if path.exists() else f"# {title}\n\n"
    path.write_text(remarks + "\n\n".join([mark, *parts]) + "\n")


def _number(value: float, decimals: int) -> str:
    return f"{value:z,.{decimals}f}"  # z: never -0.000


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
