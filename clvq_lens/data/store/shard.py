"""One shard of a store: a safetensors file of sequences, mapped into memory and never copied."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
import xxhash
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clvq_lens.data.document import Part
from clvq_lens.data.store.index import ShardEntry
from clvq_lens.errors import FileFormatError
from clvq_lens.writing import replace_file

_PART = ("pieces", "starts", "n_before", "n_real", "is_whole")
_OF_SEQUENCES = ("lengths", "documents", "digests", "real", *_PART)
_POINT = "point "
_BLOCK_BYTES = 2**22
_REMEDY = (
    "Delete this file and the .json file of the same name, and cache the activations again with "
    "the same data and options: what is whole stays."
)


def write_shard(
    path: Path,
    *,
    tokens: Int[Tensor, " n"],
    mask: Bool[Tensor, " n"],
    sequences: Mapping[str, Int[Tensor, " s"]],
    points: Mapping[str, Float[Tensor, "n _"]],
) -> tuple[str, int]:
    """Writes a shard in one step.

    Args:
        path: Path of the file; nobody else writes to the folder.
        tokens: Token ids of all sequences, one sequence after the other.
        mask: True on real tokens.
        sequences: Columns with a row for each sequence.
        points: Activations at each hook point.

    Returns:
        Checksum and size of the file.
    """
    tensors = {"tokens": tokens.to(torch.int32), "mask": mask.to(torch.uint8), **sequences}
    for point, activations in points.items():
        tensors[_POINT + point] = activations
    content = save(tensors)
    replace_file(path, content, temporary=path.with_name(f".{path.name}.tmp"))
    return xxhash.xxh3_128_hexdigest(content), len(content)


class Shard:
    """A shard: its table of sequences, and their activations, which are verified at first use.

    Args:
        folder: Folder of the store.
        entry: What the index says about it.
        points: Width of every hook point.
        dtype: Dtype of the activations.

    Raises:
        FileFormatError: If the file is missing or cut off, or does not hold what the index says.
    """

    def __init__(
        self, folder: Path, entry: ShardEntry, points: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        self._path, self._entry = folder / entry.file, entry
        self._check_size()
        self._tensors = self._mapped()
        self._check_tensors(points, dtype)
        self.lengths: Int[Tensor, " s"] = self._tensors["lengths"]
        self.documents: Int[Tensor, " s"] = self._tensors["documents"]
        self.digests: Int[Tensor, " s"] = self._tensors["digests"]
        self.n_real: Int[Tensor, " s"] = self._tensors["real"]
        self.starts = self.lengths.cumsum(0) - self.lengths

    @cached_property
    def tokens(self) -> Int[Tensor, " n"]:
        """Token ids of all sequences, one sequence after the other."""
        return self._verified["tokens"]

    @cached_property
    def mask(self) -> Bool[Tensor, " n"]:
        """True on real tokens."""
        return self._verified["mask"].bool()

    def activations(self, point: str) -> Float[Tensor, "n d"]:
        """The activations of all sequences at a hook point."""
        return self._verified[_POINT + point]

    def part(self, sequence: int) -> Part:
        """How much of its document a sequence is."""
        return Part(
            piece=int(self._tensors["pieces"][sequence]),
            start=int(self._tensors["starts"][sequence]),
            n_before=int(self._tensors["n_before"][sequence]),
            n_real=int(self._tensors["n_real"][sequence]),
            is_whole=bool(self._tensors["is_whole"][sequence]),
        )

    def _check_size(self) -> None:
        if not self._path.is_file():
            raise FileFormatError(f"{self._path} is missing. Copy the whole folder. {_REMEDY}")
        size_bytes = self._path.stat().st_size
        if size_bytes != self._entry.size_bytes:
            raise FileFormatError(
                f"{self._path} has {size_bytes} bytes, and the index says "
                f"{self._entry.size_bytes}: it is cut off, or of another store. {_REMEDY}"
            )

    def _mapped(self) -> dict[str, Tensor]:
        try:
            with safe_open(self._path, framework="pt") as file:
                # Views of the file: the system reads what is used, and drops it when it has to.
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise FileFormatError(
                f"{self._path} is no safetensors file: {error}. {_REMEDY}"
            ) from error

    def _check_tensors(self, points: Mapping[str, int], dtype: torch.dtype) -> None:
        n, s = self._entry.n_positions, self._entry.n_sequences
        expected: dict[str, tuple[list[int], torch.dtype]] = {
            "tokens": ([n], torch.int32),
            "mask": ([n], torch.uint8),
        }
        for name in _OF_SEQUENCES:
            expected[name] = ([s], torch.int64)
        for point, width in points.items():
            expected[_POINT + point] = ([n, width], dtype)
        wrong: list[str] = []
        for name in sorted(expected.keys() | self._tensors.keys()):
            tensor = self._tensors.get(name)
            if tensor is None or (list(tensor.shape), tensor.dtype) != expected.get(name):
                wrong.append(name)
        if wrong:
            raise FileFormatError(
                f"{self._path} does not hold what the index says: {', '.join(wrong)}. {_REMEDY}"
            )

    @cached_property
    def _verified(self) -> dict[str, Tensor]:
        """The tensors, once the whole file has been read and its checksum is right."""
        digest = xxhash.xxh3_128()
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        checksum = digest.hexdigest()
        if checksum != self._entry.checksum:
            raise FileFormatError(
                f"{self._path} is damaged: its checksum is {checksum[:12]}…, and the index says "
                f"{self._entry.checksum[:12]}…. {_REMEDY}"
            )
        return self._tensors
