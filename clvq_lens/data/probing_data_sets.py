"""Texts with classes to probe: those that the package sae-probes carries, or a user's own."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clvq_lens.arguments import as_list, check_is, closest
from clvq_lens.errors import ConfigError, DataError, MissingDependencyError

ClassTexts = tuple[list[str], list[Any]]
"""Texts, and the class of each."""

_PACKAGE = "sae_probes"
_LIST = "data/probing_datasets_MASTER.csv.zst"
_BINARY, _MULTICLASS = "Binary Classification", "Multiclass Classification"


def probing_data_sets(
    data_sets: Sequence[str] | Mapping[str, tuple[Sequence[str], Sequence[Any]]] | None,
    *,
    n_texts: int,
    seed: int,
) -> Iterator[tuple[str, ClassTexts]]:
    """The name of each data set, and some of its texts, drawn at random.

    Args:
        data_sets: Names of data sets in sae-probes; None: all with two classes; or data of one's
            own, as texts and classes by name.
        n_texts: How many texts of each, at most.
        seed: Random seed for the draws.

    Raises:
        MissingDependencyError: If sae-probes is needed and not installed.
        ConfigError: If it has no such data set.
        DataError: If one's own data are no texts and classes.
    """
    generator = np.random.default_rng(seed)
    if isinstance(data_sets, Mapping):
        for name, given in data_sets.items():
            yield name, _drawn(*_own(name, given), n_texts, generator)
        return
    for path in _chosen(data_sets):
        table = _read(path).dropna(subset=["prompt", "target"])
        table = table[table["prompt"].astype(str).str.strip() != ""]
        texts = table["prompt"].astype(str).tolist()
        yield _name(path), _drawn(texts, table["target"].tolist(), n_texts, generator)


def _chosen(names: Sequence[str] | None) -> list[Path]:
    """The files of the data sets that are wanted."""
    folder = _folder()
    listed = _read(folder / _LIST)
    files = {kind: _files(folder, listed, kind) for kind in (_BINARY, _MULTICLASS)}
    if names is None:
        return list(files[_BINARY].values())
    known = files[_BINARY] | files[_MULTICLASS]
    chosen: list[Path] = []
    for name in as_list("The data sets", names, "Pass a list of names, or none for all."):
        if name not in known:
            raise ConfigError(
                f"sae-probes has no classes of the name {name!r}. {closest(name, known)}It has "
                f"{len(known)} sets of them, such as {', '.join(list(known)[:3])}."
            )
        chosen.append(known[name])
    return chosen


def _files(folder: Path, listed: pd.DataFrame, kind: str) -> dict[str, Path]:
    """The data sets of one kind, by name; one is listed that has no file."""
    files: dict[str, Path] = {}
    for saved in listed.loc[listed["Data type"] == kind, "Dataset save name"]:
        path = folder / "data" / f"{saved}.zst"
        if path.is_file():
            files[_name(path)] = path
    return files


def _folder() -> Path:
    """Where sae-probes is installed. It is not imported: its code needs much that data do not."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "These data sets are in the package sae-probes. Install it: pip install --no-deps "
            "sae-probes (only its data are read, and its code would need older packages). Or pass "
            "data of your own: {name: (texts, classes)}."
        )
    return Path(spec.submodule_search_locations[0])


def _name(path: Path) -> str:
    """Such as "5_hist_fig_ismale"."""
    return path.name.removesuffix(".csv.zst")


def _read(path: Path) -> pd.DataFrame:
    with pa.input_stream(str(path), compression="zstd") as file:
        return pd.read_csv(file)


def _own(name: str, given: object) -> ClassTexts:
    """Texts and classes that a user passed."""
    remedy = "Pass (texts, classes) for each name."
    check_is(f"The data set {name!r}", given, tuple, remedy)
    assert isinstance(given, tuple)
    if len(given) != 2:
        raise DataError(f"The data set {name!r} has {len(given)} parts. {remedy}")
    texts = as_list(f"The texts of {name!r}", given[0], "Pass a list of strings.")
    classes = as_list(f"The classes of {name!r}", given[1], "Pass one for each text.")
    if len(texts) != len(classes):
        raise DataError(f"{name!r} has {len(texts)} texts and {len(classes)} classes. {remedy}")
    return texts, classes


def _drawn(
    texts: list[str], classes: list[Any], n_texts: int, generator: np.random.Generator
) -> ClassTexts:
    rows = generator.permutation(len(texts))[:n_texts].tolist()
    return [texts[row] for row in rows], [classes[row] for row in rows]
