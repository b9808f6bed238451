"""One document: a text or a row of tokens, and its place in the user's data."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import checked_text
from clvq_lens.errors import DataError
from clvq_lens.host.host import Host

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Corpus:
    """What documents come from: how messages name one of them, and what was said about them.

    Args:
        path: The file or data set that has a document in each line or row; None: the documents are
            in memory.
        unit: "line", which are counted from 1 as editors do, or "row", counted from 0.
    """

    def __init__(
        self, path: Path | str | None = None, *, unit: Literal["line", "row"] = "line"
    ) -> None:
        self.path, self._unit = path, unit
        # Kept here, so that a verb that reads its data twice warns once.
        self.warned_of_long_texts = False

    def name_of(self, number: int) -> str:
        """What messages call a document: its index, or its line or row in a file."""
        if self.path is None:
            return f"Document {number}"
        if self._unit == "line":
            return f"{self.path}, line {number + 1}"
        return f"{self.path}, row {number} (counted from 0)"


@dataclass(frozen=True)
class Part:
    """How much of its document a sequence is.

    Attributes:
        piece: Running number among the pieces of a long text; 0 for the first, and for a text that
            is whole.
        start: Position of its first token in the row of tokens that the user passed, or in what
            the tokenizer makes of the text.
        n_before: Real tokens of the document in earlier pieces.
        n_real: Real tokens in all its pieces together.
        is_whole: Whether it is the whole document.
    """

    piece: int
    start: int
    n_before: int
    n_real: int
    is_whole: bool


@runtime_checkable
class Stored(Protocol):
    """A document whose activations were read before."""

    @property
    def fingerprint(self) -> int:
        """The digest of the document that the model read."""
        ...

    def pieces(self) -> Iterable[tuple[Int[Tensor, " n"], Part]]:
        """Its sequences, as the model read them."""
        ...

    def activations(self, piece: int, point: str) -> Float[Tensor, "n d"]:
        """What passed a hook point at one of its sequences."""
        ...

    def check(self, host: Host) -> None:
        """Raises `HostMismatchError` for a model that gives other activations."""
        ...


@dataclass(frozen=True, eq=False)  # tensors cannot be compared by ==
class Document:
    """A text, or a row of tokens.

    Attributes:
        content: The text, or the token ids.
        number: Its index in the data as the user has them, empty texts counted.
        start: Position in the user's row where the tokens begin, if padding before them was taken
            off.
        is_padded: Whether the tokens may begin or end with padding, because no mask came with them.
        corpus: The data that it comes from.
        stored: Where its activations are, if they were read before.
    """

    content: str | Int[Tensor, " _"]
    number: int
    start: int = 0
    is_padded: bool = True
    corpus: Corpus = field(default_factory=Corpus, repr=False)
    stored: Stored | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The document in messages, such as "Document 3"."""
        return self.corpus.name_of(self.number)

    def __len__(self) -> int:
        return len(self.content)

    @property
    def is_empty(self) -> bool:
        """Whether it has no token, or nothing but white space."""
        if isinstance(self.content, str):
            return not self.content.strip()
        return len(self.content) == 0

    @property
    def raw(self) -> bytes:
        """The content, white space included, with its length before it."""
        if isinstance(self.content, str):
            content = self.content.encode()
        else:
            content = self.content.cpu().numpy().tobytes()
        return len(content).to_bytes(8, "big") + content

    def digest(self, *, key: bytes = b"", n_bytes: int = 8) -> int:
        """A hash of the content, the same for texts that differ in white space alone.

        Args:
            key: Another key gives unrelated hashes.
            n_bytes: Size of the hash.
        """
        # Not Python's own hash, which differs from one run to the next.
        if self.stored is not None:
            if not key and n_bytes == 8:  # so that a split is that of the texts
                return self.stored.fingerprint
            content = self.stored.fingerprint.to_bytes(8, "big")
        elif isinstance(self.content, str):
            content = " ".join(self.content.split()).encode()
        else:
            content = self.content.numpy().tobytes()
        digest = hashlib.blake2b(content, digest_size=n_bytes, key=key).digest()
        return int.from_bytes(digest, "big")


Item = Document | str | Tensor
"""A document; or a bare text or row of tokens, which is numbered when it is read."""


def document_of(item: object, number: int, corpus: Corpus, column: str | None = None) -> Document:
    """A document from one item of the user's data.

    Args:
        item: A text, a row of token ids, a mapping that holds one of them, or a document.
        number: Index of the item.
        corpus: The data that the item comes from.
        column: Key of the text in a mapping; None: "text", or else "input_ids".

    Raises:
        DataError: If the item has none of these forms, or the text cannot be encoded.
    """
    if isinstance(item, Document):
        return item
    name = corpus.name_of(number)
    mask = None
    if isinstance(item, Mapping):
        column = _column_of(item, column, name)
        mask = item.get("attention_mask") if column == "input_ids" else None
        item = item[column]
    if isinstance(item, str):
        return Document(checked_text(item, name), number, corpus=corpus)
    row = _row(item, name)
    if mask is None:
        return Document(row, number, corpus=corpus)
    start, stop = attended_range(_row(mask, f"the mask of {name}", is_mask=True), row, name)
    return Document(row[start:stop], number, start, is_padded=False, corpus=corpus)


def _column_of(row: Mapping[str, object], column: str | None, name: str) -> str:
    candidates = ["text", "input_ids"] if column is None else [column]
    for candidate in candidates:
        if candidate in row:
            return candidate
    raise DataError(
        f"{name} has the fields {list(row)}, none of them named {candidates[0]!r}. "
        f"Pass rows with a text, or the texts themselves."
    )


def _row(item: object, name: str, *, is_mask: bool = False) -> Int[Tensor, " n"]:
    """A row of integers from a tensor, an array or a list."""
    # Bytes are a sequence of integers, too, and would pass for token ids.
    if isinstance(item, bytes | bytearray):
        raise DataError(
            f"{name} is {type(item).__name__}, expected a string. Decode it: text.decode('utf-8')."
        )
    row = item
    if isinstance(item, np.ndarray) and item.dtype.kind in "iub":
        row = torch.from_numpy(item.astype(bool if item.dtype.kind == "b" else np.int64))
    elif isinstance(item, Sequence) and all(isinstance(n, int | np.integer) for n in item):
        row = _tensor_of(item, name)
    # Token ids that are True or False are a mask in the wrong place.
    allowed = (*_INTEGERS, torch.bool) if is_mask else _INTEGERS
    if isinstance(row, Tensor) and row.ndim == 1 and row.dtype in allowed:
        return row.detach().cpu().long()
    raise DataError(
        f"{name} is {_described(item)}, expected a string. "
        f"Pass texts, or tokens as one integer tensor."
    )


def _tensor_of(numbers: Sequence[int], name: str) -> Tensor:
    """Whole numbers as a tensor: of booleans if any of them is True or False."""
    is_boolean = any(isinstance(n, bool) for n in numbers)
    try:
        return torch.tensor(list(numbers), dtype=torch.bool if is_boolean else torch.long)
    except (OverflowError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} has a token id beyond 64 bits. Check the ids.") from error


def _described(item: object) -> str:
    if isinstance(item, Tensor | np.ndarray):
        return f"{type(item).__name__} of {item.dtype} and shape {list(item.shape)}"
    if isinstance(item, float) and math.isnan(item):  # as pandas has it for a missing text
        return "NaN"
    return type(item).__name__


def attended_range(mask: Int[Tensor, " _"], row: Int[Tensor, " _"], name: str) -> tuple[int, int]:
    """Where the attended tokens of a row begin and end.

    Args:
        mask: 1 where there is a token, 0 on padding.
        row: The tokens.
        name: Name of the document, for messages.

    Returns:
        The first attended position and the one after the last; both 0 if nothing is attended.

    Raises:
        DataError: If mask and row differ in length, or the mask has other numbers or a hole.
    """
    if len(mask) != len(row):
        raise DataError(
            f"{name} has {len(row)} tokens and a mask of {len(mask)}. Pass a mask of that shape."
        )
    if not torch.isin(mask, torch.tensor([0, 1])).all():
        raise DataError(f"The mask of {name} has values other than 0 and 1. Pass 1 on tokens.")
    positions = mask.nonzero().flatten()
    if len(positions) == 0:
        return 0, 0
    start, stop = int(positions[0]), int(positions[-1]) + 1
    if stop - start != len(positions):
        hole = start + int(mask[start:stop].argmin())
        raise DataError(
            f"The mask of {name} is 0 at position {hole}, between tokens. Padding stands before or "
            f"after a text; leave out the tokens that the model should not see."
        )
    return start, stop


def integer_rows(tokens: Tensor, what: str = "tokens") -> Int[Tensor, "row pos"]:
    """Rows of whole numbers on the CPU; a vector is one row.

    Args:
        tokens: The numbers, of any integer type and on any device.
        what: What they are, for messages.

    Raises:
        DataError: If the tensor does not hold rows of whole numbers.
    """
    if tokens.layout != torch.strided or tokens.is_nested or tokens.is_meta:
        raise DataError(f"The {what} are a sparse, nested or meta tensor. Pass a dense one.")
    if tokens.ndim == 1:
        tokens = tokens.unsqueeze(0)
    if tokens.ndim != 2 or tokens.dtype not in _INTEGERS:
        raise DataError(
            f"The {what} are {tokens.dtype} of shape {list(tokens.shape)}; expected integers of "
            f"shape [row, position]."
        )
    return tokens.detach().cpu().long().contiguous()
