"""Filling a store: the model reads documents, and each shard is published when it is whole."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, SupportsIndex

from tqdm.auto import tqdm

from clvq_lens.arguments import check_choice, check_positive, check_seed
from clvq_lens.config import LongTexts
from clvq_lens.data.document import Corpus, Document, document_of
from clvq_lens.data.document_order import READ_PER_TOKEN, DocumentOrder
from clvq_lens.data.documents import Data, Documents, open_documents
from clvq_lens.data.forecast import Forecast
from clvq_lens.data.interrupt import deferred_interrupt
from clvq_lens.data.reading import read
from clvq_lens.data.store.columns import Columns, ShardDraft, position_bytes
from clvq_lens.data.store.estimate import expected
from clvq_lens.data.store.following import Following
from clvq_lens.data.store.index import (
    DTYPES,
    INDEX,
    ShardEntry,
    StoreContents,
    StoreIndex,
    shard_file,
)
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.data.tokens import ContextBatcher, check_ids, check_long_texts
from clvq_lens.errors import ConfigError, DataError, PathTakenError
from clvq_lens.host.host import Host
from clvq_lens.processes import Processes
from clvq_lens.showing import bytes_in_words
from clvq_lens.writing import check_space, locked, make_folder

StoreDtype = Literal["bfloat16", "float16", "float32"]

_REMEDY = "Pass long_texts='split' or 'truncate', or cut the text."


def cache_activations(
    model: Any,
    data: Data,
    folder: str | Path,
    *,
    points: Sequence[SupportsIndex | str],
    dtype: StoreDtype | None = None,
    n_tokens: int | None = None,
    long_texts: LongTexts = "split",
    shard_bytes: int = 2**26,
    seed: int = 0,
    progress: bool = True,
) -> ActivationStore:
    """Runs a model on documents once and keeps what passes some hook points in a folder.

    Called again after a kill or Ctrl-C, it goes on after the last whole shard; tokens that were
    read before are neither lost nor read again. Processes of torch.distributed fill one folder
    together, each of them some of the shards; all of them have to call it.

    Args:
        model: The model.
        data: Documents, as for a fit.
        folder: Folder for the shards; created if needed.
        points: Layers (the residual stream after that block) or names of hook points.
        dtype: Dtype on disk; None: that of the model, or float32 if the model's is wider.
        n_tokens: Real tokens to read, of documents in random order; None: all of the data.
        long_texts: What to do with a text beyond the context, as for a fit.
        shard_bytes: Size of a shard, about; as much memory is needed twice.
        seed: Random seed for the draw of documents.
        progress: Whether to show a progress bar.

    Returns:
        The store. Interrupted with Ctrl-C, it holds what was written by then.

    Raises:
        ConfigError: If an option is impossible.
        DataError: If the folder was filled from other data, or the data are empty.
        PathTakenError: If the folder holds activations of another model or at other points.
        PathError: If the disk is too full, or the folder cannot be written to.
    """
    host = Host(model)
    names = [host.resolve(point) for point in points]
    if not names:
        raise ConfigError("points names no hook point. Pass at least one layer, such as [4, 8].")
    of_model = str(host.dtype).removeprefix("torch.")
    on_disk = dtype or (of_model if of_model in DTYPES else "float32")
    check_cache_options(dtype=on_disk, long_texts=long_texts, n_tokens=n_tokens, seed=seed)
    contents = StoreContents(
        model=host.identity(names),
        points={host.protocol.portable(name): host.width(name) for name in names},
        dtype=on_disk,
        long_texts=long_texts,
        n_tokens=n_tokens,
        seed=seed,
    )
    check_positive("shard_bytes", shard_bytes, whole=True)
    documents = open_documents(data)
    check_ids(host, documents)
    folder = make_folder(folder)
    processes = Processes.current()
    # One lock for all processes that fill the folder together.
    with locked(folder / ".cache.lock") if processes.is_first else nullcontext():
        processes.wait()  # nobody writes before the folder is theirs
        filling = _Filling(host, names, contents, folder, shard_bytes, processes)
        filling.run(documents, progress=progress and processes.is_first)
    processes.wait()
    return ActivationStore(folder)


def check_cache_options(
    *,
    dtype: str | None = None,
    long_texts: LongTexts = "split",
    n_tokens: int | None = None,
    seed: int = 0,
) -> None:
    """Raises `ConfigError` unless `cache_activations` takes these options."""
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    check_long_texts(long_texts)
    check_seed(seed)
    if n_tokens is not None:
        check_positive("n_tokens", n_tokens, whole=True)


class _Filling:
    """Fills a folder, shard by shard.

    Args:
        host: The model.
        names: Hook points, by their names on this host.
        contents: What the store is to hold.
        folder: Folder for the shards, which is locked.
        shard_bytes: Size of a shard, about.
        processes: Who fills it together.

    Raises:
        PathTakenError: If the folder holds something else.
    """

    def __init__(
        self,
        host: Host,
        names: Sequence[str],
        contents: StoreContents,
        folder: Path,
        shard_bytes: int,
        processes: Processes,
    ) -> None:
        self._processes = processes
        self._host, self._names, self._folder = host, names, folder
        self._index = self._resumed(contents)
        self._position_bytes = position_bytes(contents)
        self._shard_positions = max(1, shard_bytes // self._position_bytes)
        self._batcher = ContextBatcher(host, contents.long_texts, _REMEDY)

    def _resumed(self, contents: StoreContents) -> StoreIndex:
        """The index to go on with."""
        new = StoreIndex(contents=contents, library_version=version("clvq-lens"))
        if not (self._folder / INDEX).is_file():
            return new
        before = StoreIndex.load(self._folder)
        if differences := contents.differences(before.contents):
            raise PathTakenError(
                f"{self._folder} holds other activations: {'; '.join(differences)}. Pass another "
                f"folder, or delete this one."
            )
        return replace(new, shards=before.shards)

    def run(self, documents: Documents, *, progress: bool) -> None:
        """Reads what is missing."""
        contents = self._index.contents
        there = expected(
            self._host, documents, n_tokens=contents.n_tokens, long_texts=contents.long_texts
        )
        all_bytes = round(there.n_positions * self._position_bytes)
        missing_bytes = max(0, all_bytes - self._index.size_bytes)
        check_space(self._folder, missing_bytes)
        size = f", about {bytes_in_words(missing_bytes)} to write" if missing_bytes else ""
        if self._processes.is_first:
            self._index.save(self._folder)
        bar = tqdm(
            total=round(there.n_tokens) or None,
            initial=self._index.n_tokens,
            desc=f"cache{size}",
            unit="tok",
            disable=not progress,
        )
        forecast = Forecast("Reading", done=self._index.n_tokens, silent=not progress)
        following = Following(self._ordered(documents), self._batcher)
        n_shards = self._index.shards[-1].number + 1 if self._index.shards else 0
        with bar, deferred_interrupt() as pressed:
            for draft in self._drafts(following):
                n_shards = max(n_shards, draft.number + 1)
                if draft.number % self._processes.size == self._processes.rank:
                    self._fill(draft, pressed, bar, forecast)
                else:
                    bar.update(draft.n_tokens)  # another process reads them meanwhile
                if pressed():
                    break
            interrupted = self._processes.any(pressed())
        if interrupted:
            if not any(self._folder.glob(shard_file(0))):  # and so nothing to give
                raise KeyboardInterrupt
            return
        if self._processes.is_first:
            self._batcher.warn_of_cuts()
            replace(self._index, n_shards=n_shards).save(self._folder)

    def _fill(
        self, draft: ShardDraft, pressed: Callable[[], bool], bar: tqdm, forecast: Forecast
    ) -> None:
        """Reads a shard and publishes it, unless Ctrl-C is pressed meanwhile."""
        columns = Columns(draft, self._index.contents)
        for group in self._batcher.groups(draft.sequences):
            if pressed():
                return  # without what is not whole
            batch = self._batcher.batch(group)
            columns.put(batch, read(self._host, batch, self._names))
            bar.update(int(batch.mask.sum()))
            forecast.tell(bar.n, bar.total)
        columns.write(self._folder, draft)

    def _ordered(self, documents: Documents) -> Iterator[Document]:
        """The documents in the order in which they are read."""
        contents = self._index.contents
        if contents.n_tokens is None:
            return iter(documents)
        most_read = READ_PER_TOKEN * contents.n_tokens
        order = DocumentOrder(lambda: documents, seed=contents.seed, most_read=most_read)
        return (document_of(item, 0, Corpus()) for item in order.epoch(0))

    def _drafts(self, following: Following) -> Iterator[ShardDraft]:
        """The documents of each shard that is missing.

        Raises:
            DataError: If the documents of a shard that is there are others.
        """
        n_missing = math.inf
        if self._index.contents.n_tokens is not None:
            n_missing = self._index.contents.n_tokens
        published = {entry.number: entry for entry in self._index.shards}
        for number in itertools.count():
            if number in published:
                self._skip(published[number], following)
                n_missing -= published[number].n_tokens
                continue
            draft = ShardDraft(number)
            while n_missing > 0 and draft.n_positions < self._shard_positions:
                document, sequences = following.next()
                if document is None:
                    break
                n_missing -= draft.add(document, sequences)
            if not draft.sequences:
                return
            draft.digest = following.digest
            yield draft

    def _skip(self, entry: ShardEntry, following: Following) -> None:
        """Passes over the documents of a shard that is there."""
        following.skip(entry.n_documents)
        if following.digest != entry.digest:
            raise DataError(
                f"{self._folder} was filled from other data, or in another order. Pass the same "
                f"data with the same n_tokens and shard_bytes, or another folder."
            )
