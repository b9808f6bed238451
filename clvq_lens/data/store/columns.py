"""The columns of a shard, which are filled batch by batch."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clvq_lens.data.document import Document
from clvq_lens.data.reading import check_finite
from clvq_lens.data.store.index import ShardEntry, StoreContents, shard_file
from clvq_lens.data.store.shard import write_shard
from clvq_lens.data.tokens import TokenBatch, TokenSequence

_BYTES_BESIDE = 5  # of a position: its token and whether it is real


def position_bytes(contents: StoreContents) -> int:
    """Bytes that a position takes on disk."""
    dtype: torch.dtype = getattr(torch, contents.dtype)
    return _BYTES_BESIDE + sum(contents.points.values()) * dtype.itemsize


@dataclass
class ShardDraft:
    """The documents of a shard that the model has not read yet.

    Attributes:
        number: Number of the shard.
        sequences: The sequences of all documents, in their order.
        digests: The digest of the document of each sequence.
        n_documents: How many documents there are.
        n_positions: Positions of all sequences.
        n_tokens: Real tokens of all sequences.
        digest: Digest of all documents up to the end of this shard.
    """

    number: int
    sequences: list[TokenSequence] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    n_documents: int = 0
    n_positions: int = 0
    n_tokens: int = 0
    digest: str = ""

    def add(self, document: Document, sequences: list[TokenSequence]) -> int:
        """Adds a document, and tells how many real tokens it has."""
        self.sequences += sequences
        self.digests += [signed(document.digest())] * len(sequences)
        self.n_documents += 1
        self.n_positions += sum(len(sequence.ids) for sequence in sequences)
        n_tokens = sequences[0].part.n_real if sequences else 0
        self.n_tokens += n_tokens
        return n_tokens


def signed(digest: int) -> int:
    """A number of 64 bits without a sign as one with it: torch knows no others."""
    return digest - 2**64 if digest >= 2**63 else digest


class Columns:
    """Tokens and activations of the sequences of a draft, one sequence after the other.

    Args:
        draft: The sequences.
        contents: Hook points, their widths and the dtype.
    """

    def __init__(self, draft: ShardDraft, contents: StoreContents) -> None:
        n, dtype = draft.n_positions, getattr(torch, contents.dtype)
        self._tokens = torch.zeros(n, dtype=torch.long)
        self._mask = torch.zeros(n, dtype=torch.bool)
        self._points: dict[str, Tensor] = {}
        for point, width in contents.points.items():
            self._points[point] = torch.zeros(n, width, dtype=dtype)
        self._starts: dict[tuple[int, int], int] = {}
        start = 0
        for sequence in draft.sequences:
            self._starts[sequence.document, sequence.part.piece] = start
            start += len(sequence.ids)

    def put(self, batch: TokenBatch, activations: dict[str, Float[Tensor, "b pos d"]]) -> None:
        """Puts a batch where its sequences belong.

        Args:
            batch: Some of the sequences.
            activations: What passed the hook points, in the order of the columns.

        Raises:
            NonFiniteError: If an activation is too large for the dtype on disk.
        """
        rows = torch.full(batch.tokens.shape, -1)
        for row, document in enumerate(batch.documents):
            start = self._starts[document, batch.part(row).piece]
            n = int(batch.attended[row].sum())
            rows[row, :n] = torch.arange(start, start + n)
        inside = batch.attended & (rows < len(self._tokens))
        rows = rows[inside]
        self._tokens[rows] = batch.tokens[inside]
        self._mask[rows] = batch.mask[inside]
        for (point, column), values in zip(self._points.items(), activations.values(), strict=True):
            stored = values.to("cpu", column.dtype)
            check_finite(stored, inside, point)
            column[rows] = stored[inside]

    def _n_real(self, draft: ShardDraft) -> list[int]:
        """Real tokens of each sequence."""
        lengths = [len(sequence.ids) for sequence in draft.sequences]
        return [int(mask.sum()) for mask in self._mask.split(lengths)]

    def write(self, folder: Path, draft: ShardDraft) -> None:
        """Writes the shard, and then the entry that publishes it."""
        sequences = draft.sequences
        parts = [sequence.part for sequence in sequences]
        columns = {
            "lengths": [len(sequence.ids) for sequence in sequences],
            "documents": [sequence.document for sequence in sequences],
            "digests": draft.digests,
            "real": self._n_real(draft),
            "pieces": [part.piece for part in parts],
            "starts": [part.start for part in parts],
            "n_before": [part.n_before for part in parts],
            "n_real": [part.n_real for part in parts],
            "is_whole": [int(part.is_whole) for part in parts],
        }
        checksum, size_bytes = write_shard(
            folder / shard_file(draft.number),
            tokens=self._tokens,
            mask=self._mask,
            sequences={name: torch.tensor(column) for name, column in columns.items()},
            points=self._points,
        )
        entry = ShardEntry(
            number=draft.number,
            checksum=checksum,
            size_bytes=size_bytes,
            n_documents=draft.n_documents,
            n_sequences=len(sequences),
            n_positions=draft.n_positions,
            n_tokens=draft.n_tokens,
            digest=draft.digest,
        )
        entry.save(folder)
