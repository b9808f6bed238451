"""The index of a store of activations: what it holds, of which model, and shard by shard."""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from clvq_lens.config import LongTexts
from clvq_lens.errors import FileFormatError, NewerFormatError
from clvq_lens.quantizer.origin import ModelIdentity
from clvq_lens.writing import write_atomically

FORMAT_VERSION = 1
INDEX = "index.json"
DTYPES = ("bfloat16", "float16", "float32")
SHARD = re.compile(r"shard-\d{6}\.safetensors")
"""Names of our shards; no other file is ever opened."""

_FORMAT = "clvq_lens activations"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index says about a shard.

    Attributes:
        file: Name of the file, in the folder of the index.
        checksum: XXH3 (128 bits) of the file.
        size_bytes: Size of the file.
        n_documents: Documents in it.
        n_sequences: Sequences in it; a long document has several.
        n_positions: Positions in it, special tokens counted.
        n_tokens: Real tokens in it.
        digest: Digest of all documents up to its end, in the order in which they were read.
    """

    file: str
    checksum: str
    size_bytes: int
    n_documents: int
    n_sequences: int
    n_positions: int
    n_tokens: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class StoreContents:
    """What a store is to hold.

    Attributes:
        model: The model that was read.
        points: Width of every hook point, by its name.
        dtype: Dtype of the activations.
        long_texts: What was done with texts beyond the model's context.
        n_tokens: Real tokens to read; None: all of the data.
        seed: Random seed for the draw of documents.
    """

    model: ModelIdentity
    points: dict[str, int]
    dtype: str
    long_texts: LongTexts
    n_tokens: int | None
    seed: int

    def differences(self, other: "StoreContents") -> list[str]:
        """Why another store does not go on with this one, in words; empty if it does.

        It may be asked for more tokens, or fewer, than before.
        """
        differences = self.model.differences(other.model)
        for name in ("points", "dtype", "long_texts", "seed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                differences.append(f"{name}: {mine!r}, not {theirs!r}")
        # All of the data come in their own order, and a draw in random order.
        if (self.n_tokens is None) != (other.n_tokens is None):
            differences.append(f"n_tokens: {self.n_tokens}, not {other.n_tokens}")
        return differences


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """What index.json says.

    Attributes:
        contents: What the store is to hold.
        shards: What it holds already.
        complete: Whether it holds all that it is to hold.
        library_version: Version of the library that wrote it.
    """

    contents: StoreContents
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False
    library_version: str = ""

    @property
    def n_tokens(self) -> int:
        """Real tokens in all shards."""
        return sum(shard.n_tokens for shard in self.shards)

    @property
    def n_documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.n_documents for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.size_bytes for shard in self.shards)

    def save(self, folder: Path) -> None:
        """Writes index.json in one step."""
        content = {"format": _FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        write_atomically(folder / INDEX, json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "StoreIndex":
        """Reads index.json; strict about names and types.

        Raises:
            FileNotFoundError: If there is none.
            FileFormatError: If it is damaged, or names a file outside of its folder.
            NewerFormatError: If a newer version of this library wrote it.
        """
        path = folder / INDEX
        if not path.is_file():
            raise FileNotFoundError(
                f"No {INDEX} in {folder}. Pass the folder that cache_activations filled."
            )
        values = _parsed(path)
        try:
            contents = {
                **values["contents"],
                "model": ModelIdentity.from_dict(values["contents"]["model"]),
            }
            shards = tuple(_shard(entry, path) for entry in values["shards"])
            index = cls(
                contents=_made(StoreContents, contents),
                shards=shards,
                complete=values["complete"] is True,
                library_version=str(values["library_version"]),
            )
        except (KeyError, TypeError) as error:
            raise FileFormatError(
                f"{path} is damaged: {error!r}. Delete the folder, and cache the activations again."
            ) from error
        for name, known in (("dtype", DTYPES), ("long_texts", get_args(LongTexts))):
            value = getattr(index.contents, name)
            if value not in known:
                raise FileFormatError(
                    f"{path} says {name} {value!r}, expected one of {', '.join(known)}. The index "
                    f"was edited."
                )
        return index


def _parsed(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise FileFormatError(
            f"{path} is no JSON: {error}. Delete the folder, and cache the activations again."
        ) from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise FileFormatError(
            f"{path} was not written by cache_activations. Pass the folder that it filled."
        )
    if values["format_version"] > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format {values['format_version']}, and this version of clvq_lens reads up "
            f"to {FORMAT_VERSION}. Update clvq_lens."
        )
    return values


def _shard(values: dict[str, Any], path: Path) -> ShardEntry:
    entry = _made(ShardEntry, values)
    if not SHARD.fullmatch(entry.file):
        raise FileFormatError(
            f"{path} names the shard {entry.file!r}, which is no name of ours, such as "
            f"shard-000000.safetensors. The index was edited; nothing was read."
        )
    return entry


def _made(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from exactly its fields, each of the type that its annotation says."""
    expected = {f.name: f.type for f in fields(kind)}
    if set(values) != set(expected):
        raise TypeError(f"fields {sorted(values)}, expected {sorted(expected)}")
    for name, type_ in expected.items():
        if type_ in (int, str) and type(values[name]) is not type_:
            raise TypeError(f"{name} is {values[name]!r}, expected {type_.__name__}")
    return kind(**values)
