"""The index of a store of activations: what it is to hold, and a file for each shard that is there.

Each shard has its own entry, so that a long store is not indexed anew with every shard, and several
processes may fill one folder. No entry names a file: its own name does.
"""

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
_FORMAT = "clvq_lens activations"
_ENTRY = re.compile(r"shard-(\d{6})\.json")
_REMEDY = "Delete the folder, and cache the activations again."


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index says about a shard.

    Attributes:
        number: Its place among all shards, from 0.
        checksum: XXH3 (128 bits) of the file.
        size_bytes: Size of the file.
        n_documents: Documents in it.
        n_sequences: Sequences in it; a long document has several.
        n_positions: Positions in it, special tokens counted.
        n_tokens: Real tokens in it.
        digest: Digest of all documents up to its end, in the order in which they were read.
    """

    number: int
    checksum: str
    size_bytes: int
    n_documents: int
    n_sequences: int
    n_positions: int
    n_tokens: int
    digest: str

    @property
    def file(self) -> str:
        """Name of the file that holds the shard."""
        return shard_file(self.number)

    def save(self, folder: Path) -> None:
        """Publishes the shard, which has been written: in one step."""
        path = (folder / self.file).with_suffix(".json")
        write_atomically(path, json.dumps(asdict(self), indent=1).encode())


def shard_file(number: int) -> str:
    """Name of the file of a shard."""
    return f"shard-{number:06d}.safetensors"


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

        It may be asked for more tokens, or fewer, than before; of data that are far larger than
        both, other documents would be drawn, which is found when they are read.
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
    """What index.json and the entries of shards say.

    Attributes:
        contents: What the store is to hold.
        shards: What it holds already, by number.
        n_shards: How many shards it has when it is complete; None: nobody knows yet.
        library_version: Version of the library that wrote it.
    """

    contents: StoreContents
    shards: tuple[ShardEntry, ...] = ()
    n_shards: int | None = None
    library_version: str = ""

    @property
    def complete(self) -> bool:
        """Whether it holds all that it is to hold."""
        return len(self.shards) == self.n_shards

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
        """Writes index.json in one step, without the entries of shards."""
        content: dict[str, object] = {
            "format": _FORMAT,
            "format_version": FORMAT_VERSION,
            "library_version": self.library_version,
            "contents": asdict(self.contents),
            "n_shards": self.n_shards,
        }
        write_atomically(folder / INDEX, json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "StoreIndex":
        """Reads index.json and the entries of shards; strict about names and types.

        Raises:
            FileNotFoundError: If there is no index.json.
            FileFormatError: If a file is damaged.
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
            index = cls(
                contents=_made(StoreContents, contents),
                shards=_entries(folder),
                n_shards=values["n_shards"],
                library_version=str(values["library_version"]),
            )
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{path} is damaged: {error!r}. {_REMEDY}") from error
        for name, known in (("dtype", DTYPES), ("long_texts", get_args(LongTexts))):
            value = getattr(index.contents, name)
            if value not in known:
                raise FileFormatError(
                    f"{path} says {name} {value!r}, expected one of {', '.join(known)}. The index "
                    f"was edited."
                )
        return index


def _entries(folder: Path) -> tuple[ShardEntry, ...]:
    """The entries of all shards that were published, in the order of their numbers."""
    entries: list[ShardEntry] = []
    for path in sorted(folder.iterdir()):
        name = _ENTRY.fullmatch(path.name)
        if name is None:
            continue
        try:
            entry = _made(ShardEntry, json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"{path} is damaged: {error}. {_REMEDY}") from error
        if entry.number != int(name[1]):
            raise FileFormatError(
                f"{path} is the entry of shard {entry.number}: it was renamed. {_REMEDY}"
            )
        entries.append(entry)
    return tuple(entries)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise FileFormatError(f"{path} is no JSON: {error}. {_REMEDY}") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise FileFormatError(
            f"{path} was not written by cache_activations. Pass the folder that it filled."
        )
    if type(values.get("format_version")) is not int:
        raise FileFormatError(f"{path} names no format_version. {_REMEDY}")
    if values["format_version"] > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format {values['format_version']}, and this version of clvq_lens reads up "
            f"to {FORMAT_VERSION}. Update clvq_lens."
        )
    return values


def _made(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from exactly its fields, each of the type that its annotation says."""
    expected = {f.name: f.type for f in fields(kind)}
    if not isinstance(values, dict) or set(values) != set(expected):
        raise TypeError(f"it does not have the fields {sorted(expected)}")
    for name, type_ in expected.items():
        if type_ in (int, str) and type(values[name]) is not type_:
            raise TypeError(f"{name} is {values[name]!r}, expected {type_.__name__}")
    return kind(**values)
