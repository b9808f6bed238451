"""The same quantizer fitted again: with other seeds, or on halves of the data."""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

from clvq_lens.arguments import check_choice, check_count, check_is
from clvq_lens.config import FitConfig
from clvq_lens.errors import EmptyCorpusError
from clvq_lens.host.attach import Attachment, lenses_of, remember_lens
from clvq_lens.host.host import Host
from clvq_lens.lens import Lens
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.document import Document
from clvq_lens.training.documents import Data, Documents, open_documents

How = Literal["seeds", "halves"]


@contextmanager
def refits(
    lens: Lens,
    data: Data,
    *,
    seeds: int = 3,
    how: How = "seeds",
    kind: str | None = None,
    config: FitConfig | None = None,
    progress: bool = True,
    **options: Any,
) -> Iterator[list[Lens]]:
    """While open, further lenses of the same options, fitted; they are gone afterwards.

    Args:
        lens: Whose model, source, target and options they have. It stays as it is.
        data: Documents, as for `clvq_lens.Lens.fit`.
        seeds: How many seeds: that of ``config`` plus 1, 2 and so on.
        how: "seeds": one lens for each seed, all on the same data. "halves": two for each seed, one
            after the other, on halves of the documents that share none; each seed splits anew.
        kind: A baseline, such as "k-means", that takes the place of the quantizer.
        config: How to fit; None: as ``lens`` was fitted, with as many tokens.
        progress: Whether to show progress bars.
        **options: Options of `FitConfig` by name, and those of `clvq_lens.Lens.baseline`.

    Returns:
        The lenses, attached to the model under names of their own.

    Raises:
        ConfigError: If ``how`` is neither, or there is no seed.
        EmptyCorpusError: If a half holds no document.

    Example:
        >>> with refits(lens, texts) as others:  # doctest: +SKIP
        ...     found = stability({"codes": [lens, *others]}, held_out)
    """
    check_choice("how", how, get_args(How))
    check_count("seeds", seeds)
    check_is("config", config, FitConfig | None, "Pass a FitConfig.")
    config = config or lens.quantizer.fit_config or FitConfig()
    first = options.get("seed", config.seed) + 1
    data = open_documents(data) if isinstance(data, Iterator) else data  # it is read several times
    made: list[Lens] = []
    try:
        for seed in range(first, first + seeds):
            for part in [data] if how == "seeds" else halves(data, seed=seed):
                given = {**options, "seed": seed, "progress": progress}
                if kind is None:
                    made.append(_another(lens))
                    made[-1].fit(part, config, **given)
                else:
                    made.append(lens.baseline(kind, part, config, **given))  # pyright: ignore
        yield made
    finally:
        for each in made:
            each.remove()


def _another(lens: Lens) -> Lens:
    """An unfitted lens of the same options on the same model, under a name that is free."""
    host, old, taken = Host(lens.model), lens.quantizer, lenses_of(lens.model)
    names = (f"{lens.name}-refit-{number}" for number in itertools.count(1))
    name = next(name for name in names if name not in taken)
    quantizer = CrossLayerQuantizer(old.config, old.d_source, old.d_target, causal=old.causal)
    quantizer.origin = host.origin(lens.source, lens.target, name)
    another = Lens(Attachment(host, quantizer, name, lens.source, lens.target))
    remember_lens(host.model, name, another)
    return another


# ---- halves --------------------------------------------------------------------------------------


def halves(data: Data, *, seed: int) -> list[Data]:
    """Two halves of some documents, split by content, so that duplicates stay together.

    Args:
        data: Documents, as for `clvq_lens.Lens.fit`.
        seed: Of the split.

    Raises:
        EmptyCorpusError: If one of them holds no document.
    """
    documents = open_documents(data)
    parts = [_Half(documents, seed, side) for side in (0, 1)]
    for part in parts:
        if next(iter(part), None) is None:
            raise EmptyCorpusError(
                "The data are too few to be split: one half holds no document. Pass more "
                "documents, all of them different, or how='seeds'."
            )
    return list(parts)


class _Half:
    """The documents whose hash is even, or odd; read anew each time."""

    def __init__(self, documents: Documents, seed: int, side: int) -> None:
        self._documents, self._side = documents, side
        self._key = str(seed).encode()

    def __iter__(self) -> Iterator[Document]:
        return (doc for doc in self._documents if self._hash(doc) % 2 == self._side)

    def _hash(self, document: Document) -> int:
        return hashlib.blake2b(document.as_bytes(), digest_size=1, key=self._key).digest()[0]
